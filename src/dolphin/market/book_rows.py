"""Best 20 levels every 100 ms as a file: `write_rows`, `read_rows`, and `compare_rows` of two such files.

Columns: `ts` (UTC ns, boundary of exchange time), `last_update_id`, then `bid_px_0..19`, `bid_qty_0..19`,
`ask_px_0..19`, `ask_qty_0..19` (USD, base units; level 0 is the best, NaN where a level is not known).
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.errors import DataError, StoreError
from dolphin.market.book_recording import N_LEVELS, TopRow
from dolphin.market.parquet_magic import require_parquet
from dolphin.market.scan_store import fsync_folder

LEVEL_COLUMNS: Final = tuple(
    f"{side}_{what}_{level}" for side in ("bid", "ask") for what in ("px", "qty") for level in range(N_LEVELS)
)
ROW_SCHEMA: Final = pa.schema(
    [("ts", pa.timestamp("ns", tz="UTC")), ("last_update_id", pa.int64())]
    + [(name, pa.float64()) for name in LEVEL_COLUMNS]
)
#: Rows of a row group: an hour.
_GROUP_ROWS: Final = 36_000


@dataclass(frozen=True, slots=True)
class Rows:
    """A file's columns: ts (ns) and last_update_id are (n_rows,), values (n_rows, 80) as in `TopRow`."""

    ts: IntArray
    last_update_id: IntArray
    values: FloatArray


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two files of rows, joined on `ts`.

    first_difference is (ts in ns, column, ours, theirs) of the earliest row in which they differ. The column
    is "row" where only one of them has that time: its last_update_id stands there, and None for the other.
    """

    n_ours: int
    n_theirs: int
    n_both: int
    n_equal: int
    first_difference: tuple[int, str, float | None, float | None] | None

    @property
    def equal_frac(self) -> float:
        """Share of all rows, of either file, that are in both and equal in all columns; 1 without any row."""
        n_all = self.n_ours + self.n_theirs - self.n_both
        return self.n_equal / n_all if n_all else 1.0


def write_rows(path: Path, rows: Iterator[TopRow]) -> int:
    """Write rows as they come, zstd-compressed, and put the file in place only when it is whole.

    Returns the number of rows. Raises StoreError; what `rows` raises passes through, and no file is left.
    """
    hidden = path.with_name(f".{path.name}.tmp")
    n_rows = 0
    try:
        try:
            with hidden.open("wb") as file:
                with pq.ParquetWriter(file, ROW_SCHEMA, compression="zstd", compression_level=9) as writer:
                    while group := list(islice(rows, _GROUP_ROWS)):
                        writer.write_table(_table(group), row_group_size=_GROUP_ROWS)
                        n_rows += len(group)
                file.flush()
                os.fsync(file.fileno())
            os.replace(hidden, path)
            fsync_folder(path.parent)
        except OSError as error:
            raise StoreError(
                f"{path}: cannot be written ({error.strerror or error}); check disk and permissions"
            ) from error
    except BaseException:
        with contextlib.suppress(OSError):
            hidden.unlink()
        raise
    return n_rows


def read_rows(path: Path) -> Rows:
    """Read a file of rows. Raises DataError, StoreError."""
    try:
        require_parquet(path)
        with pq.ParquetFile(path) as file:
            missing = [name for name in ROW_SCHEMA.names if name not in file.schema_arrow.names]
            if missing:
                raise DataError(
                    f"{path}: no column {missing[0]!r}; expected rows of the best {N_LEVELS} levels"
                )
            table = file.read(columns=list(ROW_SCHEMA.names)).cast(ROW_SCHEMA)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file; check the path") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0][:160]})") from error
    ts = table["ts"].cast(pa.int64()).to_numpy()
    if len(np.unique(ts)) != len(ts):
        raise DataError(f"{path}: a time stands in two rows; expected one row a time")
    values = np.column_stack([table[name].to_numpy() for name in LEVEL_COLUMNS])
    return Rows(ts, table["last_update_id"].to_numpy(), values)


def compare_rows(ours: Rows, theirs: Rows) -> Comparison:
    """Compare two files of rows in all columns; NaN equals NaN."""
    both, i, j = np.intersect1d(ours.ts, theirs.ts, assume_unique=True, return_indices=True)
    a, b = ours.values[i], theirs.values[j]
    same: BoolArray = (a == b) | (np.isnan(a) & np.isnan(b))
    our_id, their_id = ours.last_update_id[i], theirs.last_update_id[j]
    equal = same.all(axis=1) & (our_id == their_id)
    first: tuple[int, str, float | None, float | None] | None = None
    unequal = np.flatnonzero(~equal)
    alone = np.setxor1d(ours.ts, theirs.ts, assume_unique=True)
    if len(unequal) and not (len(alone) and alone[0] < both[unequal[0]]):
        k = unequal[0]
        if our_id[k] != their_id[k]:
            first = int(both[k]), "last_update_id", int(our_id[k]), int(their_id[k])
        else:
            column = int(np.flatnonzero(~same[k])[0])
            first = int(both[k]), LEVEL_COLUMNS[column], _value(a[k, column]), _value(b[k, column])
    elif len(alone):
        first = int(alone[0]), "row", _id_at(ours, alone[0]), _id_at(theirs, alone[0])
    return Comparison(len(ours.ts), len(theirs.ts), len(both), int(equal.sum()), first)


def _id_at(rows: Rows, ts: int) -> int | None:
    found = rows.last_update_id[rows.ts == ts]
    return int(found[0]) if len(found) else None


def _table(group: list[TopRow]) -> pa.Table:
    values = np.stack([row.values for row in group])
    columns = [
        pa.array([row.timestamp_ns for row in group], pa.int64()).cast(ROW_SCHEMA.field(0).type),
        pa.array([row.last_update_id for row in group], pa.int64()),
    ]
    columns += [pa.array(np.ascontiguousarray(values[:, k])) for k in range(values.shape[1])]
    return pa.Table.from_arrays(columns, schema=ROW_SCHEMA)


def _value(x: float) -> float | None:
    return None if math.isnan(x) else float(x)
