"""Bootstrap: figures against plain loops, coverage against known truth, equal bits for equal seeds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dolphin.domain.bar import FloatArray
from dolphin.domain.errors import UsageError
from dolphin.research import bootstrap as bs


def days_of(returns: FloatArray) -> bs.Days:
    """Days with one trade each, whose result is the day's."""
    gains = np.maximum(returns, 0.0)
    losses = np.maximum(-returns, 0.0)
    return bs.Days(
        returns=returns, low=1.0 - losses, high=1.0 + gains, fall=losses,
        trades=np.ones(len(returns)), wins=(returns > 0) * 1.0,
        gross_profit=gains * 1000, gross_loss=losses * 1000, net_return=returns / 2,
    )  # fmt: skip


def series(seed: int, n_days: int, mean: float = 0.0, memory: float = 0.0) -> FloatArray:
    noise = np.random.default_rng(seed).normal(0.0, 0.01, n_days + 50)
    out = np.empty_like(noise)
    last = 0.0
    for i, step in enumerate(noise):
        last = memory * last + step * math.sqrt(1.0 - memory**2)
        out[i] = last
    return mean + out[50:]


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 12))
def test_drawdown_from_days_is_the_drawdown_of_every_bar(seed: int, n_days: int, n_bars: int) -> None:
    """What makes a day-by-day resample exact: lowest, highest and own fall of a day are enough."""
    rng = np.random.default_rng(seed)
    equity = 1000.0 * np.exp(np.cumsum(rng.normal(0, 0.02, n_days * n_bars)))
    day = np.repeat(np.arange(n_days), n_bars)
    parts = bs.days_of_equity(equity, day, 1000.0)
    days = replace(days_of(parts["returns"]), **parts)
    path = np.concatenate([[1000.0], equity])
    peak = np.maximum.accumulate(path)
    assert bs.headline(days)["max_drawdown"] == pytest.approx((1.0 - path / peak).max(), abs=1e-12)
    assert bs.headline(days)["roi"] == pytest.approx(equity[-1] / 1000.0 - 1.0, abs=1e-12)


def test_figures_are_their_definitions() -> None:
    days = bs.Days(
        returns=np.array([0.02, -0.01, 0.0, 0.01]), low=np.array([0.99, 0.985, 1.0, 1.0]),
        high=np.array([1.02, 1.0, 1.0, 1.01]), fall=np.array([0.012, 0.015, 0.0, 0.002]),
        trades=np.array([3.0, 2.0, 0.0, 1.0]), wins=np.array([2.0, 0.0, 0.0, 1.0]),
        gross_profit=np.array([30.0, 0.0, 0.0, 10.0]), gross_loss=np.array([5.0, 11.0, 0.0, 0.0]),
        net_return=np.array([0.006, -0.003, 0.0, 0.003]),
    )  # fmt: skip
    got = bs.headline(days)
    returns = [0.02, -0.01, 0.0, 0.01]
    assert got["roi"] == pytest.approx(1.02 * 0.99 * 1.01 - 1)
    assert got["profit_factor"] == pytest.approx(40 / 16)
    assert got["sharpe"] == pytest.approx(np.mean(returns) / np.std(returns, ddof=1) * math.sqrt(365))
    assert got["win_rate"] == 0.5
    assert got["mean_net"] == pytest.approx(24 / 6)
    assert got["mean_return"] == pytest.approx(0.001)
    assert got["max_drawdown"] == pytest.approx(0.015)
    idle = bs.headline(replace(days, trades=np.zeros(4), returns=np.zeros(4)))
    assert [idle[name] for name in ("profit_factor", "win_rate", "mean_net", "mean_return", "sharpe")] == [
        None
    ] * 5
    assert bs.headline(days.take(np.array([0, 1])))["sharpe"] is None


@pytest.mark.parametrize(("memory", "n_days"), [(0.0, 250), (0.3, 400)])
def test_the_interval_covers_the_truth_as_often_as_it_says(memory: float, n_days: int) -> None:
    """300 series with a known mean; 95 % +- 3 binomial deviations, the side of too few a little wider.

    Dependent days are the hard case: intervals from single days would cover about 86 %.
    """
    n_series, mean = 300, 0.001
    covered = 0
    for seed in range(n_series):
        found = bs.intervals(days_of(series(seed, n_days, mean, memory)), seed=seed, reps=400)
        got = found.figures["mean_return"]
        assert got.low is not None
        assert got.high is not None
        covered += got.low <= mean / 2 <= got.high
    deviation = math.sqrt(0.95 * 0.05 / n_series)
    assert 0.95 - 4 * deviation <= covered / n_series <= 0.95 + 3 * deviation


