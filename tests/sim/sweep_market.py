"""A small scan cache with signals on every day, for sweeps: ten days of five-minute bars, five symbols."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dolphin.domain.bar import FloatArray
from dolphin.domain.clock import NS_PER_S
from dolphin.domain.scan import WINDOWS, Scan
from dolphin.market.scan_cache import CacheReader, CacheWriter

T0 = 1_767_571_200_000_000_000  # 2026-01-05T00:00:00Z
INTERVAL = 300 * NS_PER_S
BARS_A_DAY = 288
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT")

PLAN = """
base: champion
vol_threshold: 0.0001
without_ob_edge: true
parameters:
  vel_div_threshold: [-0.03, -0.02]
  vel_div_extreme: {ratio_of: vel_div_threshold, values: [1.5, 2.5]}
  fixed_tp_pct: {low: 0.002, high: 0.006, step: 0.002}
  max_hold_bars: [10, 30]
"""


def build_cache(root: Path, n_days: int = 10, seed: int = 1) -> CacheReader:
    """Prices with trends that last for hours, and a divergence that knows nothing of them."""
    draw = np.random.default_rng(seed)
    n = n_days * BARS_A_DAY
    drift = np.repeat(draw.standard_normal((n // 48, len(SYMBOLS))), 48, axis=0) * 0.0006
    prices = 100.0 * np.exp(np.cumsum(drift + 0.0008 * draw.standard_normal(drift.shape), axis=0))
    vel_div = 0.03 * draw.standard_normal(n)
    return _written(root, prices, vel_div, INTERVAL)


#: Two settings that take what follows a signal, and two that leave after the fees at the latest.
PLANTED = """
base: champion
vol_threshold: 0.0001
without_ob_edge: true
fixed: {lookback: 5, use_direction_confirm: false, max_hold_bars: 3}
parameters:
  fixed_tp_pct: [0.0003, 0.0004, 0.0095, 0.012]
"""


def planted_cache(root: Path, n_days: int, edge: float = 0.006, seed: int = 2) -> CacheReader:
    """Quarters of an hour; a signal in one bar of twelve, after which every price falls by `edge`."""
    draw = np.random.default_rng(seed)
    n = n_days * 96
    signal = draw.random(n) < 1 / 12
    steps = draw.normal(0, 0.002, (n, len(SYMBOLS))) + 0.001 * draw.normal(size=(n, 1))
    for lag in (1, 2, 3):
        steps[lag:] -= edge / 3 * signal[:-lag, None]
    vel_div = np.where(signal, -0.021 - 0.04 * draw.random(n), 0.001)
    return _written(root, 100.0 * np.exp(np.cumsum(steps, axis=0)), vel_div, 3 * INTERVAL)


def _written(root: Path, prices: FloatArray, vel_div: FloatArray, interval: int) -> CacheReader:
    writer = CacheWriter(root, SYMBOLS, interval, "ab" * 32, source="sweep market")
    for k in range(len(vel_div)):
        values = {}
        for w in WINDOWS:
            values |= {
                f"w{w}_lambda_max": 2.0,
                f"w{w}_velocity": 0.01,
                f"w{w}_rotation": 0.01,
                f"w{w}_instability": 0.1,
            }
        writer.add(
            Scan(
                scan_number=k + 1,
                timestamp_ns=T0 + k * interval,
                vel_div=float(vel_div[k]),
                regime_signal=0.0,
                instability_composite=0.1,
                assets=SYMBOLS,
                asset_prices=tuple(prices[k].tolist()),
                asset_loadings=(0.5,) * len(SYMBOLS),
                stale_assets=(),
                certified_bits=(512,) * len(WINDOWS),
                outcome=("ok",) * len(WINDOWS),
                **values,
            )
        )
    writer.finish()
    return CacheReader(root)
