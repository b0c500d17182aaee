"""The ledger: every closed trade as exact cash flows in disjoint legs, in integers of 1e-8 USDT.

Invariants, checked at every append and again by the audit:

1. the legs of a trade sum to its net result exactly, and all legs to the change of equity;
2. a trade id appears once, each of its legs once;
3. bars_held >= 0, and an exit does not come before its entry;
4. trades of one slot do not overlap.

Floats are converted once, here, through exact rationals; the last leg that is not zero takes the rounding remainder.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Final

import msgspec

from dolphin.domain.errors import InvariantError

UNITS_PER_USDT: Final = 100_000_000

#: The legs in order; costs are negative amounts.
LEGS: Final = ("price_pnl", "entry_fee", "exit_fee", "exit_slippage", "ob_edge", "funding")


class ClosedTrade(msgspec.Struct, frozen=True, kw_only=True):
    """One closed trade as the engine reports it. Prices and money in USDT, `ob_edge` a fraction of the notional."""

    trade_id: str
    asset: str
    direction: int
    entry_bar: int
    exit_bar: int
    entry_ns: int
    exit_ns: int
    entry_price: float
    exit_scan_price: float
    exit_price: float
    notional: float
    leverage: float
    reason: str
    entry_fee: float
    exit_fee: float
    ob_edge: float
    net: float
    stale_price: bool = False


def to_units(amount: Fraction | float) -> int:
    """An amount in USDT as integer units of 1e-8, a tie to the even one."""
    return round(Fraction(amount) * UNITS_PER_USDT)


def usdt(units: int) -> Decimal:
    """Integer units as exact USDT."""
    return Decimal(units).scaleb(-8)


def legs_of(trade: ClosedTrade) -> dict[str, int]:
    """The trade's legs in units of 1e-8 USDT; their sum is its net result converted once."""
    entry, scan, fill = Fraction(trade.entry_price), Fraction(trade.exit_scan_price), Fraction(trade.exit_price)
    notional = Fraction(trade.notional)
    legs = {
        "price_pnl": to_units(trade.direction * (scan - entry) / entry * notional),
        "entry_fee": -to_units(trade.entry_fee),
        "exit_fee": -to_units(trade.exit_fee),
        "exit_slippage": to_units(trade.direction * (fill - scan) / entry * notional),
        "ob_edge": to_units(Fraction(trade.ob_edge) * notional),
        "funding": 0,
    }
    remainder = to_units(trade.net) - sum(legs.values())
    last = next((name for name in reversed(LEGS) if legs[name] != 0), "price_pnl")
    legs[last] += remainder
    return legs


class Ledger:
    """The running balance. `append` refuses what would break an invariant, and changes nothing then."""

    def __init__(self, initial_capital: float) -> None:
        self.initial = to_units(initial_capital)
        self.balance = self.initial
        self.trades = 0
        self._ids: set[str] = set()
        self._last_exit_bar = -1

    def append(self, trade: ClosedTrade, engine_capital: float) -> dict[str, int]:
        """Book a closed trade and return its legs; `engine_capital` is the engine's float capital after it.

        Raises InvariantError naming the trade and the rule.
        """
        where = f"trade {trade.trade_id} ({trade.asset})"
        if trade.trade_id in self._ids:
            raise InvariantError(f"{where}: this id was booked before; every trade has one id")
        if trade.exit_bar < trade.entry_bar or trade.exit_ns < trade.entry_ns:
            raise InvariantError(f"{where}: closed at bar {trade.exit_bar}, before its entry at {trade.entry_bar}")
        if trade.entry_bar <= self._last_exit_bar:
            raise InvariantError(
                f"{where}: entered at bar {trade.entry_bar}, the slot was held until bar {self._last_exit_bar}"
            )
        legs = legs_of(trade)
        total = sum(legs.values())
        if total != to_units(trade.net):
            raise InvariantError(f"{where}: legs sum to {usdt(total)} USDT, the net is {trade.net!r}")
        noise = max(abs(trade.notional) * 1e-12, 1e-12)
        price_legs = usdt(legs["price_pnl"] + legs["exit_slippage"] + legs["ob_edge"])
        gross = trade.direction * (trade.exit_price - trade.entry_price) / trade.entry_price * trade.notional
        if abs(float(price_legs) - (gross + trade.ob_edge * trade.notional)) > 1e-7 + noise:
            raise InvariantError(f"{where}: price legs sum to {price_legs} USDT, the fills give {gross!r}")
        balance = self.balance + total
        if abs(float(usdt(balance)) - engine_capital) > (self.trades + 1) * 1e-8 + abs(engine_capital) * 1e-15:
            raise InvariantError(
                f"{where}: the ledger stands at {usdt(balance)} USDT, the engine at {engine_capital!r}; "
                f"they may differ by {self.trades + 1} x 1e-8"
            )
        self.balance = balance
        self.trades += 1
        self._ids.add(trade.trade_id)
        self._last_exit_bar = trade.exit_bar
        return legs
