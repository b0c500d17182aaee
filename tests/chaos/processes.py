"""Chaos with real processes: a real grid, supervisord, every service, and kill -9.

Each scenario brings a whole system up in a folder of its own at ten times the speed, hurts it, lets it
settle, and is judged by the rules of the simulation. Everything is bounded in time and gone at the end.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import psutil

from dolphin.host.finish import JOURNAL_FILE
from dolphin.host.session import Session
from dolphin.journal.fenced import terms_of
from dolphin.journal.store import Journal
from dolphin.market.scan_store import ScanStore
from dolphin.services.feeds import identity_of, open_market
from dolphin.services.home import Home
from dolphin.services.supervision import SupervisionError, Supervisor
from dolphin.services.system import members_of
from dolphin.services.table import SERVICES

from .judge import judge

SPEED = 10
#: A killed critical service runs again within this, seconds of the machine.
RECOVERY_S = 30.0
SUPERVISED = tuple(spec.name for spec in SERVICES if spec.autorestart)


@dataclass
class Result:
    """What a scenario came to; recoveries are seconds from a kill to RUNNING by service."""

    broken: list[str]
    told: str = ""
    recoveries: dict[str, float] = field(default_factory=dict)


def free_port(n: int = 1) -> int:
    """The first of `n` ports in a row that are free now."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1]
        with contextlib.ExitStack() as stack:
            try:
                for k in range(n):
                    each = stack.enter_context(socket.socket())
                    each.bind(("127.0.0.1", first + k))
            except OSError:
                continue
            return int(first)
    raise OSError("no free ports in a row")


