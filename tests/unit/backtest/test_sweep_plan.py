"""A sweep's plan: what it means, and every way in which it can be refused, each in one line."""

# A refusal stays whole on its line.
# ruff: noqa: E501

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dolphin.backtest.sweep.plan import Plan, plan_of, read_plan
from dolphin.domain.errors import ConfigError, StoreError
from dolphin.domain.params import GOLD

ROOT = Path(__file__).resolve().parents[3]


def read(text: str) -> Plan:
    return plan_of(yaml.safe_load(text), "plan.yml")


def values(text: str) -> tuple:
    (axis,) = read(f"parameters: {{{text}}}").axes
    return axis.values


def test_values_keep_the_type_of_their_parameter():
    assert values("max_hold_bars: [60, 120.0]") == (60, 120)
    assert [type(v) for v in values("max_hold_bars: [60, 120.0]")] == [int, int]
    assert [type(v) for v in values("max_leverage: [5, 6]")] == [float, float]
    assert values("use_direction_confirm: [true, false]") == (True, False)
    assert values("fixed_tp_pct: [1e-3]") == (0.001,)  # YAML reads it as text


def test_steps_are_decimal_and_end_at_the_last_that_fits():
    assert values("fixed_tp_pct: {low: 0.1, high: 0.7, step: 0.1}") == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert values("max_hold_bars: {low: 10, high: 35, step: 10}") == (10, 20, 30)


def test_the_base_set_takes_what_is_fixed_and_leaves_the_edge_out_when_asked():
    plan = read("{fixed: {max_leverage: 7}, without_ob_edge: true, parameters: {seed: [1, 2]}}")
    assert plan.base_set == GOLD.with_values({"max_leverage": 7.0, "use_ob_edge": False})
    assert read("parameters: {seed: [1, 2]}").base_set == GOLD


