"""Time as the system keeps it: integer nanoseconds since 1970-01-01T00:00:00Z inside, ISO 8601 at the edges.

No function here reads a clock.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

NS_PER_S = 1_000_000_000
NS_PER_DAY = 86_400 * NS_PER_S
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def iso_from_ns(timestamp_ns: int) -> str:
    """`2021-04-02T00:01:00.000000000Z`: UTC with all nine digits, so that text sorts like time."""
    seconds, rest = divmod(timestamp_ns, NS_PER_S)
    moment = _EPOCH + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def ns_from_iso(text: str) -> int:
    """Nanoseconds of an ISO 8601 instant; an instant without an offset is taken as UTC. Raises ValueError."""
    body, fraction, tail = text, "", ""
    if "." in text:
        body, rest = text.split(".", 1)
        digits = len(rest) - len(rest.lstrip("0123456789"))
        fraction, tail = rest[:digits], rest[digits:]
    moment = datetime.fromisoformat(body + tail)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = (moment - _EPOCH) // timedelta(seconds=1)
    return seconds * NS_PER_S + int((fraction + "000000000")[:9])


def day_from_ns(timestamp_ns: int) -> str:
    """UTC date `YYYY-MM-DD` of an instant."""
    return iso_from_ns(timestamp_ns)[:10]


def day_start_ns(day: str) -> int:
    """First nanosecond of a UTC date `YYYY-MM-DD`. Raises ValueError."""
    return ns_from_iso(day + "T00:00:00")


def time_of_day(timestamp_ns: int) -> str:
    """`HHMMSS`, as used in file names."""
    return iso_from_ns(timestamp_ns)[11:19].replace(":", "")
