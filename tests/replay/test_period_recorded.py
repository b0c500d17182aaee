"""The whole-period backtest on a recorded market: the very digest that the run of it is pinned to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_recorded import PANEL, PINNED, UNIVERSE

from dolphin.cli import main


def told(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main([*map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.recordings
@pytest.mark.parametrize("name", sorted(PINNED))
def test_run_step_and_period_have_the_pinned_digest(
    name: str, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    panel = tmp_path / "cache"
    feed = ("--feed", "recorded", recordings / PANEL, "--universe", recordings / UNIVERSE)
    told(capsys, "scan", *feed, "--bars", 1500, "--out", tmp_path / "scans")
    told(capsys, "data", "build", "--scans", tmp_path / "scans", "--out", panel, "--ended")
    words = ("--cache", panel, "--set", name, "--no-report")
    step = told(capsys, "backtest", *words, "--engine", "step", "--out", tmp_path / "step")
    period = told(capsys, "backtest", *words, "--out", tmp_path / "period", "--verify", 9)
    assert step["decisions_sha256"] == period["decisions_sha256"] == PINNED[name]
    assert period["verified"]["bars"] == period["scans"] == 749
    assert (step["capital"], step["max_drawdown"]) == (period["capital"], period["max_drawdown"])
    for out in ("step", "period"):
        proved = told(capsys, "audit", tmp_path / out)
        assert proved["balanced"]
        assert proved["prices_proved"]
        assert told(capsys, "reproduce", tmp_path / out)["same"]
