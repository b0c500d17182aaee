"""A study: one parameter set and its neighbours over a period, judged as a sceptic would.

Entry points: `grid_of` (the settings to try), `Study` (what is asked), `study` (the answer as plain values,
which `dolphin.report.study` turns into a page and JSON keeps as it is).

Invariants:

1. Every figure that a verdict rests on is after fees and slippage and WITHOUT the order-book edge: that is a
   credit of the model, and where books are absent nobody would have paid it.
2. A setting is one continuous run over the whole period. A window takes its days out of it: what the setting
   knew on a day came from earlier days only, and a position over midnight is where the embargo lies.
3. Settings are chosen by one stated criterion, the Sharpe ratio of the train days; ties go to the earlier
   setting, and the set itself is the first.
4. All settings that were run are counted as trials, and those that somebody ran before, if told.
   `trials_digest` says whether two studies ran the same ones.
5. No clock and no chance but the stated seed: equal inputs give equal JSON.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dolphin.alpha.volatility import VOL_THRESHOLD
from dolphin.backtest.period import PeriodRunner
from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY
from dolphin.domain.errors import ConfigError, UsageError
from dolphin.domain.params import ParameterSet
from dolphin.engine.market import PeriodInputs
from dolphin.engine.state import EngineOptions
from dolphin.research import bootstrap, null, overfitting, splits
from dolphin.research.verdict import verdict_of

FORMAT: Final = "dolphin-study-1"
#: Cost scales of the sensitivity table.
SCALES: Final = (0.0, 1.0, 2.0, 3.0)
#: A first or last day with fewer bars than this share of a usual one is joined to its neighbour.
STUB_FRAC: Final = 0.1
CRITERION: Final = "highest Sharpe ratio of daily returns on the train days, after costs, without the OB edge"

#: Factors on the set's own values; `max_hold_bars` is rounded to whole bars.
GRIDS: Final[Mapping[str, Mapping[str, tuple[float, ...]]]] = {
    "small": {
        "vel_div_threshold": (1.0, 0.75, 1.5),
        "fixed_tp_pct": (1.0, 0.5, 2.0),
        "max_hold_bars": (1.0, 0.5, 2.0),
    },
    "wide": {
        "vel_div_threshold": (1.0, 0.5, 0.75, 1.5, 2.0),
        "fixed_tp_pct": (1.0, 0.25, 0.5, 2.0, 4.0),
        "max_hold_bars": (1.0, 0.25, 0.5, 2.0),
        "max_leverage": (1.0, 0.5),
    },
}

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """What a study is asked.

    Lengths of 0 are chosen from the number of days (`lengths_for`). `trials_before`: settings that were tried
    elsewhere before this study. `trials_ledger`: what counted them, in words; empty where somebody said so.
    `vol_threshold` as in a backtest.
    """

    set_name: str
    params: ParameterSet
    grid: Mapping[str, Sequence[Any]]
    grid_name: str = "small"
    train_days: int = 0
    test_days: int = 0
    embargo_days: int = 1
    folds: int = 6
    shifts: int = 499
    reps: int = 2000
    level: float = 0.95
    trials_before: int = 0
    trials_ledger: str = ""
    seed: int = 1
    vol_threshold: float = VOL_THRESHOLD

    def __post_init__(self) -> None:
        for name, least in (
            ("train_days", 0), ("test_days", 0), ("embargo_days", 0), ("folds", 3), ("shifts", 19),
            ("reps", 100), ("trials_before", 0), ("seed", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected {least} or more")
        if not 0.5 < self.level < 1.0:
            raise ConfigError(f"level is {self.level}, expected 0.5 < x < 1")


def named_grid(name: str, params: ParameterSet) -> dict[str, list[Any]]:
    """The values of a named grid around a set: its own value first, then others, doubles left out.

    Raises ConfigError for an unknown name.
    """
    if name not in GRIDS:
        raise ConfigError(
            f"unknown grid {name!r}; known: {', '.join(GRIDS)}, or a YAML file of NAME: [values]"
        )
    values: dict[str, list[Any]] = {}
    for key, factors in GRIDS[name].items():
        own = getattr(params, key)
        made = [max(1, round(own * f)) if isinstance(own, int) else float(f"{own * f:.12g}") for f in factors]
        values[key] = list(dict.fromkeys(made))
    return values


def grid_of(params: ParameterSet, values: Mapping[str, Sequence[Any]]) -> tuple[ParameterSet, ...]:
    """Every combination of the values that makes sense as a set; the set itself is the first one.

    Parameters
    ----------
    params : ParameterSet
        The set; parameters that are not in `values` keep its value.
    values : mapping of name to values

    Returns
    -------
    tuple of ParameterSet
        Without doubles. A combination that ParameterSet refuses (a threshold beyond the extreme) is left out.

    Raises
    ------
    ConfigError
        If a name is unknown or has no value, or `use_ob_edge` is among them: the study takes the edge out.
    """
    found: dict[ParameterSet, None] = {params: None}
    if "use_ob_edge" in values:
        raise ConfigError("use_ob_edge is no parameter of a grid: a study always leaves the edge out")
    for name, given in values.items():
        if not given:
            raise ConfigError(f"grid: {name} has no value; give one or more, or leave it out")
        params.with_values({name: params.as_dict().get(name)})
    for combination in itertools.product(*values.values()):
        try:
            found[params.with_values(dict(zip(values, combination, strict=True)))] = None
        except ConfigError:
            continue
    return tuple(found)


def trials_of(asked: Study) -> tuple[ParameterSet, ...]:
    """The settings that a study runs, without the order-book edge; the set itself is the first one."""
    return grid_of(asked.params.with_values({"use_ob_edge": False}), asked.grid)


def trials_digest(asked: Study) -> str:
    """SHA-256 (hex) over the settings that a study runs, in any order; lengths and seeds try nothing."""
    content = [sorted(trial.hash() for trial in trials_of(asked)), asked.vol_threshold]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def lengths_for(n_days: int) -> tuple[int, int]:
    """(train, test) days of walk-forward for a period: about a third to learn on, tenths to trade."""
    return max(4, round(0.35 * n_days)), max(1, round(0.1 * n_days))


@dataclass(frozen=True, slots=True, eq=False)
class _Calendar:
    """The days that a study counts: names, and for each of the runner's days the one it belongs to."""

    names: tuple[str, ...]
    of_run: IntArray
    of_bar: IntArray
    notes: tuple[str, ...]

    @property
    def last_of(self) -> IntArray:
        """The runner's last day of each counted day."""
        return np.searchsorted(self.of_run, np.arange(len(self.names)), side="right") - 1


