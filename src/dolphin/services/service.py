"""What a service is: something that is started, ticked and stopped, with its time and grid from outside.

Entry points: `Service`, `Context`, `Hosted` (one service with its heartbeat), `Alert`.

A service has no thread and no clock of its own. The process host (`dolphin.services.process`) ticks it on
real time; the simulation ticks a dozen of them on one virtual clock. Both go through `Hosted.step`, so that
what is proven in simulation is what runs.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dolphin.domain.clock import NS_PER_S
from dolphin.grid.payloads import Heartbeat
from dolphin.grid.port import ConnectionEvent, ConnectionState, GridError
from dolphin.grid.topics import HEARTBEAT, HEARTBEAT_LATEST
from dolphin.grid.typed import TypedGrid
from dolphin.services.circuit import Circuit
from dolphin.services.clock import Clock
from dolphin.services.home import Home, SystemSettings

HEARTBEAT_EVERY_NS = 5 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a person should be told: kind is a word that de-duplicates, text one line.

    Kinds in use: posture, red, stale_scan, restart, invariant, trade, oracle, fence, grid, stale_data,
    kill_switch, leader, resources, manager, service, alerts.
    """

    kind: str
    text: str
    service: str
    timestamp_ns: int


@dataclass(slots=True)
class Context:
    """What a service gets from its host."""

    name: str
    home: Home
    settings: SystemSettings
    clock: Clock
    grid: TypedGrid
    #: Where alerts go: the log, then the notifier.
    alert: Callable[[Alert], None] = lambda alert: None
    #: Counters, exported as metrics as they stand.
    counts: Counter[str] = field(default_factory=Counter)
    #: What this process alone was asked for, by name: `dry_run` of a trader, a manager of a simulation.
    options: Mapping[str, object] = field(default_factory=dict)
    #: Set by listeners: the service is ticked at once instead of at its next period.
    wake: threading.Event = field(default_factory=threading.Event)

    def tell(self, kind: str, text: str) -> None:
        """Raise an alert now."""
        self.alert(Alert(kind, text, self.name, self.clock.now_ns()))


class Service(Protocol):
    """One part of the system, driven by its host."""

    #: Seconds between two ticks, on the system's clock.
    period_s: float

    def start(self) -> None:
        """Restore what is durable and subscribe. Raises DolphinError when it may not run."""
        ...

    def tick(self) -> None:
        """Do what is due now. A GridError means that the grid is away: the host counts it and comes again."""
        ...

    def stop(self) -> None:
        """Keep what has to be kept and let go. The grid may be away."""
        ...

    @property
    def phase(self) -> str:
        """One word for the heartbeat: `warmup`, `running`, `standby`, `halted`."""
        ...

    def health(self) -> tuple[bool, str]:
        """(is it doing its work, one line why): the answer of the health endpoint."""
        ...

    def gauges(self) -> dict[str, float]:
        """Values for the metrics, by name."""
        ...


class Hosted:
    """A service with its heartbeat, as every host runs it."""

    def __init__(self, service: Service, context: Context) -> None:
        self.service = service
        self.context = context
        self.due_ns = 0
        self.last_tick_ns: int | None = None
        self.grid_error = ""
        self.beats = Circuit()
        #: A dry run writes nothing, not even that it lives.
        self.silent = bool(context.options.get("dry_run", False))
        self._beat_ns: int | None = None

    def start(self) -> None:
        """Start the service; it is due at once."""
        self.context.grid.grid.on_connection(self._on_connection)
        self.service.start()
        self.due_ns = self.context.clock.now_ns()

    def step(self) -> None:
        """Tick if it is due or was woken, and send the heartbeat. Raises what the service raises, but for
        the grid's absence.
        """
        context = self.context
        now_ns = context.clock.now_ns()
        period_ns = int(self.service.period_s * NS_PER_S)
        # A clock that was set back must not silence a service until the old time comes again.
        if self.due_ns - now_ns > period_ns:
            self.due_ns = now_ns
        if context.wake.is_set() or now_ns >= self.due_ns:
            context.wake.clear()
            self.due_ns = now_ns + period_ns
            self._guarded(self.service.tick)
            self.last_tick_ns = now_ns
        if self._beat_ns is None or not 0 <= now_ns - self._beat_ns < HEARTBEAT_EVERY_NS:
            self._beat_ns = now_ns
            if not self.silent and self.beats.allows(now_ns):
                self._guarded(lambda: self._beat(now_ns))

    def wait_s(self) -> float:
        """Seconds until the next step is due, on the system's clock."""
        now_ns = self.context.clock.now_ns()
        beat_ns = now_ns if self._beat_ns is None else self._beat_ns + HEARTBEAT_EVERY_NS
        return max(0.0, min(self.due_ns, beat_ns) - now_ns) / NS_PER_S

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except GridError as error:
            self.context.counts["grid_errors"] += 1
            self.grid_error = str(error)
        else:
            self.grid_error = ""

    def _beat(self, now_ns: int) -> None:
        # A service that warms up tells how far it is: bars, of how many.
        bars, of = getattr(self.service, "progress", None) or (None, None)
        beat = Heartbeat.at(self.context.name, self.service.phase, now_ns, bars=bars, of=of)
        try:
            self.context.grid.put(HEARTBEAT, beat, service=self.context.name)
            self.context.grid.put(HEARTBEAT_LATEST, beat)
        except GridError:
            self.beats.failed(now_ns)
            raise
        self.beats.succeeded()

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event.state is ConnectionState.CONNECTED:
            # A grid that is back is told at once, whatever the back-off still wants.
            self.beats.succeeded()
            self._beat_ns = None
