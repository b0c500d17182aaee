"""The event trader over a real journal and the in-process grid, with virtual clocks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from scan_market import SYMBOLS, meta_of, scans, traded, trader_of

from dolphin.domain import codes
from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.domain.errors import DataError, InvariantError, StoreError
from dolphin.domain.params import NAMED_SETS
from dolphin.domain.scan import Scan
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.port import GridUnreachable
from dolphin.grid.topics import ENGINE_SNAPSHOT, LAST_TRADE, PNL_DAY, SAFETY, SIGNAL, SafetyPayload
from dolphin.grid.typed import TypedGrid, publish_scan
from dolphin.host.session import Session, Step
from dolphin.journal.audit import audit
from dolphin.journal.store import Journal
from dolphin.services.trader import Trader

MARKET = scans(21, 420)


@pytest.fixture
def grid() -> Iterator[InProcessGrid]:
    made = InProcessGrid("inline")
    yield made
    made.close()


class Backlog:
    """A scan store in memory, ordered by number as the real one."""

    def __init__(self, stored: list[Scan]) -> None:
        self.stored = stored
        self.asked: list[int] = []

    def __call__(self, after: int) -> Iterator[Scan]:
        self.asked.append(after)
        return iter(sorted((s for s in self.stored if s.scan_number > after), key=lambda s: s.scan_number))


def canonicals(path: Path) -> list[bytes]:
    journal = Journal.read_only(path)
    try:
        return [record for _, _, record in journal.canonicals()]
    finally:
        journal.close()


def plain(tmp_path: Path, market: list[Scan] = MARKET) -> list[bytes]:
    """Decisions of a trader that nothing disturbs."""
    traded(tmp_path / "plain.db", market)
    return canonicals(tmp_path / "plain.db")


def put_posture(grid: InProcessGrid, word: str, at_ns: int) -> None:
    payload = SafetyPayload(posture=word, rm=1.0, updated_at=iso_from_ns(at_ns))
    TypedGrid(grid).put(SAFETY, payload)


# listening


def test_duplicates_late_scans_and_another_universe_are_dropped_and_counted(
    tmp_path: Path, grid: InProcessGrid
) -> None:
    trader = trader_of(tmp_path / "journal.db", grid=TypedGrid(grid))
    trader.start()
    foreign = scans(1, 1, symbols=("BTCUSDT", "ETHUSDT"))[0]
    for k, scan in enumerate(MARKET):
        publish_scan(grid, scan)
        if k % 10 == 0:
            publish_scan(grid, scan)
        if k % 10 == 5:
            publish_scan(grid, MARKET[k - 3])
        if k % 100 == 7:
            publish_scan(grid, foreign)
    trader.check()
    trader.stop()
    trader.journal.close()
    assert trader.counts["scans_dropped"] == 42 + 42
    assert trader.counts["scans_of_another_universe"] == 5
    assert canonicals(tmp_path / "journal.db") == plain(tmp_path)


def test_a_scanner_that_begins_again_at_one_does_not_blind_the_trader(
    tmp_path: Path, grid: InProcessGrid
) -> None:
    trader = trader_of(tmp_path / "journal.db", grid=TypedGrid(grid))
    trader.start()
    for k, scan in enumerate(MARKET):
        publish_scan(grid, msgspec.structs.replace(scan, scan_number=scan.scan_number - 200 * (k >= 200)))
    trader.check()
    trader.journal.close()
    assert canonicals(tmp_path / "journal.db") == plain(tmp_path)


@pytest.mark.parametrize("reset_at", [None, 20, 150, 900])
def test_scans_that_the_log_no_longer_holds_come_from_the_store(
    reset_at: int | None, tmp_path: Path, grid: InProcessGrid
) -> None:
    """1,300 scans while the trader looks away; the log keeps 1,000. The scanner may begin again meanwhile."""
    market = scans(4, 1400, interval_ns=5 * NS_PER_S)
    if reset_at is not None:
        market = [
            msgspec.structs.replace(s, scan_number=s.scan_number - reset_at * (k >= reset_at))
            for k, s in enumerate(market)
        ]
    trader = trader_of(tmp_path / "journal.db", grid=TypedGrid(grid), backlog=Backlog(market))
    trader.start()
    for scan in market[:100]:
        publish_scan(grid, scan)
    trader.stop_listening()
    for scan in market[100:]:
        publish_scan(grid, scan)
    trader.drain()
    trader.journal.close()
    assert trader.counts["scans_read_from_store"] == 300
    assert canonicals(tmp_path / "journal.db") == plain(tmp_path, market)


def test_the_log_that_began_anew_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    first, second = InProcessGrid("inline"), InProcessGrid("inline")
    trader = trader_of(path, grid=TypedGrid(first))
    trader.start()
    for scan in MARKET[:300]:
        publish_scan(first, scan)
    trader.stop_listening()
    trader._grid = TypedGrid(second)
    for scan in MARKET[300:]:
        publish_scan(second, scan)
    trader.drain()
    trader.journal.close()
    assert canonicals(path) == plain(tmp_path)
    first.close()
    second.close()


def test_a_threaded_grid_gives_the_same_decisions(tmp_path: Path) -> None:
    threaded = InProcessGrid("thread")
    last = threading.Event()

    def on_step(step: Step) -> None:
        if step.decision.bar_idx == len(MARKET) - 1:
            last.set()

    trader = trader_of(tmp_path / "journal.db", grid=TypedGrid(threaded), on_step=on_step)
    trader.start()
    for scan in MARKET:
        publish_scan(threaded, scan)
    assert last.wait(60.0)
    trader.check()
    trader.stop()
    trader.journal.close()
    threaded.close()
    assert canonicals(tmp_path / "journal.db") == plain(tmp_path)


# age and posture


def test_a_scan_older_than_ten_seconds_makes_no_entry_and_manages_exits(tmp_path: Path) -> None:
    age = {"ns": 0}
    now = {"ns": 0}
    trader = trader_of(tmp_path / "journal.db", clock=lambda: now["ns"] + age["ns"])
    actions = []
    for scan in MARKET:
        now["ns"] = scan.timestamp_ns
        step = trader.on_scan(scan)
        assert step is not None
        actions.append(step.decision.action)
        if step.decision.action == codes.ACTION_ENTER:
            age["ns"] = 10 * NS_PER_S + 1
    told = [text for _, kind, text in trader.journal.events() if kind == "stale_scan"]
    trader.journal.close()
    assert actions.count(codes.ACTION_ENTER) == 1
    assert actions.count(codes.ACTION_EXIT) == 1
    late = len(actions) - 1 - actions.index(codes.ACTION_ENTER)
    assert trader.counts["scans_stale"] == len(told) == late
    assert "came 10.0 s late: no entry, exits are managed" in told[0]


def test_a_run_with_old_scans_recovers(tmp_path: Path) -> None:
    """What only the host knew, a scan's age, is part of what a recovery must repeat."""
    path = tmp_path / "journal.db"
    now = {"ns": 0}
    trader = trader_of(path, clock=lambda: now["ns"])
    for k, scan in enumerate(MARKET[:300]):
        now["ns"] = scan.timestamp_ns + (60 * NS_PER_S if k % 2 else 0)
        trader.on_scan(scan)
    trader.journal.close()
    again = trader_of(path, backlog=Backlog(MARKET))
    assert again.recover() == 300
    assert again.session.state() == trader.session.state()
    again.journal.close()


