"""`dolphin` in a process that dies at a chosen call: the crash tests' way to hit an instant exactly.

Usage: python crash_driver.py PLAN COMMAND...   with PLAN a JSON object; PLAN["counts"] names the file that
takes how often each site was passed.

A plan names a `site` (write, rename, begin, insert, commit), optionally a `match` that the file's path or the
statement must contain, the call `n` (from 1), and `when`: `before`, `after`, `torn` (a write of half its
bytes) or `during`: a kernel timer of `delay_us` ends the process inside the call, by the default action of
SIGALRM, which runs no handler and flushes nothing, like SIGKILL. Site `time` starts such a timer at once.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
from collections import Counter
from pathlib import Path
from typing import Any

PLAN: dict[str, Any] = json.loads(sys.argv[1])
counts: Counter[str] = Counter()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def start_timer(delay_us: float) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, max(delay_us, 1.0) / 1e6)


def passing(site: str, text: str) -> bool:
    """Count a call; True when it is the one that the plan names."""
    counts[site] += 1
    if PLAN.get("site") != site or PLAN.get("match", "") not in text:
        return False
    counts["hits"] += 1
    return bool(counts["hits"] == PLAN["n"])


def guarded(site: str, text: str, call: Any, *args: Any, **named: Any) -> Any:
    if not passing(site, text):
        return call(*args, **named)
    if PLAN["when"] == "before":
        die()
    if PLAN["when"] == "during":
        start_timer(PLAN.get("delay_us", 20.0))
    result = call(*args, **named)
    die()
    return result


write, replace, rename, connect = os.write, os.replace, os.rename, sqlite3.connect


def guarded_write(fd: int, data: Any) -> int:
    torn = PLAN["when"] == "torn" if PLAN.get("site") == "write" else False
    if torn and passing("write", ""):
        write(fd, bytes(data)[: len(data) // 2])
        die()
    if torn:
        return write(fd, data)
    return int(guarded("write", "", write, fd, data))


class Connection(sqlite3.Connection):
    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        word = sql.split(None, 1)[0].lower()
        if word in ("begin", "insert", "commit"):
            return guarded(word, sql, super().execute, sql, *args)
        return super().execute(sql, *args)


def main() -> int:
    os.write = guarded_write
    os.replace = lambda a, b, **k: guarded("rename", str(b), replace, a, b, **k)
    os.rename = lambda a, b, **k: guarded("rename", str(b), rename, a, b, **k)
    sqlite3.connect = lambda *a, **k: connect(*a, factory=Connection, **k)
    if PLAN.get("site") == "time":
        start_timer(PLAN["delay_us"])
    from dolphin.cli import main as dolphin

    code = dolphin(sys.argv[2:])
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    if "counts" in PLAN:
        Path(PLAN["counts"]).write_text(json.dumps(counts))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
