"""Five best levels of every active USDT perpetual, pushed: `{symbol}@depth5@500ms` over several connections.

Entry point: `UniverseStreams`, one thread with an asyncio loop of its own. Snapshots of five levels need no
book keeping, so frames are read as they come; REST is asked for the list of symbols only, once a day.

Invariants
----------
1. A connection has at most 200 streams, and there are three or more of them: one that breaks takes no other's
   books. Symbols are dealt in turn, so that each connection has busy ones.
2. At most one message goes out in 150 ms; the exchange cuts whoever sends ten a second. A subscription that
   is refused or not acknowledged within 10 s ends the connection, which then begins anew.
3. A connection without data for 25 s is given up though its pings are answered; one is renewed by plan within
   the last twentieth before 23.5 h. What ended begins anew after a jittered back-off that doubles, and not
   before the exchange's Retry-After.
4. Bad input is counted by name and dropped; the last sound book of the symbol stays, and grows old.
5. A list of symbols that is empty or cannot be read changes nothing: it is asked for again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import msgspec

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import ConfigError, DataError, DolphinError, UsageError
from dolphin.feeds.client import PublicBinance, close, make_exchange
from dolphin.feeds.loop_thread import LoopThread, run_until
from dolphin.feeds.polling import Pace, Schedule, retry_after_s
from dolphin.feeds.streams import LIFE_S, PACE, SILENT_S
from dolphin.feeds.universe_messages import Answer, FiveLevels, active_perpetuals, message_of
from dolphin.orderbook.universe import Top, judge_top

try:
    import aiohttp
except ImportError as _error:
    raise UsageError(
        "live books need the feeds extra; install it with `pip install 'dolphin-trader[feeds]'`"
    ) from _error

#: The exchange's limit, and how many a connection gets at first: room for what is listed later.
STREAMS_MAX: Final = 200
STREAMS_FIRST: Final = 180
CONNECTIONS_MIN: Final = 3
#: Streams a message, seconds between two messages, seconds until one must be acknowledged.
BATCH: Final = 50
MESSAGE_EVERY_S: Final = 0.15
ACK_S: Final = 10.0
CONNECT_S: Final = 10.0
LISTING_EVERY_S: Final = 86_400.0
#: Longest frame that is read, bytes; five levels take some hundred.
FRAME_MAX: Final = 1 << 20
#: A connection is fresh while its newest data are no older.
FRESH_S: Final = 30.0
STOP_S: Final = 5.0
LIFE_PAUSE_S: Final = 1.0
LISTING_PACE: Final = Pace(period_s=LISTING_EVERY_S, tries=1_000_000, backoff_max_s=300.0)


class Held(NamedTuple):
    """The newest sound book of a symbol and when it arrived, ns of the flow's own clock."""

    top: Top
    arrived_ns: int


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """How a connection is: streams it has to have, whether it is open, age of its newest data."""

    number: int
    n_streams: int
    is_open: bool
    age_s: float

    @property
    def is_fresh(self) -> bool:
        """Whether data came lately."""
        return self.age_s <= FRESH_S


@dataclass(slots=True, eq=False)
class _Connection:
    number: int
    schedule: Schedule
    data_ns: int
    wanted: set[str] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    #: Of the life that is going on: what ends it, why it was ended, when it is renewed, since when it is.
    timeout: asyncio.Timeout | None = None
    why: str = ""
    renewed_ns: int = 0
    born_ns: int = 0
    is_open: bool = False
    #: Ids of messages that are not acknowledged yet, with when they were sent.
    waiting: dict[int, int] = field(default_factory=dict)


