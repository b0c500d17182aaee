"""From decisions to trades: deterministic ids, one trade an entry and an exit."""

from __future__ import annotations

import msgspec

from dolphin.domain.clock import day_from_ns
from dolphin.domain.codes import REASONS
from dolphin.domain.decision import Decision
from dolphin.journal.ledger import ClosedTrade


class OpenTrade(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a trade when it is entered."""

    trade_id: str
    entry: Decision


def opened_trade(entry: Decision, deployment: str, sequence: int) -> OpenTrade:
    """The trade of an entry; its id: deployment, UTC date, number of the entry in the run, from 1."""
    date = day_from_ns(entry.timestamp_ns)
    return OpenTrade(trade_id=f"{deployment}-{date}-{sequence:06d}", entry=entry)


def closed_trade(opened: OpenTrade, leave: Decision, direction: int) -> ClosedTrade:
    """The trade that an exit closes."""
    entry = opened.entry
    return ClosedTrade(
        trade_id=opened.trade_id,
        asset=leave.asset,
        direction=direction,
        entry_bar=entry.bar_idx,
        exit_bar=leave.bar_idx,
        entry_ns=entry.timestamp_ns,
        exit_ns=leave.timestamp_ns,
        entry_price=entry.price,
        exit_scan_price=leave.scan_price,
        exit_price=leave.price,
        notional=leave.notional,
        leverage=leave.leverage,
        reason=REASONS[leave.reason],
        entry_fee=leave.entry_fee,
        exit_fee=leave.exit_fee,
        ob_edge=leave.ob_edge,
        net=leave.net,
        stale_price=leave.stale_price,
    )
