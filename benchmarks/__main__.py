"""Run the benchmarks, one after the other, and print their tables.

    python -m benchmarks [NAME...] [-- ARGS]

Without a name: all of them. What follows `--` goes to the one benchmark that is named, for example
`make bench ARGS="scan -- --scans 20"`, and `make bench ARGS="scan -- --help"` tells its options.
"""

from __future__ import annotations

import os
import subprocess
import sys

NAMES = ("period", "scan", "latency", "grid", "startup")


def main(words: list[str]) -> int:
    """Run what is asked for; the first failure's exit code, or 0."""
    mark = words.index("--") if "--" in words else len(words)
    names, args = words[:mark], words[mark + 1 :]
    if {"-h", "--help"} & set(names):
        print(__doc__)
        return 0
    for name in names:
        if name not in NAMES:
            print(f"benchmarks: no benchmark {name!r}; there are {', '.join(NAMES)}, options go after --",
                  file=sys.stderr)  # fmt: skip
            return 2
    if args and len(names) != 1:
        print("benchmarks: options after -- are for one benchmark; name it before them", file=sys.stderr)
        return 2
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in names or NAMES:
        print(f"\n== {name}", flush=True)
        code = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *args], check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
