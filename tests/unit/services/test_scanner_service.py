"""The scanner as a service: on time, through restarts, and whatever was lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from scan_system import STEP_NS, T0, ScanSystem

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import StoreError
from dolphin.domain.scan import WARMUP_PRICES, Scan
from dolphin.grid.topics import HEARTBEAT
from dolphin.market.scan_store import ScanStore
from dolphin.market.synthetic import SyntheticFeed
from dolphin.scan.scanner import Scanner
from dolphin.services.pipeline import RING_FILE
from dolphin.services.scanner import BARS_A_TICK


@pytest.fixture
def system(tmp_path: Path) -> Iterator[ScanSystem]:
    made = ScanSystem(tmp_path)
    yield made
    made.close()


def undisturbed(n_scans: int) -> list[Scan]:
    """The scans of the market alone."""
    feed = SyntheticFeed(seed=4, days=None, assets=4)
    scanner, scans = Scanner(feed.symbols), []
    for k, bar in enumerate(feed.bars()):
        from dolphin.domain.bar import Bar

        stamp = T0 + (k - WARMUP_PRICES + 1) * STEP_NS
        step = scanner.update(Bar(stamp, bar.prices), len(scans) + 1)
        if step.scan is not None:
            scans.append(step.scan)
            if len(scans) == n_scans:
                return scans
    raise AssertionError("the market ended")


def test_a_fresh_system_scans_at_once_and_then_every_bar(system: ScanSystem) -> None:
    scanner = system.scanner()
    assert scanner.phase == "warmup"
    system.step()
    assert scanner.phase == "running"
    assert [scan.timestamp_ns for scan in system.stored()] == [T0]
    system.pass_s(20.0)
    assert system.stored() == undisturbed(5)
    assert scanner.health()[0]
    # The grid hears a heartbeat and no scan.
    assert system.numbers() == []


def test_heartbeats_go_on_while_it_warms_up(system: ScanSystem) -> None:
    scanner = system.scanner()
    hosted = system.hosted_of(scanner)
    hosted.step()
    beat = system.door.get(HEARTBEAT, service="scanner")
    assert beat is not None
    assert (beat.phase, beat.bars, beat.of) == ("warmup", BARS_A_TICK, WARMUP_PRICES)
    assert hosted.context.wake.is_set()
    system.step()
    system.pass_s(5.0)
    beat = system.door.get(HEARTBEAT, service="scanner")
    assert beat is not None
    assert (beat.phase, beat.bars, beat.of) == ("running", None, None)


@pytest.mark.parametrize("after", [1, 3, 8])
def test_a_kill_at_any_bar_changes_no_scan(system: ScanSystem, after: int) -> None:
    scanner = system.scanner()
    system.step()
    system.pass_s(after * 5.0)
    system.kill(scanner)
    system.pass_s(12.0)
    system.scanner()
    system.pass_s(30.0)
    stored = system.stored()
    assert stored == undisturbed(len(stored))
    assert len(stored) >= after + 6


def test_a_kill_during_the_warm_up_changes_no_scan(system: ScanSystem) -> None:
    scanner = system.scanner()
    system.hosted_of(scanner).step()
    system.kill(scanner)
    system.scanner()
    system.step()
    system.pass_s(10.0)
    assert system.stored() == undisturbed(3)


def test_a_kill_between_file_and_ring_changes_no_scan(
    system: ScanSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanner = system.scanner()
    system.step()
    system.pass_s(10.0)
    written = ScanStore.write

    def write_and_die(self: ScanStore, scan: Scan) -> Path:
        written(self, scan)
        raise KeyboardInterrupt

    monkeypatch.setattr(ScanStore, "write", write_and_die)
    with pytest.raises(KeyboardInterrupt):
        system.pass_s(5.0)
    monkeypatch.undo()
    assert len(system.stored()) == 4
    system.kill(scanner)
    system.scanner()
    system.pass_s(10.0)
    stored = system.stored()
    assert len(stored) >= 6
    assert stored == undisturbed(len(stored))


def test_an_emptied_store_begins_numbers_anew_and_time_goes_on(system: ScanSystem) -> None:
    scanner = system.scanner()
    system.step()
    system.pass_s(20.0)
    scanner.stop()
    system.kill(scanner)
    shutil.rmtree(system.home.market / "arrow_scans")
    again = system.scanner()
    system.pass_s(10.0)
    stored = system.stored()
    assert [scan.scan_number for scan in stored] == [1, 2]
    assert [scan.timestamp_ns for scan in stored] == [T0 + 25 * NS_PER_S, T0 + 30 * NS_PER_S]
    # The same scans as ever, but for the number: the ring was not lost.
    alone = undisturbed(7)[5:]
    assert [scan.w750_lambda_max for scan in stored] == [scan.w750_lambda_max for scan in alone]
    assert again.context.counts["bars_number_reset"] == 1


def test_a_lost_ring_is_filled_again_and_no_scan_is_written_twice(system: ScanSystem) -> None:
    scanner = system.scanner()
    system.step()
    system.pass_s(20.0)
    system.kill(scanner)
    before = {path: path.stat().st_mtime_ns for path in system.store.folder.glob("*/*.arrow")}
    (system.home.market / RING_FILE).unlink()
    again = system.scanner()
    assert again.phase == "warmup"
    system.step()
    system.pass_s(10.0)
    assert system.stored() == undisturbed(7)
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in before.items())
    assert again.context.counts["bars_ring_lost"] == 1


def test_ring_and_numbers_lost_one_after_the_other(system: ScanSystem) -> None:
    """Numbers that began anew do not collide with those that a fold from the start would give."""
    scanner = system.scanner()
    system.step()
    system.pass_s(20.0)
    system.kill(scanner)
    shutil.rmtree(system.home.market / "arrow_scans")
    scanner = system.scanner()
    system.pass_s(10.0)
    system.kill(scanner)
    (system.home.market / RING_FILE).unlink()
    scanner = system.scanner()
    system.hosted_of(scanner).step()
    system.kill(scanner)  # in the middle of the fold
    scanner = system.scanner()
    system.step()
    system.pass_s(10.0)
    assert scanner.health()[0]
    stored = system.stored()
    assert [scan.scan_number for scan in stored] == [1, 2, 3, 4]
    assert [(scan.timestamp_ns - T0) // NS_PER_S for scan in stored] == [25, 30, 35, 40]


def test_a_foreign_scanner_with_a_high_number_and_a_damaged_file_are_survived(system: ScanSystem) -> None:
    scanner = system.scanner()
    system.step()
    system.pass_s(5.0)
    system.kill(scanner)
    newest = max(system.store.folder.glob("*/*.arrow"))
    newest.with_name("scan_000900_235959.arrow").write_bytes(b"no scan")
    system.scanner()
    system.pass_s(5.0)
    assert [scan.timestamp_ns for scan in system.stored()] == [T0, T0 + STEP_NS, T0 + 2 * STEP_NS]
    assert [path.name for path in (system.home.market / "quarantine").glob("*.arrow")] == [
        "scan_000900_235959.arrow"
    ]


def test_a_disk_that_refuses_is_told_and_tried_again(
    system: ScanSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanner = system.scanner()
    system.step()

    def refuse(self: ScanStore, scan: Scan) -> Path:
        raise StoreError("no space")

    monkeypatch.setattr(ScanStore, "write", refuse)
    system.pass_s(10.0)
    assert scanner.health() == (False, "no space")
    assert system.told("stale_scan")[0] == "the scanner cannot write: no space"
    monkeypatch.undo()
    system.pass_s(10.0)
    assert scanner.health()[0]
    assert system.stored() == undisturbed(5)


def test_a_clock_that_is_set_back_makes_no_scan_twice(system: ScanSystem) -> None:
    system.scanner()
    system.step()
    system.pass_s(20.0)
    system.clock.move_to(T0 - 60 * NS_PER_S)
    system.pass_s(90.0)
    stored = system.stored()
    assert stored == undisturbed(7)


def test_scans_that_do_not_come_are_unhealthy(system: ScanSystem) -> None:
    scanner = system.scanner()
    assert scanner.gauges()["next_scan"] == 1.0
    system.step()
    system.clock.move_to(T0 + 31 * NS_PER_S)
    healthy, why = scanner.health()
    assert not healthy
    assert why.startswith("scan 1 of 2026-01-05T12:00:00Z, 31 s ago")
    assert scanner.gauges()["scan_age_s"] == 31.0


def test_a_recording_that_has_ended_stays_up(system: ScanSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    short = SyntheticFeed(seed=4, days=4 / 17280, assets=4)
    assert short.n_bars is not None
    monkeypatch.setattr("dolphin.services.scanner.open_market", lambda settings: short)
    scanner = system.scanner()
    system.step()
    system.pass_s(120.0)
    assert scanner.phase == "ended"
    assert scanner.health() == (True, f"{short.name} has ended: no further bars will come")
    assert len(system.stored()) == short.n_bars - WARMUP_PRICES + 1
    assert scanner.gauges()["feed_ended"] == 1.0
