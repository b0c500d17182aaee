"""Configuration: strength of origins, rules of values, unknown keys."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from dolphin import config
from dolphin.config import SETTINGS, parameter_value, resolve
from dolphin.domain.errors import ConfigError, StoreError


def test_defaults() -> None:
    found = resolve({})
    assert {name: value.value for name, value in found.values.items()} == {
        s.name: s.default for s in SETTINGS
    }
    assert {value.origin for value in found.values.values()} == {"default"}
    assert found.params == {}
    assert not found.given("set")


def test_defaults_are_those_of_the_modules_that_own_them() -> None:
    """The modules load numpy, so that configuration repeats their values."""
    from dolphin.alpha.volatility import VOL_THRESHOLD
    from dolphin.market import synthetic, universe

    owned = {
        "vol_threshold": VOL_THRESHOLD,
        "seed": synthetic.DEFAULT_SEED,
        "days": synthetic.DEFAULT_DAYS,
        "edge_bps": synthetic.DEFAULT_EDGE_BPS,
        "assets": universe.DEFAULT_ASSETS,
    }
    assert {name: resolve({})[name] for name in owned} == owned


def test_every_default_keeps_its_own_rule() -> None:
    for setting in SETTINGS:
        if setting.default != "":
            assert config._checked(setting, setting.default, "default").value == setting.default


def test_strength_of_origins(tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    file.write_text("seed: 1\nassets: 1\ndays: 1.5\n")
    environ = {"DOLPHIN_ASSETS": "2", "DOLPHIN_DAYS": "2.5", "PATH": "x"}
    found = resolve({"days": "3.5", "set": None, "json": True}, file=file, environ=environ)
    assert (found["seed"], found["assets"], found["days"], found["set"]) == (1, 2, 3.5, "gold")
    origins = {name: found.values[name].origin for name in ("seed", "assets", "days", "set")}
    assert origins == {
        "seed": str(file),
        "assets": "environment DOLPHIN_ASSETS",
        "days": "command line",
        "set": "default",
    }
    assert found.given("days")


def test_a_file_on_the_command_line_is_stronger_than_one_in_the_environment(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yml", tmp_path / "two.yml"
    one.write_text("seed: 1\n")
    two.write_text("seed: 2\n")
    assert resolve({}, environ={"DOLPHIN_CONFIG": str(one)})["seed"] == 1
    assert resolve({}, file=two, environ={"DOLPHIN_CONFIG": str(one)})["seed"] == 2


def test_parameters_come_from_file_and_command_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    file.write_text("params:\n  fraction: 1e-1\n  max_hold_bars: 60\n  use_ob_edge: false\n")
    found = resolve({}, params={"max_hold_bars": "30"}, file=file)
    assert {name: value.value for name, value in found.params.items()} == {
        "fraction": 0.1,
        "max_hold_bars": 30,
        "use_ob_edge": False,
    }
    assert found.params["max_hold_bars"].origin == "command line"
    assert found.as_dict()["params"]["fraction"] == {"value": 0.1, "origin": str(file)}


def test_variables_that_are_no_settings_are_passed_over() -> None:
    assert resolve({}, environ=dict.fromkeys(config.ENV_OTHER - {"DOLPHIN_CONFIG"}, "x"))["set"] == "gold"


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("days", "nan", "expected a number from 0.001 up"),
        ("days", "inf", "expected a number from 0.001 up"),
        ("days", "-1", "expected a number from 0.001 up"),
        ("days", "long", "expected a number"),
        ("assets", "1.5", "expected a whole number"),
        ("assets", "0", "expected a number from 1 up"),
        ("seed", "-1", "expected a number from 0 up"),
        ("vol_threshold", "0", "expected a number from 1e-12 up"),
        ("feed", "binanse", "expected one of synthetic, recorded"),
        ("spectrum", "fats", "Did you mean 'fast'?"),
        ("posture_when_unknown", "apex", "expected one of APEX, STALKER, TURTLE, HIBERNATE"),
        ("deployment", "a,b", "expected ASCII letters and digits"),
        ("deployment", "", "expected ASCII letters and digits"),
        ("deployment", "BLUE\n", "expected ASCII letters and digits"),
        ("set", 5, "expected a text"),
        ("assets", 5.0, "expected a whole number"),
    ],
)
def test_a_value_that_breaks_its_rule_is_refused(name: str, value: Any, rule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve({name: value})
    assert str(caught.value).startswith(f"{name} from command line is ")
    assert rule in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_whole_number_is_a_number() -> None:
    found = resolve({"days": 2})
    assert found["days"] == 2.0
    assert type(found["days"]) is float


@pytest.mark.parametrize("content", ["", "# nothing\n", "---\n"])
def test_an_empty_file_changes_nothing(tmp_path: Path, content: str) -> None:
    file = tmp_path / "a.yml"
    file.write_text(content)
    assert resolve({}, file=file) == resolve({})


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match=r"none.yml: cannot be read \(No such file or directory\); check the path"
    ):
        resolve({}, file=tmp_path / "none.yml")
    with pytest.raises(StoreError, match="cannot be read"):
        resolve({}, file=tmp_path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    file.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="is no text file"):
        resolve({}, file=file)


def test_errors_of_yaml_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    file.write_text("a: [1,\n  b: {\n")
    with pytest.raises(ConfigError, match="is no YAML") as caught:
        resolve({}, file=file)
    assert "\n" not in str(caught.value)


def test_unknown_names_are_refused_with_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    file.write_text("universum: x\n")
    with pytest.raises(ConfigError, match=r"unknown key 'universum'. Did you mean 'universe'\?"):
        resolve({}, file=file)
    with pytest.raises(ConfigError, match=r"DOLPHIN_SED, no key 'sed'. Did you mean 'seed'\?"):
        resolve({}, environ={"DOLPHIN_SED": "1"})
    file.write_text("1: x\n")
    with pytest.raises(ConfigError, match="unknown key 1"):
        resolve({}, file=file)


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("False", False), ("3", 3), ("-0.5", -0.5), ("1e-3", 0.001)]
)
def test_parameter_values(text: str, value: Any) -> None:
    found = parameter_value("x", text)
    assert found == value
    assert type(found) is type(value)


def test_a_parameter_that_is_no_value() -> None:
    assert math.isnan(parameter_value("x", "nan"))
    with pytest.raises(ConfigError, match="parameter x is 'much', expected true, false or a number"):
        parameter_value("x", "much")
