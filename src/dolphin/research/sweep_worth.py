"""What the best binding of a sweep is worth, after the luck of choosing among so many.

Entry point: `worth`. It calls `overfitting` (on every binding's daily equity, with the trials that were
actually run on these days, here and in sweeps before) and, where the research extra is installed,
`bootstrap`.

1. Every sentence is made here, from figures that stand beside it; the page and the terminal only show them.
2. A binding whose capital ran out is a loss of everything, not a gap.
3. The measures are a study's (`thresholds`), and a yes needs every one of them passed: none missing, enough
   days and trades, and nothing that rests on the imagined order-book edge. Where the sweep was run with the
   edge, the best one is run again without it; what was found by a search with the edge is never a yes.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from dolphin.backtest.period import PeriodRunner
from dolphin.backtest.sweep.run import Sweep
from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY
from dolphin.domain.errors import UsageError, plural
from dolphin.domain.params import ParameterSet
from dolphin.engine.engine import Snapshot
from dolphin.research import bootstrap, overfitting
from dolphin.research.study import daily_returns
from dolphin.research.thresholds import (
    DAYS_ENOUGH,
    DEFLATED_MIN,
    LOSING_BELOW,
    PBO_MAX,
    SWEPT_MIN,
    TRADES_MIN,
)
from dolphin.research.verdict import money, percent

#: Halvings times bindings of one piece of CSCV's work: some 0.3 GB.
_CELLS_MAX: Final = 4_000_000
_YEAR: Final = math.sqrt(365.0)
_NEIGHBOURS_DRAWN: Final = 12

OBJECTIVE_WORDS: Final = {
    "sharpe": "Sharpe",
    "roi_marked": "result",
    "roi": "booked result",
    "profit_factor": "profit factor",
}


def worth(sweep: Sweep, *, seed: int = 1, reps: int = 2000) -> dict[str, Any]:
    """The best binding, how much of it is luck, and how flat the top is.

    Parameters
    ----------
    sweep : a finished sweep
    seed, reps : of the bootstrap

    Returns
    -------
    dict
        `answer` (yes, no, not_shown, too_short), `headline`, `sentences`, `checks`, `cautions`; `best`,
        `median`, `worst` (rows), `top` (rows, best first), `neighbours`; `n_days`, `trades` (of the best),
        `with_edge` (whether any row holds the imagined edge), `without_edge` (the best one's result without
        it, a fraction); `overfitting`, `deflated`, `interval` (of the best without the edge), each None
        where it cannot be stated.
    """
    columns, daily = sweep.rows.columns, sweep.rows.daily
    order = ranking(columns, sweep.plan.objective)
    best = int(order[0])
    initial = columns["capital"] - columns["net"]
    returns = daily_returns(np.concatenate([initial[:, None], daily], axis=1)).T
    found: dict[str, Any] = {
        "objective": sweep.plan.objective,
        "best": best,
        "median": int(order[len(order) // 2]),
        "worst": int(order[-1]),
        "top": order[:20].tolist(),
        "neighbours": neighbours(sweep, best).tolist(),
        "n_days": min(len(sweep.days), len(returns)),
        "trades": int(columns["trades"][best]),
        "with_edge": bool(columns["ob_edge"].any()),
        "without_edge": None,
        "overfitting": _overfitting(returns),
        "deflated": _deflated(returns, best, sweep.trials_ledger),
        **_interval(sweep, best, seed, reps),
    }
    found["checks"] = _checks(found)
    found["answer"] = _answer(float(columns["roi_marked"][best]), found)
    found["headline"] = _headline(sweep, found)
    found["sentences"] = _sentences(sweep, found)
    found["cautions"] = _cautions(sweep, found)
    return found


def ranking(columns: Any, objective: str) -> IntArray:
    """Positions of all rows, best first; a row without the figure comes last, ties keep the plan's order."""
    value = np.asarray(columns[objective], np.float64)
    if not np.isfinite(value).any():
        value = np.asarray(columns["roi_marked"], np.float64)
    return np.argsort(-np.where(np.isnan(value), -np.inf, value), kind="stable")


