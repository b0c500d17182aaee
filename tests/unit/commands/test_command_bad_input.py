"""Whatever is wrong with the input is one clear line or a counted rejection, and the rest goes on."""

from __future__ import annotations

import math
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import (
    N_BARS,
    SECOND_NS,
    START_NS,
    Baseline,
    Columns,
    Told,
    finished,
    invoke,
    market,
    spawn,
    write_panel,
)

Run = Callable[..., Told]
BAD_BARS = (100, 880, 900)


def panel_with(change: Callable[[Columns], Any]) -> Path:
    columns = market()
    change(columns)
    return write_panel(Path("panel.parquet"), columns)


# -- prices: counted, and the rest goes on --------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "rule"),
    [
        (math.nan, "missing"),
        (0.0, "zero"),
        (-3.5, "negative"),
        (math.inf, "infinite"),
        (-math.inf, "infinite"),
    ],
)
def test_a_price_that_is_none_is_counted(run: Run, price: float, rule: str) -> None:
    def spoil(columns: Columns) -> None:
        columns["XRPUSDT"][list(BAD_BARS)] = price

    told = run(panel_with(spoil))
    assert told.code == 0
    s = told.json
    assert s["prices_rejected"] == {f"XRPUSDT {rule}": 3}
    assert (s["bars"], s["scans"], s["ledger_balanced"]) == (N_BARS, 349, True)
    assert s["trades"] >= 2


def test_text_for_a_price_is_counted(run: Run, baseline: Baseline) -> None:
    def spoil(columns: Columns) -> None:
        words = [repr(float(value)) for value in columns["XRPUSDT"]]
        words[900] = "n/a"
        columns["XRPUSDT"] = words

    told = run(panel_with(spoil))
    assert (told.code, told.json["prices_rejected"], told.json["scans"]) == (0, {"XRPUSDT text": 1}, 349)


def test_people_are_told_what_was_refused(baseline: Baseline) -> None:
    def spoil(columns: Columns) -> None:
        columns["XRPUSDT"][900] = 0.0
        columns["ADAUSDT"][850:] *= 10.0
        columns["ts"][950] = columns["ts"][949]

    told = invoke("run", "--feed", "recorded", panel_with(spoil), "--out", "out", "--no-report")
    assert told.code == 0
    for line in (
        "  counted    1 bar refused: its time did not grow",
        "             1 price taken as a new base after three",
        "             2 prices held back: more than a factor e away",
        "             XRPUSDT: 1 value of the source refused (zero)",
    ):
        assert line in told.out.splitlines()
    assert "note: XRPUSDT: 1 value rejected (zero), the first in the bar of 2021-04-03T00:00:01Z" in told.err


def test_a_symbol_that_never_has_a_price(run: Run) -> None:
    told = run(panel_with(lambda columns: columns["XRPUSDT"].fill(math.nan)))
    assert (told.code, told.json["prices_rejected"], told.json["scans"]) == (
        0,
        {"XRPUSDT missing": N_BARS},
        349,
    )


def test_a_symbol_that_never_moves(run: Run) -> None:
    told = run(panel_with(lambda columns: columns["XRPUSDT"].fill(5.0)))
    assert told.code == 0
    assert told.json["counts"] == {"zero_variance": 4 * 349}


# -- times ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("moved", "to"), [(900, 899), (900, 890)], ids=["duplicate", "backward"])
def test_a_time_that_does_not_grow_is_refused_and_counted(run: Run, moved: int, to: int) -> None:
    def spoil(columns: Columns) -> None:
        columns["ts"][moved] = columns["ts"][to]

    told = run(panel_with(spoil))
    assert told.code == 0
    s = told.json
    assert (s["counts"], s["bars"], s["scans"]) == ({"bars_refused": 1}, N_BARS, 348)


def test_a_whole_bar_that_comes_twice_changes_no_decision(run: Run, baseline: Baseline) -> None:
    columns = market()
    twice = {name: np.insert(values, 900, values[900]) for name, values in columns.items()}
    told = run(write_panel(Path("twice.parquet"), twice))
    assert told.json["counts"] == {"bars_refused": 1}
    assert told.json["decisions_sha256"] == baseline.digest


