"""The local book, by small messages made by hand; `test_book_damage` has the thousand seeded cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dolphin.orderbook.book import KEPT, Book, DepthSnapshot, Difference, Levels, Outcome, Side

BIDS = [(99.0, 1.0), (98.0, 2.0), (97.0, 3.0)]
ASKS = [(101.0, 1.5), (102.0, 2.5), (103.0, 3.5)]


def snapshot(last_id: int = 100, bids: Levels = BIDS, asks: Levels = ASKS) -> DepthSnapshot:
    return DepthSnapshot(0, last_id, bids, asks)


def difference(previous: int, last: int, bids: Levels = (), asks: Levels = (), first: int = 0) -> Difference:
    """U is the next id after `pu` where it is not said."""
    return Difference(last * 1_000, first or previous + 1, last, previous, bids, asks)


def founded() -> Book:
    """Known at update id 110, with the snapshot's levels."""
    book = Book()
    assert book.load(snapshot()) is Outcome.SNAPSHOT_WAITS
    assert not book.known
    assert book.apply(difference(95, 110)) is Outcome.SYNCED
    assert book.known
    return book


def levels(side: Side) -> list[tuple[float, float]]:
    prices, quantities = side.levels()
    return list(zip(prices.tolist(), quantities.tolist(), strict=True))


def test_an_empty_book_knows_nothing() -> None:
    book = Book()
    assert (book.known, book.crossed, book.last_id, book.n_syncs) == (False, False, -1, 0)
    assert book.bids.best() is None
    assert not book.follows(difference(-1, 5))
    assert levels(book.bids) == []


def test_messages_before_the_snapshot_wait_and_the_old_ones_are_dropped() -> None:
    book = Book()
    assert book.apply(difference(80, 90, bids=[(99.0, 77.0)])) is Outcome.BUFFERED
    assert book.apply(difference(90, 105, bids=[(98.0, 0.0)])) is Outcome.BUFFERED
    assert book.apply(difference(105, 120, asks=[(100.5, 9.0)])) is Outcome.BUFFERED
    assert book.load(snapshot()) is Outcome.SYNCED
    assert levels(book.bids) == [(99.0, 1.0), (97.0, 3.0)]
    assert levels(book.asks) == [(100.5, 9.0), *ASKS]
    assert (book.last_id, book.event_ns, book.n_syncs) == (120, 120_000, 1)


def test_a_snapshot_at_the_end_of_a_message_takes_that_message_again() -> None:
    book = Book()
    book.apply(difference(90, 100, bids=[(99.0, 1.0)]))
    assert book.load(snapshot(100)) is Outcome.SYNCED
    assert levels(book.bids) == BIDS


def test_the_first_message_must_reach_back_to_the_snapshot() -> None:
    book = Book()
    book.load(snapshot(100))
    assert book.apply(difference(101, 110, first=102)) is Outcome.SNAPSHOT_OLD
    assert book.apply(difference(110, 111)) is Outcome.BUFFERED
    assert not book.known
    assert book.load(snapshot(100)) is Outcome.SNAPSHOT_OLD
    assert book.load(snapshot(105)) is Outcome.SYNCED


def test_a_message_that_continues_the_snapshot_itself_will_do() -> None:
    book = Book()
    book.load(snapshot(100))
    assert book.apply(difference(100, 110, first=104)) is Outcome.SYNCED


def test_levels_are_set_removed_and_put_in_order() -> None:
    book = founded()
    change = difference(
        110, 111, bids=[(98.5, 4.0), (97.0, 0.0), (99.0, 8.0), (50.0, 0.0)], asks=[(104.0, 1.0), (101.0, 0.0)]
    )
    assert book.follows(change)
    assert book.apply(change) is Outcome.APPLIED
    assert levels(book.bids) == [(99.0, 8.0), (98.5, 4.0), (98.0, 2.0)]
    assert levels(book.asks) == [(102.0, 2.5), (103.0, 3.5), (104.0, 1.0)]
    assert book.bids.best() == (99.0, 8.0)
    assert book.asks.levels(2)[0].tolist() == [102.0, 103.0]
    assert len(book.asks) == 3


def test_a_gap_stops_the_book_until_a_snapshot_that_carries_on() -> None:
    book = founded()
    assert book.apply(difference(115, 120, bids=[(99.0, 5.0)])) is Outcome.GAP
    assert not book.known
    assert book.bids.best() == (99.0, 1.0)
    assert book.apply(difference(120, 130)) is Outcome.BUFFERED
    assert book.load(snapshot(112)) is Outcome.SNAPSHOT_OLD
    assert book.load(snapshot(118, bids=[(99.0, 3.0)])) is Outcome.SYNCED
    assert book.bids.best() == (99.0, 5.0)
    assert (book.last_id, book.n_syncs) == (130, 2)


