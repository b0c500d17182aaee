"""A published scan made again, from the rows of the price ring alone and by the flint path from scratch.

Entry points: `recertified`, `differences`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dolphin.domain.bar import Bar
from dolphin.domain.errors import DataError
from dolphin.domain.scan import OUTCOME_OK, OUTCOME_REJECTED, WINDOWS, Scan
from dolphin.scan.oracle import ScratchSolver
from dolphin.scan.ring import RingRow
from dolphin.scan.scanner import ROWS_NEEDED, Scanner


class _FromScratch(Scanner):
    def __init__(self, symbols: tuple[str, ...], *, path: str = "flint") -> None:
        super().__init__(symbols, path="flint")
        self._solver = ScratchSolver(len(symbols), WINDOWS)


def recertified(symbols: tuple[str, ...], rows: Sequence[RingRow], scan_number: int) -> Scan:
    """The scan of the last of `rows`, which are the ring's in order, at least 752.

    A price that was held back is not in the ring: its asset counts as missing, which is the same but for the
    word of the outcome. Raises DataError for too few rows or rows of another universe.
    """
    if len(rows) < ROWS_NEEDED:
        raise DataError(f"{len(rows)} rows of the ring, a scan needs {ROWS_NEEDED}")
    last = rows[-1]
    scanner = _FromScratch.restore(symbols, rows[-ROWS_NEEDED:-1])
    prices = np.where(last.fresh, last.prices, np.nan)
    step = scanner.update(Bar(last.timestamp_ns, prices), scan_number)
    if step.scan is None:
        raise DataError(f"the ring's row of {last.timestamp_ns} makes no scan: {step.refused}")
    return step.scan


def differences(published: Scan, again: Scan) -> tuple[str, ...]:
    """Names of the fields in which the two differ; the outcome `rejected` counts as ok, see `recertified`."""

    def told(scan: Scan, name: str) -> object:
        value = getattr(scan, name)
        if name == "outcome":
            return tuple(OUTCOME_OK if word == OUTCOME_REJECTED else word for word in value)
        return value

    return tuple(name for name in Scan.__struct_fields__ if told(published, name) != told(again, name))
