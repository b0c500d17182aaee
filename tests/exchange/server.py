"""The exchange on loopback: a server in a thread of its own, on 127.0.0.1 only, that ends by itself.

    with LoopbackExchange(SyntheticMarket(50), speed=1.0) as exchange:
        client = make_exchange(exchange.url)

`speed` is how fast the market moves against real time, 0 not at all: then `step` moves it, and two runs are
alike. Everything here may be called from any thread.

1. Nothing but loopback: the address is not a parameter.
2. The server ends with its block, or after `life_s`, whichever comes first.
3. No order is ever taken; whoever tries is noted in `meter.forbidden`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from aiohttp import web

from .admin import Admin
from .clock import ServerClock
from .factors import Factors
from .faults import GARBAGE, Faults
from .line import SLOT_MS, Level, Line, Trade
from .meter import Meter, Request
from .rest import Rest, aged, encode
from .streams import Streams

T = TypeVar("T")
HOST = "127.0.0.1"


class Market(Protocol):
    """Where books come from."""

    lines: list[Line]

    def advance(self, slot: int, now_ms: int) -> Iterable[tuple[Line, list[Trade], bool]]:
        """Move one slot of 10 ms: lines whose book changed, their trades, whether the best prices changed."""


class LoopbackExchange:
    """See the module.

    Parameters
    ----------
    market : Market
        `SyntheticMarket` or `ReplayMarket`.
    speed : float
        Slots of the market per 10 ms of real time; 0 stands still until `step`.
    port : int
        0 takes a free one.
    start_ms : int or None
        Begin a virtual clock there that only the market's slots move; None is real time.
    life_s : float
        The server ends after that.
    weight_limit, strikes_to_ban : int
        Request weight a minute, and how many 429 make a 418.
    streams_max, messages_per_s : int
        Streams a connection may have, and frames it may send a second, before it is refused or cut.
    connection_life_s : float
        A connection older than that, on the server's clock, is closed; 24 h as documented.
    """

    def __init__(
        self,
        market: Market,
        *,
        speed: float = 0.0,
        port: int = 0,
        start_ms: int | None = None,
        life_s: float = 600.0,
        weight_limit: int = 2_400,
        strikes_to_ban: int = 10,
        streams_max: int = 200,
        messages_per_s: int = 10,
        connection_life_s: float = 86_400.0,
        ping_every_s: float = 180.0,
        factors: Factors | None = None,
    ) -> None:
        self.market = market
        self.speed = speed
        self.life_s = life_s
        self.weight_limit = weight_limit
        self.strikes_to_ban = strikes_to_ban
        self.streams_max = streams_max
        self.messages_per_s = messages_per_s
        self.connection_life_s = connection_life_s
        self.ping_every_s = ping_every_s
        self.clock = ServerClock(start_ms)
        self.meter = Meter()
        self.faults = Faults(self.meter)
        self.factors = factors or Factors()
        self.line_of: dict[str, Line] = {name: line for line in market.lines for name in line.symbols}
        self.delisted: set[str] = set()
        self.slot = 0
        self.rest = Rest(self)
        self.streams = Streams(self)
        self._port = port
        self._frozen: dict[str, Any] = {}
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None

    # --- life

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        """Base address of everything that speaks HTTP."""
        return f"http://{HOST}:{self._port}"

    @property
    def ws_url(self) -> str:
        """Base address of the streams: append /ws, /stream?streams=..., /public/ws, ..."""
        return f"ws://{HOST}:{self._port}"

    def start(self) -> LoopbackExchange:
        self._thread = threading.Thread(target=self._run, name="loopback-exchange", daemon=True)
        self._thread.start()
        if not self._ready.wait(10.0):
            raise TimeoutError("the loopback exchange did not start within 10 s")
        if self._failed is not None:
            raise self._failed
        return self

    def stop(self) -> None:
        """Close everything; waits for the end. Twice is the same as once."""
        thread, self._thread = self._thread, None
        if thread is None or self._loop is None or self._over is None:
            return
        if thread.is_alive():
            self.faults.clear()
            self._loop.call_soon_threadsafe(self._over.set)
            thread.join(10.0)
        if thread.is_alive():
            raise TimeoutError("the loopback exchange did not end within 10 s")

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until the server has ended by itself."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def __enter__(self) -> LoopbackExchange:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def call(self, work: Callable[[], T], timeout_s: float = 60.0) -> T:
        """The result of `work`, done on the server's loop."""

        async def job() -> T:
            return work()

        if self._loop is None:
            raise RuntimeError("the loopback exchange is not running")
        return asyncio.run_coroutine_threadsafe(job(), self._loop).result(timeout_s)

    # --- the market

    def step(self, ticks: int = 1) -> None:
        """Move the market by `ticks` of 100 ms at once; everything due is queued to be sent on return."""

        def work() -> None:
            for _ in range(ticks * 10):
                self._advance()

        self.call(work, 60.0)

    def truth(self, symbol: str) -> tuple[int, list[Level], list[Level]]:
        """(last id, bids, asks), best first, of who follows `@depth@100ms` from the start without a fault."""

        def work() -> tuple[int, list[Level], list[Level]]:
            book = self.line_of[symbol].published
            return book.last_id, *book.top(100_000)

        return self.call(work)

    def _advance(self) -> None:
        self.slot += 1
        self.clock.slot(SLOT_MS)
        now_ms = self.clock.now_ms()
        for line, trades, quoted in self.market.advance(self.slot, now_ms):
            self.streams.moved(line, trades, quoted, now_ms)
        self.streams.due(self.slot, now_ms)

    # --- faults that act at once

    def disconnect(self, *, stream: str = "*", abort: bool = False) -> int:
        """Close connections that have a stream matching; `abort` without a frame. Returns how many."""
        return self.call(lambda: self.streams.disconnect(stream, abort=abort))

    def skew(self, seconds: float) -> None:
        """The server's time is that much ahead (negative: behind) in everything it tells; 0 ends it."""
        self.clock.ahead_ms = round(seconds * 1_000)

    def pass_time(self, seconds: float) -> None:
        """Time passes on the server's clock: connections grow older, minutes of weight end."""
        self.call(lambda: (self.clock.advance(round(seconds * 1_000)), self.streams.expire()))

    def clear_faults(self) -> None:
        """No faults, no skew."""
        self.faults.clear()
        self.skew(0)

    def wait(self, condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
        """See `Meter.wait`."""
        self.meter.wait(condition, timeout_s)

    # --- the server's own thread

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failed = error
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", Admin(self).route(self._handle))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, HOST, self._port)
        await site.start()
        self._port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        for line in self.market.lines:
            line.open_at(self.clock.true_ms())
        pump = asyncio.create_task(self._pump())
        self._ready.set()
        try:
            waiting = asyncio.create_task(self._over.wait())
            # A pump that broke ends the server, so that it is seen.
            done, _ = await asyncio.wait({waiting, pump}, timeout=self.life_s, return_when="FIRST_COMPLETED")
            if pump in done:
                pump.result()
        finally:
            self._over.set()
            pump.cancel()
            waiting.cancel()
            await self.streams.close()
            await runner.cleanup()

    async def _pause(self, seconds: float) -> None:
        """Let so much time pass, or less where the server is to end."""
        assert self._over is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()

    async def _pump(self) -> None:
        """Move the market at its speed."""
        assert self._loop is not None
        began, begun_slot = self._loop.time(), self.slot
        told_s = began
        assert self._over is not None
        while not self._over.is_set():
            if self.speed > 0:
                due = begun_slot + int((self._loop.time() - began) * self.speed * 1_000 / SLOT_MS)
                for k in range(due - self.slot):
                    self._advance()
                    if k % 10 == 9:
                        await self._pause(0.0)
                await self._pause(max(0.002, SLOT_MS / 1_000 / self.speed))
            else:
                await self._pause(0.05)
                began, begun_slot = self._loop.time(), self.slot
            if self._loop.time() - told_s >= 1.0:
                told_s = self._loop.time()
                self.streams.expire()
                self.streams.ping_due(told_s)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        """One request, with the faults of its path."""
        path, symbol = request.path, request.query.get("symbol", "")
        faults = self.faults
        assert self._over is not None
        if faults.active:
            fault = faults.on_path("hang", path, symbol)
            while fault is not None and faults.holds(fault) and not self._over.is_set():
                await self._pause(0.02)
            fault = faults.on_path("slow", path, symbol)
            if fault is not None:
                await self._pause(float(fault.value))
            fault = faults.on_path("status", path, symbol)
            if fault is not None:
                return self._refuse(request, fault.value, fault.retry_after_s)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self.streams.serve(request)
        status, body, weight, headers = self.rest.answer(request)
        if faults.active and status == 200:
            fault = faults.on_path("stale", path, symbol)
            if fault is not None:
                body = aged(
                    self._frozen.setdefault(f"{fault.id} {request.rel_url}", body), float(fault.value)
                )
        text = encode(body)
        if faults.active and (fault := faults.on_path("garbage", path, symbol)) is not None:
            text = text[: len(text) // 2] if fault.value == "broken" else str(GARBAGE[fault.value or "text"])
        self._seen(request, status, weight)
        kind = "text/html" if isinstance(body, str) else "application/json"
        if faults.active and (fault := faults.on_path("trickle", path, symbol)) is not None:
            return await self._trickle(request, text, float(fault.value), headers)
        return web.Response(text=text, status=status, headers=headers, content_type=kind)

    def _seen(self, request: web.Request, status: int, weight: int) -> None:
        assert self._loop is not None
        self.meter.request(
            Request(self._loop.time(), request.method, request.path, dict(request.query), status, weight)
        )

    def _refuse(self, request: web.Request, status: int, retry_after_s: int | None) -> web.Response:
        headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        self._seen(request, status, 0)
        if status in (418, 429):
            body: Any = {
                "code": -1003,
                "msg": "Too many requests; please use the websocket for live updates.",
            }
        else:
            body = "<html><body><h1>Service unavailable</h1></body></html>"
        kind = "text/html" if isinstance(body, str) else "application/json"
        return web.Response(text=encode(body), status=status, headers=headers, content_type=kind)

    async def _trickle(
        self, request: web.Request, text: str, seconds: float, headers: dict[str, str]
    ) -> web.StreamResponse:
        data = text.encode()
        answer = web.StreamResponse(headers={**headers, "Content-Length": str(len(data))})
        answer.content_type = "application/json"
        await answer.prepare(request)
        size = max(1, -(-len(data) // 16))
        try:
            for at in range(0, len(data), size):
                await answer.write(data[at : at + size])
                await self._pause(seconds / 16)
            await answer.write_eof()
        except ConnectionResetError:
            # The client gave up, which is what slow answers are for.
            pass
        return answer
