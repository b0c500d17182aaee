"""The server's clock: real or virtual, moved on command, and wrong on command."""

from __future__ import annotations

import time


class ServerClock:
    """Milliseconds UTC as the exchange tells them.

    Real time, or with `start_ms` virtual: the market's slots move it and nothing else does. `ahead_ms` is an
    error of what is told only; `advance` really passes time (connections age by it).
    """

    def __init__(self, start_ms: int | None = None) -> None:
        self._start_ms = start_ms
        self._passed_ms = 0
        self.ahead_ms = 0

    @property
    def virtual(self) -> bool:
        return self._start_ms is not None

    def true_ms(self) -> int:
        base = time.time_ns() // 1_000_000 if self._start_ms is None else self._start_ms
        return base + self._passed_ms

    def now_ms(self) -> int:
        """What the exchange says the time is."""
        return self.true_ms() + self.ahead_ms

    def advance(self, ms: int) -> None:
        self._passed_ms += ms

    def slot(self, ms: int) -> None:
        """The market moved on by one slot."""
        if self.virtual:
            self._passed_ms += ms
