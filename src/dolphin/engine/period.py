"""The whole-period kernel: years of bars through the alpha in one call, with the bits of `step_bar`.

Entry points: `run_period` and `finish_period`, over a `Market`. Nothing of the alpha is written here:
entries, judgements, results and rankings are the very kernels that `step` is made of. What differs is where
prices come from and which bars are looked at:

1. Price histories belong to the market, not to the state: every binding of parameters reads the same rows.
2. A bar without a position and without a signal changes nothing but counters, so it is passed over.
3. A held position reads one asset's column, kept a second time by asset.
4. Rankings depend on the market and the direction only; a table of them may be shared between bindings.

`tests/properties/test_period_identity.py` holds the period, `step_bar` and plain Python together.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from dolphin.alpha.exits import pnl_fraction
from dolphin.alpha.signal import change_bps, is_signal, signal
from dolphin.domain.bar import BoolArray, FloatArray, IntArray, SmallIntArray
from dolphin.domain.codes import (
    ACTION_ENTER,
    ACTION_EXIT,
    ACTION_HOLD,
    ACTION_NONE,
    NO_ASSET,
    NO_SIGNAL,
    REASON_NONE,
)
from dolphin.engine.entry import EntryBooks, enter, entry_gate, try_entry
from dolphin.engine.holding import (
    Duress,
    Position,
    adverse_run,
    close_position,
    duress_of,
    judge,
    note_judgement,
    ob_edge,
    position_of,
)
from dolphin.engine.market import Changes, Market, books_at, ends_at
from dolphin.engine.rankings import Picks, Rankings
from dolphin.engine.record import (
    O_ACTION,
    O_ARS,
    O_ASSET,
    O_CONFIDENCE,
    O_ENTRY_FEE,
    O_EXIT_FEE,
    O_NET,
    O_OB_EDGE,
    O_PRICE,
    O_RANK,
    O_RANKED,
    O_REASON,
    OUT_FLOAT_NAMES,
    OUT_INT_NAMES,
    clear,
)
from dolphin.engine.state import (
    ACB_FLAG,
    ADVERSE_RUN,
    BAR_COUNT,
    BETA,
    BOOST,
    CAPITAL,
    DAY_START_CAPITAL,
    DAY_TRADES,
    DRAW_POSITION,
    ENTRY_BAR,
    ENTRY_PRICE,
    FLOAT_NAMES,
    HISTORY_KEPT,
    HISTORY_MAX,
    INT_NAMES,
    LAST_BAR,
    MC_STATUS,
    NONE,
    NOTIONAL,
    POSITION,
    POSTURE,
    VEL_DIV_KEPT,
    History,
    Ranking,
    State,
    StepParams,
)
from dolphin.engine.step import append_prices, open_day, proxy_update, update_breaker, update_regime
from dolphin.kernel import kernel

#: What is recorded: nothing but totals, entries and exits, every bar's code besides, or every bar in full.
RECORD_NONE: Final = 0


RECORD_EVENTS: Final = 1


RECORD_CODES: Final = 2


RECORD_ALL: Final = 3


# Slots of the totals.
TOTAL_NAMES: Final = (
    "gross_profit",
    "gross_loss",
    "price_pnl",
    "entry_fees",
    "exit_fees",
    "slippage",
    "ob_edge",
    "peak",
    "max_drawdown",
)


(
    T_PROFIT,
    T_LOSS,
    T_PRICE_PNL,
    T_ENTRY_FEES,
    T_EXIT_FEES,
    T_SLIPPAGE,
    T_OB_EDGE,
    T_PEAK,
    T_DRAWDOWN,
) = range(len(TOTAL_NAMES))


# Slots of the counters.
COUNT_NAMES: Final = ("trades", "wins", "rows", "change", "day")


C_TRADES, C_WINS, C_ROWS, C_CHANGE, C_DAY = range(len(COUNT_NAMES))


#: A recorded row: the step's record, then the state's numbers after the bar (and the bar itself).
ROW_FLOATS: Final = (*OUT_FLOAT_NAMES, *FLOAT_NAMES)


ROW_INTS: Final = (*OUT_INT_NAMES, *INT_NAMES, "bar")


# Slots of a day's record.
DAY_FLOATS: Final = ("equity", "capital", "start_capital", "boost", "beta")


DAY_INTS: Final = ("trades", "mc_status", "last_bar")


class Recorder(NamedTuple):
    """Preallocated records; arrays of length 0 where the level does not ask for them."""

    level: int
    action: SmallIntArray  # (n,)
    reason: SmallIntArray
    asset: SmallIntArray
    equity: FloatArray  # (n,) marked, USDT
    rows_f: FloatArray  # (capacity, len(ROW_FLOATS))
    rows_i: IntArray  # (capacity, len(ROW_INTS))
    days_f: FloatArray  # (n_days, len(DAY_FLOATS))
    days_i: IntArray  # (n_days, len(DAY_INTS))


@kernel
def trend_at(before: FloatArray, vel_div: FloatArray, t: int, count: int, lookback: int) -> float:
    """vel_div's trend as `vel_div_trend` gives it; `before` is the state's ring, `count` bars stand in it."""
    if count + t + 1 < lookback:
        return 0.0
    k = t - lookback + 1
    newest: float = vel_div[t]
    oldest: float = vel_div[k] if k >= 0 else before[(count + k) % VEL_DIV_KEPT]
    return newest - oldest


@kernel
def apply_change(s: State, c: Changes, k: int) -> None:
    """What happens before a bar: a new day, or a posture and a breaker that changed within the day."""
    if c.new_day[k]:
        open_day(s, c.posture[k], c.boost[k], c.beta[k], c.mc_status[k], c.mc_scale[k])
        return
    s.ints[POSTURE] = c.posture[k]
    if c.boost[k] != s.floats[BOOST] or c.beta[k] != s.floats[BETA]:
        update_breaker(s, c.boost[k], c.beta[k])


@kernel
def marked(floats: FloatArray, direction: int, price: float) -> float:
    """Capital plus the open position at a price, USDT, before exit costs; floats are the state's."""
    value: float = floats[CAPITAL] + pnl_fraction(direction, floats[ENTRY_PRICE], price) * floats[NOTIONAL]
    return value


