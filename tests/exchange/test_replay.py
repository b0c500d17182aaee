"""Recorded sessions as the market: the recorded book, replicated, faster, and again from the start."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow.parquet as pq
import pytest

from exchange import LoopbackExchange, ReplayMarket, symbol_names

BTC = "binance_usdm_BTCUSDT_20240718T2357_20240719T0005"
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def session_files(recordings: Path) -> list[Path]:
    files = [
        recordings / "l2" / f"{BTC}_raw.parquet",
        recordings / "l2" / f"{BTC.replace('BTC', 'ETH')}_raw.parquet",
    ]
    if not all(f.is_file() for f in files):
        pytest.skip("no recordings of order books: set DOLPHIN_RECORDINGS to the folder that holds l2/")
    return files


def test_the_replayed_book_is_the_recorded_one(session_files: list[Path]) -> None:
    rows = pq.read_table(str(session_files[0]).replace("_raw", "_top20_100ms")).to_pylist()
    by_id = {row["last_update_id"]: row for row in rows}
    matched = 0
    with LoopbackExchange(ReplayMarket(session_files[0]), life_s=120.0) as x:
        line = x.line_of["BTCUSDT"]

        def work() -> int:
            found = 0
            for _ in range(6_000):
                x._advance()
                row = by_id.get(line.book.last_id)
                if row is not None:
                    bids, asks = line.book.top(20)
                    assert [float(p) for p, _ in bids] == [row[f"bid_px_{k}"] for k in range(20)]
                    assert [float(q) for _, q in asks] == [row[f"ask_qty_{k}"] for k in range(20)]
                    found += 1
            return found

        matched = x.call(work, 60.0)
    # Rows of 60 s at 100 ms; those whose id is the last of a slot of 10 ms can be compared.
    assert matched > 200


def test_symbols_share_a_session_with_the_same_levels(session_files: list[Path]) -> None:
    names = symbol_names(12)
    market = ReplayMarket(session_files, names)
    assert {s for line in market.lines for s in line.symbols} == set(names)
    assert [line.symbols[0] for line in market.lines] == ["BTCUSDT", "ETHUSDT"]

    async def scene(x: LoopbackExchange) -> None:
        streams = "/".join(f"{n.lower()}@depth@100ms" for n in names)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{x.ws_url}/stream?streams={streams}") as ws,
        ):
            await asyncio.to_thread(x.step, 20)
            told: dict[str, list[Any]] = {}
            while len(told) < 12 or min(map(len, told.values())) < 15:
                data = json.loads((await ws.receive(10.0)).data)["data"]
                told.setdefault(data["s"], []).append(data)
        for name, rows in told.items():
            assert all(a["u"] == b["pu"] for a, b in itertools.pairwise(rows)), name
        same = [s for s in market.lines[0].symbols if s != "BTCUSDT"]
        assert same
        for name in same:
            pairs = zip(told[name], told["BTCUSDT"], strict=False)
            assert all(a["b"] == b["b"] and a["u"] == b["u"] for a, b in pairs)
        assert abs(told["BTCUSDT"][0]["E"] - x.clock.now_ms()) < 60_000

    with LoopbackExchange(market, life_s=60.0) as x:
        asyncio.run(scene(x))


def test_a_session_that_ends_begins_again_without_a_break(session_files: list[Path]) -> None:
    market = ReplayMarket(session_files[0])
    session = market._sessions[0]
    # The last seconds only; a whole session is eight minutes of market.
    session._next = len(session._rows) - 500
    session._shift_ms = int(session._data(session._next)["E"])
    session.line.book.last_id = (
        int(session._data(session._next - 40).get("u", 0)) or session.line.book.last_id
    )
    with LoopbackExchange(market, life_s=60.0) as x:
        told = []

        def work() -> None:
            line = x.line_of["BTCUSDT"]
            for _ in range(1_500):
                before = line.published.last_id
                x._advance()
                if line.published.last_id != before:
                    told.append((before, line.published.last_id))

        x.call(work, 60.0)
        assert session.loops == 1
        assert len(told) > 100
        assert all(a[1] == b[0] and b[0] < b[1] for a, b in itertools.pairwise(told))
        line = x.line_of["BTCUSDT"]
        assert max(line.book.bids) < min(line.book.asks)


def test_the_command_serves_and_ends_by_itself() -> None:
    """As a demo runs it: an address on the first line, an answer there, and an end."""
    command = [
        sys.executable,
        str(ROOT / "tests" / "exchange"),
        "--symbols",
        "3",
        "--life",
        "3",
        "--speed",
        "5",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["symbols"] == 3

        async def state() -> Any:
            async with aiohttp.ClientSession() as session, session.get(told["url"] + "/_state") as answer:
                return await answer.json()

        assert asyncio.run(state())["symbols"] == ["BTCUSDT", "ETHUSDT", "BNBUSDT"]
        assert process.wait(30.0) == 0
