"""The real client library on loopback, with nothing but changed base addresses, through what goes wrong.

What ccxt does by itself is pinned here, too: a new version that changes it has to be looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from exchange import LoopbackExchange, SyntheticMarket

with warnings.catch_warnings():
    # ccxt's own imports of generated code warn on some versions of Python.
    warnings.simplefilter("ignore", DeprecationWarning)
    import ccxt.pro

from ccxt.base.errors import (
    ChecksumError,
    DDoSProtection,
    ExchangeNotAvailable,
    NetworkError,
    PermissionDenied,
    RateLimitExceeded,
    RequestTimeout,
)

from dolphin.feeds.client import PublicBinance, base_address, make_exchange, share_connections

SYMBOLS = {"BTC/USDT:USDT": "BTCUSDT", "ETH/USDT:USDT": "ETHUSDT", "BNB/USDT:USDT": "BNBUSDT"}
BTC = "BTC/USDT:USDT"
DEPTH = "/fapi/v1/depth"
Scene = Callable[["Stage"], Awaitable[None]]


class Stage:
    """An exchange, a client, and waiting that is bounded."""

    def __init__(self, running: LoopbackExchange, client: Any) -> None:
        self.x, self.client = running, client

    async def until(self, condition: Callable[[], Any]) -> None:
        await asyncio.to_thread(self.x.wait, condition, 10.0)

    async def soon(self, work: Awaitable[Any], limit_s: float = 10.0) -> Any:
        return await asyncio.wait_for(work, limit_s)

    async def book(self, symbol: str = BTC) -> Any:
        return await self.soon(self.client.watch_order_book(symbol))

    async def next_book(self, symbol: str = BTC, ticks: int = 1) -> Any:
        """The book after the market has moved."""
        waiting = asyncio.ensure_future(self.client.watch_order_book(symbol))
        await asyncio.to_thread(self.x.step, ticks)
        return await self.soon(waiting)

    async def caught_up(self, symbol: str = BTC) -> None:
        """Return when the client's book is the server's: same id, same levels."""
        book = await self.next_book(symbol)
        last_id, bids, asks = self.x.truth(SYMBOLS[symbol])
        while book["nonce"] < last_id:
            book = await self.book(symbol)
        assert book["nonce"] == last_id
        assert book["bids"] == [[float(p), float(q)] for p, q in bids]
        assert book["asks"] == [[float(p), float(q)] for p, q in asks]

    async def fails(self, error: type[Exception], work: Awaitable[Any]) -> None:
        with pytest.raises(error):
            await self.soon(work)


def play(scene: Scene, make: Callable[[str], Any] = make_exchange, **options: Any) -> LoopbackExchange:
    """Run a scene against three synthetic symbols that stand still until `step`."""

    async def run(running: LoopbackExchange) -> None:
        client = make(running.url)
        client.timeout_on_exit = 0
        try:
            await scene(Stage(running, client))
        finally:
            await client.close()

    with LoopbackExchange(
        SyntheticMarket(list(SYMBOLS.values()), seed=3), life_s=120.0, **options
    ) as running:
        asyncio.run(run(running))
        assert running.meter.forbidden == []
        return running


def bare(url: str) -> Any:
    """ccxt as it comes, its hosts replaced."""
    client = ccxt.pro.binanceusdm({"options": {"fetchCurrencies": False}})
    ours = make_exchange(url)
    client.urls["api"] = ours.urls["api"]
    return client


@pytest.mark.parametrize("make", [make_exchange, bare], ids=["ours", "bare"])
def test_markets_books_and_candles_by_rest(make: Callable[[str], Any]) -> None:
    async def scene(s: Stage) -> None:
        markets = await s.client.load_markets()
        assert set(markets) == set(SYMBOLS)
        assert markets[BTC]["swap"]
        assert markets[BTC]["active"]
        book = await s.client.fetch_order_book(BTC, 100)
        assert len(book["bids"]) == len(book["asks"]) == 100
        assert book["bids"][0][0] < book["asks"][0][0]
        candles = await s.client.fetch_ohlcv("ETH/USDT:USDT", "1m", limit=200)
        assert len(candles) == 200
        assert {b[0] - a[0] for a, b in pairwise(candles)} == {60_000}
        assert candles[-1][4] == s.x.line_of["ETHUSDT"].last_price
        funding = await s.client.fetch_funding_rate(BTC)
        assert funding["fundingRate"] == s.x.factors.funding_rate

    x = play(scene, make)
    assert x.meter.by_path["/fapi/v1/exchangeInfo"] == 1


def test_a_book_is_the_servers_after_many_updates() -> None:
    async def scene(s: Stage) -> None:
        await s.book()
        for _ in range(50):
            await s.caught_up()
        await s.next_book(ticks=200)
        await s.caught_up()

    x = play(scene)
    assert x.meter.by_path[DEPTH] == 1
    assert x.meter.subscribes["btcusdt@depth@100ms"] == 1


def test_a_gap_is_noticed_and_asking_again_mends_it() -> None:
    async def scene(s: Stage) -> None:
        await s.book()
        s.x.faults.add("gap", symbol="BTCUSDT", count=1)
        await s.fails(ChecksumError, s.next_book(ticks=2))
        assert BTC not in s.client.orderbooks
        s.client.forget_book(BTC)
        await s.book()
        await s.caught_up()

    assert play(scene).meter.by_path[DEPTH] == 2


def test_a_gap_that_nobody_waited_for_is_told_once_after_forget_book() -> None:
    async def scene(s: Stage) -> None:
        other = "ETH/USDT:USDT"
        share_connections(s.client, [BTC, other])
        await s.book()
        await s.book(other)
        s.x.faults.add("gap", symbol="BTCUSDT", count=1)
        # On the same connection, behind the frames of the broken chain.
        book = await s.next_book(other, ticks=2)
        while book["nonce"] < s.x.truth("ETHUSDT")[0]:
            book = await s.book(other)
        assert BTC not in s.client.orderbooks
        # Pinned: ccxt gives the old rejection to every call, at once, until something succeeds.
        await s.fails(ChecksumError, s.client.watch_order_book(BTC))
        s.client.forget_book(BTC)
        await s.book()
        await s.caught_up()

    play(scene)


@pytest.mark.parametrize("abort", [False, True], ids=["closing-frame", "cut"])
def test_a_lost_connection_is_told_and_asking_again_reconnects(abort: bool) -> None:
    async def scene(s: Stage) -> None:
        await s.book()
        waiting = asyncio.ensure_future(s.client.watch_order_book(BTC))
        assert s.x.disconnect(abort=abort) == 1
        await s.fails(NetworkError, waiting)
        s.x.step(7)
        s.client.forget_book(BTC)
        await s.book()
        await s.caught_up()

    x = play(scene)
    assert x.meter.connections_opened == 2


def test_a_day_old_connection_is_ended_and_replaced() -> None:
    async def scene(s: Stage) -> None:
        await s.book()
        waiting = asyncio.ensure_future(s.client.watch_order_book(BTC))
        s.x.pass_time(86_390)
        assert s.x.meter.connections_expired == 0
        s.x.pass_time(20)
        await s.fails(NetworkError, waiting)
        s.client.forget_book(BTC)
        await s.book()
        await s.caught_up()

    x = play(scene)
    assert (x.meter.connections_expired, x.meter.connections_opened) == (1, 2)


@pytest.mark.parametrize("value", ["broken", "binary", "fields", "text", "nan", "huge"])
def test_a_frame_that_cannot_be_read_is_counted_and_the_next_one_is_read(value: str) -> None:
    async def scene(s: Stage) -> None:
        await s.book()
        s.x.faults.add("garbage", stream="btcusdt@depth*", count=1, value=value)
        await s.caught_up()
        await s.caught_up()
        refused = value in ("broken", "binary", "fields")
        assert s.client.frames_refused == int(refused)
        assert bool(s.client.last_refusal) == refused

    assert play(scene).meter.faults_fired["garbage"] == 1


def test_ccxt_alone_goes_deaf_at_a_frame_that_cannot_be_read() -> None:
    """Pinned, because it is why `PublicBinance.client` is there."""

    async def scene(s: Stage) -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        await s.book()
        s.x.faults.add("garbage", stream="btcusdt@depth*", count=1, value="broken")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(s.next_book(ticks=3), 1.0)
        assert len(told) == 1
        assert s.x.meter.connections == 1

    play(scene, bare)


def test_a_silent_peer_is_given_up_by_its_pings() -> None:
    async def scene(s: Stage) -> None:
        await s.book()
        waiting = asyncio.ensure_future(s.client.watch_order_book(BTC))
        s.x.faults.add("silence", value="no-pong")
        await s.fails(RequestTimeout, waiting)
        s.x.faults.clear()
        s.client.forget_book(BTC)
        await s.book()
        await s.caught_up()

    play(scene, lambda url: make_exchange(url, ping_every_s=0.2))


def test_a_socket_that_only_pongs_is_given_up_by_us() -> None:
    async def scene(s: Stage) -> None:
        await s.book()
        waiting = asyncio.ensure_future(s.client.watch_order_book(BTC))
        s.x.faults.add("silence", stream="*@depth*")
        (url,) = s.client.last_frame_ms()
        before, pings = s.client.last_frame_ms()[url], s.x.meter.pings_in
        s.x.step(20)
        await s.until(lambda: s.x.meter.pings_in > pings + 3)
        # Pinned: a pong counts as a frame, so frames alone do not show the silence.
        assert s.client.last_frame_ms()[url] > before
        assert not waiting.done()
        assert s.client.give_up(url, "no data for 30 s")
        assert not s.client.give_up(url, "twice")
        await s.fails(NetworkError, waiting)
        s.x.faults.clear()
        s.client.forget_book(BTC)
        await s.book()
        await s.caught_up()

    assert play(scene, lambda url: make_exchange(url, ping_every_s=0.2)).meter.frames_swallowed >= 20


@pytest.mark.parametrize("status", [418, 429])
def test_after_a_no_nothing_is_asked_until_the_time_has_passed(status: int) -> None:
    async def scene(s: Stage) -> None:
        await s.client.load_markets()
        s.x.faults.add("status", path=DEPTH, value=status, retry_after_s=30, count=1)
        await s.fails(DDoSProtection, s.client.watch_order_book(BTC))
        for _ in range(2):
            s.client.forget_book(BTC)
            await s.fails(RateLimitExceeded, s.client.watch_order_book(BTC))
            await s.fails(RateLimitExceeded, s.client.fetch_ohlcv(BTC))
        assert s.x.meter.by_path[DEPTH] == 1
        assert s.x.meter.by_path["/fapi/v1/klines"] == 0
        s.client.blocked_until_s = 0.0
        s.client.forget_book(BTC)
        await s.book()
        await s.caught_up()

    play(scene)


def test_ccxt_alone_asks_three_times_where_it_was_told_no() -> None:
    """Pinned, because it is why `maxRetries` is 1."""

    async def scene(s: Stage) -> None:
        await s.client.load_markets()
        s.client.rateLimit = 1
        s.x.faults.add("status", path=DEPTH, value=429, retry_after_s=30)
        await s.fails(DDoSProtection, s.client.watch_order_book(BTC))

    assert play(scene, bare).meter.by_path[DEPTH] == 3


def test_a_server_that_is_down_is_told_and_comes_back() -> None:
    async def scene(s: Stage) -> None:
        await s.client.load_markets()
        s.x.faults.add("status", path=DEPTH, value=503, count=1)
        await s.fails(ExchangeNotAvailable, s.client.watch_order_book(BTC))
        s.client.forget_book(BTC)
        await s.book()
        s.x.faults.add("status", path="/public/ws*", value=500, count=1)
        s.x.disconnect()
        await s.until(lambda: s.x.meter.connections == 0)
        await s.fails(NetworkError, s.client.watch_order_book(BTC))
        # The loss and the refused handshake are two errors, or one where the loss was known before.
        while s.x.meter.faults_fired["status"] < 2:
            with contextlib.suppress(NetworkError):
                await s.client.watch_order_book(BTC)
        s.client.forget_book(BTC)
        await s.book()
        await s.caught_up()

    play(scene)


def test_a_slow_answer_runs_into_the_limit() -> None:
    async def scene(s: Stage) -> None:
        await s.client.load_markets()
        s.x.faults.add("slow", path=DEPTH, value=20, count=1)
        await s.fails(RequestTimeout, s.client.fetch_order_book(BTC))
        assert (await s.client.fetch_order_book(BTC))["bids"]

    play(scene, lambda url: make_exchange(url, timeout_s=0.3))


def test_duplicates_do_no_harm_and_a_crossed_level_comes_through() -> None:
    async def scene(s: Stage) -> None:
        await s.book()
        s.x.faults.add("duplicate", stream="*@depth*", count=3)
        for _ in range(4):
            await s.caught_up()
        s.x.faults.add("crossed", symbol="BTCUSDT", count=1)
        book = await s.next_book()
        # Pinned: ccxt looks at no prices; whoever reads has to.
        assert book["bids"][0][0] > book["asks"][0][0]
        await s.caught_up()

    play(scene)


def test_a_dark_book_thins_out_and_is_whole_again_afterwards() -> None:
    async def scene(s: Stage) -> None:
        await s.book()
        fault = s.x.faults.add("dark", symbol="BTCUSDT")
        thin = await s.next_book(ticks=12)
        while thin["nonce"] < s.x.truth("BTCUSDT")[0]:
            thin = await s.book()
        assert len(thin["bids"]) < 150
        s.x.faults.clear(fault)
        await s.caught_up()

    play(scene)


def test_many_books_share_a_connection_and_mend_one_by_one() -> None:
    async def scene(s: Stage) -> None:
        assert share_connections(s.client, list(SYMBOLS)) == 1
        await s.soon(asyncio.gather(*(s.client.watch_order_book(symbol) for symbol in SYMBOLS)), 20.0)
        assert s.x.meter.connections == 1
        assert s.x.meter.by_path[DEPTH] == 3
        s.x.faults.add("gap", symbol="ETHUSDT", count=1)
        await s.fails(ChecksumError, s.next_book("ETH/USDT:USDT", ticks=2))
        s.client.forget_book("ETH/USDT:USDT")
        await s.book("ETH/USDT:USDT")
        # One snapshot more, not three.
        assert s.x.meter.by_path[DEPTH] == 4
        for symbol in SYMBOLS:
            await s.caught_up(symbol)

    x = play(scene)
    assert x.meter.connections_opened == 1


def test_trades_arrive_as_the_market_makes_them() -> None:
    async def scene(s: Stage) -> None:
        await s.client.load_markets()
        waiting = asyncio.ensure_future(s.client.watch_trades(BTC))
        await s.until(lambda: s.x.meter.subscriptions.get("btcusdt@aggTrade"))
        s.x.step(30)
        trades = await s.soon(waiting)
        assert trades[0]["symbol"] == BTC
        assert trades[0]["side"] in ("buy", "sell")
        assert 59_000 < trades[0]["price"] < 61_000
        last = s.x.line_of["BTCUSDT"].last_price
        while trades[-1]["price"] != last:
            trades = await s.soon(s.client.watch_trades(BTC))

    play(scene)


def test_nothing_but_public_reading_leaves_the_client() -> None:
    async def scene(s: Stage) -> None:
        await s.client.load_markets()
        for work in (
            s.client.create_order(BTC, "market", "sell", 1.0),
            s.client.cancel_all_orders(BTC),
            s.client.fapiPrivateGetAccount(),
            s.client.sapiGetAccountStatus(),
        ):
            await s.fails(PermissionDenied, work)

    x = play(scene)
    assert set(x.meter.by_path) == {"/fapi/v1/exchangeInfo"}


@pytest.fixture
def client() -> Iterator[PublicBinance]:
    made = make_exchange("http://127.0.0.1:9")
    yield made
    asyncio.run(made.close())


def test_every_address_of_the_client_is_moved(client: PublicBinance) -> None:
    def leaves(value: Any) -> list[str]:
        return [x for v in value.values() for x in leaves(v)] if isinstance(value, dict) else [value]

    http, ws = base_address("http://127.0.0.1:9")
    addresses = leaves(client.urls["api"])
    assert len(addresses) > 20
    assert all(a.startswith((http + "/", ws + "/")) for a in addresses)
    assert not client.apiKey
    assert client.enableRateLimit
