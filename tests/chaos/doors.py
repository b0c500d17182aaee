"""A simulated process's door to the grid: where it dies in the middle of a call, and where its link lies.

Everything that a process asks of the grid, and every event that it is given, goes through here. A dead
process does nothing any more: whatever cleans up behind the kill that ended it finds the grid unreachable,
so that its locks stay held until its session has run out, as a real kill leaves them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.port import GridUnreachable, LogRead
from dolphin.grid.topics import SCAN, SCAN_LOG


class Killed(BaseException):
    """kill -9 at this very place."""


class Owner(Protocol):
    """What a door must know of its process."""

    name: str
    dead: bool

    def passing(self, site: str, text: str, *, after: bool = False) -> None:
        """A place where it may be killed; raises Killed."""
        ...

    def entered(self) -> Any:
        """The context in which its code runs."""
        ...

    def telling(self, where: str, value: bytes) -> None:
        """It is about to put a value."""
        ...


class Link:
    """What a link does to scan events while it is bad: `double`, `swap` or `drop`, each by chance."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.kind = ""
        self._held: list[Any] = []
        self.n_bent = 0

    def through(self, items: list[Any]) -> list[Any]:
        """What comes out at the other end, now."""
        held, self._held = self._held, []
        out: list[Any] = []
        for item in items:
            hit = bool(self.kind) and self._chance.random() < 0.4
            self.n_bent += hit
            if not hit:
                out += [item, *held]
                held = []
            elif self.kind == "double":
                out += [item, item]
            elif self.kind == "swap":
                held.append(item)
        if self.kind == "swap":
            self._held = held
            return out
        return out + held


class Door:
    """The `Grid` of one process."""

    def __init__(self, grid: InProcessGrid, owner: Owner, chance: random.Random) -> None:
        self._grid = grid
        self._owner = owner
        #: Bent on the way to the grid (a bridge's), and on the way from it (a trader's).
        self.outward, self.inward, self.events = Link(chance), Link(chance), Link(chance)

    def check(self, site: str, text: str) -> None:
        """Before a call: the dead reach nothing."""
        if self._owner.dead:
            raise GridUnreachable("this process is dead")
        self._owner.passing(site, text)

    def after(self, site: str, text: str) -> None:
        """After a call that changed something."""
        self._owner.passing(site, text, after=True)

    def tell(self, where: str, value: bytes) -> None:
        """Before a value is put."""
        if not self._owner.dead:
            self._owner.telling(where, value)

    def heard(self, callback: Callable[[Any], None], bend: bool = False) -> Callable[[Any], None]:
        """The callback as the process runs it."""

        def deliver(event: Any) -> None:
            if self._owner.dead:
                return
            with self._owner.entered():
                for each in self.events.through([event]) if bend else [event]:
                    callback(each)

        return deliver

    def map(self, name: str) -> _Map:
        return _Map(self._grid.map(name), self)

    def log(self, name: str, capacity: int | None = None) -> _Log:
        self.check("open", name)
        return _Log(self._grid.log(name, capacity), self)

    def atomic_reference(self, name: str) -> _Reference:
        return _Reference(self._grid.atomic_reference(name), self)

    def lock(self, name: str) -> _Lock:
        return _Lock(self._grid.lock(name), self)

    def on_connection(self, callback: Callable[[Any], None]) -> Any:
        return self._grid.on_connection(self.heard(callback))

    @property
    def connected(self) -> bool:
        return self._grid.connected and not self._owner.dead

    @property
    def nodes(self) -> int:
        return 0 if self._owner.dead else self._grid.nodes

    @property
    def failures(self) -> Any:
        return self._grid.failures

    @property
    def n_failures(self) -> int:
        return self._grid.n_failures

    @property
    def backlog(self) -> int:
        return self._grid.backlog

    def close(self) -> None:
        self._grid.close()


class _Part:
    def __init__(self, inner: Any, door: Door) -> None:
        self._inner, self._door = inner, door

    @property
    def name(self) -> str:
        return str(self._inner.name)

    def _asked(self, what: str, *args: Any, **named: Any) -> Any:
        self._door.check("ask", self.name)
        return getattr(self._inner, what)(*args, **named)

    def _told(self, what: str, *args: Any) -> Any:
        text = f"{self.name}[{args[0]}]" if args and isinstance(args[0], str) else self.name
        self._door.check("put", text)
        result = getattr(self._inner, what)(*args)
        self._door.after("put", text)
        return result


class _Map(_Part):
    def put(self, key: str, value: bytes) -> None:
        self._told("put", key, value)

    def _told(self, what: str, *args: Any) -> Any:
        if what != "delete":
            self._door.tell(f"{self.name}[{args[0]}]", args[-1])
        return super()._told(what, *args)

    def put_all(self, values: Mapping[str, bytes]) -> None:
        for key, value in values.items():
            self._told("put", key, value)

    def compare_and_put(self, key: str, expected: bytes | None, value: bytes) -> bool:
        return bool(self._told("compare_and_put", key, expected, value))

    def delete(self, key: str) -> bool:
        return bool(self._told("delete", key))

    def get(self, key: str) -> bytes | None:
        return self._asked("get", key)  # type: ignore[no-any-return]

    def get_all(self, keys: tuple[str, ...]) -> dict[str, bytes]:
        return self._asked("get_all", keys)  # type: ignore[no-any-return]

    def keys(self) -> tuple[str, ...]:
        return self._asked("keys")  # type: ignore[no-any-return]

    def entries(self) -> dict[str, bytes]:
        return self._asked("entries")  # type: ignore[no-any-return]

    def listen(
        self, callback: Callable[[Any], None], key: str | None = None, *, initial: bool = False
    ) -> Any:
        self._door.check("ask", self.name)
        bend = (self.name, key) == (SCAN.map_template, SCAN.key_template)
        return self._inner.listen(self._door.heard(callback, bend), key, initial=initial)


class _Log(_Part):
    @property
    def capacity(self) -> int:
        return int(self._inner.capacity)

    def append(self, value: bytes) -> int:
        if self.name != SCAN_LOG:
            return int(self._told("append", value))
        self._door.check("put", self.name)
        place = int(self._inner.tail())
        for each in self._door.outward.through([value]):
            place = int(self._inner.append(each))
        self._door.after("put", self.name)
        return place

    def read(self, from_sequence: int, limit: int) -> LogRead:
        found: LogRead = self._asked("read", from_sequence, limit)
        if self.name != SCAN_LOG or not found.items:
            return found
        return msgspec.structs.replace(found, items=tuple(self._door.inward.through(list(found.items))))

    def head(self) -> int:
        return int(self._asked("head"))

    def tail(self) -> int:
        return int(self._asked("tail"))


class _Reference(_Part):
    def get(self) -> bytes | None:
        return self._asked("get")  # type: ignore[no-any-return]

    def set(self, value: bytes | None) -> None:
        self._told("set", value)

    def compare_and_set(self, expected: bytes | None, value: bytes | None) -> bool:
        return bool(self._told("compare_and_set", expected, value))


class _Lock(_Part):
    def acquire(self, timeout_s: float | None = None, *, floor: int = 0) -> int:
        self._door.check("lock", self.name)
        fence = int(self._inner.acquire(timeout_s, floor=floor))
        self._door.after("lock", self.name)
        return fence

    def held(self) -> bool:
        return bool(self._asked("held"))

    def release(self) -> None:
        self._door.check("ask", self.name)
        self._inner.release()

    def locked(self) -> bool:
        return bool(self._asked("locked"))

    def __enter__(self) -> int:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()
