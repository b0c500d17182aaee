"""A recording of raw messages made into what a run reads: a panel of closes, and books in bands.

Entry point: `build_market`. The panel is `prices.parquet`; the books lie under `ob_snapshots/`, a snapshot
each `books_every_ns` at most, and none where a book was not known. An output that is there already is
refused: a second build beside the first would repeat its books.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import DataError, StoreError, UsageError
from dolphin.market.book_files import PartWriter, snapshot_table
from dolphin.market.book_messages import Source, symbols_in
from dolphin.market.book_recording import BookReplay
from dolphin.market.book_schema import SNAPSHOT_FOLDER, SNAPSHOT_SCHEMA
from dolphin.market.trade_bars import TradeBars, bars_of, read_trades, write_panel
from dolphin.orderbook.snapshot import BookSnapshot

PANEL_FILE: Final = "prices.parquet"
#: Snapshots of one symbol that are written as one part.
_PART_ROWS: Final = 20_000


@dataclass(slots=True)
class RecordedMarket:
    """What was made: the panel, and by symbol snapshots, resyncs and damage of its book."""

    panel: Path
    bars: TradeBars
    refused: Counter[tuple[str, str]]
    books: Path | None = None
    snapshots: dict[str, int] = field(default_factory=dict)
    resyncs: dict[str, int] = field(default_factory=dict)
    damage: Counter[str] = field(default_factory=Counter)
    #: Symbols without a book, and why.
    bookless: dict[str, str] = field(default_factory=dict)


def build_market(
    source: Source,
    out: Path,
    *,
    symbols: Sequence[str] | None = None,
    interval_ns: int = 5 * NS_PER_S,
    fresh_ns: int = 30 * NS_PER_S,
    books_every_ns: int | None = NS_PER_S,
    on_symbol: Callable[[int, int], None] = lambda done, total: None,
) -> RecordedMarket:
    """Write the panel, and the books of a recording that holds them, below `out`.

    symbols : which, in this order; by default all that traded, sorted
    books_every_ns : None for no books
    on_symbol : called with books done and in all

    Raises DataError for a recording without trades or a symbol that it does not hold, UsageError where `out`
    has a market already, StoreError.
    """
    panel, folder = out / PANEL_FILE, out / SNAPSHOT_FOLDER
    for made in (panel, folder):
        if made.exists():
            raise UsageError(f"{made}: is there already; remove it, or give another folder")
    trades, refused = read_trades(source)
    chosen = tuple(trades) if symbols is None else tuple(symbols)
    if unknown := [symbol for symbol in chosen if symbol not in trades]:
        held = ", ".join(list(trades)[:8]) + (", ..." if len(trades) > 8 else "")
        raise DataError(f"the recording has no trade of {', '.join(unknown[:5])}; it holds {held}")
    bars = bars_of(trades, chosen, interval_ns, fresh_ns)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{out}: cannot be made ({error.strerror}); check the path") from error
    made_market = RecordedMarket(panel, bars, refused)
    booked = _booked(source, chosen) if books_every_ns is not None else {}
    if books_every_ns is not None and booked:
        writer = PartWriter(folder, SNAPSHOT_SCHEMA)
        made_market.books = folder
        for done, (symbol, named) in enumerate(booked.items()):
            on_symbol(done, len(booked))
            replay = BookReplay(source, symbol if named else None)
            _books(replay, symbol, books_every_ns, writer, made_market)
        on_symbol(len(booked), len(booked))
    # Last, so that a folder with a panel is a whole market.
    write_panel(panel, bars, interval_ns)
    return made_market


def _booked(source: Source, chosen: Sequence[str]) -> dict[str, bool]:
    """Symbols that may have books, and whether the recording names them; none in a table of trades."""
    try:
        named = symbols_in(source)
    except DataError:
        return {}
    if not named and len(chosen) == 1:
        return {chosen[0]: False}
    return {symbol: True for symbol in chosen if symbol in named}


def _books(replay: BookReplay, symbol: str, every_ns: int, writer: PartWriter, made: RecordedMarket) -> None:
    waiting: list[tuple[str, BookSnapshot]] = []
    count = 0
    for snapshot in _thinned(replay.snapshots(), every_ns):
        waiting.append((symbol, snapshot))
        count += 1
        if len(waiting) >= _PART_ROWS:
            writer.write([snapshot_table(waiting)])
            waiting = []
    if waiting:
        writer.write([snapshot_table(waiting)])
    made.snapshots[symbol], made.resyncs[symbol] = count, replay.n_resyncs
    made.damage.update(replay.damage)
    if not count:
        why = "no depth snapshot founds it" if not replay.n_snapshots else "it was never known"
        made.bookless[symbol] = why


def _thinned(snapshots: Iterator[BookSnapshot], every_ns: int) -> Iterator[BookSnapshot]:
    """The first of each stretch of every_ns."""
    newest = -1
    for snapshot in snapshots:
        if snapshot.timestamp_ns // every_ns != newest:
            newest = snapshot.timestamp_ns // every_ns
            yield snapshot
