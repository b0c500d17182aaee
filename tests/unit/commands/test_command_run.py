"""`dolphin run`: feeds, summary, digest, resume, interrupt; everything under --out."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import (
    N_BARS,
    SUMMARY_KEYS,
    SYMBOLS,
    Baseline,
    Told,
    finished,
    invoke,
    market,
    spawn,
    tree,
    write_long,
    write_panel,
)

from dolphin.commands.telling import days_lines
from dolphin.market.recorded import RecordedFeed

Run = Callable[..., Told]


def digest(told: Told, code: int = 0) -> str:
    assert told.code == code, told.err
    return str(told.json["decisions_sha256"])


def test_the_baseline_trades(baseline: Baseline) -> None:
    """A market without trades would prove nothing below."""
    s = baseline.summary
    assert s["trades"] >= 2
    assert s["entries_short"] == s["trades"] + s["open_position"]
    assert (s["bars"], s["scans"], s["certified_bits_min"]) == (N_BARS, N_BARS - 751 + 1 - 1, 512)


def test_summary_has_the_keys_and_they_fit_together(baseline: Baseline) -> None:
    s = baseline.summary
    assert s.keys() >= SUMMARY_KEYS
    assert (s["feed"], s["set"], s["report"], s["ledger_balanced"]) == ("recorded", "gold", None, True)
    net = s["gross"] - s["fees"] - s["slippage"] + s["ob_edge"]
    assert s["roi"] * 25_000.0 == pytest.approx(net, abs=1e-7)
    assert s["roi_without_ob_edge"] * 25_000.0 == pytest.approx(net - s["ob_edge"], abs=1e-7)
    assert s["capital"] == pytest.approx(25_000.0 + net, abs=1e-7)
    assert json.loads((baseline.folder / "summary.json").read_text()) == s


def test_twice_gives_the_same_decisions_and_files(run: Run, baseline: Baseline) -> None:
    assert digest(run()) == baseline.digest
    names = {n for n in tree(Path("out")) if n.endswith((".arrow", ".csv"))}
    assert len(names) > 300
    ours, theirs = tree(Path("out")), tree(baseline.folder)
    assert all(ours[name] == theirs[name] for name in names)


def test_everything_is_written_under_out(run: Run, tmp_path: Path) -> None:
    before = tree(tmp_path)
    assert run(None, "deep/er/out").code == 0
    written = set(tree(tmp_path)) - set(before)
    assert all(name.startswith("deep/er/out/") for name in written)
    assert {"deep/er/out/summary.json", "deep/er/out/settings.json", "deep/er/out/trades.csv"} <= written
    assert not any(name.endswith((".new", ".tmp")) for name in written)


def test_without_out_a_new_folder_under_runs(baseline: Baseline) -> None:
    told = invoke("run", "--feed", "recorded", baseline.panel, "--bars", "10", "--json", "--no-report")
    folder = Path(told.json["folder"])
    assert folder.parent == Path("runs")
    assert "-gold-recorded-" in folder.name
    assert (folder / "summary.json").exists()


def test_long_rows_give_the_same_decisions(run: Run, baseline: Baseline) -> None:
    columns = market()
    universe = Path("symbols.csv")
    universe.write_text("rank,symbol\n" + "".join(f"{k},{s}\n" for k, s in enumerate(SYMBOLS)))
    told = run(write_long(Path("long.parquet"), columns), "out", "--universe", universe)
    assert digest(told) == baseline.digest


@pytest.mark.parametrize("suffix", ["csv", "yml"])
def test_universe_files_choose_and_order(run: Run, baseline: Baseline, suffix: str) -> None:
    chosen = ["BTCUSDT", "XRPUSDT", "ETHUSDT", "SOLUSDT"]
    file = Path(f"symbols.{suffix}")
    file.write_text(
        "symbol\n" + "\n".join(chosen) if suffix == "csv" else "".join(f"- {s}\n" for s in chosen)
    )
    told = run(None, "out", "--universe", file, "--assets", "3")
    assert told.code == 0
    assert json.loads(Path("out/settings.json").read_text())["symbols"] == chosen[:3]
    assert digest(told) != baseline.digest


def test_assets_takes_the_first_columns(run: Run) -> None:
    assert run(None, "out", "--assets", "4", "--bars", "5").code == 0
    assert json.loads(Path("out/settings.json").read_text())["symbols"] == list(SYMBOLS[:4])


def test_synthetic_needs_nothing_and_repeats_itself() -> None:
    words = ("run", "--days", "0.01", "--assets", "12", "--seed", "11", "--json", "--no-report")
    first, second = invoke(*words, "--out", "a"), invoke(*words, "--out", "b")
    other = invoke(
        "run", "--days", "0.01", "--assets", "12", "--seed", "12", "--json", "--no-report", "--out", "c"
    )
    assert first.json.keys() >= SUMMARY_KEYS
    assert first.json["feed"] == "synthetic"
    assert first.json["scans"] > 100
    assert digest(first) == digest(second)
    assert digest(other)
    scans = [tree(Path(folder) / "arrow_scans") for folder in ("a", "b", "c")]
    assert scans[0] == scans[1] != scans[2]


def test_a_scan_cache_is_a_recording_too(run: Run, baseline: Baseline) -> None:
    assert invoke("data", "build", "--feed", "recorded", baseline.panel, "--out", "cache", "--json").code == 0
    told = run(Path("cache"), "out")
    assert told.code == 0
    assert (told.json["bars"], told.json["scans"]) == (349, 0)


@pytest.mark.parametrize("spectrum", ["flint", "float64"])
def test_another_spectrum_decides_the_same(run: Run, baseline: Baseline, spectrum: str) -> None:
    told = run(None, "out", "--spectrum", spectrum, "--bars", "800")
    certified = run(None, "fast", "--bars", "800")
    assert (told.json["certified_bits_min"] or 0) == (0 if spectrum == "float64" else 512)
    one, two = (
        sqlite3.connect(Path(out) / "journal.db").execute(
            "SELECT action, reason, asset FROM decisions ORDER BY bar_idx"
        )
        for out in ("out", "fast")
    )
    assert one.fetchall() == two.fetchall()
    assert certified.json["scans"] == 49


@pytest.mark.parametrize("direction", ["champion", "green"])
def test_other_sets_run(run: Run, direction: str) -> None:
    told = run(None, "out", "--set", direction)
    s = told.json
    assert (told.code, s["set"]) == (0, direction)
    assert s["entries_long" if direction == "champion" else "entries_short"] == 0
    assert s["entries_short" if direction == "champion" else "entries_long"] > 0


def test_a_parameter_changes_set_hash_and_decisions(run: Run, baseline: Baseline) -> None:
    told = run(None, "out", "--param", "max_hold_bars=30", "--param", "use_ob_edge=false")
    s = told.json
    assert s["set"] == "gold+max_hold_bars,use_ob_edge"
    assert s["set_hash"] != baseline.summary["set_hash"]
    assert s["ob_edge"] == 0.0
    assert digest(told) != baseline.digest


def test_the_report_is_written_and_named(baseline: Baseline) -> None:
    told = invoke("run", "--feed", "recorded", baseline.panel, "--out", "out", "--json")
    assert told.json["report"] == "out/report.html"
    assert baseline.digest in Path("out/report.html").read_text()
    assert digest(told) == baseline.digest


# -- stop and go on ------------------------------------------------------------------------------------


def test_a_stop_by_bars_goes_on_to_the_same_end(run: Run, baseline: Baseline) -> None:
    first = run(None, "out", "--bars", "900")
    assert (first.json["bars"], first.json["scans"]) == (900, 149)
    second = run(None, "out", "--resume")
    assert digest(second) == baseline.digest
    assert second.json | {"folder": 0, "wall_s": 0} == baseline.summary | {"folder": 0, "wall_s": 0}


def test_a_folder_with_a_run_is_not_overwritten(run: Run, baseline: Baseline) -> None:
    assert run(None, "out", "--bars", "800").code == 0
    before = tree(Path("out"))
    told = run(None, "out")
    assert told.code == 1
    assert told.error.endswith(
        "a run is here already; add --resume to go on with it, or choose another --out"
    )
    assert tree(Path("out")) == before


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("--set", "champion"), "set "),
        (("--param", "fraction=0.1"), "set "),
        (("--assets", "5"), "source_id"),
        (("--deployment", "RED"), "deployment"),
        (("--vol-threshold", "0.001"), "vol_threshold"),
        (("--posture-when-unknown", "TURTLE"), "posture_when_unknown"),
    ],
)
def test_resume_with_other_settings_is_refused(run: Run, words: tuple[str, ...], key: str) -> None:
    assert run(None, "out", "--bars", "760").code == 0
    told = run(None, "out", "--resume", *words)
    assert told.code == 2
    assert f"out: was run with {key}" in told.error
    assert "resume with the same settings or choose another --out" in told.error


def test_resume_of_a_finished_run_changes_nothing(run: Run, baseline: Baseline) -> None:
    assert digest(run()) == baseline.digest
    assert digest(run(None, "out", "--resume")) == baseline.digest


def signals_at(monkeypatch: pytest.MonkeyPatch, *bars: int, number: int = signal.SIGINT) -> None:
    """Let the feed raise a signal just before each of the given bars, through the real handlers."""
    real = RecordedFeed.bars

    def interrupted(self: RecordedFeed, skip: int = 0) -> Iterator[object]:
        for k, bar in enumerate(real(self, skip)):
            if k in bars:
                signal.raise_signal(number)
            yield bar

    monkeypatch.setattr(RecordedFeed, "bars", interrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("bar", [300, 752, 830, 1000], ids=["warm-up", "first scans", "position", "later"])
def test_one_signal_ends_in_order_and_nothing_is_lost(
    run: Run, baseline: Baseline, monkeypatch: pytest.MonkeyPatch, number: int, bar: int
) -> None:
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        signals_at(patch, bar, number=number)
        told = run()
    assert told.code == 130
    s = told.json
    assert (s["interrupted"], s["bars"], s["ledger_balanced"]) == (True, bar + 1, True)
    assert signal.getsignal(number) is before
    assert invoke("audit", "out").code == 0
    assert digest(run(None, "out", "--resume")) == baseline.digest


def test_a_second_signal_ends_at_once_and_nothing_is_lost(
    run: Run, baseline: Baseline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        real = RecordedFeed.bars

        def twice(self: RecordedFeed, skip: int = 0) -> Iterator[object]:
            for k, bar in enumerate(real(self, skip)):
                if k == 905:
                    signal.raise_signal(signal.SIGINT)
                    signal.raise_signal(signal.SIGINT)
                yield bar

        patch.setattr(RecordedFeed, "bars", twice)
        told = run()
    assert told.code == 130
    assert told.error == "dolphin run: interrupted; nothing that was committed is lost"
    assert digest(run(None, "out", "--resume")) == baseline.digest


def test_ctrl_c_in_a_terminal_session(tmp_path: Path) -> None:
    """A real process, interrupted at its first trade; what it says leads to the run's end."""
    panel = write_panel(Path("long.parquet"), market(30_000))
    words = ("run", "--feed", "recorded", panel, "--out", "out", "--no-report")
    process = spawn(*words)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if " ENTRY SHORT " in line:
            process.send_signal(signal.SIGINT)
            break
    else:
        pytest.fail(f"no entry: {said}")
    told = finished(process)
    assert process.returncode == 130
    assert "stopping after this bar; once more to stop at once" in told.err
    assert "go on with the same command and --out out --resume" in told.err
    assert "Traceback" not in told.err
    assert "balances to 1e-8" in told.out
    done = int(sqlite3.connect("out/journal.db").execute("SELECT max(bar_idx) FROM decisions").fetchone()[0])
    assert done < 20_000
    limit = str(done + 751 + 100)
    rest = invoke(*words, "--resume", "--json", "--bars", limit)
    whole = invoke(
        "run", "--feed", "recorded", panel, "--out", "whole", "--no-report", "--json", "--bars", limit
    )
    assert digest(rest) == digest(whole)


