"""A recorded market's decisions, pinned: a tripwire. The proofs are elsewhere (tests/market_check)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dolphin.cli import main

PANEL = "klines/binance_spot_1m_close_wide_86sym_20210402_20210430.parquet"
UNIVERSE = "klines/binance_spot_1m_202104_universe.csv"
#: SHA-256 over the decisions of the first 1,500 bars: change it together with an entry in CHANGELOG.md.
PINNED = {
    "gold": "2f5c11546cff4b19d4ac40c003e8818dbf6cccd862c3dc7ddad9ac92b8e57e81",
    "green": "583f8227eb1ba17136742437b27fa081d900c6e9cfc5411eea4f5f1a33197c3b",
}


@pytest.mark.recordings
@pytest.mark.parametrize("name", sorted(PINNED))
def test_the_decisions_on_a_recorded_slice_stay(name: str, recordings: Path, tmp_path: Path, capsys) -> None:
    words = ["run", "--feed", "recorded", str(recordings / PANEL), "--universe", str(recordings / UNIVERSE)]
    words += ["--set", name, "--bars", "1500", "--out", str(tmp_path / "run"), "--no-report", "--json"]
    assert main(words) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["ledger_balanced"]
    assert summary["certified_bits_min"] == 512
    assert summary["decisions_sha256"] == PINNED[name]
