"""Logarithm and exponential with the same bits on every machine, compiled or not.

Built from + - * /, comparisons, frexp and ldexp alone: the C library's and numpy's own change with the
library's version and the processor. The algorithms are fdlibm's (Sun Microsystems, 1993: `s_log1p.c`,
`e_exp.c`), whose errors stay below 1 ulp.
"""

from __future__ import annotations

import math

from dolphin.kernel import kernel

_LN2_HI = 6.93147180369123816490e-01
_LN2_LO = 1.90821492927058770002e-10
_L1 = 6.666666666666735130e-01
_L2 = 3.999999999940941908e-01
_L3 = 2.857142874366239149e-01
_L4 = 2.222219843214978396e-01
_L5 = 1.818357216161805012e-01
_L6 = 1.531383769920937332e-01
_L7 = 1.479819860511658591e-01
_INV_LN2 = 1.44269504088896338700
_P1 = 1.66666666666666019037e-01
_P2 = -2.77777777770155933842e-03
_P3 = 6.61375632143793436117e-05
_P4 = -1.65339022054652515390e-06
_P5 = 4.13813679705723846039e-08


@kernel
def clamp(x: float, low: float, high: float) -> float:
    """min(max(x, low), high), as explicit comparisons."""
    y = x
    if y < low:
        y = low
    if y > high:
        y = high
    return y


@kernel
def log1p(x: float) -> float:
    """ln(1 + x) for x > -1; -inf at -1, nan below. Error below 1 ulp.

    References
    ----------
    fdlibm `s_log1p.c`. Twin: the 128-bit interval arithmetic of the tests.
    """
    if x <= -1.0:
        return -math.inf if x == -1.0 else math.nan
    if -1.862645149230957e-09 < x < 1.862645149230957e-09:
        return x - x * x * 0.5
    c = 0.0
    k = 0.0
    if -0.2928932188134524 < x < 0.41421356237309503:
        f = x
    else:
        u = x
        if x < 9007199254740992.0:
            u = 1.0 + x
            c = 1.0 - (u - x) if u >= 2.0 else x - (u - 1.0)
            c = c / u
        elif x == math.inf:
            return x
        m, e = math.frexp(u)
        if m < 0.7071067811865476:
            m = m * 2.0
            e = e - 1
        k = float(e)
        f = m - 1.0
    h = 0.5 * f * f
    s = f / (2.0 + f)
    z = s * s
    r = z * (_L1 + z * (_L2 + z * (_L3 + z * (_L4 + z * (_L5 + z * (_L6 + z * _L7))))))
    if k == 0.0:  # c is not zero at the two ends of the direct range; without it the error there passes 1 ulp
        return f - (h - (s * (h + r) + c))
    return k * _LN2_HI - ((h - (s * (h + r) + (k * _LN2_LO + c))) - f)


@kernel
def exp(x: float) -> float:
    """e**x. Error below 1 ulp; 0 below -745.2, inf above 709.79.

    References
    ----------
    fdlibm `e_exp.c`. Twin: the 128-bit interval arithmetic of the tests.
    """
    if x > 709.782712893384:
        return math.inf
    if x < -745.1332191019411:
        return 0.0
    if -3.725290298461914e-09 < x < 3.725290298461914e-09:
        return 1.0 + x
    k = 0
    high = x
    low = 0.0
    if x > 0.34657359027997264 or x < -0.34657359027997264:
        k = int(_INV_LN2 * x + (0.5 if x > 0.0 else -0.5))
        high = x - k * _LN2_HI
        low = k * _LN2_LO
    r = high - low
    t = r * r
    c = r - t * (_P1 + t * (_P2 + t * (_P3 + t * (_P4 + t * _P5))))
    if k == 0:
        return 1.0 - ((r * c) / (c - 2.0) - r)
    y = 1.0 - ((low - (r * c) / (2.0 - c)) - high)
    return math.ldexp(y, k)
