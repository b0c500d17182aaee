"""What a window's solver hands over, whichever path solved it.

1. `Ball` holds lambda_max with at least 512 relative bits; `UnitVector` holds the unit eigenvector v, or its
   place is None when the spectrum is clustered.
2. Two solvers may hand over different digits; both enclose the same true pair, and only its rounding is
   published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from flint import arb

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.scan.digits import FRACTION_BITS
from dolphin.scan.moments import RADIX_BITS
from dolphin.scan.rounding import working_precision

#: Precision of the ball arithmetic on eigenvectors.
VECTOR_BITS = 700


class Ball(NamedTuple):
    """The interval [mid - rad, mid + rad] * 2**-bits, all Python integers, rad >= 0."""

    mid: int
    rad: int
    bits: int

    def at(self, bits: int) -> Ball:
        """The same interval, or one that encloses it, in units of 2**-bits."""
        shift = bits - self.bits
        if shift >= 0:
            return Ball(self.mid << shift, self.rad << shift, bits)
        return Ball(self.mid >> -shift, (self.rad >> -shift) + 2, bits)

    def certifies(self, relative_bits: int) -> bool:
        """Whether the middle is within 2**-relative_bits of every number in the interval, relative to it."""
        return self.rad << relative_bits <= self.mid - self.rad


@dataclass(slots=True)
class UnitVector:
    """A certified unit eigenvector over all assets.

    hi, lo : double-doubles, shape (n_assets,), with relative error below 2**-92 per component, or None.
    active : indices of the assets with variance (the others have component 0), shape (n_active,).
    digits : (U, diagonal, n_used) as `dolphin.scan.spectrum.unit_vector` has them, or None.
    integers : (u, diag(M)) of the active assets with v_i = u_i sqrt(M_ii) before norming, or None.
    angle_exponent : the true vector is within an angle of sine < 2**angle_exponent.
    """

    n_assets: int
    active: IntArray
    angle_exponent: int
    hi: FloatArray | None = None
    lo: FloatArray | None = None
    digits: tuple[IntArray, IntArray, int] | None = None
    integers: tuple[list[int], list[int]] | None = None
    _balls: list[arb] = field(default_factory=list)

    def balls(self) -> list[arb]:
        """One ball per asset that encloses the component of the true unit vector (up to one common sign)."""
        if not self._balls:
            if self.integers is not None:
                u, diagonal = self.integers
            elif self.digits is not None:
                u = [_integer(x) for x in self.digits[0].tolist()]
                diagonal = [_integer(m[: self.digits[2]]) for m in self.digits[1].tolist()]
            else:
                raise ValueError("a unit vector needs digits, integers or balls")
            with working_precision(VECTOR_BITS):
                raw = [arb(x) * arb(m).sqrt() for x, m in zip(u, diagonal, strict=True)]
                self._balls = _enclose(raw, self.active.tolist(), self.n_assets, self.angle_exponent)
        return self._balls


def _integer(digits: list[int]) -> int:
    value = 0
    for digit in reversed(digits):
        value = (value << RADIX_BITS) + digit
    return value


def _enclose(raw: list[arb], active: list[int], n_assets: int, angle_exponent: int) -> list[arb]:
    """Normalise `raw` (one ball per active asset), widen by the angle, spread over all assets.

    The true vector is cos(a) v + sin(a) w with a unit w orthogonal to v, so that each component moves by at
    most sin(a) + 1 - cos(a) <= 2 sin(a).
    """
    norm = sum((x * x for x in raw), arb(0)).sqrt()
    slack = arb(0, arb(2) ** (angle_exponent + 1))
    balls = [arb(0)] * n_assets
    for i, x in zip(active, raw, strict=True):
        balls[i] = x / norm + slack
    return balls


@dataclass(frozen=True, slots=True)
class WindowSolution:
    """One window's certified answer. `lam` is dimensionless in [1, n_assets]."""

    outcome: str
    lam: Ball
    vector: UnitVector | None
    zero_variance: tuple[int, ...] = ()


def digits_ball(digits: IntArray, radius_exponent: int) -> Ball:
    """lambda from its radix digits, radius 2**radius_exponent."""
    extra = 60  # the radius is below one unit of 2**-583 on a good day: leave room for it
    rad = 1 << max(radius_exponent + FRACTION_BITS + extra, 0)
    return Ball(_integer(digits.tolist()) << extra, rad, FRACTION_BITS + extra)


def identity_solution(
    n_assets: int, zero_variance: tuple[int, ...], clustered: str, ok: str
) -> WindowSolution:
    """C = I: lambda_max is exactly 1, n_assets-fold. With one asset it is simple and its vector is (1)."""
    lam = Ball(1, 0, 0)
    if n_assets > 1:
        return WindowSolution(clustered, lam, None, zero_variance)
    one = UnitVector(1, np.zeros(1, np.int64), -VECTOR_BITS, np.ones(1), np.zeros(1))
    one._balls = [arb(1)]
    return WindowSolution(ok, lam, one, zero_variance)
