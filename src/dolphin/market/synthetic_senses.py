"""Books and factors of a synthetic market bar by bar, as its senses would have them at that time.

Entry point: `SyntheticSenses`. What `synthetic_books` and `synthetic_factors` make of a whole market, one bar
after the other and for a market without end.

Invariants: 1. a bar's senses depend on the market and the bar alone, not on where reading began: a run that
was stopped goes on with what it would have had; 2. nothing looks ahead; 3. memory is one chunk of bars.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dolphin.domain.bar import BoolArray, FloatArray
from dolphin.domain.errors import DataError
from dolphin.market.synthetic import SyntheticFeed
from dolphin.market.synthetic_books import BookStream
from dolphin.market.synthetic_factors import NS_PER_MINUTE, RecordStream


class Sensed(NamedTuple):
    """What is known at one bar; the record is None but on the first bar of a minute."""

    timestamp_ns: int
    bid: FloatArray  # (n_assets, 5) USD notional in the bands (k-1 %, k %] below mid
    ask: FloatArray  # (n_assets, 5) above mid
    seen: BoolArray  # (n_assets,) a snapshot arrived on this bar
    record: tuple[float, float, float, float] | None  # funding_btc, dvol_btc, fng, taker; NaN: silent


class SyntheticSenses:
    """The senses of a market, forward in time; the market is generated a second time, which is cheap."""

    def __init__(self, feed: SyntheticFeed) -> None:
        self._feed = feed
        self._bars = self._walk()
        self._newest: Sensed | None = None

    def until(self, timestamp_ns: int) -> Iterator[Sensed]:
        """The bars since the last one given, up to the one stamped timestamp_ns.

        Raises DataError for a stamp that is no bar of the market, or that lies behind.
        """
        for sensed in self._bars:
            self._newest = sensed
            if sensed.timestamp_ns <= timestamp_ns:
                yield sensed
            if sensed.timestamp_ns >= timestamp_ns:
                break
        if self._newest is None or self._newest.timestamp_ns != timestamp_ns:
            raise DataError(f"{self._feed.name}: no bar is stamped {timestamp_ns} ns, or it was given before")

    def _walk(self) -> Iterator[Sensed]:
        feed = self._feed
        books, records = BookStream(feed.seed, len(feed.symbols)), RecordStream(feed.seed)
        timestamp_ns, minute = feed.first_bar_ns, -1
        for prices, onsets in feed.chunks():
            begins = np.zeros(len(prices), np.bool_)
            begins[onsets] = True
            chunk = books.chunk(prices, begins)
            for k in range(len(prices)):
                record = None
                if timestamp_ns // NS_PER_MINUTE != minute:
                    minute = timestamp_ns // NS_PER_MINUTE
                    record = records.next(minute, prices[k])
                yield Sensed(timestamp_ns, chunk.bid[k], chunk.ask[k], chunk.seen[k], record)
                timestamp_ns += feed.interval_ns
