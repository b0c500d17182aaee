"""The bridge: scans of the Arrow store, onto the grid, each file once, in the order of their writing.

Entry point: `ScanBridgeService`.

1. The order is that of modification times (a scanner that began again has low numbers), ties by name. Where
   the machine's clock was set back, a number above the last one is news all the same.
2. A watcher's event only names a file and wakes; a sweep of the folders finds what events missed.
3. A file's place is remembered on disk after its publication: a kill in between publishes one scan again,
   which readers drop, and never leaves one out.
4. A file that is no whole scan goes to quarantine with its reason, and the bridge goes on.
5. With the grid away the place is kept. A grid that came back empty gets the last scans again, in order.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import DataError, StoreError
from dolphin.grid.port import ConnectionEvent, ConnectionState, Subscription
from dolphin.grid.typed import publish_scan
from dolphin.market.scan_store import ScanStore
from dolphin.services.durable import DurableState
from dolphin.services.service import Context

SWEEP_EVERY_NS: Final = 5 * NS_PER_S
#: Files a tick, so that heartbeats go on while it catches up.
FILES_A_TICK: Final = 100
#: Day folders that a sweep looks into, the newest.
DAYS_SWEPT: Final = 3
#: Scans that a grid without memory gets again.
REFILL: Final = 100
FRESH_NS: Final = 30 * NS_PER_S
STALE_NS: Final = 60 * NS_PER_S

_FILE = re.compile(r"scan_(\d{6,19})_\d{6}\.arrow")


class BridgeState(msgspec.Struct, frozen=True, kw_only=True):
    """Up to where files were published: a modification time in ns, the names of that time, a scan number."""

    mtime_ns: int = -1
    names: tuple[str, ...] = ()
    number: int = -1


class Found(NamedTuple):
    """A file in the order of its publication."""

    mtime_ns: int
    name: str
    path: Path

    @property
    def number(self) -> int:
        """The scan number in the name."""
        return int(self.name.split("_")[1])


class ScanBridgeService:
    """See the module. watch starts a watcher on a folder and returns what stops it; None watches nothing."""

    def __init__(
        self,
        context: Context,
        watch: Callable[[Path, Callable[[Path], None]], Callable[[], None]] | None = None,
    ) -> None:
        self.context = context
        self.period_s = 1.0
        self._store = ScanStore(context.home.market)
        self._durable = DurableState(context.home.state(context.name), BridgeState)
        self._state = BridgeState()
        self._watch = watch if watch is not None or "manager" in context.options else watch_folder
        self._unwatch: Callable[[], None] = lambda: None
        self._guard = threading.Lock()
        self._named: dict[Path, None] = {}
        self._swept_ns: int | None = None
        self._folders: dict[str, int] = {}
        self._refill = False
        self._published_ns: int | None = None
        self._told = "fresh"
        self._trouble = ""
        self._connection: Subscription | None = None

    @property
    def phase(self) -> str:
        """See `Service.phase`."""
        return "running"

    @property
    def freshness(self) -> str:
        """`fresh` (under 30 s), `warning` (to 60 s), `stale`, or `waiting` before a first scan."""
        if self._published_ns is None:
            return "waiting"
        age_ns = self.context.clock.now_ns() - self._published_ns
        return "fresh" if age_ns < FRESH_NS else "warning" if age_ns <= STALE_NS else "stale"

    def health(self) -> tuple[bool, str]:
        """Whether scans come through."""
        if self._trouble:
            return False, self._trouble
        if self._published_ns is None:
            return True, "no scan yet"
        age_s = (self.context.clock.now_ns() - self._published_ns) / NS_PER_S
        return self.freshness != "stale", f"{self.freshness}: last scan {age_s:.0f} s ago"

    def gauges(self) -> dict[str, float]:
        """See `Service.gauges`."""
        if self._published_ns is None:
            return {}
        return {"scan_age_s": (self.context.clock.now_ns() - self._published_ns) / NS_PER_S}

    def start(self) -> None:
        """Restore the place and watch the store."""
        self._state = self._durable.load() or BridgeState()
        self._connection = self.context.grid.grid.on_connection(self._on_connection)
        if self._watch is not None:
            self._store.folder.mkdir(parents=True, exist_ok=True)
            self._unwatch = self._watch(self._store.folder, self._on_file)

    def _on_file(self, path: Path) -> None:
        if _FILE.fullmatch(path.name):
            with self._guard:
                self._named[path] = None
            self.context.wake.set()

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event.state is ConnectionState.CONNECTED:
            self._refill = self._refill or event.reborn
            self.context.wake.set()

    def tick(self) -> None:
        """Publish what is there. Raises GridError with the place kept."""
        now_ns = self.context.clock.now_ns()
        if self._refill:
            self._fill_again()
        found = self._named_files()
        if found and found[0].number != self._state.number + 1:
            # An event was missed, or the scanner began again: what lies before is found first.
            self._swept_ns = None
        if self._swept_ns is None or not 0 <= now_ns - self._swept_ns < SWEEP_EVERY_NS:
            self._swept_ns = now_ns
            found = sorted({*found, *self._sweep()})
        try:
            for file in found[:FILES_A_TICK]:
                self._bring(file)
        except BaseException:
            # What was found is found again.
            self._swept_ns = None
            raise
        if len(found) > FILES_A_TICK:
            self._swept_ns = None
            self.context.wake.set()
        self._tell_freshness()

    def _named_files(self) -> list[Found]:
        """The files that the watcher named and that are news, in order."""
        with self._guard:
            named, self._named = self._named, {}
        found = []
        for path in named:
            with contextlib.suppress(OSError):
                found.append(Found(path.stat().st_mtime_ns, path.name, path))
        return sorted(file for file in found if self._is_news(file))

    def _is_news(self, file: Found) -> bool:
        state = self._state
        return (
            file.mtime_ns > state.mtime_ns
            or (file.mtime_ns == state.mtime_ns and file.name not in state.names)
            or file.number > state.number >= 0
        )

    def _sweep(self) -> list[Found]:
        """Every file that is news; a folder that has not changed since the last look has none."""
        found: list[Found] = []
        folders: dict[str, int] = {}
        for day in self._store.days()[-DAYS_SWEPT:]:
            folder = self._store.folder / day
            folders[day] = folder.stat().st_mtime_ns
            if self._folders.get(day) == folders[day]:
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if _FILE.fullmatch(entry.name):
                        with contextlib.suppress(FileNotFoundError):
                            file = Found(entry.stat().st_mtime_ns, entry.name, Path(entry.path))
                            if self._is_news(file):
                                found.append(file)
        # With news in hand the same look is taken again: what could not be published is found once more.
        self._folders = {} if found else folders
        return found

    def _bring(self, file: Found) -> None:
        if not self._is_news(file):
            return
        try:
            scan = self._store.read(file.path)
        except DataError as error:
            with contextlib.suppress(StoreError):
                self._store.quarantine(file.path, str(error))
            self.context.counts["quarantined"] += 1
            self.context.tell("stale_scan", f"{file.name} is no whole scan and was set aside: {error}")
        except StoreError as error:
            if file.path.exists():
                self._trouble = str(error)
                return
        else:
            now_ns = self.context.clock.now_ns()
            publish_scan(
                self.context.grid.grid,
                scan,
                bridge_ts=now_ns / NS_PER_S,
                file_mtime=file.mtime_ns / NS_PER_S,
            )
            self._published_ns = scan.timestamp_ns
            self.context.counts["published"] += 1
        names = (*self._state.names, file.name) if file.mtime_ns == self._state.mtime_ns else (file.name,)
        self._state = BridgeState(mtime_ns=file.mtime_ns, names=names, number=file.number)
        try:
            self._durable.save(self._state)
        except StoreError as error:
            # Published and not remembered: after a restart it comes once more, and readers drop it.
            self._trouble = str(error)
        else:
            self._trouble = ""

    def _fill_again(self) -> None:
        """The last scans, for a grid that lost its memory. Raises GridError; then it begins again."""
        last = self._store.next_scan_number() - 1
        for scan in sorted(self._store.scans(last - REFILL), key=lambda s: s.timestamp_ns)[-REFILL:]:
            path = self._store.path_of(scan)
            publish_scan(
                self.context.grid.grid,
                scan,
                bridge_ts=self.context.clock.now_ns() / NS_PER_S,
                file_mtime=path.stat().st_mtime_ns / NS_PER_S,
            )
            self.context.counts["refilled"] += 1
        self._refill = False

    def _tell_freshness(self) -> None:
        now = self.freshness
        if now == "stale" and self._told != "stale":
            self.context.tell("stale_scan", f"no scan has come for {STALE_NS // NS_PER_S} s")
        self._told = now

    def stop(self) -> None:
        """Stop watching; the place is on disk."""
        self._unwatch()
        self._unwatch = lambda: None
        if self._connection is not None:
            self._connection.close()


def watch_folder(folder: Path, on_file: Callable[[Path], None]) -> Callable[[], None]:
    """Call on_file, on a thread of the library's, for every file renamed into `folder` or below it."""
    from watchdog.events import FileSystemEventHandler
    from watchdog.observers import Observer

    class Handler(FileSystemEventHandler):
        def on_moved(self, event: Any) -> None:
            on_file(Path(os.fsdecode(event.dest_path)))

        def on_created(self, event: Any) -> None:
            on_file(Path(os.fsdecode(event.src_path)))

    observer = Observer()
    observer.schedule(Handler(), str(folder), recursive=True)
    observer.start()

    def stop() -> None:
        observer.stop()
        observer.join(5.0)

    return stop
