"""Faults on command: what goes wrong, where, and how often.

`Faults.add(kind, ...)` from any thread; each applies to a stream, symbol or path pattern (fnmatch, `*` all)
for `count` times or until `clear`.

Kinds (value is in parentheses)
-------------------------------
On the way out of a WebSocket:
  silence    frames that match are swallowed, the socket stays open; stream "*" swallows acknowledgements too
             (value "no-pong": pings are not answered either)
  gap        depth differences are not sent: the chain of ids breaks
  duplicate  the message is sent twice
  reorder    the message is held and sent after the next one
  crossed    a bid above the best ask joins a depth difference; the next one takes it out again
  dark       every level of a depth difference has quantity 0
  garbage    one more frame goes out first (value: text, broken, binary, fields, nan or huge)
  stale      E and T lie `value` seconds back
On HTTP (the WebSocket's handshake is an HTTP request, too):
  status     `value` is answered instead (429, 418, 500, 503, ...), with Retry-After `retry_after_s`
  slow       the answer begins after `value` seconds
  trickle    the body comes in sixteen pieces over `value` seconds
  hang       no answer at all until the fault is cleared
  stale      times in the answer lie `value` seconds back; the book is the first that was asked for under it
  garbage    the body is no JSON (text), cut off (broken) or of other fields (fields)
At once, no count: `LoopbackExchange.disconnect(...)`, `.skew(seconds)`.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from threading import Lock
from typing import Any

from .meter import Meter

STREAM_KINDS = ("silence", "gap", "duplicate", "reorder", "crossed", "dark", "garbage", "stale")
HTTP_KINDS = ("status", "slow", "trickle", "hang", "stale", "garbage")
KINDS = tuple(dict.fromkeys(STREAM_KINDS + HTTP_KINDS))

GARBAGE = {
    "text": "this is no JSON",
    "broken": '{"e":"depthUpdate","E":17',
    "binary": b"\x00\xff\xfe\x80garbage",
    "fields": '{"e":"depthUpdate","q":[]}',
    "nan": '{"e":"depthUpdate","E":1,"T":1,"s":"BTCUSDT","U":1,"u":2,"pu":0,"b":[["NaN","x"]],"a":[["-1","1"]]}',  # noqa: E501
    "huge": '{"e":"huge","pad":"' + "x" * 1_000_000 + '"}',
}


@dataclass
class Fault:
    id: int
    kind: str
    stream: str = "*"
    symbol: str = "*"
    path: str = "*"
    count: int | None = None
    value: Any = None
    retry_after_s: int | None = None
    fired: int = 0

    @property
    def spent(self) -> bool:
        return self.count is not None and self.fired >= self.count


class Faults:
    """The faults in force. Safe from any thread."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._ids = itertools.count(1)
        self._lock = Lock()
        self._all: list[Fault] = []

    def add(
        self,
        kind: str,
        *,
        stream: str | None = None,
        symbol: str = "*",
        path: str | None = None,
        count: int | None = None,
        value: Any = None,
        retry_after_s: int | None = None,
    ) -> Fault:
        """Put a fault in force and return it. `path` makes it one of HTTP, `stream` one of WebSockets.

        Raises ValueError for an unknown kind. Kinds of both (stale, garbage) act on
        both where neither is given.
        """
        if kind not in KINDS:
            raise ValueError(f"fault kind {kind!r} is unknown, expected one of {', '.join(KINDS)}")
        if kind == "status" and not (isinstance(value, int) and 400 <= value <= 599):
            raise ValueError(f"a status fault has value {value!r}, expected an HTTP status of 400 to 599")
        fault = Fault(
            next(self._ids), kind,
            stream="" if stream is None and path is not None else (stream or "*").lower(),
            symbol=symbol.upper(),
            path="" if path is None and stream is not None else path or "*",
            count=count, value=value, retry_after_s=retry_after_s,
        )  # fmt: skip
        with self._lock:
            self._all = [*self._all, fault]
        return fault

    def clear(self, fault: Fault | int | None = None) -> None:
        """End one fault, or all."""
        with self._lock:
            if fault is None:
                self._all = []
            else:
                gone = fault if isinstance(fault, int) else fault.id
                self._all = [f for f in self._all if f.id != gone]

    @property
    def active(self) -> bool:
        return bool(self._all)

    def state(self) -> list[dict[str, Any]]:
        return [asdict(f) for f in self._all]

    def on_stream(self, kind: str, stream: str, symbol: str) -> Fault | None:
        """The first fault of that kind in force there, counted as fired."""
        for fault in self._all:
            if (
                fault.kind == kind
                and not fault.spent
                and fnmatchcase(stream.lower(), fault.stream)
                and fnmatchcase(symbol, fault.symbol)
            ):
                return self._fire(fault)
        return None

    def on_path(self, kind: str, path: str, symbol: str = "") -> Fault | None:
        for fault in self._all:
            if (
                fault.kind == kind
                and not fault.spent
                and fault.kind in HTTP_KINDS
                and fnmatchcase(path, fault.path)
                and (fault.symbol == "*" or fnmatchcase(symbol, fault.symbol))
            ):
                return self._fire(fault)
        return None

    def holds(self, fault: Fault) -> bool:
        return any(f.id == fault.id for f in self._all)

    def _fire(self, fault: Fault) -> Fault:
        fault.fired += 1
        self._meter.faults_fired[fault.kind] += 1
        self._meter.note()
        return fault
