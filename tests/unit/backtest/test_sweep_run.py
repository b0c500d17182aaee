"""A sweep's rows, folder and trials: what the period engine gives binding by binding, whatever happens."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from sweep_market import BARS_A_DAY, PLAN, build_cache

from dolphin.backtest.period import PeriodRunner
from dolphin.backtest.sweep import design as sweep_design
from dolphin.backtest.sweep import pieces
from dolphin.backtest.sweep import run as sweep_run
from dolphin.backtest.sweep.plan import plan_of
from dolphin.backtest.sweep.store import Rows, SweepStore, canonical_bytes
from dolphin.backtest.sweep.trials import NAME, TrialLedger
from dolphin.domain.errors import DataError, StoreError
from dolphin.host.summary import sharpe_ratio
from dolphin.market.columns import Columns, period_inputs
from dolphin.market.scan_cache import CacheReader
from dolphin.research import sweep_worth

N = 24


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("cache")
    build_cache(root)
    return root


@pytest.fixture
def cache(root):
    (root / "scan_cache" / NAME).unlink(missing_ok=True)
    return CacheReader(root)


def plan(text=PLAN, **changes):
    return plan_of({**yaml.safe_load(text), **changes}, "plan.yml")


@pytest.fixture
def run(cache, tmp_path):
    def call(out="out", asked=None, **options):
        options = {"bindings_per_part": 7, "threads": 2, **options}
        root = cache.folder.parent
        return sweep_run.sweep(asked or plan(), cache, tmp_path / out, cache_root=root, **options)

    return call


def files(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_ino for p in folder.rglob("*.parquet")}


def test_rows_are_what_the_period_engine_gives_one_by_one(run, cache, tmp_path):
    done = run()
    runner = PeriodRunner(period_inputs(Columns.open(cache)), vol_threshold=0.0001)
    assert len(done.rows) == N
    assert len(set(done.rows.columns["trades"])) > 5  # they do differ
    for k in range(N):
        params = done.params(k)
        twin = runner.run(params)
        row = {name: values[k] for name, values in done.rows.columns.items()}
        totals = twin.totals
        assert row["set_hash"].decode() == params.hash()
        assert not params.use_ob_edge
        for name in ("trades", "wins", "net", "price_pnl", "slippage", "ob_edge", "max_drawdown", "capital"):
            assert row[name] == getattr(totals, name), name
        assert row["roi"] == totals.net / params.initial_capital
        assert row["roi_marked"] == totals.equity / params.initial_capital - 1.0
        assert row["fees"] == totals.entry_fees + totals.exit_fees
        assert row["sharpe"] == sharpe_ratio(twin.daily_equity.tolist(), params.initial_capital)
        assert row["profit_factor"] == totals.gross_profit / totals.gross_loss
        assert row["win_rate"] == totals.wins / totals.trades
        for name in ("vel_div_threshold", "vel_div_extreme", "fixed_tp_pct", "max_hold_bars"):
            assert row[name] == getattr(params, name)
        assert done.rows.daily[k].tolist() == twin.daily_equity.tolist()
    base = runner.run(plan().base_set)
    assert done.base.columns["net"][0] == base.totals.net


def test_what_is_on_the_disk_is_what_is_returned(run, tmp_path):
    done = run()
    results = pq.read_table(tmp_path / "out" / "results")
    daily = pq.read_table(tmp_path / "out" / "daily")
    assert results.num_rows == daily.num_rows == N
    assert results.column("binding").to_pylist() == list(range(N))
    assert results.column("net").to_pylist() == done.rows.columns["net"].tolist()
    assert results.column("vel_div_extreme_ratio").to_pylist()[:8] == [1.5] * 6 + [2.5] * 2
    assert daily.column_names[1:] == list(done.days)
    assert daily.column(done.days[-1]).to_pylist() == done.rows.daily[:, -1].tolist()
    manifest = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert manifest["bindings"] == N
    assert manifest["result_sha256"] == done.manifest.result_sha256


def test_the_result_does_not_depend_on_threads_nor_on_parts(run):
    digests = {
        run(f"out{k}", threads=threads, bindings_per_part=size).manifest.result_sha256
        for k, (threads, size) in enumerate(((1, 500), (2, 7), (3, 1)))
    }
    assert len(digests) == 1
    assert run("other", plan(base="gold")).manifest.result_sha256 not in digests


def test_an_interrupted_sweep_goes_on_after_its_last_whole_part(run, tmp_path):
    whole = run("whole")

    def stop(phase, done, total):
        if phase == "bindings" and done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(progress=stop)
    before = files(tmp_path / "out")
    assert sorted(before) == ["daily/part-00000.parquet", "results/part-00000.parquet"]
    done = run()
    assert done.computed == N - 7
    assert done.manifest.result_sha256 == whole.manifest.result_sha256
    after = files(tmp_path / "out")
    assert {name: after[name] for name in before} == before  # untouched
    assert run().computed == 0
    assert files(tmp_path / "out") == after


@pytest.mark.parametrize("kind", ["results", "daily"])
@pytest.mark.parametrize("harm", ["gone", "cut", "other numbers"])
def test_a_part_that_is_not_whole_is_run_again(run, tmp_path, kind, harm):
    digest = run().manifest.result_sha256
    path = tmp_path / "out" / kind / "part-00001.parquet"
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        table = pq.read_table(path)
        column = table.column_names[-1] if kind == "daily" else "net"
        values = table.column(column).to_numpy() + 1.0
        place = table.column_names.index(column)
        pq.write_table(table.set_column(place, column, [values]), path)
    again = run()
    assert again.computed == 7
    assert again.manifest.result_sha256 == digest


def test_a_part_of_another_sweep_is_not_believed(run, tmp_path):
    digest = run().manifest.result_sha256
    run("other", plan(vol_threshold=0.00011))
    for kind in ("results", "daily"):
        name = f"{kind}/part-00002.parquet"
        (tmp_path / "out" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    again = run()
    assert again.computed == 7
    assert again.manifest.result_sha256 == digest


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"base": "gold"}, "another plan (base: name \"champion\" there, \"gold\" here"),
        ({"last_day": "2026-01-09"}, "another plan (last_day nothing there, \"2026-01-09\" here)"),
        ({"options": {"fee_scale": 2.0}}, "another plan (options: fee_scale 1.0 there, 2.0 here)"),
    ],
)  # fmt: skip
def test_another_plan_in_the_folder_is_refused_with_what_differs(run, changes, told):
    run()
    with pytest.raises(StoreError) as error:
        run(asked=plan(**changes))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_other_data_in_the_folder_are_refused(run, cache, tmp_path):
    run()
    build_cache(tmp_path / "cache", seed=2)
    with pytest.raises(StoreError, match=r"other data \(content of a day's file\)"):
        sweep_run.sweep(
            plan(), CacheReader(tmp_path / "cache"), tmp_path / "out", cache_root=tmp_path / "cache"
        )
    build_cache(tmp_path / "longer", n_days=11)
    with pytest.raises(StoreError, match="days 10 there, 11 here"):
        sweep_run.sweep(plan(), CacheReader(tmp_path / "longer"), tmp_path / "out", cache_root=tmp_path)


def test_other_code_goes_on_only_when_asked_and_the_manifest_says_so(run, tmp_path, monkeypatch):
    def stop(phase, done, total):
        if phase == "bindings" and done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(progress=stop)
    monkeypatch.setattr(sweep_run, "code_sha256", lambda: "f" * 64)
    with pytest.raises(StoreError, match=r"begun by other code .*ffffffffffff.*--other-code"):
        run()
    done = run(other_code=True)
    assert done.computed == N - 7
    manifest = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [entry["sha256"] for entry in manifest["other_code"]] == ["f" * 64]
    assert run().computed == 0  # it is finished: nothing is left to run


def test_a_finished_folder_with_other_columns_is_refused(run, monkeypatch):
    run()
    whole = sweep_run.rows_of

    def more(*args):
        made = whole(*args)
        made.columns["another"] = made.columns["net"]
        return made

    monkeypatch.setattr(sweep_run, "rows_of", more)
    with pytest.raises(StoreError, match="with other columns than"):
        run()


def test_a_digest_of_code_is_of_this_code(monkeypatch, tmp_path):
    assert len(sweep_run.code_sha256()) == 64
    before = sweep_run.code_sha256()
    monkeypatch.setattr(sweep_run, "_CODE", sweep_run._CODE[:-1])
    assert sweep_run.code_sha256() != before


def test_two_sweeps_in_one_folder_at_once_are_refused(run):
    def second(phase, done, total):
        if phase == "bindings":
            with pytest.raises(StoreError, match="another sweep is at work here"):
                run()

    assert run(progress=second).computed == N


def test_a_folder_with_results_but_without_a_manifest_is_refused(run, tmp_path):
    run()
    (tmp_path / "out" / "sweep.json").unlink()
    with pytest.raises(StoreError, match=r"holds results without sweep\.json"):
        run()
    (tmp_path / "out" / "sweep.json").write_text("{")
    with pytest.raises(StoreError, match="cannot be read as a sweep's manifest"):
        run()


def test_every_sweep_on_these_days_counts_and_the_same_one_counts_once(run, cache, tmp_path):
    assert run().trials_ledger == N
    assert run().trials_ledger == N
    assert run("again").trials_ledger == N
    half = plan(last_day="2026-01-08")
    assert run("half", half).trials_ledger == 2 * N
    late = plan(first_day="2026-01-09")
    assert run("late", late).trials_ledger == 2 * N  # the half's days are others
    assert run().trials_ledger == 3 * N
    assert (cache.folder / NAME).exists()


def test_trials_are_counted_before_their_part_can_be_seen(run, cache, tmp_path, monkeypatch):
    class StopError(Exception):
        pass

    def put(self, *args):
        raise StopError

    monkeypatch.setattr("dolphin.backtest.sweep.run.SweepStore.put_part", put)
    with pytest.raises(StopError):
        run()
    assert TrialLedger(cache.folder.parent, tmp_path / "out").total("2026-01-05", "2026-01-05") == 7


def test_a_ledger_that_cannot_be_read_stops_a_sweep(run, cache):
    (cache.folder / NAME).write_text("[]")
    with pytest.raises(StoreError, match="cannot be read as a ledger of trials"):
        run()


def test_refused_combinations_are_listed(run, tmp_path):
    axes = {"vel_div_threshold": [-0.02, -0.06], "max_hold_bars": [10, 20]}
    done = run(asked=plan(parameters=axes))
    assert (len(done.rows), done.manifest.refused) == (2, 2)
    lines = [json.loads(line) for line in (tmp_path / "out" / "refused.jsonl").read_text().splitlines()]
    assert [line["design_index"] for line in lines] == [2, 3]
    assert done.rows.columns["design_index"].tolist() == [0, 1]
    assert done.manifest.refused_by_rule[0]["count"] == 2


# -- a period that does not fit into memory ----------------------------------------------------------------


def memory_for(days: int, part: int = 7) -> int:
    """Memory that takes pieces of so many days of the test's market, and no more."""
    fixed = part * pieces.BYTES_PER_CARRY + pieces.HISTORY_MAX * 5 * pieces._BYTES_PER_PRICE
    return fixed + pieces.bytes_of(days * BARS_A_DAY, 5)


