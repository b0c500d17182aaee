"""`dolphin factors breaker`: table and page of recorded days, of an archive, and what it refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import invoke, write_panel
from factor_files import DAY0, HOUR, write_recordings

from dolphin.factors.recorded import FNG_FILE

#: Hours before the factors' first day: the scanner warms up in them.
BEFORE = 32 * 24
N_BARS = BEFORE + 10 * 24


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`factors/` of twelve days and `prices.parquet` of ten of them with a warm-up before."""
    folder = tmp_path_factory.mktemp("breaker")
    write_recordings(folder / "factors")
    draw = np.random.default_rng(2)
    common = draw.standard_normal((N_BARS, 1))
    prices = 100.0 * np.exp(np.cumsum(0.004 * (common + draw.standard_normal((N_BARS, 3))), axis=0))
    stamps = DAY0 - BEFORE * HOUR + np.arange(N_BARS, dtype=np.int64) * HOUR
    names = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    write_panel(folder / "prices.parquet", {"ts": stamps, **{n: prices[:, j] for j, n in enumerate(names)}})
    return folder


def test_table_and_page_of_the_days_that_both_have(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("--factors", root / "factors", "--prices", root / "prices.parquet", "--out", out)
    told = invoke("factors", "breaker", *words)
    assert told.code == 0, told.err
    assert told.out.startswith("10 days, 2025-03-01 to 2025-03-10\n")
    assert "missing    books on all days" in told.out
    rows = list(csv.DictReader((out / "breaker.csv").read_text().splitlines()))
    table = pq.read_table(out / "breaker.parquet").to_pylist()
    assert [row["day"] for row in rows] == [row["day"] for row in table]
    for text, row in zip(rows, table, strict=True):
        for name, value in row.items():
            assert (text[name] or None) is None if value is None else type(value)(text[name]) == value
    assert rows[0]["dvol_btc"] == ""
    assert {row["beta"] for row in rows} == {"0.2", "0.8"}
    assert all(float(row["btc_close"]) > 0 for row in rows)
    page = (out / "breaker.html").read_text()
    assert "bars of 1 h" in page
    assert "default-src 'none'" in page


def test_json_has_the_figures_and_the_same_inputs_give_the_same_table(root: Path, tmp_path: Path) -> None:
    words = (
        "factors",
        "breaker",
        "--factors",
        root / "factors",
        "--from",
        "2025-03-02",
        "--to",
        "2025-03-05",
        "--json",
    )
    first, second = (invoke(*words, "--out", tmp_path / name).json for name in "ab")
    assert (first["days"], first["days_beta_known"]) == (4, 0)
    assert first["days_missing"] == {"w750": 4, "books": 4}
    assert first["table_sha256"] == second["table_sha256"]
    assert first["days_boosted"] == 4
    assert invoke(*words, "--out", tmp_path / "c").err == ""


def test_a_source_that_cannot_be_read_is_named_and_the_rest_goes_on(root: Path, tmp_path: Path) -> None:
    write_recordings(tmp_path / "factors")
    (tmp_path / "factors" / FNG_FILE).write_bytes(b"half")
    told = invoke("factors", "breaker", "--factors", tmp_path / "factors", "--out", tmp_path / "out")
    assert told.code == 0
    assert "missing    fng on all days" in told.out
    assert f"fault      2025-03-01: fng: {tmp_path / 'factors' / FNG_FILE}" in told.out
    assert "beta       unknown: no w750 velocities; give --prices" in told.out


def test_an_archive_gives_records_and_velocities(tmp_path: Path) -> None:
    for day in ("2025-11-03", "2025-11-04"):
        folder = tmp_path / "eigenvalues" / day
        folder.mkdir(parents=True)
        for k in range(3):
            name = folder / f"scan_{k:06d}_0{k}0005"
            np.savez(f"{name}__Indicators.npz", funding_btc=-2e-4, dvol_btc=81.0, fng=20, taker=0.74 + k / 10)
            np.savez(f"{name}__scan_global.npz", lambda_vel_w750=1e-5 * (k - 1))
    (tmp_path / "eigenvalues" / "2025-11-03" / "scan_000009_050000__Indicators.npz").write_bytes(b"half")
    told = invoke("factors", "breaker", "--factors", tmp_path, "--out", tmp_path / "out", "--json").json
    assert (told["days"], told["days_boosted"], told["days_beta_known"]) == (2, 2, 2)
    assert [line.split(":")[0] for line in told["faults"]] == [
        "2025-11-03/scan_000009_050000__Indicators.npz"
    ]
    rows = pq.read_table(tmp_path / "out" / "breaker.parquet").to_pylist()
    assert [row["taker"] for row in rows] == [0.84] * 2
    assert [(row["signals"], row["beta"]) for row in rows] == [(3.5, 0.2), (3.5, 0.8)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--from", "2025-3-1"), "--from '2025-3-1': expected a date like 2022-11-06"),
        (("--to", "2025-02-30"), "--to '2025-02-30': expected a date"),
        (("--from", "2025-03-05", "--to", "2025-03-01"), "--from 2025-03-05 is after --to 2025-03-01"),
        (("--assets", "3"), "--assets says how many of a panel's are scanned"),
        (("--from", "2026-01-01"), "nothing between 2026-01-01 and"),
        (("--prices", "none.parquet"), "none.parquet: no such file"),
    ],
)
def test_what_is_refused_in_one_line(root: Path, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    told = invoke(
        "factors", "breaker", "--factors", root / "factors", "--out", tmp_path / "o", "--json", *words
    )
    assert told.code in (1, 2)
    assert said in told.error


def test_a_folder_that_is_not_there_or_has_nothing(tmp_path: Path) -> None:
    told = invoke("factors", "breaker", "--factors", tmp_path / "none", "--out", tmp_path / "o")
    assert "no such folder" in told.error
    (tmp_path / "empty").mkdir()
    told = invoke("factors", "breaker", "--factors", tmp_path / "empty", "--out", tmp_path / "o")
    assert "no factor can be read there" in told.error


@pytest.mark.recordings
def test_the_recordings_of_factors_and_hours(recordings: Path, tmp_path: Path) -> None:
    """Six weeks of the hourly panel, so that the scanner is warm for the last ten days."""
    panel = next((recordings / "klines").glob("binance_spot_1h_close_wide_60sym_*.parquet"))
    short = tmp_path / "six_weeks.parquet"
    pq.write_table(pq.read_table(panel).slice(0, 42 * 24), short)
    words = (
        "--factors",
        recordings / "factors",
        "--prices",
        short,
        "--assets",
        "20",
        "--out",
        tmp_path / "out",
        "--json",
    )
    told = invoke("factors", "breaker", *words).json
    assert (told["first_day"], told["last_day"], told["days"]) == ("2022-11-06", "2022-12-17", 42)
    assert told["days_beta_known"] == 11
    assert told["days_missing"]["taker"] == 42
    assert told["boost_max"] == pytest.approx(1.6931471805599454)
    assert told["faults"] == []


def test_days_that_the_sources_do_not_cover_are_told(root: Path, tmp_path: Path) -> None:
    words = ("factors", "breaker", "--factors", root / "factors", "--out", tmp_path / "out")
    covered = f"{root / 'factors'}: has factors from 2025-03-01 to 2025-03-13"
    told = invoke(*words, "--from", "1990-01-01", "--to", "1990-01-05")
    assert told.code == 1
    assert f"{covered}; nothing between 1990-01-01 and 1990-01-05" in told.error
    told = invoke(*words, "--from", "1990-01-01", "--to", "2025-03-03")
    assert told.code == 0, told.err
    assert f"note: {covered}, nothing before; it begins there" in told.err
    assert told.out.startswith("3 days, 2025-03-01 to 2025-03-03")


def test_prices_of_other_days_are_told_as_that(root: Path, tmp_path: Path) -> None:
    stamps = DAY0 - 9_000 * HOUR + np.arange(900, dtype=np.int64) * HOUR
    panel = {"ts": stamps, "BTCUSDT": np.linspace(1.0, 2.0, 900), "ETHUSDT": np.linspace(2.0, 1.0, 900)}
    other = write_panel(tmp_path / "other.parquet", panel)
    words = (
        "factors",
        "breaker",
        "--factors",
        root / "factors",
        "--prices",
        other,
        "--out",
        tmp_path / "out",
    )
    assert "no day has both" in invoke(*words).err
    told = invoke(*words, "--from", "2025-03-02", "--to", "2025-03-03")
    assert told.code == 0, told.err
    assert "beta       unknown: no w750 velocities; the prices reach from 2024-" in told.out
    assert "give --prices" not in told.out


def test_a_file_where_a_folder_is_asked_for_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("x")
    told = invoke("factors", "breaker", "--factors", tmp_path / "f.csv", "--out", tmp_path / "out")
    assert "f.csv: is a file; give the folder" in told.error
    told = invoke("universe", "pick", "--dir", tmp_path / "f.csv")
    assert "f.csv: is a file; give the folder" in told.error
