"""The breaker's processor: what it computes, keeps and publishes, and that one writes at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from risk_system import NOON, RiskSystem
from scan_market import scans

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, iso_from_ns
from dolphin.grid.payloads import AcbBoost
from dolphin.grid.port import GridUnreachable
from dolphin.grid.topics import ACB_BOOST, ACB_STATE, SCAN_LOG, SCAN_LOG_CAPACITY
from dolphin.grid.typed import TypedGrid, publish_scan
from dolphin.risk.breaker_day import BreakerDay
from dolphin.services.acb import AcbService
from dolphin.services.service import Context, Hosted

CALM = {"funding": 0.0001, "dvol": 40.0, "fng": 50.0, "taker": 1.0}
STORM = {"funding": -0.0002, "dvol": 90.0, "fng": 20.0, "taker": 0.7}


@pytest.fixture
def system(tmp_path: Path) -> Iterator[RiskSystem]:
    made = RiskSystem(tmp_path)
    yield made
    made.close()


def scan(system: RiskSystem, v750: float) -> None:
    made = scans(1, 1, start_ns=system.clock.now_ns())[0]
    publish_scan(system.door.grid, msgspec.structs.replace(made, w750_velocity=v750))


def test_without_anything_the_breaker_is_neutral_and_names_what_is_missing(system: RiskSystem) -> None:
    acb = system.start(AcbService)
    system.step()
    boost = system.boost()
    assert (boost.boost, boost.beta, boost.signals, boost.fence) == (1.0, 0.2, 0.0, 1)
    assert boost.missing == ("funding_btc", "dvol_btc", "fng", "taker", "w750", "books")
    assert (boost.w750, boost.threshold, boost.stress, boost.day) == (None, None, 0.0, "2026-03-02")
    healthy, why = acb.health()
    assert healthy
    assert why.startswith("last written 0 s ago under fence 1: boost 1.000, beta 0.20; missing: funding_btc")


def test_factors_are_medians_of_the_days_first_ten_records(system: RiskSystem) -> None:
    system.start(AcbService)
    pushed = []
    for k in range(14):
        pushed.append((0.0001 - 0.00004 * k, 50.0 + 3.0 * k))
        system.factors(funding=pushed[-1][0], dvol=pushed[-1][1], fng=None, taker=0.85)
        system.pass_s(60)
    funding, dvol = (float(np.median([p[i] for p in pushed[:10]])) for i in (0, 1))
    boost = system.boost()
    assert boost.factors["funding_btc"].value == pytest.approx(funding)
    assert boost.factors["dvol_btc"].value == pytest.approx(dvol)
    weights = {name: factor.weight for name, factor in boost.factors.items()}
    assert weights == {"funding_btc": 0.5, "dvol_btc": 0.5, "fng": 0.0, "taker": 0.5}
    assert boost.signals == 1.5
    assert boost.boost == pytest.approx(1 + 0.5 * np.log1p(1.5))
    assert boost.missing == ("fng", "w750", "books")
    assert boost.factors["fng"].value is None
    assert boost.factors["taker"].age_s == pytest.approx(5 * 60, abs=6)


def test_fear_and_greed_counts_only_with_another(system: RiskSystem) -> None:
    system.start(AcbService)
    system.factors(**{**CALM, "fng": 10.0})
    system.step()
    assert (system.boost().signals, system.boost().factors["fng"].weight) == (0.0, 0.0)
    system.clock.move_to(NOON + NS_PER_DAY)
    system.factors(**STORM)
    system.step()
    assert (system.boost().signals, system.boost().factors["fng"].weight) == (4.0, 1.0)


def test_new_data_is_published_without_waiting_for_the_period(system: RiskSystem) -> None:
    acb = system.start(AcbService)
    system.step()
    assert not acb.context.wake.is_set()
    system.factors(**STORM)
    assert acb.context.wake.is_set()
    system.step()
    assert system.boost().signals == 4.0
    scan(system, 0.01)
    system.step()
    assert system.boost().w750 == 0.01


def test_w750_is_the_median_of_the_day_and_the_threshold_of_the_days_before(system: RiskSystem) -> None:
    system.start(AcbService)
    rng = np.random.default_rng(3)
    medians = []
    for day in range(4):
        system.clock.move_to(NOON + day * NS_PER_DAY)
        values = rng.normal(0.0, 0.01, 7).tolist()
        for value in values:
            scan(system, value)
            scan(system, 9.9)  # the minute has its velocity already
            system.step()
            system.clock.move_to(system.clock.now_ns() + 60 * NS_PER_S)
        boost = system.boost()
        assert boost.w750 == pytest.approx(float(np.median(values)), abs=1e-15)
        known = medians or values
        threshold = float(np.percentile(known, 60.0))
        assert boost.threshold == pytest.approx(threshold, abs=1e-15)
        assert boost.beta == (0.8 if np.median(values) >= threshold else 0.2)
        medians.append(float(np.median(values)))
    assert "w750" not in system.boost().missing


def test_books_under_stress_raise_beta(system: RiskSystem) -> None:
    system.start(AcbService)
    for symbol, withdrawal in (("BTCUSDT", -0.5), ("ETHUSDT", -0.11), ("XRPUSDT", -0.10), ("ADAUSDT", 0.3)):
        system.book(symbol, withdrawal=withdrawal)
    scan(system, 0.01)
    system.step()
    boost = system.boost()
    assert boost.stress == 0.5
    assert boost.beta == pytest.approx(0.8 * 1.125)
    assert "books" not in boost.missing
    system.pass_s(66)
    assert (system.boost().stress, system.boost().missing[-1]) == (0.0, "books")


def test_midnight_begins_a_day_without_records(system: RiskSystem) -> None:
    system.clock.move_to(NOON + NS_PER_DAY // 2 - 30 * NS_PER_S)
    system.start(AcbService)
    system.factors(**STORM)
    scan(system, 0.01)
    system.step()
    assert (system.boost().day, system.boost().boost > 1.5) == ("2026-03-02", True)
    system.pass_s(40)
    boost = system.boost()
    assert (boost.day, boost.boost, boost.w750) == ("2026-03-03", 1.0, None)
    assert boost.threshold == 0.01, "yesterday's velocity is known now"
    system.factors(**STORM)
    system.step()
    assert system.boost().boost > 1.5


def test_it_is_written_again_within_ten_seconds(system: RiskSystem) -> None:
    system.start(AcbService)
    system.step()
    for _ in range(6):
        system.pass_s(10)
        age_ns = system.clock.now_ns() - (system.boost().source_ns() or 0)
        assert 0 <= age_ns < 10 * NS_PER_S


def test_a_restart_in_the_day_knows_what_the_day_knew(system: RiskSystem) -> None:
    first = system.start(AcbService)
    for k in range(5):
        system.factors(**STORM)
        scan(system, 0.001 * k)
        system.pass_s(60)
    before = system.boost()
    system.kill(first)
    system.memory.lose_memory()
    system.start(AcbService)
    system.step()
    after = system.boost()
    assert after.fence == before.fence + 1
    assert (after.boost, after.beta, after.w750, after.threshold) == (
        before.boost,
        before.beta,
        before.w750,
        before.threshold,
    )
    state = system.door.get(ACB_STATE)
    assert state is not None
    assert len(msgspec.convert(state.state, BreakerDay).records) == 5


def test_scans_published_while_it_was_away_are_counted(system: RiskSystem) -> None:
    first = system.start(AcbService)
    scan(system, 0.001)
    system.step()
    system.kill(first)
    for k in range(2, 6):
        system.clock.move_to(system.clock.now_ns() + 60 * NS_PER_S)
        scan(system, 0.001 * k)
    system.start(AcbService)
    system.step()
    assert system.boost().w750 == pytest.approx(0.003)


def test_a_log_that_began_anew_is_read_from_its_start(system: RiskSystem) -> None:
    system.start(AcbService)
    for _ in range(3):
        scan(system, 0.001)
        system.pass_s(60)
    system.memory.lose_memory()
    scan(system, 0.009)
    assert system.door.grid.log(SCAN_LOG).tail() == 0
    system.step()
    state = system.door.get(ACB_STATE)
    assert state is not None
    assert state.state["velocities"] == [0.001, 0.001, 0.001, 0.009]


def test_two_processors_never_write_at_once(system: RiskSystem) -> None:
    first = system.start(AcbService, "acb")
    second = system.start(AcbService, "acb_2")
    system.factors(**STORM)
    system.pass_s(20)
    assert (first.phase, second.phase) == ("running", "standby")
    assert second.context.counts["writes"] == 0
    system.kill(first)
    system.pass_s(10)
    boost = system.boost()
    assert (second.phase, boost.fence) == ("running", 2)
    assert boost.signals == 4.0, "it goes on with what the first had kept"


def test_a_late_write_of_the_old_one_is_refused(system: RiskSystem) -> None:
    first = system.start(AcbService, "acb")
    system.factors(**STORM)
    system.step()
    system.hosted.pop()
    system.peer_of(first).lose_session()
    system.start(AcbService, "acb_2")
    system.pass_s(10)
    written = system.boost()
    assert written.fence == 2
    # Its last check was before the pause; only the write comes late.
    assert first._written is not None
    first._publish(first._written, system.clock.now_ns() + NS_PER_S)
    assert system.boost() == written
    assert first.phase == "standby"
    assert len(system.told("fence")) == 1


def test_a_word_of_a_higher_fence_is_outbid_by_a_new_term(system: RiskSystem) -> None:
    """As it is when the lock's memory was lost and the map's was not."""
    foreign = AcbBoost(
        boost=1.0, beta=0.2, signals=0.0, day="2026-03-02", fence=50, updated_at=iso_from_ns(NOON)
    )
    system.door.put(ACB_BOOST, foreign)
    acb = system.start(AcbService)
    system.step()
    assert system.boost() == foreign
    assert acb.phase == "standby"
    system.pass_s(5)
    assert (acb.phase, system.boost().fence) == ("running", 51)


def test_a_scan_of_the_log_is_read_once(system: RiskSystem) -> None:
    acb = system.start(AcbService)
    system.door.grid.log(SCAN_LOG, SCAN_LOG_CAPACITY).append(b"no scan")
    system.pass_s(60)
    assert acb.context.grid.rejections.total == 1


def test_an_old_one_does_not_overwrite_the_newer_ones_state(system: RiskSystem) -> None:
    first = system.start(AcbService, "acb")
    system.step()
    paused = system.hosted.pop()
    system.peer_of(first).lose_session()
    system.start(AcbService, "acb_2")
    system.step()
    kept = system.home.state("acb").read_bytes()
    # No time has passed, so that the grid is not asked again: the disk itself tells.
    scan(system, 0.01)
    paused.step()
    assert system.home.state("acb").read_bytes() == kept
    assert first.phase == "standby"


def test_a_grid_lost_whole_is_written_again_at_once(system: RiskSystem) -> None:
    system.start(AcbService)
    system.factors(**STORM)
    system.step()
    before = system.boost()
    system.memory.lose_memory()
    assert system.door.get(ACB_BOOST) is None
    system.step()
    after = system.boost()
    assert (after.boost, after.beta, after.day) == (before.boost, before.beta, before.day)
    assert after.fence == before.fence + 1


def test_a_grid_that_is_away_costs_nothing_but_the_telling(system: RiskSystem) -> None:
    acb = system.start(AcbService)
    system.factors(**CALM)
    scan(system, 0.01)
    system.step()
    system.peer_of(acb).drop_connection()
    system.clock.move_to(system.clock.now_ns() + 60 * NS_PER_S)
    with pytest.raises(GridUnreachable):
        acb.tick()
    scan(system, 0.02)
    system.factors(**STORM)
    system.pass_s(30)
    system.peer_of(acb).restore_connection()
    system.step()
    boost = system.boost()
    assert boost.w750 == pytest.approx(0.015)
    assert boost.factors["dvol_btc"].value == pytest.approx(65.0)


def test_it_starts_with_the_grid_away(system: RiskSystem) -> None:
    peer = system.memory.peer()
    peer.drop_connection()
    context = Context("acb", system.home, system.settings, system.clock, TypedGrid(peer))
    hosted = Hosted(AcbService(context), context)
    hosted.start()
    hosted.step()
    assert context.counts["grid_errors"] > 0
    peer.restore_connection()
    hosted.step()
    assert system.boost().fence == 1
    peer.close()


def test_a_clock_that_is_set_back_does_not_silence_it(system: RiskSystem) -> None:
    system.start(AcbService)
    system.factors(**STORM)
    system.step()
    before = system.boost()
    system.clock.move_to(system.clock.now_ns() - 3600 * NS_PER_S)
    system.step()
    after = system.boost()
    assert after.updated_at == iso_from_ns(system.clock.now_ns())
    assert (after.boost, after.day) == (before.boost, before.day)
    assert after.fence > before.fence, "its own later word gives way to a new term only"


def test_a_clock_set_back_over_midnight_keeps_the_newer_day(system: RiskSystem) -> None:
    system.clock.move_to(NOON + NS_PER_DAY // 2 + 60 * NS_PER_S)
    system.start(AcbService)
    system.factors(**STORM)
    system.step()
    system.clock.move_to(system.clock.now_ns() - 3600 * NS_PER_S)
    system.pass_s(30)
    assert (system.boost().day, system.boost().signals) == ("2026-03-03", 4.0)
