"""Seeded markets for the engine's tests: prices, velocities, books and what happens between bars.

A market is a list of `Moment`s, made from one integer seed and nothing else, so a failure is one seed to
rerun. Velocities often stand exactly on a threshold, prices often repeat or are missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from alpha_twin import Twin

from dolphin.domain import codes
from dolphin.domain.decision import Decision
from dolphin.domain.params import ParameterSet
from dolphin.engine.engine import DayResult, Engine
from dolphin.engine.state import Books, EngineOptions
from dolphin.kernel import plain

SYMBOLS = ("BTCUSDT", "ETHUSDT", "USDCUSDT", "ADAUSDT", "XRPUSDT", "DOGEUSDT", "FDUSDUSDT")
LEVELS = (48_000.0, 1_800.0, 1.0, 1.2, 0.55, 0.31, 1.0)


@dataclass(frozen=True)
class Moment:
    """One bar and the events right before it."""

    bar_idx: int
    vel_div: float
    v50: float
    v750: float
    prices: np.ndarray
    stale: np.ndarray | None = None
    vol_ok: bool = True
    books: dict[str, Any] | None = None
    esof: float = 1.0
    refusal: int = codes.REASON_NONE
    instability: float = 0.0
    events: tuple[tuple[Any, ...], ...] = ()


@dataclass(frozen=True)
class Spec:
    """What kind of market; every chance is per bar."""

    n_bars: int = 300
    n_assets: int = 6
    direction: int = -1
    books: str = "never"  # never, always, sometimes
    events: bool = False
    dirty: bool = False  # NaN prices, stale flags, skipped bar numbers
    volatility: float = 0.003
    jumps: float = 0.0
    drift: float = 0.0006
    quantised: bool = False


def _host_refuses(bar: int) -> int:
    """One of the host's own words against an entry; no draw, so that markets stay what they were."""
    return codes.OPERATOR_HALT if bar % 4 == 1 else codes.LEDGER_HALT


def _books(rng: np.random.Generator, n: int) -> dict[str, Any]:
    quality = rng.choice([0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.8, 1.0, 1.2, 1.5, 2.0], size=n)
    return {
        "median_imbalance": float(rng.choice([-0.3, -0.08, -0.05, 0.0, 0.08, 0.1, 0.4])),
        "agreement": float(rng.choice([0.5, 0.7, 0.75, 1.0])),
        "cascade_count": int(rng.choice([0, 0, 0, 0, 2])),
        "regime_signal": int(rng.choice([-1, 0, 1])),
        "imbalance_ma5": rng.choice([-0.4, -0.15, -0.12, -0.1, 0.0, 0.1, 0.12, 0.15, 0.4], size=n),
        "persistence": rng.choice([0.1, 0.6, 0.7, 1.0], size=n),
        "depth_quality": quality,
        "fill_probability": quality / (1.0 + quality),
        "withdrawal_velocity": rng.choice([-0.5, -0.2, -0.1, 0.1], size=n),
    }


def _events(rng: np.random.Generator, bar: int) -> tuple[tuple[Any, ...], ...]:
    found: list[tuple[Any, ...]] = []
    if rng.random() < 0.02:
        status = int(rng.choice([codes.MC_OK, codes.MC_ORANGE, codes.MC_RED, codes.MC_ABSENT]))
        boost = float(rng.choice([1.0, 1.35, 1.55]))
        found.append(
            ("day", f"day{bar}", int(rng.integers(0, 4)), boost, float(rng.choice([0.0, 0.2, 0.8])), status)
        )
    if rng.random() < 0.04:
        found.append(("posture", int(rng.choice([0, 0, 0, 1, 1, 2, 3]))))
    if rng.random() < 0.05:
        found.append(
            ("acb", float(rng.choice([1.0, 1.09, 1.1, 1.25, 1.35])), float(rng.choice([0.0, 0.2, 0.8])))
        )
    return tuple(found)


