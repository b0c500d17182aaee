"""The canonical record: what moves the digest, what must not."""

from __future__ import annotations

import struct

import msgspec
import pytest

from dolphin.domain import codes
from dolphin.domain.decision import CANONICAL_BYTES, Decision

BASE = Decision(
    bar_idx=7,
    timestamp_ns=1_617_321_660_000_000_000,
    action=codes.ACTION_EXIT,
    reason=codes.FIXED_TP,
    asset="ADAUSDT",
    lane_base=4.5,
    lane_dc=1.0,
    lane_regime=1.3,
    lane_ob=1.1,
    lane_esof=0.8,
    raw=5.148,
    cap=5.72,
    bound=codes.BOUND_RAW,
    leverage=5.148,
    notional=25_740.0,
    price=1.2,
    net=-12.5,
)
CANONICAL = {
    "bar_idx": 8,
    "timestamp_ns": 1_617_321_660_000_000_001,
    "action": codes.ACTION_HOLD,
    "reason": codes.MAX_HOLD,
    "asset": "ADAUSD",
    "lane_base": 4.500000000000001,
    "lane_dc": 0.9999999999999999,
    "lane_regime": 1.3000000000000003,
    "lane_ob": 1.1000000000000003,
    "lane_esof": 0.8000000000000002,
    "raw": 5.148000000000001,
    "cap": 5.720000000000001,
    "bound": codes.BOUND_LANES,
    "leverage": 5.148000000000001,
    "notional": 25_740.000000000004,
    "price": 1.2000000000000002,
    "net": -12.500000000000002,
}


def test_the_record_is_spelled_out() -> None:
    expected = struct.pack(
        "<qqBB24s5dddBdddd", 7, 1_617_321_660_000_000_000, 3, 4, b"ADAUSDT" + bytes(17),
        4.5, 1.0, 1.3, 1.1, 0.8, 5.148, 5.72, 1, 5.148, 25_740.0, 1.2, -12.5,
    )  # fmt: skip
    assert BASE.canonical() == expected
    assert len(expected) == CANONICAL_BYTES == 131


@pytest.mark.parametrize("field", sorted(CANONICAL))
def test_one_last_bit_of_any_canonical_field_changes_the_record(field: str) -> None:
    changed = msgspec.structs.replace(BASE, **{field: CANONICAL[field]})
    assert changed.canonical() != BASE.canonical()
    assert len(changed.canonical()) == CANONICAL_BYTES


@pytest.mark.parametrize("field", sorted(set(Decision.__struct_fields__) - set(CANONICAL)))
def test_attribution_never_changes_the_record(field: str) -> None:
    value = getattr(BASE, field)
    other = "mock" if isinstance(value, str) else (not value) if isinstance(value, bool) else value + 1
    assert msgspec.structs.replace(BASE, **{field: other}).canonical() == BASE.canonical()


def test_a_bar_without_anything_is_zeros() -> None:
    assert Decision(bar_idx=0, timestamp_ns=0).canonical() == bytes(CANONICAL_BYTES)


def test_the_longest_symbol_fits() -> None:
    longest = msgspec.structs.replace(BASE, asset="A" * 24)
    assert b"A" * 24 in longest.canonical()
