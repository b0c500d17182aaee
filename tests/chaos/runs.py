"""One seed from end to end: its world, its undisturbed twin, and the verdict on both."""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.decision import Decision
from dolphin.host.finish import JOURNAL_FILE
from dolphin.host.session import Session
from dolphin.journal.store import Journal
from dolphin.services.feeds import parameters_of
from dolphin.services.replaying import inputs_differing

from .faults import arm, faults_of, script_of
from .judge import judge
from .witness import witnessed
from .world import INTERVAL_NS, N_BARS, SETTINGS, SETTLE_BARS, SYMBOLS, T0_NS, World, opened

#: The last scan is decided, and everybody has told the grid.
END_NS = T0_NS + (N_BARS + SETTLE_BARS) * INTERVAL_NS + 2 * NS_PER_S

SAME = "same digest as undisturbed"
REPLAYED = "other inputs, replayed to the same digest"


@dataclass
class Verdict:
    """What a seed came to."""

    seed: int
    kind: str
    broken: list[str]
    bars: int
    trades: int
    terms: int
    n_differing: int
    trace: list[str]
    trace_sha256: str
    wall_s: float
    counts: Counter[str] = field(default_factory=Counter)
    recovered_s: dict[str, list[float]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no rule is broken."""
        return not self.broken

    def line(self) -> str:
        """One line for people."""
        word = "passed" if self.passed else "FAILED"
        return (
            f"seed {self.seed:4d} {word}: {self.bars} bars, {self.trades} trades, {self.terms} terms, "
            f"{self.n_differing} bars told otherwise; {self.kind}; {self.wall_s:.1f} s"
        )


def session() -> Session:
    """A fresh one, as the trader makes it."""
    return Session(
        parameters_of(SETTINGS)[1], SYMBOLS, deployment=SETTINGS.deployment,
        vol_threshold=SETTINGS.vol_threshold,
    )  # fmt: skip


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder in memory where there is one: a simulated kill loses nothing that a disk would keep."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(
        prefix="dolphin-chaos-", dir=memory if os.access(memory, os.W_OK) else None
    )


def read(world: World) -> tuple[list[Decision], str, int, int]:
    """(decisions, digest, trades, terms) of the journal."""
    from dolphin.journal.fenced import terms_of

    path = world.home.trader / JOURNAL_FILE
    if not path.exists():
        return [], "", 0, 0
    journal = Journal.read_only(path)
    try:
        decisions = list(journal.decisions())
        return decisions, journal.decisions_sha256(), len(journal.trades()), len(terms_of(journal))
    finally:
        journal.close()


@functools.lru_cache(maxsize=8)
def undisturbed(seed: int) -> tuple[tuple[Decision, ...], str]:
    """(decisions, digest) of the seed's market and script without faults."""
    with scratch() as folder, opened(Path(folder), seed) as world:
        arm(world, script_of(seed))
        world.run_to(END_NS)
        decisions, digest, _, _ = read(world)
    return tuple(decisions), digest


def verdict(seed: int) -> Verdict:
    """Run the seed with its faults and judge it."""
    began = time.perf_counter()
    calm, calm_digest = undisturbed(seed)
    with scratch() as folder, opened(Path(folder), seed) as world:
        arm(world, script_of(seed) + faults_of(seed))
        world.run_to(END_NS)
        found = judged(world, calm, calm_digest)
    found.wall_s = time.perf_counter() - began
    return found


def judged(world: World, calm: tuple[Decision, ...], calm_digest: str) -> Verdict:
    """All rules."""
    decisions, digest, trades, terms = read(world)
    path = world.home.trader / JOURNAL_FILE
    broken = list(world.unexpected)
    broken += (
        judge(path, world.home.market, parameters_of(SETTINGS)[1], session()) if decisions else ["no bar"]
    )
    broken += witnessed(world, decisions)
    differing = inputs_differing(decisions, calm)
    if not differing and digest != calm_digest:
        broken.append("told the same as the undisturbed run, it decided otherwise")
    world.tell(f"decisions {digest}")
    return Verdict(
        seed=world.seed,
        kind=REPLAYED if differing else SAME,
        broken=broken,
        bars=len(decisions),
        trades=trades,
        terms=terms,
        n_differing=len(differing),
        trace=world.trace,
        trace_sha256=world.digest(),
        wall_s=0.0,
        counts=world.counts,
        recovered_s=world.recovered_s,
    )
