"""The whole-period backtest: the bits, the trades and the figures of the backtest bar by bar."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from backtest_market import write_cache

from dolphin.backtest import market as market_module
from dolphin.backtest.prices import MarketPrices, prices_of_run
from dolphin.backtest.replay import replay
from dolphin.backtest.reproduce import again, compare
from dolphin.backtest.settings import BacktestSettings, RecordedVerdict
from dolphin.backtest.verify import sample_days, verify
from dolphin.backtest.whole import Progress, backtest, prepare
from dolphin.domain.clock import day_from_ns
from dolphin.domain.codes import ACTION_HOLD, HIBERNATE, MC_RED, REASONS, STALKER
from dolphin.domain.errors import DataError, InvariantError, StoreError
from dolphin.domain.params import GOLD, GREEN, NAMED_SETS, ParameterSet
from dolphin.journal.audit import audit
from dolphin.journal.bar_columns import BARS_FILE, ColumnJournal, read_journal
from dolphin.journal.findings import MarketRows
from dolphin.journal.ledger import ClosedTrade, Ledger, usdt
from dolphin.journal.store import Journal
from dolphin.market.columns import Columns
from dolphin.market.scan_cache import CacheReader, PartialDayError

#: What two engines may tell differently of the same run.
OTHER = {"wall_s", "folder", "report"}
LOOSE = GOLD.with_values({"max_hold_bars": 25, "fixed_tp_pct": 0.004})


@pytest.fixture
def settings(tmp_path: Path) -> BacktestSettings:
    return BacktestSettings(set_name="gold", params=LOOSE, folder=tmp_path / "whole", report=False)


@pytest.fixture(params=[1, 5_000_000], ids=["a piece a day", "one piece"])
def _pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_module, "PRICES_PER_PIECE", request.param)


def bar_by_bar(cache: CacheReader, settings: BacktestSettings) -> tuple[dict[str, Any], Path]:
    folder = settings.folder.with_name("steps")
    return replay(cache, replace(settings, folder=folder)), folder


@pytest.mark.usefixtures("_pieces")
@pytest.mark.parametrize("name", sorted(NAMED_SETS))
def test_the_same_summary_trades_days_and_records_as_bar_by_bar(
    long_cache: CacheReader, settings: BacktestSettings, name: str
) -> None:
    asked = replace(
        settings,
        set_name=name,
        params=NAMED_SETS[name].with_values({"max_hold_bars": 25}),
        deployment="GREEN" if name == "green" else "BLUE",
    )
    ours = backtest(long_cache, asked)
    theirs, folder = bar_by_bar(long_cache, asked)
    assert ours["trades"] >= 3
    assert ours["ledger_balanced"]
    assert {k: v for k, v in ours.items() if k not in OTHER} == {
        k: v for k, v in theirs.items() if k not in OTHER
    }
    whole, steps = read_journal(asked.folder), read_journal(folder)
    assert isinstance(whole, ColumnJournal)
    assert not isinstance(steps, ColumnJournal)
    assert (asked.folder / "trades.csv").read_text() == (folder / "trades.csv").read_text()
    for read in (
        Journal.trades,
        Journal.cash_flows,
        Journal.days,
        Journal.events,
        Journal.last_bar,
        Journal.last_scan_number,
        Journal.reasons,
        Journal.certified_bits_min,
        Journal.decisions_sha256,
        Journal.equity,
    ):
        name_of = read.__name__
        assert getattr(whole, name_of)() == getattr(steps, name_of)(), name_of
    assert list(whole.canonicals(100)) == list(steps.canonicals(100))
    assert list(whole.decisions(active=True)) == list(steps.decisions(active=True))
    a, b = whole.series(), steps.series()
    assert a.vel_div.tobytes() == b.vel_div.tobytes()
    assert {k: v.tolist() for k, v in a.held.items()} == {k: v.tolist() for k, v in b.held.items()}
    whole.close()
    steps.close()


def test_a_bar_between_is_read_as_its_record(long_cache: CacheReader, settings: BacktestSettings) -> None:
    backtest(long_cache, settings)
    _, folder = bar_by_bar(long_cache, settings)
    whole, steps = read_journal(settings.folder), read_journal(folder)
    for ours, theirs in zip(whole.decisions(20, 200), steps.decisions(20, 200), strict=True):
        assert ours.canonical() == theirs.canonical()
        assert (ours.scan_number, ours.vel_div) == (theirs.scan_number, theirs.vel_div)
    whole.close()
    steps.close()


@pytest.mark.parametrize("posture", [STALKER, HIBERNATE])
def test_the_posture_of_every_day(long_cache: CacheReader, settings: BacktestSettings, posture: int) -> None:
    asked = replace(settings, posture_when_unknown=posture)
    ours, (theirs, _) = backtest(long_cache, asked), bar_by_bar(long_cache, asked)
    assert ours["decisions_sha256"] == theirs["decisions_sha256"]
    assert (ours["trades"] == 0) == (posture == HIBERNATE)
    assert ours["days_results"] == theirs["days_results"]


def test_a_red_day_enters_nothing(long_cache: CacheReader, settings: BacktestSettings) -> None:
    days = long_cache.days()
    free = backtest(long_cache, settings)
    red = backtest(
        long_cache,
        replace(
            settings,
            folder=settings.folder.with_name("red"),
            mc_status=dict.fromkeys(days[:3], MC_RED),
            forewarner="a test",
        ),
    )
    journal = read_journal(settings.folder.with_name("red"))
    entered = {trade.trade_id.split("-", 1)[1][:10] for trade in journal.trades()}
    assert journal.meta()["forewarner"] == "a test"
    assert journal.reasons().get((0, REASONS.index("DAY_HALT")), 0) > 0
    journal.close()
    assert entered
    assert not entered & set(days[:3])
    assert red["trades"] < free["trades"]
    asked = json.loads((settings.folder.with_name("red") / "settings.json").read_text())
    assert [entry.get("mc_status") for entry in asked["days"].values()][:4] == ["RED"] * 3 + [None]


@pytest.mark.parametrize("gate", ["ORANGE", "RED", "OK"])
def test_a_forewarner_begins_the_days_of_both_engines_and_is_repeated(
    long_cache: CacheReader, settings: BacktestSettings, gate: str, tmp_path: Path
) -> None:
    asked = replace(settings, assessor=RecordedVerdict("a model", gate, why="a test"))
    ours, (theirs, folder) = backtest(long_cache, asked), bar_by_bar(long_cache, asked)
    assert ours["decisions_sha256"] == theirs["decisions_sha256"]
    assert ours["warnings"] == theirs["warnings"] == ["The forewarner answers with its fallback: a test."]
    assert (ours["trades"] == 0) == (gate == "RED")
    n_days = len(long_cache.days())
    assert ours["forewarner"] == theirs["forewarner"] == {"gates": {gate: n_days}, "days": n_days}
    for made in (settings.folder, folder):
        journal = read_journal(made)
        meta = journal.meta()
        journal.close()
        assert meta["forewarner"] == "a model"
        summary = again(made, meta, tmp_path / f"{made.name}-again")
        assert summary["decisions_sha256"] == ours["decisions_sha256"]


@pytest.mark.usefixtures("_pieces")
def test_a_trade_that_the_ledger_refuses_halts_both_engines_at_the_same_bar(
    long_cache: CacheReader, settings: BacktestSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Ledger.append

    def refuse(self: Ledger, trade: Any, capital: float) -> Any:
        if trade.trade_id.endswith("000003"):
            raise InvariantError(f"trade {trade.trade_id}: refused by a test")
        return real(self, trade, capital)

    monkeypatch.setattr(Ledger, "append", refuse)
    ours = backtest(long_cache, settings)
    theirs, folder = bar_by_bar(long_cache, settings)
    assert ours["halted"]
    assert ours["counts"] == theirs["counts"] == {"invariants_violated": 1}
    assert ours["decisions_sha256"] == theirs["decisions_sha256"]
    assert ours["trades"] == theirs["trades"] == 2
    whole, steps = read_journal(settings.folder), read_journal(folder)
    assert whole.events() == steps.events() != []
    assert whole.reasons() == steps.reasons()
    whole.close()
    steps.close()
    assert verify(prepare_again(long_cache, settings), settings, 9).bars == ours["scans"]


def prepare_again(cache: CacheReader, settings: BacktestSettings) -> Any:
    return prepare(cache, replace(settings, folder=settings.folder.with_name("elsewhere"))).market


def test_progress_ends_with_everything(long_cache: CacheReader, settings: BacktestSettings) -> None:
    told: list[Progress] = []
    summary = backtest(long_cache, settings, told.append)
    assert told[0].phase == "reading"
    last = told[-1]
    assert (last.phase, last.done, last.total, last.trades) == (
        "audit",
        summary["scans"],
        summary["scans"],
        summary["trades"],
    )


# -- the folder proves itself ----------------------------------------------------------------------------


@pytest.fixture
def done(long_cache: CacheReader, settings: BacktestSettings) -> Path:
    backtest(long_cache, settings)
    return settings.folder


def read_trades(folder: Path) -> list[ClosedTrade]:
    journal = read_journal(folder)
    try:
        return journal.trades()
    finally:
        journal.close()


def findings(folder: Path, params: ParameterSet = LOOSE) -> list[str]:
    journal = read_journal(folder)
    try:
        found = prices_of_run(journal.meta())
        assert found is not None
        told = json.loads((folder / "summary.json").read_text())
        return audit(journal, params, found.price_of, found.prices_at, found.rows, told).findings
    finally:
        journal.close()


def test_an_honest_folder_has_no_finding(done: Path) -> None:
    assert findings(done) == []


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None], told: bool = True) -> None:
    """Change columns as somebody would who knows the format; told: with the digests that go with them."""
    path = folder / BARS_FILE
    table = pq.read_table(path)
    columns = {name: table.column(name).to_numpy().copy() for name in table.schema.names}
    change(columns)
    import pyarrow as pa

    arrays = [pa.array(v, type=table.schema.field(k).type) for k, v in columns.items()]
    pq.write_table(pa.table(arrays, schema=table.schema), path)
    if told:
        journal = ColumnJournal.open(folder / "journal.db")
        rows = len(columns["timestamp_ns"])
        journal.set_meta({"bars_sha256": journal.bars_sha256(), "bars_rows": str(rows)})
        journal.set_meta({"decisions_sha256": journal.decisions_sha256()})
        journal.close()


def held_bar(columns: dict[str, Any], k: int = 3) -> int:
    return int(np.flatnonzero(columns["action"] == ACTION_HOLD)[k])


def set_at(name: str, value: Any, of: Callable[[dict[str, Any]], int] = held_bar) -> Any:
    def change(columns: dict[str, Any]) -> None:
        bar = of(columns)
        columns[name][bar] = value(columns[name][bar]) if callable(value) else value

    return change


def cut(columns: dict[str, Any]) -> None:
    for name in columns:
        columns[name] = columns[name][:-5]


def one_more(columns: dict[str, Any]) -> None:
    for name in columns:
        columns[name] = np.append(columns[name], columns[name][-1:])


def a_price_and_its_equity(columns: dict[str, Any]) -> None:
    """A whole lie: the price of a held bar with the equity that follows from it."""
    bar = held_bar(columns)
    entry = int(np.flatnonzero(columns["action"][:bar] == 1)[-1])
    bought = columns["price"][entry]
    at_entry, was = columns["equity"][entry], columns["price"][bar]
    notional = (columns["equity"][bar] - at_entry) / (-(was - bought) / bought)
    columns["price"][bar] = was * 1.01
    columns["equity"][bar] = at_entry - (columns["price"][bar] - bought) / bought * notional


CHANGES: dict[str, tuple[Any, str]] = {
    "an equity": (set_at("equity", lambda v: v + 0.01), "price and capital give"),
    "an idle equity": (set_at("equity", lambda v: v + 1e-6, lambda c: 2), "price and capital give"),
    "a price": (set_at("price", lambda v: v * 1.001), "price and capital give"),
    "a price and its equity": (a_price_and_its_equity, "says"),
    "an asset": (set_at("asset", lambda v: (v + 1) % 5), "another asset is judged"),
    "a bar in a position that is idle": (set_at("action", 0), "an open position was not judged"),
    "an idle bar that holds": (set_at("action", 2, lambda c: 2), "judged, and nothing is open"),
    "an entry more": (set_at("action", 1, lambda c: 2), "without its decision"),
    "an exit that is idle": (
        set_at("action", 0, lambda c: int(np.flatnonzero(c["action"] == 3)[-1])),
        "an open position was not judged",
    ),
    "an exit's reason": (
        set_at("reason", 5, lambda c: int(np.flatnonzero(c["action"] == 3)[0])),
        "its code is not the one of its decision",
    ),
    "a time": (set_at("timestamp_ns", 5, lambda c: 40), "does not come after"),
    "a scan number": (set_at("scan_number", 3, lambda c: 40), "does not come after"),
    "missing last bars": (cut, r"the run is finished with 1095 bars, the market has 1100"),
    "a signal": (set_at("vel_div", 0.5, lambda c: 2), "bar 2: its vel_div is 0.5, the market has"),
    "a signal's last bit": (
        set_at("vel_div", lambda v: np.nextafter(v, 1.0), lambda c: 2),
        "bar 2: its vel_div is",
    ),
    "a time that still grows": (
        set_at("timestamp_ns", lambda v: v + 1, lambda c: 2),
        "bar 2: its timestamp_ns is",
    ),
    "a bar more": (one_more, "1101 bars, the market has 1100"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_changed_column_is_found_though_its_digests_are_right(case: str, done: Path) -> None:
    change, text = CHANGES[case]
    rewrite(done, change)
    found = findings(done)
    assert any(re.search(text, line) for line in found), found


def test_a_file_that_is_another_is_found(done: Path) -> None:
    rewrite(done, lambda columns: None, told=False)
    assert findings(done) == ["bars.parquet: is not the file that was written (its SHA-256 differs)"]


def cut_everything(folder: Path, keep: int, summary: bool) -> None:
    """The run as if it had ended after `keep` bars, in every row, digest and (summary) figure."""

    def shorter(columns: dict[str, Any]) -> None:
        for name in columns:
            columns[name] = columns[name][:keep]

    with sqlite3.connect(folder / "journal.db") as db:
        gone = "(SELECT trade_id FROM trades WHERE exit_bar >= ?)"
        db.execute(f"DELETE FROM cash_flows WHERE trade_id IN {gone}", (keep,))
        db.execute("DELETE FROM trades WHERE exit_bar >= ?", (keep,))
        db.execute("DELETE FROM decisions WHERE bar_idx >= ?", (keep,))
        stamp = pq.read_table(folder / BARS_FILE).column("timestamp_ns")[keep - 1].as_py()
        db.execute("DELETE FROM days WHERE date >= ?", (day_from_ns(stamp),))
    db.close()
    rewrite(folder, shorter)
    if summary:
        journal = read_journal(folder)
        told = json.loads((folder / "summary.json").read_text())
        told["capital"] = float(usdt(sum(amount for _, _, amount in journal.cash_flows())) + 25_000)
        told |= {
            "scans": keep,
            "trades": len(journal.trades()),
            "decisions_sha256": journal.decisions_sha256(),
        }
        (folder / "summary.json").write_text(json.dumps(told))
        journal.close()


def test_a_run_that_is_cut_off_consistently_is_found_by_its_market(done: Path) -> None:
    exits = [trade.exit_bar for trade in read_trades(done)]
    keep = exits[len(exits) // 2] + 1
    cut_everything(done, keep, summary=True)
    assert findings(done) == [f"the run is finished with {keep} bars, the market has 1100"]
    journal = ColumnJournal.open(done / "journal.db")
    journal.set_meta({"status": "interrupted"})
    journal.close()
    told = json.loads((done / "summary.json").read_text())
    (done / "summary.json").write_text(json.dumps({**told, "interrupted": True}))
    assert findings(done) == []


def test_a_run_that_is_cut_off_without_its_summary_is_found_by_it(done: Path) -> None:
    before = json.loads((done / "summary.json").read_text())
    trades = read_trades(done)
    keep = trades[len(trades) // 2].exit_bar + 1
    cut_everything(done, keep, summary=False)
    found = findings(done)
    assert [line.split(",")[0] for line in found] == [
        f"the run is finished with {keep} bars",
        "summary.json tells scans 1100",
        f"summary.json tells trades {before['trades']}",
        f"summary.json tells capital {before['capital']!r}",
        f"summary.json tells decisions_sha256 {before['decisions_sha256']!r}",
    ]


def test_bars_in_a_journal_of_every_bar_are_the_market_s(
    long_cache: CacheReader, settings: BacktestSettings
) -> None:
    _, folder = bar_by_bar(long_cache, settings)
    assert findings(folder) == []
    journal = read_journal(folder)
    market = prices_of_run(journal.meta())
    assert market is not None
    rows = market.rows
    longer = MarketRows(*(np.append(values, values[-1:] + 1) for values in rows))
    shorter = MarketRows(*(values[:-1] for values in rows))
    other = rows._replace(vel_div=np.where(np.arange(1100) == 7, -rows.vel_div, rows.vel_div))
    for changed, text in (
        (longer, "the run is finished with 1100 bars, the market has 1101"),
        (shorter, "1100 bars, the market has 1099"),
        (other, "bar 7: its vel_div is "),
    ):
        (found,) = audit(journal, LOOSE, rows=changed).findings
        assert found.startswith(text)
    journal.close()


def test_a_chunk_without_a_bar_is_a_finding(done: Path) -> None:
    table = pq.read_table(done / BARS_FILE)
    with pq.ParquetWriter(done / BARS_FILE, table.schema) as writer:
        writer.write_table(table.slice(0, 0))
        writer.write_table(table)
        writer.write_table(table.slice(0, 0))
    journal = ColumnJournal.open(done / "journal.db")
    journal.set_meta({"bars_sha256": journal.bars_sha256()})
    journal.close()
    assert findings(done) == [
        "bars.parquet: a chunk without a bar lies before bar 0",
        "bars.parquet: a chunk without a bar lies before bar 1100",
    ]


TAMPERED = {
    "a leg": ("UPDATE cash_flows SET amount_e8 = amount_e8 + 100 WHERE leg = 'price_pnl'", "is booked as"),
    "an exit gone": ("DELETE FROM decisions WHERE action = 3", "an entry or exit without its decision"),
    "an unsealed row": ("UPDATE decisions SET equity = equity + 1", "its checksum differs"),
    "a day": ("DELETE FROM days WHERE date = (SELECT min(date) FROM days)", "is over and has no result"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_a_changed_row_is_found(case: str, done: Path) -> None:
    statement, text = TAMPERED[case]
    connection = sqlite3.connect(done / "journal.db")
    with connection:
        connection.execute(statement)
    connection.close()
    found = findings(done)
    assert any(text in line for line in found), found


@pytest.mark.parametrize("how", ["gone", "cut off", "another file"])
def test_a_damaged_file_of_bars_is_one_line(how: str, done: Path) -> None:
    path = done / BARS_FILE
    content = path.read_bytes()
    path.write_bytes(b"no parquet" if how == "another file" else content[: len(content) // 2])
    if how == "gone":
        path.unlink()
    journal = read_journal(done)
    with pytest.raises(DataError, match=r"bars\.parquet: cannot be read .*run the backtest again") as caught:
        audit(journal, LOOSE)
    journal.close()
    assert "\n" not in str(caught.value)


def test_prices_of_scans_that_are_not_there(long_cache: CacheReader, settings: BacktestSettings) -> None:
    prices = MarketPrices(prepare(long_cache, settings).market)
    assert prices.price_of(1, "DOGEUSDT") is None
    assert prices.price_of(10**9, "BTCUSDT") is None
    assert prices.price_of(1, "BTCUSDT") == prices.market.prices[0, 0]
    assert np.isnan(prices.prices_at(np.array([0, 1]), np.array([0, 9]))).all()


# -- verify ----------------------------------------------------------------------------------------------


def test_all_days_verified(long_cache: CacheReader, done: Path, settings: BacktestSettings) -> None:
    summary = json.loads((done / "summary.json").read_text())
    found = verify(prepare_again(long_cache, settings), settings, 99)
    assert (found.days, found.bars, found.trades) == (
        long_cache.days(),
        summary["scans"],
        summary["trades"],
    )


def test_verify_names_day_bar_and_field(
    long_cache: CacheReader, done: Path, settings: BacktestSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dolphin.backtest import verify as module

    market = prepare_again(long_cache, settings)
    real = module.step_at
    last = long_cache.days()[-1]

    def other(session: Any, market: Any, bar: int) -> Any:
        step = real(session, market, bar)
        capital = (
            np.nextafter(step.decision.capital, np.inf) if bar == len(market) - 2 else step.decision.capital
        )
        return replace(step, decision=msgspec.structs.replace(step.decision, capital=float(capital)))

    monkeypatch.setattr(module, "step_at", other)
    with pytest.raises(InvariantError, match=rf"{last}, bar {len(market) - 2}: capital is .* step_bar gives"):
        verify(market, settings, 2)


def test_verify_reads_what_lies_in_the_folder(
    long_cache: CacheReader, done: Path, settings: BacktestSettings
) -> None:
    rewrite(done, set_at("price", lambda v: v + 1.0))
    with pytest.raises(InvariantError, match="is another than step_bar gives"):
        verify(prepare_again(long_cache, settings), settings, 99)


@pytest.fixture
def false_columns(long_cache: CacheReader) -> CacheReader:
    """A cache whose mapped prices fall by a third, though its days' files do not."""
    columns = Columns.open(long_cache)
    assert columns.mapped
    (raw,) = (long_cache.folder / ".columns").rglob("prices")
    prices = np.fromfile(raw).reshape(columns.prices.shape)
    prices[:, 1:] *= np.linspace(1.0, 0.66, len(prices))[:, None]
    raw.write_bytes(prices.tobytes())
    return long_cache


