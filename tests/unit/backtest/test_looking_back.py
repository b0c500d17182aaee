"""Explaining, forking and reproducing: everything shown is what the engine does, and nothing is copied."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from backtest_market import STEP_NS, market_scans

from dolphin.backtest.explain import explain
from dolphin.backtest.flips import flips
from dolphin.backtest.folder import Run, open_run
from dolphin.backtest.fork import as_dict, changed, fork
from dolphin.backtest.moment import Moment, moment_of
from dolphin.backtest.replay import replay
from dolphin.backtest.reproduce import again, changes, compare
from dolphin.backtest.settings import BacktestSettings
from dolphin.backtest.whole import backtest
from dolphin.commands.explain import lines
from dolphin.domain import codes
from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import ConfigError, DataError, InvariantError
from dolphin.domain.params import GOLD
from dolphin.host.identity import code_sha256, data_sha256
from dolphin.journal.bar_columns import BARS_FILE, ColumnJournal
from dolphin.journal.ledger import ClosedTrade
from dolphin.journal.store import Journal
from dolphin.market.scan_cache import CacheReader
from dolphin.market.scan_store import ScanStore
from dolphin.report.fork import render

PARAMS = GOLD.with_values({"max_hold_bars": 25, "fixed_tp_pct": 0.004, "min_irp_alignment": 0.3})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, long_scans: list[Any]) -> tuple[Path, Path]:
    """(by the period engine, bar by bar) over one cache that nobody changes."""
    from backtest_market import write_cache

    root = tmp_path_factory.mktemp("looking-back")
    cache = write_cache(root / "cache", long_scans)
    settings = BacktestSettings(set_name="gold+x", params=PARAMS, folder=root / "whole", report=False)
    backtest(cache, settings)
    replay(cache, replace(settings, folder=root / "steps"))
    return root / "whole", root / "steps"


@pytest.fixture(params=["whole", "steps"])
def run(request: pytest.FixtureRequest, folders: tuple[Path, Path]) -> Iterator[Run]:
    with open_run(folders[request.param == "steps"]) as found:
        yield found


@pytest.fixture
def whole(folders: tuple[Path, Path]) -> Iterator[Run]:
    with open_run(folders[0]) as found:
        yield found


def bars_of(run: Run, n: int = 9) -> list[int]:
    """Bars of every reason that the run met, a few of each."""
    seen: dict[bytes, list[int]] = {}
    for bar, _, record in run.journal.canonicals():
        seen.setdefault(record[16:18], []).append(bar)
    return sorted(bar for bars in seen.values() for bar in bars[:: max(1, len(bars) // n)][:n])


def shut_of(told: dict[str, Any]) -> list[str]:
    """The gates that are shut, in the engine's order."""
    return [gate["gate"] for gate in told["gates"] if gate["passed"] is False]


def gate_of(told: dict[str, Any], name: str) -> dict[str, Any]:
    """One gate of an explained bar."""
    (found,) = [gate for gate in told["gates"] if gate["gate"] == name]
    return dict(found)


def run_over(folders: tuple[Path, Path], folder: Path, **settings: Any) -> Path:
    """Another run over the same cache."""
    with open_run(folders[0]) as run:
        cache = CacheReader(run.meta["cache"])
    backtest(
        cache,
        BacktestSettings(**{"set_name": "other", "params": PARAMS, **settings}, folder=folder, report=False),
    )
    return folder


# -- explain ---------------------------------------------------------------------------------------------


def test_every_kind_of_bar_is_explained_by_the_gate_that_decided_it(run: Run) -> None:
    gates = {
        "NO_SIGNAL": "signal",
        "WARMING_UP": "warm-up",
        "VOL_GATE": "volatility",
        "NO_ASSET": "asset",
        "DC_REFUSED": "direction confirmation",
        "FIXED_TP": "take profit",
        "STOP_LOSS": "stop loss",
        "MAX_HOLD": "max hold",
        "LIQUIDATION_GUARD": "liquidation guard",
    }
    met = set()
    for bar in bars_of(run):
        told = explain(run, bar, with_flips=False)
        shut = shut_of(told)
        met.add(told["reason"])
        if told["reason"] in ("NONE", "SIGNAL"):
            assert shut == [], told
        else:
            assert shut[0] == gates[told["reason"]], told
        for gate in told["gates"]:
            assert (gate["passed"] is None) == (gate["needs"] == ""), gate
            if gate["margin"] is not None and math.isfinite(gate["margin"]) and gate["margin"] != 0.0:
                assert (gate["margin"] > 0.0) == gate["passed"], gate
    assert met >= {"NO_SIGNAL", "WARMING_UP", "VOL_GATE", "SIGNAL", "NONE", "FIXED_TP", "DC_REFUSED"}


