"""Why a bar was decided as it was: every value against its threshold, from the kernels that decided it.

Entry point: `explain`. The result is plain values, for people (`dolphin.commands.explain`) and machines.
Gates stand in the order in which the engine asks them; the first that is shut decides, and those after it are
shown as they would have answered. Those that this run did not ask say so, and neither passed nor failed.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from dolphin.alpha.lanes import STALKER_LEVERAGE_MAX, compose, dc_mult, market_ob, ob_signal
from dolphin.alpha.selection import (
    BEST,
    IRP_PRICES,
    NOISE,
    STEPS,
    WORST,
    impulse_latency,
    rank_assets,
    select_asset,
    window_of,
)
from dolphin.alpha.signal import change_bps, direction_confirmation, signal
from dolphin.alpha.sizing import sizing
from dolphin.alpha.volatility import PRICES_MIN, VolatilityGate
from dolphin.backtest.flips import flips
from dolphin.backtest.folder import Run
from dolphin.backtest.haircut import haircut_told
from dolphin.backtest.moment import Moment, moment_of
from dolphin.backtest.stepping import books_of
from dolphin.domain import codes
from dolphin.domain.bar import BoolArray
from dolphin.domain.clock import iso_from_ns
from dolphin.domain.codes import (
    ACTION_ENTER,
    ACTION_EXIT,
    ACTIONS,
    BOUNDS,
    BUCKETS,
    DC_CONTRADICT,
    DC_NAMES,
    DC_NEUTRAL,
    DIRECT,
    IRP_ACTIONS,
    MC_RED,
    MC_STATUSES,
    POSTURES,
    REASON_NONE,
    REASONS,
    STALKER,
)
from dolphin.domain.decision import Decision
from dolphin.domain.errors import plural
from dolphin.domain.symbols import BTC
from dolphin.engine import state as st
from dolphin.engine.entry import recent_results
from dolphin.engine.step import vel_div_trend

#: Assets of the ranking that are told.
RANKED_TOLD: Final = 10

Told = dict[str, Any]


def explain(run: Run, bar: int, *, with_flips: bool = True) -> Told:
    """One bar of a run as plain values. Raises what `moment_of` raises."""
    moment, decision = moment_of(run, bar)
    decision = _labelled(run, decision)
    held = moment.before().ints[st.POSITION] != st.NONE
    told: Told = {
        "bar": bar,
        "time": iso_from_ns(decision.timestamp_ns),
        "scan_number": decision.scan_number,
        "action": ACTIONS[decision.action],
        "reason": REASONS[decision.reason],
        "asset": decision.asset,
        "price": decision.price,
        "capital": decision.capital,
        "vel_div": decision.vel_div,
        "v50_velocity": decision.v50_velocity,
        "v750_velocity": decision.v750_velocity,
    }
    told |= _judged(moment, decision) if held else _entry(moment, decision)
    told["esof"] = haircut_told(run, decision)
    if with_flips:
        told["flips"] = [
            {
                "name": flip.name,
                "value": flip.value,
                "at": flip.at,
                "action": flip.action,
                "reason": flip.reason,
                "asset": flip.asset,
            }
            for flip in flips(moment, decision)
        ]
    return told


def _labelled(run: Run, decision: Decision) -> Decision:
    """The decision with what the journal says of its books and of its haircut: the host's labels."""
    for written in run.journal.decisions(decision.bar_idx, decision.bar_idx):
        return msgspec.structs.replace(decision, books=written.books, esof=written.esof)
    return decision


def _gate(
    name: str, value: Any, needs: str, threshold: Any, passed: bool | None, margin: float | None, rule: str
) -> Told:
    """One gate: what keeps it open in words (`needs`, before the threshold where there is one), and its rule.

    passed is None for a gate that is not asked; margin is how far the value is inside, negative where it is
    shut.
    """
    return {
        "gate": name,
        "value": value,
        "needs": needs,
        "threshold": threshold,
        "margin": margin,
        "passed": None if passed is None else bool(passed),
        "rule": rule,
    }


# -- a bar without a position ----------------------------------------------------------------------------


