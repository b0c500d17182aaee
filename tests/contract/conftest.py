"""What the contract suite runs against.

A grid joins with one parameter of `cluster` and what makes a `Cluster` of it. Real members start once a
session and are emptied between two tests; all their tests run in one worker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest
from real_members import RealCluster, skip_without_java

from dolphin.grid.dispatch import DispatcherKind
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.port import Grid

#: Seconds after which a test that waits for another thread gives up.
PATIENCE_S = 20.0


class Cluster(Protocol):
    """One shared memory with several clients, and the network between them."""

    def client(self) -> Grid:
        """A further client."""

    def drop(self, client: Grid) -> None:
        """Cut that client off: return when it knows."""

    def restore(self, client: Grid) -> None:
        """Let it reconnect: return when it is connected; its listeners may still be reconciled."""

    def lose_memory(self) -> None:
        """The whole cluster dies and comes back empty: return when every client knows."""


class InProcessCluster:
    def __init__(self, dispatcher: DispatcherKind) -> None:
        self._root = InProcessGrid(dispatcher)
        self._clients = [self._root]

    def client(self) -> Grid:
        self._clients.append(self._root.peer())
        return self._clients[-1]

    def drop(self, client: Grid) -> None:
        assert isinstance(client, InProcessGrid)
        client.drop_connection()

    def restore(self, client: Grid) -> None:
        assert isinstance(client, InProcessGrid)
        client.restore_connection()

    def lose_memory(self) -> None:
        self._root.lose_memory()

    def close(self) -> None:
        for client in self._clients:
            client.close()


REAL = pytest.mark.xdist_group("members")
EMBEDDED = ("inline", "thread")
MEMBERS = (
    pytest.param(1, marks=REAL, id="one_member"),
    pytest.param(3, marks=REAL, id="three_members"),
)


@pytest.fixture(scope="session")
def real_members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], RealCluster]]:
    """The clusters of one and of three real members, each started when it is first asked for."""
    started: dict[int, RealCluster] = {}

    def of(n: int) -> RealCluster:
        if n not in started:
            skip_without_java()
            started[n] = RealCluster(tmp_path_factory.mktemp(f"members{n}"), n)
        return started[n]

    yield of
    for each in started.values():
        each.stop()


def _cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if isinstance(request.param, int):
        real = request.getfixturevalue("real_members")(request.param)
        yield real
        real.empty()
    else:
        made = InProcessCluster(request.param)
        yield made
        made.close()


@pytest.fixture(params=[*EMBEDDED, *MEMBERS])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    yield from _cluster(request)


@pytest.fixture(params=["thread", *MEMBERS])
def threaded_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    yield from _cluster(request)


@pytest.fixture(params=[*EMBEDDED, MEMBERS[0]])
def mortal_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster that may lose its memory; three do it in `test_grid_survival`, for it takes long."""
    yield from _cluster(request)


@pytest.fixture
def grid(cluster: Cluster) -> Grid:
    return cluster.client()


class Recorder:
    """A listener that remembers, and lets a test wait for what it expects without sleeping."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: list[Any] = []

    def __call__(self, event: Any) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    @property
    def events(self) -> list[Any]:
        with self._changed:
            return list(self._events)

    def until(self, ready: Callable[[list[Any]], bool]) -> list[Any]:
        """The events as soon as `ready` says yes; fails when it does not in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: ready(self._events), PATIENCE_S):
                raise AssertionError(f"not what was awaited: {self._events}")
            return list(self._events)

    def until_count(self, n: int) -> list[Any]:
        return self.until(lambda events: len(events) >= n)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def new_recorder() -> Callable[[], Recorder]:
    return Recorder


@pytest.fixture
def in_threads() -> Callable[..., None]:
    """Run the given functions on threads that start together, and fail with the first error of any."""

    def run(*bodies: Callable[[], None]) -> None:
        start = threading.Barrier(len(bodies))
        errors: list[BaseException] = []

        def body(work: Callable[[], None]) -> None:
            try:
                start.wait(PATIENCE_S)
                work()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=body, args=(work,)) for work in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert not any(thread.is_alive() for thread in threads), "a thread did not end in time"
        if errors:
            raise errors[0]

    return run
