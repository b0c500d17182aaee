"""What a trader senses of the market besides prices: order books, and factors where they are its own to make.

Entry points: `Senses`, `SyntheticOrgans`. The trader asks once a bar, before it decides. What was read of the
books goes into the journal with the decision, so that a bar can be decided again.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec
import numpy as np

from dolphin.domain.clock import NS_PER_S, day_from_ns
from dolphin.domain.scan import ScanRow
from dolphin.grid.payloads import AcbBoost, ExfPayload
from dolphin.grid.topics import ACB_BOOST, EXF
from dolphin.grid.typed import TypedGrid
from dolphin.host.finish import BREAKER
from dolphin.market.synthetic import SyntheticFeed
from dolphin.market.synthetic_senses import Sensed, SyntheticSenses
from dolphin.orderbook.fold import FRESH, MISSING, Arrivals, admit, new_arrivals
from dolphin.risk.breaker_day import (
    FACTORS,
    BreakerDay,
    FactorRecord,
    Four,
    Judgement,
    judge,
    rolled,
    with_record,
    with_velocity,
)
from dolphin.services.acb import boost_fields

SYNTHETIC: Final = "synthetic"
_FENCE: Final = 1


class Senses(Protocol):
    """The senses of one trader."""

    @property
    def label(self) -> str:
        """Where the books come from, as every decision made with them says."""

    def sense(self, row: ScanRow, now_ns: int, stress: float | None) -> Arrivals | None:
        """The books at a bar about to be decided, admitted; None where they are switched off.

        now_ns is the host's clock, the bar's own stamp in replays; stress the share of assets under stress
        so far, None without books. Never waits for anything.
        """

    def pass_over(self, row: ScanRow, stress: float | None, read: Arrivals | None) -> None:
        """A bar that was decided before, and what was read of the books then."""

    def take_news(self) -> list[tuple[str, str]]:
        """(kind, sentence) for the journal's events since the last call: what was judged, what failed."""

    def state(self) -> bytes:
        """Everything that is remembered."""

    def restore(self, state: bytes) -> None:
        """Go on from `state`; empty bytes are those of a beginning."""

    def close(self) -> None:
        """Stop listening to anything."""


class _Remembered(msgspec.Struct, frozen=True):
    breaker: BreakerDay = BreakerDay()
    judged: Judgement | None = None
    at_ns: int = -1


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Remembered).decode


