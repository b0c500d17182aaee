"""What a seed does to a world: a script, which the undisturbed run has too, and faults, which it has not.

The script moves the inputs: verdicts of the forewarner, factors, a kill switch. Every third seed's faults are
`mild`: none of them should change what a bar is told, so that its decisions must be the undisturbed ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.grid.payloads import ExfPayload, ForewarnerPayload
from dolphin.grid.port import GridError
from dolphin.grid.topics import EXF, FOREWARNER, SAFETY_REFERENCE
from dolphin.services.kill_switch import KillSwitch

from .process import Crash
from .world import INTERVAL_NS, N_BARS, NAMES, SESSION_NS, T0_NS, World

MILD_EVERY = 3


@dataclass(frozen=True)
class Fault:
    """One thing that happens, at a second after the first scan is due."""

    at_s: float
    kind: str
    what: str = ""
    for_s: float = 0.0
    crash: tuple[str, str, int, bool] | None = None
    unanswered: bool = False
    frozen_s: float = 0.0

    def told(self) -> str:
        """For the trace."""
        length = f" for {self.for_s:g} s" if self.for_s else ""
        plan = _crash_of(self)
        return f"{self.kind} {self.what}{length}{'' if plan is None else ': ' + plan.told()}"


#: Where a trader is killed in the middle of a step.
TRADER_SITES = (
    ("BEGIN", "IMMEDIATE", False), ("INSERT", "INTO decisions", False), ("INSERT", "INTO trades", False),
    ("COMMIT", "", False), ("COMMIT", "", True), ("put", "engine_snapshot", False),
    ("put", "engine_snapshot", True), ("put", "latest_trade", False), ("put", "DOLPHIN_STATE", True),
    ("ask", "DOLPHIN_SCAN_LOG", False), ("put", "DOLPHIN_PNL", True),
)  # fmt: skip
#: And while it takes over.
TAKEOVER_SITES = (
    ("lock", "trader_", True), ("INSERT", "INTO terms", False), ("COMMIT", "", False), ("COMMIT", "", True),
    ("SELECT", "FROM snapshots", False), ("SELECT", "FROM trades", False), ("BEGIN", "IMMEDIATE", False),
)  # fmt: skip
#: Where a leader is stopped between a decision and what follows it.
FREEZE_SITES = (
    ("BEGIN", "IMMEDIATE", False), ("BEGIN", "IMMEDIATE", True), ("COMMIT", "", False), ("COMMIT", "", True),
    ("put", "engine_snapshot", False), ("ask", "DOLPHIN_SCAN_LOG", False),
)  # fmt: skip
ORGAN_SITES = (
    ("SAVE", "", False), ("SAVE", "", True), ("put", "", False), ("put", "", True), ("lock", "", True),
)  # fmt: skip


def script_of(seed: int) -> list[Fault]:
    """What moves the inputs, in both runs."""
    chance = random.Random(f"{seed}/script")
    end = N_BARS * INTERVAL_NS // NS_PER_S
    found: list[Fault] = []
    if chance.random() < 0.5:
        found.append(Fault(chance.uniform(5, 60), "factors", chance.choice(("one", "two", "three"))))
    if chance.random() < 0.2:
        found.append(
            Fault(chance.uniform(300, end - 250), "forewarner", chance.choice(("ORANGE", "RED")), 120.0)
        )
    if chance.random() < 0.3:
        word = chance.choice(("HALT", "FLATTEN"))
        found.append(Fault(chance.uniform(60, end - 250), "switch", word, chance.uniform(20, 200)))
    return found


def faults_of(seed: int) -> list[Fault]:
    """What the seed breaks."""
    chance = random.Random(f"{seed}/faults")
    end = N_BARS * INTERVAL_NS / NS_PER_S
    menu = _MILD if seed % MILD_EVERY == 0 else _WILD
    found: list[Fault] = []
    if menu is _WILD:
        # In the course of the seeds every service is killed many times.
        found += [_kill(chance, end, chance.choice(NAMES)) for _ in range(2)]
    found += [chance.choice(menu)(chance, end) for _ in range(chance.randint(3, 6))]
    return sorted(found, key=lambda fault: fault.at_s)


def _when(chance: random.Random, end: float) -> float:
    return round(chance.uniform(10.0, end - 100.0), 2)


def _kill(chance: random.Random, end: float, name: str) -> Fault:
    return Fault(_when(chance, end), "kill", name)


def _crash(chance: random.Random, end: float, names: tuple[str, ...], sites: Any) -> Fault:
    site, match, after = chance.choice(sites)
    return Fault(
        _when(chance, end), "crash", chance.choice(names), 0.0,
        (site, match, chance.randint(1, 3), after),
    )  # fmt: skip


def _unanswered(chance: random.Random, end: float, name: str) -> Fault:
    """A call that was done, and whose answer was lost."""
    match = chance.choice(("", "DOLPHIN_STATE", "DOLPHIN_HEARTBEAT", "_writer", "SAFETY", "acb"))
    site = "lock" if match == "_writer" else "put"
    return Fault(
        _when(chance, end), "crash", name, crash=(site, match, chance.randint(1, 4), True), unanswered=True
    )


def _unheard_lock(chance: random.Random, end: float) -> Fault:
    """The heir's lock is taken, and it never hears so."""
    crash = ("lock", "trader_", 1, True)
    return Fault(_when(chance, end), "kill and crash the heir", "trader", crash=crash, unanswered=True)


