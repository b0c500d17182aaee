"""Days scanned on their own are the days of one long scan, whatever happened before them."""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from dolphin.domain.bar import Bar
from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, day_from_ns, day_start_ns
from dolphin.domain.errors import DataError, InvariantError, StoreError, UsageError
from dolphin.domain.scan import Scan
from dolphin.market.feed import digest
from dolphin.market.scan_cache import CacheReader, CacheWriter, DayBuilder, verify_day
from dolphin.market.synthetic import SyntheticFeed
from dolphin.scan.scanner import Scanner
from dolphin.services import cache_build
from dolphin.services.cache_build import (
    LEAD,
    SLOWER_BY,
    BarFold,
    DayBars,
    Plan,
    build,
    days_of,
    duration,
    size_text,
)

SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT")
INTERVAL_NS = 600 * NS_PER_S
PER_DAY = NS_PER_DAY // INTERVAL_NS
START_NS = day_start_ns("2026-01-05")


class Walk:
    """A market of ten-minute bars with everything that a source can do wrong, by seed."""

    def __init__(self, seed: int, n_bars: int = 8 * PER_DAY, *, calm: bool = False) -> None:
        draw = np.random.default_rng(seed)
        n = len(SYMBOLS)
        share = draw.random((n_bars, 1))
        steps = 0.004 * (share * draw.standard_normal((n_bars, 1)) + draw.standard_normal((n_bars, n)))
        self.prices = 100.0 * np.exp(np.cumsum(steps, axis=0))
        self.stamps = START_NS + (1 + np.arange(n_bars, dtype=np.int64)) * INTERVAL_NS
        if not calm:
            self.prices[draw.random((n_bars, n)) < 0.01] = np.nan
            # A price that is older than all bars that a scan is made of, and one that never comes.
            gone = int(draw.integers(0, 60))
            self.prices[gone : gone + 850, 3] = np.nan
            self.prices[: int(draw.integers(1, n_bars)), 2] = np.nan
            for bar in draw.integers(100, n_bars - 3, 4):
                self.prices[bar : bar + int(draw.integers(1, 4)), 1] *= 5.0
            self.stamps[int(draw.integers(500, n_bars)) :] += int(draw.integers(1, 400)) * INTERVAL_NS
            twice = int(draw.integers(760, n_bars - 1))
            self.stamps[twice] = self.stamps[twice - 1]
        self.name = f"walk {seed}"
        self.symbols = SYMBOLS
        self.interval_ns = INTERVAL_NS
        self.n_bars: int | None = n_bars
        self.rejections: Counter[tuple[str, str]] = Counter()
        self.notes: list[str] = []
        self.source_id = digest({"walk": seed, "n": n_bars, "calm": calm})
        self.given = 0

    def bars(self, skip: int = 0) -> Iterator[Bar]:
        for k in range(skip, len(self.stamps)):
            self.given += 1
            yield Bar(int(self.stamps[k]), self.prices[k])

    def close(self) -> None:
        pass


def long_scan(feed: Any, path: Any = "fast") -> tuple[list[Scan], int]:
    """One scanner over all bars: the twin."""
    scanner = Scanner(feed.symbols, path=path)
    scans: list[Scan] = []
    for bar in feed.bars():
        step = scanner.update(bar, len(scans) + 1)
        if step.scan is not None:
            scans.append(step.scan)
    return scans, scanner.refused_count


def scans_of(bars: DayBars, path: Any = "fast") -> list[Scan]:
    scanner = Scanner.restore(SYMBOLS, [bars.seed], path=path)
    scans: list[Scan] = []
    for stamp, row in zip(bars.stamps.tolist(), bars.prices, strict=True):
        scan = scanner.update(Bar(stamp, row), bars.number + len(scans)).scan
        if scan is not None:
            scans.append(scan)
    return scans


def require_same(found: list[Scan], whole: list[Scan]) -> None:
    assert len(found) == len(whole)
    for mine, other in zip(found, whole, strict=True):
        same = mine == other
        assert same, f"scan {other.scan_number} differs"


def test_a_run_of_rejections_goes_over_the_bar_that_a_day_starts_from() -> None:
    feed = Walk(5, calm=True)
    first = (
        6 * PER_DAY - 1
    )  # the seventh day's first bar; the state in front of it is that of 751 bars before
    feed.prices[first - LEAD - 1 :, 1] *= 5.0
    whole, _ = long_scan(feed)
    day = next(bars for bars in days_of(feed, BarFold(SYMBOLS)) if bars.number == first - LEAD + 1)
    assert day.seed.rejections.tolist() == [0, 2, 0, 0]
    require_same(scans_of(day), whole[day.number - 1 : day.number - 1 + day.n_scans])