def test_a_run_on_false_columns_is_not_proved(
    false_columns: CacheReader, settings: BacktestSettings, tmp_path: Path
) -> None:
    """The ordinary backtest is deceived; audit, --verify and a repetition each find it on their own."""
    ready = prepare(false_columns, settings)
    summary = backtest(false_columns, settings, ready=ready)
    truth, _ = bar_by_bar(false_columns, settings)
    assert summary["ledger_balanced"]
    assert summary["decisions_sha256"] != truth["decisions_sha256"]
    lies = {
        path: path.read_bytes() for path in (false_columns.folder / ".columns").rglob("*") if path.is_file()
    }

    def lie_again() -> None:
        shutil.rmtree(false_columns.folder / ".columns")
        for path, content in lies.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    assert any("scan" in line and "says" in line for line in findings(settings.folder))
    lie_again()
    with pytest.raises(InvariantError, match="prices of the mapped columns is not what the day's file holds"):
        verify(ready.market, settings, 1)
    lie_again()
    meta = read_meta(settings.folder)
    repeated = again(settings.folder, meta, tmp_path / "again")
    assert repeated["decisions_sha256"] == truth["decisions_sha256"]
    assert compare(settings.folder, repeated, tmp_path / "again")
    healed = backtest(false_columns, replace(settings, folder=tmp_path / "healed"))
    assert healed["decisions_sha256"] == truth["decisions_sha256"]


