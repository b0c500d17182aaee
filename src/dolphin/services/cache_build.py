"""Building a scan cache from prices, on all cores.

Entry point: `build`, which first tells its `Plan`: what it will take, measured.

What a scanner publishes on a bar depends on the 752 accepted bars that end there, and on the last known
prices and runs of rejections before them. Those follow from the prices without any spectrum, so one process
reads the feed, folds every bar in cheaply (`BarFold`) and hands out days: each with the bars before it and
the exact state in front of them. Other processes scan them, write their files and read them back; the first
process takes them into the manifest in the order of time. Where there are fewer days than would occupy all
processes, days are cut into parts, which the first process puts together.

1. The files and the manifest are byte for byte those of a build in one process; scan numbers and gaps follow
   from the bars, not from who scanned them.
2. A finished day stays finished: its record lies beside the days (`.building/`) until the manifest has it. A
   build that was killed at any instant goes on with the days that are not finished.
3. Memory is constant: a few days of prices for each process. The feed is read once and by one process, so a
   feed that is costly to skip in, or large in memory, costs that once.
4. One build at a time writes a cache; the kernel takes the lock back from the dead, and the other processes
   end with the first.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dolphin.domain.bar import Bar, FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY, day_from_ns
from dolphin.domain.errors import DataError, InvariantError, StoreError, UsageError, plural
from dolphin.domain.scan import WARMUP_PRICES
from dolphin.domain.symbols import universe_id
from dolphin.market.cache_format import put_bytes, sha256_of
from dolphin.market.feed import Feed, accepted_stamps, digest
from dolphin.market.recorded import RecordedFeed
from dolphin.market.scan_cache import (
    FIELDS,
    FOLDER,
    BuiltDay,
    CacheWriter,
    DayBuilder,
    Manifest,
)
from dolphin.scan.returns import bar_returns
from dolphin.scan.ring import RingRow
from dolphin.scan.scanner import Path as ScanPath
from dolphin.scan.scanner import Scanner
from dolphin.scan.warm import warm

#: Records of finished days that the manifest does not have yet.
BUILDING = ".building"
#: Accepted bars before a scan that determine it, together with the state in front of them.
LEAD = WARMUP_PRICES - 1
#: Scans of a calibration.
SAMPLE_SCANS = 64
#: A part of a day has at least about so many scans, and a day is cut into one of these numbers of parts.
PART_SCANS = 1_000
_PARTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 48)
#: Below this many expected seconds in one process, more processes cost more than they bring.
WORTH_SPREADING_S = 5.0
#: How often the first process looks up while it waits, seconds.
_LOOK_UP_S = 0.25
#: Of a plan's longer time over its shorter: the first scans are measured alone on quiet, warm cores; while a
#: build goes on it also reads, writes and compares, and shares the cores with whatever else runs there.
SLOWER_BY = 2.2
_STOP_EVERY = 16
_START_S = 120.0

Mark = tuple[int, int]


class BarFold:
    """Accepts bars as a scanner does, without spectra, and knows what a scanner of the next bar needs."""

    def __init__(self, symbols: tuple[str, ...]) -> None:
        n = len(symbols)
        self.accepted = 0
        self.refused = 0
        self.last_ns: int | None = None
        self._base = np.full(n, np.nan)
        self._rejections = np.zeros(n, np.int64)
        self._returns = np.zeros(n)
        self._what = np.zeros(n, np.int64)
        self._stamps = np.zeros(LEAD, np.int64)
        self._prices = np.zeros((LEAD, n))
        self._bases = np.zeros((LEAD, n))
        self._runs = np.zeros((LEAD, n), np.int64)

    @property
    def scans(self) -> int:
        """Number of the last scan that the accepted bars give, 0 during the warm-up."""
        return max(0, self.accepted - LEAD)

    def accepts(self, bar: Bar) -> bool:
        """Whether a scanner takes this bar: it is later than every one before."""
        return self.last_ns is None or bar.timestamp_ns > self.last_ns

    def take(self, bar: Bar) -> bool:
        """Fold one bar in; False (counted) for one that a scanner refuses. Raises DataError on a shape."""
        if bar.prices.shape != self._base.shape:
            raise DataError(f"a bar has prices of shape {bar.prices.shape}, expected {self._base.shape}")
        if not self.accepts(bar):
            self.refused += 1
            return False
        prices = np.ascontiguousarray(bar.prices, np.float64)
        bar_returns(prices, self._base, self._rejections, self._returns, self._what)
        at = self.accepted % LEAD
        self._stamps[at] = bar.timestamp_ns
        self._prices[at] = prices
        self._bases[at] = self._base
        self._runs[at] = self._rejections
        self.accepted += 1
        self.last_ns = int(bar.timestamp_ns)
        return True

    def lead(self) -> tuple[RingRow, IntArray, FloatArray]:
        """The state after the bar `LEAD` back, and the bars since: stamps (750,), prices (750, n_assets).

        Raises InvariantError before there are that many.
        """
        if self.accepted < LEAD:
            raise InvariantError(f"{plural(self.accepted, 'bar')} folded in, a scan needs {LEAD} before it")
        order = (self.accepted + np.arange(LEAD)) % LEAD
        first = int(order[0])
        n = self._base.shape[0]
        seed = RingRow(
            int(self._stamps[first]),
            self._bases[first].copy(),
            np.zeros(n),
            np.ones(n, np.bool_),
            self._runs[first].copy(),
        )
        return seed, self._stamps[order[1:]], self._prices[order[1:]]


@dataclass(frozen=True, slots=True)
class DayBars:
    """A day to scan, or a part of one: state and bars before it, and its own.

    seed : state after the bar before `stamps`. stamps (n_bars,) int64 ns, prices (n_bars, n_assets) USDT with
    NaN: the 750 bars before, then its own. number : the first scan's. before : number and stamp of the scan
    before, None for the first.
    """

    day: str
    number: int
    before: Mark | None
    seed: RingRow
    stamps: IntArray
    prices: FloatArray

    @property
    def n_scans(self) -> int:
        """Scans of it."""
        return len(self.stamps) - (LEAD - 1)


def days_of(
    feed: Feed,
    fold: BarFold,
    after_ns: int = -1,
    stop_requested: Callable[[], bool] = lambda: False,
    part_ns: int = NS_PER_DAY,
) -> Iterator[DayBars]:
    """The days of a feed after an instant, each when its last bar is known; a day that was stopped in is not.

    part_ns : length of a day's parts, which divides the day. The bars are copied out of the feed; `fold` has
    the counts of all bars when the iteration ends.
    """
    end_ns = -1
    day: tuple[str, int, Mark | None, RingRow] | None = None
    stamps: list[int] = []
    rows: list[FloatArray] = []
    lead: list[Any] = []

    def whole() -> DayBars:
        if day is None:
            raise InvariantError("a day without its bars")
        return DayBars(
            *day,
            np.concatenate([lead[0], np.array(stamps, np.int64)]),
            np.concatenate([lead[1], np.array(rows)]),
        )

    for bar in feed.bars():
        if stop_requested():
            return
        if fold.accepted >= LEAD and bar.timestamp_ns > after_ns and fold.accepts(bar):
            if bar.timestamp_ns >= end_ns:
                if day is not None:
                    yield whole()
                seed, *lead = fold.lead()
                before = (fold.scans, fold.last_ns) if fold.scans and fold.last_ns is not None else None
                day = (day_from_ns(bar.timestamp_ns), fold.scans + 1, before, seed)
                end_ns = (bar.timestamp_ns // part_ns + 1) * part_ns
                stamps, rows = [], []
            stamps.append(int(bar.timestamp_ns))
            rows.append(np.array(bar.prices, np.float64))
        fold.take(bar)
    if day is not None:
        yield whole()


# -- what a build will take ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a build will take. Times in seconds, of this machine, measured on the feed's own first scans."""

    bars: int | None
    days: int | None
    scans: int | None
    #: Scans of whole days that are there.
    scans_there: int
    jobs: int
    #: Parts that a day is cut into.
    parts: int
    cores: int
    #: Of all processes together on the feed's first scans, scans/s: an upper end. None where there were too
    #: few bars to measure.
    scans_per_s: float | None
    #: Reading the feed and folding its bars, scans/s: no number of processes builds faster.
    feed_per_s: float | None
    #: Of the files, estimated from the feed's first prices.
    bytes_per_scan: float | None
    free_bytes: int

    @property
    def expected_s(self) -> float | None:
        """Least time for the scans that are not there, with what it takes to read the feed up to them."""
        if self.scans is None or not self.scans_per_s or not self.feed_per_s:
            return None
        rate = min(self.scans_per_s, self.feed_per_s) if self.jobs > 1 else self.scans_per_s
        return (self.scans - self.scans_there) / rate + self.scans_there / self.feed_per_s

    @property
    def expected_most_s(self) -> float | None:
        """The longer end of what to expect: the same work on cores that are not its own."""
        expected = self.expected_s
        return None if expected is None else expected * SLOWER_BY

    @property
    def disk_bytes(self) -> int | None:
        """Bytes of the days that are not there."""
        if self.scans is None or self.bytes_per_scan is None:
            return None
        return round((self.scans - self.scans_there) * self.bytes_per_scan)

    def text(self) -> str:
        """One line for people."""
        if self.bars is None or self.days is None or self.scans is None:
            size = "a feed without end"
        else:
            there = f" ({self.scans_there:,} there)" if self.scans_there else ""
            size = (
                f"{plural(self.bars, 'bar')}, {plural(self.days, 'day')}, {plural(self.scans, 'scan')}{there}"
            )
        cores = f"{self.jobs} of {plural(self.cores, 'core')}"
        expected, most = self.expected_s, self.expected_most_s
        if self.scans_per_s is None or expected is None or most is None:
            return f"plan: {size}; {cores}"
        needed = self.disk_bytes or 0
        return (
            f"plan: {size}; {cores} at up to {self.scans_per_s:,.0f} scans/s (measured):"
            f" {_span(expected, most)}; disk {size_text(needed)} of {size_text(self.free_bytes)} free"
        )


