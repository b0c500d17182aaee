"""Books on the grid reach the trader's decisions, survive its death, and are replayed from the journal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_trader_service import MARKET, SETTINGS, SYMBOLS, System, told, undisturbed

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.codes import BOOKS_ABSENT, BOOKS_DEGRADED
from dolphin.grid.books import payload_of
from dolphin.grid.topics import ASSET_OB
from dolphin.host.session import Session
from dolphin.journal.books import readings_of
from dolphin.journal.store import Journal
from dolphin.orderbook.snapshot import BookSnapshot
from dolphin.services.feeds import parameters_of
from dolphin.services.replaying import replay

FIRST, SILENT = 40, 300


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path)
    yield made
    made.close()


def publish_books(system: System, k: int) -> None:
    """Whole books of every asset as they stand at bar k: a lean that swings, a depth that falls."""
    now_ns = system.clock.now_ns()
    for i, symbol in enumerate(SYMBOLS):
        lean = 0.3 * np.sin(k / 9.0 + i)
        side = np.arange(1.0, 6.0) * 1e6 * (1.5 + np.cos(k / 31.0))
        book = BookSnapshot(
            timestamp_ns=now_ns,
            bid_notional=side * (1.0 - lean),
            ask_notional=side * (1.0 + lean),
            bid_depth=side / 10.0,
            ask_depth=side / 10.0,
            bid_coverage_bps=float("inf"),
            ask_coverage_bps=float("inf"),
            visible_bps=100.0,
            visible_bid=float(side[0] * (1.0 - lean)),
            visible_ask=float(side[0] * (1.0 + lean)),
            pushed_ns=now_ns,
            push_seq=k * 100 + i,
        )
        system.door.put(ASSET_OB, payload_of(book), symbol=symbol)


def pass_bar(system: System, k: int) -> None:
    system.clock.move_to(MARKET[k].timestamp_ns)
    if FIRST <= k < SILENT:
        publish_books(system, k)
    system.scan(MARKET[k])


def test_without_books_they_are_absent_and_nothing_is_kept_of_them(system: System) -> None:
    trader = system.trader()
    for k in range(30):
        pass_bar(system, k)
        trader.tick()
    trader.stop()
    journal = Journal.read_only(system.home.trader / "journal.db")
    assert {d.books for d in journal.decisions()} == {BOOKS_ABSENT}
    assert list(readings_of(journal)) == []
    journal.close()


@pytest.mark.parametrize("killed_at", [None, 10, 41, 150, 299, 302, 350])
def test_books_reach_the_decisions_and_a_killed_trader_goes_on_with_them(
    killed_at: int | None, system: System
) -> None:
    trader = system.trader()
    for k in range(len(MARKET)):
        pass_bar(system, k)
        trader.tick()
        if k == killed_at:
            # kill -9: its session ends, nothing is kept; the next one recovers from the journal
            system.peers[0].close()
            trader = system.trader()
            for _ in range(3):
                trader.tick()
    decisions = system.decisions()
    labels = [d.books for d in decisions]
    assert len(decisions) == len(MARKET)
    assert labels[:FIRST] == [BOOKS_ABSENT] * FIRST
    assert set(labels[FIRST:SILENT]) == {"grid"}
    # A bar of 5 s is as old as a book may be; from the third silent bar on they count as absent.
    assert labels[SILENT + 4 :] == [BOOKS_DEGRADED] * (len(MARKET) - SILENT - 4)
    assert told(decisions) != undisturbed()
    assert {d.lane_ob for d in decisions if d.asset} != {1.0}
    journal = Journal.read_only(system.home.trader / "journal.db")
    assert [bar for bar, _ in readings_of(journal)] == list(range(FIRST, len(MARKET)))
    digest = replay(journal, MARKET, Session(parameters_of(SETTINGS)[1], SYMBOLS))
    assert digest == journal.decisions_sha256()
    journal.close()
    trader.stop()


def test_a_book_of_a_stopped_flow_is_not_believed(system: System) -> None:
    trader = system.trader()
    for k in range(FIRST, FIRST + 10):
        system.clock.move_to(MARKET[k].timestamp_ns)
        if k == FIRST:
            publish_books(system, k)
        system.scan(MARKET[k])
        trader.tick()
    system.clock.move_to(system.clock.now_ns() + 60 * NS_PER_S)
    trader.stop()
    labels = [d.books for d in system.decisions()]
    assert labels[0] == "grid"
    assert labels[-1] == BOOKS_DEGRADED
