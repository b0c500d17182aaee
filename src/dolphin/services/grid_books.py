"""Books from the grid: a near view of every `asset_*_ob`, fed by listeners, read without asking anyone."""

from __future__ import annotations

from dolphin.grid.books import snapshot_of
from dolphin.grid.near_view import NearView, Reading
from dolphin.grid.payloads import AssetBook
from dolphin.grid.shards import assets_of
from dolphin.grid.topics import ASSET_OB
from dolphin.grid.typed import TypedGrid
from dolphin.orderbook.snapshot import BookSnapshot


class GridBooks:
    """The provider `grid`; see `dolphin.orderbook.provider`.

    A payload that does not validate is counted among the grid's rejections, and the last valid one stays. A
    grid that is away leaves the last snapshots in force; they turn stale by their own instant.
    """

    label = "grid"

    def __init__(self, grid: TypedGrid) -> None:
        self._grid = grid
        self._view = NearView(grid.grid, ASSET_OB, grid.rejections)
        self._keys: dict[str, str] = {}
        self._made: dict[str, tuple[Reading[AssetBook], BookSnapshot]] = {}

    def advance(self, now_ns: int) -> None:
        """A live view is at the newest instant by itself."""

    def newest(self, symbol: str) -> BookSnapshot | None:
        """See `BookProvider.newest`."""
        key = self._keys.get(symbol)
        if key is None:
            key = self._keys[symbol] = ASSET_OB.key(symbol=symbol)
        reading = self._view.read(key)
        if reading is None:
            return None
        made = self._made.get(symbol)
        if made is None or made[0] is not reading:
            made = self._made[symbol] = (reading, snapshot_of(reading.payload, reading.source_ns))
        return made[1]

    def assets(self) -> tuple[str, ...]:
        """Symbols that have books, discovered from the shards' keys. Asks the grid: not for the hot path.

        Raises GridUnreachable without a connection.
        """
        return assets_of(self._grid.grid)

    @property
    def degraded(self) -> bool:
        """Whether the grid is away, so that snapshots may be older than its own."""
        return self._view.degraded

    def close(self) -> None:
        """Stop listening; the last snapshots stay readable."""
        self._view.close()
