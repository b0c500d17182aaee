"""What the factor service pushed, day by day in Parquet: written as it goes, read back, and replayed.

Entry points: `FactorLog` (write), `read_pushes` (read), `is_daily`, `daily_sources` (as sources again).

Layout: `exf/date=YYYY-MM-DD/part-HHMMSS.parquet`, a part named by its first push, one row a push:
`pushed_at`, and per factor its value (null where none counted), `_at` (the instant that the last good value
speaks of), `_age_s` at the push, and `_status`.

Invariants
----------
1. A part is replaced as a whole, so a reader never sees half a row, and a kill loses no push that was told.
2. A restart goes on in the day's newest part while it is short; a part that cannot be read is left as it is.
3. Replayed, a value counts from the first push that had it: nobody here knew it before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dolphin.domain.clock import day_from_ns, time_of_day
from dolphin.domain.errors import DataError, StoreError
from dolphin.factors.keeper import RULES
from dolphin.factors.series import Series, SeriesSource, series_of

FOLDER: Final = "exf"
#: An hour of pushes: small enough to be written anew with each.
ROWS_PER_PART: Final = 60
#: Pushes that a full disk may hold back, the newest.
ROWS_HELD_MAX: Final = 1440

_TS: Final = pa.timestamp("ns", tz="UTC")
SCHEMA: Final = pa.schema(
    [("pushed_at", _TS)]
    + [
        field
        for name in RULES
        for field in (
            (name, pa.float64()),
            (f"{name}_at", _TS),
            (f"{name}_age_s", pa.float64()),
            (f"{name}_status", pa.string()),
        )
    ]
)


class Pushed(NamedTuple):
    """One factor in one push: value None where none counted, at_ns and age_s of the last good one."""

    value: float | None
    at_ns: int | None
    age_s: float | None
    status: str


class FactorLog:
    """The writer. `write` replaces a file durably and raises StoreError; one writer a folder."""

    def __init__(self, folder: Path, write: Callable[[Path, bytes], None]) -> None:
        self.folder = folder
        self._write = write
        self._day = ""
        self._part: Path | None = None
        self._rows: list[dict[str, Any]] = []
        self._kept = 0
        #: Pushes that no file took before they were too many or their day was over.
        self.n_lost = 0

    def append(self, pushed_ns: int, factors: Mapping[str, Pushed]) -> None:
        """Keep one push. Raises StoreError; it is then kept with the next one that can be."""
        day = day_from_ns(pushed_ns)
        if day != self._day:
            self.n_lost += len(self._rows) - self._kept
            self._day = day
            self._part, self._rows = self._newest(day)
            self._kept = len(self._rows)
        elif len(self._rows) >= ROWS_PER_PART and self._kept == len(self._rows):
            self._part, self._rows, self._kept = None, [], 0
        row: dict[str, Any] = {"pushed_at": pushed_ns}
        for name, pushed in factors.items():
            row[name] = pushed.value
            row[f"{name}_at"], row[f"{name}_age_s"] = pushed.at_ns, pushed.age_s
            row[f"{name}_status"] = pushed.status
        self._rows.append(row)
        if len(self._rows) > ROWS_HELD_MAX:
            del self._rows[self._kept]
            self.n_lost += 1
        if self._part is None:
            self._part = self._unused(pushed_ns)
        self._write(self._part, _bytes(self._rows))
        self._kept = len(self._rows)

    def _newest(self, day: str) -> tuple[Path | None, list[dict[str, Any]]]:
        """The day's newest part to go on with, and its rows; (None, []) where a new one has to begin."""
        parts = sorted((self.folder / f"date={day}").glob("part-*.parquet"))
        if not parts:
            return None, []
        try:
            table = _read(parts[-1])
        except (DataError, StoreError):
            return None, []
        if table.num_rows >= ROWS_PER_PART:
            return None, []
        return parts[-1], _plain(table).to_pylist()

    def _unused(self, pushed_ns: int) -> Path:
        """A name that no part has: a clock that was set back must not overwrite what is there."""
        folder = self.folder / f"date={self._day}"
        stem = f"part-{time_of_day(pushed_ns)}"
        path, k = folder / f"{stem}.parquet", 1
        while path.exists():
            path, k = folder / f"{stem}-{k}.parquet", k + 1
        return path


def is_daily(folder: Path) -> bool:
    """Whether a folder is such a record, or holds one."""
    return folder.name == FOLDER or (folder / FOLDER).is_dir()


def read_pushes(folder: Path, first_day: str = "", last_day: str = "9999-12-31") -> pa.Table:
    """The pushes of the days from first_day to last_day, in order, in the columns of SCHEMA.

    folder is the record, or a folder that holds it as `exf`. Raises DataError for a part that is none,
    StoreError for one that cannot be read.
    """
    root = folder if folder.name == FOLDER else folder / FOLDER
    tables = [
        _read(part)
        for day in sorted(root.glob("date=*"))
        if first_day <= day.name.removeprefix("date=") <= last_day
        for part in sorted(day.glob("part-*.parquet"))
    ]
    if not tables:
        return SCHEMA.empty_table()
    return pa.concat_tables(tables).sort_by("pushed_at")


def daily_sources(folder: Path) -> dict[str, SeriesSource]:
    """A source for each factor, by name, of all days; read when one is asked first."""
    table: list[pa.Table] = []

    def load(name: str) -> Series:
        if not table:
            table.append(_plain(read_pushes(folder)))
        if not table[0].num_rows:
            raise DataError(f"{folder}: no push of factors, expected exf/date=YYYY-MM-DD/part-*.parquet")
        return _series(table[0], name)

    return {name: SeriesSource(name, lambda name=name: load(name)) for name in RULES}  # type: ignore[misc]


def _series(table: pa.Table, name: str) -> Series:
    """The first push of each value, with the instant it speaks of."""
    known = table.filter(pc.is_valid(table[name]))
    pushed_ns = known["pushed_at"].to_numpy()
    values = known[name].to_numpy()
    at_ns = np.minimum(known[f"{name}_at"].fill_null(2**62).to_numpy(), pushed_ns)
    new = np.ones(len(values), np.bool_)
    new[1:] = (values[1:] != values[:-1]) | (at_ns[1:] != at_ns[:-1])
    return series_of(pushed_ns[new], values[new], at_ns[new])


def _plain(table: pa.Table) -> pa.Table:
    """Times as integers, ns."""
    for k, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(k, field.name, table.column(k).cast(pa.int64()))
    return table


def _bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in SCHEMA]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), sink, compression="zstd")
    return bytes(sink.getvalue())


def _read(path: Path) -> pa.Table:
    try:
        # Not `read_table`: it would take the day from the folder's name as one more column.
        with pq.ParquetFile(path) as file:
            return file.read(columns=SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, ValueError, KeyError) as error:
        told = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise DataError(f"{path}: no part of a factor record ({told}); move it away") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error}); check permissions") from error
