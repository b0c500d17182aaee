"""The replay of a cache: the trader's decisions, its progress and its refusals, without the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dolphin.backtest.replay import BacktestSettings, replay, row_of
from dolphin.domain.bar import Bar
from dolphin.domain.errors import ConfigError, DataError, StoreError
from dolphin.domain.params import GOLD, GREEN
from dolphin.domain.scan import row_from_scan
from dolphin.host.session import Session, Step
from dolphin.market.scan_cache import CacheReader, CacheWriter
from dolphin.scan.scanner import Scanner

START_NS = 1_617_407_100_000_000_000
SECOND_NS = 1_000_000_000
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")


def scans() -> list[Any]:
    """1 050 bars around midnight: a common factor of changing weight, one symbol stale for a while."""
    n_bars = 1_050
    draw = np.random.default_rng(3)
    weight = np.repeat(draw.random(n_bars // 50), 50)[:, None]
    moves = weight * draw.standard_normal((n_bars, 1)) + (1 - weight) * draw.standard_normal((n_bars, 4))
    prices = 100.0 * np.exp(np.cumsum(0.003 * moves, axis=0))
    prices[820:840, 2] = np.nan
    scanner = Scanner(SYMBOLS)
    found: list[Any] = []
    for k in range(n_bars):
        step = scanner.update(Bar(START_NS + k * SECOND_NS, prices[k]), len(found) + 1)
        if step.scan is not None:
            found.append(step.scan)
    return found


@pytest.fixture(scope="module")
def made() -> list[Any]:
    return scans()


@pytest.fixture
def cache(tmp_path: Path, made: list[Any]) -> CacheReader:
    writer = CacheWriter(tmp_path / "cache", SYMBOLS, SECOND_NS, "a" * 64, "a test")
    for scan in made:
        writer.add(scan)
    writer.finish()
    return CacheReader(tmp_path / "cache")


@pytest.fixture
def settings(tmp_path: Path) -> BacktestSettings:
    return BacktestSettings(set_name="gold", params=GOLD, folder=tmp_path / "out", report=False)


def test_rows_are_the_scans(cache: CacheReader, made: list[Any]) -> None:
    """What the cache lacks (eigenvalues, each scan's own bits) is nothing that a decision reads."""
    rows = [row_of(row, 512) for day in cache.days() for row in cache.scans(day)]
    assert len(rows) == len(made)
    for row, scan in zip(rows, made, strict=True):
        whole = row_from_scan(scan)
        for name in (
            "scan_number",
            "timestamp_ns",
            "vel_div",
            "v50_velocity",
            "v750_velocity",
            "instability_50",
        ):
            assert getattr(row, name) == getattr(whole, name)
        assert row.stale == whole.stale
        assert np.array_equal(row.prices, whole.prices, equal_nan=True)
    assert any(row.stale for row in rows)


def test_decisions_are_those_of_a_bare_session(
    cache: CacheReader, settings: BacktestSettings, made: list[Any]
) -> None:
    session = Session(GOLD, SYMBOLS)
    expected = [session.on_scan(row_from_scan(scan)).decision for scan in made]  # type: ignore[union-attr]
    got: list[Step] = []
    summary = replay(cache, settings, lambda step, done, total: got.append(step))
    assert [s.decision.canonical() for s in got] == [d.canonical() for d in expected]
    assert (summary["scans"], summary["bars"], summary["feed"]) == (len(made), len(made), "cache")
    assert summary["trades"] == sum(s.closed is not None for s in got) >= 1


def test_progress_counts_to_the_end(cache: CacheReader, settings: BacktestSettings, made: list[Any]) -> None:
    told: list[tuple[int, int]] = []
    replay(cache, settings, lambda step, done, total: told.append((done, total)))
    assert told == [(k + 1, len(made)) for k in range(len(made))]


def test_a_stop_keeps_what_was_decided(cache: CacheReader, settings: BacktestSettings) -> None:
    asked = iter(range(10_000))
    summary = replay(cache, settings, stop_requested=lambda: next(asked) == 41)
    assert (summary["interrupted"], summary["scans"], summary["ledger_balanced"]) == (True, 42, True)


def test_a_day_range_without_a_day(cache: CacheReader, settings: BacktestSettings) -> None:
    with pytest.raises(DataError, match="no day between 2030-01-01 and None"):
        replay(cache, replace(settings, first_day="2030-01-01"))
    assert not settings.folder.exists()


def test_a_folder_with_a_run(cache: CacheReader, settings: BacktestSettings) -> None:
    replay(cache, settings)
    with pytest.raises(StoreError, match="a run is here already"):
        replay(cache, settings)


def test_a_refused_backtest_leaves_nothing_and_the_corrected_one_works(
    cache: CacheReader, settings: BacktestSettings
) -> None:
    green = replace(settings, set_name="green", params=GREEN)
    with pytest.raises(ConfigError, match="deployment BLUE trades SHORT only"):
        replay(cache, green)
    assert not settings.folder.exists()
    assert replay(cache, replace(green, deployment="GREEN"))["deployment"] == "GREEN"
    asked = json.loads((settings.folder / "settings.json").read_text())
    assert (asked["set"], asked["symbols"]) == ("green", list(SYMBOLS))


def test_a_backtest_that_fails_before_its_first_scan_leaves_no_run(
    cache: CacheReader, settings: BacktestSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: CacheReader, day: str) -> Any:
        raise DataError(f"{day}: the file is gone")

    with monkeypatch.context() as patch:
        patch.setattr(CacheReader, "scans", gone)
        with pytest.raises(DataError, match="the file is gone"):
            replay(cache, settings)
    assert replay(cache, settings)["ledger_balanced"]


def test_days_and_notes_are_in_the_summary(cache: CacheReader, settings: BacktestSettings) -> None:
    summary = replay(cache, settings)
    days = summary["days_results"]
    assert [day["date"] for day in days] == list(cache.days())
    assert [day.get("open", False) for day in days] == [False] * (len(days) - 1) + [True]
    assert sum(day["trades"] for day in days) == summary["trades"]
    assert summary["warnings"] == []
    assert any(note.startswith("Backtest:") for note in summary["notes"])
    assert json.loads((settings.folder / "summary.json").read_text()) == summary


def test_a_universe_without_btc_says_that_the_gate_stays_open(
    tmp_path: Path, settings: BacktestSettings
) -> None:
    made = scans_without_btc()
    writer = CacheWriter(tmp_path / "cache", made[0].assets, SECOND_NS, "b" * 64)
    for scan in made:
        writer.add(scan)
    writer.finish()
    summary = replay(CacheReader(tmp_path / "cache"), replace(settings, report=True))
    assert summary["warnings"] == ["BTCUSDT is not in the universe: the volatility gate stays open."]
    assert "BTCUSDT is not in the universe" in (settings.folder / "report.html").read_text()


def scans_without_btc() -> list[Any]:
    scanner = Scanner(("ETHUSDT", "SOLUSDT"))
    draw = np.random.default_rng(4)
    prices = 100.0 * np.exp(np.cumsum(0.003 * draw.standard_normal((760, 2)), axis=0))
    found: list[Any] = []
    for k in range(760):
        step = scanner.update(Bar(START_NS + k * SECOND_NS, prices[k]), len(found) + 1)
        if step.scan is not None:
            found.append(step.scan)
    return found
