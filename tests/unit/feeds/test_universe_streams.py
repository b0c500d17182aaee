"""Five levels of a whole universe from the exchange on loopback: three connections, what befalls them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import ConfigError, DataError
from dolphin.feeds.polling import Pace
from dolphin.feeds.universe_messages import Answer, FiveLevels, active_perpetuals, message_of
from dolphin.feeds.universe_streams import STREAMS_MAX, UniverseStreams
from dolphin.orderbook.universe import judge_top
from exchange import LoopbackExchange, SyntheticMarket

INFO = "/fapi/v1/exchangeInfo"
PACE = Pace(period_s=1.0, tries=1_000_000, backoff_first_s=0.05, backoff_max_s=0.2)


class Stage:
    """Streams of a market that stands still until a test moves it; ages move as a test says."""

    def __init__(self, x: LoopbackExchange, **options: Any) -> None:
        self.x = x
        self.ahead_ns = 0
        self.streams = UniverseStreams(
            base_url=x.url, mono_ns=lambda: time.monotonic_ns() + self.ahead_ns,
            **{"pace": PACE, "listing_pace": PACE, "check_every_s": 0.02, "message_every_s": 0.11, **options},
        )  # fmt: skip
        self.streams.start()

    @property
    def counts(self) -> dict[str, int]:
        return self.streams.counts

    def until(self, true: Callable[[], object], *, step: bool = False) -> None:
        """Bounded wait for something that another thread does, the market moving or not."""
        end, pause = time.monotonic() + 60.0, threading.Event()
        while not true():
            assert time.monotonic() < end, f"did not come true: {self.counts} {self.streams.last_error}"
            if step:
                self.x.step(5)
            pause.wait(0.01)

    def all_there(self) -> None:
        """Every symbol has a book that came after now."""
        before = self.streams.mono_ns()
        symbols = set(self.x.line_of) - self.x.delisted

        def fresh() -> bool:
            return {s for s, held in self.streams.books().items() if held.arrived_ns > before} == symbols

        self.until(lambda: len(self.x.meter.subscriptions) == len(symbols))
        self.until(fresh, step=True)


@pytest.fixture
def x() -> Iterator[LoopbackExchange]:
    with LoopbackExchange(SyntheticMarket(30, seed=7, levels=8), life_s=180.0) as running:
        yield running
        assert running.meter.forbidden == []


@pytest.fixture
def stage(x: LoopbackExchange) -> Iterator[Stage]:
    made = Stage(x)
    yield made
    made.streams.stop()
    x.wait(lambda: x.meter.connections == 0)


def test_540_symbols_over_three_connections_by_push_alone() -> None:
    with LoopbackExchange(SyntheticMarket(540, seed=3, levels=6), life_s=180.0) as x:
        stage = Stage(x)
        stage.all_there()
        assert x.meter.connections == 3
        assert [c.n_streams for c in stage.streams.connections()] == [180, 180, 180]
        assert all(c.is_open and c.is_fresh for c in stage.streams.connections())
        assert set(x.meter.subscriptions) == {f"{s.lower()}@depth5@500ms" for s in x.line_of}
        assert set(x.meter.subscriptions.values()) == {1}
        # One question of weight 1, whatever the number of symbols.
        assert {path: n for path, n in x.meter.by_path.items() if not path.endswith("/ws")} == {INFO: 1}
        assert x.meter.streams_refused == 0
        books = stage.streams.books()
        for symbol in ("BTCUSDT", "T539USDT"):
            line = x.line_of[symbol]
            bids, asks = x.call(lambda line=line: line.book.top(5))  # type: ignore[misc]
            as_numbers = [[(float(p), float(q)) for p, q in levels] for levels in (bids, asks)]
            assert books[symbol].top == judge_top(*as_numbers)
        stage.streams.stop()
        x.wait(lambda: x.meter.connections == 0)
        assert stage.counts["errors"] == 0
        assert stage.streams.books() == books


def test_one_connection_of_three_breaks_and_the_others_do_not_notice(
    stage: Stage, x: LoopbackExchange
) -> None:
    stage.all_there()
    lost = {s for s in x.line_of if stage.streams._of[s].number == 1}
    assert len(lost) == 10
    for abort in (False, True):
        opened, lives = x.meter.connections_opened, stage.counts["lives"]
        assert x.disconnect(stream=f"{min(lost).lower()}@*", abort=abort) == 1
        stage.until(lambda lives=lives: stage.counts["lives"] == lives + 1)  # type: ignore[misc]
        stage.all_there()
        assert x.meter.connections_opened == opened + 1
    assert {s for s, n in x.meter.subscribes.items() if n > 1} == {f"{s.lower()}@depth5@500ms" for s in lost}
    assert stage.counts["errors"] == 2
    assert any("connection 1" in line for line in stage.streams.notices())
    assert stage.streams.notices() == []


def test_a_silent_connection_is_dead_within_30_s(stage: Stage, x: LoopbackExchange) -> None:
    stage.all_there()
    quiet = [s for s in x.line_of if stage.streams._of[s].number == 2]
    faults = [x.faults.add("silence", symbol=s, stream="*@depth5*") for s in quiet]
    # 26 s later by the clock of ages: the two others bring books meanwhile.
    stage.ahead_ns += 24 * NS_PER_S
    before = stage.streams.mono_ns()

    def others() -> bool:
        return all(h.arrived_ns > before for s, h in stage.streams.books().items() if s not in quiet)

    stage.until(others, step=True)
    assert stage.counts["silent"] == 0
    stage.ahead_ns += 2 * NS_PER_S
    stage.until(lambda: stage.counts["silent"] == 1)
    assert not any(held.arrived_ns > before for s, held in stage.streams.books().items() if s in quiet)
    stage.until(lambda: stage.counts["lives"] == 4)
    (notice,) = stage.streams.notices()
    assert notice.startswith("connection 2: no book for 2")
    stage.ahead_ns += 10 * NS_PER_S
    states = {c.number: c for c in stage.streams.connections()}
    assert not states[2].is_fresh
    assert states[1].is_fresh
    for fault in faults:
        x.faults.clear(fault)
    stage.all_there()
    assert all(c.is_fresh for c in stage.streams.connections())
    assert stage.counts["errors"] == 0


def test_a_subscription_without_an_answer_is_given_up(x: LoopbackExchange) -> None:
    x.faults.add("silence", stream="*", value="no-pong")
    stage = Stage(x)
    x.wait(lambda: x.meter.frames_swallowed >= 3)
    stage.ahead_ns += 11 * NS_PER_S
    stage.until(lambda: stage.counts["silent"] == 3)
    assert all("is not answered for 10 s" in line for line in stage.streams.notices())
    x.clear_faults()
    stage.all_there()
    stage.streams.stop()


def test_garbage_is_counted_by_name_and_the_rest_goes_on(stage: Stage, x: LoopbackExchange) -> None:
    stage.all_there()
    expected = {"text": "unreadable", "broken": "unreadable", "binary": "unreadable", "fields": "unreadable",
                "huge": "unreadable", "nan": ""}  # fmt: skip
    for value, name in expected.items():
        before = {k: n for k, n in stage.counts.items() if k.startswith(("unreadable", "refused", "foreign"))}
        fired = x.meter.faults_fired["garbage"]
        x.faults.add("garbage", symbol="ETHUSDT", stream="*@depth5*", value=value, count=1)
        stage.until(lambda fired=fired: x.meter.faults_fired["garbage"] > fired, step=True)  # type: ignore[misc]
        stage.all_there()
        after = {k: n for k, n in stage.counts.items() if k.startswith(("unreadable", "refused", "foreign"))}
        more = {k for k in after if after[k] > before.get(k, 0)}
        # A message about BTC may come on a connection that has it, and is refused, or on another's.
        assert more == {name} if name else more and more <= {"unreadable", "refused_not_finite", "foreign"}
    assert stage.counts["lives"] == 3
    assert stage.counts["errors"] == 0


def test_a_bad_book_is_named_and_the_last_sound_one_stays(x: LoopbackExchange) -> None:
    stage = Stage(x)
    stage.all_there()
    connection = stage.streams._of["BTCUSDT"]
    held = stage.streams.books()["BTCUSDT"]
    bad = {
        "crossed": ([["101", "1"]], [["100", "1"]]),
        "empty": ([], [["100", "1"]]),
        "not_positive": ([["99", "0"]], [["100", "1"]]),
        "repeated": ([["99", "1"], ["99", "2"]], [["100", "1"]]),
        "too_many": ([[str(90 + k), "1"] for k in range(6)], [["100", "1"]]),
    }
    for reason, (bids, asks) in bad.items():
        text = json.dumps({"e": "depthUpdate", "s": "BTCUSDT", "b": bids, "a": asks})
        stage.streams._hear(connection, text)
        assert stage.counts[f"refused_{reason}"] == 1
    assert stage.streams.books()["BTCUSDT"] == held
    stage.streams.stop()


def test_what_is_delisted_goes_and_what_is_listed_comes(x: LoopbackExchange) -> None:
    x.delisted.update({"ETHUSDT", "SOLUSDT"})
    stage = Stage(x)
    stage.all_there()
    assert len(stage.streams.symbols) == 28
    x.delisted.discard("SOLUSDT")
    x.delisted.add("BTCUSDT")
    stage.streams.ask_listing()
    stage.until(lambda: "SOLUSDT" in stage.streams.symbols)
    assert "BTCUSDT" not in stage.streams.books()
    stage.all_there()
    assert "SOLUSDT" in stage.streams.books()
    assert x.meter.unsubscribes == {"btcusdt@depth5@500ms": 1}
    assert (stage.counts["listed"], stage.counts["delisted"], stage.counts["lives"]) == (1, 1, 3)
    told = stage.streams.notices()
    assert told == ["listed: SOLUSDT", "not traded any more: BTCUSDT"]
    stage.streams.stop()


def test_the_list_is_read_again_by_itself_and_a_bad_one_changes_nothing(x: LoopbackExchange) -> None:
    x.faults.add("status", path=INFO, value=503, count=2)
    x.faults.add("garbage", path=INFO, value="fields", count=1)
    stage = Stage(x, listing_every_s=0.05)
    stage.all_there()
    assert stage.counts["listings_failed"] == 3
    every = set(x.line_of)
    x.delisted |= every
    failed = stage.counts["listings_failed"]
    stage.until(lambda: stage.counts["listings_failed"] > failed + 1)
    assert set(stage.streams.symbols) == every
    x.delisted.clear()
    listings = stage.counts["listings"]
    stage.until(lambda: stage.counts["listings"] > listings)
    stage.all_there()
    assert (stage.counts["delisted"], stage.counts["lives"]) == (0, 3)
    stage.streams.stop()


def test_a_connection_that_is_full_gets_a_neighbour() -> None:
    with LoopbackExchange(SyntheticMarket(4, seed=7, levels=6), streams_max=2, life_s=60.0) as x:
        x.delisted.add("SOLUSDT")
        stage = Stage(x, streams_first=1)
        stage.all_there()
        assert [c.n_streams for c in stage.streams.connections()] == [1, 1, 1]
        for connection in stage.streams._connections:
            # As if each had all the streams that the exchange allows.
            connection.wanted |= {f"X{connection.number}{k}" for k in range(STREAMS_MAX - 1)}
        x.delisted.clear()
        stage.streams.ask_listing()
        stage.until(lambda: len(stage.streams._connections) == 4)
        stage.until(lambda: "SOLUSDT" in stage.streams.books(), step=True)
        stage.streams.stop()


def test_streams_that_the_exchange_refuses_are_an_error_that_is_told() -> None:
    with LoopbackExchange(SyntheticMarket(9, seed=7, levels=6), streams_max=2, life_s=60.0) as x:
        stage = Stage(x)
        stage.until(lambda: stage.counts["refused_asks"] >= 3)
        assert "refuses a subscription" in stage.streams.last_error
        assert "more than 2 streams" in stage.streams.last_error
        stage.streams.stop()


def test_connections_are_renewed_before_the_exchange_ends_them(stage: Stage, x: LoopbackExchange) -> None:
    stage.all_there()
    stage.ahead_ns += int(22.2 * 3_600 * NS_PER_S)
    # Within the same look silence would come first: books arrive on the clock that has jumped.
    stage.until(lambda: stage.counts["silent"] + stage.counts["renewals"] >= 3)
    stage.all_there()
    stage.until(lambda: all(c.is_open for c in stage.streams.connections()))
    for connection in stage.streams._connections:
        assert 0.95 * 23.5 * 3_600 <= (connection.renewed_ns - connection.born_ns) / NS_PER_S <= 23.5 * 3_600
        connection.renewed_ns = stage.streams.mono_ns()
    renewals = stage.counts["renewals"]
    stage.until(lambda: stage.counts["renewals"] == renewals + 3)
    stage.all_there()
    assert x.meter.connections_expired == 0
    assert stage.counts["errors"] == 0
    assert any("renewed by plan" in line for line in stage.streams.notices())


def test_the_exchange_ends_old_connections_and_they_begin_anew(stage: Stage, x: LoopbackExchange) -> None:
    stage.all_there()
    x.pass_time(86_401)
    x.wait(lambda: x.meter.connections_expired == 3)
    stage.until(lambda: stage.counts["lives"] == 6)
    stage.all_there()
    assert "ended by the exchange" in stage.streams.last_error


def test_a_handshake_that_is_refused_backs_off_and_keeps_the_servers_wait(x: LoopbackExchange) -> None:
    x.faults.add("status", path="/public/ws*", value=500, count=3)
    x.faults.add("status", path="/public/ws*", value=429, count=1, retry_after_s=1)
    stage = Stage(x)
    stage.all_there()
    assert stage.counts["error_WSServerHandshakeError"] == 4
    refused = [r for r in x.meter.requests if r.path.startswith("/public/ws")]
    last = max(r.at_s for r in refused if r.status == 429)
    later = [r.at_s - last for r in refused if r.at_s > last and r.status == 101]
    # Whoever asks after the refusal was known has waited; who was on the way then had not.
    assert later
    assert max(later) >= 0.9
    stage.streams.stop()


def test_what_nobody_expects_begins_anew(x: LoopbackExchange, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(x)
    stage.all_there()
    with monkeypatch.context() as patch:
        patch.setattr(UniverseStreams, "_hear", lambda *_: 1 // 0)
        stage.until(lambda: stage.counts["error_ZeroDivisionError"] >= 1, step=True)
    stage.all_there()
    assert "integer division" in " ".join(stage.streams.notices())
    stage.streams.stop()
    stage.streams.stop()


def test_wrong_settings_are_refused_before_a_socket_is_opened() -> None:
    for wrong in (0, 201):
        with pytest.raises(ConfigError, match=f"streams_first is {wrong}"):
            UniverseStreams(streams_first=wrong)
    with pytest.raises(ConfigError, match="must begin with https://"):
        UniverseStreams(base_url="http://example.com").start()
    idle = UniverseStreams()
    idle.stop()
    idle.ask_listing()
    assert idle.connections() == []


def test_messages_by_their_text() -> None:
    depth = message_of('{"e":"depthUpdate","E":1,"s":"BTCUSDT","b":[["99","1.5"]],"a":[["100","2"]],"u":3}')
    assert isinstance(depth, FiveLevels)
    assert (depth.b, depth.a) == ([(99.0, 1.5)], [(100.0, 2.0)])
    assert message_of('{"result":null,"id":7}') == Answer(id=7)
    assert message_of('{"error":{"code":2},"id":null}') == Answer(id=None, error={"code": 2})
    for garbage in (
        "",
        "[]",
        "{",
        "null",
        '{"id":"x"}',
        '{"e":"x","s":"A","b":[["x","1"]],"a":[]}',
        "\ud800",
    ):
        assert message_of(garbage) is None


def test_the_list_takes_usdt_perpetuals_that_are_traded() -> None:
    def row(symbol: str, **other: str) -> dict[str, str]:
        base = {"symbol": symbol, "contractType": "PERPETUAL", "quoteAsset": "USDT", "status": "TRADING"}
        return {**base, **other}

    rows = [
        row("BTCUSDT"), row("BTCUSDT"), row("BTCUSDC", quoteAsset="USDC"), row("ETHUSDT", status="SETTLING"),
        row("BTCUSDT_260327", contractType="CURRENT_QUARTER"), row("币安人生USDT"), row("1000PEPEUSDT"),
    ]  # fmt: skip
    assert active_perpetuals({"symbols": rows}) == (["BTCUSDT", "1000PEPEUSDT"], ["币安人生USDT"])
    for wrong in (None, [], {}, {"symbols": [{}]}, {"symbols": None}, {"symbols": [1]}):
        with pytest.raises(DataError, match="exchangeInfo refused: no list of symbols"):
            active_perpetuals(wrong)
    with pytest.raises(DataError, match="names no USDT perpetual"):
        active_perpetuals({"symbols": []})


def test_names_that_no_universe_takes_are_told_once() -> None:
    streams = UniverseStreams()
    opened: list[int] = []
    for names in (["币安人生USDT"], ["币安人生USDT"], []):
        streams._connections = [object()]  # type: ignore[list-item]
        streams._listed([], names, lambda: opened.append(1))  # type: ignore[arg-type,return-value]
    assert streams.notices() == ["left out, names that no universe takes: 币安人生USDT"]
    assert streams.unnamed == ()
    assert opened == []
