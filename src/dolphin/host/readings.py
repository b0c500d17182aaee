"""What a host read of its order books on one bar, as bytes for the journal and back.

Entry points: `pack`, `unpack`. Only what the features are made of is kept: the bands in use of the assets
that had a fresh snapshot, and what became of the others.
"""

from __future__ import annotations

import numpy as np

from dolphin.domain.errors import DataError
from dolphin.orderbook.fold import FRESH, Arrivals, new_arrivals
from dolphin.orderbook.snapshot import BANDS


def pack(arrivals: Arrivals) -> bytes:
    """Admitted snapshots of n assets as 3 n bytes and 80 for each fresh one."""
    fresh = arrivals.status == FRESH
    used = np.arange(BANDS) < arrivals.covered[:, None]
    bands = np.hstack([np.where(used, arrivals.bid, 0.0), np.where(used, arrivals.ask, 0.0)])[fresh]
    words = np.stack([arrivals.status, arrivals.covered, arrivals.reach]).astype("<i1")
    return bytes(words.tobytes() + bands.astype("<f8").tobytes())


def unpack(data: bytes, n_assets: int) -> Arrivals:
    """The same snapshots, admitted. Raises DataError for bytes of another universe."""
    if len(data) < 3 * n_assets or (len(data) - 3 * n_assets) % (16 * BANDS):
        raise DataError(f"book readings of {len(data)} bytes are not those of {n_assets} assets")
    words = np.frombuffer(data, "<i1", 3 * n_assets).reshape(3, n_assets)
    bands = np.frombuffer(data, "<f8", offset=3 * n_assets).reshape(-1, 2 * BANDS)
    arrivals = new_arrivals(n_assets)
    arrivals.status[:], arrivals.covered[:], arrivals.reach[:] = words
    fresh = arrivals.status == FRESH
    if int(fresh.sum()) != len(bands):
        raise DataError(f"book readings hold {len(bands)} books for {int(fresh.sum())} fresh assets")
    arrivals.bid[fresh], arrivals.ask[fresh] = bands[:, :BANDS], bands[:, BANDS:]
    return arrivals
