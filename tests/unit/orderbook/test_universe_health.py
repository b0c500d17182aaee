"""Health of five levels: the page's formulas by hand, every fault by name, references, the picker."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dolphin.orderbook import universe
from dolphin.orderbook.universe import Figures, Level, References, Top, figures_of, health_of, judge_top, pick

BIDS: list[Level] = [(100.0, 3.0), (99.9, 1.0), (98.0, 10.0)]
ASKS: list[Level] = [(100.2, 1.0), (100.3, 2.0)]


def top_of(bids: Sequence[Level], asks: Sequence[Level]) -> Top:
    top = judge_top(bids, asks)
    assert isinstance(top, Top)
    return top


def test_figures_are_the_formulas_of_the_page() -> None:
    top = top_of(BIDS, ASKS)
    # 98.0 lies beyond 1 % of mid: its volume counts, its depth does not.
    assert top == Top(100.0, 100.2, 14.0, 3.0, 300.0 + 99.9 + 100.2 + 200.6, 3, 2)
    health = health_of(top, 2.0 * top.depth_usd)
    assert health.spread_bps == pytest.approx(0.2 / 100.1 * 1e4)
    assert health.depth_1pct_usd == top.depth_usd
    assert health.depth_quality == health.fill_probability == pytest.approx(0.5 / 1.5)
    assert health.imbalance == pytest.approx(11.0 / 17.0)
    assert (health.best_bid, health.best_ask) == (100.0, 100.2)
    assert (health.n_bid_levels, health.n_ask_levels) == (3, 2)


def test_the_order_of_levels_changes_nothing() -> None:
    assert judge_top(BIDS[::-1], ASKS[::-1]) == judge_top(BIDS, ASKS)


@pytest.mark.parametrize(
    ("bids", "asks", "reason"),
    [
        ([], ASKS, universe.EMPTY),
        (BIDS, [], universe.EMPTY),
        ([(100.0 - k, 1.0) for k in range(6)], ASKS, universe.TOO_MANY),
        (BIDS, [(101.0 + k, 1.0) for k in range(6)], universe.TOO_MANY),
        ([(math.nan, 1.0)], ASKS, universe.NOT_FINITE),
        (BIDS, [(100.2, math.inf)], universe.NOT_FINITE),
        ([(1e308, 1e308)], [(1.001e308, 1.0)], universe.NOT_FINITE),
        ([(0.0, 1.0)], ASKS, universe.NOT_POSITIVE),
        ([(-1.0, 1.0)], ASKS, universe.NOT_POSITIVE),
        (BIDS, [(100.2, 0.0)], universe.NOT_POSITIVE),
        ([(100.0, 1.0), (100.0, 2.0)], ASKS, universe.REPEATED),
        (BIDS, [(100.0, 1.0)], universe.CROSSED),
        ([(100.3, 1.0)], [(100.2, 1.0)], universe.CROSSED),
    ],
)
def test_what_is_wrong_has_a_name(bids: list[Level], asks: list[Level], reason: str) -> None:
    assert reason in universe.REASONS
    assert judge_top(bids, asks) == reason


side = st.lists(
    st.tuples(st.floats(allow_nan=True, allow_infinity=True), st.floats(allow_nan=True)), max_size=7
)


@given(side, side, st.floats(0.0, 1e300))
def test_whatever_comes_in_is_named_or_in_range(
    bids: list[Level], asks: list[Level], reference: float
) -> None:
    top = judge_top(bids, asks)
    if isinstance(top, str):
        assert top in universe.REASONS
        return
    health = health_of(top, reference)
    assert 0.0 <= health.depth_quality <= 1.0
    assert -1.0 <= health.imbalance <= 1.0
    assert health.depth_1pct_usd >= 0.0
    assert 0.0 < health.spread_bps <= 20_000.0


@given(st.floats(1e-6, 1e6))
def test_prices_in_another_unit_have_the_same_health(scale: float) -> None:
    scaled = [[(price * scale, quantity / scale) for price, quantity in s] for s in (BIDS, ASKS)]
    here, there = health_of(top_of(BIDS, ASKS), 1_000.0), health_of(top_of(*scaled), 1_000.0)
    assert there.spread_bps == pytest.approx(here.spread_bps)
    assert there.depth_1pct_usd == pytest.approx(here.depth_1pct_usd)
    assert there.imbalance == pytest.approx(here.imbalance)


def test_quality_without_a_reference_and_beyond_numbers() -> None:
    top = top_of(BIDS, ASKS)
    assert health_of(top, 0.0).depth_quality == 0.0
    assert health_of(top, 5e-324).depth_quality == 1.0


def test_references_begin_with_the_first_depth_and_follow_slowly() -> None:
    references = References({"OLD": 5.0, "BAD": -1.0, "WORSE": math.nan, "FAR": math.inf})
    assert references.known == {"OLD": 5.0}
    assert references.fold("A", 0.0) == 0.0
    assert references.fold("A", 100.0) == 100.0
    assert references.fold("A", 200.0) == pytest.approx(101.0)
    assert references.fold("A", 0.0) == pytest.approx(99.99)
    for _ in range(2_000):
        references.fold("A", 300.0)
    assert references.known["A"] == pytest.approx(300.0)
    references.keep_only(["A"])
    assert set(references.known) == {"A"}


def test_figures_are_medians_over_the_snapshots() -> None:
    rows = {
        "A": [(1.0, 10.0, 0.4, -1.0), (3.0, 30.0, 0.6, 0.0), (2.0, 90.0, 0.5, 1.0)],
        "B": [(4.0, 5.0, 0.5, 0.0)],
    }
    assert figures_of(rows, 4) == [
        Figures("A", 2.0, 30.0, 0.5, 0.0, 0.75),
        Figures("B", 4.0, 5.0, 0.5, 0.0, 0.25),
    ]


def test_the_picker_takes_the_healthy_deepest_first_and_counts_the_others() -> None:
    def one(symbol: str, depth: float, spread: float = 1.0, present: float = 1.0) -> Figures:
        return Figures(symbol, spread, depth, 0.5, 0.0, present)

    figures = [
        one("THINUSDT", 9.0), one("BBUSDT", 50.0), one("AAUSDT", 50.0), one("WIDEUSDT", 99.0, 11.0),
        one("RAREUSDT", 99.0, 1.0, 0.4), one("USDCUSDT", 1e9), one("BTCUSDT", 1e6), one("NANUSDT", math.nan),
        one("NEWUSDT", 99.0, math.nan),
    ]  # fmt: skip
    rules = {"min_depth_usd": 10.0, "max_spread_bps": 10.0, "min_present_frac": 0.5}
    taken, left_out = pick(figures, **rules)
    assert [f.symbol for f in taken] == ["BTCUSDT", "AAUSDT", "BBUSDT"]
    assert left_out == {"thin": 2, "wide": 2, "seldom there": 1, "stablecoin": 1}
    taken, left_out = pick(figures, **rules, top=2)
    assert [f.symbol for f in taken] == ["BTCUSDT", "AAUSDT"]
    assert left_out["beyond the top"] == 1
    assert pick([], **rules, top=3) == ([], {})
