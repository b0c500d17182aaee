"""The engine's door: what it refuses, days, postures, the breaker, one whole trade, saved states."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from engine_market import draws_of

from dolphin.domain import codes
from dolphin.domain.decision import Decision
from dolphin.domain.errors import InvariantError
from dolphin.domain.params import CHAMPION, GOLD, ParameterSet
from dolphin.engine.engine import DayBar, Engine, Snapshot
from dolphin.engine.state import Books, EngineOptions

#: One asset, no selection, no warm-up: every bar with a signal enters.
EAGER = CHAMPION.with_values(
    {"use_asset_selection": False, "use_direction_confirm": False, "lookback": 0, "use_ob_edge": False}
)
SIGNAL, CALM = -0.05, 0.0


def engine(params: ParameterSet = EAGER, symbols: tuple[str, ...] = ("BTCUSDT",), **more: Any) -> Engine:
    made = Engine(params, symbols, draws_of(42, 8), **more)
    made.begin_day("2021-04-02", codes.APEX, params.direction)
    return made


def bar(e: Engine, vel_div: float = CALM, price: float = 100.0, **more: Any) -> Decision:
    prices = np.full(len(e.symbols), price)
    return e.step_bar(e.last_bar + 1, vel_div, prices, more.pop("vol", True), 0.0, 0.0, **more)


# What the door refuses


@pytest.mark.parametrize("idx", [3, 2, -1])
def test_a_bar_that_does_not_come_after_the_last_is_refused(idx: int) -> None:
    e = engine()
    e.step_bar(3, CALM, np.array([1.0]), True, 0.0, 0.0)
    with pytest.raises(InvariantError, match=f"bar {idx} does not come after bar 3"):
        e.step_bar(idx, CALM, np.array([1.0]), True, 0.0, 0.0)
    assert e.last_bar == 3


def test_a_bar_outside_a_day_is_refused() -> None:
    e = engine()
    e.end_day()
    with pytest.raises(InvariantError, match="bar 0 outside a day; begin_day first"):
        bar(e)


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_velocity_that_is_not_finite_is_refused(where: int, value: float) -> None:
    velocities = [0.0, 0.0, 0.0]
    velocities[where] = value
    e = engine()
    with pytest.raises(InvariantError, match="bar 0 has a velocity that is not finite"):
        e.step_bar(0, velocities[0], np.array([1.0]), True, velocities[1], velocities[2])
    assert e.last_bar == -1


def test_an_exhausted_stream_is_refused_and_can_be_extended() -> None:
    params = EAGER.with_values({"use_ob_edge": True, "max_hold_bars": 1})
    e = Engine(params, ("BTCUSDT",), draws_of(42, 2))
    e.begin_day("d", codes.APEX, -1)
    while e.draw_position < 2:
        bar(e, SIGNAL)
    assert e.n_draws == 2
    with pytest.raises(InvariantError, match="random stream of 2 values is exhausted"):
        bar(e)
    with pytest.raises(InvariantError, match="does not begin with the old one"):
        e.extend_draws(draws_of(43, 9))
    with pytest.raises(InvariantError, match="does not begin with the old one"):
        e.extend_draws(draws_of(42, 1))
    e.extend_draws(draws_of(42, 9))
    assert e.n_draws == 9
    bar(e)


def some_books(n: int, **wrong: Any) -> Books:
    arrays = dict.fromkeys(Books._fields[-5:], np.full(n, 0.9))
    values = {
        "present": True,
        "median_imbalance": 0.0,
        "agreement": 0.0,
        "cascade_count": 0,
        "regime_signal": 0,
    }
    return Books(**(values | arrays | wrong))


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"prices": np.ones(3)}, "prices"),
        ({"prices": np.ones(1)}, "prices"),
        ({"prices": np.ones((2, 1))}, "prices"),
        ({"stale": np.zeros(3, np.bool_)}, "stale"),
        *[({"books": some_books(2, **{name: np.ones(1)})}, name) for name in Books._fields[-5:]],
    ],
)
def test_an_array_of_another_length_is_refused(more: dict[str, Any], name: str) -> None:
    e = engine(symbols=("BTCUSDT", "ETHUSDT"))
    values = {"prices": np.ones(2)} | more
    prices = values.pop("prices")
    with pytest.raises(InvariantError, match=rf"bar 0: {name} has shape .* expected \(2,\)"):
        e.step_bar(0, CALM, prices, True, 0.0, 0.0, **values)
    assert e.last_bar == -1


# Days


def test_a_day_begins_in_the_set_s_direction_and_after_the_last_one_ended() -> None:
    e = Engine(EAGER, ("BTCUSDT",), draws_of(42, 8))
    assert e.day == ""
    with pytest.raises(InvariantError, match="direction 1, the set trades -1"):
        e.begin_day("2021-04-02", codes.APEX, 1)
    with pytest.raises(InvariantError, match="no day is open"):
        e.end_day()
    e.begin_day("2021-04-02", codes.APEX, -1)
    assert e.day == "2021-04-02"
    with pytest.raises(InvariantError, match="day 2021-04-02 is still open"):
        e.begin_day("2021-04-03", codes.APEX, -1)


@pytest.mark.parametrize(
    ("status", "scale", "reason"),
    [
        (codes.MC_OK, 1.0, codes.SIGNAL),
        (codes.MC_ORANGE, 0.5, codes.SIGNAL),
        (codes.MC_RED, 1.0, codes.DAY_HALT),
        (codes.MC_ABSENT, 1.0, codes.SIGNAL),
    ],
)
def test_the_forewarner_s_gate(status: int, scale: float, reason: int) -> None:
    e = engine()
    e.end_day()
    e.begin_day("d", codes.APEX, -1, boost=1.5, beta=0.8, mc_status=status)
    assert (e.breaker, e.posture, e.mc_status) == ((1.5, 0.8), codes.APEX, status)
    d = bar(e, SIGNAL)
    assert d.reason == reason
    assert d.mc_scale == scale
    if reason == codes.SIGNAL:
        assert d.lane_regime == 1.5 * (1.0 + 0.8 * 1.0) * scale
    assert e.end_day().mc_status == codes.MC_STATUSES[status]


def test_a_red_halt_lasts_the_day_and_a_posture_s_halt_as_long_as_the_posture() -> None:
    e = engine()
    e.end_day()
    e.begin_day("d", codes.TURTLE, -1, mc_status=codes.MC_RED)
    assert bar(e, SIGNAL).reason == codes.DAY_HALT
    e.set_posture(codes.APEX)
    assert bar(e, SIGNAL).reason == codes.DAY_HALT
    e.end_day()
    e.begin_day("e", codes.TURTLE, -1)
    assert bar(e, SIGNAL).reason == codes.POSTURE_HALT
    e.set_posture(codes.STALKER)
    assert e.posture == codes.STALKER
    d = bar(e, SIGNAL)
    assert (d.reason, d.leverage, d.bound) == (codes.SIGNAL, 2.0, codes.BOUND_POSTURE)


@pytest.mark.parametrize("posture", [-1, 4])
def test_an_unknown_posture_is_refused(posture: int) -> None:
    e = engine()
    with pytest.raises(InvariantError, match=f"posture code {posture}, expected 0 to 3"):
        e.set_posture(posture)
    assert e.posture == codes.APEX


def test_the_day_s_result_counts_from_its_own_start() -> None:
    params = EAGER.with_values({"max_hold_bars": 1, "use_sp_slippage": False, "use_sp_fees": False})
    e = engine(params)
    bar(e, SIGNAL)
    bar(e, price=99.0)
    first = e.end_day()
    assert (first.date, first.trades, first.boost, first.beta) == ("2021-04-02", 1, 1.0, 0.0)
    assert first.pnl == first.capital - 25_000.0 == e.capital - 25_000.0 > 0.0
    e.begin_day("2021-04-03", codes.APEX, -1)
    second = e.end_day()
    assert (second.pnl, second.trades, second.capital) == (0.0, 0, first.capital)


# The breaker


@pytest.mark.parametrize(
    ("old", "new", "closed"), [(1.25, 1.09, True), (1.25, 1.10, False), (1.24, 1.0, False), (1.5, 1.5, False)]
)
def test_a_breaker_that_calms_down_closes_on_the_next_bar(old: float, new: float, closed: bool) -> None:
    e = engine()
    e.update_acb_boost(old, 0.8)
    bar(e, SIGNAL)
    e.update_acb_boost(new, 0.2)
    d = bar(e)
    assert d.reason == (codes.SUBDAY_ACB_NORMALIZATION if closed else codes.REASON_NONE)
    assert (d.boost, d.beta) == (new, 0.2)


def test_a_calming_update_without_a_position_is_forgotten() -> None:
    e = engine()
    e.update_acb_boost(1.5, 0.0)
    e.update_acb_boost(1.0, 0.0)
    assert bar(e, SIGNAL).action == codes.ACTION_ENTER
    assert bar(e).action == codes.ACTION_HOLD


def test_the_flag_is_for_one_bar() -> None:
    """It is spent on the bar that it closes, not kept for the next position."""
    e = engine()
    e.update_acb_boost(1.5, 0.0)
    bar(e, SIGNAL)
    e.update_acb_boost(1.0, 0.0)
    assert bar(e, SIGNAL).action == codes.ACTION_EXIT
    assert bar(e, SIGNAL).action == codes.ACTION_ENTER
    assert bar(e).action == codes.ACTION_HOLD


# A trade


def test_a_trade_from_entry_to_exit() -> None:
    e = engine()
    assert e.position is None
    assert e.mark() == 25_000.0
    d = bar(e, SIGNAL, timestamp_ns=5, scan_number=9, books_label="absent")
    assert (d.bar_idx, d.timestamp_ns, d.scan_number, d.action, d.asset) == (
        0,
        5,
        9,
        codes.ACTION_ENTER,
        "BTCUSDT",
    )
    assert (d.tp, d.sl, d.max_hold, d.entry_price, d.price, d.scan_price) == (
        0.0095,
        1.0,
        120,
        100.0,
        100.0,
        100.0,
    )
    assert d.notional == 25_000.0 * d.fraction * d.leverage
    assert (d.leverage, d.bound, d.bucket, d.dc_status) == (5.0, codes.BOUND_RAW, 1, codes.DC_NEUTRAL)
    assert e.position == ("BTCUSDT", 0, 100.0, d.notional)
    held = bar(e, SIGNAL, price=99.5)
    assert (held.action, held.reason, held.bars_held, held.pnl_pct) == (codes.ACTION_HOLD, 0, 1, 0.005)
    assert (held.lane_base, held.raw, held.cap, held.leverage) == (d.lane_base, d.raw, d.cap, d.leverage)
    assert (held.confidence, held.strength) == (0.0, 0.0)
    assert e.mark() == 25_000.0 + 0.005 * d.notional
    out = bar(e, SIGNAL, price=99.0)
    assert (out.action, out.reason, out.bars_held) == (codes.ACTION_EXIT, codes.FIXED_TP, 2)
    assert out.price == 99.0 * (1.0 + 0.0001)
    assert out.scan_price == 99.0
    assert out.net == out.gross - out.entry_fee - out.exit_fee
    assert out.capital == e.capital == 25_000.0 + out.net
    assert e.position is None
    assert e.mark() == e.capital
    assert bar(e, SIGNAL).action == codes.ACTION_ENTER


def test_a_long_position_is_marked_the_other_way() -> None:
    params = EAGER.with_values({"direction": 1, "vel_div_threshold": 0.02, "vel_div_extreme": 0.05})
    e = engine(params)
    d = bar(e, 0.05)
    bar(e, price=100.5)
    assert e.mark() == 25_000.0 + 0.005 * d.notional


def test_an_asset_without_a_price_is_stale_whatever_the_mask_says() -> None:
    for mask in (None, np.zeros(1, np.bool_)):
        e = engine()
        bar(e)
        assert bar(e, SIGNAL, price=math.nan, stale=mask).reason == codes.NO_ASSET
        assert bar(e, SIGNAL).action == codes.ACTION_ENTER
        d = bar(e, price=math.nan, stale=mask)
        assert (d.stale_price, d.price, d.pnl_pct) == (True, 100.0, 0.0)
        assert bar(e, stale=np.array([True])).stale_price is True
        assert bar(e).stale_price is False


def test_the_host_s_own_refusal_is_recorded() -> None:
    e = engine()
    assert bar(e, SIGNAL, refusal=codes.LEDGER_HALT).reason == codes.LEDGER_HALT
    assert bar(e, CALM, refusal=codes.LEDGER_HALT).reason == codes.NO_SIGNAL
    assert bar(e, SIGNAL).action == codes.ACTION_ENTER
    d = bar(e, SIGNAL, refusal=codes.LEDGER_HALT)
    assert d.action == codes.ACTION_HOLD, "a refusal forbids entries, it closes nothing"


def test_the_esoteric_lane_is_that_of_the_entry() -> None:
    e = engine()
    d = bar(e, SIGNAL, esof_mult=0.8)
    assert (d.lane_esof, d.raw) == (0.8, 4.0)
    assert bar(e, esof_mult=0.3).lane_esof == 0.8


def test_the_proxy_scales_the_size_only_when_it_is_on() -> None:
    sizes = {}
    for mode in ("none", "proxy"):
        e = engine(options=EngineOptions(proxy_mode=mode))
        for x in (1.0, 2.0):
            e.pre_bar_proxy_update(x, 0.0)
        d = bar(e, SIGNAL)
        sizes[mode] = (d.notional, d.proxy_scale)
    assert sizes["none"][1] == 1.0
    assert sizes["proxy"][1] == 1.0 + 0.4 * (0.75 - 0.5)
    assert sizes["proxy"][0] == sizes["none"][0] * sizes["proxy"][1]


# Saved states


def worked() -> Engine:
    e = engine()
    bar(e, SIGNAL)
    bar(e, price=99.0)
    bar(e, SIGNAL)
    return e


def test_a_state_is_taken_over_whole() -> None:
    e = worked()
    other = Engine(EAGER, ("BTCUSDT",), draws_of(42, 8))
    other.restore(msgspec.json.decode(msgspec.json.encode(e.state()), type=Snapshot))
    assert other.state() == e.state()
    assert (other.day, other.capital, other.position, other.last_bar) == (
        e.day,
        e.capital,
        e.position,
        e.last_bar,
    )
    assert bar(other, price=99.0) == bar(e, price=99.0)


def test_a_state_is_a_copy() -> None:
    e = worked()
    saved = e.state()
    bar(e, price=50.0)
    assert saved != e.state()
    again = engine()
    again.restore(saved)
    bar(again, price=50.0)
    assert again.state() == e.state()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"set_hash": GOLD.hash()}, f"state of set {GOLD.hash()}, this engine runs {EAGER.hash()}"),
        (lambda s: {"symbols": ("ETHUSDT",)}, "state of another universe"),
        (lambda s: {"arrays": s.arrays | {"vel_divs": b""}}, "vel_divs has 0 bytes, expected 1600"),
        (lambda s: {"arrays": s.arrays | {"proxies": bytes(7)}}, "proxies has 7 bytes, expected 4000"),
        (
            lambda s: {"arrays": {k: v for k, v in s.arrays.items() if k != "floats"}},
            "floats has 0 bytes, expected 160",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(
    change: Callable[[Snapshot], dict[str, Any]], message: str
) -> None:
    e = worked()
    fresh = engine()
    before = fresh.state()
    saved = e.state()
    with pytest.raises(InvariantError, match=message):
        fresh.restore(msgspec.structs.replace(saved, **change(saved)))
    assert fresh.state() == before


def test_a_processed_day_is_its_bars_stepped_one_by_one() -> None:
    vel_divs = (CALM, SIGNAL, CALM, SIGNAL, CALM)
    prices = (100.0, 100.0, 99.5, 98.9, 98.0)
    day = [
        DayBar(i, vel_div, np.array([price]), True, 0.0, 0.0, timestamp_ns=i + 1)
        for i, (vel_div, price) in enumerate(zip(vel_divs, prices, strict=True))
    ]
    whole = Engine(EAGER, ("BTCUSDT",), draws_of(42, 8))
    decisions, result = whole.process_day("2021-04-02", codes.APEX, day, boost=1.2, beta=0.3)
    single = Engine(EAGER, ("BTCUSDT",), draws_of(42, 8))
    single.begin_day("2021-04-02", codes.APEX, EAGER.direction, boost=1.2, beta=0.3)
    stepped = [
        single.step_bar(d.bar_idx, d.vel_div, d.prices, True, 0.0, 0.0, timestamp_ns=d.timestamp_ns)
        for d in day
    ]
    assert [d.canonical() for d in decisions] == [d.canonical() for d in stepped]
    assert result == single.end_day()
    assert result.trades == 1
    assert whole.day == ""
