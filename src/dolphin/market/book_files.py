"""Recorded books on disk: tables of snapshots and of features, written and read as parts of days.

Entry points: `snapshot_table`, `snapshots_in`, `SnapshotColumns`; `feature_table`, `market_table`;
`PartWriter`, `days_in`, `parts_of`, `read_parts`.

Invariants: 1. a reader never sees half a part: bytes go to a hidden name, then one rename; 2. a part is never
overwritten, also not by a writer that starts anew; 3. a row lies in the folder of its own UTC day; 4. what is
read back is what was written, bit for bit. One writer a folder. pyarrow's errors end here.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY, day_from_ns
from dolphin.domain.errors import DataError, StoreError
from dolphin.market.book_schema import (
    BAND_COLUMNS,
    BAND_FIELDS,
    COVERAGE_COLUMNS,
    FEATURE_SCHEMA,
    MARKET_SCHEMA,
    SNAPSHOT_SCHEMA,
    VISIBLE_COLUMNS,
)
from dolphin.market.scan_store import fsync_folder
from dolphin.orderbook.engine import BookEngine
from dolphin.orderbook.fold import FEATURE_NAMES
from dolphin.orderbook.snapshot import BANDS, BookSnapshot

_PART: Final = re.compile(r"part-(\d{3,})\.parquet")
_DAY: Final = re.compile(r"date=(\d{4}-\d{2}-\d{2})")
_SCALARS: Final = (*COVERAGE_COLUMNS, *VISIBLE_COLUMNS)


def snapshot_table(rows: Iterable[tuple[str, BookSnapshot]]) -> pa.Table:
    """(symbol, snapshot) rows as a table of `SNAPSHOT_SCHEMA`, in the order in which they come."""
    held = list(rows)
    bands = np.array(
        [np.concatenate([getattr(book, side) for side in BAND_FIELDS]) for _, book in held]
    ).reshape(len(held), len(BAND_COLUMNS))
    columns: list[pa.Array] = [
        pa.array([book.timestamp_ns for _, book in held], pa.int64()).cast(SNAPSHOT_SCHEMA.field("ts").type),
        pa.array([symbol for symbol, _ in held], pa.string()),
        *(pa.array(bands[:, k], from_pandas=True) for k in range(len(BAND_COLUMNS))),
        *(pa.array([getattr(book, name) for _, book in held], pa.float64()) for name in _SCALARS),
        pa.array([book.pushed_ns for _, book in held], pa.int64()),
        pa.array([book.push_seq for _, book in held], pa.int64()),
    ]
    return pa.Table.from_arrays(columns, schema=SNAPSHOT_SCHEMA)


@dataclass(frozen=True, slots=True)
class SnapshotColumns:
    """m snapshots as arrays, about 220 bytes each; those of one symbol, or of several in a row."""

    timestamp_ns: IntArray  # (m,)
    bands: FloatArray  # (m, 4, 5) in the order of BAND_FIELDS
    scalars: FloatArray  # (m, 5) coverages and what is visible
    pushed_ns: IntArray
    push_seq: IntArray

    @classmethod
    def of(cls, table: pa.Table) -> SnapshotColumns:
        """The rows of a table of `SNAPSHOT_SCHEMA`."""
        bands = np.empty((table.num_rows, len(BAND_FIELDS), BANDS))
        for k, name in enumerate(BAND_COLUMNS):
            bands[:, k // BANDS, k % BANDS] = table[name].to_numpy()
        scalars = np.stack([table[name].to_numpy() for name in _SCALARS], axis=1)
        stamps = table["ts"].cast(pa.int64()).to_numpy()
        return cls(stamps, bands, scalars, table["pushed_ns"].to_numpy(), table["push_seq"].to_numpy())

    def __len__(self) -> int:
        return len(self.timestamp_ns)

    def take(self, rows: IntArray) -> SnapshotColumns:
        """Some of the rows, in the order of `rows`."""
        return SnapshotColumns(
            self.timestamp_ns[rows],
            self.bands[rows],
            self.scalars[rows],
            self.pushed_ns[rows],
            self.push_seq[rows],
        )

    def row(self, i: int) -> BookSnapshot:
        """One snapshot; its arrays are views."""
        bid, ask, bid_depth, ask_depth = self.bands[i]
        covers_bid, covers_ask, reach, visible_bid, visible_ask = self.scalars[i].tolist()
        return BookSnapshot(
            int(self.timestamp_ns[i]),
            bid,
            ask,
            bid_depth,
            ask_depth,
            covers_bid,
            covers_ask,
            reach,
            visible_bid,
            visible_ask,
            int(self.pushed_ns[i]),
            int(self.push_seq[i]),
        )


def snapshots_in(table: pa.Table) -> Iterator[tuple[str, BookSnapshot]]:
    """The rows of a table of `SNAPSHOT_SCHEMA`, as they were written."""
    columns = SnapshotColumns.of(table)
    for i, symbol in enumerate(table["symbol"].to_pylist()):
        yield symbol, columns.row(i)


def feature_table(engine: BookEngine, now_ns: int) -> pa.Table:
    """Features of the engine's newest bar, read at now_ns, as a table of `FEATURE_SCHEMA`."""
    n = len(engine.symbols)
    return features_as_table(
        np.full(n, now_ns, np.int64),
        np.full(n, engine.last_bar, np.int64),
        engine.symbols,
        engine.fresh(),
        engine.features(),
    )


