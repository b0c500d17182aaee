"""The universe service and an exchange on loopback: snapshots to the grid, parts to the disk, health told."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from risk_system import RiskSystem

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, iso_from_ns
from dolphin.domain.errors import ConfigError, StoreError
from dolphin.grid.topics import OBF_UNIVERSE
from dolphin.market.book_files import PartWriter, parts_of, read_parts
from dolphin.market.universe_files import UNIVERSE_FOLDER, UNIVERSE_SCHEMA, universe_writer
from dolphin.services import universe
from dolphin.services.home import SystemSettings
from dolphin.services.service import Context
from dolphin.services.universe import UniverseService
from exchange import LoopbackExchange, SyntheticMarket

MINUTE = 60 * NS_PER_S
#: The clock begins a minute before a multiple of five, which is a minute before midnight.
BEGIN = 1_800_057_600 * NS_PER_S - MINUTE
DAYS = ("2027-01-15", "2027-01-16")


class UniverseSystem(RiskSystem):
    """One universe service; its clock goes where a test says, its exchange moves when a test says."""

    def __init__(self, root: Path, x: LoopbackExchange, now_ns: int = BEGIN, **options: object) -> None:
        super().__init__(root, SystemSettings(exchange=x.url), now_ns=now_ns)
        self.x = x
        self.mono_ahead_ns = 0
        self.options = options
        self.service = self.start(self.make, "obf_universe")

    def make(self, context: Context) -> UniverseService:
        streams = {"mono_ns": self.mono_ns, "check_every_s": 0.02, "message_every_s": 0.11}
        context.options = {"streams": streams, **self.options}
        return UniverseService(context)

    def mono_ns(self) -> int:
        return time.monotonic_ns() + self.mono_ahead_ns

    @property
    def counts(self) -> dict[str, int]:
        return self.hosted[-1].context.counts

    def until(self, true: Callable[[], object]) -> None:
        end, pause = time.monotonic() + 60.0, threading.Event()
        while not true():
            assert time.monotonic() < end, f"did not come true: {self.service.health()}"
            self.x.step(5)
            pause.wait(0.01)

    def books(self) -> None:
        """Every symbol has a book that came after now."""
        streams = self.service.streams
        assert streams is not None
        before, n = self.mono_ns(), len(self.x.line_of) - len(self.x.delisted)
        self.until(lambda: sum(h.arrived_ns > before for h in streams.books().values()) == n)

    def minute(self) -> None:
        """Books, and then the next full minute of the clock."""
        self.books()
        now_ns = self.clock.now_ns()
        self.clock.move_to(now_ns // MINUTE * MINUTE + MINUTE)
        self.step()

    def rows(self) -> list[dict[str, Any]]:
        folder = self.home.root / UNIVERSE_FOLDER
        paths = [path for day in DAYS for path in parts_of(folder, day)]
        found: list[dict[str, Any]] = read_parts(paths, UNIVERSE_SCHEMA).to_pylist()
        return found

    def end(self) -> None:
        self.service.stop()
        self.close()
        self.x.wait(lambda: self.x.meter.connections == 0)


@pytest.fixture
def x() -> Iterator[LoopbackExchange]:
    with LoopbackExchange(SyntheticMarket(24, seed=7, levels=8), life_s=180.0) as running:
        yield running
        assert running.meter.forbidden == []


@pytest.fixture
def system(tmp_path: Path, x: LoopbackExchange) -> Iterator[UniverseSystem]:
    made = UniverseSystem(tmp_path / "home", x)
    yield made
    made.end()


def test_each_minute_a_snapshot_and_each_five_a_part(system: UniverseSystem, x: LoopbackExchange) -> None:
    service = system.service
    system.step()
    assert service.phase == "warmup"
    assert service.health()[0]
    assert system.door.get(OBF_UNIVERSE) is None
    system.minute()
    assert service.phase == "running"
    found = system.door.get(OBF_UNIVERSE)
    assert found is not None
    assert found.snapshot_utc == iso_from_ns(BEGIN + MINUTE)
    assert found.n_assets == 24
    assert set(found.assets) == set(x.line_of)
    btc = found.assets["BTCUSDT"]
    assert (btc.n_bid_levels, btc.n_ask_levels) == (5, 5)
    # The first depth is its own reference.
    assert btc.depth_quality == btc.fill_probability == 0.5
    assert btc.best_bid < btc.best_ask
    assert btc.spread_bps == pytest.approx(
        (btc.best_ask - btc.best_bid) / (btc.best_ask + btc.best_bid) * 2e4
    )
    for second in range(1, 60):
        system.clock.move_to(BEGIN + MINUTE + second * NS_PER_S)
        system.step()
    assert system.counts["snapshots"] == 1
    for _ in range(4):
        system.minute()
    assert system.counts["parts"] == 0
    system.minute()
    assert system.counts["parts"] == 1
    assert system.counts["snapshots"] == 6
    folder = system.home.root / UNIVERSE_FOLDER
    assert [p.name for p in parts_of(folder, DAYS[1])] == ["part-000.parquet"]
    rows = system.rows()
    assert len(rows) == 5 * 24
    assert {row["ts"].minute for row in rows} == {0, 1, 2, 3, 4}
    assert rows[0]["symbol"] == "AAVEUSDT"
    newest = system.door.get(OBF_UNIVERSE)
    assert newest is not None
    assert newest.snapshot_utc == iso_from_ns(BEGIN + 6 * MINUTE)
    assert newest.assets["BTCUSDT"].depth_quality != 0.5
    healthy, told = service.health()
    assert healthy
    assert told.startswith("snapshot 0 s ago of 24 of 24 symbols; 3 of 3 connections fresh (1: 8 streams, ")
    gauges = service.gauges()
    assert gauges["symbols_in_snapshot"] == gauges["symbols"] == 24.0
    assert gauges["connection_3_streams"] == 8.0
    assert gauges["streams_books"] > 24.0


def test_a_part_over_midnight_is_dealt_to_its_days_and_numbers_go_on_after_a_restart(
    tmp_path: Path, x: LoopbackExchange
) -> None:
    before = UniverseSystem(tmp_path / "home", x, now_ns=BEGIN - 2 * MINUTE)
    before.step()
    for _ in range(4):
        before.minute()
    assert len(before.rows()) == 2 * 24
    references = before.service._references.known
    before.end()
    folder = tmp_path / "home" / UNIVERSE_FOLDER
    assert [len(parts_of(folder, day)) for day in DAYS] == [1, 1]
    after = UniverseSystem(tmp_path / "home", x, now_ns=BEGIN + 2 * MINUTE)
    assert after.service._references.known == references
    after.step()
    after.minute()
    quality = after.door.get(OBF_UNIVERSE).assets["BTCUSDT"].depth_quality  # type: ignore[union-attr]
    assert quality != 0.5
    after.end()
    assert [p.name for p in parts_of(folder, DAYS[1])] == ["part-000.parquet", "part-001.parquet"]
    assert len(after.rows()) == 5 * 24


def test_usual_depths_of_long_ago_or_damaged_are_begun_anew(
    tmp_path: Path, x: LoopbackExchange, caplog: pytest.LogCaptureFixture
) -> None:
    first = UniverseSystem(tmp_path / "home", x)
    first.step()
    first.minute()
    first.end()
    late = UniverseSystem(tmp_path / "home", x, now_ns=BEGIN + MINUTE + NS_PER_DAY + 1)
    assert late.service._references.known == {}
    late.end()
    first.home.state("obf_universe").write_text("{")
    with caplog.at_level(logging.WARNING):
        damaged = UniverseSystem(tmp_path / "home", x)
    assert "usual depths begin anew" in caplog.text
    damaged.end()


def test_a_silent_connection_is_told_once_and_its_books_leave_the_snapshot(
    system: UniverseSystem, x: LoopbackExchange
) -> None:
    system.step()
    system.minute()
    streams = system.service.streams
    assert streams is not None
    quiet = {s for s in x.line_of if streams._of[s].number == 2}
    faults = [x.faults.add("silence", symbol=s, stream="*@depth5*") for s in quiet]
    system.mono_ahead_ns += 61 * NS_PER_S
    before = system.mono_ns()
    system.until(lambda: sum(h.arrived_ns > before for h in streams.books().values()) == 16)
    for _ in range(3):
        system.clock.move_to(system.clock.now_ns() + NS_PER_S)
        system.step()
    (alert,) = system.told("stale_data")
    assert alert.startswith("universe: connection 2 (8 streams) has brought no book for 6")
    healthy, told = system.service.health()
    assert not healthy
    assert "2 of 3 connections fresh" in told
    system.clock.move_to(BEGIN + 2 * MINUTE)
    system.step()
    found = system.door.get(OBF_UNIVERSE)
    assert found is not None
    assert set(found.assets) == set(x.line_of) - quiet
    for fault in faults:
        x.faults.clear(fault)
    system.minute()
    assert system.service.health()[0]
    assert system.door.get(OBF_UNIVERSE).n_assets == 24  # type: ignore[union-attr]
    assert len(system.told("stale_data")) == 1


def test_without_any_fresh_book_there_is_no_snapshot(system: UniverseSystem) -> None:
    system.step()
    system.minute()
    system.mono_ahead_ns += 61 * NS_PER_S
    system.clock.move_to(BEGIN + 2 * MINUTE)
    system.step()
    assert system.counts["snapshots_empty"] == 1
    assert system.door.get(OBF_UNIVERSE).snapshot_utc == iso_from_ns(BEGIN + MINUTE)  # type: ignore[union-attr]
    system.clock.move_to(BEGIN + 5 * MINUTE)
    assert "snapshot 240 s ago" in system.service.health()[1]
    assert not system.service.health()[0]


def test_with_the_grid_away_the_record_goes_on_and_the_newest_comes_when_it_is_back(
    system: UniverseSystem,
) -> None:
    system.step()
    peer = system.peer_of(system.service)
    peer.drop_connection()
    system.minute()
    system.minute()
    assert system.counts["grid_errors"] >= 2
    assert system.counts["snapshots"] == 2
    assert system.door.get(OBF_UNIVERSE) is None
    peer.restore_connection()
    system.step()
    assert system.door.get(OBF_UNIVERSE).snapshot_utc == iso_from_ns(BEGIN + 2 * MINUTE)  # type: ignore[union-attr]
    pushes = system.counts["pushes"]
    system.clock.move_to(system.clock.now_ns() + NS_PER_S)
    system.step()
    assert system.counts["pushes"] == pushes
    system.service.stop()
    assert len(system.rows()) == 2 * 24


def test_a_disk_that_refuses_costs_no_row_while_it_fits(
    system: UniverseSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.step()
    system.minute()
    write, refused = PartWriter.write, []

    def refuse(writer: PartWriter, tables: Any) -> list[Path]:
        if len(refused) < 1:
            refused.append(tables)
            raise StoreError("ob_universe: a part cannot be written (no space)")
        return write(writer, tables)

    monkeypatch.setattr(PartWriter, "write", refuse)
    for _ in range(5):
        system.minute()
    healthy, told = system.service.health()
    assert not healthy
    assert told.startswith("ob_universe: a part cannot be written (no space); 3 of 3 connections")
    assert system.told("resources") == ["universe: ob_universe: a part cannot be written (no space)"]
    assert system.service.gauges()["snapshots_waiting"] == 6.0
    for _ in range(5):
        system.minute()
    assert system.service.health()[0]
    assert len(system.rows()) == 10 * 24


def test_an_hour_of_snapshots_waits_at_most(system: UniverseSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(universe, "WAITING_MAX", 2)
    system.step()
    for _ in range(4):
        system.minute()
    assert system.counts["snapshots_dropped"] == 2
    assert system.service.gauges()["snapshots_waiting"] == 2.0


@pytest.mark.parametrize(("days", "kept"), [(None, 3), (0, 3), (2, 2)])
def test_parts_are_kept_for_ever_unless_an_age_is_given(
    tmp_path: Path, x: LoopbackExchange, days: int | None, kept: int
) -> None:
    folder = tmp_path / "home" / UNIVERSE_FOLDER
    options = {} if days is None else {"max_file_age_days": days}
    system = UniverseSystem(tmp_path / "home", x, **options)
    system.step()
    system.minute()
    system.service._write()
    (part,) = parts_of(folder, DAYS[1])
    for old in ("2020-01-01", "2027-01-14"):
        (folder / f"date={old}").mkdir()
        (folder / f"date={old}" / "part-000.parquet").write_bytes(part.read_bytes())
    for _ in range(5):
        system.minute()
    assert len({p.parent for p in folder.rglob("part-000.parquet")}) == kept
    assert system.counts["parts_pruned"] == 3 - kept
    system.end()


def test_a_pruning_that_fails_is_counted(
    tmp_path: Path, x: LoopbackExchange, caplog: pytest.LogCaptureFixture
) -> None:
    system = UniverseSystem(tmp_path / "home", x, max_file_age_days=1)
    (tmp_path / "home" / UNIVERSE_FOLDER / "date=2020-01-01" / "part-000.parquet").mkdir(parents=True)
    system.step()
    with caplog.at_level(logging.WARNING):
        for _ in range(6):
            system.minute()
    assert system.counts["prunes_failed"] == 2
    assert "cannot be removed" in caplog.text
    system.end()


def test_without_a_list_of_symbols_it_says_why(tmp_path: Path, x: LoopbackExchange) -> None:
    x.faults.add("status", path="/fapi/v1/exchangeInfo", value=503)
    system = UniverseSystem(tmp_path / "home", x)
    streams = system.service.streams
    assert streams is not None
    system.until(lambda: streams.counts["listings_failed"])
    system.step()
    assert system.service.health()[0]
    system.clock.move_to(BEGIN + 3 * MINUTE)
    system.step()
    healthy, told = system.service.health()
    assert not healthy
    assert told.startswith("no list of symbols yet (exchangeInfo: ")
    system.end()


def test_what_cannot_be_meant_is_refused_at_the_start(tmp_path: Path, x: LoopbackExchange) -> None:
    for wrong in (-1, math.nan, math.inf, "7", True):
        with pytest.raises(ConfigError, match="max_file_age_days is"):
            UniverseSystem(tmp_path, x, max_file_age_days=wrong)
    fast = RiskSystem(tmp_path, SystemSettings(exchange=x.url, speed=10.0), now_ns=BEGIN)
    with pytest.raises(ConfigError, match="speed of the world"):
        fast.start(UniverseService)
    fast.close()


def test_a_foreign_part_is_not_overwritten(system: UniverseSystem) -> None:
    folder = system.home.root / UNIVERSE_FOLDER / f"date={DAYS[1]}"
    folder.mkdir(parents=True)
    (folder / "part-041.parquet").write_bytes(b"mine")
    system.step()
    system.minute()
    system.service.stop()
    assert (folder / "part-041.parquet").read_bytes() == b"mine"
    assert (folder / "part-042.parquet").exists()
    assert universe_writer(folder.parent).folder == folder.parent
