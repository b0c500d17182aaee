"""The scanner as a service: feed → scanner → Arrow store and price ring → whoever wants the scan.

Order on a bar: the scan file first, then the ring row. A process that dies between the two finds the scan
again after a restart, writes the identical file (which changes nothing) and goes on; the other order could
lose a scan. Where the machine itself lost power, the disk may hold the ring's row and not its scan: then the
ring is put aside and a feed with an end is folded again from its start, to the same scans.
Counts are of the whole feed, whatever stopped in between: the bars that an earlier process folded in are gone
through again, without their spectra.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dolphin.domain.bar import Bar
from dolphin.domain.clock import iso_from_ns
from dolphin.domain.errors import DataError, StoreError
from dolphin.domain.scan import WARMUP_PRICES, WINDOWS, Scan
from dolphin.domain.symbols import universe_id
from dolphin.journal.store import require_writable, writer_lock
from dolphin.market.feed import Feed
from dolphin.market.price_ring import PriceRing
from dolphin.market.scan_store import ScanStore
from dolphin.scan.returns import REBASED, REJECTED, bar_returns
from dolphin.scan.ring import decode_row, encode_row, row_bytes
from dolphin.scan.scanner import Path as ScanPath
from dolphin.scan.scanner import ScanEvent, Scanner

RING_FILE = "price_ring.bin"
_EVENT_OF = {REJECTED: "rejected", REBASED: "rebased"}


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth telling about one bar: a refused bar, a rejected or rebased price."""

    timestamp_ns: int
    kind: str
    text: str


class Recount:
    """The events of bars that are folded already, found without solving a window.

    An asset has no variance in a window exactly when all its returns there are equal.
    """

    def __init__(self, symbols: tuple[str, ...]) -> None:
        n = len(symbols)
        self._symbols = symbols
        self._bars = 0
        self._base = np.full(n, np.nan)
        self._rejections = np.zeros(n, np.int64)
        self._returns = np.zeros(n)
        self._what = np.zeros(n, np.int64)
        self._last = np.full(n, np.nan)
        self._equal = np.zeros(n, np.int64)

    def events(self, bar: Bar) -> tuple[ScanEvent, ...]:
        """What the scanner said of this bar; prices are left out."""
        prices = np.ascontiguousarray(bar.prices, np.float64)
        bar_returns(prices, self._base, self._rejections, self._returns, self._what)
        found = []
        if int(self._what.max(initial=0)) >= REJECTED:
            found = [
                ScanEvent(_EVENT_OF.get(what, "invalid"), symbol, bar.timestamp_ns)
                for symbol, what in zip(self._symbols, self._what.tolist(), strict=True)
                if what >= REJECTED
            ]
        self._bars += 1
        if self._bars > 1:  # the first bar has no return
            self._equal = np.where(self._returns == self._last, self._equal + 1, 1)
            self._last[:] = self._returns
        if self._bars >= WARMUP_PRICES and int(self._equal.max(initial=0)) >= WINDOWS[0]:
            found += [
                ScanEvent("zero_variance", self._symbols[i], bar.timestamp_ns, None, window)
                for window in WINDOWS
                for i in np.flatnonzero(self._equal >= window).tolist()
            ]
        return tuple(found)


