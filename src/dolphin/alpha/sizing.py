"""Layers 7 and 8: how large (spec 03, section 5)."""

from __future__ import annotations

from dolphin.alpha.signal import signal_ratio
from dolphin.domain.bar import IntArray
from dolphin.kernel import kernel
from dolphin.numerics.portable import clamp

BUCKET_TRADES_MIN = 10
STREAK_TRADES = 5


@kernel
def strength(vel_div: float, threshold: float, extreme: float, direction: int) -> float:
    """s in [0, 1]: 1 beyond the extreme, else the signal ratio."""
    if (direction < 0 and vel_div <= extreme) or (direction > 0 and vel_div >= extreme):
        return 1.0
    return signal_ratio(vel_div, threshold, extreme)


@kernel
def cube(s: float, convexity: float) -> float:
    """s to the convexity; a cube is two multiplications, only another convexity uses pow."""
    if convexity == 3.0:
        return s * s * s
    power: float = s**convexity
    return power


@kernel
def base_leverage(s: float, min_leverage: float, max_leverage: float, convexity: float) -> float:
    """Base conviction in [min_leverage, max_leverage]."""
    return min_leverage + cube(s, convexity) * (max_leverage - min_leverage)


@kernel
def bucket_index(vel_div: float, threshold: float, extreme: float, direction: int) -> int:
    """0 extreme, 1 strong, 2 moderate, 3 weak."""
    if direction < 0:
        if vel_div <= 1.5 * extreme:
            return 0
        if vel_div <= extreme:
            return 1
        if vel_div <= (threshold + extreme) / 2.0:
            return 2
        return 3
    if vel_div >= 1.5 * extreme:
        return 0
    if vel_div >= extreme:
        return 1
    if vel_div >= (threshold + extreme) / 2.0:
        return 2
    return 3


@kernel
def bucket_boost(wins: int, trades: int) -> float:
    """Factor from the bucket's own win rate; 1.0 with fewer than ten closed trades."""
    if trades < BUCKET_TRADES_MIN:
        return 1.0
    rate = wins / trades
    if rate > 0.60:
        return 1.3
    if rate > 0.55:
        return 1.1
    if rate < 0.40:
        return 0.7
    if rate < 0.45:
        return 0.85
    return 1.0


@kernel
def streak_mult(losses: int, trades: int) -> float:
    """Factor from the losses among the last five closed trades; 1.0 with fewer than five."""
    if trades < STREAK_TRADES:
        return 1.0
    if losses >= 4:
        return 0.5
    if losses >= 3:
        return 0.7
    if losses <= 1:
        return 1.1
    return 1.0


@kernel
def trend_mult(vd_trend: float, direction: int) -> float:
    """Factor from the change of vel_div over the trend lookback, mirrored for LONG."""
    towards = vd_trend if direction < 0 else -vd_trend
    if towards < -0.01:
        return 1.3
    if towards > 0.01:
        return 0.7
    return 1.0


@kernel
def effective_fraction(
    s: float, is_extreme: bool, fraction: float, trend: float, bucket: float, streak: float
) -> float:
    """Fraction of capital in [0.02, fraction]."""
    confidence_mult = (0.70 if is_extreme else 0.55) / 0.95
    extreme_boost = 2.0 if is_extreme else 1.0
    base = 0.02 + s * (fraction - 0.02)
    return clamp(base * confidence_mult * extreme_boost * trend * bucket * streak, 0.02, fraction)


@kernel
def sizing(
    vel_div: float,
    threshold: float,
    extreme: float,
    direction: int,
    min_leverage: float,
    max_leverage: float,
    convexity: float,
    fraction: float,
    use_alpha_layers: bool,
    use_dynamic_leverage: bool,
    vd_trend: float,
    bucket_wins: IntArray,
    bucket_trades: IntArray,
    recent_losses: int,
    recent_trades: int,
) -> tuple[float, float, int, float, float, float, float]:
    """(strength, base_leverage, bucket, bucket_boost, streak, trend, fraction) of an entry.

    bucket_wins and bucket_trades have shape (4,); recent_losses counts the losses among the last
    min(5, recent_trades) closed trades.
    """
    s = strength(vel_div, threshold, extreme, direction)
    leverage = min_leverage
    if use_dynamic_leverage:
        leverage = base_leverage(s, min_leverage, max_leverage, convexity)
    bucket = bucket_index(vel_div, threshold, extreme, direction)
    boost = 1.0
    streak = 1.0
    trend = 1.0
    if use_alpha_layers:
        boost = bucket_boost(bucket_wins[bucket], bucket_trades[bucket])
        streak = streak_mult(recent_losses, recent_trades)
        trend = trend_mult(vd_trend, direction)
    is_extreme = vel_div <= extreme if direction < 0 else vel_div >= extreme
    share = effective_fraction(s, is_extreme, fraction, trend, boost, streak)
    return s, leverage, bucket, boost, streak, trend, share
