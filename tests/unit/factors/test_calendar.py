"""The calendar of an instant against Python's own, and its edges."""

from __future__ import annotations

import calendar as python_calendar
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, ns_from_iso
from dolphin.factors.calendar import WEEKDAYS, calendar_at, next_expiry_ns

HOUR = 3600 * NS_PER_S
instants = st.integers(0, 4_000_000_000).map(lambda s: s * NS_PER_S) | st.integers(
    0, 4_000_000_000 * NS_PER_S
)


@given(instants)
def test_weekday_and_hour_are_those_of_python(instant_ns: int) -> None:
    moment = datetime.fromtimestamp(instant_ns // NS_PER_S, UTC)
    found = calendar_at(instant_ns)
    assert found.weekday == moment.weekday()
    assert found.hour_of_week == 24 * moment.weekday() + moment.hour
    assert found.labels()["weekday"] == f"{moment:%A}"
    assert found.labels()["hour_of_week"] == f"{moment:%a %H}h"


@given(instants)
def test_what_is_ahead_is_ahead_and_near(instant_ns: int) -> None:
    found = calendar_at(instant_ns)
    assert 0.0 <= found.hours_to_funding < 8.0
    assert (instant_ns + round(found.hours_to_funding * HOUR)) % (8 * HOUR) == pytest.approx(0, abs=1)
    assert 0.0 <= found.days_to_monthly_expiry <= 35.0
    assert found.days_to_monthly_expiry <= found.days_to_quarterly_expiry <= 98.0


@given(instants, st.booleans())
def test_an_expiry_is_a_last_friday_at_eight_and_the_first_one(instant_ns: int, quarterly: bool) -> None:
    at = datetime.fromtimestamp(next_expiry_ns(instant_ns, quarterly=quarterly) / NS_PER_S, UTC)
    assert (at.weekday(), at.hour, at.minute, at.second) == (4, 8, 0, 0)
    last_day = python_calendar.monthrange(at.year, at.month)[1]
    assert at.day + 7 > last_day
    assert not quarterly or at.month in (3, 6, 9, 12)
    before = next_expiry_ns(instant_ns - 98 * NS_PER_DAY, quarterly=quarterly)
    while before < instant_ns:
        before, last = next_expiry_ns(before + 1, quarterly=quarterly), before
        assert before > last
    assert before == next_expiry_ns(instant_ns, quarterly=quarterly)


@pytest.mark.parametrize(
    ("iso", "monthly", "quarterly"),
    [
        # In the venues' calendars: 2024-03-29, 2024-04-26, 2024-06-28, 2024-12-27, 2025-03-28.
        ("2024-03-29T08:00:00Z", "2024-03-29", "2024-03-29"),
        ("2024-03-29T08:00:00.000000001Z", "2024-04-26", "2024-06-28"),
        ("2024-12-27T08:00:01Z", "2025-01-31", "2025-03-28"),
        ("2024-05-31T07:59:59Z", "2024-05-31", "2024-06-28"),
    ],
)
def test_expiries_of_the_venues_calendars(iso: str, monthly: str, quarterly: str) -> None:
    instant_ns = ns_from_iso(iso)
    assert next_expiry_ns(instant_ns) == ns_from_iso(f"{monthly}T08:00:00Z")
    assert next_expiry_ns(instant_ns, quarterly=True) == ns_from_iso(f"{quarterly}T08:00:00Z")


@pytest.mark.parametrize(
    ("clock", "overlap"),
    [
        ("00:00:00", "Asia"), ("06:59:59", "Asia"), ("07:00:00", "Asia+Europe"), ("08:59:59", "Asia+Europe"),
        ("09:00:00", "Europe"), ("12:59:59", "Europe"), ("13:00:00", "Europe+Americas"),
        ("15:59:59", "Europe+Americas"), ("16:00:00", "Americas"), ("21:59:59", "Americas"),
        ("22:00:00", "none"), ("23:59:59", "none"),
    ],
)  # fmt: skip
def test_sessions_open_and_close_on_the_hour(clock: str, overlap: str) -> None:
    found = calendar_at(ns_from_iso(f"2026-03-04T{clock}Z"))
    assert found.overlap == found.labels()["session"] == overlap


@pytest.mark.parametrize(
    ("clock", "hours", "bucket"),
    [("00:00:00", 0.0, "0 h"), ("00:00:01", 8.0 - 1 / 3600, "7 h"), ("07:30:00", 0.5, "0 h"),
     ("08:00:00", 0.0, "0 h"), ("20:00:00", 4.0, "4 h")],
)  # fmt: skip
def test_funding_comes_at_midnight_eight_and_sixteen(clock: str, hours: float, bucket: str) -> None:
    found = calendar_at(ns_from_iso(f"2026-03-04T{clock}Z"))
    assert found.hours_to_funding == pytest.approx(hours, abs=1e-12)
    assert found.labels()["funding"] == bucket


@pytest.mark.parametrize(
    ("iso", "monthly", "quarterly"),
    [
        ("2026-03-27T08:00:00Z", "last day", "last day"),
        ("2026-03-26T07:59:59Z", "last 3 days", "last 3 days"),
        ("2026-03-20T08:00:00Z", "last week", "last week"),
        ("2026-03-20T07:59:59Z", "further", "further"),
        ("2026-04-23T09:00:00Z", "last day", "further"),
    ],
)
def test_nearness_of_an_expiry(iso: str, monthly: str, quarterly: str) -> None:
    labels = calendar_at(ns_from_iso(iso)).labels()
    assert (labels["monthly_expiry"], labels["quarterly_expiry"]) == (monthly, quarterly)


def test_a_week_has_every_weekday_once() -> None:
    start = ns_from_iso("2026-02-23T12:00:00Z")
    assert tuple(WEEKDAYS[calendar_at(start + k * NS_PER_DAY).weekday] for k in range(7)) == WEEKDAYS
