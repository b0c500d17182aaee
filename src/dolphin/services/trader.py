"""The event trader: reads scans by sequence, decides, makes the decision durable, then tells the grid.

A grid event only wakes it. Scans come from the scan log; what the log no longer holds comes from the Arrow store, so
that a scan missed while the trader was away is still decided. Invariants:

1. durable before visible: nothing is published for a bar before its journal transaction is committed;
2. recovery is a snapshot plus the scans since: the decisions made again must be the journalled ones, byte for byte;
3. a violated ledger invariant stops new entries, is journalled, and shows in every snapshot;
4. the engine's direction is the parameter set's: nothing here can open the other side.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from dolphin.domain.clock import iso_from_ns
from dolphin.domain.codes import (
    ACTION_ENTER,
    ACTION_EXIT,
    ACTION_NONE,
    ACTIONS,
    APEX,
    POSTURES,
    REASONS,
    posture_code,
)
from dolphin.domain.decision import Decision
from dolphin.domain.errors import InvariantError
from dolphin.domain.scan import Scan, ScanRow, row_from_scan
from dolphin.grid.near_view import NearView
from dolphin.grid.port import Subscription
from dolphin.grid.topics import (
    ENGINE_SNAPSHOT,
    LAST_TRADE,
    PNL_DAY,
    SAFETY,
    SCAN,
    SIGNAL,
    EngineSnapshot,
    LastTrade,
    PnlDay,
    ScanPayload,
    SignalPayload,
)
from dolphin.grid.typed import TypedGrid
from dolphin.host.session import Session, SessionState, Step
from dolphin.journal.ledger import ClosedTrade, Ledger
from dolphin.journal.store import Journal

SNAPSHOT_EVERY = 500
SAFETY_AGE_MAX_NS = 30_000_000_000
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
    ) -> None:
        self.session = session
        self.journal = journal
        self.ledger = Ledger(session.params.initial_capital)
        self.counts: Counter[str] = Counter()
        self._grid = grid
        self._backlog = backlog
        self._clock = clock
        self._posture_unknown = posture_when_unknown
        self._on_step = on_step
        self._lock = threading.Lock()
        self._next_sequence = 0
        self._last_scan_number = -1
        self._safety = None if grid is None else NearView(grid.grid, SAFETY)
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
            bar = self.session.next_bar - 1
            if bar >= 0:
                with self.journal.transaction(durable=True):
                    self.journal.add_snapshot(bar, _encode_state(self.session.state()))

    def stop_listening(self) -> None:
        """Take no further scan."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def recover(self) -> int:
        """Bring session and ledger to the end of the journal; returns how many bars were replayed.

        Raises InvariantError when a replayed decision is not the journalled one, or a scan is missing.
        """
        for trade in self.journal.trades():
            self.ledger.append(trade, self._capital_after(trade))
        snapshot = self.journal.newest_snapshot()
        if snapshot is not None:
            self.session.restore(_decode_state(snapshot[1]))
        last = self.journal.last_bar()
        todo = {
            scan_number: (bar, record)
            for bar, scan_number, record in self.journal.canonicals()
            if bar >= self.session.next_bar
        }
        replayed = 0
        if todo:
            first = min(todo)
            for scan in self._stored(first - 1):
                expected = todo.pop(scan.scan_number, None)
                if expected is None:
                    continue
                step = self.session.on_scan(row_from_scan(scan), posture=self._journalled_posture(expected[0]))
                if step is None or step.decision.canonical() != expected[1]:
                    raise InvariantError(
                        f"{self.journal.path}: the replay of bar {expected[0]} (scan {scan.scan_number}) differs from "
                        "the journal; scans or code have changed since"
                    )
                replayed += 1
                if not todo:
                    break
        if todo:
            raise InvariantError(
                f"{self.journal.path}: scan {min(todo)} of bar {min(todo.values())[0]} is not in the scan store; "
                "restore arrow_scans/ or start a new run"
            )
        for _, scan_number, _ in self.journal.canonicals() if last >= 0 else ():
            self._last_scan_number = max(self._last_scan_number, scan_number)
        return replayed

    def catch_up(self) -> int:
        """Decide the stored scans that were written but not decided; returns how many."""
        decided = 0
        for scan in self._stored(self._last_scan_number):
            if self.on_scan(scan) is not None:
                decided += 1
        return decided

    # work

    def _wake(self, payload: ScanPayload, event: object) -> None:
        self.drain()

    def drain(self) -> None:
        """Decide every scan of the log that was not decided yet, in order."""
        if self._grid is None:
            return
        while True:
            read = self._grid.read_scans(self._next_sequence)
            self._next_sequence = read.next_sequence
            self.counts["scans_rejected"] += read.n_rejected
            if read.n_missed:
                self.counts["scans_read_from_store"] += read.n_missed
                self.catch_up()
            if not read.scans:
                return
            for _, payload in read.scans:
                self.on_scan(payload.to_scan())

    def on_scan(self, scan: Scan) -> Step | None:
        """Decide one scan and make it durable; None for a duplicate or a late one."""
        if scan.assets != self.session.symbols:
            self.counts["scans_of_another_universe"] += 1
            return None
        self._last_scan_number = max(self._last_scan_number, scan.scan_number)
        return self.on_row(row_from_scan(scan))

    def on_row(self, row: ScanRow) -> Step | None:
        """The same for a row of a scan cache."""
        with self._lock:
            now_ns = None if self._clock is None else self._clock()
            step = self.session.on_scan(row, posture=self._posture(now_ns), now_ns=now_ns)
            if step is None:
                self.counts["scans_dropped"] += 1
                return None
            self._make_durable(row, step)
            self._publish(row, step)
        if self._on_step is not None:
            self._on_step(step)
        return step

    def _make_durable(self, row: ScanRow, step: Step) -> None:
        decision = step.decision
        violation = ""
        legs = None
        if step.closed is not None:
            try:
                legs = self.ledger.append(step.closed, decision.capital)
            except InvariantError as error:
                violation = str(error)
                self.session.halt()
        important = decision.action in _ACTIVE or step.day is not None or bool(violation)
        with self.journal.transaction(durable=important):
            if step.day is not None:
                self.journal.add_day(step.day.date, msgspec.to_builtins(step.day))
            self.journal.add_decision(decision, step.equity, row.certified_bits, row.lambdas)
            if step.closed is not None and legs is not None:
                self.journal.add_trade(step.closed, legs)
            if violation:
                self.journal.add_event(row.timestamp_ns, "invariant", violation)
            if (decision.bar_idx + 1) % SNAPSHOT_EVERY == 0:
                self.journal.add_snapshot(decision.bar_idx, _encode_state(self.session.state()))
        if violation:
            self.counts["invariants_violated"] += 1

    def _posture(self, now_ns: int | None) -> int:
        """The posture in force: of the near view, HIBERNATE when it is older than 30 s, the default if none ever came."""
        reading = None if self._safety is None else self._safety.read()
        if reading is None:
            return self._posture_unknown
        if now_ns is not None and not reading.fresh(now_ns, SAFETY_AGE_MAX_NS):
            return posture_code("HIBERNATE")
        return posture_code(reading.payload.posture)

    def _publish(self, row: ScanRow, step: Step) -> None:
        if self._grid is None:
            return
        decision = step.decision
        where = {"deployment": self.session.deployment}
        iso = iso_from_ns(decision.timestamp_ns)
        opened = self.session.open_trade
        position = () if opened is None else ({
            "trade_id": opened.trade_id, "asset": opened.entry.asset, "entry_price": opened.entry.price,
            "notional": opened.entry.notional, "leverage": opened.entry.leverage, "entry_bar": opened.entry.bar_idx,
        },)  # fmt: skip
        self._grid.put(
            ENGINE_SNAPSHOT,
            EngineSnapshot(
                capital=decision.capital,
                open_positions=position,
                last_scan=decision.scan_number,
                scan_count=decision.bar_idx + 1,
                vel_div=decision.vel_div,
                vol_ok=step.vol_ok,
                posture=POSTURES[decision.posture],
                detail={"halted": self.session.halted, "equity": step.equity},
                updated_at=iso,
            ),
            **where,
        )
        if decision.action != ACTION_NONE:
            self._grid.put(SIGNAL, _signal(decision, iso), **where)
        if step.closed is not None:
            self._grid.put(LAST_TRADE, _last_trade(step.closed, decision, iso), **where)
        if step.day is not None:
            day = step.day
            payload = PnlDay(date=day.date, pnl=day.pnl, capital=day.capital, trades=day.trades, boost=day.boost,
                             beta=day.beta, mc_status=day.mc_status, posture=POSTURES[decision.posture])  # fmt: skip
            self._grid.put(PNL_DAY, payload, date=day.date, **where)

    def _stored(self, after: int) -> Iterator[Scan]:
        return iter(()) if self._backlog is None else self._backlog(after)

    def _capital_after(self, trade: ClosedTrade) -> float:
        for decision in self.journal.decisions(trade.exit_bar, trade.exit_bar):
            return decision.capital
        raise InvariantError(f"{self.journal.path}: trade {trade.trade_id} has no decision at bar {trade.exit_bar}")

    def _journalled_posture(self, bar: int) -> int:
        return next(d.posture for d in self.journal.decisions(bar, bar))


def _signal(decision: Decision, iso: str) -> SignalPayload:
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
