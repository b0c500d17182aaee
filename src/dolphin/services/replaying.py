"""A live run again, from what its journal says that it knew: the proof that nothing else decided.

Entry points: `replay`, `inputs_differing`.

What the organs and the operator said on a bar stands in its record. Fed through a fresh embedded session with
the stored scans they must give the same decisions, whatever happened to processes, grid and clock meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from dolphin.domain.codes import REASON_NONE
from dolphin.domain.decision import Decision
from dolphin.domain.errors import DataError
from dolphin.domain.scan import Scan, row_from_scan
from dolphin.host.readings import unpack
from dolphin.host.session import HOST_REFUSALS, Session
from dolphin.journal.books import readings_of
from dolphin.journal.store import Journal


def replay(journal: Journal, scans: Iterable[Scan], session: Session) -> str:
    """The digest (SHA-256, hex) of the journal's bars, decided anew by a fresh `session`.

    scans are those of the store, in any order; those that no bar stands for are left out. Raises DataError
    for a bar without its scan, InvariantError for the first bar that comes out otherwise.
    """
    wanted = {timestamp_ns for _, timestamp_ns, _ in journal.equity()}
    found = {
        scan.timestamp_ns: row_from_scan(scan)
        for scan in scans
        if scan.timestamp_ns in wanted and scan.assets == session.symbols
    }
    readings = dict(readings_of(journal))
    digest = hashlib.sha256()
    for journalled in journal.decisions():
        row = found.pop(journalled.timestamp_ns, None)
        if row is None:
            raise DataError(
                f"{journal.path}: scan {journalled.scan_number} of bar {journalled.bar_idx} is not in the "
                "store; restore arrow_scans/ to replay this run"
            )
        read = readings.get(journalled.bar_idx)
        books = None if read is None else unpack(read, len(session.symbols))
        digest.update(session.replay(row, journalled, books).decision.canonical())
    return digest.hexdigest()


def told(decision: Decision) -> tuple[int, float, float, int, float, str, int]:
    """What organs and operator said on a bar: posture, boost, beta, forewarner, haircut, books, refusal."""
    return (
        decision.posture,
        decision.boost,
        decision.beta,
        decision.mc_status,
        decision.esof_mult,
        decision.books,
        decision.reason if decision.reason in HOST_REFUSALS else REASON_NONE,
    )


def inputs_differing(first: Iterable[Decision], second: Iterable[Decision]) -> list[int]:
    """The bars on which two runs over one market were told different things, or of which one lacks.

    Bars are compared by their place.
    """
    a, b = list(first), list(second)
    differing = [
        x.bar_idx
        for x, y in zip(a, b, strict=False)
        if x.timestamp_ns != y.timestamp_ns or told(x) != told(y)
    ]
    return differing + [d.bar_idx for d in (a if len(a) > len(b) else b)[min(len(a), len(b)) :]]