def _freeze(chance: random.Random, end: float) -> Fault:
    """The leader is stopped in the middle of a step."""
    site, match, after = chance.choice(FREEZE_SITES)
    crash = (site, match, chance.randint(1, 3), after)
    return Fault(
        _when(chance, end), "crash", "leader", crash=crash, frozen_s=chance.choice((5.0, 20.0, 40.0))
    )


def _takeover_crash(chance: random.Random, end: float) -> Fault:
    site, match, after = chance.choice(TAKEOVER_SITES)
    return Fault(_when(chance, end), "kill and crash the heir", "trader", 0.0, (site, match, 1, after))


_TRADERS = ("trader", "trader_standby")
_ORGANS = ("acb", "watchdog", "exf", "scan_bridge")
Draw = Callable[[random.Random, float], Fault]

_MILD: tuple[Draw, ...] = (
    lambda c, e: _kill(c, e, c.choice(("signal_bridge", "meta_health", "trader_standby"))),
    lambda c, e: _crash(c, e, ("signal_bridge", "meta_health"), ORGAN_SITES),
    lambda c, e: Fault(_when(c, e), "read", c.choice(("double", "swap", "drop")), c.uniform(20, 200)),
    lambda c, e: Fault(_when(c, e), "events", c.choice(("double", "swap", "drop")), c.uniform(20, 200)),
    lambda c, e: Fault(_when(c, e), "log", "double", c.uniform(20, 200)),
    lambda c, e: Fault(_when(c, e), "pause", c.choice(("trader_standby", "signal_bridge")), c.uniform(1, 60)),
    lambda c, e: Fault(_when(c, e), "disconnect", "trader_standby", c.uniform(1, 90)),
    lambda c, e: Fault(_when(c, e), "disconnect", "trader", c.uniform(1, 4)),
    lambda c, e: Fault(_when(c, e), "garbage", c.choice(("safety", "boost", "scan"))),
    lambda c, e: Fault(_when(c, e), "stop", c.choice(("exf",))),
)  # fmt: skip

_WILD: tuple[Draw, ...] = (
    *_MILD,
    lambda c, e: _crash(c, e, _TRADERS, TRADER_SITES),
    lambda c, e: _crash(c, e, _TRADERS, TRADER_SITES),
    _takeover_crash,
    _unheard_lock,
    _freeze,
    _freeze,
    lambda c, e: _unanswered(c, e, c.choice(NAMES)),
    lambda c, e: _crash(c, e, _ORGANS, ORGAN_SITES),
    lambda c, e: _crash(c, e, _ORGANS, ORGAN_SITES),
    lambda c, e: _kill(c, e, c.choice(("trader", "trader_standby", "watchdog", "scanner", "scan_bridge"))),
    lambda c, e: Fault(_when(c, e), "pause", "leader", 20.0),
    lambda c, e: Fault(_when(c, e), "pause", "leader", c.uniform(2, 14)),
    lambda c, e: Fault(_when(c, e), "pause", c.choice(NAMES), c.uniform(2, 60)),
    lambda c, e: Fault(_when(c, e), "disconnect", c.choice(NAMES), c.uniform(1, 90)),
    lambda c, e: Fault(_when(c, e), "grid away", "", c.uniform(2, 60)),
    lambda c, e: Fault(_when(c, e), "grid lost", "", c.choice((0.0, c.uniform(2, 60)))),
    lambda c, e: Fault(_when(c, e), "expire", "leader"),
    lambda c, e: Fault(_when(c, e), "journal full", "", c.uniform(5, 60)),
    lambda c, e: Fault(_when(c, e), "disk full", "", c.uniform(5, 60)),
    lambda c, e: Fault(_when(c, e), "clock", f"{c.choice((-1, 1)) * c.choice((1, 5, 60, 600, 3600))}",
                       c.choice((0.0, c.uniform(5, 200)))),
    lambda c, e: Fault(_when(c, e), "log", c.choice(("swap", "drop")), c.uniform(20, 200)),
    lambda c, e: Fault(_when(c, e), "numbers begin again"),
    lambda c, e: Fault(_when(c, e), "stop", c.choice(("exf", "acb"))),
    lambda c, e: Fault(_when(c, e), "switch", c.choice(("HALT", "FLATTEN")), c.uniform(10, 120)),
    lambda c, e: Fault(_when(c, e), "forewarner", c.choice(("ORANGE", "RED")), c.uniform(30, 120)),
)  # fmt: skip


