"""The table of ranges: every parameter has a place, the champion lies inside, gold is covered."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dolphin.domain.errors import DataError
from dolphin.domain.params import CHAMPION, GOLD, GREEN, ParameterSet
from dolphin.research.forewarner.table import (
    ASSESSED,
    BOOL,
    EXPOSURE,
    MUST_MATCH,
    NO_RISK,
    ROWS,
    acting,
    assessed,
    coordinates,
    features,
    mismatch,
    widened,
)
from dolphin.risk.breaker import acb_boost

BY_NAME = {row.name: row for row in ROWS}
#: The page's own list.
EXTRAS = {
    "trial_id": 0,
    "vd_trend_lookback": 10,
    "ob_imbalance_bias": -0.09,
    "ob_depth_scale": 1.0,
    "min_irp_alignment": 0.45,
    "acb_beta_high": 0.80,
    "acb_beta_low": 0.20,
    "acb_w750_threshold_pct": 60,
}


def test_every_parameter_has_exactly_one_place() -> None:
    """A new parameter must be given a range, or a reason not to have one."""
    own = [row.name for row in ROWS if row.name in CHAMPION.as_dict()]
    known = [*own, *MUST_MATCH, *NO_RISK]
    assert sorted(known) == sorted(field.name for field in fields(ParameterSet))
    assert set(EXTRAS) - {"trial_id"} <= set(BY_NAME)


def test_the_champion_and_the_page_s_extra_fields_are_the_middle() -> None:
    for row in ROWS:
        assert row.least <= row.low <= row.base <= row.high <= row.most, row.name
        if row.name in CHAMPION.as_dict():
            assert row.base == getattr(CHAMPION, row.name)
        if row.name in EXTRAS:
            assert row.base == EXTRAS[row.name]
    assert dict(ASSESSED) == EXTRAS


def test_gold_at_the_highest_boost_lies_inside_every_range() -> None:
    highest = acb_boost(-1.0, 90.0, 10.0, 0.5)[1]
    configuration = assessed(GOLD, highest)
    for row in acting():
        assert 0.0 <= row.position(float(configuration[row.name])) <= 1.0, row.name


def test_the_assessed_configuration_is_the_set_s_own_with_the_page_s_fields() -> None:
    said = assessed(GOLD, 1.35)
    assert said["max_leverage"] == 8.0 * 1.35
    assert said["abs_max_leverage"] == 9.0
    assert said["exclude_stablecoins"] is True
    assert {name: said[name] for name in EXTRAS} == EXTRAS, "also where the set has another value"


@pytest.mark.parametrize("boost", [0.0, -1.0, math.nan, math.inf])
def test_a_boost_that_is_no_factor_is_refused(boost: float) -> None:
    with pytest.raises(DataError, match="boost"):
        assessed(GOLD, boost)


@given(st.floats(0.0, 1.0, exclude_max=True))
def test_a_value_lies_where_it_was_drawn(u: float) -> None:
    for row in ROWS:
        value = row.value(u)
        assert row.low <= float(value) <= row.high
        if row.scale == BOOL:
            assert value is (bool(row.base) != (u < 0.25))
        elif row.whole:
            assert isinstance(value, int)
            assert abs(row.position(value) - u) <= row.position(value + 1) - row.position(value)
        else:
            assert row.position(float(value)) == pytest.approx(u, abs=1e-9)


def test_only_the_upper_ends_of_size_move() -> None:
    for factor, grows in ((1.4, True), (1 / 1.4, False)):
        for row, other in zip(ROWS, widened(factor), strict=True):
            if row.size:
                assert other.high > row.high if grows else row.base < other.high < row.high
                assert (other.low, other.base) == (row.low, row.base)
            else:
                assert other == row
    assert all(row.high == row.most for row in widened(100.0) if row.size)


def test_coordinates_are_named_and_idle_rows_are_none() -> None:
    names = features()
    assert len(set(names)) == len(names)
    assert not {"ob_imbalance_bias", "ob_depth_scale"} & set(names)
    found = dict(zip(names, coordinates(assessed(GOLD, 1.0), ROWS), strict=True))
    assert found[EXPOSURE] == pytest.approx(math.log(0.2 * 8.0))
    assert found["liquidation_guard"] == 0.75
    held = assessed(GOLD.with_values({"abs_max_leverage": 2.0}), 1.0)
    assert coordinates(held, ROWS)[-1] == pytest.approx(math.log(0.2 * 2.0))


def test_a_value_without_a_place_is_refused() -> None:
    with pytest.raises(DataError, match="max_leverage"):
        BY_NAME["max_leverage"].position(0.0)
    with pytest.raises(DataError, match="vel_div_threshold"):
        BY_NAME["vel_div_threshold"].position(math.nan)


def test_another_strategy_is_named() -> None:
    assert mismatch(GOLD) == ""
    assert "direction" in mismatch(GREEN)
    assert "use_sp_fees" in mismatch(GOLD.with_values({"use_sp_fees": False}))
