"""Layer 2: which asset, by its impulse-response profile (spec 03, section 4)."""

from __future__ import annotations

from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.codes import DIRECT, INVERSE
from dolphin.kernel import kernel
from dolphin.numerics.portable import log1p

#: Prices that a profile needs.
IRP_PRICES = 50
NOISE_MAX = 500.0
LATENCY_MAX = 20
ALIGNMENT_MIN = 0.20
DEPTH_QUALITY_MIN = 0.20


@kernel
def impulse_response(
    prices: FloatArray, start: int, direction: int, relative: bool
) -> tuple[float, float, float, float, float, int, float]:
    """(mfe, mae, efficiency, alignment, noise, latency, ars) of 50 prices from index `start`, oldest first.

    Steps are price differences in USDT times the direction, so mfe and mae are USDT and noise USDT squared;
    with `relative` (research only) each step is divided by the first price. latency is 1-based, 50 without
    any gain.
    """
    scale = prices[start] if relative else 1.0
    total = 0.0
    best = 0.0
    worst = 0.0
    positive = 0
    for i in range(IRP_PRICES - 1):
        r = (prices[start + i + 1] - prices[start + i]) * direction
        if relative:
            r = r / scale
        total = total + r
        if total > best:
            best = total
        if total < worst:
            worst = total
        if r > 0.0:
            positive += 1
    mean = total / (IRP_PRICES - 1)
    square = 0.0
    latency = IRP_PRICES
    running = 0.0
    level = 0.10 * best
    for i in range(IRP_PRICES - 1):
        r = (prices[start + i + 1] - prices[start + i]) * direction
        if relative:
            r = r / scale
        deviation = r - mean
        square = square + deviation * deviation
        running = running + r
        if latency == IRP_PRICES and best > 0.0 and running >= level:
            latency = i + 1
    mae = 0.0 - worst
    efficiency = best / (mae + 1e-6)
    alignment = positive / (IRP_PRICES - 1)
    noise = square / (IRP_PRICES - 1)
    ars = 0.5 * log1p(efficiency) + 0.35 * alignment - 0.15 * noise * 1000.0
    return best, mae, efficiency, alignment, noise, latency, ars


@kernel
def depth_adjusted_ars(ars: float, depth_quality: float) -> float:
    """ARS after the order book's say (OB-1): deep books raise it, thin ones lower it (a negative ARS too)."""
    factor = 1.0
    if depth_quality > 1.5:
        factor = 1.10
    elif depth_quality > 1.0:
        factor = 1.05
    elif depth_quality < 0.3:
        factor = 0.90
    elif depth_quality < 0.5:
        factor = 0.95
    if ars < 0.0:
        return ars / factor
    return ars * factor


@kernel
def rank_assets(
    history: FloatArray,
    n_prices: IntArray,
    direction: int,
    min_alignment: float,
    relative: bool,
    books: bool,
    depth_quality: FloatArray,
    order: IntArray,
    actions: IntArray,
    ars: FloatArray,
) -> int:
    """Rank the assets by ARS, best first; returns how many remain.

    Parameters
    ----------
    history : float64 (n_assets, capacity), USDT
        Price history, oldest first; the first n_prices[i] entries of row i count.
    n_prices : int64 (n_assets,)
    min_alignment : float
        Assets below it are left out when it is above 0.
    books, depth_quality : bool, float64 (n_assets,)
        With books the ARS is adjusted before the ranking.
    order, actions, ars : out, (n_assets,)
        The first `count` entries: asset index, DIRECT or INVERSE, ARS. Ties keep the universe's order.
    """
    count = 0
    for asset in range(history.shape[0]):
        n = n_prices[asset]
        if n < IRP_PRICES:
            continue
        row = history[asset]
        own = impulse_response(row, n - IRP_PRICES, direction, relative)
        other = impulse_response(row, n - IRP_PRICES, -direction, relative)
        action = DIRECT
        alignment = own[3]
        noise = own[4]
        latency = own[5]
        score = own[6]
        if other[6] > own[6]:
            action = INVERSE
            alignment = other[3]
            noise = other[4]
            latency = other[5]
            score = other[6]
        if noise > NOISE_MAX or latency > LATENCY_MAX or alignment < ALIGNMENT_MIN:
            continue
        if min_alignment > 0.0 and alignment < min_alignment:
            continue
        if books:
            score = depth_adjusted_ars(score, depth_quality[asset])
        place = count
        while place > 0 and ars[place - 1] < score:
            order[place] = order[place - 1]
            actions[place] = actions[place - 1]
            ars[place] = ars[place - 1]
            place -= 1
        order[place] = asset
        actions[place] = action
        ars[place] = score
        count += 1
    return count


@kernel
def select_asset(
    order: IntArray,
    actions: IntArray,
    count: int,
    excluded: BoolArray,
    stale: BoolArray,
    books: bool,
    depth_quality: FloatArray,
) -> int:
    """Place in the ranking of the asset to trade, or -1.

    Walks down: only DIRECT, no excluded symbol, none without a fresh price, none with a book too thin. There
    is never a fallback to another asset.
    """
    for place in range(count):
        asset = order[place]
        if actions[place] != DIRECT or excluded[asset] or stale[asset]:
            continue
        if books and depth_quality[asset] < DEPTH_QUALITY_MIN:
            continue
        return place
    return -1
