"""Signal and direction confirmation, at every threshold."""

from __future__ import annotations

from math import nextafter

import numpy as np
import pytest

from dolphin.alpha.signal import change_bps, direction_confirmation, signal, signal_ratio
from dolphin.domain.codes import DC_CONFIRM, DC_CONTRADICT, DC_NEUTRAL

SHORT = (-0.02, -0.05, -1)
LONG = (0.01, 0.04, 1)


def below(x: float) -> float:
    return nextafter(x, -9.0)


def above(x: float) -> float:
    return nextafter(x, 9.0)


@pytest.mark.parametrize(
    ("vel_div", "ratio"),
    [(0.0, 0.0), (-0.02, 0.0), (-0.035, 0.5), (-0.05, 1.0), (-0.06, 1.0), (5.0, 0.0), (-5.0, 1.0)],
)
def test_the_ratio_runs_from_threshold_to_extreme(vel_div: float, ratio: float) -> None:
    assert signal_ratio(vel_div, -0.02, -0.05) == pytest.approx(ratio, abs=1e-15)
    assert 0.0 <= signal_ratio(vel_div, -0.02, -0.05) <= 1.0


@pytest.mark.parametrize(
    ("set_", "vel_div", "valid", "is_extreme"),
    [
        (SHORT, above(-0.02), False, False),
        (SHORT, -0.02, False, False),
        (SHORT, below(-0.02), True, False),
        (SHORT, above(-0.05), True, False),
        (SHORT, -0.05, True, True),
        (SHORT, below(-0.05), True, True),
        (SHORT, 0.07, False, False),
        (LONG, below(0.01), False, False),
        (LONG, 0.01, False, False),
        (LONG, above(0.01), True, False),
        (LONG, below(0.04), True, False),
        (LONG, 0.04, True, True),
        (LONG, above(0.04), True, True),
        (LONG, -0.07, False, False),
    ],
)
def test_a_signal_is_strict_and_an_extreme_is_not(
    set_: tuple[float, float, int], vel_div: float, valid: bool, is_extreme: bool
) -> None:
    threshold, extreme, direction = set_
    got = signal(vel_div, threshold, extreme, direction)
    assert (got[0], got[2]) == (valid, is_extreme)


def test_confidence_runs_from_one_half_to_nine_tenths() -> None:
    assert signal(-0.02, *SHORT)[1] == 0.5
    assert signal(-0.05, *SHORT)[1] == 0.5 + 1.0 * 0.4
    assert signal(-1.0, *SHORT)[1] == 0.9
    assert signal(-0.035, *SHORT)[1] == pytest.approx(0.7)
    assert signal(0.025, *LONG)[1] == pytest.approx(0.7)
    assert signal(1.0, *LONG)[1] == 0.9
    assert signal(-1.0, *LONG)[1] == 0.5


def test_the_change_looks_back_over_the_first_n_prices_only() -> None:
    prices = np.array([1.0, 100.0, 50.0, 101.0, 999.0])
    assert change_bps(prices, 4, 2) == (101.0 - 100.0) / 100.0 * 10000.0
    assert change_bps(prices, 4, 1) == (101.0 - 50.0) / 50.0 * 10000.0
    assert change_bps(prices, 5, 4) == (999.0 - 1.0) / 1.0 * 10000.0


BPS = change_bps(np.array([4096.0, 4097.0]), 2, 1)  # an exact quotient, so that +BPS and -BPS both occur


@pytest.mark.parametrize("direction", [-1, 1])
@pytest.mark.parametrize(
    ("last", "limit", "short"),
    [
        (4097.0, below(BPS), DC_CONTRADICT),
        (4097.0, BPS, DC_NEUTRAL),
        (4095.0, below(BPS), DC_CONFIRM),
        (4095.0, BPS, DC_NEUTRAL),
        (4096.0, 0.75, DC_NEUTRAL),
        (4096.0, 0.0, DC_NEUTRAL),
    ],
)
def test_a_confirmation_is_strict_and_mirrored(direction: int, last: float, limit: float, short: int) -> None:
    mirrored = {DC_CONFIRM: DC_CONTRADICT, DC_CONTRADICT: DC_CONFIRM, DC_NEUTRAL: DC_NEUTRAL}
    expected = short if direction == -1 else mirrored[short]
    assert direction_confirmation(np.array([4096.0, last]), 2, 1, limit, direction) == expected


def test_too_few_prices_say_nothing() -> None:
    falling = np.array([200.0, 190.0, 180.0, 170.0])
    assert direction_confirmation(falling, 3, 3, 0.75, -1) == DC_NEUTRAL
    assert direction_confirmation(falling, 4, 3, 0.75, -1) == DC_CONFIRM
