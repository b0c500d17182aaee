"""Certified spectra: fast path against the oracle and against all eigenvalues by `acb_mat.eig`."""

from __future__ import annotations

import numpy as np
import pytest
from flint import arb, ctx, fmpz_mat
from scan_textbook import covariance, dominant, integers, largest_eigenvalue, loadings

from dolphin.domain.errors import InvariantError
from dolphin.domain.scan import OUTCOME_CLUSTERED, OUTCOME_OK, OUTCOME_ZERO_VARIANCE
from dolphin.kernel import MODE, plain
from dolphin.scan import dense, double_double, features, oracle, spectrum
from dolphin.scan.fast import FastSolver
from dolphin.scan.moments import Moments

GRID = 2.0**106


def exact(r):
    """Returns on the grid of exact ones."""
    return np.clip(np.round(r * GRID) / GRID, -0.99, 0.99)


def blocks(rng, n_bars, n_assets, count):
    """`count` identical independent blocks: lambda_max is exactly `count`-fold."""
    size, h = n_assets // count, n_bars // (2 * count)
    A = np.round((rng.standard_normal((h, size)) + 2 * rng.standard_normal((h, 1))) * 1e-3 * 2**30) / 2**30
    R = np.zeros((n_bars, size * count))
    for b in range(count):
        R[2 * b * h : (2 * b + 1) * h, size * b : size * (b + 1)] = A
        R[(2 * b + 1) * h : (2 * b + 2) * h, size * b : size * (b + 1)] = -A
    return R


def family(kind, n_bars, n_assets, seed=3):
    rng = np.random.default_rng(seed)
    E = rng.standard_normal((n_bars, n_assets))
    if kind == "iid":
        return exact(E * 1e-3)
    if kind == "market":
        return exact((E + rng.uniform(0.2, 3, n_assets) * rng.standard_normal((n_bars, 1))) * 1e-3)
    if kind == "volratio":
        return exact(E * 10.0 ** rng.uniform(-6, -1.5, n_assets))
    if kind == "volhuge":
        return exact(E * 10.0 ** rng.uniform(-14, -1.5, n_assets))
    if kind == "voltiny":
        r = exact(E * 1e-3)
        r[:, 0] = 0.0
        r[0, 0] = 2.0**-106
        r[:, 1] = np.sign(r[:, 1]) * 0.9
        return r
    if kind == "signs":
        s = np.sign(rng.standard_normal(n_assets))
        return exact((E + 2 * s * rng.standard_normal((n_bars, 1))) * 1e-3)
    if kind == "twoblock":
        half = np.arange(n_assets) < n_assets // 2
        f = rng.standard_normal((n_bars, 2))
        return exact((E + 3 * (f[:, :1] * half + f[:, 1:] * ~half)) * 1e-3)
    if kind == "duplicate":
        E[:, 1] = E[:, 0]
        return exact((E + rng.standard_normal((n_bars, 1))) * 1e-3)
    if kind == "all_equal":
        return exact(np.repeat(E[:, :1], n_assets, axis=1) * 1e-3)
    if kind == "heavy":
        return exact(np.clip(rng.standard_t(3, E.shape) * 1e-3, -0.9, 0.9))
    if kind == "ticks":
        p = np.round(100 * np.exp(np.cumsum(E * 1e-4, axis=0)), 2)
        return exact(np.vstack([np.log(p[0] / 100), np.log(p[1:] / p[:-1])]))
    if kind == "nearrank1":
        return exact((rng.standard_normal((n_bars, 1)) + 1e-6 * E) * 1e-3)
    if kind == "zero":
        E[:, 3] = 0.0
        return exact((E + rng.standard_normal((n_bars, 1)) * (E != 0)) * 1e-3)
    if kind == "two_blocks_exact":
        return blocks(rng, n_bars, n_assets, 2)
    if kind == "three_blocks_exact":
        return blocks(rng, n_bars, n_assets, 3)
    raise AssertionError(kind)


def solver_of(returns):
    solver = FastSolver(returns.shape[1], (len(returns),))
    for row in returns:
        solver.push(row)
    return solver


