"""Published almanac values that the sky is held to.

`MOON`: United States Naval Observatory, Astronomical Applications Department, "Phases of the Moon", 2023 to
2025, Universal Time, rounded to the minute. Five of the 148 events of these years are left out (2025: last
quarters of 20 February, 22 March and 21 April, new moon of 23 August, full moon of 7 October): they fall
within ten seconds of half a minute, where tables differ by one.

`MERCURY`: stations in apparent geocentric longitude, 2022 to 2026, UT dates, as in the tables of ephemerides
made with the Swiss Ephemeris (Astrodienst). None falls within an hour of midnight UT.

Neither is the output of the library under test, and `tests/reference/sky_formulas.py` has both again from
formulas of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

from dolphin.domain.clock import ns_from_iso

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

MOON = {
    2023: {
        "new": """
            Jan 21 20:53, Feb 20 07:06, Mar 21 17:23, Apr 20 04:12, May 19 15:53, Jun 18 04:37, Jul
            17 18:32, Aug 16 09:38, Sep 15 01:40, Oct 14 17:55, Nov 13 09:27, Dec 12 23:32""",
        "first quarter": """
            Jan 28 15:19, Feb 27 08:06, Mar 29 02:32, Apr 27 21:20, May 27 15:22, Jun 26 07:50, Jul
            25 22:07, Aug 24 09:57, Sep 22 19:32, Oct 22 03:29, Nov 20 10:50, Dec 19 18:39""",
        "full": """
            Jan 6 23:08, Feb 5 18:29, Mar 7 12:40, Apr 6 04:34, May 5 17:34, Jun 4 03:42, Jul 3
            11:39, Aug 1 18:32, Aug 31 01:36, Sep 29 09:57, Oct 28 20:24, Nov 27 09:16, Dec 27 00:33""",
        "last quarter": """
            Jan 15 02:10, Feb 13 16:01, Mar 15 02:08, Apr 13 09:11, May 12 14:28, Jun 10 19:31, Jul
            10 01:48, Aug 8 10:28, Sep 6 22:21, Oct 6 13:48, Nov 5 08:37, Dec 5 05:49""",
    },
    2024: {
        "new": """
            Jan 11 11:57, Feb 9 22:59, Mar 10 09:00, Apr 8 18:21, May 8 03:22, Jun 6 12:38, Jul 5
            22:57, Aug 4 11:13, Sep 3 01:55, Oct 2 18:49, Nov 1 12:47, Dec 1 06:21, Dec 30 22:27""",
        "first quarter": """
            Jan 18 03:53, Feb 16 15:01, Mar 17 04:11, Apr 15 19:13, May 15 11:48, Jun 14 05:18, Jul
            13 22:49, Aug 12 15:19, Sep 11 06:06, Oct 10 18:55, Nov 9 05:55, Dec 8 15:27""",
        "full": """
            Jan 25 17:54, Feb 24 12:30, Mar 25 07:00, Apr 23 23:49, May 23 13:53, Jun 22 01:08, Jul
            21 10:17, Aug 19 18:26, Sep 18 02:34, Oct 17 11:26, Nov 15 21:28, Dec 15 09:02""",
        "last quarter": """
            Jan 4 03:30, Feb 2 23:18, Mar 3 15:23, Apr 2 03:15, May 1 11:27, May 30 17:13, Jun 28
            21:53, Jul 28 02:51, Aug 26 09:26, Sep 24 18:50, Oct 24 08:03, Nov 23 01:28, Dec 22
            22:18""",
    },
    2025: {
        "new": """
            Jan 29 12:36, Feb 28 00:45, Mar 29 10:58, Apr 27 19:31, May 27 03:02, Jun 25 10:32, Jul
            24 19:11, Sep 21 19:54, Oct 21 12:25, Nov 20 06:47, Dec 20 01:43""",
        "first quarter": """
            Jan 6 23:56, Feb 5 08:02, Mar 6 16:32, Apr 5 02:15, May 4 13:52, Jun 3 03:41, Jul 2
            19:30, Aug 1 12:41, Aug 31 06:25, Sep 29 23:54, Oct 29 16:21, Nov 28 06:59, Dec 27 19:10""",
        "full": """
            Jan 13 22:27, Feb 12 13:53, Mar 14 06:55, Apr 13 00:22, May 12 16:56, Jun 11 07:44, Jul
            10 20:37, Aug 9 07:55, Sep 7 18:09, Nov 5 13:19, Dec 4 23:14""",
        "last quarter": """
            Jan 21 20:31, May 20 11:59, Jun 18 19:19, Jul 18 00:38, Aug 16 05:12, Sep 14 10:33, Oct
            13 18:13, Nov 12 05:28, Dec 11 20:52""",
    },
}

#: (turns retrograde, turns direct).
MERCURY = (
    ("2022-01-14", "2022-02-04"), ("2022-05-10", "2022-06-03"), ("2022-09-10", "2022-10-02"),
    ("2022-12-29", "2023-01-18"), ("2023-04-21", "2023-05-15"), ("2023-08-23", "2023-09-15"),
    ("2023-12-13", "2024-01-02"), ("2024-04-01", "2024-04-25"), ("2024-08-05", "2024-08-28"),
    ("2024-11-26", "2024-12-15"), ("2025-03-15", "2025-04-07"), ("2025-07-18", "2025-08-11"),
    ("2025-11-09", "2025-11-29"), ("2026-02-26", "2026-03-20"), ("2026-06-29", "2026-07-23"),
    ("2026-10-24", "2026-11-13"),
)  # fmt: skip


def moon_quarters() -> Iterator[tuple[int, str]]:
    """(instant in ns UTC, quarter) of every published event, in order."""
    found = []
    for year, by_quarter in MOON.items():
        for quarter, events in by_quarter.items():
            for event in events.split(","):
                month, day, clock = event.split()
                iso = f"{year}-{MONTHS.index(month) + 1:02d}-{int(day):02d}T{clock}:00Z"
                found.append((ns_from_iso(iso), quarter))
    return iter(sorted(found))
