"""Scans made again from the ring's rows, from scratch: the same bits, and refusals without proof."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from dolphin.domain.bar import Bar
from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import DataError
from dolphin.domain.scan import Scan
from dolphin.scan.recertify import _FromScratch, differences, recertified
from dolphin.scan.ring import RingRow
from dolphin.scan.scanner import Scanner

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


@pytest.fixture(scope="module")
def market() -> tuple[list[Scan], list[RingRow]]:
    """Rows and scans of 756 bars, the last ones with a missing price, one held back, and a new base."""
    draw = np.random.default_rng(5)
    prices = 100.0 * np.exp(np.cumsum(0.002 * draw.standard_normal((756, 3)), axis=0))
    prices[752, 1] = np.nan
    prices[753:756, 2] *= 20.0
    scanner, scans, rows = Scanner(SYMBOLS, path="flint"), [], []
    for k, row in enumerate(prices):
        step = scanner.update(Bar((k + 1) * 5 * NS_PER_S, row), k)
        rows.append(scanner.ring_row())
        if step.scan is not None:
            scans.append(step.scan)
    return scans, rows


def test_every_scan_comes_out_the_same(market: tuple[list[Scan], list[RingRow]]) -> None:
    scans, rows = market
    assert len(scans) == 5
    for scan in scans:
        upto = [row for row in rows if row.timestamp_ns <= scan.timestamp_ns]
        assert differences(scan, recertified(SYMBOLS, upto, scan.scan_number)) == ()
    assert "rejected" in {word for scan in scans for word in scan.outcome}


def test_every_field_is_compared(market: tuple[list[Scan], list[RingRow]]) -> None:
    scan = market[0][-1]
    for name, value in (("vel_div", 0.5), ("scan_number", 1), ("assets", ("A", "B", "C"))):
        assert differences(scan, msgspec.structs.replace(scan, **{name: value})) == (name,)


def test_too_few_rows_and_another_universe_prove_nothing(
    market: tuple[list[Scan], list[RingRow]],
) -> None:
    _, rows = market
    with pytest.raises(DataError, match="751 rows of the ring, a scan needs 752"):
        recertified(SYMBOLS, rows[:751], 1)
    with pytest.raises(DataError, match="the universe has 2"):
        recertified(SYMBOLS[:2], rows, 1)
    cold = _FromScratch.restore(SYMBOLS, rows[:5])
    with pytest.raises(DataError, match="too few rows make no scan"):
        cold.scan_after(cold, np.zeros(3, np.bool_), 1)
