"""What all tests share: where recordings are, and that nothing skips silently where NO_SKIP is set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# No test is timed: the first example may compile a kernel, and a machine may be busy.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parent.parent
RECORDINGS = Path(os.environ.get("DOLPHIN_RECORDINGS") or ROOT.parent / "shared" / "data")
NO_RECORDINGS = "no recordings: set DOLPHIN_RECORDINGS to the folder that holds klines/"

_skipped: list[tuple[str, str]] = []


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of recordings; the test skips with the reason where there is none."""
    if not (RECORDINGS / "klines").is_dir():
        pytest.skip(NO_RECORDINGS)
    return RECORDINGS


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own settings must not reach a test."""
    for name in [n for n in os.environ if n.startswith("DOLPHIN_")]:
        if name not in ("DOLPHIN_KERNELS", "DOLPHIN_KERNEL_CACHE", "DOLPHIN_RECORDINGS"):
            monkeypatch.delenv(name)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _skipped.append((report.nodeid, reason))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if not os.environ.get("NO_SKIP") or hasattr(session.config, "workerinput"):
        return
    silent = [(name, reason) for name, reason in _skipped if "recordings" not in reason]
    for name, reason in silent:
        print(f"\nNO_SKIP: {name} was skipped: {reason}")
    if silent and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
