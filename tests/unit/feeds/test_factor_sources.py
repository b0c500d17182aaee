"""Live factors against the exchange on loopback: every fault costs its own source alone, and passes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dolphin.domain.clock import NS_PER_S
from dolphin.factors.keeper import LIVE_RULES, Keeper, Sample, SourceError
from dolphin.feeds.factor_answers import FACTOR_PAGES
from dolphin.feeds.factor_sources import LiveFactors, LiveSource
from dolphin.feeds.polling import Pace
from exchange import LoopbackExchange, SyntheticMarket

PATHS = {name: page.path for name, page in FACTOR_PAGES.items()}
OTHERS = {name: [each for each in PATHS if each != name] for name in PATHS}
FAST = Pace(period_s=0.05, timeout_s=0.4, tries=2, backoff_first_s=0.02)


@pytest.fixture
def exchange() -> Iterator[LoopbackExchange]:
    with LoopbackExchange(SyntheticMarket(1, seed=7), life_s=120.0) as running:
        running.factors.set(funding_rate=-0.0002, dvol=61.5, fng=22, taker=0.85)
        yield running


@pytest.fixture
def live(exchange: LoopbackExchange) -> Iterator[LiveFactors]:
    made = at(exchange.url)
    made.start()
    yield made
    made.stop()


def at(url: str, **other: Callable[..., object]) -> LiveFactors:
    addresses = dict.fromkeys(("binance", "deribit", "alternative"), url)
    return LiveFactors(addresses, seed=1, now_ns=time.time_ns, paces=dict.fromkeys(PATHS, FAST), **other)  # type: ignore[arg-type]


def value(source: LiveSource) -> float | None:
    try:
        sample = source.read(0)
    except SourceError as error:
        sample = error.sample
    return None if sample is None else sample.value


def fault(source: LiveSource) -> str:
    try:
        source.read(0)
    except SourceError as error:
        return str(error)
    return ""


def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait for what happens on another thread, without a sleep of our own."""
    end, pause = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        pause.wait(0.01)


def go_on(live: LiveFactors, names: list[str], n: int = 3) -> None:
    """The named sources have n more good answers."""
    before = {name: live.sources[name].counts["answers"] for name in names}
    until(lambda: all(live.sources[name].counts["answers"] >= before[name] + n for name in names))


def test_four_values_with_their_own_times(live: LiveFactors) -> None:
    until(lambda: all(value(source) is not None for source in live.sources.values()))
    now_ns = time.time_ns()
    samples = {name: source.read(0) for name, source in live.sources.items()}
    assert {name: sample.value for name, sample in samples.items() if sample} == {
        "funding_btc": -0.0002, "dvol_btc": pytest.approx(61.5, rel=0.02), "fng": 22.0,
        "taker": pytest.approx(0.85),
    }  # fmt: skip
    ages_s = {name: (now_ns - sample.at_ns) / NS_PER_S for name, sample in samples.items() if sample}
    assert 0.0 <= ages_s["funding_btc"] < 5.0
    assert 0.0 <= ages_s["dvol_btc"] < 65.0
    assert 0.0 <= ages_s["taker"] < 305.0
    assert 0.0 <= ages_s["fng"] < 86_405.0


def test_the_first_value_of_each_source_is_news(exchange: LoopbackExchange) -> None:
    news = threading.Semaphore(0)
    live = at(exchange.url, on_news=news.release)
    live.start()
    assert all(news.acquire(timeout=60.0) for _ in PATHS)
    go_on(live, list(PATHS))
    assert not news.acquire(blocking=False)
    live.stop()


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", ["slow", "trickle", "hang"])
def test_a_source_that_is_slow_or_silent_delays_no_other(
    exchange: LoopbackExchange, live: LiveFactors, name: str, kind: str
) -> None:
    go_on(live, list(PATHS), 1)
    kept = value(live.sources[name])
    broken = exchange.faults.add(kind, path=PATHS[name], value=30)
    go_on(live, OTHERS[name], 8)
    until(lambda: fault(live.sources[name]))
    assert "no whole answer within 0.4 s" in fault(live.sources[name])
    assert value(live.sources[name]) == kept
    assert not any(fault(live.sources[other]) for other in OTHERS[name])
    exchange.faults.clear(broken)
    until(lambda: not fault(live.sources[name]))


