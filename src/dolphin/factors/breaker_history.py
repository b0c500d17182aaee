"""The circuit breaker over recorded days: what the processor would have said, from what was known then.

Entry points: `breaker_days`, `polled_records`, `table_of`.

Invariants
----------
1. It is the live processor's own rule (`dolphin.risk.breaker_day`), fed with the day's first ten records and
   the first scan of every minute; nothing is decided here.
2. No look-ahead: a day's row depends on what was known in that day and before. Cutting a recording off after
   a day leaves the rows up to it as they were.
3. What is missing is named in its row. Without w750 or a threshold beta is unknown (None), although the
   breaker itself then trades with its low one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import pyarrow as pa

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, day_from_ns, day_start_ns
from dolphin.factors.keeper import Keeper, Source
from dolphin.risk.breaker_day import (
    FACTORS,
    RECORDS_MAX,
    BreakerDay,
    FactorRecord,
    Judgement,
    judge,
    rolled,
    with_record,
    with_velocity,
)

#: The factor service pushes so often, so these are the instants of a day's first records.
PUSH_EVERY_NS: Final = 60 * NS_PER_S

Records = Callable[[str], Sequence[FactorRecord]]
Velocities = Callable[[str], Sequence[tuple[int, float]]]


class HistoryDay(msgspec.Struct, frozen=True):
    """One day. judged is what stood at its end; beta_high_frac the share of the day's scans with beta raised.

    n_scans are the scans that counted (one a minute), threshold_days the earlier days in the threshold.
    beta is None where w750 or the threshold was not known.
    """

    judged: Judgement
    beta: float | None
    n_scans: int
    threshold_days: int
    beta_high_frac: float | None


class DayVelocities:
    """w750 velocities (1/s) by day, of two arrays with rising stamps (ns UTC)."""

    def __init__(self, stamps_ns: IntArray, values: FloatArray) -> None:
        self._days: dict[str, list[tuple[int, float]]] = {}
        for at_ns, value in zip(stamps_ns.tolist(), values.tolist(), strict=True):
            if math.isfinite(value):
                self._days.setdefault(day_from_ns(at_ns), []).append((at_ns, value))

    def __call__(self, day: str) -> Sequence[tuple[int, float]]:
        """Those of one day."""
        return self._days.get(day, [])


class Fault(NamedTuple):
    """A factor that went wrong on a day, and how; one a run of days with the same words."""

    day: str
    text: str


def polled_records(sources: Mapping[str, Source], faults: list[Fault] | None = None) -> Records:
    """The day's first records as the factor service would have pushed them: at midnight and every minute on.

    Ask for days in ascending order. Faults of sources are added to `faults`; they raise nothing.
    """
    keepers = [Keeper(name, sources.get(name)) for name in FACTORS]
    told: dict[str, str] = {}

    def records(day: str) -> Sequence[FactorRecord]:
        found = []
        for k in range(RECORDS_MAX):
            at_ns = day_start_ns(day) + k * PUSH_EVERY_NS
            for keeper in keepers:
                keeper.poll(at_ns)
                if keeper.fault and keeper.fault != told.get(keeper.name) and faults is not None:
                    faults.append(Fault(day, f"{keeper.name}: {keeper.fault}"))
                told[keeper.name] = keeper.fault
            values = tuple(keeper.value(at_ns) for keeper in keepers)
            ages_s = tuple(keeper.age_s(at_ns) for keeper in keepers)
            found.append(FactorRecord(pushed_ns=at_ns, values=values, ages_s=ages_s))  # type: ignore[arg-type]
        return found

    return records


def days_between(first: str, last: str) -> list[str]:
    """The UTC dates from first to last, both included. Raises ValueError for what is no date."""
    begin, end = day_start_ns(first), day_start_ns(last)
    return [day_from_ns(at) for at in range(begin, end + 1, NS_PER_DAY)]


def breaker_days(days: Sequence[str], records: Records, velocities: Velocities) -> Iterator[HistoryDay]:
    """The breaker's days in order, each from what was known in it and before.

    Parameters
    ----------
    days : UTC dates, ascending.
    records : a day's records of the factors, oldest first; only the first ten count.
    velocities : a day's (ns UTC, w750 velocity in 1/s), ascending.
    """
    state = BreakerDay()
    for day in days:
        state = rolled(state, day)
        for record in records(day):
            state = with_record(state, record)
        n_high = n_scans = 0
        judged = judge(state, None)
        for at_ns, velocity in velocities(day):
            before = state
            state = with_velocity(state, at_ns, velocity)
            if state is before:
                continue
            judged = judge(state, None)
            n_scans += 1
            n_high += raised(judged)
        known = judged.w750 is not None and judged.threshold is not None
        yield HistoryDay(
            judged=judged,
            beta=judged.beta if known else None,
            n_scans=n_scans,
            threshold_days=len(state.days),
            beta_high_frac=n_high / n_scans if n_scans else None,
        )


def raised(judged: Judgement) -> bool:
    """Whether beta is the high one of its two levels."""
    return judged.w750 is not None and judged.threshold is not None and judged.w750 >= judged.threshold


def table_of(history: Sequence[HistoryDay], closes: Mapping[str, float] | None = None) -> pa.Table:
    """One row a day: values, weights and what follows; null where nothing was known.

    closes : BTC's price at the end of a day (USDT) by date. `missing` is names, separated by spaces.
    """
    columns: dict[str, pa.Array] = {"day": pa.array([row.judged.day for row in history], pa.string())}
    for k, name in enumerate(FACTORS):
        columns[name] = pa.array([row.judged.values[k] for row in history], pa.float64())
        columns[f"{name}_weight"] = pa.array([row.judged.weights[k] for row in history], pa.float64())
    for name in ("signals", "boost", "w750", "threshold"):
        columns[name] = pa.array([getattr(row.judged, name) for row in history], pa.float64())
    columns["threshold_days"] = pa.array([row.threshold_days for row in history], pa.int32())
    columns["beta"] = pa.array([row.beta for row in history], pa.float64())
    columns["beta_high_frac"] = pa.array([row.beta_high_frac for row in history], pa.float64())
    columns["n_scans"] = pa.array([row.n_scans for row in history], pa.int32())
    columns["missing"] = pa.array([" ".join(row.judged.missing) for row in history], pa.string())
    if closes is not None:
        columns["btc_close"] = pa.array([closes.get(row.judged.day) for row in history], pa.float64())
    return pa.table(columns)