def test_an_entry_s_sizing_lanes_and_rank_are_its_decision_s(run: Run) -> None:
    entries = [d for d in run.journal.decisions(active=True) if d.action == codes.ACTION_ENTER]
    assert len(entries) > 5
    for entry in entries[::4]:
        told = explain(run, entry.bar_idx, with_flips=False)
        assert told["entered"]
        assert told["sizing"]["strength"] == entry.strength
        assert told["sizing"]["fraction"] == entry.fraction
        assert told["sizing"]["bucket"] == codes.BUCKETS[entry.bucket]
        assert (told["sizing"]["bucket_boost"], told["sizing"]["streak"], told["sizing"]["trend"]) == (
            entry.bucket_boost,
            entry.streak,
            entry.trend,
        )
        assert list(told["lanes"].values()) == [
            entry.lane_base,
            entry.lane_dc,
            entry.lane_regime,
            entry.lane_ob,
            entry.lane_esof,
        ]
        lev = told["leverage"]
        assert (lev["raw"], lev["cap"], lev["leverage"]) == (entry.raw, entry.cap, entry.leverage)
        assert lev["bound"] == codes.BOUNDS[entry.bound]
        assert told["notional"] == entry.notional
        assert told["signal"]["confidence"] == entry.confidence
        assert told["confirmation"]["change_bps"] == entry.dc_change_bps
        assert told["ranked"] == entry.ranked
        chosen = [row for row in told["ranking"] if row["why"] == "chosen"]
        assert [row["asset"] for row in chosen] == [entry.asset]
        assert chosen[0]["ars"] == entry.ars
        assert all(row["direction"] == "DIRECT" for row in chosen)