def test_a_digest_is_of_what_decides_rows_and_of_nothing_else():
    base = "design: sobol\nn: 8\nparameters: {fixed_tp_pct: {low: 0.002, high: 0.02}}\n"
    digest = read(base).digest()
    assert read(base + "objective: roi").digest() == digest
    for change in ("seed: 2", "base: champion", "first_day: 2026-01-05", "without_ob_edge: true",
                   "vol_threshold: 1e-3", "options: {fee_scale: 2}", "fixed: {stop_pct: 7}"):  # fmt: skip
        assert read(base + change).digest() != digest, change
    assert read(base.replace("n: 8", "n: 9")).digest() != digest
    assert read(base.replace("0.02}", "0.02, scale: log}")).digest() != digest


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "parameters is missing; a sweep needs one to move"),
        ("parameters: {}", "a sweep needs one to move"),
        ("parameters: [seed]", "a sweep needs one to move"),
        ("param: {}", "unknown key 'param'"),
        ("{base: glod, parameters: {seed: [1]}}", "Did you mean 'gold'?"),
        ("{design: sobel, parameters: {seed: [1]}}", "Did you mean 'sobol'?"),
        ("{objective: sharp, parameters: {seed: [1]}}", "Did you mean 'sharpe'?"),
        ("parameters: {max_hold_bar: [1]}", "there is no parameter 'max_hold_bar'. Did you mean 'max_hold_bars'?"),
        ("parameters: {fee_scale: [1, 2]}", "fee_scale is an option of the engine; put it under options"),
        ("parameters: {seed: 4}", "seed is 4, expected a list of values, or low and high"),
        ("parameters: {seed: []}", "values is [], expected a list that is not empty"),
        ("parameters: {seed: [1, 1]}", "the value 1 stands twice"),
        ("parameters: {max_hold_bars: [60.5]}", "max_hold_bars takes whole numbers, this is 60.5"),
        ("parameters: {max_hold_bars: [true]}", "max_hold_bars takes a whole number, this is True"),
        ("parameters: {use_sp_fees: [1]}", "use_sp_fees takes true or false, this is 1"),
        ("parameters: {fixed_tp_pct: [.nan]}", "fixed_tp_pct takes a number, this is nan"),
        ("parameters: {fixed_tp_pct: [much]}", "fixed_tp_pct takes a number, this is 'much'"),
        ("parameters: {fixed_tp_pct: {low: 0.01}}", "high is missing"),
        ("parameters: {fixed_tp_pct: {low: 0.02, high: 0.01, step: 0.001}}", "low 0.02 is above high 0.01; swap"),
        ("parameters: {fixed_tp_pct: {low: 0.02, high: 0.02, step: 1}}", "both 0.02, nothing moves"),
        ("parameters: {fixed_tp_pct: {low: 0.01, high: 0.02, step: 0}}", "step 0 gives no value but low"),
        ("parameters: {fixed_tp_pct: {low: 0.01, high: 0.02, step: -0.01}}", "step -0.01 gives no value"),
        ("parameters: {fixed_tp_pct: {low: 0.01, high: 0.02, step: 0.05}}", "step 0.05 gives no value"),
        ("parameters: {fixed_tp_pct: {low: 0.01, high: 0.02}}", "a grid needs a step"),
        ("parameters: {fixed_tp_pct: {low: 0.01, high: 0.02, stpe: 0.01}}", "Did you mean 'step'?"),
        ("parameters: {fixed_tp_pct: {low: 0.01, high: 0.02, step: 0.01, scale: log}}", "leave scale out"),
        ("parameters: {fixed_tp_pct: {values: [0.01], low: 0.01}}", "values and low stand together"),
        ("parameters: {use_sp_fees: {low: 0, high: 1}}", "true or false has no range"),
        ("{design: sobol, n: 4, parameters: {fixed_tp_pct: {low: 0.1, high: 0.2, scale: lag}}}", "'log'?"),
        ("{design: sobol, n: 4, parameters: {stop_pct: {low: -1, high: 1, scale: log}}}", "one side of 0"),
        # outside the parameter's own rule, whatever its partners are
        ("parameters: {fraction: [0.2, 1.5]}", "fraction is 1.5, expected 0.02 to 1; change its values"),
        ("{design: random, n: 4, parameters: {fraction: {low: 0.001, high: 0.5}}}", "0.02 to 1; change its range"),
        ("parameters: {max_hold_bars: [0]}", "max_hold_bars is 0, expected 1 or more"),
        ("parameters: {vel_div_threshold: [0.0]}", "vel_div_threshold"),
        ("parameters: {min_leverage: [0]}", "min_leverage"),
        ("parameters: {max_leverage: [-1]}", "leverage"),
        ("parameters: {direction: [0]}", "direction is 0, expected -1 (SHORT) or +1 (LONG)"),
        # linked parameters
        ("parameters: {vel_div_extreme: {ratio_of: vel_div_threshld, values: [2]}}", "'vel_div_threshold'?"),
        ("parameters: {vel_div_extreme: {ratio_of: vel_div_extreme, values: [2]}}", "expected another parameter"),
        ("parameters: {max_hold_bars: {ratio_of: fraction, values: [2]}}", "ratio_of links numbers"),
        ("parameters: {vel_div_extreme: {ratio_of: vel_div_threshold, values: [-2]}}", "a ratio of -2"),
        (
            "parameters: {stop_pct: {ratio_of: fixed_tp_pct, values: [2]},"
            " fixed_tp_pct: {ratio_of: fraction, values: [2]}}",
            "which is a ratio itself",
        ),
        # the design
        ("{n: 10, parameters: {seed: [1]}}", "n is for a random or a sobol design"),
        ("{seed: 10, parameters: {max_hold_bars: [1]}}", "seed is of a random or a sobol design"),
        ("{design: random, parameters: {seed: [1]}}", "n is missing"),
        ("{design: random, n: 0, parameters: {seed: [1]}}", "n is 0"),
        ("{design: random, n: 2.5, parameters: {seed: [1]}}", "n is 2.5"),
        ("parameters: {seed: {low: 0, high: 2000000, step: 1}}", "a grid of 2,000,001 bindings"),
        # the rest
        ("{fixed: {seed: 3}, parameters: {seed: [1]}}", "seed is fixed and swept"),
        ("{fixed: {sed: 3}, parameters: {seed: [1]}}", "there is no parameter 'sed'. Did you mean 'seed'?"),
        ("{fixed: {fraction: 3}, parameters: {seed: [1]}}", "fixed: parameter fraction is 3.0, expected 0.02 to 1"),
        ("{options: {fee_scal: 2}, parameters: {seed: [1]}}", "Did you mean 'fee_scale'?"),
        ("{options: {fee_scale: -1}, parameters: {seed: [1]}}", "fee_scale is -1.0, expected 0 to 100"),
        ("{options: {vd_enabled: 1}, parameters: {seed: [1]}}", "vd_enabled is 1, expected a bool"),
        ("{without_ob_edge: 1, parameters: {seed: [1]}}", "without_ob_edge is 1, expected true or false"),
        ("{without_ob_edge: true, parameters: {use_ob_edge: [true]}}", "leave use_ob_edge out"),
        ("{first_day: soon, parameters: {seed: [1]}}", "first_day is 'soon', expected a day as YYYY-MM-DD"),
        ("{first_day: 2026-01-06, last_day: 2026-01-05, parameters: {seed: [1]}}", "lies before first_day"),
        ("{vol_threshold: 0, parameters: {seed: [1]}}", "vol_threshold is 0, expected a number above 0"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_line(text, told):
    with pytest.raises(ConfigError) as error:
        read(text)
    assert told in str(error.value)
    assert str(error.value).startswith("plan.yml: ")
    assert "\n" not in str(error.value)


def test_a_value_that_some_partner_makes_right_is_let_through():
    """GOLD's extreme is -0.05; a threshold beyond it is right where the extreme moves too."""
    assert read("parameters: {vel_div_threshold: [-0.06], vel_div_extreme: [-0.1]}").size == 1
    assert read("parameters: {min_leverage: [20], max_leverage: [30], abs_max_leverage: [30]}").size == 1


def test_files(tmp_path):
    with pytest.raises(StoreError, match="cannot be read"):
        read_plan(tmp_path / "none.yml")
    path = tmp_path / "plan.yml"
    for text, told in (
        ("a: [", "is no YAML"),
        ("- a", "holds no plan"),
        ("seed: 1\nseed: 2", "seed stands there twice"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=told) as error:
            read_plan(path)
        assert "\n" not in str(error.value)


def test_the_examples_that_are_shown_are_plans(tmp_path):
    from dolphin.commands.sweep import _EPILOG

    assert read_plan(ROOT / "examples" / "sweep.yml").size == 10_240
    shown = _EPILOG.partition("PLAN.yml:\n")[2].partition("\n\n")[0]
    (tmp_path / "shown.yml").write_text(shown)
    assert read_plan(tmp_path / "shown.yml").size == 3 * 3 * 5 * 3 * 2
