"""Health of all books on disk: what is written is read; the last minutes of it; pruned only when asked."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, day_start_ns
from dolphin.domain.errors import DataError, StoreError
from dolphin.market.book_files import parts_of
from dolphin.market.universe_files import (
    UNIVERSE_SCHEMA,
    prune_days,
    read_last,
    universe_table,
    universe_writer,
)
from dolphin.orderbook.universe import BookHealth

MIDNIGHT = day_start_ns("2026-03-02")
MINUTE = 60 * NS_PER_S


def health(depth: float = 1e4) -> BookHealth:
    return BookHealth(1.5, depth, 0.5, 0.5, -0.25, 99.0, 101.0, 5, 4)


def snapshot(at_ns: int, *symbols: str) -> pa.Table:
    return universe_table(at_ns, {symbol: (health(), 0.5) for symbol in symbols})


def stamps(table: pa.Table) -> list[int]:
    found: list[int] = table["ts"].cast(pa.int64()).to_pylist()
    return found


def test_parts_lie_in_their_day_and_go_on_with_the_numbers_that_are_there(tmp_path: Path) -> None:
    first = universe_writer(tmp_path)
    first.write([snapshot(MIDNIGHT - MINUTE, "B", "A")])
    first.write([snapshot(MIDNIGHT, "A")])
    again = universe_writer(tmp_path)
    (path,) = again.write([snapshot(MIDNIGHT + MINUTE, "A")])
    assert path.relative_to(tmp_path).as_posix() == "date=2026-03-02/part-001.parquet"
    assert [p.name for p in parts_of(tmp_path, "2026-03-01")] == ["part-000.parquet"]
    table, faults = read_last(tmp_path, 10)
    assert faults == []
    assert table.schema == UNIVERSE_SCHEMA
    assert stamps(table) == [MIDNIGHT - MINUTE, MIDNIGHT - MINUTE, MIDNIGHT, MIDNIGHT + MINUTE]
    assert table["symbol"].to_pylist() == ["A", "B", "A", "A"]
    row = table.to_pylist()[0]
    assert (row["spread_bps"], row["n_ask_levels"], row["age_s"]) == (1.5, 4, 0.5)
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".")]


def test_a_thousandth_part_comes_after_the_others(tmp_path: Path) -> None:
    (tmp_path / "date=2026-03-02").mkdir()
    writer = universe_writer(tmp_path)
    (path,) = writer.write([snapshot(MIDNIGHT, "A")])
    path.rename(path.with_name("part-999.parquet"))
    universe_writer(tmp_path).write([snapshot(MIDNIGHT + MINUTE, "A")])
    assert [p.name for p in parts_of(tmp_path, "2026-03-02")] == ["part-999.parquet", "part-1000.parquet"]


def test_only_the_last_minutes_are_read(tmp_path: Path) -> None:
    writer = universe_writer(tmp_path)
    for k in range(30):
        writer.write([snapshot(MIDNIGHT + k * MINUTE, "A")])
    (tmp_path / "date=2026-03-02" / "part-005.parquet").write_bytes(b"old and damaged: never looked at")
    table, faults = read_last(tmp_path, 3)
    assert stamps(table) == [MIDNIGHT + k * MINUTE for k in (27, 28, 29)]
    assert faults == []
    far, _ = read_last(tmp_path, 0.5)
    assert stamps(far) == [MIDNIGHT + 29 * MINUTE]


def test_days_before_the_last_minutes_are_not_opened(tmp_path: Path) -> None:
    writer = universe_writer(tmp_path)
    (old,) = writer.write([snapshot(MIDNIGHT - 5 * NS_PER_DAY, "A")])
    old.write_bytes(b"damaged")
    writer.write([snapshot(MIDNIGHT, "A")])
    assert read_last(tmp_path, 10)[1] == []
    (tmp_path / "date=2026-03-02" / "part-001.parquet").write_bytes(b"")
    table, faults = read_last(tmp_path, 10)
    assert table.num_rows == 1
    assert "part-001.parquet" in faults[0]


def test_nothing_to_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such folder"):
        read_last(tmp_path / "absent", 10)
    with pytest.raises(DataError, match="holds no snapshot that can be read; let"):
        read_last(tmp_path, 10)
    universe_writer(tmp_path).write([snapshot(MIDNIGHT, "A")])
    (part,) = parts_of(tmp_path, "2026-03-02")
    part.write_bytes(b"x")
    with pytest.raises(DataError, match=r"part-000\.parquet: cannot be read as Parquet"):
        read_last(tmp_path, 10)


def test_nothing_is_pruned_by_default_and_whole_days_when_asked(tmp_path: Path) -> None:
    writer = universe_writer(tmp_path)
    for k in range(5):
        writer.write([snapshot(MIDNIGHT + k * NS_PER_DAY, "A")])
    foreign = tmp_path / "date=2026-03-02" / "notes.txt"
    foreign.write_text("mine")
    now_ns = MIDNIGHT + 4 * NS_PER_DAY + MINUTE
    for never in (0.0, 0, -1.0, float("nan")):
        assert prune_days(tmp_path, now_ns + 10_000 * NS_PER_DAY, never) == []
    gone = prune_days(tmp_path, now_ns, 2)
    assert [p.parent.name for p in gone] == ["date=2026-03-02", "date=2026-03-03"]
    # A folder with something of somebody else's stays, and so does that.
    assert foreign.read_text() == "mine"
    assert not (tmp_path / "date=2026-03-03").exists()
    assert sorted(p.parent.name for p in tmp_path.rglob("*.parquet")) == [
        "date=2026-03-04", "date=2026-03-05", "date=2026-03-06",
    ]  # fmt: skip
    assert prune_days(tmp_path / "absent", now_ns, 1) == []


def test_a_part_that_cannot_be_removed_is_told(tmp_path: Path) -> None:
    stubborn = tmp_path / "date=2026-03-02" / "part-000.parquet"
    stubborn.mkdir(parents=True)
    with pytest.raises(StoreError, match=r"part-000\.parquet: cannot be removed"):
        prune_days(tmp_path, MIDNIGHT + 9 * NS_PER_DAY, 1)
