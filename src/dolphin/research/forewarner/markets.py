"""Markets for the trials: recorded days drawn again in blocks, with prices that go on over every seam.

Entry points: `read_record` (a scan cache as days), `Record.groups`, `bootstrap`.

How the days are joined
-----------------------
* Blocks of consecutive recorded days are drawn with replacement; the scans' own columns (vel_div, velocities,
  instability) and the stale marks go with their prices, unchanged. Around a seam they still speak of the
  windows before it that were recorded, not of those that were drawn.
* Prices are chained by asset: a drawn day is multiplied so that its first return is the recorded one, from
  the last recorded bar before that day. So all returns of a market are recorded returns, the seams' too.
* The level of prices is the first drawn day's own, and moves from there with the drawn returns.
* An asset without a price before is NaN, as recorded, until a drawn day has one; it starts at the recorded
  level. An asset known from an earlier drawn day that a later one lacks keeps its last price and is stale.
* Boost is 1 (no factors are recorded; a configuration's boost is in its max_leverage). Beta is the breaker's
  own rule on the recorded w750 velocity: median of the day so far against a percentile of all velocities of
  the days at hand.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY, day_start_ns
from dolphin.domain.errors import DataError, plural
from dolphin.engine.market import PeriodInputs
from dolphin.market.feed import digest
from dolphin.market.scan_cache import CacheReader, PartialDayError

#: A day with less than this share of its bars is left out.
DAY_SHARE_MIN: Final = 0.5
#: Recorded days per block, once there are enough of them.
BLOCK_DAYS: Final = 2
#: Groups of days: all but the last teach and calibrate in turn, the last is held out.
N_GROUPS: Final = 4
DAYS_MIN: Final = 2 * N_GROUPS

#: Drawn days are stamped as consecutive ones from here on: they are no real dates.
FIRST_DAY: Final = "2000-01-01"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RecordedDay:
    """One recorded day; arrays of n bars, prices and stale of shape (n, n_assets).

    Prices in USDT, the last known ones, NaN before the first. before holds the last prices of the recording
    before this day, (n_assets,), NaN where there is none. since_midnight_ns are the bars' stamps within the
    day. w750_so_far is the running median of v750 within the day, 1/s.
    """

    date: str
    since_midnight_ns: IntArray
    prices: FloatArray
    stale: BoolArray
    before: FloatArray
    vel_div: FloatArray
    v50: FloatArray
    v750: FloatArray
    instability_50: FloatArray
    w750_so_far: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Record:
    """A recording as whole days, and what makes it this recording (data_hash, hex)."""

    symbols: tuple[str, ...]
    days: tuple[RecordedDay, ...]
    data_hash: str
    source: str
    left_out: tuple[str, ...] = ()

    @property
    def block_days(self) -> int:
        """Days per block: one where a recording is too short for longer blocks in every group."""
        return BLOCK_DAYS if len(self.days) >= BLOCK_DAYS * DAYS_MIN else 1

    def blocks(self) -> list[tuple[int, ...]]:
        """Consecutive days, by index, in blocks; the last may be shorter."""
        size = self.block_days
        return [
            tuple(range(start, min(start + size, len(self.days)))) for start in range(0, len(self.days), size)
        ]

    def groups(self) -> list[list[tuple[int, ...]]]:
        """The blocks dealt out in turn to N_GROUPS groups, which share no day.

        Raises DataError when there are too few days to teach, calibrate and hold out.
        """
        if len(self.days) < DAYS_MIN:
            raise DataError(
                f"{self.source}: {plural(len(self.days), 'whole day')}, training needs {DAYS_MIN} "
                "to keep days apart; give a longer recording"
            )
        blocks = self.blocks()
        return [blocks[group::N_GROUPS] for group in range(N_GROUPS)]


@dataclass(frozen=True, slots=True)
class Breaker:
    """The circuit breaker's configuration in a market: betas, and the percentile of w750 that parts them."""

    beta_high: float
    beta_low: float
    threshold_pct: float


def running_median(values: FloatArray) -> FloatArray:
    """Median of values[:i + 1] for each i; shape as given."""
    seen: list[float] = []
    out = np.empty(len(values))
    for i, value in enumerate(values.tolist()):
        insort(seen, value)
        middle = len(seen) // 2
        out[i] = seen[middle] if len(seen) % 2 else 0.5 * (seen[middle - 1] + seen[middle])
    return out


