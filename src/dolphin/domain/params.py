"""Parameter sets: frozen values with a hash that this file records.

A host refuses to start with a named set whose hash is not the recorded one: `load_set` raises `DriftError`
with both hashes and the keys that differ.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from dolphin.domain.errors import ConfigError, DriftError, nearest


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterSet:
    """One set of alpha parameters; the defaults are the champion's.

    Leverages are conviction (dimensionless), `*_pct` of prices are fractions (0.0095 is 0.95 %), `*_bps`
    basis points, `initial_capital` USDT. A value that makes no sense is refused at birth with ConfigError.
    """

    direction: int = -1
    vel_div_threshold: float = -0.02
    vel_div_extreme: float = -0.05
    min_leverage: float = 0.5
    max_leverage: float = 5.0
    abs_max_leverage: float = 6.0
    leverage_convexity: float = 3.0
    fraction: float = 0.20
    fixed_tp_pct: float = 0.0095
    stop_pct: float = 1.0
    max_hold_bars: int = 120
    use_direction_confirm: bool = True
    dc_lookback_bars: int = 7
    dc_min_magnitude_bps: float = 0.75
    dc_skip_contradicts: bool = True
    dc_leverage_boost: float = 1.0
    dc_leverage_reduce: float = 0.5
    use_asset_selection: bool = True
    min_irp_alignment: float = 0.45
    exclude_stablecoins: bool = False
    use_sp_fees: bool = True
    use_sp_slippage: bool = True
    sp_maker_entry_rate: float = 0.62
    sp_maker_exit_rate: float = 0.50
    use_ob_edge: bool = True
    ob_edge_bps: float = 5.0
    ob_confirm_rate: float = 0.40
    lookback: int = 100
    vd_trend_lookback: int = 10
    use_alpha_layers: bool = True
    use_dynamic_leverage: bool = True
    acb_beta_high: float = 0.80
    acb_beta_low: float = 0.20
    acb_w750_threshold_pct: float = 60.0
    seed: int = 42
    initial_capital: float = 25_000.0
    liquidation_guard: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            kind = {"int": int, "float": float, "bool": bool}[str(field.type)]
            if kind is float and type(value) is int:
                value = float(value)
                object.__setattr__(self, field.name, value)
            if type(value) is not kind or (type(value) is float and not math.isfinite(value)):
                raise ConfigError(f"parameter {field.name} is {value!r}, expected a finite {field.type}")
        self._rule("direction", self.direction in (-1, 1), "-1 (SHORT) or +1 (LONG)")
        beyond = (self.vel_div_threshold - self.vel_div_extreme) * -self.direction
        self._rule("vel_div_extreme", beyond > 0, f"beyond vel_div_threshold {self.vel_div_threshold}")
        self._rule(
            "vel_div_threshold", self.vel_div_threshold * self.direction > 0, "of the direction's sign"
        )
        self._rule(
            "min_leverage", 0 < self.min_leverage <= self.max_leverage, "0 < min_leverage <= max_leverage"
        )
        self._rule("abs_max_leverage", self.abs_max_leverage >= self.min_leverage, "at least min_leverage")
        self._rule("leverage_convexity", self.leverage_convexity > 0, "above 0")
        self._rule("fraction", 0.02 <= self.fraction <= 1.0, "0.02 to 1")
        self._rule("fixed_tp_pct", self.fixed_tp_pct > 0, "above 0")
        self._rule("stop_pct", self.stop_pct > 0, "above 0")
        self._rule("max_hold_bars", self.max_hold_bars >= 1, "1 or more")
        self._rule("dc_lookback_bars", 1 <= self.dc_lookback_bars < 200, "1 to 199")
        self._rule("lookback", self.lookback >= 0, "0 or more")
        self._rule("vd_trend_lookback", 1 <= self.vd_trend_lookback <= 200, "1 to 200")
        for name in ("sp_maker_entry_rate", "sp_maker_exit_rate", "ob_confirm_rate", "min_irp_alignment"):
            self._rule(name, 0.0 <= getattr(self, name) <= 1.0, "0 to 1")
        self._rule("initial_capital", self.initial_capital > 0, "above 0 USDT")
        self._rule("seed", 0 <= self.seed < 2**32, "0 to 2**32 - 1")

    def _rule(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ConfigError(f"parameter {name} is {getattr(self, name)!r}, expected {rule}")

    def as_dict(self) -> dict[str, Any]:
        """Every parameter by name."""
        return asdict(self)

    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the set's JSON with sorted keys."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def with_values(self, values: Mapping[str, Any]) -> ParameterSet:
        """A new set with some values replaced. Raises ConfigError on an unknown name, naming the nearest."""
        names = {field.name for field in fields(self)}
        for name in values:
            if name not in names:
                raise ConfigError(f"unknown parameter {name!r}.{nearest(name, names)}")
        return replace(self, **values)


CHAMPION: Final = ParameterSet()
GOLD: Final = ParameterSet(
    max_leverage=8.0,
    abs_max_leverage=9.0,
    min_irp_alignment=0.0,
    exclude_stablecoins=True,
    liquidation_guard=True,
)
GREEN: Final = ParameterSet(
    direction=1, vel_div_threshold=0.01, vel_div_extreme=0.04, exclude_stablecoins=True
)

NAMED_SETS: Final[Mapping[str, ParameterSet]] = {"champion": CHAMPION, "gold": GOLD, "green": GREEN}

#: The recorded hash of each named set, with its values as recorded then. A change of a set is a new record
#: here.
RECORDED: Final[Mapping[str, str]] = {
    "champion": "cc9077cfe7b3927c",
    "gold": "de0f7fb4ff4aa590",
    "green": "c78c9ddfb75f3762",
}
_RECORDED_DIFFERENCES: Final[Mapping[str, Mapping[str, Any]]] = {
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


def load_set(name: str) -> ParameterSet:
    """The named set, after its hash was compared with the recorded one.

    Raises ConfigError for an unknown name and DriftError when the set has drifted.
    """
    if name not in NAMED_SETS:
        raise ConfigError(
            f"unknown parameter set {name!r}; known: {', '.join(NAMED_SETS)}.{nearest(name, NAMED_SETS)}"
        )
    return check_drift(name, NAMED_SETS[name])


def check_drift(name: str, current: ParameterSet) -> ParameterSet:
    """`current` itself, if its hash is the one recorded for `name`. Raises DriftError otherwise."""
    if current.hash() == RECORDED[name]:
        return current
    differing = ", ".join(
        f"{key} {old!r} -> {new!r}" for key, (old, new) in sorted(differences(name, current).items())
    )
    raise DriftError(
        f"parameter set {name!r} has drifted: hash {current.hash()}, recorded {RECORDED[name]}; "
        f"differing: {differing or 'names or types of keys'}; "
        "restore the values or record a new set under its own name"
    )


def differences(name: str, current: ParameterSet) -> dict[str, tuple[Any, Any]]:
    """Keys in which `current` differs from the values recorded for `name`, as (recorded, current)."""
    recorded = {**CHAMPION_VALUES, **_RECORDED_DIFFERENCES.get(name, {})}
    values = current.as_dict()
    return {
        key: (recorded.get(key), values.get(key))
        for key in sorted(recorded.keys() | values.keys())
        if recorded.get(key) != values.get(key)
    }


#: The champion's values as recorded with its hash.
CHAMPION_VALUES: Final[Mapping[str, Any]] = {
    "direction": -1,
    "vel_div_threshold": -0.02,
    "vel_div_extreme": -0.05,
    "min_leverage": 0.5,
    "max_leverage": 5.0,
    "abs_max_leverage": 6.0,
    "leverage_convexity": 3.0,
    "fraction": 0.2,
    "fixed_tp_pct": 0.0095,
    "stop_pct": 1.0,
    "max_hold_bars": 120,
    "use_direction_confirm": True,
    "dc_lookback_bars": 7,
    "dc_min_magnitude_bps": 0.75,
    "dc_skip_contradicts": True,
    "dc_leverage_boost": 1.0,
    "dc_leverage_reduce": 0.5,
    "use_asset_selection": True,
    "min_irp_alignment": 0.45,
    "exclude_stablecoins": False,
    "use_sp_fees": True,
    "use_sp_slippage": True,
    "sp_maker_entry_rate": 0.62,
    "sp_maker_exit_rate": 0.5,
    "use_ob_edge": True,
    "ob_edge_bps": 5.0,
    "ob_confirm_rate": 0.4,
    "lookback": 100,
    "vd_trend_lookback": 10,
    "use_alpha_layers": True,
    "use_dynamic_leverage": True,
    "acb_beta_high": 0.8,
    "acb_beta_low": 0.2,
    "acb_w750_threshold_pct": 60.0,
    "seed": 42,
    "initial_capital": 25000.0,
    "liquidation_guard": False,
}
