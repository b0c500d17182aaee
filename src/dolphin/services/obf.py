"""The book flow as a service: books and features live from the exchange, on the grid or in a file.

Entry point: `ObfService`, run by `dolphin books`.

1. A symbol's features are made the moment its message is in, on the flow's thread; a bar of theirs is a
   message, ten a second. What looks back some bars (moving average, persistence) looks back some messages
   here. A trader makes its own features of the books at its own bars.
2. A usual depth and a withdrawal are matters of minutes: what the grid hears of them, and of what is made of
   them (quality, fill probability, cascade, regime, depth velocity), is folded at bars of 5 s, as a run's own
   books are. The breaker's stress is made of it. Recorded rows have them by messages.
3. The tick, every 100 ms, makes the figures across assets of the newest books and hands everything on: no
   grid, no disk and no network in it. The flow, the pusher and the recorder have threads of their own.
4. Every row of features is recorded under `ob_features/date=YYYY-MM-DD/`; with `record_raw` every message
   under `ob_raw/` too. Nothing recorded is ever pruned.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import ConfigError, StoreError
from dolphin.grid.payloads import PayloadRejected
from dolphin.grid.port import GridError
from dolphin.grid.topics import OBF
from dolphin.market.book_files import PartWriter, by_day, features_as_table
from dolphin.market.book_schema import FEATURE_FOLDER, FEATURE_SCHEMA
from dolphin.orderbook.engine import BookEngine
from dolphin.orderbook.guards import GuardRules
from dolphin.orderbook.snapshot import BookSnapshot
from dolphin.services.book_pusher import Batch, BookPusher
from dolphin.services.feeds import symbols_of
from dolphin.services.service import Context

if TYPE_CHECKING:
    from dolphin.feeds.book_flow import BookFlow
    from dolphin.feeds.flow_features import FeatureRow, FlowFeatures
    from dolphin.feeds.raw_recorder import RawRecorder

_log = logging.getLogger("dolphin.books")

#: Distance of two recorded parts, seconds, and the most rows that wait for one: 50 symbols for ten minutes.
RECORD_EVERY_S: Final = 60.0
ROWS_WAITING_MAX: Final = 300_000
STOP_S: Final = 10.0
#: The first-flush delay where this system had books so short a time ago: with the whole minute a crash alone
#: would make books older than the minute after which the posture shuts.
AGAIN_FLUSH_NS: Final = 10 * NS_PER_S
AGAIN_WITHIN_NS: Final = 300 * NS_PER_S
#: The bar of what looks back minutes: a scan's.
BAR_NS: Final = 5 * NS_PER_S
#: Longest silence of all books that is still healthy.
HEALTHY_NS: Final = 5 * NS_PER_S


class Recorder:
    """Features, and raw messages where wanted, to parts of days from a thread of its own."""

    def __init__(self, root: Path, raw: RawRecorder | None, every_s: float = RECORD_EVERY_S) -> None:
        self._writer = PartWriter(root / FEATURE_FOLDER, FEATURE_SCHEMA)
        self._raw = raw
        self._every_s = every_s
        self._waiting: deque[pa.Table] = deque()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="book-recorder", daemon=True)
        self.trouble = ""
        self.n_dropped = 0

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def add(self, table: pa.Table) -> None:
        """Keep these rows; beyond the bound the newest are dropped and counted."""
        waiting = sum(each.num_rows for each in self._waiting.copy())
        if waiting + table.num_rows > ROWS_WAITING_MAX:
            self.n_dropped += table.num_rows
        else:
            self._waiting.append(table)

    def stop(self) -> None:
        """Write what waits and end."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self.flush()
        self.flush()

    @property
    def n_messages_dropped(self) -> int:
        """Raw messages that found no room while the disk refused."""
        return 0 if self._raw is None else self._raw.n_dropped

    def flush(self) -> None:
        """Write what waits; what the disk refuses waits on."""
        # Day by day: a disk that refuses the second must not have the first written twice.
        tables = by_day([self._waiting.popleft() for _ in range(len(self._waiting))])
        try:
            while tables:
                self._writer.write(tables[:1])
                del tables[0]
            if self._raw is not None:
                self._raw.flush()
        except Exception as error:  # the next flush has to come, whatever this one met
            self._waiting.extendleft(reversed(tables))
            self.trouble = str(error) if isinstance(error, StoreError) else f"cannot record: {error!r}"
        else:
            self.trouble = ""
        # What a part took to be written goes back: kept for the next one, it only grows.
        pa.default_memory_pool().release_unused()


