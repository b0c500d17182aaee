"""`dolphin data market`: recorded messages to prices and books that a run reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from book_raw import Message, session, write_raw
from command_line import invoke

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import DataError
from dolphin.feeds.price_board import PriceBoard
from dolphin.market.book_schema import SNAPSHOT_FOLDER
from dolphin.market.recorded import RecordedFeed
from dolphin.market.recorded_books import RecordedBooks
from dolphin.market.trade_bars import Trades, bars_of, read_trades

S = NS_PER_S


def traded(messages: list[Message]) -> list[Message]:
    """The session with a trade after each depth message, of the same time."""
    found: list[Message] = []
    for message in messages:
        found.append(message)
        if message[0] == "depth":
            data = json.loads(message[1])["data"]
            body = {"e": "aggTrade", "s": data["s"], "p": f"{100 + len(found)}", "q": "1", "T": data["E"]}
            found.append(("aggTrade", json.dumps({"stream": "x", "data": body})))
    return found


def table(rows: list[tuple[int, str, float]], path: str = "trades.parquet") -> Path:
    ts, symbols, prices = zip(*rows, strict=True)
    stamps = pa.array(ts, pa.int64()).cast(pa.timestamp("ns", tz="UTC"))
    pq.write_table(pa.table({"ts": stamps, "symbol": list(symbols), "price": list(prices)}), path)
    return Path(path)


def test_a_recording_is_a_market_that_a_run_reads() -> None:
    path = write_raw(Path("raw.parquet"), traded(session()[1]))
    told = invoke("data", "market", path, "--out", "m", "--interval", "0.4", "--books-every", "0.2")
    assert told.code == 0, told.err
    assert told.out.splitlines()[-1] == (
        f"run it with: dolphin run --feed recorded m/prices.parquet --books m/{SNAPSHOT_FOLDER}"
    )
    feed = RecordedFeed("m/prices.parquet")
    bars = list(feed.bars())
    assert feed.interval_ns == 400_000_000
    assert len(bars) >= 3
    books = RecordedBooks(Path("m") / SNAPSHOT_FOLDER)
    assert books.symbols == feed.symbols == ("AAAUSDT",)
    seen = 0
    for bar in bars:
        books.advance(bar.timestamp_ns)
        book = books.newest("AAAUSDT")
        assert book is None or book.timestamp_ns <= bar.timestamp_ns
        seen += book is not None
    assert seen >= 2
    again = invoke("data", "market", path, "--out", "m")
    assert again.code == 2
    assert "is there already; remove it, or give another folder" in again.err


def test_a_table_of_trades_gives_prices_alone_and_its_faults_are_counted() -> None:
    path = table(
        [
            (1 * S, "ETHUSDT", 10.0), (2 * S, "BTCUSDT", 5.0), (4 * S, "ETHUSDT", float("nan")),
            (6 * S, "ETHUSDT", 11.0), (7 * S, "ETHUSDT", 0.0), (50 * S, "BTCUSDT", 6.0),
        ]
    )  # fmt: skip
    told = invoke("data", "market", path, "--out", "m", "--json")
    assert told.code == 0
    result = told.json
    assert result["books"] is None
    assert result["refused"] == {"missing": 1, "zero": 1}
    assert (result["bars"], result["trades"]) == (10, 4)
    panel = pq.read_table("m/prices.parquet").to_pylist()
    assert [row["ETHUSDT"] for row in panel] == [10.0, *[11.0] * 6, None, None, None]
    assert [row["BTCUSDT"] for row in panel] == [*[5.0] * 6, None, None, None, 6.0]


@pytest.mark.parametrize("seed", range(3))
def test_bars_are_those_that_a_live_feed_would_have_closed(seed: int) -> None:
    """Late, backward and refused trades in the order of their arrival, held against the live board."""
    rng = np.random.default_rng(seed)
    symbols = ("AUSDT", "BUSDT", "CUSDT")
    known = {s: np.sort(rng.integers(0, 200 * S, 150)) for s in symbols}
    trades = {}
    for symbol in symbols:
        prices = np.exp(rng.standard_normal(150))
        prices[rng.random(150) < 0.1] = rng.choice([np.nan, 0.0, -1.0, np.inf])
        late = (rng.exponential(2.0, 150) * S).astype(np.int64)
        trades[symbol] = Trades(known[symbol], np.maximum(known[symbol] - late, 0), prices)
    bars = bars_of(trades, symbols, 5 * S, 8 * S)
    board = PriceBoard(symbols, 8 * S)
    told = sorted((int(at), symbol, k) for symbol in symbols for k, at in enumerate(trades[symbol].known_ns))
    for row, close_ns in enumerate(bars.close_ns.tolist()):
        while told and told[0][0] <= close_ns:
            _, symbol, k = told.pop(0)
            board.hear(symbol, float(trades[symbol].prices[k]), int(trades[symbol].event_ns[k]))
        assert board.close_bar(close_ns).prices.tobytes() == bars.closes[row].tobytes()
    for _, symbol, k in told:
        board.hear(symbol, float(trades[symbol].prices[k]), int(trades[symbol].event_ns[k]))
    assert bars.rejections == board.rejections
    assert sum(n for (_, rule), n in bars.rejections.items() if rule == "backward") > 5


def test_what_is_no_recording_is_refused_in_one_line(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), "other.parquet")
    nothing = write_raw(Path("raw.parquet"), session()[1])
    good = table([(1 * S, "ETHUSDT", 10.0), (9 * S, "ETHUSDT", 10.0)])
    for words, said in (
        ([Path("none.parquet")], "no such file"),
        (
            ["other.parquet"],
            "expected the columns recv_ts, kind, raw of a raw recording, or ts, symbol, price",
        ),
        ([nothing], "holds no trade; record with `dolphin record`"),
        ([good, "--symbols", "BTCUSDT"], "no trade of BTCUSDT; it holds ETHUSDT"),
        ([good, "--interval", "0"], "expected seconds from 0.1"),
        ([good, "--interval", "3600"], "no bar of 3600 s closes within this recording"),
    ):
        told = invoke("data", "market", *words, "--out", tmp_path / "m")
        assert told.code in (1, 2)
        assert said in told.err
        assert len(told.err.strip().splitlines()) == 1
        assert not (tmp_path / "m").exists()


def test_every_trade_of_the_shared_recording_is_in_its_bars(recordings: Path) -> None:
    trades, refused = read_trades(recordings / "trades")
    assert not refused
    assert sum(len(each.prices) for each in trades.values()) == 374_560
    bars = bars_of(trades, tuple(trades), 5 * S, 30 * S)
    assert bars.closes.shape == (11_519, 13)
    assert not bars.rejections
    # ETH trades in most bins of 5 s, so hardly a bar of half a minute is without a price.
    assert np.isnan(bars.closes[:, bars.symbols.index("ETHUSDT")]).mean() < 0.01
    with pytest.raises(DataError, match="no sound trade"):
        bars_of(trades, ("BTCUSDT",), 5 * S, 30 * S)