def test_json_leaves_stderr_to_errors(run: Run) -> None:
    assert run().err == ""


def test_people_see_notes_trades_and_a_summary(baseline: Baseline) -> None:
    told = invoke("run", "--feed", "recorded", baseline.panel, "--out", "out", "--no-report")
    assert told.code == 0
    assert f"DOLPHIN 0.1.0: gold ({baseline.summary['set_hash']}) on recorded → out" in told.err
    assert "paper: fills are modelled, no order leaves this machine" in told.err
    assert told.err.count(" ENTRY SHORT ") == baseline.summary["entries_short"]
    assert told.err.count(" EXIT  SHORT ") == baseline.summary["trades"]
    assert max(map(len, told.out.splitlines())) <= 80
    assert baseline.digest in told.out
    for line in told.err.splitlines():
        if " EXIT  " in line:
            assert " USDT" in line[:80]
        if " ENTRY " in line:
            assert "leverage=" in line[:80]


def test_a_catch_up_tells_every_trade(baseline: Baseline) -> None:
    """The scans of the whole market are stored, none is decided: a resume decides them before the feed."""
    words = ("--feed", "recorded", baseline.panel, "--out", "out")
    assert invoke("scan", *words).code == 0
    told = invoke("run", *words, "--no-report", "--resume")
    assert told.code == 0
    assert told.err.count(" ENTRY SHORT ") == baseline.summary["entries_short"]
    assert told.err.count(" EXIT  SHORT ") == baseline.summary["trades"]
    assert baseline.digest in told.out


