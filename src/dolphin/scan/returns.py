"""Correctly rounded log-returns, and what a bar's prices mean for each asset.

1. `r = RN(ln(q))`, `q = RN(price / base)` in float64, RN the rounding to nearest. The kernel evaluates ln in
   double-double with relative error below 2**-96 and accepts the rounding only when 2**-90 cannot change it;
   the rest (about one return in 2**37) is decided by ball arithmetic at rising precision.
2. A missing asset carries its price, with return 0. A return outside |r| < 1 is rejected: the asset counts as
   missing on that bar; the third in a row becomes the new base with return 0.
3. A bar without a price says nothing about a run of rejections: the run stays as it is.

Error of the double-double logarithm: q = m 2**k, m in [3/4, 3/2), c a 10-bit reciprocal of m from the table
(c = 1 around m = 1), z = m c - 1 exact, |z| < 2**-7. ln m = 2 artanh(z / (2 + z)) - ln c; the series is cut
after s**13, with a remainder below 2**-118; its first three coefficients are double-doubles, the tail in
float64 contributes 2**-104. Where c = 1 and k = 0 there is no second term, so nothing cancels; elsewhere |ln
q| > 2**-9 and at most two bits cancel.
"""

from __future__ import annotations

import math

import numpy as np
from flint import arb

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.kernel import kernel
from dolphin.scan.double_double import DoubleDouble, dd_add, dd_div, dd_mul, two_prod, two_sum
from dolphin.scan.rounding import round_ball, working_precision

#: What the bar said about an asset.
FRESH, MISSING, REJECTED, REBASED, INVALID = 0, 1, 2, 3, 4
#: The run of rejections that makes the new price the base.
REJECTIONS_TO_REBASE = 3

_TABLE_LOW, _TABLE_HIGH = 96, 192


def correctly_rounded_log(q: float) -> float:
    """The float64 nearest to ln(q), q finite and positive; ln(1) = 0. Ball arithmetic from 128 bits on."""
    if q == 1.0:
        return 0.0
    bits = 128
    while True:
        with working_precision(bits):
            value = round_ball(arb(q).log())
        if value is not None:
            return value
        bits *= 2  # ln of a rational other than 1 is irrational, hence no tie: this ends


def _split_constant(ball: arb) -> tuple[float, float]:
    high = round_ball(ball)
    if high is None:
        raise ArithmeticError("table constant straddles a rounding boundary")
    low = round_ball(ball - arb(high))
    if low is None:
        raise ArithmeticError("table constant straddles a rounding boundary")
    return high, low


def _log_table() -> FloatArray:
    """Rows (c, hi, lo): c near 128 / i in ten bits, hi + lo = -ln c. The last rows hold ln 2, 1/3 and 1/5."""
    rows = []
    with working_precision(256):
        for i in range(_TABLE_LOW, _TABLE_HIGH + 1):
            c = math.floor(128 / i * 512 + 0.5) / 512
            hi, lo = (0.0, 0.0) if c == 1.0 else _split_constant(-arb(c).log())
            rows.append((c, hi, lo))
        constants = (arb(2).log(), arb(1) / 3, arb(1) / 5)
        rows += [(0.0, *_split_constant(constant)) for constant in constants]
    return np.array(rows, np.float64)


_TABLE = _log_table()


@kernel
def log_double_double(q: float, table: FloatArray) -> DoubleDouble:
    """ln(q) for q in (1/4, 4), relative error below 2**-96; table from `_log_table`, shape (100, 3)."""
    f, k = math.frexp(q)
    if f < 0.75:
        f = f * 2.0
        k = k - 1
    row = int(f * 128.0 + 0.5) - 96
    n = table.shape[0]
    p, e = two_prod(f, table[row, 0])
    zh, zl = two_sum(p - 1.0, e)
    ah, al = two_sum(2.0, zh)
    ah, al = two_sum(ah, al + zl)
    sh, sl = dd_div(zh, zl, ah, al)
    qh, ql = dd_mul(sh, sl, sh, sl)
    tail = qh * (1.0 / 7.0 + qh * (1.0 / 9.0 + qh * (1.0 / 11.0 + qh * (1.0 / 13.0))))
    ph, pl = dd_add(table[n - 1, 1], table[n - 1, 2], tail, 0.0)
    ph, pl = dd_mul(ph, pl, qh, ql)
    ph, pl = dd_add(ph, pl, table[n - 2, 1], table[n - 2, 2])
    ph, pl = dd_mul(ph, pl, qh, ql)
    ph, pl = dd_add(ph, pl, 1.0, 0.0)
    ph, pl = dd_mul(ph, pl, 2.0 * sh, 2.0 * sl)
    ph, pl = dd_add(table[row, 1], table[row, 2], ph, pl)
    if k != 0:
        ah, al = dd_mul(table[n - 3, 1], table[n - 3, 2], float(k), 0.0)
        ph, pl = dd_add(ah, al, ph, pl)
    return ph, pl


@kernel
def log_ratios(
    prices: FloatArray,
    base: FloatArray,
    run: IntArray,
    returns: FloatArray,
    what: IntArray,
    table: FloatArray,
) -> int:
    """Returns of one bar and what it said, without touching `base` and `run`.

    prices : (n,) USDT, NaN where missing. base : (n,) last known prices, NaN before the first. run : (n,)
    rejections in a row. returns, what : (n,), written; a return whose rounding is undecided is NaN. Returns
    the number of those.
    """
    undecided = 0
    for i in range(prices.shape[0]):
        p = prices[i]
        returns[i] = 0.0
        if not (p > 0.0 and p < np.inf):
            what[i] = MISSING if p != p else INVALID
            continue
        b = base[i]
        what[i] = FRESH
        if b != b or p == b:
            continue
        q = 0.0
        if p < 4.0 * b and b < 4.0 * p:
            q = p / b
        if q > 0.36 and q < 2.72:
            hi, lo = log_double_double(q, table)
            e = abs(hi) * 8.077935669463161e-28  # 2**-90
            if hi + (lo + e) != hi or hi + (lo - e) != hi:
                returns[i] = np.nan
                undecided += 1
                continue
            if hi < 1.0 and hi > -1.0:
                returns[i] = hi
                continue
        what[i] = REBASED if run[i] >= REJECTIONS_TO_REBASE - 1 else REJECTED
    return undecided


def bar_returns(
    prices: FloatArray, base: FloatArray, run: IntArray, returns: FloatArray, what: IntArray
) -> None:
    """Fold one bar in: writes `returns` and `what`, updates `base` and `run`. All (n_assets,); see
    `log_ratios`.
    """
    if log_ratios(prices, base, run, returns, what, _TABLE):
        for i in np.flatnonzero(np.isnan(returns)).tolist():
            value = correctly_rounded_log(float(prices[i]) / float(base[i]))
            if -1.0 < value < 1.0:
                returns[i] = value
            else:
                returns[i] = 0.0
                what[i] = REBASED if run[i] >= REJECTIONS_TO_REBASE - 1 else REJECTED
    taken = (what == FRESH) | (what == REBASED)
    base[taken] = prices[taken]
    run[taken] = 0
    run[what == REJECTED] += 1
