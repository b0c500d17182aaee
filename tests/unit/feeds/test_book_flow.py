"""The live book flow against an exchange on loopback: every guard fires, and every book comes back true."""

from __future__ import annotations

import gc
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dolphin.domain.clock import NS_PER_S, day_from_ns
from dolphin.feeds.book_flow import FULL_COLLECTION_AFTER, BookFlow
from dolphin.feeds.book_view import BookView
from dolphin.feeds.polling import Pace
from dolphin.feeds.raw_recorder import RawRecorder
from dolphin.market.book_messages import SNAPSHOT, read_messages, snapshot_from
from dolphin.orderbook.bands import book_snapshot
from dolphin.orderbook.guards import GuardRules
from exchange import LoopbackExchange, SyntheticMarket

BTC, ETH = "BTCUSDT", "ETHUSDT"
DEPTH = "/fapi/v1/depth"
PACE = Pace(period_s=1.0, tries=1_000_000, backoff_first_s=0.1, backoff_max_s=0.4)


class Stage:
    """An exchange, a flow, and a clock of guards that a test can move."""

    def __init__(self, x: LoopbackExchange, **options: Any) -> None:
        self.x = x
        self.ahead_ns = 0
        self.view = BookView()
        self.told: list[tuple[str, str]] = []
        options.setdefault("rules", GuardRules(first_flush_ns=0))
        self.flow = BookFlow(
            (BTC, ETH), self.view, base_url=x.url, mono_ns=lambda: time.monotonic_ns() + self.ahead_ns,
            check_every_s=0.02, pace=PACE, **options,
        )  # fmt: skip

    def seen(self, kind: str, words: str) -> list[str]:
        self.told += self.flow.notices()
        return [text for k, text in self.told if k == kind and words in text]

    def is_true(self, symbol: str) -> bool:
        """Whether the view's bands are those of the exchange's own book."""
        held = self.view.newest(symbol)
        _, bids, asks = self.x.truth(symbol)
        sides = [np.array([[float(p), float(q)] for p, q in side]) for side in (bids, asks)]
        true = book_snapshot(
            0, *((s[:, 0].copy(), s[:, 1].copy()) for s in sides), bid_edge=-np.inf, ask_edge=np.inf
        )
        assert true is not None
        return held is not None and all(
            np.array_equal(getattr(held, name), getattr(true, name))
            for name in ("bid_notional", "ask_notional", "bid_depth", "ask_depth", "visible_bid")
        )

    def wait(self, condition: Any) -> None:
        # Not the exchange's own wait: it holds a lock that `truth` waits for.
        end, pause = time.monotonic() + 60.0, threading.Event()
        while not condition():
            assert time.monotonic() < end, f"it did not happen in time: {self.flow.counts}"
            pause.wait(0.005)

    def all_true(self) -> None:
        self.wait(lambda: self.is_true(BTC) and self.is_true(ETH))

    def one_by_one(self, ticks: int) -> None:
        """Let the market move so that every update is seen alone."""
        for _ in range(ticks):
            before = self.flow.counts["updates"]
            self.x.step(1)
            self.wait(lambda before=before: self.flow.counts["updates"] >= before + 2)


@pytest.fixture
def x() -> Iterator[LoopbackExchange]:
    with LoopbackExchange(SyntheticMarket(2, seed=7), life_s=180.0) as running:
        yield running
        assert running.meter.forbidden == []


@pytest.fixture
def stage(x: LoopbackExchange) -> Iterator[Stage]:
    made = Stage(x)
    made.flow.start()
    made.all_true()
    yield made
    assert made.flow.counts["unlike"] == 0
    made.flow.stop()
    made.wait(lambda: x.meter.connections == 0)


def test_books_are_the_exchanges_on_one_connection(stage: Stage) -> None:
    stage.one_by_one(5)
    stage.all_true()
    assert stage.x.meter.connections == 1
    assert stage.x.meter.by_path[DEPTH] == 2
    held = stage.view.newest(BTC)
    assert held is not None
    assert held.push_seq == 6
    assert held.bid_coverage_bps == np.inf  # fewer levels than were asked for: whole
    assert len(stage.flow.delays_ns) >= 10
    assert stage.flow.notices() == []


@pytest.mark.parametrize("kind", ["gap", "duplicate", "reorder"])
def test_a_broken_chain_is_mended(stage: Stage, kind: str) -> None:
    stage.x.faults.add(kind, symbol=BTC, count=1)
    stage.x.step(4)
    stage.wait(lambda: stage.x.meter.faults_fired[kind] == 1)
    stage.x.step(1)
    stage.all_true()
    if kind == "gap":
        assert stage.flow.counts["error_ChecksumError"] >= 1
        assert stage.x.meter.by_path[DEPTH] == 3  # the other symbol kept its book


