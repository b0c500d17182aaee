"""`dolphin backtest --verify`, `explain`, `reproduce` and `fork` on folders of runs and of backtests."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from command_line import Baseline, Told, invoke, tree

from dolphin.engine.state import EngineOptions


@pytest.fixture(scope="module")
def tested(baseline: Baseline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backtest of the baseline's market; nobody changes it."""
    root = tmp_path_factory.mktemp("tested")
    told = invoke("data", "build", "--feed", "recorded", baseline.panel, "--out", root / "cache", "--json")
    assert told.code == 0, told.err
    told = invoke("backtest", "--cache", root / "cache", "--out", root / "run", "--verify", "--no-report")
    assert told.code == 0, told.err
    assert "every bit is the same" in told.out
    assert "  verified   349 bars and " in told.out
    return root / "run"


def first_trade(folder: Path) -> dict[str, str]:
    names, values = (line.split(",") for line in (folder / "trades.csv").read_text().splitlines()[:2])
    return dict(zip(names, values, strict=True))


@pytest.fixture(params=["backtest", "run"])
def folder(request: pytest.FixtureRequest, tested: Path, baseline: Baseline) -> Path:
    return tested if request.param == "backtest" else baseline.folder


def test_a_trade_is_explained_by_its_entry_and_its_exit(folder: Path) -> None:
    before = tree(folder)
    trade = first_trade(folder)
    told = invoke("explain", folder, trade["trade_id"])
    assert told.code == 0, told.err
    lines = told.out.splitlines()
    assert f"ENTER {trade['asset']}, SIGNAL" in lines[0]
    assert any(f"EXIT {trade['asset']}, {trade['reason']}" in line for line in lines)
    assert sum("<- this decided" in line for line in lines) == 1
    for word in ("signal", "warm-up", "volatility", "direction confirmation", "lanes", "notional", "flips"):
        assert any(word in line for line in lines), word
    as_json = invoke("explain", folder, trade["trade_id"], "--json").json
    entry, leave = as_json["bars"]
    assert (entry["bar"], leave["bar"]) == (int(trade["entry_bar"]), int(trade["exit_bar"]))
    assert entry["leverage"]["leverage"] == float(trade["leverage"])
    assert leave["result"]["net"] == float(trade["net"])
    assert tree(folder) == before


def test_any_bar_is_explained(folder: Path) -> None:
    told = invoke("explain", folder, "0")
    assert told.code == 0, told.err
    assert told.out.startswith("bar 0, 2021-04-02 ")
    assert invoke("explain", folder, "5", "--json", "--no-flips").json["bars"][0]["bar"] == 5


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("349",), 1, "no bar 349; the run has bars 0 to 348"),
        (("BLUE-2021-04-02-000009",), 1, "no closed trade BLUE-2021-04-02-000009"),
        (("",), 2, "expected a number from 0 or a trade's id"),
    ],
)
def test_what_cannot_be_explained(tested: Path, words: tuple[str, ...], code: int, text: str) -> None:
    told = invoke("explain", tested, *words)
    assert told.code == code
    assert text in told.error


@pytest.mark.parametrize(
    "command", [("explain", "0"), ("reproduce",), ("fork", "--at", "1", "--set", "seed=2")]
)
def test_a_folder_without_a_run(command: tuple[str, ...]) -> None:
    Path("empty").mkdir()
    told = invoke(command[0], "empty", *command[1:])
    assert told.code == 1
    assert "no journal here; expected the folder of a run" in told.error
    assert not any(Path("empty").iterdir())


def test_a_backtest_is_reproduced(tested: Path) -> None:
    told = invoke("reproduce", tested)
    assert told.code == 0, told.err
    assert told.out.startswith("reproduced: 349 decisions, ")
    assert "changed since" not in told.err
    assert invoke("reproduce", tested, "--json").json["same"] is True


def test_a_folder_that_tells_another_result_is_not_reproduced(tested: Path) -> None:
    shutil.copytree(tested, "copy")
    path = Path("copy/summary.json")
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({**summary, "decisions_sha256": "0" * 64}))
    told = invoke("reproduce", "copy")
    assert told.code == 1
    assert "differs: decisions_sha256: then 0000000000000000…, now " in told.out
    assert told.out.rstrip().endswith("NOT reproduced, though nothing of code, set and data has changed")


def run_as(monkeypatch: pytest.MonkeyPatch, *words: Any) -> Told:
    """A command as a shell starts it, so that its folder remembers it."""
    monkeypatch.setattr("sys.argv", ["dolphin", *map(str, words)])
    return invoke(*words)


