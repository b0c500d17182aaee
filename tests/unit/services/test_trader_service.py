"""The trader as a service: leadership by fence, takeover, the grid away and lost, the kill switch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scan_market import scans

from dolphin.domain import codes
from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.domain.decision import Decision
from dolphin.domain.errors import ConfigError, FenceError, StoreError
from dolphin.domain.scan import Scan, row_from_scan
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.payloads import SafetyPayload
from dolphin.grid.topics import ENGINE_SNAPSHOT, LAST_TRADE, PNL_DAY, SAFETY, SIGNAL
from dolphin.grid.typed import TypedGrid, publish_scan
from dolphin.host.session import Session
from dolphin.journal.fenced import FencedJournal, inputs_of, terms_of
from dolphin.journal.store import Journal
from dolphin.market.scan_store import ScanStore
from dolphin.market.synthetic import SyntheticFeed
from dolphin.services.clock import VirtualClock
from dolphin.services.feeds import parameters_of
from dolphin.services.home import Home, SystemSettings
from dolphin.services.kill_switch import KillSwitch
from dolphin.services.service import Alert, Context
from dolphin.services.signal_bridge import SignalBridgeService
from dolphin.services.trader_service import TraderService

SETTINGS = SystemSettings(assets=5)
SYMBOLS = SyntheticFeed(seed=SETTINGS.seed, days=None, assets=5).symbols
MARKET = scans(21, 420, symbols=SYMBOLS)


class System:
    """A grid, a store and a clock; traders are processes that come and go."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.memory = InProcessGrid("inline")
        self.clock = VirtualClock(MARKET[0].timestamp_ns)
        self.store = ScanStore(self.home.market)
        self.door = TypedGrid(self.memory.peer())
        self.alerts: list[Alert] = []
        self.peers: list[InProcessGrid] = []

    def context(self, name: str, **options: object) -> Context:
        peer = self.memory.peer()
        self.peers.append(peer)
        return Context(
            name, self.home, SETTINGS, self.clock, TypedGrid(peer), self.alerts.append, options=options
        )

    def trader(self, name: str = "trader", **options: object) -> TraderService:
        made = TraderService(self.context(name, **options))
        made.start()
        return made

    def scan(self, scan: Scan, *, publish: bool = True) -> None:
        """One bar passes: stored, and published by whoever does that."""
        self.clock.move_to(scan.timestamp_ns + NS_PER_S // 10)
        self.store.write(scan)
        if publish:
            publish_scan(self.door.grid, scan)

    def posture(self, word: str) -> None:
        stamp = iso_from_ns(self.clock.now_ns())
        self.door.put(SAFETY, SafetyPayload(posture=word, rm=0.9, updated_at=stamp))  # type: ignore[arg-type]

    def decisions(self) -> list[Decision]:
        journal = Journal.read_only(self.home.trader / "journal.db")
        found = list(journal.decisions())
        journal.close()
        return found

    def terms(self) -> list[tuple[int, int]]:
        journal = Journal.read_only(self.home.trader / "journal.db")
        found = [(t.fence, t.first_bar) for t in terms_of(journal)]
        journal.close()
        return found

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        self.memory.close()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path)
    yield made
    made.close()


def undisturbed(market: list[Scan] = MARKET) -> list[bytes]:
    """The decisions of the alpha alone."""
    session = Session(parameters_of(SETTINGS)[1], SYMBOLS)
    steps = [session.on_scan(row_from_scan(scan)) for scan in market]
    return [step.decision.canonical() for step in steps if step is not None]


def told(decisions: list[Decision]) -> list[bytes]:
    return [d.canonical() for d in decisions]


def open_bars(decisions: list[Decision]) -> list[int]:
    return [d.bar_idx for d in decisions if d.action == codes.ACTION_HOLD]


# leadership


def test_one_trader_leads_and_decides_what_the_alpha_decides(system: System) -> None:
    trader = system.trader()
    assert trader.phase == "standby"
    for scan in MARKET:
        system.scan(scan)
        trader.tick()
    assert trader.phase == "running"
    assert told(system.decisions()) == undisturbed()
    assert system.terms() == [(1, 0)]
    assert trader.health() == (True, f"leads under fence 1, last scan {MARKET[-1].scan_number}")
    assert sum(alert.kind == "trade" for alert in system.alerts) > 10
    trader.stop()


