"""`make bench`: which benchmark runs, and with which options."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest
from benchmarks import __main__ as bench


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    seen: list[list[str]] = []

    def record(command: list[str], check: bool) -> SimpleNamespace:
        seen.append(command[2:])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", record)
    return seen


def test_all_without_a_name_and_options_for_one(calls: list[list[str]]) -> None:
    assert bench.main([]) == 0
    assert calls == [[f"benchmarks.{name}"] for name in bench.NAMES]
    calls.clear()
    assert bench.main(["grid", "scan"]) == 0
    assert bench.main(["scan", "--", "--scans", "20"]) == 0
    assert calls == [["benchmarks.grid"], ["benchmarks.scan"], ["benchmarks.scan", "--scans", "20"]]


@pytest.mark.parametrize("words", [["sacn"], ["--json"], ["--", "--json"], ["scan", "grid", "--", "--json"]])
def test_what_cannot_be_meant_runs_nothing(calls: list[list[str]], words: list[str]) -> None:
    assert bench.main(words) == 2
    assert calls == []
