"""The typed door to a grid: payloads go in and out, bytes stay inside.

Entry points: `TypedGrid` (put, put_newer, get, listen, references, scans), `publish_scan`.

Invariants
----------
1. What is written is checked against its own declaration first: a writer learns of its mistake before any
   reader.
2. A payload that does not validate is counted in `rejections` and never reaches a callback.
3. A scan is appended to the log before the map changes, so that a reader woken by the map finds it in the
   log.
4. `put_newer` never replaces a payload by an older one, whoever else writes: it compares and swaps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from dolphin.domain.scan import Scan
from dolphin.grid.payloads import WHOLE, Payload, PayloadRejected, ScanPayload
from dolphin.grid.port import EntryEvent, EntryKind, Grid, GridError, GridMap, Subscription
from dolphin.grid.topics import SCAN, SCAN_LOG, SCAN_LOG_CAPACITY, Rejections, Topic, encode, topic_of

P = TypeVar("P")

#: What stands for the key where a reference's payload is rejected.
REFERENCE_KEY = "(reference)"
#: Lost races after which `put_newer` gives up: so many writers of one key are a mistake.
RACES_MAX = 100


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
    grid: Grid,
    scan: Scan,
    *,
    bridge_ts: float | None = None,
    file_mtime: float | None = None,
    latest: bool = True,
) -> int:
    """Append `scan` to the log, then make it the latest. `bridge_ts`, `file_mtime` are Unix seconds.

    latest : False for a scan of the past, which belongs into the log alone. Returns its sequence in the log.
    Raises PayloadRejected when the scan breaks its declaration, GridError.
    """
    payload = ScanPayload.from_scan(scan, bridge_ts=bridge_ts, file_mtime=file_mtime)
    data = _checked(SCAN, SCAN.map_template, SCAN.key_template, payload)
    sequence = grid.log(SCAN_LOG, SCAN_LOG_CAPACITY).append(data)
    if latest:
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


def supersedes(new: object, stored: object) -> bool:
    """Whether `new` may take the place of `stored`; payloads of one topic.

    A smaller fence never, a larger one always: it orders the writers themselves. Otherwise the source's own
    time decides, and its count where times are equal or unknown. A count that fell while time went on is a
    source that was restarted, and counts as newer.
    """
    if not isinstance(new, Payload) or not isinstance(stored, Payload):
        return True
    count, count_stored = new.source_sequence(), stored.source_sequence()
    if new.SEQUENCE == "fence" and count is not None and count_stored is not None and count != count_stored:
        return count > count_stored
    time_ns, stored_ns = new.source_ns(), stored.source_ns()
    if time_ns is not None and stored_ns is not None and time_ns != stored_ns:
        return time_ns > stored_ns
    return count is None or count_stored is None or count >= count_stored


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

    def put_newer(self, topic: Topic[P], payload: P, **parts: str) -> bool:
        """Write `payload` unless a newer one stands there (`supersedes`); False then.

        Repeating it changes nothing, so that it may be called again after GridUnreachable, which leaves open
        whether it was written. Raises what `put` raises.
        """
        map_name, key = topic.map_name(**parts), topic.key(**parts)
        data = _checked(topic, map_name, key, payload)
        target = self.grid.map(map_name)
        if not self._swap(topic, target, key, payload, data):
            return False
        for alias in topic.aliases:
            self._swap(topic, target, alias, payload, data)
        return True

    def _swap(self, topic: Topic[P], target: GridMap, key: str, payload: P, data: bytes) -> bool:
        for _ in range(RACES_MAX):
            stored = target.get(key)
            if stored == data:
                return True
            if stored is not None:
                try:
                    if not supersedes(payload, self._decode(topic, target.name, key, stored)):
                        return False
                except PayloadRejected:
                    pass  # counted; what does not validate protects nothing
            if target.compare_and_put(key, stored, data):
                return True
        raise GridError(
            f"{target.name}[{key!r}]: {RACES_MAX} writes were overtaken; one writer a key is the rule"
        )

    def put_reference(self, name: str, topic: Topic[P], payload: P) -> None:
        """Set the reference of that name to `payload`, declared by `topic`. Raises what `put` raises."""
        self.grid.atomic_reference(name).set(_checked(topic, name, REFERENCE_KEY, payload))

    def get_reference(self, name: str, topic: Topic[P]) -> P | None:
        """The payload of the reference, None when it was never set.

        Asks the grid. Raises PayloadRejected, counted, for one that does not validate.
        """
        data = self.grid.atomic_reference(name).get()
        return None if data is None else self._decode(topic, name, REFERENCE_KEY, data)

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
