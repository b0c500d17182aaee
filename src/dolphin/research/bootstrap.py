"""How far the headline figures could have been off: stationary bootstrap over whole days.

Entry points: `Days` (a run as days), `headline` (its figures), `intervals` (their confidence intervals).

Invariants:

1. The unit is a UTC day with everything that happened in it; blocks of consecutive days keep the dependence
   between days, and trades of one day are never torn apart.
2. Equal seeds give equal bits.
3. Under five days there is no interval, and the answer says so in words.

The intervals are percentile intervals. They need no formula for the standard error of a drawdown, follow any
monotone scale, and stay inside the figure's own range. BCa is not used: its acceleration comes from leaving
out one observation at a time, which is not defined for blocks of dependent days, and it fails for a figure
that is not smooth, as a drawdown. In a short sample percentile intervals are too narrow: the tests measure
that of 28 days, and `DAYS_ENOUGH` is where the answer begins to say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.errors import UsageError
from dolphin.research.extra import library
from dolphin.research.thresholds import DAYS_ENOUGH

#: Fewer days than this have no honest interval.
DAYS_MIN: Final = 5
#: Equity of a run whose capital is gone, USDT: a fraction of the day before exists all the same.
_EQUITY_MIN: Final = 1e-9
DAYS_A_YEAR: Final = 365.0

#: The figures, in the order in which they are told.
FIGURES: Final = ("roi", "profit_factor", "sharpe", "max_drawdown", "win_rate", "mean_net", "mean_return")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Days:
    """A run as days; every array has shape (n_days,).

    `returns`: change of marked equity over the day, as a fraction of the day before. `low` and `high`: lowest
    and highest equity of the day as a fraction of the last of the day before. `fall`: largest drop from a
    peak inside the day as a fraction of that peak; the start of the day is a peak too. `trades`, `wins`:
    closed on that day. `gross_profit`, `gross_loss`: sums of their nets above 0 and of -net of the others,
    USDT. `net_return`: sum over the trades of net / notional, dimensionless.
    """

    returns: FloatArray
    low: FloatArray
    high: FloatArray
    fall: FloatArray
    trades: FloatArray
    wins: FloatArray
    gross_profit: FloatArray
    gross_loss: FloatArray
    net_return: FloatArray

    def __post_init__(self) -> None:
        n_days = len(self.returns)
        for field in fields(self):
            values: FloatArray = getattr(self, field.name)
            if values.shape != (n_days,) or not np.isfinite(values).all():
                raise UsageError(
                    f"days: {field.name} has shape {values.shape}, expected ({n_days},), all finite"
                )

    def __len__(self) -> int:
        return len(self.returns)

    def take(self, days: IntArray) -> Days:
        """The days at these positions, in that order."""
        return Days(**{field.name: getattr(self, field.name)[days] for field in fields(self)})


def days_of_equity(equity: FloatArray, day_of_bar: IntArray, start: float) -> dict[str, FloatArray]:
    """`returns`, `low`, `high` and `fall` of `Days` from equity marked at every bar.

    Parameters
    ----------
    equity : array, shape (n_bars,)
        USDT, above 0.
    day_of_bar : array of int, shape (n_bars,)
        0, 1, 2, ... without a gap, never falling.
    start : float
        Capital before the first bar, USDT.
    """
    first = np.searchsorted(day_of_bar, np.arange(int(day_of_bar[-1]) + 1))
    parts = np.split(equity, first[1:])
    out = {name: np.empty(len(parts)) for name in ("returns", "low", "high", "fall")}
    before = start
    for day, part in enumerate(parts):
        peak = np.maximum(np.maximum.accumulate(part), before)
        out["returns"][day] = part[-1] / before - 1.0
        out["low"][day] = part.min() / before
        out["high"][day] = peak[-1] / before
        out["fall"][day] = (1.0 - part / peak).max()
        before = float(part[-1])
    return out


def days_of_run(
    equity: FloatArray,
    day_of_bar: IntArray,
    start: float,
    *,
    exit_day: IntArray,
    net: FloatArray,
    notional: FloatArray,
) -> Days:
    """A run as days.

    Parameters
    ----------
    equity, day_of_bar, start
        As in `days_of_equity`; equity at or below 0 counts as next to nothing.
    exit_day : array of int, shape (n_trades,)
        The day (as in `day_of_bar`) on which each closed trade ended.
    net, notional : array, shape (n_trades,)
        USDT.
    """
    n_days = int(day_of_bar[-1]) + 1

    def by_day(values: np.ndarray[Any, Any]) -> FloatArray:
        return np.bincount(exit_day, weights=values, minlength=n_days).astype(np.float64)

    floored: FloatArray = np.maximum(equity, _EQUITY_MIN)
    returns: FloatArray = net / notional
    return Days(
        **days_of_equity(floored, day_of_bar, start),
        trades=by_day(np.ones(len(net))),
        wins=by_day((net > 0.0) * 1.0),
        gross_profit=by_day(np.maximum(net, 0.0)),
        gross_loss=by_day(np.maximum(-net, 0.0)),
        net_return=by_day(returns),
    )


def headline(days: Days) -> dict[str, float | None]:
    """The headline figures of a run given as days.

    Returns
    -------
    dict
        `roi` (fraction, compounded), `profit_factor` (None without a loss), `sharpe` (daily returns,
        spread with n - 1, x sqrt(365); None under 3 days or without movement), `max_drawdown` (fraction,
        exact per bar), `win_rate` (of closed trades), `mean_net` (USDT a trade) and `mean_return`
        (mean of net / notional, every trade counted once whatever its size); these three None without a
        trade.
    """
    table = _figures(days, np.arange(len(days))[None, :])
    return {name: float(values[0]) if math.isfinite(values[0]) else None for name, values in table.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A figure and where it could have been. `low` and `high` are None where no interval is honest.

    `words` says why there is none, or what weakens it; empty otherwise. `below_zero` is the share of
    resamples at or below 0 (None without an interval). High ends may be infinite (a profit factor).
    """

    value: float | None
    low: float | None
    high: float | None
    below_zero: float | None
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Intervals:
    """Intervals of all figures, and how they were made."""

    figures: Mapping[str, Interval]
    n_days: int
    block_days: int
    reps: int
    level: float
    seed: int
    words: str


