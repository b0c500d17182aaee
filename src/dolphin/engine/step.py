"""The bar loop's one step, as a kernel: (parameters, state, bar) → the state moved on and one record.

Composed of the alpha's own kernels; nothing of the alpha is written again here. Order of work on a bar, as in
spec 03 section 10: histories, regime lane, exit management, then entry. The signal is tested before the
gates, so that a recorded reason other than NO_SIGNAL always means a signal that something stopped; which bars
trade is the same.
"""

from __future__ import annotations

from dolphin.alpha.lanes import regime_size_mult
from dolphin.alpha.signal import signal_ratio
from dolphin.alpha.sizing import cube
from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.codes import (
    MC_RED,
)
from dolphin.engine.entry import try_entry
from dolphin.engine.holding import manage_position
from dolphin.engine.record import O_REASON, clear
from dolphin.engine.state import (
    ACB_FLAG,
    BAR_COUNT,
    BETA,
    BOOST,
    CAPITAL,
    DAY_START_CAPITAL,
    DAY_TRADES,
    HISTORY_KEPT,
    HISTORY_MAX,
    LAST_BAR,
    MC_SCALE,
    MC_STATUS,
    NONE,
    POSITION,
    POSTURE,
    PROXIES_KEPT,
    PROXY_COUNT,
    PROXY_SCALE,
    RED_HALT,
    REGIME,
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
