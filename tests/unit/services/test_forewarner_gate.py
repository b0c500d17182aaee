"""The gate in the hosts: a day's code from models or the grid, published every 4 h, the same on resume."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crash_runs import content
from walk_feed import WalkFeed

from dolphin.domain import codes
from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.domain.errors import ConfigError
from dolphin.domain.params import GOLD, NAMED_SETS, ParameterSet
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.payloads import AcbBoost, ForewarnerPayload
from dolphin.grid.topics import ACB_BOOST, FOREWARNER
from dolphin.grid.typed import TypedGrid
from dolphin.journal.store import Journal
from dolphin.risk.forewarner import FALLBACK_NO_DATA, REAL_MODEL, Verdict, fallback, verdict
from dolphin.services import embedded
from dolphin.services.embedded import RunSettings, run
from dolphin.services.forewarner_gate import (
    NO_FOREWARNER,
    PUBLISH_EVERY_NS,
    ForewarnerGate,
    due,
    mc_status_by_day,
    payload_of,
    publish_verdict,
    status_of,
)
from dolphin.services.organs import Organs

NOW = 1_767_571_200 * NS_PER_S
HOUR = 3600 * NS_PER_S


class Scripted:
    """An assessor whose probability is a function of the assessed leverage; it counts what it is asked."""

    def __init__(self, identity: str = "scripted", red_at: float = 12.0, orange_at: float = 9.0) -> None:
        self.identity = identity
        self.why = ""
        self.asked: list[tuple[float, int]] = []
        self._levels = red_at, orange_at

    def assess(self, params: ParameterSet, boost: float, timestamp_ns: int) -> Verdict:
        self.asked.append((boost, timestamp_ns))
        red, orange = self._levels
        leverage = params.max_leverage * boost
        probability = 0.5 if leverage >= red else 0.2 if leverage >= orange else 0.01
        return verdict(probability, 1.0, REAL_MODEL, timestamp_ns)


ALWAYS_RED = {"red_at": 0.0}
ALWAYS_ORANGE = {"orange_at": 0.0, "red_at": 1e9}


def breaker(boost: float) -> AcbBoost:
    return AcbBoost(boost=boost, beta=0.8, signals=1.0, day="2026-01-05", updated_at=iso_from_ns(NOW))


def test_the_codes_of_days_follow_the_boost_each_begins_with() -> None:
    found = mc_status_by_day(Scripted(), GOLD, ("d1", "d2", "d3"), np.array([1.0, 1.35, 1.6]))
    assert found.dtype == np.int64
    assert found.tolist() == [codes.MC_OK, codes.MC_ORANGE, codes.MC_RED]
    assert mc_status_by_day(Scripted(), GOLD, ("d1", "d2")).tolist() == [codes.MC_OK] * 2
    assert mc_status_by_day(None, GOLD, ("d1", "d2")).tolist() == [codes.MC_ABSENT] * 2
    with pytest.raises(ValueError, match="zip"):
        mc_status_by_day(Scripted(), GOLD, ("d1", "d2"), [1.0])


def test_days_of_one_boost_are_assessed_once() -> None:
    assessor = Scripted()
    found = mc_status_by_day(assessor, GOLD, ("d1", "d2", "d3", "d4"), [1.0, 1.35, 1.0, 1.35])
    assert found.tolist() == [0, 1, 0, 1]
    assert [boost for boost, _ in assessor.asked] == [1.0, 1.35]


def test_within_a_day_nothing_is_assessed_however_the_boost_moves() -> None:
    """1,000 bars a day, each with a boost of its own: the code is that of the day's first bar."""
    assessor = Scripted()
    with InProcessGrid() as grid:
        typed = TypedGrid(grid)
        organs = Organs(typed, codes.APEX, ForewarnerGate(assessor, GOLD))
        for day, first in (("2026-01-05", 1.0), ("2026-01-06", 1.35), ("2026-01-07", 1.6)):
            found = set()
            for bar in range(1000):
                typed.put(ACB_BOOST, breaker(first + bar * 1e-4))
                found.add(organs.inputs(NOW, day).mc_status)
            assert found == set(mc_status_by_day(Scripted(), GOLD, (day,), [first]).tolist())
    assert [boost for boost, _ in assessor.asked] == [1.0, 1.35, 1.6]


