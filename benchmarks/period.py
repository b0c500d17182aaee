"""Whole periods: what 56 days of 50 assets cost, beside plain Python, numpy, ball arithmetic and vectorbt.

    python -m benchmarks.period [--days 56] [--seed 5] [--json]        (about two minutes)

Market: `benchmarks.period_market`. Every result is checked before it is timed: the period's digest against
`step_bar`'s, compiled and plain; numpy's order of assets against ours; every verdict of the gate; every trade
of the simple rule against vectorbt's. Figures are medians over interleaved rounds, processor time of the
measuring thread unless a row says wall; with several threads only the wall counts.
"""

from __future__ import annotations

import argparse
import copy
import gc
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import period_baselines as baselines
from benchmarks.common import Rounds, cores, hardware, load, number, row, show
from benchmarks.period_market import make_inputs
from dolphin.alpha.selection import IRP_PRICES, PROFILE_ROWS
from dolphin.alpha.volatility import VOL_THRESHOLD, VolatilityGate, gate_bars
from dolphin.backtest.period import PeriodRunner
from dolphin.domain import codes
from dolphin.domain.clock import day_from_ns
from dolphin.domain.params import ParameterSet, load_set
from dolphin.engine import rankings as kernels
from dolphin.engine.engine import Engine
from dolphin.engine.market import PER_BAR, PeriodInputs
from dolphin.host.draws import draws
from dolphin.kernel import plain

ROOT = Path(__file__).parents[1]
VECTORBT = ROOT / ".venv-vectorbt" / "bin" / "python"

#: Reasons that stand for a bar whose assets were ranked.
RANKED = (codes.SIGNAL, codes.NO_ASSET, codes.DC_REFUSED, codes.OB_REFUSED)

ONE = "One binding, one core"
SWEEP = "Sweep, all cores"
STEP = "Bar by bar"
RANK = "One ranking"
GATE = "Volatility gate, one day"
RULE = "The simple rule on one asset"
PROFILE = "Where the kernel's time goes"

# Rows that are compared with something measured later.
KERNEL = "kernel, nothing shared"
WORST = "assets ranked on every bar, none survives"


class Metered:
    """A function that adds up what it costs, its result unchanged."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.cpu = self.wall = 0.0

    def __call__(self, *arguments: Any) -> Any:
        wall, cpu = time.perf_counter(), time.thread_time()
        result = self.function(*arguments)
        self.cpu += time.thread_time() - cpu
        self.wall += time.perf_counter() - wall
        return result


def variant(runner: PeriodRunner, **columns: Any) -> PeriodRunner:
    """The same market with some columns replaced and nothing shared yet; the prices are not copied."""
    other = copy.copy(runner)
    other.market = runner.market._replace(**columns)
    other._tables, other._draws = {}, {}
    return other


def kernel_of(runner: PeriodRunner, rounds: Rounds, name: str, params: ParameterSet) -> Callable[[], None]:
    """A run of which the kernel alone is noted under `name`, the whole run under `name` + " run"."""

    def work() -> None:
        meter = Metered(runner._run)
        runner._run = meter
        try:
            wall, cpu = time.perf_counter(), time.thread_time()
            runner.run(params)
            rounds.note(f"{name} run", time.thread_time() - cpu, time.perf_counter() - wall)
        finally:
            runner._run = meter.function
        rounds.note(name, meter.cpu, meter.wall)

    return work


def first_bars(inputs: PeriodInputs, n: int, vol_ok: np.ndarray) -> PeriodInputs:
    """The first n bars, with the gate as given."""
    columns = {name: getattr(inputs, name) for name in PER_BAR} | {"vol_ok": vol_ok}
    cut = {name: None if column is None else column[:n] for name, column in columns.items()}
    return PeriodInputs(symbols=inputs.symbols, prices=inputs.prices[:n], **cut)


def step_loop(
    inputs: PeriodInputs, params: ParameterSet, host: Callable[[Any], Any] = lambda function: function
) -> list[Any]:
    """A host's loop over the bars: `step_bar` on each."""
    n = len(inputs.timestamp_ns)
    engine = Engine(params, inputs.symbols, draws(params.seed, n), host=host)
    stamps, vel_div = inputs.timestamp_ns.tolist(), inputs.vel_div.tolist()
    v50, v750, vol_ok = inputs.v50_velocity.tolist(), inputs.v750_velocity.tolist(), inputs.vol_ok.tolist()
    decisions = []
    for t in range(n):
        day = day_from_ns(stamps[t])
        if day != engine.day:
            if engine.day:
                engine.end_day()
            engine.begin_day(day, codes.APEX, params.direction)
        decisions.append(
            engine.step_bar(
                t, vel_div[t], inputs.prices[t], vol_ok[t], v50[t], v750[t], timestamp_ns=stamps[t]
            )
        )
    return decisions


