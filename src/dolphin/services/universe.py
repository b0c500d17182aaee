"""The universe service: health of the books of every active USDT perpetual, once a minute (04).

Entry point: `UniverseService`, run by `dolphin universe`.

1. A snapshot is taken at each full minute of the clock and goes to the grid and into the record; books that
   came in the last 60 s count, an older one is left out. Without any there is no snapshot: the key grows old,
   and that is the truth.
2. Each full five minutes a part is written, `ob_universe/date=YYYY-MM-DD/part-NNN.parquet`. What the disk
   refuses waits, an hour's worth at most. Nothing is pruned unless `max_file_age_days` is above 0.
3. A snapshot is in the record also when the grid is away; the newest goes to the grid when that is back.
4. Usual depths outlive the process, for a day: after that the past says little of now.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pyarrow as pa

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, iso_from_ns
from dolphin.domain.errors import ConfigError, DataError, StoreError, plural
from dolphin.grid.payloads import ObfUniverse, ObfUniverseAsset
from dolphin.grid.port import ConnectionEvent, ConnectionState, Subscription
from dolphin.grid.topics import OBF_UNIVERSE
from dolphin.market.universe_files import (
    HEALTH_COLUMNS,
    UNIVERSE_FOLDER,
    prune_days,
    universe_table,
    universe_writer,
)
from dolphin.orderbook.universe import BookHealth, References, health_of
from dolphin.services.durable import DurableState
from dolphin.services.service import Context

if TYPE_CHECKING:
    from dolphin.feeds.universe_streams import UniverseStreams

_log = logging.getLogger("dolphin.universe")

SNAPSHOT_EVERY_NS: Final = 60 * NS_PER_S
PART_EVERY_NS: Final = 300 * NS_PER_S
#: A book that is older is left out of a snapshot.
BOOK_AGE_MAX_S: Final = 60.0
#: Snapshots that wait for a disk that refuses.
WAITING_MAX: Final = 60


class UniverseDurable(msgspec.Struct, frozen=True, kw_only=True):
    """What outlives the process: usual depth of each symbol, USD, and when they were kept, ns UTC."""

    kept_ns: int = 0
    references: dict[str, float] = {}


class UniverseService:
    """See the module.

    Options of its context: `max_file_age_days`, days after whose end parts are removed, 0 for never;
    `streams`, arguments of `UniverseStreams`, for tests.
    """

    period_s = 1.0

    def __init__(self, context: Context) -> None:
        self.context = context
        self.folder = context.home.root / UNIVERSE_FOLDER
        self.streams: UniverseStreams | None = None
        self._max_age_days = _days(context.options.get("max_file_age_days", 0.0))
        self._file = DurableState(context.home.state(context.name), UniverseDurable)
        self._references = References()
        self._writer = universe_writer(self.folder)
        self._waiting: deque[tuple[int, pa.Table]] = deque()
        self._minute: int | None = None
        self._part: int | None = None
        self._started_ns = 0
        self._newest: ObfUniverse | None = None
        self._newest_ns: int | None = None
        self._grid_is_back = False
        self._quiet: set[int] = set()
        self._trouble = ""
        self._connection: Subscription | None = None

    # what the host asks

    @property
    def phase(self) -> str:
        """See `Service.phase`."""
        return "warmup" if self._newest is None else "running"

    def health(self) -> tuple[bool, str]:
        """Healthy while every connection brings data, snapshots are made and the disk takes them."""
        streams = self.streams
        now_ns = self.context.clock.now_ns()
        connections = [] if streams is None else streams.connections()
        each = ", ".join(
            f"{c.number}: {plural(c.n_streams, 'stream')}, last book {c.age_s:.0f} s ago" for c in connections
        )
        n_fresh = sum(c.is_fresh for c in connections)
        told = f"{n_fresh} of {plural(len(connections), 'connection')} fresh ({each})"
        if self._trouble:
            return False, f"{self._trouble}; {told}"
        if not connections:
            why = streams.last_error if streams is not None else ""
            waited_ns = now_ns - self._started_ns
            return waited_ns < 2 * SNAPSHOT_EVERY_NS, f"no list of symbols yet{f' ({why})' if why else ''}"
        if self._newest is None or self._newest_ns is None:
            late = now_ns - self._started_ns >= 3 * SNAPSHOT_EVERY_NS
            return not late and all(c.is_fresh for c in connections), f"no snapshot yet; {told}"
        age_ns = max(0, now_ns - self._newest_ns)
        n, of = self._newest.n_assets, len(streams.symbols) if streams is not None else 0
        told = f"snapshot {age_ns / NS_PER_S:.0f} s ago of {n} of {plural(of, 'symbol')}; {told}"
        return age_ns <= 3 * SNAPSHOT_EVERY_NS and all(c.is_fresh for c in connections), told

    def gauges(self) -> dict[str, float]:
        """See `Service.gauges`."""
        found = {
            "symbols_in_snapshot": float(0 if self._newest is None else self._newest.n_assets),
            "snapshots_waiting": float(len(self._waiting)),
        }
        if self.streams is not None:
            found["symbols"] = float(len(self.streams.symbols))
            for c in self.streams.connections():
                found[f"connection_{c.number}_age_s"] = c.age_s
                found[f"connection_{c.number}_streams"] = float(c.n_streams)
            found |= {f"streams_{name}": float(n) for name, n in self.streams.counts.copy().items()}
        return found

    # life

    def start(self) -> None:
        """Restore usual depths and begin to listen.

        Raises ConfigError for a wrong address, age or speed, UsageError without the feeds extra.
        """
        from dolphin.feeds.universe_streams import UniverseStreams

        context, settings = self.context, self.context.settings
        if settings.speed != 1.0:
            raise ConfigError(
                f"books come at the speed of the world, not {settings.speed:g} times; set speed 1"
            )
        self._started_ns = context.clock.now_ns()
        try:
            kept = self._file.load() or UniverseDurable()
        except (DataError, StoreError) as error:
            _log.warning("usual depths begin anew: %s", error)
            kept = UniverseDurable()
        if 0 <= self._started_ns - kept.kept_ns <= NS_PER_DAY:
            self._references = References(kept.references)
        options: Any = context.options.get("streams", {})
        self.streams = UniverseStreams(base_url=settings.exchange, seed=settings.seed, **options)
        self.streams.start()
        self._connection = context.grid.grid.on_connection(self._on_connection)

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event.state is ConnectionState.CONNECTED:
            self._grid_is_back = True
            self.context.wake.set()

    def stop(self) -> None:
        """End the connections and write what waits."""
        if self._connection is not None:
            self._connection.close()
        if self.streams is not None:
            self.streams.stop()
        self._write()

    # work

    def tick(self) -> None:
        """Take a snapshot and write a part where they are due."""
        now_ns = self.context.clock.now_ns()
        self._tell()
        minute, part = now_ns // SNAPSHOT_EVERY_NS, now_ns // PART_EVERY_NS
        # The part first: it ends before this instant, so that a day's last part has no row of the next.
        if self._part is not None and part > self._part:
            self._write()
            self._prune(now_ns)
        self._part = part
        taken = self._minute is not None and minute > self._minute and self._take(now_ns)
        self._minute = minute
        if taken or (self._grid_is_back and self._newest is not None):
            self._grid_is_back = False
            assert self._newest is not None
            self.context.grid.put(OBF_UNIVERSE, self._newest)
            self.context.counts["pushes"] += 1

    def _take(self, now_ns: int) -> bool:
        """A snapshot of what is fresh; False where nothing is."""
        streams = self.streams
        assert streams is not None
        mono_ns = streams.mono_ns()
        rows: dict[str, tuple[BookHealth, float]] = {}
        for symbol, held in streams.books().items():
            age_s = max(0, mono_ns - held.arrived_ns) / NS_PER_S
            if age_s <= BOOK_AGE_MAX_S:
                reference = self._references.fold(symbol, held.top.depth_usd)
                rows[symbol] = health_of(held.top, reference), age_s
        if not rows:
            self.context.counts["snapshots_empty"] += 1
            return False
        self._references.keep_only(streams.symbols)
        if len(self._waiting) >= WAITING_MAX:
            self._waiting.popleft()
            self.context.counts["snapshots_dropped"] += 1
        self._waiting.append((now_ns, universe_table(now_ns, rows)))
        self._newest, self._newest_ns = payload_of(now_ns, rows), now_ns
        self.context.counts["snapshots"] += 1
        return True

    def _write(self) -> None:
        """Write what waits; what the disk refuses waits on."""
        if not self._waiting:
            return
        try:
            while self._waiting:
                # Day by day: a disk that refuses the second must not have the first written twice.
                day = self._waiting[0][0] // NS_PER_DAY
                same = [table for at_ns, table in self._waiting if at_ns // NS_PER_DAY == day]
                self._writer.write(same)
                self._waiting = deque(row for row in self._waiting if row[0] // NS_PER_DAY != day)
            known = self._references.known
            self._file.save(UniverseDurable(kept_ns=self._newest_ns or 0, references=known))
        except StoreError as error:
            self.context.counts["writes_failed"] += 1
            if not self._trouble:
                self.context.tell("resources", f"universe: {error}")
            self._trouble = str(error)
        else:
            self._trouble = ""
            self.context.counts["parts"] += 1

    def _prune(self, now_ns: int) -> None:
        try:
            gone = prune_days(self.folder, now_ns, self._max_age_days)
        except StoreError as error:
            self.context.counts["prunes_failed"] += 1
            _log.warning("%s", error)
            return
        if gone:
            self.context.counts["parts_pruned"] += len(gone)
            _log.info("%s older than %g days removed", plural(len(gone), "part"), self._max_age_days)

    def _tell(self) -> None:
        """One alert for a connection that falls silent, none while it stays so; the rest to the log."""
        streams = self.streams
        assert streams is not None
        for line in streams.notices():
            _log.warning("universe: %s", line)
        for c in streams.connections():
            if c.is_fresh:
                self._quiet.discard(c.number)
            elif c.number not in self._quiet:
                self._quiet.add(c.number)
                self.context.tell(
                    "stale_data",
                    f"universe: connection {c.number} ({plural(c.n_streams, 'stream')}) has brought no book"
                    f" for {c.age_s:.0f} s",
                )


def payload_of(now_ns: int, rows: Mapping[str, tuple[BookHealth, float]]) -> ObfUniverse:
    """What is published of one snapshot, symbol → (health, age in s)."""
    assets = {
        symbol: ObfUniverseAsset(**{name: getattr(rows[symbol][0], name) for name in HEALTH_COLUMNS})
        for symbol in sorted(rows)
    }
    return ObfUniverse(snapshot_utc=iso_from_ns(now_ns), n_assets=len(assets), assets=assets)


def _days(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < math.inf:
        raise ConfigError(f"max_file_age_days is {value!r}, expected days from 0; 0 keeps all for ever")
    return float(value)
