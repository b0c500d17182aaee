"""The typed door to a grid: payloads go in and out, bytes stay inside.

Entry points: `TypedGrid` (put, get, listen, scans), `publish_scan`.

Invariants
----------
1. What is written is checked against its own declaration first: a writer learns of its mistake before any
   reader.
2. A payload that does not validate is counted in `rejections` and never reaches a callback.
3. A scan is appended to the log before the map changes, so that a reader woken by the map finds it in the
   log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from dolphin.domain.scan import Scan
from dolphin.grid.payloads import WHOLE, PayloadRejected, ScanPayload
from dolphin.grid.port import EntryEvent, EntryKind, Grid, Subscription
from dolphin.grid.topics import SCAN, SCAN_LOG, SCAN_LOG_CAPACITY, Rejections, Topic, encode, topic_of

P = TypeVar("P")


class ScansRead(msgspec.Struct, frozen=True):
    """What a catch-up found.

    See `LogRead`. `scans` are (sequence, payload); rejected entries are counted, not here.
    """

    scans: tuple[tuple[int, ScanPayload], ...]
    next_sequence: int
    n_missed: int
    n_rejected: int
    rewound: bool


def publish_scan(
    grid: Grid, scan: Scan, *, bridge_ts: float | None = None, file_mtime: float | None = None
) -> int:
    """Append `scan` to the log, then make it the latest. `bridge_ts`, `file_mtime` are Unix seconds.

    Returns its sequence in the log. Raises PayloadRejected when the scan breaks its declaration, GridError.
    """
    payload = ScanPayload.from_scan(scan, bridge_ts=bridge_ts, file_mtime=file_mtime)
    data = _checked(SCAN, SCAN.map_template, SCAN.key_template, payload)
    sequence = grid.log(SCAN_LOG, SCAN_LOG_CAPACITY).append(data)
    grid.map(SCAN.map_template).put(SCAN.key_template, data)
    return sequence


def _checked(topic: Topic[P], map_name: str, key: str, payload: P) -> bytes:
    """The payload's bytes, read back once as any reader would. Raises PayloadRejected."""
    try:
        data = encode(payload)
    except (ValueError, TypeError) as error:
        raise PayloadRejected(map_name, key, WHOLE, str(error)) from error
    topic.decode(map_name, key, data)
    return data


class TypedGrid:
    """Payloads on top of `grid`.

    `rejections` may be shared between several doors and views of one process.
    """

    def __init__(self, grid: Grid, rejections: Rejections | None = None) -> None:
        self.grid = grid
        self.rejections = Rejections() if rejections is None else rejections

    def put(self, topic: Topic[P], payload: P, **parts: str) -> None:
        """Write `payload` under the topic's key and its aliases; `parts` fill the key (`symbol="BTCUSDT"`).

        Raises PayloadRejected when it breaks its declaration, KeyError for a part that is not given,
        GridError.
        """
        map_name, key = topic.map_name(**parts), topic.key(**parts)
        data = _checked(topic, map_name, key, payload)
        target = self.grid.map(map_name)
        target.put(key, data)
        for alias in topic.aliases:
            target.put(alias, data)

    def get(self, topic: Topic[P], **parts: str) -> P | None:
        """The current payload, or None when there is none; aliases are tried in their order.

        Asks the grid: not for the hot path. Raises PayloadRejected, counted, for one that does not validate.
        """
        map_name = topic.map_name(**parts)
        source = self.grid.map(map_name)
        for key in (topic.key(**parts), *topic.aliases):
            data = source.get(key)
            if data is not None:
                return self._decode(topic, map_name, key, data)
        return None

    def listen(
        self,
        topic: Topic[P],
        callback: Callable[[P, EntryEvent], None],
        *,
        initial: bool = False,
        **parts: str,
    ) -> Subscription:
        """Call `callback` with each payload put under the topic's key that validates.

        Removals are not delivered. The arguments are those of `GridMap.listen`. A topic with several keys
        needs its `parts`.
        """
        map_name, key = topic.map_name(**parts), topic.key(**parts)

        def deliver(event: EntryEvent) -> None:
            if event.kind is EntryKind.REMOVED or event.value is None:
                return
            try:
                payload = self._decode(topic, event.map_name, event.key, event.value)
            except PayloadRejected:
                return
            callback(payload, event)

        return self.grid.map(map_name).listen(deliver, key, initial=initial)

    def read_scans(self, from_sequence: int, limit: int = 100) -> ScansRead:
        """At most `limit` scans of the log from `from_sequence` on. Raises GridError.

        A rejected entry is counted and skipped; `next_sequence` goes past it, so that one bad scan blinds
        nobody.
        """
        read = self.grid.log(SCAN_LOG, SCAN_LOG_CAPACITY).read(from_sequence, limit)
        scans: list[tuple[int, ScanPayload]] = []
        for sequence, data in read.items:
            try:
                scans.append((sequence, self._decode(SCAN, SCAN_LOG, str(sequence), data)))
            except PayloadRejected:
                continue
        n_rejected = len(read.items) - len(scans)
        return ScansRead(tuple(scans), read.next_sequence, read.n_missed, n_rejected, read.rewound)

    def accept(self, map_name: str, key: str, data: bytes) -> object:
        """The payload declared for that map and key. Raises PayloadRejected, counted."""
        try:
            return topic_of(map_name, key).decode(map_name, key, data)
        except PayloadRejected as rejection:
            self.rejections.add(rejection)
            raise

    def _decode(self, topic: Topic[P], map_name: str, key: str, data: bytes) -> P:
        try:
            return topic.decode(map_name, key, data)
        except PayloadRejected as rejection:
            self.rejections.add(rejection)
            raise
