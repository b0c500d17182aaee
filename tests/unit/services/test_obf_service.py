"""The book service and an exchange on loopback: features to the grid, to the file without it, and back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute
import pytest
from risk_system import RiskSystem

from dolphin.cli import COMMANDS
from dolphin.domain.clock import NS_PER_S, day_from_ns, iso_from_ns
from dolphin.domain.errors import ConfigError, StoreError
from dolphin.feeds.raw_recorder import RawRecorder
from dolphin.grid.books import snapshot_of
from dolphin.grid.payloads import ObfLatest
from dolphin.grid.shards import shard_index
from dolphin.grid.topics import ASSET_OB, OBF, RAW_BOOK, SHARD_FEATURES
from dolphin.grid.typed import TypedGrid
from dolphin.market.book_files import PartWriter, parts_of, read_parts
from dolphin.market.book_messages import read_messages
from dolphin.market.book_schema import FEATURE_FOLDER, FEATURE_SCHEMA
from dolphin.orderbook import fold
from dolphin.services import obf
from dolphin.services.book_cache import CACHE_FILE, BookFile, CachedBooks, FileFirstBooks, write_cache
from dolphin.services.grid_books import GridBooks
from dolphin.services.home import SystemSettings
from dolphin.services.obf import ObfService, Recorder, symbols_of
from dolphin.services.service import Context
from dolphin.services.table import BY_COMMAND
from exchange import LoopbackExchange, SyntheticMarket

BTC = "BTCUSDT"


class BookSystem(RiskSystem):
    """One book service on the real time of its exchange."""

    def __init__(self, root: Path, x: LoopbackExchange) -> None:
        settings = SystemSettings(exchange=x.url, assets=2, record_raw=True)
        super().__init__(root, settings, now_ns=time.time_ns())
        self.x = x
        self.ahead_ns = 0
        self.obf = self.start(self.make)

    @staticmethod
    def make(context: Context) -> ObfService:
        context.options = {"first_flush_s": 0}
        return ObfService(context)

    def until(self, condition: Callable[[], object]) -> None:
        """Tick at the exchange's time, every book moving, until it holds."""
        # Long enough for a cold cache of kernels.
        end, pause = time.monotonic() + 60.0, threading.Event()
        while not condition():
            assert time.monotonic() < end, f"it did not happen in time: {self.obf.gauges()}"
            self.x.step(1)
            self.clock.move_to(max(self.clock.now_ns() + 1, time.time_ns() + self.ahead_ns))
            self.step()
            pause.wait(0.01)


@pytest.fixture
def x() -> Iterator[LoopbackExchange]:
    with LoopbackExchange(SyntheticMarket([BTC, "ETHUSDT"], seed=7), life_s=180.0) as running:
        yield running
        assert running.meter.forbidden == []


@pytest.fixture
def system(tmp_path: Path, x: LoopbackExchange) -> Iterator[BookSystem]:
    made = BookSystem(tmp_path / "home", x)
    yield made
    made.obf.stop()
    made.close()
    x.wait(lambda: x.meter.connections == 0)


@pytest.mark.parametrize(("ago_s", "delay_s"), [(None, 60), (-1, 60), (0, 10), (300, 10), (301, 60)], ids=str)
def test_books_come_sooner_where_they_were_there_a_moment_ago(
    tmp_path: Path, x: LoopbackExchange, ago_s: int | None, delay_s: int
) -> None:
    """A minute's delay after a crash would make them older than the minute that shuts the posture."""
    system = RiskSystem(tmp_path, SystemSettings(exchange=x.url, assets=2), now_ns=time.time_ns())
    if ago_s is not None:
        told_ns = system.clock.now_ns() - ago_s * NS_PER_S
        system.door.put(OBF, ObfLatest(
            timestamp=iso_from_ns(told_ns), n_assets=2, median_imbalance=0.0, agreement_pct=1.0,
            depth_pressure=0.0, cascade_count=0, regime_signal=0.0, depth_velocity=0.0, acceleration=0.0,
        ))  # fmt: skip
    service: ObfService = system.start(lambda context: ObfService(context))
    try:
        assert service.flow is not None
        assert service.flow.rules.first_flush_ns == delay_s * NS_PER_S
    finally:
        service.stop()
        system.close()


