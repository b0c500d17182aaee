"""One bar of prices as a feed delivers it, before any scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

FloatArray: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
IntArray: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
SmallIntArray: TypeAlias = np.ndarray[Any, np.dtype[np.int16]]
BoolArray: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class Bar:
    """Prices known at `timestamp_ns` (the bar's close), in universe order.

    `prices` has shape (n_assets,), USDT; NaN where the symbol has no fresh price on this bar. A feed turns a
    price that is not finite and positive into NaN at its boundary and counts the rejection by symbol.
    """

    timestamp_ns: int
    prices: FloatArray
