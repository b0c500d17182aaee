"""The whole system in one process: feed → scanner → store → in-process grid → trader → ledger → report.

Entry point: `run`. A run lives in one folder, and everything it writes is there; a run that was killed goes
on with `resume=True` and ends with the digest and the ledger of one that was not.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dolphin.alpha.volatility import VOL_THRESHOLD
from dolphin.domain.errors import ConfigError, StoreError
from dolphin.domain.params import ParameterSet
from dolphin.domain.scan import WARMUP_PRICES, Scan, row_from_scan
from dolphin.domain.symbols import universe_id
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.payloads import Heartbeat
from dolphin.grid.topics import HEARTBEAT
from dolphin.grid.typed import TypedGrid, publish_scan
from dolphin.host.finish import JOURNAL_FILE, SETTINGS_FILE, finish, write_settings
from dolphin.host.identity import NO_BOOKS, Identity, warnings_of
from dolphin.host.session import Session, Step
from dolphin.host.session import warm as warm_session
from dolphin.journal.audit import PriceOf
from dolphin.journal.store import Journal, require_writable
from dolphin.market.feed import Feed
from dolphin.market.scan_store import ScanStore
from dolphin.market.synthetic import SyntheticFeed
from dolphin.scan.scanner import Path as ScanPath
from dolphin.scan.warm import warm as warm_scanner
from dolphin.services.book_senses import BINANCE, MOCK, Together, books_identity, open_books
from dolphin.services.forewarner_gate import NO_FOREWARNER, Assessor, due, publish_verdict
from dolphin.services.kill_switch import SWITCH_FILE, KillSwitch
from dolphin.services.live_factors import LIVE
from dolphin.services.live_factors import open_live as open_factors
from dolphin.services.live_hold import WarmupHold
from dolphin.services.pipeline import RING_FILE, ScanPipeline
from dolphin.services.senses import SYNTHETIC, Senses, SyntheticOrgans
from dolphin.services.trader import Trader


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """What a run is asked to do; `identity` is what its folder remembers and a resume compares."""

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
    forewarner: Assessor | None = None
    #: `synthetic` for the synthetic market's own, `mock`, or a folder of recorded snapshots; empty: none.
    books: str = ""
    #: The synthetic market's own factors; only its feed has them.
    factors: bool = False
    #: The publishers' own factors, live; other addresses than theirs by host.
    live_factors: bool = False
    factor_addresses: Mapping[str, str] = field(default_factory=dict)
    #: A live feed: real clock, scans flushed, late ones refused.
    live: bool = False
    #: Entries from windows that are mostly back-filled.
    trade_backfilled: bool = False
    #: Another address than the exchange's own, for its books.
    base_url: str | None = None

    def identity(self, feed: Feed) -> Identity:
        """The settings that decide the decisions."""
        return Identity(
            feed=self.feed_name,
            source=feed.name,
            source_id=feed.source_id,
            universe_id=universe_id(feed.symbols),
            spectrum="float64" if self.scan_path == "float64" else "certified",
            set_name=self.set_name,
            params=self.params,
            deployment=self.deployment,
            vol_threshold=self.vol_threshold,
            posture_when_unknown=self.posture_when_unknown,
            forewarner="" if self.forewarner is None else self.forewarner.identity,
            books=self.books if self.books in ("", SYNTHETIC) else books_identity(self.books),
            factors=LIVE if self.live_factors else SYNTHETIC if self.factors else "",
        )


@dataclass(slots=True)
class Progress:
    """What a person sees while a run goes on."""

    bars: int = 0
    bars_total: int | None = None
    scans: int = 0
    trades: int = 0
    phase: str = "warm-up"


OnProgress = Callable[[Progress], None]
OnStep = Callable[[Step], None]

SYNTHETIC_BOOKS = "Order books are the synthetic market's own: ranking, confidence, size and exits use them."
LIVE_FACTORS = "The circuit breaker hears external factors live from their publishers; exf/ keeps them."
SYNTHETIC_FACTORS = "The circuit breaker hears the synthetic market's own factors, minute by minute."
PAPER = "Paper: fills are modelled, no order left this machine."


def check(feed: Feed, settings: RunSettings) -> Session:
    """The run's session, once everything that can be refused was looked at; writes nothing.

    Raises StoreError when a run is there and was not asked for, ConfigError when it was another run or when
    these settings may not trade.
    """
    identity = settings.identity(feed)
    session = identity.session(feed.symbols)
    folder = settings.folder
    path = folder / JOURNAL_FILE
    if path.exists():
        if not settings.resume:
            raise StoreError(
                f"{folder}: a run is here already; add --resume to go on with it, or choose another --out"
            )
        with contextlib.closing(Journal.read_only(path)) as journal:
            check_same(journal.meta(), identity.recorded(), folder)
    elif not settings.resume and any((folder / name).exists() for name in ("arrow_scans", RING_FILE)):
        raise StoreError(f"{folder}: holds scans of another run; choose another --out or add --resume")
    return session


def open_journal(settings: RunSettings, feed: Feed) -> Journal:
    """A new journal in the run's folder, or the one that is there. Raises StoreError."""
    path = settings.folder / JOURNAL_FILE
    if not path.exists():
        return Journal.create(path, settings.identity(feed).recorded())
    journal = Journal.open(path)
    try:
        journal.set_meta({"status": "running", "decisions_sha256": ""})
    except BaseException:
        journal.close()
        raise
    return journal


