"""Exact moments: equal to a recomputation in Python integers, bit for bit, at any length of run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_textbook import covariance, integers

from dolphin.domain.errors import DataError
from dolphin.kernel import plain
from dolphin.scan import moments as mo
from dolphin.scan.moments import Moments, covariance_digits, moments_update, principal_part, to_fixed
from dolphin.scan.oracle import FlintMoments, covariance_matrix, return_integer


def matrix_of(moments: Moments, k: int) -> list[list[int]]:
    n = moments.n_assets
    M, Mf = np.zeros((n, n, 5), np.int64), np.zeros((n, n))
    covariance_digits(moments.G[k], moments.g[k], int(moments.windows[k]), M, Mf)
    table = [[sum(int(d) << (53 * p) for p, d in enumerate(M[i, j])) for j in range(n)] for i in range(n)]
    for i in range(n):
        for j in range(n):
            assert Mf[i, j] == pytest.approx(table[i][j] / 2**212, rel=2.0**-50)
    return table


def bursts(rng, n_bars, n_assets):
    """Returns of very different sizes, some zero, some near the limits of the exact range."""
    r = rng.standard_normal((n_bars, n_assets)) * 10.0 ** rng.uniform(-9, -1, (n_bars, n_assets))
    r[rng.random(r.shape) < 0.1] = 0.0
    r[rng.random(r.shape) < 0.02] = 2.0**-53
    r[rng.random(r.shape) < 0.02] = -(1.0 - 2.0**-53)
    return np.round(np.clip(r, -(1 - 2.0**-53), 1 - 2.0**-53) * 2.0**106) / 2.0**106


def test_rolling_equals_recomputation():
    rng = np.random.default_rng(1)
    rows = bursts(rng, 400, 5)
    moments, flint = Moments(5, (4, 31)), FlintMoments(5, (4, 31))
    table = integers(rows.tolist())
    for t, row in enumerate(rows):
        moments.push(row)
        flint.push([return_integer(x) for x in row.tolist()])
        if t in (4, 31, 32, 200, 399):
            for k, w in enumerate((4, 31)):
                if t + 1 < w:
                    continue
                expected = covariance(table[t + 1 - w : t + 1])
                assert matrix_of(moments, k) == expected
                assert [[int(x) for x in line] for line in flint.matrix(k).tolist()] == expected
                assert [
                    [int(x) for x in r] for r in covariance_matrix(moments.window_rows(w)).tolist()
                ] == expected


@pytest.mark.long
def test_no_drift_after_100000_updates():
    rng = np.random.default_rng(5)
    rows = bursts(rng, 100_000, 6)
    moments = Moments(6, (50, 750))
    for row in rows:
        moments.push(row)
    for k, w in enumerate((50, 750)):
        assert matrix_of(moments, k) == covariance(integers(rows[-w:].tolist()))


def test_extreme_returns_do_not_overflow():
    limit = 1.0 - 2.0**-53
    moments = Moments(2, (750,))
    rows = np.array([[limit, limit if t % 2 else -limit] for t in range(760)])
    for row in rows:
        moments.push(row)
    assert matrix_of(moments, 0) == covariance(integers(rows[-750:].tolist()))
    same = Moments(2, (750,))
    for _ in range(760):
        same.push(np.array([limit, -limit]))
    assert matrix_of(same, 0) == [[0, 0], [0, 0]]


@given(st.floats(min_value=-1.0, max_value=1.0, exclude_min=True, exclude_max=True))
@settings(deadline=None)  # the first example may compile a kernel
def test_to_fixed_is_exact_or_refuses(r):
    h, low = np.zeros(1, np.int64), np.zeros(1, np.int64)
    bits = np.array([r]).view(np.int64)
    bad = to_fixed(bits, h, low)
    scaled = r * 2.0**106
    if bad:
        assert scaled != np.floor(scaled) or r == 0.0
    else:
        assert (int(h[0]) << 53) + int(low[0]) == int(scaled)
        assert abs(int(h[0])) < 2**53
        assert abs(int(low[0])) < 2**53
    g, m = np.zeros(1, np.int64), np.zeros(1, np.int64)
    assert plain(to_fixed)(bits, g, m) == bad
    assert (g[0], m[0]) == (h[0], low[0])


def test_plain_form_gives_the_same_bits():
    rng = np.random.default_rng(3)
    rows = bursts(rng, 12, 3)
    compiled, uncompiled = Moments(3, (3, 7)), Moments(3, (3, 7))
    for row in rows:
        compiled.push(row)
        slot = (uncompiled.slot + 1) % uncompiled.capacity
        assert plain(to_fixed)(row.view(np.int64), uncompiled.H[slot], uncompiled.L[slot]) == 0
        uncompiled.slot, uncompiled.n_returns = slot, uncompiled.n_returns + 1
        plain(moments_update)(
            uncompiled.G,
            uncompiled.g,
            uncompiled.H,
            uncompiled.L,
            slot,
            uncompiled.windows,
            uncompiled.n_returns,
        )
    assert np.array_equal(compiled.G, uncompiled.G)
    assert np.array_equal(compiled.g, uncompiled.g)
    A, Af, B, Bf = (
        np.zeros((3, 3, 5), np.int64),
        np.zeros((3, 3)),
        np.zeros((3, 3, 5), np.int64),
        np.zeros((3, 3)),
    )
    covariance_digits(compiled.G[1], compiled.g[1], 7, A, Af)
    plain(covariance_digits)(compiled.G[1], compiled.g[1], 7, B, Bf)
    assert np.array_equal(A, B)
    assert np.array_equal(Af.view(np.int64), Bf.view(np.int64))
    for form in (principal_part, plain(principal_part)):
        part, part_f = np.zeros((2, 2, 5), np.int64), np.zeros((2, 2))
        form(A, Af, np.array([0, 2]), part, part_f)
        assert np.array_equal(part, A[np.ix_([0, 2], [0, 2])])
        assert np.array_equal(part_f, Af[np.ix_([0, 2], [0, 2])])


@pytest.mark.parametrize("n", [0, mo.N_ASSETS_MAX + 1])
def test_universe_size_is_checked(n):
    with pytest.raises(DataError, match="1 to 400"):
        Moments(n)


def test_refuses_what_is_not_exact():
    moments = Moments(2, (3,))
    for bad in (1.0, -1.0, np.nan, np.inf, 2.0**-107, 5e-324):
        with pytest.raises(DataError, match="exact range"):
            moments.push(np.array([0.0, bad]))
    assert moments.n_returns == 0
    with pytest.raises(DataError, match="shape"):
        moments.push(np.zeros(3))
    with pytest.raises(DataError, match="not in the ring"):
        moments.window_rows(3)
    with pytest.raises(DataError, match="windows"):
        Moments(2, (751,))


def test_four_hundred_assets():
    rng = np.random.default_rng(8)
    moments = Moments(400, (3,))
    rows = bursts(rng, 5, 400)
    for row in rows:
        moments.push(row)
    M, Mf = np.zeros((400, 400, 5), np.int64), np.zeros((400, 400))
    covariance_digits(moments.G[0], moments.g[0], 3, M, Mf)
    table = integers(rows[-3:].tolist())
    for i, j in ((0, 0), (0, 399), (17, 250), (399, 399)):
        pair = covariance([[row[i], row[j]] for row in table])
        assert sum(int(d) << (53 * p) for p, d in enumerate(M[i, j])) == pair[0][1]
