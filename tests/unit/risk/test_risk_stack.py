"""The survival stack over time: what is remembered, its own axis of time, bounds, and a state that is all."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.codes import APEX, HIBERNATE, MC_OK, MC_ORANGE, MC_RED, TURTLE
from dolphin.risk.stack import (
    CATEGORIES,
    DVOL_SAMPLES_MAX,
    Evaluation,
    StackInputs,
    StackState,
    evaluate,
    is_red,
)
from dolphin.risk.survival import (
    capital_category,
    environment_category,
    microstructure_category,
    structural_category,
)

NOW = 1_772_452_800 * NS_PER_S
MIN = 60 * NS_PER_S
HOUR = 60 * MIN


def inputs(at_ns: int = NOW, **planted: object) -> StackInputs:
    return StackInputs(now_ns=at_ns, nodes=1, **planted)  # type: ignore[arg-type]


@dataclass
class Stack:
    """An evaluation after another."""

    state: StackState | None = None
    at_ns: int = NOW

    def after(self, seconds: float, **planted: object) -> dict:
        self.at_ns += round(seconds * NS_PER_S)
        made = evaluate(self.state, inputs(self.at_ns, **planted))
        self.state = made.state
        return made.sensors


def test_the_first_evaluation_takes_the_target_and_its_level() -> None:
    made = evaluate(None, inputs(equity=900.0))
    assert made.state.rm == made.target == capital_category(0.0)
    made = evaluate(None, inputs(gate=MC_ORANGE, gate_ns=NOW, gate_real=True))
    assert (made.state.posture, made.state.rm, made.changed) == (TURTLE, 0.5, False)


def test_a_thirty_second_heartbeat_lives_and_an_older_one_is_dead() -> None:
    for age_ns, value in ((30 * NS_PER_S, 1.0), (30 * NS_PER_S + 1, 0.0)):
        made = evaluate(None, inputs(heartbeat_ns=NOW - age_ns, heartbeat_by="scanner"))
        assert made.values[0] == value
        assert made.state.posture == (APEX if value else HIBERNATE)


def test_a_scan_path_that_was_seen_once_is_missed_when_it_vanishes() -> None:
    stack = Stack()
    stack.after(0, heartbeat_ns=NOW, heartbeat_by="scanner")
    assert stack.after(30)["invariant"]["value"] == 1.0
    assert stack.after(1)["invariant"]["value"] == 0.0
    assert stack.after(1, heartbeat_ns=stack.at_ns)["invariant"]["value"] == 1.0


def test_no_node_is_hibernate_at_once() -> None:
    made = evaluate(evaluate(None, inputs()).state, StackInputs(now_ns=NOW + NS_PER_S, nodes=0))
    assert (made.state.rm, made.state.posture, made.moved) == (0.0, HIBERNATE, "invariant")


def test_a_verdict_decays_from_its_stamp_and_survives_a_lost_grid() -> None:
    stack = Stack()
    stack.after(0, gate=MC_OK, gate_ns=NOW - HOUR, gate_real=True)
    for hours in (5.0, 8.0, 20.0):
        told = stack.after(hours * 3600 - (stack.at_ns - NOW) / NS_PER_S)["structural"]
        assert told["staleness_h"] == hours + 1.0
        assert told["value"] == structural_category(MC_OK, hours + 1.0)
    assert stack.after(0, gate=MC_ORANGE, gate_ns=stack.at_ns, gate_real=False)["structural"]["absent"]


def test_red_is_only_what_models_say() -> None:
    for real in (True, False):
        assert is_red(evaluate(None, inputs(gate=MC_RED, gate_ns=NOW, gate_real=real)).state) is real


@pytest.mark.parametrize(("depth", "fill"), [(1.0, 0.5), (0.2, 0.9), (0.9, 0.25), (3.0, 0.1), (0.0, 0.0)])
def test_books_at_their_reference_depth_give_one(depth: float, fill: float) -> None:
    made = evaluate(None, inputs(books_ns=NOW, depth_quality=depth, fill_probability=fill))
    assert made.values[2] == microstructure_category(False, depth, min(1.0, 2.0 * fill))


def test_books_are_absent_then_fresh_then_stale_and_never_absent_again() -> None:
    stack = Stack()
    assert stack.after(0)["microstructure"]["absent"]
    assert stack.after(10, books_ns=stack.at_ns + 10 * NS_PER_S)["microstructure"] == {
        "value": 1.0, "absent": True, "stale": False, "books_age_s": 0.0, "depth_quality": None, "fill": None,
    }  # fmt: skip
    assert stack.after(60)["microstructure"]["value"] == 1.0
    told = stack.after(1)["microstructure"]
    assert (told["value"], told["stale"], told["absent"]) == (0.5, True, False)


def test_a_spike_is_more_than_a_tenth_over_the_median_of_the_hour() -> None:
    stack = Stack()
    for k, dvol in enumerate((50.0, 60.0, 52.0)):
        told = stack.after(60, dvol=dvol, dvol_ns=k)["environment"]
        # 60 is a spike over 50; 52 is none over the median of both.
        assert (told["minutes_since_spike"] is None) == (k == 0)
    assert told["minutes_since_spike"] == 1.0
    assert told["value"] == environment_category(1.0)
    assert stack.after(60, dvol=57.2, dvol_ns=3)["environment"]["minutes_since_spike"] == 2.0
    assert stack.after(60, dvol=60.07, dvol_ns=4)["environment"]["minutes_since_spike"] == 0.0


def test_a_spike_lasts_as_long_as_its_value_is_the_newest() -> None:
    """A push is looked at six times a minute, and must not become part of its own measure."""
    stack = Stack()
    stack.after(0, dvol=50.0, dvol_ns=1)
    for _ in range(6):
        told = stack.after(10, dvol=56.0, dvol_ns=2)
        assert told["environment"]["minutes_since_spike"] == 0.0


def test_a_stamp_of_the_future_was_made_now_at_the_latest() -> None:
    stack = Stack()
    stack.after(0, heartbeat_ns=NOW + HOUR, heartbeat_by="scanner")
    assert stack.after(30, heartbeat_ns=NOW + HOUR)["invariant"]["value"] == 1.0
    assert stack.after(1, heartbeat_ns=NOW + HOUR)["invariant"]["value"] == 0.0


def test_what_is_older_than_an_hour_is_no_measure() -> None:
    stack = Stack()
    stack.after(0, dvol=50.0, dvol_ns=1)
    assert stack.after(3601, dvol=90.0, dvol_ns=2)["environment"]["value"] == 1.0


def test_a_push_that_is_looked_at_twice_is_one_sample() -> None:
    stack = Stack()
    for _ in range(6):
        stack.after(10, dvol=50.0, dvol_ns=1)
    assert stack.state is not None
    assert len(stack.state.dvol_samples) == 1


def test_samples_are_bounded() -> None:
    stack = Stack()
    for k in range(500):
        stack.after(1, dvol=50.0, dvol_ns=k)
    assert stack.state is not None
    assert len(stack.state.dvol_samples) == DVOL_SAMPLES_MAX


def test_the_peak_is_the_highest_ever_and_equity_is_remembered() -> None:
    stack = Stack()
    for equity in (1000.0, 1200.0, 900.0):
        stack.after(10, equity=equity)
    told = stack.after(10)["capital"]
    assert told == {
        "value": capital_category(0.25), "absent": False, "equity": 900.0, "peak": 1200.0, "drawdown": 0.25,
    }  # fmt: skip


def test_nothing_left_is_the_worst() -> None:
    assert evaluate(None, inputs(equity=-5.0)).sensors["capital"]["drawdown"] == 1.0


def test_two_below_and_five_above_with_equal_levels_between_resetting() -> None:
    stack = Stack()
    stack.after(0, equity=1000.0)
    path = []
    for equity in (940.0, 1000.0, 940.0, 940.0):
        stack.after(600, equity=equity)
        assert stack.state is not None
        path.append((stack.state.posture, stack.state.below))
    # The recovery between takes ten minutes at its bounded rate and does not reach APEX's level.
    assert path[0] == (APEX, 1)
    assert path[1] == (1, 0)
    for k in range(4):
        stack.after(3600, equity=1000.0)
        assert (stack.state.posture, stack.state.above) == (1, k + 1)
    stack.after(3600, equity=1000.0)
    assert (stack.state.posture, stack.state.above) == (APEX, 0)


def test_the_category_that_moved_most_is_named() -> None:
    state = evaluate(None, inputs(equity=1000.0)).state

    def twice(minute: int, equity: float) -> Evaluation:
        nonlocal state
        for k in (minute, minute + 1):
            at_ns = NOW + k * MIN
            books = {"books_ns": at_ns, "depth_quality": 0.5, "fill_probability": 0.5}
            made = evaluate(state, inputs(at_ns, equity=equity, **books))
            state = made.state
        return made

    made = twice(1, 990.0)
    assert made.changed
    assert made.moved == "microstructure"
    assert set(made.sensors) == set(CATEGORIES)
    made = twice(3, 915.0)
    assert made.changed
    assert made.moved == "capital", "what had moved before is no news"


def test_what_fell_is_named_with_its_value_then_though_it_is_well_again_when_the_posture_follows() -> None:
    """Books that are back after a minute: Rm fell at once, the posture takes it a turn later."""

    def books(seconds: int, ago: int) -> StackInputs:
        at_ns = NOW + seconds * NS_PER_S
        return inputs(at_ns, books_ns=at_ns - ago * NS_PER_S, depth_quality=0.98, fill_probability=0.98)

    state = evaluate(None, books(0, 0)).state
    made = evaluate(state, books(70, 61))
    assert not made.changed
    made = evaluate(made.state, books(80, 0))
    assert made.changed
    assert (made.values[2], made.moved, made.moved_to) == (0.986, "microstructure", 0.5)


steps = st.lists(
    st.tuples(
        st.integers(-7200, 600),
        st.sampled_from([None, 1, 2]),
        st.sampled_from([None, 50.0, 56.0, 70.0]),
        st.sampled_from([None, 1000.0, 930.0, 800.0]),
        st.booleans(),
    ),
    max_size=40,
)


def planted(at_ns: int, step: tuple) -> StackInputs:
    _, gate, dvol, equity, beats = step
    return inputs(
        at_ns,
        heartbeat_ns=at_ns if beats else None,
        gate=MC_OK if gate is None else gate,
        gate_ns=None if gate is None else at_ns - HOUR,
        gate_real=True,
        dvol=dvol,
        dvol_ns=at_ns,
        equity=equity,
    )


@settings(max_examples=80)
@given(steps, st.integers(0, 40))
def test_a_restored_state_evaluates_to_the_same_bits(path: list[tuple], cut: int) -> None:
    whole = saved = None
    at_ns = NOW
    for k, step in enumerate(path):
        at_ns += step[0] * NS_PER_S
        if k == cut and saved is not None:
            saved = msgspec.json.decode(msgspec.json.encode(saved), type=StackState)
        one, other = evaluate(whole, planted(at_ns, step)), evaluate(saved, planted(at_ns, step))
        assert one == other
        assert 0.0 <= one.state.rm <= 1.0
        assert msgspec.json.encode(one.sensors).find(b"NaN") < 0
        whole, saved = one.state, other.state


@settings(max_examples=80)
@given(steps)
def test_a_clock_that_is_set_back_is_a_clock_that_stands_still(path: list[tuple]) -> None:
    """Nothing planted has a stamp of its own here, so that only the clock differs."""
    stepped, standing = Stack(), Stack()
    for step in path:
        _, _, _, equity, _ = step
        stepped.after(step[0], equity=equity)
        standing.after(max(0, step[0]), equity=equity)
        assert stepped.state is not None
        assert standing.state is not None
        for name in ("rm", "posture", "below", "above", "axis_ns", "peak"):
            assert getattr(stepped.state, name) == getattr(standing.state, name)
