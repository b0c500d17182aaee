"""A line: one order book with its trades and candles, carried by one or several symbols.

The book changes in small updates; streams of 100, 250 or 500 ms publish what changed since their last time,
so a snapshot falls into the middle of a published difference, as it does on the exchange.

1. U, u and pu: `pu` of a difference is the `u` of the one before it on the same stream.
2. A snapshot's `lastUpdateId` is the last update in the book, published or not.
3. `published` is the book that a client of `@depth@100ms` has after the last difference: tests look at it.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from zlib import crc32

SLOT_MS = 10
MINUTE_MS = 60_000
#: Price and quantity as text, the exchange's own.
Level = tuple[str, str]
Side = dict[float, Level]

INTERVALS_MS = {
    "1m": 60_000, "3m": 180_000, "5m": 300_000, "15m": 900_000, "30m": 1_800_000, "1h": 3_600_000,
    "2h": 7_200_000, "4h": 14_400_000, "6h": 21_600_000, "8h": 28_800_000,
    "12h": 43_200_000, "1d": 86_400_000,
}  # fmt: skip


def _store(side: Side, levels: list[Level]) -> None:
    for price, quantity in levels:
        if float(quantity) == 0:
            side.pop(float(price), None)
        else:
            side[float(price)] = (price, quantity)


@dataclass
class Book:
    bids: Side = field(default_factory=dict)
    asks: Side = field(default_factory=dict)
    last_id: int = 0

    def apply(self, bids: list[Level], asks: list[Level], last_id: int) -> None:
        _store(self.bids, bids)
        _store(self.asks, asks)
        self.last_id = last_id

    def top(self, n: int) -> tuple[list[Level], list[Level]]:
        """The best n levels of both sides, best first."""
        return (
            [self.bids[p] for p in heapq.nlargest(n, self.bids)],
            [self.asks[p] for p in heapq.nsmallest(n, self.asks)],
        )

    @property
    def best(self) -> tuple[Level, Level] | None:
        if not self.bids or not self.asks:
            return None
        return self.bids[max(self.bids)], self.asks[min(self.asks)]


@dataclass
class Pending:
    """What a stream of differences has not told yet."""

    last_told: int
    first_id: int | None = None
    bids: Side = field(default_factory=dict)
    asks: Side = field(default_factory=dict)

    def add(self, first_id: int, bids: list[Level], asks: list[Level]) -> None:
        if self.first_id is None:
            self.first_id = first_id
        for side, levels in ((self.bids, bids), (self.asks, asks)):
            for level in levels:
                side[float(level[0])] = level


@dataclass(frozen=True)
class Difference:
    first_id: int
    last_id: int
    previous_id: int
    bids: list[Level]
    asks: list[Level]


@dataclass
class Trade:
    id: int
    price: str
    quantity: str
    buyer_is_maker: bool


@dataclass
class Candle:
    open_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float = 0.0
    quote: float = 0.0
    trades: int = 0
    taker_base: float = 0.0
    taker_quote: float = 0.0
    first_trade: int = 0
    last_trade: int = 0

    def trade(self, price: float, quantity: float, taker_bought: bool, trade_id: int) -> None:
        self.high, self.low, self.close = max(self.high, price), min(self.low, price), price
        self.volume += quantity
        self.quote += price * quantity
        self.first_trade = self.first_trade or trade_id
        self.last_trade = trade_id
        self.trades += 1
        if taker_bought:
            self.taker_base += quantity
            self.taker_quote += price * quantity


class Line:
    """One book, its symbols, its trades and its candles."""

    def __init__(
        self, symbols: list[str], price: float, *, price_digits: int, quantity_digits: int, phase: int = 0
    ) -> None:
        self.symbols = symbols
        self.price_digits = price_digits
        self.quantity_digits = quantity_digits
        #: When in every 100 ms its differences are published, in slots.
        self.phase = phase
        self.book = Book()
        self.published = Book()
        self.pending: dict[int, Pending] = {}
        self.quote: tuple[Level, Level] | None = None
        self.last_price = price
        self.candles: dict[int, Candle] = {}
        self._anchor = price
        self._day: tuple[int, Candle] | None = None
        self._anchor_minute: int | None = None
        self._wave = crc32(symbols[0].encode()) / 2**32 * 2 * math.pi

    def open_at(self, now_ms: int) -> None:
        """The market begins: candles before this minute are history, from it on they are of its trades."""
        self._anchor_minute = now_ms // MINUTE_MS
        self.published = Book(dict(self.book.bids), dict(self.book.asks), self.book.last_id)
        self.pending = {100: Pending(self.book.last_id)}
        self.candles.clear()
        self._candle(now_ms)

    def publishes(self, interval_ms: int) -> None:
        """From now on differences of this interval are kept, too."""
        self.pending.setdefault(interval_ms, Pending(self.book.last_id))

    def update(self, first_id: int, last_id: int, bids: list[Level], asks: list[Level]) -> None:
        self.book.apply(bids, asks, last_id)
        for pending in self.pending.values():
            pending.add(first_id, bids, asks)

    def publish(self, interval_ms: int) -> Difference | None:
        """What changed since the last time, or None."""
        pending = self.pending[interval_ms]
        if pending.first_id is None:
            return None
        told = Difference(
            pending.first_id, self.book.last_id, pending.last_told,
            sorted(pending.bids.values(), key=lambda level: float(level[0])),
            sorted(pending.asks.values(), key=lambda level: float(level[0])),
        )  # fmt: skip
        self.pending[interval_ms] = Pending(self.book.last_id)
        if interval_ms == 100:
            self.published.apply(told.bids, told.asks, told.last_id)
        return told

    def trade(self, now_ms: int, trade: Trade) -> None:
        self.last_price = float(trade.price)
        self._candle(now_ms).trade(self.last_price, float(trade.quantity), not trade.buyer_is_maker, trade.id)

    def _candle(self, now_ms: int) -> Candle:
        minute = now_ms // MINUTE_MS
        candle = self.candles.get(minute)
        if candle is None:
            p = self.last_price
            candle = self.candles[minute] = Candle(minute * MINUTE_MS, p, p, p, p)
        return candle

    def _past(self, minute: float) -> float:
        """Price at a minute before the market began: a wave that ends at the opening price."""
        t = minute - (self._anchor_minute or 0)
        w = self._wave
        return self._anchor * (
            1.0
            + 0.010 * (math.sin(t / 400 + w) - math.sin(w))
            + 0.002 * (math.sin(t / 37 + 2 * w) - math.sin(2 * w))
            + 0.0005 * math.sin(t * 1.7)
        )

    def minute(self, minute: int) -> Candle:
        """The candle of one minute: of trades where there were some, else flat or history."""
        candle = self.candles.get(minute)
        if candle is not None:
            return candle
        if minute >= (self._anchor_minute or 0):
            before = max((m for m in self.candles if m < minute), default=None)
            p = self.candles[before].close if before is not None else self._anchor
            return Candle(minute * MINUTE_MS, p, p, p, p)
        points = [self._past(minute + k / 4) for k in range(5)]
        volume = 1_000.0 * (1.5 + math.sin(minute * 0.9 + self._wave)) * 100 / self._anchor
        return Candle(
            minute * MINUTE_MS, points[0], max(points), min(points), points[-1], volume, volume * points[0],
            100, volume * 0.52, volume * 0.52 * points[0],
        )  # fmt: skip

    def day(self, minute: int) -> Candle:
        """The 24 hours before a minute; looked at once a minute."""
        if self._day is None or self._day[0] != minute:
            begin = (minute - 1_440) * MINUTE_MS
            self._day = minute, self.candle_of(begin, 1_440 * MINUTE_MS, minute * MINUTE_MS)
        return self._day[1]

    def candle_of(self, open_ms: int, interval_ms: int, now_ms: int) -> Candle:
        """The candle of an interval; long ones look at up to 60 of their minutes."""
        first, n = open_ms // MINUTE_MS, interval_ms // MINUTE_MS
        last = min(first + n - 1, now_ms // MINUTE_MS)
        if n == 1:
            return self.minute(first)
        stride = max(1, n // 60)
        minutes = sorted(
            {*range(first, last + 1, stride), last, *(m for m in self.candles if first <= m <= last)}
        )
        parts = [self.minute(m) for m in minutes]
        sums = ("volume", "quote", "trades", "taker_base", "taker_quote")
        return Candle(
            open_ms, parts[0].open, max(c.high for c in parts), min(c.low for c in parts), parts[-1].close,
            *(sum(getattr(c, name) for c in parts) for name in sums),
        )  # fmt: skip
