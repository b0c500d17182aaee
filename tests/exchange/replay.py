"""A recorded session as the market: raw messages of Binance USD-M, replicated across symbols, without end.

`recv_ts, kind, raw` rows are read from Parquet in order of arrival and played at the distances of the
exchange's own times. A session that ends begins again: one difference takes the book back to its start, ids
go on rising. Prices, quantities and levels are the recorded texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .line import SLOT_MS, Book, Level, Line, Trade


class _Session:
    """One recording as one line."""

    def __init__(self, path: Path, symbols: list[str]) -> None:
        import pyarrow.parquet as pq

        rows = pq.read_table(path, columns=["kind", "raw"])
        kinds = rows.column("kind").to_pylist()
        self._rows = [
            (kind, raw)
            for kind, raw in zip(kinds, rows.column("raw").to_pylist(), strict=True)
            if kind in ("depth", "trade")
        ]
        at = kinds.index("snapshot")
        snapshot = json.loads(rows.column("raw")[at].as_py())
        # What was recorded before the snapshot is played only where it leads past it.
        self._begin = sum(kind in ("depth", "trade") for kind in kinds[:at])
        while self._begin and self._data(self._begin - 1).get("u", 2**63) >= snapshot["lastUpdateId"]:
            self._begin -= 1
        bids = [(p, q) for p, q in snapshot["bids"]]
        asks = [(p, q) for p, q in snapshot["asks"]]
        digits = [len(text.partition(".")[2]) for text in bids[0]]
        price = (float(bids[0][0]) + float(asks[0][0])) / 2
        self.line = Line(symbols, price, price_digits=digits[0], quantity_digits=digits[1])
        self._snapshot_id = int(snapshot["lastUpdateId"])
        self.line.book.apply(bids, asks, self._snapshot_id)
        self._start = Book(dict(self.line.book.bids), dict(self.line.book.asks))
        self.loops = 0
        self._offset = 0
        self._next = self._begin
        self._shift_ms = int(self._data(self._begin)["E"])

    def _data(self, row: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._rows[row][1])
        return found.get("data", found)

    def play(self, until_ms: int, now_ms: int) -> tuple[list[Trade], bool]:
        """Everything due `until_ms` after the start of the replay."""
        trades: list[Trade] = []
        changed = False
        while True:
            if self._next >= len(self._rows):
                self._again(until_ms)
                changed = True
            data = self._data(self._next)
            if int(data["E"]) - self._shift_ms > until_ms:
                break
            kind = self._rows[self._next][0]
            self._next += 1
            if kind == "trade":
                trade = Trade(int(data["t"]) + self._offset, data["p"], data["q"], bool(data["m"]))
                self.line.trade(now_ms, trade)
                trades.append(trade)
            elif int(data["u"]) + self._offset > self.line.book.last_id:
                first = int(data["U"]) + self._offset
                bids: list[Level] = [(p, q) for p, q in data["b"]]
                asks: list[Level] = [(p, q) for p, q in data["a"]]
                self.line.update(first, int(data["u"]) + self._offset, bids, asks)
                changed = True
        if changed:
            quote = self.line.book.best
            changed, self.line.quote = quote != self.line.quote, quote
        return trades, changed

    def _again(self, until_ms: int) -> None:
        """From the start, by a difference that takes the book there."""
        book, start = self.line.book, self._start
        back: list[list[Level]] = []
        for now, then in ((book.bids, start.bids), (book.asks, start.asks)):
            levels = [(text[0], "0.000") for price, text in now.items() if price not in then]
            levels += [text for price, text in then.items() if now.get(price) != text]
            back.append(levels)
        self.loops += 1
        last = book.last_id
        self.line.update(last + 1, last + 1_000, back[0], back[1])
        # Ids of this round begin above those of the last one.
        self._offset = last + 1_000 - self._snapshot_id
        self._next = self._begin
        self._shift_ms = int(self._data(self._begin)["E"]) - until_ms


class ReplayMarket:
    """Recordings as lines; `symbols` are dealt to them in turn.

    Parameters
    ----------
    paths : raw files in the columns of the recordings.
    symbols : names to give out (the first go to the first recording, ...); each recording's own by default.
    """

    def __init__(self, paths: Path | Sequence[Path], symbols: Sequence[str] | None = None) -> None:
        files = [paths] if isinstance(paths, Path) else list(paths)
        own = [_symbol_of(path) for path in files]
        names = [s.upper() for s in symbols] if symbols is not None else own
        # Each recording keeps its own symbol where that was asked for.
        dealt: dict[int, list[str]] = {i: [name] for i, name in enumerate(own) if name in names}
        for k, name in enumerate(n for n in names if n not in own):
            dealt.setdefault(k % len(files), []).append(name)
        self._sessions = [_Session(files[i], dealt[i]) for i in sorted(dealt)]
        self.lines = [session.line for session in self._sessions]

    def advance(self, slot: int, now_ms: int) -> Iterator[tuple[Line, list[Trade], bool]]:
        """What was recorded in one slot of 10 ms."""
        for session in self._sessions:
            trades, changed = session.play((slot + 1) * SLOT_MS, now_ms)
            yield session.line, trades, changed


def _symbol_of(path: Path) -> str:
    for part in path.stem.split("_"):
        if part.endswith("USDT"):
            return part
    return "BTCUSDT"
