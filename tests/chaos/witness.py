"""What only a simulation can see: who wrote each bar and when, what the grid shows at last, who is well."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.domain.codes import ACTION_ENTER, ACTIONS, POSTURES
from dolphin.domain.decision import Decision
from dolphin.grid.topics import ACB_BOOST, ENGINE_SNAPSHOT, FOREWARNER, LAST_TRADE, PNL_DAY, SIGNAL, STATE
from dolphin.host.finish import JOURNAL_FILE
from dolphin.host.session import SCAN_AGE_MAX_NS
from dolphin.journal.fenced import Term, newest_inputs, terms_of
from dolphin.journal.store import Journal
from dolphin.services.acb import AcbDurable
from dolphin.services.durable import DurableState
from dolphin.services.watchdog import WatchdogDurable

from .disk import Committed
from .world import FROZEN, World

#: A critical service that is dead runs again within this.
HEALED_S = 30.0


def witnessed(world: World, decisions: Sequence[Decision]) -> list[str]:
    """Every rule that is broken, as a sentence."""
    path = world.home.trader / JOURNAL_FILE
    if not path.exists():
        return ["there is no journal"]
    journal = Journal.read_only(path)
    try:
        terms = terms_of(journal)
        broken = commits(world.disk.committed, terms, world.disk.fences, decisions)
        broken += told_to_the_grid(world, journal, decisions)
    finally:
        journal.close()
    return broken + well(world)


def commits(
    committed: Sequence[Committed],
    terms: Sequence[Term],
    fences: Sequence[tuple[int, str]],
    decisions: Sequence[Decision],
) -> list[str]:
    """One commit a bar, by the newest fence of its time, which is the term's; no entry that was forbidden."""
    broken: list[str] = []
    bars = [c.record.bar_idx for c in committed]
    if bars != list(range(len(decisions))):
        broken.append(f"{len(bars)} bars were committed for {len(decisions)} in the journal, or out of order")
    if [fence for fence, _ in fences] != [term.fence for term in terms]:
        broken.append("the terms in the journal are not those that were taken")
    if any(b <= a for (a, _), (b, _) in itertools.pairwise(fences)):
        broken.append("a fence was taken that was not above the one before")
    for c in committed:
        owner = [term.fence for term in terms if term.first_bar <= c.record.bar_idx]
        if not owner or owner[-1] != c.fence:
            broken.append(f"bar {c.record.bar_idx} was written under fence {c.fence}, not its term's")
        if c.record.action == ACTION_ENTER and c.may_enter != FROZEN:
            age_ns = c.clock_ns - c.record.timestamp_ns
            if age_ns > SCAN_AGE_MAX_NS:
                broken.append(f"bar {c.record.bar_idx} entered on a scan {age_ns / NS_PER_S:.1f} s old")
            if c.may_enter:
                broken.append(f"bar {c.record.bar_idx} entered though {c.may_enter}")
    return broken


def told_to_the_grid(world: World, journal: Journal, decisions: Sequence[Decision]) -> list[str]:
    """The grid shows what the journal and the organs' own files say."""
    if not decisions:
        return []
    grid, where = world.typed, {"deployment": world.settings.deployment}
    broken: list[str] = []

    def same(what: str, shown: object, true: object) -> None:
        if shown != true:
            broken.append(f"the grid shows {what} {shown}, the journal says {true}")

    last = decisions[-1]
    snapshot = grid.get(ENGINE_SNAPSHOT, **where)
    same("scan_count", snapshot and snapshot.scan_count, last.bar_idx + 1)
    same("last_scan", snapshot and snapshot.last_scan, last.scan_number)
    same("capital", snapshot and snapshot.capital, last.capital)
    same("the trader's posture", snapshot and snapshot.posture, POSTURES[last.posture])
    state = grid.get(STATE, **where)
    same(
        "trades",
        state and state.trades,
        sum(t.exit_bar <= _bar_of(state, decisions) for t in journal.trades()),
    )
    trades = journal.trades()
    if trades:
        shown = grid.get(LAST_TRADE, **where)
        same("the last trade", shown and (shown.trade_id, shown.net), (trades[-1].trade_id, trades[-1].net))
    for day in journal.days():
        found = grid.get(PNL_DAY, date=day["date"], **where)
        same(f"day {day['date']}", found and (found.pnl, found.capital), (day["pnl"], day["capital"]))
    active = journal.last_active()
    if active is not None:
        signal = grid.get(SIGNAL, **where)
        true = (ACTIONS[active.action], active.scan_number, iso_from_ns(active.timestamp_ns))
        same("the signal", signal and (signal.action, signal.scan_number, signal.timestamp), true)
    safety, stack = world.safety(), _saved(world, "watchdog", WatchdogDurable)
    same("the posture", safety and safety.posture, stack and stack.stack and POSTURES[stack.stack.posture])
    same("the watchdog's fence", safety and safety.fence, stack and stack.fence)
    heard = newest_inputs(journal).get("FOREWARNER")
    if heard is not None:
        gate = grid.get(FOREWARNER)
        same("the forewarner's gate", gate and gate.gate, msgspec.json.decode(heard)["gate"])
    boost, breaker = grid.get(ACB_BOOST), _saved(world, "acb", AcbDurable)
    same("the breaker's fence", boost and boost.fence, breaker and breaker.fence)
    if boost is not None and safety is not None:
        same("the posture of the last bar", POSTURES[last.posture], safety.posture)
        same("the boost of the last bar", (last.boost, last.beta), (boost.boost, boost.beta))
    return broken


def _bar_of(state: object, decisions: Sequence[Decision]) -> int:
    """The bar at which the state was told."""
    at = getattr(state, "updated_at", "")
    return next((d.bar_idx for d in reversed(decisions) if iso_from_ns(d.timestamp_ns) == at), -1)


def _saved(world: World, name: str, kind: type) -> object:
    path: Path = world.home.state(name)
    return DurableState(path, kind).load()


def well(world: World) -> list[str]:
    """Everybody runs and says that it is well, one trader leads, and who was healed was healed in time."""
    broken: list[str] = []
    for name, process in world.processes.items():
        if process.dead or process.service is None:
            broken.append(f"{name} does not run at the end")
            continue
        good, why = process.service.health()
        if not good:
            broken.append(f"{name} is not well at the end: {why}")
    leaders = [
        name for name in ("trader", "trader_standby")
        if world.processes[name].service is not None and world.processes[name].service.trader is not None
    ]  # fmt: skip
    if len(leaders) != 1:
        broken.append(f"{len(leaders)} traders lead at the end")
    for name in ("exf", "acb"):
        slow = [s for s in world.recovered_s.get(name, []) if s > HEALED_S]
        if slow and not world.counts["fault_grid away"] + world.counts["fault_grid lost"]:
            broken.append(f"{name} ran again after {max(slow):.0f} s only")
    return broken + [
        f"the health service started {name}"
        for name in world.processes
        if world.counts[f"started_by_health_{name}"] and name not in ("exf", "acb")
    ]
