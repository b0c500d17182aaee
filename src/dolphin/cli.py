"""The command line: parse, build, call. What a command does lives in `dolphin.commands`.

A command that fails says so in one line on stderr. Exit codes: 0 success, 1 failure, 2 bad usage, 130
interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from dolphin import __version__
from dolphin.domain.errors import DolphinError, UsageError, nearest

#: Command → one line of help. Its module in `dolphin.commands` has `arguments(parser)` and `execute(args)`.
COMMANDS: Final = {
    "run": "run the whole system: feed, scanner, trader, ledger, report",
    "backtest": "run the same alpha over a scan cache",
    "sweep": "run many settings over one period, and judge the best of them",
    "study": "judge a set over a period: out of sample, after costs, against luck",
    "scan": "scan a feed into the Arrow store, without trading",
    "data": "build a scan cache, or check whether data are fit to trade",
    "record": "record the exchange's public messages, to be replayed",
    "forewarn": "train the forewarner, or ask it what a day may do",
    "factors": "show what the circuit breaker would have said on recorded days",
    "audit": "prove a run's ledger from its fills and prices",
    "explain": "show why a bar was decided so, and what would have flipped it",
    "reproduce": "run a run again from what its folder remembers, and compare every bit",
    "fork": "run a run's future from one bar on with other parameters, side by side",
    "diff": "show the first differing decision of two runs, with inputs and lanes",
    "conform": "run conformance vectors against the kernels",
    "config": "show the effective configuration and where each value came from",
    "doctor": "check this machine: versions, disk, permissions, clock, ports",
    "up": "start the system of services: grid, process manager, services",
    "status": "say how the system is: one verdict, one cause, one next action",
    "down": "stop the system in order",
    "logs": "show what the services log",
    "halt": "kill switch: no new entries, whatever the grid says",
    "flatten": "kill switch: close the open position, then no new entries",
    "resume": "lift the kill switch",
    "verify": "prove the signal path of a running system, step by step",
    "trade": "service: the trader, leader or standby by its fence",
    "standby": "service: a second trader that takes over when the first is gone",
    "scanner": "service: scans the market into the Arrow store",
    "bridge": "service: brings stored scans to the grid",
    "acb": "service: the circuit breaker's processor",
    "exf": "service: external factors, live or recorded",
    "esof": "service: esoteric factors, by calendar, sky and trades; --now tells them",
    "books": "service: order books live from the exchange, their features every 100 ms",
    "universe": "service: health of all books once a minute; pick the symbols to trade",
    "watchdog": "service: the survival stack and its posture",
    "health": "service: meta-health, which heals what is stopped",
    "oracle": "service: certifies one live scan of many again",
    "signals": "service: the last decision, for whoever listens",
}

#: Commands that share a module: each runs one service of the table.
_SERVICE_COMMANDS: Final = frozenset(
    {"trade", "standby", "scanner", "bridge", "acb", "exf", "books", "watchdog", "health", "oracle"}
    | {"signals"}
)


def module_of(command: str) -> str:
    """The module of a command."""
    name = "service" if command in _SERVICE_COMMANDS else command
    return f"dolphin.commands.{name}"


_EPILOG: Final = """examples:
  dolphin run                                   trade a synthetic day
  dolphin run --feed recorded prices.parquet    trade a recording
  dolphin audit runs/RUN                        prove its ledger
  dolphin COMMAND --help                        its options and examples
"""

_CHOICE: Final = re.compile(r"invalid choice: '(.*?)' \(choose from (.*)\)$")


class Parser(argparse.ArgumentParser):
    """argparse with one line for an error, the nearest known word in it, and no shortened options."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        found = _CHOICE.search(message)
        if found:
            known = re.findall(r"[\w-]+", found[2])
            hint = nearest(found[1], known)
            message = f"{message[: found.start()]}{found[1]!r} is none of {', '.join(known)}.{hint}"
        mark = "" if message.endswith((".", "?")) else "."
        self.exit(2, f"{self.prog}: {message}{mark} See {self.prog} --help\n")

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Refuse words that no option and no argument takes."""
        option = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
        if option is None:
            self.error(f"unexpected argument {words[0]!r}")
        known = [text for action in self._actions for text in action.option_strings]
        self.error(f"unknown option {option}.{nearest(option, known)}")


def build_parser(command: str | None = None) -> Parser:
    """The parser; only the named command's own arguments are loaded, so that help stays instant."""
    parser = Parser(
        prog="dolphin",
        description="DOLPHIN trades crypto perpetual futures on eigenvalue velocity divergence.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"dolphin {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(parser=sub)
        if name == command:
            importlib.import_module(module_of(name)).arguments(sub)
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 success, 1 failure, 2 bad usage, 130 interrupted."""
    # One thread a process: on small matrices a threaded BLAS is up to ten times slower.
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    # A terminal or a pipe may lack a letter; a line is told with an escape then, and never lost.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in words if not word.startswith("-")), None)
    args, unknown = build_parser(command if command in COMMANDS else None).parse_known_args(words)
    if unknown:
        args.parser.refuse(unknown)
    who = f"dolphin {args.command}"
    try:
        code = int(importlib.import_module(module_of(args.command)).execute(args))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail(f"{who}: interrupted; nothing that was committed is lost", 130)
    except BrokenPipeError:
        # The reader has seen enough, like `head`; what is left in the buffer has nowhere to go.
        _drop_stdout()
        return 0
    except Exception as error:
        if args.debug:
            raise
        if isinstance(error, DolphinError):
            return _fail(f"{who}: {error}{_see_help(error, who)}", error.exit_code)
        if isinstance(error, OSError):
            if error.filename is None:
                _drop_stdout()
            what = error.filename or "the output"
            return _fail(f"{who}: {what}: {error.strerror or error}; check disk and permissions", 1)
        return _fail(
            f"{who}: internal error, {_one_line(error)}; please report it with {_traceback_file()}", 1
        )
    return code


def _see_help(error: DolphinError, who: str) -> str:
    if type(error) is not UsageError:
        return ""
    return f"{'' if str(error).endswith(('.', '?')) else '.'} See {who} --help"


def _fail(line: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
    return code


def _drop_stdout() -> None:
    """Let the interpreter's last flush succeed, whatever stdout was."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _traceback_file() -> str:
    """Keep the traceback of the error in hand: a bug that comes once a month is not asked to come again."""
    import tempfile
    import traceback

    try:
        with tempfile.NamedTemporaryFile("w", prefix="dolphin-", suffix=".traceback", delete=False) as file:
            file.write(traceback.format_exc())
    except OSError:
        return "the output of the same command with --debug"
    return file.name


if __name__ == "__main__":
    raise SystemExit(main())
