"""External factors in a run on live prices: polled beside it, taken between bars, kept, taken up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from test_live_run import LiveWalk, events, now_ns, settings

from dolphin.domain.bar import Bar
from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, day_start_ns
from dolphin.domain.errors import StoreError
from dolphin.domain.params import load_set
from dolphin.domain.scan import ScanRow
from dolphin.factors.daily import FactorLog, read_pushes
from dolphin.factors.keeper import Sample, SourceError
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.topics import ACB_BOOST, EXF
from dolphin.grid.typed import TypedGrid
from dolphin.host.finish import JOURNAL_FILE
from dolphin.host.session import Session
from dolphin.journal.store import Journal
from dolphin.market.scan_store import ScanStore
from dolphin.risk.breaker_day import FACTORS
from dolphin.services import live_factors
from dolphin.services.embedded import run
from dolphin.services.live_factors import FactorPolls, LiveOrgans, kept_records
from dolphin.services.replaying import replay
from exchange import LoopbackExchange, SyntheticMarket

START = day_start_ns("2026-03-02") + 12 * 3600 * NS_PER_S
FEAR = {"funding_btc": -0.0002, "dvol_btc": 85.0, "fng": 20.0, "taker": 0.75}


class Told:
    """A source that says what it was told to."""

    def __init__(self, value: float) -> None:
        self.value: float | None = value
        self.fault = ""
        self.at_ns = START

    def read(self, instant_ns: int) -> Sample | None:
        sample = None if self.value is None else Sample(self.value, self.at_ns)
        if self.fault:
            raise SourceError(self.fault, sample)
        return sample


class World:
    """Sources, a clock, a grid, and the organs of a run in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = START
        self.sources = {name: Told(value) for name, value in FEAR.items()}
        self.grid = TypedGrid(InProcessGrid("inline"))
        self.organs = self.made()

    def made(self) -> LiveOrgans:
        self.polls = FactorPolls(self.sources, self.folder, lambda: self.now)
        return LiveOrgans(self.polls, self.grid, self.folder, lambda: None)

    def row(self, v750: float = 1e-6) -> ScanRow:
        return ScanRow(1, self.now, 0.0, 0.0, v750, float("nan"), np.ones(2))

    def bar(self, seconds: float = 5.0) -> None:
        self.now += round(seconds * NS_PER_S)
        assert self.organs.sense(self.row(), self.now, None) is None

    def boost(self) -> float:
        found = self.grid.get(ACB_BOOST)
        assert found is not None
        return found.boost


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_was_polled_reaches_the_breaker_with_the_next_bar(world: World) -> None:
    world.bar()
    assert world.boost() == 1.0
    assert world.grid.get(EXF) is None
    world.organs.take_news()
    world.polls.poll()
    assert world.boost() == 1.0
    world.bar()
    pushed = world.grid.get(EXF)
    assert pushed is not None
    assert (pushed.funding_btc, pushed.dvol_btc, pushed.fng, pushed.taker) == tuple(FEAR.values())
    # Four signals of weight one.
    assert world.boost() == pytest.approx(1.0 + 0.5 * 1.6094379124341003)
    news = world.organs.take_news()
    assert news[0] == ("factors", "read funding_btc -0.0002, dvol_btc 85, fng 20, taker 0.75")
    assert news[1][0] == "breaker"
    assert "boost 1.805" in news[1][1]
    assert world.organs.take_news() == []


def test_a_bar_is_sensed_once_however_often_it_is_asked_for(world: World) -> None:
    world.polls.poll()
    world.bar()
    world.polls.poll()
    world.organs.sense(world.row(), world.now + NS_PER_S, None)
    assert len(world.organs.take_news()) == 2


def test_a_source_that_fails_costs_no_other_and_is_told_once(world: World) -> None:
    world.sources["dvol_btc"].value, world.sources["dvol_btc"].fault = None, "no whole answer within 5 s"
    for _ in range(3):
        world.polls.poll()
        world.bar(60.0)
    news = [text for kind, text in world.organs.take_news() if "dvol_btc:" in text]
    assert news == ["dvol_btc: no whole answer within 5 s"]
    found = world.grid.get(ACB_BOOST)
    assert found is not None
    assert found.missing == ("dvol_btc", "books")
    world.sources["dvol_btc"].value, world.sources["dvol_btc"].fault = 85.0, ""
    world.polls.poll()
    assert ("factors", "dvol_btc: well again") in world.organs.take_news()


