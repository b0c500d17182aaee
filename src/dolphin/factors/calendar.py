"""The calendar of an instant: week, sessions, funding and expiries, all in UTC.

Entry points: `calendar_at`, `Calendar`.

Invariants
----------
1. Everything follows from the instant alone: no time zone, no daylight saving, no table to keep up.
2. Hours and days *to* an event are never negative, and zero at the event itself.

Sessions are fixed hours of UTC, a working day each: Asia 00 to 09 (Tokyo 9 to 18), Europe 07 to 16 (London
8 to 17 in summer), Americas 13 to 22 (New York 8 to 17 in winter). Begin inclusive, end exclusive. Weekends
have their sessions too: the market never closes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S

WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
#: Session, first hour UTC, hour UTC at which it is over.
SESSIONS: Final = (("Asia", 0, 9), ("Europe", 7, 16), ("Americas", 13, 22))
NO_SESSION: Final = "none"
FUNDING_EVERY_H: Final = 8
EXPIRY_HOUR: Final = 8
#: Months whose expiry is a quarterly one.
QUARTERS: Final = (3, 6, 9, 12)

_NS_PER_HOUR: Final = 3600 * NS_PER_S
_FRIDAY: Final = 4
#: 1970-01-01 was a Thursday.
_EPOCH_WEEKDAY: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Calendar:
    """The calendar of one instant.

    weekday counts from Monday 0, hour_of_week from Monday 00:00 UTC, 0 to 167. sessions are those open now,
    in the order of the day. hours_to_funding is in [0, 8), days to the expiries are >= 0.
    """

    weekday: int
    hour_of_week: int
    sessions: tuple[str, ...]
    hours_to_funding: float
    days_to_monthly_expiry: float
    days_to_quarterly_expiry: float

    @property
    def overlap(self) -> str:
        """The open sessions in one word: `Asia`, `Asia+Europe`, ..., `none`."""
        return "+".join(self.sessions) or NO_SESSION

    def labels(self) -> dict[str, str]:
        """The bucket of each category that an advisor learns from.

        Funding by the whole hours that are left, expiries by nearness: the last day, the last three, the last
        week, and all else.
        """
        day, hour = divmod(self.hour_of_week, 24)
        return {
            "weekday": WEEKDAYS[self.weekday],
            "hour_of_week": f"{WEEKDAYS[day][:3]} {hour:02d}h",
            "session": self.overlap,
            "funding": f"{int(self.hours_to_funding)} h",
            "monthly_expiry": _nearness(self.days_to_monthly_expiry),
            "quarterly_expiry": _nearness(self.days_to_quarterly_expiry),
        }


def calendar_at(instant_ns: int) -> Calendar:
    """The calendar at instant_ns, nanoseconds since 1970 UTC."""
    since_monday = (instant_ns + _EPOCH_WEEKDAY * NS_PER_DAY) % (7 * NS_PER_DAY)
    hour_of_week = since_monday // _NS_PER_HOUR
    hour = hour_of_week % 24
    return Calendar(
        weekday=hour_of_week // 24,
        hour_of_week=hour_of_week,
        sessions=tuple(name for name, begin, end in SESSIONS if begin <= hour < end),
        hours_to_funding=-instant_ns % (FUNDING_EVERY_H * _NS_PER_HOUR) / _NS_PER_HOUR,
        days_to_monthly_expiry=(next_expiry_ns(instant_ns) - instant_ns) / NS_PER_DAY,
        days_to_quarterly_expiry=(next_expiry_ns(instant_ns, quarterly=True) - instant_ns) / NS_PER_DAY,
    )


def next_expiry_ns(instant_ns: int, *, quarterly: bool = False) -> int:
    """The first expiry at or after instant_ns (ns UTC): the last Friday of a month, or quarter, 08:00 UTC."""
    date = datetime.fromtimestamp(instant_ns // NS_PER_S, UTC)
    year, month = date.year, date.month
    while True:
        found = _expiry_ns(year, month)
        if found >= instant_ns and (not quarterly or month in QUARTERS):
            return found
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)


def _expiry_ns(year: int, month: int) -> int:
    after = (year + 1, 1) if month == 12 else (year, month + 1)
    last = datetime(*after, 1, EXPIRY_HOUR, tzinfo=UTC) - timedelta(days=1)
    friday = last - timedelta(days=(last.weekday() - _FRIDAY) % 7)
    return int(friday.timestamp()) * NS_PER_S


def _nearness(days: float) -> str:
    for limit, word in ((1.0, "last day"), (3.0, "last 3 days"), (7.0, "last week")):
        if days <= limit:
            return word
    return "further"
