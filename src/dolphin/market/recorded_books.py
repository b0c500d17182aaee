"""Recorded books at an instant of their own time: never a snapshot from later than that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from dolphin.domain.clock import NS_PER_DAY, day_from_ns
from dolphin.domain.errors import DataError
from dolphin.market.book_files import SnapshotColumns, days_in, parts_of, read_parts
from dolphin.market.book_schema import SNAPSHOT_SCHEMA
from dolphin.orderbook.snapshot import BookSnapshot


class RecordedBooks:
    """The provider `recorded`; see `dolphin.orderbook.provider`.

    Of a folder two days are held at a time, that of the instant and the one before, and read when `advance`
    comes to them: about 220 bytes a snapshot, 190 MB for a day of 50 symbols every 5 s. `newest` waits for no
    disk. A book older than the day before counts as never seen; it would be stale long since.

    Parameters
    ----------
    source : a folder of days (`book_schema.SNAPSHOT_FOLDER`), or parts in any order, which are held whole
    days : of a folder, the UTC days to read; all of them by default

    Raises DataError for a source without snapshots and for damaged parts, StoreError for unreadable ones; so
    does `advance`.
    """

    label = "recorded"

    def __init__(self, source: Path | str | Sequence[Path], days: Sequence[str] | None = None) -> None:
        self._parts: dict[str, tuple[Path, ...]] = {}
        self._held: dict[str, dict[str, SnapshotColumns]] = {}
        if isinstance(source, (str, Path)):
            folder = Path(source)
            wanted = sorted(days_in(folder) if days is None else days)
            self._parts = {day: paths for day in wanted if (paths := parts_of(folder, day))}
            found = [self._loaded(day) for day in dict.fromkeys([*self._parts][:1] + [*self._parts][-1:])]
        else:
            folder = Path()
            found = [_by_symbol(read_parts(list(source), SNAPSHOT_SCHEMA))]
            self._held[""] = found[0]
        stamps = [books.timestamp_ns for held in found for books in held.values()]
        if not stamps:
            raise DataError(f"{folder}: holds no recorded books; expected date=YYYY-MM-DD/part-*.parquet")
        #: The first and the last snapshot's instants.
        self.first_ns = int(min(each[0] for each in stamps))
        self.last_ns = int(max(each[-1] for each in stamps))
        self._day = ""
        self.advance(self.first_ns)
        self._now_ns = self.first_ns - 1

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols that have a snapshot in the days that are held, sorted."""
        return tuple(sorted({symbol for held in self._held.values() for symbol in held}))

    def advance(self, now_ns: int) -> None:
        """See `BookProvider.advance`; going back is as good as going on."""
        self._now_ns = now_ns
        if not self._parts or day_from_ns(now_ns) == self._day:
            return
        self._day = day_from_ns(now_ns)
        wanted = [day for day in (day_from_ns(now_ns - NS_PER_DAY), self._day) if day in self._parts]
        self._held = {day: self._held.get(day) or self._loaded(day) for day in wanted}

    def newest(self, symbol: str) -> BookSnapshot | None:
        """See `BookProvider.newest`: the last one at or before the instant."""
        for day in reversed(self._held):
            books = self._held[day].get(symbol)
            at = -1 if books is None else int(books.timestamp_ns.searchsorted(self._now_ns, side="right")) - 1
            if books is not None and at >= 0:
                return books.row(at)
        return None

    def _loaded(self, day: str) -> dict[str, SnapshotColumns]:
        return _by_symbol(read_parts(list(self._parts[day]), SNAPSHOT_SCHEMA))


def _by_symbol(table: pa.Table) -> dict[str, SnapshotColumns]:
    """Snapshots of each symbol in the order of their time."""
    columns, symbols = SnapshotColumns.of(table), table["symbol"].to_numpy()
    found: dict[str, SnapshotColumns] = {}
    for symbol in np.unique(symbols).tolist():
        rows = np.flatnonzero(symbols == symbol)
        # A restarted feed may repeat instants; of one instant the last that was recorded counts.
        order = np.argsort(columns.timestamp_ns[rows], kind="stable")
        found[symbol] = columns.take(rows[order])
    return found