def test_people_see_days_assets_and_what_they_must_know(baseline: Baseline) -> None:
    columns = market()
    columns["XRPUSDT"][:] = 5.0
    panel = write_panel(Path("panel.parquet"), {k: v for k, v in columns.items() if k != "BTCUSDT"})
    told = invoke("run", "--feed", "recorded", panel, "--out", "out", "--no-report")
    assert told.code == 0
    lines = told.out.splitlines()
    assert "  assets     XRPUSDT did not move in 349 scans" in lines
    assert "  note       BTCUSDT is not in the universe: the volatility gate stays open." in lines
    days = [line for line in lines if " USDT" in line and "2021-04-0" in line]
    assert [line[13:23] for line in days] == ["2021-04-02", "2021-04-03"]
    assert days[-1].endswith(" USDT, open")
    assert max(map(len, lines)) <= 80
    assert told.out.count("no order left this machine") == 1
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["counts_of_assets"] == {"XRPUSDT": {"zero_variance_scans": 349}}
    assert summary["warnings"] == [note for note in summary["notes"] if "BTCUSDT" in note]


def test_many_days_are_told_by_the_first_the_last_the_best_and_the_worst() -> None:
    days = [
        {"date": f"2021-04-{k:02}", "pnl": pnl, "trades": 3, "capital": 25_000.0}
        for k, pnl in enumerate([5.0] * 6 + [-70.0, 123_456.25] + [1.0] * 12, start=1)
    ]
    days[-1]["open"] = True
    assert days_lines(days) == [
        "  days       2021-04-01        +5.00    3 trades     25,000.00 USDT, first",
        "             2021-04-07       -70.00    3 trades     25,000.00 USDT, worst",
        "             2021-04-08  +123,456.25    3 trades     25,000.00 USDT, best",
        "             2021-04-20        +1.00    3 trades     25,000.00 USDT, last, open",
        "             20 days in all, see --json",
    ]
    assert len(days_lines(days[:12])) == 12
    assert days_lines(days[:1]) == []


def test_a_long_set_gets_its_own_deployment_and_never_the_short_one() -> None:
    words = ("run", "--days", "0.002", "--set", "green", "--no-report")
    assert invoke(*words, "--out", "green", "--json").json["deployment"] == "GREEN"
    blue = invoke(*words, "--deployment", "BLUE", "--out", "blue")
    assert blue.code == 2
    assert "deployment BLUE trades SHORT only" in blue.error
    assert not Path("blue").exists()
    assert invoke(*words, "--out", "blue").code == 0


def test_the_planted_edge_is_a_setting() -> None:
    words = ("run", "--days", "0.002", "--no-report", "--json")
    for name, more in (("none", ("--edge-bps", "0")), ("some", ())):
        assert invoke(*words, *more, "--out", name).code == 0
    none, some = (json.loads(Path(name, "settings.json").read_text()) for name in ("none", "some"))
    assert none["source_id"] != some["source_id"]