def _entry(moment: Moment, decision: Decision) -> Told:
    """Gates, ranking, direction confirmation, size and lanes of a bar that could have entered."""
    p, s = moment.step_params(), moment.on_bar()
    valid, confidence, extreme = signal(decision.vel_div, p.threshold, p.extreme, p.direction)
    ranking, chosen, survivors = _ranking(moment, p, s)
    symbols = moment.walk.market.symbols
    gates = _first_gates(moment, decision, p, s, valid)
    needs, rule = "BTCUSDT, fresh", "selection is off in this set: BTCUSDT or nothing"
    if p.use_selection:
        needs, rule = "one that ranks", "the first of the ranking that is DIRECT, fresh and not excluded"
    name = "none" if chosen == st.NONE else symbols[chosen]
    gates.append(_gate("asset", name, needs, None, chosen != st.NONE, None, rule))
    told: Told = {
        "signal": {
            "valid": bool(valid),
            "extreme": bool(extreme),
            "threshold": p.threshold,
            "extreme_at": p.extreme,
            "strength": float(_sizing(p, s, decision.vel_div)[0]),
            "confidence": float(confidence),
        },
        "gates": gates,
        "ranking": ranking,
        "ranked": survivors,
    }
    if chosen != st.NONE:
        confirmation = _confirmation(p, s, chosen)
        told["confirmation"] = confirmation
        gates.append(_confirmation_gate(p, confirmation))
        told |= _size(moment, decision, p, s, confirmation)
    gates.append(_book_gate(moment, decision, p, chosen, float(confidence)))
    if (books := _books_told(moment, decision, chosen)) is not None:
        told["books"] = books
    return told


def _book_gate(moment: Moment, decision: Decision, p: st.StepParams, asset: int, confidence: float) -> Told:
    """The chosen asset's own book as a gate; not asked without books or without an asset."""
    books = books_of(moment.walk.market, moment.bar)
    if books is None or asset == st.NONE:
        rule = "there were none to ask" if books is None else "no asset to ask for"
        return _gate("order books", decision.books, "", None, None, None, rule)
    mean, persistence = float(books.imbalance_ma5[asset]), float(books.persistence[asset])
    skip, _ = ob_signal(confidence, mean, persistence, p.direction)
    against = -mean if p.direction < 0 else mean
    return _gate(
        "order books",
        against,
        "above",
        -0.15,
        not skip,
        against + 0.15,
        f"mean imbalance of 5 bars towards the trade, or persistence at most 0.6 (it is {persistence:.2f})",
    )


def _books_told(moment: Moment, decision: Decision, asset: int) -> Told | None:
    """What the books said on the bar, of the market and of an asset; None without books."""
    books = books_of(moment.walk.market, moment.bar)
    if books is None:
        return None
    told: Told = {
        "source": decision.books,
        "median_imbalance": books.median_imbalance,
        "agreement": books.agreement,
        "cascade_count": books.cascade_count,
        "regime_signal": books.regime_signal,
    }
    if asset != st.NONE:
        told |= {name: float(getattr(books, name)[asset]) for name in st.BOOK_ARRAYS}
    return told


