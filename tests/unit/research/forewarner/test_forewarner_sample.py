"""The sample: seeded, spread over every range in every group, and repaired by counted rules."""

from __future__ import annotations

import numpy as np
import pytest

from dolphin.domain.params import CHAMPION
from dolphin.research.forewarner.markets import N_GROUPS
from dolphin.research.forewarner.sample import REPAIRS, parameters, sample
from dolphin.research.forewarner.table import BOOL, ROWS, Row, widened

N_TRIALS, N_MARKETS = 512, 32
SHARED = ("acb_beta_high", "acb_beta_low", "acb_w750_threshold_pct")


def test_the_same_seed_gives_the_same_sample_and_another_does_not() -> None:
    first, again, other = (sample(ROWS, N_TRIALS, N_MARKETS, seed) for seed in (3, 3, 4))
    assert first == again
    assert first.configurations != other.configurations


def test_every_configuration_is_a_parameter_set() -> None:
    """Also from the widest ranges: `ParameterSet` refuses what makes no sense."""
    for rows in (ROWS, widened(5.0), widened(0.2)):
        for configuration in sample(rows, N_TRIALS, N_MARKETS, 1).configurations:
            params = parameters(configuration)
            assert params.direction == CHAMPION.direction
            assert params.fraction == configuration["fraction"]


@pytest.mark.parametrize("row", [row for row in ROWS if not row.of_market], ids=lambda row: row.name)
def test_every_group_of_trials_is_spread_over_every_range(row: Row) -> None:
    """A group that saw one half of a range only would calibrate or measure another question."""
    drawn = sample(ROWS, N_TRIALS, N_MARKETS, 1)
    values = np.array([float(configuration[row.name]) for configuration in drawn.configurations])
    for part in values.reshape(N_GROUPS, -1):
        if row.scale == BOOL:
            assert 0.15 <= float((part != row.base).mean()) <= 0.35
        elif row.name not in ("min_leverage", "vel_div_extreme"):  # the two that repairs move
            where = np.array([row.position(value) for value in part])
            counts = np.histogram(where, 4, (-1e-9, 1.0 + 1e-9))[0]
            assert counts.min() >= 0.6 * counts.mean()


def test_trials_of_a_market_share_its_breaker_and_markets_do_not() -> None:
    drawn = sample(ROWS, N_TRIALS, N_MARKETS, 1)
    triples = []
    seen: list[int] = []
    for market in range(N_MARKETS):
        own = drawn.of_market(market)
        seen += own
        found = {tuple(drawn.configurations[trial][name] for name in SHARED) for trial in own}
        assert len(found) == 1
        triples += found
    assert seen == list(range(N_TRIALS))
    assert len(set(triples)) == N_MARKETS
    assert [c["trial_id"] for c in drawn.configurations] == list(range(1, N_TRIALS + 1))


def test_repairs_are_counted_and_nothing_else_is_changed() -> None:
    drawn = sample(ROWS, N_TRIALS, N_MARKETS, 1)
    by_rule = dict.fromkeys(REPAIRS, 0)
    for configuration in drawn.configurations:
        if configuration["vel_div_extreme"] == 1.25 * configuration["vel_div_threshold"]:
            by_rule["extreme_inside_threshold"] += 1
        if configuration["min_leverage"] == configuration["max_leverage"]:
            by_rule["minimum_above_maximum"] += 1
        if configuration["min_leverage"] == configuration["abs_max_leverage"]:
            by_rule["minimum_above_absolute"] += 1
        assert configuration["acb_beta_low"] <= configuration["acb_beta_high"]
    by_rule["betas_crossed"] = drawn.repairs["betas_crossed"]
    assert drawn.repairs == by_rule
    assert drawn.repairs["extreme_inside_threshold"] > 0
    assert drawn.repairs["minimum_above_maximum"] > 0
    assert drawn.repairs["betas_crossed"] > 0
