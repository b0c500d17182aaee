"""The uninterrupted runs that crashed ones are compared with; once a process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from crash_runs import Whole, whole_run

RECORDINGS = Path(
    os.environ.get("DOLPHIN_RECORDINGS") or Path(__file__).resolve().parents[3] / "shared" / "data"
)


@pytest.fixture(scope="session")
def short_whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A slice of 1,500 bars."""
    return whole_run(tmp_path_factory.mktemp("short"), RECORDINGS, 1500)


@pytest.fixture(scope="session")
def long_whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A slice of 3,000 bars."""
    return whole_run(tmp_path_factory.mktemp("long"), RECORDINGS, 3000)
