"""Recorded markets: Parquet panels of closes as a feed.

Two layouts, told apart by their columns: *wide* (`ts` and one close column per symbol) and *long* (`ts`,
`symbol`, `close`, other columns ignored; pivoted on close). `ts` is the bar's opening time, as exchanges
publish klines, so a bar is stamped at `ts` + interval: its close is known only then. The interval is the
most frequent positive step of `ts`. `sources.open_recorded` also takes a scan cache, whose prices are
stamped at the close already.

Decisions worth knowing:

1. The needed columns are read once, at opening, into one float64 matrix of 8 x n_bars x n_assets bytes (a
   month of 50 assets at one minute: 17 MB); other columns are never read. A long file costs about four
   times that for a moment.
2. Rows are delivered as they lie in the file, duplicate and backward times included; `notes` counts them.
   In a long file rows are grouped by `ts` and sorted; of two rows for one (ts, symbol) the first counts,
   the other is rejected as `duplicate_row`.
3. `source_id` is over the file's bytes and the chosen universe, not over the file's name.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dolphin.domain.bar import Bar, FloatArray, IntArray
from dolphin.domain.clock import iso_from_ns
from dolphin.domain.errors import DataError, StoreError, plural
from dolphin.domain.symbols import SYMBOL_BYTES_MAX, check_universe
from dolphin.market.feed import (
    RULES,
    Gap,
    accepted_stamps,
    digest,
    find_gaps,
    modal_interval_ns,
    note_of_gaps,
    price_faults,
)
from dolphin.market.parquet_magic import require_parquet
from dolphin.market.universe import read_universe, require_symbols, take_assets

LONG_COLUMNS = ("ts", "symbol", "close")
LAYOUTS = "expected a wide panel (ts and one close column per symbol) or a long one (ts, symbol, close)"
#: Unit of an integer `ts`, by magnitude: years 1973 to 5138 in each.
_MAGNITUDES = ((10**17, 1), (10**14, 10**3), (10**11, 10**6), (10**8, 10**9))
_NS_MAX = 2**63 - 1

Rejections = Counter[tuple[str, str]]


class RecordedFeed:
    """A Parquet panel as a feed.

    Raises DataError or StoreError with one line for every file it cannot use.
    """

    def __init__(
        self,
        path: Path | str,
        universe: Path | Sequence[str] | None = None,
        assets: int | None = None,
    ) -> None:
        """Open a panel.

        Parameters
        ----------
        path : the Parquet file.
        universe : universe file, or the symbols themselves, or None for the panel's own order of columns.
        assets : how many of them to take, from the front; None: up to 50.
        """
        self._path = Path(path)
        self.name = self._path.name
        self.rejections: Rejections = Counter()
        self.notes: list[str] = []
        self._first: dict[tuple[str, str], int] = {}

        file = _open_parquet(self._path)
        try:
            columns = _check_columns(file.schema_arrow, self._path)
            self.layout = "long" if set(LONG_COLUMNS) <= set(columns) else "wide"
            if self.layout == "long":
                ts, prices, symbols = self._read_long(file, universe, assets)
            else:
                ts, prices, symbols = self._read_wide(file, columns, universe, assets)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{self._path}: cannot be read ({_line(error)}); the file may be damaged"
            ) from error
        finally:
            file.close()

        self.symbols = symbols
        interval_ns = modal_interval_ns(ts)
        if interval_ns is None:
            raise DataError(f"{self._path}: ts never grows; a panel needs rows in the order of time")
        self.interval_ns = interval_ns
        if int(ts.max()) > _NS_MAX - interval_ns:
            raise DataError(
                f"{self._path}: ts reaches {int(ts.max())} ns, beyond the year 2262; check its unit"
            )
        self._stamps: IntArray = ts + interval_ns
        self._prices: FloatArray | None = prices
        self.n_bars: int | None = len(ts)
        self.gaps: tuple[Gap, ...] = find_gaps(self._stamps[accepted_stamps(self._stamps)], interval_ns)
        self._reject(prices)
        self._tell()
        prices.setflags(write=False)
        self.source_id = digest(
            {"kind": "recorded", "file_sha256": _sha256_of(self._path), "symbols": list(symbols)}
        )

    def bars(self, skip: int = 0) -> Iterator[Bar]:
        """Bars from position `skip` on, stamped at their close. Raises StoreError when the feed is closed."""
        if self._prices is None:
            raise StoreError(f"{self.name}: the feed is closed; open it again")
        prices, stamps = self._prices, self._stamps
        for i in range(max(0, skip), len(stamps)):
            yield Bar(int(stamps[i]), prices[i])

    def matrix(self) -> tuple[IntArray, FloatArray]:
        """Stamps (n_bars,), int64 ns, and prices (n_bars, n_assets), USDT with NaN; both read-only views."""
        if self._prices is None:
            raise StoreError(f"{self.name}: the feed is closed; open it again")
        return self._stamps, self._prices

    def close(self) -> None:
        """Let the matrix go."""
        self._prices = None

    # -- reading -----------------------------------------------------------------------------------

    def _read_wide(
        self,
        file: pq.ParquetFile,
        columns: list[str],
        universe: Path | Sequence[str] | None,
        assets: int | None,
    ) -> tuple[IntArray, FloatArray, tuple[str, ...]]:
        present = tuple(name for name in columns if name != "ts")
        symbols = self._choose(_symbol_like(present, self.notes), universe, assets)
        table = file.read(columns=["ts", *symbols])
        ts = _stamps(table.column("ts"), self._path)
        prices = np.empty((len(ts), len(symbols)), dtype=np.float64)
        for j, symbol in enumerate(symbols):
            prices[:, j] = self._floats(table.column(symbol), symbol)
        return ts, prices, symbols

    def _read_long(
        self, file: pq.ParquetFile, universe: Path | Sequence[str] | None, assets: int | None
    ) -> tuple[IntArray, FloatArray, tuple[str, ...]]:
        table = file.read(columns=list(LONG_COLUMNS))
        row_ts = _stamps(table.column("ts"), self._path)
        text = table.column("symbol")
        if pa.types.is_dictionary(text.type):
            text = pc.cast(text, text.type.value_type)
        if not _is_text(text.type):
            raise DataError(f"{self._path}: column symbol is {text.type}, expected text; {LAYOUTS}")
        if text.null_count:
            raise DataError(
                f"{self._path}: {plural(text.null_count, 'row')} without a symbol; a long panel needs it"
            )
        encoded = text.combine_chunks().dictionary_encode()
        found: list[str] = encoded.dictionary.to_pylist()
        symbols = self._choose(_symbol_like(tuple(found), self.notes), universe, assets)
        column_of = {symbol: j for j, symbol in enumerate(symbols)}
        to_column = np.array([column_of.get(symbol, -1) for symbol in found], dtype=np.int64)
        column = to_column[encoded.indices.to_numpy(zero_copy_only=False)]
        ts, row = np.unique(row_ts, return_inverse=True)
        if len(ts) < 2:
            raise DataError(f"{self._path}: holds {plural(len(ts), 'bar')}; a panel needs at least two")

        keep = np.flatnonzero(column >= 0)
        flat = row[keep] * len(symbols) + column[keep]
        cells, first = np.unique(flat, return_index=True)
        if len(cells) < len(keep):
            twice = np.setdiff1d(np.arange(len(keep)), first, assume_unique=True)
            for k in twice:
                self._count(symbols[int(column[keep[k]])], "duplicate_row", 1, int(row[keep[k]]))
        source = keep[first]
        closes = table.column("close").take(pa.array(source))
        prices = np.full((len(ts), len(symbols)), np.nan, dtype=np.float64)
        prices.reshape(-1)[cells] = self._floats(closes, None, symbols=symbols, cells=cells)
        return ts, prices, symbols

    def _choose(
        self, present: tuple[str, ...], universe: Path | Sequence[str] | None, assets: int | None
    ) -> tuple[str, ...]:
        if universe is None:
            wanted, source = present, self.name
            if not present:
                raise DataError(f"{self._path}: has no symbol columns; {LAYOUTS}")
        elif isinstance(universe, Path):
            wanted, source = read_universe(universe), str(universe)
        elif isinstance(universe, str):
            wanted, source = read_universe(Path(universe)), universe
        else:
            wanted, source = check_universe(universe, "universe"), "the universe"
        symbols, note = take_assets(wanted, assets, source)
        require_symbols(symbols, present, str(self._path), source)
        if note:
            self.notes.append(note)
        return symbols

    def _floats(
        self,
        column: pa.ChunkedArray,
        symbol: str | None,
        symbols: tuple[str, ...] = (),
        cells: IntArray | None = None,
    ) -> FloatArray:
        """Column as float64 with NaN for null and for text that is no number; text is counted here."""
        kind = column.type
        if pa.types.is_dictionary(kind):
            column, kind = pc.cast(column, kind.value_type), kind.value_type
        if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
            values = pc.cast(column, pa.float64(), safe=False).to_numpy()
            return np.array(values, dtype=np.float64)
        values = np.full(len(column), np.nan)
        for i, item in enumerate(column.to_pylist()):
            if item is None:
                continue
            number = _number(item)
            if number is None:
                cell = int(cells[i]) if cells is not None else i
                owner = symbol or symbols[cell % len(symbols)]
                self._count(owner, "text", 1, cell if symbol else cell // len(symbols))
            else:
                values[i] = number
        return values

    # -- telling -----------------------------------------------------------------------------------

    def _count(self, symbol: str, rule: str, n: int, row: int) -> None:
        self.rejections[symbol, rule] += n
        self._first.setdefault((symbol, rule), row)

    def _reject(self, prices: FloatArray) -> None:
        """Turn what is no price into NaN, and count it.

        Text is NaN already and is not counted as missing too.
        """
        for rule, mask in price_faults(prices).items():
            if not mask.any():
                continue
            for j in np.flatnonzero(mask.any(axis=0)):
                symbol = self.symbols[int(j)]
                n = int(mask[:, j].sum())
                if rule == "missing":
                    n -= self.rejections[symbol, "text"]
                if n > 0:
                    self._count(symbol, rule, n, int(np.argmax(mask[:, j])))
            prices[mask] = np.nan
        self.rejections = +self.rejections

    def _tell(self) -> None:
        order = {rule: k for k, rule in enumerate((*RULES, "duplicate_row"))}
        for (symbol, rule), n in sorted(
            self.rejections.items(), key=lambda item: (order[item[0][1]], item[0])
        ):
            at = iso_from_ns(int(self._stamps[self._first[symbol, rule]]))[:19]
            self.notes.append(
                f"{symbol}: {plural(n, 'value')} rejected ({rule}), the first in the bar of {at}Z"
            )
        step = np.diff(self._stamps)
        for what, n in (("duplicate", int((step == 0).sum())), ("backward", int((step < 0).sum()))):
            if n:
                self.notes.append(
                    f"{plural(n, f'{what} timestamp')}: the scanner will refuse and count these bars"
                )
        if self.gaps:
            self.notes.append(note_of_gaps(self.gaps))


def _open_parquet(path: Path) -> pq.ParquetFile:
    if path.is_dir():
        raise StoreError(f"{path}: is a folder, and no scan cache (no manifest.json); give a Parquet file")
    if not path.exists():
        raise StoreError(f"{path}: no such file; check the path")
    require_parquet(path, LAYOUTS)
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{path}: is no Parquet file, or a cut-off one ({_line(error)}); {LAYOUTS}"
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{path}: cannot be read ({_line(error)}); check permissions and disk") from error


def _check_columns(schema: pa.Schema, path: Path) -> list[str]:
    names: list[str] = list(schema.names)
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise DataError(f"{path}: column {twice[0]} stands {Counter(names)[twice[0]]} times; keep one")
    if "ts" not in names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise DataError(f"{path}: no column 'ts' (columns: {shown}); {LAYOUTS}")
    return names


def _symbol_like(names: tuple[str, ...], notes: list[str]) -> tuple[str, ...]:
    """The names that can be symbols; the others are left out and told."""
    good = tuple(name for name in names if _can_be_symbol(name))
    if len(good) < len(names):
        others = [name for name in names if not _can_be_symbol(name)]
        notes.append(f"{plural(len(others), 'column')} left out, no symbol: {', '.join(others[:5])[:120]}")
    return good


def _can_be_symbol(name: str) -> bool:
    return (
        2 <= len(name) <= SYMBOL_BYTES_MAX
        and name.isascii()
        and name.isalnum()
        and name == name.upper()
        and not name.isdigit()
    )


def _stamps(column: pa.ChunkedArray, path: Path) -> IntArray:
    """Column `ts` as int64 ns UTC.

    Raises DataError when it is no time, has holes, or has fewer than two rows.
    """
    kind = column.type
    if len(column) < 2:
        raise DataError(f"{path}: holds {plural(len(column), 'row')}; a panel needs at least two")
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise DataError(
            f"{path}: ts is empty in {plural(column.null_count, 'row')}, first in row {row}; all need a time"
        )
    if pa.types.is_timestamp(kind):
        try:
            column = pc.cast(column, pa.timestamp("ns", tz=kind.tz))
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{path}: ts does not fit nanoseconds ({_line(error)}); check its unit"
            ) from error
        return np.array(pc.cast(column, pa.int64()).to_numpy(), dtype=np.int64)
    if pa.types.is_integer(kind):
        raw = np.array(pc.cast(column, pa.int64()).to_numpy(), dtype=np.int64)
        size = int(np.abs(raw).max())
        for floor, factor in _MAGNITUDES:
            if size >= floor:
                if size > _NS_MAX // factor:
                    break
                return np.asarray(raw * factor, dtype=np.int64)
        raise DataError(
            f"{path}: ts is an integer up to {size}, no Unix time in s, ms, us or ns; expected a timestamp"
        )
    raise DataError(f"{path}: ts is {kind}, no timestamp; expected a timestamp or Unix ns or ms as integer")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _number(item: Any) -> float | None:
    """Text as a number, or None. `nan` and `inf` written out are numbers here and fall to their own rules."""
    if not isinstance(item, str):
        return None
    try:
        return float(item)
    except ValueError:
        return None


def _sha256_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); check permissions and disk") from error


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__
