"""Health of the books of all symbols on disk: a row a symbol and snapshot, in parts of days (Hive layout).

Entry points: `universe_table`, `universe_writer`, `read_last`, `prune_days`.

Files are `ob_universe/date=YYYY-MM-DD/part-NNN.parquet`, written as `dolphin.market.book_files` writes.
Nothing is pruned unless `prune_days` is called with an age above 0: a default once destroyed a data set.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, day_start_ns
from dolphin.domain.errors import DataError, StoreError
from dolphin.market.book_files import PartWriter, days_in, parts_of, read_parts
from dolphin.orderbook.universe import BookHealth

UNIVERSE_FOLDER: Final = "ob_universe"

_COUNTS: Final = ("n_bid_levels", "n_ask_levels")
HEALTH_COLUMNS: Final = tuple(f.name for f in fields(BookHealth))
#: `age_s` is how long before the snapshot the book had arrived.
UNIVERSE_SCHEMA: Final = pa.schema(
    [
        pa.field("ts", pa.timestamp("ns", tz="UTC"), nullable=False),
        pa.field("symbol", pa.string(), nullable=False),
        *(
            pa.field(name, pa.int32() if name in _COUNTS else pa.float64(), nullable=False)
            for name in HEALTH_COLUMNS
        ),
        pa.field("age_s", pa.float64(), nullable=False),
    ]
)


def universe_table(now_ns: int, rows: Mapping[str, tuple[BookHealth, float]]) -> pa.Table:
    """One snapshot, symbol → (health, age in s), as a table of `UNIVERSE_SCHEMA` in the order of symbols."""
    symbols = sorted(rows)
    columns: list[pa.Array] = [
        pa.array([now_ns] * len(symbols), pa.int64()).cast(UNIVERSE_SCHEMA.field("ts").type),
        pa.array(symbols, pa.string()),
        *(
            pa.array([getattr(rows[s][0], name) for s in symbols], UNIVERSE_SCHEMA.field(name).type)
            for name in HEALTH_COLUMNS
        ),
        pa.array([rows[s][1] for s in symbols], pa.float64()),
    ]
    return pa.Table.from_arrays(columns, schema=UNIVERSE_SCHEMA)


def universe_writer(folder: Path) -> PartWriter:
    """Of parts `part-NNN.parquet`; goes on with the numbers that are there."""
    return PartWriter(folder, UNIVERSE_SCHEMA, digits=3)


def read_last(folder: Path, minutes: float) -> tuple[pa.Table, list[str]]:
    """(rows of the last minutes before the newest snapshot, a line for each part that could not be read).

    Raises StoreError where there is no such folder, DataError where no part of it can be read.
    """
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such folder; `dolphin universe` writes it, --dir names another")
    span_ns = int(minutes * 60 * NS_PER_S)
    tables: list[pa.Table] = []
    faults: list[str] = []
    newest_ns: int | None = None
    for day in reversed(days_in(folder)):
        if newest_ns is not None and day_start_ns(day) + NS_PER_DAY <= newest_ns - span_ns:
            break
        for path in reversed(parts_of(folder, day)):
            try:
                table = read_parts([path], UNIVERSE_SCHEMA)
            except (DataError, StoreError) as error:
                faults.append(str(error))
                continue
            if not table.num_rows:
                continue
            stamps = table["ts"].cast(pa.int64())
            last_ns = pc.max(stamps).as_py()
            newest_ns = last_ns if newest_ns is None else max(newest_ns, last_ns)
            if last_ns <= newest_ns - span_ns:
                break
            tables.append(table)
    if newest_ns is None:
        why = f" ({faults[0]})" if faults else ""
        raise DataError(
            f"{folder}: holds no snapshot that can be read{why}; let `dolphin universe` run first"
        )
    table = pa.concat_tables(reversed(tables))
    return table.filter(pc.greater(table["ts"].cast(pa.int64()), newest_ns - span_ns)), faults


def prune_days(folder: Path, now_ns: int, max_age_days: float) -> list[Path]:
    """Remove the parts of days that ended more than so many days ago; 0 keeps all for ever.

    Returns what was removed. Only parts of ours are touched, and folders that are empty then. Raises
    StoreError where the disk refuses.
    """
    if not max_age_days > 0.0:
        return []
    oldest_ns = now_ns - int(max_age_days * NS_PER_DAY)
    gone: list[Path] = []
    for day in days_in(folder):
        if day_start_ns(day) + NS_PER_DAY > oldest_ns:
            continue
        for path in parts_of(folder, day):
            try:
                path.unlink()
            except OSError as error:
                raise StoreError(
                    f"{path}: cannot be removed ({error.strerror}); check permissions"
                ) from error
            gone.append(path)
        with contextlib.suppress(OSError):
            (folder / f"date={day}").rmdir()
    return gone
