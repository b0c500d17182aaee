"""The esoteric producer, from planted trades to its word on the grid, and what a trader makes of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from risk_system import NOON, RiskSystem

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, iso_from_ns
from dolphin.domain.codes import APEX
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.payloads import EsofPayload
from dolphin.grid.topics import ESOF, encode
from dolphin.grid.typed import TypedGrid
from dolphin.host.finish import JOURNAL_FILE
from dolphin.journal.ledger import LEGS, ClosedTrade
from dolphin.journal.store import Journal
from dolphin.services.esof import SKY_CATEGORIES, EsofService, instant_at, outcome_of
from dolphin.services.organs import Organs

MINUTE = 60 * NS_PER_S


@pytest.fixture
def system(tmp_path: Path) -> Iterator[RiskSystem]:
    made = RiskSystem(tmp_path)
    yield made
    made.close()


def trade(k: int, entry_ns: int, net: float, notional: float = 10_000.0) -> ClosedTrade:
    return ClosedTrade(
        trade_id=f"BLUE-{k}", asset="BTCUSDT", direction=-1, entry_bar=3 * k, exit_bar=3 * k + 1,
        entry_ns=entry_ns, exit_ns=entry_ns + MINUTE, entry_price=100.0, exit_scan_price=100.0,
        exit_price=100.0, notional=notional, leverage=1.0, reason="FIXED_TP", entry_fee=0.0, exit_fee=0.0,
        ob_edge=0.0, net=net,
    )  # fmt: skip


def book(system: RiskSystem, trades: list[ClosedTrade]) -> None:
    """The deployment's journal with these trades added."""
    path = system.home.trader / JOURNAL_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal.open(path) if path.exists() else Journal.create(path, {})
    with journal.transaction():
        for each in trades:
            journal.add_trade(each, dict.fromkeys(LEGS, 0))
    journal.close()


def planted(n: int, weekday: int, bps: float) -> list[ClosedTrade]:
    """n trades, five a day before now, that lose or win some more on one weekday."""
    found = []
    for k in range(n):
        entry_ns = NOON - (n - k) * NS_PER_DAY // 5
        effect = bps if instant_at(entry_ns).calendar.weekday == weekday else 0.0
        found.append(trade(k, entry_ns, (effect + 10.0 * (-1) ** k) * 1e-4 * 10_000.0))
    return found


def word(system: RiskSystem) -> EsofPayload:
    found = system.door.get(ESOF)
    assert found is not None
    return found


def test_without_a_journal_the_score_is_zero_and_explains_itself(system: RiskSystem) -> None:
    esof = system.start(EsofService)
    system.step()
    said = word(system)
    assert said.score == 0.0
    assert said.timestamp == iso_from_ns(NOON)
    assert said.components["n_trades"] == 0
    assert said.components["missing"] == {}
    assert set(said.components["categories"]) == {
        "weekday",
        "hour_of_week",
        "session",
        "funding",
        "monthly_expiry",
        "quarterly_expiry",
        "moon",
        "mercury",
    }
    assert {c["why"] for c in said.components["categories"].values()} == {"no trades"}
    # 2026-03-02 is a Monday; the moon was full on the 3rd at 11:38 UTC.
    assert said.components["calendar"]["weekday"] == 0
    assert said.components["calendar"]["overlap"] == "Europe"
    assert said.components["calendar"]["hours_to_funding"] == 4.0
    assert said.components["sky"]["quarter"] == "full"
    assert said.components["sky"]["mercury_motion"] == "retrograde"
    assert esof.health() == (True, "last pushed 0 s ago: score +0.000 of 0 trades")
    assert system.alerts == []


def test_it_pushes_once_a_minute_and_at_once_when_the_grid_is_back(system: RiskSystem) -> None:
    esof = system.start(EsofService)
    assert esof.health() == (True, "nothing pushed yet")
    system.pass_s(600)
    assert esof.context.counts["pushes"] == 10
    system.peer_of(esof).drop_connection()
    system.pass_s(120)
    assert esof.context.counts["pushes"] == 10
    system.peer_of(esof).restore_connection()
    system.step()
    assert word(system).timestamp == iso_from_ns(system.clock.now_ns())
    esof.stop()


