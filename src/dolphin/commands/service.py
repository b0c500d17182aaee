"""One service in this process: `dolphin trade`, `scanner`, `acb` and the others of the table."""

from __future__ import annotations

import argparse
from pathlib import Path

_EPILOG = """example:
  dolphin {command} --home DIR

Runs until SIGTERM or SIGINT, with its log on the terminal and in DIR/logs.
`dolphin up` runs all services under one process manager; by hand this is for
looking at one of them.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    command = parser.prog.split()[-1]
    parser.epilog = _EPILOG.format(command=command)
    parser.add_argument(
        "--home", default="dolphin-home", metavar="DIR", help="the system's folder (default dolphin-home)"
    )
    parser.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error"),
        help="least level that is logged (default info)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="show the log as JSON, one object a line")
    if command in ("trade", "standby"):
        parser.add_argument(
            "--dry-run", action="store_true", help="decide everything and write nothing: no lock, no journal"
        )


def execute(args: argparse.Namespace) -> int:
    """Run the service; 0 when it was told to stop."""
    from dolphin.services.runtime import settle

    settle()
    from dolphin.services.home import Home
    from dolphin.services.process import run_service
    from dolphin.services.table import BY_COMMAND

    return run_service(
        BY_COMMAND[args.command],
        Home(Path(args.home)),
        options={"dry_run": getattr(args, "dry_run", False), "log_as_json": args.json},
        log_level=args.log_level,
    )
