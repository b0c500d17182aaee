"""`dolphin sweep` killed by SIGKILL at an exact rename: run again, it ends with the same digest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sweep_market import PLAN, build_cache

HERE = Path(__file__).parent

N = 24


#: Memory in GB that cuts the ten days into five pieces of two; the other takes them all at once.
TWO_DAYS, ALL = "0.00045", "1.5"


def sweep(
    place: Path, out: str, plan: dict[str, object] | None = None, memory: str = ALL
) -> subprocess.CompletedProcess[str]:
    words = (
        "sweep",
        "plan.yml",
        "--cache",
        "cache",
        "--out",
        out,
        "--part-size",
        "5",
        "--memory-gb",
        memory,
        "--no-report",
        "--json",
    )
    environment = {**os.environ, "BUILD_PLAN": json.dumps(plan or {})}
    command = [sys.executable, str(HERE / "build_driver.py"), *words]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A cache, a plan, and the digest of a sweep that nothing disturbed."""
    place = tmp_path_factory.mktemp("sweep")
    build_cache(place / "cache")
    (place / "plan.yml").write_text(PLAN)
    done = sweep(place, "whole")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["computed"] == N
    return place, found["result_sha256"]


@pytest.mark.parametrize(
    ("match", "n", "when", "kept"),
    [
        ("sweep.json", 1, "before", 0),
        ("sweep.json", 1, "after", 0),
        ("sweep_trials.json", 1, "before", 0),
        ("daily/part-00000.parquet", 1, "after", 0),
        ("results/part-00000.parquet", 1, "before", 0),
        ("results/part-00000.parquet", 1, "after", 5),
        ("daily/part-00003.parquet", 1, "before", 15),
        ("results/part-00004.parquet", 1, "after", 24),
        ("sweep.json", 2, "before", 24),
        ("sweep.json", 2, "after", 24),
    ],
)
def test_a_killed_sweep_resumes_to_the_same_digest(
    place: tuple[Path, str], tmp_path: Path, match: str, n: int, when: str, kept: int
) -> None:
    folder, digest = place
    # A new cache's ledger has no entry yet, so that its rename happens in every case.
    (folder / "cache" / "scan_cache" / "sweep_trials.json").unlink(missing_ok=True)
    out = str(tmp_path / "out")
    plan = {"who": "parent", "match": match, "n": n, "when": when, "victim": "self", "mark": out + ".mark"}
    killed = sweep(folder, out, plan)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = sweep(folder, out)
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert found["result_sha256"] == digest
    assert found["computed"] == N - kept
    assert found["trials_ledger"] == N
    assert pq.read_table(Path(out) / "results").num_rows == N
    assert sorted(p.name for p in Path(out).iterdir()) == ["daily", "results", "sweep.json"]


def test_a_sweep_killed_at_every_part_still_ends_with_the_same_digest(
    place: tuple[Path, str], tmp_path: Path
) -> None:
    folder, digest = place
    out = str(tmp_path / "out")
    for k in range(5):
        when = "before" if k % 2 else "after"
        match = f"results/part-{k:05d}.parquet"
        plan = {"who": "parent", "match": match, "n": 1, "when": when, "victim": "self", "mark": f"{out}.{k}"}
        assert sweep(folder, out, plan).returncode == -signal.SIGKILL
    found = json.loads(sweep(folder, out).stdout)
    assert found["result_sha256"] == digest
    assert found["computed"] == 0


@pytest.mark.parametrize(
    ("match", "n", "when", "ran"),
    [
        ("sweep.json", 1, "after", 24 * 5),
        ("carried/part-00000.parquet", 1, "before", 24 * 5),
        ("carried/part-00000.parquet", 1, "after", 24 * 5 - 5),
        ("carried/part-00003.parquet", 2, "before", 24 * 5 - 24 - 15),
        ("carried/part-00003.parquet", 2, "after", 24 * 5 - 24 - 20),
        ("carried/part-00004.parquet", 4, "after", 24),
        ("daily/part-00001.parquet", 1, "after", 24 - 5),
        ("results/part-00001.parquet", 1, "before", 24 - 5),
        ("results/part-00001.parquet", 1, "after", 24 - 10),
        ("results/part-00004.parquet", 1, "after", 0),
        ("sweep.json", 2, "before", 0),
    ],
)
def test_a_killed_sweep_in_pieces_resumes_at_its_last_part_and_piece(
    place: tuple[Path, str], tmp_path: Path, match: str, n: int, when: str, ran: int
) -> None:
    """`ran`: bindings times pieces that are left; the digest is that of the period in one piece."""
    folder, digest = place
    (folder / "cache" / "scan_cache" / "sweep_trials.json").unlink(missing_ok=True)
    out = str(tmp_path / "out")
    plan = {"who": "parent", "match": match, "n": n, "when": when, "victim": "self", "mark": out + ".mark"}
    killed = sweep(folder, out, plan, TWO_DAYS)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = sweep(folder, out, memory=TWO_DAYS)
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert found["pieces"] == 5
    assert found["ran"] == ran / 5
    assert found["result_sha256"] == digest
    assert found["trials_ledger"] == N
    assert sorted(p.name for p in Path(out).iterdir()) == ["daily", "results", "sweep.json"]


def test_a_sweep_in_pieces_killed_again_and_again_under_other_memory_ends_with_the_same_digest(
    place: tuple[Path, str], tmp_path: Path
) -> None:
    folder, digest = place
    out = str(tmp_path / "out")
    for k, (part, memory) in enumerate(((2, TWO_DAYS), (4, TWO_DAYS), (1, "0.0006"), (3, "0.0005"))):
        match = f"carried/part-{part:05d}.parquet"
        when = "before" if k % 2 else "after"
        plan = {"who": "parent", "match": match, "n": 1, "when": when, "victim": "self", "mark": f"{out}.{k}"}
        assert sweep(folder, out, plan, memory).returncode == -signal.SIGKILL
    found = json.loads(sweep(folder, out).stdout)
    assert found["result_sha256"] == digest
    assert 0.0 < found["ran"] < N
