"""Every benchmark runs to its end on a tiny market and tells what the page of figures needs; no time counts.

Most kernels run plain here: nothing is compiled, and the benchmarks' own comparisons (digests, rankings,
gates) hold just the same.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import __main__ as bench
from benchmarks import page
from benchmarks.common import goal_words, markdown, number, row
from benchmarks.period_baselines import gate_balls, gate_numpy, rank_per_asset, rank_vectorised
from benchmarks.period_market import make_inputs

from dolphin.alpha.volatility import VOL_THRESHOLD, VolatilityGate
from dolphin.domain.params import GOLD

ROOT = Path(__file__).parents[2]
TINY = {
    "period": [
        "--days", "2", "--bars", "220", "--assets", "6", "--rounds", "1", "--bindings", "6",
        "--step-bars", "260", "--plain-bars", "240", "--slow-bars", "2", "--no-vectorbt",
    ],
    "scan": ["--assets", "4", "--scans", "2", "--naive", "1"],
    "latency": ["--scans", "3"],
    "grid": ["--rounds", "1"],
    "grid_member": ["--rounds", "1", "--puts", "5", "--scans", "3", "--warm", "0", "--members", "1"],
    "books": ["--symbols", "2", "--rounds", "1"],
    "startup": ["--rounds", "1"],
}  # fmt: skip


#: The results are made once, by one worker.
pytestmark = pytest.mark.xdist_group("benchmarks")


def tell(name: str, *more: str) -> dict[str, Any]:
    """A benchmark's JSON."""
    words = [sys.executable, "-m", f"benchmarks.{name}", *TINY[name], *more, "--json"]
    mode = {} if name in ("scan", "latency") else {"DOLPHIN_KERNELS": "plain"}
    told = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=os.environ | mode, check=False)
    assert told.returncode == 0, told.stderr
    result = json.loads(told.stdout)
    assert isinstance(result, dict)
    return result


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    assert set(TINY) == set(bench.NAMES)
    return {name: tell(name) for name in bench.NAMES}


def test_every_benchmark_tells_its_script_and_rows(results: dict[str, dict[str, Any]]) -> None:
    for name, result in results.items():
        assert (ROOT / result["script"]).is_file(), name
        assert result["table"], name
        for line in result["table"]:
            assert line.keys() == row("", 0.0, "").keys(), (name, line)
            assert line["value"] is None or np.isfinite(line["value"]), (name, line)
            assert line["value"] is not None or line["note"], (name, line)
            assert (line["ratio"] is None) == (line["baseline"] == ""), (name, line)
            assert (line["met"] is None) == (line["goal"] == ""), (name, line)


def test_the_same_seed_gives_the_same_hash_and_another_one_another(
    results: dict[str, dict[str, Any]],
) -> None:
    first = results["period"]["result_sha256"]
    assert tell("period")["result_sha256"] == first
    assert tell("period", "--seed", "6")["result_sha256"] != first


def test_the_page_holds_every_row_and_every_goal(results: dict[str, dict[str, Any]]) -> None:
    text = page.render(results, "2026-01-05")
    assert "$" not in text
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    for result in results.values():
        assert result["result_sha256"][:16] in text
        for line in result["table"]:
            found = [shown for shown in tables if shown.startswith(f"| {line['what']} ")]
            assert len(found) >= (2 if line["goal"] else 1), line
            assert line["value"] is None or any(f"| {number(line['value'])} " in shown for shown in found)


def test_the_committed_page_was_written_from_this_template() -> None:
    """Words changed on the page itself would be lost with the next writing."""
    text = page.PAGE.read_text()
    for part in re.split(r"\$\w+", page.TEMPLATE.read_text()):
        assert part in text


def test_a_failing_benchmark_leaves_the_page_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, results: dict[str, dict[str, Any]]
) -> None:
    target = tmp_path / "page.md"
    target.write_text("before")
    monkeypatch.setattr(page, "PAGE", target)
    broken = bench.NAMES[-1]

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        name = command[2].split(".")[1]
        assert command[3:] == ["--json"]
        return subprocess.CompletedProcess(
            command, 3 if name == broken else 0, json.dumps(results[name]).encode()
        )

    monkeypatch.setattr(subprocess, "run", run)
    assert bench.main(["--write"]) == 3
    assert target.read_text() == "before"
    broken = ""
    assert bench.main(["--write"]) == 0
    assert results["period"]["result_sha256"][:16] in target.read_text()
    for words in (["--write", "scan"], ["--write", "--", "--json"]):
        assert bench.main(words) == 2


def test_a_missed_goal_says_so() -> None:
    rows = [
        row("a | b", 31.25, "ms", goal="30 ms or less", met=False),
        row("c", None, "", note="no library"),
        row("d", 1_234_567.0, "bars/s", baseline="e", ratio=0.05),
    ]
    assert goal_words(rows[0]) == "30 ms or less: **missed**"
    text = markdown(rows)
    assert r"a \| b" in text
    assert "| c (no library) | not measured |" in text
    assert "1,230,000 bars/s" in text
    assert "on the wall" not in text
    assert "31.2 ms" in text
    assert [number(x) for x in (0.05, 99.96, 100.0, 940.4, 8_123.0, 0.000012345)] == [
        "0.05", "100.0", "100", "940", "8,120", "1.23e-05",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def market() -> Any:
    return make_inputs(3, 1, 400, 12)


def test_the_yardsticks_of_the_ranking_agree_with_each_other(market: Any) -> None:
    """Two ways of writing it in numpy; ours is compared with both whenever the benchmark runs."""
    shown = 0
    for end in range(50, 400, 7):
        window = market.prices[end - 50 : end]
        for direction in (-1, 1):
            ranked = rank_per_asset(window, direction)
            assert ranked == rank_vectorised(window, direction)
            shown += len(ranked)
    assert shown > 500


def test_the_yardsticks_of_the_gate_agree_with_the_gate(market: Any) -> None:
    prices = market.prices[:, 0]
    threshold = float((np.diff(prices) / prices[:-1]).std())
    exact = VolatilityGate(threshold)
    verdict = [exact.update(price) for price in prices.tolist()]
    assert len(set(verdict[60:])) == 2
    balls, bits = gate_balls(prices, threshold)
    assert balls == verdict == gate_numpy(prices, threshold)
    assert bits > 450


def test_the_market_is_what_the_page_says() -> None:
    inputs = make_inputs(5, 3, 6154, 12)
    beyond = (inputs.vel_div < GOLD.vel_div_threshold).mean()
    assert 0.01 < beyond < 0.035
    assert (inputs.vel_div < GOLD.vel_div_extreme).any()
    assert inputs.symbols[0] == "BTCUSDT"
    assert len(set(inputs.timestamp_ns // 86_400_000_000_000)) == 3
    assert (np.diff(inputs.timestamp_ns)[:6153] > 13_900_000_000).all()
    noise = np.diff(inputs.prices, axis=0).var(axis=0)
    assert (noise < 500.0).sum() >= 11
    assert VOL_THRESHOLD < (np.diff(inputs.prices[:, 0]) / inputs.prices[:-1, 0]).std() < 0.001
