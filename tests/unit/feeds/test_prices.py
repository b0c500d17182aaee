"""Live prices and klines against the exchange on loopback, on clocks that a test moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dolphin.domain.bar import Bar
from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import ConfigError, DataError, UsageError
from dolphin.domain.scan import WARMUP_PRICES
from dolphin.feeds import klines
from dolphin.feeds.klines import download
from dolphin.feeds.polling import Pace
from dolphin.feeds.price_board import PriceBoard, warmup_bars
from dolphin.feeds.prices import BinancePrices, trade_from
from dolphin.market.recorded import RecordedFeed
from exchange import LoopbackExchange, SyntheticMarket, symbol_names

BTC, ETH = "BTCUSDT", "ETHUSDT"
KLINES = "/fapi/v1/klines"
PACE = Pace(period_s=1.0, tries=6, backoff_first_s=0.05, backoff_max_s=0.1)
FOR_EVER = Pace(period_s=1.0, tries=1_000_000, backoff_first_s=0.05, backoff_max_s=0.2)
MINUTE = 60_000


@pytest.fixture
def exchange() -> Iterator[LoopbackExchange]:
    with LoopbackExchange(SyntheticMarket(2, seed=7), life_s=120.0) as running:
        yield running


class Stage:
    """A feed whose bars close when a test says so: waiting moves its clock on."""

    def __init__(self, x: LoopbackExchange, **options: object) -> None:
        self.x = x
        self.ahead_ns = 0
        self.mono_ahead_ns = 0
        self.before_bar: Callable[[], None] = lambda: None
        settings: dict[str, object] = {"pace": FOR_EVER, "check_every_s": 0.02, "start_s": 20.0, **options}
        self.feed = BinancePrices(
            (BTC, ETH), base_url=x.url, now_ns=self.now_ns, wait=self.wait,
            mono_ns=lambda: time.monotonic_ns() + self.mono_ahead_ns, **settings,  # type: ignore[arg-type]
        )  # fmt: skip
        self.bars = self.feed.bars()

    def now_ns(self) -> int:
        return time.time_ns() + self.ahead_ns

    def wait(self, seconds: float) -> None:
        self.before_bar()
        self.ahead_ns += int(seconds * NS_PER_S) + 1

    def trades(self) -> None:
        """Move the market until both symbols were heard of anew."""
        heard = self.feed.board.heard

        def moved() -> bool:
            self.x.step(5)
            return self.feed.board.heard > heard + 4 and len(self.feed.board._last) == 2

        def arrived() -> bool:
            last = self.feed.board._last
            return all(last[name][1] == line.last_price for name, line in self.x.line_of.items())

        self.x.wait(lambda: self.x.meter.subscriptions.get("ethusdt@aggTrade", 0) >= 1)
        until(moved)
        until(arrived)


def until(true: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Bounded wait for something that another thread does."""
    end = time.monotonic() + timeout_s
    pause = threading.Event()
    while not true():
        assert time.monotonic() < end, "did not come true"
        pause.wait(0.01)


@pytest.fixture
def stage(exchange: LoopbackExchange) -> Iterator[Stage]:
    made = Stage(exchange)
    yield made
    made.feed.close()


def test_board_takes_the_newest_price_and_names_what_is_stale() -> None:
    board = PriceBoard((BTC, ETH), fresh_ns=30)
    assert board.hear(BTC, 100.0, 50)
    assert not board.hear(BTC, 99.0, 49)
    assert not board.hear("XRPUSDT", 1.0, 50)
    for bad in (float("nan"), float("inf"), 0.0, -1.0):
        assert not board.hear(BTC, bad, 60)
    bar = board.close_bar(80)
    assert bar.timestamp_ns == 80
    assert bar.prices[0] == 100.0
    assert np.isnan(bar.prices[1])
    assert np.isnan(board.close_bar(81).prices).all()
    assert board.stale == {BTC: 1, ETH: 2}
    rules = ("backward", "missing", "infinite", "zero", "negative")
    assert board.rejections == {(BTC, rule): 1 for rule in rules}


