"""Exits: each reason at its edge, its priority over every later one, and the books' duress."""

from __future__ import annotations

from math import nextafter
from typing import Any

import pytest

from dolphin.alpha.exits import (
    VD_ADVERSE_BARS,
    VD_ADVERSE_LEVEL,
    duress,
    exit_decision,
    pnl_fraction,
    trend_recovery,
)
from dolphin.domain import codes

CALM: dict[str, Any] = {
    "direction": -1,
    "entry": 1024.0,
    "price": 1024.0,
    "bars_held": 5,
    "tp": 0.0095,
    "sl": 1.0,
    "max_hold": 120,
    "leverage": 4.0,
    "posture": codes.APEX,
    "acb_flag": False,
    "books": False,
    "cascade_count": 0,
    "regime_signal": 0,
    "eff_imbalance": 0.0,
    "withdrawal_velocity": 0.0,
    "liquidation_guard": True,
    "adverse_turn": False,
    "trend_recovered": False,
}


def below(x: float) -> float:
    return nextafter(x, -9e9)


def above(x: float) -> float:
    return nextafter(x, 9e9)


def decide(**changes: Any) -> tuple:
    values = CALM | changes
    return exit_decision(*values.values())


def test_a_calm_position_is_held_with_its_own_numbers() -> None:
    assert decide() == (codes.ACTION_HOLD, codes.REASON_NONE, 0.0, 0.0095, 1.0, 120)


@pytest.mark.parametrize(("direction", "price"), [(-1, 1008.0), (1, 1040.0)])
def test_profit_is_mirrored(direction: int, price: float) -> None:
    assert pnl_fraction(direction, 1024.0, price) == 0.015625
    assert pnl_fraction(-direction, 1024.0, price) == -0.015625


PNL = 0.015625  # exact for an entry at 1024 and a price 16 away


def edge_cases() -> list[tuple[str, dict[str, Any], int]]:
    """(name, inputs, reason) right below, at and above each test; REASON_NONE where it must not fire."""
    win = {"price": 1008.0}
    loss = {"price": 1040.0}
    limit = -0.95 / 4.0
    deep = 1024.0 * (1.0 - limit)
    return [
        ("tp above", win | {"tp": above(PNL)}, codes.REASON_NONE),
        ("tp at", win | {"tp": PNL}, codes.FIXED_TP),
        ("tp below", win | {"tp": below(PNL)}, codes.FIXED_TP),
        ("sl above", loss | {"sl": above(PNL)}, codes.REASON_NONE),
        ("sl at", loss | {"sl": PNL}, codes.STOP_LOSS),
        ("sl below", loss | {"sl": below(PNL)}, codes.STOP_LOSS),
        ("hold below", {"bars_held": 119}, codes.REASON_NONE),
        ("hold at", {"bars_held": 120}, codes.MAX_HOLD),
        ("hold above", {"bars_held": 121}, codes.MAX_HOLD),
        ("guard short of it", {"price": deep - 0.01}, codes.REASON_NONE),
        ("guard past it", {"price": deep + 0.01}, codes.LIQUIDATION_GUARD),
        ("guard off", {"price": deep + 0.01, "liquidation_guard": False}, codes.REASON_NONE),
        ("hibernate", {"posture": codes.HIBERNATE}, codes.HIBERNATE_HALT),
        ("turtle", {"posture": codes.TURTLE}, codes.REASON_NONE),
        ("stalker", {"posture": codes.STALKER}, codes.REASON_NONE),
        ("breaker", {"acb_flag": True}, codes.SUBDAY_ACB_NORMALIZATION),
        ("adverse", {"adverse_turn": True}, codes.VD_ADVERSE_TURN),
        ("recovered", {"trend_recovered": True}, codes.TREND_RECOVERY),
    ]


@pytest.mark.parametrize(("name", "changes", "reason"), edge_cases())
def test_each_exit_at_its_edge(name: str, changes: dict[str, Any], reason: int) -> None:
    action, got, *_ = decide(**changes)
    assert got == reason
    assert action == (codes.ACTION_HOLD if reason == codes.REASON_NONE else codes.ACTION_EXIT)