def test_books_and_features_reach_the_grid_and_are_recorded(system: BookSystem) -> None:
    assert system.obf.phase == "warmup"
    assert system.obf.health()[0]
    grid = system.door
    system.until(
        lambda: grid.get(OBF) and grid.get(ASSET_OB, symbol="ETHUSDT") and grid.get(ASSET_OB, symbol=BTC)
    )
    system.until(lambda: grid.get(SHARD_FEATURES, symbol=BTC, shard=f"{shard_index(BTC):02d}"))
    system.until(lambda: (found := grid.get(OBF)) is not None and found.n_assets == 2 and not found.degraded)
    held = system.obf.flow.view.newest(BTC) if system.obf.flow else None
    assert held is not None
    system.until(
        lambda: (
            (book := grid.get(ASSET_OB, symbol=BTC)) and snapshot_of(book).timestamp_ns > held.timestamp_ns
        )
    )
    assert system.obf.phase == "running"
    assert system.obf.health() == (True, "2 of 2 books fresh, circuit closed")
    assert not (system.home.ob_cache / CACHE_FILE).exists()
    raw = grid.get(RAW_BOOK, symbol=BTC)
    assert raw is not None
    assert len(raw.bids) == len(raw.asks) == 20
    assert raw.bids[0][0] < raw.asks[0][0]
    assert raw.bids[1][0] < raw.bids[0][0]
    system.obf.stop()
    day = day_from_ns(time.time_ns())
    rows = read_parts(parts_of(system.home.root / FEATURE_FOLDER, day), FEATURE_SCHEMA)
    features = system.obf.features
    assert features is not None
    for symbol in (BTC, "ETHUSDT"):
        mine = rows.filter(pa.compute.equal(rows["symbol"], symbol))
        newest = features.newest(symbol)
        assert newest is not None
        assert newest.bar > 2
        assert mine["bar_idx"].to_pylist() == list(range(newest.bar + 1))  # each message once
        assert mine["imbalance"].to_pylist()[-1] == newest.values[fold.IMBALANCE]
    assert all(rows["fresh"].to_pylist())
    assert features.n_refused == features.n_dropped == 0
    assert len(list(read_messages(system.home.root / "ob_raw", BTC))) > 1


def test_without_the_grid_the_file_and_with_it_the_grid_again(system: BookSystem) -> None:
    peer = system.memory.peer()
    cached = CachedBooks(system.home.ob_cache)
    books = FileFirstBooks(GridBooks(TypedGrid(peer)), cached)
    grid, pusher = system.door, system.obf.pusher

    def now() -> int:
        return system.clock.now_ns()

    def label() -> str:
        cached.refresh()
        books.advance(now())
        return books.label

    system.until(lambda: grid.get(ASSET_OB, symbol=BTC))
    system.until(lambda: books.newest(BTC))
    assert label() == "grid"
    fault = system.peer_of(system.obf)
    fault.drop_connection()
    system.until(lambda: pusher.circuit.state == "open")
    assert system.hosted[0].context.counts["push_failures"] == 5
    system.until(lambda: label() == "file")
    before = books.newest(BTC)
    assert before is not None
    system.until(lambda: label() and books.newest(BTC).timestamp_ns > before.timestamp_ns)  # type: ignore[union-attr]
    assert (system.home.ob_cache / "SCHEMA.md").read_text().startswith(f"# {CACHE_FILE}")
    system.until(lambda: system.told("grid"))
    assert "go to the file" in system.told("grid")[0]
    fault.restore_connection()
    system.until(lambda: pusher.circuit.state == "closed")
    system.until(lambda: label() == "grid")
    system.until(lambda: len(system.told("grid")) == 2)
    files = system.hosted[0].context.counts["files"]
    system.until(lambda: grid.get(ASSET_OB, symbol=BTC).push_seq > before.push_seq)  # type: ignore[union-attr]
    assert system.hosted[0].context.counts["files"] == files
    peer.close()


