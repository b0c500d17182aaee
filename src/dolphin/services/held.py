"""Which services the operator stopped on purpose: the health service leaves them alone.

Entry point: `HeldServices`. `dolphin down SERVICE` holds, `dolphin up SERVICE` releases. The file is local,
so that the intention outlives every process. A damaged file holds nobody: a data service that starts without
need does no harm, one that stays away does.
"""

from __future__ import annotations

import msgspec

from dolphin.domain.errors import DataError, StoreError
from dolphin.services.durable import DurableState
from dolphin.services.home import Home


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """One intention: who stopped the service, and when (ns UTC)."""

    by: str
    at_ns: int


class _Held(msgspec.Struct, frozen=True, kw_only=True):
    services: dict[str, Hold] = {}


class HeldServices:
    """The list of one home. Written by commands only, which an operator gives one after the other."""

    def __init__(self, home: Home) -> None:
        self.path = home.state("held")
        self._file = DurableState(self.path, _Held)

    def read(self) -> dict[str, Hold]:
        """The holds by service; empty when there are none or the file is damaged. Never raises."""
        try:
            found = self._file.load()
        except (DataError, StoreError):
            return {}
        return {} if found is None else dict(found.services)

    def hold(self, *names: str, by: str, now_ns: int) -> None:
        """Remember that these were stopped on purpose; durable on return. Raises StoreError."""
        self._file.save(_Held(services={**self.read(), **{n: Hold(by=by, at_ns=now_ns) for n in names}}))

    def release(self, *names: str) -> None:
        """Forget it for these, for all when none is named; durable on return. Raises StoreError."""
        before = self.read()
        left = {name: hold for name, hold in before.items() if names and name not in names}
        if left != before or self.path.exists():
            self._file.save(_Held(services=left))
