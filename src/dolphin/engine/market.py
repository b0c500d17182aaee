"""A market over a period: as a host gives it, and as the whole-period kernel reads it.

`PeriodInputs` is what `step_bar` would be fed, bar by bar; `market_of` lays it out. Price histories are the
market's here, not the state's, so that every binding of parameters reads the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from dolphin.alpha.volatility import gate_bars
from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY, day_from_ns
from dolphin.domain.codes import (
    APEX,
    MC_ABSENT,
    MC_STATUSES,
    POSTURES,
    REASON_NONE,
)
from dolphin.domain.errors import DataError
from dolphin.domain.symbols import BTC
from dolphin.engine.state import (
    MC_SCALES,
    Books,
    State,
)
from dolphin.kernel import kernel


class BookBars(NamedTuple):
    """Order books of a period as the alpha sees them; see `Books`. Arrays (n_bars,) or (n_bars, n_assets)."""

    present: BoolArray
    median_imbalance: FloatArray
    agreement: FloatArray
    cascade_count: IntArray
    regime_signal: IntArray
    imbalance_ma5: FloatArray
    persistence: FloatArray
    depth_quality: FloatArray
    fill_probability: FloatArray
    withdrawal_velocity: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class PeriodInputs:
    """A market over n bars of a assets, as a host would feed it to `step_bar`; None is neutral.

    Velocities in 1/s, prices in USDT with NaN for none. A breaker (boost, beta) or posture that changes
    within a day is applied before the bar; a new UTC day begins with its bar's values.
    """

    symbols: tuple[str, ...]
    timestamp_ns: IntArray  # (n,)
    prices: FloatArray  # (n, a)
    vel_div: FloatArray  # (n,), as all that follow unless marked
    v50_velocity: FloatArray
    v750_velocity: FloatArray
    instability_50: FloatArray
    stale: BoolArray | None = None  # (n, a); a NaN price always counts as stale
    vol_ok: BoolArray | None = None  # None: decided from the BTC prices
    posture: IntArray | None = None
    boost: FloatArray | None = None
    beta: FloatArray | None = None
    mc_status: IntArray | None = None
    esof_mult: FloatArray | None = None
    refusal: IntArray | None = None
    books: BookBars | None = None

    def __post_init__(self) -> None:
        n, a = self.prices.shape
        if a != len(self.symbols) or n == 0:
            raise DataError(f"period: prices of shape {self.prices.shape} for {len(self.symbols)} symbols")
        for name in PER_BAR:
            array = getattr(self, name)
            if array is not None and array.shape != (n,):
                raise DataError(f"period: {name} has shape {array.shape}, expected ({n},)")
        if self.stale is not None and self.stale.shape != (n, a):
            raise DataError(f"period: stale has shape {self.stale.shape}, expected ({n}, {a})")
        if self.books is not None:
            for name, array in self.books._asdict().items():
                expected = (n,) if name in BookBars._fields[:5] else (n, a)
                if array.shape != expected:
                    raise DataError(f"period: books.{name} has shape {array.shape}, expected {expected}")
        if n > 1 and (np.diff(self.timestamp_ns) <= 0).any():
            raise DataError("period: its times do not grow; a bar belongs to one time")
        for name in ("vel_div", "v50_velocity", "v750_velocity"):
            if not np.isfinite(getattr(self, name)).all():
                raise DataError(f"period: {name} holds a value that is not finite")
        if self.posture is not None and not ((self.posture >= 0) & (self.posture < len(POSTURES))).all():
            raise DataError(f"period: a posture code outside 0 to {len(POSTURES) - 1}")
        if (
            self.mc_status is not None
            and not ((self.mc_status >= 0) & (self.mc_status < len(MC_STATUSES))).all()
        ):
            raise DataError(f"period: a forewarner code outside 0 to {len(MC_STATUSES) - 1}")


#: The arrays of PeriodInputs with one entry a bar.
PER_BAR: Final = (
    "timestamp_ns",
    "vel_div",
    "v50_velocity",
    "v750_velocity",
    "instability_50",
    "vol_ok",
    "posture",
    "boost",
    "beta",
    "mc_status",
    "esof_mult",
    "refusal",
)


class Changes(NamedTuple):
    """What happens between bars, in order: new days, breaker updates, postures. A last one at n ends them."""

    bar: IntArray
    new_day: BoolArray
    posture: IntArray
    boost: FloatArray
    beta: FloatArray
    mc_status: IntArray
    mc_scale: FloatArray


class Market(NamedTuple):
    """A period as the kernel reads it; every binding shares it, nothing writes to it.

    rows holds the `lead` rows of history before bar 0, then the bars. It is the prices themselves (`dense`)
    when every asset has a price on every bar after its first; else column i holds asset i's prices without
    their holes and ends[t, i] says how many rows are in use on bar t.
    """

    lead: int
    dense: bool
    rows: FloatArray  # (lead + n, a)
    first: IntArray  # (a,) first row in use
    ends: IntArray  # (n, a), or (1, a) when dense
    held: FloatArray  # (a, lead + n) the last price known at each row
    vel_div: FloatArray
    v50: FloatArray
    v750: FloatArray
    instability: FloatArray
    vol_ok: BoolArray
    refusal: IntArray
    esof_mult: FloatArray
    stale: BoolArray  # (n, a)
    has_books: bool
    books: BookBars
    changes: Changes


def changes_of(inputs: PeriodInputs, open_day: str = "") -> tuple[Changes, tuple[str, ...]]:
    """(changes, days): the bars before which something happens, and the UTC days from bar 0 on.

    open_day is the day that is open before bar 0: its bars go on with it.
    """
    n = len(inputs.timestamp_ns)
    posture = np.full(n, APEX, np.int64) if inputs.posture is None else inputs.posture
    boost = np.ones(n) if inputs.boost is None else inputs.boost
    beta = np.zeros(n) if inputs.beta is None else inputs.beta
    status = np.full(n, MC_ABSENT, np.int64) if inputs.mc_status is None else inputs.mc_status
    day = inputs.timestamp_ns // NS_PER_DAY
    turns = np.ones(n, np.bool_)
    turns[1:] = np.diff(day) != 0
    days = tuple(day_from_ns(int(stamp)) for stamp in inputs.timestamp_ns[turns])
    new_day = turns.copy()
    new_day[0] = days[0] != open_day
    happens = turns.copy()  # bar 0 always: what is in force then may differ from the state's
    happens[1:] |= (np.diff(posture) != 0) | (np.diff(boost) != 0.0) | (np.diff(beta) != 0.0)
    bars = np.flatnonzero(happens)
    scale = np.array([MC_SCALES[code] for code in range(len(MC_STATUSES))])
    at = np.append(bars, bars[-1])  # the closing entry's values are never read
    return (
        Changes(
            bar=np.append(bars, n).astype(np.int64),
            new_day=np.append(new_day[bars], False),
            posture=np.ascontiguousarray(posture[at], np.int64),
            boost=np.ascontiguousarray(boost[at], np.float64),
            beta=np.ascontiguousarray(beta[at], np.float64),
            mc_status=np.ascontiguousarray(status[at], np.int64),
            mc_scale=scale[status[at]],
        ),
        days,
    )


def market_of(
    inputs: PeriodInputs,
    vol_threshold: float,
    *,
    state: State | None = None,
    open_day: str = "",
    gate_prices: tuple[float, ...] = (),
) -> tuple[Market, tuple[str, ...], tuple[float, ...]]:
    """(market, days, gate prices at the end): the inputs laid out for the kernel.

    state gives the histories of the bars before; vol_threshold is the volatility gate's.
    """
    n, a = inputs.prices.shape
    lead = 0 if state is None else int(state.n_prices.max(initial=0))
    rows = np.empty((lead + n, a))
    rows[lead:] = inputs.prices
    if state is not None and lead:
        rows[:lead] = np.nan
        for asset, length in enumerate(state.n_prices.tolist()):
            rows[lead - length : lead, asset] = state.prices[:length, asset]
    known = rows > 0.0
    first = np.where(known.any(axis=0), known.argmax(axis=0), lead + n).astype(np.int64)
    dense = bool(known.sum() == (lead + n - first).sum())
    stale = ~known[lead:]
    if inputs.stale is not None:
        stale |= inputs.stale
    ends = np.zeros((1, a), np.int64)
    carried = rows
    if not dense:
        index = np.where(known, np.arange(lead + n)[:, None], 0)
        carried = np.take_along_axis(rows, np.maximum.accumulate(index, axis=0), axis=0)
        counts = np.cumsum(known, axis=0)
        ends = np.ascontiguousarray(counts[lead:])
        packed = np.full_like(rows, np.nan)
        for asset in range(a):
            packed[: counts[-1, asset], asset] = rows[known[:, asset], asset]
        rows, first = packed, np.zeros(a, np.int64)
    gate, kept = None, gate_prices
    if inputs.vol_ok is None:
        btc = inputs.symbols.index(BTC) if BTC in inputs.symbols else None
        column = None if btc is None else np.ascontiguousarray(inputs.prices[:, btc])
        gate, kept = gate_bars(column, n, vol_threshold, gate_prices)
    changes, days = changes_of(inputs, open_day)
    books = inputs.books
    market = Market(
        lead=lead,
        dense=dense,
        rows=rows,
        first=first,
        ends=ends,
        held=np.ascontiguousarray(carried.T),
        vel_div=_column(inputs.vel_div),
        v50=_column(inputs.v50_velocity),
        v750=_column(inputs.v750_velocity),
        instability=_column(inputs.instability_50),
        vol_ok=np.ascontiguousarray(inputs.vol_ok if gate is None else gate, np.bool_),
        refusal=np.full(n, REASON_NONE, np.int64)
        if inputs.refusal is None
        else np.ascontiguousarray(inputs.refusal, np.int64),
        esof_mult=np.ones(n) if inputs.esof_mult is None else _column(inputs.esof_mult),
        stale=stale,
        has_books=books is not None,
        books=absent_book_bars(a) if books is None else contiguous_books(books),
        changes=changes,
    )
    return market, days, kept


def absent_book_bars(n_assets: int) -> BookBars:
    """Books of one bar without any."""
    one, none, whole = np.zeros(1), np.zeros((1, n_assets)), np.zeros(1, np.int64)
    return BookBars(np.zeros(1, np.bool_), one, one, whole, whole, none, none, none, none, none)


def contiguous_books(books: BookBars) -> BookBars:
    """The same books in the types and the layout that the kernels are compiled for."""
    return BookBars(
        np.ascontiguousarray(books.present, np.bool_),
        _column(books.median_imbalance),
        _column(books.agreement),
        np.ascontiguousarray(books.cascade_count, np.int64),
        np.ascontiguousarray(books.regime_signal, np.int64),
        _column(books.imbalance_ma5),
        _column(books.persistence),
        _column(books.depth_quality),
        _column(books.fill_probability),
        _column(books.withdrawal_velocity),
    )


def _column(values: FloatArray) -> FloatArray:
    return np.ascontiguousarray(values, np.float64)


@kernel
def books_at(m: Market, t: int) -> Books:
    """The order books of bar t; absent ones where none are wired."""
    k = t if m.has_books else 0
    b = m.books
    return Books(
        b.present[k],
        b.median_imbalance[k],
        b.agreement[k],
        b.cascade_count[k],
        b.regime_signal[k],
        b.imbalance_ma5[k],
        b.persistence[k],
        b.depth_quality[k],
        b.fill_probability[k],
        b.withdrawal_velocity[k],
    )


@kernel
def ends_at(m: Market, t: int, ends: IntArray) -> None:
    """Rows of each asset's history in use on bar t, into ends (n_assets,)."""
    if m.dense:
        end = m.lead + t + 1
        for asset in range(ends.shape[0]):
            ends[asset] = end if end > m.first[asset] else m.first[asset]
    else:
        for asset in range(ends.shape[0]):
            ends[asset] = m.ends[t, asset]
