"""Backtests of whole periods: one market, one or a hundred thousand bindings of parameters.

Entry point: `PeriodRunner`. It lays a market out once, makes the rankings that several bindings share once,
and runs bindings on all cores. Invariants:

1. `run` gives what `step_bar` gives on the same bars, bit for bit, whatever was shared and however the work
   was cut.
2. A result does not depend on the number of threads or on the other bindings of a batch.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from dolphin.alpha.selection import IRP_PRICES, PROFILE_ROWS
from dolphin.alpha.volatility import VOL_THRESHOLD
from dolphin.domain.bar import FloatArray, IntArray, SmallIntArray
from dolphin.domain.codes import ACTION_ENTER, ACTION_EXIT, ACTION_NONE, BOOKS_ABSENT, MC_STATUSES
from dolphin.domain.decision import CANONICAL_DTYPE, Decision
from dolphin.domain.errors import InvariantError
from dolphin.domain.params import ParameterSet
from dolphin.engine import period as kernels
from dolphin.engine import state as st
from dolphin.engine.engine import DayResult, Snapshot, decision_of, snapshot_of, state_of
from dolphin.engine.market import PeriodInputs, market_of
from dolphin.engine.period import RECORD_ALL, RECORD_CODES, RECORD_EVENTS, RECORD_NONE, Recorder
from dolphin.engine.rankings import Picks, Rankings, no_picks, no_rankings, pick_bars, rank_bars
from dolphin.engine.record import OUT_FLOAT_NAMES, OUT_INT_NAMES
from dolphin.host.draws import draws

RECORDS: Final = {
    "none": RECORD_NONE,
    "events": RECORD_EVENTS,
    "codes": RECORD_CODES,
    "all": RECORD_ALL,
}

#: Rankings of one table at most; beyond it bars are ranked when they are needed (a row is 600 bytes).
TABLE_ROWS_MAX: Final = 1_000_000
#: Bindings that must share a walk down the rankings before it is made for all bars at once.
SHARED_BY_MIN: Final = 3
#: Walks kept beside a table (14 bytes a bar of the table each).
WALKS_MAX: Final = 256
_ROWS_AT_FIRST: Final = 4096
_BARS_PER_CHUNK: Final = 2048

#: One binding of parameters.
Binding = tuple[ParameterSet, st.EngineOptions | None]

TOTALS_DTYPE: Final = np.dtype(
    [
        ("trades", "<i8"),
        ("wins", "<i8"),
        ("gross_profit", "<f8"),
        ("gross_loss", "<f8"),
        ("price_pnl", "<f8"),
        ("entry_fees", "<f8"),
        ("exit_fees", "<f8"),
        ("slippage", "<f8"),
        ("ob_edge", "<f8"),
        ("net", "<f8"),
        ("capital", "<f8"),
        ("equity", "<f8"),
        ("max_drawdown", "<f8"),
        ("open_position", "?"),
    ]
)


@dataclass(frozen=True, slots=True)
class Totals:
    """What a run came to, USDT unless a count or a fraction; sums of floats, the ledger's are exact.

    gross_profit and gross_loss are the sums of winning and of other nets, net is capital minus the capital
    before the first bar, equity is marked, max_drawdown the largest fall of marked equity below its running
    peak, as a fraction. A runner with a `state` counts from there, a carried binding from its own start.
    """

    trades: int
    wins: int
    gross_profit: float
    gross_loss: float
    price_pnl: float
    entry_fees: float
    exit_fees: float
    slippage: float
    ob_edge: float
    net: float
    capital: float
    equity: float
    max_drawdown: float
    open_position: bool


class Carry(NamedTuple):
    """What a binding takes from one piece of a long period into the next, price histories left out.

    Those belong to the market: the next piece's runner gets them with its `state`.
    """

    arrays: tuple[np.ndarray[Any, Any], ...]  # the state's, in the order of CARRIED
    totals: FloatArray
    counts: IntArray


#: The state's arrays that differ between bindings.
CARRIED: Final = tuple(name for name in st.SAVED if name not in ("prices", "n_prices"))


@dataclass(frozen=True, slots=True)
class PeriodResult:
    """One binding's run. Which fields are filled depends on what was recorded; see `PeriodRunner.run`."""

    runner: PeriodRunner
    params: ParameterSet
    totals: Totals
    daily_equity: FloatArray  # (n_days,) marked equity at each day's last bar, USDT
    days: tuple[DayResult, ...]
    state: Snapshot
    first_bar: int
    rows_f: FloatArray = field(repr=False)
    rows_i: IntArray = field(repr=False)
    action: SmallIntArray = field(repr=False)
    reason: SmallIntArray = field(repr=False)
    asset: SmallIntArray = field(repr=False)
    equity: FloatArray = field(repr=False)
    level: int = RECORD_NONE
    carry: Carry = field(default=Carry((), np.zeros(0), np.zeros(0, np.int64)), repr=False)

    def decisions(
        self, first: int = 0, scan_numbers: IntArray | None = None, books_label: str = "period"
    ) -> Iterator[Decision]:
        """The recorded bars as `step_bar` decides them, from the row `first` on.

        With `record="all"` every bar, with `events` and `codes` entries and exits. books_label names the
        books where they are present.
        """
        inputs = self.runner.inputs
        market = self.runner.market
        for k in range(first, len(self.rows_i)):
            bar = int(self.rows_i[k, -1])
            t = bar - self.first_bar
            has = market.has_books and bool(market.books.present[t])
            yield decision_of(
                inputs.symbols,
                bar,
                int(inputs.timestamp_ns[t]),
                0 if scan_numbers is None else int(scan_numbers[t]),
                (float(market.vel_div[t]), float(market.v50[t]), float(market.v750[t])),
                bool(market.vol_ok[t]),
                float(market.esof_mult[t]),
                books_label if has else BOOKS_ABSENT,
                self.rows_f[k].tolist(),
                self.rows_i[k, :-1].tolist(),
            )

    @property
    def trades(self) -> np.ndarray[Any, Any]:
        """Closed trades, one row each: the names of `TRADE_DTYPE`; needs at least `events`."""
        if self.level == RECORD_NONE:
            raise InvariantError("a run that recorded nothing has no trades; run it with record='events'")
        return trades_of(self.rows_f, self.rows_i)

    def canonical(self) -> np.ndarray[Any, Any]:
        """Every bar's canonical record (n_bars,), packed as `Decision.canonical` does; needs `codes`."""
        if self.level < RECORD_CODES:
            raise InvariantError("a digest needs every bar's code; run it with record='codes'")
        market, inputs = self.runner.market, self.runner.inputs
        n = len(self.action)
        out = np.zeros(n, CANONICAL_DTYPE)
        out["bar_idx"] = self.first_bar + np.arange(n)
        out["timestamp_ns"] = inputs.timestamp_ns
        out["action"] = self.action
        out["reason"] = self.reason
        names = np.array([*(symbol.encode("ascii") for symbol in inputs.symbols), b""])
        out["asset"] = names[self.asset]
        active = np.flatnonzero(self.action != ACTION_NONE)
        if not len(active):
            return out
        actions = self.rows_i[:, _OUT_I["action"]]
        rows = np.flatnonzero((actions == ACTION_ENTER) | (actions == ACTION_EXIT))
        # A bar in a position shows the lanes of its entry. Every position's last row here, be it the entry or
        # the exit, carries them; a position from before the period, still open at its end, has no row.
        bars = self.rows_i[rows, -1] - self.first_bar
        place = np.searchsorted(bars, active, side="left")
        inside = place < len(rows)
        owner = np.where(inside, place, 0)
        own_entry = np.zeros(len(active), np.bool_)
        last = len(rows) - 1
        is_entry = len(rows) > 0 and int(self.rows_i[rows[last], _OUT_I["action"]]) == ACTION_ENTER
        if is_entry:
            own_entry = ~inside
            owner = np.where(inside, place, last)
        final_f, final_i = self._final()
        values_f = self.rows_f[rows[owner]] if len(rows) else np.repeat(final_f[None], len(active), axis=0)
        values_i = self.rows_i[rows[owner]] if len(rows) else np.repeat(final_i[None], len(active), axis=0)
        carried_over = ~inside & ~own_entry
        values_f[carried_over], values_i[carried_over] = final_f, final_i
        out["lanes"][active] = values_f[:, [_ROW_F[name] for name in _LANES]]
        for name in ("raw", "cap", "leverage", "notional"):
            out[name][active] = values_f[:, _ROW_F[name]]
        out["bound"][active] = values_i[:, _ROW_I["bound"]]
        held = self.asset[active]
        out["price"][active] = market.held[held, market.lead + active]
        exits = self.action[active] == ACTION_EXIT
        out["price"][active[exits]] = values_f[exits, _OUT_F["price"]]
        out["net"][active[exits]] = values_f[exits, _OUT_F["net"]]
        return out

    def _final(self) -> tuple[FloatArray, IntArray]:
        """The state's numbers at the end, in a row's layout."""
        state = state_of(self.state)
        row_f = np.concatenate([np.zeros(len(OUT_FLOAT_NAMES)), state.floats])
        row_i = np.concatenate([np.zeros(len(OUT_INT_NAMES), np.int64), state.ints, np.zeros(1, np.int64)])
        return row_f, row_i

    def decisions_sha256(self) -> str:
        """SHA-256 over the canonical records in the order of bars; needs `codes` or `all`."""
        return hashlib.sha256(self.canonical().tobytes()).hexdigest()


