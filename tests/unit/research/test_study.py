"""Studies over a small market with our own signals: what is run, what counts, what a verdict may say."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from dolphin.backtest.period import PeriodRunner
from dolphin.domain.errors import ConfigError
from dolphin.domain.params import GOLD, GREEN, ParameterSet
from dolphin.engine.market import PeriodInputs
from dolphin.engine.state import EngineOptions
from dolphin.report.study import render
from dolphin.research import bootstrap, null, overfitting, splits
from dolphin.research import study as st
from dolphin.research.thresholds import DAYS_ENOUGH
from dolphin.research.verdict import verdict_of

HOUR_NS = 3_600_000_000_000
DAY_0 = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
SET = GOLD.with_values({"lookback": 5, "max_hold_bars": 3, "use_direction_confirm": False})


def market(seed: int = 1, days: int = 24, bars_a_day: int = 96, edge: float = 0.0) -> PeriodInputs:
    """Six assets that wander; a signal in one bar of twelve, after which every price falls by `edge`."""
    rng = np.random.default_rng(seed)
    n = days * bars_a_day
    signal = rng.random(n) < 1 / 12
    steps = rng.normal(0, 0.002, (n, 6)) + 0.001 * rng.normal(size=(n, 1))
    for lag in (1, 2, 3):
        steps[lag:] -= edge / 3 * signal[:-lag, None]
    prices = 100.0 * np.exp(np.cumsum(steps, axis=0))
    return PeriodInputs(
        symbols=("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT", "LTCUSDT"),
        timestamp_ns=DAY_0 + np.arange(n, dtype=np.int64) * (24 * HOUR_NS // bars_a_day),
        prices=prices,
        vel_div=np.where(signal, -0.021 - 0.04 * rng.random(n), 0.001),
        v50_velocity=rng.normal(0, 0.01, n),
        v750_velocity=rng.normal(0, 0.001, n),
        instability_50=rng.random(n),
    )


def asked(**more: Any) -> st.Study:
    settings: dict[str, Any] = {
        "set_name": "gold", "params": SET, "grid": {"fixed_tp_pct": [0.0095, 0.003], "max_hold_bars": [3, 6]},
        "shifts": 39, "reps": 200,
    }  # fmt: skip
    return st.Study(**{**settings, **more})


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return st.study(market(), asked(), {"name": "a <b>test</b> market"})


@pytest.fixture(scope="module")
def planted() -> dict[str, Any]:
    return st.study(market(2, days=120, edge=0.004), asked(), {"name": "planted"})


# ---- what is run


def test_a_grid_starts_with_the_set_and_leaves_out_what_makes_no_sense() -> None:
    sets = st.grid_of(GOLD, {"vel_div_threshold": [-0.02, -0.06, -0.01], "max_hold_bars": [60, 120]})
    assert sets[0] == GOLD
    assert len(sets) == 4
    assert {s.vel_div_threshold for s in sets} == {-0.02, -0.01}
    for wrong, words in (
        ({"vel_div_treshold": [1]}, "vel_div_threshold"),
        ({"max_hold_bars": []}, "has no value"),
        ({"use_ob_edge": [True]}, "always leaves the edge out"),
    ):
        with pytest.raises(ConfigError, match=words):
            st.grid_of(GOLD, wrong)


@pytest.mark.parametrize("params", [GOLD, GREEN, GOLD.with_values({"max_hold_bars": 1})])
@pytest.mark.parametrize("name", list(st.GRIDS))
def test_named_grids_hold_the_set_itself_first(params: ParameterSet, name: str) -> None:
    values = st.named_grid(name, params)
    assert all(given[0] == getattr(params, key) for key, given in values.items())
    assert all(len(set(given)) == len(given) for given in values.values())
    sets = st.grid_of(params, values)
    assert sets[0] == params
    assert len(set(sets)) == len(sets) > 15
    with pytest.raises(ConfigError, match="unknown grid"):
        st.named_grid("huge", params)


def test_shifted_signals_are_the_run_of_rolled_inputs() -> None:
    inputs = market(3, days=8)
    runner = PeriodRunner(inputs)
    runner.run_many([(SET.with_values({"max_hold_bars": bars}), None) for bars in (2, 3, 4)])
    for k in (1, 70, 500):
        rolled = dataclasses.replace(
            inputs,
            **{
                name: np.roll(getattr(inputs, name), k)
                for name in ("vel_div", "v50_velocity", "v750_velocity", "instability_50")
            },
        )
        mine = st.shifted(runner, k).run(SET, record="codes")
        theirs = PeriodRunner(rolled).run(SET, record="codes")
        assert mine.decisions_sha256() == theirs.decisions_sha256()
        assert mine.totals == theirs.totals
        assert mine.totals.trades > 5
    assert runner.inputs is inputs


def test_threads_change_nothing() -> None:
    runner = PeriodRunner(market(4, days=8))
    one, four = (st.shift_null(runner, SET, n_shifts=10, threads=n) for n in (1, 4))
    np.testing.assert_array_equal(one.null, four.null)
    assert one.p_value == four.p_value


def test_the_same_study_twice_is_the_same_json(found: dict[str, Any]) -> None:
    again = st.study(market(), asked(), {"name": "a <b>test</b> market"})
    assert json.dumps(found, sort_keys=True, allow_nan=False) == json.dumps(again, sort_keys=True)
    other = st.study(market(), asked(seed=2), {"name": "a <b>test</b> market"})
    assert other["result_sha256"] != found["result_sha256"]


def test_a_stub_of_a_day_is_counted_with_its_neighbour() -> None:
    inputs = market(5, days=12)
    late = dataclasses.replace(inputs, timestamp_ns=inputs.timestamp_ns + 24 * HOUR_NS // 96)
    got = st.study(late, asked(shifts=19), {})
    assert len(got["days"]) == 12
    assert "2026-01-13 has only 1 of its bars and is counted with 2026-01-12" in got["notes"]
    assert got["as_named"]["n_days"] == 12


# ---- what is told, against the engine


def test_figures_are_those_of_the_engine_without_the_edge(found: dict[str, Any]) -> None:
    runner = PeriodRunner(market())
    honest = SET.with_values({"use_ob_edge": False})
    totals = runner.run(honest).totals
    figures = found["as_named"]["figures"]
    assert figures["roi"]["value"] == pytest.approx(totals.equity / 25_000 - 1, abs=1e-12)
    assert figures["max_drawdown"]["value"] == pytest.approx(totals.max_drawdown, abs=1e-12)
    assert figures["win_rate"]["value"] == pytest.approx(totals.wins / totals.trades)
    assert figures["profit_factor"]["value"] == pytest.approx(totals.gross_profit / totals.gross_loss)
    assert figures["mean_net"]["value"] == pytest.approx(totals.net / totals.trades)
    assert found["as_named"]["trades"] == totals.trades
    edge = runner.run(SET).totals
    assert found["as_named"]["with_ob_edge"]["roi"] == pytest.approx(edge.equity / 25_000 - 1, abs=1e-12)
    for figure in figures.values():
        assert figure["low"] <= figure["value"] <= figure["high"]


def test_walk_forward_trades_what_was_best_before(found: dict[str, Any]) -> None:
    """The twin: choose and join by hand from the engine's own daily equity."""
    runner = PeriodRunner(market())
    honest = SET.with_values({"use_ob_edge": False})
    trials = st.grid_of(honest, asked().grid)
    closes = runner.run_many([(trial, None) for trial in trials]).daily_equity
    levels = np.concatenate([np.full((len(trials), 1), 25_000.0), closes], axis=1)
    returns = (np.diff(levels) / levels[:, :-1]).T
    train, test = st.lengths_for(24)
    growth, tested = 1.0, 0
    for window, told in zip(
        splits.walk_forward(24, train_days=train, test_days=test),
        found["walk_forward"]["windows"],
        strict=True,
    ):
        before = returns[window.train]
        best = int(np.argmax(before.mean(axis=0) / before.std(axis=0)))
        assert told["trial"] == best
        growth *= np.prod(1 + returns[window.test, best])
        tested += len(window.test)
    assert found["walk_forward"]["figures"]["roi"]["value"] == pytest.approx(growth - 1, abs=1e-12)
    assert found["walk_forward"]["n_days"] == tested
    assert found["overfitting"]["pbo"] == overfitting.backtest_overfitting(returns).pbo


