"""A scan cache as arrays over many days, mapped from disk: what a whole-period engine reads.

Entry points: `Columns.open`, `Columns.slice`, `period_inputs`.

Beside the days, in `scan_cache/.columns/<universe id>/`, lies one raw file per column over all days of the
manifest, in their order. A day is checked as a backtest checks it, then its rows are put at their place; from
then on it costs no reading: the arrays are views of the page cache.

1. Only days that were checked are mapped: one whose SHA-256 in the manifest differs from the one recorded
   here, or whose file has another size or time, is checked and made anew. The raw files themselves carry no
   digest: whoever changes them changes what an ordinary backtest reads, and it will not notice. With `prove`
   every row is compared, bit for bit, with its day's file, whose SHA-256 is the manifest's; where anything
   differs all is made anew. Whatever proves a result (`audit`, `--verify`, `reproduce`) opens them so.
2. The index names a day only after its rows are on the disk; the place of its rows never changes in one
   generation of files, and other layouts are another generation. So a kill, a deletion of the folder, and
   several processes at once are all safe; arrays that are mapped keep what they showed.
3. Where the folder takes no files (read-only, full), the arrays are made in memory.
4. Numbers and times grow over all days; what does not is refused with the days' names.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.clock import iso_from_ns
from dolphin.domain.errors import DataError, StoreError, nearest, plural
from dolphin.market.cache_format import put_bytes
from dolphin.market.feed import Gap, note_of_gaps
from dolphin.market.scan_cache import OTHER_CONTENT, CacheReader

if TYPE_CHECKING:
    from dolphin.engine.market import PeriodInputs

FOLDER = ".columns"
INDEX = "index.json"
FORMAT = "dolphin columns 1"
#: Days between two writings of the index while many are made.
_DAYS_PER_INDEX = 32

#: Array of `Columns` to the column of a day's file.
_SERIES = {
    "timestamp_ns": "timestamp_ns",
    "scan_number": "scan_number",
    "vel_div": "vel_div",
    "v50": "v50_lambda_max_velocity",
    "v150": "v150_lambda_max_velocity",
    "v300": "v300_lambda_max_velocity",
    "v750": "v750_lambda_max_velocity",
    "instability_50": "instability_50",
    "instability_150": "instability_150",
}
_INTEGERS = ("timestamp_ns", "scan_number")

Arrays = dict[str, Any]
OnDay = Callable[[int, int], None]


class _Day(msgspec.Struct, kw_only=True):
    """A day's place in the columns."""

    day: str
    rows: int
    #: Of the day's file, as the manifest had it.
    sha256: str
    complete: bool
    #: Whether the rows are there; what follows is known then.
    there: bool = False
    file_bytes: int = -1
    file_mtime_ns: int = -1
    first: tuple[int, int] = (0, 0)
    last: tuple[int, int] = (0, 0)
    faults: list[str] = msgspec.field(default_factory=list)


