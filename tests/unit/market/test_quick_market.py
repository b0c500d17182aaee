"""Whole synthetic markets at once: the same bars, and scans that stand up to the certified scanner."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dolphin.domain.bar import Bar
from dolphin.domain.clock import iso_from_ns
from dolphin.domain.errors import DataError, StoreError, UsageError
from dolphin.kernel import MODE, plain
from dolphin.market.quick_market import INSTABILITY_ERROR, VEL_DIV_ERROR, quick_market, scanned
from dolphin.market.quick_scan import power_step, rolling_dominant
from dolphin.market.synthetic import BARS_PER_DAY, INTERVAL_NS, SyntheticFeed
from dolphin.scan.scanner import Scanner

compiled = pytest.mark.skipif(MODE == "plain", reason="a chunk takes minutes without the compiler")
SHORT = -0.02


def exact(feed: SyntheticFeed) -> tuple[np.ndarray, ...]:
    """Stamps, vel_div, v50, v750 and instability_50 of the certified scanner over a whole feed."""
    scanner, rows = Scanner(feed.symbols), []
    for bar in feed.bars():
        scan = scanner.update(bar, len(rows)).scan
        if scan is not None:
            rows.append(
                (bar.timestamp_ns, scan.vel_div, scan.w50_velocity, scan.w750_velocity, scan.w50_instability)
            )
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def compare(seed: int, n_scans: int) -> None:
    days = n_scans / BARS_PER_DAY
    stamps, vel_div, v50, v750, instability = exact(SyntheticFeed(seed=seed, days=days, edge_bps=20.0))
    got = quick_market(seed, days, 20.0)
    np.testing.assert_array_equal(got.timestamp_ns, stamps)
    for mine, certified in ((got.vel_div, vel_div), (got.v50, v50), (got.v750, v750)):
        assert np.abs(mine - certified).max() < VEL_DIV_ERROR
    assert np.abs(got.instability_50 - instability).max() < INSTABILITY_ERROR
    assert (vel_div < SHORT).sum() >= 3
    assert ((got.vel_div < SHORT) != (vel_div < SHORT)).mean() < 1e-3
    # few bars stand near enough to the threshold for the stated error to matter at all
    assert (np.abs(vel_div - SHORT) < VEL_DIV_ERROR).mean() < 1e-3


@compiled
def test_the_scans_are_the_certified_scanners_within_the_stated_error():
    compare(seed=2, n_scans=1_500)


@compiled
@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 4])
def test_the_scans_of_a_whole_day_too(seed):
    compare(seed=seed, n_scans=BARS_PER_DAY)


@compiled
def test_the_prices_are_the_feeds_and_the_first_scan_is_at_midnight():
    got = quick_market(3, 0.3, 12.0, start_day="2026-02-01")  # more than one chunk of bars
    feed = SyntheticFeed(seed=3, days=0.3, edge_bps=12.0, start_day="2026-02-01")
    bars = list(itertools.islice(feed.bars(), 751, None))
    assert got.symbols == feed.symbols
    assert len(got.vel_div) == len(bars) == round(0.3 * BARS_PER_DAY)
    np.testing.assert_array_equal(got.prices, [bar.prices for bar in bars])
    np.testing.assert_array_equal(got.timestamp_ns, [bar.timestamp_ns for bar in bars])
    assert iso_from_ns(int(got.timestamp_ns[0]))[:19] == "2026-02-01T00:00:00"
    assert all(np.isfinite(column).all() for column in got[2:])
    np.testing.assert_array_equal(got.onsets, [k - 751 for k in feed.onsets() if k >= 751])
    assert len(got.onsets) > 1


@compiled
def test_a_longer_market_begins_with_the_shorter_one():
    short, long = quick_market(6, 0.05, 0.0, assets=12), quick_market(6, 0.3, 0.0, assets=12)
    assert set(short.onsets) == {k for k in long.onsets if k < len(short.vel_div)}
    for mine, longer in zip(short[1:-1], long[1:-1], strict=True):
        np.testing.assert_array_equal(mine, longer[: len(mine)])


@compiled
def test_markets_made_in_threads_are_those_made_in_turn():
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: quick_market(seed, 0.02, 5.0, assets=10), range(8)))
    for seed, market in enumerate(together):
        np.testing.assert_array_equal(market.vel_div, quick_market(seed, 0.02, 5.0, assets=10).vel_div)


@compiled
def test_velocities_are_per_second_of_the_stamps():
    feed = SyntheticFeed(seed=1, days=0.01, assets=6)
    prices = feed.whole()[0]
    stamps = feed.first_bar_ns + INTERVAL_NS * np.arange(len(prices), dtype=np.int64)
    usual, slow = scanned(feed.symbols, stamps, prices), scanned(feed.symbols, stamps * 12, prices)
    np.testing.assert_allclose(slow.vel_div * 12.0, usual.vel_div, rtol=1e-12, atol=1e-18)
    np.testing.assert_array_equal(slow.instability_50, usual.instability_50)


@compiled
def test_a_missing_price_is_carried_forward_for_the_scan_alone():
    feed = SyntheticFeed(seed=1, days=0.01, assets=6)
    prices = feed.whole()[0]
    stamps = feed.first_bar_ns + INTERVAL_NS * np.arange(len(prices), dtype=np.int64)
    prices[800:803, 2] = np.nan
    got = scanned(feed.symbols, stamps, prices)
    assert np.isnan(got.prices[800 - 751, 2])
    assert np.isfinite(got.vel_div).all()
    scanner = Scanner(feed.symbols)
    exact_vel_div = [
        scan.vel_div
        for t, row in enumerate(prices)
        if (scan := scanner.update(Bar(int(stamps[t]), row), t).scan) is not None
    ]
    np.testing.assert_allclose(got.vel_div, exact_vel_div, atol=VEL_DIV_ERROR)


@compiled
def test_instability_is_the_turn_and_growth_of_the_dominant_component():
    returns = (
        np.random.default_rng(0).standard_normal((80, 5)) * 1e-3 + np.linspace(-1, 1, 80)[:, None] * 1e-3
    )
    values, changes = rolling_dominant(returns, 60)
    assert np.isnan(changes[:60]).all()
    for t in range(60, 80):
        pair = []
        for end in (t, t + 1):
            value, vector = np.linalg.eigh(np.corrcoef(returns[end - 60 : end].T))
            pair.append(value[-1] * np.outer(vector[:, -1], vector[:, -1]))
        expected = np.linalg.norm(pair[1] - pair[0]) / np.linalg.norm(pair[0])
        assert changes[t] == pytest.approx(expected, abs=1e-5)
        assert values[t] == pytest.approx(np.linalg.norm(pair[1]), rel=1e-9)


@pytest.mark.parametrize("n", [3, 5, 11])
def test_a_power_step_is_a_product_and_its_plain_twin_has_the_same_bits(n):
    rng = np.random.default_rng(n)
    matrix = rng.standard_normal((n, n))
    start = rng.standard_normal(n)
    vector, twin = start.copy(), start.copy()
    rayleigh = power_step(np.ascontiguousarray(matrix.T), vector, np.empty(n))
    assert rayleigh == plain(power_step)(np.ascontiguousarray(matrix.T), twin, np.empty(n))
    np.testing.assert_array_equal(vector, twin)
    product = matrix @ start
    assert rayleigh == pytest.approx(start @ product)
    np.testing.assert_allclose(vector, product / np.linalg.norm(product))


def test_refused_markets():
    with pytest.raises(UsageError, match="has no end"):
        SyntheticFeed(days=None).whole()
    feed = SyntheticFeed(days=0.01)
    feed.close()
    with pytest.raises(StoreError, match="closed"):
        feed.whole()
    with pytest.raises(UsageError, match="seed is -1"):
        quick_market(-1, 1.0, 0.0)
    with pytest.raises(DataError, match="at least two"):
        rolling_dominant(np.zeros((5, 2)), 1)
