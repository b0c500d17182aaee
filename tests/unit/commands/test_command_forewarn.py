"""`dolphin forewarn`: trained on a real small cache, asked, wired into a run; refusals in one line."""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import invoke
from drawn_market import SYMBOLS, write_cache

from dolphin import cli
from dolphin.domain.clock import NS_PER_S, day_start_ns
from dolphin.domain.codes import MC_STATUSES
from dolphin.journal.store import Journal

#: Few trials: what is tested is the way, not the wisdom.
TRAIN = ("--trials", "512", "--days-per-trial", "8", "--vol-threshold", "0.000001")


def write_panel(path: Path) -> Path:
    """A recording that a run can be made of."""
    rng = np.random.default_rng(6)
    matrix = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.001, (900, len(SYMBOLS))), axis=0))
    ts = pa.array([day_start_ns("2024-03-01") + k * NS_PER_S for k in range(len(matrix))], pa.timestamp("ns"))
    pq.write_table(pa.table({"ts": ts, **{s: matrix[:, k] for k, s in enumerate(SYMBOLS)}}), path)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan cache."""
    folder = tmp_path_factory.mktemp("forewarn")
    write_cache(folder)
    return folder


@pytest.fixture(scope="module")
def artefact(cache: Path) -> Path:
    """A forewarner of that cache."""
    folder = cache / "forewarner"
    told = invoke("forewarn", "train", cache, "--out", folder, *TRAIN)
    assert told.code == 0, told.err
    for word in ("held out", "AUC", "Brier", "base rate", "repaired", "not felt", "artefact", "took"):
        assert word in told.out
    assert "left out" in told.err
    assert max(map(len, told.out.splitlines())) <= 110
    return folder


def test_the_same_training_gives_the_same_figures(cache: Path, artefact: Path, tmp_path: Path) -> None:
    told = invoke("forewarn", "train", cache, "--out", tmp_path / "again", *TRAIN, "--json")
    assert told.code == 0
    first = json.loads((artefact / "manifest.json").read_text())
    for key in ("metrics", "rounds", "data_hash", "ranges", "repairs", "envelope_scale", "days"):
        assert told.json[key] == first[key], key
    said = [
        invoke("forewarn", "assess", "--artefact", folder, "--boost", "1.35", "--json").json
        for folder in (artefact, tmp_path / "again")
    ]
    for key in ("catastrophic_prob", "envelope_score", "gate", "status", "source"):
        assert said[0][key] == said[1][key]
    assert said[0]["source"] == "REAL_MODEL"
    assert said[0]["mc_scale"] == (0.5 if said[0]["gate"] == "ORANGE" else 1.0)


def test_an_assessment_is_told_in_words(artefact: Path) -> None:
    told = invoke(
        "forewarn", "assess", "--artefact", artefact, "--set", "champion", "--param", "fraction=0.02"
    )
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("champion+fraction (")
    for word in ("gate ", "probability", "envelope", "REAL_MODEL"):
        assert word in told.out


def test_without_an_artefact_nothing_is_wired() -> None:
    told = invoke("forewarn", "assess", "--json")
    assert told.code == 0
    assert told.err.startswith("warning: no forewarner is wired")
    assert (told.json["gate"], told.json["status"], told.json["mc_scale"]) == ("ABSENT", "ABSENT", 1.0)


def test_a_fallback_is_said_and_is_no_success(tmp_path: Path) -> None:
    told = invoke("forewarn", "assess", "--artefact", tmp_path / "nowhere", "--json")
    assert told.code == 1
    assert told.err.startswith("warning: ")
    assert (told.json["source"], told.json["gate"]) == ("FALLBACK_NO_DATA", "ORANGE")
    assert (told.json["catastrophic_prob"], told.json["envelope_score"]) == (0.20, 0.80)


def test_a_run_takes_an_artefact(artefact: Path, tmp_path: Path) -> None:
    panel = write_panel(tmp_path / "panel.parquet")
    words = ("run", "--feed", "recorded", panel, "--spectrum", "float64", "--no-report")
    for name, options, status in (
        ("none", (), "ABSENT"),
        ("fallback", ("--forewarner", tmp_path / "nowhere"), "ORANGE"),
        ("real", ("--forewarner", artefact, "--param", "fraction=0.02", "--param", "max_leverage=1"), "OK"),
    ):
        told = invoke(*words, "--out", tmp_path / name, *options)
        assert told.code == 0, told.err
        assert ("answers with its fallback" in told.err) == (name == "fallback")
        with contextlib.closing(Journal.read_only(tmp_path / name / "journal.db")) as journal:
            assert {MC_STATUSES[d.mc_status] for d in journal.decisions(0)} == {status}
        kept = json.loads((tmp_path / name / "settings.json").read_text())["forewarner"]
        found = json.loads((tmp_path / name / "summary.json").read_text()).get("forewarner")
        assert (found is None) == (name == "none")
        if found is not None:
            assert found["gates"] == {status: found["days"]}
            assert f"  forewarner {status} on {found['days']} of" in told.out
            assert ("trained on" in told.out) == (name == "real")
        if name == "real":
            assert kept == json.loads((artefact / "manifest.json").read_text())["model_sha256"]
        else:
            assert kept == ("FALLBACK_NO_DATA" if name == "fallback" else "")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("forewarn", "train", "CACHE", "--out", "OUT", "--trials", "10"), "trials is 10, expected 64"),
        (("forewarn", "train", "nowhere", "--out", "OUT"), "no manifest.json"),
        (("forewarn", "train", "CACHE", "--out", "THERE"), "choose another --out"),
        (("forewarn", "assess", "--artefact", "THERE", "--boost", "0"), "--boost 0.0"),
        (("forewarn", "assess", "--artefact", "THERE", "--boost", "nan"), "--boost nan"),
    ],
)
def test_a_refusal_is_one_line(
    cache: Path, artefact: Path, tmp_path: Path, words: tuple[str, ...], named: str
) -> None:
    places = {"CACHE": cache, "OUT": tmp_path / "out", "THERE": artefact}
    told = invoke(*(places.get(word, word) for word in words))
    assert told.code in (1, 2)
    assert named in told.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["train", "assess"])
def test_each_verb_has_examples_and_json(verb: str) -> None:
    told = invoke("forewarn", verb, "--help")
    assert told.code == 0
    assert "--json" in told.out
    assert "--debug" in told.out
    examples = [line for line in told.out.splitlines() if line.startswith("  dolphin forewarn ")]
    assert examples
    for line in examples:
        _, unknown = cli.build_parser("forewarn").parse_known_args(shlex.split(line)[1:])
        assert unknown == []
