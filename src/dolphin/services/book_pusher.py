"""Books and features to the grid from a thread of its own, to a file while the grid does not take them.

Entry points: `Batch` (everything of one instant), `BookPusher`.

1. A batch that was not taken yet is replaced by a newer one: whoever makes batches never waits.
2. Five failures in a row open the circuit: file only, until a probe goes through. Then the file says that the
   grid is right again.
3. A book is pushed when it changed; features and best levels of fresh assets and the market's figures once
   a second.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.domain.errors import StoreError
from dolphin.grid.books import payload_of
from dolphin.grid.payloads import ObfLatest, PayloadRejected, RawBook, ShardFeatures
from dolphin.grid.port import GridError
from dolphin.grid.shards import shard_index
from dolphin.grid.topics import ASSET_OB, OBF, RAW_BOOK, SHARD_FEATURES
from dolphin.grid.typed import TypedGrid
from dolphin.orderbook import fold
from dolphin.orderbook.snapshot import BookSnapshot
from dolphin.orderbook.values import MacroFigures, MarketFigures
from dolphin.services.book_cache import BookFile, write_cache
from dolphin.services.circuit import Circuit

if TYPE_CHECKING:
    from dolphin.feeds.book_flow import TopOfBook
    from dolphin.feeds.flow_features import FeatureRow

#: Distances, ns: of two pushes of features, of two files.
FEATURES_EVERY_NS: Final = NS_PER_S
FILE_EVERY_NS: Final = NS_PER_S // 2
BACKOFF_MAX_NS: Final = 10 * NS_PER_S
STOP_S: Final = 5.0


class Batch(NamedTuple):
    """Everything of one instant: by symbol the books, features and best levels that are fresh; the market.

    slow, features of all symbols, and macro look back minutes and not messages.
    """

    now_ns: int
    books: dict[str, BookSnapshot]
    rows: dict[str, FeatureRow]
    slow: dict[str, list[float]]
    tops: dict[str, TopOfBook]
    market: MarketFigures
    macro: MacroFigures


class BookPusher:
    """See the module.

    Parameters
    ----------
    grid : pushed to; folder : of the file
    counts : pushed_books, pushed_features, pushed_tops, push_failures, files, file_failures, batches_replaced
    tell : one line for a person when the circuit opens and closes; called on this thread
    """

    def __init__(
        self, grid: TypedGrid, folder: Path, counts: Counter[str], tell: Callable[[str], None]
    ) -> None:
        self._grid, self._folder, self._counts, self._tell = grid, folder, counts, tell
        self.circuit = Circuit(backoff_max_ns=BACKOFF_MAX_NS)
        self.trouble = ""
        self._slot: Batch | None = None
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="book-pusher", daemon=True)
        self._pushed: dict[str, BookSnapshot] = {}
        self._features_ns: int | None = None
        self._file_ns: int | None = None
        self._file_open = False

    def start(self) -> None:
        """Begin to push."""
        self._thread.start()

    def offer(self, batch: Batch) -> None:
        """Push this one next, instead of one that still waits; returns at once."""
        with self._lock:
            self._counts["batches_replaced"] += self._slot is not None
            self._slot = batch
        self._news.set()

    def stop(self) -> None:
        """Push no more; a push that is out has 5 s."""
        self._ending = True
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._ending:
            self._news.wait()
            self._news.clear()
            with self._lock:
                batch, self._slot = self._slot, None
            if batch is not None and not self._ending:
                self.handle(batch)

    def handle(self, batch: Batch) -> None:
        """Push one batch, or write it to the file. Raises nothing that the world can cause."""
        was = self.circuit.state
        if self.circuit.allows(batch.now_ns):
            try:
                self._push(batch)
            except GridError as error:
                self._counts["push_failures"] += 1
                self.circuit.failed(batch.now_ns)
                if was == "closed" and self.circuit.state == "open":
                    self._tell(f"books go to the file, the grid does not take them: {error}")
            else:
                self.circuit.succeeded()
                if was != "closed":
                    self._tell("books go to the grid again")
        if self.circuit.state != "closed" or self._file_open:
            self._write(batch)

    def _push(self, batch: Batch) -> None:
        for symbol, book in batch.books.items():
            if self._pushed.get(symbol) is not book:
                if self._put(lambda s=symbol, b=book: self._grid.put(ASSET_OB, payload_of(b), symbol=s)):  # type: ignore[misc]
                    self._counts["pushed_books"] += 1
                self._pushed[symbol] = book
        if self._features_ns is not None and 0 <= batch.now_ns - self._features_ns < FEATURES_EVERY_NS:
            return
        for symbol, payload in features_of(batch).items():
            shard = f"{shard_index(symbol):02d}"
            if self._put(
                lambda s=symbol, p=payload, d=shard: self._grid.put(SHARD_FEATURES, p, symbol=s, shard=d)  # type: ignore[misc]
            ):
                self._counts["pushed_features"] += 1
        for symbol, top in batch.tops.items():
            if self._put(lambda s=symbol, t=top: self._grid.put(RAW_BOOK, raw_of(t), symbol=s)):  # type: ignore[misc]
                self._counts["pushed_tops"] += 1
        self._put(lambda: self._grid.put(OBF, market_of(batch)))
        self._features_ns = batch.now_ns

    def _put(self, work: Callable[[], None]) -> bool:
        """False, and counted, for a payload that breaks its rules: the others go on."""
        try:
            work()
        except PayloadRejected:
            self._counts["payloads_refused"] += 1
            return False
        return True

    def _write(self, batch: Batch) -> None:
        """The file while the circuit is not closed, and once more when it is closed again."""
        closed = self.circuit.state == "closed"
        if not closed and self._file_ns is not None and 0 <= batch.now_ns - self._file_ns < FILE_EVERY_NS:
            return
        self._file_ns = batch.now_ns
        content = BookFile(
            written_ns=batch.now_ns,
            circuit=self.circuit.state,
            books={symbol: payload_of(book) for symbol, book in batch.books.items()},
            features=features_of(batch),
            market=market_of(batch),
        )
        try:
            write_cache(self._folder, content)
        except StoreError as error:
            self._counts["file_failures"] += 1
            self.trouble = str(error)
            return
        self._counts["files"] += 1
        self.trouble = ""
        self._file_open = not closed


def features_of(batch: Batch) -> dict[str, ShardFeatures]:
    """Features of the assets that were fresh, as they go onto the grid."""
    found = {}
    for symbol, row in batch.rows.items():
        column, slow = row.values.tolist(), batch.slow[symbol]
        found[symbol] = ShardFeatures(
            imbalance=column[fold.IMBALANCE],
            imbalance_ma5=column[fold.MA5],
            imbalance_persistence=column[fold.PERSISTENCE],
            depth_1pct_usd=column[fold.DEPTH],
            depth_quality=slow[fold.QUALITY],
            fill_probability=slow[fold.FILL],
            spread_proxy_bps=column[fold.SPREAD],
            depth_asymmetry=column[fold.ASYMMETRY],
            withdrawal_velocity=slow[fold.WITHDRAWAL],
            regime_signal=batch.macro.regime_signal,
            timestamp=iso_from_ns(row.book.timestamp_ns),
        )
    return found


def raw_of(top: TopOfBook) -> RawBook:
    """The best levels of a book as they go onto the grid."""
    bids, asks = (
        tuple(zip(prices.tolist(), quantities.tolist(), strict=True))
        for prices, quantities in (top.bids, top.asks)
    )
    return RawBook(
        timestamp=iso_from_ns(top.timestamp_ns), bids=bids, asks=asks, last_update_id=top.update_id
    )


def market_of(batch: Batch) -> ObfLatest:
    """The figures across assets, as they go onto the grid."""
    market, macro = batch.market, batch.macro
    return ObfLatest(
        timestamp=iso_from_ns(batch.now_ns),
        n_assets=market.n_assets,
        median_imbalance=market.median_imbalance,
        agreement_pct=market.agreement_pct,
        depth_pressure=market.depth_pressure,
        cascade_count=macro.cascade_count,
        regime_signal=macro.regime_signal,
        depth_velocity=macro.depth_velocity,
        acceleration=macro.acceleration,
        degraded=market.degraded,
    )
