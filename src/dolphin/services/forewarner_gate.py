"""The forewarner as hosts take it: a day's gate from an assessor or from the grid, and its publication.

Entry points: `ForewarnerGate` (a host's own models), `status_of` (a payload of the grid),
`mc_status_by_day` (for whole periods), `publish_verdict` and `due` (every 4 h, by whoever runs it).

Invariants
----------
1. The gate of a day is a pure function of the assessor, the parameter set and the breaker's boost, so that a
   run, its replay and a backtest begin a day alike. It decides at begin_day and nowhere else.
2. A host's own models win over the grid's payload; with neither the status is ABSENT.
3. A published verdict that the host finds too old no longer opens the gate: an OK counts ORANGE. It is never
   loosened by silence; RED stays RED.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.domain.codes import MC_ABSENT, MC_OK, MC_ORANGE, MC_STATUSES
from dolphin.domain.params import ParameterSet
from dolphin.grid.near_view import Reading
from dolphin.grid.payloads import ForewarnerPayload
from dolphin.grid.topics import ACB_BOOST, FOREWARNER
from dolphin.grid.typed import TypedGrid
from dolphin.risk.forewarner import Verdict, forewarner_gate

PUBLISH_EVERY_NS: Final = 4 * 3600 * NS_PER_S
#: From this age on the survival stack lets a verdict decay; a day then does not begin at OK either.
VERDICT_AGE_MAX_NS: Final = 6 * 3600 * NS_PER_S

NO_FOREWARNER: Final = "No forewarner is wired: its lane is 1.0 and its gate says ABSENT."


class Assessor(Protocol):
    """Who gives verdicts; `dolphin.research.forewarner.artefact.Forewarner` is one.

    identity changes with the answers; why is empty, or one line on a fallback.
    """

    @property
    def identity(self) -> str:
        """What decides the answers, for a run's folder."""
        ...

    @property
    def why(self) -> str:
        """Why the last answer was a fallback; empty when it was not."""
        ...

    def assess(self, params: ParameterSet, boost: float, timestamp_ns: int) -> Verdict:
        """The verdict on a set at a boost; raises nothing."""
        ...


class ForewarnerGate:
    """The gate of one parameter set; it remembers its last answer and no other."""

    def __init__(self, assessor: Assessor, params: ParameterSet) -> None:
        self._assessor = assessor
        self._params = params
        self._day: str | None = None
        self._boost = math.nan
        self._code = MC_ABSENT

    def status(self, boost: float, day: str | None = None) -> int:
        """Code of the gate at a boost of the breaker, dimensionless.

        day is the UTC date of the bar: within a day the code is that of its first bar, whatever the boost
        does, so that models run between two days only. None asks for this boost's own code.
        """
        if day is not None and day == self._day:
            return self._code
        if boost != self._boost:
            self._code = self._assessor.assess(self._params, boost, 0).code
            self._boost = boost
        self._day = day
        return self._code


def status_of(reading: Reading[ForewarnerPayload] | None, now_ns: int | None) -> int:
    """Gate code of the grid's verdict; ABSENT when there never was one.

    A payload without a gate, of an older writer, gets the rule's. now_ns is the host's clock, None in
    replays, where nothing ages.
    """
    if reading is None:
        return MC_ABSENT
    payload = reading.payload
    code = (
        forewarner_gate(payload.catastrophic_prob, payload.envelope_score)
        if payload.gate is None
        else MC_STATUSES.index(payload.gate)
    )
    if code == MC_OK and now_ns is not None and not reading.fresh(now_ns, VERDICT_AGE_MAX_NS):
        return MC_ORANGE
    return code


def mc_status_by_day(
    assessor: Assessor | None,
    params: ParameterSet,
    days: Sequence[str],
    boost_by_day: FloatArray | Sequence[float] | None = None,
) -> IntArray:
    """Gate codes of days, int64 (n_days,), for the hosts that decide whole periods.

    boost_by_day is the breaker's boost at the beginning of each day, (n_days,); None means 1.0. Without an
    assessor every day is ABSENT. The same codes as a run's, whose days begin with the same boosts.
    """
    if assessor is None:
        return np.full(len(days), MC_ABSENT, dtype=np.int64)
    boosts = [1.0] * len(days) if boost_by_day is None else [float(boost) for boost in boost_by_day]
    found = {boost: assessor.assess(params, boost, 0).code for boost in dict.fromkeys(boosts)}
    return np.array([found[boost] for _, boost in zip(days, boosts, strict=True)], dtype=np.int64)


def payload_of(verdict: Verdict) -> ForewarnerPayload:
    """The verdict as the grid has it."""
    return ForewarnerPayload(
        status=verdict.status,  # type: ignore[arg-type]
        gate=verdict.gate,  # type: ignore[arg-type]
        catastrophic_prob=verdict.catastrophic_prob,
        envelope_score=verdict.envelope_score,
        source=verdict.source,  # type: ignore[arg-type]
        timestamp=iso_from_ns(verdict.timestamp_ns),
    )


def due(last_ns: int | None, now_ns: int) -> bool:
    """True when a verdict is to be published: there is none yet, or the last is 4 h old (ns UTC)."""
    return last_ns is None or now_ns - last_ns >= PUBLISH_EVERY_NS


def publish_verdict(
    grid: TypedGrid, assessor: Assessor, params: ParameterSet, now_ns: int
) -> ForewarnerPayload:
    """Assess with the breaker's boost as the grid has it, 1.0 without one, and publish; the payload.

    now_ns is the caller's clock and stamps the verdict. Raises GridError when the grid is away, and
    PayloadRejected for a breaker's payload that does not validate.
    """
    breaker = grid.get(ACB_BOOST)
    boost = 1.0 if breaker is None else breaker.boost
    payload = payload_of(assessor.assess(params, boost, now_ns))
    grid.put(FOREWARNER, payload)
    return payload
