"""The watchdog from planted inputs to the posture on the grid, through restarts, losses and clock steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from risk_system import RiskSystem

from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.domain.errors import DataError
from dolphin.grid.topics import SAFETY
from dolphin.risk.survival import capital_category
from dolphin.services.watchdog import WatchdogService


@pytest.fixture
def system(tmp_path: Path) -> Iterator[RiskSystem]:
    made = RiskSystem(tmp_path)
    yield made
    made.close()


def category(system: RiskSystem, name: str) -> dict:
    return system.safety().sensors[name]


def test_a_fresh_install_may_trade_and_says_what_is_absent(system: RiskSystem) -> None:
    watchdog = system.start(WatchdogService)
    system.step()
    safety = system.safety()
    assert (safety.posture, safety.rm, safety.fence) == ("APEX", 1.0, 1)
    assert safety.updated_at == iso_from_ns(system.clock.now_ns())
    names = ("invariant", "structural", "microstructure", "environment", "capital")
    assert [category(system, name)["absent"] for name in names] == [True] * 5
    assert [category(system, name)["value"] for name in names] == [1.0] * 5
    healthy, why = watchdog.health()
    assert healthy
    assert why == (
        "APEX, Rm 1.000, written 0 s ago under fence 1;"
        " absent: invariant, structural, microstructure, environment, capital"
    )


def test_a_forewarner_in_fallback_counts_one_and_is_absent(system: RiskSystem) -> None:
    system.start(WatchdogService)
    system.verdict("ORANGE", "FALLBACK_NO_DATA")
    system.step()
    assert (system.safety().rm, category(system, "structural")["absent"]) == (1.0, True)


def test_all_four_postures_are_reached_from_planted_inputs(system: RiskSystem) -> None:
    system.start(WatchdogService)
    system.beat()
    system.equity(1000.0)
    system.step()
    assert system.safety().posture == "APEX"
    seen = ["APEX"]
    for equity, word in ((940.0, "STALKER"), (900.0, "TURTLE"), (850.0, "HIBERNATE")):
        system.equity(equity)
        system.pass_s(10, beat=True)
        assert system.safety().posture == seen[-1], "one evaluation below is not enough"
        system.pass_s(10, beat=True)
        safety = system.safety()
        assert safety.posture == word
        assert safety.rm == capital_category(1.0 - equity / 1000.0)
        assert category(system, "capital")["drawdown"] == 1.0 - equity / 1000.0
        seen.append(word)
    assert [text.split(":")[0] for text in system.told("posture")] == [
        "APEX -> STALKER",
        "STALKER -> TURTLE",
        "TURTLE -> HIBERNATE",
    ]
    assert all("moved by capital" in text for text in system.told("posture"))


def test_recovery_is_bounded_and_needs_five_evaluations_above(system: RiskSystem) -> None:
    system.start(WatchdogService)
    system.equity(1000.0)
    system.beat()
    system.step()
    system.equity(850.0)
    system.pass_s(20, beat=True)
    low = system.safety().rm
    system.equity(1000.0)
    expected, target, above = low, capital_category(0.0), 0
    for _ in range(400):
        system.pass_s(10, beat=True)
        dt_min = 10 / 60
        expected += min(0.02 * dt_min * (target - expected), 0.05 * dt_min)
        safety = system.safety()
        assert safety.rm == pytest.approx(expected, abs=1e-12)
        above = above + 1 if expected >= 0.50 else 0
        assert safety.posture == ("TURTLE" if above >= 5 else "HIBERNATE")
        if above >= 8:
            break
    assert above == 8
    assert system.told("posture")[-1].startswith("HIBERNATE -> TURTLE")


def test_a_silent_scan_path_is_hibernate_at_once(system: RiskSystem) -> None:
    system.start(WatchdogService)
    system.beat("scan_bridge")
    system.step()
    system.pass_s(30)
    assert system.safety().posture == "APEX"
    assert category(system, "invariant")["heartbeat_by"] == "scan_bridge"
    system.pass_s(10)
    safety = system.safety()
    assert (safety.posture, safety.rm) == ("HIBERNATE", 0.0)
    assert category(system, "invariant")["heartbeat_age_s"] == 40.0
    assert "moved by invariant" in system.told("posture")[-1]


def test_either_heartbeat_keeps_the_scan_path_alive(system: RiskSystem) -> None:
    system.start(WatchdogService)
    system.beat("scanner")
    system.step()
    for _ in range(6):
        system.beat("scan_bridge")
        system.pass_s(10)
    assert system.safety().posture == "APEX"


def test_real_orange_and_red_are_shown_as_they_are(system: RiskSystem) -> None:
    system.start(WatchdogService)
    system.verdict("RED")
    system.step()
    assert system.safety().posture == "HIBERNATE"
    assert category(system, "structural") == {
        "value": 0.1,
        "absent": False,
        "gate": "RED",
        "staleness_h": 0.0,
    }
    assert len(system.told("red")) == 1
    system.pass_s(10)
    assert len(system.told("red")) == 1
    system.verdict("ORANGE")
    system.pass_s(10)
    assert category(system, "structural")["gate"] == "ORANGE"


def test_books_count_and_go_stale(system: RiskSystem) -> None:
    system.start(WatchdogService)
    system.book("BTCUSDT", depth=1.0, fill=0.5)
    system.book("ETHUSDT", depth=0.4, fill=0.1)
    system.book("XRPUSDT", depth=0.6, fill=0.3)
    system.step()
    assert category(system, "microstructure")["value"] == pytest.approx(0.3 + 0.7 * min(0.6, 0.6))
    system.pass_s(60)
    assert not category(system, "microstructure")["stale"]
    system.pass_s(10)
    assert category(system, "microstructure")["value"] == 0.5
    assert category(system, "microstructure")["stale"]


def test_a_dvol_spike_is_seen_and_fades(system: RiskSystem) -> None:
    system.start(WatchdogService)
    system.step()
    for dvol in (50.0, 50.0, 50.0, 54.9, 55.1):
        system.factors(dvol=dvol)
        system.pass_s(60)
        if dvol < 55.0:
            assert category(system, "environment")["value"] == 1.0
    assert category(system, "environment") == {
        "value": 0.3, "absent": False, "dvol": 55.1, "minutes_since_spike": 0.0,
    }  # fmt: skip
    system.factors(dvol=50.0)
    system.pass_s(600)
    minutes = category(system, "environment")["minutes_since_spike"]
    assert 9.5 < minutes <= 10.0
    assert 0.3 < category(system, "environment")["value"] < 0.5


def test_a_restart_goes_on_with_rm_posture_counters_and_peak(system: RiskSystem) -> None:
    first = system.start(WatchdogService)
    system.equity(1000.0)
    system.step()
    system.equity(900.0)
    system.pass_s(10)
    before = system.safety()
    assert (before.posture, before.sensors["below"]) == ("APEX", 1)
    system.kill(first)
    system.start(WatchdogService)
    system.pass_s(10)
    after = system.safety()
    assert after.posture == "TURTLE", "the second evaluation below is the restarted one's first"
    assert after.sensors["capital"]["peak"] == 1000.0
    assert after.fence == 2
    assert after.rm == before.rm


def test_a_second_watchdog_stands_by_and_takes_over(system: RiskSystem) -> None:
    first = system.start(WatchdogService, "watchdog")
    second = system.start(WatchdogService, "watchdog_2")
    system.equity(1000.0)
    system.pass_s(30)
    assert (first.phase, second.phase) == ("running", "standby")
    assert second.health() == (True, "stands by: another process holds watchdog_writer")
    system.equity(850.0)
    system.pass_s(30)
    assert system.safety().posture == "HIBERNATE"
    system.kill(first)
    system.equity(1000.0)
    system.pass_s(20)
    safety = system.safety()
    assert (second.phase, safety.fence, safety.posture) == ("running", 2, "HIBERNATE")


def test_a_reconnect_between_two_periods_is_no_evaluation(system: RiskSystem) -> None:
    """The hysteresis counts evaluations: a connection that flickers must not hurry it."""
    watchdog = system.start(WatchdogService)
    system.equity(1000.0)
    system.step()
    system.equity(900.0)
    system.pass_s(10)
    for _ in range(3):
        system.peer_of(watchdog).drop_connection()
        system.peer_of(watchdog).restore_connection()
        system.pass_s(1)
    safety = system.safety()
    assert (safety.posture, safety.sensors["below"]) == ("APEX", 1)
    assert safety.updated_at == iso_from_ns(system.clock.now_ns()), "but it is told again"


def test_a_holder_whose_clock_was_set_back_asks_the_grid_all_the_same(system: RiskSystem) -> None:
    first = system.start(WatchdogService, "watchdog")
    system.step()
    system.peer_of(first).lose_session()
    other = system.memory.peer()
    other.lock("watchdog_writer").acquire(0.0)
    system.clock.move_to(system.clock.now_ns() - 3600 * NS_PER_S)
    system.step()
    assert first.phase == "standby"
    other.close()


def test_a_standby_takes_over_in_one_step_from_a_grid_that_forgot_all_fences(system: RiskSystem) -> None:
    first = system.start(WatchdogService, "watchdog")
    second = system.start(WatchdogService, "watchdog_2")
    system.pass_s(10)
    system.kill(first)
    system.memory.lose_memory()
    system.step()
    assert (second.phase, system.safety().fence) == ("running", 2)


def test_a_paused_watchdog_writes_nothing_when_it_wakes(system: RiskSystem) -> None:
    first = system.start(WatchdogService, "watchdog")
    system.equity(1000.0)
    system.step()
    paused = system.hosted.pop()
    system.peer_of(first).lose_session()
    second = system.start(WatchdogService, "watchdog_2")
    system.equity(850.0)
    system.pass_s(30)
    assert system.safety().posture == "HIBERNATE"
    written = system.safety()
    paused.step()
    assert system.safety() == written
    assert (first.phase, second.phase) == ("standby", "running")
    assert len(system.told("fence")) == 1


def test_a_write_that_was_on_its_way_is_refused_by_its_fence(system: RiskSystem) -> None:
    first = system.start(WatchdogService, "watchdog")
    system.step()
    system.hosted.pop()
    system.peer_of(first).lose_session()
    system.start(WatchdogService, "watchdog_2")
    system.pass_s(10)
    written = system.safety()
    # The check was passed before the pause; only the write comes late.
    assert first._last is not None
    first._publish(first._last, system.clock.now_ns() + NS_PER_S)
    assert system.safety() == written
    assert first.phase == "standby"


def test_a_grid_that_comes_back_empty_is_told_at_once(system: RiskSystem) -> None:
    system.start(WatchdogService)
    system.equity(1000.0)
    system.step()
    system.equity(900.0)
    system.pass_s(20)
    assert system.safety().posture == "TURTLE"
    system.memory.lose_memory()
    assert system.door.get(SAFETY) is None
    system.step()
    safety = system.safety()
    assert safety.posture == "TURTLE"
    assert safety.fence == 2, "fences rise although the grid began anew"
    assert safety.sensors["capital"]["drawdown"] == pytest.approx(0.1), "what was known is not forgotten"


def test_a_grid_that_is_away_counts_as_no_node(system: RiskSystem) -> None:
    watchdog = system.start(WatchdogService)
    system.step()
    system.peer_of(watchdog).drop_connection()
    system.pass_s(20)
    assert watchdog.context.counts["grid_errors"] > 0
    system.peer_of(watchdog).restore_connection()
    system.step()
    assert system.safety().posture == "HIBERNATE"
    system.beat()
    system.pass_s(60, beat=True)
    assert 0.0 < system.safety().rm < 0.05


def test_a_clock_that_is_set_back_freezes_and_loosens_nothing(system: RiskSystem) -> None:
    system.start(WatchdogService)
    system.verdict("OK")
    system.beat()
    system.equity(1000.0)
    system.step()
    system.equity(940.0)
    system.pass_s(60, beat=True)
    before = system.safety()
    system.clock.move_to(system.clock.now_ns() - 3600 * NS_PER_S)
    system.step()
    after = system.safety()
    assert after.updated_at == iso_from_ns(system.clock.now_ns()), "it writes on, whatever the old stamps say"
    assert after.posture == before.posture == "STALKER"
    assert after.rm == before.rm
    # The scanner is silent from here on: its stamp lies in the future, and it is found dead all the same.
    system.pass_s(40)
    assert system.safety().posture == "HIBERNATE"


def test_a_state_that_cannot_be_kept_is_not_published(
    system: RiskSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dolphin.domain.errors import StoreError
    from dolphin.services import durable

    watchdog = system.start(WatchdogService)
    system.step()
    written = system.safety()

    def full(path: Path, content: bytes, mode: int = 0o644) -> None:
        raise StoreError(f"{path}: cannot be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_durably", full)
        system.pass_s(30)
    assert system.safety() == written
    assert not watchdog.health()[0]
    assert len(system.told("invariant")) == 1
    system.pass_s(10)
    assert system.safety().updated_at == iso_from_ns(system.clock.now_ns())
    assert watchdog.health()[0]


def test_a_damaged_state_is_refused(system: RiskSystem) -> None:
    path = system.home.state("watchdog")
    path.parent.mkdir(parents=True)
    path.write_text('{"fence":1,"stack":{"rm":')
    with pytest.raises(DataError, match="damaged"):
        system.start(WatchdogService)