def read_meta(folder: Path) -> dict[str, str]:
    journal = read_journal(folder)
    try:
        return journal.meta()
    finally:
        journal.close()


def test_a_sample_has_the_busiest_and_the_last_whole_day_and_stubs_come_last() -> None:
    days = tuple(f"2021-01-{k:02}" for k in range(1, 31))
    bars = dict.fromkeys(days, 1440) | {days[0]: 688, days[-1]: 1}
    closed = {days[0]: 99, days[11]: 9, days[20]: 9, days[5]: 3}
    for n in range(2, 29):
        sample = sample_days(bars, closed, n)
        assert len(sample) == n
        assert {days[11], days[28]} <= {*sample}
        assert not {days[0], days[-1]} & {*sample}
        assert tuple(sorted(set(sample))) == sample == sample_days(bars, closed, n)
    assert sample_days(bars, closed, 1) == (days[11],)
    assert {*sample_days(bars, closed, 29)} - {days[0], days[-1]} == {*days[1:-1]}
    assert sample_days(bars, closed, 40) == days


# -- refusals --------------------------------------------------------------------------------------------


def damaged(cache: CacheReader, day: str, change: Callable[[dict[str, Any]], None]) -> CacheReader:
    """The cache with a day's file changed, and a manifest that tells of the file as it is now."""
    import hashlib

    import pyarrow as pa

    path = cache.folder / f"{day}.parquet"
    table = pq.read_table(path)
    columns = {name: table.column(name).to_numpy().copy() for name in table.schema.names}
    change(columns)
    arrays = [pa.array(v, type=table.schema.field(k).type) for k, v in columns.items()]
    pq.write_table(pa.table(arrays, schema=table.schema), path)
    manifest = json.loads((cache.folder / "manifest.json").read_text())
    entry = manifest["days"][day]
    entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    entry["rows"] = len(columns["timestamp_ns"])
    entry["last_timestamp_ns"] = int(columns["timestamp_ns"][-1])
    (cache.folder / "manifest.json").write_text(json.dumps(manifest))
    return CacheReader(cache.folder)


