"""A small market that trades often, over five days, as scans and as a scan cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scan_market import SYMBOLS, scans

from dolphin.market.scan_cache import CacheReader, CacheWriter

STEP_NS = 300 * 10**9


def market_scans(seed: int = 21, n_bars: int = 1_100) -> list[Any]:
    """Bars of five minutes from 22:00 on; BTC stands still now and then."""
    return scans(seed, n_bars, interval_ns=STEP_NS, calm=True)


def write_cache(root: Path, made: list[Any], complete: bool = True) -> CacheReader:
    """The scans as a cache."""
    writer = CacheWriter(root, SYMBOLS, STEP_NS, "a" * 64, "a test")
    for scan in made:
        writer.add(scan)
    writer.finish(complete=complete)
    return CacheReader(root)
