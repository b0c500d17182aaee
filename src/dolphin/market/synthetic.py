"""A seeded synthetic market: 50 perpetuals at 5 s bars, with planted instability regimes.

Entry point: `SyntheticFeed`. What a bar is made of, for asset i with volatility v_i and loading L_i:

    y_i = s a ( sqrt(h) L_i + sqrt(1 - h L_i^2) e_i ),     price *= 1 + v_i y_i + drift,  rounded to the tick

- s is the sign of the market's move, a its size: slow log-normal volatility times a Student factor, the same
  for all assets. e_i are Student's t, with sector factors, freed of the market's direction.
- h in (0, 1) is the market's share of this bar's variance, and the place where correlation is made. Each bar,
  h is the value nearest to a slow target path for which lambda_max of the last 50 bars (estimated by power
  iteration) moves within a band around the target's own rate. A free factor market moves lambda(50) by 0.5 a
  bar at any bar length; this one moves it by about 0.05, as the thresholds of a 5 s scanner need.
- The target path is a slow wave between about 0.22 and 0.58 of the assets, with planted *onsets*: for 6 to 15
  bars it falls by 0.1 and more eigenvalues a bar, then recovers. About 13 a day.

Invariants:

1. No edge unless planted. h is solved for both signs, and the sign is drawn with the odds that make the
   expected return zero given all that was before. With `edge_bps` = x, an average asset falls by x basis
   points in the 120 bars after an onset begins (more volatile assets by more), and a constant counter-drift
   keeps the long run flat.
2. Same seed and options, same bars; fewer or skipped bars change nothing (prefix property): draws come in
   whole chunks from one PCG64 stream. The clock plays no part. Prices are rounded to ticks, so that a
   last-bit difference between mathematical libraries does not survive into them.
3. Memory is constant: one chunk of bars.

Figures measured over whole days with the scanner's four windows are pinned in
`tests/unit/market/test_synthetic_feed.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from dolphin.domain.bar import Bar, FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, day_start_ns
from dolphin.domain.errors import StoreError, UsageError
from dolphin.domain.scan import WARMUP_PRICES
from dolphin.kernel import kernel
from dolphin.market.feed import digest
from dolphin.market.quick_scan import power_step
from dolphin.market.universe import DEFAULT_ASSETS, default_universe

INTERVAL_NS = 5 * NS_PER_S
BARS_PER_DAY = NS_PER_DAY // INTERVAL_NS
DEFAULT_START_DAY = "2026-01-05"
#: A little more than the costs of a round trip (entry 3.1 bp, exit 3.5 bp, slippage 1 bp) on the mean of many
#: onsets; half of the signals come from the background, so that a single day can go either way.
DEFAULT_EDGE_BPS = 12.0
#: A day that shows take-profits and full holds, near the middle of what seeds give.
DEFAULT_SEED = 4
DEFAULT_DAYS = 1.0
#: Raised when a change of this module changes the bars of a seed.
VERSION = 1

CHUNK_BARS = 4096
CONTROL_BARS = 50

#: Price level (USDT) and decimals of the price, by symbol. Levels of late 2025; a tick is at most 1e-4 of the
#: price.
_LEVELS: dict[str, tuple[float, int]] = {
    "BTCUSDT": (91_240.5, 1), "ETHUSDT": (3_118.42, 2), "BNBUSDT": (894.31, 2), "SOLUSDT": (137.214, 3),
    "XRPUSDT": (2.1043, 4), "DOGEUSDT": (0.14872, 5), "ADAUSDT": (0.41253, 5), "AVAXUSDT": (14.312, 3),
    "LINKUSDT": (13.871, 3), "DOTUSDT": (2.2145, 4), "LTCUSDT": (82.41, 2), "BCHUSDT": (571.32, 2),
    "TRXUSDT": (0.28114, 5), "UNIUSDT": (6.0312, 4), "ATOMUSDT": (2.3417, 4), "ETCUSDT": (13.512, 3),
    "FILUSDT": (1.5934, 4), "NEARUSDT": (1.7821, 4), "APTUSDT": (2.0134, 4), "ARBUSDT": (0.21347, 5),
    "OPUSDT": (0.31872, 5), "INJUSDT": (5.8123, 4), "SUIUSDT": (1.6214, 4), "SEIUSDT": (0.13524, 5),
    "TIAUSDT": (0.60213, 5), "AAVEUSDT": (187.42, 2), "ALGOUSDT": (0.13218, 5), "XLMUSDT": (0.24831, 5),
    "HBARUSDT": (0.13972, 5), "ICPUSDT": (3.4213, 4), "VETUSDT": (0.012317, 6), "SANDUSDT": (0.14813, 5),
    "MANAUSDT": (0.15921, 5), "AXSUSDT": (1.0312, 4), "GALAUSDT": (0.0072341, 7), "CRVUSDT": (0.38123, 5),
    "LDOUSDT": (0.60318, 5), "SNXUSDT": (0.48217, 5), "COMPUSDT": (28.912, 3), "GRTUSDT": (0.043217, 6),
    "RUNEUSDT": (0.62318, 5), "KAVAUSDT": (0.10234, 5), "DYDXUSDT": (0.21873, 5), "ENSUSDT": (10.812, 3),
    "CHZUSDT": (0.030217, 6), "ZECUSDT": (412.31, 2), "DASHUSDT": (46.213, 3), "THETAUSDT": (0.31872, 5),
    "EGLDUSDT": (7.2134, 4), "FETUSDT": (0.23418, 5),
}  # fmt: skip

# The market's make-up. Lengths are bars of 5 s, eigenvalues are of 50 assets.
_BTC_VOL = 0.0003  # standard deviation of BTC's return per bar at median volatility
_ALT_VOL = (1.15, 2.1)  # the others' volatility over BTC's, from the second symbol to the last
_LOADING = (1.1, 0.9)  # L from the first symbol to the last, before scaling to mean square one
_SHARE_MEAN, _SHARE_SD, _SHARE_TAU = 0.37, 0.09, 600.0
_SHARE_LOW, _SHARE_HIGH, _SHARE_FLOOR = 0.22, 0.58, 0.12
_VOL_SD, _VOL_TAU = 0.35, 1200.0
_BURST, _BURST_TAU = 0.25, 40.0  # extra log-volatility at an onset
_NU_MARKET, _NU_OWN = 60.0, 5.0
_SECTORS, _SECTOR_WEIGHT = 5, 0.25
_ONSET_GAP, _ONSET_RATE = 300, 1.0 / 1000.0  # least distance, and chance per bar beyond it
_ONSET_BARS = (6, 16)
_FALL_LEAST, _FALL_EXTRA = 0.115, 0.055  # eigenvalues per bar: least, and mean of the exponential excess
_RECOVERY_TAU = 150.0
_EDGE_BARS, _DRIFT_BARS = 120, 160
_BAND_DOWN, _BAND_UP = 0.03, 0.07  # eigenvalues per bar allowed below and above the target's rate
_PULL = 0.02  # share of the distance to the target's level that is made up per bar
_H_LOW, _H_HIGH = 0.01, 0.97


@dataclass(slots=True)
class _Slow:
    """The slow processes' state between chunks."""

    share_fast: float = 0.0
    share_slow: float = 0.0
    log_vol: float = 0.0
    burst: float = 0.0
    offset: float = 0.0
    fall: float = 0.0
    fall_left: int = 0
    since_onset: int = _ONSET_GAP
    target: float = _SHARE_MEAN


