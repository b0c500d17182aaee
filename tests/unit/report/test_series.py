"""Thinning keeps every spike; drawdown and ranges are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from dolphin.report.series import POINTS_MAX, drawdown, min_max_indices, shown_range


@pytest.mark.parametrize("n", [0, 1, 2, 3999, 4000, 4001, 7999, 40_000, 100_003])
def test_indices_ascend_and_fit(n):
    values = np.random.default_rng(n).standard_normal(n)
    keep = min_max_indices(values)
    assert len(keep) <= POINTS_MAX
    assert np.all(np.diff(keep) > 0)
    if n:
        assert keep[0] == 0
        assert keep[-1] == n - 1
    if n <= POINTS_MAX:
        assert len(keep) == n


def test_a_lonely_spike_survives():
    for at in (1, 17_123, 39_998):
        values = np.zeros(40_000)
        values[at] = -3.0
        assert at in min_max_indices(values)


def test_thinned_extremes_equal_the_slow_way():
    values = np.random.default_rng(3).standard_normal(10_000)
    keep = set(min_max_indices(values, 100).tolist())
    size = -(-10_000 // 49)
    for start in range(0, 10_000, size):
        bucket = values[start : start + size]
        assert {start + int(bucket.argmin()), start + int(bucket.argmax())} <= keep


def test_gaps_stay_gaps_and_do_not_hide_values():
    values = np.full(20_000, np.nan)
    values[12_000] = 5.0
    keep = min_max_indices(values)
    assert 12_000 in keep
    assert np.isnan(values[keep]).sum() == len(keep) - 1
    values[:] = np.inf
    assert len(min_max_indices(values)) <= POINTS_MAX


def test_drawdown():
    assert drawdown(np.zeros(0)).shape == (0,)
    np.testing.assert_allclose(
        drawdown(np.array([100.0, 110.0, 99.0, np.nan, 121.0])), [0.0, 0.0, -0.1, np.nan, 0.0]
    )
    assert np.isnan(drawdown(np.array([np.nan, 5.0]))[0])


def test_shown_range_leaves_spikes_outside_and_levels_inside():
    values = np.random.default_rng(1).normal(0.0, 0.005, 40_000)
    values[100] = 9.0
    low, high = shown_range(values, (-0.02, -0.05))
    assert -0.07 < low < -0.05
    assert high < 0.1
    assert shown_range(np.full(3, np.nan), ()) == (-1.0, 1.0)
    low, high = shown_range(np.full(3, 2.0), ())
    assert low < 2.0 < high
