"""From bytes to a durable decision in one process, stage by stage.

    python -m benchmarks.latency [--scans 10000] [--seed 7] [--json]

Every bar of a synthetic market goes the way that it goes in `dolphin run`: tick bytes → prices → certified
scan → payload bytes in the grid → payload back → decision → journal transaction. Baseline of the ratios:
numpy's float64 corrcoef + eigh over the same four windows on every hundredth bar of the same run.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.common import hardware, load, number, row
from dolphin.domain.bar import Bar
from dolphin.domain.params import load_set
from dolphin.domain.scan import WARMUP_PRICES, WINDOWS, row_from_scan
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.typed import TypedGrid, publish_scan
from dolphin.host.session import Session, warm
from dolphin.journal.store import Journal
from dolphin.market.synthetic import SyntheticFeed
from dolphin.scan.scanner import Scanner

STAGES = ("decode tick", "certify scan", "publish to grid", "read from grid", "decide", "journal")


class Tick(msgspec.Struct):
    """One bar as a feed's bytes."""

    timestamp_ns: int
    prices: list[float]


def measure(n_scans: int, seed: int) -> dict[str, object]:
    """Run the path and return figures in microseconds."""
    feed = SyntheticFeed(seed=seed, days=None)
    scanner = Scanner(feed.symbols)
    grid = InProcessGrid("inline")
    typed = TypedGrid(grid)
    session = Session(load_set("gold"), feed.symbols)
    warm(session.params, feed.symbols)
    decode_tick = msgspec.json.Decoder(Tick).decode
    encode_tick = msgspec.json.Encoder().encode
    times = np.zeros((n_scans, len(STAGES)))
    baseline = []
    history: list[np.ndarray] = []
    digest = hashlib.sha256()
    done = 0
    sequence = 0
    now = time.perf_counter_ns
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal.create(Path(folder) / "journal.db", {})
        gc.collect()
        gc.freeze()
        for number, bar in enumerate(feed.bars()):
            data = encode_tick(Tick(bar.timestamp_ns, bar.prices.tolist()))
            marks = [now()]
            tick = decode_tick(data)
            given = Bar(tick.timestamp_ns, np.array(tick.prices))
            marks.append(now())
            scan = scanner.update(given, number).scan
            marks.append(now())
            history = [*history[-WARMUP_PRICES:], given.prices]
            if scan is None:
                continue
            marks[2] = now()
            publish_scan(grid, scan, bridge_ts=scan.timestamp_ns / 1e9)
            marks.append(now())
            read = typed.read_scans(sequence)
            sequence = read.next_sequence
            back = read.scans[0][1].to_scan()
            marks.append(now())
            step = session.on_scan(row_from_scan(back))
            if step is None:
                raise SystemExit("a scan was dropped")
            marks.append(now())
            with journal.transaction():
                journal.add_decision(step.decision, step.equity)
            marks.append(now())
            digest.update(step.decision.canonical())
            if done % 100 == 0:
                baseline.append(_numpy_scan_us(np.array(history)))
            times[done] = np.diff(marks) / 1e3
            done += 1
            if done == n_scans:
                break
        journal.close()
    total = times.sum(axis=1)
    rows = {name: _percentiles(times[:, k]) for k, name in enumerate(STAGES)}
    rows["scan bytes to decision"] = _percentiles(times[:, 3] + times[:, 4])
    rows["tick bytes to decision"] = _percentiles(total - times[:, 5])
    rows["tick bytes to durable decision"] = _percentiles(total)
    base = float(np.median(baseline))
    return {
        "script": "benchmarks/latency.py",
        "hardware": hardware(),
        "load": load(),
        "market": f"{n_scans:,} bars of the synthetic market, 50 assets",
        "seed": seed,
        "scans": n_scans,
        "baseline_numpy_us": base,
        "stages_us": {k: {**v, "p50_over_baseline": v["p50"] / base} for k, v in rows.items()},
        "result_sha256": digest.hexdigest(),
    }


def _percentiles(values: np.ndarray) -> dict[str, float]:
    p50, p99, worst = (float(x) for x in np.percentile(values, (50, 99, 100)))
    return {"p50": p50, "p99": p99, "max": worst}


def _numpy_scan_us(prices: np.ndarray) -> float:
    returns = np.diff(np.log(prices), axis=0)
    started = time.perf_counter_ns()
    for window in WINDOWS:
        np.linalg.eigh(np.corrcoef(returns[-window:].T))
    return (time.perf_counter_ns() - started) / 1e3


def table(result: dict) -> list[dict]:
    """The page's rows."""
    return [
        row(name, stage["p50"], "us", baseline="numpy corrcoef + eigh, four windows",
            ratio=stage["p50_over_baseline"], note=f"p99 {number(stage['p99'])} us")
        for name, stage in result["stages_us"].items()
    ] + [row("numpy corrcoef + eigh, four windows", result["baseline_numpy_us"], "us")]  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scans", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = measure(args.scans, args.seed)
    if args.json:
        print(json.dumps(result | {"table": table(result)}))
        return
    print(f"{result['scans']} scans, seed {result['seed']}, {result['hardware']}")
    print(f"baseline: numpy corrcoef + eigh over four windows, p50 {result['baseline_numpy_us']:.0f} us")
    print(f"{'stage':32} {'p50 us':>9} {'p99 us':>9} {'max us':>10} {'p50/baseline':>13}")
    for name, stage in result["stages_us"].items():
        print(
            f"{name:32} {stage['p50']:9.1f} {stage['p99']:9.1f} {stage['max']:10.1f}"
            f" {stage['p50_over_baseline']:13.3f}"
        )
    print(f"decisions sha256 {result['result_sha256']}")


if __name__ == "__main__":
    main()
