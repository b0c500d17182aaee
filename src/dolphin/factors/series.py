"""A factor's whole history in memory, asked for what was known at an instant.

Entry points: `Series`, `SeriesSource`, `first_day`.

Invariants
----------
1. A value counts from `known_ns`, the instant at which it could be read, never before: no look-ahead.
2. Its age counts from `at_ns`, the instant that it speaks of, which is never after it was known.
3. A file is read when its source is asked first, and again as long as it could not be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY
from dolphin.domain.errors import DolphinError
from dolphin.factors.keeper import Sample


class Series(NamedTuple):
    """Three columns of one length, known_ns rising: ns UTC, the factor's unit, ns UTC."""

    known_ns: IntArray
    values: FloatArray
    at_ns: IntArray


class SeriesSource:
    """One factor; see `dolphin.factors.keeper.Source`."""

    def __init__(self, name: str, load: Callable[[], Series]) -> None:
        self.name = name
        self._load = load
        self._series: Series | None = None

    def read(self, instant_ns: int) -> Sample | None:
        """The newest value known at instant_ns, None before the first.

        Raises DataError for a file that is not what it should be, StoreError for one that cannot be read.
        """
        series = self.series()
        k = int(np.searchsorted(series.known_ns, instant_ns, side="right")) - 1
        return None if k < 0 else Sample(float(series.values[k]), int(series.at_ns[k]))

    def series(self) -> Series:
        """All of it; raises as `read` does."""
        if self._series is None:
            self._series = self._load()
        return self._series


def series_of(known_ns: IntArray, values: FloatArray, at_ns: IntArray) -> Series:
    """The columns in order. Of two values known at one instant the later row's counts."""
    order = np.argsort(known_ns, kind="stable")
    known_ns, values, at_ns = known_ns[order], values[order], at_ns[order]
    last = np.append(known_ns[1:] != known_ns[:-1], True) if len(known_ns) else np.zeros(0, np.bool_)
    return Series(known_ns[last], values[last], at_ns[last])


def first_day(sources: Sequence[SeriesSource], age_max_ns: Callable[[str], int]) -> int | None:
    """Midnight UTC (ns) of the first recorded day on which the most sources have a value young enough.

    A source that cannot be read has none; None when no source has any.
    """
    spans: list[tuple[int, int]] = []
    for source in sources:
        try:
            known_ns = source.series().known_ns
        except DolphinError:
            continue
        if not len(known_ns):
            continue
        limit_ns = age_max_ns(source.name)
        breaks = np.flatnonzero(np.diff(known_ns) > limit_ns)
        starts, ends = known_ns[np.append(0, breaks + 1)], known_ns[np.append(breaks, -1)] + limit_ns
        spans += [(-(-int(a) // NS_PER_DAY), int(b) // NS_PER_DAY) for a, b in zip(starts, ends, strict=True)]
    best: int | None = None
    most = 0
    for day in sorted({begin for begin, end in spans if begin <= end}):
        n = sum(1 for begin, end in spans if begin <= day <= end)
        if n > most:
            best, most = day * NS_PER_DAY, n
    return best
