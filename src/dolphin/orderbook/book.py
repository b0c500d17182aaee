"""A local order book of Binance USD-M: one depth snapshot, then the stream's differences.

Entry points: `Book.load` takes a snapshot, `Book.apply` a difference; both answer with an `Outcome` that must
be looked at. The rule is the exchange's ("How to manage a local order book correctly"): differences that come
before the snapshot wait; those with u < lastUpdateId are dropped; the first one written has
U <= lastUpdateId <= u; from there on every `pu` equals the `u` before it. Quantities are absolute, 0 removes
a level.

1. The book is `known` only while that chain is whole. A break is told at the message that shows it; then the
   book stands still and another snapshot is needed. It is also whole again when the missing message itself
   comes late: what came after it waits, in order.
2. Prices and quantities are the floats nearest to the exchange's decimals. They are never computed with:
   equal decimals are equal floats, and different ones (up to 15 digits) different floats. Nothing is rounded.
3. A snapshot that was cut at its limit shows a side down to its last level only. What differences show beyond
   it is part of what rests there, so `edge` stays at that level: the book claims nothing that it did not see.
   A later snapshot moves it outwards, never inwards.
4. A difference that would cross the book is written all the same (the chain is the truth), told as `CROSSED`,
   and `crossed` holds until a later one resolves it.
"""

from __future__ import annotations

import enum
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

import numpy as np

from dolphin.domain.bar import FloatArray

#: Differences that are kept, so that a snapshot which took its time can be carried on from. 25 s of a stream
#: of 100 ms; a snapshot older than that is refused as too old.
KEPT: Final = 256
#: Level counts at which the exchange cuts a snapshot.
LIMITS: Final = (5, 10, 20, 50, 100, 500, 1000)

Levels = Sequence[tuple[float, float]]


class Outcome(enum.Enum):
    """What became of a message."""

    #: Written, and the book is known.
    APPLIED = "applied"
    #: Written, and best bid and best ask now cross.
    CROSSED = "crossed"
    #: The book has become known: by a snapshot, or by the first difference that reaches one.
    SYNCED = "synced"
    #: A snapshot of a book that was known already: the same levels, possibly further out.
    REFRESHED = "refreshed"
    #: The book is not known; the difference waits for a snapshot.
    BUFFERED = "buffered"
    #: The snapshot waits for the difference that reaches it.
    SNAPSHOT_WAITS = "snapshot_waits"
    #: Older than the differences that are there: it cannot be carried on from, take another one.
    SNAPSHOT_OLD = "snapshot_old"
    #: `pu` is not the `u` before it: messages are missing.
    GAP = "gap"
    #: A difference with this `u` was here before.
    DUPLICATE = "duplicate"
    #: Came after a later one, or is older than all that are kept. Where it was the missing one, the book is
    #: known again.
    REORDERED = "reordered"


@dataclass(frozen=True, slots=True)
class Difference:
    """One depth update: levels (price in USD, quantity in base units) of both sides, at the exchange's E."""

    event_ns: int
    first_id: int
    last_id: int
    previous_id: int
    bids: Levels
    asks: Levels


@dataclass(frozen=True, slots=True)
class DepthSnapshot:
    """Answer of the depth endpoint: the best levels of both sides as of `last_id`, best first."""

    event_ns: int
    last_id: int
    bids: Levels
    asks: Levels


