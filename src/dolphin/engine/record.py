"""What a step tells of its bar: two arrays of numbers, by slot."""

from __future__ import annotations

from typing import Final

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.engine.state import (
    NONE,
)
from dolphin.kernel import kernel

# Slots of the step's float record.
OUT_FLOAT_NAMES: Final = (
    "price",
    "net",
    "gross",
    "entry_fee",
    "exit_fee",
    "ob_edge",
    "scan_price",
    "pnl_pct",
    "tp",
    "sl",
    "confidence",
    "strength",
    "bucket_boost",
    "streak",
    "trend",
    "dc_change_bps",
    "ars",
)


(
    O_PRICE,
    O_NET,
    O_GROSS,
    O_ENTRY_FEE,
    O_EXIT_FEE,
    O_OB_EDGE,
    O_SCAN_PRICE,
    O_PNL_PCT,
    O_TP,
    O_SL,
    O_CONFIDENCE,
    O_STRENGTH,
    O_BUCKET_BOOST,
    O_STREAK,
    O_TREND,
    O_DC_CHANGE,
    O_ARS,
) = range(len(OUT_FLOAT_NAMES))


# Slots of the step's integer record.
OUT_INT_NAMES: Final = (
    "action",
    "reason",
    "asset",
    "bars_held",
    "max_hold",
    "stale_price",
    "dc_status",
    "rank",
    "ranked",
)


(
    O_ACTION,
    O_REASON,
    O_ASSET,
    O_BARS_HELD,
    O_MAX_HOLD,
    O_STALE_PRICE,
    O_DC_STATUS,
    O_RANK,
    O_RANKED,
) = range(len(OUT_INT_NAMES))


@kernel
def clear(out_f: FloatArray, out_i: IntArray) -> None:
    """Empty the records of a bar: nothing done, no asset."""
    for i in range(out_f.shape[0]):
        out_f[i] = 0.0
    for i in range(out_i.shape[0]):
        out_i[i] = 0
    out_i[O_ASSET] = NONE
