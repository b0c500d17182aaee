"""The volatility gate: exact at its threshold, rolling over 52 prices, open when it cannot know."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dolphin.alpha import volatility
from dolphin.alpha.volatility import (
    PRICES_KEPT,
    PRICES_MIN,
    VOL_THRESHOLD,
    VolatilityGate,
    gate_bars,
    gate_column,
)
from dolphin.domain.errors import ConfigError


def exact(prices: list[float], threshold: float) -> bool:
    """Population variance of the float64 returns against the threshold's square, in fractions."""
    kept = prices[-52:]
    if len(kept) < 50:
        return True
    returns = [Fraction((b - a) / a) for a, b in pairwise(kept)]
    mean = sum(returns) / len(returns)
    return sum((r - mean) ** 2 for r in returns) / len(returns) > Fraction(threshold) ** 2


def test_the_page_s_numbers() -> None:
    assert (VOL_THRESHOLD, PRICES_KEPT, PRICES_MIN) == (0.00026414, 52, 50)
    assert VolatilityGate().threshold == VOL_THRESHOLD


def test_the_gate_is_open_until_fifty_prices() -> None:
    gate = VolatilityGate()
    assert gate.is_open()
    assert gate.is_open_float()
    opened = [gate.update(100.0) for _ in range(60)]
    assert opened == [True] * 49 + [False] * 11
    assert len(gate.prices) == 52


@pytest.mark.parametrize("nothing", [None, math.nan, 0.0, -1.0])
def test_a_bar_without_a_price_leaves_the_gate_open_and_untouched(nothing: float | None) -> None:
    gate = VolatilityGate()
    for _ in range(52):
        gate.update(100.0)
    before = gate.prices
    assert gate.update(nothing) is True
    assert gate.prices == before
    assert gate.update(100.0) is False


def test_at_the_threshold_exactly_it_is_shut() -> None:
    """Returns of +2**-12 and -2**-12 in equal number: their deviation is the threshold to the last bit."""
    threshold = 2.0**-12
    gate = VolatilityGate(threshold)
    gate._returns.extend(int(Fraction(sign, 2**12) * 2**1100) for sign in [1, -1] * 25)
    gate._sum = 0
    gate._squares = sum(r * r for r in gate._returns)
    assert gate.is_open() is False
    gate.threshold, gate._threshold_scaled = math.nextafter(threshold, 0.0), gate._threshold_scaled - 1
    assert gate.is_open() is True


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(45, 140), st.sampled_from([1e-5, 2.6e-4, 3e-4, 1e-2]))
def test_the_rolling_answer_is_the_exact_one(seed: int, n: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    prices = np.round(50_000.0 * np.exp(np.cumsum(rng.normal(0.0, scale, n))), 2).tolist()
    gate = VolatilityGate()
    for i, price in enumerate(prices):
        assert gate.update(price) is exact(prices[: i + 1], VOL_THRESHOLD)
        assert gate.is_open_float() is gate.is_open()
    assert gate.prices == tuple(prices[-52:])


def test_the_float_path_agrees_on_both_sides() -> None:
    for size, is_open in ((1e-4, False), (5e-4, True)):
        gate = VolatilityGate()
        for i in range(60):
            gate.update(100.0 * (1.0 + size * (i % 2)))
        assert gate.is_open() is gate.is_open_float() is is_open


def test_another_gate_takes_over_and_goes_on_alike() -> None:
    rng = np.random.default_rng(7)
    prices = (100.0 * np.exp(np.cumsum(rng.normal(0.0, 2.64e-4, 200)))).tolist()
    first, second = VolatilityGate(), VolatilityGate()
    second.update(3.0)
    second.update(4.0)
    for price in prices[:120]:
        first.update(price)
    second.restore(first.prices)
    assert second.prices == first.prices
    for price in prices[120:]:
        assert first.update(price) is second.update(price)
    assert (first._sum, first._squares) == (second._sum, second._squares)


def test_a_shorter_past_leaves_nothing_of_the_gate_s_own() -> None:
    gate = VolatilityGate()
    for price in (3.0, 4.0, 5.0):
        gate.update(price)
    gate.restore((100.0, 101.0))
    assert gate.prices == (100.0, 101.0)
    assert list(gate._returns) == [int(Fraction((101.0 - 100.0) / 100.0) * 2**1100)]


def test_the_float_path_sees_one_last_bit() -> None:
    gate = VolatilityGate(1.5e-16)
    for i in range(52):
        gate.update(1.0 if i % 2 else math.nextafter(1.0, 2.0))
    assert gate.is_open()
    assert gate.is_open_float()


def test_the_float_path_is_strict_too() -> None:
    """The threshold is the float path's own deviation of these prices."""
    gate = VolatilityGate()
    prices = [100.0 * (1.0 + 5e-4 * (i % 3)) for i in range(52)]
    for price in prices:
        gate.update(price)
    returns = [(b - a) / a for a, b in pairwise(prices)]
    mean, squares = 0.0, 0.0
    for r in returns:
        mean = mean + r
    mean = mean / 51
    for r in returns:
        squares = squares + (r - mean) * (r - mean)
    gate.threshold = (squares / 51) ** 0.5
    assert gate.is_open_float() is False
    gate.threshold = math.nextafter(gate.threshold, 0.0)
    assert gate.is_open_float() is True


def test_a_price_below_one_is_a_price() -> None:
    gate = VolatilityGate()
    gate.update(0.5)
    assert gate.prices == (0.5,)


def test_the_sums_never_drift() -> None:
    gate = VolatilityGate()
    rng = np.random.default_rng(8)
    for price in (100.0 * np.exp(np.cumsum(rng.normal(0.0, 1e-3, 500)))).tolist():
        gate.update(price)
    assert gate._sum == sum(gate._returns)
    assert gate._squares == sum(r * r for r in gate._returns)
    assert len(gate._returns) == 51


@pytest.mark.parametrize("threshold", [0.0, -1e-9, math.nan])
def test_a_threshold_that_is_none_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="expected above 0"):
        VolatilityGate(threshold)