class _Index(msgspec.Struct, kw_only=True):
    """What the raw files hold."""

    format: str = FORMAT
    symbols: list[str]
    generation: int = 1
    days: list[_Day] = msgspec.field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Columns:
    """The scans of several days as arrays, n rows in the order of time, n_assets symbols; all read-only.

    timestamp_ns, scan_number : (n,) int64. vel_div, v50, v150, v300, v750 : (n,) float64, 1/s.
    instability_50, instability_150 : (n,) float64, dimensionless, NaN where ambiguous. prices : (n, n_assets)
    float64, C order, USDT, the last known price, NaN before the first. stale : (n, n_assets) bool, no fresh
    price on the bar. offsets : (n_days + 1,) int64, rows of day k are offsets[k] to offsets[k + 1]. notes :
    sentences for people, faults of partial days that were allowed among them. mapped : False where the
    arrays are in memory.
    """

    symbols: tuple[str, ...]
    days: tuple[str, ...]
    offsets: IntArray
    timestamp_ns: IntArray
    scan_number: IntArray
    vel_div: FloatArray
    v50: FloatArray
    v150: FloatArray
    v300: FloatArray
    v750: FloatArray
    instability_50: FloatArray
    instability_150: FloatArray
    prices: FloatArray
    stale: BoolArray
    notes: tuple[str, ...]
    mapped: bool

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.timestamp_ns)

    @classmethod
    def open(
        cls,
        reader: CacheReader,
        days: Sequence[str] | None = None,
        allow_partial: bool = False,
        progress: OnDay | None = None,
        prove: bool = False,
    ) -> Columns:
        """The columns of a cache.

        Parameters
        ----------
        days : dates `YYYY-MM-DD` in their order; None: all. allow_partial : take days that are half built or
            have holes, with a note each. progress : called with the days that were read and how many are to
            be, where any are. prove : read every day and compare it with what is mapped; seconds for a year.

        Raises
        ------
        PartialDayError
            For a day that `CacheReader.check` refuses.
        DataError
            For a day that is not there or cannot be read, and where numbers or times do not grow; with prove
            also for an allowed day whose file is not the manifest's.
        """
        chosen = _chosen(reader, days)
        on_day = progress or (lambda done, total: None)
        every = reader.days()
        first, last = every.index(chosen[0]), every.index(chosen[-1])
        found: tuple[list[_Day], Arrays] | None = None
        if every[first : last + 1] == chosen:
            with contextlib.suppress(OSError, _MemoryOnlyError):
                files = _Files(reader)
                opened = files.prove if prove else files.open
                found = opened(chosen, allow_partial, on_day)
        mapped = found is not None
        places, arrays = found or _in_memory(reader, chosen, allow_partial, on_day)
        if prove:
            _require_content(reader.folder, places)
        _require_growth(reader.folder, places)
        for array in arrays.values():
            array.setflags(write=False)
        offsets = np.concatenate([[0], np.cumsum([place.rows for place in places])]).astype(np.int64)
        return cls(
            symbols=reader.symbols,
            days=chosen,
            offsets=offsets,
            notes=_notes(reader, places),
            mapped=mapped,
            **arrays,
        )

    def slice(self, first_day: str | None = None, last_day: str | None = None) -> Columns:
        """The days from the first to the last, both included, as views of the same arrays.

        Raises DataError where there is none between.
        """
        inside = [
            k for k, day in enumerate(self.days) if (first_day or "") <= day <= (last_day or "9999-12-31")
        ]
        if not inside:
            raise DataError(
                f"no day between {first_day} and {last_day}; there are {self.days[0]} to {self.days[-1]}"
            )
        low, high = inside[0], inside[-1] + 1
        rows = np.s_[int(self.offsets[low]) : int(self.offsets[high])]
        return Columns(
            symbols=self.symbols,
            days=self.days[low:high],
            offsets=self.offsets[low : high + 1] - self.offsets[low],
            notes=self.notes,
            mapped=self.mapped,
            prices=self.prices[rows],
            stale=self.stale[rows],
            **{name: getattr(self, name)[rows] for name in _SERIES},
        )


def period_inputs(columns: Columns) -> PeriodInputs:
    """What the whole-period engine takes of these days, as views; whatever is not in a cache stays neutral.

    Raises DataError where a velocity is not finite.
    """
    from dolphin.engine.market import PeriodInputs

    return PeriodInputs(
        symbols=columns.symbols,
        timestamp_ns=columns.timestamp_ns,
        prices=columns.prices,
        vel_div=columns.vel_div,
        v50_velocity=columns.v50,
        v750_velocity=columns.v750,
        instability_50=columns.instability_50,
        stale=columns.stale,
    )


class _MemoryOnlyError(Exception):
    """The files cannot hold what is asked for; memory can."""


def _chosen(reader: CacheReader, days: Sequence[str] | None) -> tuple[str, ...]:
    every = reader.days()
    if not every:
        raise DataError(f"{reader.folder}: the cache holds no day; build it first")
    chosen = every if days is None else tuple(days)
    if not chosen:
        raise DataError(f"{reader.folder}: no day was asked for; it has {every[0]} to {every[-1]}")
    for day in chosen:
        if day not in reader.manifest.days:
            raise DataError(
                f"{reader.folder}: no day {day}; it has {every[0]} to {every[-1]}.{nearest(day, every)}"
            )
    for a, b in pairwise(chosen):
        if b <= a:
            raise DataError(f"{reader.folder}: {b} was asked for after {a}; give the days in their order")
    return chosen


