"""What stops or shapes an entry and an exit inside the step: selection, confirmation, books, trend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine_market import draws_of

from dolphin.alpha.selection import impulse_response
from dolphin.domain import codes
from dolphin.domain.decision import Decision
from dolphin.domain.params import CHAMPION, ParameterSet
from dolphin.engine.engine import Engine
from dolphin.engine.state import Books, EngineOptions

SYMBOLS = ("BTCUSDT", "ADAUSDT", "XRPUSDT")
READY = CHAMPION.with_values({"lookback": 0, "use_direction_confirm": False})


def fall(i: int, size: float) -> float:
    """Falls by `size` on every second bar."""
    return 1.0 - size * ((i + 1) // 2)


def ready(params: ParameterSet = READY, options: EngineOptions | None = None) -> Engine:
    """60 bars of history: XRP falls more smoothly than ADA, BTC stands still."""
    e = Engine(params, SYMBOLS, draws_of(42, 8), options)
    e.begin_day("d", codes.APEX, -1)
    for i in range(60):
        bar(e, 0.0, prices=np.array([100.0, fall(i, 0.002), fall(i, 0.001)]))
    return e


def bar(e: Engine, vel_div: float = -0.05, prices: np.ndarray | None = None, **more: Any) -> Decision:
    """Without prices: one more step of the same paths."""
    i = e.last_bar + 1
    if prices is None:
        prices = np.array([100.0, fall(i, 0.002), fall(i, 0.001)])
    v50 = more.pop("v50", 0.0)
    return e.step_bar(i, vel_div, prices, True, v50, 0.0, **more)


def books(**changes: Any) -> Books:
    values: dict[str, Any] = {
        "present": True,
        "median_imbalance": 0.0,
        "agreement": 0.0,
        "cascade_count": 0,
        "regime_signal": 0,
        "imbalance_ma5": np.zeros(3),
        "persistence": np.ones(3),
        "depth_quality": np.ones(3),
        "fill_probability": np.full(3, 0.5),
        "withdrawal_velocity": np.zeros(3),
    }
    return Books(**(values | changes))


def test_the_best_direct_asset_is_entered_with_its_rank_and_score() -> None:
    d = bar(ready())
    assert (d.action, d.asset, d.rank, d.ranked) == (codes.ACTION_ENTER, "ADAUSDT", 1, 2)
    last50 = np.array([fall(i, 0.002) for i in range(11, 61)])
    assert d.ars == impulse_response(last50, 0, -1, False)[6]
    assert d.entry_price == fall(60, 0.002)


def test_a_stale_best_asset_yields_to_the_next() -> None:
    d = bar(ready(), stale=np.array([False, True, False]))
    assert (d.asset, d.rank, d.ranked) == ("XRPUSDT", 2, 2)


def test_nothing_to_trade_is_no_asset_though_bitcoin_is_there() -> None:
    d = bar(ready(), stale=np.array([False, True, True]))
    assert (d.reason, d.asset, d.rank, d.ranked) == (codes.NO_ASSET, "", 0, 2)


CONFIRMED = READY.with_values(
    {"use_direction_confirm": True, "dc_lookback_bars": 3, "dc_leverage_boost": 1.1, "min_irp_alignment": 0.0}
)


def rebound(e: Engine, last: float) -> Decision:
    """A signal on a bar whose ADA price is `last` x the price three bars ago; XRP is stale."""
    i = e.last_bar + 1
    prices = np.array([100.0, last * fall(i - 3, 0.002), fall(i, 0.001)])
    return bar(e, prices=prices, stale=np.array([False, False, True]))


def test_a_confirmed_direction_is_boosted() -> None:
    d = rebound(ready(CONFIRMED), 0.99)
    assert (d.action, d.dc_status, d.lane_dc) == (codes.ACTION_ENTER, codes.DC_CONFIRM, 1.1)
    assert d.dc_change_bps == pytest.approx(-100.0)


def test_a_contradicted_direction_is_refused_and_told() -> None:
    e = ready(CONFIRMED)
    d = rebound(e, 1.001)
    assert (d.action, d.reason, d.asset) == (codes.ACTION_NONE, codes.DC_REFUSED, "ADAUSDT")
    assert (d.dc_status, d.rank) == (codes.DC_CONTRADICT, 1)
    assert d.dc_change_bps == pytest.approx(10.0)
    assert d.confidence == 0.9
    assert (d.lane_base, d.leverage, d.notional) == (0.0, 0.0, 0.0)
    assert e.position is None


def test_a_contradiction_that_does_not_skip_is_reduced() -> None:
    d = rebound(ready(CONFIRMED.with_values({"dc_skip_contradicts": False})), 1.001)
    assert (d.action, d.dc_status, d.lane_dc) == (codes.ACTION_ENTER, codes.DC_CONTRADICT, 0.5)
    assert d.raw == 2.5


def test_a_lookback_longer_than_the_history_is_neutral_and_has_no_change() -> None:
    for lookback, told in ((59, True), (60, True), (61, False)):
        d = bar(ready(CONFIRMED.with_values({"dc_lookback_bars": lookback})))
        assert d.action == codes.ACTION_ENTER
        assert (d.dc_change_bps != 0.0) is told
        assert d.dc_status == (codes.DC_CONFIRM if told else codes.DC_NEUTRAL)


def test_books_that_contradict_persistently_refuse() -> None:
    d = bar(ready(), books=books(imbalance_ma5=np.array([0.0, 0.2, 0.0])), books_label="mock")
    assert (d.reason, d.asset, d.books) == (codes.OB_REFUSED, "ADAUSDT", "mock")
    assert d.confidence == 0.9


def test_books_change_the_reported_confidence_and_the_size_lane_only() -> None:
    without = bar(ready())
    d = bar(
        ready(),
        books=books(imbalance_ma5=np.array([0.0, -0.2, 0.0]), median_imbalance=-0.1, agreement=0.8),
    )
    assert d.confidence == 0.9 * (1.0 + 0.2 * 1.0 * 0.5)
    assert (d.strength, d.fraction, d.lane_base) == (without.strength, without.fraction, without.lane_base)
    assert d.lane_ob == 1.0 + 0.1 * 0.8
    assert without.lane_ob == 1.0


def test_books_reorder_the_ranking() -> None:
    d = bar(ready(), books=books(depth_quality=np.array([1.0, 0.1, 1.6])))
    assert (d.asset, d.rank) == ("XRPUSDT", 1)
    d = bar(ready(), books=books(depth_quality=np.array([1.0, 0.1, 0.19])))
    assert d.reason == codes.NO_ASSET


def test_the_held_asset_s_own_books_bend_its_limits() -> None:
    """Duress and edge read the held asset, not its neighbours."""
    e = ready()
    bar(e)
    own = books(withdrawal_velocity=np.array([-0.9, 0.0, -0.9]), regime_signal=-1)
    assert bar(e, 0.0, books=own).max_hold == 120
    own = books(withdrawal_velocity=np.array([0.0, -0.9, 0.0]))
    assert bar(e, 0.0, books=own).max_hold == 48
    own = books(imbalance_ma5=np.array([0.0, -0.2, 0.0]), regime_signal=-1)
    assert bar(e, 0.0, books=own).max_hold == 180


def test_the_edge_is_that_of_the_held_asset_on_the_exit_bar() -> None:
    e = ready(READY.with_values({"max_hold_bars": 1, "fixed_tp_pct": 0.5}))
    bar(e)
    fills = books(depth_quality=np.array([0.0, 0.51, 0.0]), fill_probability=np.array([0.1, 0.7, 0.2]))
    d = bar(e, 0.0, books=fills)
    assert (d.action, d.ob_edge) == (codes.ACTION_EXIT, 0.7 * 5.0 * 1e-4)
    assert e.draw_position == 0


@pytest.mark.parametrize(
    ("enabled", "v50", "reason"),
    [
        (True, 0.25, codes.TREND_RECOVERY),
        (True, 0.26, codes.REASON_NONE),
        (True, -0.5, codes.TREND_RECOVERY),
        (False, 0.25, codes.REASON_NONE),
    ],
)
def test_a_spread_that_recovers_closes_when_it_is_on(enabled: bool, v50: float, reason: int) -> None:
    e = ready(options=EngineOptions(tf_enabled=enabled, tf_exhaust_ratio=0.25, tf_flip_ratio=0.5))
    assert bar(e, v50=1.0).action == codes.ACTION_ENTER
    assert bar(e, 0.0, v50=v50).reason == reason


def test_wins_and_losses_shape_the_next_size() -> None:
    """Five losses in a row halve the next entry; the bucket's own record counts from ten trades on."""
    params = READY.with_values(
        {"use_asset_selection": False, "max_hold_bars": 1, "stop_pct": 0.5, "use_ob_edge": False}
    )
    e = Engine(params, SYMBOLS, draws_of(42, 8))
    e.begin_day("d", codes.APEX, -1)
    streaks, boosts = [], []
    for i in range(24):
        d = bar(e, -0.05, prices=np.array([100.0 + i, 1.0, 1.0]))
        if d.action == codes.ACTION_ENTER:
            streaks.append(d.streak)
            boosts.append(d.bucket_boost)
        else:
            assert d.net < 0.0
    assert streaks == [1.0] * 5 + [0.5] * 7
    assert boosts == [1.0] * 10 + [0.7] * 2
