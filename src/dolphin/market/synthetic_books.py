"""Order books for the synthetic market, and their features as the alpha takes them.

Entry points: `synthetic_books` (features of every bar), `book_chunks` (the snapshots themselves), `book_bars`
(features of any snapshots). For tests and studies: `dolphin run` wires no books.

What a book is made of, for asset i at one bar:

- Its depth is a level times e to the sum of a slow market-wide wave, an own wave, the asset's events, and
  withdrawals. An *event* makes the books of some assets thin or deep for 40 to 240 bars. A *withdrawal* takes
  a tenth to a half of every book within ten bars and gives it back slowly; most planted onsets bring one, and
  some come without an onset. The deepest make several assets lose 30 % and more: a cascade.
- Its imbalance is a slow market-wide lean, an own lean, and the recent moves of the market and of the asset:
  a falling market has more sellers. From an onset on, which is before most of its fall, books lean to the
  offer.
- Now and then an asset's snapshot is missing, and about three times a day the provider is silent for up to
  40 bars. An asset without a price has no book.

Invariants: 1. same seed, prices and onsets, same books; 2. a prefix of the prices has a prefix of the books:
draws come in whole chunks from one PCG64 stream, nothing looks ahead; 3. notional is whole USD, so that a
last-bit difference between mathematical libraries does not survive into it; 4. memory is one chunk of
snapshots besides the result.

How often each of the five uses of books can act is pinned in `tests/unit/market/test_synthetic_books.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from dolphin.domain.bar import BoolArray, FloatArray, IntArray, SmallIntArray
from dolphin.domain.errors import DataError, UsageError
from dolphin.engine.market import BookBars
from dolphin.kernel import kernel
from dolphin.numerics.portable import clamp, exp
from dolphin.orderbook import fold
from dolphin.orderbook.constants import REFERENCE_KEEP
from dolphin.orderbook.fold import fold_bar
from dolphin.orderbook.snapshot import BANDS

CHUNK_BARS: Final = 4096

# The books' make-up. Lengths are bars of 5 s, depths are natural logarithms.
_LEVEL_USD, _LEVEL_FALL = 4e7, 0.9  # depth of all bands of the first asset, and its fall with the rank
_BAND_SHARE = (0.16, 0.20, 0.21, 0.215, 0.215)
_BAND_LEAN = (1.3, 1.1, 1.0, 0.9, 0.8)  # the near bands lean more
_SLOW_SD, _SLOW_TAU = 0.10, 1500.0
_OWN_SD, _OWN_TAU = 0.12, 400.0
_FAST_SD = 0.015
_EVENT_RATE, _EVENT_BARS = 1.0 / 650.0, (40, 241)
_EVENT_HIT = (0.03, 0.37)  # share of assets: least, and extra times a squared uniform draw
_THIN_ODDS, _MILD_ODDS = 0.35, 0.25  # the others are deep
_THIN, _MILD, _DEEP = (0.4, 1.7), (0.22, 0.12), (0.4, 0.9)  # log depth: least, and extra times a uniform draw
_EVENT_IN, _THIN_TAU, _DEEP_TAU = 0.35, 30.0, 150.0
_WITHDRAWAL_LEAST, _WITHDRAWAL_MEAN, _WITHDRAWAL_MOST = 0.10, 0.12, 0.70
_WITHDRAWAL_BARS, _WITHDRAWAL_HOLD, _WITHDRAWAL_TAU = 10, 60, 200.0
_ONSET_MISSED, _FALSE_RATE = 0.25, 1.0 / 3000.0
_SENSITIVITY = (0.85, 1.15)
_LEAN_SD, _LEAN_TAU = 0.06, 400.0
_OWN_LEAN_SD, _OWN_LEAN_TAU = 0.10, 60.0
_LEAN_NOISE = 0.04
_LEAN_MARKET, _LEAN_ASSET = 0.03, 0.02  # per standard deviation of the recent move
_LEAN_ONSET, _LEAN_ONSET_BARS, _LEAN_ONSET_KEEP = -0.15, 120, 0.9
_LEAN_MOST = 0.6
_MOVE_KEEP, _VARIANCE_KEEP = 0.95, 0.998
_OUTAGE_RATE, _OUTAGE_BARS = 1.0 / 6000.0, (1, 41)
_MISSING_RATE = 0.001

# Slots of the market's state between chunks.
_SLOW, _LEAN, _MOVE, _VARIANCE, _WITHDRAWN, _STEP, _FALLING, _HELD, _ONSET_LEAN, _SINCE_ONSET, _OUTAGE = (
    range(11)
)


class BookChunk(NamedTuple):
    """Snapshots of m bars in a row."""

    bid: FloatArray  # (m, a, 5) USD notional in the bands (k-1 %, k %] below mid
    ask: FloatArray  # (m, a, 5) above mid
    seen: BoolArray  # (m, a) a snapshot arrived on this bar; where False, bid and ask are not to be read


def synthetic_books(seed: int, prices: FloatArray, onsets: Sequence[int] | IntArray = ()) -> BookBars:
    """The synthetic market's books as features, bar by bar.

    Parameters
    ----------
    seed : any integer from 0; the books' own, usually the market's.
    prices : float64 (n_bars, n_assets), USDT, NaN where there is none.
    onsets : positions in `prices` of the bars where a planted onset begins; without them books follow the
        market and never lead it.

    Returns
    -------
    BookBars over all bars. Raises UsageError for a seed below 0 and DataError for prices of another shape.
    """
    chunks = book_chunks(seed, prices, onsets)
    return book_bars(chunks, *prices.shape)


def book_chunks(seed: int, prices: FloatArray, onsets: Sequence[int] | IntArray = ()) -> Iterator[BookChunk]:
    """The snapshots themselves, chunk by chunk; arguments and errors as for `synthetic_books`."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UsageError(f"seed is {seed!r}; expected an integer from 0")
    if prices.ndim != 2 or prices.shape[1] < 1:
        raise DataError(f"prices have shape {prices.shape}; books need (bars, assets)")
    n_bars = len(prices)
    places = np.asarray(onsets, dtype=np.int64)
    if ((places < 0) | (places >= n_bars)).any():
        raise DataError(f"an onset lies outside the {n_bars} bars; expected positions from 0")
    begins = np.zeros(n_bars, dtype=np.bool_)
    begins[places] = True
    return _chunks(seed, prices, begins)