def test_costs_grow_with_their_scales(found: dict[str, Any]) -> None:
    rows = {(r["fee_scale"], r["slippage_scale"]): r for r in found["costs"]["rows"]}
    assert len(rows) == 16
    for fee, slip in rows:
        if fee < 3:
            assert rows[fee, slip]["net"] > rows[fee + 1, slip]["net"]
        if slip < 3:
            assert rows[fee, slip]["net"] > rows[fee, slip + 1]["net"]
    costs = found["costs"]
    assert costs["price_pnl"] - costs["fees"] - costs["slippage"] == pytest.approx(costs["net"], abs=1e-6)
    twice = PeriodRunner(market()).run(
        SET.with_values({"use_ob_edge": False}), EngineOptions(fee_scale=2.0, slippage_scale=2.0)
    )
    assert rows[2.0, 2.0]["net"] == twice.totals.net


def test_break_even_is_where_the_line_crosses() -> None:
    assert st.break_even((0.0, 1.0, 2.0), (10.0, 4.0, -4.0)) == pytest.approx(1.5)
    assert st.break_even((0.0, 1.0), (-1.0, -2.0)) == 0.0
    assert st.break_even((0.0, 1.0), (5.0, 4.0)) is None


def test_returns_of_capital_that_is_gone_stop() -> None:
    got = st.daily_returns(np.array([100.0, 110.0, -5.0, -7.0]))
    assert got.tolist() == pytest.approx([0.1, -1.0, 0.0])


