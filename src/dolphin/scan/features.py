"""The published columns of a scan from two consecutive certified solutions of a window.

1. velocity, rotation, instability and the loadings are correctly rounded float64 of the true numbers: each
   function returns None where the precision at hand does not decide the rounding, and the caller raises the
   precision.
2. Zero is published when an interval of full precision contains it. `final` = True says that no higher
   precision will follow: a number that still straddles a rounding boundary is that boundary.
3. `vel_div` and `instability_composite` are float64 arithmetic on the published columns, in the order
   written.
4. The sign of an eigenvector is arbitrary and changes nothing: rotation and instability use |cos|, the
   loadings have a sum >= 0 (and, where the sum is zero, a positive first non-zero component).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from flint import arb

from dolphin.domain.clock import NS_PER_S
from dolphin.scan.rounding import bounds, ends, round_ball, round_interval, settle_tie, working_precision
from dolphin.scan.solution import VECTOR_BITS, Ball, UnitVector
from dolphin.scan.spectrum import angle_parts, rounding_failures

#: Absolute error of `angle_parts`, with a bit to spare for its use in balls.
_ANGLE_ERROR_BITS = 87
_FAST_BITS = 200
_ZERO = arb(0)


class Angle(NamedTuple):
    """Balls of |cos| and sin of the angle between two eigenvectors; `full` when they have full precision."""

    cos: arb
    sin: arb
    full: bool


def lambda_max(lam: Ball, *, final: bool) -> float | None:
    """Nearest float64 of lambda_max (dimensionless)."""
    low, high, one = lam.mid - lam.rad, lam.mid + lam.rad, 1 << lam.bits
    value = round_interval(low, high, one)
    return settle_tie(low, high, one) if value is None and final else value


def velocity(lam: Ball, previous: Ball, dt_ns: int, *, final: bool) -> float | None:
    """Nearest float64 of (lambda_t - lambda_{t-1}) / dt in 1/s, dt_ns > 0 exact."""
    bits = max(lam.bits, previous.bits)
    a, b = lam.at(bits), previous.at(bits)
    mid, rad = a.mid - b.mid, a.rad + b.rad
    low, high, one = (mid - rad) * NS_PER_S, (mid + rad) * NS_PER_S, dt_ns << bits
    if low <= 0 <= high:
        return 0.0
    value = round_interval(low, high, one)
    return settle_tie(low, high, one) if value is None and final else value


def angle(v: UnitVector, p: UnitVector, *, full: bool) -> Angle:
    """The angle between two unit eigenvectors, from double-doubles, or from balls where asked for or
    needed.
    """
    if not full and v.hi is not None and v.lo is not None and p.hi is not None and p.lo is not None:
        ch, cl, sh, sl = angle_parts(v.hi, v.lo, p.hi, p.lo)
        with working_precision(_FAST_BITS):
            error = arb(0, 2.0**-_ANGLE_ERROR_BITS)
            return Angle(arb(ch) + arb(cl) + error, arb(sh) + arb(sl) + error, False)
    with working_precision(VECTOR_BITS):
        a, b = v.balls(), p.balls()
        cos = sum((x * y for x, y in zip(a, b, strict=True)), _ZERO)
        rest = [x - cos * y for x, y in zip(a, b, strict=True)]
        square = sum((x * x for x in rest), _ZERO)
        return Angle(abs(cos), square.nonnegative_part().sqrt(), True)


def rotation(between: Angle) -> float | None:
    """Nearest float64 of the angle in radians, in [0, pi/2]."""
    if not between.sin > 0:
        return 0.0 if between.full else None
    with working_precision(VECTOR_BITS if between.full else _FAST_BITS):
        return round_ball(arb.atan2(between.sin, between.cos))


def instability(lam: Ball, previous: Ball, between: Angle) -> float | None:
    """Nearest float64 of sqrt((l - l')^2 + 2 l l' sin^2) / l', dimensionless.

    That is sqrt(l^2 + l'^2 - 2 l l' cos^2) / l' without its cancellation.
    """
    work = VECTOR_BITS if between.full else _FAST_BITS
    bits = max(lam.bits, previous.bits)
    a, b = lam.at(bits), previous.at(bits)
    difference = Ball(abs(a.mid - b.mid), a.rad + b.rad, bits)
    d_low, d_high = _ends(difference, work)
    a_low, a_high = _ends(a, work)
    b_low, b_high = _ends(b, work)
    s_low, s_high = bounds(between.sin, work)
    d_low, s_low = max(d_low, 0), max(s_low, 0)
    low = math.isqrt(((d_low * d_low) << (2 * work)) + 2 * a_low * b_low * s_low * s_low)
    high = math.isqrt(((d_high * d_high) << (2 * work)) + 2 * a_high * b_high * s_high * s_high) + 1
    if low == 0:
        return 0.0 if between.full else None
    value = low / (b_high << work)
    return value if value == high / (b_low << work) else None


def _ends(ball: Ball, bits: int) -> tuple[int, int]:
    shift = ball.bits - bits
    low, high = ball.mid - ball.rad, ball.mid + ball.rad
    if shift <= 0:
        return low << -shift, high << -shift
    return low >> shift, -((-high) >> shift)


def composite(values: tuple[float | None, ...]) -> float | None:
    """Root mean square of the published instabilities, float64 in their order; None when one is ambiguous."""
    total = 0.0
    for x in values:
        if x is None:
            return None
        total = total + x * x
    return math.sqrt(total / len(values))


def loadings(v: UnitVector) -> tuple[float, ...] | None:
    """Nearest float64 of the components of the unit eigenvector, sum >= 0; None when full precision is too
    low.
    """
    if v.hi is not None and v.lo is not None:
        whole = len(v.active) == v.n_assets
        failures, total = rounding_failures(
            v.hi if whole else v.hi[v.active], v.lo if whole else v.lo[v.active]
        )
        if failures == 0 and abs(total) > 1e-9:
            return tuple((v.hi if total > 0.0 else 0.0 - v.hi).tolist())
    with working_precision(VECTOR_BITS):
        balls = v.balls()
        total_ball = sum(balls, _ZERO)
        if total_ball < 0 or (
            total_ball.contains(0) and next((x < 0 for x in balls if not x.contains(0)), False)
        ):
            balls = [-x for x in balls]
        result = []
        for x in balls:
            value = 0.0 if x.contains(0) else round_ball(x)
            if value is None:
                value = settle_tie(*ends(x))
            result.append(value)
        return tuple(result)
