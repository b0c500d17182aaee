"""Where snapshots come from, as the engine sees it: a view in this process, whatever feeds it.

`newest` never waits: it reads what has arrived, in well under 10 us, and takes no lock that a writer may
hold.
"""

from __future__ import annotations

from typing import Protocol

from dolphin.orderbook.snapshot import BookSnapshot


class BookProvider(Protocol):
    """What every provider of books offers; `label` stands in every decision made with its books."""

    @property
    def label(self) -> str:
        """`mock`, `recorded`, `grid`, or the name of an exchange."""
        ...

    def advance(self, now_ns: int) -> None:
        """Say what instant it is, before a bar is read. A live view knows by itself and does nothing."""
        ...

    def newest(self, symbol: str) -> BookSnapshot | None:
        """The newest snapshot that has arrived, None where there is none. Never blocks."""
        ...
