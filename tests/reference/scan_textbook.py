"""The scan's mathematics as the specification writes it, in ball arithmetic, with nothing shared with the
source.

Slow and plain: correlation from integer sums, all complex eigenpairs by `acb_mat.eig`, the formulas of each
column as they stand. Every function takes float64 prices or returns and gives balls.
"""

from __future__ import annotations

from fractions import Fraction

from flint import acb_mat, arb, arb_mat, ctx

BITS = 900


def covariance(rows: list[list[int]]) -> list[list[int]]:
    """n sum R_i R_j - sum R_i sum R_j in Python integers."""
    n = len(rows)
    columns = list(zip(*rows, strict=True))
    totals = [sum(c) for c in columns]
    return [
        [
            n * sum(a * b for a, b in zip(x, y, strict=True)) - s * t
            for y, t in zip(columns, totals, strict=True)
        ]
        for x, s in zip(columns, totals, strict=True)
    ]


def integers(returns: list[list[float]]) -> list[list[int]]:
    """R = r * 2**106; fails when that is no integer."""
    table = []
    for row in returns:
        line = [Fraction(float(r)) * 2**106 for r in row]
        assert all(x.denominator == 1 for x in line)
        table.append([int(x) for x in line])
    return table


def log_return(price: float, base: float) -> float:
    """Nearest float64 of ln(price / base), the quotient taken in float64."""
    ctx.prec = 400
    ball = arb(float(price) / float(base)).log()
    low, high = float(ball.lower()), float(ball.upper())
    assert low == high
    return low


def dominant(returns: list[list[float]], bits: int = BITS) -> tuple[arb, list[arb]]:
    """(lambda_max, unit eigenvector) of the correlation matrix; every asset must have variance.

    About 60 of `bits` are lost on the way. 50 assets take 0.3 s with 620 bits.
    """
    ctx.prec = bits
    n_bars, n = len(returns), len(returns[0])
    A, ones = arb_mat(returns), arb_mat([[1] * len(returns)])
    total = ones * A
    M = A.transpose() * A * n_bars - total.transpose() * total
    root = [M[i, i].sqrt() for i in range(n)]
    C = acb_mat([[M[i, j] / (root[i] * root[j]) for j in range(n)] for i in range(n)])
    values, right = C.eig(right=True)
    top = max(range(n), key=lambda k: float(values[k].real.mid()))
    raw = [right[i, top] for i in range(n)]
    pivot = max(raw, key=lambda z: float(abs(z).mid()))
    real = [(z / pivot).real for z in raw]
    norm = sum((x * x for x in real), arb(0)).sqrt()
    return values[top].real, [x / norm for x in real]


def largest_eigenvalue(M: list[list[int]]) -> arb:
    """Enclosure of lambda_max for any spectrum, by the cluster algorithm where it must be."""
    ctx.prec = BITS
    n = len(M)
    root = [arb(M[i][i]).sqrt() for i in range(n)]
    C = acb_mat(arb_mat([[arb(M[i][j]) / (root[i] * root[j]) for j in range(n)] for i in range(n)]))
    try:
        values = C.eig()
    except ValueError:
        values = C.eig(multiple=True)
    # Balls of a cluster overlap: the largest eigenvalue lies above every lower end and below one upper end.
    low = max((z.real.lower() for z in values), key=lambda x: float(x.mid()))
    high = max((z.real.upper() for z in values), key=lambda x: float(x.mid()))
    return low.union(high)


def eigenvalues_above(M: list[list[int]], numerator: int, denominator: int) -> int | None:
    """How many eigenvalues of the correlation matrix of M exceed numerator / denominator > 0, exactly.

    The signs of the leading minors of numerator Delta - denominator M by Bareiss elimination in integers
    (Jacobi's rule); None when a minor vanishes. Every asset must have variance.
    """
    n = len(M)
    A = [[(numerator if i == j else 0) * M[i][i] - denominator * M[i][j] for j in range(n)] for i in range(n)]
    count, previous, sign = 0, 1, 1
    for k in range(n):
        pivot = A[k][k]
        if pivot == 0:
            return None
        count += (pivot > 0) != (sign > 0)
        sign = pivot
        for i in range(k + 1, n):
            for j in range(k + 1, n):
                A[i][j] = (A[i][j] * pivot - A[i][k] * A[k][j]) // previous
        previous = pivot
    return count


def nearest(ball: arb) -> float:
    """The float64 nearest to every number of the ball."""
    ctx.prec = BITS
    low, high = float(ball.lower()), float(ball.upper())
    assert low == high
    return low


def columns(
    new: tuple[arb, list[arb]], old: tuple[arb, list[arb]], dt_ns: int
) -> tuple[float, float, float, float]:
    """(lambda_max, velocity, rotation, instability) by the formulas of the specification."""
    ctx.prec = BITS
    (lam, u), (former, p) = new, old
    velocity = (lam - former) / (arb(dt_ns) / 10**9)
    product = sum((a * b for a, b in zip(u, p, strict=True)), arb(0))
    rest = [a - product * b for a, b in zip(u, p, strict=True)]
    sine = sum((x * x for x in rest), arb(0)).sqrt()
    rotation = arb.atan2(sine, abs(product))
    cos = rotation.cos()
    instability = (lam * lam + former * former - 2 * lam * former * cos * cos).sqrt() / former
    return nearest(lam), nearest(velocity), nearest(rotation), nearest(instability)


def loadings(u: list[arb]) -> tuple[float, ...]:
    """Unit eigenvector with sum >= 0."""
    ctx.prec = BITS
    total = sum(u, arb(0))
    return tuple(nearest(-x if total < 0 else x) for x in u)