@pytest.mark.parametrize(
    ("kind", "wrong", "said"),
    [
        ("status", 503, "answered 503"),
        ("status", 404, "answered 404"),
        ("garbage", "text", "the answer is no JSON: this is no JSON"),
        ("garbage", "broken", "the answer is no JSON"),
        ("garbage", "fields", ", expected"),
    ],
)
@pytest.mark.parametrize("name", ["funding_btc", "fng"])
def test_a_wrong_answer_is_told_in_one_line_and_passes(
    exchange: LoopbackExchange, live: LiveFactors, name: str, kind: str, wrong: object, said: str
) -> None:
    go_on(live, list(PATHS), 1)
    kept = value(live.sources[name])
    broken = exchange.faults.add(kind, path=PATHS[name], value=wrong)
    until(lambda: fault(live.sources[name]))
    line = fault(live.sources[name])
    assert said in line
    assert PATHS[name] in line
    assert "\n" not in line
    assert value(live.sources[name]) == kept
    go_on(live, OTHERS[name])
    exchange.faults.clear(broken)
    until(lambda: not fault(live.sources[name]))


def test_a_single_failure_is_tried_again_and_is_no_news(
    exchange: LoopbackExchange, live: LiveFactors
) -> None:
    go_on(live, list(PATHS), 1)
    source = live.sources["dvol_btc"]
    exchange.faults.add("status", path=PATHS["dvol_btc"], value=500, count=1)
    until(lambda: source.counts["failures"] == 1)
    assert fault(source) == ""
    go_on(live, ["dvol_btc"], 1)
    assert (fault(source), source.counts["failures"]) == ("", 1)


def test_a_429_is_waited_out_by_the_source_that_met_it(exchange: LoopbackExchange, live: LiveFactors) -> None:
    go_on(live, list(PATHS), 1)
    exchange.faults.add("status", path=PATHS["taker"], value=429, retry_after_s=1, count=1)
    until(lambda: fault(live.sources["taker"]))
    assert "too many questions (429), waits 1 s" in fault(live.sources["taker"])
    go_on(live, OTHERS["taker"], 5)
    until(lambda: not fault(live.sources["taker"]))
    met = next(each.at_s for each in exchange.meter.requests if each.status == 429)
    after = min(at_s for at_s in exchange.meter.times_of(PATHS["taker"]) if at_s > met)
    assert after - met >= 1.0


def test_a_ban_holds_for_every_source_of_the_host_and_no_other(
    exchange: LoopbackExchange, live: LiveFactors
) -> None:
    go_on(live, list(PATHS), 1)
    exchange.faults.add("status", path=PATHS["taker"], value=418, retry_after_s=1, count=1)
    until(lambda: "banned (418) for 1 s" in fault(live.sources["taker"]))
    until(lambda: "not asked: binance bans this address" in fault(live.sources["funding_btc"]))
    go_on(live, ["dvol_btc", "fng"], 3)
    until(lambda: not fault(live.sources["taker"]) and not fault(live.sources["funding_btc"]))
    met = next(each.at_s for each in exchange.meter.requests if each.status == 418)
    for name in ("taker", "funding_btc"):
        # A question that was on its way when the ban came may still arrive.
        late = [at_s for at_s in exchange.meter.times_of(PATHS[name]) if at_s > met + 0.2]
        assert min(late) - met >= 1.0