def test_a_safety_word_older_than_thirty_seconds_is_hibernate(tmp_path: Path, grid: InProcessGrid) -> None:
    now = {"ns": 0}
    trader = trader_of(tmp_path / "journal.db", grid=TypedGrid(grid), clock=lambda: now["ns"])
    put_posture(grid, "APEX", MARKET[0].timestamp_ns)
    seen = []
    for scan in MARKET[:3]:
        now["ns"] = scan.timestamp_ns
        step = trader.on_scan(scan)
        assert step is not None
        seen.append(codes.POSTURES[step.decision.posture])
    put_posture(grid, "APEX", MARKET[3].timestamp_ns - 30 * NS_PER_S)
    now["ns"] = MARKET[3].timestamp_ns
    step = trader.on_scan(MARKET[3])
    assert step is not None
    seen.append(codes.POSTURES[step.decision.posture])
    trader.journal.close()
    assert seen == ["APEX", "HIBERNATE", "HIBERNATE", "APEX"]


def test_hibernate_closes_the_position_at_once_and_opens_none(tmp_path: Path, grid: InProcessGrid) -> None:
    trader = trader_of(tmp_path / "journal.db", grid=TypedGrid(grid))
    decisions = []
    for scan in MARKET:
        step = trader.on_scan(scan)
        assert step is not None
        decisions.append(step.decision)
        if step.decision.action == codes.ACTION_ENTER:
            put_posture(grid, "HIBERNATE", scan.timestamp_ns)
    trader.journal.close()
    entered = next(d.bar_idx for d in decisions if d.action == codes.ACTION_ENTER)
    assert decisions[entered + 1].reason == codes.HIBERNATE_HALT
    assert decisions[entered + 1].action == codes.ACTION_EXIT
    assert {d.action for d in decisions[entered + 2 :]} == {codes.ACTION_NONE}


