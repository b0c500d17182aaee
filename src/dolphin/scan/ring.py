"""The resolved row of one bar: everything a restarted scanner needs, in a fixed-width record.

Record, little-endian: magic `DRR1`, n_assets uint32, timestamp_ns int64, prices and returns float64 *
n_assets, fresh uint8 * n_assets, rejections uint8 * n_assets, CRC32 uint32 of all before it.

1. The width depends on n_assets only, so a store can append records and find the last whole one.
2. `decode_row` refuses a record whose length, magic or checksum is wrong; it never guesses.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.errors import DataError

_MAGIC = b"DRR1"
_HEAD = struct.Struct("<4sIq")
_TAIL = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class RingRow:
    """One accepted bar after carrying, rejection and rebasing; all arrays have shape (n_assets,).

    prices : last known prices, USDT, NaN for an asset without any price yet. returns : log-returns of this
    bar.
    fresh : whether the asset had an accepted price on this bar. rejections : rejections in a row.
    """

    timestamp_ns: int
    prices: FloatArray
    returns: FloatArray
    fresh: BoolArray
    rejections: IntArray


def row_bytes(n_assets: int) -> int:
    """Width of one record in bytes."""
    return _HEAD.size + 18 * n_assets + _TAIL.size


def encode_row(row: RingRow) -> bytes:
    """One record of `row_bytes(n_assets)` bytes."""
    body = b"".join(
        (
            _HEAD.pack(_MAGIC, len(row.prices), row.timestamp_ns),
            row.prices.astype("<f8").tobytes(),
            row.returns.astype("<f8").tobytes(),
            row.fresh.astype("u1").tobytes(),
            row.rejections.astype("u1").tobytes(),
        )
    )
    return body + _TAIL.pack(zlib.crc32(body))


def decode_row(record: bytes) -> RingRow:
    """The row of one record. Raises DataError when it is cut, foreign or damaged."""
    if len(record) < _HEAD.size + _TAIL.size or record[:4] != _MAGIC:
        raise DataError("a ring record does not start with DRR1; expected one written by encode_row")
    _, n, timestamp_ns = _HEAD.unpack_from(record)
    if len(record) != row_bytes(n):
        raise DataError(f"a ring record has {len(record)} bytes, expected {row_bytes(n)} for {n} assets")
    if zlib.crc32(record[:-4]) != _TAIL.unpack_from(record, len(record) - 4)[0]:
        raise DataError("a ring record fails its checksum; drop it and what follows")
    at = _HEAD.size
    prices = np.frombuffer(record, "<f8", n, at).astype(np.float64)
    returns = np.frombuffer(record, "<f8", n, at + 8 * n).astype(np.float64)
    fresh = np.frombuffer(record, "u1", n, at + 16 * n).astype(np.bool_)
    rejections = np.frombuffer(record, "u1", n, at + 17 * n).astype(np.int64)
    return RingRow(timestamp_ns, prices, returns, fresh, rejections)
