"""One trading session: the alpha with what every host must do around it, the same way.

Scan in, one `Step` out: duplicate and late scans dropped, the UTC day turned exactly once, the volatility
gate fed, the engine stepped, closed trades named. No I/O and no clock: live trader and backtest differ only
in what they do with a step. `state()` and `restore()` carry everything; `replay` makes a bar again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np

from dolphin.alpha.volatility import VOL_THRESHOLD, VolatilityGate
from dolphin.domain.clock import NS_PER_S, day_from_ns
from dolphin.domain.codes import (
    ACTION_ENTER,
    ACTION_EXIT,
    BOOKS_ABSENT,
    BOOKS_DEGRADED,
    LEDGER_HALT,
    OPERATOR_HALT,
    REASON_NONE,
    STALE_SCAN,
)
from dolphin.domain.decision import Decision
from dolphin.domain.errors import ConfigError, DataError, InvariantError
from dolphin.domain.params import ParameterSet
from dolphin.domain.scan import ScanRow
from dolphin.domain.symbols import BTC
from dolphin.engine.engine import DayResult, Engine, Snapshot
from dolphin.engine.state import Books, EngineOptions
from dolphin.host.books import alpha_books
from dolphin.host.closing import OpenTrade as OpenTrade
from dolphin.host.closing import closed_trade, opened_trade
from dolphin.host.draws import draws
from dolphin.host.inputs import NEUTRAL, HostInputs
from dolphin.journal.ledger import ClosedTrade
from dolphin.orderbook.engine import BookEngine, BookState
from dolphin.orderbook.fold import Arrivals, admit, new_arrivals
from dolphin.risk.breaker_day import stress_share
from dolphin.risk.esoteric import esof_mult

#: Reasons that the host gives, and the engine only repeats.
HOST_REFUSALS: Final = (STALE_SCAN, LEDGER_HALT, OPERATOR_HALT)

#: A scan older than this makes no entry; exits are managed all the same.
SCAN_AGE_MAX_NS: Final = 10 * NS_PER_S


#: The deployment in which a LONG is a refused state, not a filter.
SHORT_ONLY: Final = "BLUE"


class SessionState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a session remembers."""

    engine: Snapshot
    gate_prices: tuple[float, ...]
    next_bar: int
    last_timestamp_ns: int
    trade_sequence: int
    open_trade: OpenTrade | None
    dropped: int
    halted: bool
    #: Of the books' features, None while no books were read.
    books: BookState | None = None
    #: What the host's senses remember; theirs to read.
    senses: bytes = b""


@dataclass(frozen=True, slots=True)
class Step:
    """What one scan came to. `day` is the result of the day that this scan ended."""

    decision: Decision
    equity: float
    closed: ClosedTrade | None
    day: DayResult | None
    vol_ok: bool


