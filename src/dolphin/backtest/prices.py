"""The prices and rows of a market, for the audit of a run over it.

Entry points: `MarketPrices`, `prices_of_run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from dolphin.backtest.market import Market, market_of_cache
from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.errors import DolphinError
from dolphin.host.identity import DATA_SHA256, data_sha256
from dolphin.journal.findings import MarketRows
from dolphin.market.scan_cache import CacheReader


@dataclass(frozen=True, slots=True)
class MarketPrices:
    """Prices of a market's scans, in both forms that an audit asks for."""

    market: Market

    def prices_at(self, scan_numbers: IntArray, assets: IntArray) -> FloatArray:
        """Prices (n,) in USDT of scans and asset codes; NaN where there is no such scan, or no price yet."""
        numbers = np.asarray(self.market.scan_number)
        place = np.minimum(np.searchsorted(numbers, scan_numbers), len(numbers) - 1)
        known = (numbers[place] == scan_numbers) & (assets >= 0) & (assets < len(self.market.symbols))
        found = self.market.prices[place, np.where(known, assets, 0)]
        return np.where(known & (found > 0.0), found, np.nan)

    def price_of(self, scan_number: int, asset: str, timestamp_ns: int = 0) -> float | None:
        """The price in USDT of one asset on one scan, None where there is none.

        A market's numbers name its scans; timestamp_ns is not needed for that.
        """
        if asset not in self.market.symbols:
            return None
        code = self.market.symbols.index(asset)
        found = float(self.prices_at(np.array([scan_number]), np.array([code]))[0])
        return found if found > 0.0 else None

    @property
    def rows(self) -> MarketRows:
        """Number, time and signal of every scan."""
        return MarketRows(self.market.scan_number, self.market.timestamp_ns, self.market.vel_div)


def prices_of_run(
    meta: Mapping[str, str], progress: Callable[[int, int], None] | None = None
) -> MarketPrices | None:
    """The prices of the cache that a backtest's settings name; None where it is gone or another by now.

    Every day's file is read again, its SHA-256 is checked and its rows are compared with the mapped ones;
    progress gets days read and days in all.
    """
    if not meta.get("cache"):
        return None
    try:
        cache = CacheReader(meta["cache"])
        days = tuple(day for day in cache.days() if meta["first_day"] <= day <= meta["last_day"])
        if data_sha256({day: cache.manifest.days[day].sha256 for day in days}) != meta[DATA_SHA256]:
            return None
        market = market_of_cache(
            cache, days, allow_partial=meta["allow_partial"] == "true", progress=progress, prove=True
        )
        return MarketPrices(market)
    except DolphinError:
        return None
