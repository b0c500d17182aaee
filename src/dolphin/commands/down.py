"""`dolphin down`: stop services, or the whole system in order."""

from __future__ import annotations

import argparse
import getpass
from pathlib import Path

from dolphin.commands.shared import add_json, print_json, say, tell

_EPILOG = """examples:
  dolphin down                 the traders first, then everything
  dolphin down trader          only the trader; its position is kept in state
  dolphin down exf             stays down until `dolphin up exf`

Idempotent. A position that is open stays open: `dolphin flatten` closes it.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("services", nargs="*", metavar="SERVICE", help="only these services")
    parser.add_argument(
        "--home", default="dolphin-home", metavar="DIR", help="the system's folder (default dolphin-home)"
    )
    parser.add_argument("--keep-grid", action="store_true", help="leave the grid's members running")
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Stop; 0 when it is down."""
    from dolphin.services.home import Home
    from dolphin.services.system import check_names, stop_all, stop_services

    check_names(args.services)
    home = Home(Path(args.home).absolute())
    settings = home.load()
    check_names(args.services, settings)
    told = (lambda text: None) if args.json else say
    if args.services:
        stop_services(home, args.services, told, by=_who())
    else:
        stop_all(home, settings, told, keep_grid=args.keep_grid)
    if args.json:
        print_json({"home": str(home.root), "down": list(args.services) or "all"})
    else:
        tell(f"down: {', '.join(args.services) or 'everything'}")
    return 0


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "the operator"