def published(solution):
    lam = features.lambda_max(solution.lam, final=True)
    weights = None if solution.vector is None else features.loadings(solution.vector)
    return solution.outcome, lam, weights, solution.zero_variance


def certified_bits(ball):
    return ball.mid.bit_length() - max(ball.rad, 1).bit_length() if ball.rad else 10**6


def as_arb(ball):
    return arb(arb(ball.mid), arb(ball.rad)) * arb(2) ** -ball.bits


REGULAR = (
    "iid",
    "market",
    "volratio",
    "volhuge",
    "voltiny",
    "signs",
    "twoblock",
    "heavy",
    "ticks",
    "nearrank1",
)


@pytest.mark.parametrize("n_bars", [24, 60])
@pytest.mark.parametrize("kind", REGULAR)
def test_regular_families(kind, n_bars):
    returns = family(kind, n_bars, 16)
    solver = solver_of(returns)
    fast, slow = solver.solve(0), solver.slow(0)
    assert published(fast) == published(slow)
    assert fast.outcome == OUTCOME_OK
    lam, vector = dominant(returns.tolist())
    for solution in (fast, slow):
        assert certified_bits(solution.lam) >= 512
        assert solution.vector.angle_exponent <= -512
        ctx.prec = 900
        assert as_arb(solution.lam).overlaps(lam)
        weights = loadings(vector)
        assert published(solution)[2] == weights
    ctx.prec = 53


@pytest.mark.parametrize("kind", ["duplicate", "all_equal"])
def test_rank_deficient_families(kind):
    returns = family(kind, 60, 12)
    solver = solver_of(returns)
    fast = solver.solve(0)
    assert published(fast) == published(solver.slow(0))
    assert fast.outcome == OUTCOME_OK
    if kind == "all_equal":
        assert published(fast)[1] == 12.0
    else:
        reference = largest_eigenvalue(covariance(integers(returns.tolist())))
        assert as_arb(fast.lam).overlaps(reference)
    ctx.prec = 53


def test_zero_variance_asset_is_named_and_removed():
    returns = family("zero", 60, 10)
    solver = solver_of(returns)
    for _ in range(2):  # cold and warm start
        fast = solver.solve(0)
        assert published(fast) == published(solver.slow(0))
        assert fast.outcome == OUTCOME_ZERO_VARIANCE
        assert fast.zero_variance == (3,)
        alive = [i for i in range(10) if i != 3]
        lam, vector = dominant(returns[:, alive].tolist())
        weights = published(fast)[2]
        assert weights[3] == 0.0
        assert tuple(weights[i] for i in alive) == loadings(vector)
        assert as_arb(fast.lam).overlaps(lam)
        ctx.prec = 53


def test_idle_assets_stay_on_the_kernels(monkeypatch):
    """A pegged asset, flat in the short window only, and one that never moves: no window needs the oracle."""
    rng = np.random.default_rng(12)
    returns = np.insert(family("market", 60, 9), 4, 0.0, axis=1)
    returns[:, 7] = 0.0
    returns[5:45:4, 7] = rng.choice([-1e-4, 1e-4], 10)
    solver = FastSolver(10, (12, 40))
    asked = []
    oracle_answer = solver.slow
    monkeypatch.setattr(solver, "slow", lambda k: asked.append(k))
    named = []
    for t, row in enumerate(returns):
        solver.push(exact(row))
        if t >= 40:
            pair = [solver.solve(k) for k in range(2)]
            named.append(tuple(s.zero_variance for s in pair))
            for k, solution in enumerate(pair):
                assert published(solution) == published(oracle_answer(k))
    assert set(named) == {((4,), (4,)), ((4, 7), (4,))}
    assert asked == []


def test_followed_wrong_eigenvector_among_idle_assets_starts_anew():
    returns = family("zero", 60, 10)
    solver = solver_of(returns)
    first = published(solver.solve(0))
    lam, vectors = np.linalg.eigh(np.corrcoef(returns[:, [i for i in range(10) if i != 3]].T))
    for k in range(8):
        solver._start[0][[i for i in range(10) if i != 3]] = vectors[:, k]
        assert published(solver.solve(0)) == first
    assert lam[-1] == pytest.approx(first[1])


