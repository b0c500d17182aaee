"""The mock books: the predecessor's biases, as deep as asked, and as new as the last instant said."""

from __future__ import annotations

import math

import pytest

from dolphin.domain.errors import ConfigError
from dolphin.orderbook.engine import BookEngine
from dolphin.orderbook.mock import MockBooks

SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "XRPUSDT")


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_the_biases_are_what_the_engine_sees(scale: float) -> None:
    books, engine = MockBooks(scale), BookEngine(SYMBOLS)
    for t in range(4):
        books.advance(t * 5_000_000_000)
        assert engine.step_live(t, t * 5_000_000_000, books.newest).n_fresh == 5
    leans = [engine.get_signal(symbol, 3).imbalance for symbol in SYMBOLS]
    assert leans == pytest.approx([-0.086, -0.092, 0.05, 0.05, -0.09], abs=1e-15)
    assert engine.get_placement("XRPUSDT", 3).depth_1pct_usd == pytest.approx(2e6 * scale)
    assert engine.get_placement("XRPUSDT", 3).depth_quality == pytest.approx(1.0)
    assert engine.get_signal("XRPUSDT", 3).withdrawal_velocity == 0.0
    assert engine.get_market(3).median_imbalance == pytest.approx(-0.086)
    book = books.newest("BTCUSDT")
    assert (book.timestamp_ns, book.push_seq, book.bid_coverage_bps) == (15_000_000_000, 4, math.inf)


def test_own_biases() -> None:
    books = MockBooks(biases={"AUSDT": 1.0})
    assert books.newest("AUSDT").ask_notional.tolist() == [0.0] * 5
    assert books.newest("BTCUSDT").bid_notional[0] == pytest.approx(1e6 * 0.91)


def test_what_cannot_be_is_refused() -> None:
    for scale in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="depth_scale"):
            MockBooks(scale)
    with pytest.raises(ConfigError, match=r"AUSDT is 1\.5"):
        MockBooks(biases={"AUSDT": 1.5})
