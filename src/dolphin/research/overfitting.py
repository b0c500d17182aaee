"""How much of a good backtest is the search for it: overfitting probability, deflated Sharpe, superiority.

Entry points: `backtest_overfitting` (PBO by CSCV), `deflated_sharpe`, `probabilistic_sharpe`,
`track_record_min`, `superiority` (SPA), `effective_trials`.

Invariants:

1. Sharpe ratios here are per observation (a day), never annualised.
2. The number of trials is the number that was run. An effective number of independent trials is an
   additional figure and never takes its place.
3. Returns are simple daily returns, dimensionless, shape (n_days,) or (n_days, n_trials), all finite.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.errors import UsageError
from dolphin.research.extra import library

_NORMAL = NormalDist()
_EULER = 0.5772156649015329
#: Blocks of CSCV: the paper's own choice, 12,870 ways to halve them.
BLOCKS_MAX = 16


def sharpe(returns: FloatArray) -> FloatArray:
    """Mean over standard deviation (population) of each column; 0 for a column that never moves.

    Parameters
    ----------
    returns : array, shape (n_days,) or (n_days, n_trials)
        Daily returns, dimensionless; NaN is not allowed and not looked for.

    Returns
    -------
    array, shape () or (n_trials,)
        Sharpe ratio per day, dimensionless. A constant column that is not 0 has no spread to judge it by: 0.

    References
    ----------
    Sharpe (1994), The Sharpe ratio.
    """
    mean = returns.mean(axis=0)
    spread = returns.std(axis=0)
    still = np.ptp(returns, axis=0) == 0.0
    return np.asarray(np.where(still, 0.0, mean / np.where(still, 1.0, spread)), dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Overfitting:
    """What CSCV found over all ways to halve the days.

    `pbo`: share of halvings in which the trial that was best on one half is at or below the median of the
    other, in [0, 1]. `logits`, `sharpe_in`, `sharpe_out`: shape (n_halvings,), of the chosen trial; a logit
    below 0 is below the median. `slope`: of sharpe_out on sharpe_in, negative where a better backtest means a
    worse future; NaN when sharpe_in never varies. `loss`: share of halvings in which the chosen trial loses
    money outside. `chosen`: how often each trial was the best inside, shape (n_trials,).
    """

    pbo: float
    loss: float
    slope: float
    n_blocks: int
    n_trials: int
    logits: FloatArray
    sharpe_in: FloatArray
    sharpe_out: FloatArray
    chosen: IntArray


def blocks_for(n_days: int) -> int:
    """The largest even number of blocks up to 16 that leaves at least two days in each; 0 below 8 days."""
    n_blocks = min(BLOCKS_MAX, n_days // 2) // 2 * 2
    return n_blocks if n_blocks >= 4 else 0


def backtest_overfitting(returns: FloatArray, n_blocks: int | None = None) -> Overfitting:
    """Probability of backtest overfitting by combinatorially symmetric cross-validation.

    The days are cut into blocks; every half of the blocks is once the sample on which the trial with the best
    Sharpe is chosen, and the other half is where that trial is ranked. Nothing is fitted, so no purge is
    needed; blocks of consecutive days keep most of the dependence inside.

    Parameters
    ----------
    returns : array, shape (n_days, n_trials)
        Daily returns of every trial that was run, at least two, dimensionless, finite.
    n_blocks : int, optional
        Even, 4 to 16; `blocks_for(n_days)` when left out. Blocks are as equal as possible.

    Returns
    -------
    Overfitting
        Ties inside go to the first trial; ties outside take the mean rank.

    Raises
    ------
    UsageError
        If there are fewer than two trials, a value that is not finite, or too few days for the blocks.

    References
    ----------
    Bailey, Borwein, Lopez de Prado and Zhu (2017), The probability of backtest overfitting, Journal of
    Computational Finance 20(4). Twin: `tests/unit/research/test_overfitting.py`.
    """
    n_days, n_trials = _checked(returns, 2)
    n_blocks = blocks_for(n_days) if n_blocks is None else n_blocks
    if n_blocks % 2 or not 4 <= n_blocks <= BLOCKS_MAX or n_days < 2 * n_blocks:
        raise UsageError(
            f"{n_days} days in {n_blocks} blocks: expected an even number of blocks, 4 to {BLOCKS_MAX}, of "
            "two days or more; overfitting needs 8 days at least"
        )
    parts = np.array_split(returns, n_blocks)
    size = np.array([len(part) for part in parts], dtype=np.float64)
    total = np.stack([part.sum(axis=0) for part in parts])
    square = np.stack([(part * part).sum(axis=0) for part in parts])
    halves = list(itertools.combinations(range(n_blocks), n_blocks // 2))
    inside = np.zeros((len(halves), n_blocks))
    inside[np.arange(len(halves))[:, None], np.array(halves)] = 1.0

    best_in, best_out, logits = (np.empty(len(halves)) for _ in range(3))
    chosen = np.zeros(n_trials, dtype=np.int64)
    still = np.ptp(returns, axis=0) == 0.0
    # A thousand halvings at once: 12,870 of them by hundreds of trials would be gigabytes.
    for start in range(0, len(halves), 1000):
        rows = slice(start, start + 1000)
        half = inside[rows]
        sharpe_in = _sharpe_of_sums(half @ size, half @ total, half @ square, still)
        sharpe_out = _sharpe_of_sums((1.0 - half) @ size, (1.0 - half) @ total, (1.0 - half) @ square, still)
        best = sharpe_in.argmax(axis=1)
        at = np.arange(len(half))
        mine = sharpe_out[at, best]
        below = (sharpe_out < mine[:, None]).sum(axis=1)
        equal = (sharpe_out == mine[:, None]).sum(axis=1)
        rank = (below + (equal + 1) / 2.0) / (n_trials + 1)
        best_in[rows], best_out[rows], logits[rows] = sharpe_in[at, best], mine, np.log(rank / (1.0 - rank))
        chosen += np.bincount(best, minlength=n_trials)
    varies = np.ptp(best_in) > 0.0
    return Overfitting(
        pbo=float((logits <= 0.0).mean()),
        loss=float((best_out < 0.0).mean()),
        slope=float(np.polyfit(best_in, best_out, 1)[0]) if varies else math.nan,
        n_blocks=n_blocks,
        n_trials=n_trials,
        logits=logits,
        sharpe_in=best_in,
        sharpe_out=best_out,
        chosen=chosen,
    )


def probabilistic_sharpe(returns: FloatArray, benchmark: float = 0.0) -> float:
    """Probability that the true Sharpe exceeds `benchmark`, given skewness and fat tails.

    Parameters
    ----------
    returns : array, shape (n_days,)
        Daily returns, at least 3, dimensionless, finite.
    benchmark : float
        Sharpe ratio per day to beat.

    Returns
    -------
    float
        In [0, 1]; NaN when the returns never move, or when the moments leave no positive variance.

    Raises
    ------
    UsageError
        If there are fewer than 3 days.

    References
    ----------
    Bailey and Lopez de Prado (2012), The Sharpe ratio efficient frontier, Journal of Risk 15(2).
    """
    moments = moments_of(returns)
    return probabilistic_sharpe_of(*moments, n_days=len(returns), benchmark=benchmark)


def probabilistic_sharpe_of(
    ratio: float, skew: float, kurtosis: float, *, n_days: int, benchmark: float = 0.0
) -> float:
    """`probabilistic_sharpe` from the moments: Sharpe per day, skewness, kurtosis (3 for a normal)."""
    spread = 1.0 - skew * ratio + (kurtosis - 1.0) / 4.0 * ratio * ratio
    if not spread > 0.0:
        return math.nan
    return _NORMAL.cdf((ratio - benchmark) * math.sqrt((n_days - 1) / spread))


def sharpe_max_expected(n_trials: int, variance: float) -> float:
    """The best Sharpe that `n_trials` independent trials without any skill are expected to show.

    Parameters
    ----------
    n_trials : int
        Trials that were run, 1 or more. One trial searches nothing: 0.
    variance : float
        Variance of the trials' Sharpe ratios per day, 0 or more.

    Returns
    -------
    float
        Sharpe ratio per day.

    Raises
    ------
    UsageError
        If n_trials < 1 or the variance is negative or not a number.

    References
    ----------
    Bailey and Lopez de Prado (2014), The deflated Sharpe ratio, Journal of Portfolio Management 40(5).
    """
    if n_trials < 1 or not variance >= 0.0:
        raise UsageError(
            f"{n_trials} trials with a Sharpe variance of {variance}: expected 1 or more, and >= 0"
        )
    if n_trials == 1:
        return 0.0
    first = _NORMAL.inv_cdf(1.0 - 1.0 / n_trials)
    second = _NORMAL.inv_cdf(1.0 - 1.0 / (n_trials * math.e))
    return math.sqrt(variance) * ((1.0 - _EULER) * first + _EULER * second)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeflatedSharpe:
    """A Sharpe ratio after the search for it. Ratios are per day.

    `probability`: that the true Sharpe exceeds `benchmark`, the best that the search would show without
    skill; NaN as in `probabilistic_sharpe`. `n_trials`: run. `variance`: of the trials' Sharpes.
    """

    probability: float
    sharpe: float
    benchmark: float
    n_trials: int
    variance: float


def deflated_sharpe(returns: FloatArray, trial_sharpes: FloatArray, n_trials: int) -> DeflatedSharpe:
    """Probability that a chosen trial's Sharpe is more than the luck of the search.

    Parameters
    ----------
    returns : array, shape (n_days,)
        Daily returns of the chosen trial, at least 3, dimensionless, finite.
    trial_sharpes : array, shape (m,)
        Sharpes per day of the trials that are at hand, for their variance (with m - 1).
    n_trials : int
        Trials that were ACTUALLY run, here and before, m or more.

    Returns
    -------
    DeflatedSharpe

    Raises
    ------
    UsageError
        If n_trials is smaller than the trials at hand, or there are fewer than 3 days.

    References
    ----------
    Bailey and Lopez de Prado (2014), The deflated Sharpe ratio, Journal of Portfolio Management 40(5).
    The paper's numerical example is a test.
    """
    if n_trials < len(trial_sharpes):
        raise UsageError(
            f"{n_trials} trials, but {len(trial_sharpes)} are at hand: count every one that was run"
        )
    variance = float(np.var(trial_sharpes, ddof=1)) if len(trial_sharpes) > 1 else 0.0
    benchmark = sharpe_max_expected(n_trials, variance)
    return DeflatedSharpe(
        probability=probabilistic_sharpe(returns, benchmark),
        sharpe=float(sharpe(returns)),
        benchmark=benchmark,
        n_trials=n_trials,
        variance=variance,
    )


def track_record_min(returns: FloatArray, benchmark: float = 0.0, confidence: float = 0.95) -> float:
    """Days needed before this Sharpe exceeds `benchmark` with that confidence, if it goes on as it was.

    Parameters
    ----------
    returns : array, shape (n_days,)
        Daily returns, at least 3, dimensionless, finite.
    benchmark : float
        Sharpe ratio per day to beat.
    confidence : float
        In (0.5, 1).

    Returns
    -------
    float
        Days; infinite when the Sharpe does not exceed the benchmark, NaN when the returns never move.

    Raises
    ------
    UsageError
        If there are fewer than 3 days or the confidence is out of range.

    References
    ----------
    Bailey and Lopez de Prado (2012), The Sharpe ratio efficient frontier, Journal of Risk 15(2).
    """
    if not 0.5 < confidence < 1.0:
        raise UsageError(f"confidence is {confidence}, expected 0.5 < x < 1")
    ratio, skew, kurtosis = moments_of(returns)
    spread = 1.0 - skew * ratio + (kurtosis - 1.0) / 4.0 * ratio * ratio
    if not spread > 0.0:
        return math.nan
    if ratio <= benchmark:
        return math.inf
    return 1.0 + spread * (_NORMAL.inv_cdf(confidence) / (ratio - benchmark)) ** 2


def moments_of(returns: FloatArray) -> tuple[float, float, float]:
    """(Sharpe per day, skewness, kurtosis) of at least 3 daily returns; NaN moments when nothing moves.

    Skewness and kurtosis are the sample's own (population form), as in the papers. Raises UsageError.
    """
    if len(returns) < 3:
        raise UsageError(f"{len(returns)} days: a Sharpe ratio is not judged on fewer than 3")
    if np.ptp(returns) == 0.0:
        return 0.0, math.nan, math.nan
    centred = returns - returns.mean()
    variance = float((centred**2).mean())
    return (
        float(sharpe(returns)),
        float((centred**3).mean()) / variance**1.5,
        float((centred**4).mean()) / variance**2,
    )


def effective_trials(returns: FloatArray) -> float:
    """About how many independent trials these correlated ones are worth: rho + (1 - rho) * n_trials.

    An additional figure for a reader who finds the number of trials harsh; nothing here is deflated with it.

    Parameters
    ----------
    returns : array, shape (n_days, n_trials)
        Daily returns, dimensionless, finite. Trials that never move are left out.

    Returns
    -------
    float
        1 to n_trials; rho is the mean correlation of all pairs, below 0 counted as 0.

    Raises
    ------
    UsageError
        If there is no trial or a value that is not finite.

    References
    ----------
    Bailey and Lopez de Prado (2014), The deflated Sharpe ratio, Journal of Portfolio Management 40(5),
    appendix on the number of independent trials.
    """
    _checked(returns, 1)
    moving = returns[:, np.ptp(returns, axis=0) > 0.0]
    n = moving.shape[1]
    if n < 2:
        return float(max(1, n))
    correlation = np.corrcoef(moving, rowvar=False)
    rho = max(0.0, (float(correlation.sum()) - n) / (n * (n - 1)))
    return float(rho + (1.0 - rho) * n)


def superiority(returns: FloatArray, *, seed: int, block_days: float = 1.0, reps: int = 2000) -> float:
    """p-value that the best of all trials earns more than nothing, the search accounted for.

    Parameters
    ----------
    returns : array, shape (n_days, n_trials)
        Daily returns of every trial, dimensionless, finite. Trials that never move cannot be the best one and
        are left out.
    seed : int
        Of the stationary bootstrap; equal seeds give equal bits.
    block_days : float
        Mean block length, 1 or more.
    reps : int
        Bootstrap samples.

    Returns
    -------
    float
        Hansen's consistent p-value in [0, 1]; NaN when no trial ever moves.

    Raises
    ------
    UsageError
        If the extra is missing, there is no trial or a value that is not finite.

    References
    ----------
    Hansen (2005), A test for superior predictive ability, Journal of Business and Economic Statistics 23(4);
    computed by arch's `SPA` against a benchmark of zero, with losses = -returns.
    """
    _checked(returns, 1)
    moving = returns[:, np.ptp(returns, axis=0) > 0.0]
    if not moving.shape[1]:
        return math.nan
    spa = library("arch.bootstrap").SPA(
        np.zeros(len(moving)),
        -moving,
        block_size=max(1, round(block_days)),
        reps=reps,
        seed=np.random.default_rng(seed),
    )
    spa.compute()
    return float(spa.pvalues["consistent"])


def _sharpe_of_sums(size: FloatArray, total: FloatArray, square: FloatArray, still: BoolArray) -> FloatArray:
    """Sharpe (n_halvings, n_trials) from the sums over each half's days; 0 where nothing moves."""
    mean = total / size[:, None]
    variance = square / size[:, None] - mean * mean
    # Rounding leaves a speck of variance where a trial rests for a whole half.
    flat = still[None, :] | (variance <= 1e-14 * (square / size[:, None]))
    return np.asarray(np.where(flat, 0.0, mean / np.sqrt(np.where(flat, 1.0, variance))), dtype=np.float64)


def _checked(returns: FloatArray, trials_min: int) -> tuple[int, int]:
    if returns.ndim != 2 or returns.shape[1] < trials_min or not returns.shape[0]:
        raise UsageError(
            f"daily returns have shape {returns.shape}, expected (days, {trials_min} or more trials)"
        )
    if not np.isfinite(returns).all():
        raise UsageError(
            "a daily return is not finite: leave out the trial whose capital ran out, and say so"
        )
    return returns.shape[0], returns.shape[1]
