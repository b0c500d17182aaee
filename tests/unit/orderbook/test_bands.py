"""Levels to bands: by hand, against the exact twin, and what more of a book must not change."""

from __future__ import annotations

import math
from typing import Any

import bands_twin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dolphin.kernel import plain
from dolphin.orderbook import bands as module
from dolphin.orderbook.bands import are_levels, book_snapshot
from dolphin.orderbook.snapshot import REACHES_BPS, BookSnapshot

Level = tuple[float, float]


def snap(bids: list[Level], asks: list[Level], **more: Any) -> BookSnapshot | None:
    def arrays(levels: list[Level]) -> tuple[Any, Any]:
        table = np.array(levels, dtype=np.float64).reshape(-1, 2)
        return np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1])

    return book_snapshot(77, arrays(bids), arrays(asks), **more)


def seen(bids: list[Level], asks: list[Level], **more: Any) -> BookSnapshot:
    snapshot = snap(bids, asks, **more)
    assert snapshot is not None
    return snapshot


def test_a_book_by_hand() -> None:
    # Mid is 1000; a band is 10 wide, its far end included.
    bids = [(999.0, 1.0), (990.0, 2.0), (989.0, 4.0), (960.0, 8.0), (950.0, 16.0), (949.0, 32.0)]
    asks = [(1001.0, 1.0), (1010.0, 2.0), (1025.0, 4.0), (1060.0, 8.0)]
    s = seen(bids, asks, pushed_ns=5, push_seq=6)
    assert s.bid_depth.tolist() == [3.0, 4.0, 0.0, 8.0, 16.0]
    assert s.bid_notional.tolist() == [999.0 + 1980.0, 3956.0, 0.0, 7680.0, 15200.0]
    assert s.ask_depth.tolist() == [3.0, 0.0, 4.0, 0.0, 0.0]
    assert s.ask_notional.tolist() == [1001.0 + 2020.0, 0.0, 4100.0, 0.0, 0.0]
    assert (s.bid_coverage_bps, s.ask_coverage_bps) == (510.0, 600.0)
    assert (s.visible_bps, s.visible_bid, s.visible_ask) == (100.0, 2979.0, 3021.0)
    assert (s.timestamp_ns, s.pushed_ns, s.push_seq) == (77, 5, 6)


def test_a_side_that_ends_before_a_band_does_leaves_it_unknown() -> None:
    s = seen([(999.0, 1.0), (985.0, 2.0)], [(1001.0, 1.0), (1009.0, 2.0)])
    assert s.bid_depth[0] == 1.0
    assert np.isnan(s.bid_depth[1:]).all()
    assert np.isnan(s.bid_notional[1:]).all()
    assert np.isnan(s.ask_notional).all()
    assert np.isnan(s.ask_depth).all()
    # The asks end at 90 bps, so both sides are counted within 70.
    assert (s.visible_bps, s.visible_bid, s.visible_ask) == (70.0, 999.0, 1001.0)


def test_a_side_that_ends_with_a_band_knows_it() -> None:
    s = seen([(999.0, 1.0), (990.0, 2.0)], [(1001.0, 1.0), (1020.0, 2.0)])
    assert s.bid_depth.tolist()[:1] == [3.0]
    assert s.ask_depth.tolist()[:2] == [1.0, 2.0]
    assert np.isnan(s.bid_depth[1:]).all()
    assert np.isnan(s.ask_depth[2:]).all()
    assert s.visible_bps == 100.0


def test_levels_beyond_the_edge_are_not_taken_for_a_known_book() -> None:
    bids = [(999.0, 1.0), (996.0, 1.0), (940.0, 500.0)]
    s = seen(bids, [(1001.0, 1.0)], bid_edge=996.0, ask_edge=math.inf)
    assert np.isnan(s.bid_notional).all()
    assert s.ask_notional.tolist() == [1001.0, 0.0, 0.0, 0.0, 0.0]
    assert (s.bid_coverage_bps, s.ask_coverage_bps) == (40.0, math.inf)
    assert (s.visible_bps, s.visible_bid, s.visible_ask) == (40.0, 999.0 + 996.0, 1001.0)


def test_a_mid_that_has_gone_past_the_edge_sees_nothing() -> None:
    s = seen([(999.0, 1.0)], [(1001.0, 1.0)], bid_edge=1020.0, ask_edge=math.inf)
    assert (s.bid_coverage_bps, s.visible_bps, s.visible_bid, s.visible_ask) == (0.0, 0.0, 0.0, 0.0)
    assert np.isnan(s.bid_notional).all()
    s = seen([(999.0, 1.0)], [(1001.0, 1.0)], bid_edge=-math.inf, ask_edge=900.0)
    assert (s.ask_coverage_bps, s.visible_bps) == (0.0, 0.0)
    assert s.bid_notional.tolist() == [999.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("bids", "asks"),
    [([], [(1.0, 1.0)]), ([(1.0, 1.0)], []), ([(2.0, 1.0)], [(2.0, 1.0)]), ([(3.0, 1.0)], [(2.0, 1.0)])],
)
def test_without_a_mid_there_are_no_bands(bids: list[Level], asks: list[Level]) -> None:
    assert snap(bids, asks) is None


sizes = st.integers(1, 1_000)
#: Whole numbers: their sums and products are exact in float64, and no distance is close to an end of a band
#: without being on it.
sides = st.dictionaries(st.integers(1, 700), sizes, min_size=1, max_size=40)
edges = st.one_of(st.none(), st.integers(-20, 800))


