"""What live books cost: the book flow at 100 ms a symbol, or the universe service.

An exchange on loopback is a process of its own; the whole service runs here as it does under its supervisor,
with its recorder and a grid in the process.
Printed: share of one core, delays, and how memory grows. Delays of the book flow, both until a symbol's
features are there: from the message in this process (`received`), and from the instant that the exchange
stamped on it (`sent`, to the millisecond, so up to 1 ms too much). Run:

    python -m benchmarks.book_flow [--service books|universe] [--symbols 50] [--seconds 60] [--replay RAW...]
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dolphin.domain.bar import FloatArray
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.typed import TypedGrid
from dolphin.market.universe import default_universe
from dolphin.orderbook.snapshot import BookSnapshot
from dolphin.services.clock import SystemClock
from dolphin.services.home import Home, SystemSettings
from dolphin.services.obf import ObfService
from dolphin.services.runtime import ENVIRONMENT
from dolphin.services.service import Context
from dolphin.services.universe import UniverseService

ROOT = Path(__file__).parents[1]
#: Distance of two looks at the memory.
LOOK_S = 5.0
#: Student's t of 97.5 % by degrees of freedom, the last for more.
T_975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.10)


def main() -> int:
    """Run and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--service", choices=("books", "universe"), default="books")
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--settle", type=float, default=600.0, help="seconds before memory's growth is measured"
    )
    parser.add_argument("--replay", nargs="*", help="recordings as the market, *_raw.parquet")
    parser.add_argument("--raw", action="store_true", help="record every message, too")
    asked = parser.parse_args()
    if any(name not in os.environ for name in ENVIRONMENT):
        words = [sys.executable, "-m", "benchmarks.book_flow", *sys.argv[1:]]
        os.execve(sys.executable, words, {**ENVIRONMENT, **os.environ})
    command = [sys.executable, str(ROOT / "tests" / "exchange"), "--port", "0", "--speed", "1"]
    command += ["--life", str(int(asked.seconds + asked.symbols * 2 + 60))]
    if asked.service == "books":
        command += ["--names", *default_universe()[: asked.symbols]]
    else:
        command += ["--symbols", str(asked.symbols), "--levels", "20"]
    command += ["--replay", *asked.replay] if asked.replay else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as exchange:
        assert exchange.stdout is not None
        try:
            url = json.loads(exchange.stdout.readline())["url"]
            with tempfile.TemporaryDirectory() as folder:
                measure = books if asked.service == "books" else universe
                print(json.dumps(measure(url, Path(folder), asked), indent=1))
        finally:
            exchange.terminate()
    return 0


