"""`dolphin verify`: what a person and a machine read, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from scan_system import ScanSystem, SteppingClock

from dolphin.cli import main
from dolphin.services.home import Home
from dolphin.services.watchdog import WatchdogService


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScanSystem]:
    """A system in this process stands behind the command's own grid and clock."""
    made = ScanSystem(tmp_path / "desk")
    made.home.save(made.settings)
    made.scanner()
    made.bridge()
    made.start(WatchdogService, "watchdog")
    made.step()
    made.pass_s(12.0)
    monkeypatch.setattr("dolphin.services.grid_client.open_grid", lambda settings: made.memory.peer())
    monkeypatch.setattr("dolphin.services.clock.SystemClock", lambda *settings: SteppingClock(made))
    yield made
    made.close()


def test_a_path_that_holds_is_told_step_by_step(
    system: ScanSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--home", str(system.home.root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [
        ["pass", "grid"], ["absent", "books"], ["pass", "scan"], ["absent", "trader"], ["pass", "posture"],
    ]  # fmt: skip
    assert lines[-1] == "the signal path holds"


def test_a_broken_path_is_told_and_fails(system: ScanSystem, capsys: pytest.CaptureFixture[str]) -> None:
    system.kill(system.hosted[1].service)
    assert main(["verify", "--home", str(system.home.root)]) == 1
    out = capsys.readouterr().out
    assert "the signal path is broken at: scan; look with: dolphin status --home" in out


def test_a_machine_reads_one_object(system: ScanSystem, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--home", str(system.home.root), "--json", "--plant"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert [step["name"] for step in told["steps"]] == ["grid", "books", "scan", "trader", "posture", "drill"]
    assert {step["status"] for step in told["steps"]} == {"pass", "absent"}
    assert all(step["seconds"] >= 0.0 and step["text"] for step in told["steps"])


def test_a_folder_without_a_system_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--home", str(tmp_path / "none")]) == 2
    assert "no system here" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["verify", "--home", str(tmp_path / "empty")]) == 1
    assert "`dolphin up" in capsys.readouterr().err
    assert not Home(tmp_path / "empty").settings_file.exists()
