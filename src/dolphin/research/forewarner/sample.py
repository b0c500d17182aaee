"""Configurations around the champion: a scrambled Sobol sequence over the table, repaired by stated rules.

Entry point: `sample`.

Invariants
----------
1. Equal seed, count and rows give equal configurations, bit for bit.
2. Trials and markets are taken from the sequence in consecutive runs. Every n-th point of a Sobol sequence
   lies in one part of the cube only; a run of a power of two covers all of it.
3. A combination that makes no sense is repaired by a rule of `REPAIRS`, and every repair is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dolphin.domain.bar import FloatArray
from dolphin.domain.params import CHAMPION, ParameterSet
from dolphin.research.extra import library
from dolphin.research.forewarner.table import Configuration, Row

#: What is done to a combination that makes no sense, by the name under which it is counted.
REPAIRS: Final[Mapping[str, str]] = {
    "extreme_inside_threshold": "vel_div_extreme not beyond vel_div_threshold: set to 1.25 times it",
    "minimum_above_maximum": "min_leverage above max_leverage: set to it",
    "minimum_above_absolute": "min_leverage above abs_max_leverage: set to it",
    "betas_crossed": "acb_beta_low above acb_beta_high: the two are exchanged",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """Configurations in the order of the sequence, the market of each, and how many repairs by rule."""

    configurations: tuple[Configuration, ...]
    market_of: tuple[int, ...]
    n_markets: int
    repairs: Mapping[str, int]

    def of_market(self, market: int) -> range:
        """The trials of one market: a run of the sequence."""
        first = self.market_of.index(market)
        return range(first, first + self.market_of.count(market))


def sample(rows: Sequence[Row], n_trials: int, n_markets: int, seed: int) -> Sample:
    """`n_trials` configurations, dealt to `n_markets` markets in consecutive runs.

    Rows that belong to the market are drawn once a market, by a sequence of their own. trial_id counts from
    1; 0 is the configuration that hosts ask about.

    Raises UsageError when the research extra is not installed.
    """
    own = [row for row in rows if not row.of_market]
    shared = [row for row in rows if row.of_market]
    units = _sobol(len(own), n_trials, [seed, 0])
    market_units = _sobol(len(shared), n_markets, [seed, 1])
    repairs: Counter[str] = Counter(dict.fromkeys(REPAIRS, 0))
    market_of = tuple(trial * n_markets // n_trials for trial in range(n_trials))
    market_values = [
        {row.name: row.value(float(u)) for row, u in zip(shared, point, strict=True)}
        for point in market_units
    ]
    for values in market_values:
        if values["acb_beta_low"] > values["acb_beta_high"]:
            values["acb_beta_low"], values["acb_beta_high"] = (
                values["acb_beta_high"],
                values["acb_beta_low"],
            )
            repairs["betas_crossed"] += 1
    configurations: list[Configuration] = []
    for trial in range(n_trials):
        values = {row.name: row.value(float(u)) for row, u in zip(own, units[trial], strict=True)}
        _repair(values, repairs)
        configurations.append({"trial_id": trial + 1, **values, **market_values[market_of[trial]]})
    return Sample(tuple(configurations), market_of, n_markets, dict(repairs))


def parameters(configuration: Configuration) -> ParameterSet:
    """The champion with the configuration's values; fields that no set has are left out."""
    known = CHAMPION.as_dict()
    return CHAMPION.with_values({name: value for name, value in configuration.items() if name in known})


def _repair(values: dict[str, Any], repairs: Counter[str]) -> None:
    if values["vel_div_extreme"] >= values["vel_div_threshold"]:
        values["vel_div_extreme"] = 1.25 * values["vel_div_threshold"]
        repairs["extreme_inside_threshold"] += 1
    if values["min_leverage"] > values["max_leverage"]:
        values["min_leverage"] = values["max_leverage"]
        repairs["minimum_above_maximum"] += 1
    if values["min_leverage"] > values["abs_max_leverage"]:
        values["min_leverage"] = values["abs_max_leverage"]
        repairs["minimum_above_absolute"] += 1


def _sobol(n_dimensions: int, n: int, seed: list[int]) -> FloatArray:
    """The first n points of a scrambled Sobol sequence, shape (n, n_dimensions), in [0, 1)."""
    import numpy as np

    qmc = library("scipy.stats.qmc")
    engine = qmc.Sobol(n_dimensions, scramble=True, rng=np.random.default_rng(seed))
    points: FloatArray = engine.random_base2(max(0, (n - 1).bit_length()))[:n]
    return points
