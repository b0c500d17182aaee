"""What a scan cache is on disk: the columns of a day's file, the manifest, how both are written and found.

Entry points: `Manifest`, `read_manifest`, `is_cache`, `put_bytes`. The format is described in
`dolphin.market.scan_cache`, which everybody imports from.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dolphin.domain.errors import DataError, StoreError
from dolphin.market.scan_store import fsync_folder

FOLDER = "scan_cache"
MANIFEST = "manifest.json"
FORMAT = "dolphin scan cache 1"

#: Columns before the prices, in order: (column, field of the scan).
FIELDS = (
    ("timestamp_ns", "timestamp_ns"),
    ("scan_number", "scan_number"),
    ("vel_div", "vel_div"),
    ("v50_lambda_max_velocity", "w50_velocity"),
    ("v150_lambda_max_velocity", "w150_velocity"),
    ("v300_lambda_max_velocity", "w300_velocity"),
    ("v750_lambda_max_velocity", "w750_velocity"),
    ("instability_50", "w50_instability"),
    ("instability_150", "w150_instability"),
)
N_INTEGERS = 2
FLOAT_FIELDS = tuple(name for _, name in FIELDS[N_INTEGERS:])
STALE_KEY = b"dolphin.stale"
UNIVERSE_KEY = b"dolphin.universe_id"


class PartialDayError(DataError):
    """A day that is half built, has holes, or is not what the manifest says.

    The way out is to build it again; a caller that can take such days adds how.
    """


class DayEntry(msgspec.Struct, kw_only=True):
    """What the manifest says of one day's file."""

    rows: int
    first_scan_number: int
    last_scan_number: int
    first_timestamp_ns: int
    last_timestamp_ns: int
    sha256: str
    #: Bars of the day, at the source's interval, for which there is no scan.
    missing_bars: int
    #: Holes in the scan numbers; a whole day has none.
    number_gaps: int
    min_certified_bits: int | None
    outcomes: dict[str, int]
    complete: bool


class Manifest(msgspec.Struct, kw_only=True):
    """The build's record: what the cache was made from, and what each day's file must be."""

    format: str = FORMAT
    source_id: str
    source: str
    interval_ns: int
    warmup_bars: int
    universe: list[str]
    universe_id: str
    #: [stamp before, stamp after, bars missing] for every jump of time between two scans.
    gaps: list[tuple[int, int, int]] = msgspec.field(default_factory=list)
    #: True when the builder reached the end of its source.
    finished: bool = False
    days: dict[str, DayEntry] = msgspec.field(default_factory=dict)


def cache_folder(path: Path) -> Path:
    """The `scan_cache` folder at `path`, which is that folder or the storage root above it."""
    return path / FOLDER if (path / FOLDER).is_dir() else path


def is_cache(path: Path) -> bool:
    """Whether `path` is a scan cache: its folder, the storage root above it, or one of its day files."""
    if path.is_dir():
        return (cache_folder(path) / MANIFEST).exists()
    if path.suffix != ".parquet" or not (path.parent / MANIFEST).exists():
        return False
    return re.fullmatch(r"\d{4}-\d{2}-\d{2}", path.stem) is not None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a cache folder.

    Raises StoreError when there is none, DataError when it is malformed.
    """
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise StoreError(f"{folder}: no {MANIFEST}, so no scan cache; build one first") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); check permissions") from error
    except msgspec.DecodeError as error:
        raise DataError(f"{path}: is no manifest of a cache ({error}); build it again") from error
    if manifest.format != FORMAT:
        raise DataError(f"{path}: format is {manifest.format!r}, expected {FORMAT!r}; build it again")
    return manifest


def put_bytes(path: Path, content: bytes | memoryview, hidden: Path | None = None) -> None:
    """Write under a hidden name of the same disk, fsync, rename. Raises StoreError."""
    hidden = hidden or path.with_name(f".{path.name}.tmp")
    try:
        with hidden.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(hidden, path)
        fsync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            hidden.unlink()
        raise StoreError(
            f"{path}: cannot be written ({error.strerror}); check disk and permissions"
        ) from error


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a day's file. Raises DataError when it is gone, StoreError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise DataError(f"{path}: the file of this day is gone; build it again") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); check permissions") from error


Runs = dict[str, list[list[int]]]


def load_day(path: Path, day: str, symbols: tuple[str, ...], uid: str) -> tuple[dict[str, Any], Runs]:
    """Columns of a day's file by name, (n_rows,) int64 or float64, and each asset's runs of stale rows.

    A run is [first row, number of rows]. Raises DataError for a file that is gone, damaged, of another
    universe, or has other columns.
    """
    try:
        table = pq.read_table(path, memory_map=True)
    except FileNotFoundError as error:
        raise DataError(f"{path}: the file of {day} is gone; build it again") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        line = textwrap.shorten((str(error).splitlines() or [""])[0], 120, placeholder=" …")
        raise DataError(f"{path}: {day} cannot be read ({line}); build it again") from error
    expected = [name for name, _ in FIELDS] + list(symbols)
    if table.schema.names != expected:
        raise DataError(f"{path}: {day} has other columns than the manifest's universe; build it again")
    metadata = table.schema.metadata or {}
    try:
        if metadata[UNIVERSE_KEY] != uid.encode():
            raise DataError(f"{path}: {day} is of another universe; build it again")
        stale = msgspec.json.decode(metadata[STALE_KEY], type=Runs)
        columns = {name: table.column(name).to_numpy() for name in expected}
    except (KeyError, msgspec.DecodeError, pa.ArrowException) as error:
        raise DataError(f"{path}: {day} lacks the cache's metadata; build it again") from error
    for kind, names in ((np.int64, expected[:N_INTEGERS]), (np.float64, expected[N_INTEGERS:])):
        for name in names:
            if columns[name].dtype != kind:
                raise DataError(
                    f"{path}: {day}: column {name} is {columns[name].dtype}, expected {kind.__name__}"
                )
    return columns, stale
