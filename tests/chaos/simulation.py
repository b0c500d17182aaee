"""A system of services on one virtual clock, and a seed that hurts it.

The services are the table's own, driven through `Hosted.step`; each is a process with a client of one
in-process grid. Only the scanner is scripted: it writes seeded scans, which trade often, into the real store.
A kill -9 drops the objects and nothing else; the client's locks go when its session has run out.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "sim"))


from scan_market import scans as seeded_scans

from dolphin.domain.clock import NS_PER_S, day_start_ns, iso_from_ns
from dolphin.domain.scan import Scan
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.payloads import ForewarnerPayload
from dolphin.grid.port import GridError
from dolphin.grid.topics import FOREWARNER, SAFETY, SCAN_LOG
from dolphin.grid.typed import TypedGrid
from dolphin.journal.fenced import FencedJournal
from dolphin.market.scan_store import ScanStore
from dolphin.market.synthetic import SyntheticFeed
from dolphin.services.clock import VirtualClock
from dolphin.services.home import Home, SystemSettings
from dolphin.services.kill_switch import KillSwitch
from dolphin.services.service import Context, Hosted
from dolphin.services.supervision import ServiceState
from dolphin.services.table import BY_NAME
from dolphin.services.trader import Trader

N_BARS = 300
INTERVAL_S = 5
#: Before the first scan, so that every organ has spoken; crosses midnight UTC after 100 bars.
LEAD_S = 60
T0_NS = day_start_ns("2026-01-06") - 100 * INTERVAL_S * NS_PER_S
SESSION_S = 15
#: supervisord starts what it restarts again after this; an operator looks after a trader in this time.
RESPAWN_S, OPERATOR_S = 2, 45
SETTLE_S = 180
SETTINGS = SystemSettings(assets=5, vol_threshold=1e-5)
SYMBOLS = SyntheticFeed(seed=SETTINGS.seed, days=None, assets=5).symbols
NAMES = ("scan_bridge", "exf", "acb", "watchdog", "meta_health", "signal_bridge", "trader", "trader_standby")


def market_of(seed: int) -> list[Scan]:
    """The seed's scans."""
    return seeded_scans(
        seed, N_BARS, symbols=SYMBOLS, start_ns=T0_NS, interval_ns=INTERVAL_S * NS_PER_S, step=0.002
    )


class Killed(BaseException):
    """kill -9 at this very place."""


@dataclass
class Process:
    """One simulated process; hosted is None while it is dead."""

    name: str
    peer: InProcessGrid | None = None
    hosted: Hosted | None = None
    paused_until: int = -1
    session_ends: int | None = None
    respawn_at: int | None = None
    restarts: int = 0

    @property
    def alive(self) -> bool:
        return self.hosted is not None


class FaultyBridge:
    """The grid as a bridge sees it, which doubles, swaps and drops what it publishes."""

    def __init__(self, grid: InProcessGrid, chance: random.Random, active: Callable[[], str]) -> None:
        self._grid, self._chance, self._active = grid, chance, active
        self._held: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def log(self, name: str, capacity: int | None = None) -> Any:
        log = self._grid.log(name, capacity)
        return _FaultyLog(log, self) if name == SCAN_LOG else log

    def append(self, log: Any, value: bytes) -> int:
        kind = self._active()
        if kind == "swap" and self._held is None and self._chance.random() < 0.5:
            self._held = value
            return log.tail()
        held, self._held = self._held, None
        if kind == "drop" and self._chance.random() < 0.3:
            return log.tail()
        place = log.append(value)
        if held is not None:
            place = log.append(held)
        if kind == "double" and self._chance.random() < 0.5:
            place = log.append(value)
        return int(place)


class _FaultyLog:
    def __init__(self, log: Any, bridge: FaultyBridge) -> None:
        self._log, self._bridge = log, bridge

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, value: bytes) -> int:
        return self._bridge.append(self._log, value)


