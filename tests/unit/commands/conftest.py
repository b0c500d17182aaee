"""Fixtures of the command line's tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Baseline, Told, invoke, market, write_panel


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in a folder of its own, in a terminal of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="session")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    root = tmp_path_factory.mktemp("baseline")
    panel = write_panel(root / "panel.parquet", market())
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("DOLPHIN_") and "KERNEL" not in n]:
            patch.delenv(name)
        told = invoke("run", "--feed", "recorded", panel, "--out", root / "run", "--json", "--no-report")
    assert told.code == 0, told.err
    return Baseline(panel, root / "run", told.json)


@pytest.fixture
def run(baseline: Baseline) -> Callable[..., Told]:
    """`dolphin run` on a recorded panel into a folder, as JSON and without a report."""

    def call(panel: Path | None = None, out: str = "out", *words: Any) -> Told:
        source = baseline.panel if panel is None else panel
        return invoke("run", "--feed", "recorded", source, "--out", out, "--json", "--no-report", *words)

    return call
