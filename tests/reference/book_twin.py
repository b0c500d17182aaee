"""Features of order books bar after bar, slowly and plainly: the twin of `market.synthetic_books`.

Written from spec 04 ("Feature kernels", "Engine"): lists, whole pasts, one asset after another. A bar's
snapshots are a dictionary from the asset to its (bid, ask) notional in five bands; an asset that is not in it
has no snapshot.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

Snapshot = tuple[list[float], list[float]]


def sign(x: float) -> int:
    return (x > 0) - (x < 0)


@dataclass
class AssetPast:
    """All that was ever seen of an asset."""

    depths: list[float] = field(default_factory=list)
    imbalances: list[float] = field(default_factory=list)
    reference: float = 0.0
    features: dict[str, float] = field(
        default_factory=lambda: {
            "imbalance_ma5": 0.0,
            "persistence": 0.0,
            "depth_quality": 1.0,
            "fill_probability": 0.5,
            "withdrawal_velocity": 0.0,
        }
    )

    def see(self, bid: list[float], ask: list[float]) -> None:
        depth = bid[0] + ask[0]
        self.reference = 0.99 * self.reference + 0.01 * depth if self.depths else depth
        self.depths.append(depth)
        total = sum(bid) + sum(ask)
        self.imbalances.append((sum(bid) - sum(ask)) / total if total else 0.0)
        last = self.imbalances[-10:]
        kept = self.depths[-60:]
        old, new = kept[0], kept[-1]
        quality = depth / self.reference if self.reference > 0 else 0.0
        self.features = {
            "imbalance_ma5": statistics.fmean(self.imbalances[-5:]),
            "persistence": sum(sign(x) == sign(last[-1]) for x in last) / len(last) if last[-1] else 0.0,
            "depth_quality": quality,
            "fill_probability": quality / (1 + quality),
            "withdrawal_velocity": (new - old) / old if len(kept) > 1 and old > 0 else 0.0,
        }


class BookTwin:
    """`step` takes one bar's snapshots and gives what the alpha sees."""

    def __init__(self, n_assets: int) -> None:
        self.pasts = [AssetPast() for _ in range(n_assets)]
        self.market: dict[str, Any] = {
            "median_imbalance": 0.0,
            "agreement": 0.0,
            "cascade_count": 0,
            "regime_signal": 0,
        }
        self.silent = 3  # nothing was ever seen: as good as three silent bars

    def step(self, snapshots: dict[int, Snapshot]) -> dict[str, Any]:
        for asset, (bid, ask) in snapshots.items():
            self.pasts[asset].see(bid, ask)
        if snapshots:
            self.silent = 0
            fresh = [self.pasts[asset] for asset in snapshots]
            imbalances = [past.imbalances[-1] for past in fresh]
            velocities = [past.features["withdrawal_velocity"] for past in fresh]
            median = statistics.median(imbalances)
            agreement = sum(sign(x) == sign(median) for x in imbalances) / len(imbalances)
            drain = statistics.median(velocities)
            regime = 1 if drain < -0.10 else -1 if abs(drain) < 0.02 and agreement > 0.60 else 0
            self.market = {
                "median_imbalance": median,
                "agreement": agreement,
                "cascade_count": sum(v < -0.30 for v in velocities),
                "regime_signal": regime,
            }
        else:
            self.silent += 1
        names = self.pasts[0].features
        return (
            {"present": self.silent < 3}
            | self.market
            | {name: [past.features[name] for past in self.pasts] for name in names}
        )
