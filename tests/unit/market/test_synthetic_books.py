"""The synthetic market's books: determinism, the feature rules against a slow twin, and that every use of
books by the alpha can act, none always.
"""

from __future__ import annotations

import numpy as np
import pytest
from book_twin import BookTwin

from dolphin.alpha.exits import duress
from dolphin.alpha.lanes import market_ob, ob_signal
from dolphin.alpha.selection import depth_adjusted_ars
from dolphin.domain.errors import DataError, UsageError
from dolphin.engine.market import BookBars
from dolphin.kernel import MODE, plain
from dolphin.market.quick_market import QuickMarket, quick_market
from dolphin.market.synthetic_books import (
    CHUNK_BARS,
    BookChunk,
    book_bars,
    book_chunks,
    features_kernel,
    synthetic_books,
)
from dolphin.orderbook.fold import new_arrivals, new_past

compiled = pytest.mark.skipif(MODE == "plain", reason="a chunk takes minutes without the compiler")


def walk(n: int, assets: int, seed: int = 0) -> np.ndarray:
    steps = np.random.default_rng(seed).standard_normal((n, assets)) * 1e-3
    return 100.0 * np.exp(np.cumsum(steps, axis=0))


def same(a: BookBars, b: BookBars, n: int | None = None) -> None:
    for name, mine, other in zip(a._fields, a, b, strict=True):
        np.testing.assert_array_equal(mine[:n], other[:n], err_msg=name)


def snapshots(n: int, assets: int, seed: int) -> BookChunk:
    """Hostile books: empty, one-sided, balanced to the last dollar, thinning out, silent for a while."""
    rng = np.random.default_rng(seed)
    shape = (n, assets, 5)
    wave = np.exp(np.cumsum(rng.standard_normal((n, assets, 1)) * 0.05, axis=0))
    bid, ask = np.rint(rng.uniform(0, 1e5, shape) * wave), np.rint(rng.uniform(0, 1e5, shape) * wave)
    empty, level, one_sided = (rng.random((n, assets)) < 0.05 for _ in range(3))
    bid[empty] = ask[empty] = 0.0
    ask[level] = bid[level]
    bid[one_sided] = 0.0
    seen = rng.random((n, assets)) < 0.9
    for start, length in ((0, 2), (30, 1), (40, 2), (50, 3), (60, 7)):
        seen[start : start + length] = False
    return BookChunk(bid, ask, seen)


@pytest.mark.parametrize(("assets", "seed"), [(1, 0), (4, 1), (7, 2)])
def test_the_features_are_the_slow_twins(assets, seed):
    chunk = snapshots(170, assets, seed)
    got, twin = book_bars([chunk], 170, assets), BookTwin(assets)
    for t in range(170):
        expected = twin.step(
            {
                i: (chunk.bid[t, i].tolist(), chunk.ask[t, i].tolist())
                for i in range(assets)
                if chunk.seen[t, i]
            }
        )
        for name, column in zip(got._fields, got, strict=True):
            if column.dtype == np.float64:
                assert column[t] == pytest.approx(expected[name], rel=1e-12, abs=1e-12), (t, name)
            else:
                assert column[t] == expected[name], (t, name)


def test_absent_after_three_silent_bars_and_not_before():
    chunk = snapshots(70, 3, 1)
    got = book_bars([chunk], 70, 3)
    assert not got.present[:2].any()  # nothing was seen yet
    assert got.present[30]
    assert got.present[40:42].all()
    assert got.present[50:53].tolist() == [True, True, False]
    assert got.present[60:67].tolist() == [True, True] + [False] * 5
    assert chunk.seen[67].any()
    assert got.present[67]


def test_chunks_of_any_length_give_the_same_features():
    chunk = snapshots(150, 3, 5)
    whole = book_bars([chunk], 150, 3)
    cut = [BookChunk(*(column[a:b] for column in chunk)) for a, b in ((0, 1), (1, 64), (64, 149), (149, 150))]
    same(whole, book_bars(cut, 150, 3))


def test_the_kernel_and_its_plain_twin_give_the_same_bits():
    chunk = snapshots(130, 3, 6)
    rows = []
    for kernel in (features_kernel, plain(features_kernel)):
        bars = book_bars([BookChunk(*(column[:0] for column in chunk))], 0, 3)
        bars = BookBars(*(np.zeros((130, *column.shape[1:]), column.dtype) for column in bars))
        whole = new_arrivals(3)
        kernel(*chunk, whole.covered, whole.reach, new_past(3), *bars)
        rows.append(bars)
    same(rows[0], rows[1])


def test_the_plain_books_too():
    prices = walk(30, 3)
    first = next(book_chunks(1, prices, [5]))
    assert first.bid.shape == (30, 3, 5)
    assert (first.bid[first.seen] > 0.0).all()
    assert (first.ask[first.seen] > 0.0).all()
    np.testing.assert_array_equal(first.bid, np.rint(first.bid))