@pytest.mark.parametrize("word", ["STALKER", "CAUTION"])
def test_stalker_caps_conviction_at_two(word: str, tmp_path: Path, grid: InProcessGrid) -> None:
    put_posture(grid, word, MARKET[0].timestamp_ns)
    trader = trader_of(tmp_path / "journal.db", grid=TypedGrid(grid))
    for scan in MARKET:
        trader.on_scan(scan)
    entries = [d for d in trader.journal.decisions() if d.action == codes.ACTION_ENTER]
    trader.journal.close()
    assert max(d.leverage for d in entries) == 2.0
    assert codes.BOUND_POSTURE in {d.bound for d in entries}


def test_the_posture_while_none_was_read_is_the_hosts_choice(tmp_path: Path, grid: InProcessGrid) -> None:
    trader = trader_of(
        tmp_path / "journal.db", grid=TypedGrid(grid), posture_when_unknown=codes.posture_code("HIBERNATE")
    )
    for scan in MARKET[:200]:
        trader.on_scan(scan)
    assert {d.action for d in trader.journal.decisions()} == {codes.ACTION_NONE}
    trader.journal.close()


def test_a_long_and_a_short_run_side_by_side_never_mix_directions(
    tmp_path: Path, grid: InProcessGrid
) -> None:
    blue = trader_of(tmp_path / "blue.db", "gold", grid=TypedGrid(grid), deployment="BLUE")
    green = trader_of(tmp_path / "green.db", "green", grid=TypedGrid(grid), deployment="GREEN")
    blue.start()
    green.start()
    for scan in MARKET:
        publish_scan(grid, scan)
    for trader, side in ((blue, -1), (green, 1)):
        trader.check()
        trades = trader.journal.trades()
        assert trades
        assert {t.direction for t in trades} == {side}
        deployment = trader.session.deployment
        assert {t.trade_id.split("-")[0] for t in trades} == {deployment}
        last = TypedGrid(grid).get(LAST_TRADE, deployment=deployment)
        assert last is not None
        assert last.side == side
        assert last.trade_id == trades[-1].trade_id
        trader.journal.close()


# what the grid sees


def test_days_are_published_once_with_their_result(tmp_path: Path, grid: InProcessGrid) -> None:
    market = scans(9, 400, interval_ns=480 * NS_PER_S)
    trader = trader_of(tmp_path / "journal.db", grid=TypedGrid(grid))
    seen: list[str] = []
    grid.map("DOLPHIN_PNL_BLUE").listen(
        lambda event: seen.append(event.key) if event.key.startswith("20") else None
    )
    for scan in market:
        trader.on_scan(scan)
    days = trader.journal.days()
    trader.journal.close()
    assert seen == [day["date"] for day in days] == ["2026-01-05", "2026-01-06", "2026-01-07"]
    for day in days:
        told = TypedGrid(grid).get(PNL_DAY, date=day["date"], deployment="BLUE")
        assert told is not None
        assert (told.pnl, told.capital, told.trades) == (day["pnl"], day["capital"], day["trades"])


