"""Configuration with provenance: every value knows where it came from.

Order of strength: default < file (`--config FILE` or DOLPHIN_CONFIG) < environment (DOLPHIN_<KEY>) < command
line. Unknown keys are refused with the nearest known name. Secrets have no key here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dolphin.alpha.volatility import VOL_THRESHOLD
from dolphin.domain.errors import ConfigError, StoreError, nearest

ENV_PREFIX: Final = "DOLPHIN_"
#: Origin of a value that was given as an option.
COMMAND_LINE: Final = "command line"
#: Variables with the prefix that are no settings.
ENV_OTHER: Final = frozenset(
    {"DOLPHIN_CONFIG", "DOLPHIN_KERNELS", "DOLPHIN_KERNEL_CACHE", "DOLPHIN_RECORDINGS", "DOLPHIN_CRASH_RUNS"}
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One key: its type, default, rule and what it means."""

    name: str
    kind: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    metavar: str = ""
    pattern: str = ""
    rule: str = ""


SETTINGS: Final = (
    Setting("set", str, "gold", "parameter set", ("champion", "gold", "green")),
    Setting("feed", str, "synthetic", "where prices come from", ("synthetic", "recorded", "binance")),
    Setting("universe", str, "", "file with the symbols: a CSV with a `symbol` column or a YAML list",
            metavar="FILE"),
    Setting("assets", int, 50, "how many symbols of the universe, the first ones", (), 1, "N"),
    Setting("seed", int, 4, "seed of the synthetic market", (), 0, "N"),
    Setting("days", float, 1.0, "length of the synthetic market in days", (), 0.001, "DAYS"),
    Setting("edge_bps", float, 12.0, "mean fall planted after a synthetic onset; 0: none",
            metavar="BPS"),
    Setting("out", str, "", "folder that takes everything a run writes; empty: a new one under runs/",
            metavar="DIR"),
    Setting("deployment", str, "BLUE", "prefix of trade ids and grid maps (a LONG set: GREEN)",
            metavar="NAME", pattern="[A-Za-z0-9]+", rule="ASCII letters and digits"),
    Setting("vol_threshold", float, VOL_THRESHOLD, "volatility gate: std of BTC's simple returns per bar",
            (), 1e-12, "STD"),
    Setting("posture_when_unknown", str, "APEX", "posture while none was ever read",
            ("APEX", "STALKER", "TURTLE", "HIBERNATE")),
    Setting("books", str, "auto", "order books: auto (the feed's own, where it has any), off, mock, or a"
            " folder of recorded snapshots", metavar="auto|off|mock|DIR"),
    Setting("factors", str, "auto", "the breaker's factors: auto takes the feed's own, where it has any; live"
            " from their publishers, for a live feed", ("auto", "off", "live")),
    Setting("spectrum", str, "fast", "how the spectrum is computed; float64 is for research",
            ("fast", "flint", "float64")),
)  # fmt: skip
_BY_NAME: Final = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class Value:
    """An effective value and its origin."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Config:
    """All effective values, and the parameters that override those of the named set."""

    values: Mapping[str, Value]
    params: Mapping[str, Value]

    def __getitem__(self, name: str) -> Any:
        return self.values[name].value

    def given(self, name: str) -> bool:
        """True when the value is not the default."""
        return self.values[name].origin != "default"

    def as_dict(self) -> dict[str, Any]:
        """Names to {value, origin}, parameters under `params`."""
        plain = {name: {"value": v.value, "origin": v.origin} for name, v in self.values.items()}
        params = {name: {"value": v.value, "origin": v.origin} for name, v in self.params.items()}
        return {**plain, "params": params}


def _checked(setting: Setting, given: Any, origin: str) -> Value:
    value: Any = given
    where = f"{setting.name} from {origin}"
    if setting.kind in (int, float) and isinstance(given, str):
        try:
            value = setting.kind(given)
        except ValueError as error:
            raise ConfigError(f"{where} is {given!r}, expected {_article(setting.kind)}") from error
    if setting.kind is float and type(value) is int:
        value = float(value)
    if type(value) is not setting.kind:
        raise ConfigError(f"{where} is {value!r}, expected {_article(setting.kind)}")
    if setting.choices and value not in setting.choices:
        hint = nearest(str(value), setting.choices)
        raise ConfigError(f"{where} is {value!r}, expected one of {', '.join(setting.choices)}.{hint}")
    if setting.pattern and not re.fullmatch(setting.pattern, str(value)):
        raise ConfigError(f"{where} is {value!r}, expected {setting.rule}")
    if setting.minimum is not None and not (
        isinstance(value, (int, float)) and setting.minimum <= value < math.inf
    ):
        raise ConfigError(f"{where} is {value!r}, expected a number from {setting.minimum:g} up")
    return Value(value, origin)


def _article(kind: type) -> str:
    return {int: "a whole number", float: "a number", str: "a text"}[kind]


def parameter_value(name: str, text: str) -> Any:
    """A parameter's value from text: true, false, a whole number or a number. Raises ConfigError."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise ConfigError(f"parameter {name} is {text!r}, expected true, false or a number")


def resolve(
    command_line: Mapping[str, Any],
    *,
    params: Mapping[str, str] | None = None,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The effective configuration.

    command_line : given flags by name, None where not given. params : `--param name=value` pairs.
    file : a YAML file. environ : the process's environment.
    Raises ConfigError for an unknown key or a value that breaks its rule.
    """
    environ = environ or {}
    values = {setting.name: Value(setting.default, "default") for setting in SETTINGS}
    overrides: dict[str, Value] = {}
    if file is None and environ.get("DOLPHIN_CONFIG"):
        file = Path(environ["DOLPHIN_CONFIG"])
    if file is not None:
        for name, value in _read(file).items():
            if name == "params":
                if not isinstance(value, dict):
                    raise ConfigError(f"{file}: params is {value!r}, expected names with values")
                for key, v in value.items():
                    # YAML reads 1e-4 as text.
                    number = parameter_value(str(key), v) if isinstance(v, str) else v
                    overrides[str(key)] = Value(number, str(file))
                continue
            _known(name, f"{file}: unknown key")
            values[name] = _checked(_BY_NAME[name], value, str(file))
    for variable, text in sorted(environ.items()):
        if variable.startswith(ENV_PREFIX) and variable not in ENV_OTHER:
            name = variable.removeprefix(ENV_PREFIX).lower()
            _known(name, f"environment: unknown variable {variable}, no key")
            values[name] = _checked(_BY_NAME[name], text, f"environment {variable}")
    for name, value in command_line.items():
        if value is not None and name in _BY_NAME:
            values[name] = _checked(_BY_NAME[name], value, COMMAND_LINE)
    for name, text in (params or {}).items():
        overrides[name] = Value(parameter_value(name, text), COMMAND_LINE)
    return Config(values, overrides)


def _known(name: str, what: str) -> None:
    if name not in _BY_NAME:
        raise ConfigError(
            f"{what} {name!r}.{nearest(str(name), [*_BY_NAME, 'params'])} `dolphin config` lists all keys"
        )


def _read(file: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is no text file; expected YAML with keys and values") from error
    except OSError as error:
        raise StoreError(
            f"{file}: cannot be read ({error.strerror}); check the path given with --config"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: is no YAML ({' '.join(str(error).split())})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: holds {type(content).__name__}, expected keys with values")
    return content
