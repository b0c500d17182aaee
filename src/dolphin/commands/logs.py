"""`dolphin logs`: what the services log, for people."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

from dolphin.commands.shared import add_json, print_json, tell
from dolphin.domain.errors import UsageError

_EPILOG = """examples:
  dolphin logs                       the newest lines of all services
  dolphin logs trader -f             follow one
  dolphin logs exf acb -n 100        the newest 100 lines of two
  dolphin logs --level warning       what needs a look
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("services", nargs="*", metavar="SERVICE", help="only these services")
    parser.add_argument(
        "--home", default="dolphin-home", metavar="DIR", help="the system's folder (default dolphin-home)"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on as new lines come")
    parser.add_argument(
        "-n", "--lines", type=_line_count, default=40, metavar="N",
        help="how many of the newest lines of all together (default 40)",
    )  # fmt: skip
    parser.add_argument(
        "--level", default="info", choices=("debug", "info", "warning", "error"),
        help="least level that is shown (default info)",
    )  # fmt: skip
    add_json(parser)


def _line_count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines, expected 0 or more, like 100")
    return int(text)


def execute(args: argparse.Namespace) -> int:
    """Print; 0, also when there is nothing to print."""
    from dolphin.services.home import Home
    from dolphin.services.logs import follow, log_files, read_logs, readable

    folder = Home(Path(args.home)).logs
    if not folder.is_dir():
        raise UsageError(
            f"{args.home}: has no logs; expected the folder that `dolphin up` made: name it with --home"
        )
    services = tuple(args.services)
    for event in read_logs(log_files(folder, services), last=args.lines, level=args.level):
        print_json(event) if args.json else tell(readable(event))
    if args.follow:
        for event in follow(folder, services, threading.Event(), level=args.level):
            print_json(event) if args.json else tell(readable(event))
    return 0
