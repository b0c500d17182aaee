"""Every recorded panel through the whole system, 1,000 bars each: scans certified, ledger balanced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dolphin.cli import main
from dolphin.domain.codes import ACTION_ENTER, REASONS, VOL_GATE
from dolphin.domain.scan import OUTCOME_OK, OUTCOME_ZERO_VARIANCE, WARMUP_PRICES, WINDOWS
from dolphin.journal.store import Journal
from dolphin.market.scan_store import ScanStore

BARS = 1000
SCANS = BARS - WARMUP_PRICES + 1
PANELS = {
    "perp 5m, 55 symbols, long": ("binance_usdm_perp_5m_ohlcv_55sym_20230704_20230723", 50),
    "perp 1m, 17 symbols": ("binance_usdm_perp_1m_close_wide_17sym_20230718_20230727", 17),
    "perp 1m, 16 symbols": ("binance_usdm_perp_1m_close_wide_16sym_20250509_20250525", 16),
    "perp 1m, 13 symbols, no BTC": ("binance_usdm_perp_1m_close_wide_13sym_20260104_20260125", 13),
    "spot 5m, the first 50 of 378": ("binance_spot_5m_close_wide_378sym_20240722_20240727", 50),
    "spot 5m, all 378 symbols": ("binance_spot_5m_close_wide_378sym_20240722_20240727", 378),
}
SEVENTEEN = PANELS["perp 1m, 17 symbols"][0]
WITHOUT_BTC = PANELS["perp 1m, 13 symbols, no BTC"][0]

pytestmark = pytest.mark.recordings


def a_run(panel: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    """Summary of 1,000 bars of a panel, after the checks that hold on every market."""
    words = ["run", "--feed", "recorded", str(panel), "--bars", str(BARS), "--json", "--out", str(out)]
    assert main([*words, *more]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert summary["bars"] == BARS
    assert summary["scans"] == SCANS
    assert summary["certified_bits_min"] >= 512
    assert summary["ledger_balanced"]
    assert summary["entries_long"] == 0
    assert not summary["halted"]
    return summary


def reasons(out: Path) -> dict[tuple[int, int], int]:
    """Bars by (action, reason)."""
    journal = Journal.read_only(out / "journal.db")
    try:
        return journal.reasons()
    finally:
        journal.close()


@pytest.mark.parametrize("name", list(PANELS))
def test_a_panel_runs_through(name: str, recordings: Path, tmp_path: Path, capsys) -> None:
    panel, assets = PANELS[name]
    path = recordings / "klines" / f"{panel}.parquet"
    summary = a_run(path, tmp_path / "run", capsys, "--no-report", "--assets", str(max(assets, 50)))
    assert summary["feed"] == "recorded"
    assert sum(reasons(tmp_path / "run").values()) == SCANS
    scans = list(ScanStore(tmp_path / "run").scans())
    assert len(scans) == SCANS
    assert {len(scan.assets) for scan in scans} == {assets}
    assert all(1.0 <= scan.w50_lambda_max <= assets for scan in scans)


def test_without_btc_the_volatility_gate_stays_open_and_the_report_says_so(
    recordings: Path, tmp_path: Path, capsys
) -> None:
    """With a threshold of volatility that no market reaches and many signals: the gate stops none of them."""
    words = ["--vol-threshold", "1", "--param", "vel_div_threshold=-0.0005"]
    for panel, out in ((WITHOUT_BTC, tmp_path / "without"), (SEVENTEEN, tmp_path / "with")):
        a_run(recordings / "klines" / f"{panel}.parquet", out, capsys, *words)
    note = "BTCUSDT is not in the universe: the volatility gate stays open."
    assert note in (tmp_path / "without" / "report.html").read_text("utf-8")
    assert note not in (tmp_path / "with" / "report.html").read_text("utf-8")
    without, with_btc = reasons(tmp_path / "without"), reasons(tmp_path / "with")
    assert VOL_GATE not in {reason for _, reason in without}
    assert sum(n for (action, _), n in without.items() if action == ACTION_ENTER) > 0
    assert VOL_GATE in {reason for _, reason in with_btc}, [REASONS[r] for _, r in with_btc]
    assert ACTION_ENTER not in {action for action, _ in with_btc}


def test_a_column_that_never_moves_is_named_and_changes_nothing_else(
    recordings: Path, tmp_path: Path, capsys
) -> None:
    table = pq.read_table(recordings / "klines" / f"{SEVENTEEN}.parquet").slice(0, BARS)
    still = "EOSUSDT"
    column = pa.array([0.75] * len(table), pa.float64())
    planted = tmp_path / "still.parquet"
    pq.write_table(table.set_column(table.schema.get_field_index(still), still, column), planted)
    absent = tmp_path / "absent.parquet"
    pq.write_table(table.drop_columns([still]), absent)

    a_run(planted, tmp_path / "still", capsys, "--no-report")
    a_run(absent, tmp_path / "absent", capsys, "--no-report")
    pairs = zip(
        ScanStore(tmp_path / "still").scans(),
        ScanStore(tmp_path / "absent").scans(),
        strict=True,
    )
    n_scans = 0
    for with_still, without in pairs:
        n_scans += 1
        assert with_still.outcome == (OUTCOME_ZERO_VARIANCE,) * len(WINDOWS)
        assert without.outcome == (OUTCOME_OK,) * len(WINDOWS)
        assert with_still.vel_div == without.vel_div
        assert with_still.w750_lambda_max == without.w750_lambda_max
        assert with_still.w50_rotation == without.w50_rotation
        loadings = dict(zip(with_still.assets, with_still.asset_loadings, strict=True))
        assert loadings.pop(still) == 0.0
        assert tuple(loadings.values()) == without.asset_loadings
    assert n_scans == SCANS
