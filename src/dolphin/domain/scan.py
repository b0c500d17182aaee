"""The scan record, schema version 5.0.0: one tick of the scanner.

The fields up to `missing_asset_count` are the 27 columns of the store, in order; the rest travels as
metadata. A column is None where it is ambiguous (rotation and loadings of a clustered spectrum).
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from dolphin.domain.bar import FloatArray

SCHEMA_VERSION = "5.0.0"
WINDOWS = (50, 150, 300, 750)
#: Prices needed before the first scan: 751 returns give the longest window its velocity.
WARMUP_PRICES = 752

#: What is named of a window where several hold: the last of them in this order.
OUTCOME_OK = "ok"
OUTCOME_REJECTED = "rejected"  # a price of this bar was held back: its ratio to the last one is beyond e
OUTCOME_ZERO_VARIANCE = "zero_variance"
OUTCOME_CLUSTERED = "clustered"
OUTCOMES = (OUTCOME_OK, OUTCOME_REJECTED, OUTCOME_ZERO_VARIANCE, OUTCOME_CLUSTERED)


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """One published scan.

    `lambda_max` is dimensionless in [1, n_assets]; `velocity` is in 1/s; `rotation` in radians;
    `instability` is dimensionless. `asset_prices` are in USDT, NaN-free: an asset without any price yet has
    None.
    """

    scan_number: int
    timestamp_ns: int
    w50_lambda_max: float
    w50_velocity: float
    w50_rotation: float | None
    w50_instability: float | None
    w150_lambda_max: float
    w150_velocity: float
    w150_rotation: float | None
    w150_instability: float | None
    w300_lambda_max: float
    w300_velocity: float
    w300_rotation: float | None
    w300_instability: float | None
    w750_lambda_max: float
    w750_velocity: float
    w750_rotation: float | None
    w750_instability: float | None
    vel_div: float
    regime_signal: float
    instability_composite: float | None
    assets: tuple[str, ...]
    asset_prices: tuple[float | None, ...]
    asset_loadings: tuple[float, ...] | None
    schema_version: str = SCHEMA_VERSION
    data_quality_score: float = 1.0
    missing_asset_count: int = 0
    # metadata
    stale_assets: tuple[str, ...] = ()
    universe_id: str = ""
    #: floor of the certified relative accuracy of lambda_max per window, in bits: the same on every certified
    #: path, however much more was measured; 0 where nothing is certified
    certified_bits: tuple[int, ...] = ()
    #: named outcome per window, see OUTCOMES
    outcome: tuple[str, ...] = ()


#: The 27 columns in their order.
COLUMNS: tuple[str, ...] = tuple(f.name for f in msgspec.structs.fields(Scan))[:27]


def regime_from_vel_div(vel_div: float) -> float:
    """-1 below -0.02, +1 above 0.01, else 0."""
    if vel_div < -0.02:
        return -1.0
    if vel_div > 0.01:
        return 1.0
    return 0.0


@dataclass(frozen=True, slots=True)
class ScanRow:
    """What a decision needs of a scan, and no more: every host can make it, from a scan or from a scan cache.

    `prices` has shape (n_assets,), USDT, NaN where an asset never had one; velocities in 1/s; instability_50
    is NaN where it was ambiguous; `stale` names the assets without a fresh price on this bar.
    """

    scan_number: int
    timestamp_ns: int
    vel_div: float
    v50_velocity: float
    v750_velocity: float
    instability_50: float
    prices: FloatArray
    stale: tuple[str, ...] = ()
    certified_bits: int = 0
    lambdas: tuple[float, ...] | None = None


def row_from_scan(scan: Scan) -> ScanRow:
    """The decision's view of a scan."""
    return ScanRow(
        scan_number=scan.scan_number,
        timestamp_ns=scan.timestamp_ns,
        vel_div=scan.vel_div,
        v50_velocity=scan.w50_velocity,
        v750_velocity=scan.w750_velocity,
        instability_50=float("nan") if scan.w50_instability is None else scan.w50_instability,
        prices=np.array([float("nan") if p is None else p for p in scan.asset_prices]),
        stale=scan.stale_assets,
        certified_bits=min(scan.certified_bits, default=0),
        lambdas=(scan.w50_lambda_max, scan.w150_lambda_max, scan.w300_lambda_max, scan.w750_lambda_max),
    )