class Manager:
    """supervisord of the simulation, as the health service sees it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def services(self) -> list[ServiceState]:
        return [
            ServiceState(
                name=p.name, group=BY_NAME[p.name].group, state="RUNNING" if p.alive else "EXITED",
                pid=1 if p.alive else 0, uptime_s=1.0, exit_status=0, description="",
            )
            for p in self._world.processes.values()
        ]  # fmt: skip

    def start_service(self, name: str, *args: object, **options: object) -> bool:
        process = self._world.processes[name]
        if process.alive:
            return False
        self._world.counts["started_by_health", name] += 1
        self._world.start(process)
        return True


@dataclass
class Fault:
    """One thing that goes wrong, at a second of the run."""

    at_s: int
    kind: str
    what: str = ""
    for_s: int = 0

    def told(self) -> str:
        return f"{self.at_s:5d} s  {self.kind} {self.what}{f' for {self.for_s} s' if self.for_s else ''}"


#: kill points inside a trader's step: what raises, and when it does.
POINTS: dict[str, tuple[type, str]] = {
    "before the transaction": (Trader, "_make_durable"),
    "inside the transaction": (FencedJournal, "add_decision"),
    "after the commit": (Trader, "_ship"),
    "in the middle of publishing": (Trader, "_publish"),
    "in recovery": (Trader, "recover"),
}


def faults_of(seed: int) -> list[Fault]:
    """What the seed does to the system; every third seed leaves what the organs say alone."""
    chance = random.Random(seed * 7919 + 1)
    end = LEAD_S + N_BARS * INTERVAL_S
    when = lambda: chance.randrange(LEAD_S + 20, end - 60)  # noqa: E731
    quiet = seed % 3 == 0
    found: list[Fault] = []
    if quiet:
        # Kills that are made good before a posture ages, and faults between bridge and trader.
        found += [Fault(when(), "kill", name) for name in chance.sample(NAMES, 3)]
        found += [Fault(when(), "kill in a step", chance.choice(list(POINTS))) for _ in range(2)]
        found += [Fault(when(), "log", ("double", "swap", "drop")[seed // 3 % 3], chance.randrange(20, 90))]
        found += [Fault(when(), "drop", "signal_bridge", chance.randrange(2, 20))]
        return sorted(found, key=lambda f: f.at_s)
    found += [Fault(when(), "kill", name) for name in chance.sample(NAMES, chance.randrange(2, 6))]
    found += [
        Fault(when(), "kill in a step", chance.choice(list(POINTS))) for _ in range(chance.randrange(3))
    ]
    menu = [
        lambda: Fault(when(), "pause", "trader", 20),
        lambda: Fault(when(), "pause", chance.choice(NAMES), chance.randrange(3, 60)),
        lambda: Fault(when(), "drop", chance.choice(NAMES), chance.randrange(1, 90)),
        lambda: Fault(when(), "lose", "grid"),
        lambda: Fault(when(), "disk full", "journal", chance.randrange(5, 40)),
        lambda: Fault(when(), "clock", str(chance.choice((-3600, -60, -1, 1, 60, 3600)))),
        lambda: Fault(when(), "log", chance.choice(("double", "swap", "drop")), chance.randrange(20, 120)),
        lambda: Fault(when(), "switch", chance.choice(("HALT", "FLATTEN")), chance.randrange(10, 120)),
        lambda: Fault(when(), "forewarner", chance.choice(("ORANGE", "RED")), chance.randrange(30, 120)),
        lambda: Fault(when(), "garbage", "safety"),
        lambda: Fault(when(), "silence", "scanner", chance.randrange(10, 90)),
        lambda: Fault(when(), "second leader", "trader"),
    ]
    found += [chance.choice(menu)() for _ in range(chance.randrange(2, 6))]
    return sorted(found, key=lambda f: f.at_s)


@dataclass
class World:
    """One run. `trace` gathers what happened, for people and for the proof that a seed repeats itself."""

    root: Path
    seed: int
    faults: list[Fault]
    trace: list[str] = field(default_factory=list)
    counts: Counter[Any] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.home = Home(self.root)
        self.market = market_of(self.seed)
        self.second = -LEAD_S
        self.offset_ns = 0
        self.clock = VirtualClock(T0_NS - LEAD_S * NS_PER_S)
        self.memory = InProcessGrid("inline")
        self.door = TypedGrid(self.memory.peer())
        self.store = ScanStore(self.home.market)
        self.chance = random.Random(self.seed)
        self.processes = {name: Process(name) for name in NAMES}
        self.timed: list[tuple[int, int, Callable[[], None]]] = []
        self.written = 0
        self.silent_until = -1
        self.log_fault, self.log_until = "", -1
        self.patch: tuple[type, str, Any] | None = None
        self.full_until = -1
        self.halted_ns: list[tuple[int, int]] = []
        self.mtime_ns = T0_NS

    # --- time

    @property
    def true_ns(self) -> int:
        return T0_NS + self.second * NS_PER_S

    def tell(self, text: str) -> None:
        self.trace.append(f"{self.second + LEAD_S:5d} s  {text}")

    def later(self, seconds: int, action: Callable[[], None]) -> None:
        self.timed.append((self.second + seconds, len(self.timed), action))

    # --- processes

    def start(self, process: Process) -> None:
        peer = self.memory.peer()
        grid: Any = peer
        if process.name == "scan_bridge":
            grid = FaultyBridge(peer, self.chance, self._log_fault_now)
        context = Context(
            process.name, self.home, SETTINGS, self.clock, TypedGrid(grid),
            lambda alert: self.counts.update([("alert", alert.kind)]), options={"manager": Manager(self)},
        )  # fmt: skip
        hosted = Hosted(BY_NAME[process.name].make(context), context)
        process.peer, process.hosted, process.respawn_at = peer, hosted, None
        process.paused_until, process.session_ends = -1, None
        try:
            hosted.start()
        except (Killed, GridError) as error:
            self._die(process, f"at its start ({type(error).__name__})")
            return
        self.tell(f"{process.name} starts")

    def _log_fault_now(self) -> str:
        return self.log_fault if self.second < self.log_until else ""

    def _die(self, process: Process, how: str) -> None:
        self.tell(f"{process.name} is killed {how}")
        peer = process.peer
        process.hosted = None
        process.restarts += 1
        if peer is not None:
            peer.drop_connection()
            self.later(SESSION_S, peer.expire_session)
        spec = BY_NAME[process.name]
        process.respawn_at = self.second + (RESPAWN_S if spec.autorestart else OPERATOR_S)

    def kill(self, name: str, how: str = "-9") -> None:
        process = self.processes[name]
        if not process.alive:
            return
        self._close_files(process)
        self._die(process, how)

    @staticmethod
    def _close_files(process: Process) -> None:
        """What the kernel does for a dead process: its files are closed, what was not committed is gone."""
        trader = getattr(process.hosted.service, "_trader", None) if process.hosted else None
        if trader is not None:
            journal = trader.journal
            with contextlib.suppress(Exception):
                journal._db.close()
            if journal._lock is not None:
                os.close(journal._lock)
                journal._lock = None

    def step(self, process: Process) -> None:
        if process.hosted is None or self.second < process.paused_until:
            return
        try:
            process.hosted.step()
        except Killed:
            self._unpatch()
            self._close_files(process)
            self._die(process, "in the middle of a step")

    # --- faults

    def apply(self, fault: Fault) -> None:
        self.tell(f"FAULT {fault.kind} {fault.what} {fault.for_s or ''}".rstrip())
        {
            "kill": self._kill, "kill in a step": self._kill_in_step, "pause": self._pause,
            "drop": self._drop, "lose": self._lose, "disk full": self._disk_full, "clock": self._clock,
            "log": self._log, "switch": self._switch, "forewarner": self._forewarner,
            "garbage": self._garbage, "silence": self._silence, "second leader": self._second,
        }[fault.kind](fault)  # fmt: skip

    def _kill(self, fault: Fault) -> None:
        self.kill(fault.what)

    def _kill_in_step(self, fault: Fault) -> None:
        if self.patch is None:
            owner, name = POINTS[fault.what]
            original = getattr(owner, name)

            def die(*args: object, **options: object) -> None:
                raise Killed

            self.patch = (owner, name, original)
            setattr(owner, name, die)
            self.later(60, self._unpatch)

    def _unpatch(self) -> None:
        if self.patch is not None:
            owner, name, original = self.patch
            setattr(owner, name, original)
            self.patch = None

    def _pause(self, fault: Fault) -> None:
        process = self.processes[fault.what]
        if process.alive:
            process.paused_until = self.second + fault.for_s
            if fault.for_s >= SESSION_S and process.peer is not None:
                self.later(SESSION_S, process.peer.expire_session)

    def _drop(self, fault: Fault) -> None:
        peer = self.processes[fault.what].peer
        if peer is not None and self.processes[fault.what].alive:
            peer.drop_connection()
            self.later(fault.for_s, lambda: self._restore(fault.what, peer))
            if fault.for_s >= SESSION_S:
                self.later(SESSION_S, peer.expire_session)

    def _restore(self, name: str, peer: InProcessGrid) -> None:
        if self.processes[name].peer is peer and self.processes[name].alive:
            peer.restore_connection()

    def _lose(self, fault: Fault) -> None:
        self.memory.lose_memory()

    def _disk_full(self, fault: Fault) -> None:
        self.full_until = self.second + fault.for_s

    def _clock(self, fault: Fault) -> None:
        self.offset_ns += int(fault.what) * NS_PER_S

    def _log(self, fault: Fault) -> None:
        self.log_fault, self.log_until = fault.what, self.second + fault.for_s

    def _switch(self, fault: Fault) -> None:
        switch = KillSwitch(self.home.kill_switch)
        switch.engage(fault.what, by="chaos", reason="drill", now_ns=self.clock.now_ns())  # type: ignore[arg-type]
        self.halted_ns.append((self.true_ns, self.true_ns + fault.for_s * NS_PER_S))
        self.later(fault.for_s, lambda: [switch.lift(), None][1])

    def _forewarner(self, fault: Fault) -> None:
        def put(gate: str) -> None:
            probability = {"OK": 0.05, "ORANGE": 0.15, "RED": 0.5}[gate]
            with contextlib.suppress(GridError):
                self.door.put(
                    FOREWARNER,
                    ForewarnerPayload(
                        status="GREEN", gate=gate, catastrophic_prob=probability, envelope_score=1.0,
                        source="REAL_MODEL", timestamp=iso_from_ns(self.clock.now_ns()),
                    ),
                )  # fmt: skip

        put(fault.what)
        self.later(fault.for_s, lambda: put("OK"))

    def _garbage(self, fault: Fault) -> None:
        safety = self.door.grid.map(SAFETY.map_name())
        safety.put("latest", b'{"posture":"WIDE OPEN","Rm":9}')
        self.door.grid.map("DOLPHIN_FEATURES").put("acb_boost", b"\xff\x00")

    def _silence(self, fault: Fault) -> None:
        self.silent_until = self.second + fault.for_s

    def _second(self, fault: Fault) -> None:
        """The leader's lock goes to the other while it works on: two traders at once."""
        for name in ("trader", "trader_standby"):
            process = self.processes[name]
            if process.alive and process.peer is not None:
                process.peer.expire_session()

    # --- the run

    def scan(self) -> None:
        """The scripted scanner: what is due is written; while it is silent it makes up for it later."""
        if self.second < self.silent_until:
            return
        while self.written < len(self.market) and self.market[self.written].timestamp_ns <= self.true_ns:
            scan = self.market[self.written]
            path = self.store.write(scan)
            self.mtime_ns += NS_PER_S
            os.utime(path, ns=(self.mtime_ns, self.mtime_ns))
            self.written += 1

    def fill_disk(self) -> None:
        """Whether the journal's pages may grow: SQLite's own limit, so its own error."""
        for name in ("trader", "trader_standby"):
            hosted = self.processes[name].hosted
            trader = None if hosted is None else getattr(hosted.service, "_trader", None)
            if trader is None:
                continue
            db = trader.journal._db
            with contextlib.suppress(Exception):
                if self.second < self.full_until:
                    pages = db.execute("PRAGMA page_count").fetchone()[0]
                    db.execute(f"PRAGMA max_page_count={pages}")
                else:
                    db.execute("PRAGMA max_page_count=1073741823")

    def run(self) -> World:
        """From a minute before the first scan until everything has settled."""
        for process in self.processes.values():
            self.start(process)
        queue = list(self.faults)
        end = N_BARS * INTERVAL_S + SETTLE_S
        try:
            while self.second < end:
                self._second_passes(queue)
                self.second += 1
        finally:
            self._unpatch()
        return self

    def _second_passes(self, queue: list[Fault]) -> None:
        self.clock.move_to(self.true_ns + self.offset_ns)
        while queue and queue[0].at_s <= self.second + LEAD_S:
            self.apply(queue.pop(0))
        due = sorted(t for t in self.timed if t[0] <= self.second)
        self.timed = [t for t in self.timed if t[0] > self.second]
        for _, _, action in due:
            action()
        self.clock.move_to(self.true_ns + self.offset_ns)
        for process in self.processes.values():
            if process.respawn_at is not None and self.second >= process.respawn_at and not process.alive:
                self.start(process)
        self.fill_disk()
        self.scan()
        order = list(self.processes.values())
        # The bridge first or last, as it comes; a dead bridge brings nothing.
        self.chance.shuffle(order)
        for process in order:
            self.step(process)
        # What the scan woke is done in the same second.
        for process in order:
            if process.hosted is not None and process.hosted.context.wake.is_set():
                self.step(process)

    def close(self) -> None:
        """Give everything back."""
        for process in self.processes.values():
            if process.hosted is not None:
                self._close_files(process)
            if process.peer is not None:
                process.peer.close()
        self.memory.close()

    def digest(self) -> str:
        """Of the trace: the same seed is the same run."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


@contextlib.contextmanager
def run(root: Path, seed: int, faults: list[Fault] | None = None) -> Iterator[World]:
    """A run of the seed, with its own faults unless others are given."""
    world = World(root, seed, faults_of(seed) if faults is None else faults)
    try:
        yield world.run()
    finally:
        world.close()
