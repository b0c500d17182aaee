"""The lanes and their one fan-in: factors, caps, bounds."""

from __future__ import annotations

from math import nextafter

import pytest

from dolphin.alpha.lanes import compose, dc_mult, market_ob, ob_signal, regime_size_mult
from dolphin.domain import codes


def below(x: float) -> float:
    return nextafter(x, -9.0)


def above(x: float) -> float:
    return nextafter(x, 9.0)


def test_direction_confirmation_lane() -> None:
    assert dc_mult(codes.DC_CONFIRM, 1.2, 0.5) == 1.2
    assert dc_mult(codes.DC_CONTRADICT, 1.2, 0.5) == 0.5
    assert dc_mult(codes.DC_NEUTRAL, 1.2, 0.5) == 1.0


@pytest.mark.parametrize(
    ("eff", "persistence", "skip", "confidence"),
    [
        (0.10, 1.0, False, 0.8),
        (above(0.10), 1.0, False, 0.8 * (1.0 + above(0.10) * 1.0 * 0.5)),
        (0.20, 0.5, False, 0.8 * (1.0 + 0.20 * 0.5 * 0.5)),
        (0.30, 1.0, False, 0.8 * 1.15),
        (0.90, 1.0, False, 0.8 * 1.15),
        (-0.10, 1.0, False, 0.8),
        (below(-0.10), 0.5, False, 0.8 * (1.0 - 0.10 * 0.5 * 0.4)),
        (-0.12, 1.0, False, 0.8 * (1.0 - 0.12 * 1.0 * 0.4)),
        (-0.15, 1.0, False, 0.8 * (1.0 - 0.15 * 1.0 * 0.4)),
        (below(-0.15), 0.60, False, 0.8 * (1.0 - 0.15 * 0.60 * 0.4)),
        (below(-0.15), above(0.60), True, 0.8),
        (-0.90, 0.60, False, 0.8 * 0.85),
        (-0.90, 0.10, False, 0.8 * (1.0 - 0.90 * 0.10 * 0.4)),
        (0.0, 1.0, False, 0.8),
    ],
)
def test_the_asset_s_book_confirms_or_contradicts(
    eff: float, persistence: float, skip: bool, confidence: float
) -> None:
    for direction in (-1, 1):
        got = ob_signal(0.8, direction * eff, persistence, direction)
        assert got[0] is skip
        assert got[1] == pytest.approx(confidence, rel=1e-14)


def test_the_gain_is_capped_at_fifteen_percent_exactly() -> None:
    assert ob_signal(1.0, 0.5, 1.0, 1)[1] == 1.0 + 0.15
    assert ob_signal(1.0, 0.302, 1.0, 1)[1] == 1.0 + 0.15
    assert ob_signal(1.0, 0.298, 1.0, 1)[1] == 1.0 + 0.298 * 1.0 * 0.5
    assert ob_signal(1.0, -0.59, 0.6, 1)[1] == 1.0 - 0.59 * 0.6 * 0.4
    assert ob_signal(1.0, -0.9, 0.6, 1)[1] == 0.85


@pytest.mark.parametrize(
    ("eff", "agreement", "factor"),
    [
        (0.08, 1.0, 1.0),
        (above(0.08), 1.0, 1.0 + 0.08),
        (0.15, 0.70, 1.0),
        (0.15, above(0.70), 1.0 + 0.15 * 0.70),
        (0.19, 1.0, 1.19),
        (0.205, 1.0, 1.20),
        (0.25, 1.0, 1.20),
        (-0.14, 0.8, 1.0 - 0.14 * 0.8),
        (-0.145, 1.0, 0.855),
        (-0.08, 1.0, 1.0),
        (below(-0.08), 1.0, 1.0 - 0.08),
        (-0.14, 1.0, 1.0 - 0.14),
        (-0.20, 1.0, 0.85),
        (-0.15, 0.70, 1.0),
        (0.0, 1.0, 1.0),
    ],
)
def test_the_market_s_books_scale_the_size(eff: float, agreement: float, factor: float) -> None:
    assert market_ob(-eff, agreement, -1) == pytest.approx(factor, rel=1e-14)
    assert market_ob(eff, agreement, 1) == pytest.approx(factor, rel=1e-14)


def test_the_breaker_lane() -> None:
    assert regime_size_mult(1.35, 0.8, 0.5, 0.5) == 1.35 * (1.0 + 0.8 * 0.5) * 0.5
    assert regime_size_mult(1.35, 0.0, 0.5, 0.5) == 1.35 * 0.5
    assert regime_size_mult(1.35, -0.1, 0.5, 1.0) == 1.35
    assert regime_size_mult(1.0, 0.5, 0.0, 1.0) == 1.0


def composed(base: float = 3.0, dc: float = 1.0, regime: float = 1.0, ob: float = 1.0, esof: float = 1.0,
             posture: int = codes.APEX, minimum: float = 0.5) -> tuple:  # fmt: skip
    return compose(base, dc, regime, ob, esof, posture, 5.0, 6.0, minimum)


def test_the_product_decides_when_nothing_caps_it() -> None:
    raw, cap, leverage, bound = composed(3.0, 0.5, 1.2, 1.1, 0.9)
    assert raw == 3.0 * 0.5 * 1.2 * 1.1 * 0.9
    assert cap == 5.0 * 1.2 * 1.1 * 0.9
    assert (leverage, bound) == (raw, codes.BOUND_RAW)


def test_direction_confirmation_raises_the_product_but_not_the_cap() -> None:
    raw, cap, leverage, bound = composed(5.0, dc=1.25, esof=0.8)
    assert (raw, cap, leverage, bound) == (5.0, 4.0, 4.0, codes.BOUND_LANES)


def test_the_absolute_cap() -> None:
    assert composed(5.0, regime=1.2) == (6.0, 6.0, 6.0, codes.BOUND_RAW)
    raw, cap, leverage, bound = composed(5.0, regime=1.5)
    assert (raw, cap, leverage, bound) == (7.5, 6.0, 6.0, codes.BOUND_ABS_MAX)
    assert composed(5.0, dc=1.5, regime=1.2)[1:] == (6.0, 6.0, codes.BOUND_LANES)


def test_stalker_caps_at_two() -> None:
    assert composed(3.0, posture=codes.STALKER)[1:] == (2.0, 2.0, codes.BOUND_POSTURE)
    assert composed(2.0, posture=codes.STALKER)[1:] == (2.0, 2.0, codes.BOUND_RAW)
    assert composed(5.0, regime=1.5, posture=codes.STALKER)[1:] == (2.0, 2.0, codes.BOUND_POSTURE)
    raw, cap, leverage, bound = composed(5.0, dc=1.25, regime=0.4, posture=codes.STALKER)
    assert (raw, cap, leverage, bound) == (2.5, 2.0, 2.0, codes.BOUND_LANES)


@pytest.mark.parametrize("posture", [codes.APEX, codes.TURTLE, codes.HIBERNATE])
def test_other_postures_do_not_cap(posture: int) -> None:
    assert composed(3.0, posture=posture) == (3.0, 5.0, 3.0, codes.BOUND_RAW)


def test_the_minimum_holds_last_even_over_a_cap() -> None:
    assert composed(0.5) == (0.5, 5.0, 0.5, codes.BOUND_RAW)
    assert composed(3.0, esof=0.0) == (0.0, 0.0, 0.5, codes.BOUND_MIN)
    assert composed(0.5, dc=0.5)[2:] == (0.5, codes.BOUND_MIN)
    assert composed(3.0, posture=codes.STALKER, minimum=2.5)[1:] == (2.0, 2.5, codes.BOUND_MIN)
