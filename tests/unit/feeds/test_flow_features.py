"""Rows of features as messages come: counted, kept until taken, bounded."""

from __future__ import annotations

import pytest
from book_snapshots import S, book

from dolphin.feeds import flow_features
from dolphin.feeds.flow_features import FlowFeatures
from dolphin.orderbook.fold import IMBALANCE

BTC, ETH = "BTCUSDT", "ETHUSDT"


def test_rows_are_counted_by_symbol_and_taken_once_in_order() -> None:
    features = FlowFeatures((BTC, ETH))
    assert features.newest(BTC) is None
    for at, symbol in enumerate((BTC, ETH, BTC)):
        features.hear(symbol, book([30.0], [10.0], at * S), at * S)
    rows = features.taken()
    assert [(row.symbol, row.bar, row.instant_ns) for row in rows] == [
        (BTC, 0, 0),
        (ETH, 0, S),
        (BTC, 1, 2 * S),
    ]
    assert features.taken() == []
    assert features.newest(BTC) is rows[2]
    assert rows[2].values[IMBALANCE] == 0.5
    assert rows[2].book.timestamp_ns == 2 * S


def test_a_book_that_counts_as_missing_and_one_of_another_universe_are_counted() -> None:
    features = FlowFeatures((BTC,))
    features.hear(BTC, book([30.0], [10.0], 0), 6 * S)
    features.hear(ETH, book([30.0], [10.0], 0), 0)
    assert features.n_refused == 2
    assert features.newest(BTC) is features.newest(ETH) is None
    assert features.taken() == []


def test_rows_that_nobody_takes_are_bounded_and_the_newest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_features, "ROWS_WAITING_MAX", 2)
    features = FlowFeatures((BTC,))
    for at in range(5):
        features.hear(BTC, book([30.0], [10.0], at * S), at * S)
    assert features.n_dropped == 3
    assert [row.bar for row in features.taken()] == [0, 1]
    newest = features.newest(BTC)
    assert newest is not None
    assert newest.bar == 4
    features.hear(BTC, book([30.0], [10.0], 5 * S), 5 * S)
    assert [row.bar for row in features.taken()] == [5]
