"""Exact rolling second moments of float64 returns, and the integer covariance matrix built from them.

A float64 return r with |r| < 1 and no bit below 2**-106 is the integer R = r * 2**106. It is kept as R = h *
2**53 + l with |h|, |l| < 2**53 and equal signs. Per window and pair three signed 128-bit sums are kept,

    A = sum h_i h_j,   B = sum (h_i l_j + l_i h_j),   D = sum l_i l_j,

so that sum R_i R_j = A * 2**106 + B * 2**53 + D.

1. Adding the newest bar and removing the oldest is exact: the sums after any number of updates equal the sums
   of a recomputation from scratch, bit for bit.
2. No sum overflows for windows up to 750: |B| < 750 * 2 * 2**106 < 2**117. In `covariance_digits` n * B stays
   below 2**126.2, and |n A - gh_i gh_j| <= 2**125.1 + 2**125.2 < 2**127; the first sums stay below 750 *
   2**53 < 2**63.
3. M = n * G - g g^T is an integer matrix with |M_ij| < 2**232 (|n sum R_i R_j| <= 750**2 * 2**212).

Entry points: `to_fixed`, `moments_update`, `covariance_digits`, `principal_part`; `Moments` owns the arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.errors import DataError
from dolphin.domain.scan import WINDOWS
from dolphin.kernel import kernel
from dolphin.numerics.int128 import add2, mac, msc, muli, sar53

#: Binary digits of one radix digit.
RADIX_BITS = 53
#: A return is an integer multiple of 2**-RETURN_BITS.
RETURN_BITS = 106
WINDOW_MAX = 750
N_ASSETS_MAX = 400
#: Radix digits of one entry of M.
MATRIX_DIGITS = 5

_MASK = (1 << RADIX_BITS) - 1


@kernel
def to_fixed(bits: IntArray, h: IntArray, l: IntArray) -> int:  # noqa: E741
    """Split float64 returns into R = h * 2**53 + l.

    `bits` are the float64 bit patterns, shape (n_assets,), int64; `h` and `l` (same shape) are written.
    Returns the number of entries that are not exact (|r| >= 1, NaN, or a bit below 2**-106).
    """
    bad = 0
    for i in range(bits.shape[0]):
        b = bits[i]
        e = (b >> 52) & 0x7FF
        m = b & 0xFFFFFFFFFFFFF
        h[i] = 0
        l[i] = 0
        if e == 0 and m == 0:
            continue
        if e == 0 or e > 1022:
            bad += 1
            continue
        m |= 1 << 52
        shift = e - 969
        if shift >= 0:
            low = (m & ((1 << (53 - shift)) - 1)) << shift
            high = m >> (53 - shift)
        else:
            if -shift > 52 or (m & ((1 << (-shift)) - 1)) != 0:
                bad += 1
                continue
            low = m >> (-shift)
            high = 0
        if b < 0:
            low = -low
            high = -high
        h[i] = high
        l[i] = low
    return bad


@kernel
def moments_update(
    G: IntArray, g: IntArray, H: IntArray, L: IntArray, slot: int, windows: IntArray, n_returns: int
) -> None:
    """Add the row at `slot` to every window and remove the row that leaves it.

    G : (n_windows, n_pairs, 6) three (lo, hi) sums per pair i <= j in row order. g : (n_windows, n_assets, 2)
    sums of h and l. H, L : (capacity, n_assets) ring with capacity > max window. n_returns : rows pushed,
    this one included.
    """
    n_assets = H.shape[1]
    capacity = H.shape[0]
    for w in range(windows.shape[0]):
        full = n_returns > windows[w]
        old = (slot - windows[w]) % capacity
        for i in range(n_assets):
            g[w, i, 0] += H[slot, i]
            g[w, i, 1] += L[slot, i]
            if full:
                g[w, i, 0] -= H[old, i]
                g[w, i, 1] -= L[old, i]
        p = 0
        for i in range(n_assets):
            hi = H[slot, i]
            li = L[slot, i]
            if full:
                ho = -H[old, i]
                lo = -L[old, i]
                for j in range(i, n_assets):
                    hj = H[slot, j]
                    lj = L[slot, j]
                    hk = H[old, j]
                    lk = L[old, j]
                    a0, a1 = mac(G[w, p, 0], G[w, p, 1], hi, hj)
                    b0, b1 = mac(G[w, p, 2], G[w, p, 3], hi, lj)
                    b0, b1 = mac(b0, b1, li, hj)
                    c0, c1 = mac(G[w, p, 4], G[w, p, 5], li, lj)
                    a0, a1 = mac(a0, a1, ho, hk)
                    b0, b1 = mac(b0, b1, ho, lk)
                    b0, b1 = mac(b0, b1, lo, hk)
                    c0, c1 = mac(c0, c1, lo, lk)
                    G[w, p, 0] = a0
                    G[w, p, 1] = a1
                    G[w, p, 2] = b0
                    G[w, p, 3] = b1
                    G[w, p, 4] = c0
                    G[w, p, 5] = c1
                    p += 1
            else:
                for j in range(i, n_assets):
                    hj = H[slot, j]
                    lj = L[slot, j]
                    a0, a1 = mac(G[w, p, 0], G[w, p, 1], hi, hj)
                    b0, b1 = mac(G[w, p, 2], G[w, p, 3], hi, lj)
                    b0, b1 = mac(b0, b1, li, hj)
                    c0, c1 = mac(G[w, p, 4], G[w, p, 5], li, lj)
                    G[w, p, 0] = a0
                    G[w, p, 1] = a1
                    G[w, p, 2] = b0
                    G[w, p, 3] = b1
                    G[w, p, 4] = c0
                    G[w, p, 5] = c1
                    p += 1


@kernel
def covariance_digits(G: IntArray, g: IntArray, n: int, M: IntArray, Mf: FloatArray) -> None:
    """M = n * sum R R^T - (sum R)(sum R)^T as radix-2**53 digits, and its float64 image.

    G : (n_pairs, 6), g : (n_assets, 2) of one window of `n` bars. M : (n_assets, n_assets, 5), written: four
    digits in [0, 2**53) and a signed top digit. Mf : (n_assets, n_assets), written: M * 2**-212 with relative
    error < 2**-50.
    """
    n_assets = g.shape[0]
    gh = np.empty(n_assets, np.int64)
    gl = np.empty(n_assets, np.int64)
    for i in range(n_assets):
        c = g[i, 1] >> 53
        gl[i] = g[i, 1] - (c << 53)
        gh[i] = g[i, 0] + c
    s0 = 1.1102230246251565e-16  # 2**-53
    s1 = s0 * s0
    s2 = s1 * s0
    s3 = s1 * s1
    p = 0
    for i in range(n_assets):
        for j in range(i, n_assets):
            x0, x1 = muli(G[p, 0], G[p, 1], n)
            x0, x1 = msc(x0, x1, gh[i], gh[j])
            y0, y1 = muli(G[p, 2], G[p, 3], n)
            y0, y1 = msc(y0, y1, gh[i], gl[j])
            y0, y1 = msc(y0, y1, gl[i], gh[j])
            z0, z1 = muli(G[p, 4], G[p, 5], n)
            z0, z1 = msc(z0, z1, gl[i], gl[j])
            d0 = z0 & _MASK
            c0, c1 = sar53(z0, z1)
            y0, y1 = add2(y0, y1, c0, c1)
            d1 = y0 & _MASK
            c0, c1 = sar53(y0, y1)
            x0, x1 = add2(x0, x1, c0, c1)
            d2 = x0 & _MASK
            c0, c1 = sar53(x0, x1)
            d3 = c0 & _MASK
            c0, c1 = sar53(c0, c1)
            d4 = c0
            M[i, j, 0] = d0
            M[i, j, 1] = d1
            M[i, j, 2] = d2
            M[i, j, 3] = d3
            M[i, j, 4] = d4
            M[j, i, 0] = d0
            M[j, i, 1] = d1
            M[j, i, 2] = d2
            M[j, i, 3] = d3
            M[j, i, 4] = d4
            # The digits of |M| are all >= 0, so their float sum has no cancellation.
            if d4 < 0:
                e0 = -d0
                k = e0 >> 53
                e0 &= _MASK
                e1 = k - d1
                k = e1 >> 53
                e1 &= _MASK
                e2 = k - d2
                k = e2 >> 53
                e2 &= _MASK
                e3 = k - d3
                k = e3 >> 53
                e3 &= _MASK
                e4 = k - d4
                f = -((float(e4) + float(e3) * s0) + (float(e2) * s1 + (float(e1) * s2 + float(e0) * s3)))
            else:
                f = (float(d4) + float(d3) * s0) + (float(d2) * s1 + (float(d1) * s2 + float(d0) * s3))
            Mf[i, j] = f
            Mf[j, i] = f
            p += 1


@kernel
def principal_part(M: IntArray, Mf: FloatArray, active: IntArray, part: IntArray, part_f: FloatArray) -> None:
    """part = M and part_f = Mf on the rows and columns `active`.

    M : (n, n, 5), Mf : (n, n), active : (m,) increasing; part : (m, m, 5), part_f : (m, m), written.
    """
    m = active.shape[0]
    for i in range(m):
        for j in range(m):
            for k in range(MATRIX_DIGITS):
                part[i, j, k] = M[active[i], active[j], k]
            part_f[i, j] = Mf[active[i], active[j]]


class Moments:
    """Ring of exact returns and the exact sums of every window.

    Parameters: `n_assets` in 1..400; `windows` in bars, each in 2..750. Raises DataError outside these
    ranges.
    """

    def __init__(self, n_assets: int, windows: Sequence[int] = WINDOWS) -> None:
        if not 1 <= n_assets <= N_ASSETS_MAX:
            raise DataError(f"a scan needs 1 to {N_ASSETS_MAX} assets, got {n_assets}")
        if any(not 2 <= w <= WINDOW_MAX for w in windows):
            raise DataError(f"windows must be in 2..{WINDOW_MAX} bars, got {tuple(windows)}")
        self.n_assets = n_assets
        self.windows = np.array(windows, np.int64)
        self.capacity = (
            int(max(windows)) + 2
        )  # one bar more than the longest window, for the window one bar earlier
        self.H = np.zeros((self.capacity, n_assets), np.int64)
        self.L = np.zeros((self.capacity, n_assets), np.int64)
        self.G = np.zeros((len(windows), n_assets * (n_assets + 1) // 2, 6), np.int64)
        self.g = np.zeros((len(windows), n_assets, 2), np.int64)
        self.slot = -1
        self.n_returns = 0

    def push(self, returns: FloatArray) -> None:
        """Fold one row of log-returns in, shape (n_assets,), float64, |r| < 1. Raises DataError if one is
        inexact.
        """
        slot = (self.slot + 1) % self.capacity
        row = np.ascontiguousarray(returns, np.float64)
        if row.shape != (self.n_assets,):
            raise DataError(f"returns have shape {row.shape}, expected ({self.n_assets},)")
        if to_fixed(row.view(np.int64), self.H[slot], self.L[slot]):
            raise DataError("a log-return is outside the exact range: |r| < 1, no bit below 2**-106")
        self.slot = slot
        self.n_returns += 1
        moments_update(self.G, self.g, self.H, self.L, slot, self.windows, self.n_returns)

    def window_rows(self, n_bars: int, lag: int = 0) -> list[list[int]]:
        """The integers R = r * 2**106 of `n_bars` returns that end `lag` bars ago, oldest first."""
        if n_bars + lag > min(self.n_returns, self.capacity):
            raise DataError(f"{n_bars} returns {lag} bars ago are not in the ring")
        slots = [(self.slot - lag - k) % self.capacity for k in range(n_bars - 1, -1, -1)]
        return [
            [(h << RADIX_BITS) + low for h, low in zip(self.H[s].tolist(), self.L[s].tolist(), strict=True)]
            for s in slots
        ]
