"""The esoteric lane of a supervised trader's decisions, told by `dolphin explain` with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_trader_service import MARKET, System

from dolphin.backtest.explain import explain
from dolphin.backtest.folder import open_run
from dolphin.commands.explain import lines
from dolphin.domain.clock import iso_from_ns
from dolphin.domain.codes import ACTION_ENTER, ACTION_HOLD
from dolphin.grid.payloads import EsofPayload
from dolphin.grid.topics import ESOF

FIRST, SILENT = 150, 200
PARTS = {
    "weekday": {"bucket": "Monday", "n": 9, "expectancy": 1e-4, "contribution": 0.02},
    "moon": {"bucket": "full", "n": 1, "expectancy": -9e-4, "contribution": -0.14},
    "mercury": {"bucket": "direct", "n": 20, "expectancy": 0.0, "contribution": 0.0},
}


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path)
    yield made
    made.close()


def told_of(system: System, bar: int) -> tuple[dict[str, Any], list[str]]:
    with open_run(system.home.trader) as run:
        told = explain(run, bar, with_flips=False)
    return told["esof"], lines(told)


def test_absent_no_history_a_score_and_a_stale_one_are_told(system: System) -> None:
    trader = system.trader()
    for k, scan in enumerate(MARKET):
        system.clock.move_to(scan.timestamp_ns)
        if FIRST <= k < SILENT:
            score, n = (0.0, 0) if k < FIRST + 20 else (-0.12, 30)
            parts = {} if n == 0 else PARTS
            system.door.put(
                ESOF,
                EsofPayload(
                    score=score,
                    components={"n_trades": n, "categories": parts},
                    timestamp=iso_from_ns(scan.timestamp_ns),
                ),
            )
        system.scan(scan)
        trader.tick()
    trader.stop()

    esof, _ = told_of(system, FIRST - 1)
    assert (esof["lane"], esof["label"]) == (1.0, "absent")
    assert esof["why"].startswith("absent: no producer")
    esof, _ = told_of(system, FIRST + 1)
    assert (esof["lane"], esof["why"]) == (0.8, "NEUTRAL: no closed trades to judge by, the score is 0")
    esof, screen = told_of(system, FIRST + 30)
    assert esof["lane"] == 0.65
    assert esof["score"] == -0.12
    assert esof["why"] == "score -0.120 of 30 trades: below neutral, -0.25 to -0.05"
    assert [part["category"] for part in esof["parts"]] == ["moon", "weekday"]
    at = next(k for k, line in enumerate(screen) if line.startswith("  esof "))
    assert "lane 0.65" in screen[at]
    assert "most by moon full -0.140 (1 trade), weekday Monday +0.020 (9 trades)" in screen[at + 1]
    # The last word of a producer that went silent counts for 15 minutes: 180 bars.
    esof, _ = told_of(system, SILENT + 185)
    assert (esof["lane"], esof["label"]) == (0.4, "stale")
    assert esof["why"].startswith("STALE FALLBACK")


def test_a_trade_tells_the_lane_of_its_entry_and_a_held_bar_that_it_is_not_its_own(system: System) -> None:
    trader = system.trader()
    for scan in MARKET:
        system.scan(scan)
        trader.tick()
    trader.stop()
    decisions = system.decisions()
    entered = next(d for d in decisions if d.action == ACTION_ENTER)
    held = next(d for d in decisions if d.action == ACTION_HOLD)
    with open_run(system.home.trader) as run:
        at_entry, later = (explain(run, d.bar_idx, with_flips=False) for d in (entered, held))
    assert at_entry["lanes"]["esof"] == at_entry["esof"]["lane"] == 1.0
    assert "  esof       lane 1; absent: no producer was ever heard, and nothing is cut" in lines(at_entry)
    assert any(
        line.startswith("  esof       lane 1, for an entry on this bar; absent") for line in lines(later)
    )
