"""Books of a universe live from the exchange: ccxt keeps them in sync, guards judge, a view holds the bands.

Entry point: `BookFlow`, one thread with an asyncio loop of its own.

Invariants
----------
1. One watch a symbol on shared connections: what breaks one symbol takes no other's book.
2. After any error a symbol's book is forgotten before it is watched again, after a jittered back-off that
   doubles. A wait that the exchange asks for is kept. At most four symbols take their snapshots at a time.
3. A side is known as far as its snapshot showed, never by levels beyond. A new snapshot is taken every
   minute, sooner where price moved so far that less is covered, never where a side is whole; of many symbols
   less often, since the exchange counts a snapshot's weight. A sound book is watched until its turn comes,
   one at a time, and only while none is broken: what is refreshed is out for about a second.
4. Only the newest bands of a symbol are kept; nothing here waits for a reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np

from dolphin.domain.bar import FloatArray
from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import plural
from dolphin.feeds.book_arrays import BookArrays
from dolphin.feeds.book_view import BookView
from dolphin.feeds.client import PublicBinance, close, make_exchange, share_connections
from dolphin.feeds.loop_thread import LoopThread, run_until
from dolphin.feeds.polling import Pace, Schedule
from dolphin.feeds.raw_recorder import RawRecorder
from dolphin.market.book_messages import NS_PER_MS
from dolphin.orderbook.bands import are_levels, book_snapshot
from dolphin.orderbook.guards import GuardRules, SymbolGuard
from dolphin.orderbook.snapshot import BookSnapshot

#: Levels a side of a snapshot, the most that the exchange gives.
LEVELS: Final = 1_000
#: Symbols that may wait for a snapshot at a time.
ENTERING_MAX: Final = 4
#: A snapshot of 1,000 levels costs the client's limiter a second; what is refreshed leaves it a third idle.
REFRESH_EACH_NS: Final = 3 * NS_PER_S // 2
#: Least distance of two snapshots of one symbol that nothing broke.
RESYNC_MIN_NS: Final = 10 * NS_PER_S
#: Collections of the middle generation before one of everything, in a process of live books alone.
FULL_COLLECTION_AFTER: Final = 1_000
#: Good updates after which a symbol's back-off begins anew.
SETTLED_UPDATES: Final = 10
STOP_S: Final = 5.0
#: Pause before a flow that broke off begins anew, seconds.
LIFE_PAUSE_S: Final = 1.0
#: Levels a side of what is kept of the raw book.
TOP_LEVELS: Final = 20
Notice = tuple[str, str]


class TopOfBook(NamedTuple):
    """The best levels of one book: prices in USDT and base quantities, best first, at most `TOP_LEVELS`."""

    timestamp_ns: int
    bids: tuple[FloatArray, FloatArray]
    asks: tuple[FloatArray, FloatArray]
    update_id: int | None


class _Watched:
    """What is known of one symbol's watch."""

    def __init__(
        self, symbol: str, market: str, guard: SymbolGuard, schedule: Schedule, arrays: BookArrays
    ) -> None:
        self.symbol, self.market, self.guard, self.schedule = symbol, market, guard, schedule
        self.arrays = arrays
        self.bid_edge = self.ask_edge = math.nan
        self.snapshot_ns = 0
        self.refresh_at_ns = 0
        self.reach_bps: float | None = None
        self.arrived_ns = 0
        self.n_updates = 0  # since its snapshot
        self.push_seq = 0
        self.stalls_in_row = 0
        self.resync = False  # broken: it has to be taken anew
        self.refresh = False  # sound, and to be taken anew when its turn comes
        self.urgent = False  # since price left what its snapshot covered: before those that are only old


