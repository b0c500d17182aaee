"""Files of rows: the columns, that a file is whole or not there, and comparison in all columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dolphin.domain.errors import DataError, StoreError
from dolphin.market.book_recording import TopRow
from dolphin.market.book_rows import LEVEL_COLUMNS, ROW_SCHEMA, compare_rows, read_rows, write_rows


def rows(n: int = 5) -> list[TopRow]:
    return [TopRow(100_000_000 * (k + 1), 7 * k, np.arange(80.0) + k) for k in range(n)]


def spoiled(k: int, column: int, value: float) -> list[TopRow]:
    made = rows()
    made[k].values[column] = value
    return made


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    made = rows()
    made[2].values[40:] = np.nan
    assert write_rows(tmp_path / "rows.parquet", iter(made)) == 5
    file = pq.ParquetFile(tmp_path / "rows.parquet")
    assert file.schema_arrow.equals(ROW_SCHEMA)
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert list(LEVEL_COLUMNS[::20]) == ["bid_px_0", "bid_qty_0", "ask_px_0", "ask_qty_0"]
    read = read_rows(tmp_path / "rows.parquet")
    assert read.ts.tolist() == [row.timestamp_ns for row in made]
    assert read.last_update_id.tolist() == [row.last_update_id for row in made]
    assert np.array_equal(read.values, np.stack([row.values for row in made]), equal_nan=True)
    assert [p.name for p in tmp_path.iterdir()] == ["rows.parquet"]


def test_no_row_makes_an_empty_file(tmp_path: Path) -> None:
    assert write_rows(tmp_path / "rows.parquet", iter([])) == 0
    assert len(read_rows(tmp_path / "rows.parquet").ts) == 0


def test_a_source_that_fails_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    def failing() -> Iterator[TopRow]:
        yield from rows(3)
        raise DataError("the recording ends here")

    path = tmp_path / "rows.parquet"
    write_rows(path, iter(rows()))
    before = path.read_bytes()
    with pytest.raises(DataError, match="the recording ends here"):
        write_rows(path, failing())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["rows.parquet"]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be written \(No such file or directory\)"):
        write_rows(tmp_path / "none" / "rows.parquet", iter(rows()))


def compared(tmp_path: Path, ours: list[TopRow], theirs: list[TopRow]) -> tuple[float, object]:
    write_rows(tmp_path / "a", iter(ours))
    write_rows(tmp_path / "b", iter(theirs))
    result = compare_rows(read_rows(tmp_path / "a"), read_rows(tmp_path / "b"))
    return result.equal_frac, result.first_difference


def test_equal_files_are_equal(tmp_path: Path) -> None:
    assert compared(tmp_path, rows(), rows()) == (1.0, None)
    assert compared(tmp_path, [], []) == (1.0, None)
    assert compared(tmp_path, spoiled(1, 3, np.nan), spoiled(1, 3, np.nan)) == (1.0, None)


def test_the_first_difference_is_named(tmp_path: Path) -> None:
    assert compared(tmp_path, spoiled(3, 21, 9.5), rows()) == (0.8, (400_000_000, "bid_qty_1", 9.5, 24.0))
    assert compared(tmp_path, rows(), spoiled(1, 79, np.nan)) == (
        0.8,
        (200_000_000, "ask_qty_19", 80.0, None),
    )
    other_id = [replace(row, last_update_id=row.last_update_id + (k > 2)) for k, row in enumerate(rows())]
    assert compared(tmp_path, rows(), other_id) == (0.6, (400_000_000, "last_update_id", 21, 22))


def test_a_row_that_only_one_file_has_is_a_difference(tmp_path: Path) -> None:
    assert compared(tmp_path, rows(), rows()[:4]) == (0.8, (500_000_000, "row", 28, None))
    assert compared(tmp_path, rows()[1:], rows()) == (0.8, (100_000_000, "row", None, 0))
    # The earliest difference is told, whatever its kind.
    assert compared(tmp_path, spoiled(4, 0, 1.0), rows()[1:])[1] == (100_000_000, "row", 0, None)
    assert compared(tmp_path, spoiled(0, 0, 1.0), rows()[:4]) == (0.6, (100_000_000, "bid_px_0", 1.0, 0.0))


def test_files_that_hold_no_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    with pytest.raises(StoreError, match="no such file; check the path"):
        read_rows(path)
    path.write_text("nothing")
    with pytest.raises(DataError, match="is no Parquet file, or a cut-off one"):
        read_rows(path)
    pq.write_table(pa.table({"ts": [1], "last_update_id": [1]}), path)
    with pytest.raises(DataError, match="no column 'bid_px_0'; expected rows of the best 20 levels"):
        read_rows(path)
    write_rows(path, iter([*rows(), rows()[0]]))
    with pytest.raises(DataError, match="a time stands in two rows"):
        read_rows(path)