@pytest.mark.parametrize("abort", [False, True])
def test_a_lost_connection_is_made_again(stage: Stage, abort: bool) -> None:
    assert stage.x.disconnect(abort=abort) == 1
    stage.wait(lambda: stage.x.meter.connections_opened >= 2 and stage.x.meter.by_path[DEPTH] >= 4)
    stage.x.step(1)
    stage.all_true()
    assert stage.flow.counts["error_NetworkError"] >= 1


@pytest.mark.parametrize("value", ["text", "broken", "binary", "fields", "nan", "huge"])
def test_garbage_ends_nothing(stage: Stage, value: str) -> None:
    stage.x.faults.add("garbage", symbol=BTC, value=value, count=1)
    stage.x.step(3)
    stage.wait(lambda: stage.x.meter.faults_fired["garbage"] == 1)
    stage.x.step(1)
    stage.all_true()


@pytest.mark.parametrize("message", [{"b": None}, {"b": [["1"]]}, {"a": [["1", None]]}, {"a": [["1", ""]]}])
def test_a_difference_that_only_the_client_can_read_costs_no_book(stage: Stage, message: Any) -> None:
    one = stage.flow._watched[BTC]
    stage.flow._on_difference(one, message)
    stage.one_by_one(2)
    assert stage.flow.counts["errors"] == stage.flow.counts["resyncs"] == 0
    stage.all_true()


def test_a_crossed_book_is_dropped_told_once_and_taken_anew(stage: Stage) -> None:
    before = stage.view.newest(BTC)
    fault = stage.x.faults.add("crossed", symbol=BTC)
    stage.x.step(1)
    stage.wait(lambda: stage.flow.counts["crossed"] == 1)
    assert stage.view.newest(BTC) is before
    stage.one_by_one(2)
    stage.wait(lambda: stage.flow.counts["resyncs"] >= 1)
    assert len(stage.seen("log", "crossed book dropped")) == 1
    stage.x.faults.clear(fault)
    stage.x.step(1)
    stage.all_true()


def test_a_dark_book_is_stale_data_until_it_has_volume_again(stage: Stage) -> None:
    fault = stage.x.faults.add("dark", symbol=BTC)
    stage.one_by_one(11)
    assert stage.flow.stale() == ()
    assert stage.view.newest(BTC) is not None
    stage.one_by_one(1)
    assert stage.flow.stale() == (BTC,)
    assert stage.view.newest(BTC) is None
    assert len(stage.seen("alert", "BTCUSDT: STALE_DATA, 12 updates")) == 1
    stage.x.faults.clear(fault)
    stage.x.step(1)
    stage.all_true()
    assert stage.flow.stale() == ()


def test_a_silent_socket_is_declared_dead_within_thirty_seconds(stage: Stage) -> None:
    fault = stage.x.faults.add("silence", stream="*")
    stage.x.step(1)
    stage.ahead_ns = 20 * NS_PER_S  # ten seconds for a busy machine to pass until here
    stage.wait(lambda: stage.x.meter.faults_fired["silence"] >= 2)
    assert stage.flow.counts["stalls"] == 0
    stage.ahead_ns = 30 * NS_PER_S
    stage.wait(lambda: stage.x.meter.connections_opened >= 2)
    assert stage.flow.counts["stalls"] == 2
    assert len(stage.seen("alert", "no update for 30 s of 2 symbols")) == 1
    assert set(stage.flow.stale()) == {BTC, ETH}
    assert stage.view.newest(BTC) is None
    stage.x.faults.clear(fault)
    stage.ahead_ns += 30 * NS_PER_S  # the acknowledgement was swallowed: silence again
    stage.all_true()
    assert stage.flow.stale() == ()


def test_silence_during_a_ban_says_how_long_snapshots_wait(stage: Stage) -> None:
    assert stage.flow.exchange is not None
    stage.flow.exchange.blocked_until_s = time.monotonic() + 1_000.0
    stage.x.faults.add("silence", stream="*")
    stage.x.step(1)
    stage.ahead_ns = 30 * NS_PER_S
    stage.wait(lambda: stage.seen("alert", "of 2 symbols"))
    (alert,) = stage.seen("alert", "of 2 symbols")
    assert re.search(r"; reconnecting, but the exchange wants (9\d\d|1000) s without questions$", alert)