def without(row: int) -> Callable[[dict[str, Any]], None]:
    def change(columns: dict[str, Any]) -> None:
        for name in columns:
            columns[name] = np.delete(columns[name], row)

    return change


def twice(columns: dict[str, Any]) -> None:
    columns["scan_number"][60] = columns["scan_number"][59]


@pytest.mark.parametrize(
    ("change", "text"), [(without(50), "1 hole in its scan numbers"), (twice, "numbers must grow")]
)
def test_a_gap_or_a_number_given_twice_is_refused_and_nothing_is_written(
    long_cache: CacheReader, settings: BacktestSettings, change: Any, text: str
) -> None:
    day = long_cache.days()[2]
    with pytest.raises(DataError, match=rf"{day} is refused: .*{text}") as caught:
        backtest(damaged(long_cache, day, change), settings)
    assert "\n" not in str(caught.value)
    assert not settings.folder.exists()


def test_a_half_built_day_is_refused_and_allowed_on_demand(
    tmp_path: Path, long_scans: list[Any], settings: BacktestSettings
) -> None:
    cache = write_cache(tmp_path / "half", long_scans[:-40], complete=False)
    day = cache.days()[-1]
    with pytest.raises(DataError, match=f"{day} is refused: half built, its last scan is of"):
        backtest(cache, settings)
    assert not settings.folder.exists()
    ours = backtest(cache, replace(settings, allow_partial=True))
    theirs, _ = bar_by_bar(cache, replace(settings, allow_partial=True))
    assert ours["partial"] == theirs["partial"] != []
    assert ours["notes"] == theirs["notes"]
    assert ours["decisions_sha256"] == theirs["decisions_sha256"]
    assert findings(settings.folder) == []


