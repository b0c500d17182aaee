"""`dolphin study` as people call it: files, verdict, refusals, and what it says without the extra."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import SYMBOLS, Told, invoke, write_panel

from dolphin.backtest.sweep.trials import FELL_BACK, TrialLedger
from dolphin.domain.errors import StoreError
from dolphin.market.scan_cache import CacheReader
from dolphin.research import extra

DAY_NS = 86_400_000_000_000
START_NS = 1_617_321_600_000_000_000  # 2021-04-02T00:00:00Z


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine days of ten-minute bars, scanned in float64; the first 752 of them make no scan."""
    folder = tmp_path_factory.mktemp("study")
    n = 14 * 144
    rng = np.random.default_rng(5)
    common = rng.normal(0, 0.004, n)
    prices = {
        symbol: 100.0 * (k + 1) * np.exp(np.cumsum(common * (0.5 + 0.2 * k) + rng.normal(0, 0.003, n)))
        for k, symbol in enumerate(SYMBOLS)
    }
    stamps = START_NS + DAY_NS // 144 * np.arange(1, n + 1)
    panel = write_panel(folder / "panel.parquet", {"ts": stamps, **prices})
    told = invoke(
        "data",
        "build",
        "--feed",
        "recorded",
        panel,
        "--out",
        folder / "cache",
        "--spectrum",
        "float64",
        "--json",
    )
    assert told.code == 0, told.err
    return folder / "cache"


def studied(cache: Path, *words: Any) -> Told:
    return invoke("study", cache, "--shifts", 19, "--reps", 100, "--folds", 3, *words)


def test_both_files_are_written_and_the_verdict_comes_first(cache: Path) -> None:
    told = studied(cache, "--out", "s", "--grid", "small")
    assert told.code == 0, told.err
    kept = json.loads(Path("s/study.json").read_text())
    assert told.out.splitlines()[0] == kept["verdict"]["headline"]
    assert kept["result_sha256"] in told.out
    assert len(kept["trials"]) == 27
    assert kept["verdict"]["headline"] in Path("s/study.html").read_text()


def test_json_is_what_is_written_and_a_folder_keeps_its_study(cache: Path) -> None:
    Path("grid.yml").write_text("max_hold_bars: [10, 20]\nfixed_tp_pct: [0.005]\n")
    told = studied(
        cache, "--out", "s", "--grid", "grid.yml", "--trials-before", 9, "--study-seed", 3, "--json"
    )
    assert told.json == json.loads(Path("s/study.json").read_text())
    assert told.json["settings"]["trials_before"] == 9
    assert told.json["settings"]["seed"] == 3
    # The set itself and the two of the file.
    assert len(told.json["trials"]) == 3
    again = studied(cache, "--out", "s")
    assert again.code == 1
    assert "a study is here already; choose another --out" in again.error


def swept(cache: Path, trials: int, **more: Any) -> None:
    entry = {
        "data": "ab",
        "first_day": "2021-04-10",
        "last_day": "2021-04-12",
        "trials": trials,
        "folder": "s",
    }
    ledger = {"format": "dolphin sweep trials 1", "sweeps": {"a": {**entry, **more}}}
    (cache / "scan_cache" / "sweep_trials.json").write_text(json.dumps(ledger))


def forget(cache: Path) -> None:
    (cache / "scan_cache" / "sweep_trials.json").unlink(missing_ok=True)


def test_a_study_enters_its_settings_once_and_later_ones_count_them(
    cache: Path, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: forget(cache))
    forget(cache)
    Path("three.yml").write_text("max_hold_bars: [10, 20]\n")
    Path("turned.yml").write_text("max_hold_bars: [20, 10]\n")
    Path("two.yml").write_text("max_hold_bars: [30]\n")

    def before(grid: str, out: str, *more: Any) -> int:
        found = studied(cache, "--grid", grid, "--out", out, "--json", *more).json
        return int(found["settings"]["trials_before"])

    ledger = TrialLedger(cache, Path("a"))

    def total() -> int:
        return ledger.total("2021-04-02", "2021-04-30")

    assert (before("three.yml", "a"), total()) == (0, 3)
    # The same settings again, in another order and with another seed: nothing new was tried.
    assert (before("three.yml", "b"), total()) == (0, 3)
    assert (before("turned.yml", "c", "--study-seed", 5), total()) == (0, 3)
    assert (before("two.yml", "d"), total()) == (3, 5)
    # A number that somebody says changes what is counted before, not what is entered.
    assert (before("small", "e", "--trials-before", 0), total()) == (0, 32)
    assert (before("two.yml", "f"), total()) == (30, 32)
    # The same settings under another gate, or on other days, are other trials.
    assert (before("two.yml", "g", "--vol-threshold", "0.001"), total()) == (32, 34)
    last = CacheReader(cache).days()[-1]
    assert (before("two.yml", "h", "--from", CacheReader(cache).days()[1]), total()) == (34, 36)
    kept = json.loads(ledger.path.read_text())["sweeps"]
    assert all(key.startswith("study-") for key in kept)
    assert {entry["last_day"] for entry in kept.values()} == {last}