def test_ten_records_a_day_and_a_new_day_begins_anew(world: World) -> None:
    for _ in range(12):
        world.polls.poll()
        world.bar(60.0)
    read = [text for kind, text in world.organs.take_news() if text.startswith("read ")]
    assert len(read) == 10
    for source in world.sources.values():
        source.at_ns = START + NS_PER_DAY // 2 - NS_PER_S
    world.sources["funding_btc"].value = 0.0001
    world.now = START + NS_PER_DAY // 2 - 2 * NS_PER_S
    world.bar(0.0)
    assert world.boost() > 1.8
    # Polled after midnight, while the bar is still of the day before: it waits for its own day.
    world.now = START + NS_PER_DAY // 2 + NS_PER_S
    world.polls.poll()
    late = ScanRow(1, world.now - 2 * NS_PER_S, 0.0, 0.0, 1e-6, float("nan"), np.ones(2))
    world.organs.sense(late, world.now, None)
    assert not [text for _, text in world.organs.take_news() if text.startswith("read ")]
    world.bar()
    assert [text for _, text in world.organs.take_news() if text.startswith("read ")] == [
        "read funding_btc 0.0001, dvol_btc 85, fng 20, taker 0.75"
    ]


def test_a_run_that_goes_on_knows_what_it_knew(world: World) -> None:
    rows = []
    for k in range(6):
        if k % 2 == 0:
            world.sources["taker"].value = 0.7 + 0.01 * k
            world.polls.poll()
        world.bar(61.0)
        rows.append(world.row())
        if k == 2:
            snapshot = world.organs.state()
    assert len(kept_records(world.folder)) == 3
    whole, boost = world.organs.state(), world.boost()
    again = world.made()
    again.restore(snapshot)
    for row in rows[3:]:
        again.pass_over(row, None, None)
    assert again.state() == whole
    assert again.take_news() == []
    world.organs = again
    world.bar()
    assert world.boost() == boost


def test_a_full_disk_costs_the_record_and_not_the_push(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StoreError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(FactorLog, "append", full)
        world.polls.poll()
        world.polls.poll()
    world.bar()
    assert world.boost() > 1.8
    told = [text for _, text in world.organs.take_news() if "not kept" in text]
    assert told == ["factors are read and not kept, a resumed run will lack them: disk full"]


def test_a_record_that_cannot_be_read_is_told_and_the_run_goes_on(world: World) -> None:
    world.polls.poll()
    for part in (world.folder / "exf").glob("date=*/*"):
        part.write_bytes(b"no parquet")
    organs = world.made()
    (told,) = organs.take_news()
    assert told[0] == "factors"
    assert "cannot be taken up" in told[1]


def test_the_thread_polls_when_woken_and_ends(world: World) -> None:
    world.polls.start()
    world.polls.wake()
    until(lambda: (world.folder / "exf").exists())
    world.polls.stop()
    assert not any(thread.name == "factor-polls" for thread in threading.enumerate())


def until(condition: Callable[[], object]) -> None:
    end, pause = time.monotonic() + 60.0, threading.Event()
    while not condition():
        assert time.monotonic() < end
        pause.wait(0.01)


class Patient(LiveWalk):
    """A walk whose live bars wait until the factors were heard."""

    def __init__(self, newest_ns: int, live_bars: int, heard: Callable[[], object]) -> None:
        super().__init__(newest_ns, live_bars)
        self._heard = heard

    def bars(self, skip: int = 0) -> Iterator[Bar]:
        for bar in super().bars(skip):
            if self.live_bars == 2:
                until(self._heard)
            yield bar


def test_a_live_run_hears_its_publishers_and_a_replay_needs_none(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def heard() -> bool:
        table = read_pushes(folder)
        return table.num_rows > 0 and all(table[name][-1].as_py() is not None for name in FACTORS)

    with LoopbackExchange(SyntheticMarket(1, seed=7), life_s=120.0) as x:
        x.factors.wander = 0.0
        x.factors.set(funding_rate=-0.0002, dvol=85.0, fng=20, taker=0.75)
        asked = settings(
            folder,
            live_factors=True,
            factor_addresses=dict.fromkeys(("binance", "deribit", "alternative"), x.url),
        )
        summary = run(Patient(now_ns(), 5, heard), asked)
        assert x.meter.forbidden == []
    assert summary["ledger_balanced"]
    assert any("live from their publishers" in note for note in summary["notes"])
    journal = Journal.read_only(folder / JOURNAL_FILE)
    boosts = [d.boost for d in journal.decisions()]
    assert boosts[0] == 1.0
    assert boosts[-1] > 1.3
    assert journal.meta()["factors"] == "live"
    digest = journal.decisions_sha256()
    journal.close()
    told = [text for kind, text in events(folder) if kind == "factors"]
    assert any(text.startswith("read ") and "dvol_btc 85" in text for text in told)

    # Every bar decided again from the journal alone: its publishers are gone.
    scans = list(ScanStore(folder).scans(0))
    journal = Journal.read_only(folder / JOURNAL_FILE)
    assert replay(journal, scans, Session(load_set("gold"), scans[0].assets)) == digest
    journal.close()


def test_the_thread_asks_once_a_minute() -> None:
    assert live_factors.PERIOD_S == 60.0
