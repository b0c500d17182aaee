"""Attempts to break the certificate: spectra, scales and starts chosen against it, checked in integers."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from flint import arb, arb_mat
from scan_textbook import covariance, eigenvalues_above, integers
from test_scan_spectrum import as_arb, blocks, certified_bits, exact, published, solver_of

from dolphin.domain.errors import InvariantError
from dolphin.domain.scan import OUTCOME_CLUSTERED
from dolphin.kernel import MODE, plain
from dolphin.scan import digits, oracle, rounding, spectrum
from dolphin.scan.moments import Moments

#: A relative gap of at most 2**-30 is a cluster.
ALMOST = 2**30 - 1


def check_exactly(solution, returns):
    """lambda's enclosure and the outcome by counting eigenvalues in integers."""
    M = covariance(integers(returns.tolist()))
    active = [i for i in range(len(M)) if M[i][i]]
    if len(active) < 2:
        return
    M = [[M[i][j] for j in active] for i in active]
    lam = solution.lam
    assert certified_bits(lam) >= 512
    one = 1 << lam.bits
    above, below = (eigenvalues_above(M, lam.mid + s * (lam.rad + 1), one) for s in (1, -1))
    assert above in (0, None)
    assert below != 0
    near = eigenvalues_above(M, lam.mid * ALMOST, one << 30)
    if near is not None:
        if lam.mid * ALMOST < one << 30:
            near += returns.shape[1] - len(active)
        assert (solution.outcome == OUTCOME_CLUSTERED) == (near >= 2)


