"""Opening a position: gates, the choice of the asset, confirmation, size, lanes (spec 03, sections 1 to 7).

Kernels that `step` and the whole period share; what they need of the state comes as plain arrays.
"""

from __future__ import annotations

from typing import NamedTuple

from dolphin.alpha.lanes import compose, dc_mult, market_ob, ob_signal
from dolphin.alpha.selection import rank_assets, select_asset
from dolphin.alpha.signal import change_bps, confirmation, signal
from dolphin.alpha.sizing import STREAK_TRADES, sizing
from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.codes import (
    ACTION_ENTER,
    DAY_HALT,
    DC_CONTRADICT,
    DC_NEUTRAL,
    DC_REFUSED,
    JUST_EXITED,
    NO_ASSET,
    NO_CAPITAL,
    NO_SIGNAL,
    OB_REFUSED,
    POSTURE_HALT,
    REASON_NONE,
    SIGNAL,
    STALKER,
    VOL_GATE,
    WARMING_UP,
)
from dolphin.engine.record import (
    O_ACTION,
    O_ARS,
    O_ASSET,
    O_BUCKET_BOOST,
    O_CONFIDENCE,
    O_DC_CHANGE,
    O_DC_STATUS,
    O_MAX_HOLD,
    O_PRICE,
    O_RANK,
    O_RANKED,
    O_SCAN_PRICE,
    O_SL,
    O_STREAK,
    O_STRENGTH,
    O_TP,
    O_TREND,
)
from dolphin.engine.state import (
    ADVERSE_RUN,
    BAR_COUNT,
    BOUND,
    BUCKET,
    CAP,
    CAPITAL,
    ENTRY_BAR,
    ENTRY_PRICE,
    ENTRY_SPREAD,
    ENTRY_VEL_DIV,
    FRACTION,
    LANE_BASE,
    LANE_DC,
    LANE_ESOF,
    LANE_OB,
    LANE_REGIME,
    LAST_EXIT_BAR,
    LEVERAGE,
    NONE,
    NOTIONAL,
    POSITION,
    POSTURE,
    PROXY_SCALE,
    RAW,
    RED_HALT,
    REGIME,
    RESULTS,
    Books,
    History,
    Ranking,
    State,
    StepParams,
)
from dolphin.kernel import kernel


@kernel
def recent_results(ints: IntArray, last_losses: IntArray) -> tuple[int, int]:
    """(losses, trades) among the last five closed trades; both arrays are the state's."""
    trades = ints[RESULTS]
    if trades > STREAK_TRADES:
        trades = STREAK_TRADES
    losses = 0
    for i in range(trades):
        losses += last_losses[i]
    return losses, trades


@kernel
def entry_gate(
    p: StepParams, floats: FloatArray, ints: IntArray, bar_idx: int, vol_ok: bool, refusal: int
) -> int:
    """Reason code of the first gate that is shut for a bar with a signal, or REASON_NONE."""
    if bar_idx <= ints[LAST_EXIT_BAR]:
        return JUST_EXITED
    if ints[RED_HALT] == 1:
        return DAY_HALT
    if ints[POSTURE] > STALKER:
        return POSTURE_HALT
    if ints[BAR_COUNT] < p.lookback:
        return WARMING_UP
    if not vol_ok:
        return VOL_GATE
    if refusal != REASON_NONE:
        return refusal
    if floats[CAPITAL] <= 0.0:
        return NO_CAPITAL
    return REASON_NONE


@kernel
def choose_asset(
    p: StepParams,
    s: State,
    excluded: BoolArray,
    history: History,
    stale: BoolArray,
    books: Books,
    ranking: Ranking,
    out_f: FloatArray,
    out_i: IntArray,
) -> int:
    """Index of the asset to trade, or NONE; never a fallback while selection is on."""
    if not p.use_selection:
        if p.btc == NONE or stale[p.btc] or history.ends[p.btc] == history.first[p.btc]:
            return NONE
        return p.btc
    count = ranking.n_ranked
    if count == NONE:
        count = rank_assets(
            history.prices,
            history.ends,
            history.first,
            p.direction,
            0.0,
            p.relative_irp,
            books.present,
            books.depth_quality,
            s.window,
            s.profiles,
            ranking.order,
            ranking.actions,
            ranking.aligned,
            ranking.ars,
        )
    place, rank, ranked = select_asset(
        ranking.order,
        ranking.actions,
        ranking.aligned,
        count,
        p.min_alignment,
        excluded,
        stale,
        books.present,
        books.depth_quality,
    )
    out_i[O_RANKED] = ranked
    if place < 0:
        return NONE
    out_i[O_RANK] = rank
    out_f[O_ARS] = ranking.ars[place]
    chosen: int = ranking.order[place]
    return chosen


class EntryBooks(NamedTuple):
    """What an entry needs of the order books; see `Books`."""

    present: bool
    median_imbalance: float
    agreement: float
    imbalance_ma5: float  # of the chosen asset, as the next one
    persistence: float


@kernel
def entry_books(books: Books, asset: int) -> EntryBooks:
    """The books' say on a chosen asset."""
    if not books.present:
        return EntryBooks(False, 0.0, 0.0, 0.0, 0.0)
    return EntryBooks(
        True,
        books.median_imbalance,
        books.agreement,
        books.imbalance_ma5[asset],
        books.persistence[asset],
    )


