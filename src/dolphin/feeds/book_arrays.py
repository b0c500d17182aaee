"""A live book as arrays, kept beside the client's by the same differences and held to it.

Entry point: `BookArrays`.

The client keeps a level as a list of two floats. Reading 2,000 of them, scattered over the memory, after each
message was half of what a live book cost; the levels that a message changes are some tens.

Invariants
----------
1. The client's book is the truth. Every read compares the number of levels and the first and last of each
   side; once in `COMPARE_EVERY_NS` every level. What differs is read from the client anew, and counted.
2. A read gives copies; nothing changes them later.
3. No level is judged here. One that is NaN, or not above 0, is kept by the client and not by the arrays, so
   that the next read gives the client's, whole, to whoever judges.
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

        book : the client's, live, cut to the most levels just now: a difference that comes between the cut
        and the read would be cut here alone. now_ns : a clock that never goes back. Raises struct.error for a
        level that is not two numbers.
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
            self._sides = _side(-1.0, bids), _side(1.0, asks)
        self._compared_ns = now_ns
        return bids, asks


def _fits(side: Side, truth: Sequence[Sequence[float]]) -> bool:
    """Whether number, first and last level are the same."""
    n = len(truth)
    return len(side) == n and (
        not n or (side.level(0) == tuple(truth[0]) and side.level(n - 1) == tuple(truth[-1]))
    )


def _side(sign: float, levels: Arrays) -> Side:
    prices, quantities = levels
    return Side(sign, zip(prices.tolist(), quantities.tolist(), strict=True))


def levels_of(side: Sequence[Sequence[float]]) -> Arrays:
    """(prices, quantities) (n_levels,) of the client's live side, copied level by level.

    Raises struct.error for a level that is not two numbers.
    """
    # Packed: numpy takes three times as long to read a list of lists.
    packed = _doubles(2 * len(side)).pack(*chain.from_iterable(side))
    table = np.frombuffer(packed, dtype=np.float64).reshape(len(side), 2)
    return np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1])


@lru_cache(maxsize=4_096)
def _doubles(n: int) -> struct.Struct:
    return struct.Struct(f"{n}d")
