"""A trader's books from the grid: what the order-book flow publishes, read from the near view once a bar.

Entry point: `GridSenses`. Until any book of the universe was heard the trader has no books at all, and its
decisions say `absent`; from the first one on a silence shows as `degraded`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dolphin.domain.scan import ScanRow
from dolphin.orderbook.arrivals import read_snapshots
from dolphin.orderbook.fold import FRESH, Arrivals
from dolphin.services.grid_books import GridBooks

_HEARD = b"heard"


class GridSenses:
    """See `dolphin.services.senses.Senses`. books is a view of its own, closed with the senses."""

    def __init__(self, books: GridBooks, symbols: Sequence[str]) -> None:
        self._provider = books
        self._symbols = tuple(symbols)
        self._heard = False

    @property
    def label(self) -> str:
        """See `Senses.label`."""
        return self._provider.label

    def sense(self, row: ScanRow, now_ns: int, stress: float | None) -> Arrivals | None:
        """See `Senses.sense`."""
        self._provider.advance(now_ns)
        arrivals = read_snapshots(self._symbols, now_ns, self._provider.newest)
        self._heard = self._heard or bool((arrivals.status == FRESH).any())
        return arrivals if self._heard else None

    def pass_over(self, row: ScanRow, stress: float | None, read: Arrivals | None) -> None:
        """See `Senses.pass_over`."""
        self._heard = self._heard or read is not None

    def take_news(self) -> list[str]:
        """See `Senses.take_news`."""
        return []

    def state(self) -> bytes:
        """See `Senses.state`."""
        return _HEARD if self._heard else b""

    def restore(self, state: bytes) -> None:
        """See `Senses.restore`."""
        self._heard = state == _HEARD

    def close(self) -> None:
        """See `Senses.close`."""
        self._provider.close()
