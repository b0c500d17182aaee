"""Recordings of factors as a test wants them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dolphin.domain.clock import NS_PER_DAY, day_start_ns
from dolphin.factors.recorded import DVOL_FILE, FNG_FILE, FUNDING_FILE, TAKER_DAILY_FILE, TAKER_HOURLY_FILE

DAY0 = day_start_ns("2025-03-01")
HOUR = NS_PER_DAY // 24


def write(path: Path, stamps_ns: list[int], **columns: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ts = pa.array(stamps_ns, pa.timestamp("ns", tz="UTC"))
    pq.write_table(pa.table({"ts": ts, **columns}), path)


def write_recordings(folder: Path, n_days: int = 12) -> None:
    """funding -1e-5 * (8-hour number), dvol 50 + day, fng 30 + day, taker 0.8 + day / 100 (hourly 2.0)."""
    eights = range(3 * n_days)
    write(
        folder / FUNDING_FILE,
        [DAY0 + k * 8 * HOUR for k in eights for _ in "ab"],
        symbol=["ETHUSDT", "BTCUSDT"] * len(eights),
        funding_rate=[value for k in eights for value in (0.02, -1e-5 * k)],
    )
    days = [DAY0 + k * NS_PER_DAY for k in range(n_days)]
    write(folder / DVOL_FILE, days, currency=["BTC"] * n_days, dvol=[50.0 + k for k in range(n_days)])
    write(folder / FNG_FILE, days, value=pa.array([30 + k for k in range(n_days)], pa.int16()))
    write(
        folder / TAKER_DAILY_FILE,
        days,
        symbol=["BTCUSDT"] * n_days,
        taker_buy_sell_ratio=[0.8 + k / 100 for k in range(n_days)],
    )
    write(
        folder / TAKER_HOURLY_FILE,
        [DAY0 + n_days * NS_PER_DAY + k * HOUR for k in range(3)],
        symbol=["BTCUSDT"] * 3,
        taker_buy_sell_ratio=[2.0, 2.1, 2.2],
    )
