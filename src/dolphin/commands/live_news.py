"""What a run on live data tells as it goes: prices, connections and books, each when it changes.

Entry point: `LiveNews`. Prices and connections are watched by the feed itself; books are read from decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dolphin.commands.shared import tell
from dolphin.domain.codes import BOOKS_ABSENT, BOOKS_DEGRADED

if TYPE_CHECKING:
    from dolphin.host.session import Step
    from dolphin.market.feed import Feed

_BOOKS = {BOOKS_ABSENT: "no order books yet", BOOKS_DEGRADED: "order books went silent"}


class LiveNews:
    """News of one run; a feed that is no live one has none.

    Parameters
    ----------
    say : takes a line, on the thread of the run
    books : whether the run was to have order books
    """

    def __init__(
        self, feed: Feed, say: Callable[[str], None], stop_requested: Callable[[], bool], *, books: bool
    ) -> None:
        self._feed, self._say = feed, say
        self._live = hasattr(feed, "news")
        self._books = books and self._live
        self._books_were = ""
        self._told = set(feed.notes)
        if self._live:
            hooks: Any = feed
            hooks.news, hooks.stop_requested = say, stop_requested

    def step(self, step: Step) -> None:
        """Tell books that came or went with a decision."""
        now = step.decision.books
        if not self._books or now == self._books_were:
            return
        if now in _BOOKS:
            self._say(_BOOKS[now])
        elif self._books_were:
            self._say(f"order books are there, from {now}")
        self._books_were = now

    def tell_notes(self) -> None:
        """The feed's notes that were not known at the start, under the summary."""
        for note in self._feed.notes:
            if note not in self._told:
                tell(f"  note       {note}")
