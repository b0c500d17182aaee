"""The audit: is the book true? Recomputed from fills and prices, never from the engine.

Entry point: `audit(journal, params, price_of)`. Each check is named; a finding says which trade or bar breaks
which rule. Arithmetic is decimal with 60 digits and shares no code with the engine or with the ledger.

What is proved: bars are contiguous and rows are the ones that were written; every trade is what its entry and
exit decisions say; every leg follows from the fills; capital changes by booked trades only, on every bar;
marked equity follows from the held asset's price; days close with the capital of their last bar.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Context, Decimal, localcontext

import msgspec

from dolphin.domain.clock import day_from_ns
from dolphin.domain.codes import ACTION_ENTER, ACTION_EXIT, ACTION_HOLD, ACTION_NONE, REASONS
from dolphin.domain.decision import Decision
from dolphin.domain.errors import DataError
from dolphin.domain.params import ParameterSet
from dolphin.journal.ledger import ClosedTrade
from dolphin.journal.store import Journal, Record

FINDINGS_SHOWN = 20
_UNIT = Decimal("1e-8")

#: (scan_number, asset) → price in USDT, or None when that scan is not at hand.
PriceOf = Callable[[int, str], float | None]


@dataclass(slots=True)
class AuditResult:
    """What was checked and what was found; balanced means no finding at all."""

    bars: int = 0
    trades: int = 0
    cash_flows: int = 0
    prices_checked: int = 0
    initial: Decimal = Decimal(0)
    balance: Decimal = Decimal(0)
    decisions_sha256: str = ""
    findings: list[str] = field(default_factory=list)
    findings_total: int = 0

    @property
    def balanced(self) -> bool:
        return self.findings_total == 0

    def find(self, text: str) -> None:
        """Count a finding and keep the first ones."""
        self.findings_total += 1
        if len(self.findings) < FINDINGS_SHOWN:
            self.findings.append(text)


@dataclass(slots=True)
class _Bars:
    """What the walk over the bars leaves for the other checks."""

    entries: dict[int, Decision] = field(default_factory=dict)
    exits: dict[int, Decision] = field(default_factory=dict)
    closes: dict[str, float] = field(default_factory=dict)
    held: Decision | None = None
    expected: int = 0
    last_ns: int = -1
    capital: float = 0.0


def audit(journal: Journal, params: ParameterSet, price_of: PriceOf | None = None) -> AuditResult:
    """Check the whole journal; `price_of` (the scan store) also proves the prices of entries and exits.

    Raises DataError when the file itself cannot be read.
    """
    result = AuditResult()
    with localcontext(Context(prec=60)):
        bars = _Bars(capital=params.initial_capital)
        for record in journal.records():
            result.bars += 1
            _check_record(record, params, bars, result)
        _check_trades(journal, params, price_of, bars, result)
        _check_days(journal, bars, result)
    result.decisions_sha256 = journal.decisions_sha256()
    recorded = journal.meta().get("decisions_sha256")
    if recorded and recorded != result.decisions_sha256:
        result.find(f"digest {result.decisions_sha256[:16]}… differs from the recorded {recorded[:16]}…")
    return result


def _check_record(record: Record, params: ParameterSet, bars: _Bars, result: AuditResult) -> None:
    """One bar: contiguous, as written, judged when a position is open, and its money explained."""
    bar = record.bar_idx
    if bar != bars.expected:
        result.find(f"bar {bars.expected} is missing: the next decision is of bar {bar}")
    bars.expected = bar + 1
    if record.timestamp_ns <= bars.last_ns:
        result.find(f"bar {bar}: its time does not come after the last bar's")
    bars.last_ns = record.timestamp_ns
    try:
        whole = record.whole()
        decision = record.decision()
    except (TypeError, ValueError, msgspec.DecodeError) as error:
        result.find(f"bar {bar}: the record cannot be read ({error})")
        return
    if not whole:
        result.find(f"bar {bar}: the row is not the one that was written (its checksum differs)")
    if (
        decision.canonical() != record.canonical
        or (decision.bar_idx, decision.timestamp_ns, decision.scan_number) != record[:3]
        or (decision.action, decision.reason, decision.asset) != record[3:6]
    ):
        result.find(f"bar {bar}: the decision inside is not the one that the row and the digest tell")
    if decision.bars_held < 0:
        result.find(f"bar {bar}: bars_held is {decision.bars_held}")
    _check_position(decision, bars, result)
    _check_money(decision, record.equity, params, bars, result)
    bars.closes[day_from_ns(record.timestamp_ns)] = decision.capital


def _check_position(decision: Decision, bars: _Bars, result: AuditResult) -> None:
    """An open position is judged on every bar until its exit, and no two overlap."""
    bar = decision.bar_idx
    held = "" if bars.held is None else bars.held.asset
    if decision.action == ACTION_ENTER:
        if held:
            result.find(f"bar {bar}: enters {decision.asset} while {held} is open")
        bars.entries[bar] = decision
        bars.held = decision
    elif decision.action in (ACTION_HOLD, ACTION_EXIT):
        if held != decision.asset:
            result.find(f"bar {bar}: judges {decision.asset}, open is {held or 'nothing'}")
        if decision.action == ACTION_EXIT:
            bars.exits[bar] = decision
            bars.held = None
    elif decision.action == ACTION_NONE and held:
        result.find(f"bar {bar}: {held} is open and was not judged")


def _check_money(
    decision: Decision, equity: float, params: ParameterSet, bars: _Bars, result: AuditResult
) -> None:
    """Capital moves on exits only; marked equity is capital plus the open position at the bar's price."""
    if decision.action != ACTION_EXIT and decision.capital != bars.capital:
        result.find(
            f"bar {decision.bar_idx}: capital is {decision.capital!r}, "
            f"without an exit it stays {bars.capital!r}"
        )
    bars.capital = decision.capital
    expected = Decimal(decision.capital)
    slack = _UNIT
    if bars.held is not None and decision.price > 0.0:
        entry, notional = Decimal(bars.held.price), Decimal(bars.held.notional)
        expected += params.direction * (Decimal(decision.price) - entry) / entry * notional
        slack += abs(notional) * Decimal("1e-12")
    if not abs(equity) < float("inf") or abs(Decimal(equity) - expected) > slack:
        result.find(f"bar {decision.bar_idx}: equity is {equity!r}, price and capital give {expected:.8f}")