def test_it_learns_a_planted_weekday_from_the_journal(system: RiskSystem) -> None:
    book(system, planted(600, weekday=0, bps=-10.0))
    esof = system.start(EsofService)
    system.step()
    monday = word(system)
    assert monday.score is not None
    assert monday.score < -0.5
    weekday = monday.components["categories"]["weekday"]
    assert (weekday["bucket"], weekday["n_trades"]) == ("Monday", 600)
    assert weekday["expectancy"] == pytest.approx(-10e-4, rel=0.2)
    assert esof.gauges() == {"trades": 600.0, "categories_missing": 0.0, "score": monday.score}
    system.clock.move_to(NOON + NS_PER_DAY)
    system.step()
    tuesday = word(system).score
    assert tuesday is not None
    assert abs(tuesday) < 0.2


def test_trades_closed_since_count_from_the_next_push(system: RiskSystem) -> None:
    book(system, planted(30, weekday=9, bps=0.0))
    system.start(EsofService)
    system.step()
    assert word(system).components["n_trades"] == 30
    book(system, [trade(k, NOON - 1, 5.0) for k in range(30, 33)])
    system.pass_s(60)
    assert word(system).components["n_trades"] == 33


def test_a_trade_counts_by_its_notional_under_its_entry() -> None:
    found = outcome_of(trade(1, NOON, net=-25.0, notional=5_000.0))
    assert found.net == -0.005
    assert found.labels == instant_at(NOON).labels


def test_a_journal_that_never_could_be_read_is_no_score(system: RiskSystem) -> None:
    system.home.trader.mkdir(parents=True)
    (system.home.trader / JOURNAL_FILE).write_bytes(b"no journal at all")
    esof = system.start(EsofService)
    system.pass_s(180)
    assert word(system).score is None
    assert word(system).components["categories"] == {}
    assert not esof.health()[0]
    assert "score" not in esof.gauges()
    assert esof.context.counts["journal_failed"] == 3
    assert [alert.kind for alert in system.alerts] == ["stale_data"]
    (system.home.trader / JOURNAL_FILE).unlink()
    system.pass_s(60)
    assert word(system).score == 0.0
    assert esof.health()[0]


def test_a_journal_that_breaks_later_costs_the_new_trades_only(system: RiskSystem) -> None:
    book(system, planted(30, weekday=9, bps=0.0))
    esof = system.start(EsofService)
    system.step()
    (system.home.trader / JOURNAL_FILE).write_bytes(b"damaged")
    system.pass_s(60)
    assert word(system).components["n_trades"] == 30
    assert not esof.health()[0]


def test_without_the_library_the_sky_is_named_missing_and_the_rest_goes_on(
    system: RiskSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "astronomy", None)
    monkeypatch.delitem(sys.modules, "dolphin.factors.sky", raising=False)
    book(system, planted(600, weekday=0, bps=-10.0))
    esof = system.start(EsofService)
    system.pass_s(180)
    said = word(system)
    assert said.score is not None
    assert said.score < -0.5
    assert said.components["sky"] is None
    assert set(said.components["missing"]) == set(SKY_CATEGORIES)
    assert "make feeds" in said.components["missing"]["moon"]
    assert not set(SKY_CATEGORIES) & set(said.components["categories"])
    assert esof.health()[1].endswith("missing: moon, mercury")
    assert len(system.alerts) == 1


def test_the_categories_of_the_sky_are_those_of_the_module() -> None:
    from dolphin.factors.sky import sky_at

    assert tuple(sky_at(NOON).labels()) == SKY_CATEGORIES


# the organ


def said(score: float | None, at_ns: int = NOON) -> EsofPayload:
    return EsofPayload(score=score, timestamp=iso_from_ns(at_ns))


