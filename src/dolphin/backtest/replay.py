"""Backtest bar by bar: daily scan caches through the very session, journal and ledger of a live run.

Entry point: `replay`. It is the live trader without a grid; only the source of scans differs, so the digest
of decisions is the run's. It is the oracle of `dolphin.backtest.whole`, which decides the same in a fraction
of the time, and the engine of `dolphin backtest --engine step`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dolphin.backtest.settings import (
    MODELLED,
    STEP,
    BacktestSettings,
    Checked,
    check,
    identity_of,
    manifest_of,
    told_of_period,
    warnings,
)
from dolphin.domain.scan import ScanRow
from dolphin.host.finish import JOURNAL_FILE, SETTINGS_FILE, finish, write_settings
from dolphin.host.identity import NO_BOOKS
from dolphin.host.session import Step
from dolphin.journal.store import Journal, require_writable
from dolphin.market.scan_cache import CacheReader, CacheRow
from dolphin.services.trader import Trader

#: A killed backtest starts again, so that its journal need not be durable bar by bar.
BARS_PER_COMMIT = 2000

__all__ = ["BacktestSettings", "Checked", "check", "replay", "row_of"]


def row_of(row: CacheRow, certified_bits: int) -> ScanRow:
    """A cache row as the session takes it; the eigenvalues themselves are not in a scan cache."""
    return ScanRow(
        scan_number=row.scan_number,
        timestamp_ns=row.timestamp_ns,
        vel_div=row.vel_div,
        v50_velocity=row.v50,
        v750_velocity=row.v750,
        instability_50=row.instability_50,
        prices=row.prices,
        stale=row.stale,
        certified_bits=certified_bits,
    )


def replay(
    cache: CacheReader,
    settings: BacktestSettings,
    on_step: Callable[[Step, int, int], None] | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    checked: Checked | None = None,
) -> dict[str, Any]:
    """Run the days of a cache and return the summary, with the keys of a run's.

    on_step gets each step, the scans done and the scans in all. checked is what `check` gave, where the
    caller asked before. Raises as `check` does.
    """
    started = time.monotonic()
    checked = checked or check(cache, settings)
    session, days, faults = checked.session, checked.days, checked.faults
    identity = identity_of(cache, settings)
    require_writable(settings.folder)
    total = sum(cache.manifest.days[day].rows for day in days)
    asked, data = manifest_of(cache, settings, days, STEP)
    journal = Journal.create(settings.folder / JOURNAL_FILE, {**identity.recorded(), **asked})
    journal.bars_per_commit = BARS_PER_COMMIT
    trader = Trader(
        session,
        journal,
        posture_when_unknown=settings.posture_when_unknown,
        forewarner=settings.assessor,
    )
    done = 0
    interrupted = False
    try:
        write_settings(settings.folder, {**identity.recorded(), **asked}, cache.symbols, days=data)
        for day in days:
            bits = cache.manifest.days[day].min_certified_bits or 0
            for row in cache.scans(day):
                step = trader.on_row(row_of(row, bits))
                done += 1
                if step is not None and on_step is not None:
                    on_step(step, done, total)
                if stop_requested():
                    interrupted = True
                    break
            if interrupted:
                break
        journal.commit_batch()
        journal.bars_per_commit = 1
        told = warnings(settings, session)
        facts = identity.facts(
            session,
            settings.folder,
            started,
            bars=done,
            counts=trader.counts,
            days=len(days),
            partial=list(faults),
            warnings=told,
            **told_of_period(cache, settings, days),
            interrupted=interrupted,
        )
        partial = (f"Partial day allowed: {fault}." for fault in faults)
        summary, _ = finish(
            journal,
            settings.params,
            settings.folder,
            facts,
            opened=session.open_trade,
            notes=(MODELLED, NO_BOOKS, *partial, *told),
            report=settings.report,
            status="interrupted" if interrupted else "finished",
        )
        return summary
    except BaseException:
        if not done:
            # Nothing is decided yet: the folder stays free for the next attempt.
            journal.close()
            for name in (JOURNAL_FILE, SETTINGS_FILE):
                (settings.folder / name).unlink(missing_ok=True)
        raise
    finally:
        journal.close()