def _calendar(timestamp_ns: IntArray, days: Sequence[str]) -> _Calendar:
    """Join a stub at either end (the one bar that closes at midnight) to the day next to it."""
    run_day = np.unique(timestamp_ns // NS_PER_DAY, return_inverse=True)[1].astype(np.int64)
    bars = np.bincount(run_day)
    few = STUB_FRAC * float(np.median(bars))
    of_run = np.arange(len(days), dtype=np.int64)
    names, notes = list(days), []
    if len(names) > 1 and bars[-1] < few:
        of_run[-1] -= 1
        notes.append(f"{names[-1]} has only {bars[-1]} of its bars and is counted with {names[-2]}")
        names = names[:-1]
    if len(names) > 1 and bars[0] < few:
        of_run[1:] -= 1
        notes.append(f"{names[0]} has only {bars[0]} of its bars and is counted with {names[1]}")
        names = names[1:]
    return _Calendar(tuple(names), of_run, of_run[run_day], tuple(notes))


class _Runs:
    """The runs of a study over one period; each detailed one is made once."""

    def __init__(self, inputs: PeriodInputs, asked: Study) -> None:
        self.inputs = inputs
        self.runner = PeriodRunner(inputs, vol_threshold=asked.vol_threshold)
        self.calendar = _calendar(inputs.timestamp_ns, self.runner.days)
        self._days: dict[ParameterSet, bootstrap.Days] = {}

    def returns(self, trials: Sequence[ParameterSet], on_done: Callable[[int], None]) -> FloatArray:
        """Daily returns of every trial, shape (n_days, n_trials)."""
        made = 0

        def told(*_: Any) -> None:
            nonlocal made
            made += 1
            on_done(made)

        batch = self.runner.run_many([(params, None) for params in trials], on_done=told)
        closes = np.asarray(batch.daily_equity, dtype=np.float64)[:, self.calendar.last_of]
        start = np.array([[params.initial_capital] for params in trials])
        return daily_returns(np.concatenate([start, closes], axis=1)).T

    def days(self, params: ParameterSet) -> bootstrap.Days:
        """A run as days."""
        if params not in self._days:
            run = self.runner.run(params, record="codes")
            trades, calendar = run.trades, self.calendar
            self._days[params] = bootstrap.days_of_run(
                np.asarray(run.equity, dtype=np.float64),
                calendar.of_bar,
                params.initial_capital,
                exit_day=calendar.of_bar[np.asarray(trades["exit_bar"], dtype=np.int64)],
                net=np.asarray(trades["net"], dtype=np.float64),
                notional=np.asarray(trades["notional"], dtype=np.float64),
            )
        return self._days[params]


def daily_returns(equity: FloatArray) -> FloatArray:
    """Simple returns along the last axis; capital that is gone stays gone (-1 once, then 0).

    Parameters
    ----------
    equity : array, shape (..., n + 1)
        USDT.
    """
    level = np.maximum(equity, 0.0)
    before, after = level[..., :-1], level[..., 1:]
    there = before > 0.0
    return np.asarray(np.where(there, after / np.where(there, before, 1.0) - 1.0, 0.0), dtype=np.float64)


def shifted(runner: PeriodRunner, bars: int) -> PeriodRunner:
    """The same prices with the signal record rolled by `bars` against them, round the circle.

    `tests/unit/research/test_study.py` compares it with a runner that is made from rolled inputs.
    """
    inputs = runner.inputs
    columns = (inputs.vel_div, inputs.v50_velocity, inputs.v750_velocity, inputs.instability_50)
    return runner.with_signals(*(np.roll(column, bars) for column in columns))


def shift_null(
    runner: PeriodRunner,
    params: ParameterSet,
    *,
    n_shifts: int,
    threads: int | None = None,
    on_done: Callable[[int, int], None] | None = None,
) -> null.ShiftNull:
    """The circular-shift null of one set over one period, run by the engine itself.

    Parameters
    ----------
    runner : PeriodRunner
        The period; its volatility gate stays with the prices.
    params : ParameterSet
        The set; the order-book edge is taken out here.
    n_shifts : int
        Wanted shifts; see `null.shifts_for`.
    threads : int, optional
        All cores by default; their number changes nothing in the answer.
    on_done : callable, optional
        Gets runs done and runs in all.

    Returns
    -------
    ShiftNull

    Raises
    ------
    UsageError
        If the period holds no shift.
    """
    honest = params.with_values({"use_ob_edge": False})
    distance = null.distance_for(params.max_hold_bars)
    shifts = null.shifts_for(runner.n_bars, n_shifts, distance)

    def one(bars: int) -> FloatArray:
        trades = (shifted(runner, bars) if bars else runner).run(honest, record="events").trades
        return np.asarray(trades["net"] / trades["notional"], dtype=np.float64)

    def trade_returns(bars: Sequence[int]) -> list[FloatArray]:
        found = []
        with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
            for run in pool.map(one, bars):
                found.append(run)
                if on_done is not None:
                    on_done(len(found), len(bars))
        return found

    return null.circular_shift_null(trade_returns, shifts, distance)


def study(
    inputs: PeriodInputs, asked: Study, source: Mapping[str, Any], on_progress: Progress | None = None
) -> dict[str, Any]:
    """Judge a set and its neighbours over a period.

    Parameters
    ----------
    inputs : PeriodInputs
        The period's market data.
    asked : Study
        Set, grid and lengths.
    source : mapping
        Where the data come from, for the record; `name` is shown, `notes` (sentences) are told as cautions.
    on_progress : callable, optional
        Gets the phase, what is done and how much there is.

    Returns
    -------
    dict
        Plain values; numbers that do not exist are None, an interval without an upper bound has
        `unbounded`. `result_sha256` is over the JSON of the rest.

    Raises
    ------
    UsageError, ConfigError
        If the lengths do not fit the period, the grid makes no sense, or the extra is missing.
    """
    tell = on_progress or (lambda phase, done, total: None)
    honest = asked.params.with_values({"use_ob_edge": False})
    trials = trials_of(asked)
    runs = _Runs(inputs, asked)
    n_days = len(runs.calendar.names)
    n_trials = len(trials) + asked.trials_before
    returns = runs.returns(trials, lambda done: tell("settings", done, len(trials)))
    train_days, test_days = (
        given or chosen
        for given, chosen in zip((asked.train_days, asked.test_days), lengths_for(n_days), strict=True)
    )
    asked = dataclasses.replace(asked, train_days=train_days, test_days=test_days)
    days = runs.days(honest)
    block = bootstrap.block_length(days.returns)

    found: dict[str, Any] = {
        "format": FORMAT,
        "source": {key: value for key, value in source.items() if key != "notes"},
        "set": {"name": asked.set_name, "hash": asked.params.hash(), "parameters": asked.params.as_dict()},
        "settings": _settings(asked),
        "days": list(runs.calendar.names),
        "n_bars": len(inputs.timestamp_ns),
        "bar_seconds": float(np.median(np.diff(inputs.timestamp_ns))) / 1e9,
        "notes": [*source.get("notes", ()), *runs.calendar.notes],
        "trials": [
            {
                "values": {name: getattr(trial, name) for name in asked.grid},
                "roi": float(np.prod(1.0 + column) - 1.0),
                "sharpe_day": float(ratio),
            }
            for trial, column, ratio in zip(trials, returns.T, overfitting.sharpe(returns), strict=True)
        ],
    }
    found["as_named"] = {
        **_judged(days, asked),
        "equity": _levels(days.returns),
        "with_ob_edge": _with_edge(runs, asked),
    }
    tell("walk-forward", 0, 1)
    found["walk_forward"] = _walk_forward(runs, returns, trials, asked)
    found["cross_validation"] = _cross_validation(returns, trials, asked)
    found["overfitting"] = _overfitting(returns)
    found["deflated"] = _deflated(returns, days, n_trials, asked, block)
    tell("costs", 0, 1)
    found["costs"] = _costs(runs.runner, honest)
    found["null"] = _null(runs.runner, asked, lambda done, total: tell("shifted signals", done, total))
    found["verdict"] = verdict_of(found)
    plain = _plain(found)
    text = json.dumps(plain, sort_keys=True, allow_nan=False)
    return {**plain, "result_sha256": hashlib.sha256(text.encode()).hexdigest()}


def _settings(asked: Study) -> dict[str, Any]:
    kept = {
        field.name: getattr(asked, field.name)
        for field in dataclasses.fields(asked)
        if field.name not in ("params", "set_name")
    }
    return {**kept, "grid": {key: list(values) for key, values in asked.grid.items()}, "criterion": CRITERION}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _levels(returns: FloatArray) -> FloatArray:
    """Growth of 1 from before the first day, shape (n_days + 1,)."""
    return np.concatenate([[1.0], np.cumprod(1.0 + returns)])


def _judged(days: bootstrap.Days, asked: Study) -> dict[str, Any]:
    """Headline figures of some days with their intervals."""
    made = bootstrap.intervals(days, seed=asked.seed, reps=asked.reps, level=asked.level)
    figures = {
        name: {
            **dataclasses.asdict(figure),
            "unbounded": figure.high is not None and math.isinf(figure.high),
        }
        for name, figure in made.figures.items()
    }
    return {
        "n_days": len(days),
        "trades": float(days.trades.sum()),
        "figures": figures,
        "block_days": made.block_days,
        "words": made.words,
    }


def _with_edge(runs: _Runs, asked: Study) -> dict[str, float | None] | None:
    """The same set as its backtest shows it: with the edge, if it has one."""
    if not asked.params.use_ob_edge:
        return None
    return bootstrap.headline(runs.days(asked.params))


def _best(returns: FloatArray, days: IntArray) -> int:
    return int(overfitting.sharpe(returns[days]).argmax())


def _walk_forward(
    runs: _Runs, returns: FloatArray, trials: Sequence[ParameterSet], asked: Study
) -> dict[str, Any] | None:
    names = runs.calendar.names
    if len(names) < asked.train_days + asked.embargo_days + 1:
        return None
    windows = splits.walk_forward(
        len(names),
        train_days=asked.train_days,
        test_days=asked.test_days,
        embargo_days=asked.embargo_days,
    )
    told, parts = [], []
    for window in windows:
        best = _best(returns, window.train)
        part = runs.days(trials[best]).take(window.test)
        parts.append(part)
        told.append(
            {
                "train": [names[window.train[0]], names[window.train[-1]]],
                "test": [names[window.test[0]], names[window.test[-1]]],
                "trial": best,
                "values": {name: getattr(trials[best], name) for name in asked.grid},
                "sharpe_day_train": float(overfitting.sharpe(returns[window.train])[best]),
                "roi_test": float(np.prod(1.0 + part.returns) - 1.0),
                "trades_test": float(part.trades.sum()),
            }
        )
    joined = bootstrap.Days(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(bootstrap.Days)
        }
    )
    tested = np.concatenate([window.test for window in windows])
    unchanged = runs.days(trials[0]).take(tested)
    return {
        **_judged(joined, asked),
        "windows": told,
        "tested": [names[day] for day in tested],
        "equity": _levels(joined.returns),
        "equity_unchanged": _levels(unchanged.returns),
        "unchanged": _judged(unchanged, asked),
    }