class ScanPipeline:
    """Turns a feed's bars into stored scans, from where an earlier process stopped.

    `bars`, `counts` and `counts_of_assets` are of every bar since the feed's start, those before a restart
    included; where a feed has no end and gives its past no more, since this process began.
    """

    def __init__(self, feed: Feed, root: Path, path: ScanPath = "fast", *, live: bool = False) -> None:
        """live : for a system that goes on whatever was lost. Scans are flushed, so that no loss of power
        leaves the ring ahead of the store; numbers go on behind the store's highest, from 1 in an empty one;
        a ring that was lost is filled again from the feed's start, and what is stored is not stored twice.

        Raises StoreError and DataError.
        """
        self.feed = feed
        self.store = ScanStore(root, fsync=live)
        self._live = live
        self.counts: Counter[str] = Counter()
        #: By symbol: prices held back or taken as a base, and the scans in which it had no variance.
        self.counts_of_assets: dict[str, Counter[str]] = {}
        self.bars = 0
        self.events: list[Event] = []
        self._lasting: set[tuple[str, str, int | None]] = set()
        self._path: ScanPath = path
        require_writable(root)
        # One writer a store: two scanners would give one number to two scans.
        self._lock = writer_lock(root / RING_FILE)
        found = (root / RING_FILE).exists()
        try:
            self._open_ring(root)
        except BaseException:
            if not found:
                (root / RING_FILE).unlink(missing_ok=True)
            os.close(self._lock)
            raise

    def _open_ring(self, root: Path) -> None:
        """Take the ring up where an earlier process stopped."""
        feed, path = self.feed, self._path
        self._ring = PriceRing(root / RING_FILE, row_bytes(len(feed.symbols)), universe_id(feed.symbols))
        rows = [decode_row(row) for row in self._ring.rows()]
        self.events += [Event(0, "price_ring", text) for text in self._ring.notes]
        self.scanner = (
            Scanner.restore(feed.symbols, rows, path=path) if rows else Scanner(feed.symbols, path=path)
        )
        self._resumed_ns = rows[-1].timestamp_ns if rows else -1
        self._next_number = 1
        self._stored_ns = -1
        if self._live:
            self._go_on(len(rows))
        elif rows:
            self._next_number, newest_ns = self._number_after(self._resumed_ns)
            if len(rows) >= WARMUP_PRICES and newest_ns != self._resumed_ns:
                self.rewind(f"the scan of {iso_from_ns(self._resumed_ns)} is not in {self.store.folder}")

    @property
    def next_number(self) -> int:
        """Number of the next scan."""
        return self._next_number

    def rewind(self, why: str) -> None:
        """Forget the ring, so that `scans` folds the whole feed again and makes lost scans anew.

        Raises StoreError where the feed has no end: its past bars do not come back.
        """
        if self.feed.n_bars is None:
            raise StoreError(f"{why}, and {self.feed.name} cannot be read again; restore the scans' folder")
        self._ring.clear()
        self.scanner = Scanner(self.feed.symbols, path=self._path)
        self._resumed_ns = -1
        self._next_number = 1

    def _go_on(self, n_rows: int) -> None:
        """A live system's number and how far its scans are stored; the newest readable one of ours says."""
        self._next_number = number = self.store.next_scan_number()
        while number > 1 and self._stored_ns < 0:
            number -= 1
            path = self.store.find(number)
            if path is None:
                continue
            try:
                scan = self.store.read(path)
            except DataError as error:
                self.store.quarantine(path, str(error))
            else:
                if scan.universe_id == universe_id(self.feed.symbols):
                    self._stored_ns = scan.timestamp_ns
        if n_rows >= WARMUP_PRICES and self._stored_ns < self._resumed_ns:
            text = f"the scan of {iso_from_ns(self._resumed_ns)} is not in {self.store.folder}: numbers go on"
            self.events.append(Event(self._resumed_ns, "number_reset", f"{text} from {self._next_number}"))
        elif not n_rows and self._stored_ns >= 0:
            text = f"the price ring is lost: the feed is folded again up to {iso_from_ns(self._stored_ns)}"
            self.events.append(Event(self._stored_ns, "ring_lost", text))

    def _number_after(self, timestamp_ns: int) -> tuple[int, int]:
        """Number of the first stored scan after an instant, else the next free one; stamp of the one before.

        A process that died left at most one scan beyond its ring, so the walk is short.
        """
        number = self.store.next_scan_number()
        while number > 1:
            path = self.store.find(number - 1)
            if path is None:
                break
            try:
                newest_ns = self.store.read(path).timestamp_ns
            except DataError as error:
                self.store.quarantine(path, str(error))
            else:
                if newest_ns <= timestamp_ns:
                    return number, newest_ns
            number -= 1
        return number, -1

    def scans(self, limit_bars: int | None = None) -> Iterator[Scan | None]:
        """One item a bar of the feed: the stored scan, or None on a bar that published none.

        limit_bars ends the iteration after so many bars of the feed, those before a restart included.
        """
        newest = -1
        recount = Recount(self.feed.symbols)
        feed = self.feed.bars()
        while limit_bars is None or self.bars < limit_bars:
            bar = next(feed, None)
            if bar is None:
                return
            self.bars += 1
            if bar.timestamp_ns <= self._resumed_ns:
                # Bars that an earlier process folded in: they only count, refused ones again as refused.
                if bar.timestamp_ns <= newest:
                    self.counts["bars_refused"] += 1
                else:
                    self._count(recount.events(bar))
                    newest = bar.timestamp_ns
                continue
            yield self.on_bar(bar)

    @property
    def resumed_ns(self) -> int:
        """Stamp of the last bar that an earlier process folded in, -1 when there was none."""
        return self._resumed_ns

    def on_bar(self, bar: Bar) -> Scan | None:
        """Fold one bar in: the stored scan, or None when it published none. Raises StoreError."""
        step = self.scanner.update(bar, self._next_number)
        if step.refused is not None:
            self.counts["bars_refused"] += 1
            self.events.append(Event(bar.timestamp_ns, "refused", step.refused))
            return None
        self._tell(step.events)
        scan = step.scan
        if scan is not None and scan.timestamp_ns > self._stored_ns:
            self.store.write(scan)
            self._next_number += 1
        else:
            scan = None
        self._ring.append(encode_row(self.scanner.ring_row()))
        return scan

    def _tell(self, events: tuple[ScanEvent, ...]) -> None:
        """Count every event; keep its text only when it is new, so that a lasting state is told once."""
        before = self._lasting
        self._count(events)
        for event in events:
            if (event.kind, event.symbol, event.window_bars) not in before:
                self.events.append(Event(event.timestamp_ns, event.kind, _sentence(event)))

    def _count(self, events: tuple[ScanEvent, ...]) -> None:
        """Count the events of one bar."""
        idle = set()
        for event in events:
            self.counts[event.kind] += 1
            if event.kind == "zero_variance":
                idle.add(event.symbol)
            else:
                self.counts_of_assets.setdefault(event.symbol, Counter())[event.kind] += 1
        for symbol in idle:
            self.counts_of_assets.setdefault(symbol, Counter())["zero_variance_scans"] += 1
        self._lasting = {(event.kind, event.symbol, event.window_bars) for event in events}

    def take_events(self) -> list[Event]:
        """Events since the last call."""
        taken, self.events = self.events, []
        return taken

    def close(self) -> None:
        """Release files."""
        self._ring.close()
        self.feed.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _sentence(event: ScanEvent) -> str:
    match event.kind:
        case "rejected":
            return f"{event.symbol}: price {event.price!r} is more than a factor e away; counts as missing"
        case "rebased":
            return f"{event.symbol}: price {event.price!r} came three times in a row and is the new base"
        case "zero_variance":
            return f"{event.symbol}: has not moved over {event.window_bars} bars; correlation 0 with others"
        case _:
            return f"{event.symbol}: price {event.price!r} is not finite and positive; counts as missing"