def block_length(returns: FloatArray) -> int:
    """Mean block length of the stationary bootstrap in days, chosen from the returns themselves.

    Parameters
    ----------
    returns : array, shape (n_days,)
        Daily returns, dimensionless, finite.

    Returns
    -------
    int
        1 to n_days // 3; 1 (days taken one by one) where the returns are too few or too still to choose.

    References
    ----------
    Politis and White (2004), Automatic block-length selection for the dependent bootstrap, Econometric
    Reviews 23(1), with the correction of Patton, Politis and White (2009), ibid. 28(4); computed by arch.
    """
    if len(returns) < 11 or np.ptp(returns) == 0.0:  # the rule divides by zero at ten
        return 1
    best = float(library("arch.bootstrap").optimal_block_length(returns)["stationary"].iloc[0])
    return max(1, min(math.ceil(best), len(returns) // 3)) if math.isfinite(best) else 1


def resamples(n_days: int, block_days: int, reps: int, seed: int) -> IntArray:
    """Day positions of `reps` stationary-bootstrap samples, shape (reps, n_days).

    References
    ----------
    Politis and Romano (1994), The stationary bootstrap, JASA 89(428); computed by arch.
    """
    made = library("arch.bootstrap").StationaryBootstrap(
        block_days, np.arange(n_days), seed=np.random.default_rng(seed)
    )
    out = np.empty((reps, n_days), dtype=np.int64)
    for row, (data, _) in enumerate(made.bootstrap(reps)):
        out[row] = data[0]
    return out


def intervals(
    days: Days, *, seed: int, reps: int = 2000, level: float = 0.95, block_days: int | None = None
) -> Intervals:
    """Percentile intervals of every headline figure.

    Parameters
    ----------
    days : Days
        The run.
    seed : int
        Of the resampling; equal seeds give equal bits.
    reps : int
        Resamples, 100 or more.
    level : float
        Nominal coverage in (0, 1).
    block_days : int, optional
        Mean block length; `block_length(days.returns)` when left out.

    Returns
    -------
    Intervals
        A figure without a value in more than one resample of ten (no trade, no loss) has no interval.

    Raises
    ------
    UsageError
        If the level or reps is out of range, or the extra is missing.

    References
    ----------
    Politis and Romano (1994); Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
    """
    if reps < 100 or not 0.0 < level < 1.0:
        raise UsageError(f"{reps} resamples at level {level}: expected 100 or more, and 0 < level < 1")
    values = headline(days)
    n_days = len(days)
    if n_days < DAYS_MIN:
        words = (
            f"{n_days} day{'' if n_days == 1 else 's'}: no interval is honest on fewer than {DAYS_MIN}, "
            "the figures stand alone"
        )
        bare = {
            name: Interval(value=value, low=None, high=None, below_zero=None, words=words)
            for name, value in values.items()
        }
        return Intervals(
            figures=bare, n_days=n_days, block_days=0, reps=0, level=level, seed=seed, words=words
        )
    block_days = block_length(days.returns) if block_days is None else block_days
    table = _figures(days, resamples(n_days, block_days, reps, seed))
    words = (
        f"{n_days} days are few: an interval that promises {100.0 * level:g} % keeps it less often, "
        "take it as wider"
        if n_days < DAYS_ENOUGH
        else ""
    )
    figures = {name: _interval(values[name], drawn, level, words) for name, drawn in table.items()}
    return Intervals(
        figures=figures, n_days=n_days, block_days=block_days, reps=reps, level=level, seed=seed, words=words
    )


def _interval(value: float | None, drawn: FloatArray, level: float, words: str) -> Interval:
    there = drawn[~np.isnan(drawn)]
    if len(there) < 0.9 * len(drawn):
        return Interval(
            value=value, low=None, high=None, below_zero=None,
            words="too often undefined when days are drawn again: no interval is honest",
        )  # fmt: skip
    # Order statistics, not interpolation: an infinite profit factor stays what it is.
    low, high = np.quantile(
        there, [round((1.0 - level) / 2.0, 12), round((1.0 + level) / 2.0, 12)], method="inverted_cdf"
    )
    return Interval(
        value=value, low=float(low), high=float(high), below_zero=float((there <= 0.0).mean()), words=words
    )


def _figures(days: Days, idx: IntArray) -> dict[str, FloatArray]:
    """Every figure for each row of day positions, shape (reps,); NaN where it does not exist."""
    returns = days.returns[idx]
    trades, wins = days.trades[idx].sum(axis=1), days.wins[idx].sum(axis=1)
    profit, loss = days.gross_profit[idx].sum(axis=1), days.gross_loss[idx].sum(axis=1)
    spread = returns.std(axis=1, ddof=1) if idx.shape[1] > 1 else returns[:, 0]
    still = (np.ptp(returns, axis=1) == 0.0) | (idx.shape[1] < 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(trades > 0, np.where(loss > 0.0, profit / loss, np.inf), np.nan)
        return {
            "roi": np.asarray(np.prod(1.0 + returns, axis=1) - 1.0),
            "profit_factor": factor,
            "sharpe": np.where(still, np.nan, returns.mean(axis=1) / spread * math.sqrt(DAYS_A_YEAR)),
            "max_drawdown": _drawdown(days, idx),
            "win_rate": np.where(trades > 0, wins / trades, np.nan),
            "mean_net": np.where(trades > 0, (profit - loss) / trades, np.nan),
            "mean_return": np.where(trades > 0, days.net_return[idx].sum(axis=1) / trades, np.nan),
        }


def _drawdown(days: Days, idx: IntArray) -> FloatArray:
    """Largest drop from a running peak, to the bar, over days joined in the order of each row."""
    equity = np.ones(len(idx))
    peak = np.ones(len(idx))
    worst = np.zeros(len(idx))
    for column in idx.T:
        worst = np.maximum(worst, np.maximum(days.fall[column], 1.0 - equity * days.low[column] / peak))
        peak = np.maximum(peak, equity * days.high[column])
        equity = equity * (1.0 + days.returns[column])
    return worst
