"""Designs: their points against independent twins, and combinations that break a rule."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import yaml

from dolphin.backtest.sweep import design as dsg
from dolphin.backtest.sweep.plan import plan_of
from dolphin.domain.errors import ConfigError


def read(text: str):
    return plan_of(yaml.safe_load(text), "plan.yml")


def test_a_grid_is_the_product_with_the_last_parameter_fastest():
    plan = read(
        "parameters: {fixed_tp_pct: [0.01, 0.02], max_hold_bars: [3, 2, 1], use_sp_fees: [true, false]}"
    )
    twin = [list(map(float, p)) for p in itertools.product((0.01, 0.02), (3, 2, 1), (True, False))]
    assert dsg.points(plan).tolist() == twin


def test_sobol_is_the_sequence_of_scipy_up_to_the_shift():
    qmc = pytest.importorskip("scipy.stats.qmc", reason="the twin is scipy's, of the research extra")
    n, d = 1024, dsg.DIMENSIONS_MAX
    mine = (dsg.sobol(n, d, 5) * 2.0**52).astype(np.uint64)
    twin = (qmc.Sobol(d, scramble=False, bits=52).random(n) * 2.0**52).astype(np.uint64)
    shift = mine[0] ^ twin[0]
    assert (mine ^ shift == twin).all()
    assert len(set(shift.tolist())) == d


@pytest.mark.parametrize("seed", [0, 1, 77])
def test_sobol_has_one_point_in_every_cell(seed):
    """256 intervals of every dimension hold one of 256 points, so do 16 x 16 cells of the first two."""
    points = dsg.sobol(256, 8, seed)
    assert ((points >= 0.0) & (points < 1.0)).all()
    for k in range(8):
        assert sorted((points[:, k] * 256).astype(int)) == list(range(256))
    cells = (points[:, 0] * 16).astype(int) * 16 + (points[:, 1] * 16).astype(int)
    assert sorted(cells) == list(range(256))


@pytest.mark.parametrize("design", ["random", "sobol"])
def test_draws_keep_ranges_types_and_scales(design):
    plan = read(
        f"{{design: {design}, n: 4096, seed: 3, parameters: {{"
        "fixed_tp_pct: {low: 0.001, high: 0.1, scale: log},"
        " max_hold_bars: {low: 1, high: 4}, stop_pct: {low: 0.5, high: 2}, use_sp_fees: [true, false],"
        " vel_div_threshold: {low: -0.04, high: -0.01, scale: log},"
        " lookback: {low: 10, high: 1000, scale: log}}}"
    )
    tp, hold, stop, fees, threshold, lookback = dsg.points(plan).T
    for values, low, high in (
        (tp, 0.001, 0.1), (hold, 1, 4), (stop, 0.5, 2), (threshold, -0.04, -0.01), (lookback, 10, 1000)
    ):  # fmt: skip
        assert low <= values.min() < values.max() <= high
    assert np.median(tp) == pytest.approx(0.01, rel=0.15)  # the middle of the logarithms
    assert np.median(threshold) == pytest.approx(-0.02, rel=0.1)
    assert np.median(lookback) == pytest.approx(100, rel=0.15)
    assert np.median(stop) == pytest.approx(1.25, rel=0.05)
    assert sorted(set(hold)) == [1, 2, 3, 4]
    assert np.bincount(hold.astype(int))[1:].min() > 0.8 * 1024
    assert sorted(set(fees)) == [0.0, 1.0]
    assert all(float(f"{v:.10g}") == v for v in tp)


def test_a_seed_is_another_draw_and_the_same_seed_the_same():
    text = "{design: random, n: 16, seed: %d, parameters: {stop_pct: {low: 0.5, high: 2}}}"
    assert dsg.points(read(text % 1)).tolist() == dsg.points(read(text % 1)).tolist()
    assert dsg.points(read(text % 1)).tolist() != dsg.points(read(text % 2)).tolist()


def test_a_linked_parameter_follows_a_swept_one_and_a_fixed_one():
    plan = read(
        "parameters: {vel_div_extreme: {ratio_of: vel_div_threshold, values: [2, 3]},"
        " vel_div_threshold: [-0.01, -0.03]}"
    )
    sets = [dsg.binding(plan, plan.base_set, p) for p in dsg.points(plan)]
    assert [(s.vel_div_threshold, s.vel_div_extreme) for s in sets] == [
        (-0.01, -0.02), (-0.03, -0.06), (-0.01, -0.03), (-0.03, -0.09)
    ]  # fmt: skip
    alone = read("parameters: {vel_div_extreme: {ratio_of: vel_div_threshold, values: [3]}}")
    assert dsg.binding(alone, alone.base_set, dsg.points(alone)[0]).vel_div_extreme == -0.06


def test_combinations_that_break_a_rule_are_counted_and_listed():
    plan = read(
        "parameters: {vel_div_threshold: [-0.01, -0.03], vel_div_extreme: [-0.02, -0.04],"
        " min_leverage: [1, 9], max_leverage: [2, 10], abs_max_leverage: [12]}"
    )
    found = dsg.enumerated(plan)
    broken = {k for k, (t, e, lo, hi, _) in enumerate(dsg.points(plan).tolist()) if not e < t or not lo <= hi}
    assert {r.design_index for r in found.refused} == broken
    assert set(found.runs) | broken == set(range(16))
    assert not set(found.runs) & broken
    rules = {entry["rule"]: entry["count"] for entry in found.by_rule()}
    assert rules == {
        "vel_div_extreme: beyond vel_div_threshold": 4,
        "min_leverage: 0 < min_leverage <= max_leverage": 3,
    }


def test_a_plan_without_any_combination_that_keeps_the_rules_is_refused():
    with pytest.raises(ConfigError, match=r"none of 2 combinations .*link the two with ratio_of"):
        dsg.enumerated(read("parameters: {vel_div_threshold: [-0.06, -0.07]}"))