def bar_by_bar(prices: np.ndarray, threshold: float, before: tuple[float, ...] = ()) -> list[bool]:
    gate = VolatilityGate(threshold)
    gate.restore(before)
    return [gate.update(float(price)) for price in prices]


@pytest.mark.parametrize("seed", range(4))
def test_a_column_of_bars_is_the_gate_bar_by_bar(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prices = 50_000.0 * np.exp(np.cumsum(rng.normal(0.0, VOL_THRESHOLD * rng.choice([0.9, 1.0, 1.1], 900))))
    prices[rng.random(900) < 0.05] = math.nan
    verdict, kept = gate_bars(prices, 900)
    assert verdict.tolist() == bar_by_bar(prices, VOL_THRESHOLD)
    assert 0 < verdict.sum() < 900
    head, middle = gate_bars(prices[:400], 400)
    tail, end = gate_bars(prices[400:], 500, before=middle)
    assert [*head, *tail] == verdict.tolist()
    assert end == kept


@pytest.mark.parametrize("deviation", [1e-3, 3.0])
def test_a_threshold_in_the_last_bit_is_decided_by_integers(deviation: float) -> None:
    """The threshold that stands exactly at, or one bit below, a window's deviation."""
    rng = np.random.default_rng(3)
    prices = 100.0 * np.exp(np.cumsum(rng.normal(0.0, deviation, 60)))
    gate = VolatilityGate()
    for price in prices.tolist():
        gate.update(price)
    n, s1, s2 = 51, gate._sum, gate._squares
    exact = Fraction(n * s2 - s1 * s1, (n << 1100) ** 2)
    near = math.sqrt(float(exact))
    for threshold in (math.nextafter(near, 0.0), near, math.nextafter(near, 1.0)):
        doubt = np.zeros(60, np.bool_)
        gate_column(prices, 0, threshold, np.zeros(60, np.bool_), doubt)
        assert doubt[-1], threshold
        expected = exact > Fraction(threshold) ** 2
        assert gate_bars(prices, 60, threshold)[0][-1] == expected
        assert bar_by_bar(prices, threshold)[-1] == expected


def test_without_bitcoin_the_gate_is_open_and_remembers_nothing() -> None:
    verdict, kept = gate_bars(None, 3, before=(1.0, 2.0))
    assert verdict.tolist() == [True] * 3
    assert kept == (1.0, 2.0)


def test_an_ordinary_column_leaves_no_doubt() -> None:
    """The integers are asked where float64 cannot tell, and only there."""
    rng = np.random.default_rng(12)
    prices = 0.4 * np.exp(np.cumsum(rng.normal(0.0, VOL_THRESHOLD, 600)))
    verdict, doubt = np.zeros(600, np.bool_), np.ones(600, np.bool_)
    gate_column(prices, 0, VOL_THRESHOLD, verdict, doubt)
    assert not doubt.any()
    assert verdict[:49].all()
    assert verdict.tolist() == bar_by_bar(prices, VOL_THRESHOLD)
    assert 100 < verdict.sum() < 550


def test_a_price_of_nothing_is_none_in_a_column_too() -> None:
    rng = np.random.default_rng(13)
    prices = 0.4 * np.exp(np.cumsum(rng.normal(0.0, VOL_THRESHOLD, 300)))
    prices[[3, 60, 61, 200]] = 0.0
    verdict, kept = gate_bars(prices, 300)
    assert verdict.tolist() == bar_by_bar(prices, VOL_THRESHOLD)
    assert len(kept) == PRICES_KEPT
    assert 0.0 not in kept


def test_a_few_bars_go_on_from_a_full_gate() -> None:
    rng = np.random.default_rng(14)
    prices = 0.4 * np.exp(np.cumsum(rng.normal(0.0, VOL_THRESHOLD, 55)))
    before = tuple(prices[:52].tolist())
    assert gate_bars(prices[52:], 3, before=before)[0].tolist() == bar_by_bar(
        prices[52:], VOL_THRESHOLD, before
    )


def test_bars_in_doubt_are_decided_by_the_gate_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A float path that knows nothing, and says so, changes nothing."""
    rng = np.random.default_rng(15)
    prices = 0.4 * np.exp(np.cumsum(rng.normal(0.0, VOL_THRESHOLD, 400)))
    prices[:70] = 0.4 + 1e-6 * (np.arange(70) % 2)  # quiet, so that the first full windows are shut
    prices[70:][rng.random(330) < 0.05] = math.nan
    prices[7] = 0.0
    expected = bar_by_bar(prices, VOL_THRESHOLD)
    assert expected[:55] == [True] * 50 + [False] * 5

    def ignorant(column: object, kept: int, threshold: float, verdict: np.ndarray, doubt: np.ndarray) -> None:
        known = np.asarray(column)[kept:] > 0.0
        verdict[:] = ~known
        doubt[:] = known

    monkeypatch.setattr(volatility, "gate_column", ignorant)
    assert gate_bars(prices, 400)[0].tolist() == expected
    first, middle = gate_bars(prices[:150], 150)
    rest, _ = gate_bars(prices[150:], 250, before=middle)
    assert [*first, *rest] == expected
