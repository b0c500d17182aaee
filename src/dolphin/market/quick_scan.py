"""A float64 look at a whole panel: the largest correlation eigenvalue of a rolling window, bar after bar.

For data checks and calibration, where thousands of bars are judged at once and no trade depends on the last
bit. The scanner itself (`dolphin.scan`) is exact and certified; `tests/unit/market/test_passport.py` holds
the two together.

A window's moments are updated by the newest and the oldest bar and rebuilt every 512 bars, so that rounding
cannot add up. The eigenvalue comes from power iteration that starts at the previous bar's eigenvector.
"""

from __future__ import annotations

import numpy as np

from dolphin.domain.bar import FloatArray
from dolphin.domain.errors import DataError
from dolphin.kernel import kernel

REBUILD_BARS = 512
ITERATIONS_MAX = 400
TOLERANCE = 1e-12


def log_returns(prices: FloatArray) -> FloatArray:
    """Log returns of prices carried forward over NaN, shape (n_bars - 1, n_assets).

    A return that touches an asset without any price yet, or that moves beyond e, counts as 0, as in the
    scanner.
    """
    carried = carry_forward(prices)
    with np.errstate(invalid="ignore", divide="ignore"):
        returns = np.log(carried[1:] / carried[:-1])
    returns[~(np.abs(returns) <= 1.0)] = 0.0
    return np.asarray(returns, dtype=np.float64)


def carry_forward(prices: FloatArray) -> FloatArray:
    """Prices with every NaN replaced by the last price before it; leading NaN stay. Shape (n_bars,
    n_assets).
    """
    row = np.where(np.isnan(prices), 0, np.arange(len(prices))[:, None])
    np.maximum.accumulate(row, axis=0, out=row)
    return np.asarray(np.take_along_axis(prices, row, axis=0), dtype=np.float64)


def rolling_lambda_max(returns: FloatArray, window: int) -> FloatArray:
    """Largest eigenvalue of the correlation matrix of the last `window` returns.

    Parameters
    ----------
    returns : (n_bars, n_assets) float64, finite; dimensionless.
    window : number of returns, at least 2.

    Returns
    -------
    (n_bars,) float64 in [1, n_assets], NaN where the window is not full. An asset with zero variance in the
    window correlates with none. Raises DataError for a window below two or returns that are not finite.
    """
    if window < 2:
        raise DataError(f"window is {window} bars; a correlation needs at least two")
    if not np.isfinite(returns).all():
        raise DataError("returns hold a value that is not finite; carry prices forward first")
    out = np.full(len(returns), np.nan)
    if len(returns) >= window:
        rolling_lambda_max_kernel(np.ascontiguousarray(returns), window, out)
    return out


@kernel
def power_step(matrix: FloatArray, vector: FloatArray, work: FloatArray) -> float:
    """One power iteration in place: matrix @ vector, normed; returns the Rayleigh quotient.

    matrix (n, n), vector and work (n,), dimensionless; work is overwritten.
    """
    n = vector.shape[0]
    norm2 = 0.0
    rayleigh = 0.0
    for i in range(n):
        total = 0.0
        for j in range(n):
            total += matrix[i, j] * vector[j]
        work[i] = total
        norm2 += total * total
        rayleigh += total * vector[i]
    norm = np.sqrt(norm2)
    for i in range(n):
        vector[i] = work[i] / norm
    return rayleigh


@kernel
def rolling_lambda_max_kernel(returns: FloatArray, window: int, out: FloatArray) -> None:
    """Write lambda_max of each full window into out[t]; see `rolling_lambda_max`. No checks."""
    n_bars, n = returns.shape
    s1 = np.zeros(n)
    s2 = np.zeros((n, n))
    corr = np.zeros((n, n))
    scale = np.zeros(n)
    u = np.full(n, 1.0 / np.sqrt(float(n)))
    x = np.zeros(n)
    w = float(window)
    for t in range(window - 1, n_bars):
        if (t - window + 1) % REBUILD_BARS == 0:
            s1[:] = 0.0
            s2[:, :] = 0.0
            for k in range(t - window + 1, t + 1):
                for i in range(n):
                    r = returns[k, i]
                    s1[i] += r
                    for j in range(n):
                        s2[i, j] += r * returns[k, j]
        else:
            old = t - window
            for i in range(n):
                r = returns[t, i]
                q = returns[old, i]
                s1[i] += r - q
                for j in range(n):
                    s2[i, j] += r * returns[t, j] - q * returns[old, j]
        for i in range(n):
            v = w * s2[i, i] - s1[i] * s1[i]
            scale[i] = 1.0 / np.sqrt(v) if v > 1e-12 * w * s2[i, i] and v > 1e-30 else 0.0
        for i in range(n):
            for j in range(n):
                corr[i, j] = (w * s2[i, j] - s1[i] * s1[j]) * scale[i] * scale[j]
            corr[i, i] = 1.0
        value = 0.0
        for _ in range(ITERATIONS_MAX):
            rayleigh = power_step(corr, u, x)
            done = abs(rayleigh - value) <= TOLERANCE * rayleigh
            value = rayleigh
            if done:
                break
        for i in range(n):  # keep a little of every direction, or a crossing of eigenvalues would be missed
            u[i] += 1e-3 / np.sqrt(float(n)) if i % 2 == 0 else -0.7e-3 / np.sqrt(float(n))
        out[t] = value
