"""A plan's days in pieces that fit into memory: what is laid out at once while bindings run over it.

Entry points: `Period`, `bytes_of`.

1. A piece is whole days of the cache, as many as the memory takes; a period that fits is one piece.
2. One piece is laid out at a time, and its columns are unmapped before the next: the memory does not grow
   with the period. Price histories and the volatility gate go from piece to piece.
3. Where pieces are cut changes no result (tests/properties/test_period_identity.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import date
from typing import Final

import numpy as np

from dolphin.backtest.period import SHARED_BY_MIN, TABLE_ROWS_MAX, PeriodRunner
from dolphin.backtest.sweep.design import Enumerated
from dolphin.backtest.sweep.plan import Plan
from dolphin.domain.bar import FloatArray
from dolphin.domain.errors import DataError, plural
from dolphin.engine.engine import Snapshot
from dolphin.engine.state import HISTORY_MAX
from dolphin.market.columns import Columns, period_inputs
from dolphin.market.scan_cache import CacheReader

#: Memory that a period may take by default, bytes; the process around it takes about 0.4 GB.
MEMORY_MAX: Final = 1_500_000_000
#: Bytes of one price of a piece: mapped, laid out by time and by asset, stale and known marks.
_BYTES_PER_PRICE: Final = 28
#: Bytes of one bar besides: signals, gates, stamps; and of what one walk down the rankings finds.
_BYTES_PER_BAR: Final = 150
_BYTES_PER_PICK: Final = 40
#: Bytes of one asset in a shared ranking.
_BYTES_PER_RANK: Final = 14
#: Bytes of a binding that is carried into the next piece: where it stood, where it stands, as it is written.
BYTES_PER_CARRY: Final = 3 * 8_200
#: What decides a walk down a ranking; it is made for all bars where enough bindings share it.
_WALK_AXES: Final = ("direction", "min_irp_alignment", "exclude_stablecoins")

Progress = Callable[[str, int, int], None]


def bytes_of(n_bars: int, n_assets: int, tables: int = 1, walks: int = 1) -> int:
    """Bytes that bars take while bindings run over them, about.

    tables : directions that are ranked. walks : ways down a ranking that many bindings share.
    """
    ranked = min(n_bars, TABLE_ROWS_MAX) * n_assets * _BYTES_PER_RANK * tables
    return n_bars * (n_assets * _BYTES_PER_PRICE + _BYTES_PER_BAR + _BYTES_PER_PICK * walks) + ranked


def shared_by(plan: Plan, design: Enumerated) -> tuple[int, int]:
    """(tables, walks) that the bindings of a design share: directions, and ways down their rankings."""
    places = [k for k, axis in enumerate(plan.axes) if axis.name in _WALK_AXES]
    if not places:
        return 1, 1
    _, counts = np.unique(design.points[design.runs][:, places], axis=0, return_counts=True)
    return 1 + any(axis.name == "direction" for axis in plan.axes), max(
        1, int((counts >= SHARED_BY_MIN).sum())
    )


def joined_days(
    days: tuple[str, ...], daily: FloatArray, more_days: tuple[str, ...], more: FloatArray
) -> tuple[tuple[str, ...], FloatArray]:
    """Daily equity (n, n_days) of two pieces, one after the other; a day that was cut is the later one's."""
    kept = len(days) - (days[-1:] == more_days[:1])
    return (*days[:kept], *more_days), np.concatenate([daily[:, :kept], more], axis=1)


