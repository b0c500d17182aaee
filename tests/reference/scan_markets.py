"""Synthetic markets for the scan's tests and benchmark."""

from __future__ import annotations

import numpy as np

from dolphin.domain.bar import Bar

STEP_NS = 5_000_000_000


def make_bars(n_assets: int, n_bars: int, seed: int, missing_share: float = 0.01) -> list[Bar]:
    """Factor random walk with rounded prices and some missing ones."""
    rng = np.random.default_rng(seed)
    beta, vol = rng.uniform(0.3, 1.5, n_assets), rng.uniform(0.5, 3.0, n_assets) * 1e-3
    prices = np.exp(rng.uniform(0, 6, n_assets))
    bars = []
    for t in range(n_bars):
        prices = prices * np.exp(beta * (rng.standard_normal() * 1e-3) + vol * rng.standard_normal(n_assets))
        shown = np.round(prices, 4)
        if t:
            shown[rng.random(n_assets) < missing_share] = np.nan
        bars.append(Bar((t + 1) * STEP_NS, shown))
    return bars
