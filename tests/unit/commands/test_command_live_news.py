"""What a live run tells while it goes: an exchange that is away, symbols, books; and notes at the end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import invoke, spawn

from dolphin.commands.live_news import LiveNews
from exchange import LoopbackExchange, SyntheticMarket

UNIVERSE = "[BTCUSDT, ETHUSDT, NOPEUSDT]\n"


@pytest.fixture
def x() -> Iterator[LoopbackExchange]:
    with LoopbackExchange(SyntheticMarket(2, seed=7), speed=1.0, life_s=120.0) as running:
        yield running


def live_run(url: str, *words: str) -> tuple[str, ...]:
    Path("u.yml").write_text(UNIVERSE)
    live = ("run", "--feed", "binance", "--universe", "u.yml", "--base-url", url, "--books", "off")
    return (*live, "--out", "live", "--no-report", *words)


def test_a_run_that_waits_for_the_exchange_says_so_and_ends_with_one_interrupt(x: LoopbackExchange) -> None:
    x.faults.add("status", path="*", value=503)
    process = spawn(*live_run(x.url))
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith("waiting for the exchange: "):
            break
    assert "503" in seen[-1], seen
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60.0)
    assert process.returncode == 130, err
    assert "interrupted: day and position are kept" in err


def test_symbols_that_are_not_traded_are_told_at_once_and_notes_at_the_end(x: LoopbackExchange) -> None:
    told = invoke(*live_run(x.url, "--bars", "751"))
    assert told.code == 0, told.err
    assert "1 symbol not traded on the exchange now: NOPEUSDT" in told.err
    assert "  note       1 symbol not traded on the exchange now: NOPEUSDT." in told.out
    assert "filled from one-minute klines" not in told.out


def test_books_that_come_or_go_are_told_once() -> None:
    lines: list[str] = []
    feed: Any = SimpleNamespace(notes=[], news=None, stop_requested=None)
    news = LiveNews(feed, lines.append, lambda: False, books=True)
    for books in ("absent", "absent", "binance", "binance", "degraded", "degraded", "binance"):
        step: Any = SimpleNamespace(decision=SimpleNamespace(books=books))
        news.step(step)
    there = "order books are there, from binance"
    assert lines == ["no order books yet", there, "order books went silent", there]
    feed.news("prices are gone")
    assert lines[-1] == "prices are gone"


def test_a_run_without_live_books_tells_nothing_of_them() -> None:
    lines: list[str] = []
    recorded: Any = SimpleNamespace(notes=[])
    live: Any = SimpleNamespace(notes=[], news=None, stop_requested=None)
    step: Any = SimpleNamespace(decision=SimpleNamespace(books="absent"))
    for feed, books in ((recorded, True), (live, False)):
        LiveNews(feed, lines.append, lambda: False, books=books).step(step)
    assert lines == []


def test_a_recording_refuses_a_folder_that_is_none_before_it_asks(x: LoopbackExchange) -> None:
    Path("file").write_text("mine")
    seen = len(x.meter.requests)
    for out, said in (("file", "--out file: is a file"), ("file/sub", "cannot be written (Not a directory)")):
        told = invoke("record", "--out", out, "--symbols", "BTCUSDT", "--base-url", x.url)
        assert told.code != 0
        assert said in told.err
    assert len(x.meter.requests) == seen
    assert Path("file").read_text() == "mine"


def test_a_recording_of_nothing_names_it_and_leaves_no_folder(x: LoopbackExchange) -> None:
    told = invoke("record", "--out", "rec", "--symbols", "NOPEUSDT", "--base-url", x.url)
    assert told.code == 1
    assert "nothing to record: 1 symbol not traded on the exchange now: NOPEUSDT" in told.err
    assert not Path("rec").exists()


def test_a_recording_tells_symbols_that_are_not_traded_before_it_ends(x: LoopbackExchange) -> None:
    process = spawn("record", "--out", "rec", "--symbols", "BTCUSDT,NOPEUSDT", "--base-url", x.url)
    assert process.stderr is not None
    for line in process.stderr:
        if "NOPEUSDT" in line:
            break
    x.wait(lambda: "btcusdt@aggTrade" in x.meter.subscriptions)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60.0)
    assert "not traded on the exchange now: NOPEUSDT" in line
    assert "stopping; once more to stop at once" in err
    assert "messages in" in out or "message in" in out


def test_a_dead_port_is_told_with_its_reason() -> None:
    download = ("data", "download", "--symbols", "BTCUSDT", "--from", "2026-01-01", "--out", "k.parquet")
    process = spawn(*download, "--base-url", "http://127.0.0.1:1")
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("waiting for the exchange"):
            break
    assert "Connection refused" in lines[-1], lines
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60.0)
    assert process.returncode == 130, err
    assert "stopping after this page" in err
    assert not list(Path().iterdir())
