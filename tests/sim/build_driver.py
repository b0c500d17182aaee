"""`dolphin` with a rename at which something dies: a process that scans, or the one that started it.

Usage: BUILD_PLAN=JSON python build_driver.py COMMAND... . The plan names `who` renames (`parent`, `worker`),
a `match` for the end of the new name, the call `n` (from 1) of that process, `when` (`before`, `after`), the
`victim` (`self`, `parent`, `all`: its process group), the signal, and a `mark`: a file that the first one
makes, so that it happens once. Processes that are spawned import this module, so that it holds there too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

PLAN: dict[str, Any] = json.loads(os.environ.get("BUILD_PLAN", "{}"))
WHO = "parent" if __name__ == "__main__" else "worker"
replace = os.replace
hits = 0


def strike() -> None:
    try:
        os.close(os.open(PLAN["mark"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    number = signal.Signals(PLAN.get("signal", signal.SIGKILL))
    if PLAN["victim"] == "all":
        os.killpg(os.getpgid(0), number)
    else:
        os.kill(os.getpid() if PLAN["victim"] == "self" else os.getppid(), number)


def guarded(source: Any, target: Any, **named: Any) -> None:
    global hits
    due = False
    if PLAN.get("who") == WHO and str(target).endswith(PLAN["match"]):
        hits += 1
        due = hits == PLAN["n"]
    if due and PLAN["when"] == "before":
        strike()
    replace(source, target, **named)
    if due and PLAN["when"] == "after":
        strike()


os.replace = guarded

if __name__ == "__main__":
    from dolphin.cli import main

    raise SystemExit(main(sys.argv[1:]))
