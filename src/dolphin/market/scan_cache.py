"""The daily scan cache: what a backtest reads, one Parquet file per UTC day, and a manifest that says what is
whole.

Entry points: `CacheWriter` (from scans as they come; `dolphin.market.cache_writer`), `compact_day` (from the
Arrow store, verified), `CacheReader`, `CacheFeed` (the prices of a cache as a source of bars). A build from
prices is `dolphin.services.cache_build`; arrays over many days are `dolphin.market.columns`.

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
5. A file whose SHA-256 is not the manifest's is never read as its day, not even as a partial one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dolphin.domain.bar import Bar, BoolArray, FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY, day_from_ns, day_start_ns, iso_from_ns
from dolphin.domain.errors import DataError, StoreError, nearest, plural
from dolphin.domain.scan import Scan
from dolphin.market.cache_format import (
    FIELDS,
    FOLDER,
    MANIFEST,
    DayEntry,
    Manifest,
    PartialDayError,
    Runs,
    cache_folder,
    is_cache,
    load_day,
    read_manifest,
    sha256_of,
)
from dolphin.market.cache_writer import BuiltDay, CacheWriter, DayBuilder
from dolphin.market.feed import Gap, digest, note_of_gaps
from dolphin.market.scan_store import ScanStore
from dolphin.market.universe import read_universe, require_symbols, take_assets

__all__ = [
    "FIELDS", "FOLDER", "MANIFEST", "OTHER_CONTENT", "BuiltDay", "CacheFeed", "CacheReader", "CacheRow",
    "CacheWriter", "DayBuilder", "DayEntry", "Manifest", "PartialDayError", "cache_folder", "compact_day",
    "is_cache", "read_manifest", "verify_day",
]  # fmt: skip


#: Fault of a day whose file is another than the one its manifest tells of.
OTHER_CONTENT = "its content is not what the manifest records"


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


class CacheReader:
    """Reads a cache; `root` is the storage root or the `scan_cache` folder itself."""

    def __init__(self, root: Path | str) -> None:
        """Open the manifest. Raises StoreError when there is none, DataError when it is malformed."""
        self.folder = cache_folder(Path(root))
        self.manifest = read_manifest(self.folder)
        self.symbols = tuple(self.manifest.universe)
        self.interval_ns = self.manifest.interval_ns
        self._open: tuple[str, dict[str, Any], Runs] | None = None

    def days(self) -> tuple[str, ...]:
        """The days of the manifest, in order."""
        return tuple(sorted(self.manifest.days))

    def check_end(self, last_day: str | None = None, allow_partial: bool = False) -> list[str]:
        """What is wrong with the cache's end for a period up to `last_day` (`YYYY-MM-DD`; None: all days).

        A build that was stopped or killed leaves whole days and no end: nothing else tells such a cache from
        a finished one. Whoever names a last day that is there asks for nothing that is missing; a last day
        that is itself not whole is told by `check`. Raises PartialDayError, unless `allow_partial`.
        """
        days = self.days()
        if self.manifest.finished or not days or not self.manifest.days[days[-1]].complete:
            return []
        if last_day is not None and last_day <= days[-1]:
            return []
        if not allow_partial:
            raise PartialDayError(
                f"{self.folder}: the build has not reached its end; last whole day {days[-1]}: run data build"
                " again, or name the last day (--to, last_day)"
            )
        return [f"{days[-1]}: the build has not reached its end, this is its last whole day"]

    def gaps(self, days: Sequence[str]) -> tuple[Gap, ...]:
        """Jumps of time between scans from the first of these days to the last; days in their order."""
        if not days:
            return ()
        first = self._entry(days[0]).first_timestamp_ns
        last = self._entry(days[-1]).last_timestamp_ns
        found = (Gap(*gap) for gap in self.manifest.gaps)
        return tuple(gap for gap in found if first <= gap.after_ns and gap.before_ns <= last)

    def check(self, day: str, allow_partial: bool = False) -> list[str]:
        """Compare one day's file with the manifest and return what is wrong with it: nothing, for a whole
        day.

        Raises PartialDayError with the day and the first reason, unless `allow_partial`; a day that is not in
        the manifest, whose file cannot be read at all, or whose bytes are not those that the manifest names,
        is refused in any case (DataError).
        """
        entry = self._entry(day)
        path = self._path(day)
        faults: list[str] = []
        if not entry.complete:
            holes = plural(entry.number_gaps, "hole")
            why = f"{holes} in its scan numbers" if entry.number_gaps else "half built"
            faults.append(f"{why}, its last scan is of {iso_from_ns(entry.last_timestamp_ns)[11:19]}")
        other = sha256_of(path) != entry.sha256
        columns = self.columns(day)
        stamps, numbers = columns["timestamp_ns"], columns["scan_number"]
        if other:
            held = f" ({len(stamps):,} of {plural(entry.rows, 'row')})" if len(stamps) != entry.rows else ""
            raise DataError(f"{path}: {day} is refused: {OTHER_CONTENT}{held}; build it again")
        if len(stamps) != entry.rows:
            faults.append(f"{len(stamps):,} of {plural(entry.rows, 'row')}")
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

    def _load(self, day: str) -> tuple[dict[str, Any], Runs]:
        if self._open is not None and self._open[0] == day:
            return self._open[1], self._open[2]
        self._entry(day)
        columns, stale = load_day(self._path(day), day, self.symbols, self.manifest.universe_id)
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
        self.gaps = reader.gaps(self._days)
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
