"""`audit`, `diff`, `config`, `doctor`, `conform`, `scan`: what people look with."""

from __future__ import annotations

import json
import math
import shutil
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Baseline, Told, finished, invoke, market, spawn, tree, write_panel

from dolphin.commands import diff, doctor
from dolphin.domain.decision import Decision
from dolphin.domain.params import GOLD
from dolphin.market.recorded import RecordedFeed

Run = Callable[..., Told]
VECTORS = Path(__file__).parents[2] / "vectors"


# -- audit -----------------------------------------------------------------------------------------------


def test_audit_proves_a_run(baseline: Baseline) -> None:
    before = tree(baseline.folder)
    told = invoke("audit", baseline.folder, "--json")
    assert told.code == 0
    s = told.json
    assert (s["balanced"], s["bars"], s["findings"]) == (True, 349, [])
    assert s["trades"] == baseline.summary["trades"]
    assert s["prices_checked"] == 2 * s["trades"]
    assert s["decisions_sha256"] == baseline.digest
    assert tree(baseline.folder) == before
    text = invoke("audit", baseline.folder).out
    assert "balanced: every cash flow is proved" in text
    assert max(map(len, text.splitlines())) <= 83


@pytest.mark.parametrize(
    ("sql", "finding"),
    [
        ("UPDATE cash_flows SET amount_e8 = amount_e8 + 5 WHERE id = 1", "price_pnl is booked as"),
        ("DELETE FROM cash_flows WHERE id = 2", "legs ["),
        ("DELETE FROM decisions WHERE bar_idx = 7", "bar 7 is missing"),
        ("UPDATE decisions SET equity = equity + 1 WHERE bar_idx = 9", "bar 9: the row is not the one"),
        ("INSERT INTO events (timestamp_ns, kind, text) VALUES (1, 'invariant', 'planted')", "planted"),
    ],
)
def test_audit_finds_what_was_changed(baseline: Baseline, sql: str, finding: str) -> None:
    shutil.copytree(baseline.folder, "out")
    with sqlite3.connect("out/journal.db") as db:
        db.execute(sql)
    told = invoke("audit", "out", "--json")
    assert told.code == 1
    assert told.json["balanced"] is False
    assert any(finding in text for text in told.json["findings"])
    text = invoke("audit", "out")
    assert text.code == 1
    assert "NOT balanced: " in text.out


def test_audit_without_scans_says_so(baseline: Baseline) -> None:
    shutil.copytree(baseline.folder, "out", ignore=shutil.ignore_patterns("arrow_scans"))
    told = invoke("audit", "out")
    assert told.code == 0
    assert "no scans to check prices" in told.out
    assert told.out.splitlines()[-1] == (
        "balanced: cash flows follow from the booked fills; prices not proved (no scans)"
    )
    assert "every cash flow is proved" not in told.out
    assert max(map(len, told.out.splitlines())) <= 83
    assert invoke("audit", "out", "--json").json["prices_proved"] is False
    assert invoke("audit", baseline.folder, "--json").json["prices_proved"] is True


def _scan_of_first_entry(folder: str) -> Path:
    with sqlite3.connect(f"{folder}/journal.db") as db:
        number = db.execute("SELECT scan_number FROM decisions WHERE action = 1 LIMIT 1").fetchone()[0]
    return next(Path(folder, "arrow_scans").glob(f"*/scan_{number:06d}_*.arrow"))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (Path.unlink, "its entry price is not proved, scan"),
        (_cut, "is no whole Arrow file"),
        (_folder_instead, "cannot be read"),
    ],
)
def test_audit_finds_a_scan_that_is_gone_or_damaged(
    baseline: Baseline, harm: Callable[[Path], None], words: str
) -> None:
    shutil.copytree(baseline.folder, "out")
    harm(_scan_of_first_entry("out"))
    told = invoke("audit", "out")
    assert told.code == 1
    assert words in told.out
    assert "NOT balanced: 1 finding" in told.out


def test_audit_misses_the_digest_of_a_finished_run(baseline: Baseline) -> None:
    shutil.copytree(baseline.folder, "out")
    with sqlite3.connect("out/journal.db") as db:
        db.execute("DELETE FROM meta WHERE key = 'decisions_sha256'")
    told = invoke("audit", "out", "--json")
    assert told.code == 1
    assert told.json["findings"] == ["the run is finished and has no recorded digest of its decisions"]


