"""The synthetic market's factors: determinism, the breaker's rules, every organ heard on some days."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from dolphin.backtest.period import PeriodRunner
from dolphin.domain import codes
from dolphin.domain.clock import day_start_ns
from dolphin.domain.errors import DataError, UsageError
from dolphin.domain.params import GOLD
from dolphin.engine.market import PeriodInputs
from dolphin.kernel import MODE
from dolphin.market.quick_market import quick_market
from dolphin.market.synthetic_books import synthetic_books
from dolphin.market.synthetic_factors import FactorBars, FactorRecords, synthetic_factors

compiled = pytest.mark.skipif(MODE == "plain", reason="whole days take minutes without the compiler")
DAY_MINUTES = 1440
#: Breaker updates that close an open position.
HIGH, LOW = 1.25, 1.10


def minutes(
    days: float, seed: int = 0, start: str = "2026-01-05"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stamps, prices and v750 of a market of minute bars; the factors know no other."""
    rng = np.random.default_rng(seed)
    n = round(days * DAY_MINUTES)
    stamps = day_start_ns(start) + 60_000_000_000 * np.arange(n, dtype=np.int64)
    prices = 100.0 * np.exp(np.cumsum(rng.standard_normal((n, 4)) * 1e-3, axis=0))
    return stamps, prices, rng.standard_normal(n) * 0.01


