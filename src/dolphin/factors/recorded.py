"""The circuit breaker's factors from recorded files, as known at an instant of the recording's calendar.

Entry points: `recorded_sources`, `RecordedSource`.

A value counts from the instant at which it was published: funding rates and fear and greed at their stamp, a
day's volatility index, taker ratio, and an hour's, at the end of the day or hour. The taker ratio is the
perpetual's daily one where it is recorded, else the spot market's hourly one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY, NS_PER_S
from dolphin.domain.errors import DataError, StoreError
from dolphin.factors.series import Series, SeriesSource, series_of

FUNDING_FILE: Final = "binance_usdm_funding_rate.parquet"
DVOL_FILE: Final = "deribit_dvol_btc_daily.parquet"
FNG_FILE: Final = "fear_greed_index_daily.parquet"
TAKER_DAILY_FILE: Final = "binance_usdm_taker_buy_sell_ratio_btcusdt_daily.parquet"
TAKER_HOURLY_FILE: Final = "binance_spot_taker_volume_1h_35sym.parquet"
SYMBOL: Final = "BTCUSDT"
_NS_PER_HOUR: Final = 3600 * NS_PER_S


@dataclass(frozen=True, slots=True)
class _File:
    """Where a column of values stands; known_after_ns is how long after its stamp a value was published."""

    name: str
    column: str
    known_after_ns: int
    of_symbol: bool = False


_FILES: Final[dict[str, tuple[_File, ...]]] = {
    "funding_btc": (_File(FUNDING_FILE, "funding_rate", 0, of_symbol=True),),
    "dvol_btc": (_File(DVOL_FILE, "dvol", NS_PER_DAY),),
    "fng": (_File(FNG_FILE, "value", 0),),
    "taker": (
        _File(TAKER_HOURLY_FILE, "taker_buy_sell_ratio", _NS_PER_HOUR, of_symbol=True),
        _File(TAKER_DAILY_FILE, "taker_buy_sell_ratio", NS_PER_DAY),
    ),
}


class RecordedSource(SeriesSource):
    """One factor of a folder; see `dolphin.factors.keeper.Source`."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, lambda: _series(name, folder))


def recorded_sources(folder: Path) -> dict[str, RecordedSource]:
    """A source for each factor, by name. Reads nothing yet."""
    return {name: RecordedSource(name, folder) for name in _FILES}


def _series(name: str, folder: Path) -> Series:
    parts = [_load(folder / file.name, file) for file in _FILES[name]]
    known_ns = np.concatenate([part[0] for part in parts])
    # Of two values for one instant the later file's counts: it is the better source.
    return series_of(known_ns, np.concatenate([part[1] for part in parts]), known_ns)


def _load(path: Path, file: _File) -> tuple[IntArray, FloatArray]:
    columns = ["ts", file.column]
    try:
        filters = [("symbol", "=", SYMBOL)] if file.of_symbol else None
        table = pq.read_table(path, columns=columns, filters=filters)
        stamps = table["ts"].cast(pa.timestamp("ns", tz="UTC")).cast(pa.int64()).to_numpy()
        values = pc.cast(table[file.column], pa.float64()).to_numpy()
    except FileNotFoundError as error:
        raise StoreError(f"{path}: not there; expected the recording of this factor") from error
    except (pa.ArrowException, KeyError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: no recording with ts and {file.column} ({told})") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error})") from error
    if not len(stamps):
        raise DataError(f"{path}: no row{f' of {SYMBOL}' if file.of_symbol else ''}")
    order = np.argsort(stamps, kind="stable")
    return (
        np.ascontiguousarray(stamps[order], np.int64) + file.known_after_ns,
        np.ascontiguousarray(values[order], np.float64),
    )
