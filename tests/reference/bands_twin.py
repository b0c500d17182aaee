"""Bands of a book in exact fractions: the twin of `dolphin.orderbook.bands`.

Written from spec 04 ("Snapshot"): band k takes what rests in (k-1 %, k %] from mid; a band whose far edge the
side does not reach is unknown, which is None here.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

Level = tuple[float, float]
REACHES = (5, 10, 20, 40, 70, 100)


@dataclass
class Twin:
    notional: tuple[list[Fraction | None], list[Fraction | None]]
    depth: tuple[list[Fraction | None], list[Fraction | None]]
    coverage_bps: tuple[Fraction | None, Fraction | None]
    visible_bps: int
    visible: tuple[Fraction, Fraction]


def bands(bids: list[Level], asks: list[Level], edges: tuple[float | None, float | None]) -> Twin | None:
    """Levels in any order; an edge is the price up to which a side is known, None for a whole side."""
    if not bids or not asks or max(bids)[0] >= min(asks)[0]:
        return None
    mid = (Fraction(max(bids)[0]) + Fraction(min(asks)[0])) / 2
    notional: list[list[Fraction | None]] = []
    depth: list[list[Fraction | None]] = []
    coverage: list[Fraction | None] = []
    for side, levels in enumerate((bids, asks)):
        edge = edges[side]
        away = None if edge is None else Fraction(edge) - mid if side else mid - Fraction(edge)
        covers = None if away is None else max(Fraction(0), away / mid * 10_000)
        usd: list[Fraction | None] = []
        base: list[Fraction | None] = []
        for k in range(1, 6):
            inside = [
                (Fraction(p), Fraction(q)) for p, q in levels
                if Fraction(k - 1, 100) < abs(Fraction(p) - mid) / mid <= Fraction(k, 100)
            ]  # fmt: skip
            known = covers is None or covers >= 100 * k
            usd.append(sum((p * q for p, q in inside), Fraction(0)) if known else None)
            base.append(sum((q for _, q in inside), Fraction(0)) if known else None)
        notional.append(usd)
        depth.append(base)
        coverage.append(covers)
    reach = max([0, *(r for r in REACHES if all(c is None or c >= r for c in coverage))])
    visible = [
        sum(
            (Fraction(p) * Fraction(q) for p, q in levels if abs(Fraction(p) - mid) / mid * 10_000 <= reach),
            Fraction(0),
        )
        for levels in (bids, asks)
    ]
    return Twin(
        (notional[0], notional[1]), (depth[0], depth[1]), (coverage[0], coverage[1]), reach,
        (visible[0], visible[1]),
    )  # fmt: skip
