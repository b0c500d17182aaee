"""A system of services on one virtual clock.

The services are the table's own, driven through `Hosted.step` as their processes drive them; each has its own
client of one in-process grid, its files, and its place where it may be killed. Only the scanner is scripted:
it writes seeded scans, which trade often, into the real store. `true_ns` is the time of the world and of its
market; the clock of the services may be set off from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1] / "sim"))

from scan_market import scans as seeded_scans

from dolphin.domain.clock import NS_PER_S, day_start_ns
from dolphin.domain.codes import HIBERNATE, POSTURES, TURTLE
from dolphin.domain.scan import Scan
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.payloads import PayloadRejected
from dolphin.grid.topics import SAFETY, SAFETY_REFERENCE
from dolphin.grid.typed import TypedGrid
from dolphin.market.scan_store import ScanStore
from dolphin.market.synthetic import SyntheticFeed
from dolphin.services.clock import VirtualClock
from dolphin.services.durable import DurableState
from dolphin.services.home import FRESH_MAX_NS, Home, SystemSettings
from dolphin.services.service import Context, Service
from dolphin.services.supervision import ServiceState
from dolphin.services.table import BY_NAME
from dolphin.services.watchdog import WatchdogDurable

from .disk import Disk, installed
from .process import SESSION_NS, Process, restarted_by_manager

#: A step that was stopped between its decision and its commit knew the world before.
FROZEN = "it was stopped in between"
INTERVAL_NS = 5 * NS_PER_S
N_BARS = 200
#: Before the first scan, so that every organ has spoken.
LEAD_NS = 40 * NS_PER_S
#: After the last scan with a fault about: everything is made good in this time, and scans go on.
SETTLE_BARS = 30
#: A day turns after so many bars.
BARS_TO_MIDNIGHT = 80
T0_NS = day_start_ns("2026-01-06") - BARS_TO_MIDNIGHT * INTERVAL_NS
#: The process manager starts a crashed process after this; an operator looks after a trader in this time.
RESPAWN_NS = 2 * NS_PER_S
OPERATOR_NS = (25 * NS_PER_S, 80 * NS_PER_S)
SETTINGS = SystemSettings(
    assets=5, vol_threshold=1e-5, params={"lookback": 20, "max_hold_bars": 9}, grid_members=("127.0.0.1:1",)
)
SYMBOLS = SyntheticFeed(seed=SETTINGS.seed, days=None, assets=5).symbols
NAMES = (
    "scanner", "scan_bridge", "exf", "acb", "watchdog", "meta_health", "signal_bridge", "trader",
    "trader_standby",
)  # fmt: skip


def market_of(seed: int) -> list[Scan]:
    """The seed's scans."""
    n_bars = N_BARS + SETTLE_BARS
    return seeded_scans(
        seed, n_bars, symbols=SYMBOLS, start_ns=T0_NS, interval_ns=INTERVAL_NS, step=0.0015, vel_div_sd=0.04
    )


class ScriptedScanner:
    """Writes the scans that are due; after a time away it makes up for them."""

    period_s = 1.0
    phase = "running"

    def __init__(self, context: Context) -> None:
        self.world: World = context.options["world"]  # type: ignore[assignment]
        self.store = ScanStore(context.home.market)

    def start(self) -> None:
        """Nothing to restore: what is written lies in the store."""

    def stop(self) -> None:
        """Nothing to keep."""

    def health(self) -> tuple[bool, str]:
        """See `Service.health`."""
        return True, f"{self.world.n_written} scans"

    def gauges(self) -> dict[str, float]:
        """See `Service.gauges`."""
        return {}

    def tick(self) -> None:
        """Write what is due."""
        world = self.world
        while world.n_written < len(world.market):
            scan = world.market[world.n_written]
            if scan.timestamp_ns > world.true_ns:
                return
            world.store_scan(self.store, scan)


