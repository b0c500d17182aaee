"""Moon and Mercury from other formulas than the library's: twins of `dolphin.factors.sky`.

Sources: Meeus, "Astronomical Algorithms", 2nd ed., chapter 49 (the moon's quarters, without the planets'
terms, good to two minutes); Standish, "Keplerian elements for approximate positions of the major planets",
JPL, 1800 to 2050 (Mercury and the Earth, good to a minute of arc).
"""

from __future__ import annotations

import math

JD_UNIX = 2_440_587.5
#: TT - UT in the 2020s, seconds.
DELTA_T_S = 69.2
_SYNODIC = 29.530588861

# (new moon, full moon, coefficients of M', M, F, E) in days, then the quarters'.
_SYZYGY = (
    (-0.40720, -0.40614, 1, 0, 0, 0), (0.17241, 0.17302, 0, 1, 0, 1), (0.01608, 0.01614, 2, 0, 0, 0),
    (0.01039, 0.01043, 0, 0, 2, 0), (0.00739, 0.00734, 1, -1, 0, 1), (-0.00514, -0.00515, 1, 1, 0, 1),
    (0.00208, 0.00209, 0, 2, 0, 2), (-0.00111, -0.00111, 1, 0, -2, 0), (-0.00057, -0.00057, 1, 0, 2, 0),
    (0.00056, 0.00056, 2, 1, 0, 1), (-0.00042, -0.00042, 3, 0, 0, 0), (0.00042, 0.00042, 0, 1, 2, 1),
    (0.00038, 0.00038, 0, 1, -2, 1), (-0.00024, -0.00024, 2, -1, 0, 1),
)  # fmt: skip
_QUARTER = (
    (-0.62801, 1, 0, 0, 0), (0.17172, 0, 1, 0, 1), (-0.01183, 1, 1, 0, 1), (0.00862, 2, 0, 0, 0),
    (0.00804, 0, 0, 2, 0), (0.00454, 1, -1, 0, 1), (0.00204, 0, 2, 0, 2), (-0.00180, 1, 0, -2, 0),
    (-0.00070, 1, 0, 2, 0), (-0.00040, 3, 0, 0, 0), (-0.00034, 2, -1, 0, 1), (0.00032, 0, 1, 2, 1),
    (0.00032, 0, 1, -2, 1), (-0.00028, 1, 2, 0, 2), (0.00027, 2, 1, 0, 1),
)  # fmt: skip


def moon_quarter_s(k: float) -> float:
    """Unix seconds of quarter k: whole for new moons (0 is that of January 2000), then by quarters."""
    t = k / 1236.85
    e = 1.0 - 0.002516 * t - 0.0000074 * t * t
    m = math.radians(2.5534 + 29.10535670 * k)
    mp = math.radians(201.5643 + 385.81693528 * k + 0.0107582 * t * t)
    f = math.radians(160.7108 + 390.67050284 * k - 0.0016118 * t * t)
    node = math.radians(124.7746 - 1.56375588 * k)
    jde = 2_451_550.09766 + _SYNODIC * k + 0.00015437 * t * t - 0.00017 * math.sin(node)
    quarter = round(4.0 * (k % 1.0)) % 4
    if quarter % 2 == 0:
        for new, full, *angles, power in _SYZYGY:
            jde += (full if quarter else new) * e**power * _sine(angles, mp, m, f)
    else:
        for size, *angles, power in _QUARTER:
            jde += size * e**power * _sine(angles, mp, m, f)
        w = 0.00306 - 0.00038 * e * math.cos(m) + 0.00026 * math.cos(mp)
        w += 0.00002 * (math.cos(mp + m) - math.cos(mp - m) + math.cos(2.0 * f))
        jde += w if quarter == 1 else -w
    return (jde - JD_UNIX) * 86_400.0 - DELTA_T_S


def _sine(angles: list[int], mp: float, m: float, f: float) -> float:
    return math.sin(angles[0] * mp + angles[1] * m + angles[2] * f)


# a (au), e, inclination, mean longitude, longitude of perihelion, of the node: degrees, with rates a century.
_MERCURY = (
    (0.38709927, 0.00000037), (0.20563593, 0.00001906), (7.00497902, -0.00594749),
    (252.25032350, 149472.67411175), (77.45779628, 0.16047689), (48.33076593, -0.12534081),
)  # fmt: skip
_EARTH = (
    (1.00000261, 0.00000562), (0.01671123, -0.00004392), (-0.00001531, -0.01294668),
    (100.46457166, 35999.37244981), (102.93768193, 0.32327364), (0.0, 0.0),
)  # fmt: skip


def mercury_speed(unix_s: float) -> float:
    """Degrees of geocentric longitude a day, over the two hours around an instant; light takes no time."""
    before, after = _mercury_longitude(unix_s - 3600.0), _mercury_longitude(unix_s + 3600.0)
    return ((after - before + 180.0) % 360.0 - 180.0) * 12.0


def _mercury_longitude(unix_s: float) -> float:
    t = (unix_s / 86_400.0 + JD_UNIX - 2_451_545.0) / 36_525.0
    mercury, earth = _heliocentric(_MERCURY, t), _heliocentric(_EARTH, t)
    return math.degrees(math.atan2(mercury[1] - earth[1], mercury[0] - earth[0])) % 360.0


def _heliocentric(elements: tuple[tuple[float, float], ...], t: float) -> tuple[float, float]:
    """Ecliptic x and y in au."""
    a, e, i, length, perihelion, node = (value + rate * t for value, rate in elements)
    anomaly = math.radians((length - perihelion) % 360.0)
    eccentric = anomaly
    for _ in range(20):
        eccentric = anomaly + e * math.sin(eccentric)
    x, y = a * (math.cos(eccentric) - e), a * math.sqrt(1.0 - e * e) * math.sin(eccentric)
    w, o, i = math.radians(perihelion - node), math.radians(node), math.radians(i)
    u, v = x * math.cos(w) - y * math.sin(w), (x * math.sin(w) + y * math.cos(w)) * math.cos(i)
    return u * math.cos(o) - v * math.sin(o), u * math.sin(o) + v * math.cos(o)
