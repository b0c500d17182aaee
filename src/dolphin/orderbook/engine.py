"""The order-book engine: snapshots of a universe to features, bar by bar. Pure: no clock, no I/O.

Entry points: `BookEngine.step_live` once a bar; `BookEngine.preload_date` for a recorded day; the getters and
`alpha_books` for what is known at a bar; `state` and `restore`.

Invariants
----------
1. Both ways in fold with `dolphin.orderbook.fold.fold_bar`; they differ in the reference depth alone, which
   is an EMA live and the day's median preloaded, and in what is made of it: depth quality, fill probability,
   depth velocity and acceleration.
2. A getter never gives a value of a later bar than the one asked for, nor of a later instant. One exception,
   live only: a bar older than all that are kept gives the newest.
3. Memory is constant: the newest 500 bars, or a preloaded day.
4. `state()` holds everything; `restore` and going on equals never having stopped, bit for bit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.clock import day_from_ns
from dolphin.domain.errors import DataError, InvariantError, plural
from dolphin.orderbook import fold
from dolphin.orderbook.arrivals import read_snapshots
from dolphin.orderbook.constants import BARS_KEPT, DEGRADED_BARS, REFERENCE_FIXED, REFERENCE_KEEP
from dolphin.orderbook.features import median
from dolphin.orderbook.notices import notices_of
from dolphin.orderbook.provider import BookProvider
from dolphin.orderbook.snapshot import BookSnapshot
from dolphin.orderbook.values import (
    NEUTRAL_MACRO,
    NEUTRAL_MARKET,
    NEUTRAL_PLACEMENT,
    NEUTRAL_SIGNAL,
    AlphaBooks,
    MacroFigures,
    MarketFigures,
    Placement,
    Signal,
)

#: Market figures kept of each bar: those before the bookkeeping.
_KEPT_FIGURES: Final = fold.PRESENT + 1


class StepReport(NamedTuple):
    """What became of one bar: assets by what came, whether books are present, and lines to log."""

    bar_idx: int
    n_fresh: int
    n_missing: int
    n_stale: int
    n_refused: int  # an impossible amount or reach
    n_hidden: int  # nothing visible on both sides
    present: bool
    notices: tuple[str, ...]


class PreloadReport(NamedTuple):
    """What became of a preloaded day: its bars, those without books, and lines to log."""

    date: str
    n_bars: int
    n_absent: int
    notices: tuple[str, ...]


class BookState(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's whole state as bytes, and the universe it belongs to."""

    symbols: tuple[str, ...]
    replaying: bool
    past: dict[str, bytes]
    status: bytes
    bars: tuple[int, ...]
    instants_ns: tuple[int, ...]
    rows: bytes
    figures: bytes


