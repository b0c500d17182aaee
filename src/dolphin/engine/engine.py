"""The engine: one alpha, stepped by any host. Pure: no clock, no I/O, no chance of its own.

`step_bar` is the only way a decision is made. `state()` holds everything; `restore` and going on equals never
having stopped, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from dolphin.domain.bar import BoolArray, FloatArray
from dolphin.domain.codes import (
    ACTION_NONE,
    BOOKS_ABSENT,
    MC_ABSENT,
    MC_STATUSES,
    POSTURES,
    REASON_NONE,
)
from dolphin.domain.decision import Decision
from dolphin.domain.errors import InvariantError
from dolphin.domain.params import ParameterSet
from dolphin.engine import state as st
from dolphin.engine import step as kernels
from dolphin.engine.record import OUT_FLOAT_NAMES, OUT_INT_NAMES

_OBSERVED = slice(st.LANE_BASE, st.CAP + 1)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's whole state as bytes, with what it belongs to."""

    set_hash: str
    symbols: tuple[str, ...]
    day: str
    arrays: dict[str, bytes]


def snapshot_of(state: st.State, set_hash: str, symbols: tuple[str, ...], day: str) -> Snapshot:
    """A state as bytes; equal states give equal bytes, whatever older and longer histories left behind."""
    for asset, n in enumerate(state.n_prices):
        state.prices[n:, asset] = 0.0
    arrays = {name: getattr(state, name).tobytes() for name in st.SAVED}
    return Snapshot(set_hash=set_hash, symbols=symbols, day=day, arrays=arrays)


def state_of(snapshot: Snapshot) -> st.State:
    """A snapshot's state. Raises InvariantError when an array is not what this engine remembers."""
    state = st.new_state(len(snapshot.symbols), 0.0)
    for name in st.SAVED:
        array = getattr(state, name)
        found = len(snapshot.arrays.get(name, b""))
        if found != array.nbytes:
            raise InvariantError(f"restore: {name} has {found} bytes, expected {array.nbytes}")
        array[...] = np.frombuffer(snapshot.arrays[name], dtype=array.dtype).reshape(array.shape)
    return state


@dataclass(frozen=True, slots=True)
class DayResult:
    """What one day came to; pnl and capital in USDT, from closed trades."""

    date: str
    pnl: float
    capital: float
    boost: float
    beta: float
    mc_status: str
    trades: int


@dataclass(frozen=True, slots=True)
class DayBar:
    """One bar of `process_day`: the arguments of `step_bar`."""

    bar_idx: int
    vel_div: float
    prices: FloatArray
    vol_regime_ok: bool
    v50_velocity: float
    v750_velocity: float
    timestamp_ns: int = 0


_FLOATS = len(OUT_FLOAT_NAMES)
_INTS = len(OUT_INT_NAMES)


def decision_of(
    symbols: Sequence[str],
    bar_idx: int,
    timestamp_ns: int,
    scan_number: int,
    velocities: tuple[float, float, float],
    vol_ok: bool,
    esof_mult: float,
    books_label: str,
    row_f: Sequence[float],
    row_i: Sequence[int],
) -> Decision:
    """The decision that a bar's record names.

    velocities are vel_div, v50 and v750 (1/s); row_f and row_i are the step's record followed by the state's
    numbers after the bar, in the order of their names.
    """
    f, i = row_f[_FLOATS:], row_i[_INTS:]
    out_f: dict[str, Any] = dict(zip(OUT_FLOAT_NAMES, row_f[:_FLOATS], strict=True))
    out_i: dict[str, Any] = dict(zip(OUT_INT_NAMES, row_i[:_INTS], strict=True))
    asset = out_i.pop("asset")
    stale_price = out_i.pop("stale_price") == 1
    held: dict[str, Any] = {}
    if out_i["action"] != ACTION_NONE:
        names = st.FLOAT_NAMES[_OBSERVED]
        held = dict(zip(names, f[_OBSERVED], strict=True))
        held["bound"] = i[st.BOUND]
        held["bucket"] = i[st.BUCKET]
        held["leverage"] = f[st.LEVERAGE]
        held["notional"] = f[st.NOTIONAL]
        held["fraction"] = f[st.FRACTION]
        held["entry_price"] = f[st.ENTRY_PRICE]
    return Decision(
        bar_idx=bar_idx,
        timestamp_ns=timestamp_ns,
        scan_number=scan_number,
        asset="" if asset == st.NONE else symbols[asset],
        stale_price=stale_price,
        vel_div=velocities[0],
        v50_velocity=velocities[1],
        v750_velocity=velocities[2],
        vol_ok=vol_ok,
        posture=i[st.POSTURE],
        books=books_label,
        boost=f[st.BOOST],
        beta=f[st.BETA],
        mc_scale=f[st.MC_SCALE],
        mc_status=i[st.MC_STATUS],
        esof_mult=esof_mult,
        proxy_scale=f[st.PROXY_SCALE],
        capital=f[st.CAPITAL],
        **held,
        **out_f,
        **out_i,
    )


