"""The data check against the scanner itself, and each fault it has to name."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dolphin.domain.bar import Bar
from dolphin.domain.errors import DataError, UsageError
from dolphin.domain.params import GOLD, GREEN
from dolphin.kernel import MODE
from dolphin.market.passport import passport
from dolphin.market.quick_scan import (
    carry_forward,
    log_returns,
    rolling_lambda_max,
)
from dolphin.market.recorded import RecordedFeed
from dolphin.market.synthetic import SyntheticFeed

RECORDINGS = Path(os.environ.get("DOLPHIN_RECORDINGS", Path(__file__).parents[4] / "shared" / "data"))
FIVE_S = 5_000_000_000
pytestmark = pytest.mark.skipif(MODE == "plain", reason="minutes without the compiler")


class ListFeed:
    """A feed over given stamps and prices."""

    def __init__(self, prices, symbols=None, stamps=None, interval_ns=FIVE_S):
        self.prices = np.asarray(prices, dtype=float)
        self.name = "list"
        self.symbols = symbols or ("BTCUSDT", *(f"A{k}USDT" for k in range(self.prices.shape[1] - 1)))
        self.interval_ns = interval_ns
        self.stamps = stamps or [interval_ns * (k + 1) for k in range(len(self.prices))]
        self.n_bars = len(self.prices)
        self.rejections = Counter()
        self.notes = []
        self.source_id = "00" * 32

    def bars(self, skip=0):
        for stamp, row in zip(self.stamps[skip:], self.prices[skip:], strict=True):
            yield Bar(stamp, row)

    def close(self):
        pass


def walk(n_bars=900, n_assets=6, seed=1, scale=1e-3):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n_bars, 1))
    return 100.0 * np.exp(scale * np.cumsum(common + rng.normal(size=(n_bars, n_assets)), axis=0))


@pytest.mark.parametrize("window", [2, 50, 150])
def test_the_rolling_eigenvalue_is_numpys(window):
    returns = log_returns(walk(700, 8))
    returns[100:300, 3] = 0.0  # no variance for a while
    got = rolling_lambda_max(returns, window)
    assert np.isnan(got[: window - 1]).all()
    for t in range(window - 1, len(returns), 37):
        part = returns[t - window + 1 : t + 1]
        centred = part - part.mean(axis=0)
        norm = np.sqrt((centred**2).sum(axis=0))
        flat = norm < 1e-12
        corr = (centred.T @ centred) / np.outer(np.where(flat, 1.0, norm), np.where(flat, 1.0, norm))
        corr[flat] = corr[:, flat] = 0.0
        np.fill_diagonal(corr, 1.0)
        assert got[t] == pytest.approx(np.linalg.eigvalsh(corr)[-1], rel=1e-6)


def test_rolling_eigenvalue_refuses_what_it_cannot_do():
    with pytest.raises(DataError, match="at least two"):
        rolling_lambda_max(np.zeros((5, 2)), 1)
    with pytest.raises(DataError, match="not finite"):
        rolling_lambda_max(np.full((5, 2), np.nan), 2)
    assert np.isnan(rolling_lambda_max(np.zeros((5, 2)), 6)).all()


def test_prices_are_carried_and_what_is_no_move_is_none():
    nan = np.nan
    prices = np.array([[nan, 1.0], [2.0, nan], [2.0, 2.0], [2.0, 20.0]])
    np.testing.assert_array_equal(carry_forward(prices), [[nan, 1], [2, 1], [2, 2], [2, 20]])
    np.testing.assert_allclose(log_returns(prices), [[0, 0], [0, np.log(2)], [0, 0]])


def test_it_agrees_with_the_scanner():
    scanner_module = pytest.importorskip("dolphin.scan.scanner")
    prices = walk(1_000, 8)
    prices[900:905, 3] = np.nan
    feed = ListFeed(prices)
    scanner = scanner_module.Scanner(feed.symbols, path="float64")
    scans = [scan for bar in feed.bars() if (scan := scanner.update(bar, 1).scan) is not None]
    got = passport(feed)
    assert got.n_scans == len(scans) == 249
    for name, beyond in (("-0.02", lambda v: v < -0.02), ("+0.01", lambda v: v > 0.01)):
        assert got.vel_div_frac[name] == pytest.approx(np.mean([beyond(s.vel_div) for s in scans]), abs=1e-9)
    for window in ("50", "750"):
        shares = [getattr(s, f"w{window}_lambda_max") / 8 for s in scans]
        # the range begins one bar before the first scan's own value is known, at the scan itself
        assert got.lambda_share[window] == pytest.approx((min(shares), max(shares)), abs=1e-4)


def test_a_healthy_market_is_fit():
    got = passport(ListFeed(walk(2_000)))
    assert got.fit
    assert got.reasons == []
    assert got.short_trades > 0
    assert got.gate_open_frac == pytest.approx(1.0)
    assert json.loads(json.dumps(got.as_dict(), allow_nan=False))["n_bars"] == 2_000
    assert got.text().endswith("fit to trade")


def test_a_set_brings_its_own_thresholds_and_holding_time():
    market = walk(2_000)
    usual = passport(ListFeed(market))
    gold = passport(ListFeed(market), params=GOLD)
    assert (gold.fit, gold.short_trades, gold.vel_div_frac) == (True, usual.short_trades, usual.vel_div_frac)
    brief = passport(ListFeed(market), params=GOLD.with_values({"max_hold_bars": 5}))
    assert brief.short_trades > gold.short_trades
    assert brief.long_trades == gold.long_trades
    never = GOLD.with_values({"vel_div_threshold": -50.0, "vel_div_extreme": -60.0})
    got = passport(ListFeed(market), params=never)
    assert (got.fit, got.short_trades) == (False, 0)
    assert "no signal passes the set's threshold" in got.reasons[0]
    assert got.vel_div_frac["-50"] == 0.0
    long = passport(ListFeed(market), params=GREEN.with_values({"max_hold_bars": 5}))
    assert long.long_trades > usual.long_trades
    assert long.short_trades == usual.short_trades


def test_the_gate_closes_on_a_quiet_market():
    got = passport(ListFeed(walk(2_000, scale=1e-6)))
    assert got.gate_open_frac == 0.0
    assert not got.fit
    assert "volatility gate" in got.reasons[0]
    assert passport(ListFeed(walk(2_000, scale=1e-6)), vol_threshold=1e-9).fit


def test_without_bitcoin_the_gate_is_open_and_it_is_said():
    got = passport(ListFeed(walk(2_000, scale=1e-6), symbols=tuple(f"B{k}USDT" for k in range(6))))
    assert got.gate_open_frac is None
    assert got.fit
    assert any("no BTCUSDT" in remark for remark in got.remarks)
    assert "open (no BTC)" in got.text()


def test_faults_are_named():
    prices = walk(1_200)
    prices[:, 1] = 5.0  # constant
    prices[:, 2] = np.repeat(prices[::4, 2], 4)[:1200]  # stale
    prices[600:, 3] *= 10.0  # a jump beyond e
    prices[:, 4] = np.nan  # never priced
    stamps = [FIVE_S * (k + 1 + (20 if k > 1_000 else 0)) for k in range(1_200)]
    stamps[50] = stamps[49]
    stamps[60] = stamps[10]
    feed = ListFeed(prices, stamps=stamps)
    feed.rejections["A3USDT", "missing"] = 1_200
    got = passport(feed)
    assert (got.duplicates, got.backwards, got.n_gaps, got.missing_bars) == (1, 1, 3, 22)
    assert got.constant == ["A0USDT"]
    assert got.stale == ["A1USDT"] or set(got.stale) == {"A1USDT", "A3USDT"}
    assert got.longest_flat_bars["A0USDT"] == 1_197
    assert got.unchanged_frac["A1USDT"] > 0.7
    assert got.never_priced == ["A3USDT"]
    assert len(got.jumps) == 1
    assert got.jumps[0].startswith("A2USDT at ")
    assert got.rejections == {"A3USDT": {"missing": 1_200}}
    assert got.bad_frac == pytest.approx(1 / 6)
    assert not got.fit
    assert any("no prices" in reason for reason in got.reasons)
    for word in ("A0USDT", "A1USDT", "A2USDT", "1 duplicate, 1 backward", "A3USDT missing 1200"):
        assert word in got.text()


def test_too_short_and_nothing_moving():
    got = passport(ListFeed(walk(300)))
    assert (got.n_scans, got.fit) == (0, False)
    assert "300 bars are too few" in got.reasons[0]
    assert "not fit to trade" in got.text()
    flat = passport(ListFeed(np.full((1_000, 3), 7.0)))
    assert any("fewer than two symbols move" in reason for reason in flat.reasons)
    with pytest.raises(DataError, match="1 bar; there is"):
        passport(ListFeed(walk(1)))


def test_an_endless_feed_needs_a_number_of_bars():
    feed = SyntheticFeed(days=None)
    with pytest.raises(UsageError, match="has no end"):
        passport(feed)
    assert passport(feed, max_bars=900).n_scans == 149
    with pytest.raises(UsageError, match="vol_threshold is 0"):
        passport(feed, max_bars=900, vol_threshold=0.0)


@pytest.mark.recordings
@pytest.mark.skipif(not (RECORDINGS / "klines").is_dir(), reason=f"no recordings at {RECORDINGS}")
def test_the_thresholds_bite_on_the_recorded_panel():
    folder = RECORDINGS / "klines"
    got = passport(
        RecordedFeed(
            folder / "binance_spot_1m_close_wide_86sym_20210402_20210430.parquet",
            universe=folder / "binance_spot_1m_202104_universe.csv",
        )
    )
    assert got.n_scans == 41_326 - 751
    assert got.vel_div_frac["-0.02"] == pytest.approx(0.016, abs=0.002)
    assert got.vel_div_frac["-0.05"] == pytest.approx(0.001, abs=0.0004)
    assert got.lambda_share["750"] == pytest.approx((0.18, 0.71), abs=0.01)
    assert got.fit
