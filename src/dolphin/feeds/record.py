"""Recording the exchange's public messages as they come, so that a live day can be replayed.

Entry point: `record`. Streams a symbol: differences of the book every 100 ms with the snapshots that found
it, best bid and ask, aggregate trades, mark price. Files are those of `RawRecorder`: parts a UTC day, each
put in place whole; what waits is written every `flush_every_s` and at the end.

A broken chain of ids takes a new snapshot, which is recorded too: a replay founds its book anew there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dolphin.domain.errors import DataError
from dolphin.feeds.client import PublicBinance, make_exchange, share_connections
from dolphin.feeds.polling import Pace
from dolphin.feeds.raw_recorder import RAW_FOLDER, RawRecorder
from dolphin.feeds.streams import PACE, StreamKeeper

#: Levels of a snapshot: 1,000 are the exchange's most, at weight 20.
LEVELS: Final = 1_000
FLUSH_EVERY_S: Final = 60.0


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
    start_s: float = 180.0,
) -> Recorded:
    """Record below `out` until `seconds` have passed (None: no end) or it is asked to stop.

    Raises DataError where the exchange does not answer or trades none of the symbols, ConfigError for a wrong
    address, StoreError when the disk refuses.
    """
    recorder = RawRecorder(out / RAW_FOLDER)
    return asyncio.run(
        _record(
            symbols, recorder, Recorded(folder=out / RAW_FOLDER), make_exchange(base_url), seconds,
            stop_requested, on_progress, flush_every_s, look_every_s, pace, start_s,
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
) -> Recorded:
    def hear(kind: str, text: str, address: str) -> None:
        recorder.hear(time.time_ns(), kind, text, address)

    keeper = StreamKeeper(exchange, hear, pace=pace)
    result.counts = keeper.counts
    tasks: list[asyncio.Task[Any]] = []
    flushed_s = time.monotonic()

    def flush() -> None:
        result.parts += len(recorder.flush())
        result.messages, result.dropped = recorder.n_written, recorder.n_dropped

    try:
        markets = await _markets(exchange, keeper, symbols, result, start_s, stop_requested)
        share_connections(exchange, markets)
        tasks += [asyncio.create_task(keeper.watch_over())]
        tasks += [asyncio.create_task(_keep(keeper, exchange, name, markets)) for name in _WATCHES]
        tasks += [asyncio.create_task(_keep_book(keeper, exchange, market)) for market in markets]
        begun_s = time.monotonic()
        while (seconds is None or time.monotonic() - begun_s < seconds) and not stop_requested():
            await asyncio.wait(tasks, timeout=look_every_s, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
            if time.monotonic() - flushed_s >= flush_every_s:
                flushed_s = time.monotonic()
                await asyncio.to_thread(flush)
            result.last_error = keeper.last_error
            on_progress(result)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        exchange.timeout_on_exit = 0
        with contextlib.suppress(Exception):
            await exchange.close()
        flush()
    return result


#: Name of a kind of streams: how the client watches it for all symbols at once.
_WATCHES: Final[dict[str, Callable[[PublicBinance, list[str]], Any]]] = {
    "trades": lambda exchange, markets: exchange.watch_trades_for_symbols(
        markets, params={"name": "aggTrade"}
    ),
    "quotes": lambda exchange, markets: exchange.watch_bids_asks(markets),
    "marks": lambda exchange, markets: exchange.watch_mark_prices(markets),
}


async def _keep(keeper: StreamKeeper, exchange: PublicBinance, name: str, markets: list[str]) -> None:
    async def watch() -> None:
        await _WATCHES[name](exchange, markets)

    await keeper.keep(name, watch)


async def _keep_book(keeper: StreamKeeper, exchange: PublicBinance, market: str) -> None:
    async def watch() -> None:
        await exchange.watch_order_book(market, LEVELS)

    await keeper.keep(market, watch, lambda: exchange.forget_book(market))


async def _markets(
    exchange: PublicBinance,
    keeper: StreamKeeper,
    symbols: Sequence[str],
    result: Recorded,
    start_s: float,
    stop_requested: Callable[[], bool],
) -> list[str]:
    """ccxt's names of the symbols that are traded now."""
    end_s = time.monotonic() + start_s
    loaded = asyncio.Event()

    async def load() -> None:
        await exchange.load_markets()
        loaded.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(keeper.keep("markets", load))
    try:
        while not loaded.is_set():
            if time.monotonic() > end_s or stop_requested():
                raise DataError(
                    f"the exchange does not answer ({keeper.last_error or 'no word'}); try again later"
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(loaded.wait(), 0.25)
    finally:
        task.cancel()
    by_id = exchange.markets_by_id or {}
    names = {s: str(m["symbol"]) for s in symbols for m in by_id.get(s, ()) if m["swap"] and m["active"]}
    result.absent = tuple(s for s in symbols if s not in names)
    if not names:
        raise DataError(f"the exchange trades none of the {len(symbols)} symbols asked for")
    return list(names.values())