def digest_of(decisions: list[Any]) -> str:
    """As `PeriodResult.decisions_sha256` gives it."""
    return hashlib.sha256(b"".join(decision.canonical() for decision in decisions)).hexdigest()


def agree(what: str, ours: Any, theirs: Any) -> None:
    """A fast wrong answer is worth nothing: stop."""
    if ours != theirs:
        raise SystemExit(f"benchmarks: {what} differ: {str(ours)[:200]} and {str(theirs)[:200]}")


def compared(rows: list[dict[str, Any]], what: str, baseline: str, ratio: float) -> None:
    """Add a row's baseline once that is measured."""
    next(line for line in rows if line["what"] == what).update(baseline=baseline, ratio=ratio)


def bindings_of(gold: ParameterSet, n: int) -> list[tuple[ParameterSet, None]]:
    """n bindings: take-profit, longest hold, leverage and threshold varied."""
    grid = product(
        (-0.018, -0.02, -0.0225, -0.025),
        (4.0, 6.0, 8.0, 10.0),
        (60, 90, 120, 180),
        (0.004, 0.0055, 0.007, 0.008, 0.0095, 0.011, 0.013, 0.015),
    )
    made = []
    for threshold, leverage, hold, tp in grid:
        values = {
            "vel_div_threshold": threshold,
            "max_leverage": leverage,
            "abs_max_leverage": leverage + 1.0,
            "max_hold_bars": hold,
            "fixed_tp_pct": tp,
        }
        made.append((gold.with_values(values), None))
    return [made[k % len(made)] for k in range(n)]


