"""Synthetic markets for the scan's tests."""

from __future__ import annotations

import pytest
from scan_markets import make_bars

from dolphin.domain.bar import Bar


@pytest.fixture(scope="session")
def bars() -> list[Bar]:
    return make_bars(8, 775, seed=42)


@pytest.fixture(scope="session")
def symbols() -> tuple[str, ...]:
    return tuple(f"ASSET{i}USDT" for i in range(8))
