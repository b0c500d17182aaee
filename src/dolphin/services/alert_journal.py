"""The alerts of a home on disk: one JSON line each, written by all of its processes, bounded in size.

Entry points: `append_alert`, `read_alerts`, `AlertLine`. A line is one write to the end of the file, so that
lines of several processes do not mix and a killed process loses none.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Final

import msgspec

from dolphin.services.home import Home

ALERTS_FILE: Final = "alerts.jsonl"
#: With the older file beside it, `alerts.jsonl.1`, alerts take at most twice this.
ALERTS_BYTES: Final = 1_000_000
_TEXT_MAX: Final = 2000


class AlertLine(msgspec.Struct, frozen=True, kw_only=True):
    """One alert; time is ISO 8601 UTC on the system's clock, at_ns the same in ns."""

    time: str
    at_ns: int
    kind: str
    service: str
    text: str


def alerts_file(home: Home) -> Path:
    """Where they are."""
    return home.run_logs / ALERTS_FILE


def append_alert(home: Home, line: AlertLine, *, bytes_max: int = ALERTS_BYTES) -> None:
    """Add one. Raises OSError."""
    path = alerts_file(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    if len(line.text) > _TEXT_MAX:
        line = msgspec.structs.replace(line, text=line.text[:_TEXT_MAX] + "…")
    content = msgspec.json.encode(line) + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        if os.write(descriptor, content) != len(content):
            raise OSError(f"{path}: written in part")
        full = os.fstat(descriptor).st_size > bytes_max
    finally:
        os.close(descriptor)
    if full:
        _rotate(path, bytes_max)


def _rotate(path: Path, bytes_max: int) -> None:
    """Move the file away once, whoever else has found it full too."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > bytes_max:
                path.replace(path.with_name(f"{path.name}.1"))
    finally:
        os.close(descriptor)


def read_alerts(home: Home, last: int) -> list[AlertLine]:
    """The newest `last` (>= 1) alerts, oldest first; torn lines are left out. Never raises."""
    path = alerts_file(home)
    found: list[AlertLine] = []
    for each in (path, path.with_name(f"{path.name}.1")):
        with contextlib.suppress(OSError):
            older: list[AlertLine] = []
            for line in each.read_bytes().splitlines()[-last:]:
                with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                    older.append(msgspec.json.decode(line, type=AlertLine))
            found = older + found
        if len(found) >= last:
            break
    return found[-last:]
