"""One book on the grid and in the process: `AssetBook` there, `BookSnapshot` here.

Entry points: `payload_of`, `snapshot_of`. What is unknown is None on the grid and NaN in an array; a side
that is known whole has no coverage there and an infinite one here.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from dolphin.domain.bar import FloatArray
from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.grid.payloads import AssetBook, Bands, Coverage, instant_ns
from dolphin.orderbook.snapshot import BANDS, REACHES_BPS, BookSnapshot

_FIRST_EDGE_BPS: Final = REACHES_BPS[-1]
_NAN: Final = math.nan


def payload_of(snapshot: BookSnapshot) -> AssetBook:
    """The snapshot as it goes onto the grid."""
    return AssetBook(
        timestamp=iso_from_ns(snapshot.timestamp_ns),
        bid_notional=_bands(snapshot.bid_notional),
        ask_notional=_bands(snapshot.ask_notional),
        bid_depth=_bands(snapshot.bid_depth),
        ask_depth=_bands(snapshot.ask_depth),
        coverage_bps=Coverage(
            bid=_or_none(snapshot.bid_coverage_bps), ask=_or_none(snapshot.ask_coverage_bps)
        ),
        visible_bps=snapshot.visible_bps,
        visible_bid=snapshot.visible_bid,
        visible_ask=snapshot.visible_ask,
        pushed_at=snapshot.pushed_ns / NS_PER_S,
        push_seq=snapshot.push_seq,
    )


def snapshot_of(payload: AssetBook, source_ns: int | None = None) -> BookSnapshot:
    """The snapshot that a payload stands for.

    source_ns is the payload's own instant where it was read already. A writer that does not say how far its
    sides reach reaches the far edge of the last band that it gives; one that does not say what is visible
    shows its first band where both sides have it, else nothing that can be compared.
    """
    bands = (*payload.bid_notional, *payload.ask_notional, *payload.bid_depth, *payload.ask_depth)
    sides = np.array([_NAN if amount is None else amount for amount in bands]).reshape(4, BANDS)
    bid, ask = payload.bid_notional[0], payload.ask_notional[0]
    visible_bps, visible_bid, visible_ask = payload.visible_bps, payload.visible_bid, payload.visible_ask
    if visible_bps is None or visible_bid is None or visible_ask is None:
        visible_bps = visible_bid = visible_ask = 0.0
        if bid is not None and ask is not None:
            visible_bps, visible_bid, visible_ask = _FIRST_EDGE_BPS, bid, ask
    coverage = payload.coverage_bps
    if coverage is None:
        bid_bps, ask_bps = _edge_bps(payload.bid_notional), _edge_bps(payload.ask_notional)
    else:
        bid_bps = math.inf if coverage.bid is None else coverage.bid
        ask_bps = math.inf if coverage.ask is None else coverage.ask
    return BookSnapshot(
        instant_ns(payload.timestamp) if source_ns is None else source_ns,
        sides[0],
        sides[1],
        sides[2],
        sides[3],
        bid_bps,
        ask_bps,
        visible_bps,
        visible_bid,
        visible_ask,
        instant_ns(payload.pushed_at),
        payload.push_seq,
    )


def _bands(values: FloatArray) -> Bands:
    one, two, three, four, five = (None if value != value else value for value in values.tolist())
    return one, two, three, four, five


def _or_none(coverage_bps: float) -> float | None:
    return coverage_bps if coverage_bps < math.inf else None


def _edge_bps(bands: Bands) -> float:
    """Far edge of the last band before the first unknown one."""
    known = 0
    while known < BANDS and bands[known] is not None:
        known += 1
    return known * _FIRST_EDGE_BPS