class UniverseStreams:
    """See the module.

    Parameters
    ----------
    base_url : see `make_exchange`
    mono_ns : the clock of silence, life and ages, which never goes back
    check_every_s : real seconds between two looks of the watchdog
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        mono_ns: Callable[[], int] = time.monotonic_ns,
        silent_s: float = SILENT_S,
        life_s: float = LIFE_S,
        check_every_s: float = 1.0,
        listing_every_s: float = LISTING_EVERY_S,
        streams_first: int = STREAMS_FIRST,
        message_every_s: float = MESSAGE_EVERY_S,
        pace: Pace = PACE,
        listing_pace: Pace = LISTING_PACE,
        seed: int = 0,
    ) -> None:
        if not 1 <= streams_first <= STREAMS_MAX:
            raise ConfigError(f"streams_first is {streams_first}, expected 1 to {STREAMS_MAX}")
        #: frames, books, refused_<reason>, unreadable, foreign, lives, silent, renewals, refused_asks,
        #: errors, error_<class>, listings, listings_failed, listed, delisted: since the start.
        self.counts: Counter[str] = Counter()
        self.last_error = ""
        #: Symbols that the exchange trades, empty before it told; names that are no symbols here.
        self.symbols: tuple[str, ...] = ()
        self.unnamed: tuple[str, ...] = ()
        self.mono_ns = mono_ns
        self._base_url = base_url
        self._silent_ns, self._life_ns = int(silent_s * NS_PER_S), int(life_s * NS_PER_S)
        self._check_every_s, self._listing_every_s = check_every_s, listing_every_s
        self._streams_first, self._message_every_s = streams_first, message_every_s
        self._pace, self._listing_pace, self._seed = pace, listing_pace, seed
        self._chance = random.Random(f"{seed}:universe")  # noqa: S311 jitter, no secret
        self._books: dict[str, Held] = {}
        self._connections: list[_Connection] = []
        self._of: dict[str, _Connection] = {}
        self._notices: deque[str] = deque(maxlen=200)
        self._next_id = 0
        self._blocked_ns = 0
        self._thread: LoopThread | None = None
        self._ask_listing: asyncio.Event | None = None

    # from any thread

    def start(self) -> None:
        """Begin; returns at once. Raises ConfigError for a wrong address."""
        exchange = make_exchange(self._base_url)
        self._ask_listing = None
        self._thread = LoopThread("universe", partial(self._main, exchange), STOP_S)
        self._thread.start()

    def stop(self) -> None:
        """End every connection; the last books stay."""
        if self._thread is not None:
            self._thread.stop()

    def ask_listing(self) -> None:
        """Ask for the list of symbols now, instead of when it is due."""
        if self._thread is not None and self._ask_listing is not None:
            self._thread.soon(self._ask_listing.set)

    def books(self) -> dict[str, Held]:
        """The newest sound book of each symbol that is traded, however old."""
        return self._books.copy()

    def connections(self) -> list[ConnectionState]:
        """How each connection is that has streams."""
        now_ns = self.mono_ns()
        return [
            ConnectionState(c.number, len(c.wanted), c.is_open, max(0, now_ns - c.data_ns) / NS_PER_S)
            for c in self._connections.copy()
            if c.wanted
        ]

    def notices(self) -> list[str]:
        """Lines for a log, each given once."""
        return [self._notices.popleft() for _ in range(len(self._notices))]

    # on the loop's thread

    async def _main(self, exchange: PublicBinance, ended: asyncio.Event) -> None:
        self._ask_listing = asyncio.Event()
        try:
            while not ended.is_set():
                error = await run_until(ended, self._all(exchange))
                if not ended.is_set():
                    # Nothing is expected to come here; what does must not end the service in silence.
                    self._failed("universe", error)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(ended.wait(), LIFE_PAUSE_S)
        finally:
            await close(exchange)

    async def _all(self, exchange: PublicBinance) -> None:
        self._connections, self._of = [], {}
        address = exchange.get_ws_url("linear", "public")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            asyncio.TaskGroup() as tasks,
        ):

            def open_another() -> _Connection:
                number = len(self._connections) + 1
                schedule = Schedule(self._pace, f"{self._seed}:universe:{number}")
                connection = _Connection(number, schedule, self.mono_ns())
                self._connections.append(connection)
                tasks.create_task(self._keep(connection, session, address))
                return connection

            tasks.create_task(self._watch_over())
            tasks.create_task(self._keep_listing(exchange, open_another))

    # symbols

    async def _keep_listing(self, exchange: PublicBinance, open_another: Callable[[], _Connection]) -> None:
        assert self._ask_listing is not None
        schedule = Schedule(self._listing_pace, f"{self._seed}:listing")
        while True:
            self._ask_listing.clear()
            try:
                found, unnamed = active_perpetuals(await exchange.fapiPublicGetExchangeInfo())
            except Exception as error:  # ccxt's own, and answers that are none: asked again
                self.counts["listings_failed"] += 1
                self._failed("exchangeInfo", error)
                quiet_s = exchange.blocked_until_s - time.monotonic()
                wait_s = schedule.after_failure_s(passes=True) + max(0.0, quiet_s)
            else:
                schedule.after_success_s()
                self._listed(found, unnamed, open_another)
                wait_s = self._listing_every_s * self._chance.uniform(0.95, 1.0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ask_listing.wait(), wait_s)

    def _listed(
        self, found: Sequence[str], unnamed: Sequence[str], open_another: Callable[[], _Connection]
    ) -> None:
        """Take in who came and drop who went."""
        self.counts["listings"] += 1
        if unnamed and self.unnamed != tuple(unnamed):
            self._notices.append(f"left out, names that no universe takes: {', '.join(unnamed[:10])}")
        self.unnamed = tuple(unnamed)
        gone = [symbol for symbol in self._of if symbol not in set(found)]
        came = [symbol for symbol in found if symbol not in self._of]
        for symbol in gone:
            connection = self._of.pop(symbol)
            connection.wanted.discard(symbol)
            connection.changed.set()
            self._books.pop(symbol, None)
        first = not self._connections
        if first:
            for _ in range(max(CONNECTIONS_MIN, -(-len(found) // self._streams_first))):
                open_another()
        for symbol in came:
            connection = min(self._connections, key=lambda c: len(c.wanted))
            if len(connection.wanted) >= STREAMS_MAX:
                connection = open_another()
            connection.wanted.add(symbol)
            connection.changed.set()
            self._of[symbol] = connection
        self.symbols = tuple(found)
        if not first:
            self.counts["listed"] += len(came)
            self.counts["delisted"] += len(gone)
            for what, names in (("listed", came), ("not traded any more", gone)):
                if names:
                    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
                    self._notices.append(f"{what}: {', '.join(names[:10])}{more}")

    # connections

    async def _keep(self, connection: _Connection, session: aiohttp.ClientSession, address: str) -> None:
        """Lives of one connection, for ever."""
        while True:
            while not connection.wanted:
                connection.changed.clear()
                await connection.changed.wait()
            connection.why = ""
            wait_s: float | None = None
            try:
                await self._live(connection, session, address)
            except (aiohttp.ClientError, OSError, DolphinError) as error:  # a TimeoutError is an OSError
                if connection.why:
                    self._notices.append(f"connection {connection.number}: {connection.why}")
                else:
                    self._failed(f"connection {connection.number}", error)
                if isinstance(error, aiohttp.WSServerHandshakeError) and error.status in (418, 429, 503):
                    told = error.headers.get("Retry-After") if error.headers else None
                    wait_s = retry_after_s(told, time.time())
                    if wait_s is not None:
                        self._blocked_ns = max(self._blocked_ns, self.mono_ns() + int(wait_s * NS_PER_S))
            finally:
                connection.is_open = False
                connection.timeout = None
            pause_s = connection.schedule.after_failure_s(passes=True, wait_s=wait_s)
            await asyncio.sleep(max(pause_s, (self._blocked_ns - self.mono_ns()) / NS_PER_S))

    async def _live(self, connection: _Connection, session: aiohttp.ClientSession, address: str) -> None:
        """From the handshake to the end, which is always an error."""
        now_ns = self.mono_ns()
        connection.born_ns = now_ns
        connection.renewed_ns = now_ns + int(self._life_ns * self._chance.uniform(0.95, 1.0))
        connection.waiting.clear()
        self.counts["lives"] += 1
        async with asyncio.timeout(None) as connection.timeout:
            ws = await session.ws_connect(
                address,
                max_msg_size=FRAME_MAX,
                timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
                compress=0,
            )
            connection.is_open = True
            asking = asyncio.create_task(self._subscribe(connection, ws))
            try:
                while True:
                    frame = await ws.receive()
                    if frame.type is aiohttp.WSMsgType.TEXT:
                        self._hear(connection, frame.data)
                    elif frame.type is aiohttp.WSMsgType.BINARY:
                        self.counts["unreadable"] += 1
                    else:
                        raise DataError(f"ended by the exchange ({frame.type.name}, code {ws.close_code})")
            finally:
                connection.is_open = False
                asking.cancel()
                (failure,) = await asyncio.gather(asking, return_exceptions=True)
                if isinstance(failure, Exception):
                    self._failed(f"connection {connection.number}", failure)
                with contextlib.suppress(Exception):
                    await ws.close()

    async def _subscribe(self, connection: _Connection, ws: aiohttp.ClientWebSocketResponse) -> None:
        """Ask for what is wanted, and no more for what is not, as it changes."""
        asked: set[str] = set()
        while True:
            connection.changed.clear()
            for method, names in (
                ("UNSUBSCRIBE", sorted(asked - connection.wanted)),
                ("SUBSCRIBE", sorted(connection.wanted - asked)),
            ):
                for at in range(0, len(names), BATCH):
                    batch = names[at : at + BATCH]
                    self._next_id += 1
                    params = [f"{name.lower()}@depth5@500ms" for name in batch]
                    ask = {"method": method, "params": params, "id": self._next_id}
                    connection.waiting[self._next_id] = self.mono_ns()
                    await ws.send_str(msgspec.json.encode(ask).decode())
                    asked = asked | set(batch) if method == "SUBSCRIBE" else asked - set(batch)
                    await asyncio.sleep(self._message_every_s)
            await connection.changed.wait()

    def _hear(self, connection: _Connection, text: str) -> None:
        """One frame."""
        counts = self.counts
        counts["frames"] += 1
        message = message_of(text)
        if not isinstance(message, FiveLevels):
            self._answered(connection, message)
            return
        if self._of.get(message.s) is not connection:
            counts["foreign"] += 1
            return
        now_ns = self.mono_ns()
        top = judge_top(message.b, message.a)
        if isinstance(top, str):
            counts[f"refused_{top}"] += 1
            return
        # A connection lives by books that are sound: one that brings only garbage is as good as silent.
        connection.data_ns = now_ns
        if connection.schedule.failures:
            connection.schedule.after_success_s()
        counts["books"] += 1
        self._books[message.s] = Held(top, now_ns)

    def _answered(self, connection: _Connection, answer: Answer | None) -> None:
        """An acknowledgement, or garbage. Raises DataError for a subscription that is refused."""
        if answer is None:
            self.counts["unreadable"] += 1
            return
        if answer.id is not None:
            connection.waiting.pop(answer.id, None)
        if answer.error is not None:
            self.counts["refused_asks"] += 1
            raise DataError(f"the exchange refuses a subscription: {str(answer.error)[:120]}")

    async def _watch_over(self) -> None:
        """End connections that are silent, not answered or old, for ever."""
        while True:
            await asyncio.sleep(self._check_every_s)
            now_ns = self.mono_ns()
            for connection in self._connections:
                timeout = connection.timeout
                if timeout is None or connection.why:
                    continue
                quiet_ns = now_ns - max(connection.born_ns, connection.data_ns)
                asked_ns = min(connection.waiting.values(), default=now_ns)
                if quiet_ns > self._silent_ns:
                    self.counts["silent"] += 1
                    connection.why = f"no book for {quiet_ns / NS_PER_S:.0f} s, given up"
                elif now_ns - asked_ns > ACK_S * NS_PER_S:
                    self.counts["silent"] += 1
                    connection.why = f"a subscription is not answered for {ACK_S:.0f} s, given up"
                elif now_ns >= connection.renewed_ns:
                    self.counts["renewals"] += 1
                    connection.why = "renewed by plan"
                else:
                    continue
                timeout.reschedule(asyncio.get_running_loop().time())

    def _failed(self, what: str, error: BaseException | None) -> None:
        """Count an error and keep its line."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        self.counts["errors"] += 1
        self.counts[f"error_{type(error).__name__}"] += 1
        self.last_error = f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        self._notices.append(self.last_error)
