"""Books of an exchange as a run senses them, through the exchange on loopback."""

from __future__ import annotations

import time

import numpy as np
import pytest

from dolphin.domain.errors import ConfigError
from dolphin.domain.scan import ScanRow
from dolphin.orderbook.fold import FRESH
from dolphin.orderbook.guards import GuardRules
from dolphin.services.book_senses import BINANCE, BOOKS, MOCK, books_identity, books_named, open_books
from exchange import LoopbackExchange, SyntheticMarket

SYMBOLS = ("BTCUSDT", "ETHUSDT")


def row() -> ScanRow:
    return ScanRow(1, time.time_ns(), 0.0, 0.0, 0.0, float("nan"), np.ones(2))


def test_books_of_the_exchange_are_sensed_and_what_goes_wrong_is_told():
    with LoopbackExchange(SyntheticMarket(2, seed=3, levels=150), speed=1.0, life_s=120.0) as x:
        senses = open_books(BINANCE, SYMBOLS, x.url, GuardRules(first_flush_ns=0))
        try:
            read = []

            def fresh() -> bool:
                read[:] = [senses.sense(row(), time.time_ns(), None)]
                return read[0] is not None and bool((read[0].status == FRESH).all())

            x.wait(fresh, timeout_s=40.0)
            assert senses.label == BINANCE
            assert (read[0].bid[:, 0] > 0.0).all()
            told: list[tuple[str, str]] = []
            x.faults.add("garbage", stream="btcusdt@depth*", value="broken", count=1)
            x.disconnect()

            def news() -> bool:
                told.extend(senses.take_news())
                return bool(told)

            x.wait(news, timeout_s=40.0)
            assert {kind for kind, _ in told} == {BOOKS}
            x.wait(fresh, timeout_s=40.0)
        finally:
            senses.close()
        assert x.meter.forbidden == []


def test_a_run_s_books_are_named_by_what_decides_them(tmp_path):
    assert [books_identity(word) for word in (MOCK, BINANCE)] == [MOCK, BINANCE]
    assert books_named(MOCK) == MOCK
    part = tmp_path / "date=2026-01-05" / "part-000000.parquet"
    part.parent.mkdir()
    part.write_bytes(b"one")
    first = books_identity(str(tmp_path))
    part.write_bytes(b"two")
    assert books_identity(str(tmp_path)) != first
    assert books_named(first) == str(tmp_path)
    with pytest.raises(ConfigError, match="no recorded books there"):
        books_identity(str(tmp_path / "elsewhere"))
