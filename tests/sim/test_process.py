"""`dolphin run` as a process of its own: signals, full disks, folders that refuse, crash upon crash."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import crash_runs
import pytest
from crash_runs import DEADLINE_S, Whole
from walk_feed import write_panel

N_BARS = 1100


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, object]]:
    """Options of a small market, and what a run of it leaves when nothing disturbs it."""
    folder = tmp_path_factory.mktemp("walk")
    panel = write_panel(folder / "walk.parquet", 3, N_BARS)
    options = ["--feed", "recorded", str(panel), "--spectrum", "float64", "--assets", "5", "--no-report"]
    crash_runs.finished(crash_runs.dolphin(folder / "run", options))
    return options, crash_runs.content(folder / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_in_order_and_a_resume_completes(
    number: signal.Signals, short_whole: Whole, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "dolphin", "run", *short_whole.options, "--out", str(folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=crash_runs.environment()
    )
    assert process.stderr is not None
    told = []
    for line in process.stderr:
        told.append(line)
        if " ENTRY " in line:
            process.send_signal(number)
            break
    out, err = process.communicate(timeout=DEADLINE_S)
    told.append(err)
    assert process.returncode == 130, "".join(told)[-2000:]
    assert "stopping after this bar" in err
    assert "go on with the same command" in err
    assert "balances to 1e-8" in out
    assert "one position is open" in out
    stopped = crash_runs.content(folder)
    assert stopped["decisions_sha256"] in out
    assert stopped["status"] == "interrupted"
    assert 0 < stopped["bars"] < short_whole.content["bars"]
    crash_runs.finished(crash_runs.dolphin(folder, short_whole.options, None, "--resume"))
    assert crash_runs.content(folder) == short_whole.content


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """A memory disk of a size at `folder`; False where this machine does not allow one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        allowed = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        allowed = False
    try:
        yield allowed
    finally:
        if allowed:
            subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("size_kb", [900, 1300, 1700])
def test_a_full_disk_is_one_line_and_nothing_is_lost(
    size_kb: int, walk: tuple[list[str], dict[str, object]], tmp_path: Path
) -> None:
    """A disk too small for the run, then more room; where no disk can be mounted, a limit on files' sizes."""
    options, expected = walk
    with small_disk(tmp_path / "disk", f"{size_kb}k") as mounted:
        folder = tmp_path / "disk" / "run"
        limit = size_kb * 100
        command = [sys.executable, "-m", "dolphin", "run", *options, "--out", str(folder), "--json"]

        def restrict() -> None:
            if not mounted:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        full = subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE_S, preexec_fn=restrict
        )
        assert full.returncode == 1, full.stderr[-2000:]
        (line,) = full.stderr.strip().splitlines()
        assert str(folder) in line
        assert "internal error" not in line
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=200m", str(tmp_path / "disk")], check=True)
        crash_runs.finished(crash_runs.dolphin(folder, options, None, "--resume"))
        assert crash_runs.content(folder) == expected


def test_a_folder_that_cannot_be_made_is_one_line(
    walk: tuple[list[str], dict[str, object]], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = crash_runs.dolphin(tmp_path / "file" / "run", walk[0])
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "cannot be written" in line
    assert "choose another --out" in line


@pytest.mark.parametrize("made", ["text", "cut"])
def test_a_foreign_or_cut_journal_is_one_line(
    made: str, walk: tuple[list[str], dict[str, object]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    crash_runs.finished(crash_runs.dolphin(folder, walk[0]))
    path = folder / "journal.db"
    if made == "text":
        path.write_text("no database at all, but long enough for a header" * 40)
    else:
        os.truncate(path, path.stat().st_size // 3)
    done = crash_runs.dolphin(folder, walk[0], None, "--resume")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "journal.db" in line
    assert "internal error" not in line


@pytest.mark.parametrize("seed", range(4))
def test_the_small_market_killed_again_and_again(
    seed: int, walk: tuple[list[str], dict[str, object]], tmp_path: Path
) -> None:
    """Two crashes of one run, each by seed anywhere in a file's write, a rename or a commit."""
    options, expected = walk
    chance = random.Random(seed)
    folder = tmp_path / "run"
    resume: list[str] = []
    for _ in range(2):
        site = chance.choice(["write", "rename", "insert", "commit"])
        when = chance.choice(["before", "after", "during", "torn" if site == "write" else "during"])
        plan = {"site": site, "when": when, "n": chance.randrange(1, 150), "delay_us": chance.uniform(1, 90)}
        killed = crash_runs.dolphin(folder, options, plan, *resume)
        assert killed.returncode in (-signal.SIGKILL, -signal.SIGALRM), (plan, killed.stderr[-2000:])
        resume = ["--resume"]
    crash_runs.finished(crash_runs.dolphin(folder, options, None, *resume))
    assert crash_runs.content(folder) == expected
    audited = subprocess.run(
        [sys.executable, "-m", "dolphin", "audit", str(folder), "--json"], capture_output=True, text=True
    )
    assert json.loads(audited.stdout)["balanced"]
