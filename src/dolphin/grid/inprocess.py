"""The grid inside one process: the embedded default, and the fake that must behave like the real one.

Entry point: `InProcessGrid`. `peer()` gives a second client of the same memory, which is how tests play two
processes; `drop_connection()` and `restore_connection()` play a network that fails, `lose_session()` a client
that was paused for too long, `vanish()` one that was killed, `lose_memory()` a cluster that died as a whole.

Invariants
----------
1. Values cross as the bytes that were put: no reader shares an object with a writer.
2. An entry is stored, numbered and queued for its listeners under one lock, so that the order of delivery is
   the order of acceptance, whoever delivers.
3. No lock is held while a listener runs: a listener may use the grid freely.
4. `inline`: the putting thread delivers, and when it returns everything it caused has been delivered (unless
   another thread is just delivering, which then takes it along, in order). Single-threaded runs are
   deterministic.
5. `thread`: one worker thread delivers from an unbounded queue. `close()` delivers what was accepted before
   it and accepts nothing more, so that it ends; the listeners that still run may read and write.
6. While the connection is dropped every operation raises GridUnreachable and no event is queued.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Final

from dolphin.grid.dispatch import DispatcherKind, Failures, InlineDispatcher, ThreadDispatcher
from dolphin.grid.port import (
    EMPTY_LOG_TAIL,
    ConnectionEvent,
    ConnectionListener,
    ConnectionState,
    EntryEvent,
    EntryKind,
    EntryListener,
    GridClosed,
    GridError,
    GridUnreachable,
    ListenerFailure,
    LockError,
    LockTimeout,
    LogRead,
)

LOG_CAPACITY_DEFAULT = 1000

_ADDED: Final = EntryKind.ADDED
_UPDATED: Final = EntryKind.UPDATED
_REMOVED: Final = EntryKind.REMOVED


class _EntrySubscription:
    """A listener on a map or one of its keys, with the version of each key that it was given last."""

    __slots__ = ("callback", "client", "closed", "key", "seen", "store")

    def __init__(
        self, client: InProcessGrid, store: _MapStore, callback: EntryListener, key: str | None
    ) -> None:
        self.client = client
        self.store = store
        self.callback = callback
        self.key = key
        self.closed = False
        #: Only of keys that exist as far as this listener knows: a removal forgets the key.
        self.seen: dict[str, int] = {}

    @property
    def failures(self) -> Failures:
        return self.client._failures

    def close(self) -> None:
        with self.client._memory.lock:
            self.closed = True
            self.store.drop(self)
            self.client._subscriptions.pop(self, None)


class _ConnectionSubscription:
    __slots__ = ("callback", "client", "closed")

    def __init__(self, client: InProcessGrid, callback: ConnectionListener) -> None:
        self.client = client
        self.callback = callback
        self.closed = False

    @property
    def failures(self) -> Failures:
        return self.client._failures

    def close(self) -> None:
        with self.client._memory.lock:
            self.closed = True
            self.client._connection_subscriptions.pop(self, None)


class _MapStore:
    """Entries of one map with their versions, and its listeners. Used under the memory's lock only."""

    __slots__ = ("by_key", "entries", "name", "version", "whole")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: dict[str, tuple[bytes, int]] = {}
        self.version = 0
        # Tuples that are replaced, never changed: a put reads them without copying.
        self.by_key: dict[str, tuple[_EntrySubscription, ...]] = {}
        self.whole: tuple[_EntrySubscription, ...] = ()

    def add(self, subscription: _EntrySubscription) -> None:
        if subscription.key is None:
            self.whole = (*self.whole, subscription)
        else:
            self.by_key[subscription.key] = (*self.by_key.get(subscription.key, ()), subscription)

    def drop(self, subscription: _EntrySubscription) -> None:
        if subscription.key is None:
            self.whole = tuple(s for s in self.whole if s is not subscription)
            return
        rest = tuple(s for s in self.by_key.get(subscription.key, ()) if s is not subscription)
        if rest:
            self.by_key[subscription.key] = rest
        else:
            self.by_key.pop(subscription.key, None)

    def listening(self, key: str) -> tuple[_EntrySubscription, ...]:
        return self.by_key.get(key, ()) + self.whole


