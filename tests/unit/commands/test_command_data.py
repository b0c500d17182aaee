"""`dolphin data` and `dolphin backtest`: caches from prices and from stored scans, and what is refused."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import SUMMARY_KEYS, Baseline, Columns, Told, invoke, market, tree, write_panel

from dolphin.market.recorded import RecordedFeed
from dolphin.market.scan_cache import read_manifest

Run = Callable[..., Told]
DAYS = ("2021-04-02", "2021-04-03")


def build(panel: Path, *words: Any, out: str = "cache") -> Told:
    return invoke("data", "build", "--feed", "recorded", panel, "--out", out, "--json", *words)


def backtest(*words: Any, cache: str = "cache", out: str = "test") -> Told:
    return invoke("backtest", "--cache", cache, "--out", out, "--json", "--no-report", *words)


@pytest.fixture(scope="session")
def cache(baseline: Baseline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The baseline's cache; nobody changes it."""
    folder = tmp_path_factory.mktemp("cache")
    assert build(baseline.panel, out=str(folder)).code == 0
    return folder


# -- the same decisions by every way ---------------------------------------------------------------------


def missing(columns: Columns) -> None:
    columns["ETHUSDT"][[700, 701, 702, 850, 851, 900]] = math.nan
    columns["SOLUSDT"][760:790] = math.nan
    columns["BTCUSDT"][820:824] = math.nan


def rebased(columns: Columns) -> None:
    columns["ADAUSDT"][850:] *= 10.0
    columns["SOLUSDT"][905] *= 5.0


def flat(columns: Columns) -> None:
    columns["DOGEUSDT"].fill(0.31)
    columns["XRPUSDT"][:820] = columns["XRPUSDT"][0]


def late(columns: Columns) -> None:
    columns["BTCUSDT"][:780] = math.nan


def times(columns: Columns) -> None:
    columns["ts"][900] = columns["ts"][899]
    columns["ts"][1000:] += 3_600_000_000_000


@pytest.mark.parametrize(
    "spoil", [lambda c: None, missing, rebased, flat, late, times], ids=lambda f: f.__name__
)
def test_run_and_backtest_of_the_same_panel_decide_the_same(
    run: Run, spoil: Callable[[Columns], None]
) -> None:
    columns = market()
    spoil(columns)
    panel = write_panel(Path("panel.parquet"), columns)
    ran = run(panel, "run")
    assert build(panel).code == 0
    tested = backtest()
    assert tested.code == 0, tested.err
    assert tested.json["decisions_sha256"] == ran.json["decisions_sha256"]
    assert ran.json["trades"] >= 1
    told = {"feed", "bars", "source", "wall_s", "folder", "counts", "counts_of_assets", "prices_rejected"}
    told |= {"days", "partial", "notes"}
    same = ran.json.keys() - told
    assert {key: ran.json[key] for key in same} == {key: tested.json[key] for key in same}
    assert tested.json.keys() >= SUMMARY_KEYS


@pytest.mark.parametrize("set_name", ["champion", "green"])
def test_the_other_sets_too(run: Run, baseline: Baseline, cache: Path, set_name: str) -> None:
    ran = run(None, "run", "--set", set_name)
    tested = backtest("--set", set_name, cache=str(cache))
    assert tested.json["decisions_sha256"] == ran.json["decisions_sha256"] != baseline.digest


def test_the_synthetic_market_too() -> None:
    words = ("--days", "0.012", "--assets", "12", "--json")
    ran = invoke("run", *words, "--out", "run", "--no-report")
    assert invoke("data", "build", *words, "--out", "cache").code == 0
    tested = backtest()
    assert tested.json["decisions_sha256"] == ran.json["decisions_sha256"]
    assert tested.json["scans"] == ran.json["scans"] > 100


