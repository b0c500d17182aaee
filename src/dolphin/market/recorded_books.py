"""Recorded books at an instant of their own time: never a snapshot from later than that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dolphin.domain.errors import DataError
from dolphin.market.book_files import SnapshotColumns, days_in, parts_of, read_parts
from dolphin.market.book_schema import SNAPSHOT_SCHEMA
from dolphin.orderbook.snapshot import BookSnapshot


class RecordedBooks:
    """The provider `recorded`; see `dolphin.orderbook.provider`.

    All snapshots are read when it is made, so that reading one waits for no disk: about 220 bytes each,
    190 MB for a day of 50 symbols every 5 s.

    Parameters
    ----------
    source : a folder of days (`book_schema.SNAPSHOT_FOLDER`), or parts in any order
    days : of a folder, the UTC days to read; all of them by default

    Raises DataError for a source without snapshots and for damaged parts, StoreError for unreadable ones.
    """

    label = "recorded"

    def __init__(self, source: Path | str | Sequence[Path], days: Sequence[str] | None = None) -> None:
        if isinstance(source, (str, Path)):
            folder = Path(source)
            wanted = days_in(folder) if days is None else days
            paths = [path for day in wanted for path in parts_of(folder, day)]
        else:
            folder, paths = Path(), list(source)
        table = read_parts(paths, SNAPSHOT_SCHEMA)
        if not table.num_rows:
            raise DataError(f"{folder}: holds no recorded books; expected date=YYYY-MM-DD/part-*.parquet")
        columns, symbols = SnapshotColumns.of(table), table["symbol"].to_numpy()
        self._books: dict[str, SnapshotColumns] = {}
        for symbol in np.unique(symbols).tolist():
            rows = np.flatnonzero(symbols == symbol)
            # A restarted feed may repeat instants; of one instant the last that was recorded counts.
            order = np.argsort(columns.timestamp_ns[rows], kind="stable")
            self._books[symbol] = columns.take(rows[order])
        stamps = [books.timestamp_ns for books in self._books.values()]
        self.first_ns = int(min(each[0] for each in stamps))
        self.last_ns = int(max(each[-1] for each in stamps))
        self._now_ns = self.first_ns - 1

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols that have a snapshot, sorted."""
        return tuple(sorted(self._books))

    def advance(self, now_ns: int) -> None:
        """See `BookProvider.advance`; going back is as good as going on."""
        self._now_ns = now_ns

    def newest(self, symbol: str) -> BookSnapshot | None:
        """See `BookProvider.newest`: the last one at or before the instant."""
        books = self._books.get(symbol)
        if books is None:
            return None
        at = int(books.timestamp_ns.searchsorted(self._now_ns, side="right")) - 1
        return None if at < 0 else books.row(at)
