"""The WebSocket side: connections, subscriptions, and what each stream says when.

Paths as documented and as the client library uses them: /ws, /ws/<stream>, /stream?streams=a/b, each also
below /public and /market; `/public/ws/3` is a connection without a stream yet. SUBSCRIBE, UNSUBSCRIBE,
LIST_SUBSCRIPTIONS and SET_PROPERTY are answered before any data of theirs is sent.

Streams: <symbol>@ depth[5|10|20][@100ms|@250ms|@500ms], aggTrade, trade, bookTicker, markPrice[@1s],
kline_<interval>, miniTicker; !bookTicker, !markPrice@arr[@1s], !miniTicker@arr.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict, deque
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from .faults import GARBAGE
from .line import INTERVALS_MS, Difference, Level, Line, Trade
from .messages import (
    agg_trade,
    book_ticker,
    depth,
    kline,
    mark_price,
    mini_ticker,
    partial_depth,
    trade_message,
)

if TYPE_CHECKING:
    from .server import LoopbackExchange

#: Frames a connection may be behind before it is cut as too slow.
QUEUE_MAX = 50_000
PARTIAL = (5, 10, 20)
PATHS = ("/ws", "/stream", "/public/ws", "/public/stream", "/market/ws", "/market/stream")


class Connection:
    """One socket, its streams and its queue of frames."""

    def __init__(
        self, ws: web.WebSocketResponse, request: web.Request, *, combined: bool, opened_ms: int
    ) -> None:
        self.ws = ws
        self.request = request
        self.combined = combined
        self.opened_ms = opened_ms
        self.streams: dict[str, None] = {}
        self.queue: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self.frames_at: deque[float] = deque()
        self.ending = False


class Streams:
    def __init__(self, exchange: LoopbackExchange) -> None:
        self._x = exchange
        self._connections: set[Connection] = set()
        self._subscribers: dict[str, dict[Connection, None]] = {}
        self._names = {name: name.lower() for name in exchange.line_of}
        self._by_phase: list[list[Line]] = [[] for _ in range(10)]
        for line in exchange.market.lines:
            self._by_phase[line.phase].append(line)
        #: Levels that a fault changed in a stream and the next difference has to put right: (bids, asks).
        self._owed: dict[str, tuple[set[float], set[float]]] = defaultdict(lambda: (set(), set()))
        self._held: dict[str, str] = {}
        self._candle_sent: dict[str, int] = {}
        self._top_sent: dict[str, int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pinged_s = 0.0

    # --- connections

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One connection from its handshake to its end."""
        x = self._x
        path, _, first = request.path.partition("/ws/") if "/ws/" in request.path else (request.path, "", "")
        known = path + "/ws" if first else path
        if known not in PATHS:
            x._seen(request, 404, 0)
            return web.Response(status=404)
        ws = web.WebSocketResponse(autoping=False, compress=False, timeout=1.0)
        await ws.prepare(request)
        opened = x.clock.true_ms()
        connection = Connection(ws, request, combined=known.endswith("/stream"), opened_ms=opened)
        self._connections.add(connection)
        x.meter.connections_opened += 1
        assert x._loop is not None
        x.meter.connects_at_s.append(x._loop.time())
        x._seen(request, 101, 0)
        sender = asyncio.create_task(self._send_all(connection))
        names = [s for s in request.query.get("streams", "").split("/") if s]
        names += [first] if first and not first.isdigit() else []
        self._subscribe(connection, names)
        try:
            async for frame in ws:
                if not await self._received(connection, frame):
                    break
        finally:
            sender.cancel()
            self._gone(connection)
        return ws

    def _gone(self, connection: Connection) -> None:
        self._unsubscribe(connection, list(connection.streams), count=False)
        self._connections.discard(connection)
        self._x.meter.connections_closed += 1
        self._x.meter.note()

    async def _send_all(self, connection: Connection) -> None:
        meter = self._x.meter
        with contextlib.suppress(ConnectionError, RuntimeError):
            while True:
                frame = await connection.queue.get()
                if isinstance(frame, bytes):
                    await connection.ws.send_bytes(frame)
                elif frame is not None:
                    await connection.ws.send_str(frame)
                meter.frames_out += 1

    async def _received(self, connection: Connection, frame: Any) -> bool:
        """False ends the connection."""
        x = self._x
        assert x._loop is not None
        now_s = x._loop.time()
        recent = connection.frames_at
        recent.append(now_s)
        while recent[0] < now_s - 1.0:
            recent.popleft()
        if len(recent) > x.messages_per_s:
            await connection.ws.close(code=1008, message=b"Too many requests")
            return False
        if frame.type is WSMsgType.PING:
            x.meter.pings_in += 1
            mute = x.faults.active and (f := x.faults.on_stream("silence", "", "")) and f.value == "no-pong"
            if not mute:
                await connection.ws.pong(frame.data)
        elif frame.type is WSMsgType.PONG:
            x.meter.pongs_in += 1
        elif frame.type is WSMsgType.TEXT:
            x.meter.frames_in += 1
            self._reply(connection, self._asked(connection, frame.data))
        x.meter.note()
        return True

    def _reply(self, connection: Connection, answer: dict[str, Any]) -> None:
        if self._x.faults.active and self._x.faults.on_stream("silence", "", ""):
            self._x.meter.frames_swallowed += 1
            return
        connection.queue.put_nowait(json.dumps(answer, separators=(",", ":")))

    def _asked(self, connection: Connection, text: str) -> dict[str, Any]:
        try:
            asked = json.loads(text)
            method, params, asked_id = asked["method"], asked.get("params") or [], asked.get("id")
        except (ValueError, KeyError, TypeError) as error:
            return {"error": {"code": 3, "msg": f"Invalid JSON: {error}"}, "id": None}
        if method == "LIST_SUBSCRIPTIONS":
            return {"result": list(connection.streams), "id": asked_id}
        if method == "SET_PROPERTY":
            if params and params[0] == "combined":
                connection.combined = bool(params[1])
            return {"result": None, "id": asked_id}
        if method not in ("SUBSCRIBE", "UNSUBSCRIBE"):
            return {"error": {"code": 2, "msg": f"Invalid request: unknown method {method}"}, "id": asked_id}
        if not isinstance(params, list) or not params or not all(isinstance(p, str) for p in params):
            return {
                "error": {"code": 2, "msg": "Invalid request: params must be an array of strings"},
                "id": asked_id,
            }
        if method == "UNSUBSCRIBE":
            self._unsubscribe(connection, params)
        elif not self._subscribe(connection, params):
            limit = self._x.streams_max
            return {
                "error": {"code": 2, "msg": f"Invalid request: more than {limit} streams"},
                "id": asked_id,
            }
        return {"result": None, "id": asked_id}

    def _subscribe(self, connection: Connection, names: list[str]) -> bool:
        meter = self._x.meter
        if len({*connection.streams, *names}) > self._x.streams_max:
            meter.streams_refused += 1
            return False
        for name in names:
            meter.subscribes[name] += 1
            if name in connection.streams:
                continue
            connection.streams[name] = None
            self._subscribers.setdefault(name, {})[connection] = None
            meter.subscriptions[name] = len(self._subscribers[name])
            symbol, _, what = name.partition("@")
            line = self._x.line_of.get(symbol.upper())
            if line is not None and what.startswith("depth"):
                line.publishes(_interval(what))
        return True

    def _unsubscribe(self, connection: Connection, names: list[str], *, count: bool = True) -> None:
        for name in names:
            self._x.meter.unsubscribes[name] += count
            if name not in connection.streams:
                continue
            del connection.streams[name]
            del self._subscribers[name][connection]
            self._x.meter.subscriptions[name] -= 1
            if not self._subscribers[name]:
                del self._subscribers[name], self._x.meter.subscriptions[name]

    def disconnect(self, pattern: str = "*", *, abort: bool = False) -> int:
        """End connections that have a stream matching, with a closing frame or without."""
        hit = [
            c for c in self._connections
            if pattern == "*" or any(fnmatchcase(s.lower(), pattern.lower()) for s in c.streams)
        ]  # fmt: skip
        for connection in hit:
            self._end(connection, 1001, abort=abort)
        return len(hit)

    def _end(self, connection: Connection, code: int, *, abort: bool = False) -> None:
        if connection.ending:
            return
        connection.ending = True
        # Whoever is cut gets nothing more, even while the closing is under way.
        self._unsubscribe(connection, list(connection.streams), count=False)
        if abort:
            if connection.request.transport is not None:
                connection.request.transport.abort()
            return
        self._later(connection.ws.close(code=code))

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def expire(self) -> None:
        """End connections that have had their life."""
        now = self._x.clock.true_ms()
        for connection in list(self._connections):
            if not connection.ending and now - connection.opened_ms > self._x.connection_life_s * 1_000:
                self._x.meter.connections_expired += 1
                self._end(connection, 1008)

    def ping_due(self, now_s: float) -> None:
        """The exchange pings every three minutes."""
        self._pinged_s = self._pinged_s or now_s
        if now_s - self._pinged_s >= self._x.ping_every_s:
            self._pinged_s = now_s
            for connection in self._connections:
                if not connection.ending:
                    self._later(_quietly(connection.ws.ping()))

    async def close(self) -> None:
        """End every connection."""
        for connection in list(self._connections):
            self._end(connection, 1001)
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=2.0)

    # --- what streams say

    def wanted(self, stream: str) -> bool:
        return stream in self._subscribers

    def moved(self, line: Line, trades: list[Trade], quoted: bool, now_ms: int) -> None:
        """A book moved: trades and best prices go out at once."""
        for name in line.symbols if self._subscribers else ():
            low = self._names[name]
            for trade in trades:
                if self.wanted(stream := f"{low}@aggTrade"):
                    self.send(stream, name, agg_trade(name, trade, now_ms))
                if self.wanted(stream := f"{low}@trade"):
                    self.send(stream, name, trade_message(name, trade, now_ms))
            if quoted and line.quote is not None:
                for stream in (f"{low}@bookTicker", "!bookTicker"):
                    if self.wanted(stream):
                        self.send(stream, name, book_ticker(name, line, now_ms))

    def due(self, slot: int, now_ms: int) -> None:
        """What is published at this slot."""
        for phase, lines in enumerate(self._by_phase):
            since = slot - phase
            if since > 0 and (since % 10 == 0 or since % 25 == 0):
                for line in lines:
                    self._publish(line, since, now_ms)
        if slot % 100 == 0:
            self._publish_all(slot, now_ms)

    def _publish(self, line: Line, since: int, now_ms: int) -> None:
        for interval in list(line.pending):
            if since * 10 % interval:
                continue
            told = line.publish(interval)
            for k, name in enumerate(line.symbols if self._subscribers else ()):
                low, words = self._names[name], _words(interval)
                for word in words:
                    if told is not None and self.wanted(stream := f"{low}@depth{word}"):
                        self._spread(k, line, now_ms, self._send_depth, stream, name, line, told)
                    for n in PARTIAL:
                        if self.wanted(stream := f"{low}@depth{n}{word}"):
                            self._spread(k, line, now_ms, self._send_partial, stream, name, line, n)
        for name in line.symbols if self._subscribers else ():
            low = self._names[name]
            if since % 100 == 0:
                if self.wanted(stream := f"{low}@markPrice@1s"):
                    self.send(stream, name, mark_price(self._x.rest.premium(name), now_ms))
                if since % 300 == 0 and self.wanted(stream := f"{low}@markPrice"):
                    self.send(stream, name, mark_price(self._x.rest.premium(name), now_ms))
                if self.wanted(stream := f"{low}@miniTicker"):
                    self.send(stream, name, mini_ticker(name, line, now_ms, self._x.clock.true_ms()))
            if since % 25 == 0:
                self._klines(name, line, now_ms)

    def _spread(self, k: int, line: Line, now_ms: int, work: Callable[..., None], *arguments: Any) -> None:
        """Symbols that share a line speak at different times, as strangers would; each tells its own time."""
        x = self._x
        if x.speed > 0 and len(line.symbols) > 1 and k % 10:
            assert x._loop is not None
            x._loop.call_later(k % 10 * 0.01 / x.speed, lambda: work(*arguments, x.clock.now_ms()))
        else:
            work(*arguments, now_ms)

    def _send_partial(self, stream: str, name: str, line: Line, n: int, now_ms: int) -> None:
        before, last = self._top_sent.get(stream, -1), line.book.last_id
        if before != last:
            self._top_sent[stream] = last
            self.send(stream, name, partial_depth(name, line, n, max(0, before), now_ms))

    def _publish_all(self, slot: int, now_ms: int) -> None:
        x = self._x
        for stream, every in (("!markPrice@arr@1s", 100), ("!markPrice@arr", 300)):
            if slot % every == 0 and self.wanted(stream):
                rows = [mark_price(x.rest.premium(name), now_ms) for name in x.line_of]
                self.send(stream, "", "[" + ",".join(rows) + "]")
        if self.wanted("!miniTicker@arr"):
            true_ms = x.clock.true_ms()
            rows = [mini_ticker(name, line, now_ms, true_ms) for name, line in x.line_of.items()]
            self.send("!miniTicker@arr", "", "[" + ",".join(rows) + "]")

    def _klines(self, name: str, line: Line, now_ms: int) -> None:
        true_ms = self._x.clock.true_ms()
        for interval, step in INTERVALS_MS.items():
            stream = f"{self._names[name]}@kline_{interval}"
            if not self.wanted(stream):
                continue
            opened = true_ms // step * step
            before = self._candle_sent.get(stream, opened)
            if before < opened:
                done = line.candle_of(before, step, true_ms)
                self.send(stream, name, kline(name, line, done, interval, step, now_ms, closed=True))
            self._candle_sent[stream] = opened
            running = line.candle_of(opened, step, true_ms)
            self.send(stream, name, kline(name, line, running, interval, step, now_ms, closed=False))

    def _send_depth(self, stream: str, name: str, line: Line, told: Difference, now_ms: int) -> None:
        """A difference with the faults that change or drop it."""
        faults = self._x.faults
        if not faults.active and stream not in self._owed:
            self.send(stream, name, depth(name, told, now_ms))
            return
        if faults.active and faults.on_stream("gap", stream, name):
            self._x.meter.frames_swallowed += 1
            return
        bids, asks = list(told.bids), list(told.asks)
        owed_bids, owed_asks = self._owed[stream]
        if faults.active and faults.on_stream("dark", stream, name):
            owed_bids.update(float(p) for p, _ in bids)
            owed_asks.update(float(p) for p, _ in asks)
            bids, asks = [(p, "0") for p, _ in bids], [(p, "0") for p, _ in asks]
        elif faults.active and line.book.best and faults.on_stream("crossed", stream, name):
            (_, quantity), (ask, _) = line.book.best
            price = f"{float(ask) * 1.001:.{line.price_digits}f}"
            bids.append((price, quantity))
            owed_bids.add(float(price))
        else:
            bids, asks = (
                _righted(bids, owed_bids, line.book.bids, line),
                _righted(asks, owed_asks, line.book.asks, line),
            )
            del self._owed[stream]
        told = Difference(told.first_id, told.last_id, told.previous_id, bids, asks)
        text = depth(name, told, now_ms, faults.on_stream("stale", stream, name))
        self.send(stream, name, text, aged=True)

    def send(self, stream: str, name: str, data: str, *, aged: bool = False) -> None:
        """One message to everybody on the stream, with the faults that do not look into it."""
        faults = self._x.faults
        if not faults.active:
            held = self._held.pop(stream, None) if self._held else None
            self._deliver(stream, data)
            if held is not None:
                self._deliver(stream, held)
            return
        if faults.on_stream("silence", stream, name):
            self._x.meter.frames_swallowed += 1
            return
        if not aged and (fault := faults.on_stream("stale", stream, name)):
            message = json.loads(data)
            for one in message if isinstance(message, list) else [message]:
                for key in {"E", "T"} & set(one):
                    one[key] -= int(float(fault.value) * 1_000)
            data = json.dumps(message, separators=(",", ":"))
        if fault := faults.on_stream("garbage", stream, name):
            self._deliver(stream, GARBAGE[fault.value or "text"], bare=True)
        if stream not in self._held and faults.on_stream("reorder", stream, name):
            self._held[stream] = data
            return
        self._deliver(stream, data)
        if faults.on_stream("duplicate", stream, name):
            self._deliver(stream, data)
        if stream in self._held:
            self._deliver(stream, self._held.pop(stream))

    def _deliver(self, stream: str, data: str | bytes, *, bare: bool = False) -> None:
        wrapped: str | None = None
        for connection in self._subscribers.get(stream, ()):
            if connection.queue.qsize() > QUEUE_MAX:
                self._x.meter.connections_too_slow += 1
                asyncio.get_running_loop().call_soon(self._end, connection, 1008)
                continue
            if connection.combined and not bare:
                wrapped = wrapped or f'{{"stream":"{stream}","data":{data!s}}}'
                connection.queue.put_nowait(wrapped)
            else:
                connection.queue.put_nowait(data)


def _interval(what: str) -> int:
    for interval in (100, 500):
        if what.endswith(f"@{interval}ms"):
            return interval
    return 250


def _words(interval: int) -> tuple[str, ...]:
    return ("@250ms", "") if interval == 250 else (f"@{interval}ms",)


def _righted(levels: list[Level], owed: set[float], side: dict[float, Level], line: Line) -> list[Level]:
    """The levels of a difference, and those that a fault left wrong as they really are."""
    if not owed:
        return levels
    told = {float(p) for p, _ in levels}
    zero = f"{0:.{line.quantity_digits}f}"
    more = [side.get(p) or (f"{p:.{line.price_digits}f}", zero) for p in sorted(owed - told)]
    return sorted([*levels, *more], key=lambda level: float(level[0]))


async def _quietly(work: Any) -> None:
    with contextlib.suppress(ConnectionError, RuntimeError):
        await work