def settled(market: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[int]:
    """The bar of each day's eleventh minute."""
    return list(range(10, len(market[0]), DAY_MINUTES))


def equal(a: tuple[FactorBars, FactorRecords], b: tuple[FactorBars, FactorRecords], n: int) -> None:
    for mine, other in zip(a[0], b[0], strict=True):
        np.testing.assert_array_equal(mine[:n], other[:n])
    k = int((a[1].bar < n).sum())
    for mine, other in zip(a[1], b[1], strict=True):
        np.testing.assert_array_equal(mine[:k], other[:k])


def weight(value: float, strong: float, weak: float) -> float:
    return 1.0 if value < strong else 0.5 if value < weak else 0.0


def expected_boost(rows: list[tuple[float, float, float, float]]) -> float:
    """Spec 05, section 1, written out again."""
    medians = []
    for column in zip(*rows, strict=True):
        there = [x for x in column if not math.isnan(x)]
        medians.append(statistics.median(there) if there else math.nan)
    funding, dvol, fng, taker = medians
    others = weight(funding, -0.0001, 0.0) + weight(-dvol, -80.0, -55.0) + weight(taker, 0.80, 0.90)
    signals = others + (weight(fng, 25.0, 40.0) if others else 0.0)
    return 1.0 + 0.5 * math.log1p(signals) if signals >= 1.0 else 1.0


def test_the_same_seed_gives_the_same_factors_and_another_seed_others():
    market = minutes(2.0)
    a = synthetic_factors(3, *market)
    equal(a, synthetic_factors(3, *market), len(market[0]))
    assert (a[1].dvol_btc != synthetic_factors(4, *market)[1].dvol_btc).any()


@pytest.mark.parametrize("seed", [0, 5])
def test_a_prefix_has_the_same_factors_and_nothing_looks_ahead(seed):
    stamps, prices, v750 = minutes(3.0, seed)
    books = np.random.default_rng(1).normal(-0.05, 0.1, prices.shape)
    whole = synthetic_factors(seed, stamps, prices, v750, books)
    for n in (1, 9, 700, DAY_MINUTES, DAY_MINUTES + 5, 2 * DAY_MINUTES + 333):
        part = synthetic_factors(seed, stamps[:n], prices[:n], v750[:n], books[:n])
        assert len(part[0].boost) == n
        equal(part, whole, n)


@pytest.mark.parametrize("seed", range(6))
def test_the_breaker_follows_its_rule(seed):
    market = minutes(6.0, seed)
    bars, records = synthetic_factors(seed, *market)
    rows = list(zip(*(column.tolist() for column in records[1:]), strict=True))
    v750 = market[2]
    for bar in settled(market):
        first = bar - 10
        assert bars.boost[bar] == pytest.approx(expected_boost(rows[first : first + 10]))
        assert bars.boost[first + 3] == pytest.approx(expected_boost(rows[first : first + 4]))
        known = v750[:first] if first else v750[:10]
        threshold = np.percentile(known, 60.0)
        assert bars.beta[bar] == (0.8 if np.median(v750[first : first + 10]) >= threshold else 0.2)


def test_the_stress_of_the_books_raises_beta():
    stamps, prices, v750 = minutes(1.0)
    calm = synthetic_factors(0, stamps, prices, v750, np.zeros((len(stamps), 4)))[0].beta
    half = np.tile([-0.2, -0.2, 0.0, 0.0], (len(stamps), 1))
    np.testing.assert_allclose(synthetic_factors(0, stamps, prices, v750, half)[0].beta, calm * 1.125)
    np.testing.assert_array_equal(synthetic_factors(0, stamps, prices, v750)[0].beta, calm)


def test_factors_move_with_the_market():
    stamps, prices, v750 = minutes(2.0)
    fall = prices * np.linspace(1.0, 0.7, len(prices))[:, None]
    usual, fallen = synthetic_factors(1, stamps, prices, v750)[1], synthetic_factors(1, stamps, fall, v750)[1]
    assert np.nanmean(fallen.funding_btc) < np.nanmean(usual.funding_btc)
    assert np.nanmean(fallen.fng) < np.nanmean(usual.fng)
    assert np.nanmean(fallen.taker) < np.nanmean(usual.taker)
    wild = prices.copy()
    wild[2000:] *= np.exp(np.cumsum(np.random.default_rng(3).standard_normal((880, 1)) * 5e-3, axis=0))
    assert np.nanmean(synthetic_factors(1, stamps, wild, v750)[1].dvol_btc[2200:]) > (
        np.nanmean(usual.dvol_btc[2200:]) + 5.0
    )


def test_records_are_minutes_and_values_are_possible():
    stamps = day_start_ns("2026-01-05") + 5_000_000_000 * np.arange(5_000, dtype=np.int64)
    rng = np.random.default_rng(0)
    _, records = synthetic_factors(2, stamps, np.full((5_000, 2), 10.0), rng.standard_normal(5_000))
    np.testing.assert_array_equal(records.bar, np.arange(0, 5_000, 12))
    _, records = synthetic_factors(2, *minutes(20.0))
    assert np.nanmin(records.fng) >= 0.0
    assert np.nanmax(records.fng) <= 100.0
    assert np.nanmin(records.dvol_btc) >= 5.0
    assert np.nanmin(records.taker) >= 0.0
    for day in range(20):  # fear and greed is a daily figure
        one = records.fng[day * DAY_MINUTES : (day + 1) * DAY_MINUTES]
        assert len(np.unique(one[~np.isnan(one)])) <= 1
    assert all(0.0 < np.isnan(column).mean() < 0.2 for column in records[1:])


def test_every_organ_speaks_on_some_days_and_none_on_all():
    days, boosted, strong, moving, calming, postures, statuses = 0, 0, 0, 0, 0, set(), []
    apex = haircut = 0.0
    for seed in range(12):
        market = minutes(8.0, seed)
        bars, _ = synthetic_factors(seed, *market)
        boost = bars.boost[settled(market)]
        days += len(boost)
        boosted += int((boost > 1.0).sum())
        strong += int((bars.beta[settled(market)] >= 0.8).sum())
        late = bars.boost.reshape(-1, DAY_MINUTES)[:, 10:]
        moving += int((late.max(axis=1) != late.min(axis=1)).sum())
        calming += int(((late[:, :-1] >= HIGH) & (late[:, 1:] < LOW)).sum())
        postures |= set(bars.posture.tolist())
        apex += float((bars.posture == codes.APEX).mean()) / 12.0
        statuses += bars.mc_status[::DAY_MINUTES].tolist()
        one_day = bars.mc_status.reshape(-1, DAY_MINUTES)
        assert (one_day == one_day[:, :1]).all()
        haircut += float((bars.esof_mult < 1.0).mean()) / 12.0
        assert 0.3 <= bars.esof_mult.min() <= bars.esof_mult.max() <= 1.0
    assert 0.25 < boosted / days < 0.75
    assert 0.15 < strong / days < 0.7
    assert 0.03 < moving / days < 0.5
    assert 0.05 < calming / days < 1.5
    assert postures == {codes.APEX, codes.STALKER, codes.TURTLE, codes.HIBERNATE}
    assert 0.8 < apex < 0.99
    shares = np.bincount(statuses, minlength=4) / len(statuses)
    assert (shares > 0.02).all()
    assert shares[codes.MC_OK] > 0.4
    assert 0.4 < haircut < 0.95


@compiled
def test_the_engine_acts_on_every_path():
    """Its own answer over whole days, books present: what the paths are made for does happen."""
    reasons: set[int] = set()
    bounds: set[int] = set()
    for seed in (0, 4):
        market = quick_market(seed, 3.0, 12.0)
        books = synthetic_books(seed, market.prices, market.onsets)
        factors, _ = synthetic_factors(
            seed, market.timestamp_ns, market.prices, market.v750, books.withdrawal_velocity
        )
        inputs = PeriodInputs(
            symbols=market.symbols,
            timestamp_ns=market.timestamp_ns,
            prices=market.prices,
            vel_div=market.vel_div,
            v50_velocity=market.v50,
            v750_velocity=market.v750,
            instability_50=market.instability_50,
            books=books,
            **factors._asdict(),
        )
        result = PeriodRunner(inputs).run(GOLD, record="codes")
        assert result.reason is not None
        assert result.trades is not None
        reasons |= set(result.reason.tolist())
        bounds |= set(result.trades["bound"].tolist())
    assert {codes.HIBERNATE_HALT, codes.SUBDAY_ACB_NORMALIZATION, codes.FIXED_TP, codes.MAX_HOLD} <= reasons
    assert {codes.DAY_HALT, codes.POSTURE_HALT} & reasons
    assert codes.OB_REFUSED in reasons
    assert codes.BOUND_MIN in bounds
    assert len(bounds) > 1


def test_refused_factors():
    stamps, prices, v750 = minutes(0.1)
    with pytest.raises(UsageError, match="seed is -1"):
        synthetic_factors(-1, stamps, prices, v750)
    with pytest.raises(DataError, match="144 stamps"):
        synthetic_factors(1, stamps, prices[1:], v750)
    with pytest.raises(DataError, match="do not increase"):
        synthetic_factors(1, stamps[::-1], prices, v750)