def test_an_alert_of_the_flow_is_told(system: BookSystem) -> None:
    system.until(lambda: system.obf.gauges()["books_fresh"] == 2.0)
    fault = system.x.faults.add("dark", symbol=BTC)
    system.until(lambda: system.told("stale_data"))
    assert BTC in system.told("stale_data")[0]
    assert system.obf.gauges()["symbols_stale"] == 1.0
    system.x.faults.clear(fault)
    system.until(lambda: system.obf.gauges()["symbols_stale"] == 0.0)


def test_dropped_messages_are_told_once_and_a_flush_that_breaks_is_not_the_last(
    system: BookSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = system.obf._recorder
    assert recorder is not None
    raw = recorder._raw
    assert raw is not None
    raw.n_dropped = 3
    system.until(lambda: system.told("resources"))
    raw.n_dropped = 4
    system.until(lambda: system.obf.gauges()["messages_dropped"] == 4.0)
    assert system.told("resources") == ["3 raw messages dropped, no room"]
    with monkeypatch.context() as patch:
        patch.setattr(recorder._writer, "write", lambda tables: 1 / 0)
        system.until(lambda: len(recorder._waiting) > 0)
        recorder.flush()
    assert "cannot record" in system.obf.health()[1]
    recorder.flush()
    assert recorder.trouble == ""


@pytest.mark.parametrize("bar_ns", [1, 2**62])
def test_withdrawal_looks_back_bars_and_not_messages(
    bar_ns: int, system: BookSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obf, "BAR_NS", bar_ns)
    grid, service = system.door, system.obf
    shard = f"{shard_index(BTC):02d}"

    def withdrawn() -> float:
        row = service.features.newest(BTC) if service.features else None
        return 0.0 if row is None else float(row.values[fold.WITHDRAWAL])

    system.until(lambda: withdrawn() != 0.0)
    pushed = system.hosted[0].context.counts["pushed_features"]
    system.until(lambda: system.hosted[0].context.counts["pushed_features"] >= pushed + 4)
    payload = grid.get(SHARD_FEATURES, symbol=BTC, shard=shard)
    assert payload is not None
    if bar_ns == 1:
        assert service._slow.last_bar == service._engine.last_bar > 3
        assert payload.withdrawal_velocity != 0.0
    else:
        assert service._slow.last_bar == 0 < service._engine.last_bar
        assert payload.withdrawal_velocity == 0.0
        assert (payload.depth_quality, payload.fill_probability) == (1.0, 0.5)


def test_silence_of_all_books_is_no_health(system: BookSystem) -> None:
    system.until(lambda: system.obf.gauges()["books_fresh"] == 2.0)
    system.x.faults.add("silence", stream="btcusdt*")
    system.x.faults.add("silence", stream="ethusdt*")
    system.ahead_ns = 11 * NS_PER_S
    system.until(lambda: not system.obf.health()[0])
    found = system.door.get(OBF)
    assert found is not None


def test_a_stale_damaged_or_closed_file_is_not_preferred(tmp_path: Path) -> None:
    cached = CachedBooks(tmp_path)
    assert not cached.look(0)
    write_cache(tmp_path, BookFile(written_ns=10, circuit="open"))
    assert cached.look(10)
    assert cached.newest(BTC) is None
    assert cached.features(BTC) is None
    assert cached.look(10 + 5 * NS_PER_S)
    assert not cached.look(11 + 5 * NS_PER_S)
    write_cache(tmp_path, BookFile(written_ns=10, circuit="closed"))
    assert not cached.look(10)
    (tmp_path / CACHE_FILE).write_text("{")
    assert not cached.look(10)
    assert cached.n_refused == 1


def test_rows_go_to_the_recorder_once_a_second(system: BookSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    system.until(lambda: system.obf.gauges()["books_fresh"] == 2)
    handed: list[int] = []
    monkeypatch.setattr(system.obf, "_record", lambda: handed.append(system.clock.now_ns()))
    second_ns = (system.clock.now_ns() // NS_PER_S + 1) * NS_PER_S
    for k in range(20):
        system.clock.move_to(second_ns + k * NS_PER_S // 20)
        system.obf.tick()
    assert handed == [second_ns]
    system.clock.move_to(second_ns + NS_PER_S)
    system.obf.tick()
    assert len(handed) == 2


def test_a_full_disk_costs_neither_the_file_nor_the_record_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tmp_path, None)
    row = {**dict.fromkeys(FEATURE_SCHEMA.names, 0), "symbol": BTC, "fresh": True}
    table = pa.Table.from_pylist([row], FEATURE_SCHEMA)
    recorder.add(table)

    def full(*_: object) -> None:
        raise StoreError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("dolphin.market.book_files.PartWriter._put", full)
        recorder.flush()
        assert recorder.trouble == "disk full"
    recorder.flush()
    assert recorder.trouble == ""
    assert len(parts_of(tmp_path / FEATURE_FOLDER, "1970-01-01")) == 1
    monkeypatch.setattr(obf, "ROWS_WAITING_MAX", 5)
    two = pa.concat_tables([table, table])
    for _ in range(3):
        recorder.add(two)
    assert recorder.n_dropped == 2
    with monkeypatch.context() as patch:
        patch.setattr("dolphin.market.book_files.PartWriter._put", full)
        recorder.flush()  # what waits is one table now, and counts as before
    recorder.add(two)
    assert recorder.n_dropped == 4


def test_a_disk_that_refuses_the_second_day_has_the_first_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, raw = Recorder(tmp_path, None), RawRecorder(tmp_path / "raw")
    row = {**dict.fromkeys(FEATURE_SCHEMA.names, 0), "symbol": BTC, "fresh": True}
    for day in range(2):
        at_ns = day * 86_400 * NS_PER_S
        recorder.add(pa.Table.from_pylist([{**row, "ts": at_ns}], FEATURE_SCHEMA))
        raw.hear(at_ns, "frame", '{"e":"aggTrade","s":"BTCUSDT","p":"1","T":1}', "")
    put = PartWriter._put
    with monkeypatch.context() as patch:

        def second_refused(self: PartWriter, day: str, table: pa.Table) -> Path:
            if day == "1970-01-02":
                raise StoreError("disk full")
            return put(self, day, table)

        patch.setattr(PartWriter, "_put", second_refused)
        recorder.flush()
        assert recorder.trouble == "disk full"
        with pytest.raises(StoreError):
            raw.flush()
    recorder.flush()
    raw.flush()
    for folder in (tmp_path / FEATURE_FOLDER, tmp_path / "raw"):
        assert [len(parts_of(folder, f"1970-01-0{day}")) for day in (1, 2)] == [1, 1]
    assert raw.n_written == 2
    assert raw._n_bytes == 0


def test_the_universe_and_the_speed(tmp_path: Path) -> None:
    assert symbols_of(SystemSettings(assets=3))[0] == BTC
    assert len(symbols_of(SystemSettings())) == 50
    (tmp_path / "u.csv").write_text("symbol\nETHUSDT\nBTCUSDT\n")
    assert symbols_of(SystemSettings(universe=str(tmp_path / "u.csv"), assets=1)) == ("ETHUSDT",)
    hurried = RiskSystem(tmp_path / "home", SystemSettings(speed=2.0, assets=1))
    with pytest.raises(ConfigError, match="speed 1"):
        hurried.start(ObfService)
    hurried.close()


def test_the_command_is_there() -> None:
    assert BY_COMMAND["books"].name == "obf"
    assert "books" in COMMANDS
