"""What was pushed, kept by day: restarts, full disks, clocks that go back, and the same values replayed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, day_start_ns
from dolphin.domain.errors import DataError, StoreError
from dolphin.factors.daily import (
    ROWS_PER_PART,
    SCHEMA,
    FactorLog,
    Pushed,
    daily_sources,
    is_daily,
    read_pushes,
)
from dolphin.factors.keeper import RULES

START = day_start_ns("2026-03-02")
MINUTE = 60 * NS_PER_S


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def pushed(value: float | None = 0.5, at_ns: int | None = START, status: str = "ok") -> dict[str, Pushed]:
    return {name: Pushed(value, at_ns, None if at_ns is None else 1.5, status) for name in RULES}


def fill(log: FactorLog, n: int, first: int = 0) -> None:
    for k in range(first, first + n):
        log.append(START + k * MINUTE, pushed(float(k), START + k * MINUTE))


def stems(root: Path, day: str = "2026-03-02") -> list[str]:
    return sorted(path.stem for path in (root / f"date={day}").iterdir())


def test_every_push_is_there_at_once_in_parts_of_an_hour(tmp_path: Path) -> None:
    log = FactorLog(tmp_path / "exf", write)
    for k in range(2 * ROWS_PER_PART + 5):
        fill(log, 1, k)
        assert read_pushes(tmp_path).num_rows == k + 1
    assert stems(tmp_path / "exf") == ["part-000000", "part-010000", "part-020000"]
    table = read_pushes(tmp_path / "exf")
    assert table.schema == SCHEMA
    assert table["fng"].to_pylist() == [float(k) for k in range(2 * ROWS_PER_PART + 5)]
    assert table["taker_age_s"].to_pylist()[0] == 1.5
    assert table["dvol_btc_status"].to_pylist()[-1] == "ok"


def test_a_restart_goes_on_in_the_part_that_is_short(tmp_path: Path) -> None:
    fill(FactorLog(tmp_path / "exf", write), 10)
    fill(FactorLog(tmp_path / "exf", write), ROWS_PER_PART, 10)
    assert stems(tmp_path / "exf") == ["part-000000", "part-010000"]
    assert read_pushes(tmp_path)["fng"].to_pylist() == [float(k) for k in range(10 + ROWS_PER_PART)]
    fill(FactorLog(tmp_path / "exf", write), 1, 2 * ROWS_PER_PART)
    assert len(stems(tmp_path / "exf")) == 2


def test_a_part_that_cannot_be_read_stays_and_a_new_one_begins(tmp_path: Path) -> None:
    fill(FactorLog(tmp_path / "exf", write), 3)
    broken = tmp_path / "exf" / "date=2026-03-02" / "part-000000.parquet"
    broken.write_bytes(b"half")
    fill(FactorLog(tmp_path / "exf", write), 2, 3)
    assert broken.read_bytes() == b"half"
    assert stems(tmp_path / "exf") == ["part-000000", "part-000300"]
    with pytest.raises(DataError, match=r"part-000000\.parquet: no part of a factor record"):
        read_pushes(tmp_path)


def test_a_new_day_has_its_own_folder_and_days_are_chosen(tmp_path: Path) -> None:
    log = FactorLog(tmp_path / "exf", write)
    for day in range(3):
        log.append(START + day * NS_PER_DAY, pushed(float(day)))
    assert [path.name for path in sorted((tmp_path / "exf").iterdir())] == [
        "date=2026-03-02", "date=2026-03-03", "date=2026-03-04",
    ]  # fmt: skip
    assert read_pushes(tmp_path, "2026-03-03", "2026-03-03")["fng"].to_pylist() == [1.0]
    assert read_pushes(tmp_path, "2030-01-01").num_rows == 0


def test_a_clock_that_was_set_back_overwrites_nothing(tmp_path: Path) -> None:
    log = FactorLog(tmp_path / "exf", write)
    fill(log, ROWS_PER_PART)
    fill(log, ROWS_PER_PART)
    assert read_pushes(tmp_path).num_rows == 2 * ROWS_PER_PART
    assert len(stems(tmp_path / "exf")) == 2


def test_what_a_full_disk_refused_is_kept_with_the_next(tmp_path: Path) -> None:
    full = True

    def sometimes(path: Path, content: bytes) -> None:
        if full:
            raise StoreError("full")
        write(path, content)

    log = FactorLog(tmp_path / "exf", sometimes)
    for k in range(ROWS_PER_PART + 10):
        with pytest.raises(StoreError):
            fill(log, 1, k)
    full = False
    fill(log, 1, ROWS_PER_PART + 10)
    assert read_pushes(tmp_path)["fng"].to_pylist() == [float(k) for k in range(ROWS_PER_PART + 11)]
    assert log.n_lost == 0
    full = True
    with pytest.raises(StoreError):
        log.append(START + NS_PER_DAY - MINUTE, pushed())
    with pytest.raises(StoreError):
        log.append(START + NS_PER_DAY, pushed())
    assert log.n_lost == 1


def test_a_day_of_refused_pushes_is_bounded(tmp_path: Path) -> None:
    def never(path: Path, content: bytes) -> None:
        raise StoreError("full")

    log = FactorLog(tmp_path / "exf", never)
    for k in range(1500):
        with pytest.raises(StoreError):
            log.append(START + k * NS_PER_S, pushed())
    assert log.n_lost == 60


def test_replayed_a_value_counts_from_the_push_that_had_it_first(tmp_path: Path) -> None:
    log = FactorLog(tmp_path / "exf", write)
    early = START - 3600 * NS_PER_S
    log.append(START, pushed(None, None, "no value yet"))
    log.append(START + MINUTE, pushed(1.0, early))
    log.append(START + 2 * MINUTE, pushed(1.0, early))
    log.append(START + 3 * MINUTE, pushed(None, early, "stale"))
    # A publisher's clock may be ahead of ours; nothing speaks of later than it was known.
    log.append(START + 4 * MINUTE, pushed(2.0, START + 9 * MINUTE))
    assert is_daily(tmp_path)
    source = daily_sources(tmp_path)["taker"]
    assert source.read(START + MINUTE - 1) is None
    assert source.read(START + MINUTE) == (1.0, early)
    assert source.read(START + 4 * MINUTE - 1) == (1.0, early)
    assert source.read(START + 4 * MINUTE) == (2.0, START + 4 * MINUTE)
    assert len(source.series().values) == 2


def test_an_empty_record_is_told(tmp_path: Path) -> None:
    (tmp_path / "exf").mkdir()
    with pytest.raises(DataError, match="no push of factors"):
        daily_sources(tmp_path)["fng"].read(START)
