"""Where the client may be pointed at, and its absence."""

from __future__ import annotations

import asyncio
import builtins
import importlib
import sys
import time
from email.utils import formatdate
from typing import Any

import pytest

from dolphin.domain.errors import ConfigError, UsageError
from dolphin.feeds import client


@pytest.mark.parametrize(
    ("url", "beginnings"),
    [
        ("http://127.0.0.1:8900", ("http://127.0.0.1:8900", "ws://127.0.0.1:8900")),
        ("http://localhost:1/", ("http://localhost:1", "ws://localhost:1")),
        ("http://[::1]:8", ("http://[::1]:8", "ws://[::1]:8")),
        ("https://proxy.example:444", ("https://proxy.example:444", "wss://proxy.example:444")),
    ],
)
def test_base_addresses(url: str, beginnings: tuple[str, str]) -> None:
    assert client.base_address(url) == beginnings


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "http://10.0.0.1:80",
        "ws://127.0.0.1",
        "ftp://127.0.0.1",
        "127.0.0.1:80",
        "",
        "https://host/path",
        "https://host?x=1",
        "https://user:word@host",
        "http://[::1",
        "https://host:99999",
        "https://host:abc",
    ],
)
def test_addresses_that_are_neither_https_nor_loopback_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="exchange address"):
        client.make_exchange(url)


@pytest.mark.parametrize("limits", [{"timeout_s": 0.0}, {"ping_every_s": -1.0}, {"timeout_s": float("nan")}])
def test_limits_are_positive(limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected 0 <"):
        client.make_exchange(**limits)


def test_the_exchanges_own_hosts_are_the_default() -> None:
    made = client.make_exchange(min_request_ms=75.0)
    try:
        assert made.urls["api"]["fapiPublic"] == "https://fapi.binance.com/fapi/v1"
        assert made.rateLimit == 75.0
        assert made.last_frame_ms() == {}
        assert not made.give_up("ws://nowhere", "test")
    finally:
        asyncio.run(made.close())


def test_books_are_dealt_to_connections_in_order() -> None:
    made = client.make_exchange("http://127.0.0.1:9")
    try:
        symbols = [f"S{i}/USDT:USDT" for i in range(5)]
        assert client.share_connections(made, symbols, 2) == 3
        numbers = [made.stream("linear", f"multipleOrderbook::{s}") for s in symbols]
        assert numbers == ["0", "0", "1", "1", "2"]
        assert made.stream("linear", "trade::S0") == "3"
        with pytest.raises(ConfigError, match="per_connection"):
            client.share_connections(made, symbols, 500)
    finally:
        asyncio.run(made.close())


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "ccxt":
            raise ModuleNotFoundError("No module named 'ccxt'", name="ccxt")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "dolphin.feeds.client")
    with pytest.raises(UsageError, match="feeds extra") as told:
        importlib.import_module("dolphin.feeds.client")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("said", "low_s", "high_s"),
    [("7", 6.0, 7.0), ("9" * 20, 0.0, 3 * 86_400.0), ("soon", 59.0, 60.0), (None, 59.0, 60.0)],
)
def test_a_retry_after_is_kept_within_reason(said: str | None, low_s: float, high_s: float) -> None:
    made = client.make_exchange("http://127.0.0.1:9")
    try:
        heads = {} if said is None else {"Retry-After": said}
        made.on_rest_response(429, "", "http://127.0.0.1:9/x", "GET", heads, "{}", {}, None)
        assert low_s <= made.blocked_until_s - time.monotonic() <= high_s
    finally:
        asyncio.run(made.close())


def test_a_retry_after_may_be_a_date() -> None:
    made = client.make_exchange("http://127.0.0.1:9")
    try:
        heads = {"Retry-After": formatdate(time.time() + 600.0, usegmt=True)}
        made.on_rest_response(418, "", "http://127.0.0.1:9/x", "GET", heads, "{}", {}, None)
        assert 500.0 <= made.blocked_until_s - time.monotonic() <= 600.0
    finally:
        asyncio.run(made.close())


def test_an_error_tells_why_nobody_answered() -> None:
    """The client's own words name the address and leave the reason to the cause."""

    async def ask() -> str:
        made = client.make_exchange("http://127.0.0.1:1")
        try:
            await made.load_markets()
        except Exception as error:
            return client.reason_of(error)
        finally:
            await made.close()
        return ""

    assert asyncio.run(ask()).endswith("/fapi/v1/exchangeInfo: Connection refused")
    assert client.reason_of(ValueError("two\nlines")) == "two lines"


def test_symbols_are_watched_in_calls_that_the_client_takes() -> None:
    names = [f"S{k}" for k in range(400)]
    assert [len(part) for part in client.chunks(names)] == [180, 180, 40]
    assert [name for part in client.chunks(names) for name in part] == names
