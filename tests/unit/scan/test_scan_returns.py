"""Returns are correctly rounded, and a bar's prices are read by the rules."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_textbook import log_return

from dolphin.kernel import plain
from dolphin.scan import returns as ret
from dolphin.scan.returns import (
    FRESH,
    INVALID,
    MISSING,
    REBASED,
    REJECTED,
    bar_returns,
    correctly_rounded_log,
    log_ratios,
)

nan = math.nan


def fold(prices, base, run):
    prices, base, run = np.array(prices, float), np.array(base, float), np.array(run, np.int64)
    returns, what = np.full(len(prices), 9.0), np.full(len(prices), 9, np.int64)
    bar_returns(prices, base, run, returns, what)
    return returns.tolist(), what.tolist(), base.tolist(), run.tolist()


@given(st.floats(min_value=1e-6, max_value=1e6), st.floats(min_value=-0.9999, max_value=0.9999))
@settings(deadline=None)  # the first example may compile a kernel
def test_return_is_the_nearest_float64(base, move):
    price = base * math.exp(move)
    returns, what, _, _ = fold([price], [base], [0])
    assert what == [FRESH]
    assert returns == [log_return(price, base)]


@given(st.integers(min_value=-5000, max_value=5000))
@settings(deadline=None)  # the first example may compile a kernel
def test_the_hard_cases_next_to_one_are_decided(k):
    q = 1.0 + k * 2.0**-52
    returns, _, _, _ = fold([q], [1.0], [0])
    assert returns == [log_return(q, 1.0) if k else 0.0]


def test_rules_of_a_bar():
    returns, what, base, run = fold(
        [nan, 5.0, 30.0, 30.0, 0.0, -1.0, math.inf, 7.0, 10.0],
        [10.0, nan, 10.0, 10.0, 10.0, 10.0, 10.0, 7.0, 3.6787944117144233],
        [1, 0, 0, 2, 0, 0, 0, 2, 0],
    )
    assert what[:8] == [MISSING, FRESH, REJECTED, REBASED, INVALID, INVALID, INVALID, FRESH]
    assert returns[:8] == [0.0] * 8
    assert base[:8] == [10.0, 5.0, 10.0, 30.0, 10.0, 10.0, 10.0, 7.0]
    assert run[:8] == [1, 0, 1, 0, 0, 0, 0, 0]
    assert what[8] == (FRESH if log_return(10.0, 3.6787944117144233) < 1.0 else REJECTED)


@given(st.floats(min_value=1e-300, max_value=1e300), st.floats(min_value=1e-300, max_value=1e300))
@settings(deadline=None)  # the first example may compile a kernel
def test_rejected_exactly_when_the_log_reaches_one(price, base):
    _, what, _, _ = fold([price], [base], [0])
    assert (what == [FRESH]) == (abs(math.log(price) - math.log(base)) < 1.0 - 1e-9) or abs(
        abs(math.log(price) - math.log(base)) - 1.0
    ) < 1e-9


def test_at_the_very_edge_of_the_range():
    q = math.e
    for _ in range(4):
        for p in (q, 1.0 / q):
            returns, what, _, _ = fold([p], [1.0], [0])
            r = log_return(p, 1.0)
            assert what == [FRESH if abs(r) < 1.0 else REJECTED]
            assert returns == [r if abs(r) < 1.0 else 0.0]
        q = math.nextafter(q, 0.0)


def test_undecided_roundings_go_to_ball_arithmetic(monkeypatch):
    def undecided(prices, base, run, returns, what, table):
        returns[:] = nan
        what[:] = FRESH
        return len(prices)

    monkeypatch.setattr(ret, "log_ratios", undecided)
    assert fold([11.0, 30.0, 30.0], [10.0, 10.0, 10.0], [0, 1, 2]) == (
        [log_return(11.0, 10.0), 0.0, 0.0],
        [FRESH, REJECTED, REBASED],
        [11.0, 10.0, 30.0],
        [0, 2, 0],
    )
    assert correctly_rounded_log(1.0) == 0.0


def test_plain_form_gives_the_same_bits():
    rng = np.random.default_rng(2)
    n = 200
    base = rng.uniform(0.1, 100, n)
    prices = base * np.exp(rng.uniform(-1.1, 1.1, n) * 10.0 ** rng.uniform(-12, 0, n))
    prices[:3] = nan, 0.0, base[2]
    run = rng.integers(0, 3, n)
    out = []
    for form in (log_ratios, plain(log_ratios)):
        returns, what = np.zeros(n), np.zeros(n, np.int64)
        undecided = form(prices, base, run, returns, what, ret._TABLE)
        out.append((undecided, returns.view(np.int64).tolist(), what.tolist()))
    assert out[0] == out[1]


def test_kernel_leaves_an_undecided_rounding_open(monkeypatch):
    """A logarithm half-way between two float64 comes back as NaN and is counted, a decided one is not."""
    form = plain(log_ratios)
    logs = {1.5: (0.25, 2.0**-55), 1.25: (0.25, 2.0**-56)}
    monkeypatch.setitem(form.__globals__, "log_double_double", lambda q, table: logs[q])
    got, what = np.zeros(2), np.zeros(2, np.int64)
    assert form(np.array([1.5, 1.25]), np.ones(2), np.zeros(2, np.int64), got, what, np.zeros((1, 1))) == 1
    assert np.isnan(got[0])
    assert got[1] == 0.25
    assert what.tolist() == [FRESH, FRESH]