def market(rng):
    """Returns of one of sixteen kinds of small markets, most of them nasty."""
    n, w = int(rng.integers(2, 13)), int(rng.choice([2, 3, 4, 5, 8, 16, 30, 50]))
    E, f = rng.standard_normal((w, n)), rng.standard_normal((w, 1))
    kind = int(rng.integers(16))
    if kind == 0:
        r = E * 1e-3
    elif kind == 1:
        r = (E + rng.uniform(0.2, 3, n) * f) * 1e-3
    elif kind == 2:
        r = E * 10.0 ** rng.uniform(-14, -1.5, n)
    elif kind == 3:
        r = E * 1e-12
    elif kind == 4:
        r = np.where(rng.random(E.shape) < 0.9, np.sign(E), E / 8)
    elif kind == 5:
        E[:, rng.integers(n)] = E[:, rng.integers(n)]
        r = E * 1e-3
    elif kind == 6:  # identical and opposite assets
        r = np.repeat(E[:, :1], n, axis=1) * rng.choice([-1, 1], n) * 2.0 ** rng.integers(-10, 1, n) * 1e-2
    elif kind == 7:
        half = np.arange(n) < n // 2
        r = (E * 10.0 ** rng.uniform(-8, 0) + 3 * (f * half + f[::-1] * ~half)) * 1e-3
    elif kind == 8:  # an exactly multiple eigenvalue, sometimes split by one bit far down
        count = int(rng.integers(2, 6))
        r = blocks(rng, 6 * count * int(rng.integers(1, 4)), count * max(n // count, 1), count)
        r[0, 0] += rng.integers(2) * 2.0 ** -int(rng.integers(15, 80))
    elif kind == 9:
        r = (f + 10.0 ** rng.uniform(-13, -1) * E) * 1e-3
    elif kind == 10:
        r = np.round(E) * 2.0**-10
    elif kind == 11:
        r = np.round(E * 0.5) * 2.0**-10
    elif kind == 12:
        r = np.where(rng.random(n) < 0.4, 0.0, E * 1e-3)
    elif kind == 13:  # a dead feed: few assets move, once
        r = np.where(rng.random(E.shape) < 0.1, 1e-4 * np.sign(E), 0.0)
    elif kind == 14:
        r = 0.7 + np.clip(E, -4, 4) * 10.0 ** rng.uniform(-15, -3, n)
    else:
        r = np.zeros((w, n))
        r[rng.integers(w), :] = 2.0**-106 * rng.integers(1, 5, n)
        r[:, rng.integers(n)] += E[:, 0] * 0.1
    return exact(np.clip(np.round(r * 2.0**106) / 2.0**106, -(1 - 2.0**-53), 1 - 2.0**-53))


def start_vector(rng, n):
    """A start that knows nothing, or the wrong thing."""
    kind = int(rng.integers(5))
    if kind == 0:
        return rng.standard_normal(n)
    if kind == 1:
        return np.eye(n)[rng.integers(n)]
    if kind == 2:
        return rng.standard_normal(n) * 10.0 ** rng.uniform(-100, 100, n)
    return np.full(n, float(kind == 3))  # ones, or nothing at all


def campaign(seed, count):
    rng = np.random.default_rng(seed)
    outcomes = Counter()
    for _ in range(count):
        returns = market(rng)
        solver = solver_of(returns)
        solver._start[0][:] = start_vector(rng, returns.shape[1])
        fast, slow = solver.solve(0), solver.slow(0)
        assert published(fast) == published(slow)
        for solution in (fast, slow):
            check_exactly(solution, returns)
        outcomes[fast.outcome] += 1
    assert len(outcomes) == 3


@pytest.mark.parametrize("seed", range(4))
def test_small_markets_against_exact_counts(seed):
    campaign(seed, 60)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_3000_small_markets_against_exact_counts():
    campaign(99, 3000)


def quiet_asset_beside_loud_ones(seed):
    """One asset 2**62 to 2**72 quieter than the others and all but uncorrelated with them.

    The scale of u is then the quiet asset's, and the 53-bit integers of a correction cannot hold the others.
    """
    rng = np.random.default_rng(seed)
    n, w, exponent, k = int(rng.integers(4, 10)), 250, int(rng.integers(60, 73)), int(rng.choice([0, 2, 4]))
    market = rng.choice([-1, 1], w)
    loud = market[:, None] * 8 + rng.choice([-1, 1], (w, n)) * rng.integers(0, 3)
    quiet = rng.choice([-1, 1], w)
    c = int(quiet @ market)
    agree = np.flatnonzero(quiet * market == np.sign(c))
    quiet[agree[: (abs(c) - k) // 2]] *= -1
    returns = loud * 2.0 ** (exponent - 106)
    returns[:, 0] = quiet * 2.0**-106
    return returns


@pytest.mark.parametrize("seed", range(9 if MODE == "plain" else 24))
def test_vector_that_shrinks_with_its_residual_is_refused(seed):
    returns = quiet_asset_beside_loud_ones(seed)
    solver = solver_of(returns)
    fast = solver.solve(0)
    check_exactly(fast, returns)
    assert published(fast) == published(solver.slow(0))


def pair_arrays(returns):
    """M and Mf of one window; U, lambda and the rest of the scratch for `dominant_pair`."""
    w, n = returns.shape
    moments = Moments(n, (w,))
    for row in returns:
        moments.push(row)
    M, Mf = np.zeros((n, n, 5), np.int64), np.zeros((n, n))
    plain(spectrum.covariance_digits)(moments.G[0], moments.g[0], w, M, Mf)
    info = np.zeros(6, np.int64)
    arrays = (
        np.zeros((n, 12), np.int64),
        np.zeros(12, np.int64),
        np.zeros((n, digits.S_DIGITS), np.int64),
        np.zeros((n, digits.S_DIGITS), np.int64),
        np.zeros((n, digits.R_DIGITS), np.int64),
        np.zeros((n, n)),
        np.zeros((2 * n + 6, n)),
        info,
    )
    return M, Mf, arrays


def run_pair(monkeypatch, x=None, floor=0.0, bits=532, **replaced):
    """Status of the plain `dominant_pair` on three correlated assets with some of its helpers replaced."""
    rng = np.random.default_rng(2)
    M, Mf, arrays = pair_arrays(exact((rng.standard_normal((12, 3)) + rng.standard_normal((12, 1))) * 1e-3))
    form = plain(spectrum.dominant_pair)
    for name, value in replaced.items():
        monkeypatch.setitem(form.__globals__, name, value)
    x = np.ones(3) if x is None else x
    U, lam, *rest = arrays
    return form(spectrum.Scratch(M, Mf, *rest), x, floor, bits, U, lam), arrays


def replaced_solve(values):
    def solve(R, Lt, b, y):
        y[:] = values(b)

    return solve


def healthy_start(Cf, x, y, r, A, R, t):
    values, vectors = np.linalg.eigh(Cf)
    x[:] = vectors[:, -1]
    return True, float(values[-1]), 1


def test_dominant_pair_refuses(monkeypatch):
    """What should not happen in the sweeps is a refusal: nothing is written outside the digits."""
    assert run_pair(monkeypatch)[0] == spectrum.STATUS_OK
    assert run_pair(monkeypatch, x=np.zeros(3))[0] == spectrum.STATUS_START
    assert run_pair(monkeypatch, floor=3.0)[0] == spectrum.STATUS_GAP
    start = {"float_start": healthy_start}
    for y in (math.nan, 1e151):
        solve = replaced_solve(lambda b, y=y: np.full(3, y))
        assert run_pair(monkeypatch, cholesky_solve=solve, **start)[0] == spectrum.STATUS_START
    huge = replaced_solve(lambda b: b * 1e25)
    assert run_pair(monkeypatch, cholesky_solve=huge, **start)[0] == spectrum.STATUS_START
    idle = replaced_solve(lambda b: b * 0.0)
    assert run_pair(monkeypatch, cholesky_solve=idle, **start)[0] == spectrum.STATUS_SLOW


def test_dominant_pair_refuses_a_wild_eigenvalue(monkeypatch):
    def start(Cf, x, y, r, A, R, t):
        healthy_start(Cf, x, y, r, A, R, t)
        A[:], R[:] = np.eye(3), np.eye(3)
        return True, 1e9, 1

    bound = {"second_eigenvalue_bound": lambda *_: 1.0}
    still = replaced_solve(lambda b: b * 0.0)
    assert run_pair(monkeypatch, float_start=start, cholesky_solve=still, **bound)[0] == spectrum.STATUS_START


def test_partial_residual_is_never_the_last(monkeypatch):
    """A residual of a few digits that says zero is asked for again in full."""
    expected, arrays = run_pair(monkeypatch)
    asked = []

    def residual(s, w, lam, lam_low, w_low, p0, p1, rho, work):
        asked.append((p0, p1))
        if len(asked) == 2:
            return -1
        return plain(digits.residual)(s, w, lam, lam_low, w_low, p0, p1, rho, work)

    status, again = run_pair(monkeypatch, residual=residual)
    assert status == expected == spectrum.STATUS_OK
    assert asked[0] == asked[2] == asked[-1] == (0, digits.R_DIGITS)
    assert asked[1][0] > 0
    for a, b in zip(arrays, again, strict=True):
        assert np.array_equal(a[:2], b[:2])


def test_digits_of_short_numbers():
    for form in (digits.residual, plain(digits.residual)):
        for q, p0 in ((0, 11), (1, 11), (2, 11)):
            s, w = np.zeros((1, digits.S_DIGITS), np.int64), np.zeros((1, digits.S_DIGITS), np.int64)
            s[0, : q + 1] = 5
            rho, work = np.zeros(1), np.zeros((1, digits.R_DIGITS), np.int64)
            assert form(s, w, np.zeros(12, np.int64), 12, 18, p0, 15, rho, work) == 11 + q
            assert rho[0] == 5.0 + (5.0 * 2.0**-53 if q else 0.0) + (5.0 * 2.0**-106 if q > 1 else 0.0)
    for form in (digits.digits_to_double_double, plain(digits.digits_to_double_double)):
        for number in (3, -3, 2**53 + 1, -(2**53) - 1, 2**106 + 2**54 + 1):
            row = np.array([number % 2**53, number // 2**53 % 2**53, number >> 106], np.int64)
            hi, lo = form(row, 3, 0, np.zeros(3, np.int64))
            assert int(hi) + int(lo) == number


def test_settled_measures_norm_and_eigenvalue():
    half, one = 1 << 52, 1 << 53
    U = np.zeros((2, 12), np.int64)
    U[0, 11], U[1, 11], U[1, 10] = 1, -1, half
    lam = np.zeros(12, np.int64)
    lam[11], lam[10] = 3, half
    for form in (spectrum.settled, plain(spectrum.settled)):
        df = np.ones(2)
        assert form(U, lam, df, 1.0, 3.5, 1e-3)
        assert not form(U, lam, df, 1.0, 3.5 + 1e-5, 1e-3)
        assert form(U, lam, df * 1.1, 1.0, 3.5, 1e-3)
        assert not form(U, lam, df * 1.2, 1.0, 3.5, 1e-3)
        tiny = np.zeros((2, 12), np.int64)
        tiny[0, 8], tiny[1] = one - 1, [0] * 8 + [one - 1] * 3 + [-1]
        assert not form(tiny, lam, df * 1e-31, 1.0, 3.5, 1e-3)


def correlated(seed=5, n=5):
    rng = np.random.default_rng(seed)
    return exact((rng.standard_normal((30, n)) + rng.standard_normal((30, 1))) * 1e-3)


def test_oracle_refuses_to_guess(monkeypatch):
    """Each proof of the oracle fails loudly when it is given something wrong."""
    M = oracle.covariance_matrix(integers(correlated().tolist()))
    C = oracle._float_correlation(M)
    values, vectors = np.linalg.eigh(C)
    with pytest.raises(InvariantError, match="not separated"):
        oracle._refine(M, values, vectors, float(values[-1]) + 1e-3, 532)
    with pytest.raises(InvariantError, match="no float64 proof"):
        oracle._bound_of_the_rest(np.eye(3), np.array([0.5, 0.5, 1.0]), np.eye(3), 1)
    with rounding.working_precision(1200):
        balls = oracle._ball_correlation(M)
        with pytest.raises(InvariantError, match="orthonormal"):
            oracle._invariant_basis(balls, values, vectors * 1.2, 2, 40)
        monkeypatch.setattr(oracle, "_gershgorin", lambda _: arb(-1))
        with pytest.raises(InvariantError, match="cluster is not separated"):
            oracle._top(arb_mat([[2, 0, 0], [0, 2, 0], [0, 0, 1]]), 500, 2)
        monkeypatch.setattr(oracle, "_SWEEPS_MAX", 1)
        with pytest.raises(InvariantError, match="did not converge"):
            oracle._invariant_basis(balls, values, vectors, 2, 500)


def test_oracle_refuses_a_cluster_of_too_few_bits():
    M = oracle.covariance_matrix(integers(blocks(np.random.default_rng(1), 24, 6, 2).tolist()))
    with pytest.raises(InvariantError, match="fewer than 512"):
        oracle.solve_matrix(M, 300)


def test_return_with_a_lower_bit_is_no_integer():
    assert oracle.return_integer(-(2.0**-106)) == -1
    with pytest.raises(ValueError, match="below 2\\*\\*-106"):
        oracle.return_integer(2.0**-107)


def test_naive_agrees_with_the_oracle():
    returns = correlated()
    M = oracle.covariance_matrix(integers(returns.tolist()))
    assert as_arb(oracle.solve_matrix(M).lam).overlaps(oracle.naive(returns.tolist()))
    equal = np.repeat(returns[:, :1], 3, axis=1)  # eigenvalues 3, 0, 0: only the cluster algorithm answers
    assert oracle.naive(equal.tolist()).contains(3)


def test_start_that_is_no_number_is_forgotten():
    returns = correlated()
    returns[:, 2] = 0.0
    solver = solver_of(returns)
    solver._start[0][:] = math.nan
    assert published(solver.solve(0)) == published(solver.slow(0))
    assert np.isfinite(solver._start[0]).all()


@pytest.mark.parametrize("kind", ["blocks", "blocks almost", "quiet"])
def test_idle_asset_beside_what_the_kernels_refuse(kind):
    if kind == "quiet":
        returns = quiet_asset_beside_loud_ones(2)
    else:
        returns = blocks(np.random.default_rng(4), 24, 6, 2)
        returns[0, 0] += 2.0**-24 if kind == "blocks almost" else 0.0
    returns = np.insert(returns, 1, 0.0, axis=1)
    solver = solver_of(returns)
    asked = []
    oracle_answer = solver.slow
    solver.slow = lambda k: asked.append(k) or oracle_answer(k)
    fast = solver.solve(0)
    assert published(fast) == published(oracle_answer(0))
    assert fast.zero_variance == (1,)
    check_exactly(fast, returns)
    if kind != "blocks almost":
        assert asked == [0]


@pytest.mark.parametrize("count", [3, 4, 5])
@pytest.mark.parametrize("exponent", [24, 33, 36, 39, 45, 60])
def test_one_of_several_equal_blocks_split_off(count, exponent):
    """Exactly equal eigenvalues beside one that differs in a low bit: no path may fail, both must agree."""
    rng = np.random.default_rng(count * 100 + exponent)
    returns = blocks(rng, 12 * count, 2 * count, count)
    returns[0, 0] += 2.0**-exponent
    returns = exact(returns)
    solver = solver_of(returns)
    fast = solver.solve(0)
    check_exactly(fast, returns)
    assert published(fast) == published(solver.slow(0))


def test_frozen_market_where_each_asset_moves_once():
    """After a dead feed every asset has one return on its own bar: lambda_max is (n - 1)-fold, exactly."""
    n = 7
    returns = np.zeros((3 * n, n))
    for i in range(n):
        returns[3 * i, i] = 2.0**-10 * (i % 3 + 1)
    solution = solver_of(returns).solve(0)
    assert solution.outcome == OUTCOME_CLUSTERED
    check_exactly(solution, returns)
