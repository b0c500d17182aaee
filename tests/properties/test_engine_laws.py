"""Laws of every market: no look-ahead, restore equals never having stopped, bounds, frugal chance."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from engine_market import Spec, make_engine, make_market, run, step
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dolphin.domain import codes
from dolphin.domain.params import NAMED_SETS
from dolphin.engine.engine import Snapshot
from dolphin.engine.state import EngineOptions

FEW = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
names = st.sampled_from(sorted(NAMED_SETS))
seeds = st.integers(0, 2**32 - 1)
books = st.sampled_from(["never", "always", "sometimes"])


def spec_of(name: str, books: str, n_bars: int = 260) -> Spec:
    return Spec(
        n_bars=n_bars,
        direction=NAMED_SETS[name].direction,
        books=books,
        events=True,
        dirty=True,
        jumps=0.03,
    )


@FEW
@given(names, seeds, books, st.integers(1, 259))
def test_a_longer_market_never_changes_earlier_decisions(name: str, seed: int, books: str, cut: int) -> None:
    """The tail is another market altogether, not only missing."""
    spec = spec_of(name, books)
    whole = make_market(seed, spec)
    strange = [
        replace(m, vel_div=-m.vel_div, prices=m.prices * 3.0, books=None, events=()) for m in whole[cut:]
    ]
    n = spec.n_assets
    first = run(make_engine(NAMED_SETS[name], n), whole)
    other = run(make_engine(NAMED_SETS[name], n), whole[:cut] + strange)
    assert first[:cut] == other[:cut]


@FEW
@given(names, seeds, books, st.integers(1, 259), st.booleans())
def test_restoring_at_any_bar_equals_never_having_stopped(
    name: str, seed: int, books: str, cut: int, proxy: bool
) -> None:
    spec, params = spec_of(name, books), NAMED_SETS[name]
    market = make_market(seed, spec)
    options = EngineOptions(proxy_mode="proxy" if proxy else "none", vd_enabled=True)
    engine = make_engine(params, spec.n_assets, options=options)
    whole = [step(engine, m) for m in market[:cut]]
    saved = msgspec.msgpack.encode(engine.state())
    whole += [step(engine, m) for m in market[cut:]]

    other = make_engine(params, spec.n_assets, options=options)
    other.restore(msgspec.msgpack.decode(saved, type=Snapshot))
    assert [step(other, m) for m in market[cut:]] == whole[cut:]
    assert other.state() == engine.state()


@FEW
@given(names, seeds, books)
def test_every_decision_keeps_its_bounds(name: str, seed: int, books: str) -> None:
    spec, params = spec_of(name, books), NAMED_SETS[name]
    market = make_market(seed, spec)
    engine = make_engine(params, spec.n_assets)
    capital, closed = params.initial_capital, 0
    for moment in market:
        d = step(engine, moment)
        assert d.bar_idx == moment.bar_idx
        assert d.bars_held >= 0
        if d.action == codes.ACTION_NONE:
            assert d.capital == capital
            assert (d.leverage, d.notional, d.net, d.price) == (0.0, 0.0, 0.0, 0.0)
            continue
        assert params.min_leverage <= d.leverage <= params.abs_max_leverage
        if d.bound != codes.BOUND_MIN:
            assert d.leverage <= d.cap
            assert d.leverage <= d.raw
        assert 0.02 <= d.fraction <= params.fraction
        if d.action == codes.ACTION_ENTER:
            assert d.notional == capital * d.fraction * d.leverage
            assert d.notional <= capital * params.fraction * params.abs_max_leverage
            if d.posture == codes.STALKER:
                assert d.leverage <= 2.0
        if d.action == codes.ACTION_EXIT:
            closed += 1
            assert d.capital == capital + d.net
            worse = d.price > d.scan_price if params.direction < 0 else d.price < d.scan_price
            assert worse
            capital = d.capital
    assert engine.capital == capital


@FEW
@given(names, seeds)
def test_chance_is_drawn_once_an_exit_without_books_and_never_else(name: str, seed: int) -> None:
    spec = spec_of(name, "sometimes")
    engine = make_engine(NAMED_SETS[name], spec.n_assets)
    for moment in make_market(seed, spec):
        before = engine.draw_position
        d = step(engine, moment)
        due = 1 if d.action == codes.ACTION_EXIT and moment.books is None else 0
        assert engine.draw_position - before == due


@pytest.mark.parametrize("switch", ["use_ob_edge off", "books"])
def test_without_the_legacy_edge_no_chance_is_drawn(switch: str) -> None:
    off = switch == "use_ob_edge off"
    params = NAMED_SETS["gold"].with_values({"use_ob_edge": False} if off else {})
    spec = Spec(n_bars=300, books="never" if off else "always")
    engine = make_engine(params, spec.n_assets)
    decisions = run(engine, make_market(3, spec))
    assert sum(d.action == codes.ACTION_EXIT for d in decisions) > 3
    assert engine.draw_position == 0


@FEW
@given(seeds, st.sampled_from([0.25, 0.5, 2.0, 4.0]))
def test_scaled_prices_trade_alike_where_no_price_unit_enters(seed: int, factor: float) -> None:
    """Noise and efficiency are in price units, so this holds with selection off; a power of two is exact."""
    params = NAMED_SETS["gold"].with_values({"use_asset_selection": False})
    spec = spec_of("gold", "sometimes")
    market = make_market(seed, spec)
    scaled = [replace(m, prices=m.prices * factor) for m in market]
    first = run(make_engine(params, spec.n_assets), market)
    second = run(make_engine(params, spec.n_assets), scaled)
    for a, b in zip(first, second, strict=True):
        undone = msgspec.structs.replace(
            b,
            price=b.price / factor,
            scan_price=b.scan_price / factor,
            entry_price=b.entry_price / factor,
        )
        assert a == undone


@FEW
@given(names, seeds)
def test_one_seed_gives_one_digest(name: str, seed: int) -> None:
    spec = spec_of(name, "sometimes", n_bars=150)
    records = [
        b"".join(
            d.canonical() for d in run(make_engine(NAMED_SETS[name], spec.n_assets), make_market(seed, spec))
        )
        for _ in range(2)
    ]
    assert records[0] == records[1]


def test_a_quiet_market_makes_no_trade_and_a_loud_one_does() -> None:
    """So that the laws above are not kept by doing nothing."""
    loud = Spec(n_bars=400)
    quiet = [replace(m, vel_div=np.copysign(0.001, m.vel_div)) for m in make_market(1, loud)]
    assert {d.action for d in run(make_engine(NAMED_SETS["champion"], 6), quiet)} == {codes.ACTION_NONE}
    acted = {d.action for d in run(make_engine(NAMED_SETS["champion"], 6), make_market(1, loud))}
    assert acted == {codes.ACTION_NONE, codes.ACTION_ENTER, codes.ACTION_HOLD, codes.ACTION_EXIT}
