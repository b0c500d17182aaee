"""The book engine's view of a bar as the alpha takes it: the one place where the two meet."""

from __future__ import annotations

from dolphin.engine.state import Books
from dolphin.orderbook.engine import BookEngine


def alpha_books(engine: BookEngine, bar_idx: int | None = None) -> Books | None:
    """The books of a bar (default: the newest) for `step_bar`; None where they count as absent."""
    books = engine.alpha_books(bar_idx)
    return None if books is None else Books(*books)