def dolphin(*words: str, timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
    """One command."""
    return subprocess.run(
        [sys.executable, "-m", "dolphin", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


class System:
    """A running system and what a test may see of it."""

    def __init__(self, root: Path, members: int = 1) -> None:
        self.home = Home(root)
        self.members = members
        self.supervisor = Supervisor(self.home)
        self.broken: list[str] = []
        self.recoveries: dict[str, float] = {}

    def up(self) -> None:
        port = str(free_port(self.members))
        done = dolphin(
            "up", "--all", "--home", str(self.home.root), "--speed", str(SPEED),
            "--members", str(self.members),
            "--grid-port", port, "--metrics-port", "0",
        )  # fmt: skip
        if done.returncode != 0:
            raise AssertionError(f"the system did not start: {done.stderr}{done.stdout}")
        self.wait(lambda: self.bars() >= 3, 60.0, "the first decisions")

    # --- looking

    def wait(self, ready: Callable[[], bool], timeout_s: float, what: str) -> float:
        """Seconds until it is so; what did not come in time is broken."""
        started, pause = monotonic(), threading.Event()
        while monotonic() - started < timeout_s:
            with contextlib.suppress(SupervisionError):
                if ready():
                    return monotonic() - started
            pause.wait(0.05)
        self.broken.append(f"{what}: not within {timeout_s:g} s")
        return timeout_s

    def pid(self, name: str) -> int:
        return self.supervisor.service(name).pid

    def state(self, name: str) -> str:
        return self.supervisor.service(name).state

    def journal(self) -> Journal | None:
        path = self.home.trader / JOURNAL_FILE
        with contextlib.suppress(Exception):
            return Journal.read_only(path) if path.exists() else None
        return None

    def bars(self) -> int:
        journal = self.journal()
        if journal is None:
            return 0
        with contextlib.closing(journal):
            return journal.last_bar() + 1

    def leader(self) -> str:
        """Name of the process that began the newest term."""
        journal = self.journal()
        if journal is None:
            return ""
        with contextlib.closing(journal):
            terms = terms_of(journal)
        return terms[-1].owner.partition(":")[0] if terms else ""

    def fences(self) -> int:
        journal = self.journal()
        if journal is None:
            return 0
        with contextlib.closing(journal):
            return len(terms_of(journal))

    def goes_on(self, what: str, timeout_s: float = 60.0) -> None:
        """Further bars are decided."""
        before = self.bars()
        self.wait(lambda: self.bars() >= before + 2, timeout_s, f"decisions after {what}")

    # --- hurting

    def kill(self, name: str) -> int:
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_and_recover(self, name: str) -> None:
        """Kill a supervised service and see it run again."""
        old = self.kill(name)
        taken = self.wait(
            lambda: self.state(name) == "RUNNING" and self.pid(name) not in (0, old), RECOVERY_S,
            f"{name} running again",
        )  # fmt: skip
        self.recoveries[name] = taken

    def take_over(self) -> None:
        """Kill the leader; the other one leads, nobody starts the dead one, then the operator does."""
        leader, fences = self.leader(), self.fences()
        self.kill(leader)
        self.recoveries[f"{leader} -> standby"] = self.wait(
            lambda: self.fences() > fences and self.leader() != leader, 60.0, f"a standby after {leader}"
        )
        self.goes_on(f"the death of {leader}")
        if self.state(leader) not in ("EXITED", "FATAL"):
            self.broken.append(f"{leader} was started by somebody: {self.state(leader)}")
        self.supervisor.start_service(leader)
        self.wait(lambda: self.state(leader) == "RUNNING", 60.0, f"{leader} started by hand")

    # --- the end

    def settle(self) -> None:
        """No further scans; everything that is stored must be decided then."""
        self.supervisor.stop_service("scanner")
        newest = max(scan.timestamp_ns for scan in ScanStore(self.home.market).scans())

        def decided() -> bool:
            journal = self.journal()
            if journal is None:
                return False
            with contextlib.closing(journal):
                return any(d.timestamp_ns == newest for d in journal.decisions(journal.last_bar()))

        self.wait(decided, 60.0, "the last stored scan decided")

    def judged(self) -> list[str]:
        """Bring it down in order and judge what it left."""
        done = dolphin("down", "--home", str(self.home.root))
        if done.returncode != 0:
            self.broken.append(f"down: {done.stderr.strip()}")
        settings = self.home.load()
        with contextlib.closing(open_market(settings)) as feed:
            identity, symbols = identity_of(settings, feed), feed.symbols
        fresh: Session = identity.session(symbols)
        return [
            *self.broken,
            *judge(self.home.trader / JOURNAL_FILE, self.home.market, identity.params, fresh),
        ]

    def bury(self) -> None:
        """Whatever is left, is killed."""
        with contextlib.suppress(Exception):
            dolphin("down", "--home", str(self.home.root), timeout_s=90.0)
        for process in psutil.process_iter(["cmdline"]):
            if str(self.home.root) in " ".join(process.info["cmdline"] or []):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        with contextlib.suppress(Exception):
            for member in members_of(self.home, self.home.load()):
                member.kill()


def each_service(system: System, chance: random.Random) -> str:
    """kill -9 of every service in turn, the traders last."""
    for name in chance.sample(SUPERVISED, len(SUPERVISED)):
        system.kill_and_recover(name)
    system.goes_on("kills of every service")
    system.take_over()
    system.take_over()
    return ", ".join(f"{name} {s:.1f} s" for name, s in system.recoveries.items())


def member(system: System, chance: random.Random) -> str:
    """kill -9 of the only member: the trader goes on from the store; an empty one is filled again."""
    (only,) = members_of(system.home, system.home.load())
    only.kill()
    system.goes_on("the death of the grid")
    done = dolphin("up", "--home", str(system.home.root))
    if done.returncode != 0:
        system.broken.append(f"up: {done.stderr.strip()}")
    system.goes_on("a new grid")
    system.take_over()
    return f"{system.fences()} terms, {system.bars()} bars"


def cluster(system: System, chance: random.Random) -> str:
    """kill -9 of one member of three, then of all of them."""
    three = members_of(system.home, system.home.load())
    chance.choice(three).kill()
    system.goes_on("the death of one member")
    for each in three:
        each.kill()
    system.goes_on("the death of all members")
    done = dolphin("up", "--home", str(system.home.root))
    if done.returncode != 0:
        system.broken.append(f"up: {done.stderr.strip()}")
    system.goes_on("a new cluster")
    return f"{system.fences()} terms, {system.bars()} bars"


def pause(system: System, chance: random.Random) -> str:
    """SIGSTOP of the leader for 20 s: it wakes up to a newer term, or to its own."""
    leader = system.leader()
    pid = system.pid(leader)
    os.kill(pid, signal.SIGSTOP)
    threading.Event().wait(20.0)
    os.kill(pid, signal.SIGCONT)
    system.goes_on("a leader that was stopped for 20 s")
    system.take_over()
    return f"led by {leader}, then {system.leader()}, {system.fences()} terms"


def kills_and_full_disk(system: System, chance: random.Random) -> str:
    """The leader killed at random instants, and a journal that cannot grow for a while."""
    for _ in range(2):
        threading.Event().wait(chance.uniform(0.5, 3.0))
        system.take_over()
    process = psutil.Process(system.pid(system.leader()))
    journal = system.home.trader / JOURNAL_FILE
    size = max((p.stat().st_size for p in journal.parent.glob(f"{JOURNAL_FILE}*")), default=0)
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    process.rlimit(psutil.RLIMIT_FSIZE, (max(4096, size // 4), resource.RLIM_INFINITY))
    threading.Event().wait(5.0)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.rlimit(psutil.RLIMIT_FSIZE, unlimited)
    system.goes_on("a full disk")
    return f"{system.fences()} terms, {system.bars()} bars"


SCENARIOS: dict[str, tuple[int, Callable[[System, random.Random], str]]] = {
    "every service": (1, each_service),
    "the only member": (1, member),
    "all members of three": (3, cluster),
    "a leader stopped for 20 s": (1, pause),
    "random kills, full disk": (1, kills_and_full_disk),
}


@contextlib.contextmanager
def system_in(root: Path, members: int) -> Iterator[System]:
    """A running system, gone at the end."""
    system = System(root, members)
    try:
        system.up()
        yield system
    finally:
        system.bury()


def run_scenario(name: str, seed: int) -> Result:
    """Run one scenario and judge it."""
    members, hurt = SCENARIOS[name]
    with (
        tempfile.TemporaryDirectory(prefix="dolphin-chaos-") as folder,
        system_in(Path(folder) / "home", members) as system,
    ):
        told = hurt(system, random.Random(seed))
        system.settle()
        return Result(system.judged(), told, system.recoveries)