@kernel
def close_day(s: State, equity: float, bar_idx: int, rec: Recorder, counts: IntArray) -> None:
    """What the day that ends came to, into the next row of its records."""
    day = counts[C_DAY]
    rec.days_f[day, 0] = equity
    rec.days_f[day, 1] = s.floats[CAPITAL]
    rec.days_f[day, 2] = s.floats[DAY_START_CAPITAL]
    rec.days_f[day, 3] = s.floats[BOOST]
    rec.days_f[day, 4] = s.floats[BETA]
    rec.days_i[day, 0] = s.ints[DAY_TRADES]
    rec.days_i[day, 1] = s.ints[MC_STATUS]
    rec.days_i[day, 2] = bar_idx
    counts[C_DAY] = day + 1


@kernel
def keep_row(
    p: StepParams,
    s: State,
    rec: Recorder,
    counts: IntArray,
    bar_idx: int,
    bar_count: int,
    vel_div: float,
    out_f: FloatArray,
    out_i: IntArray,
) -> None:
    """A bar's full record: what the step gave and the state's numbers after it."""
    s.ints[BAR_COUNT] = bar_count
    s.ints[LAST_BAR] = bar_idx
    update_regime(p, s.floats, vel_div)
    k = counts[C_ROWS]
    for i in range(out_f.shape[0]):
        rec.rows_f[k, i] = out_f[i]
    for i in range(s.floats.shape[0]):
        rec.rows_f[k, out_f.shape[0] + i] = s.floats[i]
    for i in range(out_i.shape[0]):
        rec.rows_i[k, i] = out_i[i]
    for i in range(s.ints.shape[0]):
        rec.rows_i[k, out_i.shape[0] + i] = s.ints[i]
    rec.rows_i[k, out_i.shape[0] + s.ints.shape[0]] = bar_idx
    counts[C_ROWS] = k + 1