def test_warmup_has_prices_only_where_a_minute_closed() -> None:
    closes = {BTC: {0: 1.0, MINUTE: 2.0, 2 * MINUTE: 3.0}}
    bars = warmup_bars((BTC, ETH), closes, 10 * NS_PER_S, 120 * NS_PER_S, 5 * NS_PER_S)
    assert [b.timestamp_ns // NS_PER_S for b in bars] == list(range(10, 121, 5))
    prices = {b.timestamp_ns // NS_PER_S: b.prices[0] for b in bars if not np.isnan(b.prices[0])}
    assert prices == {10: 1.0, 60: 2.0, 120: 3.0}
    assert all(np.isnan(b.prices[1]) for b in bars)


def test_a_frame_is_a_trade_another_message_or_refused() -> None:
    text = '{"e":"aggTrade","E":2,"a":1,"s":"BTCUSDT","p":"7.5","q":"1","f":1,"l":1,"T":1,"m":true}'
    for frame in (text, f'{{"stream":"btcusdt@aggTrade","data":{text}}}'):
        trade = trade_from(frame)
        assert trade is not None
        assert (trade.s, trade.p, trade.T) == (BTC, 7.5, 1)
    assert trade_from('{"result":null,"id":1}') is None
    with pytest.raises(DataError, match="aggTrade message refused"):
        trade_from('{"e":"aggTrade","s":"BTCUSDT"}')


def test_bars_are_the_warmup_and_then_the_last_trades(stage: Stage) -> None:
    warm = [next(stage.bars) for _ in range(WARMUP_PRICES - 1)]
    stamps = np.diff([b.timestamp_ns for b in warm])
    assert (stamps == 5 * NS_PER_S).all()
    fresh = [k for k, b in enumerate(warm) if not np.isnan(b.prices).any()]
    assert fresh[0] == 0
    assert set(np.diff(fresh[1:])) == {12}
    assert 60 <= len(fresh) <= 64
    stage.before_bar = stage.trades
    bar = next(stage.bars)
    assert bar.timestamp_ns == warm[-1].timestamp_ns + 5 * NS_PER_S
    last = {name: line.last_price for name, line in stage.x.line_of.items()}
    assert bar.prices.tolist() == [last[BTC], last[ETH]]
    assert stage.feed.live_bars == 1
    assert stage.x.meter.forbidden == []


def live(stage: Stage) -> Bar:
    """The first live bar."""
    stage.before_bar = stage.trades
    bar = next(stage.bars)
    while not stage.feed.live_bars:
        bar = next(stage.bars)
    return bar


def test_a_symbol_without_trades_is_stale_and_a_machine_that_stood_still_leaves_bars_out(
    stage: Stage,
) -> None:
    first = live(stage)
    stage.before_bar = lambda: None
    bars = [next(stage.bars) for _ in range(8)]
    assert np.isnan(bars[-1].prices).all()
    assert not np.isnan(bars[0].prices).any()
    stage.ahead_ns += 60 * NS_PER_S
    later = next(stage.bars)
    assert later.timestamp_ns - first.timestamp_ns > 60 * NS_PER_S
    assert later.timestamp_ns > bars[-1].timestamp_ns
    assert any("stale" in note and BTC in note for note in stage.feed.notes)
    assert 11 <= stage.feed.counts["bars_missed"] <= 12
    assert any("could not be closed in time" in note for note in stage.feed.notes)


@pytest.mark.parametrize("abort", [False, True])
def test_a_lost_connection_is_made_anew(stage: Stage, abort: bool) -> None:
    live(stage)
    assert stage.x.disconnect(abort=abort) == 1
    until(lambda: stage.x.meter.connections_opened >= 2)
    bar = next(stage.bars)
    assert not np.isnan(bar.prices).any()
    assert stage.feed.keeper is not None
    assert stage.feed.keeper.counts["errors"] >= 1


def test_a_silent_socket_is_dead_within_30_s_and_an_old_one_is_renewed(stage: Stage) -> None:
    live(stage)
    keeper = stage.feed.keeper
    assert keeper is not None
    silence = stage.x.faults.add("silence", stream="*")
    stage.mono_ahead_ns += 29 * NS_PER_S
    until(lambda: keeper.counts["silent"] >= 1)
    stage.x.faults.clear(silence)
    until(lambda: stage.x.meter.connections_opened >= 2)
    stage.trades()
    assert not np.isnan(next(stage.bars).prices).any()
    opened = stage.x.meter.connections_opened
    keeper._silent_ns = 2**62

    def aged() -> bool:
        """A day passes at each call, so that one made anew in between grows old as well."""
        stage.mono_ahead_ns += 24 * 3_600 * NS_PER_S
        return keeper.counts["renewals"] >= 1

    until(aged)
    until(lambda: stage.x.meter.connections_opened > opened)


@pytest.mark.parametrize("value", ["text", "broken", "binary", "fields", "nan", "huge"])
def test_garbage_leaves_the_prices_as_they_are(stage: Stage, value: str) -> None:
    live(stage)
    stage.x.faults.add("garbage", stream="*@aggTrade", value=value, count=1)
    bar = next(stage.bars)
    last = {name: line.last_price for name, line in stage.x.line_of.items()}
    assert bar.prices.tolist() == [last[BTC], last[ETH]]


def test_a_clock_that_is_wrong_begins_no_run(exchange: LoopbackExchange) -> None:
    exchange.skew(60.0)
    stage = Stage(exchange)
    with pytest.raises(ConfigError, match=r"clock is -60\.0 s off"):
        next(stage.bars)
    stage.feed.close()


def test_a_clock_that_is_a_little_wrong_is_told(exchange: LoopbackExchange) -> None:
    exchange.skew(-2.0)
    stage = Stage(exchange)
    bar = live(stage)
    assert not np.isnan(bar.prices).any()
    assert any("synchronise" in note for note in stage.feed.notes)
    stage.feed.close()


def test_an_exchange_that_refuses_at_first_is_asked_again(exchange: LoopbackExchange) -> None:
    exchange.faults.add("status", path="/fapi/v1/exchangeInfo", value=503, count=2)
    exchange.faults.add("status", path=KLINES, value=429, retry_after_s=1, count=1)
    exchange.faults.add("status", path="/public/ws*", value=503, count=1)
    exchange.delisted.add(ETH)
    stage = Stage(exchange)
    first = next(stage.bars)
    assert first.prices[0] > 0.0
    assert np.isnan(first.prices[1])
    assert any("not traded" in note and ETH in note for note in stage.feed.notes)
    stage.feed.close()


def test_a_wait_for_the_exchange_is_told_and_ends_when_asked_to_stop(exchange: LoopbackExchange) -> None:
    exchange.faults.add("status", path="*", value=503)
    told: list[str] = []
    stage = Stage(exchange, start_s=60.0, told_after_s=0.5)
    stage.feed.news, stage.feed.stop_requested = told.append, lambda: bool(told)
    began_s = time.monotonic()
    assert list(stage.bars) == []
    assert time.monotonic() - began_s < 30.0
    assert len(told) == 1
    assert told[0].startswith("waiting for the exchange: ")
    stage.feed.close()


def test_symbols_that_are_not_traded_are_told_before_the_warm_up(exchange: LoopbackExchange) -> None:
    exchange.faults.add("hang", path=KLINES)
    exchange.delisted.add(ETH)
    told: list[str] = []
    stage = Stage(exchange)
    stage.feed.news, stage.feed.stop_requested = told.append, lambda: bool(told)
    assert list(stage.bars) == []
    assert told == ["1 symbol not traded on the exchange now: ETHUSDT"]
    stage.feed.close()


def test_an_exchange_that_goes_quiet_is_told_once_and_once_when_it_is_back(stage: Stage) -> None:
    told: list[str] = []
    stage.feed.news = told.append
    live(stage)
    assert told == []
    stage.before_bar = lambda: None
    for _ in range(20):
        next(stage.bars)
    assert len(told) == 1
    assert told[0].startswith("no fresh price of 2 of 2 symbols since ")
    # The feed's clock was moved on; the exchange's follows.
    stage.x.skew(stage.ahead_ns / NS_PER_S + 10.0)
    stage.before_bar = stage.trades
    next(stage.bars)
    next(stage.bars)
    assert len(told) == 2
    assert told[1].startswith("prices are back: 2 of 2 symbols, after ")


def test_bars_without_prices_do_not_count_as_live(stage: Stage) -> None:
    live(stage)
    stage.before_bar = lambda: None
    for _ in range(20):
        next(stage.bars)
    assert stage.feed.counts["bars"] == 21
    assert 1 <= stage.feed.live_bars <= 8


def test_more_symbols_than_one_call_takes_all_have_prices() -> None:
    names = tuple(symbol_names(203))
    with LoopbackExchange(SyntheticMarket(203, seed=7, levels=5), life_s=120.0) as x:
        feed = BinancePrices(names, base_url=x.url, backfill=False, pace=FOR_EVER)
        bars = feed.bars()
        asked = threading.Thread(target=lambda: next(bars, None), daemon=True)
        asked.start()

        def heard() -> bool:
            x.step(5)
            return len(feed.board._last) == 203

        until(heard)
        feed.close()
        asked.join(20.0)
        assert not asked.is_alive()
        assert feed.keeper is not None
        assert feed.keeper.counts["errors"] == 0


def test_a_warm_up_without_klines_is_one_line_and_not_needed(exchange: LoopbackExchange) -> None:
    exchange.faults.add("status", path=KLINES, value=500)
    with_klines = Stage(exchange, klines_pace=PACE)
    with pytest.raises(DataError, match="BTCUSDT: no klines after 6 tries"):
        next(with_klines.bars)
    with_klines.feed.close()
    without = Stage(exchange, backfill=False)
    bar = live(without)
    assert without.feed.live_bars == 1
    assert not np.isnan(bar.prices).any()
    assert any("first scan comes after 63 minutes" in note for note in without.feed.notes)
    without.feed.close()


def test_an_exchange_that_is_away_is_one_line(exchange: LoopbackExchange) -> None:
    exchange.faults.add("status", path="*", value=503)
    stage = Stage(exchange, start_s=1.0)
    with pytest.raises(DataError, match="did not answer within 1 s"):
        next(stage.bars)


def test_download_is_paged_resumed_and_readable(exchange: LoopbackExchange, tmp_path: Path) -> None:
    out = tmp_path / "klines.parquet"
    end = int(time.time() * 1_000) // MINUTE * MINUTE - MINUTE
    begin = end - 2_500 * MINUTE

    def get(stop: bool = False) -> object:
        return download(
            (BTC, ETH), "1m", begin, end, out, base_url=exchange.url, pace=PACE, min_request_ms=1.0,
            stop_requested=lambda: stop,
        )  # fmt: skip

    first = get(stop=True)
    assert first.interrupted  # type: ignore[attr-defined]
    assert not out.exists()
    exchange.faults.add("status", path=KLINES, value=429, retry_after_s=1, count=1)
    exchange.faults.add("status", path=KLINES, value=503, count=1)
    exchange.faults.add("garbage", path=KLINES, count=1)
    result = get()
    assert (result.pages_there, result.pages_asked) == (1, 5)  # type: ignore[attr-defined]
    assert result.tries_again >= 3  # type: ignore[attr-defined]
    assert result.rows == 5_000  # type: ignore[attr-defined]
    assert [p.name for p in tmp_path.iterdir()] == ["klines.parquet"]
    feed = RecordedFeed(out)
    assert feed.symbols == (BTC, ETH)
    assert feed.n_bars == 2_500
    assert feed.interval_ns == 60 * NS_PER_S
    assert not feed.rejections


def test_klines_that_the_exchange_does_not_have_are_missing_rows_and_named(
    exchange: LoopbackExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = int(time.time() * 1_000) // MINUTE * MINUTE - MINUTE
    whole = klines._rows
    lost = {end - 20 * MINUTE, end - 19 * MINUTE}

    def holed(answer: Any, symbol: str, begin_ms: int, end_ms: int) -> list[tuple[float, ...]]:
        rows = whole(answer, symbol, begin_ms, end_ms)
        return [row for row in rows if symbol == BTC and row[0] not in lost]

    monkeypatch.setattr(klines, "_rows", holed)
    out = tmp_path / "k.parquet"
    result = download((BTC, ETH), "1m", end - 60 * MINUTE, end, out, base_url=exchange.url, pace=PACE)
    assert result.rows == 58
    assert [gap.n_missing for gap in result.gaps[BTC]] == [2]
    assert result.absent == (ETH,)


def test_download_refuses_in_one_line(exchange: LoopbackExchange, tmp_path: Path) -> None:
    out, end = tmp_path / "k.parquet", int(time.time() * 1_000)

    def get(symbol: str = BTC, interval: str = "1m", begin: int = end - MINUTE * 10) -> None:
        download((symbol,), interval, begin, end, out, base_url=exchange.url, pace=PACE, min_request_ms=1.0)

    with pytest.raises(UsageError, match="--interval '7m'"):
        get(interval="7m")
    with pytest.raises(UsageError, match="later --to"):
        get(begin=end + 10 * MINUTE)
    with pytest.raises(UsageError, match="NOPEUSDT"):
        get(symbol="NOPEUSDT")
    exchange.faults.add("status", path=KLINES, value=500)
    with pytest.raises(DataError, match="no klines after 6 tries"):
        get()
    with pytest.raises(UsageError, match="is a folder"):
        download((BTC,), "1m", end - MINUTE * 10, end, tmp_path, base_url=exchange.url)
    assert not list(tmp_path.iterdir())


def test_a_download_that_waits_for_the_exchange_says_so_and_can_be_stopped(
    exchange: LoopbackExchange, tmp_path: Path
) -> None:
    end = int(time.time() * 1_000)
    exchange.faults.add("hang", path=KLINES)
    told: list[str] = []
    began_s = time.monotonic()
    result = download(
        (BTC,), "1m", end - MINUTE * 10, end, tmp_path / "new" / "k.parquet", base_url=exchange.url,
        news=told.append, stop_requested=lambda: bool(told), told_after_s=0.3,
    )  # fmt: skip
    assert result.interrupted
    assert time.monotonic() - began_s < 40.0
    assert told[0] == "waiting for the exchange: no word"
    assert not list(tmp_path.iterdir())
