"""Maps, logs, references and locks of a Hazelcast grid, as `dolphin.grid.port` wants them.

Entry points: `RemoteMap`, `RemoteLog`, `RemoteReference`, `RemoteLock`; made by
`dolphin.grid.hazelcast.HazelcastGrid` only.

Invariants
----------
1. Values cross as byte arrays: the vendor's client would pickle `bytes`.
2. A fencing token is larger than every one that was stored under the lock's name in `DOLPHIN_FENCES`, and is
   stored there, while the lock is held, before it is given out.
3. A lock is held by the session of a client with a cluster. After the cluster was lost no answer of a new one
   is taken for the old one's: session numbers begin anew.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dolphin.grid.hazelcast_link import LOST_GROUP, LOST_LOCK, translate
from dolphin.grid.inprocess import check_entry
from dolphin.grid.port import (
    EMPTY_LOG_TAIL,
    EntryListener,
    GridError,
    GridUnreachable,
    LockError,
    LockTimeout,
    LogRead,
    Subscription,
)

if TYPE_CHECKING:
    from dolphin.grid.hazelcast import HazelcastGrid

FENCES_MAP = "DOLPHIN_FENCES"
#: Entries of one question to a log; the client refuses 1,000 and more.
_LOG_CHUNK = 500
#: Longest single wait for a lock inside the grid: between two, we look whether the connection is still ours.
_LOCK_SLICE_S = 1.0


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def _read_many(start: int, limit: int, proxy: Any) -> Any:
    return proxy.read_many(start, 0, limit)


class RemoteMap:
    """`GridMap`."""

    def __init__(self, grid: HazelcastGrid, name: str) -> None:
        self._grid = grid
        self._name = name

    @property
    def name(self) -> str:
        """See `GridMap.name`."""
        return self._name

    def _ask(self, what: str, call: Callable[[Any], Any]) -> Any:
        grid = self._grid
        grid.check_open()
        link = grid.link
        proxy = grid.proxy(link, "map", self._name)
        return link.ask(f"{what} of {self._name}", lambda: call(proxy))

    def put(self, key: str, value: bytes) -> None:
        """See `GridMap.put`."""
        check_entry(key, value)
        self._ask("a put", lambda proxy: proxy.set(key, bytearray(value)))

    def put_all(self, values: Mapping[str, bytes]) -> None:
        """See `GridMap.put_all`."""
        for key, value in values.items():
            check_entry(key, value)
        if values:
            copies = {key: bytearray(value) for key, value in values.items()}
            self._ask("a put of many", lambda proxy: proxy.put_all(copies))

    def compare_and_put(self, key: str, expected: bytes | None, value: bytes) -> bool:
        """See `GridMap.compare_and_put`."""
        check_entry(key, value)
        new = bytearray(value)
        if expected is None:
            return self._ask("a put", lambda proxy: proxy.put_if_absent(key, new)) is None
        old = bytearray(expected)
        return bool(self._ask("a put", lambda proxy: proxy.replace_if_same(key, old, new)))

    def get(self, key: str) -> bytes | None:
        """See `GridMap.get`."""
        return _bytes(self._ask("a get", lambda proxy: proxy.get(key)))

    def get_all(self, keys: tuple[str, ...]) -> dict[str, bytes]:
        """See `GridMap.get_all`."""
        if not keys:
            return {}
        found = self._ask("a get of many", lambda proxy: proxy.get_all(list(keys)))
        return {key: bytes(found[key]) for key in keys if found.get(key) is not None}

    def delete(self, key: str) -> bool:
        """See `GridMap.delete`."""
        return self._ask("a removal", lambda proxy: proxy.remove(key)) is not None

    def keys(self) -> tuple[str, ...]:
        """See `GridMap.keys`."""
        return tuple(sorted(self._ask("the keys", lambda proxy: proxy.key_set())))

    def entries(self) -> dict[str, bytes]:
        """See `GridMap.entries`."""
        found = self._ask("the entries", lambda proxy: proxy.entry_set())
        return {key: bytes(value) for key, value in sorted(found, key=lambda entry: entry[0])}

    def listen(
        self, callback: EntryListener, key: str | None = None, *, initial: bool = False
    ) -> Subscription:
        """See `GridMap.listen`."""
        return self._grid.listen(self._name, callback, key, initial)


class RemoteLog:
    """`GridLog` on a ringbuffer, whose capacity the member's configuration decides."""

    def __init__(self, grid: HazelcastGrid, name: str) -> None:
        self._grid = grid
        self._name = name
        self._capacity = int(self._ask("the capacity", lambda proxy: proxy.capacity()))

    def check_capacity(self, capacity: int | None) -> None:
        """Raise GridError when the log has another capacity."""
        if capacity is not None and capacity != self._capacity:
            raise GridError(
                f"log {self._name}: exists with capacity {self._capacity}, asked for {capacity}; the member's"
                " YAML decides it, under `ringbuffer`"
            )

    @property
    def name(self) -> str:
        """See `GridLog.name`."""
        return self._name

    @property
    def capacity(self) -> int:
        """See `GridLog.capacity`."""
        return self._capacity

    def _ask(self, what: str, call: Callable[[Any], Any]) -> Any:
        grid = self._grid
        grid.check_open()
        link = grid.link
        proxy = grid.proxy(link, "log", self._name)
        return link.ask(f"{what} of {self._name}", lambda: call(proxy))

    def append(self, value: bytes) -> int:
        """See `GridLog.append`."""
        check_entry(self._name, value)
        return int(self._ask("an append", lambda proxy: proxy.add(bytearray(value))))

    def read(self, from_sequence: int, limit: int) -> LogRead:
        """See `GridLog.read`."""
        if from_sequence < 0 or limit < 1:
            raise GridError(
                f"log {self._name}: read(from_sequence={from_sequence}, limit={limit}), "
                "expected from_sequence >= 0 and limit >= 1"
            )
        items: list[tuple[int, bytes]] = []
        at = from_sequence
        while len(items) < limit:
            chunk = min(limit - len(items), _LOG_CHUNK, self._capacity)
            found = self._ask("a read", partial(_read_many, at, chunk))
            first = found.get_sequence(0) if len(found) else at
            # Entries that fell out between two questions leave a hole: what follows is for the next read.
            if not len(found) or (items and first != at):
                break
            items += [(found.get_sequence(i), bytes(found[i])) for i in range(len(found))]
            at = items[-1][0] + 1
        if items:
            return LogRead(tuple(items), at, items[0][0] - from_sequence, False)
        tail = self.tail()
        head = self.head()
        if from_sequence > tail + 1:
            return LogRead((), head, 0, True)
        return LogRead((), max(from_sequence, head), max(0, head - from_sequence), False)

    def head(self) -> int:
        """See `GridLog.head`."""
        return int(self._ask("the head", lambda proxy: proxy.head_sequence()))

    def tail(self) -> int:
        """See `GridLog.tail`."""
        tail = int(self._ask("the tail", lambda proxy: proxy.tail_sequence()))
        return EMPTY_LOG_TAIL if tail < 0 else tail