# -- diff ------------------------------------------------------------------------------------------------


def test_diff_of_equal_runs(run: Run, baseline: Baseline) -> None:
    assert run().code == 0
    told = invoke("diff", baseline.folder, "out", "--json")
    assert told.code == 0
    assert told.json == {"equal": True, "bar": None, "bars": [349, 349], "a": None, "b": None, "settings": {}}
    assert invoke("diff", baseline.folder, "out").out == "equal: 349 decisions, byte for byte\n"


def test_diff_shows_the_first_difference_with_inputs_and_lanes(run: Run, baseline: Baseline) -> None:
    assert run(None, "out", "--param", "fraction=0.1").code == 0
    told = invoke("diff", baseline.folder, "out", "--json")
    assert told.code == 1
    s = told.json
    with sqlite3.connect(baseline.folder / "journal.db") as db:
        entry = db.execute("SELECT min(bar_idx) FROM decisions WHERE action = 1").fetchone()[0]
    assert s["bar"] == entry
    assert (s["a"]["action"], s["b"]["action"]) == ("ENTER", "ENTER")
    assert s["a"]["vel_div"] == s["b"]["vel_div"] < -0.02
    assert s["a"]["notional"] > s["b"]["notional"] > 0.0
    assert s["a"]["lane_base"] == s["b"]["lane_base"] > 0.0
    assert s["settings"]["parameters.fraction"] == [0.2, 0.1]
    assert set(s["settings"]) == {"set", "set_hash", "parameters.fraction"}
    text = invoke("diff", baseline.folder, "out")
    assert text.code == 1
    lines = text.out.splitlines()
    assert f"first difference at bar {entry} of 349 and 349" in lines
    assert "setting parameters.fraction: A 0.2, B 0.1" in lines
    assert any(line.startswith("≠ notional ") for line in lines)
    assert any(line.startswith("  lane_base ") for line in lines)
    assert any(line.startswith("  vel_div ") for line in lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("turned", [False, True])
def test_diff_where_one_run_ends_before_the_other(run: Run, baseline: Baseline, turned: bool) -> None:
    assert run(None, "out", "--bars", "900").code == 0
    folders = (baseline.folder, "out") if turned else ("out", baseline.folder)
    told = invoke("diff", *folders, "--json")
    assert told.code == 1
    s = told.json
    assert (s["equal"], s["bar"], s["bars"]) == (False, 149, [349, 149] if turned else [149, 349])
    assert s["b" if turned else "a"] is None
    assert s["a" if turned else "b"]["bar_idx"] == 149
    longer, has = ("A", "A has 349, B 149") if turned else ("B", "A has 149, B 349")
    text = invoke("diff", *folders)
    assert text.code == 1
    assert f"equal over the first 149 bars, then only {longer} goes on: {has}" in text.out
    assert "≠" not in text.out, "where one side has decided nothing there is nothing to compare"
    assert "  vel_div " in text.out


def test_diff_of_a_run_and_its_backtest(run: Run, baseline: Baseline) -> None:
    assert invoke("data", "build", "--feed", "recorded", baseline.panel, "--out", "cache", "--json").code == 0
    assert invoke("backtest", "--cache", "cache", "--out", "test", "--json", "--no-report").code == 0
    assert invoke("diff", baseline.folder, "test").code == 0


def test_diff_without_any_decision(run: Run) -> None:
    assert run(None, "a", "--bars", "10").code == 0
    assert run(None, "b", "--bars", "10").code == 0
    told = invoke("diff", "a", "b")
    assert (told.code, told.out) == (0, "equal: 0 decisions, byte for byte\n")


def test_numbers_that_json_lacks_are_text() -> None:
    told = diff._readable(Decision(bar_idx=1, timestamp_ns=1, ars=math.nan, tp=math.inf))
    assert (told["ars"], told["tp"], told["sl"]) == ("nan", "inf", 0.0)
    json.dumps(told, allow_nan=False)


# -- config ----------------------------------------------------------------------------------------------


def test_config_shows_every_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("my.yml").write_text("seed: 3\ndays: 2\nassets: 20\nparams:\n  max_leverage: 4\n  fraction: 1e-1\n")
    monkeypatch.setenv("DOLPHIN_ASSETS", "30")
    monkeypatch.setenv("DOLPHIN_VOL_THRESHOLD", "1e-3")
    words = ("config", "--config", "my.yml", "--days", "0.5", "--set", "champion", "--param", "fraction=0.15")
    told = invoke(*words, "--json")
    assert told.code == 0
    s = told.json
    assert s["feed"] == {"value": "synthetic", "origin": "default"}
    assert s["seed"] == {"value": 3, "origin": "my.yml"}
    assert s["assets"] == {"value": 30, "origin": "environment DOLPHIN_ASSETS"}
    assert s["vol_threshold"] == {"value": 0.001, "origin": "environment DOLPHIN_VOL_THRESHOLD"}
    assert s["days"] == {"value": 0.5, "origin": "command line"}
    assert s["params"]["max_leverage"] == {"value": 4.0, "origin": "my.yml"}
    assert s["params"]["fraction"] == {"value": 0.15, "origin": "command line"}
    assert s["params"]["stop_pct"] == {"value": 1.0, "origin": "set champion"}
    assert s["set_name"] == "champion+fraction,max_leverage"
    text = invoke(*words)
    assert text.code == 0
    lines = [line.split() for line in text.out.splitlines()]
    assert ["seed", "3", "my.yml"] in lines
    assert ["out", "-", "default"] in lines
    assert ["fraction", "0.15", "command", "line"] in lines
    assert max(map(len, text.out.splitlines())) <= 80


def test_config_of_a_plain_set_has_the_recorded_hash() -> None:
    told = invoke("config", "--json").json
    assert (told["set_name"], told["set_hash"]) == ("gold", GOLD.hash())
    assert {name: item["value"] for name, item in told["params"].items()} == GOLD.as_dict()


def test_dolphin_config_names_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("env.yml").write_text("seed: 9\n")
    monkeypatch.setenv("DOLPHIN_CONFIG", "env.yml")
    assert invoke("config", "--json").json["seed"] == {"value": 9, "origin": "env.yml"}


@pytest.mark.parametrize("command", ["config", "run"])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("fed: recorded\n", "my.yml: unknown key 'fed'. Did you mean 'feed'?"),
        ("param:\n  fraction: 0.1\n", "my.yml: unknown key 'param'. Did you mean 'params'?"),
        ("params:\n  fracton: 0.1\n", "unknown parameter 'fracton'. Did you mean 'fraction'?"),
        ("params: 3\n", "my.yml: params is 3, expected names with values"),
        ("assets: ten\n", "assets from my.yml is 'ten', expected a whole number"),
        ("assets: 0\n", "assets from my.yml is 0, expected a number from 1 up"),
        ("assets: true\n", "assets from my.yml is True, expected a whole number"),
        (
            "set: gould\n",
            "set from my.yml is 'gould', expected one of champion, gold, green. Did you mean 'gold'?",
        ),
        ("- 1\n", "my.yml: holds list, expected keys with values"),
        ("a: [\n", "my.yml: is no YAML ("),
    ],
)
def test_a_wrong_configuration_file(command: str, content: str, text: str) -> None:
    Path("my.yml").write_text(content)
    told = invoke(command, "--config", "my.yml", "--json")
    assert told.code == 2
    assert told.error.startswith(f"dolphin {command}: ")
    assert text in told.error


