"""A small market of prices: few assets, one-second bars, correlation that comes and goes: it trades."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dolphin.domain.bar import Bar
from dolphin.domain.clock import NS_PER_S, day_start_ns
from dolphin.market.feed import digest

SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "XRPUSDT")
#: Before midnight, so that a day turns while it trades.
START_NS = day_start_ns("2026-01-06") - 950 * NS_PER_S


class WalkFeed:
    """Random walks with a common factor; `endless` hides the end, as a live feed has none."""

    def __init__(self, seed: int, n_bars: int, *, endless: bool = False) -> None:
        chance = random.Random(seed)
        self.name = f"walk {seed}"
        self.symbols = SYMBOLS
        self.interval_ns = NS_PER_S
        self.n_bars = None if endless else n_bars
        self.rejections: Counter[tuple[str, str]] = Counter()
        self.notes: list[str] = []
        self.source_id = digest({"kind": "walk", "seed": seed})
        prices = [100.0 * (k + 1) for k in range(len(SYMBOLS))]
        rows = []
        for bar in range(n_bars):
            share = 0.9 if (bar // 40) % 2 else 0.1
            common = chance.gauss(0.0, 1.0)
            prices = [
                p * (1.0 + 0.002 * (share * common + (1.0 - share) * chance.gauss(0.0, 1.0))) for p in prices
            ]
            rows.append([float("nan") if chance.random() < 0.002 else p for p in prices])
        self.matrix = np.array(rows)

    def bars(self, skip: int = 0) -> Iterator[Bar]:
        """Bars stamped at their close."""
        for k in range(skip, len(self.matrix)):
            yield Bar(START_NS + (k + 1) * self.interval_ns, self.matrix[k])

    def close(self) -> None:
        """Nothing to give back."""


def write_panel(path: Path, seed: int, n_bars: int) -> Path:
    """The same market as a wide Parquet panel, stamped at the bars' opening."""
    feed = WalkFeed(seed, n_bars)
    ts = pa.array([START_NS + k * NS_PER_S for k in range(n_bars)], pa.timestamp("ns"))
    columns = {symbol: feed.matrix[:, k] for k, symbol in enumerate(SYMBOLS)}
    pq.write_table(pa.table({"ts": ts, **columns}), path)
    return path
