"""The view that a live feed writes into: the newest wins, whoever writes."""

from __future__ import annotations

import threading

import numpy as np

from dolphin.feeds.book_view import BookView
from dolphin.orderbook.snapshot import BookSnapshot

S = 1_000_000_000


def book(at_ns: int) -> BookSnapshot:
    five = np.ones(5)
    return BookSnapshot(at_ns, five, five, five, five, 500.0, 500.0, 100.0, 1.0, 1.0)


def test_the_newest_is_held_and_late_ones_are_counted() -> None:
    view = BookView("paper")
    assert view.label == "paper"
    assert view.newest("A") is None
    assert view.put("A", book(10 * S))
    assert view.put("A", book(10 * S))
    assert not view.put("A", book(9 * S))
    assert view.n_late == 1
    assert view.newest("A").timestamp_ns == 10 * S
    assert view.put("A", book(11 * S))
    view.advance(99 * S)
    assert view.newest("A").timestamp_ns == 11 * S


def test_a_book_from_a_future_that_never_was_does_not_stay() -> None:
    view = BookView()
    view.put("A", book(1000 * S))
    assert view.put("A", book(10 * S))
    assert view.newest("A").timestamp_ns == 10 * S
    assert view.n_late == 0


def test_a_dropped_book_is_gone() -> None:
    view = BookView()
    view.put("B", book(1))
    view.put("A", book(1))
    assert view.symbols() == ("A", "B")
    view.drop("A")
    view.drop("A")
    assert view.newest("A") is None
    assert view.symbols() == ("B",)


def test_writers_in_many_threads_leave_the_newest() -> None:
    view = BookView()
    start = threading.Barrier(4)

    def write(offset: int) -> None:
        start.wait(timeout=20)
        for t in range(offset, 4000, 4):
            view.put("A", book(t * 1000))

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert view.newest("A").timestamp_ns == 3999 * 1000
