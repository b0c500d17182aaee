"""Guards of a live book flow as a state machine on given times (spec 04, "Flow"). Pure: no clock, no I/O.

Entry points: `SymbolGuard`, one a symbol; `GuardRules`.

1. A crossed book (best ask <= best bid) is never published, is counted, and is told at most once a minute.
   One that stays crossed is out of step with the exchange: it wants a new snapshot.
2. Twelve differences in a row that bring no volume make the symbol STALE_DATA, until one brings some; the
   book of a dark stretch is not trusted after it: it wants a new snapshot.
3. Nothing is published before the first-flush delay is over.
4. A symbol that is watched and has no update for 30 s is stalled; it is due again 30 s after it was told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from dolphin.domain.clock import NS_PER_S

#: Crossed updates in a row after which the book is taken anew: one or two mend themselves.
CROSSED_TO_RESYNC: Final = 3

State = Literal["ok", "early", "crossed", "STALE_DATA"]


@dataclass(frozen=True, slots=True)
class GuardRules:
    """Limits of all symbols: counts of updates, times in ns. first_flush_ns is 0 in tests."""

    first_flush_ns: int = 60 * NS_PER_S
    stall_ns: int = 30 * NS_PER_S
    dark_updates: int = 12
    warn_every_ns: int = 60 * NS_PER_S


class Verdict(NamedTuple):
    """What becomes of one update. notice is one line to log, or empty; resync wants a new snapshot."""

    state: State
    notice: str = ""
    resync: bool = False

    @property
    def publish(self) -> bool:
        """Whether the book may be shown to anybody."""
        return self.state == "ok"


class SymbolGuard:
    """The guards of one symbol.

    Parameters
    ----------
    symbol : for the notices
    started_ns : when the flow started; times are ns of one clock that never goes back
    """

    def __init__(self, symbol: str, started_ns: int, rules: GuardRules) -> None:
        self.symbol = symbol
        self.rules = rules
        self.n_crossed = self.n_dark = self.n_stalls = 0
        self._started_ns = started_ns
        self._warned_ns: int | None = None
        self._crossed_streak = 0
        self._dark_streak = 0
        self._dark = False
        self._heard_ns: int | None = None
        self._stalled = False

    @property
    def stale(self) -> bool:
        """Whether the symbol is STALE_DATA: dark, or silent for too long."""
        return self._dark or self._stalled

    def begin(self, now_ns: int) -> None:
        """A watch begins: silence counts from here."""
        self._heard_ns = now_ns
        self._dark_streak = 0

    def pause(self) -> None:
        """Nothing is watched now, as while a symbol waits for its turn: no silence counts."""
        self._heard_ns = None

    def difference(self, volume: bool) -> str:
        """One difference was applied; volume: it sets a quantity above zero. A notice when it turns dark."""
        if volume:
            self._dark_streak = 0
            return ""
        self.n_dark += 1
        self._dark_streak += 1
        if self._dark or self._dark_streak < self.rules.dark_updates:
            return ""
        self._dark = True
        return f"{self.symbol}: STALE_DATA, {self._dark_streak} updates in a row bring no volume"

    def update(self, now_ns: int, best_bid: float, best_ask: float) -> Verdict:
        """Judge the book after an update. A side that is empty has the price 0."""
        self._heard_ns, self._stalled = now_ns, False
        if self._dark:
            if self._dark_streak:
                return Verdict("STALE_DATA")
            self._dark = False
            return Verdict("STALE_DATA", f"{self.symbol}: volume is back, the book is taken anew", True)
        if 0.0 < best_ask <= best_bid:
            return self._crossed(now_ns, best_bid, best_ask)
        self._crossed_streak = 0
        if now_ns - self._started_ns < self.rules.first_flush_ns:
            return Verdict("early")
        return Verdict("ok")

    def _crossed(self, now_ns: int, best_bid: float, best_ask: float) -> Verdict:
        self.n_crossed += 1
        self._crossed_streak += 1
        resync = self._crossed_streak % CROSSED_TO_RESYNC == 0
        if self._warned_ns is not None and now_ns - self._warned_ns < self.rules.warn_every_ns:
            return Verdict("crossed", "", resync)
        self._warned_ns = now_ns
        return Verdict(
            "crossed", f"{self.symbol}: crossed book dropped, bid {best_bid:g}, ask {best_ask:g}", resync
        )

    def silence_ns(self, now_ns: int) -> int:
        """How long nothing was heard of a watch; 0 before the first."""
        return 0 if self._heard_ns is None else now_ns - self._heard_ns

    def stalled(self, now_ns: int) -> bool:
        """Whether a reconnect is wanted now: True once for every 30 s of silence."""
        if self.silence_ns(now_ns) < self.rules.stall_ns:
            return False
        self._heard_ns = now_ns
        self._stalled = True
        self.n_stalls += 1
        return True
