"""Sizing: strength, buckets, streak, trend and the fraction, at every edge."""

from __future__ import annotations

from math import nextafter

import numpy as np
import pytest

from dolphin.alpha.sizing import (
    base_leverage,
    bucket_boost,
    bucket_index,
    cube,
    effective_fraction,
    sizing,
    streak_mult,
    strength,
    trend_mult,
)


def below(x: float) -> float:
    return nextafter(x, -9.0)


def above(x: float) -> float:
    return nextafter(x, 9.0)


def test_strength_is_one_from_the_extreme_on() -> None:
    assert strength(-0.05, -0.02, -0.05, -1) == 1.0
    assert strength(-0.08, -0.02, -0.05, -1) == 1.0
    assert strength(0.04, 0.01, 0.04, 1) == 1.0
    assert strength(0.08, 0.01, 0.04, 1) == 1.0
    assert strength(-0.02, -0.02, -0.05, -1) == 0.0
    assert strength(-0.035, -0.02, -0.05, -1) == pytest.approx(0.5)
    assert strength(0.025, 0.01, 0.04, 1) == pytest.approx(0.5)
    assert strength(0.5, -0.02, -0.05, -1) == 0.0
    assert strength(-0.5, 0.01, 0.04, 1) == 0.0


def test_the_extreme_counts_as_one_for_any_pair_and_its_neighbour_need_not() -> None:
    rng = np.random.default_rng(3)
    shy = 0
    for threshold, gap in rng.uniform(0.001, 0.1, size=(4000, 2)).tolist():
        extreme = threshold + gap
        assert strength(-extreme, -threshold, -extreme, -1) == 1.0
        assert strength(extreme, threshold, extreme, 1) == 1.0
        shy += strength(below(extreme), threshold, extreme, 1) < 1.0
    assert shy > 1000


def test_a_cube_is_two_products_and_only_other_convexities_use_pow() -> None:
    s = 0.7
    assert cube(s, 3.0) == s * s * s
    assert cube(s, 2.0) == pytest.approx(0.49)
    assert cube(s, 1.0) == pytest.approx(0.7)
    odd = [x for x in np.linspace(0.01, 0.99, 99).tolist() if x * x * x != x**3.0]
    assert odd, "the distinction would be empty"
    assert all(cube(x, 3.0) == x * x * x for x in odd)


def test_base_leverage_runs_from_minimum_to_maximum() -> None:
    assert base_leverage(0.0, 0.5, 5.0, 3.0) == 0.5
    assert base_leverage(1.0, 0.5, 5.0, 3.0) == 5.0
    assert base_leverage(0.5, 0.5, 8.0, 3.0) == 0.5 + 0.125 * 7.5
    assert base_leverage(0.5, 0.5, 8.0, 1.0) == 0.5 + 0.5 * 7.5


@pytest.mark.parametrize(
    ("vel_div", "bucket"),
    [
        (-0.2, 0),
        (1.5 * -0.05, 0),
        (above(1.5 * -0.05), 1),
        (-0.05, 1),
        (above(-0.05), 2),
        ((-0.02 + -0.05) / 2.0, 2),
        (above((-0.02 + -0.05) / 2.0), 3),
        (-0.02, 3),
        (0.5, 3),
    ],
)
def test_short_buckets_include_their_edge(vel_div: float, bucket: int) -> None:
    assert bucket_index(vel_div, -0.02, -0.05, -1) == bucket


@pytest.mark.parametrize(
    ("vel_div", "bucket"),
    [
        (0.2, 0),
        (1.5 * 0.04, 0),
        (below(1.5 * 0.04), 1),
        (0.04, 1),
        (below(0.04), 2),
        ((0.01 + 0.04) / 2.0, 2),
        (below((0.01 + 0.04) / 2.0), 3),
        (0.01, 3),
        (-0.5, 3),
    ],
)
def test_long_buckets_are_the_mirror(vel_div: float, bucket: int) -> None:
    assert bucket_index(vel_div, 0.01, 0.04, 1) == bucket


@pytest.mark.parametrize(
    ("wins", "trades", "boost"),
    [
        (9, 9, 1.0),
        (0, 9, 1.0),
        (10, 10, 1.3),
        (61, 100, 1.3),
        (601, 1000, 1.3),
        (551, 1000, 1.1),
        (449, 1000, 0.85),
        (399, 1000, 0.7),
        (60, 100, 1.1),
        (56, 100, 1.1),
        (55, 100, 1.0),
        (50, 100, 1.0),
        (45, 100, 1.0),
        (44, 100, 0.85),
        (40, 100, 0.85),
        (39, 100, 0.7),
        (0, 10, 0.7),
    ],
)
def test_a_bucket_is_boosted_by_its_own_win_rate(wins: int, trades: int, boost: float) -> None:
    assert bucket_boost(wins, trades) == boost


