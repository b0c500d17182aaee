"""Nothing blocks between a bar and its decision: the real trader service under a guard that forbids to.

The guard is on from the moment a bar's senses are read to the moment its decision is there, on the deciding
thread alone. It refuses every call of the grid, every file that is opened, every socket, every wait. What the
journal writes afterwards is durable on purpose and outside. That it would catch a blocking call is shown by
planting some.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_trader_books import publish_books, write_file
from test_trader_service import MARKET, System

from dolphin.domain.clock import iso_from_ns
from dolphin.domain.codes import ACTION_ENTER, ACTION_EXIT
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.payloads import EsofPayload
from dolphin.grid.topics import ESOF
from dolphin.services.trader import Trader
from dolphin.services.trader_service import TraderService

#: Events of the interpreter that a decision must not cause; a socket's own calls are events too.
FORBIDDEN = (
    "open", "socket.", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "sqlite3.",
    "subprocess.", "fcntl.", "shutil.", "time.sleep", "urllib.", "http.",
)  # fmt: skip


class BlockedError(Exception):
    """Somebody would have waited. It is on the guard's list too, for whoever swallows it."""


class Guard:
    """Says no while a decision is made, on the thread that makes it."""

    def __init__(self) -> None:
        self._deciding = threading.local()
        self.windows = 0
        self.refused: list[str] = []

    @property
    def on(self) -> bool:
        return bool(getattr(self._deciding, "on", False))

    def begin(self) -> None:
        self._deciding.on = True
        self.windows += 1

    def end(self) -> None:
        self._deciding.on = False

    def refuse(self, what: str) -> None:
        if self.on:
            self.end()
            self.refused.append(what)
            raise BlockedError(f"{what} between a bar and its decision")

    def wrap(self, owner: Any, name: str) -> Callable[..., Any]:
        """The same function, refused while a decision is made."""
        real = getattr(owner, name)

        def guarded(*args: Any, **given: Any) -> Any:
            self.refuse(f"{getattr(owner, '__name__', owner)}.{name}")
            return real(*args, **given)

        return guarded


_GUARDS: list[Guard] = []


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _GUARDS and event.startswith(FORBIDDEN):
        for guard in _GUARDS:
            guard.refuse(f"{event} {args[:1]}")


_HOOKED: list[bool] = []


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    made = Guard()
    if not _HOOKED:
        # A hook cannot be taken back: it asks who guards.
        sys.addaudithook(_audit)
        _HOOKED.append(True)
    grid = InProcessGrid()
    kinds = {
        type(grid.map("any")): ("get", "get_all", "put", "put_all", "delete", "keys", "entries"),
        type(grid.atomic_reference("any")): ("get", "set", "compare_and_set"),
        type(grid.lock("any")): ("acquire", "release", "locked", "held"),
        type(grid.log("any")): ("append", "read"),
    }
    for kind, names in kinds.items():
        for name in names:
            if hasattr(kind, name):
                monkeypatch.setattr(kind, name, made.wrap(kind, name))
    waits = (
        (time, "sleep"), (threading.Event, "wait"), (threading.Condition, "wait"), (threading.Thread, "join"),
        (select, "select"), (socket.socket, "recv"), (socket.socket, "send"), (socket.socket, "sendall"),
    )  # fmt: skip
    for owner, name in waits:
        monkeypatch.setattr(owner, name, made.wrap(owner, name))
    sense, decide = Trader._sense, Trader._decide

    def guarded_sense(self: Trader, *args: Any) -> Any:
        made.begin()
        return sense(self, *args)

    def guarded_decide(self: Trader, *args: Any) -> Any:
        try:
            return decide(self, *args)
        finally:
            made.end()

    monkeypatch.setattr(Trader, "_sense", guarded_sense)
    monkeypatch.setattr(Trader, "_decide", guarded_decide)
    _GUARDS.append(made)
    yield made
    made.end()
    _GUARDS.remove(made)


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path)
    yield made
    made.close()


def say_all(system: System, k: int) -> None:
    """Every organ and every book says something new."""
    now = iso_from_ns(system.clock.now_ns())
    system.posture("APEX")
    system.door.put(ESOF, EsofPayload(score=0.3 * (-1) ** k, timestamp=now))
    publish_books(system, k)


def run(system: System, trader: TraderService, n_bars: int, say: Callable[[System, int], None]) -> None:
    for k in range(n_bars):
        system.clock.move_to(MARKET[k].timestamp_ns)
        say(system, k)
        system.scan(MARKET[k])
        trader.tick()


def test_a_trader_decides_without_waiting_for_anybody(system: System, guard: Guard) -> None:
    trader = system.trader()
    run(system, trader, len(MARKET), say_all)
    trader.stop()
    decisions = system.decisions()
    assert guard.refused == []
    assert guard.windows >= len(decisions) == len(MARKET)
    assert {d.books for d in decisions} == {"grid"}
    assert {d.esof for d in decisions} == {"ok"}
    assert {ACTION_ENTER, ACTION_EXIT} <= {d.action for d in decisions}


def test_nor_for_the_file_of_books(system: System, guard: Guard) -> None:
    trader = system.trader()

    def say(system: System, k: int) -> None:
        write_file(system, k)
        trader.book_file.refresh()

    run(system, trader, 100, say)
    trader.stop()
    assert guard.refused == []
    assert {d.books for d in system.decisions()} == {"file"}


def test_nor_with_the_grid_away(system: System, guard: Guard) -> None:
    trader = system.trader()
    run(system, trader, 50, say_all)
    system.peers[0].drop_connection()
    for k in range(50, 100):
        system.scan(MARKET[k])
        with contextlib.suppress(Exception):
            trader.tick()
    trader.stop()
    assert guard.refused == []
    assert guard.windows >= 100


def grid_get(system: System) -> None:
    system.peers[0].map("DOLPHIN_FEATURES").get("esof_latest")


def read_file(system: System) -> None:
    system.home.settings_file.with_name("any").write_text("read")


def connect(system: System) -> None:
    with socket.socket() as made:
        made.connect_ex(("127.0.0.1", 9))


def nap(system: System) -> None:
    pause = time.sleep
    pause(0.001)


PLANTED = {
    "grid get": grid_get,
    "grid lock": lambda system: system.peers[0].lock("any").acquire(1.0),
    "file": read_file,
    "socket": connect,
    "sleep": nap,
    "event": lambda system: threading.Event().wait(0.001),
    "join": lambda system: threading.Thread(target=int).join(),
}


@pytest.mark.parametrize("what", PLANTED)
@pytest.mark.parametrize("where", ["senses", "organs"])
def test_a_blocking_call_that_somebody_puts_there_is_caught(
    what: str, where: str, system: System, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    trader = system.trader()
    run(system, trader, 5, say_all)
    assert trader.trader is not None
    assert guard.refused == []
    owner: Any = trader.trader._senses if where == "senses" else trader.trader.organs
    name = "sense" if where == "senses" else "inputs"
    real = getattr(owner, name)

    def planted(*args: Any, **given: Any) -> Any:
        PLANTED[what](system)
        return real(*args, **given)

    monkeypatch.setattr(owner, name, planted)
    system.scan(MARKET[5])
    with pytest.raises(BlockedError):
        trader.tick()
    assert len(guard.refused) == 1
