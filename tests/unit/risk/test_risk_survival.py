"""Survival stack: five categories, the target, the slow rise, postures and their hysteresis."""

from __future__ import annotations

from math import nan, nextafter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dolphin.domain.codes import APEX, HIBERNATE, MC_ABSENT, MC_OK, MC_ORANGE, MC_RED, STALKER, TURTLE
from dolphin.numerics.portable import exp
from dolphin.risk.survival import (
    capital_category,
    environment_category,
    invariant_category,
    microstructure_category,
    posture_level,
    posture_path,
    posture_step,
    structural_category,
    survival_step,
    survival_target,
)


def below(x: float) -> float:
    return nextafter(x, -9e9)


def above(x: float) -> float:
    return nextafter(x, 9e9)


def test_category_1_is_all_or_nothing() -> None:
    assert invariant_category(1, 30.0) == 1.0
    assert invariant_category(1, above(30.0)) == 0.0
    assert invariant_category(0, 0.0) == 0.0
    assert invariant_category(3, 0.0) == 1.0


def test_category_2_decays_after_six_hours() -> None:
    assert [structural_category(s, 0.0) for s in (MC_OK, MC_ORANGE, MC_RED)] == [1.0, 0.5, 0.1]
    assert structural_category(MC_OK, 6.0) == 1.0
    assert structural_category(MC_OK, 9.0) == exp(-1.0)
    assert structural_category(MC_ORANGE, 12.0) == 0.5 * exp(-2.0)
    assert structural_category(MC_ABSENT, 0.0) == 0.1, "a host counts an absent forewarner as 1.0 itself"


def test_category_3_is_the_thinner_of_two() -> None:
    assert microstructure_category(True, 9.0, 9.0) == 0.5
    assert microstructure_category(False, 0.4, 0.6) == 0.3 + 0.7 * 0.4
    assert microstructure_category(False, 0.6, 0.4) == 0.3 + 0.7 * 0.4
    assert microstructure_category(False, 1.0, 1.0) == 1.0
    assert microstructure_category(False, 2.0, 3.0) == 1.0
    assert microstructure_category(False, -1.0, 0.5) == 0.3


def test_category_4_recovers_from_a_spike() -> None:
    assert environment_category(nan) == 1.0
    assert environment_category(0.0) == 0.3
    assert environment_category(60.0) == 0.3 + 0.7 * (1.0 - exp(-1.0))
    assert environment_category(1e5) == 1.0


def test_category_5_is_logistic_in_the_drawdown() -> None:
    assert capital_category(0.12) == 0.5
    assert capital_category(0.0) == 1.0 / (1.0 + exp(30.0 * (0.0 - 0.12)))
    assert capital_category(0.0) == pytest.approx(0.9734, abs=1e-4)
    assert capital_category(0.3) < 0.005


@pytest.mark.parametrize(
    ("categories", "target"),
    [
        ((1.0, 1.0, 1.0, 1.0, 1.0), 1.0),
        ((0.0, 1.0, 1.0, 1.0, 1.0), 0.0),
        ((1.0, 0.9, 1.0, 0.95, 1.0), 0.9),
        ((1.0, 0.95, 1.0, 0.9, 1.0), 0.9),
        ((1.0, 0.9, 0.85, 0.95, 0.9), 0.9 * 0.9 * 0.85),
        ((1.0, below(0.8), 1.0, 1.0, 1.0), 0.8),
        ((1.0, below(0.8), 0.8, 0.8, 1.0), 0.64),
        ((1.0, below(0.8), below(0.8), 1.0, 1.0), 0.32),
        ((1.0, 0.8, below(0.8), below(0.8), 1.0), 0.32),
        ((1.0, below(0.8), 0.8, below(0.8), 1.0), 0.32),
        ((1.0, 0.5, 0.5, 0.5, 1.0), 0.125),
    ],
)
def test_two_weak_categories_halve_the_target(categories: tuple[float, ...], target: float) -> None:
    assert survival_target(*categories) == pytest.approx(target, rel=1e-14)


