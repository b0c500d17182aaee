"""The readable certified path: python-flint and numpy only, any precision, any spectrum. About 9 ms a scan.

It answers where the fast path (`dolphin.scan.spectrum`) refuses, decides whether a spectrum is clustered, and
is the twin that the fast path is compared with. `naive` is the textbook computation in ball arithmetic, for
checks.

1. Every bound is an integer, a ball or a float64 bound with the slack proven in `dolphin.scan.spectrum`.
2. Clustered means (lambda_1 - lambda_2) <= 2**-30 lambda_1: a property of the data, decided by certified
   eigenvalues of the dominant cluster, so every path agrees. If full precision cannot tell, it is clustered.
3. flint's precision is one number for the whole process, not one per thread: every function here sets it for
   its own block and restores it, so two threads must not be in the certified scan (or in other ball
   arithmetic) at once. A scanner belongs to one thread; processes are independent.

Method for a cluster of k eigenvalues near the top: refine X (n x k) so that R = C X - X B is tiny, B = k x k.
With Y = X (X^T X)^{-1/2} the eigenvalues of Y^T C Y are those of C within ||R||/sigma_min(X), and no other
eigenvalue of C is above `mu`, which a float64 Cholesky of mu I - C + l X X^T proves. Inside the block the
same is done again, magnified (`_top`).

Cost of a cluster, one window, quiet core: 20 ms at 50 assets and 0.6 s at 378 when two eigenvalues meet. It
grows with n^2 k: a market where nearly all of 50 assets moved exactly once (k = 49) takes a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from flint import acb_mat, arb, arb_mat, ctx, fmpz_mat

from dolphin.domain.bar import FloatArray
from dolphin.domain.errors import InvariantError
from dolphin.domain.scan import OUTCOME_CLUSTERED, OUTCOME_OK, OUTCOME_ZERO_VARIANCE
from dolphin.scan.moments import RETURN_BITS
from dolphin.scan.rounding import bounds, working_precision
from dolphin.scan.solution import Ball, UnitVector, WindowSolution, identity_solution
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
    if relative_gap > 2.0**-26:
        mu = _bound_of_the_rest(C, values, vectors, 1)
        if zero:
            mu = max(mu, 1.0)
        lam, integers, angle = _refine(M, values, vectors, mu, target_bits + gap_bits)
        vector = UnitVector(n, np.array(active, np.int64), angle, integers=integers)
        return WindowSolution(ok, lam, vector, zero)
    return _clustered(M, values, vectors, target_bits, n, active, zero, ok)


def _float_correlation(M: fmpz_mat) -> FloatArray:
    """float64 image of C with entries of relative error below 2**-48, zero exactly where M is."""
    n = M.nrows()
    T = arb_mat(M)  # exact, and float(arb) costs a third of float(int(fmpz))
    Mf = np.array([[0.0] * i + [float(T[i, j]) for j in range(i, n)] for i in range(n)])
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
) -> tuple[Ball, tuple[list[int], list[int]], int]:
    """Sweeps for one eigenpair: exact integer residual, float64 correction. Returns (lambda, integers of the
    vector, exponent of its angle) for `UnitVector`.

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
    U, S, W = fmpz_mat(n, 1), fmpz_mat(n, 1), fmpz_mat(n, 1)  # u, 2**F M u, Delta u
    lam = _units(float(values[-1]), F)
    correction, exponent = d * v, -scale
    for _ in range(_SWEEPS_MAX):
        # The correction as integers of 53 bits (more where the assets' scales differ) times a power of 2.
        drop = max(math.frexp(float(np.abs(correction).max()))[1] - 53 - spread, -F - exponent)
        step = fmpz_mat([[int(x)] for x in np.ldexp(correction, -drop).tolist()])
        unit = 1 << (F + exponent + drop)
        U, S, W = U + step * unit, S + M * step * (unit << F), W + Delta * step * unit
        rho = [int(x) for x in (S - W * lam).entries()]
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
        u = [int(x) for x in U.entries()]
        return Ball(lam, radius, F), (u, diagonal), radius.bit_length() - gap.bit_length() + 1
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
    """How many of the ascending eigenvalues to treat as one dominant cluster.

    The spectrum is cut where the relative distance to the top grows most from one eigenvalue to the next,
    among the places where it is above 1e-7; where there is none, everything is one cluster.
    """
    distance = np.maximum(1.0 - values[::-1] / values[-1], 1e-15)
    growth = np.where(distance[1:] > 1e-7, distance[1:] / distance[:-1], 0.0)
    return int(np.argmax(growth)) + 1 if growth.any() else len(values)