@dataclass(slots=True)
class _Control:
    """The kernel's state between chunks: the last 50 rows, the eigenvector and the eigenvalue."""

    ring: FloatArray
    u: FloatArray
    scalars: FloatArray  # [lambda_max, rows seen]


@dataclass(slots=True)
class _Chunk:
    prices: FloatArray
    onsets: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))


class SyntheticFeed:
    """The synthetic market as a feed.

    The 752nd bar, which gives the first scan, is stamped 00:00:00 of `start_day`; a day has 17 280 scans.
    """

    def __init__(
        self,
        seed: int = DEFAULT_SEED,
        days: float | None = DEFAULT_DAYS,
        start_day: str = DEFAULT_START_DAY,
        edge_bps: float = DEFAULT_EDGE_BPS,
        assets: int = DEFAULT_ASSETS,
    ) -> None:
        """Describe a market; nothing is generated yet.

        Parameters
        ----------
        seed : any integer from 0.
        days : length in days of scans (a fraction is allowed), or None for a market without end.
        start_day : UTC date of the first scan.
        edge_bps : mean fall of an average asset over the 120 bars after an onset, basis points; 0 plants
            none.
        assets : how many symbols of the default universe, from the front, 2 to 50.

        Raises UsageError for a value outside its range.
        """
        universe = default_universe()
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise UsageError(f"seed is {seed!r}; expected an integer from 0")
        if days is not None and not 0.0 < days <= 36_500.0:
            raise UsageError(f"days is {days}; expected more than 0 and at most 36500")
        if not -1_000.0 <= edge_bps <= 1_000.0:
            raise UsageError(f"edge_bps is {edge_bps}; expected -1000 to 1000 basis points")
        if not 2 <= assets <= len(universe):
            raise UsageError(f"assets is {assets}; the synthetic market has 2 to {len(universe)}")
        try:
            self._first_scan_ns = day_start_ns(start_day)
        except ValueError as error:
            raise UsageError(
                f"start_day is {start_day!r}; expected a date like {DEFAULT_START_DAY}"
            ) from error
        self.seed = seed
        self.edge_bps = float(edge_bps)
        self.name = f"synthetic (seed {seed})"
        self.symbols = universe[:assets]
        self.interval_ns = INTERVAL_NS
        self.n_bars: int | None = None
        if days is not None:
            self.n_bars = WARMUP_PRICES - 1 + max(1, round(days * BARS_PER_DAY))
        self.rejections: Counter[tuple[str, str]] = Counter()
        edge = f"an edge of {edge_bps:g} bp planted after each onset" if edge_bps else "no edge planted"
        self.notes = [f"Synthetic market, seed {seed}, {edge}: its results say nothing about real markets"]
        self.source_id = digest(
            {
                "kind": "synthetic",
                "version": VERSION,
                "seed": seed,
                "n_bars": self.n_bars,
                "start_day": start_day,
                "edge_bps": self.edge_bps,
                "symbols": list(self.symbols),
            }
        )
        self._closed = False

    def bars(self, skip: int = 0) -> Iterator[Bar]:
        """Bars from position `skip` on. Skipped bars are generated in chunks (about half a second a day)."""
        if self._closed:
            raise StoreError(f"{self.name}: the feed is closed; open it again")
        first_ns = self.first_bar_ns
        start = 0
        for chunk in self._chunks():
            stop = start + len(chunk.prices)
            if self.n_bars is not None:
                stop = min(stop, self.n_bars)
            for i in range(max(start, skip), stop):
                yield Bar(first_ns + i * INTERVAL_NS, chunk.prices[i - start])
            start = stop
            del chunk
            if start == self.n_bars:
                return

    @property
    def first_bar_ns(self) -> int:
        """Stamp of the first bar, 751 bars before the first scan."""
        return self._first_scan_ns - (WARMUP_PRICES - 1) * INTERVAL_NS

    def whole(self) -> tuple[FloatArray, IntArray]:
        """The prices of all bars at once, (n_bars, n_assets), USDT, and the positions of all onsets: what
        `bars` and `onsets` give one by one.

        Raises UsageError for a market without end, and StoreError when the feed is closed.
        """
        if self._closed:
            raise StoreError(f"{self.name}: the feed is closed; open it again")
        if self.n_bars is None:
            raise UsageError(f"{self.name} has no end; give it days to take its prices at once")
        prices = np.empty((self.n_bars, len(self.symbols)))
        onsets: list[IntArray] = []
        start = 0
        for chunk in self._chunks():
            stop = min(start + len(chunk.prices), self.n_bars)
            prices[start:stop] = chunk.prices[: stop - start]
            onsets.append(start + chunk.onsets[chunk.onsets < stop - start])
            start = stop
            if start == self.n_bars:
                break
        return prices, np.concatenate(onsets)

    def onsets(self) -> Iterator[int]:
        """Positions of the bars where a planted onset begins, in order; for tests and studies, not for
        trading.
        """
        start = 0
        for chunk in self._chunks():
            for k in chunk.onsets:
                if self.n_bars is None or start + int(k) < self.n_bars:
                    yield start + int(k)
            start += len(chunk.prices)
            if self.n_bars is not None and start >= self.n_bars:
                return

    def chunks(self) -> Iterator[tuple[FloatArray, IntArray]]:
        """(prices, onsets) of chunk after chunk, beyond the feed's end too.

        prices (CHUNK_BARS, n_assets) in USDT, onsets positions in them.
        """
        for chunk in self._chunks():
            yield chunk.prices, chunk.onsets

    def close(self) -> None:
        """A closed feed gives no more bars."""
        self._closed = True

    def _chunks(self) -> Iterator[_Chunk]:
        n = len(self.symbols)
        rng = np.random.Generator(np.random.PCG64(self.seed))
        loading = np.linspace(*_LOADING, n)
        loading /= math.sqrt(float(np.mean(loading * loading)))
        vol = np.concatenate(([1.0], np.linspace(*_ALT_VOL, n - 1))) * _BTC_VOL
        shuffled = np.random.Generator(np.random.PCG64(7)).permutation(n - 1) + 1  # the same in every market
        vol[1:] = vol[shuffled]
        sector = np.arange(n) % _SECTORS
        own = np.sqrt(np.maximum(1.0 - 0.4 * loading * loading, 0.05))
        basis = np.linalg.qr(np.stack([loading * own, loading**3 * own], axis=1))[0]
        weight = (loading * own) ** 2
        levels = np.array([_LEVELS[symbol][0] for symbol in self.symbols])
        ticks = np.array([10.0 ** _LEVELS[symbol][1] for symbol in self.symbols])
        in_drift = _DRIFT_BARS / (_ONSET_GAP + 1.0 / _ONSET_RATE)  # share of bars
        drift = vol / vol.mean() * (-self.edge_bps * 1e-4 / _EDGE_BARS / (1.0 - in_drift))

        slow = _Slow(
            share_fast=float(rng.standard_normal()),
            share_slow=float(rng.standard_normal()) / math.sqrt(2.0),
            log_vol=float(rng.standard_normal()) * _VOL_SD,
        )
        control = _Control(np.zeros((CONTROL_BARS, n)), np.full(n, 1.0 / math.sqrt(n)), np.zeros(2))
        price = levels.copy()
        while True:
            noise = rng.standard_normal((CHUNK_BARS, 2))
            chance = rng.random((CHUNK_BARS, 2))
            depth = rng.exponential(1.0, CHUNK_BARS)
            length = rng.integers(*_ONSET_BARS, CHUNK_BARS)
            size = np.sqrt(_NU_MARKET / rng.chisquare(_NU_MARKET, CHUNK_BARS))
            e = rng.standard_t(_NU_OWN, (CHUNK_BARS, n))
            e += _SECTOR_WEIGHT * rng.standard_t(_NU_OWN, (CHUNK_BARS, _SECTORS))[:, sector]
            e -= (e @ basis) @ basis.T
            e *= np.sqrt(weight.sum() / ((e * e) @ weight))[:, None]

            share, rate, volatility, falling, onsets = _slow_paths(slow, noise, chance[:, 0], depth, length)
            y = np.empty((CHUNK_BARS, n))
            market_kernel(
                size * volatility,
                chance[:, 1],
                e,
                loading,
                share,
                rate,
                control.ring,
                control.u,
                control.scalars,
                y,
            )
            growth = 1.0 + y * vol + drift * (falling - in_drift)[:, None]
            path = np.cumprod(np.vstack([price, np.maximum(growth, 0.5)]), axis=0)
            price = path[-1].copy()
            prices = np.maximum(np.rint(path[1:] * ticks), 1.0) / ticks
            prices.setflags(write=False)
            # A live feed stands here for hours: what is not needed then must not meet the next chunk's.
            del noise, chance, depth, length, size, e, share, rate, volatility, falling, y, growth, path
            yield _Chunk(prices, onsets)


