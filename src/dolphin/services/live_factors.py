"""External factors in a run on live prices: asked for on a thread, judged by a breaker in the run itself.

Entry points: `FactorPolls` (the thread), `LiveOrgans` (the senses of a run).

The thread asks each source for what it has heard about once a minute, keeps every push in the run's
`exf/date=.../` and lays it down; a decision never waits for it. What a bar finds laid down goes to the run's
grid, as a system's factor service pushes it, and into the breaker's day, as a system's processor takes it.
Every record that the breaker takes, and what follows, is told to the journal; boost and beta stand in every
decision, so that a replay needs no source.

A run that goes on takes up the pushes that it kept, so that its breaker knows what it knew.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, day_from_ns
from dolphin.domain.errors import DataError, StoreError
from dolphin.domain.scan import ScanRow
from dolphin.factors.daily import FOLDER, FactorLog, Pushed, read_pushes
from dolphin.factors.keeper import LIVE_RULES, Keeper, Source
from dolphin.grid.payloads import AcbBoost, ExfPayload
from dolphin.grid.topics import ACB_BOOST, EXF
from dolphin.grid.typed import TypedGrid
from dolphin.host.finish import BREAKER
from dolphin.orderbook.fold import Arrivals
from dolphin.risk.breaker_day import (
    FACTORS,
    BreakerDay,
    FactorRecord,
    Judgement,
    judge,
    rolled,
    with_record,
    with_velocity,
)
from dolphin.services.acb import boost_fields
from dolphin.services.durable import write_durably
from dolphin.services.senses import same_verdict, told

LIVE: Final = "live"
#: Kind of the journal's events on what was read, and on a source in trouble.
KIND: Final = "factors"
PERIOD_S: Final = 60.0
STOP_S: Final = 5.0
_FENCE: Final = 1
#: Pushes of a day: what nobody takes is not kept for ever.
_WAITING_MAX: Final = 1440


class FactorPolls:
    """Asks the sources about once a minute, and at once when one has its first value.

    Parameters
    ----------
    sources : by factor; reading one never waits.
    folder : the run's, for `exf/`.
    now_ns : the clock of ages and stamps, ns UTC.
    """

    def __init__(self, sources: Mapping[str, Source], folder: Path, now_ns: Callable[[], int]) -> None:
        self._keepers = tuple(Keeper(name, sources[name], rule=LIVE_RULES[name]) for name in FACTORS)
        self._log = FactorLog(folder / FOLDER, write_durably)
        self._now_ns = now_ns
        self._faults: dict[str, str] = {}
        self._trouble = ""
        self._pushes: deque[ExfPayload] = deque(maxlen=_WAITING_MAX)
        self._news: deque[str] = deque(maxlen=_WAITING_MAX)
        self._wake = threading.Event()
        self._ending = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread = threading.Thread(target=self._run, name="factor-polls", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Ask now; any thread."""
        self._wake.set()

    def stop(self) -> None:
        """Ask no more."""
        self._ending = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(STOP_S)

    def take(self) -> list[ExfPayload]:
        """The pushes since the last call, in order. Never waits."""
        return [self._pushes.popleft() for _ in range(len(self._pushes))]

    def take_news(self) -> list[str]:
        """What went wrong or well since the last call. Never waits."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def _run(self) -> None:
        while not self._ending:
            self._wake.wait(PERIOD_S)
            self._wake.clear()
            try:
                if not self._ending:
                    self.poll()
            except Exception as error:  # the next poll has to come
                self._news.append(f"a poll of factors broke: {error!r}")

    def poll(self) -> None:
        """Ask every source once, keep the push, lay it down."""
        now_ns = self._now_ns()
        for keeper in self._keepers:
            keeper.poll(now_ns)
            self._tell(keeper)
        pushed = {
            keeper.name: Pushed(
                keeper.value(now_ns),
                None if keeper.last_good is None else keeper.last_good.at_ns,
                keeper.age_s(now_ns),
                keeper.status,
            )
            for keeper in self._keepers
        }
        try:
            self._log.append(now_ns, pushed)
        except StoreError as error:
            if not self._trouble:
                self._news.append(f"factors are read and not kept, a resumed run will lack them: {error}")
            self._trouble = str(error)
        else:
            self._trouble = ""
        payload = ExfPayload(
            **{name: each.value for name, each in pushed.items()},  # type: ignore[arg-type]
            ages_s={name: each.age_s for name, each in pushed.items()},
            statuses={name: each.status for name, each in pushed.items()},
            pushed_at=now_ns / NS_PER_S,
        )
        self._pushes.append(payload)

    def _tell(self, keeper: Keeper) -> None:
        """One line when a source goes wrong, one when it is well again."""
        fault = keeper.fault or ("its last value is too old" if keeper.status == "stale" else "")
        was, self._faults[keeper.name] = self._faults.get(keeper.name, ""), fault
        if bool(fault) != bool(was):
            self._news.append(f"{keeper.name}: {fault or 'well again'}")


class _Remembered(msgspec.Struct, frozen=True):
    breaker: BreakerDay = BreakerDay()
    judged: Judgement | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Remembered).decode


class LiveOrgans:
    """Factors and breaker of a run on live prices; see `dolphin.services.senses.Senses`.

    close ends whatever feeds the polls.
    """

    label = ""

    def __init__(self, polls: FactorPolls, grid: TypedGrid, folder: Path, close: Callable[[], None]) -> None:
        self._polls = polls
        self._grid = grid
        self._close = close
        self._remembered = _Remembered()
        self._published: Judgement | None = None
        self._sensed_ns = -1
        self._news: list[tuple[str, str]] = []
        try:
            self._kept = deque(kept_records(folder))
        except (DataError, StoreError) as error:
            self._kept = deque()
            self._news.append((KIND, f"what was read before cannot be taken up: {error}"))

    def sense(self, row: ScanRow, now_ns: int, stress: float | None) -> Arrivals | None:
        """See `Senses.sense`: there are no books here."""
        # The run asks before it publishes a scan, the trader asks again and finds it done.
        if row.timestamp_ns != self._sensed_ns:
            self._sensed_ns = row.timestamp_ns
            for payload in self._polls.take():
                self._grid.put(EXF, payload)
                self._kept.append(_record(payload))
            # What came after the bar closed waits for the next: a resumed run cannot tell when it was asked.
            self._advance(row, row.timestamp_ns, stress, tell=True)
        return None

    def pass_over(self, row: ScanRow, stress: float | None, read: Arrivals | None) -> None:
        """See `Senses.pass_over`."""
        self._advance(row, row.timestamp_ns, stress, tell=False)

    def take_news(self) -> list[tuple[str, str]]:
        """See `Senses.take_news`."""
        taken, self._news = self._news, []
        return [*taken, *((KIND, line) for line in self._polls.take_news())]

    def state(self) -> bytes:
        """See `Senses.state`."""
        return _encode(self._remembered)

    def restore(self, state: bytes) -> None:
        """See `Senses.restore`."""
        self._remembered = _decode(state) if state else _Remembered()
        self._published = None

    def close(self) -> None:
        """See `Senses.close`."""
        self._close()
        self._polls.stop()

    def _advance(self, row: ScanRow, now_ns: int, stress: float | None, *, tell: bool) -> None:
        day = day_from_ns(row.timestamp_ns)
        breaker = rolled(self._remembered.breaker, day)
        # A push of the next day waits for that day's first bar.
        until_ns = min(now_ns, row.timestamp_ns // NS_PER_DAY * NS_PER_DAY + NS_PER_DAY - 1)
        while self._kept and self._kept[0].pushed_ns <= until_ns:
            record = self._kept.popleft()
            if breaker.records and record.pushed_ns <= breaker.records[-1].pushed_ns:
                continue
            taken = with_record(breaker, record)
            if tell and taken is not breaker:
                self._news.append((KIND, f"read {_told(record)}"))
            breaker = taken
        breaker = with_velocity(breaker, row.timestamp_ns, row.v750_velocity)
        before = judged = self._remembered.judged
        if judged is None or breaker != self._remembered.breaker:
            judged = judge(breaker, stress)
        if tell:
            if judged != self._published:
                self._grid.put(ACB_BOOST, AcbBoost(**boost_fields(judged, breaker, _FENCE, row.timestamp_ns)))
                self._published = judged
            if before is None or not same_verdict(before, judged):
                self._news.append((BREAKER, told(judged)))
        self._remembered = _Remembered(breaker, judged)


def kept_records(folder: Path) -> list[FactorRecord]:
    """The pushes that a run's folder keeps, in order. Raises DataError, StoreError."""
    table = read_pushes(folder)
    stamps = table["pushed_at"].cast("int64").to_pylist()
    values = [table[name].to_pylist() for name in FACTORS]
    ages = [table[f"{name}_age_s"].to_pylist() for name in FACTORS]
    return [
        FactorRecord(stamp, tuple(column[k] for column in values), tuple(column[k] for column in ages))
        for k, stamp in enumerate(stamps)
    ]


def open_live(
    folder: Path, grid: TypedGrid, addresses: Mapping[str, str], now_ns: Callable[[], int]
) -> LiveOrgans:
    """Begin to ask the publishers. Raises ConfigError for an address, UsageError without the feeds extra."""
    from dolphin.feeds.factor_sources import LiveFactors

    def wake() -> None:
        polls.wake()

    live = LiveFactors(addresses, seed=0, now_ns=now_ns, on_news=wake)
    polls = FactorPolls(live.sources, folder, now_ns)
    organs = LiveOrgans(polls, grid, folder, live.stop)
    live.start()
    polls.start()
    return organs


def _record(payload: ExfPayload) -> FactorRecord:
    pushed_ns = payload.source_ns()
    assert pushed_ns is not None, "a push has its stamp"
    return FactorRecord(
        pushed_ns,
        tuple(getattr(payload, name) for name in FACTORS),
        tuple(payload.ages_s.get(name) for name in FACTORS),  # type: ignore[arg-type]
    )


def _told(record: FactorRecord) -> str:
    return ", ".join(
        f"{name} silent" if value is None else f"{name} {value:.6g}"
        for name, value in zip(FACTORS, record.values, strict=True)
    )
