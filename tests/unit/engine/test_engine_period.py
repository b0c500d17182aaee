"""The whole-period kernel on small markets: layout, tables, records that grow, refusals.

That it gives the bits of `step_bar` on everything is shown in `tests/properties/test_period_identity.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engine_market import Spec

import dolphin.backtest.period as period
from dolphin.backtest.period import PeriodRunner
from dolphin.domain import codes
from dolphin.domain.errors import DataError, InvariantError
from dolphin.domain.params import CHAMPION, GOLD, GREEN, ParameterSet
from dolphin.engine.engine import Snapshot
from dolphin.engine.holding import adverse_run
from dolphin.engine.market import BookBars, PeriodInputs, changes_of, market_of
from dolphin.engine.period import adverse_before, deepest, deepest_above
from dolphin.engine.state import EngineOptions, step_params
from period_market import drive, inputs_of

QUICK = GOLD.with_values({"lookback": 55, "max_hold_bars": 9, "fixed_tp_pct": 0.002})


def market(seed: int = 3, **spec: Any) -> PeriodInputs:
    return inputs_of(seed, Spec(**({"n_bars": 130, "n_assets": 4, "events": True} | spec)))


@pytest.mark.parametrize(
    ("spec", "params", "options"),
    [
        ({}, QUICK, EngineOptions()),
        ({"dirty": True}, QUICK, EngineOptions()),
        ({"books": "sometimes"}, QUICK, EngineOptions()),
        ({"books": "sometimes", "dirty": True}, QUICK, EngineOptions(proxy_mode="proxy")),
        ({}, QUICK.with_values({"use_asset_selection": False}), EngineOptions(vd_enabled=True)),
        ({"direction": 1}, GREEN.with_values({"lookback": 55, "max_hold_bars": 9}), EngineOptions()),
        ({}, QUICK.with_values({"min_irp_alignment": 0.45, "dc_lookback_bars": 60}), EngineOptions()),
    ],
)
@pytest.mark.parametrize("record", ["none", "events", "codes", "all"])
def test_a_small_market_is_what_step_bar_makes_of_it(
    spec: dict[str, Any], params: ParameterSet, options: EngineOptions, record: str
) -> None:
    inputs = market(**spec)
    engine, decisions, _, equity = drive(params, inputs, options)
    runner = PeriodRunner(inputs)
    for shared in (0, 1, 3):
        if shared:
            runner.run_many([(params, options)] * shared, threads=1)
        found = runner.run(params, options, record=record)
        assert found.state == engine.state()
        assert found.totals.capital == engine.capital
        assert found.daily_equity[-1] == equity[-1]
        if record in ("codes", "all"):
            assert found.canonical().tobytes() == b"".join(d.canonical() for d in decisions)
        if record != "none":
            exits = [d for d in decisions if d.action == codes.ACTION_EXIT]
            assert found.trades["net"].tolist() == [d.net for d in exits]
        if record == "all":
            assert list(found.decisions()) == decisions


def test_a_table_of_a_tighter_threshold_is_not_used_for_a_looser_one() -> None:
    inputs = market()
    runner = PeriodRunner(inputs)
    tight = QUICK.with_values({"vel_div_threshold": -0.045})
    runner.run_many([(tight, None)] * 3, threads=1)
    assert runner.run(QUICK).totals == PeriodRunner(inputs).run(QUICK).totals
    assert runner.run(tight).totals == PeriodRunner(inputs).run(tight).totals
    runner.run_many([(QUICK, None)] * 3, threads=1)
    assert runner.run(QUICK).totals == PeriodRunner(inputs).run(QUICK).totals
    assert runner.run(tight).totals == PeriodRunner(inputs).run(tight).totals


def test_a_table_is_not_used_without_selection() -> None:
    inputs = market()
    runner = PeriodRunner(inputs)
    runner.run_many([(QUICK, None)] * 3, threads=1)
    off = QUICK.with_values({"use_asset_selection": False})
    assert runner.run(off).totals == PeriodRunner(inputs).run(off).totals


def test_records_and_draws_grow_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = market(n_bars=250)
    whole = PeriodRunner(inputs).run(QUICK, record="all")
    monkeypatch.setattr(period, "_ROWS_AT_FIRST", 1)
    monkeypatch.setattr(period, "draws", lambda seed, n: np.random.RandomState(seed).random_sample(n + 1))
    small = PeriodRunner(inputs).run(QUICK, record="codes")
    assert small.totals.trades > 5
    assert small.totals == whole.totals
    assert small.canonical().tobytes() == whole.canonical().tobytes()
    for rows in (2, 3, 5, 7, 11, 13):
        monkeypatch.setattr(period, "Recorder", lambda *a, k=rows: REAL(*a[:5], a[5][:k], a[6][:k], *a[7:]))
        again = PeriodRunner(inputs).run(QUICK, record="all")
        assert list(again.decisions()) == list(whole.decisions())


REAL = period.Recorder


def test_histories_past_their_limit_are_those_of_the_ring() -> None:
    """More than 500 prices, one asset that comes late and one that never comes."""
    inputs = market(n_bars=830, n_assets=4)
    prices = inputs.prices.copy()
    prices[:320, 2] = np.nan
    prices[:, 3] = np.nan
    inputs = replace(inputs, prices=prices)
    engine, _, _, _ = drive(QUICK, inputs)
    assert PeriodRunner(inputs).run(QUICK).state == engine.state()
    first = PeriodRunner(cut(inputs, 0, 300)).run(QUICK)
    rest = PeriodRunner(cut(inputs, 300, 830), state=first.state).run(QUICK)
    assert rest.state == engine.state()


def cut(inputs: PeriodInputs, first: int, last: int) -> PeriodInputs:
    values: dict[str, Any] = {name: getattr(inputs, name) for name in inputs.__slots__}
    return PeriodInputs(**{k: v[first:last] if isinstance(v, np.ndarray) else v for k, v in values.items()})


def test_a_position_open_from_before_shows_its_lanes_to_the_end() -> None:
    inputs = market(n_bars=200, events=False)
    params = QUICK.with_values({"max_hold_bars": 10_000, "fixed_tp_pct": 0.9, "stop_pct": 5.0})
    whole = PeriodRunner(inputs).run(params, record="codes")
    assert whole.totals.open_position
    first = PeriodRunner(cut(inputs, 0, 150)).run(params)
    assert first.totals.open_position
    rest = PeriodRunner(cut(inputs, 150, 200), state=first.state).run(params, record="codes")
    assert rest.canonical().tobytes() == whole.canonical()[150:].tobytes()


def test_a_quiet_market_does_nothing() -> None:
    inputs = market()
    quiet = replace(inputs, vel_div=np.zeros(130))
    found = PeriodRunner(quiet).run(GOLD, record="codes")
    assert found.totals.trades == 0
    assert set(found.reason.tolist()) == {codes.NO_SIGNAL}
    assert found.equity.tolist() == [GOLD.initial_capital] * 130
    assert not found.canonical()["price"].any()


def test_changes_are_days_and_what_moved_between_bars() -> None:
    inputs = market(events=False)
    boost = np.ones(130)
    boost[40:] = 1.35
    posture = np.zeros(130, np.int64)
    posture[90] = codes.STALKER
    changed = replace(inputs, boost=boost, posture=posture)
    changes, days = changes_of(changed)
    assert changes.bar.tolist() == [0, 40, 90, 91, 130]
    assert changes.new_day.tolist() == [True, False, False, False, False]
    again, _ = changes_of(changed, open_day=days[0])
    assert not again.new_day.any()


def test_neutral_inputs_are_those_of_organs_that_are_not_wired() -> None:
    inputs = replace(
        market(events=False),
        stale=None, posture=None, boost=None, beta=None, mc_status=None,
        esof_mult=None, refusal=None, vol_ok=None,
    )  # fmt: skip
    laid_out, days, _ = market_of(inputs, 1e-9)
    assert len(days) == 1
    assert laid_out.dense
    assert laid_out.vol_ok.all()
    assert laid_out.esof_mult.tolist() == [1.0] * 130
    assert not laid_out.stale.any()
    changes, _ = changes_of(inputs)
    assert (changes.boost[0], changes.beta[0], changes.mc_status[0]) == (1.0, 0.0, codes.MC_ABSENT)
    no_bitcoin = replace(inputs, symbols=("AUSDT", "BUSDT", "CUSDT", "DUSDT"))
    assert market_of(no_bitcoin, 1e-9)[2] == ()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "symbols": ({"symbols": ("BTCUSDT",)}, r"prices of shape \(130, 4\) for 1 symbols"),
    "length": ({"vel_div": np.zeros(3)}, r"vel_div has shape \(3,\), expected \(130,\)"),
    "stale": ({"stale": np.zeros((130, 2), np.bool_)}, r"stale has shape"),
    "times": ({"timestamp_ns": np.zeros(130, np.int64)}, "times do not grow"),
    "velocity": ({"v50_velocity": np.full(130, np.nan)}, "v50_velocity holds a value that is not finite"),
    "posture": ({"posture": np.full(130, 4)}, "posture code outside 0 to 3"),
    "forewarner": ({"mc_status": np.full(130, -1)}, "forewarner code outside 0 to 3"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_inputs_that_make_no_sense_are_refused(name: str) -> None:
    changes, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        replace(market(), **changes)


def test_books_of_another_length_are_refused() -> None:
    books = market(books="always").books
    assert books is not None
    short = BookBars(*(array[:5] for array in books))
    with pytest.raises(DataError, match=r"books\.present has shape"):
        replace(market(), books=short)


def test_a_run_says_what_it_did_not_record() -> None:
    found = PeriodRunner(market()).run(CHAMPION)
    with pytest.raises(InvariantError, match="record='events'"):
        _ = found.trades
    with pytest.raises(InvariantError, match="record='codes'"):
        found.decisions_sha256()


def test_a_state_of_another_universe_is_refused() -> None:
    state = Snapshot(set_hash="", symbols=("BTCUSDT",), day="", arrays={})
    with pytest.raises(InvariantError, match="another universe"):
        PeriodRunner(market(), state=state)


def test_a_batch_tells_how_far_it_is() -> None:
    told: list[int] = []
    PeriodRunner(market()).run_many([(QUICK, None)] * 4, threads=2, on_done=told.append)
    assert told == [1, 2, 3, 4]


def test_the_equity_that_changes_no_drawdown_changes_none() -> None:
    """Over the whole range, also a hair from the edge and with nearly everything lost."""
    rng = np.random.default_rng(4)
    for _ in range(3000):
        peak = float(rng.uniform(1.0, 1e6))
        drawdown = float(rng.choice([0.0, rng.random(), 1e-9, 0.99, 0.995, 1.0]))
        enough = deepest_above(peak, drawdown)
        for equity in (
            enough,
            float(np.nextafter(enough, np.inf)),
            float(rng.uniform(min(enough, peak), peak)),
        ):
            if enough <= equity <= peak:
                assert deepest(equity, peak, drawdown) == (peak, drawdown)


def test_the_run_of_adverse_bars_is_counted_from_its_end() -> None:
    p = step_params(GOLD, ["BTCUSDT"], EngineOptions())
    rng = np.random.default_rng(9)
    for _ in range(200):
        vel_div = rng.choice([0.01, 0.02, 0.03], size=12, p=[0.2, 0.1, 0.7])
        begin, end, before = int(rng.integers(0, 6)), int(rng.integers(6, 13)), int(rng.integers(0, 4))
        run = before
        for t in range(begin, end):
            run = adverse_run(p, run, float(vel_div[t]))
        assert adverse_before(p, vel_div, begin, end, before) == run


def test_walks_are_bounded_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(period, "WALKS_MAX", 2)
    inputs = market(n_bars=200)
    runner = PeriodRunner(inputs)
    gates = (0.0, 0.2, 0.3, 0.4, 0.5)
    sets = [QUICK.with_values({"min_irp_alignment": gate}) for gate in gates]
    batch = runner.run_many([(params, None) for params in sets for _ in range(3)], threads=1)
    assert len(runner._tables[(-1, False)].picks) == 2
    for k, params in enumerate(sets):
        assert batch.totals["net"][3 * k] == PeriodRunner(inputs).run(params).totals.net
