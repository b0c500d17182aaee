"""Runs of `dolphin run` in processes of their own, and what two runs must have in common."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dolphin.journal.store import Journal

DRIVER = Path(__file__).with_name("crash_driver.py")
PANEL = "klines/binance_spot_1m_close_wide_86sym_20210402_20210430.parquet"
UNIVERSE = "klines/binance_spot_1m_202104_universe.csv"
DEADLINE_S = 300
#: What two summaries of one run need not have in common.
PLACE_AND_TIME = ("folder", "wall_s", "report")


def market(recordings: Path, n_bars: int) -> list[str]:
    """Options of a slice of the main panel, or of the synthetic market where there are no recordings."""
    if (recordings / PANEL).is_file():
        source = ["--feed", "recorded", str(recordings / PANEL), "--universe", str(recordings / UNIVERSE)]
    else:
        source = ["--feed", "synthetic", "--days", "1"]
    return [*source, "--bars", str(n_bars)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONHASHSEED": "random"}


def dolphin(
    folder: Path, options: list[str], plan: dict[str, Any] | None = None, *more: str
) -> subprocess.CompletedProcess[str]:
    """`dolphin run` into a folder, in a process that dies as planned."""
    command = [sys.executable, str(DRIVER), json.dumps(plan or {}), "run", *options, "--out", str(folder)]
    return subprocess.run(
        [*command, "--json", *more], capture_output=True, text=True, timeout=DEADLINE_S, env=environment()
    )


def finished(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The summary of a run that must have ended well."""
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads(done.stdout)
    assert summary["ledger_balanced"]
    assert not summary["interrupted"]
    return summary


def content(folder: Path) -> dict[str, Any]:
    """All that a crash must not change: decisions, ledger, equity, days, summary and scans, to the byte."""
    journal = Journal.read_only(folder / "journal.db")
    try:
        found = {
            "decisions_sha256": journal.decisions_sha256(),
            "details": hashlib.sha256(b"".join(r.detail for r in journal.records())).hexdigest(),
            "bars": journal.last_bar() + 1,
            "trades": journal.trades(),
            "cash_flows": journal.cash_flows(),
            "equity": journal.equity(),
            "lambdas": journal.lambdas(),
            "days": journal.days(),
            "status": journal.meta()["status"],
        }
    finally:
        journal.close()
    found["scans"] = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("arrow_scans/*/*.arrow"))
    }
    summary = json.loads((folder / "summary.json").read_text())
    found["summary"] = {key: value for key, value in summary.items() if key not in PLACE_AND_TIME}
    assert not list(folder.glob("quarantine/*"))
    return found


@dataclass
class Whole:
    """A run that nothing disturbed: its options, what it left, and how often it passed each site."""

    options: list[str]
    content: dict[str, Any]
    counts: dict[str, int]
    wall_s: float


def whole_run(folder: Path, recordings: Path, n_bars: int) -> Whole:
    """Run a slice without a disturbance."""
    options = [*market(recordings, n_bars), "--no-report"]
    counts = folder / "counts.json"
    done = dolphin(folder / "run", options, {"counts": str(counts)})
    summary = finished(done)
    assert summary["bars"] == n_bars
    found = content(folder / "run")
    assert found["trades"], "a slice without trades proves little"
    return Whole(options, found, json.loads(counts.read_text()), summary["wall_s"])