class Side:
    """One side's levels, best first. sign is -1 for bids and 1 for asks."""

    def __init__(self, sign: float, levels: Iterable[tuple[float, float]] = (), whole: bool = True) -> None:
        self._sign = sign
        # Prices times sign ascend from the best: one code for both sides, and changes near the touch are
        # found at the front. Arrays, so that numpy takes them over without a loop.
        keyed = sorted({sign * price: quantity for price, quantity in levels if quantity > 0.0}.items())
        self._keys = array("d", (key for key, _ in keyed))
        self._quantities = array("d", (quantity for _, quantity in keyed))
        self._edge = np.inf if whole else self._keys[-1] if self._keys else -np.inf

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def edge(self) -> float:
        """Price up to which every level is known: infinitely far (-inf for bids) where the side is whole."""
        return self._sign * self._edge

    def best(self) -> tuple[float, float] | None:
        """(price, quantity) of the best level, None on an empty side."""
        return self.level(0) if self._keys else None

    def level(self, k: int) -> tuple[float, float]:
        """(price, quantity) of level k, 0 the best. Raises IndexError where there is none."""
        return self._sign * self._keys[k], self._quantities[k]

    def put(self, price: float, quantity: float) -> None:
        """Set a level's quantity; 0 removes it."""
        key = self._sign * price
        k = bisect_left(self._keys, key)
        if k < len(self._keys) and self._keys[k] == key:
            if quantity > 0.0:
                self._quantities[k] = quantity
            else:
                del self._keys[k], self._quantities[k]
        elif quantity > 0.0:
            self._keys.insert(k, key)
            self._quantities.insert(k, quantity)

    def cut(self, n: int) -> None:
        """Keep the best n levels (n > 0); nothing is known beyond them."""
        if len(self._keys) > n:
            del self._keys[n:], self._quantities[n:]
            self._edge = min(self._edge, self._keys[-1])

    def levels(self, n: int | None = None) -> tuple[FloatArray, FloatArray]:
        """(prices in USD, quantities in base units) of the best n levels, or of all; copies, best first."""
        take = len(self._keys) if n is None else min(n, len(self._keys))
        return self._sign * np.array(self._keys[:take]), np.array(self._quantities[:take])

    def n_known(self) -> int:
        """Number of levels from the best to the edge: those beyond it have unknown ones between them."""
        return bisect_right(self._keys, self._edge)

    def extend(self, other: Side) -> None:
        """Take over from another true view of this side what lies beyond the own edge, and its edge."""
        # The other view is the fuller one out there: it has seen every difference that this one has.
        end, begin = bisect_right(self._keys, self._edge), bisect_right(other._keys, self._edge)
        self._keys[end:] = other._keys[begin:]
        self._quantities[end:] = other._quantities[begin:]
        self._edge = max(self._edge, other._edge)