def test_a_wrong_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOLPHIN_ASETS", "10")
    told = invoke("config")
    assert told.code == 2
    assert "environment: unknown variable DOLPHIN_ASETS, no key 'asets'. Did you mean 'assets'?" in told.error


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        ("max_leverag=3", "unknown parameter 'max_leverag'. Did you mean 'max_leverage'?"),
        ("max_leverage", "--param 'max_leverage': expected NAME=VALUE, like max_leverage=7"),
        ("max_leverage=many", "parameter max_leverage is 'many', expected true, false or a number"),
        ("max_leverage=nan", "parameter max_leverage is nan, expected a finite float"),
        ("fraction=7", "parameter fraction is 7.0, expected 0.02 to 1"),
        ("max_hold_bars=1.5", "parameter max_hold_bars is 1.5, expected a finite int"),
    ],
)
def test_a_wrong_parameter(pair: str, text: str) -> None:
    told = invoke("config", "--param", pair)
    assert told.code == 2
    assert text in told.error


# -- doctor ----------------------------------------------------------------------------------------------


def test_doctor_finds_this_machine_fit(tmp_path: Path) -> None:
    told = invoke("doctor", "--json")
    s = told.json
    assert told.code == 0
    assert s["ok"] is True
    names = [check["name"] for check in s["checks"]]
    assert {"python", "numpy", "numba", "python-flint", "kernels", "vector math", "folder", "clock", "disk",
            "grid port", "scheduler port", "java"} <= set(names)  # fmt: skip
    assert {check["status"] for check in s["checks"]} <= {"ok", "warn"}
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"
    text = invoke("doctor")
    assert len(text.out.splitlines()) == len(names)
    assert all(line.split()[0] in ("ok", "warn") for line in text.out.splitlines())


