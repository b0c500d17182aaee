"""Fixtures of the backtests' tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from backtest_market import market_scans, write_cache

from dolphin.market.scan_cache import CacheReader


@pytest.fixture(scope="session")
def long_scans() -> list[Any]:
    """Scans over five days."""
    return market_scans()


@pytest.fixture
def long_cache(tmp_path: Path, long_scans: list[Any]) -> CacheReader:
    """The same as a cache of the test's own."""
    return write_cache(tmp_path / "long", long_scans)