@pytest.mark.parametrize(("days", "n_pieces"), [(1, 10), (2, 5), (3, 4), (5, 2)])
def test_the_result_does_not_depend_on_pieces(run, days, n_pieces):
    whole = run("whole", memory=10**9)
    cut = run(memory=memory_for(days))
    assert len(whole.period.pieces) == 1
    assert len(cut.period.pieces) == n_pieces
    assert cut.manifest.result_sha256 == whole.manifest.result_sha256
    assert canonical_bytes(cut.base) == canonical_bytes(whole.base)
    assert (cut.days, cut.notes, cut.ran, cut.computed) == (whole.days, whole.notes, N, N)
    again = run(memory=memory_for(days))
    assert (again.computed, again.ran) == (0, 0)
    assert canonical_bytes(again.base) == canonical_bytes(whole.base)


def test_what_the_volatility_gate_has_seen_goes_over_the_edges(run):
    """A gate that opens and closes often: one that forgot at every edge would let other trades in."""
    asked = plan(vol_threshold=0.00085)
    whole, cut = run("whole", asked, memory=10**9), run("cut", asked, memory=memory_for(1))
    assert whole.rows.columns["trades"].max() < run("open").rows.columns["trades"].max()
    assert cut.manifest.result_sha256 == whole.manifest.result_sha256


