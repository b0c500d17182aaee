"""The trader as a service: one fenced leader decides, any other stands by and takes over.

Entry point: `TraderService`.

1. Who leads is decided by the grid's fenced lock and proven by the journal: a leadership is a term of the
   journal with the lock's fence, and a bar of an older term is refused inside its own transaction. A leader
   that was stopped and comes back therefore decides nothing more; it stands by.
2. A leader goes on without the grid: the scans come from the store then, exits are managed, and a posture
   that is older than 30 s closes the position. A standby never becomes leader without the grid.
3. A scan's event only wakes. What is decided comes from the log by sequence, then from the Arrow store.
4. A dry run decides everything and writes nothing: no lock, no term, no grid, a journal that is thrown away.
5. Books come from the grid's near view, or from the book service's file while that says that the grid does
   not take them. A thread keeps the file read; between a bar and its decision nothing is waited for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections import Counter
from pathlib import Path

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.codes import ACTION_ENTER, ACTION_EXIT, POSTURES
from dolphin.domain.errors import ConfigError, FenceError, InvariantError, StoreError
from dolphin.grid.payloads import ScanPayload
from dolphin.grid.port import (
    ConnectionEvent,
    ConnectionState,
    FencedLock,
    GridError,
    LockError,
    LockTimeout,
    Subscription,
)
from dolphin.grid.topics import SCAN
from dolphin.host.finish import JOURNAL_FILE, SCANS, write_settings
from dolphin.host.identity import Identity
from dolphin.host.session import Step, warm
from dolphin.host.telling import scan_line, trade_line
from dolphin.journal.fenced import FencedJournal, highest_fence
from dolphin.journal.store import Journal
from dolphin.market.scan_store import ScanStore
from dolphin.services.book_cache import CachedBooks, FileFirstBooks, Watch
from dolphin.services.book_senses import BookSenses
from dolphin.services.circuit import Circuit
from dolphin.services.embedded import check_same
from dolphin.services.feeds import identity_of, open_market
from dolphin.services.grid_books import GridBooks
from dolphin.services.kill_switch import KillSwitch
from dolphin.services.service import Context
from dolphin.services.trader import Trader

#: How often a leader asks the grid whether it still leads, and reads the safety reference again.
LEASE_CHECK_NS = 5 * NS_PER_S
#: With the grid away, how often the store is looked through for new scans.
STORE_LOOK_NS = 2 * NS_PER_S

#: A takeover that the disk refused is tried again after a second, two, four and so on, up to this.
TAKEOVER_WAIT_MAX_NS = 30 * NS_PER_S

#: How long a standby leaves the first trader to start, when both are started together.
STANDBY_PATIENCE_NS = 120 * NS_PER_S

_log = logging.getLogger("dolphin.trader")


class TraderService:
    """One trader of a deployment, leader or standby."""

    period_s = 1.0

    def __init__(self, context: Context) -> None:
        self.context = context
        self.dry_run = bool(context.options.get("dry_run", False))
        self._trader: Trader | None = None
        self._lock: FencedLock | None = None
        self._switch = KillSwitch(context.home.kill_switch)
        #: What the book service writes while the grid does not take it; read beside the decisions.
        self.book_file = CachedBooks(context.home.ob_cache)
        self._identity: Identity | None = None
        self._symbols: tuple[str, ...] = ()
        self._store = ScanStore(context.home.market)
        self._subscriptions: list[Subscription] = []
        self._checked_ns = 0
        self._looked_ns = 0
        self._reborn = False
        self._went_away = False
        self._why = "not started"
        self._posture = ""
        self._last_step: Step | None = None
        self._switched = ""
        self._counted: Counter[str] = Counter()
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._listening = False
        self._first_to_lead = context.name != "trader_standby"
        self._leader_seen = False
        self._takeover_failed = False
        self._takeovers = Circuit(failures_to_open=1, backoff_max_ns=TAKEOVER_WAIT_MAX_NS)
        self._started_ns = context.clock.now_ns()
        self._owner = f"{context.name}:{os.getpid()}"

    # what the host asks

    @property
    def fence(self) -> int:
        """The fence of this trader's term, 0 while it stands by."""
        journal = None if self._trader is None else self._trader.journal
        return journal.fence if isinstance(journal, FencedJournal) else 0

    @property
    def trader(self) -> Trader | None:
        """The trader while this process leads."""
        return self._trader

    @property
    def phase(self) -> str:
        """See `Service.phase`."""
        if self._trader is None:
            return "standby"
        return "halted" if self._trader.session.halted else "running"

    def health(self) -> tuple[bool, str]:
        """Standing by is healthy; a takeover that fails is not, nor a halted ledger."""
        if self._trader is None:
            if self._takeover_failed:
                return False, f"cannot take over: {self._why}"
            return True, f"stands by: {self._why}"
        if self._trader.session.halted:
            return False, "the ledger did not balance: no entries until a person has looked"
        step = self._last_step
        seen = "no scan yet" if step is None else f"last scan {step.decision.scan_number}"
        away = "" if self.context.grid.grid.connected else "; the grid is away, scans come from the store"
        return True, f"leads under fence {self.fence}, {seen}{away}"

    def gauges(self) -> dict[str, float]:
        """See `Service.gauges`."""
        found = {
            "leading": float(self._trader is not None),
            "fence": float(self.fence),
            "kill_switch": float(self._switch.read() is not None),
        }
        if self._trader is not None:
            found["halted"] = float(self._trader.session.halted)
            found["position_open"] = float(self._trader.session.open_trade is not None)
        if self._last_step is not None:
            found["equity_usd"] = self._last_step.equity
            found["capital_usd"] = self._last_step.decision.capital
            found["posture"] = float(self._last_step.decision.posture)
            found["bars"] = float(self._last_step.decision.bar_idx + 1)
        return found

    # life

    def start(self) -> None:
        """Check the settings, compile what a first decision would wait for, listen. Raises DolphinError."""
        feed = open_market(self.context.settings)
        with contextlib.closing(feed):
            self._symbols = feed.symbols
            self._identity = identity_of(self.context.settings, feed)
        self._identity.session(self._symbols)
        warm(self._identity.params, self._symbols, books=True)
        grid = self.context.grid
        # A grid that is away now is listened to as soon as it comes back: see `tick`.
        with contextlib.suppress(GridError):
            self._listen()
        self._subscriptions.append(grid.grid.on_connection(self._on_connection))
        self._why = "waits for the lock"
        if self.dry_run:
            self._lead_without_trace()

    def _listen(self) -> None:
        def wake(payload: ScanPayload, event: object) -> None:
            self.context.wake.set()

        self._subscriptions.append(self.context.grid.listen(SCAN, wake, initial=True))
        self._listening = True

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event.state is ConnectionState.CONNECTED:
            self._went_away = True
            if event.reborn:
                self._reborn = True
        self.context.wake.set()

    def stop(self) -> None:
        """Keep a last snapshot, give the lock back. The day stays open, a position is kept in state."""
        trader = self._trader
        if trader is not None:
            try:
                trader.stop()
            except (FenceError, StoreError) as error:
                _log.error("no last snapshot: %s", error)
        self._let_go()
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions.clear()

    # work

    def tick(self) -> None:
        """Stand by, or decide what is there to decide."""
        if not self._listening:
            self._listen()
        if self._trader is None:
            self._stand_by()
        if self._trader is None:
            return
        try:
            self._work(self._trader)
        except (FenceError, StoreError) as error:
            # Memory may be a bar ahead of the journal now: only a recovery from it goes on, as soon as the
            # disk takes a new term.
            if isinstance(error, StoreError):
                self._takeovers.failed(self.context.clock.now_ns())
            self._step_down(str(error))

    def _work(self, trader: Trader) -> None:
        now_ns = self.context.clock.now_ns()
        self._tell_switch()
        try:
            self._ask_and_tell(trader, now_ns)
            if self._trader is None:
                return
            trader.drain()
        except GridError:
            # Whatever the grid could not do, a position is not left alone for it.
            self._from_the_store(trader, now_ns)
            raise
        if not self.context.grid.grid.connected:
            self._from_the_store(trader, now_ns)
        self._count(trader)

    def _ask_and_tell(self, trader: Trader, now_ns: int) -> None:
        """What a grid that came back has missed, and now and then whether this process still leads."""
        if self._reborn:
            # Until it went through, it is tried again: a grid that is told half is told whole.
            trader.reborn()
            self._reborn = self._went_away = False
            # The lock went with the grid's memory.
            self._checked_ns = 0
        elif self._went_away:
            trader.ship_past()
            self._went_away = False
        if not 0 <= now_ns - self._checked_ns < LEASE_CHECK_NS:
            self._checked_ns = now_ns
            self._check_lease()
            if self._trader is not None:
                trader.organs.refresh()

    def _count(self, trader: Trader) -> None:
        """Add what the trader has counted since; its own counts begin anew with every term."""
        for key, n in trader.counts.items():
            self.context.counts[key] += n - self._counted[key]
            self._counted[key] = n

    def _from_the_store(self, trader: Trader, now_ns: int) -> None:
        """With the grid away scans come from the store: an open position is never left alone."""
        if not 0 <= now_ns - self._looked_ns < STORE_LOOK_NS:
            self._looked_ns = now_ns
            trader.catch_up()

    def _tell_switch(self) -> None:
        state = self._switch.read()
        told = "" if state is None else state.told()
        if told != self._switched:
            self._switched = told
            self.context.tell("kill_switch", told or "lifted")

    # leadership

    def _stand_by(self) -> None:
        """Take the lock if it is free, and with it the journal; after the disk refused not at every turn."""
        if not self._takeovers.allows(self.context.clock.now_ns()):
            return
        path = self.context.home.trader / JOURNAL_FILE
        lock = self.context.grid.grid.lock(f"trader_{self.context.settings.deployment}")
        if not self._may_begin(lock):
            return
        if lock.locked() and not lock.held():
            # Asked first, for the floor below costs a look into the journal.
            self._why, self._takeover_failed = "another trader leads", False
            return
        try:
            fence = lock.acquire(0.0, floor=highest_fence(path))
        except LockTimeout:
            self._why, self._takeover_failed = "another trader leads", False
            return
        except LockError:
            # An earlier try had no answer, but took it: the next one begins anew.
            self._release(lock)
            self._why = "gives back a lock whose fence it never heard"
            return
        try:
            self._take_over(path, fence)
        except FenceError as error:
            self._release(lock)
            self._why = str(error)
            self.context.counts["terms_refused"] += 1
        except StoreError as error:
            # The journal is in use, or the disk is full: the lock goes to whoever can do better.
            self._release(lock)
            self._why = str(error)
            self._takeover_failed = True
            self._takeovers.failed(self.context.clock.now_ns())
            self.context.counts["takeovers_failed"] += 1
            self.context.tell("leader", f"cannot take over: {error}")
        except BaseException:
            self._release(lock)
            raise
        else:
            self._takeover_failed = False
            self._lock = lock
            self._checked_ns = self.context.clock.now_ns()

    def _may_begin(self, lock: FencedLock) -> bool:
        """A standby that has seen no leader yet leaves the first one time to start."""
        if self._first_to_lead or self._leader_seen:
            return True
        waited_ns = self.context.clock.now_ns() - self._started_ns
        if lock.locked():
            self._leader_seen = True
        elif 0 <= waited_ns < STANDBY_PATIENCE_NS:
            self._why = "waits for the first trader"
            return False
        return True

    def _take_over(self, path: Path, fence: int) -> None:
        identity = self._identity
        if identity is None:
            raise InvariantError("the trader was not started before it was ticked")
        recorded = identity.recorded()
        if path.exists():
            with contextlib.closing(Journal.read_only(path)) as journal:
                check_same(journal.meta(), recorded, path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        now_ns = self.context.clock.now_ns()
        term = FencedJournal.take_term(path, recorded, fence=fence, owner=self._owner, now_ns=now_ns)
        trader = self._trader_on(term, publish=True)
        try:
            write_settings(
                path.parent,
                recorded,
                self._symbols,
                **{SCANS: os.path.relpath(self.context.home.market, path.parent)},
            )
            replayed = trader.recover()
            trader.catch_up()
        except BaseException:
            trader.close()
            raise
        self._trader = trader
        self._went_away = True
        self.context.tell(
            "leader",
            f"{self.context.name} leads {identity.deployment} under fence {fence},"
            f" from bar {trader.session.next_bar} ({replayed} replayed)",
        )

    def _trader_on(self, journal: Journal, publish: bool) -> Trader:
        identity = self._identity
        if identity is None:
            raise ConfigError("the trader was not started")
        on_grid = GridBooks(self.context.grid)
        watch = Watch(self.book_file)
        books = FileFirstBooks(on_grid, self.book_file)

        def close() -> None:
            on_grid.close()
            watch.stop()

        return Trader(
            identity.session(self._symbols),
            journal,
            self.context.grid,
            backlog=self._store.scans,
            clock=self.context.clock.now_ns,
            posture_when_unknown=identity.posture_when_unknown,
            on_step=self._on_step,
            switch=self._switch,
            publish=publish,
            signals=False,
            senses=BookSenses(books, self._symbols, close, books.take_news),
        )

    def _lead_without_trace(self) -> None:
        identity = self._identity
        if identity is None:
            raise ConfigError("the trader was not started")
        self._scratch = tempfile.TemporaryDirectory(prefix="dolphin-dry-run-")
        journal = Journal.create(Path(self._scratch.name) / JOURNAL_FILE, identity.recorded())
        self._trader = self._trader_on(journal, publish=False)

    def _check_lease(self) -> None:
        """Whether the grid still says that this process leads; with the grid away the journal alone says."""
        if self._lock is None:
            return
        try:
            held = self._lock.held()
        except GridError:
            return
        if not held:
            self._lock = None
            self._step_down("the grid gave the lock to another, or lost it")

    def _step_down(self, why: str) -> None:
        """Decide nothing more under this fence."""
        fence = self.fence
        self._let_go()
        self._why = why
        self.context.counts["stepped_down"] += 1
        self.context.tell("leader", f"{self.context.name} gave up fence {fence}: {why}")

    def _let_go(self) -> None:
        trader, self._trader = self._trader, None
        if trader is not None:
            trader.close()
            self._counted.clear()
        lock, self._lock = self._lock, None
        if lock is not None:
            self._release(lock)
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    @staticmethod
    def _release(lock: FencedLock) -> None:
        with contextlib.suppress(GridError, LockError):
            lock.release()

    # telling

    def _on_step(self, step: Step) -> None:
        # Only a bar on disk proves that the disk takes bars: a new term alone is small enough for a full one.
        self._takeovers.succeeded()
        self._last_step = step
        decision = step.decision
        _log.info(scan_line(step), extra={"bar": decision.bar_idx, "scan": decision.scan_number})
        if self._identity is not None and decision.action in (ACTION_ENTER, ACTION_EXIT):
            line = trade_line(decision, self._identity.params.direction) or ""
            _log.info(line)
            self.context.tell("trade", line)
        posture = POSTURES[decision.posture]
        if posture != self._posture:
            if self._posture:
                self.context.tell("posture", f"the trader acts as {posture}, before as {self._posture}")
            self._posture = posture
        if decision.stale_state:
            self.context.counts["stale_states"] += 1
