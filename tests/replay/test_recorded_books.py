"""Recorded sessions of Binance USD-M: rows of 20 levels, the touch, a thousand damages, the first minute."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from dolphin.market.book_messages import DEPTH, SNAPSHOT, difference_from, read_messages, snapshot_from
from dolphin.market.book_recording import BookReplay
from dolphin.market.book_rows import compare_rows, read_rows, write_rows
from dolphin.orderbook.bands import notional_within
from dolphin.orderbook.book import Book, DepthSnapshot, Difference, Outcome

SESSIONS = (
    "binance_usdm_BTCUSDT_20230404T2358_20230405T0006",
    "binance_usdm_BTCUSDT_20240718T2357_20240719T0005",
    "binance_usdm_ETHUSDT_20240718T2357_20240719T0005",
)
pytestmark = pytest.mark.recordings


def raw_of(recordings: Path, session: str) -> Path:
    return recordings / "l2" / f"{session}_raw.parquet"


@pytest.mark.parametrize("session", SESSIONS)
def test_the_rows_are_those_of_the_recording_and_the_touch_is_book_ticker(
    recordings: Path, tmp_path: Path, session: str
) -> None:
    replay = BookReplay(raw_of(recordings, session))
    write_rows(tmp_path / "rows.parquet", replay.rows())
    theirs = read_rows(recordings / "l2" / f"{session}_top20_100ms.parquet")
    compared = compare_rows(read_rows(tmp_path / "rows.parquet"), theirs)
    assert compared.n_theirs > 4_700
    assert compared.equal_frac == 1.0, compared.first_difference
    assert set(replay.damage.values()) == {0}
    assert (replay.n_resyncs, replay.n_boundaries_missing) == (0, 0)
    touch = replay.agreement
    assert touch.n_equal == touch.n_compared >= replay.n_depth - 10
    assert touch.n_same_id_equal == touch.n_same_id > 600


# -- a thousand damages ----------------------------------------------------------------------------------

N_MESSAGES = 60
#: A later snapshot is as of the first of these messages and arrives after the second.
TAKEN, ARRIVES = 40, 43
N_LEVELS = 500


@cache
def slice_of(path: Path) -> tuple[DepthSnapshot, tuple[Difference, ...], DepthSnapshot, Book]:
    """The session's snapshot, the differences from it on, a later snapshot of the true book, that book."""
    first: DepthSnapshot | None = None
    differences: list[Difference] = []
    for message in read_messages(path):
        if message.kind == SNAPSHOT and first is None:
            first = snapshot_from(message.raw)
        elif message.kind == DEPTH:
            differences.append(difference_from(message.raw)[0])
        if first is not None:
            differences = [d for d in differences if d.last_id >= first.last_id]
            if len(differences) == N_MESSAGES:
                break
    assert first is not None
    true = Book()
    true.load(first)
    later = first
    for k, difference in enumerate(differences):
        assert true.apply(difference) is (Outcome.APPLIED if k else Outcome.SYNCED)
        if k == TAKEN:
            assert min(true.bids.n_known(), true.asks.n_known()) >= N_LEVELS
            bids, asks = (
                list(zip(*(column.tolist() for column in side.levels(N_LEVELS)), strict=True))
                for side in (true.bids, true.asks)
            )
            later = DepthSnapshot(difference.event_ns, difference.last_id, bids, asks)
    return first, tuple(differences), later, true


