"""What a real grid costs: a put until another client's listener runs, and a scan until its decision.

    python -m benchmarks.grid_member [--rounds 20] [--puts 250] [--scans 50] [--warm 2000] [--members 1 3]
                                     [--seed 7] [--json]

Members are processes of this machine, on loopback: one, then three. Two clients in this process, one writes,
one hears. Yardsticks in the same interleaved rounds: the in-process grid with its worker thread, and a plain
TCP echo of the same bytes. Needs Java, the member's jar and the services extra.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter_ns

import numpy as np

from benchmarks.common import hardware, load, number, row, show
from benchmarks.grid import make_scan
from dolphin.domain.errors import UsageError
from dolphin.domain.params import load_set
from dolphin.domain.scan import Scan, row_from_scan
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.payloads import ScanPayload
from dolphin.grid.port import Grid
from dolphin.grid.topics import SCAN, encode
from dolphin.grid.typed import TypedGrid, publish_scan
from dolphin.host.session import Session, warm
from dolphin.market.synthetic import SyntheticFeed
from dolphin.scan.scanner import Scanner
from dolphin.services.member import find_jar, find_java, start_cluster

ECHO, LOCAL = "TCP echo of the same bytes", "in-process grid, worker thread"
REMOTE = {1: "one member", 3: "three members"}
PATIENCE_S = 20.0
GOAL_US = 10_000.0


class Pair:
    """A client that writes and one that hears, and what a decision needs."""

    def __init__(self, writer: Grid, reader: Grid, session: Session) -> None:
        self.writer = writer
        self.reader = reader
        self.session = session
        self.sequence = 0
        self.heard_ns = 0
        self.woken = threading.Event()
        self.door = TypedGrid(reader)
        reader.map("BENCHMARK").listen(self._heard, "k")
        reader.map(SCAN.map_template).listen(lambda event: self.woken.set(), SCAN.key_template)

    def _heard(self, event: object) -> None:
        self.heard_ns = perf_counter_ns()
        self.woken.set()

    def _await(self) -> None:
        if not self.woken.wait(PATIENCE_S):
            raise SystemExit("benchmarks: a listener was not called")
        self.woken.clear()

    def put(self, data: bytes) -> int:
        """Nanoseconds from a put to the other client's listener."""
        start = perf_counter_ns()
        self.writer.map("BENCHMARK").put("k", data)
        self._await()
        return self.heard_ns - start

    def decide(self, scan: Scan) -> tuple[int, bytes]:
        """Nanoseconds from a scan at the writer to the reader's decision, and the decision."""
        start = perf_counter_ns()
        publish_scan(self.writer, scan, bridge_ts=scan.timestamp_ns / 1e9)
        self._await()
        read = self.door.read_scans(self.sequence)
        self.sequence = read.next_sequence
        step = self.session.on_scan(row_from_scan(read.scans[0][1].to_scan()))
        taken = perf_counter_ns() - start
        if step is None or len(read.scans) != 1:
            raise SystemExit("benchmarks: a scan was dropped")
        return taken, step.decision.canonical()


