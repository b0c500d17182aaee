"""Backtest: daily scan caches through the same session, journal, ledger and report as a live run.

Entry point: `replay`. It is the live trader without a grid; only the source of scans differs, so the digest
of decisions is the run's. A day that is half built, has gaps, or is not what its manifest says is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dolphin.alpha.volatility import VOL_THRESHOLD
from dolphin.domain.errors import DataError, StoreError
from dolphin.domain.params import ParameterSet
from dolphin.domain.scan import ScanRow
from dolphin.host.finish import JOURNAL_FILE, SETTINGS_FILE, finish, write_settings
from dolphin.host.identity import NO_BOOKS, Identity, warnings_of
from dolphin.host.session import Session, Step
from dolphin.journal.store import Journal, require_writable
from dolphin.market.scan_cache import CacheReader, CacheRow
from dolphin.services.trader import Trader

#: A killed backtest starts again, so that its journal need not be durable bar by bar.
BARS_PER_COMMIT = 2000

MODELLED = "Backtest: fills are modelled, no order was ever sent."


@dataclass(frozen=True, kw_only=True, slots=True)
class BacktestSettings:
    """What a backtest is asked to do."""

    set_name: str
    params: ParameterSet
    folder: Path
    deployment: str = "BLUE"
    vol_threshold: float = VOL_THRESHOLD
    posture_when_unknown: int = 0
    allow_partial: bool = False
    first_day: str | None = None
    last_day: str | None = None
    report: bool = True


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


@dataclass(frozen=True, slots=True)
class Checked:
    """A backtest that nothing speaks against: its session, its days, and what is wrong with allowed ones."""

    session: Session
    days: tuple[str, ...]
    faults: tuple[str, ...]


def check(cache: CacheReader, settings: BacktestSettings) -> Checked:
    """Look at everything that can be refused; writes nothing.

    Raises ConfigError for settings that may not trade, DataError for a day that is refused, StoreError when
    the folder holds another run.
    """
    session = _identity(cache, settings).session(cache.symbols)
    days = tuple(
        day
        for day in cache.days()
        if (settings.first_day or "") <= day <= (settings.last_day or "9999-12-31")
    )
    if not days:
        raise DataError(f"{cache.folder}: no day between {settings.first_day} and {settings.last_day}")
    faults = tuple(f"{day}: {fault}" for day in days for fault in cache.check(day, settings.allow_partial))
    if (settings.folder / JOURNAL_FILE).exists():
        raise StoreError(f"{settings.folder}: a run is here already; choose another --out")
    return Checked(session, days, faults)


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
    identity = _identity(cache, settings)
    require_writable(settings.folder)
    total = sum(cache.manifest.days[day].rows for day in days)
    journal = Journal.create(settings.folder / JOURNAL_FILE, identity.recorded())
    journal.bars_per_commit = BARS_PER_COMMIT
    trader = Trader(session, journal, posture_when_unknown=settings.posture_when_unknown)
    done = 0
    interrupted = False
    try:
        write_settings(settings.folder, identity.recorded(), cache.symbols)
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
        warnings = warnings_of(session)
        facts = identity.facts(
            session,
            settings.folder,
            started,
            bars=done,
            counts=trader.counts,
            days=len(days),
            partial=list(faults),
            warnings=warnings,
            interrupted=interrupted,
        )
        partial = (f"Partial day allowed: {fault}." for fault in faults)
        summary, _ = finish(
            journal,
            settings.params,
            settings.folder,
            facts,
            opened=session.open_trade,
            notes=(MODELLED, NO_BOOKS, *partial, *warnings),
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


def _identity(cache: CacheReader, settings: BacktestSettings) -> Identity:
    return Identity(
        feed="cache",
        source=cache.manifest.source or str(cache.folder),
        source_id=cache.manifest.source_id,
        universe_id=cache.manifest.universe_id,
        set_name=settings.set_name,
        params=settings.params,
        deployment=settings.deployment,
        vol_threshold=settings.vol_threshold,
        posture_when_unknown=settings.posture_when_unknown,
    )