@pytest.mark.parametrize(
    ("losses", "trades", "factor"),
    [
        (4, 4, 1.0),
        (0, 4, 1.0),
        (0, 5, 1.1),
        (1, 5, 1.1),
        (2, 5, 1.0),
        (3, 5, 0.7),
        (4, 5, 0.5),
        (5, 5, 0.5),
    ],
)
def test_a_streak_counts_the_last_five(losses: int, trades: int, factor: float) -> None:
    assert streak_mult(losses, trades) == factor


@pytest.mark.parametrize(
    ("trend", "short", "long"),
    [
        (below(-0.01), 1.3, 0.7),
        (-0.01, 1.0, 1.0),
        (0.0, 1.0, 1.0),
        (0.01, 1.0, 1.0),
        (above(0.01), 0.7, 1.3),
    ],
)
def test_a_trend_is_strict_and_mirrored(trend: float, short: float, long: float) -> None:
    assert trend_mult(trend, -1) == short
    assert trend_mult(trend, 1) == long


def test_the_fraction_is_the_page_s_product() -> None:
    ordinary = (0.02 + 0.5 * (0.20 - 0.02)) * (0.55 / 0.95) * 1.0 * 1.3 * 1.1 * 1.1
    assert effective_fraction(0.5, False, 0.20, 1.3, 1.1, 1.1) == ordinary
    extreme = (0.02 + 0.5 * (0.20 - 0.02)) * (0.70 / 0.95) * 2.0 * 0.7 * 0.85 * 0.5
    assert effective_fraction(0.5, True, 0.20, 0.7, 0.85, 0.5) == extreme


def test_the_fraction_stays_between_two_percent_and_its_ceiling() -> None:
    assert effective_fraction(0.0, False, 0.20, 0.7, 0.7, 0.5) == 0.02
    assert effective_fraction(1.0, True, 0.20, 1.3, 1.3, 1.1) == 0.20
    assert effective_fraction(1.0, True, 0.30, 1.0, 1.0, 1.0) == 0.30


WINS = np.array([10, 6, 0, 5], np.int64)
TRADES = np.array([10, 10, 10, 9], np.int64)


def short_sizing(vel_div: float, *, layers: bool = True, dynamic: bool = True, trend: float = 0.0) -> tuple:
    return sizing(vel_div, -0.02, -0.05, -1, 0.5, 5.0, 3.0, 0.20, layers, dynamic, trend, WINS, TRADES, 3, 5)


def test_sizing_puts_its_parts_together() -> None:
    s, leverage, bucket, boost, streak, trend, fraction = short_sizing(-0.06, trend=-0.02)
    assert (s, leverage, bucket, boost, streak, trend) == (1.0, 5.0, 1, 1.1, 0.7, 1.3)
    assert fraction == effective_fraction(1.0, True, 0.20, 1.3, 1.1, 0.7)


@pytest.mark.parametrize(("vel_div", "boost"), [(-0.08, 1.3), (-0.06, 1.1), (-0.04, 0.7), (-0.03, 1.0)])
def test_the_boost_is_that_of_the_entry_s_own_bucket(vel_div: float, boost: float) -> None:
    assert short_sizing(vel_div)[3] == boost


def test_layers_off_means_ones() -> None:
    assert short_sizing(-0.08, layers=False, trend=-0.5)[3:6] == (1.0, 1.0, 1.0)
    assert short_sizing(-0.08, layers=False)[6] == effective_fraction(1.0, True, 0.20, 1.0, 1.0, 1.0)


def test_static_leverage_is_the_minimum() -> None:
    assert short_sizing(-0.08, dynamic=False)[1] == 0.5


@pytest.mark.parametrize(
    ("vel_div", "direction", "is_extreme"),
    [(-0.05, -1, True), (above(-0.05), -1, False), (0.05, 1, True), (below(0.05), 1, False)],
)
def test_an_extreme_doubles_the_fraction(vel_div: float, direction: int, is_extreme: bool) -> None:
    got = sizing(
        vel_div, direction * 0.02, direction * 0.05, direction, 0.5, 5.0, 3.0, 0.9, False, True, 0.0,
        WINS, TRADES, 0, 0,
    )  # fmt: skip
    assert got[6] == effective_fraction(got[0], is_extreme, 0.9, 1.0, 1.0, 1.0)
    assert got[6] == pytest.approx(0.9 if is_extreme else 0.9 * 0.55 / 0.95)


def test_the_trend_of_a_long_entry_is_mirrored() -> None:
    got = sizing(0.05, 0.01, 0.04, 1, 0.5, 5.0, 3.0, 0.2, True, True, 0.02, WINS, TRADES, 0, 0)
    assert got[5] == 1.3
