"""The advisor: a planted effect comes out, noise does not, and what must hold for any trades."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dolphin.domain.errors import DataError
from dolphin.risk.advisor import FREEDOM_MIN, Advice, Outcome, Part, advise, between, chi2_upper_decile

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MOONS = ("new", "first quarter", "full", "last quarter")
HOURS = tuple(f"{hour:02d}h" for hour in range(24))
SPREAD = 0.004
Effect = Callable[[dict[str, str]], float]


def trades(seed: int, n: int, effect: Effect = lambda labels: 0.0) -> list[Outcome]:
    """n trades at random instants; `effect` is in spreads of a trade."""
    rng = random.Random(seed)
    found = []
    for _ in range(n):
        labels = {"weekday": rng.choice(DAYS), "moon": rng.choice(MOONS), "hour": rng.choice(HOURS)}
        found.append(Outcome(labels, SPREAD * (effect(labels) + rng.gauss(0.0, 1.0))))
    return found


def on(day: str, outcomes: list[Outcome], moon: str = "full", hour: str = "05h") -> Advice:
    return advise({"weekday": day, "moon": moon, "hour": hour}, outcomes)


def part(advice: Advice, category: str) -> Part:
    return next(p for p in advice.parts if p.category == category)


# what it is for


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_planted_weekday_comes_out_with_its_sign_and_the_others_stay_near_zero(
    seed: int, sign: float
) -> None:
    planted = trades(seed, 2000, lambda labels: 0.7 * sign * (labels["weekday"] == "Tue"))
    tuesday = on("Tue", planted)
    assert 0.4 < sign * tuesday.score < 1.0
    weekday = part(tuesday, "weekday")
    assert weekday.expectancy == pytest.approx(0.7 * sign * SPREAD, rel=0.35)
    # A shrunken interval holds the truth less often than 95 %: twice its half width always does here.
    assert abs(weekday.expectancy - 0.7 * sign * SPREAD) < weekday.high - weekday.low
    assert weekday.weight > 0.5
    assert weekday.low * weekday.high > 0.0
    others = [on(day, planted).score for day in DAYS if day != "Tue"]
    assert max(map(abs, others)) < 0.25
    assert abs(sum(others) / 6) < 0.1


def test_pure_noise_is_shrunk_to_near_zero() -> None:
    scores, raw = [], []
    for seed in range(60):
        noise = trades(seed, 1000)
        scores += [abs(on(day, noise, MOONS[seed % 4], HOURS[seed % 24]).score) for day in DAYS]
        raw += [
            abs(math.fsum(own) / len(own)) / SPREAD
            for day in DAYS
            if (own := [o.net for o in noise if o.labels["weekday"] == day])
        ]
    assert sum(scores) / len(scores) < 0.025
    assert sorted(scores)[int(0.95 * len(scores))] < 0.1
    # The plain mean of a weekday alone would say twice as much.
    assert sum(scores) / len(scores) < 0.5 * sum(raw) / len(raw)


def test_what_is_no_effect_gets_no_weight_from_one_that_is() -> None:
    planted = on("Tue", trades(3, 2000, lambda labels: float(labels["weekday"] == "Tue")))
    assert part(planted, "weekday").weight > 0.8
    assert math.fsum(p.weight for p in planted.parts) == pytest.approx(1.0)


def test_an_expectancy_that_every_bucket_shares_is_the_score() -> None:
    good = on("Wed", trades(1, 4000, lambda labels: 0.3))
    assert good.score == pytest.approx(0.3, abs=0.06)
    assert on("Wed", trades(1, 4000, lambda labels: -3.0)).score == -1.0


def test_more_trades_shrink_less() -> None:
    def tuesday(n: int) -> float:
        return sum(
            on("Tue", trades(seed, n, lambda labels: float(labels["weekday"] == "Tue"))).score
            for seed in range(8)
        )

    assert tuesday(100) < tuesday(500) < tuesday(4000)


# small numbers


def test_without_trades_the_score_is_zero_and_says_so() -> None:
    advice = on("Mon", [])
    assert (advice.score, advice.n_trades) == (0.0, 0)
    assert [(p.n, p.weight, p.why) for p in advice.parts] == [(0, 0.0, "no trades")] * 3


def test_nothing_asked_is_nothing_said() -> None:
    assert advise({}, trades(1, 100)) == Advice(score=0.0, n_trades=100, parts=())


def test_a_few_trades_say_nothing_yet() -> None:
    few = [Outcome({"weekday": DAYS[k % 2]}, 0.01 + 0.001 * (k % 3)) for k in range(FREEDOM_MIN + 1)]
    advice = advise({"weekday": "Mon"}, few)
    assert advice.score == 0.0
    assert advice.parts[0].why == "too few trades: 21 in 2 buckets, 20 more than buckets are needed"
    more = [*few, Outcome({"weekday": "Tue"}, 0.012)]
    assert advise({"weekday": "Mon"}, more).score > 0.5


def test_trades_without_spread_say_nothing() -> None:
    same = [Outcome({"weekday": "Mon"}, 0.01)] * 50
    advice = advise({"weekday": "Mon"}, same)
    assert advice.score == 0.0
    assert advice.parts[0].why.startswith("no spread")


def test_a_bucket_without_trades_has_the_common_mean_and_a_wider_interval() -> None:
    outcomes = trades(2, 3000, lambda labels: 0.4 + 0.5 * (labels["weekday"] == "Tue"))
    unseen, seen = part(on("holiday", outcomes), "weekday"), part(on("Wed", outcomes), "weekday")
    assert unseen.n == 0
    assert unseen.n_trades == 3000
    assert unseen.expectancy == pytest.approx(0.45 * SPREAD, rel=0.35)
    assert unseen.high - unseen.low > seen.high - seen.low


def test_trades_without_a_bucket_do_not_count_in_that_category() -> None:
    outcomes = trades(5, 400)
    blind = [Outcome({k: v for k, v in o.labels.items() if k != "moon"}, o.net) for o in outcomes[:150]]
    advice = on("Mon", [*blind, *outcomes[150:]])
    assert (part(advice, "moon").n_trades, part(advice, "weekday").n_trades) == (250, 400)
    assert part(on("Mon", blind), "moon").why == "no trades"
    assert part(on("Mon", blind), "weekday").weight > 0.0


def test_one_bucket_alone_gives_its_shrunken_mean() -> None:
    outcomes = [Outcome({"c": "only"}, 0.01 * (-1) ** k + 0.002) for k in range(100)]
    found = advise({"c": "only"}, outcomes).parts[0]
    spread2 = 0.01**2 * 100 / 99
    assert found.expectancy == pytest.approx(0.002 * (1.0 - spread2 / 100 / 0.002**2))
    assert found.score == pytest.approx(found.expectancy / math.sqrt(spread2))
    assert (found.low + found.high) / 2 == pytest.approx(found.expectancy)
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.sqrt(spread2 / 100), rel=1e-4)


def test_a_mean_within_its_own_error_is_zero() -> None:
    outcomes = [Outcome({"c": "only"}, 0.01 * (-1) ** k + 0.0009) for k in range(100)]
    found = advise({"c": "only"}, outcomes).parts[0]
    assert (found.expectancy, found.score) == (0.0, 0.0)
    assert found.low < 0.0 < found.high
    balanced = [Outcome({"c": "only"}, 0.01 * (-1) ** k) for k in range(100)]
    assert advise({"c": "only"}, balanced).score == 0.0


@pytest.mark.parametrize("net", [math.nan, math.inf, -math.inf, 2e6])
def test_a_result_that_is_none_is_refused(net: float) -> None:
    with pytest.raises(DataError, match="a trade's net result by notional is"):
        advise({"weekday": "Mon"}, [Outcome({"weekday": "Mon"}, net)])


# the variance between buckets


def test_the_variance_between_groups_solves_its_equation() -> None:
    y, v = [0.0, 1.0, 3.0, -2.0, 0.5], [0.1, 0.2, 0.1, 0.3, 0.05]
    tau2 = between(y, v)
    weights = [1.0 / (vi + tau2) for vi in v]
    mu = sum(w * yi for w, yi in zip(weights, y, strict=True)) / sum(weights)
    total = sum(w * (yi - mu) ** 2 for w, yi in zip(weights, y, strict=True))
    assert total == pytest.approx(chi2_upper_decile(4), rel=1e-12)
    assert between([1.0], [0.1]) == between([], []) == 0.0
    assert between([0.0, 0.1], [1.0, 1.0]) == 0.0


def test_groups_that_differ_by_chance_are_taken_for_equal_nine_times_of_ten() -> None:
    rng = random.Random(11)
    n, positive = 2000, 0
    for _ in range(n):
        v = [rng.uniform(0.5, 2.0) for _ in range(7)]
        positive += between([rng.gauss(0.0, math.sqrt(vi)) for vi in v], v) > 0.0
    assert 0.08 < positive / n < 0.12


@pytest.mark.parametrize(
    ("freedom", "decile"), [(1, 2.7055), (2, 4.6052), (3, 6.2514), (6, 10.6446), (23, 32.0069), (167, 190.7)]
)
def test_the_decile_is_that_of_the_tables(freedom: int, decile: float) -> None:
    assert chi2_upper_decile(freedom) == pytest.approx(decile, rel=0.03 if freedom < 3 else 0.01)


# for any trades

nets = st.floats(-1.0, 1.0).map(lambda x: round(x, 6))
outcome = st.builds(
    lambda day, moon, net: Outcome({"weekday": day, "moon": moon}, net),
    st.sampled_from(DAYS[:4]), st.sampled_from(MOONS), nets,
)  # fmt: skip
histories = st.lists(outcome, max_size=120)
NOW = {"weekday": "Tue", "moon": "full"}


@settings(deadline=None)
@given(histories)
def test_a_score_is_the_sum_of_its_parts_and_within_one(history: list[Outcome]) -> None:
    advice = advise(NOW, history)
    assert -1.0 <= advice.score <= 1.0
    assert advice.score == pytest.approx(math.fsum(p.contribution for p in advice.parts), abs=1e-12)
    assert advice.n_trades == len(history)
    weights = [p.weight for p in advice.parts]
    assert all(0.0 <= w <= 1.0 for w in weights)
    assert math.fsum(weights) == pytest.approx(0.0 if all(p.why for p in advice.parts) else 1.0)
    for p in advice.parts:
        assert -1.0 <= p.score <= 1.0
        assert p.low <= p.expectancy <= p.high
        assert p.n == sum(o.labels[p.category] == p.bucket for o in history)


@settings(deadline=None)
@given(histories, st.randoms(use_true_random=False))
def test_the_order_of_the_trades_changes_no_bit(history: list[Outcome], rng: random.Random) -> None:
    shuffled = list(history)
    rng.shuffle(shuffled)
    assert advise(NOW, shuffled) == advise(NOW, history)


@settings(deadline=None)
@given(histories)
def test_the_other_sign_turns_the_score(history: list[Outcome]) -> None:
    turned = advise(NOW, [Outcome(o.labels, -o.net) for o in history])
    assert turned.score == pytest.approx(-advise(NOW, history).score, abs=1e-9)


@settings(deadline=None)
@given(histories, st.sampled_from([0.25, 8.0, 1024.0]))
def test_a_larger_unit_changes_no_score(history: list[Outcome], factor: float) -> None:
    scaled = advise(NOW, [Outcome(o.labels, factor * o.net) for o in history])
    assert scaled.score == pytest.approx(advise(NOW, history).score, abs=1e-9)


@settings(deadline=None)
@given(histories)
def test_an_estimate_lies_between_zero_or_the_common_mean_and_the_buckets_own(history: list[Outcome]) -> None:
    found = part(advise(NOW, history), "weekday")
    own = [o.net for o in history if o.labels["weekday"] == "Tue"]
    every = [o.net for o in history]
    if found.why or not own:
        return
    means = [math.fsum(o.net for o in history if o.labels["weekday"] == day) / n
             for day in DAYS if (n := sum(o.labels["weekday"] == day for o in history))]  # fmt: skip
    assert min(0.0, *means) - 1e-12 <= found.expectancy <= max(0.0, *means) + 1e-12
    assert min(every) - 1e-12 <= found.expectancy or found.expectancy >= -1e-12
