"""A recorded book at work: raw messages drive a `Book`, and what it shows is read every 100 ms.

`BookReplay(source)` is iterated once, by `rows` (best 20 levels, for `book_rows`) or by `snapshots` (bands,
as every provider gives them); its counters are complete when the iteration is.

1. A boundary is a multiple of 100 ms of exchange time E. It shows the book after the last message with
   E <= boundary, and only once the next message has proven that nothing is missing in between. The first one
   is that after the first message that came on a founded book.
2. Where the chain breaks, boundaries stop: the book is not known there, and nothing is made up. They go on
   with the next snapshot, or when the missing message comes late. A recording without another snapshot
   therefore shows nothing after its gap; `known_at_end` says so, and `n_boundaries_missing` counts what is
   not shown up to its last message.
3. A crossed book shows nothing at a boundary. Levels beyond what the snapshot showed are not shown either.
4. Each message of damage is counted under one word of `DAMAGE`; what is damaged never reaches the book.
5. Best bid and ask are held against bookTicker: at equal update id, and at each difference against the last
   bookTicker up to it. Both streams have every change of the touch, so both must agree in price and quantity.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from dolphin.domain.bar import FloatArray
from dolphin.domain.errors import DataError
from dolphin.market.book_messages import (
    BOOK_TICKER,
    DEPTH,
    NS_PER_MS,
    SNAPSHOT,
    BookTicker,
    RawMessage,
    Source,
    difference_from,
    read_messages,
    snapshot_from,
    ticker_from,
)
from dolphin.orderbook.bands import book_snapshot
from dolphin.orderbook.book import Book, Difference, Outcome
from dolphin.orderbook.snapshot import BookSnapshot

STEP_NS: Final = 100 * NS_PER_MS
N_LEVELS: Final = 20
#: A book that was silent for longer shows nothing in between: one wrong time must not fill a file.
SILENCE_NS: Final = 60_000 * NS_PER_MS
#: What can be wrong with a message, in the order in which it is told.
DAMAGE: Final = (
    Outcome.GAP.value,
    Outcome.DUPLICATE.value,
    Outcome.REORDERED.value,
    Outcome.CROSSED.value,
    Outcome.SNAPSHOT_OLD.value,
    "malformed",
    "other_symbol",
)
#: bookTickers and book states that wait for one another, at most.
_WAITING: Final = 10_000

Touch = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class TopRow:
    """The best 20 levels at a boundary.

    values is float64 (80,): bid prices, bid sizes, ask prices, ask sizes, each best first; NaN where a level
    is not there or not known.
    """

    timestamp_ns: int
    last_update_id: int
    values: FloatArray


class Agreement:
    """Best bid and ask of the book against bookTicker, in price and quantity, while both come in."""

    def __init__(self) -> None:
        self.n_compared = 0
        self.n_equal = 0
        self.n_same_id = 0
        self.n_same_id_equal = 0
        #: Update id of the first disagreement.
        self.first_unequal_id: int | None = None
        self._states: deque[tuple[int, Touch]] = deque(maxlen=_WAITING)
        self._tickers: deque[BookTicker] = deque(maxlen=_WAITING)
        self._last: BookTicker | None = None

    def see_book(self, book: Book) -> None:
        """A state of the known book."""
        bid, ask = book.bids.best(), book.asks.best()
        if bid is not None and ask is not None:
            self._states.append((book.last_id, (*bid, *ask)))

    def see_ticker(self, ticker: BookTicker) -> None:
        """The stream's next bookTicker: all up to its id have been here, so older states can be judged."""
        newest = self._tickers[-1] if self._tickers else self._last
        if newest is not None and ticker.u <= newest.u:
            return
        self._tickers.append(ticker)
        while self._states and self._states[0][0] < ticker.u:
            self._judge(*self._states.popleft())

    def _judge(self, update_id: int, touch: Touch) -> None:
        while self._tickers and self._tickers[0].u <= update_id:
            self._last = self._tickers.popleft()
        last = self._last
        if last is None:
            return
        equal = touch == (last.b, last.B, last.a, last.A)
        self.n_compared += 1
        self.n_equal += equal
        if last.u == update_id:
            self.n_same_id += 1
            self.n_same_id_equal += equal
        if not equal and self.first_unequal_id is None:
            self.first_unequal_id = update_id


