"""The circuit breaker's processor: factors and scans in, boost and beta out, one writer at a time (05 §1).

Entry point: `AcbService`.

1. The factors' pushes come through a near view, the w750 velocities from the scan log, by sequence, so that
   what was published while the processor was away (up to the log's bound) is still counted. Listeners only
   wake it.
2. The state is on disk, with the fence, before anything of it is published.
3. What is published is written again every few seconds, and at once when the grid is back, so that a grid
   that lost it has it again within one period.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import msgspec

from dolphin.domain.clock import NS_PER_S, day_from_ns, iso_from_ns
from dolphin.domain.errors import StoreError
from dolphin.grid.near_view import NearView
from dolphin.grid.payloads import AcbBoost, AcbFactor, AcbState, ExfPayload, ShardFeatures
from dolphin.grid.port import ConnectionEvent, ConnectionState, GridError, Subscription
from dolphin.grid.shards import N_SHARDS
from dolphin.grid.topics import ACB_BOOST, ACB_STATE, EXF, SCAN, SHARD_FEATURES
from dolphin.risk.breaker_day import (
    FACTORS,
    BreakerDay,
    FactorRecord,
    Judgement,
    judge,
    rolled,
    stress_share,
    with_record,
    with_velocity,
)
from dolphin.services.fenced_writer import FencedState, FencedWriter
from dolphin.services.service import Context

#: Books older than this say nothing about stress.
BOOKS_FRESH_NS: Final = 60 * NS_PER_S
WRITE_EVERY_NS: Final = 5 * NS_PER_S


class AcbDurable(FencedState, frozen=True, kw_only=True):
    """What outlives the process."""

    breaker: BreakerDay = BreakerDay()


class AcbService:
    """See the module."""

    period_s = 5.0

    def __init__(self, context: Context) -> None:
        self.context = context
        self._writer = FencedWriter(context, "acb_writer", AcbDurable)
        self._exf: NearView[ExfPayload] | None = None
        self._books: list[NearView[ShardFeatures]] = []
        self._listening = contextlib.ExitStack()
        self._connection: Subscription | None = None
        self._sequence = 0
        self._written_ns: int | None = None
        self._written: Judgement | None = None
        self._trouble = ""

    # what the host asks

    @property
    def phase(self) -> str:
        """See `Service.phase`."""
        return "running" if self._writer.leading else "standby"

    def health(self) -> tuple[bool, str]:
        """Standing by is healthy; a state that cannot be saved or published is not."""
        if self._trouble:
            return False, self._trouble
        if not self._writer.leading:
            return True, f"stands by: {self._writer.why}"
        judged, at_ns = self._written, self._written_ns
        if judged is None or at_ns is None:
            return True, f"leads under fence {self._writer.fence}, nothing written yet"
        age_s = max(0, self.context.clock.now_ns() - at_ns) / NS_PER_S
        missing = f"; missing: {', '.join(judged.missing)}" if judged.missing else ""
        return age_s <= 4 * self.period_s, (
            f"last written {age_s:.0f} s ago under fence {self._writer.fence}:"
            f" boost {judged.boost:.3f}, beta {judged.beta:.2f}{missing}"
        )

    def gauges(self) -> dict[str, float]:
        """See `Service.gauges`."""
        found = {"leading": float(self._writer.leading), "fence": float(self._writer.fence)}
        if self._written is not None:
            found["boost"] = self._written.boost
            found["beta"] = self._written.beta
            found["signals"] = self._written.signals
            found["factors_missing"] = float(len(self._written.missing))
        return found

    # life

    def start(self) -> None:
        """Restore the day and subscribe. Raises DataError for a damaged state."""
        self._writer.restore()
        self._connection = self.context.grid.grid.on_connection(self._on_connection)
        # A grid that is away now is listened to as soon as it is back.
        with contextlib.suppress(GridError):
            self._subscribe()

    def _subscribe(self) -> None:
        if self._exf is not None:
            return
        grid = self.context.grid
        with contextlib.ExitStack() as made:
            made.callback(grid.listen(EXF, self._wake).close)
            made.callback(grid.listen(SCAN, self._wake).close)
            books = []
            for shard in range(N_SHARDS):
                books.append(NearView(grid.grid, SHARD_FEATURES, grid.rejections, shard=f"{shard:02d}"))
                made.callback(books[-1].close)
            exf = NearView(grid.grid, EXF, grid.rejections)
            made.callback(exf.close)
            self._books, self._exf, self._listening = books, exf, made.pop_all()

    def _wake(self, payload: object, event: object) -> None:
        self.context.wake.set()

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event.state is ConnectionState.CONNECTED:
            self._written_ns = None
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
        """Take in what came, keep it, publish it."""
        self._subscribe()
        try:
            if not self._writer.lead():
                self._written_ns = None
                return
            self._work()
        except StoreError as error:
            # What is not durable is not published; consumers see its age.
            self.context.counts["saves_failed"] += 1
            if not self._trouble:
                self.context.tell("invariant", f"the breaker's state cannot be kept: {error}")
            self._trouble = str(error)
        else:
            self._trouble = ""

    def _work(self) -> None:
        now_ns = self.context.clock.now_ns()
        before = self._writer.state
        breaker = self._with_exf(rolled(before.breaker, day_from_ns(now_ns)), now_ns)
        breaker, sequence = self._with_scans(breaker)
        judged = judge(breaker, self._stress(now_ns))
        if breaker != before.breaker and not self._writer.save(AcbDurable(breaker=breaker)):
            return
        self._sequence = sequence
        at_ns = self._written_ns
        if judged != self._written or at_ns is None or not 0 <= now_ns - at_ns < WRITE_EVERY_NS:
            self._publish(judged, now_ns)

    def _with_exf(self, breaker: BreakerDay, now_ns: int) -> BreakerDay:
        reading = None if self._exf is None else self._exf.read()
        if reading is None or reading.source_ns is None:
            return breaker
        payload = reading.payload
        record = FactorRecord(
            pushed_ns=reading.source_ns,
            values=tuple(getattr(payload, name) for name in FACTORS),
            ages_s=tuple(payload.ages_s.get(name) for name in FACTORS),  # type: ignore[arg-type]
        )
        return with_record(breaker, record)

    def _with_scans(self, breaker: BreakerDay) -> tuple[BreakerDay, int]:
        """The day with the log's new scans, and where to go on. Raises GridError."""
        sequence = self._sequence
        while True:
            read = self.context.grid.read_scans(sequence)
            if read.rewound:
                sequence = 0
                continue
            sequence = read.next_sequence
            for _, scan in read.scans:
                breaker = with_velocity(breaker, scan.timestamp_ns, scan.w750_velocity)
            if not read.scans and not read.n_rejected:
                return breaker, sequence

    def _stress(self, now_ns: int) -> float | None:
        """Share of assets under stress, of those whose books are fresh."""
        return stress_share(
            [
                reading.payload.withdrawal_velocity
                for view in self._books
                for reading in map(view.read, view.keys())
                if reading is not None and reading.fresh(now_ns, BOOKS_FRESH_NS)
            ]
        )

    def _publish(self, judged: Judgement, now_ns: int) -> None:
        grid = self.context.grid
        fields = boost_fields(judged, self._writer.state.breaker, self._writer.fence, now_ns)
        if not grid.put_newer(ACB_BOOST, AcbBoost(**fields)):
            newer = grid.get(ACB_BOOST)
            if newer is not None and newer.fence > self._writer.fence:
                self._writer.refused(newer.fence)
                return
            # Our own word, of a clock that was set back since.
            if not self._writer.renew():
                return
            fields = boost_fields(judged, self._writer.state.breaker, self._writer.fence, now_ns)
            grid.put_newer(ACB_BOOST, AcbBoost(**fields))
        state = msgspec.to_builtins(self._writer.state.breaker)
        grid.put_newer(ACB_STATE, AcbState(**fields, state=state))
        if self._written is not None and judged.boost != self._written.boost:
            self.context.counts["boosts_changed"] += 1
        self._written, self._written_ns = judged, now_ns
        self.context.counts["writes"] += 1


def boost_fields(judged: Judgement, breaker: BreakerDay, fence: int, now_ns: int) -> dict[str, Any]:
    """The fields of `acb_boost` for what was judged of a breaker's day at an instant (ns UTC)."""
    return {
        "boost": judged.boost,
        "beta": judged.beta,
        "signals": judged.signals,
        "factors": _factors(judged, breaker, now_ns),
        "missing": judged.missing,
        "w750": judged.w750,
        "threshold": judged.threshold,
        "stress": judged.stress,
        "day": judged.day,
        "fence": fence,
        "updated_at": iso_from_ns(now_ns),
    }


def _factors(judged: Judgement, breaker: BreakerDay, now_ns: int) -> dict[str, AcbFactor]:
    found = {}
    for i, name in enumerate(FACTORS):
        age_s = None
        for record in reversed(breaker.records):
            if record.values[i] is not None:
                age_s = max(0, now_ns - record.pushed_ns) / NS_PER_S + (record.ages_s[i] or 0.0)
                break
        found[name] = AcbFactor(value=judged.values[i], weight=judged.weights[i], age_s=age_s)
    return found
