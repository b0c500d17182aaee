"""One simulated process: a service of the table with its door to the grid, its files, and its death."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import DolphinError
from dolphin.grid.port import GridError, GridUnreachable
from dolphin.grid.typed import TypedGrid
from dolphin.services.member_config import SESSION_TTL_S
from dolphin.services.service import Alert, Context, Hosted
from dolphin.services.table import BY_NAME

from .doors import Door, Killed

if TYPE_CHECKING:
    from .world import World

SESSION_NS = SESSION_TTL_S * NS_PER_S
#: Between two tries to start without a grid.
BACK_OFF_NS = 2 * NS_PER_S


@dataclass
class Crash:
    """A kill planned at the n-th passing of a site: before it, or right after it.

    unanswered: it is not killed, but never hears what came of its call. frozen_s: it is not killed, but
    stopped for so long, there and then.
    """

    site: str
    match: str
    n: int = 1
    after: bool = False
    unanswered: bool = False
    frozen_s: float = 0.0

    def told(self) -> str:
        """For the trace."""
        what = "hears no answer" if self.unanswered else "is stopped" if self.frozen_s else "is killed"
        return f"{what} {'after' if self.after else 'before'} {self.site} {self.match}".rstrip()


class Process:
    """One life of a process; a new one is made for a new life."""

    def __init__(self, world: World, name: str, life: int) -> None:
        self.world, self.name, self.life = world, name, life
        self.dead = False
        self.crash: Crash | None = None
        self.files: list[sqlite3.Connection] = []
        self.paused = self.was_frozen = False
        self.peer = world.memory.peer()
        self.door = Door(self.peer, self, random.Random(f"{world.seed}/{name}/{life}"))
        if world.grid_down:
            self.peer.drop_connection()
        self.next_ns = world.true_ns
        self.hosted: Hosted | None = None
        self.context = Context(
            name, world.home, world.settings, world.clock, TypedGrid(self.door), self._alert,
            options={"manager": world.manager, "probe": lambda addresses: not world.grid_down,
                     "world": world},
        )  # fmt: skip

    def _alert(self, alert: Alert) -> None:
        self.world.tell(f"{self.name}: {alert.kind}: {alert.text}")
        self.world.counts[f"alert_{alert.kind}"] += 1

    @property
    def runs(self) -> bool:
        """Whether it gets time."""
        return not self.dead and not self.paused

    @property
    def service(self) -> Any:
        """The service, None before it started."""
        return None if self.hosted is None else self.hosted.service

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Its code runs: what it opens is its own, and a kill ends it and nobody else."""
        before, self.world.current = self.world.current, self
        try:
            yield
        except Killed:
            self.dead = True
        finally:
            self.world.current = before

    def passing(self, site: str, text: str, *, after: bool = False) -> None:
        """See `doors.Owner`."""
        plan = self.crash
        if plan is None or self.dead or plan.site != site or plan.after != after or plan.match not in text:
            return
        plan.n -= 1
        if plan.n <= 0:
            self.crash = None
            self.world.tell(f"{self.name} {plan.told()}")
            if plan.unanswered:
                raise GridUnreachable("no answer came")
            if plan.frozen_s:
                self._freeze(plan.frozen_s)
                return
            self.dead = True
            raise Killed

    def telling(self, where: str, value: bytes) -> None:
        """See `doors.Owner`."""
        self.world.told(self.name, where, value)

    def _freeze(self, seconds: float) -> None:
        """The others go on; this step goes on when they have."""
        world = self.world
        self.pause()
        world.at(world.true_ns + SESSION_NS, self.expire_if_paused)
        world.current = None
        world.run_to(world.true_ns + int(seconds * NS_PER_S))
        world.current, self.paused, self.was_frozen = self, False, True
        world.tell(f"{self.name} goes on in its step")
        self._hear()

    def expire_if_paused(self) -> None:
        """Its session has run out, which it does not know."""
        if self.paused:
            self.peer.expire_session()

    def step(self) -> None:
        """One turn of its host's loop."""
        self.was_frozen = False
        with self.entered():
            try:
                if self.hosted is None:
                    self._start()
                else:
                    self.hosted.step()
            except GridError as error:
                # Only a start raises it: the host waits for the grid.
                self.world.tell(f"{self.name} waits for the grid: {error}")
                self.hosted = None
                self.next_ns = self.world.true_ns + BACK_OFF_NS
                return
            except DolphinError as error:
                if not self.dead:
                    self.world.tell(f"{self.name} ends by itself: {type(error).__name__}: {error}")
                    self.world.ended_by_itself(self.name, str(error))
                self.dead = True
            if self.hosted is not None:
                wait_ns = max(int(self.hosted.wait_s() * NS_PER_S), NS_PER_S // 100)
                self.next_ns = self.world.true_ns + wait_ns

    def _start(self) -> None:
        self.hosted = Hosted(self.world.make(self.name, self.context), self.context)
        self.hosted.start()
        self.world.tell(f"{self.name} runs, life {self.life}")

    def pause(self) -> None:
        """SIGSTOP: no turn, and no event is looked at; they wait in its sockets."""
        self.paused = True
        self.peer._dispatcher.drain = lambda: None  # type: ignore[method-assign]

    def resume(self, look_first: bool) -> None:
        """SIGCONT. look_first: its events are delivered before its own turn, or after it."""
        self.paused = False
        if not look_first:
            self.step()
        self._hear()

    def _hear(self) -> None:
        if "drain" in self.peer._dispatcher.__dict__:
            del self.peer._dispatcher.drain
        self.peer._dispatcher.drain()

    def bury(self) -> None:
        """What the kernel does for the dead: files are closed, what was not committed is gone."""
        self.dead = True
        trader = getattr(self.service, "_trader", None)
        journal = getattr(trader, "journal", None)
        lock = getattr(journal, "_lock", None)
        if lock is not None:
            journal._lock = None
            os.close(lock)
        pipeline = getattr(self.service, "_pipeline", None)
        if pipeline is not None:
            pipeline.close()
        for connection in self.files:
            sqlite3.Connection.close(connection)
        self.files.clear()


def restarted_by_manager(name: str) -> bool:
    """Whether the process manager starts it again after a crash."""
    return BY_NAME[name].autorestart
