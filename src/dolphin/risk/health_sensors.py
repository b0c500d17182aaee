"""Sensors of the machinery's health, each in [0, 1] (spec 07); their score is `machine.meta_health`.

Entry points: `control_plane`, `data_infra`, `freshness`, `data_freshness`, `coherence`, `beating`.

A value that nobody knows is None. It never counts as good: unknown ports and unknown services count 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

FRESH_AGE_MAX_S: Final = 30.0
LATE_AGE_MAX_S: Final = 120.0
ABSENT: Final = 0.5
#: Unix seconds in a float are exact to a quarter of a microsecond: that much of the future is rounding.
ROUNDING_S: Final = 1e-6
UNIVERSE_ASSETS_MIN: Final = 200


def control_plane(grid_port: bool | None, scheduler_port: bool | None) -> float:
    """m4: the grid's port counts 0.8, the scheduler's 0.2; None is a port that could not be looked at."""
    return 0.8 * float(grid_port is True) + 0.2 * float(scheduler_port is True)


def data_infra(running: Sequence[bool]) -> float:
    """m1: share of the critical data services that run; 0 when nobody can say."""
    if not running:
        return 0.0
    return float(running.count(True)) / float(len(running))


def freshness(age_s: float | None) -> float:
    """How fresh a value of that age (s) is: 1 up to 30 s, 0.5 up to 120 s, else 0; 0.5 when there is none.

    An age that is no number, or below zero (a stamp of the future), counts as stale: 0.
    """
    if age_s is None:
        return ABSENT
    if age_s != age_s or age_s < -ROUNDING_S or age_s > LATE_AGE_MAX_S:
        return 0.0
    return 1.0 if age_s <= FRESH_AGE_MAX_S else 0.5


def data_freshness(scores: Sequence[float]) -> float:
    """m3: mean of the watched keys' scores, in their order; one that is no number counts 0, none at all 0."""
    if not scores:
        return 0.0
    total = 0.0
    for score in scores:
        total += score if 0.0 <= score <= 1.0 else 0.0
    return total / float(len(scores))


def coherence(boost: float | None, beta: float | None, universe_assets: int | None) -> float:
    """m5: 0 when the breaker's boost or beta is absent or out of range, 0.5 with too few books, else 1."""
    if boost is None or beta is None or not 1.0 <= boost <= 3.0 or not 0.0 <= beta <= 1.0:
        return 0.0
    if universe_assets is None or universe_assets < UNIVERSE_ASSETS_MIN:
        return 0.5
    return 1.0


def beating(ages_s: Sequence[float | None]) -> float:
    """m2, shown only: share of the running services whose heartbeat is at most 30 s old."""
    return data_infra([age is not None and freshness(age) == 1.0 for age in ages_s])