def test_trials_run_before_are_counted(found: dict[str, Any]) -> None:
    more = st.study(market(), asked(trials_before=1000), {})
    assert found["deflated"]["n_trials"] == 4
    assert more["deflated"]["n_trials"] == 1004
    assert more["deflated"]["probability"] < found["deflated"]["probability"]


# ---- the verdict


def test_without_an_edge_the_answer_is_never_yes(found: dict[str, Any]) -> None:
    assert found["verdict"]["answer"] in ("no", "not_shown")
    assert found["null"]["p_value"] > 0.05


def test_a_large_edge_over_many_days_survives(planted: dict[str, Any]) -> None:
    verdict = planted["verdict"]
    failed = [check for check in verdict["checks"] if not check["passed"]]
    # Whether choosing among settings helps depends on how alike they are, the rest may not fail here.
    assert [check for check in failed if "choosing among settings" not in check["question"]] == []
    assert verdict["answer"] == ("not_shown" if failed else "yes")


def passing(planted: dict[str, Any], **figures: Any) -> dict[str, Any]:
    """A study in which every check passes, and what is changed in it."""
    made = json.loads(json.dumps(planted))
    made["overfitting"]["pbo"] = 0.01
    made["deflated"]["probability"] = 0.99
    made["null"]["p_value"] = 0.01
    made["walk_forward"]["figures"]["roi"] |= {"value": 0.2, "low": 0.05, "high": 0.4}
    for path, value in figures.items():
        part, _, key = path.partition("__")
        target = made[part]
        if part == "walk_forward" and key in ("value", "low"):
            target = target["figures"]["roi"]
        target[key] = value
    return made


def test_yes_needs_every_check_and_enough_days(planted: dict[str, Any]) -> None:
    assert verdict_of(passing(planted))["answer"] == "yes"
    for change in (
        {"overfitting__pbo": 0.21},
        {"deflated__probability": 0.94},
        {"deflated__probability": None},
        {"null__p_value": 0.06},
        {"walk_forward__low": -0.001},
        {"walk_forward__low": None},
        {"walk_forward__n_days": DAYS_ENOUGH - 1},
    ):
        assert verdict_of(passing(planted, **change))["answer"] == "not_shown", change
    without = passing(planted)
    without["null"] = None
    assert verdict_of(without)["answer"] == "not_shown"
    assert verdict_of(passing(planted, walk_forward__value=-0.01))["answer"] == "no"
    assert verdict_of(passing(planted, walk_forward__value=0.0))["answer"] == "no"
    assert verdict_of(passing(planted, walk_forward__trades=29))["answer"] == "too_short"
    assert verdict_of(passing(planted, walk_forward__n_days=4))["answer"] == "too_short"