def _cross_validation(
    returns: FloatArray, trials: Sequence[ParameterSet], asked: Study
) -> dict[str, Any] | None:
    if len(trials) < 2 or len(returns) < 3 * asked.folds:
        return None
    made = splits.combinatorial(len(returns), n_folds=asked.folds, embargo_days=asked.embargo_days)
    chosen = [_best(returns, split.train) for split in made.splits]
    paths = [
        np.concatenate([returns[days, chosen[split]] for days, split in zip(made.folds, path, strict=True)])
        for path in made.paths
    ]
    return {
        "folds": asked.folds,
        "n_splits": len(made.splits),
        "chosen": chosen,
        "paths": [
            {
                "roi": float(np.prod(1.0 + path) - 1.0),
                "sharpe": float(overfitting.sharpe(path)) * math.sqrt(bootstrap.DAYS_A_YEAR),
                "equity": _levels(path),
            }
            for path in paths
        ],
    }


def _overfitting(returns: FloatArray) -> dict[str, Any] | None:
    if returns.shape[1] < 2 or not overfitting.blocks_for(len(returns)):
        return None
    found = overfitting.backtest_overfitting(returns)
    logits, counts = np.unique(np.round(found.logits, 9), return_counts=True)
    # Thousands of halvings: a thinned cloud tells the same.
    step = max(1, len(found.logits) // 400)
    return {
        "pbo": found.pbo,
        "loss": found.loss,
        "slope": found.slope,
        "n_blocks": found.n_blocks,
        "n_trials": found.n_trials,
        "n_halvings": len(found.logits),
        "logits": logits,
        "logit_counts": counts,
        "sharpe_in": found.sharpe_in[::step],
        "sharpe_out": found.sharpe_out[::step],
        "chosen": found.chosen,
    }


def _deflated(
    returns: FloatArray, days: bootstrap.Days, n_trials: int, asked: Study, block: int
) -> dict[str, Any] | None:
    if len(returns) < 3:
        return None
    ratios = overfitting.sharpe(returns)
    best = int(ratios.argmax())
    deflated = overfitting.deflated_sharpe(returns[:, best], ratios, n_trials)
    return {
        **dataclasses.asdict(deflated),
        "best": best,
        "probability_set": overfitting.probabilistic_sharpe(days.returns),
        "track_record_days": overfitting.track_record_min(days.returns, 0.0, asked.level),
        "effective_trials": overfitting.effective_trials(returns),
        "superiority_p": overfitting.superiority(returns, seed=asked.seed, block_days=block, reps=asked.reps),
    }


def _costs(runner: PeriodRunner, params: ParameterSet) -> dict[str, Any]:
    pairs = list(itertools.product(SCALES, SCALES))
    totals = runner.run_many(
        [(params, EngineOptions(fee_scale=fee, slippage_scale=slip)) for fee, slip in pairs]
    ).totals
    rows = [
        {
            "fee_scale": fee,
            "slippage_scale": slip,
            "roi": float(total["equity"]) / params.initial_capital - 1.0,
            "net": float(total["net"]),
            "trades": int(total["trades"]),
            "profit_factor": float(total["gross_profit"] / total["gross_loss"])
            if total["gross_loss"]
            else None,
        }
        for (fee, slip), total in zip(pairs, totals, strict=True)
    ]
    nets = [float(totals[pairs.index((scale, scale))]["net"]) for scale in SCALES]
    now = totals[pairs.index((1.0, 1.0))]
    return {
        "rows": rows,
        "break_even": break_even(SCALES, nets),
        "price_pnl": float(now["price_pnl"]),
        "fees": float(now["entry_fees"] + now["exit_fees"]),
        "slippage": float(now["slippage"]),
        "net": float(now["net"]),
        "trades": int(now["trades"]),
    }


def break_even(scales: Sequence[float], nets: Sequence[float]) -> float | None:
    """The cost scale at which the net result is 0, by straight lines between the scales.

    Returns
    -------
    float or None
        0 when it loses even without costs; None when it earns at every scale.
    """
    if nets[0] <= 0.0:
        return 0.0
    for k in range(len(nets) - 1):
        if nets[k + 1] <= 0.0:
            share = nets[k] / (nets[k] - nets[k + 1])
            return scales[k] + share * (scales[k + 1] - scales[k])
    return None


def _null(runner: PeriodRunner, asked: Study, on_done: Callable[[int, int], None]) -> dict[str, Any] | None:
    try:
        found = shift_null(runner, asked.params, n_shifts=asked.shifts, on_done=on_done)
    except UsageError:
        return None
    return {
        "p_value": found.p_value,
        "observed": found.observed,
        "null": found.null,
        "mean_observed": found.mean_observed,
        "mean_null": float(np.nanmean(found.mean_null)) if np.isfinite(found.mean_null).any() else None,
        "trades_observed": found.trades_observed,
        "trades_null": float(found.trades_null.mean()),
        "n_shifts": len(found.null),
        "distance_bars": found.distance_bars,
        "spacing_bars": int(found.shifts[0]),
    }
