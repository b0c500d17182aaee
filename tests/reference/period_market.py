"""Markets for the whole-period kernel's tests, and the slow way through them: `step_bar`, bar by bar."""

from __future__ import annotations

import numpy as np
from engine_market import SYMBOLS, Spec, draws_of, make_market

from dolphin.domain import codes
from dolphin.domain.clock import NS_PER_DAY, day_from_ns
from dolphin.domain.decision import Decision
from dolphin.domain.params import ParameterSet
from dolphin.engine.engine import DayResult, Engine
from dolphin.engine.market import BookBars, PeriodInputs
from dolphin.engine.state import Books, EngineOptions
from dolphin.kernel import plain

FIRST_NS = 20_000 * NS_PER_DAY
STEP_NS = 60 * 10**9


def inputs_of(seed: int, spec: Spec) -> PeriodInputs:
    """The engine tests' market of a seed as arrays; its day events become UTC midnights."""
    market = make_market(seed, spec)
    n, a = len(market), spec.n_assets
    stamp, posture, boost, beta, status = FIRST_NS, codes.APEX, 1.0, 0.0, codes.MC_ABSENT
    stamps = np.zeros(n, np.int64)
    postures, statuses, refusals = (np.zeros(n, np.int64) for _ in range(3))
    boosts, betas, esofs, instability = (np.zeros(n) for _ in range(4))
    for t, moment in enumerate(market):
        stamp += STEP_NS
        for event in moment.events:
            match event:
                case ("day", _, p, bo, be, st):
                    posture, boost, beta, status = p, bo, be, st
                    stamp = (stamp // NS_PER_DAY + 1) * NS_PER_DAY
                case ("posture", p):
                    posture = p
                case ("acb", bo, be):
                    boost, beta = bo, be
        stamps[t], postures[t], statuses[t], refusals[t] = stamp, posture, status, moment.refusal
        boosts[t], betas[t], esofs[t], instability[t] = boost, beta, moment.esof, moment.instability
    books = None
    if any(moment.books for moment in market):
        empty = make_market(seed, Spec(n_bars=1, n_assets=a, books="always"))[0].books
        found = [moment.books or empty for moment in market]
        columns = {name: np.array([book[name] for book in found]) for name in BookBars._fields[1:]}
        present = np.array([moment.books is not None for moment in market])
        books = BookBars(present=present, **columns)
    return PeriodInputs(
        symbols=SYMBOLS[:a],
        timestamp_ns=stamps,
        prices=np.array([moment.prices for moment in market]),
        vel_div=np.array([moment.vel_div for moment in market]),
        v50_velocity=np.array([moment.v50 for moment in market]),
        v750_velocity=np.array([moment.v750 for moment in market]),
        instability_50=instability,
        stale=np.array([np.zeros(a, bool) if moment.stale is None else moment.stale for moment in market]),
        vol_ok=np.array([moment.vol_ok for moment in market]),
        posture=postures,
        boost=boosts,
        beta=betas,
        mc_status=statuses,
        esof_mult=esofs,
        refusal=refusals,
        books=books,
    )


def books_at(inputs: PeriodInputs, t: int) -> Books | None:
    """The books of bar t as `step_bar` takes them."""
    b = inputs.books
    if b is None or not b.present[t]:
        return None
    return Books(
        True,
        float(b.median_imbalance[t]),
        float(b.agreement[t]),
        int(b.cascade_count[t]),
        int(b.regime_signal[t]),
        *(array[t] for array in b[5:]),
    )


def drive(
    params: ParameterSet,
    inputs: PeriodInputs,
    options: EngineOptions | None = None,
    *,
    reference: bool = False,
    first: int = 0,
    last: int | None = None,
    engine: Engine | None = None,
) -> tuple[Engine, list[Decision], list[DayResult], list[float]]:
    """A host's loop over bars first to last: the engine, its decisions, ended days and marked equity."""
    if engine is None:
        host = plain if reference else (lambda function: function)
        n_draws = len(inputs.timestamp_ns) + 8
        engine = Engine(params, inputs.symbols, draws_of(params.seed, n_draws), options, host)
    gates = (inputs.vol_ok, inputs.posture, inputs.boost, inputs.beta, inputs.mc_status, inputs.esof_mult)
    assert all(gate is not None for gate in gates)
    decisions, days, equity = [], [], []
    for t in range(first, len(inputs.timestamp_ns) if last is None else last):
        posture, boost, beta = int(inputs.posture[t]), float(inputs.boost[t]), float(inputs.beta[t])
        day = day_from_ns(int(inputs.timestamp_ns[t]))
        if day != engine.day:
            if engine.day:
                days.append(engine.end_day())
            status = int(inputs.mc_status[t])
            engine.begin_day(day, posture, params.direction, boost=boost, beta=beta, mc_status=status)
        if posture != engine.posture:
            engine.set_posture(posture)
        if (boost, beta) != engine.breaker:
            engine.update_acb_boost(boost, beta)
        engine.pre_bar_proxy_update(float(inputs.instability_50[t]), float(inputs.v750_velocity[t]))
        books = books_at(inputs, t)
        decisions.append(
            engine.step_bar(
                engine.last_bar + 1,
                float(inputs.vel_div[t]),
                inputs.prices[t],
                bool(inputs.vol_ok[t]),
                float(inputs.v50_velocity[t]),
                float(inputs.v750_velocity[t]),
                timestamp_ns=int(inputs.timestamp_ns[t]),
                stale=None if inputs.stale is None else inputs.stale[t],
                books=books,
                books_label="absent" if books is None else "period",
                esof_mult=float(inputs.esof_mult[t]),
                refusal=codes.REASON_NONE if inputs.refusal is None else int(inputs.refusal[t]),
            )
        )
        equity.append(engine.mark())
    return engine, decisions, days, equity
