"""Recorded order-book messages of Binance USD-M: the raw file's columns, and a message's text to its values.

A raw file is Parquet with `recv_ts` (UTC, the recorder's clock), `kind` and `raw` (the text exactly as it was
received: a combined stream's `{"stream":..,"data":..}` or the bare message; a snapshot is the bare answer of
`/fapi/v1/depth`), in order of arrival. A file of several symbols has `symbol` too, because a snapshot does
not name its own. `read_messages` streams one symbol of it; `RAW_SCHEMA` is what a recorder writes.

1. A text that breaks a rule (no JSON, a field missing, a price that is not finite and positive) is refused
   whole: half a message in a book is worse than a gap that is told.
2. Numbers come from their text to the nearest float, in one step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dolphin.domain.errors import DataError, StoreError
from dolphin.orderbook.book import DepthSnapshot, Difference

DEPTH: Final = "depth"
SNAPSHOT: Final = "snapshot"
BOOK_TICKER: Final = "bookTicker"
#: Aggregate trades, and single ones as older recordings have them.
TRADES: Final = ("aggTrade", "trade")
RAW_COLUMNS: Final = ("recv_ts", "kind", "raw")
SYMBOL_COLUMN: Final = "symbol"
#: What a recorder writes; a file of one symbol may go without the last column.
RAW_SCHEMA: Final = pa.schema(
    [
        ("recv_ts", pa.timestamp("ns", tz="UTC")),
        ("kind", pa.dictionary(pa.int8(), pa.string())),
        ("raw", pa.large_string()),
        (SYMBOL_COLUMN, pa.dictionary(pa.int16(), pa.string())),
    ]
)
NS_PER_MS: Final = 1_000_000
#: Rows read at a time.
_BATCH_ROWS: Final = 8_192
#: Exchange times, in ms: what fits int64 nanoseconds.
_MS_MAX: Final = (2**63 - 1) // NS_PER_MS

_Price: TypeAlias = Annotated[float, msgspec.Meta(gt=0, lt=1e300)]
_Quantity: TypeAlias = Annotated[float, msgspec.Meta(ge=0, lt=1e300)]
_Level: TypeAlias = tuple[_Price, _Quantity]
_Millis: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=_MS_MAX)]
_Id: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Depth(msgspec.Struct, gc=False):
    E: _Millis
    U: _Id
    u: _Id
    pu: _Id
    b: list[_Level]
    a: list[_Level]
    s: str = ""


class _Snapshot(msgspec.Struct, gc=False):
    lastUpdateId: _Id  # noqa: N815 the exchange's name
    bids: list[_Level]
    asks: list[_Level]
    E: _Millis = 0


class BookTicker(msgspec.Struct, gc=False):
    """Best bid and ask (b, a in USD; B, A in base units) as of update id u, of symbol s."""

    u: _Id
    b: _Price
    B: _Quantity
    a: _Price
    A: _Quantity
    s: str = ""


class AggTrade(msgspec.Struct, gc=False):
    """A trade: symbol, price in USDT as told (any number), exchange's ms."""

    s: str
    p: float
    T: _Millis


class _TradeOnStream(msgspec.Struct, gc=False):
    data: AggTrade


class _DepthOnStream(msgspec.Struct, gc=False):
    data: _Depth


class _TickerOnStream(msgspec.Struct, gc=False):
    data: BookTicker


_DEPTH_STREAM = msgspec.json.Decoder(_DepthOnStream, strict=False)
_DEPTH_BARE = msgspec.json.Decoder(_Depth, strict=False)
_TICKER_STREAM = msgspec.json.Decoder(_TickerOnStream, strict=False)
_TICKER_BARE = msgspec.json.Decoder(BookTicker, strict=False)
_TRADE_STREAM = msgspec.json.Decoder(_TradeOnStream, strict=False)
_TRADE_BARE = msgspec.json.Decoder(AggTrade, strict=False)
_SNAPSHOT = msgspec.json.Decoder(_Snapshot, strict=False)


@dataclass(frozen=True, slots=True)
class RawMessage:
    """One row: its number in the recording, the recorder's clock in ns, kind and text."""

    row: int
    recv_ns: int
    kind: str
    raw: str


def difference_from(raw: str) -> tuple[Difference, str]:
    """(difference, symbol) of a depth message, symbol "" where it names none. Raises DataError."""
    try:
        try:
            d = _DEPTH_STREAM.decode(raw).data
        except msgspec.ValidationError:
            d = _DEPTH_BARE.decode(raw)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise DataError(f"depth message refused: {error}") from error
    if d.u < d.U or d.pu >= d.u:
        raise DataError(f"depth message refused: ids U={d.U}, u={d.u}, pu={d.pu}, expected pu < u, U <= u")
    return Difference(d.E * NS_PER_MS, d.U, d.u, d.pu, d.b, d.a), d.s


def snapshot_from(raw: str) -> DepthSnapshot:
    """The depth endpoint's answer. Raises DataError."""
    try:
        s = _SNAPSHOT.decode(raw)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise DataError(f"depth snapshot refused: {error}") from error
    return DepthSnapshot(s.E * NS_PER_MS, s.lastUpdateId, s.bids, s.asks)


def ticker_from(raw: str) -> BookTicker:
    """Best bid and ask of a bookTicker message. Raises DataError."""
    try:
        try:
            return _TICKER_STREAM.decode(raw).data
        except msgspec.ValidationError:
            return _TICKER_BARE.decode(raw)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise DataError(f"bookTicker message refused: {error}") from error


