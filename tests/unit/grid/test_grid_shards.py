"""Shards: routing that never changes, and a near view that never serves what was replaced."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import pytest

from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.payloads import PayloadRejected
from dolphin.grid.port import GridUnreachable
from dolphin.grid.shards import NEAR_ENTRIES_MAX, NEAR_TTL_S, ShardedStore, shard_name

VECTORS = Path(__file__).parents[2] / "vectors" / "shard.json"


class Clock:
    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


def test_routing_equals_the_vectors():
    cases = json.loads(VECTORS.read_text())["cases"]
    assert cases
    for case in cases:
        assert shard_name(case["in"]["symbol"]) == case["out"]["map"]


def test_values_lie_under_the_internal_key_of_the_symbols_shard():
    grid = InProcessGrid()
    store = ShardedStore(grid)
    store.put("BTCUSDT", "imbalance", -0.25)
    assert grid.map("DOLPHIN_FEATURES_SHARD_07").get("imbalance_BTCUSDT") == b"-0.25"
    assert store.get("BTCUSDT", "imbalance") == -0.25
    assert store.get("BTCUSDT", "absent") is None
    assert store.delete("BTCUSDT", "imbalance") is True
    assert store.delete("BTCUSDT", "imbalance") is False
    assert store.get("BTCUSDT", "imbalance") is None


def test_a_second_read_comes_from_the_near_view():
    grid = InProcessGrid()
    store = ShardedStore(grid)
    store.put("BTCUSDT", "x", {"a": [1.5]})
    first = store.get("BTCUSDT", "x")
    first["a"].append("spoilt by its reader")
    assert store.get("BTCUSDT", "x") == {"a": [1.5]}
    assert (store.n_near_hits, store.n_near_misses) == (1, 1)
    grid.drop_connection()
    assert store.get("BTCUSDT", "x") == {"a": [1.5]}
    with pytest.raises(GridUnreachable):
        store.get("BTCUSDT", "y")


@pytest.mark.parametrize("dispatcher", ["inline", "thread"])
def test_a_foreign_change_invalidates(dispatcher):
    with InProcessGrid(dispatcher) as grid, grid.peer("inline") as far:
        store, other = ShardedStore(grid), ShardedStore(far)
        store.put("ETHUSDT", "x", 1)
        assert store.get("ETHUSDT", "x") == 1
        other.put("ETHUSDT", "x", 2)
        # The worker delivers in order: what is listened to now is delivered after the invalidation.
        fence(grid)
        assert store.get("ETHUSDT", "x") == 2
        assert store.get("ETHUSDT", "x") == 2
        other.delete("ETHUSDT", "x")
        fence(grid)
        assert store.get("ETHUSDT", "x") is None


def fence(grid: InProcessGrid) -> None:
    """Return when everything that `grid` has accepted so far was delivered."""
    passed = threading.Event()
    subscription = grid.map("FENCE").listen(lambda event: passed.set())
    grid.map("FENCE").put("k", b"1")
    assert passed.wait(20)
    subscription.close()


def test_its_own_write_is_read_back_although_the_event_waits():
    with InProcessGrid("thread") as grid:
        store = ShardedStore(grid)
        for i in range(200):
            store.put("ETHUSDT", "x", i)
            assert store.get("ETHUSDT", "x") == i


def test_what_changed_without_connection_is_not_served_afterwards():
    grid = InProcessGrid()
    far = ShardedStore(grid.peer())
    store = ShardedStore(grid)
    far.put("ETHUSDT", "x", 1)
    assert store.get("ETHUSDT", "x") == 1
    grid.drop_connection()
    far.put("ETHUSDT", "x", 2)
    assert store.get("ETHUSDT", "x") == 1
    grid.restore_connection()
    assert store.get("ETHUSDT", "x") == 2


def test_a_read_that_raced_with_a_change_is_not_kept():
    grid = InProcessGrid()
    far = ShardedStore(grid.peer())
    store = ShardedStore(grid)
    far.put("ETHUSDT", "x", 1)
    shard = store._shards[5]

    class Racing:
        name = shard.map.name

        def get(self, key):
            data = real.get(key)
            far.put("ETHUSDT", "x", 2)
            return data

    real, shard.map = shard.map, Racing()
    assert store.get("ETHUSDT", "x") == 1
    shard.map = real
    assert store.get("ETHUSDT", "x") == 2


def test_entries_age_out():
    clock = Clock()
    grid = InProcessGrid()
    store = ShardedStore(grid, now_ns=clock)
    store.put("ETHUSDT", "x", 1)
    store.get("ETHUSDT", "x")
    clock.ns = NEAR_TTL_S * 1_000_000_000 - 1
    store.get("ETHUSDT", "x")
    assert store.n_near_hits == 1
    clock.ns += 1
    store.get("ETHUSDT", "x")
    assert (store.n_near_hits, store.n_near_misses) == (1, 2)


def test_the_least_recently_used_entry_goes():
    assert NEAR_ENTRIES_MAX == 5_000
    store = ShardedStore(InProcessGrid(), near_entries_max=2)
    for feature in ("a", "b", "c"):
        store.put("ETHUSDT", feature, feature)
    store.get("ETHUSDT", "a")
    store.get("ETHUSDT", "b")
    store.get("ETHUSDT", "a")
    store.get("ETHUSDT", "c")
    assert store.near_size("ETHUSDT") == 2
    hits = store.n_near_hits
    store.get("ETHUSDT", "a")
    assert store.n_near_hits == hits + 1
    store.get("ETHUSDT", "b")
    assert store.n_near_hits == hits + 1


def test_assets_are_discovered_from_the_keys():
    grid = InProcessGrid()
    store = ShardedStore(grid)
    assert store.assets() == ()
    store.put("ETHUSDT", "depth_1pct_usd", 1.0)
    store.put("ETHUSDT", "imbalance", 1.0)
    store.put("BTCUSDT", "imbalance", 1.0)
    grid.map(shard_name("1000PEPEUSDT")).put("1000PEPEUSDT", b"{}")
    assert store.assets() == ("1000PEPEUSDT", "BTCUSDT", "ETHUSDT")
    store.delete("BTCUSDT", "imbalance")
    assert store.assets() == ("1000PEPEUSDT", "ETHUSDT")


def test_values_without_a_json_form_are_refused():
    grid = InProcessGrid()
    store = ShardedStore(grid)
    for bad in (math.nan, {"x": [math.inf]}, object()):
        with pytest.raises(PayloadRejected, match=r"DOLPHIN_FEATURES_SHARD_05\['x_ETHUSDT'\]"):
            store.put("ETHUSDT", "x", bad)
    grid.map("DOLPHIN_FEATURES_SHARD_05").put("x_ETHUSDT", b"no json")
    with pytest.raises(PayloadRejected):
        store.get("ETHUSDT", "x")


def test_a_closed_store_listens_no_more():
    grid = InProcessGrid()
    store = ShardedStore(grid)
    store.put("ETHUSDT", "x", 1)
    store.get("ETHUSDT", "x")
    store.close()
    grid.map("DOLPHIN_FEATURES_SHARD_05").put("x_ETHUSDT", b"2")
    assert store.get("ETHUSDT", "x") == 1
