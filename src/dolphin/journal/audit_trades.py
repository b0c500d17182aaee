"""What an audit proves of trades, their legs and the days, whatever the bars were kept in."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np

from dolphin.domain.codes import LIQUIDATION_GUARD, NO_BOOKS, REASONS, STOP_LOSS
from dolphin.domain.decision import Decision
from dolphin.domain.errors import DataError, StoreError
from dolphin.domain.params import ParameterSet
from dolphin.journal.findings import UNIT, AuditResult, BarsSeen, PriceOf, near, no_money
from dolphin.journal.ledger import ClosedTrade
from dolphin.journal.store import Journal

_FORCED = (STOP_LOSS, LIQUIDATION_GUARD)


def check_edges(params: ParameterSet, bars: BarsSeen, result: AuditResult) -> None:
    """The order-book edge of every exit: one draw of the seeded stream each, none with books."""
    full = params.ob_edge_bps * 1e-4
    drawn = [leave for leave in bars.exits.values() if params.use_ob_edge and leave.books in NO_BOOKS]
    stream = np.random.RandomState(params.seed).random_sample(len(drawn))
    expected = {
        leave.bar_idx: full if draw < params.ob_confirm_rate else 0.0
        for leave, draw in zip(drawn, stream.tolist(), strict=True)
    }
    for leave in bars.exits.values():
        where = f"bar {leave.bar_idx}: the order-book edge is {leave.ob_edge!r}"
        if not params.use_ob_edge:
            if leave.ob_edge != 0.0:
                result.find(f"{where}, this set has none")
        elif leave.bar_idx in expected:
            if leave.ob_edge != expected[leave.bar_idx]:
                result.find(f"{where}, the draw of this exit gives {expected[leave.bar_idx]!r}")
        elif not min(0.0, full) <= leave.ob_edge <= max(0.0, full):
            result.find(f"{where}, books can give 0 to {full!r}")


def check_trades(
    journal: Journal, params: ParameterSet, price_of: PriceOf | None, bars: BarsSeen, result: AuditResult
) -> None:
    """Every trade follows from its entry and exit decisions, its legs from the fills, the balance from both.

    A trade without its decisions, an exit without its trade and legs without a trade are findings; with
    price_of, so is a price that is not its scan's.
    """
    flows = _flows(journal, result)
    exits = dict(bars.exits)
    result.initial = Decimal(repr(params.initial_capital))
    result.balance = result.initial
    last_exit = -1
    for trade in journal.trades():
        result.trades += 1
        where = f"trade {trade.trade_id}"
        booked = flows.pop(trade.trade_id, {})
        entry, leave = bars.entries.get(trade.entry_bar), exits.pop(trade.exit_bar, None)
        if entry is None or leave is None:
            result.find(
                f"{where}: no matching entry and exit decisions at bars {trade.entry_bar}, {trade.exit_bar}"
            )
            continue
        if trade.entry_bar <= last_exit:
            result.find(f"{where}: entered at bar {trade.entry_bar}, before the last exit at {last_exit}")
        last_exit = max(last_exit, trade.exit_bar)
        if no_money(entry) or no_money(leave) or not _is_money(trade):
            result.find(f"{where}: a price or an amount of it is no number to reckon with")
            continue
        _check_against_decisions(trade, entry, leave, params, result)
        if price_of is not None:
            _check_prices(trade, entry, leave, price_of, result)
        _check_fill(trade, leave.reason, params, result)
        _check_legs(trade, booked, params, result)
        result.balance += sum(booked.values()) * UNIT
        if abs(Decimal(leave.capital) - result.balance) > result.trades * UNIT:
            result.find(f"{where}: the ledger stands at {result.balance}, the engine at {leave.capital!r}")
        if trade.direction * (trade.exit_price - trade.exit_scan_price) > 0:
            result.find(
                f"{where}: slippage is in our favour ({trade.exit_scan_price!r} -> {trade.exit_price!r})"
            )
    for bar in exits:
        result.find(f"bar {bar}: an exit without a booked trade")
    for trade_id in flows:
        result.find(f"cash flows of {trade_id} belong to no trade")


def _is_money(trade: ClosedTrade) -> bool:
    """Whether every amount of a booked trade is a finite number, its prices and notional above zero."""
    above = (trade.entry_price, trade.exit_scan_price, trade.exit_price, trade.notional)
    others = (trade.entry_fee, trade.exit_fee, trade.ob_edge, trade.net)
    return all(isinstance(value, float) and math.isfinite(value) for value in (*above, *others)) and all(
        value > 0.0 for value in above
    )


def _check_fill(trade: ClosedTrade, reason: int, params: ParameterSet, result: AuditResult) -> None:
    """The exit is filled at its scan's price, worse by the slippage of its reason."""
    slip = Decimal("0.0005") if reason in _FORCED else Decimal("0.0002")
    if reason not in _FORCED and params.use_sp_slippage:
        slip *= 1 - Decimal(repr(params.sp_maker_exit_rate))
    fill = Decimal(trade.exit_scan_price) * (1 - params.direction * slip)
    if not near(trade.exit_price, fill):
        result.find(
            f"trade {trade.trade_id}: exit is filled at {trade.exit_price!r}, scan price and"
            f" slippage {slip.normalize():f} give {fill:.12f}"
        )


