"""The lanes and the one place where they meet (spec 03, sections 2, 3, 6, 7).

Each lane is a pure function of its own inputs; `compose` is the only fan-in.
"""

from __future__ import annotations

from dolphin.domain.codes import (
    BOUND_ABS_MAX,
    BOUND_LANES,
    BOUND_MIN,
    BOUND_POSTURE,
    BOUND_RAW,
    DC_CONFIRM,
    DC_CONTRADICT,
    STALKER,
)
from dolphin.kernel import kernel

STALKER_LEVERAGE_MAX = 2.0


@kernel
def dc_mult(status: int, boost: float, reduce: float) -> float:
    """Direction-confirmation lane: factor of a status (a contradiction that skips never gets here)."""
    if status == DC_CONFIRM:
        return boost
    if status == DC_CONTRADICT:
        return reduce
    return 1.0


@kernel
def ob_signal(
    confidence: float, imbalance_ma5: float, persistence: float, direction: int
) -> tuple[bool, float]:
    """(skip, confidence) after the asset's own book was heard (OB-2). Sizing does not use the confidence."""
    eff = -imbalance_ma5 if direction < 0 else imbalance_ma5
    if eff > 0.10:
        gain = eff * persistence * 0.5
        if gain > 0.15:
            gain = 0.15
        return False, confidence * (1.0 + gain)
    if eff < -0.15 and persistence > 0.60:
        return True, confidence
    if eff < -0.10:
        factor = 1.0 - -eff * persistence * 0.4
        if factor < 0.85:
            factor = 0.85
        return False, confidence * factor
    return False, confidence


@kernel
def market_ob(median_imbalance: float, agreement: float, direction: int) -> float:
    """Market-wide order-book lane (OB-3) in [0.85, 1.20]."""
    eff = -median_imbalance if direction < 0 else median_imbalance
    if agreement > 0.70:
        if eff > 0.08:
            factor = 1.0 + eff * agreement
            return 1.20 if factor > 1.20 else factor
        if eff < -0.08:
            factor = 1.0 - -eff * agreement
            return 0.85 if factor < 0.85 else factor
    return 1.0


@kernel
def regime_size_mult(boost: float, beta: float, s3: float, mc_scale: float) -> float:
    """Circuit-breaker lane: boost, beta on the cubed strength, and the forewarner's scale."""
    if beta > 0.0:
        return boost * (1.0 + beta * s3) * mc_scale
    return boost * mc_scale


@kernel
def compose(
    base_leverage: float,
    dc: float,
    regime: float,
    ob: float,
    esof: float,
    posture: int,
    max_leverage: float,
    abs_max_leverage: float,
    min_leverage: float,
) -> tuple[float, float, float, int]:
    """(raw, cap, leverage, bound): the five lanes' product under its caps, all conviction (dimensionless).

    bound says what decided the result: the product itself, the lanes' cap, the absolute cap, the posture's
    cap or the minimum.
    """
    raw = base_leverage * dc * regime * ob * esof
    cap = max_leverage * regime * ob * esof
    cap_bound = BOUND_LANES
    if cap > abs_max_leverage:
        cap = abs_max_leverage
        cap_bound = BOUND_ABS_MAX
    if posture == STALKER and cap > STALKER_LEVERAGE_MAX:
        cap = STALKER_LEVERAGE_MAX
        cap_bound = BOUND_POSTURE
    leverage = raw
    bound = BOUND_RAW
    if leverage > cap:
        leverage = cap
        bound = cap_bound
    if leverage < min_leverage:
        leverage = min_leverage
        bound = BOUND_MIN
    return raw, cap, leverage, bound
