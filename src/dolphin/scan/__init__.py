"""Prices to scans: exact returns and moments, a certified spectrum, the scan record. Pure.

Entry points: `Scanner`; `RingRow`, which a store appends to restore one; `warm`, which compiles every kernel.
"""

from __future__ import annotations

from dolphin.scan.ring import RingRow, ring_row_bytes
from dolphin.scan.scanner import ROWS_NEEDED, ScanEvent, Scanner, ScannerPath, ScanStep
from dolphin.scan.warm import warm

__all__ = [
    "ROWS_NEEDED",
    "RingRow",
    "ScanEvent",
    "ScanStep",
    "Scanner",
    "ScannerPath",
    "ring_row_bytes",
    "warm",
]
