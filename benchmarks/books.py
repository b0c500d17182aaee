"""What a message of a live book costs: levels to arrays, against reading the client's levels one by one.

    python -m benchmarks.books [--symbols 50] [--rounds 40] [--json]

Books of 1,000 levels a side are the client's own (ccxt's) and get the same differences; a round is one
message of every symbol, so that each book has left the processor's caches when its turn comes again, as it
has in a live flow. After every round all levels are compared. Half an hour of the whole service is
`python -m benchmarks.book_flow`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from typing import Any

import numpy as np
from ccxt.async_support.base.ws.order_book import OrderBook

from benchmarks.common import Rounds, hardware, load, row, show
from dolphin.feeds.book_arrays import Arrays, BookArrays, levels_of
from dolphin.feeds.flow_features import FlowFeatures
from dolphin.orderbook.bands import book_snapshot

SEED = 11
LEVELS = 1_000
#: Changed levels a side of a message: the mean of the recorded streams.
CHANGES = 20
MS = 100
Texts = list[tuple[str, str]]


class Symbol:
    """One symbol's book at the client, and its arrays."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.book = OrderBook({}, LEVELS)
        self.arrays = BookArrays(LEVELS)
        tick, mid = 0.5, 30_000.0
        self.book.reset(
            {
                side: [[mid + sign * tick * k, self.quantity() or 1.0] for k in range(1, LEVELS + 1)]
                for side, sign in (("bids", -1), ("asks", 1))
            }
        )
        self.bids: Texts = []
        self.asks: Texts = []
        self.arrays.read(self.book, 0)

    def quantity(self) -> float:
        """Base units, now and then none."""
        return round(self.draw.random() * 5.0, 3) if self.draw.random() < 0.7 else 0.0

    def next(self) -> None:
        """Another message, most of it near the touch."""
        self.bids, self.asks = (
            [(str(30_000.0 + sign * 0.5 * (1 + int(self.draw.expovariate(0.02)))), str(self.quantity()))
             for _ in range(CHANGES)]
            for sign in (-1, 1)
        )  # fmt: skip

    def client(self) -> None:
        """The client writes the message, level by level."""
        for side, changes in (("bids", self.bids), ("asks", self.asks)):
            store = self.book[side].store
            for price, quantity in changes:
                store(float(price), float(quantity))
        self.book.limit()

    def beside(self, now_ns: int) -> tuple[Arrays, Arrays]:
        """The message's texts to the arrays, and both sides read."""
        self.arrays.apply(*([(float(p), float(q)) for p, q in side] for side in (self.bids, self.asks)))
        return self.arrays.read(self.book, now_ns)

    def one_by_one(self) -> tuple[Arrays, Arrays]:
        """Both sides from the client's levels: what is there without arrays of its own."""
        return levels_of(self.book["bids"]), levels_of(self.book["asks"])


def measure(n_symbols: int, n_rounds: int) -> tuple[Rounds, str]:
    """Seconds by part, and a hash of the last levels."""
    symbols = {f"S{k}USDT": Symbol(SEED + k) for k in range(n_symbols)}
    features = FlowFeatures(tuple(symbols))
    rounds, now_ns = Rounds(), 0
    found: dict[str, tuple[Arrays, Arrays]] = {}

    def all_of(work: str, *arguments: int) -> dict[str, Any]:
        return {name: getattr(symbol, work)(*arguments) for name, symbol in symbols.items()}

    def fold() -> None:
        for name, (bids, asks) in found.items():
            book = book_snapshot(now_ns, bids, asks, pushed_ns=now_ns)
            assert book is not None
            features.hear(name, book, now_ns)

    for k in range(n_rounds + 1):
        now_ns += MS * 1_000_000
        for symbol in symbols.values():
            symbol.next()
        timed = rounds if k else Rounds()  # the first round compiles and fills caches
        timed("client", all_of, "client")
        found = timed("beside", all_of, "beside", now_ns)
        true = timed("one by one", all_of, "one_by_one")
        timed("features", fold)
        features.taken()
        for name, sides in found.items():
            assert all(
                np.array_equal(a, b)
                for kept, whole in zip(sides, true[name], strict=True)
                for a, b in zip(kept, whole, strict=True)
            ), name
    assert not any(symbol.arrays.n_unlike for symbol in symbols.values())
    told = hashlib.sha256(b"".join(array.tobytes() for sides in found.values() for s in sides for array in s))
    return rounds, told.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=40, help="messages of each symbol (default 40)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = parser.parse_args()
    rounds, digest = measure(args.symbols, args.rounds)
    us = {name: rounds.cpu_s(name) / args.symbols * 1e6 for name in rounds.cpu}
    plain = "all levels read one by one"
    rows = [
        row("levels to arrays, kept beside the client's book", us["beside"], "us a message",
            baseline=plain, ratio=us["one by one"] / us["beside"]),
        row("the client writes the message", us["client"], "us a message"),
        row("bands and features of the arrays", us["features"], "us a message"),
    ]  # fmt: skip
    market = (
        f"{args.symbols} synthetic books of {LEVELS:,} levels a side, {2 * CHANGES} changes a message; of a "
        "hundred messages one compares all levels and costs the baseline too, which the median leaves out; "
        f"medians of {args.rounds} rounds; the ratio is how many times as much the baseline costs"
    )
    if args.json:
        result = {
            "script": "benchmarks/books.py",
            "hardware": hardware(),
            "load": load(),
            "market": market,
            "seed": SEED,
            "result_sha256": digest,
            "table": rows,
        }
        print(json.dumps(result))
        return
    print(f"{hardware()}\n{market}")
    show(rows)


if __name__ == "__main__":
    main()
