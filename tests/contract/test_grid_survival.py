"""No last value is lost when members die, come back, or all die: on real members, with a writer going on.

Three rounds each in an ordinary run. `make survival` does a hundred.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_members import RealCluster, skip_without_java, until

from dolphin.grid.hazelcast import HazelcastGrid
from dolphin.grid.hazelcast_link import Link
from dolphin.grid.port import ConnectionState, EntryEvent, GridError

ROUNDS = int(os.environ.get("DOLPHIN_ROUNDS", "3"))
PATIENCE_S = 60.0
KEYS = tuple(f"key-{i:02d}" for i in range(24))
MAP = "SURVIVAL"

pytestmark = [pytest.mark.xdist_group("members"), pytest.mark.timeout(600 + 120 * ROUNDS)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[int], RealCluster]]:
    """A cluster of this test's own, since it is to be killed."""
    skip_without_java()
    made: list[RealCluster] = []

    def of(n: int) -> RealCluster:
        made.append(RealCluster(tmp_path / str(n), n))
        return made[-1]

    yield of
    for each in made:
        for client in each._clients:
            client.close()
        each.stop()


class Reader:
    """What listeners were told: of the whole map by one, of each key by another."""

    def __init__(self, grid: HazelcastGrid) -> None:
        self.grid = grid
        self.changed = threading.Condition()
        self.whole: dict[str, int] = {}
        self.single: dict[str, int] = {}
        self.went_back: list[str] = []
        self.states: list[tuple[ConnectionState, bool]] = []
        grid.on_connection(lambda event: self.states.append((event.state, event.reborn)))
        grid.map(MAP).listen(lambda event: self._take(self.whole, event))
        for key in KEYS:
            grid.map(MAP).listen(lambda event: self._take(self.single, event), key)

    def _take(self, told: dict[str, int], event: EntryEvent) -> None:
        with self.changed:
            if event.value is None:
                told.pop(event.key, None)
            else:
                number = int(event.value)
                # The writer's numbers rise, so a smaller one is an older value.
                if number < told.get(event.key, -1):
                    self.went_back.append(f"{event.key}: {told[event.key]} -> {number}")
                told[event.key] = number
            self.changed.notify_all()

    def await_values(self, values: dict[str, int]) -> None:
        with self.changed:
            done = self.changed.wait_for(lambda: self.whole == values and self.single == values, PATIENCE_S)
            missing = {k: (v, self.whole.get(k), self.single.get(k)) for k, v in values.items()
                       if not v == self.whole.get(k) == self.single.get(k)}  # fmt: skip
        assert done, f"the last value did not come (wanted, whole map's, key's): {missing}"
        assert self.went_back == []


class Writer:
    """Writes rising numbers under every key until it is told to finish."""

    def __init__(self, grid: HazelcastGrid) -> None:
        self.grid = grid
        self.number = 0
        self.unknown = 0
        self._finish = threading.Event()
        self._thread: threading.Thread | None = None

    def go_on(self) -> None:
        self._finish.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while not self._finish.is_set():
            self.number += 1
            for key in KEYS:
                try:
                    self.grid.map(MAP).put(key, b"%d" % self.number)
                except GridError:
                    # Whether it was written is not known; the next number will be.
                    self.unknown += 1
                    pause.wait(0.01)

    def more(self, n: int) -> None:
        aim = self.number + n
        until(lambda: self.number >= aim, "the writer to go on")

    def finish(self) -> dict[str, int]:
        """The last value of each key, known to be written."""
        self._finish.set()
        assert self._thread is not None
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self.number += 1
        data = b"%d" % self.number
        for key in KEYS:
            until(lambda key=key: self._written(key, data), f"{key} to be written")
        return dict.fromkeys(KEYS, self.number)

    def _written(self, key: str, data: bytes) -> bool:
        try:
            self.grid.map(MAP).put(key, data)
            return self.grid.map(MAP).get(key) == data
        except GridError:
            return False


def watched(cluster: RealCluster) -> tuple[Reader, Writer]:
    # No sweep: what is proven is that losses are noticed, not that somebody looks now and then.
    return Reader(cluster.client(sweep_s=3600.0)), Writer(cluster.client(sweep_s=3600.0))


def all_up(cluster: RealCluster, *grids: HazelcastGrid) -> None:
    n = len(cluster.members)
    until(lambda: all(g.connected and g.nodes == n for g in grids), f"all {n} members to be seen")
    until(lambda: cluster.members[0].safe, "every entry to have its backup")