def test_nothing_is_visible_before_it_is_durable(tmp_path: Path, grid: InProcessGrid) -> None:
    """A listener opens the journal's file on its own, at each publication, while the writer has it open."""
    path = tmp_path / "journal.db"
    trader = trader_of(path, grid=TypedGrid(grid))
    told: list[tuple[str, int]] = []

    def look(kind: str, bar: int, trade_id: str | None = None, date: str | None = None) -> None:
        journal = Journal.read_only(path)
        try:
            assert journal.last_bar() >= bar
            if trade_id is not None:
                assert trade_id in {t.trade_id for t in journal.trades()}
            if date is not None:
                assert date in {day["date"] for day in journal.days()}
        finally:
            journal.close()
        told.append((kind, bar))

    typed, blue = TypedGrid(grid), {"deployment": "BLUE"}
    typed.listen(ENGINE_SNAPSHOT, lambda p, e: look("snapshot", p.scan_count - 1), **blue)
    typed.listen(SIGNAL, lambda p, e: look("signal", (p.scan_number or 0) - 1), **blue)
    typed.listen(LAST_TRADE, lambda p, e: look("trade", 0, trade_id=p.trade_id), **blue)
    typed.listen(PNL_DAY, lambda p, e: look("day", 0, date=p.date), date="2026-01-05", **blue)
    for scan in MARKET:
        trader.on_scan(scan)
    assert grid.failures == ()
    kinds = [kind for kind, _ in told]
    assert kinds.count("snapshot") == len(MARKET)
    assert kinds.count("trade") == len(trader.journal.trades())
    assert kinds.count("day") == 1
    assert "signal" in kinds
    trader.journal.close()


