"""Esoteric haircut: a size multiplier that is never above 1 (spec 05, section 5)."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

from dolphin.kernel import kernel

STALE_AFTER_S = 900.0
STALE_MULT = 0.4


@kernel
def esof_mult(score: float, age_s: float) -> float:
    """Multiplier of a score in [-1, 1] that is age_s seconds old; NaN (no score) or too old gives 0.4.

    Within 0.02 of a boundary the two levels are joined by a straight line.
    """
    if score != score or age_s > STALE_AFTER_S:
        return STALE_MULT
    for boundary, low, high in ((-0.25, 0.3, 0.65), (-0.05, 0.65, 0.8), (0.05, 0.8, 0.9), (0.25, 0.9, 1.0)):
        distance = score - boundary
        if -0.02 < distance < 0.02:
            return low + (high - low) * ((score - (boundary - 0.02)) / 0.04)
    if score >= 0.25:
        return 1.0
    if score >= 0.05:
        return 0.9
    if score >= -0.05:
        return 0.8
    if score >= -0.25:
        return 0.65
    return 0.3


def esof_fold(leverage: float, notional: float, mult: float) -> tuple[float, float]:
    """(leverage, notional in USDT) after the haircut, rounded to 6 and 12 decimals.

    Only for a size composed with the lane at 1 (never both). A multiplier of 1 changes nothing, not even by
    rounding. Plain Python only: correct decimal rounding is no part of a compiled path.
    """
    m = min(max(mult, 0.0), 1.0)
    if abs(m - 1.0) < 1e-9:
        return leverage, notional
    return _round(leverage * m, 6), _round(notional * m, 12)


def _round(value: float, places: int) -> float:
    return float(Decimal(value).quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN))
