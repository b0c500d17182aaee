"""A build on several processes, killed at exact instants: nothing is lost, and the bytes are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dolphin.domain.clock import NS_PER_S, day_start_ns

DRIVER = Path(__file__).with_name("build_driver.py")
DEADLINE_S = 300
#: Bars of ten minutes: 144 a day, and with the warm-up a panel of eight days has scans on three.
INTERVAL_NS = 600 * NS_PER_S
N_BARS = 144 * 8
N_SCANS = N_BARS - 751
Tree = dict[str, bytes]


def build(
    panel: Path, out: Path, jobs: int, plan: dict[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    if plan is not None:
        plan = {"when": "before", "n": 1, "victim": "self", **plan, "mark": str(out) + ".mark"}
    command = [sys.executable, str(DRIVER), "data", "build", "--feed", "recorded", str(panel)]
    return subprocess.run(
        [*command, "--out", str(out), "--jobs", str(jobs), "--json"],
        capture_output=True, text=True, timeout=DEADLINE_S, start_new_session=True,
        env={**os.environ, "BUILD_PLAN": json.dumps(plan or {})},
    )  # fmt: skip


def tree(folder: Path) -> Tree:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = np.random.default_rng(5)
    prices = 100.0 * np.exp(np.cumsum(0.003 * draw.standard_normal((N_BARS, 4)), axis=0))
    ts = day_start_ns("2026-01-05") - INTERVAL_NS + np.arange(N_BARS, dtype=np.int64) * INTERVAL_NS
    columns = {name: prices[:, k] for k, name in enumerate(("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"))}
    path = tmp_path_factory.mktemp("panel") / "panel.parquet"
    pq.write_table(pa.table({"ts": pa.array(ts, pa.timestamp("ns")), **columns}), path)
    return path


@pytest.fixture(scope="module")
def whole(panel: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """What one process builds, undisturbed."""
    out = tmp_path_factory.mktemp("whole")
    done = build(panel, out, jobs=1)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scans"] == N_SCANS
    found = tree(out)
    assert [name for name in found if name.endswith(".parquet")] == [
        f"scan_cache/2026-01-{day}.parquet" for day in (10, 11, 12)
    ]
    return found


def finished_rows(out: Path) -> int:
    """Scans of the days that are finished: in the manifest, or with a record beside it."""
    rows = {}
    for path in out.glob("scan_cache/.building/*.json"):
        rows[path.stem] = json.loads(path.read_text())["built"]["entry"]["rows"]
    manifest = out / "scan_cache" / "manifest.json"
    if manifest.exists():
        days = json.loads(manifest.read_text())["days"]
        rows |= {day: entry["rows"] for day, entry in days.items()}
    return sum(rows.values())


def test_two_processes_write_the_bytes_of_one(panel: Path, whole: Tree, tmp_path: Path) -> None:
    done = build(panel, tmp_path / "out", jobs=2)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["jobs"] == 2
    assert tree(tmp_path / "out") == whole


PLANS = {
    "the first manifest": {"who": "parent", "match": "manifest.json", "when": "before", "n": 1},
    "before any day": {"who": "parent", "match": "manifest.json", "when": "after", "n": 1},
    "a day is written": {"who": "worker", "match": ".parquet", "when": "before", "victim": "parent"},
    "a day has no record": {"who": "worker", "match": ".json", "when": "before", "victim": "parent"},
    "a day has its record": {"who": "worker", "match": ".json", "when": "after", "victim": "parent"},
    "the first day in the manifest": {"who": "parent", "match": "manifest.json", "when": "before", "n": 2},
    "after two days": {"who": "parent", "match": "manifest.json", "when": "after", "n": 3},
    "the last manifest": {"who": "parent", "match": "manifest.json", "when": "before", "n": 5},
}  # fmt: skip


@pytest.mark.parametrize(("name", "jobs_then"), [*((name, 2) for name in PLANS), ("after two days", 1)])
def test_killed_and_gone_on_with(name: str, jobs_then: int, panel: Path, whole: Tree, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed = build(panel, out, 2, PLANS[name])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = finished_rows(out)
    done = build(panel, out, jobs_then)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert tree(out) == whole
    assert told["scans"] == N_SCANS
    if told["jobs"] == 2:
        # One process alone scans the one day that is left again, record or not, whatever was asked for.
        # A day may have been finished by a process that outlived the first one by a moment.
        assert told["scans_there"] >= before


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("match", ["manifest.json", ".parquet"])
def test_one_process_killed_and_gone_on_with(
    when: str, match: str, panel: Path, whole: Tree, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    killed = build(panel, out, 1, {"who": "parent", "match": match, "when": when})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = build(panel, out, 1)
    assert done.returncode == 0, done.stderr
    assert tree(out) == whole


def test_a_killed_process_is_one_line_and_nothing_is_lost(panel: Path, whole: Tree, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = build(panel, out, 2, {"who": "worker", "match": ".parquet", "when": "after", "n": 1})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "a scanning process was killed" in line
    assert "go on with the same command" in line
    before = finished_rows(out)
    again = build(panel, out, 2)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["scans_there"] == before
    assert tree(out) == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_ends_in_order(
    number: signal.Signals, panel: Path, whole: Tree, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    plan = {"who": "worker", "match": ".json", "when": "after", "victim": "all", "signal": int(number)}
    stopped = build(panel, out, 2, plan)
    assert stopped.returncode == 130, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert json.loads(stopped.stdout)["interrupted"]
    done = build(panel, out, 2)
    assert json.loads(done.stdout)["scans_there"] >= 144 - 31
    assert tree(out) == whole