def _check_trades(
    journal: Journal, params: ParameterSet, price_of: PriceOf | None, bars: _Bars, result: AuditResult
) -> None:
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
        _check_against_decisions(trade, entry, leave, params, result)
        if price_of is not None:
            _check_prices(trade, entry, leave, price_of, result)
        _check_legs(trade, booked, params, result)
        result.balance += sum(booked.values()) * _UNIT
        if abs(Decimal(leave.capital) - result.balance) > result.trades * _UNIT:
            result.find(f"{where}: the ledger stands at {result.balance}, the engine at {leave.capital!r}")
        if trade.direction * (trade.exit_price - trade.exit_scan_price) > 0:
            result.find(
                f"{where}: slippage is in our favour ({trade.exit_scan_price!r} -> {trade.exit_price!r})"
            )
    for bar in exits:
        result.find(f"bar {bar}: an exit without a booked trade")
    for trade_id in flows:
        result.find(f"cash flows of {trade_id} belong to no trade")


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
        "reason": (REASONS[leave.reason],),
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
    for scan, booked in (
        (entry.scan_number, trade.entry_price),
        (leave.scan_number, trade.exit_scan_price),
    ):
        try:
            seen = price_of(scan, trade.asset)
        except DataError as error:
            result.find(f"trade {trade.trade_id}: its scan {scan} cannot be read ({error})")
            continue
        if seen is None:
            continue
        result.prices_checked += 1
        if seen != booked:
            result.find(
                f"trade {trade.trade_id}: books {booked!r}, scan {scan} says {seen!r} for {trade.asset}"
            )


def _check_legs(
    trade: ClosedTrade, booked: dict[str, int], params: ParameterSet, result: AuditResult
) -> None:
    """Each leg follows from the fills, and their sum too."""
    where = f"trade {trade.trade_id}"
    expected = _recompute(params, trade)
    if booked.keys() != expected.keys():
        result.find(f"{where}: legs {sorted(booked)} booked, expected {sorted(expected)}")
        return
    for leg, value in expected.items():
        # The remainder of all legs' rounding may stand in one of them.
        if abs(booked[leg] * _UNIT - value) > 4 * _UNIT:
            result.find(f"{where}: {leg} is booked as {booked[leg] * _UNIT}, the fills give {value:.8f}")
    total = sum(booked.values()) * _UNIT
    if abs(total - sum(expected.values())) > _UNIT:
        result.find(f"{where}: legs sum to {total}, the fills give {sum(expected.values()):.8f}")


def _check_days(journal: Journal, bars: _Bars, result: AuditResult) -> None:
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
