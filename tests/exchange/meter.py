"""What the exchange saw of its clients: connections, subscriptions, requests and weight, to assert on.

Written on the server's loop, read from any thread; `wait` blocks until something that was seen makes a
condition true, so that no test sleeps.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request: monotonic seconds, method, path, query, answered status, weight charged."""

    at_s: float
    method: str
    path: str
    query: dict[str, str]
    status: int
    weight: int


@dataclass
class Meter:
    """Counts since the start. `reset` begins again."""

    requests: list[Request] = field(default_factory=list)
    by_path: Counter[str] = field(default_factory=Counter)
    by_status: Counter[int] = field(default_factory=Counter)
    weight: int = 0
    #: Anything with a key, a signature or another method than GET on an exchange's path: must stay empty.
    forbidden: list[str] = field(default_factory=list)
    connections_opened: int = 0
    connections_closed: int = 0
    connects_at_s: list[float] = field(default_factory=list)
    connections_expired: int = 0
    connections_too_slow: int = 0
    streams_refused: int = 0
    subscribes: Counter[str] = field(default_factory=Counter)
    unsubscribes: Counter[str] = field(default_factory=Counter)
    #: Streams with at least one subscriber now, with how many.
    subscriptions: dict[str, int] = field(default_factory=dict)
    frames_in: int = 0
    frames_out: int = 0
    frames_swallowed: int = 0
    pings_in: int = 0
    pongs_in: int = 0
    faults_fired: Counter[str] = field(default_factory=Counter)
    _changed: threading.Condition = field(default_factory=threading.Condition, repr=False)

    @property
    def connections(self) -> int:
        """Open now."""
        return self.connections_opened - self.connections_closed

    def note(self) -> None:
        """Wake whoever waits; called after every change worth waiting for."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
        """Return when `condition()` is true. Raises TimeoutError with the state after `timeout_s`."""
        give_up = time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                left_s = give_up - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError(f"not so within {timeout_s:g} s: {self.state()}")
                # Market state changes without a note; a condition may look at that, too.
                self._changed.wait(min(left_s, 0.05))

    def times_of(self, path: str) -> list[float]:
        """Monotonic seconds of the requests of `path`, in order: their distances show back-off."""
        return [r.at_s for r in self.requests if r.path == path]

    def request(self, seen: Request) -> None:
        self.requests.append(seen)
        self.by_path[seen.path] += 1
        self.by_status[seen.status] += 1
        self.weight += seen.weight
        self.note()

    def reset(self) -> None:
        """Forget what was counted; open connections and their subscriptions stay."""
        fresh = Meter(connections_opened=self.connections, subscriptions=self.subscriptions)
        fresh.__dict__.pop("_changed")
        self.__dict__.update(fresh.__dict__)

    def state(self) -> dict[str, Any]:
        """Everything countable as JSON."""
        return {
            "connections": self.connections,
            "connections_opened": self.connections_opened,
            "connections_expired": self.connections_expired,
            "connections_too_slow": self.connections_too_slow,
            "streams_refused": self.streams_refused,
            "requests": dict(self.by_path),
            "statuses": {str(k): v for k, v in self.by_status.items()},
            "weight": self.weight,
            "forbidden": list(self.forbidden),
            "subscribes": dict(self.subscribes),
            "unsubscribes": dict(self.unsubscribes),
            "subscriptions": dict(self.subscriptions),
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "frames_swallowed": self.frames_swallowed,
            "pings_in": self.pings_in,
            "pongs_in": self.pongs_in,
            "faults_fired": dict(self.faults_fired),
        }