def test_the_guard_stands_exactly_at_its_share_of_the_margin() -> None:
    """-0.95 / leverage equals the loss exactly here: 0.95 / 0.95 = 1."""
    assert decide(direction=1, price=0.0, leverage=0.95)[1] == codes.LIQUIDATION_GUARD
    assert decide(direction=1, price=0.0, leverage=below(0.95), sl=2.0)[1] == codes.REASON_NONE
    assert decide(direction=1, price=0.0, leverage=above(0.95), sl=2.0)[1] == codes.LIQUIDATION_GUARD


#: In the order of priority; a price 256 away gives a loss of 0.25, beyond the guard of 4x leverage.
PRIORITY: list[tuple[int, dict[str, Any]]] = [
    (codes.HIBERNATE_HALT, {"posture": codes.HIBERNATE}),
    (codes.SUBDAY_ACB_NORMALIZATION, {"acb_flag": True}),
    (codes.LIQUIDATION_GUARD, {"price": 1280.0}),
    (codes.FIXED_TP, {"tp": -0.3}),
    (codes.STOP_LOSS, {"sl": 0.0}),
    (codes.VD_ADVERSE_TURN, {"adverse_turn": True}),
    (codes.TREND_RECOVERY, {"trend_recovered": True}),
    (codes.MAX_HOLD, {"bars_held": 120}),
]


@pytest.mark.parametrize("first", range(len(PRIORITY)), ids=[codes.REASONS[r] for r, _ in PRIORITY])
def test_a_reason_comes_before_every_later_one(first: int) -> None:
    """All reasons from `first` on hold at once: the first of them is given."""
    together: dict[str, Any] = {}
    for reason, values in PRIORITY[first:]:
        together |= values
        assert decide(**values)[1] == reason
    assert decide(**together)[1] == PRIORITY[first][0]


# Duress: (pnl, cascade, regime, eff, withdrawal) -> (tp, sl, max_hold) of (0.01, 1.0, 101)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        # calm
        ((0.001, 0, 0, 0.0, 0.0), (0.01, 1.0, 101)),
        ((0.001, 0, 0, 0.9, 0.0), (0.01, 1.0, 101)),
        # cascade beats everything and is blind to profit, imbalance and withdrawal
        ((0.001, 1, 0, 0.0, 0.0), (0.01 * 1.40, 1.0, 50)),
        ((-0.001, 3, 1, -0.5, -0.9), (0.01 * 1.40, 1.0, 50)),
        ((0.001, 1, -1, 0.5, -0.9), (0.01 * 1.40, 1.0, 50)),
        # stress
        ((-0.001, 0, 1, 0.0, 0.0), (0.01, 0.10, 101)),
        ((0.0, 0, 1, 0.0, 0.0), (0.01, 0.10, 101)),
        ((above(0.0), 0, 1, 0.0, 0.0), (0.01 * 0.60, 0.10, 101)),
        ((-0.001, 0, 1, -0.10, 0.0), (0.01, 0.10, 101)),
        ((-0.001, 0, 1, below(-0.10), 0.0), (0.01, 0.10, 40)),
        ((0.001, 0, 1, -0.5, -0.9), (0.01 * 0.60, 0.10, 40)),
        # calm and leaning our way
        ((0.001, 0, -1, 0.15, 0.0), (0.01, 1.0, 101)),
        ((0.001, 0, -1, above(0.15), 0.0), (0.01, 1.0, 151)),
        ((0.001, 0, 0, 0.5, 0.0), (0.01, 1.0, 101)),
        # the asset's own book withdraws
        ((-0.001, 0, 0, 0.0, -0.20), (0.01, 1.0, 101)),
        ((-0.001, 0, 0, 0.0, below(-0.20)), (0.01, 1.0, 40)),
        ((0.0, 0, 0, 0.0, -0.5), (0.01, 1.0, 40)),
        ((above(0.0), 0, 0, 0.0, -0.5), (0.01 * 0.75, 1.0, 40)),
        # both: the shortest hold, counted from the original one
        ((0.001, 0, -1, 0.5, -0.5), (0.01 * 0.75, 1.0, 40)),
    ],
)
def test_books_bend_the_limits(inputs: tuple, expected: tuple[float, float, int]) -> None:
    pnl, cascade, regime, eff, withdrawal = inputs
    assert duress(pnl, 0.01, 1.0, 101, cascade, regime, eff, withdrawal) == expected