@kernel
def tally(
    p: StepParams, floats: FloatArray, price: float, out_f: FloatArray, totals: FloatArray, counts: IntArray
) -> None:
    """Add a closed trade to the totals; price is the scan price of the exit, USDT, floats the state's."""
    net = out_f[O_NET]
    notional = floats[NOTIONAL]
    entry = floats[ENTRY_PRICE]
    counts[C_TRADES] += 1
    if net > 0.0:
        counts[C_WINS] += 1
        totals[T_PROFIT] += net
    else:
        totals[T_LOSS] -= net
    at_scan = pnl_fraction(p.direction, entry, price) * notional
    totals[T_PRICE_PNL] += at_scan
    totals[T_SLIPPAGE] += at_scan - pnl_fraction(p.direction, entry, out_f[O_PRICE]) * notional
    totals[T_ENTRY_FEES] += out_f[O_ENTRY_FEE]
    totals[T_EXIT_FEES] += out_f[O_EXIT_FEE]
    totals[T_OB_EDGE] += out_f[O_OB_EDGE] * notional


@kernel
def deepest_above(peak: float, drawdown: float) -> float:
    """Equity (USDT) from which on, up to the peak, `deepest` surely changes nothing.

    A little above peak x (1 - drawdown), so that the rounding of either form cannot matter.
    """
    if drawdown > 0.99:
        return peak
    return peak * (1.0 - drawdown) * (1.0 + 1e-10)


@kernel
def adverse_before(p: StepParams, vel_div: FloatArray, begin: int, t: int, run: int) -> int:
    """The run of adverse bars after bars begin to t - 1, from the run before them."""
    k = t
    while k > begin and adverse_run(p, 0, vel_div[k - 1]) == 1:
        k -= 1
    return t - k + (run if k == begin else 0)


@kernel
def next_signal(vel_div: FloatArray, t: int, stop: int, threshold: float, direction: int) -> int:
    """First bar from t on whose vel_div (1/s) is a signal, or stop."""
    while t < stop and not is_signal(vel_div[t], threshold, direction):
        t += 1
    return t


@kernel
def deepest(equity: float, peak: float, drawdown: float) -> tuple[float, float]:
    """(peak, drawdown) after one more bar's marked equity (USDT); drawdown is a fraction of the peak."""
    if equity > peak:
        peak = equity
    fall = (peak - equity) / peak
    return peak, fall if fall > drawdown else drawdown


@kernel
def next_row(
    bars: IntArray, vel_div: FloatArray, row: int, stop: int, threshold: float, direction: int
) -> int:
    """The same over the bars of a table, from its row on: the row of the next signal before stop, or NONE.

    vel_div is the table's.
    """
    while row < bars.shape[0] and bars[row] < stop:
        if is_signal(vel_div[row], threshold, direction):
            return row
        row += 1
    return NONE


@kernel
def hold_on(
    p: StepParams,
    position: Position,
    ints: IntArray,
    prices: FloatArray,
    lead: int,
    vel_div: FloatArray,
    v50: FloatArray,
    v750: FloatArray,
    capital: float,
    notional: float,
    since: int,
    t: int,
    stop: int,
    peak: float,
    drawdown: float,
    marks: FloatArray,
) -> tuple[int, float, float]:
    """(t, peak, drawdown): pass over the bars before `stop` on which a position without books is only held.

    Stops before the bar of the exit, which is then judged again and settled. ints are the state's; prices
    (lead + n,) the held asset's, USDT; since is the entry's bar; marks (n,), or (0,) for none, take marked
    equity. Nothing but arithmetic, so that it runs at a few nanoseconds a bar.
    """
    calm = Duress(False, 0, 0, 0.0, 0.0)
    run = position.adverse_run
    calmed = position.breaker_calmed
    keep = marks.shape[0] > 0
    enough = deepest_above(peak, drawdown)
    begin = t
    while t < stop:
        now = Position(
            position.entry_price, position.leverage, position.entry_spread, position.posture, calmed, run
        )
        spread = v50[t] - v750[t] if p.tf_enabled else 0.0
        adverse = vel_div[t] if p.vd_enabled else 0.0
        action, _, pnl_pct, _, _, _ = judge(p, now, t - since, prices[lead + t], adverse, spread, calm)
        if action == ACTION_EXIT:
            break
        if p.vd_enabled:
            run = adverse_run(p, run, adverse)
        calmed = False
        equity = capital + pnl_pct * notional
        if keep:
            marks[t] = equity
        if equity > peak or equity < enough:
            peak, drawdown = deepest(equity, peak, drawdown)
            enough = deepest_above(peak, drawdown)
        t += 1
    if not p.vd_enabled:
        run = adverse_before(p, vel_div, begin, t, run)
    ints[ADVERSE_RUN] = run
    ints[ACB_FLAG] = 1 if calmed else 0
    return t, peak, drawdown


