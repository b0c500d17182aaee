"""Recording from the exchange on loopback, and books rebuilt from it."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from dolphin.domain.errors import DataError
from dolphin.feeds.polling import Pace
from dolphin.feeds.record import Recorded, record
from dolphin.market.book_messages import read_messages
from dolphin.market.book_recording import BookReplay
from exchange import LoopbackExchange, SyntheticMarket

BTC, ETH = "BTCUSDT", "ETHUSDT"
PACE = Pace(period_s=1.0, tries=1_000_000, backoff_first_s=0.05, backoff_max_s=0.2)


def test_a_recording_with_faults_is_rebuilt_to_true_books(tmp_path: Path) -> None:
    with LoopbackExchange(SyntheticMarket(2, seed=7), speed=1.0, life_s=120.0) as x:
        stage = 0
        began_s = time.monotonic()

        def stop() -> bool:
            nonlocal stage
            assert time.monotonic() - began_s < 90.0
            snapshots, opened = x.meter.by_path["/fapi/v1/depth"], x.meter.connections_opened
            if stage == 0 and snapshots >= 2:
                x.faults.add("gap", stream="btcusdt@depth*", count=1)
                stage = 1
            elif stage == 1 and snapshots >= 3:
                assert x.disconnect(stream="ethusdt@depth*", abort=True) >= 1
                stage, x.reopened = 2, opened  # type: ignore[attr-defined]
            elif stage == 2 and opened > x.reopened and snapshots >= 4:  # type: ignore[attr-defined]
                stage = 3
            return stage == 3

        seen: list[Recorded] = []
        result = record(
            (BTC, ETH, "NOPEUSDT"), tmp_path, base_url=x.url, stop_requested=stop, pace=PACE,
            flush_every_s=0.5, look_every_s=0.05, on_progress=seen.append,
        )  # fmt: skip
        assert x.meter.forbidden == []
    assert result.absent == ("NOPEUSDT",)
    assert result.counts["errors"] >= 2
    assert result.parts >= 2
    assert seen
    for symbol in (BTC, ETH):
        kinds = Counter(m.kind for m in read_messages(tmp_path, symbol))
        assert set(kinds) == {"depth", "snapshot", "bookTicker", "aggTrade", "markPrice"}
        assert kinds["snapshot"] >= 2
        replay = BookReplay(sorted(tmp_path.rglob("*.parquet")), symbol)
        assert sum(1 for _ in replay.rows()) > 0
        touch = replay.agreement
        assert touch.n_same_id == touch.n_same_id_equal
        assert replay.damage["malformed"] == 0


def test_an_exchange_without_the_symbols_or_without_a_word_is_one_line(tmp_path: Path) -> None:
    with LoopbackExchange(SyntheticMarket(1, seed=7), life_s=60.0) as x:
        with pytest.raises(DataError, match="none of the 1 symbols"):
            record(("NOPEUSDT",), tmp_path, base_url=x.url, pace=PACE)
        x.faults.add("status", path="*", value=503)
        with pytest.raises(DataError, match="does not answer"):
            record((BTC,), tmp_path, base_url=x.url, pace=PACE, start_s=0.5)
    assert not list(tmp_path.rglob("*.parquet"))
