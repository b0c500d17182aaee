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


def _waves(rng: np.random.Generator, n: int, lengths: tuple[float, ...]) -> FloatArray:
    """(n, len(lengths)) stationary waves of deviation one; drawn in whole chunks."""
    keep = np.exp(-1.0 / np.array(lengths))
    push = np.sqrt(1.0 - keep * keep)
    state = rng.standard_normal(len(lengths))
    out = np.empty((n, len(lengths)))
    for start in range(0, n, CHUNK_RECORDS):
        noise = rng.standard_normal((CHUNK_RECORDS, len(lengths)))
        for k in range(min(CHUNK_RECORDS, n - start)):
            state = keep * state + push * noise[k]
            out[start + k] = state
    return out


def _means(values: FloatArray, length: float) -> FloatArray:
    """Exponential means of values (k,), from 0 on."""
    keep = math.exp(-1.0 / length)
    out, mean = np.empty(len(values)), 0.0
    for k, value in enumerate(values.tolist()):
        mean = keep * mean + (1.0 - keep) * value
        out[k] = mean
    return out


def _records(seed: int, minute: IntArray, bars: IntArray, prices: FloatArray) -> FactorRecords:
    k = len(bars)
    waves = _waves(_stream(seed, 2), k, (_FUNDING[2], _DVOL[2], _FNG[2], _TAKER[2]))
    move = np.zeros(k)
    if k > 1:
        move[1:] = log_returns(prices[bars]).mean(axis=1)
    hour, day = _means(move, _HOUR) * _HOUR, _means(move, _DAY) * _DAY
    short, long = _means(move * move, _VARIANCE_SHORT), _means(move * move, _VARIANCE_LONG)
    steps = np.arange(1, k + 1)  # take the zeros before the first record out of both means
    short /= 1.0 - np.exp(-steps / _VARIANCE_SHORT)
    long /= 1.0 - np.exp(-steps / _VARIANCE_LONG)
    level = np.zeros(k)
    np.log(short / np.where(long > 0.0, long, 1.0), out=level, where=(short > 0.0) & (long > 0.0))
    fng = np.rint(np.clip(_FNG[0] + _FNG[1] * waves[:, 2] + _FNG[3] * day, 0.0, 100.0))
    day_first = np.flatnonzero(np.diff(minute // MINUTES_PER_DAY, prepend=-1) > 0)
    columns = [
        _FUNDING[0] + _FUNDING[1] * waves[:, 0] + _FUNDING[3] * day,
        np.maximum(_DVOL[0] + _DVOL[1] * waves[:, 1] + _DVOL[3] * 0.5 * level, 5.0),
        fng[day_first[np.searchsorted(day_first, np.arange(k), side="right") - 1]],
        np.maximum(_TAKER[0] + _TAKER[1] * waves[:, 3] + _TAKER[3] * hour, 0.0),
    ]
    silence = _stream(seed, 3)
    for first in day_first.tolist():
        for column in columns:
            begin, length = _spell(silence, _SILENCE_ODDS, _SILENCE_LENGTH)
            column[first + begin : first + begin + length] = MISSING
    return FactorRecords(bars, *columns)


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
    score = np.clip(0.08 + _SCORE_SD * _waves(rng, k, (_SCORE_TAU,))[:, 0], -1.0, 1.0)
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
