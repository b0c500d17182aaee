"""What the grid costs: a put until its inline listener runs, and a scan of 50 assets through JSON.

Every figure stands beside a yardstick measured in the same run on the same machine: a plain dict assignment
for the grid, the standard library's `json` for the codec. Rounds of both are interleaved, so that a machine
that slows down slows both.

    PYTHONPATH=src python benchmarks/grid.py [--json] [--rounds N]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from pathlib import Path
from time import perf_counter_ns

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common import hardware, load, number, row
from dolphin.domain.scan import WINDOWS, Scan
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.near_view import NearView
from dolphin.grid.payloads import ScanPayload
from dolphin.grid.topics import SCAN, decode, encode
from dolphin.grid.typed import TypedGrid, publish_scan

SEED = 42
MAP, KEY = "DOLPHIN_FEATURES", "latest_eigen_scan"
N_ASSETS = 50


def make_scan() -> Scan:
    draw = random.Random(SEED)
    columns = {
        f"w{w}_{part}": draw.random()
        for w in WINDOWS
        for part in ("lambda_max", "velocity", "rotation", "instability")
    }
    return Scan(
        scan_number=123_456,
        timestamp_ns=1_700_000_000_123_456_789,
        **columns,
        vel_div=columns["w50_velocity"] - columns["w750_velocity"],
        regime_signal=0.0,
        instability_composite=draw.random(),
        assets=tuple(f"A{i:02d}USDT" for i in range(N_ASSETS)),
        asset_prices=tuple(draw.random() * 1e4 for _ in range(N_ASSETS)),
        asset_loadings=tuple(draw.random() for _ in range(N_ASSETS)),
        universe_id="0123456789abcdef",
        certified_bits=(513, 514, 515, 516),
        outcome=("ok", "ok", "ok", "ok"),
    )


class Samples:
    """Latencies of one operation, nanoseconds."""

    def __init__(self, name: str, yardstick: str | None = None) -> None:
        self.name = name
        self.yardstick = yardstick
        self.ns: list[int] = []

    def quantile_us(self, q: float) -> float:
        return float(np.quantile(self.ns, q)) / 1e3


def timed(samples: Samples, n: int, operation) -> None:
    # Two clock reads of about 50 ns are part of every figure, yardsticks included.
    keep = samples.ns.append
    for _ in range(n):
        start = perf_counter_ns()
        operation()
        keep(perf_counter_ns() - start)


def measure(rounds: int) -> tuple[list[Samples], bytes]:
    scan = make_scan()
    payload = ScanPayload.from_scan(scan, bridge_ts=1_700_000_000.5)
    data = encode(payload)
    assert decode(MAP, KEY, data).to_scan() == scan
    tree = json.loads(data)

    plain: dict[str, bytes] = {}
    grid = InProcessGrid()
    entries = grid.map("M")
    arrived: list[int] = []
    entries.listen(lambda event: arrived.append(perf_counter_ns()), "k")
    silent = InProcessGrid().map("M")
    home = InProcessGrid()
    view = NearView(home, SCAN)
    TypedGrid(home).put(SCAN, payload)
    embedded = InProcessGrid()
    embedded_view = NearView(embedded, SCAN)

    assign = Samples("dict assignment")
    put_silent = Samples("put, no listener", assign.name)
    put_heard = Samples("put -> inline listener", assign.name)
    read = Samples("near view read", assign.name)
    json_encode = Samples("json.dumps of the scan")
    our_encode = Samples("encode a scan", json_encode.name)
    json_decode = Samples("json.loads of the scan")
    our_decode = Samples("decode and validate a scan", json_decode.name)
    from_scan = Samples("Scan -> payload", json_encode.name)
    publish = Samples("publish a scan: log, map, near view", json_decode.name)

    def set_plain() -> None:
        plain["k"] = data

    # The listener's own clock read ends the latency: what the put does afterwards is not part of it.
    def put_and_hear(n: int) -> None:
        for _ in range(n):
            start = perf_counter_ns()
            entries.put("k", data)
            put_heard.ns.append(arrived.pop() - start)

    for _ in range(rounds):
        timed(assign, 2000, set_plain)
        timed(put_silent, 1000, lambda: silent.put("k", data))
        put_and_hear(1000)
        timed(read, 1000, view.read)
        timed(json_encode, 50, lambda: json.dumps(tree).encode())
        timed(our_encode, 200, lambda: encode(payload))
        timed(json_decode, 50, lambda: json.loads(data))
        timed(our_decode, 200, lambda: decode(MAP, KEY, data))
        timed(from_scan, 200, lambda: ScanPayload.from_scan(scan, bridge_ts=1.5))
        timed(publish, 100, lambda: publish_scan(embedded, scan, bridge_ts=1.5))
    assert embedded_view.n_updates == rounds * 100
    every = [assign, put_silent, put_heard, read]
    every += [json_encode, our_encode, json_decode, our_decode, from_scan, publish]
    return every, data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds (default 20, about 2 s)")
    arguments = parser.parse_args()
    every, data = measure(arguments.rounds)
    n_bytes = len(data)
    by_name = {samples.name: samples for samples in every}
    rows = []
    for samples in every:
        p50, p99 = samples.quantile_us(0.50), samples.quantile_us(0.99)
        ratio = None if samples.yardstick is None else p50 / by_name[samples.yardstick].quantile_us(0.50)
        rows.append(
            {
                "operation": samples.name,
                "n": len(samples.ns),
                "p50_us": round(p50, 3),
                "p99_us": round(p99, 3),
                "ratio": None if ratio is None else round(ratio, 3),
                "yardstick": samples.yardstick,
            }
        )
    if arguments.json:
        result = {
            "script": "benchmarks/grid.py",
            "hardware": hardware(),
            "load": load(),
            "market": f"scan of {N_ASSETS} assets, {n_bytes:,} bytes of JSON",
            "seed": SEED,
            "result_sha256": hashlib.sha256(data).hexdigest(),
            "rows": rows,
            "table": [
                row(
                    line["operation"],
                    line["p50_us"],
                    "us",
                    baseline=line["yardstick"] or "",
                    ratio=line["ratio"],
                    note=f"p99 {number(line['p99_us'])} us",
                )
                for line in rows
            ],
        }
        sys.stdout.write(json.dumps(result) + "\n")
        return
    print(f"{hardware()}; scan of {N_ASSETS} assets, {n_bytes} bytes of JSON")
    print(f"{'operation':<38}{'n':>8}{'p50 us':>10}{'p99 us':>10}{'ratio':>9}  of")
    for line in rows:
        ratio = "" if line["ratio"] is None else f"{line['ratio']:.2f}"
        print(
            f"{line['operation']:<38}{line['n']:>8}{line['p50_us']:>10.2f}{line['p99_us']:>10.2f}{ratio:>9}"
            f"  {line['yardstick'] or ''}"
        )


if __name__ == "__main__":
    main()
