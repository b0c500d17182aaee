"""The one client of the grid that a process of the system has.

Entry point: `open_grid`. Hazelcast's client is loaded only here, so that nothing else needs it.
"""

from __future__ import annotations

from dolphin.grid.dispatch import DispatcherKind
from dolphin.grid.port import Grid
from dolphin.services.home import SystemSettings


def open_grid(
    settings: SystemSettings, dispatcher: DispatcherKind = "thread", *, connect_timeout_s: float = 20.0
) -> Grid:
    """A client of the grid that `settings` name, connected.

    Raises GridUnreachable when no member answers within `connect_timeout_s`, and UsageError without the
    services extra.
    """
    from dolphin.grid.hazelcast import HazelcastGrid

    return HazelcastGrid(
        settings.grid_members, settings.cluster_name, dispatcher, connect_timeout_s=connect_timeout_s
    )