def test_a_snapshot_from_before_a_gap_cannot_bridge_it() -> None:
    book = founded()
    book.apply(difference(110, 111))
    book.apply(difference(115, 120))
    assert book.load(snapshot(110)) is Outcome.SNAPSHOT_OLD
    assert not book.known


def test_a_second_gap_while_waiting_is_told_too() -> None:
    book = founded()
    assert book.apply(difference(115, 120)) is Outcome.GAP
    assert book.apply(difference(125, 130)) is Outcome.GAP
    assert book.load(snapshot(118)) is Outcome.SNAPSHOT_OLD
    assert book.load(snapshot(128)) is Outcome.SYNCED


def test_a_duplicate_changes_nothing() -> None:
    book = founded()
    book.apply(difference(110, 111, bids=[(99.0, 5.0)]))
    book.apply(difference(111, 112, bids=[(99.0, 6.0)]))
    assert book.apply(difference(110, 111, bids=[(99.0, 5.0)])) is Outcome.DUPLICATE
    assert book.apply(difference(111, 112, bids=[(99.0, 6.0)])) is Outcome.DUPLICATE
    assert book.bids.best() == (99.0, 6.0)
    assert book.known


def test_a_duplicate_while_waiting_is_told() -> None:
    book = Book()
    book.apply(difference(80, 90))
    assert book.apply(difference(80, 90)) is Outcome.DUPLICATE
    assert book.apply(difference(90, 105)) is Outcome.BUFFERED


def test_the_missing_message_that_comes_late_makes_the_book_whole() -> None:
    book = founded()
    assert book.apply(difference(111, 112, bids=[(99.0, 7.0)])) is Outcome.GAP
    assert book.apply(difference(112, 113, bids=[(98.0, 8.0)])) is Outcome.BUFFERED
    assert book.apply(difference(110, 111, bids=[(99.0, 6.0), (97.0, 6.0)])) is Outcome.REORDERED
    assert book.known
    assert levels(book.bids) == [(99.0, 7.0), (98.0, 8.0), (97.0, 6.0)]
    assert (book.last_id, book.n_syncs) == (113, 2)
    assert book.apply(difference(113, 114)) is Outcome.APPLIED


def test_of_two_missing_messages_one_is_not_enough() -> None:
    book = founded()
    assert book.apply(difference(112, 113)) is Outcome.GAP
    assert book.apply(difference(111, 112)) is Outcome.REORDERED
    assert not book.known
    assert book.apply(difference(110, 111)) is Outcome.REORDERED
    assert book.known


def test_a_late_message_can_reach_a_snapshot_that_waits() -> None:
    book = Book()
    book.load(snapshot(100))
    assert book.apply(difference(105, 110)) is Outcome.SNAPSHOT_OLD
    assert book.apply(difference(95, 105)) is Outcome.REORDERED
    assert (book.known, book.last_id) == (True, 110)


def test_a_late_message_from_before_the_snapshot_is_told_and_not_written() -> None:
    book = founded()
    assert book.apply(difference(80, 90, bids=[(99.0, 9.0)])) is Outcome.REORDERED
    assert book.known
    assert book.bids.best() == (99.0, 1.0)
    assert book.apply(difference(110, 111)) is Outcome.APPLIED


def test_a_crossed_book_is_told_and_resolved_by_the_stream() -> None:
    book = founded()
    assert book.apply(difference(110, 111, bids=[(101.0, 1.0)])) is Outcome.CROSSED
    assert book.crossed
    assert book.apply(difference(111, 112, bids=[(101.0, 0.0)])) is Outcome.APPLIED
    assert not book.crossed


def test_a_snapshot_ahead_of_the_stream_bridges_the_gap_that_follows() -> None:
    book = founded()
    assert book.load(snapshot(150, bids=[(90.0, 1.0)])) is Outcome.SNAPSHOT_WAITS
    assert book.known
    assert book.apply(difference(110, 111)) is Outcome.APPLIED
    assert book.apply(difference(140, 160, asks=[(95.0, 1.0)])) is Outcome.GAP
    assert (book.known, book.last_id, book.n_syncs) == (True, 160, 2)
    assert book.bids.best() == (90.0, 1.0)
    assert book.asks.best() == (95.0, 1.0)


def test_a_snapshot_of_a_known_book_refreshes_it() -> None:
    book = founded()
    book.apply(difference(110, 111, bids=[(99.0, 5.0)]))
    book.apply(difference(111, 112, bids=[(99.0, 6.0), (98.0, 0.0)]))
    assert book.load(snapshot(111, bids=[(99.0, 5.0), (98.0, 2.0), (97.0, 3.0)])) is Outcome.REFRESHED
    assert levels(book.bids) == [(99.0, 6.0), (97.0, 3.0)]
    assert (book.last_id, book.n_syncs) == (112, 1)
    assert book.load(snapshot(150)) is Outcome.SNAPSHOT_WAITS
    assert book.apply(difference(112, 160)) is Outcome.APPLIED
    assert levels(book.bids) == BIDS