def make_market(seed: int, spec: Spec) -> list[Moment]:
    """The market of a seed; the first moment always opens a day."""
    rng = np.random.default_rng(seed)
    n = spec.n_assets
    prices = np.array(LEVELS[:n])
    drift = rng.normal(0.0, spec.drift, size=n)
    vel_div, bar, market = 0.0, 0, []
    for k in range(spec.n_bars):
        if rng.random() < 0.03:
            drift = rng.normal(0.0, spec.drift, size=n)
        step = rng.normal(drift, spec.volatility)
        if rng.random() < spec.jumps:
            step[int(rng.integers(n))] += float(rng.choice([-0.4, -0.15, 0.15, 0.4]))
        prices = prices * np.exp(step)
        shown = prices.copy()
        if spec.quantised:
            shown = np.array([float(f"{x:.3g}") for x in prices])
        stale = None
        if spec.dirty:
            shown[rng.random(n) < 0.05] = math.nan
            stale = rng.random(n) < 0.05
            bar += int(rng.choice([0, 0, 0, 0, 3]))
        vel_div = 0.6 * vel_div + float(rng.normal(0.0, 0.025))
        seen = vel_div
        if rng.random() < 0.2:
            seen = spec.direction * float(
                rng.choice([0.01, 0.02, 0.025, 0.035, 0.04, 0.05, 0.06, 0.075, 0.1])
            )
        v750 = float(rng.normal(0.0, 0.01)) if rng.random() < 0.9 else seen
        with_books = spec.books == "always" or (spec.books == "sometimes" and rng.random() < 0.7)
        events: tuple[tuple[Any, ...], ...] = (("day", "day0", codes.APEX, 1.0, 0.0, codes.MC_ABSENT),)
        if k:
            events = _events(rng, bar) if spec.events else ()
        market.append(
            Moment(
                bar_idx=bar,
                vel_div=seen,
                v50=v750 + seen,
                v750=v750,
                prices=shown,
                stale=stale,
                vol_ok=not (spec.dirty and rng.random() < 0.05),
                books=_books(rng, n) if with_books else None,
                esof=float(rng.choice([0.0, 0.3, 0.65, 0.8, 1.0])) if spec.events else 1.0,
                refusal=_host_refuses(bar) if spec.events and rng.random() < 0.02 else codes.REASON_NONE,
                instability=math.nan if rng.random() < 0.05 else round(float(rng.normal()), 1),
                events=events,
            )
        )
        bar += 1
    return market


def draws_of(seed: int, n: int = 4000) -> np.ndarray:
    """The start of the legacy stream."""
    return np.random.RandomState(seed).random_sample(n)


def make_engine(
    params: ParameterSet, n_assets: int, *, options: EngineOptions | None = None, reference: bool = False
) -> Engine:
    """An engine over the first symbols, compiled or in plain Python."""
    host = plain if reference else (lambda function: function)
    return Engine(params, SYMBOLS[:n_assets], draws_of(params.seed), options, host)


def apply_events(engine: Engine, moment: Moment) -> list[DayResult]:
    """What happens between bars; the results of days that ended."""
    ended = []
    for event in moment.events:
        match event:
            case ("day", date, posture, boost, beta, status):
                if engine.day:
                    ended.append(engine.end_day())
                engine.begin_day(
                    date, posture, engine.params.direction, boost=boost, beta=beta, mc_status=status
                )
            case ("posture", posture):
                engine.set_posture(posture)
            case ("acb", boost, beta):
                engine.update_acb_boost(boost, beta)
    return ended


def step(engine: Engine, moment: Moment) -> Decision:
    """Events, proxy and bar of one moment."""
    apply_events(engine, moment)
    engine.pre_bar_proxy_update(moment.instability, moment.v750)
    return engine.step_bar(
        moment.bar_idx,
        moment.vel_div,
        moment.prices,
        moment.vol_ok,
        moment.v50,
        moment.v750,
        timestamp_ns=moment.bar_idx * 60_000_000_000,
        stale=moment.stale,
        books=None if moment.books is None else Books(present=True, **moment.books),
        books_label="absent" if moment.books is None else "mock",
        esof_mult=moment.esof,
        refusal=moment.refusal,
    )


def run(engine: Engine, market: list[Moment]) -> list[Decision]:
    """Every decision of a market."""
    return [step(engine, moment) for moment in market]


def run_twin(twin: Twin, market: list[Moment]) -> Iterator[dict[str, Any]]:
    """Every decision of a market by the slow twin; ended days appear under the key `ended`."""
    symbols = twin.symbols
    for moment in market:
        ended = []
        for event in moment.events:
            match event:
                case ("day", date, posture, boost, beta, status):
                    if twin.day:
                        ended.append(twin.end_day())
                    twin.begin_day(date, codes.POSTURES[posture], boost, beta, codes.MC_STATUSES[status])
                case ("posture", posture):
                    twin.set_posture(codes.POSTURES[posture])
                case ("acb", boost, beta):
                    twin.update_acb_boost(boost, beta)
        twin.pre_bar_proxy_update(moment.instability, moment.v750)
        books = None
        if moment.books is not None:
            books = {
                name: dict(zip(symbols, value.tolist(), strict=True))
                if isinstance(value, np.ndarray)
                else value
                for name, value in moment.books.items()
            }
        stale = (
            set() if moment.stale is None else {s for s, x in zip(symbols, moment.stale, strict=True) if x}
        )
        decision = twin.step_bar(
            moment.bar_idx,
            moment.vel_div,
            dict(zip(symbols, moment.prices.tolist(), strict=True)),
            moment.vol_ok,
            moment.v50,
            moment.v750,
            stale=stale,
            books=books,
            esof_mult=moment.esof,
            refusal=None if moment.refusal == codes.REASON_NONE else codes.REASONS[moment.refusal],
        )
        decision["ended"] = ended
        yield decision
