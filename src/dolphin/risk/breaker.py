"""Adaptive circuit breaker, daily and macro scale (spec 05, section 1)."""

from __future__ import annotations

import math

from dolphin.kernel import kernel
from dolphin.numerics.portable import log1p


@kernel
def _below(value: float, strong: float, weak: float) -> float:
    """1.0 below `strong`, 0.5 below `weak`, else 0. NaN (missing) is 0."""
    if value < strong:
        return 1.0
    if value < weak:
        return 0.5
    return 0.0


@kernel
def acb_boost(funding: float, dvol: float, fng: float, taker: float) -> tuple[float, float]:
    """(signals, boost) of the day's factors; a missing factor is NaN and contributes 0.

    funding is the rate per interval, dvol annualised percent, fng 0 to 100, taker the buy ratio. Fear and
    greed counts only when another factor signals.
    """
    signals = _below(funding, -0.0001, 0.0)
    if dvol > 80.0:
        signals = signals + 1.0
    elif dvol > 55.0:
        signals = signals + 0.5
    taker_weight = _below(taker, 0.80, 0.90)
    if signals + taker_weight > 0.0:
        signals = signals + _below(fng, 25.0, 40.0)
    signals = signals + taker_weight
    if signals >= 1.0:
        return signals, 1.0 + 0.5 * log1p(signals)
    return signals, 1.0


@kernel
def acb_beta(w750: float, threshold: float, stress: float) -> float:
    """Beta from the day's w750 velocity and its threshold (1/s), raised by the books' stress in [0, 1]."""
    beta = 0.8 if w750 >= threshold else 0.2
    return beta * (1.0 + 0.25 * stress)


@kernel
def normalised(old_boost: float, new_boost: float) -> bool:
    """True when an update calms the breaker down: an open position closes on the next bar."""
    return old_boost >= 1.25 and new_boost < 1.10


MISSING = math.nan