def test_the_last_value_comes_after_a_member_was_killed_and_came_back(start):
    cluster = start(3)
    reader, writer = watched(cluster)
    for number in range(ROUNDS):
        all_up(cluster, reader.grid, writer.grid)
        member = cluster.members[number % 3]
        writer.go_on()
        writer.more(3)
        member.kill()
        until(lambda: reader.grid.connected and reader.grid.nodes == 2, "the reader to see two members")
        writer.more(3)
        reader.await_values(writer.finish())

        writer.go_on()
        member.start()
        member.wait_until_ready()
        until(lambda: reader.grid.connected and reader.grid.nodes == 3, "the reader to see three members")
        writer.more(3)
        reader.await_values(writer.finish())
    assert reader.grid.n_failures == 0
    # Every entry had its backup: nothing of the memory was lost.
    assert not any(reborn for _, reborn in reader.states)


@pytest.mark.parametrize("n", [1, 3], ids=["one_member", "three_members"])
def test_the_last_value_comes_after_the_whole_cluster_was_killed(start, n):
    """It comes back empty; the writer, who holds the truth, goes on and the reader hears the last of it."""
    cluster = start(n)
    reader, writer = watched(cluster)
    fence = 0
    for number in range(ROUNDS):
        all_up(cluster, reader.grid, writer.grid)
        lock = writer.grid.lock("writer")
        token = lock.acquire(PATIENCE_S, floor=fence)
        # What is larger than ever before is so because the floor says it: the grid has forgotten.
        assert token > fence
        fence = token + 1000
        writer.go_on()
        writer.more(3)
        for member in cluster.members:
            member.kill()
        until(lambda: not reader.grid.connected, "the reader to know")
        with pytest.raises(GridError):
            lock.held()
        cluster.start_all()
        until(lambda: reader.grid.connected and writer.grid.connected, "both to be back")
        assert not lock.held()
        writer.more(3)
        reader.await_values(writer.finish())
        states = [each for each in reader.states if each[0] is ConnectionState.CONNECTED]
        assert [reborn for _, reborn in states].count(True) == number + 1
    assert reader.grid.n_failures == 0


def test_the_last_value_comes_after_the_only_member_was_restarted(start):
    cluster = start(1)
    reader, writer = watched(cluster)
    for _ in range(ROUNDS):
        all_up(cluster, reader.grid, writer.grid)
        writer.go_on()
        writer.more(2)
        cluster.members[0].stop()
        cluster.start_all()
        writer.more(2)
        reader.await_values(writer.finish())


def test_a_new_link_that_is_connected_before_it_is_in_its_place_is_taken(start):
    """The vendor connects on a thread of its own, and may be through before its maker has the link."""
    cluster = start(1)
    reader, writer = watched(cluster)
    open_link = reader.grid._open
    connected = []

    def slowly() -> Link:
        link = open_link()
        until(link.client._connection_manager.initialized_on_cluster, "the new link to be connected")
        # So that its word, too, has come before the link is handed back.
        threading.Event().wait(0.3)
        connected.append(link)
        return link

    reader.grid._open = slowly
    writer.go_on()
    cluster.members[0].kill()
    cluster.start_all()
    until(lambda: connected and reader.grid.connected, "the reader to be back on its new link")
    writer.more(2)
    reader.await_values(writer.finish())


HOLDER = """
import sys
import threading
from dolphin.grid.hazelcast import HazelcastGrid
from dolphin.grid.hazelcast_link import Link
from dolphin.grid.port import GridUnreachable
grid = HazelcastGrid(sys.argv[1:], "contract")
lock = grid.lock("leader")
print(lock.acquire(60.0), flush=True)
for line in sys.stdin:
    while True:
        try:
            print(lock.held(), flush=True)
        except GridUnreachable:
            # Not known before the client is back.
            threading.Event().wait(0.1)
        else:
            break
grid.close()
"""


def test_a_holder_that_is_stopped_for_too_long_loses_the_lock_and_hears_it(real_members):
    """SIGSTOP, as a machine that swaps or a laptop that sleeps: the next holder's token is larger."""
    cluster = real_members(3)
    other = cluster.client().lock("leader")
    addresses = [member.address for member in cluster.members]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, *addresses], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdin is not None
            assert holder.stdout is not None
            first = int(holder.stdout.readline())
            holder.stdin.write("held?\n")
            holder.stdin.flush()
            assert holder.stdout.readline() == "True\n"
            os.kill(holder.pid, signal.SIGSTOP)
            second = other.acquire(PATIENCE_S)
            assert second > first
            os.kill(holder.pid, signal.SIGCONT)
            holder.stdin.write("held?\n")
            holder.stdin.flush()
            assert holder.stdout.readline() == "False\n"
            assert other.held()
            other.release()
            holder.stdin.close()
            assert holder.wait(PATIENCE_S) == 0
        finally:
            os.kill(holder.pid, signal.SIGCONT) if holder.poll() is None else None
            holder.kill()
    cluster.empty()
