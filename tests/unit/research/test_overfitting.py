"""Overfitting figures against markets whose truth is known, a plain twin, and the papers' own example."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from dolphin.domain.bar import FloatArray
from dolphin.domain.errors import UsageError
from dolphin.research import overfitting as of


def noise(seed: int, n_days: int = 96, n_trials: int = 20, spread: float = 0.01) -> FloatArray:
    return np.random.default_rng(seed).normal(0.0, spread, (n_days, n_trials))


def cscv_twin(returns: FloatArray, n_blocks: int) -> tuple[list[float], list[int]]:
    """The paper's algorithm word by word: joined halves, ranks by scipy."""
    parts = np.array_split(returns, n_blocks)
    logits, chosen = [], []
    for half in itertools.combinations(range(n_blocks), n_blocks // 2):
        inside = np.concatenate([parts[i] for i in half])
        outside = np.concatenate([parts[i] for i in range(n_blocks) if i not in half])
        best = int(np.argmax(inside.mean(axis=0) / inside.std(axis=0)))
        ranks = stats.rankdata(outside.mean(axis=0) / outside.std(axis=0))
        share = ranks[best] / (returns.shape[1] + 1)
        logits.append(math.log(share / (1 - share)))
        chosen.append(best)
    return logits, chosen


@pytest.mark.parametrize(("n_days", "n_blocks"), [(48, 6), (51, 8), (29, 10)])
def test_cscv_is_the_papers_algorithm(n_days: int, n_blocks: int) -> None:
    returns = noise(n_days, n_days, 9)
    found = of.backtest_overfitting(returns, n_blocks)
    logits, chosen = cscv_twin(returns, n_blocks)
    np.testing.assert_allclose(found.logits, logits, rtol=1e-12)
    assert found.chosen.tolist() == np.bincount(chosen, minlength=9).tolist()
    assert found.pbo == np.mean([x <= 0 for x in logits])


def test_pure_noise_is_overfitted_half_of_the_time() -> None:
    """The winner of a search over noise is below the median outside as often as above it."""
    found = [of.backtest_overfitting(noise(seed), 8).pbo for seed in range(120)]
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found) - 0.5) < 3.5 * error
    assert error < 0.03


def test_one_trial_that_is_truly_better_is_not_called_overfitted() -> None:
    for seed in range(20):
        returns = noise(seed)
        returns[:, 7] += 0.01
        found = of.backtest_overfitting(returns)
        assert found.pbo < 0.01
        assert found.chosen.argmax() == 7
        assert found.loss < 0.01


def test_trials_that_pay_back_what_they_earned_are_always_overfitted() -> None:
    """Each trial's good half is its bad other half: the better inside, the worse outside."""
    first = noise(3, 48, 12)
    returns = np.concatenate([first, -first])
    returns[:, 0] += 1e-5
    found = of.backtest_overfitting(returns, 4)
    assert found.pbo > 0.6
    assert found.slope < 0.0
    assert found.loss > 0.6


def test_more_of_an_edge_is_less_overfitted() -> None:
    edges = (0.0, 0.001, 0.003, 0.01)
    mean = []
    for edge in edges:
        shift = np.zeros(20)
        shift[4] = edge
        mean.append(np.mean([of.backtest_overfitting(noise(seed) + shift, 8).pbo for seed in range(25)]))
    assert mean == sorted(mean, reverse=True)
    assert mean[0] - mean[-1] > 0.3


def test_trials_that_never_trade_neither_win_nor_break_anything() -> None:
    returns = noise(1, 40, 5) + 0.01
    returns[:, 2] = 0.0
    found = of.backtest_overfitting(returns)
    assert found.chosen[2] == 0
    assert np.isfinite(found.logits).all()
    idle = of.backtest_overfitting(np.zeros((40, 4)))
    assert idle.pbo == 1.0
    assert math.isnan(idle.slope)


def test_scale_and_order_of_the_trials_change_nothing() -> None:
    returns = noise(5)
    found = of.backtest_overfitting(returns, 8)
    order = np.random.default_rng(0).permutation(20)
    again = of.backtest_overfitting(4.0 * returns[:, order], 8)
    np.testing.assert_allclose(again.logits, found.logits, rtol=1e-12)
    assert again.chosen.tolist() == found.chosen[order].tolist()


def test_blocks_have_two_days_at_least() -> None:
    assert [of.blocks_for(n) for n in (7, 8, 11, 12, 29, 32, 400)] == [0, 4, 4, 6, 14, 16, 16]
    with pytest.raises(UsageError, match="needs 8 days"):
        of.backtest_overfitting(noise(1, 7))
    with pytest.raises(UsageError, match="even number of blocks"):
        of.backtest_overfitting(noise(1), 7)


def test_deflated_sharpe_is_the_papers_example() -> None:
    """Bailey and Lopez de Prado (2014), a numerical example: 100 trials, five years, SR 2.5 a year."""
    variance = 0.5 / 250
    benchmark = of.sharpe_max_expected(100, variance)
    ratio = 2.5 / math.sqrt(250)
    assert benchmark == pytest.approx(0.1132, abs=5e-5)

    def probability(n_trials: int, skew: float, kurtosis: float) -> float:
        line = of.sharpe_max_expected(n_trials, variance)
        return of.probabilistic_sharpe_of(ratio, skew, kurtosis, n_days=1250, benchmark=line)

    assert probability(100, -3.0, 10.0) == pytest.approx(0.9004, abs=5e-5)
    # The paper: with 46 trials it would have passed at 95 %; with normal returns 88 would have.
    assert probability(46, -3.0, 10.0) == pytest.approx(0.9505, abs=5e-5)
    assert probability(88, 0.0, 3.0) == pytest.approx(0.9505, abs=5e-5)


