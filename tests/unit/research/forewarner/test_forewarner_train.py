"""Training: trials are the engine's, labels stand on their boundaries, rounds are told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from drawn_market import VOL_THRESHOLD, StepTrials, make_record

from dolphin.domain.errors import UsageError
from dolphin.domain.params import CHAMPION, GOLD, ParameterSet
from dolphin.engine.market import PeriodInputs
from dolphin.research.forewarner import train as training
from dolphin.research.forewarner.artefact import Artefact, Forewarner
from dolphin.research.forewarner.markets import N_GROUPS, Breaker, Record, bootstrap
from dolphin.research.forewarner.sample import parameters, sample
from dolphin.research.forewarner.table import ROWS, Row, coordinates, widened
from dolphin.research.forewarner.train import (
    RATE_MAX,
    RATE_MIN,
    ROUNDS_MAX,
    WIDEN,
    Progress,
    Trained,
    TrainingRefusedError,
    TrainSettings,
    train,
)
from dolphin.research.forewarner.trials import Outcomes, catastrophic, good, period_trials


def as_artefact(trained: Trained) -> Artefact:
    rows = tuple(Row(**row) for row in trained.manifest["ranges"])
    return Artefact(trained.models, rows, trained.manifest["envelope_scale"], "x", trained.manifest)


def outcomes(roi: Sequence[float], drawdown: Sequence[float]) -> Outcomes:
    return Outcomes(np.array(roi), np.array(drawdown), np.zeros(len(roi), dtype=np.int64))


class ByExposure:
    """Trials without an engine: ruin where the position is large, beyond a limit."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.calls = 0

    def __call__(self, market: PeriodInputs, sets: Sequence[ParameterSet]) -> Outcomes:
        self.calls += 1
        exposure = np.array([p.fraction * min(p.max_leverage, p.abs_max_leverage) for p in sets])
        return Outcomes(
            -0.01 * exposure,
            np.where(exposure > self.limit, 0.9, 0.1),
            np.ones(len(sets), dtype=np.int64),
        )


def test_a_trial_is_what_the_engine_makes_of_it_bar_by_bar(record: Record) -> None:
    market = bootstrap(record, record.groups()[0], 6, [1], Breaker(1.2, 0.1, 50.0))
    sets = [CHAMPION, GOLD, *(parameters(c) for c in sample(ROWS, 8, 1, 5).configurations)]
    compiled = period_trials(VOL_THRESHOLD)(market, sets)
    slow = StepTrials(VOL_THRESHOLD)(market, sets)
    assert compiled.roi.tolist() == slow.roi.tolist()
    assert compiled.max_drawdown.tolist() == slow.max_drawdown.tolist()
    assert compiled.trades.tolist() == slow.trades.tolist()
    assert compiled.trades.min() > 0


def test_a_catastrophe_begins_beyond_its_boundaries() -> None:
    up, down = math.nextafter(0.40, 1.0), math.nextafter(-0.30, -1.0)
    found = catastrophic(outcomes([0.0, 0.0, -0.30, down], [0.40, up, 0.30, 0.30]))
    assert found.tolist() == [False, True, False, True]


def test_the_good_half_is_of_its_own_market_and_never_a_catastrophe() -> None:
    found = good(
        outcomes([-0.2, -0.1, 0.5, 0.1, 0.2, 0.3], [0.1, 0.1, 0.9, 0.1, 0.1, 0.1]),
        np.array([0, 0, 0, 1, 1, 1]),
    )
    assert found.tolist() == [False, True, False, False, True, True]


def test_groups_of_days_are_kept_apart(trained: Trained, record: Record) -> None:
    days = trained.manifest["days"]
    everyone = [date for group in [*days["teaching"], days["held_out"]] for date in group]
    assert sorted(everyone) == [day.date for day in record.days]
    assert len(days["teaching"]) == N_GROUPS - 1