@pytest.mark.parametrize(("n_shifts", "answers"), [(18, False), (19, True), (1, False), (499, True)])
def test_with_too_few_shifts_timing_is_a_question_that_could_not_be_asked(
    planted: dict[str, Any], n_shifts: int, answers: bool
) -> None:
    """Even if no shift did as well, p is 1 / (1 + shifts): a no of 18 shifts would say nothing."""
    least = 1.0 / (1.0 + n_shifts)
    verdict = verdict_of(passing(planted, null__n_shifts=n_shifts, null__p_value=least))
    check = next(check for check in verdict["checks"] if "timing" in check["question"])
    words = next(x["text"] for x in verdict["sentences"] if x["about"] == "Timing")
    assert check["passed"] is (True if answers else None)
    assert verdict["answer"] == ("yes" if answers else "not_shown")
    assert ("cannot be asked" in words) is not answers
    assert ("could not be asked: p is " in check["value"]) is not answers
    worst = verdict_of(passing(planted, null__n_shifts=n_shifts, null__p_value=1.0))
    assert next(c for c in worst["checks"] if "timing" in c["question"])["passed"] is (
        False if answers else None
    )
    assert "worse times than chance" in " ".join(x["text"] for x in worst["sentences"]) or not answers
    assert null.smallest_p(n_shifts) == null.p_value(1.0, np.zeros(n_shifts))


def test_few_days_are_said_to_be_few(found: dict[str, Any]) -> None:
    days = found["walk_forward"]["n_days"]
    assert any(f"{days} days out of sample are few" in text for text in found["verdict"]["cautions"])
    assert "are few" in found["walk_forward"]["words"]


def test_words_follow_the_figures(planted: dict[str, Any]) -> None:
    def said(**change: Any) -> str:
        return " ".join(x["text"] for x in verdict_of(passing(planted, **change))["sentences"])

    assert "gained 20.0 %" in said()
    assert "all of it gains" in said()
    assert "both losses and gains" in said(walk_forward__low=-0.1)
    assert "carries information" in said()
    assert "is not shown" in said(null__p_value=0.5)
    assert "worse times than chance" in said(null__p_value=1.0)
    assert "worth nothing here" in said(overfitting__pbo=0.5)
    assert "a little at best" in said(overfitting__pbo=0.4)
    for even, words in (
        (None, "still earn at three times"), (0.0, "loses even if trading were free"),
        (0.5, "have to fall to 50 %"), (1.3, "little room"), (2.4, "only at 2.4 times"),
    ):  # fmt: skip
        assert words in said(costs__break_even=even)
    assert "never traded" in said(costs__trades=0)


# ---- short periods and the page


@pytest.mark.parametrize("days", [2, 4, 7, 9])
def test_a_short_period_is_studied_as_far_as_it_goes(days: int) -> None:
    got = st.study(market(6, days=days), asked(shifts=19), {"name": "short"})
    assert got["verdict"]["answer"] == "too_short"
    assert json.dumps(got, allow_nan=False)
    page = render(got)
    assert "No verdict" in page
    if days < bootstrap.DAYS_MIN:
        assert got["as_named"]["figures"]["roi"]["low"] is None
        assert "no interval is honest" in got["as_named"]["words"]


def test_a_market_without_signals_has_a_page_too() -> None:
    quiet = market(7, days=14)
    quiet = dataclasses.replace(quiet, vel_div=np.full(len(quiet.vel_div), 0.001))
    got = st.study(quiet, asked(shifts=19), {"name": "quiet"})
    assert got["as_named"]["trades"] == 0
    assert got["verdict"]["answer"] == "too_short"
    assert "The set never traded" in render(got)


def test_the_page_says_the_verdict_first_and_escapes_the_source(found: dict[str, Any]) -> None:
    page = render(found)
    assert page == render(json.loads(json.dumps(found)))
    body = page[page.index("<body>") :]
    assert body.index(found["verdict"]["headline"]) < body.index("Out of sample: walk-forward")
    assert "a <b>test</b> market" not in body
    assert "a &lt;b&gt;test&lt;/b&gt; market" in body
    assert "http" not in page[: page.index("<script>")].replace("http-equiv", "")
    for name in ("walk", "ranks", "halves", "paths", "costs", "null"):
        assert f'id="plot-{name}"' in body


@pytest.mark.parametrize(
    ("name", "value"), [("shifts", 18), ("reps", 99), ("folds", 2), ("trials_before", -1), ("level", 1.0)]
)
def test_settings_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        asked(**{name: value})


def test_lengths_leave_days_to_trade() -> None:
    for n_days in range(6, 400):
        train, test = st.lengths_for(n_days)
        assert 1 <= test <= train < n_days - 1
    assert math.isclose(sum(st.lengths_for(100)), 45)