_OUT_F: Final = {name: k for k, name in enumerate(OUT_FLOAT_NAMES)}
_OUT_I: Final = {name: k for k, name in enumerate(OUT_INT_NAMES)}
_ROW_F: Final = {name: len(OUT_FLOAT_NAMES) + k for k, name in enumerate(st.FLOAT_NAMES)}
_ROW_I: Final = {name: len(OUT_INT_NAMES) + k for k, name in enumerate(st.INT_NAMES)}
_LANES: Final = ("lane_base", "lane_dc", "lane_regime", "lane_ob", "lane_esof")

_TRADE_OUT_F: Final = ("net", "gross", "entry_fee", "exit_fee", "ob_edge", "pnl_pct")
_TRADE_STATE_F: Final = (
    "capital",
    "entry_price",
    "notional",
    "leverage",
    "fraction",
    *_LANES,
    "raw",
    "cap",
    "entry_vel_div",
)

#: A closed trade: indices and codes as integers, prices and money in USDT, ob_edge a fraction.
TRADE_DTYPE: Final = np.dtype(
    [
        ("asset", "<i8"),
        ("entry_bar", "<i8"),
        ("exit_bar", "<i8"),
        ("bars_held", "<i8"),
        ("reason", "<i8"),
        ("bound", "<i8"),
        ("bucket", "<i8"),
        ("exit_scan_price", "<f8"),
        ("exit_price", "<f8"),
        *((name, "<f8") for name in _TRADE_OUT_F),
        *((name, "<f8") for name in _TRADE_STATE_F),
    ]
)


