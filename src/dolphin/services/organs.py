"""The organs' latest words as the trader takes them: near views of the grid, never a blocking call a bar.

Posture: the reference `DOLPHIN_SAFETY` wins over the map where it is not older. It is read when the trader
starts and when the grid reconnects; in between listeners feed the map's view. A posture once read and older
than 30 s counts as HIBERNATE; one that was never read is the host's default. Forewarner: the host's own
models where it has them, asked on the first bar of a day, else the map's verdict. Esoteric factors: 1.0 and
`absent` as long as no producer was ever heard, the haircut of its score afterwards; a score that is null or
older than 15 minutes is `stale`.

An organ's last word is not forgotten when the grid is: a key that has gone (a grid lost whole), and a restart
of the trader (`remembered`, from its journal), leave it in force with the age that it has. A lost memory must
not open a door.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from msgspec import UNSET

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.codes import ESOF_ABSENT, ESOF_OK, ESOF_STALE, HIBERNATE, posture_code
from dolphin.grid.near_view import NearView, Reading
from dolphin.grid.payloads import (
    AcbBoost,
    EsofPayload,
    ForewarnerPayload,
    Payload,
    PayloadRejected,
    SafetyPayload,
)
from dolphin.grid.port import ConnectionEvent, ConnectionState, GridError
from dolphin.grid.topics import ACB_BOOST, ESOF, FOREWARNER, SAFETY, SAFETY_REFERENCE, Topic, encode
from dolphin.grid.typed import TypedGrid
from dolphin.host.inputs import HostInputs
from dolphin.risk.esoteric import STALE_AFTER_S, STALE_MULT, esof_mult
from dolphin.services.forewarner_gate import ForewarnerGate, status_of

SAFETY_AGE_MAX_NS = 30_000_000_000
#: A score that claims to be further in the future is not believed: clocks of a system differ by less.
ESOF_AHEAD_MAX_S = 60.0

P = TypeVar("P", bound=Payload)

#: What of a payload changes a decision: a new stamp alone is no news for the journal.
_SUBSTANCE: dict[str, tuple[str, ...]] = {
    "SAFETY": ("posture", "rm"),
    "ACB_BOOST": ("boost", "beta", "signals", "day", "fence", "missing"),
    "FOREWARNER": ("status", "gate", "catastrophic_prob", "envelope_score", "source"),
    "ESOF": ("score",),
}
_TOPICS: dict[str, Topic[Any]] = {
    "SAFETY": SAFETY,
    "ACB_BOOST": ACB_BOOST,
    "FOREWARNER": FOREWARNER,
    "ESOF": ESOF,
}


class _Organ(Generic[P]):
    """A near view that does not forget."""

    def __init__(self, grid: TypedGrid, topic: Topic[P], remembered: bytes | None) -> None:
        self._view = NearView(grid.grid, topic, grid.rejections)
        self._last: Reading[P] | None = None
        if remembered is not None:
            try:
                payload = topic.decode(topic.map_name(), topic.key(), remembered)
            except PayloadRejected as rejection:
                grid.rejections.add(rejection)
            else:
                self._last = Reading(payload, payload.source_ns(), 0, topic.key())

    def read(self) -> Reading[P] | None:
        """The grid's word, else the last one that was heard."""
        reading = self._view.read()
        # A verdict that a drill has planted is the watchdog's business: nothing is traded on it.
        if reading is not None and getattr(reading.payload, "drill_until", UNSET) is UNSET:
            self._last = reading
        return self._last

    def close(self) -> None:
        self._view.close()


