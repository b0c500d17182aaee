"""What a trade costs and what it leaves (spec 03, section 9), for `fills="model"`."""

from __future__ import annotations

from dolphin.domain.codes import LIQUIDATION_GUARD, STOP_LOSS
from dolphin.kernel import kernel

MAKER_FEE = 0.0002
TAKER_FEE = 0.0005
SLIP_FORCED = 0.0005
SLIP_ORDINARY = 0.0002


@kernel
def fee(notional: float, maker_rate: float, use_fees: bool) -> float:
    """Fee in USDT on a notional in USDT, with the share `maker_rate` filled as maker; 0 without fees."""
    if not use_fees:
        return 0.0
    return (MAKER_FEE * maker_rate + TAKER_FEE * (1.0 - maker_rate)) * notional


@kernel
def exit_slip(reason: int, maker_exit: float, use_slippage: bool) -> float:
    """Slippage of the way out as a fraction of the price, always against us.

    Forced exits pay the taker's slippage in full; elsewhere `use_slippage` gives the maker's share back.
    """
    if reason in (STOP_LOSS, LIQUIDATION_GUARD):
        return SLIP_FORCED
    if use_slippage:
        return SLIP_ORDINARY * (1.0 - maker_exit)
    return SLIP_ORDINARY


@kernel
def exit_fill(direction: int, price: float, slip: float) -> float:
    """Price after slippage: a SHORT buys back higher, a LONG sells lower."""
    if direction < 0:
        return price * (1.0 + slip)
    return price * (1.0 - slip)


@kernel
def settle(
    direction: int,
    entry: float,
    exit_price: float,
    notional: float,
    entry_fee: float,
    exit_fee: float,
    ob_edge: float,
) -> tuple[float, float]:
    """(gross, net) in USDT; ob_edge is a fraction of the notional."""
    pnl_raw = direction * (exit_price - entry) / entry
    pnl_raw = pnl_raw + ob_edge
    gross = pnl_raw * notional
    net = gross - entry_fee - exit_fee
    return gross, net


@kernel
def costs(
    direction: int,
    entry: float,
    price: float,
    reason: int,
    notional: float,
    maker_entry: float,
    maker_exit: float,
    use_fees: bool,
    use_slippage: bool,
    ob_edge: float,
    fee_scale: float = 1.0,
    slippage_scale: float = 1.0,
) -> tuple[float, float, float, float, float]:
    """(exit_price, entry_fee, exit_fee, gross, net) of closing at the scan price `price`, all USDT.

    The scales multiply fees and slippage, for cost sensitivity; 1.0 leaves every bit as it is.
    """
    entry_fee = fee(notional, maker_entry, use_fees) * fee_scale
    exit_fee = fee(notional, maker_exit, use_fees) * fee_scale
    slip = exit_slip(reason, maker_exit, use_slippage) * slippage_scale
    exit_price = exit_fill(direction, price, slip)
    gross, net = settle(direction, entry, exit_price, notional, entry_fee, exit_fee, ob_edge)
    return exit_price, entry_fee, exit_fee, gross, net