@contextlib.contextmanager
def echo() -> Iterator[Callable[[bytes], int]]:
    """Nanoseconds for bytes to a thread of this process and back, over loopback."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listening.accept()
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    threading.Thread(target=answer, daemon=True).start()
    with listening, socket.create_connection(listening.getsockname()) as asking:
        asking.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ask(data: bytes) -> int:
            start = perf_counter_ns()
            asking.sendall(data)
            left = len(data)
            while left:
                left -= len(asking.recv(left))
            return perf_counter_ns() - start

        yield ask


def scans_of(feed: SyntheticFeed, n: int) -> list[Scan]:
    """The first `n` scans of a market."""
    scanner, scans = Scanner(feed.symbols), []
    for index, bar in enumerate(feed.bars()):
        scan = scanner.update(bar, index).scan
        if scan is not None:
            scans.append(scan)
            if len(scans) == n:
                break
    return scans


def measure(
    rounds: int, puts: int, n_scans: int, n_warm: int, sizes: list[int], seed: int
) -> dict[str, object]:
    """Figures of all grids, microseconds.

    The first n_warm scans, and twice as many puts, are not counted: a member's Java compiles while it runs.
    """
    from dolphin.grid.hazelcast import HazelcastGrid

    feed = SyntheticFeed(seed=seed, days=None)
    params = load_set("gold")
    warm(params, feed.symbols)
    every = scans_of(feed, n_warm + rounds * n_scans)
    warming, scans = every[:n_warm], every[n_warm:]
    grids = {LOCAL: 0} | {REMOTE[n]: n for n in sizes}
    data = encode(ScanPayload.from_scan(make_scan(), bridge_ts=1_700_000_000.5))
    puts_ns: dict[str, list[int]] = {name: [] for name in (ECHO, *grids)}
    scans_ns: dict[str, list[int]] = {name: [] for name in grids}
    decisions = {name: hashlib.sha256() for name in grids}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ask = stack.enter_context(echo())
        pairs = {}
        for name, n in grids.items():
            if n:
                members = start_cluster(folder / str(n), n)
                for member in members:
                    stack.callback(member.kill)
                addresses = [member.address for member in members]
                clients = [stack.enter_context(HazelcastGrid(addresses)) for _ in range(2)]
            else:
                root = stack.enter_context(InProcessGrid("thread"))
                clients = [root, stack.enter_context(root.peer())]
            pairs[name] = Pair(clients[0], clients[1], Session(params, feed.symbols))
            for _ in range(2 * n_warm):
                pairs[name].put(data)
            for scan in warming:
                pairs[name].decide(scan)
        for turn in range(rounds):
            puts_ns[ECHO] += [ask(data) for _ in range(puts)]
            for name, pair in pairs.items():
                puts_ns[name] += [pair.put(data) for _ in range(puts)]
            for name, pair in pairs.items():
                for scan in scans[turn * n_scans : (turn + 1) * n_scans]:
                    taken, decision = pair.decide(scan)
                    scans_ns[name].append(taken)
                    decisions[name].update(decision)
    digests = {each.hexdigest() for each in decisions.values()}
    if len(digests) != 1:
        raise SystemExit("benchmarks: the grids led to different decisions")
    return {
        "script": "benchmarks/grid_member.py",
        "hardware": hardware(),
        "load": load(),
        "market": f"{len(data):,} bytes a put, {rounds * puts:,} puts and {len(scans):,} scans a grid"
        f" after {len(warming):,} scans of warm-up",
        "seed": seed,
        "result_sha256": digests.pop(),
        "put_us": {name: quantiles(ns) for name, ns in puts_ns.items()},
        "scan_us": {name: quantiles(ns) for name, ns in scans_ns.items()},
    }


def quantiles(ns: list[int]) -> dict[str, float]:
    """p50, p99, p99.9 in microseconds."""
    return {
        name: float(np.quantile(ns, q)) / 1e3 for name, q in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
    }


def table(result: dict) -> list[dict]:
    """The page's rows."""
    rows = []
    for section, key, yardstick in (
        ("A put until another client's listener runs", "put_us", ECHO),
        ("A scan at its writer until another client's decision", "scan_us", LOCAL),
    ):
        base = result[key][yardstick]["p50"]
        for name, figures in result[key].items():
            tail = f"p99 {number(figures['p99'])} us, p99.9 {number(figures['p99.9'])} us"
            rows.append(row(name, figures["p50"], "us", section=section, ratio=figures["p50"] / base,
                            baseline=yardstick, note=tail))  # fmt: skip
    for name in list(result["scan_us"])[1:]:
        p99 = result["scan_us"][name]["p99"]
        rows.append(row(f"scan to decision, {name}, p99", p99, "us", section="Goals",
                        goal="at most 10 ms", met=p99 <= GOAL_US))  # fmt: skip
    return rows


def not_measured(why: str) -> dict[str, object]:
    """The result where no member can be started."""
    return {
        "script": "benchmarks/grid_member.py", "hardware": hardware(), "load": load(), "market": why,
        "seed": None, "result_sha256": "", "table": [row("a real member", None, "us", note=why)],
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--puts", type=int, default=250)
    parser.add_argument("--scans", type=int, default=50)
    parser.add_argument("--warm", type=int, default=2_000)
    parser.add_argument("--members", type=int, nargs="*", choices=tuple(REMOTE), default=list(REMOTE))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        find_java()
        find_jar()
        result = measure(args.rounds, args.puts, args.scans, args.warm, args.members, args.seed)
    except UsageError as error:
        told = not_measured(f"not measured: {error}")
        print(json.dumps(told) if args.json else told["market"])
        return
    result["table"] = table(result)
    if args.json:
        print(json.dumps(result))
        return
    print(f"{result['hardware']}; load {result['load']:.1f}; {result['market']}")
    show(result["table"])
    print(f"decisions sha256 {result['result_sha256']}, the same on every grid")


if __name__ == "__main__":
    main()
