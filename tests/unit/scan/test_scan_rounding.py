"""Rounding once, balls, and the small print of the columns and of the float64 path."""

from __future__ import annotations

import numpy as np
import pytest
from flint import arb
from test_scan_certificate import correlated
from test_scan_spectrum import blocks, exact, solver_of

from dolphin.domain.errors import InvariantError
from dolphin.domain.scan import OUTCOME_CLUSTERED, OUTCOME_OK, OUTCOME_ZERO_VARIANCE
from dolphin.scan import features, float_path, returns
from dolphin.scan.rounding import bounds, ends, round_ball, round_interval, settle_tie, working_precision
from dolphin.scan.solution import Ball, UnitVector

HALF = 2**53 + 1  # half-way between two float64


def around(number, denominator_bits=200):
    """An interval of width 2**-200 around an integer."""
    one = 1 << denominator_bits
    return number * one - 1, number * one + 1, one


def test_interval_rounds_only_when_all_of_it_agrees():
    assert round_interval(*around(2**53 + 2)) == 2.0**53 + 2
    assert round_interval(*around(HALF)) is None
    assert round_interval(HALF, HALF, 1) == 2.0**53


@pytest.mark.parametrize(("number", "even"), [(2**53 + 1, 2**53), (2**53 + 3, 2**53 + 4)])
def test_tie_goes_to_the_even_neighbour(number, even):
    assert settle_tie(*around(number)) == float(even)
    low, high, one = around(number)
    assert settle_tie(-high, -low, one) == -float(even)


def test_tie_is_not_settled_by_a_wide_interval():
    with pytest.raises(InvariantError, match="more than two"):
        settle_tie(2**53, 2**53 + 6, 1)


def test_ends_are_exact():
    with working_precision(300):
        ball = arb(arb(5) / 4, arb(2) ** -70)
    low, high, one = ends(ball)
    assert (low + high) * 4 == 5 * 2 * one
    assert 0 <= ((high - low) << 69) - one <= one >> 28  # a radius has 30 bits, rounded up
    assert bounds(ball, 3) == (9, 11)
    assert round_ball(arb(3)) == 3.0
    assert ends(arb(2) ** 80) == (2**80, 2**80, 1)


def test_ball_in_coarser_units_encloses():
    ball = Ball(1001, 3, 10)
    assert ball.at(12) == Ball(4004, 12, 12)
    coarse = ball.at(4)
    assert (coarse.mid - coarse.rad) << 6 <= 998
    assert (coarse.mid + coarse.rad) << 6 >= 1004


def test_vector_without_digits_or_balls_is_refused():
    with pytest.raises(ValueError, match="digits, integers or balls"):
        UnitVector(2, np.arange(2), -600).balls()


def test_component_that_is_a_tie_goes_to_the_even_neighbour():
    vector = UnitVector(2, np.arange(2), -600)
    with working_precision(700):
        tie = arb(1) + arb(2) ** -53
        vector._balls = [arb(-tie.mid(), arb(2) ** -600), arb(0, arb(2) ** -600)]
    assert features.loadings(vector) == (1.0, 0.0)


def test_angle_does_not_know_signs():
    vector = solver_of(correlated()).solve(0).vector
    mirrored = UnitVector(5, vector.active, vector.angle_exponent, -vector.hi, -vector.lo)
    with working_precision(700):
        mirrored._balls = [-x for x in vector.balls()]
    other = solver_of(correlated(seed=6)).solve(0).vector
    for full in (False, True):
        pairs = [features.angle(v, other, full=full) for v in (vector, mirrored)]
        assert features.rotation(pairs[0]) == features.rotation(pairs[1])
        assert pairs[1].cos > 0


def test_logarithm_asks_for_more_precision(monkeypatch):
    real, asked = returns.round_ball, []

    def blunt(ball):
        asked.append(ball)
        return real(ball) if len(asked) > 2 else None

    monkeypatch.setattr(returns, "round_ball", blunt)
    assert returns.correctly_rounded_log(1.0) == 0.0
    assert asked == []
    assert returns.correctly_rounded_log(1.25) == 0.22314355131420976
    assert [x.rel_accuracy_bits() > bits for x, bits in zip(asked, (120, 250, 500), strict=True)] == [
        True
    ] * 3


def test_table_constant_must_be_decided():
    with working_precision(400):
        tiny = arb(2) ** -300
        for tie in (arb(1) + arb(2) ** -53, arb(1) + arb(2) ** -60 * (1 + arb(2) ** -53)):
            with pytest.raises(ArithmeticError, match="straddles"):
                returns._split_constant(arb(tie.mid(), tiny))


# ---- float64 path


def test_float64_path_names_what_is_ambiguous():
    rng = np.random.default_rng(2)
    assert float_path.dominant(blocks(rng, 24, 6, 2)).outcome == OUTCOME_CLUSTERED
    live = exact(rng.standard_normal((20, 3)) * 1e-3)
    whole = float_path.dominant(live)
    assert whole.outcome == OUTCOME_OK
    padded = float_path.dominant(np.insert(live, 1, 0.5, axis=1))
    assert (padded.outcome, padded.zero_variance) == (OUTCOME_ZERO_VARIANCE, (1,))
    assert padded.lam == pytest.approx(whole.lam)
    assert padded.vector[1] == 0.0
    assert float_path.dominant(np.insert(live[:, :1], 0, 0.5, axis=1)).vector is None


def test_float64_ring_sees_its_window_after_it_wrapped():
    rows = exact(np.random.default_rng(3).standard_normal((50, 4)) * 1e-3)
    solver = float_path.FloatSolver(4, (5, 9))
    for t, row in enumerate(rows):
        solver.push(row)
        if t >= 9:
            for k, w in enumerate((5, 9)):
                assert solver.solve(k).lam == float_path.dominant(rows[t + 1 - w : t + 1]).lam
