"""Made-up days, as a record and as a scan cache, and the slow twin of a trial: the engine, bar by bar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dolphin.alpha.volatility import VolatilityGate
from dolphin.domain.clock import NS_PER_DAY, day_from_ns, day_start_ns
from dolphin.domain.params import ParameterSet
from dolphin.domain.scan import COLUMNS, SCHEMA_VERSION, Scan
from dolphin.engine.engine import Engine
from dolphin.engine.market import PeriodInputs
from dolphin.host.draws import draws
from dolphin.market.scan_cache import CacheWriter
from dolphin.research.forewarner.markets import Record, RecordedDay, running_median
from dolphin.research.forewarner.trials import Outcomes

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")
#: A gate that is nearly always open on these markets.
VOL_THRESHOLD = 1e-6


def make_record(
    seed: int = 5, n_days: int = 12, n_bars: int = 120, volatility: float = 0.012, name: str = "made up"
) -> Record:
    """Random walks with signals on about every fifth bar; prices go on from day to day."""
    rng = np.random.default_rng(seed)
    n = len(SYMBOLS)
    steps = rng.normal(0.0, volatility, (n_days * n_bars, n)) + rng.normal(0.0, 0.001, n)
    prices = 100.0 * np.exp(np.cumsum(steps, axis=0))
    start = day_start_ns("2024-03-01")
    days = []
    before = np.full(n, np.nan)
    for k in range(n_days):
        own = prices[k * n_bars : (k + 1) * n_bars]
        v750 = rng.normal(0.0, 0.01, n_bars)
        days.append(
            RecordedDay(
                date=day_from_ns(start + k * NS_PER_DAY),
                since_midnight_ns=(np.arange(n_bars, dtype=np.int64) + 1) * (NS_PER_DAY // (n_bars + 1)),
                prices=own.copy(),
                stale=rng.random((n_bars, n)) < 0.02,
                before=before,
                vel_div=rng.normal(0.0, 0.024, n_bars),
                v50=rng.normal(0.0, 0.02, n_bars),
                v750=v750,
                instability_50=rng.normal(0.0, 1.0, n_bars),
                w750_so_far=running_median(v750),
            )
        )
        before = own[-1].copy()
    return Record(symbols=SYMBOLS, days=tuple(days), data_hash=f"made up {seed}", source=name)


def write_cache(root: Path, n_days: int = 12, bars_a_day: int = 96) -> None:
    """A scan cache of whole days and three bars of another; a signal on about every fifth bar."""
    rng = np.random.default_rng(5)
    bar_ns = NS_PER_DAY // bars_a_day
    steps = rng.normal(0.0, 0.02, (n_days * bars_a_day + 3, len(SYMBOLS)))
    writer = CacheWriter(root, SYMBOLS, bar_ns, "made up", "made up")
    for k, row in enumerate((100.0 * np.exp(np.cumsum(steps, axis=0))).tolist()):
        velocities = rng.normal(0.0, 0.02, 4).tolist()
        values = dict.fromkeys(COLUMNS, 0.0) | {
            "scan_number": k + 1,
            "timestamp_ns": day_start_ns("2024-03-01") + k * bar_ns,
            **{f"w{w}_velocity": v for w, v in zip((50, 150, 300, 750), velocities, strict=True)},
            "vel_div": float(rng.normal(0.0, 0.024)),
            "assets": SYMBOLS,
            "asset_prices": tuple(row),
            "asset_loadings": None,
            "schema_version": SCHEMA_VERSION,
            "missing_asset_count": 0,
        }
        writer.add(Scan(**values))  # type: ignore[arg-type]
    writer.finish()


class StepTrials:
    """A trial as the engine makes it, one bar at a time, with nothing shared between configurations."""

    def __init__(self, vol_threshold: float) -> None:
        self.vol_threshold = vol_threshold

    def __call__(self, market: PeriodInputs, sets: Sequence[ParameterSet]) -> Outcomes:
        found = [self._one(market, params) for params in sets]
        return Outcomes(
            np.array([roi for roi, _, _ in found]),
            np.array([drawdown for _, drawdown, _ in found]),
            np.array([trades for _, _, trades in found], dtype=np.int64),
        )

    def _one(self, market: PeriodInputs, params: ParameterSet) -> tuple[float, float, int]:
        engine = Engine(params, market.symbols, draws(params.seed, len(market.vel_div)))
        gate = VolatilityGate(self.vol_threshold)
        btc = market.symbols.index("BTCUSDT")
        peak, worst, trades = params.initial_capital, 0.0, 0
        for i in range(len(market.vel_div)):
            day = day_from_ns(int(market.timestamp_ns[i]))
            boost, beta = float(market.boost[i]), float(market.beta[i])
            if day != engine.day:
                if engine.day:
                    trades += engine.end_day().trades
                engine.begin_day(day, 0, params.direction, boost=boost, beta=beta)
            if (boost, beta) != engine.breaker:
                engine.update_acb_boost(boost, beta)
            vol_ok = gate.update(float(market.prices[i, btc]))
            engine.step_bar(
                i,
                float(market.vel_div[i]),
                market.prices[i],
                vol_ok,
                float(market.v50_velocity[i]),
                float(market.v750_velocity[i]),
                stale=market.stale[i],
            )
            equity = engine.mark()
            peak = max(peak, equity)
            worst = max(worst, (peak - equity) / peak)
        trades += engine.end_day().trades
        return engine.mark() / params.initial_capital - 1.0, worst, trades
