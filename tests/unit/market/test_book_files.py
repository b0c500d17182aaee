"""Recorded books on disk: bit for bit, day by day, whole or not at all."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from book_snapshots import S, book, hostile

from dolphin.domain.clock import day_start_ns
from dolphin.domain.errors import DataError, StoreError
from dolphin.market.book_files import (
    PartWriter,
    days_in,
    feature_table,
    market_table,
    parts_of,
    read_parts,
    snapshot_table,
    snapshots_in,
)
from dolphin.market.book_schema import FEATURE_SCHEMA, MARKET_SCHEMA, SNAPSHOT_SCHEMA
from dolphin.market.recorded_books import RecordedBooks
from dolphin.orderbook.engine import BookEngine
from dolphin.orderbook.fold import FEATURE_NAMES
from dolphin.orderbook.snapshot import BookSnapshot

START = day_start_ns("2024-07-18")


def same(a: BookSnapshot, b: BookSnapshot) -> None:
    for name in BookSnapshot.__slots__:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def rows(n: int, start_ns: int = START, symbols: tuple[str, ...] = ("AUSDT", "BUSDT")) -> list:
    rng = np.random.default_rng(1)
    made = [(s, hostile(rng, start_ns + t * S, 1.0)) for t in range(n) for s in symbols]
    return [(symbol, snapshot) for symbol, snapshot in made if snapshot is not None]


def test_snapshots_come_back_bit_for_bit(tmp_path):
    there = [*rows(60), ("AUSDT", book([1.0], [2.0, 3.0], START)), ("CUSDT", book([], [], START))]
    whole = book([1.0] * 5, [2.0] * 5, START)
    infinite = BookSnapshot(
        START, *(getattr(whole, n) for n in ("bid_notional", "ask_notional", "bid_depth", "ask_depth")),
        math.inf, math.inf, 100.0, 1.0, 2.0, START + 7, 2**40,
    )  # fmt: skip
    there.append(("DUSDT", infinite))
    PartWriter(tmp_path, SNAPSHOT_SCHEMA).write([snapshot_table(there[:50]), snapshot_table(there[50:])])
    stored = [
        row
        for day in days_in(tmp_path)
        for row in snapshots_in(read_parts(parts_of(tmp_path, day), SNAPSHOT_SCHEMA))
    ]
    by_day = sorted(there, key=lambda row: row[1].timestamp_ns // (86_400 * S))
    assert [symbol for symbol, _ in stored] == [symbol for symbol, _ in by_day]
    for (_, a), (_, b) in zip(stored, by_day, strict=True):
        same(a, b)
    table = pq.read_table(tmp_path / "date=2024-07-18" / "part-000000.parquet", partitioning=None)
    assert table["bid_notional_5"].null_count > 0
    assert not np.isnan(table["bid_notional_5"].drop_null().to_numpy()).any()


def test_rows_lie_in_their_own_day_and_parts_count_on(tmp_path):
    near_midnight = [("AUSDT", book([1.0], [1.0], START + t * S)) for t in (-1, 0, 1)]
    writer = PartWriter(tmp_path / "ob", SNAPSHOT_SCHEMA)
    assert writer.write([]) == []
    assert writer.write([snapshot_table([])]) == []
    assert not (tmp_path / "ob").exists()
    first = writer.write([snapshot_table(near_midnight)])
    second = writer.write([snapshot_table(near_midnight[1:])])
    again = PartWriter(tmp_path / "ob", SNAPSHOT_SCHEMA).write([snapshot_table(near_midnight[2:])])
    names = [p.relative_to(tmp_path / "ob").as_posix() for p in (*first, *second, *again)]
    assert names == [
        "date=2024-07-17/part-000000.parquet",
        "date=2024-07-18/part-000000.parquet",
        "date=2024-07-18/part-000001.parquet",
        "date=2024-07-18/part-000002.parquet",
    ]
    (tmp_path / "ob" / "date=2024-07-18" / ".part-000009.parquet.1.tmp").write_bytes(b"half")
    (tmp_path / "ob" / "notes.txt").write_text("foreign")
    assert days_in(tmp_path / "ob") == ("2024-07-17", "2024-07-18")
    assert [p.name for p in parts_of(tmp_path / "ob", "2024-07-18")] == [
        f"part-{k:06d}.parquet" for k in range(3)
    ]
    assert parts_of(tmp_path / "ob", "2024-07-19") == ()
    assert days_in(tmp_path / "nowhere") == ()
    assert read_parts(parts_of(tmp_path / "ob", "2024-07-18"), SNAPSHOT_SCHEMA).num_rows == 5


def test_a_disk_that_refuses_leaves_no_half_file(tmp_path, monkeypatch):
    writer = PartWriter(tmp_path, SNAPSHOT_SCHEMA)
    table = snapshot_table([("AUSDT", book([1.0], [1.0], START))])

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(StoreError, match="No space left"):
            writer.write([table])
    assert list((tmp_path / "date=2024-07-18").iterdir()) == []
    assert [p.name for p in writer.write([table])] == ["part-000000.parquet"]


def test_damaged_and_foreign_parts_are_named(tmp_path):
    good = snapshot_table([("AUSDT", book([1.0], [1.0], START))])
    path = tmp_path / "part.parquet"
    with pytest.raises(StoreError, match="is not there"):
        read_parts([path], SNAPSHOT_SCHEMA)
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_parts([path], SNAPSHOT_SCHEMA)
    pq.write_table(good.drop_columns(["visible_bps"]), path)
    with pytest.raises(DataError, match="no column visible_bps"):
        read_parts([path], SNAPSHOT_SCHEMA)
    at = good.schema.get_field_index("visible_bps")
    pq.write_table(good.set_column(at, "visible_bps", pa.array(["far"])), path)
    with pytest.raises(DataError, match="a column is not what"):
        read_parts([path], SNAPSHOT_SCHEMA)
    pq.write_table(good.set_column(at, "visible_bps", pa.array([None], pa.float64())), path)
    with pytest.raises(DataError, match="null values to non-nullable"):
        read_parts([path], SNAPSHOT_SCHEMA)


def test_features_of_a_bar_are_the_engines(tmp_path):
    engine = BookEngine(("AUSDT", "BUSDT", "CUSDT"))
    rng = np.random.default_rng(3)
    assets, across = PartWriter(tmp_path / "a", FEATURE_SCHEMA), PartWriter(tmp_path / "m", MARKET_SCHEMA)
    seen = []
    for t in range(30):
        books = {s: hostile(rng, START + t * S, 1.0) for s in engine.symbols}
        engine.step_live(t, START + t * S, books.get)
        seen.append(engine.fresh().tolist())
        assets.write([feature_table(engine, START + t * S)])
        across.write([market_table(engine, START + t * S)])
    found = read_parts(parts_of(tmp_path / "a", "2024-07-18"), FEATURE_SCHEMA).to_pylist()
    assert len(found) == 90
    for k, row in enumerate(found):
        t, i = divmod(k, 3)
        symbol = engine.symbols[i]
        expected = (*engine.get_placement(symbol, t), *engine.get_signal(symbol, t))
        assert (row["bar_idx"], row["symbol"], row["fresh"]) == (t, symbol, seen[t][i])
        assert row["ts"].value == START + t * S
        assert tuple(row[name] for name in FEATURE_NAMES) == expected
    for t, row in enumerate(read_parts(parts_of(tmp_path / "m", "2024-07-18"), MARKET_SCHEMA).to_pylist()):
        expected = engine.get_market(t)._asdict() | engine.get_macro(t)._asdict() | {"bar_idx": t}
        assert {name: row[name] for name in expected} == expected


def test_recorded_books_never_show_what_comes_later(tmp_path):
    there = rows(40)
    shuffled = [there[k] for k in np.random.default_rng(0).permutation(len(there))]
    writer = PartWriter(tmp_path, SNAPSHOT_SCHEMA)
    for k in range(0, len(shuffled), 10):
        writer.write([snapshot_table(shuffled[k : k + 10])])
    provider = RecordedBooks(tmp_path)
    assert provider.symbols == ("AUSDT", "BUSDT")
    stamps = [snapshot.timestamp_ns for _, snapshot in there]
    assert (provider.first_ns, provider.last_ns) == (min(stamps), max(stamps))
    assert provider.newest("AUSDT") is None
    instants = [START + t * S // 3 for t in range(-20, 130)]
    for now_ns in (*instants, *instants[::-7]):
        provider.advance(now_ns)
        for symbol in provider.symbols:
            known = [b for s, b in there if s == symbol and b.timestamp_ns <= now_ns]
            found = provider.newest(symbol)
            if known:
                same(found, max(known, key=lambda b: b.timestamp_ns))
            else:
                assert found is None
    assert provider.newest("NOSUCH") is None


def test_recorded_books_of_some_days_or_parts(tmp_path):
    writer = PartWriter(tmp_path, SNAPSHOT_SCHEMA)
    days = [START, START + 86_400 * S]
    paths = writer.write([snapshot_table([("AUSDT", book([1.0], [1.0], day + 1)) for day in days])])
    assert RecordedBooks(tmp_path, ["2024-07-19"]).first_ns == days[1] + 1
    assert RecordedBooks(paths[:1]).last_ns == days[0] + 1
    with pytest.raises(DataError, match="holds no recorded books"):
        RecordedBooks(tmp_path, ["2024-07-20"])
    with pytest.raises(DataError, match="holds no recorded books"):
        RecordedBooks(tmp_path / "nowhere")


def test_two_days_are_held_at_a_time_and_midnight_hides_nothing(tmp_path):
    writer = PartWriter(tmp_path, SNAPSHOT_SCHEMA)
    day = 86_400 * S
    midnight = START // day * day
    there = [("AUSDT", book([float(k + 1)], [1.0], midnight + k * day - 1)) for k in range(5)]
    writer.write([snapshot_table(there)])
    provider = RecordedBooks(tmp_path)
    assert (provider.first_ns, provider.last_ns) == (midnight - 1, midnight + 4 * day - 1)
    for k in (0, 1, 2, 3, 4, 2, 0):
        provider.advance(midnight + k * day)
        assert len(provider._held) <= 2
        found = provider.newest("AUSDT")
        assert found is not None
        assert found.visible_bid == k + 1.0
    provider.advance(midnight + 9 * day)
    assert provider.newest("AUSDT") is None


def test_of_one_instant_the_last_recorded_counts(tmp_path):
    twice = [("AUSDT", book([depth], [depth], START)) for depth in (1.0, 2.0)]
    PartWriter(tmp_path, SNAPSHOT_SCHEMA).write([snapshot_table(twice)])
    provider = RecordedBooks(tmp_path)
    provider.advance(START)
    assert provider.newest("AUSDT").visible_bid == 2.0
