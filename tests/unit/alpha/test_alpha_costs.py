"""Fees, slippage, the maker's refund and what a trade leaves."""

from __future__ import annotations

import pytest

from dolphin.alpha.costs import costs, exit_fill, exit_slip, fee, settle
from dolphin.domain import codes

ORDINARY = [r for r in range(1, 9) if r not in (codes.STOP_LOSS, codes.LIQUIDATION_GUARD)]


def test_the_fee_blends_maker_and_taker() -> None:
    assert fee(10_000.0, 0.62, True) == (0.0002 * 0.62 + 0.0005 * (1.0 - 0.62)) * 10_000.0
    assert fee(10_000.0, 0.62, True) == pytest.approx(3.14)
    assert fee(10_000.0, 1.0, True) == 2.0
    assert fee(10_000.0, 0.0, True) == 5.0
    assert fee(10_000.0, 0.62, False) == 0.0


@pytest.mark.parametrize("use", [True, False])
@pytest.mark.parametrize("reason", [codes.STOP_LOSS, codes.LIQUIDATION_GUARD])
def test_forced_exits_pay_in_full(reason: int, use: bool) -> None:
    assert exit_slip(reason, 0.5, use) == 0.0005


@pytest.mark.parametrize("reason", ORDINARY)
def test_other_exits_get_the_maker_s_share_back(reason: int) -> None:
    assert exit_slip(reason, 0.5, True) == 0.0002 * 0.5
    assert exit_slip(reason, 0.25, True) == 0.0002 * 0.75
    assert exit_slip(reason, 0.25, False) == 0.0002


def test_slippage_is_against_us() -> None:
    assert exit_fill(-1, 100.0, 0.0005) == 100.0 * 1.0005
    assert exit_fill(1, 100.0, 0.0005) == 100.0 * 0.9995


def test_gross_and_net() -> None:
    assert settle(-1, 100.0, 99.0, 1000.0, 0.3, 0.4, 0.0) == (10.0, 10.0 - 0.3 - 0.4)
    assert settle(1, 100.0, 99.0, 1000.0, 0.0, 0.0, 0.0)[0] == -10.0
    gross, net = settle(1, 100.0, 101.0, 1000.0, 0.3, 0.4, 0.0005)
    assert gross == (0.01 + 0.0005) * 1000.0
    assert net == gross - 0.3 - 0.4


def test_costs_put_their_parts_together() -> None:
    got = costs(-1, 100.0, 99.0, codes.FIXED_TP, 5000.0, 0.62, 0.50, True, True, 0.0005)
    fees = (fee(5000.0, 0.62, True), fee(5000.0, 0.50, True))
    price = 99.0 * (1.0 + 0.0001)
    assert got == (price, *fees, *settle(-1, 100.0, price, 5000.0, *fees, 0.0005))
    assert fees[0] != fees[1]


def test_without_fees_and_refund() -> None:
    exit_price, entry_fee, exit_fee, gross, net = costs(
        1, 100.0, 101.0, codes.MAX_HOLD, 5000.0, 0.62, 0.50, False, False, 0.0
    )
    assert (entry_fee, exit_fee) == (0.0, 0.0)
    assert exit_price == 101.0 * (1.0 - 0.0002)
    assert gross == net


def test_a_stop_pays_the_forced_slippage_through_costs() -> None:
    assert costs(1, 100.0, 90.0, codes.STOP_LOSS, 1.0, 0.6, 0.5, True, True, 0.0)[0] == 90.0 * (1.0 - 0.0005)


def test_the_scales_multiply_fees_and_slippage_and_nothing_else() -> None:
    plain = costs(-1, 100.0, 99.0, codes.MAX_HOLD, 5000.0, 0.62, 0.50, True, True, 0.0)
    dear = costs(-1, 100.0, 99.0, codes.MAX_HOLD, 5000.0, 0.62, 0.50, True, True, 0.0, 2.0, 3.0)
    assert (dear[1], dear[2]) == (2.0 * plain[1], 2.0 * plain[2])
    assert dear[0] == exit_fill(-1, 99.0, 3.0 * exit_slip(codes.MAX_HOLD, 0.50, True))
    free = costs(-1, 100.0, 99.0, codes.MAX_HOLD, 5000.0, 0.62, 0.50, True, True, 0.0, 0.0, 0.0)
    assert free == (99.0, 0.0, 0.0, free[3], free[3])
    same = costs(-1, 100.0, 99.0, codes.MAX_HOLD, 5000.0, 0.62, 0.50, True, True, 0.0, 1.0, 1.0)
    assert same == plain
