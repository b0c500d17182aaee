"""A feed on a system's own clock: its bars keep order and prices, and get stamps of today.

Entry point: `PacedFeed`.

1. Bar 751 of the inner feed, the first that makes a scan, is due at `origin_ns`; the warm-up lies before it,
   so that a fresh system has its first scan at once and not in an hour.
2. Stamps follow from the inner feed and the origin alone: a restart gives the same bars the same stamps.
3. `due` gives what has come and never waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from dolphin.domain.bar import Bar
from dolphin.domain.scan import WARMUP_PRICES
from dolphin.market.feed import Feed, digest


class PacedFeed:
    """A `Feed` whose bars are stamped origin_ns + (k - 751) * interval_ns, ns UTC, k from 0."""

    def __init__(self, inner: Feed, origin_ns: int) -> None:
        self.inner = inner
        self.origin_ns = origin_ns
        self._bars: Iterator[Bar] | None = None
        self._next: Bar | None = None
        self._position = 0
        #: True once the inner feed had no further bar.
        self.ended = False

    @property
    def name(self) -> str:
        """The inner feed's name."""
        return self.inner.name

    @property
    def symbols(self) -> tuple[str, ...]:
        """See `Feed.symbols`."""
        return self.inner.symbols

    @property
    def interval_ns(self) -> int:
        """See `Feed.interval_ns`."""
        return self.inner.interval_ns

    @property
    def n_bars(self) -> int | None:
        """See `Feed.n_bars`."""
        return self.inner.n_bars

    @property
    def rejections(self) -> Counter[tuple[str, str]]:
        """See `Feed.rejections`."""
        return self.inner.rejections

    @property
    def notes(self) -> list[str]:
        """See `Feed.notes`."""
        return self.inner.notes

    @property
    def source_id(self) -> str:
        """Of the inner feed and the origin."""
        return digest({"kind": "paced", "inner": self.inner.source_id, "origin_ns": self.origin_ns})

    def stamp_ns(self, k: int) -> int:
        """When bar k is due, ns UTC."""
        return self.origin_ns + (k - WARMUP_PRICES + 1) * self.interval_ns

    def position_after(self, stamp_ns: int) -> int:
        """Number of the first bar that is due after an instant."""
        return max(0, (stamp_ns - self.stamp_ns(0)) // self.interval_ns + 1)

    def bars(self, skip: int = 0) -> Iterator[Bar]:
        """See `Feed.bars`: all of them, whether due or not."""
        for k, bar in enumerate(self.inner.bars(skip), skip):
            yield Bar(self.stamp_ns(k), bar.prices)

    def seek(self, position: int) -> None:
        """`due` goes on from bar `position`."""
        self._bars, self._next, self._position, self.ended = None, None, position, False

    def go_on_after(self, stamp_ns: int) -> None:
        """`due` goes on with the first bar after an instant that an earlier process has folded in."""
        self.seek(self.position_after(stamp_ns))

    def due(self, now_ns: int, limit: int) -> Iterator[Bar]:
        """At most `limit` bars that are due at `now_ns` and were not given yet, in order."""
        if self._bars is None:
            self._bars = self.bars(self._position)
        for _ in range(limit):
            if self._next is None:
                self._next = next(self._bars, None)
            if self._next is None:
                self.ended = True
                return
            if self._next.timestamp_ns > now_ns:
                return
            bar, self._next = self._next, None
            self._position += 1
            yield bar

    @property
    def next_due_ns(self) -> int:
        """When the next bar is due, ns UTC."""
        return self.stamp_ns(self._position)

    def close(self) -> None:
        """See `Feed.close`."""
        self.inner.close()