def _load(reader: CacheReader, day: str, allow_partial: bool) -> tuple[_Day, Arrays]:
    """A day after its check: its place without a position, and its arrays."""
    columns = reader.columns(day)
    numbers = columns["scan_number"]
    twice = np.flatnonzero(np.diff(numbers) <= 0)
    if len(twice):
        k = int(twice[0])
        raise DataError(
            f"{reader.folder / f'{day}.parquet'}: {day} is refused: scan number {int(numbers[k + 1])} follows"
            f" {int(numbers[k])}, numbers must grow; build it again"
        )
    faults = reader.check(day, allow_partial)
    stamps = columns["timestamp_ns"]
    if not len(stamps):
        raise DataError(f"{reader.folder / f'{day}.parquet'}: {day} holds no scan; build it again")
    arrays: Arrays = {name: columns[column] for name, column in _SERIES.items()}
    arrays["prices"] = np.ascontiguousarray(reader.prices(day))
    arrays["stale"] = reader.stale_mask(day)
    status = (reader.folder / f"{day}.parquet").stat()
    place = _Day(
        day=day,
        rows=len(stamps),
        sha256=reader.manifest.days[day].sha256,
        complete=reader.manifest.days[day].complete,
        there=True,
        file_bytes=status.st_size,
        file_mtime_ns=status.st_mtime_ns,
        first=(int(numbers[0]), int(stamps[0])),
        last=(int(numbers[-1]), int(stamps[-1])),
        faults=faults,
    )
    return place, arrays


def _in_memory(
    reader: CacheReader, chosen: tuple[str, ...], allow_partial: bool, on_day: OnDay
) -> tuple[list[_Day], Arrays]:
    """The columns as arrays of this process."""
    total = sum(reader.manifest.days[day].rows for day in chosen)
    arrays: Arrays = {name: np.empty(shape, kind) for name, kind, shape in _shapes(reader, total)}
    places: list[_Day] = []
    at = 0
    for k, day in enumerate(chosen):
        place, found = _load(reader, day, allow_partial)
        if at + place.rows > len(arrays["stale"]):  # a file that is not what its manifest says, but allowed
            arrays = {name: np.concatenate([a, np.empty_like(a, shape=(place.rows, *a.shape[1:]))])
                      for name, a in arrays.items()}  # fmt: skip
        for name, values in found.items():
            arrays[name][at : at + place.rows] = values
        at += place.rows
        places.append(place)
        on_day(k + 1, len(chosen))
    return places, {name: array[:at] for name, array in arrays.items()}


def _shapes(reader: CacheReader, n_rows: int) -> list[tuple[str, type, tuple[int, ...]]]:
    """Name, kind and shape of every array."""
    n = len(reader.symbols)
    shapes: list[tuple[str, type, tuple[int, ...]]] = [
        (name, np.int64 if name in _INTEGERS else np.float64, (n_rows,)) for name in _SERIES
    ]
    return [*shapes, ("prices", np.float64, (n_rows, n)), ("stale", np.bool_, (n_rows, n))]


def _require_content(folder: Path, places: list[_Day]) -> None:
    """Every day is the one of its manifest. Raises DataError that names the first other one."""
    other = next((place.day for place in places if OTHER_CONTENT in place.faults), None)
    if other is not None:
        raise DataError(
            f"{folder / f'{other}.parquet'}: {OTHER_CONTENT}, so it proves nothing; build {other} again"
        )


def _require_growth(folder: Path, places: list[_Day]) -> None:
    """Numbers and times grow from day to day. Raises DataError that names both days."""
    for before, after in pairwise(places):
        if after.first[0] <= before.last[0]:
            raise DataError(
                f"{folder}: {after.day} begins with scan {after.first[0]}, {before.day} ends with scan"
                f" {before.last[0]}; numbers must grow over all days: build the later one again"
            )
        if after.first[1] <= before.last[1]:
            raise DataError(
                f"{folder}: {after.day} begins at {iso_from_ns(after.first[1])}, {before.day} ends at"
                f" {iso_from_ns(before.last[1])}; times must grow over all days: build the later one again"
            )


def _notes(reader: CacheReader, places: list[_Day]) -> tuple[str, ...]:
    notes = [f"{place.day}: {fault}" for place in places for fault in place.faults]
    for before, after in pairwise(places):
        missing = (date.fromisoformat(after.day) - date.fromisoformat(before.day)).days - 1
        if missing:
            notes.append(f"{plural(missing, 'day')} missing between {before.day} and {after.day}")
    gaps = tuple(Gap(*gap) for gap in reader.manifest.gaps)
    inside = tuple(
        gap for gap in gaps if places[0].first[1] <= gap.after_ns and gap.before_ns <= places[-1].last[1]
    )
    if inside:
        notes.append(note_of_gaps(inside))
    return tuple(notes)