@pytest.mark.parametrize("part", range(4))
def test_a_thousand_damages_are_told_and_resynchronised(recordings: Path, part: int) -> None:
    """Cut in memory from the recordings: a message dropped, repeated, or late, by seed."""
    damaged = {Outcome.GAP, Outcome.DUPLICATE, Outcome.REORDERED, Outcome.CROSSED}
    for seed in range(250 * part, 250 * (part + 1)):
        chance = random.Random(seed)
        first, differences, later, true = slice_of(raw_of(recordings, SESSIONS[seed % 3]))
        kind = chance.choice(("dropped", "repeated", "late"))
        k, lag = chance.randrange(1, TAKEN - 6), chance.randrange(1, 6)
        order = list(range(N_MESSAGES))
        if kind != "repeated":
            order.remove(k)
        if kind != "dropped":
            order.insert(k + lag, k)
        expected = {
            "dropped": [(k, Outcome.GAP)],
            "repeated": [(k + lag, Outcome.DUPLICATE)],
            "late": [(k, Outcome.GAP), (k + lag, Outcome.REORDERED)],
        }[kind]
        book = Book()
        book.load(first)
        told = []
        for position, number in enumerate(order):
            outcome = book.apply(differences[number])
            if outcome in damaged:
                told.append((position, outcome))
            if number == ARRIVES:
                assert book.known is (kind != "dropped"), seed
                assert book.load(later) is (Outcome.SYNCED if kind == "dropped" else Outcome.REFRESHED), seed
        assert told == expected, seed
        assert book.known
        assert book.last_id == true.last_id
        for ours, theirs in ((book.bids, true.bids), (book.asks, true.asks)):
            # The later snapshot shows 500 levels; as far as the book claims, it is the true one.
            n = ours.n_known()
            assert n > N_LEVELS / 2
            for a, b in zip(ours.levels(n), theirs.levels(n), strict=True):
                assert np.array_equal(a, b), seed


# -- the first minute ------------------------------------------------------------------------------------


@pytest.mark.parametrize("session", SESSIONS)
def test_a_filling_book_does_not_read_as_growing_depth(recordings: Path, session: str) -> None:
    """In its first minute a book shows ever more levels. Counted as they come, depth would seem to grow by 21
    to 70 %; within the reach that the snapshot showed it moves by some percent, as the market does.
    """
    replay = BookReplay(raw_of(recordings, session))
    shown, whole, visible, reaches = [], [], [], set()
    for snapshot in replay.snapshots():
        bids, asks = replay.book.bids, replay.book.asks
        mid = (bids.levels(1)[0][0] + asks.levels(1)[0][0]) / 2.0
        shown.append(len(bids) + len(asks))
        whole.append(
            notional_within(*bids.levels(), mid, 100.0) + notional_within(*asks.levels(), mid, 100.0)
        )
        visible.append(snapshot.visible_bid + snapshot.visible_ask)
        reaches.add(snapshot.visible_bps)
        # Nothing is claimed beyond the last level that the snapshot showed.
        assert snapshot.bid_coverage_bps == pytest.approx(1e4 * (mid - bids.edge) / mid)
        assert snapshot.ask_coverage_bps == pytest.approx(1e4 * (asks.edge - mid) / mid)
        assert snapshot.visible_bps <= min(snapshot.bid_coverage_bps, snapshot.ask_coverage_bps) < 100.0
        assert np.isnan(snapshot.bid_notional).all()
        assert np.isnan(snapshot.ask_notional).all()
        if len(visible) == 600:
            break
    assert reaches == {20.0}
    assert shown[0] < 2_100
    assert shown[-1] > 3_000
    growth = whole[-1] / whole[0]
    moved = visible[-1] / visible[0]
    assert growth > 1.2
    assert 0.92 < moved < 1.07
    # As features would see it: no step of five seconds loses or gains a tenth.
    steps = np.array(visible[::50])
    assert np.abs(np.diff(steps) / steps[:-1]).max() < 0.1


@pytest.mark.parametrize("session", SESSIONS)
def test_whenever_the_reach_shrinks_it_is_because_mid_has_moved(recordings: Path, session: str) -> None:
    """The edges stay where the snapshot ended, so coverage is given away to the market and never gained."""
    replay = BookReplay(raw_of(recordings, session))
    edges = set()
    for snapshot in replay.snapshots():
        edges.add((replay.book.bids.edge, replay.book.asks.edge))
        assert snapshot.visible_bps <= max(0.0, min(snapshot.bid_coverage_bps, snapshot.ask_coverage_bps))
        assert (snapshot.visible_bid > 0.0) is (snapshot.visible_bps > 0.0)
    assert len(edges) == 1
