"""The near view: freshness without a clock, and the last good value whatever comes."""

from __future__ import annotations

import pytest

from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.near_view import NearView
from dolphin.grid.payloads import AssetBook, ExfPayload, SafetyPayload
from dolphin.grid.topics import ASSET_OB, EXF, SAFETY
from dolphin.grid.typed import TypedGrid

S = 1_000_000_000


def book(second: int, sequence: int) -> AssetBook:
    five = (1.0, 1.0, 1.0, 1.0, 1.0)
    return AssetBook(
        timestamp=f"1970-01-01T00:00:{second:02d}Z",
        bid_notional=five,
        ask_notional=five,
        bid_depth=five,
        ask_depth=five,
        pushed_at=float(second),
        push_seq=sequence,
    )


def test_a_reading_knows_its_age_and_sequence():
    grid = InProcessGrid()
    view = NearView(grid, ASSET_OB, symbol="BTCUSDT")
    assert view.read() is None
    TypedGrid(grid).put(ASSET_OB, book(10, 77), symbol="BTCUSDT")
    reading = view.read()
    assert (reading.source_ns, reading.sequence, reading.key) == (10 * S, 77, "asset_BTCUSDT_ob")
    assert reading.age_ns(13 * S) == 3 * S
    assert reading.fresh(15 * S, 5 * S)
    assert not reading.fresh(15 * S + 1, 5 * S)
    # A source that claims the future is not fresh.
    assert reading.age_ns(9 * S) == -S
    assert not reading.fresh(9 * S, 5 * S)


def test_a_view_starts_with_what_is_there():
    grid = InProcessGrid()
    TypedGrid(grid).put(ASSET_OB, book(10, 1), symbol="BTCUSDT")
    assert NearView(grid, ASSET_OB, symbol="BTCUSDT").read().sequence == 1


def test_a_view_of_many_keys_leaves_other_topics_of_the_map_out():
    grid = InProcessGrid()
    door = TypedGrid(grid)
    view = NearView(grid, ASSET_OB)
    door.put(ASSET_OB, book(10, 1), symbol="ETHUSDT")
    door.put(ASSET_OB, book(11, 2), symbol="BTCUSDT")
    door.put(EXF, ExfPayload(fng=20, pushed_at=5.0))
    grid.map("DOLPHIN_FEATURES").put("not_declared", b"1")
    assert view.keys() == ("asset_BTCUSDT_ob", "asset_ETHUSDT_ob")
    assert view.read("asset_ETHUSDT_ob").sequence == 1
    assert view.rejections.total == 0
    with pytest.raises(KeyError, match="many keys"):
        view.read()
    grid.map("DOLPHIN_FEATURES").delete("asset_ETHUSDT_ob")
    assert view.keys() == ("asset_BTCUSDT_ob",)


def test_an_alias_answers_when_the_key_is_absent():
    grid = InProcessGrid()
    view = NearView(grid, EXF)
    grid.map("DOLPHIN_FEATURES").put("ext_features_latest", b'{"fng":21,"_pushed_at":7}')
    assert view.read().payload.fng == 21
    grid.map("DOLPHIN_FEATURES").put("exf_latest", b'{"fng":22,"_pushed_at":8}')
    assert view.read().payload.fng == 22
    assert view.read().source_ns == 8 * S


def test_a_rejected_payload_leaves_the_last_good_one():
    grid = InProcessGrid()
    view = NearView(grid, SAFETY)
    good = SafetyPayload(posture="APEX", rm=1.0, updated_at="1970-01-01T00:00:05Z")
    TypedGrid(grid).put(SAFETY, good)
    grid.map("DOLPHIN_SAFETY").put("latest", b'{"posture":"APEX"}')
    assert view.read().payload == good
    assert view.rejections.counts == {("DOLPHIN_SAFETY", "latest", "Rm"): 1}


def test_a_source_without_a_count_has_the_entrys_version():
    grid = InProcessGrid()
    view = NearView(grid, EXF)
    door = TypedGrid(grid)
    sequences = []
    for second in (5, 6):
        door.put(EXF, ExfPayload(pushed_at=float(second)))
        sequences.append(view.read().sequence)
    assert sequences[0] < sequences[1]


def test_a_view_says_when_it_may_be_behind():
    grid = InProcessGrid()
    view = NearView(grid, SAFETY)
    assert not view.degraded
    grid.drop_connection()
    assert view.degraded
    grid.restore_connection()
    assert not view.degraded
    view.close()
    TypedGrid(grid).put(SAFETY, SafetyPayload(posture="APEX", rm=1.0, updated_at="1970-01-01T00:00:05Z"))
    assert view.read() is None
    grid.close()
