"""The order books of a run, as its journal keeps what was read of them, bar by bar as a period has them.

Entry point: `stored_books`. The features are made again by the engine of the hosts, from the run's first bar.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dolphin.domain.bar import IntArray
from dolphin.engine.market import BookBars
from dolphin.host.books import alpha_books
from dolphin.host.readings import unpack
from dolphin.journal.books import readings_of
from dolphin.journal.store import Journal
from dolphin.orderbook.engine import BookEngine


def stored_books(journal: Journal, symbols: tuple[str, ...], timestamp_ns: IntArray) -> BookBars | None:
    """Features of every bar of a run, whose stamps are timestamp_ns (n_bars,); None for one without books.

    Raises DataError for readings that are damaged or of another universe.
    """
    n, a = len(timestamp_ns), len(symbols)
    engine: BookEngine | None = None
    bars = BookBars(
        np.zeros(n, np.bool_),
        np.zeros(n),
        np.zeros(n),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        *(np.zeros((n, a)) for _ in range(5)),
    )
    for bar, data in readings_of(journal):
        if bar >= n:
            break
        if engine is None:
            engine = BookEngine(symbols)
        engine.take(bar, int(timestamp_ns[bar]), unpack(data, a))
        books = alpha_books(engine)
        if books is not None:
            columns: Any = zip(bars, books, strict=True)
            for column, value in columns:
                column[bar] = value
    return None if engine is None else bars
