"""Fixtures of the backtests' tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from backtest_market import SECOND_NS, market_scans, write_cache

from dolphin.market.scan_cache import CacheReader


@pytest.fixture(scope="session")
def long_scans() -> list[Any]:
    """Six days of five-minute bars, 950 of them after the warm-up."""
    return market_scans(1_700, 300 * SECOND_NS)


@pytest.fixture
def long_cache(tmp_path: Path, long_scans: list[Any]) -> CacheReader:
    return write_cache(tmp_path / "long", long_scans, 300 * SECOND_NS)
