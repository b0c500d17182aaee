"""The float64 twin of the certified scan: numpy correlation and `eigh`. Guard and research path.

1. It certifies nothing (`certified_bits` is 0) and its last bits belong to the machine's linear algebra
   library.
2. A window's arithmetic sees its returns in time order in a fresh array, so it does not depend on the history
   before.
3. The same named outcomes: an asset with constant returns has zero variance; a relative gap below 2**-30 is
   clustered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dolphin.domain.bar import FloatArray
from dolphin.domain.clock import NS_PER_S
from dolphin.domain.scan import OUTCOME_CLUSTERED, OUTCOME_OK, OUTCOME_ZERO_VARIANCE
from dolphin.scan.spectrum import CLUSTER_BITS


@dataclass(frozen=True, slots=True)
class FloatSolution:
    """One window in float64: lambda_max (dimensionless) and the unit eigenvector, None when clustered."""

    outcome: str
    lam: float
    vector: FloatArray | None
    zero_variance: tuple[int, ...] = ()


def dominant(returns: FloatArray) -> FloatSolution:
    """Dominant eigenpair of the correlation matrix of `returns`, shape (n_bars, n_assets)."""
    n_assets = returns.shape[1]
    moving = np.ptp(returns, axis=0) > 0.0
    zero = tuple(np.flatnonzero(~moving).tolist())
    active = np.flatnonzero(moving)
    ok = OUTCOME_ZERO_VARIANCE if zero else OUTCOME_OK
    if len(active) < 2:
        if n_assets == 1:
            return FloatSolution(ok, 1.0, np.ones(1), zero)
        return FloatSolution(OUTCOME_CLUSTERED, 1.0, None, zero)
    centred = returns[:, active] - returns[:, active].mean(axis=0)
    standard = centred / np.sqrt((centred * centred).sum(axis=0))
    C = standard.T @ standard
    values, vectors = np.linalg.eigh(C)
    lam, second = float(values[-1]), float(values[-2])
    if zero:
        second = max(second, 1.0)
    if lam - second <= 2.0**-CLUSTER_BITS * lam:
        return FloatSolution(OUTCOME_CLUSTERED, lam, None, zero)
    vector = np.zeros(n_assets)
    vector[active] = vectors[:, -1]
    return FloatSolution(ok, lam, vector, zero)


class FloatSolver:
    """Ring of float64 returns and the spectra of its windows."""

    def __init__(self, n_assets: int, windows: Sequence[int]) -> None:
        self.windows = tuple(windows)
        self._capacity = max(windows)
        # Twice the ring: the newest rows are always one contiguous block.
        self._rows = np.zeros((2 * self._capacity, n_assets))
        self._end = 0

    def push(self, returns: FloatArray) -> None:
        """Fold one row of returns in, shape (n_assets,)."""
        if self._end == len(self._rows):
            self._rows[: self._capacity] = self._rows[self._capacity :]
            self._end = self._capacity
        self._rows[self._end] = returns
        self._end += 1

    def solve(self, k: int) -> FloatSolution:
        """Float64 solution of window k, which must be full."""
        return dominant(self._rows[self._end - self.windows[k] : self._end].copy())


def columns(
    new: FloatSolution, old: FloatSolution, dt_ns: int
) -> tuple[float, float, float | None, float | None]:
    """(lambda_max, velocity in 1/s, rotation in radians, instability) of one window."""
    speed = (new.lam - old.lam) * NS_PER_S / dt_ns
    if new.vector is None or old.vector is None:
        return new.lam, speed, None, None
    cos = float(new.vector @ old.vector)
    rest = new.vector - cos * old.vector
    sin = float(np.sqrt(rest @ rest))
    change = math.sqrt((new.lam - old.lam) ** 2 + 2.0 * new.lam * old.lam * sin * sin) / old.lam
    return new.lam, speed, math.atan2(sin, abs(cos)), change


def loadings(solution: FloatSolution) -> tuple[float, ...] | None:
    """Unit eigenvector with sum >= 0, or None when clustered."""
    v = solution.vector
    if v is None:
        return None
    return tuple((v if float(v.sum()) >= 0.0 else 0.0 - v).tolist())
