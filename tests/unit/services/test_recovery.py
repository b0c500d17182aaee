"""Who is restarted, when, how often, and by whom not."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dolphin.domain.clock import NS_PER_S
from dolphin.services.clock import VirtualClock
from dolphin.services.held import HeldServices
from dolphin.services.home import Home, SystemSettings
from dolphin.services.recovery import Recovery
from dolphin.services.table import BY_NAME, CRITICAL, SENSES, SERVICES, healed, table_of
from dolphin.services.worker import DaemonWorker, InlineWorker

NOW_NS = 1_800_000_000 * NS_PER_S
STATES = ("STOPPED", "STARTING", "RUNNING", "BACKOFF", "STOPPING", "EXITED", "FATAL", "UNKNOWN")


@dataclass(frozen=True)
class Said:
    """What a manager says of a service."""

    name: str
    state: str = "RUNNING"
    group: str = "dolphin_data"
    pid: int = 100
    uptime_s: float = 5.0


@dataclass
class Managing:
    """A process manager in this process; with `gate` it waits before it starts anything."""

    said: dict[str, Said]
    started: list[str] = field(default_factory=list)
    gate: threading.Event | None = None
    refuse: Exception | None = None

    def services(self) -> list[Said]:
        return list(self.said.values())

    def start_service(self, name: str) -> None:
        if self.gate is not None:
            assert self.gate.wait(20)
        if self.refuse is not None:
            raise self.refuse
        self.started.append(name)


def everything(state: str) -> dict[str, Said]:
    return {s.name: Said(s.name, state, s.group) for s in SERVICES}


@pytest.mark.parametrize("state", STATES)
def test_only_a_stopped_critical_service_is_started(state: str) -> None:
    manager = Managing(everything(state))
    recovery = Recovery(manager, VirtualClock(NOW_NS), InlineWorker())
    fired = recovery.check(manager.services())
    expected = list(CRITICAL) if state in ("STOPPED", "EXITED", "FATAL") else []
    assert list(fired) == manager.started == expected
    assert all(BY_NAME[name].group == "dolphin_data" for name in manager.started)


@pytest.mark.parametrize("state", STATES)
def test_of_what_is_on_request_books_and_universe_are_started(state: str) -> None:
    table = table_of(SystemSettings(senses=SENSES))
    manager = Managing({s.name: Said(s.name, state, s.group) for s in table})
    recovery = Recovery(manager, VirtualClock(NOW_NS), InlineWorker(), names=healed(table))
    fired = recovery.check(manager.services())
    stopped = state in ("STOPPED", "EXITED", "FATAL")
    assert list(fired) == (["exf", "acb", "obf", "obf_universe"] if stopped else [])


def test_cooldown_of_ten_seconds_by_service() -> None:
    manager = Managing(everything("FATAL"))
    clock = VirtualClock(NOW_NS)
    recovery = Recovery(manager, clock, InlineWorker())
    assert recovery.check([manager.said["exf"]]) == ("exf",)
    clock.move_to(NOW_NS + 9 * NS_PER_S)
    assert recovery.check([manager.said["exf"]]) == ()
    assert recovery.check([manager.said["acb"]]) == ("acb",)
    clock.move_to(NOW_NS + 10 * NS_PER_S)
    assert recovery.check([manager.said["exf"]]) == ("exf",)
    assert manager.started == ["exf", "acb", "exf"]


def test_clock_set_back_keeps_nothing_down() -> None:
    manager = Managing(everything("EXITED"))
    clock = VirtualClock(NOW_NS)
    recovery = Recovery(manager, clock, InlineWorker())
    recovery.check([manager.said["exf"]])
    clock.move_to(NOW_NS - 3600 * NS_PER_S)
    assert recovery.check([manager.said["exf"]]) == ("exf",)
    assert recovery.check([manager.said["exf"]]) == ()


def test_what_is_never_restarted_is_told_every_five_minutes() -> None:
    clock = VirtualClock(NOW_NS)
    recovery = Recovery(Managing({}), clock, InlineWorker())
    assert recovery.due("scanner")
    clock.move_to(NOW_NS + 299 * NS_PER_S)
    assert not recovery.due("scanner")
    clock.move_to(NOW_NS + 300 * NS_PER_S)
    assert recovery.due("scanner")


def test_ten_concurrent_checks_fire_one_restart() -> None:
    """A hundred rounds of ten real threads that start together."""
    for _ in range(100):
        manager = Managing(everything("FATAL"))
        worker = DaemonWorker("restarts")
        recovery = Recovery(manager, VirtualClock(NOW_NS), worker)
        together = threading.Barrier(10)

        def check(recovery: Recovery = recovery, barrier: threading.Barrier = together) -> None:
            barrier.wait(10)
            recovery.check([Said("exf", "FATAL")])

        threads = [threading.Thread(target=check) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert worker.idle(10)
        assert manager.started == ["exf"]
        assert recovery.attempts == 1


def test_slow_manager_delays_no_check() -> None:
    gate = threading.Event()
    manager = Managing(everything("FATAL"), gate=gate)
    worker = DaemonWorker("restarts")
    recovery = Recovery(manager, VirtualClock(NOW_NS), worker)
    assert recovery.check(manager.services()) == CRITICAL
    assert manager.started == []
    assert not worker.idle(0.0)
    gate.set()
    assert worker.idle(10)
    assert manager.started == list(CRITICAL)


def test_manager_that_never_answers_fills_no_memory() -> None:
    gate = threading.Event()
    manager = Managing(everything("FATAL"), gate=gate)
    clock = VirtualClock(NOW_NS)
    worker = DaemonWorker("restarts", jobs_max=2)
    recovery = Recovery(manager, clock, worker)
    for second in range(0, 1000, 10):
        clock.move_to(NOW_NS + second * NS_PER_S)
        recovery.check(manager.services())
    refused = [o for o in recovery.outcomes() if "has not answered" in o.error]
    assert len(refused) == 100
    gate.set()
    assert worker.idle(10)
    assert len(manager.started) <= 3


def test_service_that_came_up_meanwhile_is_not_touched() -> None:
    manager = Managing(everything("RUNNING"))
    recovery = Recovery(manager, VirtualClock(NOW_NS), InlineWorker())
    assert recovery.check([Said("exf", "FATAL")]) == ("exf",)
    assert manager.started == []
    assert recovery.outcomes() == []


def test_refusal_is_an_outcome_and_no_exception() -> None:
    manager = Managing(everything("FATAL"), refuse=OSError("no such socket"))
    recovery = Recovery(manager, VirtualClock(NOW_NS), InlineWorker())
    recovery.check([Said("exf", "FATAL")])
    (outcome,) = recovery.outcomes()
    assert (outcome.name, outcome.before, outcome.error) == ("exf", "FATAL", "OSError: no such socket")
    assert recovery.outcomes() == []


def test_held_service_stays_stopped_until_it_is_released(tmp_path: Path) -> None:
    held = HeldServices(Home(tmp_path))
    held.hold("exf", by="anna", now_ns=NOW_NS)
    manager = Managing(everything("STOPPED"))
    recovery = Recovery(manager, VirtualClock(NOW_NS), InlineWorker(), held=held.read)
    assert recovery.check(manager.services()) == ("acb",)
    assert held.read()["exf"].by == "anna"
    held.release("exf")
    assert recovery.check(manager.services()) == ("exf",)


def test_holds_are_added_released_one_by_one_and_all(tmp_path: Path) -> None:
    held = HeldServices(Home(tmp_path))
    assert held.read() == {}
    held.release()
    assert not held.path.exists()
    held.hold("exf", by="anna", now_ns=1)
    held.hold("acb", "watchdog", by="ben", now_ns=2)
    held.release("acb")
    assert sorted(HeldServices(Home(tmp_path)).read()) == ["exf", "watchdog"]
    held.release()
    assert held.read() == {}


def test_damaged_list_of_holds_holds_nobody(tmp_path: Path) -> None:
    held = HeldServices(Home(tmp_path))
    held.hold("exf", by="anna", now_ns=1)
    held.path.write_text("{damaged")
    assert held.read() == {}


def test_worker_goes_on_after_a_job_that_raised(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()
    worker = DaemonWorker("tests")

    def fail() -> None:
        raise ValueError("planted")

    worker.submit(fail)
    worker.submit(done.set)
    assert done.wait(10)
    assert "planted" in caplog.text
