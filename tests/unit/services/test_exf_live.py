"""The factor service with live sources on loopback: pushes, records, faults, restarts, refusals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from factor_files import write_recordings
from risk_system import NOON, RiskSystem

from dolphin.cli import build_parser
from dolphin.commands.up import asked
from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, day_from_ns
from dolphin.domain.errors import ConfigError, DolphinError, StoreError, UsageError
from dolphin.factors.daily import FactorLog, Pushed, read_pushes
from dolphin.factors.sources import open_sources
from dolphin.grid.payloads import ExfPayload
from dolphin.grid.topics import EXF
from dolphin.services.acb import AcbService
from dolphin.services.exf import ExfService, checked_factors
from dolphin.services.home import SystemSettings
from exchange import LoopbackExchange, SyntheticMarket

NAMES = ("funding_btc", "dvol_btc", "fng", "taker")


@pytest.fixture
def exchange() -> Iterator[LoopbackExchange]:
    with LoopbackExchange(SyntheticMarket(1, seed=7), life_s=120.0) as running:
        running.factors.wander = 0.0
        running.factors.set(funding_rate=-0.0002, dvol=85.0, fng=20, taker=0.75)
        yield running


def live_settings(url: str) -> SystemSettings:
    return SystemSettings(
        factors="live", factor_addresses=dict.fromkeys(("binance", "deribit", "alternative"), url)
    )


@pytest.fixture
def system(tmp_path: Path, exchange: LoopbackExchange) -> Iterator[RiskSystem]:
    made = RiskSystem(tmp_path / "home", live_settings(exchange.url), now_ns=time.time_ns())
    yield made
    for hosted in made.hosted:
        hosted.service.stop()
    made.close()


def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    end, pause = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        pause.wait(0.02)


def payload(system: RiskSystem) -> ExfPayload | None:
    system.step()
    return system.door.get(EXF)


def complete(system: RiskSystem) -> ExfPayload:
    """Push as the sources wake the service, until all four have spoken."""
    until(lambda: (found := payload(system)) is not None and set(found.statuses.values()) == {"ok"})
    found = payload(system)
    assert found is not None
    return found


def test_first_values_are_pushed_at_once_and_reach_the_breaker(system: RiskSystem) -> None:
    exf = system.start(ExfService)
    system.start(AcbService)
    found = complete(system)
    assert (found.funding_btc, found.dvol_btc, found.fng, found.taker) == (-0.0002, 85.0, 20.0, 0.75)
    assert set(found.ages_s) == set(NAMES)
    assert all(age is not None and age >= 0.0 for age in found.ages_s.values())
    assert exf.health()[0]
    assert exf.calendar() == ""
    assert system.alerts == []
    until(lambda: payload(system) and system.boost().signals > 0.0)
    assert system.boost().boost > 1.0


def test_each_push_is_in_the_days_record_and_can_be_replayed(system: RiskSystem) -> None:
    exf = system.start(ExfService)
    complete(system)
    now_ns = system.clock.now_ns()
    table = read_pushes(system.home.root)
    assert table.num_rows == exf.context.counts["pushes"]
    assert (system.home.exf / f"date={day_from_ns(now_ns)}").is_dir()
    last = table.to_pylist()[-1]
    assert {name: last[name] for name in NAMES} == {
        "funding_btc": -0.0002, "dvol_btc": 85.0, "fng": 20.0, "taker": 0.75,
    }  # fmt: skip
    assert {last[f"{name}_status"] for name in NAMES} == {"ok"}
    for name, source in open_sources(system.home.root).items():
        sample = source.read(now_ns)
        assert sample is not None
        assert sample.value == last[name]
        assert sample.at_ns <= now_ns


def test_a_restart_keeps_the_values_and_goes_on_in_the_record(
    system: RiskSystem, exchange: LoopbackExchange
) -> None:
    first = system.start(ExfService)
    complete(system)
    n_rows = read_pushes(system.home.root).num_rows
    system.kill(first)
    first.stop()
    exchange.faults.add("hang", path="*")
    system.start(ExfService)
    found = payload(system)
    assert found is not None
    # Nobody has answered yet; what was known before the restart still counts, by its age.
    assert (found.funding_btc, found.dvol_btc, found.fng, found.taker) == (-0.0002, 85.0, 20.0, 0.75)
    assert set(found.statuses.values()) == {"no value yet"}
    assert read_pushes(system.home.root).num_rows == n_rows + 1
    assert len(list(system.home.exf.rglob("*.parquet"))) == 1
    system.clock.move_to(system.clock.now_ns() + 31 * 60 * NS_PER_S)
    found = payload(system)
    assert found is not None
    assert (found.funding_btc, found.taker, found.fng) == (None, None, 20.0)


def test_a_publisher_that_fails_is_told_once_and_the_others_go_on(
    system: RiskSystem, exchange: LoopbackExchange
) -> None:
    exchange.faults.add("status", path="/fng/", value=404)
    system.start(ExfService)

    def others_spoke() -> bool:
        found = payload(system)
        return found is not None and [found.statuses[name] for name in NAMES] == ["ok", "ok", "failed", "ok"]

    until(others_spoke)
    system.pass_s(180.0, every_s=60.0)
    found = payload(system)
    assert found is not None
    assert (found.fng, found.dvol_btc) == (None, 85.0)
    told = system.told("stale_data")
    assert len([text for text in told if text.startswith("factor fng: ")]) == 1
    assert "/fng/: answered 404" in told[0]


def test_without_a_source_nothing_is_recorded(tmp_path: Path) -> None:
    system = RiskSystem(tmp_path)
    system.start(ExfService)
    system.step()
    assert not system.home.exf.exists()
    system.close()


def test_recordings_are_recorded_on_the_systems_clock(tmp_path: Path) -> None:
    """A value's time is shifted as its calendar is: with its age it gives the time of the push."""
    write_recordings(tmp_path / "factors")
    system = RiskSystem(tmp_path / "home", SystemSettings(factors=str(tmp_path / "factors")))
    system.start(ExfService)
    system.pass_s(120.0, every_s=60.0)
    rows = read_pushes(system.home.root).to_pylist()
    assert [row["pushed_at"].timestamp() for row in rows] == [NOON / NS_PER_S + 60.0 * k for k in (1, 2)]
    for row in rows:
        assert row["dvol_btc"] == 50.0
        for name in NAMES:
            assert row["pushed_at"].timestamp() - row[f"{name}_at"].timestamp() == row[f"{name}_age_s"]
    system.close()


