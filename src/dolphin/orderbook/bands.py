"""The levels of a book to its bands: `book_snapshot` (spec 04, "Snapshot").

1. A level's distance is `10_000 * |price - mid| / mid` basis points, in float64 and in this order; band k
   takes (100 (k-1), 100 k] of it, a reach r takes (0, r].
2. A side is known up to its edge and no further. A band or a reach that the edge does not cover is not
   counted, whatever single levels are known beyond the edge: NaN, or a smaller reach.
3. Without a mid there are no bands: an empty side or a crossed book gives None.

Twin: `tests/reference/bands_twin.py`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from dolphin.domain.bar import FloatArray
from dolphin.kernel import kernel
from dolphin.orderbook.snapshot import BANDS, REACHES_BPS, BookSnapshot

#: Width of a band in basis points of mid.
BAND_BPS: Final = 100.0


@kernel
def side_bands(
    prices: FloatArray,
    quantities: FloatArray,
    mid: float,
    coverage_bps: float,
    notional: FloatArray,
    depth: FloatArray,
) -> None:
    """Fill one side's bands: USD into notional, base units into depth, both (n_bands,).

    prices and quantities are (n_levels,), best first. NaN in a band whose far edge is beyond coverage_bps.
    """
    n_bands = notional.shape[0]
    for band in range(n_bands):
        known = coverage_bps >= BAND_BPS * (band + 1)
        notional[band] = 0.0 if known else np.nan
        depth[band] = 0.0 if known else np.nan
    band = 0
    for i in range(prices.shape[0]):
        distance = 10_000.0 * abs(prices[i] - mid) / mid
        while band < n_bands and distance > BAND_BPS * (band + 1):
            band += 1
        if band == n_bands:
            break
        notional[band] = notional[band] + prices[i] * quantities[i]
        depth[band] = depth[band] + quantities[i]


@kernel
def are_levels(prices: FloatArray, quantities: FloatArray) -> bool:
    """Whether every price and every quantity (n_levels,) is finite and above 0."""
    sound = True
    for i in range(prices.shape[0]):
        if not (0.0 < prices[i] < np.inf and 0.0 < quantities[i] < np.inf):
            sound = False
    return sound


@kernel
def notional_within(prices: FloatArray, quantities: FloatArray, mid: float, reach_bps: float) -> float:
    """USD that rests within reach_bps of mid; prices (n_levels,), best first."""
    total = 0.0
    for i in range(prices.shape[0]):
        if 10_000.0 * abs(prices[i] - mid) / mid > reach_bps:
            break
        total = total + prices[i] * quantities[i]
    return total


def book_snapshot(
    timestamp_ns: int,
    bids: tuple[FloatArray, FloatArray],
    asks: tuple[FloatArray, FloatArray],
    *,
    bid_edge: float | None = None,
    ask_edge: float | None = None,
    pushed_ns: int = 0,
    push_seq: int = 0,
) -> BookSnapshot | None:
    """The bands of a book.

    Parameters
    ----------
    timestamp_ns : int
        The book's own instant.
    bids, asks : (prices, quantities)
        float64 (n_levels,) each, USD and base units, finite, positive, best first.
    bid_edge, ask_edge : float or None
        Price in USD up to which every level is known: -inf and inf for a whole side, None for the last level
        given. A local book must say: the levels beyond its snapshot are some of those that rest there.
    pushed_ns, push_seq : int
        As in `BookSnapshot`.

    Returns
    -------
    BookSnapshot or None
        None for a book without a mid: a side is empty, or best ask <= best bid.
    """
    bid_px, bid_qty = bids
    ask_px, ask_qty = asks
    if not len(bid_px) or not len(ask_px) or ask_px[0] <= bid_px[0]:
        return None
    mid = float(bid_px[0] + ask_px[0]) / 2.0
    far_bid = float(bid_px[-1]) if bid_edge is None else bid_edge
    far_ask = float(ask_px[-1]) if ask_edge is None else ask_edge
    # Mid may have gone past what the snapshot showed: then nothing of that side is known.
    bid_coverage = max(0.0, 10_000.0 * (mid - far_bid) / mid)
    ask_coverage = max(0.0, 10_000.0 * (far_ask - mid) / mid)
    bands = np.empty((4, BANDS))
    side_bands(bid_px, bid_qty, mid, bid_coverage, bands[0], bands[2])
    side_bands(ask_px, ask_qty, mid, ask_coverage, bands[1], bands[3])
    covered = min(bid_coverage, ask_coverage)
    reach = 0.0
    for reach_bps in REACHES_BPS:
        if reach_bps <= covered:
            reach = reach_bps
    return BookSnapshot(
        timestamp_ns=timestamp_ns,
        bid_notional=bands[0],
        ask_notional=bands[1],
        bid_depth=bands[2],
        ask_depth=bands[3],
        bid_coverage_bps=bid_coverage,
        ask_coverage_bps=ask_coverage,
        visible_bps=reach,
        visible_bid=notional_within(bid_px, bid_qty, mid, reach),
        visible_ask=notional_within(ask_px, ask_qty, mid, reach),
        pushed_ns=pushed_ns,
        push_seq=push_seq,
    )
