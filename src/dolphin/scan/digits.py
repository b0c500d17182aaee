"""Exact arithmetic on numbers written in radix 2**53, for the digit sweeps of `dolphin.scan.spectrum`.

A number is an array of int64 digits, least significant first: all but the last lie in [0, 2**53), the last is
signed and carries the sign.

1. Nothing here rounds, except the float64 images that say so.
2. No 128-bit sum overflows: `add_correction` adds n <= 400 products of a digit of M, below 2**62 where the
   top one is folded in, and an integer below 2**53, which stays below 2**124; `residual` adds at most 12
   products of two digits and a carry, which stays below 2**111.
"""

from __future__ import annotations

import math

import numpy as np

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.kernel import kernel
from dolphin.numerics.int128 import add2, addi, mac, msc, sar53
from dolphin.scan.double_double import DoubleDouble, fast_two_sum, two_sum
from dolphin.scan.moments import MATRIX_DIGITS

#: Digits of u and lambda, of which the top one holds the integer part.
U_DIGITS = 12
#: Fractional bits of u and lambda.
FRACTION_BITS = 53 * (U_DIGITS - 1)
#: Digits of M u.
S_DIGITS = U_DIGITS + MATRIX_DIGITS + 1
#: Digits of lambda * (Delta u).
R_DIGITS = U_DIGITS + S_DIGITS + 1

_MASK = (1 << 53) - 1
_HALF = 1 << 52
_POINT = U_DIGITS - 1


@kernel
def add_shifted(target: IntArray, t: IntArray, n_digits: int, position: int, offset: int) -> None:
    """target += (sum_l t_l 2**(53 l)) * 2**(53 position + offset), carries propagated.

    target : (n,) digits. t : digits, the first `n_digits` are used: in [0, 2**53), the last one signed and
    below 2**62. 0 <= offset < 53, position + n_digits < n. A shifted digit falls into two neighbours, so that
    64-bit words suffice; the top digit of `target` takes the sign.
    """
    n = target.shape[0]
    rest = 53 - offset
    above = 0  # what the digit below leaves here
    carry = 0
    p = position
    for k in range(n_digits):
        x = t[k]
        v = target[p] + ((x & (_MASK >> offset)) << offset) + above + carry
        target[p] = v & _MASK
        carry = v >> 53
        above = x >> rest
        p += 1
    carry = carry + above
    while p < n - 1 and carry != 0:
        v = target[p] + carry
        target[p] = v & _MASK
        carry = v >> 53
        p += 1
    target[p] += carry


@kernel
def add_correction(
    M: IntArray, n_used: int, d: IntArray, position: int, offset: int, U: IntArray, s: IntArray, w: IntArray
) -> None:
    """U += d 2**e, s += M d 2**e, w += diag(M) d 2**e with e = 53 position + offset, all exact.

    M : (n, n, 5) digits of which the first `n_used` (4 or 5) are used. d : (n,) integers, |d| < 2**53.
    U : (n, 12), s and w : (n, 18) digit rows, updated.
    """
    n = M.shape[0]
    t = np.empty(8, np.int64)
    zero = 0
    for i in range(n):
        a0 = zero
        a1 = zero
        b0 = zero
        b1 = zero
        c0 = zero
        c1 = zero
        d0 = zero
        d1 = zero
        e0 = zero
        e1 = zero
        if n_used == 5:
            for j in range(n):
                x = d[j]
                a0, a1 = mac(a0, a1, M[i, j, 0], x)
                b0, b1 = mac(b0, b1, M[i, j, 1], x)
                c0, c1 = mac(c0, c1, M[i, j, 2], x)
                d0, d1 = mac(d0, d1, M[i, j, 3], x)
                e0, e1 = mac(e0, e1, M[i, j, 4], x)
        else:
            for j in range(n):
                x = d[j]
                a0, a1 = mac(a0, a1, M[i, j, 0], x)
                b0, b1 = mac(b0, b1, M[i, j, 1], x)
                c0, c1 = mac(c0, c1, M[i, j, 2], x)
                d0, d1 = mac(d0, d1, M[i, j, 3], x)
        t[0] = a0 & _MASK
        k0, k1 = sar53(a0, a1)
        b0, b1 = add2(b0, b1, k0, k1)
        t[1] = b0 & _MASK
        k0, k1 = sar53(b0, b1)
        c0, c1 = add2(c0, c1, k0, k1)
        t[2] = c0 & _MASK
        k0, k1 = sar53(c0, c1)
        d0, d1 = add2(d0, d1, k0, k1)
        t[3] = d0 & _MASK
        k0, k1 = sar53(d0, d1)
        e0, e1 = add2(e0, e1, k0, k1)
        t[4] = e0 & _MASK
        k0, k1 = sar53(e0, e1)
        t[5] = k0
        add_shifted(s[i], t, 6, position, offset)
        x = d[i]
        k0 = zero
        k1 = zero
        for k in range(n_used):
            k0, k1 = mac(k0, k1, M[i, i, k], x)
            t[k] = k0 & _MASK
            k0, k1 = sar53(k0, k1)
        t[n_used] = k0
        add_shifted(w[i], t, n_used + 1, position, offset)
        t[0] = x
        add_shifted(U[i], t, 1, position, offset)


