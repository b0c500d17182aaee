"""Collects the facts of a system for `dolphin status`: reads only, starts nothing, waits for nobody for long.

Entry point: `Collector`. Every source is asked on a thread of its own; what has not answered when the time is
over is told as such. So the answer comes within a few seconds in any state of ruin.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from dolphin.domain.clock import NS_PER_S, ns_from_iso
from dolphin.domain.errors import DolphinError
from dolphin.services.alert_journal import read_alerts
from dolphin.services.clock import SystemClock
from dolphin.services.facts import (
    AlertFact,
    Facts,
    GridFact,
    HealthFact,
    PositionFact,
    SafetyFact,
    ServiceFact,
    SwitchFact,
    TraderFact,
)
from dolphin.services.held import HeldServices
from dolphin.services.home import Home, SystemSettings
from dolphin.services.kill_switch import DAMAGED, ORACLE, KillSwitch, SwitchState
from dolphin.services.meta_health import META_HEALTH_FILE
from dolphin.services.orphans import living
from dolphin.services.ports import any_open
from dolphin.services.senses_facts import read_senses, senses_of
from dolphin.services.table import table_of

#: Real seconds for all sources together, and for a first connection to the grid.
TOGETHER_S: Final = 2.2
CONNECT_S: Final = 1.6
ALERTS_SHOWN: Final = 5

OpenGrid = Callable[[SystemSettings], Any]


class Collector:
    """Asks one home, as often as wanted; the connection to the grid is kept in between.

    Parameters
    ----------
    home : as the person wrote it.
    manager, open_grid : for tests; by default the home's supervisord and a client of its grid.
    """

    def __init__(
        self,
        home: str,
        *,
        manager: Any = None,
        open_grid: OpenGrid | None = None,
        together_s: float = TOGETHER_S,
    ) -> None:
        self._name = home
        self._home = Home(Path(home).absolute())
        self._manager = manager
        self._open_grid = open_grid or _open_grid
        self._together_s = together_s
        self._grid: Any = None
        self._asking: set[str] = set()

    def close(self) -> None:
        """Let the grid go, without waiting for it."""
        grid, self._grid = self._grid, None
        if grid is not None:
            threading.Thread(target=grid.close, name="grid-close", daemon=True).start()

    def collect(self) -> Facts:
        """The facts now. Never raises for what is broken: that is a fact."""
        began = time.monotonic()
        now_ns = time.time_ns()
        if not self._home.settings_file.exists():
            there = self._home.root.is_dir() and any(self._home.root.iterdir())
            trouble = (
                f"{self._name} holds files and no system.json: no system's folder, or its settings are lost"
            )
            return Facts(
                home=self._name, now_ns=now_ns, home_there=there, settings_trouble=trouble if there else ""
            )
        try:
            settings = self._home.load()
        except DolphinError as error:
            return Facts(home=self._name, now_ns=now_ns, settings_trouble=str(error))
        clock = SystemClock(settings.speed, settings.clock_origin_ns)
        sources: dict[str, Callable[[], Any]] = {
            "manager": self._ask_manager,
            "grid": lambda: self._ask_grid(settings, clock),
            "journal": lambda: _journal(self._home, clock.now_ns()),
            "files": lambda: self._files(clock.now_ns()),
        }
        found = self._ask(sources, began + self._together_s)
        return self._put_together(settings, clock, found, began)

    def _ask(self, sources: dict[str, Callable[[], Any]], until: float) -> dict[str, Any]:
        """What each source answers by then: a value, the exception it raised, or nothing."""
        found: dict[str, Any] = {}
        threads: list[threading.Thread] = []
        for name, source in sources.items():
            if name in self._asking:
                continue  # a question of an earlier look still hangs
            self._asking.add(name)

            def ask(name: str = name, source: Callable[[], Any] = source) -> None:
                try:
                    found[name] = source()
                except Exception as error:  # a broken source is a fact
                    found[name] = error
                finally:
                    self._asking.discard(name)

            threads.append(threading.Thread(target=ask, name=f"status-{name}", daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        return dict(found)

    # sources

    def _ask_manager(self) -> Any:
        if self._manager is None:
            from dolphin.services.supervision import Supervisor

            self._manager = Supervisor(self._home)
        return list(self._manager.services())

    def _ask_grid(self, settings: SystemSettings, clock: SystemClock) -> dict[str, Any]:
        port_open = any_open(settings.grid_members)
        if not port_open:
            return {"port_open": False}
        try:
            if self._grid is None:
                self._grid = self._open_grid(settings)
            return {"port_open": True, **_grid(self._grid, settings)}
        except DolphinError as error:
            return {"port_open": True, "trouble": str(error)}

    def _files(self, now_ns: int) -> dict[str, Any]:
        health: Any = None
        with contextlib.suppress(OSError, msgspec.DecodeError):
            health = msgspec.json.decode((self._home.run_logs / META_HEALTH_FILE).read_bytes())
        return {
            "health": health if isinstance(health, dict) else None,
            "switch": KillSwitch(self._home.kill_switch).read(),
            "held": HeldServices(self._home).read(),
            "living": living(self._home),
            "alerts": [
                AlertFact(age_s=_age_s(a.at_ns, now_ns), kind=a.kind, service=a.service, text=a.text)
                for a in read_alerts(self._home, ALERTS_SHOWN)
            ],
            "disk_free_mb": shutil.disk_usage(self._home.root).free / 1e6,
        }

    # together

    def _put_together(
        self, settings: SystemSettings, clock: SystemClock, found: dict[str, Any], began: float
    ) -> Facts:
        now_ns = clock.now_ns()
        files = found.get("files")
        files = files if isinstance(files, dict) else {}
        grid = found.get("grid", TimeoutError("it did not answer in time"))
        grid_trouble = str(grid) if isinstance(grid, Exception) else str(grid.get("trouble", ""))
        grid = {} if isinstance(grid, Exception) else grid
        # Unknown is not open: but a question that hangs was put to something that took the connection.
        port_open = bool(grid.get("port_open", "grid" not in found))
        said = found.get("manager")
        heard = [_health(source.get("health"), now_ns) for source in (grid, files)]
        health = min((each for each in heard if each is not None), key=lambda each: each.age_s, default=None)
        trader = found.get("journal", TimeoutError("it did not answer in time"))
        trader_trouble = str(trader) if isinstance(trader, Exception) else ""
        trader = None if isinstance(trader, Exception) else trader
        switch = files.get("switch")
        scan = grid.get("scan")
        return Facts(
            home=self._name,
            now_ns=now_ns,
            manager="silent" if said is None else "down" if isinstance(said, Exception) and _is_away(said)
            else "silent" if isinstance(said, Exception) else "up",
            manager_trouble="it did not answer in time" if said is None
            else str(said) if isinstance(said, Exception) else "",
            services=_services(said, grid, files, now_ns, settings),
            table=tuple(spec.name for spec in table_of(settings)),
            grid=GridFact(
                connected="nodes" in grid, port_open=port_open, nodes=grid.get("nodes", 0),
                members=settings.grid_members, ours=settings.members, trouble=grid_trouble,
            ),
            safety=_safety(grid.get("safety"), now_ns),
            switch=None if switch is None else _switch(switch),
            trader=trader if trader is not None else _from_grid(grid, now_ns),
            trader_trouble=trader_trouble,
            scan_age_s=None if scan is None else _age_s(scan.timestamp_ns, now_ns),
            scan_number=None if scan is None else scan.scan_number,
            health=health,
            senses=senses_of(grid.get("senses"), grid.get("engine"), now_ns),
            alerts=tuple(files.get("alerts", ())),
            disk_free_mb=files.get("disk_free_mb"),
            speed=settings.speed,
            took_s=time.monotonic() - began,
        )  # fmt: skip


def _switch(state: SwitchState) -> SwitchFact:
    oracle = state.engaged.get(ORACLE)
    return SwitchFact(
        state=state.state,
        by=state.by,
        reason=state.reason,
        told=state.told(),
        oracle="" if oracle is None else oracle.reason,
        damaged=DAMAGED in state.engaged,
    )


def _is_away(error: Exception) -> bool:
    """Nothing listens on the manager's socket; anything else is a manager that is there and ails."""
    return isinstance(error.__cause__, (FileNotFoundError, ConnectionRefusedError))


