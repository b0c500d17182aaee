"""Recording the exchange's public messages as they come, so that a live day can be replayed.

Entry point: `record`. Streams a symbol: differences of the book every 100 ms with the snapshots that found
it, best bid and ask, aggregate trades, mark price. Files are those of `RawRecorder`: parts a UTC day, each
put in place whole; what waits is written every `flush_every_s` and at the end. A disk that refuses is told,
and tried again: what waits stays, up to the recorder's bound.

A broken chain of ids takes a new snapshot, which is recorded too: a replay founds its book anew there.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from dolphin.domain.errors import DataError, StoreError
from dolphin.feeds.client import (
    PublicBinance,
    absent_line,
    chunks,
    close,
    make_exchange,
    share_connections,
    traded_names,
)
from dolphin.feeds.polling import Pace
from dolphin.feeds.raw_recorder import RAW_FOLDER, RawRecorder
from dolphin.feeds.streams import PACE, StreamKeeper

#: Levels of a snapshot: 1,000 are the exchange's most, at weight 20.
LEVELS: Final = 1_000
FLUSH_EVERY_S: Final = 60.0
#: A disk that refused is asked again after so long, seconds.
RETRY_S: Final = 10.0
#: A wait for the exchange is told after so long, and ends without an answer, seconds.
TOLD_AFTER_S: Final = 5.0
START_S: Final = 180.0


@dataclass(slots=True)
class Recorded:
    """What a recording has so far. `counts` are those of `StreamKeeper`."""

    messages: int = 0
    dropped: int = 0
    parts: int = 0
    folder: Path = Path()
    absent: tuple[str, ...] = ()
    counts: Counter[str] = field(default_factory=Counter)
    last_error: str = ""


def record(
    symbols: Sequence[str],
    out: Path,
    *,
    base_url: str | None = None,
    seconds: float | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Recorded], None] = lambda so_far: None,
    flush_every_s: float = FLUSH_EVERY_S,
    look_every_s: float = 0.25,
    pace: Pace = PACE,
    start_s: float = START_S,
    news: Callable[[str], None] = lambda line: None,
    told_after_s: float = TOLD_AFTER_S,
) -> Recorded:
    """Record below `out` until `seconds` have passed (None: no end) or it is asked to stop.

    `news` gets a line for what a person should know at once. Raises DataError where the exchange does not
    answer or trades none of the symbols, ConfigError for a wrong address, StoreError when the disk refuses
    what waits at the end.
    """
    recorder = RawRecorder(out / RAW_FOLDER)
    return asyncio.run(
        _record(
            symbols, recorder, Recorded(folder=out / RAW_FOLDER), make_exchange(base_url), seconds,
            stop_requested, on_progress, flush_every_s, look_every_s, pace, start_s, news, told_after_s,
        )
    )  # fmt: skip


async def _record(
    symbols: Sequence[str],
    recorder: RawRecorder,
    result: Recorded,
    exchange: PublicBinance,
    seconds: float | None,
    stop_requested: Callable[[], bool],
    on_progress: Callable[[Recorded], None],
    flush_every_s: float,
    look_every_s: float,
    pace: Pace,
    start_s: float,
    news: Callable[[str], None],
    told_after_s: float,
) -> Recorded:
    def hear(kind: str, text: str, address: str) -> None:
        recorder.hear(time.time_ns(), kind, text, address)

    keeper = StreamKeeper(exchange, hear, pace=pace)
    result.counts = keeper.counts
    tasks: list[asyncio.Task[Any]] = []
    due_s = time.monotonic() + flush_every_s
    refused = False

    def flush() -> None:
        result.parts += len(recorder.flush())
        result.messages, result.dropped = recorder.n_written, recorder.n_dropped

    async def flush_in_time() -> float:
        """Seconds until the next time."""
        nonlocal refused
        try:
            await asyncio.to_thread(flush)
        except StoreError as error:
            if not refused:
                news(f"{error}; what came is kept, and tried again")
            refused = True
            return min(flush_every_s, RETRY_S)
        if refused:
            refused = False
            news("the disk takes the recording again")
        return flush_every_s

    try:
        loading = asyncio.create_task(keeper.once("markets", exchange.load_markets))
        tasks.append(loading)
        if not await _answered(loading, keeper, start_s, stop_requested, news, told_after_s):
            news("stopped before the exchange answered")
            return result
        tasks.remove(loading)
        markets = _traded(exchange, symbols, result, news)
        share_connections(exchange, markets)
        tasks += [asyncio.create_task(keeper.watch_over())]
        tasks += [
            asyncio.create_task(keeper.keep(f"{name} {k}" if k else name, partial(watch, exchange, part)))
            for name, watch in _WATCHES.items()
            for k, part in enumerate(chunks(markets))
        ]
        tasks += [asyncio.create_task(_keep_book(keeper, exchange, market)) for market in markets]
        begun_s = time.monotonic()
        while (seconds is None or time.monotonic() - begun_s < seconds) and not stop_requested():
            await asyncio.wait(tasks, timeout=look_every_s, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + await flush_in_time()
            result.last_error = keeper.last_error
            on_progress(result)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await close(exchange)
        flush()
    return result


#: Name of a kind of streams: how the client watches it for many symbols at once.
_WATCHES: Final[dict[str, Callable[[PublicBinance, list[str]], Any]]] = {
    "trades": lambda exchange, markets: exchange.watch_trades_for_symbols(
        markets, params={"name": "aggTrade"}
    ),
    "quotes": lambda exchange, markets: exchange.watch_bids_asks(markets),
    "marks": lambda exchange, markets: exchange.watch_mark_prices(markets),
}


async def _keep_book(keeper: StreamKeeper, exchange: PublicBinance, market: str) -> None:
    async def watch() -> None:
        await exchange.watch_order_book(market, LEVELS)

    await keeper.keep(market, watch, lambda: exchange.forget_book(market))


async def _answered(
    loading: asyncio.Task[Any],
    keeper: StreamKeeper,
    start_s: float,
    stop_requested: Callable[[], bool],
    news: Callable[[str], None],
    told_after_s: float,
) -> bool:
    """Wait until the markets are loaded; False where it was asked to stop before. Raises DataError."""
    began_s, told = time.monotonic(), False
    while not loading.done():
        await asyncio.wait({loading}, timeout=0.25)
        waited_s, why = time.monotonic() - began_s, keeper.last_error or "no word"
        if loading.done():
            break
        if stop_requested():
            return False
        if waited_s > start_s:
            raise DataError(f"the exchange does not answer ({why}); try again later")
        if waited_s >= told_after_s and not told:
            told = True
            news(f"waiting for the exchange: {why}")
    loading.result()
    if told:
        news("the exchange answers")
    return True


def _traded(
    exchange: PublicBinance, symbols: Sequence[str], result: Recorded, news: Callable[[str], None]
) -> list[str]:
    """ccxt's names of the symbols that are traded now."""
    names = traded_names(exchange, symbols)
    result.absent = tuple(s for s in symbols if s not in names)
    if not names:
        raise DataError(f"nothing to record: {absent_line(result.absent)}")
    if result.absent:
        news(absent_line(result.absent))
    return list(names.values())