@pytest.mark.parametrize(("kind", "fold"), [("two_blocks_exact", 2), ("three_blocks_exact", 3)])
def test_exactly_multiple_eigenvalue_is_clustered(kind, fold):
    returns = family(kind, 72, 12)
    solver = solver_of(returns)
    fast, slow = solver.solve(0), solver.slow(0)
    assert published(fast) == published(slow)
    assert fast.outcome == OUTCOME_CLUSTERED
    assert fast.vector is None
    assert certified_bits(fast.lam) >= 512
    block = covariance(integers(returns[:, : 12 // fold].tolist()))
    assert as_arb(fast.lam).overlaps(largest_eigenvalue(block))
    ctx.prec = 53


@pytest.mark.parametrize("exponent", range(20, 44, 3))
def test_near_multiple_eigenvalues_are_decided_by_the_gap(exponent):
    """Two blocks of two assets with correlations c and c (1 - 2**-k): the gap is about c 2**-k / (1 + c)."""
    one = 1 << 60
    c = one // 2 + 12345
    d = c - (c >> exponent)
    M = fmpz_mat([[one, c, 0, 0], [c, one, 0, 0], [0, 0, one, d], [0, 0, d, one]])
    solution = oracle.solve_matrix(M)
    clustered = (c - d) << 30 <= one + c
    assert solution.outcome == (OUTCOME_CLUSTERED if clustered else OUTCOME_OK)
    exact_ball = (one + c, one)
    assert features.lambda_max(solution.lam, final=True) == exact_ball[0] / exact_ball[1]
    if not clustered:
        assert features.loadings(solution.vector) == (0.5**0.5, 0.5**0.5, 0.0, 0.0)


def test_identity():
    for n, live in ((3, 0), (3, 1)):
        returns = np.zeros((6, n))
        returns[:, :live] = exact(np.random.default_rng(1).standard_normal((6, live)) * 1e-3)
        solver = solver_of(returns)
        fast = solver.solve(0)
        assert published(fast) == published(solver.slow(0))
        assert published(fast) == (OUTCOME_CLUSTERED, 1.0, None, tuple(range(live, n)))
    uncorrelated = exact(np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * 2.0**-10)
    assert published(solver_of(uncorrelated).solve(0)) == (OUTCOME_CLUSTERED, 1.0, None, ())


def test_one_asset_is_simple():
    returns = exact(np.random.default_rng(1).standard_normal((6, 1)) * 1e-3)
    assert published(solver_of(returns).solve(0)) == (OUTCOME_OK, 1.0, (1.0,), ())
    assert published(solver_of(returns * 0.0).solve(0)) == (OUTCOME_ZERO_VARIANCE, 1.0, (1.0,), (0,))


def test_start_vector_changes_no_published_bit():
    returns = family("market", 60, 12)
    solver = solver_of(returns)
    first = published(solver.solve(0))
    rng = np.random.default_rng(0)
    for _ in range(20):
        solver._start[0][:] = rng.standard_normal(12)
        assert published(solver.solve(0)) == first


def test_opposite_pair_has_a_sign_rule():
    """Two assets with correlation -1: the components sum to zero, the first one is made positive."""
    r = exact(np.random.default_rng(1).standard_normal((20, 1)) * 1e-3)
    solver = solver_of(np.hstack([r, -r]))
    for solution in (solver.solve(0), solver.slow(0)):
        assert published(solution)[1:3] == (2.0, (0.5**0.5, -(0.5**0.5)))


def test_slow_path_refuses_to_guess(monkeypatch):
    returns = family("market", 60, 12)
    solver = solver_of(returns)
    monkeypatch.setattr(oracle, "_SWEEPS_MAX", 1)
    with pytest.raises(InvariantError, match="sweeps"):
        solver.slow(0)


@pytest.mark.parametrize("n_assets", [20, 40] if MODE == "plain" else [100, 400])
def test_large_universes(n_assets):
    returns = family("market", 50, n_assets)
    solver = solver_of(returns)
    fast = solver.solve(0)
    assert certified_bits(fast.lam) >= 512
    assert fast.vector.angle_exponent <= -512
    if n_assets <= 100:
        assert published(fast) == published(solver.slow(0))


# ---- plain and compiled forms


def same_bits(a, b):
    return np.array_equal(np.asarray(a).view(np.int64), np.asarray(b).view(np.int64))


def test_plain_spectrum_gives_the_same_bits():
    for kind in ("iid", "market", "volhuge"):
        returns = family(kind, 12, 4)
        moments = Moments(4, (12,))
        for row in returns:
            moments.push(row)
        out = []
        for form in (spectrum.solve_window, plain(spectrum.solve_window)):
            n = 4
            scratch = spectrum.scratch_for(n)
            x, vh, vl = np.ones(n), np.zeros(n), np.zeros(n)
            results = (
                np.zeros((n, 12), np.int64),
                np.zeros(12, np.int64),
                vh,
                vl,
                np.zeros((n, 5), np.int64),
            )
            assert form(moments.G[0], moments.g[0], 12, scratch, x, *results) == spectrum.STATUS_OK
            out.append([*scratch, x, *results])
        for a, b in zip(*out, strict=True):
            assert same_bits(a, b)
        assert spectrum.rounding_failures(vh, vl) == plain(spectrum.rounding_failures)(vh, vl)
        ph, pl = vh[::-1].copy(), vl[::-1].copy()
        assert spectrum.angle_parts(vh, vl, ph, pl) == plain(spectrum.angle_parts)(vh, vl, ph, pl)


def test_plain_dense_kernels_give_the_same_bits():
    rng = np.random.default_rng(4)
    n = 11
    B = rng.standard_normal((n, n))
    A, x = B @ B.T, rng.standard_normal(n)
    results = []
    for form in ((lambda f: f), plain):
        R, T, S = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n))
        y, z, t = np.zeros(n), np.zeros(n), np.zeros(n)
        assert form(dense.cholesky)(A, R, t)
        form(dense.transpose_upper)(R, T)
        form(dense.cholesky_solve)(R, T, x, y)
        form(dense.symmetric_matvec)(A, y, z)
        form(dense.shifted)(A, 0.5, 0.25, x, S)
        result = np.concatenate([R.ravel(), T.ravel(), S.ravel(), y, z, [form(dense.dot)(x, y)]])
        results.append(result)
        assert z == pytest.approx(x)
        assert pytest.approx(A) == R.T @ R
    assert same_bits(*results)
    assert not dense.cholesky(A - 1e3 * np.eye(n), R, t)


def test_double_double_error_bounds():
    rng = np.random.default_rng(6)
    ctx.prec = 400
    limit = arb(2) ** -100
    for _ in range(300):
        a, b = (float(v) for v in rng.standard_normal(2) * 10.0 ** rng.uniform(-9, 9, 2))
        ah, al = double_double.two_sum(a, a * 1e-17)
        bh, bl = double_double.two_sum(b, -b * 3e-17)
        x, y = arb(ah) + arb(al), arb(bh) + arb(bl)
        pairs = [
            (double_double.dd_add(ah, al, bh, bl), x + y),
            (double_double.dd_mul(ah, al, bh, bl), x * y),
            (double_double.dd_div(ah, al, bh, bl), x / y),
            (double_double.dd_sqrt(abs(ah), abs(al) if al * ah >= 0 else -abs(al)), abs(x).sqrt()),
        ]
        for (hi, lo), true in pairs:
            assert abs(arb(hi) + arb(lo) - true) < limit * abs(true)
            assert hi == hi + lo
        for f in (double_double.dd_add, double_double.dd_mul, double_double.dd_div):
            assert f(ah, al, bh, bl) == plain(f)(ah, al, bh, bl)
        assert double_double.two_prod(a, b) == plain(double_double.two_prod)(a, b)
    ctx.prec = 53
