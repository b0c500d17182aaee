"""The whole system in one process: feed → scanner → store → in-process grid → trader → ledger → report.

Entry point: `run`. A run lives in one folder, and everything it writes is there; a run that was killed goes
on with `resume=True` and ends with the digest and the ledger of one that was not.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dolphin.alpha.volatility import VOL_THRESHOLD
from dolphin.domain.codes import POSTURES
from dolphin.domain.errors import ConfigError, StoreError
from dolphin.domain.params import ParameterSet
from dolphin.domain.scan import WARMUP_PRICES, Scan
from dolphin.domain.symbols import universe_id
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.payloads import Heartbeat
from dolphin.grid.topics import HEARTBEAT
from dolphin.grid.typed import TypedGrid, publish_scan
from dolphin.host.finish import JOURNAL_FILE, SETTINGS_FILE, finish, write_text
from dolphin.host.session import Session, Step
from dolphin.host.session import warm as warm_session
from dolphin.journal.audit import PriceOf
from dolphin.journal.store import Journal, require_writable
from dolphin.market.feed import Feed
from dolphin.market.scan_store import ScanStore
from dolphin.scan.scanner import Path as ScanPath
from dolphin.scan.warm import warm as warm_scanner
from dolphin.services.pipeline import RING_FILE, ScanPipeline
from dolphin.services.trader import Trader


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """What a run is asked to do; `recorded` is what its folder remembers and a resume compares."""

    feed_name: str
    set_name: str
    params: ParameterSet
    folder: Path
    deployment: str = "BLUE"
    vol_threshold: float = VOL_THRESHOLD
    scan_path: ScanPath = "fast"
    posture_when_unknown: int = 0
    limit_bars: int | None = None
    report: bool = True
    resume: bool = False

    def recorded(self, feed: Feed) -> dict[str, str]:
        """The settings that decide the decisions."""
        return {
            "feed": self.feed_name,
            "source": feed.name,
            "source_id": feed.source_id,
            "universe_id": universe_id(feed.symbols),
            "spectrum": "float64" if self.scan_path == "float64" else "certified",
            "set": self.set_name,
            "set_hash": self.params.hash(),
            "parameters": json.dumps(self.params.as_dict(), sort_keys=True),
            "deployment": self.deployment,
            "vol_threshold": repr(self.vol_threshold),
            "posture_when_unknown": POSTURES[self.posture_when_unknown],
            "fills": "model",
        }


@dataclass(slots=True)
class Progress:
    """What a person sees while a run goes on."""

    bars: int = 0
    bars_total: int | None = None
    scans: int = 0
    trades: int = 0
    phase: str = "warm-up"
    last: Step | None = None
    extra: dict[str, Any] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]


def open_journal(settings: RunSettings, feed: Feed) -> Journal:
    """A new journal in the run's folder, or with `resume` the one that is there.

    Raises StoreError when a run is there and was not asked for, ConfigError when it was another run.
    """
    require_writable(settings.folder)
    folder = settings.folder
    path = folder / JOURNAL_FILE
    recorded = settings.recorded(feed)
    if not path.exists():
        has_scans = any((folder / name).exists() for name in ("arrow_scans", RING_FILE))
        if has_scans and not settings.resume:
            raise StoreError(f"{folder}: holds scans of another run; choose another --out or add --resume")
        return Journal.create(path, recorded)
    if not settings.resume:
        raise StoreError(
            f"{folder}: a run is here already; add --resume to go on with it, or choose another --out"
        )
    journal = Journal.open(path)
    try:
        check_same(journal.meta(), recorded, folder)
        journal.set_meta({"status": "running", "decisions_sha256": ""})
    except BaseException:
        journal.close()
        raise
    return journal


def check_same(meta: Mapping[str, str], recorded: Mapping[str, str], folder: Path) -> None:
    """Raise ConfigError naming the first setting in which a resumed run differs from the recorded one."""
    for key, value in recorded.items():
        if meta.get(key) != value:
            raise ConfigError(
                f"{folder}: was run with {key} {meta.get(key)!r}, now it is {value!r}; "
                "resume with the same settings or choose another --out"
            )


def prices_from_store(store: ScanStore) -> PriceOf:
    """Look prices up in stored scans, for the audit. The folders are listed once, at the first question."""
    files: dict[int, Path] = {}

    def price_of(scan_number: int, asset: str) -> float | None:
        if not files:
            files.update(
                (int(path.name.split("_")[1]), path)
                for path in sorted(store.folder.glob("????-??-??/scan_*_*.arrow"))
            )
        if scan_number not in files:
            return None
        scan = store.read(files[scan_number])
        return scan.asset_prices[scan.assets.index(asset)] if asset in scan.assets else None

    return price_of


def run(
    feed: Feed,
    settings: RunSettings,
    on_progress: OnProgress | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Run the feed through the whole system and return the summary. Raises DolphinError.

    stop_requested is asked after every bar; once true the run ends in order, its day and position kept in
    state, and the summary says `interrupted`.
    """
    started = time.monotonic()
    journal = open_journal(settings, feed)
    try:
        pipeline = ScanPipeline(feed, settings.folder, settings.scan_path)
    except BaseException:
        journal.close()
        raise
    grid = InProcessGrid("inline")
    session = Session(
        settings.params,
        feed.symbols,
        deployment=settings.deployment,
        vol_threshold=settings.vol_threshold,
    )
    progress = Progress(bars_total=feed.n_bars)
    interrupted = False

    def after_step(step: Step) -> None:
        progress.last = step
        progress.scans += 1
        if step.closed is not None:
            progress.trades += 1

    typed = TypedGrid(grid)
    trader = Trader(
        session,
        journal,
        typed,
        backlog=pipeline.store.scans,
        posture_when_unknown=settings.posture_when_unknown,
        on_step=after_step,
    )
    try:
        _write_settings(settings, feed)
        if settings.scan_path == "fast":
            warm_scanner()
        warm_session(settings.params, feed.symbols)
        trader.recover()
        if trader.unreplayed:
            pipeline.rewind(
                f"{trader.unreplayed} scans of journalled bars are not in {pipeline.store.folder}"
            )
        trader.catch_up()
        progress.scans = session.next_bar
        progress.trades = trader.ledger.trades
        trader.start()
        for scan in pipeline.scans(settings.limit_bars):
            _journal_events(pipeline, journal)
            progress.bars = pipeline.bars
            if scan is not None:
                progress.phase = "trading"
                _publish(grid, scan)
                trader.check()
            elif pipeline.scanner.bars <= WARMUP_PRICES:
                _tell_warmup(typed, pipeline)
            if on_progress is not None:
                on_progress(progress)
            if stop_requested():
                interrupted = True
                break
        trader.stop()
        if on_progress is not None:
            progress.phase = "report"
            on_progress(progress)
        quarantined = Counter(scans_quarantined=pipeline.store.n_quarantined)
        facts = {
            "feed": settings.feed_name,
            "set": settings.set_name,
            "bars": pipeline.bars,
            "source": feed.name,
            "deployment": settings.deployment,
            "counts": {
                key: n for key, n in sorted((pipeline.counts + trader.counts + quarantined).items()) if n
            },
            "prices_rejected": {f"{s} {rule}": n for (s, rule), n in sorted(feed.rejections.items())},
            "halted": session.halted,
            "interrupted": interrupted,
            "folder": str(settings.folder),
            "wall_s": round(time.monotonic() - started, 3),
        }
        notes = (*feed.notes, *_notes(session, pipeline))
        summary, _ = finish(
            journal,
            settings.params,
            settings.folder,
            facts,
            opened=session.open_trade,
            notes=notes,
            price_of=prices_from_store(pipeline.store),
            report=settings.report,
            status="interrupted" if interrupted else "finished",
        )
        return summary
    finally:
        trader.stop_listening()
        journal.close()
        pipeline.close()
        grid.close()


