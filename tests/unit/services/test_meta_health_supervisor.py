"""The health service beside a real supervisord: what is stopped is started, what runs is left alone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dolphin.domain.clock import NS_PER_S
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.typed import TypedGrid
from dolphin.services.clock import VirtualClock
from dolphin.services.held import HeldServices
from dolphin.services.home import Home, SystemSettings
from dolphin.services.meta_health import MetaHealthService
from dolphin.services.service import Alert, Context
from dolphin.services.supervision import StoppingError, Supervisor
from dolphin.services.table import BY_NAME
from dolphin.services.worker import DaemonWorker

#: Ends at once while a file `broken` lies beside it, else runs until it is told to stop, longer with `deaf`.
SCRIPT = """
import pathlib, signal, sys
if pathlib.Path(__file__).with_name("broken").exists():
    sys.exit(3)
deaf = pathlib.Path(__file__).with_name("deaf")
signal.signal(signal.SIGTERM, lambda *_: None if deaf.exists() else sys.exit(0))
while True:
    signal.pause()
"""
PATIENCE_S = 30.0


@dataclass
class Machine:
    home: Home
    supervisor: Supervisor
    clock: VirtualClock
    service: MetaHealthService
    worker: DaemonWorker
    alerts: list[Alert]

    def check(self) -> None:
        """Two checks: on a busy machine the first may go on with the manager's answer before."""
        for _ in range(2):
            self.clock.move_to(self.clock.now_ns() + 10 * NS_PER_S)
            self.service.tick()
            assert self.worker.idle(PATIENCE_S)

    def states(self) -> dict[str, str]:
        return {s.name: s.state for s in self.supervisor.services()}

    def pids(self) -> dict[str, int]:
        return {s.name: s.pid for s in self.supervisor.services()}

    def wait(self, *names: str, state: str = "RUNNING") -> None:
        give_up, pause = time.monotonic() + PATIENCE_S, threading.Event()
        while any(self.states()[name] != state for name in names):
            assert time.monotonic() < give_up, self.states()
            pause.wait(0.05)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    script = tmp_path / "service.py"
    script.write_text(SCRIPT)
    table = [
        replace(BY_NAME[name], autostart=True, autorestart=False, start_seconds=1)
        for name in ("exf", "acb", "scanner", "trader")
    ]
    home = Home(tmp_path / "home")
    home.root.mkdir()
    supervisor = Supervisor(home, services=table, launch=(sys.executable, str(script)), units=())
    supervisor.start()
    try:
        clock = VirtualClock(1_800_000_000 * NS_PER_S)
        alerts: list[Alert] = []
        context = Context(
            "meta_health", home, SystemSettings(), clock, TypedGrid(InProcessGrid()), alerts.append
        )
        worker = DaemonWorker("tests")
        service = MetaHealthService(context, manager=supervisor, probe=lambda ports: True, worker=worker)
        service.start()
        made = Machine(home, supervisor, clock, service, worker, alerts)
        made.wait("exf", "acb", "scanner", "trader")
        yield made
    finally:
        supervisor.shutdown()


def test_an_ordered_end_of_a_real_supervisor_alarms_nobody(machine: Machine) -> None:
    """It answers until its last service has ended, and says that it stops."""
    machine.check()
    (machine.home.root.parent / "deaf").touch()
    pids = machine.pids()
    machine.supervisor._call("shutdown")
    with pytest.raises(StoppingError, match="the manager is stopping"):
        machine.supervisor.services()
    machine.check()
    machine.check()
    assert machine.alerts == []
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    give_up, pause = time.monotonic() + PATIENCE_S, threading.Event()
    while machine.supervisor.pid is not None:
        assert time.monotonic() < give_up
        pause.wait(0.05)


def test_life_beside_a_real_supervisor(machine: Machine) -> None:
    """One story, for each chapter needs the one before: well, stopped, killed, given up, held, gone."""
    before = machine.pids()
    for _ in range(3):
        machine.check()
    assert machine.pids() == before
    assert machine.service.latest is not None
    assert machine.service.latest.m1_data_infra == 1.0

    # Stopped, by whomever: the critical one comes back, the others are shown.
    for name in ("exf", "scanner", "trader"):
        machine.supervisor.stop_service(name)
    machine.check()
    machine.wait("exf")
    machine.check()
    assert machine.states() == {"exf": "RUNNING", "acb": "RUNNING", "scanner": "STOPPED", "trader": "STOPPED"}
    assert [a.text for a in machine.alerts if a.kind == "restart"] == [
        "exf was STOPPED and was started again"
    ]
    assert machine.service.latest.m1_trader == 0.0

    # Killed, where the manager itself does not restart it.
    os.kill(machine.pids()["acb"], signal.SIGKILL)
    machine.wait("acb", state="EXITED")
    machine.check()
    machine.wait("acb")
    assert machine.pids()["acb"] != before["acb"]

    # Given up: tried again at every check, until what ails it is mended.
    broken = machine.home.root.parent / "broken"
    broken.touch()
    machine.supervisor.stop_service("exf")
    machine.check()
    machine.wait("exf", state="FATAL")
    broken.unlink()
    machine.check()
    machine.wait("exf")

    # Held by the operator.
    HeldServices(machine.home).hold("exf", by="anna", now_ns=0)
    machine.supervisor.stop_service("exf")
    machine.check()
    assert machine.states()["exf"] == "STOPPED"
    HeldServices(machine.home).release("exf")
    machine.check()
    machine.wait("exf")

    # The manager gone: a value.
    machine.supervisor.shutdown()
    machine.check()
    assert machine.service.latest.m1_data_infra == 0.0
    assert "no process manager answers" in machine.service.health()[1]