def features_as_table(
    instants_ns: IntArray, bars: IntArray, symbols: Sequence[str], fresh: BoolArray, values: FloatArray
) -> pa.Table:
    """Rows (n,) of features (n_features, n), ordered as `FEATURE_NAMES`, as a table of `FEATURE_SCHEMA`."""
    columns: list[pa.Array] = [
        pa.array(instants_ns).cast(FEATURE_SCHEMA.field("ts").type),
        pa.array(bars),
        pa.array(list(symbols), pa.string()),
        pa.array(fresh),
        *(pa.array(values[k]) for k in range(len(FEATURE_NAMES))),
    ]
    return pa.Table.from_arrays(columns, schema=FEATURE_SCHEMA)


def market_table(engine: BookEngine, now_ns: int) -> pa.Table:
    """Figures across assets of the engine's newest bar, read at now_ns, as a table of `MARKET_SCHEMA`."""
    bar = engine.last_bar
    market, macro = engine.get_market(bar), engine.get_macro(bar)
    row = {"ts": now_ns, "bar_idx": bar, **market._asdict(), **macro._asdict()}
    return pa.Table.from_arrays(
        [
            pa.array([row[f.name]], pa.int64() if f.name == "ts" else f.type).cast(f.type)
            for f in MARKET_SCHEMA
        ],
        schema=MARKET_SCHEMA,
    )


def by_day(tables: Sequence[pa.Table], stamp: str = "ts") -> list[pa.Table]:
    """The rows of tables of one schema as a table each UTC day, for who must know which day was written."""
    table = pa.concat_tables(tables) if tables else None
    if table is None or not table.num_rows:
        return []
    days = table[stamp].cast(pa.int64()).to_numpy() // NS_PER_DAY
    return [table.filter(pa.array(days == day)) for day in np.unique(days).tolist()]


def _write_whole(path: Path, table: pa.Table) -> None:
    """Write beside the place, then rename. Raises OSError; no half is left."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with hidden.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        os.replace(hidden, path)
    finally:
        with contextlib.suppress(OSError):
            hidden.unlink()
    fsync_folder(path.parent)


def put_table(path: Path, table: pa.Table) -> None:
    """Write a table and put it in place only when it is whole. Raises StoreError; no half is left."""
    try:
        _write_whole(path, table)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror or error}); check disk and permissions"
        ) from error


class PartWriter:
    """Parts under `<folder>/date=YYYY-MM-DD/`, one file for each day of each `write`.

    stamp names the column of instants by which rows are dealt to days; digits is the least length of a part's
    number, 3 or more.
    """

    def __init__(self, folder: Path | str, schema: pa.Schema, stamp: str = "ts", digits: int = 6) -> None:
        self.folder = Path(folder)
        self.schema = schema
        self._stamp = stamp
        self._digits = digits
        self._next: dict[str, int] = {}

    def write(self, tables: Sequence[pa.Table]) -> list[Path]:
        """Write the rows of the tables, in order, and return the new files; no rows are no file.

        Raises StoreError when the disk refuses; what was written until then stays.
        """
        table = pa.concat_tables([part.cast(self.schema) for part in tables]) if tables else None
        if table is None or not table.num_rows:
            return []
        stamps: IntArray = table[self._stamp].cast(pa.int64()).to_numpy()
        days = stamps // NS_PER_DAY
        paths = []
        for day in np.unique(days).tolist():
            rows = table.filter(pa.array(days == day))
            paths.append(self._put(day_from_ns(day * NS_PER_DAY), rows))
        return paths

    def _put(self, day: str, table: pa.Table) -> Path:
        folder = self.folder / f"date={day}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if day not in self._next:
                numbers = [int(m[1]) for p in folder.iterdir() if (m := _PART.fullmatch(p.name))]
                self._next[day] = max(numbers, default=-1) + 1
            path = folder / f"part-{self._next[day]:0{self._digits}d}.parquet"
            _write_whole(path, table)
        except OSError as error:
            raise StoreError(
                f"{folder}: a part cannot be written ({error.strerror or error}); check disk and permissions"
            ) from error
        self._next[day] += 1
        return path


def days_in(folder: Path | str) -> tuple[str, ...]:
    """UTC days that have a sub-folder, in order; none where the folder is not there."""
    root = Path(folder)
    if not root.is_dir():
        return ()
    return tuple(sorted(m[1] for p in root.iterdir() if p.is_dir() and (m := _DAY.fullmatch(p.name))))


def parts_of(folder: Path | str, day: str) -> tuple[Path, ...]:
    """The parts of a day, in the order in which they were written; hidden and foreign files are left out."""
    root = Path(folder) / f"date={day}"
    found = (
        [(int(m[1]), p) for p in root.iterdir() if (m := _PART.fullmatch(p.name))] if root.is_dir() else []
    )
    return tuple(path for _, path in sorted(found))


def read_parts(paths: Sequence[Path], schema: pa.Schema) -> pa.Table:
    """The rows of several parts, in order.

    Raises StoreError for one that cannot be read, DataError for one that is no Parquet or has other columns.
    """
    return pa.concat_tables([schema.empty_table(), *(_read(path, schema) for path in paths)])


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in schema.names if name not in file.schema_arrow.names]
            if missing:
                raise DataError(f"{path}: has no column {missing[0]}; expected recorded books")
            table = file.read(columns=schema.names).select(schema.names)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: is not there; name a part of recorded books") from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error}); remove it or record again") from error
    try:
        return table.cast(schema)  # which also refuses nothing where a value must be
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{path}: a column is not what recorded books have ({error})") from error
