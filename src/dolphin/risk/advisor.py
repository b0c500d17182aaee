"""The esoteric advisor: what closed trades say of the calendar and the sky of now (spec 05, section 5).

Entry points: `advise`, `Outcome`, `Advice`.

A category (weekday, moon, ...) sorts trades into buckets (Monday, full, ...). Its expectancy of the bucket of
now is an empirical-Bayes estimate in the normal-normal model: bucket means y_g vary around a common mean mu
with variance tau^2, each measured with variance v_g = s^2 / n_g, s being the spread of trades within buckets.

    tau^2   where sum((y_g - mu)^2 / (v_g + tau^2)) equals the upper decile of chi^2 with k - 1 degrees, or 0:
            the lower 90 % limit of Paule and Mandel's estimate (1982; Q-profile, Viechtbauer 2007), so that
            buckets which may differ by chance alone are taken for equal
    mu      mean of y_g with weights 1 / (v_g + tau^2), then itself shrunk towards 0, which holds without
            trades: times the positive part of 1 - var(mu) / mu^2 (James and Stein 1961)
    theta   mu + B_g (y_g - mu), B_g = tau^2 / (tau^2 + v_g), and the model's 95 % interval

A category's score is theta / s within [-1, 1]: the expectancy in standard deviations of a trade, Cohen's d.
The score is the mean of the categories' with the weights tau^2 / (tau^2 + mean v), the share of what buckets
differ by that is no chance: a category that means nothing does not dilute one that does. Where none does, all
weigh the same and say the same: the trades' own expectancy.

Invariants
----------
1. |score| <= 1; no trades, too few, or trades without spread give 0.
2. The order of the trades changes no bit (sums run in the order of size); results times a positive number
   change nothing but rounding, results with the other sign turn the score.
3. A bucket without trades has the common mean, not a guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from dolphin.domain.errors import DataError

#: Trades beyond the number of buckets from which a category's spread is known well enough to judge by.
FREEDOM_MIN: Final = 20
#: Half a two-sided 95 % interval of a normal distribution.
_Z95: Final = 1.959963984540054
_Z90_ONE_SIDED: Final = 1.2815515655446004
#: Halvings that leave less of an interval than a double can tell.
_HALVINGS: Final = 80
#: Less than this is no spread but rounding; a basis point squared is 1e-8.
_VARIANCE_MIN: Final = 1e-24
#: A net result beyond this many times the notional is no trade's.
NET_MAX: Final = 1e6


class Outcome(NamedTuple):
    """A closed trade: the buckets of the instant of its entry by category, and its net result by notional."""

    labels: Mapping[str, str]
    net: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One category of an advice.

    n are trades in the bucket, n_trades in all its buckets. expectancy, low and high (95 %) are net results
    by notional. score is in [-1, 1], weight in [0, 1] (those of an advice sum to 1), contribution their
    product. why says why a category was not judged, empty where it was.
    """

    category: str
    bucket: str
    n: int
    n_trades: int
    expectancy: float = 0.0
    low: float = 0.0
    high: float = 0.0
    score: float = 0.0
    weight: float = 0.0
    contribution: float = 0.0
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """A score in [-1, 1] and the parts that sum to it, in the order of the categories asked for."""

    score: float
    n_trades: int
    parts: tuple[Part, ...]


def advise(now: Mapping[str, str], outcomes: Sequence[Outcome]) -> Advice:
    """What the trades say of now.

    Parameters
    ----------
    now : mapping
        Bucket of each category at the instant that is judged.
    outcomes : sequence of Outcome
        Closed trades in any order. A trade that has no bucket of a category does not count there.

    Returns
    -------
    Advice
        0 without trades.

    Raises
    ------
    DataError
        If a net result is not within +-NET_MAX.
    """
    for outcome in outcomes:
        if not -NET_MAX <= outcome.net <= NET_MAX:
            raise DataError(
                f"a trade's net result by notional is {outcome.net!r}, expected within +-{NET_MAX:g}"
            )
    judged = [_judge(category, bucket, outcomes) for category, bucket in now.items()]
    total = _total(reliability for _, reliability in judged)
    n_known = len([part for part, _ in judged if not part.why])
    parts = []
    for part, reliability in judged:
        if part.why:
            weight = 0.0
        elif total > 0.0:
            weight = reliability / total
        else:
            weight = 1.0 / n_known
        parts.append(replace(part, weight=weight, contribution=weight * part.score))
    score = _total(part.contribution for part in parts)
    return Advice(score=min(1.0, max(-1.0, score)), n_trades=len(outcomes), parts=tuple(parts))


