"""Building a scan cache: one day's file from its scans, and the manifest over the days.

Entry points: `CacheWriter` (from scans as they come), `DayBuilder` (one day, for builders that work on
several at once and merge with `CacheWriter.take_day`).

1. What is written is read back and compared, bit for bit, before the manifest names it.
2. A day's bytes depend on its scans and on the scan before them, not on who wrote it, nor when.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dolphin.domain.bar import FloatArray
from dolphin.domain.clock import NS_PER_DAY, day_from_ns, day_start_ns, iso_from_ns
from dolphin.domain.errors import DataError, StoreError, UsageError
from dolphin.domain.scan import WARMUP_PRICES, Scan
from dolphin.domain.symbols import universe_id
from dolphin.market.cache_format import (
    FIELDS,
    FLOAT_FIELDS,
    FOLDER,
    MANIFEST,
    N_INTEGERS,
    STALE_KEY,
    UNIVERSE_KEY,
    DayEntry,
    Manifest,
    load_day,
    put_bytes,
    read_manifest,
    sha256_of,
)

_STAMP = re.compile(r"\d{8}")

#: Number and stamp of a scan.
Mark = tuple[int, int]


class BuiltDay(msgspec.Struct, kw_only=True, frozen=True):
    """A day's file that was written and read back: what the manifest takes over."""

    day: str
    entry: DayEntry
    #: As `Manifest.gaps`: jumps of time between the day's scans, and from the scan before them.
    gaps: list[tuple[int, int, int]]


class DayBuilder:
    """One day while it is built, from its scans in order."""

    def __init__(self, day: str, symbols: tuple[str, ...], uid: str, interval_ns: int) -> None:
        self.day = day
        self._symbols = symbols
        self._uid = uid
        self._interval_ns = interval_ns
        self._integers: list[Mark] = []
        self._floats: list[FloatArray] = []
        self._stale: dict[str, list[list[int]]] = {}
        self._outcomes: Counter[str] = Counter()
        self._min_bits: int | None = None
        self._number_gaps = 0
        self._gaps: list[tuple[int, int, int]] = []

    def add(self, scan: Scan, before: Mark | None) -> None:
        """Take the next scan in; `before` is number and stamp of the scan before it, None for the first."""
        if before is not None:
            if self._integers and scan.scan_number != before[0] + 1:
                self._number_gaps += 1
            step, interval = scan.timestamp_ns - before[1], self._interval_ns
            if step > interval + interval // 2:
                self._gaps.append((before[1], scan.timestamp_ns, max(1, round(step / interval) - 1)))
        row = np.empty(len(FLOAT_FIELDS) + len(self._symbols))
        row[: len(FLOAT_FIELDS)] = [
            np.nan if value is None else value for value in (getattr(scan, f) for f in FLOAT_FIELDS)
        ]
        row[len(FLOAT_FIELDS) :] = np.array(scan.asset_prices, dtype=np.float64)
        position = len(self._integers)
        self._integers.append((scan.timestamp_ns, scan.scan_number))
        self._floats.append(row)
        for symbol in scan.stale_assets:
            runs = self._stale.setdefault(symbol, [])
            if runs and runs[-1][0] + runs[-1][1] == position:
                runs[-1][1] += 1
            else:
                runs.append([position, 1])
        self._outcomes.update(set(scan.outcome))
        if scan.certified_bits:
            bits = min(scan.certified_bits)
            self._min_bits = bits if self._min_bits is None else min(self._min_bits, bits)

    def join(self, later: DayBuilder) -> None:
        """Take over what another builder has of the same day, the scans that follow those here."""
        position = len(self._integers)
        self._integers += later._integers
        self._floats += later._floats
        for symbol, found in later._stale.items():
            runs = self._stale.setdefault(symbol, [])
            for start, length in found:
                if runs and runs[-1][0] + runs[-1][1] == position + start:
                    runs[-1][1] += length
                else:
                    runs.append([position + start, length])
        self._outcomes.update(later._outcomes)
        bits = [b for b in (self._min_bits, later._min_bits) if b is not None]
        self._min_bits = min(bits, default=None)
        self._number_gaps += later._number_gaps
        self._gaps += later._gaps

    def write(self, folder: Path, complete: bool, hidden: Path | None = None) -> BuiltDay:
        """Write the day's file, read it back and compare; it is complete when asked so and without holes.

        hidden : name that the file has until it is whole, on the same disk. Raises StoreError from the disk,
        DataError where what is read differs from what was written.
        """
        path = folder / f"{self.day}.parquet"
        table = self._table()
        sha256 = _put_table(path, table, hidden)
        self._compare(path, table)
        stamps = self._integers
        expected = NS_PER_DAY // self._interval_ns
        entry = DayEntry(
            rows=len(stamps),
            first_scan_number=stamps[0][1],
            last_scan_number=stamps[-1][1],
            first_timestamp_ns=stamps[0][0],
            last_timestamp_ns=stamps[-1][0],
            sha256=sha256,
            missing_bars=max(0, expected - len(stamps)),
            number_gaps=self._number_gaps,
            min_certified_bits=self._min_bits,
            outcomes=dict(sorted(self._outcomes.items())),
            complete=complete and self._number_gaps == 0,
        )
        return BuiltDay(day=self.day, entry=entry, gaps=self._gaps)

    def _table(self) -> pa.Table:
        integers = np.array(self._integers, dtype=np.int64)
        floats = np.array(self._floats, dtype=np.float64)
        names = [name for name, _ in FIELDS] + list(self._symbols)
        columns = [pa.array(integers[:, k]) for k in range(N_INTEGERS)]
        columns += [pa.array(np.ascontiguousarray(floats[:, k])) for k in range(floats.shape[1])]
        metadata = {
            UNIVERSE_KEY: self._uid.encode(),
            STALE_KEY: json.dumps(self._stale, sort_keys=True).encode(),
        }
        return pa.Table.from_arrays(columns, names=names).replace_schema_metadata(metadata)

    def _compare(self, path: Path, table: pa.Table) -> None:
        """Every bit of every column, NaN included, and the stale runs."""
        columns, stale = load_day(path, self.day, self._symbols, self._uid)
        for name, column in columns.items():
            written = table.column(name).to_numpy()
            if written.view(np.int64).tobytes() != column.view(np.int64).tobytes():
                raise DataError(
                    f"{path}: column {name} is not what was written; check the disk, build it again"
                )
        if stale != self._stale:
            raise DataError(
                f"{path}: its stale rows are not what was written; check the disk, build it again"
            )