def _bytes_of(values: Any) -> Any:
    """An array's bytes, so that NaN and the sign of zero count too."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


class _Files:
    """The raw files of one cache."""

    def __init__(self, reader: CacheReader) -> None:
        self._reader = reader
        self._folder = reader.folder / FOLDER / reader.manifest.universe_id

    def open(self, chosen: tuple[str, ...], allow_partial: bool, on_day: OnDay) -> tuple[list[_Day], Arrays]:
        """Places and mapped arrays of days that follow each other in the manifest; made where not there.

        Raises what `CacheReader.check` raises, OSError where the folder cannot be used, _MemoryOnlyError for
        days that only memory can hold.
        """
        with self._locked(fcntl.LOCK_SH) as writable:
            index = self._index()
            if index is not None and self._fresh(index, chosen, allow_partial):
                return self._map(index, chosen)
        if not writable:
            raise _MemoryOnlyError
        with self._locked(fcntl.LOCK_EX):
            index = self._make(self._index(), chosen, allow_partial, on_day)
            return self._map(index, chosen)

    def prove(self, chosen: tuple[str, ...], allow_partial: bool, on_day: OnDay) -> tuple[list[_Day], Arrays]:
        """As `open`, after a comparison of every row with its day's file; files that differ are made anew.

        Raises what `open` raises; _MemoryOnlyError where files that differ cannot be replaced.
        """
        found = self.open(chosen, allow_partial, on_day)
        if self._equal(*found, allow_partial, on_day):
            return found
        with self._locked(fcntl.LOCK_EX) as writable:
            if not writable:
                raise _MemoryOnlyError
            (self._folder / INDEX).unlink(missing_ok=True)  # the next generation is made from the days' files
        found = self.open(chosen, allow_partial, on_day)
        if not self._equal(*found, allow_partial, on_day):
            raise _MemoryOnlyError
        return found

    def _equal(self, places: list[_Day], arrays: Arrays, allow_partial: bool, on_day: OnDay) -> bool:
        """Whether index and mapped rows are what the days' files hold now, bit for bit."""
        at = 0
        for k, place in enumerate(places):
            read, rows = _load(self._reader, place.day, allow_partial)
            if read != place:
                return False
            for name, values in rows.items():
                mapped = arrays[name][at : at + place.rows]
                if not np.array_equal(_bytes_of(mapped), _bytes_of(values)):
                    return False
            at += place.rows
            on_day(k + 1, len(places))
        return True

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[bool]:
        """Hold the lock; yields whether files can be made. A folder that takes no lock is only read."""
        lock = -1
        try:
            with contextlib.suppress(OSError):
                while lock < 0:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                    fcntl.flock(lock, kind)
                    if not self._is_lock(lock):  # the folder was deleted meanwhile: this locks nothing
                        os.close(lock)
                        lock = -1
            yield lock >= 0
        finally:
            if lock >= 0:
                os.close(lock)

    def _is_lock(self, lock: int) -> bool:
        try:
            return os.path.samestat(os.fstat(lock), os.stat(self._folder / "lock"))
        except FileNotFoundError:
            return False

    def _index(self) -> _Index | None:
        """The index, if it is of these symbols and this format, and its files are as long as it says."""
        try:
            index = msgspec.json.decode((self._folder / INDEX).read_bytes(), type=_Index)
            if (index.format, index.symbols) != (FORMAT, list(self._reader.symbols)):
                return None
            total = sum(place.rows for place in index.days)
            for name, kind, shape in _shapes(self._reader, total):
                length = (self._folder / str(index.generation) / name).stat().st_size
                if length < np.dtype(kind).itemsize * math.prod(shape):
                    return None
        except (OSError, msgspec.DecodeError):
            return None
        return index

    def _fresh(self, index: _Index, chosen: tuple[str, ...], allow_partial: bool) -> bool:
        """Whether the days can be mapped as they lie."""
        places = {place.day: place for place in index.days}
        return all(day in places and self._same(places[day], allow_partial) for day in chosen) and [
            place.day for place in index.days if chosen[0] <= place.day <= chosen[-1]
        ] == list(chosen)

    def _same(self, place: _Day, allow_partial: bool) -> bool:
        """Whether a day's rows are there, of the file that is there."""
        if not place.there or (place.faults and not allow_partial):
            return False
        entry = self._reader.manifest.days[place.day]
        if (place.sha256, place.complete) != (entry.sha256, entry.complete):
            return False
        try:
            status = (self._reader.folder / f"{place.day}.parquet").stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (place.file_bytes, place.file_mtime_ns)

    def _make(
        self, found: _Index | None, chosen: tuple[str, ...], allow_partial: bool, on_day: OnDay
    ) -> _Index:
        """The index with all chosen days there; only those are made that are not."""
        layout = [
            _Day(day=day, rows=entry.rows, sha256=entry.sha256, complete=entry.complete)
            for day, entry in sorted(self._reader.manifest.days.items())
        ]
        index = self._generation(found, layout)
        total = sum(place.rows for place in index.days)
        wanted = set(chosen)
        missing = [p.day for p in index.days if p.day in wanted and not self._same(p, allow_partial)]
        if not missing:
            return index
        with contextlib.ExitStack() as stack:
            files = {
                name: (stack.enter_context(self._open_raw(index, name)), np.dtype(kind).itemsize, shape[1:])
                for name, kind, shape in _shapes(self._reader, total)
            }
            for file, size, width in files.values():
                os.ftruncate(file.fileno(), total * size * (width[0] if width else 1))
            at = 0
            done = 0
            for k, place in enumerate(index.days):
                if place.day in missing:
                    loaded, arrays = _load(self._reader, place.day, allow_partial)
                    if loaded.rows != place.rows or OTHER_CONTENT in loaded.faults:
                        raise _MemoryOnlyError
                    for name, (file, size, width) in files.items():
                        file.seek(at * size * (width[0] if width else 1))
                        file.write(np.ascontiguousarray(arrays[name]).data)
                    index.days[k] = loaded
                    done += 1
                    on_day(done, len(missing))
                    if done % _DAYS_PER_INDEX == 0:
                        self._put(index, [file for file, _, _ in files.values()])
                at += place.rows
            self._put(index, [file for file, _, _ in files.values()])
        return index

    def _generation(self, found: _Index | None, layout: list[_Day]) -> _Index:
        """The index to go on with: the one there where its rows keep their places, else an empty one."""
        symbols = list(self._reader.symbols)
        entries = self._reader.manifest.days
        if found is not None:
            places = [(place.day, place.rows) for place in found.days]
            same = [(place.day, place.rows) for place in layout[: len(places)]] == places and all(
                not place.there or place.sha256 == entries[place.day].sha256 for place in found.days
            )
            if same:
                known = {place.day: place for place in found.days if place.there}
                return _Index(
                    symbols=symbols,
                    generation=found.generation,
                    days=[known.get(place.day, place) for place in layout],
                )
        last = max((int(path.name) for path in self._folder.glob("[0-9]*") if path.name.isdigit()), default=0)
        folder = self._folder / str(last + 1)
        folder.mkdir()
        return _Index(symbols=symbols, generation=last + 1, days=layout)

    def _open_raw(self, index: _Index, name: str) -> Any:
        path = self._folder / str(index.generation) / name
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b")

    def _put(self, index: _Index, files: list[Any]) -> None:
        """Rows first, then the index that names them; then files of older generations go."""
        for file in files:
            file.flush()
            os.fsync(file.fileno())
        try:
            put_bytes(self._folder / INDEX, msgspec.json.encode(index))
        except StoreError as error:
            raise _MemoryOnlyError from error
        for path in self._folder.iterdir():
            if path.is_dir() and path.name != str(index.generation):
                shutil.rmtree(path, ignore_errors=True)

    def _map(self, index: _Index, chosen: tuple[str, ...]) -> tuple[list[_Day], Arrays]:
        total = sum(place.rows for place in index.days)
        days = [place.day for place in index.days]
        low, high = days.index(chosen[0]), days.index(chosen[-1]) + 1
        begin = sum(place.rows for place in index.days[:low])
        end = begin + sum(place.rows for place in index.days[low:high])
        folder = self._folder / str(index.generation)
        arrays = {
            name: np.asarray(np.memmap(folder / name, kind, "r", shape=shape))[begin:end]
            for name, kind, shape in _shapes(self._reader, total)
        }
        return index.days[low:high], arrays