class _LogStore:
    __slots__ = ("capacity", "items", "name", "next_sequence")

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.capacity = capacity
        self.items: deque[bytes] = deque(maxlen=capacity)
        self.next_sequence = 0


class _LockStore:
    __slots__ = ("fence", "free", "holder", "name")

    def __init__(self, name: str, fence: int, lock: threading.RLock) -> None:
        self.name = name
        self.fence = fence
        self.holder: tuple[InProcessGrid, int] | None = None
        self.free = threading.Condition(lock)


class _Memory:
    """What the clients of one process share."""

    def __init__(self, fence_start: int) -> None:
        # Re-entrant, because a signal handler that writes the final state may interrupt a put of the same
        # thread.
        self.lock = threading.RLock()
        self.maps: dict[str, _MapStore] = {}
        self.logs: dict[str, _LogStore] = {}
        self.references: dict[str, bytes | None] = {}
        self.locks: dict[str, _LockStore] = {}
        self.fence_start = fence_start
        #: How often everything was lost.
        self.generation = 0
        self.clients: dict[InProcessGrid, None] = {}

    def map_store(self, name: str) -> _MapStore:
        with self.lock:
            store = self.maps.get(name)
            if store is None:
                store = self.maps[name] = _MapStore(name)
            return store

    def lock_store(self, name: str) -> _LockStore:
        with self.lock:
            store = self.locks.get(name)
            if store is None:
                store = self.locks[name] = _LockStore(name, self.fence_start, self.lock)
            return store


def check_entry(key: str, value: bytes) -> None:
    """Raise TypeError for a value that is not bytes or a key that is not text."""
    if type(value) is not bytes:
        raise TypeError(
            f"grid value of {key!r} is {type(value).__name__}, expected bytes; encode the payload first"
        )
    if type(key) is not str or not key:
        raise TypeError(f"grid key is {key!r}, expected text that is not empty")


