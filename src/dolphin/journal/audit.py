"""The audit: is the book true? Recomputed from fills and prices, never from the engine.

Entry point: `audit(journal, params, price_of)`. Each check is named; a finding says which trade or bar breaks
which rule. Arithmetic is decimal with 60 digits and shares no code with the engine or with the ledger.

What is proved: bars are contiguous and rows are the ones that were written; leverage and notional follow from
lanes, capital and fraction; exit fills from scan price and reason; the order-book edge from the seeded draws;
every trade is what its entry and exit decisions say, every leg follows from the fills; capital changes by
booked trades only, on every bar; marked equity follows from the held asset's price; days close with the
capital of their last bar; with `price_of`, entries and exits have the prices of their scans. Not proved: that
the alpha had to decide so; a replay of the scans shows that.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Context, Decimal, localcontext

import msgspec
import numpy as np

from dolphin.domain.clock import day_from_ns
from dolphin.domain.codes import (
    ACTION_ENTER,
    ACTION_EXIT,
    ACTION_HOLD,
    ACTION_NONE,
    LIQUIDATION_GUARD,
    POSTURES,
    REASONS,
    STOP_LOSS,
)
from dolphin.domain.decision import Decision
from dolphin.domain.errors import DataError, StoreError
from dolphin.domain.params import ParameterSet
from dolphin.journal.ledger import ClosedTrade
from dolphin.journal.store import Journal, Record

FINDINGS_SHOWN = 20
_UNIT = Decimal("1e-8")

#: Relative error that a few float64 operations may leave, generously.
_ROUNDING = Decimal("1e-12")

_NO_BOOKS = "absent"
_STALKER = POSTURES.index("STALKER")
_FORCED = (STOP_LOSS, LIQUIDATION_GUARD)

#: Bounds of the size factor that the boost proxy may set; 1 where it is off.
_PROXY_SCALES = (0.8, 1.2)
_FRACTION_MIN = 0.02

#: Statuses that a run gets when it has ended in order; its digest is recorded before.
_ENDED = ("finished", "interrupted")

#: (scan_number, asset) → price in USDT, or None when the store has no such scan, or none with that asset.
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
    last_scan: int | None = None
    capital: float = 0.0


def audit(journal: Journal, params: ParameterSet, price_of: PriceOf | None = None) -> AuditResult:
    """Check the whole journal; `price_of` (the scan store) also proves the prices of entries and exits.

    With `price_of`, a trade whose scans are not there is a finding; without it, no price is proved. Raises
    DataError when the file itself cannot be read.
    """
    result = AuditResult()
    with localcontext(Context(prec=60)):
        bars = _Bars(capital=params.initial_capital)
        for record in journal.records():
            result.bars += 1
            _check_record(record, params, bars, result)
            if price_of is not None:
                _check_scan_order(record, bars, result)
        _check_edges(params, bars, result)
        _check_trades(journal, params, price_of, bars, result)
        _check_days(journal, bars, result)
    result.decisions_sha256 = journal.decisions_sha256()
    meta = journal.meta()
    recorded = meta.get("decisions_sha256")
    if not recorded:
        if meta.get("status") in _ENDED:
            result.find(f"the run is {meta['status']} and has no recorded digest of its decisions")
    elif recorded != result.decisions_sha256:
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
        canonical = decision.canonical()
    except (TypeError, ValueError, struct.error, msgspec.DecodeError) as error:
        result.find(f"bar {bar}: the record cannot be read ({error})")
        return
    if not whole:
        result.find(f"bar {bar}: the row is not the one that was written (its checksum differs)")
    if (
        canonical != record.canonical
        or (decision.bar_idx, decision.timestamp_ns, decision.scan_number) != record[:3]
        or (decision.action, decision.reason, decision.asset) != record[3:6]
    ):
        result.find(f"bar {bar}: the decision inside is not the one that the row and the digest tell")
    if decision.bars_held < 0:
        result.find(f"bar {bar}: bars_held is {decision.bars_held}")
    wrong = _no_money(decision)
    if wrong:
        result.find(f"bar {bar}: {wrong} is {getattr(decision, wrong)!r}")
    _check_position(decision, bars, result)
    if decision.action == ACTION_ENTER and not wrong:
        _check_size(decision, params, bars.capital, result)
    if not wrong:
        _check_money(decision, record.equity, params, bars, result)
    bars.closes[day_from_ns(record.timestamp_ns)] = decision.capital


def _check_scan_order(record: Record, bars: _Bars, result: AuditResult) -> None:
    """A store numbers its scans upwards; a bar that tells another number could choose its price."""
    if bars.last_scan is not None and record.scan_number <= bars.last_scan:
        result.find(
            f"bar {record.bar_idx}: its scan {record.scan_number} does not come after scan {bars.last_scan}"
        )
    bars.last_scan = record.scan_number


def _no_money(decision: Decision) -> str:
    """Name of a field that cannot be reckoned with, or an empty string."""
    if not math.isfinite(decision.capital):
        return "capital"
    if not math.isfinite(decision.price):
        return "price"
    if decision.action in (ACTION_NONE, ACTION_HOLD):
        return ""
    names = ["notional"]
    if decision.action == ACTION_ENTER:
        names += ["price", "leverage", "fraction", "proxy_scale"]
    else:
        names += ["price", "scan_price"]
    return next((n for n in names if not 0.0 < getattr(decision, n) < math.inf), "")


def _near(value: float, expected: Decimal) -> bool:
    """Whether a float is the expected number but for the rounding of a few operations."""
    return math.isfinite(value) and abs(Decimal(value) - expected) <= _ROUNDING * abs(expected)


def _check_size(entry: Decision, params: ParameterSet, capital: float, result: AuditResult) -> None:
    """Leverage is the lanes' product under its cap; notional is capital, fraction and leverage."""
    where = f"bar {entry.bar_idx}"
    lanes = (entry.lane_base, entry.lane_dc, entry.lane_regime, entry.lane_ob, entry.lane_esof)
    if not all(math.isfinite(value) for value in (*lanes, entry.raw, entry.cap)):
        result.find(f"{where}: a lane, raw or cap is not finite: {(*lanes, entry.raw, entry.cap)}")
        return
    base, dc, regime, books, esof = (Decimal(lane) for lane in lanes)
    raw = base * dc * regime * books * esof
    if not _near(entry.raw, raw):
        result.find(f"{where}: raw leverage is {entry.raw!r}, the lanes give {raw:.12f}")
    cap = min(Decimal(params.max_leverage) * regime * books * esof, Decimal(params.abs_max_leverage))
    if entry.posture == _STALKER:
        cap = min(cap, Decimal(2))
    if not _near(entry.cap, cap):
        result.find(f"{where}: the leverage's cap is {entry.cap!r}, lanes and set give {cap:.12f}")
    leverage = max(params.min_leverage, min(entry.raw, entry.cap))
    if entry.leverage != leverage:
        result.find(f"{where}: leverage is {entry.leverage!r}, raw and cap give {leverage!r}")
    if not _FRACTION_MIN <= entry.fraction <= params.fraction:
        result.find(f"{where}: fraction is {entry.fraction!r}, the set allows 0.02 to {params.fraction!r}")
    if not _PROXY_SCALES[0] <= entry.proxy_scale <= _PROXY_SCALES[1]:
        result.find(f"{where}: proxy_scale is {entry.proxy_scale!r}, allowed is 0.8 to 1.2")
    notional = Decimal(capital) * Decimal(entry.fraction) * Decimal(entry.leverage)
    notional *= Decimal(entry.proxy_scale)
    if not _near(entry.notional, notional):
        result.find(
            f"{where}: notional is {entry.notional!r}, capital, fraction and leverage give {notional:.8f}"
        )


