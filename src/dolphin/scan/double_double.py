"""Double-double arithmetic: an unevaluated sum `hi + lo` of two float64, about 106 bits.

Only + - * / sqrt in the order written, so the compiled and the plain form agree to the last bit.

1. Every function returns a normalised pair: `hi` is the float64 nearest to `hi + lo`.
2. Without overflow and underflow the relative error of each operation is below 2**-100 (Joldes, Muller and
   Popescu 2017 prove 3 to 15 units of 2**-106 for these forms; the callers' bounds keep three more bits).
   `add` of operands with opposite signs is the exception that the accurate form below removes.

References: Dekker (1971); Knuth, TAOCP 2, 4.2.2; Joldes, Muller, Popescu, ACM TOMS 44 (2017).
"""

from __future__ import annotations

import math
from typing import TypeAlias

from dolphin.kernel import kernel

DoubleDouble: TypeAlias = tuple[float, float]

_SPLITTER = 134217729.0  # 2**27 + 1


@kernel
def two_sum(a: float, b: float) -> DoubleDouble:
    """a + b exactly, as a normalised pair."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@kernel
def fast_two_sum(a: float, b: float) -> DoubleDouble:
    """a + b exactly, as a normalised pair; needs |a| >= |b| or a == 0."""
    s = a + b
    return s, b - (s - a)


@kernel
def two_prod(a: float, b: float) -> DoubleDouble:
    """a * b exactly, as a normalised pair; needs |a|, |b| < 2**996 and no underflow of the low part."""
    p = a * b
    t = _SPLITTER * a
    ah = t - (t - a)
    al = a - ah
    t = _SPLITTER * b
    bh = t - (t - b)
    bl = b - bh
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


@kernel
def dd_add(ah: float, al: float, bh: float, bl: float) -> DoubleDouble:
    """(ah + al) + (bh + bl), relative error below 2**-103 for any signs."""
    sh, sl = two_sum(ah, bh)
    th, tl = two_sum(al, bl)
    sh, sl = fast_two_sum(sh, sl + th)
    return fast_two_sum(sh, sl + tl)


@kernel
def dd_mul(ah: float, al: float, bh: float, bl: float) -> DoubleDouble:
    """(ah + al) * (bh + bl), relative error below 2**-102."""
    p, e = two_prod(ah, bh)
    return fast_two_sum(p, e + (ah * bl + al * bh))


@kernel
def dd_div(ah: float, al: float, bh: float, bl: float) -> DoubleDouble:
    """(ah + al) / (bh + bl), relative error below 2**-101; needs bh != 0."""
    q = ah / bh
    p, e = dd_mul(q, 0.0, bh, bl)
    rh, rl = dd_add(ah, al, -p, -e)
    return fast_two_sum(q, (rh + rl) / bh)


@kernel
def dd_sqrt(ah: float, al: float) -> DoubleDouble:
    """Square root of ah + al >= 0, relative error below 2**-101."""
    if not (ah > 0.0):
        return 0.0, 0.0
    s = math.sqrt(ah)
    p, e = two_prod(s, s)
    return fast_two_sum(s, (((ah - p) - e) + al) / (2.0 * s))
