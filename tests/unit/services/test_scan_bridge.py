"""The bridge: each file once and in order, through kills, bad files, lost grids and clocks that jump."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scan_market import scans
from scan_system import STEP_NS, T0, ScanSystem, unwatched

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import StoreError
from dolphin.domain.scan import Scan
from dolphin.grid.port import GridUnreachable
from dolphin.grid.topics import SCAN_LOG, SCAN_LOG_CAPACITY
from dolphin.market.scan_store import ScanStore
from dolphin.services import scan_bridge
from dolphin.services.durable import DurableState
from dolphin.services.scan_bridge import BridgeState, ScanBridgeService
from dolphin.services.scan_files import Place, ScanFile, watch_folder

MARKET = scans(5, 60, start_ns=T0, interval_ns=STEP_NS)


class Bridged(ScanSystem):
    """A store that is written to by the test, and a bridge."""

    def write(self, scan: Scan, mtime_ns: int | None = None) -> Path:
        """One scan in the store, its file's time that of the scan unless it is said otherwise."""
        path = ScanStore(self.home.market).write(scan)
        return self._stamped(path, scan, mtime_ns)

    def foreign(self, scan: Scan) -> Path:
        """One scan of a scanner that counts for itself."""
        made = ScanStore(self.home.root / "foreign").write(scan)
        path = self.store.folder / made.parent.name / made.name
        path.parent.mkdir(parents=True, exist_ok=True)
        return self._stamped(made.rename(path), scan, None)

    @staticmethod
    def _stamped(path: Path, scan: Scan, mtime_ns: int | None) -> Path:
        stamp = scan.timestamp_ns if mtime_ns is None else mtime_ns
        os.utime(path, ns=(stamp, stamp))
        return path

    def bar(self, k: int) -> None:
        """Bar k passes."""
        self.clock.move_to(max(self.clock.now_ns(), MARKET[k].timestamp_ns))
        self.write(MARKET[k])
        self.pass_s(5.0)


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Bridged]:
    made = Bridged(tmp_path)
    yield made
    made.close()


def test_every_file_comes_once_in_order_with_its_times(system: Bridged) -> None:
    system.bridge()
    for k in range(4):
        system.bar(k)
    assert [payload.to_scan() for payload in system.log()] == MARKET[:4]
    latest = system.latest()
    assert latest.scan_number == 4
    assert latest.file_mtime == MARKET[3].timestamp_ns / NS_PER_S
    assert latest.bridge_ts is not None
    assert 0.0 <= latest.bridge_ts - latest.file_mtime <= 6.0
    system.pass_s(60.0)
    assert system.numbers() == [1, 2, 3, 4]


def test_files_written_while_no_bridge_ran_come_in_order(system: Bridged) -> None:
    for k in range(3):
        system.write(MARKET[k])
    system.bridge()
    system.step()
    assert system.numbers() == [1, 2, 3]


def test_the_order_is_that_of_writing_and_not_of_numbers(system: Bridged) -> None:
    system.write(MARKET[0], mtime_ns=T0 + 30)
    system.write(MARKET[1], mtime_ns=T0 + 10)
    system.write(MARKET[2], mtime_ns=T0 + 20)
    system.write(MARKET[3], mtime_ns=T0 + 20)
    system.bridge()
    system.step()
    assert system.numbers() == [2, 3, 4, 1]
    # What is shown never goes back in time.
    assert system.latest().scan_number == 4


@pytest.mark.parametrize("after", range(4))
def test_a_kill_after_any_file_publishes_none_twice(system: Bridged, after: int) -> None:
    bridge = system.bridge()
    for k in range(after):
        system.bar(k)
    system.kill(bridge)
    system.write(MARKET[after])
    system.write(MARKET[after + 1])
    system.bridge()
    system.step()
    assert system.numbers() == list(range(1, after + 3))


