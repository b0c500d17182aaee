"""A run with the synthetic market's own books and factors: resumable, replayable, explainable."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from crash_runs import content
from walk_feed import WalkFeed

from dolphin.backtest.explain import explain
from dolphin.backtest.folder import open_run
from dolphin.backtest.moment import Moment
from dolphin.domain.codes import ACTION_ENTER, ACTION_EXIT, BOOKS_ABSENT, NO_BOOKS
from dolphin.domain.decision import Decision
from dolphin.domain.errors import ConfigError, DataError, InvariantError
from dolphin.domain.params import NAMED_SETS
from dolphin.domain.scan import ScanRow
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.topics import ACB_BOOST, EXF
from dolphin.grid.typed import TypedGrid
from dolphin.host.finish import BREAKER
from dolphin.host.session import Session
from dolphin.journal.books import readings_of
from dolphin.journal.store import Journal
from dolphin.market.book_files import PartWriter, snapshot_table
from dolphin.market.book_schema import SNAPSHOT_SCHEMA
from dolphin.market.scan_store import ScanStore
from dolphin.market.synthetic import SyntheticFeed
from dolphin.orderbook.snapshot import BookSnapshot
from dolphin.risk.breaker_day import FACTORS
from dolphin.services.book_senses import books_named
from dolphin.services.embedded import Progress, RunSettings, run
from dolphin.services.replaying import replay
from dolphin.services.senses import SYNTHETIC, SyntheticOrgans

DAYS = 0.08

#: What books may change of a bar that is decided with the same state (spec 04, "five uses").
BOOK_FIELDS = {
    "books",  # the label itself
    "asset", "ars", "rank", "ranked", "dc_status", "dc_change",  # OB-1: another asset may rank first
    "confidence",  # OB-2
    "action", "reason",  # OB-1, OB-2 and OB-5 may refuse or end
    "lane_ob", "raw", "cap", "bound", "leverage", "notional",  # OB-3
    "lane_dc", "price", "scan_price", "entry_fee", "exit_fee", "gross", "net", "capital", "pnl_pct",
    "stale_price", "fraction", "lane_base", "lane_regime", "lane_esof", "bucket",  # of another asset, or none
    "tp", "sl", "max_hold", "ob_edge",  # OB-5 and the edge
}  # fmt: skip
SAME_ASSET_FIELDS = {"books", "ars", "rank", "ranked", "confidence", "lane_ob", "raw", "cap", "bound",
                     "leverage", "notional"}  # fmt: skip
SAME_EXIT_FIELDS = {"books", "reason", "tp", "sl", "max_hold", "ob_edge", "gross", "net", "capital", "price",
                    "exit_fee"}  # fmt: skip


def settings_of(folder: Path, **changes: Any) -> RunSettings:
    base = RunSettings(
        feed_name="synthetic",
        set_name="gold",
        params=NAMED_SETS["gold"],
        folder=folder,
        scan_path="float64",
        report=False,
        books="synthetic",
        factors=True,
    )
    return replace(base, **changes)


def go(folder: Path, stop_at: int | None = None, **changes: Any) -> dict[str, Any]:
    seen = {"bars": 0}

    def on_progress(progress: Progress) -> None:
        seen["bars"] += 1

    return run(
        SyntheticFeed(days=DAYS),
        settings_of(folder, **changes),
        on_progress,
        lambda: stop_at is not None and seen["bars"] >= stop_at,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("senses") / "run"
    return go(folder, report=True), folder


@pytest.fixture
def journal(whole) -> Iterator[Journal]:
    with contextlib.closing(Journal.read_only(whole[1] / "journal.db")) as opened:
        yield opened


def test_books_and_factors_reach_the_decisions(whole, journal):
    summary, _ = whole
    decisions = list(journal.decisions())
    assert summary["ledger_balanced"]
    assert summary["trades"] >= 3
    assert {d.books for d in decisions} <= {SYNTHETIC, *NO_BOOKS}
    assert sum(d.books == SYNTHETIC for d in decisions) > 0.95 * len(decisions)
    assert max(d.boost for d in decisions) > 1.0
    assert len({d.beta for d in decisions}) > 1
    assert [bar for bar, _ in readings_of(journal)] == [d.bar_idx for d in decisions]
    assert journal.meta()["books"] == journal.meta()["factors"] == SYNTHETIC
    said = [text for _, kind, text in journal.events() if kind == BREAKER]
    assert said
    assert all(name in said[0] for name in FACTORS)


@pytest.mark.parametrize("stop_at", [700, 752, 1300, 1900])
def test_a_run_that_was_stopped_goes_on_to_the_same_end(stop_at, whole, tmp_path):
    go(tmp_path / "run", stop_at=stop_at)
    go(tmp_path / "run", resume=True)
    assert content(tmp_path / "run") == content(whole[1])


def test_what_the_journal_holds_decides_the_same_again(whole, journal):
    scans = ScanStore(whole[1]).scans()
    session = Session(NAMED_SETS["gold"], SyntheticFeed(days=DAYS).symbols)
    assert replay(journal, scans, session) == whole[0]["decisions_sha256"]


def test_a_bar_with_books_is_not_replayed_without_its_readings(whole, journal):
    decision = next(d for d in journal.decisions() if d.books == SYNTHETIC)
    session = Session(NAMED_SETS["gold"], SyntheticFeed(days=DAYS).symbols)
    row = ScanRow(1, decision.timestamp_ns, 0.0, 0.0, 0.0, float("nan"), np.ones(50))
    with pytest.raises(InvariantError, match="decided with order books"):
        session.replay(row, decision)


def test_an_entry_is_explained_with_its_books(whole):
    with open_run(whole[1]) as opened:
        entry = next(opened.journal.decisions(active=True))
        told = explain(opened, entry.bar_idx)
        gate = next(gate for gate in told["gates"] if gate["gate"] == "order books")
        assert gate["passed"] is True
        assert told["books"]["source"] == SYNTHETIC
        assert told["lanes"]["ob"] == entry.lane_ob
        assert 0.0 < told["books"]["fill_probability"] < 1.0


def differing(a: Decision, b: Decision) -> set[str]:
    x, y = msgspec.structs.asdict(a), msgspec.structs.asdict(b)
    return {name for name in x if repr(x[name]) != repr(y[name])}


def test_books_change_the_lanes_and_gates_that_say_so_and_nothing_else(whole):
    """Every bar that trades, decided from one state with its books and without them."""
    with open_run(whole[1]) as opened:
        market = opened.market
        without = replace(market, books=None, books_label=BOOKS_ABSENT)
        changed: set[str] = set()
        bars = [d.bar_idx for d in opened.journal.decisions(active=True)]
        for bar in bars:
            walk = opened.walk().to(bar)
            on = Moment(walk, bar).decide()
            off = Moment(replace(walk, market=without), bar).decide()
            changed |= differing(on, off)
            assert (on.books, off.books) == (SYNTHETIC, BOOKS_ABSENT)
            assert (on.vel_div, on.boost, on.beta, on.posture) == (
                off.vel_div,
                off.boost,
                off.beta,
                off.posture,
            )
            if on.action == off.action == ACTION_ENTER and on.asset == off.asset:
                # The same asset: what its size is made of differs in the lane of the books alone.
                assert differing(on, off) <= SAME_ASSET_FIELDS
                assert off.lane_ob == 1.0
            if on.action == off.action == ACTION_EXIT:
                assert differing(on, off) <= SAME_EXIT_FIELDS
        assert "books" in changed
        assert changed <= BOOK_FIELDS


def test_a_run_of_prices_has_no_senses_of_its_own(tmp_path):
    with pytest.raises(ConfigError, match="has no order books and no factors of its own"):
        run(WalkFeed(3, 800), settings_of(tmp_path / "run", feed_name="walk"))


def test_mocked_books_beside_the_market_s_factors_say_so_in_every_decision(tmp_path):
    summary = go(tmp_path / "run", books="mock", stop_at=1900)
    go(tmp_path / "run", books="mock", resume=True)
    go(tmp_path / "whole", books="mock")
    assert content(tmp_path / "run") == content(tmp_path / "whole")
    with contextlib.closing(Journal.read_only(tmp_path / "run" / "journal.db")) as journal:
        decisions = list(journal.decisions())
    assert {d.books for d in decisions} == {"mock"}
    assert max(d.boost for d in decisions) > 1.0
    assert any("mocked" in note for note in summary["notes"])


def test_a_recording_of_prices_takes_recorded_books(tmp_path):
    """Whole books of each bar are recorded, but for a stretch in which the recorder was silent."""
    feed = WalkFeed(3, 1100)
    rows = []
    for k, bar in enumerate(feed.bars()):
        if k < 800 or 950 <= k < 990:
            continue
        for i, symbol in enumerate(feed.symbols):
            lean = 0.25 * np.sin(k / 7.0 + i)
            side = np.arange(1.0, 6.0) * 1e6
            bid, ask = side * (1.0 - lean), side * (1.0 + lean)
            visible = (100.0, float(bid[0]), float(ask[0]))
            book = BookSnapshot(bar.timestamp_ns, bid, ask, side, side, np.inf, np.inf, *visible)
            rows.append((symbol, book))
    PartWriter(tmp_path / "books", SNAPSHOT_SCHEMA).write([snapshot_table(rows)])
    asked = settings_of(tmp_path / "run", feed_name="walk", books=str(tmp_path / "books"), factors=False)
    summary = run(WalkFeed(3, 1100), asked)
    with contextlib.closing(Journal.read_only(tmp_path / "run" / "journal.db")) as journal:
        labels = [d.books for d in journal.decisions()]
        meta = journal.meta()
    silent = labels.index("degraded")
    # Bars are a second long: books are believed for 5 s, and absent from the third silent bar on.
    assert labels[:49] == [BOOKS_ABSENT] * 49
    assert set(labels[49:silent]) == {"recorded"}
    assert silent == 950 - 751 + 5 + 2
    assert labels[990 - 751 :] == ["recorded"] * (1100 - 990)
    assert summary["ledger_balanced"]
    assert books_named(meta["books"]) == str(tmp_path / "books")


def test_books_that_are_not_there_are_told_with_the_way_out(tmp_path):
    with pytest.raises(ConfigError, match="no recorded books there; expected auto, off, mock, or a folder"):
        run(WalkFeed(3, 800), settings_of(tmp_path / "run", books=str(tmp_path / "none"), factors=False))


def test_another_choice_of_senses_is_another_run(whole, tmp_path):
    go(tmp_path / "run", stop_at=800)
    with pytest.raises(ConfigError, match="was run with books 'synthetic', now it is ''"):
        go(tmp_path / "run", resume=True, books="")


def test_the_report_shows_books_and_breaker(whole):
    page = (whole[1] / "report.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="report-data">')[1].split("</script>")[0])
    assert {"books", "breaker"} <= set(data["figures"])
    assert "Order books" in page
    assert "What it judged" in page


def row_at(feed: SyntheticFeed, k: int) -> ScanRow:
    stamp = feed.first_bar_ns + k * feed.interval_ns
    return ScanRow(k, stamp, 0.0, 0.0, 1e-3 * (k % 7), float("nan"), np.ones(len(feed.symbols)))


def test_the_grid_hears_factors_and_breaker_of_every_minute():
    feed = SyntheticFeed(days=0.1, assets=4)
    with contextlib.closing(InProcessGrid("inline")) as grid:
        typed = TypedGrid(grid)
        organs = SyntheticOrgans(feed, typed)
        arrivals = organs.sense(row_at(feed, 900), 0, None)
        assert arrivals is not None
        assert arrivals.status.shape == (4,)
        pushed = typed.get(EXF)
        word = typed.get(ACB_BOOST)
        assert set(pushed.statuses) == set(FACTORS)
        assert word.day == "2026-01-05"
        assert word.boost >= 1.0
        assert "books" in word.missing
        organs.sense(row_at(feed, 960), 0, 0.5)
        assert typed.get(ACB_BOOST).stress == 0.5


def test_senses_that_go_on_are_those_that_never_stopped():
    feed = SyntheticFeed(days=0.1, assets=4)
    first, second = SyntheticOrgans(feed, None), SyntheticOrgans(feed, None)
    for k in range(751, 1500, 3):
        first.sense(row_at(feed, k), 0, None)
        if k < 1201:
            second.pass_over(row_at(feed, k), None, None)
    third = SyntheticOrgans(feed, None)
    third.restore(second.state())
    for k in range(1201, 1500, 3):
        third.pass_over(row_at(feed, k), None, None)
    assert third.state() == first.state()
    third.restore(b"")
    assert third.state() == SyntheticOrgans(feed, None).state()


def test_a_bar_that_is_asked_for_twice_is_the_same_and_one_before_it_is_refused():
    feed = SyntheticFeed(days=0.1, assets=4)
    organs = SyntheticOrgans(feed, None)
    first, second = (organs.sense(row_at(feed, 800), 0, None) for _ in range(2))
    np.testing.assert_array_equal(first.bid, second.bid)
    with pytest.raises(DataError, match="given before"):
        organs.sense(row_at(feed, 799), 0, None)


def test_books_may_be_off_while_factors_are_on():
    feed = SyntheticFeed(days=0.1, assets=4)
    assert SyntheticOrgans(feed, None, books=False).sense(row_at(feed, 800), 0, None) is None
