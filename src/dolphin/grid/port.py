"""The contract every grid keeps: shared maps, bounded logs, references and fenced locks.

Entry points: `Grid` and what it hands out (`GridMap`, `GridLog`, `AtomicReference`, `FencedLock`), the events
`EntryEvent` and `ConnectionEvent`, and the errors. An adapter is accepted when it passes `tests/contract`.

Invariants
----------
1. Values are bytes. What they mean is declared in `dolphin.grid.topics`; the grid itself never looks inside.
2. A listener sees the changes of one key in the order in which the grid accepted them, and never goes back.
3. A put never waits for a listener that runs on another thread.
4. A listener that raises is recorded with its key; the other listeners and later events are not touched.
5. After a reconnect every listener receives the current value of each of its keys that is newer than what it
   was given last, and a removal for each key that has gone; only then the connection is reported as
   connected.
6. Events may be lost with a connection, values may not: totals are never built from events.
7. Fencing tokens of one lock rise strictly, whoever acquires it, as long as the grid keeps its memory; beyond
   that the `floor` that the acquirer gives keeps them rising.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, TypeAlias

import msgspec

from dolphin.domain.errors import DolphinError

#: Sequence that a log's `tail` reports before anything was appended.
EMPTY_LOG_TAIL = -1


class GridError(DolphinError):
    """The grid refused or could not do what it was asked."""


class GridUnreachable(GridError):  # noqa: N818 - the state of the grid is the name people look for
    """The connection is down.

    A read has no answer; a write may or may not have been accepted: probe, never repeat.
    """


class GridClosed(GridError):  # noqa: N818
    """This client was closed; it never comes back."""


class LockError(GridError):
    """A fenced lock was released by somebody who does not hold it, or acquired twice by its holder."""


class LockTimeout(LockError):  # noqa: N818
    """A fenced lock was not free in time."""


class EntryKind(enum.Enum):
    """What happened to an entry."""

    ADDED = "added"
    UPDATED = "updated"
    REMOVED = "removed"


class EntryEvent(msgspec.Struct, frozen=True, gc=False):
    """One change of one entry, as a listener receives it.

    `value` is None exactly when `kind` is REMOVED. `version` rises strictly per key as one client sees it (it
    may skip); it says nothing across clients. `current` marks an event that was made from the value at hand
    (the first delivery of `listen(initial=True)`, or the repair after a reconnect) and not from a put seen
    live.
    """

    map_name: str
    key: str
    value: bytes | None
    kind: EntryKind
    version: int
    current: bool = False


class ConnectionState(enum.Enum):
    """What a client knows of its connection."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    CLOSED = "closed"


class ConnectionEvent(msgspec.Struct, frozen=True, gc=False):
    """The connection changed. `reconnects` counts how often this client has come back, from 0.

    `reborn`, with CONNECTED only: the grid came back as another one, its memory was lost. Whoever holds the
    truth fills it again.
    """

    state: ConnectionState
    reconnects: int
    reborn: bool = False


class ListenerFailure(msgspec.Struct, frozen=True, gc=False):
    """A listener raised. `map_name` and `key` are empty for a connection listener."""

    map_name: str
    key: str
    error: str


EntryListener: TypeAlias = Callable[[EntryEvent], None]
ConnectionListener: TypeAlias = Callable[[ConnectionEvent], None]


class Subscription(Protocol):
    """A registered listener."""

    def close(self) -> None:
        """Stop it; idempotent. No call begins afterwards; one that runs on another thread may still end."""
        ...


class GridMap(Protocol):
    """A shared map from text keys to bytes. Every call may raise GridUnreachable or GridClosed."""

    @property
    def name(self) -> str:
        """The map's name, as in the table of topics."""
        ...

    def put(self, key: str, value: bytes) -> None:
        """Store `value` (immutable bytes) under `key`.

        Linearizable per key. Raises TypeError for any other type.
        """
        ...

    def put_all(self, values: Mapping[str, bytes]) -> None:
        """Store all of `values`.

        Not atomic across keys: a reader may see some and not others, in any order.
        """
        ...

    def compare_and_put(self, key: str, expected: bytes | None, value: bytes) -> bool:
        """Store `value` if the entry's bytes equal `expected` (None: if there is no entry); True if stored.

        Linearizable per key.
        """
        ...

    def get(self, key: str) -> bytes | None:
        """The current value, or None when there is no such key.

        Asks the grid: never call it on the hot path.
        """
        ...

    def get_all(self, keys: tuple[str, ...]) -> dict[str, bytes]:
        """The current values of those `keys` that exist, in the order asked."""
        ...

    def delete(self, key: str) -> bool:
        """Remove `key`. True when it was there; only then do listeners receive a REMOVED event."""
        ...

    def keys(self) -> tuple[str, ...]:
        """All keys, sorted, so that no order of arrival leaks into what is made from them."""
        ...

    def entries(self) -> dict[str, bytes]:
        """All entries, sorted by key. A snapshot per key, not across keys."""
        ...

    def listen(
        self, callback: EntryListener, key: str | None = None, *, initial: bool = False
    ) -> Subscription:
        """Call `callback` for every change of `key`, or of the whole map when `key` is None.

        With `initial`, the values that exist now are delivered first (as ADDED, `current` set), so that
        nothing falls between a read and the registration. The callback runs on the dispatcher that the host
        has chosen: in the putting thread (inline) or on one worker thread. It may use the grid, puts
        included; what it puts is delivered after the event in hand has reached every listener.
        """
        ...


