"""Power and size of the shifted-signal null, on whole synthetic markets, by the engine itself.

The markets are `quick_market`'s. Planted: an average asset falls by EDGE_BPS after each of about 13 onsets
a day. The gold set keeps about 13 bp of it in an average trade, a fifth of a trade's standard deviation
(66 bp); costs take 7 of them. Nobody sees such an edge in a day. Figures of the long tests: found in 95 of
100 markets; without an edge 8 of 200 are called significant (4 of 200 others that last three days).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from dolphin.backtest.period import PeriodRunner
from dolphin.domain.params import load_set
from dolphin.engine.market import PeriodInputs
from dolphin.market.quick_market import quick_market
from dolphin.research.null import ShiftNull
from dolphin.research.study import shift_null

#: Stated size of the planted edge, basis points after an onset, and days to find it in.
EDGE_BPS = 100.0
DAYS_EDGE = 6.0
DAYS_NONE = 1.5
SHIFTS = 99
ALPHA = 0.05


def null_of(seed: int, days: float, edge_bps: float) -> ShiftNull:
    """The null of the gold set over one market."""
    market = quick_market(seed, days, edge_bps)
    inputs = PeriodInputs(
        symbols=market.symbols,
        timestamp_ns=market.timestamp_ns,
        prices=market.prices,
        vel_div=market.vel_div,
        v50_velocity=market.v50,
        v750_velocity=market.v750,
        instability_50=market.instability_50,
    )
    return shift_null(PeriodRunner(inputs), load_set("gold"), n_shifts=SHIFTS, threads=1)


def called(seeds: range, days: float, edge_bps: float) -> int:
    """How many of the markets are called significant."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda seed: null_of(seed, days, edge_bps), seeds))
    assert all(len(null.null) == SHIFTS for null in found)
    return sum(null.p_value <= ALPHA for null in found)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_planted_edge_is_found_in_four_markets_of_five() -> None:
    assert called(range(100), DAYS_EDGE, EDGE_BPS) >= 80


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_without_an_edge_one_market_in_twenty_is_called_significant() -> None:
    """Binomial(200, 5 %) lies in 4 to 17 in 98 of 100 cases."""
    assert 4 <= called(range(3000, 3200), DAYS_NONE, 0.0) <= 17


def test_a_large_edge_is_found_in_a_few_days_and_none_is_not() -> None:
    """The short form: what the long tests measure, in a few markets."""
    assert called(range(4), 2.0, 4 * EDGE_BPS) == 4
    assert called(range(2000, 2008), 1.0, 0.0) <= 2
