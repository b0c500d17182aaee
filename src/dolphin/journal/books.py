"""What a run read of its order books, bar by bar, beside its decisions.

Entry points: `add_readings`, `readings_of`. A decision made with books can only be made again with what was
read, so it becomes durable in the decision's own transaction. The table is there from the first bar with
books on; bytes are compressed, their meaning is the host's.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from dolphin.domain.errors import DataError
from dolphin.journal.store import Journal

_SCHEMA = "CREATE TABLE IF NOT EXISTS books (bar_idx INTEGER PRIMARY KEY, readings BLOB NOT NULL)"


def add_readings(journal: Journal, bar_idx: int, readings: bytes) -> None:
    """Append a bar's readings; only inside a transaction of the journal."""
    journal._db.execute(_SCHEMA)
    journal._db.execute("INSERT INTO books VALUES (?, ?)", (bar_idx, zlib.compress(readings, 1)))


def readings_of(journal: Journal, first: int = 0) -> Iterator[tuple[int, bytes]]:
    """(bar_idx, readings) from a bar on, in order; none for a run without books.

    Raises DataError for readings that are damaged.
    """
    if not journal._row("SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'books'")[0]:
        return
    rows = journal._rows("SELECT bar_idx, readings FROM books WHERE bar_idx >= ? ORDER BY bar_idx", (first,))
    for bar, packed in rows:
        try:
            yield int(bar), zlib.decompress(packed)
        except zlib.error as error:
            raise DataError(f"{journal.path}: the books of bar {bar} are damaged ({error})") from error