def test_a_kill_between_the_log_and_the_place_publishes_none_twice(
    system: Bridged, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = system.bridge()
    system.bar(0)

    def die(self: object, state: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DurableState, "save", die)
    with pytest.raises(KeyboardInterrupt):
        system.bar(1)
    monkeypatch.undo()
    assert system.numbers() == [1, 2]
    system.kill(bridge)
    again = system.bridge()
    system.bar(2)
    assert system.numbers() == [1, 2, 3]
    assert again.context.counts["found_in_log"] == 1


def test_a_kill_between_the_log_and_the_map_still_makes_it_the_latest(
    system: Bridged, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = system.bridge()
    system.bar(0)

    def append_and_die(grid: object, scan: Scan, **named: object) -> int:
        from dolphin.grid.typed import publish_scan

        publish_scan(system.memory, scan, latest=False)
        raise KeyboardInterrupt

    monkeypatch.setattr(scan_bridge, "publish_scan", append_and_die)
    with pytest.raises(KeyboardInterrupt):
        system.bar(1)
    monkeypatch.undo()
    assert system.latest().scan_number == 1
    system.kill(bridge)
    system.bridge()
    system.step()
    assert system.numbers() == [1, 2]
    assert system.latest().scan_number == 2


def test_a_lost_state_begins_from_the_log(system: Bridged) -> None:
    bridge = system.bridge()
    for k in range(3):
        system.bar(k)
    system.kill(bridge)
    system.home.state("scan_bridge").unlink()
    system.bridge()
    system.bar(3)
    assert system.numbers() == [1, 2, 3, 4]


def test_a_state_that_cannot_be_kept_is_told_and_scans_go_on(
    system: Bridged, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = system.bridge()
    system.bar(0)

    def refuse(self: object, state: object) -> None:
        raise StoreError("no space")

    monkeypatch.setattr(DurableState, "save", refuse)
    system.bar(1)
    assert bridge.health() == (False, "no space")
    monkeypatch.undo()
    system.bar(2)
    assert bridge.health()[0]
    assert system.numbers() == [1, 2, 3]


# numbers and clocks that jump


def test_numbers_that_begin_anew_are_news_and_bring_nothing_old_again(system: Bridged) -> None:
    system.bridge()
    for k in range(5):
        system.bar(k)
    again = scans(6, 3, start_ns=T0 + 30 * STEP_NS, interval_ns=STEP_NS)
    for scan in again:
        system.clock.move_to(scan.timestamp_ns)
        system.foreign(scan)
        system.pass_s(5.0)
    system.pass_s(60.0)
    assert system.numbers() == [1, 2, 3, 4, 5, 1, 2, 3]
    assert system.latest().to_scan() == again[-1]


def test_an_emptied_store_is_no_end(system: Bridged) -> None:
    system.bridge()
    for k in range(5):
        system.bar(k)
    shutil.rmtree(system.store.folder)
    system.pass_s(10.0)
    again = scans(6, 2, start_ns=T0 + 30 * STEP_NS, interval_ns=STEP_NS)
    for scan in again:
        system.write(scan)
    system.pass_s(10.0)
    assert system.numbers() == [1, 2, 3, 4, 5, 1, 2]


@pytest.mark.parametrize("killed", [False, True])
def test_a_clock_set_back_hides_no_file(system: Bridged, killed: bool) -> None:
    bridge = system.bridge()
    for k in range(3):
        system.bar(k)
    if killed:
        system.kill(bridge)
    past = T0 - 3600 * NS_PER_S
    system.write(MARKET[3], mtime_ns=past)
    system.write(MARKET[4], mtime_ns=past + STEP_NS)
    if killed:
        system.bridge()
    system.pass_s(10.0)
    system.write(MARKET[5], mtime_ns=past + 2 * STEP_NS)
    system.pass_s(30.0)
    assert system.numbers() == [1, 2, 3, 4, 5, 6]


def test_files_of_one_instant_all_come(system: Bridged) -> None:
    bridge = system.bridge()
    system.write(MARKET[0], mtime_ns=T0)
    system.step()
    system.write(MARKET[1], mtime_ns=T0)
    system.pass_s(6.0)
    system.kill(bridge)
    system.write(MARKET[2], mtime_ns=T0)
    system.bridge()
    system.pass_s(6.0)
    assert system.numbers() == [1, 2, 3]


def test_a_place_only_rises() -> None:
    place = Place()
    for mtime_ns, number in ((10, 5), (20, 6), (15, 7), (30, 1), (30, 2)):
        file = ScanFile(mtime_ns, f"scan_{number:06d}_000000.arrow", Path("x"))
        assert place.is_news(file)
        after = place.after(file)
        assert not after.is_news(file)
        assert after.mtime_ns >= place.mtime_ns
        assert after.number >= place.number
        place = after
    assert (place.mtime_ns, place.number, len(place.names)) == (30, 7, 2)
    # Old files are none: neither a low number, nor a number below the mark.
    assert not place.is_news(ScanFile(20, "scan_000003_000000.arrow", Path("x")))


# files that are none


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0 and no more", b"\xff" * 3000])
def test_a_truncated_or_foreign_file_is_set_aside_and_the_rest_comes(system: Bridged, content: bytes) -> None:
    system.bridge()
    system.bar(0)
    path = system.write(MARKET[1])
    path.write_bytes(content)
    os.utime(path, ns=(MARKET[1].timestamp_ns, MARKET[1].timestamp_ns))
    system.bar(2)
    assert system.numbers() == [1, 3]
    quarantine = system.home.market / "quarantine"
    assert (quarantine / path.name).read_bytes() == content
    assert str(path) in (quarantine / f"{path.name}.reason.txt").read_text()
    assert len(system.told("stale_scan")) == 1


def test_a_file_with_another_number_inside_is_set_aside(system: Bridged) -> None:
    bridge = system.bridge()
    path = system.write(MARKET[0])
    path.rename(path.with_name("scan_000007_120000.arrow"))
    system.pass_s(6.0)
    assert system.numbers() == []
    assert bridge.context.counts["quarantined"] == 1


def test_a_file_of_another_name_is_set_aside_and_a_hidden_one_is_left(system: Bridged) -> None:
    bridge = system.bridge()
    path = system.write(MARKET[0])
    path.with_name("notes.txt").write_text("mine")
    path.with_name(".scan_000002_120005.arrow.tmp").write_bytes(b"half")
    system.pass_s(6.0)
    assert system.numbers() == [1]
    assert bridge.context.counts["quarantined"] == 1
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        ".scan_000002_120005.arrow.tmp", path.name,
    ]  # fmt: skip


def test_a_file_that_cannot_be_read_holds_the_others_up_for_a_while_only(
    system: Bridged, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = system.bridge()
    system.bar(0)
    read = ScanStore.read

    def refuse(self: ScanStore, path: Path) -> Scan:
        if "scan_000002" in str(path):
            raise StoreError("input/output error")
        return read(self, path)

    monkeypatch.setattr(ScanStore, "read", refuse)
    system.write(MARKET[1])
    system.write(MARKET[2])
    system.pass_s(6.0, every_s=2.0)
    assert system.numbers() == [1]
    assert bridge.health() == (False, "input/output error")
    system.pass_s(10.0)
    assert system.numbers() == [1, 3]
    assert bridge.context.counts["left_out"] == 1


def test_a_file_that_vanishes_is_no_matter(system: Bridged) -> None:
    bridge = system.bridge()
    path = system.write(MARKET[0])
    files = bridge._files
    files.name(path)
    path.unlink()
    system.pass_s(6.0)
    system.bar(1)
    assert system.numbers() == [2]
    assert bridge.health()[0]


# a grid that is away, or lost


def test_with_the_grid_away_the_place_is_kept(system: Bridged) -> None:
    bridge = system.bridge()
    system.bar(0)
    system.peer_of(bridge).drop_connection()
    for k in range(1, 5):
        system.bar(k)
    assert system.numbers() == [1]
    assert bridge.context.counts["grid_errors"] > 0
    system.peer_of(bridge).restore_connection()
    system.step()
    assert system.numbers() == [1, 2, 3, 4, 5]


def test_a_write_whose_answer_is_lost_is_not_repeated(
    system: Bridged, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.bridge()
    system.bar(0)
    from dolphin.grid.typed import publish_scan

    def lost_answer(grid: object, scan: Scan, **named: object) -> int:
        publish_scan(system.memory, scan, latest=False)
        raise GridUnreachable("no answer")

    monkeypatch.setattr(scan_bridge, "publish_scan", lost_answer)
    system.write(MARKET[1])
    system.pass_s(5.0, every_s=5.0)
    monkeypatch.undo()
    system.pass_s(5.0)
    assert system.numbers() == [1, 2]
    assert system.latest().scan_number == 2


def test_a_grid_that_lost_its_memory_gets_the_last_scans_again(
    system: Bridged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_bridge, "REFILL", 3)
    bridge = system.bridge()
    for k in range(6):
        system.bar(k)
    system.memory.lose_memory()
    system.step()
    assert system.numbers() == [4, 5, 6]
    assert system.latest().to_scan() == MARKET[5]
    assert bridge.context.counts["refilled"] == 3
    system.bar(6)
    assert system.numbers() == [4, 5, 6, 7]


def test_a_grid_that_lost_its_memory_while_no_bridge_ran_is_filled_too(system: Bridged) -> None:
    bridge = system.bridge()
    for k in range(4):
        system.bar(k)
    system.kill(bridge)
    system.memory.lose_memory()
    system.write(MARKET[4])
    system.bridge()
    system.pass_s(6.0)
    assert system.numbers() == [1, 2, 3, 4, 5]
    assert system.latest().scan_number == 5


def test_after_a_number_reset_the_refill_has_the_newest_scans(
    system: Bridged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_bridge, "REFILL", 3)
    system.bridge()
    for k in range(5):
        system.bar(k)
    for scan in scans(6, 2, start_ns=T0 + 30 * STEP_NS, interval_ns=STEP_NS):
        system.foreign(scan)
    system.pass_s(10.0)
    system.memory.lose_memory()
    system.step()
    assert system.numbers() == [5, 1, 2]
    assert system.latest().scan_number == 2


def test_a_fresh_bridge_on_a_fresh_grid_refills_nothing(system: Bridged) -> None:
    bridge = system.bridge()
    system.bar(0)
    assert bridge.context.counts["refilled"] == 0


def test_a_refill_that_breaks_off_is_made_again(system: Bridged, monkeypatch: pytest.MonkeyPatch) -> None:
    system.bridge()
    for k in range(4):
        system.bar(k)
    from dolphin.grid.typed import publish_scan

    calls: list[int] = []

    def breaks(grid: object, scan: Scan, **named: object) -> int:
        calls.append(scan.scan_number)
        if len(calls) == 2:
            raise GridUnreachable("away")
        return publish_scan(system.memory, scan, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(scan_bridge, "publish_scan", breaks)
    system.memory.lose_memory()
    system.pass_s(2.0)
    # At least once each, in order; readers drop the repetition.
    assert system.numbers() == [1, 1, 2, 3, 4]
    assert system.latest().scan_number == 4


def test_what_the_log_could_not_hold_is_left_to_the_store(
    system: Bridged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_bridge, "SCAN_LOG_CAPACITY", 10)
    monkeypatch.setattr(scan_bridge, "FILES_A_TICK", 4)
    system.memory.log(SCAN_LOG, 10)
    monkeypatch.setattr("dolphin.grid.typed.SCAN_LOG_CAPACITY", 10)
    for scan in MARKET[:30]:
        system.write(scan)
    bridge = system.bridge()
    hosted = system.hosted_of(bridge)
    hosted.step()
    assert bridge.context.counts["published"] == 4
    assert hosted.context.wake.is_set()
    system.step()
    assert bridge.context.counts == {"left_to_store": 20, "published": 10}
    assert system.latest().scan_number == 30


# freshness


def test_freshness_goes_from_fresh_over_warning_to_stale(system: Bridged) -> None:
    bridge = system.bridge()
    assert bridge.freshness == "waiting"
    assert bridge.gauges() == {}
    system.bar(0)
    system.bar(1)
    found = []
    for age_s in (29, 30, 60, 61):
        system.clock.move_to(MARKET[1].timestamp_ns + age_s * NS_PER_S)
        bridge.tick()
        found.append((bridge.freshness, bridge.gauges()["freshness"], bridge.health()[0]))
    assert found == [
        ("fresh", 0.0, True),
        ("warning", 1.0, True),
        ("warning", 1.0, True),
        ("stale", 2.0, False),
    ]
    assert system.told("stale_scan") == ["no scan has come for 61 s"]
    system.pass_s(30.0)
    assert len(system.told("stale_scan")) == 1


def test_freshness_outlives_the_bridge(system: Bridged) -> None:
    bridge = system.bridge()
    system.bar(0)
    system.kill(bridge)
    system.clock.move_to(T0 + 100 * NS_PER_S)
    again = system.bridge()
    system.step()
    assert again.freshness == "stale"
    assert not again.health()[0]
    system.pass_s(12.0)
    assert system.told("stale_scan") == ["no scan has come for 110 s"]


def test_a_scanner_that_makes_up_for_its_absence_is_no_alarm(system: Bridged) -> None:
    system.bridge()
    system.clock.move_to(MARKET[40].timestamp_ns)
    for k in range(3):
        system.write(MARKET[k])
        system.pass_s(6.0)
    assert system.numbers() == [1, 2, 3]
    assert system.told("stale_scan") == []
    system.pass_s(12.0)
    assert len(system.told("stale_scan")) == 1


def test_bars_of_a_minute_are_not_stale_before_the_next(system: Bridged) -> None:
    slow = scans(7, 4, start_ns=T0, interval_ns=60 * NS_PER_S)
    bridge = system.bridge()
    for scan in slow:
        system.clock.move_to(scan.timestamp_ns)
        system.write(scan)
        system.pass_s(60.0)
        assert bridge.freshness != "stale"
    assert system.told("stale_scan") == []
    system.pass_s(400.0, every_s=5.0)
    assert bridge.freshness == "stale"


# the watcher


def test_a_named_file_comes_without_a_sweep(system: Bridged) -> None:
    named: list[Callable[[Path], None]] = []

    def watched(context: object) -> ScanBridgeService:
        def watch(folder: Path, on_file: Callable[[Path], None]) -> Callable[[], None]:
            named.append(on_file)
            return lambda: None

        return ScanBridgeService(context, watch=watch)  # type: ignore[arg-type]

    system.start(watched, "scan_bridge")
    system.bar(0)
    swept: list[Place] = []
    bridge = system.hosted[0].service
    assert isinstance(bridge, ScanBridgeService)
    sweep = bridge._files.sweep
    bridge._files.sweep = lambda place: swept.append(place) or sweep(place)  # type: ignore[method-assign,func-returns-value]
    bridge._files.brought(ScanFile(0, "scan_000001_000000.arrow", Path("x")))
    path = system.write(MARKET[1])
    named[0](path)
    assert system.hosted[0].context.wake.is_set()
    system.hosted[0].step()
    assert system.numbers() == [1, 2]
    assert swept == []
    # A hole in the numbers: the one before may have been missed, so it is looked for.
    system.write(MARKET[2])
    named[0](system.write(MARKET[3]))
    system.hosted[0].step()
    assert system.numbers() == [1, 2, 3, 4]
    assert len(swept) == 1


def test_a_real_watcher_names_files_of_folders_that_are_made_later(tmp_path: Path) -> None:
    heard: list[Path] = []
    came = threading.Event()

    def on_file(path: Path) -> None:
        heard.append(path)
        if path.name == "b.arrow":
            came.set()

    stop = watch_folder(tmp_path, on_file)
    try:
        day = tmp_path / "2026-01-05"
        day.mkdir()
        (day / ".b.tmp").write_bytes(b"x")
        # The watch of a new folder is set by the library's thread: a rename before it is the sweep's matter.
        for _ in range(100):
            (day / ".b.tmp").rename(day / "b.arrow")
            if came.wait(0.05):
                break
            (day / "b.arrow").rename(day / ".b.tmp")
        assert came.is_set()
    finally:
        stop()
    assert day / "b.arrow" in heard


def test_without_a_watcher_the_sweep_has_to_do(system: Bridged) -> None:
    def no_watch(folder: Path, on_file: object) -> Callable[[], None]:
        raise OSError(28, "no space left for watches")

    system.start(lambda context: ScanBridgeService(context, watch=no_watch), "scan_bridge")
    system.bar(0)
    assert system.numbers() == [1]


def test_an_early_file_that_is_written_late_is_found_within_a_minute(system: Bridged) -> None:
    """Most sweeps look at the last minutes only, by the time in the names."""
    system.bridge()
    later = scans(8, 2, start_ns=T0 + 3600 * NS_PER_S, interval_ns=STEP_NS, first_number=2)
    system.clock.move_to(later[0].timestamp_ns)
    for scan in later:
        system.write(scan)
        system.pass_s(6.0)
    system.write(MARKET[0], mtime_ns=later[-1].timestamp_ns + 1)
    system.pass_s(6.0)
    assert system.numbers() == [2, 3]
    system.pass_s(60.0)
    assert system.numbers() == [2, 3, 1]


def test_the_state_is_small_however_many_scans_came(system: Bridged) -> None:
    system.start(unwatched, "scan_bridge")
    for scan in MARKET:
        system.write(scan)
    system.pass_s(6.0)
    state = DurableState(system.home.state("scan_bridge"), BridgeState).load()
    assert state is not None
    assert state.place.number == 60
    assert len(state.place.names) == 1
    assert state.stamp_ns == MARKET[-1].timestamp_ns
    assert SCAN_LOG_CAPACITY == 1000
