"""The signal path of a system in this process: what is said when it holds, and when each part is broken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from scan_system import T0, ScanSystem, SteppingClock

from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.domain.codes import MC_ABSENT, MC_OK
from dolphin.grid.payloads import ForewarnerPayload, SafetyPayload, ShardFeatures
from dolphin.grid.shards import shard_index
from dolphin.grid.topics import FOREWARNER, SAFETY, SHARD_FEATURES
from dolphin.journal.store import Journal
from dolphin.services.drill import Drill, aim, planted_verdict
from dolphin.services.organs import Organs
from dolphin.services.signal_path import SignalPath, StepResult, verify
from dolphin.services.trader_service import TraderService
from dolphin.services.watchdog import WatchdogService


class Whole(ScanSystem):
    """Scanner, bridge, watchdog and trader, as far as they are wanted."""

    def up(self, *names: str) -> None:
        kinds = {"watchdog": WatchdogService, "trader": TraderService}
        for name in names:
            if name in kinds:
                self.start(kinds[name], name)  # type: ignore[type-var]
            else:
                {"scanner": self.scanner, "scan_bridge": self.bridge}[name]()
        self.step()
        self.pass_s(12.0)

    def verify(self, *, plant: bool = False) -> dict[str, StepResult]:
        steps = list(verify(self.door, self.home, self.settings, SteppingClock(self), plant=plant))
        assert [step.name for step in steps][:5] == ["grid", "books", "scan", "trader", "posture"]
        return {step.name: step for step in steps}

    def book(self, symbol: str, shard: int | None = None) -> None:
        index = shard_index(symbol) if shard is None else shard
        payload = ShardFeatures(
            imbalance=0.0, imbalance_ma5=0.0, imbalance_persistence=0.5, depth_1pct_usd=1e6,
            depth_quality=1.0, fill_probability=0.5, spread_proxy_bps=1.0, depth_asymmetry=0.0,
            withdrawal_velocity=0.0, regime_signal=0.0, timestamp=iso_from_ns(self.clock.now_ns()),
        )  # fmt: skip
        self.door.put(SHARD_FEATURES, payload, shard=f"{index:02d}", symbol=symbol)

    def verdict(self, gate: str = "OK", source: str = "REAL_MODEL") -> ForewarnerPayload:
        payload = ForewarnerPayload(
            status="GREEN", gate=gate, catastrophic_prob=0.05, envelope_score=0.5,  # type: ignore[arg-type]
            source=source, timestamp=iso_from_ns(self.clock.now_ns()),  # type: ignore[arg-type]
        )  # fmt: skip
        self.door.put(FOREWARNER, payload)
        return payload


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Whole]:
    made = Whole(tmp_path)
    yield made
    made.close()


def statuses(steps: dict[str, StepResult]) -> dict[str, str]:
    return {name: step.status for name, step in steps.items()}


HOLDS = {"grid": "pass", "books": "absent", "scan": "pass", "trader": "pass", "posture": "pass"}


def test_a_whole_system_passes_with_what_was_seen(system: Whole) -> None:
    system.up("scanner", "scan_bridge", "watchdog", "trader")
    steps = system.verify()
    assert statuses(steps) == HOLDS
    assert "is latest_eigen_scan, seen there" in steps["scan"].text
    number = int(steps["scan"].text.split()[1])
    journal = Journal.read_only(system.home.trader / "journal.db")
    (bar,) = [d.bar_idx for d in journal.decisions() if d.scan_number == number]
    journal.close()
    assert steps["trader"].text == f"scan {number} is bar {bar}, decided once (trader running)"
    assert steps["posture"].text == (
        "APEX, Rm 0.973, written under fence 1; absent: environment, microstructure, structural"
    )
    assert 0.0 < steps["scan"].seconds < 10.0


def test_a_trader_that_is_not_there_is_absent_and_no_failure(system: Whole) -> None:
    system.up("scanner", "scan_bridge", "watchdog")
    steps = system.verify()
    assert statuses(steps) == {**HOLDS, "trader": "absent"}
    assert "dolphin up trader" in steps["trader"].text


def test_a_dead_scanner_is_named(system: Whole) -> None:
    system.up("scanner", "scan_bridge", "watchdog", "trader")
    system.kill(system.hosted[0].service)
    steps = system.verify()
    assert statuses(steps)["scan"] == "fail"
    assert "no new scan file in 90 s" in steps["scan"].text
    assert "scanner is not alive" in steps["scan"].text
    assert steps["trader"].status == "fail"


def test_a_dead_bridge_is_named(system: Whole) -> None:
    system.up("scanner", "scan_bridge", "watchdog")
    system.kill(system.hosted[1].service)
    system.pass_s(31.0)
    steps = system.verify()
    assert steps["scan"].status == "fail"
    assert "is in the store, after 15 s the grid has scan" in steps["scan"].text
    assert "scan_bridge is not alive" in steps["scan"].text


def test_a_trader_that_decides_nothing_fails(system: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    system.up("scanner", "scan_bridge", "watchdog", "trader")
    monkeypatch.setattr(TraderService, "tick", lambda self: None)
    steps = system.verify()
    assert steps["trader"].status == "fail"
    assert "has no decision after 15 s (trader running)" in steps["trader"].text


def test_a_decision_that_stands_twice_fails(system: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    system.up("scanner", "scan_bridge", "watchdog", "trader")
    decisions = Journal.decisions

    def doubled(self: Journal, *bounds: int) -> Iterator[object]:
        for decision in decisions(self, *bounds):
            yield decision
            yield msgspec.structs.replace(decision, bar_idx=decision.bar_idx + 1)

    monkeypatch.setattr(Journal, "decisions", doubled)
    steps = system.verify()
    assert steps["trader"].status == "fail"
    assert "has 2 decisions" in steps["trader"].text


def test_a_dead_watchdog_is_named(system: Whole) -> None:
    system.up("scanner", "scan_bridge", "watchdog")
    system.kill(system.hosted[2].service)
    system.pass_s(31.0)
    steps = system.verify()
    assert steps["posture"].status == "fail"
    assert "every trader acts as HIBERNATE; watchdog is not alive" in steps["posture"].text


def test_a_system_without_any_posture_fails(system: Whole) -> None:
    system.up("scanner", "scan_bridge")
    assert system.verify()["posture"].text.startswith("no posture was ever written")


def test_books_on_their_maps_pass_and_elsewhere_or_old_fail(system: Whole) -> None:
    path = SignalPath(system.door, system.home, system.settings, system.clock)
    assert path.books_arrive()[0] == "absent"
    path.settings = msgspec.structs.replace(system.settings, senses=("books",))
    assert path.books_arrive() == (
        "fail", "no books on any of the ten maps, though this system was asked to run with them"
    )  # fmt: skip
    system.book("BTCUSDT")
    system.book("ETHUSDT")
    assert path.books_arrive() == ("pass", "2 assets on their maps, the newest 0.0 s old")
    system.clock.move_to(T0 + 31 * NS_PER_S)
    assert path.books_arrive() == ("fail", "2 assets on the maps, the newest 31 s old")
    system.book("SOLUSDT", shard=(shard_index("SOLUSDT") + 1) % 10)
    status, text = path.books_arrive()
    assert (status, "SOLUSDT lies in" in text) == ("fail", True)


def test_a_grid_that_is_away_fails_every_step_and_hangs_none(system: Whole) -> None:
    system.up("scanner", "scan_bridge", "watchdog")
    system.door.grid.drop_connection()  # type: ignore[attr-defined]
    steps = system.verify(plant=True)
    assert set(statuses(steps).values()) == {"fail"}
    assert all("the grid does not answer" in step.text for step in steps.values())


# the drill


def test_the_drill_moves_the_posture_and_takes_everything_back(system: Whole) -> None:
    system.up("scanner", "scan_bridge", "watchdog", "trader")
    steps = system.verify(plant=True)
    assert steps["drill"].status == "pass", steps["drill"].text
    assert steps["drill"].text.startswith("APEX -> STALKER ")
    assert 10.0 <= steps["drill"].seconds <= 75.0
    # Nothing is left on the grid, and the watchdog sees no forewarner again.
    assert system.door.get(FOREWARNER) is None
    safety = system.door.get(SAFETY)
    assert safety is not None
    assert safety.posture == "STALKER"
    assert safety.sensors["structural"]["absent"] is True
    # Within the hour it is as before.
    system.pass_s(3600.0, every_s=5.0)
    safety = system.door.get(SAFETY)
    assert safety is not None
    assert safety.posture == "APEX"


def test_the_drill_puts_a_real_verdict_back(system: Whole) -> None:
    former = system.verdict()
    system.up("scanner", "scan_bridge", "watchdog")
    steps = system.verify(plant=True)
    assert steps["drill"].status == "pass", steps["drill"].text
    assert system.door.get(FOREWARNER) == former
    safety = system.door.get(SAFETY)
    assert safety is not None
    assert safety.sensors["structural"]["absent"] is False
    assert safety.sensors["structural"]["staleness_h"] < 0.1


def test_a_verdict_that_comes_during_the_drill_stays(system: Whole) -> None:
    system.up("scanner", "scan_bridge", "watchdog")
    path = SignalPath(system.door, system.home, system.settings, SteppingClock(system))
    drill = Drill(path)
    moved = drill._moved
    came: list[ForewarnerPayload] = []

    def meanwhile() -> SafetyPayload | None:
        found = moved()
        if found is not None and not came:
            came.append(system.verdict())
        return found

    drill._moved = meanwhile  # type: ignore[method-assign]
    drill.run()
    assert system.door.get(FOREWARNER) == came[0]


def test_a_drill_that_is_killed_ends_by_itself(system: Whole) -> None:
    system.up("scanner", "scan_bridge", "watchdog")
    until_s = system.clock.now_ns() / NS_PER_S + 60.0
    system.door.put(FOREWARNER, planted_verdict(0.83, system.clock.now_ns(), until_s))
    system.pass_s(55.0, every_s=5.0)
    safety = system.door.get(SAFETY)
    assert safety is not None
    assert (safety.posture, safety.sensors["structural"]["absent"]) == ("STALKER", False)
    system.pass_s(20.0, every_s=5.0)
    safety = system.door.get(SAFETY)
    assert safety is not None
    assert safety.sensors["structural"]["absent"] is True


def test_a_trader_takes_no_word_from_a_drill(system: Whole) -> None:
    organs = Organs(system.door, 0)
    now_ns = system.clock.now_ns()
    planted = planted_verdict(0.83, now_ns, now_ns / NS_PER_S + 60.0)
    system.door.put(FOREWARNER, planted)
    assert organs.inputs(now_ns).mc_status == MC_ABSENT
    system.verdict()
    assert organs.inputs(now_ns).mc_status == MC_OK
    system.door.put(FOREWARNER, msgspec.structs.replace(planted, gate="RED"))
    assert organs.inputs(now_ns).mc_status == MC_OK
    assert [source for source, _ in organs.changes()] == ["FOREWARNER"]
    assert organs.changes() == []
    organs.close()


def test_a_system_that_is_not_at_its_best_is_left_alone(system: Whole) -> None:
    system.verdict(gate="ORANGE")
    system.up("scanner", "scan_bridge", "watchdog")
    steps = system.verify(plant=True)
    assert steps["drill"].status == "absent"
    assert "the posture is TURTLE already" in steps["drill"].text


def test_a_watchdog_that_does_not_move_fails_and_the_plant_is_gone(
    system: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.up("scanner", "scan_bridge", "watchdog")
    path = SignalPath(system.door, system.home, system.settings, SteppingClock(system))
    monkeypatch.setattr(WatchdogService, "tick", lambda self: None)
    status, text = Drill(path).run()
    assert status == "fail"
    assert text.startswith("45 s after the drop the watchdog says APEX")
    assert system.door.get(FOREWARNER) is None


def test_the_drill_aims_at_the_middle_of_stalker_or_is_left_out() -> None:
    def safety(**values: float | None) -> SafetyPayload:
        names = {"invariant": 1.0, "microstructure": 1.0, "environment": 1.0, "capital": 0.97} | values
        sensors = {name: {"value": value} for name, value in names.items()}
        return SafetyPayload(posture="APEX", rm=0.97, sensors=sensors, updated_at=iso_from_ns(T0))

    assert aim(safety()) == pytest.approx(0.83 / 0.97)
    assert aim(safety(capital=0.91, microstructure=0.99)) == pytest.approx(0.83 / (0.91 * 0.99))
    assert aim(safety(capital=0.83)) is None
    assert aim(safety(environment=0.85)) is None
    assert aim(safety(invariant=0.0)) is None
    assert aim(safety(capital=None)) is None