@kernel
def residual(
    s: IntArray,
    w: IntArray,
    lam: IntArray,
    lam_low: int,
    w_low: int,
    p0: int,
    p1: int,
    rho: FloatArray,
    work: IntArray,
) -> int:
    """Digits p0 to p1 - 1 of rho_i = s_i 2**F - lam w_i and their float64 images.

    s, w : (n, 18); lam : (12,), whose digits below `lam_low` are zero, as are those of w below `w_low`.
    work : (n, 31), written. rho : (n,), written: the residuals in units of 2**(53 top). With p0 = 0 and p1 =
    31 they are exact up to an absolute error of 2**-105 + 2**-51 |rho_i|. Otherwise they are what the digits
    say if |rho_i| < 2**(53 p1 - 1), which the caller has no proof of: good for a correction, not for a
    certificate.

    Returns the highest non-zero digit `top` over all i, or -1 when every digit is zero.
    """
    n = s.shape[0]
    top = -1
    last = p1 - 1
    for i in range(n):
        c0 = 0
        c1 = 0
        for p in range(p0, p1):
            q = p - _POINT
            if 0 <= q < S_DIGITS:
                c0, c1 = addi(c0, c1, s[i, q])
            a = p - S_DIGITS + 1
            if a < lam_low:
                a = lam_low
            b = p - w_low
            if b > U_DIGITS - 1:
                b = U_DIGITS - 1
            for k in range(a, b + 1):
                c0, c1 = msc(c0, c1, lam[k], w[i, p - k])
            if p == R_DIGITS - 1:
                work[i, p] = c0
            else:
                work[i, p] = c0 & _MASK
                c0, c1 = sar53(c0, c1)
        if p1 < R_DIGITS:
            # The digits above are all sign: read the last one as signed.
            work[i, last] = (work[i, last] ^ _HALF) - _HALF
        if work[i, last] < 0:
            rho[i] = -1.0
            carry = 0
            for p in range(p0, last):
                v = carry - work[i, p]
                work[i, p] = v & _MASK
                carry = v >> 53
            work[i, last] = carry - work[i, last]
        else:
            rho[i] = 1.0
        for p in range(last, max(top, p0 - 1), -1):
            if work[i, p] != 0:
                top = p
                break
    if top < 0:
        for i in range(n):
            rho[i] = 0.0
        return top
    s1 = 1.1102230246251565e-16  # 2**-53
    s2 = s1 * s1
    for i in range(n):
        v = float(work[i, top])
        if top > p0:
            v = v + float(work[i, top - 1]) * s1
        if top > p0 + 1:
            v = v + float(work[i, top - 2]) * s2
        rho[i] = rho[i] * v
    return top


@kernel
def float_digit(x: float, exponent: int) -> tuple[int, int]:
    """x * 2**exponent as (m, e) with value m * 2**e and |m| <= 2**53, exact."""
    m, ex = math.frexp(x)
    return int(m * 9007199254740992.0), ex - 53 + exponent


@kernel
def digits_to_double_double(digits: IntArray, n_digits: int, point: int, work: IntArray) -> DoubleDouble:
    """The number sum_l digits_l 2**(53 (l - point)) as a double-double, relative error below 2**-103.

    digits : (>= n_digits,), the last used one signed. work : (>= n_digits,) scratch.
    """
    sign = 1.0
    if digits[n_digits - 1] < 0:
        sign = -1.0
        carry = 0
        for k in range(n_digits - 1):
            v = carry - digits[k]
            work[k] = v & _MASK
            carry = v >> 53
        work[n_digits - 1] = carry - digits[n_digits - 1]
    else:
        for k in range(n_digits):
            work[k] = digits[k]
    top = n_digits - 1
    while top > 0 and work[top] == 0:
        top -= 1
    # The top digit may exceed 53 bits (a folded matrix digit): split it so that both halves convert exactly.
    high = float(work[top] >> 20) * 1048576.0
    hi, lo = fast_two_sum(high, float(work[top] & 1048575))
    s1 = 1.1102230246251565e-16  # 2**-53
    if top > 0:
        a, b = two_sum(hi, float(work[top - 1]) * s1)
        hi, lo = fast_two_sum(a, b + lo)
    if top > 1:
        hi, lo = fast_two_sum(hi, lo + float(work[top - 2]) * (s1 * s1))
    scale = math.ldexp(sign, int(53 * (top - point)))
    return hi * scale, lo * scale
