"""A published scan made again, from the prices of the ring alone and by the flint path from scratch.

Entry points: `recertified`, `differences`.

Nothing of the fast path is used: returns come from the ring's prices by ball arithmetic, moments are summed
anew, spectra are flint's. What the ring is believed in is which prices were taken, and when.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from dolphin.domain.bar import BoolArray, FloatArray
from dolphin.domain.errors import DataError
from dolphin.domain.scan import WINDOWS, Scan
from dolphin.scan.oracle import ScratchSolver
from dolphin.scan.returns import REJECTED, correctly_rounded_log
from dolphin.scan.ring import RingRow
from dolphin.scan.scanner import ROWS_NEEDED, Scanner


class _FromScratch(Scanner):
    def __init__(self, symbols: tuple[str, ...], *, path: str = "flint") -> None:
        super().__init__(symbols, path="flint")
        self._solver = ScratchSolver(len(symbols), WINDOWS)

    def scan_after(self, before: _FromScratch, rejected: BoolArray, scan_number: int) -> Scan:
        """The scan of this scanner's last row, `before` having stopped a row earlier."""
        if self._certified is None or before._certified is None:
            raise DataError("too few rows make no scan")
        self._what[rejected] = REJECTED
        dt_ns = (self.timestamp_ns or 0) - (before.timestamp_ns or 0)
        return self._certified_scan(before._certified, dt_ns, scan_number)[0]


def recertified(symbols: tuple[str, ...], rows: Sequence[RingRow], scan_number: int) -> Scan:
    """The scan of the last of `rows`, which are the ring's in order, at least 752.

    Raises DataError for too few rows or rows of another universe.
    """
    if len(rows) < ROWS_NEEDED:
        raise DataError(f"{len(rows)} rows of the ring, a scan needs {ROWS_NEEDED}")
    window = list(rows[-ROWS_NEEDED:])
    # The first row is a base only: its own return lies before the window.
    made = [window[0]]
    for old, new in itertools.pairwise(window):
        returns = exact_returns(old.prices, new.prices)
        made.append(RingRow(new.timestamp_ns, new.prices, returns, new.fresh, new.rejections))
    before = _FromScratch.restore(symbols, made[:-1])
    after = _FromScratch.restore(symbols, made)
    # A price that was held back leaves its run one longer; one that was missing leaves it as it was.
    rejected = window[-1].rejections == window[-2].rejections + 1
    return after.scan_after(before, rejected, scan_number)


def exact_returns(base: FloatArray, prices: FloatArray) -> FloatArray:
    """Correctly rounded log-returns between two rows of last known prices (USDT, NaN for none), (n_assets,).

    0 for a carried price, a first price, and a new base, whose ratio is beyond e.
    """
    returns = np.zeros(len(prices))
    for i, (b, p) in enumerate(zip(base.tolist(), prices.tolist(), strict=True)):
        if b == b and p == p and p != b and b < 4.0 * p and p < 4.0 * b:
            value = correctly_rounded_log(p / b)
            returns[i] = value if -1.0 < value < 1.0 else 0.0
    return returns


def differences(published: Scan, again: Scan) -> tuple[str, ...]:
    """Names of the fields in which the two differ."""
    return tuple(name for name in Scan.__struct_fields__ if getattr(published, name) != getattr(again, name))
