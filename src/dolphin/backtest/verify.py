"""Is the whole-period engine right on this very cache? Some days again, bar by bar, and every bit compared.

Entry points: `sample_days`, `proven_market`, `verify`. The days are read from their own files, hash checked,
not from the columns that the run was mapped from; the two are compared as well, over the whole run.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from dolphin.backtest.folder import halted
from dolphin.backtest.market import Market, Walk, market_of_cache
from dolphin.backtest.settings import BacktestSettings, chosen_days
from dolphin.backtest.stepping import session_at, step_at
from dolphin.domain.clock import day_from_ns
from dolphin.domain.decision import Decision
from dolphin.domain.errors import InvariantError
from dolphin.journal.bar_columns import ColumnJournal, read_journal
from dolphin.market.scan_cache import CacheReader

DAYS: Final = 3
_SEED: Final = 20260105
#: What of a market comes from the cache.
_SCANNED: Final = (
    "timestamp_ns", "scan_number", "vel_div", "v50", "v750", "instability_50", "prices", "stale",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verified:
    """What was compared, bit for bit, without a difference; `trades_of` is the run's, closed ones."""

    days: tuple[str, ...]
    bars: int
    trades: int
    trades_of: int


def sample_days(bars: Mapping[str, int], closed: Mapping[str, int], n: int) -> tuple[str, ...]:
    """n days in their order, from the bars and the closed trades of each.

    The one on which most trades closed, the last whole one, where a run has come furthest from its start, and
    a seeded draw of the others. A stub, of under half the longest day's bars, comes last.
    """
    if n >= len(bars):
        return tuple(bars)
    longest = max(bars.values())
    whole = [day for day, length in bars.items() if 2 * length >= longest]
    busiest = max(whole, key=lambda day: closed.get(day, 0))
    draw = random.Random(_SEED)  # noqa: S311
    others = draw.sample(whole, len(whole)) + [day for day in bars if day not in whole]
    order = dict.fromkeys([busiest, whole[-1], *others])
    return tuple(sorted(list(order)[:n]))


def proven_market(
    cache: CacheReader,
    settings: BacktestSettings,
    progress: Callable[[int, int], None] | None = None,
) -> Market:
    """The market of a backtest, every row compared with its day's file; raises what `Columns.open` raises."""
    days = chosen_days(cache, settings.first_day, settings.last_day)
    return market_of_cache(
        cache,
        days,
        allow_partial=settings.allow_partial,
        posture=settings.posture_when_unknown,
        mc_status=settings.codes(days),
        progress=progress,
        prove=True,
    )


def verify(
    market: Market,
    settings: BacktestSettings,
    n_days: int = DAYS,
    on_day: Callable[[int, int], None] = lambda done, total: None,
) -> Verified:
    """Decide n_days again through `Engine.step_bar`, each from the state at its start, and compare.

    market is what the run was decided on; all its bars are compared with the days' own files first. Then
    every field of every decision is compared with the period engine's, the capital, and the canonical record
    with what lies in the run's folder. Raises InvariantError naming day, bar and field.
    """
    journal = read_journal(settings.folder)
    try:
        if not isinstance(journal, ColumnJournal):
            raise InvariantError(
                f"{settings.folder}: was decided bar by bar; there is nothing to compare with"
            )
        n_bars = journal.last_bar() + 1
        proven = proven_market(CacheReader(journal.meta()["cache"]), settings)
        _require_same(market, proven, n_bars)
        market = halted(proven, journal)
        starts = market.day_starts().tolist()
        spans = {
            market.day_of(begin): (begin, min(end, n_bars))
            for begin, end in pairwise(starts)
            if begin < n_bars
        }
        closed = Counter(day_from_ns(trade.exit_ns) for trade in journal.trades())
        lengths = {day: end - begin for day, (begin, end) in spans.items()}
        chosen = sample_days(lengths, closed, n_days)
        walk = Walk(settings.params, market, settings.vol_threshold)
        bars = trades = 0
        for k, day in enumerate(chosen):
            begin, end = spans[day]
            trades += _compare_day(walk.to(begin), day, end, journal)
            bars += end - begin
            on_day(k + 1, len(chosen))
        return Verified(chosen, bars, trades, closed.total())
    finally:
        journal.close()


def _require_same(market: Market, proven: Market, n_bars: int) -> None:
    """The bars decided are the cache's, bit for bit. Raises InvariantError with the first day that is not."""
    for begin, end in pairwise(market.day_starts().tolist()):
        for name in _SCANNED:
            ours, theirs = (getattr(of, name)[begin : min(end, n_bars)] for of in (market, proven))
            if ours.tobytes() != theirs.tobytes():
                raise InvariantError(
                    f"{market.day_of(begin)}: {name} of the mapped columns is not what the day's file holds;"
                    " the columns are made anew, run the backtest again"
                )


def _compare_day(walk: Walk, day: str, end: int, journal: ColumnJournal) -> int:
    """Closed trades of a day that is the same both ways; the walk goes to its end."""
    begin = walk.at
    session = session_at(walk)
    result = walk.look(end, "all")
    numbers = np.ascontiguousarray(walk.market.scan_number[begin:end])
    written = journal.canonicals(begin)
    trades = 0
    for bar, ours in enumerate(result.decisions(scan_numbers=numbers), begin):
        step = step_at(session, walk.market, bar)
        field = difference(ours, step.decision)
        if field:
            a, b = getattr(ours, field), getattr(step.decision, field)
            raise InvariantError(f"{day}, bar {bar}: {field} is {a!r}, step_bar gives {b!r}; report this bar")
        if _bits(float(result.equity[bar - begin])) != _bits(step.equity):
            raise InvariantError(
                f"{day}, bar {bar}: equity is {float(result.equity[bar - begin])!r},"
                f" step_bar gives {step.equity!r}; report this bar"
            )
        if next(written, (0, 0, b""))[2] != step.decision.canonical():
            raise InvariantError(
                f"{day}, bar {bar}: the record in {journal.path.parent} is another than step_bar gives;"
                " run the backtest again"
            )
        trades += step.closed is not None
    if result.state.arrays != session.state().engine.arrays:
        raise InvariantError(f"{day}: the states after bar {end - 1} differ; report this day")
    walk.go(end, result)
    return trades


def difference(a: Decision, b: Decision) -> str:
    """Name of the first field whose bits differ, or an empty string."""
    return next(
        (name for name in a.__struct_fields__ if _bits(getattr(a, name)) != _bits(getattr(b, name))), ""
    )


def _bits(value: Any) -> Any:
    return struct.pack("<d", value) if isinstance(value, float) else value
