"""Circuit breaker: each factor at its edges, fear and greed only in company, the calming update."""

from __future__ import annotations

import math
from math import nan, nextafter

import pytest

from dolphin.numerics.portable import log1p
from dolphin.risk.breaker import MISSING, acb_beta, acb_boost, normalised


def below(x: float) -> float:
    return nextafter(x, -9e9)


def above(x: float) -> float:
    return nextafter(x, 9e9)


def signals(funding: float = nan, dvol: float = nan, fng: float = nan, taker: float = nan) -> float:
    return acb_boost(funding, dvol, fng, taker)[0]


def test_nothing_known_is_neutral() -> None:
    assert math.isnan(MISSING)
    assert acb_boost(MISSING, MISSING, MISSING, MISSING) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("factor", "value", "weight"),
    [
        ("funding", 0.0, 0.0),
        ("funding", below(0.0), 0.5),
        ("funding", -0.0001, 0.5),
        ("funding", below(-0.0001), 1.0),
        ("dvol", 55.0, 0.0),
        ("dvol", above(55.0), 0.5),
        ("dvol", 80.0, 0.5),
        ("dvol", above(80.0), 1.0),
        ("taker", 0.90, 0.0),
        ("taker", below(0.90), 0.5),
        ("taker", 0.80, 0.5),
        ("taker", below(0.80), 1.0),
        ("fng", 0.0, 0.0),
    ],
)
def test_each_factor_alone(factor: str, value: float, weight: float) -> None:
    assert signals(**{factor: value}) == weight


@pytest.mark.parametrize(
    ("fng", "weight"), [(40.0, 0.0), (below(40.0), 0.5), (25.0, 0.5), (below(25.0), 1.0), (nan, 0.0)]
)
@pytest.mark.parametrize("company", [{"funding": -1e-9}, {"dvol": 56.0}, {"taker": 0.85}])
def test_fear_counts_in_company(company: dict[str, float], fng: float, weight: float) -> None:
    assert signals(fng=fng, **company) == 0.5 + weight


def test_the_boost_starts_at_one_whole_signal() -> None:
    assert acb_boost(-1e-9, 0.0, 50.0, 1.0) == (0.5, 1.0)
    assert acb_boost(-1e-9, 56.0, 50.0, 1.0) == (1.0, 1.0 + 0.5 * log1p(1.0))
    assert acb_boost(-1.0, 99.0, 10.0, 0.5) == (4.0, 1.0 + 0.5 * log1p(4.0))
    assert [round(1.0 + 0.5 * log1p(float(n)), 3) for n in (1, 2, 3)] == [1.347, 1.549, 1.693]


def test_beta_is_high_from_the_threshold_on_and_raised_by_stress() -> None:
    assert acb_beta(0.5, 0.5, 0.0) == 0.8
    assert acb_beta(below(0.5), 0.5, 0.0) == 0.2
    assert acb_beta(0.6, 0.5, 1.0) == 0.8 * 1.25
    assert acb_beta(0.4, 0.5, 0.4) == 0.2 * (1.0 + 0.25 * 0.4)


@pytest.mark.parametrize(
    ("old", "new", "calmed"),
    [
        (1.25, below(1.10), True),
        (below(1.25), 1.0, False),
        (1.25, 1.10, False),
        (1.7, 1.0, True),
        (1.0, 1.0, False),
        (1.7, 1.7, False),
    ],
)
def test_a_breaker_calms_down_from_alarm_only(old: float, new: float, calmed: bool) -> None:
    assert normalised(old, new) is calmed
