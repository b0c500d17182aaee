"""An invented exchange's book: every level of it is known, so whatever a local book claims can be judged.

`Exchange(seed)` moves a whole book at random and publishes differences and snapshots as Binance USD-M does.
A dictionary a side, no ordering kept: the plain twin of `orderbook.book`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from dolphin.orderbook.book import Book, DepthSnapshot, Difference, Side

TICK = 0.1
Levels = dict[float, float]


@dataclass
class Exchange:
    """The true book and its stream."""

    seed: int
    n_levels: int = 60
    levels_per_message: int = 6
    update_id: int = 1_000
    event_ns: int = 1_700_000_000_000_000_000
    bids: Levels = field(default_factory=dict)
    asks: Levels = field(default_factory=dict)
    #: The whole book after each difference, by its `u`.
    past: dict[int, tuple[Levels, Levels]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.mid_ticks = 10_000
        for k in range(1, self.n_levels + 1):
            self.bids[self._price(-k)] = self._size()
            self.asks[self._price(k)] = self._size()
        self._published = self.update_id

    def _price(self, ticks: int) -> float:
        return round((self.mid_ticks + ticks) * TICK, 1)

    def _size(self) -> float:
        return self.chance.randint(1, 9_999) / 1000

    def step(self) -> Difference:
        """Change some levels and publish them. The mid moves by a tick now and then."""
        changed: tuple[Levels, Levels] = ({}, {})
        if self.chance.random() < 0.3:
            self.mid_ticks += self.chance.choice((-1, 1))
        for _ in range(self.levels_per_message):
            k = self.chance.randint(1, self.n_levels)
            at = self.chance.randint(0, 1)
            changed[at][self._price(k if at else -k)] = self.chance.choice((0.0, self._size(), self._size()))
        # Nothing rests on the wrong side of mid, and both sides have a touch.
        for at, side in enumerate((self.bids, self.asks)):
            for price in [p for p in side if (p - self._price(0)) * (1 if at else -1) <= 0]:
                changed[at][price] = 0.0
            changed[at][self._price(1 if at else -1)] = self._size()
            for price, size in changed[at].items():
                side[price] = size
            for price in [p for p, size in side.items() if size == 0.0]:
                del side[price]
        first = self.update_id + self.chance.randint(1, 5)
        self.update_id = first + self.chance.randint(0, 40)
        self.event_ns += self.chance.randint(20, 130) * 1_000_000
        previous, self._published = self._published, self.update_id
        self.past[self.update_id] = dict(self.bids), dict(self.asks)
        return Difference(
            self.event_ns, first, self.update_id, previous,
            tuple(changed[0].items()), tuple(changed[1].items()),
        )  # fmt: skip

    def snapshot(self, limit: int = 0) -> DepthSnapshot:
        """The best levels now; limit 0 for the whole book."""
        bids = sorted(self.bids.items(), reverse=True)[: limit or None]
        asks = sorted(self.asks.items())[: limit or None]
        return DepthSnapshot(self.event_ns, self.update_id, bids, asks)


def side_of(side: Side) -> Levels:
    """All levels of a local book's side."""
    prices, quantities = side.levels()
    return dict(zip(prices.tolist(), quantities.tolist(), strict=True))


def is_true(book: Book, exchange: Exchange) -> bool:
    """Whether the book holds what the exchange had at its update id: exactly, as far as it claims to."""
    bids, asks = exchange.past[book.last_id]
    known = (
        {p: q for p, q in side_of(book.bids).items() if p >= book.bids.edge},
        {p: q for p, q in side_of(book.asks).items() if p <= book.asks.edge},
    )
    true = (
        {p: q for p, q in bids.items() if p >= book.bids.edge},
        {p: q for p, q in asks.items() if p <= book.asks.edge},
    )
    # Beyond the edge every level that is there is true, though not all are there.
    beyond = side_of(book.bids).items() <= bids.items() and side_of(book.asks).items() <= asks.items()
    return known == true and beyond