class BookReplay:
    """One symbol of a raw recording, driven through a book. Iterate it once."""

    def __init__(self, source: Source, symbol: str | None = None) -> None:
        """Parameters as of `read_messages`: file, folder or files; symbol, where they hold several. Files are
        opened when iterated.
        """
        self._source = source
        self._wanted = symbol
        self.symbol = symbol or ""
        self.book = Book()
        self.agreement = Agreement()
        self.damage: Counter[str] = Counter(dict.fromkeys(DAMAGE, 0))
        #: First message of each kind of damage: (row in the recording, what it says).
        self.first_damage: dict[str, tuple[int, str]] = {}
        #: Messages of this symbol, and rows of the recording passed by.
        self.n_messages = 0
        self.n_file_rows = 0
        self.n_depth = 0
        self.n_snapshots = 0
        self.n_rows = 0
        # E of the newest difference written, and whether the book has been known ever since.
        self._clock = -1
        self._proven = False
        # First and last boundary passed by, and the latest E of all differences.
        self._first = self._passed = self._latest = -1

    @property
    def n_resyncs(self) -> int:
        """How many times the book became known again."""
        return max(0, self.book.n_syncs - 1)

    @property
    def n_boundaries_missing(self) -> int:
        """Boundaries from the first one shown to the last message that show nothing: the book was not known,
        crossed, or silent for longer than `SILENCE_NS`.
        """
        return (self._latest - self._first) // STEP_NS + 1 - self.n_rows if self.n_rows else 0

    @property
    def known_at_end(self) -> bool:
        """Whether the book is known now. Where it is not, `lost_ns` says since when."""
        return self.book.known

    @property
    def lost_ns(self) -> int | None:
        """E of the last difference before the chain broke, where the book is not known now but was once."""
        return self.book.event_ns if self.book.n_syncs and not self.book.known else None

    def rows(self) -> Iterator[TopRow]:
        """The best 20 levels at every boundary at which the book is known. Raises DataError, StoreError."""
        for timestamp_ns, _ in self._boundaries():
            values = np.full((4, N_LEVELS), np.nan)
            for side, at in ((self.book.bids, 0), (self.book.asks, 2)):
                prices, quantities = side.levels(min(N_LEVELS, side.n_known()))
                values[at, : len(prices)] = prices
                values[at + 1, : len(prices)] = quantities
            yield TopRow(timestamp_ns, self.book.last_id, values.reshape(-1))

    def snapshots(self) -> Iterator[BookSnapshot]:
        """The bands at every boundary at which the book is known; `pushed_ns` is the recorder's clock of the
        message that closed it, `push_seq` counts from 1. Raises DataError, StoreError.
        """
        for timestamp_ns, recv_ns in self._boundaries():
            bids, asks = self.book.bids, self.book.asks
            snapshot = book_snapshot(
                timestamp_ns, bids.levels(), asks.levels(), bid_edge=bids.edge, ask_edge=asks.edge,
                pushed_ns=recv_ns, push_seq=self.n_rows,
            )  # fmt: skip
            assert snapshot is not None  # a boundary has two sides that do not cross
            yield snapshot

    def _boundaries(self) -> Iterator[tuple[int, int]]:
        """(boundary, recorder's clock) of each boundary that the book may be read at, before it moves on."""
        recv_ns = 0
        for message in read_messages(self._source, self._wanted):
            self.n_messages += 1
            self.n_file_rows = message.row + 1
            recv_ns = message.recv_ns
            try:
                if message.kind == DEPTH:
                    self.n_depth += 1
                    difference, named = difference_from(message.raw)
                    if not self._is_ours(message, named):
                        continue
                    for timestamp_ns in self._until(difference):
                        yield timestamp_ns, recv_ns
                    self._apply(message, difference)
                elif message.kind == SNAPSHOT:
                    self.n_snapshots += 1
                    self._told(message, self.book.load(snapshot_from(message.raw)))
                elif message.kind == BOOK_TICKER:
                    ticker = ticker_from(message.raw)
                    if self._is_ours(message, ticker.s):
                        self.agreement.see_ticker(ticker)
            except DataError as error:
                self._count(message, "malformed", str(error))
        # The last message may lie on a boundary itself.
        if self._proven and self._clock % STEP_NS == 0:
            for timestamp_ns in self._between(self._clock + 1):
                yield timestamp_ns, recv_ns

    def _until(self, difference: Difference) -> Iterator[int]:
        """Boundaries that the book's present state holds for, now that its next difference is here."""
        if self._proven and self.book.follows(difference):
            yield from self._between(difference.event_ns)

    def _between(self, end_ns: int) -> Iterator[int]:
        """Boundaries from the clock on and before end_ns, each once, unless the book is crossed."""
        if end_ns > self._clock + SILENCE_NS:
            return
        first = max(-(-self._clock // STEP_NS) * STEP_NS, self._passed + STEP_NS)
        readable = len(self.book.bids) > 0 and len(self.book.asks) > 0 and not self.book.crossed
        for timestamp_ns in range(first, end_ns, STEP_NS):
            self._passed = timestamp_ns
            if readable:
                self._first = timestamp_ns if self.n_rows == 0 else self._first
                self.n_rows += 1
                yield timestamp_ns

    def _apply(self, message: RawMessage, difference: Difference) -> None:
        before = self.book.last_id
        self._told(message, self.book.apply(difference))
        self._latest = _later(self._latest, difference.event_ns)
        if not self.book.known:
            self._proven = False
            return
        if self.book.last_id != before:
            self.agreement.see_book(self.book)
        self._clock = _later(self._clock, self.book.event_ns) if self._proven else self.book.event_ns
        self._proven = True

    def _is_ours(self, message: RawMessage, named: str) -> bool:
        """Whether the message is of this book's symbol, which the first one names."""
        if named and not self.symbol:
            self.symbol = named
        if named and named != self.symbol:
            self._count(message, "other_symbol", f"is of {named}, expected {self.symbol}")
            return False
        return True

    def _told(self, message: RawMessage, outcome: Outcome) -> None:
        if outcome.value in self.damage:
            self._count(message, outcome.value, f"{message.kind} at update id {self.book.last_id}")

    def _count(self, message: RawMessage, word: str, text: str) -> None:
        self.damage[word] += 1
        self.first_damage.setdefault(word, (message.row, text))


def _later(time_ns: int, new_ns: int) -> int:
    """The later time; but where the new one lies far back, the other was wrong."""
    return new_ns if new_ns < time_ns - SILENCE_NS else max(time_ns, new_ns)
