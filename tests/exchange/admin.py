"""The exchange's own door, for clients in other processes; its paths begin with an underscore.

POST /_fault {"kind": "gap", "symbol": "BTCUSDT", "count": 1}       -> {"id": 1}
POST /_fault {"kind": "disconnect", "stream": "*", "abort": false}  -> {"closed": 2}
POST /_fault {"kind": "skew", "value": -3.5}                        -> {}
DELETE /_fault, DELETE /_fault?id=1                                 ends all, or one
POST /_step {"ticks": 5}, POST /_time {"seconds": 86400}, POST /_factors {"dvol": 85}
GET /_state, GET /_fault, GET /_truth?symbol=BTCUSDT
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from .server import LoopbackExchange

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Admin:
    def __init__(self, exchange: LoopbackExchange) -> None:
        self._x = exchange

    def route(self, otherwise: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            if not request.path.startswith("/_"):
                return await otherwise(request)
            try:
                body = await request.json() if request.can_read_body else {}
                return web.json_response(self.answer(request.method, request.path, dict(request.query), body))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)

        return handle

    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> Any:
        x = self._x
        if (method, path) == ("GET", "/_state"):
            return {"slot": x.slot, "now_ms": x.clock.now_ms(), "symbols": list(x.line_of), **x.meter.state()}
        if path == "/_fault":
            return self._fault(method, query, body)
        if (method, path) == ("POST", "/_step"):
            for _ in range(int(body.get("ticks", 1)) * 10):
                x._advance()
            return {"slot": x.slot}
        if (method, path) == ("POST", "/_time"):
            x.clock.advance(round(float(body["seconds"]) * 1_000))
            x.streams.expire()
            return {"now_ms": x.clock.now_ms()}
        if (method, path) == ("POST", "/_factors"):
            x.factors.set(**body)
            return dict(vars(x.factors))
        if (method, path) == ("GET", "/_truth"):
            book = x.line_of[query["symbol"]].published
            bids, asks = book.top(int(query.get("limit", "1000")))
            return {"last_id": book.last_id, "bids": bids, "asks": asks}
        raise ValueError(f"no {method} {path} here, expected {(__doc__ or '').splitlines()[0]}")

    def _fault(self, method: str, query: dict[str, str], body: dict[str, Any]) -> Any:
        x = self._x
        if method == "GET":
            return x.faults.state()
        if method == "DELETE":
            x.faults.clear(int(query["id"]) if "id" in query else None)
            if "id" not in query:
                x.skew(0)
            return {}
        kind = body.pop("kind")
        if kind == "disconnect":
            closed = x.streams.disconnect(body.get("stream", "*"), abort=bool(body.get("abort", False)))
            return {"closed": closed}
        if kind == "skew":
            x.skew(float(body["value"]))
            return {}
        return {"id": x.faults.add(kind, **body).id}
