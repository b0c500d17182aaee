"""The ledger: exact legs, and every broken rule refused with one line and without a trace."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dolphin.alpha.costs import costs
from dolphin.domain.codes import FIXED_TP, MAX_HOLD, STOP_LOSS
from dolphin.domain.errors import InvariantError
from dolphin.journal.ledger import LEGS, UNITS_PER_USDT, ClosedTrade, Ledger, legs_of, to_units, usdt

MANY = settings(max_examples=300, deadline=None, derandomize=True)
CAPITAL = 25_000.0

prices = st.floats(1e-6, 2e5)
moves = st.floats(0.2, 3.0)
notionals = st.floats(1e-3, 5e6)
maker = st.floats(0.0, 1.0)


def trade_of(
    number: int = 1,
    *,
    direction: int = -1,
    entry: float = 100.0,
    price: float = 99.0,
    notional: float = 5_000.0,
    reason: int = FIXED_TP,
    maker_entry: float = 0.62,
    maker_exit: float = 0.5,
    fees: bool = True,
    slippage: bool = True,
    edge: float = 0.0005,
    bars: tuple[int, int] | None = None,
) -> ClosedTrade:
    """A trade as the engine's own kernels settle it."""
    fill, entry_fee, exit_fee, _, net = costs(
        direction, entry, price, reason, notional, maker_entry, maker_exit, fees, slippage, edge
    )
    first, last = bars or (10 * number, 10 * number + 5)
    return ClosedTrade(
        trade_id=f"BLUE-2026-01-05-{number:06d}", asset="BTCUSDT", direction=direction, entry_bar=first,
        exit_bar=last, entry_ns=first * 1000, exit_ns=last * 1000, entry_price=entry, exit_scan_price=price,
        exit_price=fill, notional=notional, leverage=2.0, reason="FIXED_TP", entry_fee=entry_fee,
        exit_fee=exit_fee, ob_edge=edge, net=net,
    )  # fmt: skip


trades = st.builds(
    lambda direction, entry, move, notional, reason, a, b, fees, slippage, edge: trade_of(
        direction=direction,
        entry=entry,
        price=entry * move,
        notional=notional,
        reason=reason,
        maker_entry=a,
        maker_exit=b,
        fees=fees,
        slippage=slippage,
        edge=edge,
    ),
    st.sampled_from([-1, 1]),
    prices,
    moves,
    notionals,
    st.sampled_from([FIXED_TP, STOP_LOSS, MAX_HOLD]),
    maker,
    maker,
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.0005]),
)


@MANY
@given(trades)
def test_legs_sum_exactly_to_the_net_converted_once(trade: ClosedTrade) -> None:
    legs = legs_of(trade)
    assert tuple(legs) == LEGS
    assert all(type(amount) is int for amount in legs.values())
    assert sum(legs.values()) == to_units(trade.net)


@MANY
@given(trades)
def test_each_leg_is_its_own_fills_within_the_rounding_of_all(trade: ClosedTrade) -> None:
    exact = {
        "price_pnl": trade.direction
        * (Fraction(trade.exit_scan_price) - Fraction(trade.entry_price))
        / Fraction(trade.entry_price)
        * Fraction(trade.notional),
        "entry_fee": -Fraction(trade.entry_fee),
        "exit_fee": -Fraction(trade.exit_fee),
        "exit_slippage": trade.direction
        * (Fraction(trade.exit_price) - Fraction(trade.exit_scan_price))
        / Fraction(trade.entry_price)
        * Fraction(trade.notional),
        "ob_edge": Fraction(trade.ob_edge) * Fraction(trade.notional),
        "funding": Fraction(0),
    }
    for leg, amount in legs_of(trade).items():
        assert abs(Fraction(amount, UNITS_PER_USDT) - exact[leg]) <= Fraction(4, UNITS_PER_USDT)