def test_a_held_bar_s_figures_are_its_decision_s(run: Run, folders: tuple[Path, Path]) -> None:
    steps = Journal.read_only(folders[1] / "journal.db")
    held = [d for d in steps.decisions() if d.action in (codes.ACTION_HOLD, codes.ACTION_EXIT)]
    steps.close()
    for decision in held[:: len(held) // 12]:
        told = explain(run, decision.bar_idx, with_flips=False)
        assert told["position"]["pnl_pct"] == decision.pnl_pct
        assert told["position"]["bars_held"] == decision.bars_held
        limits = {gate["gate"]: gate["threshold"] for gate in told["gates"]}
        assert limits["take profit"] == decision.tp
        assert limits["stop loss"] == -decision.sl
        assert limits["max hold"] == decision.max_hold
        assert limits["liquidation guard"] == -0.95 / decision.leverage
        assert ("result" in told) == (decision.action == codes.ACTION_EXIT)


def test_what_was_not_asked_neither_passed_nor_failed(whole: Run) -> None:
    """No run that can be explained had order books, and none has an exit that only experiments switch on."""
    met = set()
    for bar in bars_of(whole, 3):
        told = explain(whole, bar, with_flips=False)
        names = [gate["gate"] for gate in told["gates"]]
        met.add("position" in told)
        if "position" in told:
            assert names == [
                "hibernate",
                "breaker calmed",
                "liquidation guard",
                "take profit",
                "stop loss",
                "max hold",
            ]
            continue
        books = gate_of(told, "order books")
        assert (books["value"], books["passed"], books["margin"]) == ("absent", None, None)
        (row,) = [line for line in lines(told) if " order books " in line]
        assert row.split() == ["-", "order", "books", "absent"]
    assert met == {True, False}


@pytest.mark.parametrize(
    "values",
    [{"use_direction_confirm": False}, {"dc_skip_contradicts": False}, {"liquidation_guard": False}],
)
def test_a_gate_that_is_off_says_so(
    folders: tuple[Path, Path], tmp_path: Path, values: dict[str, bool]
) -> None:
    """Also where its value would be beyond the limit: the trade was entered all the same."""
    name = "liquidation guard" if "liquidation_guard" in values else "direction confirmation"
    against = 0
    with open_run(run_over(folders, tmp_path / "off", params=PARAMS.with_values(values))) as run:
        for decision in run.journal.decisions(active=True):
            told = explain(run, decision.bar_idx, with_flips=False)
            if ("position" in told) != (name == "liquidation guard"):
                continue
            gate = gate_of(told, name)
            assert (gate["passed"], gate["margin"], gate["threshold"]) == (None, None, None)
            assert gate["rule"] == (
                "a contradiction changes the size and refuses nothing in this set"
                if "dc_skip_contradicts" in values
                else "off in this set"
            )
            against += name == "direction confirmation" and gate["value"] > PARAMS.dc_min_magnitude_bps
    assert against or name == "liquidation guard"


LONG = {"direction": 1, "vel_div_threshold": 0.02, "vel_div_extreme": 0.05}


def test_a_long_set_s_limits_stand_on_its_own_side(folders: tuple[Path, Path], tmp_path: Path) -> None:
    long = run_over(folders, tmp_path / "long", params=PARAMS.with_values(LONG), deployment="GREEN")
    met = set()
    with open_run(long) as run:
        for bar in bars_of(run, 4):
            told = explain(run, bar, with_flips=False)
            if "confirmation" not in told or told["confirmation"]["change_bps"] is None:
                continue
            gate, signal = gate_of(told, "direction confirmation"), gate_of(told, "signal")
            assert (gate["needs"], gate["threshold"]) == ("at least", -PARAMS.dc_min_magnitude_bps)
            assert gate["passed"] == (gate["value"] >= gate["threshold"]) == (gate["margin"] >= 0.0)
            assert signal["needs"] == "above"
            assert signal["passed"] == (signal["value"] > signal["threshold"])
            met.add(gate["passed"])
    assert met == {True, False}


@pytest.fixture(scope="module")
def restless(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose volatility gate is shut in half of a market that never stands still."""
    return run_over(folders, tmp_path_factory.mktemp("restless") / "run", vol_threshold=0.003)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("SIGNAL", {"lookback", "vel_div", "vol_threshold"}),
        ("FIXED_TP", {"fixed_tp_pct", "price of"}),
        ("NONE", {"max_hold_bars", "price of"}),
        ("NO_SIGNAL", {"vel_div"}),
        ("VOL_GATE", {"vol_threshold"}),
        ("WARMING_UP", {"lookback"}),
        ("DC_REFUSED", {"dc_skip_contradicts", "use_direction_confirm"}),
        ("MAX_HOLD", {"max_hold_bars"}),
    ],
)
def test_every_flip_flips_and_its_neighbour_does_not(
    folders: tuple[Path, Path], restless: Path, reason: str, expected: set[str]
) -> None:
    """Each told value is decided again by the hosts' session, and so is the number next to it.

    On bars where one gate at most is shut: beyond it stands no other that hides the flip.
    """
    code = codes.REASONS.index(reason)
    with open_run(restless if reason == "VOL_GATE" else folders[0]) as run:
        bars = [bar for bar, _, record in run.journal.canonicals() if record[17] == code]
        bars = [bar for bar in bars if len(shut_of(explain(run, bar, with_flips=False))) <= 1]
        for bar in (bars[0], bars[len(bars) // 2], bars[-1]):
            moment, decision = moment_of(run, bar)
            found = flips(moment, decision)
            for flip in found:
                assert codes.ACTIONS[decided(moment, flip.name, flip.at)] == flip.action, flip
                assert flip.action != codes.ACTIONS[decision.action]
                if not isinstance(flip.value, bool):
                    near = np.nextafter(flip.at, flip.value)
                    if isinstance(flip.at, int):
                        near = flip.at + (1 if flip.value > flip.at else -1)
                    assert decided(moment, flip.name, type(flip.at)(near)) == decision.action, flip
            names = {flip.name.removesuffix(f" {decision.asset}") for flip in found}
            assert expected <= names, (bar, found)


def test_the_volatility_gate_flips_at_the_deviation_that_it_shows(restless: Path) -> None:
    code = codes.REASONS.index("VOL_GATE")
    checked = 0
    with open_run(restless) as run:
        for bar in [bar for bar, _, record in run.journal.canonicals() if record[17] == code]:
            told = explain(run, bar)
            if shut_of(told) == ["volatility"]:
                (flip,) = [flip for flip in told["flips"] if flip["name"] == "vol_threshold"]
                gate = gate_of(told, "volatility")
                assert flip["at"] == pytest.approx(gate["value"], rel=1e-9)
                assert flip["at"] < gate["threshold"]
                checked += 1
            if checked == 5:
                break
    assert checked == 5


def decided(moment: Moment, name: str, value: Any) -> int:
    """What the session of the hosts does on the bar with one number changed."""
    walk, bar = moment.walk, moment.bar
    market = walk.market
    if name == "vol_threshold":
        return Moment(replace(walk, vol_threshold=value), bar).decide().action
    if name == "vel_div":
        vel_div, v50 = np.array(market.vel_div), np.array(market.v50)
        v50[bar] += value - vel_div[bar]
        vel_div[bar] = value
        return Moment(replace(walk, market=replace(market, vel_div=vel_div, v50=v50)), bar).decide().action
    if name.startswith("price of "):
        prices = np.array(market.prices)
        prices[bar, market.symbols.index(name.removeprefix("price of "))] = value
        return Moment(replace(walk, market=replace(market, prices=prices)), bar).decide().action
    params = walk.params.with_values({name: value})
    state = None if walk.state is None else msgspec.structs.replace(walk.state, set_hash=params.hash())
    return Moment(replace(walk, params=params, state=state), bar).decide().action


def test_a_flip_is_the_threshold_itself_where_one_decides(whole: Run) -> None:
    """A profit that was taken stays just above it; an entry goes where vel_div or the count would not do."""
    leave = next(d for d in whole.journal.decisions(active=True) if d.reason == codes.FIXED_TP)
    found = {flip.name: flip for flip in flips(*moment_of(whole, leave.bar_idx))}
    assert found["fixed_tp_pct"].at == float(np.nextafter(leave.pnl_pct, np.inf))
    assert found["fixed_tp_pct"].action == "HOLD"
    entry = next(
        d
        for d in whole.journal.decisions(active=True)
        if d.action == codes.ACTION_ENTER and d.vel_div > PARAMS.vel_div_extreme
    )
    found = {flip.name: flip for flip in flips(*moment_of(whole, entry.bar_idx))}
    assert found["vel_div_threshold"].at == entry.vel_div
    assert found["vel_div"].at == PARAMS.vel_div_threshold
    assert found["lookback"].at == entry.bar_idx + 2


def test_bars_and_trades_that_are_not_there(whole: Run) -> None:
    with pytest.raises(DataError, match=rf"no bar {whole.n_bars}; the run has bars 0 to {whole.n_bars - 1}"):
        explain(whole, whole.n_bars)
    ids = [trade.trade_id for trade in whole.journal.trades()]
    with pytest.raises(DataError, match=f"no closed trade {ids[0]}x; .* Did you mean '{ids[0]}'"):
        whole.trade(f"{ids[0]}x")
    assert whole.trade(ids[0]).trade_id == ids[0]


def test_a_decision_that_is_another_now_is_not_explained_away(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folders[0], copy)
    path = copy / BARS_FILE
    table = pq.read_table(path)
    values = table.column("timestamp_ns").to_numpy().copy()
    values[7] += 1
    import pyarrow as pa

    pq.write_table(table.set_column(0, table.schema.field(0), pa.array(values)), path)
    with (
        open_run(copy) as run,
        pytest.raises(InvariantError, match="bar 7 is decided otherwise now"),
    ):
        explain(run, 7)


def test_a_cache_that_changed_is_named_with_its_day(folders: tuple[Path, Path], tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folders[0], copy)
    settings = json.loads((copy / "settings.json").read_text())
    day = sorted(settings["days"])[1]
    settings["days"][day]["sha256"] = "0" * 64
    (copy / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=f"{day} is another day than the one of"), open_run(copy):
        pass


# -- a run with stored scans -----------------------------------------------------------------------------


def live_run(
    folder: Path, late: Container[int] | None = None, refused_trade: str = ""
) -> tuple[Path, list[int]]:
    """(folder as `dolphin run` leaves it, what the host gave the engine as refusal on each bar).

    late are the bars whose scans come too late; refused_trade ends the id of the trade that the ledger
    refuses.
    """
    from scan_market import SYMBOLS

    from dolphin.host.identity import Identity
    from dolphin.host.session import Session
    from dolphin.services.trader import Trader

    folder.mkdir()
    made = market_scans(21, 420)
    identity = Identity(
        feed="recorded",
        source="a test",
        source_id="a" * 64,
        universe_id="u",
        set_name="gold+x",
        params=PARAMS,
        deployment="BLUE",
        vol_threshold=0.00026414,
        posture_when_unknown=codes.STALKER,
    )
    store = ScanStore(folder)
    journal = Journal.create(folder / "journal.db", identity.recorded())
    now = [0]
    trader = Trader(
        Session(PARAMS, SYMBOLS),
        journal,
        clock=None if late is None else lambda: now[0],
        posture_when_unknown=codes.STALKER,
    )
    append, step_bar = trader.ledger.append, trader.session.engine.step_bar
    given: list[int] = []

    def refusing(trade: ClosedTrade, capital: float) -> Any:
        if refused_trade and trade.trade_id.endswith(refused_trade):
            raise InvariantError("the books do not balance")
        return append(trade, capital)

    def noting(*values: Any, **named: Any) -> Any:
        given.append(named["refusal"])
        return step_bar(*values, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trader.ledger, "append", refusing)
        patch.setattr(trader.session.engine, "step_bar", noting)
        for bar, scan in enumerate(made):
            store.write(scan)
            now[0] = scan.timestamp_ns + (11 if late is not None and bar in late else 1) * NS_PER_S
            trader.on_scan(scan)
    journal.close()
    return folder, given


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `dolphin run` leaves it: a journal of every bar and the scans."""
    return live_run(tmp_path_factory.mktemp("live") / "run")[0]


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """The same of a run with late scans whose ledger refuses the second trade; and its refusals by bar."""
    return live_run(tmp_path_factory.mktemp("refused") / "run", range(2, 420, 3), "000002")


def test_a_run_is_explained_from_its_stored_scans(live: Path) -> None:
    with open_run(live) as run:
        assert run.n_bars == 420
        entry = next(d for d in run.journal.decisions(active=True) if d.action == codes.ACTION_ENTER)
        told = explain(run, entry.bar_idx)
        assert told["leverage"]["leverage"] == entry.leverage
        assert told["leverage"]["caps"]["posture"] == 2.0
        assert told["flips"]
        for bar in bars_of(run, 3):
            moment_of(run, bar)


def test_a_run_s_own_refusals_hold_on_every_bar(refused: tuple[Path, list[int]]) -> None:
    """Those that no decision tells, too: another gate was shut before, or a position was held."""
    folder, given = refused
    with open_run(folder) as run:
        assert run.market.refusal is not None
        assert run.market.refusal.tolist() == given
        untold = {
            code
            for decision, code in zip(run.journal.decisions(), given, strict=True)
            if code != codes.REASON_NONE and decision.reason != code
        }
        assert untold == {codes.STALE_SCAN, codes.LEDGER_HALT}
        for bar in bars_of(run, 3):
            moment_of(run, bar)


@pytest.mark.parametrize("code", [codes.REASON_NONE, codes.STALE_SCAN, codes.LEDGER_HALT])
def test_what_the_host_refused_stays_refused_without_a_signal(
    refused: tuple[Path, list[int]], code: int
) -> None:
    folder, given = refused
    with open_run(folder) as run:
        bars = [d.bar_idx for d in run.journal.decisions() if d.reason == codes.NO_SIGNAL and d.bar_idx > 60]
        bars = [bar for bar in bars if given[bar] == code]
        told = [explain(run, bar) for bar in bars[:: max(1, len(bars) // 6)]]
    entered = [any(flip["action"] == "ENTER" for flip in bar["flips"]) for bar in told]
    hosts = [gate_of(bar, "host") for bar in told]
    assert told
    if code == codes.REASON_NONE:
        assert {(host["value"], host["passed"]) for host in hosts} == {("nothing", True)}
        assert any(entered)
    else:
        assert {(host["value"], host["passed"]) for host in hosts} == {(codes.REASONS[code], False)}
        assert not any(entered)


def test_no_future_of_a_run_trades_after_its_ledger_refused(refused: tuple[Path, list[int]]) -> None:
    folder, given = refused
    first = given.index(codes.LEDGER_HALT)
    loose = {"vel_div_threshold": -0.005}
    with open_run(folder) as run:
        _, equity = run.journal.marks()
        same = fork(run, 0, {"fixed_tp_pct": PARAMS.fixed_tp_pct})
        after, before = fork(run, first, loose), fork(run, 0, loose)
    assert same.first is None
    assert same.original.equity.tobytes() == same.changed.equity.tobytes() == equity.tobytes()
    assert 100 < first < 300
    assert [f.figures["trades"] for f in (after.original, after.changed)] == [0, 0]
    assert not after.changed.figures["open_position"]
    assert before.changed.figures["trades"] > before.original.figures["trades"] > 0
    assert len(set(before.changed.equity[first + PARAMS.max_hold_bars :].tolist())) == 1


def test_a_run_without_one_of_its_scans_is_refused(live: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(live, copy)
    sorted(copy.glob("arrow_scans/*/*.arrow"))[30].unlink()
    with pytest.raises(DataError, match="the scan of bar 30 is not in arrow_scans/"), open_run(copy):
        pass


# -- fork ------------------------------------------------------------------------------------------------


def test_a_fork_that_changes_nothing_is_the_run(whole: Run) -> None:
    stamps, equity = whole.journal.marks()
    trades = whole.journal.trades()
    for bar in (0, 1, 333, trades[3].entry_bar + 1, whole.n_bars - 1):
        found = fork(whole, bar, {"fixed_tp_pct": PARAMS.fixed_tp_pct})
        assert found.first is None
        assert found.original.equity.tobytes() == found.changed.equity.tobytes() == equity[bar:].tobytes()
        assert found.timestamp_ns.tolist() == stamps[bar:].tolist()
        later = [trade for trade in trades if trade.exit_bar >= bar]
        assert found.original.figures["trades"] == len(later)
        assert found.original.figures["net"] == pytest.approx(sum(trade.net for trade in later), abs=1e-6)


def test_the_changed_future_is_a_run_with_those_parameters(
    whole: Run, tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    """Forked at bar 0, it is a backtest of the other set."""
    found = fork(whole, 0, {"fixed_tp_pct": 0.008, "max_hold_bars": 40, "initial_capital": 10_000.0})
    other = PARAMS.with_values({"fixed_tp_pct": 0.008, "max_hold_bars": 40, "initial_capital": 10_000.0})
    cache = CacheReader(whole.meta["cache"])
    summary = backtest(
        cache, BacktestSettings(set_name="other", params=other, folder=tmp_path / "other", report=False)
    )
    figures = found.changed.figures
    assert figures["trades"] == summary["trades"]
    assert figures["capital"] == pytest.approx(summary["capital"], abs=1e-6)
    assert figures["equity"] == pytest.approx(summary["equity"], abs=1e-6)


def test_the_first_difference_is_the_first_and_says_why(whole: Run) -> None:
    trade = next(t for t in whole.journal.trades() if t.reason == "FIXED_TP")
    found = fork(whole, trade.entry_bar + 1, {"fixed_tp_pct": 0.5})
    assert found.first is not None
    assert found.first["bar"] == trade.exit_bar
    assert (found.first["original"]["action"], found.first["changed"]["action"]) == ("EXIT", "HOLD")
    assert found.first["changed"]["tp"] == 0.5
    assert "tp" in found.first["differ"]
    n = trade.exit_bar - trade.entry_bar - 1
    assert found.original.equity[:n].tobytes() == found.changed.equity[:n].tobytes()
    told = as_dict(found, whole)
    page = render(told, found.timestamp_ns, found.original.equity, found.changed.equity)
    assert "EXIT" in page
    assert json.loads(json.dumps(told, allow_nan=False)) == told


@pytest.mark.parametrize(
    ("bar", "values", "text"),
    [
        (9, {"fixed_tp": 0.01}, "Did you mean 'fixed_tp_pct'"),
        (9, {"fixed_tp_pct": -1.0}, "expected above 0"),
        (9, {"max_hold_bars": 1.5}, "expected a finite int"),
        (9, {"initial_capital": 1.0}, "is decided by the first bar"),
        (
            9,
            {"direction": 1, "vel_div_threshold": 0.02, "vel_div_extreme": 0.05},
            "is decided by the first bar",
        ),
    ],
)
def test_what_makes_no_fork(whole: Run, bar: int, values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        changed(whole, bar, values)
    with pytest.raises(ConfigError, match=text):
        fork(whole, bar, values)


def test_a_fork_outside_the_run(whole: Run) -> None:
    with pytest.raises(DataError, match="the run has bars 0 to"):
        fork(whole, whole.n_bars, {"fraction": 0.1})


# -- reproduce -------------------------------------------------------------------------------------------


def test_a_backtest_is_reproduced_by_the_engine_that_made_it(run: Run, tmp_path: Path) -> None:
    assert changes(run.folder, run.meta) == []
    summary = again(run.folder, run.meta, tmp_path / "again")
    assert compare(run.folder, summary, tmp_path / "again") == []
    assert (tmp_path / "again" / BARS_FILE).exists() == isinstance(run.journal, ColumnJournal)


def copied(folders: tuple[Path, Path], tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(folders[0], tmp_path / "copy")
    return tmp_path / "copy"


def test_what_changed_since_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    folder = copied(folders, tmp_path)
    settings = json.loads((folder / "settings.json").read_text())
    day = sorted(settings["days"])[1]
    settings["days"][day]["sha256"] = "0" * 64
    settings["code_sha256"] = "1" * 64
    settings["versions"]["numpy"] = "0.1"
    (folder / "settings.json").write_text(json.dumps(settings))
    with open_run(folders[0]) as run:
        meta = {**run.meta, "set": "gold"}
    assert [change.what for change in changes(folder, meta)] == [
        "code",
        "version of numpy",
        "set gold",
        f"data of {day}",
    ]


def test_a_result_that_was_another_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    folder = copied(folders, tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    summary["capital"] += 1.0
    (folder / "summary.json").write_text(json.dumps(summary))
    journal = ColumnJournal.open(folder / "journal.db")
    first = journal.trades()[0].trade_id
    with journal.transaction():
        journal._db.execute("UPDATE trades SET net = net + 1 WHERE trade_id = ?", (first,))
        journal._db.execute("DELETE FROM cash_flows WHERE id = 1")
    journal.close()
    with open_run(folders[0]) as run:
        made = again(folders[0], run.meta, tmp_path / "again")
    found = compare(folder, made, tmp_path / "again")
    assert [change.what for change in found] == ["capital", "the first trade that differs", "cash flows"]
    assert found[1].then == first


def test_parameters_that_are_not_those_of_their_hash(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with open_run(folders[0]) as run:
        meta = {**run.meta, "parameters": json.dumps({**PARAMS.as_dict(), "fraction": 0.1})}
    with pytest.raises(DataError, match="the folder was changed"):
        again(folders[0], meta, tmp_path / "again")


def test_digests_of_code_and_data() -> None:
    assert len(code_sha256()) == 64
    assert data_sha256({"b": "2", "a": "1"}) == data_sha256({"a": "1", "b": "2"})
    assert data_sha256({"a": "1"}) != data_sha256({"a": "2"}) != data_sha256({"b": "2"})
    assert STEP_NS > 0
