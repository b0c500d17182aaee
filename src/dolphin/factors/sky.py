"""The sky of an instant, geocentric: the moon's phase, and whether Mercury seems to go backwards. Offline.

Entry points: `sky_at`, `Sky`, `quarters`, `stations`.

Invariants
----------
1. Angles are apparent ones, of date: light takes its time, and aberration shifts the sun. The library's own
   `MoonPhase` leaves aberration out, which makes its quarters 40 s late against the almanacs.
2. Nothing is looked up: the library computes from formulas, so that any instant of 1900 to 2100 has its sky.

The library is the feeds extra's; without it this module raises UsageError when it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S
from dolphin.domain.errors import DataError, UsageError

try:
    import astronomy  # type: ignore[import-untyped]
except ImportError as _error:
    raise UsageError(
        "moon and Mercury need the feeds extra; `make feeds` installs it, and the calendar needs none"
    ) from _error

QUARTERS: Final = ("new", "first quarter", "full", "last quarter")
DIRECT: Final = "direct"
RETROGRADE: Final = "retrograde"
STATIONARY: Final = "stationary"
#: Mercury slower than this counts as stationary, degrees of longitude a day. It gains or loses 0.07 to 0.19 a
#: day around a station, so that it stands still for half a day to a day and a half on either side.
STATIONARY_DEG_PER_DAY: Final = 0.1

#: Noon of 2000-01-01 UTC, from which the library counts days.
_J2000_NS: Final = 946_728_000 * NS_PER_S
_HALF_STEP_DAYS: Final = 1.0 / 24.0
#: What the library's Delta T and formulas are good for.
_YEARS: Final = (1900, 2100)
_FIRST_NS: Final = -2_208_988_800 * NS_PER_S
_LAST_NS: Final = 4_102_444_800 * NS_PER_S
_ROOT_S: Final = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Sky:
    """The sky of one instant.

    moon_phase_deg is the moon's apparent longitude less the sun's, [0, 360): 0 new, 90 first quarter, 180
    full. moon_illuminated is the lit share of the disc, [0, 1]. quarter names the nearest of the four.
    mercury_speed is its apparent longitude's change, degrees a day; mercury_motion the word for it.
    """

    moon_phase_deg: float
    moon_illuminated: float
    quarter: str
    mercury_speed_deg_per_day: float
    mercury_motion: str

    def labels(self) -> dict[str, str]:
        """The bucket of each category that an advisor learns from."""
        return {"moon": self.quarter, "mercury": self.mercury_motion}


class Event(NamedTuple):
    """Something that happens in the sky: a quarter of the moon, or a station of Mercury. ns UTC."""

    at_ns: int
    word: str


def sky_at(instant_ns: int) -> Sky:
    """The sky at instant_ns (ns UTC). Raises DataError outside 1900 to 2100."""
    time = _time(instant_ns)
    phase = _phase_deg(time)
    speed = _mercury_speed(time)
    return Sky(
        moon_phase_deg=phase,
        moon_illuminated=float(astronomy.Illumination(astronomy.Body.Moon, time).phase_fraction),
        quarter=QUARTERS[round(phase / 90.0) % 4],
        mercury_speed_deg_per_day=speed,
        mercury_motion=motion_of(speed),
    )


def motion_of(speed_deg_per_day: float) -> str:
    """`direct`, `retrograde`, or `stationary` below 0.1 degrees a day either way."""
    if abs(speed_deg_per_day) < STATIONARY_DEG_PER_DAY:
        return STATIONARY
    return DIRECT if speed_deg_per_day > 0.0 else RETROGRADE


def quarters(begin_ns: int, end_ns: int) -> Iterator[Event]:
    """The moon's quarters with begin_ns <= at < end_ns (ns UTC), in order. Raises DataError."""
    # A quarter takes 6.6 to 8.2 days: in four days there is one at most.
    for time, step in _steps(begin_ns, end_ns, 4.0):
        before, after = _phase_deg(time), _phase_deg(time.AddDays(step))
        turned = (after - before) % 360.0
        k = int(before // 90.0) + 1
        if 90.0 * k - before <= turned:
            at_ns = _root(lambda t, k=k: _signed(_phase_deg(t) - 90.0 * k), time, step)  # type: ignore[misc]
            if begin_ns <= at_ns < end_ns:
                yield Event(at_ns, QUARTERS[k % 4])


def stations(begin_ns: int, end_ns: int) -> Iterator[Event]:
    """Mercury's stations with begin_ns <= at < end_ns (ns UTC), in order, by the motion that begins.

    Raises DataError.
    """
    # It is retrograde for 19 to 25 days, direct for three months.
    for time, step in _steps(begin_ns, end_ns, 10.0):
        before, after = _mercury_speed(time), _mercury_speed(time.AddDays(step))
        if (before < 0.0) != (after < 0.0):
            way = 1.0 if before < 0.0 else -1.0
            at_ns = _root(lambda t, way=way: way * _mercury_speed(t), time, step)  # type: ignore[misc]
            if begin_ns <= at_ns < end_ns:
                yield Event(at_ns, DIRECT if way > 0.0 else RETROGRADE)


def _steps(begin_ns: int, end_ns: int, step_days: float) -> Iterator[tuple[Any, float]]:
    """Pieces of the span as (the library's time, length in days), a little wider than the span."""
    time, end = _time(begin_ns).AddDays(-_HALF_STEP_DAYS), _time(end_ns).ut + _HALF_STEP_DAYS
    while time.ut < end:
        yield time, step_days
        time = time.AddDays(step_days)


def _root(function: Callable[[Any], float], time: Any, step_days: float) -> int:
    """Where a rising function crosses zero within the step, ns UTC, to a tenth of a second."""
    found = astronomy.Search(lambda _, t: function(t), None, time, time.AddDays(step_days), _ROOT_S)
    return _J2000_NS + round(float(found.ut) * NS_PER_DAY)


def _time(instant_ns: int) -> Any:
    if not _FIRST_NS <= instant_ns < _LAST_NS:
        raise DataError(f"the sky is known from {_YEARS[0]} to {_YEARS[1]}, {instant_ns} ns lies outside")
    return astronomy.Time((instant_ns - _J2000_NS) / NS_PER_DAY)


def _longitude(body: Any, time: Any) -> float:
    """Apparent geocentric ecliptic longitude of date, degrees."""
    return float(astronomy.Ecliptic(astronomy.GeoVector(body, time, True)).elon)


def _phase_deg(time: Any) -> float:
    return (_longitude(astronomy.Body.Moon, time) - _longitude(astronomy.Body.Sun, time)) % 360.0


def _mercury_speed(time: Any) -> float:
    """Degrees a day, from an hour before to an hour after."""
    before, after = (
        _longitude(astronomy.Body.Mercury, time.AddDays(shift))
        for shift in (-_HALF_STEP_DAYS, _HALF_STEP_DAYS)
    )
    return _signed(after - before) / (2.0 * _HALF_STEP_DAYS)


def _signed(angle_deg: float) -> float:
    """The same angle in [-180, 180)."""
    return (angle_deg + 180.0) % 360.0 - 180.0
