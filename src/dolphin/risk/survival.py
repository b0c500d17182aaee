"""Survival stack: categories, Rm and posture (spec 05, section 2)."""

from __future__ import annotations

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.codes import APEX, HIBERNATE, MC_OK, MC_ORANGE, STALKER, TURTLE
from dolphin.kernel import kernel
from dolphin.numerics.portable import clamp, exp

FALLS_NEEDED = 2
RISES_NEEDED = 5


@kernel
def invariant_category(nodes: int, heartbeat_age_s: float) -> float:
    """Category 1: 0 when no grid node is up or the scan path's heartbeat is older than 30 s."""
    if nodes < 1 or heartbeat_age_s > 30.0:
        return 0.0
    return 1.0


@kernel
def structural_category(mc_status: int, staleness_h: float) -> float:
    """Category 2: the forewarner's gate, decaying after six hours of silence."""
    level = 0.1
    if mc_status == MC_OK:
        level = 1.0
    elif mc_status == MC_ORANGE:
        level = 0.5
    late = staleness_h - 6.0
    if late < 0.0:
        late = 0.0
    return level * exp(-late / 3.0)


@kernel
def microstructure_category(stale: bool, depth_quality: float, fill_probability: float) -> float:
    """Category 3: the thinner of depth and fill, 0.5 when the books are stale."""
    if stale:
        return 0.5
    worst = depth_quality if depth_quality < fill_probability else fill_probability
    return clamp(0.3 + 0.7 * worst, 0.3, 1.0)


@kernel
def environment_category(minutes_since_spike: float) -> float:
    """Category 4: recovery after a DVOL spike; NaN means that none is known."""
    if minutes_since_spike != minutes_since_spike:
        return 1.0
    return 0.3 + 0.7 * (1.0 - exp(-minutes_since_spike / 60.0))


@kernel
def capital_category(drawdown: float) -> float:
    """Category 5: logistic in the drawdown (fraction)."""
    return 1.0 / (1.0 + exp(30.0 * (drawdown - 0.12)))


@kernel
def survival_target(cat1: float, cat2: float, cat3: float, cat4: float, cat5: float) -> float:
    """Rm's target in [0, 1]; two or more weak categories among 2, 3, 4 halve it."""
    environment = cat2 if cat2 < cat4 else cat4
    target = cat1 * cat5 * environment * cat3
    weak = 0
    if cat2 < 0.8:
        weak += 1
    if cat3 < 0.8:
        weak += 1
    if cat4 < 0.8:
        weak += 1
    if weak >= 2:
        target = target * 0.5
    return target


@kernel
def survival_step(last: float, target: float, dt_min: float) -> float:
    """Rm after dt_min minutes: a fall is immediate, a rise is limited in rate and in speed."""
    if target <= last:
        return target
    share = 0.02 * dt_min
    if share > 1.0:
        share = 1.0
    rise = share * (target - last)
    limit = 0.05 * dt_min
    if rise > limit:
        rise = limit
    return last + rise


@kernel
def posture_level(rm: float) -> int:
    """The raw level of Rm, without hysteresis."""
    if rm >= 0.90:
        return APEX
    if rm >= 0.75:
        return STALKER
    if rm >= 0.50:
        return TURTLE
    return HIBERNATE


@kernel
def posture_step(posture: int, below: int, above: int, rm: float) -> tuple[int, int, int]:
    """(posture, below, above) after one evaluation; the two counters are the hysteresis.

    Postures grow more restrictive with their code. Rm of exactly zero (category 1) skips the hysteresis.
    """
    level = posture_level(rm)
    if rm == 0.0:
        return HIBERNATE, 0, 0
    if level == posture:
        return posture, 0, 0
    if level > posture:
        below = below + 1
        above = 0
        if below >= FALLS_NEEDED:
            return level, 0, 0
        return posture, below, above
    above = above + 1
    below = 0
    if above >= RISES_NEEDED:
        return level, 0, 0
    return posture, below, above


@kernel
def posture_path(rms: FloatArray, start: int, postures: IntArray) -> None:
    """Fill `postures` (same shape as `rms`) with the posture after each evaluation."""
    posture = start
    below = 0
    above = 0
    for i in range(rms.shape[0]):
        posture, below, above = posture_step(posture, below, above, rms[i])
        postures[i] = posture
