"""Books that do not reach 1 % from mid: what counts as covered, and that filling reads neither as growing
depth nor as withdrawal.
"""

from __future__ import annotations

import numpy as np
import pytest
from book_snapshots import S, book

from dolphin.orderbook.engine import BookEngine
from dolphin.orderbook.snapshot import REACHES_BPS, BookSnapshot

BTC, ETH = "BTCUSDT", "ETHUSDT"
EMPTY = (0.0, 0.0, 0.0)


def filling(t: int, at_ns: int, steps: int = 8) -> BookSnapshot:
    """A book of 1,000 USD a basis point a side that is known a reach further every `steps` bars."""
    k = t // steps
    if k < len(REACHES_BPS) - 1:
        reach = REACHES_BPS[k]
        return book([], [], at_ns, visible=(reach, 1000.0 * reach, 1000.0 * reach))
    n_bands = min(5, 1 + k - (len(REACHES_BPS) - 1))
    bands = [100_000.0] * n_bands
    return book(bands, bands, at_ns)


def test_a_filling_book_is_neither_growing_nor_withdrawn() -> None:
    engine = BookEngine((BTC, ETH))
    for t in range(100):
        snapshots = {BTC: filling(t, t * S), ETH: filling(t, t * S, steps=3)}
        report = engine.step_live(t, t * S, snapshots.get)
        assert report.n_fresh == 2
        for asset in (BTC, ETH):
            assert engine.get_placement(asset, t).depth_quality == pytest.approx(1.0, abs=1e-12)
            assert engine.get_signal(asset, t) == (0.0, 0.0, 0.0, 0.0, 0.0)
        macro = engine.get_macro(t)
        assert macro.cascade_count == 0
        assert macro.depth_velocity == pytest.approx(0.0, abs=1e-12)
        assert macro.acceleration == pytest.approx(0.0, abs=1e-12)
        assert macro.regime_signal == -1
    assert engine.get_placement(BTC, 99).depth_1pct_usd == 200_000.0


def test_an_emptying_one_neither() -> None:
    """A restart of the feed makes a whole book short again."""
    engine = BookEngine((BTC,))
    for t in range(100):
        engine.step_live(t, t * S, {BTC: filling(99 - t, t * S)}.get)
        assert engine.get_signal(BTC, t).withdrawal_velocity == 0.0
        assert engine.get_placement(BTC, t).depth_quality == pytest.approx(1.0, abs=1e-12)


def test_within_a_reach_depth_does_change() -> None:
    engine = BookEngine((BTC,))
    for t, depth in enumerate((100.0, 90.0, 60.0)):
        engine.step_live(t, t * S, {BTC: book([], [], t * S, visible=(20.0, depth, depth))}.get)
    assert engine.get_signal(BTC, 2).withdrawal_velocity == pytest.approx(-0.4)
    assert engine.get_placement(BTC, 2).depth_quality == pytest.approx(120.0 / (0.99 * 199.8 + 0.01 * 120.0))
    assert engine.get_macro(2).cascade_count == 1


def test_a_book_at_the_edge_of_two_reaches_is_compared_with_its_like() -> None:
    """Reach to and fro every bar: each depth is compared with the oldest of its own reach."""
    engine = BookEngine((BTC,))
    for t in range(150):
        wide = t % 2 == 1
        depth = (400.0 if wide else 100.0) * (1.0 - 0.001 * t)
        reach = 40.0 if wide else 20.0
        engine.step_live(t, t * S, {BTC: book([], [], t * S, visible=(reach, depth, depth))}.get)
        first = max(0, t - 59)
        first += (t - first) % 2
        expected = (1.0 - 0.001 * t) / (1.0 - 0.001 * first) - 1.0
        assert engine.get_signal(BTC, t).withdrawal_velocity == pytest.approx(expected, abs=1e-12)
    assert engine.get_macro(149).depth_velocity == pytest.approx(0.0, abs=0.1)


def test_sums_run_over_the_bands_that_both_sides_cover() -> None:
    engine = BookEngine((BTC,))
    engine.step_live(0, 0, {BTC: book([30.0, 5.0, 4.0], [10.0, 6.0])}.get)
    assert engine.get_placement(BTC, 0)[3] == 100.0 * (1.0 - 40.0 / 51.0)
    signal = engine.get_signal(BTC, 0)
    assert signal.imbalance == (35.0 - 16.0) / 51.0
    assert signal.depth_asymmetry == 20.0 / 40.0 - (5.0 - 6.0) / 11.0
    # a hole does not let what lies behind it count
    holed = book([30.0, np.nan, 4.0], [10.0, 6.0, 5.0])
    engine.step_live(1, 0, {BTC: holed}.get)
    assert engine.get_signal(BTC, 1).imbalance == 20.0 / 40.0


def test_a_shorter_book_is_marked_visible() -> None:
    engine = BookEngine((BTC, ETH))
    short = book([], [10.0, 6.0], visible=(40.0, 7.0, 3.0))
    engine.step_live(0, 0, {BTC: short, ETH: book([7.0], [3.0])}.get)
    placement = engine.get_placement(BTC, 0)
    assert placement.visible
    assert placement == (10.0, 1.0, 0.5, 0.0, 40.0)
    assert engine.get_signal(BTC, 0) == (0.4, 0.4, 1.0, 0.4, 0.0)
    assert not engine.get_placement(ETH, 0).visible
    assert not engine.get_placement("NOSUCH", 0).visible


@pytest.mark.parametrize(
    ("snapshot", "count"),
    [
        (book([], [], visible=EMPTY), "n_hidden"),
        (book([], [5.0], visible=EMPTY), "n_hidden"),
        (book([], [], visible=(33.0, 1.0, 1.0)), "n_refused"),
        (book([], [], visible=(np.nan, 1.0, 1.0)), "n_refused"),
        (book([], [], visible=(20.0, -1.0, 1.0)), "n_refused"),
        (book([], [], visible=(20.0, 1.0, np.inf)), "n_refused"),
        (book([1.0, -2.0], [1.0, 2.0]), "n_refused"),
        (book([1.0, 2.0], [1.0, np.inf]), "n_refused"),
    ],
)
def test_what_shows_nothing_or_cannot_be_is_left_out(snapshot: BookSnapshot, count: str) -> None:
    engine = BookEngine((BTC,))
    before = engine.state(0).past
    report = engine.step_live(0, 0, {BTC: snapshot}.get)
    assert getattr(report, count) == 1
    assert report.n_fresh == 0
    after = dict(engine.state(0).past, market=before["market"])
    assert after == before


def test_an_asset_that_joins_late_does_not_move_the_mean() -> None:
    engine = BookEngine((BTC, ETH))
    deep = [1e6] * 5
    for t in range(80):
        books = {BTC: book([100.0] * 5, [100.0] * 5, t * S)}
        if t >= 30:
            books[ETH] = book(deep, deep, t * S)
        engine.step_live(t, t * S, books.get)
        assert engine.get_macro(t).depth_velocity == 0.0


def test_empty_books_have_no_mean_to_compare_with() -> None:
    engine = BookEngine((BTC, ETH))
    none = [0.0] * 5
    engine.step_live(0, 0, {BTC: book(none, none)}.get)
    engine.step_live(1, 0, {BTC: book(none, none), ETH: book([5.0] * 5, none)}.get)
    engine.step_live(2, 0, {BTC: book(none, none), ETH: book([6.0] * 5, none)}.get)
    assert engine.get_macro(1).depth_velocity == 0.0
    assert engine.get_macro(2).depth_velocity == pytest.approx(0.01 * 1.0 / 5.0)