def test_a_gate_remembers_one_answer() -> None:
    assessor = Scripted()
    gate = ForewarnerGate(assessor, GOLD)
    assert [gate.status(boost) for boost in (1.0, 1.35, 1.35, 1.0)] == [0, 1, 1, 0]
    assert [boost for boost, _ in assessor.asked] == [1.0, 1.35, 1.0]
    assert gate.status(1.0, "2026-01-05") == gate.status(1.0, "2026-01-06") == 0
    assert len(assessor.asked) == 3, "a new day at the same boost has the same answer"


def test_organs_take_the_host_s_models_before_the_grid_s_word() -> None:
    with InProcessGrid() as grid:
        typed = TypedGrid(grid)
        assert Organs(typed, codes.APEX).inputs(NOW).mc_status == codes.MC_ABSENT
        typed.put(FOREWARNER, payload_of(fallback(FALLBACK_NO_DATA, NOW)))
        typed.put(ACB_BOOST, breaker(1.6))
        assert Organs(typed, codes.APEX).inputs(NOW).mc_status == codes.MC_ORANGE
        own = Organs(typed, codes.APEX, ForewarnerGate(Scripted(), GOLD))
        assert own.inputs(NOW).mc_status == codes.MC_RED, "gold's 8 times the grid's boost of 1.6"
    assert Organs(None, codes.APEX, ForewarnerGate(Scripted(), GOLD)).inputs(None).mc_status == codes.MC_OK


@pytest.mark.parametrize(
    ("probability", "age_s", "expected"),
    [
        (0.01, 0, codes.MC_OK),
        (0.01, 6 * 3600, codes.MC_OK),
        (0.01, 6 * 3600 + 1, codes.MC_ORANGE),
        (0.01, -1, codes.MC_ORANGE),
        (0.20, 90_000, codes.MC_ORANGE),
        (0.90, 90_000, codes.MC_RED),
        (0.01, None, codes.MC_OK),
    ],
)
def test_silence_never_loosens_the_grid_s_gate(probability: float, age_s: int | None, expected: int) -> None:
    with InProcessGrid() as grid:
        organs = Organs(TypedGrid(grid), codes.APEX)
        TypedGrid(grid).put(FOREWARNER, payload_of(verdict(probability, 1.0, REAL_MODEL, NOW)))
        now = None if age_s is None else NOW + age_s * NS_PER_S
        assert organs.inputs(now).mc_status == expected


def test_a_payload_without_a_gate_gets_the_rule_s() -> None:
    with InProcessGrid() as grid:
        organs = Organs(TypedGrid(grid), codes.APEX)
        for probability, score, expected in ((0.05, 0.5, 0), (0.05, -0.5, 1), (0.05, -1.5, 2)):
            payload = ForewarnerPayload(
                status="GREEN", catastrophic_prob=probability, envelope_score=score,
                source="REAL_MODEL", timestamp=iso_from_ns(NOW),
            )  # fmt: skip
            TypedGrid(grid).put(FOREWARNER, payload)
            assert organs.inputs(NOW).mc_status == expected
    assert status_of(None, NOW) == codes.MC_ABSENT


def test_a_published_verdict_has_the_page_s_keys_and_the_grid_s_boost() -> None:
    with InProcessGrid() as grid:
        typed = TypedGrid(grid)
        publish_verdict(typed, Scripted(), GOLD, NOW)
        typed.put(ACB_BOOST, breaker(1.35))
        publish_verdict(typed, Scripted(), GOLD, NOW + HOUR)
        raw = grid.map("DOLPHIN_FEATURES").get("mc_forewarner_latest")
        assert raw is not None
        assert json.loads(raw) == {
            "status": "ORANGE",
            "gate": "ORANGE",
            "catastrophic_prob": 0.2,
            "envelope_score": 1.0,
            "source": "REAL_MODEL",
            "timestamp": iso_from_ns(NOW + HOUR),
        }


def test_it_is_due_at_once_and_then_every_four_hours() -> None:
    assert due(None, NOW)
    assert not due(NOW, NOW + 4 * HOUR - 1)
    assert due(NOW, NOW + 4 * HOUR)
    assert PUBLISH_EVERY_NS == 4 * HOUR


# the embedded run

N_BARS = 1100


def settings_of(folder: Path, **changes: Any) -> RunSettings:
    base = RunSettings(
        feed_name="walk", set_name="gold", params=NAMED_SETS["gold"], folder=folder, scan_path="float64",
        report=False,
    )  # fmt: skip
    return replace(base, **changes)


def go(folder: Path, stop_at: int | None = None, **changes: Any) -> dict[str, Any]:
    seen = {"bars": 0}

    def on_progress(progress: object) -> None:
        seen["bars"] += 1

    return run(
        WalkFeed(3, N_BARS),
        settings_of(folder, **changes),
        on_progress,
        lambda: stop_at is not None and seen["bars"] >= stop_at,
    )


