"""One simulated seed, judged: also the undisturbed run of the same market beside it."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dolphin.grid.topics import ENGINE_SNAPSHOT, LAST_TRADE, SAFETY
from dolphin.host.finish import JOURNAL_FILE
from dolphin.host.session import Session
from dolphin.journal.store import Journal
from dolphin.services.feeds import parameters_of
from dolphin.services.replaying import inputs_differing

from .judge import judge
from .simulation import SETTINGS, SYMBOLS, World, run


@dataclass(frozen=True)
class Verdict:
    """What a seed came to; equal says that its inputs, and so its digest, were those of the quiet run."""

    seed: int
    broken: tuple[str, ...]
    equal: bool
    trades: int
    entries_refused: int
    trace: tuple[str, ...]
    trace_sha256: str


def session() -> Session:
    """A fresh one, as the trader makes it."""
    return Session(
        parameters_of(SETTINGS)[1],
        SYMBOLS,
        deployment=SETTINGS.deployment,
        vol_threshold=SETTINGS.vol_threshold,
    )


@functools.lru_cache(maxsize=4)
def quiet(seed: int) -> tuple[tuple[object, ...], str]:
    """(decisions, digest) of the undisturbed run."""
    with tempfile.TemporaryDirectory() as folder, run(Path(folder), seed, []) as world:
        journal = Journal.read_only(world.home.trader / JOURNAL_FILE)
        found = tuple(journal.decisions()), journal.decisions_sha256()
        journal.close()
    return found


def verdict(seed: int) -> Verdict:
    """Run the seed and judge it."""
    with tempfile.TemporaryDirectory() as folder, run(Path(folder), seed) as world:
        return judged(world)


def judged(world: World) -> Verdict:
    """The rules of every run, and those that only a simulation can see."""
    path = world.home.trader / JOURNAL_FILE
    broken = judge(path, world.home.market, parameters_of(SETTINGS)[1], session(), shut_ns=world.halted_ns)
    broken += _grid_tells(world)
    broken += _healthy(world)
    journal = Journal.read_only(path)
    try:
        decisions, digest, trades = (
            list(journal.decisions()),
            journal.decisions_sha256(),
            len(journal.trades()),
        )
        late = sum(kind == "stale_scan" for _, kind, _ in journal.events())
    finally:
        journal.close()
    calm, calm_digest = quiet(world.seed)
    equal = not inputs_differing(decisions, calm)  # type: ignore[arg-type]
    if equal and digest != calm_digest:
        broken.append("the same inputs gave another digest than the undisturbed run's")
    if world.counts["started_by_health", "trader"] or world.counts["started_by_health", "trader_standby"]:
        broken.append("the health service started a trader")
    return Verdict(world.seed, tuple(broken), equal, trades, late, tuple(world.trace), world.digest())


def _grid_tells(world: World) -> list[str]:
    """The grid shows at the end what the journal says."""
    journal = Journal.read_only(world.home.trader / JOURNAL_FILE)
    try:
        bars, trades = journal.last_bar() + 1, journal.trades()
    finally:
        journal.close()
    found = []
    snapshot = world.door.get(ENGINE_SNAPSHOT, deployment="BLUE")
    if snapshot is None or snapshot.scan_count != bars:
        found.append(f"the grid's engine snapshot is of bar {snapshot and snapshot.scan_count}, not {bars}")
    last = world.door.get(LAST_TRADE, deployment="BLUE")
    if trades and (last is None or last.trade_id != trades[-1].trade_id):
        found.append(f"the grid's last trade is {last and last.trade_id}, not {trades[-1].trade_id}")
    if world.door.get(SAFETY) is None:
        found.append("the grid has no posture")
    return found


def _healthy(world: World) -> list[str]:
    """After the time to settle everything runs and says that it is well."""
    found = []
    for process in world.processes.values():
        if process.hosted is None:
            found.append(f"{process.name} is dead at the end")
            continue
        well, why = process.hosted.service.health()
        # At the end of the market no scan comes any more, which the bridge rightly tells.
        if not well and process.name not in ("scan_bridge", "meta_health"):
            found.append(f"{process.name} is not well at the end: {why}")
    leaders = [p.name for p in world.processes.values() if p.hosted and p.hosted.service.phase == "running"
               and p.name.startswith("trader")]  # fmt: skip
    if len(leaders) != 1:
        found.append(f"leaders at the end: {leaders}")
    return found