def test_what_the_best_is_worth_does_not_depend_on_pieces(run):
    found = [sweep_worth.worth(run(f"out{k}", memory=m)) for k, m in enumerate((10**9, memory_for(3)))]
    assert found[0]["interval"] is not None
    assert found[0] == found[1]


@pytest.mark.parametrize("memory", [2, 3, None])
@pytest.mark.parametrize("last", [1, 6, 16])
def test_an_interrupted_sweep_in_pieces_goes_on_after_its_last_part_and_piece(
    run, tmp_path, monkeypatch, last, memory
):
    """Whatever the memory is when it goes on: pieces are cut where parts stand."""
    whole = run("whole", memory=10**9)
    put = SweepStore.put_carried
    written = []

    def stop(self, number, carried, stamp):
        put(self, number, carried, stamp)
        written.append((number, carried.through))
        if len(written) == last:
            raise KeyboardInterrupt

    monkeypatch.setattr(SweepStore, "put_carried", stop)
    with pytest.raises(KeyboardInterrupt):
        run(memory=memory_for(2))
    monkeypatch.undo()
    assert written == [(k % 4, f"2026-01-{6 + k // 4 * 2:02d}") for k in range(last)]  # four parts
    done = run(memory=10**9 if memory is None else memory_for(memory))
    fifths = sum(3 if number == 3 else 7 for number, _ in written)
    assert done.ran == pytest.approx((5 * N - fifths) / 5)
    assert done.computed == N
    assert done.manifest.result_sha256 == whole.manifest.result_sha256
    assert canonical_bytes(done.base) == canonical_bytes(whole.base)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["daily", "results", "sweep.json"]


