"""The dominant eigenpair of a correlation matrix, certified to more than 512 bits, from exact integer
moments.

With M = n S2 - S1 S1^T in integers (`dolphin.scan.moments`) and Delta = diag(M), the correlation matrix is
C = Delta^{-1/2} M Delta^{-1/2}, and C v = lambda v is M u = lambda Delta u with v = Delta^{1/2} u: no square
roots.

Steps: (1) a float64 eigenpair (l, x) of C by Newton with a Cholesky factor of l I - C + l x x^T; (2) a proof
that the second eigenvalue is far; (3) digit sweeps: the residual rho = M u - l Delta u is evaluated exactly,
its correction is solved for in float64 with the same factor (about 45 bits a sweep) and added exactly; (4)
the certificate.

Proof of the certificate. Let (l, u) be the numbers held in digits, v = Delta^{1/2} u, r = C v - l v =
Delta^{-1/2} rho.

1. Residual. Some eigenvalue of C lies within ||r|| / ||v|| of l (C is symmetric). `residual` is exact; its
   float image has absolute error 2**-105 + 2**-51 |rho_i| per component in units of its top digit, the
   factors Delta_ii^{-1/2} have relative error below 2**-49. The computed norm times 1.05, plus sum
   Delta_ii^{-1/2} 2**-104, therefore bounds ||r|| for n <= 400. ||v|| >= 0.99 is measured at the end
   (`settled`): where the assets' scales differ by 2**40 and more, the 53-bit integers of a correction can
   lose whole components of v, and v could shrink to nothing with its residual.
2. Gap. Either lambda_2 <= sqrt(||C||_F^2 - lambda_1^2): the float64 image of C has entries with relative
   error below 2**-48, sums of n^2 <= 160,000 positive terms have relative error below 2e-11, the Rayleigh
   quotient of the float start is below lambda_1 + 1e-12 lambda_1; the slack 1e-10 ||C||_F^2 covers all of it.
   Or the float64 Cholesky of mu I - C + l x x^T succeeds. Then lambda_2(C) <= lambda_max(C - l x x^T) <= mu +
   e (Weyl: C - l x x^T plus a positive rank one), where e covers Rump's ||E|| <= gamma_{n+1} (1 + ...) trace
   <= 1.01 (n+1)^2 u l, and the rounding of the entries, below (n+2) * 16 u l in norm. e = 8 (n+2)^2 u l is
   more than their sum.
3. Since all eigenvalues but one are at most mu < l - ||r||/||v||, the one near l is lambda_1, and
   sin angle(v, v_1) <= ||r|| / ((l - mu) ||v||) (Davis and Kahan, for one vector); 0.99 of the gap is used,
   and `settled` measures that the final l is within 0.005 of the gap of the float64 one.
4. Digits. `add_shifted` needs room above what it adds, so a correction of u that is not below 1, or one of
   lambda not below 2**9, is refused. The start and at most 30 corrections then keep |u| < 32 and lambda <
   2**14, far below the 2**63 of the top digit.

Invariants
1. A status other than 0 is a refusal, never a wrong ball: the caller goes to `dolphin.scan.oracle`.
2. What is published is the correctly rounded value of the true number, so the warm start, which changes the
   digits held here, changes no published bit.
3. Assets without variance are removed before; `mu_floor` = 1 stands for the eigenvalues 1 that they add.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.kernel import kernel
from dolphin.scan.dense import cholesky, cholesky_solve, dot, shifted, symmetric_matvec, transpose_upper
from dolphin.scan.digits import (
    FRACTION_BITS,
    R_DIGITS,
    S_DIGITS,
    U_DIGITS,
    add_correction,
    add_shifted,
    digits_to_double_double,
    float_digit,
    residual,
)
from dolphin.scan.double_double import dd_add, dd_div, dd_mul, dd_sqrt
from dolphin.scan.moments import MATRIX_DIGITS, RETURN_BITS, covariance_digits

#: Relative accuracy that the sweeps aim for, in bits. CERTIFIED_BITS is the floor that is published: a
#: solution that measures less is never published (`dolphin.scan.scanner`).
TARGET_BITS = 532
CERTIFIED_BITS = 512
#: A spectrum is clustered when (lambda_1 - lambda_2) / lambda_1 <= 2**-CLUSTER_BITS (9.3e-10).
CLUSTER_BITS = 30

STATUS_OK = 0
STATUS_ZERO_VARIANCE = 1
STATUS_START = 2
STATUS_GAP = 3
STATUS_SLOW = 4

_MATRIX_BITS = 2 * RETURN_BITS
_SWEEPS_MAX = 30
_TOP = U_DIGITS - 1


class Scratch(NamedTuple):
    """The arrays that one solve of n assets works in; `scratch_for` makes them.

    M, Mf : (n, n, 5) digits and (n, n) float64 image (* 2**-212) of the matrix; Cf : (n, n) its correlation.
    s, w : (n, 18), work : (n, 31), floats : (2 n + 6, n), of no meaning afterwards.
    info : (6,) int64, what was measured: exponent of the radius of lambda, exponent of the bound of the sine
        of the angle, certified relative bits, sweeps, factorisations, digits of M used.
    """

    M: IntArray
    Mf: FloatArray
    s: IntArray
    w: IntArray
    work: IntArray
    Cf: FloatArray
    floats: FloatArray
    info: IntArray


def scratch_for(n_assets: int) -> Scratch:
    """Scratch for `n_assets` assets, all zeros."""
    n = n_assets
    return Scratch(
        M=np.zeros((n, n, MATRIX_DIGITS), np.int64),
        Mf=np.zeros((n, n)),
        s=np.zeros((n, S_DIGITS), np.int64),
        w=np.zeros((n, S_DIGITS), np.int64),
        work=np.zeros((n, R_DIGITS), np.int64),
        Cf=np.zeros((n, n)),
        floats=np.zeros((2 * n + 6, n)),
        info=np.zeros(6, np.int64),
    )


@kernel
def float_start(
    Cf: FloatArray, x: FloatArray, y: FloatArray, r: FloatArray, A: FloatArray, R: FloatArray, t: FloatArray
) -> tuple[bool, float, int]:
    """Dominant float64 eigenpair of Cf by Newton, from the unit-free start x (updated to unit norm).

    Returns (found, eigenvalue, factorisations); R then holds the factor of l I - Cf + l x x^T.
    """
    n = Cf.shape[0]
    norm = math.sqrt(dot(x, x))
    if not (norm > 0.0 and norm < 1e300):
        return False, 0.0, 0
    for i in range(n):
        x[i] = x[i] / norm
    fresh_tolerance = 1e-14 + 1e-16 * n
    n_factors = 0
    lam = 0.0
    ok = False
    factor_lam = 0.0
    previous = 1e300
    for _ in range(30):
        symmetric_matvec(Cf, x, y)
        lam = dot(x, y)
        square = 0.0
        for i in range(n):
            r[i] = y[i] - lam * x[i]
            square = square + r[i] * r[i]
        rn = math.sqrt(square)
        fresh = ok and abs(factor_lam - lam) < fresh_tolerance * lam
        if fresh and (rn < 3e-15 * lam or rn > 0.25 * previous):
            break
        previous = rn
        if not fresh:
            shifted(Cf, lam, lam, x, A)
            n_factors += 1
            if not cholesky(A, R, t):
                # x is not (yet) near the dominant eigenvector: power steps turn it there.
                ok = False
                for _ in range(10):
                    symmetric_matvec(Cf, x, y)
                    norm = math.sqrt(dot(y, y))
                    if not (norm > 0.0):
                        return False, lam, n_factors
                    for i in range(n):
                        x[i] = y[i] / norm
                continue
            ok = True
            factor_lam = lam
            transpose_upper(R, A)
        cholesky_solve(R, A, r, y)
        for i in range(n):
            x[i] = x[i] + y[i]
        norm = math.sqrt(dot(x, x))
        for i in range(n):
            x[i] = x[i] / norm
    return ok, lam, n_factors


@kernel
def second_eigenvalue_bound(Cf: FloatArray, lam: float, x: FloatArray, t: FloatArray) -> float:
    """A proven upper bound of the second eigenvalue (step 2 of the module's proof), or `lam` when there is
    none.

    Cf : (n, n); lam, x : float64 dominant pair; t : (n,) scratch.
    """
    n = Cf.shape[0]
    frobenius = 0.0
    for i in range(n):
        for j in range(n):
            t[j] = Cf[i, j] * Cf[i, j]
        for j in range(n):
            frobenius = frobenius + t[j]
    rest = frobenius - lam * lam
    if rest < 0.0:
        rest = 0.0
    bound: float = math.sqrt(rest + 1e-10 * frobenius)
    if bound < 0.9 * lam:
        return bound
    A = np.empty((n, n))
    R = np.empty((n, n))
    slack = 8.0 * (n + 2) * (n + 2) * 1.1102230246251565e-16
    share = 0.25
    while share >= 4e-9 and share >= 4.0 * slack:
        mu = lam * (1.0 - share)
        shifted(Cf, mu, lam, x, A)
        if cholesky(A, R, t):
            return float(mu + slack * lam)
        share = share * 0.25
    return lam


@kernel
def settled(
    U: IntArray, lam_digits: IntArray, df: FloatArray, su: float, lam: float, separation: float
) -> bool:
    """Whether ||v|| >= 0.99 and |l - lam| < 0.005 separation, from the leading digits of u and l.

    U : (n, 12), lam_digits : (12,); df : (n,) float64 Delta^{-1/2}; su : the power of two that scales u; lam
    : the float64 eigenvalue, separation : its distance to the bound of the second one. Three digits give u_i
    with an absolute error below 2**-106; twice that is taken off, and the rest loses less than 2**-40.
    """
    s1 = 1.1102230246251565e-16  # 2**-53
    square = 0.0
    for i in range(U.shape[0]):
        top = float(U[i, _TOP]) + float(U[i, _TOP - 1]) * s1
        v = abs(top + float(U[i, _TOP - 2]) * (s1 * s1)) - 2.465190328815662e-32  # 2**-105
        if v > 0.0:
            v = v / (df[i] * su)
            square = square + v * v
    moved = abs((float(lam_digits[_TOP]) - lam) + float(lam_digits[_TOP - 1]) * s1)
    return square > 0.985 and moved < 0.005 * separation


@kernel
def dominant_pair(
    scratch: Scratch,
    x: FloatArray,
    mu_floor: float,
    target_bits: int,
    U: IntArray,
    lam_digits: IntArray,
) -> int:
    """Certified dominant eigenpair of the correlation matrix of M.

    Parameters
    ----------
    scratch : holds M and Mf, n >= 2; the top digit of M may be folded in place. `info` and Cf are written.
    x : (n,) start vector, updated to the float64 eigenvector.
    mu_floor : lower limit for the bound of the second eigenvalue (1 when assets were removed, else 0).
    target_bits : relative accuracy wanted.
    U : (n, 12), lam_digits : (12,) results, u = U * 2**-583, lambda = lam_digits * 2**-583.

    Returns
    -------
    STATUS_OK, or the reason of a refusal.
    """
    M, Mf, s, w, work, Cf, floats, info = scratch
    n = M.shape[0]
    A = floats[0:n]
    R = floats[n : 2 * n]
    df = floats[2 * n]
    y = floats[2 * n + 1]
    r = floats[2 * n + 2]
    dx = floats[2 * n + 3]
    rho = floats[2 * n + 4]
    t = floats[2 * n + 5]
    largest = 0.0
    for i in range(n):
        if not (Mf[i, i] > 0.0):
            return STATUS_ZERO_VARIANCE
        df[i] = 1.0 / math.sqrt(Mf[i, i])
        if Mf[i, i] > largest:
            largest = Mf[i, i]
    n_used = 5
    if largest < 256.0:
        # |M| < 2**220: the top digit fits into the one below it, which saves a fifth of the products.
        n_used = 4
        for i in range(n):
            for j in range(n):
                M[i, j, 3] += M[i, j, 4] << 53
                M[i, j, 4] = 0
    for i in range(n):
        for j in range(n):
            Cf[i, j] = Mf[i, j] * df[i] * df[j]
    ok, lam, n_factors = float_start(Cf, x, y, r, A, R, t)
    if not ok:
        return STATUS_START
    mu = second_eigenvalue_bound(Cf, lam, x, t)
    if mu < mu_floor:
        mu = mu_floor
    gap = 0.99 * (lam - mu)
    if not (gap > 1.9e-9 * lam):
        return STATUS_GAP
    _, ratio_exponent = math.frexp(lam / gap)
    target = max(target_bits, target_bits - 14 + ratio_exponent)

    for i in range(n):
        for k in range(U_DIGITS):
            U[i, k] = 0
        for k in range(S_DIGITS):
            s[i, k] = 0
            w[i, k] = 0
    for k in range(U_DIGITS):
        lam_digits[k] = 0
    one = np.empty(1, np.int64)
    di = np.empty(n, np.int64)
    scale_sum = 0.0
    largest = 0.0
    for i in range(n):
        scale_sum = scale_sum + df[i]
        v = abs(df[i] * x[i])
        if v > largest:
            largest = v
    _, eu = math.frexp(largest)
    su = math.ldexp(1.0, -eu)  # |df_i x_i su| < 1
    for i in range(n):
        di[i] = int(df[i] * x[i] * su * 4503599627370496.0)
    shift = FRACTION_BITS - 52
    add_correction(M, n_used, di, shift // 53, shift % 53, U, s, w)
    m, ex = float_digit(lam, FRACTION_BITS)
    one[0] = m
    add_shifted(lam_digits, one, 1, ex // 53, ex % 53)
    lam_low = ex // 53
    u_low = shift // 53
    xx = dot(x, x)
    sweeps = 0
    top = 0
    full = True
    while True:
        # The next residual is 40 or more bits below the last one: compute the digits around its expected top
        # only. The certificate always rests on an exact one.
        p0 = 0
        p1 = R_DIGITS
        if not full:
            p0 = max(top - 5, 0)
            p1 = min(top + 2, R_DIGITS)
        top = residual(s, w, lam_digits, lam_low, u_low, p0, p1, rho, work)
        if top < 0 and full:
            # The pair is exact. A radius of 2**-700 is a valid, if idle, bound.
            info[0] = -700
            info[1] = -700
            info[2] = 700
            break
        square = 0.0
        for i in range(n):
            r[i] = df[i] * rho[i]
            square = square + r[i] * r[i]
        bound = (math.sqrt(square) * 1.05 + scale_sum * 4.930380657631324e-32) / su
        e2 = 53 * top - 2 * FRACTION_BITS - _MATRIX_BITS
        _, ex = math.frexp(bound / lam)
        bits = -(ex + e2)
        if not full and (top < 0 or bits >= target):
            full = True
            continue
        if bits >= target:
            _, ex = math.frexp(bound * 1.02)
            info[0] = ex + e2
            _, ex = math.frexp(bound * 1.02 / gap)
            info[1] = ex + e2
            info[2] = bits
            break
        if sweeps >= _SWEEPS_MAX:
            return STATUS_SLOW
        sweeps += 1
        full = bits + 60 >= target
        shift_lam = dot(x, r) / xx
        for i in range(n):
            dx[i] = r[i] - shift_lam * x[i]
        cholesky_solve(R, A, dx, y)
        if not (dot(y, y) < 1e300 and abs(shift_lam) < 1e300):
            return STATUS_START
        largest = 0.0
        for i in range(n):
            y[i] = y[i] * df[i]
            v = abs(y[i])
            if v > largest:
                largest = v
        if largest > 0.0:
            _, ed = math.frexp(largest)
            if ed + e2 > 0:
                return STATUS_START
            E = 52 - ed
            shift = FRACTION_BITS + e2 - E
            if shift < 0:
                E += shift
                shift = 0
            factor = math.ldexp(1.0, E)
            for i in range(n):
                di[i] = int(y[i] * factor)
            add_correction(M, n_used, di, shift // 53, shift % 53, U, s, w)
            if shift // 53 < u_low:
                u_low = shift // 53
        m, ex = float_digit(shift_lam / su, FRACTION_BITS + e2)
        if ex > FRACTION_BITS - 44:
            return STATUS_START
        if ex < 0:
            m = m >> (-ex) if -ex < 63 else 0
            ex = 0
        one[0] = m
        add_shifted(lam_digits, one, 1, ex // 53, ex % 53)
        if ex // 53 < lam_low:
            lam_low = ex // 53
    if not settled(U, lam_digits, df, su, lam, lam - mu):
        return STATUS_START
    info[3] = sweeps
    info[4] = n_factors
    info[5] = n_used
    return STATUS_OK


@kernel
def unit_vector(
    U: IntArray, M: IntArray, n_used: int, vh: FloatArray, vl: FloatArray, diagonal: IntArray
) -> None:
    """v_i = sqrt(M_ii) u_i / norm as double-doubles, each with relative error below 2**-92 as a function of
    U.

    U : (n, 12) digits, M : (n, n, 5) of which `n_used` digits are used. vh, vl : (n,), diagonal : (n, 5),
    written. Why 2**-92: the conversions and the square root lose less than 2**-99, the norm is a sum of n <=
    400 positive terms (relative error below 400 * 2**-103), the quotient adds 2**-101.
    """
    n = U.shape[0]
    work = np.empty(U_DIGITS, np.int64)
    nh = 0.0
    nl = 0.0
    for i in range(n):
        uh, ul = digits_to_double_double(U[i], U_DIGITS, U_DIGITS - 1, work)
        for k in range(MATRIX_DIGITS):
            diagonal[i, k] = M[i, i, k]
        mh, ml = digits_to_double_double(diagonal[i], n_used, 4, work)
        mh, ml = dd_sqrt(mh, ml)
        ah, al = dd_mul(uh, ul, mh, ml)
        vh[i] = ah
        vl[i] = al
        bh, bl = dd_mul(ah, al, ah, al)
        nh, nl = dd_add(nh, nl, bh, bl)
    nh, nl = dd_sqrt(nh, nl)
    for i in range(n):
        ah, al = dd_div(vh[i], vl[i], nh, nl)
        vh[i] = ah
        vl[i] = al


@kernel
def angle_parts(
    vh: FloatArray, vl: FloatArray, ph: FloatArray, pl: FloatArray
) -> tuple[float, float, float, float]:
    """|cos| and sin of the angle between two unit vectors in double-double: (ch, cl, sh, sl).

    All (n,). With components of relative error 2**-92 both results have absolute error below 2**-88: the
    scalar product loses 2 * 2**-92 + n 2**-102, each component of v - c p loses less than 2**-90 (|v_i| +
    |p_i|), and the root of the sum of squares is a norm.
    """
    n = vh.shape[0]
    ch = 0.0
    cl = 0.0
    for i in range(n):
        a, b = dd_mul(vh[i], vl[i], ph[i], pl[i])
        ch, cl = dd_add(ch, cl, a, b)
    qh = 0.0
    ql = 0.0
    for i in range(n):
        a, b = dd_mul(ch, cl, ph[i], pl[i])
        a, b = dd_add(vh[i], vl[i], -a, -b)
        a, b = dd_mul(a, b, a, b)
        qh, ql = dd_add(qh, ql, a, b)
    sh, sl = dd_sqrt(qh, ql)
    if ch < 0.0:
        ch = -ch
        cl = -cl
    return ch, cl, sh, sl


@kernel
def rounding_failures(vh: FloatArray, vl: FloatArray) -> tuple[int, float]:
    """Components whose nearest float64 is not decided by a relative error of 2**-90, and the sum of the
    components.

    vh, vl : (n,) normalised double-doubles. An absolute error of 2**-400 is allowed for besides.
    """
    failures = 0
    total = 0.0
    for i in range(vh.shape[0]):
        e = abs(vh[i]) * 8.077935669463161e-28 + 3.872591914849318e-121
        if vh[i] + (vl[i] + e) != vh[i] or vh[i] + (vl[i] - e) != vh[i] or abs(vh[i]) < 1e-80:
            failures += 1
        total = total + vh[i]
    return failures, total


@kernel
def solve_window(
    G: IntArray,
    g: IntArray,
    n_bars: int,
    scratch: Scratch,
    x: FloatArray,
    U: IntArray,
    lam_digits: IntArray,
    vh: FloatArray,
    vl: FloatArray,
    diagonal: IntArray,
) -> int:
    """`covariance_digits`, `dominant_pair` and `unit_vector` of one window in one call; same arrays and
    status.
    """
    covariance_digits(G, g, n_bars, scratch.M, scratch.Mf)
    status = dominant_pair(scratch, x, 0.0, TARGET_BITS, U, lam_digits)
    if status == STATUS_OK:
        unit_vector(U, scratch.M, scratch.info[5], vh, vl, diagonal)
    return status
