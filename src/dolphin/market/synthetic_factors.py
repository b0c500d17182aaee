"""External factors for the synthetic market, and what the risk organs make of them bar by bar.

Entry point: `synthetic_factors`. For tests and studies: `dolphin run` wires no factors.

A *record* is made on the first bar of every UTC minute (on every bar, where bars are a minute or longer):
the four factors as their sources would show them. They move with the market: funding, fear and greed and the
taker ratio fall after falls, implied volatility rises with the market's own. Fear and greed changes once a
day. Now and then a source is silent for some hours.

- boost and beta (spec 05, section 1) come from the medians of the day's first ten records, as far as there
  are records, so that they settle within ten minutes of midnight. On some days the breaker looks again every
  hour, at the ten newest records: the updates inside a day. The threshold of w750 is taken over all days
  before, on the first day over the day so far.
- The posture is APEX but for excursions: a fall to any of the other three, then back step by step.
- The forewarner's status is drawn per day; the esoteric score wanders, its producer is silent now and then.

Invariants: 1. same seed and bars, same factors; 2. a prefix of the bars has a prefix of the factors, nothing
looks ahead; 3. the first bar of every UTC day is a record.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.clock import NS_PER_S
from dolphin.domain.codes import APEX, HIBERNATE, MC_ABSENT, MC_OK, MC_ORANGE, MC_RED
from dolphin.domain.errors import DataError, UsageError
from dolphin.market.quick_scan import log_returns
from dolphin.risk.breaker import MISSING, acb_beta, acb_boost
from dolphin.risk.esoteric import esof_mult

NS_PER_MINUTE: Final = 60 * NS_PER_S
MINUTES_PER_DAY: Final = 1440
CHUNK_RECORDS: Final = 1440

#: Records that a look at the factors takes (spec 05, section 1).
BREAKER_RECORDS: Final = 10
W750_PERCENTILE: Final = 60.0
STRESS_THRESHOLD: Final = -0.10

# Make-up. Lengths are minutes.
_FUNDING = (0.00004, 0.00009, 600.0, 0.002)  # mean, deviation, length, per unit of the day's move
_DVOL = (52.0, 11.0, 2000.0, 12.0)  # the last: per unit of log volatility over its own mean
_FNG = (44.0, 14.0, 5000.0, 350.0)
_TAKER = (0.95, 0.06, 300.0, 6.0)  # the last: per unit of the hour's move
_HOUR, _DAY, _VARIANCE_SHORT, _VARIANCE_LONG = 60.0, 1440.0, 240.0, 7200.0
_SILENCE_ODDS, _SILENCE_LENGTH = 0.15, (60, 900)  # per source and day
_RESTLESS_ODDS, _RESTLESS_EVERY = 0.4, 60
_EXCURSION_ODDS, _EXCURSION_DEPTHS = 0.35, (0.5, 0.3, 0.2)  # per day; STALKER, TURTLE, HIBERNATE
_EXCURSION_STEP = (20, 180)
_MC_ODDS = ((MC_OK, 0.60), (MC_ORANGE, 0.18), (MC_RED, 0.08), (MC_ABSENT, 0.14))
_SCORE_SD, _SCORE_TAU = 0.22, 400.0
_SCORE_SILENCE_ODDS, _SCORE_SILENCE_LENGTH = 0.3, (10, 240)


class FactorRecords(NamedTuple):
    """The records of a period, k of them; NaN where a source was silent."""

    bar: IntArray  # (k,) position of the bar
    funding_btc: FloatArray  # (k,) rate per interval
    dvol_btc: FloatArray  # (k,) annualised percent
    fng: FloatArray  # (k,) 0 to 100
    taker: FloatArray  # (k,) buy ratio


class FactorBars(NamedTuple):
    """What the engine is told on each of n bars; the names are those of the engine's inputs."""

    boost: FloatArray  # (n,)
    beta: FloatArray  # (n,)
    posture: IntArray  # (n,)
    mc_status: IntArray  # (n,)
    esof_mult: FloatArray  # (n,) in [0.3, 1]