def _first_gates(
    moment: Moment, decision: Decision, p: st.StepParams, s: st.State, valid: bool
) -> list[Told]:
    """The gates before an asset is chosen, in the engine's order."""
    d = p.direction
    beyond = (decision.vel_div - p.threshold) * d
    side = "below" if d < 0 else "above"
    last_exit = int(s.ints[st.LAST_EXIT_BAR])
    count = int(s.ints[st.BAR_COUNT])
    deviation = _deviation(moment)
    limit = moment.walk.vol_threshold
    refusal = moment.refusal()
    capital = float(s.floats[st.CAPITAL])
    posture = int(s.ints[st.POSTURE])
    quiet = "standard deviation of BTCUSDT's returns"
    if deviation is None:
        quiet = f"open without a price of BTCUSDT or with fewer than {PRICES_MIN}"
    return [
        _gate(
            "signal", decision.vel_div, side, p.threshold, valid, beyond, f"vel_div {side} vel_div_threshold"
        ),
        _gate(
            "after an exit",
            last_exit if last_exit >= 0 else "no exit yet",
            "before bar",
            moment.bar,
            moment.bar > last_exit,
            None if last_exit < 0 else float(moment.bar - last_exit),
            "no entry on the bar of an exit",
        ),
        _gate(
            "forewarner",
            MC_STATUSES[int(s.ints[st.MC_STATUS])],
            "not",
            MC_STATUSES[MC_RED],
            s.ints[st.RED_HALT] != 1,
            None,
            "its status at the start of the day",
        ),
        _gate(
            "posture",
            POSTURES[posture],
            "APEX or",
            POSTURES[STALKER],
            posture <= STALKER,
            None,
            "entries in APEX and STALKER only",
        ),
        _gate(
            "warm-up",
            count,
            "at least",
            p.lookback,
            count >= p.lookback,
            float(count - p.lookback),
            "bars seen, this one among them",
        ),
        _gate(
            "volatility",
            deviation,
            "above",
            limit,
            decision.vol_ok,
            None if deviation is None else deviation - limit,
            quiet,
        ),
        _gate(
            "host",
            "nothing" if refusal == REASON_NONE else REASONS[refusal],
            "nothing",
            None,
            refusal == REASON_NONE,
            None,
            "what the host refuses for: a late scan, a halted ledger",
        ),
        _gate("capital", capital, "above", 0.0, capital > 0.0, capital, "USDT"),
    ]


def _confirmation_gate(p: st.StepParams, confirmation: Told) -> Told:
    """Direction confirmation as a gate; not asked where the set does not let it refuse."""
    name, change = "direction confirmation", confirmation["change_bps"]
    if not confirmation["used"]:
        return _gate(name, change, "", None, None, None, "off in this set")
    if not p.dc_skip:
        rule = "a contradiction changes the size and refuses nothing in this set"
        return _gate(name, change, "", None, None, None, rule)
    needs, limit = ("at most", p.dc_min_bps) if p.direction < 0 else ("at least", -p.dc_min_bps)
    rule = f"change of the asset's price in {plural(p.dc_lookback, 'bar')}, bps"
    if change is None:
        return _gate(name, None, needs, limit, True, None, "open with too few prices")
    passed = confirmation["status"] != DC_NAMES[DC_CONTRADICT]
    return _gate(name, change, needs, limit, passed, p.dc_min_bps + change * p.direction, rule)


def _deviation(moment: Moment) -> float | None:
    """Standard deviation of BTC's returns as the gate sees it on the bar; None where it stays open."""
    market = moment.walk.market
    if BTC not in market.symbols:
        return None
    gate = VolatilityGate(moment.walk.vol_threshold)
    gate.restore(moment.walk.gate_prices)
    price = float(market.prices[moment.bar, market.symbols.index(BTC)])
    gate.update(price)
    prices = np.array(gate.prices)
    if len(prices) < PRICES_MIN or not price > 0.0:
        return None
    return float(np.std(np.diff(prices) / prices[:-1]))


def _ranking(moment: Moment, p: st.StepParams, s: st.State) -> tuple[list[Told], int, int]:
    """(first assets, chosen, how many rank): why each before the chosen one was passed over."""
    symbols, stale = moment.walk.market.symbols, moment.stale()
    if not p.use_selection:
        usable = p.btc != st.NONE and not stale[p.btc] and s.n_prices[p.btc] > 0
        return [], p.btc if usable else st.NONE, 0
    books = books_of(moment.walk.market, moment.bar) or st.absent_books(len(symbols))
    present, depth = books.present, books.depth_quality
    excluded = st.excluded_assets(moment.walk.params, symbols)
    count = rank_assets(
        s.prices,
        s.n_prices,
        s.first,
        p.direction,
        0.0,
        p.relative_irp,
        present,
        depth,
        s.window,
        s.profiles,
        s.order,
        s.actions,
        s.aligned,
        s.ars,
    )
    place, _, survivors = select_asset(
        s.order, s.actions, s.aligned, count, p.min_alignment, excluded, stale, present, depth
    )
    begin, source = window_of(s.prices, s.n_prices, s.first, s.window)
    rows = source[begin : begin + IRP_PRICES]
    told = []
    shown = min(count, RANKED_TOLD)
    # The chosen one may stand lower: it is told all the same, with the two after it.
    for k in [*range(shown), *range(max(shown, place), min(count, place + 3) if place >= shown else 0)]:
        asset = int(s.order[k])
        direct = s.actions[k] == DIRECT
        long = direct == (p.direction > 0)
        best = s.profiles[BEST, asset] if long else 0.0 - s.profiles[WORST, asset]
        latency = impulse_latency(rows, asset, 1.0 if long else -1.0, p.relative_irp, best)
        told.append(
            {
                "place": k + 1,
                "asset": symbols[asset],
                "ars": float(s.ars[k]),
                "direction": IRP_ACTIONS[int(s.actions[k])],
                "alignment": int(s.aligned[k]) / STEPS,
                "noise": float(s.profiles[NOISE, asset]),
                "latency": int(latency),
                "why": _passed_over(p, s, excluded, stale, k, place),
            }
        )
    return told, st.NONE if place < 0 else int(s.order[place]), int(survivors)


