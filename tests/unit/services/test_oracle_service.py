"""The standing oracle: real scans certify again, an altered one engages the kill switch."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dolphin.domain.bar import Bar
from dolphin.domain.clock import NS_PER_S, day_start_ns
from dolphin.domain.errors import DataError, StoreError
from dolphin.domain.scan import Scan
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.typed import TypedGrid, publish_scan
from dolphin.market.price_ring import PriceRing, read_rows
from dolphin.market.scan_store import ScanStore
from dolphin.scan.recertify import differences, exact_returns, recertified
from dolphin.scan.ring import decode_row, encode_row, row_bytes
from dolphin.scan.scanner import Scanner
from dolphin.services.clock import VirtualClock
from dolphin.services.home import Home, SystemSettings
from dolphin.services.kill_switch import OPERATOR, ORACLE, KillSwitch
from dolphin.services.oracle import Children, OracleService, chosen
from dolphin.services.service import Alert, Context

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")
T0 = day_start_ns("2026-01-05")
N_BARS = 800


def prices() -> np.ndarray:
    draw = np.random.default_rng(3)
    steps = 0.002 * draw.standard_normal((N_BARS, len(SYMBOLS))) + 0.001 * draw.standard_normal((N_BARS, 1))
    made = 100.0 * np.exp(np.cumsum(steps, axis=0))
    made[770, 1] = np.nan  # missing
    made[775, 2] *= 20.0  # held back
    made[780:783, 3] *= 20.0  # a new base at the third
    return made


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Scan]]:
    """A store and a ring as the scanner leaves them."""
    root = tmp_path_factory.mktemp("market")
    store, ring = ScanStore(root), PriceRing(root / "price_ring.bin", row_bytes(4), "u" * 16)
    scanner, scans = Scanner(SYMBOLS), []
    for k, row in enumerate(prices()):
        step = scanner.update(Bar(T0 + k * 5 * NS_PER_S, row), len(scans) + 1)
        ring.append(encode_row(scanner.ring_row()))
        if step.scan is not None:
            store.write(step.scan)
            scans.append(step.scan)
    ring.close()
    return root, scans


def test_every_scan_certifies_again_to_the_bit(market: tuple[Path, list[Scan]]) -> None:
    root, scans = market
    rows = [decode_row(row) for row in read_rows(root / "price_ring.bin", row_bytes(4))]
    assert len(rows) == N_BARS
    outcomes = set()
    for scan in scans:
        upto = [row for row in rows if row.timestamp_ns <= scan.timestamp_ns]
        assert differences(scan, recertified(SYMBOLS, upto, scan.scan_number)) == ()
        outcomes |= set(scan.outcome)
    # The market had what makes rows differ from prices.
    assert {"ok", "rejected"} <= outcomes


@pytest.mark.parametrize("name", ["w50_velocity", "w750_lambda_max", "vel_div", "w300_rotation"])
def test_one_bit_is_seen(name: str, market: tuple[Path, list[Scan]]) -> None:
    root, scans = market
    rows = [decode_row(row) for row in read_rows(root / "price_ring.bin", row_bytes(4))]
    scan = scans[-1]
    altered = msgspec.structs.replace(scan, **{name: float(np.nextafter(getattr(scan, name), np.inf))})
    assert differences(altered, recertified(SYMBOLS, rows, scan.scan_number)) == (name,)


def test_a_row_whose_return_is_not_that_of_its_prices_is_seen(market: tuple[Path, list[Scan]]) -> None:
    """The ring's own returns are the fast kernel's: they prove nothing and are not used."""
    root, scans = market
    rows = [decode_row(row) for row in read_rows(root / "price_ring.bin", row_bytes(4))]
    rows[-20].returns[0] = np.nextafter(rows[-20].returns[0], 1.0)
    assert differences(scans[-1], recertified(SYMBOLS, rows, scans[-1].scan_number)) == ()
    scanner = Scanner.restore(SYMBOLS, rows[-752:])
    assert scanner._certified is not None
    assert scanner._certified[0].lam != Scanner.restore(SYMBOLS, [
        decode_row(row) for row in read_rows(root / "price_ring.bin", row_bytes(4))
    ][-752:])._certified[0].lam  # type: ignore[index]  # fmt: skip


def test_every_word_of_the_outcome_counts(market: tuple[Path, list[Scan]]) -> None:
    root, scans = market
    rows = [decode_row(row) for row in read_rows(root / "price_ring.bin", row_bytes(4))]
    held = next(scan for scan in scans if "rejected" in scan.outcome)
    upto = [row for row in rows if row.timestamp_ns <= held.timestamp_ns]
    again = recertified(SYMBOLS, upto, held.scan_number)
    assert differences(held, again) == ()
    assert differences(msgspec.structs.replace(held, outcome=("ok",) * 4), again) == ("outcome",)


def test_returns_are_the_scanner_s_to_the_bit(market: tuple[Path, list[Scan]]) -> None:
    rows = [decode_row(row) for row in read_rows(market[0] / "price_ring.bin", row_bytes(4))]
    for before, row in itertools.pairwise(rows):
        assert exact_returns(before.prices, row.prices).tolist() == row.returns.tolist()


def test_too_few_rows_prove_nothing(market: tuple[Path, list[Scan]]) -> None:
    root, scans = market
    rows = [decode_row(row) for row in read_rows(root / "price_ring.bin", row_bytes(4))]
    with pytest.raises(DataError, match="a scan needs 752"):
        recertified(SYMBOLS, rows[:751], scans[0].scan_number)


def test_a_ring_that_is_torn_foreign_or_gone(tmp_path: Path, market: tuple[Path, list[Scan]]) -> None:
    content = (market[0] / "price_ring.bin").read_bytes()
    torn = tmp_path / "torn.bin"
    torn.write_bytes(content[:-5])
    assert len(read_rows(torn, row_bytes(4))) == N_BARS - 1
    torn.write_bytes(content[:-200] + b"\0" * 100)
    assert 0 < len(read_rows(torn, row_bytes(4))) < N_BARS - 1
    with pytest.raises(DataError, match="holds no rows"):
        read_rows(torn, row_bytes(5))
    with pytest.raises(StoreError, match="cannot be read"):
        read_rows(tmp_path / "none.bin", row_bytes(4))


class System:
    def __init__(self, root: Path, every: int) -> None:
        self.home = Home(root)
        self.memory = InProcessGrid("inline")
        self.alerts: list[Alert] = []
        self.context = Context(
            "oracle", self.home, SystemSettings(oracle_every=every), VirtualClock(T0),
            TypedGrid(self.memory.peer()), self.alerts.append,
        )  # fmt: skip
        self.oracle = OracleService(self.context, recertified)
        self.oracle.start()


@pytest.fixture
def system(tmp_path: Path, market: tuple[Path, list[Scan]]) -> Iterator[System]:
    home = tmp_path / "home"
    home.mkdir()
    (home / "market").symlink_to(market[0])
    made = System(home, 1)
    yield made
    made.memory.close()


def test_live_scans_are_certified_and_counted(system: System, market: tuple[Path, list[Scan]]) -> None:
    for scan in market[1][-5:]:
        publish_scan(system.memory, scan)
        system.oracle.tick()
    assert system.context.counts == {"certified": 5}
    assert system.oracle.health() == (True, f"5 certified again, last scan {market[1][-1].scan_number}")
    assert KillSwitch(system.home.kill_switch).read() is None


def test_a_mismatch_engages_the_kill_switch(tmp_path: Path, market: tuple[Path, list[Scan]]) -> None:
    """A whole, valid file whose numbers are not those of its prices."""
    home = tmp_path / "home"
    store = ScanStore(home / "market")
    scan = market[1][-1]
    wrong = msgspec.structs.replace(scan, vel_div=scan.vel_div + 1e-9)
    store.write(wrong)
    (home / "market" / "price_ring.bin").symlink_to(market[0] / "price_ring.bin")
    system = System(home, 1)
    publish_scan(system.memory, wrong)
    system.oracle.tick()
    state = KillSwitch(system.home.kill_switch).read()
    assert state is not None
    assert (state.state, state.by) == ("HALT", "oracle")
    assert state.reason == f"scan {scan.scan_number} does not certify again: vel_div differ"
    assert system.oracle.phase == "halted"
    assert not system.oracle.health()[0]
    assert [alert.kind for alert in system.alerts] == ["oracle"]
    system.memory.close()


def test_what_cannot_be_looked_at_is_told_and_is_no_mismatch(system: System) -> None:
    scan = ScanStore(system.home.market).read(next(iter(ScanStore(system.home.market).folder.glob("*/*"))))
    publish_scan(system.memory, msgspec.structs.replace(scan, scan_number=9_999))
    system.oracle.tick()
    publish_scan(system.memory, msgspec.structs.replace(scan, timestamp_ns=scan.timestamp_ns + 1))
    system.oracle.tick()
    assert system.context.counts == {"not_certified": 2}
    assert system.alerts[0].text.startswith("scan 9999 could not be certified again")
    assert "another scan has its number" in system.alerts[1].text
    assert KillSwitch(system.home.kill_switch).read() is None


def test_a_scan_whose_ring_row_is_not_there_yet_is_looked_at_later(
    tmp_path: Path, market: tuple[Path, list[Scan]]
) -> None:
    home = tmp_path / "home"
    store, scan = ScanStore(home / "market"), market[1][-1]
    store.write(scan)
    content = (market[0] / "price_ring.bin").read_bytes()
    ring = home / "market" / "price_ring.bin"
    ring.write_bytes(content[: -(row_bytes(4) + 4)])
    system = System(home, 1)
    clock = system.context.clock
    assert isinstance(clock, VirtualClock)
    clock.move_to(scan.timestamp_ns)
    publish_scan(system.memory, scan)
    system.oracle.tick()
    system.oracle.tick()
    assert system.context.counts == {}
    ring.write_bytes(content)
    system.oracle.tick()
    assert system.context.counts["certified"] == 1
    # A row that never comes proves nothing, and holds nobody up.
    ring.write_bytes(content[: -(row_bytes(4) + 4)])
    publish_scan(system.memory, scan)
    clock.move_to(scan.timestamp_ns + 31 * NS_PER_S)
    system.oracle.tick()
    assert system.context.counts["not_certified"] == 1
    assert system.oracle.gauges()["waiting"] == 0.0
    system.memory.close()


def wrong_one(home: Path, market: tuple[Path, list[Scan]]) -> System:
    """A system whose store holds a valid file with one altered bit, published."""
    scan = market[1][-1]
    wrong = msgspec.structs.replace(scan, w50_velocity=float(np.nextafter(scan.w50_velocity, np.inf)))
    ScanStore(home / "market").write(wrong)
    (home / "market" / "price_ring.bin").symlink_to(market[0] / "price_ring.bin")
    system = System(home, 1)
    publish_scan(system.memory, wrong)
    return system


def test_a_switch_that_cannot_be_engaged_is_tried_until_it_is(
    tmp_path: Path, market: tuple[Path, list[Scan]], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = wrong_one(tmp_path / "home", market)

    def refuse(path: Path, content: bytes) -> None:
        raise StoreError("no space")

    monkeypatch.setattr("dolphin.services.kill_switch.write_durably", refuse)
    system.oracle.tick()
    assert system.oracle.phase == "halted"
    assert "CANNOT BE ENGAGED: no space" in system.alerts[-1].text
    monkeypatch.undo()
    system.oracle.tick()
    state = KillSwitch(system.home.kill_switch).read()
    assert state is not None
    assert state.by == "oracle"
    assert system.context.counts["mismatches"] == 1
    system.memory.close()


def test_the_oracle_goes_on_once_the_operator_has_lifted_the_switch(
    tmp_path: Path, market: tuple[Path, list[Scan]]
) -> None:
    system = wrong_one(tmp_path / "home", market)
    system.oracle.tick()
    assert system.oracle.phase == "halted"
    # A restart does not forget: the switch is what holds.
    again = OracleService(system.context, recertified)
    again.start()
    assert KillSwitch(system.home.kill_switch).read() is not None
    switch = KillSwitch(system.home.kill_switch)
    switch.engage("HALT", by="anna", reason="maintenance", now_ns=T0)
    assert list(switch.lift(OPERATOR)) == [OPERATOR]
    assert system.oracle.phase == "halted"
    switch.engage("HALT", by="anna", reason="maintenance", now_ns=T0)
    assert list(switch.lift(ORACLE)) == [ORACLE]
    # The operator still holds it on; of the oracle nothing stands there any more.
    assert system.oracle.phase == "running"
    assert system.oracle.health()[0]
    gauges = system.oracle.gauges()
    assert (gauges["checked"], gauges["mismatches"], gauges["mismatch"]) == (1.0, 1.0, 0.0)
    system.memory.close()


def test_what_waits_is_bounded(system: System, market: tuple[Path, list[Scan]]) -> None:
    for scan in market[1]:
        publish_scan(system.memory, scan)
    assert system.oracle.gauges()["waiting"] == 16.0
    while system.oracle.gauges()["waiting"]:
        system.oracle.tick()
    assert system.context.counts["certified"] == 16


def test_about_one_in_a_hundred_is_chosen_and_everybody_agrees() -> None:
    picked = [n for n in range(100_000) if chosen(n, T0 + n * 5 * NS_PER_S, 100)]
    assert 900 < len(picked) < 1100
    assert picked == [n for n in range(100_000) if chosen(n, T0 + n * 5 * NS_PER_S, 100)]


def test_a_child_answers_as_this_process_does_and_one_that_dies_is_replaced(
    market: tuple[Path, list[Scan]],
) -> None:
    root, scans = market
    rows = [decode_row(row) for row in read_rows(root / "price_ring.bin", row_bytes(4))]
    children = Children()
    try:
        assert children.again(SYMBOLS, rows, scans[-1].scan_number) == scans[-1]
        assert children._pool is not None
        for pid in list(children._pool._processes or ()):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(DataError, match="the check did not end"):
            children.again(SYMBOLS, rows, scans[-1].scan_number)
        assert children.again(SYMBOLS, rows, scans[-1].scan_number) == scans[-1]
        with pytest.raises(DataError, match="a scan needs 752"):
            children.again(SYMBOLS, rows[:5], 1)
    finally:
        children.close()
