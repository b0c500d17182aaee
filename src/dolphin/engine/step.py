"""The bar loop's one step, as a kernel: (parameters, state, bar) → the state moved on and one record.

Composed of the alpha's own kernels; nothing of the alpha is written again here. Order of work on a bar, as in
spec 03 section 10: histories, regime lane, exit management, then entry. The signal is tested before the
gates, so that a recorded reason other than NO_SIGNAL always means a signal that something stopped; which bars
trade is the same.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dolphin.alpha.costs import costs
from dolphin.alpha.exits import (
    VD_ADVERSE_BARS,
    VD_ADVERSE_LEVEL,
    exit_decision,
    trend_recovery,
)
from dolphin.alpha.lanes import compose, dc_mult, market_ob, ob_signal, regime_size_mult
from dolphin.alpha.selection import rank_assets, select_asset
from dolphin.alpha.signal import change_bps, confirmation, signal, signal_ratio
from dolphin.alpha.sizing import STREAK_TRADES, cube, sizing
from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.codes import (
    ACTION_ENTER,
    ACTION_EXIT,
    DAY_HALT,
    DC_CONTRADICT,
    DC_NEUTRAL,
    DC_REFUSED,
    JUST_EXITED,
    MC_RED,
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
from dolphin.engine.state import (
    ACB_FLAG,
    ADVERSE_RUN,
    BAR_COUNT,
    BETA,
    BOOST,
    BOUND,
    BUCKET,
    CAP,
    CAPITAL,
    DAY_START_CAPITAL,
    DAY_TRADES,
    DRAW_POSITION,
    ENTRY_BAR,
    ENTRY_PRICE,
    ENTRY_SPREAD,
    ENTRY_VEL_DIV,
    FRACTION,
    HISTORY_KEPT,
    HISTORY_MAX,
    LANE_BASE,
    LANE_DC,
    LANE_ESOF,
    LANE_OB,
    LANE_REGIME,
    LAST_BAR,
    LAST_EXIT_BAR,
    LEVERAGE,
    MC_SCALE,
    MC_STATUS,
    NONE,
    NOTIONAL,
    POSITION,
    POSTURE,
    PROXIES_KEPT,
    PROXY_COUNT,
    PROXY_SCALE,
    RAW,
    RED_HALT,
    REGIME,
    RESULTS,
    TRADES,
    VEL_DIV_KEPT,
    BarInput,
    Books,
    History,
    Ranking,
    State,
    StepParams,
)
from dolphin.kernel import kernel
from dolphin.numerics.portable import clamp
from dolphin.risk.breaker import normalised

# Slots of the step's float record.
OUT_FLOAT_NAMES: Final = (
    "price",
    "net",
    "gross",
    "entry_fee",
    "exit_fee",
    "ob_edge",
    "scan_price",
    "pnl_pct",
    "tp",
    "sl",
    "confidence",
    "strength",
    "bucket_boost",
    "streak",
    "trend",
    "dc_change_bps",
    "ars",
)
(
    O_PRICE,
    O_NET,
    O_GROSS,
    O_ENTRY_FEE,
    O_EXIT_FEE,
    O_OB_EDGE,
    O_SCAN_PRICE,
    O_PNL_PCT,
    O_TP,
    O_SL,
    O_CONFIDENCE,
    O_STRENGTH,
    O_BUCKET_BOOST,
    O_STREAK,
    O_TREND,
    O_DC_CHANGE,
    O_ARS,
) = range(len(OUT_FLOAT_NAMES))

# Slots of the step's integer record.
OUT_INT_NAMES: Final = (
    "action",
    "reason",
    "asset",
    "bars_held",
    "max_hold",
    "stale_price",
    "dc_status",
    "rank",
    "ranked",
)
(
    O_ACTION,
    O_REASON,
    O_ASSET,
    O_BARS_HELD,
    O_MAX_HOLD,
    O_STALE_PRICE,
    O_DC_STATUS,
    O_RANK,
    O_RANKED,
) = range(len(OUT_INT_NAMES))


@kernel
def append_prices(s: State, prices: FloatArray) -> None:
    """Append each price > 0 (USDT) to its history; past 500 entries keep the last 200. NaN is no price."""
    for asset in range(prices.shape[0]):
        price = prices[asset]
        if not price > 0.0:
            continue
        n = s.n_prices[asset]
        s.prices[n, asset] = price
        n += 1
        if n > HISTORY_MAX:
            for i in range(HISTORY_KEPT):
                s.prices[i, asset] = s.prices[n - HISTORY_KEPT + i, asset]
            n = HISTORY_KEPT
        s.n_prices[asset] = n


@kernel
def update_regime(p: StepParams, floats: FloatArray, vel_div: float) -> None:
    """The circuit-breaker lane of a bar with this vel_div (1/s)."""
    ratio = signal_ratio(vel_div, p.threshold, p.extreme)
    floats[REGIME] = regime_size_mult(floats[BOOST], floats[BETA], cube(ratio, 3.0), floats[MC_SCALE])


@kernel
def open_day(s: State, posture: int, boost: float, beta: float, mc_status: int, mc_scale: float) -> None:
    """Begin a UTC day with its breaker, forewarner gate and posture; everything else goes on."""
    s.floats[BOOST] = boost
    s.floats[BETA] = beta
    s.floats[MC_SCALE] = mc_scale
    s.floats[DAY_START_CAPITAL] = s.floats[CAPITAL]
    s.ints[MC_STATUS] = mc_status
    s.ints[RED_HALT] = 1 if mc_status == MC_RED else 0
    s.ints[DAY_TRADES] = 0
    s.ints[POSTURE] = posture


@kernel
def update_breaker(s: State, boost: float, beta: float) -> None:
    """Apply a breaker update between bars; one that calms down closes an open position on the next bar."""
    if s.ints[POSITION] != NONE and normalised(s.floats[BOOST], boost):
        s.ints[ACB_FLAG] = 1
    s.floats[BOOST] = boost
    s.floats[BETA] = beta


@kernel
def proxy_update(s: State, instability_50: float, v750_velocity: float) -> None:
    """Percentile rank of instability_50 - v750_velocity among the last 500 bars, and the size factor from it.

    The rank counts the values below plus half of the equal ones, the newest among them. NaN leaves the factor
    as it was and records nothing.
    """
    proxy = instability_50 - v750_velocity
    if proxy != proxy:
        return
    count = s.ints[PROXY_COUNT]
    s.proxies[count % PROXIES_KEPT] = proxy
    count += 1
    s.ints[PROXY_COUNT] = count
    kept = count if count < PROXIES_KEPT else PROXIES_KEPT
    below = 0
    equal = 0
    for i in range(kept):
        if s.proxies[i] < proxy:
            below += 1
        elif s.proxies[i] == proxy:
            equal += 1
    rank = (below + 0.5 * equal) / kept
    s.floats[PROXY_SCALE] = clamp(1.0 + 0.4 * (rank - 0.5), 0.8, 1.2)


@kernel
def vel_div_trend(s: State, lookback: int) -> float:
    """vel_div now minus vel_div `lookback` entries from the end, the newest the first; 0 with fewer bars."""
    count = s.ints[BAR_COUNT]
    if count < lookback:
        return 0.0
    newest: float = s.vel_divs[(count - 1) % VEL_DIV_KEPT]
    oldest: float = s.vel_divs[(count - lookback) % VEL_DIV_KEPT]
    return newest - oldest


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


@kernel
def clear(out_f: FloatArray, out_i: IntArray) -> None:
    """Empty the records of a bar: nothing done, no asset."""
    for i in range(out_f.shape[0]):
        out_f[i] = 0.0
    for i in range(out_i.shape[0]):
        out_i[i] = 0
    out_i[O_ASSET] = NONE


@kernel
def step(
    p: StepParams,
    s: State,
    excluded: BoolArray,
    bar_idx: int,
    bar: BarInput,
    books: Books,
    draws: FloatArray,
    out_f: FloatArray,
    out_i: IntArray,
) -> None:
    """One bar: moves the state on in place and fills the records out_f and out_i.

    excluded (n_assets,) marks assets that are never entered; draws holds the stream
    RandomState(seed).random_sample() from its start, longer than the position in the state.
    """
    clear(out_f, out_i)
    append_prices(s, bar.prices)
    update_regime(p, s.floats, bar.vel_div)
    s.vel_divs[s.ints[BAR_COUNT] % VEL_DIV_KEPT] = bar.vel_div
    s.ints[BAR_COUNT] += 1
    s.ints[LAST_BAR] = bar_idx
    spread = bar.v50_velocity - bar.v750_velocity
    held = s.ints[POSITION]
    if held != NONE:
        price = s.prices[s.n_prices[held] - 1, held]
        stale = bar.stale[held]
        manage_position(p, s, bar_idx, price, stale, bar.vel_div, spread, books, draws, out_f, out_i)
    else:
        out_i[O_REASON] = try_entry(
            p,
            s,
            excluded,
            bar_idx,
            bar.vel_div,
            spread,
            vel_div_trend(s, p.trend_lookback),
            bar.vol_ok,
            bar.refusal,
            bar.esof_mult,
            History(s.prices, s.n_prices, s.first),
            bar.stale,
            books,
            Ranking(NONE, s.order, s.actions, s.aligned, s.ars),
            out_f,
            out_i,
        )
    s.ints[ACB_FLAG] = 0