def _passed_over(
    p: st.StepParams, s: st.State, excluded: BoolArray, stale: BoolArray, k: int, place: int
) -> str:
    """Why the asset at place k of the ranking is not the chosen one."""
    asset = int(s.order[k])
    if k == place:
        return "chosen"
    why = ""
    if p.min_alignment > 0.0 and s.aligned[k] / STEPS < p.min_alignment:
        why = f"alignment below {p.min_alignment:g}"
    elif s.actions[k] != DIRECT:
        why = "the other direction ranks higher"
    elif excluded[asset]:
        why = "stablecoin, excluded"
    elif stale[asset]:
        why = "no fresh price"
    return why or "runner-up"


def _confirmation(p: st.StepParams, s: st.State, asset: int) -> Told:
    n = int(s.n_prices[asset])
    prices = s.prices[:, asset]
    status = DC_NEUTRAL
    if p.use_dc:
        status = direction_confirmation(prices, n, p.dc_lookback, p.dc_min_bps, p.direction)
    change = float(change_bps(prices, n, p.dc_lookback)) if n > p.dc_lookback else None
    return {
        "used": p.use_dc,
        "status": DC_NAMES[status],
        "code": int(status),
        "change_bps": change,
        "limit_bps": p.dc_min_bps,
        "lookback_bars": p.dc_lookback,
    }


def _sizing(p: st.StepParams, s: st.State, vel_div: float) -> tuple[Any, ...]:
    losses, results = recent_results(s.ints, s.last_losses)
    found: tuple[Any, ...] = sizing(
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
        vel_div_trend(s, p.trend_lookback),
        s.bucket_wins,
        s.bucket_trades,
        losses,
        results,
    )
    return found


def _size(moment: Moment, decision: Decision, p: st.StepParams, s: st.State, confirmation: Told) -> Told:
    """Sizing step by step, the lanes, and what bound the leverage; as it would be where nothing entered."""
    strength, base, bucket, boost, streak, trend, fraction = _sizing(p, s, decision.vel_div)
    losses, results = recent_results(s.ints, s.last_losses)
    dc = dc_mult(confirmation["code"], p.dc_boost, p.dc_reduce)
    books = books_of(moment.walk.market, moment.bar)
    ob = 1.0 if books is None else market_ob(books.median_imbalance, books.agreement, p.direction)
    regime, esof = float(s.floats[st.REGIME]), decision.esof_mult
    raw, cap, leverage, bound = compose(
        base,
        dc,
        regime,
        ob,
        esof,
        int(s.ints[st.POSTURE]),
        p.max_leverage,
        p.abs_max_leverage,
        p.min_leverage,
    )
    capital = float(s.floats[st.CAPITAL])
    wins, trades = int(s.bucket_wins[bucket]), int(s.bucket_trades[bucket])
    notional = capital * fraction * leverage
    if p.proxy_mode:
        notional = notional * float(s.floats[st.PROXY_SCALE])
    return {
        "entered": decision.action == ACTION_ENTER,
        "sizing": {
            "strength": float(strength),
            "bucket": BUCKETS[bucket],
            "bucket_wins": wins,
            "bucket_trades": trades,
            "bucket_boost": float(boost),
            "recent_losses": int(losses),
            "recent_trades": int(results),
            "streak": float(streak),
            "vel_div_trend": float(vel_div_trend(s, p.trend_lookback)),
            "trend": float(trend),
            "fraction_max": p.fraction,
            "fraction": float(fraction),
        },
        "lanes": {"base": float(base), "dc": dc, "regime": regime, "ob": ob, "esof": esof},
        "leverage": {
            "raw": float(raw),
            "caps": {
                "max_leverage_lanes": p.max_leverage * regime * esof,
                "abs_max_leverage": p.abs_max_leverage,
                "posture": STALKER_LEVERAGE_MAX if s.ints[st.POSTURE] == STALKER else None,
            },
            "cap": float(cap),
            "min": p.min_leverage,
            "leverage": float(leverage),
            "bound": BOUNDS[bound],
        },
        "notional": float(notional),
        "capital_before": capital,
    }