class BookEngine:
    """Features of the books of a fixed universe.

    Parameters
    ----------
    symbols : the universe, in the order of every array
    host : turns a kernel into the form to run; `dolphin.kernel.plain` for the readable reference
    """

    def __init__(
        self, symbols: Sequence[str], host: Callable[[Any], Any] = lambda function: function
    ) -> None:
        self.symbols = tuple(symbols)
        self._index = {symbol: i for i, symbol in enumerate(self.symbols)}
        self._fold = host(fold.fold_bar)
        self._judge = host(fold.admit)
        self._median = host(median)
        self._past = fold.new_past(len(self.symbols))
        self._status = np.full(len(self.symbols), fold.MISSING, np.int16)
        self._replaying = False
        self._make_room(BARS_KEPT)

    def _make_room(self, capacity: int) -> None:
        self._capacity = capacity
        self._bars: list[int] = []
        self._instants_ns: list[int] = []
        # Filled, which `zeros` leaves to the first use: a process has its memory from its first bar, and what
        # grows later is a leak.
        self._rows = np.full((capacity, len(fold.FEATURE_NAMES), len(self.symbols)), 0.0)
        self._figures = np.full((capacity, _KEPT_FIGURES), 0.0)
        self._n_rows = 0

    @property
    def last_bar(self) -> int:
        """The newest bar, -1 before the first."""
        return self._bars[-1] if self._bars else -1

    @property
    def present(self) -> bool:
        """Whether books are there now: something was seen, and not three bars ago or more."""
        return bool(self._past.market[fold.PRESENT] == 1.0)

    # -- the two ways in -------------------------------------------------------------------------------------

    def step_live(
        self, bar_idx: int, now_ns: int, newest: Callable[[str], BookSnapshot | None]
    ) -> StepReport:
        """Read the newest snapshot of each asset and make the bar's features; once a bar, before `step_bar`.

        newest is a provider's method, or a dictionary's `get`. A snapshot that is absent, older than 5 s,
        impossible, or shows nothing counts as missing. Raises DataError for a bar that does not come after
        the last one.
        """
        return self.take(bar_idx, now_ns, self.read(now_ns, newest))

    def read(self, now_ns: int, newest: Callable[[str], BookSnapshot | None]) -> fold.Arrivals:
        """The first half of `step_live`: what a bar's features will be made of, for a host that keeps it."""
        return read_snapshots(self.symbols, now_ns, newest, self._judge)

    def take(self, bar_idx: int, now_ns: int, arrivals: fold.Arrivals) -> StepReport:
        """The second half of `step_live`: fold judged snapshots in. Raises DataError as it does."""
        self._replaying = False
        return self._take(bar_idx, now_ns, arrivals, REFERENCE_KEEP)

    def preload_date(
        self, date: str, bar_idx: IntArray, now_ns: IntArray, provider: BookProvider
    ) -> PreloadReport:
        """Make the features of a whole recorded day.

        An asset's reference is the median of its depths of that day, one for each reach: it looks ahead
        within the day. Pasts go on from the day before; only this day's bars are kept.

        Parameters
        ----------
        date : UTC, `YYYY-MM-DD`
        bar_idx, now_ns : int64 (n_bars,), both growing; the bars and the instants at which they are read
        provider : read twice, from the first instant to the last

        Raises DataError for bars that do not grow, do not come after the last one, or lie outside the day.
        """
        self._check_day(date, bar_idx, now_ns)
        references = self._day_medians(now_ns, provider)
        past = self._past
        past.references[...] = references
        past.market[fold.N_MEANS] = past.market[fold.DEPTH_VELOCITY] = 0.0
        self._make_room(max(BARS_KEPT, len(bar_idx)))
        notices: list[str] = []
        absent = 0
        for bar, instant in zip(bar_idx.tolist(), now_ns.tolist(), strict=True):
            provider.advance(instant)
            report = self._take(bar, instant, self.read(instant, provider.newest), REFERENCE_FIXED)
            notices += report.notices
            absent += not report.present
        self._replaying = True
        return PreloadReport(date, len(bar_idx), absent, tuple(notices))

    def _check_day(self, date: str, bar_idx: IntArray, now_ns: IntArray) -> None:
        if bar_idx.shape != now_ns.shape or bar_idx.ndim != 1 or not len(bar_idx):
            raise DataError(f"books of {date}: {bar_idx.shape} bars for {now_ns.shape} instants")
        if (np.diff(bar_idx) <= 0).any() or (np.diff(now_ns) <= 0).any():
            raise DataError(f"books of {date}: bars and their instants must grow")
        for instant in (int(now_ns[0]), int(now_ns[-1])):
            if day_from_ns(instant) != date:
                raise DataError(f"books of {date}: an instant lies on {day_from_ns(instant)}")
        self._check_bar(int(bar_idx[0]))

    def _day_medians(self, now_ns: IntArray, provider: BookProvider) -> FloatArray:
        """Median depth of each asset and reach over the day, (n, 6) USD, NaN where there was none."""
        depths = np.empty((len(now_ns), len(self.symbols)))
        reaches = np.full(depths.shape, -1, np.int16)
        for t, instant in enumerate(now_ns.tolist()):
            provider.advance(instant)
            arrivals = self.read(instant, provider.newest)
            depths[t] = arrivals.bid[:, 0] + arrivals.ask[:, 0]
            reaches[t] = np.where(arrivals.status == fold.FRESH, arrivals.reach, -1)
        medians = np.full((len(self.symbols), fold.N_REACHES), np.nan)
        for i in range(len(self.symbols)):
            for reach in range(fold.N_REACHES):
                mine = depths[reaches[:, i] == reach, i]
                if len(mine):
                    medians[i, reach] = self._median(mine)
        return medians

    def _check_bar(self, bar_idx: int) -> None:
        if bar_idx <= self.last_bar:
            raise DataError(f"books of bar {bar_idx} do not come after those of bar {self.last_bar}")

    def _take(self, bar_idx: int, now_ns: int, arrivals: fold.Arrivals, keep: float) -> StepReport:
        self._check_bar(bar_idx)
        past, status = self._past, arrivals.status
        silent = int(past.market[fold.SILENT])
        self._fold(
            arrivals.bid,
            arrivals.ask,
            status == fold.FRESH,
            arrivals.covered,
            arrivals.reach,
            keep,
            past,
        )
        notices = notices_of(
            self.symbols, self._status, status, silent, int(past.market[fold.SILENT]), DEGRADED_BARS
        )
        self._status = status.copy()
        self._keep_row(bar_idx, now_ns)
        counts = np.bincount(status, minlength=fold.HIDDEN + 1).tolist()
        fresh, missing, stale, refused, hidden = counts
        return StepReport(bar_idx, fresh, missing, stale, refused, hidden, self.present, notices)

    def _keep_row(self, bar_idx: int, now_ns: int) -> None:
        slot = self._n_rows % self._capacity
        self._rows[slot] = self._past.features
        self._figures[slot] = self._past.market[:_KEPT_FIGURES]
        self._n_rows += 1
        # A clock that was set back must not make a value known earlier than it was.
        self._instants_ns.append(max(now_ns, self._instants_ns[-1]) if self._bars else now_ns)
        self._bars.append(bar_idx)
        if len(self._bars) > self._capacity:
            del self._bars[0], self._instants_ns[0]

    # -- what is known at a bar ------------------------------------------------------------------------------

    def get_placement(self, asset: str, bar: int) -> Placement:
        """The asset's placement at a bar, the latest known one at a bar that is not known."""
        i, slot = self._index.get(asset, -1), self._slot(bar)
        if i < 0 or slot < 0:
            return NEUTRAL_PLACEMENT
        row = self._rows[slot, : fold.REACH + 1, i]
        return Placement(*row.tolist())

    def get_signal(self, asset: str, bar: int) -> Signal:
        """The asset's signal at a bar, the latest known one at a bar that is not known."""
        i, slot = self._index.get(asset, -1), self._slot(bar)
        if i < 0 or slot < 0:
            return NEUTRAL_SIGNAL
        row = self._rows[slot, fold.IMBALANCE :, i]
        return Signal(*row.tolist())

    def get_market(self, bar: int) -> MarketFigures:
        """The figures across assets at a bar, the latest known ones at a bar that is not known."""
        slot = self._slot(bar)
        if slot < 0:
            return NEUTRAL_MARKET
        f = self._figures[slot].tolist()
        return MarketFigures(
            f[fold.MEDIAN],
            f[fold.AGREEMENT],
            f[fold.PRESSURE],
            int(f[fold.N_FRESH]),
            f[fold.PRESENT] != 1.0,
        )

    def get_macro(self, bar: int) -> MacroFigures:
        """The market's depth at a bar, the latest known one at a bar that is not known."""
        return self._macro(self._slot(bar))

    def get_macro_at(self, instant_ns: int) -> MacroFigures:
        """The market's depth as known at an instant: never of a bar that was read later."""
        at = bisect_right(self._instants_ns, instant_ns) - 1
        return self._macro(-1 if at < 0 else self._slot_of(at))

    def alpha_books(self, bar: int | None = None) -> AlphaBooks | None:
        """The books of a bar (default: the newest) as the alpha takes them; None where they are absent."""
        slot = self._slot(self.last_bar if bar is None else bar)
        if slot < 0:
            return None
        row, f = self._rows[slot], self._figures[slot].tolist()
        if f[fold.PRESENT] != 1.0:
            return None
        return AlphaBooks(
            True,
            f[fold.MEDIAN],
            f[fold.AGREEMENT],
            int(f[fold.CASCADE]),
            int(f[fold.REGIME]),
            *(row[k].copy() for k in (fold.MA5, fold.PERSISTENCE, fold.QUALITY, fold.FILL, fold.WITHDRAWAL)),
        )

    def features(self) -> FloatArray:
        """The newest features, a copy: (n_features, n_assets) in the order of `fold.FEATURE_NAMES`."""
        return self._past.features.copy()

    def fresh(self) -> BoolArray:
        """Which assets had a snapshot on the newest bar, (n_assets,)."""
        fresh: BoolArray = self._status == fold.FRESH
        return fresh

    def withdrawals(self) -> list[float]:
        """Withdrawal velocities of the assets that had a snapshot on the newest bar."""
        velocities: list[float] = self._past.features[fold.WITHDRAWAL, self.fresh()].tolist()
        return velocities

    def _macro(self, slot: int) -> MacroFigures:
        if slot < 0:
            return NEUTRAL_MACRO
        f = self._figures[slot].tolist()
        return MacroFigures(
            f[fold.DEPTH_VELOCITY], f[fold.ACCELERATION], int(f[fold.CASCADE]), int(f[fold.REGIME])
        )

    def _slot(self, bar: int) -> int:
        """Where the row of a bar stands, or that of the latest before it; -1 where nothing is known."""
        bars = self._bars
        if not bars:
            return -1
        if bar >= bars[-1]:
            return self._slot_of(len(bars) - 1)
        at = bisect_right(bars, bar) - 1
        if at < 0:
            return -1 if self._replaying else self._slot_of(len(bars) - 1)
        return self._slot_of(at)

    def _slot_of(self, at: int) -> int:
        return (self._n_rows - len(self._bars) + at) % self._capacity

    # -- state -----------------------------------------------------------------------------------------------

    def state(self, bars: int = BARS_KEPT) -> BookState:
        """Everything, as bytes; of the rows that getters read, the newest `bars`. One is enough to go on."""
        kept = min(bars, len(self._bars))
        first = len(self._bars) - kept
        slots = [self._slot_of(at) for at in range(first, len(self._bars))]
        return BookState(
            symbols=self.symbols,
            replaying=self._replaying,
            past={name: array.tobytes() for name, array in self._past._asdict().items()},
            status=self._status.tobytes(),
            bars=tuple(self._bars[first:]),
            instants_ns=tuple(self._instants_ns[first:]),
            rows=self._rows[slots].tobytes(),
            figures=self._figures[slots].tobytes(),
        )

    def restore(self, state: BookState) -> None:
        """Take a state over. Raises InvariantError, and changes nothing, when it is not of this universe."""
        if state.symbols != self.symbols:
            raise InvariantError(
                f"books: a state of {plural(len(state.symbols), 'symbol')} is not of this universe of "
                f"{len(self.symbols)}"
            )
        n = len(state.bars)
        past = fold.new_past(len(self.symbols))
        status = np.zeros(len(self.symbols), np.int16)
        rows = np.zeros((n, *self._rows.shape[1:]))
        figures = np.zeros((n, _KEPT_FIGURES))
        parts = [(name, array, state.past.get(name, b"")) for name, array in past._asdict().items()]
        parts += [("status", status, state.status), ("rows", rows, state.rows)]
        for name, array, data in (*parts, ("figures", figures, state.figures)):
            if len(data) != array.nbytes or len(state.instants_ns) != n:
                raise InvariantError(f"books: {name} has {len(data)} bytes, expected {array.nbytes}")
            array[...] = np.frombuffer(data, array.dtype).reshape(array.shape)
        self._past, self._status, self._replaying = past, status, state.replaying
        self._make_room(max(BARS_KEPT, n))
        self._rows[:n], self._figures[:n] = rows, figures
        self._bars, self._instants_ns, self._n_rows = list(state.bars), list(state.instants_ns), n
