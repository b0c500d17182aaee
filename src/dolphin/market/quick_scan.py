"""A float64 look at a whole panel: the largest correlation eigenvalue of a rolling window, bar after bar.

For data checks and calibration, where thousands of bars are judged at once and no trade depends on the last
bit. The scanner itself (`dolphin.scan`) is exact and certified; `tests/unit/market/test_passport.py` and
`test_quick_market.py` hold the two together.

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
#: Relative change of the Rayleigh quotient that ends the iteration.
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
    return rolling_dominant(returns, window)[0]


def rolling_dominant(
    returns: FloatArray, window: int, tolerance: float = TOLERANCE
) -> tuple[FloatArray, FloatArray]:
    """Largest eigenvalue of each full window, and how its component changed since the bar before.

    Parameters
    ----------
    returns, window : as for `rolling_lambda_max`, which also names the errors.
    tolerance : relative change of the Rayleigh quotient that ends the iteration, above 0; the quotient's own
        error is a fraction of it, the eigenvector's about its root.

    Returns
    -------
    lambda_max (n_bars,), and instability (n_bars,): sqrt(l^2 + l'^2 - 2 l l' cos^2) / l' with the cosine
    between the two eigenvectors (spec 01). Both float64 and dimensionless, NaN where a window is not full.
    """
    if window < 2:
        raise DataError(f"window is {window} bars; a correlation needs at least two")
    if not np.isfinite(returns).all():
        raise DataError("returns hold a value that is not finite; carry prices forward first")
    values, changes = np.full(len(returns), np.nan), np.full(len(returns), np.nan)
    if len(returns) >= window:
        rolling_dominant_kernel(np.ascontiguousarray(returns), window, tolerance, values, changes)
    return values, changes


@kernel
def power_step(columns: FloatArray, vector: FloatArray, work: FloatArray) -> float:
    """One power iteration in place: matrix @ vector, normed; returns the Rayleigh quotient.

    columns (n, n) holds the matrix by columns (its transpose), vector and work (n,), dimensionless; work is
    overwritten. Each sum runs in index order, five columns a pass, so that the inner loop can become vector
    instructions without changing a bit.
    """
    n = vector.shape[0]
    for i in range(n):
        work[i] = 0.0
    j = 0
    while j + 5 <= n:
        a = vector[j]
        b = vector[j + 1]
        c = vector[j + 2]
        d = vector[j + 3]
        e = vector[j + 4]
        for i in range(n):
            work[i] = (
                work[i]
                + columns[j, i] * a
                + columns[j + 1, i] * b
                + columns[j + 2, i] * c
                + columns[j + 3, i] * d
                + columns[j + 4, i] * e
            )
        j += 5
    while j < n:
        a = vector[j]
        for i in range(n):
            work[i] = work[i] + columns[j, i] * a
        j += 1
    norm2 = 0.0
    rayleigh = 0.0
    for i in range(n):
        norm2 += work[i] * work[i]
        rayleigh += work[i] * vector[i]
    norm = np.sqrt(norm2)
    for i in range(n):
        vector[i] = work[i] / norm
    return rayleigh


@kernel
def rolling_dominant_kernel(
    returns: FloatArray, window: int, tolerance: float, values: FloatArray, changes: FloatArray
) -> None:
    """Write lambda_max and instability of each full window; see `rolling_dominant`. No checks."""
    n_bars, n = returns.shape
    s1 = np.zeros(n)
    s2 = np.zeros((n, n))
    corr = np.zeros((n, n))
    scale = np.zeros(n)
    u = np.full(n, 1.0 / np.sqrt(float(n)))
    before = np.zeros(n)
    x = np.zeros(n)
    w = float(window)
    for t in range(window - 1, n_bars):
        if (t - window + 1) % REBUILD_BARS == 0:
            s1[:] = 0.0
            s2[:, :] = 0.0
            for k in range(t - window + 1, t + 1):
                for j in range(n):
                    r = returns[k, j]
                    s1[j] += r
                    for i in range(n):
                        s2[j, i] += r * returns[k, i]
        else:
            old = t - window
            for j in range(n):
                r = returns[t, j]
                q = returns[old, j]
                s1[j] += r - q
                for i in range(n):
                    s2[j, i] += r * returns[t, i] - q * returns[old, i]
        for i in range(n):
            v = w * s2[i, i] - s1[i] * s1[i]
            scale[i] = 1.0 / np.sqrt(v) if v > 1e-12 * w * s2[i, i] and v > 1e-30 else 0.0
        for j in range(n):
            total = s1[j]
            inverse = scale[j]
            for i in range(n):
                corr[j, i] = (w * s2[j, i] - s1[i] * total) * scale[i] * inverse
            corr[j, j] = 1.0
        value = 0.0
        for _ in range(ITERATIONS_MAX):
            rayleigh = power_step(corr, u, x)
            done = abs(rayleigh - value) <= tolerance * rayleigh
            value = rayleigh
            if done:
                break
        values[t] = value
        if t >= window:
            last = values[t - 1]
            cosine = 0.0
            for i in range(n):
                cosine += u[i] * before[i]
            square = value * value + last * last - 2.0 * value * last * cosine * cosine
            changes[t] = np.sqrt(square) / last if square > 0.0 else 0.0
        for i in range(n):  # keep a little of every direction, or a crossing of eigenvalues would be missed
            before[i] = u[i]
            u[i] += 1e-3 / np.sqrt(float(n)) if i % 2 == 0 else -0.7e-3 / np.sqrt(float(n))
