"""Where listeners run: in the thread that caused the event, or on one worker thread.

Entry points: `InlineDispatcher`, `ThreadDispatcher`, `Failures`.

Invariants
----------
1. Deliveries are made in the order in which they were enqueued, one at a time.
2. No lock is held while a listener runs.
3. A listener that raises is recorded with its map and key, and stops nobody.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Literal, Protocol, TypeAlias

from dolphin.grid.port import ConnectionEvent, EntryEvent, ListenerFailure

DispatcherKind: TypeAlias = Literal["inline", "thread"]

FAILURES_KEPT = 100

_log = logging.getLogger("dolphin.grid")


class Failures:
    """Listeners that raised: how often, and the newest of them. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: deque[ListenerFailure] = deque(maxlen=FAILURES_KEPT)
        self._n = 0

    def add(self, map_name: str, key: str, error: Exception) -> None:
        """Record one; both names are empty for a connection listener."""
        text = f"{type(error).__name__}: {error}"
        with self._lock:
            self._newest.append(ListenerFailure(map_name, key, text))
            self._n += 1
        where = f"{map_name}[{key!r}]" if map_name else "the connection"
        # A logging handler that fails must not stop the dispatcher either.
        with contextlib.suppress(Exception):
            _log.error("a listener of %s raised %s", where, text, exc_info=error)

    @property
    def newest(self) -> tuple[ListenerFailure, ...]:
        """The newest, oldest first, at most 100."""
        with self._lock:
            return tuple(self._newest)

    @property
    def total(self) -> int:
        """How many there were."""
        return self._n


class Listening(Protocol):
    """A registered listener, as a dispatcher needs it."""

    closed: bool
    callback: Callable[[Any], None]

    @property
    def failures(self) -> Failures:
        """Where it is recorded when it raises."""
        ...


Delivery: TypeAlias = tuple[Listening, EntryEvent | ConnectionEvent]


class InlineDispatcher:
    """Delivers in the thread that calls `drain`, one thread at a time, in order of enqueueing."""

    def __init__(self) -> None:
        self._queue: deque[Delivery] = deque()
        self._baton = threading.Lock()
        self._deliverer = 0
        self.enqueue = self._queue.append

    def __len__(self) -> int:
        return len(self._queue)

    def drain(self) -> None:
        """Deliver what is queued, unless another thread is just doing it."""
        # The queue is looked at again after the baton is handed back: what another thread enqueued meanwhile,
        # and could not deliver for want of the baton, is taken here. `test_inline_strands_nothing` fails
        # without it.
        queue, baton = self._queue, self._baton
        while queue:
            if not baton.acquire(blocking=False):
                return
            self._deliver_all()

    def _deliver_all(self) -> None:
        """Deliver what is queued and hand the baton back; the caller has taken it."""
        queue = self._queue
        self._deliverer = threading.get_ident()
        try:
            while queue:
                _deliver(queue.popleft())
        finally:
            self._deliverer = 0
            self._baton.release()

    def stop(self) -> None:
        """Return when all is delivered.

        At once from a listener, whose own delivery would never end otherwise.
        """
        if self._deliverer != threading.get_ident():
            self._baton.acquire()
            self._deliver_all()

    @property
    def delivers_here(self) -> bool:
        """Whether the calling thread may still write while the client closes: inline, nobody may."""
        return False


class ThreadDispatcher:
    """Delivers on one worker thread."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Delivery | None] = SimpleQueue()
        self.enqueue = self._queue.put
        self._worker = threading.Thread(target=self._run, name="dolphin-grid", daemon=True)
        self._worker.start()

    def __len__(self) -> int:
        return self._queue.qsize()

    def drain(self) -> None:
        """Nothing to do: the worker has been woken by the queue."""

    def _run(self) -> None:
        stopping = False
        while True:
            if stopping and self._queue.empty():
                return
            delivery = self._queue.get()
            if delivery is None:
                stopping = True
            else:
                _deliver(delivery)

    def stop(self) -> None:
        """Return when all is delivered, at once from a listener."""
        self._queue.put(None)
        if not self.delivers_here:
            self._worker.join()

    @property
    def delivers_here(self) -> bool:
        """Whether the calling thread is the worker.

        Its listeners may finish their writes while the client closes.
        """
        return threading.current_thread() is self._worker


def _deliver(delivery: Delivery) -> None:
    listening, event = delivery
    if listening.closed:
        return
    try:
        listening.callback(event)
    except Exception as error:
        if isinstance(event, EntryEvent):
            listening.failures.add(event.map_name, event.key, error)
        else:
            listening.failures.add("", "", error)
