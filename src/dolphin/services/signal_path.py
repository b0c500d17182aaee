"""The signal path of a running system, proven step by step: from a scan's file to one decision.

Entry points: `verify` (all steps), `StepResult`. The command is `dolphin.commands.verify`.

A step says `pass`, `fail` or `absent` (what it needs is not part of this system, or is not running) with what
it saw and how long it took. Steps only watch; the drill of `dolphin.services.drill` is opt-in.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import msgspec

from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.domain.errors import DataError, DolphinError, StoreError, plural
from dolphin.domain.scan import Scan
from dolphin.grid.payloads import Payload, PayloadRejected, SafetyPayload
from dolphin.grid.port import GridError
from dolphin.grid.shards import N_SHARDS, shard_index
from dolphin.grid.topics import HEARTBEAT, PROBE, SAFETY, SAFETY_REFERENCE, SCAN, SHARD_FEATURES, Topic
from dolphin.grid.typed import TypedGrid
from dolphin.host.finish import JOURNAL_FILE
from dolphin.journal.store import Journal
from dolphin.market.scan_store import ScanStore
from dolphin.services.clock import Clock
from dolphin.services.home import FRESH_MAX_NS, Home, SystemSettings

Status: TypeAlias = Literal["pass", "fail", "absent"]

#: How long a step waits for what should come, seconds on the system's clock: a bar of a minute, and a half.
SCAN_WAIT_S = 90.0
GRID_WAIT_S = 15.0
DECISION_WAIT_S = 15.0
POSTURE_WAIT_S = 30.0
#: Between two looks, seconds on the system's clock.
POLL_S = 0.1
#: Decisions that are looked through for one that stands twice.
DECISIONS_LOOKED = 1000
#: Who may lead a deployment.
TRADERS = ("trader", "trader_standby")

P = TypeVar("P")


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one step found: seconds on the system's clock, text one line for people."""

    name: str
    status: Status
    text: str
    seconds: float