def _slow_paths(
    slow: _Slow, noise: FloatArray, chance: FloatArray, depth: FloatArray, length: IntArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, IntArray]:
    """Target share, its change in eigenvalues per bar, volatility factor, 1.0 in the drift of an onset,
    onsets.
    """
    n = len(noise)
    share, rate, vol, falling = np.empty(n), np.empty(n), np.empty(n), np.zeros(n)
    onsets: list[int] = []
    keep_share, keep_vol = math.exp(-1.0 / _SHARE_TAU), math.exp(-1.0 / _VOL_TAU)
    push_share = math.sqrt(1.0 - keep_share * keep_share)
    push_vol = _VOL_SD * math.sqrt(1.0 - keep_vol * keep_vol)
    keep_offset, keep_burst = math.exp(-1.0 / _RECOVERY_TAU), math.exp(-1.0 / _BURST_TAU)
    for t in range(n):
        slow.since_onset += 1
        if slow.since_onset > _ONSET_GAP and chance[t] < _ONSET_RATE:
            slow.since_onset = 0
            slow.fall_left = int(length[t])
            slow.fall = (_FALL_LEAST + _FALL_EXTRA * float(depth[t])) / 50.0
            slow.burst += _BURST
            onsets.append(t)
        if slow.fall_left > 0:
            slow.offset -= slow.fall
            slow.fall_left -= 1
        else:
            slow.offset *= keep_offset
        if slow.since_onset < _DRIFT_BARS:
            falling[t] = 1.0
        slow.share_fast = keep_share * slow.share_fast + push_share * float(noise[t, 0])
        slow.share_slow = keep_share * slow.share_slow + (1.0 - keep_share) * slow.share_fast
        slow.log_vol = keep_vol * slow.log_vol + push_vol * float(noise[t, 1])
        slow.burst *= keep_burst
        wave = _SHARE_MEAN + _SHARE_SD * math.sqrt(2.0) * slow.share_slow
        target = max(_SHARE_FLOOR, min(max(wave, _SHARE_LOW), _SHARE_HIGH) + slow.offset)
        share[t] = target
        rate[t] = target - slow.target
        vol[t] = math.exp(slow.log_vol + slow.burst)
        slow.target = target
    return share, rate, vol, falling, np.array(onsets, dtype=np.int64)


