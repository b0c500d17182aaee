"""The bridge: scans of the Arrow store, onto the grid, each file once, in the order of their writing.

Entry point: `ScanBridgeService`. How files are found and ordered is `dolphin.services.scan_files`'.

1. A file's place is remembered on disk after its publication: a kill in between publishes at most one scan
   again, and the log's end is compared first, so that as a rule not even that; readers drop what is left.
2. With the grid away the place is kept. What was written meanwhile comes in order, a bounded number a tick;
   what would fall out of the log's bound unread is left to the store, where readers look for it.
3. A grid that came back empty, also while no bridge ran, gets the last scans again, in order.
4. A file that is no scan goes to quarantine with its reason, and the bridge goes on.
5. `latest_eigen_scan` never goes back in time, whatever order the files have.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import DataError, StoreError
from dolphin.domain.scan import Scan
from dolphin.grid.payloads import ScanPayload
from dolphin.grid.port import EMPTY_LOG_TAIL, ConnectionEvent, ConnectionState, Subscription
from dolphin.grid.topics import SCAN, SCAN_LOG, SCAN_LOG_CAPACITY
from dolphin.grid.typed import publish_scan
from dolphin.market.scan_store import ScanStore
from dolphin.services.durable import DurableState
from dolphin.services.scan_files import Place, ScanFile, ScanFiles, watch_folder
from dolphin.services.service import Context

SWEEP_EVERY_NS: Final = 5 * NS_PER_S
#: Files a tick, so that heartbeats go on while it catches up.
FILES_A_TICK: Final = 100
#: Scans that a grid without memory gets again, and how far back the log is compared.
REFILL: Final = 100
#: Ages of the last scan where freshness changes; bars of more than 10 s have as many bars' time.
FRESH_NS: Final = 30 * NS_PER_S
STALE_NS: Final = 60 * NS_PER_S
FRESH_BARS: Final = 3
STALE_BARS: Final = 6
#: Without any file for so long, a stale scan is told.
QUIET_NS: Final = 10 * NS_PER_S
#: The slowest bars that are known; a gap is no bar.
BAR_MAX_NS: Final = 60 * NS_PER_S
#: Ticks for which a file that cannot be read holds the others up.
TRIES: Final = 5

FRESHNESS: Final = ("fresh", "warning", "stale")

_log = logging.getLogger("dolphin.bridge")

Watch = Callable[[Path, Callable[[Path], None]], Callable[[], None]]


class BridgeState(msgspec.Struct, frozen=True, kw_only=True):
    """Up to where files were published, and the newest stamp of any of them (ns UTC)."""

    place: Place = Place()
    stamp_ns: int = -1


class ScanBridgeService:
    """See the module. watch starts a watcher on a folder and returns what stops it; None watches nothing.

    Without `watch` it is the library's, except where a simulation manages the services: there the sweep has
    to do.
    """

    period_s = 1.0

    def __init__(self, context: Context, watch: Watch | None = None) -> None:
        self.context = context
        self._store = ScanStore(context.home.market)
        self._durable = DurableState(context.home.state(context.name), BridgeState)
        self._state = BridgeState()
        self._files = ScanFiles(self._store, self._wake_up)
        self._watch = watch if watch is not None or "manager" in context.options else watch_folder
        self._unwatch: Callable[[], None] = lambda: None
        self._swept_ns: int | None = None
        self._refill = False
        # What the log holds is not certain at the start, and after every call that failed.
        self._compare = True
        self._in_log: frozenset[tuple[int, int]] = frozenset()
        self._interval_ns = 0
        self._brought_ns = 0
        self._told = "fresh"
        self._trouble = ""
        self._unread: tuple[Path | None, int] = (None, 0)
        self._connection: Subscription | None = None

    # what the host asks

    @property
    def phase(self) -> str:
        """See `Service.phase`."""
        return "running"

    @property
    def freshness(self) -> str:
        """`fresh` (under 30 s), `warning` (to 60 s), `stale`, or `waiting` before a first scan."""
        age_ns = self._age_ns()
        if age_ns is None:
            return "waiting"
        if age_ns < max(FRESH_NS, FRESH_BARS * self._interval_ns):
            return "fresh"
        return "warning" if age_ns <= max(STALE_NS, STALE_BARS * self._interval_ns) else "stale"

    def _age_ns(self) -> int | None:
        stamp_ns = self._state.stamp_ns
        return None if stamp_ns < 0 else max(0, self.context.clock.now_ns() - stamp_ns)

    def health(self) -> tuple[bool, str]:
        """Whether scans come through."""
        age_ns = self._age_ns()
        if self._trouble:
            return False, self._trouble
        if age_ns is None:
            return True, "no scan yet"
        return self.freshness != "stale", f"{self.freshness}: last scan {age_ns / NS_PER_S:.0f} s ago"

    def gauges(self) -> dict[str, float]:
        """See `Service.gauges`; freshness is 0 fresh, 1 warning, 2 stale."""
        age_ns = self._age_ns()
        if age_ns is None:
            return {}
        return {
            "scan_age_s": age_ns / NS_PER_S,
            "freshness": float(FRESHNESS.index(self.freshness)),
        }

    # life

    def start(self) -> None:
        """Restore the place and watch the store. Raises DataError for a damaged state."""
        self._state = self._durable.load() or BridgeState()
        self._brought_ns = self.context.clock.now_ns()
        self._connection = self.context.grid.grid.on_connection(self._on_connection)
        if self._watch is not None:
            try:
                self._store.folder.mkdir(parents=True, exist_ok=True)
                self._unwatch = self._watch(self._store.folder, self._files.name)
            except OSError as error:
                _log.warning("files are not watched (%s): the sweep finds them, up to 5 s later", error)

    def stop(self) -> None:
        """Stop watching; the place is on disk."""
        self._unwatch()
        self._unwatch = lambda: None
        if self._connection is not None:
            self._connection.close()

    def _wake_up(self) -> None:
        self.context.wake.set()

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event.state is ConnectionState.CONNECTED:
            self._refill = self._refill or event.reborn
            self._compare = True
            self.context.wake.set()

    # work

    def tick(self) -> None:
        """Publish what is there. Raises GridError with the place kept."""
        if self._compare:
            self._look_at_log()
        if self._refill:
            self._fill_again()
        found = self._found()
        for path in self._files.take_foreign():
            self._set_aside(path, "the name is not scan_NNNNNN_HHMMSS.arrow: no scan of ours")
        late = len(found) - SCAN_LOG_CAPACITY
        if late > 0:
            # More than the log can hold: who reads it takes these from the store.
            self.context.counts["left_to_store"] += late
            self._move(self._state.place.after(found[late - 1]), self._state.stamp_ns)
            found = found[late:]
        try:
            for file in found[:FILES_A_TICK]:
                self._bring(file)
        except _Again:
            self._swept_ns = None
        except BaseException:
            # What was found is found again, and what came through is seen in the log.
            self._swept_ns = None
            self._compare = True
            raise
        if len(found) > FILES_A_TICK:
            self._swept_ns = None
            self.context.wake.set()
        self._tell_freshness()

    def _found(self) -> list[ScanFile]:
        """What is to be published, in order: what the watcher named, and a sweep when that may not be all."""
        now_ns = self.context.clock.now_ns()
        found = self._files.named(self._state.place)
        swept_ns = self._swept_ns
        recent = swept_ns is not None and 0 <= now_ns - swept_ns < SWEEP_EVERY_NS
        if recent and self._files.follows(found):
            return found
        self._swept_ns = now_ns
        return sorted({*found, *self._files.sweep(self._state.place)})

    def _bring(self, file: ScanFile) -> None:
        place = self._state.place
        if not place.is_news(file):
            return
        try:
            scan = self._store.read(file.path)
        except DataError as error:
            self._set_aside(file.path, str(error))
            self._move(place.after(file), self._state.stamp_ns)
        except StoreError as error:
            if file.path.exists():
                self._cannot_read(file, str(error))
        else:
            self._publish(scan, file)
            self._files.brought(file)
            self._brought_ns = self.context.clock.now_ns()
            if scan.timestamp_ns > self._state.stamp_ns >= 0:
                passed_ns = scan.timestamp_ns - self._state.stamp_ns
                self._interval_ns = min(self._interval_ns or BAR_MAX_NS, passed_ns)
            self._move(place.after(file), max(scan.timestamp_ns, self._state.stamp_ns))

    def _publish(self, scan: Scan, file: ScanFile) -> None:
        now_s, mtime_s = self.context.clock.now_ns() / NS_PER_S, file.mtime_ns / NS_PER_S
        if (scan.scan_number, scan.timestamp_ns) in self._in_log:
            # It was appended and not remembered; whether it became the latest is not certain.
            payload = ScanPayload.from_scan(scan, bridge_ts=now_s, file_mtime=mtime_s)
            self.context.grid.put_newer(SCAN, payload)
            self.context.counts["found_in_log"] += 1
            return
        publish_scan(
            self.context.grid.grid,
            scan,
            bridge_ts=now_s,
            file_mtime=mtime_s,
            latest=scan.timestamp_ns > self._state.stamp_ns,
        )
        self.context.counts["published"] += 1

    def _move(self, place: Place, stamp_ns: int) -> None:
        self._state = BridgeState(place=place, stamp_ns=stamp_ns)
        try:
            self._durable.save(self._state)
        except StoreError as error:
            # Published and not remembered: after a restart the log is compared, and readers drop the rest.
            self._trouble = str(error)
        else:
            self._trouble = ""

    def _set_aside(self, path: Path, why: str) -> None:
        with contextlib.suppress(StoreError):
            self._store.quarantine(path, why)
        self.context.counts["quarantined"] += 1
        self.context.tell("stale_scan", f"{path.name} is no whole scan and was set aside: {why}")

    def _cannot_read(self, file: ScanFile, why: str) -> None:
        """Hold the others up for a while, since order matters; then leave the file out."""
        tries = self._unread[1] + 1 if self._unread[0] == file.path else 1
        self._unread = (file.path, tries)
        self._trouble = why
        if tries <= TRIES:
            raise _Again(why)
        self.context.counts["left_out"] += 1
        self.context.tell("stale_scan", f"{file.name} is left out: {why}")
        self._move(self._state.place.after(file), self._state.stamp_ns)

    # a grid that was away

    def _look_at_log(self) -> None:
        """What the log's end holds; an empty log behind a place that is not is a grid without memory."""
        log = self.context.grid.grid.log(SCAN_LOG, SCAN_LOG_CAPACITY)
        tail = log.tail()
        if tail == EMPTY_LOG_TAIL:
            self._in_log = frozenset()
            self._refill = self._refill or self._state.place != Place()
        else:
            read = self.context.grid.read_scans(max(log.head(), tail - REFILL + 1), REFILL)
            self._in_log = frozenset((scan.scan_number, scan.timestamp_ns) for _, scan in read.scans)
        self._compare = False

    def _fill_again(self) -> None:
        """The last scans, for a grid that lost its memory. Raises GridError; then it begins again."""
        last: list[tuple[ScanFile, Scan]] = []
        for file in self._files.newest_until(self._state.place, REFILL):
            with contextlib.suppress(DataError, StoreError):
                last.append((file, self._store.read(file.path)))
        newest_ns = max((scan.timestamp_ns for _, scan in last), default=-1)
        for file, scan in last:
            publish_scan(
                self.context.grid.grid,
                scan,
                bridge_ts=self.context.clock.now_ns() / NS_PER_S,
                file_mtime=file.mtime_ns / NS_PER_S,
                latest=scan.timestamp_ns == newest_ns,
            )
            self.context.counts["refilled"] += 1
        self._refill = False

    def _tell_freshness(self) -> None:
        """Tell once that no scan comes; a scanner that makes up for its absence brings old ones at first."""
        now, now_ns = self.freshness, self.context.clock.now_ns()
        if now == "stale" and 0 <= now_ns - self._brought_ns < QUIET_NS:
            return
        if now == "stale" and self._told != "stale":
            self.context.tell("stale_scan", f"no scan has come for {(self._age_ns() or 0) / NS_PER_S:.0f} s")
        self._told = now


class _Again(Exception):  # noqa: N818 - no error of anybody: the tick ends here
    """A file that cannot be read now is tried again on the next tick."""