def _check_edges(params: ParameterSet, bars: _Bars, result: AuditResult) -> None:
    """The order-book edge of every exit: one draw of the seeded stream each, none with books."""
    full = params.ob_edge_bps * 1e-4
    drawn = [leave for leave in bars.exits.values() if params.use_ob_edge and leave.books == _NO_BOOKS]
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
    held = bars.held
    if held is not None and decision.price > 0.0 and 0.0 < held.price < math.inf > abs(held.notional):
        entry, notional = Decimal(held.price), Decimal(held.notional)
        expected += params.direction * (Decimal(decision.price) - entry) / entry * notional
        slack += abs(notional) * _ROUNDING
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
        if _no_money(entry) or _no_money(leave) or not _is_money(trade):
            result.find(f"{where}: a price or an amount of it is no number to reckon with")
            continue
        _check_against_decisions(trade, entry, leave, params, result)
        if price_of is not None:
            _check_prices(trade, entry, leave, price_of, result)
        _check_fill(trade, leave.reason, params, result)
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
    if not _near(trade.exit_price, fill):
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
    for side, scan, booked in (
        ("entry", entry.scan_number, trade.entry_price),
        ("exit", leave.scan_number, trade.exit_scan_price),
    ):
        try:
            seen = price_of(scan, trade.asset)
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
        if abs(booked[leg] * _UNIT - value) > 4 * _UNIT:
            result.find(f"{where}: {leg} is booked as {booked[leg] * _UNIT}, the fills give {value:.8f}")
    for name in ("entry_fee", "exit_fee"):
        if not _near(getattr(trade, name), -expected[name]):
            result.find(f"{where}: {name} is told as {getattr(trade, name)!r}, it is {-expected[name]:.8f}")
    total = sum(booked.values()) * _UNIT
    if abs(Decimal(trade.net) - total) > _UNIT:
        result.find(f"{where}: net is told as {trade.net!r}, its legs sum to {total}")
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
