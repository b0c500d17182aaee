"""Holding a position and closing it: judgement, costs, result (spec 03, sections 8 and 9).

Kernels that `step` and the whole period share; what they need of the state comes as plain arrays.
"""

from __future__ import annotations

from typing import NamedTuple

from dolphin.alpha.costs import costs
from dolphin.alpha.exits import (
    VD_ADVERSE_BARS,
    VD_ADVERSE_LEVEL,
    exit_decision,
    trend_recovery,
)
from dolphin.alpha.sizing import STREAK_TRADES
from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.codes import (
    ACTION_EXIT,
)
from dolphin.engine.record import (
    O_ACTION,
    O_ASSET,
    O_BARS_HELD,
    O_ENTRY_FEE,
    O_EXIT_FEE,
    O_GROSS,
    O_MAX_HOLD,
    O_NET,
    O_OB_EDGE,
    O_PNL_PCT,
    O_PRICE,
    O_REASON,
    O_SCAN_PRICE,
    O_SL,
    O_STALE_PRICE,
    O_TP,
)
from dolphin.engine.state import (
    ACB_FLAG,
    ADVERSE_RUN,
    BUCKET,
    CAPITAL,
    DAY_TRADES,
    DRAW_POSITION,
    ENTRY_BAR,
    ENTRY_PRICE,
    ENTRY_SPREAD,
    LAST_EXIT_BAR,
    LEVERAGE,
    NONE,
    NOTIONAL,
    POSITION,
    POSTURE,
    RESULTS,
    TRADES,
    Books,
    State,
    StepParams,
)
from dolphin.kernel import kernel


@kernel
def ob_edge(
    p: StepParams,
    ints: IntArray,
    books: bool,
    depth_quality: float,
    fill_probability: float,
    draws: FloatArray,
) -> float:
    """Layer 4's edge of one exit, a fraction of the notional; without books one draw decides.

    ints are the state's; depth_quality and fill_probability those of the held asset's book.
    """
    if not p.use_ob_edge:
        return 0.0
    if books:
        if depth_quality > 0.5:
            return fill_probability * p.ob_edge_bps * 1e-4
        return 0.0
    draw: float = draws[ints[DRAW_POSITION]]
    ints[DRAW_POSITION] += 1
    if draw < p.ob_confirm_rate:
        return p.ob_edge_bps * 1e-4
    return 0.0


class Position(NamedTuple):
    """What judging an open position needs of the state."""

    entry_price: float  # USDT
    leverage: float
    entry_spread: float  # 1/s
    posture: int
    breaker_calmed: bool
    adverse_run: int  # bars in a row, this one not yet counted


class Duress(NamedTuple):
    """What judging an open position needs of the order books; see `Books`."""

    present: bool
    cascade_count: int
    regime_signal: int
    imbalance_ma5: float  # of the held asset, as the next one
    withdrawal_velocity: float


@kernel
def position_of(floats: FloatArray, ints: IntArray) -> Position:
    """The open position as `judge` takes it; both arrays are the state's."""
    return Position(
        floats[ENTRY_PRICE],
        floats[LEVERAGE],
        floats[ENTRY_SPREAD],
        ints[POSTURE],
        ints[ACB_FLAG] == 1,
        ints[ADVERSE_RUN],
    )


@kernel
def duress_of(books: Books, asset: int) -> Duress:
    """The books' say on a held asset."""
    if not books.present:
        return Duress(False, 0, 0, 0.0, 0.0)
    return Duress(
        True,
        books.cascade_count,
        books.regime_signal,
        books.imbalance_ma5[asset],
        books.withdrawal_velocity[asset],
    )


@kernel
def adverse_run(p: StepParams, run: int, vel_div: float) -> int:
    """Bars in a row on which vel_div (1/s) stood beyond the adverse level, this one included."""
    adverse = vel_div > VD_ADVERSE_LEVEL if p.direction < 0 else vel_div < -VD_ADVERSE_LEVEL
    return run + 1 if adverse else 0


