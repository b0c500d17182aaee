"""Backtest of whole periods: a cache of days or years through the whole-period kernel, in seconds.

Entry point: `backtest`. The folder that it writes is a run's: the exact ledger, the journal (entries, exits,
trades, days; every bar's code in `bars.parquet`), summary, trades and report. Decisions, capital and digest
are those of `replay`, bit for bit; `verify` shows it on any cache.

1. Years need the memory of a piece: the market is mapped from disk, and state goes from piece to piece.
2. Every trade goes through the ledger. One that it refuses stops new entries from the next bar on: the piece
   is decided again with that refusal.
3. A folder is whole or says `running`: the bars are put in their place last, then the audit reads everything
   again from the disk.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from dolphin.backtest.market import Market, Walk, market_of_cache
from dolphin.backtest.period import PeriodResult
from dolphin.backtest.prices import MarketPrices
from dolphin.backtest.settings import (
    MODELLED,
    PERIOD,
    BacktestSettings,
    chosen_days,
    identity_of,
    manifest_of,
    require_free,
    told_of_period,
    warnings,
)
from dolphin.domain.codes import ACTION_ENTER, LEDGER_HALT, POSTURES
from dolphin.domain.decision import Decision
from dolphin.domain.errors import InvariantError
from dolphin.host.closing import closed_trade, opened_trade
from dolphin.host.finish import JOURNAL_FILE, SETTINGS_FILE, finish, write_settings
from dolphin.host.identity import NO_BOOKS
from dolphin.host.session import OpenTrade, Session
from dolphin.journal.bar_columns import (
    BARS_FILE,
    BARS_KEY,
    CERTIFIED_BITS_MIN,
    BarCodes,
    BarWriter,
    ColumnJournal,
)
from dolphin.journal.ledger import ClosedTrade, Ledger
from dolphin.journal.store import require_writable
from dolphin.market.scan_cache import CacheReader

#: SQLite's transactions of a backtest: a killed one starts again.
ROWS_PER_COMMIT = 1 << 30


@dataclass(frozen=True, slots=True)
class Ready:
    """A backtest that nothing speaks against."""

    session: Session
    market: Market
    days: tuple[str, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """What a person sees: bars decided, bars in all, trades closed; phase is `reading` with days instead."""

    phase: str
    done: int
    total: int
    trades: int = 0


OnProgress = Callable[[Progress], None]


def prepare(
    cache: CacheReader, settings: BacktestSettings, on_progress: OnProgress = lambda progress: None
) -> Ready:
    """Look at everything that can be refused; writes nothing but the cache's own columns.

    Raises ConfigError for settings that may not trade, DataError for a day that is refused, StoreError when
    the folder holds another run.
    """
    session = identity_of(cache, settings).session(cache.symbols)
    days = chosen_days(cache, settings.first_day, settings.last_day)
    require_free(settings.folder)
    end = cache.check_end(settings.last_day, settings.allow_partial)
    market = market_of_cache(
        cache,
        days,
        allow_partial=settings.allow_partial,
        posture=settings.posture_when_unknown,
        mc_status=settings.codes(days),
        progress=lambda done, total: on_progress(Progress("reading", done, total)),
    )
    faults = [note for note in market.notes if note[:10] in days and note[10:12] == ": "]
    return Ready(session, market, days, (*faults, *end))


def backtest(
    cache: CacheReader,
    settings: BacktestSettings,
    on_progress: OnProgress = lambda progress: None,
    stop_requested: Callable[[], bool] = lambda: False,
    ready: Ready | None = None,
) -> dict[str, Any]:
    """Run the days of a cache and return the summary, with the keys of a run's.

    stop_requested is asked between pieces of some days. ready is what `prepare` gave, where the caller asked
    before. Raises as `prepare` does.
    """
    started = time.monotonic()
    ready = ready or prepare(cache, settings, on_progress)
    market = ready.market
    identity = identity_of(cache, settings)
    require_writable(settings.folder)
    asked, data = manifest_of(cache, settings, ready.days, PERIOD)
    recorded = {**identity.recorded(), **asked, BARS_KEY: BARS_FILE}
    journal = ColumnJournal.create(settings.folder / JOURNAL_FILE, recorded)
    journal.bars_per_commit = ROWS_PER_COMMIT
    book = _Book(journal, BarWriter(settings.folder, cache.symbols), settings)
    walk = Walk(settings.params, market, settings.vol_threshold)
    try:
        write_settings(settings.folder, {**identity.recorded(), **asked}, cache.symbols, days=data)
        interrupted = False
        for begin, end in market.pieces():
            book.decide(walk, begin, end)
            on_progress(Progress("backtest", end, len(market), book.ledger.trades))
            if stop_requested() and end < len(market):
                interrupted = True
                break
        on_progress(Progress("audit", walk.at, len(market), book.ledger.trades))
        bits = [market.certified_bits[market.day_of(b)] for b in _day_bars(market, walk.at)]
        journal.commit_batch()
        journal.bars_per_commit = 1
        journal.set_meta({**book.writer.close(), CERTIFIED_BITS_MIN: str(min(bits, default=0))})
        told = warnings(settings, ready.session)
        if book.halted_at is not None:
            ready.session.halt()
        facts = identity.facts(
            ready.session,
            settings.folder,
            started,
            bars=walk.at + market.dropped,
            counts=Counter({"scans_dropped": market.dropped, "invariants_violated": book.violations}),
            days=len(ready.days),
            partial=list(ready.faults),
            warnings=told,
            **told_of_period(cache, settings, ready.days),
            interrupted=interrupted,
        )
        partial = (f"Partial day allowed: {fault}." for fault in ready.faults)
        holes = (f"{note}." for note in market.notes if note not in ready.faults)
        summary, _ = finish(
            journal,
            settings.params,
            settings.folder,
            facts,
            opened=book.opened,
            notes=(MODELLED, NO_BOOKS, *partial, *holes, *told),
            market=MarketPrices(market).prices_at,
            report=settings.report,
            status="interrupted" if interrupted else "finished",
        )
        return summary
    except BaseException:
        if not walk.at:
            # Nothing is decided yet: the folder stays free for the next attempt.
            book.writer.drop()
            journal.close()
            for name in (JOURNAL_FILE, SETTINGS_FILE):
                (settings.folder / name).unlink(missing_ok=True)
        raise
    finally:
        journal.close()


def _day_bars(market: Market, last: int) -> list[int]:
    """One bar of each day before bar `last`."""
    return [bar for bar in market.day_starts().tolist() if bar < last]


class _Book:
    """Ledger, journal and bars of a backtest while it goes on."""

    def __init__(self, journal: ColumnJournal, writer: BarWriter, settings: BacktestSettings) -> None:
        self.journal = journal
        self.writer = writer
        self.ledger = Ledger(settings.params.initial_capital)
        self.opened: OpenTrade | None = None
        self.violations = 0
        self.halted_at: int | None = None
        self._deployment = settings.deployment
        self._direction = settings.params.direction
        self._posture = POSTURES[settings.posture_when_unknown]
        self._entries = 0
        self._last_day: dict[str, Any] | None = None

    def decide(self, walk: Walk, begin: int, end: int) -> None:
        """Decide bars begin to end - 1, book them, and go there."""
        market = walk.market
        booked = begin
        while True:
            result = walk.look(end, "codes", self.halted_at, LEDGER_HALT)
            halted_before = self.halted_at
            numbers = np.ascontiguousarray(market.scan_number[begin:end])
            with self.journal.transaction():
                for decision in result.decisions(scan_numbers=numbers):
                    if decision.bar_idx < booked:
                        continue
                    booked = decision.bar_idx + 1
                    bits = market.certified_bits[market.day_of(decision.bar_idx)]
                    self._event(decision, float(result.equity[decision.bar_idx - begin]), bits)
                    if self.halted_at != halted_before:
                        break  # from the next bar on nothing may be entered: look again
                else:
                    self._days(result)
                    break
        self.writer.add(_codes(result, market, begin, end))
        walk.go(end, result)

    def _event(self, decision: Decision, equity: float, certified_bits: int) -> None:
        self.journal.add_decision(decision, equity, certified_bits)
        if decision.action == ACTION_ENTER:
            self._entries += 1
            self.opened = opened_trade(decision, self._deployment, self._entries)
            return
        if self.opened is None:
            raise InvariantError(f"bar {decision.bar_idx}: an exit of {decision.asset} without an open trade")
        trade, self.opened = closed_trade(self.opened, decision, self._direction), None
        self._append(trade, decision)

    def _append(self, trade: ClosedTrade, decision: Decision) -> None:
        try:
            legs = self.ledger.append(trade, decision.capital)
        except InvariantError as error:
            self.violations += 1
            if self.halted_at is None:
                self.halted_at = decision.bar_idx + 1
            self.journal.add_event(decision.timestamp_ns, "invariant", str(error))
            return
        self.journal.add_trade(trade, legs)

    def _days(self, result: PeriodResult) -> None:
        """Every day but the last one seen is over."""
        for day in result.days:
            if self._last_day is not None:
                self.journal.add_day(self._last_day["date"], self._last_day)
            self._last_day = {**msgspec.to_builtins(day), "posture": self._posture}


def _codes(result: PeriodResult, market: Market, begin: int, end: int) -> BarCodes:
    """Bars begin to end - 1 as the journal keeps them."""
    price = result.canonical()["price"].copy()
    trades = result.trades
    price[trades["exit_bar"] - result.first_bar] = trades[
        "exit_scan_price"
    ]  # not what the exit was filled at
    return BarCodes(
        market.timestamp_ns[begin:end],
        market.scan_number[begin:end],
        market.vel_div[begin:end],
        result.action,
        result.reason,
        result.asset,
        price,
        result.equity,
    )