def lane(organs: Organs, now_ns: int | None = NOON) -> tuple[float, str]:
    inputs = organs.inputs(now_ns)
    return inputs.esof_mult, inputs.esof_label


def test_a_producer_that_was_never_heard_is_absent_and_the_lane_is_one() -> None:
    with InProcessGrid() as grid:
        assert lane(Organs(TypedGrid(grid), APEX)) == (1.0, "absent")
    assert lane(Organs(None, APEX)) == (1.0, "absent")


@pytest.mark.parametrize(
    ("score", "age_s", "expected"),
    [
        (0.0, 0.0, (0.8, "ok")), (0.5, 900.0, (1.0, "ok")), (-0.5, 1.0, (0.3, "ok")),
        (0.5, 900.001, (0.4, "stale")), (0.5, 86_400.0, (0.4, "stale")), (None, 0.0, (0.4, "stale")),
        (0.5, -60.0, (1.0, "ok")), (0.5, -60.001, (0.4, "stale")),
    ],
)  # fmt: skip
def test_the_lane_of_a_word(score: float | None, age_s: float, expected: tuple[float, str]) -> None:
    with InProcessGrid() as grid:
        organs = Organs(TypedGrid(grid), APEX)
        TypedGrid(grid).put(ESOF, said(score))
        assert lane(organs, NOON + round(age_s * NS_PER_S)) == expected
        # Nothing ages in a replay.
        assert lane(organs, None) == ((0.4, "stale") if score is None else lane(organs, NOON))


def test_a_producer_that_stops_is_stale_after_a_quarter_of_an_hour(system: RiskSystem) -> None:
    organs = Organs(system.door, APEX)
    esof = system.start(EsofService)
    system.pass_s(1200)
    assert lane(organs, system.clock.now_ns()) == (0.8, "ok")
    system.kill(esof)
    system.pass_s(830)
    assert lane(organs, system.clock.now_ns()) == (0.8, "ok")
    system.pass_s(120)
    assert lane(organs, system.clock.now_ns()) == (0.4, "stale")


def test_a_word_is_news_when_its_score_changes_and_not_by_its_stamp() -> None:
    with InProcessGrid() as grid:
        organs = Organs(TypedGrid(grid), APEX)
        assert organs.changes() == []
        TypedGrid(grid).put(ESOF, said(0.1))
        assert organs.changes() == [("ESOF", encode(said(0.1)))]
        TypedGrid(grid).put(ESOF, said(0.1, NOON + MINUTE))
        assert organs.changes() == []
        TypedGrid(grid).put(ESOF, said(None, NOON + MINUTE))
        assert [source for source, _ in organs.changes()] == ["ESOF"]


def test_a_remembered_word_keeps_its_age_and_a_lost_grid_opens_nothing() -> None:
    with InProcessGrid() as grid:
        organs = Organs(TypedGrid(grid), APEX, remembered={"ESOF": encode(said(-0.5))})
        assert lane(organs, NOON + MINUTE) == (0.3, "ok")
        assert lane(organs, NOON + 16 * MINUTE) == (0.4, "stale")
        assert organs.changes() == []
        organs.refill()
        assert TypedGrid(grid).get(ESOF) == said(-0.5)
    with InProcessGrid() as grid:
        typed = TypedGrid(grid)
        damaged = Organs(typed, APEX, remembered={"ESOF": b'{"score": 7}'})
        assert lane(damaged) == (1.0, "absent")
        assert typed.rejections.total == 1


def test_it_has_a_command_and_is_started_by_nobody_else() -> None:
    from dolphin.cli import COMMANDS, module_of
    from dolphin.services.table import BY_COMMAND, SERVICES

    assert BY_COMMAND["esof"].factory == "dolphin.services.esof:EsofService"
    assert "esof" in COMMANDS
    assert module_of("esof") == "dolphin.commands.esof"
    assert "esof" not in {spec.name for spec in SERVICES}