def test_refused_bars_are_counted_once_over_a_resume(run: Run) -> None:
    def spoil(columns: Columns) -> None:
        columns["ts"][800] = columns["ts"][799]
        columns["ts"][900] = columns["ts"][899]

    panel = panel_with(spoil)
    assert run(panel, "out", "--bars", "850").json["counts"] == {"bars_refused": 1}
    assert run(panel, "out", "--resume").json["counts"] == {"bars_refused": 2}


# -- files ----------------------------------------------------------------------------------------------


def refused(told: Told, *texts: str, code: int = 1) -> None:
    assert told.code == code
    for text in texts:
        assert text in told.error
    assert not Path("out").exists()


def test_a_one_row_panel(run: Run) -> None:
    refused(
        run(panel_with(lambda c: c.update({name: values[:1] for name, values in c.items()}))),
        "panel.parquet: holds 1 row; a panel needs at least two",
    )


def test_a_short_panel_runs_and_says_what_is_missing(baseline: Baseline) -> None:
    told = invoke("run", "--feed", "recorded", baseline.panel, "--bars", "300", "--out", "out", "--no-report")
    assert told.code == 0
    assert "  scans      0 of 300 bars, not certified" in told.out
    assert "  warm-up    the first scan needs 752 prices" in told.out


def test_a_panel_without_times(run: Run) -> None:
    pq.write_table(pa.table({"time": [1, 2], "BTCUSDT": [1.0, 2.0]}), "panel.parquet")
    refused(
        run(Path("panel.parquet")), "panel.parquet: no column 'ts' (columns: time, BTCUSDT); expected a wide"
    )


def test_a_universe_with_a_symbol_that_the_panel_lacks(run: Run) -> None:
    Path("symbols.csv").write_text("symbol\nBTCUSDT\nXRPUSTD\n")
    told = run(None, "out", "--universe", "symbols.csv")
    refused(told, "no column XRPUSTD, which symbols.csv asks for. Did you mean 'XRPUSDT'?")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("u.csv", b"ticker\nBTCUSDT\n", "columns are ticker; expected a CSV with a 'symbol' column"),
        ("u.yml", b"a: [", "is no YAML file"),
        ("u.yml", b"\xff\xfe\x00", "is no text file"),
        ("u.csv", b"symbol\nBTCUSDT\nBTCUSDT\n", "BTCUSDT"),
    ],
)
def test_a_universe_file_that_is_none(run: Run, name: str, content: bytes, text: str) -> None:
    Path(name).write_bytes(content)
    told = run(None, "out", "--universe", name)
    assert told.code in (1, 2)
    assert name in told.error
    assert text in told.error


def test_a_missing_universe_file(run: Run) -> None:
    refused(
        run(None, "out", "--universe", "none.csv"), "none.csv: cannot be read (No such file or directory)"
    )


def test_a_missing_recording(run: Run) -> None:
    refused(run(Path("none.parquet")), "none.parquet: no such file; check the path")


def test_a_folder_that_is_no_cache(run: Run) -> None:
    Path("folder").mkdir()
    refused(run(Path("folder")), "folder: is a folder, and no scan cache (no manifest.json)")