def test_holds_are_exact_shares_of_the_original_one() -> None:
    assert duress(-0.1, 0.01, 1.0, 1000, 1, 0, 0.0, 0.0)[2] == 500
    assert duress(-0.1, 0.01, 1.0, 1000, 0, 1, -0.2, 0.0)[2] == 400
    assert duress(-0.1, 0.01, 1.0, 1000, 0, -1, 0.2, 0.0)[2] == 1500
    assert duress(-0.1, 0.01, 1.0, 1000, 0, -1, 0.2, -0.3)[2] == 400


def test_a_shorter_hold_is_never_lengthened_by_withdrawal() -> None:
    """int(1 x 0.40) = 0 is below 1: the shortest of the two, whatever the rounding."""
    assert duress(-0.1, 0.01, 1.0, 1, 0, 0, 0.0, -0.5)[2] == 0
    assert duress(-0.1, 0.01, 1.0, 0, 0, 0, 0.0, -0.5)[2] == 0


def test_without_books_nothing_bends() -> None:
    got = decide(cascade_count=3, regime_signal=1, eff_imbalance=-0.5, withdrawal_velocity=-0.9)
    assert got == decide()


def test_the_bent_limits_are_tested_and_reported() -> None:
    """Under cascade a position ends after 60 bars that had 60 more; the widened tp holds it."""
    assert decide(books=True, cascade_count=1, bars_held=59)[1] == codes.REASON_NONE
    assert decide(books=True, cascade_count=1, bars_held=60)[1:] == (
        codes.MAX_HOLD,
        0.0,
        0.0095 * 1.40,
        1.0,
        60,
    )
    assert decide(books=True, cascade_count=1, price=1008.0, tp=0.0125)[1] == codes.REASON_NONE
    assert decide(books=False, cascade_count=1, price=1008.0, tp=0.0125)[1] == codes.FIXED_TP
    assert decide(books=True, regime_signal=1, price=1160.0)[1:] == (
        codes.STOP_LOSS, -0.1328125, 0.0095, 0.10, 120,
    )  # fmt: skip
    assert decide(books=True, regime_signal=-1, eff_imbalance=0.2, bars_held=150)[1:] == (
        codes.REASON_NONE, 0.0, 0.0095, 1.0, 180,
    )  # fmt: skip
    assert decide(books=True, withdrawal_velocity=-0.3, bars_held=48)[1] == codes.MAX_HOLD


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize(
    ("spread", "entry", "recovered"),
    [
        (0.25, 1.0, True),
        (above(0.25), 1.0, False),
        (1.0, 1.0, False),
        (-0.25, 1.0, True),
        (-0.3, 1.0, False),
        (above(-0.5), 1.0, False),
        (-0.5, 1.0, True),
        (-0.8, 1.0, True),
        (0.0, 1.0, True),
        (0.5, 0.0, True),
        (0.0, 0.0, True),
    ],
)
def test_a_spread_recovers_by_exhaustion_or_by_a_flip(
    sign: float, spread: float, entry: float, recovered: bool
) -> None:
    assert trend_recovery(sign * spread, sign * entry, 0.25, 0.5) is recovered


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_small_spread_recovers_like_a_large_one(sign: float) -> None:
    assert trend_recovery(sign * 0.1, sign * 0.5, 0.25, 0.5) is True
    assert trend_recovery(sign * 0.2, sign * 0.5, 0.25, 0.5) is False
    assert trend_recovery(sign * -0.2, sign * 0.5, 0.25, 0.5) is False
    assert trend_recovery(sign * -0.3, sign * 0.5, 0.25, 0.5) is True


def test_the_adverse_turn_is_the_page_s() -> None:
    assert (VD_ADVERSE_LEVEL, VD_ADVERSE_BARS) == (0.02, 3)
