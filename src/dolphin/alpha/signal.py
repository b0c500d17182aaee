"""Layer 1 and 6: when to enter, and whether the asset's own price agrees (spec 03, sections 1 and 2)."""

from __future__ import annotations

from dolphin.domain.bar import FloatArray
from dolphin.domain.codes import DC_CONFIRM, DC_CONTRADICT, DC_NEUTRAL
from dolphin.kernel import kernel
from dolphin.numerics.portable import clamp


@kernel
def signal_ratio(vel_div: float, threshold: float, extreme: float) -> float:
    """How far vel_div stands from the threshold towards the extreme, clamped to [0, 1].

    vel_div, threshold, extreme are in 1/s and threshold != extreme; the formula mirrors itself for LONG.
    """
    return clamp((threshold - vel_div) / (threshold - extreme), 0.0, 1.0)


@kernel
def is_signal(vel_div: float, threshold: float, direction: int) -> bool:
    """True when vel_div (1/s) lies strictly beyond the threshold in the direction (-1 SHORT, +1 LONG)."""
    if direction < 0:
        return vel_div < threshold
    return vel_div > threshold


@kernel
def signal(vel_div: float, threshold: float, extreme: float, direction: int) -> tuple[bool, float, bool]:
    """(valid, confidence, is_extreme) of one vel_div in 1/s.

    valid: strictly beyond the threshold in the direction (-1 SHORT, +1 LONG). confidence in [0.50, 0.90].
    """
    confidence = 0.50 + signal_ratio(vel_div, threshold, extreme) * 0.40
    is_extreme = vel_div <= extreme if direction < 0 else vel_div >= extreme
    return is_signal(vel_div, threshold, direction), confidence, is_extreme


@kernel
def change_bps(prices: FloatArray, n_prices: int, lookback: int) -> float:
    """Change over the last `lookback` bars in basis points of the older price; needs n_prices > lookback."""
    p0: float = prices[n_prices - lookback - 1]
    p1: float = prices[n_prices - 1]
    return (p1 - p0) / p0 * 10000.0


@kernel
def confirmation(change: float, min_bps: float, direction: int) -> int:
    """DC_CONFIRM, DC_CONTRADICT or DC_NEUTRAL of a change in basis points."""
    if change < -min_bps:
        return DC_CONFIRM if direction < 0 else DC_CONTRADICT
    if change > min_bps:
        return DC_CONTRADICT if direction < 0 else DC_CONFIRM
    return DC_NEUTRAL


@kernel
def direction_confirmation(
    prices: FloatArray, n_prices: int, lookback: int, min_bps: float, direction: int
) -> int:
    """DC_CONFIRM, DC_CONTRADICT or DC_NEUTRAL from the first n_prices of `prices` (USDT, oldest first).

    Fewer than lookback + 1 prices: DC_NEUTRAL.
    """
    if n_prices < lookback + 1:
        return DC_NEUTRAL
    return confirmation(change_bps(prices, n_prices, lookback), min_bps, direction)
