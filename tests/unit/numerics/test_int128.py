"""The two bodies of every 128-bit primitive agree with each other and with Python integers."""

from __future__ import annotations

import random

import pytest

from dolphin.kernel import kernel, plain
from dolphin.numerics import int128

mac, msc, add2, addi = int128.mac, int128.msc, int128.add2, int128.addi
muli, sar53, shl128 = int128.muli, int128.sar53, int128.shl128


@kernel
def every_primitive(lo, hi, lo2, hi2, x, y, shift):
    return (
        mac(lo, hi, x, y),
        msc(lo, hi, x, y),
        add2(lo, hi, lo2, hi2),
        addi(lo, hi, x),
        muli(lo, hi, x),
        sar53(lo, hi),
        shl128(x, shift),
    )


def reduce(value):
    value &= (1 << 128) - 1
    return value - (1 << 128) if value >> 127 else value


def as_int(pair):
    lo, hi = pair
    return (int(hi) << 64) + (int(lo) % (1 << 64))


EXTREMES = (0, 1, -1, 2**53, -(2**53), 2**63 - 1, -(2**63), 2**62, -(2**62) + 1)


def cases():
    rng = random.Random(7)
    for a in EXTREMES:
        for b in EXTREMES:
            yield a, b, b, a, a, b, 52
    for _ in range(2000):
        words = [rng.randrange(-(2**63), 2**63) >> rng.randrange(64) for _ in range(6)]
        yield (*words, rng.randrange(0, 64))


def test_both_bodies_follow_python_integers():
    for lo, hi, lo2, hi2, x, y, shift in cases():
        value, other = as_int((lo, hi)), as_int((lo2, hi2))
        expected = (
            value + x * y,
            value - x * y,
            value + other,
            value + x,
            value * x,
            value >> 53,
            x << shift,
        )
        compiled = every_primitive(lo, hi, lo2, hi2, x, y, shift)
        uncompiled = plain(every_primitive)(lo, hi, lo2, hi2, x, y, shift)
        assert tuple(compiled) == uncompiled
        assert [as_int(p) for p in uncompiled] == [reduce(v) for v in expected]


@pytest.mark.parametrize("value", EXTREMES)
def test_words_are_signed(value):
    lo, hi = plain(every_primitive)(value, -1, 0, 0, 0, 0, 0)[0]
    assert -(2**63) <= lo < 2**63
    assert -(2**63) <= hi < 2**63
