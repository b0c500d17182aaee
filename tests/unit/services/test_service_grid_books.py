"""Books from the grid: newest payloads as snapshots, discovery, and a grid that is away or lies."""

from __future__ import annotations

import math

import numpy as np

from dolphin.grid.books import payload_of
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.shards import ShardedStore, assets_of
from dolphin.grid.topics import ASSET_OB, SHARD_FEATURES
from dolphin.grid.typed import TypedGrid
from dolphin.orderbook.snapshot import BookSnapshot
from dolphin.services.grid_books import GridBooks

S = 1_000_000_000


def book(at_ns: int, depth: float = 3.0) -> BookSnapshot:
    five = np.full(5, depth)
    return BookSnapshot(
        at_ns, five, five, five, five, math.inf, math.inf, 100.0, depth, depth, at_ns, at_ns // S
    )


def test_the_newest_payload_is_read_and_made_once() -> None:
    grid = InProcessGrid()
    door = TypedGrid(grid)
    door.put(ASSET_OB, payload_of(book(5 * S)), symbol="BTCUSDT")
    provider = GridBooks(door)
    first = provider.newest("BTCUSDT")
    assert first.timestamp_ns == 5 * S
    assert provider.newest("BTCUSDT") is first
    assert provider.newest("ETHUSDT") is None
    door.put(ASSET_OB, payload_of(book(6 * S, 4.0)), symbol="BTCUSDT")
    door.put(ASSET_OB, payload_of(book(6 * S)), symbol="ETHUSDT")
    assert provider.newest("BTCUSDT").bid_notional.tolist() == [4.0] * 5
    assert provider.newest("ETHUSDT").timestamp_ns == 6 * S


def test_a_bad_payload_is_counted_and_the_last_good_one_stays() -> None:
    grid = InProcessGrid()
    door = TypedGrid(grid)
    provider = GridBooks(door)
    door.put(ASSET_OB, payload_of(book(5 * S)), symbol="BTCUSDT")
    grid.map("DOLPHIN_FEATURES").put("asset_BTCUSDT_ob", b'{"timestamp": 6}')
    assert provider.newest("BTCUSDT").timestamp_ns == 5 * S
    assert door.rejections.total == 1


def test_a_grid_that_is_away_leaves_the_last_ones() -> None:
    grid = InProcessGrid()
    door = TypedGrid(grid)
    provider = GridBooks(door)
    door.put(ASSET_OB, payload_of(book(5 * S)), symbol="BTCUSDT")
    assert not provider.degraded
    grid.drop_connection()
    assert provider.degraded
    assert provider.newest("BTCUSDT").timestamp_ns == 5 * S
    grid.restore_connection()
    assert not provider.degraded


def test_a_closed_provider_hears_nothing_more() -> None:
    grid = InProcessGrid()
    door = TypedGrid(grid)
    provider = GridBooks(door)
    door.put(ASSET_OB, payload_of(book(5 * S)), symbol="BTCUSDT")
    provider.close()
    door.put(ASSET_OB, payload_of(book(6 * S)), symbol="BTCUSDT")
    provider.advance(9 * S)
    assert provider.newest("BTCUSDT").timestamp_ns == 5 * S


def test_assets_are_discovered_in_the_shards() -> None:
    grid = InProcessGrid()
    door = TypedGrid(grid)
    provider = GridBooks(door)
    assert provider.assets() == ()
    store = ShardedStore(grid)
    store.put("SOLUSDT", "imbalance", 0.5)
    for symbol in ("ETHUSDT", "BTCUSDT"):
        shard = SHARD_FEATURES.map_name(shard=f"{sum(map(ord, symbol)) % 10:02d}")
        grid.map(shard).put(symbol, b"{}")
    assert provider.assets() == assets_of(grid) == store.assets() == ("BTCUSDT", "ETHUSDT", "SOLUSDT")