class _Map:
    """`GridMap` of one client."""

    __slots__ = ("_client", "_lock", "_store")

    def __init__(self, client: InProcessGrid, store: _MapStore) -> None:
        self._client = client
        self._store = store
        self._lock = client._memory.lock

    @property
    def name(self) -> str:
        return self._store.name

    def put(self, key: str, value: bytes) -> None:
        check_entry(key, value)
        client = self._client
        with self._lock:
            client._check_writable()
            touched = self._accept(key, value)
        for each in touched:
            each._dispatcher.drain()

    def _accept(self, key: str, value: bytes) -> tuple[InProcessGrid, ...] | list[InProcessGrid]:
        """Store and queue one entry, under the lock. Returns the clients whose dispatchers have work now."""
        store = self._store
        version = store.version = store.version + 1
        entries = store.entries
        kind = _UPDATED if key in entries else _ADDED
        entries[key] = (value, version)
        listening = store.whole
        if key in store.by_key:
            listening = store.by_key[key] + listening
        if not listening:
            return ()
        return _queue_event(listening, EntryEvent(store.name, key, value, kind, version))

    def put_all(self, values: Mapping[str, bytes]) -> None:
        for key, value in values.items():
            check_entry(key, value)
        touched: dict[InProcessGrid, None] = {}
        with self._lock:
            self._client._check_writable()
            for key, value in values.items():
                touched.update(dict.fromkeys(self._accept(key, value)))
        for each in touched:
            each._dispatcher.drain()

    def compare_and_put(self, key: str, expected: bytes | None, value: bytes) -> bool:
        check_entry(key, value)
        with self._lock:
            self._client._check_writable()
            entry = self._store.entries.get(key)
            if (None if entry is None else entry[0]) != expected:
                return False
            touched = self._accept(key, value)
        for each in touched:
            each._dispatcher.drain()
        return True

    def get(self, key: str) -> bytes | None:
        with self._lock:
            self._client._check_readable()
            entry = self._store.entries.get(key)
        return None if entry is None else entry[0]

    def get_all(self, keys: tuple[str, ...]) -> dict[str, bytes]:
        with self._lock:
            self._client._check_readable()
            entries = self._store.entries
            return {key: entries[key][0] for key in keys if key in entries}

    def delete(self, key: str) -> bool:
        client, store = self._client, self._store
        with self._lock:
            client._check_writable()
            if store.entries.pop(key, None) is None:
                return False
            store.version += 1
            touched = _queue_event(
                store.listening(key), EntryEvent(store.name, key, None, _REMOVED, store.version)
            )
        for each in touched:
            each._dispatcher.drain()
        return True

    def keys(self) -> tuple[str, ...]:
        with self._lock:
            self._client._check_readable()
            return tuple(sorted(self._store.entries))

    def entries(self) -> dict[str, bytes]:
        with self._lock:
            self._client._check_readable()
            return {key: value for key, (value, _) in sorted(self._store.entries.items())}

    def listen(
        self, callback: EntryListener, key: str | None = None, *, initial: bool = False
    ) -> _EntrySubscription:
        client, store = self._client, self._store
        subscription = _EntrySubscription(client, store, callback, key)
        with self._lock:
            client._check_readable()
            store.add(subscription)
            client._subscriptions[subscription] = None
            if initial:
                client._queue_current(subscription)
            else:
                # What exists already is no news for this listener, not even after a reconnect.
                subscription.seen = {
                    k: version for k, (_, version) in store.entries.items() if key is None or k == key
                }
        client._dispatcher.drain()
        return subscription


def _queue_event(listening: tuple[_EntrySubscription, ...], event: EntryEvent) -> list[InProcessGrid]:
    touched: list[InProcessGrid] = []
    for subscription in listening:
        client = subscription.client
        if not client._up or client._closed:
            continue
        if event.kind is _REMOVED:
            subscription.seen.pop(event.key, None)
        else:
            subscription.seen[event.key] = event.version
        client._enqueue((subscription, event))
        if client not in touched:
            touched.append(client)
    return touched


class _Log:
    """`GridLog` of one client."""

    __slots__ = ("_client", "_lock", "_store")

    def __init__(self, client: InProcessGrid, store: _LogStore) -> None:
        self._client = client
        self._store = store
        self._lock = client._memory.lock

    @property
    def name(self) -> str:
        return self._store.name

    @property
    def capacity(self) -> int:
        return self._store.capacity

    def append(self, value: bytes) -> int:
        check_entry(self._store.name, value)
        with self._lock:
            self._client._check_writable()
            sequence = self._store.next_sequence
            self._store.items.append(value)
            self._store.next_sequence = sequence + 1
            return sequence

    def read(self, from_sequence: int, limit: int) -> LogRead:
        if from_sequence < 0 or limit < 1:
            raise GridError(
                f"log {self.name}: read(from_sequence={from_sequence}, limit={limit}), "
                "expected from_sequence >= 0 and limit >= 1"
            )
        with self._lock:
            self._client._check_readable()
            store = self._store
            head = store.next_sequence - len(store.items)
            if from_sequence > store.next_sequence:
                return LogRead((), head, 0, True)
            first = max(from_sequence, head)
            last = min(first + limit, store.next_sequence)
            items = tuple((sequence, store.items[sequence - head]) for sequence in range(first, last))
            return LogRead(items, last, first - from_sequence, False)

    def head(self) -> int:
        with self._lock:
            self._client._check_readable()
            return self._store.next_sequence - len(self._store.items)

    def tail(self) -> int:
        with self._lock:
            self._client._check_readable()
            return self._store.next_sequence + EMPTY_LOG_TAIL


