"""The factor daemon: shifted recordings, statuses, one broken source, and boost and beta of recorded days."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factor_files import HOUR, write_recordings
from risk_system import NOON, RiskSystem

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, day_start_ns
from dolphin.factors.recorded import DVOL_FILE, FNG_FILE, FUNDING_FILE, TAKER_DAILY_FILE
from dolphin.grid.payloads import ExfPayload
from dolphin.grid.topics import EXF
from dolphin.services.acb import AcbService
from dolphin.services.exf import ExfService
from dolphin.services.home import SystemSettings

TODAY = NOON // NS_PER_DAY * NS_PER_DAY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_recordings(tmp_path / "factors")
    return tmp_path / "factors"


@pytest.fixture
def system(tmp_path: Path, folder: Path) -> Iterator[RiskSystem]:
    made = RiskSystem(tmp_path / "home", SystemSettings(factors=str(folder)))
    yield made
    made.close()


def pushed(system: RiskSystem) -> ExfPayload:
    found = system.door.get(EXF)
    assert found is not None
    return found


def test_without_recordings_every_factor_is_none_and_says_no_source(tmp_path: Path) -> None:
    system = RiskSystem(tmp_path)
    exf = system.start(ExfService)
    system.start(AcbService)
    system.step()
    payload = pushed(system)
    assert (payload.funding_btc, payload.dvol_btc, payload.fng, payload.taker) == (None,) * 4
    assert set(payload.statuses.values()) == {"no source"}
    assert payload.pushed_at == NOON / NS_PER_S
    assert exf.health() == (
        True,
        "last pushed 0 s ago: funding_btc no source, dvol_btc no source, fng no source, taker no source",
    )
    assert system.alerts == []
    assert (system.boost().boost, system.boost().missing[:4]) == (
        1.0,
        ("funding_btc", "dvol_btc", "fng", "taker"),
    )
    system.close()


def test_the_recordings_first_full_day_is_laid_on_today(system: RiskSystem) -> None:
    exf = system.start(ExfService)
    system.step()
    payload = pushed(system)
    # Noon of the recording's second day: funding of 08:00, index and ratio of the first day.
    assert (payload.funding_btc, payload.dvol_btc, payload.fng, payload.taker) == (-4e-5, 50.0, 31.0, 0.8)
    assert payload.ages_s == {
        "funding_btc": 4 * 3600.0,
        "dvol_btc": 12 * 3600.0,
        "fng": 12 * 3600.0,
        "taker": 12 * 3600.0,
    }
    assert set(payload.statuses.values()) == {"ok"}
    assert exf.calendar().startswith("replays 2025-03-02 of ")


def test_it_pushes_once_a_minute_and_follows_the_recording(system: RiskSystem) -> None:
    exf = system.start(ExfService)
    system.pass_s(600)
    assert exf.context.counts["pushes"] == 10
    system.clock.move_to(TODAY + NS_PER_DAY + 60 * NS_PER_S)
    system.step()
    assert (pushed(system).dvol_btc, pushed(system).funding_btc) == (51.0, pytest.approx(-6e-5))


def test_the_shift_outlives_the_process(system: RiskSystem) -> None:
    first = system.start(ExfService)
    system.step()
    system.kill(first)
    system.clock.move_to(NOON + 5 * NS_PER_DAY)
    system.start(ExfService)
    system.step()
    assert (pushed(system).dvol_btc, pushed(system).fng) == (55.0, 36.0)


def test_a_broken_file_is_told_once_and_the_others_go_on(system: RiskSystem, folder: Path) -> None:
    good = (folder / FNG_FILE).read_bytes()
    (folder / FNG_FILE).write_bytes(b"half a file")
    exf = system.start(ExfService)
    system.pass_s(300)
    payload = pushed(system)
    assert (payload.fng, payload.statuses["fng"]) == (None, "failed")
    assert payload.dvol_btc == 50.0
    assert len(system.alerts) == 1
    assert system.alerts[0].kind == "stale_data"
    assert system.alerts[0].text.startswith("factor fng: ")
    assert exf.context.counts["fng_failed"] == 5
    (folder / FNG_FILE).write_bytes(good)
    system.pass_s(60)
    assert (pushed(system).fng, pushed(system).statuses["fng"]) == (31.0, "ok")


def test_a_source_that_breaks_after_a_restart_keeps_its_last_good_value(
    system: RiskSystem, folder: Path
) -> None:
    first = system.start(ExfService)
    system.step()
    system.kill(first)
    (folder / DVOL_FILE).unlink()
    system.start(ExfService)
    system.step()
    assert (pushed(system).dvol_btc, pushed(system).statuses["dvol_btc"]) == (50.0, "failed")
    system.clock.move_to(TODAY + 4 * NS_PER_DAY)
    system.step()
    assert pushed(system).dvol_btc is None
    assert pushed(system).fng == 35.0


def test_a_recording_that_ends_is_stale_and_then_nothing(system: RiskSystem) -> None:
    system.start(ExfService)
    system.step()
    system.clock.move_to(TODAY + 30 * NS_PER_DAY)
    system.step()
    payload = pushed(system)
    assert (payload.funding_btc, payload.dvol_btc, payload.fng, payload.taker) == (None,) * 4
    assert set(payload.statuses.values()) == {"stale"}
    assert payload.ages_s["fng"] == pytest.approx(20 * 86_400)


def test_a_push_that_fails_does_not_lose_the_next(system: RiskSystem) -> None:
    exf = system.start(ExfService)
    system.peer_of(exf).drop_connection()
    system.pass_s(120)
    assert system.door.get(EXF) is None
    system.peer_of(exf).restore_connection()
    system.step()
    assert pushed(system).pushed_at == system.clock.now_ns() / NS_PER_S


def test_recordings_that_come_later_are_laid_on_the_day_they_come(tmp_path: Path) -> None:
    later = tmp_path / "later"
    system = RiskSystem(tmp_path / "home", SystemSettings(factors=str(later)))
    system.start(ExfService)
    system.step()
    assert set(pushed(system).statuses.values()) == {"failed"}
    write_recordings(later)
    system.pass_s(60)
    assert pushed(system).dvol_btc == 50.0
    system.close()


# recorded days, computed plainly


def plain_factors(folder: Path, instants_ns: list[int]) -> list[list[float]]:
    """Values at instants by walking the files row by row; NaN where nothing was known yet or is too old."""
    day, hour = NS_PER_DAY, HOUR
    columns = (
        (FUNDING_FILE, "funding_rate", 0, 24 * hour),
        (DVOL_FILE, "dvol", day, 72 * hour),
        (FNG_FILE, "value", 0, 72 * hour),
        (TAKER_DAILY_FILE, "taker_buy_sell_ratio", day, 72 * hour),
    )
    found = []
    for name, column, late, age_max in columns:
        table = pq.read_table(folder / name)
        stamps = table["ts"].cast(pa.int64()).to_pylist()
        numbers = table[column].to_pylist()
        symbols = table["symbol"].to_pylist() if "symbol" in table.column_names else ["BTCUSDT"] * len(stamps)
        rows = [
            (stamp + late, float(number))
            for stamp, number, symbol in zip(stamps, numbers, symbols, strict=True)
            if symbol == "BTCUSDT"
        ]
        rows.sort()
        values = []
        for instant in instants_ns:
            known = [(at, value) for at, value in rows if at <= instant]
            values.append(known[-1][1] if known and instant - known[-1][0] <= age_max else math.nan)
        found.append(values)
    return found


def plain_boost(funding: float, dvol: float, fng: float, taker: float) -> tuple[float, float]:
    others = (1.0 if funding < -0.0001 else 0.5 if funding < 0.0 else 0.0) + (
        1.0 if dvol > 80 else 0.5 if dvol > 55 else 0.0
    )
    others += 1.0 if taker < 0.80 else 0.5 if taker < 0.90 else 0.0
    fear = 1.0 if fng < 25 else 0.5 if fng < 40 else 0.0
    signals = others + (fear if others > 0 else 0.0)
    return signals, 1 + 0.5 * math.log(1 + signals) if signals >= 1 else 1.0


@pytest.mark.recordings
@pytest.mark.parametrize("day", ["2022-11-10", "2022-11-14", "2023-01-10", "2025-10-12"])
def test_boost_of_recorded_days_is_what_a_plain_computation_gives(
    recordings: Path, tmp_path: Path, day: str
) -> None:
    folder = recordings / "factors"
    recorded_ns = day_start_ns(day)
    system = RiskSystem(tmp_path, SystemSettings(factors=str(folder)), now_ns=TODAY)
    first = system.start(ExfService)
    system.kill(first)
    # The day's place on the clock: where the recording's first full day (2022-11-07) was laid on today.
    clock_ns = TODAY + recorded_ns - day_start_ns("2022-11-07")
    system.clock.move_to(clock_ns)
    system.start(ExfService)
    system.start(AcbService)
    system.step()
    system.pass_s(12 * 60)
    instants = [recorded_ns + k * 60 * NS_PER_S for k in range(10)]
    values = plain_factors(folder, instants)
    medians = [float(np.median(v)) if not np.isnan(v).any() else math.nan for v in values]
    signals, expected = plain_boost(*medians)
    boost = system.boost()
    assert boost.signals == signals
    assert boost.boost == pytest.approx(expected, abs=1e-15)
    names = ("funding_btc", "dvol_btc", "fng", "taker")
    missing = [name for name, m in zip(names, medians, strict=True) if math.isnan(m)]
    assert list(boost.missing) == [*missing, "w750", "books"]
    assert boost.beta == 0.2
    for name, m in zip(names, medians, strict=True):
        value = boost.factors[name].value
        assert (value is None) == math.isnan(m)
        assert value is None or value == m
    system.close()
