"""A journal of years: entries, exits, trades and days in SQLite, every bar's code in a Parquet file.

Entry points: `BarWriter`, `ColumnJournal`, `read_journal` (either kind of journal, by what its folder holds).

A `ColumnJournal` reads like a `Journal`: the lanes of a bar in a position are those of its entry, so that the
canonical record of every bar, and the digest, come from the columns and the entries and exits alone.

Invariants: 1. `bars.parquet` has one row a bar, from bar 0; 2. its SHA-256 and its number of rows stand in
the journal's settings, set when it is whole; 3. SQLite holds the decisions of ENTER and EXIT bars, no others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dolphin.domain.bar import FloatArray, IntArray, SmallIntArray
from dolphin.domain.codes import ACTION_ENTER, ACTION_EXIT, ACTION_NONE
from dolphin.domain.decision import CANONICAL_DTYPE, Decision
from dolphin.domain.errors import DataError, StoreError
from dolphin.journal.store import Journal, Record, Series

BARS_FILE: Final = "bars.parquet"
#: Settings of a journal whose bars are columns.
BARS_KEY, BARS_SHA256, BARS_ROWS = "bars", "bars_sha256", "bars_rows"
CERTIFIED_BITS_MIN: Final = "certified_bits_min"

_SYMBOLS_KEY: Final = b"dolphin.symbols"
_TYPES: Final = {
    "timestamp_ns": pa.int64(),
    "scan_number": pa.int64(),
    "vel_div": pa.float64(),
    "action": pa.int8(),
    "reason": pa.int8(),
    "asset": pa.int16(),
    "price": pa.float64(),
    "equity": pa.float64(),
}


class BarCodes(NamedTuple):
    """Consecutive bars, each array (n,).

    vel_div is 1/s; action, reason and asset (index into the universe, -1 for none) are codes; price is the
    held asset's scan price, USDT, 0 where none is held; equity is marked, USDT.
    """

    timestamp_ns: IntArray
    scan_number: IntArray
    vel_div: FloatArray
    action: SmallIntArray
    reason: SmallIntArray
    asset: SmallIntArray
    price: FloatArray
    equity: FloatArray


class BarWriter:
    """Writes `bars.parquet` of a folder, chunk by chunk; `close` gives what the settings keep of it."""

    def __init__(self, folder: Path, symbols: tuple[str, ...]) -> None:
        """Begin the file. Raises StoreError."""
        self._path = folder / BARS_FILE
        self._draft = self._path.with_name(self._path.name + ".new")
        self._schema = pa.schema(
            list(_TYPES.items()), metadata={_SYMBOLS_KEY: msgspec.json.encode(list(symbols))}
        )
        self.rows = 0
        try:
            self._writer = pq.ParquetWriter(
                self._draft,
                self._schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=["action", "reason", "asset"],
                column_encoding={
                    "timestamp_ns": "DELTA_BINARY_PACKED",
                    "scan_number": "DELTA_BINARY_PACKED",
                    "vel_div": "BYTE_STREAM_SPLIT",
                },
                write_statistics=False,
            )
        except OSError as error:
            raise self._failed(error) from error

    def add(self, bars: BarCodes) -> None:
        """Append a chunk. Raises StoreError."""
        arrays = [
            pa.array(np.ascontiguousarray(values), type=kind, from_pandas=False)
            for values, kind in zip(bars, _TYPES.values(), strict=True)
        ]
        try:
            self._writer.write_table(pa.table(arrays, schema=self._schema))
        except OSError as error:
            raise self._failed(error) from error
        self.rows += len(bars.timestamp_ns)

    def close(self) -> dict[str, str]:
        """Put the whole file in its place; the settings that name it. Raises StoreError."""
        try:
            self._writer.close()
            self._draft.replace(self._path)
            digest = _sha256(self._path)
        except OSError as error:
            raise self._failed(error) from error
        return {BARS_KEY: BARS_FILE, BARS_ROWS: str(self.rows), BARS_SHA256: digest}

    def drop(self) -> None:
        """Leave nothing behind."""
        self._writer.close()
        self._draft.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self._path}: cannot be written ({error.strerror or error}); "
            "free some space or choose another --out"
        )


class Events(NamedTuple):
    """Entries and exits in the order of bars."""

    entry_bars: IntArray
    entries: np.ndarray[Any, Any]  # of CANONICAL_DTYPE, as the exits
    exit_bars: IntArray
    exits: np.ndarray[Any, Any]


class ColumnJournal(Journal):
    """A journal whose bars lie in `bars.parquet` beside it."""

    # what lies in the file

    @property
    def bars_path(self) -> Path:
        """The file of the bars."""
        return self.path.with_name(BARS_FILE)

    def bars_sha256(self) -> str:
        """SHA-256 (hex) of the file as it lies there. Raises DataError when it is gone."""
        try:
            return _sha256(self.bars_path)
        except OSError as error:
            raise self._no_bars(error) from error

    def symbols(self) -> tuple[str, ...]:
        """The universe, in the order of the asset codes."""
        metadata = self._file().schema_arrow.metadata or {}
        try:
            return tuple(msgspec.json.decode(metadata[_SYMBOLS_KEY], type=list[str]))
        except (KeyError, msgspec.DecodeError) as error:
            raise self._no_bars(error) from error

    def chunks(self) -> Iterator[tuple[int, BarCodes]]:
        """(bar_idx of the first, bars) of each chunk, in order. Raises DataError for a file that is none."""
        file = self._file()
        first = 0
        for k in range(file.num_row_groups):
            try:
                table = file.read_row_group(k)
                arrays = [table.column(name).to_numpy() for name in _TYPES]
            except (OSError, pa.ArrowException) as error:
                raise self._no_bars(error) from error
            yield first, BarCodes(*arrays)
            first += table.num_rows

    def columns(self, *names: str) -> list[np.ndarray[Any, Any]]:
        """The named columns of all bars, each (n_bars,). Raises DataError."""
        file = self._file()
        try:
            return [file.read([name]).column(0).to_numpy() for name in names]
        except (OSError, pa.ArrowException) as error:
            raise self._no_bars(error) from error

    def canonical_chunks(self) -> Iterator[tuple[int, BarCodes, np.ndarray[Any, Any]]]:
        """(bar_idx of the first, bars, their canonical records) of each chunk."""
        names = np.array([*(symbol.encode("ascii") for symbol in self.symbols()), b""])
        events = self._events()
        for first, bars in self.chunks():
            yield first, bars, _canonical(first, bars, names, events)

    def _file(self) -> pq.ParquetFile:
        try:
            file = pq.ParquetFile(self.bars_path, memory_map=True)
        except (OSError, pa.ArrowException) as error:
            raise self._no_bars(error) from error
        if file.schema_arrow.names != list(_TYPES):
            raise DataError(f"{self.bars_path}: other columns than a run's bars; run the backtest again")
        return file

    def _no_bars(self, error: Exception) -> DataError:
        line = (str(error).splitlines() or [""])[0][:120]
        return DataError(f"{self.bars_path}: cannot be read ({line}); run the backtest again")

    def _events(self) -> Events:
        entries: list[Decision] = []
        exits: list[Decision] = []
        for decision in super().decisions(active=True):
            (entries if decision.action == ACTION_ENTER else exits).append(decision)
        return Events(*_packed(entries), *_packed(exits))

    # as a journal is read

    def last_bar(self) -> int:
        """Highest bar_idx decided, -1 when none was."""
        return int(self._file().metadata.num_rows) - 1

    def last_scan_number(self) -> int:
        """Number of the scan decided last, -1 when none was."""
        numbers = [bars.scan_number for _, bars in self.chunks() if len(bars.scan_number)]
        return int(numbers[-1][-1]) if numbers else -1

    def event_records(self) -> Iterator[Record]:
        """The rows of entries and exits as they lie in the file, undecoded."""
        yield from super().records()

    def decisions(
        self, first: int = 0, last: int | None = None, *, active: bool = False
    ) -> Iterator[Decision]:
        """Decisions of the bars first..last in order; of bars that are no event, the canonical record alone.

        Raises DataError for a record that cannot be decoded.
        """
        if active:
            yield from super().decisions(first, last, active=True)
            return
        end = self.last_bar() if last is None else last
        events = {decision.bar_idx: decision for decision in super().decisions(first, end)}
        for begin, bars, records in self.canonical_chunks():
            if begin > end or begin + len(records) <= first:
                continue
            for k in range(max(0, first - begin), min(len(records), end + 1 - begin)):
                yield events.get(begin + k) or _decision_of(records[k], bars, k)

    def canonicals(self, first: int = 0) -> Iterator[tuple[int, int, bytes]]:
        """(bar_idx, scan_number, canonical record) of the bars from `first` on, in order."""
        for begin, bars, records in self.canonical_chunks():
            if begin + len(records) <= first:
                continue
            numbers = bars.scan_number.tolist()
            for k in range(max(0, first - begin), len(records)):
                yield begin + k, numbers[k], records[k].tobytes()

    def equity(self) -> list[tuple[int, int, float]]:
        """(bar_idx, timestamp_ns, marked equity in USDT) in bar order."""
        stamps, equity = self.marks()
        return list(zip(range(len(stamps)), stamps.tolist(), equity.tolist(), strict=True))

    def marks(self) -> tuple[IntArray, FloatArray]:
        """(timestamp_ns, marked equity in USDT) of every bar, arrays (n_bars,)."""
        stamps, equity = self.columns("timestamp_ns", "equity")
        return stamps, equity

    def series(self) -> Series:
        """What was seen on every bar, and what a held asset cost."""
        action, price, vel_div = self.columns("action", "price", "vel_div")
        entries = np.flatnonzero(action == ACTION_ENTER)
        idle = np.append(np.flatnonzero(action == ACTION_NONE), len(action))
        after_exit = np.append(np.flatnonzero(action == ACTION_EXIT) + 1, len(action))
        held = {}
        for begin in entries.tolist():
            end = min(
                int(idle[np.searchsorted(idle, begin)]),
                int(after_exit[np.searchsorted(after_exit, begin + 1)]),
            )
            held[begin] = price[begin:end]
        return Series(vel_div, held)

    def lambdas(self) -> list[tuple[float, ...]]:
        """Empty: columns come from caches, which hold no eigenvalues."""
        return []

    def certified_bits_min(self) -> int | None:
        """Least certified accuracy of any scan decided on, in bits; None without certificates."""
        least = int(self.meta().get(CERTIFIED_BITS_MIN) or 0)
        return least or None

    def reasons(self) -> dict[tuple[int, int], int]:
        """Count of bars by (action, reason) code."""
        found: dict[tuple[int, int], int] = {}
        for _, bars in self.chunks():
            both, counts = np.unique(
                bars.action.astype(np.int64) * 256 + bars.reason.astype(np.int64), return_counts=True
            )
            for code, n in zip(both.tolist(), counts.tolist(), strict=True):
                key = (code // 256, code % 256)
                found[key] = found.get(key, 0) + n
        return found

    def decisions_sha256(self) -> str:
        """SHA-256 over the canonical records in bar order."""
        digest = hashlib.sha256()
        for _, _, records in self.canonical_chunks():
            digest.update(records.tobytes())
        return digest.hexdigest()


def read_journal(folder: Path | str) -> Journal:
    """The journal of a run's folder, for reading: the kind that it holds. Raises DataError."""
    path = Path(folder) / "journal.db"
    if not path.exists():
        # A system's folder, or the one of all runs, holds runs one level deeper.
        below = sorted(each.parent for each in Path(folder).glob("*/journal.db"))
        like = f", like {below[-1]}" if below else ""
        raise DataError(f"{path}: no journal here; expected the folder of a run{like}")
    journal = Journal.read_only(path)
    if journal.meta().get(BARS_KEY) != BARS_FILE:
        return journal
    journal.close()
    return ColumnJournal.read_only(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _packed(decisions: list[Decision]) -> tuple[IntArray, np.ndarray[Any, Any]]:
    """Their bars and canonical records as arrays."""
    records = np.frombuffer(b"".join(d.canonical() for d in decisions), CANONICAL_DTYPE)
    return records["bar_idx"].astype(np.int64), records


def _canonical(
    first: int, bars: BarCodes, names: np.ndarray[Any, Any], events: Events
) -> np.ndarray[Any, Any]:
    """Canonical records (n,) of a chunk; a bar in a position has the lanes of the entry before it."""
    n = len(bars.action)
    out = np.zeros(n, CANONICAL_DTYPE)
    out["bar_idx"] = first + np.arange(n)
    out["timestamp_ns"] = bars.timestamp_ns
    out["action"] = bars.action
    out["reason"] = bars.reason
    out["asset"] = names[np.clip(bars.asset, -1, len(names) - 2)]
    active = np.flatnonzero(bars.action != ACTION_NONE)
    place = np.searchsorted(events.entry_bars, first + active, side="right") - 1
    active, place = active[place >= 0], place[place >= 0]
    for name in ("lanes", "raw", "cap", "bound", "leverage", "notional"):
        out[name][active] = events.entries[name][place]
    out["price"] = np.where(bars.action != ACTION_NONE, bars.price, 0.0)
    low, high = np.searchsorted(events.exit_bars, [first, first + n])
    at = events.exit_bars[low:high] - first
    out["price"][at] = events.exits["price"][low:high]
    out["net"][at] = events.exits["net"][low:high]
    return out


def _decision_of(record: Any, bars: BarCodes, k: int) -> Decision:
    """A bar's decision as far as its canonical record and the columns tell it."""
    values: Mapping[str, Any] = {name: record[name].item() for name in CANONICAL_DTYPE.names or ()
                                 if name not in ("lanes", "asset")}  # fmt: skip
    lanes = zip(("base", "dc", "regime", "ob", "esof"), record["lanes"].tolist(), strict=True)
    return Decision(
        **values,
        **{f"lane_{name}": value for name, value in lanes},
        asset=record["asset"].decode("ascii"),
        scan_number=int(bars.scan_number[k]),
        vel_div=float(bars.vel_div[k]),
    )