def trades_of(rows_f: FloatArray, rows_i: IntArray) -> np.ndarray[Any, Any]:
    """The closed trades among recorded rows, as `TRADE_DTYPE`."""
    exits = np.flatnonzero(rows_i[:, _OUT_I["action"]] == ACTION_EXIT)
    f, i = rows_f[exits], rows_i[exits]
    out = np.zeros(len(exits), TRADE_DTYPE)
    for name in ("asset", "bars_held", "reason"):
        out[name] = i[:, _OUT_I[name]]
    out["entry_bar"] = i[:, _ROW_I["entry_bar"]]
    out["exit_bar"] = i[:, -1]
    for name in ("bound", "bucket"):
        out[name] = i[:, _ROW_I[name]]
    out["exit_scan_price"] = f[:, _OUT_F["scan_price"]]
    out["exit_price"] = f[:, _OUT_F["price"]]
    for name in _TRADE_OUT_F:
        out[name] = f[:, _OUT_F[name]]
    for name in _TRADE_STATE_F:
        out[name] = f[:, _ROW_F[name]]
    return out


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a batch of bindings came to, in the order given."""

    totals: np.ndarray[Any, Any]  # (n_bindings,) of TOTALS_DTYPE
    daily_equity: FloatArray  # (n_bindings, n_days), USDT
    carries: tuple[Carry, ...] = ()  # where each binding stands, if they were asked for


@dataclass(slots=True)
class _Table:
    """Rankings of the bars beyond a threshold, and what walks down them find, by `_walk`."""

    threshold: float
    bars: IntArray
    rankings: Rankings
    vel_div: FloatArray  # of the bars, 1/s
    row_from: IntArray  # (n,), see `Picks`
    picks: dict[tuple[float, bool], Picks] = field(default_factory=dict)


def _walk(params: ParameterSet) -> tuple[float, bool]:
    """What decides a walk down a ranking."""
    return params.min_irp_alignment, params.exclude_stablecoins


class PeriodRunner:
    """One market, ready to run bindings of parameters over it.

    Parameters
    ----------
    inputs : the market, bar by bar
    vol_threshold : of the volatility gate, a standard deviation of simple returns per bar
    state : an engine's state to go on from; every run then begins there
    gate_prices : the volatility gate's kept prices at that moment (`VolatilityGate.prices`)
    kernels_as : turns a kernel into the form to run; `dolphin.kernel.plain` for the readable reference
    """

    def __init__(
        self,
        inputs: PeriodInputs,
        vol_threshold: float = VOL_THRESHOLD,
        *,
        state: Snapshot | None = None,
        gate_prices: tuple[float, ...] = (),
        kernels_as: Callable[[Any], Any] = lambda function: function,
    ) -> None:
        if state is not None and state.symbols != inputs.symbols:
            raise InvariantError("period: state of another universe; the symbols or their order differ")
        self.inputs = inputs
        self.vol_threshold = vol_threshold
        self._before = state
        before = None if state is None else state_of(state)
        self.market, self.days, self.gate_prices = market_of(
            inputs,
            vol_threshold,
            state=before,
            open_day="" if state is None else state.day,
            gate_prices=gate_prices,
        )
        self._tables: dict[tuple[int, bool], _Table] = {}
        self._none = no_rankings(len(inputs.symbols))
        self._no_picks = no_picks()
        self._run = kernels_as(kernels.run_period)
        self._finish = kernels_as(kernels.finish_period)
        self._rank = kernels_as(rank_bars)
        self._pick = kernels_as(pick_bars)
        self._draws: dict[int, FloatArray] = {}
        self._lock = threading.Lock()

    @property
    def n_bars(self) -> int:
        """Bars of the period."""
        return len(self.inputs.timestamp_ns)

    def run(
        self, params: ParameterSet, options: st.EngineOptions | None = None, *, record: str = "none"
    ) -> PeriodResult:
        """Run one binding.

        record is `none` (totals and days only), `events` (entries and exits besides), `codes` (every bar's
        action, reason, asset and equity besides: enough for the digest) or `all` (every bar in full).
        """
        return self._one(params, options or st.EngineOptions(), RECORDS[record])

    def run_many(
        self,
        bindings: Sequence[Binding],
        threads: int | None = None,
        on_done: Callable[[int], None] | None = None,
        *,
        carries: Sequence[Carry] = (),
        keep: bool = False,
    ) -> BatchResult:
        """Run many bindings on `threads` threads (all cores by default), sharing rankings between them.

        on_done gets the number of bindings done, now and then. A period too long for the memory is run piece
        by piece: `keep` asks where each binding stands at the end, `carries` goes on from there, over a
        runner whose `state` and `gate_prices` are the last piece's. Totals then are those from the start,
        bit for bit; daily equity is the piece's.
        """
        if carries and len(carries) != len(bindings):
            raise InvariantError(f"run_many: {len(carries)} carries for {len(bindings)} bindings")
        threads = threads or os.cpu_count() or 1
        self._share_rankings(bindings, threads)
        totals = np.zeros(len(bindings), TOTALS_DTYPE)
        daily = np.zeros((len(bindings), len(self.days)))
        kept: dict[int, Carry] = {}
        done = 0

        def work(k: int) -> None:
            params, options = bindings[k]
            carry = carries[k] if carries else None
            result = self._one(params, options or st.EngineOptions(), RECORD_NONE, light=True, carry=carry)
            if keep:
                kept[k] = result.carry
            found = result.totals
            totals[k] = tuple(getattr(found, name) for name in TOTALS_DTYPE.names or ())
            daily[k] = result.daily_equity

        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(work, range(len(bindings)), chunksize=1):
                done += 1
                if on_done is not None:
                    on_done(done)
        return BatchResult(totals, daily, tuple(kept[k] for k in range(len(kept))))

    def with_signals(
        self, vel_div: FloatArray, v50: FloatArray, v750: FloatArray, instability: FloatArray
    ) -> PeriodRunner:
        """The same prices, organs and volatility gate under other signals, (n_bars,) each, 1/s.

        What was ranked is not taken along: the tables also say where the signals are.
        """
        inputs = dataclasses.replace(
            self.inputs, vel_div=vel_div, v50_velocity=v50, v750_velocity=v750, instability_50=instability
        )
        other = copy.copy(self)
        other.inputs = inputs
        other.market = self.market._replace(
            vel_div=np.ascontiguousarray(vel_div, np.float64),
            v50=np.ascontiguousarray(v50, np.float64),
            v750=np.ascontiguousarray(v750, np.float64),
            instability=np.ascontiguousarray(instability, np.float64),
        )
        other._tables = {}
        return other

    def _share_rankings(self, bindings: Sequence[Binding], threads: int) -> None:
        """Rank, once, every bar that a binding of the batch could enter on, and walk down where many do."""
        wanted: dict[tuple[int, bool], float] = {}
        walks: Counter[tuple[tuple[int, bool], tuple[float, bool]]] = Counter()
        of_walk: dict[tuple[float, bool], ParameterSet] = {}
        for params, options in bindings:
            if params.use_asset_selection:
                key = (params.direction, (options or st.EngineOptions()).irp_steps == "relative")
                loosest = wanted.get(key, params.vel_div_threshold)
                loose = min if params.direction > 0 else max
                wanted[key] = loose(loosest, params.vel_div_threshold)
                walks[key, _walk(params)] += 1
                of_walk[_walk(params)] = params
        for key, threshold in wanted.items():
            direction, relative = key
            table = self._tables.get(key)
            if table is None or (threshold - table.threshold) * direction < 0.0:
                signal = self.market.vel_div < threshold if direction < 0 else self.market.vel_div > threshold
                bars = np.flatnonzero(signal & self.market.vol_ok)
                if not 0 < len(bars) <= TABLE_ROWS_MAX:
                    continue
                self._tables[key] = self._table(threshold, bars, direction, relative, threads)
        for (key, walk), n in walks.items():
            table = self._tables.get(key)
            if table is not None and n >= SHARED_BY_MIN and walk not in table.picks:
                while len(table.picks) >= WALKS_MAX:
                    del table.picks[
                        next(iter(table.picks))
                    ]  # the oldest; without it a ranking is walked again
                table.picks[walk] = self._picks(table, of_walk[walk])

    def _table(
        self, threshold: float, bars: IntArray, direction: int, relative: bool, threads: int
    ) -> _Table:
        a = len(self.inputs.symbols)
        row_of = np.full(self.n_bars, st.NONE, np.int64)
        row_of[bars] = np.arange(len(bars))
        rankings = Rankings(
            row_of,
            np.zeros(len(bars), np.int64),
            np.zeros((len(bars), a), np.int16),
            np.zeros((len(bars), a), np.int16),
            np.zeros((len(bars), a), np.int16),
            np.zeros((len(bars), a)),
        )

        def work(begin: int) -> None:
            part = slice(begin, begin + _BARS_PER_CHUNK)
            self._rank(
                self.market,
                bars[part],
                direction,
                relative,
                np.empty((IRP_PRICES, a)),
                np.empty((PROFILE_ROWS, a)),
                np.empty(a, np.int64),
                *(array[part] for array in rankings[1:]),
            )

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(0, len(bars), _BARS_PER_CHUNK)))
        row_from = np.searchsorted(bars, np.arange(self.n_bars))
        return _Table(threshold, bars, rankings, self.market.vel_div[bars], row_from)

    def _picks(self, table: _Table, params: ParameterSet) -> Picks:
        n = len(table.bars)
        small = [np.zeros(n, np.int16) for _ in range(3)]
        ars = np.zeros(n)
        excluded = st.excluded_assets(params, self.inputs.symbols)
        self._pick(self.market, table.rankings, table.bars, params.min_irp_alignment, excluded, *small, ars)
        return Picks(
            table.threshold, table.bars, table.vel_div, table.row_from, small[0], small[1], small[2], ars
        )

    def _stream(self, seed: int, at_least: int) -> FloatArray:
        with self._lock:
            found = self._draws.get(seed)
            if found is None or len(found) <= at_least:
                found = self._draws[seed] = draws(seed, at_least)
            return found

    def _start(self, params: ParameterSet) -> st.State:
        if self._before is None:
            return st.new_state(len(self.inputs.symbols), params.initial_capital)
        return state_of(self._before)

    def _one(
        self,
        params: ParameterSet,
        options: st.EngineOptions,
        level: int,
        light: bool = False,
        carry: Carry | None = None,
    ) -> PeriodResult:
        symbols = self.inputs.symbols
        p = st.step_params(params, symbols, options)
        excluded = st.excluded_assets(params, symbols)
        s = self._start(params)
        n = self.n_bars
        codes = n if level >= RECORD_CODES else 0
        capacity = n if level == RECORD_ALL else _ROWS_AT_FIRST if level else 0
        record = Recorder(
            level,
            np.zeros(codes, np.int16),
            np.zeros(codes, np.int16),
            np.zeros(codes, np.int16),
            np.zeros(codes),
            np.zeros((capacity, len(kernels.ROW_FLOATS))),
            np.zeros((capacity, len(kernels.ROW_INTS)), np.int64),
            np.zeros((len(self.days), len(kernels.DAY_FLOATS))),
            np.zeros((len(self.days), len(kernels.DAY_INTS)), np.int64),
        )
        totals = np.zeros(len(kernels.TOTAL_NAMES))
        counts = np.zeros(len(kernels.COUNT_NAMES), np.int64)
        start_capital = float(s.floats[st.CAPITAL])
        totals[kernels.T_PEAK] = self._marked_before(params, s)
        if carry is not None:
            for name, array in zip(CARRIED, carry.arrays, strict=True):
                getattr(s, name)[...] = array
            totals[:] = carry.totals
            start_capital = params.initial_capital
            counts[: kernels.C_ROWS] = carry.counts[: kernels.C_ROWS]
        first_bar, bar_count = int(s.ints[st.LAST_BAR]) + 1, int(s.ints[st.BAR_COUNT])
        table = self._tables.get((params.direction, options.irp_steps == "relative"))
        rankings = self._none if table is None else table.rankings
        picks = self._no_picks if table is None else table.picks.get(_walk(params), self._no_picks)
        t = 0
        while True:
            stream = self._stream(params.seed, int(s.ints[st.DRAW_POSITION]))
            t = self._run(
                p,
                s,
                excluded,
                self.market,
                rankings,
                picks,
                stream,
                record,
                totals,
                counts,
                first_bar,
                bar_count,
                t,
            )
            if t == n:
                break
            if level and counts[kernels.C_ROWS] + 1 > len(record.rows_f):
                record = record._replace(
                    rows_f=np.concatenate([record.rows_f, np.zeros_like(record.rows_f)]),
                    rows_i=np.concatenate([record.rows_i, np.zeros_like(record.rows_i)]),
                )
        equity = self._finish(p, s, self.market, self.inputs.prices, record, counts, first_bar, bar_count)
        rows = int(counts[kernels.C_ROWS])
        capital = float(s.floats[st.CAPITAL])
        values = dict(zip(kernels.TOTAL_NAMES, totals.tolist(), strict=True))
        values.pop("peak")
        drawdown = values.pop("max_drawdown")
        return PeriodResult(
            runner=self,
            params=params,
            totals=Totals(
                trades=int(counts[kernels.C_TRADES]),
                wins=int(counts[kernels.C_WINS]),
                **values,
                net=capital - start_capital,
                capital=capital,
                equity=float(equity),
                max_drawdown=drawdown,
                open_position=int(s.ints[st.POSITION]) != st.NONE,
            ),
            daily_equity=record.days_f[:, 0],
            days=() if light else self._day_results(record),
            state=_NO_STATE if light else snapshot_of(s, params.hash(), symbols, self.days[-1]),
            first_bar=first_bar,
            rows_f=record.rows_f[:rows],
            rows_i=record.rows_i[:rows],
            action=record.action,
            reason=record.reason,
            asset=record.asset,
            equity=record.equity,
            level=level,
            carry=Carry(tuple(getattr(s, name) for name in CARRIED), totals, counts),
        )

    def _marked_before(self, params: ParameterSet, s: st.State) -> float:
        """Marked equity before bar 0, USDT: where the drawdown's peak begins."""
        held = int(s.ints[st.POSITION])
        if held == st.NONE:
            return float(s.floats[st.CAPITAL])
        price = float(s.prices[int(s.n_prices[held]) - 1, held])
        return float(kernels.marked(s.floats, params.direction, price))

    def _day_results(self, record: Recorder) -> tuple[DayResult, ...]:
        """As `Engine.end_day` gives them; the last day's may still go on."""
        return tuple(
            DayResult(
                date=day,
                pnl=capital - start,
                capital=capital,
                boost=boost,
                beta=beta,
                mc_status=MC_STATUSES[status],
                trades=trades,
            )
            for day, (_, capital, start, boost, beta), (trades, status, _) in zip(
                self.days, record.days_f.tolist(), record.days_i.tolist(), strict=True
            )
        )


_NO_STATE: Final = Snapshot(set_hash="", symbols=(), day="", arrays={})