def test_a_cut_off_parquet_file(run: Run, baseline: Baseline) -> None:
    whole = baseline.panel.read_bytes()
    Path("panel.parquet").write_bytes(whole[: len(whole) // 2])
    refused(run(Path("panel.parquet")), "panel.parquet: is no Parquet file, or a cut-off one")


def test_text_for_a_recording(run: Run) -> None:
    Path("panel.parquet").write_text("ts,BTCUSDT\n1,2\n")
    refused(run(Path("panel.parquet")), "panel.parquet: is no Parquet file, or a cut-off one")


@pytest.mark.parametrize("column", ["ts", "symbol", "close"])
def test_long_rows_without_a_column(run: Run, column: str) -> None:
    stamps = pa.array([START_NS, START_NS + SECOND_NS], pa.timestamp("ns", tz="UTC"))
    table = {"ts": stamps, "symbol": ["BTCUSDT"] * 2, "close": [1.0, 2.0], "open_time": [1, 2]}
    del table[column]
    pq.write_table(pa.table(table), "panel.parquet")
    told = run(Path("panel.parquet"))
    assert told.code == 1
    assert "panel.parquet: " in told.error


# -- the scan store of a run ----------------------------------------------------------------------------


def stored(out: str) -> list[Path]:
    return sorted(Path(out).glob("arrow_scans/*/*.arrow"))


def lose_journal(out: str) -> None:
    """As if a run had died before its first snapshot: the scans are there, the decisions are not."""
    for path in Path(out).glob("journal.db*"):
        path.unlink()


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        table = pa.ipc.open_file(pa.BufferReader(content)).read_all()
        index = table.schema.get_field_index("schema_version")
        other = table.set_column(index, table.schema.field(index), pa.array(["9.9.9"]))
        with pa.ipc.new_file(str(path), other.schema) as writer:
            writer.write_table(other)


@pytest.mark.parametrize("how", ["cut off", "empty", "another schema version"])
def test_a_damaged_scan_is_put_aside_counted_and_told_by_the_audit(run: Run, how: str) -> None:
    assert run(None, "out", "--bars", "1000").code == 0
    lose_journal("out")
    victim = stored("out")[40]
    spoil(victim, how)
    told = run(None, "out", "--resume")
    assert told.code == 0
    s = told.json
    assert s["counts"]["scans_quarantined"] == 1
    assert s["scans"] == 348
    assert s["ledger_balanced"]
    assert not victim.exists()
    assert Path("out/quarantine", victim.name).exists()
    reason = Path("out/quarantine", f"{victim.name}.reason.txt").read_text()
    assert str(victim) in reason
    if how == "another schema version":
        assert "9.9.9" in reason


def test_a_foreign_file_among_the_scans_is_put_aside(run: Run) -> None:
    assert run(None, "out", "--bars", "900").code == 0
    lose_journal("out")
    (stored("out")[0].parent / "notes.txt").write_text("mine")
    told = run(None, "out", "--resume")
    assert (told.code, told.json["counts"], told.json["scans"]) == (0, {"scans_quarantined": 1}, 349)
    assert Path("out/quarantine/notes.txt").read_text() == "mine"


def test_a_scan_behind_a_trade_that_is_gone_bad_is_a_finding(baseline: Baseline) -> None:
    shutil.copytree(baseline.folder, "out")
    with sqlite3.connect("out/journal.db") as db:
        number = db.execute("SELECT scan_number FROM decisions WHERE action = 1 LIMIT 1").fetchone()[0]
    victim = next(path for path in stored("out") if path.name.startswith(f"scan_{number:06d}_"))
    spoil(victim, "cut off")
    told = invoke("audit", "out")
    assert told.code == 1
    assert f"its scan {number} cannot be read" in told.out
    assert "is no whole Arrow file" in told.out


# -- a foreign journal ----------------------------------------------------------------------------------


def foreign_journals(folder: Path) -> dict[str, str]:
    """Content of journal.db by name, and what is said of it."""
    for name in ("text", "sqlite", "version"):
        (folder / name).mkdir()
    (folder / "text/journal.db").write_text(
        "no database at all, only some text that goes on for a while\n" * 9
    )
    with sqlite3.connect(folder / "sqlite/journal.db") as db:
        db.execute("CREATE TABLE orders (id INTEGER)")
    with sqlite3.connect(folder / "version/journal.db") as db:
        db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        db.execute("INSERT INTO meta VALUES ('schema_version', '99')")
    return {"text": "is no journal", "sqlite": "is no journal", "version": "99"}


@pytest.mark.parametrize("kind", ["text", "sqlite", "version"])
@pytest.mark.parametrize("words", [("audit", "{}"), ("diff", "{}", "{}"), ("run", "--out", "{}", "--resume")])
def test_a_foreign_journal_is_refused_and_left_alone(
    tmp_path: Path, words: tuple[str, ...], kind: str
) -> None:
    said = foreign_journals(tmp_path)[kind]
    journal = tmp_path / kind / "journal.db"
    before = journal.read_bytes()
    told = invoke(*(word.format(tmp_path / kind) for word in words), "--json")
    assert told.code == 1
    assert str(journal) in told.error
    assert said in told.error
    assert journal.read_bytes() == before


def test_no_journal_at_all() -> None:
    Path("empty").mkdir()
    for words in (("audit", "empty"), ("diff", "empty", "empty")):
        told = invoke(*words)
        assert told.code == 1
        assert "empty/journal.db: no journal here; expected the folder of a run" in told.error


# -- disk and permissions -------------------------------------------------------------------------------

LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"


@pytest.mark.parametrize(
    "limit", [2_000, 60_000, 200_000], ids=["at the start", "in the warm-up", "while trading"]
)
def test_a_full_disk_is_one_line_and_the_run_goes_on_after(run: Run, baseline: Baseline, limit: int) -> None:
    """Files may not grow beyond the limit, as on a disk without space."""
    words = ("run", "--feed", "recorded", baseline.panel, "--out", "out", "--no-report", "--json")
    told = finished(spawn(*words, before=LIMIT.format(limit)))
    assert told.code == 1
    line = told.error
    assert line.startswith("dolphin run: out")
    assert any(way in line for way in ("free some space", "its free space", "check disk"))
    again = run(None, "out", "--resume")
    assert again.code == 0, again.err
    assert again.json["decisions_sha256"] == baseline.digest
    assert invoke("audit", "out").code == 0


def test_a_full_disk_under_a_build_leaves_no_half_day(baseline: Baseline) -> None:
    words = ("data", "build", "--feed", "recorded", baseline.panel, "--out", "cache", "--json")
    told = finished(spawn(*words, before=LIMIT.format(3_000)))
    assert told.code == 1
    assert "cache/scan_cache" in told.error
    assert "check disk and permissions" in told.error
    assert list(Path("cache").rglob("*.parquet")) == []
    assert list(Path("cache").rglob("*.tmp")) == []
    assert invoke(*words).code == 0


@pytest.mark.parametrize("words", [("run",), ("scan",)])
def test_a_folder_that_cannot_be_written(words: tuple[str, ...], baseline: Baseline) -> None:
    """A file in the way is refused for every user, root included."""
    Path("file").write_text("in the way")
    told = invoke(*words, "--feed", "recorded", baseline.panel, "--out", "file/out", "--json")
    assert told.code == 1
    assert told.error.startswith(f"dolphin {words[0]}: file/out: cannot be written (Not a directory)")
    assert "choose another --out" in told.error


def test_a_cache_folder_that_cannot_be_written(baseline: Baseline) -> None:
    Path("file").write_text("in the way")
    told = invoke("data", "build", "--feed", "recorded", baseline.panel, "--out", "file/cache", "--json")
    assert told.code == 1
    assert "file/cache/scan_cache: cannot be made (Not a directory)" in told.error


def test_a_run_in_use_is_not_touched(run: Run) -> None:
    import fcntl

    assert run(None, "out", "--bars", "760").code == 0
    with open("out/journal.db.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = run(None, "out", "--resume")
    assert told.code == 1
    assert (
        "out/journal.db: another process writes this run; wait for it or choose another --out" in told.error
    )


# -- options of a feed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [("--seed", "3"), ("--days", "2"), ("--edge-bps", "0")], ids=lambda words: words[0]
)
@pytest.mark.parametrize("command", [("run",), ("scan",), ("data", "build"), ("data", "check")], ids=" ".join)
def test_an_option_of_the_synthetic_market_for_a_recording(
    command: tuple[str, ...], words: tuple[str, str], baseline: Baseline
) -> None:
    told = invoke(*command, "--feed", "recorded", baseline.panel, *words, "--json")
    refused(told, f"{words[0]} is for the synthetic market, a recording has none; leave it out", code=2)


def test_a_file_or_the_environment_may_say_more_than_a_feed_uses(
    baseline: Baseline, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("my.yml").write_text("seed: 3\nuniverse: u.csv\n")
    monkeypatch.setenv("DOLPHIN_DAYS", "0.001")
    assert invoke("scan", "--config", "my.yml", "--assets", "6", "--bars", "2", "--json").code == 0
    monkeypatch.setenv("DOLPHIN_SEED", "3")
    words = ("--feed", "recorded", baseline.panel, "--bars", "2", "--json", "--out", "b")
    assert invoke("scan", *words).code == 0


def test_a_path_for_the_synthetic_market() -> None:
    refused(
        invoke("run", "prices.parquet", "--json", "--out", "out"),
        "prices.parquet: the synthetic feed takes no PATH; did you mean --feed recorded?",
        code=2,
    )


def test_a_universe_for_the_synthetic_market() -> None:
    refused(
        invoke("run", "--universe", "u.csv", "--json", "--out", "out"),
        "did you mean --feed recorded?",
        code=2,
    )


def test_more_assets_than_the_synthetic_market_has() -> None:
    refused(invoke("run", "--assets", "5000", "--json", "--out", "out"), "5000", code=2)
