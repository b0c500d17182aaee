"""Pytest fixture for tests anywhere: `from exchange.fixtures import exchange`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .server import LoopbackExchange
from .synthetic import SyntheticMarket


@pytest.fixture
def exchange() -> Iterator[LoopbackExchange]:
    """Two synthetic symbols, BTCUSDT and ETHUSDT, standing still until `step`."""
    with LoopbackExchange(SyntheticMarket(2, seed=7), life_s=120.0) as running:
        yield running
