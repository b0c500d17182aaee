"""The book engine over recorded sessions: a book that fills, and one day by both ways in."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from dolphin.host.books import alpha_books
from dolphin.kernel import MODE
from dolphin.market.book_files import PartWriter, snapshot_table
from dolphin.market.book_recording import BookReplay
from dolphin.market.book_schema import SNAPSHOT_SCHEMA
from dolphin.market.recorded_books import RecordedBooks
from dolphin.orderbook.bands import book_snapshot
from dolphin.orderbook.engine import BookEngine
from dolphin.orderbook.snapshot import BookSnapshot

pytestmark = [
    pytest.mark.recordings,
    pytest.mark.skipif(
        MODE == "plain", reason="bands of a thousand levels take minutes without the compiler"
    ),
]

S = 1_000_000_000
SESSIONS = (
    "BTCUSDT_20230404T2358_20230405T0006",
    "BTCUSDT_20240718T2357_20240719T0005",
    "ETHUSDT_20240718T2357_20240719T0005",
)
BARS = 13  # of 5 s: the first minute


def raw(recordings: Path, session: str) -> Path:
    path = recordings / "l2" / f"binance_usdm_{session}_raw.parquet"
    if not path.is_file():
        pytest.skip(f"no recordings: {path.name} is not there")
    return path


def velocities(books: list[BookSnapshot]) -> list[float]:
    engine = BookEngine(("A",))
    for bar, book in enumerate(books):
        engine.step_live(bar, book.timestamp_ns, {"A": book}.get)
    return [engine.get_signal("A", bar).withdrawal_velocity for bar in range(len(books))]


@pytest.mark.parametrize(("session", "naive_growth"), zip(SESSIONS, (0.6, 0.4, 0.15), strict=True))
def test_the_first_minute_of_a_session_reads_as_neither_growth_nor_withdrawal(
    recordings: Path, session: str, naive_growth: float
) -> None:
    """A local book keeps every level that differences bring beyond its snapshot: within 1 % of mid it fills,
    and whoever takes that for depth sees it grow by more than the share stated. Within its reach it does not.
    """
    replay = BookReplay(raw(recordings, session))
    books, naive = [], []
    for k, snapshot in enumerate(replay.snapshots()):
        if k >= 50 * BARS:
            break
        if k % 50 == 0:
            books.append(snapshot)
            bids, asks = replay.book.bids.levels(), replay.book.asks.levels()
            taken = book_snapshot(snapshot.timestamp_ns, bids, asks, bid_edge=-math.inf, ask_edge=math.inf)
            assert taken is not None
            naive.append(taken)
    assert velocities(naive)[-1] > naive_growth
    assert max(map(abs, velocities(books))) < 0.10
    engine = BookEngine(("A",))
    for bar, book in enumerate(books):
        engine.step_live(bar, book.timestamp_ns, {"A": book}.get)
        assert engine.get_placement("A", bar).visible
        assert 0.9 < engine.get_placement("A", bar).depth_quality < 1.1
        macro = engine.get_macro(bar)
        assert (macro.cascade_count, abs(macro.depth_velocity) < 0.01) == (0, True)


def test_a_recorded_day_by_both_ways_in(recordings: Path, tmp_path: Path) -> None:
    """Five minutes of one UTC day of two books at 5 s bars, from snapshots on disk."""
    writer = PartWriter(tmp_path, SNAPSHOT_SCHEMA)
    for session in SESSIONS[1:]:
        rows = [(session[:7], book) for book in BookReplay(raw(recordings, session)).snapshots()]
        writer.write([snapshot_table(rows)])
    provider = RecordedBooks(tmp_path, ["2024-07-19"])
    instants = np.arange(provider.first_ns, provider.last_ns, 5 * S)
    assert len(instants) > 55
    day, live = BookEngine(provider.symbols), BookEngine(provider.symbols)
    day.preload_date("2024-07-19", np.arange(len(instants)), instants, provider)
    changed = set()
    for bar, now_ns in enumerate(instants.tolist()):
        provider.advance(now_ns)
        live.step_live(bar, now_ns, provider.newest)
        pairs = [(day.get_market(bar), live.get_market(bar)), (day.get_macro(bar), live.get_macro(bar))]
        for symbol in provider.symbols:
            pairs.append((day.get_placement(symbol, bar), live.get_placement(symbol, bar)))
            pairs.append((day.get_signal(symbol, bar), live.get_signal(symbol, bar)))
        for a, b in pairs:
            changed |= {name for name, x, y in zip(a._fields, a, b, strict=True) if x != y}
        mine, theirs = alpha_books(day, bar), alpha_books(live, bar)
        assert mine is not None
        assert theirs is not None
        for name, x, y in zip(mine._fields, mine, theirs, strict=True):
            if name not in ("depth_quality", "fill_probability"):
                np.testing.assert_array_equal(x, y, err_msg=name)
    assert changed == {"depth_quality", "fill_probability", "depth_velocity", "acceleration"}