def test_expected_best_of_noise_is_the_mean_of_simulated_bests() -> None:
    """Every trial is noise: the mean of the best of n is what the formula says."""
    for n_trials in (10, 50, 200):
        drawn = np.random.default_rng(n_trials).normal(0.0, 0.07, (20_000, n_trials)).max(axis=1)
        assert of.sharpe_max_expected(n_trials, 0.07**2) == pytest.approx(drawn.mean(), rel=0.03)
    assert of.sharpe_max_expected(1, 0.3) == 0.0
    for n_trials, variance in ((0, 0.1), (5, -0.1), (5, math.nan)):
        with pytest.raises(UsageError, match="expected 1 or more"):
            of.sharpe_max_expected(n_trials, variance)


def test_deflation_makes_the_best_of_noise_unremarkable() -> None:
    """Undeflated, the best of 50 noises looks certain; deflated, it is significant in few searches."""
    plain, deflated = [], []
    for seed in range(200):
        returns = noise(seed, 250, 50)
        ratios = of.sharpe(returns)
        best = returns[:, ratios.argmax()]
        plain.append(of.probabilistic_sharpe(best) > 0.95)
        deflated.append(of.deflated_sharpe(best, ratios, 50).probability > 0.95)
    assert np.mean(plain) > 0.8
    assert np.mean(deflated) <= 0.10


def test_deflated_sharpe_counts_every_trial_that_was_run() -> None:
    returns = noise(2, 200, 10)
    ratios = of.sharpe(returns)
    few = of.deflated_sharpe(returns[:, 0], ratios, 10)
    many = of.deflated_sharpe(returns[:, 0], ratios, 1000)
    assert many.benchmark > few.benchmark > 0.0
    assert many.probability < few.probability
    assert few.variance == pytest.approx(np.var(ratios, ddof=1))
    with pytest.raises(UsageError, match="count every one that was run"):
        of.deflated_sharpe(returns[:, 0], ratios, 9)
    alone = of.deflated_sharpe(returns[:, 0], ratios[:1], 1)
    assert alone.benchmark == 0.0
    assert alone.probability == of.probabilistic_sharpe(returns[:, 0])


def test_probabilistic_sharpe_is_uniform_without_skill() -> None:
    found = [of.probabilistic_sharpe(noise(seed, 200, 1)[:, 0]) for seed in range(400)]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_moments_are_those_of_scipy() -> None:
    returns = np.random.default_rng(4).standard_t(4, 300) * 0.01
    ratio, skew, kurtosis = of.moments_of(returns)
    assert ratio == pytest.approx(returns.mean() / returns.std())
    assert skew == pytest.approx(stats.skew(returns))
    assert kurtosis == pytest.approx(stats.kurtosis(returns, fisher=False))
    still = np.full(9, 0.1)
    assert of.probabilistic_sharpe(still) is math.nan or math.isnan(of.probabilistic_sharpe(still))
    assert math.isnan(of.track_record_min(still))
    with pytest.raises(UsageError, match="fewer than 3"):
        of.probabilistic_sharpe(returns[:2])


def test_track_record_of_that_length_is_just_enough() -> None:
    """The definition: with that many days and the same moments, the probability is the confidence."""
    returns = noise(8, 300, 1)[:, 0] + 0.002
    for benchmark, confidence in ((0.0, 0.95), (0.05, 0.99)):
        n_days = of.track_record_min(returns, benchmark, confidence)
        ratio, skew, kurtosis = of.moments_of(returns)
        spread = 1.0 - skew * ratio + (kurtosis - 1.0) / 4.0 * ratio**2
        z = (ratio - benchmark) * math.sqrt((n_days - 1.0) / spread)
        assert NormalDist().cdf(z) == pytest.approx(confidence, abs=1e-12)
    assert of.track_record_min(-np.abs(returns)) == math.inf
    with pytest.raises(UsageError, match="confidence"):
        of.track_record_min(returns, 0.0, 0.5)


def test_effective_trials_lie_between_one_and_their_number() -> None:
    one = noise(1, 500, 1)
    copies = np.repeat(one, 12, axis=1)
    assert of.effective_trials(copies) == pytest.approx(1.0)
    assert of.effective_trials(noise(2, 4000, 12)) == pytest.approx(12.0, abs=0.3)
    shared = 0.5**0.5 * one + 0.5**0.5 * noise(3, 500, 12)
    assert of.effective_trials(shared) == pytest.approx(0.5 + 0.5 * 12, abs=0.5)
    assert of.effective_trials(np.zeros((9, 3))) == 1.0


def test_superiority_is_seldom_seen_in_noise_and_found_where_it_is() -> None:
    n_markets = 120
    found = [of.superiority(noise(seed, 120, 20), seed=seed, reps=300) for seed in range(n_markets)]
    # Binomial(120, 5 %): at most 13 in all but 1 of 300 cases. The test is known to be on the safe side.
    assert sum(p <= 0.05 for p in found) <= 13
    assert np.median(found) > 0.3
    better = noise(1, 120, 20)
    better[:, 3] += 0.005
    assert of.superiority(better, seed=1, reps=300) < 0.01
    assert math.isnan(of.superiority(np.zeros((20, 2)), seed=1))
    assert of.superiority(better[:40], seed=3, reps=200) == of.superiority(better[:40], seed=3, reps=200)


def test_returns_that_cannot_be_judged_are_refused() -> None:
    broken = noise(1)
    broken[3, 3] = math.nan
    for check in (of.backtest_overfitting, of.effective_trials, lambda r: of.superiority(r, seed=1)):
        with pytest.raises(UsageError, match="not finite"):
            check(broken)
        with pytest.raises(UsageError, match="shape"):
            check(broken[0])
