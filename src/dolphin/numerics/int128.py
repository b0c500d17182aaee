"""Signed 128-bit integers for kernels, carried as two signed 64-bit words `(lo, hi)`.

Entry points: `mac`, `msc`, `add2`, `addi`, `muli`, `sar53`, `shl128`. Each has two bodies, an LLVM one and a
plain one on Python integers; `tests/unit/numerics/test_int128.py` compares them.

1. A pair stands for `hi * 2**64 + (lo mod 2**64)`; every result is reduced modulo 2**128 into the signed
   range. The callers prove that no reduction takes place (see `dolphin.scan.moments` and
   `dolphin.scan.spectrum`).
2. The plain bodies turn numpy scalars into Python integers first, since numpy's would wrap with a warning.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from dolphin.kernel import primitive

Pair: TypeAlias = tuple[int, int]

_WORD = (1 << 64) - 1
_TOP = 1 << 63


def _word(value: int) -> int:
    value &= _WORD
    return value - (1 << 64) if value & _TOP else value


def _pair(value: int) -> Pair:
    return _word(value), _word(value >> 64)


def _value(lo: int, hi: int) -> int:
    return (int(hi) << 64) | (int(lo) & _WORD)


def _mac(lo: int, hi: int, x: int, y: int) -> Pair:
    """(hi:lo) + x * y."""
    return _pair(_value(lo, hi) + int(x) * int(y))


def _msc(lo: int, hi: int, x: int, y: int) -> Pair:
    """(hi:lo) - x * y."""
    return _pair(_value(lo, hi) - int(x) * int(y))


def _add2(lo: int, hi: int, lo2: int, hi2: int) -> Pair:
    """(hi:lo) + (hi2:lo2)."""
    return _pair(_value(lo, hi) + _value(lo2, hi2))


def _addi(lo: int, hi: int, x: int) -> Pair:
    """(hi:lo) + x."""
    return _pair(_value(lo, hi) + int(x))


def _muli(lo: int, hi: int, x: int) -> Pair:
    """(hi:lo) * x."""
    return _pair(_value(lo, hi) * int(x))


def _sar53(lo: int, hi: int) -> Pair:
    """floor((hi:lo) / 2**53)."""
    return _pair(_value(lo, hi) >> 53)


def _shl128(x: int, shift: int) -> Pair:
    """x * 2**shift, 0 <= shift < 128."""
    return _pair(int(x) << int(shift))


# ---- LLVM bodies: each follows numba's intrinsic protocol (typing context first, then the argument types)


def _pair_type() -> Any:
    from numba import types

    make: Any = types.UniTuple
    return make(types.int64, 2)


def _signature(n_args: int) -> Any:
    from numba import types

    return _pair_type()(*(types.int64,) * n_args)


def _i128() -> Any:
    from llvmlite import ir

    return ir.IntType(128)


def _join(builder: Any, lo: Any, hi: Any) -> Any:
    wide = _i128()
    return builder.or_(builder.zext(lo, wide), builder.shl(builder.zext(hi, wide), wide(64)))


def _split(context: Any, builder: Any, value: Any) -> Any:
    from llvmlite import ir

    word, wide = ir.IntType(64), _i128()
    lo = builder.trunc(value, word)
    hi = builder.trunc(builder.lshr(value, wide(64)), word)
    return context.make_tuple(builder, _pair_type(), (lo, hi))


def _mac_codegen(typingctx: Any, lo: Any, hi: Any, x: Any, y: Any) -> Any:
    def body(context: Any, b: Any, signature: Any, a: Any) -> Any:
        wide = _i128()
        return _split(context, b, b.add(_join(b, a[0], a[1]), b.mul(b.sext(a[2], wide), b.sext(a[3], wide))))

    return _signature(4), body


def _msc_codegen(typingctx: Any, lo: Any, hi: Any, x: Any, y: Any) -> Any:
    def body(context: Any, b: Any, signature: Any, a: Any) -> Any:
        wide = _i128()
        return _split(context, b, b.sub(_join(b, a[0], a[1]), b.mul(b.sext(a[2], wide), b.sext(a[3], wide))))

    return _signature(4), body


def _add2_codegen(typingctx: Any, lo: Any, hi: Any, lo2: Any, hi2: Any) -> Any:
    def body(context: Any, b: Any, signature: Any, a: Any) -> Any:
        return _split(context, b, b.add(_join(b, a[0], a[1]), _join(b, a[2], a[3])))

    return _signature(4), body


def _addi_codegen(typingctx: Any, lo: Any, hi: Any, x: Any) -> Any:
    def body(context: Any, b: Any, signature: Any, a: Any) -> Any:
        return _split(context, b, b.add(_join(b, a[0], a[1]), b.sext(a[2], _i128())))

    return _signature(3), body


def _muli_codegen(typingctx: Any, lo: Any, hi: Any, x: Any) -> Any:
    def body(context: Any, b: Any, signature: Any, a: Any) -> Any:
        return _split(context, b, b.mul(_join(b, a[0], a[1]), b.sext(a[2], _i128())))

    return _signature(3), body


def _sar53_codegen(typingctx: Any, lo: Any, hi: Any) -> Any:
    def body(context: Any, b: Any, signature: Any, a: Any) -> Any:
        return _split(context, b, b.ashr(_join(b, a[0], a[1]), _i128()(53)))

    return _signature(2), body


def _shl128_codegen(typingctx: Any, x: Any, shift: Any) -> Any:
    def body(context: Any, b: Any, signature: Any, a: Any) -> Any:
        wide = _i128()
        return _split(context, b, b.shl(b.sext(a[0], wide), b.zext(a[1], wide)))

    return _signature(2), body


mac = primitive(_mac)(_mac_codegen)
msc = primitive(_msc)(_msc_codegen)
add2 = primitive(_add2)(_add2_codegen)
addi = primitive(_addi)(_addi_codegen)
muli = primitive(_muli)(_muli_codegen)
sar53 = primitive(_sar53)(_sar53_codegen)
shl128 = primitive(_shl128)(_shl128_codegen)