def test_old_answers_become_stale_and_a_clock_that_is_wrong_is_told(
    exchange: LoopbackExchange, live: LiveFactors
) -> None:
    go_on(live, list(PATHS), 1)
    exchange.skew(300.0)
    source = live.sources["funding_btc"]
    until(lambda: "ahead of this machine's clock; set the clock" in fault(source))
    exchange.skew(0.0)
    until(lambda: not fault(source))
    sample = source.read(0)
    assert sample is not None
    keeper = Keeper("funding_btc", source, rule=LIVE_RULES["funding_btc"])
    live.stop()
    keeper.poll(sample.at_ns + 1800 * NS_PER_S)
    assert (keeper.status, keeper.value(sample.at_ns + 1800 * NS_PER_S)) == ("ok", -0.0002)
    keeper.poll(sample.at_ns + 1801 * NS_PER_S)
    assert (keeper.status, keeper.value(sample.at_ns + 1801 * NS_PER_S)) == ("stale", None)


def test_an_answer_older_than_the_last_changes_nothing() -> None:
    source = LiveSource("fng", FACTOR_PAGES["fng"], "https://x.org", 1)
    assert source.succeeded(Sample(20.0, 100))
    assert not source.succeeded(Sample(99.0, 50))
    assert source.read(0) == Sample(20.0, 100)


def test_a_failing_source_gives_the_keeper_its_last_good_value() -> None:
    source = LiveSource("fng", FACTOR_PAGES["fng"], "https://x.org", 1)
    keeper = Keeper("fng", source, rule=LIVE_RULES["fng"])
    source.failed("gone")
    keeper.poll(10)
    assert (keeper.status, keeper.value(10), keeper.fault) == ("failed", None, "x.org/fng/: gone")
    # A good answer between two polls is not lost to the failure after it.
    source.succeeded(Sample(20.0, 5))
    source.failed("gone again")
    keeper.poll(10)
    assert (keeper.status, keeper.value(10)) == ("failed", 20.0)


def test_it_stops_at_once_while_a_source_hangs(exchange: LoopbackExchange) -> None:
    exchange.faults.add("hang", path="*")
    live = at(exchange.url)
    live.start()
    exchange.wait(lambda: exchange.meter.faults_fired["hang"] >= 4)
    before = time.monotonic()
    live.stop()
    assert time.monotonic() - before < 2.0
    assert not [thread for thread in threading.enumerate() if thread.name == "factors"]
    live.stop()


def test_nobody_there_is_a_fault_of_one_line() -> None:
    live = at("http://127.0.0.1:9")
    live.start()
    until(lambda: all(fault(source) for source in live.sources.values()))
    assert all("\n" not in fault(source) for source in live.sources.values())
    assert {value(source) for source in live.sources.values()} == {None}
    live.stop()


class _Odd(BaseHTTPRequestHandler):
    """Answers that no exchange gives: a way elsewhere, a flood, NaN, a refusal by region."""

    asked_elsewhere = False

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/elsewhere":
            type(self).asked_elsewhere = True
        status = {PATHS["funding_btc"]: 302, PATHS["taker"]: 451}.get(path, 200)
        body = {PATHS["fng"]: b"x" * 200_000, PATHS["dvol_btc"]: b'{"result": NaN}'}.get(
            path, b"not\x1b[31m here"
        )
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_redirects_floods_and_odd_answers_are_refused() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Odd)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    live = at(f"http://127.0.0.1:{server.server_port}")
    live.start()
    try:
        until(lambda: all(fault(source) for source in live.sources.values()))
        said = {name: fault(source) for name, source in live.sources.items()}
        assert "answered 302" in said["funding_btc"]
        assert not _Odd.asked_elsewhere
        assert "larger than 65,536 bytes" in said["fng"]
        assert "the answer holds NaN" in said["dvol_btc"]
        assert "answered 451: not?[31m here" in said["taker"]
    finally:
        live.stop()
        server.shutdown()
        thread.join()
        server.server_close()