def test_a_build_without_its_end_is_refused_by_both_engines_unless_a_last_day_is_named(
    tmp_path: Path, long_scans: list[Any], settings: BacktestSettings
) -> None:
    whole = write_cache(tmp_path / "whole-cache", long_scans)
    days = whole.days()[:3]
    path = whole.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest |= {"finished": False, "days": {day: manifest["days"][day] for day in days}}
    path.write_text(json.dumps(manifest))
    cache = CacheReader(whole.folder)
    for engine in (backtest, bar_by_bar):
        with pytest.raises(PartialDayError, match=f"has not reached its end; last whole day {days[-1]}"):
            engine(cache, settings)
    assert not settings.folder.exists()
    assert not settings.folder.with_name("steps").exists()
    allowed, told = replace(settings, allow_partial=True), f"{days[-1]}: the build has not reached its end"
    ours, (theirs, _) = backtest(cache, allowed), bar_by_bar(cache, allowed)
    assert ours["partial"] == theirs["partial"] == [f"{told}, this is its last whole day"]
    assert ours["notes"] == theirs["notes"]
    named = backtest(cache, replace(settings, folder=tmp_path / "named", last_day=days[-1]))
    assert (named["partial"], named["decisions_sha256"]) == ([], ours["decisions_sha256"])


