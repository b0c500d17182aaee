"""What an audit's parts share: the result, what a walk over the bars leaves, and how near a float must be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.codes import ACTION_ENTER, ACTION_HOLD, ACTION_NONE
from dolphin.domain.decision import Decision

FINDINGS_SHOWN = 20
UNIT = Decimal("1e-8")

#: Relative error that a few float64 operations may leave, generously.
ROUNDING = Decimal("1e-12")

#: (scan_number, asset, stamp in ns UTC) → price in USDT, or None when the store has no such scan, or none
#: with that asset. The number alone does not name a scan where a scanner began its numbers again.
PriceOf = Callable[[int, str, int], float | None]


class MarketRows(NamedTuple):
    """Scan numbers, times (ns) and vel_div (1/s) of consecutive scans, each array (n,)."""

    scan_number: IntArray
    timestamp_ns: IntArray
    vel_div: FloatArray


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
        """Whether nothing at all was found."""
        return self.findings_total == 0

    def find(self, text: str) -> None:
        """Count a finding and keep the first ones."""
        self.findings_total += 1
        if len(self.findings) < FINDINGS_SHOWN:
            self.findings.append(text)


@dataclass(slots=True)
class BarsSeen:
    """What the walk over the bars leaves for the other checks."""

    entries: dict[int, Decision] = field(default_factory=dict)
    exits: dict[int, Decision] = field(default_factory=dict)
    closes: dict[str, float] = field(default_factory=dict)
    #: (scan number, time, vel_div) of each bar of a journal of every bar.
    rows: list[tuple[int, int, float]] = field(default_factory=list)
    held: Decision | None = None
    expected: int = 0
    last_ns: int = -1
    last_scan: int | None = None
    capital: float = 0.0


def no_money(decision: Decision) -> str:
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


def near(value: float, expected: Decimal) -> bool:
    """Whether a float is the expected number but for the rounding of a few operations."""
    return math.isfinite(value) and abs(Decimal(value) - expected) <= ROUNDING * abs(expected)