class Period:
    """The days of a plan, laid out whole or piece by piece.

    Parameters
    ----------
    plan, cache : which days of what
    memory : bytes that a piece may take, with the carried bindings of one part
    shared : (tables, walks), see `shared_by`
    bindings_per_part : bindings that are carried over an edge at once
    progress : gets `reading days` while columns are made

    Raises
    ------
    DataError
        For days that are not there, and where not even one fits. PartialDayError for one that is not whole.
    """

    def __init__(
        self,
        plan: Plan,
        cache: CacheReader,
        memory: int = MEMORY_MAX,
        shared: tuple[int, int] = (1, 1),
        bindings_per_part: int = 1,
        progress: Progress = lambda phase, done, total: None,
    ) -> None:
        self._cache, self._memory, self._shared = cache, memory, shared
        self._allow_partial, self._vol_threshold = plan.allow_partial, plan.vol_threshold
        self.days = _days_of(plan, cache)
        end = cache.check_end(plan.last_day, plan.allow_partial)
        self.symbols = cache.symbols
        self._rows = [cache.manifest.days[day].rows for day in self.days]
        self._whole: Columns | None = None
        self._runner: PeriodRunner | None = None
        self.cut(bindings_per_part)
        rows: list[int] = []
        notes: dict[str, None] = dict.fromkeys(end)
        edge: tuple[str, int, int] | None = None
        for first, last in self.pieces:
            columns = self._open(first, last, progress)
            if edge is not None:
                notes |= dict.fromkeys(self._missing(edge, columns))
            edge = columns.days[-1], int(columns.scan_number[-1]), int(columns.timestamp_ns[-1])
            rows += np.diff(columns.offsets).tolist()
            notes |= dict.fromkeys(columns.notes)
            if len(self.pieces) == 1:
                self._whole = columns
            del columns
        self._rows = rows
        self.notes = tuple(notes)
        self.n_bars = int(np.sum(rows))
        self.cut(bindings_per_part)

    def cut(self, bindings_per_part: int, at: Collection[str] = ()) -> None:
        """Cut the days into pieces, also after each of the days `at`. Raises DataError where none fits."""
        inner = set(at) & set(self.days[:-1])
        n_assets = len(self.symbols)
        total = int(np.sum(self._rows))
        if not inner and bytes_of(total, n_assets, *self._shared) <= self._memory:
            self.pieces: tuple[tuple[int, int], ...] = ((0, len(self.days) - 1),)
            return
        self._whole = self._runner = None
        histories = HISTORY_MAX * n_assets * _BYTES_PER_PRICE
        room = self._memory - bindings_per_part * BYTES_PER_CARRY - histories
        pieces: list[tuple[int, int]] = []
        begin, bars = 0, 0
        for k, rows in enumerate(self._rows):
            if bytes_of(rows, n_assets, *self._shared) > room:
                need = self._memory - room + bytes_of(rows, n_assets, *self._shared)
                raise DataError(
                    f"{self.days[k]} alone, {n_assets} assets, takes {need / 1e9:.2g} GB with a part of"
                    f" {plural(bindings_per_part, 'binding')}, allowed are {self._memory / 1e9:.2g}: allow"
                    " more with --memory-gb, or make parts smaller with --part-size"
                )
            edge = k > begin and self.days[k - 1] in inner
            if edge or bytes_of(bars + rows, n_assets, *self._shared) > room:
                pieces.append((begin, k - 1))
                begin, bars = k, 0
            bars += rows
        self.pieces = (*pieces, (begin, len(self.days) - 1))

    @property
    def bytes_at_once(self) -> int:
        """Bytes that the largest piece takes, about."""
        largest = max(self.bars_of(k) for k in range(len(self.pieces)))
        return bytes_of(largest, len(self.symbols), *self._shared)

    def bars_of(self, k: int) -> int:
        """Bars of piece k."""
        first, last = self.pieces[k]
        return int(np.sum(self._rows[first : last + 1]))

    def last_day(self, k: int) -> str:
        """The last day of piece k."""
        return self.days[self.pieces[k][1]]

    def walk(self, work: Callable[[int, PeriodRunner], Snapshot | None]) -> None:
        """Lay out piece after piece and call `work` with each.

        work gives the state after the piece, of any binding whose runs the next piece's runner is to go on
        from (bindings with a `Carry` go on from their own); None after the last. It must not keep the runner.
        """
        state: Snapshot | None = None
        gate: tuple[float, ...] = ()
        for k, (first, last) in enumerate(self.pieces):
            runner = self._runner
            if runner is None:
                columns = self._whole or self._open(first, last)
                runner = PeriodRunner(
                    period_inputs(columns), vol_threshold=self._vol_threshold, state=state, gate_prices=gate
                )
                del columns
            if len(self.pieces) == 1:
                self._runner = runner
            state, gate = work(k, runner), runner.gate_prices
            del runner

    def _open(self, first: int, last: int, progress: Progress = lambda phase, done, total: None) -> Columns:
        def on_day(done: int, total: int) -> None:
            progress("reading days", done, total)

        return Columns.open(self._cache, self.days[first : last + 1], self._allow_partial, on_day)

    def _missing(self, edge: tuple[str, int, int], columns: Columns) -> list[str]:
        """A note of days that are missing at an edge. Raises DataError where numbers or times do not grow."""
        day, number, stamp = edge
        if int(columns.scan_number[0]) <= number or int(columns.timestamp_ns[0]) <= stamp:
            raise DataError(
                f"{self._cache.folder}: {columns.days[0]} begins before {day} ends; numbers and times must"
                " grow over all days: build the later one again"
            )
        missing = (date.fromisoformat(columns.days[0]) - date.fromisoformat(day)).days - 1
        return [f"{plural(missing, 'day')} missing between {day} and {columns.days[0]}"] if missing else []


def _days_of(plan: Plan, cache: CacheReader) -> tuple[str, ...]:
    every: Sequence[str] = cache.days()
    days = tuple(day for day in every if (plan.first_day or "") <= day <= (plan.last_day or "9999-12-31"))
    if not days:
        span = f"it has {every[0]} to {every[-1]}" if every else "it is empty, build it first"
        raise DataError(
            f"{cache.folder}: no day from {plan.first_day or 'the first'} to {plan.last_day or 'the last'};"
            f" {span}"
        )
    return days
