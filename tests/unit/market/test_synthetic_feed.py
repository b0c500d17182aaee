"""The synthetic market: determinism, the calibration it promises, the edge it plants."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dolphin.domain.clock import iso_from_ns
from dolphin.domain.errors import StoreError, UsageError
from dolphin.domain.scan import WARMUP_PRICES
from dolphin.kernel import MODE, plain
from dolphin.market.feed import Feed
from dolphin.market.quick_scan import log_returns, rolling_lambda_max
from dolphin.market.synthetic import (
    BARS_PER_DAY,
    CHUNK_BARS,
    CONTROL_BARS,
    INTERVAL_NS,
    SyntheticFeed,
    market_kernel,
)

FIVE_S = 5.0
compiled = pytest.mark.skipif(MODE == "plain", reason="a chunk takes minutes without the compiler")


def matrix(feed: SyntheticFeed, skip: int = 0, n: int | None = None) -> np.ndarray:
    return np.array([bar.prices for bar in itertools.islice(feed.bars(skip), n)])


def facts(prices: np.ndarray) -> dict[str, float]:
    """The figures of the specification, over the scans of a market."""
    returns = log_returns(prices)
    short, long = rolling_lambda_max(returns, 50), rolling_lambda_max(returns, 750)
    vel_div = (np.diff(short) - np.diff(long))[WARMUP_PRICES - 3 :] / FIVE_S
    btc = np.diff(prices[:, 0]) / prices[:-1, 0]
    spread = np.lib.stride_tricks.sliding_window_view(btc, 51).std(axis=1)[-len(vel_div) :]
    share = np.concatenate([short[WARMUP_PRICES - 1 :], long[WARMUP_PRICES - 1 :]]) / prices.shape[1]
    return {
        "n_scans": len(vel_div),
        "below_002_frac": float((vel_div < -0.02).mean()),
        "below_005_frac": float((vel_div < -0.05).mean()),
        "gate_frac": float((spread > 0.00026414).mean()),
        "share_low": float(share.min()),
        "share_high": float(share.max()),
        "step_50": float(np.median(np.abs(np.diff(short[WARMUP_PRICES:])))),
    }


@compiled
def test_the_first_scan_falls_on_midnight_and_a_day_has_its_scans():
    feed = SyntheticFeed(days=1.0, start_day="2026-03-01")
    assert isinstance(feed, Feed)
    assert feed.n_bars == WARMUP_PRICES - 1 + 17_280
    assert BARS_PER_DAY == 17_280
    first = next(feed.bars(WARMUP_PRICES - 1))
    assert iso_from_ns(first.timestamp_ns)[:19] == "2026-03-01T00:00:00"
    assert len(feed.symbols) == 50
    assert feed.symbols[0] == "BTCUSDT"
    assert not feed.rejections
    stamps = [bar.timestamp_ns for bar in itertools.islice(feed.bars(), 900)]
    assert set(np.diff(stamps)) == {INTERVAL_NS}


@compiled
def test_the_same_seed_gives_the_same_bars_and_another_seed_others():
    a = matrix(SyntheticFeed(seed=3, days=0.01))
    np.testing.assert_array_equal(a, matrix(SyntheticFeed(seed=3, days=0.01)))
    assert (a != matrix(SyntheticFeed(seed=4, days=0.01))).any()
    assert SyntheticFeed(seed=3).source_id != SyntheticFeed(seed=4).source_id
    assert SyntheticFeed(seed=3).source_id == SyntheticFeed(seed=3).source_id


@compiled
def test_fewer_or_skipped_bars_change_nothing():
    long = SyntheticFeed(seed=5, days=None)
    bars = matrix(long, n=CHUNK_BARS + 300)
    assert long.n_bars is None
    np.testing.assert_array_equal(matrix(SyntheticFeed(seed=5, days=0.02)), bars[: 751 + 346])
    np.testing.assert_array_equal(
        matrix(long, skip=CHUNK_BARS - 5, n=50), bars[CHUNK_BARS - 5 : CHUNK_BARS + 45]
    )
    np.testing.assert_array_equal(matrix(long, skip=700, n=5), bars[700:705])


@compiled
def test_prices_are_whole_ticks():
    prices = matrix(SyntheticFeed(days=0.01))
    for j, decimals in ((0, 1), (5, 5), (34, 7)):
        np.testing.assert_array_equal(prices[:, j], [float(f"{p:.{decimals}f}") for p in prices[:, j]])
    assert (prices > 0.0).all()


@compiled
def test_the_calibration_on_a_short_market():
    # 6 000 scans hold about five onsets: the bounds are wider than those of the whole day below
    got = facts(matrix(SyntheticFeed(seed=42, days=6_000 / 17_280)))
    assert got["n_scans"] == 6_000
    assert 0.004 < got["below_002_frac"] < 0.04
    assert got["below_005_frac"] < 0.006
    assert 0.12 < got["share_low"] < got["share_high"] < 0.66
    assert got["step_50"] < 0.08


@compiled
@pytest.mark.long
@pytest.mark.parametrize("seed", [42, 1, 2, 3])
def test_the_calibration_on_whole_days(seed):
    got = facts(matrix(SyntheticFeed(seed=seed, days=2.0)))
    assert got["n_scans"] == 2 * 17_280
    assert 0.01 < got["below_002_frac"] < 0.03
    assert 0.0005 < got["below_005_frac"] < 0.003
    assert 0.16 < got["share_low"] < got["share_high"] < 0.64
    assert 0.45 < got["gate_frac"] < 0.85


@compiled
def test_the_planted_edge_is_of_the_stated_size():
    # the same draws with and without an edge: the difference is the edge alone
    falls = {}
    for edge in (0.0, 40.0):
        feed = SyntheticFeed(seed=11, days=0.25, edge_bps=edge)
        prices, onsets = matrix(feed), [k for k in feed.onsets() if 1 <= k < 5_000]
        falls[edge] = np.array([(prices[k + 119] / prices[k - 1] - 1.0).mean() * 1e4 for k in onsets])
        assert len(onsets) >= 2
    assert np.mean(falls[40.0] - falls[0.0]) == pytest.approx(-40.0, abs=2.0)


@compiled
@pytest.mark.long
def test_without_an_edge_shorting_every_onset_earns_nothing():
    moves = []
    for seed in range(40):
        feed = SyntheticFeed(seed=seed, days=1.0, edge_bps=0.0)
        prices = matrix(feed)
        moves += [
            (prices[k + 120] / prices[k] - 1.0).mean() * 1e4 for k in feed.onsets() if k + 120 < len(prices)
        ]
    error = np.std(moves) / np.sqrt(len(moves))
    assert abs(np.mean(moves)) < 3.5 * error


@compiled
def test_returns_have_heavy_tails():
    returns = log_returns(matrix(SyntheticFeed(seed=1, days=0.2)))
    kurtosis = ((returns / returns.std(axis=0)) ** 4).mean()
    assert kurtosis > 3.5


def test_notes_say_what_it_is():
    assert "edge of 12 bp" in SyntheticFeed().notes[0]
    assert "no edge" in SyntheticFeed(edge_bps=0.0).notes[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"days": 0.0}, "days is 0.0"),
        ({"days": float("nan")}, "days is nan"),
        ({"edge_bps": float("inf")}, "edge_bps is inf"),
        ({"start_day": "tomorrow"}, "start_day is 'tomorrow'"),
        ({"start_day": "2026-02-30"}, "2026-02-30"),
        ({"assets": 51}, "assets is 51"),
    ],
)
def test_refused_options(options, words):
    with pytest.raises(UsageError) as error:
        SyntheticFeed(**options)
    assert words in str(error.value)


@compiled
def test_fewer_assets_work_and_a_closed_feed_says_so():
    feed = SyntheticFeed(days=0.01, assets=5)
    assert matrix(feed, n=100).shape == (100, 5)
    feed.close()
    with pytest.raises(StoreError, match="closed"):
        next(feed.bars())


def test_the_kernel_and_its_plain_twin_give_the_same_bits():
    rng = np.random.default_rng(5)
    n_bars, n = CONTROL_BARS + 12, 4
    got = []
    arguments = (
        rng.uniform(0.5, 2.0, n_bars),
        rng.random(n_bars),
        rng.standard_t(5.0, (n_bars, n)),
        np.linspace(1.1, 0.9, n),
        rng.uniform(0.2, 0.6, n_bars),
        rng.normal(0.0, 1e-3, n_bars),
    )
    for kernel in (market_kernel, plain(market_kernel)):
        ring, u, scalars = np.zeros((CONTROL_BARS, n)), np.full(n, 0.5), np.zeros(2)
        y = np.empty((n_bars, n))
        kernel(*arguments, ring, u, scalars, y)
        got.append(np.concatenate([y.ravel(), ring.ravel(), u, scalars]))
    np.testing.assert_array_equal(got[0].view(np.int64), got[1].view(np.int64))
    assert got[0][-1] == n_bars
