"""The exchange's REST: fields and types of the documented samples, limits, weights, errors and faults."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from exchange import Factors, LoopbackExchange, SyntheticMarket

DAY_MS = 86_400_000


def ask(running: LoopbackExchange, path: str, **query: Any) -> tuple[int, Any, dict[str, str]]:
    """(status, body, headers) of one GET."""
    return asyncio.run(_ask(running.url + path, query))


async def _ask(url: str, query: dict[str, Any], timeout_s: float = 5.0) -> tuple[int, Any, dict[str, str]]:
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    params = {k: str(v) for k, v in query.items()}
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, params=params) as answer:
        text = await answer.text()
        body = json.loads(text) if answer.content_type == "application/json" else text
        return answer.status, body, dict(answer.headers)


def sample(recordings: Path, name: str) -> Any:
    """The documented answer: the text behind method, path and signed."""
    text = (recordings / "fixtures" / "binance_usdm_jkorf" / "Endpoints" / "ExchangeData" / name).read_text()
    return json.loads(text.split("\n", 3)[3])


def shape(value: Any) -> Any:
    """Field names and types, one element for a list."""
    if isinstance(value, dict):
        return {name: shape(v) for name, v in value.items()}
    if isinstance(value, list):
        return [shape(v) for v in value[:1]] if not _is_row(value) else [type(v).__name__ for v in value]
    return type(value).__name__


def _is_row(value: list[Any]) -> bool:
    return bool(value) and all(not isinstance(v, dict | list) for v in value)


@pytest.mark.parametrize(
    ("file", "path", "query"),
    [
        ("GetServerTime.txt", "/fapi/v1/time", {}),
        ("GetOrderBook.txt", "/fapi/v1/depth", {"symbol": "BTCUSDT", "limit": 5}),
        ("GetKlines.txt", "/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": 3}),
        ("GetMarkPrice.txt", "/fapi/v1/premiumIndex", {"symbol": "BTCUSDT"}),
        ("GetBookPrice.txt", "/fapi/v1/ticker/bookTicker", {"symbol": "BTCUSDT"}),
        ("GetPrice.txt", "/fapi/v2/ticker/price", {"symbol": "BTCUSDT"}),
        ("GetTakerBuySellVolumeRatio.txt", "/futures/data/takerlongshortRatio",
         {"symbol": "BTCUSDT", "period": "5m"}),
    ],
)  # fmt: skip
def test_answers_have_the_documented_fields_and_types(
    exchange: LoopbackExchange,
    recordings: Path,
    file: str,
    path: str,
    query: dict[str, Any],
) -> None:
    status, body, _ = ask(exchange, path, **query)
    assert status == 200
    assert shape(body) == shape(sample(recordings, file))


def test_exchange_info_has_the_fields_of_a_live_one(exchange: LoopbackExchange, recordings: Path) -> None:
    text = (recordings / "fixtures" / "raw_capture_cryptofeed" / "BINANCE_FUTURES.0.txt").read_text()
    live = json.loads(re.split(r"\d: ", text.splitlines()[0], maxsplit=1)[1])
    _, ours, _ = ask(exchange, "/fapi/v1/exchangeInfo")
    assert set(ours) == set(live)
    btc = next(s for s in live["symbols"] if s["symbol"] == "BTCUSDT")
    mine = ours["symbols"][0]
    assert {k: type(v) for k, v in mine.items()} == {k: type(v) for k, v in btc.items()}
    assert {f["filterType"] for f in mine["filters"]} == {f["filterType"] for f in btc["filters"]}


def test_deribit_and_alternative_me_have_their_forms(exchange: LoopbackExchange, recordings: Path) -> None:
    exchange.factors.set(dvol=61.25, fng=20, wander=0.0)
    now = exchange.clock.now_ms()
    query = {"currency": "BTC", "start_timestamp": now - 600_000, "end_timestamp": now, "resolution": 60}
    _, body, _ = ask(exchange, "/api/v2/public/get_volatility_index_data", **query)
    example = json.loads(
        (recordings / "fixtures" / "deribit_get_volatility_index_data_example.json").read_text()
    )
    assert {*body, "id"} == set(example)
    rows = body["result"]["data"]
    assert [type(v) for v in rows[0]] == [type(v) for v in example["result"]["data"][0]]
    assert len(rows) == 10
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert rows[-1][4] == 61.25
    _, body, _ = ask(exchange, "/fng/", limit=2)
    assert [row["value"] for row in body["data"]] == ["20", "20"]
    assert body["data"][0]["value_classification"] == "Extreme Fear"
    assert "time_until_update" in body["data"][0]
    assert int(body["data"][0]["timestamp"]) - int(body["data"][1]["timestamp"]) == DAY_MS // 1_000


def test_a_long_volatility_series_comes_in_pages() -> None:
    factors = Factors(wander=0.05)
    now = 1_750_000_000_000
    rows, more = factors.dvol_candles(now - 1_500 * 60_000, now, 60_000, now)
    assert len(rows) == 1_000
    assert more is not None
    older, end = factors.dvol_candles(now - 1_500 * 60_000, more, 60_000, now)
    assert end is None
    times = [row[0] for row in older + rows]
    assert times == list(range(times[0], times[-1] + 1, 60_000))
    assert len({row[4] for row in rows}) > 10


def test_the_taker_series_keeps_its_limits(exchange: LoopbackExchange) -> None:
    now = exchange.clock.now_ms()
    query = {"symbol": "BTCUSDT", "period": "5m", "startTime": now - 3_600_000, "endTime": now - 1_800_000}
    _, rows, _ = ask(exchange, "/futures/data/takerlongshortRatio", **query)
    assert 6 <= len(rows) <= 7
    assert all(now - 3_600_000 <= int(row["timestamp"]) <= now - 1_800_000 for row in rows)
    assert all(abs(float(r["buyVol"]) / float(r["sellVol"]) - float(r["buySellRatio"])) < 1e-4 for r in rows)


def test_recorded_days_set_the_factors(recordings: Path) -> None:
    factors = Factors()
    assert factors.take_day(recordings, "2024-03-05") == ["funding_rate", "dvol", "fng"]
    assert factors.fng == 90
    assert factors.dvol > 60


def test_klines_are_contiguous_and_end_in_the_present(exchange: LoopbackExchange) -> None:
    exchange.step(20)
    for interval, step in (("1m", 60_000), ("5m", 300_000), ("1h", 3_600_000)):
        _, rows, _ = ask(exchange, "/fapi/v1/klines", symbol="ETHUSDT", interval=interval, limit=50)
        assert len(rows) == 50
        assert [row[0] for row in rows] == list(range(rows[0][0], rows[0][0] + 50 * step, step))
        assert all(float(r[3]) <= min(float(r[1]), float(r[4])) for r in rows)
        assert all(float(r[2]) >= max(float(r[1]), float(r[4])) for r in rows)
        assert float(rows[-1][4]) == exchange.line_of["ETHUSDT"].last_price
    first = rows[10][0]
    _, some, _ = ask(exchange, "/fapi/v1/klines", symbol="ETHUSDT", interval="1h", startTime=first, limit=5)
    assert some == rows[10:15]


@pytest.mark.parametrize(
    ("path", "query", "status", "code"),
    [
        ("/fapi/v1/depth", {"symbol": "NOPEUSDT"}, 400, -1121),
        ("/fapi/v1/depth", {}, 400, -1102),
        ("/fapi/v1/depth", {"symbol": "BTCUSDT", "limit": 7}, 400, -4021),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "7m"}, 400, -1120),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": 5000}, 400, -1130),
        ("/futures/data/takerlongshortRatio", {"symbol": "BTCUSDT", "period": "9m"}, 400, -1130),
    ],
)
def test_refusals_have_the_exchanges_codes(
    exchange: LoopbackExchange,
    path: str,
    query: dict[str, Any],
    status: int,
    code: int,
) -> None:
    got, body, _ = ask(exchange, path, **query)
    assert (got, body["code"]) == (status, code)


def test_weight_is_counted_and_its_limit_kept() -> None:
    with LoopbackExchange(SyntheticMarket(1), weight_limit=45, strikes_to_ban=2) as x:
        query = {"symbol": "BTCUSDT", "limit": 1000}
        answers = [ask(x, "/fapi/v1/depth", **query) for _ in range(6)]
        assert [status for status, _, _ in answers] == [200, 200, 200, 429, 418, 418]
        assert answers[1][2]["X-MBX-USED-WEIGHT-1M"] == "40"
        assert int(answers[3][2]["Retry-After"]) >= 1
        assert answers[3][1]["code"] == -1003
        x.pass_time(200)
        assert ask(x, "/fapi/v1/depth", **query)[0] == 200
        assert x.meter.by_status == {200: 4, 429: 1, 418: 2}


def test_orders_and_keys_are_refused_and_noted(exchange: LoopbackExchange) -> None:
    async def post() -> int:
        url = exchange.url + "/fapi/v1/order"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data={"symbol": "BTCUSDT"}) as answer,
        ):
            return answer.status

    assert asyncio.run(post()) == 401
    assert exchange.meter.forbidden == ["POST /fapi/v1/order"]


def test_http_faults_fire_as_often_as_they_were_told(exchange: LoopbackExchange) -> None:
    path = "/fapi/v1/time"
    exchange.faults.add("status", path=path, value=429, retry_after_s=3, count=1)
    exchange.faults.add("status", path=path, value=503, count=2)
    answers = [ask(exchange, path) for _ in range(4)]
    assert [status for status, _, _ in answers] == [429, 503, 503, 200]
    assert answers[0][2]["Retry-After"] == "3"
    assert ask(exchange, "/fapi/v1/ping")[0] == 200
    assert exchange.meter.faults_fired == {"status": 3}


def _raises(work: Callable[[], Awaitable[Any]], error: type[BaseException]) -> None:
    async def run() -> None:
        with pytest.raises(error):
            await work()

    asyncio.run(run())


def test_a_hanging_answer_and_a_trickling_one_run_into_the_clients_limit(
    exchange: LoopbackExchange,
) -> None:
    path = "/fapi/v1/exchangeInfo"
    for kind, value in (("hang", None), ("slow", 30), ("trickle", 30)):
        fault = exchange.faults.add(kind, path=path, value=value)
        _raises(lambda: _ask(exchange.url + path, {}, 0.3), TimeoutError)
        exchange.faults.clear(fault)
    exchange.faults.add("trickle", path=path, value=0.01)
    assert ask(exchange, path)[1]["timezone"] == "UTC"


def test_stale_and_garbage_answers(exchange: LoopbackExchange) -> None:
    query = {"symbol": "BTCUSDT", "limit": 5}
    fault = exchange.faults.add("stale", path="/fapi/v1/depth", value=60)
    _, before, _ = ask(exchange, "/fapi/v1/depth", **query)
    exchange.step(50)
    _, after, _ = ask(exchange, "/fapi/v1/depth", **query)
    assert after == before
    assert exchange.clock.now_ms() - after["E"] >= 60_000
    exchange.faults.clear(fault)
    _, fresh, _ = ask(exchange, "/fapi/v1/depth", **query)
    assert fresh["lastUpdateId"] > before["lastUpdateId"]
    exchange.faults.add("stale", path="/fng/", value=2 * 86_400)
    _, body, _ = ask(exchange, "/fng/")
    assert exchange.clock.now_ms() // 1_000 - int(body["data"][0]["timestamp"]) >= 2 * 86_400
    exchange.faults.add("garbage", path="/fapi/v1/time", value="broken")
    with pytest.raises(json.JSONDecodeError):
        ask(exchange, "/fapi/v1/time")


def test_the_servers_clock_may_be_wrong(exchange: LoopbackExchange) -> None:
    exchange.skew(-90)
    _, body, _ = ask(exchange, "/fapi/v1/time")
    assert 89_000 < exchange.clock.true_ms() - body["serverTime"] < 95_000


def test_the_admin_door_does_what_the_methods_do(exchange: LoopbackExchange) -> None:
    async def post(path: str, body: dict[str, Any]) -> Any:
        async with aiohttp.ClientSession() as session, session.post(exchange.url + path, json=body) as answer:
            return answer.status, await answer.json()

    status, made = asyncio.run(post("/_fault", {"kind": "status", "path": "/fng/", "value": 500}))
    assert status == 200
    assert ask(exchange, "/fng/")[0] == 500
    assert ask(exchange, "/_fault")[1][0]["id"] == made["id"]
    asyncio.run(post("/_factors", {"fng": 11}))
    slot = asyncio.run(post("/_step", {"ticks": 3}))[1]["slot"]
    assert slot == 30
    assert ask(exchange, "/_truth", symbol="BTCUSDT")[1]["last_id"] == exchange.truth("BTCUSDT")[0]
    assert ask(exchange, "/_state")[1]["requests"] == {"/fng/": 1}
    assert asyncio.run(post("/_fault", {"kind": "earthquake"}))[0] == 400
    exchange.clear_faults()
    assert ask(exchange, "/fng/")[1]["data"][0]["value"] == "11"


def test_the_same_seed_and_clock_give_the_same_market() -> None:
    def run() -> list[Any]:
        with LoopbackExchange(SyntheticMarket(3, seed=5), start_ms=1_750_000_000_000) as x:
            x.step(40)
            query = {"symbol": "ETHUSDT", "limit": 100}
            return [x.truth(name) for name in x.line_of] + [ask(x, "/fapi/v1/depth", **query)[1]]

    assert run() == run()


def test_the_server_ends_by_itself() -> None:
    x = LoopbackExchange(SyntheticMarket(1), life_s=0.1).start()
    x.join(5.0)
    assert not x.alive
    x.stop()
