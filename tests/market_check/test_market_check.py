"""The whole system against the trades of an independent engine, on a recorded market, one by one.

The panel is scanned once with certified spectra; both parameter sets then run over that cache. A relative
difference of 1e-9 is allowed: the independent engine works with a float64 spectrum.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dolphin.backtest.replay import BacktestSettings, replay
from dolphin.cli import main
from dolphin.domain.params import load_set
from dolphin.journal.store import Journal
from dolphin.market.scan_cache import CacheReader

HERE = Path(__file__).resolve().parent
PANEL = "klines/binance_spot_1m_close_wide_86sym_20210402_20210430.parquet"
UNIVERSE = "klines/binance_spot_1m_202104_universe.csv"
SETS = ("gold", "champion")
Runs = dict[str, tuple[Path, dict[str, Any]]]
N_TRADES = {"gold": 215, "champion": 214}

pytestmark = [pytest.mark.recordings, pytest.mark.xdist_group("market_check")]


def expected(name: str) -> dict[str, Any]:
    return json.loads((HERE / f"{name}_86sym_top50.json").read_text())


@pytest.fixture(scope="session")
def cache(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole panel as a scan cache, through the command line."""
    folder = tmp_path_factory.mktemp("cache")
    words = [
        "data",
        "build",
        "--feed",
        "recorded",
        str(recordings / PANEL),
        "--universe",
        str(recordings / UNIVERSE),
    ]
    assert main([*words, "--out", str(folder), "--json"]) == 0
    return folder


@pytest.fixture(scope="session")
def runs(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Folder and summary of a backtest by set."""
    done = {}
    for name in SETS:
        folder = tmp_path_factory.mktemp(name)
        settings = BacktestSettings(set_name=name, params=load_set(name), folder=folder, report=False)
        done[name] = (folder, replay(CacheReader(cache), settings))
    return done


@pytest.mark.parametrize("name", SETS)
def test_trades_are_those_of_the_independent_engine(runs: Runs, name: str) -> None:
    folder, summary = runs[name]
    reference = expected(name)
    journal = Journal.read_only(folder / "journal.db")
    trades = journal.trades()
    entries = {d.bar_idx: d for d in journal.decisions(active=True)}
    journal.close()
    assert len(trades) == len(reference["trades"]) == N_TRADES[name]
    for number, (trade, other) in enumerate(zip(trades, reference["trades"], strict=True)):
        got = (trade.asset, trade.entry_bar, trade.exit_bar, trade.reason)
        want = (other["asset"], other["entry_bar"], other["exit_bar"], other["reason"])
        assert got == want, f"trade {number}"
        for mine, key in (
            (trade.entry_price, "entry"), (trade.exit_price, "exit"), (trade.leverage, "lev"),
            (trade.notional, "notional"), (trade.net, "net"), (entries[trade.entry_bar].vel_div, "vd"),
        ):  # fmt: skip
            assert mine == pytest.approx(other[key], rel=1e-9), f"trade {number}, {key}"
    assert summary["capital"] == pytest.approx(reference["capital"], rel=1e-9)
    assert summary["scans"] == reference["bars"] == 40_575


@pytest.mark.parametrize("name", SETS)
def test_ledger_balances_and_nothing_goes_long(runs: Runs, name: str) -> None:
    _, summary = runs[name]
    assert summary["ledger_balanced"] is True
    assert summary["entries_long"] == 0
    assert summary["certified_bits_min"] >= 512


@pytest.mark.long
@pytest.mark.parametrize("name", SETS)
def test_a_run_decides_what_the_cache_decides(
    recordings: Path, runs: Runs, name: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["run", "--feed", "recorded", str(recordings / PANEL), "--universe", str(recordings / UNIVERSE)]
    assert main([*words, "--set", name, "--out", str(tmp_path / "run"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["bars"] == 41_326
    assert summary["decisions_sha256"] == runs[name][1]["decisions_sha256"]
