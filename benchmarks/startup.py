"""What a person waits for before a command does anything, as ratios against a bare interpreter.

    python -m benchmarks.startup [--rounds 20] [--json]

Every figure is the median wall time of a process of its own; rounds of all commands are interleaved, so that
a machine that slows down slows all. Baseline: `python -c pass`, which every Python program pays.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.common import hardware, load, row

BASELINE = "python -c pass"
COMMANDS = {
    BASELINE: ["-c", "pass"],
    "python -c 'import numpy'": ["-c", "import numpy"],
    "dolphin --version": ["-m", "dolphin", "--version"],
    "dolphin --help": ["-m", "dolphin", "--help"],
    "dolphin run --help": ["-m", "dolphin", "run", "--help"],
    "dolphin rnu (a usage error)": ["-m", "dolphin", "rnu"],
    "dolphin config": ["-m", "dolphin", "config"],
}


def measure(rounds: int) -> dict[str, float]:
    """Median wall time of each command, in milliseconds."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for k in range(rounds + 1):
            for name, words in COMMANDS.items():
                started = time.perf_counter()
                subprocess.run(
                    [sys.executable, *words], cwd=folder, capture_output=True, check=False, env=os.environ
                )
                if k:  # the first round fills the disk's cache
                    taken[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds (default 20, about 30 s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = parser.parse_args()
    medians = measure(args.rounds)
    rows = [
        {"command": name, "median_ms": round(ms, 1), "ratio": round(ms / medians[BASELINE], 2)}
        for name, ms in medians.items()
    ]
    if args.json:
        result = {
            "script": "benchmarks/startup.py",
            "hardware": hardware(),
            "load": load(),
            "market": f"medians of {args.rounds} interleaved rounds, time on the wall",
            "seed": None,
            "result_sha256": "",
            "table": [
                row(line["command"], line["median_ms"], "ms", baseline=BASELINE, ratio=line["ratio"])
                for line in rows
            ],
        }
        print(json.dumps(result))
        return
    print(f"{hardware()}, medians of {args.rounds} interleaved rounds")
    print(f"{'command':<32}{'median ms':>11}{'ratio':>8}")
    for line in rows:
        print(f"{line['command']:<32}{line['median_ms']:>11.1f}{line['ratio']:>8.2f}")


if __name__ == "__main__":
    main()