def one_binding(
    inputs: PeriodInputs, runner: PeriodRunner, prepared_s: float, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of one binding and of the profile; what was found."""
    gold = load_set("gold")
    n, days = runner.n_bars, options.days
    none = np.zeros(n)
    signals = np.full(n, -0.06)
    always = np.ones(n, np.bool_)
    once = np.zeros(n)
    once[min(gold.lookback + 1, n - 1)] = -0.06
    flat = variant(runner, vel_div=none)
    every = variant(runner, vel_div=signals, vol_ok=always)
    held = variant(runner, vel_div=once, vol_ok=always)
    shared = variant(runner)
    shared.run_many([(gold, None)] * 3, threads=1)
    nobody = gold.with_values({"min_irp_alignment": 1.0})
    for_ever = gold.with_values(
        {
            "max_hold_bars": n + 1,
            "fixed_tp_pct": 0.999,
            "liquidation_guard": False,
            "use_asset_selection": False,
            "use_direction_confirm": False,
        }
    )

    found = runner.run(gold, record="codes")
    digest = found.decisions_sha256()
    agree("the digests with and without shared rankings", digest,
          shared.run(gold, record="codes").decisions_sha256())  # fmt: skip
    agree("the totals with and without a record", found.totals, runner.run(gold).totals)
    worst = every.run(nobody, record="codes")
    reasons = Counter(worst.reason.tolist())
    agree("bars ranked with no survivor", reasons[codes.NO_ASSET], n - gold.lookback + 1)
    agree("trades where nothing is a signal", flat.run(gold).totals.trades, 0)
    hold_run = held.run(for_ever, record="codes")
    n_held_ever = int((hold_run.action == codes.ACTION_HOLD).sum())
    agree("bars held for ever", n_held_ever, n - gold.lookback - 2)

    rounds = Rounds()
    rounds.interleave(
        options.rounds,
        {
            "alone all": kernel_of(runner, rounds, "alone", gold),
            "shared all": kernel_of(shared, rounds, "shared", gold),
            "flat all": kernel_of(flat, rounds, "flat", gold),
            "held all": kernel_of(held, rounds, "held", for_ever),
            "digest": lambda: runner.run(gold, record="codes").decisions_sha256(),
            "codes": lambda: runner.run(gold, record="codes"),
        },
    )
    rounds.interleave(max(1, options.rounds // 3), {"every": lambda: every.run(nobody)})
    alone, alone_run = rounds.cpu_s("alone") * 1e3, rounds.cpu_s("alone run") * 1e3
    worst_rate = n / rounds.cpu_s("every")
    rows = [
        row(KERNEL, alone, "ms", section=ONE, wall=rounds.wall_s("alone") * 1e3, goal="30 ms or less",
            met=alone <= 30.0),
        row(f"{KERNEL}: a second", n / alone / 1e3, "M bars/s", section=ONE),
        *(
            row(what, rounds.cpu_s(name) * 1e3, "ms", section=ONE, wall=rounds.wall_s(name) * 1e3,
                baseline="kernel", ratio=rounds.cpu_s(name) * 1e3 / alone)
            for name, what in (
                ("alone run", "whole run() with its Python"),
                ("codes", "every bar's code recorded"),
                ("digest", "codes and the digest of all decisions"),
            )
        ),
        row("kernel, rankings made before and shared", rounds.cpu_s("shared") * 1e3, "ms", section=ONE,
            wall=rounds.wall_s("shared") * 1e3, baseline=KERNEL,
            ratio=rounds.cpu_s("shared") * 1e3 / alone),
        row(WORST, worst_rate / 1e3, "k bars/s", section=ONE,
            wall=n / rounds.wall_s("every") / 1e3, goal="120 k bars/s or more", met=worst_rate >= 120e3),
        row("laying the market out, once", prepared_s * 1e3, "ms", section=ONE,
            note="columns checked, prices a second time by asset, volatility gate on every bar"),
    ]  # fmt: skip

    ranked = np.flatnonzero(np.isin(found.reason, RANKED) & (found.action != codes.ACTION_EXIT))
    n_ranked = len(ranked)
    actions = Counter(found.action.tolist())
    n_flat, n_hold = actions[codes.ACTION_NONE], actions[codes.ACTION_HOLD]
    rank_us, rank_rows = rankings(inputs, runner, ranked, options)
    numpy_us = rank_rows[-1]["value"]
    compared(rows, WORST, "numpy's ranking alone, all assets at once", worst_rate * numpy_us / 1e6)
    flat_ns = rounds.cpu_s("flat") / n * 1e9
    hold_ns = rounds.cpu_s("held") / n_held_ever * 1e9
    shared_ms = rounds.cpu_s("shared") * 1e3
    parts = {
        f"{n_flat:,} bars without a position, {flat_ns:.2f} ns each": n_flat * flat_ns / 1e6,
        f"{n_hold:,} bars held, {hold_ns:.1f} ns each": n_hold * hold_ns / 1e6,
        f"{n_ranked:,} rankings, {rank_us:.2f} us each": n_ranked * rank_us / 1e3,
    }
    n_events = 2 * found.totals.trades
    events = shared_ms - n_hold * hold_ns / 1e6
    parts[f"{n_events:,} entries and exits, {events / max(n_events, 1) * 1e3:.2f} us each"] = events
    parts["the rest: gates, calls of an entry, walks down the rankings, cold prices"] = alone - sum(
        parts.values()
    )
    rows += [
        row(what, ms, "ms", section=PROFILE, baseline="kernel", ratio=ms / alone)
        for what, ms in parts.items()
    ]
    dispatch = alone_run - alone
    rows.append(
        row("outside the kernel: Python of run(), closing the state", dispatch, "ms", section=PROFILE,
            baseline="kernel", ratio=dispatch / alone)
    )  # fmt: skip
    facts = {
        "entries_per_day": found.totals.trades / days,
        "beyond_threshold": float((inputs.vel_div < gold.vel_div_threshold).mean()),
        "beyond_extreme": float((inputs.vel_div < gold.vel_div_extreme).mean()),
        "gate_open": float(runner.market.vol_ok.mean()),
        "digest": digest,
        "worst_digest": worst.decisions_sha256(),
        "capital": found.totals.capital,
    }
    return rows + rank_rows, facts


def rankings(
    inputs: PeriodInputs, runner: PeriodRunner, bars: np.ndarray, options: argparse.Namespace
) -> tuple[float, list[dict[str, Any]]]:
    """(us of one ranking, rows): the kernel on the bars that gold ranks, its plain form, numpy."""
    gold = load_set("gold")
    a = len(inputs.symbols)
    tables = (
        np.zeros(len(bars), np.int64),
        *(np.zeros((len(bars), a), np.int16) for _ in range(3)),
        np.zeros((len(bars), a)),
    )

    def ranked(rank: Callable[..., None], some: np.ndarray) -> None:
        work = (np.empty((IRP_PRICES, a)), np.empty((PROFILE_ROWS, a)), np.empty(a, np.int64))
        rank(runner.market, some, gold.direction, False, *work, *(table[: len(some)] for table in tables))

    few, some = bars[: options.slow_bars], bars[: 20 * options.slow_bars]
    ranked(kernels.rank_bars, bars)
    ours = [
        [(int(asset), action == codes.DIRECT) for asset, action in zip(order[:k], actions[:k], strict=True)]
        for k, order, actions in zip(tables[0], tables[1], tables[2], strict=True)
    ]
    windows = [inputs.prices[t - IRP_PRICES + 1 : t + 1] for t in some]
    vectorised = [baselines.rank_vectorised(window, gold.direction) for window in windows]
    agree("rankings of ours and of vectorised numpy", ours[: len(some)], vectorised)
    per_asset = [baselines.rank_per_asset(window, gold.direction) for window in windows[: len(few)]]
    agree("rankings of ours and of numpy per asset", ours[: len(few)], per_asset)
    scores = tables[4].tobytes()
    slow = plain(kernels.rank_bars)
    ranked(slow, few)
    agree("scores of the compiled and of the plain ranking", tables[4].tobytes(), scores)

    rounds = Rounds()
    rounds.interleave(options.rounds, {"ours": lambda: ranked(kernels.rank_bars, bars)})
    rounds.interleave(
        max(1, options.rounds // 2),
        {
            "plain": lambda: ranked(slow, few),
            "per asset": lambda: [baselines.rank_per_asset(w, gold.direction) for w in windows[: len(few)]],
            "vectorised": lambda: [baselines.rank_vectorised(w, gold.direction) for w in windows],
        },
    )
    us = rounds.cpu_s("ours") / len(bars) * 1e6
    rows = [row(f"rank_assets, {a} assets, sorted", us, "us", section=RANK)]
    for name, what, count in (
        ("plain", "the same source in plain Python", len(few)),
        ("per asset", "numpy, one asset after the other", len(few)),
        ("vectorised", "numpy, all assets at once", len(some)),
    ):
        theirs = rounds.cpu_s(name) / count * 1e6
        rows.append(row(what, theirs, "us", section=RANK, baseline="rank_assets", ratio=theirs / us))
    return us, rows


def sweep(runner: PeriodRunner, options: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """Rows of the sweep; a digest of its totals."""
    gold = load_set("gold")
    bindings = bindings_of(gold, options.bindings)
    n_threads = cores()
    result = variant(runner).run_many(bindings)
    for k in range(0, len(bindings), max(1, len(bindings) // 5)):
        alone = runner.run(bindings[k][0])
        names = result.totals.dtype.names
        agree(f"binding {k} alone and in the sweep", tuple(getattr(alone.totals, name) for name in names),
              tuple(result.totals[k].tolist()))  # fmt: skip
    rounds = Rounds()
    ready = variant(runner)

    def whole() -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        variant(runner).run_many(bindings)
        rounds.note("all threads", time.process_time() - cpu, time.perf_counter() - wall)

    def single() -> None:
        meter = Metered(ready._run)
        ready._run = meter
        try:
            ready.run_many(bindings, threads=1)
        finally:
            ready._run = meter.function
        rounds.note("kernels", meter.cpu, meter.wall)

    rounds.interleave(
        max(1, options.rounds // 2),
        {
            "whole": whole,
            "ready": lambda: ready.run_many(bindings),
            "one thread": single,
        },
    )
    n = len(bindings)
    rate, again, by_one = (n / rounds.wall_s(name) for name in ("whole", "ready", "one thread"))
    each_ms = rounds.cpu_s("all threads") / n * 1e3
    kernel_ms = rounds.cpu_s("kernels") / n * 1e3
    alone_s, alone_cpu_s = seconds_alone(runner, bindings, options)
    trades = float(result.totals["trades"].mean()) / options.days
    rows = [
        row(f"{n} bindings, rankings made once and shared", rate, "backtests/s", section=SWEEP,
            goal="1,000 a second or more on two cores", met=rate >= 1000.0,
            baseline="one after the other, nothing shared", ratio=rate * alone_s,
            note=f"wall, {n_threads} threads; {trades:.1f} entries a day on average"),
        row("processor time of one of them, rankings included", each_ms, "ms", section=SWEEP,
            baseline="the same, nothing shared", ratio=each_ms / 1e3 / alone_cpu_s,
            note=f"{n_threads * 1e3 / each_ms:,.0f} backtests/s if no core ever waits"),
        row("the same, rankings there already", again, "backtests/s", section=SWEEP,
            baseline="rankings made", ratio=again / rate),
        row("the same on one thread", by_one, "backtests/s", section=SWEEP,
            baseline=f"{n_threads} threads", ratio=by_one / again),
        row("of which the kernel of one of them", kernel_ms, "ms", section=SWEEP,
            baseline="processor time of one, rankings included", ratio=kernel_ms / each_ms),
        row("one after the other, nothing shared, one thread", 1.0 / alone_s, "backtests/s", section=SWEEP,
            note="wall, a sample of the same bindings"),
    ]  # fmt: skip
    return rows, hashlib.sha256(result.totals.tobytes()).hexdigest()


def seconds_alone(
    runner: PeriodRunner, bindings: list[Any], options: argparse.Namespace
) -> tuple[float, float]:
    """(wall, processor): mean seconds of a binding that shares nothing, over a sample."""
    sample = bindings[:: max(1, len(bindings) // max(4, options.rounds))]
    wall, cpu = time.perf_counter(), time.thread_time()
    for params, _ in sample:
        runner.run(params)
    return (time.perf_counter() - wall) / len(sample), (time.thread_time() - cpu) / len(sample)


def bar_by_bar(
    inputs: PeriodInputs, runner: PeriodRunner, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], float]:
    """(rows, bars/s of plain step_bar): `step_bar` and the period, compiled and plain, on bars they share."""
    gold = load_set("gold")
    many, few = (min(n, runner.n_bars) for n in (options.step_bars, options.plain_bars))
    gate = runner.market.vol_ok
    long, short = first_bars(inputs, many, gate), first_bars(inputs, few, gate)
    periods = [PeriodRunner(part) for part in (long, short)]
    digests = [period.run(gold, record="codes").decisions_sha256() for period in periods]
    slow = PeriodRunner(short, kernels_as=plain)
    agree("the digests of the period and of step_bar", digests[0], digest_of(step_loop(long, gold)))
    agree("the digests of the period and of plain step_bar", digests[1],
          digest_of(step_loop(short, gold, plain)))  # fmt: skip
    agree("the digests of the period and of the plain period", digests[1],
          slow.run(gold, record="codes").decisions_sha256())  # fmt: skip
    rounds = Rounds()
    works: dict[str, Callable[[], Any]] = {
        "step": lambda: step_loop(long, gold),
        "plain step": lambda: step_loop(short, gold, plain),
        "plain period": lambda: slow.run(gold),
        "short period": lambda: [periods[1].run(gold) for _ in range(5)],
        "long period": lambda: [periods[0].run(gold) for _ in range(5)],
    }
    rounds.interleave(max(1, options.rounds // 3), works)
    rate = {
        "step": many / rounds.cpu_s("step"),
        "long period": 5 * many / rounds.cpu_s("long period"),
        "short period": 5 * few / rounds.cpu_s("short period"),
        "plain step": few / rounds.cpu_s("plain step"),
        "plain period": few / rounds.cpu_s("plain period"),
    }
    rows = [
        row(f"period's run(), the first {many:,} bars", rate["long period"] / 1e3, "k bars/s", section=STEP),
        row("step_bar compiled, in a Python loop", rate["step"] / 1e3, "k bars/s", section=STEP,
            baseline="period (period / this)", ratio=rate["long period"] / rate["step"]),
        row(f"period's run(), the first {few:,} bars", rate["short period"] / 1e3, "k bars/s", section=STEP),
        *(
            row(f"the same in plain Python: {what}", rate[name] / 1e3, "k bars/s", section=STEP,
                baseline="period (period / this)", ratio=rate["short period"] / rate[name])
            for name, what in (("plain period", "run()"), ("plain step", "step_bar"))
        ),
    ]  # fmt: skip
    return rows, rate["plain step"]


def gate(inputs: PeriodInputs, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of the volatility gate over one day of BTC."""
    prices = np.ascontiguousarray(inputs.prices[: options.bars, 0])
    n = len(prices)

    def exact() -> list[bool]:
        one = VolatilityGate()
        return [one.update(price) for price in prices.tolist()]

    verdict = gate_bars(prices, n)[0].tolist()
    balls, bits = baselines.gate_balls(prices, VOL_THRESHOLD)
    agree("the gate as a column and bar by bar", verdict, exact())
    agree("the gate and ball arithmetic", verdict, balls)
    agree("the gate and numpy", verdict, baselines.gate_numpy(prices, VOL_THRESHOLD))
    rounds = Rounds()
    rounds.interleave(
        max(1, options.rounds // 2),
        {
            "column": lambda: [gate_bars(prices, n) for _ in range(10)],
            "exact": exact,
            "numpy": lambda: baselines.gate_numpy(prices, VOL_THRESHOLD),
            "sliding": lambda: [baselines.gate_numpy_sliding(prices, VOL_THRESHOLD) for _ in range(10)],
        },
    )
    rounds.interleave(
        max(1, options.rounds // 4), {"balls": lambda: baselines.gate_balls(prices, VOL_THRESHOLD)}
    )
    us = {name: rounds.cpu_s(name) / n * 1e6 for name in rounds.cpu}
    us["column"] /= 10
    us["sliding"] /= 10
    rows = [row("gate_bars, exact where float64 cannot tell", us["column"], "us/bar", section=GATE)]
    for name, what in (
        ("exact", "VolatilityGate, exact integers bar by bar"),
        ("sliding", "numpy std, all windows at once (not exact)"),
        ("numpy", "numpy std, bar by bar (not exact)"),
        ("balls", f"naive arb from scratch at 512 bits ({bits} reached)"),
    ):
        rows.append(
            row(what, us[name], "us/bar", section=GATE, baseline="gate_bars", ratio=us[name] / us["column"])
        )
    return rows


def simple_rule(inputs: PeriodInputs, options: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """Rows of one asset's rule, ours and vectorbt's; a digest of the trades."""
    gold = load_set("gold")
    values = {
        "use_asset_selection": False, "use_direction_confirm": False, "use_alpha_layers": False,
        "use_dynamic_leverage": False, "use_ob_edge": False, "use_sp_fees": False, "use_sp_slippage": False,
        "liquidation_guard": False, "lookback": 0,
    }  # fmt: skip
    params = gold.with_values(values)
    n = len(inputs.timestamp_ns)
    price = np.ascontiguousarray(inputs.prices[:, :1])
    columns = {name: getattr(inputs, name) for name in PER_BAR} | {"vol_ok": np.ones(n, np.bool_)}
    runner = PeriodRunner(PeriodInputs(symbols=inputs.symbols[:1], prices=price, **columns))
    trades = runner.run(params, record="events").trades
    bars = [(int(a), int(b)) for a, b in zip(trades["entry_bar"], trades["exit_bar"], strict=True)]
    rounds = Rounds()
    rounds.interleave(options.rounds, {"kernel run": kernel_of(runner, rounds, "kernel", params)})
    ours = rounds.cpu_s("kernel run") * 1e3
    rows = [
        row("run() of the period", ours, "ms", section=RULE, wall=rounds.wall_s("kernel run") * 1e3,
            note=f"SHORT below {params.vel_div_threshold:g}, take-profit {params.fixed_tp_pct:.2%}, "
            f"{params.max_hold_bars} bars at most, no fees: {len(bars):,} trades"),
    ]  # fmt: skip
    digest = hashlib.sha256(repr(bars).encode()).hexdigest()
    if not VECTORBT.exists() or options.no_vectorbt:
        rows.append(
            row(
                "vectorbt",
                None,
                "",
                section=RULE,
                note="not measured: `make vectorbt` sets .venv-vectorbt up",
            )
        )
        return rows, digest
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "market.npz"
        np.savez(path, price=price[:, 0], vel_div=inputs.vel_div, threshold=params.vel_div_threshold,
                 tp=params.fixed_tp_pct, max_hold=params.max_hold_bars)  # fmt: skip
        words = [str(VECTORBT), str(ROOT / "benchmarks" / "vectorbt_rule.py"), str(path), str(options.rounds)]
        told = subprocess.run(words, capture_output=True, text=True, cwd=folder, check=False)
    if told.returncode:
        raise SystemExit(f"benchmarks: vectorbt failed: {told.stderr.strip().splitlines()[-1:]}")
    theirs = json.loads(told.stdout.splitlines()[-1])
    for name, way in theirs["ways"].items():
        same = list(zip(way["entry_bars"], way["exit_bars"], strict=True)) == bars
        note = "every trade the same"
        if not same:
            shared = len(set(zip(way["entry_bars"], way["exit_bars"], strict=True)) & set(bars))
            note = f"{way['trades']:,} trades, {shared:,} the same: time is up for older signals too"
            if name != "from_signals":
                agree(f"the trades of ours and of vectorbt's {name}", bars[:50],
                      list(zip(way["entry_bars"], way["exit_bars"], strict=True))[:50])  # fmt: skip
                note = f"{way['trades']:,} trades, {shared:,} the same"
        what = f"vectorbt {theirs['version']} {name}"
        rows.append(
            row(what, way["ms"], "ms", section=RULE, baseline="run()", ratio=way["ms"] / ours, note=note)
        )
    return rows, digest


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rows."""
    load_before = load()
    inputs = make_inputs(options.seed, options.days, options.bars, options.assets)
    PeriodRunner(first_bars(inputs, min(options.bars, 200), np.ones(options.bars, np.bool_)))  # compiles
    started = time.thread_time()
    runner = PeriodRunner(inputs)
    prepared_s = time.thread_time() - started
    gc.collect()
    rows, facts = one_binding(inputs, runner, prepared_s, options)
    more, sweep_digest = sweep(runner, options)
    rows += more
    more, plain_rate = bar_by_bar(inputs, runner, options)
    rows += more
    alone = next(line["value"] for line in rows if line["what"] == KERNEL)
    compared(rows, KERNEL, "step_bar in plain Python, by bars/s", runner.n_bars / (alone / 1e3) / plain_rate)
    rows += gate(inputs, options)
    more, rule_digest = simple_rule(inputs, options)
    rows += more
    whole = "".join((facts["digest"], facts["worst_digest"], sweep_digest, rule_digest))
    order = {section: k for k, section in enumerate((ONE, PROFILE, RANK, SWEEP, STEP, GATE, RULE))}
    return {
        "script": "benchmarks/period.py",
        "hardware": hardware(),
        "load": load_before,
        "seed": options.seed,
        "market": f"{options.days} days of {options.bars:,} bars and {options.assets} assets, "
        f"{facts['beyond_threshold']:.1%} of bars beyond -0.02, {facts['beyond_extreme']:.3%} beyond -0.05, "
        f"gate open on {facts['gate_open']:.0%}; gold enters {facts['entries_per_day']:.1f} times a day",
        "facts": facts,
        "result_sha256": hashlib.sha256(whole.encode()).hexdigest(),
        "table": sorted(rows, key=lambda line: order[line["section"]]),
    }


def parser() -> argparse.ArgumentParser:
    """The options; small ones make a quick run whose figures mean nothing."""
    made = argparse.ArgumentParser(
        prog="benchmarks.period", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value, told in (
        ("days", 56, "days of the market"),
        ("bars", 6154, "bars a day"),
        ("assets", 50, "assets"),
        ("seed", 5, "of the market"),
        ("rounds", 15, "interleaved rounds of the quick ones; slow ones take fewer"),
        ("bindings", 512, "of the sweep"),
        ("step-bars", 3 * 6154, "bars through step_bar"),
        ("plain-bars", 6154, "bars in plain Python"),
        ("slow-bars", 20, "bars ranked in plain Python; twenty times as many by numpy"),
    ):
        made.add_argument(f"--{name}", type=int, default=value, help=f"{told} (default {value})")
    made.add_argument("--no-vectorbt", action="store_true", help="leave vectorbt out")
    made.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return made


def main(words: list[str] | None = None) -> int:
    """Print the table."""
    options = parser().parse_args(words)
    result = measure(options)
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"{result['hardware']}, load {number(result['load'])}")
    print(f"{result['market']}; seed {result['seed']}, result {result['result_sha256'][:16]}")
    show(result["table"])
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(main())