def test_a_month_of_days_covers_less_and_the_answer_says_so() -> None:
    """The known weakness of percentile intervals in a short sample, measured rather than hidden."""
    covered = 0
    for seed in range(300):
        found = bs.intervals(days_of(series(seed, 28, 0.001)), seed=seed, reps=400)
        assert "28 days are few" in found.words
        got = found.figures["mean_return"]
        assert got.low is not None
        assert got.high is not None
        assert got.words == found.words
        covered += got.low <= 0.0005 <= got.high
    assert 0.84 <= covered / 300 <= 0.95
    assert bs.intervals(days_of(series(1, 60)), seed=1, reps=100).words == ""


def test_equal_seeds_give_equal_bits_and_others_do_not() -> None:
    days = days_of(series(4, 40))
    first, again, other = (bs.intervals(days, seed=seed, reps=300) for seed in (7, 7, 8))
    assert first == again
    assert first.figures["roi"] != other.figures["roi"]


def test_few_days_have_no_interval_and_say_so_in_words() -> None:
    for n_days in (1, 4):
        found = bs.intervals(days_of(series(1, n_days)), seed=1)
        assert "no interval is honest on fewer than 5" in found.words
        for got in found.figures.values():
            assert (got.low, got.high, got.below_zero) == (None, None, None)
        assert found.figures["roi"].value is not None
    assert bs.intervals(days_of(series(1, 5)), seed=1).figures["roi"].low is not None


def test_the_interval_is_where_the_resamples_are() -> None:
    days = days_of(series(2, 80, 0.002))
    found = bs.intervals(days, seed=3, reps=1000, block_days=1)
    roi = found.figures["roi"]
    drawn = np.array(
        [bs.headline(days.take(idx))["roi"] for idx in bs.resamples(80, 1, 1000, 3)], dtype=np.float64
    )
    assert roi.low == pytest.approx(np.quantile(drawn, 0.025, method="inverted_cdf"))
    assert roi.high == pytest.approx(np.quantile(drawn, 0.975, method="inverted_cdf"))
    assert roi.below_zero == pytest.approx((drawn <= 0).mean())
    wide = bs.intervals(days, seed=3, reps=1000, block_days=1, level=0.99).figures["roi"]
    assert wide.low is not None
    assert wide.high is not None
    assert roi.low is not None
    assert roi.high is not None
    assert wide.low < roi.low < roi.high < wide.high


def test_blocks_are_as_long_as_the_dependence() -> None:
    independent = np.mean([bs.block_length(series(seed, 400)) for seed in range(20)])
    dependent = np.mean([bs.block_length(series(seed, 400, memory=0.6)) for seed in range(20)])
    assert independent < 5 < dependent
    assert bs.block_length(series(1, 9)) == 1
    assert bs.block_length(np.zeros(50)) == 1
    rows = bs.resamples(60, 6, 400, 1)
    joined = (np.diff(rows, axis=1) % 60 == 1).mean()
    assert joined == pytest.approx(1 - 1 / 6 + 1 / 6 / 60, abs=0.01)


def test_a_figure_that_is_often_undefined_has_no_interval() -> None:
    days = days_of(series(1, 30))
    rare = replace(days, trades=np.eye(30)[3], wins=np.eye(30)[3])
    got = bs.intervals(rare, seed=1, reps=200).figures["win_rate"]
    assert got.value == 1.0
    assert got.low is None
    assert "no interval is honest" in got.words


def test_a_profit_factor_without_losses_is_unbounded_not_wrong() -> None:
    days = days_of(np.abs(series(1, 30)))
    got = bs.intervals(days, seed=1, reps=200).figures["profit_factor"]
    assert got.value is None
    assert got.high == math.inf


def test_what_cannot_be_resampled_is_refused() -> None:
    days = days_of(series(1, 30))
    for settings in ({"reps": 99}, {"level": 1.0}):
        with pytest.raises(UsageError, match="expected 100 or more"):
            bs.intervals(days, seed=1, **settings)
    with pytest.raises(UsageError, match="wins has shape"):
        replace(days, wins=np.ones(3))
    with pytest.raises(UsageError, match="all finite"):
        replace(days, returns=np.full(30, math.nan))
