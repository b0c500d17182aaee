"""The audit: is the book true? Recomputed from fills and prices, never from the engine.

Entry point: `audit(journal, params, prices)`. Each check is named; a finding says which trade or bar breaks which
rule. Arithmetic is decimal with 60 digits and shares no code with the engine or with the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Context, Decimal, localcontext

from dolphin.domain.codes import ACTION_ENTER, ACTION_EXIT, ACTION_HOLD, ACTION_NONE
from dolphin.domain.params import ParameterSet
from dolphin.journal.store import Journal

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


def audit(journal: Journal, params: ParameterSet, price_of: PriceOf | None = None) -> AuditResult:
    """Check the whole journal; `price_of` (the scan store) also proves the prices of entries and exits."""
    result = AuditResult()
    with localcontext(Context(prec=60)):
        _check_bars(journal, result)
        _check_trades(journal, params, price_of, result)
    result.decisions_sha256 = journal.decisions_sha256()
    recorded = journal.meta().get("decisions_sha256")
    if recorded and recorded != result.decisions_sha256:
        result.find(f"digest {result.decisions_sha256[:16]}… differs from the recorded {recorded[:16]}…")
    return result


def _check_bars(journal: Journal, result: AuditResult) -> None:
    """Bars are contiguous; an open position is held on every bar until its exit, and no two overlap."""
    expected = 0
    held = ""
    last_ns = -1
    for decision in journal.decisions():
        result.bars += 1
        if decision.bar_idx != expected:
            result.find(f"bar {expected} is missing: the next decision is of bar {decision.bar_idx}")
            expected = decision.bar_idx
        expected += 1
        if decision.timestamp_ns <= last_ns:
            result.find(f"bar {decision.bar_idx}: its time does not come after the last bar's")
        last_ns = decision.timestamp_ns
        if decision.bars_held < 0:
            result.find(f"bar {decision.bar_idx}: bars_held is {decision.bars_held}")
        if decision.action == ACTION_ENTER:
            if held:
                result.find(f"bar {decision.bar_idx}: enters {decision.asset} while {held} is open")
            held = decision.asset
        elif decision.action in (ACTION_HOLD, ACTION_EXIT):
            if held != decision.asset:
                result.find(f"bar {decision.bar_idx}: judges {decision.asset}, open is {held or 'nothing'}")
            if decision.action == ACTION_EXIT:
                held = ""
        elif decision.action == ACTION_NONE and held:
            result.find(f"bar {decision.bar_idx}: {held} is open and was not judged")


def _check_trades(
    journal: Journal, params: ParameterSet, price_of: PriceOf | None, result: AuditResult
) -> None:
    flows: dict[str, dict[str, int]] = {}
    for trade_id, leg, amount in journal.cash_flows():
        result.cash_flows += 1
        legs = flows.setdefault(trade_id, {})
        if leg in legs:
            result.find(f"trade {trade_id}: leg {leg} is booked twice")
        legs[leg] = amount
    entries = {}
    exits = {}
    for decision in journal.decisions(active=True):
        (entries if decision.action == ACTION_ENTER else exits)[decision.bar_idx] = decision
    result.initial = Decimal(repr(params.initial_capital))
    result.balance = result.initial
    last_exit = -1
    for trade in journal.trades():
        result.trades += 1
        where = f"trade {trade.trade_id}"
        entry, leave = entries.get(trade.entry_bar), exits.pop(trade.exit_bar, None)
        if entry is None or leave is None or entry.asset != trade.asset or leave.asset != trade.asset:
            result.find(f"{where}: no matching entry and exit decisions at bars {trade.entry_bar}, {trade.exit_bar}")
            continue
        if trade.entry_bar <= last_exit:
            result.find(f"{where}: entered at bar {trade.entry_bar}, before the last exit at {last_exit}")
        last_exit = trade.exit_bar
        if price_of is not None:
            for scan, booked in ((entry.scan_number, trade.entry_price), (leave.scan_number, trade.exit_scan_price)):
                seen = price_of(scan, trade.asset)
                if seen is None:
                    continue
                result.prices_checked += 1
                if seen != booked:
                    result.find(f"{where}: books {booked!r}, scan {scan} says {seen!r} for {trade.asset}")
        expected = _recompute(params, trade.direction, trade.entry_price, trade.exit_scan_price, trade.exit_price,
                              trade.notional, trade.ob_edge)  # fmt: skip
        booked_legs = flows.pop(trade.trade_id, {})
        if booked_legs.keys() != expected.keys():
            result.find(f"{where}: legs {sorted(booked_legs)} booked, expected {sorted(expected)}")
            continue
        for leg, value in expected.items():
            # The remainder of all legs' rounding may stand in one of them.
            if abs(booked_legs[leg] * _UNIT - value) > 4 * _UNIT:
                result.find(f"{where}: {leg} is booked as {booked_legs[leg] * _UNIT}, the fills give {value:.8f}")
        total = sum(booked_legs.values()) * _UNIT
        if abs(total - sum(expected.values())) > _UNIT:
            result.find(f"{where}: legs sum to {total}, the fills give {sum(expected.values()):.8f}")
        result.balance += total
        if abs(Decimal(leave.capital) - result.balance) > result.trades * _UNIT:
            result.find(f"{where}: the ledger stands at {result.balance}, the engine at {leave.capital!r}")
        slip = trade.direction * (trade.exit_price - trade.exit_scan_price)
        if slip > 0:
            result.find(f"{where}: slippage is in our favour ({trade.exit_scan_price!r} -> {trade.exit_price!r})")
    for bar in exits:
        result.find(f"bar {bar}: an exit without a booked trade")
    for trade_id in flows:
        result.find(f"cash flows of {trade_id} belong to no trade")


def _recompute(
    params: ParameterSet,
    direction: int,
    entry_price: float,
    exit_scan_price: float,
    exit_price: float,
    notional_usdt: float,
    edge: float,
) -> dict[str, Decimal]:
    entry, scan, fill = Decimal(entry_price), Decimal(exit_scan_price), Decimal(exit_price)
    notional = Decimal(notional_usdt)

    def fee(maker: float) -> Decimal:
        if not params.use_sp_fees:
            return Decimal(0)
        share = Decimal(repr(maker))
        return -(Decimal("0.0002") * share + Decimal("0.0005") * (1 - share)) * notional

    return {
        "price_pnl": direction * (scan - entry) / entry * notional,
        "entry_fee": fee(params.sp_maker_entry_rate),
        "exit_fee": fee(params.sp_maker_exit_rate),
        "exit_slippage": direction * (fill - scan) / entry * notional,
        "ob_edge": Decimal(edge) * notional,
        "funding": Decimal(0),
    }