def _clustered(
    M: fmpz_mat,
    values: FloatArray,
    vectors: FloatArray,
    target_bits: int,
    n_assets: int,
    active: list[int],
    zero: tuple[int, ...],
    ok: str,
) -> WindowSolution:
    """lambda_1 by a certified invariant subspace, and the decision whether the spectrum is clustered."""
    sizes = [int(M[i, i]).bit_length() for i in range(len(values))]
    scale_bits = max(sizes) - min(sizes)
    bits = 2 * target_bits + 128 + scale_bits
    with working_precision(bits):
        lam1, lam2 = _top(_ball_correlation(M), target_bits + 40, 2)
        if zero:
            lam2 = lam2.max(arb(1))
        threshold = lam1 * (1 - arb(2) ** -CLUSTER_BITS)
        frac = target_bits + 64
        low, high = bounds(lam1, frac)
        ball = Ball((low + high) >> 1, ((high - low) >> 1) + 1, frac)
        if not ball.certifies(CERTIFIED_BITS):
            raise InvariantError(f"a cluster's eigenvalue has fewer than {CERTIFIED_BITS} certified bits")
        if not lam2 < threshold:
            return WindowSolution(OUTCOME_CLUSTERED, ball, None, zero)
        second = float(lam2.upper()) * (1.0 + 2.0**-50)
        lam, integers, angle = _refine(M, values, vectors, second, target_bits + CLUSTER_BITS + 4)
        vector = UnitVector(n_assets, np.array(active, np.int64), angle, integers=integers)
        return WindowSolution(ok, lam, vector, zero)


def _top(A: arb_mat, target_bits: int, count: int) -> list[arb]:
    """Enclosures of the `count` (1 or 2) largest eigenvalues, largest first, about 2**-target_bits wide.

    A : symmetric, its largest eigenvalue at least 1, at least `count` rows.

    The dominant cluster is cut off as a block of its own. The mean of a block is taken out and what is left
    is blown up to norm 1, so that eigenvalues which agree to any number of bits lie apart on some level,
    where a new cut makes it smaller. It ends with one eigenvalue, or with a block that is scalar to the
    precision asked for (Weyl).
    """
    n = A.nrows()
    if n == 1:
        return [A[0, 0]]
    image = np.array([[float(x) for x in row] for row in A.tolist()])
    image = (image + image.T) / 2
    values, vectors = np.linalg.eigh(image)
    k = _cluster_size(values)
    if k == n:
        return _magnified(A, target_bits, count)
    mu = arb(_bound_of_the_rest(image, values, vectors, k))
    X, error = _invariant_basis(A, values, vectors, k, target_bits)
    if k < count:
        # One eigenvalue, and the largest of the complement: A in an orthonormal basis is block diagonal up to
        # its coupling, which moves no eigenvalue by more than its norm (Weyl).
        B = _in_basis(A, _columns(X) + _columns(arb_mat(vectors[:, :-1].tolist())))
        coupling = arb(0, _frobenius(arb_mat([[B[i, 0]] for i in range(1, n)])))
        rest = arb_mat([[B[i, j] for j in range(1, n)] for i in range(1, n)])
        return [B[0, 0] + coupling, _top(rest, target_bits, 1)[0] + coupling]
    block = _in_basis(A, _columns(X))
    if not _gershgorin(block) - error > mu:
        raise InvariantError("the dominant cluster is not separated")
    return [x + arb(0, error) for x in _magnified(block, target_bits, count)]


def _magnified(A: arb_mat, target_bits: int, count: int) -> list[arb]:
    """`_top` of a block whose eigenvalues lie close together."""
    n = A.nrows()
    one = _identity(n)
    centre = (A.trace() / n).mid()
    rest = A - one * centre
    spread = _frobenius(rest)
    exponent = _exponent(spread)
    if exponent <= -target_bits:
        return [centre + arb(0, spread)] * count
    unit = arb(2) ** exponent
    # |rest / unit| <= 1: shifted by 2 its eigenvalues lie in [1, 3].
    return [centre + (x - 2) * unit for x in _top(rest * (1 / unit) + one * 2, target_bits + exponent, count)]


def _identity(n: int) -> arb_mat:
    return arb_mat([[1 if i == j else 0 for j in range(n)] for i in range(n)])


def _frobenius(A: arb_mat) -> arb:
    """An exact upper bound of the Frobenius norm."""
    return sum((x * x for x in A.entries()), arb(0)).nonnegative_part().sqrt().upper()


