"""Trials: configurations on one drawn market, what they came to, and the two labels.

Entry points: `Trials` (what runs them), `period_trials` (the compiled period engine), `catastrophic`, `good`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from dolphin.backtest.period import PeriodRunner
from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.params import ParameterSet
from dolphin.engine.market import PeriodInputs

#: A catastrophe is a drawdown of marked equity above this fraction of its peak, or an ROI below this one.
DRAWDOWN_MAX: Final = 0.40
ROI_MIN: Final = -0.30


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """What k trials came to; arrays of shape (k,).

    roi is marked equity at the end over initial capital, minus 1; max_drawdown a fraction of the running
    peak of equity marked on every bar; trades closed ones.
    """

    roi: FloatArray
    max_drawdown: FloatArray
    trades: IntArray


class Trials(Protocol):
    """Runs configurations on a market; equal arguments give equal outcomes, bit for bit."""

    def __call__(self, market: PeriodInputs, sets: Sequence[ParameterSet]) -> Outcomes:
        """The outcomes in the order of the sets."""
        ...


def period_trials(vol_threshold: float) -> Trials:
    """Trials on the compiled period engine, with the volatility gate at vol_threshold."""

    def run(market: PeriodInputs, sets: Sequence[ParameterSet]) -> Outcomes:
        runner = PeriodRunner(market, vol_threshold=vol_threshold)
        totals = runner.run_many([(params, None) for params in sets]).totals
        start = np.array([params.initial_capital for params in sets])
        return Outcomes(
            roi=totals["equity"] / start - 1.0,
            max_drawdown=np.array(totals["max_drawdown"], dtype=np.float64),
            trades=np.array(totals["trades"], dtype=np.int64),
        )

    return run


def catastrophic(outcomes: Outcomes) -> BoolArray:
    """True for a trial that ended in a catastrophe; shape (k,)."""
    found: BoolArray = (outcomes.max_drawdown > DRAWDOWN_MAX) | (outcomes.roi < ROI_MIN)
    return found


def good(outcomes: Outcomes, market_of: IntArray) -> BoolArray:
    """True for the good half: no catastrophe, and an ROI of at least its own market's median; shape (k,).

    Compared within a market, because a market that nobody could gain in says nothing about a configuration.
    """
    middle = np.empty(len(market_of))
    for market in np.unique(market_of):
        own = market_of == market
        middle[own] = np.median(outcomes.roi[own])
    found: BoolArray = ~catastrophic(outcomes) & (outcomes.roi >= middle)
    return found
