"""Simulated chaos: seeds of faults on one virtual clock, and judges that can say no."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.codes import ACTION_ENTER, HIBERNATE, POSTURES
from dolphin.domain.decision import Decision
from dolphin.grid.payloads import LastTrade
from dolphin.grid.topics import LAST_TRADE
from dolphin.host.finish import JOURNAL_FILE
from dolphin.journal.fenced import FencedJournal, terms_of
from dolphin.journal.store import Journal
from dolphin.services.feeds import parameters_of
from dolphin.services.replaying import inputs_differing

from . import runs
from .faults import Fault, arm, faults_of, script_of
from .judge import judge
from .runs import SAME, session, verdict
from .witness import commits, told_to_the_grid, well
from .world import N_BARS, NAMES, SETTINGS, SETTLE_BARS, World, opened

SEEDS = range(45)
#: What the tests of the judges damage.
QUIET = 1003


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_and_nothing_happens_twice(seed: int) -> None:
    found = verdict(seed)
    assert found.passed, "\n".join(
        [*found.broken, f"rerun: python tools/chaos.py --seed {seed} --trace", *found.trace[-60:]]
    )
    assert found.bars == N_BARS + SETTLE_BARS


def test_every_fault_is_drawn_and_every_service_killed() -> None:
    drawn = [fault for seed in SEEDS for fault in faults_of(seed)]
    assert {fault.kind for fault in drawn} == {
        "kill", "crash", "kill and crash the heir", "pause", "disconnect", "grid away", "grid lost", "expire",
        "journal full", "disk full", "clock", "log", "read", "events", "numbers begin again", "garbage",
        "stop", "switch", "forewarner",
    }  # fmt: skip
    assert {fault.what for fault in drawn if fault.kind == "kill"} == set(NAMES)
    assert {fault.what for fault in drawn if fault.kind in ("log", "read")} == {"double", "swap", "drop"}
    more = [fault for seed in range(450) for fault in faults_of(seed)]
    assert {fault.what for fault in more if fault.kind == "clock"} >= {"-3600", "3600", "-1", "1"}
    assert {fault.frozen_s for fault in more} == {0.0, 5.0, 20.0, 40.0}
    assert {fault.unanswered for fault in drawn} == {False, True}
    assert {fault.kind for seed in SEEDS for fault in script_of(seed)} == {"factors", "forewarner", "switch"}


@pytest.mark.parametrize("seed", [2, 16])
def test_a_seed_is_the_same_run_every_time(seed: int) -> None:
    one, other = verdict(seed), verdict(seed)
    assert one.trace == other.trace
    assert one.trace_sha256 == other.trace_sha256 != verdict(seed + 1).trace_sha256


def test_mild_faults_leave_the_undisturbed_digest() -> None:
    found = [verdict(seed) for seed in (0, 3, 6, 9)]
    assert [each.kind for each in found] == [SAME] * len(found)
    assert any(sum(n for name, n in each.counts.items() if name.startswith("fault_")) > 3 for each in found)


def faulty(root: Path, seed: int, faults: list[Fault]) -> Iterator[World]:
    with opened(root, seed) as world:
        arm(world, faults)
        world.run_to(runs.END_NS)
        yield world


def test_the_leader_is_killed_in_a_step_and_the_standby_decides_the_next_scan(tmp_path: Path) -> None:
    """A commit that was made and not told: no bar is decided twice, none by two fences."""
    plan = Fault(300.0, "crash", "trader", 0.0, ("COMMIT", "", 1, True))
    for world in faulty(tmp_path, QUIET, [plan]):
        decisions, _, _, terms = runs.read(world)
        owners = [c.owner for c in world.disk.committed]
        assert terms == 2
        assert owners == sorted(owners)
        assert set(owners) == {"trader", "trader_standby"}
        assert runs.judged(world, tuple(decisions), "").kind == SAME
        journal = Journal.read_only(world.home.trader / JOURNAL_FILE)
        _, second = terms_of(journal)
        journal.close()
        assert second.first_bar == owners.index("trader_standby")
        # The session of the dead leader has to run out first.
        assert second.timestamp_ns - decisions[second.first_bar - 1].timestamp_ns >= 15 * NS_PER_S


def test_a_grid_that_comes_back_empty_is_told_again_what_the_journal_says(tmp_path: Path) -> None:
    # A verdict that nobody but the journal remembers.
    verdict_given = Fault(100.0, "forewarner", "OK", 5000.0)
    for world in faulty(tmp_path, QUIET, [verdict_given, Fault(500.0, "grid lost", "", 20.0)]):
        decisions, digest, trades, _ = runs.read(world)
        assert trades > 2
        assert runs.judged(world, tuple(decisions), digest).broken == []


def test_a_damaged_posture_opens_no_door_and_a_dead_watchdog_shuts_it(tmp_path: Path) -> None:
    faults = [Fault(300.0, "garbage", "safety"), Fault(500.0, "pause", "watchdog", 120.0)]
    for world in faulty(tmp_path, QUIET, faults):
        decisions, _, _, _ = runs.read(world)
        shut = [d.bar_idx for d in decisions if POSTURES[d.posture] == "HIBERNATE"]
        assert shut[0] in range(105, 110)
        assert runs.judged(world, tuple(decisions), "").kind == SAME


def test_a_posture_that_fell_comes_back_slowly_and_whole(tmp_path: Path) -> None:
    """No heartbeat of the scan path for a minute: HIBERNATE at once, and two hours until all is well."""
    silence = [Fault(300.0, "pause", name, 60.0) for name in ("scanner", "scan_bridge")]
    for world in faulty(tmp_path, QUIET, silence):
        decisions, digest, _, _ = runs.read(world)
        assert POSTURES[decisions[-1].posture] == "HIBERNATE"
        assert runs.judged(world, tuple(decisions), digest).broken == []
        seen = []
        for _ in range(13):
            world.run_to(world.true_ns + 600 * NS_PER_S)
            seen.append(world.safety().posture)
        assert list(dict.fromkeys(seen)) == ["HIBERNATE", "TURTLE", "STALKER", "APEX"]


# the judges


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A run without faults, whose journal the tests damage copies of."""
    for world in faulty(tmp_path_factory.mktemp("quiet"), QUIET, []):
        decisions, digest, _, _ = runs.read(world)
        assert runs.judged(world, tuple(decisions), digest).broken == []
        yield world


