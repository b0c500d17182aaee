"""Meta-health, version 3: is the machine itself well, every 10 s; what is stopped is healed (spec 07).

Entry point: `MetaHealthService`. The sensors are `dolphin.risk.health_sensors`, the score is the kernel
`dolphin.risk.machine.meta_health`, restarts are `dolphin.services.recovery`.

Invariants
----------
1. What this service cannot see is a value, never an exception: a manager that does not answer counts no
   service as running, a grid that is away ages its keys.
2. `meta_health.json` is written before the grid is told, and also when there is no grid to tell.
3. Nobody is waited for: the manager is asked on a worker's thread, its last answer counts for 30 s. Ports are
   looked at with one deadline of a quarter of a second.
4. What was ordered or is on its way is no trouble: a manager that was asked to end, a service that is held,
   one inside its start time. The score counts them all the same, and only the alerts let them pass.
5. Restarts do not depend on the score: one stopped service still scores GREEN. Stale data and a lost grid
   raise alerts and start nothing.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.domain.errors import StoreError
from dolphin.grid.near_view import NearView
from dolphin.grid.payloads import Heartbeat, MetaHealth
from dolphin.grid.port import EntryEvent, GridError, Subscription
from dolphin.grid.topics import ACB_BOOST, EXF, HEARTBEAT, META_HEALTH, OBF_UNIVERSE, SCAN, encode
from dolphin.risk.health_sensors import (
    beating,
    coherence,
    control_plane,
    data_freshness,
    data_infra,
    freshness,
)
from dolphin.risk.machine import HEALTH_STATUSES, meta_health
from dolphin.services.durable import write_durably
from dolphin.services.held import HeldServices
from dolphin.services.ports import any_open
from dolphin.services.recovery import STARTABLE, ManagedService, Manager, Recovery
from dolphin.services.service import Context
from dolphin.services.supervision import StoppingError
from dolphin.services.table import critical, healed, table_of
from dolphin.services.worker import DaemonWorker, InlineWorker, Worker

META_HEALTH_FILE: Final = "meta_health.json"
SCHEDULER: Final = "127.0.0.1:4200"
TRADERS: Final = ("trader", "trader_standby")
#: An answer of the manager that is older counts as none.
LOOK_AGE_MAX_NS: Final = 30 * NS_PER_S
#: Real seconds that a check gives the manager before it goes on with the answer before.
LOOK_WAIT_S: Final = 0.5
#: How long the score must be bad to be told, on the machine's clock.
RED_AFTER_NS: Final = 20 * NS_PER_S
#: What a service may take beyond its start seconds before a bad score counts it, on the machine's clock.
START_SLACK_S: Final = 10
#: How often a trouble that lasts is told again.
REMIND_NS: Final = 300 * NS_PER_S
ALERT_BELOW: Final = 0.5
_LOST: Final = ("CRITICAL", "DEAD")

_log = logging.getLogger("dolphin.meta_health")

#: Whether one of these `host:port` takes a connection.
Probe = Callable[[Sequence[str]], bool]


@dataclass(frozen=True, slots=True)
class _Look:
    """What the process manager said, and when; None when it did not answer; stopping: it was asked to end."""

    at_ns: int
    services: tuple[ManagedService, ...] | None
    error: str = ""
    stopping: bool = False


class MetaHealthService:
    """Scores the machinery and heals its data services.

    A simulation gives `manager`, `probe` and `worker` through the context's options, or here; with a manager
    from outside and no worker everything runs inline.
    """

    period_s = 10.0

    def __init__(
        self,
        context: Context,
        *,
        manager: Manager | None = None,
        probe: Probe | None = None,
        worker: Worker | None = None,
    ) -> None:
        self.context = context
        options = context.options
        given = manager if manager is not None else cast("Manager | None", options.get("manager"))
        worker = worker if worker is not None else cast("Worker | None", options.get("worker"))
        self._manager = _Lazy(context) if given is None else given
        self._probe = probe or cast("Probe | None", options.get("probe")) or any_open
        if worker is None and given is not None:
            worker = InlineWorker()
        # Two threads, for a start that takes long must not make the manager look silent.
        self._looker = worker or DaemonWorker("health-look", jobs_max=1)
        self._held = HeldServices(context.home)
        table = table_of(context.settings)
        self._specs = {spec.name: spec for spec in table}
        self._critical, self._healed = critical(table), healed(table)
        self._recovery = Recovery(
            self._manager, context.clock, worker or DaemonWorker("health-restart"), held=self._held.read,
            names=self._healed,
        )  # fmt: skip
        self._look: _Look | None = None
        self._views: dict[str, NearView[Any]] = {}
        self._boost_bytes: bytes | None = None
        self._boost_subscription: Subscription | None = None
        self._troubles: dict[str, int] = {}
        self._red_since_ns: int | None = None
        self._first_check_ns: int | None = None
        self._starting_since: dict[str, int] = {}
        self._stopping = False
        self._pids: dict[str, int] = {}
        self._restarts: dict[str, int] = {}
        self._ordered: set[str] = set()
        self.latest: MetaHealth | None = None

    # what the host asks

    @property
    def phase(self) -> str:
        """See `Service.phase`."""
        return "running"

    def health(self) -> tuple[bool, str]:
        """Blind without the process manager, for then it cannot heal."""
        latest = self.latest
        if latest is None:
            return True, "not checked yet"
        told = f"rm_meta {latest.rm_meta:.2f} {latest.status}"
        look = self._look
        if look is None or look.services is None:
            return False, f"{told}; the process manager does not answer: {'' if look is None else look.error}"
        return True, told

    def gauges(self) -> dict[str, float]:
        """See `Service.gauges`."""
        latest = self.latest
        if latest is None:
            return {}
        return {
            "rm_meta": latest.rm_meta,
            "meta_status": float(HEALTH_STATUSES.index(latest.status)),
            "m1_data_infra": latest.m1_data_infra,
            "m1_trader": latest.m1_trader,
            "m2_heartbeat": latest.m2_heartbeat,
            "m3_data_freshness": latest.m3_data_freshness,
            "m4_control_plane": latest.m4_control_plane,
            "m5_coherence": latest.m5_coherence,
            "restart_attempts": float(self._recovery.attempts),
        }

    # life

    def start(self) -> None:
        """Listen, if the grid is there; else with the first check that finds it."""
        with contextlib.suppress(GridError):
            self._listen()

    def stop(self) -> None:
        """Stop listening."""
        for view in self._views.values():
            view.close()
        self._views.clear()
        if self._boost_subscription is not None:
            self._boost_subscription.close()
            self._boost_subscription = None

    def _listen(self) -> None:
        typed = self.context.grid
        for topic in (EXF, SCAN, OBF_UNIVERSE, HEARTBEAT):
            if topic.key_template not in self._views:
                self._views[topic.key_template] = NearView[Any](typed.grid, topic, typed.rejections)
        if self._boost_subscription is None:
            # As bytes: a breaker outside its range must be seen here, and a typed view would refuse it.
            self._boost_subscription = typed.grid.map(ACB_BOOST.map_template).listen(
                self._on_boost, ACB_BOOST.key_template, initial=True
            )

    def _on_boost(self, event: EntryEvent) -> None:
        self._boost_bytes = event.value

    # one check

    def tick(self) -> None:
        """Look, heal, score, write the file, tell the grid. Raises GridError when the grid is away."""
        with contextlib.suppress(GridError):
            self._listen()
        self._looker.submit(self._ask_manager)
        grid_port = self._probe(self.context.settings.grid_members)
        scheduler_port = self._probe((SCHEDULER,))
        self._looker.idle(LOOK_WAIT_S)
        now_ns = self.context.clock.now_ns()
        if self._first_check_ns is None:
            self._first_check_ns = now_ns
        services, silence = self._services(now_ns)
        self._count_restarts(services)
        self._ordered.update(self._recovery.check(services))
        latest = self._score(now_ns, services, grid_port, scheduler_port)
        self.latest = latest
        self._alert(now_ns, latest, services, grid_port, silence)
        try:
            write_durably(self.context.home.run_logs / META_HEALTH_FILE, encode(latest) + b"\n")
        except StoreError:
            self.context.counts["files_not_written"] += 1
        self.context.grid.put(META_HEALTH, latest)

    def _ask_manager(self) -> None:
        """On the worker's thread."""
        now_ns = self.context.clock.now_ns()
        try:
            self._look = _Look(now_ns, tuple(self._manager.services()))
        except Exception as error:  # whatever its client raises: it does not answer
            stopping = isinstance(error, StoppingError)
            self._look = _Look(now_ns, None, f"{type(error).__name__}: {error}", stopping)

    def _services(self, now_ns: int) -> tuple[tuple[ManagedService, ...], str]:
        """(services, why there are none): the manager's last answer while it is young enough."""
        look = self._look
        if look is None:
            return (), "it has not answered yet"
        if look.services is None:
            return (), look.error
        if abs(now_ns - look.at_ns) > LOOK_AGE_MAX_NS:
            return (), f"its last answer is {abs(now_ns - look.at_ns) // NS_PER_S} s old"
        return look.services, ""

    def _count_restarts(self, services: Sequence[ManagedService]) -> None:
        """Another process than the last one: told, unless it was stopped by an order or started from here."""
        for service in services:
            name, pid = service.name, service.pid or 0
            if service.state == "STOPPED":
                self._ordered.add(name)
            if not pid:
                continue
            if pid != self._pids.get(name, pid):
                self._restarts[name] = self._restarts.get(name, 0) + 1
                if name not in self._ordered:
                    self.context.tell("restart", f"{name} ended and was started again")
            self._pids[name] = pid
            self._ordered.discard(name)

    def _score(
        self,
        now_ns: int,
        services: Sequence[ManagedService],
        grid_port: bool,
        scheduler_port: bool,
    ) -> MetaHealth:
        states = {service.name: service.state for service in services}
        keys = self._keys(now_ns)
        beats = self._beats(now_ns)
        universe = self._reading("obf_universe_latest")
        m1 = data_infra([states.get(name) == "RUNNING" for name in self._critical])
        m2 = beating([
            beats[name][0] if name in beats else None
            for name, state in states.items() if state == "RUNNING" and name != self.context.name
        ])  # fmt: skip
        m3 = data_freshness([key["score"] for key in keys.values()])
        m4 = control_plane(grid_port, scheduler_port)
        boost, beta = self._boost()
        m5 = coherence(boost, beta, None if universe is None else universe.n_assets)
        rm_meta, status = meta_health(m4, m1, m3, m5)
        return MetaHealth(
            rm_meta=rm_meta,
            status=cast(Any, HEALTH_STATUSES[status]),
            m4_control_plane=m4,
            m1_data_infra=m1,
            m1_trader=float(any(states.get(name) == "RUNNING" for name in TRADERS)),
            m2_heartbeat=m2,
            m3_data_freshness=m3,
            m5_coherence=m5,
            service_status=self._service_status(services, beats, grid_port, scheduler_port),
            hz_key_status=keys,
            timestamp=iso_from_ns(now_ns),
        )

    def _reading(self, key: str) -> Any:
        view = self._views.get(key)
        reading = None if view is None else view.read()
        return None if reading is None else reading.payload

    def _keys(self, now_ns: int) -> dict[str, dict[str, Any]]:
        """The watched keys in the order of the page: age (s), score, and a word."""
        ages = {
            "exf_latest": self._age_s("exf_latest", now_ns),
            "acb_boost": None if self._boost_bytes is None else 0.0,
            "latest_eigen_scan": self._age_s("latest_eigen_scan", now_ns),
            "obf_universe_latest": self._age_s("obf_universe_latest", now_ns),
        }
        found: dict[str, dict[str, Any]] = {}
        for key, age_s in ages.items():
            score = freshness(age_s)
            word = "absent" if age_s is None else {1.0: "fresh", 0.5: "late"}.get(score, "stale")
            found[key] = {"score": score, "state": word}
            if age_s is not None and key != "acb_boost":
                found[key]["age_s"] = None if math.isnan(age_s) else round(age_s, 3)
        return found

    def _age_s(self, key: str, now_ns: int) -> float | None:
        """Age of what the key holds by its source's stamp; NaN when the stamp says nothing."""
        payload = self._reading(key)
        if payload is None:
            return None
        # The scan's `timestamp` and `timestamp_ns` are the same instant.
        source_ns = payload.timestamp_ns if key == "latest_eigen_scan" else payload.source_ns()
        return math.nan if source_ns is None else (now_ns - source_ns) / NS_PER_S

    def _beats(self, now_ns: int) -> dict[str, tuple[float, str]]:
        """(age in s, phase) of every service's last heartbeat."""
        view = self._views.get(HEARTBEAT.key_template)
        found: dict[str, tuple[float, str]] = {}
        for key in () if view is None else view.keys():
            reading = view.read(key) if view is not None else None
            if reading is not None and isinstance(reading.payload, Heartbeat):
                age_s = now_ns / NS_PER_S - reading.payload.ts
                found[reading.payload.service] = (age_s, reading.payload.phase)
        return found

    def _boost(self) -> tuple[float | None, float | None]:
        try:
            raw = msgspec.json.decode(self._boost_bytes or b"null")
        except msgspec.DecodeError:
            return None, None
        if not isinstance(raw, dict):
            return None, None
        boost, beta = (raw.get(name) for name in ("boost", "beta"))
        return (
            float(boost) if isinstance(boost, (int, float)) else None,
            float(beta) if isinstance(beta, (int, float)) else None,
        )

    def _service_status(
        self,
        services: Sequence[ManagedService],
        beats: dict[str, tuple[float, str]],
        grid_port: bool,
        scheduler_port: bool,
    ) -> dict[str, Any]:
        held = self._held.read()
        found: dict[str, Any] = {
            "grid_port": {"state": "OPEN" if grid_port else "CLOSED"},
            "scheduler_port": {"state": "OPEN" if scheduler_port else "CLOSED"},
        }
        for service in services:
            status: dict[str, Any] = {
                "state": service.state,
                "group": service.group,
                "critical": service.name in self._critical,
                "held": service.name in held,
                "uptime_s": round((service.uptime_s or 0.0) * self.context.settings.speed, 1),
                "restarts": self._restarts.get(service.name, 0),
            }
            if service.name in beats:
                age_s, phase = beats[service.name]
                status |= {"heartbeat_age_s": round(age_s, 3), "phase": phase}
            found[service.name] = status
        return found

    # telling

    def _alert(
        self,
        now_ns: int,
        latest: MetaHealth,
        services: Sequence[ManagedService],
        grid_port: bool,
        silence: str,
    ) -> None:
        for outcome in self._recovery.outcomes():
            if outcome.error:
                self.context.counts["restarts_failed"] += 1
                self.context.tell("restart", f"{outcome.name} cannot be started: {outcome.error}")
            else:
                self.context.counts["restarts"] += 1
                self.context.tell("restart", f"{outcome.name} was {outcome.before} and was started again")
        m3, m4 = latest.m3_data_freshness, latest.m4_control_plane
        stale = ", ".join(k for k, s in latest.hz_key_status.items() if s["state"] in ("stale", "late"))
        lost = m4 < ALERT_BELOW or not self.context.grid.grid.connected
        why = "nothing listens on its port" if not grid_port else "this service has no connection to it"
        self._trouble(now_ns, "grid", lost, f"the grid is lost: {why}", "the grid is back")
        self._trouble(
            now_ns, "stale_data", m3 < ALERT_BELOW,
            f"data are stale (freshness {m3:.2f}): {stale}", "data are fresh again",
        )  # fmt: skip
        stopping = self._look is not None and self._look.stopping
        if stopping and not self._stopping:
            _log.info("the process manager was asked to end, and ends every service")
        self._stopping = stopping
        # The machine is busy while a system starts: a first answer may take its time.
        unheard = self._look is None and now_ns - (self._first_check_ns or 0) < LOOK_AGE_MAX_NS
        self._trouble(
            now_ns, "manager", bool(silence) and not stopping and not unheard,
            f"the process manager does not answer, nothing can be healed: {silence}",
            "the process manager answers again",
        )  # fmt: skip
        if not self._is_red(now_ns, latest, services) or stopping:
            self._red_since_ns = None
        elif self._red_since_ns is None or now_ns < self._red_since_ns:
            self._red_since_ns = now_ns
        lasts_ns = RED_AFTER_NS * self.context.settings.speed
        red = self._red_since_ns is not None and now_ns - self._red_since_ns >= lasts_ns
        self._trouble(
            now_ns, "red", red,
            f"meta-health is {latest.status}: {latest.rm_meta:.2f}", f"meta-health is {latest.status} again",
        )  # fmt: skip
        held = self._held.read()
        for service in services:
            name, state = service.name, service.state
            gone = state in STARTABLE and state != "STOPPED" and name not in held
            if gone and name in self._specs and name not in self._healed and self._recovery.due(name):
                self.context.tell("service", f"{name} is {state}; only the operator starts it again")

    def _is_red(self, now_ns: int, latest: MetaHealth, services: Sequence[ManagedService]) -> bool:
        """Whether the score is bad, and would be so with everything there that is on its way or held."""
        states = {service.name: service.state for service in services}
        excused = self._excused(now_ns, states)
        if latest.status not in _LOST or not excused:
            return latest.status in _LOST
        m1 = data_infra([states.get(name) == "RUNNING" or name in excused for name in self._critical])
        _, status = meta_health(latest.m4_control_plane, m1, latest.m3_data_freshness, latest.m5_coherence)
        return HEALTH_STATUSES[status] in _LOST

    def _excused(self, now_ns: int, states: Mapping[str, str]) -> set[str]:
        """Critical services that do not run, and rightly so.

        The start time counts from the first start that was seen since the service ran, so that one which dies
        again and again at its start is excused once.
        """
        found = set()
        for name in self._critical:
            state = states.get(name)
            if state == "RUNNING":
                self._starting_since.pop(name, None)
            elif state == "STARTING":
                since_ns = self._starting_since.setdefault(name, now_ns)
                start_s = (self._specs[name].start_seconds + START_SLACK_S) * self.context.settings.speed
                if 0 <= now_ns - since_ns <= start_s * NS_PER_S:
                    found.add(name)
        return found | (set(self._held.read()) & set(self._critical))

    def _trouble(self, now_ns: int, kind: str, is_there: bool, text: str, over: str) -> None:
        """Tell a trouble when it begins, every five minutes while it lasts, and when it is over."""
        since = self._troubles.get(kind)
        if not is_there:
            if since is not None:
                del self._troubles[kind]
                self.context.tell(kind, over)
        elif since is None or not 0 <= now_ns - since < REMIND_NS:
            self._troubles[kind] = now_ns
            self.context.tell(kind, text)


class _Lazy:
    """The process manager of this home, met when it is first asked: it may not be there yet."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._made: Manager | None = None

    def _manager(self) -> Manager:
        if self._made is None:
            from dolphin.services.supervision import Supervisor

            self._made = Supervisor(self._context.home)
        return self._made

    def services(self) -> Sequence[ManagedService]:
        return self._manager().services()

    def start_service(self, name: str) -> object:
        return self._manager().start_service(name)