def entries(folder: Path) -> list[Any]:
    with contextlib.closing(Journal.read_only(folder / "journal.db")) as journal:
        return [d for d in journal.decisions(active=True) if d.action == codes.ACTION_ENTER]


def statuses(folder: Path) -> set[int]:
    with contextlib.closing(Journal.read_only(folder / "journal.db")) as journal:
        return {d.mc_status for d in journal.decisions(0)}


def test_a_run_begins_its_days_with_the_gate(tmp_path: Path) -> None:
    free = go(tmp_path / "free")
    assert free["trades"] > 0
    assert statuses(tmp_path / "free") == {codes.MC_ABSENT}
    half = go(tmp_path / "half", forewarner=Scripted(**ALWAYS_ORANGE))
    assert statuses(tmp_path / "half") == {codes.MC_ORANGE}
    first, halved = entries(tmp_path / "free")[0], entries(tmp_path / "half")[0]
    assert halved.bar_idx == first.bar_idx
    assert halved.raw == pytest.approx(0.5 * first.raw)
    assert half["decisions_sha256"] != free["decisions_sha256"]
    shut = go(tmp_path / "shut", forewarner=Scripted(**ALWAYS_RED))
    assert (shut["trades"], entries(tmp_path / "shut")) == (0, [])
    ok = go(tmp_path / "ok", forewarner=Scripted(orange_at=1e9, red_at=1e9))
    assert statuses(tmp_path / "ok") == {codes.MC_OK}
    assert [d.notional for d in entries(tmp_path / "ok")] == [d.notional for d in entries(tmp_path / "free")]
    assert ok["trades"] == free["trades"]


@pytest.mark.parametrize("stop_at", [800, 1000])
def test_a_resumed_run_decides_the_same_days_alike(tmp_path: Path, stop_at: int) -> None:
    """Stopped before and after midnight, with days that begin at ORANGE."""
    go(tmp_path / "whole", forewarner=Scripted(**ALWAYS_ORANGE))
    go(tmp_path / "run", stop_at=stop_at, forewarner=Scripted(**ALWAYS_ORANGE))
    go(tmp_path / "run", resume=True, forewarner=Scripted(**ALWAYS_ORANGE))
    assert content(tmp_path / "run") == content(tmp_path / "whole")


@pytest.mark.parametrize(("before", "after"), [("one", "two"), ("one", None), (None, "one")])
def test_a_resume_with_another_forewarner_is_refused(
    tmp_path: Path, before: str | None, after: str | None
) -> None:
    go(tmp_path / "run", stop_at=900, forewarner=None if before is None else Scripted(before))
    with pytest.raises(ConfigError, match="was run with forewarner"):
        go(tmp_path / "run", resume=True, forewarner=None if after is None else Scripted(after))


def test_a_run_says_whether_its_forewarner_is_absent_or_falls_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, ...]] = []
    real = embedded.finish

    def finish(*args: Any, **kwargs: Any) -> Any:
        told.append(tuple(kwargs["notes"]))
        return real(*args, **kwargs)

    monkeypatch.setattr(embedded, "finish", finish)
    go(tmp_path / "free")
    assert NO_FOREWARNER in told[0]
    fell = Scripted(FALLBACK_NO_DATA)
    fell.why = "DIR/manifest.json: is not there"
    summary = go(tmp_path / "fell", forewarner=fell)
    assert NO_FOREWARNER not in told[1]
    assert any("falls back" in text or "fallback: DIR" in text for text in summary["warnings"])


def test_a_run_publishes_every_four_hours_of_its_own_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No clock is read: with a period of 100 bars the walk's one-second bars publish at each hundredth."""
    published: list[int] = []
    real = embedded.publish_verdict

    def publish(grid: TypedGrid, assessor: Any, params: ParameterSet, now_ns: int) -> Any:
        published.append(now_ns)
        return real(grid, assessor, params, now_ns)

    monkeypatch.setattr(embedded, "publish_verdict", publish)
    go(tmp_path / "day", forewarner=Scripted())
    assert len(published) == 1, "349 seconds are less than four hours"
    published.clear()
    monkeypatch.setattr("dolphin.services.forewarner_gate.PUBLISH_EVERY_NS", 100 * NS_PER_S)
    go(tmp_path / "often", forewarner=Scripted())
    assert np.diff(published).tolist() == [100 * NS_PER_S] * 3