class Engine:
    """The alpha with its state, over a fixed universe.

    Parameters
    ----------
    params : ParameterSet
    symbols : the universe, in order
    draws : the stream RandomState(seed).random_sample() from its start; `extend_draws` before it runs out
    options : switches that are off in every named set
    host : turns a kernel into the form to run; `dolphin.kernel.plain` for the readable reference
    """

    def __init__(
        self,
        params: ParameterSet,
        symbols: Sequence[str],
        draws: FloatArray,
        options: st.EngineOptions | None = None,
        host: Callable[[Any], Any] = lambda function: function,
    ) -> None:
        self.params = params
        self.symbols = tuple(symbols)
        self.options = options or st.EngineOptions()
        self._p = st.step_params(params, self.symbols, self.options)
        self._s = st.new_state(len(self.symbols), params.initial_capital)
        self._excluded = st.excluded_assets(params, self.symbols)
        self._draws = draws
        self._no_books = st.absent_books(len(self.symbols))
        self._out_f = np.zeros(len(OUT_FLOAT_NAMES))
        self._out_i = np.zeros(len(OUT_INT_NAMES), np.int64)
        self._step = host(kernels.step)
        self._proxy_update = host(kernels.proxy_update)
        self._open_day = host(kernels.open_day)
        self._update_breaker = host(kernels.update_breaker)
        self._day = ""

    @property
    def capital(self) -> float:
        """Capital in USDT after the closed trades."""
        return float(self._s.floats[st.CAPITAL])

    @property
    def day(self) -> str:
        """The open UTC day, or an empty string before the first."""
        return self._day

    @property
    def posture(self) -> int:
        """Code of the posture in force."""
        return int(self._s.ints[st.POSTURE])

    @property
    def draw_position(self) -> int:
        """How many values of the random stream were consumed."""
        return int(self._s.ints[st.DRAW_POSITION])

    @property
    def n_draws(self) -> int:
        """How many values of the random stream are at hand, the consumed ones included."""
        return len(self._draws)

    @property
    def last_bar(self) -> int:
        """bar_idx of the last step, -1 before the first."""
        return int(self._s.ints[st.LAST_BAR])

    @property
    def position(self) -> tuple[str, int, float, float] | None:
        """(asset, entry bar, entry price in USDT, notional in USDT) of the open position."""
        asset = int(self._s.ints[st.POSITION])
        if asset == st.NONE:
            return None
        f = self._s.floats
        return (
            self.symbols[asset],
            int(self._s.ints[st.ENTRY_BAR]),
            float(f[st.ENTRY_PRICE]),
            float(f[st.NOTIONAL]),
        )

    @property
    def breaker(self) -> tuple[float, float]:
        """(boost, beta) of the circuit breaker in force."""
        return float(self._s.floats[st.BOOST]), float(self._s.floats[st.BETA])

    @property
    def mc_status(self) -> int:
        """Code of the forewarner's gate in force."""
        return int(self._s.ints[st.MC_STATUS])

    def mark(self) -> float:
        """Marked equity in USDT: capital plus the open position at its last price, before exit costs."""
        held = int(self._s.ints[st.POSITION])
        if held == st.NONE:
            return self.capital
        price = float(self._s.prices[self._s.n_prices[held] - 1, held])
        entry = float(self._s.floats[st.ENTRY_PRICE])
        return self.capital + self.params.direction * (price - entry) / entry * float(
            self._s.floats[st.NOTIONAL]
        )

    def extend_draws(self, draws: FloatArray) -> None:
        """Replace the random stream by a longer piece of the same stream."""
        if len(draws) < len(self._draws) or not np.array_equal(draws[: len(self._draws)], self._draws):
            raise InvariantError("extend_draws: the new stream does not begin with the old one")
        self._draws = draws

    def begin_day(
        self,
        date: str,
        posture: int,
        direction: int,
        *,
        boost: float = 1.0,
        beta: float = 0.0,
        mc_status: int = MC_ABSENT,
    ) -> None:
        """Open a UTC day with its breaker, forewarner gate and posture.

        Histories, position, buckets, streak and bar_idx go on. Raises InvariantError when the direction is
        not the set's, or the last day was not ended.
        """
        if direction != self.params.direction:
            raise InvariantError(
                f"begin_day {date}: direction {direction}, the set trades {self.params.direction}"
            )
        if self._day:
            raise InvariantError(f"begin_day {date}: day {self._day} is still open; end_day first")
        self._check_posture(posture)
        self._day = date
        self._open_day(self._s, posture, boost, beta, mc_status, st.MC_SCALES[mc_status])

    def end_day(self) -> DayResult:
        """Close the open day. Raises InvariantError when there is none."""
        if not self._day:
            raise InvariantError("end_day: no day is open; begin_day first")
        f, i = self._s.floats, self._s.ints
        result = DayResult(
            date=self._day,
            pnl=float(f[st.CAPITAL] - f[st.DAY_START_CAPITAL]),
            capital=self.capital,
            boost=float(f[st.BOOST]),
            beta=float(f[st.BETA]),
            mc_status=MC_STATUSES[int(i[st.MC_STATUS])],
            trades=int(i[st.DAY_TRADES]),
        )
        self._day = ""
        return result

    def set_posture(self, posture: int) -> None:
        """Set the posture between bars; a posture's halt ends with it. Raises InvariantError."""
        self._check_posture(posture)
        self._s.ints[st.POSTURE] = posture

    def _check_posture(self, posture: int) -> None:
        if not 0 <= posture < len(POSTURES):
            raise InvariantError(f"posture code {posture}, expected 0 to {len(POSTURES) - 1}")

    def update_acb_boost(self, boost: float, beta: float) -> None:
        """Apply a breaker update between bars; one that calms down closes the position on the next bar."""
        self._update_breaker(self._s, boost, beta)

    def pre_bar_proxy_update(self, instability_50: float, v750_velocity: float) -> None:
        """Feed the boost proxy before `step_bar`; changes nothing in mode `none`."""
        if self._p.proxy_mode:
            self._proxy_update(self._s, instability_50, v750_velocity)

    def step_bar(
        self,
        bar_idx: int,
        vel_div: float,
        prices: FloatArray,
        vol_regime_ok: bool,
        v50_vel: float,
        v750_vel: float,
        *,
        timestamp_ns: int = 0,
        scan_number: int = 0,
        stale: BoolArray | None = None,
        books: st.Books | None = None,
        books_label: str = BOOKS_ABSENT,
        esof_mult: float = 1.0,
        refusal: int = REASON_NONE,
    ) -> Decision:
        """Decide one bar.

        Parameters
        ----------
        bar_idx : rises by one or more a bar and is never reset
        vel_div, v50_vel, v750_vel : 1/s
        prices : float64 (n_assets,), USDT; NaN where an asset never had one
        stale : bool (n_assets,), assets without a fresh price on this bar; one with a NaN price always counts
        books : order books, or None when absent
        refusal : a reason code of the host's own that forbids an entry on this bar

        Raises InvariantError on a bar that does not come after the last one, a non-finite input, an array of
        another length than the universe, or an exhausted random stream.
        """
        s = self._s
        if bar_idx <= s.ints[st.LAST_BAR]:
            raise InvariantError(
                f"step_bar: bar {bar_idx} does not come after bar {int(s.ints[st.LAST_BAR])}"
            )
        if not self._day:
            raise InvariantError(f"step_bar: bar {bar_idx} outside a day; begin_day first")
        if not (np.isfinite(vel_div) and np.isfinite(v50_vel) and np.isfinite(v750_vel)):
            raise InvariantError(f"step_bar: bar {bar_idx} has a velocity that is not finite")
        if s.ints[st.DRAW_POSITION] >= len(self._draws):
            raise InvariantError(f"step_bar: the random stream of {len(self._draws)} values is exhausted")
        self._check_shapes(bar_idx, prices, stale, books)
        absent = ~(prices > 0.0)
        bar = st.BarInput(
            float(vel_div),
            float(v50_vel),
            float(v750_vel),
            bool(vol_regime_ok),
            refusal,
            float(esof_mult),
            prices,
            absent if stale is None else absent | stale,
        )
        self._step(
            self._p,
            s,
            self._excluded,
            bar_idx,
            bar,
            books or self._no_books,
            self._draws,
            self._out_f,
            self._out_i,
        )
        return self._decision(bar_idx, timestamp_ns, scan_number, bar, books_label)

    def _check_shapes(
        self, bar_idx: int, prices: FloatArray, stale: BoolArray | None, books: st.Books | None
    ) -> None:
        """The kernels index by asset without bounds checks: every array has the universe's length."""
        shape = (len(self.symbols),)
        arrays: dict[str, FloatArray | BoolArray] = {"prices": prices}
        if stale is not None:
            arrays["stale"] = stale
        if books is not None:
            arrays |= {name: getattr(books, name) for name in st.BOOK_ARRAYS}
        for name, array in arrays.items():
            if array.shape != shape:
                raise InvariantError(
                    f"step_bar: bar {bar_idx}: {name} has shape {array.shape}, expected {shape}"
                )

    def process_day(
        self,
        date: str,
        posture: int,
        bars: Iterable[DayBar],
        *,
        boost: float = 1.0,
        beta: float = 0.0,
        mc_status: int = MC_ABSENT,
    ) -> tuple[list[Decision], DayResult]:
        """begin_day, step_bar for each bar, end_day; not for a live day, which is open while it happens."""
        self.begin_day(date, posture, self.params.direction, boost=boost, beta=beta, mc_status=mc_status)
        decisions = [
            self.step_bar(
                bar.bar_idx,
                bar.vel_div,
                bar.prices,
                bar.vol_regime_ok,
                bar.v50_velocity,
                bar.v750_velocity,
                timestamp_ns=bar.timestamp_ns,
            )
            for bar in bars
        ]
        return decisions, self.end_day()

    def _decision(
        self, bar_idx: int, timestamp_ns: int, scan_number: int, bar: st.BarInput, books_label: str
    ) -> Decision:
        return decision_of(
            self.symbols,
            bar_idx,
            timestamp_ns,
            scan_number,
            (bar.vel_div, bar.v50_velocity, bar.v750_velocity),
            bar.vol_ok,
            bar.esof_mult,
            books_label,
            (*self._out_f.tolist(), *self._s.floats.tolist()),
            (*self._out_i.tolist(), *self._s.ints.tolist()),
        )

    def state(self) -> Snapshot:
        """Everything the engine remembers, as bytes; equal states give equal bytes."""
        return snapshot_of(self._s, self.params.hash(), self.symbols, self._day)

    def restore(self, snapshot: Snapshot) -> None:
        """Take over a saved state. Raises InvariantError when it belongs to another set or universe."""
        if snapshot.set_hash != self.params.hash():
            raise InvariantError(
                f"restore: state of set {snapshot.set_hash}, this engine runs {self.params.hash()}"
            )
        if snapshot.symbols != self.symbols:
            raise InvariantError("restore: state of another universe; the symbols or their order differ")
        self._s = state_of(snapshot)  # a refused state changes nothing
        self._day = snapshot.day
