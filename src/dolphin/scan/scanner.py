"""The scanner as a pure state machine: one bar in, at most one scan out.

1. One pass over all four windows per accepted bar; one scan per scan number.
2. Published bits depend on the last 752 accepted bars only: not on the path (`fast` or `flint`), nor on warm
   starts, nor on whether the scanner was restored in between.
3. A bar whose timestamp is not after the last one changes nothing but the count of refusals.
4. The outcomes of a window are named (`dolphin.domain.scan.OUTCOMES`); what is ambiguous is None.
5. `certified_bits` is a floor, the same on both certified paths: no window is published whose measured radius
   is above it. Where a fast solution falls short, the oracle answers; where that does, InvariantError.
6. A scanner belongs to one thread, and no other thread of the process may do ball arithmetic while it works:
   flint's precision is one for all of them (`dolphin.scan.oracle`).

Entry points: `Scanner`, `Scanner.restore`, `RingRow`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

import numpy as np

from dolphin.domain.bar import Bar, FloatArray
from dolphin.domain.errors import DataError, InvariantError
from dolphin.domain.scan import (
    OUTCOME_OK,
    OUTCOME_REJECTED,
    WARMUP_PRICES,
    WINDOWS,
    Scan,
    regime_from_vel_div,
)
from dolphin.domain.symbols import universe_id
from dolphin.scan import features, float_path
from dolphin.scan.fast import FastSolver
from dolphin.scan.float_path import FloatSolution, FloatSolver
from dolphin.scan.oracle import FlintSolver
from dolphin.scan.returns import FRESH, INVALID, MISSING, REBASED, REJECTED, bar_returns
from dolphin.scan.ring import RingRow
from dolphin.scan.solution import WindowSolution
from dolphin.scan.spectrum import CERTIFIED_BITS, TARGET_BITS

Path: TypeAlias = Literal["fast", "flint", "float64"]
PATHS: tuple[Path, ...] = ("fast", "flint", "float64")

#: Accepted bars that determine everything the scanner publishes next.
ROWS_NEEDED = WARMUP_PRICES
#: Accuracy of the second attempt where 532 bits do not decide a rounding.
_RAISED_BITS = 1200

_EVENT_OF = {REJECTED: "rejected", REBASED: "rebased", INVALID: "invalid"}


@dataclass(frozen=True, slots=True)
class ScanEvent:
    """Something a person may want to know about one asset on one bar.

    kind : `rejected` (price ratio beyond e, the asset counts as missing), `rebased` (third rejection in a
    row, the new price is the base, return 0), `invalid` (price not finite and positive, counts as missing) or
    `zero_variance` (window_bars says in which window). price : USDT, None for zero_variance.
    """

    kind: str
    symbol: str
    timestamp_ns: int
    price: float | None = None
    window_bars: int | None = None


@dataclass(frozen=True, slots=True)
class ScanStep:
    """What one bar led to. `scan` is None during warm-up and for a refused bar.

    refused : the reason, or None. warmup_bars : accepted bars so far, at most 752 (ready).
    """

    scan: Scan | None
    refused: str | None
    warmup_bars: int
    events: tuple[ScanEvent, ...] = ()


_Columns: TypeAlias = tuple[float, float, float | None, float | None]


class Scanner:
    """Rolling eigen-scan of a universe.

    Parameters
    ----------
    symbols : the universe in its order, 1 to 400 symbols.
    path : `fast` (certified, kernels), `flint` (certified, python-flint only; same bits) or `float64`
        (guard).

    Raises
    ------
    DataError
        If the number of symbols is out of range, or a bar has another number of prices.
    """

    rows_needed = ROWS_NEEDED

    def __init__(self, symbols: tuple[str, ...], *, path: Path = "fast") -> None:
        n = len(symbols)
        self.symbols = tuple(symbols)
        self.path = path
        self.universe_id = universe_id(self.symbols)
        self.refused_count = 0
        self.bars = 0
        self._solver: FastSolver | FlintSolver | None = None
        self._float_solver: FloatSolver | None = None
        if path == "fast":
            self._solver = FastSolver(n, WINDOWS)
        elif path == "flint":
            self._solver = FlintSolver(n, WINDOWS)
        elif path == "float64":
            self._float_solver = FloatSolver(n, WINDOWS)
        else:
            raise DataError(f"scan path is {path!r}, expected one of {', '.join(PATHS)}")
        self._timestamp_ns: int | None = None
        self._base = np.full(n, np.nan)
        self._rejections = np.zeros(n, np.int64)
        self._returns = np.zeros(n)
        self._what = np.zeros(n, np.int64)
        self._certified: tuple[WindowSolution, ...] | None = None
        self._float: tuple[FloatSolution, ...] | None = None

    @property
    def progress(self) -> dict[str, int]:
        """Warm-up progress: accepted bars, of 752."""
        return {"bars": min(self.bars, ROWS_NEEDED), "of": ROWS_NEEDED}

    @property
    def timestamp_ns(self) -> int | None:
        """Timestamp of the last accepted bar, Unix ns, or None before the first."""
        return self._timestamp_ns

    def update(self, bar: Bar, scan_number: int) -> ScanStep:
        """Fold one bar in and publish its scan under `scan_number` when warm. Raises DataError on a wrong
        shape.
        """
        if bar.prices.shape != (len(self.symbols),):
            raise DataError(f"a bar has prices of shape {bar.prices.shape}, expected ({len(self.symbols)},)")
        last = self._timestamp_ns
        if last is not None and bar.timestamp_ns <= last:
            self.refused_count += 1
            return ScanStep(
                None, f"timestamp_ns {bar.timestamp_ns} is not after {last}", min(self.bars, ROWS_NEEDED)
            )
        prices = np.ascontiguousarray(bar.prices, np.float64)
        bar_returns(prices, self._base, self._rejections, self._returns, self._what)
        events = self._price_events(bar.timestamp_ns, prices)
        self._timestamp_ns = int(bar.timestamp_ns)
        before_certified, before_float = self._certified, self._float
        self._advance()
        scan = None
        if last is not None and (before_certified is not None or before_float is not None):
            dt_ns = self._timestamp_ns - last
            if self._certified is not None and before_certified is not None:
                scan, named = self._certified_scan(before_certified, dt_ns, scan_number)
            else:
                scan, named = self._float_scan(before_float, dt_ns, scan_number)
            events += named
        return ScanStep(scan, None, min(self.bars, ROWS_NEEDED), events)

    def ring_row(self) -> RingRow:
        """The resolved row of the last accepted bar. Raises DataError before the first."""
        if self._timestamp_ns is None:
            raise DataError("no bar was accepted yet, so there is no ring row")
        fresh = (self._what == FRESH) | (self._what == REBASED)
        return RingRow(
            self._timestamp_ns, self._base.copy(), self._returns.copy(), fresh, self._rejections.copy()
        )

    @classmethod
    def restore(cls, symbols: tuple[str, ...], rows: Sequence[RingRow], *, path: Path = "fast") -> Self:
        """The scanner that accepted `rows` last, oldest first; 752 of them (or all, if fewer) continue bit
        for bit.

        Raises DataError when a row has another number of assets or the rows are not in time order.
        """
        scanner = cls(symbols, path=path)
        rows = rows[-ROWS_NEEDED:]
        n = len(symbols)
        for before, row in zip((None, *rows), rows, strict=False):
            if row.prices.shape != (n,):
                raise DataError(f"a ring row has {row.prices.shape[0]} assets, the universe has {n}")
            if before is not None and row.timestamp_ns <= before.timestamp_ns:
                raise DataError(f"ring rows are not in time order at timestamp_ns {row.timestamp_ns}")
            scanner._returns[:] = row.returns
            scanner._timestamp_ns = row.timestamp_ns
            scanner._advance(solve=row is rows[-1])
        if rows:
            scanner._base[:] = rows[-1].prices
            scanner._rejections[:] = rows[-1].rejections
            scanner._what[:] = np.where(rows[-1].fresh, FRESH, MISSING)
        return scanner

    # ---- inside

    def _advance(self, *, solve: bool = True) -> None:
        """Push the current returns (the first bar has none) and solve the windows once the longest is
        full.
        """
        self.bars += 1
        solver = self._solver if self._solver is not None else self._float_solver
        if solver is None:
            raise InvariantError("a scanner has no solver")
        if self.bars > 1:
            solver.push(self._returns)
        if not solve or self.bars <= WINDOWS[-1]:
            return
        if isinstance(solver, FloatSolver):
            self._float = tuple(solver.solve(k) for k in range(len(WINDOWS)))
        else:
            self._certified = tuple(_certified(solver, k) for k in range(len(WINDOWS)))

    def _price_events(self, timestamp_ns: int, prices: FloatArray) -> tuple[ScanEvent, ...]:
        if int(self._what.max(initial=0)) < REJECTED:
            return ()
        return tuple(
            ScanEvent(_EVENT_OF[what], self.symbols[i], timestamp_ns, float(prices[i]))
            for i, what in enumerate(self._what.tolist())
            if what in _EVENT_OF
        )

    def _certified_scan(
        self, before: tuple[WindowSolution, ...], dt_ns: int, scan_number: int
    ) -> tuple[Scan, tuple[ScanEvent, ...]]:
        now = self._certified
        if now is None:
            raise InvariantError("a certified scan needs solved windows")
        columns = [self._window(k, now[k], before[k], dt_ns) for k in range(len(WINDOWS))]
        vector = now[0].vector
        weights = None if vector is None else features.loadings(vector)
        outcomes = tuple(s.outcome for s in now)
        idle = [s.zero_variance for s in now]
        return self._record(scan_number, columns, weights, outcomes, idle, CERTIFIED_BITS)

    def _window(self, k: int, new: WindowSolution, old: WindowSolution, dt_ns: int) -> _Columns:
        lam = features.lambda_max(new.lam, final=False)
        speed = features.velocity(new.lam, old.lam, dt_ns, final=False)
        if lam is None or speed is None:
            if self._solver is None:
                raise InvariantError("a certified scan needs a certified solver")
            exact = self._solver.slow(k, target_bits=_RAISED_BITS).lam
            exact_old = self._solver.slow(k, lag=1, target_bits=_RAISED_BITS).lam
            lam = features.lambda_max(exact, final=True)
            speed = features.velocity(exact, exact_old, dt_ns, final=True)
            if lam is None or speed is None:
                raise InvariantError("a final rounding was left undecided")
        if new.vector is None or old.vector is None:
            return lam, speed, None, None
        between = features.angle(new.vector, old.vector, full=False)
        turn = features.rotation(between)
        change = features.instability(new.lam, old.lam, between)
        if turn is None or change is None:
            between = features.angle(new.vector, old.vector, full=True)
            turn = features.rotation(between)
            change = features.instability(new.lam, old.lam, between)
            if turn is None or change is None:
                raise InvariantError(f"{TARGET_BITS} bits do not decide the rounding of an angle")
        return lam, speed, turn, change

    def _float_scan(
        self, before: tuple[FloatSolution, ...] | None, dt_ns: int, scan_number: int
    ) -> tuple[Scan, tuple[ScanEvent, ...]]:
        now = self._float
        if now is None or before is None:
            raise InvariantError("a float64 scan needs solved windows")
        columns = [float_path.columns(new, old, dt_ns) for new, old in zip(now, before, strict=True)]
        outcomes = tuple(s.outcome for s in now)
        idle = [s.zero_variance for s in now]
        return self._record(scan_number, columns, float_path.loadings(now[0]), outcomes, idle, 0)

    def _record(
        self,
        scan_number: int,
        columns: Sequence[_Columns],
        weights: tuple[float, ...] | None,
        outcomes: tuple[str, ...],
        idle: Sequence[tuple[int, ...]],
        certified_bits: int,
    ) -> tuple[Scan, tuple[ScanEvent, ...]]:
        if self._timestamp_ns is None:
            raise InvariantError("a scan needs an accepted bar")
        n = len(self.symbols)
        stale: tuple[str, ...] = ()
        if (self._what == REJECTED).any():
            outcomes = tuple(OUTCOME_REJECTED if o == OUTCOME_OK else o for o in outcomes)
        if self._what.any():
            stale = tuple(
                s for s, w in zip(self.symbols, self._what.tolist(), strict=True) if w not in (FRESH, REBASED)
            )
        (l0, v0, r0, i0), (l1, v1, r1, i1), (l2, v2, r2, i2), (l3, v3, r3, i3) = columns
        vel_div = v0 - v3
        scan = Scan(
            scan_number=scan_number,
            timestamp_ns=self._timestamp_ns,
            w50_lambda_max=l0,
            w50_velocity=v0,
            w50_rotation=r0,
            w50_instability=i0,
            w150_lambda_max=l1,
            w150_velocity=v1,
            w150_rotation=r1,
            w150_instability=i1,
            w300_lambda_max=l2,
            w300_velocity=v2,
            w300_rotation=r2,
            w300_instability=i2,
            w750_lambda_max=l3,
            w750_velocity=v3,
            w750_rotation=r3,
            w750_instability=i3,
            vel_div=vel_div,
            regime_signal=regime_from_vel_div(vel_div),
            instability_composite=features.composite((i0, i1, i2, i3)),
            assets=self.symbols,
            asset_prices=tuple(p if p == p else None for p in self._base.tolist()),
            asset_loadings=weights,
            data_quality_score=(n - len(stale)) / n,
            missing_asset_count=len(stale),
            stale_assets=stale,
            universe_id=self.universe_id,
            certified_bits=(certified_bits,) * len(WINDOWS),
            outcome=outcomes,
        )
        events = tuple(
            ScanEvent("zero_variance", self.symbols[i], self._timestamp_ns, None, w)
            for w, assets in zip(WINDOWS, idle, strict=True)
            for i in assets
        )
        return scan, events


def _certified(solver: FastSolver | FlintSolver, k: int) -> WindowSolution:
    """Solution of window k with at least CERTIFIED_BITS measured bits. Raises InvariantError when there is
    none.
    """
    solution = solver.solve(k)
    if solution.lam.certifies(CERTIFIED_BITS):
        return solution
    solution = solver.slow(k)
    if not solution.lam.certifies(CERTIFIED_BITS):
        raise InvariantError(f"fewer than {CERTIFIED_BITS} bits of a window's eigenvalue are certified")
    return solution