@MANY
@given(st.lists(trades, min_size=1, max_size=12))
def test_the_balance_is_the_sum_of_all_legs(several: list[ClosedTrade]) -> None:
    ledger, capital, booked = Ledger(CAPITAL), CAPITAL, 0
    for number, trade in enumerate(several):
        placed = msgspec.structs.replace(
            trade, trade_id=f"T{number}", entry_bar=10 * number, exit_bar=10 * number + 5,
            entry_ns=number * 10**9, exit_ns=number * 10**9 + 5,
        )  # fmt: skip
        # Another capital each time, as an engine of any size would have: it follows the ledger here.
        capital = float(usdt(ledger.balance)) + placed.net
        booked += sum(ledger.append(placed, capital).values())
        assert ledger.has(placed.trade_id)
    assert ledger.balance - ledger.initial == booked
    assert ledger.trades == len(several)


def test_the_engines_float_capital_stays_within_its_rounding() -> None:
    ledger, capital = Ledger(CAPITAL), CAPITAL
    for number in range(400):
        trade = trade_of(number, price=100.0 + 0.37 * math.sin(number), notional=4_000.0 + number / 7)
        capital = capital + trade.net
        ledger.append(trade, capital)
    assert abs(float(usdt(ledger.balance)) - capital) <= 400 * 1e-8


REFUSED = {
    "duplicate": (lambda t: t, "was booked before; every trade has one id"),
    "overlap": (
        lambda t: msgspec.structs.replace(t, trade_id="X", entry_bar=15, exit_bar=16),
        "entered at bar 15, the slot was held until bar 15",
    ),
    "negative holding": (
        lambda t: msgspec.structs.replace(t, trade_id="X", entry_bar=30, exit_bar=29),
        "closed at bar 29, before its entry at 30",
    ),
    "negative time": (
        lambda t: msgspec.structs.replace(
            t, trade_id="X", entry_bar=30, exit_bar=31, entry_ns=99_000, exit_ns=98_999
        ),
        "before its entry",
    ),
    "net": (
        lambda t: msgspec.structs.replace(trade_of(2), net=trade_of(2).net + 1e-6),
        "the engine's net is .* fills and fees give",
    ),
    "fee": (
        lambda t: msgspec.structs.replace(trade_of(2), exit_fee=trade_of(2).exit_fee + 5.0),
        "fills and fees give",
    ),
    "price": (lambda t: msgspec.structs.replace(trade_of(2), exit_price=98.0), "fills and fees give"),
    "nan": (
        lambda t: msgspec.structs.replace(trade_of(2), net=math.nan),
        "net is nan, expected a finite number",
    ),
    "zero": (
        lambda t: msgspec.structs.replace(trade_of(2), entry_price=0.0),
        "entry_price is 0.0, expected a finite number above zero",
    ),
    "infinite": (
        lambda t: msgspec.structs.replace(trade_of(2), notional=math.inf),
        "notional is inf",
    ),
    "direction": (lambda t: msgspec.structs.replace(trade_of(2), direction=0), "direction is 0"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_a_broken_rule_is_refused_in_one_line_and_changes_nothing(case: str) -> None:
    ledger, first = Ledger(CAPITAL), trade_of(1)
    ledger.append(first, CAPITAL + first.net)
    balance = ledger.balance
    make, words = REFUSED[case]
    trade = make(first)
    with pytest.raises(InvariantError, match=words) as caught:
        ledger.append(trade, CAPITAL + first.net + trade.net)
    assert "\n" not in str(caught.value)
    assert trade.trade_id in str(caught.value)
    assert (ledger.balance, ledger.trades) == (balance, 1)
    second = trade_of(3)
    ledger.append(second, CAPITAL + first.net + second.net)


@pytest.mark.parametrize("shift", [1.1e-8, -1.1e-8, 1.0, math.nan, math.inf])
def test_an_engine_whose_capital_drifts_is_refused(shift: float) -> None:
    ledger, trade = Ledger(CAPITAL), trade_of(1)
    exact = float(usdt(ledger.initial + to_units(trade.net)))
    with pytest.raises(InvariantError, match="the engine"):
        ledger.append(trade, exact + shift)


def test_units_are_rounded_once_a_tie_to_even() -> None:
    assert to_units(Fraction(5, 2 * UNITS_PER_USDT)) == 2
    assert to_units(Fraction(7, 2 * UNITS_PER_USDT)) == 4
    assert to_units(0.1) == 10_000_000
    assert usdt(-123_456_789) == Decimal("-1.23456789")
