"""Services whose process lives although no process manager has it: what a killed supervisord leaves behind.

Entry points: `living`, `stop_orphans`. A new manager could start nothing beside them, for a service is one
process; so they are ended before one begins.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from dolphin.services.claims import holder
from dolphin.services.home import Home
from dolphin.services.table import table_in

#: As long as the process manager gives them, seconds.
STOP_S: Final = 30.0
_LOOK_S: Final = 0.05


def living(home: Home) -> dict[str, int]:
    """Pids of the services' processes by name, whoever started them, in the table's order.

    The lock of a service is not tried, for that could keep one that starts just now from its own.
    """
    found: dict[str, int] = {}
    for name in (spec.name for spec in table_in(home)):
        pid = holder(home.root / "state" / f"{name}.lock").get("pid")
        if isinstance(pid, int) and _is(pid, name):
            found[name] = pid
    return found


def _is(pid: int, name: str) -> bool:
    """Whether that process is the service: its name tells, so that a pid used again deceives nobody."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    comm, _, rest = stat.partition("(")[2].rpartition(")")
    return comm == f"dolphin-{name}"[:15] and rest.split()[0] not in ("Z", "X")


def stop_orphans(home: Home, tell: Callable[[str], None], *, stop_s: float = STOP_S) -> tuple[str, ...]:
    """End them in order, after `stop_s` by force; their names. Only for when no process manager runs."""
    found = living(home)
    for pid in found.values():
        _signal(pid, signal.SIGTERM)
    if not _gone(home, found, stop_s):
        for name, pid in living(home).items():
            if found.get(name) == pid:
                _signal(pid, signal.SIGKILL)
        _gone(home, found, stop_s)
    for name, pid in found.items():
        tell(f"{name}: stopped (pid {pid} was left behind by a process manager that died)")
    return tuple(found)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _gone(home: Home, names: Collection[str], within_s: float) -> bool:
    pause = threading.Event()
    give_up = time.monotonic() + within_s
    while not living(home).keys().isdisjoint(names):
        if time.monotonic() >= give_up:
            return False
        pause.wait(_LOOK_S)
    return True
