"""The clock that a system of services shares: real time, or a market's own time that runs faster.

Entry points: `Clock`, `SystemClock`, `VirtualClock`.

Every age and every schedule of every service is taken from one such clock, so that a system at ten times the
speed is the same system: a heartbeat that is 30 s old is 30 s old on this clock.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import UsageError

#: Beyond this the processes' own work no longer fits between two bars.
SPEED_MAX = 100.0


class Clock(Protocol):
    """Where a service's time comes from."""

    def now_ns(self) -> int:
        """Now, nanoseconds UTC on this clock."""
        ...

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait until `event` is set or `seconds` (>= 0, on this clock) have passed; True when it is set."""
        ...


class SystemClock:
    """The machine's clock, from `origin_ns` on running `speed` times as fast (1.0: the machine's own)."""

    def __init__(self, speed: float = 1.0, origin_ns: int = 0) -> None:
        if not 0.0 < speed <= SPEED_MAX:
            raise UsageError(f"speed is {speed}, expected more than 0 and at most {SPEED_MAX:g}")
        self.speed = speed
        self._origin_ns = origin_ns

    def now_ns(self) -> int:
        """See `Clock.now_ns`."""
        wall_ns = time.time_ns()
        if self.speed == 1.0:
            return wall_ns
        return self._origin_ns + int((wall_ns - self._origin_ns) * self.speed)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """See `Clock.wait`."""
        return event.wait(seconds / self.speed)


class VirtualClock:
    """A clock that stands still until it is moved: for simulations and tests."""

    def __init__(self, now_ns: int) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        """See `Clock.now_ns`."""
        return self._now_ns

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Never waits: moves the clock, unless the event is set already."""
        if not event.is_set():
            self._now_ns += int(seconds * NS_PER_S)
        return event.is_set()

    def move_to(self, now_ns: int) -> None:
        """Set the time; a step backwards is allowed, as a real clock can be set back."""
        self._now_ns = now_ns