def arm(world: World, faults: list[Fault]) -> None:
    """Let them happen at their times."""
    for fault in faults:
        world.at(T0_NS + int(fault.at_s * NS_PER_S), lambda fault=fault: _apply(world, fault))  # type: ignore[misc]


def _apply(world: World, fault: Fault) -> None:
    world.tell(f"-- {fault.told()}")
    world.counts[f"fault_{fault.kind}"] += 1
    _DEEDS[fault.kind](world, fault)


def _named(world: World, name: str) -> Any:
    """The process; `leader` is whichever trader leads."""
    if name == "leader":
        for each in _TRADERS:
            process = world.processes[each]
            if not process.dead and process.service is not None and process.service.trader is not None:
                return process
        name = "trader"
    process = world.processes[name]
    return None if process.dead else process


def _after(world: World, fault: Fault, action: Callable[[], None]) -> None:
    world.later(int(fault.for_s * NS_PER_S), action)


def _crash_of(fault: Fault) -> Crash | None:
    if fault.crash is None:
        return None
    return Crash(*fault.crash, unanswered=fault.unanswered, frozen_s=fault.frozen_s)


def _crash_in(world: World, fault: Fault) -> None:
    process = _named(world, fault.what)
    if process is not None and fault.crash is not None:
        process.crash = _crash_of(fault)


def _crash_heir(world: World, fault: Fault) -> None:
    leader = _named(world, "leader")
    if leader is None or fault.crash is None:
        return
    heir = _named(world, "trader_standby" if leader.name == "trader" else "trader")
    if heir is not None:
        heir.crash = _crash_of(fault)
    world.kill(leader.name)


def _pause(world: World, fault: Fault) -> None:
    process = _named(world, fault.what)
    if process is None or process.paused:
        return
    process.pause()

    def resumed() -> None:
        if not process.dead:
            world.tell(f"{process.name} goes on")
            process.resume(look_first=world.operator.random() < 0.5)

    world.later(SESSION_NS, process.expire_if_paused)
    _after(world, fault, resumed)


def _disconnect(world: World, fault: Fault) -> None:
    process = _named(world, fault.what)
    if process is not None:
        _cut(world, [process], fault)


def _cut(world: World, cut: list[Any], fault: Fault) -> None:
    for process in cut:
        process.peer.drop_connection()

    def expired() -> None:
        for process in cut:
            if not process.peer.connected:
                process.peer.expire_session()

    def restored() -> None:
        for process in cut:
            if not process.dead and not world.grid_down:
                process.peer.restore_connection()

    world.later(SESSION_NS, expired)
    _after(world, fault, restored)


def _grid_away(world: World, fault: Fault, lost: bool = False) -> None:
    if world.grid_down:
        return
    world.grid_down = True
    for process in world.processes.values():
        process.peer.drop_connection()
    if lost:
        world.memory.lose_memory()

    def expired() -> None:
        if world.grid_down:
            for process in world.processes.values():
                process.peer.expire_session()

    def back() -> None:
        world.grid_down = False
        world.tell("the grid is back")
        for process in world.processes.values():
            if not process.dead:
                process.peer.restore_connection()

    if fault.for_s * NS_PER_S > SESSION_NS:
        world.later(SESSION_NS, expired)
    _after(world, fault, back)


def _grid_lost(world: World, fault: Fault) -> None:
    if fault.for_s:
        _grid_away(world, fault, lost=True)
    else:
        world.memory.lose_memory()


def _expire(world: World, fault: Fault) -> None:
    process = _named(world, fault.what)
    if process is not None:
        process.peer.expire_session()


def _full(world: World, fault: Fault) -> None:
    disk, states = world.disk, fault.kind == "disk full"
    disk.journal_full = True
    disk.states_full = disk.states_full or states

    def freed() -> None:
        disk.journal_full = False
        if states:
            disk.states_full = False
        world.tell("there is space again")

    _after(world, fault, freed)


