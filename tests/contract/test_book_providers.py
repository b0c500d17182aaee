"""One contract for every source of books: what a read gives, that it never waits, and how long it takes."""

from __future__ import annotations

import math
import os
import threading
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dolphin.feeds.book_view import BookView
from dolphin.grid.books import payload_of
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.topics import ASSET_OB
from dolphin.grid.typed import TypedGrid
from dolphin.market.book_files import PartWriter, snapshot_table
from dolphin.market.book_schema import SNAPSHOT_SCHEMA
from dolphin.market.recorded_books import RecordedBooks
from dolphin.orderbook.engine import BookEngine
from dolphin.orderbook.mock import MockBooks
from dolphin.orderbook.provider import BookProvider
from dolphin.orderbook.snapshot import BookSnapshot
from dolphin.services.book_cache import BookFile, CachedBooks, FileFirstBooks, Watch, write_cache
from dolphin.services.grid_books import GridBooks

S = 1_000_000_000
SYMBOLS = tuple(f"A{i}USDT" for i in range(50))


def snapshot(at_ns: int, scale: float = 1.0) -> BookSnapshot:
    bid, ask = np.arange(5.0) * scale + 10.0, np.full(5, 12.0)
    ask[4] = np.nan
    return BookSnapshot(
        at_ns, bid, ask, bid / 2.0, ask / 2.0, math.inf, 433.5, 100.0, 10.0, 12.0, at_ns + S, at_ns // S
    )


def mock(folder: Path) -> tuple[BookProvider, Any]:
    return MockBooks(), lambda: None


def recorded(folder: Path) -> tuple[BookProvider, Any]:
    rows = [(symbol, snapshot(t * S)) for t in (9, 10) for symbol in SYMBOLS]
    [path] = PartWriter(folder, SNAPSHOT_SCHEMA).write([snapshot_table(rows)])
    provider = RecordedBooks(folder)
    return provider, path.unlink


def exchange(folder: Path) -> tuple[BookProvider, Any]:
    view = BookView()
    for symbol in SYMBOLS:
        view.put(symbol, snapshot(10 * S))
    return view, view._writing.acquire  # a writer that never comes back


def grid(folder: Path) -> tuple[BookProvider, Any]:
    shared = InProcessGrid()
    door = TypedGrid(shared)
    provider = GridBooks(door)
    for symbol in SYMBOLS:
        door.put(ASSET_OB, payload_of(snapshot(10 * S)), symbol=symbol)

    def hang() -> None:
        """Whoever asks the grid from now on waits for ever."""
        never = threading.Event()
        for name in ("get", "get_all", "keys", "entries"):
            setattr(type(shared.map("DOLPHIN_FEATURES")), name, lambda *_: never.wait())

    return provider, hang


hanging: list[tuple[Path, Watch]] = []


def file(folder: Path) -> tuple[BookProvider, Any]:
    """The grid's books are away and the file's in force."""
    books = {symbol: payload_of(snapshot(10 * S)) for symbol in SYMBOLS}
    write_cache(folder, BookFile(written_ns=10 * S, circuit="open", books=books))
    cached = CachedBooks(folder)
    provider = FileFirstBooks(GridBooks(TypedGrid(InProcessGrid())), cached)
    cached.refresh()
    provider.advance(10 * S)

    def hang() -> None:
        """Whoever opens the file from now on waits for ever, like on a disk that does not answer."""
        cached.path.unlink()
        os.mkfifo(cached.path)
        hanging.append((cached.path, Watch(cached)))

    return provider, hang


@pytest.fixture(params=[mock, recorded, exchange, grid, file], ids=lambda made: made.__name__)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[BookProvider, Callable[[], Any]]]:
    with pytest.MonkeyPatch.context() as patch:
        kind = type(InProcessGrid().map("DOLPHIN_FEATURES"))
        for name in ("get", "get_all", "keys", "entries"):
            patch.setattr(kind, name, getattr(kind, name))  # put back what `hang` replaces
        yield request.param(tmp_path)
        for path, watch in hanging:
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
            watch.stop()
        hanging.clear()


def test_labels_differ(tmp_path: Path) -> None:
    labels = [
        each(tmp_path / str(i))[0].label for i, each in enumerate((mock, recorded, exchange, grid, file))
    ]
    assert labels == ["mock", "recorded", "binance", "grid", "file"]


def test_a_read_gives_the_newest_snapshot(made: tuple[BookProvider, Any]) -> None:
    provider, _ = made
    provider.advance(10 * S)
    found = provider.newest(SYMBOLS[3])
    assert found is not None
    assert found.timestamp_ns == 10 * S
    if provider.label != "mock":
        assert provider.newest("NOSUCH") is None
        expected = snapshot(10 * S)
        for name in BookSnapshot.__slots__:
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def test_no_read_waits_for_its_source(made: tuple[BookProvider, Any]) -> None:
    """The source is held by somebody who never lets go; the decision path goes on with what has arrived."""
    provider, hold = made
    hold()
    engine = BookEngine(SYMBOLS)
    reports: list[Any] = []

    def decide() -> None:
        provider.advance(10 * S)
        reports.append(engine.step_live(0, 10 * S, provider.newest))

    path = threading.Thread(target=decide, daemon=True)
    path.start()
    path.join(timeout=60.0)
    assert not path.is_alive(), f"reading from {provider.label} waits for its source"
    assert reports[0].n_fresh == len(SYMBOLS)


def test_a_read_takes_less_than_ten_microseconds(made: tuple[BookProvider, Any]) -> None:
    provider, _ = made
    provider.advance(10 * S)
    per_read = min(timeit.repeat(lambda: provider.newest(SYMBOLS[7]), number=500, repeat=7)) / 500
    assert per_read < 10e-6


def test_a_new_payload_is_read_in_less_than_ten_microseconds_too() -> None:
    """The first read of a payload makes its arrays."""
    shared = InProcessGrid()
    door, times = TypedGrid(shared), []
    provider = GridBooks(door)
    for t in range(200):
        door.put(ASSET_OB, payload_of(snapshot(t * S)), symbol="BTCUSDT")
        times.append(timeit.timeit(lambda: provider.newest("BTCUSDT"), number=1))
    found = provider.newest("BTCUSDT")
    assert found is not None
    assert found.timestamp_ns == 199 * S
    assert sorted(times)[50] < 10e-6