def test_twice_gives_the_same(cache: Path, baseline: Baseline) -> None:
    first, second = backtest(cache=str(cache), out="a"), backtest(cache=str(cache), out="b")
    assert first.json["decisions_sha256"] == second.json["decisions_sha256"] == baseline.digest
    assert tree(Path("a"))["trades.csv"] == tree(Path("b"))["trades.csv"]


def test_a_backtest_writes_under_out_only(cache: Path, tmp_path: Path) -> None:
    def days() -> dict[str, bytes]:
        # The cache keeps its columns beside its days; nothing of the days themselves may change.
        return {name: content for name, content in tree(cache).items() if ".columns/" not in name}

    before = days()
    assert invoke("backtest", "--cache", cache, "--out", "test", "--json").code == 0
    assert days() == before
    assert {name.split("/")[0] for name in tree(tmp_path)} == {"test"}
    assert {"test/report.html", "test/summary.json", "test/journal.db"} <= set(tree(tmp_path))
    assert invoke("audit", "test").code == 0


def test_days_can_be_chosen(cache: Path) -> None:
    first = backtest("--to", DAYS[0], cache=str(cache), out="first")
    second = backtest("--from", DAYS[1], "--to", DAYS[1], cache=str(cache), out="second")
    assert first.json["days"] == second.json["days"] == 1
    assert first.json["scans"] + second.json["scans"] == 349


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--from", "2021-13-01"), 2, "'2021-13-01' is no day; expected YYYY-MM-DD, like 2021-04-10"),
        (("--to", "tomorrow"), 2, "'tomorrow' is no day"),
        (("--from", "2022-01-01"), 1, "no day between 2022-01-01 and"),
        (("--from", DAYS[1], "--to", DAYS[0]), 1, "no day between"),
        (("--set", "gould"), 2, "Did you mean 'gold'?"),
    ],
)
def test_days_and_sets_that_are_none(cache: Path, words: tuple[str, ...], code: int, text: str) -> None:
    told = backtest(*words, cache=str(cache))
    assert told.code == code
    assert text in told.error
    assert not Path("test").exists()


def test_a_folder_with_a_run_is_refused(cache: Path) -> None:
    assert backtest(cache=str(cache)).code == 0
    told = backtest(cache=str(cache))
    assert told.code == 1
    assert "test: a run is here already; choose another --out" in told.error


def test_no_cache_there() -> None:
    told = backtest(cache="nowhere")
    assert told.code == 1
    assert "no manifest.json, so no scan cache; build one first" in told.error


def test_a_stopped_backtest_says_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dolphin.market.scan_cache import CacheReader

    real = CacheReader.scans

    def interrupted(self: CacheReader, day: str) -> Iterator[Any]:
        for k, row in enumerate(real(self, day)):
            if k == 5:
                signal.raise_signal(signal.SIGINT)
            yield row

    monkeypatch.setattr(CacheReader, "scans", interrupted)
    told = backtest("--engine", "step", cache=str(cache))
    assert told.code == 130
    assert (told.json["interrupted"], told.json["scans"]) == (True, 6)