def read_record(cache: CacheReader) -> Record:
    """The days of a scan cache that are whole enough, with why others are left out.

    Raises DataError for a file that cannot be read or is not the one that the manifest names.
    """
    days: list[RecordedDay] = []
    left_out: list[str] = []
    hashes: dict[str, str] = {}
    before = np.full(len(cache.symbols), np.nan)
    expected = NS_PER_DAY // cache.interval_ns
    for date in cache.days():
        try:
            cache.check(date)
        except PartialDayError as error:
            left_out.append(f"{date}: {error}")
            before = np.full(len(cache.symbols), np.nan)
            continue
        columns = cache.columns(date)
        prices = np.ascontiguousarray(cache.prices(date))
        n_bars = len(prices)
        velocities = [
            np.ascontiguousarray(columns[name], dtype=np.float64)
            for name in ("vel_div", "v50_lambda_max_velocity", "v750_lambda_max_velocity", "instability_50")
        ]
        if n_bars < DAY_SHARE_MIN * expected:
            left_out.append(f"{date}: {plural(n_bars, 'bar')} of {expected:,}")
        elif not all(bool(np.isfinite(column).all()) for column in velocities[:3]):
            left_out.append(f"{date}: a velocity is not finite")
        else:
            vel_div, v50, v750, instability_50 = velocities
            days.append(
                RecordedDay(
                    date=date,
                    since_midnight_ns=columns["timestamp_ns"] - day_start_ns(date),
                    prices=prices,
                    stale=cache.stale_mask(date),
                    before=before,
                    vel_div=vel_div,
                    v50=v50,
                    v750=v750,
                    instability_50=instability_50,
                    w750_so_far=running_median(v750),
                )
            )
            hashes[date] = cache.manifest.days[date].sha256
        before = prices[-1]
    data_hash = digest({"kind": "forewarner record", "symbols": list(cache.symbols), "days": hashes})
    return Record(
        symbols=cache.symbols,
        days=tuple(days),
        data_hash=data_hash,
        source=cache.manifest.source or cache.folder.name,
        left_out=tuple(left_out),
    )


def draw_days(blocks: Sequence[tuple[int, ...]], n_days: int, seed: Sequence[int]) -> list[int]:
    """`n_days` day indices: blocks drawn with replacement, the last one cut off where the days are full."""
    chance = np.random.default_rng(list(seed))
    drawn: list[int] = []
    while len(drawn) < n_days:
        drawn.extend(blocks[int(chance.integers(len(blocks)))])
    return drawn[:n_days]


def chain(day: RecordedDay, last: FloatArray) -> tuple[FloatArray, BoolArray, FloatArray]:
    """(prices, stale, last prices) of a drawn day that follows bars which ended at `last` (n_assets,)."""
    known = np.isfinite(last)
    has_price = np.isfinite(day.prices)
    first = day.prices[np.argmax(has_price, axis=0), np.arange(day.prices.shape[1])]
    reference = np.where(np.isfinite(day.before), day.before, first)
    with np.errstate(invalid="ignore"):
        factor = np.where(known & np.isfinite(reference), last / reference, 1.0)
    missing = ~has_price & known
    prices = np.where(missing, last, day.prices * factor)
    end = prices[-1]
    return prices, day.stale | missing, np.where(np.isfinite(end), end, last)


def bootstrap(
    record: Record, blocks: Sequence[tuple[int, ...]], n_days: int, seed: Sequence[int], breaker: Breaker
) -> PeriodInputs:
    """One market of `n_days` days drawn from `blocks`.

    Equal seeds give equal markets, bit for bit. Raises nothing of its own.
    """
    at_hand = sorted({index for block in blocks for index in block})
    all_w750 = np.concatenate([record.days[index].v750 for index in at_hand])
    threshold = float(np.percentile(all_w750, breaker.threshold_pct))
    last = np.full(len(record.symbols), np.nan)
    start = day_start_ns(FIRST_DAY)
    stamps: list[IntArray] = []
    prices: list[FloatArray] = []
    stale: list[BoolArray] = []
    drawn = [record.days[index] for index in draw_days(blocks, n_days, seed)]
    for position, day in enumerate(drawn):
        chained, marks, last = chain(day, last)
        prices.append(chained)
        stale.append(marks)
        stamps.append(day.since_midnight_ns + (start + position * NS_PER_DAY))
    so_far = np.concatenate([day.w750_so_far for day in drawn])
    timestamp_ns = np.concatenate(stamps)
    return PeriodInputs(
        symbols=record.symbols,
        timestamp_ns=timestamp_ns,
        prices=np.ascontiguousarray(np.concatenate(prices)),
        vel_div=np.concatenate([day.vel_div for day in drawn]),
        v50_velocity=np.concatenate([day.v50 for day in drawn]),
        v750_velocity=np.concatenate([day.v750 for day in drawn]),
        instability_50=np.concatenate([day.instability_50 for day in drawn]),
        stale=np.ascontiguousarray(np.concatenate(stale)),
        boost=np.ones(len(timestamp_ns)),
        beta=np.where(so_far >= threshold, breaker.beta_high, breaker.beta_low),
    )
