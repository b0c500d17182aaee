"""Small dense float64 kernels, written so that the compiler vectorises without reordering any sum.

Every inner loop runs over independent elements (an axpy over a row), never along a sum. Arrays are
C-contiguous float64.

1. `cholesky` succeeds only if every pivot is positive; then A + E is positive semidefinite for some symmetric
   E with ||E||_2 <= gamma_{n+1} / (1 - gamma_{n+1}) * trace(A), gamma_k = k u / (1 - k u), u = 2**-53,
   whatever the order of the subtractions (Rump 2006, theorem 2.3; Higham 2002, theorem 10.3).
"""

from __future__ import annotations

import math

from dolphin.domain.bar import FloatArray
from dolphin.kernel import kernel


@kernel
def dot(x: FloatArray, y: FloatArray) -> float:
    """sum x_i y_i in index order."""
    s = 0.0
    for i in range(x.shape[0]):
        s = s + x[i] * y[i]
    return s


@kernel
def symmetric_matvec(C: FloatArray, x: FloatArray, y: FloatArray) -> None:
    """y = C x for symmetric C, shape (n, n), summed row by row."""
    n = C.shape[0]
    for j in range(n):
        y[j] = 0.0
    i = 0
    while i + 4 <= n:
        x0 = x[i]
        x1 = x[i + 1]
        x2 = x[i + 2]
        x3 = x[i + 3]
        for j in range(n):
            y[j] = (((y[j] + x0 * C[i, j]) + x1 * C[i + 1, j]) + x2 * C[i + 2, j]) + x3 * C[i + 3, j]
        i += 4
    while i < n:
        x0 = x[i]
        for j in range(n):
            y[j] = y[j] + x0 * C[i, j]
        i += 1


@kernel
def shifted(C: FloatArray, mu: float, sigma: float, x: FloatArray, A: FloatArray) -> None:
    """Upper triangle of A = mu I - C + sigma x x^T, shapes (n, n) and (n,)."""
    n = C.shape[0]
    for i in range(n):
        c = sigma * x[i]
        for j in range(i, n):
            A[i, j] = c * x[j] - C[i, j]
        A[i, i] = A[i, i] + mu


@kernel
def cholesky(A: FloatArray, R: FloatArray, t: FloatArray) -> bool:
    """Upper factor R of A = R^T R from the upper triangle of A. False when a pivot is not positive.

    A, R : (n, n); only the upper triangle of R is written. t : (n,) scratch.
    """
    n = A.shape[0]
    for i in range(n):
        for j in range(i, n):
            t[j] = A[i, j]
        k = 0
        while k + 4 <= i:
            a0 = R[k, i]
            a1 = R[k + 1, i]
            a2 = R[k + 2, i]
            a3 = R[k + 3, i]
            for j in range(i, n):
                t[j] = (((t[j] - a0 * R[k, j]) - a1 * R[k + 1, j]) - a2 * R[k + 2, j]) - a3 * R[k + 3, j]
            k += 4
        while k < i:
            a0 = R[k, i]
            for j in range(i, n):
                t[j] = t[j] - a0 * R[k, j]
            k += 1
        s = t[i]
        if not (s > 0.0):
            return False
        s = math.sqrt(s)
        for j in range(i, n):
            R[i, j] = t[j] / s
        R[i, i] = s
    return True


@kernel
def transpose_upper(R: FloatArray, Lt: FloatArray) -> None:
    """Lt[j, i] = R[i, j] for i <= j: rows of Lt are columns of R, for the back substitution."""
    n = R.shape[0]
    for i in range(n):
        for j in range(i, n):
            Lt[j, i] = R[i, j]


@kernel
def cholesky_solve(R: FloatArray, Lt: FloatArray, b: FloatArray, y: FloatArray) -> None:
    """y = (R^T R)^{-1} b, both substitutions column by column. R, Lt : (n, n) as made above; b, y : (n,)."""
    n = R.shape[0]
    for i in range(n):
        y[i] = b[i]
    for i in range(n):
        c = y[i] / R[i, i]
        y[i] = c
        for j in range(i + 1, n):
            y[j] = y[j] - c * R[i, j]
    for i in range(n - 1, -1, -1):
        c = y[i] / R[i, i]
        y[i] = c
        for j in range(i):
            y[j] = y[j] - c * Lt[i, j]