@kernel
def enter(
    p: StepParams,
    floats: FloatArray,
    ints: IntArray,
    bucket_wins: IntArray,
    bucket_trades: IntArray,
    last_losses: IntArray,
    bar_idx: int,
    asset: int,
    price: float,
    known: bool,
    change: float,
    vel_div: float,
    spread: float,
    trend: float,
    esof_mult: float,
    books: EntryBooks,
    out_f: FloatArray,
    out_i: IntArray,
) -> int:
    """Open a position in a chosen asset if its own price and book agree; the reason code of what happened.

    floats to last_losses are the state's; price is the asset's last, USDT; change is the one over the
    confirmation's lookback, basis points, where there are prices enough (`known`); vel_div, spread and trend
    as in `try_entry`. out_f holds the signal's confidence.
    """
    out_i[O_ASSET] = asset
    status = DC_NEUTRAL
    if p.use_dc and known:
        status = confirmation(change, p.dc_min_bps, p.direction)
        out_f[O_DC_CHANGE] = change
    out_i[O_DC_STATUS] = status
    if status == DC_CONTRADICT and p.dc_skip:
        return DC_REFUSED
    if books.present:
        skip, confidence = ob_signal(out_f[O_CONFIDENCE], books.imbalance_ma5, books.persistence, p.direction)
        out_f[O_CONFIDENCE] = confidence
        if skip:
            return OB_REFUSED
    losses, results = recent_results(ints, last_losses)
    strength, base, bucket, boost, streak, trend_factor, fraction = sizing(
        vel_div,
        p.threshold,
        p.extreme,
        p.direction,
        p.min_leverage,
        p.max_leverage,
        p.convexity,
        p.fraction,
        p.use_layers,
        p.use_dynamic_leverage,
        trend,
        bucket_wins,
        bucket_trades,
        losses,
        results,
    )
    dc = dc_mult(status, p.dc_boost, p.dc_reduce)
    market = 1.0
    if books.present:
        market = market_ob(books.median_imbalance, books.agreement, p.direction)
    regime = floats[REGIME]
    raw, cap, leverage, bound = compose(
        base,
        dc,
        regime,
        market,
        esof_mult,
        ints[POSTURE],
        p.max_leverage,
        p.abs_max_leverage,
        p.min_leverage,
    )
    notional = floats[CAPITAL] * fraction * leverage
    if p.proxy_mode:
        notional = notional * floats[PROXY_SCALE]
    ints[POSITION] = asset
    ints[ENTRY_BAR] = bar_idx
    ints[BUCKET] = bucket
    ints[BOUND] = bound
    ints[ADVERSE_RUN] = 0
    floats[ENTRY_PRICE] = price
    floats[NOTIONAL] = notional
    floats[LEVERAGE] = leverage
    floats[FRACTION] = fraction
    floats[LANE_BASE] = base
    floats[LANE_DC] = dc
    floats[LANE_REGIME] = regime
    floats[LANE_OB] = market
    floats[LANE_ESOF] = esof_mult
    floats[RAW] = raw
    floats[CAP] = cap
    floats[ENTRY_VEL_DIV] = vel_div
    floats[ENTRY_SPREAD] = spread
    out_i[O_ACTION] = ACTION_ENTER
    out_i[O_MAX_HOLD] = p.max_hold
    out_f[O_PRICE] = price
    out_f[O_SCAN_PRICE] = price
    out_f[O_TP] = p.tp
    out_f[O_SL] = p.sl
    out_f[O_STRENGTH] = strength
    out_f[O_BUCKET_BOOST] = boost
    out_f[O_STREAK] = streak
    out_f[O_TREND] = trend_factor
    return SIGNAL


@kernel
def try_entry(
    p: StepParams,
    s: State,
    excluded: BoolArray,
    bar_idx: int,
    vel_div: float,
    spread: float,
    trend: float,
    vol_ok: bool,
    refusal: int,
    esof_mult: float,
    history: History,
    stale: BoolArray,
    books: Books,
    ranking: Ranking,
    out_f: FloatArray,
    out_i: IntArray,
) -> int:
    """Open a position if everything agrees; returns the reason code of what happened.

    vel_div, spread (v50 - v750 velocity) and trend (of vel_div) are 1/s; the ranking may be ready.
    """
    valid, confidence, _ = signal(vel_div, p.threshold, p.extreme, p.direction)
    if not valid:
        return NO_SIGNAL
    out_f[O_CONFIDENCE] = confidence
    gate = entry_gate(p, s.floats, s.ints, bar_idx, vol_ok, refusal)
    if gate != REASON_NONE:
        return gate
    asset = choose_asset(p, s, excluded, history, stale, books, ranking, out_f, out_i)
    if asset == NONE:
        return NO_ASSET
    end = history.ends[asset]
    known = end - history.first[asset] > p.dc_lookback
    change = 0.0
    if known:
        change = change_bps(history.prices[:, asset], end, p.dc_lookback)
    return enter(
        p,
        s.floats,
        s.ints,
        s.bucket_wins,
        s.bucket_trades,
        s.last_losses,
        bar_idx,
        asset,
        history.prices[end - 1, asset],
        known,
        change,
        vel_div,
        spread,
        trend,
        esof_mult,
        entry_books(books, asset),
        out_f,
        out_i,
    )
