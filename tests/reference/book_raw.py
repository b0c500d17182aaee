"""Raw recordings of an invented exchange: messages as text, as a recorder of Binance USD-M writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from book_market import Exchange

from dolphin.orderbook.book import DepthSnapshot, Difference

#: (kind, text) or (kind, text, symbol).
Message = tuple[str, ...]
RECV_NS = 1_700_000_000_000_000_000


def wrapped(stream: str, data: dict[str, Any]) -> str:
    """As a combined stream sends it."""
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":"))


def _levels(levels: Sequence[tuple[float, float]]) -> list[list[str]]:
    return [[f"{price:.2f}", f"{quantity:.3f}"] for price, quantity in levels]


def depth_data(difference: Difference, symbol: str = "AAAUSDT") -> dict[str, Any]:
    ms = difference.event_ns // 1_000_000
    return {
        "e": "depthUpdate", "E": ms, "T": ms, "s": symbol, "U": difference.first_id, "u": difference.last_id,
        "pu": difference.previous_id, "b": _levels(difference.bids), "a": _levels(difference.asks),
    }  # fmt: skip


def depth(difference: Difference, symbol: str = "AAAUSDT") -> Message:
    return "depth", wrapped(f"{symbol.lower()}@depth@100ms", depth_data(difference, symbol))


def snapshot(taken: DepthSnapshot) -> Message:
    ms = taken.event_ns // 1_000_000
    bids, asks = _levels(taken.bids), _levels(taken.asks)
    return "snapshot", json.dumps(
        {"lastUpdateId": taken.last_id, "E": ms, "T": ms, "bids": bids, "asks": asks}
    )


def ticker(exchange: Exchange, symbol: str = "AAAUSDT", **changed: str) -> Message:
    """The touch as of the exchange's newest update."""
    bid, ask = max(exchange.bids), min(exchange.asks)
    data = {
        "e": "bookTicker", "u": exchange.update_id, "s": symbol, "b": f"{bid:.2f}",
        "B": f"{exchange.bids[bid]:.3f}", "a": f"{ask:.2f}", "A": f"{exchange.asks[ask]:.3f}", **changed,
    }  # fmt: skip
    return "bookTicker", wrapped(f"{symbol.lower()}@bookTicker", data)


def session(
    seed: int = 1, n: int = 60, snapshots_after: Sequence[int] = (5,)
) -> tuple[Exchange, list[Message]]:
    """n differences, a bookTicker after each, and whole snapshots after some."""
    exchange = Exchange(seed)
    messages: list[Message] = []
    for k in range(n):
        messages.append(depth(exchange.step()))
        messages.append(ticker(exchange))
        if k in snapshots_after:
            messages.append(snapshot(exchange.snapshot()))
    return exchange, messages


def write_raw(path: Path, messages: Sequence[Message]) -> Path:
    """A raw file; with a column of symbols where the messages name theirs."""
    columns: dict[str, Any] = {
        "recv_ts": pa.array(
            [RECV_NS + 10_000_000 * k for k in range(len(messages))], pa.timestamp("ns", tz="UTC")
        ),
        "kind": pa.array([m[0] for m in messages], pa.string()).dictionary_encode(),
        "raw": pa.array([m[1] for m in messages], pa.large_string()),
    }
    if messages and len(messages[0]) > 2:
        columns["symbol"] = pa.array([m[2] for m in messages], pa.string())
    pq.write_table(pa.table(columns), path)
    return path