def test_doctor_fails_where_runs_cannot_be_written() -> None:
    Path("file").write_text("")
    told = invoke("doctor", "--out", "file/runs")
    assert told.code == 1
    assert "fail  folder             file/runs: cannot be written (Not a directory)" in told.out


def test_doctor_leaves_a_folder_that_was_there() -> None:
    Path("runs").mkdir()
    Path("runs/mine").write_text("x")
    assert invoke("doctor").code == 0
    assert tree(Path("runs")) == {"mine": b"x"}


def test_doctor_names_a_missing_and_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    real = metadata.version

    def version(name: str) -> str:
        if name == "rich":
            raise metadata.PackageNotFoundError(name)
        return "0.0.1" if name == "plotly" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    told = invoke("doctor")
    assert told.code == 1
    assert "warn  plotly             0.0.1 is installed, tested with " in told.out
    assert "fail  rich               not installed; run `make run` or install rich==" in told.out


def test_doctor_warns_of_a_full_disk_and_a_wrong_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DISK_FREE_MIN_GB", 1e12)
    monkeypatch.setattr(doctor, "CLOCK_SKEW_MAX_S", -1.0)
    told = invoke("doctor")
    assert told.code == 1
    assert "warn  disk " in told.out
    assert "fail  clock " in told.out


def test_doctor_sees_who_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setattr(doctor, "PORTS", (("grid port", server.getsockname()[1]),))
        told = invoke("doctor")
    assert f"{server_port(told)}: something listens on 127.0.0.1" in told.out


def server_port(told: Told) -> str:
    return next(line for line in told.out.splitlines() if "grid port" in line).split()[3].rstrip(":")


# -- conform ---------------------------------------------------------------------------------------------


def test_conform_passes_on_our_vectors() -> None:
    told = invoke("conform", VECTORS / "signal.json", VECTORS / "shard.json", "--json")
    assert told.code == 0
    s = told.json
    assert (s["ok"], s["errors"], len(s["files"])) == (True, [], 4)
    assert {f["host"] for f in s["files"]} == {"reference", "compiled"}
    assert all(f["failed"] == 0 and f["passed"] > 100 for f in s["files"])


def test_conform_of_a_folder_in_words() -> None:
    told = invoke("conform", VECTORS, "--host", "reference")
    assert told.code == 0
    lines = told.out.splitlines()
    assert len(lines) == 25
    assert all(line.startswith("pass  ") for line in lines[:-1])
    assert lines[-1].startswith("24 of 24 checks pass, ")


def planted(folder: Path) -> Path:
    document = json.loads((VECTORS / "acb_beta.json").read_text())
    document["cases"][3]["out"]["beta"] = (0.123).hex()
    path = folder / "acb_beta.json"
    path.write_text(json.dumps(document))
    return path


def test_conform_finds_one_wrong_case(tmp_path: Path) -> None:
    path = planted(tmp_path)
    n = len(json.loads(path.read_text())["cases"])
    told = invoke("conform", path, "--json")
    assert told.code == 1
    s = told.json
    assert s["ok"] is False
    assert [(f["passed"], f["failed"]) for f in s["files"]] == [(n - 1, 1)] * 2
    assert s["files"][0]["mismatches"][0].startswith(f"case 3: expected {{'beta': '{(0.123).hex()}'}}")
    text = invoke("conform", path)
    assert text.code == 1
    assert f"FAIL  acb_beta                 reference  {n - 1} of {n} cases" in text.out
    assert "      case 3: expected" in text.out


