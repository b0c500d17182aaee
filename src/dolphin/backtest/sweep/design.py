"""A plan's points: grids, random and Sobol designs, and which of them keep the rules between parameters.

Entry points: `points`, `enumerated`, `binding`.

1. The same plan gives the same points, on every machine: draws are raw 64-bit words of PCG64, Sobol numbers
   are integers, and values are rounded to ten significant digits.
2. A combination that breaks a rule is kept with its position and the rule; nothing is dropped silently.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dolphin.backtest.sweep.plan import DIGITS, Axis, Plan
from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.errors import ConfigError
from dolphin.domain.params import ParameterSet

_BITS: Final = 52
#: Primitive polynomial and first direction numbers of each dimension: Joe and Kuo (2008), Constructing Sobol
#: sequences with better two-dimensional projections, SIAM J. Sci. Comput. 30(5), their file new-joe-kuo-6.
_SOBOL: Final[tuple[tuple[int, tuple[int, ...]], ...]] = (
    (1, (1,)), (3, (1,)), (7, (1, 3,)), (11, (1, 3, 1,)), (13, (1, 1, 1,)), (19, (1, 1, 3, 3,)),
    (25, (1, 3, 5, 13,)), (37, (1, 1, 5, 5, 17,)), (41, (1, 1, 5, 5, 5,)), (47, (1, 1, 7, 11, 19,)),
    (55, (1, 1, 5, 1, 1,)), (59, (1, 1, 1, 3, 11,)), (61, (1, 3, 5, 5, 31,)), (67, (1, 3, 3, 9, 7, 49,)),
    (91, (1, 1, 1, 15, 21, 21,)), (97, (1, 3, 1, 13, 27, 49,)), (103, (1, 1, 1, 15, 7, 5,)),
    (109, (1, 3, 1, 15, 13, 25,)), (115, (1, 1, 5, 5, 19, 61,)), (131, (1, 3, 7, 11, 23, 15, 103,)),
    (137, (1, 3, 7, 13, 13, 15, 69,)), (143, (1, 1, 3, 13, 7, 35, 63,)), (145, (1, 3, 5, 9, 1, 25, 53,)),
    (157, (1, 3, 1, 13, 9, 35, 107,)), (167, (1, 3, 1, 5, 27, 61, 31,)), (171, (1, 1, 5, 11, 19, 41, 61,)),
    (185, (1, 3, 5, 3, 3, 13, 69,)), (191, (1, 1, 7, 13, 1, 19, 1,)), (193, (1, 3, 7, 5, 13, 19, 59,)),
    (203, (1, 1, 3, 9, 25, 29, 41,)), (211, (1, 3, 5, 13, 23, 1, 55,)), (213, (1, 3, 7, 3, 13, 59, 17,)),
    (229, (1, 3, 1, 3, 5, 53, 69,)), (239, (1, 1, 5, 5, 23, 33, 13,)), (241, (1, 1, 7, 7, 1, 61, 123,)),
    (247, (1, 1, 7, 9, 13, 61, 49,)), (253, (1, 3, 3, 5, 3, 55, 33,)),
    (285, (1, 3, 1, 15, 31, 13, 49, 245,)), (299, (1, 3, 5, 15, 31, 59, 63, 97,)),
    (301, (1, 3, 1, 11, 11, 11, 77, 249,)),
)  # fmt: skip
DIMENSIONS_MAX: Final = len(_SOBOL)


def points(plan: Plan) -> FloatArray:
    """Every point of the design, shape (plan.size, n_axes): values of the axes, ratios where they are linked.

    A grid goes through its last axis fastest.
    """
    if plan.design == "grid":
        sizes = [len(axis.values) for axis in plan.axes]
        place = np.unravel_index(np.arange(plan.size), sizes)
        return np.stack([np.array(a.values, np.float64)[k] for a, k in zip(plan.axes, place, strict=True)], 1)
    unit = sobol(plan.n, len(plan.axes), plan.seed) if plan.design == "sobol" else uniform(plan)
    return np.stack([_values(axis, unit[:, k]) for k, axis in enumerate(plan.axes)], axis=1)


def uniform(plan: Plan) -> FloatArray:
    """Independent draws in [0, 1), shape (n, n_axes)."""
    words = np.random.PCG64(plan.seed).random_raw(plan.n * len(plan.axes))
    return np.asarray((words >> np.uint64(11)) * 2.0**-53).reshape(plan.n, len(plan.axes))


def sobol(n: int, dimensions: int, seed: int) -> FloatArray:
    """The first n points of the Sobol sequence in [0, 1), shape (n, dimensions), shifted by the seed.

    Every dimension is XORed with one random word, which keeps the sequence's evenness and takes away its
    point at the corner. Most even where n is a power of two.

    References
    ----------
    Sobol (1967); Joe and Kuo (2008); Gray-code order of Antonov and Saleev (1979). Twin: scipy's `Sobol`.
    """
    if dimensions > DIMENSIONS_MAX:
        raise ConfigError(
            f"{dimensions} parameters, a sobol design has room for {DIMENSIONS_MAX}; use random"
        )
    shift = np.random.PCG64(seed).random_raw(dimensions) >> np.uint64(64 - _BITS)
    out = np.empty((n, dimensions))
    counter = np.arange(n, dtype=np.uint64)
    gray = counter ^ (counter >> np.uint64(1))
    for k in range(dimensions):
        word = np.full(n, shift[k], np.uint64)
        for bit, direction in enumerate(_directions(*_SOBOL[k])):
            if not n >> bit:
                break
            word ^= ((gray >> np.uint64(bit)) & np.uint64(1)) * np.uint64(direction)
        out[:, k] = word * 2.0**-_BITS
    return out


def _directions(polynomial: int, first: tuple[int, ...]) -> list[int]:
    """Direction numbers of one dimension, the leading bit first."""
    degree = polynomial.bit_length() - 1
    m = [1] * _BITS if degree == 0 else list(first)
    for k in range(len(m), _BITS):
        new = m[k - degree] ^ (m[k - degree] << degree)
        for j in range(1, degree):
            if polynomial >> (degree - j) & 1:
                new ^= m[k - j] << j
        m.append(new)
    return [value << (_BITS - 1 - k) for k, value in enumerate(m)]


def _values(axis: Axis, unit: FloatArray) -> FloatArray:
    """Draws in [0, 1) as values of the axis."""
    if axis.values:
        return np.array(axis.values, np.float64)[(unit * len(axis.values)).astype(np.int64)]
    whole = axis.kind is int and not axis.ratio_of
    low, high = axis.low, axis.high + (1.0 if whole else 0.0)
    if axis.log:
        if low < 0.0:
            mirrored = Axis(name=axis.name, low=-axis.high, high=-axis.low, log=True, ratio_of=axis.ratio_of)
            return -_values(mirrored, 1.0 - unit)
        found = [math.exp(math.log(low) + u * (math.log(high) - math.log(low))) for u in unit.tolist()]
    else:
        found = (low + unit * (high - low)).tolist()
    if whole:
        return np.array([min(int(axis.high), math.floor(rounded(v))) for v in found], np.float64)
    return np.array([min(axis.high, max(axis.low, rounded(v))) for v in found])


def rounded(value: float) -> float:
    """The value with ten significant digits."""
    return float(f"{value:.{DIGITS}g}")


def binding(plan: Plan, base: ParameterSet, point: FloatArray) -> ParameterSet:
    """The parameter set at a point. Raises ConfigError where the combination breaks a rule."""
    values: dict[str, Any] = {}
    for axis, value in zip(plan.axes, point.tolist(), strict=True):
        if not axis.ratio_of:
            values[axis.name] = axis.kind(value)
    for axis, value in zip(plan.axes, point.tolist(), strict=True):
        if axis.ratio_of:
            other = values[axis.ratio_of] if axis.ratio_of in values else getattr(base, axis.ratio_of)
            values[axis.name] = rounded(value * other)
    return base.with_values(values)


@dataclass(frozen=True, slots=True)
class Refused:
    """A combination that breaks a rule between parameters."""

    design_index: int
    rule: str
    told: str


@dataclass(frozen=True, slots=True, eq=False)
class Enumerated:
    """A design after the rules: points (n, n_axes), positions of those that run, the others with reasons."""

    points: FloatArray
    runs: IntArray
    refused: tuple[Refused, ...]

    def by_rule(self) -> list[dict[str, Any]]:
        """How many combinations each rule refused, the most frequent first, with one example."""
        counts = Counter(r.rule for r in self.refused)
        example = {r.rule: r.told for r in reversed(self.refused)}
        return [{"rule": rule, "count": n, "example": example[rule]} for rule, n in counts.most_common()]


_NUMBER: Final = re.compile(r" ?-?\b\d[\d.e+-]*$")


def enumerated(plan: Plan) -> Enumerated:
    """The design, with every combination judged by `ParameterSet`'s own rules.

    Raises ConfigError when none is left.
    """
    found = points(plan)
    base = plan.base_set
    runs, refused = [], []
    for k, point in enumerate(found):
        try:
            binding(plan, base, point)
        except ConfigError as error:
            told = str(error)
            name = told.removeprefix("parameter ").partition(" ")[0]
            rule = _NUMBER.sub("", told.partition(", expected ")[2])
            refused.append(Refused(k, f"{name}: {rule}", told))
        else:
            runs.append(k)
    if not runs:
        raise ConfigError(
            f"none of {len(found):,} combinations keeps the rules; the first: {refused[0].told}; change the"
            " ranges, or link the two with ratio_of"
        )
    return Enumerated(found, np.array(runs, np.int64), tuple(refused))
