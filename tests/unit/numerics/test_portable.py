"""log1p, exp and clamp: against 128-bit ball arithmetic, and the same bits plain and compiled."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import numpy as np
import pytest
from flint import arb, ctx
from hypothesis import given, settings
from hypothesis import strategies as st

from dolphin.kernel import kernel, plain
from dolphin.numerics.portable import clamp, exp, log1p

#: The largest error met on the samples below: log1p 0.714 ulp, exp 0.818 ulp; fdlibm promises below 1.
ULP_MAX = 0.85


@kernel
def log1p_all(values: np.ndarray, out: np.ndarray) -> None:
    for i in range(values.shape[0]):
        out[i] = log1p(values[i])


@kernel
def exp_all(values: np.ndarray, out: np.ndarray) -> None:
    for i in range(values.shape[0]):
        out[i] = exp(values[i])


def samples_log1p() -> np.ndarray:
    rng = np.random.default_rng(1)
    size = 10.0 ** rng.uniform(-320, 308, 4000)
    near_minus_one = -1.0 + 10.0 ** rng.uniform(-16, 0, 2000)
    around = np.concatenate([rng.uniform(-0.35, 0.5, 4000), rng.uniform(0.0, 12.0, 4000)])
    edges = [-0.2928932188134524, 0.41421356237309503, 1.0, 3.0, 9007199254740992.0, 1.862645149230957e-09]
    steps = np.array([np.nextafter(e, to) for e in edges for to in (-np.inf, np.inf)])
    return np.concatenate([size, -size[size < 1.0], near_minus_one, around, edges, steps])


def samples_exp() -> np.ndarray:
    rng = np.random.default_rng(2)
    size = 10.0 ** rng.uniform(-320, 2.8, 3000)
    half = np.arange(-1000, 1000) * (math.log(2.0) / 2.0)
    edges = [0.34657359027997264, -0.34657359027997264, 3.725290298461914e-09, 709.782712893384, -708.3]
    steps = np.array([np.nextafter(e, to) for e in edges for to in (-np.inf, 0.0)])
    values = np.concatenate([size, -size, half, rng.uniform(-30.0, 30.0, 4000), edges, steps])
    return values[(values <= 709.782712893384) & (values > -708.39)]


def ulp_error(got: float, true: arb) -> float:
    """|got - true| in units of the last place of the float64 nearest to `true`."""
    nearest = float(true.mid())
    return float(abs((arb(got) - true).mid())) / math.ulp(nearest)


@pytest.mark.parametrize(
    ("function", "truth", "values"),
    [
        (log1p, lambda x: arb(x).log1p(), samples_log1p()),
        (exp, lambda x: arb(x).exp(), samples_exp()),
    ],
    ids=["log1p", "exp"],
)
def test_error_stays_below_one_ulp(
    function: Callable[[float], float], truth: Callable[[float], arb], values: np.ndarray
) -> None:
    before = ctx.prec
    ctx.prec = 128
    try:
        worst = max((ulp_error(function(x), truth(x)), x) for x in values.tolist() if x != 0.0)
    finally:
        ctx.prec = before
    assert worst[0] < ULP_MAX, worst


@pytest.mark.parametrize(
    ("batch", "single", "values"),
    [(log1p_all, log1p, samples_log1p()), (exp_all, exp, samples_exp())],
    ids=["log1p", "exp"],
)
def test_plain_and_compiled_give_the_same_bits(
    batch: Callable[..., None], single: Callable[[float], float], values: np.ndarray
) -> None:
    values = np.concatenate(
        [values, [0.0, -0.0, -1.0, -2.0, math.inf, -math.inf, math.nan, -745.2, -740.0, 710.0]]
    )
    compiled, slow = np.empty_like(values), np.empty_like(values)
    batch(values, compiled)
    readable = plain(single)
    for i, x in enumerate(values.tolist()):
        slow[i] = readable(x)
    assert compiled.tobytes() == slow.tobytes()


def test_log1p_at_its_ends() -> None:
    assert log1p(-1.0) == -math.inf
    assert math.isnan(log1p(math.nextafter(-1.0, -2.0)))
    assert math.isnan(log1p(-math.inf))
    assert math.isnan(log1p(math.nan))
    assert log1p(math.inf) == math.inf
    assert log1p(0.0) == 0.0
    assert math.isfinite(log1p(math.nextafter(math.inf, 0.0)))


def test_log1p_keeps_a_tiny_argument() -> None:
    assert log1p(1e-300) == 1e-300
    assert log1p(-1e-300) == -1e-300
    assert log1p(1e-9) == 1e-9 - 5e-19


def test_exp_at_its_ends() -> None:
    assert exp(709.782712893384) == math.exp(709.782712893384)
    assert exp(math.nextafter(709.782712893384, 800.0)) == math.inf
    assert exp(math.inf) == math.inf
    assert exp(-745.1332191019411) == 5e-324
    assert exp(math.nextafter(-745.1332191019411, -800.0)) == 0.0
    assert exp(-math.inf) == 0.0
    assert math.isnan(exp(math.nan))
    assert exp(0.0) == 1.0
    assert exp(-0.0) == 1.0
    assert exp(1e-10) == 1.0 + 1e-10


def test_exp_of_a_subnormal_result_is_near() -> None:
    assert exp(-740.0) == pytest.approx(math.exp(-740.0), rel=1e-2)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(-1.0, 1e300), st.floats(0.0, 1e-3))
def test_log1p_never_falls(x: float, more: float) -> None:
    assert log1p(x) <= log1p(x + abs(x) * more)


def test_clamp_at_its_bounds() -> None:
    assert [clamp(x, -1.0, 2.0) for x in (-1.1, -1.0, -0.9, 1.9, 2.0, 2.1)] == [
        -1.0,
        -1.0,
        -0.9,
        1.9,
        2.0,
        2.0,
    ]
    assert math.isnan(clamp(math.nan, 0.0, 1.0))
    assert struct.pack("<d", clamp(-0.0, 0.0, 1.0)) == struct.pack("<d", min(max(-0.0, 0.0), 1.0))
