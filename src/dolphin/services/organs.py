"""The organs' latest words as the trader takes them: near views of the grid, never a blocking call a bar.

Posture: the reference `DOLPHIN_SAFETY` wins over the map where it is not older. It is read when the trader
starts and when the grid reconnects; in between listeners feed the map's view. A posture once read and older
than 30 s counts as HIBERNATE; one that was never read is the host's default. Forewarner: the host's own
models where it has them, asked on the first bar of a day, else the map's verdict.
"""

from __future__ import annotations

from dolphin.domain.codes import HIBERNATE, posture_code
from dolphin.grid.near_view import NearView, Reading
from dolphin.grid.payloads import PayloadRejected, SafetyPayload
from dolphin.grid.port import ConnectionEvent, ConnectionState, GridError
from dolphin.grid.topics import ACB_BOOST, FOREWARNER, SAFETY, SAFETY_REFERENCE
from dolphin.grid.typed import TypedGrid
from dolphin.host.inputs import HostInputs
from dolphin.services.forewarner_gate import ForewarnerGate, status_of

SAFETY_AGE_MAX_NS = 30_000_000_000


class Organs:
    """Reads `HostInputs` for one bar; without a grid every organ is neutral."""

    def __init__(
        self, grid: TypedGrid | None, posture_when_unknown: int, gate: ForewarnerGate | None = None
    ) -> None:
        self._unknown = posture_when_unknown
        self._gate = gate
        self._grid = grid
        self._reference: SafetyPayload | None = None
        if grid is None:
            self._safety = self._breaker = self._forewarner = None
            return
        self._safety = NearView(grid.grid, SAFETY, grid.rejections)
        self._breaker = NearView(grid.grid, ACB_BOOST, grid.rejections)
        self._forewarner = NearView(grid.grid, FOREWARNER, grid.rejections)
        self._read_reference()
        grid.grid.on_connection(self._on_connection)

    def inputs(self, now_ns: int | None, day: str | None = None) -> HostInputs:
        """The bar's inputs; now_ns is the host's clock, None in replays, where nothing ages.

        day is the UTC date of the bar; with it the host's own forewarner is asked once a day, for begin_day
        is all that takes its word. None: it is asked whenever the boost moved.
        """
        reading = None if self._breaker is None else self._breaker.read()
        boost, beta = (1.0, 0.0) if reading is None else (reading.payload.boost, reading.payload.beta)
        return HostInputs(
            posture=self._posture(now_ns),
            boost=boost,
            beta=beta,
            mc_status=self._mc_status(boost, now_ns, day),
        )

    def _mc_status(self, boost: float, now_ns: int | None, day: str | None) -> int:
        if self._gate is not None:
            return self._gate.status(boost, day)
        return status_of(None if self._forewarner is None else self._forewarner.read(), now_ns)

    def _posture(self, now_ns: int | None) -> int:
        reading = None if self._safety is None else self._safety.read()
        reference = self._reference
        if reference is not None and (reading is None or _newer(reference, reading)):
            reading = Reading(reference, reference.source_ns(), 0, SAFETY_REFERENCE)
        if reading is None:
            return self._unknown
        if now_ns is not None and not reading.fresh(now_ns, SAFETY_AGE_MAX_NS):
            return HIBERNATE
        return posture_code(reading.payload.posture)

    def _read_reference(self) -> None:
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
            self._read_reference()


def _newer(reference: SafetyPayload, reading: Reading[SafetyPayload]) -> bool:
    """At the same instant the reference wins."""
    stamp = reference.source_ns()
    return stamp is not None and (reading.source_ns is None or stamp >= reading.source_ns)
