"""Bars of a live feed handed over without waiting, through the feed's failures.

Entry point: `LiveBars`. A live feed waits for its next bar; a service must not. A thread of its own waits
here, and begins anew after a pause when the feed fails: the exchange was not there, or this machine's clock
is wrong.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Final

from dolphin.domain.bar import Bar
from dolphin.domain.errors import DolphinError
from dolphin.market.feed import Feed

#: Pauses after a failure, seconds: the first, doubling to the last.
PAUSE_FIRST_S: Final = 5.0
PAUSE_MAX_S: Final = 120.0
#: Bars that wait for the service, an hour of them; beyond it the oldest go.
WAITING_MAX: Final = 720
STOP_S: Final = 12.0

_log = logging.getLogger("dolphin.scanner")


class LiveBars:
    """See the module; used as `PacedFeed` is.

    Parameters
    ----------
    make : a fresh feed each time, whose `bars()` come as they close
    """

    #: A live market has no end.
    ended = False
    n_bars: int | None = None

    def __init__(self, make: Callable[[], Feed]) -> None:
        self._make = make
        self._feed = make()
        self.name, self.source_id = self._feed.name, self._feed.source_id
        self.symbols, self.interval_ns = self._feed.symbols, self._feed.interval_ns
        #: Bars that nobody took in time; feeds that failed.
        self.n_dropped = self.n_failures = 0
        self._after_ns = -1
        self._trouble = ""
        self._waiting: deque[Bar] = deque()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def rejections(self) -> Counter[tuple[str, str]]:
        """See `Feed.rejections`, of the feed that runs now."""
        return self._feed.rejections

    @property
    def notes(self) -> list[str]:
        """See `Feed.notes`, of the feed that runs now."""
        return self._feed.notes

    @property
    def trouble(self) -> str:
        """Why the feed failed, empty while it runs."""
        return self._trouble

    def go_on_after(self, stamp_ns: int) -> None:
        """`due` gives nothing up to an instant that an earlier process has folded in."""
        self._after_ns = stamp_ns

    def due(self, now_ns: int, limit: int) -> Iterator[Bar]:
        """At most `limit` bars that closed and were not given yet, in order; never waits."""
        if self._thread is None and not self._closed.is_set():
            self._thread = threading.Thread(target=self._run, name="live-bars", daemon=True)
            self._thread.start()
        for _ in range(limit):
            if not self._waiting:
                return
            bar = self._waiting.popleft()
            if bar.timestamp_ns > self._after_ns:
                yield bar

    def bars(self, skip: int = 0) -> Iterator[Bar]:
        """See `Feed.bars`."""
        return self._feed.bars(skip)

    def close(self) -> None:
        """See `Feed.close`; ends the waiting thread."""
        self._closed.set()
        self._feed.close()
        if self._thread is not None:
            self._thread.join(STOP_S)

    def _run(self) -> None:
        pause_s, spent = PAUSE_FIRST_S, False
        while not self._closed.is_set():
            try:
                if spent:
                    self._feed, spent = self._make(), False
                if self._closed.is_set():  # as the new one was made
                    break
                for bar in self._feed.bars():
                    self._trouble, pause_s = "", PAUSE_FIRST_S
                    if len(self._waiting) >= WAITING_MAX:
                        self._waiting.popleft()
                        self.n_dropped += 1
                    self._waiting.append(bar)
            except DolphinError as error:
                self._failed(str(error), pause_s)
            except Exception as error:  # whatever it is, this thread has to go on, and the service to know
                _log.exception("the live feed broke")
                self._failed(f"the live feed broke: {error!r}", pause_s)
            self._feed.close()
            spent = True
            if self._closed.wait(pause_s):
                return
            pause_s = min(2.0 * pause_s, PAUSE_MAX_S)
        self._feed.close()

    def _failed(self, trouble: str, pause_s: float) -> None:
        self.n_failures += 1
        self._trouble = trouble
        _log.warning("%s; asked again in %.0f s", trouble, pause_s)
