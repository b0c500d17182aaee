"""Drawn markets: every return is a recorded one, seams included; columns go with their prices."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from drawn_market import SYMBOLS, make_record, write_cache
from hypothesis import given, settings
from hypothesis import strategies as st

from dolphin.domain.clock import NS_PER_DAY, day_from_ns
from dolphin.domain.errors import DataError
from dolphin.market.scan_cache import CacheReader
from dolphin.research.forewarner.markets import (
    DAYS_MIN,
    N_GROUPS,
    Breaker,
    Record,
    bootstrap,
    chain,
    draw_days,
    read_record,
    running_median,
)

BREAKER = Breaker(0.8, 0.2, 60.0)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_every_return_of_a_market_is_a_recorded_return(seed: int) -> None:
    record = make_record(seed=2)
    blocks = record.groups()[seed % N_GROUPS]
    market = bootstrap(record, blocks, 7, [seed], BREAKER)
    drawn = [record.days[index] for index in draw_days(blocks, 7, [seed])]
    assert np.array_equal(market.prices[: len(drawn[0].prices)], drawn[0].prices), "the first day's own level"
    recorded = []
    for day in drawn:
        with_before = np.vstack([day.before, day.prices])
        recorded.append(with_before[1:] / with_before[:-1])
    expected = np.vstack(recorded)[1:]
    got = market.prices[1:] / market.prices[:-1]
    known = np.isfinite(expected)
    np.testing.assert_allclose(got[known], expected[known], rtol=1e-12)
    for name, field in (("vel_div", "vel_div"), ("v50_velocity", "v50"), ("v750_velocity", "v750")):
        assert np.array_equal(getattr(market, name), np.concatenate([getattr(day, field) for day in drawn]))
    assert market.stale is not None
    assert np.array_equal(market.stale, np.concatenate([day.stale for day in drawn]))


def test_drawn_days_are_consecutive_days_of_their_own() -> None:
    record = make_record()
    market = bootstrap(record, record.groups()[0], 5, [1], BREAKER)
    assert (np.diff(market.timestamp_ns) > 0).all()
    days = [day_from_ns(int(stamp)) for stamp in market.timestamp_ns]
    assert sorted(set(days)) == [f"2000-01-0{k}" for k in range(1, 6)]
    assert int(market.timestamp_ns[0]) % NS_PER_DAY == int(record.days[0].since_midnight_ns[0])


def test_the_same_seed_draws_the_same_market() -> None:
    record = make_record()
    first, again, other = (bootstrap(record, record.groups()[1], 9, [s], BREAKER) for s in (4, 4, 5))
    assert np.array_equal(first.prices, again.prices)
    assert not np.array_equal(first.prices, other.prices)


def test_groups_share_no_day_and_leave_none_out() -> None:
    for n_days, size in ((8, 1), (12, 1), (15, 1), (16, 2), (29, 2)):
        record = make_record(n_days=n_days, n_bars=4)
        groups = record.groups()
        assert len(groups) == N_GROUPS
        found = [index for group in groups for block in group for index in block]
        assert sorted(found) == list(range(n_days))
        assert max(len(block) for group in groups for block in group) == size


def test_too_few_days_are_refused_in_one_line() -> None:
    with pytest.raises(DataError, match=f"7 whole days, training needs {DAYS_MIN}"):
        make_record(n_days=7, n_bars=4).groups()


def test_blocks_are_drawn_whole_and_the_last_is_cut() -> None:
    drawn = draw_days([(0, 1), (4, 5)], 7, [3])
    assert len(drawn) == 7
    assert all(drawn[k + 1] == drawn[k] + 1 for k in range(0, 6, 2))
    assert {0, 4} == set(drawn[::2])


def test_a_price_that_is_not_known_yet_stays_unknown_until_a_day_has_one() -> None:
    record = make_record(n_days=8, n_bars=6)
    day = record.days[3]
    prices = day.prices.copy()
    prices[:2, 1] = np.nan
    before = day.before.copy()
    before[1] = np.nan
    late = replace(day, prices=prices, before=before)
    unknown = np.full(len(SYMBOLS), np.nan)
    first, stale, last = chain(late, unknown)
    assert np.array_equal(first, prices, equal_nan=True), "recorded level, recorded gaps"
    assert np.array_equal(stale, day.stale)
    assert np.array_equal(last, prices[-1])
    known = np.array([10.0, 20.0, 30.0, 40.0])
    second, stale, last = chain(late, known)
    assert (second[:2, 1] == 20.0).all(), "an asset that is known keeps its last price"
    assert stale[:2, 1].all()
    assert second[2, 1] == pytest.approx(20.0)
    np.testing.assert_allclose(second[3:, 1] / second[2:-1, 1], prices[3:, 1] / prices[2:-1, 1])
    np.testing.assert_allclose(second[0, 0] / 10.0, day.prices[0, 0] / day.before[0])
    gone = replace(day, prices=np.where(np.arange(len(SYMBOLS)) == 2, np.nan, day.prices))
    third, stale, last = chain(gone, known)
    assert (third[:, 2] == 30.0).all()
    assert stale[:, 2].all()
    assert last[2] == 30.0


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40))
def test_the_running_median_is_numpy_s(values: list[float]) -> None:
    found = running_median(np.array(values))
    for i in range(len(values)):
        assert found[i] == np.median(values[: i + 1])


def test_beta_follows_the_day_s_median_against_the_percentile_at_hand() -> None:
    record: Record = make_record()
    blocks = record.groups()[2]
    market = bootstrap(record, blocks, 4, [8], Breaker(1.1, 0.3, 70.0))
    assert market.beta is not None
    at_hand = np.concatenate([record.days[i].v750 for i in sorted({i for b in blocks for i in b})])
    threshold = np.percentile(at_hand, 70.0)
    expected = []
    for index in draw_days(blocks, 4, [8]):
        v750 = record.days[index].v750
        expected += [1.1 if np.median(v750[: i + 1]) >= threshold else 0.3 for i in range(len(v750))]
    assert market.beta.tolist() == expected
    assert {1.1, 0.3} == set(expected)
    assert market.boost is not None
    assert (market.boost == 1.0).all()


def test_a_cache_is_read_as_days_with_what_came_before_them(tmp_path: Path) -> None:
    """A half-built day is left out; so is a short one, whose prices still count. Other bytes are refused."""
    write_cache(tmp_path, n_days=10, bars_a_day=24)
    reader = CacheReader(tmp_path)
    whole = read_record(reader)
    assert [day.date for day in whole.days] == list(reader.days()[:10])
    assert whole.left_out == ("2024-03-11: 3 bars of 24",)
    assert np.isnan(whole.days[0].before).all()
    for before, day in pairwise(whole.days):
        assert np.array_equal(day.before, before.prices[-1])
        columns = reader.columns(day.date)
        assert np.array_equal(day.vel_div, columns["vel_div"])
        assert np.array_equal(day.v750, columns["v750_lambda_max_velocity"])
        assert np.array_equal(day.prices, reader.prices(day.date))
    manifest = reader.folder / "manifest.json"
    changed = json.loads(manifest.read_text())
    changed["days"][reader.days()[3]]["complete"] = False
    manifest.write_text(json.dumps(changed))
    damaged = read_record(CacheReader(tmp_path))
    assert [day.date for day in damaged.days] == [day.date for k, day in enumerate(whole.days) if k != 3]
    assert any(reader.days()[3] in text for text in damaged.left_out)
    assert np.isnan(damaged.days[3].before).all(), "nothing is known of the bars before"
    assert damaged.data_hash != whole.data_hash
    path = reader.folder / f"{reader.days()[5]}.parquet"
    path.write_bytes((reader.folder / f"{reader.days()[4]}.parquet").read_bytes())
    with pytest.raises(DataError, match=f"{reader.days()[5]} is refused"):
        read_record(CacheReader(tmp_path))