@kernel
def run_period(
    p: StepParams,
    s: State,
    excluded: BoolArray,
    m: Market,
    r: Rankings,
    k: Picks,
    draws: FloatArray,
    rec: Recorder,
    totals: FloatArray,
    counts: IntArray,
    first_bar: int,
    bar_count: int,
    start: int,
) -> int:
    """Run bars from `start` on; returns the bar it stopped before: n, or less when records or draws ran out.

    Parameters
    ----------
    p, s, excluded : parameters, assets never entered, and the state, moved on in place except its histories
        (`finish_period`)
    m, r, k : the market, its rankings, and what walks down them find
    draws : the random stream from its start
    rec, totals, counts : records and sums, carried from call to call
    first_bar, bar_count : bar_idx of bar 0 and the bars counted before it
    """
    # Plain arrays in the loop: a named tuple of arrays is copied whole into every call that takes it.
    n = m.vel_div.shape[0]
    lead = m.lead
    dense = m.dense
    vel_div, v50, v750 = m.vel_div, m.v50, m.v750
    vol_ok, refusal, esof_mult, held_prices, first = m.vol_ok, m.refusal, m.esof_mult, m.held, m.first
    has_books = m.has_books
    change_bar = m.changes.bar
    floats, ints = s.floats, s.ints
    wins, trades, losses = s.bucket_wins, s.bucket_trades, s.last_losses
    before = s.vel_divs
    pick_bar, row_from, pick_asset, pick_ars = k.bars, k.row_from, k.asset, k.ars
    pick_rank, pick_ranked = k.rank, k.ranked
    # A table that holds every signal of this threshold also says where the next one is.
    picked = row_from.shape[0] > 0 and dense and not has_books and not p.proxy_mode
    picked = picked and not is_signal(k.threshold, p.threshold, p.direction) and p.use_selection
    actions, reasons, assets, marks = rec.action, rec.reason, rec.asset, rec.equity
    out_f = np.zeros(len(OUT_FLOAT_NAMES))
    out_i = np.zeros(len(OUT_INT_NAMES), np.int64)
    ends = np.zeros(first.shape[0], np.int64)
    no_books = EntryBooks(False, 0.0, 0.0, 0.0, 0.0)
    calm = Duress(False, 0, 0, 0.0, 0.0)
    peak = totals[T_PEAK]
    drawdown = totals[T_DRAWDOWN]
    level = rec.level
    codes = level >= RECORD_CODES
    every = level == RECORD_ALL
    capacity = rec.rows_f.shape[0]
    t = start
    while t < n:
        if level > RECORD_NONE and counts[C_ROWS] + 1 > capacity:
            break
        if ints[DRAW_POSITION] >= draws.shape[0]:
            break
        change = counts[C_CHANGE]
        if t == change_bar[change]:
            if m.changes.new_day[change] and t > 0:
                equity = floats[CAPITAL]
                if ints[POSITION] != NONE:
                    equity = marked(floats, p.direction, held_prices[ints[POSITION], lead + t - 1])
                close_day(s, equity, first_bar + t - 1, rec, counts)
            apply_change(s, m.changes, change)
            change += 1
            counts[C_CHANGE] = change
        stop = change_bar[change]
        held = ints[POSITION]
        if held == NONE:
            begin = t
            if every or p.proxy_mode:
                while t < stop:
                    if p.proxy_mode:
                        proxy_update(s, m.instability[t], v750[t])
                    if every or is_signal(vel_div[t], p.threshold, p.direction):
                        break
                    t += 1
            elif picked and not codes:
                row = next_row(pick_bar, k.vel_div, row_from[t], stop, p.threshold, p.direction)
                t = stop if row == NONE else pick_bar[row]
            else:
                t = next_signal(vel_div, t, stop, p.threshold, p.direction)
            if codes:
                for i in range(begin, t):
                    actions[i] = ACTION_NONE
                    reasons[i] = NO_SIGNAL
                    assets[i] = NONE
                    marks[i] = floats[CAPITAL]
            if t == stop:
                continue
            clear(out_f, out_i)
            ints[BAR_COUNT] = bar_count + t + 1
            ints[ACB_FLAG] = 0
            update_regime(p, floats, vel_div[t])
            row = NONE
            if picked and not every and row_from[t] < pick_bar.shape[0] and pick_bar[row_from[t]] == t:
                row = row_from[t]
            spread = v50[t] - v750[t]
            trend = trend_at(before, vel_div, t, bar_count, p.trend_lookback)
            if row != NONE:
                _, confidence, _ = signal(vel_div[t], p.threshold, p.extreme, p.direction)
                out_f[O_CONFIDENCE] = confidence
                reason = entry_gate(p, floats, ints, first_bar + t, vol_ok[t], refusal[t])
                if reason == REASON_NONE:
                    asset = pick_asset[row]
                    out_i[O_RANKED] = pick_ranked[row]
                    reason = NO_ASSET
                    if asset != NONE:
                        out_i[O_RANK] = pick_rank[row]
                        out_f[O_ARS] = pick_ars[row]
                        end = lead + t + 1
                        known = end - first[asset] > p.dc_lookback
                        column = held_prices[asset]
                        move = 0.0
                        if known:
                            move = change_bps(column, end, p.dc_lookback)
                        reason = enter(
                            p,
                            floats,
                            ints,
                            wins,
                            trades,
                            losses,
                            first_bar + t,
                            asset,
                            column[end - 1],
                            known,
                            move,
                            vel_div[t],
                            spread,
                            trend,
                            esof_mult[t],
                            no_books,
                            out_f,
                            out_i,
                        )
                out_i[O_REASON] = reason
            else:
                ends_at(m, t, ends)
                table = r.row_of[t] if r.row_of.shape[0] > 0 else NONE
                ranking = Ranking(NONE, s.order, s.actions, s.aligned, s.ars)
                if table != NONE:
                    ranking = Ranking(
                        r.n_ranked[table], r.order[table], r.actions[table], r.aligned[table], r.ars[table]
                    )
                out_i[O_REASON] = try_entry(
                    p,
                    s,
                    excluded,
                    first_bar + t,
                    vel_div[t],
                    spread,
                    trend,
                    vol_ok[t],
                    refusal[t],
                    esof_mult[t],
                    History(m.rows, ends, first),
                    m.stale[t],
                    books_at(m, t),
                    ranking,
                    out_f,
                    out_i,
                )
            if codes:
                actions[t] = out_i[O_ACTION]
                reasons[t] = out_i[O_REASON]
                assets[t] = out_i[O_ASSET]
                marks[t] = floats[CAPITAL]
            if every or (level > RECORD_NONE and out_i[O_ACTION] == ACTION_ENTER):
                keep_row(p, s, rec, counts, first_bar + t, bar_count + t + 1, vel_div[t], out_f, out_i)
            t += 1
            continue
        prices = held_prices[held]
        since = ints[ENTRY_BAR] - first_bar
        if not every and not has_books and not p.proxy_mode:
            begin = t
            t, peak, drawdown = hold_on(
                p,
                position_of(floats, ints),
                ints,
                prices,
                lead,
                vel_div,
                v50,
                v750,
                floats[CAPITAL],
                floats[NOTIONAL],
                since,
                t,
                stop,
                peak,
                drawdown,
                marks,
            )
            if codes:
                for i in range(begin, t):
                    actions[i] = ACTION_HOLD
                    reasons[i] = REASON_NONE
                    assets[i] = held
        while t < stop:
            if every and counts[C_ROWS] + 1 > capacity:
                break
            if p.proxy_mode:
                proxy_update(s, m.instability[t], v750[t])
            duress = calm
            quality = 0.0
            fill = 0.0
            if has_books and m.books.present[t]:
                duress = duress_of(books_at(m, t), held)
                quality = m.books.depth_quality[t, held]
                fill = m.books.fill_probability[t, held]
            price = prices[lead + t]
            action, reason, pnl_pct, tp, sl, max_hold = judge(
                p, position_of(floats, ints), t - since, price, vel_div[t], v50[t] - v750[t], duress
            )
            ints[ADVERSE_RUN] = adverse_run(p, ints[ADVERSE_RUN], vel_div[t])
            ints[ACB_FLAG] = 0
            if action == ACTION_EXIT or every:
                clear(out_f, out_i)
                stale = m.stale[t, held]
                note_judgement(
                    held, t - since, price, stale, action, reason, pnl_pct, tp, sl, max_hold, out_f, out_i
                )
            if action == ACTION_EXIT:
                edge = ob_edge(p, ints, duress.present, quality, fill, draws)
                close_position(
                    p, floats, ints, wins, trades, losses, first_bar + t, price, reason, edge, out_f
                )
                tally(p, floats, price, out_f, totals, counts)
                equity = floats[CAPITAL]
            else:
                equity = marked(floats, p.direction, price)
            peak, drawdown = deepest(equity, peak, drawdown)
            if codes:
                actions[t] = action
                reasons[t] = reason
                assets[t] = held
                marks[t] = equity
            if every or (level > RECORD_NONE and action == ACTION_EXIT):
                keep_row(p, s, rec, counts, first_bar + t, bar_count + t + 1, vel_div[t], out_f, out_i)
            t += 1
            if action == ACTION_EXIT:
                break
    totals[T_PEAK] = peak
    totals[T_DRAWDOWN] = drawdown
    return t


