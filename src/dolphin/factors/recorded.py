"""The circuit breaker's factors from recorded files, as known at an instant of the recording's calendar.

Entry points: `recorded_sources`, `first_day`.

A value counts from the instant at which it was published: funding rates and fear and greed at their stamp, a
day's volatility index, taker ratio, and an hour's, at the end of the day or hour. The taker ratio is the
perpetual's daily one where it is recorded, else the spot market's hourly one.

A file is read when its source is asked first, and again as long as it could not be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY, NS_PER_S
from dolphin.domain.errors import DataError, DolphinError, StoreError
from dolphin.factors.keeper import Sample

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


class RecordedSource:
    """One factor; see `dolphin.factors.keeper.Source`."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder
        self._series: tuple[IntArray, FloatArray] | None = None

    def read(self, instant_ns: int) -> Sample | None:
        """The newest value published at instant_ns, None before the first.

        Raises DataError for a file that is not what it should be, StoreError for one that cannot be read.
        """
        known_ns, values = self.series()
        at = int(np.searchsorted(known_ns, instant_ns, side="right")) - 1
        return None if at < 0 else Sample(float(values[at]), int(known_ns[at]))

    def series(self) -> tuple[IntArray, FloatArray]:
        """(instants of publication in ns UTC, values), increasing; raises as `read` does."""
        if self._series is None:
            parts = [_load(self._folder / file.name, file) for file in _FILES[self.name]]
            known_ns = np.concatenate([part[0] for part in parts])
            values = np.concatenate([part[1] for part in parts])
            # Of two values for one instant the later file's counts: it is the better source.
            order = np.argsort(known_ns, kind="stable")
            known_ns, values = known_ns[order], values[order]
            last = np.append(known_ns[1:] != known_ns[:-1], True)
            self._series = known_ns[last], values[last]
        return self._series


def recorded_sources(folder: Path) -> dict[str, RecordedSource]:
    """A source for each factor, by name. Reads nothing yet."""
    return {name: RecordedSource(name, folder) for name in _FILES}


def first_day(sources: Sequence[RecordedSource], age_max_ns: Callable[[str], int]) -> int | None:
    """Midnight UTC (ns) of the first recorded day on which the most sources have a value young enough.

    A source that cannot be read has none; None when no source has any.
    """
    spans: list[tuple[int, int]] = []
    for source in sources:
        try:
            known_ns, _ = source.series()
        except DolphinError:
            continue
        limit_ns = age_max_ns(source.name)
        breaks = np.flatnonzero(np.diff(known_ns) > limit_ns)
        starts, ends = known_ns[np.append(0, breaks + 1)], known_ns[np.append(breaks, -1)] + limit_ns
        spans += [(-(-int(a) // NS_PER_DAY), int(b) // NS_PER_DAY) for a, b in zip(starts, ends, strict=True)]
    best: int | None = None
    most = 0
    for day in sorted({begin for begin, end in spans if begin <= end}):
        n = sum(1 for begin, end in spans if begin <= day <= end)
        if n > most:
            best, most = day * NS_PER_DAY, n
    return best


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
