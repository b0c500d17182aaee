"""`dolphin conform`: conformance vectors against the kernels."""

from __future__ import annotations

import argparse
from pathlib import Path

from dolphin.commands.shared import add_json, print_json

_EPILOG = """example:
  dolphin conform tests/vectors --host both
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("paths", nargs="+", metavar="PATH", help="vector files, or folders of them")
    parser.add_argument("--host", choices=("reference", "compiled", "both"), default="both",
                        help="plain Python, compiled, or both (default)")  # fmt: skip
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Run the vectors; 0 only if every case of every file passes."""
    from dolphin.conform import HOSTS, FileResult, run_file, vector_files

    hosts = HOSTS if args.host == "both" else (args.host,)
    results: list[FileResult] = []
    for path in vector_files(Path(p) for p in args.paths):
        for host in hosts:
            result = run_file(path, host)
            results.append(result)
            if args.json:
                continue
            verdict = "pass" if result.ok else "FAIL"
            print(f"{verdict}  {result.kernel:24} {host:10} {result.passed} of {result.passed + result.failed} cases")
            for text in result.mismatches:
                print(f"      {text}")
    failed = sum(not r.ok for r in results)
    if args.json:
        print_json({
            "ok": failed == 0,
            "files": [{"path": r.path, "kernel": r.kernel, "host": r.host, "passed": r.passed, "failed": r.failed,
                       "mismatches": r.mismatches} for r in results],
        })  # fmt: skip
    else:
        cases = sum(r.passed + r.failed for r in results)
        print(f"{len(results) - failed} of {len(results)} files pass, {cases} cases")
    return 0 if failed == 0 else 1
