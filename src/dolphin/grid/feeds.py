"""What this client's listeners were told of one key or one map of a remote grid, and what they are told next.

Entry points: `Feed`, `Listener`.

A remote grid loses events with a connection or a member, and what it read for us races with what it sends.
Events carry no number, but each carries the value that it replaced. So an event is believed only when it
replaces what was told last; any other is a sign that something was missed or comes late, and the key is read
again.

Invariants
----------
1. Told values never go back: a late event does not continue what was told, and a value that was read while
   an event came is dropped in favour of the event.
2. What differs between the grid and what was told is told, as soon as somebody reads.
3. No network call is made here and no lock is held during one, but for `reading`, which keeps two reads of
   one feed apart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

from dolphin.grid.dispatch import Delivery, Failures
from dolphin.grid.port import EntryEvent, EntryKind, EntryListener


class Listener:
    """One registered callback of a feed."""

    __slots__ = ("_leave", "callback", "closed", "failures")

    def __init__(
        self, callback: EntryListener, failures: Failures, leave: Callable[[Listener], None]
    ) -> None:
        self.callback = callback
        self.failures = failures
        self.closed = False
        self._leave = leave

    def close(self) -> None:
        """See `Subscription.close`."""
        if not self.closed:
            self.closed = True
            self._leave(self)


class Feed:
    """The listeners of `map_name`[`key`], or of the whole map when `key` is None.

    `versions` numbers the changes as this client sees them; `enqueue` hands a delivery to the dispatcher.
    """

    def __init__(
        self,
        map_name: str,
        key: str | None,
        enqueue: Callable[[Delivery], None],
        versions: Iterator[int],
    ) -> None:
        self.map_name = map_name
        self.key = key
        #: Held by whoever reads the grid for this feed, from the question until `read` has taken the answer.
        self.reading = threading.Lock()
        #: The remote registration, and the link that it was made on; the adapter's own.
        self.registration: str | None = None
        self.registered_on = 0
        self.dead = False
        self._lock = threading.Lock()
        self._enqueue = enqueue
        self._versions = versions
        self._told: dict[str, bytes] = {}
        self._touched: set[str] | None = None
        self._listeners: tuple[Listener, ...] = ()

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """Who listens now."""
        return self._listeners

    def live(self, key: str, value: bytes | None, replaced: bytes | None) -> bool:
        """A change as the grid sent it: `value` (None: removed) took the place of `replaced` (None: absent).

        False when it does not continue what was told last: then the key is to be read again.
        """
        with self._lock:
            if self._told.get(key) != replaced:
                return False
            if value is not None or replaced is not None:
                self._tell(key, value, current=False)
            return True

    def begin_reading(self) -> None:
        """The grid is asked now: events that come from here on are newer than its answer may be."""
        with self._lock:
            self._touched = set()

    def differing(self, values: Mapping[str, bytes], keys: tuple[str, ...] | None) -> bool:
        """Whether `read` with these arguments would tell anything."""
        with self._lock:
            return any(True for _ in self._differences(values, keys))

    def read(self, values: Mapping[str, bytes], keys: tuple[str, ...] | None) -> None:
        """Tell where `values`, read since `begin_reading`, differ from what was told.

        `keys` are those that were asked for, None for all of the feed; one that is not in `values` is gone.
        Values first, then removals, each in the order of their keys.
        """
        with self._lock:
            for key, value in tuple(self._differences(values, keys)):
                self._tell(key, value, current=True)
            self._touched = None

    def _differences(
        self, values: Mapping[str, bytes], keys: tuple[str, ...] | None
    ) -> Iterator[tuple[str, bytes | None]]:
        touched = self._touched or ()
        for key in sorted(values):
            if key not in touched and self._told.get(key) != values[key]:
                yield key, values[key]
        asked = self._told if keys is None else keys
        for key in sorted(asked):
            if key in self._told and key not in values and key not in touched:
                yield key, None

    def add(self, listener: Listener, *, initial: bool) -> None:
        """Let `listener` hear what comes, and with `initial` first what was told last."""
        with self._lock:
            self._listeners = (*self._listeners, listener)
            if initial:
                for key in sorted(self._told):
                    event = EntryEvent(
                        self.map_name, key, self._told[key], EntryKind.ADDED, next(self._versions), True
                    )
                    self._enqueue((listener, event))

    def drop(self, listener: Listener) -> bool:
        """Forget `listener`; True when nobody listens any more."""
        with self._lock:
            self._listeners = tuple(each for each in self._listeners if each is not listener)
            return not self._listeners

    def _tell(self, key: str, value: bytes | None, *, current: bool) -> None:
        if value is None:
            kind = EntryKind.REMOVED
            del self._told[key]
        else:
            kind = EntryKind.UPDATED if key in self._told else EntryKind.ADDED
            self._told[key] = value
        if self._touched is not None:
            self._touched.add(key)
        event = EntryEvent(self.map_name, key, value, kind, next(self._versions), current)
        for listener in self._listeners:
            self._enqueue((listener, event))
