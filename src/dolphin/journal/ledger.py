"""The ledger: every closed trade as exact cash flows in disjoint legs, in integers of 1e-8 USDT.

Invariants, checked at every append and again by the audit:

1. the legs of a trade sum to its net result exactly, and all legs to the change of equity;
2. a trade id appears once, each of its legs once;
3. bars_held >= 0, and an exit does not come before its entry;
4. trades of one slot do not overlap.

Floats are converted once, here, through exact rationals; the last leg that is not zero takes the rounding
remainder, which can be no more than the legs' own rounding: an engine whose net is not its legs is refused.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Final

import msgspec

from dolphin.domain.errors import InvariantError

UNITS_PER_USDT: Final = 100_000_000

#: Relative error of the engine's float net, by notional; far above what float64 can make of five terms.
_NET_NOISE: Final = 1e-12

#: The legs in order; costs are negative amounts.
LEGS: Final = ("price_pnl", "entry_fee", "exit_fee", "exit_slippage", "ob_edge", "funding")


class ClosedTrade(msgspec.Struct, frozen=True, kw_only=True):
    """One closed trade as the engine reports it. Prices and money USDT, `ob_edge` a share of notional."""

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
    legs = _rounded_legs(trade)
    last = next((name for name in reversed(LEGS) if legs[name] != 0), "price_pnl")
    legs[last] += to_units(trade.net) - sum(legs.values())
    return legs


def _rounded_legs(trade: ClosedTrade) -> dict[str, int]:
    """Each leg from its own fills and fees, rounded alone."""
    entry, scan = Fraction(trade.entry_price), Fraction(trade.exit_scan_price)
    fill, notional = Fraction(trade.exit_price), Fraction(trade.notional)
    return {
        "price_pnl": to_units(trade.direction * (scan - entry) / entry * notional),
        "entry_fee": -to_units(trade.entry_fee),
        "exit_fee": -to_units(trade.exit_fee),
        "exit_slippage": to_units(trade.direction * (fill - scan) / entry * notional),
        "ob_edge": to_units(Fraction(trade.ob_edge) * notional),
        "funding": 0,
    }


class Ledger:
    """The running balance. `append` refuses what would break an invariant, and changes nothing then."""

    def __init__(self, initial_capital: float) -> None:
        self.initial = to_units(initial_capital)
        self.balance = self.initial
        self.trades = 0
        self._ids: set[str] = set()
        self._last_exit_bar = -1

    def has(self, trade_id: str) -> bool:
        """Whether a trade of this id is booked."""
        return trade_id in self._ids

    def append(self, trade: ClosedTrade, engine_capital: float) -> dict[str, int]:
        """Book a closed trade and return its legs; `engine_capital` is the engine's float capital after it.

        Raises InvariantError naming the trade and the rule.
        """
        where = f"trade {trade.trade_id} ({trade.asset})"
        if trade.trade_id in self._ids:
            raise InvariantError(f"{where}: this id was booked before; every trade has one id")
        if trade.exit_bar < trade.entry_bar or trade.exit_ns < trade.entry_ns:
            raise InvariantError(
                f"{where}: closed at bar {trade.exit_bar}, before its entry at {trade.entry_bar}"
            )
        if trade.entry_bar <= self._last_exit_bar:
            raise InvariantError(
                f"{where}: entered at bar {trade.entry_bar}, "
                f"the slot was held until bar {self._last_exit_bar}"
            )
        _check_numbers(trade, engine_capital, where)
        rounded = sum(_rounded_legs(trade).values())
        total = to_units(trade.net)
        # Five legs rounded by half a unit each, and the float arithmetic of the net.
        if abs(total - rounded) > 4 + abs(trade.notional) * _NET_NOISE * UNITS_PER_USDT:
            raise InvariantError(
                f"{where}: the engine's net is {trade.net!r} USDT, fills and fees give {usdt(rounded)}"
            )
        balance = self.balance + total
        slack = (self.trades + 1) * 1e-8 + abs(engine_capital) * 1e-15
        if abs(float(usdt(balance)) - engine_capital) > slack:
            raise InvariantError(
                f"{where}: the ledger stands at {usdt(balance)} USDT, the engine at {engine_capital!r}; "
                f"they may differ by {self.trades + 1} x 1e-8"
            )
        legs = legs_of(trade)
        self.balance = balance
        self.trades += 1
        self._ids.add(trade.trade_id)
        self._last_exit_bar = trade.exit_bar
        return legs


def _check_numbers(trade: ClosedTrade, engine_capital: float, where: str) -> None:
    """Money and prices are finite, prices and notional above zero. Raises InvariantError naming the field."""
    if trade.direction not in (-1, 1):
        raise InvariantError(f"{where}: direction is {trade.direction}, expected -1 or 1")
    for name in ("entry_price", "exit_scan_price", "exit_price", "notional"):
        value = getattr(trade, name)
        if not 0.0 < value < math.inf:
            raise InvariantError(f"{where}: {name} is {value!r}, expected a finite number above zero")
    for name in ("leverage", "entry_fee", "exit_fee", "ob_edge", "net"):
        value = getattr(trade, name)
        if not math.isfinite(value):
            raise InvariantError(f"{where}: {name} is {value!r}, expected a finite number")
    if not math.isfinite(engine_capital):
        raise InvariantError(f"{where}: the engine's capital is {engine_capital!r}, expected a finite number")