def test_a_synthetic_run_is_reproduced(monkeypatch: pytest.MonkeyPatch) -> None:
    words = (
        "run",
        "--days",
        "0.012",
        "--assets",
        "12",
        "--seed",
        "3",
        "--out",
        "out",
        "--no-report",
        "--json",
    )
    assert run_as(monkeypatch, *words).code == 0
    monkeypatch.setenv("DOLPHIN_SEED", "9")  # what stands in the environment now is not what stood there then
    told = invoke("reproduce", "out", "--json")
    assert told.code == 0, told.err
    assert told.json["same"] is True
    assert told.json["scans"] > 100
    settings = json.loads(Path("out/settings.json").read_text())
    settings["command"][settings["command"].index("3")] = "4"
    Path("out/settings.json").write_text(json.dumps(settings))
    told = invoke("reproduce", "out")
    assert told.code == 1
    assert "its market was synthetic (seed 3)" in told.error


def test_a_recorded_run_is_reproduced(monkeypatch: pytest.MonkeyPatch, baseline: Baseline) -> None:
    words = (
        "run",
        "--feed",
        "recorded",
        baseline.panel,
        "--out",
        "out",
        "--json",
        "--no-report",
        "--bars",
        "900",
    )
    assert run_as(monkeypatch, *words).code == 0
    assert invoke("reproduce", "out", "--json").json["same"] is True
    settings = json.loads(Path("out/settings.json").read_text())
    Path("out/settings.json").write_text(json.dumps({**settings, "command": ["scan"]}))
    told = invoke("reproduce", "out")
    assert told.code == 1
    assert "its settings name no `dolphin run` command" in told.error


def test_a_fork_shows_both_futures(folder: Path) -> None:
    trade = first_trade(folder)
    words = (
        "fork",
        folder,
        "--at",
        trade["entry_bar"],
        "--set",
        "fraction=0.05",
        "--set",
        "fixed_tp_pct=0.5",
    )
    told = invoke(*words, "--out", "fork")
    assert told.code == 0, told.err
    assert f"first difference at bar {int(trade['entry_bar']):,}" in told.out
    assert "  changed    fixed_tp_pct " in told.out
    found = json.loads(Path("fork/fork.json").read_text())
    assert found["changes"]["fraction"]["to"] == 0.05
    assert "notional" in found["first_difference"]["differ"]
    page = Path("fork/fork.html").read_text()
    assert "As it was" in page
    again = invoke(*words, "--out", "fork")
    assert (again.code, "a fork is here already" in again.error) == (1, True)
    assert invoke(*words, "--out", "other", "--json").json["changed"] == found["changed"]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--at", "9", "--set", "fixed_tp=1"), 2, "Did you mean 'fixed_tp_pct'?"),
        (("--at", "9", "--set", "fee_scale=2"), 2, "fee_scale"),
        (("--at", "9", "--set", "fixed_tp_pct=-1"), 2, "expected above 0"),
        (("--at", "9", "--set", "fixed_tp_pct"), 2, "expected NAME=VALUE"),
        (("--at", "9", "--set", "fraction=0.1", "--set", "fraction=0.2"), 2, "is set twice"),
        (("--at", "9", "--set", "fraction=much"), 2, "expected true, false or a number"),
        (("--at", "400", "--set", "fraction=0.1"), 1, "the run has bars 0 to 348"),
        (("--at", "-1", "--set", "fraction=0.1"), 2, "is no bar, expected a number from 0"),
        (("--at", "9"), 2, "required: --set"),
    ],
)
def test_what_makes_no_fork(tested: Path, words: tuple[str, ...], code: int, text: str) -> None:
    told = invoke("fork", tested, *words, "--out", "fork")
    assert told.code == code, told.err
    assert text in told.error
    assert not Path("fork").exists()


def test_the_help_of_fork_says_what_it_cannot_change() -> None:
    told = " ".join(invoke("fork", "--help").out.split())
    assert "Options of the engine (fee_scale, slippage_scale, proxy_mode, ...) are not among them" in told
    assert {"fee_scale", "slippage_scale", "proxy_mode"} <= {field.name for field in fields(EngineOptions)}


@pytest.mark.parametrize("text", ["0", "-1", "many"])
def test_days_to_verify_that_are_none(tested: Path, text: str) -> None:
    told = invoke("backtest", "--cache", tested.parent / "cache", f"--verify={text}", "--out", "out")
    assert told.code == 2
    assert "is no number of days, expected 1 or more" in told.error


def test_verify_and_single_steps_do_not_go_together(tested: Path) -> None:
    told = invoke(
        "backtest", "--cache", tested.parent / "cache", "--engine", "step", "--verify", "--out", "out"
    )
    assert told.code == 2
    assert "leave out --engine step" in told.error
    assert not Path("out").exists()
