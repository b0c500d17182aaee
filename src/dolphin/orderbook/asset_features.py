"""One asset's features, book by book as they come: for a feed that has no bars. Pure: no clock, no I/O.

Entry point: `AssetFeatures`. It folds with `dolphin.orderbook.fold.fold_bar`, as the engine does with a bar
of all assets: the same books give the same features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dolphin.domain.bar import FloatArray
from dolphin.orderbook import fold
from dolphin.orderbook.arrivals import read_snapshots
from dolphin.orderbook.constants import REFERENCE_KEEP
from dolphin.orderbook.snapshot import BookSnapshot


class AssetFeatures:
    """What is remembered of one asset's books, a constant amount.

    Parameters
    ----------
    host : turns a kernel into the form to run; `dolphin.kernel.plain` for the readable reference
    """

    def __init__(self, host: Callable[[Any], Any] = lambda function: function) -> None:
        self._fold = host(fold.fold_bar)
        self._judge = host(fold.admit)
        self._past = fold.new_past(1)

    def fold(self, now_ns: int, book: BookSnapshot) -> FloatArray | None:
        """Features with this book as the newest, (n_features,) in the order of `fold.FEATURE_NAMES`.

        None for a book that counts as missing: older than 5 s, impossible, or showing nothing. It leaves no
        trace.
        """
        arrivals = read_snapshots(("",), now_ns, lambda _: book, self._judge)
        fresh = arrivals.status == fold.FRESH
        if not fresh[0]:
            return None
        self._fold(
            arrivals.bid,
            arrivals.ask,
            fresh,
            arrivals.covered,
            arrivals.reach,
            REFERENCE_KEEP,
            self._past,
        )
        newest: FloatArray = self._past.features[:, 0].copy()
        return newest