class BookFlow:
    """See the module.

    Parameters
    ----------
    symbols : the exchange's names, `BTCUSDT`
    view : where the newest bands go
    base_url : see `make_exchange`
    now_ns, mono_ns : wall clock of what is pushed; clock of all guards, which never goes back
    check_every_s : real seconds between two looks of the stall watchdog
    pace : of a symbol's back-off
    recorder : hears every text that is received
    freeze_heap : for a process that does nothing else: take what is loaded out of the garbage collector, once
    on_book : hears symbol, bands and the wall clock (ns) of what went into the view, on the flow's thread
    """

    def __init__(
        self,
        symbols: Sequence[str],
        view: BookView,
        *,
        base_url: str | None = None,
        rules: GuardRules | None = None,
        now_ns: Callable[[], int] = time.time_ns,
        mono_ns: Callable[[], int] = time.monotonic_ns,
        check_every_s: float = 0.5,
        refresh_every_s: float = 60.0,
        pace: Pace | None = None,
        seed: int = 0,
        levels: int = LEVELS,
        recorder: RawRecorder | None = None,
        on_book: Callable[[str, BookSnapshot, int], None] = lambda symbol, book, now_ns: None,
        freeze_heap: bool = False,
    ) -> None:
        self.symbols = tuple(symbols)
        self.view = view
        #: updates, crossed, dark, stalls, resyncs (of broken books), refreshes (of sound ones), errors,
        #: unlike (arrays and the client's book), unreadable (differences that the client could read),
        #: error_<class>: since the start.
        self.counts: Counter[str] = Counter()
        #: Nanoseconds from a difference's arrival to the end of `on_book` for its bands, the newest.
        self.delays_ns: deque[int] = deque(maxlen=65_536)
        self.rules = rules or GuardRules()
        #: The newest best levels of each symbol.
        self.tops: dict[str, TopOfBook] = {}
        self._base_url = base_url
        self._now_ns, self._mono_ns = now_ns, mono_ns
        self._check_every_s = check_every_s
        self._refresh_ns = max(int(refresh_every_s * NS_PER_S), len(self.symbols) * REFRESH_EACH_NS)
        self._pace = pace or Pace(period_s=30.0, tries=1_000_000, backoff_first_s=0.2, backoff_max_s=30.0)
        self._seed = seed
        self._chance = random.Random(f"{seed}:refresh")  # noqa: S311 jitter, no secret
        self._levels = levels
        self._recorder = recorder
        self._on_book = on_book
        self._freeze_heap = freeze_heap
        self._watched: dict[str, _Watched] = {}
        self._notices: deque[Notice] = deque(maxlen=1_000)
        self._told_ns: dict[str, int] = {}
        self._thread = LoopThread("books", self._main, STOP_S)
        self._entering: asyncio.Semaphore | None = None
        #: Symbols that wait for a first snapshot or take it, and whether a sound book is refreshed.
        self._n_entering = 0
        self._refreshing = False
        self.exchange: PublicBinance | None = None

    # from any thread

    def start(self) -> None:
        """Begin to watch; returns at once. Raises ConfigError for a wrong address."""
        self.exchange = make_exchange(self._base_url)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more and close the connections; the last books stay in the view."""
        self._thread.stop()

    def notices(self) -> list[Notice]:
        """(kind, line) of what happened since the last call: `alert` for a person, `log` for the log."""
        found = []
        with contextlib.suppress(IndexError):
            while True:
                found.append(self._notices.popleft())
        return found

    def stale(self) -> tuple[str, ...]:
        """Symbols that are STALE_DATA now."""
        return tuple(symbol for symbol, one in list(self._watched.items()) if one.guard.stale)

    # on the loop

    async def _main(self, ended: asyncio.Event) -> None:
        # Kernels are compiled before any socket is open: no ping goes unanswered meanwhile.
        level = (np.array([1.0]), np.array([1.0]))
        book_snapshot(0, level, (np.array([2.0]), level[1]))
        are_levels(*level)
        self._entering = asyncio.Semaphore(ENTERING_MAX)
        exchange, thresholds = self.exchange, gc.get_threshold()
        assert exchange is not None
        try:
            while not ended.is_set():
                error = await run_until(ended, self._live(exchange))
                if not ended.is_set():  # a fault of ours: told, and begun anew
                    self.counts["lives"] += 1
                    self._tell("alert", f"the book flow broke off ({error!r}); it begins anew", "life")
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(ended.wait(), LIFE_PAUSE_S)
        finally:
            gc.set_threshold(*thresholds)
            await close(exchange)

    async def _live(self, exchange: PublicBinance) -> None:
        await self._load_markets(exchange)
        started_ns = self._mono_ns()
        for symbol in self.symbols:
            market = _market_of(exchange, symbol)
            if market is None:
                self._tell("alert", f"{symbol}: the exchange has no such perpetual; it has no book")
                continue
            guard = SymbolGuard(symbol, started_ns, self.rules)
            schedule = Schedule(self._pace, f"{self._seed}:{symbol}")
            self._watched[symbol] = _Watched(symbol, market, guard, schedule, BookArrays(self._levels))
        by_market = {one.market: one for one in self._watched.values()}
        share_connections(exchange, list(by_market))
        exchange.on_snapshot = lambda market, book: self._on_snapshot(by_market[market], book)
        exchange.on_difference = lambda market, message: self._on_difference(by_market[market], message)
        if self._recorder is not None:
            hear = self._recorder.hear
            exchange.on_text = lambda kind, text, address: hear(self._now_ns(), kind, text, address)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_for_stalls(exchange))
            for one in self._watched.values():
                tasks.create_task(self._watch(exchange, one))

    async def _load_markets(self, exchange: PublicBinance) -> None:
        schedule = Schedule(self._pace, f"{self._seed}:markets")
        while True:
            try:
                await exchange.load_markets()
            except Exception as error:  # whatever the exchange answers, it is asked again
                self._failed("markets", error)
                await asyncio.sleep(self._wait_s(exchange, schedule))
            else:
                if self._freeze_heap:
                    # What describes 500 markets stays for good: a collector that walks it again and again
                    # would hold this loop, and every thread beside it, for 150 ms each time.
                    self._freeze_heap = False
                    gc.collect()
                    gc.freeze()
                    # 200,000 lists of levels stay, too, and nothing of it makes cycles: a full collection
                    # every 20 s held the loop for 90 ms and found nothing. Now one comes in some 20 minutes.
                    gc.set_threshold(*gc.get_threshold()[:2], FULL_COLLECTION_AFTER)
                return

    async def _watch(self, exchange: PublicBinance, one: _Watched) -> None:
        """One symbol for ever."""
        assert self._entering is not None
        while True:
            try:
                # Not watched while it waits for its turn, and that is nobody's silence.
                one.guard.pause()
                self._n_entering += 1
                try:
                    async with self._entering:
                        book = await self._found(exchange, one)
                finally:
                    self._n_entering -= 1
                self._take(one, book)
                while not one.resync:
                    if self._is_its_turn(one):
                        self._refreshing = True
                        try:
                            book = await self._found(exchange, one)
                        finally:
                            self._refreshing = False
                        self.counts["refreshes"] += 1
                        self._take(one, book)
                    else:
                        self._take(one, await exchange.watch_order_book(one.market, self._levels))
                self.counts["resyncs"] += 1
            except Exception as error:  # ccxt's own, and what its parsing brings: the book is taken anew
                self._failed(one.symbol, error)
                await asyncio.sleep(self._wait_s(exchange, one.schedule))

    def _is_its_turn(self, one: _Watched) -> bool:
        """Whether a sound book may be taken anew now."""
        if not one.refresh or self._refreshing:
            return False
        if one.urgent:
            # One that never gets its book must not keep the others from theirs.
            return not self._n_entering or self._mono_ns() - one.snapshot_ns >= 2 * RESYNC_MIN_NS
        return not self._n_entering and not any(other.urgent for other in self._watched.values())

    async def _found(self, exchange: PublicBinance, one: _Watched) -> Any:
        """The book founded anew on a snapshot. Raises what the client raises."""
        exchange.forget_book(one.market)
        one.arrays.forget()
        one.resync = one.refresh = one.urgent = False
        one.n_updates = one.arrived_ns = 0
        one.guard.begin(self._mono_ns())
        return await exchange.watch_order_book(one.market, self._levels)

    def _wait_s(self, exchange: PublicBinance, schedule: Schedule) -> float:
        """Seconds of back-off, at least what the exchange asked for."""
        wait_s = schedule.after_failure_s(passes=True)
        quiet_s = exchange.blocked_until_s - time.monotonic()
        return quiet_s + wait_s if quiet_s > 0.0 else wait_s

    def _failed(self, what: str, error: Exception) -> None:
        name = type(error).__name__
        self.counts["errors"] += 1
        self.counts[f"error_{name}"] += 1
        line = " ".join(str(error).split())[:160]
        self._tell("log", f"{what}: taken anew after {name}: {line}", once_a_minute=name)
        if self.exchange is not None and (quiet_s := self.exchange.blocked_until_s - time.monotonic()) > 0.0:
            why = f"the exchange wants {math.ceil(quiet_s)} s without questions"
            self._tell("alert", f"{why}; what needs a snapshot has no book until then", once_a_minute="quiet")

    def _tell(self, kind: str, text: str, once_a_minute: str = "") -> None:
        if once_a_minute:
            now_ns, told_ns = self._mono_ns(), self._told_ns.get(once_a_minute)
            if told_ns is not None and now_ns - told_ns < self.rules.warn_every_ns:
                return
            self._told_ns[once_a_minute] = now_ns
        self._notices.append((kind, text))

    # what comes

    def _on_snapshot(self, one: _Watched, book: Any) -> None:
        """A side with fewer levels than were asked for is whole."""
        one.arrays.forget()
        bids, asks = book["bids"], book["asks"]
        one.bid_edge = float(bids[-1][0]) if len(bids) >= self._levels else -math.inf
        one.ask_edge = float(asks[-1][0]) if len(asks) >= self._levels else math.inf
        one.snapshot_ns = self._mono_ns()
        one.refresh_at_ns = one.snapshot_ns + int(self._refresh_ns * self._chance.uniform(0.9, 1.0))
        one.reach_bps = None
        self.counts["snapshots"] += 1

    def _on_difference(self, one: _Watched, message: Any) -> None:
        one.arrived_ns = time.monotonic_ns()
        try:
            bids, asks = (
                [(float(level[0]), float(level[1])) for level in message.get(side) or ()]
                for side in ("b", "a")
            )
        except (TypeError, ValueError, IndexError):  # what it makes of this the client knows
            one.arrays.forget()
            self.counts["unreadable"] += 1
            return
        one.arrays.apply(bids, asks)
        volume = any(quantity > 0.0 for _, quantity in chain(bids, asks))
        if not volume:
            self.counts["dark"] += 1
        notice = one.guard.difference(volume)
        if notice:
            self.view.drop(one.symbol)
            self._tell("alert", notice)

    def _take(self, one: _Watched, book: Any) -> None:
        """The book after an update, judged, to the view."""
        now_ns = self._mono_ns()
        n_unlike = one.arrays.n_unlike
        bids, asks = one.arrays.read(book, now_ns)
        if one.arrays.n_unlike > n_unlike:
            self.counts["unlike"] += 1
            line = f"{one.symbol}: arrays unlike the client's book, taken anew"
            self._tell("log", line, f"unlike {one.symbol}")
        self.counts["updates"] += 1
        one.n_updates += 1
        one.stalls_in_row = 0
        if one.n_updates == SETTLED_UPDATES:
            one.schedule.after_success_s()
        if not (are_levels(*bids) and are_levels(*asks)):
            self.counts["unsound"] += 1
            self._tell("log", f"{one.symbol}: a level is no price and quantity", once_a_minute="unsound")
            one.resync = True
            return
        # ccxt cut the sides to `levels`, for good: what lies beyond is no longer known.
        if len(bids[0]) >= self._levels:
            one.bid_edge = max(one.bid_edge, float(bids[0][-1]))
        if len(asks[0]) >= self._levels:
            one.ask_edge = min(one.ask_edge, float(asks[0][-1]))
        best_bid = float(bids[0][0]) if len(bids[0]) else 0.0
        best_ask = float(asks[0][0]) if len(asks[0]) else 0.0
        verdict = one.guard.update(now_ns, best_bid, best_ask)
        if verdict.notice:
            self._tell("log", verdict.notice)
        if verdict.state == "crossed":
            self.counts["crossed"] += 1
        one.resync = verdict.resync
        if not verdict.publish:
            return
        one.push_seq += 1
        pushed_ns = self._now_ns()
        snapshot = book_snapshot(
            int(book["timestamp"] or 0) * NS_PER_MS,
            bids,
            asks,
            bid_edge=one.bid_edge,
            ask_edge=one.ask_edge,
            pushed_ns=pushed_ns,
            push_seq=one.push_seq,
        )
        if snapshot is None:
            self.counts["one_sided"] += 1
            return
        if self.view.put(one.symbol, snapshot):
            nonce = book["nonce"]
            self.tops[one.symbol] = TopOfBook(
                snapshot.timestamp_ns, _top(bids), _top(asks), None if nonce is None else int(nonce)
            )
            self._on_book(one.symbol, snapshot, pushed_ns)
        if one.arrived_ns:
            self.delays_ns.append(time.monotonic_ns() - one.arrived_ns)
            one.arrived_ns = 0
        if one.reach_bps is None:
            one.reach_bps = snapshot.visible_bps
        whole = math.isinf(one.bid_edge) and math.isinf(one.ask_edge)
        fell = snapshot.visible_bps < one.reach_bps and now_ns - one.snapshot_ns >= RESYNC_MIN_NS
        if fell or (not whole and now_ns >= one.refresh_at_ns):
            one.refresh, one.urgent = True, one.urgent or fell

    # silence

    async def _look_for_stalls(self, exchange: PublicBinance) -> None:
        while True:
            await asyncio.sleep(self._check_every_s)
            # Declared dead within the limit: what would pass it before the next look has passed it.
            now_ns = self._mono_ns() + int(self._check_every_s * NS_PER_S)
            silent = [one for one in self._watched.values() if one.guard.stalled(now_ns)]
            if silent:
                self._reconnect(exchange, silent, now_ns)

    def _reconnect(self, exchange: PublicBinance, silent: list[_Watched], now_ns: int) -> None:
        """Give up the connections that bring nothing at all, or the single symbols that are missing."""
        limit_s = self.rules.stall_ns / NS_PER_S
        names = ", ".join(one.symbol for one in silent[:3]) + (", ..." if len(silent) > 3 else "")
        why = f"no update for {limit_s:g} s"
        self.counts["stalls"] += len(silent)
        quiet_s = exchange.blocked_until_s - time.monotonic()
        then = f", but the exchange wants {math.ceil(quiet_s)} s without questions" if quiet_s > 0.0 else ""
        self._tell("alert", f"{why} of {plural(len(silent), 'symbol')} ({names}); reconnecting{then}")
        for one in silent:
            one.stalls_in_row += 1
            self.view.drop(one.symbol)
        for url, connection in list((exchange.clients or {}).items()):
            keys = {*connection.subscriptions, *connection.futures}
            here = [one for one in self._watched.values() if f"orderbook::{one.market}" in keys]
            quiet = [one for one in silent if one in here]
            if not quiet:
                continue
            deaf = all(
                one in silent or one.guard.silence_ns(now_ns) > self.rules.stall_ns // 2 for one in here
            )
            if deaf or any(one.stalls_in_row > 1 for one in quiet):
                exchange.give_up(url, why)
            else:
                for one in quiet:
                    exchange.give_up_book(one.market, why)


def _market_of(exchange: PublicBinance, symbol: str) -> str | None:
    """ccxt's name of an active perpetual, None where there is none."""
    for market in (exchange.markets_by_id or {}).get(symbol, ()):
        if market["swap"] and market["active"]:
            return str(market["symbol"])
    return None


def _top(side: tuple[FloatArray, FloatArray]) -> tuple[FloatArray, FloatArray]:
    """The best levels, copied, so that the whole side is not held."""
    return side[0][:TOP_LEVELS].copy(), side[1][:TOP_LEVELS].copy()
