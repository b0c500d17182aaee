"""The synthetic market's senses bar by bar are those of the whole market."""

from __future__ import annotations

import numpy as np
import pytest

from dolphin.domain.errors import DataError
from dolphin.market.synthetic import SyntheticFeed
from dolphin.market.synthetic_books import book_chunks
from dolphin.market.synthetic_factors import synthetic_factors
from dolphin.market.synthetic_senses import SyntheticSenses


@pytest.fixture(scope="module")
def feed():
    return SyntheticFeed(seed=3, days=0.3, assets=5)


def stamps(feed):
    return np.arange(feed.n_bars) * feed.interval_ns + feed.first_bar_ns


def test_bar_by_bar_they_are_those_of_the_whole_market(feed):
    prices, onsets = feed.whole()
    bid, ask, seen = (np.concatenate(part) for part in zip(*book_chunks(3, prices, onsets), strict=True))
    _, records = synthetic_factors(3, stamps(feed), prices, np.zeros(len(prices)))
    rows = list(SyntheticSenses(feed).until(int(stamps(feed)[-1])))
    assert [row.timestamp_ns for row in rows] == stamps(feed).tolist()
    for name, whole in (("bid", bid), ("ask", ask), ("seen", seen)):
        np.testing.assert_array_equal(np.array([getattr(row, name) for row in rows]), whole)
    found = [(k, row.record) for k, row in enumerate(rows) if row.record is not None]
    assert [k for k, _ in found] == records.bar.tolist()
    np.testing.assert_array_equal(np.array([record for _, record in found]).T, np.stack(records[1:]))


def test_reading_in_steps_gives_each_bar_once(feed):
    at = [int(stamps(feed)[k]) for k in (0, 1, 700, 4200)]
    senses = SyntheticSenses(feed)
    rows = [row for stop in at for row in senses.until(stop)]
    assert [row.timestamp_ns for row in rows] == stamps(feed)[:4201].tolist()


@pytest.mark.parametrize("offset_ns", [-1, 1, 5_000_000_001])
def test_a_stamp_between_bars_is_refused(feed, offset_ns):
    with pytest.raises(DataError, match="no bar is stamped"):
        list(SyntheticSenses(feed).until(feed.first_bar_ns + offset_ns))


def test_a_bar_that_was_given_does_not_come_again(feed):
    senses = SyntheticSenses(feed)
    list(senses.until(feed.first_bar_ns + 2 * feed.interval_ns))
    with pytest.raises(DataError, match="given before"):
        list(senses.until(feed.first_bar_ns))
