"""Layer 2: which asset, by its impulse-response profile (spec 03, section 4).

All assets are profiled at once: time runs in the outer loop and assets in the inner one, so that the compiler
works on eight assets an instruction while each asset's sums keep the order written. One pass serves both
directions, since every step and every running sum of the other direction is the exact negative.
"""

from __future__ import annotations

import numpy as np

from dolphin.domain.bar import BoolArray, FloatArray, IntArray, SmallIntArray
from dolphin.domain.codes import DIRECT, INVERSE
from dolphin.kernel import kernel
from dolphin.numerics.portable import log1p

#: Prices that a profile needs.
IRP_PRICES = 50
NOISE_MAX = 500.0
LATENCY_MAX = 20
ALIGNMENT_MIN = 0.20
DEPTH_QUALITY_MIN = 0.20

#: Rows of the profiles' work space.
MEAN, BEST, WORST, UPS, DOWNS, NOISE = range(6)
PROFILE_ROWS = 6
#: Steps of a profile.
STEPS = IRP_PRICES - 1


@kernel
def profile_steps(
    window: FloatArray,
    relative: bool,
    mean: FloatArray,
    best: FloatArray,
    worst: FloatArray,
    ups: FloatArray,
    downs: FloatArray,
    noise: FloatArray,
) -> None:
    """Profile every column of `window`, in the LONG direction; the other direction follows by sign.

    Parameters
    ----------
    window : float64 (50, n_assets), USDT, oldest first
    relative : each step is divided by the first price (research only)
    mean, best, worst : out, (n_assets,), USDT
        Mean step (the running sum until the first pass is through), highest running sum (0 at least), lowest
        running sum (0 at most).
    ups, downs : out, (n_assets,), steps above and below 0
    noise : out, (n_assets,), population variance of the steps, USDT squared

    A column with NaN gives NaN or nonsense and must not be used.
    """
    n = window.shape[1]
    for a in range(n):
        mean[a] = 0.0
        best[a] = 0.0
        worst[a] = 0.0
        ups[a] = 0.0
        downs[a] = 0.0
        noise[a] = 0.0
    for i in range(STEPS):
        for a in range(n):
            r = window[i + 1, a] - window[i, a]
            if relative:
                r = r / window[0, a]
            c = mean[a] + r
            mean[a] = c
            best[a] = c if c > best[a] else best[a]
            worst[a] = c if c < worst[a] else worst[a]
            ups[a] = ups[a] + (1.0 if r > 0.0 else 0.0)
            downs[a] = downs[a] + (1.0 if r < 0.0 else 0.0)
    for a in range(n):
        mean[a] = mean[a] / STEPS
    for i in range(STEPS):
        for a in range(n):
            r = window[i + 1, a] - window[i, a]
            if relative:
                r = r / window[0, a]
            deviation = r - mean[a]
            noise[a] = noise[a] + deviation * deviation
    for a in range(n):
        noise[a] = noise[a] / STEPS


@kernel
def impulse_latency(window: FloatArray, asset: int, sign: float, relative: bool, best: float) -> int:
    """First step, from 1, whose running sum reaches a tenth of `best` (USDT); 50 without any gain.

    window as in `profile_steps`; sign +1.0 for LONG, -1.0 for SHORT.
    """
    if not best > 0.0:
        return IRP_PRICES
    level = 0.10 * best
    running = 0.0
    for i in range(STEPS):
        r = window[i + 1, asset] - window[i, asset]
        if relative:
            r = r / window[0, asset]
        running = running + r
        if running * sign >= level:
            return i + 1
    return IRP_PRICES


@kernel
def asset_ranking_score(best: float, mae: float, alignment: float, noise: float) -> float:
    """ARS of one direction: best and mae in USDT, alignment a share, noise in USDT squared."""
    return 0.5 * log1p(best / (mae + 1e-6)) + 0.35 * alignment - 0.15 * noise * 1000.0


@kernel
def impulse_response(
    prices: FloatArray, start: int, direction: int, relative: bool
) -> tuple[float, float, float, float, float, int, float]:
    """(mfe, mae, efficiency, alignment, noise, latency, ars) of 50 prices from index `start`, oldest first.

    Steps are price differences in USDT times the direction, so mfe and mae are USDT and noise USDT squared;
    with `relative` (research only) each step is divided by the first price. latency is 1-based, 50 without
    any gain. The ranking's own kernels on one asset.
    """
    window = np.empty((IRP_PRICES, 1))
    for i in range(IRP_PRICES):
        window[i, 0] = prices[start + i]
    work = np.empty((PROFILE_ROWS, 1))
    profile_steps(window, relative, work[MEAN], work[BEST], work[WORST], work[UPS], work[DOWNS], work[NOISE])
    best = work[BEST, 0]
    mae = 0.0 - work[WORST, 0]
    steps = work[UPS, 0]
    sign = 1.0
    if direction < 0:
        best, mae = mae, best
        steps = work[DOWNS, 0]
        sign = -1.0
    alignment = steps / STEPS
    noise = work[NOISE, 0]
    latency = impulse_latency(window, 0, sign, relative, best)
    return (
        best,
        mae,
        best / (mae + 1e-6),
        alignment,
        noise,
        latency,
        asset_ranking_score(best, mae, alignment, noise),
    )


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
def window_of(
    prices: FloatArray, ends: IntArray, first: IntArray, window: FloatArray
) -> tuple[int, FloatArray]:
    """(first row of the last 50 prices, array that holds them); `prices` itself where assets end together.

    Otherwise each asset's last 50 are gathered into `window` (50, n_assets), ones where there are fewer.
    """
    n = prices.shape[1]
    end = ends[0]
    together = end >= IRP_PRICES
    for a in range(n):
        if ends[a] != end:
            together = False
    if together:
        return end - IRP_PRICES, prices
    for a in range(n):
        start = ends[a] - IRP_PRICES
        for i in range(IRP_PRICES):
            window[i, a] = prices[start + i, a] if start >= first[a] else 1.0
    return 0, window


