"""The event trader: reads scans by sequence, decides, makes the decision durable, then tells the grid.

A grid event only wakes it. Scans come from the scan log; what the log no longer holds comes from the Arrow
store, so that a scan missed while the trader was away is still decided. Invariants:

1. durable before visible: nothing is published for a bar before its journal transaction is committed;
2. recovery is a snapshot plus the scans since: the decisions made again must be the journalled ones, byte for
   byte, and what the grid should show of them is published again;
3. a violated ledger invariant stops new entries, is journalled, and shows in every snapshot;
4. the engine's direction is the parameter set's: nothing here can open the other side;
5. a kill switch and an organ's last word hold with the grid dead and after a restart;
6. after a failure between a decision and its commit nothing more is decided: memory and journal differ by a
   bar, and only a recovery joins them again. `check` tells the host, which must ask: a listener cannot raise
   to it;
7. an entry is committed only on a scan that is young enough then: a process that stood still while it decided
   decides again, and refuses.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from dolphin.domain.clock import NS_PER_S, day_from_ns, iso_from_ns
from dolphin.domain.codes import (
    ACTION_ENTER,
    ACTION_EXIT,
    ACTION_NONE,
    ACTIONS,
    APEX,
    HIBERNATE,
    OPERATOR_HALT,
    POSTURES,
    REASON_NONE,
    REASONS,
)
from dolphin.domain.decision import Decision
from dolphin.domain.errors import DataError, InvariantError
from dolphin.domain.scan import Scan, ScanRow, row_from_scan
from dolphin.grid.payloads import (
    EngineSnapshot,
    LastTrade,
    PnlDay,
    ScanPayload,
    SignalPayload,
    StateLatest,
)
from dolphin.grid.port import GridError, Subscription
from dolphin.grid.topics import ENGINE_SNAPSHOT, LAST_TRADE, PNL_DAY, SCAN, SIGNAL, STATE
from dolphin.grid.typed import TypedGrid
from dolphin.host.inputs import HostInputs
from dolphin.host.readings import pack, unpack
from dolphin.host.session import SCAN_AGE_MAX_NS, OpenTrade, Session, SessionState, Step
from dolphin.journal.books import add_readings, readings_of
from dolphin.journal.fenced import FencedJournal, newest_inputs
from dolphin.journal.ledger import ClosedTrade, Ledger
from dolphin.journal.store import Journal
from dolphin.orderbook.fold import Arrivals
from dolphin.services.circuit import Circuit
from dolphin.services.forewarner_gate import Assessor, ForewarnerGate
from dolphin.services.kill_switch import KillSwitch, SwitchState
from dolphin.services.organs import Organs
from dolphin.services.senses import Senses

SNAPSHOT_EVERY = 500
#: Bars between two publications of the deployment's state when nothing happens.
STATE_EVERY = 12
_ACTIVE = (ACTION_ENTER, ACTION_EXIT)

_encode_state = msgspec.msgpack.Encoder().encode
_decode_state = msgspec.msgpack.Decoder(SessionState).decode


class Trader:
    """One deployment's trader over a session, a journal and a grid.

    Parameters
    ----------
    session : the alpha and its surroundings, fresh; `recover` brings it to the journal's end
    journal : the run's journal, open for writing
    grid : typed door to the grid, or None for a host without one
    backlog : scans of the store with a number above the given one, for what the log no longer holds
    clock : the host's clock in ns, or None in replays, where scans do not age
    on_step : called after a bar is durable, for progress and for people
    forewarner : the host's own models, or None to take the grid's verdict
    switch : the operator's kill switch, looked at before every bar; None for a host without one
    publish : False for a dry run: the grid is read and never written
    senses : where books come from, None for a host without any
    signals : whether the last decision is published here; a system of services has a signal bridge for it
    """

    def __init__(
        self,
        session: Session,
        journal: Journal,
        grid: TypedGrid | None = None,
        *,
        backlog: Callable[[int], Iterator[Scan]] | None = None,
        clock: Callable[[], int] | None = None,
        posture_when_unknown: int = APEX,
        on_step: Callable[[Step], None] | None = None,
        forewarner: Assessor | None = None,
        switch: KillSwitch | None = None,
        publish: bool = True,
        senses: Senses | None = None,
        signals: bool = True,
    ) -> None:
        self.session = session
        self.journal = journal
        self.ledger = Ledger(session.params.initial_capital)
        self.counts: Counter[str] = Counter()
        self._grid = grid
        self._backlog = backlog
        self._clock = clock
        self._on_step = on_step
        self._lock = threading.RLock()
        self._failure: BaseException | None = None
        self._undone: dict[int, Decision] = {}
        self._unshipped = False
        self._next_sequence = 0
        self._last_scan_number = -1
        gate = None if forewarner is None else ForewarnerGate(forewarner, session.params)
        self.organs = Organs(grid, posture_when_unknown, gate, newest_inputs(journal))
        self._switch = switch
        self._switched: SwitchState | None = None
        self._publishes = publish and grid is not None
        self._signals = signals
        self._senses = senses
        self._readings: dict[int, bytes] = {}
        self._writes = Circuit()
        self._peak = session.params.initial_capital
        self._subscription: Subscription | None = None

    # life

    def start(self) -> None:
        """Listen for scans; each event wakes `drain`."""
        if self._grid is not None:
            self._subscription = self._grid.listen(SCAN, self._wake)

    def stop(self) -> None:
        """Stop listening and keep a last snapshot. The day stays open, a position is kept in state."""
        self.stop_listening()
        with self._lock:
            self.check()
            bar = self.session.next_bar - 1
            if bar >= 0:
                with self.journal.transaction(durable=True):
                    self.journal.add_snapshot(bar, self._state())

    def stop_listening(self) -> None:
        """Take no further scan."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def close(self) -> None:
        """Let go of grid and journal without keeping anything: what is durable is durable already."""
        self.stop_listening()
        self.organs.close()
        if self._senses is not None:
            self._senses.close()
        self.journal.close()

    def check(self) -> None:
        """Raise what made an earlier bar fail, also when it happened in a listener."""
        if self._failure is not None:
            raise self._failure

    @property
    def unreplayed(self) -> int:
        """Journalled bars after the snapshot whose scans the store has lost and the feed must give again."""
        return len(self._undone)

    def recover(self) -> int:
        """Bring session and ledger to the end of the journal; returns how many bars were replayed.

        Bars whose scans the store has lost stay `unreplayed`; made again, they are compared as they come.
        Raises InvariantError when a replayed decision is not the journalled one, DataError for a damaged
        snapshot.
        """
        with self._lock:
            for trade in self.journal.trades():
                self.ledger.append(trade, self._capital_after(trade))
            snapshot = self.journal.newest_snapshot()
            if snapshot is not None:
                try:
                    state = _decode_state(snapshot[1])
                except msgspec.DecodeError as error:
                    raise DataError(f"{self.journal.path}: the snapshot is damaged ({error})") from error
                self.session.restore(state)
                if self._senses is not None:
                    self._senses.restore(state.senses)
            self._last_scan_number = self.journal.last_scan_number()
            self._undone = {d.timestamp_ns: d for d in self.journal.decisions(self.session.next_bar)}
            replayed = 0
            if self._undone:
                self._readings = dict(readings_of(self.journal, self.session.next_bar))
                found = self._scans_at(self._undone)
                for timestamp_ns in list(self._undone):
                    if timestamp_ns not in found:
                        break
                    self._replay(row_from_scan(found[timestamp_ns]))
                    replayed += 1
            self._unshipped = self.session.next_bar > 0
            self._peak = max(self._peak, self.journal.equity_peak() or 0.0)
            return replayed

    def _scans_at(self, wanted: Mapping[int, Decision]) -> dict[int, Scan]:
        """Stored scans by stamp, those wanted; the walk begins at the lowest of their numbers."""
        found: dict[int, Scan] = {}
        for scan in self._stored(min(d.scan_number for d in wanted.values()) - 1):
            if scan.timestamp_ns in wanted and scan.assets == self.session.symbols:
                found[scan.timestamp_ns] = scan
                if len(found) == len(wanted):
                    break
        return found

    def _replay(self, row: ScanRow) -> None:
        """Decide a journalled bar again, without booking or publishing it."""
        journalled = self._undone.pop(row.timestamp_ns)
        data = self._readings.pop(journalled.bar_idx, None)
        books = None if data is None else unpack(data, len(self.session.symbols))
        if self._senses is not None:
            self._senses.pass_over(row, self.session.stress(), books)
        step = self.session.replay(row, journalled, books)
        if step.closed is not None and not self.ledger.has(step.closed.trade_id):
            # The ledger refused this trade when it was made; it stands in the journal's events.
            self.session.halt()

    def catch_up(self) -> int:
        """Decide the stored scans that were written but not decided; returns how many."""
        with self._lock:
            return 0 if self._undone else self._decide_all(self._stored(self._last_scan_number))

    def _decide_all(self, scans: Iterable[Scan]) -> int:
        return sum(1 for scan in scans if self.on_scan(scan) is not None)

    def _catch_up_missed(self, n_missed: int, first: ScanPayload | None) -> None:
        """Decide from the store, in the order of time, what the log no longer holds.

        Usually these are the scans above the last number. A scanner that began again at a low number shows as
        too few of them, or as a log below it; then all stored scans are looked through.
        """
        last = self._last_scan_number
        missed = self._between(last, first)
        begun_anew = first is not None and first.scan_number <= last
        if begun_anew or (len(missed) < n_missed and self._next_sequence > 0):
            missed = self._between(-1, first)
        self._decide_all(sorted(missed, key=lambda scan: scan.timestamp_ns))

    def _between(self, number: int, first: ScanPayload | None) -> list[Scan]:
        """Stored scans above a number that came after the last decided one and before the log's first."""
        after = self.session.last_timestamp_ns
        until = None if first is None else first.timestamp_ns
        return [
            scan
            for scan in self._stored(number)
            if after < scan.timestamp_ns and (until is None or scan.timestamp_ns < until)
        ]

    # work

    def _wake(self, payload: ScanPayload, event: object) -> None:
        try:
            self.drain()
        except BaseException as error:
            self._failure = self._failure or error
            if not isinstance(error, Exception):
                raise

    def drain(self) -> None:
        """Decide every scan of the log that was not decided yet, in order."""
        if self._grid is None:
            return
        with self._lock:
            while True:
                self.check()
                read = self._grid.read_scans(self._next_sequence)
                if read.rewound:
                    # The log was lost and began anew: from its start, the session drops what it knows.
                    self._next_sequence = 0
                    continue
                self.counts["scans_rejected"] += read.n_rejected
                if read.n_missed:
                    self.counts["scans_read_from_store"] += read.n_missed
                    self._catch_up_missed(read.n_missed, read.scans[0][1] if read.scans else None)
                for _, payload in read.scans:
                    if self._after_a_gap(payload):
                        self._catch_up_missed(1, payload)
                    self.on_scan(payload.to_scan())
                self._next_sequence = read.next_sequence
                if not read.scans and not read.n_rejected:
                    return

    def _after_a_gap(self, payload: ScanPayload) -> bool:
        """Whether scans between the last decided one and this are not in the log: the store may have them.

        A log that was lost, and grew again past where this reader stood, shows as such a gap too.
        """
        last = self._last_scan_number
        return (
            last >= 0
            and payload.scan_number > last + 1
            and payload.timestamp_ns > self.session.last_timestamp_ns
        )

    def reborn(self) -> None:
        """The grid came back empty: read its log from the start, tell it again what it should show.

        Raises GridError.
        """
        with self._lock:
            self._next_sequence = 0
            self._unshipped = self.session.next_bar > 0
            if self._publishes:
                self.organs.refill()
                self.ship_past()

    def on_scan(self, scan: Scan) -> Step | None:
        """Decide one scan, durably; None for a duplicate, a late one or one of another universe."""
        if scan.assets != self.session.symbols:
            self.counts["scans_of_another_universe"] += 1
            return None
        return self.on_row(row_from_scan(scan))

    def on_row(self, row: ScanRow) -> Step | None:
        """The same for a row of a scan cache. Raises what an earlier bar failed with."""
        with self._lock:
            self.check()
            try:
                if self._undone and row.timestamp_ns > self.session.last_timestamp_ns:
                    self._take_again(row)
                    return None
                readings = self._sense(row, self._now_ns())
                before = self._before_an_entry()
                while True:
                    now_ns = self._now_ns()
                    switch = None if self._switch is None else self._switch.read()
                    step = self._decide(row, now_ns, switch, readings)
                    if step is None:
                        self.counts["scans_dropped"] += 1
                        return None
                    if before is None or not self._overtaken(row, step):
                        break
                    self.counts["entries_overtaken"] += 1
                    self.session.restore(before)
                late_s = 0.0 if now_ns is None else (now_ns - row.timestamp_ns) / NS_PER_S
                self._make_durable(row, step, late_s, switch, readings)
                self._last_scan_number = row.scan_number
            except BaseException as error:
                self._failure = error
                raise
            self._ship(row, step)
        if self._on_step is not None:
            self._on_step(step)
        return step

    def _now_ns(self) -> int | None:
        return None if self._clock is None else self._clock()

    def _decide(
        self,
        row: ScanRow,
        now_ns: int | None,
        switch: SwitchState | None,
        readings: Arrivals | None,
    ) -> Step | None:
        day = day_from_ns(row.timestamp_ns)
        return self.session.on_scan(
            row,
            inputs=self._inputs(now_ns, day, switch, readings),
            now_ns=now_ns,
            refusal=REASON_NONE if switch is None else OPERATOR_HALT,
            inputs_after=lambda: self._inputs(now_ns, day, switch),
        )

    def _before_an_entry(self) -> SessionState | None:
        """What to go back to when an entry is overtaken by time; None where that cannot be."""
        if self._clock is None or self.session.open_trade is not None:
            return None
        return self.session.state()

    def _overtaken(self, row: ScanRow, step: Step) -> bool:
        """Whether an entry's scan became too old while it was decided: a process was stopped or starved."""
        now_ns = self._now_ns() if step.decision.action == ACTION_ENTER else None
        return now_ns is not None and now_ns - row.timestamp_ns > SCAN_AGE_MAX_NS

    def _sense(self, row: ScanRow, now_ns: int | None) -> Arrivals | None:
        """What is read of the books for a bar that will be decided."""
        if self._senses is None or row.timestamp_ns <= self.session.last_timestamp_ns:
            return None
        at_ns = row.timestamp_ns if now_ns is None else now_ns
        return self._senses.sense(row, at_ns, self.session.stress())

    def _state(self) -> bytes:
        """Session and senses, for a snapshot."""
        senses = b"" if self._senses is None else self._senses.state()
        return _encode_state(msgspec.structs.replace(self.session.state(), senses=senses))

    def _inputs(
        self,
        now_ns: int | None,
        day: str,
        switch: SwitchState | None,
        readings: Arrivals | None = None,
    ) -> HostInputs:
        """What the organs say; a switch at FLATTEN closes the position as HIBERNATE does."""
        inputs = self.organs.inputs(now_ns, day)
        if readings is not None and self._senses is not None:
            inputs = replace(inputs, readings=readings, books_label=self._senses.label)
        if switch is not None and switch.state == "FLATTEN":
            return replace(inputs, posture=HIBERNATE)
        return inputs

    def _take_again(self, row: ScanRow) -> None:
        """A scan after a recovery that lacked some: the next journalled one, or InvariantError."""
        timestamp_ns, decision = next(iter(self._undone.items()))
        if row.timestamp_ns != timestamp_ns:
            raise InvariantError(
                f"{self.journal.path}: scan {decision.scan_number} of bar {decision.bar_idx} is lost and the "
                "feed does not give it again; restore arrow_scans/ or start a new run"
            )
        self._replay(row)

    def _make_durable(
        self,
        row: ScanRow,
        step: Step,
        late_s: float,
        switch: SwitchState | None,
        readings: Arrivals | None,
    ) -> None:
        decision = step.decision
        violation = ""
        legs = None
        if step.closed is not None:
            try:
                legs = self.ledger.append(step.closed, decision.capital)
            except InvariantError as error:
                violation = str(error)
                self.session.halt()
        switched = switch != self._switched
        important = decision.action in _ACTIVE or step.day is not None or bool(violation) or switched
        news = [] if self._senses is None else self._senses.take_news()
        words = self.organs.changes() if isinstance(self.journal, FencedJournal) else []
        with self.journal.transaction(durable=important):
            if step.day is not None:
                self.journal.add_day(step.day.date, _day_result(step))
            self.journal.add_decision(decision, step.equity, row.certified_bits, row.lambdas)
            if readings is not None:
                add_readings(self.journal, decision.bar_idx, pack(readings))
            if step.closed is not None and legs is not None:
                self.journal.add_trade(step.closed, legs)
            if violation:
                self.journal.add_event(row.timestamp_ns, "invariant", violation)
            if late_s * NS_PER_S > SCAN_AGE_MAX_NS:
                self.counts["scans_stale"] += 1
                text = f"scan {row.scan_number} came {late_s:.1f} s late: no entry, exits are managed"
                self.journal.add_event(row.timestamp_ns, "stale_scan", text)
            for kind, text in news:
                self.journal.add_event(row.timestamp_ns, kind, text)
            if switched:
                text = "lifted" if switch is None else switch.told()
                self.journal.add_event(row.timestamp_ns, "kill_switch", text)
            if isinstance(self.journal, FencedJournal):
                for source, payload in words:
                    self.journal.add_input(row.timestamp_ns, decision.bar_idx, source, payload)
            if (decision.bar_idx + 1) % SNAPSHOT_EVERY == 0:
                self.journal.add_snapshot(decision.bar_idx, self._state())
        self._switched = switch
        self._peak = max(self._peak, step.equity)
        if violation:
            self.counts["invariants_violated"] += 1

    def _ship(self, row: ScanRow, step: Step) -> None:
        """Tell the grid, what it missed first. A grid that is away costs nothing but the telling."""
        if not self._publishes:
            return
        now_ns = None if self._clock is None else self._clock()
        if now_ns is not None and not self._writes.allows(now_ns):
            self._unshipped = True
            return
        try:
            if self._unshipped:
                self._publish_past(step.decision.bar_idx)
                self._unshipped = False
            self._publish(step)
        except GridError:
            self._unshipped = True
            self.counts["publications_failed"] += 1
            if now_ns is not None:
                self._writes.failed(now_ns)
        else:
            self._writes.succeeded()

    def ship_past(self) -> None:
        """Publish from the journal what the grid should show and was not told. Raises GridError."""
        with self._lock:
            if self._publishes and self._unshipped:
                self._publish_past(self.session.next_bar)
                self._unshipped = False
                self._writes.succeeded()

    def _publish_past(self, before_bar: int) -> None:
        """Publish finished days and the last trade from the journal, as they stood before a bar."""
        if self._grid is None:
            return
        where = {"deployment": self.session.deployment}
        trades = [trade for trade in self.journal.trades() if trade.exit_bar < before_bar]
        if trades:
            for decision in self.journal.decisions(trades[-1].exit_bar, trades[-1].exit_bar):
                payload = _last_trade(trades[-1], decision, iso_from_ns(decision.timestamp_ns))
                self._grid.put(LAST_TRADE, payload, **where)
        for day in self.journal.days():
            self._grid.put(PNL_DAY, PnlDay(**day), date=day["date"], **where)
        for decision in self.journal.decisions(before_bar - 1, before_bar - 1):
            iso = iso_from_ns(decision.timestamp_ns)
            equity = self.journal.equity_at(decision.bar_idx)
            self._grid.put(STATE, self._state_of(decision, equity, iso), **where)

    def _publish(self, step: Step) -> None:
        if self._grid is None:
            return
        decision = step.decision
        where = {"deployment": self.session.deployment}
        iso = iso_from_ns(decision.timestamp_ns)
        self._grid.put(
            ENGINE_SNAPSHOT,
            EngineSnapshot(
                capital=decision.capital,
                open_positions=_positions(self.session.open_trade),
                last_scan=decision.scan_number,
                scan_count=decision.bar_idx + 1,
                vel_div=decision.vel_div,
                vol_ok=step.vol_ok,
                posture=POSTURES[decision.posture],
                detail={**self._detail(step.equity), "books": decision.books, "esof": decision.esof},
                updated_at=iso,
            ),
            **where,
        )
        if step.day is not None or decision.action in _ACTIVE or decision.bar_idx % STATE_EVERY == 0:
            self._grid.put(STATE, self._state_of(decision, step.equity, iso), **where)
        if decision.action != ACTION_NONE and self._signals:
            self._grid.put(SIGNAL, signal_of(decision, iso), **where)
        if step.closed is not None:
            self._grid.put(LAST_TRADE, _last_trade(step.closed, decision, iso), **where)
        if step.day is not None:
            self._grid.put(PNL_DAY, PnlDay(**_day_result(step)), date=step.day.date, **where)

    def _state_of(self, decision: Decision, equity: float, iso: str) -> StateLatest:
        initial = self.session.params.initial_capital
        return StateLatest(
            strategy=self.session.deployment,
            capital=decision.capital,
            date=iso[:10],
            pnl=decision.capital - initial,
            trades=self.ledger.trades,
            peak_capital=self._peak,
            drawdown=max(0.0, 1.0 - equity / self._peak) if self._peak > 0.0 else 0.0,
            engine_state="halted" if self.session.halted else "running",
            updated_at=iso,
        )

    def _detail(self, equity: float) -> dict[str, Any]:
        """What people and the health organs want of the trader beside its position."""
        detail: dict[str, Any] = {"halted": self.session.halted, "equity": equity, "peak": self._peak}
        if isinstance(self.journal, FencedJournal):
            detail["fence"] = self.journal.fence
        if self._switched is not None:
            detail["kill_switch"] = self._switched.told()
        return detail

    def _stored(self, after: int) -> Iterator[Scan]:
        return iter(()) if self._backlog is None else self._backlog(after)

    def _capital_after(self, trade: ClosedTrade) -> float:
        for decision in self.journal.decisions(trade.exit_bar, trade.exit_bar):
            return decision.capital
        raise InvariantError(
            f"{self.journal.path}: trade {trade.trade_id} has no decision at bar {trade.exit_bar}"
        )


