"""The raw streams: paths, subscriptions, chains of ids, documented fields, limits and faults."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from exchange import LoopbackExchange, SyntheticMarket

START_MS = 1_750_000_000_000
Scene = Callable[[LoopbackExchange, aiohttp.ClientSession], Awaitable[None]]


def play(scene: Scene, symbols: int = 2, **options: Any) -> LoopbackExchange:
    async def run(running: LoopbackExchange) -> None:
        async with aiohttp.ClientSession() as session:
            await scene(running, session)

    options.setdefault("start_ms", START_MS)
    with LoopbackExchange(SyntheticMarket(symbols, seed=3), life_s=60.0, **options) as running:
        asyncio.run(run(running))
        return running


async def frame(ws: aiohttp.ClientWebSocketResponse, limit_s: float = 5.0) -> Any:
    got = await ws.receive(limit_s)
    assert got.type is aiohttp.WSMsgType.TEXT, got
    return json.loads(got.data)


async def frames(ws: aiohttp.ClientWebSocketResponse, n: int) -> list[Any]:
    return [await frame(ws) for _ in range(n)]


async def ask(ws: aiohttp.ClientWebSocketResponse, method: str, *params: str, number: int = 1) -> Any:
    await ws.send_json({"method": method, "params": list(params), "id": number})
    return await frame(ws)


async def book(x: LoopbackExchange, session: aiohttp.ClientSession, symbol: str = "BTCUSDT") -> Any:
    url = f"{x.url}/fapi/v1/depth"
    async with session.get(url, params={"symbol": symbol, "limit": "1000"}) as answer:
        return await answer.json()


def apply(side: dict[str, str], levels: list[list[str]]) -> None:
    for price, quantity in levels:
        if float(quantity) == 0:
            side.pop(price, None)
        else:
            side[price] = quantity


def test_differences_chain_and_lead_from_any_snapshot_to_the_truth() -> None:
    """Page by page the exchange's rule: drop u < L, begin at U <= L <= u, then pu is the u before."""

    async def scene(x: LoopbackExchange, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(x.ws_url + "/ws/btcusdt@depth@100ms") as ws:
            await asyncio.to_thread(x.step, 3)
            # In the middle of a difference: 40 ms into the next 100.
            await asyncio.to_thread(x.call, lambda: [x._advance() for _ in range(4)])
            snapshot = await book(x, session)
            last = snapshot["lastUpdateId"]
            assert last > x.truth("BTCUSDT")[0]
            await asyncio.to_thread(x.call, lambda: [x._advance() for _ in range(6)])
            await asyncio.to_thread(x.step, 100)
            told = await frames(ws, 104)
        assert all(a["u"] == b["pu"] < b["U"] <= b["u"] for a, b in itertools.pairwise(told))
        first = next(k for k, d in enumerate(told) if d["u"] >= last)
        assert told[first]["U"] <= last <= told[first]["u"]
        bids, asks = dict(snapshot["bids"]), dict(snapshot["asks"])
        for d in told[first:]:
            apply(bids, d["b"])
            apply(asks, d["a"])
        last_id, true_bids, true_asks = x.truth("BTCUSDT")
        assert told[-1]["u"] == last_id
        assert bids == dict(true_bids)
        assert asks == dict(true_asks)
        assert max(map(float, bids)) < min(map(float, asks))
        assert [d["E"] for d in told] == list(range(START_MS + 100, START_MS + 10_500, 100))

    play(scene)


FIELDS = {
    "aggTrade": "agg_trade_stream.json",
    "bookTicker": "book_ticker_stream.json",
    "depth@100ms": "depth_update_stream.json",
    "depth5@500ms": "depth_update_stream.json",
    "kline_1m": "kline_stream_open.json",
    "markPrice@1s": "mark_price_stream.json",
    "trade": "trade_stream.json",
}


@pytest.mark.parametrize("stream", FIELDS)
def test_messages_have_the_documented_fields_and_types(recordings: Path, stream: str) -> None:
    folder = recordings / "fixtures" / "binance_usdm_nautilus" / "market_data_json"
    documented = json.loads((folder / FIELDS[stream]).read_text())
    # Added by the exchange after most recordings were made.
    documented = {k: v for k, v in documented.items() if k not in ("st", "ps")}

    async def scene(x: LoopbackExchange, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(f"{x.ws_url}/stream?streams=btcusdt@{stream}") as ws:
            await asyncio.to_thread(x.step, 10)
            got = await frame(ws)
        assert got["stream"] == f"btcusdt@{stream}"
        data = got["data"]
        extra = {"X", "T"} if stream == "trade" else set()
        assert set(documented) <= set(data) <= set(documented) | extra
        assert all(type(data[k]) is type(documented[k]) for k in documented)
        if "k" in data:
            assert {k: type(v) for k, v in data["k"].items()} == {
                k: type(v) for k, v in documented["k"].items()
            }

    play(scene)


def test_messages_have_the_fields_of_live_ones(recordings: Path) -> None:
    """In their order, too: the captured frames of 2021."""
    capture = recordings / "fixtures" / "raw_capture_cryptofeed" / "BINANCE_FUTURES.ws.1.0.txt"
    live: dict[str, list[str]] = {}
    for line in capture.read_text().splitlines()[1:]:
        found = re.match(r"[\d.]+: (\{.*)", line)
        if found:
            data = json.loads(found.group(1)).get("data", {})
            live.setdefault(data.get("e", ""), list(data))
    streams = ["bookTicker", "depth@100ms", "aggTrade", "kline_1m"]

    async def scene(x: LoopbackExchange, session: aiohttp.ClientSession) -> None:
        names = "/".join(f"ethusdt@{s}" for s in streams)
        async with session.ws_connect(f"{x.ws_url}/market/stream?streams={names}") as ws:
            await asyncio.to_thread(x.step, 20)
            seen: dict[str, list[str]] = {}
            while len(seen) < 4:
                data = (await frame(ws))["data"]
                seen[data["e"]] = list(data)
        assert seen == {"aggTrade": seen["aggTrade"], **{k: v for k, v in live.items() if k in seen}}
        assert set(seen["aggTrade"]) == set(live["aggTrade"])

    play(scene)


def test_partial_books_and_best_prices_agree_with_the_book() -> None:
    async def scene(x: LoopbackExchange, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(x.ws_url + "/ws") as ws:
            await ask(ws, "SUBSCRIBE", "btcusdt@depth5@100ms", "btcusdt@bookTicker")
            quotes = 0
            for _ in range(20):
                await asyncio.to_thread(x.step, 1)
                got = await frame(ws)
                while got["e"] == "bookTicker":
                    quotes += 1
                    quote, got = got, await frame(ws)
                _, bids, asks = x.truth("BTCUSDT")
                assert got["b"] == [list(b) for b in bids[:5]]
                assert got["a"] == [list(a) for a in asks[:5]]
            assert quotes > 5
            assert quote["s"] == "BTCUSDT"
            assert float(quote["b"]) < float(quote["a"])

    play(scene)


def test_a_minute_closes_with_its_candle() -> None:
    async def scene(x: LoopbackExchange, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(x.ws_url + "/ws/btcusdt@kline_1m") as ws:
            await asyncio.to_thread(x.step, 700)
            candles = []
            while not candles or not candles[-1]["x"]:
                candles.append((await frame(ws))["k"])
        closed = candles[-1]
        async with session.get(
            x.url + "/fapi/v1/klines",
            params={"symbol": "BTCUSDT", "interval": "1m", "startTime": str(closed["t"]), "limit": "1"},
        ) as answer:
            (row,) = await answer.json()
        assert row[:5] == [closed["t"], closed["o"], closed["h"], closed["l"], closed["c"]]
        assert row[5] == closed["v"]
        assert row[6] == closed["T"]

    play(scene)


def test_subscriptions_come_and_go() -> None:
    async def scene(x: LoopbackExchange, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(x.ws_url + "/public/ws/3") as ws:
            assert await ask(ws, "SUBSCRIBE", "btcusdt@aggTrade", "x@y", number=7) == {
                "result": None,
                "id": 7,
            }
            assert await ask(ws, "LIST_SUBSCRIPTIONS") == {"result": ["btcusdt@aggTrade", "x@y"], "id": 1}
            assert x.meter.subscriptions == {"btcusdt@aggTrade": 1, "x@y": 1}
            await ask(ws, "UNSUBSCRIBE", "x@y")
            await ask(ws, "SET_PROPERTY", "combined", "true")
            await asyncio.to_thread(x.step, 20)
            assert (await frame(ws))["stream"] == "btcusdt@aggTrade"
            await ask_last(ws, "UNSUBSCRIBE", "btcusdt@aggTrade")
            await asyncio.to_thread(x.step, 20)
            # Nothing of the market lies before the answer to the next question.
            assert await ask(ws, "LIST_SUBSCRIPTIONS", number=3) == {"result": [], "id": 3}
        await asyncio.to_thread(x.wait, lambda: x.meter.connections == 0)
        assert x.meter.subscriptions == {}
        async with session.ws_connect(x.ws_url + "/ws") as ws:
            assert (await ask(ws, "SUBSCRIBE"))["error"]["code"] == 2
            assert (await ask(ws, "DANCE", "a"))["error"]["code"] == 2
            await ws.send_str("no json")
            assert (await frame(ws))["error"]["code"] == 3

    async def ask_last(ws: aiohttp.ClientWebSocketResponse, method: str, *params: str) -> None:
        await ws.send_json({"method": method, "params": list(params), "id": 99})
        while (await frame(ws)).get("id") != 99:
            pass

    play(scene)


def test_limits_of_streams_and_of_frames_are_kept() -> None:
    async def scene(x: LoopbackExchange, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(x.ws_url + "/ws") as ws:
            await ask(ws, "SUBSCRIBE", "a@trade", "b@trade", "c@trade")
            assert "error" in await ask(ws, "SUBSCRIBE", "d@trade", "e@trade")
            assert x.meter.streams_refused == 1
            for _ in range(20):
                await ws.ping()
            got = await ws.receive(5.0)
            while got.type is aiohttp.WSMsgType.TEXT:
                got = await ws.receive(5.0)
            assert got.type is aiohttp.WSMsgType.CLOSE
            assert ws.close_code == 1008

    play(scene, streams_max=4)


def test_an_unknown_path_is_no_stream() -> None:
    async def scene(x: LoopbackExchange, session: aiohttp.ClientSession) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as told:
            await session.ws_connect(x.ws_url + "/nowhere/ws")
        assert told.value.status == 404
        x.faults.add("status", path="/stream", value=503, retry_after_s=9, count=1)
        with pytest.raises(aiohttp.WSServerHandshakeError) as told:
            await session.ws_connect(x.ws_url + "/stream?streams=btcusdt@trade")
        assert told.value.status == 503
        assert told.value.headers is not None
        assert told.value.headers["Retry-After"] == "9"

    play(scene)


@pytest.mark.parametrize(
    ("kind", "steps", "ids"),
    [
        ("gap", 3, [1, 2]),
        ("duplicate", 3, [0, 0, 1, 2]),
        ("reorder", 3, [1, 0, 2]),
    ],
)
def test_faults_of_the_chain(kind: str, steps: int, ids: list[int]) -> None:
    async def scene(x: LoopbackExchange, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(x.ws_url + "/ws/btcusdt@depth@100ms") as ws:
            true: list[int] = []
            x.faults.add(kind, stream="btcusdt@depth*", count=1)
            for _ in range(steps):
                await asyncio.to_thread(x.step, 1)
                true.append(x.truth("BTCUSDT")[0])
            assert [d["u"] for d in await frames(ws, len(ids))] == [true[k] for k in ids]

    assert play(scene).meter.faults_fired == {kind: 1}


def test_faults_of_one_symbol_leave_the_other_alone() -> None:
    async def scene(x: LoopbackExchange, session: aiohttp.ClientSession) -> None:
        url = x.ws_url + "/stream?streams=btcusdt@depth@100ms/ethusdt@depth@100ms"
        async with session.ws_connect(url) as ws:
            x.faults.add("silence", symbol="ETHUSDT")
            await asyncio.to_thread(x.step, 5)
            assert {f["data"]["s"] for f in await frames(ws, 5)} == {"BTCUSDT"}
            assert x.meter.frames_swallowed == 5
            x.clear_faults()
            fault = x.faults.add("stale", symbol="BTCUSDT", value=30)
            await asyncio.to_thread(x.step, 1)
            times = {f["data"]["s"]: f["data"]["E"] for f in await frames(ws, 2)}
            assert times == {"BTCUSDT": START_MS + 600 - 30_000, "ETHUSDT": START_MS + 600}
            x.faults.clear(fault)
            x.skew(45)
            await asyncio.to_thread(x.step, 1)
            assert {f["data"]["E"] for f in await frames(ws, 2)} == {START_MS + 700 + 45_000}

    play(scene)


def test_crossed_and_dark_updates_are_put_right_by_the_next_one() -> None:
    async def scene(x: LoopbackExchange, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(x.ws_url + "/ws/btcusdt@depth@100ms") as ws:
            snapshot = await book(x, session)
            bids, asks = dict(snapshot["bids"]), dict(snapshot["asks"])
            for kind in ("crossed", "dark"):
                x.faults.add(kind, count=1)
                await asyncio.to_thread(x.step, 1)
                bad = await frame(ws)
                if kind == "dark":
                    assert {float(q) for _, q in bad["b"] + bad["a"]} == {0.0}
                apply(bids, bad["b"])
                apply(asks, bad["a"])
                if kind == "crossed":
                    assert max(map(float, bids)) > min(map(float, asks))
                await asyncio.to_thread(x.step, 1)
                good = await frame(ws)
                apply(bids, good["b"])
                apply(asks, good["a"])
                _, true_bids, true_asks = x.truth("BTCUSDT")
                assert (bids, asks) == (dict(true_bids), dict(true_asks))

    play(scene)


def test_pings_are_answered_and_sent() -> None:
    async def scene(x: LoopbackExchange, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(x.ws_url + "/ws", autoping=False) as ws:
            await ws.ping(b"hello")
            got = await ws.receive(5.0)
            assert (got.type, got.data) == (aiohttp.WSMsgType.PONG, b"hello")
            got = await ws.receive(5.0)
            assert got.type is aiohttp.WSMsgType.PING
            await ws.pong(got.data)
            await asyncio.to_thread(x.wait, lambda: x.meter.pongs_in == 1)

    play(scene, ping_every_s=0.5)


def test_a_reader_that_does_not_read_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exchange.streams.QUEUE_MAX", 20)

    async def scene(x: LoopbackExchange, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(x.ws_url + "/ws/btcusdt@depth@100ms"):
            await asyncio.to_thread(x.step, 40)
            await asyncio.to_thread(x.wait, lambda: x.meter.connections == 0)
            assert x.meter.connections_too_slow > 0

    play(scene)


def test_all_market_streams_name_every_symbol() -> None:
    async def scene(x: LoopbackExchange, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(x.ws_url + "/stream?streams=!miniTicker@arr/!markPrice@arr@1s") as ws:
            await asyncio.to_thread(x.step, 10)
            for got in await frames(ws, 2):
                assert {row["s"] for row in got["data"]} == set(x.line_of)

    play(scene, symbols=60)


def test_a_moving_market_keeps_its_rate() -> None:
    """At speed 20 a hundred ticks take half a second; the bound is generous for a busy machine."""

    async def scene(x: LoopbackExchange, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(x.ws_url + "/ws/btcusdt@depth@100ms") as ws:
            told = await frames(ws, 100)
        assert all(a["u"] == b["pu"] for a, b in itertools.pairwise(told))
        assert x.slot >= 990

    play(scene, speed=20.0, start_ms=None)