def _chunks(seed: int, prices: FloatArray, begins: BoolArray) -> Iterator[BookChunk]:
    n_bars, n = prices.shape
    stream = BookStream(seed, n)
    for start in range(0, n_bars, CHUNK_BARS):
        stop = min(start + CHUNK_BARS, n_bars)
        yield stream.chunk(prices[start:stop], begins[start:stop])


class BookStream:
    """The snapshots of a market without end, chunk after chunk; arguments as for `synthetic_books`."""

    def __init__(self, seed: int, n_assets: int) -> None:
        n = n_assets
        rng = np.random.Generator(np.random.PCG64([seed, 1]))
        self._n = n
        self._rng = rng
        self._level = np.array(_LEVEL_USD / np.arange(1, n + 1) ** _LEVEL_FALL, np.float64)
        shuffled = np.random.Generator(np.random.PCG64(11)).permutation(n)
        self._sensitivity = np.linspace(*_SENSITIVITY, n)[shuffled]
        self._market = np.zeros(11)
        self._market[_SINCE_ONSET] = 1e9
        self._market[_SLOW], self._market[_LEAN] = rng.standard_normal(2) * (_SLOW_SD, _LEAN_SD)
        own = rng.standard_normal((2, n)) * np.array([[_OWN_SD], [_OWN_LEAN_SD]])
        self._assets = np.vstack([own, np.zeros((4, n))])
        self._before = np.full(n, np.nan)

    def chunk(self, prices: FloatArray, begins: BoolArray) -> BookChunk:
        """The next snapshots: prices (m, n_assets), begins (m,) whether an onset begins; m <= CHUNK_BARS.

        Only the last chunk may be shorter than CHUNK_BARS: draws come in whole chunks.
        """
        rng, n, m = self._rng, self._n, len(prices)
        draws = (
            rng.standard_normal((CHUNK_BARS, 2)),
            rng.random((CHUNK_BARS, 6)),
            rng.exponential(1.0, CHUNK_BARS),
            rng.integers(*_EVENT_BARS, CHUNK_BARS),
            rng.integers(*_OUTAGE_BARS, CHUNK_BARS),
            rng.standard_normal((CHUNK_BARS, 3, n)),
            rng.random((CHUNK_BARS, 2, n)),
        )
        chunk = BookChunk(np.zeros((m, n, BANDS)), np.zeros((m, n, BANDS)), np.zeros((m, n), dtype=np.bool_))
        books_kernel(
            np.ascontiguousarray(prices),
            np.ascontiguousarray(begins),
            *draws,
            self._level,
            self._sensitivity,
            np.array(_BAND_SHARE),
            np.array(_BAND_LEAN),
            self._market,
            self._assets,
            self._before,
            *chunk,
        )
        return chunk


