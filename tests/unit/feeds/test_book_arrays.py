"""Arrays beside the client's book: the same levels after every difference, and never trusted for long."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from ccxt.async_support.base.ws.order_book import OrderBook

from dolphin.feeds.book_arrays import COMPARE_EVERY_NS, Arrays, BookArrays, levels_of

LEVELS = 40
Changes = list[tuple[float, float]]


class Pair:
    """The client's own book and our arrays, both given the same differences."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.book = OrderBook({}, LEVELS)
        self.arrays = BookArrays(LEVELS)
        self.now_ns = 0
        self.reset()

    def reset(self) -> None:
        """A fresh snapshot."""
        self.arrays.forget()
        mid = self.chance.randint(80, 120)
        self.book.reset(
            {
                "bids": [[float(mid - k), self.chance.random() + 0.1] for k in range(1, LEVELS + 1)],
                "asks": [[float(mid + k), self.chance.random() + 0.1] for k in range(LEVELS)],
            }
        )

    def change(self, n: int) -> None:
        """A difference: levels are set, set again and removed, on both sides and far out."""
        bids, asks = (self._changes(n) for _ in range(2))
        for side, changes in (("bids", bids), ("asks", asks)):
            for price, quantity in changes:
                self.book[side].store(price, quantity)
        self.arrays.apply(bids, asks)

    def _changes(self, n: int) -> Changes:
        draw = self.chance
        return [(float(draw.randint(30, 180)), draw.choice((0.0, draw.random() + 0.1))) for _ in range(n)]

    def read(self, after_ns: int = 1) -> tuple[Arrays, Arrays]:
        """What the flow reads after a message."""
        self.now_ns += after_ns
        self.book.limit()
        return self.arrays.read(self.book, self.now_ns)

    def agree(self, after_ns: int = 1) -> bool:
        """Whether a read gives what the client holds."""
        found = self.read(after_ns)
        truth = levels_of(self.book["bids"]), levels_of(self.book["asks"])
        return all(
            np.array_equal(a, b)
            for side, true in zip(found, truth, strict=True)
            for a, b in zip(side, true, strict=True)
        )


@pytest.mark.parametrize("seed", range(20))
def test_every_difference_gives_the_clients_levels(seed: int) -> None:
    pair = Pair(seed)
    assert pair.agree()
    for step in range(300):
        for _ in range(pair.chance.randint(1, 3)):  # some messages come between two reads
            pair.change(pair.chance.randint(0, 12))
        if step % 70 == 69:
            pair.reset()
        assert pair.agree(pair.chance.choice((1, COMPARE_EVERY_NS // 3)))
    assert pair.arrays.n_unlike == 0


def _more(book: Any) -> None:
    book["bids"].store(1.5, 1.0)


def _best(book: Any) -> None:
    book["asks"][0][1] += 1.0


def _last(book: Any) -> None:
    book["bids"][-1][1] += 1.0


def _emptied(book: Any) -> None:
    book["asks"].clear()
    book["asks"]._index.clear()


@pytest.mark.parametrize("damage", [_more, _best, _last, _emptied])
def test_what_differs_at_an_end_is_seen_at_the_next_read(damage: Any) -> None:
    pair = Pair(1)
    pair.book["bids"].store(pair.book["bids"][7][0], 0.0)  # room for one more
    pair.arrays.forget()
    assert pair.agree()
    damage(pair.book)
    assert pair.agree()
    assert pair.arrays.n_unlike == 1
    pair.change(5)
    assert pair.agree()
    assert pair.arrays.n_unlike == 1


def test_what_differs_in_the_middle_is_seen_within_the_interval() -> None:
    pair = Pair(2)
    assert pair.agree()
    pair.book["bids"][LEVELS // 2][1] += 1.0
    assert not pair.agree()
    assert pair.agree(COMPARE_EVERY_NS)
    assert pair.arrays.n_unlike == 1


@pytest.mark.parametrize("quantity", [float("nan"), -1.0])
def test_a_level_that_is_none_reaches_the_judge(quantity: float) -> None:
    """The client keeps it and the arrays do not: it is read from the client, and refused behind us."""
    pair = Pair(3)
    assert pair.agree()
    changes = [(pair.book["bids"][0][0] + 0.5, quantity)]
    pair.book["bids"].store(*changes[0])
    pair.arrays.apply(changes, [])
    (_, quantities), _ = pair.read()
    assert not all(quantities > 0.0)


def test_what_was_read_stays() -> None:
    pair = Pair(4)
    kept = pair.read()
    before = [array.copy() for side in kept for array in side]
    for _ in range(20):
        pair.change(10)
        pair.read()
    assert all(np.array_equal(a, b) for a, b in zip(before, (x for side in kept for x in side), strict=True))


def test_sides_may_be_empty() -> None:
    pair = Pair(5)
    pair.book.reset({"bids": [], "asks": []})
    pair.arrays.forget()
    assert [len(array) for side in pair.read() for array in side] == [0, 0, 0, 0]
    assert pair.agree()
    assert pair.arrays.n_unlike == 0