def test_one_silent_symbol_is_subscribed_again_and_the_others_go_on(stage: Stage) -> None:
    fault = stage.x.faults.add("silence", stream="btcusdt@depth*")
    stage.ahead_ns = 20 * NS_PER_S
    stage.x.step(1)
    stage.wait(lambda: stage.is_true(ETH))
    stage.x.faults.clear(fault)
    stage.ahead_ns = 31 * NS_PER_S
    stage.all_true()
    assert stage.flow.counts["stalls"] == 1
    assert stage.x.meter.connections_opened == 1
    assert stage.x.meter.by_path[DEPTH] == 3


@pytest.mark.parametrize("status", [429, 418])
def test_a_refused_snapshot_is_not_asked_for_before_its_time(x: LoopbackExchange, status: int) -> None:
    x.faults.add("status", path=DEPTH, value=status, retry_after_s=1, count=1)
    stage = Stage(x)
    stage.flow.start()
    stage.all_true()
    stage.flow.stop()
    first, *rest = x.meter.times_of(DEPTH)
    assert all(at - first >= 1.0 for at in rest if at - first > 0.2)
    assert stage.flow.counts["errors"] >= 1
    assert len(stage.seen("alert", "the exchange wants 1 s without questions")) == 1


def test_an_exchange_that_is_down_at_first_is_waited_for(x: LoopbackExchange) -> None:
    x.faults.add("status", path="/fapi/v1/exchangeInfo", value=503, count=2)
    stage = Stage(x)
    stage.flow.start()
    stage.all_true()
    stage.flow.stop()
    assert stage.flow.counts["error_ExchangeNotAvailable"] >= 1


def test_nothing_is_shown_before_the_first_flush(x: LoopbackExchange) -> None:
    stage = Stage(x, rules=GuardRules())
    stage.flow.start()
    stage.wait(lambda: stage.flow.counts["updates"] == 2)
    stage.one_by_one(2)
    assert stage.view.symbols() == ()
    stage.ahead_ns = 25 * NS_PER_S
    stage.one_by_one(1)
    stage.ahead_ns = 50 * NS_PER_S
    stage.one_by_one(1)
    assert stage.view.symbols() == ()
    stage.ahead_ns = 61 * NS_PER_S
    stage.one_by_one(1)
    stage.all_true()
    stage.flow.stop()


def test_an_unknown_symbol_is_told_and_costs_no_other(x: LoopbackExchange) -> None:
    x.delisted.add(ETH)
    stage = Stage(x)
    stage.flow.start()
    stage.wait(lambda: stage.is_true(BTC))
    stage.wait(lambda: stage.seen("alert", "ETHUSDT: the exchange has no such perpetual"))
    stage.flow.stop()


def test_a_cut_side_is_known_to_its_snapshots_edge_and_taken_anew_every_minute(x: LoopbackExchange) -> None:
    stage = Stage(x, levels=20)
    stage.flow.start()
    stage.wait(lambda: len(stage.view.symbols()) == 2)
    first = stage.view.newest(BTC)
    assert first is not None
    _, bids, asks = x.truth(BTC)
    mid = (float(bids[0][0]) + float(asks[0][0])) / 2.0
    assert first.bid_coverage_bps == 10_000.0 * (mid - float(bids[19][0])) / mid
    assert first.ask_coverage_bps == 10_000.0 * (float(asks[19][0]) - mid) / mid
    assert x.meter.by_path[DEPTH] == 2
    for _ in range(3):
        stage.ahead_ns += 21 * NS_PER_S
        stage.one_by_one(1)

    def both() -> bool:
        x.step(1)
        return stage.flow.counts["refreshes"] >= 2

    stage.wait(both)
    assert x.meter.by_path[DEPTH] == 4
    assert stage.flow.counts["stalls"] == stage.flow.counts["resyncs"] == stage.flow.counts["errors"] == 0
    stage.flow.stop()


def test_a_sound_book_is_watched_until_its_turn_to_be_refreshed(x: LoopbackExchange) -> None:
    """A snapshot that does not come keeps no other book from going on; its queue is nobody's silence."""
    stage = Stage(x, levels=20)
    stage.flow.start()
    stage.wait(lambda: len(stage.view.symbols()) == 2)
    hang = x.faults.add("hang", path=DEPTH)
    stage.ahead_ns += 61 * NS_PER_S

    def asked() -> bool:
        x.step(1)
        return hang.fired >= 1

    stage.wait(asked)
    stage.wait(lambda: x.step(1) or any(one.refresh for one in stage.flow._watched.values()))
    (late,) = [one for one in stage.flow._watched.values() if one.refresh]
    seen = late.push_seq

    def goes_on() -> bool:
        x.step(1)
        return late.push_seq >= seen + 5

    stage.wait(goes_on)
    assert late.refresh
    assert stage.flow.counts["refreshes"] == 0
    x.faults.clear(hang)

    def its_turn() -> bool:
        x.step(1)
        return not late.refresh and stage.flow.counts["refreshes"] >= 1

    stage.wait(its_turn)
    assert stage.flow.counts["stalls"] == 0
    assert not stage.seen("alert", "")
    stage.flow.stop()