def book_bars(chunks: Iterable[BookChunk], n_bars: int, n_assets: int) -> BookBars:
    """Features of snapshots (spec 04), as the live engine would hold them bar after bar.

    An asset without a snapshot on a bar keeps its last features, or the neutral ones before its first, and is
    left out of that bar's market figures. A bar without any snapshot keeps the last market figures; from the
    third such bar in a row, and before the very first snapshot, books are absent.

    Parameters
    ----------
    chunks : snapshots of n_bars bars in all, in order, each of n_assets.
    """
    bars = BookBars(
        np.zeros(n_bars, dtype=np.bool_),
        np.zeros(n_bars),
        np.zeros(n_bars),
        np.zeros(n_bars, dtype=np.int64),
        np.zeros(n_bars, dtype=np.int64),
        *(np.zeros((n_bars, n_assets)) for _ in range(5)),
    )
    past, whole = fold.new_past(n_assets), fold.new_arrivals(n_assets)
    start = 0
    for chunk in chunks:
        stop = start + len(chunk.seen)
        if stop > n_bars:
            raise DataError(f"snapshots of more than {n_bars} bars; expected as many as there are prices")
        features_kernel(
            *chunk,
            whole.covered,
            whole.reach,
            past,
            bars.present[start:stop],
            bars.median_imbalance[start:stop],
            bars.agreement[start:stop],
            bars.cascade_count[start:stop],
            bars.regime_signal[start:stop],
            bars.imbalance_ma5[start:stop],
            bars.persistence[start:stop],
            bars.depth_quality[start:stop],
            bars.fill_probability[start:stop],
            bars.withdrawal_velocity[start:stop],
        )
        start = stop
    if start != n_bars:
        raise DataError(f"snapshots of {start} bars for {n_bars}; expected as many as there are prices")
    return bars