class Session:
    """The alpha and its surroundings over one universe.

    Parameters
    ----------
    params, symbols : the parameter set and the universe, in order
    deployment : prefix of trade ids, for example BLUE
    options : engine switches that are off in every named set
    vol_threshold : of the volatility gate, a standard deviation of simple returns per bar
    kernels : turns a kernel into the form to run (see `Engine`)
    """

    def __init__(
        self,
        params: ParameterSet,
        symbols: Sequence[str],
        *,
        deployment: str = "BLUE",
        options: EngineOptions | None = None,
        vol_threshold: float = VOL_THRESHOLD,
        kernels: Callable[[Any], Any] = lambda function: function,
    ) -> None:
        if deployment == SHORT_ONLY and params.direction > 0:
            raise ConfigError(
                f"deployment {SHORT_ONLY} trades SHORT only, this set is LONG; choose another name"
            )
        self.params = params
        self.symbols = tuple(symbols)
        self.deployment = deployment
        self.engine = Engine(params, self.symbols, draws(params.seed, 0), options, kernels)
        self.gate = VolatilityGate(vol_threshold)
        self.books: BookEngine | None = None
        self.dropped = 0
        self.halted = False
        self._btc = self.symbols.index(BTC) if BTC in self.symbols else None
        self._index = {symbol: i for i, symbol in enumerate(self.symbols)}
        self._fresh = np.zeros(len(self.symbols), np.bool_)
        self._next_bar = 0
        self._last_ns = -1
        self._sequence = 0
        self._open: OpenTrade | None = None

    @property
    def next_bar(self) -> int:
        """bar_idx of the next scan that is decided."""
        return self._next_bar

    @property
    def btc_missing(self) -> bool:
        """True when the universe has no BTC, so that the volatility gate stays open."""
        return self._btc is None

    @property
    def open_trade(self) -> OpenTrade | None:
        """The trade whose position is open."""
        return self._open

    @property
    def last_timestamp_ns(self) -> int:
        """Stamp of the last scan decided, -1 before the first."""
        return self._last_ns

    def halt(self) -> None:
        """No new entries from here on; an open position is still managed."""
        self.halted = True

    def on_scan(
        self,
        row: ScanRow,
        *,
        inputs: HostInputs = NEUTRAL,
        now_ns: int | None = None,
        refusal: int = REASON_NONE,
        inputs_after: Callable[[], HostInputs] | None = None,
    ) -> Step | None:
        """Decide one scan; None when it is a duplicate or comes late (counted in `dropped`).

        inputs are what the organs say on this bar; a breaker that changed within the day is applied before
        the bar. now_ns is the host's clock, for the scan's age; None in replays, where a scan is as old as it
        was. refusal is a reason code of the host's own that forbids an entry on this bar. inputs_after reads
        the organs again once the bar is decided: if their gate changed, the decision is marked `stale_state`.
        """
        if row.timestamp_ns <= self._last_ns:
            self.dropped += 1
            return None
        if len(row.prices) != len(self.symbols):
            raise DataError(
                f"scan {row.scan_number}: {len(row.prices)} prices, "
                f"the universe has {len(self.symbols)} assets"
            )
        ended = self._turn_day(row, inputs)
        vol_ok = self.gate.update(None if self._btc is None else float(row.prices[self._btc]))
        if now_ns is not None and now_ns - row.timestamp_ns > SCAN_AGE_MAX_NS:
            refusal = STALE_SCAN
        if self.halted:
            refusal = LEDGER_HALT
        engine = self.engine
        if inputs.posture != engine.posture:
            engine.set_posture(inputs.posture)
        if (inputs.boost, inputs.beta) != engine.breaker:
            engine.update_acb_boost(inputs.boost, inputs.beta)
        if engine.draw_position + 1 >= engine.n_draws:
            engine.extend_draws(draws(self.params.seed, engine.draw_position + 1))
        engine.pre_bar_proxy_update(row.instability_50, row.v750_velocity)
        books, label = self._read_books(row, inputs)
        decision = engine.step_bar(
            self._next_bar,
            row.vel_div,
            row.prices,
            vol_ok,
            row.v50_velocity,
            row.v750_velocity,
            timestamp_ns=row.timestamp_ns,
            scan_number=row.scan_number,
            stale=self._stale(row.stale),
            books=books,
            books_label=label,
            esof_mult=inputs.esof_mult,
            refusal=refusal,
        )
        if inputs.esof_label != decision.esof:
            decision = msgspec.structs.replace(decision, esof=inputs.esof_label)
        if inputs_after is not None and inputs_after().gate() != inputs.gate():
            decision = msgspec.structs.replace(decision, stale_state=True)
        self._next_bar += 1
        self._last_ns = row.timestamp_ns
        return Step(decision, engine.mark(), self._follow(decision), ended, vol_ok)

    def _read_books(self, row: ScanRow, inputs: HostInputs) -> tuple[Books | None, str]:
        """The books' features on this bar, and what the decision says of them."""
        if inputs.readings is None:
            return inputs.books, inputs.books_label
        if self.books is None:
            self.books = BookEngine(self.symbols)
        self.books.take(self._next_bar, row.timestamp_ns, inputs.readings)
        books = alpha_books(self.books)
        return books, inputs.books_label if books is not None else BOOKS_DEGRADED

    def stress(self) -> float | None:
        """Share of assets whose books were withdrawn, of those seen on the last bar; None without books."""
        if self.books is None or not self.books.present:
            return None
        return stress_share(self.books.withdrawals())

    def replay(self, row: ScanRow, journalled: Decision, readings: Arrivals | None = None) -> Step:
        """Decide a bar again as it was decided, with what only the host knew then taken from its record.

        readings are what was read of the books. Raises InvariantError when the decision is not the journalled
        one, or was made with order books and there are no readings.
        """
        if journalled.books != BOOKS_ABSENT and readings is None:
            raise InvariantError(
                f"bar {journalled.bar_idx} was decided with order books ({journalled.books}), "
                "which the journal does not hold; start a new run"
            )
        step = self.on_scan(
            row,
            inputs=HostInputs(
                posture=journalled.posture,
                boost=journalled.boost,
                beta=journalled.beta,
                mc_status=journalled.mc_status,
                esof_mult=journalled.esof_mult,
                esof_label=journalled.esof,
                readings=readings,
                books_label=journalled.books,
            ),
            refusal=journalled.reason if journalled.reason in HOST_REFUSALS else REASON_NONE,
        )
        if (
            step is None
            or step.decision.canonical() != journalled.canonical()
            or step.decision.capital != journalled.capital
        ):
            raise InvariantError(
                f"the replay of bar {journalled.bar_idx} (scan {row.scan_number}) differs from the journal; "
                "scans or code have changed since"
            )
        return step

    def _turn_day(self, row: ScanRow, inputs: HostInputs) -> DayResult | None:
        day = day_from_ns(row.timestamp_ns)
        if day == self.engine.day:
            return None
        ended = self.engine.end_day() if self.engine.day else None
        self.engine.begin_day(
            day,
            inputs.posture,
            self.params.direction,
            boost=inputs.boost,
            beta=inputs.beta,
            mc_status=inputs.mc_status,
        )
        return ended

    def _stale(self, names: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        if not names:
            return self._fresh
        stale = self._fresh.copy()
        for name in names:
            if name in self._index:
                stale[self._index[name]] = True
        return stale

    def _follow(self, decision: Decision) -> ClosedTrade | None:
        if decision.action == ACTION_ENTER:
            self._sequence += 1
            self._open = opened_trade(decision, self.deployment, self._sequence)
            return None
        if decision.action != ACTION_EXIT:
            return None
        opened = self._open
        if opened is None:
            raise InvariantError(f"bar {decision.bar_idx}: an exit of {decision.asset} without an open trade")
        self._open = None
        return closed_trade(opened, decision, self.params.direction)

    def state(self) -> SessionState:
        """Everything the session remembers."""
        return SessionState(
            engine=self.engine.state(),
            gate_prices=self.gate.prices,
            next_bar=self._next_bar,
            last_timestamp_ns=self._last_ns,
            trade_sequence=self._sequence,
            open_trade=self._open,
            dropped=self.dropped,
            halted=self.halted,
            books=None if self.books is None else self.books.state(bars=1),
        )

    def restore(self, state: SessionState) -> None:
        """Take over a saved state. Raises InvariantError when it belongs to another set or universe."""
        self.engine.restore(state.engine)
        position = self.engine.draw_position
        if position + 1 >= self.engine.n_draws:
            self.engine.extend_draws(draws(self.params.seed, position + 1))
        self.gate.restore(state.gate_prices)
        self._next_bar = state.next_bar
        self._last_ns = state.last_timestamp_ns
        self._sequence = state.trade_sequence
        self._open = state.open_trade
        self.dropped = state.dropped
        self.halted = state.halted
        self.books = None
        if state.books is not None:
            self.books = BookEngine(self.symbols)
            self.books.restore(state.books)


def warm(params: ParameterSet, symbols: Sequence[str], *, books: bool = False) -> None:
    """Compile the kernels on a session of their own, so that no first decision waits for a compiler.

    With books those that judge and fold them too.
    """
    session = Session(params, symbols, deployment="WARM")
    inputs = NEUTRAL
    if books:
        readings = new_arrivals(len(symbols))
        admit(readings)
        inputs = HostInputs(readings=readings)
    session.on_scan(ScanRow(0, 0, 0.0, 0.0, 0.0, float("nan"), np.ones(len(symbols))), inputs=inputs)
    session.stress()
    # The organs ask for it between a bar and its decision.
    esof_mult(0.0, 0.0)
