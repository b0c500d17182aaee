"""Recorded trades as bars of closes: what a live feed would have closed, made afterwards.

Entry points: `read_trades`, `bars_of`, `write_panel`.

1. A bar's price is that of the newest trade that was known when it closed, and missing where that trade is
   older than `fresh_ns`: the rules of a live feed. A raw recording's trades are known at their arrival
   (`recv_ts`), those of a table (`ts`, `symbol`, `price`) at their own time.
2. A price that is not finite and positive, and a trade older than one known before, is refused and counted.
3. Bars are stamped at their close, on multiples of the interval from the first trade of any symbol on; the
   panel's `ts` is the opening time, as `recorded.RecordedFeed` reads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import DataError
from dolphin.market.book_files import put_table
from dolphin.market.book_messages import (
    NS_PER_MS,
    RAW_COLUMNS,
    TRADES,
    Source,
    agg_trade_from,
    open_parquet,
    raw_files,
)
from dolphin.market.feed import price_faults

TABLE_COLUMNS: Final = ("ts", "symbol", "price")
_BATCH_ROWS: Final = 65_536


class Trades(NamedTuple):
    """Trades of one symbol in the order in which they were known, each array (n,)."""

    known_ns: IntArray
    event_ns: IntArray
    prices: FloatArray  # USDT


class TradeBars(NamedTuple):
    """Bars of a recording: closes (n_bars, n_symbols) in USDT, NaN where missing."""

    symbols: tuple[str, ...]
    close_ns: IntArray  # (n_bars,)
    closes: FloatArray
    rejections: Counter[tuple[str, str]]  # by (symbol, rule)
    n_trades: int


def read_trades(source: Source) -> tuple[dict[str, Trades], Counter[tuple[str, str]]]:
    """Trades by symbol, and messages that could not be read as (symbol, `malformed`), symbol "" there.

    Raises DataError for files that are neither a raw recording nor a table of trades, damaged ones, and where
    there is no trade; StoreError for what cannot be read.
    """
    parts: dict[str, list[Trades]] = {}
    refused: Counter[tuple[str, str]] = Counter()
    files = raw_files(source)
    for path in files:
        with open_parquet(path) as file:
            names = file.schema_arrow.names
            is_raw = set(RAW_COLUMNS) <= set(names)
            if not is_raw and not set(TABLE_COLUMNS) <= set(names):
                raise DataError(
                    f"{path}: expected the columns {', '.join(RAW_COLUMNS)} of a raw recording, or"
                    f" {', '.join(TABLE_COLUMNS)} of trades; it has {', '.join(names[:6])}"
                )
            columns = list(RAW_COLUMNS if is_raw else TABLE_COLUMNS)
            try:
                for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                    found = _of_messages(batch, refused) if is_raw else _of_table(batch)
                    for symbol, trades in found:
                        parts.setdefault(symbol, []).append(trades)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{path}: cannot be read ({error}); the file may be damaged") from error
    if not parts:
        raise DataError(f"{files[0]}: holds no trade; record with `dolphin record`, which keeps them")
    found_trades = {}
    for symbol in sorted(parts):
        columns_of = [np.concatenate(column) for column in zip(*parts[symbol], strict=True)]
        order = np.argsort(columns_of[0], kind="stable")
        found_trades[symbol] = Trades(*(column[order] for column in columns_of))
    return found_trades, refused


def _of_messages(batch: pa.RecordBatch, refused: Counter[tuple[str, str]]) -> Iterator[tuple[str, Trades]]:
    kinds = batch.column(1).cast(pa.string())
    batch = batch.filter(pc.is_in(kinds, pa.array(TRADES)))
    stamps = batch.column(0).cast(pa.timestamp("ns", tz="UTC")).cast(pa.int64()).to_pylist()
    rows: dict[str, list[tuple[int, int, float]]] = {}
    for stamp, raw in zip(stamps, batch.column(2).to_pylist(), strict=True):
        try:
            trade = agg_trade_from(raw or "")
        except DataError:
            refused["", "malformed"] += 1
            continue
        rows.setdefault(trade.s, []).append((stamp or 0, trade.T * NS_PER_MS, trade.p))
    for symbol, mine in rows.items():
        known, event, prices = zip(*mine, strict=True)
        yield symbol, Trades(np.array(known, np.int64), np.array(event, np.int64), np.array(prices))


def _of_table(batch: pa.RecordBatch) -> Iterator[tuple[str, Trades]]:
    batch = batch.filter(pc.and_(pc.is_valid(batch.column(0)), pc.is_valid(batch.column(1))))
    stamps = batch.column(0).cast(pa.timestamp("ns", tz="UTC")).cast(pa.int64()).to_numpy()
    prices = batch.column(2).cast(pa.float64()).to_numpy(zero_copy_only=False)
    symbols = np.array(batch.column(1).cast(pa.string()).to_pylist(), dtype=object)
    for symbol in sorted(set(symbols.tolist())):
        mine = symbols == symbol
        yield symbol, Trades(stamps[mine], stamps[mine], prices[mine])


def bars_of(
    trades: Mapping[str, Trades], symbols: Sequence[str], interval_ns: int, fresh_ns: int
) -> TradeBars:
    """Bars of the symbols; one without any trade is missing throughout.

    The first bar closes at the first multiple of interval_ns at or after the first trade, the last one at or
    before the last. Raises DataError where there is no such bar.
    """
    rejections: Counter[tuple[str, str]] = Counter()
    heard: dict[str, Trades] = {}
    for symbol in symbols:
        if symbol in trades:
            heard[symbol] = _sound(symbol, trades[symbol], rejections)
    known = [each.known_ns for each in heard.values() if len(each.known_ns)]
    if not known:
        raise DataError(f"no sound trade of {', '.join(symbols[:5])} in this recording")
    first = -(-min(int(each[0]) for each in known) // interval_ns)
    last = max(int(each[-1]) for each in known) // interval_ns
    if last < first:
        raise DataError(f"no bar of {interval_ns / NS_PER_S:g} s closes within this recording")
    close_ns = np.arange(first, last + 1, dtype=np.int64) * interval_ns
    closes = np.full((len(close_ns), len(symbols)), np.nan)
    for k, symbol in enumerate(symbols):
        if symbol not in heard or not len(heard[symbol].known_ns):
            continue
        mine = heard[symbol]
        at = np.searchsorted(mine.known_ns, close_ns, side="right") - 1
        fresh = (at >= 0) & (close_ns - mine.event_ns[at] <= fresh_ns)
        closes[fresh, k] = mine.prices[at[fresh]]
    return TradeBars(tuple(symbols), close_ns, closes, rejections, sum(len(each) for each in known))


def _sound(symbol: str, trades: Trades, rejections: Counter[tuple[str, str]]) -> Trades:
    """The trades that a live feed takes; the others are counted by rule."""
    good: BoolArray = np.ones(len(trades.prices), np.bool_)
    for rule, faulty in price_faults(trades.prices).items():
        if n := int(faulty.sum()):
            rejections[symbol, rule] += n
        good &= ~faulty
    newest = np.maximum.accumulate(np.where(good, trades.event_ns, 0))
    backward = good & (trades.event_ns < newest)
    if n := int(backward.sum()):
        rejections[symbol, "backward"] += n
    good &= ~backward
    return Trades(trades.known_ns[good], trades.event_ns[good], trades.prices[good])


def write_panel(path: Path, bars: TradeBars, interval_ns: int) -> None:
    """The bars as a wide panel, in place only when it is whole. Raises StoreError."""
    opened = pa.array(bars.close_ns - interval_ns).cast(pa.timestamp("ns", tz="UTC"))
    columns = [pa.array(bars.closes[:, k], from_pandas=True) for k in range(len(bars.symbols))]
    table = pa.table([opened, *columns], names=["ts", *bars.symbols])
    put_table(path, table)