def _tell_warmup(grid: TypedGrid, pipeline: ScanPipeline) -> None:
    """The scanner's heartbeat while its windows fill, stamped with the bar's own time."""
    now_ns = pipeline.scanner.timestamp_ns
    if now_ns is not None:
        grid.put(
            HEARTBEAT,
            Heartbeat.at("scanner", "warmup", now_ns, **pipeline.scanner.progress),
            service="scanner",
        )


def _publish(grid: InProcessGrid, scan: Scan) -> None:
    # The stamp is the bar's own: a replay must not bring the wall clock into a payload.
    publish_scan(grid, scan, bridge_ts=scan.timestamp_ns / 1e9)


def _journal_events(pipeline: ScanPipeline, journal: Journal) -> None:
    events = pipeline.take_events()
    if events:
        with journal.transaction():
            for event in events:
                journal.add_event(event.timestamp_ns, event.kind, event.text)


def _write_settings(settings: RunSettings, feed: Feed) -> None:
    text = json.dumps({**settings.recorded(feed), "symbols": list(feed.symbols)}, indent=1) + "\n"
    write_text(settings.folder / SETTINGS_FILE, text)


def _notes(session: Session, pipeline: ScanPipeline) -> list[str]:
    notes = ["Paper: fills are modelled, no order left this machine."]
    notes.append(
        "No order books are wired: the order-book edge is a coin flip of the legacy model, shown apart."
    )
    if session.btc_missing:
        notes.append("BTCUSDT is not in the universe: the volatility gate stays open.")
    if pipeline.bars < WARMUP_PRICES:
        notes.append(f"{pipeline.bars} bars: the first scan needs {WARMUP_PRICES} prices.")
    return notes