# -- a bar in a position ---------------------------------------------------------------------------------


def _judged(moment: Moment, decision: Decision) -> Told:
    """The exits' tests in the order of their priority, and what the position is."""
    p, s = moment.step_params(), moment.before()
    inputs_posture = decision.posture
    leverage = decision.leverage
    pnl, tp, sl = decision.pnl_pct, decision.tp, decision.sl
    guard = -0.95 / leverage if p.liquidation_guard else None
    on_bar = moment.on_bar()
    calmed = bool(on_bar.ints[st.ACB_FLAG] == 1)
    tests = [
        _gate(
            "hibernate",
            POSTURES[inputs_posture],
            "not",
            POSTURES[codes.HIBERNATE],
            inputs_posture != codes.HIBERNATE,
            None,
            "exit in HIBERNATE",
        ),
        _gate(
            "breaker calmed",
            "yes" if calmed else "no",
            "no",
            None,
            not calmed,
            None,
            "exit once the breaker has come back to normal",
        ),
        _guard(pnl, guard),
        _gate("take profit", pnl, "below", tp, pnl < tp, tp - pnl, "exit at or above fixed_tp_pct"),
        _gate("stop loss", pnl, "above", -sl, pnl > -sl, pnl + sl, "exit at or below -stop_pct"),
        _gate(
            "max hold",
            decision.bars_held,
            "below",
            decision.max_hold,
            decision.bars_held < decision.max_hold,
            float(decision.max_hold - decision.bars_held),
            "bars held, exit at or above max_hold_bars",
        ),
    ]
    told: Told = {
        "position": {
            "asset": decision.asset,
            "entry_bar": int(s.ints[st.ENTRY_BAR]),
            "entry_price": float(s.floats[st.ENTRY_PRICE]),
            "bars_held": decision.bars_held,
            "price": decision.scan_price,
            "stale_price": decision.stale_price,
            "pnl_pct": pnl,
            "notional": decision.notional,
            "leverage": leverage,
            "unrealised": pnl * decision.notional,
        },
        "gates": tests,
        "lanes": {
            "base": decision.lane_base,
            "dc": decision.lane_dc,
            "regime": decision.lane_regime,
            "ob": decision.lane_ob,
            "esof": decision.lane_esof,
        },
        "leverage": {
            "raw": decision.raw,
            "cap": decision.cap,
            "min": p.min_leverage,
            "leverage": leverage,
            "bound": BOUNDS[decision.bound],
        },
    }
    if (books := _books_told(moment, decision, int(s.ints[st.POSITION]))) is not None:
        told["books"] = books
    if decision.action == ACTION_EXIT:
        told["result"] = {
            "scan_price": decision.scan_price,
            "exit_price": decision.price,
            "gross": decision.gross,
            "entry_fee": decision.entry_fee,
            "exit_fee": decision.exit_fee,
            "ob_edge": decision.ob_edge,
            "net": decision.net,
        }
    return told


def _guard(pnl: float, limit: float | None) -> Told:
    """The liquidation guard at a profit (fraction of the entry price); a limit of None: it is off."""
    name = "liquidation guard"
    if limit is None:
        return _gate(name, pnl, "", None, None, None, "off in this set")
    return _gate(name, pnl, "above", limit, pnl > limit, pnl - limit, "exit at or below -0.95 / leverage")
