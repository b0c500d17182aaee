"""Would signals that know nothing of prices have done as well? The null of circularly shifted signals.

The same engine runs over the same prices, with the whole signal record rolled by k bars against them. That
keeps everything of both sides (clusters of signals, volatility, gaps, the time a position is held) except
that one belongs to the other. Entry points: `shifts_for`, `circular_shift_null`.

Statistic: the mean over trades of net / notional, from runs without the order-book edge; it is centred by
the mean over all runs, the observed one among them, and divided by its own standard error. Net / notional
does not know how capital had grown, what leverage was allowed or how many trades there were; without the
edge, because that is a draw, not a market. It is divided by the standard error because signals come in wild
hours: a mean over wild hours scatters more than one over all hours, and would look special for that alone.

Invariants:

1. Shifts are evenly spaced over the whole record: with no shift they form a group under addition, and the
   p-value is exact where signals are independent of prices and the record is stationary.
2. No shift lies nearer to 0 than a stated distance, in either direction round the circle.
3. No chance: equal inputs give equal bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.errors import UsageError

#: The fast window of the signal (bars): nearer shifts still look at the same prices.
SIGNAL_MEMORY_BARS = 50


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShiftNull:
    """The observed statistic among those of shifted signals.

    `p_value` = (1 + number of shifts with a statistic at least the observed) / (1 + number of shifts).
    `observed`, `null` (n_shifts,): studentised, dimensionless. `mean_observed`, `mean_null` (n_shifts,): mean
    net / notional of a trade; NaN without a trade. `trades_observed`, `trades_null` (n_shifts,).
    """

    p_value: float
    observed: float
    null: FloatArray
    mean_observed: float
    mean_null: FloatArray
    trades_observed: int
    trades_null: IntArray
    shifts: IntArray
    distance_bars: int


def distance_for(max_hold_bars: int) -> int:
    """Bars that a shift keeps from 0 at least: the longest holding time and the signal's fast window."""
    return max_hold_bars + SIGNAL_MEMORY_BARS


def smallest_p(n_shifts: int) -> float:
    """The smallest p-value that so many shifts can give, whatever was observed: 1 / (1 + n_shifts).

    Where it is above the p-value that is asked for, the question cannot be asked.
    """
    return 1.0 / (1.0 + n_shifts)


def shifts_for(n_bars: int, n_shifts: int, distance_bars: int) -> IntArray:
    """Evenly spaced shifts, at most `n_shifts`, none nearer to 0 than `distance_bars`.

    Parameters
    ----------
    n_bars : int
        Bars of the record.
    n_shifts : int
        Wanted number, 1 or more; fewer where the distance does not allow them.
    distance_bars : int
        Smallest shift, 1 or more.

    Returns
    -------
    array of int, shape (m,), 1 <= m <= n_shifts
        Ascending, in [distance_bars, n_bars - distance_bars], rounded multiples of n_bars / (m + 1).

    Raises
    ------
    UsageError
        If not even one shift fits.

    References
    ----------
    Evenly spaced with 0 they are a subgroup of the rotations, for which the test is exact: Hemerik and Goeman
    (2018), Exact testing with random permutations, TEST 27.
    """
    if n_shifts < 1 or distance_bars < 1:
        raise UsageError(f"{n_shifts} shifts {distance_bars} bars from 0: expected 1 or more of both")
    fits = min(n_shifts, n_bars // distance_bars - 1)
    if fits < 1:
        raise UsageError(
            f"{n_bars} bars hold no shift that is {distance_bars} bars from 0 both ways; take a longer period"
        )
    return np.arange(1, fits + 1, dtype=np.int64) * n_bars // (fits + 1)


def circular_shift_null(
    trade_returns: Callable[[Sequence[int]], Sequence[FloatArray]], shifts: IntArray, distance_bars: int
) -> ShiftNull:
    """Run the observed signals and every shift of them, and say how special the observed ones are.

    Parameters
    ----------
    trade_returns : callable
        Gets the shifts (bars, the observed 0 first) and gives for each one the net / notional of every closed
        trade, shape (n_trades,), finite. One call, so that the runner may share work between them.
    shifts : array of int
        As from `shifts_for`.
    distance_bars : int
        Their distance from 0, kept with the answer.

    Returns
    -------
    ShiftNull
        A run with fewer than two trades has no spread to judge by; its statistic is 0, as of one that is
        average.

    Raises
    ------
    UsageError
        If the callable gives another number of answers than shifts.

    References
    ----------
    p-value: Phipson and Smyth (2010), Permutation p-values should never be zero, SAGMB 9(1). Studentised
    against unequal variances: Chung and Romano (2013), Exact and asymptotically robust permutation tests,
    Annals of Statistics 41(2).
    """
    runs = trade_returns([0, *(int(k) for k in shifts)])
    if len(runs) != len(shifts) + 1:
        raise UsageError(f"{len(runs)} runs for {len(shifts)} shifts and the observed one")
    counts = np.array([len(run) for run in runs], dtype=np.int64)
    means = np.array([run.mean() if len(run) else math.nan for run in runs])
    errors = np.array([run.std(ddof=1) / math.sqrt(len(run)) if len(run) > 1 else math.nan for run in runs])
    statistics = studentised(means, errors)
    return ShiftNull(
        p_value=p_value(statistics[0], statistics[1:]),
        observed=float(statistics[0]),
        null=statistics[1:],
        mean_observed=float(means[0]),
        mean_null=means[1:],
        trades_observed=int(counts[0]),
        trades_null=counts[1:],
        shifts=shifts,
        distance_bars=distance_bars,
    )


def studentised(means: FloatArray, errors: FloatArray) -> FloatArray:
    """(mean - mean of all means) / standard error, shape (n,); 0 where there is no error to divide by.

    The centre is over the runs that have both, the observed one among them, so that no run is treated
    differently from another.
    """
    usable = np.isfinite(means) & (errors > 0.0)
    out = np.zeros(len(means))
    if usable.any():
        out[usable] = (means[usable] - means[usable].mean()) / errors[usable]
    return out


def p_value(observed: float, null: FloatArray) -> float:
    """(1 + number of null values at or above the observed) / (1 + number of null values), in (0, 1]."""
    return (1.0 + float((null >= observed).sum())) / (1.0 + len(null))
