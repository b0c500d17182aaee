"""What an audit proves of the run as a whole: its bars are its market's, and it ended as its folder tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from dolphin.journal.bar_columns import ColumnJournal
from dolphin.journal.findings import AuditResult, BarsSeen, MarketRows
from dolphin.journal.store import Journal

FINISHED: Final = "finished"
#: Statuses that a run gets when it has ended in order; its digest and its summary are written before.
ENDED: Final = (FINISHED, "interrupted")


def check_rows(journal: Journal, rows: MarketRows, bars: BarsSeen, result: AuditResult) -> None:
    """Number, time and vel_div of every bar are the market's; a finished run has all, others the first."""
    n_rows = len(rows.scan_number)
    if result.bars > n_rows:
        result.find(f"{result.bars} bars, the market has {n_rows}")
    elif result.bars < n_rows and journal.meta().get("status") == FINISHED:
        result.find(f"the run is {FINISHED} with {result.bars} bars, the market has {n_rows}")
    for first, seen in _seen(journal, bars):
        for name, ours, theirs in zip(MarketRows._fields, seen, rows, strict=True):
            theirs = theirs[first : first + len(ours)]
            ours = np.ascontiguousarray(ours[: len(theirs)])
            other = np.flatnonzero(ours.view(np.int64) != np.ascontiguousarray(theirs).view(np.int64))
            if len(other):
                k = int(other[0])
                more = f" ({len(other) - 1} more differ)" if len(other) > 1 else ""
                result.find(
                    f"bar {first + k}: its {name} is {ours[k].item()!r},"
                    f" the market has {theirs[k].item()!r}{more}"
                )


def _seen(journal: Journal, bars: BarsSeen) -> Iterator[tuple[int, MarketRows]]:
    """(bar_idx of the first, rows) of the bars as the journal has them."""
    if isinstance(journal, ColumnJournal):
        for first, codes in journal.chunks():
            yield first, MarketRows(codes.scan_number, codes.timestamp_ns, codes.vel_div)
    elif bars.rows:
        numbers, stamps, signals = zip(*bars.rows, strict=True)
        yield 0, MarketRows(np.array(numbers, np.int64), np.array(stamps, np.int64), np.array(signals))


def check_summary(journal: Journal, told: Mapping[str, Any], result: AuditResult) -> None:
    """What summary.json tells of a run that has ended is what its journal holds."""
    status = journal.meta().get("status")
    if status not in ENDED:
        return
    for name, value in (
        ("scans", result.bars),
        ("trades", result.trades),
        ("capital", float(result.balance)),
        ("decisions_sha256", result.decisions_sha256),
        ("interrupted", status != FINISHED),
    ):
        if told.get(name) != value:
            result.find(f"summary.json tells {name} {told.get(name)!r}, the journal gives {value!r}")
