"""A feed on the system's clock: stamps, what is due, restarts, the end of a recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from dolphin.domain.bar import Bar
from dolphin.domain.clock import NS_PER_S
from dolphin.domain.scan import WARMUP_PRICES
from dolphin.market.feed import Feed
from dolphin.market.paced import PacedFeed
from dolphin.market.synthetic import SyntheticFeed

ORIGIN = 1_772_400_000 * NS_PER_S
STEP = 5 * NS_PER_S


class Counted:
    """Bars whose price is their number, with stamps of long ago."""

    name = "counted"
    symbols = ("BTCUSDT", "ETHUSDT")
    interval_ns = STEP
    source_id = "c" * 64

    def __init__(self, n_bars: int) -> None:
        self.n_bars: int | None = n_bars
        self.rejections: Counter[tuple[str, str]] = Counter()
        self.notes: list[str] = []
        self.closed = False
        self.skipped: list[int] = []

    def bars(self, skip: int = 0) -> Iterator[Bar]:
        self.skipped.append(skip)
        for k in range(skip, self.n_bars or 0):
            yield Bar(k, np.array([k + 1.0, 2.0]))

    def close(self) -> None:
        self.closed = True


def due(feed: PacedFeed, now_ns: int, limit: int = 10_000) -> list[tuple[int, float]]:
    return [(bar.timestamp_ns, float(bar.prices[0])) for bar in feed.due(now_ns, limit)]


def test_the_first_scan_of_a_fresh_system_is_due_at_its_origin() -> None:
    feed = PacedFeed(Counted(760), ORIGIN)
    assert isinstance(feed, Feed)
    bars = due(feed, ORIGIN)
    assert len(bars) == WARMUP_PRICES
    assert bars[-1] == (ORIGIN, 752.0)
    assert bars[0] == (ORIGIN - 751 * STEP, 1.0)
    assert due(feed, ORIGIN + STEP - 1) == []
    assert due(feed, ORIGIN + STEP) == [(ORIGIN + STEP, 753.0)]


def test_nothing_is_due_before_its_time_and_nothing_is_taken_by_asking() -> None:
    feed = PacedFeed(Counted(760), ORIGIN)
    first_ns = feed.stamp_ns(0)
    assert due(feed, first_ns - 1) == []
    assert feed.next_due_ns == first_ns
    assert due(feed, first_ns) == [(first_ns, 1.0)]


def test_a_bounded_number_comes_at_once_and_the_rest_later() -> None:
    feed = PacedFeed(Counted(760), ORIGIN)
    assert [price for _, price in due(feed, ORIGIN, 3)] == [1.0, 2.0, 3.0]
    assert [price for _, price in due(feed, ORIGIN, 2)] == [4.0, 5.0]
    assert feed.next_due_ns == feed.stamp_ns(5)


def test_a_clock_that_was_set_back_repeats_no_bar() -> None:
    feed = PacedFeed(Counted(760), ORIGIN)
    due(feed, ORIGIN)
    assert due(feed, ORIGIN - 100 * STEP) == []
    assert [price for _, price in due(feed, ORIGIN + STEP)] == [753.0]


@pytest.mark.parametrize("late_ns", [0, 1, STEP - 1])
def test_a_restart_gives_the_same_bars_the_same_stamps(late_ns: int) -> None:
    whole = due(PacedFeed(Counted(780), ORIGIN), ORIGIN + 20 * STEP)
    feed = PacedFeed(Counted(780), ORIGIN)
    feed.seek(feed.position_after(ORIGIN + 3 * STEP + late_ns))
    assert due(feed, ORIGIN + 20 * STEP) == whole[755:]
    # The bars before are not made again.
    assert isinstance(feed.inner, Counted)
    assert feed.inner.skipped == [755]


def test_before_the_first_bar_everything_is_still_to_come() -> None:
    feed = PacedFeed(Counted(780), ORIGIN)
    assert feed.position_after(feed.stamp_ns(0) - 1) == 0
    assert feed.position_after(0) == 0
    assert feed.position_after(feed.stamp_ns(0)) == 1


def test_a_recording_ends_and_says_so() -> None:
    feed = PacedFeed(Counted(753), ORIGIN)
    due(feed, ORIGIN)
    assert not feed.ended
    assert due(feed, ORIGIN + 100 * STEP) == [(ORIGIN + STEP, 753.0)]
    assert feed.ended
    assert due(feed, ORIGIN + 200 * STEP) == []
    feed.close()
    assert isinstance(feed.inner, Counted)
    assert feed.inner.closed


def test_the_source_is_the_inner_feed_and_the_origin() -> None:
    assert PacedFeed(Counted(5), ORIGIN).source_id == PacedFeed(Counted(5), ORIGIN).source_id
    assert PacedFeed(Counted(5), ORIGIN).source_id != PacedFeed(Counted(5), ORIGIN + 1).source_id


def test_the_synthetic_market_keeps_its_prices() -> None:
    inner = SyntheticFeed(seed=4, days=None, assets=3)
    paced = PacedFeed(SyntheticFeed(seed=4, days=None, assets=3), ORIGIN)
    for k, (mine, theirs) in enumerate(zip(paced.bars(), inner.bars(), strict=False)):
        assert mine.timestamp_ns == paced.stamp_ns(k)
        assert np.array_equal(mine.prices, theirs.prices, equal_nan=True)
        if k == 50:
            break
