"""Features of each symbol the moment its book is in: written by the book flow, read by anybody.

Entry points: `FlowFeatures`, `FeatureRow`.

A symbol's row is made on the thread that hears its message, some tens of microseconds after the bands. A bar
of these features is a message: with depth at 100 ms a symbol has ten of them a second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from dolphin.domain.bar import FloatArray
from dolphin.orderbook.asset_features import AssetFeatures
from dolphin.orderbook.bands import book_snapshot
from dolphin.orderbook.snapshot import BookSnapshot

#: Rows that wait to be recorded: 50 symbols for two minutes.
ROWS_WAITING_MAX: Final = 60_000


class FeatureRow(NamedTuple):
    """Features of one symbol; values (n_features,) in the order of `fold.FEATURE_NAMES`, never changed."""

    symbol: str
    bar: int  # how many came before it
    instant_ns: int  # when it was known, by the flow's wall clock
    book: BookSnapshot  # that it was made of
    values: FloatArray


class FlowFeatures:
    """See the module.

    One thread writes with `hear`. A read of `newest` takes no lock: it is one look-up in a dictionary.

    Parameters
    ----------
    symbols : the universe; a book of another is not heard
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        self._of = {symbol: AssetFeatures() for symbol in symbols}
        self._newest: dict[str, FeatureRow] = {}
        self._waiting: deque[FeatureRow] = deque()
        #: Books that counted as missing; rows that nobody took in time.
        self.n_refused = self.n_dropped = 0
        # The kernels are compiled now, not while the first message waits.
        one = np.array([1.0])
        nothing = book_snapshot(0, (one, one), (one + 1.0, one))
        assert nothing is not None
        AssetFeatures().fold(0, nothing)

    def hear(self, symbol: str, book: BookSnapshot, now_ns: int) -> None:
        """Fold a book in, at now_ns by the wall clock."""
        features = self._of.get(symbol)
        values = None if features is None else features.fold(now_ns, book)
        if values is None:
            self.n_refused += 1
            return
        held = self._newest.get(symbol)
        row = FeatureRow(symbol, 0 if held is None else held.bar + 1, now_ns, book, values)
        self._newest[symbol] = row
        if len(self._waiting) >= ROWS_WAITING_MAX:
            self.n_dropped += 1
        else:
            self._waiting.append(row)

    def newest(self, symbol: str) -> FeatureRow | None:
        """The newest row of a symbol, however old; None before its first."""
        return self._newest.get(symbol)

    def taken(self) -> list[FeatureRow]:
        """The rows since the last call, in the order in which they came."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]
