"""`dolphin conform`: conformance vectors against the kernels."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dolphin.commands.shared import add_json, plural, print_json, tell

if TYPE_CHECKING:
    from dolphin.conform import FileResult

_EPILOG = """example:
  dolphin conform tests/vectors --host both

Floats are compared bit for bit unless a file grants a tolerance. Exit 0 only if
every case of every file passes.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("paths", nargs="+", metavar="PATH", help="vector files, or folders of them")
    parser.add_argument("--host", choices=("reference", "compiled", "both"), default="both",
                        help="plain Python, compiled, or both (default)")  # fmt: skip
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Run the vectors; 0 only if every case of every file passes. A foreign file does not end the rest."""
    from dolphin.conform import HOSTS, run_file, vector_files
    from dolphin.domain.errors import DataError

    hosts = HOSTS if args.host == "both" else (args.host,)
    results: list[FileResult] = []
    foreign: list[str] = []
    for path in vector_files(Path(p) for p in args.paths):
        try:
            for host in hosts:
                result = run_file(path, host)
                results.append(result)
                if not args.json:
                    _tell(result)
        except DataError as error:
            foreign.append(str(error))
            if not args.json:
                tell(f"FAIL  {error}")
    failed = sum(not r.ok for r in results)
    ok = failed == 0 and not foreign
    if args.json:
        print_json({
            "ok": ok,
            "files": [asdict(r) for r in results],
            "errors": foreign,
        })  # fmt: skip
    else:
        cases = sum(r.passed for r in results)
        of = sum(r.passed + r.failed for r in results)
        checks = plural(len(results) + len(foreign), "check")
        tell(f"{len(results) - failed} of {checks} pass, {cases:,} of {of:,} cases")
    return 0 if ok else 1


def _tell(result: FileResult) -> None:
    verdict = "pass" if result.ok else "FAIL"
    cases = result.passed + result.failed
    tell(f"{verdict}  {result.kernel:24} {result.host:10} {result.passed} of {plural(cases, 'case')}")
    for text in result.mismatches:
        tell(f"      {text}")
