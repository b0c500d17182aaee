"""A sweep's plan: which parameters move, over what, by which design. Read from YAML, refused in one line.

Entry points: `read_plan`, `Plan`, `Axis`.

1. What a plan says is checked before anything is computed: names, types, ranges, and every value against the
   parameter's own rule. Rules between parameters are judged binding by binding, see `design.enumerated`.
2. A plan's digest covers all that decides the rows, and nothing else: an objective may change afterwards.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from dolphin.alpha.volatility import VOL_THRESHOLD
from dolphin.domain.clock import day_start_ns
from dolphin.domain.errors import ConfigError, StoreError, nearest, plural
from dolphin.domain.params import NAMED_SETS, ParameterSet, load_set
from dolphin.engine.state import EngineOptions

DESIGNS: Final = ("grid", "random", "sobol")
SCALES: Final = ("linear", "log")
#: What "best" may mean; all of them are columns of the results, larger is better.
OBJECTIVES: Final = ("sharpe", "roi_marked", "roi", "profit_factor")
KEYS: Final = (
    "base", "fixed", "options", "vol_threshold", "first_day", "last_day", "allow_partial", "without_ob_edge",
    "design", "n", "seed", "objective", "parameters",
)  # fmt: skip
_AXIS_KEYS: Final = ("values", "low", "high", "step", "scale", "ratio_of")
#: Bindings of one sweep at most; a folder of so many parts is read in seconds.
BINDINGS_MAX: Final = 1_000_000
#: Significant digits of a value that a design draws or multiplies: short to read, the same everywhere.
DIGITS: Final = 10

_KINDS: Final = {
    f.name: {"int": int, "float": float, "bool": bool}[str(f.type)] for f in dataclasses.fields(ParameterSet)
}
_OPTIONS: Final = tuple(f.name for f in dataclasses.fields(EngineOptions))
_WORDS: Final = {int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One parameter that moves: over listed `values`, or between `low` and `high` (both included).

    `ratio_of` names the parameter that the values are multiples of; empty where they are the values
    themselves. `log` spreads a range evenly in its logarithm.
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    ratio_of: str = ""

    @property
    def kind(self) -> type:
        """int, float or bool."""
        return _KINDS[self.name]

    @property
    def column(self) -> str:
        """What the axis is called in the results; a ratio is another column than its parameter."""
        return f"{self.name}_ratio" if self.ratio_of else self.name

    def told(self) -> str:
        """The axis in words."""
        of = f" × {self.ratio_of}" if self.ratio_of else ""
        if self.values:
            return ", ".join(_shown(v) for v in self.values) + of
        return f"{self.low:g} to {self.high:g}{', evenly in the logarithm' if self.log else ''}{of}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a sweep is asked to do; see docs/sweeps.md for the file."""

    base: str = "gold"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    options: EngineOptions = field(default_factory=EngineOptions)
    vol_threshold: float = VOL_THRESHOLD
    first_day: str | None = None
    last_day: str | None = None
    allow_partial: bool = False
    without_ob_edge: bool = False
    design: str = "grid"
    n: int = 0
    seed: int = 1
    objective: str = "sharpe"
    axes: tuple[Axis, ...] = ()

    @property
    def base_set(self) -> ParameterSet:
        """The set that every binding changes."""
        off = {"use_ob_edge": False} if self.without_ob_edge else {}
        return load_set(self.base).with_values({**self.fixed, **off})

    @property
    def size(self) -> int:
        """Points of the design, before rules between parameters are looked at."""
        return math.prod(len(axis.values) for axis in self.axes) if self.design == "grid" else self.n

    def canonical(self) -> dict[str, Any]:
        """Everything that decides the rows, as plain values."""
        found = {
            "base": {"name": self.base, "parameters": self.base_set.as_dict()},
            "options": dataclasses.asdict(self.options),
            "vol_threshold": self.vol_threshold,
            "first_day": self.first_day,
            "last_day": self.last_day,
            "allow_partial": self.allow_partial,
            "without_ob_edge": self.without_ob_edge,
            "design": self.design,
            "parameters": {axis.name: _plain(axis) for axis in self.axes},
            "order": [axis.name for axis in self.axes],
        }
        if self.design != "grid":
            found |= {"n": self.n, "seed": self.seed}
        return found

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical plan."""
        return hashlib.sha256(json.dumps(self.canonical(), sort_keys=True).encode()).hexdigest()


def _plain(axis: Axis) -> dict[str, Any]:
    ratio = {"ratio_of": axis.ratio_of} if axis.ratio_of else {}
    if axis.values:
        return {"values": list(axis.values), **ratio}
    return {"low": axis.low, "high": axis.high, "scale": SCALES[axis.log], **ratio}


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def read_plan(path: Path) -> Plan:
    """The plan in a YAML file.

    Raises
    ------
    StoreError
        If the file cannot be read.
    ConfigError
        For anything in it that does not exist or makes no sense: the key, the rule and the way out.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """A key that stands twice is a mistake; YAML would keep the last one silently."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise ConfigError(f"{path}: {key} stands there twice; keep one of them")
            return super().construct_mapping(node, deep)

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); name the plan's file") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        raise ConfigError(f"{path}: is no YAML ({told}); see the example in docs/sweeps.md") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no plan; expected keys like base, design and parameters")
    return plan_of(content, str(path))


def plan_of(content: Mapping[Any, Any], where: str) -> Plan:
    """The plan in a mapping as YAML gives it; `where` begins every refusal. Raises ConfigError."""
    for key in content:
        if key not in KEYS:
            raise ConfigError(
                f"{where}: unknown key {key!r}; known: {', '.join(KEYS)}.{nearest(str(key), KEYS)}"
            )
    base = _word(content, "base", "gold", tuple(NAMED_SETS), where)
    design = _word(content, "design", "grid", DESIGNS, where)
    objective = _word(content, "objective", "sharpe", OBJECTIVES, where)
    without = _flag(content, "without_ob_edge", where)
    fixed = _fixed(content.get("fixed"), base, where)
    axes = _axes(content.get("parameters"), design, where)
    names = [axis.name for axis in axes]
    for name in names:
        if name in fixed:
            raise ConfigError(f"{where}: {name} is fixed and swept; leave it in one of the two")
    if without and "use_ob_edge" in (*names, *fixed):
        raise ConfigError(f"{where}: without_ob_edge sets use_ob_edge; leave use_ob_edge out of the plan")
    plan = Plan(
        base=base,
        fixed=fixed,
        options=_options(content.get("options"), where),
        vol_threshold=_positive(content, "vol_threshold", VOL_THRESHOLD, where),
        first_day=_day(content.get("first_day"), "first_day", where),
        last_day=_day(content.get("last_day"), "last_day", where),
        allow_partial=_flag(content, "allow_partial", where),
        without_ob_edge=without,
        design=design,
        n=_n(content, design, where),
        seed=_seed(content, design, where),
        objective=objective,
        axes=axes,
    )
    if plan.first_day and plan.last_day and plan.last_day < plan.first_day:
        raise ConfigError(
            f"{where}: last_day {plan.last_day} lies before first_day {plan.first_day}; swap them"
        )
    if not 1 <= plan.size <= BINDINGS_MAX:
        raise ConfigError(
            f"{where}: a grid of {plan.size:,} bindings, expected up to {BINDINGS_MAX:,}; give fewer values,"
            " or design: sobol with n"
        )
    for axis in axes:
        _check_link(axis, axes, where)
        _check_rule(axis, plan.base_set, where)
    return plan


# -- keys of the plan ------------------------------------------------------------------------------------


def _word(content: Mapping[Any, Any], key: str, default: str, known: tuple[str, ...], where: str) -> str:
    value = content.get(key, default)
    if not isinstance(value, str) or value not in known:
        hint = nearest(str(value), known)
        raise ConfigError(f"{where}: {key} is {value!r}, expected one of {', '.join(known)}.{hint}")
    return value


def _flag(content: Mapping[Any, Any], key: str, where: str) -> bool:
    value = content.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: {key} is {value!r}, expected true or false")
    return value


def _positive(content: Mapping[Any, Any], key: str, default: float, where: str) -> float:
    value = _number(content.get(key, default))
    if value is None or not 0.0 < value < math.inf:
        raise ConfigError(f"{where}: {key} is {content[key]!r}, expected a number above 0")
    return float(value)


def _day(value: Any, key: str, where: str) -> str | None:
    if value is None:
        return None
    text = value.isoformat() if type(value) is dt.date else str(value)
    try:
        day_start_ns(text)
    except ValueError as error:
        raise ConfigError(
            f"{where}: {key} is {text!r}, expected a day as YYYY-MM-DD, like 2021-04-10"
        ) from error
    return text


def _n(content: Mapping[Any, Any], design: str, where: str) -> int:
    value = content.get("n")
    if design == "grid":
        if value is not None:
            raise ConfigError(f"{where}: n is for a random or a sobol design; a grid's values say how many")
        return 0
    if type(value) is not int or not 1 <= value <= BINDINGS_MAX:
        told = "is missing" if value is None else f"is {value!r}"
        raise ConfigError(f"{where}: n {told}, expected how many bindings to draw, 1 to {BINDINGS_MAX:,}")
    return value


def _seed(content: Mapping[Any, Any], design: str, where: str) -> int:
    value = content.get("seed", 1)
    if design == "grid" and "seed" in content:
        raise ConfigError(
            f"{where}: seed is of a random or a sobol design; leave it out, or sweep it under parameters"
        )
    if type(value) is not int or not 0 <= value < 2**32:
        raise ConfigError(f"{where}: seed is {value!r}, expected a whole number, 0 to 2**32 - 1")
    return value


def _options(value: Any, where: str) -> EngineOptions:
    if value is None:
        return EngineOptions()
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: options is {value!r}, expected names with values, like fee_scale: 2")
    for name in value:
        if name not in _OPTIONS:
            raise ConfigError(
                f"{where}: options: unknown option {name!r}; known: {', '.join(_OPTIONS)}."
                f"{nearest(str(name), _OPTIONS)}"
            )
    made: dict[str, Any] = {}
    for option in dataclasses.fields(EngineOptions):
        if option.name not in value:
            continue
        given = value[option.name]
        number = _number(given) if str(option.type) == "float" else None
        made[option.name] = number if number is not None else given
        expected = {"float": float, "bool": bool, "str": str}[str(option.type)]
        if type(made[option.name]) is int and expected is float:
            made[option.name] = float(made[option.name])
        if type(made[option.name]) is not expected:
            raise ConfigError(f"{where}: options: {option.name} is {given!r}, expected a {option.type}")
    try:
        return EngineOptions(**made)
    except ConfigError as error:
        raise ConfigError(f"{where}: options: {error}") from error


def _fixed(value: Any, base: str, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: fixed is {value!r}, expected names with values, like max_leverage: 7")
    found = {str(name): _typed(str(name), given, f"{where}: fixed", where) for name, given in value.items()}
    try:
        load_set(base).with_values(found)
    except ConfigError as error:
        raise ConfigError(f"{where}: fixed: {error}; change it, or fix its partner too") from error
    return found


# -- axes ------------------------------------------------------------------------------------------------


def _axes(value: Any, design: str, where: str) -> tuple[Axis, ...]:
    if not value or not isinstance(value, dict):
        raise ConfigError(
            f"{where}: parameters is {'missing' if value is None else repr(value)}; a sweep needs one to"
            " move, like max_hold_bars: [60, 120]"
        )
    return tuple(_axis(str(name), given, design, where) for name, given in value.items())


def _axis(name: str, given: Any, design: str, where: str) -> Axis:
    at = f"{where}: parameters: {name}"
    _require_known(name, f"{where}: parameters")
    if isinstance(given, list):
        given = {"values": given}
    if not isinstance(given, dict):
        raise ConfigError(f"{at} is {given!r}, expected a list of values, or low and high")
    for key in given:
        if key not in _AXIS_KEYS:
            raise ConfigError(
                f"{at}: unknown key {key!r}; known: {', '.join(_AXIS_KEYS)}.{nearest(str(key), _AXIS_KEYS)}"
            )
    ratio_of = _ratio_of(name, given.get("ratio_of"), at)
    kind = float if ratio_of else _KINDS[name]
    if "values" in given:
        extra = [key for key in ("low", "high", "step", "scale") if key in given]
        if extra:
            raise ConfigError(f"{at}: values and {extra[0]} stand together; give values, or low and high")
        values = given["values"]
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{at}: values is {values!r}, expected a list that is not empty")
        found = tuple(_typed(name, v, at, where, kind) for v in values)
        for k, v in enumerate(found):
            if v in found[:k]:
                raise ConfigError(f"{at}: the value {_shown(v)} stands twice; keep one of them")
        return Axis(name=name, values=found, ratio_of=ratio_of)
    return _range(name, given, kind, ratio_of, design, at)


def _require_known(name: str, where: str) -> None:
    if name in _KINDS:
        return
    if name in _OPTIONS:
        raise ConfigError(f"{where}: {name} is an option of the engine; put it under options, one value")
    raise ConfigError(
        f"{where}: there is no parameter {name!r}.{nearest(name, _KINDS)} `dolphin config` lists all"
    )


def _ratio_of(name: str, value: Any, at: str) -> str:
    if value is None:
        return ""
    if value == name or value not in _KINDS:
        raise ConfigError(
            f"{at}: ratio_of is {value!r}, expected another parameter.{nearest(str(value), _KINDS)}"
        )
    for which in (name, value):
        if _KINDS[which] is not float:
            raise ConfigError(
                f"{at}: ratio_of links numbers, {which} is {_WORDS[_KINDS[which]]}; leave it out"
            )
    return str(value)


def _range(name: str, given: dict[str, Any], kind: type, ratio_of: str, design: str, at: str) -> Axis:
    for key in ("low", "high"):
        if key not in given:
            raise ConfigError(f"{at}: {key} is missing; give low and high, or values")
    if kind is bool:
        raise ConfigError(f"{at}: true or false has no range; give values: [true, false]")
    low, high = (_typed(name, given[key], f"{at}: {key}", "", kind) for key in ("low", "high"))
    if high < low:
        raise ConfigError(f"{at}: low {_shown(low)} is above high {_shown(high)}; swap them")
    if high == low:
        raise ConfigError(f"{at}: low and high are both {_shown(low)}, nothing moves; put it under fixed")
    scale = given.get("scale", "linear")
    if scale not in SCALES:
        raise ConfigError(
            f"{at}: scale is {scale!r}, expected {' or '.join(SCALES)}.{nearest(str(scale), SCALES)}"
        )
    if "step" in given:
        if "scale" in given:
            raise ConfigError(f"{at}: step and scale stand together; a step is linear, leave scale out")
        step = _typed(name, given["step"], f"{at}: step", "", kind)
        values = _stepped(low, high, step, kind)
        if not values:
            raise ConfigError(
                f"{at}: step {_shown(step)} gives no value but low; expected above 0 and at most"
                f" {_shown(high - low)}"
            )
        return Axis(name=name, values=values, ratio_of=ratio_of)
    if design == "grid":
        raise ConfigError(f"{at}: a grid needs a step between low and high, or values; or use design: sobol")
    if scale == "log" and not low * high > 0:
        raise ConfigError(
            f"{at}: a log scale needs low and high on one side of 0, these are {_shown(low)}, {_shown(high)}"
        )
    return Axis(name=name, low=float(low), high=float(high), log=scale == "log", ratio_of=ratio_of)


def _stepped(low: Any, high: Any, step: Any, kind: type) -> tuple[Any, ...]:
    """low, low + step, ... up to high, in decimals, so that steps of 0.1 give 0.3 and no rounding."""
    a, b, s = (Decimal(repr(v)) for v in (low, high, step))
    if s <= 0 or s > b - a:
        return ()
    n = int((b - a) / s)
    if n >= BINDINGS_MAX:
        return tuple(range(n + 1))  # refused by its size
    return tuple(kind(a + k * s) for k in range(n + 1))


def _number(value: Any) -> int | float | None:
    """A finite number; YAML reads 1e-4 as text."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def _typed(name: str, value: Any, at: str, where: str, kind: type | None = None) -> Any:
    """The value in the parameter's own type."""
    _require_known(name, f"{where}: fixed" if kind is None else at)
    kind = kind or _KINDS[name]
    if kind is bool:
        if not isinstance(value, bool):
            raise ConfigError(f"{at}: {name} takes true or false, this is {value!r}")
        return value
    number = _number(value)
    if number is None:
        raise ConfigError(f"{at}: {name} takes {_WORDS[kind]}, this is {value!r}")
    if kind is int:
        if number != int(number):
            raise ConfigError(f"{at}: {name} takes whole numbers, this is {value!r}; round it")
        return int(number)
    return float(number)


