"""The raw recorder: every text of the exchange as it was received, so that a live day can be replayed.

Entry point: `RawRecorder`. Files are those of `dolphin.market.book_messages` (`RAW_SCHEMA`), in parts of
days. Every snapshot that a book was made from is among them. Nothing is ever pruned.

One thread hears, any thread flushes. What waits is bounded by bytes: beyond, the newest are dropped and
counted, since a disk that is full must not end the flow.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Final

import pyarrow as pa

from dolphin.domain.clock import NS_PER_DAY
from dolphin.market.book_files import PartWriter
from dolphin.market.book_messages import BOOK_TICKER, DEPTH, RAW_SCHEMA, SNAPSHOT

RAW_FOLDER: Final = "ob_raw"
WAITING_MAX_BYTES: Final = 64 * 1024 * 1024
_SYMBOL: Final = re.compile(r'"s":\s*"([A-Z0-9_]{2,24})"')
_ASKED: Final = re.compile(r"[?&]symbol=([A-Z0-9_]{2,24})")
_EVENT: Final = re.compile(r'"e":\s*"(depthUpdate|bookTicker|aggTrade|markPriceUpdate)"')
_KINDS: Final = {
    "depthUpdate": DEPTH,
    "bookTicker": BOOK_TICKER,
    "aggTrade": "aggTrade",
    "markPriceUpdate": "markPrice",
}


class RawRecorder:
    """Texts kept until `flush`.

    Parameters
    ----------
    folder : has one sub-folder a UTC day
    """

    def __init__(self, folder: Path | str, waiting_max_bytes: int = WAITING_MAX_BYTES) -> None:
        self._writer = PartWriter(folder, RAW_SCHEMA, "recv_ts")
        self._max_bytes = waiting_max_bytes
        self._lock = threading.Lock()
        self._rows: list[tuple[int, str, str, str]] = []
        self._n_bytes = 0
        #: Texts dropped because too much waited, and rows written.
        self.n_dropped = self.n_written = 0

    def hear(self, recv_ns: int, kind: str, text: str, address: str) -> None:
        """Keep a text: kind is `frame` or `snapshot`; a frame that is no message of a market is left out."""
        if kind == SNAPSHOT:
            symbol = _ASKED.search(address)
        else:
            event, symbol = _EVENT.search(text, 0, 200), _SYMBOL.search(text, 0, 400)
            if event is None:
                return
            kind = _KINDS[event[1]]
        if symbol is None:
            return
        with self._lock:
            if self._n_bytes + len(text) > self._max_bytes:
                self.n_dropped += 1
                return
            self._rows.append((recv_ns, kind, text, symbol[1]))
            self._n_bytes += len(text)

    def flush(self) -> list[Path]:
        """Write what waits and return the new files. Raises StoreError; what waited stays then."""
        with self._lock:
            rows, n_bytes = self._rows, self._n_bytes
            self._rows, self._n_bytes = [], 0
        if not rows:
            return []
        paths: list[Path] = []
        try:
            # Day by day: a disk that refuses the second must not have the first written twice.
            while rows:
                day = rows[0][0] // NS_PER_DAY
                n = next((k for k, row in enumerate(rows) if row[0] // NS_PER_DAY != day), len(rows))
                paths += self._writer.write([_table_of(rows[:n])])
                self.n_written += n
                n_bytes -= sum(len(row[2]) for row in rows[:n])
                rows = rows[n:]
        except Exception:
            with self._lock:
                self._rows[:0] = rows
                self._n_bytes += n_bytes
            raise
        return paths


def _table_of(rows: list[tuple[int, str, str, str]]) -> pa.Table:
    """Rows (received ns, kind, text, symbol) as they are recorded."""
    kinds = (pa.int64(), pa.string(), pa.large_string(), pa.string())
    arrays = [
        pa.array(list(column), kind).cast(field.type)
        for column, kind, field in zip(zip(*rows, strict=True), kinds, RAW_SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=RAW_SCHEMA)