@kernel
def judge(
    p: StepParams, held: Position, bars_held: int, price: float, vel_div: float, spread: float, duress: Duress
) -> tuple[int, int, float, float, float, int]:
    """(action, reason, pnl_pct, tp, sl, max_hold) of an open position at a price (USDT) on one bar.

    spread is v50 - v750 velocity, 1/s.
    """
    eff = -duress.imbalance_ma5 if p.direction < 0 else duress.imbalance_ma5
    recovered = False
    if p.tf_enabled:
        recovered = trend_recovery(spread, held.entry_spread, p.tf_exhaust_ratio, p.tf_flip_ratio)
    return exit_decision(
        p.direction,
        held.entry_price,
        price,
        bars_held,
        p.tp,
        p.sl,
        p.max_hold,
        held.leverage,
        held.posture,
        held.breaker_calmed,
        duress.present,
        duress.cascade_count,
        duress.regime_signal,
        eff,
        duress.withdrawal_velocity,
        p.liquidation_guard,
        p.vd_enabled and adverse_run(p, held.adverse_run, vel_div) >= VD_ADVERSE_BARS,
        recovered,
    )


@kernel
def close_position(
    p: StepParams,
    floats: FloatArray,
    ints: IntArray,
    bucket_wins: IntArray,
    bucket_trades: IntArray,
    last_losses: IntArray,
    bar_idx: int,
    price: float,
    reason: int,
    edge: float,
    out_f: FloatArray,
) -> None:
    """Settle the open position at a scan price (USDT) and book the result; fills the money of out_f.

    floats to last_losses are the state's; edge is the order book's, a fraction of the notional.
    """
    exit_price, entry_fee, exit_fee, gross, net = costs(
        p.direction,
        floats[ENTRY_PRICE],
        price,
        reason,
        floats[NOTIONAL],
        p.maker_entry,
        p.maker_exit,
        p.use_fees,
        p.use_slippage,
        edge,
        p.fee_scale,
        p.slippage_scale,
    )
    out_f[O_PRICE] = exit_price
    out_f[O_NET] = net
    out_f[O_GROSS] = gross
    out_f[O_ENTRY_FEE] = entry_fee
    out_f[O_EXIT_FEE] = exit_fee
    out_f[O_OB_EDGE] = edge
    floats[CAPITAL] = floats[CAPITAL] + net
    bucket = ints[BUCKET]
    bucket_trades[bucket] += 1
    if net > 0.0:
        bucket_wins[bucket] += 1
    last_losses[ints[RESULTS] % STREAK_TRADES] = 0 if net > 0.0 else 1
    ints[RESULTS] += 1
    ints[TRADES] += 1
    ints[DAY_TRADES] += 1
    ints[POSITION] = NONE
    ints[LAST_EXIT_BAR] = bar_idx


@kernel
def manage_position(
    p: StepParams,
    s: State,
    bar_idx: int,
    price: float,
    stale: bool,
    vel_div: float,
    spread: float,
    books: Books,
    draws: FloatArray,
    out_f: FloatArray,
    out_i: IntArray,
) -> None:
    """Judge the open position at a price (USDT) and fill the records; on an exit settle it."""
    asset = s.ints[POSITION]
    bars_held = bar_idx - s.ints[ENTRY_BAR]
    action, reason, pnl_pct, tp, sl, max_hold = judge(
        p, position_of(s.floats, s.ints), bars_held, price, vel_div, spread, duress_of(books, asset)
    )
    s.ints[ADVERSE_RUN] = adverse_run(p, s.ints[ADVERSE_RUN], vel_div)
    note_judgement(asset, bars_held, price, stale, action, reason, pnl_pct, tp, sl, max_hold, out_f, out_i)
    if action == ACTION_EXIT:
        quality = books.depth_quality[asset] if books.present else 0.0
        fill = books.fill_probability[asset] if books.present else 0.0
        edge = ob_edge(p, s.ints, books.present, quality, fill, draws)
        close_position(
            p,
            s.floats,
            s.ints,
            s.bucket_wins,
            s.bucket_trades,
            s.last_losses,
            bar_idx,
            price,
            reason,
            edge,
            out_f,
        )


@kernel
def note_judgement(
    asset: int,
    bars_held: int,
    price: float,
    stale: bool,
    action: int,
    reason: int,
    pnl_pct: float,
    tp: float,
    sl: float,
    max_hold: int,
    out_f: FloatArray,
    out_i: IntArray,
) -> None:
    """What was judged of the open position, into the records; see `judge`."""
    out_i[O_ACTION] = action
    out_i[O_REASON] = reason
    out_i[O_ASSET] = asset
    out_i[O_BARS_HELD] = bars_held
    out_i[O_MAX_HOLD] = max_hold
    out_i[O_STALE_PRICE] = 1 if stale else 0
    out_f[O_PRICE] = price
    out_f[O_SCAN_PRICE] = price
    out_f[O_PNL_PCT] = pnl_pct
    out_f[O_TP] = tp
    out_f[O_SL] = sl