class LogRead(msgspec.Struct, frozen=True, gc=False):
    """What a read of a log found.

    `items` are (sequence, value), rising without holes. `next_sequence` is where to go on. `n_missed` counts
    the entries that fell out of the bound before this reader came: they must be fetched from the store on
    disk. `rewound` says that the reader stands beyond the log's end: the log was lost and began anew, and
    `next_sequence` is its present head.
    """

    items: tuple[tuple[int, bytes], ...]
    next_sequence: int
    n_missed: int
    rewound: bool


class GridLog(Protocol):
    """A bounded log, read by sequence; sequences start at 0 and rise by one."""

    @property
    def name(self) -> str:
        """The log's name."""
        ...

    @property
    def capacity(self) -> int:
        """How many entries are kept, > 0."""
        ...

    def append(self, value: bytes) -> int:
        """Add `value` at the end and return its sequence; the oldest entry beyond the capacity is dropped."""
        ...

    def read(self, from_sequence: int, limit: int) -> LogRead:
        """At most `limit` (> 0) entries from `from_sequence` (>= 0).

        Never waits. Raises GridError for other arguments.
        """
        ...

    def head(self) -> int:
        """Sequence of the oldest entry kept; `tail() + 1` when the log is empty."""
        ...

    def tail(self) -> int:
        """Sequence of the newest entry; EMPTY_LOG_TAIL before the first append."""
        ...


class AtomicReference(Protocol):
    """One linearizable value, None at first.

    Equality is equality of bytes, so a writer needs one encoding.
    """

    @property
    def name(self) -> str:
        """The reference's name."""
        ...

    def get(self) -> bytes | None:
        """The current value."""
        ...

    def set(self, value: bytes | None) -> None:
        """Replace the value whatever it was."""
        ...

    def compare_and_set(self, expected: bytes | None, value: bytes | None) -> bool:
        """Replace the value if it equals `expected`.

        A remote grid may apply one call twice: put a nonce in `value`.
        """
        ...


class FencedLock(Protocol):
    """Mutual exclusion across clients and threads.

    The holder is a thread of a client; the lock is not re-entrant.

    A paused holder can lose a remote lock without noticing. So the token travels with every write that the
    lock guards, and whoever receives a token smaller than one seen before refuses the write.
    """

    @property
    def name(self) -> str:
        """The lock's name."""
        ...

    def acquire(self, timeout_s: float | None = None, *, floor: int = 0) -> int:
        """Wait until the lock is free and return the fencing token (> 0), larger than every one before.

        `timeout_s` is in seconds, None waits for ever, 0 tries once. The token is larger than `floor` (>= 0),
        the largest that the caller has made durable, even when the grid has forgotten everything. Raises
        LockTimeout, and LockError when this thread holds the lock already.
        """
        ...

    def held(self) -> bool:
        """Whether this thread holds the lock, as far as the grid says now.

        False once the grid gave up on this client (it was paused for too long) or lost its memory. Asks the
        grid.
        """
        ...

    def release(self) -> None:
        """Give the lock back. Raises LockError when this thread does not hold it."""
        ...

    def locked(self) -> bool:
        """Whether anybody holds it. True or false only for the moment of asking."""
        ...

    def __enter__(self) -> int:
        """`acquire()`; the token is the value of the `with`."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """`release()`."""
        ...


class Grid(Protocol):
    """One client of the grid: created once per process, reused, closed at the end."""

    def map(self, name: str) -> GridMap:
        """The map of that name, made on first use. Cheap, and the same object every time."""
        ...

    def log(self, name: str, capacity: int | None = None) -> GridLog:
        """The log of that name. `capacity` (entries) is set by whoever opens it first, 1000 when not given.

        Raises GridError when it exists with another capacity than the one asked for.
        """
        ...

    def atomic_reference(self, name: str) -> AtomicReference:
        """The reference of that name."""
        ...

    def lock(self, name: str) -> FencedLock:
        """The fenced lock of that name."""
        ...

    def on_connection(self, callback: ConnectionListener) -> Subscription:
        """Call `callback` when the connection is lost, is back (with all listeners reconciled), or closed."""
        ...

    @property
    def connected(self) -> bool:
        """Whether operations can be expected to answer now."""
        ...

    @property
    def nodes(self) -> int:
        """How many members this client knows to be up, 0 without connection. Asks nobody."""
        ...

    @property
    def failures(self) -> tuple[ListenerFailure, ...]:
        """The newest listener failures, oldest first, at most 100."""
        ...

    @property
    def n_failures(self) -> int:
        """How many times listeners raised since the start."""
        ...

    @property
    def backlog(self) -> int:
        """Deliveries accepted and not yet made. Grows when a listener is slower than the puts: watch it."""
        ...

    def close(self) -> None:
        """Deliver what was accepted, release this client's locks, stop.

        Idempotent. Puts are refused from now on.
        """
        ...