def neighbours(sweep: Sweep, k: int) -> IntArray:
    """Rows next to row k: one step along one parameter in a grid, the nearest dozen in a drawn design.

    Distance in a drawn design is the sum over parameters of the difference in rank, as a share of all ranks.
    """
    points = sweep.design.points[sweep.design.runs]
    ranks = np.stack([np.unique(column, return_inverse=True)[1] for column in points.T], axis=1)
    if sweep.plan.design == "grid":
        return np.flatnonzero(np.abs(ranks - ranks[k]).sum(axis=1) == 1)
    distance = (np.abs(ranks - ranks[k]) / np.maximum(1, ranks.max(axis=0))).sum(axis=1)
    distance[k] = np.inf
    return np.argsort(distance, kind="stable")[: min(_NEIGHBOURS_DRAWN, len(points) - 1)]


def blocks_for(n_days: int, n_trials: int) -> int:
    """Blocks of CSCV: as many as the days allow, fewer where the work would not fit into memory."""
    n_blocks = overfitting.blocks_for(n_days)
    while n_blocks > 4 and min(1000, math.comb(n_blocks, n_blocks // 2)) * n_trials > _CELLS_MAX:
        n_blocks -= 2
    return n_blocks


def _overfitting(returns: FloatArray) -> dict[str, Any] | None:
    n_days, n_trials = returns.shape
    n_blocks = blocks_for(n_days, n_trials)
    if n_trials < 2 or not n_blocks:
        return None
    found = overfitting.backtest_overfitting(returns, n_blocks)
    return {
        "pbo": found.pbo,
        "loss": found.loss,
        "n_blocks": n_blocks,
        "n_halvings": len(found.logits),
        "sharpe_in": float(np.median(found.sharpe_in)) * _YEAR,
        "sharpe_out": float(np.median(found.sharpe_out)) * _YEAR,
        "chosen": int((found.chosen > 0).sum()),
    }


def _deflated(returns: FloatArray, best: int, n_trials: int) -> dict[str, Any] | None:
    if len(returns) < SWEPT_MIN:
        return None
    sharpes = overfitting.sharpe(returns)
    found = overfitting.deflated_sharpe(
        np.ascontiguousarray(returns[:, best]), sharpes, max(n_trials, len(sharpes))
    )
    if math.isnan(found.probability):
        return None
    return {
        "probability": found.probability,
        "sharpe": found.sharpe * _YEAR,
        "benchmark": found.benchmark * _YEAR,
        "n_trials": found.n_trials,
        # The spread of the trials is this search's own: where others tried more, it may be far too small.
        "own": len(sharpes) >= 2 and found.n_trials <= 2 * len(sharpes),
    }


def _days_of(sweep: Sweep, params: ParameterSet) -> bootstrap.Days:
    """A binding's days. Equity and trades of all pieces are joined: 16 bytes a bar, a price takes as much."""
    days: list[IntArray] = []
    equity: list[FloatArray] = []
    exits: list[IntArray] = []
    nets: list[FloatArray] = []
    notionals: list[FloatArray] = []

    def work(k: int, runner: PeriodRunner) -> Snapshot:
        run = runner.run(params, sweep.plan.options, record="codes")
        day = runner.inputs.timestamp_ns // NS_PER_DAY
        days.append(day)
        equity.append(np.array(run.equity, np.float64))
        exits.append(day[np.asarray(run.trades["exit_bar"], np.int64) - run.first_bar])
        nets.append(np.array(run.trades["net"], np.float64))
        notionals.append(np.array(run.trades["notional"], np.float64))
        return run.state

    sweep.period.walk(work)
    every, of_bar = np.unique(np.concatenate(days), return_inverse=True)
    return bootstrap.days_of_run(
        np.concatenate(equity),
        of_bar,
        params.initial_capital,
        exit_day=np.searchsorted(every, np.concatenate(exits)),
        net=np.concatenate(nets),
        notional=np.concatenate(notionals),
    )


def _interval(sweep: Sweep, best: int, seed: int, reps: int) -> dict[str, Any]:
    """`without_edge`, `interval` (of that result) and `interval_words`, where there is none or it is weak."""
    days = _days_of(sweep, sweep.params(best).with_values({"use_ob_edge": False}))
    return {"without_edge": bootstrap.headline(days)["roi"], **_interval_of(days, seed, reps)}


def _interval_of(days: bootstrap.Days, seed: int, reps: int) -> dict[str, Any]:
    try:
        # Under eleven days the block length cannot be chosen from the returns: its last lag has no pair.
        block = 1 if len(days) < 11 else None
        found = bootstrap.intervals(days, seed=seed, reps=reps, block_days=block)
    except UsageError as error:
        return {"interval": None, "interval_words": f"No interval of the best: {error}."}
    roi = found.figures["roi"]
    if roi.low is None or roi.high is None:
        return {"interval": None, "interval_words": f"No interval of the best: {roi.words}."}
    return {
        "interval": {"low": roi.low, "high": roi.high, "level": found.level, "block_days": found.block_days},
        "interval_words": f"{found.words[:1].upper()}{found.words[1:]}." if found.words else "",
    }


def _one(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")


# -- words ---------------------------------------------------------------------------------------------------


def _checks(found: dict[str, Any]) -> list[dict[str, Any]]:
    d, o, i, plain = (found[key] for key in ("deflated", "overfitting", "interval", "without_edge"))
    searched = ", found by a search with it" if found["with_edge"] else ""
    return [
        {
            "question": "Is the best more than the luckiest of as many without skill?",
            "rule": f"deflated Sharpe probability of {percent(DEFLATED_MIN, 0)} or more",
            "value": "too few days" if d is None else percent(d["probability"], 0),
            "passed": None
            if d is None or (d["probability"] >= DEFLATED_MIN and not d["own"])
            else d["probability"] >= DEFLATED_MIN,
        },
        {
            "question": "Does what is best on one half of the days stay good on the other?",
            "rule": f"among the worse settings there (PBO) in {percent(PBO_MAX, 0)} of the ways to halve or"
            f" less, losing in under {percent(LOSING_BELOW, 0)}",
            "value": "too few days"
            if o is None
            else f"worse {percent(o['pbo'], 0)}, losing {percent(o['loss'], 0)}",
            "passed": None if o is None else o["pbo"] <= PBO_MAX and o["loss"] < LOSING_BELOW,
        },
        {
            "question": "Would other days of the same kind have paid as well?",
            "rule": "95 % interval of the best's result above zero (blind to the choosing)",
            "value": "not stated"
            if i is None
            else f"{percent(i['low'], signed=True)} to {percent(i['high'], signed=True)}",
            "passed": None if i is None else i["low"] > 0.0,
        },
        {
            "question": "Does it earn without the imagined order-book edge?",
            "rule": "a result above zero, and found by a search without the edge",
            "value": "not run" if plain is None else f"{percent(plain, signed=True)}{searched}",
            # A search with the edge cannot be asked: PBO and the luck of its trials rest on the edge.
            "passed": None if plain is None else False if plain <= 0.0 else None if searched else True,
        },
        {
            "question": "Are there enough days and trades to judge by?",
            "rule": f"{DAYS_ENOUGH} days and {TRADES_MIN} trades of the best, or more",
            "value": f"{plural(found['n_days'], 'day')}, {plural(found['trades'], 'trade')}",
            "passed": found["n_days"] >= DAYS_ENOUGH and found["trades"] >= TRADES_MIN,
        },
    ]


def _answer(result: float, found: dict[str, Any]) -> str:
    plain = found["without_edge"]
    if not result > 0.0 or (plain is not None and not plain > 0.0):
        return "no"
    if found["n_days"] < SWEPT_MIN or found["trades"] < TRADES_MIN:
        return "too_short"
    return "yes" if all(check["passed"] is True for check in found["checks"]) else "not_shown"


def _headline(sweep: Sweep, found: dict[str, Any]) -> str:
    n, answer = plural(len(sweep.rows), "setting"), found["answer"]
    if answer == "no" and sweep.rows.columns["roi_marked"][found["best"]] > 0.0:
        return f"Without the imagined order-book edge even the best of {n} earned nothing."
    if answer == "not_shown" and [check["passed"] for check in found["checks"]] == [*[True] * 4, False]:
        days = plural(found["n_days"], "day")
        return f"The best of {n} looks good, but {days} are too few to call it more than luck."
    short = (
        plural(found["n_days"], "day") if found["n_days"] < SWEPT_MIN else plural(found["trades"], "trade")
    )
    also = " or the imagined order-book edge" if found["with_edge"] else " alone"
    return {
        "yes": f"The best of {n} is more than the luck of choosing explains.",
        "no": f"Even the best of {n} earned nothing.",
        "not_shown": f"The best of {n} looks good, but luck{also} may explain it.",
        "too_short": f"{short} cannot tell the best of {n} from a lucky one.",
    }[answer]


def _sentences(sweep: Sweep, found: dict[str, Any]) -> list[str]:
    columns, k = sweep.rows.columns, found["best"]
    word = OBJECTIVE_WORDS[sweep.plan.objective]
    edge = float(columns["ob_edge"][k])
    with_edge = (
        f", {money(edge)} USDT of it from the imagined order-book edge"
        if edge
        else " and without any order-book edge"
    )
    sharpe = float(columns["sharpe"][k])
    said = [
        f"The setting with the best {word} made {percent(float(columns['roi_marked'][k]), signed=True)} in"
        f" {plural(len(sweep.days), 'day')}"
        + (f" (Sharpe {_one(sharpe)} a year)" if math.isfinite(sharpe) else "")
        + f", after fees and slippage{with_edge}. The base set {sweep.plan.base} made"
        f" {percent(float(sweep.base.columns['roi_marked'][0]), signed=True)} on the same days."
    ]
    if found["with_edge"] and found["without_edge"] is not None:
        said.append(
            "Run again without the imagined edge, the same setting made"
            f" {percent(found['without_edge'], signed=True)}. It was found by a search with the edge, so the"
            " answer cannot be yes."
        )
    d, o, i = found["deflated"], found["overfitting"], found["interval"]
    if d is not None:
        before = d["n_trials"] - len(sweep.rows)
        others = f", {before:,} of them in other sweeps and studies," if before else ""
        said.append(
            f"{plural(d['n_trials'], 'trial')}{others} were run on these days. The luckiest of as many"
            f" without any skill is expected to show a Sharpe of {_one(d['benchmark'])}; the chance that the"
            f" best one's true Sharpe is above that is {percent(d['probability'], 0)}."
        )
        if not d["own"]:
            said.append(
                "Most of those trials were run elsewhere, and how far they spread is not known here: settings"
                " chosen near an earlier winner spread little and look lucky too seldom. This figure cannot"
                " carry a yes."
            )
    if o is not None:
        said.append(
            f"Chosen on one half of the days, the best setting had a Sharpe of {_one(o['sharpe_in'])} there"
            f" and of {_one(o['sharpe_out'])} on the other half (medians of"
            f" {plural(o['n_halvings'], 'way')} to halve them): the second figure is what to expect. In"
            f" {percent(o['pbo'], 0)} of the ways it fell into the worse half of all settings, in"
            f" {percent(o['loss'], 0)} it lost money."
        )
    if i is not None:
        said.append(
            f"Had other days of the same kind come, its result{' without that edge' if edge else ''} would"
            f" have been {percent(i['low'], signed=True)} to {percent(i['high'], signed=True)} in 95 of 100"
            " cases. That range does not know that it was chosen from many; the two sentences above do."
        )
    near = np.array(found["neighbours"], np.int64)
    if len(near):
        roi = columns["roi_marked"][near]
        said.append(
            f"Its {plural(len(near), 'nearest setting')} made {percent(float(np.median(roi)), signed=True)}"
            f" in the median, and {percent(float((roi > 0).mean()), 0)} of them earned money; of all settings"
            f" {percent(float((columns['roi_marked'] > 0.0).mean()), 0)} did."
        )
    return said


def _cautions(sweep: Sweep, found: dict[str, Any]) -> list[str]:
    columns = sweep.rows.columns
    said = [
        f"{plural(rule['count'], 'combination')} of the plan broke a rule and did not run: {rule['rule']}"
        f" (like: {rule['example']})."
        for rule in sweep.manifest.refused_by_rule
    ]
    if found["interval_words"]:
        said.append(found["interval_words"])
    if found["with_edge"]:
        said.append(
            "The figures hold an imagined order-book edge: a coin flip of the model, since no books are"
            " wired. Sweep again with without_ob_edge: true before you believe a ranking."
        )
    if found["n_days"] < DAYS_ENOUGH:
        said.append(
            f"{plural(found['n_days'], 'day')} are one season of one market: nothing here says how the best"
            f" setting fares in another. Under {DAYS_ENOUGH} days the answer is never yes."
        )
    if columns["open_position"][found["best"]]:
        booked = percent(float(columns["roi"][found["best"]]), signed=True)
        said.append(
            f"The best one ends with an open position, marked at the last price; booked are {booked}."
        )
    few = found["trades"]
    if few < TRADES_MIN:
        said.append(f"The best one closed {plural(few, 'trade')}: too few to mean much.")
    n_same = len(columns["set_hash"]) - len(np.unique(columns["set_hash"]))
    if n_same:
        said.append(f"{plural(n_same, 'binding')} repeat another one; each counts as a trial.")
    said += [f"{note[:1].upper()}{note[1:]}." for note in sweep.notes]
    said.append(
        "Simulated fills at scan prices. What was tried elsewhere, in single backtests, on paper or in the"
        " head, counts too, and no ledger knows it."
    )
    return said
