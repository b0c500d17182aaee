"""What a certified scan costs, beside the textbook computation and beside plain float64.

All contenders run interleaved in one process on the same synthetic market; medians of processor time are
printed (one thread, so neighbours on the cores move them little), with the ratios that the project promises.
The p99 of a whole update is time on the wall. `--json` prints the same as one JSON object. Run: `python
benchmarks/scan.py [--scans 60]`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reference"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from scan_markets import make_bars

from benchmarks.common import hardware, load, row
from dolphin.domain.scan import WINDOWS
from dolphin.scan import Scanner, features, warm
from dolphin.scan.fast import FastSolver
from dolphin.scan.moments import covariance_digits
from dolphin.scan.oracle import FlintSolver, naive
from dolphin.scan.returns import bar_returns

GOALS = {
    "naive / certified": (1000.0, "at least"),
    "certified / float64": (1.2, "at most"),
    "naive / flint": (100.0, "at least"),
}


class Clock:
    """Collects seconds by name: of the processor in `seconds`, of the wall in `wall`."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.wall: dict[str, list[float]] = {}

    def __call__(self, name: str, work, *arguments):
        start, cpu = time.perf_counter(), time.process_time()
        result = work(*arguments)
        self.seconds.setdefault(name, []).append(time.process_time() - cpu)
        self.wall.setdefault(name, []).append(time.perf_counter() - start)
        return result

    def ms(self, name: str) -> float:
        return statistics.median(self.seconds[name]) * 1e3


def measure(n_assets: int, n_scans: int, n_naive: int, seed: int) -> dict:
    warm()
    bars = make_bars(n_assets, 752 + n_scans, seed, missing_share=0.0)
    symbols = tuple(f"A{i:03d}USDT" for i in range(n_assets))
    whole, fast, flint = Scanner(symbols), FastSolver(n_assets, WINDOWS), FlintSolver(n_assets, WINDOWS)
    base, run = np.full(n_assets, np.nan), np.zeros(n_assets, np.int64)
    returns, what = np.zeros(n_assets), np.zeros(n_assets, np.int64)
    M, Mf = np.zeros((n_assets, n_assets, 5), np.int64), np.zeros((n_assets, n_assets))
    rows: list[np.ndarray] = []
    clock, digest = Clock(), hashlib.sha256()
    before = None
    for k, bar in enumerate(bars):
        live = k >= 752
        tick = clock if live else (lambda _, work, *arguments: work(*arguments))
        tick("returns", bar_returns, bar.prices, base, run, returns, what)
        row = returns.copy()
        if k:
            rows.append(row)
            tick("push", fast.push, row)
            tick("flint push", flint.push, row)
        step = tick("update", whole.update, bar, k)
        if step.scan is not None:
            digest.update(repr(step.scan).encode())
        if not live:
            continue
        tick("float64", float64_scan, np.array(rows[-WINDOWS[-1] :]).T.copy())
        tick("build M", integer_matrices, fast.moments, M, Mf)
        now = tick("solve", solve_all, fast)
        tick("flint solve", solve_all, flint)
        if before is not None:
            tick("features", columns, now, before)
        before = now
        if (k - 752) % max(n_scans // n_naive, 1) == 0 and len(clock.seconds.get("naive", ())) < n_naive:
            balls = tick("naive", naive_scan, rows)
            for ball, solution in zip(balls, now, strict=True):
                assert float(ball) == features.lambda_max(solution.lam, final=True)
    ms = {name: clock.ms(name) for name in clock.seconds}
    ms["certified"] = ms["push"] + ms["solve"]
    ms["flint"] = ms["flint push"] + ms["flint solve"]
    ratios = {
        "naive / certified": ms["naive"] / ms["certified"],
        "certified / float64": ms["certified"] / ms["float64"],
        "naive / flint": ms["naive"] / ms["flint"],
    }
    return {
        "script": "benchmarks/scan.py",
        "hardware": hardware(),
        "load": load(),
        "market": f"{n_assets} assets, windows {', '.join(map(str, WINDOWS))}, {n_scans} scans",
        "seed": seed,
        "n_assets": n_assets,
        "n_scans": n_scans,
        "n_naive": n_naive,
        "result_sha256": digest.hexdigest()[:16],
        "median_ms": ms,
        "p99_update_ms": sorted(clock.wall["update"])[int(0.99 * n_scans)] * 1e3,
        "ratios": ratios,
    }


def float64_scan(block):
    return [np.linalg.eigh(np.corrcoef(block[:, -w:])) for w in WINDOWS]


def integer_matrices(moments, M, Mf):
    for j, w in enumerate(WINDOWS):
        covariance_digits(moments.G[j], moments.g[j], w, M, Mf)


def solve_all(solver):
    return [solver.solve(j) for j in range(len(WINDOWS))]


def naive_scan(rows):
    return [naive([r.tolist() for r in rows[-w:]]) for w in WINDOWS]


def columns(now, before):
    for new, old in zip(now, before, strict=True):
        features.lambda_max(new.lam, final=False)
        features.velocity(new.lam, old.lam, 5_000_000_000, final=False)
        between = features.angle(new.vector, old.vector, full=False)
        features.rotation(between)
        features.instability(new.lam, old.lam, between)
    return features.loadings(now[0].vector)


EXPLAIN = {
    "update": "whole Scanner.update",
    "returns": "  correctly rounded log-returns",
    "push": "  exact moments, four windows",
    "solve": "  certified lambda and vector, four windows",
    "build M": "    of which integer matrices",
    "features": "  velocity, rotation, instability, loadings",
    "certified": "push + solve",
    "float64": "numpy corrcoef + eigh, four windows",
    "flint": "python-flint path, push + solve",
    "naive": "ball arithmetic from scratch, acb_mat.eig",
}


def table(result: dict) -> list[dict]:
    """The page's rows."""
    ms = result["median_ms"]
    base = ms["float64"]
    rows = [
        row(text.strip(), ms[name], "ms", baseline="numpy float64", ratio=ms[name] / base)
        for name, text in EXPLAIN.items()
    ]
    rows[0]["note"] = f"p99 on the wall {result['p99_update_ms']:.2f} ms"
    for name, value in result["ratios"].items():
        goal, how = GOALS[name]
        met = value >= goal if how == "at least" else value <= goal
        rows.append(row(name, value, "times", goal=f"{how} {goal:g}", met=met))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=int, default=50)
    parser.add_argument("--scans", type=int, default=60)
    parser.add_argument("--naive", type=int, default=2)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.assets, options.scans, options.naive, options.seed)
    if options.json:
        print(json.dumps(result | {"table": table(result)}))
        return 0
    print(result["hardware"])
    print(
        f"{options.assets} assets, windows {WINDOWS}, seed {options.seed}, result {result['result_sha256']}"
    )
    for name, text in EXPLAIN.items():
        print(f"{text:48s} {result['median_ms'][name]:10.3f} ms")
    print(f"{'whole Scanner.update, p99':48s} {result['p99_update_ms']:10.3f} ms")
    for name, value in result["ratios"].items():
        goal, how = GOALS[name]
        met = value >= goal if how == "at least" else value <= goal
        print(f"{name:48s} {value:10.2f}    goal {how} {goal:g}: {'met' if met else 'MISSED'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
