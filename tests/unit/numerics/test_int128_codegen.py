"""The LLVM bodies of the 128-bit primitives, compiled whatever `DOLPHIN_KERNELS` says."""

from __future__ import annotations

from test_int128 import as_int, cases, reduce

from dolphin.numerics import int128


def compiled_primitives():
    """One compiled function that returns the result pairs of all primitives."""
    from numba import njit
    from numba.extending import intrinsic

    mac, msc = intrinsic(int128._mac_codegen), intrinsic(int128._msc_codegen)
    add2, addi, muli = (
        intrinsic(int128._add2_codegen),
        intrinsic(int128._addi_codegen),
        intrinsic(int128._muli_codegen),
    )
    sar53, shl128 = intrinsic(int128._sar53_codegen), intrinsic(int128._shl128_codegen)

    @njit
    def primitives(lo, hi, lo2, hi2, x, y, shift):
        return (
            mac(lo, hi, x, y),
            msc(lo, hi, x, y),
            add2(lo, hi, lo2, hi2),
            addi(lo, hi, x),
            muli(lo, hi, x),
            sar53(lo, hi),
            shl128(x, shift),
        )

    return primitives


def test_llvm_bodies_follow_python_integers():
    primitives = compiled_primitives()
    for lo, hi, lo2, hi2, x, y, shift in cases():
        value, other = as_int((lo, hi)), as_int((lo2, hi2))
        wide = (
            value + x * y,
            value - x * y,
            value + other,
            value + x,
            value * x,
            value >> 53,
            x << shift,
        )
        got = primitives(lo, hi, lo2, hi2, x, y, shift)
        assert [as_int(pair) for pair in got] == [reduce(v) for v in wide]
