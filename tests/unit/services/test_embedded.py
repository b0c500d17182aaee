"""The embedded run: one folder, resumable after anything, refusing what is not the same run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from crash_runs import content
from walk_feed import WalkFeed, write_panel

from dolphin.cli import main
from dolphin.domain.bar import Bar
from dolphin.domain.codes import ACTION_EXIT
from dolphin.domain.errors import ConfigError, DataError, StoreError
from dolphin.domain.params import NAMED_SETS
from dolphin.host.finish import report_data
from dolphin.host.session import Session
from dolphin.journal.audit import audit
from dolphin.journal.store import Journal
from dolphin.services.embedded import Progress, RunSettings, prices_from_store, run
from dolphin.services.pipeline import ScanPipeline

N_BARS = 1100
SEED = 3


def settings_of(folder: Path, **changes: Any) -> RunSettings:
    base = RunSettings(
        feed_name="walk",
        set_name="gold",
        params=NAMED_SETS["gold"],
        folder=folder,
        scan_path="float64",
        report=False,
    )
    return replace(base, **changes)


def go(folder: Path, n_bars: int = N_BARS, stop_at: int | None = None, **changes: Any) -> dict[str, Any]:
    """Run; `stop_at` asks for an orderly end after so many bars of this process."""
    seen = {"bars": 0}

    def on_progress(progress: Progress) -> None:
        seen["bars"] += 1

    return run(
        WalkFeed(SEED, n_bars),
        settings_of(folder, **changes),
        on_progress,
        lambda: stop_at is not None and seen["bars"] >= stop_at,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """(summary, content, folder) of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    summary = go(folder)
    return summary, content(folder), folder


