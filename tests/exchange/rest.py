"""Binance USD-M's public REST, Deribit's volatility index and alternative.me's index, as documented.

Weight is counted a minute as the exchange does: over the limit is 429 with Retry-After, going on is 418.
Anything that would need a key is refused and noted in `Meter.forbidden`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .factors import PERIODS_MS, RESOLUTIONS_MS
from .line import INTERVALS_MS, Candle, Line

if TYPE_CHECKING:
    from .server import LoopbackExchange

DEPTH_WEIGHTS = {5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1000: 20}
FUNDING_MS = 28_800_000


class RefusedError(Exception):
    """An error in the exchange's own words."""

    def __init__(self, status: int, code: int, message: str) -> None:
        self.status, self.code, self.message = status, code, message


def _integer(query: dict[str, str], name: str, default: int | None = None) -> int | None:
    text = query.get(name)
    if text is None:
        return default
    if not text.isdigit():
        raise RefusedError(
            400, -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed."
        )
    return int(text)


class Rest:
    """Answers by path. Each handler returns (body, weight)."""

    def __init__(self, exchange: LoopbackExchange) -> None:
        self._x = exchange
        self.routes: dict[str, Callable[[dict[str, str]], tuple[Any, int]]] = {
            "/fapi/v1/ping": lambda q: ({}, 1),
            "/fapi/v1/time": lambda q: ({"serverTime": self._now()}, 1),
            "/fapi/v1/exchangeInfo": self.exchange_info,
            "/fapi/v1/depth": self.depth,
            "/fapi/v1/klines": self.klines,
            "/fapi/v1/premiumIndex": self.premium_index,
            "/fapi/v1/ticker/bookTicker": self.book_ticker,
            "/fapi/v1/ticker/price": self.price,
            "/fapi/v2/ticker/price": self.price,
            "/futures/data/takerlongshortRatio": self.taker,
            "/api/v2/public/get_volatility_index_data": self.dvol,
            "/api/v2/public/get_time": lambda q: (self._rpc(self._now()), 0),
            "/api/v2/public/test": lambda q: (self._rpc({"version": "1.2.26"}), 0),
            "/fng/": self.fng,
            "/fng": self.fng,
        }
        self._minute = -1
        self.used_weight = 0
        self._strikes = 0
        self._banned_until_s = 0.0

    def _now(self) -> int:
        return self._x.clock.now_ms()

    def line(self, query: dict[str, str]) -> Line:
        symbol = query.get("symbol")
        if not symbol:
            raise RefusedError(
                400, -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."
            )
        line = self._x.line_of.get(symbol)
        if line is None:
            raise RefusedError(400, -1121, "Invalid symbol.")
        return line

    def answer(self, request: web.Request) -> tuple[int, Any, int, dict[str, str]]:
        """(status, body, weight, headers) of a request, faults not yet in it."""
        path, query = request.path, dict(request.query)
        binance = path.startswith(("/fapi/", "/futures/", "/dapi/", "/api/v3", "/sapi/", "/papi/"))
        if binance and (request.method != "GET" or "signature" in query or "X-MBX-APIKEY" in request.headers):
            self._x.meter.forbidden.append(f"{request.method} {path}")
            return 401, {"code": -2014, "msg": "API-key format invalid."}, 1, {}
        handler = self.routes.get(path)
        if handler is None:
            return 404, "<html><body><h2>404 Not found</h2></body></html>", 1 if binance else 0, {}
        if binance and (refused := self._limited()) is not None:
            return refused
        try:
            body, weight = handler(query)
            status = 200
        except RefusedError as error:
            status, weight, body = error.status, 1, {"code": error.code, "msg": error.message}
            if not binance:
                body = {
                    "jsonrpc": "2.0", "error": {"message": error.message, "code": error.code},
                    "usIn": self._now() * 1_000, "usOut": self._now() * 1_000, "usDiff": 0, "testnet": False,
                }  # fmt: skip
        headers = {}
        if binance:
            self.used_weight += weight
            headers["X-MBX-USED-WEIGHT-1M"] = str(self.used_weight)
        return status, body, weight, headers

    def _limited(self) -> tuple[int, Any, int, dict[str, str]] | None:
        """The refusal of a client over its weight, or None."""
        now_s = self._x.clock.true_ms() / 1_000
        minute = int(now_s // 60)
        if minute != self._minute:
            self._minute, self.used_weight = minute, 0
        if now_s < self._banned_until_s:
            status, left_s = 418, self._banned_until_s - now_s
        elif self.used_weight >= self._x.weight_limit:
            self._strikes += 1
            status, left_s = 429, 60 - now_s % 60
            if self._strikes >= self._x.strikes_to_ban:
                status, left_s, self._strikes = 418, 120.0, 0
                self._banned_until_s = now_s + left_s
        else:
            return None
        until = int((now_s + left_s) * 1_000)
        text = (
            f"Way too many requests; IP(127.0.0.1) banned until {until}. Please use the websocket for live "
            "updates to avoid bans."
            if status == 418
            else f"Too many requests; current limit of IP(127.0.0.1) is {self._x.weight_limit} requests per "
            "minute. Please use the websocket for live updates to avoid polling the API."
        )
        headers = {"Retry-After": str(int(left_s) + 1), "X-MBX-USED-WEIGHT-1M": str(self.used_weight)}
        return status, {"code": -1003, "msg": text}, 0, headers

    # --- Binance

    def exchange_info(self, query: dict[str, str]) -> tuple[Any, int]:
        symbols = [self._symbol_info(name, line) for name, line in self._x.line_of.items()]
        minute = {"interval": "MINUTE", "intervalNum": 1}
        return {
            "timezone": "UTC", "serverTime": self._now(), "futuresType": "U_MARGINED",
            "rateLimits": [
                {"rateLimitType": "REQUEST_WEIGHT", **minute, "limit": self._x.weight_limit},
                {"rateLimitType": "ORDERS", **minute, "limit": 1200},
                {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 300},
            ],
            "exchangeFilters": [],
            "assets": [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "-10000"}],
            "symbols": symbols,
        }, 1  # fmt: skip

    def _symbol_info(self, name: str, line: Line) -> dict[str, Any]:
        tick = format(10**-line.price_digits, f".{line.price_digits}f")
        lot = format(10**-line.quantity_digits, f".{line.quantity_digits}f")
        status = "SETTLING" if name in self._x.delisted else "TRADING"
        return {
            "symbol": name, "pair": name, "contractType": "PERPETUAL", "deliveryDate": 4133404800000,
            "onboardDate": 1569398400000, "status": status, "maintMarginPercent": "2.5000",
            "requiredMarginPercent": "5.0000", "baseAsset": name.removesuffix("USDT"), "quoteAsset": "USDT",
            "marginAsset": "USDT", "pricePrecision": line.price_digits,
            "quantityPrecision": line.quantity_digits, "baseAssetPrecision": 8,
            "quotePrecision": 8, "underlyingType": "COIN", "underlyingSubType": [],
            "settlePlan": 0, "triggerProtect": "0.0500", "liquidationFee": "0.012000",
            "marketTakeBound": "0.30",
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000", "tickSize": tick},
                {"filterType": "LOT_SIZE", "stepSize": lot, "maxQty": "1000000", "minQty": lot},
                {"filterType": "MARKET_LOT_SIZE", "stepSize": lot, "maxQty": "1000000", "minQty": lot},
                {"filterType": "MAX_NUM_ORDERS", "limit": 200},
                {"filterType": "MAX_NUM_ALGO_ORDERS", "limit": 10},
                {"filterType": "MIN_NOTIONAL", "notional": "5"},
                {"filterType": "PERCENT_PRICE", "multiplierDown": "0.8500", "multiplierUp": "1.1500",
                 "multiplierDecimal": "4"},
            ],
            "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET",
                           "TRAILING_STOP_MARKET"],
            "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
        }  # fmt: skip

    def depth(self, query: dict[str, str]) -> tuple[Any, int]:
        line = self.line(query)
        limit = _integer(query, "limit", 500)
        if limit not in DEPTH_WEIGHTS:
            raise RefusedError(
                400, -4021, f"Invalid depth limit '{limit}'. Valid limits: [5, 10, 20, 50, 100, 500, 1000]"
            )
        now = self._now()
        bids, asks = line.book.top(limit)
        return {
            "lastUpdateId": line.book.last_id, "E": now, "T": now - 3,
            "bids": [list(b) for b in bids], "asks": [list(a) for a in asks],
        }, DEPTH_WEIGHTS[limit]  # fmt: skip

    def klines(self, query: dict[str, str]) -> tuple[Any, int]:
        line = self.line(query)
        interval = query.get("interval", "")
        if interval not in INTERVALS_MS:
            raise RefusedError(400, -1120, "Invalid interval.")
        step = INTERVALS_MS[interval]
        limit = _integer(query, "limit", 500)
        assert limit is not None
        if not 1 <= limit <= 1500:
            raise RefusedError(400, -1130, "Data sent for parameter 'limit' is not valid.")
        weight = 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10
        now = self._x.clock.true_ms()
        newest = now // step * step
        start, end = _integer(query, "startTime"), _integer(query, "endTime")
        last = newest if end is None else min(newest, end // step * step)
        if start is not None:
            first = -(-start // step) * step
            last = min(last, first + (limit - 1) * step)
        else:
            first = last - (limit - 1) * step
        return [
            kline_row(line, line.candle_of(at, step, now), step) for at in range(first, last + 1, step)
        ], weight

    def premium_index(self, query: dict[str, str]) -> tuple[Any, int]:
        if query.get("symbol"):
            self.line(query)
            return self.premium(query["symbol"]), 1
        return [self.premium(name) for name in self._x.line_of], 10

    def premium(self, symbol: str) -> dict[str, Any]:
        line, now = self._x.line_of[symbol], self._now()
        price = line.last_price
        digits = max(8, line.price_digits)
        return {
            "symbol": symbol, "markPrice": f"{price:.{digits}f}",
            "indexPrice": f"{price * 0.9998:.{digits}f}",
            "estimatedSettlePrice": f"{price * 0.9999:.{digits}f}",
            "lastFundingRate": f"{self._x.factors.funding_rate:.8f}",
            "interestRate": "0.00010000",
            "nextFundingTime": (now // FUNDING_MS + 1) * FUNDING_MS, "time": now,
        }  # fmt: skip

    def book_ticker(self, query: dict[str, str]) -> tuple[Any, int]:
        names = [query["symbol"]] if query.get("symbol") else list(self._x.line_of)
        rows = []
        for name in names:
            line = self.line({"symbol": name})
            if line.book.best:
                (bid, bid_q), (ask, ask_q) = line.book.best
                rows.append({
                    "symbol": name, "bidPrice": bid, "bidQty": bid_q, "askPrice": ask, "askQty": ask_q,
                    "time": self._now(), "lastUpdateId": line.book.last_id,
                })  # fmt: skip
        return (rows[0], 2) if query.get("symbol") else (rows, 5)

    def price(self, query: dict[str, str]) -> tuple[Any, int]:
        def row(name: str) -> dict[str, Any]:
            line = self.line({"symbol": name})
            return {"symbol": name, "price": f"{line.last_price:.{line.price_digits}f}", "time": self._now()}

        if query.get("symbol"):
            return row(query["symbol"]), 1
        return [row(name) for name in self._x.line_of], 2

    def taker(self, query: dict[str, str]) -> tuple[Any, int]:
        self.line(query)
        if query.get("period") not in PERIODS_MS:
            raise RefusedError(400, -1130, "Data sent for parameter 'period' is not valid.")
        limit = _integer(query, "limit", 30)
        if limit is None or not 1 <= limit <= 500:
            raise RefusedError(400, -1130, "Data sent for parameter 'limit' is not valid.")
        return self._x.factors.taker_series(query, self._now()), 0

    # --- Deribit and alternative.me

    def _rpc(self, result: Any) -> dict[str, Any]:
        now_us = time.time_ns() // 1_000
        return {
            "jsonrpc": "2.0", "result": result, "usIn": now_us, "usOut": now_us + 150, "usDiff": 150,
            "testnet": False,
        }  # fmt: skip

    def dvol(self, query: dict[str, str]) -> tuple[Any, int]:
        for name in ("currency", "start_timestamp", "end_timestamp", "resolution"):
            if not query.get(name):
                raise RefusedError(400, -32602, "Invalid params")
        if query["currency"] not in ("BTC", "ETH") or query["resolution"] not in RESOLUTIONS_MS:
            raise RefusedError(400, -32602, "Invalid params")
        start, end = int(query["start_timestamp"]), int(query["end_timestamp"])
        rows, more = self._x.factors.dvol_candles(
            start, end, RESOLUTIONS_MS[query["resolution"]], self._now()
        )
        return self._rpc({"data": rows, "continuation": more}), 0

    def fng(self, query: dict[str, str]) -> tuple[Any, int]:
        limit = int(query.get("limit", "1")) or 365
        rows = self._x.factors.fng_days(limit, self._now())
        return {"name": "Fear and Greed Index", "data": rows, "metadata": {"error": None}}, 0


def kline_row(line: Line, candle: Candle, step: int) -> list[Any]:
    """The twelve fields of a kline."""

    def price(value: float) -> str:
        return f"{value:.{line.price_digits}f}"

    def quantity(value: float) -> str:
        return f"{value:.{line.quantity_digits}f}"

    return [
        candle.open_ms, price(candle.open), price(candle.high), price(candle.low), price(candle.close),
        quantity(candle.volume), candle.open_ms + step - 1, f"{candle.quote:.5f}", candle.trades,
        quantity(candle.taker_base), f"{candle.taker_quote:.5f}", "0",
    ]  # fmt: skip


TIME_FIELDS = ("E", "T", "time", "serverTime", "timestamp", "usIn", "usOut", "nextFundingTime")


def aged(body: Any, seconds: float) -> Any:
    """The answer as it was `seconds` ago as far as its times go."""
    ms = int(seconds * 1_000)
    if isinstance(body, list):
        # Rows of candles begin with their time; rows of other things are answers of their own.
        return [
            [row[0] - ms, *row[1:]]
            if isinstance(row, list) and row and isinstance(row[0], int)
            else aged(row, seconds)
            for row in body
        ]
    if not isinstance(body, dict):
        return body
    out = {}
    for key, value in body.items():
        if key in TIME_FIELDS and isinstance(value, int):
            out[key] = value - (ms * 1_000 if key.startswith("us") else ms)
        elif key in TIME_FIELDS and isinstance(value, str) and value.isdigit():
            out[key] = str(int(value) - (ms if len(value) > 11 else ms // 1_000))
        else:
            out[key] = aged(value, seconds) if key in ("result", "data") else value
    return out


def encode(body: Any) -> str:
    return body if isinstance(body, str) else json.dumps(body, separators=(",", ":"))
