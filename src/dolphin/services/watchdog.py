"""The survival watchdog: five categories from the grid to Rm and posture, every 10 s (05 §2, 07).

Entry point: `WatchdogService`. What it decides is `dolphin.risk.stack`'s; here are the sources.

1. The state (Rm, posture, counters, drawdown peak, spike, all that was once known) is on disk, with the
   fence, before the posture is published: first the reference, then the map.
2. Two watchdogs never write at once; the second stands by and evaluates nothing.
3. With the grid away the writer still evaluates, with no node counted: what it saw then is in force when the
   grid is back.
4. A watchdog that cannot keep its state publishes nothing: consumers see the age and close the door.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.domain.codes import MC_ABSENT, POSTURES
from dolphin.domain.errors import StoreError
from dolphin.grid.near_view import NearView, Reading
from dolphin.grid.payloads import ForewarnerPayload, PayloadRejected, SafetyPayload, ShardFeatures
from dolphin.grid.port import ConnectionEvent, ConnectionState, GridError, Subscription
from dolphin.grid.shards import N_SHARDS
from dolphin.grid.topics import (
    ENGINE_SNAPSHOT,
    EXF,
    FOREWARNER,
    HEARTBEAT,
    OBF,
    SAFETY,
    SAFETY_POSTURE,
    SAFETY_REFERENCE,
    SHARD_FEATURES,
    Topic,
    encode,
)
from dolphin.grid.typed import RACES_MAX, REFERENCE_KEY
from dolphin.risk.breaker_day import median
from dolphin.risk.forewarner import REAL_MODEL
from dolphin.risk.stack import (
    BOOKS_FRESH_NS,
    Evaluation,
    StackInputs,
    StackState,
    evaluate,
    is_red,
)
from dolphin.services.fenced_writer import FencedState, FencedWriter
from dolphin.services.forewarner_gate import status_of
from dolphin.services.service import Context

#: Whoever brings scans to the grid.
SCAN_PATH: Final = ("scanner", "scan_bridge")
#: Two evaluations are at least so far apart: the period less what a host's timer may be early.
PACE_NS: Final = 5 * NS_PER_S


class WatchdogDurable(FencedState, frozen=True, kw_only=True):
    """What outlives the process; stack is None before the first evaluation ever."""

    stack: StackState | None = None


class WatchdogService:
    """See the module."""

    period_s = 10.0

    def __init__(self, context: Context) -> None:
        self.context = context
        self._writer = FencedWriter(context, "watchdog_writer", WatchdogDurable)
        self._views: dict[str, NearView[Any]] = {}
        self._books: list[NearView[ShardFeatures]] = []
        self._listening = contextlib.ExitStack()
        self._connection: Subscription | None = None
        self._last: Evaluation | None = None
        self._written_ns: int | None = None
        self._evaluated_ns: int | None = None
        self._trouble = ""
        self._red: bool | None = None

    # what the host asks

    @property
    def phase(self) -> str:
        """See `Service.phase`."""
        return "running" if self._writer.leading else "standby"

    def health(self) -> tuple[bool, str]:
        """Standing by is healthy; a state that cannot be kept or published is not."""
        if self._trouble:
            return False, self._trouble
        if not self._writer.leading:
            return True, f"stands by: {self._writer.why}"
        last, at_ns = self._last, self._written_ns
        if last is None or at_ns is None:
            return True, f"leads under fence {self._writer.fence}, nothing written yet"
        age_s = max(0, self.context.clock.now_ns() - at_ns) / NS_PER_S
        absent = ", ".join(name for name, told in last.sensors.items() if told["absent"])
        return age_s <= 3 * self.period_s, (
            f"{POSTURES[last.state.posture]}, Rm {last.state.rm:.3f}, written {age_s:.0f} s ago"
            f" under fence {self._writer.fence}{f'; absent: {absent}' if absent else ''}"
        )

    def gauges(self) -> dict[str, float]:
        """See `Service.gauges`."""
        found = {"leading": float(self._writer.leading), "fence": float(self._writer.fence)}
        if self._last is not None:
            found["rm"] = self._last.state.rm
            found["posture"] = float(self._last.state.posture)
            found["target"] = self._last.target
            for name, told in self._last.sensors.items():
                found[f"category_{name}"] = float(told["value"])
        return found

    # life

    def start(self) -> None:
        """Restore the stack and subscribe. Raises DataError for a damaged state."""
        self._writer.restore()
        self._connection = self.context.grid.grid.on_connection(self._on_connection)
        # A grid that is away now is listened to as soon as it is back.
        with contextlib.suppress(GridError):
            self._subscribe()

    def _subscribe(self) -> None:
        if self._views:
            return
        deployment = self.context.settings.deployment
        with contextlib.ExitStack() as made:

            def view(topic: Topic[Any], **parts: str) -> NearView[Any]:
                found = NearView(self.context.grid.grid, topic, self.context.grid.rejections, **parts)
                made.callback(found.close)
                return found

            views = {name: view(HEARTBEAT, service=name) for name in SCAN_PATH}
            views["forewarner"] = view(FOREWARNER)
            views["obf"] = view(OBF)
            views["exf"] = view(EXF)
            views["engine"] = view(ENGINE_SNAPSHOT, deployment=deployment)
            books = [view(SHARD_FEATURES, shard=f"{shard:02d}") for shard in range(N_SHARDS)]
            self._views, self._books, self._listening = views, books, made.pop_all()

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event.state is ConnectionState.CONNECTED:
            self._writer.doubt()
            self.context.wake.set()

    def stop(self) -> None:
        """Give the lock back and stop listening."""
        self._writer.let_go()
        self._listening.close()
        if self._connection is not None:
            self._connection.close()

    # work

    def tick(self) -> None:
        """Evaluate, keep, publish."""
        if not self._views:
            self._subscribe()
        try:
            if self._writer.lead():
                self._work()
            else:
                self._evaluated_ns = None
        except StoreError as error:
            self.context.counts["saves_failed"] += 1
            if not self._trouble:
                self.context.tell("invariant", f"the survival state cannot be kept: {error}")
            self._trouble = str(error)
        else:
            self._trouble = ""

    def _work(self) -> None:
        now_ns = self.context.clock.now_ns()
        last, at_ns = self._last, self._evaluated_ns
        # Woken between two periods (the grid is back), it tells what it knows: an evaluation counts for the
        # hysteresis and so keeps its pace.
        if last is None or at_ns is None or not 0 <= now_ns - at_ns < PACE_NS:
            last = evaluate(self._writer.state.stack, self._inputs(now_ns))
            if not self._writer.save(WatchdogDurable(stack=last.state)):
                return
            self._last, self._evaluated_ns = last, now_ns
            self.context.counts["evaluations"] += 1
            self._tell(last)
        self._publish(last, now_ns)

    def _publish(self, last: Evaluation, now_ns: int) -> None:
        grid = self.context.grid
        payload = self._payload(last, now_ns)
        newer_fence = self._put_reference(payload)
        if newer_fence is None and not grid.put_newer(SAFETY, payload):
            stored = grid.get(SAFETY)
            if stored is not None and stored.fence > payload.fence:
                newer_fence = stored.fence
            elif self._writer.renew():
                # What stood there was our own word, of a clock that was set back since.
                payload = self._payload(last, now_ns)
                self._put_reference(payload)
                grid.put_newer(SAFETY, payload)
            else:
                return
        if newer_fence is not None:
            self._writer.refused(newer_fence)
            return
        grid.put(SAFETY_POSTURE, payload.posture)
        self._written_ns = now_ns
        self.context.counts["writes"] += 1

    def _payload(self, last: Evaluation, now_ns: int) -> SafetyPayload:
        state = last.state
        counters = {"target": last.target, "below": state.below, "above": state.above}
        return SafetyPayload(
            posture=POSTURES[state.posture],
            rm=state.rm,
            sensors={**last.sensors, **counters},
            fence=self._writer.fence,
            updated_at=iso_from_ns(now_ns),
        )

    def _put_reference(self, payload: SafetyPayload) -> int | None:
        """Set the reference unless a higher fence stands there, which is returned then."""
        reference = self.context.grid.grid.atomic_reference(SAFETY_REFERENCE)
        for _ in range(RACES_MAX):
            data = reference.get()
            if data is not None:
                try:
                    stored = SAFETY.decode(SAFETY_REFERENCE, REFERENCE_KEY, data)
                except PayloadRejected as rejection:
                    self.context.grid.rejections.add(rejection)
                else:
                    if stored.fence > payload.fence:
                        return stored.fence
            if reference.compare_and_set(data, encode(payload)):
                return None
        raise GridError(f"{SAFETY_REFERENCE}: {RACES_MAX} writes were overtaken by others")

    def _tell(self, last: Evaluation) -> None:
        state = last.state
        if last.changed:
            why = f"{last.moved} at {last.moved_to:.3f}" if last.moved else "recovery"
            self.context.tell(
                "posture",
                f"{POSTURES[last.before]} -> {POSTURES[state.posture]}: Rm {state.rm:.3f}, moved by {why}",
            )
        red = is_red(state)
        if red and self._red is not True:
            self.context.tell("red", "the forewarner's gate is RED: no entries on a day that begins so")
        self._red = red

    # sources

    def _inputs(self, now_ns: int) -> StackInputs:
        beats = {name: self._views[name].read() for name in SCAN_PATH}
        stamps = {name: r.source_ns for name, r in beats.items() if r is not None and r.source_ns is not None}
        newest = max(stamps, key=lambda name: stamps[name], default="")
        verdict = self._views["forewarner"].read()
        exf = self._views["exf"].read()
        books_ns, depth, fill = self._market(now_ns)
        return StackInputs(
            now_ns=now_ns,
            nodes=self.context.grid.grid.nodes,
            heartbeat_ns=stamps.get(newest),
            heartbeat_by=newest,
            gate=MC_ABSENT if verdict is None else status_of(verdict, None),
            gate_ns=None if verdict is None else verdict.source_ns,
            gate_real=verdict is not None and _real(verdict.payload, now_ns),
            books_ns=books_ns,
            depth_quality=depth,
            fill_probability=fill,
            dvol=None if exf is None else exf.payload.dvol_btc,
            dvol_ns=None if exf is None else exf.source_ns,
            equity=_equity(self._views["engine"].read()),
        )

    def _market(self, now_ns: int) -> tuple[int | None, float | None, float | None]:
        """(newest stamp of any book, medians of depth quality and fill probability over the fresh ones)."""
        readings = [r for view in self._books for r in map(view.read, view.keys()) if r is not None]
        stamps = [r.source_ns for r in readings if r.source_ns is not None]
        across = self._views["obf"].read()
        if across is not None and across.source_ns is not None and not across.payload.degraded:
            stamps.append(across.source_ns)
        fresh = [r.payload for r in readings if r.fresh(now_ns, BOOKS_FRESH_NS)]
        return (
            max(stamps, default=None),
            median([f.depth_quality for f in fresh]) if fresh else None,
            median([f.fill_probability for f in fresh]) if fresh else None,
        )


def _real(verdict: ForewarnerPayload, now_ns: int) -> bool:
    """Whether models gave it; a planted verdict counts as theirs until its drill ends."""
    until_s = verdict.drill_until
    ended = isinstance(until_s, float) and now_ns >= until_s * NS_PER_S
    return verdict.source == REAL_MODEL and not ended


def _equity(reading: Reading[Any] | None) -> float | None:
    """Equity as the trader marks it, else the capital of its snapshot; USDT."""
    if reading is None:
        return None
    equity = reading.payload.detail.get("equity")
    told = equity if isinstance(equity, (int, float)) and not isinstance(equity, bool) else None
    return float(reading.payload.capital if told is None else told)
