"""What was decided on one bar, and the canonical bytes that every host must reproduce.

`decisions_sha256` of a run is the SHA-256 over the canonical records in bar order. A record holds nothing
that is not in a scan cache: no scan number, no wall clock, no marker of a resume.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec
import numpy as np

from dolphin.domain.codes import (
    ACTION_NONE,
    BOOKS_ABSENT,
    BOUND_NONE,
    ESOF_ABSENT,
    MC_ABSENT,
    REASON_NONE,
)
from dolphin.domain.symbols import SYMBOL_BYTES_MAX

_CANONICAL: Final = struct.Struct(f"<qqBB{SYMBOL_BYTES_MAX}s5dddBdddd")
CANONICAL_BYTES: Final = _CANONICAL.size


#: The canonical record as a numpy type: the same bytes, for a whole period at once.
CANONICAL_DTYPE: Final = np.dtype(
    [
        ("bar_idx", "<i8"),
        ("timestamp_ns", "<i8"),
        ("action", "u1"),
        ("reason", "u1"),
        ("asset", f"S{SYMBOL_BYTES_MAX}"),
        ("lanes", "<f8", 5),
        ("raw", "<f8"),
        ("cap", "<f8"),
        ("bound", "u1"),
        ("leverage", "<f8"),
        ("notional", "<f8"),
        ("price", "<f8"),
        ("net", "<f8"),
    ]
)


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One bar's decision with everything that led to it.

    Codes are those of `dolphin.domain.codes`. Leverages and lanes are conviction (dimensionless), notional
    and money USDT, prices USDT, vel_div 1/s, *_pct fractions of the entry price. Lanes, raw, cap, bound,
    leverage and notional are those of the position on ENTER, HOLD and EXIT, zero on NONE. `price` is the scan
    price on ENTER and HOLD, the price after slippage on EXIT. Values that were not evaluated on this bar are
    zero.
    """

    bar_idx: int
    timestamp_ns: int
    action: int = ACTION_NONE
    reason: int = REASON_NONE
    asset: str = ""
    lane_base: float = 0.0
    lane_dc: float = 0.0
    lane_regime: float = 0.0
    lane_ob: float = 0.0
    lane_esof: float = 0.0
    raw: float = 0.0
    cap: float = 0.0
    bound: int = BOUND_NONE
    leverage: float = 0.0
    notional: float = 0.0
    price: float = 0.0
    net: float = 0.0
    # attribution: not in the canonical record
    scan_number: int = 0
    vel_div: float = 0.0
    v50_velocity: float = 0.0
    v750_velocity: float = 0.0
    vol_ok: bool = True
    posture: int = 0
    books: str = BOOKS_ABSENT
    confidence: float = 0.0
    strength: float = 0.0
    fraction: float = 0.0
    bucket: int = 0
    bucket_boost: float = 0.0
    streak: float = 0.0
    trend: float = 0.0
    dc_status: int = 0
    dc_change_bps: float = 0.0
    ars: float = 0.0
    rank: int = 0
    ranked: int = 0
    boost: float = 1.0
    beta: float = 0.0
    mc_scale: float = 1.0
    mc_status: int = MC_ABSENT
    esof_mult: float = 1.0
    esof: str = ESOF_ABSENT
    proxy_scale: float = 1.0
    bars_held: int = 0
    pnl_pct: float = 0.0
    tp: float = 0.0
    sl: float = 0.0
    max_hold: int = 0
    entry_price: float = 0.0
    scan_price: float = 0.0
    entry_fee: float = 0.0
    exit_fee: float = 0.0
    ob_edge: float = 0.0
    gross: float = 0.0
    capital: float = 0.0
    stale_price: bool = False
    stale_state: bool = False

    def canonical(self) -> bytes:
        """The fixed-width record that the digest runs over, little-endian."""
        return _CANONICAL.pack(
            self.bar_idx,
            self.timestamp_ns,
            self.action,
            self.reason,
            self.asset.encode("ascii"),
            self.lane_base,
            self.lane_dc,
            self.lane_regime,
            self.lane_ob,
            self.lane_esof,
            self.raw,
            self.cap,
            self.bound,
            self.leverage,
            self.notional,
            self.price,
            self.net,
        )
