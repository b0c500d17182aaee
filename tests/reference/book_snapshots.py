"""Snapshots for tests of order books: made by hand, and hostile ones at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dolphin.orderbook.snapshot import REACHES_BPS, BookSnapshot

S = 1_000_000_000


def book(
    bid: Sequence[float],
    ask: Sequence[float],
    at_ns: int = 0,
    *,
    visible: tuple[float, float, float] | None = None,
) -> BookSnapshot:
    """A snapshot with the given bands, the rest of the five unknown; visible is (bps, bid, ask)."""
    sides = [np.array([*side, *[np.nan] * (5 - len(side))], dtype=np.float64) for side in (bid, ask)]
    reach = visible or (100.0, bid[0] if len(bid) else 0.0, ask[0] if len(ask) else 0.0)
    covers = [100.0 * len(bid) or reach[0], 100.0 * len(ask) or reach[0]]
    return BookSnapshot(at_ns, *sides, sides[0] / 10.0, sides[1] / 10.0, *covers, *reach)


def hostile(rng: np.random.Generator, now_ns: int, scale: float) -> BookSnapshot | None:
    """Anything a provider may hand out: whole, short, one-sided, empty, old, impossible, or nothing."""
    kind = rng.random()
    if kind < 0.08:
        return None
    bid, ask = np.rint(rng.uniform(0.0, 1e5, (2, 5)) * scale)
    age = int(rng.uniform(0.0, 4.9) * S)
    visible = (100.0, float(bid[0]), float(ask[0]))
    if kind < 0.14:
        age = int(rng.choice([-6, 6]) * S)
    elif kind < 0.20:
        bid[:] = ask[:] = 0.0
    elif kind < 0.24:
        bid[:] = 0.0
    elif kind < 0.30:
        ask[:] = bid
    elif kind < 0.42:
        bid[rng.integers(1, 5) :] = np.nan
    elif kind < 0.60:
        ask[rng.integers(0, 2) :] = np.nan
        reach = float(rng.choice([0.0, *REACHES_BPS[:3]]))
        visible = (reach, *np.rint(rng.uniform(0.0, 1e4, 2) * scale).tolist())
    elif kind < 0.63:
        bid[rng.integers(0, 2)] = rng.choice([-1.0, np.inf])
    elif kind < 0.65:
        bid[0] = np.nan
        visible = (33.0, 1.0, 1.0)
    elif kind < 0.67:
        bid[0] = np.nan
        visible = (20.0, float(rng.choice([-1.0, np.nan, np.inf])), 1.0)
    return BookSnapshot(now_ns - age, bid, ask, bid / 10.0, ask / 10.0, 500.0, 500.0, *visible)
