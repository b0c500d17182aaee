"""The fast certified path: exact 128-bit moments, digit sweeps in kernels, about a millisecond for four
windows.

1. Every window comes back with certified lambda and vector; what the kernels refuse goes to
   `dolphin.scan.oracle`.
2. The start vectors are the only memory besides the exact moments, and they change no published bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dolphin.domain.bar import FloatArray
from dolphin.domain.scan import OUTCOME_CLUSTERED, OUTCOME_OK, OUTCOME_ZERO_VARIANCE
from dolphin.scan.digits import U_DIGITS
from dolphin.scan.moments import MATRIX_DIGITS, Moments, principal_part
from dolphin.scan.oracle import covariance_matrix, solve_matrix
from dolphin.scan.solution import UnitVector, WindowSolution, digits_ball, identity_solution
from dolphin.scan.spectrum import (
    STATUS_OK,
    STATUS_SLOW,
    STATUS_START,
    STATUS_ZERO_VARIANCE,
    TARGET_BITS,
    dominant_pair,
    scratch_for,
    solve_window,
    unit_vector,
)


class FastSolver:
    """Rolling certified spectra of several windows. `n_assets` in 1..400; raises DataError outside."""

    def __init__(self, n_assets: int, windows: Sequence[int]) -> None:
        self.moments = Moments(n_assets, windows)
        self.n_assets = n_assets
        self.windows = tuple(windows)
        self._scratch = scratch_for(n_assets)
        self._start = [np.ones(n_assets) for _ in self.windows]
        self._all = np.arange(n_assets, dtype=np.int64)

    def push(self, returns: FloatArray) -> None:
        """Fold one row of returns in, shape (n_assets,)."""
        self.moments.push(returns)

    def solve(self, k: int) -> WindowSolution:
        """Certified solution of window k, which must be full."""
        n, w = self.n_assets, self.windows[k]
        t = self._scratch
        G, g = self.moments.G[k], self.moments.g[k]
        if n == 1:
            return self.slow(k)
        U = np.empty((n, U_DIGITS), np.int64)
        lam = np.empty(U_DIGITS, np.int64)
        vector = np.empty((2, n))
        diagonal = np.empty((n, MATRIX_DIGITS), np.int64)
        x = self._start[k]
        for cold in (False, True):
            if cold:  # the start followed another eigenvector: begin anew from all of them
                x[:] = _cold_start(t.Cf)
            status = solve_window(G, g, w, t, x, U, lam, vector[0], vector[1], diagonal)
            if status not in (STATUS_START, STATUS_SLOW):
                break
        if status == STATUS_OK:
            unit = UnitVector(
                n, self._all, int(t.info[1]), vector[0], vector[1], (U, diagonal, int(t.info[5]))
            )
            return WindowSolution(OUTCOME_OK, digits_ball(lam, int(t.info[0])), unit)
        if not np.isfinite(x).all():
            x[:] = 1.0
        if status == STATUS_ZERO_VARIANCE:
            return self._without_idle(k)
        return self.slow(k)

    def _without_idle(self, k: int) -> WindowSolution:
        """Zero-variance rule: solve on the assets with variance; the others add eigenvalues 1 and components
        0.

        `solve_window` has left M and Mf of the window in the scratch, untouched where it refuses for this
        reason.
        """
        t, n = self._scratch, self.n_assets
        idle = np.diagonal(t.Mf) == 0.0
        active = np.flatnonzero(~idle)
        zero = tuple(np.flatnonzero(idle).tolist())
        m = len(active)
        if m < 2:
            return identity_solution(n, zero, OUTCOME_CLUSTERED, OUTCOME_ZERO_VARIANCE)
        part = scratch_for(m)
        principal_part(t.M, t.Mf, active, part.M, part.Mf)
        U = np.empty((m, U_DIGITS), np.int64)
        lam = np.empty(U_DIGITS, np.int64)
        x = self._start[k][active]
        for cold in (False, True):
            if cold:
                x = _cold_start(part.Cf)
                principal_part(t.M, t.Mf, active, part.M, part.Mf)  # the first attempt may have folded M
            status = dominant_pair(part, x, 1.0, TARGET_BITS, U, lam)
            if status not in (STATUS_START, STATUS_SLOW):
                break
        if status != STATUS_OK:
            return self.slow(k)
        dense = np.empty((2, m))
        diagonal = np.empty((m, MATRIX_DIGITS), np.int64)
        n_used = int(part.info[5])
        unit_vector(U, part.M, n_used, dense[0], dense[1], diagonal)
        spread = np.zeros((2, n))
        spread[:, active] = dense
        self._start[k][active] = x
        unit = UnitVector(n, active, int(part.info[1]), spread[0], spread[1], (U, diagonal, n_used))
        return WindowSolution(OUTCOME_ZERO_VARIANCE, digits_ball(lam, int(part.info[0])), unit, zero)

    def slow(self, k: int, *, lag: int = 0, target_bits: int = TARGET_BITS) -> WindowSolution:
        """The oracle's answer for window k as it stood `lag` (0 or 1) bars ago."""
        return solve_matrix(covariance_matrix(self.moments.window_rows(self.windows[k], lag)), target_bits)


def _cold_start(Cf: FloatArray) -> FloatArray:
    vector: FloatArray = np.ascontiguousarray(np.linalg.eigh(Cf)[1][:, -1])
    return vector
