"""Features of one order book and of its recent past (spec 04, "Feature kernels").

`bid` and `ask` are float64 (k,): USD notional resting in the bands (k-1 %, k %] from mid that both sides
cover, five of a whole book. Of a book that does not cover the first, the one entry is what is visible.
"""

from __future__ import annotations

import numpy as np

from dolphin.domain.bar import FloatArray
from dolphin.kernel import kernel


@kernel
def book_features(
    bid: FloatArray, ask: FloatArray, reference: float
) -> tuple[float, float, float, float, float, float]:
    """(depth_1pct_usd, imbalance, depth_quality, fill_probability, spread_proxy_bps, depth_asymmetry).

    reference is the asset's usual depth_1pct_usd in USD; at or below 0 the quality is 0.
    """
    bids = 0.0
    asks = 0.0
    far_bids = 0.0
    far_asks = 0.0
    for i in range(bid.shape[0]):
        bids = bids + bid[i]
        asks = asks + ask[i]
        if i > 0:
            far_bids = far_bids + bid[i]
            far_asks = far_asks + ask[i]
    depth = bid[0] + ask[0]
    total = bids + asks
    imbalance = 0.0
    spread = 100.0
    if total != 0.0:
        imbalance = (bids - asks) / total
        spread = 100.0 * (1.0 - depth / total)
    quality = 0.0
    if reference > 0.0:
        quality = depth / reference
    near = 0.0
    if depth != 0.0:
        near = (bid[0] - ask[0]) / depth
    far = 0.0
    if far_bids + far_asks != 0.0:
        far = (far_bids - far_asks) / (far_bids + far_asks)
    return depth, imbalance, quality, quality / (1.0 + quality), spread, near - far


@kernel
def withdrawal_velocity(depths: FloatArray, lookback: int) -> float:
    """Relative change of depth over the lookback (oldest first); 0 without a past or with an empty one."""
    n = depths.shape[0] - 1
    if lookback < n:
        n = lookback
    if n < 1:
        return 0.0
    return relative_change(depths[depths.shape[0] - 1 - n], depths[depths.shape[0] - 1])


@kernel
def relative_change(old: float, new: float) -> float:
    """(new - old) / old; 0 where old is not above 0."""
    if old <= 0.0:
        return 0.0
    return (new - old) / old


@kernel
def median(values: FloatArray) -> float:
    """Median of at least one value; the mean of the two middle ones of an even count."""
    ordered = np.sort(values)
    n = ordered.shape[0]
    if n % 2 == 1:
        middle: float = ordered[n // 2]
        return middle
    both: float = ordered[n // 2 - 1] + ordered[n // 2]
    return both / 2.0


@kernel
def same_sign(a: float, b: float) -> bool:
    """Whether both are above 0, both below, or both 0."""
    return (a > 0.0 and b > 0.0) or (a < 0.0 and b < 0.0) or (a == 0.0 and b == 0.0)


@kernel
def imbalance_persistence(imbalances: FloatArray, n: int) -> float:
    """Share of the last n imbalances (oldest first) with the sign of the newest; 0 when the newest is 0."""
    length = imbalances.shape[0]
    if length == 0:
        return 0.0
    newest = imbalances[length - 1]
    if newest == 0.0:
        return 0.0
    taken = n if n < length else length
    same = 0
    for i in range(length - taken, length):
        if (newest > 0.0 and imbalances[i] > 0.0) or (newest < 0.0 and imbalances[i] < 0.0):
            same += 1
    return same / taken