def test_a_record_that_cannot_be_written_costs_no_push(system: RiskSystem) -> None:
    exf = system.start(ExfService)
    complete(system)
    for day in (0, 1):
        folder = system.home.exf / f"date={day_from_ns(system.clock.now_ns() + day * NS_PER_DAY)}"
        for part in folder.glob("*"):
            part.unlink()
        if folder.exists():
            folder.rmdir()
        folder.write_bytes(b"in the way")
    before = exf.context.counts["pushes"]
    system.pass_s(60.0, every_s=60.0)
    assert exf.context.counts["pushes"] > before
    assert exf.context.counts["records_failed"] >= 1
    healthy, why = exf.health()
    assert not healthy
    assert "cannot be written" in why


def up(*words: str) -> dict[str, object]:
    return asked(build_parser("up").parse_args(["up", *words]))


def test_up_takes_live_factors_and_their_addresses() -> None:
    assert up("--factors", "live")["factors"] == "live"
    assert up("--factors", "live", "--factor-address", "deribit=https://test.deribit.com") == {
        "factors": "live", "factor_addresses": {"deribit": "https://test.deribit.com"},
    }  # fmt: skip
    assert str(up("--factors", "recorded")["factors"]).startswith("/")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--factors", "live", "--speed", "10"), "live factors come at the speed of the world, not 10 times"),
        (("--factor-address", "binance=https://x.org"), "addresses of factors are for live ones"),
        (("--factors", "live", "--factor-address", "binance"), "expected HOST=URL"),
        (("--factors", "live", "--factor-address", "binance=http://x.org"), "expected https://"),
    ],
)
def test_up_refuses_what_contradicts_itself(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        up(*words)
    assert said in str(caught.value)


def test_a_home_with_wrong_settings_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        checked_factors(SystemSettings(factors="live", speed=2.0))
    system = RiskSystem(tmp_path, SystemSettings(factors="live", factor_addresses={"x": "https://y.org"}))
    with pytest.raises(DolphinError, match="'x' is no source of factors"):
        system.start(ExfService)
    system.close()


def test_the_log_raises_what_its_writer_raises(tmp_path: Path) -> None:
    def full(path: Path, content: bytes) -> None:
        raise StoreError("full")

    with pytest.raises(StoreError, match="full"):
        FactorLog(tmp_path, full).append(0, dict.fromkeys(NAMES, Pushed(None, None, None, "ok")))
