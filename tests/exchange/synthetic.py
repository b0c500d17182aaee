"""A market from a seed: N symbols that walk, each with its own book, chain of ids and trades.

The same seed and slot give the same books, whatever the machine or speed. Books are `levels` deep a side at a
step of one basis point, so they reach about `levels` basis points far.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from .line import Level, Line, Trade

#: Names of perpetuals with prices of the right order of magnitude; further symbols are made up.
KNOWN = {
    "BTC": 60_000.0, "ETH": 3_000.0, "BNB": 550.0, "SOL": 150.0, "XRP": 0.6, "DOGE": 0.12, "ADA": 0.45,
    "AVAX": 30.0, "LINK": 14.0, "DOT": 6.0, "LTC": 80.0, "BCH": 400.0, "TRX": 0.13, "UNI": 9.0, "ATOM": 7.0,
    "ETC": 25.0, "FIL": 5.0, "NEAR": 5.5, "APT": 8.0, "ARB": 0.9, "OP": 1.8, "SUI": 0.9, "INJ": 25.0,
    "AAVE": 100.0, "XLM": 0.1, "ALGO": 0.15, "VET": 0.03, "ICP": 9.0, "SAND": 0.35, "MANA": 0.36,
    "AXS": 6.5, "EOS": 0.6, "XTZ": 0.8, "THETA": 1.6, "GALA": 0.03, "CHZ": 0.08, "ENJ": 0.2, "ZIL": 0.02,
    "DASH": 28.0, "ZEC": 25.0, "COMP": 50.0, "SNX": 2.0, "CRV": 0.3, "YFI": 6_000.0, "GRT": 0.2,
    "RUNE": 4.5, "KAVA": 0.45, "IOTA": 0.18, "NEO": 11.0, "QTUM": 2.8,
}  # fmt: skip


def symbol_names(symbols: int | Sequence[str]) -> list[str]:
    """The symbols asked for: names as they are, or that many, known ones first."""
    if not isinstance(symbols, int):
        return [s.upper() for s in symbols]
    known = [f"{name}USDT" for name in KNOWN]
    return (known + [f"T{i:03d}USDT" for i in range(len(known), symbols)])[:symbols]


class _Walk:
    """One symbol. Prices are whole units of 10**-digits, quantities of 10**-3."""

    def __init__(self, symbol: str, seed: int, phase: int, levels: int, price: float | None) -> None:
        self.rng = random.Random(f"{seed}/{symbol}")
        base = price or KNOWN.get(symbol.removesuffix("USDT"), math.exp(self.rng.uniform(-3, 6)))
        # Five digits of a price count; one step of the book is about a basis point of it.
        digits = max(1, 5 - math.floor(math.log10(base)))
        self.scale = 10**digits
        self.step = max(1, round(base * self.scale * 1e-4))
        self.format = f".{digits}f"
        self.levels = levels
        #: The lowest ask in steps; the highest bid is one step below.
        self.ask = round(base * self.scale / self.step)
        self.size = max(1.0, 100_000 / base)
        self.last_id = 1_000_000 + self.rng.randrange(1_000_000)
        self.trade_id = 0
        self.line = Line(
            [symbol], self.ask * self.step / self.scale, price_digits=digits, quantity_digits=3, phase=phase
        )
        bids = [(self.price(self.ask - 1 - k), self.quantity(k)) for k in range(levels)]
        asks = [(self.price(self.ask + k), self.quantity(k)) for k in range(levels)]
        self.line.book.apply(bids, asks, self.last_id)

    def price(self, steps: int) -> str:
        return format(steps * self.step / self.scale, self.format)

    def quantity(self, distance: int) -> str:
        return format(self.size * (0.2 + self.rng.random()) * (1 + min(distance, 20) / 10), ".3f")

    def update(self, now_ms: int) -> tuple[list[Trade], bool]:
        """One small update of the book, perhaps with a trade; ids have holes, as on the exchange."""
        rng, levels = self.rng, self.levels
        bids: list[Level] = []
        asks: list[Level] = []
        move = rng.choice((-1, 0, 0, 0, 0, 0, 1))
        trades: list[Trade] = []
        if move:
            # The side that is hit loses its best level, the other gains one; both ends keep the depth.
            taken = self.price(self.ask if move > 0 else self.ask - 1)
            quantity = (self.line.book.asks if move > 0 else self.line.book.bids)[float(taken)][1]
            trades.append(self._trade(taken, quantity, buyer_is_maker=move < 0))
            gone, came = (asks, bids) if move > 0 else (bids, asks)
            gone.append((taken, "0.000"))
            came.append((taken, self.quantity(0)))
            far_gone = self.ask - levels if move > 0 else self.ask + levels - 1
            far_came = self.ask + levels if move > 0 else self.ask - 1 - levels
            came.append((self.price(far_gone), "0.000"))
            gone.append((self.price(far_came), self.quantity(levels)))
            self.ask += move
        elif rng.random() < 0.3:
            buys = rng.random() < 0.5
            best = self.price(self.ask if buys else self.ask - 1)
            there = float((self.line.book.asks if buys else self.line.book.bids)[float(best)][1])
            some = format(max(0.001, there * rng.uniform(0.05, 0.5)), ".3f")
            left = max(0.001, there - float(some))
            (asks if buys else bids).append((best, format(left, ".3f")))
            trades.append(self._trade(best, some, buyer_is_maker=not buys))
        for _ in range(rng.randrange(1, 4)):
            k = min(levels - 1, int(rng.expovariate(0.15)))
            if rng.random() < 0.5:
                bids.append((self.price(self.ask - 1 - k), self.quantity(k)))
            else:
                asks.append((self.price(self.ask + k), self.quantity(k)))
        first = self.last_id + rng.randrange(1, 40)
        self.last_id = first + len(bids) + len(asks) - 1
        for trade in trades:
            self.line.trade(now_ms, trade)
        self.line.update(first, self.last_id, bids, asks)
        quote = self.line.book.best
        changed = quote != self.line.quote
        self.line.quote = quote
        return trades, changed

    def _trade(self, price: str, quantity: str, *, buyer_is_maker: bool) -> Trade:
        self.trade_id += 1
        return Trade(self.trade_id, price, quantity, buyer_is_maker)


class SyntheticMarket:
    """N walks; each updates its book twice every 100 ms, at a phase of its own unless `phased` is False."""

    def __init__(
        self,
        symbols: int | Sequence[str] = 2,
        *,
        seed: int = 1,
        levels: int = 150,
        phased: bool = False,
        prices: dict[str, float] | None = None,
    ) -> None:
        names = symbol_names(symbols)
        self._walks = [
            _Walk(name, seed, i % 10 if phased else 0, levels, (prices or {}).get(name))
            for i, name in enumerate(names)
        ]
        self.lines = [walk.line for walk in self._walks]
        self._at = [[w for w in self._walks if (s - w.line.phase) % 10 in (3, 7)] for s in range(10)]

    def advance(self, slot: int, now_ms: int) -> Iterator[tuple[Line, list[Trade], bool]]:
        """The updates of one slot of 10 ms: (line, trades, whether its best bid or ask changed)."""
        for walk in self._at[slot % 10]:
            trades, changed = walk.update(now_ms)
            yield walk.line, trades, changed
