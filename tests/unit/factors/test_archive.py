"""The predecessor's archive: flat and nested scans, the order of files, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dolphin.domain.clock import NS_PER_S, day_start_ns
from dolphin.domain.errors import DataError, StoreError
from dolphin.factors.archive import VELOCITY, Archive, archive_sources, is_archive, scan_values
from dolphin.risk.breaker_day import FACTORS

DAY = "2025-11-03"
START = day_start_ns(DAY)


def put(root: Path, name: str, day: str = DAY, **arrays: Any) -> Path:
    folder = root / "eigenvalues" / day
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / name, **arrays)
    return folder / name


def test_flat_and_nested_scans_are_read_alike(tmp_path: Path) -> None:
    put(
        tmp_path, "scan_000001_000005__Indicators.npz", funding_btc=-2e-4, dvol_btc=[61.5], fng=22, taker=0.85
    )
    nested = {"external/funding_btc": np.float64(-2e-4), "external/dvol_btc": np.array([61.5]),
              "external/fng": np.int64(22), "external/taker": np.float32(0.85)}  # fmt: skip
    put(tmp_path, "scan_000002_000010__Indicators.npz", **nested)
    text = {"result": {"external": {"funding_btc": -2e-4, "dvol_btc": 61.5, "fng": 22, "taker": 0.85}}}
    (tmp_path / "eigenvalues" / DAY / "scan_000003_000015.json").write_text(json.dumps(text))
    records = Archive(tmp_path).records(DAY)
    assert [r.pushed_ns for r in records] == [START + k * 5 * NS_PER_S for k in (1, 2, 3)]
    assert records[0].values == (-2e-4, 61.5, 22.0, 0.85)
    assert records[1].values == (-2e-4, 61.5, 22.0, float(np.float32(0.85)))
    assert records[2].values == records[0].values


@pytest.mark.parametrize(
    "scan",
    [
        {"lambda_vel_w750": 3e-5},
        {"w750_velocity": 3e-5},
        {"multi_window_results": {"750": {"velocity": 3e-5}}},
        {"result": {"multi_window_results": {750: {"velocity": 3e-5}}}},
        {"lambda_vel_w750": float("nan"), "result": {"w750_velocity": 3e-5}},
    ],
)
def test_the_velocity_of_every_form(scan: dict[str, Any]) -> None:
    found = scan_values(scan, "scan")
    assert found == dict.fromkeys(FACTORS) | {VELOCITY: 3e-5}


@pytest.mark.parametrize("value", ["0.1", True, [1.0, 2.0], np.array([1.0, 2.0]), np.array(["x"])])
def test_what_is_no_number_is_refused_by_name(value: Any) -> None:
    with pytest.raises(DataError, match=r"scan_7: taker is .* expected one number"):
        scan_values({"taker": value}, "scan_7")


def test_a_pickled_object_is_refused_and_never_loaded(tmp_path: Path) -> None:
    touched = tmp_path / "touched"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (touched,)

    put(tmp_path, "scan_000001_000005__Indicators.npz", fng=np.array([Evil()], dtype=object))
    put(tmp_path, "scan_000002_000010__Indicators.npz", fng=41)
    folder = tmp_path / "eigenvalues" / DAY
    (folder / "scan_000003_000015__Indicators.npz").write_bytes(pickle.dumps(Evil()))
    (folder / "scan_000004_000020__Indicators.npz").write_bytes(b"PK\x03\x04 half a file")
    (folder / "scan_000005_000025.json").write_text("[1]")
    (folder / "scan_000006_000030.json").write_text("{")
    (folder / "scan_000007_990000__Indicators.npz").write_bytes(b"")
    put(tmp_path, "scan_000008_000040__Indicators.npz", **{"a": 1.0, "a/b": 2.0})
    archive = Archive(tmp_path)
    assert [r.values[2] for r in archive.records(DAY)] == [41.0]
    assert not touched.exists()
    assert len(archive.refused) == 7
    assert all("\n" not in line and line.startswith(f"{DAY}/scan_") for line in archive.refused)
    assert any("no pickled objects" in line for line in archive.refused)
    assert any("990000 is no time of day" in line for line in archive.refused)


def test_velocities_are_the_first_of_each_minute_and_a_broken_one_gives_way(tmp_path: Path) -> None:
    for number, clock, velocity in ((1, "000001", 1e-5), (2, "000030", 2e-5), (4, "000130", 4e-5)):
        put(tmp_path, f"scan_{number:06d}_{clock}__scan_global.npz", lambda_vel_w750=velocity)
    (tmp_path / "eigenvalues" / DAY / "scan_000003_000101__scan_global.npz").write_bytes(b"half")
    found = Archive(tmp_path).velocities(DAY)
    assert found == [(START + NS_PER_S, 1e-5), (START + 90 * NS_PER_S, 4e-5)]


def test_names_without_a_time_keep_their_order_by_number(tmp_path: Path) -> None:
    for number in (10, 9, 100):
        put(tmp_path, f"scan_{number}__Indicators.npz", fng=number)
    put(tmp_path, "notes__Indicators.npz", fng=1)
    records = Archive(tmp_path).records(DAY, 2)
    assert [(r.values[2], r.pushed_ns - START) for r in records] == [(9.0, 0), (10.0, NS_PER_S)]


def test_an_archive_as_sources(tmp_path: Path) -> None:
    put(tmp_path, "scan_000001_000005__Indicators.npz", fng=20, taker=np.nan)
    put(tmp_path, "scan_000001_120000__Indicators.npz", fng=30, dvol_btc=50.0)
    put(tmp_path, "scan_000009_000005__Indicators.npz", "2025-11-04", fng=40)
    assert is_archive(tmp_path)
    assert is_archive(tmp_path / "eigenvalues")
    assert not is_archive(tmp_path / "eigenvalues" / DAY)
    sources = archive_sources(tmp_path)
    noon = START + 12 * 3600 * NS_PER_S
    known = [sources["fng"].read(at) for at in (START, noon - 1, noon, noon + 86_400 * NS_PER_S)]
    assert [None if k is None else k.value for k in known] == [None, 20.0, 30.0, 40.0]
    assert sources["taker"].read(noon) is None
    dvol = sources["dvol_btc"].read(noon)
    assert dvol == (50.0, noon)


def test_a_folder_without_scans_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="eigenvalues: cannot be read"):
        Archive(tmp_path).days()
    (tmp_path / "eigenvalues" / DAY).mkdir(parents=True)
    with pytest.raises(DataError, match="no scan with a factor"):
        archive_sources(tmp_path)["fng"].read(START)