def judged(journal: Path, world: World, **options: object) -> list[str]:
    return judge(journal, world.home.market, parameters_of(SETTINGS)[1], session(), **options)  # type: ignore[arg-type]


def damaged(world: World, tmp_path: Path, damage: Callable[[sqlite3.Connection], object]) -> Path:
    source = Journal.read_only(world.home.trader / JOURNAL_FILE)
    copy = tmp_path / JOURNAL_FILE
    db = sqlite3.connect(copy)
    source._db.backup(db)
    source.close()
    damage(db)
    db.commit()
    db.close()
    return copy


def decided(world: World) -> list[Decision]:
    return runs.read(world)[0]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("DELETE FROM decisions WHERE bar_idx = 150", "1 scans were never decided"),
        ("DELETE FROM decisions WHERE bar_idx = 229", "1 scans were never decided"),
        ("UPDATE decisions SET equity = equity + 1 WHERE bar_idx = 200", "audit"),
        ("UPDATE terms SET first_bar = 5", "the first bar belongs to no term"),
        ("INSERT INTO terms VALUES (9, 9999, 0, 'x')", "term 9 begins after the last bar"),
        ("UPDATE trades SET net = net + 0.5 WHERE rowid = (SELECT min(rowid) FROM trades)", "audit"),
        ("DELETE FROM cash_flows WHERE id = 1", "audit"),
        (
            "INSERT INTO trades SELECT trade_id || 'x', asset, direction, entry_bar + 1000, exit_bar + 1000,"
            " entry_ns, exit_ns, entry_price, exit_scan_price, exit_price, notional, leverage, reason,"
            " entry_fee, exit_fee, ob_edge, net, stale_price FROM trades LIMIT 1",
            "audit",
        ),
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


