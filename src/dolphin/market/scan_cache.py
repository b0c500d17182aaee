"""The daily scan cache: what a backtest reads, one Parquet file per UTC day, and a manifest that says what is
whole.

Entry points: `CacheWriter` (from scans as they come), `compact_day` (from the Arrow store, verified),
`CacheReader`, `CacheFeed` (the prices of a cache as a source of bars).

Columns: timestamp_ns, scan_number, vel_div, v50/v150/v300/v750_lambda_max_velocity, instability_50,
instability_150, then one price column per asset (USDT, the last known price, NaN before the first). Which
assets were stale on which row lies in the file's key-value metadata, as runs, so that every host refuses the
same entries.

Invariants:

1. A day's file appears whole or not at all, and its SHA-256 stands in `manifest.json`.
2. A day is complete when it equals the manifest, and the manifest says so: its builder saw a scan of a later
day, or was
   told that the source ended. The manifest lists the interval, every gap in time, and the warm-up.
3. Scan numbers inside a day have no hole; a day with one is never complete.
4. A rebuild keeps the old files as `<name>.STALE_YYYYMMDD`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dolphin.domain.bar import Bar, BoolArray, FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY, day_from_ns, day_start_ns, iso_from_ns
from dolphin.domain.errors import DataError, StoreError, UsageError, nearest, plural
from dolphin.domain.scan import WARMUP_PRICES, Scan
from dolphin.domain.symbols import universe_id
from dolphin.market.feed import Gap, digest, note_of_gaps
from dolphin.market.scan_store import ScanStore, fsync_folder
from dolphin.market.universe import read_universe, require_symbols, take_assets

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
_N_INTEGERS = 2
_FLOAT_FIELDS = tuple(name for _, name in FIELDS[_N_INTEGERS:])
_STALE_KEY = b"dolphin.stale"
_UNIVERSE_KEY = b"dolphin.universe_id"
_STAMP = re.compile(r"\d{8}")


class PartialDayError(DataError):
    """A day that is half built, has holes, or is not what the manifest says.

    The way out is to build it again; a caller that can take such days adds how.
    """


@dataclass(frozen=True, slots=True)
class CacheRow:
    """One scan as the cache keeps it. Velocities in 1/s; prices in USDT, NaN where none is known yet."""

    timestamp_ns: int
    scan_number: int
    vel_div: float
    v50: float
    v150: float
    v300: float
    v750: float
    instability_50: float
    instability_150: float
    prices: FloatArray
    stale: tuple[str, ...]


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


@dataclass(slots=True)
class _Day:
    """One day while it is built."""

    day: str
    n_assets: int
    integers: list[tuple[int, int]] = field(default_factory=list)
    floats: list[FloatArray] = field(default_factory=list)
    stale: dict[str, list[list[int]]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    min_bits: int | None = None
    number_gaps: int = 0


class CacheWriter:
    """Builds a cache day by day from scans in the order of time.

    Opening a folder that holds the same source and universe goes on after its last complete day: scans up to
    `last` are passed over. `only_day` builds that day among the others. Another source is refused, unless
    `stale_stamp` (YYYYMMDD, today's date for the caller) asks for a rebuild, which sets the old files aside.
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
        self._day: _Day | None = None
        self._last: tuple[int, int] | None = None
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
    def last(self) -> tuple[int, int] | None:
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
            self._day = _Day(name, len(self.symbols))
        day = self._day
        if self._last is not None:
            self._note_step(day, scan, *self._last)
        row = np.empty(len(_FLOAT_FIELDS) + len(self.symbols))
        row[: len(_FLOAT_FIELDS)] = [
            np.nan if value is None else value for value in (getattr(scan, f) for f in _FLOAT_FIELDS)
        ]
        row[len(_FLOAT_FIELDS) :] = np.array(scan.asset_prices, dtype=np.float64)
        position = len(day.integers)
        day.integers.append((scan.timestamp_ns, scan.scan_number))
        day.floats.append(row)
        for symbol in scan.stale_assets:
            runs = day.stale.setdefault(symbol, [])
            if runs and runs[-1][0] + runs[-1][1] == position:
                runs[-1][1] += 1
            else:
                runs.append([position, 1])
        day.outcomes.update(set(scan.outcome))
        if scan.certified_bits:
            bits = min(scan.certified_bits)
            day.min_bits = bits if day.min_bits is None else min(day.min_bits, bits)
        self._last = (scan.scan_number, scan.timestamp_ns)

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

    def _note_step(self, day: _Day, scan: Scan, number: int, stamp: int) -> None:
        if day.integers and scan.scan_number != number + 1:
            day.number_gaps += 1
        step, interval = scan.timestamp_ns - stamp, self.manifest.interval_ns
        if step > interval + interval // 2:
            self.manifest.gaps.append((stamp, scan.timestamp_ns, max(1, round(step / interval) - 1)))

    def _close_day(self, complete: bool) -> None:
        day = self._day
        if day is None:
            return
        self._day = None
        path = self.folder / f"{day.day}.parquet"
        table = _table_of(day, self.symbols, self.manifest.universe_id)
        sha256 = _put_table(path, table)
        stamps = day.integers
        expected = NS_PER_DAY // self.manifest.interval_ns
        self.manifest.days[day.day] = DayEntry(
            rows=len(stamps),
            first_scan_number=stamps[0][1],
            last_scan_number=stamps[-1][1],
            first_timestamp_ns=stamps[0][0],
            last_timestamp_ns=stamps[-1][0],
            sha256=sha256,
            missing_bars=max(0, expected - len(stamps)),
            number_gaps=day.number_gaps,
            min_certified_bits=day.min_bits,
            outcomes=dict(sorted(day.outcomes.items())),
            complete=complete and day.number_gaps == 0,
        )
        self._write_manifest()

    def _write_manifest(self) -> None:
        self.manifest.gaps.sort()
        self.manifest.days = dict(sorted(self.manifest.days.items()))
        text = json.dumps(msgspec.to_builtins(self.manifest), indent=1, sort_keys=True) + "\n"
        _put_bytes(self.folder / MANIFEST, text.encode())

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
            elif not entry.complete or not (self.folder / f"{name}.parquet").exists():
                break  # from this day on the days are built again
            self._last = (entry.last_scan_number, entry.last_timestamp_ns)
        last = self._last[1] if self._last is not None else -1
        end = day_start_ns(only_day) + NS_PER_DAY if only_day is not None else None
        mine.gaps = [gap for gap in mine.gaps if gap[1] <= last or (end is not None and gap[0] >= end)]

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


class CacheReader:
    """Reads a cache; `root` is the storage root or the `scan_cache` folder itself."""

    def __init__(self, root: Path | str) -> None:
        """Open the manifest. Raises StoreError when there is none, DataError when it is malformed."""
        self.folder = cache_folder(Path(root))
        self.manifest = read_manifest(self.folder)
        self.symbols = tuple(self.manifest.universe)
        self.interval_ns = self.manifest.interval_ns
        self._open: tuple[str, dict[str, Any], dict[str, list[list[int]]]] | None = None

    def days(self) -> tuple[str, ...]:
        """The days of the manifest, in order."""
        return tuple(sorted(self.manifest.days))

    def check(self, day: str, allow_partial: bool = False) -> list[str]:
        """Compare one day's file with the manifest and return what is wrong with it: nothing, for a whole
        day.

        Raises PartialDayError with the day and the first reason, unless `allow_partial`; a day that is not in
        the manifest, or whose file cannot be read at all, is refused in any case (DataError).
        """
        entry = self._entry(day)
        path = self._path(day)
        faults: list[str] = []
        if not entry.complete:
            holes = plural(entry.number_gaps, "hole")
            why = f"{holes} in its scan numbers" if entry.number_gaps else "half built"
            faults.append(f"{why}, its last scan is of {iso_from_ns(entry.last_timestamp_ns)[11:19]}")
        if _sha256_of(path) != entry.sha256:
            faults.append("its content is not what the manifest records")
        columns = self.columns(day)
        stamps, numbers = columns["timestamp_ns"], columns["scan_number"]
        if len(stamps) != entry.rows:
            faults.append(f"{len(stamps)} rows, the manifest has {entry.rows}")
        if len(stamps):
            if (np.diff(stamps) <= 0).any():
                faults.append("its times do not grow")
            n_holes = int((np.diff(numbers) != 1).sum())
            if n_holes and not entry.number_gaps:
                faults.append(f"{plural(n_holes, 'hole')} in its scan numbers")
            if int(stamps[-1]) != entry.last_timestamp_ns:
                faults.append(
                    f"its last scan is of {iso_from_ns(int(stamps[-1]))[11:19]}, the manifest has"
                    f" {iso_from_ns(entry.last_timestamp_ns)[11:19]}"
                )
            if day_from_ns(int(stamps[0])) != day or day_from_ns(int(stamps[-1])) != day:
                faults.append("it holds scans of another day")
        if faults and not allow_partial:
            raise PartialDayError(f"{path}: {day} is refused: {faults[0]}; build it again to its end")
        return faults

    def columns(self, day: str) -> dict[str, Any]:
        """Column name to numpy array (n_rows,), int64 or float64, in the file's order. Raises DataError."""
        return self._load(day)[0]

    def prices(self, day: str) -> FloatArray:
        """Prices of a day, shape (n_rows, n_assets), USDT, NaN where none is known yet."""
        columns = self._load(day)[0]
        return np.column_stack([columns[symbol] for symbol in self.symbols])

    def stale_mask(self, day: str) -> BoolArray:
        """True where an asset was stale, shape (n_rows, n_assets)."""
        columns, stale = self._load(day)
        mask = np.zeros((len(columns["timestamp_ns"]), len(self.symbols)), dtype=np.bool_)
        for j, symbol in enumerate(self.symbols):
            for start, length in stale.get(symbol, ()):
                mask[start : start + length, j] = True
        return mask

    def scans(self, day: str) -> Iterator[CacheRow]:
        """The day's rows in order. Call `check` first: this reads whatever the file holds."""
        columns, stale = self._load(day)
        prices = self.prices(day)
        prices.setflags(write=False)
        mask = self.stale_mask(day) if stale else None
        lists: list[list[Any]] = [columns[name].tolist() for name, _ in FIELDS]
        for i, (stamp, number, vel_div, v50, v150, v300, v750, i50, i150) in enumerate(
            zip(*lists, strict=True)
        ):
            names: tuple[str, ...] = ()
            if mask is not None and mask[i].any():
                names = tuple(self.symbols[int(j)] for j in np.flatnonzero(mask[i]))
            yield CacheRow(stamp, number, vel_div, v50, v150, v300, v750, i50, i150, prices[i], names)

    def _entry(self, day: str) -> DayEntry:
        entry = self.manifest.days.get(day)
        if entry is None:
            days = self.days()
            has = f"it has {days[0]} to {days[-1]}" if days else "it has none"
            raise DataError(f"{self.folder}: no day {day}; {has}.{nearest(day, days)}")
        return entry

    def _path(self, day: str) -> Path:
        return self.folder / f"{day}.parquet"

    def _load(self, day: str) -> tuple[dict[str, Any], dict[str, list[list[int]]]]:
        if self._open is not None and self._open[0] == day:
            return self._open[1], self._open[2]
        self._entry(day)
        path = self._path(day)
        try:
            table = pq.read_table(path, memory_map=True)
        except FileNotFoundError as error:
            raise DataError(f"{path}: the file of {day} is gone; build it again") from error
        except (pa.ArrowException, OSError) as error:
            line = (str(error).splitlines() or [""])[0][:120]
            raise DataError(f"{path}: {day} cannot be read ({line}); build it again") from error
        expected = [name for name, _ in FIELDS] + list(self.symbols)
        if table.schema.names != expected:
            raise DataError(f"{path}: {day} has other columns than the manifest's universe; build it again")
        metadata = table.schema.metadata or {}
        try:
            if metadata[_UNIVERSE_KEY].decode() != self.manifest.universe_id:
                raise DataError(f"{path}: {day} is of another universe; build it again")
            stale = msgspec.json.decode(metadata[_STALE_KEY], type=dict[str, list[list[int]]])
            columns = {name: table.column(name).to_numpy() for name in expected}
        except (KeyError, msgspec.DecodeError, pa.ArrowException) as error:
            raise DataError(f"{path}: {day} lacks the cache's metadata; build it again") from error
        for name in expected[:_N_INTEGERS]:
            if columns[name].dtype != np.int64:
                raise DataError(f"{path}: {day}: column {name} is {columns[name].dtype}, expected int64")
        for name in expected[_N_INTEGERS:]:
            if columns[name].dtype != np.float64:
                raise DataError(f"{path}: {day}: column {name} is {columns[name].dtype}, expected float64")
        self._open = (day, columns, stale)
        return columns, stale


class CacheFeed:
    """The prices of a cache as bars: stale prices are NaN again, stamps are the scans' own (the bars' close).

    The bars before the first scan are not in a cache, so a scanner fed from here waits its warm-up again.
    """

    def __init__(
        self,
        path: Path | str,
        universe: Path | Sequence[str] | None = None,
        assets: int | None = None,
        allow_partial: bool = False,
    ) -> None:
        """Open a cache folder, a storage root, or one day's file.

        Every day is checked: raises what `CacheReader.check` raises. `universe` and `assets` as in
        `RecordedFeed`.
        """
        where = Path(path)
        only = where.name.removesuffix(".parquet") if where.suffix == ".parquet" else None
        self._reader: CacheReader | None = CacheReader(where.parent if only else where)
        reader = self._reader
        self.name = where.name
        self._days = (only,) if only else reader.days()
        if not self._days:
            raise DataError(f"{reader.folder}: the cache holds no day; build it first")
        wanted = reader.symbols
        source = self.name
        if isinstance(universe, str | Path):
            wanted, source = read_universe(Path(universe)), str(universe)
        elif universe is not None:
            wanted, source = tuple(universe), "the universe"
        self.symbols, note = take_assets(wanted, assets, source)
        require_symbols(self.symbols, reader.symbols, str(where), source)
        self._column = np.array([reader.symbols.index(symbol) for symbol in self.symbols], dtype=np.int64)
        self.interval_ns = reader.interval_ns
        self.rejections: Counter[tuple[str, str]] = Counter()
        self.notes = [note] if note else []
        for day in self._days:
            self.notes += [f"{day}: {fault}" for fault in reader.check(day, allow_partial)]
        entries = [reader.manifest.days[day] for day in self._days]
        self._rows = [len(reader.columns(day)["timestamp_ns"]) for day in self._days]
        self.n_bars: int | None = sum(self._rows)
        inside = [Gap(*gap) for gap in reader.manifest.gaps]
        first, last = entries[0].first_timestamp_ns, entries[-1].last_timestamp_ns
        self.gaps = tuple(gap for gap in inside if first <= gap.after_ns and gap.before_ns <= last)
        if self.gaps:
            self.notes.append(note_of_gaps(self.gaps))
        self.notes.append("Prices of a scan cache: the windows fill again, the first 751 bars give no scan")
        self.source_id = digest(
            {
                "kind": "scan cache",
                "symbols": list(self.symbols),
                "days": {day: entry.sha256 for day, entry in zip(self._days, entries, strict=True)},
            }
        )

    def bars(self, skip: int = 0) -> Iterator[Bar]:
        """Bars from position `skip` on; whole days before it are not read."""
        for day, n_rows in zip(self._days, self._rows, strict=True):
            if skip >= n_rows:
                skip -= n_rows
                continue
            if self._reader is None:
                raise StoreError(f"{self.name}: the feed is closed; open it again")
            stamps: IntArray = self._reader.columns(day)["timestamp_ns"]
            prices = self._reader.prices(day)
            prices[self._reader.stale_mask(day)] = np.nan
            prices = np.ascontiguousarray(prices[:, self._column])
            prices.setflags(write=False)
            for i in range(max(0, skip), n_rows):
                yield Bar(int(stamps[i]), prices[i])
            skip = 0

    def close(self) -> None:
        """Let the reader go."""
        self._reader = None


def compact_day(
    store: ScanStore,
    root: Path | str,
    day: str,
    interval_ns: int,
    source_id: str,
    source: str = "",
    stale_stamp: str | None = None,
    ended: bool = False,
) -> DayEntry:
    """Build one finished day of the cache from the Arrow store, read it back, and compare every value.

    The day is complete when its last scan is the day's last bar, or when nothing of it can follow: `ended`.
    Raises DataError when the store has no scan
    of that day or when what was written differs from what was read (the maximum difference allowed is 0).
    """
    scans = sorted(store.scans_of_day(day), key=lambda scan: scan.timestamp_ns)
    if not scans:
        raise DataError(f"{store.folder / day}: no scans of {day}; nothing to compact")
    writer = CacheWriter(
        root, scans[0].assets, interval_ns, source_id, source, stale_stamp=stale_stamp, only_day=day
    )
    for scan in scans:
        writer.add(scan)
    last_bar_ns = day_start_ns(day) + NS_PER_DAY - 2 * interval_ns
    writer.finish(complete=ended or scans[-1].timestamp_ns > last_bar_ns)
    reader = CacheReader(root)
    verify_day(reader, day, scans)
    return reader.manifest.days[day]


def verify_day(reader: CacheReader, day: str, scans: Iterable[Scan]) -> int:
    """Compare a day of the cache with the scans it was made from, bit for bit; the number of rows compared.

    Raises DataError naming the first row and column that differ, or the two row counts.
    """
    rows = reader.scans(day)
    n = 0
    for scan in scans:
        row = next(rows, None)
        if row is None:
            raise DataError(f"{reader.folder}: {day} has {n} rows, fewer than the scans it was made from")
        n += 1
        expected = [getattr(scan, name) for _, name in FIELDS]
        got = [getattr(row, name) for name in CacheRow.__slots__[: len(FIELDS)]]
        names = [column for column, _ in FIELDS]
        for name, a, b in zip(
            [*names, *scan.assets, "stale"],
            [*expected, *scan.asset_prices, tuple(s for s in scan.assets if s in scan.stale_assets)],
            [*got, *row.prices.tolist(), row.stale],
            strict=True,
        ):
            same = b != b if a is None else a == b
            if not same:
                raise DataError(f"{reader.folder}: {day} row {n - 1}: {name} is {b}, the scan has {a}")
    if next(rows, None) is not None:
        raise DataError(f"{reader.folder}: {day} has more rows than the {n} scans it was made from")
    return n


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


def _table_of(day: _Day, symbols: tuple[str, ...], uid: str) -> pa.Table:
    integers = np.array(day.integers, dtype=np.int64)
    floats = np.array(day.floats, dtype=np.float64)
    names = [name for name, _ in FIELDS] + list(symbols)
    columns = [pa.array(integers[:, k]) for k in range(_N_INTEGERS)]
    columns += [pa.array(np.ascontiguousarray(floats[:, k])) for k in range(floats.shape[1])]
    metadata = {
        _UNIVERSE_KEY: uid.encode(),
        _STALE_KEY: json.dumps(day.stale, sort_keys=True).encode(),
    }
    return pa.Table.from_arrays(columns, names=names).replace_schema_metadata(metadata)


def _put_table(path: Path, table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=3, write_page_checksum=True)
    content = sink.getvalue()
    _put_bytes(path, memoryview(content))
    return hashlib.sha256(content).hexdigest()


def _put_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write under a hidden name, fsync, rename. Raises StoreError."""
    hidden = path.with_name(f".{path.name}.tmp")
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


def _sha256_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise DataError(f"{path}: the file of this day is gone; build it again") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); check permissions") from error
