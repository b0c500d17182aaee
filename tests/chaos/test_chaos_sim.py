"""Simulated chaos: seeds of faults on one virtual clock, and a judge that can say no."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from dolphin.domain.clock import NS_PER_S
from dolphin.host.finish import JOURNAL_FILE
from dolphin.journal.store import Journal
from dolphin.services.feeds import parameters_of

from .judge import judge
from .sim_seeds import session, verdict
from .simulation import SETTINGS, World, faults_of, market_of, run

SEEDS = range(45)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_and_nothing_happens_twice(seed: int) -> None:
    found = verdict(seed)
    assert not found.broken, "\n".join(
        [*found.broken, f"rerun: python tools/chaos.py --seed {seed} --trace", *found.trace[-60:]]
    )


def test_every_kind_of_fault_is_drawn() -> None:
    drawn = {(fault.kind, fault.what) for seed in SEEDS for fault in faults_of(seed)}
    assert {kind for kind, _ in drawn} == {
        "kill", "kill in a step", "pause", "drop", "lose", "disk full", "clock", "log", "switch",
        "forewarner", "garbage", "silence", "second leader",
    }  # fmt: skip
    assert {what for kind, what in drawn if kind == "kill"} == {
        "scan_bridge", "exf", "acb", "watchdog", "meta_health", "signal_bridge", "trader", "trader_standby",
    }  # fmt: skip
    assert {what for kind, what in drawn if kind == "log"} == {"double", "swap", "drop"}


def test_a_seed_is_the_same_run_every_time() -> None:
    one, other = verdict(13), verdict(13)
    assert one.trace_sha256 == other.trace_sha256
    assert one == other
    assert verdict(14).trace_sha256 != one.trace_sha256


# the judge


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A quiet run, whose journal the tests damage copies of."""
    with run(tmp_path_factory.mktemp("quiet"), 3, []) as world:
        assert not judged(world.home.trader / JOURNAL_FILE, world)
        return world


def judged(journal: Path, world: World, **options: object) -> list[str]:
    return judge(journal, world.home.market, parameters_of(SETTINGS)[1], session(), **options)  # type: ignore[arg-type]


def damaged(world: World, tmp_path: Path, damage: Callable[[sqlite3.Connection], object]) -> Path:
    source = Journal.read_only(world.home.trader / JOURNAL_FILE)
    copy = tmp_path / JOURNAL_FILE
    with sqlite3.connect(copy) as db:
        source._db.backup(db)
    source.close()
    with sqlite3.connect(copy) as db:
        damage(db)
    db.close()
    return copy


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("DELETE FROM decisions WHERE bar_idx = 150", "1 scans were never decided"),
        ("UPDATE decisions SET equity = equity + 1 WHERE bar_idx = 200", "audit"),
        ("UPDATE terms SET first_bar = 5", "the first bar belongs to no term"),
        ("INSERT INTO terms VALUES (9, 9999, 0, 'x')", "term 9 begins after the last bar"),
        ("UPDATE trades SET net = net + 0.5 WHERE rowid = (SELECT min(rowid) FROM trades)", "audit"),
        ("DELETE FROM cash_flows WHERE id = 1", "audit"),
        (
            "INSERT INTO events (timestamp_ns, kind, text) VALUES (0, 'invariant', 'broke')",
            "violated: broke",
        ),
    ],
)
def test_damage_is_found(sql: str, said: str, ran: World, tmp_path: Path) -> None:
    def damage(db: sqlite3.Connection) -> None:
        assert db.execute(sql).rowcount == 1

    broken = judged(damaged(ran, tmp_path, damage), ran)
    assert any(said in text for text in broken), broken


def test_a_scan_that_nobody_decided_is_found(ran: World, tmp_path: Path) -> None:
    last = len(market_of(3)) - 1
    broken = judged(
        damaged(ran, tmp_path, lambda db: db.execute(f"DELETE FROM decisions WHERE bar_idx = {last}")), ran
    )
    assert broken[0].startswith("1 scans were never decided")


def test_an_entry_where_none_was_allowed_is_found(ran: World) -> None:
    journal = Journal.read_only(ran.home.trader / JOURNAL_FILE)
    entry = next(d for d in journal.decisions() if d.action == 1)
    journal.close()
    span = (entry.timestamp_ns - NS_PER_S, entry.timestamp_ns + NS_PER_S)
    broken = judged(ran.home.trader / JOURNAL_FILE, ran, shut_ns=[span])
    assert broken == [f"bar {entry.bar_idx} enters while the kill switch is on"]


def test_a_decision_that_its_inputs_do_not_give_is_found(ran: World, tmp_path: Path) -> None:
    """One organ's word changed in the record: the replay gives another decision, or another digest."""
    import msgspec

    from dolphin.domain.decision import Decision

    def damage(db: sqlite3.Connection) -> None:
        bar, detail = db.execute(
            "SELECT bar_idx, detail FROM decisions WHERE action = 1 ORDER BY bar_idx LIMIT 1"
        ).fetchone()
        decision = msgspec.msgpack.decode(detail, type=Decision)
        changed = msgspec.msgpack.encode(msgspec.structs.replace(decision, posture=3))
        db.execute("UPDATE decisions SET detail = ? WHERE bar_idx = ?", (changed, bar))

    broken = judged(damaged(ran, tmp_path, damage), ran)
    assert any(text.startswith("replay: the replay of bar") for text in broken), broken
