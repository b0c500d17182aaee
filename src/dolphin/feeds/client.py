"""The one place where the exchange's client is made: public data of Binance USD-M, without keys.

Entry points: `make_exchange`, `close`, `base_address`, `share_connections`. ccxt keeps books in sync, parses
and throttles; `PublicBinance` adds what it leaves open. Needs the feeds extra.

Invariants
----------
1. Nothing can be signed or sent but GET of public data: any other request is refused before it is made.
2. After 418 or 429 nothing is asked until the exchange's Retry-After has passed; ccxt itself would ask on.
3. A frame that cannot be read is counted and dropped. ccxt's receive loop would end there without a word,
   and the socket would stay open and deaf.
4. A socket whose peer answers no ping is given up after about 20 s. One that answers pings and sends no data
   is silent for ever: whoever reads has to watch `last_frame_ms` or its own updates.

What ccxt leaves to its caller: a broken chain of ids rejects the waiting call with ChecksumError, a lost
connection with NetworkError; asking again subscribes and takes a new snapshot. Call `forget_book` in between:
a rejection that nobody waited for is given to every call until the next success, and a book from before a
lost connection is taken for the running one when data come before the acknowledgement.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from dolphin.domain.errors import ConfigError, UsageError, plural
from dolphin.feeds.addresses import base_parts, is_safe
from dolphin.feeds.polling import retry_after_s

try:
    import ccxt.pro  # type: ignore[import-untyped]
    from ccxt.base.errors import (  # type: ignore[import-untyped]
        BadRequest,
        NetworkError,
        PermissionDenied,
        RateLimitExceeded,
    )
except ImportError as _error:
    raise UsageError(
        "live market data need the feeds extra; install it with `pip install 'dolphin-trader[feeds]'`, and "
        "`dolphin run` without --feed needs none"
    ) from _error

#: The only groups of addresses that are asked.
_PUBLIC = frozenset({"fapiPublic", "fapiPublicV2", "fapiPublicV3", "fapiData"})
#: Where Retry-After is missing: the exchange's own minute.
RETRY_AFTER_S = 60.0
#: The exchange's limit of streams a connection, less what snapshots of a resubscription may double.
STREAMS_PER_CONNECTION = 180


def chunks(symbols: Sequence[str], size: int = STREAMS_PER_CONNECTION) -> list[list[str]]:
    """`symbols` in order, at most `size` each: the client refuses to watch more than 200 in one call."""
    return [list(symbols[at : at + size]) for at in range(0, len(symbols), size)]


class PublicBinance(ccxt.pro.binanceusdm):  # type: ignore[misc]
    """ccxt's client of Binance USD-M, held to public data.

    `frames_refused` counts frames that could not be read, `last_refusal` is one line about the newest.
    `used_weight` is the request weight of this minute as the exchange last told it, -1 before.
    """

    frames_refused = 0
    last_refusal = ""
    used_weight = -1
    #: Monotonic seconds before which nothing may be asked.
    blocked_until_s = 0.0
    #: Listeners, called on the loop's thread as it comes: a snapshot that a book is made from (ccxt's symbol,
    #: ccxt's book); a difference that was applied to a book (ccxt's symbol, the message); texts as received
    #: (`frame` or `snapshot`, text, address asked).
    on_snapshot: Callable[[str, Any], None] | None = None
    on_difference: Callable[[str, Any], None] | None = None
    on_text: Callable[[str, str, str], None] | None = None

    def sign(
        self, path: str, api: Sequence[str] = ("public",), method: str = "GET", params: Any = None
    ) -> Any:
        """The request as ccxt makes it. Raises PermissionDenied for what is not GET of public data."""
        group = "/".join(api)
        if method != "GET" or group not in _PUBLIC:
            raise PermissionDenied(
                f"{self.id} {method} {group} {path} refused: only public data are read here"
            )
        left_s = self.blocked_until_s - time.monotonic()
        if left_s > 0:
            raise RateLimitExceeded(f"{self.id} {path} not asked: the exchange wants {left_s:.0f} s of quiet")
        return super().sign(path, api, method, params or {})

    def on_rest_response(
        self, code: Any, reason: Any, url: Any, method: Any, response_headers: Any, *rest: Any
    ) -> Any:
        """What the answer's head says about limits is kept."""
        if self.on_text is not None and code == 200 and "/depth?" in str(url) and rest:
            self.on_text("snapshot", str(rest[0]), str(url))
        heads = {str(k).lower(): v for k, v in (response_headers or {}).items()}
        weight = str(heads.get("x-mbx-used-weight-1m", ""))
        if weight.isdigit():
            self.used_weight = int(weight)
        if code in (418, 429):
            wait_s = retry_after_s(heads.get("retry-after"), time.time())
            wait_s = RETRY_AFTER_S if wait_s is None else wait_s
            self.blocked_until_s = max(self.blocked_until_s, time.monotonic() + wait_s)
        return super().on_rest_response(code, reason, url, method, response_headers, *rest)

    def client(self, url: str) -> Any:
        """The connection to `url`, its frames read behind a guard."""
        made = super().client(url)
        if not hasattr(made, "dolphin_guarded"):
            made.dolphin_guarded = True
            read = made.handle_message

            def guarded(message: Any) -> None:
                if self.on_text is not None and isinstance(message.data, str):
                    self.on_text("frame", message.data, url)
                try:
                    read(message)
                except Exception as error:  # whatever a frame brings, the next one has to be read
                    self.frames_refused += 1
                    self.last_refusal = f"{type(error).__name__}: {error}".splitlines()[0][:200]

            made.handle_message = guarded
        return made

    def forget_book(self, symbol: str) -> None:
        """Drop the book and what is left of its subscription: the next `watch_order_book` begins anew."""
        key = f"orderbook::{symbol}"
        self.orderbooks.pop(symbol, None)
        for connection in (self.clients or {}).values():
            connection.subscriptions.pop(key, None)
            connection.rejections.pop(key, None)
            if key in connection.futures and connection.futures[key].done():
                del connection.futures[key]

    async def fetch_rest_order_book_safe(self, symbol: Any, limit: Any = None, params: Any = None) -> Any:
        """The snapshot that a book is made from, shown to `on_snapshot` before differences are applied."""
        snapshot = await super().fetch_rest_order_book_safe(symbol, limit, params or {})
        if self.on_snapshot is not None:
            self.on_snapshot(symbol, snapshot)
        return snapshot

    def handle_order_book_message(self, client: Any, message: Any, orderbook: Any) -> Any:
        """Apply a difference that fits, then show it to `on_difference`."""
        applied = super().handle_order_book_message(client, message, orderbook)
        if self.on_difference is not None:
            self.on_difference(orderbook.get("symbol"), message)
        return applied

    def give_up_book(self, symbol: str, why: str) -> str:
        """Whoever waits for this symbol's book gets NetworkError; the address it was watched at, or ""."""
        key = f"orderbook::{symbol}"
        for url, connection in (self.clients or {}).items():
            if key in connection.futures:
                connection.reject(NetworkError(f"{self.id} {symbol} given up: {why}"), key)
                return str(url)
        return ""

    def give_up(self, url: str, why: str) -> bool:
        """End a silent connection: whoever waits on it gets NetworkError. False where there is none."""
        connection = (self.clients or {}).get(url)
        if connection is None:
            return False
        connection.on_error(NetworkError(f"{self.id} {url} given up: {why}"))
        return True

    def last_frame_ms(self) -> dict[str, int]:
        """Unix milliseconds of the newest frame (data, answer or pong) of every connection, 0 before any."""
        return {url: int(client.last_message_at or 0) for url, client in (self.clients or {}).items()}