def test_a_standby_decides_nothing_and_takes_over_with_a_higher_fence(system: System) -> None:
    leader, standby = system.trader(), system.trader("trader_standby")
    for scan in MARKET[:200]:
        system.scan(scan)
        leader.tick()
        standby.tick()
    assert (leader.fence, standby.fence) == (1, 0)
    assert standby.phase == "standby"
    assert standby.health() == (True, "stands by: another trader leads")
    # kill -9: its session ends, nothing is kept
    system.peers[0].close()
    for scan in MARKET[200:]:
        system.scan(scan)
        standby.tick()
    assert standby.fence == 2
    assert told(system.decisions()) == undisturbed()
    assert system.terms() == [(1, 0), (2, 200)]


def test_a_leader_that_was_stopped_too_long_decides_nothing_more(system: System) -> None:
    leader, standby = system.trader(), system.trader("trader_standby")
    for scan in MARKET[:100]:
        system.scan(scan)
        leader.tick()
        standby.tick()
    # SIGSTOP: its session runs out without its knowing, and the standby takes over in the middle of a trade
    system.peers[0].expire_session()
    for scan in MARKET[100:300]:
        system.scan(scan)
        standby.tick()
    before = len(system.decisions())
    # It wakes with a full log in front of it and still believes that it leads.
    system.scan(MARKET[300])
    leader._checked_ns = system.clock.now_ns()
    leader.tick()
    assert len(system.decisions()) == before
    assert leader.phase == "standby"
    assert "fence" in leader.health()[1]
    assert any(a.kind == "leader" and "gave up fence 1" in a.text for a in system.alerts)
    for scan in MARKET[301:]:
        system.scan(scan)
        leader.tick()
        standby.tick()
    assert standby.fence == 2
    assert told(system.decisions()) == undisturbed()
    assert system.terms() == [(1, 0), (2, 100)]


