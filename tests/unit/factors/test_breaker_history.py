"""The breaker over recorded days: what was known when, no look-ahead, and what is missing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from factor_files import DAY0, HOUR, write, write_recordings

from dolphin.domain.clock import NS_PER_DAY, day_from_ns, day_start_ns
from dolphin.factors.breaker_history import (
    DayVelocities,
    Fault,
    HistoryDay,
    breaker_days,
    days_between,
    polled_records,
    table_of,
)
from dolphin.factors.recorded import DVOL_FILE, FNG_FILE, FUNDING_FILE, TAKER_DAILY_FILE, recorded_sources
from dolphin.factors.sources import open_sources
from dolphin.risk.breaker_day import FACTORS

N_DAYS = 12
DAYS = days_between(day_from_ns(DAY0), day_from_ns(DAY0 + (N_DAYS - 1) * NS_PER_DAY))


def velocities(n_days: int = N_DAYS, seed: int = 3) -> DayVelocities:
    """Hourly ones, from noon of the first day on."""
    stamps = DAY0 + 12 * HOUR + np.arange(24 * n_days - 12) * HOUR
    return DayVelocities(stamps, np.random.default_rng(seed).standard_normal(len(stamps)) * 1e-6)


def walked(folder: Path, days: list[str] = DAYS, n_velocity_days: int = N_DAYS) -> list[HistoryDay]:
    return list(breaker_days(days, polled_records(open_sources(folder)), velocities(n_velocity_days)))


def test_a_day_has_what_was_published_by_its_first_minutes(folder: Path) -> None:
    rows = walked(folder)
    assert [row.judged.day for row in rows] == DAYS
    # Day 2: funding of midnight is the sixth, index and ratio those of the day before, fear its own.
    assert rows[2].judged.values == (pytest.approx(-6e-5), 51.0, 32.0, pytest.approx(0.81))
    # Funding below 0: half; index below 55: none; ratio below 0.9: half; fear below 40 with them: half.
    assert rows[2].judged.weights == (0.5, 0.0, 0.5, 0.5)
    assert rows[2].judged.boost == pytest.approx(1 + 0.5 * math.log(2.5), abs=1e-15)
    assert rows[0].judged.values[1] is None
    assert rows[0].judged.missing == ("dvol_btc", "taker", "books")


def test_the_threshold_is_of_earlier_days_and_beta_of_the_day(folder: Path) -> None:
    rows, given = walked(folder), velocities()
    medians = [float(np.median([value for _, value in given(day)])) for day in DAYS]
    for k, row in enumerate(rows):
        assert row.judged.w750 == medians[k]
        assert row.threshold_days == k
        assert row.n_scans == len(given(DAYS[k])) == (24 if k else 12)
        if k == 0:
            continue
        threshold = float(np.percentile(medians[:k], 60))
        assert row.judged.threshold == pytest.approx(threshold, abs=1e-20)
        assert row.beta == (0.8 if medians[k] >= threshold else 0.2)
        so_far = [float(np.median([v for _, v in given(DAYS[k])][: n + 1])) for n in range(24)]
        assert row.beta_high_frac == np.mean([median >= threshold for median in so_far])


def test_nothing_of_a_later_day_reaches_an_earlier_one(folder: Path, tmp_path: Path) -> None:
    """The recordings cut off behind a day, and the days behind it made wild: the rows up to it stay."""
    whole = walked(folder)
    for cut in (1, 5, 9):
        short = tmp_path / f"cut{cut}"
        write_recordings(short, N_DAYS)
        end_ns = DAY0 + (cut + 1) * NS_PER_DAY
        for name, column in ((FUNDING_FILE, "funding_rate"), (DVOL_FILE, "dvol"), (FNG_FILE, "value"),
                             (TAKER_DAILY_FILE, "taker_buy_sell_ratio")):  # fmt: skip
            table = pq.read_table(short / name).to_pylist()
            kept = [row for row in table if row["ts"].timestamp() * 1e9 < end_ns]
            columns = {key: [row[key] for row in kept] for key in kept[0] if key not in ("ts", column)}
            stamps = [round(row["ts"].timestamp()) * 10**9 for row in kept]
            values = [row[column] for row in kept]
            late = {key: [*values_, values_[-1]] for key, values_ in columns.items()}
            write(
                short / name,
                [*stamps, end_ns],
                **late,
                **{column: [*values, 99 if column == "value" else 0.02]},
            )
        assert walked(short, n_velocity_days=cut + 1)[: cut + 1] == whole[: cut + 1]
        assert walked(short)[cut + 1 :] != whole[cut + 1 :]


def test_without_velocities_beta_is_unknown(folder: Path) -> None:
    rows = list(breaker_days(DAYS, polled_records(recorded_sources(folder)), lambda day: ()))
    assert {row.beta for row in rows} == {None}
    assert {row.beta_high_frac for row in rows} == {None}
    assert all("w750" in row.judged.missing for row in rows)


def test_a_source_that_fails_is_told_once_and_the_others_count(folder: Path) -> None:
    (folder / FNG_FILE).write_bytes(b"half a file")
    write(folder / DVOL_FILE, [DAY0], dvol=[1e6])
    faults: list[Fault] = []
    rows = list(breaker_days(DAYS[:4], polled_records(recorded_sources(folder), faults), lambda day: ()))
    assert [(fault.day, fault.text.split(":")[0]) for fault in faults] == [
        (DAYS[0], "fng"),
        (DAYS[1], "dvol_btc"),
    ]
    assert "expected 1 to 400" in faults[1].text
    assert rows[3].judged.values[1:3] == (None, None)
    assert rows[3].judged.values[0] is not None


def test_the_table_says_nothing_where_nothing_was_known(folder: Path) -> None:
    table = table_of(walked(folder), {DAYS[1]: 80_000.0})
    assert table["day"].to_pylist() == DAYS
    assert table["dvol_btc"].to_pylist()[:2] == [None, 50.0]
    assert table["btc_close"].to_pylist()[:3] == [None, 80_000.0, None]
    assert table["missing"].to_pylist()[:2] == ["dvol_btc taker books", "books"]
    assert {f"{name}_weight" for name in FACTORS} <= set(table.column_names)
    assert "btc_close" not in table_of(walked(folder)).column_names


def test_velocities_that_are_no_number_are_left_out() -> None:
    given = DayVelocities(np.array([DAY0, DAY0 + HOUR]), np.array([np.nan, 1e-6]))
    assert list(given(DAYS[0])) == [(DAY0 + HOUR, 1e-6)]
    assert list(given("2020-01-01")) == []


@pytest.mark.recordings
def test_the_recorded_years_as_a_plain_walk_gives_them(recordings: Path) -> None:
    """Every day of 2022-11 to 2024-07, value by value from the files, without the project's own readers."""
    folder = recordings / "factors"
    days = days_between("2022-11-06", "2024-07-31")
    rows = list(breaker_days(days, polled_records(recorded_sources(folder)), lambda day: ()))
    funding, dvol, fng = (
        {int(row["ts"].timestamp()): row[column] for row in pq.read_table(folder / name).to_pylist()
         if row.get("symbol", "BTCUSDT") == "BTCUSDT"}
        for name, column in ((FUNDING_FILE, "funding_rate"), (DVOL_FILE, "dvol"), (FNG_FILE, "value"))
    )  # fmt: skip
    boosted = 0
    for row in rows:
        at = day_start_ns(row.judged.day) // 10**9
        rate, index, fear = funding[at], dvol.get(at - 86_400), fng[at]
        others = 1.0 if rate < -1e-4 else 0.5 if rate < 0 else 0.0
        others += 0.0 if index is None else 1.0 if index > 80 else 0.5 if index > 55 else 0.0
        signals = others + (0.0 if others == 0 else 1.0 if fear < 25 else 0.5 if fear < 40 else 0.0)
        assert row.judged.signals == signals, row.judged.day
        assert row.judged.boost == pytest.approx(
            1 + 0.5 * math.log1p(signals) if signals >= 1 else 1.0, abs=1e-15
        )
        assert row.judged.values[3] is None
        boosted += row.judged.boost > 1.0
    assert len(rows) == 634
    assert boosted == 70
