"""A live market for the scanner's service: never waited for, through failures and restarts."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scan_system import ScanSystem

from dolphin.domain.bar import Bar
from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import ConfigError, DataError
from dolphin.domain.scan import WARMUP_PRICES
from dolphin.feeds.prices import BinancePrices
from dolphin.scan.ring import decode_row
from dolphin.services import live_bars
from dolphin.services.feeds import open_market
from dolphin.services.home import Home, SystemSettings
from dolphin.services.live_bars import LiveBars
from dolphin.services.system import establish
from exchange import LoopbackExchange, SyntheticMarket

STEP = 5 * NS_PER_S
BTC, ETH = "BTCUSDT", "ETHUSDT"


def until(true: Callable[[], object]) -> None:
    end, pause = time.monotonic() + 60.0, threading.Event()
    while not true():
        assert time.monotonic() < end, "did not come true"
        pause.wait(0.01)


class Scripted:
    """A live feed that gives its bars one after the other and then does what its script says."""

    name, source_id, symbols, interval_ns, n_bars = "scripted", "s", (BTC,), STEP, None

    def __init__(self, stamps: list[int], error: Exception | None = None) -> None:
        self.rejections: Counter[tuple[str, str]] = Counter()
        self.notes: list[str] = []
        self.stamps, self.error = stamps, error
        self.closed = threading.Event()

    def bars(self, skip: int = 0) -> Iterator[Bar]:
        for stamp in self.stamps:
            yield Bar(stamp, np.array([100.0]))
        if self.error is not None:
            raise self.error
        self.closed.wait(60.0)

    def close(self) -> None:
        self.closed.set()


def test_a_feed_that_fails_is_made_anew_and_its_trouble_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live_bars, "PAUSE_FIRST_S", 0.01)
    monkeypatch.setattr(live_bars, "PAUSE_MAX_S", 0.02)
    scripts = [Scripted([]), Scripted([1, 2], DataError("it broke off")), Scripted([3])]
    scripts[0].error = DataError("nobody answers")
    left = iter(scripts)
    bars = LiveBars(lambda: next(left))
    found: list[int] = []

    def come() -> bool:
        found.extend(bar.timestamp_ns for bar in bars.due(0, 10))
        return len(found) == 3

    until(come)
    assert found == [1, 2, 3]
    assert bars.n_failures == 2
    assert bars.trouble == ""
    told = [record.getMessage().partition(";")[0] for record in caplog.records]
    assert told == ["nobody answers", "it broke off"]
    bars.close()
    assert all(script.closed.is_set() for script in scripts)
    assert list(bars.due(0, 10)) == []


def test_whatever_a_feed_raises_the_thread_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_bars, "PAUSE_FIRST_S", 0.01)
    monkeypatch.setattr(live_bars, "PAUSE_MAX_S", 0.02)
    made = iter([Scripted([1], ValueError("a bug")), DataError("no such market"), Scripted([2])])

    def make() -> Scripted:
        found = next(made)
        if isinstance(found, Exception):
            raise found
        return found

    bars = LiveBars(make)
    found: list[int] = []

    def come() -> bool:
        found.extend(bar.timestamp_ns for bar in bars.due(0, 10))
        return len(found) == 2

    until(come)
    assert found == [1, 2]
    assert bars.n_failures == 2
    assert bars.trouble == ""
    bars.close()


def test_bars_are_given_up_to_a_limit_after_what_was_folded_and_the_oldest_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_bars, "WAITING_MAX", 4)
    bars = LiveBars(lambda: Scripted([1, 2, 3, 4, 5, 6]))
    bars.go_on_after(3)
    assert list(bars.due(0, 0)) == []  # begins
    until(lambda: bars.n_dropped == 2)
    assert [bar.timestamp_ns for bar in bars.due(0, 2)] == [4]  # 3 was one of the two
    assert [bar.timestamp_ns for bar in bars.due(0, 9)] == [5, 6]
    bars.close()


def test_the_scanners_ring_holds_the_exchanges_prices_and_a_restart_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LoopbackExchange(SyntheticMarket([BTC, ETH], seed=7), life_s=120.0) as x:
        system = ScanSystem(tmp_path, feed="binance", exchange=x.url, assets=2)
        ahead_ns = [0]
        gate = threading.Semaphore(0)

        def wait(seconds: float) -> None:
            """The feed's clock goes on when a test says so, with trades in between."""
            if gate.acquire(timeout=0.05):
                x.step(50)
                ahead_ns[0] += int(seconds * NS_PER_S) + 1

        def opened(settings: SystemSettings) -> BinancePrices:
            plain = open_market(settings)
            assert isinstance(plain, BinancePrices)
            return BinancePrices(
                plain.symbols,
                base_url=settings.exchange,
                backfill=False,
                fresh_s=3_600.0,
                now_ns=lambda: time.time_ns() + ahead_ns[0],
                wait=wait,
            )

        monkeypatch.setattr("dolphin.services.scanner.open_market", opened)

        def bars_of(scanner: Any, n: int) -> None:
            def come() -> bool:
                x.step(1)
                system.pass_s(1.0)
                return scanner.progress[0] >= n

            for _ in range(n):
                gate.release()
            until(come)

        first = system.scanner()
        assert first.health() == (True, f"warm-up: 0 of {WARMUP_PRICES} bars")
        bars_of(first, 6)
        system.kill(first)
        x.skew(ahead_ns[0] / NS_PER_S)  # its clock goes with ours
        second = system.scanner()
        assert second.progress[0] >= 6
        bars_of(second, second.progress[0] + 3)
        assert second.health()[0]
        pipeline = second._pipeline
        assert pipeline is not None
        kept = [decode_row(row) for row in pipeline._ring.rows()]
        stamps = [row.timestamp_ns for row in kept]
        assert stamps == sorted(set(stamps))
        assert all(stamp % STEP == 0 for stamp in stamps)
        newest = {line: x.line_of[line].last_price for line in (BTC, ETH)}
        assert all(0.5 < kept[-1].prices[k] / newest[s] < 2.0 for k, s in enumerate((BTC, ETH)))
        assert x.meter.forbidden == []
        system.close()


def test_a_new_home_takes_a_live_market_at_the_worlds_speed_only(tmp_path: Path) -> None:
    settings = establish(
        Home(tmp_path / "a"), {"feed": "binance", "assets": 2, "exchange": "http://127.0.0.1:1"}
    )
    assert (settings.feed, settings.assets) == ("binance", 2)
    with pytest.raises(ConfigError, match="speed 1"):
        establish(Home(tmp_path / "b"), {"feed": "binance", "speed": 10.0})
