"""A live book as arrays, kept beside the client's by the same differences and held to it.

Entry point: `BookArrays`.

The client keeps a level as a list of two floats. Reading 2,000 of them, scattered over the memory, after each
message was 60 % of what a live book cost; the levels that a message changes are some tens.

Invariants
----------
1. The client's book is the truth. Every read compares the number of levels and the first and last of each
   side; once in `COMPARE_EVERY_NS` every level. What differs is read from the client anew, and counted.
2. A read gives copies; nothing changes them later.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

import numpy as np

from dolphin.domain.bar import FloatArray
from dolphin.domain.clock import NS_PER_S
from dolphin.orderbook.book import Side

#: Distance of two comparisons of all levels of a symbol.
COMPARE_EVERY_NS: Final = 10 * NS_PER_S
Arrays = tuple[FloatArray, FloatArray]


class BookArrays:
    """See the module.

    Parameters
    ----------
    levels : most levels a side; those beyond are cut when the client cuts them, at each read
    """

    def __init__(self, levels: int) -> None:
        self._levels = levels
        self._sides: tuple[Side, Side] | None = None
        self._compared_ns = 0
        #: Reads that found the arrays unlike the client's book.
        self.n_unlike = 0

    def forget(self) -> None:
        """The client's book is made anew: the next read takes it over."""
        self._sides = None

    def apply(self, bids: Iterable[tuple[float, float]], asks: Iterable[tuple[float, float]]) -> None:
        """Write a difference that the client applied: (price, quantity), 0 removes."""
        if self._sides is None:
            return
        for side, changes in zip(self._sides, (bids, asks), strict=True):
            put = side.put
            for price, quantity in changes:
                put(price, quantity)

    def read(self, book: Mapping[str, Any], now_ns: int) -> tuple[Arrays, Arrays]:
        """Bids and asks, (prices, quantities) (n_levels,) each, best first.

        book : the client's, live, cut to the most levels. now_ns : a clock that never goes back.
        """
        truth = (book["bids"], book["asks"])
        if self._sides is not None:
            for side in self._sides:
                side.cut(self._levels)
            if now_ns - self._compared_ns < COMPARE_EVERY_NS:
                if all(map(_fits, self._sides, truth)):
                    return self._sides[0].levels(), self._sides[1].levels()
                self.n_unlike += 1
                self._sides = None
        bids, asks = levels_of(truth[0]), levels_of(truth[1])
        if self._sides is not None and not all(
            np.array_equal(kept, true)
            for side, whole in zip(self._sides, (bids, asks), strict=True)
            for kept, true in zip(side.levels(), whole, strict=True)
        ):
            self.n_unlike += 1
            self._sides = None
        if self._sides is None:
            self._sides = Side(-1.0, zip(*bids, strict=True)), Side(1.0, zip(*asks, strict=True))
        self._compared_ns = now_ns
        return bids, asks


def _fits(side: Side, truth: Sequence[Sequence[float]]) -> bool:
    """Whether number, first and last level are the same."""
    n = len(truth)
    return len(side) == n and (
        not n or (side.level(0) == tuple(truth[0]) and side.level(n - 1) == tuple(truth[-1]))
    )


def levels_of(side: Sequence[Sequence[float]]) -> Arrays:
    """(prices, quantities) (n_levels,) of the client's live side, copied level by level."""
    # Packed: numpy takes three times as long to read a list of lists.
    packed = _doubles(2 * len(side)).pack(*chain.from_iterable(side))
    table = np.frombuffer(packed, dtype=np.float64).reshape(len(side), 2)
    return np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1])


@lru_cache(maxsize=4_096)
def _doubles(n: int) -> struct.Struct:
    return struct.Struct(f"{n}d")
