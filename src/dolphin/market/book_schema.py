"""Columns of recorded books: snapshots, features of assets, figures across them.

A folder of each has one sub-folder a UTC day, `date=YYYY-MM-DD/`, with parts `part-NNNNNN.parquet` in order
(Hive layout). Nothing in it is ever pruned by us. `ts` is the instant of the book, or of the bar.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from dolphin.orderbook.fold import FEATURE_NAMES
from dolphin.orderbook.snapshot import BANDS

SNAPSHOT_FOLDER: Final = "ob_snapshots"
FEATURE_FOLDER: Final = "ob_features"
MARKET_FOLDER: Final = "ob_market"

_TS: Final = pa.field("ts", pa.timestamp("ns", tz="UTC"), nullable=False)
_SYMBOL: Final = pa.field("symbol", pa.string(), nullable=False)
_BAR: Final = pa.field("bar_idx", pa.int64(), nullable=False)


def _numbers(*names: str) -> list[pa.Field]:
    return [pa.field(name, pa.float64(), nullable=False) for name in names]


#: Fields of BookSnapshot that are bands; a column for each, `bid_notional_1` to `ask_depth_5`, null where the
#: side does not reach the band's far edge.
BAND_FIELDS: Final = ("bid_notional", "ask_notional", "bid_depth", "ask_depth")
BAND_COLUMNS: Final = tuple(f"{side}_{k}" for side in BAND_FIELDS for k in range(1, BANDS + 1))
#: In bps; infinite for a side that is known whole.
COVERAGE_COLUMNS: Final = ("bid_coverage_bps", "ask_coverage_bps")
#: What is visible within a reach that both sides cover: bps, USD, USD.
VISIBLE_COLUMNS: Final = ("visible_bps", "visible_bid", "visible_ask")

SNAPSHOT_SCHEMA: Final = pa.schema(
    [
        _TS,
        _SYMBOL,
        *(pa.field(name, pa.float64()) for name in BAND_COLUMNS),
        *_numbers(*COVERAGE_COLUMNS, *VISIBLE_COLUMNS),
        pa.field("pushed_ns", pa.int64(), nullable=False),
        pa.field("push_seq", pa.int64(), nullable=False),
    ]
)

#: One row an asset and bar; `fresh` says whether it had a snapshot on this bar or keeps its last features.
#: Of a live flow a bar is a message of the asset, and `ts` when its features were known.
FEATURE_SCHEMA: Final = pa.schema(
    [_TS, _BAR, _SYMBOL, pa.field("fresh", pa.bool_(), nullable=False), *_numbers(*FEATURE_NAMES)]
)

#: One row a bar.
MARKET_SCHEMA: Final = pa.schema(
    [
        _TS,
        _BAR,
        *_numbers("median_imbalance", "agreement_pct", "depth_pressure"),
        pa.field("n_assets", pa.int64(), nullable=False),
        *_numbers("depth_velocity", "acceleration"),
        pa.field("cascade_count", pa.int64(), nullable=False),
        pa.field("regime_signal", pa.int64(), nullable=False),
        pa.field("degraded", pa.bool_(), nullable=False),
    ]
)
