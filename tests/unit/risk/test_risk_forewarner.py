"""The forewarner's rules on their boundaries, against the page's own sentences."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dolphin.domain.codes import APEX, MC_ABSENT, MC_OK, MC_ORANGE, MC_RED, MC_STATUSES
from dolphin.domain.params import GOLD
from dolphin.engine.engine import Engine
from dolphin.engine.state import FLOAT_NAMES
from dolphin.host.draws import draws
from dolphin.kernel import plain
from dolphin.risk.forewarner import (
    COLOURS,
    FALLBACK_ERROR,
    FALLBACK_NO_DATA,
    MC_SCALES,
    REAL_MODEL,
    fallback,
    forewarner_colour,
    forewarner_gate,
    verdict,
)


def up(x: float) -> float:
    return math.nextafter(x, math.inf)


def down(x: float) -> float:
    return math.nextafter(x, -math.inf)


@pytest.mark.parametrize(
    ("probability", "score", "gate"),
    [
        (0.0, 5.0, MC_OK),
        (0.10, 0.0, MC_OK),
        (up(0.10), 0.0, MC_ORANGE),
        (0.10, down(0.0), MC_ORANGE),
        (0.25, 0.0, MC_ORANGE),
        (up(0.25), 0.0, MC_RED),
        (0.0, -1.0, MC_ORANGE),
        (0.0, down(-1.0), MC_RED),
        (0.25, -1.0, MC_ORANGE),
        (1.0, 9.0, MC_RED),
        (0.0, -math.inf, MC_RED),
        (0.0, math.inf, MC_OK),
        (math.nan, 1.0, MC_RED),
        (0.0, math.nan, MC_RED),
    ],
)
def test_the_gate_on_its_boundaries(probability: float, score: float, gate: int) -> None:
    assert forewarner_gate(probability, score) == gate
    assert plain(forewarner_gate)(probability, score) == gate


@given(st.floats(0.0, 1.0), st.floats(-5.0, 5.0))
def test_the_gate_is_the_page_s_sentence(probability: float, score: float) -> None:
    red = probability > 0.25 or score < -1.0
    orange = score < 0 or probability > 0.10
    assert forewarner_gate(probability, score) == (MC_RED if red else MC_ORANGE if orange else MC_OK)


@pytest.mark.parametrize(
    ("probability", "colour"),
    [
        (0.0, "GREEN"),
        (down(0.10), "GREEN"),
        (0.10, "ORANGE"),
        (down(0.30), "ORANGE"),
        (0.30, "RED"),
        (1.0, "RED"),
        (math.nan, "RED"),
    ],
)
def test_people_s_colour_is_of_the_probability_alone(probability: float, colour: str) -> None:
    assert COLOURS[forewarner_colour(probability)] == colour
    assert COLOURS[plain(forewarner_colour)(probability)] == colour


def test_colour_and_gate_may_disagree() -> None:
    """At 0.10 people see ORANGE and the gate is open; between 0.25 and 0.30 the gate is shut first."""
    assert (verdict(0.10, 1.0, REAL_MODEL, 0).status, verdict(0.10, 1.0, REAL_MODEL, 0).gate) == (
        "ORANGE",
        "OK",
    )
    assert (verdict(0.27, 1.0, REAL_MODEL, 0).status, verdict(0.27, 1.0, REAL_MODEL, 0).gate) == (
        "ORANGE",
        "RED",
    )
    assert (verdict(0.0, -2.0, REAL_MODEL, 0).status, verdict(0.0, -2.0, REAL_MODEL, 0).gate) == (
        "GREEN",
        "RED",
    )


@pytest.mark.parametrize(
    ("status", "scale"), [(MC_OK, 1.0), (MC_ORANGE, 0.5), (MC_RED, 1.0), (MC_ABSENT, 1.0)]
)
def test_the_scale_is_the_engine_s(status: int, scale: float) -> None:
    """A day that begins at the status carries the factor into the regime's lane."""
    engine = Engine(GOLD, ("BTCUSDT",), draws(GOLD.seed, 1), host=plain)
    engine.begin_day("2024-03-01", APEX, GOLD.direction, boost=1.3, beta=0.8, mc_status=status)
    slots = dict(zip(FLOAT_NAMES, engine._s.floats.tolist(), strict=True))
    assert slots["mc_scale"] == MC_SCALES[status] == scale


@pytest.mark.parametrize("source", [FALLBACK_NO_DATA, FALLBACK_ERROR])
def test_a_fallback_is_orange_and_always_the_same(source: str) -> None:
    said = fallback(source, 7)
    assert (said.status, said.gate, said.code) == ("ORANGE", "ORANGE", MC_ORANGE)
    assert (said.catastrophic_prob, said.envelope_score) == (0.20, 0.80)
    assert (said.source, said.timestamp_ns) == (source, 7)
    assert MC_STATUSES[said.code] == said.gate
