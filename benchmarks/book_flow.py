"""What the live book flow costs: symbols at 100 ms from an exchange on loopback, features every 100 ms.

The exchange is a process of its own. The whole service runs here: sockets, books, bands, features, pushes to
a grid in the process, the recorder. Printed: share of one core, time from a message's arrival to its bands
and to the features that hold them, and memory at the beginning and the end. Run:
`python -m benchmarks.book_flow [--symbols 50] [--seconds 60]`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.typed import TypedGrid
from dolphin.market.universe import default_universe
from dolphin.services.clock import SystemClock
from dolphin.services.home import Home, SystemSettings
from dolphin.services.obf import ObfService
from dolphin.services.service import Context

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--raw", action="store_true", help="record every message, too")
    asked = parser.parse_args()
    command = [sys.executable, str(ROOT / "tests" / "exchange"), "--port", "0", "--speed", "1"]
    command += ["--life", str(int(asked.seconds + asked.symbols * 2 + 60)), "--names"]
    command += default_universe()[: asked.symbols]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as exchange:
        assert exchange.stdout is not None
        try:
            url = json.loads(exchange.stdout.readline())["url"]
            with tempfile.TemporaryDirectory() as folder:
                print(json.dumps(measure(url, Path(folder), asked)))
        finally:
            exchange.terminate()
    return 0


def measure(url: str, folder: Path, asked: argparse.Namespace) -> dict[str, float]:
    """Figures of some seconds after all books are there."""
    settings = SystemSettings(exchange=url, assets=asked.symbols, record_raw=asked.raw)
    grid, clock = InProcessGrid("inline"), SystemClock()
    context = Context(
        "obf", Home(folder), settings, clock, TypedGrid(grid.peer()), options={"first_flush_s": 0}
    )
    service, pause = ObfService(context), threading.Event()
    service.start()
    flow = service.flow
    assert flow is not None
    begin_s = time.monotonic()
    while service.gauges()["books_fresh"] < asked.symbols:
        assert time.monotonic() - begin_s < asked.symbols * 2 + 60, f"books missing: {service.gauges()}"
        service.tick()
        pause.wait(0.1)
    ready_s = time.monotonic() - begin_s
    flow.delays_ns.clear()
    updates, ticks_s = flow.counts["updates"], []
    cpu_s, wall_s, memory_mb = time.process_time(), time.monotonic(), _memory_mb()
    due_s = wall_s
    delays: list[int] = []
    while time.monotonic() - wall_s < asked.seconds:
        begun_s = time.perf_counter()
        service.tick()
        ticks_s.append(time.perf_counter() - begun_s)
        while flow.delays_ns:
            delays.append(flow.delays_ns.popleft())
        due_s += service.period_s
        pause.wait(max(0.0, due_s - time.monotonic()))
    cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - wall_s
    found = {
        "symbols": asked.symbols,
        "seconds": round(wall_s, 1),
        "all_books_after_s": round(ready_s, 1),
        "updates_per_s": round((flow.counts["updates"] - updates) / wall_s, 1),
        "core_share": round(cpu_s / wall_s, 3),
        "message_to_bands_p50_ms": round(float(np.percentile(delays, 50)) / 1e6, 2),
        "message_to_bands_p99_ms": round(float(np.percentile(delays, 99)) / 1e6, 2),
        "tick_p50_ms": round(float(np.percentile(ticks_s, 50)) * 1e3, 2),
        "tick_p99_ms": round(float(np.percentile(ticks_s, 99)) * 1e3, 2),
        "memory_begin_mb": memory_mb,
        "memory_end_mb": _memory_mb(),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "pushed_books": context.counts["pushed_books"],
        "batches_replaced": context.counts["batches_replaced"],
        "errors": flow.counts["errors"],
        "resyncs": flow.counts["resyncs"],
    }
    service.stop()
    grid.close()
    return found


def _memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return round(pages * resource.getpagesize() / 2**20, 1)


if __name__ == "__main__":
    sys.exit(main())
