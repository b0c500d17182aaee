"""Processes that a killed process manager left behind: found by their own word, and ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dolphin.services.home import Home
from dolphin.services.orphans import living, stop_orphans

SERVICE = """
import pathlib, signal, sys
name, stubborn = sys.argv[1], sys.argv[2] == "stubborn"
pathlib.Path("/proc/self/comm").write_text(f"dolphin-{name}"[:15])
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True:
    signal.pause()
"""


@contextmanager
def process(home: Home, name: str, kind: str = "meek", claims: str = "") -> Iterator[int]:
    """A process that looks like the service `name` and holds its claim (or that of `claims`)."""
    lock = home.root / "state" / f"{claims or name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen([sys.executable, "-c", SERVICE, name, kind], stdout=subprocess.PIPE) as made:
        try:
            assert made.stdout is not None
            assert made.stdout.readline() == b"up\n"
            lock.write_text(json.dumps({"pid": made.pid, "service": name}))
            yield made.pid
        finally:
            made.kill()


def test_living_services_are_found_in_the_order_of_the_table(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert living(home) == {}
    with process(home, "trader") as trader, process(home, "exf") as exf:
        assert list(living(home).items()) == [("exf", exf), ("trader", trader)]
    assert living(home) == {}


def test_pid_that_was_used_again_deceives_nobody(tmp_path: Path) -> None:
    """The lock's file stays behind, and its pid is somebody else's by now."""
    home = Home(tmp_path)
    with process(home, "scanner", claims="trader"):
        assert living(home) == {}
        assert stop_orphans(home, lambda text: None) == ()
    (tmp_path / "state" / "exf.lock").write_text(json.dumps({"pid": os.getpid()}))
    (tmp_path / "state" / "acb.lock").write_text("damaged")
    (tmp_path / "state" / "watchdog.lock").write_text('{"pid": "7"}')
    assert living(home) == {}


def test_orphans_are_ended_the_stubborn_by_force(tmp_path: Path) -> None:
    home = Home(tmp_path)
    told: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(process(home, "exf"))
        stack.enter_context(process(home, "signal_bridge"))  # longer than a process's name may be
        pid = stack.enter_context(process(home, "trader", "stubborn"))
        assert stop_orphans(home, told.append, stop_s=1.0) == ("exf", "signal_bridge", "trader")
        assert living(home) == {}
        assert told[-1] == f"trader: stopped (pid {pid} was left behind by a process manager that died)"
    assert stop_orphans(home, told.append) == ()
