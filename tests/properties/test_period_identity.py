"""The whole period, `step_bar` compiled and `step_bar` in plain Python: every field, bit for bit.

One table of random bindings over short random markets; ten thousand of them in the long test, a thousand in
the ordinary one.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engine_market import SYMBOLS, Spec

from dolphin.backtest.period import PeriodRunner
from dolphin.domain import codes
from dolphin.domain.decision import Decision
from dolphin.domain.params import NAMED_SETS, ParameterSet
from dolphin.engine.market import PeriodInputs
from dolphin.engine.state import EngineOptions
from dolphin.kernel import plain
from period_market import drive, inputs_of

#: Bindings of the ordinary test, in groups that run beside each other.
GROUPS, A_GROUP = 10, 100


def draw_binding(rng: np.random.Generator) -> tuple[ParameterSet, EngineOptions, Spec, int]:
    """One random binding with its market, from a stream and nothing else."""
    base = NAMED_SETS[sorted(NAMED_SETS)[int(rng.integers(3))]]
    d = base.direction
    changes: dict[str, Any] = {
        "vel_div_threshold": d * float(rng.uniform(0.005, 0.04)),
        "leverage_convexity": float(rng.choice([3.0, 3.0, 2.0, 2.5])),
        "min_leverage": float(rng.uniform(0.1, 2.0)),
        "max_leverage": float(rng.uniform(2.0, 12.0)),
        "abs_max_leverage": float(rng.uniform(2.0, 12.0)),
        "fraction": float(rng.uniform(0.02, 1.0)),
        "fixed_tp_pct": float(rng.uniform(0.001, 0.02)),
        "stop_pct": float(rng.choice([1.0, 0.01, 0.03])),
        "max_hold_bars": int(rng.integers(1, 121)),
        "use_direction_confirm": bool(rng.random() < 0.8),
        "dc_lookback_bars": int(rng.integers(1, 60)),
        "dc_min_magnitude_bps": float(rng.choice([0.0, 0.75, 5.0])),
        "dc_skip_contradicts": bool(rng.random() < 0.6),
        "dc_leverage_boost": float(rng.choice([1.0, 1.25])),
        "use_asset_selection": bool(rng.random() < 0.9),
        "min_irp_alignment": float(rng.choice([0.0, 0.2, 0.45, 0.5])),
        "exclude_stablecoins": bool(rng.random() < 0.5),
        "use_sp_fees": bool(rng.random() < 0.8),
        "use_sp_slippage": bool(rng.random() < 0.8),
        "sp_maker_exit_rate": float(rng.random()),
        "use_ob_edge": bool(rng.random() < 0.7),
        "ob_edge_bps": float(rng.uniform(0.0, 30.0)),
        "ob_confirm_rate": float(rng.random()),
        "lookback": int(rng.integers(0, 80)),
        "vd_trend_lookback": int(rng.choice([1, 10, 60])),
        "use_alpha_layers": bool(rng.random() < 0.8),
        "use_dynamic_leverage": bool(rng.random() < 0.8),
        "initial_capital": float(rng.choice([25_000.0, 1.0])),
        "liquidation_guard": bool(rng.random() < 0.5),
        "seed": int(rng.integers(0, 1000)),
    }
    changes["vel_div_extreme"] = changes["vel_div_threshold"] + d * float(rng.uniform(0.001, 0.05))
    changes["max_leverage"] = max(changes["max_leverage"], changes["min_leverage"])
    changes["abs_max_leverage"] = max(changes["abs_max_leverage"], changes["min_leverage"])
    options = EngineOptions()
    if rng.random() < 0.5:
        options = EngineOptions(
            irp_steps=str(rng.choice(["absolute", "relative"])),
            vd_enabled=bool(rng.random() < 0.5),
            tf_enabled=bool(rng.random() < 0.3),
            tf_exhaust_ratio=float(rng.choice([0.0, 0.25])),
            tf_flip_ratio=float(rng.choice([0.25, 1.0])),
            proxy_mode=str(rng.choice(["none", "proxy"])),
            fee_scale=float(rng.choice([0.0, 1.0, 3.0])),
            slippage_scale=float(rng.choice([0.0, 1.0, 2.0])),
        )
    spec = Spec(
        n_bars=int(rng.integers(90, 180)),
        n_assets=int(rng.integers(1, len(SYMBOLS) + 1)),
        direction=d,
        books=str(rng.choice(["never", "never", "always", "sometimes"])),
        events=bool(rng.random() < 0.6),
        dirty=bool(rng.random() < 0.4),
        volatility=float(rng.choice([0.0005, 0.003])),
        jumps=float(rng.choice([0.0, 0.05])),
        drift=float(rng.choice([0.0002, 0.001])),
        quantised=bool(rng.random() < 0.2),
    )
    return base.with_values(changes), options, spec, int(rng.integers(2**32))


def packed(value: Any) -> Any:
    return struct.pack("<d", value) if isinstance(value, float) else value


def differences(a: Decision, b: Decision) -> list[str]:
    """Names of the fields whose bits differ."""
    return [name for name in a.__struct_fields__ if packed(getattr(a, name)) != packed(getattr(b, name))]


def compare(
    params: ParameterSet, options: EngineOptions, inputs: PeriodInputs, where: str, *, reference: bool
) -> Counter[str]:
    """Run the forms and fail at the first bit that differs; how often each reason was given."""
    engine, decisions, days, equity = drive(params, inputs, options)
    digest = hashlib.sha256(b"".join(decision.canonical() for decision in decisions)).hexdigest()
    runner = PeriodRunner(inputs)
    # From the second batch on rankings are shared, from the third on the walks down them as well.
    shared = [runner.run_many([(params, options)] * n, threads=1) for n in (1, 3)]
    batch = shared[0]
    assert shared[1].totals.tobytes() == batch.totals.tobytes() * 3, where
    whole = runner.run(params, options, record="all")
    made = list(whole.decisions())
    assert len(made) == len(decisions), where
    for ours, theirs in zip(made, decisions, strict=True):
        assert not differences(ours, theirs), f"{where}: bar {theirs.bar_idx}: {differences(ours, theirs)}"
    assert whole.state == engine.state(), where
    assert whole.days[:-1] == tuple(days), where
    assert whole.days[-1] == engine.end_day(), where
    assert whole.decisions_sha256() == digest, where
    assert whole.equity.tobytes() == np.array(equity).tobytes(), where
    fresh = PeriodRunner(inputs).run(params, options, record="codes")  # nothing shared
    assert fresh.decisions_sha256() == digest, where
    assert fresh.equity.tobytes() == whole.equity.tobytes(), where
    assert fresh.trades.tobytes() == whole.trades.tobytes(), where
    light = runner.run(params, options)
    assert light.state == whole.state, where
    assert light.totals == whole.totals == fresh.totals, where
    assert batch.totals[0].tolist() == tuple(getattr(light.totals, name) for name in batch.totals.dtype.names)
    assert batch.daily_equity[0].tobytes() == light.daily_equity.tobytes(), where
    exits = [decision for decision in decisions if decision.action == codes.ACTION_EXIT]
    assert whole.totals.trades == len(exits), where
    assert whole.trades["net"].tobytes() == np.array([d.net for d in exits]).tobytes(), where
    assert whole.totals.capital == engine.capital, where
    if reference:
        slow, theirs_too, _, _ = drive(params, inputs, options, reference=True)
        for ours, theirs in zip(decisions, theirs_too, strict=True):
            assert not differences(ours, theirs), f"{where}: plain: bar {theirs.bar_idx}"
        slow.end_day()
        assert slow.capital == engine.capital, where
    return Counter(codes.REASONS[decision.reason] for decision in decisions)


def group(k: int, size: int, reference: bool = True) -> Counter[str]:
    rng = np.random.default_rng([2026, k])
    seen: Counter[str] = Counter()
    for i in range(size):
        params, options, spec, seed = draw_binding(rng)
        where = f"group {k}, binding {i}, seed {seed}"
        seen += compare(params, options, inputs_of(seed, spec), where, reference=reference)
    return seen


@pytest.mark.parametrize("k", range(GROUPS))
def test_random_bindings_give_the_same_bits_in_every_form(k: int) -> None:
    seen = group(k, A_GROUP)
    assert seen["SIGNAL"] > A_GROUP, seen


@pytest.mark.long
@pytest.mark.parametrize("k", range(GROUPS, 100))
def test_ten_thousand_random_bindings_give_the_same_bits_in_every_form(k: int) -> None:
    group(k, A_GROUP)


def test_the_bindings_meet_every_exit_and_every_refusal() -> None:
    """A comparison that never met a branch would prove nothing about it."""
    seen: Counter[str] = Counter()
    for k in range(4):
        seen += group(1000 + k, 60, reference=False)
    # JUST_EXITED needs a bar that does not come after an exit, STALE_SCAN a clock.
    missing = {*codes.REASONS} - {*seen} - {"NONE", "STALE_SCAN", "JUST_EXITED"}
    assert not missing, seen


@pytest.mark.parametrize("books", ["never", "sometimes"])
@pytest.mark.parametrize("dirty", [False, True])
def test_going_on_from_a_state_equals_never_having_stopped(books: str, dirty: bool) -> None:
    """Cut anywhere, with histories past their limit: digest, state and figures are those of one run."""
    spec = Spec(n_bars=1300, n_assets=6, books=books, events=True, dirty=dirty, jumps=0.02)
    inputs = inputs_of(11, spec)
    params = NAMED_SETS["gold"]
    options = EngineOptions(proxy_mode="proxy")
    whole = PeriodRunner(inputs).run(params, options, record="all")
    for cut in (1, 40, 199, 502, 777, 1299):
        first = PeriodRunner(part(inputs, 0, cut)).run(params, options, record="all")
        rest = PeriodRunner(part(inputs, cut, 1300), state=first.state).run(params, options, record="all")
        assert rest.state == whole.state, cut
        assert rest.canonical().tobytes() == whole.canonical()[cut:].tobytes(), cut
        codes_only = PeriodRunner(part(inputs, cut, 1300), state=first.state).run(
            params, options, record="codes"
        )
        assert codes_only.canonical().tobytes() == rest.canonical().tobytes(), cut
        nets = rest.trades["net"]
        assert rest.totals.trades == len(nets), cut
        assert rest.totals.net == pytest.approx(nets.sum(), abs=1e-6), cut
        before = whole.equity[cut - 1]
        peaks = np.maximum.accumulate(np.append(before, rest.equity))[1:]
        assert rest.totals.max_drawdown == max(0.0, ((peaks - rest.equity) / peaks).max()), cut
        engine, _, _, _ = drive(params, inputs, options, last=cut)
        assert engine.state() == first.state, cut


def part(inputs: PeriodInputs, first: int, last: int) -> PeriodInputs:
    """Bars first to last - 1 of a market."""
    values: dict[str, Any] = {name: getattr(inputs, name) for name in inputs.__slots__}
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            values[name] = value[first:last]
    if inputs.books is not None:
        values["books"] = type(inputs.books)(*(array[first:last] for array in inputs.books))
    return PeriodInputs(**values)


def test_the_plain_period_kernel_gives_the_same_bits() -> None:
    """The very kernel, uncompiled: what a reader reads is what runs."""
    for seed, books in ((3, "never"), (4, "sometimes")):
        inputs = inputs_of(seed, Spec(n_bars=160, n_assets=4, books=books, events=True, dirty=seed == 4))
        params = NAMED_SETS["gold"].with_values({"lookback": 50, "max_hold_bars": 20})
        fast = PeriodRunner(inputs).run(params, record="all")
        slow = PeriodRunner(inputs, kernels_as=plain).run(params, record="all")
        assert slow.decisions_sha256() == fast.decisions_sha256()
        assert slow.state == fast.state
        assert slow.totals == fast.totals


def test_threads_and_company_change_nothing() -> None:
    inputs = inputs_of(21, Spec(n_bars=900, n_assets=6, events=True))
    rng = np.random.default_rng(5)
    drawn = [draw_binding(rng)[:2] for _ in range(30)]
    same_walk = {"min_irp_alignment": 0.2, "exclude_stablecoins": True}
    bindings = drawn + [(params.with_values(same_walk), options) for params, options in drawn]
    alone = PeriodRunner(inputs).run_many(bindings, threads=1)
    together = PeriodRunner(inputs).run_many(bindings[::-1], threads=4)
    assert alone.totals.tobytes() == together.totals[::-1].tobytes()
    assert alone.daily_equity.tobytes() == together.daily_equity[::-1].tobytes()
    for k, (params, options) in enumerate(bindings):
        fresh = PeriodRunner(inputs).run(params, options)
        assert fresh.daily_equity.tobytes() == alone.daily_equity[k].tobytes(), k
        assert tuple(alone.totals[k]) == tuple(getattr(fresh.totals, n) for n in alone.totals.dtype.names), k


@pytest.mark.parametrize("dirty", [False, True])
def test_a_batch_in_pieces_is_the_batch_in_one(dirty: bool) -> None:
    """Totals, drawdown and daily equity of bindings carried over cuts, also cuts within a day."""
    inputs = inputs_of(31, Spec(n_bars=1200, n_assets=6, events=True, dirty=dirty, jumps=0.02))
    rng = np.random.default_rng(6)
    bindings = [draw_binding(rng)[:2] for _ in range(25)]
    whole = PeriodRunner(inputs)
    expected = whole.run_many(bindings)
    carries: tuple[Any, ...] = ()
    state, gate = None, ()
    daily: dict[str, np.ndarray] = {}
    for first, last in ((0, 333), (333, 334), (334, 900), (900, 1200)):
        piece = PeriodRunner(part(inputs, first, last), state=state, gate_prices=gate)
        batch = piece.run_many(bindings, carries=carries, keep=True)
        carries, gate = batch.carries, piece.gate_prices
        state = piece.run(bindings[0][0], bindings[0][1]).state
        daily |= dict(zip(piece.days, batch.daily_equity.T, strict=True))
    assert batch.totals.tobytes() == expected.totals.tobytes()
    assert tuple(daily) == whole.days
    assert np.array(list(daily.values())).T.tobytes() == expected.daily_equity.tobytes()


def test_other_signals_over_the_same_prices_are_a_market_of_their_own() -> None:
    inputs = inputs_of(41, Spec(n_bars=700, n_assets=5, events=True))
    params = NAMED_SETS["gold"]
    runner = PeriodRunner(inputs)
    runner.run_many([(params, None)] * 3)
    columns = (inputs.vel_div, inputs.v50_velocity, inputs.v750_velocity, inputs.instability_50)
    rolled = [np.roll(column, 90) for column in columns]
    names = ("vel_div", "v50_velocity", "v750_velocity", "instability_50")
    fresh = PeriodRunner(replace(inputs, **dict(zip(names, rolled, strict=True))))
    moved = runner.with_signals(*rolled)
    for shared in (0, 3):
        if shared:
            moved.run_many([(params, None)] * shared)
        assert moved.run(params).totals == fresh.run(params).totals
        assert moved.run(params, record="codes").decisions_sha256() == (
            fresh.run(params, record="codes").decisions_sha256()
        )
    assert runner.run(params).totals == PeriodRunner(inputs).run(params).totals
