"""Run the benchmarks, one after the other, and print their tables.

    python -m benchmarks [NAME...] [-- ARGS]
    python -m benchmarks --write

Without a name: all of them. What follows `--` goes to the one benchmark that is named, for example
`make bench ARGS="scan -- --scans 20"`, and `make bench ARGS="scan -- --help"` tells its options. With
`--write` all of them run and docs/benchmarks.md is written anew; it stays as it is when one of them fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

NAMES = ("period", "scan", "latency", "grid", "grid_member", "books", "startup")


def main(words: list[str]) -> int:
    """Run what is asked for; the first failure's exit code, or 0."""
    mark = words.index("--") if "--" in words else len(words)
    names, args = words[:mark], words[mark + 1 :]
    if {"-h", "--help"} & set(names):
        print(__doc__)
        return 0
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if "--write" in names:
        if names != ["--write"] or args:
            print("benchmarks: --write stands alone; the page holds all of them", file=sys.stderr)
            return 2
        return write()
    for name in names:
        if name not in NAMES:
            print(f"benchmarks: no benchmark {name!r}; there are {', '.join(NAMES)}, options go after --",
                  file=sys.stderr)  # fmt: skip
            return 2
    if args and len(names) != 1:
        print("benchmarks: options after -- are for one benchmark; name it before them", file=sys.stderr)
        return 2
    for name in names or NAMES:
        print(f"\n== {name}", flush=True)
        code = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *args], check=False).returncode
        if code:
            return code
    return 0


def write() -> int:
    """Run all of them and write the page; the first failure's exit code, or 0."""
    from benchmarks import page

    results = {}
    for name in NAMES:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json"]
        told = subprocess.run(command, check=False, stdout=subprocess.PIPE)
        if told.returncode:
            return told.returncode
        results[name] = json.loads(told.stdout.splitlines()[-1])
    page.PAGE.write_text(page.render(results, datetime.now(UTC).date().isoformat()))
    print(f"written: {page.PAGE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
