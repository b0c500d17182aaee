"""The session: no look-ahead, restore to the last bit, days turned once, late scans dropped."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scan_market import SYMBOLS, rows

from dolphin.domain import codes
from dolphin.domain.clock import NS_PER_S, day_from_ns
from dolphin.domain.errors import ConfigError, DataError, InvariantError
from dolphin.domain.params import NAMED_SETS
from dolphin.engine.state import Books, EngineOptions
from dolphin.host.draws import CHUNK, draws
from dolphin.host.inputs import HostInputs
from dolphin.host.session import Session, SessionState, warm

FEW = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
NAMES = st.sampled_from(sorted(NAMED_SETS))
SEEDS = st.integers(0, 2**32 - 1)
N_BARS = 320


def session_of(name: str, **options) -> Session:
    options.setdefault("deployment", "GREEN" if name == "green" else "BLUE")
    return Session(NAMED_SETS[name], SYMBOLS, **options)


def decide(session: Session, market) -> list:
    return [step for step in map(session.on_scan, market) if step is not None]


@FEW
@given(NAMES, SEEDS, st.integers(1, N_BARS - 1))
def test_a_prefix_of_the_market_gives_a_prefix_of_the_decisions(name: str, seed: int, cut: int) -> None:
    """The future is another market altogether, not only missing."""
    market = rows(seed, N_BARS, calm=True)
    strange = [replace(row, vel_div=-row.vel_div, prices=row.prices * 3.0) for row in market[cut:]]
    whole = decide(session_of(name), market)
    assert decide(session_of(name), market[:cut]) == whole[:cut]
    assert decide(session_of(name), market[:cut] + strange)[:cut] == whole[:cut]


@FEW
@given(NAMES, SEEDS, st.lists(st.integers(1, N_BARS - 1), min_size=1, max_size=4), st.booleans())
def test_restoring_from_bytes_equals_never_having_stopped(
    name: str, seed: int, cuts: list[int], proxy: bool
) -> None:
    """Day turns, a closed and an open gate and an open position lie within the market."""
    options = {"options": EngineOptions(proxy_mode="proxy" if proxy else "none")}
    market = rows(seed, N_BARS, calm=True)
    whole = session_of(name, **options)
    expected = decide(whole, market)
    session = session_of(name, **options)
    steps = []
    for bar, row in enumerate(market):
        if bar in cuts:
            saved = msgspec.msgpack.encode(session.state())
            session = session_of(name, **options)
            session.restore(msgspec.msgpack.decode(saved, type=SessionState))
            assert msgspec.msgpack.encode(session.state()) == saved
        steps.append(session.on_scan(row))
    assert steps == expected
    assert session.state() == whole.state()


def test_the_random_markets_exercise_what_a_restore_must_keep() -> None:
    """Without trades, a closed gate and a day turn the properties above would prove nothing."""
    steps = decide(session_of("gold"), rows(11, N_BARS, calm=True))
    actions = [step.decision.action for step in steps]
    assert actions.count(codes.ACTION_EXIT) >= 3
    assert codes.ACTION_HOLD in actions
    assert {step.vol_ok for step in steps} == {True, False}
    assert [step.day is not None for step in steps].count(True) == 1


@pytest.mark.parametrize("position", [CHUNK - 2, CHUNK - 1, CHUNK, CHUNK + 3])
def test_a_restore_beyond_a_chunk_of_draws_goes_on_in_the_same_stream(position: int) -> None:
    market = rows(5, 400)
    from dolphin.engine import state as engine_state

    def started() -> Session:
        session = session_of("champion")
        session.engine.extend_draws(draws(42, position + 1))
        session.engine._s.ints[engine_state.DRAW_POSITION] = position
        return session

    whole, session = started(), started()
    expected = decide(whole, market)
    assert whole.engine.draw_position > CHUNK or position == CHUNK - 2
    decide(session, market[:230])
    saved = msgspec.msgpack.encode(session.state())
    other = session_of("champion")
    other.restore(msgspec.msgpack.decode(saved, type=SessionState))
    assert decide(other, market[230:]) == expected[230:]
    assert other.state() == whole.state()


def test_the_stream_of_draws_is_numpys_frozen_one() -> None:
    assert np.array_equal(draws(42, 0), np.random.RandomState(42).random_sample(CHUNK))
    assert np.array_equal(draws(42, CHUNK)[:CHUNK], draws(42, 0))
    assert len(draws(42, CHUNK - 1)) == CHUNK
    assert len(draws(42, CHUNK)) == 2 * CHUNK


def test_duplicates_and_late_scans_change_nothing_but_their_count() -> None:
    market = rows(3, 200)
    disturbed = []
    for k, row in enumerate(market):
        disturbed += [row, row]
        if k > 4:
            disturbed.append(replace(market[k - 4], scan_number=10_000 + k))
    session, calm = session_of("gold"), session_of("gold")
    assert decide(session, disturbed) == decide(calm, market)
    assert session.dropped == 200 + 195
    assert session.engine.state() == calm.engine.state()


def test_scan_numbers_that_begin_again_do_not_blind() -> None:
    market = rows(3, 200)
    reset = [replace(row, scan_number=row.scan_number - 100 * (k >= 100)) for k, row in enumerate(market)]
    expected = [step.decision.canonical() for step in decide(session_of("gold"), market)]
    assert [step.decision.canonical() for step in decide(session_of("gold"), reset)] == expected


def test_a_day_turns_exactly_once_and_keeps_the_position() -> None:
    market = rows(9, 400, interval_ns=480 * NS_PER_S)
    session = session_of("gold")
    steps = decide(session, market)
    ended = [step.day.date for step in steps if step.day is not None]
    days = sorted({day_from_ns(row.timestamp_ns) for row in market})
    assert ended == days[:-1]
    results = [step.day for step in steps if step.day is not None]
    assert [r.capital for r in results] == [
        [s.decision.capital for s in steps if day_from_ns(s.decision.timestamp_ns) == day][-1]
        for day in ended
    ]
    assert sum(r.trades for r in results) <= sum(step.closed is not None for step in steps)
    spanning = [
        s.closed
        for s in steps
        if s.closed is not None and day_from_ns(s.closed.entry_ns) != day_from_ns(s.closed.exit_ns)
    ]
    assert spanning, "no trade spans a day turn in this market"


@pytest.mark.parametrize("name", sorted(NAMED_SETS))
@pytest.mark.parametrize("seed", range(4))
def test_a_set_trades_its_own_direction_only(name: str, seed: int) -> None:
    closed = [s.closed for s in decide(session_of(name), rows(seed, 500)) if s.closed is not None]
    assert closed
    assert {trade.direction for trade in closed} == {NAMED_SETS[name].direction}
    for trade in closed:
        against = trade.direction * (trade.exit_price - trade.exit_scan_price)
        assert against <= 0.0


def test_the_short_deployment_refuses_a_long_set() -> None:
    with pytest.raises(ConfigError, match="deployment BLUE trades SHORT only"):
        Session(NAMED_SETS["green"], SYMBOLS, deployment="BLUE")


def test_trade_ids_name_deployment_day_and_sequence() -> None:
    session = session_of("gold", deployment="GREEN")
    closed = [s.closed for s in decide(session, rows(1, 400)) if s.closed is not None]
    assert [t.trade_id for t in closed] == [
        f"GREEN-{day_from_ns(t.entry_ns)}-{k + 1:06d}" for k, t in enumerate(closed)
    ]


def test_an_old_scan_makes_no_entry_and_still_manages_the_exit() -> None:
    market = rows(2, 400)
    normal = session_of("gold")
    first = next(s for s in map(normal.on_scan, market) if s and s.decision.action == codes.ACTION_ENTER)
    entered = first.decision.bar_idx
    old = session_of("gold")
    for row in market[: entered + 1]:
        step = old.on_scan(row, now_ns=row.timestamp_ns + 10 * NS_PER_S)
    assert step is not None
    assert step.decision.action == codes.ACTION_ENTER
    steps = [old.on_scan(row, now_ns=row.timestamp_ns + 10 * NS_PER_S + 1) for row in market[entered + 1 :]]
    actions = [step.decision.action for step in steps if step is not None]
    assert actions.count(codes.ACTION_EXIT) == 1
    assert codes.ACTION_ENTER not in actions
    assert codes.STALE_SCAN in [step.decision.reason for step in steps if step is not None]


def test_a_halted_session_manages_its_position_and_opens_none() -> None:
    market = rows(2, 400)
    session = session_of("gold")
    actions = []
    for row in market:
        step = session.on_scan(row)
        assert step is not None
        actions.append(step.decision.action)
        if step.decision.action == codes.ACTION_ENTER:
            session.halt()
    assert actions.count(codes.ACTION_ENTER) == 1
    assert actions.count(codes.ACTION_EXIT) == 1


def test_a_replay_takes_the_hosts_refusals_from_the_record() -> None:
    market = rows(2, 300)
    live, again = session_of("gold"), session_of("gold")
    for k, row in enumerate(market):
        if k == 250:
            live.halt()
            again.halt()
        posture = codes.STALKER if k % 7 == 0 else codes.APEX
        age = 60 * NS_PER_S if k % 3 == 0 else 0
        step = live.on_scan(row, inputs=HostInputs(posture=posture), now_ns=row.timestamp_ns + age)
        assert step is not None
        assert again.replay(row, step.decision) == step
    with pytest.raises(InvariantError, match="differs from the journal"):
        again.replay(replace(market[-1], timestamp_ns=market[-1].timestamp_ns + 1), step.decision)


def test_a_breaker_that_calms_down_within_the_day_closes_the_position_on_the_next_bar() -> None:
    market = rows(2, 400)
    session, again = session_of("gold"), session_of("gold")
    breaker = HostInputs(boost=1.6, beta=0.8)
    decisions = []
    for row in market:
        step = session.on_scan(row, inputs=breaker)
        assert step is not None
        assert again.replay(row, step.decision) == step
        decisions.append(step.decision)
        if step.decision.action == codes.ACTION_ENTER:
            breaker = HostInputs(boost=1.0, beta=0.2)
    entered = next(d for d in decisions if d.action == codes.ACTION_ENTER)
    assert entered.boost == 1.6
    assert entered.lane_regime > 1.6
    closing = decisions[entered.bar_idx + 1]
    assert (closing.action, closing.reason) == (codes.ACTION_EXIT, codes.SUBDAY_ACB_NORMALIZATION)
    assert (closing.boost, closing.beta) == (1.0, 0.2)


def test_the_other_organs_reach_the_engine() -> None:
    market = rows(2, 400)
    n = len(SYMBOLS)
    books = Books(True, -0.2, 0.9, 0, 0, *(np.full(n, x) for x in (-0.2, 0.5, 1.2, 0.6, 0.0)))
    inputs = HostInputs(esof_mult=0.5, mc_status=codes.MC_ORANGE, books=books, books_label="mock")
    session = session_of("gold")
    decisions = [session.on_scan(row, inputs=inputs).decision for row in market]  # type: ignore[union-attr]
    entry = next(d for d in decisions if d.action == codes.ACTION_ENTER)
    assert (entry.lane_esof, entry.lane_ob, entry.mc_scale, entry.books) == (0.5, 1.18, 0.5, "mock")
    assert session.engine.draw_position == 0
    with pytest.raises(InvariantError, match="decided with order books \\(mock\\)"):
        session_of("gold").replay(market[0], decisions[0])


def test_an_organ_that_changes_while_a_bar_is_decided_marks_the_decision() -> None:
    row = rows(1, 1)[0]
    same = session_of("gold").on_scan(row, inputs_after=HostInputs)
    changed = session_of("gold").on_scan(row, inputs_after=lambda: HostInputs(posture=codes.TURTLE))
    assert same is not None
    assert changed is not None
    assert (same.decision.stale_state, changed.decision.stale_state) == (False, True)
    assert same.decision.canonical() == changed.decision.canonical()


def test_prices_of_another_width_are_refused() -> None:
    with pytest.raises(DataError, match="4 prices, the universe has 5 assets"):
        session_of("gold").on_scan(replace(rows(1, 1)[0], prices=np.ones(4)))


def test_a_state_of_another_set_or_universe_is_refused() -> None:
    state = session_of("gold").state()
    with pytest.raises(InvariantError, match="state of set"):
        session_of("champion").restore(state)
    with pytest.raises(InvariantError, match="another universe"):
        Session(NAMED_SETS["gold"], SYMBOLS[::-1]).restore(state)


def test_without_btc_the_gate_stays_open_and_says_so() -> None:
    session = Session(NAMED_SETS["gold"], SYMBOLS[1:])
    assert session.btc_missing
    assert all(s.vol_ok for s in decide(session, rows(1, 120, symbols=SYMBOLS[1:], step=0.0)))


def test_warming_up_leaves_a_session_alone() -> None:
    session = session_of("gold")
    before = session.state()
    warm(session.params, SYMBOLS)
    assert session.state() == before
