"""The configuration space: one row a parameter, around the champion, and the coordinates of a configuration.

Entry points: `ROWS`, `widened`, `assessed`, `coordinates`.

Invariants
----------
1. Every parameter of a set is either a row, or must be the champion's (`MUST_MATCH`), or carries no risk
   (`NO_RISK`); a test holds the three against `ParameterSet`.
2. A row that nothing in a trial can feel stays in the table and in the configuration, and is no coordinate of
   the models: they would learn chance from it. Why it cannot act stands in the row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from dolphin.domain.errors import DataError
from dolphin.domain.params import CHAMPION, ParameterSet

LINEAR: Final = "linear"
LOG: Final = "log"
INT: Final = "int"
LOG_INT: Final = "log int"
BOOL: Final = "bool"

#: Share of the trials in which a switch stands against the champion's.
FLIPPED: Final = 0.25

NEEDS_BOOKS: Final = "acts on order books only, and no trial has any"


@dataclass(frozen=True, slots=True)
class Row:
    """One parameter: its range around the champion's value, and what no widening may pass.

    low, high and base have the parameter's own unit; least and most are the values the parameter may have at
    all. idle says why a trial cannot feel it, empty for a row that acts. of_market marks a row that all
    trials of one market share, because it enters through the market's inputs. size marks the rows whose
    upper end is moved until catastrophes are neither rare nor common: ruin is a matter of size, while wider
    thresholds would mean fewer trades and a lower end of size more harmless ones.
    """

    name: str
    scale: str
    low: float
    high: float
    least: float
    most: float
    base: float
    idle: str = ""
    of_market: bool = False
    size: bool = False

    @property
    def whole(self) -> bool:
        """True for a parameter that counts."""
        return self.scale in (INT, LOG_INT)

    def position(self, value: float) -> float:
        """Where a value lies: 0 at low, 1 at high, outside beyond them; a switch at 0.25 (off) or 0.75 (on).

        Raises DataError for a value that is not finite, or not above 0 on a logarithmic row.
        """
        if not math.isfinite(value) or (self.scale in (LOG, LOG_INT) and value <= 0.0):
            raise DataError(f"{self.name} is {value!r}: no place in the table; expected a number in its unit")
        if self.scale == BOOL:
            return 0.75 if value else 0.25
        if self.scale in (LOG, LOG_INT):
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def value(self, u: float) -> float | int | bool:
        """The value at u in [0, 1); a switch is flipped in the lowest quarter."""
        if self.scale == BOOL:
            return bool(self.base) != (u < FLIPPED)
        if self.scale in (LOG, LOG_INT):
            x = self.low * math.exp(u * math.log(self.high / self.low))
        else:
            x = self.low + u * (self.high - self.low)
        x = min(max(x, self.low), self.high)
        return round(x) if self.whole else x

    def widened(self, factor: float) -> Row:
        """The row with its upper end `factor` times as far from the champion, at most `most`."""
        if self.scale in (LOG, LOG_INT):
            high = self.base * math.exp(factor * math.log(self.high / self.base))
        else:
            high = self.base + factor * (self.high - self.base)
        return replace(self, high=min(high, self.most))


def _row(name: str, scale: str, low: float, high: float, least: float, most: float, **more: Any) -> Row:
    return Row(name, scale, low, high, least, most, float(getattr(CHAMPION, name)), **more)


def _switch(name: str) -> Row:
    return Row(name, BOOL, 0.0, 1.0, 0.0, 1.0, float(getattr(CHAMPION, name)))


#: What is sampled. max_leverage stands for max_leverage times the breaker's boost, so that its range covers
#: gold's 8 at the highest boost of 1.693.
ROWS: Final[tuple[Row, ...]] = (
    _row("vel_div_threshold", LINEAR, -0.035, -0.010, -0.10, -0.002),
    _row("vel_div_extreme", LINEAR, -0.100, -0.025, -0.40, -0.004),
    _row("min_leverage", LOG, 0.1, 1.5, 0.02, 5.0, size=True),
    _row("max_leverage", LOG, 1.0, 16.0, 0.2, 60.0, size=True),
    _row("abs_max_leverage", LOG, 1.5, 20.0, 0.2, 60.0, size=True),
    _row("leverage_convexity", LINEAR, 1.0, 5.0, 0.5, 9.0),
    _row("fraction", LINEAR, 0.05, 0.60, 0.02, 1.0, size=True),
    _row("fixed_tp_pct", LOG, 0.003, 0.03, 0.0005, 0.2),
    _row("stop_pct", LOG, 0.01, 1.5, 0.001, 2.0),
    _row("max_hold_bars", LOG_INT, 10, 480, 2, 5000),
    _switch("use_direction_confirm"),
    _row("dc_lookback_bars", INT, 2, 30, 1, 150),
    _row("dc_min_magnitude_bps", LINEAR, 0.0, 10.0, 0.0, 50.0),
    _switch("dc_skip_contradicts"),
    _row("dc_leverage_boost", LINEAR, 0.5, 1.5, 0.1, 4.0),
    _row("dc_leverage_reduce", LINEAR, 0.1, 1.0, 0.01, 2.0),
    _row("min_irp_alignment", LINEAR, 0.0, 0.60, 0.0, 0.9),
    _switch("exclude_stablecoins"),
    _row("sp_maker_entry_rate", LINEAR, 0.3, 0.9, 0.0, 1.0),
    _row("sp_maker_exit_rate", LINEAR, 0.2, 0.8, 0.0, 1.0),
    _switch("use_ob_edge"),
    _row("ob_edge_bps", LINEAR, 0.0, 10.0, 0.0, 30.0),
    _row("ob_confirm_rate", LINEAR, 0.1, 0.7, 0.0, 1.0),
    _row("vd_trend_lookback", INT, 3, 40, 1, 200),
    _switch("use_alpha_layers"),
    _switch("use_dynamic_leverage"),
    _switch("liquidation_guard"),
    _row("acb_beta_high", LINEAR, 0.20, 1.40, 0.0, 3.0, of_market=True),
    _row("acb_beta_low", LINEAR, 0.0, 0.60, 0.0, 2.0, of_market=True),
    _row("acb_w750_threshold_pct", LINEAR, 30.0, 90.0, 0.0, 100.0, of_market=True),
    Row("ob_imbalance_bias", LINEAR, -0.20, 0.0, -0.5, 0.2, -0.09, NEEDS_BOOKS),
    Row("ob_depth_scale", LOG, 0.5, 2.0, 0.1, 10.0, 1.0, NEEDS_BOOKS),
)

#: A set that differs from the champion here is another strategy; no trial says anything about it.
MUST_MATCH: Final = ("direction", "use_asset_selection", "use_sp_fees", "use_sp_slippage")

#: When the first entry may come, what money is counted from, and which coin flips: no risk of its own.
NO_RISK: Final = ("lookback", "initial_capital", "seed")

#: Fields of the assessed configuration that are not the running set's own.
ASSESSED: Final[Mapping[str, float | int]] = {
    "trial_id": 0,
    "vd_trend_lookback": 10,
    "ob_imbalance_bias": -0.09,
    "ob_depth_scale": 1.0,
    "min_irp_alignment": 0.45,
    "acb_beta_high": 0.80,
    "acb_beta_low": 0.20,
    "acb_w750_threshold_pct": 60.0,
}

#: The largest size of a position, as a multiple of capital: what the trees would need several splits for.
EXPOSURE: Final = "log(fraction * min(max_leverage, abs_max_leverage))"

#: Coordinates in which more can only mean more risk; the classifier is held to it.
RISKIER_UP: Final = ("max_leverage", "abs_max_leverage", "fraction", EXPOSURE)

Configuration = Mapping[str, float | int | bool]


def acting(rows: Sequence[Row] = ROWS) -> tuple[Row, ...]:
    """The rows that a trial can feel."""
    return tuple(row for row in rows if not row.idle)


def features() -> tuple[str, ...]:
    """Names of the models' coordinates, in order."""
    return (*(row.name for row in acting()), EXPOSURE)


