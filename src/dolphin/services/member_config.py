"""The configuration of a Hazelcast member, as text: one source for `dolphin up`, the tests and deploy/.

Entry point: `member_yaml`. `deploy/hazelcast/` holds what it gives for one and for three members; a test
keeps them equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dolphin.grid.inprocess import LOG_CAPACITY_DEFAULT
from dolphin.grid.topics import SCAN_LOG, SCAN_LOG_CAPACITY
from dolphin.services.home import GRID_PORT

#: A client that says nothing for so long has lost its locks; chosen so that a trader stopped for 20 s has.
SESSION_TTL_S = 15
SESSION_HEARTBEAT_S = 3
CP_MEMBERS = 3

_ONE = """\
  # One member cannot form a CP group: locks and references run in UNSAFE MODE. They work while the member
  # lives, and nothing of them survives it. Real fencing across members needs three of them.
  cp-subsystem:
    cp-member-count: 0
"""
_THREE = """\
  # Start the three together: the CP group forms only from members that all come, and members that become part
  # of it end themselves when one leaves while it forms. It lives in memory: a restart of all members forgets
  # every lock and reference, and the journal fills the grid again.
  cp-subsystem:
    cp-member-count: 3
    group-size: 3
    missing-cp-member-auto-removal-seconds: 14400
    fail-on-indeterminate-operation-state: true
"""


def member_yaml(
    port: int,
    members: Sequence[str],
    *,
    cluster_name: str = "dolphin",
    logs: Mapping[str, int] | None = None,
) -> str:
    """The YAML of the member at 127.0.0.1:`port` of the cluster of `members` ("host:port" each).

    `logs` are capacities of bounded logs by name or pattern, beside the scans' and the default.
    """
    capacities = {"default": LOG_CAPACITY_DEFAULT, SCAN_LOG: SCAN_LOG_CAPACITY, **(logs or {})}
    many = len(members) >= CP_MEMBERS
    backups = 1 if len(members) > 1 else 0
    lines = [
        "hazelcast:",
        f"  cluster-name: {cluster_name}",
        "  network:",
        f"    port: {{port: {port}, auto-increment: false}}",
        '    interfaces: {enabled: true, interfaces: ["127.0.0.1"]}',
        "    # Health only: whether every entry has its backup, as it should before a member is stopped.",
        "    rest-api:",
        "      enabled: true",
        "      endpoint-groups:",
        "        HEALTH_CHECK: {enabled: true}",
        "        CLUSTER_READ: {enabled: false}",
        "    join:",
        "      auto-detection: {enabled: false}",
        "      multicast: {enabled: false}",
        "      tcp-ip:",
        "        enabled: true",
        "        member-list: [" + ", ".join(f'"{address}"' for address in members) + "]",
    ]
    text = "\n".join(lines) + "\n" + (_THREE if many else _ONE)
    text += f"    session-time-to-live-seconds: {SESSION_TTL_S}\n"
    text += f"    session-heartbeat-interval-seconds: {SESSION_HEARTBEAT_S}\n"
    text += f"  map:\n    default: {{backup-count: {backups}, in-memory-format: BINARY}}\n"
    text += "  # The capacity of a log is decided here; a client that asks for another one is refused.\n"
    text += "  ringbuffer:\n"
    for name, capacity in capacities.items():
        text += f'    "{name}": {{capacity: {capacity}, backup-count: {backups}}}\n'
    return text


def deployed() -> dict[str, str]:
    """The files of `deploy/hazelcast/`: name to text, for one member and for each of three on one machine."""
    ports = (GRID_PORT, GRID_PORT + 1, GRID_PORT + 2)
    addresses = tuple(f"127.0.0.1:{port}" for port in ports)
    files = {"one-member.yaml": member_yaml(ports[0], addresses[:1])}
    for number, port in enumerate(ports, start=1):
        files[f"three-members-{number}.yaml"] = member_yaml(port, addresses)
    return files
