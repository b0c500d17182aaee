"""Real Hazelcast members for tests: clusters on loopback, clients, and a network that can be cut."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from dolphin.domain.errors import UsageError
from dolphin.grid.hazelcast import HazelcastGrid
from dolphin.grid.hazelcast_objects import FENCES_MAP
from dolphin.grid.port import Grid
from dolphin.services.member import Member, find_jar, find_java, start_cluster

PATIENCE_S = 60.0
#: Capacities that tests want, by the log's name.
LOGS = {f"*_CAP_{n}": n for n in (4, 5, 7, 100)}
#: References that tests use: they cannot be listed, so they are emptied by name.
REFERENCES = ("R", "DOLPHIN_SAFETY")


def skip_without_java() -> None:
    """Skip, with the reason, where no member can be started."""
    try:
        find_java()
        find_jar()
    except UsageError as error:
        pytest.skip(f"needs Java: {error}")


class RealCluster:
    """Members as processes, and the clients that a test makes. Keeps `conftest.Cluster`."""

    def __init__(self, folder: Path, n: int) -> None:
        self.members: tuple[Member, ...] = start_cluster(folder, n, logs=LOGS, cluster_name="contract")
        self._clients: list[HazelcastGrid] = []
        self._admin: HazelcastGrid | None = None

    def _make(self, **settings: Any) -> HazelcastGrid:
        addresses = [member.address for member in self.members]
        return HazelcastGrid(addresses, "contract", **{"backoff_s": 0.02, **settings})

    def client(self, **settings: Any) -> HazelcastGrid:
        self._clients.append(self._make(**settings))
        return self._clients[-1]

    def drop(self, client: Grid) -> None:
        """Cut the client's sockets and refuse new ones."""
        assert isinstance(client, HazelcastGrid)
        manager = client.link.client._connection_manager

        def refuse(address: object) -> None:
            raise OSError(f"the test's network does not reach {address}")

        manager._create_connection = refuse
        for connection in list(manager.active_connections.values()):
            connection.socket.shutdown(socket.SHUT_RDWR)
        until(lambda: not client.connected, "the client to know that it is cut off")

    def restore(self, client: Grid) -> None:
        assert isinstance(client, HazelcastGrid)
        vars(client.link.client._connection_manager).pop("_create_connection", None)
        until(lambda: client.connected, "the client to be back")

    def lose_memory(self) -> None:
        for member in self.members:
            member.kill()
        self.start_all()
        until(lambda: all(c.connected for c in self._clients if not c._closing), "every client to be back")

    def start_all(self) -> None:
        for member in self.members:
            member.start()
        for member in self.members:
            member.wait_until_ready(cp=len(self.members) >= 3)

    def empty(self) -> None:
        """Close the clients of a test and forget what it wrote."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        if self._admin is None:
            self._admin = self._make()
        until(lambda: self._admin is not None and self._admin.connected, "the admin to be connected")
        vendor = self._admin.link.client
        for each in self._admin.link.bounded("for all objects", vendor.get_distributed_objects):
            if each.name != "DOLPHIN_GRID":
                self._admin.link.bounded("the end of an object", each.destroy)
        self._admin.map(FENCES_MAP)
        self._admin._proxies.clear()
        for name in REFERENCES:
            self._admin.atomic_reference(name).set(None)

    def stop(self) -> None:
        if self._admin is not None:
            self._admin.close()
        for member in self.members:
            member.kill()


def until(ready: Any, what: str, patience_s: float = PATIENCE_S) -> None:
    """Return when `ready()` says yes; fails when it does not in time."""
    never = threading.Event()
    for _ in range(int(patience_s / 0.01)):
        if ready():
            return
        never.wait(0.01)
    raise AssertionError(f"waited {patience_s:g} s in vain for {what}")