def test_missing_bars_of_the_days_are_counted(
    tmp_path: Path, long_scans: list[Any], settings: BacktestSettings
) -> None:
    gone = {100, 101, 600}
    kept = [
        msgspec.structs.replace(scan, scan_number=k + 1)
        for k, scan in enumerate(s for k, s in enumerate(long_scans) if k not in gone)
    ]
    cache = write_cache(tmp_path / "gaps", kept)
    ours, (theirs, _) = backtest(cache, settings), bar_by_bar(cache, settings)
    assert (ours["gaps"], ours["bars_missing"]) == (theirs["gaps"], theirs["bars_missing"]) == (2, 3)
    one = backtest(cache, replace(settings, folder=tmp_path / "one", last_day=cache.days()[0]))
    gaps = [gap for gap in cache.manifest.gaps if day_from_ns(gap[1]) == cache.days()[0]]
    assert one["bars_missing"] == sum(gap[2] for gap in gaps)


def test_a_hole_is_allowed_on_demand(long_cache: CacheReader, settings: BacktestSettings) -> None:
    cache = damaged(long_cache, long_cache.days()[2], without(50))
    asked = replace(settings, allow_partial=True)
    ours, (theirs, _) = backtest(cache, asked), bar_by_bar(cache, asked)
    assert ours["decisions_sha256"] == theirs["decisions_sha256"]
    assert ours["partial"] == theirs["partial"] != []