class SignalPath:
    """What the steps share: the system that is looked at."""

    def __init__(self, grid: TypedGrid, home: Home, settings: SystemSettings, clock: Clock) -> None:
        self.grid = grid
        self.home = home
        self.settings = settings
        self.clock = clock
        self.store = ScanStore(home.market)
        #: The scan that came while we looked; the trader's step asks what became of it.
        self.scan: Scan | None = None
        self._never = threading.Event()

    def until(self, look: Callable[[], P | None], seconds: float) -> P | None:
        """What `look` finds within so many seconds on the system's clock, None when it finds nothing."""
        deadline_ns = self.clock.now_ns() + int(seconds * NS_PER_S)
        while True:
            found = look()
            if found is not None:
                return found
            if self.clock.now_ns() >= deadline_ns:
                return None
            self.clock.wait(self._never, POLL_S)

    def age_s(self, payload: Payload | None) -> float | None:
        """Seconds since a payload's source made it; None without one or without its time."""
        stamp = None if payload is None else payload.source_ns()
        return None if stamp is None else (self.clock.now_ns() - stamp) / NS_PER_S

    def newest_file(self) -> tuple[int, str] | None:
        """(modification time in ns, path) of the newest scan file, by writing; None for an empty store."""
        newest: tuple[int, str] | None = None
        for day in self.store.days()[-2:]:
            for path in (self.store.folder / day).glob("scan_*.arrow"):
                with contextlib.suppress(FileNotFoundError):
                    newest = max(newest or (-1, ""), (path.stat().st_mtime_ns, str(path)))
        return newest

    # steps

    def grid_answers(self) -> tuple[Status, str]:
        """A value goes there and back."""
        now_s = self.clock.now_ns() / NS_PER_S
        self.grid.put(PROBE, now_s)
        if self.grid.get(PROBE) is None:
            return "fail", "a value that was written is not there"
        return "pass", f"{plural(self.grid.grid.nodes, 'member')}; a value went there and back"

    def books_arrive(self) -> tuple[Status, str]:
        """Book features of assets, each in the map that its letters name."""
        found: list[str] = []
        newest_s: float | None = None
        for shard in range(N_SHARDS):
            name = SHARD_FEATURES.map_name(shard=f"{shard:02d}")
            for key, data in self.grid.grid.map(name).entries().items():
                if not SHARD_FEATURES.covers(name, key):
                    continue
                if shard_index(key) != shard:
                    return "fail", f"{key} lies in {name}, its letters say shard {shard_index(key)}"
                age = self.age_s(SHARD_FEATURES.decode(name, key, data))
                found.append(key)
                newest_s = age if newest_s is None or (age is not None and age < newest_s) else newest_s
        if not found and "books" in self.settings.senses:
            return "fail", "no books on any of the ten maps, though this system was asked to run with them"
        if not found:
            return "absent", "no books on any of the ten maps; `dolphin up --with books` brings them"
        if newest_s is None or newest_s > FRESH_MAX_NS / NS_PER_S:
            return "fail", f"{plural(len(found), 'asset')} on the maps, the newest {newest_s or 0:.0f} s old"
        return "pass", f"{plural(len(found), 'asset')} on their maps, the newest {newest_s:.1f} s old"

    def scan_reaches_grid(self) -> tuple[Status, str]:
        """A file that is written while we look becomes `latest_eigen_scan`."""
        before = self.newest_file()
        changed = _Folder(self.store.folder)

        def new_file() -> tuple[int, str] | None:
            if not changed():
                return None
            newest = self.newest_file()
            return newest if newest is not None and newest != before else None

        found = self.until(new_file, SCAN_WAIT_S)
        if found is None:
            last = "the store is empty" if before is None else f"the newest file is {Path(before[1]).name}"
            return "fail", f"no new scan file in {SCAN_WAIT_S:.0f} s, {last}; {self._who('scanner')}"
        seen_ns = self.clock.now_ns()
        scan = self.store.read(found[1])
        self.scan = scan

        def on_grid() -> float | None:
            latest = self.grid.get(SCAN)
            stamp = None if latest is None else latest.timestamp_ns
            return (
                self.clock.now_ns() / NS_PER_S if stamp is not None and stamp >= scan.timestamp_ns else None
            )

        if self.until(on_grid, GRID_WAIT_S) is None:
            latest = self.grid.get(SCAN)
            told = "nothing" if latest is None else f"scan {latest.scan_number} of {latest.timestamp_iso}"
            return "fail", (
                f"scan {scan.scan_number} is in the store, after {GRID_WAIT_S:.0f} s the grid has {told};"
                f" {self._who('scan_bridge')}"
            )
        later_ms = (self.clock.now_ns() - seen_ns) / 1e6
        return "pass", (
            f"scan {scan.scan_number} of {iso_from_ns(scan.timestamp_ns)[:19]}Z is latest_eigen_scan,"
            f" seen there {later_ms:.0f} ms after its file"
        )

    def trader_steps_once(self) -> tuple[Status, str]:
        """The new scan has one decision in the journal, whoever leads."""
        phases = {name: self._phase(name) for name in TRADERS}
        alive = {name: phase for name, phase in phases.items() if phase is not None}
        if not alive:
            return "absent", "no trader runs; start one with `dolphin up trader`"
        scan = self.scan
        if scan is None:
            return "fail", "there was no new scan to decide"
        found = self.until(lambda: self._decisions_of(scan.timestamp_ns), DECISION_WAIT_S)
        who = ", ".join(f"{name} {phase}" for name, phase in alive.items())
        if found is None:
            return "fail", f"scan {scan.scan_number} has no decision after {DECISION_WAIT_S:.0f} s ({who})"
        bars, numbers, twice = found
        if len(bars) != 1 or twice:
            return (
                "fail",
                f"scan {scan.scan_number} has {plural(len(bars), 'decision')}, {twice} scans more than one",
            )
        if numbers[0] != scan.scan_number:
            return "fail", f"the decision of {iso_from_ns(scan.timestamp_ns)} names scan {numbers[0]}"
        return "pass", f"scan {scan.scan_number} is bar {bars[0]}, decided once ({who})"

    def posture_is_told(self) -> tuple[Status, str]:
        """The watchdog writes a fresh posture, and reference and map agree."""
        before = self.safety()

        def written() -> SafetyPayload | None:
            now = self.safety()
            return (
                now if now is not None and (before is None or now.updated_at != before.updated_at) else None
            )

        now = self.until(written, POSTURE_WAIT_S)
        if now is None:
            age = self.age_s(before)
            told = "no posture was ever written" if age is None else f"the posture is {age:.0f} s old"
            return "fail", f"{told}: every trader acts as HIBERNATE; {self._who('watchdog')}"
        mapped = self.until(lambda: self._mapped(now), GRID_WAIT_S)
        if mapped is None:
            return "fail", f"the reference says {now.posture} of {now.updated_at}, the map never did"
        absent = [name for name, told in now.sensors.items() if isinstance(told, dict) and told.get("absent")]
        return "pass", (
            f"{now.posture}, Rm {now.rm:.3f}, written under fence {now.fence}"
            + (f"; absent: {', '.join(absent)}" if absent else "")
        )

    # looking

    def safety(self) -> SafetyPayload | None:
        """The posture as the reference has it, else as the map does."""
        try:
            found = self.grid.get_reference(SAFETY_REFERENCE, SAFETY)
        except PayloadRejected:
            found = None
        return self.grid.get(SAFETY) if found is None else found

    def _mapped(self, told: SafetyPayload) -> bool | None:
        mapped = self.grid.get(SAFETY)
        return True if mapped is not None and mapped.updated_at >= told.updated_at else None

    def _decisions_of(self, timestamp_ns: int) -> tuple[list[int], list[int], int] | None:
        """(bars, scan numbers) of a scan's decisions, and how many late scans stand twice; None for none."""
        path = self.home.trader / JOURNAL_FILE
        if not path.exists():
            return None
        with contextlib.closing(Journal.read_only(path)) as journal:
            late = list(journal.decisions(max(0, journal.last_bar() - DECISIONS_LOOKED)))
        mine = [d for d in late if d.timestamp_ns == timestamp_ns]
        if not mine:
            return None
        twice = len(late) - len({d.timestamp_ns for d in late})
        return [d.bar_idx for d in mine], [d.scan_number for d in mine], twice

    def _phase(self, service: str) -> str | None:
        """The phase of a service that is alive, None for one that is not."""
        beat = self._get(HEARTBEAT, service=service)
        age = self.age_s(beat)
        if beat is None or age is None or age > FRESH_MAX_NS / NS_PER_S or beat.phase == "stopped":
            return None
        return beat.phase

    def _who(self, service: str) -> str:
        phase = self._phase(service)
        return f"{service} says {phase!r}" if phase else f"{service} is not alive: see `dolphin status`"

    def _get(self, topic: Topic[P], **parts: str) -> P | None:
        try:
            return self.grid.get(topic, **parts)
        except PayloadRejected:
            return None


