"""The order-book engine, slowly and plainly: the twin of `dolphin.orderbook.engine`.

Written from spec 04 and its ruling on reaches: lists of everything that was ever seen, dictionaries by
symbol, one asset after another. Sums run from the first element to the last, so that bits can be compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from dolphin.orderbook.snapshot import BookSnapshot

STALE_NS = 5_000_000_000
REACHES = (5.0, 10.0, 20.0, 40.0, 70.0, 100.0)


def sign(x: float) -> int:
    return (x > 0) - (x < 0)


def added(values: list[float]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total


def middle(values: list[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2.0


def change(old: float, new: float) -> float:
    return (new - old) / old if old > 0 else 0.0


def taken(snapshot: BookSnapshot | None, now_ns: int) -> tuple[float, list[float], list[float]] | str:
    """(reach, bids, asks) over what both sides cover, or why the snapshot does not count."""
    if snapshot is None:
        return "missing"
    if abs(now_ns - snapshot.timestamp_ns) > STALE_NS:
        return "stale"
    bids, asks = [], []
    for bid, ask in zip(snapshot.bid_notional.tolist(), snapshot.ask_notional.tolist(), strict=True):
        if math.isnan(bid) or math.isnan(ask):
            break
        bids.append(bid)
        asks.append(ask)
    reach = 100.0
    if not bids:
        reach, bids, asks = snapshot.visible_bps, [snapshot.visible_bid], [snapshot.visible_ask]
        if reach == 0:
            return "hidden"
        if reach not in REACHES:
            return "refused"
    if not all(0 <= amount < math.inf for amount in bids + asks):
        return "refused"
    return reach, bids, asks


NEUTRAL = {
    "depth_1pct_usd": 0.0,
    "depth_quality": 1.0,
    "fill_probability": 0.5,
    "spread_proxy_bps": 0.0,
    "reach_bps": 0.0,
    "imbalance": 0.0,
    "imbalance_ma5": 0.0,
    "imbalance_persistence": 0.0,
    "depth_asymmetry": 0.0,
    "withdrawal_velocity": 0.0,
}


@dataclass
class Asset:
    depths: list[tuple[float, float]] = field(default_factory=list)  # (reach, USD)
    imbalances: list[float] = field(default_factory=list)
    references: dict[float, float] = field(default_factory=dict)
    features: dict[str, float] = field(default_factory=lambda: dict(NEUTRAL))

    @property
    def reach(self) -> float:
        return self.depths[-1][0]

    def see(self, reach: float, bids: list[float], asks: list[float], keep: float) -> float:
        """Take a snapshot in; the reference of its reach as it was before."""
        depth = bids[0] + asks[0]
        before = self.references.get(reach, depth)
        self.references[reach] = keep * before + (1.0 - keep) * depth if reach in self.references else depth
        bid, ask = added(bids), added(asks)
        imbalance = (bid - ask) / (bid + ask) if bid + ask else 0.0
        reference = self.references[reach]
        quality = depth / reference if reference > 0 else 0.0
        far_bid, far_ask = added(bids[1:]), added(asks[1:])
        near = (bids[0] - asks[0]) / depth if depth else 0.0
        far = (far_bid - far_ask) / (far_bid + far_ask) if far_bid + far_ask else 0.0
        self.depths.append((reach, depth))
        self.imbalances.append(imbalance)
        last = self.imbalances[-10:]
        like = [usd for r, usd in self.depths[-60:] if r == reach]
        self.features = {
            "depth_1pct_usd": depth,
            "depth_quality": quality,
            "fill_probability": quality / (1.0 + quality),
            "spread_proxy_bps": 100.0 * (1.0 - depth / (bid + ask)) if bid + ask else 100.0,
            "reach_bps": reach,
            "imbalance": imbalance,
            "imbalance_ma5": added(last[-5:]) / len(last[-5:]),
            "imbalance_persistence": (
                len([x for x in last if sign(x) == sign(imbalance)]) / len(last) if imbalance else 0.0
            ),
            "depth_asymmetry": near - far,
            "withdrawal_velocity": change(like[0], depth) if len(like) > 1 else 0.0,
        }
        return before


class EngineTwin:
    """`step` takes one bar's snapshots and gives features by symbol, and the market's figures."""

    def __init__(self, symbols: list[str], keep: float = 0.99) -> None:
        self.keep = keep
        self.assets = {symbol: Asset() for symbol in symbols}
        self.means: list[float] = []
        self.silent = 0
        self.ever = False
        self.market: dict[str, Any] = dict.fromkeys(
            (
                "median_imbalance",
                "agreement_pct",
                "depth_pressure",
                "n_assets",
                "depth_velocity",
                "acceleration",
                "cascade_count",
                "regime_signal",
            ),
            0,
        )

    def step(self, now_ns: int, books: dict[str, BookSnapshot | None]) -> dict[str, Any]:
        fresh: list[Asset] = []
        before: list[float] = []
        now: list[float] = []
        changed = False
        for symbol, asset in self.assets.items():
            found = taken(books.get(symbol), now_ns)
            if not isinstance(found, str):
                changed |= not asset.depths or asset.reach != found[0]
                before.append(asset.see(*found, self.keep))
                now.append(asset.references[asset.reach])
                fresh.append(asset)
            elif asset.depths:
                before.append(asset.references[asset.reach])
                now.append(asset.references[asset.reach])
        self.market["n_assets"] = len(fresh)
        if fresh:
            self.silent, self.ever = 0, True
            self._market(fresh)
            self._mean(added(before) / len(before), added(now) / len(now), changed)
        else:
            self.silent += 1
        return {
            "present": self.ever and self.silent < 3,
            "market": dict(self.market),
            "features": {symbol: dict(asset.features) for symbol, asset in self.assets.items()},
        }

    def _market(self, fresh: list[Asset]) -> None:
        imbalances = [asset.imbalances[-1] for asset in fresh]
        velocities = [asset.features["withdrawal_velocity"] for asset in fresh]
        median, drain = middle(imbalances), middle(velocities)
        agreement = len([x for x in imbalances if sign(x) == sign(median)]) / len(fresh)
        self.market |= {
            "median_imbalance": median,
            "agreement_pct": agreement,
            "depth_pressure": added(imbalances),
            "cascade_count": len([v for v in velocities if v < -0.30]),
            "regime_signal": 1 if drain < -0.10 else -1 if abs(drain) < 0.02 and agreement > 0.60 else 0,
        }

    def _mean(self, before: float, now: float, changed: bool) -> None:
        if changed and self.means:
            last = self.means[-1]
            self.means = [mean * (before / last) for mean in self.means] if last > 0 else []
        self.means = [*self.means, now][-60:]
        velocity = change(self.means[0], now) if len(self.means) > 1 else 0.0
        self.market["acceleration"] = velocity - self.market["depth_velocity"]
        self.market["depth_velocity"] = velocity