@kernel
def finish_period(
    p: StepParams,
    s: State,
    m: Market,
    prices: FloatArray,
    rec: Recorder,
    counts: IntArray,
    first_bar: int,
    bar_count: int,
) -> float:
    """Bring the state's histories and counters to the last bar, close the day's record; marked equity, USDT.

    prices (n, n_assets) are the period's own.
    """
    n = m.vel_div.shape[0]
    if m.dense:
        for asset in range(m.first.shape[0]):
            added = m.lead + n - m.first[asset]
            if m.first[asset] < m.lead:
                added = n
            length = s.n_prices[asset] + added
            if length > HISTORY_MAX:
                length = HISTORY_KEPT + (length - HISTORY_MAX - 1) % (HISTORY_MAX + 1 - HISTORY_KEPT)
            for i in range(length):
                s.prices[i, asset] = m.rows[m.lead + n - length + i, asset]
            s.n_prices[asset] = length
    else:
        for t in range(n):
            append_prices(s, prices[t])
    begin = n - VEL_DIV_KEPT if n > VEL_DIV_KEPT else 0
    for t in range(begin, n):
        s.vel_divs[(bar_count + t) % VEL_DIV_KEPT] = m.vel_div[t]
    s.ints[BAR_COUNT] = bar_count + n
    s.ints[LAST_BAR] = first_bar + n - 1
    update_regime(p, s.floats, m.vel_div[n - 1])
    equity: float = s.floats[CAPITAL]
    if s.ints[POSITION] != NONE:
        equity = marked(s.floats, p.direction, m.held[s.ints[POSITION], m.lead + n - 1])
    close_day(s, equity, first_bar + n - 1, rec, counts)
    return equity