class _Folder:
    """Whether the folders of scans changed since they were asked last; true the first time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before: list[tuple[str, int]] | None = None

    def __call__(self) -> bool:
        now: list[tuple[str, int]] = []
        with contextlib.suppress(FileNotFoundError):
            days = sorted(path for path in self._folder.iterdir() if path.is_dir())[-2:]
            now = [(day.name, day.stat().st_mtime_ns) for day in days]
        changed = now != self._before
        self._before = now
        return changed


def timed(name: str, clock: Clock, step: Callable[[], tuple[Status, str]]) -> StepResult:
    """Run one step. What it raises is what it found: a system that is broken is told, step by step."""
    began_ns = clock.now_ns()
    try:
        status, text = step()
    except GridError as error:
        status, text = "fail", f"the grid does not answer: {error}"
    except (DataError, StoreError) as error:
        status, text = "fail", str(error)
    except DolphinError as error:
        status, text = "fail", f"{type(error).__name__}: {error}"
    return StepResult(name=name, status=status, text=text, seconds=(clock.now_ns() - began_ns) / NS_PER_S)


def verify(
    grid: TypedGrid, home: Home, settings: SystemSettings, clock: Clock, *, plant: bool = False
) -> Iterator[StepResult]:
    """The steps in their order, each as it is done.

    plant also runs the drill: a sensor's value is lowered until the posture moves, and taken back.
    """
    path = SignalPath(grid, home, settings, clock)
    yield timed("grid", clock, path.grid_answers)
    yield timed("books", clock, path.books_arrive)
    yield timed("scan", clock, path.scan_reaches_grid)
    yield timed("trader", clock, path.trader_steps_once)
    yield timed("posture", clock, path.posture_is_told)
    if plant:
        from dolphin.services.drill import Drill

        yield timed("drill", clock, Drill(path).run)