class _Agreed:
    """What references and locks share: a proxy of a CP group, fetched anew when the group is another one."""

    KIND = ""

    def __init__(self, grid: HazelcastGrid, name: str) -> None:
        self._grid = grid
        self._name = name

    @property
    def name(self) -> str:
        """The object's name."""
        return self._name

    def _ask(self, what: str, call: Callable[[Any], Any], deadline_s: float | None = None) -> Any:
        """The answer. Raises GridError, and LOST_LOCK as it is."""
        grid = self._grid
        told = f"{what} of {self._name}"
        for last in (False, True):
            grid.check_open()
            link = grid.link
            proxy = grid.proxy(link, self.KIND, self._name)
            try:
                return link.ask(told, partial(call, proxy), deadline_s)
            except LOST_GROUP as error:
                # The group is gone and so the call was not done: once more, with the group that is there now.
                grid.forget_proxy(link, self.KIND, self._name)
                if last:
                    raise translate(error, told) from error
        raise AssertionError("unreachable")


class RemoteReference(_Agreed):
    """`AtomicReference`."""

    KIND = "reference"

    def get(self) -> bytes | None:
        """See `AtomicReference.get`."""
        return _bytes(self._ask("a get", lambda proxy: proxy.get()))

    def set(self, value: bytes | None) -> None:
        """See `AtomicReference.set`."""
        new = self._data(value)
        self._ask("a set", lambda proxy: proxy.set(new))

    def compare_and_set(self, expected: bytes | None, value: bytes | None) -> bool:
        """See `AtomicReference.compare_and_set`."""
        old, new = self._data(expected), self._data(value)
        return bool(self._ask("a set", lambda proxy: proxy.compare_and_set(old, new)))

    def _data(self, value: bytes | None) -> bytearray | None:
        if value is None:
            return None
        check_entry(self._name, value)
        return bytearray(value)


