"""A scan cache, or a run's stored scans, as the whole-period engine takes them, piece by piece.

Entry points: `Market`, `market_of_cache`. A piece is a whole number of days, so that a period of years needs
the memory of a piece; the engine's state goes from piece to piece (`Walk`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from dolphin.backtest.period import PeriodResult, PeriodRunner
from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY, day_from_ns
from dolphin.domain.codes import APEX, BOOKS_ABSENT, MC_ABSENT, REASON_NONE
from dolphin.domain.errors import DataError, plural
from dolphin.domain.params import ParameterSet
from dolphin.engine.engine import Snapshot
from dolphin.engine.market import BookBars, PeriodInputs
from dolphin.engine.state import EngineOptions
from dolphin.market.columns import Columns
from dolphin.market.scan_cache import CacheReader

#: Prices of a piece, about: it takes some ten times as many bytes again while it is decided.
PRICES_PER_PIECE: Final = 5_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Market:
    """Consecutive scans and what the hosts say besides, n bars of a universe; arrays (n,) or (n, n_assets).

    posture, boost, beta, mc_status, esof_mult and refusal are None where they are neutral on every bar, books
    where none were ever present; books_label says where they came from.
    certified_bits is by day; dropped counts scans that are not among the bars because they came late.
    """

    symbols: tuple[str, ...]
    timestamp_ns: IntArray
    scan_number: IntArray
    vel_div: FloatArray
    v50: FloatArray
    v750: FloatArray
    instability_50: FloatArray
    prices: FloatArray
    stale: BoolArray
    posture: IntArray | None = None
    boost: FloatArray | None = None
    beta: FloatArray | None = None
    mc_status: IntArray | None = None
    esof_mult: FloatArray | None = None
    refusal: IntArray | None = None
    books: BookBars | None = None
    books_label: str = BOOKS_ABSENT
    certified_bits: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    dropped: int = 0

    def __len__(self) -> int:
        """Number of bars."""
        return len(self.timestamp_ns)

    def inputs(self, first: int, last: int, refuse_from: int | None = None, reason: int = 0) -> PeriodInputs:
        """Bars first to last - 1 for the engine; from bar refuse_from on, no entry, for that reason."""
        refusal = None if self.refusal is None else self.refusal[first:last].copy()
        if refuse_from is not None:
            refusal = np.full(last - first, REASON_NONE, np.int64) if refusal is None else refusal
            refusal[max(0, refuse_from - first) :] = reason

        def part(values: Any) -> Any:
            # A copy: what is mapped is read-only, and kernels are compiled for arrays that are not.
            return None if values is None else np.array(values[first:last], order="C")

        return PeriodInputs(
            symbols=self.symbols,
            timestamp_ns=part(self.timestamp_ns),
            prices=part(self.prices),
            vel_div=part(self.vel_div),
            v50_velocity=part(self.v50),
            v750_velocity=part(self.v750),
            instability_50=part(self.instability_50),
            stale=part(self.stale),
            posture=part(self.posture),
            boost=part(self.boost),
            beta=part(self.beta),
            mc_status=part(self.mc_status),
            esof_mult=part(self.esof_mult),
            refusal=refusal,
            books=None if self.books is None else BookBars._make(map(part, self.books)),
        )

    def first(self, n_bars: int) -> Market:
        """The first n_bars bars."""
        if len(self) == n_bars:
            return self
        cut: dict[str, Any] = {
            name: value[:n_bars]
            for name in Market.__slots__
            if isinstance(value := getattr(self, name), np.ndarray)
        }
        if self.books is not None:
            cut["books"] = BookBars._make(column[:n_bars] for column in self.books)
        return replace(self, **cut)

    def day_starts(self) -> IntArray:
        """The first bar of each day, and the number of bars at the end."""
        turns = np.flatnonzero(np.diff(self.timestamp_ns // NS_PER_DAY)) + 1
        return np.concatenate([[0], turns, [len(self)]]).astype(np.int64)

    def pieces(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, int]]:
        """(begin, end) of pieces of whole days that cover bars first to last - 1."""
        end = len(self) if last is None else last
        limit = max(1, PRICES_PER_PIECE // len(self.symbols))
        begin = first
        for start in [*self.day_starts().tolist(), end]:
            stop = min(start, end)
            if stop - begin >= limit or (stop == end and stop > begin):
                yield begin, stop
                begin = stop

    def day_of(self, bar: int) -> str:
        """The UTC day of a bar."""
        return day_from_ns(int(self.timestamp_ns[bar]))


def market_of_cache(
    cache: CacheReader,
    days: tuple[str, ...] | None = None,
    *,
    allow_partial: bool = False,
    posture: int = APEX,
    mc_status: Mapping[str, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    prove: bool = False,
) -> Market:
    """Days of a cache as a market; the arrays are mapped from disk.

    mc_status is the forewarner's gate code by day. With prove, every row was compared with its day's file
    before (`Columns.open`). Raises what `Columns.open` raises. Scans of an allowed
    partial day whose times do not grow are left out, as a session drops them.
    """
    columns = Columns.open(cache, days, allow_partial, progress, prove)
    stamps = columns.timestamp_ns
    latest = np.maximum.accumulate(stamps)
    kept = np.append(True, stamps[1:] > latest[:-1])
    whole = bool(kept.all())

    def taken(values: Any) -> Any:
        return values if whole else values[kept]

    stamps = taken(stamps)
    n = len(stamps)
    status = None
    if mc_status:
        by_day = {int(np.datetime64(day, "D").astype(np.int64)): code for day, code in mc_status.items()}
        day, at = np.unique(stamps // NS_PER_DAY, return_inverse=True)
        status = np.array([by_day.get(int(d), MC_ABSENT) for d in day], np.int64)[at]
    return Market(
        symbols=columns.symbols,
        timestamp_ns=stamps,
        scan_number=taken(columns.scan_number),
        vel_div=taken(columns.vel_div),
        v50=taken(columns.v50),
        v750=taken(columns.v750),
        instability_50=taken(columns.instability_50),
        prices=taken(columns.prices),
        stale=taken(columns.stale),
        posture=None if posture == APEX else np.full(n, posture, np.int64),
        mc_status=status,
        certified_bits={day: cache.manifest.days[day].min_certified_bits or 0 for day in columns.days},
        notes=columns.notes,
        dropped=int((~kept).sum()),
    )


@dataclass(slots=True)
class Walk:
    """A binding of parameters on its way through a market; state and gate prices go from piece to piece."""

    params: ParameterSet
    market: Market
    vol_threshold: float
    options: EngineOptions | None = None
    at: int = 0
    state: Snapshot | None = None
    gate_prices: tuple[float, ...] = ()

    def look(
        self, last: int, record: str = "none", refuse_from: int | None = None, reason: int = 0
    ) -> PeriodResult:
        """The bars from here to last - 1, without going there."""
        inputs = self.market.inputs(self.at, last, refuse_from, reason)
        runner = PeriodRunner(inputs, self.vol_threshold, state=self.state, gate_prices=self.gate_prices)
        return runner.run(self.params, self.options, record=record)

    def go(self, last: int, result: PeriodResult) -> None:
        """Stand before bar `last` with what `look` gave."""
        self.at, self.state, self.gate_prices = last, result.state, result.runner.gate_prices

    def to(self, bar: int) -> Walk:
        """Go on until before a bar, recording nothing. Raises DataError for a bar outside."""
        if not self.at <= bar <= len(self.market):
            raise DataError(f"bar {bar} is outside, the market has {plural(len(self.market), 'bar')}")
        for _, end in self.market.pieces(self.at, bar):
            self.go(end, self.look(end))
        return self