def test_the_small_market_trades_and_balances(whole: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    summary, found, folder = whole
    assert summary["bars"] == N_BARS
    assert summary["scans"] == found["bars"] == len(found["scans"]) == N_BARS - 751
    assert summary["trades"] >= 3
    assert summary["ledger_balanced"]
    assert summary["decisions_sha256"] == found["decisions_sha256"]
    assert len(found["days"]) == 1
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert json.loads((folder / "settings.json").read_text())["set"] == "gold"
    assert (folder / "trades.csv").read_text().count("\n") == summary["trades"] + 1


def test_a_run_is_the_same_twice_and_another_market_is_not(
    whole: tuple[dict[str, Any], dict[str, Any], Path], tmp_path: Path
) -> None:
    go(tmp_path / "again")
    assert content(tmp_path / "again") == whole[1]
    other = run(WalkFeed(SEED + 1, N_BARS), settings_of(tmp_path / "other"))
    assert other["decisions_sha256"] != whole[0]["decisions_sha256"]


@pytest.mark.parametrize("n_bars", [752, 801, 990])
def test_a_shorter_market_gives_a_prefix_of_the_decisions_and_the_scans(
    n_bars: int, whole: tuple[dict[str, Any], dict[str, Any], Path], tmp_path: Path
) -> None:
    """Through feed, scanner, store and trader: nothing that came later reached an earlier bar."""
    go(tmp_path / "run", n_bars=n_bars)
    found = content(tmp_path / "run")
    n_scans = n_bars - 751
    assert found["bars"] == n_scans
    assert found["equity"] == whole[1]["equity"][:n_scans]
    assert found["scans"].items() <= whole[1]["scans"].items()
    decided = [list(Journal.read_only(f / "journal.db").canonicals()) for f in (tmp_path / "run", whole[2])]
    assert decided[0] == decided[1][:n_scans]


@pytest.mark.parametrize("stop_at", [1, 700, 752, 900, N_BARS])
def test_a_run_that_was_stopped_goes_on_to_the_same_end(
    stop_at: int, whole: tuple[dict[str, Any], dict[str, Any], Path], tmp_path: Path
) -> None:
    first = go(tmp_path / "run", stop_at=stop_at)
    assert first["interrupted"]
    assert first["ledger_balanced"]
    assert first["bars"] == stop_at
    second = go(tmp_path / "run", resume=True)
    assert not second["interrupted"]
    assert second["bars"] == N_BARS
    assert content(tmp_path / "run") == whole[1]


def test_a_resume_at_the_limit_adds_no_bar(
    whole: tuple[dict[str, Any], dict[str, Any], Path], tmp_path: Path
) -> None:
    first = go(tmp_path / "run", limit_bars=1000)
    once = content(tmp_path / "run")
    assert first["bars"] == 1000
    again = go(tmp_path / "run", limit_bars=1000, resume=True)
    assert again["decisions_sha256"] == first["decisions_sha256"]
    assert content(tmp_path / "run") == once
    go(tmp_path / "run", resume=True)
    assert content(tmp_path / "run") == whole[1]


@pytest.mark.parametrize("lost", ["some", "newest", "truncated", "all", "ring", "all and ring"])
def test_lost_files_are_made_again(
    lost: str, whole: tuple[dict[str, Any], dict[str, Any], Path], tmp_path: Path
) -> None:
    """What a power cut, or a person who needed space, can do to a folder that the journal outlived."""
    folder = tmp_path / "run"
    go(folder, stop_at=1000)
    journal = Journal.open(folder / "journal.db")
    with journal.transaction():
        journal._db.execute("DELETE FROM snapshots")
    journal.close()
    files = sorted(folder.glob("arrow_scans/*/*.arrow"))
    if lost == "some":
        for path in files[100:140:3]:
            path.unlink()
    if lost == "newest":
        files[-1].unlink()
    if lost == "truncated":
        files[-1].write_bytes(files[-1].read_bytes()[:200])
    if "all" in lost:
        shutil.rmtree(folder / "arrow_scans")
    if "ring" in lost:
        (folder / "price_ring.bin").unlink()
    summary = go(folder, resume=True)
    assert summary["counts"].pop("scans_quarantined", 0) == (lost == "truncated")
    shutil.rmtree(folder / "quarantine", ignore_errors=True)
    found = content(folder)
    found["summary"]["counts"].pop("scans_quarantined", None)
    assert found == whole[1]


def test_lost_scans_of_a_feed_without_end_are_told(tmp_path: Path) -> None:
    pipeline = ScanPipeline(WalkFeed(SEED, 800), tmp_path, "float64")
    numbers = [scan.scan_number for scan in pipeline.scans() if scan is not None]
    assert numbers == list(range(1, 50))
    pipeline.close()
    sorted(tmp_path.glob("arrow_scans/*/*.arrow"))[-1].unlink()
    with pytest.raises(StoreError, match=r"is not in .*arrow_scans, and walk 3 cannot be read again"):
        ScanPipeline(WalkFeed(SEED, 800, endless=True), tmp_path, "float64")


def test_a_store_has_one_scanner(tmp_path: Path) -> None:
    """Two would give one number to two scans."""
    first = ScanPipeline(WalkFeed(SEED, 10), tmp_path, "float64")
    with pytest.raises(StoreError, match="another process writes this run"):
        ScanPipeline(WalkFeed(SEED, 10), tmp_path, "float64")
    first.close()
    first.close()
    ScanPipeline(WalkFeed(SEED, 10), tmp_path, "float64").close()


def test_a_refused_run_leaves_nothing_and_the_corrected_one_works(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    green = {"set_name": "green", "params": NAMED_SETS["green"]}
    with pytest.raises(ConfigError, match="deployment BLUE trades SHORT only"):
        go(folder, n_bars=760, **green)
    assert not folder.exists()
    assert go(folder, n_bars=760, deployment="GREEN", **green)["deployment"] == "GREEN"


class FailingFeed(WalkFeed):
    """Its source is gone when the first bars are asked for."""

    def bars(self, skip: int = 0) -> Iterator[Bar]:
        raise DataError("walk: the source is gone; bring it back")


def test_a_run_that_fails_before_its_first_bar_leaves_no_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(DataError, match="the source is gone"):
        run(FailingFeed(SEED, 760), settings_of(folder))
    assert all(path.suffix == ".lock" for path in folder.iterdir())
    assert go(folder, n_bars=760)["bars"] == 760


def test_a_resume_that_fails_before_its_first_bar_keeps_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    go(folder, n_bars=770, stop_at=760)
    with pytest.raises(DataError, match="the source is gone"):
        run(FailingFeed(SEED, 770), settings_of(folder, resume=True))
    assert go(folder, n_bars=770, resume=True)["scans"] == 770 - 751


class FaultyFeed(WalkFeed):
    """The same market with refused bars, a jump, a spike and an asset that does not move for a while."""

    def __init__(self, seed: int, n_bars: int) -> None:
        super().__init__(seed, n_bars)
        self.matrix[300:380, 1] = self.matrix[300, 1]
        self.matrix[860:930, 3] = self.matrix[860, 3]
        self.matrix[700:, 2] *= 50.0
        self.matrix[905, 4] /= 9.0

    def bars(self, skip: int = 0) -> Iterator[Bar]:
        for k, bar in enumerate(super().bars()):
            late = k in (10, 755, 900)
            yield Bar(bar.timestamp_ns - 2 * self.interval_ns, bar.prices) if late else bar


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    """The content of an undisturbed run of the faulty feed, and its trades as they were told."""
    folder = tmp_path_factory.mktemp("faulty") / "run"
    told: list[str] = []
    run(FaultyFeed(SEED, 1000), settings_of(folder), on_step=lambda step: told.append(repr(step.decision)))
    return content(folder), told


def test_what_happened_to_the_assets_is_counted(faulty: tuple[dict[str, Any], list[str]]) -> None:
    found = faulty[0]["summary"]
    assert found["counts"]["bars_refused"] == 3
    assert found["counts"]["zero_variance"] == found["counts_of_assets"]["SOLUSDT"]["zero_variance_scans"] > 0
    assert found["counts_of_assets"]["BNBUSDT"] == {"rebased": 1, "rejected": 2}
    assert found["counts_of_assets"]["XRPUSDT"] == {"rejected": 1}
    assert found["notes"]
    assert found["warnings"] == []


STOPS = ([5, 200], [702, 756, 906], [915, 20])


@pytest.mark.parametrize(
    ("stop_at", "lost", "path"),
    [(stops, lost, "float64") for stops in STOPS for lost in ("", "price_ring.bin", "arrow_scans")]
    + [(STOPS[1], "", "fast")],
)
def test_counts_are_of_the_whole_run_however_often_it_was_stopped(
    stop_at: list[int], lost: str, path: Any, faulty: tuple[dict[str, Any], list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    told: list[str] = []
    seen = {"bars": 0}

    def part(stop: int | None, resume: bool) -> dict[str, Any]:
        seen["bars"] = 0

        def on_progress(progress: Progress) -> None:
            seen["bars"] += 1

        return run(
            FaultyFeed(SEED, 1000),
            settings_of(folder, resume=resume, scan_path=path),
            on_progress,
            lambda: stop is not None and seen["bars"] >= stop,
            lambda step: told.append(repr(step.decision)),
        )

    for k, stop in enumerate(stop_at):
        part(stop, k > 0)
        if lost and (folder / lost).exists():
            shutil.move(folder / lost, tmp_path / f"lost-{k}")
    part(None, True)
    found = content(folder)["summary"]
    for key in ("bars", "counts", "counts_of_assets", "prices_rejected", "scans"):
        assert found[key] == faulty[0]["summary"][key], key
    assert len(told) == found["scans"]
    if path == "float64":
        assert content(folder) == faulty[0]
        assert told == faulty[1]


def test_the_days_of_a_run_end_with_an_open_one(whole: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    summary, found, _ = whole
    days = summary["days_results"]
    assert [day["date"] for day in days] == ["2026-01-05", "2026-01-06"]
    assert [day.get("open", False) for day in days] == [False, True]
    assert sum(day["trades"] for day in days) == summary["trades"]
    assert sum(day["pnl"] for day in days) == pytest.approx(summary["capital"] - 25_000.0, abs=1e-6)
    assert days[-1]["capital"] == summary["capital"]
    assert len(found["days"]) == 1


def test_the_report_gets_each_trade_with_its_prices(
    whole: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    summary, _, folder = whole
    journal = Journal.read_only(folder / "journal.db")
    data = report_data(journal, NAMED_SETS["gold"], summary, None, ())
    journal.close()
    prices = data.prices_of_trades
    assert prices is not None
    assert set(prices) == {trade.trade_id for trade in data.closed}
    feed = WalkFeed(SEED, N_BARS)
    for trade in data.closed:
        path = prices[trade.trade_id]
        assert trade.exit_bar is not None
        assert len(path) == trade.exit_bar - trade.entry_bar + 1
        assert (path[0], path[-1]) == (trade.entry_price, trade.exit_scan_price)
        column = feed.matrix[751 + trade.entry_bar : 752 + trade.exit_bar, feed.symbols.index(trade.asset)]
        known = ~np.isnan(column)
        assert np.array_equal(path[known], column[known])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another set": (
        {"set_name": "champion", "params": NAMED_SETS["champion"]},
        "set 'gold', now it is 'champion'",
    ),
    "another parameter": (
        {"params": replace(NAMED_SETS["gold"], max_leverage=7.0)},
        "set_hash '.*', now it is",
    ),
    "another deployment": ({"deployment": "GREEN"}, "deployment 'BLUE', now it is 'GREEN'"),
    "another gate": ({"vol_threshold": 0.5}, "vol_threshold '0.00026414', now it is '0.5'"),
    "another posture": ({"posture_when_unknown": 3}, "posture_when_unknown 'APEX', now it is 'HIBERNATE'"),
    "another spectrum": ({"scan_path": "fast"}, "spectrum 'float64', now it is 'certified'"),
    "another feed": ({"feed_name": "recorded"}, "feed 'walk', now it is 'recorded'"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_a_resume_with_other_settings_names_the_first_that_differs(case: str, tmp_path: Path) -> None:
    go(tmp_path / "run", n_bars=760)
    before = content(tmp_path / "run")
    changes, words = REFUSED[case]
    with pytest.raises(ConfigError, match=f"was run with {words}.*resume with the same settings") as caught:
        go(tmp_path / "run", n_bars=760, resume=True, **changes)
    assert "\n" not in str(caught.value)
    assert content(tmp_path / "run") == before


def test_a_resume_on_another_market_is_refused(tmp_path: Path) -> None:
    go(tmp_path / "run", n_bars=760)
    with pytest.raises(ConfigError, match="was run with source 'walk 3', now it is 'walk 4'"):
        run(WalkFeed(4, 760), settings_of(tmp_path / "run", resume=True))


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    go(tmp_path / "run", n_bars=760)
    with pytest.raises(StoreError, match="a run is here already; add --resume"):
        go(tmp_path / "run", n_bars=760)
    (tmp_path / "run" / "journal.db").unlink()
    with pytest.raises(StoreError, match="holds scans of another run"):
        go(tmp_path / "run", n_bars=760)


def test_scans_without_a_journal_are_decided_on_a_resume(
    whole: tuple[dict[str, Any], dict[str, Any], Path], tmp_path: Path
) -> None:
    """The process died after scans were stored, or `dolphin scan` made them before."""
    folder = tmp_path / "run"
    pipeline = ScanPipeline(WalkFeed(SEED, 900), folder, "float64")
    for _ in pipeline.scans():
        pass
    pipeline.close()
    go(folder, resume=True)
    assert content(folder) == whole[1]


def test_a_failing_journal_ends_the_run_and_a_resume_completes_it(
    whole: tuple[dict[str, Any], dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Journal.add_decision

    def full(self, decision, *values) -> None:
        if decision.bar_idx == 123:
            raise StoreError("the disk is full; free some space, then resume")
        add(self, decision, *values)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add_decision", full)
        with pytest.raises(StoreError, match="the disk is full"):
            go(tmp_path / "run")
    journal = Journal.read_only(tmp_path / "run" / "journal.db")
    assert journal.last_bar() == 122
    journal.close()
    stored = len(list((tmp_path / "run").glob("arrow_scans/*/*.arrow")))
    assert stored == 124, "the run went on after it could not keep a decision"
    go(tmp_path / "run", resume=True)
    assert content(tmp_path / "run") == whole[1]


def test_results_that_cannot_be_written_are_one_line_and_a_resume_writes_them(
    whole: tuple[dict[str, Any], dict[str, Any], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    (folder / "summary.json").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"summary.json: cannot be written .* --resume"):
        go(folder)
    journal = Journal.read_only(folder / "journal.db")
    assert journal.meta()["status"] == "running"
    journal.close()
    (folder / "summary.json").rmdir()
    go(folder, resume=True)
    assert content(folder) == whole[1]


def test_prices_come_from_the_stored_scans(whole: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    folder = whole[2]
    pipeline = ScanPipeline(WalkFeed(SEED, 0), folder, "float64")
    price_of = prices_from_store(pipeline.store)
    journal = Journal.read_only(folder / "journal.db")
    result = audit(journal, NAMED_SETS["gold"], price_of)
    assert result.balanced
    assert result.prices_checked == 2 * result.trades > 0
    first = next(pipeline.store.scans())
    number, stamp = first.scan_number, first.timestamp_ns
    assert price_of(number, first.assets[0], stamp) == first.asset_prices[0]
    assert price_of(10**9, first.assets[0], stamp) is None
    assert price_of(number, first.assets[0], stamp + 1) is None
    assert price_of(number, "NOTHING", stamp) is None
    journal.close()
    pipeline.close()


# through the command line


@pytest.fixture
def panel(tmp_path: Path) -> Path:
    return write_panel(tmp_path / "walk.parquet", SEED, N_BARS)


def words_of(panel: Path, folder: Path, *more: str) -> list[str]:
    return ["run", "--feed", "recorded", str(panel), "--spectrum", "float64", "--assets", "5",
            "--out", str(folder), "--no-report", *more]  # fmt: skip


def test_the_command_decides_as_the_service_does(
    whole: tuple[dict[str, Any], dict[str, Any], Path], panel: Path, tmp_path: Path, capsys
) -> None:
    assert main(words_of(panel, tmp_path / "run", "--json")) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["decisions_sha256"] == whole[0]["decisions_sha256"]
    assert main(["audit", str(tmp_path / "run")]) == 0
    assert "balanced: every cash flow is proved" in capsys.readouterr().out


def test_a_violated_invariant_is_in_the_exit_code_the_summary_and_the_audit(
    panel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    follow = Session._follow

    def wrong(self, decision):
        trade = follow(self, decision)
        if trade is not None and trade.trade_id.endswith("000002"):
            trade = msgspec.structs.replace(trade, net=trade.net + 0.01)
        return trade

    monkeypatch.setattr(Session, "_follow", wrong)
    assert main(words_of(panel, tmp_path / "run", "--json")) == 1
    summary = json.loads(capsys.readouterr().out)
    assert summary["halted"]
    assert not summary["ledger_balanced"]
    assert not summary["open_position"]
    assert summary["counts"]["invariants_violated"] == 1
    assert summary["trades"] == 1
    assert main(["audit", str(tmp_path / "run")]) == 1
    told = capsys.readouterr().out
    assert "violated during the run: trade BLUE-" in told
    assert "an exit without a booked trade" in told
    journal = Journal.read_only(tmp_path / "run" / "journal.db")
    assert sum(d.action == ACTION_EXIT for d in journal.decisions()) == 2
    journal.close()


def test_the_audit_answers_while_the_run_goes_on(panel: Path, tmp_path: Path, capsys) -> None:
    """It sees whole bars up to the instant at which it looked."""
    folder = tmp_path / "run"
    codes: list[int] = []

    def on_progress(progress: Progress) -> None:
        if progress.bars in (800, 950):
            codes.append(main(["audit", str(folder), "--json"]))

    run(WalkFeed(SEED, N_BARS), settings_of(folder), on_progress)
    assert codes == [0, 0]
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["bars"], second["bars"]) == (49, 199)
    assert content(folder)["status"] == "finished"


def test_two_writers_of_one_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    refused = []

    def on_progress(progress: Progress) -> None:
        if progress.bars == 800:
            with pytest.raises(StoreError, match="another process writes this run"):
                go(folder, n_bars=810, resume=True)
            refused.append(progress.bars)

    run(WalkFeed(SEED, 810), settings_of(folder), on_progress)
    assert refused == [800]
    assert content(folder)["status"] == "finished"


def test_stored_scans_hold_what_the_digest_cannot(whole: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    """The content that the tests compare covers every file; an empty one would compare equal to anything."""
    assert len(set(whole[1]["scans"].values())) == len(whole[1]["scans"])
    assert hashlib.sha256(b"").hexdigest() not in whole[1]["scans"].values()
