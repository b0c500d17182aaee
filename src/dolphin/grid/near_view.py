"""A local view of the grid, fed by listeners: what the hot path reads instead of the network.

Entry points: `NearView`, `Reading`.

Invariants
----------
1. A read is a dict lookup: it takes no lock, asks no grid and reads no clock. Ages are taken against a
   `now_ns` that the caller gives.
2. A payload that does not validate is counted and changes nothing: the last good one stays, and its age
   tells.
3. While the connection is down the view keeps its values and says `degraded`; it stops saying so only when
   all of them have been reconciled.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from dolphin.grid.payloads import PayloadRejected
from dolphin.grid.port import ConnectionEvent, ConnectionState, EntryEvent, Grid
from dolphin.grid.topics import Rejections, Topic

P = TypeVar("P")


class Reading(NamedTuple, Generic[P]):
    """A payload and its freshness.

    `source_ns` is the source's own time (None when it does not say), `sequence` its own count, or the grid's
    version of the entry where the source does not count.
    """

    payload: P
    source_ns: int | None
    sequence: int
    key: str

    def age_ns(self, now_ns: int) -> int | None:
        """Nanoseconds between the source's time and `now_ns`; None when the source does not say.

        Negative when the source claims the future, which a reader must not take for fresh.
        """
        return None if self.source_ns is None else now_ns - self.source_ns

    def fresh(self, now_ns: int, age_max_ns: int) -> bool:
        """Whether the age is known, not negative and at most `age_max_ns`."""
        return self.source_ns is not None and 0 <= now_ns - self.source_ns <= age_max_ns


class NearView(Generic[P]):
    """The newest valid payload of each key of `topic`, as far as this process has been told.

    Parameters
    ----------
    grid : Grid
        Its dispatcher feeds the view, at once with what is there already.
    topic : Topic
        A topic with parts in its key is watched over its whole map, and keys of other topics are left out.
    rejections : Rejections
        Where payloads that do not validate are counted.
    parts : str
        Parts of the map's name, and of the key when one key is to be watched.
    """

    def __init__(
        self, grid: Grid, topic: Topic[P], rejections: Rejections | None = None, **parts: str
    ) -> None:
        self.topic = topic
        self.rejections = Rejections() if rejections is None else rejections
        self.n_updates = 0
        self._readings: dict[str, Reading[P]] = {}
        self._degraded = False
        self._map_name = topic.map_name(**parts)
        try:
            key: str | None = topic.key(**parts)
        except KeyError:
            key = None
        self.key = key
        keys: tuple[str | None, ...] = (None,) if key is None else (key, *topic.aliases)
        source = grid.map(self._map_name)
        self._connection = grid.on_connection(self._on_connection)
        # Connected between the two lines would be missed; disconnected after them is told.
        self._degraded = not grid.connected
        self._subscriptions = [source.listen(self._on_entry, k, initial=True) for k in keys]

    def read(self, key: str | None = None) -> Reading[P] | None:
        """The last valid payload under `key` (default.

        The watched one, then its aliases); None if there never was.
        """
        if key is not None:
            return self._readings.get(key)
        if self.key is None:
            raise KeyError(f"{self.topic!r} has many keys; say which one")
        reading = self._readings.get(self.key)
        if reading is None and self.topic.aliases:
            reading = next((self._readings[a] for a in self.topic.aliases if a in self._readings), None)
        return reading

    def keys(self) -> tuple[str, ...]:
        """Keys that have a payload now, sorted."""
        return tuple(sorted(self._readings.copy()))

    @property
    def degraded(self) -> bool:
        """Whether the connection is down, so that the values may be older than the grid's."""
        return self._degraded

    def close(self) -> None:
        """Stop listening; the values stay readable."""
        for subscription in (*self._subscriptions, self._connection):
            subscription.close()

    def _on_entry(self, event: EntryEvent) -> None:
        if self.key is None and not self.topic.covers(event.map_name, event.key):
            return
        if event.value is None:
            self._readings.pop(event.key, None)
            return
        try:
            payload = self.topic.decode(event.map_name, event.key, event.value)
        except PayloadRejected as rejection:
            self.rejections.add(rejection)
            return
        source_ns = getattr(payload, "source_ns", _no_number)()
        sequence = getattr(payload, "source_sequence", _no_number)()
        self._readings[event.key] = Reading(
            payload, source_ns, event.version if sequence is None else sequence, event.key
        )
        self.n_updates += 1

    def _on_connection(self, event: ConnectionEvent) -> None:
        self._degraded = event.state is not ConnectionState.CONNECTED


def _no_number() -> None:
    return None