def test_a_book_that_price_left_is_refreshed_before_those_that_are_only_old(x: LoopbackExchange) -> None:
    stage = Stage(x, levels=20)
    stage.flow.start()
    stage.wait(lambda: len(stage.view.symbols()) == 2)
    stage.flow.stop()
    flow, (btc, eth) = stage.flow, stage.flow._watched.values()
    turns = []
    for btc.refresh, btc.urgent, eth.refresh, eth.urgent in (
        (False, False, False, False), (True, False, True, False), (True, False, True, True),
    ):  # fmt: skip
        turns.append((flow._is_its_turn(btc), flow._is_its_turn(eth)))
    assert turns == [(False, False), (True, True), (False, True)]
    flow._refreshing = True
    assert not flow._is_its_turn(eth)
    flow._refreshing, flow._n_entering = False, 1
    assert not flow._is_its_turn(eth)
    stage.ahead_ns += 21 * NS_PER_S
    assert flow._is_its_turn(eth)
    assert not flow._is_its_turn(btc)


def test_many_symbols_are_refreshed_less_often_than_the_limiter_lets_through() -> None:
    def every_s(n: int) -> float:
        return BookFlow([f"S{k}USDT" for k in range(n)], BookView())._refresh_ns / NS_PER_S

    assert (every_s(2), every_s(40), every_s(50), every_s(400)) == (60.0, 60.0, 75.0, 600.0)


def test_the_recorder_keeps_every_text_and_every_snapshot(x: LoopbackExchange, tmp_path: Path) -> None:
    recorder = RawRecorder(tmp_path / "raw")
    stage = Stage(x, recorder=recorder)
    stage.flow.start()
    stage.all_true()
    stage.one_by_one(3)
    stage.flow.stop()
    (path,) = recorder.flush()
    assert path.parent.name == f"date={day_from_ns(time.time_ns())}"
    assert recorder.flush() == []
    for symbol in (BTC, ETH):
        rows = list(read_messages(path, symbol))
        assert [row.kind for row in rows].count(SNAPSHOT) == 1
        assert [row.kind for row in rows].count("depth") == 3
        snapshot = next(row for row in rows if row.kind == SNAPSHOT)
        assert len(snapshot_from(snapshot.raw).bids) > 20


def test_a_process_of_books_alone_collects_everything_seldom_until_it_ends(x: LoopbackExchange) -> None:
    before = gc.get_threshold()
    stage = Stage(x, freeze_heap=True)
    stage.flow.start()
    stage.all_true()
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == (*before[:2], FULL_COLLECTION_AFTER)
    stage.flow.stop()
    assert gc.get_threshold() == before
    gc.unfreeze()


def test_a_flow_may_begin_anew(x: LoopbackExchange) -> None:
    stage = Stage(x)
    stage.flow.stop()
    assert x.meter.by_path[DEPTH] == 0
    for _ in range(2):
        stage.flow.start()
        stage.all_true()
        stage.flow.stop()


def test_whatever_a_flush_meets_what_waited_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = RawRecorder(tmp_path)
    text = '{"e":"aggTrade","s":"BTCUSDT","p":"1","T":1}'
    recorder.hear(1, "frame", text, "")
    with monkeypatch.context() as patch:
        patch.setattr("dolphin.feeds.raw_recorder.RAW_SCHEMA", None)
        with pytest.raises(TypeError):
            recorder.flush()
    assert len(recorder.flush()) == 1
    assert recorder.n_written == 1


def test_a_recorder_that_cannot_write_drops_the_newest(tmp_path: Path) -> None:
    recorder = RawRecorder(tmp_path, waiting_max_bytes=10)
    recorder.hear(1, "snapshot", "x" * 8, "http://127.0.0.1/fapi/v1/depth?symbol=BTCUSDT")
    recorder.hear(2, "snapshot", "x" * 8, "http://127.0.0.1/fapi/v1/depth?symbol=BTCUSDT")
    recorder.hear(3, "frame", '{"result":null,"id":1}', "ws")
    assert (recorder.n_dropped, len(recorder.flush()), recorder.n_written) == (1, 1, 1)