def _clock(world: World, fault: Fault) -> None:
    step_ns = int(fault.what) * NS_PER_S
    world.set_offset(world.offset_ns + step_ns)
    if fault.for_s:
        _after(world, fault, lambda: world.set_offset(world.offset_ns - step_ns))
    else:
        # A clock that is wrong for good makes every scan stale: somebody sets it right in the end.
        world.later(300 * NS_PER_S, lambda: world.set_offset(world.offset_ns - step_ns))


def _bend(world: World, fault: Fault) -> None:
    doors = (
        [("scan_bridge", "outward")]
        if fault.kind == "log"
        else [(name, "inward" if fault.kind == "read" else "events") for name in _TRADERS]
    )
    for name, side in doors:
        process = _named(world, name)
        if process is None:
            continue
        link = getattr(process.door, side)
        link.kind = fault.what
        _after(world, fault, lambda link=link: setattr(link, "kind", ""))  # type: ignore[misc]


def _numbers(world: World, fault: Fault) -> None:
    """The scanner is another one: it begins again at 1, as a foreign scanner does."""
    if world.number_reset_at is None:
        world.kill("scanner")
        world.number_reset_at = world.n_written


def _garbage(world: World, fault: Fault) -> None:
    maps = world.typed.grid.map
    if fault.what == "safety":
        maps("DOLPHIN_SAFETY").put("latest", b'{"posture":"WIDE OPEN","Rm":9}')
        world.typed.grid.atomic_reference(SAFETY_REFERENCE).set(b'{"posture":"APEX"')
    elif fault.what == "boost":
        maps("DOLPHIN_FEATURES").put("acb_boost", b"\xff\x00")
    else:
        world.typed.grid.log("DOLPHIN_SCAN_LOG").append(b'{"scan_number":1}')
        maps("DOLPHIN_FEATURES").put("latest_eigen_scan", b"[]")


def _stop(world: World, fault: Fault) -> None:
    """The manager has given it up; only the health service starts it again."""
    process = _named(world, fault.what)
    if process is not None:
        world.manager_says[fault.what] = "FATAL"
        world.kill(fault.what)


def _switch(world: World, fault: Fault) -> None:
    switch = KillSwitch(world.home.kill_switch)
    switch.engage(fault.what, by="chaos", reason="drill", now_ns=world.clock.now_ns())  # type: ignore[arg-type]

    def lifted() -> None:
        switch.lift()

    _after(world, fault, lifted)


def _forewarner(world: World, fault: Fault) -> None:
    def put(gate: str) -> None:
        probability = {"OK": 0.05, "ORANGE": 0.15, "RED": 0.5}[gate]
        status = {"OK": "GREEN", "ORANGE": "ORANGE", "RED": "RED"}[gate]
        payload = ForewarnerPayload(
            status=status, gate=gate, catastrophic_prob=probability, envelope_score=1.0,  # type: ignore[arg-type]
            source="REAL_MODEL", timestamp=iso_from_ns(world.clock.now_ns()),
        )  # fmt: skip
        world.typed.put(FOREWARNER, payload)

    put(fault.what)
    _after(world, fault, lambda: put("OK"))


def _factors(world: World, fault: Fault) -> None:
    """A few pushes of factors under stress, by another daemon, so that the day's medians have them."""
    values = {
        "one": {"funding_btc": -0.0002}, "two": {"funding_btc": -0.0002, "dvol_btc": 82.0},
        "three": {"funding_btc": -0.0002, "dvol_btc": 82.0, "taker": 0.7},
    }[fault.what]  # fmt: skip

    def push() -> None:
        try:
            world.typed.put(EXF, ExfPayload(**values, pushed_at=world.clock.now_ns() / NS_PER_S))
        except GridError:
            return

    for k in range(9):
        world.later(k * 3 * NS_PER_S, push)


_DEEDS: dict[str, Callable[[World, Fault], None]] = {
    "kill": lambda world, fault: world.kill(fault.what),
    "crash": _crash_in,
    "kill and crash the heir": _crash_heir,
    "pause": _pause,
    "disconnect": _disconnect,
    "grid away": _grid_away,
    "grid lost": _grid_lost,
    "expire": _expire,
    "journal full": _full,
    "disk full": _full,
    "clock": _clock,
    "log": _bend,
    "read": _bend,
    "events": _bend,
    "numbers begin again": _numbers,
    "garbage": _garbage,
    "stop": _stop,
    "switch": _switch,
    "forewarner": _forewarner,
    "factors": _factors,
}
