"""The sensors of the machinery's health: bounds, monotone in what is good, and what nobody knows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dolphin.risk.health_sensors import (
    beating,
    coherence,
    control_plane,
    data_freshness,
    data_infra,
    freshness,
)
from dolphin.risk.machine import meta_health

any_float = st.floats(allow_nan=True, allow_infinity=True)
unit = st.floats(0.0, 1.0)


@pytest.mark.parametrize(
    ("grid", "scheduler", "expected"),
    [(True, True, 1.0), (True, False, 0.8), (False, True, 0.2), (False, False, 0.0), (None, None, 0.0)],
)
def test_control_plane_weighs_the_two_ports(
    grid: bool | None, scheduler: bool | None, expected: float
) -> None:
    assert control_plane(grid, scheduler) == expected


@pytest.mark.parametrize(
    ("age_s", "expected"),
    [
        (0.0, 1.0), (30.0, 1.0), (30.001, 0.5), (120.0, 0.5), (120.001, 0.0), (math.inf, 0.0),
        (-0.01, 0.0), (-math.inf, 0.0), (math.nan, 0.0), (None, 0.5), (-5e-7, 1.0),
    ],
)  # fmt: skip
def test_freshness_by_age(age_s: float | None, expected: float) -> None:
    """A stamp of the future is stale, but for the rounding of Unix seconds in a float."""
    assert freshness(age_s) == expected


@given(st.floats(0.0, 1e9), st.floats(0.0, 1e9))
def test_freshness_never_rises_with_age(one: float, other: float) -> None:
    assert freshness(max(one, other)) <= freshness(min(one, other))


@given(st.lists(any_float, max_size=8))
def test_data_freshness_is_bounded_whatever_it_is_given(scores: list[float]) -> None:
    assert 0.0 <= data_freshness(scores) <= 1.0


@given(st.lists(unit, min_size=1, max_size=8), st.integers(0, 7), unit)
def test_data_freshness_is_monotone(scores: list[float], at: int, better: float) -> None:
    at %= len(scores)
    raised = [*scores]
    raised[at] = max(better, scores[at])
    assert data_freshness(raised) >= data_freshness(scores)


def test_data_freshness_of_nothing_is_nothing() -> None:
    assert data_freshness([]) == 0.0
    assert data_freshness([math.nan, 1.0]) == 0.5


@given(st.lists(st.booleans(), max_size=8))
def test_data_infra_is_the_share_that_runs(running: list[bool]) -> None:
    share = data_infra(running)
    assert 0.0 <= share <= 1.0
    assert share == (running.count(True) / len(running) if running else 0.0)


@pytest.mark.parametrize(
    ("boost", "beta", "assets", "expected"),
    [
        (1.0, 0.0, 200, 1.0), (3.0, 1.0, 400, 1.0), (1.5, 0.8, 199, 0.5), (1.5, 0.8, None, 0.5),
        (0.999, 0.5, 400, 0.0), (3.001, 0.5, 400, 0.0), (1.5, -0.001, 400, 0.0), (1.5, 1.001, 400, 0.0),
        (None, 0.5, 400, 0.0), (1.5, None, 400, 0.0), (math.nan, 0.5, 400, 0.0), (1.5, math.nan, 400, 0.0),
    ],
)  # fmt: skip
def test_coherence(boost: float | None, beta: float | None, assets: int | None, expected: float) -> None:
    assert coherence(boost, beta, assets) == expected


@given(any_float, any_float, st.one_of(st.none(), st.integers(0, 1000)))
def test_coherence_is_bounded(boost: float, beta: float, assets: int | None) -> None:
    assert coherence(boost, beta, assets) in (0.0, 0.5, 1.0)


def test_beating_counts_fresh_hearts_only() -> None:
    assert beating([1.0, 29.0, 31.0, None]) == 0.5
    assert beating([]) == 0.0


# The first call compiles the kernel.
@settings(deadline=None)
@given(any_float, any_float, any_float, any_float)
def test_score_is_bounded_and_missing_counts_zero(m4: float, m1: float, m3: float, m5: float) -> None:
    score, status = meta_health(m4, m1, m3, m5)
    assert 0.0 <= score <= 1.0
    assert 0 <= status <= 3
    zeroed = [0.0 if math.isnan(m) else m for m in (m4, m1, m3, m5)]
    assert meta_health(*zeroed) == (score, status)


@settings(deadline=None)
@given(st.lists(unit, min_size=4, max_size=4), st.integers(0, 3), unit)
def test_score_is_monotone_in_every_sensor(sensors: list[float], at: int, better: float) -> None:
    raised = [*sensors]
    raised[at] = max(better, sensors[at])
    assert meta_health(*raised)[0] >= meta_health(*sensors)[0]
    assert meta_health(*raised)[1] <= meta_health(*sensors)[1]


@pytest.mark.parametrize("at", range(4))
def test_no_single_sensor_zeroes_the_score(at: int) -> None:
    """The predecessor's product formula did."""
    sensors = [1.0] * 4
    sensors[at] = 0.0
    assert meta_health(*sensors)[0] >= 0.65