def _gershgorin(A: arb_mat) -> arb:
    """A lower bound of the eigenvalues of a symmetric matrix that is nearly diagonal."""
    n = A.nrows()
    ends_of_discs = [A[i, i] - sum((abs(A[i, j]) for j in range(n) if j != i), arb(0)) for i in range(n)]
    least: arb = min((x.lower() for x in ends_of_discs), key=float)
    return least - abs(least) * arb(2) ** -50  # float(x) orders to 53 bits


def _invariant_basis(
    C: arb_mat, values: FloatArray, vectors: FloatArray, k: int, target_bits: int
) -> tuple[arb_mat, arb]:
    """(X, error): X spans nearly the invariant subspace of the top k < n eigenvalues. For an orthonormal Y
    with the same span the eigenvalues of Y^T C Y lie within `error` of k eigenvalues of C.
    """
    n = len(values)
    X = arb_mat(vectors[:, -k:].tolist())
    one = _identity(k)
    inverse = one
    rest, rest_values, top = vectors[:, :-k], values[:-k], values[-k:]
    full, exponent = ctx.prec, 0
    for _ in range(_SWEEPS_MAX):
        # Balls are rigorous at any precision: a residual needs what it cancels, the bits of the next
        # correction and a margin, no more.
        with working_precision(min(full, 192 - exponent)):
            # Any B certifies; the best one is (X^T X)^{-1} X^T C X. One Newton step a sweep keeps the inverse
            # ahead of what the residual needs, for a tenth of what solving costs.
            gram, image = X.transpose() * X, C * X
            inverse = (inverse * (one * 2 - gram * inverse)).mid()
            R = image - X * (inverse * (X.transpose() * image)).mid()
            size = _frobenius(R)
            exponent = _exponent(size)
            if exponent <= -target_bits:
                # sigma_min(X)^2 >= 1 - ||X^T X - I||; float64 start vectors keep it above 0.99.
                if not _frobenius(gram - one) < 0.01:
                    raise InvariantError("the cluster's basis is not orthonormal enough")
                return X, (size * 2).upper()
            unit, inverse_unit = arb(2) ** exponent, arb(2) ** -exponent
            scaled = np.array([[float(x) for x in row] for row in (R * inverse_unit).tolist()])
        # In the float64 basis of the cluster B is diagonal to 1e-15, which is all that a correction needs.
        correction = rest @ ((rest.T @ scaled) / (top[None, :] - rest_values[:, None]))
        X = (X + arb_mat(correction.tolist()) * unit).mid()
    raise InvariantError(f"the invariant subspace of {k} of {n} vectors did not converge")


def _ball_correlation(M: fmpz_mat) -> arb_mat:
    """C in balls of the working precision, symmetric, ones on the diagonal."""
    n = M.nrows()
    inverse = [arb(M[i, i]).rsqrt() for i in range(n)]
    rows = [[arb(1)] * n for _ in range(n)]
    for i in range(n):
        for j in range(i):
            rows[i][j] = rows[j][i] = arb(M[i, j]) * inverse[i] * inverse[j]
    return arb_mat(rows)


def _columns(X: arb_mat) -> list[list[arb]]:
    columns: list[list[arb]] = X.transpose().tolist()
    return columns


def _in_basis(C: arb_mat, columns: list[list[arb]]) -> arb_mat:
    """Y^T C Y, where Y has the columns given, made orthonormal in their order."""
    ortho: list[list[arb]] = []
    for column in columns:
        for other in ortho:
            c = sum((a * b for a, b in zip(column, other, strict=True)), arb(0))
            column = [a - c * b for a, b in zip(column, other, strict=True)]
        norm = sum((a * a for a in column), arb(0)).sqrt()
        ortho.append([a / norm for a in column])
    Y = arb_mat(ortho).transpose()
    return Y.transpose() * C * Y


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


class ScratchSolver(FlintSolver):
    """Spectra from scratch, nothing rolling: every window is summed anew from its rows of integers.

    It shares no state with a rolling solver, so it also finds moments that drifted; about a second a scan of
    50 assets, for a standing check of a few.
    """

    def __init__(self, n_assets: int, windows: Sequence[int]) -> None:
        super().__init__(n_assets, windows)
        self._keep = max(windows) + 1

    def push(self, returns: FloatArray) -> None:
        """Fold one row of returns in, shape (n_assets,)."""
        self._moments.rows.append([return_integer(r) for r in returns.tolist()])
        del self._moments.rows[: -self._keep]

    def solve(self, k: int) -> WindowSolution:
        """Certified solution of window k, which must be full."""
        return self.slow(k)
