"""Compile every kernel of the scan before the first live bar, the rare routes included."""

from __future__ import annotations

import numpy as np

from dolphin.scan import features
from dolphin.scan.fast import FastSolver
from dolphin.scan.returns import bar_returns

#: Returns of three assets over four bars: correlated enough for a dominant eigenvalue far from the second.
_BARS = np.array(
    [[0.01, 0.011, -0.003], [-0.02, -0.019, 0.004], [0.005, 0.004, 0.001], [0.015, 0.016, -0.002]], np.float64
)


def warm() -> None:
    """Run each kernel once on a toy universe. Needs seconds on a cold compiler cache, milliseconds on a warm
    one.
    """
    prices, base = np.array([1.25, 1.0, 3.0]), np.array([1.0, 1.0, 2.0])
    bar_returns(prices, base, np.zeros(3, np.int64), np.zeros(3), np.zeros(3, np.int64))
    for idle in (False, True):
        solver, before = FastSolver(3, (3,)), None
        for k, row in enumerate(_BARS):
            solver.push(np.where([False, False, idle], 0.0, row))
            if k < 2:
                continue
            vector = solver.solve(0).vector
            if vector is not None and before is not None:
                features.loadings(vector)
                features.angle(vector, before, full=False)
            before = vector
