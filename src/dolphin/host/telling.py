"""Lines that a host tells people: one a trade, one a scan; and how amounts and prices are written in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dolphin.domain.clock import iso_from_ns
from dolphin.domain.codes import (
    ACTION_ENTER,
    ACTION_EXIT,
    ACTION_HOLD,
    BOUNDS,
    BUCKETS,
    POSTURES,
    REASONS,
)
from dolphin.domain.errors import plural

if TYPE_CHECKING:
    from dolphin.domain.decision import Decision
    from dolphin.host.session import Step


def trade_line(decision: Decision, direction: int) -> str | None:
    """One line of an entry or an exit, and why; None for other bars. Its first 80 columns say the essence."""
    side = "SHORT" if direction < 0 else "LONG"
    what = f"{side} {decision.asset} @ {price(decision.price)}"
    when = iso_from_ns(decision.timestamp_ns)[:19].replace("T", " ")
    if decision.action == ACTION_ENTER:
        bound = BOUNDS[decision.bound]
        held_by = "" if bound == "RAW" else f", held by {bound}"
        return (
            f"{when}  ENTRY {what} leverage={decision.leverage:.1f}x"
            f"  vel_div {decision.vel_div:+.4f} ({BUCKETS[decision.bucket]}),"
            f" {decision.dc_change_bps:+.1f} bps over the lookback,"
            f" ARS {decision.ars:.2f} of {decision.ranked}{held_by}"
        )
    if decision.action == ACTION_EXIT:
        return (
            f"{when}  EXIT  {what} net {money(decision.net)} USDT  {REASONS[decision.reason]}"
            f" after {plural(decision.bars_held, 'bar')}, capital {decision.capital:,.2f}"
        )
    return None


def scan_line(step: Step) -> str:
    """One line a scan: what was seen, what was done, and what the trader stands on."""
    decision = step.decision
    if decision.action == ACTION_HOLD:
        what = f"holds {decision.asset} {decision.pnl_pct * 100.0:+.2f} %"
    else:
        what = REASONS[decision.reason]
    return (
        f"{iso_from_ns(decision.timestamp_ns)[:19].replace('T', ' ')}  scan {decision.scan_number}"
        f" bar {decision.bar_idx}  vel_div {decision.vel_div:+.4f}  {what}"
        f"  posture {POSTURES[decision.posture]}  equity {step.equity:,.2f}"
        f"{'' if step.vol_ok else '  market too quiet'}"
    )


def money(value: float) -> str:
    """An amount that adds to the capital or takes from it, with its sign."""
    return signed(value)


def price(value: float) -> str:
    """A price with every digit that exchanges quote, without an exponent."""
    text = f"{value:.8f}" if abs(value) < 1.0 else f"{value:.10g}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def signed(value: float) -> str:
    """Two decimals with the sign; zero has none."""
    text = f"{value:+,.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text