def _flows(journal: Journal, result: AuditResult) -> dict[str, dict[str, int]]:
    """Booked amounts in 1e-8 USDT by trade and leg; a leg booked twice is a finding and counts once."""
    flows: dict[str, dict[str, int]] = {}
    for trade_id, leg, amount in journal.cash_flows():
        result.cash_flows += 1
        legs = flows.setdefault(trade_id, {})
        if leg in legs:
            result.find(f"trade {trade_id}: leg {leg} is booked twice")
        legs[leg] = amount
    return flows


def _check_against_decisions(
    trade: ClosedTrade, entry: Decision, leave: Decision, params: ParameterSet, result: AuditResult
) -> None:
    """Every field of a trade is what its two decisions say."""
    told = {
        "asset": (entry.asset, leave.asset),
        "direction": (params.direction,),
        "entry_ns": (entry.timestamp_ns,),
        "exit_ns": (leave.timestamp_ns,),
        "entry_price": (entry.price, leave.entry_price),
        "exit_scan_price": (leave.scan_price,),
        "exit_price": (leave.price,),
        "notional": (entry.notional, leave.notional),
        "leverage": (entry.leverage, leave.leverage),
        "reason": (REASONS[leave.reason] if leave.reason < len(REASONS) else str(leave.reason),),
        "entry_fee": (leave.entry_fee,),
        "exit_fee": (leave.exit_fee,),
        "ob_edge": (leave.ob_edge,),
        "net": (leave.net,),
        "stale_price": (leave.stale_price,),
    }
    for name, values in told.items():
        booked = getattr(trade, name)
        for value in values:
            if booked != value:
                result.find(f"trade {trade.trade_id}: {name} is booked as {booked!r}, decided was {value!r}")
                break


def _check_prices(
    trade: ClosedTrade, entry: Decision, leave: Decision, price_of: PriceOf, result: AuditResult
) -> None:
    """Entry and exit are booked at the prices of their scans."""
    for side, decision, booked in (
        ("entry", entry, trade.entry_price),
        ("exit", leave, trade.exit_scan_price),
    ):
        scan = decision.scan_number
        try:
            seen = price_of(scan, trade.asset, decision.timestamp_ns)
        except (DataError, StoreError, OSError, ValueError) as error:
            result.find(f"trade {trade.trade_id}: its scan {scan} cannot be read ({error})")
            continue
        if seen is None:
            result.find(
                f"trade {trade.trade_id}: its {side} price is not proved,"
                f" scan {scan} is not stored or has no price of {trade.asset}"
            )
            continue
        result.prices_checked += 1
        if seen != booked:
            result.find(
                f"trade {trade.trade_id}: books {booked!r}, scan {scan} says {seen!r} for {trade.asset}"
            )


def _check_legs(
    trade: ClosedTrade, booked: dict[str, int], params: ParameterSet, result: AuditResult
) -> None:
    """Each leg follows from the fills; their sum and the fees told beside them too."""
    where = f"trade {trade.trade_id}"
    expected = _recompute(params, trade)
    if booked.keys() != expected.keys():
        result.find(f"{where}: legs {sorted(booked)} booked, expected {sorted(expected)}")
        return
    for leg, value in expected.items():
        # The remainder of all legs' rounding may stand in one of them.
        if abs(booked[leg] * UNIT - value) > 4 * UNIT:
            result.find(f"{where}: {leg} is booked as {booked[leg] * UNIT}, the fills give {value:.8f}")
    for name in ("entry_fee", "exit_fee"):
        if not near(getattr(trade, name), -expected[name]):
            result.find(f"{where}: {name} is told as {getattr(trade, name)!r}, it is {-expected[name]:.8f}")
    total = sum(booked.values()) * UNIT
    if abs(Decimal(trade.net) - total) > UNIT:
        result.find(f"{where}: net is told as {trade.net!r}, its legs sum to {total}")
    if abs(total - sum(expected.values())) > UNIT:
        result.find(f"{where}: legs sum to {total}, the fills give {sum(expected.values()):.8f}")


def check_days(journal: Journal, bars: BarsSeen, result: AuditResult) -> None:
    """Every finished day has a result, with the capital of its last bar; the last day may be open."""
    told = {str(day["date"]): day for day in journal.days()}
    last = max(bars.closes, default="")
    for date in sorted(bars.closes):
        day = told.pop(date, None)
        if day is None:
            if date != last:
                result.find(f"day {date} is over and has no result")
        elif day["capital"] != bars.closes[date]:
            result.find(
                f"day {date}: booked to end with {day['capital']!r}, its last bar has {bars.closes[date]!r}"
            )
    for date in told:
        result.find(f"day {date} has a result, but no bar")


def _recompute(params: ParameterSet, trade: ClosedTrade) -> dict[str, Decimal]:
    entry, scan, fill = (
        Decimal(trade.entry_price),
        Decimal(trade.exit_scan_price),
        Decimal(trade.exit_price),
    )
    notional = Decimal(trade.notional)

    def fee(maker: float) -> Decimal:
        if not params.use_sp_fees:
            return Decimal(0)
        share = Decimal(repr(maker))
        return -(Decimal("0.0002") * share + Decimal("0.0005") * (1 - share)) * notional

    return {
        "price_pnl": trade.direction * (scan - entry) / entry * notional,
        "entry_fee": fee(params.sp_maker_entry_rate),
        "exit_fee": fee(params.sp_maker_exit_rate),
        "exit_slippage": trade.direction * (fill - scan) / entry * notional,
        "ob_edge": Decimal(trade.ob_edge) * notional,
        "funding": Decimal(0),
    }