def widened(factor: float) -> tuple[Row, ...]:
    """The table with the rows of size reaching `factor` times as far above the champion; below 1 less far."""
    return tuple(row.widened(factor) if row.size else row for row in ROWS)


def as_record(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as JSON has them."""
    return [asdict(row) for row in rows]


def assessed(params: ParameterSet, boost: float) -> dict[str, float | int | bool]:
    """The configuration that stands for a running set: its parameters, max_leverage times the boost, and the
    fixed fields of `ASSESSED`, which win over the set's own.

    Raises DataError when the boost is not a finite number above 0.
    """
    if not (math.isfinite(boost) and boost > 0.0):
        raise DataError(f"boost is {boost!r}: the breaker's factor is a finite number above 0")
    own = params.as_dict()
    return {**own, "max_leverage": own["max_leverage"] * boost, **ASSESSED}


def mismatch(params: ParameterSet) -> str:
    """Why no trial speaks of this set, or an empty string."""
    for name in MUST_MATCH:
        if getattr(params, name) != getattr(CHAMPION, name):
            return f"{name} is {getattr(params, name)!r}, every trial has {getattr(CHAMPION, name)!r}"
    return ""


def coordinates(configuration: Configuration, rows: Sequence[Row]) -> list[float]:
    """The models' coordinates of a configuration, dimensionless, in the order of `features`.

    Raises DataError for a value without a place in the table.
    """
    found = [row.position(float(configuration[row.name])) for row in acting(rows)]
    exposure = float(configuration["fraction"]) * min(
        float(configuration["max_leverage"]), float(configuration["abs_max_leverage"])
    )
    if not exposure > 0.0:
        raise DataError(f"the largest position is {exposure!r} of capital; expected above 0")
    return [*found, math.log(exposure)]