class _Reference:
    """`AtomicReference` of one client."""

    __slots__ = ("_client", "_lock", "_name", "_values")

    def __init__(self, client: InProcessGrid, name: str) -> None:
        self._client = client
        self._name = name
        self._values = client._memory.references
        self._lock = client._memory.lock

    @property
    def name(self) -> str:
        return self._name

    def get(self) -> bytes | None:
        with self._lock:
            self._client._check_readable()
            return self._values.get(self._name)

    def set(self, value: bytes | None) -> None:
        if value is not None:
            check_entry(self._name, value)
        with self._lock:
            self._client._check_writable()
            self._values[self._name] = value

    def compare_and_set(self, expected: bytes | None, value: bytes | None) -> bool:
        if value is not None:
            check_entry(self._name, value)
        with self._lock:
            self._client._check_writable()
            if self._values.get(self._name) != expected:
                return False
            self._values[self._name] = value
            return True


class _Lock:
    """`FencedLock` of one client."""

    __slots__ = ("_client", "_store")

    def __init__(self, client: InProcessGrid, store: _LockStore) -> None:
        self._client = client
        self._store = store

    @property
    def name(self) -> str:
        return self._store.name

    def acquire(self, timeout_s: float | None = None, *, floor: int = 0) -> int:
        if floor < 0:
            raise GridError(f"lock {self.name}: floor is {floor}, expected >= 0")
        store, client = self._store, self._client
        me = (client, threading.get_ident())
        with store.free:
            client._check_writable()
            if store.holder == me:
                raise LockError(
                    f"lock {self.name}: this thread holds it already; a fenced lock is not re-entrant"
                )
            if not store.free.wait_for(lambda: store.holder is None or client._closed, timeout_s):
                raise LockTimeout(f"lock {self.name}: not free after {timeout_s} s; another writer holds it")
            # The client may have been dropped or closed while it waited.
            client._check_writable()
            store.holder = me
            store.fence = max(store.fence, floor) + 1
            return store.fence

    def release(self) -> None:
        store = self._store
        with store.free:
            if store.holder != (self._client, threading.get_ident()):
                raise LockError(
                    f"lock {self.name}: this thread does not hold it; only its holder can release it"
                )
            store.holder = None
            # All are woken, not one: the one that is woken may have been dropped and leave without the lock.
            store.free.notify_all()

    def held(self) -> bool:
        with self._store.free:
            self._client._check_readable()
            return self._store.holder == (self._client, threading.get_ident())

    def locked(self) -> bool:
        with self._store.free:
            self._client._check_readable()
            return self._store.holder is not None

    def __enter__(self) -> int:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class InProcessGrid:
    """A client of a grid that lives in this process. Keeps the contract of `dolphin.grid.port.Grid`.

    Parameters
    ----------
    dispatcher : "inline" or "thread"
        Where listeners run: in the putting thread (deterministic; embedded system, replays, tests) or on one
        worker thread (services).
    fence_start : int
        Fencing tokens are larger than this, >= 0. A host that restarts gives the highest token it has made
        durable, so that tokens do not fall back to 1 with the process.
    """

    def __init__(self, dispatcher: DispatcherKind = "inline", *, fence_start: int = 0) -> None:
        if fence_start < 0:
            raise GridError(f"fence_start is {fence_start}, expected >= 0")
        self._begin(_Memory(fence_start), dispatcher)

    def _begin(self, memory: _Memory, dispatcher: DispatcherKind) -> None:
        if dispatcher not in ("inline", "thread"):
            raise GridError(f"dispatcher is {dispatcher!r}, expected 'inline' or 'thread'")
        self._memory = memory
        self._kind: DispatcherKind = dispatcher
        self._dispatcher = InlineDispatcher() if dispatcher == "inline" else ThreadDispatcher()
        self._enqueue = self._dispatcher.enqueue
        self._maps: dict[str, _Map] = {}
        # Dicts as ordered sets: reconciliation goes through the listeners in the order of their registration.
        self._subscriptions: dict[_EntrySubscription, None] = {}
        self._connection_subscriptions: dict[_ConnectionSubscription, None] = {}
        self._up = True
        self._closed = False
        self._reconnects = 0
        self._failures = Failures()
        with memory.lock:
            self._generation = memory.generation
            memory.clients[self] = None

    def peer(self, dispatcher: DispatcherKind | None = None) -> InProcessGrid:
        """Another client of the same memory, with its own listeners, dispatcher and connection."""
        other = InProcessGrid.__new__(InProcessGrid)
        other._begin(self._memory, dispatcher or self._kind)
        return other

    def map(self, name: str) -> _Map:
        """See `Grid.map`."""
        found = self._maps.get(name)
        if found is None:
            found = self._maps.setdefault(name, _Map(self, self._memory.map_store(name)))
        return found

    def log(self, name: str, capacity: int | None = None) -> _Log:
        """See `Grid.log`.

        Raises GridError for a capacity that is not positive or is another than the log has.
        """
        if capacity is not None and capacity < 1:
            raise GridError(f"log {name}: capacity {capacity}, expected >= 1")
        with self._memory.lock:
            store = self._memory.logs.get(name)
            if store is None:
                store = self._memory.logs[name] = _LogStore(name, capacity or LOG_CAPACITY_DEFAULT)
            elif capacity is not None and capacity != store.capacity:
                raise GridError(f"log {name}: exists with capacity {store.capacity}, asked for {capacity}")
            return _Log(self, store)

    def atomic_reference(self, name: str) -> _Reference:
        """See `Grid.atomic_reference`."""
        return _Reference(self, name)

    def lock(self, name: str) -> _Lock:
        """See `Grid.lock`."""
        return _Lock(self, self._memory.lock_store(name))

    def on_connection(self, callback: ConnectionListener) -> _ConnectionSubscription:
        """See `Grid.on_connection`."""
        subscription = _ConnectionSubscription(self, callback)
        with self._memory.lock:
            self._connection_subscriptions[subscription] = None
        return subscription

    @property
    def connected(self) -> bool:
        """See `Grid.connected`."""
        return self._up and not self._closed

    @property
    def nodes(self) -> int:
        """See `Grid.nodes`: the memory of this process is one member."""
        return 1 if self.connected else 0

    @property
    def failures(self) -> tuple[ListenerFailure, ...]:
        """See `Grid.failures`."""
        return self._failures.newest

    @property
    def n_failures(self) -> int:
        """See `Grid.n_failures`."""
        return self._failures.total

    @property
    def backlog(self) -> int:
        """See `Grid.backlog`."""
        return len(self._dispatcher)

    def close(self) -> None:
        """See `Grid.close`.

        From a listener it does not wait for the queue, which would be waiting for itself.
        """
        with self._memory.lock:
            if self._closed:
                return
            self._closed = True
            self._memory.clients.pop(self, None)
            self._queue_connection(ConnectionState.CLOSED)
            self._free_locks()
        self._dispatcher.stop()
        self._forget_listeners()

    def __enter__(self) -> InProcessGrid:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The network's part, played by tests.

    def drop_connection(self) -> None:
        """Lose the connection.

        Operations raise GridUnreachable, events of the time between are lost. Idempotent.
        """
        with self._memory.lock:
            if not self._up or self._closed:
                return
            self._up = False
            self._queue_connection(ConnectionState.DISCONNECTED)
        self._dispatcher.drain()

    def restore_connection(self) -> None:
        """Come back: reconcile every listener, then report the connection. Idempotent."""
        with self._memory.lock:
            if self._up or self._closed:
                return
            self._up = True
            self._come_back()
        self._dispatcher.drain()

    def lose_session(self) -> None:
        """The grid gives up on this client, which was paused for too long: its locks are free."""
        with self._memory.lock:
            self._free_locks()

    def vanish(self) -> None:
        """This client's process was killed: no event is delivered any more, its locks are free.

        In real life the locks are free only when the session has run out.
        """
        with self._memory.lock:
            self._closed = True
            self._memory.clients.pop(self, None)
            self._forget_listeners()
            self._free_locks()
        if isinstance(self._dispatcher, ThreadDispatcher):
            self._dispatcher.stop()

    def expire_session(self) -> None:
        """This client was silent for so long that its locks were given back, which it is not told.

        What a paused process finds when it goes on: only `held` and the fences tell.
        """
        with self._memory.lock:
            for store in self._memory.locks.values():
                if store.holder is not None and store.holder[0] is self:
                    store.holder = None
                    store.free.notify_all()

    def lose_memory(self) -> None:
        """The whole cluster died and came back empty: for every client, with all that it held.

        Fencing tokens begin anew too; only the floor that an acquirer gives keeps them rising.
        """
        memory = self._memory
        with memory.lock:
            memory.generation += 1
            connected = [client for client in memory.clients if client._up]
            for client in connected:
                client._queue_connection(ConnectionState.DISCONNECTED)
            for entries in memory.maps.values():
                entries.entries.clear()
                entries.version += 1
            for log in memory.logs.values():
                log.items.clear()
                log.next_sequence = 0
            memory.references.clear()
            for lock in memory.locks.values():
                lock.holder = None
                lock.fence = 0
                lock.free.notify_all()
            for client in connected:
                client._come_back()
        for client in connected:
            client._dispatcher.drain()

    # Under the memory's lock.

    def _come_back(self) -> None:
        reborn = self._generation != self._memory.generation
        self._generation = self._memory.generation
        self._reconnects += 1
        for subscription in tuple(self._subscriptions):
            self._queue_current(subscription)
        self._queue_connection(ConnectionState.CONNECTED, reborn)

    def _free_locks(self) -> None:
        for store in self._memory.locks.values():
            if store.holder is not None and store.holder[0] is self:
                store.holder = None
            store.free.notify_all()

    def _forget_listeners(self) -> None:
        with self._memory.lock:
            for subscription in tuple(self._subscriptions):
                subscription.closed = True
                subscription.store.drop(subscription)
            self._subscriptions.clear()
            for other in self._connection_subscriptions:
                other.closed = True
            self._connection_subscriptions.clear()

    def _check_readable(self) -> None:
        if not self._up:
            raise GridUnreachable(
                "the grid is not reachable; the last near view stays in force until it is back"
            )
        if self._closed and not self._dispatcher.delivers_here:
            raise GridClosed("this grid client is closed")

    _check_writable = _check_readable

    def _queue_connection(self, state: ConnectionState, reborn: bool = False) -> None:
        event = ConnectionEvent(state, self._reconnects, reborn)
        for subscription in self._connection_subscriptions:
            self._enqueue((subscription, event))

    def _queue_current(self, subscription: _EntrySubscription) -> None:
        """Queue what `subscription` has not been given.

        Newer values in order of acceptance, then removals.
        """
        store, seen = subscription.store, subscription.seen
        for key, value, version in sorted(_listened(store, subscription.key), key=lambda entry: entry[2]):
            if version > seen.get(key, 0):
                kind = _UPDATED if key in seen else _ADDED
                seen[key] = version
                self._enqueue((subscription, EntryEvent(store.name, key, value, kind, version, True)))
        gone = sorted(key for key in seen if key not in store.entries)
        for key in gone:
            del seen[key]
            self._enqueue((subscription, EntryEvent(store.name, key, None, _REMOVED, store.version, True)))


def _listened(store: _MapStore, key: str | None) -> Iterator[tuple[str, bytes, int]]:
    if key is None:
        for each, (value, version) in store.entries.items():
            yield each, value, version
    elif key in store.entries:
        value, version = store.entries[key]
        yield key, value, version
