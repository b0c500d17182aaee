"""A thousand seeded cases of a dropped, repeated or late message: each is told, and the book is true again.

The exchange is invented, so its whole book is known after each message. At every message of every case: a
book that says it is known holds exactly what the exchange had at that update id, as far as it claims to see.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from book_market import Exchange, is_true

from dolphin.orderbook.book import Book, DepthSnapshot, Difference, Outcome

N_MESSAGES = 50
#: Snapshots are taken after the first of each pair of messages, and arrive after the second.
FIRST, LATER = (8, 11), (35, 38)
DAMAGED = frozenset(
    {Outcome.GAP, Outcome.DUPLICATE, Outcome.REORDERED, Outcome.SNAPSHOT_OLD, Outcome.CROSSED}
)

Told = list[tuple[int, Outcome]]


def market(seed: int) -> tuple[Exchange, list[Difference], dict[int, DepthSnapshot]]:
    """The exchange after all messages, the messages, and snapshots by the message after which they arrive."""
    exchange = Exchange(seed)
    messages: list[Difference] = []
    snapshots: dict[int, DepthSnapshot] = {}
    limit = (0, 20, 50)[seed % 3]
    for k in range(N_MESSAGES):
        messages.append(exchange.step())
        for taken, arrives in (FIRST, LATER):
            if k == taken:
                snapshots[arrives] = exchange.snapshot(limit)
    return exchange, messages, snapshots


def deliver(
    exchange: Exchange, order: list[int], messages: list[Difference], snapshots: dict[int, DepthSnapshot]
) -> tuple[Book, Told, list[bool]]:
    """Messages in this order, and each snapshot once its message's number has been passed."""
    book = Book()
    told: Told = []
    known: list[bool] = []
    waiting = sorted(snapshots)
    for position, k in enumerate(order):
        while waiting and k > waiting[0]:
            book.load(snapshots[waiting.pop(0)])
        outcome = book.apply(messages[k])
        if outcome in DAMAGED:
            told.append((position, outcome))
        known.append(book.known)
        if book.known:
            assert is_true(book, exchange), f"message {k} at position {position}"
    return book, told, known


def cases() -> Iterator[tuple[int, str, int, int]]:
    """(seed, kind, which message, how much later)."""
    for seed in range(1_000):
        chance = random.Random(10_000 + seed)
        kind = ("dropped", "repeated", "late")[seed % 3]
        yield seed, kind, chance.randrange(1, LATER[0] - 6), chance.randrange(1, 6)


def test_without_damage_nothing_is_told() -> None:
    for seed in range(30):
        exchange, messages, snapshots = market(seed)
        book, told, known = deliver(exchange, list(range(N_MESSAGES)), messages, snapshots)
        assert told == []
        assert known == [k > FIRST[1] for k in range(N_MESSAGES)]
        assert book.n_syncs == 1


@pytest.mark.parametrize("kind", ["dropped", "repeated", "late"])
def test_every_damaged_message_is_told_and_the_book_is_true_again(kind: str) -> None:
    n_cases = 0
    for seed, this_kind, k, later in cases():
        if this_kind != kind:
            continue
        n_cases += 1
        exchange, messages, snapshots = market(seed)
        order = list(range(N_MESSAGES))
        if kind == "dropped":
            order.remove(k)
            expected = [(k, Outcome.GAP)]
        elif kind == "repeated":
            order.insert(k + later, k)
            expected = [(k + later, Outcome.DUPLICATE)]
        else:
            order.remove(k)
            order.insert(k + later, k)
            expected = [(k, Outcome.GAP), (k + later, Outcome.REORDERED)]
        book, told, known = deliver(exchange, order, messages, snapshots)
        # A message of before the first snapshot may not be needed at all, but its damage is told as well.
        assert told == expected, f"seed {seed}"
        assert known[-1], f"seed {seed}"
        assert book.last_id == messages[-1].last_id
        if kind == "dropped" and k > FIRST[1]:
            # From the gap to the later snapshot nothing is claimed.
            assert known[k - 1 : k + 1] == [k - 1 > FIRST[1], False], f"seed {seed}"
            assert not any(known[k : LATER[1]]), f"seed {seed}"
            assert book.n_syncs == 2, f"seed {seed}"
        elif kind == "repeated":
            assert book.n_syncs == 1, f"seed {seed}"
        elif kind == "late" and k > FIRST[1] + 1:
            # The message that was missing came, so no snapshot was needed.
            assert known[k + later], f"seed {seed}"
            assert not any(known[k : k + later]), f"seed {seed}"
    assert n_cases in (333, 334)


def test_a_storm_of_damage_never_makes_a_known_book_untrue() -> None:
    n_gaps = n_syncs = 0
    for seed in range(60):
        chance = random.Random(seed)
        exchange = Exchange(seed)
        book = Book()
        held: list[Difference] = []
        for k in range(150):
            message = exchange.step()
            roll = chance.random()
            arriving = [message]
            if roll < 0.04:
                arriving = []
            elif roll < 0.08:
                arriving = [message, message]
            elif roll < 0.12:
                held, arriving = [*held, message], []
            if held and chance.random() < 0.4:
                arriving.append(held.pop(0))
            for each in arriving:
                n_gaps += book.apply(each) is Outcome.GAP
                assert not book.known or is_true(book, exchange)
            if not book.known and k % 5 == 0:
                book.load(exchange.snapshot(chance.choice((0, 20, 50))))
                assert not book.known or is_true(book, exchange)
        # Then quiet: one snapshot is enough.
        book.load(exchange.snapshot())
        book.apply(exchange.step())
        book.load(exchange.snapshot())
        book.apply(exchange.step())
        assert book.known
        assert is_true(book, exchange)
        n_syncs += book.n_syncs
    assert n_gaps > 300
    assert n_syncs > 300