@compiled
def test_the_same_seed_gives_the_same_books_and_a_prefix_the_same_prefix():
    prices = walk(CHUNK_BARS + 300, 6)
    onsets = [100, 2_000, CHUNK_BARS + 50]
    whole = synthetic_books(3, prices, onsets)
    same(whole, synthetic_books(3, prices, onsets))
    for n in (1, 150, CHUNK_BARS, CHUNK_BARS + 40):
        same(whole, synthetic_books(3, prices[:n], [k for k in onsets if k < n]), n)
    assert (whole.imbalance_ma5 != synthetic_books(4, prices, onsets).imbalance_ma5).any()


@compiled
def test_books_never_look_ahead():
    prices = walk(2_000, 5)
    other = prices.copy()
    other[1_200:] *= 0.9
    a, b = synthetic_books(1, prices), synthetic_books(1, other)
    same(a, b, 1_200)
    assert (a.median_imbalance[1_200:] != b.median_imbalance[1_200:]).any()


@compiled
def test_books_lean_with_a_fall_and_ahead_of_a_planted_one():
    prices = walk(3_000, 20)
    calm = synthetic_books(2, prices)
    fall = prices.copy()
    fall[1_000:1_060] *= np.linspace(1.0, 0.95, 60)[:, None]
    fall[1_060:] *= 0.95
    fallen = synthetic_books(2, fall)
    assert (fallen.median_imbalance - calm.median_imbalance)[1_020:1_060].max() < -0.02
    planted = synthetic_books(2, prices, [1_500])  # no price moved
    assert (planted.median_imbalance - calm.median_imbalance)[1_510:1_600].max() < -0.05
    same(planted, calm, 1_500)


@compiled
def test_onsets_usually_withdraw_depth():
    prices = np.full((20_000, 10), 10.0)
    onsets = list(range(600, 19_000, 700))
    books = synthetic_books(5, prices, onsets)
    stress = np.array([books.regime_signal[k + 12 : k + 50].max() == 1 for k in onsets])
    elsewhere = np.array([books.regime_signal[k - 60 : k].max() == 1 for k in onsets])
    assert 0.4 < stress.mean() < 0.95
    assert elsewhere.mean() < 0.35


def test_an_asset_without_a_price_has_no_book():
    prices = walk(40, 3)
    prices[:, 1] = np.nan
    prices[20:, 2] = np.nan
    seen = next(book_chunks(0, prices)).seen
    assert not seen[:, 1].any()
    assert not seen[20:, 2].any()
    assert seen[:20, 2].any()
    books = synthetic_books(0, prices)
    np.testing.assert_array_equal(books.depth_quality[:, 1], 1.0)
    np.testing.assert_array_equal(books.fill_probability[:, 1], 0.5)


@pytest.fixture(scope="module")
def markets() -> list[tuple[QuickMarket, BookBars]]:
    made = []
    for seed in (1, 4, 9):
        market = quick_market(seed, 1.0, 12.0)
        made.append((market, synthetic_books(seed, market.prices, market.onsets)))
    return made


def share(markets: list[tuple[QuickMarket, BookBars]], what: str) -> float:
    """Share of the bars (or bars and assets) with books on which the named branch acts for a SHORT engine."""
    total, n = 0.0, 0
    for _, books in markets:
        t = books.present
        quality, ma5, velocity = books.depth_quality[t], books.imbalance_ma5[t], books.withdrawal_velocity[t]
        cascade, regime = books.cascade_count[t] > 0, books.regime_signal[t]
        stress, calm = ~cascade & (regime == 1), ~cascade & (regime == -1)
        quiet = (~cascade & (regime != 1))[:, None]
        lean, agree = -books.median_imbalance[t], books.agreement[t] > 0.70
        hit = {
            "OB-1 deep": quality > 1.5,
            "OB-1 above": (quality > 1.0) & (quality <= 1.5),
            "OB-1 below": quality < 0.5,
            "OB-1 thin": quality < 0.3,
            "OB-1 skipped": quality < 0.2,
            "OB-1 skipped somewhere": (quality < 0.2).any(axis=1),
            "OB-2 confirms": ma5 < -0.10,
            "OB-2 refuses": (ma5 > 0.15) & (books.persistence[t] > 0.60),
            "OB-2 doubts": (ma5 > 0.10) & ~((ma5 > 0.15) & (books.persistence[t] > 0.60)),
            "OB-3 raises": agree & (lean > 0.08),
            "OB-3 at its most": agree & (lean * books.agreement[t] > 0.20),
            "OB-3 lowers": agree & (lean < -0.08),
            "OB-3 at its least": agree & (lean * books.agreement[t] < -0.15),
            "OB-4 any": (velocity < -0.10).any(axis=1),
            "OB-4 half of the assets": (velocity < -0.10).mean(axis=1) > 0.5,
            "OB-5 cascade": cascade,
            "OB-5 stress": stress,
            "OB-5 stress, shorter": stress[:, None] & (ma5 > 0.10),
            "OB-5 calm, longer": calm[:, None] & (ma5 < -0.15),
            "OB-5 own withdrawal": quiet & (velocity < -0.20),
            "OB edge": quality > 0.5,
            "one-sided agreement": books.agreement[t] > 0.60,
        }[what]
        total, n = total + hit.sum(), n + hit.size
    return total / n


