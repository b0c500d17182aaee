"""Restarts of stopped data services, through the process manager and from a worker's thread (spec 07).

Entry points: `Recovery`, and `Manager`, all that is asked of a process manager.

Invariants
----------
1. Only a data service that the table calls critical or healed is started, and only when it is STOPPED,
   EXITED or FATAL. One that runs, starts, backs off or stops is never touched; a trader, a scanner or a
   bridge is shown and never started.
2. The time of an attempt is stamped before it, under a lock: any number of concurrent checks fire one.
3. A manager that is slow or away delays no check: it is asked on the worker's thread, and what came of it is
   fetched with `outcomes`.
4. What the operator stopped on purpose stays stopped.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from dolphin.domain.clock import NS_PER_S
from dolphin.services.clock import Clock
from dolphin.services.table import SERVICES, healed
from dolphin.services.worker import Worker

#: Given up or stopped: nobody but this service and the operator starts it.
STARTABLE: Final = frozenset({"STOPPED", "EXITED", "FATAL"})
COOLDOWN_CRITICAL_NS: Final = 10 * NS_PER_S
#: For what is never restarted automatically: how often its state is told again.
COOLDOWN_OTHER_NS: Final = 300 * NS_PER_S


class ManagedService(Protocol):
    """What a process manager says of one service."""

    @property
    def name(self) -> str:
        """As in the table of services."""
        ...

    @property
    def group(self) -> str:
        """As in the table of services."""
        ...

    @property
    def state(self) -> str:
        """STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL or UNKNOWN."""
        ...

    @property
    def pid(self) -> int:
        """Process id, 0 without a process."""
        ...

    @property
    def uptime_s(self) -> float:
        """Seconds since it was started, 0 without a process."""
        ...


class Manager(Protocol):
    """What is asked of the process manager. Either call may take long and may raise anything."""

    def services(self) -> Sequence[ManagedService]:
        """All services that it manages."""
        ...

    def start_service(self, name: str) -> object:
        """Start one."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt; error is empty when the manager took it."""

    name: str
    before: str
    error: str


class Recovery:
    """Restarts what is stopped and is to be healed. Checks may come from any number of threads."""

    def __init__(
        self,
        manager: Manager,
        clock: Clock,
        worker: Worker,
        *,
        held: Callable[[], Collection[str]] = frozenset,
        names: Collection[str] = healed(SERVICES),
    ) -> None:
        self._manager = manager
        self._clock = clock
        self._worker = worker
        self._held = held
        self._names = frozenset(names)
        self._turn = threading.Lock()
        self._stamps: dict[str, int] = {}
        self._outcomes: deque[Outcome] = deque(maxlen=100)
        self.attempts = 0

    def check(self, services: Sequence[ManagedService]) -> tuple[str, ...]:
        """Fire a restart for each service that needs one and is not cooling down; their names."""
        wanted = [s for s in services if s.name in self._names and s.state in STARTABLE]
        if not wanted:
            return ()
        held = self._held()
        return tuple(
            s.name for s in wanted if s.name not in held and self._stamp(s.name) and self._fire(s.name)
        )

    def due(self, name: str) -> bool:
        """Whether something that is never restarted here may be told again; stamps it when so."""
        return self._stamp(name)

    def outcomes(self) -> list[Outcome]:
        """What came of the attempts since the last call."""
        found: list[Outcome] = []
        while self._outcomes:
            found.append(self._outcomes.popleft())
        return found

    def _stamp(self, name: str) -> bool:
        cooldown_ns = COOLDOWN_CRITICAL_NS if name in self._names else COOLDOWN_OTHER_NS
        now_ns = self._clock.now_ns()
        with self._turn:
            last_ns = self._stamps.get(name)
            # A clock that was set back must not keep a service down until the old time comes again.
            if last_ns is not None and 0 <= now_ns - last_ns < cooldown_ns:
                return False
            self._stamps[name] = now_ns
            return True

    def _fire(self, name: str) -> bool:
        with self._turn:
            self.attempts += 1
        if self._worker.submit(lambda: self._restart(name)):
            return True
        self._outcomes.append(
            Outcome(name, "", "the process manager still has not answered earlier requests")
        )
        return False

    def _restart(self, name: str) -> None:
        """On the worker's thread: look once more, for the check may be old by now, then start."""
        state = ""
        try:
            state = next((s.state for s in self._manager.services() if s.name == name), "")
            if state not in STARTABLE or name in self._held():
                return
            self._manager.start_service(name)
        except Exception as error:  # whatever the manager's client raises must not end the healing
            self._outcomes.append(Outcome(name, state, f"{type(error).__name__}: {error}"))
        else:
            self._outcomes.append(Outcome(name, state, ""))
