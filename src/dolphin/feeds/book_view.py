"""The newest book of each symbol in this process: a live feed writes, the decision path reads."""

from __future__ import annotations

import threading

from dolphin.orderbook.constants import STALE_AFTER_NS
from dolphin.orderbook.snapshot import BookSnapshot


class BookView:
    """The provider of a live feed; see `dolphin.orderbook.provider`.

    Any thread may write. A read takes no lock: it is one look-up in a dictionary, which a writer replaces an
    entry of in one step. Snapshots are not changed after they were put.

    Parameters
    ----------
    label : where the books come from, the exchange's name
    """

    def __init__(self, label: str = "binance") -> None:
        self._label = label
        self._newest: dict[str, BookSnapshot] = {}
        self._writing = threading.Lock()
        #: Snapshots that were older than the one held, as from a connection that is being replaced.
        self.n_late = 0

    @property
    def label(self) -> str:
        """See `BookProvider.label`."""
        return self._label

    def advance(self, now_ns: int) -> None:
        """A live view is at the newest instant by itself."""

    def newest(self, symbol: str) -> BookSnapshot | None:
        """See `BookProvider.newest`."""
        return self._newest.get(symbol)

    def put(self, symbol: str, snapshot: BookSnapshot) -> bool:
        """Hold a snapshot; False, and counted, for one older than the one held.

        One that is more than 5 s older replaces it: then the one held claimed an instant that was not yet.
        """
        with self._writing:
            held = self._newest.get(symbol)
            if held is not None and 0 < held.timestamp_ns - snapshot.timestamp_ns <= STALE_AFTER_NS:
                self.n_late += 1
                return False
            self._newest[symbol] = snapshot
            return True

    def drop(self, symbol: str) -> None:
        """Forget a symbol's book, as when its chain broke; nothing to forget is nothing to do."""
        with self._writing:
            self._newest.pop(symbol, None)

    def symbols(self) -> tuple[str, ...]:
        """Symbols that have a book now, sorted."""
        with self._writing:
            return tuple(sorted(self._newest))