@pytest.mark.parametrize(
    ("last", "target", "dt_min", "rm"),
    [
        (0.9, 0.2, 1.0, 0.2),
        (0.5, 0.5, 1.0, 0.5),
        (0.5, 1.0, 1.0, 0.5 + 0.02 * 0.5),
        (0.0, 1.0, 60.0, 0.0 + 1.0),
        (0.0, 1.0, 50.0, 1.0),
        (0.0, 1.0, 25.0, 0.5),
        (0.2, 0.4, 0.0, 0.2),
        (0.0, 4.0, 1.0, 0.05),
        (0.0, 2.5, 1.0, 0.05),
        (0.0, 2.0, 1.0, 0.04),
    ],
)
def test_a_fall_is_immediate_and_a_rise_is_slow(last: float, target: float, dt_min: float, rm: float) -> None:
    assert survival_step(last, target, dt_min) == rm


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1e4))
def test_rm_never_overshoots_its_target(last: float, target: float, dt_min: float) -> None:
    rm = survival_step(last, target, dt_min)
    assert min(last, target) <= rm <= max(last, target) + 1e-15
    assert rm - last <= 0.05 * dt_min + 1e-15


@pytest.mark.parametrize(
    ("rm", "level"),
    [
        (1.0, APEX),
        (0.90, APEX),
        (below(0.90), STALKER),
        (0.75, STALKER),
        (below(0.75), TURTLE),
        (0.50, TURTLE),
        (below(0.50), HIBERNATE),
        (0.0, HIBERNATE),
    ],
)
def test_levels(rm: float, level: int) -> None:
    assert posture_level(rm) == level


def walk(rms: list[float], start: int) -> list[int]:
    postures = np.full(len(rms), -1)
    posture_path(np.array(rms), start, postures)
    return postures.tolist()


def test_two_low_evaluations_lower_the_posture_to_the_newest_level() -> None:
    assert walk([0.8, 0.8], APEX) == [APEX, STALKER]
    assert walk([0.8, 0.6], APEX) == [APEX, TURTLE]
    assert walk([0.3, 0.8], APEX) == [APEX, STALKER]


def test_five_high_evaluations_raise_it() -> None:
    assert walk([0.95] * 5, TURTLE) == [TURTLE] * 4 + [APEX]
    assert walk([0.95, 0.95, 0.95, 0.95, 0.8], TURTLE) == [TURTLE] * 4 + [STALKER]


def test_the_same_level_resets_both_counts() -> None:
    assert walk([0.8, 0.95, 0.8, 0.8], APEX) == [APEX, APEX, APEX, STALKER]
    assert walk([0.95] * 4 + [0.6] + [0.95] * 5, TURTLE) == [TURTLE] * 9 + [APEX]


def test_a_turn_of_direction_resets_the_other_count() -> None:
    assert walk([0.95] * 4 + [0.3, 0.95], TURTLE) == [TURTLE] * 6
    assert walk([0.3, 0.95, 0.3, 0.3], TURTLE) == [TURTLE, TURTLE, TURTLE, HIBERNATE]
    assert posture_step(TURTLE, 0, 4, 0.3) == (TURTLE, 1, 0)
    assert posture_step(TURTLE, 1, 0, 0.95) == (TURTLE, 0, 1)


def test_counts_start_again_after_a_change() -> None:
    assert posture_step(APEX, 1, 0, 0.8) == (STALKER, 0, 0)
    assert posture_step(TURTLE, 0, 4, 0.95) == (APEX, 0, 0)


def test_zero_skips_the_hysteresis() -> None:
    assert walk([0.0, 0.95], APEX) == [HIBERNATE, HIBERNATE]
    assert posture_step(HIBERNATE, 0, 3, 0.0) == (HIBERNATE, 0, 0)
    assert walk([5e-324], APEX) == [APEX]