def _day_result(step: Step) -> dict[str, Any]:
    """The ended day with the posture on the bar that ended it, as journal and grid have it."""
    return {**msgspec.to_builtins(step.day), "posture": POSTURES[step.decision.posture]}


def _positions(opened: OpenTrade | None) -> tuple[dict[str, Any], ...]:
    if opened is None:
        return ()
    entry = opened.entry
    return (
        {
            "trade_id": opened.trade_id,
            "asset": entry.asset,
            "entry_price": entry.price,
            "notional": entry.notional,
            "leverage": entry.leverage,
            "entry_bar": entry.bar_idx,
        },
    )


def signal_of(decision: Decision, iso: str) -> SignalPayload:
    """A decision as the grid's readers have it; iso is its bar's stamp."""
    return SignalPayload(
        asset=decision.asset or None,
        action=ACTIONS[decision.action],
        vel_div=decision.vel_div,
        confidence=decision.confidence or None,
        lanes={
            "base": decision.lane_base,
            "dc": decision.lane_dc,
            "regime": decision.lane_regime,
            "ob": decision.lane_ob,
            "esof": decision.lane_esof,
        },
        conviction=decision.leverage,
        reason=REASONS[decision.reason],
        scan_number=decision.scan_number,
        timestamp=iso,
    )


def _last_trade(trade: ClosedTrade, decision: Decision, iso: str) -> LastTrade:
    return LastTrade(
        trade_id=trade.trade_id,
        asset=trade.asset,
        side=-1 if trade.direction < 0 else 1,
        entry_price=trade.entry_price,
        exit_price=trade.exit_price,
        leverage=trade.leverage,
        notional=trade.notional,
        net=trade.net,
        reason=trade.reason,
        bars_held=decision.bars_held,
        stale_state=decision.stale_state,
        timestamp=iso,
    )
