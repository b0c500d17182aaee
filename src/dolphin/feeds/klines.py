"""Public klines of Binance USD-M: paged, throttled, resumable, into one Parquet file.

Entry points: `download`, `closes_of`. The client throttles by weight and keeps the exchange's Retry-After;
here are the pages, the tries and the files.

1. A file is long: `ts` (opening time, UTC), `symbol`, `open`, `high`, `low`, `close`, `volume`; rows by `ts`,
   then by symbol. `dolphin run --feed recorded` and `dolphin data check` read it.
2. Every page is a part of its own beside the file, put in place whole: what was stopped goes on with the
   pages that are missing. The file appears last, whole, and takes the parts with it.
3. The running kline is left out: its close is not known.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dolphin.domain.errors import DataError, StoreError, UsageError
from dolphin.feeds.client import PublicBinance, make_exchange, reason_of
from dolphin.feeds.polling import Pace, Schedule
from dolphin.market.book_files import put_table
from dolphin.market.feed import Gap, find_gaps

NS_PER_MS: Final = 1_000_000
#: The exchange's intervals that have a fixed length, in ms.
INTERVALS_MS: Final = {
    "1m": 60_000, "3m": 180_000, "5m": 300_000, "15m": 900_000, "30m": 1_800_000, "1h": 3_600_000,
    "2h": 7_200_000, "4h": 14_400_000, "6h": 21_600_000, "8h": 28_800_000, "12h": 43_200_000,
    "1d": 86_400_000,
}  # fmt: skip
#: Klines a request: 1,000 cost weight 5, the best price a kline.
PAGE: Final = 1_000
SCHEMA: Final = pa.schema(
    [
        pa.field("ts", pa.timestamp("ns", tz="UTC"), nullable=False),
        pa.field("symbol", pa.string(), nullable=False),
        *(pa.field(name, pa.float64(), nullable=False) for name in ("open", "high", "low", "close")),
        pa.field("volume", pa.float64(), nullable=False),
    ]
)
PACE: Final = Pace(period_s=60.0, tries=8, backoff_first_s=0.5, backoff_max_s=30.0)

#: Asked to stop, a question may still be answered for so long; a wait is told after so long, seconds.
GRACE_S: Final = 2.0
TOLD_AFTER_S: Final = 5.0

Sleep = Callable[[float], Any]
T = TypeVar("T")


@dataclass(slots=True)
class Downloaded:
    """What a download brought: rows of the file, pages asked now and found from before, gaps by symbol."""

    rows: int = 0
    pages_asked: int = 0
    pages_there: int = 0
    tries_again: int = 0
    gaps: dict[str, tuple[Gap, ...]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    interrupted: bool = False


async def ask_klines(
    exchange: PublicBinance,
    symbol: str,
    interval: str,
    begin_ms: int,
    end_ms: int,
    *,
    pace: Pace = PACE,
    sleep: Sleep = asyncio.sleep,
    on_retry: Callable[[str], None] = lambda why: None,
) -> list[tuple[float, ...]]:
    """One page, (open_ms, open, high, low, close, volume) each, with begin_ms <= open_ms < end_ms.

    Raises UsageError for a symbol that the exchange does not have, DataError for an answer that is none and
    for an exchange that stays away.
    """
    from ccxt.base.errors import BadRequest, BadSymbol, ExchangeError, NetworkError  # type: ignore[import-untyped]

    schedule = Schedule(pace, f"klines:{symbol}")
    # What is asked costs by its limit: less than 100 klines are weight 1.
    limit = max(1, min(PAGE, -(-(end_ms - begin_ms) // INTERVALS_MS[interval])))
    while True:
        try:
            answer = await exchange.fapiPublicGetKlines(
                {"symbol": symbol, "interval": interval, "startTime": begin_ms, "endTime": end_ms - 1,
                 "limit": limit}
            )  # fmt: skip
            return _rows(answer, symbol, begin_ms, end_ms)
        except (BadSymbol, BadRequest) as error:
            line = " ".join(str(error).split())[:160]
            raise UsageError(f"{symbol}: the exchange refuses its klines ({line}); check the name") from error
        except (NetworkError, ExchangeError, DataError) as error:
            quiet_s = exchange.blocked_until_s - time.monotonic()
            line = reason_of(error)
            if schedule.failures + 1 >= pace.tries:
                raise DataError(
                    f"{symbol}: no klines after {pace.tries} tries ({line}); what is here stays; ask again"
                ) from error
            wait_s = schedule.after_failure_s(passes=True)
            on_retry(line)
            await sleep(wait_s + max(0.0, quiet_s))


def _rows(answer: Any, symbol: str, begin_ms: int, end_ms: int) -> list[tuple[float, ...]]:
    try:
        rows = [(int(row[0]), *(float(row[k]) for k in range(1, 6))) for row in answer]
    except (TypeError, ValueError, LookupError) as error:
        raise DataError(f"{symbol}: klines refused, the answer is no table of them ({error})") from error
    before = begin_ms - 1
    for row in rows:
        if not (before < row[0] < end_ms and all(0.0 < p < np.inf for p in row[1:5]) and row[5] >= 0.0):
            raise DataError(f"{symbol}: kline refused, {row}: expected growing times and positive prices")
        before = int(row[0])
    return rows


async def closes_of(
    exchange: PublicBinance, symbol: str, begin_ms: int, end_ms: int, **options: Any
) -> dict[int, float]:
    """{ms at which it closed: close} of the one-minute klines that close in begin_ms <= t <= end_ms."""
    minute = INTERVALS_MS["1m"]
    found: dict[int, float] = {}
    at = begin_ms // minute * minute - minute
    while at + minute <= end_ms:
        until = min(at + PAGE * minute, end_ms // minute * minute)
        for row in await ask_klines(exchange, symbol, "1m", at, until, **options):
            found[int(row[0]) + minute] = row[4]
        at = until if until > at else at + minute
    return found


def download(
    symbols: Sequence[str],
    interval: str,
    begin_ms: int,
    end_ms: int,
    out: Path,
    *,
    base_url: str | None = None,
    pace: Pace = PACE,
    on_page: Callable[[int, int], None] = lambda done, total: None,
    stop_requested: Callable[[], bool] = lambda: False,
    min_request_ms: float | None = None,
    news: Callable[[str], None] = lambda line: None,
    told_after_s: float = TOLD_AFTER_S,
) -> Downloaded:
    """Klines of begin_ms <= opening time < end_ms (ms UTC) into `out`, which is replaced.

    `news` gets a line when the exchange is waited for. Raises UsageError for a wrong interval, symbol or
    order of times, and for a folder as `out`, DataError and StoreError in one line.
    """
    if interval not in INTERVALS_MS:
        raise UsageError(f"--interval {interval!r}: expected one of {', '.join(INTERVALS_MS)}")
    step = INTERVALS_MS[interval]
    begin_ms = -(-begin_ms // step) * step
    if end_ms <= begin_ms:
        raise UsageError("--from to --to holds no kline; give a later --to")
    if out.is_dir() or not out.name:
        raise UsageError(f"{out}: is a folder; give the file that takes the klines")
    parts = out.with_name(f".{out.name}.parts")
    made = [parts] if out.parent.exists() else [parts, out.parent]
    try:
        parts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{parts}: cannot be made ({error.strerror}); check the path of --out") from error
    work = _Work(
        tuple(symbols), interval, begin_ms, end_ms, parts, pace, on_page, stop_requested, news, told_after_s
    )
    try:
        result = asyncio.run(work.all(base_url, min_request_ms))
        if not result.interrupted:
            _join(work.paths, out, result, tuple(symbols), step)
            shutil.rmtree(parts, ignore_errors=True)
        return result
    finally:
        # Nothing came: what is left behind would only be in the way.
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()


class _StoppedError(Exception):
    """It was asked to stop while the exchange was waited for."""


@dataclass(slots=True)
class _Work:
    symbols: tuple[str, ...]
    interval: str
    begin_ms: int
    end_ms: int
    parts: Path
    pace: Pace
    on_page: Callable[[int, int], None]
    stop_requested: Callable[[], bool]
    news: Callable[[str], None]
    told_after_s: float
    last_error: str = ""
    told: bool = False
    paths: list[Path] = field(default_factory=list)

    async def all(self, base_url: str | None, min_request_ms: float | None) -> Downloaded:
        result = Downloaded()
        exchange = make_exchange(base_url, min_request_ms=min_request_ms)

        def again(why: str) -> None:
            result.tries_again += 1
            self.last_error = why

        try:
            step = INTERVALS_MS[self.interval]
            now_ms = await self._answered(self._time(exchange))
            end_ms = min(self.end_ms, now_ms // step * step)
            pages = [
                (symbol, at, min(at + PAGE * step, end_ms))
                for symbol in self.symbols
                for at in range(self.begin_ms, end_ms, PAGE * step)
            ]
            for k, (symbol, begin, end) in enumerate(pages, 1):
                path = self.parts / f"{symbol}-{self.interval}-{begin}-{end}.parquet"
                if _is_whole(path):
                    result.pages_there += 1
                else:
                    question = ask_klines(
                        exchange, symbol, self.interval, begin, end, pace=self.pace, on_retry=again
                    )
                    rows = await self._answered(question)
                    put_table(path, _table(symbol, rows))
                    result.pages_asked += 1
                self.paths.append(path)
                self.on_page(k, len(pages))
                if self.stop_requested() and k < len(pages):
                    result.interrupted = True
                    return result
        except _StoppedError:
            result.interrupted = True
        finally:
            await exchange.close()
        return result

    async def _answered(self, question: Coroutine[Any, Any, T]) -> T:
        """The answer; a long wait is told once, and one that was asked to stop ends. Raises _StoppedError."""
        task = asyncio.create_task(question)
        began_s = time.monotonic()
        stopped_s: float | None = None
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=0.25)
                now_s = time.monotonic()
                if self.stop_requested():
                    stopped_s = now_s if stopped_s is None else stopped_s
                    if now_s - stopped_s > GRACE_S and not task.done():
                        raise _StoppedError
                elif not self.told and now_s - began_s >= self.told_after_s and not task.done():
                    self.told = True
                    self.news(f"waiting for the exchange: {self.last_error or 'no word'}")
            if self.told:
                self.told = False
                self.news("the exchange answers")
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _time(self, exchange: PublicBinance) -> int:
        """The exchange's time in ms: its klines are finished by its clock, not by ours."""
        schedule = Schedule(self.pace, "time")
        while True:
            try:
                return int(await exchange.fetch_time())
            except Exception as error:  # whatever the exchange answers, it is asked again
                self.last_error = reason_of(error)
                if schedule.failures + 1 >= self.pace.tries:
                    raise DataError(
                        f"the exchange does not tell its time ({self.last_error}); try again later"
                    ) from error
                quiet_s = exchange.blocked_until_s - time.monotonic()
                await asyncio.sleep(schedule.after_failure_s(passes=True) + max(0.0, quiet_s))