def test_a_leader_notices_that_it_lost_the_lock_before_it_writes(system: System) -> None:
    leader = system.trader()
    system.scan(MARKET[0])
    leader.tick()
    system.peers[0].expire_session()
    system.scan(MARKET[1])
    leader.tick()
    assert len(system.decisions()) == 1
    assert "gave the lock to another, or lost it" in leader.health()[1]
    leader.tick()
    assert leader.fence == 2
    assert len(system.decisions()) == 2


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("point", ["before", "inside", "after"])
def test_a_leader_killed_in_the_middle_of_a_step(
    point: str, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the transaction, inside it, or after its commit and before anything is published."""
    leader, standby = system.trader(), system.trader("trader_standby")
    entries = [
        k for k, d in enumerate(_alpha()) if d.action in (codes.ACTION_ENTER, codes.ACTION_EXIT) and k > 100
    ]
    at = entries[0]
    for scan in MARKET[:at]:
        system.scan(scan)
        leader.tick()
        standby.tick()
    target: Any = {
        "before": (type(leader.trader), "_make_durable"),
        "inside": (FencedJournal, "add_decision"),
        "after": (type(leader.trader), "_ship"),
    }[point]

    def die(*args: object, **options: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(*target, die)
        system.scan(MARKET[at])
        with pytest.raises(Killed):
            leader.tick()
    system.peers[0].close()
    standby.tick()
    for scan in MARKET[at + 1 :]:
        system.scan(scan)
        standby.tick()
    assert told(system.decisions()) == undisturbed()
    assert system.terms() == [(1, 0), (2, at + (point == "after"))]


def stood_still(system: System, at: int, seconds: float, monkeypatch: pytest.MonkeyPatch) -> list[Decision]:
    """A leader alone, which is stopped for so long on bar `at`, between its decision and the transaction."""
    leader = system.trader()
    decide = Session.on_scan

    def slow(self: Session, *args: Any, **options: Any) -> Any:
        step = decide(self, *args, **options)
        if step is not None and step.decision.bar_idx == at and step.decision.action == codes.ACTION_ENTER:
            system.clock.move_to(system.clock.now_ns() + int(seconds * NS_PER_S))
        return step

    with monkeypatch.context() as patch:
        patch.setattr(Session, "on_scan", slow)
        for scan in MARKET[: at + 1]:
            system.scan(scan)
            leader.tick()
    for scan in MARKET[at + 1 : at + 40]:
        system.scan(scan)
        leader.tick()
    assert leader.fence == 1
    leader.stop()
    return system.decisions()


def test_an_entry_whose_scan_grew_old_while_it_was_decided_is_decided_again(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = next(d.bar_idx for d in _alpha() if d.action == codes.ACTION_ENTER and d.bar_idx > 100)
    found = stood_still(system, entry, 11.0, monkeypatch)
    assert (found[entry].action, found[entry].reason) == (codes.ACTION_NONE, codes.STALE_SCAN)
    # The same as if it had come so late, in every bar after it.
    session = Session(parameters_of(SETTINGS)[1], SYMBOLS)
    refused = []
    for k, scan in enumerate(MARKET[: entry + 40]):
        step = session.on_scan(
            row_from_scan(scan), refusal=codes.STALE_SCAN if k == entry else codes.REASON_NONE
        )
        assert step is not None
        refused.append(step.decision)
    assert told(found) == told(refused)
    journal = Journal.read_only(system.home.trader / "journal.db")
    assert [kind for _, kind, _ in journal.events() if kind == "stale_scan"] == ["stale_scan"]
    journal.close()
    # Another process decides it the same way from the journal.
    system.peers[0].close()
    again = system.trader()
    again.tick()
    assert (again.phase, again.fence) == ("running", 2)
    assert told(system.decisions()) == told(refused)


def test_an_entry_that_was_decided_in_time_stands(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = next(d.bar_idx for d in _alpha() if d.action == codes.ACTION_ENTER and d.bar_idx > 100)
    found = stood_still(system, entry, 9.0, monkeypatch)
    assert told(found)[: entry + 1] == undisturbed()[: entry + 1]


def _alpha() -> list[Decision]:
    session = Session(parameters_of(SETTINGS)[1], SYMBOLS)
    return [step.decision for scan in MARKET if (step := session.on_scan(row_from_scan(scan))) is not None]


def test_another_set_in_the_same_home_is_refused(system: System) -> None:
    leader = system.trader()
    leader.tick()
    leader.stop()
    context = system.context("trader")
    context.settings = SystemSettings(assets=5, set_name="champion")
    other = TraderService(context)
    other.start()
    with pytest.raises(ConfigError, match="was run with set 'gold', now it is 'champion'"):
        other.tick()


# the grid away, and lost


def test_with_the_grid_away_the_scans_come_from_the_store_and_the_position_is_managed(
    system: System,
) -> None:
    trader = system.trader()
    system.posture("APEX")
    holding = open_bars(_alpha())
    at = holding[len(holding) // 2]
    for scan in MARKET[:at]:
        system.scan(scan)
        system.posture("APEX")
        trader.tick()
    assert trader.trader is not None
    assert trader.trader.session.open_trade is not None
    system.peers[0].drop_connection()
    for scan in MARKET[at : at + 5]:
        system.scan(scan)
        with pytest.raises(Exception, match="not reachable"):
            trader.tick()
    decisions = system.decisions()
    assert [d.scan_number for d in decisions] == [s.scan_number for s in MARKET[: at + 5]]
    # The posture grew old: the door shuts by itself, and the position is closed at the market.
    assert decisions[-1].posture == codes.HIBERNATE
    assert codes.HIBERNATE_HALT in {d.reason for d in decisions[at:]}
    system.peers[0].restore_connection()
    system.scan(MARKET[at + 5])
    system.posture("APEX")
    trader.tick()
    assert system.decisions()[-1].posture == codes.APEX
    snapshot = system.door.get(ENGINE_SNAPSHOT, deployment="BLUE")
    assert snapshot is not None
    assert snapshot.scan_count == at + 6


def test_a_grid_that_was_lost_whole_is_told_again_and_fences_rise(system: System) -> None:
    trader, bridge = system.trader(), SignalBridgeService(system.context("signal_bridge"))
    bridge.start()
    for scan in MARKET[:300]:
        system.scan(scan)
        system.posture("STALKER")
        trader.tick()
        bridge.tick()
    known = {
        topic: system.door.get(topic, deployment="BLUE") for topic in (ENGINE_SNAPSHOT, LAST_TRADE, SIGNAL)
    }
    assert None not in known.values()
    system.memory.lose_memory()
    assert system.door.get(LAST_TRADE, deployment="BLUE") is None
    system.clock.move_to(system.clock.now_ns() + NS_PER_S)
    trader.tick()  # loses its lock with the grid, and leads again with a higher fence
    trader.tick()
    bridge.tick()
    assert trader.fence == 2
    assert system.door.get(LAST_TRADE, deployment="BLUE") == known[LAST_TRADE]
    assert system.door.get(SIGNAL, deployment="BLUE") == known[SIGNAL]
    safety = system.door.get(SAFETY)
    assert safety is not None
    assert safety.posture == "STALKER"
    day = iso_from_ns(MARKET[0].timestamp_ns)[:10]
    assert system.door.get(PNL_DAY, deployment="BLUE", date=day) is not None
    for scan in MARKET[300:]:
        system.scan(scan)
        system.posture("STALKER")
        trader.tick()
    decisions = system.decisions()
    assert [d.scan_number for d in decisions] == [s.scan_number for s in MARKET]
    assert {d.posture for d in decisions[1:]} == {codes.STALKER}


def test_a_grid_that_is_reborn_and_gone_again_leaves_no_position_alone(system: System) -> None:
    """What it should be told cannot be told; the scans are decided from the store all the same."""
    trader = system.trader()
    at = open_bars(_alpha())[20]
    for scan in MARKET[:at]:
        system.scan(scan)
        system.posture("APEX")
        trader.tick()
    system.memory.lose_memory()
    system.peers[0].drop_connection()
    for scan in MARKET[at : at + 5]:
        system.scan(scan)
        with pytest.raises(Exception, match="not reachable"):
            trader.tick()
    decisions = system.decisions()
    assert [d.scan_number for d in decisions] == [s.scan_number for s in MARKET[: at + 5]]
    assert codes.HIBERNATE_HALT in {d.reason for d in decisions[at:]}


def test_a_log_that_grew_again_past_where_the_reader_stood_hides_nothing(system: System) -> None:
    trader = system.trader()
    for scan in MARKET[:50]:
        system.scan(scan)
        trader.tick()
    system.memory.lose_memory()
    for scan in MARKET[50:160]:
        system.scan(scan)
    trader.tick()
    trader.tick()
    assert [d.scan_number for d in system.decisions()] == [s.scan_number for s in MARKET[:160]]


@pytest.mark.parametrize("shape", ["dropped", "doubled", "swapped"])
def test_a_log_that_lacks_repeats_or_swaps_scans(shape: str, system: System) -> None:
    """A scan that comes by the store when the next one is heard is 5 s late, which is not too late."""
    trader = system.trader()
    market = scans(21, 140, symbols=SYMBOLS, interval_ns=5 * NS_PER_S)
    order: list[int] = list(range(len(market)))
    if shape == "swapped":
        order = [k ^ 1 for k in order]
    for n, k in enumerate(order):
        # The scanner has written what its bridge then brings in whatever order.
        for stored in market[: max(order[: n + 1]) + 1]:
            if stored.scan_number >= system.store.next_scan_number():
                system.store.write(stored)
        system.clock.move_to(max(system.clock.now_ns(), market[k].timestamp_ns + 1))
        if not (shape == "dropped" and k % 7 == 3):
            publish_scan(system.door.grid, market[k])
        if shape == "doubled" and k % 5 == 0:
            publish_scan(system.door.grid, market[k])
        trader.tick()
    assert told(system.decisions()) == undisturbed(market)


# the kill switch


def test_halt_forbids_entries_and_manages_the_position(system: System) -> None:
    alone = _alpha()
    entry = next(d.bar_idx for d in alone if d.action == codes.ACTION_ENTER and d.bar_idx > 150)
    trader, switch = system.trader(), KillSwitch(system.home.kill_switch)
    for k, scan in enumerate(MARKET):
        if k == entry + 1:
            switch.engage("HALT", by="op", reason="test", now_ns=0)
        if k == entry + 150:
            switch.lift()
        system.scan(scan)
        trader.tick()
    decisions = system.decisions()
    assert told(decisions)[: entry + 1] == told(alone)[: entry + 1]
    halted = decisions[entry + 1 : entry + 150]
    assert codes.ACTION_ENTER not in {d.action for d in halted}
    assert codes.ACTION_EXIT in {d.action for d in halted}
    assert codes.OPERATOR_HALT in {d.reason for d in halted}
    assert codes.ACTION_ENTER in {d.action for d in decisions[entry + 150 :]}
    journal = Journal.read_only(system.home.trader / "journal.db")
    events = [text for _, kind, text in journal.events() if kind == "kill_switch"]
    journal.close()
    assert events == ["HALT by op since an unknown time: test", "lifted"]
    assert [a.text for a in system.alerts if a.kind == "kill_switch"] == events


def test_flatten_closes_the_position_on_the_next_scan_with_the_grid_dead(system: System) -> None:
    alone = _alpha()
    at = open_bars(alone)[20]
    trader = system.trader()
    for scan in MARKET[:at]:
        system.scan(scan)
        trader.tick()
    system.peers[0].drop_connection()
    KillSwitch(system.home.kill_switch).engage("FLATTEN", by="op", reason="out", now_ns=0)
    for scan in MARKET[at : at + 3]:
        system.scan(scan, publish=False)
        with pytest.raises(Exception, match="not reachable"):
            trader.tick()
    decisions = system.decisions()
    assert decisions[at].action == codes.ACTION_EXIT
    assert decisions[at].reason == codes.HIBERNATE_HALT
    assert decisions[at + 1].action == codes.ACTION_NONE
    # It survives the trader's own restart.
    trader.stop()
    system.peers[0].close()
    again = system.trader()
    for scan in MARKET[at + 3 : at + 60]:
        system.scan(scan)
        again.tick()
    assert codes.ACTION_ENTER not in {d.action for d in system.decisions()[at:]}


# disk, organs, dry run


def test_a_full_disk_stops_the_trader_and_space_lets_it_go_on(system: System) -> None:
    trader = system.trader()
    for scan in MARKET[:150]:
        system.scan(scan)
        trader.tick()
    assert trader.trader is not None
    db = trader.trader.journal._db
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count={pages}")
    k = 150
    while trader.phase == "running":
        system.scan(MARKET[k])
        trader.tick()
        k += 1
    assert k < 300
    assert "free some space, then resume" in trader.health()[1]
    for scan in MARKET[k:]:
        system.scan(scan)
        trader.tick()
    assert told(system.decisions()) == undisturbed()
    fences = system.terms()
    assert [fence for fence, _ in fences] == [1, 2]


def test_a_takeover_that_the_disk_refuses_is_tried_less_and_less_often(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    trader = system.trader()
    tried: list[int] = []

    def refuse(*args: object, **options: object) -> FencedJournal:
        tried.append(system.clock.now_ns())
        raise StoreError("journal.db: database or disk is full; free some space, then resume")

    def ticked(seconds: int) -> None:
        for _ in range(seconds):
            trader.tick()
            system.clock.move_to(system.clock.now_ns() + NS_PER_S)

    with monkeypatch.context() as patch:
        patch.setattr(FencedJournal, "take_term", refuse)
        ticked(130)
    gaps = [(b - a) // NS_PER_S for a, b in itertools.pairwise(tried)]
    assert gaps == [1, 2, 4, 8, 16, 30, 30, 30]
    assert system.context("x").grid.grid.lock("trader_BLUE").locked() is False
    assert trader.health()[0] is False
    # Space again: it leads within the bound, and its first bar on disk makes it patient no longer.
    ticked(31)
    assert trader.phase == "running"
    system.scan(MARKET[0])
    trader.tick()
    assert len(system.decisions()) == 1
    trader._step_down("test")
    tried.clear()
    with monkeypatch.context() as patch:
        patch.setattr(FencedJournal, "take_term", refuse)
        ticked(4)
    assert [(at - tried[0]) // NS_PER_S for at in tried] == [0, 1, 3]


def test_a_disk_that_takes_a_term_and_no_bar_is_not_asked_at_every_turn(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    trader = system.trader()
    trader.tick()

    def refuse(*args: object, **options: object) -> None:
        raise StoreError("journal.db: database or disk is full; free some space, then resume")

    with monkeypatch.context() as patch:
        patch.setattr(FencedJournal, "add_decision", refuse)
        system.scan(MARKET[0])
        for _ in range(60):
            trader.tick()
            system.clock.move_to(system.clock.now_ns() + NS_PER_S)
    assert system.decisions() == []
    assert len(system.terms()) <= 8


def test_what_the_organs_said_is_journalled_when_it_changes_and_known_after_a_restart(
    system: System,
) -> None:
    trader = system.trader()
    for k, scan in enumerate(MARKET[:30]):
        system.scan(scan)
        system.posture("APEX" if k < 10 else "TURTLE")
        trader.tick()
    trader.stop()
    system.peers[0].close()
    journal = Journal.read_only(system.home.trader / "journal.db")
    said = [(i.bar_idx, i.source) for i in inputs_of(journal)]
    journal.close()
    assert said == [(0, "SAFETY"), (10, "SAFETY")]
    # A new process on a grid that knows nothing: the last word holds, and it is old by now.
    system.memory.lose_memory()
    again = system.trader()
    for scan in MARKET[30:33]:
        system.scan(scan)
        again.tick()
    assert {d.posture for d in system.decisions()[31:33]} == {codes.HIBERNATE}


def test_a_folder_with_the_name_of_a_scan_keeps_nobody_from_leading(system: System) -> None:
    trader = system.trader()
    for scan in MARKET[:5]:
        system.scan(scan)
    day = iso_from_ns(MARKET[0].timestamp_ns)[:10]
    (system.store.folder / day / "scan_900000_235959.arrow").mkdir()
    trader.tick()
    assert trader.phase == "running"
    assert [d.scan_number for d in system.decisions()] == [s.scan_number for s in MARKET[:5]]
    assert (system.store.quarantine_folder / "scan_900000_235959.arrow").is_dir()


def test_a_lock_that_is_free_and_cannot_be_taken_over_is_not_well(system: System) -> None:
    trader = system.trader()
    system.home.trader.mkdir(parents=True)
    alone = Journal.create(system.home.trader / "journal.db", trader._identity.recorded())  # type: ignore[union-attr]
    trader.tick()
    assert trader.health()[0] is False
    assert "another process writes this run" in trader.health()[1]
    alone.close()
    system.clock.move_to(system.clock.now_ns() + NS_PER_S)
    trader.tick()
    assert trader.health()[0] is True
    assert trader.fence > 0


def test_a_remembered_word_of_another_schema_starts_the_trader_all_the_same(system: System) -> None:
    trader = system.trader()
    system.scan(MARKET[0])
    trader.tick()
    journal = trader.trader.journal  # type: ignore[union-attr]
    with journal.transaction():
        journal.add_input(0, 0, "SAFETY", b'{"posture":"WIDE OPEN"}')  # type: ignore[attr-defined]
    trader.stop()
    again = system.trader()
    again.tick()
    assert again.phase == "running"


def test_a_dry_run_decides_and_leaves_no_trace(system: System) -> None:
    leader = system.trader()
    dry = system.trader("trader_dry", dry_run=True)
    for scan in MARKET[:200]:
        system.scan(scan)
        leader.tick()
        dry.tick()
    assert dry.phase == "running"
    assert dry.fence == 0
    assert dry.trader is not None
    assert dry.trader.session.next_bar == 200
    scratch = dry.trader.journal.path
    assert scratch.exists()
    dry.stop()
    assert not scratch.exists()
    assert system.terms() == [(1, 0)]
    assert told(system.decisions()) == undisturbed()[:200]


def test_the_fence_is_refused_where_the_grid_has_forgotten(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a grid issues, a term that the journal has seen is not begun again."""
    path = system.home.trader / "journal.db"
    leader = system.trader()
    system.scan(MARKET[0])
    leader.tick()
    leader.stop()
    system.peers[0].close()
    identity = leader._identity
    assert identity is not None
    with pytest.raises(FenceError):
        FencedJournal.take_term(path, identity.recorded(), fence=1, owner="x", now_ns=0)
    again = system.trader()
    again.tick()
    assert again.fence == 2


def test_a_signal_is_told_once_it_is_durable(system: System) -> None:
    trader, bridge = system.trader(), SignalBridgeService(system.context("signal_bridge"))
    bridge.start()
    seen: list[int] = []
    listen: Callable[..., None] = lambda payload, event: seen.append(payload.scan_number)  # noqa: E731
    system.door.listen(SIGNAL, listen, deployment="BLUE")
    for scan in MARKET[:200]:
        system.scan(scan)
        trader.tick()
        bridge.tick()
        bridge.tick()
    active = [d.scan_number for d in system.decisions() if d.action != codes.ACTION_NONE]
    assert seen == active
    assert bridge.health()[1].startswith("told bar ")