@kernel
def market_kernel(
    a: FloatArray,
    chance: FloatArray,
    e: FloatArray,
    loading: FloatArray,
    share: FloatArray,
    rate: FloatArray,
    ring: FloatArray,
    u: FloatArray,
    scalars: FloatArray,
    y: FloatArray,
) -> None:
    """Write the chunk's unit returns into y, shape (n_bars, n_assets), and carry ring, u and scalars on.

    a: size of the market's move (n_bars,); chance: uniform draws that choose the sign; e: own moves, as y;
    loading: L (n_assets,); share, rate: target of lambda / n_assets and its change (n_bars,); ring: the last
    50 rows, the next one to overwrite at row seen % 50; scalars: [lambda_max, rows seen]. No checks.
    """
    n_bars, n = e.shape
    w = ring.shape[0]
    s1 = np.zeros(n)
    s2 = np.zeros((n, n))
    for k in range(w):
        for i in range(n):
            s1[i] += ring[k, i]
            for j in range(n):
                s2[i, j] += ring[k, i] * ring[k, j]
    corr = np.zeros((n, n))
    row = np.zeros(n)
    v = np.zeros(n)
    x = np.zeros(n)
    for t in range(n_bars):
        seen = int(scalars[1])
        slot = seen % w
        for i in range(n):
            old = ring[slot, i]
            s1[i] -= old
            for j in range(n):
                s2[i, j] -= old * ring[slot, j]
        h_up = share[t]
        h_down = share[t]
        if seen >= w:
            middle = scalars[0] + rate[t] * n + _PULL * (share[t] * n - scalars[0])
            h_up = _solve(1.0, a[t], share[t], e[t], loading, s1, s2, w, middle, u, corr, row, v, x)
            h_down = _solve(-1.0, a[t], share[t], e[t], loading, s1, s2, w, middle, u, corr, row, v, x)
        up, down = np.sqrt(h_up), np.sqrt(h_down)
        sign = 1.0 if chance[t] * (up + down) < down else -1.0
        _returns(sign * a[t], h_up if sign > 0.0 else h_down, loading, e[t], row)
        if seen >= w - 1:
            scalars[0] = _lambda(s1, s2, w, row, u, corr, v, x, 6)
            for i in range(n):
                u[i] = v[i]
        for i in range(n):
            y[t, i] = row[i]
            ring[slot, i] = row[i]
            s1[i] += row[i]
            for j in range(n):
                s2[i, j] += row[i] * row[j]
        scalars[1] = float(seen + 1)