class CacheWriter:
    """Builds a cache day by day from scans in the order of time.

    Opening a folder that holds the same source and universe goes on after its last complete day, or before
    the first one whose file is not what the manifest says: scans up to `last` are passed over. `only_day`
    builds that day among the others. Another source is refused, unless `stale_stamp` (YYYYMMDD, today's date
    for the caller) asks for a rebuild, which sets the old files aside.
    """

    def __init__(
        self,
        root: Path | str,
        symbols: Sequence[str],
        interval_ns: int,
        source_id: str,
        source: str = "",
        warmup_bars: int = WARMUP_PRICES - 1,
        stale_stamp: str | None = None,
        only_day: str | None = None,
    ) -> None:
        """Open the cache under `root` (which gets `scan_cache/`) for writing.

        Raises UsageError for a malformed stamp, StoreError when another source is there or the disk refuses.
        """
        if stale_stamp is not None and not _STAMP.fullmatch(stale_stamp):
            raise UsageError(f"stale_stamp is {stale_stamp!r}; expected a date as YYYYMMDD")
        if interval_ns <= 0:
            raise UsageError(f"interval_ns is {interval_ns}; a bar has a length")
        self.folder = Path(root) / FOLDER
        self.symbols = tuple(symbols)
        self.manifest = Manifest(
            source_id=source_id,
            source=source,
            interval_ns=interval_ns,
            warmup_bars=warmup_bars,
            universe=list(self.symbols),
            universe_id=universe_id(self.symbols),
        )
        #: Scans passed over because a complete day already holds them.
        self.n_passed = 0
        self._stamp = stale_stamp
        self._day: DayBuilder | None = None
        self._last: Mark | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.folder}: cannot be made ({error.strerror}); check disk and permissions"
            ) from error
        if stale_stamp is not None and only_day is None:
            self._set_aside([*self.folder.glob("*.parquet"), self.folder / MANIFEST], stale_stamp)
        elif (self.folder / MANIFEST).exists():
            self._resume(read_manifest(self.folder), only_day, stale_stamp)
        elif any(self.folder.glob("*.parquet")):
            raise StoreError(f"{self.folder}: holds days but no {MANIFEST}; rebuild, which sets them aside")

    @property
    def last(self) -> Mark | None:
        """Number and stamp of the last scan taken in (or found in complete days), None before the first."""
        return self._last

    def add(self, scan: Scan) -> None:
        """Take one scan in; the day before it is closed when it begins a new one.

        Raises DataError for another universe, or a time or number that does not grow; StoreError from the
        disk.
        """
        if self._last is not None:
            number, stamp = self._last
            if self._day is None and scan.timestamp_ns <= stamp:
                self.n_passed += 1
                return
            if scan.timestamp_ns <= stamp or scan.scan_number <= number:
                raise DataError(
                    f"scan {scan.scan_number} at {iso_from_ns(scan.timestamp_ns)}: follows scan {number} at"
                    f" {iso_from_ns(stamp)}; a cache needs growing numbers and times"
                )
        if scan.assets != self.symbols:
            raise DataError(
                f"scan {scan.scan_number}: its universe {universe_id(scan.assets)} is not the cache's"
                f" {self.manifest.universe_id}; give each universe its own root"
            )
        name = day_from_ns(scan.timestamp_ns)
        if self._day is not None and self._day.day != name:
            self._close_day(complete=True)
        if self._day is None:
            self._day = DayBuilder(name, self.symbols, self.manifest.universe_id, self.manifest.interval_ns)
        self._day.add(scan, self._last)
        self._last = (scan.scan_number, scan.timestamp_ns)

    def begin(self) -> None:
        """Put a manifest where there is none yet, so that a day's file never stands without one."""
        if not (self.folder / MANIFEST).exists():
            self._write_manifest()

    def take_day(self, built: BuiltDay) -> None:
        """Take over a day that a `DayBuilder` has written, in the order of time.

        Raises DataError when its numbers or times do not grow, StoreError from the disk.
        """
        entry = built.entry
        if self._last is not None and (
            entry.first_timestamp_ns <= self._last[1] or entry.first_scan_number <= self._last[0]
        ):
            raise DataError(
                f"{built.day}: begins with scan {entry.first_scan_number} at"
                f" {iso_from_ns(entry.first_timestamp_ns)}, after scan {self._last[0]} at"
                f" {iso_from_ns(self._last[1])}; a cache needs growing numbers and times"
            )
        self.manifest.days[built.day] = entry
        self.manifest.gaps += built.gaps
        self._write_manifest()
        self._last = (entry.last_scan_number, entry.last_timestamp_ns)

    def finish(self, complete: bool = True) -> Manifest:
        """Close the last day and the manifest.

        `complete=False` when the source goes on, so that the last day is half built. Raises StoreError.
        """
        if self._day is not None:
            self._close_day(complete=complete)
        self.manifest.finished = complete
        self._write_manifest()
        return self.manifest

    # -- inside ------------------------------------------------------------------------------------------

    def _close_day(self, complete: bool) -> None:
        day = self._day
        if day is None:
            return
        self._day = None
        self.begin()
        built = day.write(self.folder, complete)
        self.manifest.days[day.day] = built.entry
        self.manifest.gaps += built.gaps
        self._write_manifest()

    def _write_manifest(self) -> None:
        self.manifest.gaps.sort()
        self.manifest.days = dict(sorted(self.manifest.days.items()))
        text = json.dumps(msgspec.to_builtins(self.manifest), indent=1, sort_keys=True) + "\n"
        put_bytes(self.folder / MANIFEST, text.encode())

    def _resume(self, found: Manifest, only_day: str | None, stamp: str | None) -> None:
        mine = self.manifest
        for what, here, there in (
            ("source", mine.source_id[:16], found.source_id[:16]),
            ("universe", mine.universe_id, found.universe_id),
            ("interval", mine.interval_ns, found.interval_ns),
        ):
            if here != there:
                raise StoreError(
                    f"{self.folder}: built from {what} {there}, this is {here}; rebuild (the old files are"
                    f" kept as STALE), or give another root"
                )
        mine.days = dict(found.days)
        mine.gaps = list(found.gaps)
        mine.warmup_bars = found.warmup_bars
        if only_day is not None:
            path = self.folder / f"{only_day}.parquet"
            entry = mine.days.pop(only_day, None)
            if entry is not None and entry.complete and stamp is None:
                raise StoreError(
                    f"{path}: {only_day} is whole already; rebuild it, which keeps the old file as STALE"
                )
            if stamp is not None:
                self._set_aside([path], stamp)
        for name in sorted(mine.days):
            entry = mine.days[name]
            if only_day is not None:
                if name > only_day:
                    break
            elif not entry.complete or not self._holds(name, entry):
                break  # from this day on the days are built again
            self._last = (entry.last_scan_number, entry.last_timestamp_ns)
        last = self._last[1] if self._last is not None else -1
        end = day_start_ns(only_day) + NS_PER_DAY if only_day is not None else None
        mine.gaps = [gap for gap in mine.gaps if gap[1] <= last or (end is not None and gap[0] >= end)]

    def _holds(self, day: str, entry: DayEntry) -> bool:
        """Whether the day's file is there and is what the manifest says."""
        path = self.folder / f"{day}.parquet"
        return path.exists() and sha256_of(path) == entry.sha256

    def _set_aside(self, paths: Iterable[Path], stamp: str) -> None:
        try:
            for path in sorted(paths):
                if path.exists():
                    target = path.with_name(f"{path.name}.STALE_{stamp}")
                    n = 2
                    while target.exists():
                        target = path.with_name(f"{path.name}.STALE_{stamp}.{n}")
                        n += 1
                    os.rename(path, target)
        except OSError as error:
            raise StoreError(
                f"{self.folder}: an old file cannot be set aside ({error.strerror}); check permissions"
            ) from error


def _put_table(path: Path, table: pa.Table, hidden: Path | None) -> str:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=3, write_page_checksum=True)
    content = sink.getvalue()
    put_bytes(path, memoryview(content), hidden)
    return hashlib.sha256(content).hexdigest()
