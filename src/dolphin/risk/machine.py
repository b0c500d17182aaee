"""Meta-health score of the machinery, and the exchange's leverage setting (spec 07; spec 09, V3.5)."""

from __future__ import annotations

from typing import Final

from dolphin.kernel import kernel
from dolphin.numerics.portable import clamp

HEALTH_STATUSES: Final = ("GREEN", "DEGRADED", "CRITICAL", "DEAD")

CURVE_LINEAR: Final = 0
CURVE_CUBIC: Final = 1
CURVES: Final = ("linear", "cubic")
CONVICTION_MIN: Final = 0.5
CONVICTION_MAX: Final = 9.0


@kernel
def _sensor(value: float) -> float:
    """A sensor clamped to [0, 1]; NaN (missing) counts 0."""
    if value != value:
        return 0.0
    return clamp(value, 0.0, 1.0)


@kernel
def meta_health(m4: float, m1: float, m3: float, m5: float) -> tuple[float, int]:
    """(rm_meta in [0, 1], index into HEALTH_STATUSES) from control plane, data, freshness and coherence."""
    score = (0.35 * _sensor(m4) + 0.35 * _sensor(m1) + 0.20 * _sensor(m3) + 0.10 * _sensor(m5)) / 1.0
    if score > 0.85:
        return score, 0
    if score > 0.60:
        return score, 1
    if score > 0.30:
        return score, 2
    return score, 3


@kernel
def round_half_even(x: float) -> int:
    """Nearest integer of x >= 0, a tie to the even one."""
    whole = int(x)
    rest = x - whole
    if rest > 0.5 or (rest == 0.5 and whole % 2 == 1):
        return whole + 1
    return whole


@kernel
def exchange_leverage(conviction: float, cap: int, curve: int) -> int:
    """The exchange's leverage setting in [1, cap] for a conviction in [0.5, 9]; margin only, no size."""
    t = (conviction - CONVICTION_MIN) / (CONVICTION_MAX - CONVICTION_MIN)
    t = clamp(t, 0.0, 1.0)
    if curve == CURVE_CUBIC:
        t = t * t * t
    return round_half_even(1.0 + (cap - 1) * t)