class RemoteLock(_Agreed):
    """`FencedLock`."""

    KIND = "lock"

    def _key(self) -> tuple[str, int]:
        return (self._name, threading.get_ident())

    def acquire(self, timeout_s: float | None = None, *, floor: int = 0) -> int:
        """See `FencedLock.acquire`."""
        if floor < 0:
            raise GridError(f"lock {self._name}: floor is {floor}, expected >= 0")
        give_up = None if timeout_s is None else time.monotonic() + timeout_s
        if self.held():
            raise LockError(
                f"lock {self._name}: this thread holds it already; a fenced lock is not re-entrant"
            )
        while True:
            self._clear_doubt()
            left_s = _LOCK_SLICE_S if give_up is None else max(0.0, give_up - time.monotonic())
            epoch = self._grid.epoch_of_sessions()
            raw = self._try(min(left_s, _LOCK_SLICE_S))
            if raw > 0:
                token = self._token(raw, floor, epoch)
                if token is not None:
                    return token
            elif give_up is not None and time.monotonic() >= give_up:
                raise LockTimeout(f"lock {self._name}: not free after {timeout_s} s; another writer holds it")

    def _try(self, slice_s: float) -> int:
        """The grid's own fence, 0 when the lock is not free."""
        deadline_s = self._grid.link.deadline_s + slice_s
        for _ in range(2):
            try:
                return int(self._ask("a lock", lambda proxy: proxy.try_lock(slice_s), deadline_s))
            except LOST_LOCK:
                # The client remembers a lock of a session that has ended; it has forgotten it now.
                continue
            except GridUnreachable:
                # It may be ours after all: given back before this thread tries again.
                self._grid.doubtful.add(self._key())
                raise
        return 0

    def _clear_doubt(self) -> None:
        if self._key() in self._grid.doubtful:
            with contextlib.suppress(*LOST_LOCK):
                self._ask("an unlock", lambda proxy: proxy.unlock())
            self._grid.doubtful.discard(self._key())

    def _token(self, raw: int, floor: int, epoch: int) -> int | None:
        """Store the next token and keep the lock; None when it was lost meanwhile. The lock is held by us."""
        fences = self._grid.map(FENCES_MAP)
        try:
            stored = fences.get(self._name)
            token = max(raw, floor + 1, int(stored or b"0") + 1)
            stays = fences.compare_and_put(self._name, stored, b"%d" % token)
            if stays and self._grid.epoch_of_sessions() == epoch:
                self._grid.holders[self._key()] = (token, epoch)
                return token
        except GridError:
            self._grid.doubtful.add(self._key())
            with contextlib.suppress(GridError):
                self._clear_doubt()
            raise
        # Somebody else stored a token, or the cluster is another one: we do not hold the lock any more.
        self._grid.doubtful.add(self._key())
        return None

    def release(self) -> None:
        """See `FencedLock.release`."""
        _, epoch = self._grid.holders.pop(self._key(), (0, -1))
        refusal = LockError(
            f"lock {self._name}: this thread does not hold it; only its holder can release it"
        )
        if epoch < 0 or epoch != self._grid.epoch_of_sessions():
            raise refusal
        try:
            self._ask("an unlock", lambda proxy: proxy.unlock())
        except LOST_LOCK as error:
            raise refusal from error
        except GridUnreachable:
            self._grid.doubtful.add(self._key())
            raise

    def held(self) -> bool:
        """See `FencedLock.held`."""
        key = self._key()
        _, epoch = self._grid.holders.get(key, (0, -1))
        now = self._grid.epoch_of_sessions()
        if epoch < 0:
            return False
        if epoch == now:
            try:
                if self._ask("the holder", lambda proxy: proxy.is_locked_by_current_thread()):
                    return True
            except LOST_LOCK:
                pass
        self._grid.holders.pop(key, None)
        return False

    def locked(self) -> bool:
        """See `FencedLock.locked`."""
        self._grid.epoch_of_sessions()
        try:
            return bool(self._ask("the holder", lambda proxy: proxy.is_locked()))
        except LOST_LOCK:
            # The client has forgotten its own lost lock now and tells about the others.
            return bool(self._ask("the holder", lambda proxy: proxy.is_locked()))

    def __enter__(self) -> int:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
