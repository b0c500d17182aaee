"""The esoteric producer: calendar and sky of now, and what the closed trades say of them (05 §5).

Entry points: `EsofService`, `instant_at`, `outcome_of`, `payload_of`.

1. The trades come from the trader's journal, read-only: the truth, with the trades of every term.
2. A trade counts under the instant of its entry, with its net result by notional: money would let a size that
   this lane has cut speak more softly.
3. No journal yet is no history: score 0. A journal that cannot be read and never could is no score at all,
   which readers take as stale; one that could be read before goes on with the trades known.
4. Without the feeds extra the categories of the sky are named as missing, and the calendar goes on.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import msgspec

from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.domain.errors import DataError, StoreError, UsageError
from dolphin.factors.calendar import Calendar, calendar_at
from dolphin.grid.payloads import EsofPayload
from dolphin.grid.port import ConnectionEvent, ConnectionState, Subscription
from dolphin.grid.topics import ESOF
from dolphin.host.finish import JOURNAL_FILE
from dolphin.journal.bar_columns import read_journal
from dolphin.journal.ledger import ClosedTrade
from dolphin.risk.advisor import Advice, Outcome, Part, advise
from dolphin.services.service import Context

#: Categories that need the feeds extra.
SKY_CATEGORIES: Final = ("moon", "mercury")


class Instant(msgspec.Struct, frozen=True, kw_only=True):
    """Calendar and sky of an instant, the buckets of both, and why a category has none."""

    calendar: Calendar
    sky: dict[str, Any] | None
    labels: dict[str, str]
    missing: dict[str, str] = {}


def instant_at(instant_ns: int) -> Instant:
    """Everything of an instant (ns UTC). What the sky lacks is named in `missing`."""
    calendar = calendar_at(instant_ns)
    try:
        from dolphin.factors.sky import sky_at

        sky = sky_at(instant_ns)
    except (UsageError, DataError) as error:
        missing = dict.fromkeys(SKY_CATEGORIES, str(error))
        return Instant(calendar=calendar, sky=None, labels=calendar.labels(), missing=missing)
    return Instant(
        calendar=calendar, sky=msgspec.to_builtins(sky), labels={**calendar.labels(), **sky.labels()}
    )


def outcome_of(trade: ClosedTrade) -> Outcome:
    """A closed trade as the advisor has it."""
    return Outcome(instant_at(trade.entry_ns).labels, trade.net / trade.notional)


class EsofService:
    """See the module."""

    period_s = 60.0

    def __init__(self, context: Context) -> None:
        self.context = context
        #: By trade id: a closed trade never changes. None before the journal could be read.
        self._outcomes: dict[str, Outcome] | None = None
        self._advice: Advice | None = None
        self._missing: dict[str, str] = {}
        self._pushed_ns: int | None = None
        self._trouble = ""
        self._connection: Subscription | None = None

    # what the host asks

    @property
    def phase(self) -> str:
        """See `Service.phase`."""
        return "running"

    def health(self) -> tuple[bool, str]:
        """Healthy while it reads the journal and pushes; a sky that is missing is told, and is no fault."""
        if self._trouble:
            return False, self._trouble
        if self._pushed_ns is None:
            return True, "nothing pushed yet"
        age_s = max(0, self.context.clock.now_ns() - self._pushed_ns) / NS_PER_S
        told = "no score" if self._advice is None else f"score {self._advice.score:+.3f}"
        missing = f"; missing: {', '.join(self._missing)}" if self._missing else ""
        n = len(self._outcomes or ())
        return age_s <= 3 * self.period_s, f"last pushed {age_s:.0f} s ago: {told} of {n} trades{missing}"

    def gauges(self) -> dict[str, float]:
        """See `Service.gauges`."""
        found = {"trades": float(len(self._outcomes or ())), "categories_missing": float(len(self._missing))}
        if self._advice is not None:
            found["score"] = self._advice.score
        return found

    # life

    def start(self) -> None:
        """Nothing to restore: what it knows stands in the journal."""
        self._connection = self.context.grid.grid.on_connection(self._on_connection)

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event.state is ConnectionState.CONNECTED:
            self.context.wake.set()

    def stop(self) -> None:
        """Stop listening."""
        if self._connection is not None:
            self._connection.close()

    # work

    def tick(self) -> None:
        """Read what was closed since, judge now by it, push."""
        now_ns = self.context.clock.now_ns()
        self._read_trades()
        instant = instant_at(now_ns)
        if instant.missing and not self._missing:
            self.context.tell("stale_data", f"esoteric factors without a sky: {instant.missing['moon']}")
        self._missing = instant.missing
        outcomes = self._outcomes
        self._advice = None if outcomes is None else advise(instant.labels, list(outcomes.values()))
        self.context.grid.put(ESOF, payload_of(instant, self._advice, now_ns))
        self._pushed_ns = now_ns
        self.context.counts["pushes"] += 1

    def _read_trades(self) -> None:
        """Take in the trades that are new; a journal that cannot be read costs the new ones only."""
        folder = self.context.home.trader
        if not (folder / JOURNAL_FILE).exists():
            self._outcomes, self._trouble = self._outcomes or {}, ""
            return
        try:
            with contextlib.closing(read_journal(folder)) as journal:
                trades = journal.trades()
        except (DataError, StoreError) as error:
            self.context.counts["journal_failed"] += 1
            if not self._trouble:
                self.context.tell("stale_data", f"esoteric factors: {error}")
            self._trouble = str(error)
            return
        self._trouble = ""
        known = self._outcomes or {}
        self._outcomes = {t.trade_id: known.get(t.trade_id) or outcome_of(t) for t in trades}


def payload_of(instant: Instant, advice: Advice | None, now_ns: int) -> EsofPayload:
    """What is published: the score, and in components what explains it."""
    return EsofPayload(
        score=None if advice is None else advice.score,
        components={
            "categories": {} if advice is None else {part.category: _told(part) for part in advice.parts},
            "n_trades": None if advice is None else advice.n_trades,
            "calendar": {**msgspec.to_builtins(instant.calendar), "overlap": instant.calendar.overlap},
            "sky": instant.sky,
            "missing": instant.missing,
        },
        timestamp=iso_from_ns(now_ns),
    )


def _told(part: Part) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(part)
    del told["category"]
    return told
