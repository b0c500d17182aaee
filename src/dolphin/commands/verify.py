"""`dolphin verify`: the signal path of a running system, step by step, with timings."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from dolphin.commands.shared import add_json, print_json, tell
from dolphin.domain.errors import UsageError

_EPILOG = """examples:
  dolphin verify --home desk
  dolphin verify --home desk --plant

Each step says pass, fail or absent with what it saw; exit 0 when none fails.
Without --plant it only watches. --plant lowers one sensor for half a minute:
on a system at APEX the posture falls to STALKER (leverage at most 2, nothing
is closed) and the watchdog lets it recover within the hour, never faster.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--home", default="dolphin-home", metavar="DIR", help="the system's folder (default dolphin-home)"
    )
    parser.add_argument(
        "--plant",
        action="store_true",
        help="also lower a sensor and see the posture move: caps leverage for up to an hour",
    )
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Run the steps; 0 when none fails."""
    from dolphin.grid.typed import TypedGrid
    from dolphin.services.clock import SystemClock
    from dolphin.services.grid_client import open_grid
    from dolphin.services.home import Home
    from dolphin.services.signal_path import verify

    root = Path(args.home)
    if not root.is_dir():
        raise UsageError(f"{root}: no system here; give the folder of the system with --home")
    home = Home(root)
    settings = home.load()
    clock = SystemClock(settings.speed, settings.clock_origin_ns)
    with contextlib.closing(open_grid(settings)) as grid:
        steps = []
        for step in verify(TypedGrid(grid), home, settings, clock, plant=args.plant):
            steps.append(step)
            if not args.json:
                tell(f"{step.status:6}  {step.name:8} {step.seconds:7.2f} s  {step.text}")
    failed = [step.name for step in steps if step.status == "fail"]
    if args.json:
        print_json({
            "ok": not failed,
            "steps": [
                {"name": s.name, "status": s.status, "seconds": s.seconds, "text": s.text} for s in steps
            ],
        })  # fmt: skip
    elif failed:
        tell(f"the signal path is broken at: {', '.join(failed)}; look with: dolphin status --home {root}")
    else:
        tell("the signal path holds")
    return 1 if failed else 0