class ObfService:
    """See the module.

    Options of its context: `first_flush_s`, seconds, for tests.
    """

    period_s = 0.1

    def __init__(self, context: Context) -> None:
        self.context = context
        self.symbols: tuple[str, ...] = ()
        self.flow: BookFlow | None = None
        self.features: FlowFeatures | None = None
        self._engine = self._slow = BookEngine(())
        self._slow_bar = self._slow_at = self._recorded_s = -1
        self._tell_later: deque[str] = deque(maxlen=100)
        self.pusher = BookPusher(context.grid, context.home.ob_cache, context.counts, self._tell_later.append)
        self._recorder: Recorder | None = None
        self._told_dropped = False
        self._bar = -1
        self._n_fresh = 0
        self._fresh_ns: int | None = None
        self._started_ns = 0
        self._first_flush_ns = GuardRules().first_flush_ns

    # what the host asks

    @property
    def phase(self) -> str:
        """See `Service.phase`."""
        return "warmup" if self._fresh_ns is None else "running"

    def health(self) -> tuple[bool, str]:
        """Healthy while books are fresh, or not due yet, and somebody takes them."""
        trouble = self.pusher.trouble or (self._recorder.trouble if self._recorder else "")
        if trouble:
            return False, trouble
        now_ns = self.context.clock.now_ns()
        told = f"{self._n_fresh} of {len(self.symbols)} books fresh, circuit {self.pusher.circuit.state}"
        due_ns = self._started_ns + self._first_flush_ns + 60 * NS_PER_S
        if self._fresh_ns is None:
            return now_ns < due_ns, f"no book yet; {told}"
        return now_ns - self._fresh_ns <= HEALTHY_NS, told

    def gauges(self) -> dict[str, float]:
        """See `Service.gauges`."""
        found = {
            "books_fresh": float(self._n_fresh),
            "circuit_closed": float(self.pusher.circuit.state == "closed"),
        }
        if self.flow is not None:
            found |= {f"flow_{name}": float(n) for name, n in self.flow.counts.copy().items()}
            found["symbols_stale"] = float(len(self.flow.stale()))
        if self._recorder is not None:
            found["records_dropped"] = float(self._recorder.n_dropped)
            found["messages_dropped"] = float(self._recorder.n_messages_dropped)
        if self.features is not None:
            found["books_refused"] = float(self.features.n_refused)
            found["rows_dropped"] = float(self.features.n_dropped)
        return found

    # life

    def start(self) -> None:
        """Begin to watch.

        Raises ConfigError for a wrong address, universe or speed, UsageError without the feeds extra.
        """
        from dolphin.feeds.book_flow import BookFlow
        from dolphin.feeds.book_view import BookView
        from dolphin.feeds.flow_features import FlowFeatures
        from dolphin.feeds.raw_recorder import RAW_FOLDER, RawRecorder

        context, settings = self.context, self.context.settings
        if settings.speed != 1.0:
            raise ConfigError(
                f"books come at the speed of the world, not {settings.speed:g} times; set speed 1"
            )
        self.symbols = symbols_of(settings)
        rules = self._rules()
        self._first_flush_ns = rules.first_flush_ns
        self._engine, self._slow = BookEngine(self.symbols), BookEngine(self.symbols)
        raw = RawRecorder(context.home.root / RAW_FOLDER) if settings.record_raw else None
        self._recorder = Recorder(context.home.root, raw)
        self.features = FlowFeatures(self.symbols)
        self.flow = BookFlow(
            self.symbols,
            BookView(),
            base_url=settings.exchange,
            rules=rules,
            now_ns=context.clock.now_ns,
            seed=settings.seed,
            recorder=raw,
            on_book=self.features.hear,
            freeze_heap=True,
        )
        self._started_ns = context.clock.now_ns()
        self.flow.start()
        self.pusher.start()
        self._recorder.start()

    def _rules(self) -> GuardRules:
        """The guards' limits, with the first-flush delay that is due."""
        context = self.context
        asked_s = context.options.get("first_flush_s")
        if isinstance(asked_s, (int, float)):
            return GuardRules(first_flush_ns=int(asked_s * NS_PER_S))
        told = None
        with contextlib.suppress(GridError, PayloadRejected):
            told = context.grid.get(OBF)
        told_ns = None if told is None else told.source_ns()
        if told_ns is not None and 0 <= context.clock.now_ns() - told_ns <= AGAIN_WITHIN_NS:
            return GuardRules(first_flush_ns=AGAIN_FLUSH_NS)
        return GuardRules()

    def stop(self) -> None:
        """Close the connections, push no more, write what is recorded."""
        if self.flow is not None:
            self.flow.stop()
        self.pusher.stop()
        if self._recorder is not None:
            self._record()
            self._recorder.stop()

    # work

    def tick(self) -> None:
        """Figures across the newest books, handed on with the features that came since the last tick."""
        flow, features, engine = self.flow, self.features, self._engine
        assert flow is not None
        assert features is not None
        self._tell(flow)
        now_ns = self.context.clock.now_ns()
        books: dict[str, BookSnapshot] = {}
        for symbol in self.symbols:
            book = flow.view.newest(symbol)
            if book is not None:
                books[symbol] = book
        if not books and self._fresh_ns is None:
            return  # nothing was published yet: nothing is said of it
        self._bar += 1
        report = engine.step_live(self._bar, now_ns, books.get)
        for notice in report.notices:
            _log.warning("books: %s", notice)
        if now_ns // BAR_NS != self._slow_at:
            self._slow_at = now_ns // BAR_NS
            self._slow_bar += 1
            self._slow.step_live(self._slow_bar, now_ns, books.get)
        self._n_fresh = report.n_fresh
        if report.n_fresh:
            self._fresh_ns = now_ns
        if now_ns // NS_PER_S != self._recorded_s:
            # A table a second: one a tick would be 8,000 little columns by the time that they are written.
            self._recorded_s = now_ns // NS_PER_S
            self._record()
        fresh = [symbol for symbol, is_fresh in zip(self.symbols, engine.fresh(), strict=True) if is_fresh]
        self.pusher.offer(
            Batch(
                now_ns,
                books,
                {s: row for s in fresh if (row := features.newest(s)) is not None},
                dict(zip(self.symbols, self._slow.features().T.tolist(), strict=True)),
                {s: top for s in fresh if (top := flow.tops.get(s)) is not None},
                engine.get_market(self._bar),
                self._slow.get_macro(self._slow_bar),
            )
        )
        self.context.counts["ticks"] += 1

    def _record(self) -> None:
        """The features since the last call, to the recorder."""
        rows = [] if self.features is None else self.features.taken()
        if rows and self._recorder is not None:
            self._recorder.add(_table_of(rows))

    def _tell(self, flow: BookFlow) -> None:
        """What other threads have to say, said on the host's."""
        for kind, text in flow.notices():
            if kind == "alert":
                self.context.tell("stale_data", text)
            else:
                _log.warning("%s", text)
        recorder = self._recorder
        if recorder is not None and not self._told_dropped and (n := recorder.n_messages_dropped):
            self._told_dropped = True
            self.context.tell("resources", f"{n:,} raw messages dropped, {recorder.trouble or 'no room'}")
        while self._tell_later:
            self.context.tell("grid", self._tell_later.popleft())


def _table_of(rows: list[FeatureRow]) -> pa.Table:
    """Rows of features as they are recorded."""
    return features_as_table(
        np.array([row.instant_ns for row in rows], np.int64),
        np.array([row.bar for row in rows], np.int64),
        [row.symbol for row in rows],
        np.ones(len(rows), np.bool_),
        np.array([row.values for row in rows]).T,
    )
