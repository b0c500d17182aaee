"""Volatility gate: is BTC moving enough to trade at all (spec 03, section 11).

The test `population standard deviation > threshold` is decided on exact integers, n S2 - S1² > (n ×
threshold)², where the float64 returns are dyadic rationals: no root, no rounding, the same answer on every
machine.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from dolphin.domain.errors import ConfigError

#: Frozen calibration for 5 s bars; another value comes only from an explicit calibration.
VOL_THRESHOLD: Final = 0.00026414
PRICES_KEPT: Final = 52
PRICES_MIN: Final = 50
#: Every finite float64 is a multiple of 2**-1074, so that the scaled integers are exact.
_SCALE_BITS: Final = 1100


def _scaled(value: float) -> int:
    numerator, denominator = value.as_integer_ratio()
    return (numerator << _SCALE_BITS) // denominator


class VolatilityGate:
    """Rolling gate over the last 52 BTC prices. Pure; `prices` is its whole state.

    Fewer than 50 prices, or a bar without a BTC price: open.
    """

    def __init__(self, threshold: float = VOL_THRESHOLD) -> None:
        if not threshold > 0.0:
            raise ConfigError(f"volatility threshold is {threshold!r}, expected above 0")
        self.threshold = threshold
        self._threshold_scaled = _scaled(threshold)
        self._prices: deque[float] = deque(maxlen=PRICES_KEPT)
        self._returns: deque[int] = deque(maxlen=PRICES_KEPT - 1)
        self._sum = 0
        self._squares = 0

    @property
    def prices(self) -> tuple[float, ...]:
        """The kept BTC prices in USDT, oldest first."""
        return tuple(self._prices)

    def restore(self, prices: tuple[float, ...]) -> None:
        """Take over the kept prices of another gate."""
        self._prices.clear()
        self._returns.clear()
        self._sum = 0
        self._squares = 0
        for price in prices:
            self._append(price)

    def update(self, btc_price: float | None) -> bool:
        """Fold one bar's BTC price in (None or NaN: none) and say whether the gate is open."""
        if btc_price is None or not btc_price > 0.0:
            return True
        self._append(btc_price)
        return self.is_open()

    def is_open(self) -> bool:
        """The gate on the kept prices, decided exactly."""
        n = len(self._returns)
        if n + 1 < PRICES_MIN:
            return True
        limit = n * self._threshold_scaled
        return n * self._squares - self._sum * self._sum > limit * limit

    def is_open_float(self) -> bool:
        """The same question in float64, two passes: a guard for the exact answer, never the answer."""
        prices = list(self._prices)
        n = len(prices) - 1
        if n + 1 < PRICES_MIN:
            return True
        returns = [(prices[k + 1] - prices[k]) / prices[k] for k in range(n)]
        total = 0.0
        for r in returns:
            total = total + r
        mean = total / n
        squares = 0.0
        for r in returns:
            squares = squares + (r - mean) * (r - mean)
        return float((squares / n) ** 0.5) > self.threshold

    def _append(self, price: float) -> None:
        if self._prices:
            last = self._prices[-1]
            if len(self._returns) == PRICES_KEPT - 1:
                oldest = self._returns[0]
                self._sum -= oldest
                self._squares -= oldest * oldest
            newest = _scaled((price - last) / last)
            self._returns.append(newest)
            self._sum += newest
            self._squares += newest * newest
        self._prices.append(price)