@pytest.mark.parametrize("harm", ["gone", "cut", "other numbers", "of another plan"])
def test_a_part_that_does_not_stand_where_it_says_begins_again(run, tmp_path, monkeypatch, harm):
    def interrupted(out, **options):
        def stop(phase, done, total):
            if phase == "bindings" and done > 8:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(out, memory=memory_for(3), progress=stop, **options)

    interrupted("out")
    path = tmp_path / "out" / "carried" / "part-00001.parquet"
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif harm == "other numbers":
        table = pq.read_table(path)
        values = table.column("floats").to_pylist()
        values[0] = np.full(len(values[0]) // 8, 1.0).tobytes()
        pq.write_table(table.set_column(0, "floats", [values]), path)
    else:
        interrupted("other", asked=plan(vol_threshold=0.00011))
        path.write_bytes((tmp_path / "other" / "carried" / path.name).read_bytes())
    whole = run("whole", memory=10**9)
    done = run(memory=memory_for(3))
    assert done.ran == pytest.approx(7 + 17 * 0.7)
    assert done.manifest.result_sha256 == whole.manifest.result_sha256


def test_trials_are_counted_before_a_part_can_be_seen_on_its_way(run, cache, tmp_path, monkeypatch):
    class StopError(Exception):
        pass

    def put(self, *args):
        raise StopError

    monkeypatch.setattr(SweepStore, "put_carried", put)
    with pytest.raises(StopError):
        run(memory=memory_for(2))
    assert TrialLedger(cache.folder.parent, tmp_path / "out").total("2026-01-05", "2026-01-05") == 7


def test_days_missing_at_an_edge_are_told_as_within_a_piece(tmp_path):
    cache = build_cache(tmp_path / "cache")
    for day in ("2026-01-07", "2026-01-08"):
        del cache.manifest.days[day]
    whole, cut = (pieces.Period(plan(), cache, memory) for memory in (10**9, memory_for(2, part=1)))
    assert whole.notes == cut.notes == ("2 days missing between 2026-01-06 and 2026-01-09",)
    assert cut.pieces == ((0, 1), (2, 3), (4, 5), (6, 7))


def test_a_day_that_an_edge_cuts_appears_once():
    days, daily = pieces.joined_days(("a", "b"), np.array([[1.0, 2.0]]), ("b", "c"), np.array([[3.0, 4.0]]))
    assert days == ("a", "b", "c")
    assert daily.tolist() == [[1.0, 3.0, 4.0]]
    days, daily = pieces.joined_days((), np.zeros((1, 0)), ("a",), np.array([[5.0]]))
    assert (days, daily.tolist()) == (("a",), [[5.0]])


def test_a_day_that_does_not_fit_alone_is_refused(run):
    with pytest.raises(DataError, match=r"2026-01-05 alone, 5 assets.*a part of 7 bindings.*--memory-gb"):
        run(memory=memory_for(1) - 1)


def test_walks_that_bindings_share_take_room():
    alone = sweep_design.enumerated(plan())
    assert pieces.shared_by(plan(), alone) == (1, 1)
    more = plan(parameters={"min_irp_alignment": [0.1, 0.2, 0.3], "max_hold_bars": [10, 20, 30]})
    assert pieces.shared_by(more, sweep_design.enumerated(more)) == (1, 3)
    few = plan(parameters={"min_irp_alignment": [0.1, 0.2, 0.3]})
    assert pieces.shared_by(few, sweep_design.enumerated(few)) == (1, 1)
    assert pieces.bytes_of(100, 5, 2, 3) > pieces.bytes_of(100, 5, 1, 3) > pieces.bytes_of(100, 5)


def test_days_that_are_not_there_are_refused(run):
    with pytest.raises(
        DataError, match="no day from 2027-01-01 to the last; it has 2026-01-05 to 2026-01-14"
    ):
        run(asked=plan(first_day="2027-01-01"))


def test_canonical_bytes_know_one_nan_and_every_bit():
    def rows(x):
        columns = {"set_hash": np.array([b"a" * 16]), "net": np.array([x])}
        return canonical_bytes(Rows(columns, np.array([[1.0]])))

    other_nan = np.array([0x7FF8000000000001], np.uint64).view(np.float64)[0]
    assert rows(np.nan) == rows(other_nan) == rows(-np.nan)
    assert rows(1.0) != rows(np.nextafter(1.0, 2.0))
    assert rows(1.0) == b"a" * 16 + np.array([1.0, 1.0], "<f8").tobytes()


def test_a_manifest_is_read_back_as_it_was(run, tmp_path):
    done = run()
    text = (tmp_path / "out" / "sweep.json").read_text()
    assert json.loads(text) == msgspec.to_builtins(done.manifest)
