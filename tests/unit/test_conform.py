"""The conformance runner: every vector file under both hosts, and every way a file can be wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from dolphin import conform
from dolphin.domain.errors import DataError, UsageError

VECTORS = Path(__file__).parents[1] / "vectors"
FILES = sorted(VECTORS.glob("*.json"))


@pytest.mark.parametrize("host", conform.HOSTS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_vector_agrees(path: Path, host: str) -> None:
    result = conform.run_file(path, host)
    assert result.ok, result.mismatches
    assert result.passed == len(json.loads(path.read_text())["cases"])
    assert (result.kernel, result.host) == (path.stem, host)


def test_every_kernel_has_its_vectors() -> None:
    assert {path.stem for path in FILES} == set(conform.KERNELS)


def write(folder: Path, document: Any) -> Path:
    path = folder / "case.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


BETA = {"in": {"w750": "0x1p+0", "threshold": "0x1p+0", "stress": "0x0p+0"}, "out": {"beta": (0.8).hex()}}


def file_with(*cases: Any, kernel: str = "acb_beta", compare: Any = "bits") -> dict[str, Any]:
    return {"kernel": kernel, "compare": compare, "cases": list(cases)}


def test_a_wrong_last_bit_fails_under_bits_and_passes_under_a_tolerance(tmp_path: Path) -> None:
    off = BETA | {"out": {"beta": math.nextafter(0.8, 1.0).hex()}}
    result = conform.run_file(write(tmp_path, file_with(BETA, off)), "compiled")
    assert (result.passed, result.failed, result.ok) == (1, 1, False)
    assert result.mismatches == [
        "case 1: expected {'beta': '0x1.999999999999bp-1'}, got {'beta': '0x1.999999999999ap-1'}"
    ]
    near = conform.run_file(write(tmp_path, file_with(BETA, off, compare={"rel": 1e-12})), "compiled")
    assert near.ok
    assert near.passed == 2


def test_only_the_first_mismatches_are_told(tmp_path: Path) -> None:
    wrong = BETA | {"out": {"beta": "0x1p+0"}}
    result = conform.run_file(write(tmp_path, file_with(*[wrong] * 9)), "reference")
    assert result.failed == 9
    assert len(result.mismatches) == conform.MISMATCHES_SHOWN


def test_a_file_without_cases_has_proved_nothing(tmp_path: Path) -> None:
    result = conform.run_file(write(tmp_path, file_with()), "reference")
    assert not result.ok


@pytest.mark.parametrize(
    "arguments", [{}, {"w750": "0x1p+0", "threshold": None, "stress": "0x0p+0"}], ids=["missing", "null"]
)
def test_a_case_that_cannot_run_is_a_mismatch_that_says_why(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    result = conform.run_file(write(tmp_path, file_with(BETA | {"in": arguments})), "reference")
    assert result.failed == 1
    assert "Error" in result.mismatches[0]


def test_a_category_out_of_range_is_refused(tmp_path: Path) -> None:
    case = {"in": {"index": 6, "inputs": {}}, "out": {"value": "0x1p+0"}}
    with pytest.raises(DataError, match="index 6, expected 1 to 5"):
        conform.run_file(write(tmp_path, file_with(case, kernel="survival_category")), "reference")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is no JSON"),
        ([], "is no vector file; expected the keys kernel, compare, cases"),
        ({"kernel": "signal", "cases": []}, "is no vector file"),
        (file_with(kernel="sizng"), "unknown kernel 'sizng'. Did you mean 'sizing'?"),
        (file_with(compare="exact"), "compare is 'exact', expected \"bits\""),
        (file_with(compare={"rel": 0.0}), "with x above 0"),
        (file_with(compare={"abs": 1e-9}), "with x above 0"),
        (file_with({"in": {}}), "cases are no list of objects"),
        (file_with(7), "cases are no list of objects"),
        ({"kernel": "signal", "compare": "bits", "cases": {}}, "cases are no list of objects"),
    ],
)
def test_what_is_no_vector_file_is_refused_in_one_line(tmp_path: Path, document: Any, message: str) -> None:
    path = write(tmp_path, document)
    with pytest.raises(DataError) as caught:
        conform.run_file(path, "compiled")
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        conform.run_file(tmp_path / "none.json", "compiled")


@pytest.mark.parametrize(
    ("expected", "actual", "rel", "equal"),
    [
        (0.0, -0.0, None, False),
        (math.nan, math.nan, None, True),
        (math.nan, 1.0, 1e-3, False),
        (1.0, math.nan, 1e-3, False),
        (math.inf, math.inf, 1e-3, True),
        (math.inf, 1e308, 1e-3, False),
        (1.0, 1.001, 1e-2, True),
        (1.0, 1.1, 1e-2, False),
        (0.0, 0.0, 1e-2, True),
        (True, 1, None, False),
        (1, True, None, False),
        (True, True, None, True),
        (True, False, None, False),
        (None, None, None, True),
        (None, "SIGNAL", None, False),
        ("a", "a", None, True),
        ([1.0, 2.0], [1.0], None, False),
        ([1.0], 1.0, None, False),
        ([1.0, 2.0], [1.0, 2.0], None, True),
        ([1.0, 2.0], [1.0, 3.0], None, False),
        ({"a": 1.0}, {"a": 1.0, "b": 2.0}, None, False),
        ({"a": 1.0}, {"a": 2.0}, None, False),
        ({"a": 1.0}, 1.0, None, False),
        ({"a": [1]}, {"a": [1]}, None, True),
    ],
)
def test_equality_is_strict_about_bits_kinds_and_shapes(
    expected: Any, actual: Any, rel: float | None, equal: bool
) -> None:
    assert conform._equal(expected, actual, rel) is equal


def test_values_are_decoded_from_hexadecimal_only() -> None:
    decoded = conform._decode(
        ["0x1.8p+1", "-0x1p-1", "inf", "-inf", "SHORT", "1.5", 7, True, None, {"a": "0x1p+0"}]
    )
    assert decoded == [3.0, -0.5, math.inf, -math.inf, "SHORT", "1.5", 7, True, None, {"a": 1.0}]
    assert math.isnan(conform._decode("nan"))
    assert conform._show({"a": [0.5, "x"]}) == {"a": ["0x1.0000000000000p-1", "x"]}


def test_paths_are_files_or_folders(tmp_path: Path) -> None:
    one = write(tmp_path, {})
    (tmp_path / "note.txt").write_text("")
    assert conform.vector_files([tmp_path, one]) == [one, one]
    with pytest.raises(UsageError, match="no such file or folder"):
        conform.vector_files([tmp_path / "none"])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match="no vector files there"):
        conform.vector_files([empty])