class Organs:
    """Reads `HostInputs` for one bar; without a grid every organ is neutral.

    remembered are the organs' last words as a journal keeps them, by source (`changes`).
    """

    def __init__(
        self,
        grid: TypedGrid | None,
        posture_when_unknown: int,
        gate: ForewarnerGate | None = None,
        remembered: Mapping[str, bytes] | None = None,
    ) -> None:
        self._unknown = posture_when_unknown
        self._gate = gate
        self._grid = grid
        self._reference: SafetyPayload | None = None
        self._told: dict[str, tuple[Any, ...]] = {}
        self._safety: _Organ[SafetyPayload] | None = None
        self._breaker: _Organ[AcbBoost] | None = None
        self._forewarner: _Organ[ForewarnerPayload] | None = None
        self._esof: _Organ[EsofPayload] | None = None
        if grid is None:
            return
        known = remembered or {}
        for source, data in known.items():
            if source in _TOPICS:
                # One that no longer validates is no word at all: the next one is news. `_Organ` counts it.
                with contextlib.suppress(PayloadRejected):
                    self._told[source] = _substance(source, _TOPICS[source].decode(source, source, data))
        self._safety = _Organ(grid, SAFETY, known.get("SAFETY"))
        self._breaker = _Organ(grid, ACB_BOOST, known.get("ACB_BOOST"))
        self._forewarner = _Organ(grid, FOREWARNER, known.get("FOREWARNER"))
        self._esof = _Organ(grid, ESOF, known.get("ESOF"))
        self.refresh()
        self._connection = grid.grid.on_connection(self._on_connection)

    def close(self) -> None:
        """Stop listening."""
        for organ in (self._safety, self._breaker, self._forewarner, self._esof):
            if organ is not None:
                organ.close()
        if self._grid is not None:
            self._connection.close()

    def inputs(self, now_ns: int | None, day: str | None = None) -> HostInputs:
        """The bar's inputs; now_ns is the host's clock, None in replays, where nothing ages.

        day is the UTC date of the bar; with it the host's own forewarner is asked once a day, for begin_day
        is all that takes its word. None: it is asked whenever the boost moved.
        """
        reading = None if self._breaker is None else self._breaker.read()
        boost, beta = (1.0, 0.0) if reading is None else (reading.payload.boost, reading.payload.beta)
        haircut, label = haircut_of(None if self._esof is None else self._esof.read(), now_ns)
        return HostInputs(
            posture=self._posture(now_ns),
            boost=boost,
            beta=beta,
            mc_status=self._mc_status(boost, now_ns, day),
            esof_mult=haircut,
            esof_label=label,
        )

    def changes(self) -> list[tuple[str, bytes]]:
        """(source, payload) of the organs whose word changed in substance since the last call."""
        found: list[tuple[str, bytes]] = []
        for source, payload in self._payloads().items():
            substance = _substance(source, payload)
            if self._told.get(source) != substance:
                self._told[source] = substance
                found.append((source, encode(payload)))
        return found

    def refill(self) -> None:
        """Tell a grid that came back empty the organs' last words, with their own stamps; what the grid has
        again by then stays. Raises GridError.
        """
        if self._grid is None:
            return
        for source, payload in self._payloads().items():
            topic = _TOPICS[source]
            if self._grid.grid.map(topic.map_name()).get(topic.key()) is None:
                self._grid.put(topic, payload)

    def _payloads(self) -> dict[str, Any]:
        readings: dict[str, Reading[Any] | None] = {
            "SAFETY": self._safety_reading(),
            "ACB_BOOST": None if self._breaker is None else self._breaker.read(),
            "FOREWARNER": None if self._forewarner is None else self._forewarner.read(),
            "ESOF": None if self._esof is None else self._esof.read(),
        }
        return {source: reading.payload for source, reading in readings.items() if reading is not None}

    def _mc_status(self, boost: float, now_ns: int | None, day: str | None) -> int:
        if self._gate is not None:
            return self._gate.status(boost, day)
        return status_of(None if self._forewarner is None else self._forewarner.read(), now_ns)

    def _safety_reading(self) -> Reading[SafetyPayload] | None:
        reading = None if self._safety is None else self._safety.read()
        reference = self._reference
        if reference is not None and (reading is None or _newer(reference, reading)):
            return Reading(reference, reference.source_ns(), 0, SAFETY_REFERENCE)
        return reading

    def _posture(self, now_ns: int | None) -> int:
        reading = self._safety_reading()
        if reading is None:
            return self._unknown
        if now_ns is not None and not reading.fresh(now_ns, SAFETY_AGE_MAX_NS):
            return HIBERNATE
        return posture_code(reading.payload.posture)

    def refresh(self) -> None:
        """Read the reference again. Asks the grid: between bars only; a grid that is away changes nothing."""
        if self._grid is None:
            return
        try:
            data = self._grid.grid.atomic_reference(SAFETY_REFERENCE).get()
            if data is not None:
                self._reference = SAFETY.decode(SAFETY_REFERENCE, "latest", data)
        except PayloadRejected as rejection:
            self._grid.rejections.add(rejection)
        except GridError:
            return

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event.state is ConnectionState.CONNECTED:
            self.refresh()


def haircut_of(reading: Reading[EsofPayload] | None, now_ns: int | None) -> tuple[float, str]:
    """(multiplier of the esoteric lane, what it comes from); now_ns None: nothing ages."""
    if reading is None:
        return 1.0, ESOF_ABSENT
    age_ns = 0 if now_ns is None else reading.age_ns(now_ns)
    score = reading.payload.score
    if score is None or age_ns is None or not -ESOF_AHEAD_MAX_S <= age_ns / NS_PER_S <= STALE_AFTER_S:
        return STALE_MULT, ESOF_STALE
    return float(esof_mult(score, age_ns / NS_PER_S)), ESOF_OK


def _substance(source: str, payload: Any) -> tuple[Any, ...]:
    return tuple(getattr(payload, name) for name in _SUBSTANCE[source])


def _newer(reference: SafetyPayload, reading: Reading[SafetyPayload]) -> bool:
    """At the same instant the reference wins."""
    stamp = reference.source_ns()
    return stamp is not None and (reading.source_ns is None or stamp >= reading.source_ns)
