"""The walk over a journal of every bar: each record as written, each position judged, all money explained."""

from __future__ import annotations

import math
import struct
from decimal import Decimal

import msgspec

from dolphin.domain.clock import day_from_ns
from dolphin.domain.codes import ACTION_ENTER, ACTION_EXIT, ACTION_HOLD, ACTION_NONE, POSTURES
from dolphin.domain.decision import Decision
from dolphin.domain.params import ParameterSet
from dolphin.journal.findings import ROUNDING, UNIT, AuditResult, BarsSeen, near, no_money
from dolphin.journal.store import Journal, Record

_STALKER = POSTURES.index("STALKER")

#: Bounds of the size factor that the boost proxy may set; 1 where it is off.
_PROXY_SCALES = (0.8, 1.2)
_FRACTION_MIN = 0.02


def walk_bars(journal: Journal, params: ParameterSet, in_order: bool, result: AuditResult) -> BarsSeen:
    """Check every bar; in_order: scan numbers must grow too, as those of a store do."""
    bars = BarsSeen(capital=params.initial_capital)
    for record in journal.records():
        result.bars += 1
        _check_record(record, params, bars, result)
        if in_order:
            _check_scan_order(record, bars, result)
    return bars


def _check_record(record: Record, params: ParameterSet, bars: BarsSeen, result: AuditResult) -> None:
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
        bars.rows.append((record.scan_number, record.timestamp_ns, math.nan))
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
    wrong = no_money(decision)
    if wrong:
        result.find(f"bar {bar}: {wrong} is {getattr(decision, wrong)!r}")
    bars.rows.append((record.scan_number, record.timestamp_ns, decision.vel_div))
    _check_position(decision, bars, result)
    if decision.action == ACTION_ENTER and not wrong:
        check_size(decision, params, bars.capital, result)
    if not wrong:
        _check_money(decision, record.equity, params, bars, result)
    bars.closes[day_from_ns(record.timestamp_ns)] = decision.capital


def _check_scan_order(record: Record, bars: BarsSeen, result: AuditResult) -> None:
    """A store numbers its scans upwards; a bar that tells another number could choose its price."""
    if bars.last_scan is not None and record.scan_number <= bars.last_scan:
        result.find(
            f"bar {record.bar_idx}: its scan {record.scan_number} does not come after scan {bars.last_scan}"
        )
    bars.last_scan = record.scan_number


def check_size(entry: Decision, params: ParameterSet, capital: float, result: AuditResult) -> None:
    """Leverage is the lanes' product under its cap; notional is capital, fraction and leverage."""
    where = f"bar {entry.bar_idx}"
    lanes = (entry.lane_base, entry.lane_dc, entry.lane_regime, entry.lane_ob, entry.lane_esof)
    if not all(math.isfinite(value) for value in (*lanes, entry.raw, entry.cap)):
        result.find(f"{where}: a lane, raw or cap is not finite: {(*lanes, entry.raw, entry.cap)}")
        return
    base, dc, regime, books, esof = (Decimal(lane) for lane in lanes)
    raw = base * dc * regime * books * esof
    if not near(entry.raw, raw):
        result.find(f"{where}: raw leverage is {entry.raw!r}, the lanes give {raw:.12f}")
    cap = min(Decimal(params.max_leverage) * regime * books * esof, Decimal(params.abs_max_leverage))
    if entry.posture == _STALKER:
        cap = min(cap, Decimal(2))
    if not near(entry.cap, cap):
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
    if not near(entry.notional, notional):
        result.find(
            f"{where}: notional is {entry.notional!r}, capital, fraction and leverage give {notional:.8f}"
        )


def _check_position(decision: Decision, bars: BarsSeen, result: AuditResult) -> None:
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
    decision: Decision, equity: float, params: ParameterSet, bars: BarsSeen, result: AuditResult
) -> None:
    """Capital moves on exits only; marked equity is capital plus the open position at the bar's price."""
    if decision.action != ACTION_EXIT and decision.capital != bars.capital:
        result.find(
            f"bar {decision.bar_idx}: capital is {decision.capital!r}, "
            f"without an exit it stays {bars.capital!r}"
        )
    bars.capital = decision.capital
    expected = Decimal(decision.capital)
    slack = UNIT
    held = bars.held
    if held is not None and decision.price > 0.0 and 0.0 < held.price < math.inf > abs(held.notional):
        entry, notional = Decimal(held.price), Decimal(held.notional)
        expected += params.direction * (Decimal(decision.price) - entry) / entry * notional
        slack += abs(notional) * ROUNDING
    if not abs(equity) < float("inf") or abs(Decimal(equity) - expected) > slack:
        result.find(f"bar {decision.bar_idx}: equity is {equity!r}, price and capital give {expected:.8f}")