@pytest.mark.parametrize("seed", range(6))
def test_a_day_on_its_own_is_that_day_of_the_whole(seed: int) -> None:
    feed = Walk(seed)
    whole, refused = long_scan(feed)
    fold = BarFold(SYMBOLS)
    found: list[Scan] = []
    for bars in days_of(feed, fold):
        scans = scans_of(bars)
        assert len(scans) == bars.n_scans
        assert {day_from_ns(scan.timestamp_ns) for scan in scans} == {bars.day}
        assert bars.before == ((found[-1].scan_number, found[-1].timestamp_ns) if found else None)
        found += scans
    require_same(found, whole)
    assert len(found) == fold.scans > 300
    assert (fold.refused, fold.accepted) == (refused, len(feed.stamps) - refused)
    assert refused >= 1


def test_days_after_an_instant_and_none_that_was_stopped_in() -> None:
    feed = Walk(3)
    every = [bars.day for bars in days_of(feed, BarFold(SYMBOLS))]
    second = next(bars for bars in days_of(feed, BarFold(SYMBOLS)) if bars.day == every[1])
    after = int(second.stamps[LEAD - 2])  # the last bar before the second day
    assert [bars.day for bars in days_of(feed, BarFold(SYMBOLS), after)] == every[1:]
    fold = BarFold(SYMBOLS)
    stopped = days_of(feed, fold, stop_requested=lambda: fold.accepted == 1_000)
    assert [bars.day for bars in stopped] == [
        day for day in every if day < day_from_ns(int(feed.stamps[1_000]))
    ]


def test_a_fold_has_no_lead_before_its_time_and_refuses_a_shape() -> None:
    fold = BarFold(SYMBOLS)
    with pytest.raises(InvariantError, match="0 bars folded in, a scan needs 751 before it"):
        fold.lead()
    with pytest.raises(DataError, match="shape"):
        fold.take(Bar(1, np.ones(3)))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def old_way(feed: Any, root: Path) -> dict[str, bytes]:
    """The twin of a build: one scanner, one writer."""
    writer = CacheWriter(root, feed.symbols, feed.interval_ns, feed.source_id, feed.name)
    for scan in long_scan(feed)[0]:
        writer.add(scan)
    writer.finish()
    return tree(root)


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_a_build_writes_what_one_scanner_and_one_writer_write(tmp_path: Path, jobs: int) -> None:
    feed = Walk(7)
    expected = old_way(feed, tmp_path / "twin")
    told = []
    plans: list[Plan] = []
    built = build(feed, tmp_path / "new", jobs=jobs, on_plan=plans.append, on_progress=told.append)
    assert tree(tmp_path / "new") == expected
    scans = long_scan(feed)[0]
    assert (built.scans, built.scans_there, built.bars) == (len(scans), 0, len(feed.stamps))
    assert built.bars_refused == long_scan(feed)[1]
    assert plans == [built.plan]
    assert built.plan.jobs == jobs
    assert built.plan.bytes_per_scan is not None
    assert told[-1].scans == len(scans)
    assert [p.scans for p in told] == sorted(p.scans for p in told)
    assert built.scans_per_s is not None
    reader = CacheReader(tmp_path / "new")
    for day in reader.days():
        assert verify_day(reader, day, [s for s in scans if day_from_ns(s.timestamp_ns) == day]) > 0
    again = build(feed, tmp_path / "new", jobs=jobs)
    assert (again.scans_there, again.scans, again.scans_per_s) == (len(scans), len(scans), None)
    assert tree(tmp_path / "new") == expected


def test_days_in_parts_are_the_same_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_build, "PART_SCANS", 20)
    feed = Walk(11)
    expected = old_way(feed, tmp_path / "twin")
    built = build(feed, tmp_path / "new", jobs=3)
    assert built.plan.parts > 1
    assert built.scans == long_scan(feed)[0][-1].scan_number
    assert tree(tmp_path / "new") == expected
    stopped = build(Walk(11), tmp_path / "again", jobs=3, stop_requested=lambda: True)
    assert (stopped.interrupted, stopped.scans) == (True, 0)
    assert build(feed, tmp_path / "again", jobs=2).scans_there == 0
    assert tree(tmp_path / "again") == expected