def duration(seconds: float) -> str:
    """A time to wait, for people."""
    if seconds < 90.0:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60.0)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _span(least: float, most: float) -> str:
    """A time to wait of which only the ends are known."""
    low, high = duration(least), duration(most)
    return f"about {low}" if low == high else f"{low} to {high}"


def size_text(n_bytes: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if n_bytes < 1000.0:
            return f"{n_bytes:.0f} {unit}" if n_bytes >= 10.0 or unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000.0
    return f"{n_bytes:.1f} TB"


def cores_of_machine() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _outline(feed: Feed) -> tuple[int | None, int | None, int | None]:
    """(bars, days with scans, scans) of a feed: exact for a panel, else as if it had no gap inside."""
    n_bars = feed.n_bars
    if isinstance(feed, RecordedFeed):
        stamps = feed.matrix()[0]
        accepted = stamps[accepted_stamps(stamps)][LEAD:]
        return n_bars, len(np.unique(accepted // NS_PER_DAY)), len(accepted)
    if n_bars is None:
        return None, None, None
    scans = max(0, n_bars - LEAD)
    first = next(iter(feed.bars()), None)
    if not scans or first is None:
        return n_bars, 0, 0
    begin = first.timestamp_ns + LEAD * feed.interval_ns
    return n_bars, (begin + (scans - 1) * feed.interval_ns) // NS_PER_DAY - begin // NS_PER_DAY + 1, scans


@dataclass(frozen=True, slots=True)
class _Measured:
    """Seconds for the bars before a block of scans, and for one scan."""

    lead_s: float
    scan_s: float

    def rate(self, scans_per_block: float) -> float:
        """Scans a second in blocks of so many."""
        return scans_per_block / (self.lead_s + scans_per_block * self.scan_s)


def _sample(feed: Feed) -> tuple[DayBars | None, float | None]:
    """The first scans of a feed as a block, and how many bars a second it gives and folds in.

    None where it is too short.
    """
    fold = BarFold(feed.symbols)
    lead: tuple[RingRow, IntArray, FloatArray] | None = None
    stamps: list[int] = []
    rows: list[FloatArray] = []
    started = time.monotonic()
    for bar in feed.bars():
        if lead is not None and fold.accepts(bar):
            stamps.append(int(bar.timestamp_ns))
            rows.append(np.array(bar.prices, np.float64))
        fold.take(bar)
        if fold.accepted == 1:
            started = time.monotonic()  # the feed is open and the kernel compiled now
        if fold.accepted == LEAD and lead is None:
            lead = fold.lead()
        if len(stamps) == SAMPLE_SCANS:
            break
    if lead is None or len(stamps) < 2:
        return None, None
    rate = (fold.accepted - 1) / max(1e-9, time.monotonic() - started)
    seed, before, prices = lead
    bars = DayBars(
        "", 1, None, seed,
        np.concatenate([before, np.array(stamps, np.int64)]), np.concatenate([prices, np.array(rows)]),
    )  # fmt: skip
    return bars, rate


def _measure(symbols: tuple[str, ...], path: ScanPath, bars: DayBars) -> _Measured:
    """Scan a block and throw the scans away."""
    warm()
    scanner = Scanner.restore(symbols, [bars.seed], path=path)
    started = time.monotonic()
    for k in range(LEAD - 1):
        scanner.update(Bar(int(bars.stamps[k]), bars.prices[k]), 1)
    lead_s = time.monotonic() - started
    for k in range(LEAD - 1, len(bars.stamps)):
        if k == LEAD:  # the first scan solves its windows from a cold start
            started = time.monotonic()
        scanner.update(Bar(int(bars.stamps[k]), bars.prices[k]), 1)
    return _Measured(lead_s, (time.monotonic() - started) / (bars.n_scans - 1))


def _bytes_per_scan(prices: FloatArray) -> float:
    """Of a day's file: what more prices add to it, and the other columns as they are."""
    sizes = []
    for rows in (prices[: len(prices) // 2], prices):
        sink = pa.BufferOutputStream()
        columns = {str(k): np.ascontiguousarray(rows[:, k]) for k in range(rows.shape[1])}
        pq.write_table(pa.table(columns), sink, compression="zstd", compression_level=3)
        sizes.append(sink.getvalue().size)
    added = len(prices) - len(prices) // 2
    return float(sizes[1] - sizes[0]) / added + 8.0 * len(FIELDS)


# -- the processes that scan -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Site:
    """What every day of a build has in common."""

    folder: Path
    symbols: tuple[str, ...]
    universe_id: str
    interval_ns: int
    path: ScanPath
    key: str


class _Record(msgspec.Struct, kw_only=True):
    """A finished day that the manifest does not have yet, and what it was made from."""

    key: str
    before: tuple[int, int] | None
    built: BuiltDay


@dataclass(slots=True)
class _Worker:
    """A scanning process: shared flags are plain memory, so that one who dies leaves no lock behind."""

    site: _Site
    stop: Any
    counts: Any
    barrier: Any
    slot: int = -1


_worker: _Worker | None = None


def _begin_worker(site: _Site, stop: Any, counts: Any, barrier: Any) -> None:
    """Set a scanning process up: signals belong to the first process, and its end is this one's too."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pa.set_cpu_count(1)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def end_with_parent() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=end_with_parent, daemon=True).start()
    _worker = _Worker(site, stop, counts, barrier)


def _measure_together(bars: DayBars) -> _Measured:
    """Measure while all the others do: none begins before all have come, so each process takes one."""
    worker = _here()
    with contextlib.suppress(threading.BrokenBarrierError):
        worker.slot = worker.barrier.wait(_START_S)
    return _measure(worker.site.symbols, worker.site.path, bars)


def _here() -> _Worker:
    if _worker is None:
        raise InvariantError("a scanning process was not set up")
    return _worker


def _scan(bars: DayBars) -> DayBuilder | None:
    """Scan a day or a part of one; None when the build was stopped."""
    worker = _here()
    site = worker.site
    scanner = Scanner.restore(site.symbols, [bars.seed], path=site.path)
    day = DayBuilder(bars.day, site.symbols, site.universe_id, site.interval_ns)
    before, number = bars.before, bars.number
    for k in range(len(bars.stamps)):
        if k % _STOP_EVERY == 0 and worker.stop.value:
            return None
        scan = scanner.update(Bar(int(bars.stamps[k]), bars.prices[k]), number).scan
        if scan is None:
            continue
        day.add(scan, before)
        before, number = (number, scan.timestamp_ns), number + 1
        if worker.slot >= 0:
            worker.counts[worker.slot] += 1
    if number - bars.number != bars.n_scans:
        raise InvariantError(f"{bars.day}: {number - bars.number} scans of {bars.n_scans} bars")
    return day


def _build_day(bars: DayBars) -> BuiltDay | None:
    """Scan a day, write its file, read it back, leave its record; None when the build was stopped."""
    day, site = _scan(bars), _here().site
    if day is None:
        return None
    aside = site.folder / BUILDING
    built = day.write(site.folder, complete=True, hidden=aside / f"{bars.day}.parquet.{os.getpid()}")
    record = _Record(key=site.key, before=bars.before, built=built)
    put_bytes(
        aside / f"{bars.day}.json", msgspec.json.encode(record), aside / f"{bars.day}.json.{os.getpid()}"
    )
    return built


def _finished(site: _Site, bars: DayBars) -> BuiltDay | None:
    """The day that begins with these bars, if an earlier build finished it and its file is still that."""
    try:
        record = msgspec.json.decode((site.folder / BUILDING / f"{bars.day}.json").read_bytes(), type=_Record)
        entry = record.built.entry
        same = (record.key, record.before, entry.first_scan_number) == (site.key, bars.before, bars.number)
        if same and sha256_of(site.folder / f"{bars.day}.parquet") == entry.sha256:
            return record.built
    except (OSError, msgspec.DecodeError, DataError):
        pass
    return None


# -- the first process -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is: bars and scans of the feed so far; scans/s of this run, all processes together."""

    bars: int
    scans: int
    scans_per_s: float
    remaining_s: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """What a build came to. `scans` are the feed's so far, `scans_there` those that were there before."""

    manifest: Manifest
    plan: Plan
    bars: int
    scans: int
    scans_there: int
    bars_refused: int
    interrupted: bool
    #: Of the scans made in this run, all processes together, after the calibration.
    scans_per_s: float | None


@dataclass(slots=True)
class _Work:
    """Counts and callbacks of a build in hand."""

    plan: Plan
    on_progress: Callable[[Progress], None]
    stop_requested: Callable[[], bool]
    bars: int = 0
    there: int = 0
    made: int = 0
    refused: int = 0
    interrupted: bool = False
    started: float = 0.0

    def tell(self, made: int) -> None:
        """Progress, `made` scans in this run so far."""
        spent = time.monotonic() - self.started
        rate = made / spent if spent > 0.0 else 0.0
        left = None
        if self.plan.scans is not None and rate > 0.0:
            left = max(0, self.plan.scans - self.there - made) / rate
        scans = self.there + made
        self.on_progress(Progress(self.bars or scans + (LEAD if scans else 0), scans, rate, left))


def build(
    feed: Feed,
    root: Path | str,
    *,
    path: ScanPath = "fast",
    jobs: int | None = None,
    stale_stamp: str | None = None,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Built:
    """Build the scan cache of a feed under `root`, or go on with it.

    Parameters
    ----------
    path : how spectra are computed.
    jobs : processes, at least 1; None: as many as there are cores, and one where more would cost more.
    stale_stamp : YYYYMMDD for a rebuild, which sets the old files aside.
    on_plan : called once, before the first scan. on_progress : called often.
    stop_requested : asked often; whole days are kept, and one process keeps its day half built.

    Raises
    ------
    StoreError
        If another source is there, another build works there, the disk refuses, or a process was killed.
    DataError
        If a file that was read back is not what was written.
    UsageError
        If jobs is below 1.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs is {jobs}; expected 1 or more processes")
    with _only_builder(Path(root) / FOLDER) as folder:
        if stale_stamp is not None:
            shutil.rmtree(folder / BUILDING, ignore_errors=True)
        writer = CacheWriter(
            root, feed.symbols, feed.interval_ns, feed.source_id, feed.name, stale_stamp=stale_stamp
        )
        plan, sample = _plan(feed, writer, path, jobs)
        work = _Work(plan, on_progress, stop_requested)
        if plan.jobs > 1 and sample is not None:
            _spread(feed, writer, path, sample, work, on_plan)
        else:
            on_plan(plan)
            work.started = time.monotonic()
            _alone(feed, writer, path, work)
        spent = time.monotonic() - work.started
        manifest = writer.finish(complete=not work.interrupted)
        if not work.interrupted:
            shutil.rmtree(folder / BUILDING, ignore_errors=True)
        return Built(
            manifest=manifest,
            plan=work.plan,
            bars=work.bars,
            scans=work.there + work.made,
            scans_there=work.there,
            bars_refused=work.refused,
            interrupted=work.interrupted,
            scans_per_s=work.made / spent if work.made and spent > 0.0 else None,
        )


def _plan(feed: Feed, writer: CacheWriter, path: ScanPath, jobs: int | None) -> tuple[Plan, DayBars | None]:
    """What the build will take in one process, with the number of them that it deserves."""
    n_bars, days, scans = _outline(feed)
    there = writer.last[0] if writer.last is not None else 0
    sample, feed_rate = _sample(feed)
    rate = None
    cores = cores_of_machine()
    wanted = jobs or cores
    parts = 1
    if sample is not None and scans and days:
        measured = _measure(feed.symbols, path, sample)
        rate = measured.rate(scans / days)
        left = max(1, days - sum(entry.complete for entry in writer.manifest.days.values()))
        parts = _parts(scans / days, left, wanted)
        wanted = min(wanted, left * parts)
        if jobs is None and (scans - there) / rate < WORTH_SPREADING_S:
            wanted = 1
    return Plan(
        bars=n_bars,
        days=days,
        scans=scans,
        scans_there=there,
        jobs=wanted if sample is not None else 1,
        parts=parts if wanted > 1 else 1,
        cores=cores,
        scans_per_s=rate,
        feed_per_s=feed_rate,
        bytes_per_scan=_bytes_per_scan(sample.prices) if sample is not None else None,
        free_bytes=shutil.disk_usage(writer.folder).free,
    ), sample


def _parts(scans_per_day: float, days: int, jobs: int) -> int:
    """Parts of a day, so that the days occupy all processes to about the same end."""
    fitting = [n for n in _PARTS if n == 1 or scans_per_day / n >= PART_SCANS]
    return next((n for n in fitting if n * days >= 4 * jobs), fitting[-1])


def _alone(feed: Feed, writer: CacheWriter, path: ScanPath, work: _Work) -> None:
    """Scan in this process. A day that it is stopped in is kept, half built."""
    fold = BarFold(feed.symbols)
    last = writer.last
    scanner = Scanner(feed.symbols, path=path) if last is None else None
    for bar in feed.bars():
        work.bars += 1
        if scanner is None and last is not None:
            if bar.timestamp_ns > last[1] and fold.accepts(bar):
                seed, stamps, prices = fold.lead()
                scanner = Scanner.restore(feed.symbols, [seed], path=path)
                for k in range(len(stamps)):
                    scanner.update(Bar(int(stamps[k]), prices[k]), 1)
            else:
                work.refused += not fold.take(bar)
                work.there = fold.scans
        if scanner is not None:
            step = scanner.update(bar, work.there + work.made + 1)
            work.refused += step.refused is not None
            if step.scan is not None:
                writer.add(step.scan)
                work.made += 1
        work.tell(work.made)
        if work.stop_requested():
            work.interrupted = True
            return


@dataclass(frozen=True, slots=True)
class _Block:
    """A day, or a part of one, that is being built or was found built."""

    day: str
    n_scans: int
    work: BuiltDay | Future[Any]

    def done(self) -> bool:
        return isinstance(self.work, BuiltDay) or self.work.done()

    def result(self) -> BuiltDay | DayBuilder | None:
        return self.work if isinstance(self.work, BuiltDay) else self.work.result()


def _is_of(day: str, block: _Block) -> bool:
    return block.day == day


def _put_together(folder: Path, results: list[BuiltDay | DayBuilder | None]) -> BuiltDay | None:
    """A day of its blocks in their order; None when the build was stopped in one of them."""
    first, *rest = results
    if isinstance(first, BuiltDay) or first is None:
        return first
    parts = [part for part in rest if isinstance(part, DayBuilder)]
    if len(parts) < len(rest):
        return None
    for part in parts:
        first.join(part)
    return first.write(folder, complete=True)


def _spread(
    feed: Feed, writer: CacheWriter, path: ScanPath, sample: DayBars, work: _Work,
    on_plan: Callable[[Plan], None],
) -> None:  # fmt: skip
    """Scan days in other processes and take them into the manifest in the order of time."""
    jobs = work.plan.jobs
    uid = universe_id(feed.symbols)
    key = digest(
        {"source_id": feed.source_id, "universe_id": uid, "interval_ns": feed.interval_ns, "path": path}
    )
    site = _Site(writer.folder, feed.symbols, uid, feed.interval_ns, path, key)
    writer.begin()
    _clear(writer.folder / BUILDING)
    context = multiprocessing.get_context("spawn")
    stop, counts = context.RawValue("b", 0), context.RawArray("q", jobs)
    pool = ProcessPoolExecutor(
        jobs, context, initializer=_begin_worker, initargs=(site, stop, counts, context.Barrier(jobs))
    )
    parts = work.plan.parts
    waiting: deque[_Block] = deque()
    fold = BarFold(feed.symbols)

    def take_over(ended: bool = False) -> None:
        """Days that are finished, in order, into the manifest. ended : no block follows."""
        while waiting:
            day = waiting[0].day
            blocks = list(takewhile(partial(_is_of, day), waiting))
            if parts > 1 and len(blocks) == len(waiting) and not ended:
                return
            if not all(block.done() for block in blocks):
                return
            results = [block.result() for block in blocks]
            built = _put_together(writer.folder, results)
            if built is None:
                return
            for block in blocks:
                waiting.popleft()
                work.made += block.n_scans if isinstance(block.work, Future) else 0
                work.there += block.n_scans if isinstance(block.work, BuiltDay) else 0
            writer.take_day(built)
            with contextlib.suppress(OSError):
                (writer.folder / BUILDING / f"{built.day}.json").unlink()

    def busy() -> list[Future[Any]]:
        return [b.work for b in waiting if isinstance(b.work, Future) and not b.work.done()]

    def look(limit: int) -> None:
        """Wait until fewer than `limit` days are in hand."""
        while True:
            take_over()
            work.tell(sum(counts))
            work.interrupted = work.interrupted or work.stop_requested()
            futures = busy()
            if work.interrupted or len(futures) < limit:
                return
            wait(futures, _LOOK_UP_S, FIRST_COMPLETED)

    try:
        with _signals_held():
            asked = [pool.submit(_measure_together, sample) for _ in range(jobs)]
        together = [future.result() for future in asked]
        per_block = (work.plan.scans or 1) / (work.plan.days or 1) / parts
        work.plan = replace(work.plan, scans_per_s=sum(measured.rate(per_block) for measured in together))
        on_plan(work.plan)
        work.started = time.monotonic()
        after = writer.last[1] if writer.last is not None else -1
        work.there = writer.last[0] if writer.last is not None else 0
        found: BuiltDay | None = None
        for bars in days_of(feed, fold, after, work.stop_requested, NS_PER_DAY // parts):
            if found is None or found.day != bars.day:
                found = _finished(site, bars)
                if found is not None:
                    waiting.append(_Block(bars.day, found.entry.rows, found))
            if found is None:
                task = _build_day if parts == 1 else _scan
                waiting.append(_Block(bars.day, bars.n_scans, pool.submit(task, bars)))
            look(jobs + 1)
            if work.interrupted:
                break
        work.interrupted = work.interrupted or work.stop_requested()
        if not work.interrupted:
            look(1)
        take_over(ended=not work.interrupted)
        work.interrupted = work.interrupted or bool(waiting)
    except BrokenProcessPool as error:
        work.interrupted = work.stop_requested()  # the signal may have gone to all processes
        if not work.interrupted:
            raise StoreError(
                f"{writer.folder}: a scanning process was killed (is memory short? take fewer --jobs);"
                f" finished days are kept: go on with the same command"
            ) from error
    finally:
        stop.value = 1
        pool.shutdown(wait=True, cancel_futures=True)
    work.bars = fold.accepted + fold.refused
    work.refused = fold.refused


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """A key pressed while processes start must not end those: they inherit that it is ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _only_builder(folder: Path) -> Iterator[Path]:
    """The folder, made and locked for one builder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be made ({error.strerror}); check disk and permissions"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(
                f"{folder}: another process builds this cache; wait for it or choose another --out"
            ) from error
        yield folder
    finally:
        os.close(lock)


def _clear(aside: Path) -> None:
    """Make the folder of records, without what a killed build left half written."""
    try:
        aside.mkdir(exist_ok=True)
        for path in aside.iterdir():
            if path.suffix != ".json":
                path.unlink()
    except OSError as error:
        raise StoreError(f"{aside}: cannot be made ({error.strerror}); check disk and permissions") from error
