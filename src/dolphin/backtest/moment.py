"""One bar with the state just before it, to be decided again under other parameters or another market.

Entry points: `Moment`, `moment_of`, `Probe`. Every answer comes from the real step kernel on a copied state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dolphin.alpha.volatility import VolatilityGate
from dolphin.backtest.folder import Run
from dolphin.backtest.market import Walk
from dolphin.backtest.stepping import books_of, inputs_at, session_at, step_at
from dolphin.domain.bar import BoolArray, FloatArray
from dolphin.domain.codes import REASON_NONE
from dolphin.domain.decision import Decision
from dolphin.domain.errors import InvariantError
from dolphin.domain.params import ParameterSet
from dolphin.domain.symbols import BTC
from dolphin.engine import state as st
from dolphin.engine.engine import state_of
from dolphin.engine.record import O_ACTION, O_ASSET, O_REASON, OUT_FLOAT_NAMES, OUT_INT_NAMES
from dolphin.engine.step import append_prices, open_day, step, update_breaker, update_regime
from dolphin.host.draws import draws


@dataclass(frozen=True, slots=True)
class Moment:
    """A bar about to be decided: `walk` stands before it."""

    walk: Walk
    bar: int

    def decide(self) -> Decision:
        """The bar's decision, by the session of the hosts."""
        return step_at(session_at(self.walk), self.walk.market, self.bar).decision

    def before(self) -> st.State:
        """A copy of the state before the bar."""
        walk = self.walk
        if walk.state is None:
            return st.new_state(len(walk.market.symbols), walk.params.initial_capital)
        return state_of(walk.state)

    def opened(self) -> st.State:
        """The state with the day and the organs of the bar, which itself is not seen yet."""
        walk, s = self.walk, self.before()
        inputs = inputs_at(walk.market, self.bar)
        if walk.state is None or walk.state.day != walk.market.day_of(self.bar):
            scale = st.MC_SCALES[inputs.mc_status]
            open_day(s, inputs.posture, inputs.boost, inputs.beta, inputs.mc_status, scale)
        s.ints[st.POSTURE] = inputs.posture
        if (inputs.boost, inputs.beta) != (s.floats[st.BOOST], s.floats[st.BETA]):
            update_breaker(s, inputs.boost, inputs.beta)
        return s

    def on_bar(self) -> st.State:
        """The state as the entry's gates and the exits see it: the day, the organs and the histories are on
        the bar, nothing is decided yet.
        """
        walk, s = self.walk, self.opened()
        market = walk.market
        append_prices(s, np.array(market.prices[self.bar]))
        vel_div = float(market.vel_div[self.bar])
        update_regime(self.step_params(), s.floats, vel_div)
        s.vel_divs[s.ints[st.BAR_COUNT] % st.VEL_DIV_KEPT] = vel_div
        s.ints[st.BAR_COUNT] += 1
        s.ints[st.LAST_BAR] = self.bar
        return s

    def step_params(self) -> st.StepParams:
        """The parameters as kernels take them."""
        walk = self.walk
        return st.step_params(walk.params, walk.market.symbols, walk.options or st.EngineOptions())

    def stale(self) -> BoolArray:
        """Assets without a fresh price on the bar, (n_assets,)."""
        market = self.walk.market
        found: BoolArray = np.array(market.stale[self.bar]) | ~(np.array(market.prices[self.bar]) > 0.0)
        return found

    def refusal(self) -> int:
        """The host's own reason that forbids an entry on the bar."""
        market = self.walk.market
        return REASON_NONE if market.refusal is None else int(market.refusal[self.bar])


class Act(NamedTuple):
    """What a bar came to."""

    action: int
    reason: int
    asset: str


@dataclass(frozen=True, slots=True)
class Probe:
    """A bar that is decided thousands of times: the step kernel on a fresh copy of one state."""

    moment: Moment
    state: st.State
    inputs: st.BarInput
    draws: FloatArray
    held: int

    @classmethod
    def of(cls, moment: Moment) -> Probe:
        """The bar of a moment, with nothing changed."""
        market, bar, s = moment.walk.market, moment.bar, moment.opened()
        decided = moment.decide()
        inputs = st.BarInput(
            float(market.vel_div[bar]),
            float(market.v50[bar]),
            float(market.v750[bar]),
            decided.vol_ok,
            moment.refusal(),
            decided.esof_mult,
            np.array(market.prices[bar]),
            moment.stale(),
        )
        stream = draws(moment.walk.params.seed, int(s.ints[st.DRAW_POSITION]))
        return cls(moment, s, inputs, stream, int(s.ints[st.POSITION]))

    @property
    def held_price(self) -> float | None:
        """The price of the held asset on the bar, USDT; None where nothing is held."""
        return None if self.held == st.NONE else float(self.inputs.prices[self.held])

    def act(
        self,
        params: ParameterSet,
        *,
        vol_threshold: float | None = None,
        vel_div: float | None = None,
        price: float | None = None,
    ) -> Act:
        """What the bar comes to under parameters; with another threshold of the volatility gate, another
        vel_div (1/s, v50 moves with it), or another price of the held asset (USDT).
        """
        market, inputs = self.moment.walk.market, self.inputs
        if vol_threshold is not None:
            gate = VolatilityGate(vol_threshold)
            gate.restore(self.moment.walk.gate_prices)
            btc = market.symbols.index(BTC) if BTC in market.symbols else None
            inputs = inputs._replace(vol_ok=gate.update(None if btc is None else float(inputs.prices[btc])))
        if vel_div is not None:
            v50 = inputs.v50_velocity + vel_div - inputs.vel_div
            inputs = inputs._replace(vel_div=float(vel_div), v50_velocity=v50)
        if price is not None:
            prices = inputs.prices.copy()
            prices[self.held] = price
            inputs = inputs._replace(prices=prices)
        arrays: tuple[Any, ...] = tuple(array.copy() for array in self.state)
        s = st.State(*arrays)
        out_f = np.zeros(len(OUT_FLOAT_NAMES))
        out_i = np.zeros(len(OUT_INT_NAMES), np.int64)
        options = self.moment.walk.options or st.EngineOptions()
        step(
            st.step_params(params, market.symbols, options),
            s,
            st.excluded_assets(params, market.symbols),
            self.moment.bar,
            inputs,
            books_of(market, self.moment.bar) or st.absent_books(len(market.symbols)),
            self.draws,
            out_f,
            out_i,
        )
        asset = int(out_i[O_ASSET])
        name = "" if asset == st.NONE else market.symbols[asset]
        return Act(int(out_i[O_ACTION]), int(out_i[O_REASON]), name)


def moment_of(run: Run, bar: int) -> tuple[Moment, Decision]:
    """(moment, decision) of a run's bar, after the replayed decision was found to be the run's.

    Raises DataError for a bar outside, InvariantError where code or data are not the run's any more.
    """
    run.require_bar(bar)
    moment = Moment(run.walk().to(bar), bar)
    decision = moment.decide()
    written = next(run.journal.canonicals(bar))[2]
    if decision.canonical() != written:
        raise InvariantError(
            f"{run.folder}: bar {bar} is decided otherwise now than then; code or data have changed, see"
            " `dolphin reproduce`"
        )
    return moment, decision
