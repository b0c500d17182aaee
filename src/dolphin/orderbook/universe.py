"""Health of a symbol's five best levels, and which symbols are healthy enough (04, "Universe service").

Entry points: `judge_top`, `References`, `health_of`; `Figures`, `figures_of`, `pick`.

1. A book is judged before it counts: what is wrong with it has a name (`REASONS`).
2. depth_1pct_usd is what the levels show within 1 % of mid. Five levels mostly end far before: it is a lower
   bound of the depth there, comparable with itself in time and not with a whole book's.
3. q is that depth by the symbol's usual one, an EMA over snapshots that has the newest in it. depth_quality
   of this service and fill_probability are both q / (1 + q): what an ordinary book shows is 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from dolphin.domain.symbols import STABLECOINS
from dolphin.orderbook.constants import REFERENCE_KEEP
from dolphin.orderbook.features import median

#: A level is (price, quantity in base units).
Level = tuple[float, float]

#: Most levels a side that the stream shows.
LEVELS_MAX: Final = 5
#: Farthest from mid that counts as depth, as a part of mid.
REACH_FRAC: Final = 0.01

EMPTY: Final = "empty"
TOO_MANY: Final = "too_many"
NOT_FINITE: Final = "not_finite"
NOT_POSITIVE: Final = "not_positive"
REPEATED: Final = "repeated"
CROSSED: Final = "crossed"
#: What can be wrong with a book: a side without a level; more levels than were asked for; a number that is
#: none, or too large to be added up; a price or quantity of 0 or less; a price twice on a side; ask <= bid.
REASONS: Final = (EMPTY, TOO_MANY, NOT_FINITE, NOT_POSITIVE, REPEATED, CROSSED)


class Top(NamedTuple):
    """A sound book's best levels in figures: prices in USDT, volumes in base units, depth in USD."""

    best_bid: float
    best_ask: float
    bid_volume: float
    ask_volume: float
    depth_usd: float
    n_bids: int
    n_asks: int


def judge_top(bids: Sequence[Level], asks: Sequence[Level]) -> Top | str:
    """The figures of a book, or which of `REASONS` it is refused for.

    Levels may come in any order: documented samples have ascending bids.
    """
    if not bids or not asks:
        return EMPTY
    if len(bids) > LEVELS_MAX or len(asks) > LEVELS_MAX:
        return TOO_MANY
    for side in (bids, asks):
        for price, quantity in side:
            if not (_is_finite(price) and _is_finite(quantity)):
                return NOT_FINITE
            if price <= 0.0 or quantity <= 0.0:
                return NOT_POSITIVE
        if len(side) > 1 and len({price for price, _ in side}) != len(side):
            return REPEATED
    bid = max(price for price, _ in bids)
    ask = min(price for price, _ in asks)
    if ask <= bid:
        return CROSSED
    mid = bid + (ask - bid) / 2.0
    lowest, highest = mid * (1.0 - REACH_FRAC), mid * (1.0 + REACH_FRAC)
    volumes, depth = [0.0, 0.0], 0.0
    for k, side in enumerate((sorted(bids, reverse=True), sorted(asks))):
        for price, quantity in side:
            volumes[k] += quantity
            if lowest <= price <= highest:
                depth += price * quantity
    if not _is_finite(volumes[0] + volumes[1] + depth):
        return NOT_FINITE
    return Top(bid, ask, volumes[0], volumes[1], depth, len(bids), len(asks))


def _is_finite(value: float) -> bool:
    return -math.inf < value < math.inf


