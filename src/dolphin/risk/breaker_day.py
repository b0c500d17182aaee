"""The circuit breaker's day: what it has been told since midnight UTC, and what follows from it (spec 05, 1).

Entry points: `BreakerDay` with `rolled`, `with_record`, `with_velocity`, and `judge`.

What is kept, and so what "known" means: the day's first ten records of the factors; the w750 velocity of the
first scan of every minute of the day; of every earlier day the median of those, for `DAYS_KEPT` days. The
threshold is the 60th percentile of the earlier days' medians; on the very first day, which has none, that of
the day's own minutes so far.

Invariants
----------
1. Memory is bounded: 10 records, 1,440 velocities, `DAYS_KEPT` days.
2. A day never begins twice: a clock that was set back over midnight leaves the newer day as it is. Only a
   clock that is two days or more behind begins its own day, for the newer one was a mistake then.
3. A factor that no record has is missing: it contributes 0 and is named, as are w750 and the books.
4. The same records and velocities in the same order give the same bits, whatever was saved in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, day_from_ns, day_start_ns
from dolphin.risk.breaker import MISSING, acb_beta, acb_boost

FACTORS: Final = ("funding_btc", "dvol_btc", "fng", "taker")
#: Names under which velocity and books are missing.
W750: Final = "w750"
BOOKS: Final = "books"

RECORDS_MAX: Final = 10
DAYS_KEPT: Final = 400
THRESHOLD_PERCENTILE: Final = 60.0
#: An asset whose withdrawal velocity is below this is under stress.
WITHDRAWAL_STRESS: Final = -0.10

Four = tuple[float | None, float | None, float | None, float | None]


class FactorRecord(msgspec.Struct, frozen=True, gc=False):
    """One push of the factors, in the order of FACTORS; None where a source was silent.

    values: rate per interval, annualised percent, 0 to 100, buy ratio. ages_s: seconds at the push.
    """

    pushed_ns: int
    values: Four
    ages_s: Four = (None, None, None, None)


class BreakerDay(msgspec.Struct, frozen=True):
    """What the breaker knows. day is a UTC date, empty before the first; velocities in 1/s."""

    day: str = ""
    records: tuple[FactorRecord, ...] = ()
    #: Minute of the day (0 to 1439) of the newest velocity, -1 before the first.
    minute: int = -1
    velocities: tuple[float, ...] = ()
    #: (date, median velocity) of earlier days, oldest first.
    days: tuple[tuple[str, float], ...] = ()


class Judgement(msgspec.Struct, frozen=True):
    """What follows. values and weights are in the order of FACTORS; missing names what was not there."""

    day: str
    boost: float
    beta: float
    signals: float
    values: Four
    weights: tuple[float, float, float, float]
    missing: tuple[str, ...]
    w750: float | None
    threshold: float | None
    stress: float


def rolled(state: BreakerDay, day: str) -> BreakerDay:
    """The state on the UTC date `day`: unchanged within a day, empty of records on a new one."""
    if day <= state.day and _days_between(day, state.day) < 2:
        return state
    days = state.days
    if state.velocities:
        days = (*days, (state.day, median(state.velocities)))[-DAYS_KEPT:]
    return BreakerDay(day=day, days=days)


def _days_between(earlier: str, later: str) -> int:
    return (day_start_ns(later) - day_start_ns(earlier)) // NS_PER_DAY


def with_record(state: BreakerDay, record: FactorRecord) -> BreakerDay:
    """The state with one more push, if it is one of the day's first ten and was not taken already.

    A push in which every source is silent is no record: a factor service that has just begun must not use
    up the ten.
    """
    if len(state.records) >= RECORDS_MAX or record.values == (None,) * len(FACTORS):
        return state
    if day_from_ns(record.pushed_ns) != state.day:
        return state
    if state.records and record.pushed_ns == state.records[-1].pushed_ns:
        return state
    return msgspec.structs.replace(state, records=(*state.records, record))


def with_velocity(state: BreakerDay, timestamp_ns: int, velocity: float) -> BreakerDay:
    """The state with the w750 velocity (1/s) of a scan stamped timestamp_ns, if it is its minute's first."""
    if day_from_ns(timestamp_ns) != state.day:
        return state
    minute = timestamp_ns % NS_PER_DAY // (60 * NS_PER_S)
    if minute <= state.minute:
        return state
    return msgspec.structs.replace(state, minute=minute, velocities=(*state.velocities, velocity))


def judge(state: BreakerDay, stress: float | None) -> Judgement:
    """Boost and beta of the day so far. stress is the share of assets under stress, None without books."""
    values = tuple(_factor(state.records, i) for i in range(len(FACTORS)))
    funding, dvol, fng, taker = (MISSING if value is None else value for value in values)
    signals, boost = acb_boost(funding, dvol, fng, taker)
    # Each factor's own weight, by asking the rule itself with the others away; fear and greed never signals
    # alone, so its weight is what it adds to them.
    without_fng = acb_boost(funding, dvol, MISSING, taker)[0]
    weights = (
        acb_boost(funding, MISSING, MISSING, MISSING)[0],
        acb_boost(MISSING, dvol, MISSING, MISSING)[0],
        signals - without_fng,
        acb_boost(MISSING, MISSING, MISSING, taker)[0],
    )
    w750 = median(state.velocities) if state.velocities else None
    known = [velocity for _, velocity in state.days] or list(state.velocities)
    threshold = percentile(known, THRESHOLD_PERCENTILE) if known else None
    missing = [name for name, value in zip(FACTORS, values, strict=True) if value is None]
    missing += [W750] if w750 is None else []
    missing += [BOOKS] if stress is None else []
    share = 0.0 if stress is None else stress
    return Judgement(
        day=state.day,
        boost=boost,
        beta=acb_beta(_or_missing(w750), _or_missing(threshold), share),
        signals=signals,
        values=values,  # type: ignore[arg-type]
        weights=weights,
        missing=tuple(missing),
        w750=w750,
        threshold=threshold,
        stress=share,
    )


def stress_share(withdrawal_velocities: Sequence[float]) -> float | None:
    """Share of assets whose withdrawal velocity is below the limit, None without any asset."""
    if not withdrawal_velocities:
        return None
    return len([v for v in withdrawal_velocities if v < WITHDRAWAL_STRESS]) / len(withdrawal_velocities)


def _factor(records: tuple[FactorRecord, ...], i: int) -> float | None:
    values = [value for value in (record.values[i] for record in records) if value is not None]
    return median(values) if values else None


def _or_missing(value: float | None) -> float:
    return MISSING if value is None else value


def median(values: Sequence[float]) -> float:
    """Median of at least one value; of an even count the mean of the middle two."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2.0


def percentile(values: Sequence[float], percent: float) -> float:
    """The `percent` (0 to 100) percentile of at least one value, by linear interpolation between ranks."""
    ordered = sorted(values)
    place = percent / 100.0 * (len(ordered) - 1)
    low = int(place)
    if low + 1 >= len(ordered):
        return ordered[-1]
    return ordered[low] + (ordered[low + 1] - ordered[low]) * (place - low)