def base_address(base_url: str) -> tuple[str, str]:
    """(http, ws) beginnings of addresses for a base address like `http://127.0.0.1:8900` or `https://host`.

    Raises
    ------
    ConfigError
        If it is neither https nor loopback, or has more than scheme, host and port.
    """
    parts = base_parts(base_url)
    if parts is None:
        raise ConfigError(
            f"exchange address {base_url!r} must be scheme, host and port only, like https://host:443"
        )
    if not is_safe(parts):
        raise ConfigError(
            f"exchange address {base_url!r} must begin with https://, or http:// and a loopback host"
        )
    return (
        f"{parts.scheme}://{parts.netloc}",
        f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}",
    )


def traded_names(exchange: PublicBinance, symbols: Sequence[str]) -> dict[str, str]:
    """ccxt's name of each symbol that is traded now; the markets must be loaded."""
    by_id = exchange.markets_by_id or {}
    return {s: str(m["symbol"]) for s in symbols for m in by_id.get(s, ()) if m["swap"] and m["active"]}


def absent_line(absent: Sequence[str]) -> str:
    """The symbols that the exchange does not trade, in one line."""
    some = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
    return f"{plural(len(absent), 'symbol')} not traded on the exchange now: {some}"


def reason_of(error: BaseException) -> str:
    """An error of the client in one line, with the cause that its own words leave out."""
    line = " ".join(str(error).split())
    cause = error.__cause__
    while cause is not None and cause.__cause__ is not None:
        cause = cause.__cause__
    why = "" if cause is None else " ".join(str(cause).split())
    if isinstance(cause, OSError) and not isinstance(cause, socket.gaierror) and cause.errno:
        why = os.strerror(cause.errno)
    return line[:160] if not why or why in line else f"{line[:160]}: {why[:100]}"