class SyntheticOrgans:
    """The synthetic market's books, factors and circuit breaker in the run's own process.

    The factors of a minute are pushed as the factor daemon pushes them, the breaker judges as its processor
    does, and the trader hears both through the grid like those of a system of services. A grid that delivers
    inline holds back what is put inside a delivery: the run asks for a bar's senses before it publishes the
    scan, the trader asks again and gets the same.
    """

    label = SYNTHETIC

    def __init__(
        self, feed: SyntheticFeed, grid: TypedGrid | None, *, books: bool = True, factors: bool = True
    ) -> None:
        self._feed = feed
        self._grid = grid
        self._books = books
        self._factors = factors
        self._senses = SyntheticSenses(feed)
        self._remembered = _Remembered()
        self._published: Judgement | None = None
        self._news: list[tuple[str, str]] = []
        self._newest: Sensed | None = None

    def sense(self, row: ScanRow, now_ns: int, stress: float | None) -> Arrivals | None:
        """See `Senses.sense`."""
        newest = self._newest
        if newest is None or newest.timestamp_ns != row.timestamp_ns:
            newest = self._newest = self._advance(row, stress, tell=True)
        return _arrivals(newest) if self._books else None

    def pass_over(self, row: ScanRow, stress: float | None, read: Arrivals | None) -> None:
        """See `Senses.pass_over`."""
        self._advance(row, stress, tell=False)

    def take_news(self) -> list[tuple[str, str]]:
        """See `Senses.take_news`."""
        taken, self._news = self._news, []
        return taken

    def state(self) -> bytes:
        """See `Senses.state`."""
        return _encode(self._remembered)

    def restore(self, state: bytes) -> None:
        """See `Senses.restore`."""
        self._remembered = _decode(state) if state else _Remembered()
        self._senses, self._published = SyntheticSenses(self._feed), None
        if self._remembered.at_ns >= 0:
            for _ in self._senses.until(self._remembered.at_ns):
                pass

    def close(self) -> None:
        """See `Senses.close`: nothing is listened to."""

    def _advance(self, row: ScanRow, stress: float | None, *, tell: bool) -> Sensed:
        newest = None
        breaker = self._remembered.breaker
        for sensed in self._senses.until(row.timestamp_ns):
            newest = sensed
            if sensed.record is not None:
                values = _four(sensed.record)
                breaker = rolled(breaker, day_from_ns(sensed.timestamp_ns))
                breaker = with_record(breaker, FactorRecord(sensed.timestamp_ns, values, _ages(values)))
                if tell and self._factors:
                    self._push(values, sensed.timestamp_ns)
        assert newest is not None, "until() gives the bar that it is asked for, or raises"
        breaker = rolled(breaker, day_from_ns(row.timestamp_ns))
        breaker = with_velocity(breaker, row.timestamp_ns, row.v750_velocity)
        before = judged = self._remembered.judged
        if self._factors and (judged is None or breaker != self._remembered.breaker):
            judged = judge(breaker, stress)
        if tell and judged is not None:
            self._publish(judged, breaker, row.timestamp_ns)
            if before is None or not same_verdict(before, judged):
                self._news.append((BREAKER, told(judged)))
        self._remembered = _Remembered(breaker, judged, row.timestamp_ns)
        return newest

    def _push(self, values: Four, at_ns: int) -> None:
        if self._grid is not None:
            statuses = {n: "silent" if v is None else "ok" for n, v in zip(FACTORS, values, strict=True)}
            ages = dict(zip(FACTORS, _ages(values), strict=True))
            factors = dict(zip(FACTORS, values, strict=True))
            payload = ExfPayload(pushed_at=at_ns / NS_PER_S, ages_s=ages, statuses=statuses, **factors)  # type: ignore[arg-type]
            self._grid.put(EXF, payload)

    def _publish(self, judged: Judgement, breaker: BreakerDay, at_ns: int) -> None:
        """Tell the grid, a new one after a restart what was judged before it."""
        if self._grid is not None and judged != self._published:
            self._grid.put(ACB_BOOST, AcbBoost(**boost_fields(judged, breaker, _FENCE, at_ns)))
            self._published = judged


def same_verdict(one: Judgement, other: Judgement) -> bool:
    """Whether two judgements differ by nothing that is news."""
    return _verdict(one) == _verdict(other)


def _verdict(judged: Judgement) -> tuple[float, bool]:
    """What of a judgement is news: stress moves beta a little every minute, which is none."""
    high = judged.w750 is not None and judged.threshold is not None and judged.w750 >= judged.threshold
    return judged.boost, high


def told(judged: Judgement) -> str:
    """A judgement in one line: what follows, and from which factors with which weight."""
    factors = ", ".join(
        f"{name} missing" if value is None else f"{name} {value:.4g} ({weight:g})"
        for name, value, weight in zip(FACTORS, judged.values, judged.weights, strict=True)
    )
    return f"boost {judged.boost:.3f}, beta {judged.beta:.2f}, stress {judged.stress:.0%}: {factors}"


def _four(record: tuple[float, float, float, float]) -> Four:
    funding, dvol, fng, taker = (None if value != value else value for value in record)
    return funding, dvol, fng, taker


def _ages(values: Four) -> Four:
    funding, dvol, fng, taker = (None if value is None else 0.0 for value in values)
    return funding, dvol, fng, taker


def _arrivals(sensed: Sensed) -> Arrivals:
    arrivals = new_arrivals(len(sensed.seen))
    arrivals.bid[:], arrivals.ask[:] = sensed.bid, sensed.ask
    arrivals.status[:] = np.where(sensed.seen, FRESH, MISSING)
    admit(arrivals)
    return arrivals
