"""A book's way over the grid and back, and payloads of writers that say less."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from dolphin.grid.books import payload_of, snapshot_of
from dolphin.grid.payloads import AssetBook
from dolphin.grid.topics import decode, encode
from dolphin.orderbook.snapshot import BookSnapshot

NAN = math.nan
MAP, KEY = "DOLPHIN_FEATURES", "asset_BTCUSDT_ob"


def same(a: BookSnapshot, b: BookSnapshot) -> None:
    for name in BookSnapshot.__slots__:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_a_snapshot_comes_back_over_the_grid() -> None:
    bid, ask = np.array([1.5, 2.25, NAN, NAN, NAN]), np.array([0.1, 1 / 3, 7.0, 0.0, 5.0])
    there = BookSnapshot(
        1_721_347_022_123_456_789, bid, ask, bid / 3, ask / 7, 212.5, math.inf, 100.0, 1.5, 0.1, 17 * 10**9, 4
    )
    data = encode(payload_of(there))
    assert b"null" in data
    same(snapshot_of(decode(MAP, KEY, data)), there)
    short = np.full(5, NAN)
    there = BookSnapshot(5, short, short, short, short, 33.0, 21.0, 20.0, 400.0, 300.5)
    same(snapshot_of(decode(MAP, KEY, encode(payload_of(there)))), there)


def raw(**changes: object) -> AssetBook:
    fields = {
        "timestamp": "2024-07-18T23:57:02.500Z",
        "bid_notional": [1.0, 2.0, 3.0, 4.0, 5.0],
        "ask_notional": [5.0, 4.0, None, None, None],
        "bid_depth": [1.0] * 5,
        "ask_depth": [1.0, 1.0, None, None, None],
        "_pushed_at": 1_721_347_022.75,
        "_push_seq": 9,
    } | changes
    payload = decode(MAP, KEY, json.dumps(fields).encode())
    assert isinstance(payload, AssetBook)
    return payload


@pytest.mark.parametrize("timestamp", ["2024-07-18T23:57:02.500Z", 1_721_347_022.5])
def test_timestamp_iso_and_float_both_normalise(timestamp: object) -> None:
    found = snapshot_of(raw(timestamp=timestamp))
    assert found.timestamp_ns == 1_721_347_022_500_000_000
    assert found.pushed_ns == 1_721_347_022_750_000_000
    same(found, snapshot_of(raw(_pushed_at="2024-07-18T23:57:02.750Z")))
    assert snapshot_of(raw(), 17).timestamp_ns == 17


def test_a_writer_that_does_not_say_how_far_it_sees() -> None:
    found = snapshot_of(raw())
    assert (found.bid_coverage_bps, found.ask_coverage_bps) == (500.0, 200.0)
    assert (found.visible_bps, found.visible_bid, found.visible_ask) == (100.0, 1.0, 5.0)
    none = snapshot_of(raw(ask_notional=[None] * 5))
    assert (none.ask_coverage_bps, none.visible_bps, none.visible_bid, none.visible_ask) == (
        0.0,
        0.0,
        0.0,
        0.0,
    )


def test_a_writer_that_says_it() -> None:
    found = snapshot_of(
        raw(coverage_bps={"bid": 510.0, "ask": 42.0}, visible_bps=40.0, visible_bid=0.5, visible_ask=2.0)
    )
    assert (found.bid_coverage_bps, found.ask_coverage_bps) == (510.0, 42.0)
    assert (found.visible_bps, found.visible_bid, found.visible_ask) == (40.0, 0.5, 2.0)
    assert snapshot_of(raw(coverage_bps={"bid": None, "ask": 42.0})).bid_coverage_bps == math.inf