def test_other_refusals_write_nothing(long_cache: CacheReader, settings: BacktestSettings) -> None:
    with pytest.raises(DataError, match="no day between 2030-01-01 and None"):
        backtest(long_cache, replace(settings, first_day="2030-01-01"))
    with pytest.raises(Exception, match="deployment BLUE trades SHORT only"):
        backtest(long_cache, replace(settings, params=GREEN))
    assert not settings.folder.exists()
    backtest(long_cache, settings)
    with pytest.raises(StoreError, match="a run is here already"):
        backtest(long_cache, settings)


def test_a_backtest_that_fails_before_its_first_bar_leaves_no_run(
    long_cache: CacheReader, settings: BacktestSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dolphin.backtest.period import PeriodRunner

    def fails(self: PeriodRunner, *args: Any, **words: Any) -> Any:
        raise DataError("a test")

    with monkeypatch.context() as patch:
        patch.setattr(PeriodRunner, "run", fails)
        with pytest.raises(DataError, match="a test"):
            backtest(long_cache, settings)
    assert list(settings.folder.iterdir()) == [settings.folder / "journal.db.lock"]
    assert backtest(long_cache, settings)["ledger_balanced"]


def test_a_cache_that_changed_proves_no_price(long_cache: CacheReader, done: Path) -> None:
    damaged(long_cache, long_cache.days()[2], twice)
    journal = read_journal(done)
    assert prices_of_run(journal.meta()) is None
    shutil.rmtree(long_cache.folder)
    assert prices_of_run(journal.meta()) is None
    journal.close()