@kernel
def rank_assets(
    prices: FloatArray,
    ends: IntArray,
    first: IntArray,
    direction: int,
    min_alignment: float,
    relative: bool,
    books: bool,
    depth_quality: FloatArray,
    window: FloatArray,
    work: FloatArray,
    order: SmallIntArray,
    actions: SmallIntArray,
    aligned: SmallIntArray,
    ars: FloatArray,
) -> int:
    """Rank the assets by ARS, best first; returns how many remain.

    Parameters
    ----------
    prices : float64 (n_rows, n_assets), USDT
        Price history, oldest first; rows first[i] to ends[i] - 1 of column i count.
    ends, first : int64 (n_assets,)
    min_alignment : float
        Assets below it are left out when it is above 0.
    books, depth_quality : bool, float64 (n_assets,)
        With books the ARS is adjusted before the ranking.
    window, work : work space, float64 (50, n_assets) and (6, n_assets)
    order, actions, aligned, ars : out, (n_assets,)
        The first `count` entries: asset index, DIRECT or INVERSE, steps of 49 in that direction, ARS. Ties
        keep the universe's order.
    """
    begin, source = window_of(prices, ends, first, window)
    rows = source[begin : begin + IRP_PRICES]
    profile_steps(rows, relative, work[MEAN], work[BEST], work[WORST], work[UPS], work[DOWNS], work[NOISE])
    count = 0
    for asset in range(prices.shape[1]):
        if ends[asset] - first[asset] < IRP_PRICES:
            continue
        noise = work[NOISE, asset]
        if noise > NOISE_MAX:
            continue
        best_long = work[BEST, asset]
        best_short = 0.0 - work[WORST, asset]
        steps_long = work[UPS, asset]
        steps_short = work[DOWNS, asset]
        score_long = asset_ranking_score(best_long, best_short, steps_long / STEPS, noise)
        score_short = asset_ranking_score(best_short, best_long, steps_short / STEPS, noise)
        long = score_long > score_short if direction < 0 else not score_short > score_long
        score = score_long if long else score_short
        steps = steps_long if long else steps_short
        alignment = steps / STEPS
        if alignment < ALIGNMENT_MIN or (min_alignment > 0.0 and alignment < min_alignment):
            continue
        best = best_long if long else best_short
        sign = 1.0 if long else -1.0
        if impulse_latency(rows, asset, sign, relative, best) > LATENCY_MAX:
            continue
        if books:
            score = depth_adjusted_ars(score, depth_quality[asset])
        place = count
        while place > 0 and ars[place - 1] < score:
            order[place] = order[place - 1]
            actions[place] = actions[place - 1]
            aligned[place] = aligned[place - 1]
            ars[place] = ars[place - 1]
            place -= 1
        order[place] = asset
        actions[place] = DIRECT if long == (direction > 0) else INVERSE
        aligned[place] = int(steps)
        ars[place] = score
        count += 1
    return count


@kernel
def select_asset(
    order: SmallIntArray,
    actions: SmallIntArray,
    aligned: SmallIntArray,
    count: int,
    min_alignment: float,
    excluded: BoolArray,
    stale: BoolArray,
    books: bool,
    depth_quality: FloatArray,
) -> tuple[int, int, int]:
    """(place, rank, ranked): the asset to trade and its rank among those aligned enough; place -1 for none.

    Walks down: only DIRECT, no excluded symbol, none without a fresh price, none with a book too thin; assets
    aligned less than `min_alignment` are not counted at all when it is above 0. There is never a fallback to
    another asset.
    """
    chosen = -1
    rank = 0
    ranked = 0
    for place in range(count):
        if min_alignment > 0.0 and aligned[place] / STEPS < min_alignment:
            continue
        ranked += 1
        if chosen >= 0:
            continue
        asset = order[place]
        if actions[place] != DIRECT or excluded[asset] or stale[asset]:
            continue
        if books and depth_quality[asset] < DEPTH_QUALITY_MIN:
            continue
        chosen = place
        rank = ranked
    return chosen, rank, ranked