def _judge(category: str, bucket: str, outcomes: Sequence[Outcome]) -> tuple[Part, float]:
    """The category without its weight, and its reliability in [0, 1)."""
    nets: dict[str, list[float]] = {}
    for outcome in outcomes:
        label = outcome.labels.get(category)
        if label is not None:
            nets.setdefault(label, []).append(outcome.net)
    n = len(nets.get(bucket, ()))
    n_trades = len([outcome for outcome in outcomes if outcome.labels.get(category) is not None])
    freedom = n_trades - len(nets)

    def silent(why: str) -> tuple[Part, float]:
        return Part(category=category, bucket=bucket, n=n, n_trades=n_trades, why=why), 0.0

    if n_trades == 0:
        return silent("no trades")
    if freedom < FREEDOM_MIN:
        return silent(
            f"too few trades: {n_trades} in {len(nets)} buckets, {FREEDOM_MIN} more than buckets are needed"
        )
    labels = sorted(nets)
    means = {label: _total(sorted(nets[label])) / len(nets[label]) for label in labels}
    off = [x - means[label] for label in labels for x in sorted(nets[label])]
    spread2 = _total(x * x for x in off) / freedom
    y, v = [means[label] for label in labels], [spread2 / len(nets[label]) for label in labels]
    if min(v) < _VARIANCE_MIN:
        return silent("no spread: all trades of a bucket came to the same")
    tau2 = between(y, v)
    mean, mean_var = _weighted_mean(y, v, tau2)
    mu = mean * max(0.0, 1.0 - mean_var / (mean * mean)) if mean * mean > 0.0 else 0.0
    own = spread2 / n if n else math.inf
    b = tau2 / (tau2 + own)
    theta = mu + b * (means.get(bucket, mu) - mu)
    var = (b * own if n else tau2) + (1.0 - b) * (1.0 - b) * mean_var
    half = _Z95 * math.sqrt(var)
    part = Part(
        category=category, bucket=bucket, n=n, n_trades=n_trades, expectancy=theta, low=theta - half,
        high=theta + half, score=min(1.0, max(-1.0, theta / math.sqrt(spread2))),
    )  # fmt: skip
    return part, tau2 / (tau2 + _total(v) / len(v))


def between(y: Sequence[float], v: Sequence[float]) -> float:
    """The variance tau^2 >= 0 between groups, of means y (k,) with variances v (k,) > 0, that is no chance.

    The lower 90 % limit of Paule and Mandel's, see the module. By halving: what is solved falls strictly with
    tau^2, and the bits do not depend on where one starts.
    """
    if len(y) < 2:
        return 0.0
    wanted = chi2_upper_decile(len(y) - 1)

    def more(tau2: float) -> bool:
        mu, _ = _weighted_mean(y, v, tau2)
        return _total((yi - mu) * (yi - mu) / (vi + tau2) for yi, vi in zip(y, v, strict=True)) > wanted

    if not more(0.0):
        return 0.0
    # At this value the sum is 1 at most, less than any decile that is asked for.
    low, high = 0.0, _total((yi - y[0]) * (yi - y[0]) for yi in y)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if more(middle):
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def chi2_upper_decile(freedom: int) -> float:
    """What a chi-squared of freedom >= 1 degrees exceeds with 10 % (Wilson and Hilferty 1931, to 3 %)."""
    ninth = 2.0 / (9.0 * freedom)
    root = 1.0 - ninth + _Z90_ONE_SIDED * math.sqrt(ninth)
    return freedom * (root * root * root)


def _weighted_mean(y: Sequence[float], v: Sequence[float], tau2: float) -> tuple[float, float]:
    """Mean with weights 1 / (v + tau^2), and its variance."""
    weights = [1.0 / (vi + tau2) for vi in v]
    total = _total(weights)
    return _total(w * yi for w, yi in zip(weights, y, strict=True)) / total, 1.0 / total


def _total(values: Iterable[float]) -> float:
    """The sum in the order given: `sum` and `fsum` are not the same everywhere."""
    total = 0.0
    for value in values:
        total += value
    return total
