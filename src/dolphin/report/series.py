"""Long series made short enough to draw, without losing a spike."""

from __future__ import annotations

import numpy as np

from dolphin.domain.bar import FloatArray, IntArray

#: Points that a drawn series keeps at most (two a bucket).
POINTS_MAX = 4000


def min_max_indices(values: FloatArray, points_max: int = POINTS_MAX) -> IntArray:
    """Positions of the smallest and the largest value of each bucket, ascending.

    Parameters
    ----------
    values : array, shape (n,)
        Any unit. A bucket takes its extremes from its finite values; a bucket without one keeps its first
        position, so that the gap stays a gap.
    points_max : int
        Upper bound of the answer's length, at least 4.

    Returns
    -------
    array of int, shape (m,), m <= points_max
        All positions when n <= points_max. The first and the last position are always kept, and so are the
        global minimum and maximum.
    """
    n = len(values)
    if n <= points_max:
        return np.arange(n, dtype=np.int64)
    size = -(-n // max(1, (points_max - 2) // 2))
    n_buckets = -(-n // size)
    padded = np.full(n_buckets * size, np.nan)
    padded[:n] = values
    table = padded.reshape(n_buckets, size)
    finite = np.isfinite(table)
    start = np.arange(n_buckets, dtype=np.int64) * size
    low = start + np.argmin(np.where(finite, table, np.inf), axis=1)
    high = start + np.argmax(np.where(finite, table, -np.inf), axis=1)
    keep = np.concatenate((np.array([0, n - 1], dtype=np.int64), low, high))
    return np.unique(keep).astype(np.int64)


def drawdown(equity: FloatArray) -> FloatArray:
    """Fraction below the highest equity so far: 0 at a new high, negative below it; NaN stays NaN.

    Parameters
    ----------
    equity : array, shape (n,)
        USDT, positive where it is a number.
    """
    if len(equity) == 0:
        return np.zeros(0)
    peak = np.fmax.accumulate(equity)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(peak > 0.0, equity / peak - 1.0, np.nan), dtype=np.float64)


def shown_range(
    values: FloatArray, levels: tuple[float, ...], share_hidden: float = 0.001
) -> tuple[float, float]:
    """Axis range with the middle of the values and every level inside; rare spikes stay outside.

    Parameters
    ----------
    values : array
        Any unit; values that are not finite are left out.
    levels : tuple of float
        Values that must be visible.
    share_hidden : float
        Share of the values, at either end, that may lie outside.
    """
    finite = values[np.isfinite(values)]
    bounds = list(levels)
    if len(finite):
        low, high = np.percentile(finite, [100.0 * share_hidden, 100.0 * (1.0 - share_hidden)])
        bounds += [float(low), float(high)]
    if not bounds:
        return (-1.0, 1.0)
    bottom, top = min(bounds), max(bounds)
    pad = 0.08 * (top - bottom) or 0.08 * abs(top) or 1.0
    return (bottom - pad, top + pad)
