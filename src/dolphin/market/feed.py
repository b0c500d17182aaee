"""What a source of bars promises: `Feed`, and the bookkeeping that every feed shares.

Invariants of a feed:

1. `bars()` is deterministic: two iterations give equal bars, and `bars(skip=n)` gives what `bars()` gives
   after n.
2. A bar's prices are finite and positive or NaN; each value turned into NaN is counted in `rejections` by
   (symbol, rule). A feed that holds its whole source counts it once, at opening; a live or generated one as
   it goes.
3. Bars are stamped at their close. Duplicate and backward timestamps of a source are delivered as they come
   (and told in `notes`): the scanner is the one place that refuses and counts them, so that no two parts
   disagree.
4. `notes` are whole sentences for the person who chose the source; none of them is an error.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dolphin.domain.bar import Bar, BoolArray, FloatArray, IntArray
from dolphin.domain.clock import iso_from_ns
from dolphin.domain.errors import plural

#: Why a price became NaN, in the order in which the rules are tried.
RULES = ("text", "missing", "infinite", "zero", "negative")
#: How many gaps a note names before it only counts.
GAPS_NAMED = 3


@runtime_checkable
class Feed(Protocol):
    """A source of bars; see the module's invariants."""

    @property
    def name(self) -> str:
        """What a person calls this source, for example the file's name."""

    @property
    def symbols(self) -> tuple[str, ...]:
        """The universe, in the order of every bar's prices."""

    @property
    def interval_ns(self) -> int:
        """Length of one bar in nanoseconds."""

    @property
    def n_bars(self) -> int | None:
        """How many bars `bars()` will give, or None where the source has no end."""

    @property
    def rejections(self) -> Counter[tuple[str, str]]:
        """Values turned into NaN, by (symbol, rule)."""

    @property
    def notes(self) -> list[str]:
        """Sentences to tell the user before the run."""

    @property
    def source_id(self) -> str:
        """SHA-256 (hex) of what makes the bars: content, universe and options."""

    def bars(self, skip: int = 0) -> Iterator[Bar]:
        """The bars in order, without the first `skip`, which cost next to nothing."""

    def close(self) -> None:
        """Give back files and sockets; a closed feed gives no more bars."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A jump of time inside a source: the stamps on both sides and the whole bars missing between them."""

    after_ns: int
    before_ns: int
    n_missing: int

    def __str__(self) -> str:
        after, before = iso_from_ns(self.after_ns)[:19], iso_from_ns(self.before_ns)[:19]
        return f"{after}Z to {before}Z ({plural(self.n_missing, 'bar')})"


def find_gaps(timestamp_ns: IntArray, interval_ns: int) -> tuple[Gap, ...]:
    """The gaps in a column of stamps, shape (n_bars,), int64 ns. A step of up to 1.5 intervals is no gap."""
    step = np.diff(timestamp_ns)
    where = np.flatnonzero(step > interval_ns + interval_ns // 2)
    return tuple(
        Gap(
            int(timestamp_ns[i]),
            int(timestamp_ns[i + 1]),
            max(1, round(int(step[i]) / interval_ns) - 1),
        )
        for i in where
    )


def accepted_stamps(stamps: IntArray) -> BoolArray:
    """True for the bars a scanner takes: later than every bar before. Shape as `stamps`, int64 ns."""
    before = np.maximum.accumulate(stamps)
    keep = np.ones(len(stamps), dtype=np.bool_)
    keep[1:] = stamps[1:] > before[:-1]
    return keep


def note_of_gaps(gaps: tuple[Gap, ...]) -> str:
    """One sentence that names the first gaps and counts the rest."""
    named = "; ".join(str(gap) for gap in gaps[:GAPS_NAMED])
    rest = f" and {len(gaps) - GAPS_NAMED} more" if len(gaps) > GAPS_NAMED else ""
    total = sum(gap.n_missing for gap in gaps)
    return f"{plural(len(gaps), 'gap')}, {plural(total, 'bar')} missing in all: {named}{rest}"


def modal_interval_ns(timestamp_ns: IntArray) -> int | None:
    """The most frequent positive difference of stamps, the smaller one of a tie; None where there is none."""
    step = np.diff(timestamp_ns)
    step = step[step > 0]
    if step.size == 0:
        return None
    values, counts = np.unique(step, return_counts=True)
    return int(values[int(np.argmax(counts))])


def price_faults(prices: FloatArray) -> dict[str, BoolArray]:
    """Masks of the values that are no price, by rule: missing, infinite, zero, negative.

    Shape as `prices`.
    """
    with np.errstate(invalid="ignore"):
        return {
            "missing": np.isnan(prices),
            "infinite": np.isinf(prices),
            "zero": prices == 0.0,
            "negative": (prices < 0.0) & ~np.isinf(prices),
        }


def digest(identity: dict[str, Any]) -> str:
    """SHA-256 (hex) of a JSON object with sorted keys."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
