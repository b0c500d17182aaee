"""Volatility gate: is BTC moving enough to trade at all (spec 03, section 11).

The test `population standard deviation > threshold` is decided on exact integers, n S2 - S1² > (n ×
threshold)², where the float64 returns are dyadic rationals: no root, no rounding, the same answer on every
machine.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

from dolphin.domain.bar import BoolArray, FloatArray
from dolphin.domain.errors import ConfigError
from dolphin.kernel import kernel

#: Frozen calibration for 5 s bars; another value comes only from an explicit calibration.
VOL_THRESHOLD: Final = 0.00026414
PRICES_KEPT: Final = 52
PRICES_MIN: Final = 50
#: Every finite float64 is a multiple of 2**-1074, so that the scaled integers are exact.
_SCALE_BITS: Final = 1100


#: Relative error that the float64 sums of `gate_column` stay below by far: 51 terms leave some 200 units in
#: the last place, 4e-14.
_DOUBTFUL = 1e-12


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


@kernel
def gate_column(
    prices: FloatArray, kept: int, threshold: float, verdict: BoolArray, doubt: BoolArray
) -> None:
    """The gate on every bar of a column of BTC prices, in float64 with its own error bound.

    Parameters
    ----------
    prices : float64 (kept + n,), USDT: what was kept before, then one price a bar, NaN for none
    kept : how many were kept before, all of them prices
    threshold : standard deviation of simple returns per bar
    verdict : out, (n,), the gate
    doubt : out, (n,), True where float64 cannot tell: those bars need the exact integers
    """
    window = np.zeros(PRICES_KEPT)  # ring of prices, the newest at (count - 1) % PRICES_KEPT
    returns = np.zeros(PRICES_KEPT)
    count = 0
    for t in range(prices.shape[0]):
        price = prices[t]
        if price > 0.0:
            if count > 0:
                last = window[(count - 1) % PRICES_KEPT]
                returns[count % PRICES_KEPT] = (price - last) / last
            window[count % PRICES_KEPT] = price
            count += 1
        if t < kept:
            continue
        verdict[t - kept] = True
        doubt[t - kept] = False
        n = count if count < PRICES_KEPT else PRICES_KEPT
        if not price > 0.0 or n < PRICES_MIN:
            continue
        n -= 1
        s1 = 0.0
        s2 = 0.0
        for k in range(n):
            r = returns[(count - 1 - k) % PRICES_KEPT]
            s1 = s1 + r
            s2 = s2 + r * r
        moment = n * s2 - s1 * s1
        limit = (n * threshold) * (n * threshold)
        margin = _DOUBTFUL * (n * s2 + limit)
        verdict[t - kept] = moment > limit
        doubt[t - kept] = not (moment - limit > margin or limit - moment > margin)


def gate_bars(
    prices: FloatArray | None, n_bars: int, threshold: float = VOL_THRESHOLD, before: tuple[float, ...] = ()
) -> tuple[BoolArray, tuple[float, ...]]:
    """(open, kept): the gate on every bar, and the prices to go on from, as `VolatilityGate` gives them.

    prices : float64 (n_bars,), BTC in USDT, NaN for a bar without one; None without BTC: always open.
    before : `VolatilityGate.prices` of the bars before. Decided exactly: float64 where it can tell, integers
    where it cannot.
    """
    verdict = np.ones(n_bars, np.bool_)
    if prices is None:
        return verdict, before
    gate = VolatilityGate(threshold)
    column = np.concatenate([np.array(before, np.float64), prices])
    doubt = np.zeros(n_bars, np.bool_)
    gate_column(column, len(before), threshold, verdict, doubt)
    known = column[column > 0.0]
    if doubt.any():
        n_known = np.cumsum(column > 0.0)[len(before) :]
        for t in np.flatnonzero(doubt):
            end = int(n_known[t])
            gate.restore(tuple(known[max(0, end - PRICES_KEPT) : end].tolist()))
            verdict[t] = gate.is_open()
    return verdict, tuple(known[-PRICES_KEPT:].tolist())
