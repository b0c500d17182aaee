"""The null of shifted signals: exact where it must be, uniform, powerful, blind to costs and wild hours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dolphin.domain.bar import FloatArray
from dolphin.domain.errors import UsageError
from dolphin.research import null


@given(st.integers(400, 100_000), st.integers(1, 400), st.integers(1, 200))
def test_shifts_keep_their_distance_and_are_evenly_spaced(n_bars: int, wanted: int, distance: int) -> None:
    shifts = null.shifts_for(n_bars, wanted, distance)
    assert 1 <= len(shifts) <= wanted
    assert shifts[0] >= distance
    assert n_bars - shifts[-1] >= distance
    steps = np.diff([0, *shifts, n_bars])
    assert steps.max() - steps.min() <= 1
    if len(shifts) < wanted:
        assert (len(shifts) + 2) * distance > n_bars


def test_a_record_too_short_for_any_shift_is_refused() -> None:
    assert null.shifts_for(340, 99, null.distance_for(120)).tolist() == [170]
    with pytest.raises(UsageError, match="hold no shift"):
        null.shifts_for(339, 99, null.distance_for(120))
    with pytest.raises(UsageError, match="expected 1 or more"):
        null.shifts_for(1000, 0, 5)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40))
def test_p_counts_the_runs_that_did_at_least_as_well(values: list[int]) -> None:
    observed, others = float(values[0]), np.array(values[1:], dtype=np.float64)
    better = sum(v >= observed for v in others)
    assert null.p_value(observed, others) == (better + 1) / (len(others) + 1)


def market(seed: int, n_bars: int = 6000, edge: float = 0.0) -> tuple[FloatArray, FloatArray]:
    """Returns per bar in calm and wild hours, a signal that prefers the wild ones, an edge after a signal."""
    rng = np.random.default_rng(seed)
    wild = 1.0 + 4.0 * (np.sin(np.arange(n_bars) / 150.0 + rng.uniform(0, 6)) > 0.6)
    signal = np.zeros(n_bars)
    signal[rng.random(n_bars) < 0.01 * wild] = 1.0
    returns = rng.normal(0, 1e-3, n_bars) * wild
    returns += edge * np.roll(signal, 1)
    return returns, signal


def runner(
    returns: FloatArray, signal: FloatArray, cost: float = 0.0
) -> Callable[[Sequence[int]], list[FloatArray]]:
    def run(shifts: Sequence[int]) -> list[FloatArray]:
        return [np.roll(returns, -1)[np.roll(signal, k) > 0] - cost for k in shifts]

    return run


def p_of(seed: int, edge: float = 0.0, cost: float = 0.0, drift: float = 0.0) -> float:
    returns, signal = market(seed, edge=edge)
    shifts = null.shifts_for(len(returns), 99, 20)
    return null.circular_shift_null(runner(returns + drift, signal, cost), shifts, 20).p_value


def bare_p_of(seed: int) -> float:
    """The p-value of the mean itself, not divided by its standard error."""
    returns, signal = market(seed)
    means = np.array([run.mean() for run in runner(returns, signal)([0, *null.shifts_for(6000, 99, 20)])])
    return null.p_value(means[0], means[1:])


def test_without_an_edge_p_is_uniform_though_signals_prefer_wild_hours() -> None:
    """A bare mean over wild hours is called special in far more than one market of twenty."""
    assert np.mean([bare_p_of(seed) <= 0.05 for seed in range(400)]) > 0.1
    found = np.array([p_of(seed) for seed in range(400)])
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert abs((found <= 0.05).mean() - 0.05) <= 3 * (0.05 * 0.95 / 400) ** 0.5


def test_an_edge_is_found() -> None:
    found = np.array([p_of(seed, edge=0.0015) for seed in range(60)])
    assert (found <= 0.05).mean() > 0.8


def test_costs_and_a_drifting_market_do_not_pass_for_an_edge() -> None:
    for settings in ({"cost": 0.002}, {"drift": 0.002}):
        found = np.array([p_of(seed, **settings) for seed in range(200)])
        assert abs((found <= 0.05).mean() - 0.05) <= 3 * (0.05 * 0.95 / 200) ** 0.5


def test_rank_of_the_observed_is_uniform_under_exact_exchangeability() -> None:
    """Whichever run is called the observed one, exactly the share alpha of them is called significant."""
    rng = np.random.default_rng(5)
    runs = [rng.normal(0, 1, rng.integers(5, 40)) for _ in range(20)]
    found = []
    for k in range(20):
        turned = runs[k:] + runs[:k]
        made = null.circular_shift_null(lambda shifts, t=turned: t, np.arange(1, 20), 1)  # type: ignore[misc]
        found.append(made.p_value)
    assert sorted(found) == pytest.approx([(i + 1) / 20 for i in range(20)])


def test_what_was_run_is_what_is_told() -> None:
    runs = [np.array([0.01, 0.03]), np.array([0.0]), np.array([]), np.array([-0.02, 0.0, 0.02])]
    got = null.circular_shift_null(lambda shifts: runs, np.array([10, 20, 30]), 10)
    assert got.trades_observed == 2
    assert got.trades_null.tolist() == [1, 0, 3]
    assert got.mean_observed == pytest.approx(0.02)
    # One trade and none have no spread: they count as average, and nothing is divided by zero.
    assert got.null.tolist()[:2] == [0.0, 0.0]
    assert got.p_value == 0.25
    asked: list[list[int]] = []
    null.circular_shift_null(lambda s: asked.append(list(s)) or runs, np.array([10, 20, 30]), 10)  # type: ignore[func-returns-value]
    assert asked == [[0, 10, 20, 30]]
    with pytest.raises(UsageError, match="4 runs for 1 shifts"):
        null.circular_shift_null(lambda shifts: runs, np.array([10]), 10)


def test_a_strategy_without_trades_is_no_evidence() -> None:
    nothing = [np.array([])] * 10
    got = null.circular_shift_null(lambda shifts: nothing, np.arange(1, 10), 1)
    assert got.p_value == 1.0