def test_a_stopped_backtest_of_a_period_keeps_whole_days(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dolphin.backtest import market
    from dolphin.backtest.period import PeriodRunner

    real = PeriodRunner.run

    def interrupted(self: PeriodRunner, *args: Any, **words: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return real(self, *args, **words)

    monkeypatch.setattr(market, "PRICES_PER_PIECE", 1)
    monkeypatch.setattr(PeriodRunner, "run", interrupted)
    told = backtest(cache=str(cache))
    assert told.code == 130
    assert (told.json["interrupted"], told.json["scans"]) == (True, 148)
    assert invoke("audit", "test").code == 0


# -- building --------------------------------------------------------------------------------------------


def test_build_tells_what_it_made(baseline: Baseline) -> None:
    told = build(baseline.panel)
    s = told.json
    assert (s["bars"], s["scans"], s["scans_there"], s["interrupted"]) == (1_100, 349, 0, False)
    assert list(s["days"]) == list(DAYS)
    assert sum(day["rows"] for day in s["days"].values()) == 349
    assert s["certified_bits_min"] == 512
    assert {name.split("/")[0] for name in tree(Path())} == {"cache"}


def test_build_on_two_processes_makes_the_same_files(baseline: Baseline) -> None:
    assert build(baseline.panel, out="one").code == 0
    told = build(baseline.panel, "--jobs", "2", out="two")
    assert (told.code, told.json["jobs"], told.json["scans"]) == (0, 2, 349)
    assert tree(Path("one")) == tree(Path("two"))


def test_build_tells_what_it_will_take_first(baseline: Baseline) -> None:
    words = ("--feed", "recorded", baseline.panel, "--out", "cache", "--jobs", "1")
    told = invoke("data", "build", *words)
    (line,) = (line for line in told.err.splitlines() if line.startswith("plan: "))
    size, time = (
        re.escape("plan: 1,100 bars, 2 days, 349 scans; 1 of "),
        r"\(measured\): (about )?\d+ s( to \d+ s)?; disk",
    )
    assert re.match(rf"{size}\d+ cores? at up to [\d,]+ scans/s {time}", line), line
    again = invoke("data", "build", *words)
    assert "349 scans (349 there)" in again.err


@pytest.mark.parametrize("jobs", ["0", "-1", "many", "1.5"])
def test_build_with_no_processes_is_refused(baseline: Baseline, jobs: str) -> None:
    told = build(baseline.panel, f"--jobs={jobs}")
    assert told.code == 2
    assert f"{jobs!r} is no number of processes, expected 1 or more" in told.error
    assert not Path("cache").exists()


def test_build_again_goes_on_and_changes_nothing(baseline: Baseline) -> None:
    assert build(baseline.panel).code == 0
    before = tree(Path("cache"))
    told = build(baseline.panel)
    assert (told.code, told.json["scans_there"]) == (0, 349)
    assert tree(Path("cache")) == before


def test_build_of_another_source_is_refused(baseline: Baseline) -> None:
    assert build(baseline.panel).code == 0
    before = tree(Path("cache"))
    other = write_panel(Path("other.parquet"), market(seed=2))
    told = build(other)
    assert told.code == 1
    assert "built from source" in told.error
    assert "rebuild" in told.error
    assert tree(Path("cache")) == before


def test_rebuild_sets_the_old_files_aside(baseline: Baseline) -> None:
    assert build(baseline.panel).code == 0
    old = tree(Path("cache/scan_cache"))
    other = write_panel(Path("other.parquet"), market(seed=2))
    assert build(other, "--rebuild").code == 0
    stamp = datetime.now(UTC).strftime("%Y%m%d")
    new = tree(Path("cache/scan_cache"))
    for name, content in old.items():
        assert new[f"{name}.STALE_{stamp}"] == content
        assert new[name] != content
    assert backtest().code == 0


def interrupt_at(monkeypatch: pytest.MonkeyPatch, bar: int) -> None:
    real = RecordedFeed.bars

    def interrupted(self: RecordedFeed, skip: int = 0) -> Iterator[Any]:
        for k, item in enumerate(real(self, skip)):
            if k == bar:
                signal.raise_signal(signal.SIGINT)
            yield item

    monkeypatch.setattr(RecordedFeed, "bars", interrupted)


def test_a_stopped_build_is_refused_by_backtests_and_goes_on(
    baseline: Baseline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1_000)
        stopped = build(baseline.panel)
    assert stopped.code == 130
    assert stopped.json["days"] == {
        DAYS[0]: {"rows": 148, "complete": True},
        DAYS[1]: {"rows": 102, "complete": False},
    }
    refused = backtest()
    assert refused.code == 1
    assert f"{DAYS[1]} is refused: half built, its last scan is of 00:01:41" in refused.error
    assert not Path("test").exists()
    partial = backtest("--allow-partial")
    assert (partial.code, partial.json["scans"]) == (0, 250)
    assert partial.json["partial"] == [f"{DAYS[1]}: half built, its last scan is of 00:01:41"]
    assert backtest("--to", DAYS[0], out="whole-day").code == 0
    assert build(baseline.panel).json["scans_there"] == 148
    assert backtest(out="again").json["decisions_sha256"] == baseline.digest


def test_a_partial_day_is_told_to_people(baseline: Baseline, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1_000)
        stopped = invoke("data", "build", "--feed", "recorded", baseline.panel, "--out", "cache")
    assert stopped.code == 130
    assert f"  partial    {DAYS[1]}: not whole, refused by backtests without --allow-partial" in stopped.out
    assert "interrupted: whole days are kept; go on with the same command" in stopped.err
    told = invoke("backtest", "--cache", "cache", "--out", "test", "--no-report", "--allow-partial")
    assert f"  partial    {DAYS[1]}: half built, its last scan is of 00:01:41" in told.out


@pytest.mark.parametrize("how", ["changed", "cut off", "gone"])
def test_a_day_that_is_not_what_the_manifest_says(baseline: Baseline, how: str) -> None:
    assert build(baseline.panel).code == 0
    path = Path("cache/scan_cache", f"{DAYS[1]}.parquet")
    content = path.read_bytes()
    if how == "changed":
        other = write_panel(Path("other.parquet"), market(seed=2))
        assert build(other, out="other").code == 0
        content = Path("other/scan_cache", path.name).read_bytes()
    path.write_bytes(content[: len(content) // 2] if how == "cut off" else content)
    if how == "gone":
        path.unlink()
    told = backtest()
    assert told.code == 1
    assert DAYS[1] in told.error
    assert "build it again" in told.error


@pytest.mark.parametrize("engine", ["period", "step"])
@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda numbers: numbers[:80] + numbers[81:], "1 hole in its scan numbers"),
        (lambda numbers: numbers[:80] + numbers[79:80] + numbers[81:], "scan number"),
    ],
    ids=["a gap", "a number twice"],
)
def test_a_day_with_a_gap_or_a_number_twice(
    baseline: Baseline, engine: str, spoil: Callable[[list[int]], list[int]], text: str
) -> None:
    """The day and the reason in one line, and nothing written."""
    assert build(baseline.panel).code == 0
    path = Path("cache/scan_cache", f"{DAYS[1]}.parquet")
    table = pq.read_table(path)
    numbers = table.column("scan_number").to_pylist()
    changed = spoil(numbers)
    kept = [k for k in range(len(numbers)) if len(changed) == len(numbers) or k != 80]
    table = table.take(kept).set_column(1, table.schema.field(1), pa.array(changed))
    pq.write_table(table, path)
    manifest = Path("cache/scan_cache/manifest.json")
    told = json.loads(manifest.read_text())
    told["days"][DAYS[1]] |= {"sha256": sha256(path.read_bytes()).hexdigest(), "rows": len(changed)}
    manifest.write_text(json.dumps(told))
    refused = backtest("--engine", engine)
    assert refused.code == 1
    assert f"{DAYS[1]} is refused: " in refused.error
    assert text in refused.error
    assert len(refused.error.splitlines()) == 1
    assert not Path("test").exists()


# -- compaction ------------------------------------------------------------------------------------------


def compact(source: Any, *words: Any, out: str = "compacted") -> Told:
    return invoke("data", "build", "--scans", source, "--out", out, "--json", *words)


def test_compacted_scans_hold_the_runs_decisions(baseline: Baseline) -> None:
    told = compact(baseline.folder)
    assert told.code == 0
    s = told.json
    assert (s["scans"], s["scans_quarantined"]) == (349, 0)
    assert [day["complete"] for day in s["days"].values()] == [True, True]
    assert backtest(cache="compacted").json["decisions_sha256"] == baseline.digest


def test_the_last_day_of_scans_without_a_finished_run_is_half_built_until_said_otherwise(
    baseline: Baseline,
) -> None:
    shutil.copytree(baseline.folder / "arrow_scans", "scans/arrow_scans")
    told = invoke("data", "build", "--scans", "scans", "--out", "compacted")
    assert f"  partial    {DAYS[1]}: not whole" in told.out
    assert "say so with --ended" in told.out
    refused = backtest(cache="compacted").error
    assert f"{DAYS[1]} is refused: half built" in refused
    assert "build it again to its end" in refused
    tested = backtest("--allow-partial", cache="compacted", out="partial")
    assert tested.json["decisions_sha256"] == baseline.digest
    ended = compact("scans", "--ended").json
    assert (ended["scans_there"], ended["days"][DAYS[1]]) == (148, {"rows": 201, "complete": True})
    assert backtest(cache="compacted", out="whole").json["decisions_sha256"] == baseline.digest


def test_a_run_that_goes_on_or_lost_its_last_scan_has_no_whole_last_day(baseline: Baseline) -> None:
    shutil.copytree(baseline.folder, "lost")
    sorted(Path("lost/arrow_scans", DAYS[1]).glob("*.arrow"))[-1].unlink()
    assert compact("lost").json["days"][DAYS[1]] == {"rows": 200, "complete": False}
    shutil.copytree(baseline.folder, "running")
    with contextlib.closing(sqlite3.connect("running/journal.db")) as db, db:
        db.execute("UPDATE meta SET value = 'running' WHERE key = 'status'")
    told = compact("running", out="other")
    assert told.json["days"][DAYS[1]] == {"rows": 201, "complete": False}


def test_a_partial_cache_as_a_feed_names_a_way_out_that_is_there(baseline: Baseline) -> None:
    shutil.copytree(baseline.folder / "arrow_scans", "scans/arrow_scans")
    assert compact("scans").code == 0
    told = invoke("scan", "--feed", "recorded", "compacted", "--json")
    assert told.code == 1
    assert f"{DAYS[1]} is refused: half built" in told.error
    assert told.error.endswith("build it again to its end, or give the PATH of a day's file that is whole")
    day = Path("compacted/scan_cache", f"{DAYS[0]}.parquet")
    assert invoke("scan", "--feed", "recorded", day, "--json").code == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--scans", "x", "--seed", "3"), "--scans compacts stored scans, it takes no --seed"),
        (("--scans", "x", "--feed", "recorded"), "it takes no --feed; leave it out"),
        (("--scans", "x", "--jobs", "2"), "it takes no --jobs; leave it out"),
        (("--scans", "x", "prices.parquet"), "it takes no prices.parquet; leave it out"),
        (("--ended",), "--ended is for stored scans: give their folder with --scans"),
    ],
)
def test_options_that_do_not_go_together(words: tuple[str, ...], text: str) -> None:
    told = invoke("data", "build", *words, "--json")
    assert told.code == 2
    assert text in told.error
    assert not any(Path().iterdir())


