"""The command line: parse, build, call. What a command does lives in `dolphin.commands`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from dolphin import __version__

#: Command → one line of help; the module `dolphin.commands.<name>` has `arguments(parser)` and `execute(args)`.
COMMANDS: Final = {
    "run": "run the whole system: feed, scanner, trader, ledger, report",
    "backtest": "run the same alpha over a scan cache",
    "scan": "scan a feed into the Arrow store, without trading",
    "data": "build a scan cache, or check whether data are fit to trade",
    "audit": "prove a run's ledger from its fills and prices",
    "diff": "first differing decision of two runs, with both sides' inputs and lanes",
    "conform": "run conformance vectors against the kernels",
    "config": "show the effective configuration and where each value came from",
    "doctor": "check this machine: versions, disk, permissions, clock, ports",
}

_EPILOG: Final = """examples:
  dolphin run                                   trade a synthetic day
  dolphin run --feed recorded prices.parquet    trade a recording
  dolphin audit runs/LATEST                     prove its ledger
  dolphin COMMAND --help                        options and an example of each command
"""


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser; only the named command's own arguments are loaded, so that help stays instant."""
    parser = argparse.ArgumentParser(
        prog="dolphin",
        description="DOLPHIN trades crypto perpetual futures on eigenvalue velocity divergence.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dolphin {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        sub = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if name == command:
            importlib.import_module(f"dolphin.commands.{name}").arguments(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 success, 1 failure, 2 bad usage, 130 interrupted."""
    # One thread a process: on small matrices a threaded BLAS is up to ten times slower.
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    words = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in words if not word.startswith("-")), None)
    args = build_parser(command if command in COMMANDS else None).parse_args(words)
    from dolphin.domain.errors import DolphinError

    try:
        code = importlib.import_module(f"dolphin.commands.{args.command}").execute(args)
    except DolphinError as error:
        if args.debug:
            raise
        print(f"dolphin {args.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"dolphin {args.command}: interrupted; nothing that was committed is lost", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return int(code)


if __name__ == "__main__":
    raise SystemExit(main())