class Book:
    """One symbol's book. Not thread-safe; holds `KEPT` differences and the levels."""

    def __init__(self) -> None:
        self.bids = Side(-1.0)
        self.asks = Side(1.0)
        #: `u` and E of the newest difference written; -1 and 0 before the first.
        self.last_id = -1
        self.event_ns = 0
        self.known = False
        #: How many times the book has become known.
        self.n_syncs = 0
        self._snapshot: DepthSnapshot | None = None
        # In the order of `u`: the newest ones written, then those that wait.
        self._kept: list[Difference] = []

    @property
    def crossed(self) -> bool:
        """Whether the best ask is at or below the best bid."""
        bid, ask = self.bids.best(), self.asks.best()
        return bid is not None and ask is not None and ask[0] <= bid[0]

    def follows(self, difference: Difference) -> bool:
        """Whether the book is known and this is its next difference: until its E the book has not changed."""
        return self.known and difference.previous_id == self.last_id

    def apply(self, difference: Difference) -> Outcome:
        """Take the stream's next message.

        Returns
        -------
        Outcome
            APPLIED or CROSSED while the chain is whole; SYNCED where it reached a snapshot that waited;
            BUFFERED until there is one; GAP, DUPLICATE or REORDERED for damage; SNAPSHOT_OLD where the
            snapshot that waited lies before the first difference. A GAP that a newer snapshot bridges leaves
            the book known; else ask for a snapshot while `known` is False.
        """
        kept = self._kept
        if kept and difference.last_id <= kept[-1].last_id:
            return self._late(difference)
        follows = not kept or difference.previous_id == kept[-1].last_id
        kept.append(difference)
        if len(kept) >= 2 * KEPT:
            del kept[:-KEPT]
        was_known, self.known = self.known, self.known and follows
        if self.known:
            self._write(difference)
        founded = Outcome.BUFFERED
        if (waits := self._snapshot) is not None:
            reaches_it = difference.last_id >= waits.last_id and not (
                len(kept) > 1 and kept[-2].last_id >= waits.last_id
            )
            found = self._found()
            founded = found if reaches_it or self.known else founded
        if not follows:
            return Outcome.GAP
        if was_known:
            return Outcome.CROSSED if self.crossed else Outcome.APPLIED
        return founded

    def load(self, snapshot: DepthSnapshot) -> Outcome:
        """Take a snapshot and carry it on through the differences that are there.

        Returns
        -------
        Outcome
            SYNCED, or REFRESHED on a known book; SNAPSHOT_WAITS where the stream has not reached it yet;
            SNAPSHOT_OLD where the differences after it are not all there. A known book stays known.
        """
        self._snapshot = snapshot
        return self._found()

    def _late(self, difference: Difference) -> Outcome:
        """A difference that is not newer than the newest."""
        k = bisect_left(self._kept, difference.last_id, key=attrgetter("last_id"))
        if self._kept[k].last_id == difference.last_id:
            return Outcome.DUPLICATE
        self._kept.insert(k, difference)
        if not self.known and self.last_id >= 0:
            self._resume()
        if not self.known and self._snapshot is not None:
            self._found()
        return Outcome.REORDERED

    def _resume(self) -> None:
        """Go on from where the book stands, if what was missing is there now."""
        k = bisect_left(self._kept, self.last_id + 1, key=attrgetter("last_id"))
        if _chained(self._kept, k, self.last_id):
            for difference in self._kept[k:]:
                self._write(difference)
            self.known = True
            self.n_syncs += 1

    def _found(self) -> Outcome:
        """Found the book on the snapshot that is there, if the differences after it are all there."""
        snapshot = self._snapshot
        assert snapshot is not None
        k = bisect_left(self._kept, snapshot.last_id, key=attrgetter("last_id"))
        if k == len(self._kept):
            return Outcome.SNAPSHOT_WAITS
        first = self._kept[k]
        # The second case is not in the rule's words: nothing of this symbol lies between `pu` and U, so a
        # snapshot at `pu` is what this difference continues.
        reached = first.first_id <= snapshot.last_id or first.previous_id == snapshot.last_id
        if not reached or not _chained(self._kept, k, first.previous_id):
            if self.known:
                self._snapshot = None
            return Outcome.SNAPSHOT_OLD
        before = (self.bids, self.asks) if self.known else None
        n = max(len(snapshot.bids), len(snapshot.asks))
        self.bids = Side(-1.0, snapshot.bids, whole=n not in LIMITS or len(snapshot.bids) < n)
        self.asks = Side(1.0, snapshot.asks, whole=n not in LIMITS or len(snapshot.asks) < n)
        for difference in self._kept[k:]:
            self._write(difference)
        self._snapshot = None
        if before is not None:
            self.bids.extend(before[0])
            self.asks.extend(before[1])
            return Outcome.REFRESHED
        self.known = True
        self.n_syncs += 1
        return Outcome.SYNCED

    def _write(self, difference: Difference) -> None:
        put = self.bids.put
        for price, quantity in difference.bids:
            put(price, quantity)
        put = self.asks.put
        for price, quantity in difference.asks:
            put(price, quantity)
        self.last_id = difference.last_id
        self.event_ns = difference.event_ns


def _chained(kept: list[Difference], k: int, previous_id: int) -> bool:
    """Whether the differences from position k on follow one another, the first one on previous_id."""
    for difference in kept[k:]:
        if difference.previous_id != previous_id:
            return False
        previous_id = difference.last_id
    return True
