"""Training: trials on drawn markets, rounds until catastrophes are neither rare nor common, two models.

Entry point: `train`.

Invariants
----------
1. Markets of different groups share no recorded day. Each teaching group calibrates what the others taught.
   The last group is held out: it is run once, after the ranges were chosen on the teaching groups alone, and
   gives the held-out figures. It decides one number, the envelope's scale, which its good trials set (spec
   05, section 3); the figures that feel that scale are therefore no held-out ones in full, and
   `SCALED_ON_HELD_OUT` names them. Too few catastrophes in it refuse the training and change nothing.
2. The same record, settings and library versions give the same metrics and the same models' answers. No clock
   is read; libraries run on one thread.
3. What cannot be trained honestly is refused in one line.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np

from dolphin import __version__
from dolphin.alpha.volatility import VOL_THRESHOLD
from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.codes import MC_OK, MC_RED
from dolphin.domain.errors import DataError, UsageError, plural
from dolphin.domain.symbols import STABLECOINS
from dolphin.research.extra import library
from dolphin.research.forewarner.markets import N_GROUPS, Breaker, Record, bootstrap
from dolphin.research.forewarner.sample import REPAIRS, Sample, parameters, sample
from dolphin.research.forewarner.table import (
    RISKIER_UP,
    ROWS,
    Row,
    as_record,
    coordinates,
    features,
    widened,
)
from dolphin.research.forewarner.trials import (
    DRAWDOWN_MAX,
    ROI_MIN,
    Outcomes,
    Trials,
    catastrophic,
    good,
    period_trials,
)
from dolphin.risk.forewarner import forewarner_gate

#: Share of catastrophes outside which the ranges are changed.
RATE_MIN: Final = 0.05
RATE_MAX: Final = 0.30
#: By how much: the upper ends of size this many times as far above the champion, or its inverse; between two
#: tries that missed on either side the geometric mean.
WIDEN: Final = 1.4
ROUNDS_MAX: Final = 6
#: Catastrophes that every group of days must have; with fewer neither model nor measure means anything.
CATASTROPHES_MIN: Final = 5
TRIALS_PER_MARKET: Final = 16
TRIALS_MIN: Final = N_GROUPS * TRIALS_PER_MARKET
#: Share of the teaching good trials that the envelope may leave outside.
ENVELOPE_NU: Final = 0.10
ENVELOPE_QUANTILE: Final = 0.01
#: Figures of the held-out trials that depend on the envelope's scale, which the good ones of them set: a
#: score below -1 is RED. What is OK, or inside the envelope, depends on the sign of the score alone.
SCALED_ON_HELD_OUT: Final = ("gates_held_out.ORANGE", "gates_held_out.RED", "catastrophes_at_gate_red")

#: Small trees: with larger ones another seed gives another answer, and none is better.
BOOSTING: Final = {
    "max_iter": 100,
    "learning_rate": 0.05,
    "max_leaf_nodes": 4,
    "l2_regularization": 10.0,
    "early_stopping": False,
}


#: Of the teaching trials, how large a share a leaf must hold, and how many trials at least.
LEAF_SHARE: Final = 0.0125
LEAF_MIN: Final = 10


class TrainingRefusedError(DataError):
    """Nothing honest can be trained from these data with these settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """How much to try: trials, the days of each, and the seed of everything that is drawn."""

    n_trials: int = 8192
    days_per_trial: int = 28
    seed: int = 1
    vol_threshold: float = VOL_THRESHOLD

    def __post_init__(self) -> None:
        if self.n_trials < TRIALS_MIN:
            raise UsageError(f"trials is {self.n_trials}, expected {TRIALS_MIN} or more")
        if self.days_per_trial < 1:
            raise UsageError(f"days_per_trial is {self.days_per_trial}, expected 1 or more")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed is {self.seed}, expected 0 to 2**32 - 1")

    @property
    def n_markets(self) -> int:
        """Drawn markets, as many for every group."""
        return max(1, self.n_trials // (TRIALS_PER_MARKET * N_GROUPS)) * N_GROUPS


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the training is; done, total and catastrophes count the trials of the round.

    round counts from 1 while the ranges are chosen on the teaching trials; 0 is the run of the held-out ones.
    """

    round: int
    done: int
    total: int
    catastrophes: int


@dataclass(frozen=True, slots=True)
class Trained:
    """The two fitted models, and everything that an artefact records of them."""

    models: dict[str, Any]
    manifest: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Round:
    """One sample with the outcomes of its teaching trials or of all, in the order of the trials."""

    rows: tuple[Row, ...]
    drawn: Sample
    outcomes: Outcomes

    @property
    def group(self) -> IntArray:
        """The group of each trial that has an outcome."""
        market = np.array(self.drawn.market_of[: len(self.outcomes.roi)], dtype=np.int64)
        return market * N_GROUPS // self.drawn.n_markets


def train(
    record: Record,
    settings: TrainSettings,
    trials: Trials | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Trained:
    """Sample, run, label and fit.

    trials runs the configurations, the compiled period engine where none is given; stop_requested is asked
    after every market.

    Raises DataError for too few days, TrainingRefusedError when the teaching trials' share of catastrophes
    cannot be brought into [0.05, 0.30] with some in every group of days, or the held-out days have too few to
    measure by; UsageError when the research extra is missing;
    KeyboardInterrupt when asked to stop.
    """
    for name in ("sklearn", "skops", "scipy"):
        library(name)
    groups = record.groups()
    run = trials or period_trials(settings.vol_threshold)
    run_markets = partial(_run_markets, record, groups, settings, run, on_progress, stop_requested)
    rounds: list[dict[str, Any]] = []
    factor, too_rare, too_common = 1.0, 0.0, 0.0
    while True:
        rows = widened(factor)
        drawn = sample(rows, settings.n_trials, settings.n_markets, settings.seed)
        n_teaching = drawn.n_markets * (N_GROUPS - 1) // N_GROUPS
        taught = run_markets(drawn, range(n_teaching), len(rounds) + 1)
        found = _Round(rows, drawn, taught)
        bad = catastrophic(taught)
        rate = float(bad.mean())
        least = min(int(bad[found.group == group].sum()) for group in range(N_GROUPS - 1))
        rare = rate < RATE_MIN or (rate <= RATE_MAX and least < CATASTROPHES_MIN)
        rounds.append(
            {
                "factor": factor,
                "trials": len(bad),
                "catastrophes": int(bad.sum()),
                "rate": rate,
                "least_in_a_group": least,
                "without_trades": int((taught.trades == 0).sum()),
            }
        )
        if not rare and rate <= RATE_MAX:
            break
        if len(rounds) == ROUNDS_MAX:
            told = ", ".join(f"{r['rate']:.1%} at x{r['factor']:.2f}" for r in rounds)
            raise TrainingRefusedError(
                f"{record.source}: catastrophes in {told}; expected {RATE_MIN:.0%} to {RATE_MAX:.0%} of the"
                f" teaching trials and {CATASTROPHES_MIN} in each group of days; at last the fewest were"
                f" {least:,}, and {rounds[-1]['without_trades']:,} of {len(bad):,} trials made no trade;"
                " give more --trials, other --days-per-trial or another recording"
            )
        if rare:
            too_rare = factor
        else:
            too_common = factor
        if too_rare and too_common:
            factor = float(np.sqrt(too_rare * too_common))
        else:
            factor = factor * WIDEN if rare else factor / WIDEN
    held = run_markets(drawn, range(n_teaching, drawn.n_markets), 0)
    caught = int(catastrophic(held).sum())
    if caught < CATASTROPHES_MIN:
        raise TrainingRefusedError(
            f"{record.source}: {plural(caught, 'catastrophe')} in {plural(len(held.roi), 'held-out trial')},"
            f" expected {CATASTROPHES_MIN} to measure by; give more --trials, other --days-per-trial"
            " or another recording"
        )
    return _fit(record, groups, settings, _Round(rows, drawn, _joined([taught, held])), rounds)


def _run_markets(
    record: Record,
    groups: list[list[tuple[int, ...]]],
    settings: TrainSettings,
    run: Trials,
    on_progress: Callable[[Progress], None] | None,
    stop_requested: Callable[[], bool],
    drawn: Sample,
    markets: range,
    number: int,
) -> Outcomes:
    """The outcomes of all trials on consecutive markets; number is told with the progress."""
    parts: list[Outcomes] = []
    done = caught = 0
    total = sum(len(drawn.of_market(market)) for market in markets)
    for market in markets:
        own = [drawn.configurations[trial] for trial in drawn.of_market(market)]
        breaker = Breaker(
            float(own[0]["acb_beta_high"]),
            float(own[0]["acb_beta_low"]),
            float(own[0]["acb_w750_threshold_pct"]),
        )
        prices = bootstrap(
            record,
            groups[market * N_GROUPS // drawn.n_markets],
            settings.days_per_trial,
            [settings.seed, 2, market],
            breaker,
        )
        outcomes = run(prices, [parameters(configuration) for configuration in own])
        parts.append(outcomes)
        done += len(own)
        caught += int(catastrophic(outcomes).sum())
        if on_progress is not None:
            on_progress(Progress(number, done, total, caught))
        if stop_requested():
            raise KeyboardInterrupt
    return _joined(parts)


def _joined(parts: Sequence[Outcomes]) -> Outcomes:
    return Outcomes(
        np.concatenate([part.roi for part in parts]),
        np.concatenate([part.max_drawdown for part in parts]),
        np.concatenate([part.trades for part in parts]),
    )


def _fit(
    record: Record,
    groups: list[list[tuple[int, ...]]],
    settings: TrainSettings,
    found: _Round,
    rounds: list[dict[str, Any]],
) -> Trained:
    x = np.array([coordinates(configuration, found.rows) for configuration in found.drawn.configurations])
    bad = catastrophic(found.outcomes)
    fine = good(found.outcomes, np.array(found.drawn.market_of, dtype=np.int64))
    held = found.group == N_GROUPS - 1
    limits = library("threadpoolctl").threadpool_limits
    with limits(limits=1):
        classifier = _classifier(x[~held], bad[~held], found.group[~held])
        envelope, scale = _envelope(record, x, fine, held)
        probability = classifier.predict_proba(x)[:, 1]
        score = envelope.decision_function(x[:, :-1]) / scale
    models = {"classifier": classifier, "envelope": envelope}
    days = [[record.days[index].date for block in group for index in block] for group in groups]
    manifest = {
        "data_hash": record.data_hash,
        "source": record.source,
        "universe": list(record.symbols),
        "days": {"teaching": days[:-1], "held_out": days[-1], "left_out": list(record.left_out)},
        "block_days": record.block_days,
        "days_per_trial": settings.days_per_trial,
        "trials": settings.n_trials,
        "markets": found.drawn.n_markets,
        "seed": settings.seed,
        "vol_threshold": settings.vol_threshold,
        "catastrophe": {"max_drawdown_above": DRAWDOWN_MAX, "roi_below": ROI_MIN},
        "rounds": rounds,
        "table": as_record(ROWS),
        "ranges": as_record(found.rows),
        "features": list(features()),
        "could_not_act": _idle(record.symbols),
        "repairs": {
            name: {"rule": rule, "count": found.drawn.repairs[name]} for name, rule in REPAIRS.items()
        },
        "envelope_scale": scale,
        "envelope_nu": ENVELOPE_NU,
        "classifier": boosting(int((~held).sum())),
        "metrics": {
            **_metrics(bad, fine, held, probability, score, found.outcomes),
            "scaled_on_held_out": list(SCALED_ON_HELD_OUT),
            "rate_by_group": [float(bad[found.group == group].mean()) for group in range(N_GROUPS)],
        },
        "versions": versions(),
    }
    return Trained(models, manifest)


def boosting(n_teaching: int) -> dict[str, Any]:
    """The trees' settings for so many teaching trials."""
    return {**BOOSTING, "min_samples_leaf": max(LEAF_MIN, int(LEAF_SHARE * n_teaching))}


def _classifier(x: FloatArray, bad: BoolArray, group: IntArray) -> Any:
    """Boosted trees, calibrated on the group that each fold was not taught."""
    ensemble = library("sklearn.ensemble")
    calibration = library("sklearn.calibration")
    names = features()
    monotonic = [1 if name in RISKIER_UP else 0 for name in names]
    trees = ensemble.HistGradientBoostingClassifier(
        **boosting(len(x)), monotonic_cst=monotonic, random_state=0
    )
    folds = [(np.flatnonzero(group != k), np.flatnonzero(group == k)) for k in range(N_GROUPS - 1)]
    model = calibration.CalibratedClassifierCV(trees, method="isotonic", cv=folds, ensemble=True)
    model.fit(x, bad.astype(np.int64))
    model.cv = None  # the folds' indices have no part in an answer
    return model


def _envelope(record: Record, x: FloatArray, fine: BoolArray, held: BoolArray) -> tuple[Any, float]:
    """The one-class model of the teaching good half, and what its decision is divided by."""
    svm = library("sklearn.svm")
    model = svm.OneClassSVM(kernel="rbf", nu=ENVELOPE_NU, gamma="scale")
    model.fit(x[~held & fine][:, :-1])
    judged = x[held & fine][:, :-1]
    low = float(np.quantile(model.decision_function(judged), ENVELOPE_QUANTILE)) if len(judged) else 0.0
    if not low < 0.0:
        raise TrainingRefusedError(
            f"{record.source}: no held-out good trial lies outside the envelope, so it has no scale; give"
            " more --trials"
        )
    return model, -low


def _metrics(
    bad: BoolArray,
    fine: BoolArray,
    held: BoolArray,
    probability: FloatArray,
    score: FloatArray,
    outcomes: Outcomes,
) -> dict[str, Any]:
    metrics = library("sklearn.metrics")
    truth, said = bad[held], probability[held]
    taught_rate = float(bad[~held].mean())
    gates = np.array([forewarner_gate(float(p), float(s)) for p, s in zip(said, score[held], strict=True)])
    return {
        "trials_teaching": int((~held).sum()),
        "trials_held_out": int(held.sum()),
        "catastrophes_teaching": int(bad[~held].sum()),
        "catastrophes_held_out": int(truth.sum()),
        "base_rate_teaching": taught_rate,
        "base_rate_held_out": float(truth.mean()),
        "good_teaching": int((fine & ~held).sum()),
        "good_held_out": int((fine & held).sum()),
        "good_inside_held_out": float((score[fine & held] > 0.0).mean()),
        "auc_held_out": float(metrics.roc_auc_score(truth, said)),
        "brier_held_out": float(metrics.brier_score_loss(truth, said)),
        "brier_of_the_teaching_rate": float(np.mean((truth - taught_rate) ** 2)),
        "mean_probability_held_out": float(said.mean()),
        "gates_held_out": {
            "OK": int((gates == MC_OK).sum()),
            "ORANGE": int(((gates != MC_OK) & (gates != MC_RED)).sum()),
            "RED": int((gates == MC_RED).sum()),
        },
        "catastrophes_at_gate_ok": int(truth[gates == MC_OK].sum()),
        "catastrophes_at_gate_red": int(truth[gates == MC_RED].sum()),
        "roi_median": float(np.median(outcomes.roi)),
        "max_drawdown_median": float(np.median(outcomes.max_drawdown)),
        "trades_median": float(np.median(outcomes.trades)),
    }


def _idle(symbols: tuple[str, ...]) -> dict[str, str]:
    """Parameters of the configuration that no trial could feel, with the reason."""
    found = {row.name: row.idle for row in ROWS if row.idle}
    if not set(symbols) & STABLECOINS:
        found["exclude_stablecoins"] = "the universe has no stablecoin to leave out"
    return found


def versions() -> dict[str, str]:
    """What the answers may depend on."""
    return {
        "dolphin": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        **{
            name: str(library(module).__version__)
            for name, module in (("scipy", "scipy"), ("scikit-learn", "sklearn"), ("skops", "skops"))
        },
    }