def book(bids: dict[int, int], asks: dict[int, int], centre: int) -> tuple[list[Level], list[Level]]:
    return (
        [(float(centre - d), float(q)) for d, q in sorted(bids.items()) if d < centre],
        [(float(centre + d), float(q)) for d, q in sorted(asks.items())],
    )


def edge_args(centre: int, bid: int | None, ask: int | None) -> dict[str, float]:
    return {
        "bid_edge": -math.inf if bid is None else float(centre - bid),
        "ask_edge": math.inf if ask is None else float(centre + ask),
    }


def both(snapshot: BookSnapshot) -> list[tuple[Any, Any]]:
    return [
        (snapshot.bid_notional, snapshot.bid_depth),
        (snapshot.ask_notional, snapshot.ask_depth),
    ]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(sides, sides, st.sampled_from([1_000, 10_000, 50_000]), edges, edges)
def test_bands_are_those_of_the_exact_twin(
    bids: dict[int, int], asks: dict[int, int], centre: int, bid: int | None, ask: int | None
) -> None:
    b, a = book(bids, asks, centre)
    edge = edge_args(centre, bid, ask)
    s = seen(b, a, **edge)
    twin = bands_twin.bands(
        b, a, (None if bid is None else edge["bid_edge"], None if ask is None else edge["ask_edge"])
    )
    assert twin is not None
    for side, (notional, depth) in enumerate(both(s)):
        for ours, exact in ((notional, twin.notional[side]), (depth, twin.depth[side])):
            assert [None if np.isnan(x) else x for x in ours.tolist()] == exact
    for ours, exact in zip((s.bid_coverage_bps, s.ask_coverage_bps), twin.coverage_bps, strict=True):
        assert ours == math.inf if exact is None else ours == pytest.approx(float(exact), rel=1e-12)
    assert s.visible_bps == twin.visible_bps
    assert (s.visible_bid, s.visible_ask) == twin.visible


@settings(max_examples=150, deadline=None, derandomize=True)
@given(sides, sides, sides, sides, st.integers(0, 200), st.integers(0, 200))
def test_a_filling_book_reads_the_same_within_one_reach(
    bids: dict[int, int], asks: dict[int, int], more_bids: dict[int, int], more_asks: dict[int, int],
    bid: int, ask: int,
) -> None:  # fmt: skip
    """Levels that turn up beyond the edge change nothing at all."""
    centre = 10_000
    bids, asks = {**bids, 1: 1}, {**asks, 1: 1}
    before = seen(*book(bids, asks, centre), **edge_args(centre, bid, ask))
    filled = (
        {**bids, **{bid + d: q for d, q in more_bids.items()}},
        {**asks, **{ask + d: q for d, q in more_asks.items()}},
    )
    filled[0][1] = filled[1][1] = 1
    after = seen(*book(*filled, centre), **edge_args(centre, bid, ask))
    for (a, b), (c, d) in zip(both(before), both(after), strict=True):
        assert np.array_equal(a, c, equal_nan=True)
        assert np.array_equal(b, d, equal_nan=True)
    assert (before.visible_bps, before.visible_bid, before.visible_ask) == (
        after.visible_bps, after.visible_bid, after.visible_ask,
    )  # fmt: skip


@settings(max_examples=100, deadline=None, derandomize=True)
@given(sides, sides, edges, edges)
def test_more_coverage_makes_more_known_and_changes_nothing_that_was(
    bids: dict[int, int], asks: dict[int, int], bid: int | None, ask: int | None
) -> None:
    part = seen(*book(bids, asks, 10_000), **edge_args(10_000, bid, ask))
    whole = seen(*book(bids, asks, 10_000), **edge_args(10_000, None, None))
    for (a, b), (c, d) in zip(both(part), both(whole), strict=True):
        for ours, all_of_it in ((a, c), (b, d)):
            assert np.isfinite(all_of_it).all()
            known = ~np.isnan(ours)
            assert np.array_equal(ours[known], all_of_it[known])
    assert part.visible_bps <= whole.visible_bps == REACHES_BPS[-1]
    assert part.visible_bps in (0.0, *REACHES_BPS)
    assert part.visible_bid <= whole.visible_bid
    assert whole.visible_bid == whole.bid_notional[0]
    assert whole.visible_ask == whole.ask_notional[0]


def test_plain_and_compiled_kernels_give_the_same_bits() -> None:
    chance = np.random.default_rng(5)
    prices = 100.0 + np.cumsum(chance.uniform(0.001, 0.02, 1_000))
    quantities = chance.uniform(0.001, 50.0, 1_000)
    for coverage in (0.0, 130.0, math.inf):
        ours, theirs = np.empty((2, 5)), np.empty((2, 5))
        module.side_bands(prices, quantities, 99.99, coverage, ours[0], ours[1])
        plain(module.side_bands)(prices, quantities, 99.99, coverage, theirs[0], theirs[1])
        assert ours.tobytes() == theirs.tobytes()
    assert module.notional_within(prices, quantities, 99.99, 70.0) == plain(module.notional_within)(
        prices, quantities, 99.99, 70.0
    )


@pytest.mark.parametrize("host", [plain, lambda kernel: kernel])
def test_levels_are_finite_and_above_zero(host: Any) -> None:
    sound = host(are_levels)
    good = np.array([1.0, 5e-324, 1e300])
    assert sound(good, good)
    assert sound(good[:0], good[:0])
    for bad in (0.0, -0.0, -1.0, math.nan, math.inf, -math.inf):
        for at in range(3):
            wrong = good.copy()
            wrong[at] = bad
            assert not sound(wrong, good)
            assert not sound(good, wrong)
