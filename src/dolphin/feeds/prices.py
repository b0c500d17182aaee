"""Live prices of Binance USD-M as a feed: one bar every 5 s of the last traded price of each symbol.

Entry point: `BinancePrices`.

The price is the last aggregate trade's: the exchange's klines, which fill the warm-up, and every recording
close at the same kind of price, so that live, back-filled and recorded bars are one series. A quote's middle
is fresher in thin symbols, but another series; a mark price is smoothed over venues and nobody trades at it.

1. A bar is closed on this machine's clock at each multiple of the interval; the exchange's clock is asked at
   the start and hourly. More than `SKEW_MAX_S` apart no run begins: every age would be wrong.
2. A bar that could not be closed in its own interval (a machine that stood still) is not made up later: it is
   left out and counted, and the scanner sees the step of time.
3. A bar counts as live where at least half of the traded symbols have a fresh price.
4. Other than a recording's, these bars come once. A new iteration begins now, with the warm-up from klines.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from dolphin.domain.bar import Bar
from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import ConfigError, DataError, DolphinError, plural
from dolphin.domain.scan import WARMUP_PRICES
from dolphin.feeds.client import (
    PublicBinance,
    absent_line,
    base_address,
    chunks,
    close,
    make_exchange,
    traded_names,
)
from dolphin.feeds.klines import PACE as KLINES_PACE
from dolphin.feeds.klines import closes_of
from dolphin.feeds.loop_thread import LoopThread, run_until
from dolphin.feeds.polling import Pace
from dolphin.feeds.price_board import NS_PER_MS, PriceBoard, warmup_bars
from dolphin.feeds.price_news import PriceNews
from dolphin.feeds.streams import LIFE_S, PACE, SILENT_S, StreamKeeper
from dolphin.market.book_messages import AggTrade, agg_trade_from
from dolphin.market.feed import digest

INTERVAL_NS: Final = 5 * NS_PER_S
#: A symbol without a trade for so long is stale.
FRESH_S: Final = 30.0
#: From here on a skew is told, and from here on no run begins, seconds.
SKEW_TOLD_S: Final = 1.0
SKEW_MAX_S: Final = 5.0
SKEW_EVERY_S: Final = 3_600.0
#: Longest wait for the exchange at the start, seconds.
START_S: Final = 180.0
#: A wait for the exchange is told after so long, and looked up from so often, seconds.
TOLD_AFTER_S: Final = 5.0
SLICE_S: Final = 0.25
STOP_S: Final = 10.0


def trade_from(text: str) -> AggTrade | None:
    """The aggregate trade of a frame, None where it is another message. Raises DataError."""
    return agg_trade_from(text) if '"aggTrade"' in text[:200] else None


class BinancePrices:
    """A `Feed` without an end; see the module.

    Parameters
    ----------
    symbols : the exchange's names, `BTCUSDT`
    base_url : see `make_exchange`
    backfill : fill the warm-up from one-minute klines, instead of an hour of live bars
    now_ns, wait : wall clock, and how to wait seconds on it
    mono_ns, silent_s, life_s, check_every_s, pace : see `StreamKeeper`
    told_after_s : when a wait for the exchange is told

    `news` gets a line when a trouble begins and when it ends, on the thread that takes the bars. Once
    `stop_requested` says so a wait for the exchange ends, and with it the bars. Set both before the first.
    """

    name = "Binance USD-M live"
    n_bars: int | None = None

    def __init__(
        self,
        symbols: Sequence[str],
        *,
        base_url: str | None = None,
        interval_ns: int = INTERVAL_NS,
        fresh_s: float = FRESH_S,
        backfill: bool = True,
        now_ns: Callable[[], int] = time.time_ns,
        wait: Callable[[float], None] = time.sleep,
        mono_ns: Callable[[], int] = time.monotonic_ns,
        silent_s: float = SILENT_S,
        life_s: float = LIFE_S,
        check_every_s: float = 1.0,
        pace: Pace = PACE,
        start_s: float = START_S,
        klines_pace: Pace = KLINES_PACE,
        told_after_s: float = TOLD_AFTER_S,
    ) -> None:
        self.news: Callable[[str], None] = lambda line: None
        self.stop_requested: Callable[[], bool] = lambda: False
        self.symbols = tuple(symbols)
        self.interval_ns = interval_ns
        self.board = PriceBoard(symbols, int(fresh_s * NS_PER_S))
        #: bars, bars_missed, refused: since the start. What the connections did is in `keeper.counts`.
        self.counts: Counter[str] = Counter()
        #: Bars of live prices since this process began, where at least half of the symbols had a fresh one.
        self.live_bars = 0
        #: The exchange's clock minus ours, seconds, None before it was asked.
        self.skew_s: float | None = None
        self.keeper: StreamKeeper | None = None
        self._base_url = base_url
        self._backfill = backfill
        self._now_ns, self._wait, self._mono_ns = now_ns, wait, mono_ns
        self._keeping: dict[str, Any] = {
            "silent_s": silent_s, "life_s": life_s, "check_every_s": check_every_s, "pace": pace,
        }  # fmt: skip
        self._start_s, self._klines_pace, self._told_after_s = start_s, klines_pace, told_after_s
        self._closes: dict[str, dict[int, float]] = {}
        self._absent: tuple[str, ...] = ()
        self._absent_told = False
        self._thread: LoopThread | None = None
        self._ready = threading.Event()
        self._failure: DolphinError | None = None
        self._closed = False
        if base_url is not None:
            base_address(base_url)

    @property
    def rejections(self) -> Counter[tuple[str, str]]:
        """See `Feed.rejections`."""
        return self.board.rejections

    @property
    def source_id(self) -> str:
        """Of the exchange, the universe and the interval: what a run goes on with after a stop."""
        where = self._base_url or "binance"
        return digest({"kind": "binance", "at": where, "symbols": self.symbols, "interval": self.interval_ns})

    @property
    def notes(self) -> list[str]:
        """See `Feed.notes`; those on what happened grow as it goes."""
        hours = (WARMUP_PRICES * self.interval_ns) / NS_PER_S / 60.0
        notes = [
            f"The warm-up of {WARMUP_PRICES - 1} bars is filled from one-minute klines: a bar has a price "
            "where a minute closed on it, and is missing where none did."
            if self._backfill
            else f"The warm-up is live: the first scan comes after {hours:.0f} minutes."
        ]
        if self._absent:
            notes.append(f"{absent_line(self._absent)}.")
        if self.skew_s is not None and abs(self.skew_s) > SKEW_TOLD_S:
            notes.append(f"This machine's clock is {-self.skew_s:+.1f} s off the exchange's; synchronise it.")
        if self.counts["bars_missed"]:
            notes.append(
                f"{plural(self.counts['bars_missed'], 'bar')} could not be closed in time, left out."
            )
        if self.counts["refused"]:
            notes.append(f"{plural(self.counts['refused'], 'message')} of the exchange could not be read.")
        if stale := self.board.stale.most_common(3):
            some = ", ".join(f"{symbol} in {plural(n, 'bar')}" for symbol, n in stale)
            notes.append(f"Without a trade within {self.board.fresh_ns / NS_PER_S:g} s and stale: {some}.")
        kept = self.keeper.counts if self.keeper else Counter()
        if kept["errors"]:
            told = f"{kept['silent']} silent, {kept['renewals']} by plan"
            notes.append(f"Connections were made anew after {plural(kept['errors'], 'error')} ({told}).")
        return notes

    # on the caller's thread

    def bars(self, skip: int = 0) -> Iterator[Bar]:
        """The warm-up, then a bar an interval until `close`. Raises DataError and ConfigError."""
        return itertools.islice(self._bars(), skip, None)

    def _bars(self) -> Iterator[Bar]:
        self._start()
        if not self._wait_ready():
            return
        step = self.interval_ns
        traded = [k for k, symbol in enumerate(self.symbols) if symbol not in self._absent]
        news = PriceNews(self.news, self.board.fresh_ns)
        newest_ns = self._now_ns() // step * step
        if self._backfill:
            first_ns = newest_ns - (WARMUP_PRICES - 2) * step
            yield from warmup_bars(self.symbols, self._closes, first_ns, newest_ns, step)
        due_ns = newest_ns + step
        while not self._closed:
            left_ns = due_ns - self._now_ns()
            if left_ns > 0:
                self._wait(left_ns / NS_PER_S)
                continue
            if missed := -left_ns // step:
                self.counts["bars_missed"] += missed
                due_ns += missed * step
            if self._failure is not None:
                raise self._failure
            self.counts["bars"] += 1
            bar = self.board.close_bar(due_ns)
            fresh = int(np.isfinite(bar.prices[traded]).sum())
            self.live_bars += 2 * fresh >= len(traded)
            kept, error = (self.keeper.counts, self.keeper.last_error) if self.keeper else ({}, "")
            board = self.board
            news.look(due_ns, fresh, len(traded), board.newest_ns(), board.heard, kept, error)
            yield bar
            due_ns += step

    def _wait_ready(self) -> bool:
        """Wait for markets and warm-up; False where it was closed or stopped before. Raises DataError."""
        began_s, told = time.monotonic(), False
        while not self._ready.wait(min(SLICE_S, self._start_s)):
            if self._closed or self.stop_requested():
                return False
            self._tell_absent()
            waited_s = time.monotonic() - began_s
            why = (self.keeper.last_error if self.keeper else "") or "no word"
            if waited_s >= self._start_s:
                self.close()
                raise DataError(f"the exchange did not answer within {self._start_s:.0f} s ({why})")
            if waited_s >= self._told_after_s and not told:
                told = True
                n, done = len(self.symbols) - len(self._absent), len(self._closes)
                self.news(f"waiting for the exchange: {f'klines of {done} of {n} symbols' if done else why}")
        if self._failure is not None:
            raise self._failure
        self._tell_absent()
        if told:
            self.news("the exchange answers")
        return True

    def _tell_absent(self) -> None:
        if self._absent and not self._absent_told:
            self._absent_told = True
            self.news(absent_line(self._absent))

    def close(self) -> None:
        """See `Feed.close`."""
        self._closed = True
        if self._thread is not None:
            self._thread.stop()

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            exchange = make_exchange(self._base_url)
            self.keeper = StreamKeeper(exchange, self._hear, mono_ns=self._mono_ns, **self._keeping)
            self._thread = LoopThread("prices", partial(self._main, exchange, self.keeper), STOP_S)
            self._thread.start()

    # on the loop's thread

    async def _main(self, exchange: PublicBinance, keeper: StreamKeeper, ended: asyncio.Event) -> None:
        try:
            error = await run_until(ended, self._live(exchange, keeper))
            if not ended.is_set():
                self._failure = _told(error)
                self._ready.set()
        finally:
            await close(exchange)

    async def _live(self, exchange: PublicBinance, keeper: StreamKeeper) -> None:
        await keeper.once("markets", exchange.load_markets)
        await keeper.once("time", lambda: self._ask_skew(exchange))
        assert self.skew_s is not None
        if abs(self.skew_s) > SKEW_MAX_S:
            raise ConfigError(
                f"this machine's clock is {-self.skew_s:+.1f} s off the exchange's; synchronise it first"
            )
        names = traded_names(exchange, self.symbols)
        self._absent = tuple(symbol for symbol in self.symbols if symbol not in names)
        if not names:
            raise DataError(f"none of the universe is traded: {absent_line(self._absent)}")

        async def watch(markets: list[str]) -> None:
            await exchange.watch_trades_for_symbols(markets, params={"name": "aggTrade"})

        async with asyncio.TaskGroup() as tasks:
            for k, part in enumerate(chunks(list(names.values()))):
                tasks.create_task(keeper.keep(f"trades {k}" if k else "trades", partial(watch, part)))
            tasks.create_task(keeper.watch_over())
            tasks.create_task(self._watch_skew(exchange, keeper))
            if self._backfill:
                now_ms = self._now_ns() // NS_PER_MS
                begin_ms = now_ms - (WARMUP_PRICES * self.interval_ns) // NS_PER_MS
                for symbol in names:
                    self._closes[symbol] = await closes_of(
                        exchange, symbol, begin_ms, now_ms, pace=self._klines_pace
                    )
            self._ready.set()

    async def _ask_skew(self, exchange: PublicBinance) -> None:
        before_ns = self._now_ns()
        server_ms = await exchange.fetch_time()
        middle_ns = (before_ns + self._now_ns()) // 2
        self.skew_s = (int(server_ms) * NS_PER_MS - middle_ns) / NS_PER_S

    async def _watch_skew(self, exchange: PublicBinance, keeper: StreamKeeper) -> None:
        while True:
            await asyncio.sleep(SKEW_EVERY_S)
            try:
                await self._ask_skew(exchange)
            except Exception as error:  # asked again in an hour
                keeper.failed("time", error)

    def _hear(self, kind: str, text: str, address: str) -> None:
        if kind != "frame":
            return
        try:
            trade = trade_from(text)
        except DataError:
            self.counts["refused"] += 1
            return
        if trade is not None:
            # By the exchange's own time, told on our clock: what was old when it came is stale.
            event_ns = trade.T * NS_PER_MS - int((self.skew_s or 0.0) * NS_PER_S)
            self.board.hear(trade.s, trade.p, event_ns)


def _told(error: BaseException | None) -> DolphinError:
    """What ended the connections, as one error of ours; a group is told by its first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, DolphinError) else DataError(f"live prices broke off: {error!r}")