def check_same(meta: Mapping[str, str], recorded: Mapping[str, str], folder: Path) -> None:
    """Raise ConfigError naming the first setting in which a resumed run differs from the recorded one."""
    for key, value in recorded.items():
        # A folder of before a setting was recorded ran without it.
        if meta.get(key, "") != value:
            raise ConfigError(
                f"{folder}: was run with {key} {meta.get(key)!r}, now it is {value!r}; "
                "resume with the same settings or choose another --out"
            )


def prices_from_store(store: ScanStore) -> PriceOf:
    """Look prices up in stored scans, for the audit. The folders are listed once, at the first question."""
    files: dict[int, list[Path]] = {}

    def price_of(scan_number: int, asset: str, timestamp_ns: int) -> float | None:
        if not files:
            for path in sorted(store.folder.glob("????-??-??/scan_*_*.arrow")):
                files.setdefault(int(path.name.split("_")[1]), []).append(path)
        for path in files.get(scan_number, ()):
            scan = store.read(path)
            if scan.timestamp_ns == timestamp_ns:
                return scan.asset_prices[scan.assets.index(asset)] if asset in scan.assets else None
        return None

    return price_of


class _Run:
    """What is open while a run goes on, and the steps that it consists of."""

    def __init__(self, feed: Feed, settings: RunSettings, stack: contextlib.ExitStack) -> None:
        self.feed = feed
        self.settings = settings
        self.session = check(feed, settings)
        require_writable(settings.folder)
        made = [
            settings.folder / name
            for name in (JOURNAL_FILE, RING_FILE, SETTINGS_FILE)
            if not (settings.folder / name).exists()
        ]
        self.journal = stack.enter_context(contextlib.closing(open_journal(settings, feed)))
        # The journal is this process's own now; a run that fails before its first bar leaves none behind.
        self.begun = settings.folder / JOURNAL_FILE not in made
        stack.callback(self._forget, made)
        self.pipeline = stack.enter_context(
            contextlib.closing(ScanPipeline(feed, settings.folder, settings.scan_path, live=settings.live))
        )
        self.grid = stack.enter_context(contextlib.closing(InProcessGrid("inline")))
        self.typed = TypedGrid(self.grid)
        self.senses = self._senses()
        if self.senses is not None:
            stack.callback(self.senses.close)
        self.progress = Progress(bars_total=feed.n_bars)
        self._verdict_ns: int | None = None

    def _forget(self, made: list[Path]) -> None:
        if not self.begun:
            self.journal.close()
            for path in made:
                path.unlink(missing_ok=True)

    def recover(self, on_step: OnStep, stack: contextlib.ExitStack) -> Trader:
        """The trader at the journal's end, listening. Lost scans are left for the feed to give again."""
        settings, pipeline = self.settings, self.pipeline
        trader = Trader(
            self.session,
            self.journal,
            self.typed,
            backlog=pipeline.store.scans,
            posture_when_unknown=settings.posture_when_unknown,
            on_step=on_step,
            forewarner=settings.forewarner,
            senses=self.senses,
            clock=time.time_ns if settings.live else None,
            switch=self._switch(),
        )
        stack.callback(trader.stop_listening)
        write_settings(settings.folder, settings.identity(self.feed).recorded(), self.feed.symbols)
        if settings.scan_path == "fast":
            warm_scanner()
        warm_session(settings.params, self.feed.symbols, books=bool(settings.books))
        trader.recover()
        if trader.unreplayed:
            pipeline.rewind(
                f"{trader.unreplayed} scans of journalled bars are not in {pipeline.store.folder}"
            )
        self.progress.scans = self.session.next_bar
        self.progress.trades = trader.ledger.trades
        self.begun = self.begun or pipeline.next_number > 1
        trader.catch_up()
        trader.start()
        return trader

    def _switch(self) -> KillSwitch | None:
        """A live run's own switch, which holds entries while its windows are mostly back-filled."""
        if not self.settings.live:
            return None
        path = self.settings.folder / SWITCH_FILE
        bars = getattr(self.feed, "live_bars", None)
        if bars is None or self.settings.trade_backfilled:
            return KillSwitch(path)
        return WarmupHold(path, lambda: int(getattr(self.feed, "live_bars", 0)), time.time_ns())

    def _senses(self) -> Senses | None:
        settings, feed = self.settings, self.feed
        other = settings.books not in ("", SYNTHETIC)
        books = open_books(settings.books, feed.symbols, settings.base_url) if other else None
        own_books = settings.books == SYNTHETIC
        if settings.live_factors:
            factors = open_factors(settings.folder, self.typed, settings.factor_addresses, time.time_ns)
            return factors if books is None else Together(books, factors)
        if not (own_books or settings.factors):
            return books
        if not isinstance(feed, SyntheticFeed):
            raise ConfigError(f"{feed.name} has no order books and no factors of its own; switch both off")
        organs = SyntheticOrgans(feed, self.typed, books=own_books, factors=settings.factors)
        return organs if books is None else Together(books, organs)

    def work(self, trader: Trader, tell: Callable[[], None], stop_requested: Callable[[], bool]) -> bool:
        """Every bar of the feed that is left; True when it was asked to stop."""
        pipeline = self.pipeline
        for scan in pipeline.scans(self.settings.limit_bars):
            self.begun = True
            _journal_events(pipeline, self.journal)
            self.progress.bars = pipeline.bars
            if scan is not None:
                self.progress.phase = "trading"
                # After a rewind the feed gives scans again that are decided; they are no news.
                if scan.timestamp_ns > self.session.last_timestamp_ns:
                    self._publish_verdict(scan.timestamp_ns)
                    if self.senses is not None:
                        self.senses.sense(row_from_scan(scan), scan.timestamp_ns, self.session.stress())
                    _publish(self.grid, scan)
                    trader.check()
            elif pipeline.scanner.bars <= WARMUP_PRICES:
                _tell_warmup(self.typed, pipeline)
            tell()
            if stop_requested():
                return True
        # Live bars have no end of their own: asked to stop, they end while they wait for the exchange.
        return self.settings.live and stop_requested()

    def _publish_verdict(self, now_ns: int) -> None:
        """The forewarner's verdict for whoever reads the grid, every 4 h of the market's own time."""
        forewarner = self.settings.forewarner
        if forewarner is not None and due(self._verdict_ns, now_ns):
            publish_verdict(self.typed, forewarner, self.settings.params, now_ns)
            self._verdict_ns = now_ns

    def finish(self, trader: Trader, started: float, interrupted: bool) -> dict[str, Any]:
        """Audit, figures and report. What is counted is of the whole run, however often it was stopped."""
        settings, pipeline, feed = self.settings, self.pipeline, self.feed
        violated = sum(kind == "invariant" for _, kind, _ in self.journal.events())
        set_aside = sum(1 for _ in pipeline.store.quarantine_folder.glob("*.reason.txt"))
        warnings = warnings_of(self.session)
        forewarner = settings.forewarner
        if forewarner is not None and forewarner.why:
            warnings.append(f"The forewarner answers with its fallback: {forewarner.why}.")
        warming = f"{pipeline.bars} bars: the first scan needs {WARMUP_PRICES} prices."
        facts = settings.identity(feed).facts(
            self.session,
            settings.folder,
            started,
            bars=pipeline.bars,
            counts={
                **pipeline.counts,
                **trader.counts,
                "invariants_violated": violated,
                "scans_quarantined": set_aside,
            },
            counts_of_assets={
                symbol: dict(sorted(counts.items()))
                for symbol, counts in sorted(pipeline.counts_of_assets.items())
            },
            prices_rejected={f"{s} {rule}": n for (s, rule), n in sorted(feed.rejections.items())},
            warnings=warnings,
            interrupted=interrupted,
        )
        summary, _ = finish(
            self.journal,
            settings.params,
            settings.folder,
            facts,
            opened=self.session.open_trade,
            notes=(
                *feed.notes,
                PAPER,
                _told_of(settings.books),
                *([LIVE_FACTORS] if settings.live_factors else []),
                *([SYNTHETIC_FACTORS] if settings.factors else []),
                *([NO_FOREWARNER] if forewarner is None else []),
                *warnings,
                *([warming] if pipeline.bars < WARMUP_PRICES else []),
            ),
            price_of=prices_from_store(pipeline.store),
            report=settings.report,
            status="interrupted" if interrupted else "finished",
            symbols=feed.symbols,
        )
        return summary


