"""Prices to scans: exact returns and moments, a certified spectrum, the scan record. Pure.

Entry point: `Scanner`. `RingRow`, `encode_row` and `decode_row` are what a store needs to restore one;
`warm` compiles every kernel.
"""

from __future__ import annotations

from dolphin.scan.ring import RingRow, decode_row, encode_row, row_bytes
from dolphin.scan.scanner import ROWS_NEEDED, Path, ScanEvent, Scanner, ScanStep
from dolphin.scan.warm import warm

__all__ = [
    "ROWS_NEEDED",
    "Path",
    "RingRow",
    "ScanEvent",
    "ScanStep",
    "Scanner",
    "decode_row",
    "encode_row",
    "row_bytes",
    "warm",
]
