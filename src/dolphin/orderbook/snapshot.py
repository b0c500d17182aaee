"""One asset's book in bands, as every provider gives it and the features take it (spec 04, "Snapshot").

A side that does not reach a band's far edge leaves that band unknown: NaN here, never zero. What a shorter
book shows is counted within a *reach*, the largest of `REACHES_BPS` that both sides cover, so that two
snapshots of one reach can be compared however much more of the book one of them shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dolphin.domain.bar import FloatArray

BANDS: Final = 5
#: Distances from mid, in basis points, at which what is visible of a shorter book is counted.
REACHES_BPS: Final = (5.0, 10.0, 20.0, 40.0, 70.0, 100.0)


@dataclass(frozen=True, slots=True)
class BookSnapshot:
    """Bands of one book at one instant.

    Arrays are float64 (5,): band k holds what rests in (k-1 %, k %] from mid, NaN where the side does not
    reach k %. Notional in USD, depth in base units. coverage_bps is how far from mid a side is known,
    infinite for a whole one. visible_bid and visible_ask are the USD within visible_bps of mid, the largest
    of `REACHES_BPS` that both sides cover; 0 when they cover none. timestamp_ns is the book's own instant,
    pushed_ns the sender's clock, push_seq the sender's count for this asset.
    """

    timestamp_ns: int
    bid_notional: FloatArray
    ask_notional: FloatArray
    bid_depth: FloatArray
    ask_depth: FloatArray
    bid_coverage_bps: float
    ask_coverage_bps: float
    visible_bps: float
    visible_bid: float
    visible_ask: float
    pushed_ns: int = 0
    push_seq: int = 0
