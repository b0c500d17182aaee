"""Closed trades summed by something: exit reason, asset, hour, bucket."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dolphin.domain.clock import NS_PER_S
from dolphin.report.data import BUCKETS, TradeRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Trades that share a label. Money in USDT; a win is net > 0."""

    label: str
    n_trades: int
    n_wins: int
    net: float

    @property
    def win_rate(self) -> float | None:
        """Share of winning trades, None without trades."""
        return self.n_wins / self.n_trades if self.n_trades else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Legs:
    """Sums of the ledger's legs over trades, USDT; `slippage` and `fees` are costs and positive."""

    price_pnl: float
    slippage: float
    fees: float
    ob_edge: float

    @property
    def real_net(self) -> float:
        """What is left without the imagined order-book edge."""
        return self.price_pnl - self.slippage - self.fees

    @property
    def net(self) -> float:
        """What the ledger booked."""
        return self.real_net + self.ob_edge


def legs_of(trades: Iterable[TradeRow]) -> Legs:
    """The legs of all trades, summed exactly and rounded once."""
    rows = tuple(trades)
    return Legs(
        price_pnl=math.fsum(t.price_pnl for t in rows),
        slippage=math.fsum(t.slippage for t in rows),
        fees=math.fsum(t.fees for t in rows),
        ob_edge=math.fsum(t.ob_edge for t in rows),
    )


def group_of(label: str, trades: Sequence[TradeRow]) -> Group:
    """One group of all the trades given."""
    return Group(
        label=label,
        n_trades=len(trades),
        n_wins=sum(1 for t in trades if t.net > 0.0),
        net=math.fsum(t.net for t in trades),
    )


def grouped(trades: Iterable[TradeRow], key: Callable[[TradeRow], str]) -> list[Group]:
    """Groups in the order in which their labels first appear."""
    found: dict[str, list[TradeRow]] = {}
    for trade in trades:
        found.setdefault(key(trade), []).append(trade)
    return [group_of(label, rows) for label, rows in found.items()]


def by_reason(trades: Iterable[TradeRow]) -> list[Group]:
    """By exit reason, the most frequent first."""
    return sorted(grouped(trades, lambda t: t.reason), key=lambda g: (-g.n_trades, g.label))


def by_asset(trades: Iterable[TradeRow], n_max: int = 16) -> list[Group]:
    """By asset, best net first; beyond `n_max` assets those that moved least are put together as `others`."""
    rows = tuple(trades)
    groups = grouped(rows, lambda t: t.asset)
    if len(groups) > n_max:
        groups.sort(key=lambda g: (-abs(g.net), g.label))
        kept = {g.label for g in groups[: n_max - 1]}
        rest = [t for t in rows if t.asset not in kept]
        groups = [*groups[: n_max - 1], group_of(f"others ({len(groups) - n_max + 1})", rest)]
    return sorted(groups, key=lambda g: (-g.net, g.label))


def by_hour(trades: Iterable[TradeRow]) -> list[Group]:
    """By UTC hour of the entry: always 24 groups, 00 to 23."""
    hours: list[list[TradeRow]] = [[] for _ in range(24)]
    for trade in trades:
        hours[trade.entry_ns // (3_600 * NS_PER_S) % 24].append(trade)
    return [group_of(f"{hour:02d}", rows) for hour, rows in enumerate(hours)]


def by_bucket(trades: Iterable[TradeRow]) -> list[Group]:
    """By vel_div bucket at entry, strongest first: the four known ones always, others after them."""
    rows = tuple(trades)
    known = [group_of(name, [t for t in rows if t.bucket == name]) for name in BUCKETS]
    return known + grouped((t for t in rows if t.bucket not in BUCKETS), lambda t: t.bucket)


@dataclass(frozen=True, kw_only=True, slots=True)
class LaneStats:
    """What one lane did over all trades: its factors, and the net (USDT) of trades that it raised and cut."""

    lane: str
    lowest: float
    mean: float
    highest: float
    n_raised: int
    net_raised: float
    n_cut: int
    net_cut: float


def lane_stats(trades: Sequence[TradeRow], lane: str) -> LaneStats:
    """Statistics of one lane over at least one trade; raised is a factor above 1, cut one below it."""
    factors = [t.lanes[lane] for t in trades]
    raised = [t.net for t in trades if t.lanes[lane] > 1.0]
    cut = [t.net for t in trades if t.lanes[lane] < 1.0]
    return LaneStats(
        lane=lane,
        lowest=min(factors),
        mean=math.fsum(factors) / len(factors),
        highest=max(factors),
        n_raised=len(raised),
        net_raised=math.fsum(raised),
        n_cut=len(cut),
        net_cut=math.fsum(cut),
    )
