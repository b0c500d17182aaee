"""When to get out (spec 03, section 8)."""

from __future__ import annotations

from dolphin.domain.codes import (
    ACTION_EXIT,
    ACTION_HOLD,
    FIXED_TP,
    HIBERNATE,
    HIBERNATE_HALT,
    LIQUIDATION_GUARD,
    MAX_HOLD,
    REASON_NONE,
    STOP_LOSS,
    SUBDAY_ACB_NORMALIZATION,
    TREND_RECOVERY,
    VD_ADVERSE_TURN,
)
from dolphin.kernel import kernel

VD_ADVERSE_LEVEL = 0.02
VD_ADVERSE_BARS = 3


@kernel
def duress(
    pnl_pct: float,
    tp: float,
    sl: float,
    max_hold: int,
    cascade_count: int,
    regime_signal: int,
    eff_imbalance: float,
    withdrawal_velocity: float,
) -> tuple[float, float, int]:
    """(tp, sl, max_hold) as order-book duress bends them (OB-5), before any of them is tested."""
    new_tp = tp
    new_sl = sl
    new_hold = max_hold
    if cascade_count > 0:
        new_tp = tp * 1.40
        new_hold = int(max_hold * 0.50)
    elif regime_signal == 1:
        new_sl = 0.10
        if pnl_pct > 0.0:
            new_tp = tp * 0.60
        if eff_imbalance < -0.10:
            new_hold = int(max_hold * 0.40)
    else:
        if regime_signal == -1 and eff_imbalance > 0.15:
            new_hold = int(max_hold * 1.50)
        if withdrawal_velocity < -0.20:
            shortest = int(max_hold * 0.40)
            if shortest < new_hold:
                new_hold = shortest
            if pnl_pct > 0.0:
                new_tp = new_tp * 0.75
    return new_tp, new_sl, new_hold


@kernel
def pnl_fraction(direction: int, entry: float, price: float) -> float:
    """Profit as a fraction of the entry price; direction -1 SHORT, +1 LONG."""
    return direction * (price - entry) / entry


@kernel
def exit_decision(
    direction: int,
    entry: float,
    price: float,
    bars_held: int,
    tp: float,
    sl: float,
    max_hold: int,
    leverage: float,
    posture: int,
    acb_flag: bool,
    books: bool,
    cascade_count: int,
    regime_signal: int,
    eff_imbalance: float,
    withdrawal_velocity: float,
    liquidation_guard: bool,
    adverse_turn: bool,
    trend_recovered: bool,
) -> tuple[int, int, float, float, float, int]:
    """(action, reason, pnl_pct, tp, sl, max_hold) of an open position on one bar.

    tp, sl, pnl_pct are fractions of the entry price, bars_held and max_hold bars, leverage conviction. The
    tests run in the order of priority; the bent tp, sl and max_hold are reported with every outcome.
    """
    pnl_pct = pnl_fraction(direction, entry, price)
    if books:
        tp, sl, max_hold = duress(
            pnl_pct, tp, sl, max_hold, cascade_count, regime_signal, eff_imbalance, withdrawal_velocity
        )
    reason = REASON_NONE
    if posture == HIBERNATE:
        reason = HIBERNATE_HALT
    elif acb_flag:
        reason = SUBDAY_ACB_NORMALIZATION
    elif liquidation_guard and pnl_pct <= -0.95 / leverage:
        reason = LIQUIDATION_GUARD
    elif pnl_pct >= tp:
        reason = FIXED_TP
    elif pnl_pct <= -sl:
        reason = STOP_LOSS
    elif adverse_turn:
        reason = VD_ADVERSE_TURN
    elif trend_recovered:
        reason = TREND_RECOVERY
    elif bars_held >= max_hold:
        reason = MAX_HOLD
    action = ACTION_HOLD if reason == REASON_NONE else ACTION_EXIT
    return action, reason, pnl_pct, tp, sl, max_hold


@kernel
def trend_recovery(spread: float, spread_at_entry: float, exhaust_ratio: float, flip_ratio: float) -> bool:
    """True when the velocity spread (1/s) shrank to a share of its entry value, or turned against it."""
    size = spread_at_entry if spread_at_entry >= 0.0 else -spread_at_entry
    now = spread if spread >= 0.0 else -spread
    if now <= exhaust_ratio * size:
        return True
    towards = spread if spread_at_entry > 0.0 else -spread
    if spread_at_entry == 0.0:
        towards = 0.0
    return towards <= -flip_ratio * size