@kernel
def _returns(signed_a: float, h: float, loading: FloatArray, e: FloatArray, row: FloatArray) -> None:
    """Unit returns of one bar into row; see the module's formula."""
    root = np.sqrt(h)
    for i in range(row.shape[0]):
        rest = 1.0 - h * loading[i] * loading[i]
        if rest < 0.02:
            rest = 0.02
        row[i] = signed_a * (root * loading[i] + np.sqrt(rest) * e[i])


@kernel
def _solve(
    sign: float,
    a: float,
    h: float,
    e: FloatArray,
    loading: FloatArray,
    s1: FloatArray,
    s2: FloatArray,
    w: int,
    middle: float,
    u: FloatArray,
    corr: FloatArray,
    row: FloatArray,
    v: FloatArray,
    x: FloatArray,
) -> float:
    """The share nearest to h that puts lambda_max within the band around `middle` (secant, five steps at
    most).
    """
    slope = a * a
    h_last = h
    value_last = 0.0
    goal = 0.0
    for k in range(5):
        _returns(sign * a, h, loading, e, row)
        value = _lambda(s1, s2, w, row, u, corr, v, x, 3)
        if k == 0:
            if middle - _BAND_DOWN <= value <= middle + _BAND_UP:
                break
            goal = middle - _BAND_DOWN if value < middle else middle + _BAND_UP
        else:
            if abs(value - goal) < 0.004:
                break
            if h != h_last:
                slope = (value - value_last) / (h - h_last)
                if slope < 0.05 * a * a:
                    slope = 0.05 * a * a
        h_next = h + (goal - value) / slope
        if h_next < _H_LOW:
            h_next = _H_LOW
        if h_next > _H_HIGH:
            h_next = _H_HIGH
        if h_next == h:
            break
        h_last = h
        value_last = value
        h = h_next
    return h


@kernel
def _lambda(
    s1: FloatArray,
    s2: FloatArray,
    w: int,
    row: FloatArray,
    u: FloatArray,
    corr: FloatArray,
    v: FloatArray,
    x: FloatArray,
    iterations: int,
) -> float:
    """Rayleigh quotient after some power iterations from u on the window with `row` added; the vector into
    v.
    """
    n = row.shape[0]
    for i in range(n):
        m = s1[i] + row[i]
        d = w * (s2[i, i] + row[i] * row[i]) - m * m
        x[i] = 1.0 / np.sqrt(d) if d > 1e-300 else 0.0
    for j in range(n):  # by columns, as `power_step` takes it
        own = row[j]
        total = s1[j] + own
        inverse = x[j]
        for i in range(n):
            corr[j, i] = (w * (s2[j, i] + row[i] * own) - (s1[i] + row[i]) * total) * x[i] * inverse
        v[j] = u[j]
    value = 0.0
    for _ in range(iterations):
        value = power_step(corr, v, x)
    return value
