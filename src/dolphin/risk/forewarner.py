"""The forewarner's rules: what a probability and an envelope score mean for a day (spec 05, section 3).

Entry points: `forewarner_gate` decides, `forewarner_colour` is for people, `MC_SCALES` has the lane's
factors, `verdict` puts them together. The models that give the two numbers live in
`dolphin.research.forewarner`.

Invariants
----------
1. A number that is not finite never opens the gate: NaN gives RED and the red colour.
2. Without models nothing is made up: a fallback has the fixed values below, and an absent forewarner is no
   verdict at all but the status ABSENT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dolphin.domain.codes import MC_ABSENT, MC_OK, MC_ORANGE, MC_RED, MC_STATUSES
from dolphin.kernel import kernel

GREEN: Final = 0
ORANGE: Final = 1
RED: Final = 2
COLOURS: Final = ("GREEN", "ORANGE", "RED")

REAL_MODEL: Final = "REAL_MODEL"
FALLBACK_NO_DATA: Final = "FALLBACK_NO_DATA"
FALLBACK_ERROR: Final = "FALLBACK_ERROR"
SOURCES: Final = (REAL_MODEL, FALLBACK_NO_DATA, FALLBACK_ERROR)

#: Both fallbacks answer with these two numbers; by the gate's rule they are ORANGE.
FALLBACK_PROBABILITY: Final = 0.20
FALLBACK_SCORE: Final = 0.80

#: Factor of the circuit-breaker lane for each gate code. RED scales nothing: it forbids the day's entries
#: instead. ABSENT is neutral.
MC_SCALES: Final = {MC_OK: 1.0, MC_ORANGE: 0.5, MC_RED: 1.0, MC_ABSENT: 1.0}


@kernel
def forewarner_gate(catastrophic_prob: float, envelope_score: float) -> int:
    """Gate code (MC_OK, MC_ORANGE, MC_RED) of a day.

    Parameters
    ----------
    catastrophic_prob : float
        Calibrated probability of a catastrophe, 0 to 1.
    envelope_score : float
        Dimensionless, positive inside the envelope of good trials; -1 is their 1 % quantile.

    Returns
    -------
    int
        RED when the probability is above 0.25 or the score below -1.0; ORANGE when the score is below 0 or
        the probability above 0.10; else OK. The boundaries themselves belong to the milder side; NaN is RED.

    References
    ----------
    Spec 05, section 3, "Gate at begin_day".
    """
    if not (catastrophic_prob <= 0.25 and envelope_score >= -1.0):
        return MC_RED
    if not (envelope_score >= 0.0 and catastrophic_prob <= 0.10):
        return MC_ORANGE
    return MC_OK


@kernel
def forewarner_colour(catastrophic_prob: float) -> int:
    """Index into COLOURS, by the probability alone: GREEN < 0.10 <= ORANGE < 0.30 <= RED; NaN is RED.

    For people; what a day may do is `forewarner_gate`'s to say.
    """
    if catastrophic_prob < 0.10:
        return GREEN
    if catastrophic_prob < 0.30:
        return ORANGE
    return RED


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the forewarner says of one configuration.

    status is the colour for people (COLOURS), gate the word that decides (OK, ORANGE, RED); source is one of
    SOURCES. timestamp_ns is the caller's own, nanoseconds UTC. The score is dimensionless.
    """

    status: str
    gate: str
    catastrophic_prob: float
    envelope_score: float
    source: str
    timestamp_ns: int

    @property
    def code(self) -> int:
        """The gate as the code that begin_day takes."""
        return MC_STATUSES.index(self.gate)


def verdict(catastrophic_prob: float, envelope_score: float, source: str, timestamp_ns: int) -> Verdict:
    """The verdict of two numbers by the rules above; units as in `forewarner_gate`."""
    return Verdict(
        status=COLOURS[forewarner_colour(catastrophic_prob)],
        gate=MC_STATUSES[forewarner_gate(catastrophic_prob, envelope_score)],
        catastrophic_prob=catastrophic_prob,
        envelope_score=envelope_score,
        source=source,
        timestamp_ns=timestamp_ns,
    )


def fallback(source: str, timestamp_ns: int) -> Verdict:
    """The fixed verdict of a forewarner that cannot answer: ORANGE, 0.20, 0.80; never random."""
    return verdict(FALLBACK_PROBABILITY, FALLBACK_SCORE, source, timestamp_ns)