def test_a_grid_that_is_away_costs_nothing_and_hears_the_rest_later(
    tmp_path: Path, grid: InProcessGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = TypedGrid(grid)
    trader = trader_of(tmp_path / "journal.db", grid=typed)
    put = typed.put
    away = {"now": False}

    def sometimes(topic, payload, **parts) -> None:
        if away["now"]:
            raise GridUnreachable("the grid is away")
        put(topic, payload, **parts)

    monkeypatch.setattr(typed, "put", sometimes)
    for k, scan in enumerate(MARKET):
        away["now"] = 90 <= k < len(MARKET) - 1
        trader.on_scan(scan)
    assert trader.counts["publications_failed"] == len(MARKET) - 91
    last = typed.get(LAST_TRADE, deployment="BLUE")
    assert last is not None
    assert last.trade_id == trader.journal.trades()[-1].trade_id
    assert typed.get(PNL_DAY, date="2026-01-05", deployment="BLUE") is not None
    snapshot = typed.get(ENGINE_SNAPSHOT, deployment="BLUE")
    assert snapshot is not None
    assert snapshot.scan_count == len(MARKET)
    trader.journal.close()
    assert canonicals(tmp_path / "journal.db") == plain(tmp_path)


def test_after_a_restart_the_grid_shows_what_the_journal_holds(tmp_path: Path, grid: InProcessGrid) -> None:
    path = tmp_path / "journal.db"
    cut = 1 + max(
        k
        for k, scan in enumerate(MARKET[:-1])
        if scan.timestamp_ns < MARKET[0].timestamp_ns + 4 * 3600 * NS_PER_S
    )
    traded(path, MARKET[:cut])
    trader = trader_of(path, grid=TypedGrid(grid), backlog=Backlog(MARKET))
    trader.recover()
    trades, days = trader.journal.trades(), trader.journal.days()
    assert trades
    assert days
    trader.on_scan(MARKET[cut])
    last = TypedGrid(grid).get(LAST_TRADE, deployment="BLUE")
    assert last is not None
    assert last.trade_id == trader.journal.trades()[-1].trade_id
    assert TypedGrid(grid).get(PNL_DAY, date=days[0]["date"], deployment="BLUE") is not None
    trader.journal.close()


# recovery


@pytest.mark.parametrize("cut", [1, 99, 180, 300, 419])
def test_recovery_goes_on_to_the_same_bytes(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    killed = trader_of(path)
    for scan in MARKET[:cut]:
        killed.on_scan(scan)
    killed.journal.close()
    trader = trader_of(path, backlog=Backlog(MARKET))
    assert trader.recover() == cut
    assert trader.unreplayed == 0
    assert trader.session.state() == killed.session.state()
    assert (trader.ledger.balance, trader.ledger.trades) == (killed.ledger.balance, killed.ledger.trades)
    assert trader.catch_up() == len(MARKET) - cut
    trader.journal.close()
    assert canonicals(path) == plain(tmp_path)


def test_recovery_begins_at_the_newest_snapshot(tmp_path: Path) -> None:
    market = scans(4, 1300)
    path = tmp_path / "journal.db"
    killed = trader_of(path)
    for scan in market[:1207]:
        killed.on_scan(scan)
    killed.journal.close()
    backlog = Backlog(market)
    trader = trader_of(path, backlog=backlog)
    assert trader.recover() == 207
    assert backlog.asked == [1000]
    assert trader.session.state() == killed.session.state()
    trader.journal.close()


def test_lost_scans_are_compared_when_the_feed_gives_them_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    killed = trader_of(path)
    for scan in MARKET[:300]:
        killed.on_scan(scan)
    killed.journal.close()
    trader = trader_of(path, backlog=Backlog(MARKET[:250] + MARKET[251:]))
    assert trader.recover() == 250
    assert trader.unreplayed == 50
    assert trader.catch_up() == 0
    for scan in MARKET:
        trader.on_scan(scan)
    assert trader.unreplayed == 0
    trader.journal.close()
    assert canonicals(path) == plain(tmp_path)


def test_scans_lost_for_good_stop_the_run_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    traded(path, MARKET[:300])
    journal = Journal.open(path)
    journal._db.execute("DELETE FROM snapshots")
    journal.close()
    trader = trader_of(path, backlog=Backlog(MARKET[:250]))
    trader.recover()
    with pytest.raises(InvariantError, match=r"scan 251 of bar 250 is lost .* restore arrow_scans/"):
        trader.on_scan(MARKET[300])
    with pytest.raises(InvariantError, match="scan 251"):
        trader.on_scan(MARKET[301])
    trader.journal.close()


def test_changed_scans_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    killed = trader_of(path)
    for scan in MARKET[:300]:
        killed.on_scan(scan)
    entered = next(d.bar_idx for d in killed.journal.decisions() if d.action == codes.ACTION_ENTER)
    killed.journal.close()
    changed = list(MARKET)
    changed[entered] = msgspec.structs.replace(changed[entered], vel_div=-0.0201)
    trader = trader_of(path, backlog=Backlog(changed))
    with pytest.raises(InvariantError, match="differs from the journal; scans or code have changed"):
        trader.recover()
    trader.journal.close()


def test_a_damaged_snapshot_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    traded(path, MARKET[:50])
    journal = Journal.open(path)
    journal._db.execute("UPDATE snapshots SET state = x'00ff'")
    journal.close()
    trader = trader_of(path)
    with pytest.raises(DataError, match="the snapshot is damaged"):
        trader.recover()
    trader.journal.close()


# failures and violated invariants


def test_after_a_failed_commit_nothing_is_decided_until_a_recovery(
    tmp_path: Path, grid: InProcessGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listener's error stays in the grid; a trader that went on would leave a hole in its journal."""
    path = tmp_path / "journal.db"
    trader = trader_of(path, grid=TypedGrid(grid))
    trader.start()
    add = trader.journal.add_decision

    def full(decision, *values) -> None:
        if decision.bar_idx == 200:
            raise StoreError("the disk is full")
        add(decision, *values)

    monkeypatch.setattr(trader.journal, "add_decision", full)
    for scan in MARKET[:250]:
        publish_scan(grid, scan)
    with pytest.raises(StoreError, match="the disk is full"):
        trader.check()
    with pytest.raises(StoreError, match="the disk is full"):
        trader.stop()
    assert trader.journal.last_bar() == 199
    snapshot = TypedGrid(grid).get(ENGINE_SNAPSHOT, deployment="BLUE")
    assert snapshot is not None
    assert snapshot.scan_count == 200
    trader.journal.close()
    again = trader_of(path, backlog=Backlog(MARKET))
    again.recover()
    again.catch_up()
    again.journal.close()
    assert canonicals(path) == plain(tmp_path)


def violated(path: Path, grid: InProcessGrid | None = None, n_bars: int = len(MARKET)) -> Trader:
    """A trader whose engine reports a net that its fills do not give, on its second trade."""

    class Session2(Session):
        def _follow(self, decision):
            trade = super()._follow(decision)
            if trade is not None and trade.trade_id.endswith("000002"):
                trade = msgspec.structs.replace(trade, net=trade.net + 0.01)
            return trade

    journal = Journal.open(path) if path.exists() else Journal.create(path, meta_of("gold"))
    session = Session2(NAMED_SETS["gold"], SYMBOLS)
    trader = Trader(session, journal, None if grid is None else TypedGrid(grid), backlog=Backlog(MARKET))
    trader.recover()
    for scan in MARKET[session.next_bar : n_bars]:
        trader.on_scan(scan)
    return trader


def test_a_violated_invariant_stops_entries_is_journalled_and_shown(
    tmp_path: Path, grid: InProcessGrid
) -> None:
    trader = violated(tmp_path / "journal.db", grid)
    journal = trader.journal
    assert trader.session.halted
    assert trader.counts["invariants_violated"] == 1
    events = [text for _, kind, text in journal.events() if kind == "invariant"]
    assert len(events) == 1
    assert "BLUE-2026-01-05-000002" in events[0]
    assert "\n" not in events[0]
    assert len(journal.trades()) == 1
    decisions = list(journal.decisions())
    exits = [d.bar_idx for d in decisions if d.action == codes.ACTION_EXIT]
    assert len(exits) == 2
    assert {d.action for d in decisions[exits[1] + 1 :]} == {codes.ACTION_NONE}
    assert codes.LEDGER_HALT in {d.reason for d in decisions}
    snapshot = TypedGrid(grid).get(ENGINE_SNAPSHOT, deployment="BLUE")
    assert snapshot is not None
    assert snapshot.detail["halted"] is True
    result = audit(journal, NAMED_SETS["gold"])
    assert not result.balanced
    assert any("an exit without a booked trade" in text for text in result.findings)
    journal.close()


@pytest.mark.parametrize("after", [0, 1, 30])
def test_a_halt_outlives_a_crash(after: int, tmp_path: Path) -> None:
    """No snapshot holds the halt yet: the recovery must find it again."""
    whole = violated(tmp_path / "whole.db")
    halted_at = [d.bar_idx for d in whole.journal.decisions() if d.action == codes.ACTION_EXIT][1]
    expected = [record for _, _, record in whole.journal.canonicals()]
    whole.journal.close()
    path = tmp_path / "journal.db"
    violated(path, n_bars=halted_at + 1 + after).journal.close()
    again = violated(path)
    assert again.session.halted
    assert [record for _, _, record in again.journal.canonicals()] == expected
    again.journal.close()


def test_a_position_is_still_managed_after_a_violation(tmp_path: Path) -> None:
    """The violation may come from elsewhere while a position is open; its exit is decided and booked."""
    trader = trader_of(tmp_path / "journal.db")
    for scan in MARKET:
        step = trader.on_scan(scan)
        assert step is not None
        if step.decision.action == codes.ACTION_ENTER:
            trader.session.halt()
    trades = trader.journal.trades()
    assert len(trades) == 1
    assert audit(trader.journal, NAMED_SETS["gold"]).balanced
    trader.journal.close()
