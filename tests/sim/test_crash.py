"""A run killed at any instant and resumed ends like one that nothing disturbed. A failure is one seed."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import crash_runs
import pytest
from crash_runs import Whole

KILLED = (-signal.SIGKILL, -signal.SIGALRM)
KINDS = ("torn write", "commit", "rename", "during", "time", "transaction", "write")


def plan_of(seed: int, whole: Whole) -> dict[str, Any]:
    """A seeded instant of a run: a file's write or rename, a transaction, its commit, or any time at all."""
    chance = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    when = chance.choice(["before", "after"])
    if kind == "time":
        return {"site": "time", "delay_us": chance.uniform(0.2, 1.1) * whole.wall_s * 1e6}
    if kind == "torn write":
        site, when = "write", "torn"
    elif kind == "during":
        site, when = chance.choice(["commit", "commit", "rename", "write"]), "during"
    elif kind == "transaction":
        site = chance.choice(["begin", "insert"])
    else:
        site = kind
    return {
        "site": site,
        "when": when,
        "n": chance.randrange(1, whole.counts[site] + 1),
        "delay_us": chance.uniform(1.0, 120.0),
    }


def crash_and_resume(folder: Path, whole: Whole, plan: dict[str, Any]) -> None:
    killed = crash_runs.dolphin(folder, whole.options, plan)
    assert killed.returncode in (KILLED if plan["site"] != "time" else (*KILLED, 0)), (
        plan,
        killed.stderr[-2000:],
    )
    crash_runs.finished(crash_runs.dolphin(folder, whole.options, None, "--resume"))
    assert crash_runs.content(folder) == whole.content, plan


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_run_resumes_to_the_same_end(seed: int, short_whole: Whole, tmp_path: Path) -> None:
    crash_and_resume(tmp_path / "run", short_whole, plan_of(seed, short_whole))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(25))
def test_a_longer_run_killed_anywhere(seed: int, long_whole: Whole, tmp_path: Path) -> None:
    crash_and_resume(tmp_path / "run", long_whole, plan_of(seed, long_whole))


def test_a_chain_of_crashes(short_whole: Whole, tmp_path: Path) -> None:
    """Before the journal is there, inside its first transactions, in the middle of trading, and once more."""
    folder = tmp_path / "run"
    plans: list[dict[str, Any]] = [
        {"site": "commit", "when": "before", "n": 1},
        {"site": "rename", "match": "journal.db", "when": "before", "n": 1},
        {"site": "rename", "match": "journal.db", "when": "after", "n": 1},
        {"site": "write", "when": "torn", "n": 900},
        {"site": "commit", "when": "before", "n": 260},
        {"site": "commit", "when": "after", "n": 40},
    ]
    resume: list[str] = []
    for plan in plans:
        killed = crash_runs.dolphin(folder, short_whole.options, plan, *resume)
        assert killed.returncode in KILLED, (plan, killed.stderr[-2000:])
        resume = ["--resume"]
    crash_runs.finished(crash_runs.dolphin(folder, short_whole.options, None, "--resume"))
    assert crash_runs.content(folder) == short_whole.content


@pytest.mark.parametrize(
    "plan",
    [
        {"site": "rename", "match": "summary.json", "when": "before", "n": 1},
        {"site": "rename", "match": "trades.csv", "when": "after", "n": 1},
    ],
    ids=["before-summary", "after-trades"],
)
def test_a_crash_while_results_are_written(plan: dict[str, Any], short_whole: Whole, tmp_path: Path) -> None:
    crash_and_resume(tmp_path / "run", short_whole, plan)
    assert (tmp_path / "run" / "summary.json").is_file()
    assert (tmp_path / "run" / "trades.csv").read_text().count("\n") == len(short_whole.content["trades"]) + 1


@pytest.mark.long
def test_a_crash_while_the_report_is_written(short_whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = [option for option in short_whole.options if option != "--no-report"]
    plan = {"site": "rename", "match": "report.html", "when": "before", "n": 1}
    assert crash_runs.dolphin(folder, options, plan).returncode in KILLED
    assert not (folder / "report.html").exists()
    crash_runs.finished(crash_runs.dolphin(folder, options, None, "--resume"))
    assert crash_runs.content(folder) == short_whole.content
    assert "</html>" in (folder / "report.html").read_text()[-200:]
