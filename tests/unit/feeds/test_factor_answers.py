"""What the four publishers' answers mean: documented samples, times, and everything that is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dolphin.domain.clock import NS_PER_S, ns_from_iso
from dolphin.domain.errors import ConfigError, DataError
from dolphin.factors.keeper import LIVE_RULES, RULES
from dolphin.feeds.factor_answers import ADDRESSES, FACTOR_PAGES, checked_addresses

NOW = ns_from_iso("2026-03-02T12:34:56Z")
MS = NOW // 10**6


def parse(name: str, answer: Any, now_ns: int = NOW) -> tuple[float, int]:
    sample = FACTOR_PAGES[name].parse(json.loads(json.dumps(answer)), now_ns)
    return sample.value, sample.at_ns


def funding(**other: Any) -> dict[str, Any]:
    return {"symbol": "BTCUSDT", "lastFundingRate": "0.00038246", "time": MS - 5_000, **other}


def row(ratio: Any, minutes_ago: float) -> dict[str, Any]:
    return {
        "buySellRatio": ratio,
        "buyVol": "1",
        "sellVol": "1",
        "timestamp": round(MS - minutes_ago * 60_000),
    }


def candle(close: Any, minutes_ago: float) -> list[Any]:
    return [round(MS - minutes_ago * 60_000), 50.0, 51.0, 49.0, close]


def day(value: Any, seconds_ago: int) -> dict[str, Any]:
    return {"value": value, "value_classification": "Fear", "timestamp": str(NOW // NS_PER_S - seconds_ago)}


def test_funding_counts_from_its_time() -> None:
    assert parse("funding_btc", funding()) == (0.00038246, NOW - NOW % 10**6 - 5 * NS_PER_S)
    assert parse("funding_btc", funding(lastFundingRate=-0.0001, time=str(MS)))[0] == -0.0001


def test_a_ratio_counts_from_its_candles_close_and_an_open_one_not_at_all() -> None:
    rows = [row("1.10", 12.0), row("0.85", 7.0), row("0.70", 2.0)]
    assert parse("taker", rows) == (0.85, (MS - 120_000) * 10**6)
    assert parse("taker", rows[::-1]) == parse("taker", rows)
    text = [{**each, "timestamp": str(each["timestamp"])} for each in rows]
    assert parse("taker", text) == parse("taker", rows)


def test_an_index_counts_from_its_minutes_close() -> None:
    answer = {
        "result": {"data": [candle(54.0, 2.5), candle(55.5, 1.5), candle(99.0, 0.5)], "continuation": None}
    }
    assert parse("dvol_btc", answer) == (55.5, (MS - 30_000) * 10**6)


def test_fear_and_greed_counts_from_its_day() -> None:
    answer = {"name": "x", "data": [day("22", 3600), day("40", 90_000)], "metadata": {"error": None}}
    assert parse("fng", answer) == (22.0, NOW - 3600 * NS_PER_S)


def test_the_question_about_the_index_spans_a_quarter_of_an_hour() -> None:
    query = FACTOR_PAGES["dvol_btc"].query(NOW)
    assert int(query["end_timestamp"]) - int(query["start_timestamp"]) == 900_000
    assert int(query["end_timestamp"]) == MS


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("funding_btc", [], "the answer is [], expected an object"),
        ("funding_btc", funding(symbol="ETHUSDT"), "symbol is 'ETHUSDT', expected BTCUSDT"),
        ("funding_btc", funding(lastFundingRate=""), "lastFundingRate is '', expected a number"),
        ("funding_btc", funding(lastFundingRate=None), "lastFundingRate is missing"),
        ("funding_btc", funding(lastFundingRate="nan"), "expected a number"),
        ("funding_btc", funding(lastFundingRate=True), "expected a number"),
        ("funding_btc", funding(time=1.5), "time is 1.5, expected a Unix time"),
        ("funding_btc", funding(time="9" * 30), "expected a Unix time"),
        ("funding_btc", funding(time=-1), "expected a Unix time"),
        ("funding_btc", funding(time=MS + 61_000), "time lies 61 s ahead of this machine's clock"),
        ("taker", {"code": -1121}, "expected a list that is not empty"),
        ("taker", [], "expected a list that is not empty"),
        ("taker", ["x"], "a row is 'x', expected an object"),
        ("taker", [row("1", 2.0)], "no candle has closed yet, of 1"),
        ("taker", [row("1", -60.0)], "oldest candle lies 3,600 s ahead"),
        ("dvol_btc", {"error": {"code": 10028, "message": "too_many_requests"}}, "error {'code': 10028"),
        ("dvol_btc", {"result": {"data": []}}, "result.data is [], expected a list"),
        ("dvol_btc", {"result": {"data": [[1, 2, 3, 4]]}}, "a candle is [1, 2, 3, 4], expected [ms, open"),
        ("dvol_btc", {"result": {"data": [candle("x", 2)]}}, "a candle's close is 'x'"),
        ("dvol_btc", {}, "result is missing, expected an object"),
        ("fng", {"data": [], "metadata": {"error": None}}, "data is [], expected a list"),
        ("fng", {"data": [day("9", 0)], "metadata": {"error": "down"}}, "error 'down'"),
        ("fng", {"data": [day("high", 0)]}, "value is 'high', expected a number"),
        ("fng", {"data": [day("9", -90)]}, "timestamp lies 90 s ahead"),
    ],
)  # fmt: skip
def test_what_is_not_as_documented_is_refused_in_one_line(name: str, answer: Any, said: str) -> None:
    with pytest.raises(DataError) as caught:
        parse(name, answer)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 160


def test_addresses_are_https_or_on_this_machine() -> None:
    assert checked_addresses({}) == dict(ADDRESSES)
    given = {
        "binance": "http://127.0.0.1:9/",
        "deribit": "https://test.deribit.com",
        "alternative": "http://[::1]:8",
    }
    assert checked_addresses(given) == {**given, "binance": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("host", "address", "said"),
    [
        ("binanse", "https://x.org", "'binanse' is no source of factors. Did you mean 'binance'?"),
        ("binance", "http://fapi.binance.com", "expected https://, or http:// to this machine"),
        ("binance", "http://127.0.0.1.evil.org", "expected https://"),
        ("binance", "ftp://127.0.0.1", "expected https://"),
        ("binance", "https://user:word@x.org", "without user, path or query"),
        ("binance", "https://x.org/path", "without user, path or query"),
        ("binance", "https://x.org?a=b", "without user, path or query"),
        ("binance", "https://x.org:port", "expected a base address"),
        ("binance", "fapi.binance.com", "expected a base address"),
        ("binance", "https://[::1", "expected a base address"),
    ],
)
def test_other_addresses_are_refused_by_name(host: str, address: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_addresses({host: address})
    assert said in str(caught.value)
    assert "word" not in str(caught.value)


def test_live_values_age_faster_in_the_same_ranges() -> None:
    for name, rule in LIVE_RULES.items():
        assert (rule.low, rule.high) == (RULES[name].low, RULES[name].high)
        assert FACTOR_PAGES[name].pace.period_s * 3 * NS_PER_S < rule.age_max_ns <= RULES[name].age_max_ns


@pytest.mark.recordings
def test_the_exchanges_own_samples_are_understood(recordings: Path) -> None:
    folder = recordings / "fixtures"

    def body(name: str) -> Any:
        text = (folder / "binance_usdm_jkorf" / "Endpoints" / "ExchangeData" / name).read_text()
        return json.loads(text.split("\n", 3)[3])

    assert parse("funding_btc", body("GetMarkPrice.txt")) == (0.00038246, 1597370495002 * 10**6)
    assert parse("taker", body("GetTakerBuySellVolumeRatio.txt")) == (
        1.5586,
        (1585614900000 + 300_000) * 10**6,
    )
    dvol = json.loads((folder / "deribit_get_volatility_index_data_example.json").read_text())
    last = dvol["result"]["data"][-1]
    value, at_ns = parse("dvol_btc", dvol, (last[0] + 60_000) * 10**6)
    assert (value, at_ns) == (last[4], (last[0] + 60_000) * 10**6)
