"""The whole period against `step_bar` on whole markets: the 86 recorded symbols, and synthetic markets with
order books, factors, postures and gates that change within the day.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_period_identity import compare, differences, part

from dolphin.alpha.volatility import VolatilityGate
from dolphin.backtest.period import PeriodRunner
from dolphin.domain import codes
from dolphin.domain.params import NAMED_SETS, load_set
from dolphin.domain.symbols import BTC
from dolphin.engine.market import BookBars, PeriodInputs
from dolphin.engine.state import EngineOptions
from dolphin.market.quick_market import QuickMarket, quick_market, scanned
from dolphin.market.synthetic_books import synthetic_books
from dolphin.market.synthetic_factors import synthetic_factors
from period_market import drive

PANEL = "klines/binance_spot_1m_close_wide_86sym_20210402_20210430.parquet"


def inputs_of(market: QuickMarket, **more: Any) -> PeriodInputs:
    n = len(market.timestamp_ns)
    neutral: dict[str, Any] = {
        "vol_ok": np.ones(n, np.bool_),
        "posture": np.zeros(n, np.int64),
        "boost": np.ones(n),
        "beta": np.zeros(n),
        "mc_status": np.full(n, codes.MC_ABSENT),
        "esof_mult": np.ones(n),
    }
    return PeriodInputs(
        symbols=market.symbols,
        timestamp_ns=market.timestamp_ns,
        prices=market.prices,
        vel_div=market.vel_div,
        v50_velocity=market.v50,
        v750_velocity=market.v750,
        instability_50=market.instability_50,
        **(neutral | more),
    )


def with_organs(seed: int, days: float) -> PeriodInputs:
    """A synthetic market with books and factors; its volatility gate is the real one."""
    market = quick_market(seed, days, 12.0)
    books = BookBars(*synthetic_books(seed, market.prices, market.onsets))
    factors, _ = synthetic_factors(
        seed, market.timestamp_ns, market.prices, market.v750, books.withdrawal_velocity
    )
    gate = PeriodRunner(inputs_of(market, vol_ok=None)).market.vol_ok
    return inputs_of(market, books=books, vol_ok=gate, **factors._asdict())


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_synthetic_markets_with_books_and_factors(seed: int) -> None:
    """A third of a day each, over midnight, the named sets in turn; a piece of each in plain Python too."""
    whole = with_organs(seed, 1.2)
    n = len(whole.timestamp_ns)
    name = sorted(NAMED_SETS)[seed % 3]
    params = load_set(name).with_values({"lookback": 50})
    options = EngineOptions(proxy_mode="proxy" if seed == 5 else "none")
    seen = compare(params, options, part(whole, n - 6500, n), f"seed {seed} {name}", reference=False)
    assert seen["SIGNAL"] > 3, seen
    compare(params, options, part(whole, n - 3600, n - 3000), f"seed {seed} {name}", reference=True)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(NAMED_SETS))
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_synthetic_markets_with_books_and_factors_in_plain_python(seed: int, name: str) -> None:
    inputs = with_organs(seed, 1.2)
    seen = compare(load_set(name), EngineOptions(), inputs, f"seed {seed} {name}", reference=True)
    assert seen["SIGNAL"] > 10, seen


def recorded(recordings: Path) -> PeriodInputs:
    """All 86 symbols of the panel, scanned in float64 (the eigenvalues' bits do not matter here)."""
    table = pq.read_table(recordings / PANEL)
    names = [name for name in table.column_names if name.endswith("USDT")]
    stamps = table.column("ts").cast("int64").to_numpy()
    prices = np.column_stack([table.column(name).to_numpy() for name in names]).astype(np.float64)
    market = scanned(tuple(names), stamps, prices)
    assert len(market.symbols) == 86
    gate = PeriodRunner(inputs_of(market, vol_ok=None)).market.vol_ok
    return inputs_of(market, vol_ok=gate)


@pytest.mark.recordings
@pytest.mark.parametrize("name", sorted(NAMED_SETS))
def test_the_recorded_panel(recordings: Path, name: str) -> None:
    """Every bar of a month, every field, compiled; a stretch of it in plain Python."""
    inputs = recorded(recordings)
    params = load_set(name)
    engine, decisions, _, _ = drive(params, inputs)
    runner = PeriodRunner(inputs)
    whole = runner.run(params, record="all")
    seen: Counter[str] = Counter()
    for ours, theirs in zip(whole.decisions(), decisions, strict=True):
        assert not differences(ours, theirs), f"bar {theirs.bar_idx}: {differences(ours, theirs)}"
        seen[codes.REASONS[theirs.reason]] += 1
    assert whole.state == engine.state()
    assert seen["SIGNAL"] > 100, seen
    compare(params, EngineOptions(), part(inputs, 5000, 5400), name, reference=True)


@pytest.mark.long
@pytest.mark.recordings
@pytest.mark.parametrize("name", sorted(NAMED_SETS))
def test_the_recorded_panel_in_plain_python(recordings: Path, name: str) -> None:
    compare(load_set(name), EngineOptions(), recorded(recordings), name, reference=True)


def test_the_gate_column_is_the_gate() -> None:
    """Left out, the volatility gate is decided from the BTC prices, bar by bar, over a cut too."""
    quiet = inputs_of(quick_market(7, 0.2, 0.0), vol_ok=None)
    btc = quiet.prices[:, quiet.symbols.index(BTC)].copy()
    btc[500:520] = np.nan
    prices = quiet.prices.copy()
    prices[:, quiet.symbols.index(BTC)] = btc
    quiet = replace(quiet, prices=prices)
    threshold = float(np.median(np.abs(np.diff(np.log(btc[np.isfinite(btc)])))))
    gate = VolatilityGate(threshold)
    expected = [gate.update(price) for price in btc.tolist()]
    whole = PeriodRunner(quiet, threshold)
    assert 0.05 < np.mean(expected[50:]) < 0.95
    assert whole.market.vol_ok.tolist() == expected
    assert whole.gate_prices == gate.prices
    first = PeriodRunner(part(quiet, 0, 1000), threshold)
    rest = PeriodRunner(part(quiet, 1000, whole.n_bars), threshold, gate_prices=first.gate_prices)
    assert np.concatenate([first.market.vol_ok, rest.market.vol_ok]).tolist() == whole.market.vol_ok.tolist()
    assert rest.gate_prices == whole.gate_prices