def test_a_growing_store_is_compacted_day_by_day(run: Run, baseline: Baseline) -> None:
    assert run(None, "out", "--bars", "860").code == 0
    assert compact("out").json["days"] == {DAYS[0]: {"rows": 109, "complete": True}}
    assert run(None, "out", "--bars", "1000", "--resume").code == 0
    second = compact("out")
    stamp = datetime.now(UTC).strftime("%Y%m%d")
    assert f"scan_cache/{DAYS[0]}.parquet.STALE_{stamp}" in tree(Path("compacted"))
    assert second.code == 0, second.err
    assert second.json["days"][DAYS[0]] == {"rows": 148, "complete": True}
    whole = tree(Path("compacted"))[f"scan_cache/{DAYS[0]}.parquet"]
    assert run(None, "out", "--resume").code == 0
    third = compact("out").json
    assert (third["scans"], third["scans_there"]) == (349, 148)
    assert tree(Path("compacted"))[f"scan_cache/{DAYS[0]}.parquet"] == whole
    tested = backtest(cache="compacted")
    assert tested.json["decisions_sha256"] == baseline.digest


def test_compaction_rebuilds_on_demand(baseline: Baseline) -> None:
    assert compact(baseline.folder).code == 0
    old = tree(Path("compacted/scan_cache"))
    assert compact(baseline.folder, "--rebuild").code == 0
    stamp = datetime.now(UTC).strftime("%Y%m%d")
    new = tree(Path("compacted/scan_cache"))
    for day in DAYS:
        assert new[f"{day}.parquet.STALE_{stamp}"] == old[f"{day}.parquet"] == new[f"{day}.parquet"]


