"""Published almanac values that the sky is held to, as they were published.

`MOON`: United States Naval Observatory, Astronomical Applications Department, "Dates of Primary Phases of the
Moon", Universal Time, rounded to the minute.
 - 2010 and 2020, all quarters: the observatory's table as the Astronomy Engine project keeps it for its own
   tests (github.com/cosinekitty/astronomy, generate/moonphase/moonphases.txt).
 - 2024, all quarters; 2026 to 2028, new and full moons: answers of the observatory's service
   aa.usno.navy.mil/api/moon/phases/year, as two public projects cite them in a test and in a database.

`STATIONS`: Mercury's, in apparent geocentric longitude, with each one's publisher. Times are as published,
turned into UTC; most are minutes, the Swiss Ephemeris's seconds.

`STATION_DAYS`: two lists by the day, in their publishers' own time zones (hours east of UTC). They have every
station of 2023 to 2025.

No value comes from the library under test.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dolphin.domain.clock import day_from_ns, ns_from_iso

QUARTERS = ("new", "first quarter", "full", "last quarter")
HOUR_NS = 3_600_000_000_000

#: Year: (place of its first event in QUARTERS, places from one event to the next, the events in order).
MOON = {
    2010: (3, 1, """
      01-07 10:39, 01-15 07:11, 01-23 10:53, 01-30 06:18, 02-05 23:48, 02-14 02:51, 02-22 00:42, 02-28 16:38,
      03-07 15:42, 03-15 21:01, 03-23 11:00, 03-30 02:25, 04-06 09:37, 04-14 12:29, 04-21 18:20, 04-28 12:18,
      05-06 04:15, 05-14 01:04, 05-20 23:43, 05-27 23:07, 06-04 22:13, 06-12 11:15, 06-19 04:29, 06-26 11:30,
      07-04 14:35, 07-11 19:40, 07-18 10:10, 07-26 01:37, 08-03 04:59, 08-10 03:08, 08-16 18:14, 08-24 17:05,
      09-01 17:22, 09-08 10:30, 09-15 05:50, 09-23 09:17, 10-01 03:52, 10-07 18:44, 10-14 21:27, 10-23 01:36,
      10-30 12:46, 11-06 04:52, 11-13 16:39, 11-21 17:27, 11-28 20:36, 12-05 17:36, 12-13 13:59, 12-21 08:13,
      12-28 04:18"""),
    2020: (1, 1, """
      01-03 04:45, 01-10 19:21, 01-17 12:58, 01-24 21:42, 02-02 01:42, 02-09 07:33, 02-15 22:17, 02-23 15:32,
      03-02 19:57, 03-09 17:48, 03-16 09:34, 03-24 09:28, 04-01 10:21, 04-08 02:35, 04-14 22:56, 04-23 02:26,
      04-30 20:38, 05-07 10:45, 05-14 14:03, 05-22 17:39, 05-30 03:30, 06-05 19:12, 06-13 06:24, 06-21 06:41,
      06-28 08:16, 07-05 04:44, 07-12 23:29, 07-20 17:33, 07-27 12:32, 08-03 15:59, 08-11 16:45, 08-19 02:42,
      08-25 17:58, 09-02 05:22, 09-10 09:26, 09-17 11:00, 09-24 01:55, 10-01 21:05, 10-10 00:39, 10-16 19:31,
      10-23 13:23, 10-31 14:49, 11-08 13:46, 11-15 05:07, 11-22 04:45, 11-30 09:30, 12-08 00:36, 12-14 16:16,
      12-21 23:41, 12-30 03:28"""),
    2024: (3, 1, """
      01-04 03:30, 01-11 11:57, 01-18 03:52, 01-25 17:54, 02-02 23:18, 02-09 22:59, 02-16 15:01, 02-24 12:30,
      03-03 15:23, 03-10 09:00, 03-17 04:11, 03-25 07:00, 04-02 03:15, 04-08 18:21, 04-15 19:13, 04-23 23:49,
      05-01 11:27, 05-08 03:22, 05-15 11:48, 05-23 13:53, 05-30 17:13, 06-06 12:38, 06-14 05:18, 06-22 01:08,
      06-28 21:53, 07-05 22:57, 07-13 22:49, 07-21 10:17, 07-28 02:51, 08-04 11:13, 08-12 15:19, 08-19 18:26,
      08-26 09:26, 09-03 01:55, 09-11 06:05, 09-18 02:34, 09-24 18:50, 10-02 18:49, 10-10 18:55, 10-17 11:26,
      10-24 08:03, 11-01 12:47, 11-09 05:55, 11-15 21:28, 11-23 01:28, 12-01 06:21, 12-08 15:26, 12-15 09:02,
      12-22 22:18, 12-30 22:27"""),
    2026: (2, 2, """
      01-03 10:03, 01-18 19:52, 02-01 22:09, 02-17 12:01, 03-03 11:38, 03-19 01:23, 04-02 02:12, 04-17 11:52,
      05-01 17:23, 05-16 20:01, 05-31 08:45, 06-15 02:54, 06-29 23:56, 07-14 09:43, 07-29 14:36, 08-12 17:37,
      08-28 04:18, 09-11 03:27, 09-26 16:49, 10-10 15:50, 10-26 04:12, 11-09 07:02, 11-24 14:53, 12-09 00:52,
      12-24 01:28"""),
    2027: (0, 2, """
      01-07 20:24, 01-22 12:17, 02-06 15:56, 02-20 23:23, 03-08 09:29, 03-22 10:44, 04-06 23:51, 04-20 22:27,
      05-06 10:58, 05-20 10:59, 06-04 19:40, 06-19 00:44, 07-04 03:02, 07-18 15:45, 08-02 10:05, 08-17 07:29,
      08-31 17:41, 09-15 23:03, 09-30 02:36, 10-15 13:47, 10-29 13:36, 11-14 03:26, 11-28 03:24, 12-13 16:09,
      12-27 20:12"""),
    2028: (2, 2, """
      01-12 04:03, 01-26 15:12, 02-10 15:04, 02-25 10:37, 03-11 01:06, 03-26 04:31, 04-09 10:26, 04-24 19:47,
      05-08 19:49, 05-24 08:16, 06-07 06:09, 06-22 18:27, 07-06 18:11, 07-22 03:02, 08-05 08:10, 08-20 10:44,
      09-03 23:47, 09-18 18:24, 10-03 16:25, 10-18 02:57, 11-02 09:17, 11-16 13:18, 12-02 01:40, 12-16 02:06,
      12-31 16:48"""),
}  # fmt: skip
#: The years of which every quarter is published.
WHOLE_YEARS = (2010, 2020, 2024)

_CAFE = "Cafe Astrology, cafeastrology.com/events"
_SWISS = "Swiss Ephemeris (Astrodienst), a public project's generated table of 2026"
_CAZIMI = "Cazimi, cazimi.live, from JPL DE421"
_FIVE = "5d-astrology.com"
_WICCA = "wicca.org"
_MAGIC = "magicofi.com"


class Station(NamedTuple):
    """Mercury turns: UTC as published, the motion that begins, and who published it."""

    iso: str
    word: str
    source: str

    @property
    def at_ns(self) -> int:
        """ns UTC."""
        return ns_from_iso(self.iso)


STATIONS = (
    Station("2017-01-08T09:42:40Z", "direct", "grandtrines.wordpress.com, 7 January 2017"),
    Station("2017-08-13T01:00:00Z", "retrograde", _WICCA),
    Station("2017-09-05T11:29:00Z", "direct", _WICCA),
    Station("2018-03-23T00:19:00Z", "retrograde", _FIVE),
    Station("2021-02-21T00:52:00Z", "direct", _FIVE),
    Station("2024-01-02T03:07:00Z", "direct", _MAGIC),
    Station("2024-04-01T22:14:00Z", "retrograde", _CAFE),
    Station("2024-04-25T12:54:00Z", "direct", _CAFE),
    Station("2024-08-05T04:56:00Z", "retrograde", _CAFE),
    Station("2024-08-28T21:14:00Z", "direct", _CAFE),
    Station("2025-03-15T06:46:00Z", "retrograde", _MAGIC),
    Station("2025-07-18T04:45:00Z", "retrograde", "drstandley.com, 18 July 2025"),
    Station("2026-02-26T06:49:23Z", "retrograde", _SWISS),
    Station("2026-03-20T19:34:03Z", "direct", _SWISS),
    Station("2026-06-29T17:37:08Z", "retrograde", _SWISS),
    Station("2026-07-23T22:59:04Z", "direct", _SWISS),
    Station("2026-10-24T07:13:57Z", "retrograde", _SWISS),
    Station("2026-10-24T07:13:00Z", "retrograde", _CAZIMI),
    Station("2026-11-13T15:55:06Z", "direct", _SWISS),
    Station("2026-11-13T15:54:00Z", "direct", _CAZIMI),
)

#: (publisher, hours east of UTC of its days, turns retrograde, turns direct).
_MOON_GIRL = "girlandhermoon.com, January 2023, days of New York"
_HINDU = "hindu-blog.com, Budha Vakri, December 2023, days of India"
STATION_DAYS = (
    (_MOON_GIRL, -5.0, "2022-12-29", "2023-01-18"),
    (_MOON_GIRL, -4.0, "2023-04-21", "2023-05-14"),
    (_MOON_GIRL, -4.0, "2023-08-23", "2023-09-15"),
    (_MOON_GIRL, -5.0, "2023-12-13", "2024-01-01"),
    (_HINDU, 5.5, "2024-04-02", "2024-04-25"),
    (_HINDU, 5.5, "2024-08-05", "2024-08-29"),
    (_HINDU, 5.5, "2024-11-26", "2024-12-16"),
    (_HINDU, 5.5, "2025-03-15", "2025-04-07"),
    (_HINDU, 5.5, "2025-07-18", "2025-08-11"),
    (_HINDU, 5.5, "2025-11-10", "2025-11-29"),
)


def moon_quarters(*years: int) -> Iterator[tuple[int, str]]:
    """(instant in ns UTC, quarter) of every published event of the years, of all without any, in order."""
    for year in years or sorted(MOON):
        place, step, events = MOON[year]
        for event in events.split(","):
            day, clock = event.split()
            yield ns_from_iso(f"{year}-{day}T{clock}:00Z"), QUARTERS[place % 4]
            place += step


def day_there(at_ns: int, hours_east: float) -> str:
    """The day (YYYY-MM-DD) of an instant (ns UTC) in a time zone."""
    return day_from_ns(at_ns + round(hours_east * HOUR_NS))
