"""The breaker's day: medians, the threshold, what is missing, bounds, and a state that survives saving."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, day_from_ns, day_start_ns
from dolphin.risk.breaker import acb_beta, acb_boost
from dolphin.risk.breaker_day import (
    DAYS_KEPT,
    BreakerDay,
    FactorRecord,
    judge,
    median,
    percentile,
    rolled,
    stress_share,
    with_record,
    with_velocity,
)

DAY = "2026-03-02"
START = day_start_ns(DAY)
MINUTE = 60 * NS_PER_S
NAN = float("nan")
finite = st.floats(-1e6, 1e6)


def at(k: int) -> int:
    return START + k * MINUTE


def record(k: int, *values: float | None) -> FactorRecord:
    return FactorRecord(pushed_ns=at(k), values=values)  # type: ignore[arg-type]


@given(st.lists(finite, min_size=1, max_size=50))
def test_median_and_percentile_are_numpys(values: list[float]) -> None:
    assert median(values) == pytest.approx(float(np.median(values)), rel=1e-12, abs=1e-9)
    for percent in (0.0, 37.5, 60.0, 100.0):
        expected = float(np.percentile(values, percent))
        assert percentile(values, percent) == pytest.approx(expected, rel=1e-12, abs=1e-9)


def test_the_tenth_record_is_the_last() -> None:
    state = rolled(BreakerDay(), DAY)
    for i in range(15):
        state = with_record(state, record(i, float(i), None, None, None))
    assert len(state.records) == 10
    assert judge(state, None).values == (4.5, None, None, None)


def test_the_same_push_is_taken_once_and_an_empty_one_never() -> None:
    state = rolled(BreakerDay(), DAY)
    state = with_record(state, record(1, 0.1, None, None, None))
    assert with_record(state, record(1, 0.1, None, None, None)) is state
    assert with_record(state, record(2, None, None, None, None)) is state
    # A clock that was set back: an earlier stamp is a new push all the same.
    assert len(with_record(state, record(0, 0.2, None, None, None)).records) == 2


def test_what_belongs_to_another_day_is_not_taken() -> None:
    state = rolled(BreakerDay(), DAY)
    for k in (-1, 1440):
        assert with_record(state, record(k, 0.1, None, None, None)) is state
        assert with_velocity(state, at(k), 0.1) is state


@given(
    st.tuples(
        *(st.one_of(st.none(), numbers) for numbers in (
            st.floats(-0.001, 0.001), st.floats(20.0, 120.0), st.floats(0.0, 100.0), st.floats(0.5, 1.5),
        ))
    )
)  # fmt: skip
def test_weights_sum_to_the_signals_and_missing_is_named(values: tuple[float | None, ...]) -> None:
    judged = judge(with_record(rolled(BreakerDay(), DAY), record(0, *values)), 0.0)
    numbers = [NAN if value is None else value for value in values]
    assert (judged.signals, judged.boost) == acb_boost(*numbers)
    assert sum(judged.weights) == judged.signals
    names = ("funding_btc", "dvol_btc", "fng", "taker")
    assert judged.missing == (
        *(name for name, value in zip(names, values, strict=True) if value is None),
        "w750",
    )
    for value, weight in zip(values, judged.weights, strict=True):
        assert value is not None or weight == 0.0


def test_one_velocity_a_minute_and_at_most_a_days() -> None:
    state = rolled(BreakerDay(), DAY)
    for second in range(0, 86_400, 20):
        state = with_velocity(state, START + second * NS_PER_S, float(second))
    assert len(state.velocities) == 1440
    assert state.velocities[:3] == (0.0, 60.0, 120.0)
    assert with_velocity(state, at(700), 1.0) is state


def test_the_first_day_measures_itself_and_later_ones_the_days_before() -> None:
    state = rolled(BreakerDay(), DAY)
    for k, velocity in enumerate((0.1, 0.2, 0.3, 0.4)):
        state = with_velocity(state, at(k), velocity)
    first = judge(state, None)
    assert first.w750 == pytest.approx(0.25)
    assert first.threshold == pytest.approx(0.28)
    assert first.beta == 0.2
    state = rolled(state, "2026-03-03")
    assert (judge(state, None).w750, judge(state, None).beta) == (None, 0.2)
    state = with_velocity(state, at(1440), 0.26)
    later = judge(state, 0.4)
    assert (later.w750, later.threshold) == (0.26, pytest.approx(0.25))
    assert later.beta == acb_beta(0.26, 0.25, 0.4) == pytest.approx(0.88)


def test_days_without_a_velocity_leave_no_trace_and_old_ones_fall_out() -> None:
    state = BreakerDay()
    for k in range(DAYS_KEPT + 20):
        day_ns = START + k * NS_PER_DAY
        state = rolled(state, day_from_ns(day_ns))
        if k % 2 == 0 or k > 20:
            state = with_velocity(state, day_ns, float(k))
    assert len(state.days) == DAYS_KEPT
    assert state.days[-1][1] == float(DAYS_KEPT + 18)
    assert all(a[0] < b[0] for a, b in pairwise(state.days))


def test_a_day_never_begins_twice() -> None:
    state = with_record(rolled(BreakerDay(), DAY), record(0, 0.1, None, None, None))
    assert rolled(state, DAY) is state
    assert rolled(state, "2026-03-01") is state
    assert rolled(state, "2026-02-28").day == "2026-02-28", "two days behind: the newer day was the mistake"
    assert rolled(state, "2026-03-03").records == ()


def test_stress_is_strictly_below_the_limit() -> None:
    assert stress_share([]) is None
    assert stress_share([-0.10, -0.1000001, 0.0, 0.2]) == 0.25


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 5_000), st.floats(-0.1, 0.1), st.booleans()), max_size=60),
    st.integers(0, 60),
)
def test_what_was_saved_goes_on_with_the_same_bits(events: list[tuple[int, float, bool]], cut: int) -> None:
    def fold(state: BreakerDay, minute: int, value: float, is_scan: bool) -> BreakerDay:
        state = rolled(state, day_from_ns(at(minute)))
        if is_scan:
            return with_velocity(state, at(minute), value)
        return with_record(state, record(minute, value, None, None, None))

    events.sort()
    whole = saved = BreakerDay()
    for i, event in enumerate(events):
        if i == cut:
            saved = msgspec.json.decode(msgspec.json.encode(saved), type=BreakerDay)
        whole, saved = fold(whole, *event), fold(saved, *event)
    assert saved == whole
    assert judge(saved, None) == judge(whole, None)