class Manager:
    """The process manager of the simulation, as the health service sees it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def services(self) -> list[ServiceState]:
        """See `recovery.Manager`."""
        found = []
        for name in NAMES:
            process = self._world.processes.get(name)
            up = process is not None and not process.dead
            state = "BACKOFF" if restarted_by_manager(name) else "EXITED"
            state = "RUNNING" if up else self._world.manager_says.get(name, state)
            life = 0 if process is None else process.life
            found.append(ServiceState(name, BY_NAME[name].group, state, life if up else 0, 1.0, 0, ""))
        return found

    def start_service(self, name: str) -> bool:
        """See `recovery.Manager`."""
        self._world.counts[f"started_by_health_{name}"] += 1
        self._world.manager_says.pop(name, None)
        self._world.later(RESPAWN_NS, lambda: self._world.start(name))
        return True


class World:
    """One run. `trace` is what happened, for people and for the proof that a seed repeats itself."""

    def __init__(self, root: Path, seed: int) -> None:
        self.home, self.seed, self.settings = Home(root), seed, SETTINGS
        self.market = market_of(seed)
        self.true_ns = T0_NS - LEAD_NS
        self.offset_ns = 0
        self.clock = VirtualClock(self.true_ns)
        self.memory = InProcessGrid("inline")
        self.typed = TypedGrid(self.memory.peer())
        self.manager = Manager(self)
        #: Of a process that the manager does not start again by itself: STOPPED or FATAL.
        self.manager_says: dict[str, str] = {}
        self.processes: dict[str, Process] = {}
        self.lives: Counter[str] = Counter()
        self.current: Process | None = None
        self.grid_down = False
        self.grid_reborn = 0
        self.counts: Counter[str] = Counter()
        self.trace: list[str] = []
        self.unexpected: list[str] = []
        self.recovered_s: dict[str, list[float]] = {}
        self.died_ns: dict[str, int] = {}
        self.n_written = 0
        self.number_reset_at: int | None = None
        self.trouble = False
        self.operator = random.Random(f"{seed}/operator")
        self.disk = Disk(self.clock.now_ns, lambda: self.true_ns)
        self.disk.running = lambda: self.current
        self.disk.forbidden = self._forbidden
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._mtime_ns = T0_NS

    # what happens

    def tell(self, text: str) -> None:
        """A line of the trace."""
        second = (self.true_ns - T0_NS) / NS_PER_S
        self.trace.append(f"{second:9.2f} {text.replace(str(self.home.root), 'HOME')}")

    def later(self, after_ns: int, action: Callable[[], None]) -> None:
        """Do something in a while of true time."""
        self.at(self.true_ns + after_ns, action)

    def at(self, true_ns: int, action: Callable[[], None]) -> None:
        """Do something at an instant of true time."""
        heapq.heappush(self._events, (true_ns, next(self._order), action))

    def set_offset(self, offset_ns: int) -> None:
        """Set the services' clock off from the true time."""
        self.offset_ns = offset_ns
        self.clock.move_to(self.true_ns + offset_ns)

    # scans

    def store_scan(self, store: ScanStore, scan: Scan) -> None:
        """Write the next scan, under a number that began again where the scanner did."""
        if self.number_reset_at is not None:
            scan = msgspec.structs.replace(scan, scan_number=self.n_written - self.number_reset_at + 1)
            store._enter_day(store.path_of(scan).parent.name)
            path = store.path_of(scan)
            store._put(path, store._bytes_of(scan))
        else:
            path = store.write(scan)
        # The order of writing, without the machine's clock.
        self._mtime_ns = max(self._mtime_ns + 1_000_000, self.true_ns)
        os.utime(path, ns=(self._mtime_ns, self._mtime_ns))
        folder = path.parent
        os.utime(folder, ns=(self._mtime_ns, self._mtime_ns))
        self.n_written += 1

    # processes

    def make(self, name: str, context: Context) -> Service:
        """The service of a row of the table."""
        if name == "scanner":
            return ScriptedScanner(context)
        return BY_NAME[name].make(context)

    def start(self, name: str) -> None:
        """A new life, unless there is one."""
        before = self.processes.get(name)
        if before is not None and not before.dead:
            return
        self.lives[name] += 1
        self.manager_says.pop(name, None)
        process = self.processes[name] = Process(self, name, self.lives[name])
        process.step()
        if name in self.died_ns and not process.dead:
            self.recovered_s.setdefault(name, []).append((self.true_ns - self.died_ns.pop(name)) / NS_PER_S)

    def kill(self, name: str) -> None:
        """kill -9."""
        process = self.processes.get(name)
        if process is not None and not process.dead:
            self.tell(f"{name} is killed")
            process.dead = True

    def ended_by_itself(self, name: str, error: str) -> None:
        """A service raised what it should not have."""
        if not (self.disk.states_full or self.disk.journal_full):
            self.unexpected.append(f"{name} ended by itself: {error}")

    def _bury(self) -> None:
        """The dead are cleaned up behind by the kernel, missed by the grid, and started by who does that."""
        for process in self.processes.values():
            if not process.dead or process.peer._closed:
                continue
            process.bury()
            process.peer._closed = True
            self.later(SESSION_NS, process.peer.expire_session)
            name = process.name
            self.died_ns.setdefault(name, self.true_ns)
            if name in self.manager_says:
                continue
            wait_ns = RESPAWN_NS if restarted_by_manager(name) else self.operator.randint(*OPERATOR_NS)
            self.later(wait_ns, lambda name=name: self.start(name))  # type: ignore[misc]

    # what a witness knows

    def _forbidden(self, runner: Any) -> str:
        """Why nothing may be entered now, as far as the process could know when it decided."""
        if runner.was_frozen:
            return FROZEN
        if self.home.kill_switch.exists():
            return "the kill switch is on"
        safety = self.safety()
        if safety is None:
            return ""
        age_ns = self.clock.now_ns() - (safety.source_ns() or 0)
        if not 0 <= age_ns <= FRESH_MAX_NS:
            return f"the posture is {age_ns / NS_PER_S:.0f} s old"
        if runner.peer.connected and safety.posture in POSTURES[TURTLE : HIBERNATE + 1]:
            return f"the posture is {safety.posture}"
        return ""

    def told(self, name: str, where: str, value: bytes) -> None:
        """A process tells the grid something: it must be on disk by then, the bar or the posture."""
        if where.endswith("[engine_snapshot]"):
            if msgspec.json.decode(value)["scan_count"] > len(self.disk.committed):
                self.unexpected.append(f"{name} told the grid of a bar that was not committed")
        elif where == "DOLPHIN_SAFETY[latest]":
            safety = msgspec.json.decode(value)
            saved = DurableState(self.home.state("watchdog"), WatchdogDurable).load()
            stack = None if saved is None else saved.stack
            kept = None if saved is None or stack is None else (POSTURES[stack.posture], saved.fence)
            if kept is None or kept != (safety["posture"], safety["fence"]):
                self.unexpected.append(f"{name} told the grid a posture that it had not kept")

    def safety(self) -> Any:
        """The posture that the grid has: the reference, else the map."""
        for data, key in (
            (self.memory._memory.references.get(SAFETY_REFERENCE), SAFETY_REFERENCE),
            (self.memory._memory.map_store(SAFETY.map_name()).entries.get("latest", (None,))[0], "latest"),
        ):
            if data is not None:
                with contextlib.suppress(PayloadRejected):
                    return SAFETY.decode(SAFETY.map_name(), key, data)
        return None

    # the run

    def run_to(self, end_ns: int) -> None:
        """Let time pass to an instant of true time."""
        while True:
            next_ns = self._events[0][0] if self._events else end_ns
            for process in self.processes.values():
                if process.runs:
                    next_ns = min(next_ns, process.next_ns)
            if next_ns >= end_ns:
                self._move(end_ns)
                return
            self._move(max(next_ns, self.true_ns))
            while self._events and self._events[0][0] <= self.true_ns:
                heapq.heappop(self._events)[2]()
                self._settle()
            for process in list(self.processes.values()):
                if process.runs and process.next_ns <= self.true_ns:
                    process.step()
                    self._settle()

    def _move(self, true_ns: int) -> None:
        self.true_ns = true_ns
        self.clock.move_to(true_ns + self.offset_ns)

    def _settle(self) -> None:
        """Bury the dead, and let those run that were woken."""
        self._bury()
        for _ in range(1000):
            woken = [p for p in self.processes.values() if p.runs and p.hosted and p.context.wake.is_set()]
            if not woken:
                return
            for process in woken:
                process.step()
            self._bury()
        raise AssertionError(f"these wake each other for ever: {[p.name for p in woken]}")

    def digest(self) -> str:
        """Of the trace: the same seed is the same run."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()

    def close(self) -> None:
        """Give everything back."""
        for process in self.processes.values():
            process.bury()
        self.typed.grid.close()
        self.memory.close()


@contextlib.contextmanager
def opened(root: Path, seed: int) -> Iterator[World]:
    """A world on a folder, all of its processes started."""
    world = World(root, seed)
    with installed(world.disk):
        try:
            for k, name in enumerate(NAMES):
                world.at(world.true_ns + k * NS_PER_S // 7, lambda name=name: world.start(name))  # type: ignore[misc]
            yield world
        finally:
            world.close()
