"""A run's figures, from its journal alone."""

from __future__ import annotations

import math
import statistics
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scan_market import scans, traded

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S
from dolphin.domain.params import NAMED_SETS
from dolphin.host.summary import (
    daily_closes,
    max_drawdown,
    sharpe_ratio,
    stub_days,
    summarise,
    training_days,
)
from dolphin.journal.audit import audit
from dolphin.journal.ledger import usdt
from dolphin.journal.store import Journal

GOLD = NAMED_SETS["gold"]


def test_figures_are_those_of_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    traded(path, scans(9, 420, interval_ns=480 * NS_PER_S))
    journal = Journal.read_only(path)
    summary = summarise(journal, GOLD, audit(journal, GOLD), {"feed": "walk", "bars": 420, "extra": 1})
    trades, flows = journal.trades(), journal.cash_flows()
    marks = journal.equity()
    journal.close()
    legs = {
        name: usdt(sum(amount for _, leg, amount in flows if leg == name))
        for name in dict.fromkeys(f[1] for f in flows)
    }
    net = sum(legs.values())
    assert summary["trades"] == len(trades) > 3
    assert summary["ledger_balanced"]
    assert summary["entries_short"] >= summary["trades"]
    assert summary["entries_long"] == 0
    assert Decimal(repr(summary["capital"])) == Decimal(repr(float(Decimal(25_000) + net)))
    assert summary["roi"] == float(net / 25_000)
    assert summary["roi_without_ob_edge"] == float((net - legs["ob_edge"]) / 25_000)
    told = summary["gross"] - summary["fees"] - summary["slippage"] + summary["ob_edge"]
    assert math.isclose(told, summary["roi"] * 25_000, abs_tol=1e-7)
    assert summary["fees"] > 0
    assert summary["slippage"] > 0
    wins = [t.net for t in trades if t.net > 0]
    losses = [-t.net for t in trades if t.net < 0]
    assert math.isclose(summary["profit_factor"], sum(wins) / sum(losses), rel_tol=1e-9)
    assert summary["win_rate"] == len(wins) / len(trades)
    assert summary["equity"] == marks[-1][2]
    assert summary["scans"] == 420
    assert summary["extra"] == 1
    assert summary["sharpe"] is not None


def test_a_run_without_trades_has_no_ratios(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    traded(path, scans(9, 20))
    journal = Journal.read_only(path)
    summary = summarise(journal, GOLD, audit(journal, GOLD), {})
    journal.close()
    for key in ("profit_factor", "sharpe", "win_rate"):
        assert summary[key] is None
    assert summary["roi"] == 0.0
    assert summary["max_drawdown"] == 0.0
    assert summary["capital"] == 25_000.0
    assert not summary["open_position"]


def test_sharpe_by_hand() -> None:
    closes = [101.0, 99.0, 102.0, 102.5]
    returns = [b / a - 1.0 for a, b in zip([100.0, *closes], closes, strict=False)]
    expected = statistics.mean(returns) / statistics.stdev(returns) * math.sqrt(365)
    found = sharpe_ratio(closes, 100.0)
    assert found is not None
    assert math.isclose(found, expected, rel_tol=1e-12)


@pytest.mark.parametrize("closes", [[], [101.0, 102.0], [100.0, 100.0, 100.0], [101.0, -1.0, 100.0]])
def test_sharpe_is_absent_where_it_means_nothing(closes: list[float]) -> None:
    assert sharpe_ratio(closes, 100.0) is None


def test_the_drawdown_counts_from_the_start_and_on_every_bar() -> None:
    assert max_drawdown(np.array([]), 100.0) == 0.0
    assert max_drawdown(np.array([90.0, 120.0, 60.0, 130.0]), 100.0) == 0.5
    assert max_drawdown(np.array([90.0, 95.0]), 100.0) == pytest.approx(0.1)


def test_a_day_closes_with_its_last_mark() -> None:
    stamps = np.array([5, NS_PER_DAY - 1, NS_PER_DAY, 2 * NS_PER_DAY])
    assert daily_closes(stamps, np.array([1.0, 2.0, 3.0, 4.0])) == [2.0, 3.0, 4.0]
    assert daily_closes(stamps[:0], np.array([])) == []


@pytest.mark.parametrize(
    ("bars", "stubs"),
    [
        ([], {}),
        ([1], {}),
        ([688, 1440, 1440, 1], {"1970-01-04": 1}),
        ([14, 1440, 1440, 1440, 15], {"1970-01-01": 14}),
        ([1440, 1, 1440, 1440], {}),  # in the middle it is a gap, not an end
        ([1, 1440, 1440, 1440, 14], {"1970-01-01": 1, "1970-01-05": 14}),
    ],
)
def test_only_the_ends_can_be_stubs(bars: list[int], stubs: dict[str, int]) -> None:
    stamps = [day * NS_PER_DAY + bar * 60 * NS_PER_S for day, n in enumerate(bars) for bar in range(n)]
    assert stub_days(np.array(stamps, np.int64)) == stubs


def test_the_days_of_a_training_are_those_of_its_groups_and_those_held_out() -> None:
    days = {"teaching": [["d1", "d4"], ["d2"]], "held_out": ["d3"], "left_out": ["d9: 1 bar"]}
    artefact = SimpleNamespace(manifest={"days": days})
    assert training_days(SimpleNamespace(artefact=artefact)) == ("d1", "d2", "d3", "d4")
    for unknown in (
        None,
        SimpleNamespace(artefact=None),
        SimpleNamespace(artefact=SimpleNamespace(manifest={})),
    ):
        assert training_days(unknown) == ()
