"""Books that lean one way and never move, for tests and demos: every decision made with them says `mock`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from dolphin.domain.bar import FloatArray
from dolphin.domain.errors import ConfigError
from dolphin.orderbook.snapshot import BANDS, REACHES_BPS, BookSnapshot

#: Imbalance of the predecessor's mock books (spec 04).
BIASES: Final[Mapping[str, float]] = {
    "BTCUSDT": -0.086,
    "ETHUSDT": -0.092,
    "BNBUSDT": 0.05,
    "SOLUSDT": 0.05,
}
OTHER_BIAS: Final = -0.09
#: USD in each band of both sides at depth_scale 1, and the price that turns it into base units.
_BAND_USD: Final = 2e6
_PRICE_USD: Final = 100.0


class MockBooks:
    """The provider `mock`; see `dolphin.orderbook.provider`. Its books are as new as the last `advance`.

    Parameters
    ----------
    depth_scale : above 0, multiplies every depth
    biases : imbalance by symbol, within -1 to 1; the others lean by -0.09

    Raises ConfigError for a value outside these.
    """

    label = "mock"

    def __init__(self, depth_scale: float = 1.0, biases: Mapping[str, float] = BIASES) -> None:
        if not 0.0 < depth_scale < math.inf:
            raise ConfigError(f"depth_scale is {depth_scale!r}, expected a finite number above 0")
        for symbol, bias in biases.items():
            if not -1.0 <= bias <= 1.0:
                raise ConfigError(f"the mock book's bias of {symbol} is {bias!r}, expected -1 to 1")
        self._scale = depth_scale
        self._biases = dict(biases)
        self._bands: dict[str, tuple[FloatArray, FloatArray, FloatArray, FloatArray]] = {}
        self._now_ns = 0
        self._n = 0

    def advance(self, now_ns: int) -> None:
        """See `BookProvider.advance`."""
        self._now_ns = now_ns
        self._n += 1

    def newest(self, symbol: str) -> BookSnapshot:
        """See `BookProvider.newest`; every symbol has a book."""
        bands = self._bands.get(symbol)
        if bands is None:
            bias = self._biases.get(symbol, OTHER_BIAS)
            half = 0.5 * _BAND_USD * self._scale
            bid, ask = np.full(BANDS, half * (1.0 + bias)), np.full(BANDS, half * (1.0 - bias))
            bands = self._bands[symbol] = (bid, ask, bid / _PRICE_USD, ask / _PRICE_USD)
        bid, ask, bid_depth, ask_depth = bands
        return BookSnapshot(
            self._now_ns,
            bid,
            ask,
            bid_depth,
            ask_depth,
            math.inf,
            math.inf,
            REACHES_BPS[-1],
            float(bid[0]),
            float(ask[0]),
            self._now_ns,
            self._n,
        )