@kernel
def books_kernel(
    prices: FloatArray,
    begins: BoolArray,
    noise: FloatArray,
    chance: FloatArray,
    size: FloatArray,
    event_bars: IntArray,
    outage_bars: IntArray,
    own_noise: FloatArray,
    own_chance: FloatArray,
    level: FloatArray,
    sensitivity: FloatArray,
    band_share: FloatArray,
    band_lean: FloatArray,
    market: FloatArray,
    assets: FloatArray,
    before: FloatArray,
    bid: FloatArray,
    ask: FloatArray,
    seen: BoolArray,
) -> None:
    """Write the snapshots of a chunk and carry market (11,), assets (6, n) and the last prices (n,) on.

    prices (m, n) USDT; begins (m,) an onset begins; noise, chance, size, event_bars, outage_bars, own_noise,
    own_chance: draws, at least m rows; level (n,) USD. Rows of assets: own log depth, own lean, the event's
    log depth, its target, its bars left, the recent move. No checks.
    """
    m, n = prices.shape
    keep_slow, keep_lean = exp(-1.0 / _SLOW_TAU), exp(-1.0 / _LEAN_TAU)
    keep_own, keep_own_lean = exp(-1.0 / _OWN_TAU), exp(-1.0 / _OWN_LEAN_TAU)
    push_slow = _SLOW_SD * np.sqrt(1.0 - keep_slow * keep_slow)
    push_lean = _LEAN_SD * np.sqrt(1.0 - keep_lean * keep_lean)
    push_own = _OWN_SD * np.sqrt(1.0 - keep_own * keep_own)
    push_own_lean = _OWN_LEAN_SD * np.sqrt(1.0 - keep_own_lean * keep_own_lean)
    keep_thin, keep_deep = exp(-1.0 / _THIN_TAU), exp(-1.0 / _DEEP_TAU)
    keep_withdrawn = exp(-1.0 / _WITHDRAWAL_TAU)
    spread = 1.0 / np.sqrt((1.0 - _MOVE_KEEP) / (1.0 + _MOVE_KEEP))  # one over the recent mean's deviation
    for t in range(m):
        # the market's move, its size, and each asset's move relative to the market's size
        total = 0.0
        count = 0
        for i in range(n):
            move = 0.0
            if prices[t, i] == prices[t, i]:
                if before[i] == before[i]:
                    move = prices[t, i] / before[i] - 1.0
                    total += move
                    count += 1
                before[i] = prices[t, i]
            assets[5, i] = _MOVE_KEEP * assets[5, i] + (1.0 - _MOVE_KEEP) * move
        mean = total / count if count > 0 else 0.0
        market[_MOVE] = _MOVE_KEEP * market[_MOVE] + (1.0 - _MOVE_KEEP) * mean
        if market[_VARIANCE] == 0.0:
            market[_VARIANCE] = mean * mean
        market[_VARIANCE] = _VARIANCE_KEEP * market[_VARIANCE] + (1.0 - _VARIANCE_KEEP) * mean * mean
        unit = spread / np.sqrt(market[_VARIANCE]) if market[_VARIANCE] > 0.0 else 0.0

        market[_SLOW] = keep_slow * market[_SLOW] + push_slow * noise[t, 0]
        market[_LEAN] = keep_lean * market[_LEAN] + push_lean * noise[t, 1]

        # withdrawals: a fall in equal steps, a pause, a slow return
        market[_SINCE_ONSET] = 0.0 if begins[t] else market[_SINCE_ONSET] + 1.0
        if (begins[t] and chance[t, 0] >= _ONSET_MISSED) or chance[t, 1] < _FALSE_RATE:
            depth = _WITHDRAWAL_LEAST + _WITHDRAWAL_MEAN * size[t]
            if depth > _WITHDRAWAL_MOST:
                depth = _WITHDRAWAL_MOST
            market[_STEP] = depth / _WITHDRAWAL_BARS
            market[_FALLING] = float(_WITHDRAWAL_BARS)
            market[_HELD] = float(_WITHDRAWAL_HOLD)
        if market[_FALLING] > 0.0:
            market[_WITHDRAWN] += market[_STEP]
            market[_FALLING] -= 1.0
        elif market[_HELD] > 0.0:
            market[_HELD] -= 1.0
        else:
            market[_WITHDRAWN] *= keep_withdrawn
        goal = _LEAN_ONSET if market[_SINCE_ONSET] < _LEAN_ONSET_BARS else 0.0
        market[_ONSET_LEAN] = _LEAN_ONSET_KEEP * market[_ONSET_LEAN] + (1.0 - _LEAN_ONSET_KEEP) * goal

        # events of some assets
        if chance[t, 2] < _EVENT_RATE:
            hit = _EVENT_HIT[0] + _EVENT_HIT[1] * chance[t, 3] * chance[t, 3]
            for i in range(n):
                if own_chance[t, 0, i] < hit:
                    extra = own_chance[t, 0, i] / hit
                    if chance[t, 4] < _THIN_ODDS:
                        assets[3, i] = -(_THIN[0] + _THIN[1] * extra)
                    elif chance[t, 4] < _THIN_ODDS + _MILD_ODDS:
                        assets[3, i] = -(_MILD[0] + _MILD[1] * extra)
                    else:
                        assets[3, i] = _DEEP[0] + _DEEP[1] * extra
                    assets[4, i] = float(event_bars[t])

        if market[_OUTAGE] > 0.0:
            market[_OUTAGE] -= 1.0
        elif chance[t, 5] < _OUTAGE_RATE:
            market[_OUTAGE] = float(outage_bars[t])
        lean_all = market[_LEAN] + market[_ONSET_LEAN] + _LEAN_MARKET * clamp(market[_MOVE] * unit, -3.0, 3.0)
        for i in range(n):
            assets[0, i] = keep_own * assets[0, i] + push_own * own_noise[t, 0, i]
            assets[1, i] = keep_own_lean * assets[1, i] + push_own_lean * own_noise[t, 1, i]
            if assets[4, i] > 0.0:
                assets[2, i] += _EVENT_IN * (assets[3, i] - assets[2, i])
                assets[4, i] -= 1.0
            else:
                assets[2, i] *= keep_thin if assets[2, i] < 0.0 else keep_deep
            log_depth = (
                market[_SLOW]
                - market[_WITHDRAWN] * sensitivity[i]
                + assets[0, i]
                + assets[2, i]
                + _FAST_SD * own_noise[t, 2, i]
            )
            own_move = clamp((assets[5, i] - market[_MOVE]) * unit, -3.0, 3.0)
            lean = clamp(
                lean_all + assets[1, i] + _LEAN_ASSET * own_move + _LEAN_NOISE * own_noise[t, 2, i],
                -_LEAN_MOST,
                _LEAN_MOST,
            )
            half = 0.5 * level[i] * exp(log_depth)
            for k in range(band_share.shape[0]):
                bid[t, i, k] = np.rint(half * band_share[k] * (1.0 + lean * band_lean[k]))
                ask[t, i, k] = np.rint(half * band_share[k] * (1.0 - lean * band_lean[k]))
            seen[t, i] = (
                market[_OUTAGE] == 0.0
                and own_chance[t, 1, i] >= _MISSING_RATE
                and prices[t, i] == prices[t, i]
            )