def test_the_held_out_figures_are_those_of_the_models_on_trials_they_never_saw(
    trained: Trained, record: Record, settings: TrainSettings
) -> None:
    """AUC by counting pairs and Brier by hand, over the last group run again."""
    drawn = sample(widened(1.0), settings.n_trials, settings.n_markets, settings.seed)
    run = period_trials(VOL_THRESHOLD)
    artefact = as_artefact(trained)
    truth: list[bool] = []
    said: list[float] = []
    for market in range(settings.n_markets * (N_GROUPS - 1) // N_GROUPS, settings.n_markets):
        own = [drawn.configurations[trial] for trial in drawn.of_market(market)]
        breaker = Breaker(*(float(own[0][row.name]) for row in ROWS if row.of_market))
        prices = bootstrap(
            record, record.groups()[-1], settings.days_per_trial, [settings.seed, 2, market], breaker
        )
        truth += catastrophic(run(prices, [parameters(c) for c in own])).tolist()
        x = np.array([coordinates(c, artefact.rows) for c in own])
        said += artefact.models["classifier"].predict_proba(x)[:, 1].tolist()
    bad = [p for p, t in zip(said, truth, strict=True) if t]
    fine = [p for p, t in zip(said, truth, strict=True) if not t]
    auc = sum((a > b) + 0.5 * (a == b) for a in bad for b in fine) / (len(bad) * len(fine))
    metrics = trained.manifest["metrics"]
    assert metrics["catastrophes_held_out"] == len(bad)
    assert metrics["trials_held_out"] == len(truth)
    assert metrics["base_rate_held_out"] == pytest.approx(len(bad) / len(truth))
    assert metrics["auc_held_out"] == pytest.approx(auc)
    brier = sum((p - t) ** 2 for p, t in zip(said, truth, strict=True)) / len(truth)
    assert metrics["brier_held_out"] == pytest.approx(brier)
    assert auc > 0.65, "size alone must be worth something"


def test_the_same_record_and_seed_give_the_same_figures_and_answers(
    trained: Trained, record: Record, settings: TrainSettings
) -> None:
    again = train(record, settings)
    assert again.manifest == trained.manifest
    first, second = (Forewarner(as_artefact(t)) for t in (trained, again))
    for boost in (0.5, 1.0, 1.35, 2.0):
        for params in (CHAMPION, GOLD):
            assert first.assess(params, boost, 9) == second.assess(params, boost, 9)
    other = train(record, replace(settings, seed=2))
    assert other.manifest["metrics"] != trained.manifest["metrics"]


def test_more_size_is_never_said_to_be_safer(trained: Trained) -> None:
    artefact = as_artefact(trained)
    wide = CHAMPION.with_values({"abs_max_leverage": 12.0})
    for name, values in (
        ("max_leverage", np.linspace(0.5, 20.0, 25)),
        ("fraction", np.linspace(0.02, 1.0, 25)),
    ):
        said = [artefact.numbers(wide.with_values({name: float(value)}), 1.0)[0] for value in values]
        assert all(a <= b for a, b in pairwise(said))
        assert said[0] < said[-1]
    by_boost = [artefact.numbers(CHAMPION, boost)[0] for boost in np.linspace(0.5, 4.0, 30).tolist()]
    assert all(a <= b for a, b in pairwise(by_boost))


def test_the_envelope_is_scaled_by_held_out_good_trials(
    trained: Trained, record: Record, settings: TrainSettings
) -> None:
    """-1 is their 1 % quantile, and more than half of them lie inside, few as they are here."""
    drawn = sample(widened(1.0), settings.n_trials, settings.n_markets, settings.seed)
    markets = range(settings.n_markets * (N_GROUPS - 1) // N_GROUPS, settings.n_markets)
    outcomes = training._run_markets(
        record,
        record.groups(),
        settings,
        period_trials(VOL_THRESHOLD),
        None,
        lambda: False,
        drawn,
        markets,
        0,
    )
    first = len(drawn.configurations) - len(outcomes.roi)
    fine = good(outcomes, np.array(drawn.market_of[first:]))
    artefact = as_artefact(trained)
    x = np.array([coordinates(c, artefact.rows) for c in drawn.configurations[first:]])
    score = artefact.models["envelope"].decision_function(x[fine][:, :-1]) / artefact.envelope_scale
    assert np.quantile(score, 0.01) == pytest.approx(-1.0)
    inside = float((score > 0.0).mean())
    assert inside == trained.manifest["metrics"]["good_inside_held_out"]
    assert inside > 0.5


def test_the_figures_named_as_scaled_on_held_out_trials_are_those_that_feel_the_scale(
    trained: Trained,
) -> None:
    """Every figure again with another scale: the named ones move, and no other does."""
    rng = np.random.default_rng(3)
    n = 400
    bad = rng.random(n) < 0.2
    held = np.arange(n) >= 300
    probability, score = rng.random(n) * 0.3, rng.normal(0.0, 1.0, n)
    made = Outcomes(rng.normal(size=n), rng.random(n), np.ones(n, dtype=np.int64))

    def flat(scale: float) -> dict[str, Any]:
        found = training._metrics(bad, ~bad, held, probability, score / scale, made)
        gates = found.pop("gates_held_out")
        return {**found, **{f"gates_held_out.{name}": count for name, count in gates.items()}}

    one, other = flat(1.0), flat(3.0)
    moved = {name for name in one if one[name] != other[name]}
    assert moved == set(trained.manifest["metrics"]["scaled_on_held_out"])


class RuinHeldOut(ByExposure):
    """Ruin by exposure, but on the held-out markets in a fixed share of the trials."""

    def __init__(self, share: float, n_teaching: int) -> None:
        super().__init__(7.0)
        self.share = share
        self.n_teaching = n_teaching
        self.held_out = False
        self.asked: list[bool] = []

    def told(self, p: Progress) -> None:
        """The ranges stand when a round has ended inside the bounds."""
        done = p.done == p.total == self.n_teaching
        self.held_out |= done and RATE_MIN <= p.catastrophes / p.total <= RATE_MAX

    def __call__(self, market: PeriodInputs, sets: Sequence[ParameterSet]) -> Outcomes:
        self.asked.append(self.held_out)
        found = super().__call__(market, sets)
        if not self.held_out:
            return found
        k = np.arange(len(sets))
        return replace(found, max_drawdown=np.where(k < self.share * len(sets), 0.9, 0.1))


def test_held_out_outcomes_choose_no_range(record: Record, settings: TrainSettings) -> None:
    """Much ruin or little on the held-out days: the rounds and the ranges are the same."""
    held_out = settings.n_markets // N_GROUPS
    manifests = []
    for share in (0.1, 0.5):
        trials = RuinHeldOut(share, settings.n_trials * (N_GROUPS - 1) // N_GROUPS)
        manifests.append(train(record, settings, trials, trials.told).manifest)
        assert trials.asked == [False] * (len(trials.asked) - held_out) + [True] * held_out
    low, high = manifests
    assert low["metrics"]["base_rate_held_out"] < 0.2 < 0.4 < high["metrics"]["base_rate_held_out"]
    assert len(low["rounds"]) > 1
    for key in ("rounds", "ranges", "repairs"):
        assert low[key] == high[key], key


def test_too_few_catastrophes_to_measure_by_are_refused(record: Record, settings: TrainSettings) -> None:
    calls = iter(range(10**6))

    def never_held_out(market: PeriodInputs, sets: Sequence[ParameterSet]) -> Outcomes:
        teaches = next(calls) < settings.n_markets * (N_GROUPS - 1) // N_GROUPS
        return outcomes([0.0] * len(sets), [0.9 if teaches and k < 3 else 0.1 for k in range(len(sets))])

    with pytest.raises(TrainingRefusedError, match="0 catastrophes in 128 held-out trials") as refused:
        train(record, settings, never_held_out)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("limit", "direction"), [(7.0, 1), (0.9, -1)])
def test_rounds_move_the_sizes_until_ruin_is_neither_rare_nor_common(
    record: Record, settings: TrainSettings, limit: float, direction: int
) -> None:
    told: list[Progress] = []
    found = train(record, settings, ByExposure(limit), told.append)
    rounds = found.manifest["rounds"]
    assert len(rounds) > 1
    for before, after in pairwise(rounds):
        assert not RATE_MIN <= before["rate"] <= RATE_MAX
        if len(rounds) == 2:
            assert after["factor"] == pytest.approx(before["factor"] * WIDEN**direction)
    assert rounds[0]["factor"] == 1.0
    assert RATE_MIN <= rounds[-1]["rate"] <= RATE_MAX
    assert rounds[-1]["rate"] == rounds[-1]["catastrophes"] / rounds[-1]["trials"]
    highs = {row["name"]: row["high"] for row in found.manifest["ranges"]}
    base = {row["name"]: row["high"] for row in found.manifest["table"]}
    assert (highs["max_leverage"] - base["max_leverage"]) * direction > 0
    assert highs["fixed_tp_pct"] == base["fixed_tp_pct"]
    held_out = settings.n_trials // N_GROUPS
    teaching = settings.n_trials - held_out
    ends = [(p.round, p.total) for p in told if p.done == p.total]
    assert ends == [*((k + 1, teaching) for k in range(len(rounds))), (0, held_out)]
    caught = [p.catastrophes for p in told if p.done == p.total]
    assert caught == [
        *(r["catastrophes"] for r in rounds),
        found.manifest["metrics"]["catastrophes_held_out"],
    ]


@pytest.mark.parametrize("limit", [1e9, -1.0])
def test_ruin_that_never_or_always_comes_is_refused_with_every_round(
    record: Record, settings: TrainSettings, limit: float
) -> None:
    trials = ByExposure(limit)
    with pytest.raises(TrainingRefusedError) as refused:
        train(record, settings, trials)
    line = str(refused.value)
    assert "\n" not in line
    assert line.count("% at x") == ROUNDS_MAX
    assert "expected 5% to 30%" in line
    assert trials.calls == ROUNDS_MAX * settings.n_markets * (N_GROUPS - 1) // N_GROUPS


def test_a_group_without_catastrophes_is_refused(record: Record, settings: TrainSettings) -> None:
    calls = iter(range(10**6))

    def only_later(market: PeriodInputs, sets: Sequence[ParameterSet]) -> Outcomes:
        teaching = settings.n_markets * (N_GROUPS - 1) // N_GROUPS
        late = next(calls) % teaching >= teaching // 3
        drawdown = [0.9 if late and k < 6 else 0.1 for k in range(len(sets))]
        return outcomes([0.0] * len(sets), drawdown)

    with pytest.raises(TrainingRefusedError, match="at last the fewest were 0") as refused:
        train(record, settings, only_later)
    assert "25.0% at x1.00, 25.0% at x1.40" in str(refused.value), "wider and wider, though the share is fine"


def test_what_could_not_act_is_said(trained: Trained) -> None:
    found: dict[str, Any] = trained.manifest["could_not_act"]
    assert {"ob_imbalance_bias", "ob_depth_scale", "exclude_stablecoins"} == set(found)


def test_an_asked_stop_ends_it(record: Record, settings: TrainSettings) -> None:
    trials = ByExposure(2.0)
    with pytest.raises(KeyboardInterrupt):
        train(record, settings, trials, stop_requested=lambda: trials.calls == 2)
    assert trials.calls == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [({"n_trials": 63}, "trials"), ({"days_per_trial": 0}, "days_per_trial"), ({"seed": -1}, "seed")],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, int], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        TrainSettings(**change)


def test_a_missing_library_is_one_line(
    record: Record, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "skops", None)
    with pytest.raises(UsageError, match="install it with make research"):
        train(record, settings)


def test_another_record_is_another_hash() -> None:
    assert make_record(seed=1).data_hash != make_record(seed=2).data_hash