def agg_trade_from(raw: str) -> AggTrade:
    """The trade of an aggTrade message, or of a single trade's. Raises DataError."""
    try:
        return _TRADE_STREAM.decode(raw).data if '"data"' in raw[:80] else _TRADE_BARE.decode(raw)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise DataError(f"aggTrade message refused: {error}") from error


Source: TypeAlias = Path | str | Sequence[Path]


def raw_files(source: Source) -> list[Path]:
    """Files of a recording in order: the file itself, those of a folder and below by name, or those given.

    Raises DataError for a folder without a Parquet file, and for no file at all.
    """
    paths = [Path(source)] if isinstance(source, (Path, str)) else list(source)
    found: list[Path] = []
    for path in paths:
        inside = sorted(p for p in path.rglob("*.parquet") if not p.name.startswith("."))
        if path.is_dir() and not inside:
            raise DataError(f"{path}: holds no Parquet file; give a recording of raw messages")
        found += inside if path.is_dir() else [path]
    if not found:
        raise DataError("no recording of raw messages was given")
    return found


def read_messages(source: Source, symbol: str | None = None) -> Iterator[RawMessage]:
    """Messages of a recording in order of arrival.

    Parameters
    ----------
    source : a file, a folder of files that follow one another by name, or files in their order
    symbol : str or None
        Which symbol of files that have a column of them; None where they hold only one.

    Raises
    ------
    DataError, StoreError
        For a file that is not there, is no Parquet, lacks a column, is damaged in the middle; for no message
        of that symbol, or for several symbols where none was named.
    """
    files = raw_files(source)
    seen, n_found, begin, several = symbol, 0, 0, True
    for path in files:
        with _open(path) as file:
            several = SYMBOL_COLUMN in file.schema_arrow.names
            columns = [*RAW_COLUMNS, *([SYMBOL_COLUMN] if several else [])]
            try:
                for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                    rows: Sequence[int] = range(begin, begin + batch.num_rows)
                    begin += batch.num_rows
                    if several:
                        batch, rows, seen = _of_symbol(
                            batch, rows, seen, chosen=symbol is not None, path=path
                        )
                    n_found += batch.num_rows
                    stamps = batch.column(0).cast(RAW_SCHEMA.field(0).type).cast(pa.int64()).to_pylist()
                    texts = zip(batch.column(1).to_pylist(), batch.column(2).to_pylist(), strict=True)
                    for row, stamp, (kind, raw) in zip(rows, stamps, texts, strict=True):
                        yield RawMessage(row, stamp or 0, kind or "", raw or "")
            except (pa.ArrowException, OSError) as error:
                raise DataError(
                    f"{path}: cannot be read after row {begin} ({_line(error)}); the file may be damaged"
                ) from error
    if several and symbol is not None and not n_found:
        raise DataError(f"{files[0]}: holds no message of {symbol}; leave --symbol out to see which it holds")


def _of_symbol(
    batch: pa.RecordBatch, rows: Sequence[int], symbol: str | None, *, chosen: bool, path: Path
) -> tuple[pa.RecordBatch, Sequence[int], str | None]:
    """The batch's messages of one symbol, their rows, and the symbol: the first one where none was chosen."""
    named = batch.column(len(RAW_COLUMNS)).cast(pa.string())
    if symbol is None and len(named):
        symbol = named[0].as_py()
    ours = pc.fill_null(pc.equal(named, pa.scalar(symbol, pa.string())), False)
    if not chosen and ours.true_count != len(named):
        other = named.filter(pc.invert(ours))[0].as_py()
        raise DataError(f"{path}: holds {symbol} and {other}; say which one with --symbol")
    taken = [rows[k] for k in np.flatnonzero(ours.to_numpy(zero_copy_only=False)).tolist()]
    return batch.filter(ours), taken, symbol


def symbols_in(source: Source) -> tuple[str, ...]:
    """Symbols of a recording that names them, sorted; none where no file does. Raises as `read_messages`."""
    found: set[str] = set()
    for path in raw_files(source):
        with _open(path) as file:
            if SYMBOL_COLUMN in file.schema_arrow.names:
                for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[SYMBOL_COLUMN]):
                    found |= set(batch.column(0).cast(pa.string()).unique().to_pylist())
    return tuple(sorted(symbol for symbol in found if symbol))


def count_messages(source: Source) -> int:
    """Rows of a recording, of all symbols and kinds. Raises DataError, StoreError as `read_messages`."""
    n_rows = 0
    for path in raw_files(source):
        with _open(path) as file:
            n_rows += int(file.metadata.num_rows)
    return n_rows


def open_parquet(path: Path) -> pq.ParquetFile:
    """A Parquet file of any columns. Raises StoreError, DataError."""
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file; check the path") from error
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: is no Parquet file, or a cut-off one ({_line(error)})") from error
    except (pa.ArrowException, OSError) as error:
        raise StoreError(
            f"{path}: cannot be read ({_line(error)}); check the path and permissions"
        ) from error


def _open(path: Path) -> pq.ParquetFile:
    file = open_parquet(path)
    schema = file.schema_arrow
    for name in RAW_COLUMNS:
        if schema.names.count(name) != 1:
            file.close()
            shown = ", ".join(schema.names[:5]) + (", ..." if len(schema.names) > 5 else "")
            raise DataError(
                f"{path}: no column {name!r} (columns: {shown}); expected a recording of raw messages with "
                f"{', '.join(RAW_COLUMNS)}"
            )
    if not pa.types.is_timestamp(schema.field("recv_ts").type):
        file.close()
        raise DataError(f"{path}: recv_ts is {schema.field('recv_ts').type}, expected a timestamp")
    return file


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__