# -- a value against its parameter's own rule ------------------------------------------------------------


def _check_link(axis: Axis, axes: tuple[Axis, ...], where: str) -> None:
    if axis.ratio_of and any(other.name == axis.ratio_of and other.ratio_of for other in axes):
        raise ConfigError(
            f"{where}: parameters: {axis.name}: ratio_of names {axis.ratio_of}, which is a ratio itself;"
            " link both to a parameter that has values"
        )


def _check_rule(axis: Axis, base: ParameterSet, where: str) -> None:
    """Refuse values that no partner could make right. Raises ConfigError."""
    at = f"{where}: parameters: {axis.name}"
    values: tuple[Any, ...] = axis.values or (axis.low, axis.high)
    if axis.ratio_of:
        for value in values:
            if not value > 0.0:
                raise ConfigError(f"{at}: a ratio of {_shown(value)}, expected above 0")
        return
    if not axis.values and axis.kind is int:
        values = (int(axis.low), int(axis.high))
    for value in values:
        try:
            base.with_values({**_partners(axis.name, value, base), axis.name: value})
        except ConfigError as error:
            told = str(error).replace("parameter ", "", 1)
            which = "its values" if axis.values else "its range"
            raise ConfigError(f"{at}: {told}; change {which}") from error


def _partners(name: str, value: Any, base: ParameterSet) -> dict[str, Any]:
    """Values of the parameters that share a rule with this one, chosen so that the shared rule holds."""
    side = 1 if value > 0 else -1
    if name == "direction":
        return {"vel_div_threshold": 0.02 * side, "vel_div_extreme": 0.05 * side}
    if name == "vel_div_threshold":
        return {"direction": side, "vel_div_extreme": 2.0 * value}
    if name == "vel_div_extreme":
        return {"direction": side, "vel_div_threshold": value / 2.0}
    if name == "min_leverage":
        return {
            "max_leverage": max(value, base.max_leverage),
            "abs_max_leverage": max(value, base.abs_max_leverage),
        }
    if name in ("max_leverage", "abs_max_leverage") and value > 0:
        return {"min_leverage": min(value, base.min_leverage)}
    return {}


def told_design(plan: Plan) -> str:
    """The design in a few words: `a grid of 1,000 bindings`."""
    size = plural(plan.size, "binding")
    return f"a grid of {size}" if plan.design == "grid" else f"{size}, {plan.design} design, seed {plan.seed}"