def _open_grid(settings: SystemSettings) -> Any:
    from dolphin.services.grid_client import open_grid

    return open_grid(settings, connect_timeout_s=CONNECT_S)


def _age_s(stamp_ns: int, now_ns: int) -> float:
    return (now_ns - stamp_ns) / NS_PER_S


def _grid(grid: Any, settings: SystemSettings) -> dict[str, Any]:
    """What the grid shows. Raises GridError."""
    from dolphin.grid.payloads import PayloadRejected
    from dolphin.grid.topics import (
        ENGINE_SNAPSHOT,
        HEARTBEAT,
        META_HEALTH,
        SAFETY,
        SAFETY_REFERENCE,
        SCAN,
        STATE,
    )  # fmt: skip
    from dolphin.grid.typed import TypedGrid

    typed = TypedGrid(grid)
    where = {"deployment": settings.deployment}
    found: dict[str, Any] = {"beats": {}}
    for name, topic, parts in (
        ("scan", SCAN, {}), ("safety", SAFETY, {}), ("health", META_HEALTH, {}),
        ("engine", ENGINE_SNAPSHOT, where), ("state", STATE, where),
    ):  # fmt: skip
        with contextlib.suppress(PayloadRejected):
            found[name] = typed.get(cast(Any, topic), **parts)
    data = grid.atomic_reference(SAFETY_REFERENCE).get()
    if data is not None:
        with contextlib.suppress(PayloadRejected):
            found["safety"] = _newer(SAFETY.decode(SAFETY_REFERENCE, "latest", data), found.get("safety"))
    for key, value in grid.map(HEARTBEAT.map_template).entries().items():
        if HEARTBEAT.covers(HEARTBEAT.map_template, key):
            with contextlib.suppress(PayloadRejected):
                beat = HEARTBEAT.decode(HEARTBEAT.map_template, key, value)
                found["beats"][beat.service] = beat
    found["senses"] = read_senses(typed)
    found["nodes"] = grid.nodes
    return found


