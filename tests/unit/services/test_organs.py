"""What the trader believes of its organs: near views, the reference that wins, age, the default."""

from __future__ import annotations

import pytest

from dolphin.domain import codes
from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.payloads import AcbBoost, SafetyPayload
from dolphin.grid.topics import ACB_BOOST, SAFETY, SAFETY_REFERENCE, encode
from dolphin.grid.typed import TypedGrid
from dolphin.host.inputs import NEUTRAL
from dolphin.services.organs import Organs

NOW = 1_767_571_200 * NS_PER_S


def safety(posture: str, at_ns: int = NOW) -> SafetyPayload:
    return SafetyPayload(posture=posture, rm=0.8, updated_at=iso_from_ns(at_ns))  # type: ignore[arg-type]


def test_without_a_grid_every_organ_is_neutral() -> None:
    assert Organs(None, codes.APEX).inputs(NOW) == NEUTRAL
    assert Organs(None, codes.HIBERNATE).inputs(NOW).posture == codes.HIBERNATE


@pytest.mark.parametrize(
    ("reference_age_s", "expected"), [(0, codes.TURTLE), (-5, codes.TURTLE), (5, codes.STALKER)]
)
def test_the_reference_wins_unless_the_map_is_newer(reference_age_s: int, expected: int) -> None:
    with InProcessGrid() as grid:
        grid.atomic_reference(SAFETY_REFERENCE).set(
            encode(safety("TURTLE", NOW - reference_age_s * NS_PER_S))
        )
        TypedGrid(grid).put(SAFETY, safety("STALKER"))
        organs = Organs(TypedGrid(grid), codes.APEX)
        assert organs.inputs(None).posture == expected


def test_the_reference_alone_is_enough_and_is_read_again_after_a_reconnect() -> None:
    with InProcessGrid() as grid:
        reference = grid.atomic_reference(SAFETY_REFERENCE)
        reference.set(encode(safety("STALKER")))
        organs = Organs(TypedGrid(grid), codes.APEX)
        assert organs.inputs(NOW).posture == codes.STALKER
        grid.drop_connection()
        peer = grid.peer()
        peer.atomic_reference(SAFETY_REFERENCE).set(encode(safety("HIBERNATE", NOW + 1)))
        grid.restore_connection()
        assert organs.inputs(NOW + 1).posture == codes.HIBERNATE
        peer.close()


def test_a_reference_that_does_not_validate_is_counted_and_not_believed() -> None:
    with InProcessGrid() as grid:
        grid.atomic_reference(SAFETY_REFERENCE).set(b'{"posture": "SLEEPY"}')
        typed = TypedGrid(grid)
        assert Organs(typed, codes.APEX).inputs(NOW).posture == codes.APEX
        assert typed.rejections.total == 1


@pytest.mark.parametrize(
    ("age_s", "expected"), [(30, codes.STALKER), (31, codes.HIBERNATE), (-1, codes.HIBERNATE)]
)
def test_a_posture_once_read_and_too_old_is_hibernate(age_s: int, expected: int) -> None:
    with InProcessGrid() as grid:
        organs = Organs(TypedGrid(grid), codes.APEX)
        TypedGrid(grid).put(SAFETY, safety("STALKER"))
        assert organs.inputs(NOW + age_s * NS_PER_S).posture == expected


def test_the_breaker_comes_from_its_near_view() -> None:
    with InProcessGrid() as grid:
        organs = Organs(TypedGrid(grid), codes.APEX)
        update = AcbBoost(boost=1.35, beta=0.8, signals=1.0, day="2026-01-05", updated_at=iso_from_ns(NOW))
        TypedGrid(grid).put(ACB_BOOST, update)
        inputs = organs.inputs(NOW)
        assert (inputs.boost, inputs.beta, inputs.posture) == (1.35, 0.8, codes.APEX)
