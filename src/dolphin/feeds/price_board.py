"""Last prices by symbol, and the bar that they make: no clock, no network.

1. A bar has the newest price of every symbol, NaN for one without a trade within `fresh_ns`: the scanner
   carries the last price forward and names the symbol stale, so that nothing is entered in it.
2. A price that is not finite and positive, or whose message is older than one heard already, is refused and
   counted; the last good one stays.
3. Where the warm-up is filled from klines, a bar has a price only where a minute closed on it. What lies
   between two closes is not known, and is left missing instead of drawn.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from dolphin.domain.bar import Bar

NS_PER_MS = 1_000_000


class PriceBoard:
    """The newest price of each symbol. One thread hears, another closes bars: each step is one assignment.

    `rejections` counts refused values by (symbol, rule), `stale` the bars in which a symbol had no fresh one.
    """

    def __init__(self, symbols: Sequence[str], fresh_ns: int) -> None:
        self.symbols = tuple(symbols)
        self.fresh_ns = fresh_ns
        self.rejections: Counter[tuple[str, str]] = Counter()
        self.stale: Counter[str] = Counter()
        self.heard = 0
        self._known = frozenset(self.symbols)
        self._last: dict[str, tuple[int, float]] = {}

    def hear(self, symbol: str, price: float, event_ns: int) -> bool:
        """Take a trade's price, as of event_ns (ns UTC on our clock); False where it is refused."""
        if symbol not in self._known:
            return False
        rule = ""
        if math.isnan(price):
            rule = "missing"
        elif math.isinf(price):
            rule = "infinite"
        elif price <= 0.0:
            rule = "zero" if price == 0.0 else "negative"
        elif event_ns < self._last.get(symbol, (0, 0.0))[0]:
            rule = "backward"
        if rule:
            self.rejections[symbol, rule] += 1
            return False
        self._last[symbol] = (event_ns, price)
        self.heard += 1
        return True

    def newest_ns(self) -> int | None:
        """Time of the newest trade of any symbol, on our clock; None before the first."""
        return max((event_ns for event_ns, _ in tuple(self._last.values())), default=None)

    def close_bar(self, close_ns: int) -> Bar:
        """The bar that closes at an instant."""
        prices = np.full(len(self.symbols), np.nan)
        for k, symbol in enumerate(self.symbols):
            event_ns, price = self._last.get(symbol, (-self.fresh_ns, math.nan))
            if close_ns - event_ns <= self.fresh_ns and not math.isnan(price):
                prices[k] = price
            else:
                self.stale[symbol] += 1
        return Bar(close_ns, prices)


def warmup_bars(
    symbols: Sequence[str],
    closes: Mapping[str, Mapping[int, float]],
    first_ns: int,
    last_ns: int,
    interval_ns: int,
) -> list[Bar]:
    """Bars stamped first_ns to last_ns, both included, from {symbol: {ms of the close: close}}.

    The first bar takes the last close known by then; later ones only a close of their own interval.
    """
    bars = []
    seen_ns = -(2**62)
    for stamp_ns in range(first_ns, last_ns + 1, interval_ns):
        prices = np.full(len(symbols), np.nan)
        for k, symbol in enumerate(symbols):
            mine = [ms for ms in closes.get(symbol, {}) if seen_ns < ms * NS_PER_MS <= stamp_ns]
            if mine:
                prices[k] = closes[symbol][max(mine)]
        bars.append(Bar(stamp_ns, prices))
        seen_ns = stamp_ns
    return bars