@compiled
@pytest.mark.parametrize(
    ("what", "low", "high"),
    [
        ("OB-1 deep", 0.002, 0.05),
        ("OB-1 above", 0.3, 0.7),
        ("OB-1 below", 0.002, 0.05),
        ("OB-1 thin", 0.0007, 0.02),
        ("OB-1 skipped", 0.0002, 0.01),
        ("OB-1 skipped somewhere", 0.003, 0.1),
        ("OB-2 confirms", 0.1, 0.4),
        ("OB-2 refuses", 0.04, 0.25),
        ("OB-2 doubts", 0.03, 0.25),
        ("OB-3 raises", 0.05, 0.35),
        ("OB-3 at its most", 0.002, 0.1),
        ("OB-3 lowers", 0.03, 0.3),
        ("OB-3 at its least", 0.001, 0.1),
        ("OB-4 any", 0.3, 0.99),
        ("OB-4 half of the assets", 0.01, 0.15),
        ("OB-5 cascade", 0.03, 0.25),
        ("OB-5 stress", 0.005, 0.1),
        ("OB-5 stress, shorter", 0.0005, 0.03),
        ("OB-5 calm, longer", 0.01, 0.15),
        ("OB-5 own withdrawal", 0.001, 0.03),
        ("OB edge", 0.95, 0.998),
        ("one-sided agreement", 0.2, 0.9),
    ],
)
def test_every_use_of_books_acts_sometimes_and_none_always(markets, what, low, high):
    assert low < share(markets, what) < high


@compiled
def test_books_are_absent_now_and_then(markets):
    for _, books in markets:
        assert 0.0002 < 1.0 - books.present.mean() < 0.02
    runs = sum(int((np.diff(books.present.astype(int)) == -1).sum()) for _, books in markets)
    assert runs >= 3


@compiled
def test_the_alphas_own_kernels_take_every_turn(markets):
    """Not the shares above but the kernels that use books, on every hundredth bar."""
    seen = set()
    for _, books in markets:
        for t in np.flatnonzero(books.present)[::25]:
            lane = market_ob(books.median_imbalance[t], books.agreement[t], -1)
            seen.add("lane up" if lane > 1.0 else "lane down" if lane < 1.0 else "lane neutral")
            for i in range(0, 50, 7):
                refused, confidence = ob_signal(0.7, books.imbalance_ma5[t, i], books.persistence[t, i], -1)
                seen.add("refused" if refused else "doubt" if confidence < 0.7 else "confirmed")
                seen.add(f"ars {depth_adjusted_ars(1.0, books.depth_quality[t, i]):.2f}")
                for pnl in (-0.001, 0.001):
                    seen.add(
                        duress(
                            pnl,
                            1.0,
                            1.0,
                            1000,
                            int(books.cascade_count[t]),
                            int(books.regime_signal[t]),
                            -books.imbalance_ma5[t, i],
                            books.withdrawal_velocity[t, i],
                        )
                    )
    assert {"lane up", "lane down", "lane neutral", "refused", "doubt", "confirmed"} <= seen
    assert {"ars 0.90", "ars 0.95", "ars 1.00", "ars 1.05", "ars 1.10"} <= seen
    assert {(1.4, 1.0, 500), (0.6, 0.1, 1000), (1.0, 0.1, 1000), (0.6, 0.1, 400), (1.0, 1.0, 1500)} <= seen
    assert {(0.75, 1.0, 400), (1.0, 1.0, 400)} <= seen


def test_refused_books():
    with pytest.raises(UsageError, match="seed is -1"):
        synthetic_books(-1, walk(5, 2))
    with pytest.raises(DataError, match="shape"):
        synthetic_books(1, np.zeros(5))
    with pytest.raises(DataError, match="onset"):
        synthetic_books(1, walk(5, 2), [5])
    with pytest.raises(DataError, match="more than 60 bars"):
        book_bars([snapshots(70, 2, 0)], 60, 2)
    with pytest.raises(DataError, match="snapshots of 70 bars"):
        book_bars([snapshots(70, 2, 0)], 80, 2)
