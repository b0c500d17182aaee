"""What the contract suite runs against.

A grid joins with one line in `FACTORIES`: a callable that returns a `Cluster`. `THREADED` names those that
deliver on a thread of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest

from dolphin.grid.inprocess import DispatcherKind, InProcessGrid
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

    def close(self) -> None:
        """Close every client and the memory."""


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

    def close(self) -> None:
        for client in self._clients:
            client.close()


FACTORIES: dict[str, Callable[[], Cluster]] = {
    "inline": lambda: InProcessCluster("inline"),
    "thread": lambda: InProcessCluster("thread"),
}
THREADED = ("thread",)


@pytest.fixture(params=FACTORIES)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made = FACTORIES[request.param]()
    yield made
    made.close()


@pytest.fixture(params=THREADED)
def threaded_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made = FACTORIES[request.param]()
    yield made
    made.close()


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
