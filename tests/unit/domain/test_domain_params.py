"""Parameter sets: recorded hashes, drift refused with both hashes and keys, wrong values in one line."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from dolphin.domain.errors import ConfigError, DriftError
from dolphin.domain.params import (
    CHAMPION,
    CHAMPION_VALUES,
    GOLD,
    GREEN,
    NAMED_SETS,
    RECORDED,
    ParameterSet,
    check_drift,
    differences,
    load_set,
)

#: Page 00's table, column by column: what differs from the champion.
TABLE: dict[str, dict[str, Any]] = {
    "champion": {},
    "gold": {
        "max_leverage": 8.0,
        "abs_max_leverage": 9.0,
        "min_irp_alignment": 0.0,
        "exclude_stablecoins": True,
        "liquidation_guard": True,
    },
    "green": {
        "direction": 1,
        "vel_div_threshold": 0.01,
        "vel_div_extreme": 0.04,
        "exclude_stablecoins": True,
    },
}
CHAMPION_TABLE = {
    "direction": -1, "vel_div_threshold": -0.02, "vel_div_extreme": -0.05, "min_leverage": 0.5,
    "max_leverage": 5.0, "abs_max_leverage": 6.0, "leverage_convexity": 3.0, "fraction": 0.20,
    "fixed_tp_pct": 0.0095, "stop_pct": 1.0, "max_hold_bars": 120, "use_direction_confirm": True,
    "dc_lookback_bars": 7, "dc_min_magnitude_bps": 0.75, "dc_skip_contradicts": True,
    "dc_leverage_boost": 1.0, "dc_leverage_reduce": 0.5, "use_asset_selection": True,
    "min_irp_alignment": 0.45, "exclude_stablecoins": False, "use_sp_fees": True, "use_sp_slippage": True,
    "sp_maker_entry_rate": 0.62, "sp_maker_exit_rate": 0.50, "use_ob_edge": True, "ob_edge_bps": 5.0,
    "ob_confirm_rate": 0.40, "lookback": 100, "vd_trend_lookback": 10, "use_alpha_layers": True,
    "use_dynamic_leverage": True, "acb_beta_high": 0.80, "acb_beta_low": 0.20,
    "acb_w750_threshold_pct": 60.0, "seed": 42, "initial_capital": 25_000.0, "liquidation_guard": False,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(TABLE))
def test_a_named_set_is_the_table(name: str) -> None:
    assert load_set(name).as_dict() == CHAMPION_TABLE | TABLE[name]
    assert load_set(name) is NAMED_SETS[name]


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_hash_is_the_recorded_one_and_the_page_s(name: str) -> None:
    values = CHAMPION_TABLE | TABLE[name]
    expected = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
    assert NAMED_SETS[name].hash() == RECORDED[name] == expected


@pytest.mark.parametrize("field", [f.name for f in fields(ParameterSet)])
def test_any_value_changes_the_hash(field: str) -> None:
    value = getattr(CHAMPION, field)
    if isinstance(value, bool):
        other: Any = not value
    elif field == "direction":
        other = 1
    elif field == "min_irp_alignment":
        other = 0.5
    else:
        other = value + type(value)(1) if abs(value) >= 2 else value * 0.9
    values = {field: other}
    if field == "direction":
        values |= {"vel_div_threshold": 0.02, "vel_div_extreme": 0.05}
    assert CHAMPION.with_values(values).hash() != CHAMPION.hash()


def test_sets_are_values_that_nobody_changes() -> None:
    with pytest.raises(FrozenInstanceError):
        GOLD.max_leverage = 9.0  # type: ignore[misc]
    assert GOLD.with_values({}) == GOLD
    assert GOLD.with_values({"seed": 7}).seed == 7
    assert GOLD.seed == 42


def test_a_drifted_set_is_refused_with_both_hashes_and_the_keys() -> None:
    drifted = replace(GOLD, max_leverage=7.0, seed=43)
    with pytest.raises(DriftError) as caught:
        check_drift("gold", drifted)
    message = str(caught.value)
    assert "\n" not in message
    assert drifted.hash() in message
    assert RECORDED["gold"] in message
    assert "max_leverage 8.0 -> 7.0, seed 42 -> 43" in message
    assert caught.value.exit_code == 1


def test_a_drift_of_names_alone_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dolphin.domain.params.RECORDED", {"champion": "0" * 16})
    with pytest.raises(DriftError, match="names or types of keys"):
        load_set("champion")


def test_differences_are_by_recorded_value() -> None:
    assert differences("gold", GOLD) == {}
    assert differences("green", GREEN) == {}
    assert differences("champion", GREEN) == {k: (CHAMPION_VALUES[k], v) for k, v in TABLE["green"].items()}
    assert CHAMPION.as_dict() == CHAMPION_VALUES


def test_an_unknown_set_or_parameter_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown parameter set 'golden'; known: champion, gold, green\. Did you"
    ):
        load_set("golden")
    with pytest.raises(ConfigError, match=r"unknown parameter 'max_levrage'\. Did you mean 'max_leverage'\?"):
        CHAMPION.with_values({"max_levrage": 4.0})
    with pytest.raises(ConfigError, match=r"unknown parameter 'qqqq'\.$"):
        CHAMPION.with_values({"qqqq": 4.0})


def test_an_integer_where_a_float_belongs_is_the_same_set() -> None:
    assert replace(CHAMPION, max_leverage=5) == CHAMPION
    assert replace(CHAMPION, max_leverage=5).hash() == CHAMPION.hash()
    assert type(replace(CHAMPION, initial_capital=1).initial_capital) is float


ACCEPTED = [
    {"min_leverage": 5.0},
    {"abs_max_leverage": 0.5},
    {"leverage_convexity": 1e-9},
    {"fraction": 0.02},
    {"fraction": 1.0},
    {"fixed_tp_pct": 1e-9},
    {"stop_pct": 1e-9},
    {"max_hold_bars": 1},
    {"dc_lookback_bars": 1},
    {"dc_lookback_bars": 199},
    {"lookback": 0},
    {"vd_trend_lookback": 1},
    {"vd_trend_lookback": 200},
    {"sp_maker_entry_rate": 0.0},
    {"sp_maker_exit_rate": 1.0},
    {"ob_confirm_rate": 1.0},
    {"min_irp_alignment": 1.0},
    {"initial_capital": 0.01},
    {"seed": 0},
    {"seed": 2**32 - 1},
    {"vel_div_extreme": math.nextafter(-0.02, -1.0)},
    {"vel_div_threshold": -1e-9},
]
REFUSED = [
    {"direction": 0},
    {"direction": 2},
    {"direction": -1.0},
    {"direction": True},
    {"direction": 1},
    {"vel_div_extreme": -0.02},
    {"vel_div_extreme": -0.01},
    {"vel_div_threshold": 0.0},
    {"vel_div_threshold": 0.01},
    {"min_leverage": 0.0},
    {"min_leverage": 5.1},
    {"abs_max_leverage": 0.4},
    {"leverage_convexity": 0.0},
    {"fraction": 0.019},
    {"fraction": 1.01},
    {"fixed_tp_pct": 0.0},
    {"stop_pct": 0.0},
    {"max_hold_bars": 0},
    {"max_hold_bars": 12.0},
    {"dc_lookback_bars": 0},
    {"dc_lookback_bars": 200},
    {"lookback": -1},
    {"vd_trend_lookback": 0},
    {"vd_trend_lookback": 201},
    {"sp_maker_entry_rate": -0.01},
    {"sp_maker_exit_rate": 1.01},
    {"ob_confirm_rate": -0.01},
    {"min_irp_alignment": 1.01},
    {"initial_capital": 0.0},
    {"initial_capital": math.inf},
    {"seed": -1},
    {"seed": 2**32},
    {"max_leverage": math.nan},
    {"max_leverage": math.inf},
    {"max_leverage": "5"},
    {"use_ob_edge": 1},
]


@pytest.mark.parametrize("values", ACCEPTED, ids=str)
def test_a_value_on_the_edge_is_accepted(values: dict[str, Any]) -> None:
    assert CHAMPION.with_values(values).as_dict() == CHAMPION_TABLE | values


@pytest.mark.parametrize("values", REFUSED, ids=str)
def test_a_wrong_value_is_refused_in_one_line_that_names_it(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        CHAMPION.with_values(values)
    message = str(caught.value)
    assert "\n" not in message
    assert "expected " in message
    assert message.startswith("parameter ")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("values", [{"vel_div_extreme": 0.01}, {"vel_div_threshold": -0.01}], ids=str)
def test_long_sets_are_held_to_the_mirrored_rules(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="vel_div_"):
        GREEN.with_values(values)