@kernel
def features_kernel(
    bid: FloatArray,
    ask: FloatArray,
    seen: BoolArray,
    covered: SmallIntArray,
    reach: SmallIntArray,
    past: fold.Past,
    present: BoolArray,
    median_imbalance: FloatArray,
    agreement: FloatArray,
    cascade_count: IntArray,
    regime_signal: IntArray,
    imbalance_ma5: FloatArray,
    persistence: FloatArray,
    depth_quality: FloatArray,
    fill_probability: FloatArray,
    velocity: FloatArray,
) -> None:
    """Fold m bars of whole books in and write their features; see `book_bars` and `orderbook.fold`.

    bid, ask (m, n, 5) USD, seen (m, n); covered and reach (n,) of a whole book. The rest is written, without
    checks.
    """
    m, n = seen.shape
    for t in range(m):
        fold_bar(bid[t], ask[t], seen[t], covered, reach, REFERENCE_KEEP, past)
        present[t] = past.market[fold.PRESENT] == 1.0
        median_imbalance[t] = past.market[fold.MEDIAN]
        agreement[t] = past.market[fold.AGREEMENT]
        cascade_count[t] = int(past.market[fold.CASCADE])
        regime_signal[t] = int(past.market[fold.REGIME])
        for i in range(n):
            imbalance_ma5[t, i] = past.features[fold.MA5, i]
            persistence[t, i] = past.features[fold.PERSISTENCE, i]
            depth_quality[t, i] = past.features[fold.QUALITY, i]
            fill_probability[t, i] = past.features[fold.FILL, i]
            velocity[t, i] = past.features[fold.WITHDRAWAL, i]
