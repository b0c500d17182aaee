"""Rounding a certified interval once, to the nearest float64 (Ziv's test), in exact integer arithmetic.

1. A published value is the float64 nearest to the true number, ties to even. It does not depend on the
   interval that enclosed the number, hence not on the path, the precision or the history.
2. Python's integer division is correctly rounded for integers of any size; `float(arb)` is not used for
   decisions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from flint import arb, ctx

from dolphin.domain.errors import InvariantError


@contextmanager
def working_precision(bits: int) -> Iterator[None]:
    """Run the block with `bits` of ball arithmetic and restore the former precision.

    The precision belongs to the process, not to the thread: no other thread may do ball arithmetic meanwhile.
    """
    former = ctx.prec
    ctx.prec = bits
    try:
        yield
    finally:
        ctx.prec = former


def round_interval(low: int, high: int, denominator: int) -> float | None:
    """Nearest float64 of every number in [low, high] / denominator, or None when they round differently.

    low <= high, denominator > 0, all Python integers.
    """
    a = low / denominator
    return a if low == high or a == high / denominator else None


def settle_tie(low: int, high: int, denominator: int) -> float:
    """Round an interval of full precision that still straddles a rounding boundary: the number is that
    boundary.

    Only a number that is itself half-way between two float64 (a 54-bit rational) comes here; it goes to the
    even neighbour. Raises InvariantError when the interval is wider than one spacing.
    """
    a, b = low / denominator, high / denominator
    if math.nextafter(a, b) != b:
        raise InvariantError("a certified interval spans more than two float64 at full precision")
    mantissa, _ = math.frexp(a)
    return a if int(mantissa * 9007199254740992.0) % 2 == 0 else b


def ends(ball: arb) -> tuple[int, int, int]:
    """The exact ends of a finite ball as integers (low, high, denominator), denominator a power of two.

    The ends come from the exact midpoint and radius, since `arb.lower` rounds to the working precision.
    """
    m, e = (int(x) for x in ball.mid().man_exp())
    r, f = (int(x) for x in ball.rad().man_exp())
    if not r:
        f = e
    least = min(e, f, 0)
    mid, rad = m << (e - least), r << (f - least)
    return mid - rad, mid + rad, 1 << -least


def bounds(ball: arb, fraction_bits: int) -> tuple[int, int]:
    """Integers (low, high) with low <= ball * 2**fraction_bits <= high, both within one unit of the ball's
    ends.
    """
    low, high, one = ends(ball)
    return (low << fraction_bits) // one, -((-high << fraction_bits) // one)


def round_ball(ball: arb) -> float | None:
    """Nearest float64 of every number in the ball, or None when they round differently."""
    return round_interval(*ends(ball))
