"""Recording from the exchange on loopback, and books rebuilt from it."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from dolphin.domain.clock import NS_PER_DAY, day_from_ns
from dolphin.domain.errors import DataError, StoreError
from dolphin.feeds.polling import Pace
from dolphin.feeds.record import Recorded, record
from dolphin.market.book_messages import read_messages
from dolphin.market.book_recording import BookReplay
from exchange import LoopbackExchange, SyntheticMarket, symbol_names

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
        with pytest.raises(
            DataError, match="nothing to record: 1 symbol not traded on the exchange now: NOPEUSDT"
        ):
            record(("NOPEUSDT",), tmp_path, base_url=x.url, pace=PACE)
        x.faults.add("status", path="*", value=503)
        with pytest.raises(DataError, match="does not answer"):
            record((BTC,), tmp_path, base_url=x.url, pace=PACE, start_s=0.5)
    assert not list(tmp_path.rglob("*.parquet"))


def obstacles(folder: Path) -> list[Path]:
    """Files where the folders of today's and tomorrow's parts belong, so that none can be written."""
    days = [folder / f"date={day_from_ns(time.time_ns() + k * NS_PER_DAY)}" for k in range(2)]
    folder.mkdir()
    for day in days:
        day.touch()
    return days


def test_a_disk_that_refuses_is_told_once_and_costs_nothing(tmp_path: Path) -> None:
    days = obstacles(tmp_path / "ob_raw")
    told: list[str] = []
    freed_ns = 0
    began_s = time.monotonic()

    def stop() -> bool:
        nonlocal freed_ns
        assert time.monotonic() - began_s < 60.0
        if not freed_ns and told and time.monotonic() - began_s > 1.0:
            for day in days:
                day.unlink()
            freed_ns = time.time_ns()
        return len(told) == 2

    with LoopbackExchange(SyntheticMarket(1, seed=7), speed=1.0, life_s=120.0) as x:
        result = record(
            (BTC,), tmp_path, base_url=x.url, stop_requested=stop, pace=PACE, flush_every_s=0.1,
            look_every_s=0.02, news=told.append,
        )  # fmt: skip
    assert "what came is kept, and tried again" in told[0]
    assert told[1] == "the disk takes the recording again"
    messages = list(read_messages(tmp_path, BTC))
    assert len(messages) == result.messages
    assert messages[0].recv_ns < freed_ns
    assert result.dropped == 0


def test_what_cannot_be_written_at_the_end_is_an_error(tmp_path: Path) -> None:
    obstacles(tmp_path / "ob_raw")
    with LoopbackExchange(SyntheticMarket(1, seed=7), speed=1.0, life_s=60.0) as x, pytest.raises(StoreError):
        record((BTC,), tmp_path, base_url=x.url, seconds=1.0, pace=PACE)


def test_more_symbols_than_one_call_takes_are_all_watched(tmp_path: Path) -> None:
    names = symbol_names(203)
    began_s = time.monotonic()
    with LoopbackExchange(SyntheticMarket(203, seed=7, levels=5), life_s=120.0) as x:

        def stop() -> bool:
            assert time.monotonic() - began_s < 90.0
            watched = x.meter.subscriptions
            kinds = ("aggTrade", "bookTicker", "markPrice@1s")
            return all(f"{name.lower()}@{kind}" in watched for name in names for kind in kinds)

        record(names, tmp_path, base_url=x.url, stop_requested=stop, pace=PACE)


def test_a_wait_for_the_exchange_is_told_and_ends_when_asked_to_stop(tmp_path: Path) -> None:
    told: list[str] = []
    with LoopbackExchange(SyntheticMarket(1, seed=7), life_s=60.0) as x:
        x.faults.add("status", path="*", value=503)
        result = record(
            (BTC,), tmp_path, base_url=x.url, pace=PACE, stop_requested=lambda: bool(told), told_after_s=0.5,
            news=told.append,
        )  # fmt: skip
    assert result.messages == 0
    assert told[0].startswith("waiting for the exchange: ")
    assert told[1:] == ["stopped before the exchange answered"]