def _table(symbol: str, rows: list[tuple[float, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * 6
    stamps = pa.array([int(t) * NS_PER_MS for t in columns[0]], pa.int64()).cast(SCHEMA.field(0).type)
    numbers = [pa.array(column, pa.float64()) for column in columns[1:]]
    return pa.Table.from_arrays(
        [stamps, pa.array([symbol] * len(rows), pa.string()), *numbers], schema=SCHEMA
    )


def _is_whole(path: Path) -> bool:
    try:
        return bool(pq.read_schema(path).names == SCHEMA.names)
    except (OSError, pa.ArrowException):
        return False


def _join(paths: list[Path], out: Path, result: Downloaded, symbols: tuple[str, ...], step_ms: int) -> None:
    table = pa.concat_tables([SCHEMA.empty_table(), *(pq.read_table(p, schema=SCHEMA) for p in paths)])
    if not table.num_rows:
        for path in paths:
            path.unlink(missing_ok=True)
        raise DataError(f"{out}: the exchange has no kline of these symbols and times; nothing written")
    names = table["symbol"].to_numpy(zero_copy_only=False)
    stamps = table["ts"].cast(pa.int64()).to_numpy()
    for symbol in symbols:
        gaps = find_gaps(stamps[names == symbol], step_ms * NS_PER_MS)
        if gaps:
            result.gaps[symbol] = gaps
    result.absent = tuple(s for s in symbols if not np.any(names == s))
    table = table.sort_by([("ts", "ascending"), ("symbol", "ascending")])
    result.rows = table.num_rows
    put_table(out, table)