def run(
    feed: Feed,
    settings: RunSettings,
    on_progress: OnProgress | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Run the feed through the whole system and return the summary. Raises DolphinError.

    on_step gets every step once it is durable, those that catch up after a restart too. stop_requested is
    asked after every bar; once true the run ends in order, its day and position kept in state, and the
    summary says `interrupted`. What is refused before the first bar leaves no run in the folder.
    """
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        whole = _Run(feed, settings, stack)
        progress = whole.progress

        def after_step(step: Step) -> None:
            progress.scans += 1
            progress.trades += step.closed is not None
            if on_step is not None:
                on_step(step)

        def tell() -> None:
            if on_progress is not None:
                on_progress(progress)

        trader = whole.recover(after_step, stack)
        interrupted = whole.work(trader, tell, stop_requested)
        whole.begun = True
        trader.stop()
        if on_progress is not None:
            progress.phase = "report"
            tell()
        return whole.finish(trader, started, interrupted)


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


def _told_of(books: str) -> str:
    """One sentence on a run's books."""
    if books == MOCK:
        return "Order books are mocked: they lean one way and never move. Its results mean nothing."
    if books == BINANCE:
        return "Order books are live from Binance; a minute passes before the first are believed."
    if books in ("", SYNTHETIC):
        return SYNTHETIC_BOOKS if books else NO_BOOKS
    return f"Order books are those recorded in {books}."


def _journal_events(pipeline: ScanPipeline, journal: Journal) -> None:
    events = pipeline.take_events()
    if events:
        with journal.transaction():
            for event in events:
                journal.add_event(event.timestamp_ns, event.kind, event.text)
