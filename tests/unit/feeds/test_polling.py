"""Schedules: jitter by seed, back-off that grows and parts, and the server's own word."""

from __future__ import annotations

import pytest

from dolphin.domain.errors import ConfigError
from dolphin.feeds.polling import WAIT_MAX_S, Pace, Schedule, retry_after_s

PACE = Pace(period_s=60.0, tries=4, backoff_first_s=1.0, backoff_max_s=3.0)


def test_turns_come_a_period_apart_with_jitter() -> None:
    schedule = Schedule(PACE, "7:fng")
    waits = [schedule.after_success_s() for _ in range(500)]
    assert all(54.0 <= wait <= 66.0 for wait in waits)
    assert max(waits) - min(waits) > 10.0
    assert 0.0 <= schedule.first_s() <= 5.0


def test_a_night_of_failures_is_waited_out() -> None:
    schedule = Schedule(Pace(period_s=60.0, tries=1_000_000, backoff_first_s=0.2, backoff_max_s=30.0), "1")
    waits = [schedule.after_failure_s(passes=True) for _ in range(5_000)]
    assert all(15.0 <= wait <= 30.0 for wait in waits[20:])


def test_the_seed_decides_and_sources_differ() -> None:
    def waits(seed: str) -> list[float]:
        schedule = Schedule(PACE, seed)
        return [schedule.first_s(), schedule.after_failure_s(passes=True), schedule.after_success_s()]

    assert waits("7:fng") == waits("7:fng")
    assert waits("7:fng") != waits("7:taker")


def test_tries_back_off_up_to_a_bound_and_end_with_the_turn() -> None:
    schedule = Schedule(PACE, "1")
    for _ in range(200):
        tries = [schedule.after_failure_s(passes=True) for _ in range(3)]
        for wait, most in zip(tries, (1.0, 2.0, 3.0), strict=True):
            assert most / 2 <= wait <= most
        assert schedule.failures == 3
        assert 54.0 <= schedule.after_failure_s(passes=True) <= 66.0
        assert schedule.failures == 0


def test_what_is_refused_is_not_tried_again_in_the_turn() -> None:
    schedule = Schedule(PACE, "1")
    assert schedule.after_failure_s(passes=False) >= 54.0
    assert schedule.failures == 0


@pytest.mark.parametrize("wait_s", [0.0, 2.0, 3600.0])
def test_a_wait_that_the_server_asks_for_is_never_cut_short(wait_s: float) -> None:
    schedule = Schedule(PACE, "1")
    waits = [schedule.after_failure_s(passes=True, wait_s=wait_s) for _ in range(100)]
    assert all(wait_s <= wait <= 1.1 * wait_s for wait in waits)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None), ("120", 120.0), (" 0 ", 0.0), ("-5", None), ("soon", None), ("1.5", None), ("", None),
        ("99999999999", WAIT_MAX_S), ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:01:40 -0000", 40.0), ("Thu, 99 Jan 1970 00:01:40 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_in_seconds_and_as_a_date(text: str | None, seconds: float | None) -> None:
    assert retry_after_s(text, 60.0) == seconds


@pytest.mark.parametrize(
    "wrong", [{"period_s": 0.0}, {"timeout_s": -1.0}, {"tries": 0}, {"jitter_frac": 1.0}]
)
def test_a_pace_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected times above 0"):
        Pace(**{"period_s": 60.0, **wrong})  # type: ignore[arg-type]
