"""The readable certified path: python-flint and numpy only, any precision, any spectrum. About 10 ms a scan.

It answers where the fast path (`dolphin.scan.spectrum`) refuses, decides whether a spectrum is clustered, and
is the twin that the fast path is compared with. `naive` is the textbook computation in ball arithmetic, for
checks.

1. Every bound is a ball or a float64 bound with the slack proven in `dolphin.scan.spectrum`.
2. Clustered means (lambda_1 - lambda_2) <= 2**-30 lambda_1: a property of the data, decided by certified
   eigenvalues of the dominant cluster, so every path agrees. If full precision cannot tell, it is clustered.

Method for a cluster of k eigenvalues near the top: refine X (n x k) so that R = C X - X B is tiny, B = k x k.
With Y = X (X^T X)^{-1/2} the eigenvalues of Y^T C Y are those of C within ||R||/sigma_min(X), and no other
eigenvalue of C is above `mu`, which a float64 Cholesky of mu I - C + l X X^T proves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from flint import acb_mat, arb, arb_mat, fmpz_mat

from dolphin.domain.bar import FloatArray
from dolphin.domain.errors import InvariantError
from dolphin.domain.scan import OUTCOME_CLUSTERED, OUTCOME_OK, OUTCOME_ZERO_VARIANCE
from dolphin.scan.moments import RETURN_BITS
from dolphin.scan.rounding import bounds, ends, working_precision
from dolphin.scan.solution import Ball, UnitVector, WindowSolution, enclose, identity_solution
from dolphin.scan.spectrum import CERTIFIED_BITS, CLUSTER_BITS, TARGET_BITS

#: The most sweeps a hopeless start may take; a gap of 2**-30 gains about 20 bits a sweep.
_SWEEPS_MAX = 200


def return_integer(r: float) -> int:
    """R = r * 2**106 of a float64 return. Raises ValueError when r has a bit below 2**-106."""
    numerator, denominator = float(r).as_integer_ratio()
    value, rest = divmod(numerator << RETURN_BITS, denominator)
    if rest:
        raise ValueError(f"return {r!r} has a bit below 2**-{RETURN_BITS}")
    return value


def covariance_matrix(rows: Sequence[Sequence[int]]) -> fmpz_mat:
    """M = n sum R R^T - (sum R)(sum R)^T of integer rows, shape (n_bars, n_assets), from scratch."""
    a = fmpz_mat([list(row) for row in rows])
    total = fmpz_mat([[sum(column) for column in zip(*rows, strict=True)]])
    return a.transpose() * a * len(rows) - total.transpose() * total


class FlintMoments:
    """Rolling exact moments in python-flint: the readable twin of `dolphin.scan.moments.Moments`."""

    def __init__(self, n_assets: int, windows: Sequence[int]) -> None:
        self.windows = tuple(windows)
        self.rows: list[list[int]] = []
        self._products = [fmpz_mat(n_assets, n_assets) for _ in self.windows]
        self._totals = [[0] * n_assets for _ in self.windows]

    def push(self, row: Sequence[int]) -> None:
        """Fold one row of integers R = r * 2**106 in."""
        new = list(row)
        square = _square(new)
        for k, w in enumerate(self.windows):
            self._products[k] += square
            self._totals[k] = [total + a for total, a in zip(self._totals[k], new, strict=True)]
            if len(self.rows) >= w:
                old = self.rows[-w]
                self._products[k] -= _square(old)
                self._totals[k] = [total - a for total, a in zip(self._totals[k], old, strict=True)]
        self.rows.append(new)
        if len(self.rows) > max(self.windows) + 2:
            del self.rows[0]

    def matrix(self, k: int) -> fmpz_mat:
        """M of window k, shape (n_assets, n_assets)."""
        return self._products[k] * self.windows[k] - _square(self._totals[k])


def _square(row: Sequence[int]) -> fmpz_mat:
    """R R^T of one row."""
    column = fmpz_mat([[x] for x in row])
    return column * column.transpose()


class FlintSolver:
    """Rolling certified spectra on python-flint alone; same answers as `dolphin.scan.fast.FastSolver`."""

    def __init__(self, n_assets: int, windows: Sequence[int]) -> None:
        self.windows = tuple(windows)
        self._moments = FlintMoments(n_assets, windows)

    def push(self, returns: FloatArray) -> None:
        """Fold one row of returns in, shape (n_assets,)."""
        self._moments.push([return_integer(r) for r in returns.tolist()])

    def solve(self, k: int) -> WindowSolution:
        """Certified solution of window k, which must be full."""
        return solve_matrix(self._moments.matrix(k))

    def slow(self, k: int, *, lag: int = 0, target_bits: int = TARGET_BITS) -> WindowSolution:
        """The answer for window k as it stood `lag` (0 or 1) bars ago, from scratch, to `target_bits`."""
        end = len(self._moments.rows) - lag
        rows = self._moments.rows[end - self.windows[k] : end]
        return solve_matrix(covariance_matrix(rows), target_bits)


def _submatrix(M: fmpz_mat, keep: list[int]) -> fmpz_mat:
    table = M.tolist()
    return fmpz_mat([[table[i][j] for j in keep] for i in keep])


def solve_matrix(M: fmpz_mat, target_bits: int = TARGET_BITS) -> WindowSolution:
    """Certified dominant eigenpair of the correlation matrix of the integer covariance matrix M.

    Parameters: M as `covariance_matrix` makes it; `target_bits` the relative accuracy of lambda and of the
    angle. Returns a `WindowSolution`. Raises InvariantError when the precision cannot be reached (not known
    to happen).
    """
    n = M.nrows()
    diagonal = [int(M[i, i]) for i in range(n)]
    active = [i for i in range(n) if diagonal[i] > 0]
    zero = tuple(i for i in range(n) if diagonal[i] == 0)
    ok = OUTCOME_ZERO_VARIANCE if zero else OUTCOME_OK
    if zero:
        M = _submatrix(M, active) if active else fmpz_mat(0, 0)
    m = len(active)
    if m < 2:
        return identity_solution(n, zero, OUTCOME_CLUSTERED, ok)
    C = _float_correlation(M)
    if not (C - np.diag(np.diag(C))).any():
        return identity_solution(n, zero, OUTCOME_CLUSTERED, ok)
    values, vectors = np.linalg.eigh(C)
    relative_gap = 1.0 - float(values[-2]) / float(values[-1])
    if zero:
        relative_gap = min(relative_gap, 1.0 - 1.0 / float(values[-1]))
    gap_bits = 0 if relative_gap <= 0.0 else max(0, -math.frexp(relative_gap)[1] + 1)
    scale_bits = max(diagonal).bit_length() - min(d for d in diagonal if d).bit_length()
    bits = target_bits + 96 + scale_bits
    with working_precision(bits):
        if relative_gap > 2.0**-26:
            mu = _bound_of_the_rest(C, values, vectors, 1)
            if zero:
                mu = max(mu, 1.0)
            lam, raw, angle = _refine(M, values, vectors, mu, target_bits + gap_bits)
            vector = UnitVector(n, np.array(active, np.int64), angle)
            vector._balls = enclose(raw, active, n, angle)
            return WindowSolution(ok, lam, vector, zero)
    return _clustered(M, C, values, vectors, target_bits, n, active, zero, ok)


def _float_correlation(M: fmpz_mat) -> FloatArray:
    """float64 image of C with entries of relative error below 2**-48, zero exactly where M is."""
    n = M.nrows()
    T = arb_mat(M)  # exact, and float(arb) costs a third of float(int(fmpz))
    Mf = np.zeros((n, n))
    Mf[np.triu_indices(n)] = [float(T[i, j]) for i in range(n) for j in range(i, n)]
    Mf += np.triu(Mf, 1).T
    d = 1.0 / np.sqrt(np.diag(Mf))
    return np.asarray(Mf * d[:, None] * d, np.float64)


def _bound_of_the_rest(C: FloatArray, values: FloatArray, vectors: FloatArray, k: int) -> float:
    """Proven upper bound of lambda_{k+1}: Cholesky of mu I - C + sum l_i x_i x_i^T, slack as in `spectrum`
    times k.
    """
    n = len(values)
    top = float(values[-1])
    slack = 8.0 * k * (n + 2) ** 2 * 2.0**-53 * top
    if k >= n:
        return -1.0
    split = float(values[-k]) - float(values[-k - 1])
    X = vectors[:, -k:]
    deflated = C - (X * values[-k:]) @ X.T
    for share in (0.5, 0.25, 0.125, 2.0**-5):
        mu = float(values[-k]) - share * split
        try:
            np.linalg.cholesky(mu * np.eye(n) - deflated)
        except np.linalg.LinAlgError:
            continue
        return mu + slack
    raise InvariantError("no float64 proof separates the dominant eigenvalues from the rest")


def _refine(
    M: fmpz_mat, values: FloatArray, vectors: FloatArray, mu: float, target_bits: int
) -> tuple[Ball, list[arb], int]:
    """Sweeps for one eigenpair: exact integer residual, float64 correction. Returns (lambda, v before
    norming, angle).

    u and lambda are integers in units of 2**-F, so the residual rho = M u - lambda Delta u is an integer
    vector in units of 2**-2F and the certificate ||Delta^{-1/2} rho|| / ||Delta^{1/2} u|| is a quotient of
    integers: nothing in it rounds but the last root, upwards. The correction projects on the float64
    eigenvectors and may be anything; `mu` is proven.
    """
    n = len(values)
    diagonal = [int(M[i, i]) for i in range(n)]
    spread = (max(diagonal).bit_length() - min(diagonal).bit_length()) // 2 + 1
    F = target_bits + 64 + spread
    Delta = fmpz_mat(n, n)
    for i in range(n):
        Delta[i, i] = M[i, i]
    rest, v, inverse = vectors[:, :-1], vectors[:, -1], 1.0 / (values[-1] - values[:-1])
    d = np.array([1.0 / math.sqrt(m) for m in diagonal])
    scale = math.frexp(float(np.abs(d * v).max()))[1]  # u = Delta^{-1/2} v 2**-scale stays below 1
    U, S, W = fmpz_mat(n, 1), fmpz_mat(n, 1), fmpz_mat(n, 1)  # u, M u, Delta u
    lam = _units(float(values[-1]), F)
    correction, exponent = d * v, -scale
    for _ in range(_SWEEPS_MAX):
        # The correction as integers of 53 bits (more where the assets' scales differ) times 2**shift.
        drop = math.frexp(float(np.abs(correction).max()))[1] - 53 - spread
        shift = F + exponent + drop
        if shift < 0:
            drop, shift = drop - shift, 0
        step = fmpz_mat([[int(x)] for x in np.ldexp(correction, -drop).tolist()])
        unit = 1 << shift
        U, S, W = U + step * unit, S + M * step * unit, W + Delta * step * unit
        rho = [int(x) for x in (S * (1 << F) - W * lam).entries()]
        drop = max(max(abs(x) for x in rho).bit_length() - 60 - spread, 0)
        r, exponent = d * np.array([float(x >> drop) for x in rho]), drop - 2 * F
        # r 2**exponent is the residual of v 2**-scale.
        accuracy = -(math.frexp(math.sqrt(float(r @ r)) / float(values[-1]))[1] + exponent + scale)
        if accuracy < target_bits:
            lam += _units(float(v @ r), F + exponent + scale)
            correction = d * (rest @ (inverse * (rest.T @ r)))
            continue
        # ||Delta^{-1/2} rho||^2 < square * 2**(2 drop - 256), in short integers rounded up.
        square = sum(((abs(x >> drop) + 1) ** 2 << 256) // m + 1 for x, m in zip(rho, diagonal, strict=True))
        size = int((U.transpose() * W)[0, 0])
        radius = math.isqrt((square << 2 * drop) // (size << 256)) + 1
        gap = lam - radius - _units(mu, F) - 1
        if gap <= 0 or radius << CERTIFIED_BITS > lam:
            raise InvariantError("the dominant eigenvalue is not separated")
        raw = [arb(u) * arb(m).sqrt() for u, m in zip(U.entries(), diagonal, strict=True)]
        return Ball(lam, radius, F), raw, radius.bit_length() - gap.bit_length() + 1
    raise InvariantError("the sweeps did not reach their precision")


def _units(x: float, bits: int) -> int:
    """floor(x * 2**bits) of a finite float64."""
    numerator, denominator = x.as_integer_ratio()
    return (numerator << bits) // denominator if bits >= 0 else numerator // (denominator << -bits)


def _exponent(x: arb) -> int:
    """An integer e with x < 2**e for a ball x >= 0; -10**6 for zero."""
    upper = x.upper()
    if upper == 0:
        return -(10**6)
    mantissa, exponent = upper.man_exp()
    return int(mantissa).bit_length() + int(exponent)


def _cluster_size(values: FloatArray) -> int:
    """How many of the ascending eigenvalues to treat as one dominant cluster, at least 2.

    The spectrum is cut where the relative distance to the top grows most from one eigenvalue to the next,
    among the places where it is above 1e-7; where there is none, everything is one cluster.
    """
    distance = np.maximum(1.0 - values[::-1] / values[-1], 1e-15)
    growth = np.where(distance[2:] > 1e-7, distance[2:] / distance[1:-1], 0.0)
    if not growth.any():
        return len(values)
    return int(np.argmax(growth)) + 2


def _clustered(
    M: fmpz_mat,
    C: FloatArray,
    values: FloatArray,
    vectors: FloatArray,
    target_bits: int,
    n_assets: int,
    active: list[int],
    zero: tuple[int, ...],
    ok: str,
) -> WindowSolution:
    """lambda_1 by a certified invariant subspace, and the decision whether the spectrum is clustered."""
    n = len(values)
    k = _cluster_size(values)
    sizes = [int(M[i, i]).bit_length() for i in range(n)]
    scale_bits = max(sizes) - min(sizes)
    bits = 2 * target_bits + 128 + scale_bits
    with working_precision(bits):
        mu = arb(_bound_of_the_rest(C, values, vectors, k))
        block, radius = _invariant_block(M, values, vectors, k, target_bits + 40)
        error = arb(0, radius)
        lam1, lam2, least = (x + error for x in _eigenvalue_bounds(block, k))
        if not least > mu:
            raise InvariantError("the dominant cluster is not separated")
        if zero and not lam2 > 1:
            lam2 = lam2.max(arb(1))
        threshold = lam1 * (1 - arb(2) ** -CLUSTER_BITS)
        frac = target_bits + 64
        low, high = bounds(lam1, frac)
        ball = Ball((low + high) >> 1, ((high - low) >> 1) + 1, frac)
        if ball.rad << 512 > ball.mid:
            raise InvariantError("a cluster's eigenvalue has fewer than 512 certified bits")
        if not lam2 < threshold:
            return WindowSolution(OUTCOME_CLUSTERED, ball, None, zero)
        second = float(lam2.upper()) * (1.0 + 2.0**-50)
        lam, raw, angle = _refine(M, values, vectors, second, target_bits + CLUSTER_BITS + 4)
        vector = UnitVector(n_assets, np.array(active, np.int64), angle)
        vector._balls = enclose(raw, active, n_assets, angle)
        return WindowSolution(ok, lam, vector, zero)


def _invariant_block(
    M: fmpz_mat, values: FloatArray, vectors: FloatArray, k: int, target_bits: int
) -> tuple[arb_mat, arb]:
    """(Y^T C Y, error) for the top-k invariant subspace, Y orthonormal up to `error`, which bounds all
    eigenvalues'.
    """
    n = len(values)
    root = [arb(M[i, i]).sqrt() for i in range(n)]
    C = arb_mat(
        [[arb(M[i, j]) / (root[i] * root[j]) if i != j else arb(1) for j in range(n)] for i in range(n)]
    )
    X = arb_mat(vectors[:, -k:].tolist())
    rest, rest_values = vectors[:, :-k], values[:-k]
    top = values[-k:]
    basis = vectors[:, -k:]
    for _ in range(_SWEEPS_MAX):
        gram = X.transpose() * X
        B = gram.solve(X.transpose() * (C * X))
        R = C * X - X * B
        size = sum((x * x for x in R.entries()), arb(0)).nonnegative_part().sqrt().upper()
        exponent = _exponent(size)
        if exponent <= -target_bits or k == n:
            # sigma_min(X)^2 >= 1 - ||X^T X - I||; float64 start vectors keep it above 0.99.
            deviation = gram - arb_mat([[1 if i == j else 0 for j in range(k)] for i in range(k)])
            spread = sum((x * x for x in deviation.entries()), arb(0)).nonnegative_part().sqrt()
            if not spread < 0.01:
                raise InvariantError("the cluster's basis is not orthonormal enough")
            return _orthonormal_block(C, X, k), (size * 2).upper()
        unit = arb(2) ** exponent
        scaled = np.array([[float((x / unit).mid()) for x in row] for row in R.tolist()])
        # In the float64 basis of the cluster B is diagonal to 1e-15, which is all that a correction needs.
        correction = rest @ ((rest.T @ scaled) / (top[None, :] - rest_values[:, None]))
        X = arb_mat(
            [[(X[i, j] + arb(float(correction[i, j])) * unit).mid() for j in range(k)] for i in range(n)]
        )
    raise InvariantError(f"the invariant subspace of {basis.shape[1]} vectors did not converge")


def _orthonormal_block(C: arb_mat, X: arb_mat, k: int) -> arb_mat:
    """Y^T C Y for Y = X L^{-T}, L L^T = X^T X: symmetric, with the eigenvalues of the restriction of C to
    span X.
    """
    n = X.nrows()
    columns = [[X[i, j] for i in range(n)] for j in range(k)]
    ortho: list[list[arb]] = []
    for column in columns:
        for other in ortho:
            c = sum((a * b for a, b in zip(column, other, strict=True)), arb(0))
            column = [a - c * b for a, b in zip(column, other, strict=True)]
        norm = sum((a * a for a in column), arb(0)).sqrt()
        ortho.append([a / norm for a in column])
    Y = arb_mat(ortho).transpose()
    return Y.transpose() * C * Y


def _eigenvalue_bounds(B: arb_mat, k: int) -> tuple[arb, arb, arb]:
    """Enclosures of the two largest eigenvalues and of the least one of a symmetric k x k matrix, k >= 2."""
    # A nearly scalar block is enclosed by Weyl's inequality: acb_mat.eig needs eigenvalues that it can
    # isolate or clusters that are tight beside their distance to the others.
    centre = sum((B[i, i] for i in range(k)), arb(0)) / k
    centre = centre.mid()
    parts = [B[i, j] - (centre if i == j else 0) for i in range(k) for j in range(k)]
    spread = sum((x * x for x in parts), arb(0)).nonnegative_part().sqrt().upper()
    if _exponent(spread / centre) < -520:
        ball = centre + arb(0, spread)
        return ball, ball, ball
    shifted = acb_mat([[B[i, j] - (centre if i == j else 0) for j in range(k)] for i in range(k)])
    found = [z.real + centre for z in shifted.eig(multiple=True)]
    lows = sorted((z.lower() for z in found), key=_order)
    highs = sorted((z.upper() for z in found), key=_order)
    return lows[-1].union(highs[-1]), lows[-2].union(highs[-2]), lows[0].union(highs[0])


def _order(x: arb) -> Fraction:
    """An exact ball as a rational, for sorting."""
    low, _, one = ends(x)
    return Fraction(low, one)


def naive(rows: Sequence[Sequence[float]], bits: int = 512) -> arb:
    """lambda_max the textbook way: correlation from scratch in ball arithmetic, then all complex eigenvalues.

    rows : float64 returns, shape (n_bars, n_assets), every asset with variance. About 0.5 s for 50 assets,
    and about 60 bits fewer than `bits` are left. For checks and as the benchmark's baseline.
    """
    with working_precision(bits):
        n = len(rows)
        columns = arb_mat([[arb(float(x)) for x in row] for row in rows]).transpose().tolist()
        standard = []
        for column in columns:
            mean = sum(column, arb(0)) / n
            centred = [x - mean for x in column]
            inverse = sum((x * x for x in centred), arb(0)).rsqrt()
            standard.append([x * inverse for x in centred])
        Z = arb_mat(standard)
        C = acb_mat(Z * Z.transpose())
        try:
            found = C.eig()
        except ValueError:
            found = C.eig(multiple=True)
        top: arb = max((z.real for z in found), key=lambda z: float(z.mid()))
        return top
