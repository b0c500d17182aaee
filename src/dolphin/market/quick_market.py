"""Whole synthetic markets for statistical studies, without the exact scanner.

Entry point: `quick_market`. The prices are those of `SyntheticFeed`, bar for bar; the scans come from the
float64 look at them (`dolphin.market.quick_scan`), windows 50 and 750 only. Against the certified scanner
vel_div is off by less than `VEL_DIV_ERROR`, so that fewer than one bar in a thousand has another SHORT
signal; `tests/unit/market/test_quick_market.py` measures both. A study that needs the last bit scans exactly.

The kernels let other threads run, the drawing of the noise mostly does too; separate markets may be made in
threads or processes.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.clock import NS_PER_S
from dolphin.domain.scan import WARMUP_PRICES
from dolphin.market.quick_scan import log_returns, rolling_dominant
from dolphin.market.synthetic import DEFAULT_START_DAY, INTERVAL_NS, SyntheticFeed
from dolphin.market.universe import DEFAULT_ASSETS

#: Largest difference of vel_div to the certified scanner, 1/s.
VEL_DIV_ERROR: Final = 1e-7
#: Largest difference of instability_50 to the certified scanner, dimensionless.
INSTABILITY_ERROR: Final = 1e-4
#: Where the power iteration ends here: looser than a data check needs, tight enough for the errors above.
TOLERANCE: Final = 1e-10
_WINDOWS: Final = (50, 750)


class QuickMarket(NamedTuple):
    """The scans of a market: n of them over a assets, the first on the 752nd price."""

    symbols: tuple[str, ...]
    timestamp_ns: IntArray  # (n,)
    prices: FloatArray  # (n, a) USDT, the bar's own
    vel_div: FloatArray  # (n,) 1/s
    v50: FloatArray  # (n,) 1/s
    v750: FloatArray  # (n,) 1/s
    instability_50: FloatArray  # (n,) dimensionless
    onsets: IntArray  # positions of the scans where a planted onset begins; empty where nothing was planted


def quick_market(
    seed: int,
    days: float,
    edge_bps: float,
    assets: int = DEFAULT_ASSETS,
    start_day: str = DEFAULT_START_DAY,
) -> QuickMarket:
    """A synthetic market with its scans.

    Parameters
    ----------
    seed, days, edge_bps, assets, start_day : as for `SyntheticFeed`, which names the errors; days is finite.

    Returns
    -------
    QuickMarket with round(days * 17280) scans.
    """
    feed = SyntheticFeed(seed=seed, days=days, start_day=start_day, edge_bps=edge_bps, assets=assets)
    prices, onsets = feed.whole()
    stamps = feed.first_bar_ns + INTERVAL_NS * np.arange(len(prices), dtype=np.int64)
    onsets = onsets[onsets >= WARMUP_PRICES - 1] - (WARMUP_PRICES - 1)
    return scanned(feed.symbols, stamps, prices)._replace(onsets=onsets)


def scanned(symbols: tuple[str, ...], timestamp_ns: IntArray, prices: FloatArray) -> QuickMarket:
    """The scans of any bars, from the 752nd on.

    Parameters
    ----------
    timestamp_ns : int64 (n_bars,), increasing; velocities are per second of it.
    prices : float64 (n_bars, n_assets), USDT; NaN is carried forward for the scan and stays
        NaN in the result.

    Raises DataError where a return is not finite.
    """
    returns = log_returns(prices)
    first = WARMUP_PRICES - 1
    seconds = np.diff(timestamp_ns)[first - 1 :] / NS_PER_S
    velocities = []
    instability = np.empty(0)
    for window in _WINDOWS:
        value, change = rolling_dominant(returns, window, TOLERANCE)
        velocities.append(np.diff(value)[first - 2 :] / seconds)
        if window == _WINDOWS[0]:
            instability = np.ascontiguousarray(change[first - 1 :])
    v50, v750 = velocities
    return QuickMarket(
        symbols=symbols,
        timestamp_ns=np.ascontiguousarray(timestamp_ns[first:]),
        prices=np.ascontiguousarray(prices[first:]),
        vel_div=v50 - v750,
        v50=v50,
        v750=v750,
        instability_50=instability,
        onsets=np.empty(0, dtype=np.int64),
    )