def test_a_foreign_file_fails_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text('{"kernel": "sgnal", "compare": "bits", "cases": []}')
    shutil.copy(VECTORS / "signal.json", tmp_path / "c.json")
    told = invoke("conform", tmp_path, "--json")
    assert told.code == 1
    s = told.json
    assert s["ok"] is False
    assert [f["failed"] for f in s["files"]] == [0, 0]
    assert "a.json: is no JSON" in s["errors"][0]
    assert "unknown kernel 'sgnal'. Did you mean 'signal'?" in s["errors"][1]
    text = invoke("conform", tmp_path).out.splitlines()
    assert [line[:4] for line in text[:-1]] == ["FAIL", "FAIL", "pass", "pass"]
    assert text[-1].startswith("2 of 4 checks pass, ")


def test_conform_without_files(tmp_path: Path) -> None:
    for words, text in (
        (("none.json",), "none.json: no such file or folder"),
        ((tmp_path,), "no vector files there"),
    ):
        told = invoke("conform", *words)
        assert told.code == 2
        assert text in told.error


# -- scan ------------------------------------------------------------------------------------------------


def scan(panel: Path, *words: Any) -> Told:
    return invoke("scan", "--feed", "recorded", panel, "--out", "scans", "--json", *words)


def test_scan_writes_the_runs_scans(baseline: Baseline) -> None:
    told = scan(baseline.panel)
    assert told.code == 0
    s = told.json
    assert (s["bars"], s["scans"], s["scans_before"], s["certified_bits_min"]) == (1_100, 349, 0, 512)
    assert s["window_outcomes"] == {"ok": 4 * 349}
    assert tree(Path("scans/arrow_scans")) == tree(baseline.folder / "arrow_scans")
    again = scan(baseline.panel).json
    assert (again["scans"], again["scans_before"]) == (0, 349)


def test_scan_stops_and_goes_on(baseline: Baseline, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scan(baseline.panel, "--bars", "830")
    assert (first.code, first.json["scans"]) == (0, 79)
    real = RecordedFeed.bars

    def interrupted(self: RecordedFeed, skip: int = 0) -> Iterator[object]:
        for k, bar in enumerate(real(self, skip)):
            if k == 950:
                signal.raise_signal(signal.SIGTERM)
            yield bar

    with monkeypatch.context() as patch:
        patch.setattr(RecordedFeed, "bars", interrupted)
        second = scan(baseline.panel)
    assert (second.code, second.json["interrupted"]) == (130, True)
    assert (second.json["scans"], second.json["scans_before"]) == (121, 79)
    third = scan(baseline.panel).json
    assert (third["scans"], third["scans_before"]) == (149, 200)
    assert tree(Path("scans/arrow_scans")) == tree(baseline.folder / "arrow_scans")


def test_scan_in_words(baseline: Baseline) -> None:
    columns = market()
    columns["XRPUSDT"][900] = 0.0
    panel = write_panel(Path("panel.parquet"), columns)
    told = invoke("scan", "--feed", "recorded", panel, "--out", "scans")
    assert told.code == 0
    lines = told.out.splitlines()
    assert lines[0].startswith("349 scans, 1,100 bars, in ")
    assert lines[0].endswith(" → scans")
    assert lines[1] == "  certified  to 512 bits"
    assert lines[3] == "  windows    1,396 ok"
    assert lines[4] == "  counted    XRPUSDT: 1 value of the source refused (zero)"
    short = invoke("scan", "--feed", "recorded", panel, "--out", "short", "--bars", "20")
    assert short.out.splitlines()[1] == "  warm-up    the first scan needs 752 prices"


def test_float64_scans_claim_no_certificate(baseline: Baseline) -> None:
    told = scan(baseline.panel, "--spectrum", "float64", "--bars", "760")
    assert told.json["certified_bits_min"] is None
    text = invoke(
        "scan", "--feed", "recorded", baseline.panel, "--out", "b", "--spectrum", "float64", "--bars", "760"
    )
    assert "no: the float64 path has no certificate" in text.out


# -- a real process --------------------------------------------------------------------------------------


def test_doctor_in_a_process_of_its_own_writes_one_object() -> None:
    told = finished(spawn("doctor", "--json"))
    assert told.code == 0
    assert told.json["ok"] is True
    assert told.err == ""
