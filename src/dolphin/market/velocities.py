"""w750 velocities of a recording: scanned from a price panel, or read from a scan cache; with BTC's closes.

Entry point: `read_velocities`.

A panel goes through the scanner itself, so the values are the certified ones. A velocity is a change of
lambda_max per second between neighbouring bars: its size depends on the length of the bars, so velocities of
different bars are not compared with one another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.clock import day_from_ns
from dolphin.domain.errors import DataError
from dolphin.market.recorded import RecordedFeed
from dolphin.market.scan_cache import CacheReader, is_cache
from dolphin.scan.scanner import Scanner

#: Whose price the breaker is looked at against.
BTC = "BTCUSDT"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RecordedVelocities:
    """stamps_ns (n,) rising, w750 (n,) in 1/s; btc_close is BTC's last price of each day, USDT, by date."""

    name: str
    source_id: str
    n_assets: int
    interval_ns: int
    first_day: str
    last_day: str
    scanned: bool
    stamps_ns: IntArray
    w750: FloatArray
    btc_close: dict[str, float]
    notes: tuple[str, ...] = ()


def read_velocities(
    path: Path, assets: int | None = None, on_progress: Callable[[int, int], None] | None = None
) -> RecordedVelocities:
    """The velocities of a Parquet panel or of a scan cache.

    Parameters
    ----------
    path : the panel, or a cache's folder.
    assets : how many symbols of a panel to scan, from the front; None: up to 50. A cache has its own.
    on_progress : called with (bars done, bars in all).

    Raises DataError or StoreError for a recording that cannot be used, UsageError for `assets` below one.
    """
    if is_cache(path):
        if assets is not None:
            raise DataError(f"{path}: a scan cache was made of its own assets; leave their number out")
        return _of_cache(path)
    return _of_panel(path, assets, on_progress or (lambda done, total: None))


def _of_panel(path: Path, assets: int | None, on_progress: Callable[[int, int], None]) -> RecordedVelocities:
    feed = RecordedFeed(path, assets=assets)
    scanner = Scanner(feed.symbols)
    btc = feed.symbols.index(BTC) if BTC in feed.symbols else None
    stamps: list[int] = []
    values: list[float] = []
    closes: dict[str, float] = {}
    first = last = 0
    total = feed.n_bars or 0
    for k, bar in enumerate(feed.bars()):
        step = scanner.update(bar, k)
        first, last = first or bar.timestamp_ns, bar.timestamp_ns
        if btc is not None and np.isfinite(bar.prices[btc]):
            # A bar that closes at midnight ends the day before.
            closes[day_from_ns(bar.timestamp_ns - 1)] = float(bar.prices[btc])
        if step.scan is not None:
            stamps.append(step.scan.timestamp_ns)
            values.append(step.scan.w750_velocity)
        if k % 500 == 0:
            on_progress(k, total)
    feed.close()
    return RecordedVelocities(
        name=feed.name,
        source_id=feed.source_id,
        n_assets=len(feed.symbols),
        interval_ns=feed.interval_ns,
        first_day=day_from_ns(first),
        last_day=day_from_ns(last - 1),
        scanned=True,
        stamps_ns=np.array(stamps, np.int64),
        w750=np.array(values, np.float64),
        btc_close=closes,
        notes=tuple(feed.notes),
    )


def _of_cache(path: Path) -> RecordedVelocities:
    cache = CacheReader(path)
    days = cache.days()
    if not days:
        raise DataError(f"{path}: the scan cache has no day")
    stamps, values, closes = [], [], {}
    btc = cache.symbols.index(BTC) if BTC in cache.symbols else None
    for day in days:
        columns = cache.columns(day)
        stamps.append(np.asarray(columns["timestamp_ns"], np.int64))
        values.append(np.asarray(columns["v750_lambda_max_velocity"], np.float64))
        if btc is not None:
            prices = cache.prices(day)[:, btc]
            finite = np.isfinite(prices)
            for at_ns, price in zip(stamps[-1][finite].tolist(), prices[finite].tolist(), strict=True):
                closes[day_from_ns(at_ns - 1)] = price
    return RecordedVelocities(
        name=cache.manifest.source or path.name,
        source_id=cache.manifest.source_id,
        n_assets=len(cache.symbols),
        interval_ns=cache.interval_ns,
        first_day=days[0],
        last_day=days[-1],
        scanned=False,
        stamps_ns=np.concatenate(stamps),
        w750=np.concatenate(values),
        btc_close=closes,
    )
