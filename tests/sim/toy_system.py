"""Toy services that misbehave on request, run by the real process host; as a script, what supervisord starts.

A toy looks for files in `toys/` of its home: `NAME.hangs` (its tick never ends), `NAME.fails` (its tick
raises), `NAME.eats` (its tick takes 600 MB), `away` (no grid). When it is stopped it writes its name to
`toys/stopped`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.port import Grid, GridUnreachable
from dolphin.services.home import Home, SystemSettings
from dolphin.services.metrics import read_port
from dolphin.services.service import Context
from dolphin.services.table import BY_NAME, ServiceSpec

PATIENCE_S = 30.0
PERIOD_S = 0.1
TABLE = tuple(
    replace(BY_NAME[name], factory="toy_system:Toy", start_seconds=1, memory_mb=512, autostart=name == "exf")
    for name in ("exf", "acb", "trader")
)
SCRIPT = Path(__file__).resolve()


class Toy:
    """See the module."""

    period_s = PERIOD_S
    phase = "running"

    def __init__(self, context: Context) -> None:
        self.context = context
        self.toys = context.home.root / "toys"
        self.eaten = bytearray()

    def asked(self, word: str) -> bool:
        return (self.toys / f"{self.context.name}.{word}").exists()

    def start(self) -> None:
        self.context.tell("restart", f"{self.context.name} has begun")

    def tick(self) -> None:
        self.context.counts["toy_ticks"] += 1
        if self.asked("hangs"):
            threading.Event().wait()
        if self.asked("eats"):
            self.eaten = bytearray(600 * 1024 * 1024)
        if self.asked("fails"):
            raise ZeroDivisionError("a toy breaks")

    def stop(self) -> None:
        with (self.toys / "stopped").open("a") as file:
            file.write(f"{self.context.name}\n")

    def health(self) -> tuple[bool, str]:
        return not self.asked("ails"), "it ails" if self.asked("ails") else ""

    def gauges(self) -> dict[str, float]:
        return {"toy_size": 3.0, "toy_unknown": float("nan")}


def make_home(root: Path) -> Home:
    """A system at 2 x speed that asks for any free port."""
    home = Home(root)
    home.save(SystemSettings(metrics_port=0, speed=2.0, clock_origin_ns=1_767_571_200_000_000_000))
    (root / "toys").mkdir()
    return home


def spawn(home: Home, command: str = "exf", *, parent: Sequence[str] = (), **environ: str) -> Any:
    """A toy's process, by hand."""
    return subprocess.Popen(
        [*parent, sys.executable, str(SCRIPT), command, "--home", str(home.root)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environ},
    )  # fmt: skip


def until(
    reached: Callable[[], Any], why: Callable[[], Any] = lambda: "", within_s: float = PATIENCE_S
) -> Any:
    """The first true answer of `reached`, asked until the deadline."""
    give_up, pause = time.monotonic() + within_s, threading.Event()
    while not (found := reached()):
        assert time.monotonic() < give_up, why()
        pause.wait(0.02)
    return found


def ask(home: Home, name: str, path: str = "/healthz") -> tuple[int, str]:
    """(status, body) of a toy's endpoint, (0, "") when it does not answer."""
    port = read_port(home, name)
    if port is None:
        return 0, ""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def events(home: Home, name: str) -> list[dict[str, Any]]:
    """What a toy has logged."""
    file = home.logs / f"{name}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _open_grid(settings: SystemSettings) -> Grid:
    if (Path(sys.argv[-1]) / "toys" / "away").exists():
        raise GridUnreachable("no member answers at 127.0.0.1:5701")
    return InProcessGrid("thread")


if __name__ == "__main__":
    from dolphin.domain.errors import DolphinError
    from dolphin.services.process import run_service

    spec: ServiceSpec = next(spec for spec in TABLE if spec.command == sys.argv[1])
    try:
        code = run_service(spec, Home(Path(sys.argv[-1])), open_grid=_open_grid)
    except DolphinError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    raise SystemExit(code)