class Cost:
    """Processor and memory of this process from now on; what it keeps itself does not grow by the tick."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self.cpu_s, self.wall_s = time.process_time(), time.monotonic()
        self._ticks = Delays()
        self._memory: list[tuple[float, float]] = []

    def run(self, seconds: float, service: Any, each: Callable[[], None] = lambda: None) -> None:
        """Tick the service at its period for so long."""
        pause, due_s = threading.Event(), time.monotonic()
        while (passed_s := time.monotonic() - self.wall_s) < seconds:
            begun_ns = time.perf_counter_ns()
            service.tick()
            self._ticks.take([time.perf_counter_ns() - begun_ns])
            each()
            if not self._memory or passed_s - self._memory[-1][0] >= LOOK_S:
                self._memory.append((passed_s, memory_mb()))
            due_s = max(due_s + service.period_s, time.monotonic() - 1.0)
            pause.wait(max(0.0, due_s - time.monotonic()))

    def figures(self) -> dict[str, Any]:
        """Share of one core, ticks, memory and its growth after the settling."""
        cpu_s, wall_s = time.process_time() - self.cpu_s, time.monotonic() - self.wall_s
        at_s, mb = np.array(self._memory).T
        late = at_s >= self._settle_s
        found: dict[str, Any] = {
            "seconds": round(wall_s, 1),
            "core_share": round(cpu_s / wall_s, 4),
            **self._ticks.figures("tick"),
            "memory_mb_each_minute": [round(float(np.median(mb[at_s // 60 == m])), 1) for m in minutes(at_s)],
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }
        if len(minutes(at_s[late])) >= 3:
            slope, low, high = growth_mb_h(at_s[late], mb[late])
            found["memory_mb_per_h"] = round(slope, 2)
            found["memory_mb_per_h_95"] = [round(low, 2), round(high, 2)]
        return found


def minutes(at_s: FloatArray) -> list[int]:
    """The minutes that have a look."""
    return sorted({int(s // 60) for s in at_s})


def growth_mb_h(at_s: FloatArray, mb: FloatArray) -> tuple[float, float, float]:
    """Slope of the minutes' medians, MB/h, and its 95 % interval (least squares, Student's t)."""
    by_minute = [(m / 60.0, float(np.median(mb[at_s // 60 == m]))) for m in minutes(at_s)]
    x, y = np.array(by_minute).T
    dx = x - x.mean()
    slope = float(dx @ y / (dx @ dx))
    rest = y - y.mean() - slope * dx
    df = len(x) - 2
    error = math.sqrt(float(rest @ rest) / df / float(dx @ dx)) * T_975[min(df, len(T_975)) - 1]
    return slope, slope - error, slope + error


def books(url: str, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """The book flow, from when all books are there."""
    settings = SystemSettings(exchange=url, assets=asked.symbols, record_raw=asked.raw)
    grid = InProcessGrid("inline")
    context = Context(
        "obf",
        Home(folder),
        settings,
        SystemClock(),
        TypedGrid(grid.peer()),
        options={"first_flush_s": 0},
    )
    service = ObfService(context)
    service.start()
    flow, features = service.flow, service.features
    assert flow is not None
    assert features is not None
    sent_ns: list[int] = []

    def hear(symbol: str, book: BookSnapshot, now_ns: int) -> None:
        features.hear(symbol, book, now_ns)
        sent_ns.append(time.time_ns() - book.timestamp_ns)

    flow._on_book = hear
    begin_s = time.monotonic()
    pause = threading.Event()
    while service.gauges()["books_fresh"] < asked.symbols:
        assert time.monotonic() - begin_s < asked.symbols * 2 + 60, f"books missing: {service.gauges()}"
        service.tick()
        pause.wait(0.1)
    ready_s = time.monotonic() - begin_s
    flow.delays_ns.clear()
    sent_ns.clear()
    gc.collect()
    updates, received = flow.counts["updates"], Delays()
    sent = Delays()
    cost = Cost(asked.settle)

    fresh = Counter[int]()

    def each() -> None:
        fresh[int(service.gauges()["books_fresh"])] += 1
        received.take(flow.delays_ns)
        sent.take(sent_ns)

    cost.run(asked.seconds, service, each)
    found = {
        "symbols": asked.symbols,
        "market": "recorded" if asked.replay else "synthetic",
        "all_books_after_s": round(ready_s, 1),
        "updates_per_s": round((flow.counts["updates"] - updates) / asked.seconds, 1),
        **cost.figures(),
        **received.figures("received_to_features"),
        **sent.figures("sent_to_features"),
        "fresh_books_mean": round(sum(n * count for n, count in fresh.items()) / fresh.total(), 2),
        "fresh_books_least": min(fresh),
        "pushed_books": context.counts["pushed_books"],
        "batches_replaced": context.counts["batches_replaced"],
        "books_refused": features.n_refused,
        "rows_dropped": features.n_dropped,
        "errors": flow.counts["errors"],
        "resyncs": flow.counts["resyncs"],
        "refreshes": flow.counts["refreshes"],
        "stalls": flow.counts["stalls"],
    }
    service.stop()
    grid.close()
    return found


def universe(url: str, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """The universe service, from its start."""
    grid = InProcessGrid("inline")
    context = Context(
        "obf_universe", Home(folder), SystemSettings(exchange=url), SystemClock(), TypedGrid(grid.peer())
    )
    service = UniverseService(context)
    service.start()
    cost = Cost(asked.settle)
    cost.run(asked.seconds, service)
    streams = service.streams
    assert streams is not None
    ages_s = [(streams.mono_ns() - held.arrived_ns) / 1e9 for held in streams.books().values()]
    found = {
        "symbols": asked.symbols,
        "books": len(ages_s),
        "oldest_book_s": round(max(ages_s, default=math.nan), 2),
        **cost.figures(),
        **{name: context.counts[name] for name in ("snapshots", "parts", "pushes", "snapshots_dropped")},
        "books_received": streams.counts["books"],
        **{name: streams.counts[name] for name in ("errors", "silent", "lives")},
    }
    service.stop()
    grid.close()
    return found


class Delays:
    """A histogram of nanoseconds in steps of 10 us, of constant size."""

    def __init__(self) -> None:
        self._n = np.zeros(100_000, np.int64)

    def take(self, waiting: Any) -> None:
        """Take what waits there."""
        n = len(waiting)
        steps = np.array([waiting[k] for k in range(n)], np.int64) // 10_000
        for _ in range(n):
            del waiting[0]
        np.add.at(self._n, np.clip(steps, 0, len(self._n) - 1), 1)

    def figures(self, name: str) -> dict[str, float]:
        """Percentiles, ms."""
        sums = np.cumsum(self._n)
        return {
            f"{name}_{label}_ms": round(float(np.searchsorted(sums, share * sums[-1])) / 100.0, 2)
            for label, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))
        }


def memory_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    sys.exit(main())
