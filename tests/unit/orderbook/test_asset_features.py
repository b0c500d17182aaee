"""Features of one asset, book by book: the engine's own; a book that counts as missing leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
from book_snapshots import S, book, hostile

from dolphin.kernel import plain
from dolphin.orderbook.asset_features import AssetFeatures
from dolphin.orderbook.engine import BookEngine
from dolphin.orderbook.fold import DEPTH, IMBALANCE


@pytest.mark.parametrize("seed", range(5))
def test_the_same_books_give_the_engines_features_bit_for_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    engine, one, twin = BookEngine(("BTCUSDT",)), AssetFeatures(), AssetFeatures(plain)
    fresh = refused = 0
    for bar in range(200):
        now_ns = bar * 5 * S
        snapshot = hostile(rng, now_ns, float(np.exp(rng.standard_normal() * 0.2)))
        if snapshot is None:
            continue
        report = engine.step_live(bar, now_ns, {"BTCUSDT": snapshot}.get)
        found, again = one.fold(now_ns, snapshot), twin.fold(now_ns, snapshot)
        assert (found is None) == (again is None) == (report.n_fresh == 0)
        if found is None or again is None:
            refused += 1
            continue
        fresh += 1
        assert found.tobytes() == again.tobytes() == engine.features()[:, 0].tobytes()
    assert fresh > 100
    assert refused > 20


def test_a_row_is_not_changed_by_the_next_book() -> None:
    one = AssetFeatures()
    first = one.fold(0, book([30.0], [10.0]))
    assert first is not None
    kept = first.copy()
    second = one.fold(S, book([10.0], [30.0], S))
    assert second is not None
    assert first.tobytes() == kept.tobytes()
    assert (first[DEPTH], first[IMBALANCE], second[IMBALANCE]) == (40.0, 0.5, -0.5)