@pytest.mark.parametrize("last_id", [50, 94])
def test_an_old_snapshot_leaves_a_known_book_alone(last_id: int) -> None:
    book = founded()
    before = levels(book.bids)
    assert book.load(snapshot(last_id, bids=[(1.0, 1.0)])) is Outcome.SNAPSHOT_OLD
    assert book.known
    assert levels(book.bids) == before
    assert book.apply(difference(110, 111)) is Outcome.APPLIED


def test_a_cut_snapshot_is_known_to_its_last_level() -> None:
    bids = [(99.0 - k, 1.0) for k in range(5)]
    book = Book()
    book.load(snapshot(bids=bids, asks=ASKS))
    book.apply(difference(95, 110, bids=[(10.0, 4.0)]))
    # Five levels are a limit of the exchange; the other side has fewer, so it is whole.
    assert book.bids.edge == 95.0
    assert book.asks.edge == math.inf
    assert len(book.bids) == 6
    assert book.bids.n_known() == 5
    assert book.asks.n_known() == 3
    book.apply(difference(110, 111, bids=[(95.0, 0.0)]))
    assert (book.bids.edge, book.bids.n_known()) == (95.0, 4)


def test_a_snapshot_of_any_other_length_is_whole() -> None:
    book = founded()
    assert (book.bids.edge, book.asks.edge) == (-math.inf, math.inf)
    assert book.bids.n_known() == 3


def test_a_refresh_moves_an_edge_outwards_only() -> None:
    def cut(top: float) -> list[tuple[float, float]]:
        return [(top - k, 1.0) for k in range(5)]

    book = Book()
    book.load(snapshot(100, bids=cut(99.0)))
    book.apply(difference(95, 110, bids=[(93.0, 4.0)]))
    # The new snapshot shows 98 to 94: one level further.
    assert book.load(snapshot(105, bids=cut(98.0))) is Outcome.REFRESHED
    assert (book.bids.edge, len(book.bids)) == (94.0, 6)
    # The market has gone up: 104 to 100 is all that is shown, what lies below is still known.
    book.apply(
        difference(110, 120, bids=cut(104.0), asks=[(101.0, 0.0), (102.0, 0.0), (103.0, 0.0), (110.0, 1.0)])
    )
    before = levels(book.bids)
    assert book.load(snapshot(115, bids=cut(104.0))) is Outcome.REFRESHED
    assert book.bids.edge == 94.0
    assert levels(book.bids) == before


def test_a_side_whose_shown_levels_are_all_empty_claims_nothing() -> None:
    side = Side(1.0, [(101.0, 0.0)], whole=False)
    assert (side.edge, side.n_known(), len(side)) == (-math.inf, 0, 0)


def test_the_last_of_two_entries_for_a_price_counts() -> None:
    assert levels(Side(-1.0, [(99.0, 1.0), (98.0, 1.0), (99.0, 2.0)])) == [(99.0, 2.0), (98.0, 1.0)]


def test_a_side_is_cut_to_its_best_levels() -> None:
    side = Side(-1.0, [(99.0, 1.0), (98.0, 2.0), (97.0, 3.0)])
    side.cut(3)
    assert (len(side), side.edge) == (3, -np.inf)
    side.cut(2)
    assert side.edge == 98.0
    assert levels(side) == [(99.0, 1.0), (98.0, 2.0)]
    assert (side.level(0), side.level(1)) == ((99.0, 1.0), (98.0, 2.0))
    with pytest.raises(IndexError):
        side.level(2)


def test_levels_are_copies() -> None:
    book = founded()
    prices, quantities = book.bids.levels()
    prices[:] = 0.0
    quantities[:] = 0.0
    assert levels(book.bids) == BIDS
    assert prices.dtype == np.float64


def test_only_so_many_messages_are_kept() -> None:
    book = Book()
    for k in range(2 * KEPT):
        book.apply(difference(10 * k, 10 * k + 10))
    # The oldest half has gone: a snapshot as old cannot be carried on from, one of the newer half can.
    assert book.load(snapshot(10 * KEPT - 5)) is Outcome.SNAPSHOT_OLD
    assert book.apply(difference(5, 15)) is Outcome.REORDERED
    assert not book.known
    assert book.load(snapshot(10 * KEPT + 5)) is Outcome.SYNCED
    assert book.last_id == 20 * KEPT