def test_a_damaged_scan_makes_its_day_partial(run: Run) -> None:
    assert run().code == 0
    victim = sorted(Path("out").glob(f"arrow_scans/{DAYS[0]}/*.arrow"))[50]
    victim.write_bytes(b"no arrow")
    told = compact("out")
    assert told.code == 0
    assert told.json["scans_quarantined"] == 1
    assert told.json["days"][DAYS[0]] == {"rows": 147, "complete": False}
    assert Path("out/quarantine", victim.name).exists()
    refused = backtest("--to", DAYS[0], cache="compacted")
    assert "1 hole in its scan numbers" in refused.error
    assert read_manifest(Path("compacted/scan_cache")).days[DAYS[0]].number_gaps == 1


def test_nothing_to_compact() -> None:
    Path("empty").mkdir()
    told = compact("empty")
    assert told.code == 1
    assert told.error.endswith("empty: fewer than two scans in arrow_scans/; nothing to compact")


def test_people_see_each_day(baseline: Baseline) -> None:
    told = invoke("data", "build", "--scans", baseline.folder, "--out", "compacted")
    assert told.err.splitlines() == [
        f"{DAYS[0]}: 148 scans compared value by value, difference 0",
        f"{DAYS[1]}: 201 scans compared value by value, difference 0",
    ]
    assert told.out.startswith("349 scans of 2 days, in ")


