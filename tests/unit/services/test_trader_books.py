"""Books on the grid reach the trader's decisions, survive its death, and are replayed from the journal."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_trader_service import MARKET, SETTINGS, SYMBOLS, System, told, undisturbed

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.codes import BOOKS_ABSENT, BOOKS_DEGRADED
from dolphin.grid.books import payload_of
from dolphin.grid.port import GridError
from dolphin.grid.topics import ASSET_OB
from dolphin.host.session import Session
from dolphin.journal.books import readings_of
from dolphin.journal.store import Journal
from dolphin.orderbook.snapshot import BookSnapshot
from dolphin.services import book_cache
from dolphin.services.book_cache import BookFile, write_cache
from dolphin.services.feeds import parameters_of
from dolphin.services.replaying import replay

FIRST, SILENT = 40, 300
#: While these bars pass the file says that the grid does not take books.
SHUT, OPEN = 100, 160


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path)
    yield made
    made.close()


def books_at(now_ns: int, k: int) -> dict[str, BookSnapshot]:
    """Whole books of every asset as they stand at bar k: a lean that swings, a depth that falls."""
    books = {}
    for i, symbol in enumerate(SYMBOLS):
        lean = 0.3 * np.sin(k / 9.0 + i)
        side = np.arange(1.0, 6.0) * 1e6 * (1.5 + np.cos(k / 31.0))
        books[symbol] = BookSnapshot(
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
    return books


def publish_books(system: System, k: int) -> None:
    for symbol, book in books_at(system.clock.now_ns(), k).items():
        system.door.put(ASSET_OB, payload_of(book), symbol=symbol)


def write_file(system: System, k: int, circuit: Any = "open") -> None:
    """The file as the book service writes it at bar k."""
    now_ns = system.clock.now_ns()
    payloads = {symbol: payload_of(book) for symbol, book in books_at(now_ns, k).items()}
    write_cache(system.home.ob_cache, BookFile(written_ns=now_ns, circuit=circuit, books=payloads))


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most a minute."""
    pause, end = threading.Event(), time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < end
        pause.wait(0.002)


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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is looked at often: the clock of these tests does not wait for it."""
    monkeypatch.setattr(book_cache, "LOOK_EVERY_S", 0.002)


@pytest.mark.usefixtures("quick")
def test_while_the_grid_takes_no_books_they_come_from_the_file_with_the_same_decisions(
    system: System, tmp_path: Path
) -> None:
    trader = system.trader()
    for k in range(250):
        system.clock.move_to(MARKET[k].timestamp_ns)
        if FIRST <= k < SHUT or k >= OPEN:
            publish_books(system, k)
        elif k >= SHUT:
            # Five seconds a bar: what the grid has is too old after the first one.
            write_file(system, k)
            until(lambda: trader.book_file.written_ns == system.clock.now_ns())
        if k == OPEN:
            write_file(system, k, "closed")
            until(lambda: trader.book_file.written_ns == system.clock.now_ns())
        system.scan(MARKET[k])
        trader.tick()
    trader.stop()
    by_file = system.decisions()
    labels = [d.books for d in by_file]
    assert set(labels[FIRST:SHUT]) == {"grid"}
    assert set(labels[SHUT:OPEN]) == {"file"}
    assert set(labels[OPEN:]) == {"grid"}
    journal = Journal.read_only(system.home.trader / "journal.db")
    events = [text for _, kind, text in journal.events() if kind == "books"]
    assert events == [
        "books come from latest_ob_features.json: their writer's way to the grid is shut",
        "books come from the grid again",
    ]
    digest = replay(journal, MARKET[:250], Session(parameters_of(SETTINGS)[1], SYMBOLS))
    assert digest == journal.decisions_sha256()
    journal.close()

    other = System(tmp_path / "grid-alone")
    trader = other.trader()
    for k in range(250):
        other.clock.move_to(MARKET[k].timestamp_ns)
        if k >= FIRST:
            publish_books(other, k)
        other.scan(MARKET[k])
        trader.tick()
    trader.stop()
    assert told(other.decisions()) == told(by_file)
    other.close()


@pytest.mark.usefixtures("quick")
def test_a_trader_whose_grid_refuses_reads_books_from_the_file_and_scans_from_the_store(
    system: System,
) -> None:
    trader = system.trader()
    for k in range(SHUT):
        pass_bar(system, k)
        trader.tick()
    system.peers[0].drop_connection()
    for k in range(SHUT, OPEN):
        system.clock.move_to(MARKET[k].timestamp_ns)
        write_file(system, k)
        until(lambda: trader.book_file.written_ns == system.clock.now_ns())
        system.scan(MARKET[k])
        with contextlib.suppress(GridError):
            trader.tick()
    labels = [d.books for d in system.decisions()]
    assert len(labels) == OPEN
    assert set(labels[SHUT:]) == {"file"}
    # A writer that is gone leaves a file, which nobody believes five seconds later.
    for k in range(OPEN, OPEN + 10):
        system.clock.move_to(MARKET[k].timestamp_ns)
        system.scan(MARKET[k])
        with contextlib.suppress(GridError):
            trader.tick()
    trader.stop()
    labels = [d.books for d in system.decisions()]
    assert labels[-1] == BOOKS_DEGRADED


def test_the_watch_ends_with_the_trader_and_its_decisions_need_none(system: System) -> None:
    before = set(threading.enumerate())
    trader = system.trader()
    pass_bar(system, 0)
    trader.tick()
    watching = [t for t in set(threading.enumerate()) - before if t.name == "book-file"]
    assert len(watching) == 1
    trader.stop()
    assert not watching[0].is_alive()