class References:
    """Usual depth of each symbol, USD: 0.99 old + 0.01 new, begun with the first depth above 0."""

    def __init__(self, known: Mapping[str, float] | None = None) -> None:
        self.known: dict[str, float] = {
            symbol: usd for symbol, usd in (known or {}).items() if 0.0 < usd < math.inf
        }

    def fold(self, symbol: str, depth_usd: float) -> float:
        """The reference with this depth in it; 0 while no depth above 0 was seen."""
        old = self.known.get(symbol)
        if old is None:
            if depth_usd <= 0.0:
                return 0.0
            new = depth_usd
        else:
            new = REFERENCE_KEEP * old + (1.0 - REFERENCE_KEEP) * depth_usd
        self.known[symbol] = new
        return new

    def keep_only(self, symbols: Iterable[str]) -> None:
        """Forget whatever is not traded any more."""
        wanted = set(symbols)
        self.known = {symbol: usd for symbol, usd in self.known.items() if symbol in wanted}


@dataclass(frozen=True, slots=True)
class BookHealth:
    """Health of one symbol's book, named as it is published: bps, USD, parts of 1, USDT."""

    spread_bps: float
    depth_1pct_usd: float
    depth_quality: float
    fill_probability: float
    imbalance: float
    best_bid: float
    best_ask: float
    n_bid_levels: int
    n_ask_levels: int


def health_of(top: Top, reference_usd: float) -> BookHealth:
    """A sound book's health against the symbol's usual depth; at or below 0 the quality is 0."""
    mid = top.best_bid + (top.best_ask - top.best_bid) / 2.0
    q = top.depth_usd / reference_usd if reference_usd > 0.0 else 0.0
    quality = q / (1.0 + q) if q < math.inf else 1.0
    return BookHealth(
        spread_bps=(top.best_ask - top.best_bid) / mid * 1e4,
        depth_1pct_usd=top.depth_usd,
        depth_quality=quality,
        fill_probability=quality,
        imbalance=(top.bid_volume - top.ask_volume) / (top.bid_volume + top.ask_volume),
        best_bid=top.best_bid,
        best_ask=top.best_ask,
        n_bid_levels=top.n_bids,
        n_ask_levels=top.n_asks,
    )


@dataclass(frozen=True, slots=True)
class Figures:
    """One symbol over several snapshots: medians, and in which part of the snapshots it was there."""

    symbol: str
    spread_bps: float
    depth_1pct_usd: float
    depth_quality: float
    imbalance: float
    present_frac: float


def figures_of(rows: Mapping[str, Sequence[tuple[float, float, float, float]]], n: int) -> list[Figures]:
    """Figures from (spread_bps, depth_1pct_usd, depth_quality, imbalance) rows of each symbol.

    n is how many snapshots there were, at least the most rows of a symbol.
    """
    found = []
    for symbol, held in rows.items():
        table = np.array(held, dtype=np.float64)
        spread, depth, quality, imbalance = (
            float(median(np.ascontiguousarray(table[:, k]))) for k in range(4)
        )
        found.append(Figures(symbol, spread, depth, quality, imbalance, len(held) / n))
    return found


def pick(
    figures: Iterable[Figures],
    *,
    min_depth_usd: float,
    max_spread_bps: float,
    min_present_frac: float,
    top: int | None = None,
) -> tuple[list[Figures], dict[str, int]]:
    """(symbols that are healthy enough, deepest first, how many were left out by name of the rule).

    Stablecoins are left out: they are pegged, so that their moves are noise. A symbol counts under the first
    rule that it breaks.
    """
    taken: list[Figures] = []
    left_out: dict[str, int] = {}
    for one in figures:
        if one.symbol in STABLECOINS:
            rule = "stablecoin"
        elif one.present_frac < min_present_frac:
            rule = "seldom there"
        elif not one.depth_1pct_usd >= min_depth_usd:
            rule = "thin"
        elif not one.spread_bps <= max_spread_bps:
            rule = "wide"
        else:
            taken.append(one)
            continue
        left_out[rule] = left_out.get(rule, 0) + 1
    taken.sort(key=lambda one: (-one.depth_1pct_usd, one.symbol))
    if top is not None and len(taken) > top:
        left_out["beyond the top"] = len(taken) - top
        taken = taken[:top]
    return taken, left_out
