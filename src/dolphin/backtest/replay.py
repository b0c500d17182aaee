"""Backtest: daily scan caches through the same session, journal, ledger and report as a live run.

Entry point: `replay`. It is the live trader without a grid; only the source of scans differs, so the digest
of decisions is the run's. A day that is half built, has gaps, or is not what its manifest says is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dolphin.alpha.volatility import VOL_THRESHOLD
from dolphin.domain.codes import POSTURES
from dolphin.domain.errors import DataError, StoreError
from dolphin.domain.params import ParameterSet
from dolphin.domain.scan import ScanRow
from dolphin.host.finish import JOURNAL_FILE, finish
from dolphin.host.session import Session, Step
from dolphin.journal.store import Journal, require_writable
from dolphin.market.scan_cache import CacheReader, CacheRow
from dolphin.services.trader import Trader

#: A killed backtest starts again, so that its journal need not be durable bar by bar.
BARS_PER_COMMIT = 2000


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


def replay(
    cache: CacheReader,
    settings: BacktestSettings,
    on_step: Callable[[Step, int, int], None] | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Run the days of a cache and return the summary, with the keys of a run's.

    on_step gets each step, the scans done and the scans in all. Raises DataError for a day that is refused,
    StoreError when the folder holds another run.
    """
    started = time.monotonic()
    days = [
        day
        for day in cache.days()
        if (settings.first_day or "") <= day <= (settings.last_day or "9999-12-31")
    ]
    if not days:
        raise DataError(f"{cache.folder}: no day between {settings.first_day} and {settings.last_day}")
    faults = [f"{day}: {fault}" for day in days for fault in cache.check(day, settings.allow_partial)]
    require_writable(settings.folder)
    path = settings.folder / JOURNAL_FILE
    if path.exists():
        raise StoreError(f"{settings.folder}: a run is here already; choose another --out")
    total = sum(cache.manifest.days[day].rows for day in days)
    session = Session(
        settings.params, cache.symbols, deployment=settings.deployment, vol_threshold=settings.vol_threshold
    )
    journal = Journal.create(path, _recorded(cache, settings))
    journal.bars_per_commit = BARS_PER_COMMIT
    trader = Trader(session, journal, posture_when_unknown=settings.posture_when_unknown)
    done = 0
    interrupted = False
    try:
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
        facts = {
            "feed": "cache",
            "set": settings.set_name,
            "bars": done,
            "source": cache.manifest.source or str(cache.folder),
            "deployment": settings.deployment,
            "days": len(days),
            "counts": {key: n for key, n in sorted(trader.counts.items()) if n},
            "partial": faults,
            "halted": session.halted,
            "interrupted": interrupted,
            "folder": str(settings.folder),
            "wall_s": round(time.monotonic() - started, 3),
        }
        notes = [
            "Backtest: fills are modelled, no order was ever sent.",
            "No order books are wired: the order-book edge is a coin flip of the legacy model, shown apart.",
            *(f"Partial day allowed: {fault}." for fault in faults),
        ]
        if session.btc_missing:
            notes.append("BTCUSDT is not in the universe: the volatility gate stays open.")
        summary, _ = finish(
            journal,
            settings.params,
            settings.folder,
            facts,
            opened=session.open_trade,
            notes=tuple(notes),
            report=settings.report,
            status="interrupted" if interrupted else "finished",
        )
        return summary
    finally:
        journal.close()


def _recorded(cache: CacheReader, settings: BacktestSettings) -> dict[str, str]:
    return {
        "feed": "cache",
        "source": cache.manifest.source,
        "source_id": cache.manifest.source_id,
        "universe_id": cache.manifest.universe_id,
        "set": settings.set_name,
        "set_hash": settings.params.hash(),
        "parameters": json.dumps(settings.params.as_dict(), sort_keys=True),
        "deployment": settings.deployment,
        "vol_threshold": repr(settings.vol_threshold),
        "posture_when_unknown": POSTURES[settings.posture_when_unknown],
        "fills": "model",
    }
