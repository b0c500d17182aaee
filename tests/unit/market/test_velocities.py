"""w750 of a panel and of its scan cache are the same, and BTC's close is the day's last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dolphin.domain.clock import NS_PER_S, day_start_ns
from dolphin.domain.errors import DataError, StoreError
from dolphin.market.recorded import RecordedFeed
from dolphin.market.velocities import read_velocities
from dolphin.scan.scanner import Scanner
from dolphin.services.cache_build import build

HOUR = 3600 * NS_PER_S
START = day_start_ns("2025-01-20")
N_BARS = 800


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """800 hours of four assets, BTC the third."""
    draw = np.random.default_rng(5)
    common = draw.standard_normal((N_BARS, 1))
    prices = 100.0 * np.exp(np.cumsum(0.004 * (common + draw.standard_normal((N_BARS, 4))), axis=0))
    ts = pa.array(START + np.arange(N_BARS) * HOUR, pa.timestamp("ns", tz="UTC"))
    names = ("ETHUSDT", "SOLUSDT", "BTCUSDT", "XRPUSDT")
    path = tmp_path_factory.mktemp("panel") / "prices.parquet"
    pq.write_table(pa.table({"ts": ts, **{name: prices[:, j] for j, name in enumerate(names)}}), path)
    return path


def test_a_panel_is_scanned_bar_by_bar(panel: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = read_velocities(panel, on_progress=lambda done, total: seen.append((done, total)))
    feed = RecordedFeed(panel)
    scanner = Scanner(feed.symbols, path="flint")
    scans = [step.scan for k, bar in enumerate(feed.bars()) if (step := scanner.update(bar, k)).scan]
    feed.close()
    assert found.stamps_ns.tolist() == [scan.timestamp_ns for scan in scans if scan]
    assert found.w750.tolist() == [scan.w750_velocity for scan in scans if scan]
    assert (found.n_assets, found.interval_ns, found.scanned) == (4, HOUR, True)
    assert (found.first_day, found.last_day) == ("2025-01-20", "2025-02-22")
    assert seen == [(0, N_BARS), (500, N_BARS)]


def test_btcs_close_is_the_bar_that_ends_with_the_day(panel: Path) -> None:
    found = read_velocities(panel)
    prices = pq.read_table(panel)["BTCUSDT"].to_pylist()
    # The bar that opens at 23:00 closes at midnight.
    assert found.btc_close["2025-01-20"] == prices[23]
    assert found.btc_close["2025-02-22"] == prices[-1]
    assert read_velocities(panel, assets=2).btc_close == {}


def test_a_scan_cache_of_the_panel_has_the_same(panel: Path, tmp_path: Path) -> None:
    feed = RecordedFeed(panel)
    build(feed, tmp_path / "cache", jobs=1)
    feed.close()
    scanned, read = read_velocities(panel), read_velocities(tmp_path / "cache")
    assert read.stamps_ns.tolist() == scanned.stamps_ns.tolist()
    assert read.w750.tolist() == scanned.w750.tolist()
    assert not read.scanned
    assert set(read.btc_close.items()) <= set(scanned.btc_close.items())
    assert len(read.btc_close) >= 2
    with pytest.raises(DataError, match="made of its own assets"):
        read_velocities(tmp_path / "cache", assets=2)


def test_what_is_no_panel_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        read_velocities(tmp_path / "none.parquet")