def _newer(reference: Any, other: Any) -> Any:
    if other is None or (reference.source_ns() or 0) >= (other.source_ns() or 0):
        return reference
    return other


def _services(
    said: Any, grid: dict[str, Any], files: dict[str, Any], now_ns: int, settings: SystemSettings
) -> tuple[ServiceFact, ...]:
    """The table's services as manager and heartbeats tell, in the table's order."""
    states = {state.name: state for state in said} if isinstance(said, list) else {}
    beats, held = grid.get("beats", {}), files.get("held", {})
    health = grid.get("health")
    counted = (
        health.service_status if health is not None else (files.get("health") or {}).get("service_status", {})
    )
    found: list[ServiceFact] = []
    for name in (spec.name for spec in table_of(settings)):
        state, beat = states.get(name), beats.get(name)
        pid = files.get("living", {}).get(name, 0)
        if state is None and beat is None and not pid:
            continue
        hold = held.get(name)
        status = counted.get(name) if isinstance(counted, dict) else None
        found.append(ServiceFact(
            name=name,
            state="" if state is None else state.state,
            pid=pid if state is None or not state.pid else state.pid,
            # The process manager counts on the machine's clock.
            uptime_s=0.0 if state is None else state.uptime_s * settings.speed,
            exit_status=0 if state is None else state.exit_status,
            description="" if state is None else state.description,
            beat_age_s=None if beat is None else now_ns / NS_PER_S - beat.ts,
            phase="" if beat is None else beat.phase,
            bars=None if beat is None else beat.bars,
            of=None if beat is None else beat.of,
            restarts=status.get("restarts") if isinstance(status, dict) else None,
            held_by="" if hold is None else hold.by,
        ))  # fmt: skip
    return tuple(found)