def test_a_sweep_counts_the_settings_of_studies_and_names_the_same_data(
    cache: Path, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: forget(cache))
    forget(cache)
    Path("grid.yml").write_text("max_hold_bars: [10, 20]\n")
    assert studied(cache, "--grid", "grid.yml", "--out", "a").code == 0
    Path("plan.yml").write_text("base: gold\nallow_partial: true\nparameters: {max_hold_bars: [10, 20]}\n")
    swept = invoke("sweep", "plan.yml", "--cache", cache, "--out", "s", "--no-report", "--json").json
    assert swept["trials_ledger"] == 3 + 2
    entries = json.loads((cache / "scan_cache" / "sweep_trials.json").read_text())["sweeps"].values()
    assert len({(entry["data"], entry["first_day"], entry["last_day"]) for entry in entries}) == 1
    after = studied(cache, "--grid", "grid.yml", "--out", "b", "--json").json
    assert after["settings"]["trials_before"] == 2


def test_where_the_cache_takes_no_file_the_page_and_the_terminal_say_so(
    cache: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request.addfinalizer(lambda: forget(cache))
    forget(cache)
    real = os.access
    locked = cache / "scan_cache"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and real(path, mode))
    Path("grid.yml").write_text("max_hold_bars: [10, 20]\n")
    first = studied(cache, "--grid", "grid.yml", "--out", "in/a")
    assert FELL_BACK in first.out
    assert "3 settings entered in in/sweep_trials.json" in first.out
    assert not (locked / "sweep_trials.json").exists()
    Path("more.yml").write_text("max_hold_bars: [30]\n")
    second = studied(cache, "--grid", "more.yml", "--out", "in/b", "--json").json
    assert second["settings"]["trials_before"] == 3
    told = "by sweep_trials.json beside the results, because the cache takes no file"
    assert any(told in text for text in second["verdict"]["cautions"])
    assert told in Path("in/b/study.html").read_text()


def test_a_study_whose_trials_cannot_be_entered_shows_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(TrialLedger, "put", full)
    told = studied(cache, "--grid", "small", "--out", "s")
    assert (told.code, told.out) == (1, "")
    assert not Path("s/study.json").exists()
    assert not Path("s/study.html").exists()


def test_bindings_of_sweeps_on_these_days_count_as_trials_unless_a_number_is_said(
    cache: Path, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: forget(cache))
    forget(cache)
    Path("grid.yml").write_text("max_hold_bars: [10, 20]\n")
    words = (cache, "--grid", "grid.yml", "--json")
    none = studied(*words, "--out", "none").json
    swept(cache, 1234)
    counted = studied(*words, "--out", "counted").json
    said = studied(*words, "--out", "said", "--trials-before", 0).json
    swept(cache, 1234, first_day="2020-01-01", last_day="2020-01-31")
    elsewhere = studied(*words, "--out", "elsewhere").json
    assert [s["settings"]["trials_before"] for s in (none, counted, said, elsewhere)] == [0, 1234, 0, 0]
    assert counted["deflated"]["n_trials"] == none["deflated"]["n_trials"] + 1234
    by = (
        "1,234 settings of sweeps and other studies that used any of these days, by sweep_trials.json of the"
        " cache,"
    )
    assert any(text.startswith(by) for text in counted["verdict"]["cautions"])
    assert (
        "run on these days and 1,234 before, by sweep_trials.json" in Path("counted/study.html").read_text()
    )
    for study, told in ((none, True), (elsewhere, True), (said, False), (counted, False)):
        cautions = " ".join(study["verdict"]["cautions"])
        assert (
            "No sweep and no other study on these days is in the ledger (sweep_trials.json of the cache)"
            in cautions
        ) == told
    (cache / "scan_cache" / "sweep_trials.json").write_text("[]")
    refused = studied(*words, "--out", "refused")
    assert refused.code == 1
    assert "cannot be read as a ledger of trials" in refused.error


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--grid", "smal"), 2, "unknown grid 'smal'"),
        (("--grid", "none.yml"), 1, "none.yml: No such file"),
        (("--grid", "list.yml"), 2, "list.yml: expected names of parameters"),
        (("--grid", "broken.yml"), 2, "broken.yml: no YAML"),
        (("--folds", "2"), 2, "folds is 2, expected 3 or more"),
        (("--from", "2022-01-01"), 1, "no day between 2022-01-01"),
        (("--grid", "wrong.yml"), 2, "unknown parameter 'max_hold'. Did you mean 'max_hold_bars'?"),
    ],
)
def test_what_cannot_be_studied_is_one_line(
    cache: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    Path("list.yml").write_text("- 1\n")
    Path("broken.yml").write_text("a: [1\n")
    Path("wrong.yml").write_text("max_hold: [1]\n")
    told = studied(cache, *words, "--out", "s")
    assert told.code == code
    assert said in told.error
    assert not Path("s/study.json").exists()


def test_without_the_extra_it_says_what_installs_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

    monkeypatch.setattr(extra, "importlib", type("gone", (), {"import_module": staticmethod(gone)}))
    told = studied(cache, "--out", "s", "--json")
    assert told.code == 2
    assert "is missing: statistics need the research extra; install it with make research" in told.error
    assert importlib.import_module("arch")