# -- data check ------------------------------------------------------------------------------------------


def test_check_of_good_data(baseline: Baseline) -> None:
    told = invoke("data", "check", "--feed", "recorded", baseline.panel, "--json")
    assert told.code == 0
    s = told.json
    assert (s["fit"], s["n_bars"], s["n_scans"], s["reasons"]) == (True, 1_100, 349, [])
    text = invoke("data", "check", "--feed", "recorded", baseline.panel)
    assert text.code == 0
    assert text.out.endswith("fit to trade\n")


def test_check_of_data_that_cannot_be_traded(baseline: Baseline) -> None:
    short = {name: values[:500] for name, values in market().items()}
    told = invoke("data", "check", "--feed", "recorded", write_panel(Path("short.parquet"), short), "--json")
    assert told.code == 1
    assert told.json["fit"] is False
    assert "500 bars are too few" in told.json["reasons"][0]
    text = invoke("data", "check", "--feed", "recorded", "short.parquet")
    assert text.code == 1
    assert "not fit to trade: 500 bars are too few" in text.out
    assert list(Path().iterdir()) == [Path("short.parquet")]


def test_check_names_what_is_wrong(baseline: Baseline) -> None:
    columns = market()
    missing(columns)
    rebased(columns)
    times(columns)
    columns["DOGEUSDT"].fill(0.31)
    told = invoke("data", "check", "--feed", "recorded", write_panel(Path("p.parquet"), columns), "--json")
    s = told.json
    assert (s["duplicates"], s["n_gaps"], s["constant"]) == (1, 2, ["DOGEUSDT"])
    assert s["rejections"] == {
        "BTCUSDT": {"missing": 4},
        "ETHUSDT": {"missing": 6},
        "SOLUSDT": {"missing": 30},
    }
    assert len(s["jumps"]) >= 2
