"""Esoteric haircut, its fold, the machinery's health and the exchange's leverage setting."""

from __future__ import annotations

from math import nan, nextafter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dolphin.risk.esoteric import esof_fold, esof_mult
from dolphin.risk.machine import (
    CURVE_CUBIC,
    CURVE_LINEAR,
    CURVES,
    HEALTH_STATUSES,
    exchange_leverage,
    meta_health,
    round_half_even,
)


def below(x: float) -> float:
    return nextafter(x, -9e9)


def above(x: float) -> float:
    return nextafter(x, 9e9)


@pytest.mark.parametrize(
    ("score", "mult"),
    [
        (1.0, 1.0),
        (0.2700001, 1.0),
        (0.2299999, 0.9),
        (0.15, 0.9),
        (0.0700001, 0.9),
        (0.0299999, 0.8),
        (0.0, 0.8),
        (-0.0299999, 0.8),
        (-0.0700001, 0.65),
        (-0.15, 0.65),
        (-0.2299999, 0.65),
        (-0.2700001, 0.3),
        (-1.0, 0.3),
    ],
)
def test_levels_between_their_edges(score: float, mult: float) -> None:
    assert esof_mult(score, 0.0) == mult


@pytest.mark.parametrize(
    ("boundary", "low", "high"), [(-0.25, 0.3, 0.65), (-0.05, 0.65, 0.8), (0.05, 0.8, 0.9), (0.25, 0.9, 1.0)]
)
def test_an_edge_is_a_straight_line_between_two_levels(boundary: float, low: float, high: float) -> None:
    assert esof_mult(boundary, 0.0) == pytest.approx((low + high) / 2)
    assert esof_mult(boundary - 0.01, 0.0) == pytest.approx(low + 0.25 * (high - low))
    assert esof_mult(boundary + 0.01, 0.0) == pytest.approx(low + 0.75 * (high - low))
    assert low <= esof_mult(boundary - 0.0199999, 0.0) < low + 1e-4
    assert high - 1e-4 < esof_mult(boundary + 0.0199999, 0.0) <= high


def test_the_edge_is_open_at_both_ends() -> None:
    """0.02 away exactly: 0.27 - 0.25 rounds, so the float64 at the edge is searched for."""
    for boundary, low, high in ((0.05, 0.8, 0.9), (0.25, 0.9, 1.0), (-0.05, 0.65, 0.8), (-0.25, 0.3, 0.65)):
        top = next(x for x in neighbours(boundary + 0.02) if x - boundary >= 0.02)
        assert esof_mult(top, 0.0) == high
        bottom = next(x for x in reversed(neighbours(boundary - 0.02)) if x - boundary <= -0.02)
        assert esof_mult(bottom, 0.0) == low


def neighbours(x: float) -> list[float]:
    values = [x]
    for _ in range(8):
        values = [below(values[0]), *values, above(values[-1])]
    return values


def test_a_stale_or_absent_score() -> None:
    assert esof_mult(1.0, 900.0) == 1.0
    assert esof_mult(1.0, above(900.0)) == 0.4
    assert esof_mult(nan, 0.0) == 0.4


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.floats(-1, 1), st.floats(0, 0.5))
def test_the_haircut_never_falls_with_the_score_and_never_passes_one(score: float, more: float) -> None:
    assert 0.3 <= esof_mult(score, 0.0) <= esof_mult(score + more, 0.0) + 1e-12
    assert esof_mult(score + more, 0.0) <= 1.0


def test_the_fold_rounds_to_six_and_twelve_decimals() -> None:
    assert esof_fold(4.0, 1000.0, 0.8) == (3.2, 800.0)
    assert esof_fold(1.2345675, 1.0, 0.5) == (0.617284, 0.5)
    assert esof_fold(1.0 / 3.0, 1.0 / 3.0, 0.5) == (0.166667, 0.166666666667)


def test_a_fold_of_one_changes_nothing() -> None:
    odd = (1.0 / 3.0, 2.0 / 3.0)
    for mult in (1.0, 2.0, 1.0 - 5e-10):
        assert esof_fold(*odd, mult) == odd
    assert esof_fold(*odd, 1.0 - 2e-9) != odd
    assert esof_fold(*odd, -1.0) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("sensors", "score"),
    [
        ((1.0, 1.0, 1.0, 1.0), 1.0),
        ((1.0, 0.0, 0.0, 0.0), 0.35),
        ((0.0, 1.0, 0.0, 0.0), 0.35),
        ((0.0, 0.0, 1.0, 0.0), 0.20),
        ((0.0, 0.0, 0.0, 1.0), 0.10),
        ((nan, nan, nan, nan), 0.0),
        ((2.0, -1.0, 0.5, 1.5), 0.35 + 0.1 + 0.1),
    ],
)
def test_health_weighs_its_sensors(sensors: tuple[float, ...], score: float) -> None:
    assert meta_health(*sensors)[0] == pytest.approx(score)


@pytest.mark.parametrize(
    ("m4", "status"),
    [(1.0, "GREEN"), (0.5, "DEGRADED")],
)
def test_health_by_name(m4: float, status: str) -> None:
    assert HEALTH_STATUSES[meta_health(m4, 1.0, 1.0, 1.0)[1]] == status


def test_health_statuses_are_strict_above() -> None:
    """The score moves by m5 alone; a bisection finds the two neighbours of each limit."""
    for limit, sensors, upper, lower in (
        (0.85, (1.0, 1.0, 0.5), 0, 1),
        (0.60, (1.0, 0.5, 0.125), 1, 2),
        (0.30, (0.5, 0.0, 0.5), 2, 3),
    ):
        low, high = 0.0, 1.0
        assert meta_health(*sensors, low)[0] <= limit < meta_health(*sensors, high)[0]
        while (middle := (low + high) / 2) not in (low, high):
            low, high = (low, middle) if meta_health(*sensors, middle)[0] > limit else (middle, high)
        assert meta_health(*sensors, low)[1] == lower
        assert meta_health(*sensors, high)[1] == upper


def test_a_score_on_the_limit_is_the_lower_status() -> None:
    assert meta_health(1.0, 1.0, 0.5, 0.5) == (0.85, 1)


@pytest.mark.parametrize(
    ("x", "whole"),
    [(0.0, 0), (0.5, 0), (above(0.5), 1), (1.5, 2), (below(1.5), 1), (2.5, 2), (3.5, 4), (7.0, 7), (8.9, 9)],
)
def test_rounding_half_to_even(x: float, whole: int) -> None:
    assert round_half_even(x) == whole


def test_the_exchange_s_leverage_stays_between_one_and_its_cap() -> None:
    assert CURVES[CURVE_LINEAR] == "linear"
    assert CURVES[CURVE_CUBIC] == "cubic"
    for curve in (CURVE_LINEAR, CURVE_CUBIC):
        assert exchange_leverage(0.5, 20, curve) == 1
        assert exchange_leverage(0.1, 20, curve) == 1
        assert exchange_leverage(9.0, 20, curve) == 20
        assert exchange_leverage(12.0, 20, curve) == 20
        assert exchange_leverage(5.0, 1, curve) == 1
    assert exchange_leverage(4.75, 21, CURVE_LINEAR) == 11
    assert exchange_leverage(4.75, 21, CURVE_CUBIC) == 4  # 1 + 20/8 = 3.5
    assert exchange_leverage(4.75, 13, CURVE_CUBIC) == 2  # 1 + 12/8 = 2.5