@pytest.mark.parametrize("seed", range(4))
def test_parts_on_their_own_are_those_of_the_whole(seed: int) -> None:
    feed = Walk(20 + seed)
    whole, _ = long_scan(feed)
    found: list[Scan] = []
    for bars in days_of(feed, BarFold(SYMBOLS), part_ns=NS_PER_DAY // 6):
        found += scans_of(bars)
    require_same(found, whole)


def test_parts_are_joined_as_if_one_builder_had_taken_all(tmp_path: Path) -> None:
    scans, _ = long_scan(Walk(12))
    day = [scan for scan in scans if day_from_ns(scan.timestamp_ns) == day_from_ns(scans[200].timestamp_ns)]
    day = [msgspec.structs.replace(s, stale_assets=("ETHUSDT",) if k % 7 else ()) for k, s in enumerate(day)]
    built = []
    for cuts in ([], [1], [40, 41, 90]):
        total = DayBuilder(day_from_ns(day[0].timestamp_ns), SYMBOLS, "u", INTERVAL_NS)
        for low, high in pairwise([0, *cuts, len(day)]):
            part = DayBuilder(total.day, SYMBOLS, "u", INTERVAL_NS)
            for k in range(low, high):
                before = (day[k - 1].scan_number, day[k - 1].timestamp_ns) if k else None
                part.add(day[k], before)
            total.join(part)
        built.append(total.write(tmp_path, complete=True))
    assert built[0] == built[1] == built[2]


@pytest.mark.parametrize(
    ("scans_per_day", "days", "jobs", "parts"),
    [(17_280, 365, 8, 1), (17_280, 1, 8, 16), (17_280, 1, 2, 8), (17_280, 4, 2, 2), (1_440, 1, 64, 1)],
)
def test_few_days_are_cut_into_parts(scans_per_day: float, days: int, jobs: int, parts: int) -> None:
    assert cache_build._parts(scans_per_day, days, jobs) == parts


def test_float64_days_are_alike_too(tmp_path: Path) -> None:
    feed = Walk(8)
    build(feed, tmp_path / "one", path="float64", jobs=1)
    build(feed, tmp_path / "two", path="float64", jobs=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_one_process_goes_on_without_scanning_again(tmp_path: Path) -> None:
    expected = old_way(Walk(9), tmp_path / "twin")
    feed = Walk(9)
    stopped = build(feed, tmp_path / "new", jobs=1, stop_requested=lambda: feed.given > 1_900)
    assert stopped.interrupted
    partial = [day for day, entry in stopped.manifest.days.items() if not entry.complete]
    whole = sum(entry.rows for entry in stopped.manifest.days.values() if entry.complete)
    assert len(partial) == 1
    assert 0 < whole < stopped.scans
    done = build(feed, tmp_path / "new", jobs=1)
    assert done.scans_there == whole
    assert tree(tmp_path / "new") == expected


def test_a_rebuild_forgets_what_was_finished(tmp_path: Path) -> None:
    feed = Walk(10)
    expected = old_way(feed, tmp_path)
    aside = tmp_path / "scan_cache" / ".building"
    aside.mkdir()
    (aside / "2026-01-11.json").write_text("{}")
    built = build(feed, tmp_path, jobs=2, stale_stamp="20260120")
    assert built.scans_there == 0
    new = tree(tmp_path)
    for name, content in expected.items():
        assert new[name] == new[f"{name}.STALE_20260120"] == content
    assert len(new) == 2 * len(expected)


def test_one_build_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "scan_cache").mkdir()
    lock = os.open(tmp_path / "scan_cache", os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another process builds this cache; wait for it") as error:
            build(Walk(1), tmp_path)
        assert "\n" not in str(error.value)
    finally:
        os.close(lock)
    assert build(Walk(1, 800, calm=True), tmp_path).scans == 49


def test_what_cannot_be_built(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="jobs is 0; expected 1 or more"):
        build(Walk(1), tmp_path, jobs=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        build(Walk(1), tmp_path / "file")
    build(Walk(1, 800), tmp_path / "one")
    with pytest.raises(StoreError, match="built from source"):
        build(Walk(2, 800), tmp_path / "one", jobs=2)


def test_too_short_a_feed_makes_an_empty_cache(tmp_path: Path) -> None:
    plans: list[Plan] = []
    built = build(Walk(1, 700, calm=True), tmp_path, jobs=4, on_plan=plans.append)
    assert (built.scans, built.plan.jobs, dict(built.manifest.days)) == (0, 1, {})
    assert plans[0].text() == f"plan: 700 bars, 0 days, 0 scans; 1 of {plans[0].cores} cores".replace(
        "1 cores", "1 core"
    )


def test_a_short_work_is_not_spread(tmp_path: Path) -> None:
    assert build(Walk(1, 900), tmp_path).plan.jobs == 1


def test_the_plan_of_a_year_without_making_it() -> None:
    from dolphin.services.cache_build import _outline

    assert _outline(SyntheticFeed(days=365.0)) == (365 * 17_280 + LEAD, 365, 365 * 17_280)
    assert _outline(SyntheticFeed(days=None)) == (None, None, None)
    plan = Plan(
        bars=6_307_951, days=365, scans=6_307_200, scans_there=307_200, jobs=8, parts=1, cores=8,
        scans_per_s=6_000.0, feed_per_s=60_000.0, bytes_per_scan=300.0, free_bytes=75_000_000_000,
    )  # fmt: skip
    assert plan.expected_s == pytest.approx(1_000.0 + 5.12)
    assert plan.expected_most_s == pytest.approx(SLOWER_BY * plan.expected_s)
    assert replace(plan, scans_per_s=None).expected_most_s is None
    assert plan.text() == (
        "plan: 6,307,951 bars, 365 days, 6,307,200 scans (307,200 there); 8 of 8 cores at up to 6,000"
        " scans/s (measured): 17 min to 37 min; disk 1.8 GB of 75 GB free"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (89.0, "89 s"), (95.0, "2 min"), (5_340.0, "89 min"), (7_260.0, "2 h 1 min")],
)  # fmt: skip
def test_times_to_wait(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 B"), (999, "999 B"), (1_500, "1.5 KB"), (26e9, "26 GB"), (3e12, "3.0 TB")]
)
def test_sizes(n: float, text: str) -> None:
    assert size_text(n) == text