def is_final(error: BaseException) -> bool:
    """Whether the client refused by itself; what the exchange refused comes with its code, and may pass."""
    return isinstance(error, BadRequest) and '"code"' not in str(error)


def make_exchange(
    base_url: str | None = None,
    *,
    timeout_s: float = 10.0,
    ping_every_s: float = 5.0,
    min_request_ms: float | None = None,
) -> PublicBinance:
    """ccxt.pro's client of Binance USD-M for public data; end it with `close`.

    Parameters
    ----------
    base_url : str or None
        Where every request and stream goes instead of the exchange's own hosts: https, or http on loopback.
    timeout_s : float
        Limit of one request and of one connecting, > 0.
    ping_every_s : float
        Distance of keep-alive pings; a peer that answers none for two of them is given up at the fourth.
    min_request_ms : float or None
        Distance of requests of weight 1 kept by the rate limiter; None is ccxt's own (50 ms).

    Raises
    ------
    ConfigError
        For an address that is neither https nor loopback, or a limit that is not positive.
    """
    for name, value in (("timeout_s", timeout_s), ("ping_every_s", ping_every_s)):
        if not 0 < value < 3_600:
            raise ConfigError(f"{name} is {value}, expected 0 < {name} < 3600 seconds")
    address = None if base_url is None else base_address(base_url)
    config: dict[str, Any] = {
        "enableRateLimit": True,
        "timeout": int(timeout_s * 1_000),
        "streaming": {"keepAlive": int(ping_every_s * 1_000), "maxPingPongMisses": 2},
        "options": {
            "fetchCurrencies": False,
            # Three requests in a row for one snapshot are no way to treat an exchange that says no.
            "watchOrderBook": {"maxRetries": 1},
            # The documented stream; single trades are not documented for these markets.
            "watchTrades": {"name": "aggTrade"},
            # Two SUBSCRIBE frames are at least 150 ms apart; the exchange cuts whoever sends ten a second.
            "ws": {"cost": 3},
        },
    }
    if min_request_ms is not None:
        config["rateLimit"] = min_request_ms
    exchange = PublicBinance(config)
    if address is not None:
        exchange.urls["api"] = _moved(exchange.urls["api"], *address)
        exchange.urls.pop("apiBackup", None)
    return exchange


async def close(exchange: PublicBinance) -> None:
    """End the exchange's connections, whatever they do then."""
    exchange.timeout_on_exit = 0
    with contextlib.suppress(Exception):
        await exchange.close()


def _moved(urls: Any, http: str, ws: str) -> Any:
    """Addresses, nested as ccxt keeps them, with another scheme, host and port."""
    if isinstance(urls, dict):
        return {name: _moved(value, http, ws) for name, value in urls.items()}
    if not isinstance(urls, str):
        return urls
    return re.sub(r"^(https?|wss?)://[^/]+", lambda m: ws if m.group(1).startswith("ws") else http, urls)


def share_connections(
    exchange: PublicBinance, symbols: Sequence[str], per_connection: int = STREAMS_PER_CONNECTION
) -> int:
    """Put the books of `symbols` (ccxt's names) on as few connections as hold them; returns the count.

    Each symbol is then watched by a `watch_order_book(symbol)` of its own. Left alone ccxt opens a connection
    a symbol; asked for many at once it takes all their snapshots again when one chain of ids breaks.
    """
    if not 0 < per_connection <= 200:
        raise ConfigError(f"per_connection is {per_connection}, expected 1 to 200 streams")
    table = exchange.options["streamBySubscriptionsHash"]
    for k, symbol in enumerate(symbols):
        table[f"multipleOrderbook::{symbol}"] = str(k // per_connection)
    n = -(-len(symbols) // per_connection)
    # What ccxt numbers by itself (trades, candles) goes to connections behind these.
    exchange.options["streamIndex"] = max(int(exchange.options["streamIndex"]), n - 1)
    return n