def synthetic_factors(
    seed: int,
    timestamp_ns: IntArray,
    prices: FloatArray,
    v750: FloatArray,
    withdrawal_velocity: FloatArray | None = None,
) -> tuple[FactorBars, FactorRecords]:
    """Factors of a period and their effect.

    Parameters
    ----------
    seed : any integer from 0; usually the market's.
    timestamp_ns : int64 (n_bars,), increasing.
    prices : float64 (n_bars, n_assets), USDT, NaN where there is none.
    v750 : float64 (n_bars,), velocity of the long window, 1/s.
    withdrawal_velocity : float64 (n_bars, n_assets) of the books, for the stress term of beta; None:
        no books.

    Returns
    -------
    (FactorBars, FactorRecords). Raises UsageError for a seed below 0, DataError for lengths that differ or
    stamps that do not increase.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UsageError(f"seed is {seed!r}; expected an integer from 0")
    n = len(timestamp_ns)
    others = [prices, v750] + ([] if withdrawal_velocity is None else [withdrawal_velocity])
    if any(len(column) != n for column in others):
        rows = ", ".join(str(len(column)) for column in others)
        raise DataError(f"{n} stamps, but {rows} rows of prices, v750 and books; expected as many")
    if (np.diff(timestamp_ns) <= 0).any():
        raise DataError("stamps do not increase; factors need the bars in their order, each once")
    minute = timestamp_ns // NS_PER_MINUTE
    bars = np.flatnonzero(np.diff(minute, prepend=minute[:1] - 1) > 0)
    records = _records(seed, minute[bars], bars, prices)
    boost, beta = _breaker(seed, minute, records, v750, withdrawal_velocity)
    posture, mc_status = _days(seed, minute)
    haircut = _esoteric(seed, len(bars))
    spread = np.searchsorted(bars, np.arange(n), side="right") - 1
    return FactorBars(boost, beta, posture, mc_status, haircut[spread]), records


def _waves(rng: np.random.Generator, lengths: tuple[float, ...]) -> Iterator[FloatArray]:
    """Stationary waves of deviation one, (len(lengths),) a step; drawn in whole chunks."""
    keep = np.exp(-1.0 / np.array(lengths))
    push = np.sqrt(1.0 - keep * keep)
    state = rng.standard_normal(len(lengths))
    while True:
        for noise in rng.standard_normal((CHUNK_RECORDS, len(lengths))):
            state = keep * state + push * noise
            yield state


class RecordStream:
    """The records of a market one by one, for one without end too; arguments as for `synthetic_factors`."""

    def __init__(self, seed: int) -> None:
        self._k = 0
        self._waves = _waves(_stream(seed, 2), (_FUNDING[2], _DVOL[2], _FNG[2], _TAKER[2]))
        self._silence = _stream(seed, 3)
        self._day = -1
        self._fng = 0.0
        self._before: FloatArray | None = None
        self._hour, self._day_mean = _Mean(_HOUR), _Mean(_DAY)
        self._short, self._long = _Mean(_VARIANCE_SHORT), _Mean(_VARIANCE_LONG)
        #: By factor the spells of silence that are not over, as positions of records.
        self._spells: tuple[list[tuple[int, int]], ...] = ([], [], [], [])

    def next(self, minute: int, prices: FloatArray) -> tuple[float, float, float, float]:
        """(funding_btc, dvol_btc, fng, taker) of the next record, MISSING where a source is silent.

        minute counts from the epoch; prices (n_assets,) are the bar's, USDT.
        """
        k = self._k
        self._k += 1
        wave = next(self._waves)
        move = 0.0
        if self._before is not None:
            move = float(log_returns(np.stack([self._before, prices])).mean(axis=1)[0])
            # An asset without a price moves when it has one again.
            prices = np.where(np.isnan(prices), self._before, prices)
        self._before = np.array(prices)
        hour, day = self._hour.after(move) * _HOUR, self._day_mean.after(move) * _DAY
        # Both means start from zero, which their weights so far take out again.
        short = self._short.after(move * move) / (1.0 - np.exp(-(k + 1) / _VARIANCE_SHORT))
        long = self._long.after(move * move) / (1.0 - np.exp(-(k + 1) / _VARIANCE_LONG))
        level = float(np.log(short / long)) if short > 0.0 and long > 0.0 else 0.0
        if minute // MINUTES_PER_DAY != self._day:
            self._day = minute // MINUTES_PER_DAY
            self._fng = float(np.rint(np.clip(_FNG[0] + _FNG[1] * wave[2] + _FNG[3] * day, 0.0, 100.0)))
            for spells in self._spells:
                begin, length = _spell(self._silence, _SILENCE_ODDS, _SILENCE_LENGTH)
                spells[:] = [each for each in spells if each[1] > k]
                spells.append((k + begin, k + begin + length))
        values = (
            float(_FUNDING[0] + _FUNDING[1] * wave[0] + _FUNDING[3] * day),
            float(max(_DVOL[0] + _DVOL[1] * wave[1] + _DVOL[3] * 0.5 * level, 5.0)),
            self._fng,
            float(max(_TAKER[0] + _TAKER[1] * wave[3] + _TAKER[3] * hour, 0.0)),
        )
        funding, dvol, fng, taker = (
            MISSING if any(begin <= k < end for begin, end in spells) else value
            for value, spells in zip(values, self._spells, strict=True)
        )
        return funding, dvol, fng, taker


class _Mean:
    """An exponential mean over `length` records, from 0 on."""

    def __init__(self, length: float) -> None:
        self._keep = math.exp(-1.0 / length)
        self._mean = 0.0

    def after(self, value: float) -> float:
        """The mean with one more value."""
        self._mean = self._keep * self._mean + (1.0 - self._keep) * value
        return self._mean


def _records(seed: int, minute: IntArray, bars: IntArray, prices: FloatArray) -> FactorRecords:
    stream = RecordStream(seed)
    rows = [stream.next(at, prices[bar]) for at, bar in zip(minute.tolist(), bars.tolist(), strict=True)]
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), 4).T
    return FactorRecords(bars, *(np.ascontiguousarray(column) for column in columns))


def _breaker(
    seed: int,
    minute: IntArray,
    records: FactorRecords,
    v750: FloatArray,
    withdrawal_velocity: FloatArray | None,
) -> tuple[FloatArray, FloatArray]:
    n = len(minute)
    boost, beta = np.empty(n), np.empty(n)
    factors = np.stack(records[1:])
    record_day = minute[records.bar] // MINUTES_PER_DAY
    restless = _stream(seed, 4)
    days = np.unique(record_day)
    for day in days.tolist():
        looks_again = restless.random() < _RESTLESS_ODDS
        own = np.flatnonzero(record_day == day)
        first_bar = int(records.bar[own[0]])
        last_bar = n if own[-1] + 1 == len(records.bar) else int(records.bar[own[-1] + 1])
        known = float(np.percentile(v750[:first_bar], W750_PERCENTILE)) if first_bar else math.nan
        for place, record in enumerate(own.tolist()):
            if place >= BREAKER_RECORDS and not (looks_again and (place + 1) % _RESTLESS_EVERY == 0):
                continue
            bar = int(records.bar[record])
            newest = factors[:, max(record + 1 - BREAKER_RECORDS, int(own[0])) : record + 1]
            _, now_boost = acb_boost(*(_median(row) for row in newest))
            so_far = v750[first_bar : bar + 1]
            threshold = float(np.percentile(so_far, W750_PERCENTILE)) if math.isnan(known) else known
            stress = 0.0
            if withdrawal_velocity is not None:
                stress = float((withdrawal_velocity[bar] < STRESS_THRESHOLD).mean())
            boost[bar:last_bar] = now_boost
            beta[bar:last_bar] = acb_beta(float(np.median(so_far)), threshold, stress)
    return boost, beta


def _days(seed: int, minute: IntArray) -> tuple[IntArray, IntArray]:
    """Posture and forewarner status of every bar; both drawn day after day."""
    posture, mc_status = np.full(len(minute), APEX), np.empty(len(minute), dtype=np.int64)
    days, first = np.unique(minute // MINUTES_PER_DAY, return_index=True)
    rng = _stream(seed, 5)
    codes, odds = zip(*_MC_ODDS, strict=True)
    begun: list[tuple[int, int]] = []
    for day, bar in zip(days.tolist(), first.tolist(), strict=True):
        mc_status[bar:] = codes[int(np.searchsorted(np.cumsum(odds), rng.random()))]
        away, depth = rng.random(2)
        start = int(rng.integers(MINUTES_PER_DAY))
        steps = rng.integers(*_EXCURSION_STEP, HIBERNATE).tolist()
        if away < _EXCURSION_ODDS:
            worst = APEX + 1 + int(np.searchsorted(np.cumsum(_EXCURSION_DEPTHS), depth))
            begun += _excursion(day * MINUTES_PER_DAY + start, min(worst, HIBERNATE), steps)
    for at, level in begun:  # a later excursion takes the place of what is left of an earlier one
        posture[int(np.searchsorted(minute, at)) :] = level
    return posture, mc_status


def _excursion(at: int, worst: int, steps: list[int]) -> Iterator[tuple[int, int]]:
    """(minute, posture) from the fall back to APEX."""
    for level in range(worst, APEX - 1, -1):
        yield at, level
        at += steps[level - 1] if level > APEX else 0


def _esoteric(seed: int, k: int) -> FloatArray:
    """Haircut at each record."""
    rng = _stream(seed, 6)
    wave = np.array([float(each[0]) for each in itertools.islice(_waves(rng, (_SCORE_TAU,)), k)])
    score = np.clip(0.08 + _SCORE_SD * wave, -1.0, 1.0)
    silence = _stream(seed, 7)
    for first in range(0, k, MINUTES_PER_DAY):
        begin, length = _spell(silence, _SCORE_SILENCE_ODDS, _SCORE_SILENCE_LENGTH)
        score[first + begin : first + begin + length] = math.nan
    return np.array([esof_mult(float(value), 0.0) for value in score])


def _spell(rng: np.random.Generator, odds: float, length: tuple[int, int]) -> tuple[int, int]:
    """(begin, length) in records of a day's silence; length 0 for none."""
    silent, begin = rng.random(2)
    lasts = int(rng.integers(*length))
    return int(begin * MINUTES_PER_DAY), lasts if silent < odds else 0


def _median(values: FloatArray) -> float:
    """Median of the values that are there, MISSING without any."""
    there = values[~np.isnan(values)]
    return float(np.median(there)) if len(there) else MISSING


def _stream(seed: int, purpose: int) -> np.random.Generator:
    """A stream of its own for each purpose, so that one draw more in one moves nothing else."""
    return np.random.Generator(np.random.PCG64([seed, purpose]))