def test_a_decision_that_its_inputs_do_not_give_is_found(ran: World, tmp_path: Path) -> None:
    """One organ's word changed in the record: the replay gives another decision."""

    def damage(db: sqlite3.Connection) -> None:
        bar, detail = db.execute(
            "SELECT bar_idx, detail FROM decisions WHERE action = 1 ORDER BY bar_idx LIMIT 1"
        ).fetchone()
        decision = msgspec.msgpack.decode(detail, type=Decision)
        changed = msgspec.msgpack.encode(msgspec.structs.replace(decision, posture=HIBERNATE))
        db.execute("UPDATE decisions SET detail = ? WHERE bar_idx = ?", (changed, bar))

    broken = judged(damaged(ran, tmp_path, damage), ran)
    assert any(text.startswith("replay: the replay of bar") for text in broken), broken


def test_an_entry_where_none_was_allowed_is_found(ran: World) -> None:
    entry = next(d for d in decided(ran) if d.action == ACTION_ENTER)
    span = (entry.timestamp_ns - NS_PER_S, entry.timestamp_ns + NS_PER_S)
    broken = judged(ran.home.trader / JOURNAL_FILE, ran, shut_ns=[span])
    assert broken == [f"bar {entry.bar_idx} enters while the kill switch is on"]


def test_the_witness_finds_a_bar_of_a_wrong_fence_and_an_entry_that_was_forbidden(ran: World) -> None:
    decisions, written = decided(ran), ran.disk.committed
    with_journal = Journal.read_only(ran.home.trader / JOURNAL_FILE)
    terms = terms_of(with_journal)
    with_journal.close()
    assert commits(written, terms, ran.disk.fences, decisions) == []
    entry = next(k for k, c in enumerate(written) if c.record.action == ACTION_ENTER)

    def told(**changed: object) -> list[str]:
        altered = [*written]
        altered[entry] = written[entry]._replace(**changed)  # type: ignore[arg-type]
        return commits(altered, terms, ran.disk.fences, decisions)

    assert told(fence=2) == [f"bar {entry} was written under fence 2, not its term's"]
    assert told(may_enter="the kill switch says HALT") == [
        f"bar {entry} entered though the kill switch says HALT"
    ]
    late_ns = written[entry].record.timestamp_ns + 11 * NS_PER_S
    assert told(clock_ns=late_ns) == [f"bar {entry} entered on a scan 11.0 s old"]
    twice = [*written, written[-1]]
    assert commits(twice, terms, ran.disk.fences, decisions)[0].startswith("231 bars were committed for 230")
    assert "the terms in the journal are not those that were taken" in commits(
        written, terms, [*ran.disk.fences, (1, "trader_standby")], decisions
    )


def test_the_witness_finds_a_grid_that_shows_something_else_and_a_service_that_is_gone(ran: World) -> None:
    journal = Journal.read_only(ran.home.trader / JOURNAL_FILE)
    decisions = decided(ran)
    shown = ran.typed.get(LAST_TRADE, deployment="BLUE")
    assert isinstance(shown, LastTrade)
    ran.typed.put(LAST_TRADE, msgspec.structs.replace(shown, net=shown.net + 1.0), deployment="BLUE")
    assert "the grid shows the last trade" in told_to_the_grid(ran, journal, decisions)[0]
    ran.typed.put(LAST_TRADE, shown, deployment="BLUE")
    assert told_to_the_grid(ran, journal, decisions) == []
    journal.close()
    assert well(ran) == []
    ran.processes["acb"].dead = True
    assert well(ran) == ["acb does not run at the end"]
    ran.processes["acb"].dead = False


def test_another_word_of_an_organ_is_another_input(ran: World) -> None:
    decisions = decided(ran)
    assert inputs_differing(decisions, decisions) == []
    other = [*decisions[:5], msgspec.structs.replace(decisions[5], boost=1.2), *decisions[6:]]
    assert inputs_differing(decisions, other) == [5]
    assert inputs_differing(decisions, decisions[:-2]) == [228, 229]


def test_without_the_journals_fence_two_traders_decide_and_the_witness_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof that the simulation reaches the fence: a leader is stopped between decision and commit."""
    stopped = Fault(300.0, "crash", "leader", crash=("BEGIN", "IMMEDIATE", 1, False), frozen_s=22.0)
    for world in faulty(tmp_path / "with", QUIET, [stopped]):
        assert runs.judged(world, (), "").broken == []
        assert runs.read(world)[3] == 2
    monkeypatch.setattr(FencedJournal, "require_term", lambda self: None)
    for world in faulty(tmp_path / "without", QUIET, [stopped]):
        assert runs.judged(world, (), "").broken