def _safety(payload: Any, now_ns: int) -> SafetyFact | None:
    if payload is None:
        return None
    values = {
        name: float(sensor["value"])
        for name, sensor in payload.sensors.items()
        if isinstance(sensor, dict) and isinstance(sensor.get("value"), (int, float))
    }
    weakest = min(values, key=lambda name: values[name], default="")
    return SafetyFact(
        posture=payload.posture,
        rm=payload.rm,
        age_s=_age_s(payload.source_ns() or 0, now_ns),
        target=float(target) if isinstance(target := payload.sensors.get("target"), (int, float)) else None,
        weakest=weakest,
        weakest_value=values.get(weakest),
    )


def _health(payload: Any, now_ns: int) -> HealthFact | None:
    """From the grid's payload or the file's JSON, which are the same."""
    raw = payload if isinstance(payload, dict) else None if payload is None else msgspec.to_builtins(payload)
    if raw is None:
        return None
    try:
        return HealthFact(
            rm_meta=float(raw["rm_meta"]),
            status=str(raw["status"]),
            age_s=_age_s(ns_from_iso(raw["timestamp"]), now_ns),
            m1=float(raw["m1_data_infra"]),
            m2=float(raw["m2_heartbeat"]),
            m3=float(raw["m3_data_freshness"]),
            m4=float(raw["m4_control_plane"]),
            m5=float(raw["m5_coherence"]),
            keys={key: str(status["state"]) for key, status in raw["hz_key_status"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _from_grid(grid: dict[str, Any], now_ns: int) -> TraderFact | None:
    """The engine's snapshot, where there is no journal to read."""
    engine, state = grid.get("engine"), grid.get("state")
    if engine is None:
        return None
    opened = engine.open_positions[0] if engine.open_positions else None
    stamp_ns = engine.source_ns()
    return TraderFact(
        source="grid",
        position=None if opened is None else PositionFact(
            asset=str(opened.get("asset", "?")),
            notional=float(opened.get("notional", 0.0)),
            leverage=float(opened.get("leverage", 0.0)),
        ),
        capital=engine.capital,
        equity=engine.detail.get("equity"),
        trades=None if state is None else state.trades,
        halted="the trader says so; its journal is not here" if engine.detail.get("halted") else "",
        fence=int(engine.detail.get("fence", 0)),
        scan_number=engine.last_scan,
        bar_age_s=None if stamp_ns is None else _age_s(stamp_ns, now_ns),
    )  # fmt: skip


def _journal(home: Home, now_ns: int) -> TraderFact | None:
    """What the trader's journal says: the truth. None where it never was; raises DataError, StoreError."""
    from dolphin.domain.codes import ACTION_ENTER, ACTION_HOLD
    from dolphin.host.finish import JOURNAL_FILE
    from dolphin.journal.fenced import terms_of
    from dolphin.journal.store import Journal

    path = home.trader / JOURNAL_FILE
    if not path.exists():
        return None
    with contextlib.closing(Journal.read_only(path)) as journal:
        terms = terms_of(journal)
        refused = [text for _, kind, text in journal.events() if kind == "invariant"]
        bar = journal.last_bar()
        last = next(journal.decisions(bar, bar), None) if bar >= 0 else None
        active = journal.last_active()
        position = None
        if active is not None and active.action in (ACTION_ENTER, ACTION_HOLD):
            position = PositionFact(
                asset=active.asset,
                notional=active.notional,
                leverage=active.leverage,
                pnl=active.pnl_pct if active.action == ACTION_HOLD else None,
            )
        return TraderFact(
            source="journal",
            position=position,
            capital=None if last is None else last.capital,
            equity=None if last is None else journal.equity_at(bar),
            trades=len(journal.trades()),
            halted=refused[-1] if refused else "",
            fence=terms[-1].fence if terms else 0,
            leader=terms[-1].owner if terms else "",
            scan_number=None if last is None else last.scan_number,
            bar_age_s=None if last is None else _age_s(last.timestamp_ns, now_ns),
        )
