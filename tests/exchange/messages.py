"""The texts of stream messages, field by field as documented.

Built as text: a message is made once and sent to everybody, and a thousand a second are no load.
"""

from __future__ import annotations

from typing import Any

from .faults import Fault
from .line import MINUTE_MS, Candle, Difference, Level, Line, Trade

#: The engine's own time lies that far before the message's.
ENGINE_LAG_MS = 3


def _levels(levels: list[Level]) -> str:
    return "[" + ",".join([f'["{p}","{q}"]' for p, q in levels]) + "]"


def depth(symbol: str, told: Difference, now_ms: int, stale: Fault | None = None) -> str:
    at = now_ms - (int(float(stale.value) * 1_000) if stale else 0)
    return (
        f'{{"e":"depthUpdate","E":{at},"T":{at - ENGINE_LAG_MS},"s":"{symbol}","U":{told.first_id},'
        f'"u":{told.last_id},"pu":{told.previous_id},"b":{_levels(told.bids)},"a":{_levels(told.asks)}}}'
    )


def partial_depth(symbol: str, line: Line, n: int, previous_id: int, now_ms: int) -> str:
    bids, asks = line.book.top(n)
    last = line.book.last_id
    return (
        f'{{"e":"depthUpdate","E":{now_ms},"T":{now_ms - ENGINE_LAG_MS},"s":"{symbol}","U":{previous_id + 1},'
        f'"u":{last},"pu":{previous_id},"b":{_levels(bids)},"a":{_levels(asks)}}}'
    )


def agg_trade(symbol: str, trade: Trade, now_ms: int) -> str:
    maker = "true" if trade.buyer_is_maker else "false"
    return (
        f'{{"e":"aggTrade","E":{now_ms},"a":{trade.id},"s":"{symbol}","p":"{trade.price}","q":"{trade.quantity}",'
        f'"f":{trade.id},"l":{trade.id},"T":{now_ms - ENGINE_LAG_MS},"m":{maker}}}'
    )


def trade_message(symbol: str, trade: Trade, now_ms: int) -> str:
    maker = "true" if trade.buyer_is_maker else "false"
    return (
        f'{{"e":"trade","E":{now_ms},"T":{now_ms - ENGINE_LAG_MS},"s":"{symbol}","t":{trade.id},'
        f'"p":"{trade.price}","q":"{trade.quantity}","X":"MARKET","m":{maker}}}'
    )


def book_ticker(symbol: str, line: Line, now_ms: int) -> str:
    assert line.quote is not None
    (bid, bid_q), (ask, ask_q) = line.quote
    return (
        f'{{"e":"bookTicker","u":{line.book.last_id},"s":"{symbol}","b":"{bid}","B":"{bid_q}","a":"{ask}",'
        f'"A":"{ask_q}","T":{now_ms - ENGINE_LAG_MS},"E":{now_ms}}}'
    )


def mark_price(premium: dict[str, Any], now_ms: int) -> str:
    return (
        f'{{"e":"markPriceUpdate","E":{now_ms},"s":"{premium["symbol"]}","p":"{premium["markPrice"]}",'
        f'"P":"{premium["estimatedSettlePrice"]}","i":"{premium["indexPrice"]}",'
        f'"r":"{premium["lastFundingRate"]}","T":{premium["nextFundingTime"]}}}'
    )


def kline(
    symbol: str, line: Line, candle: Candle, interval: str, step_ms: int, now_ms: int, *, closed: bool
) -> str:
    d, q = line.price_digits, line.quantity_digits
    begin, end = candle.open_ms, candle.open_ms + step_ms - 1
    return (
        f'{{"e":"kline","E":{now_ms},"s":"{symbol}","k":{{"t":{begin},"T":{end},'
        f'"s":"{symbol}","i":"{interval}","f":{candle.first_trade},"L":{candle.last_trade},"o":"{candle.open:.{d}f}",'
        f'"c":"{candle.close:.{d}f}","h":"{candle.high:.{d}f}","l":"{candle.low:.{d}f}","v":"{candle.volume:.{q}f}",'
        f'"n":{candle.trades},"x":{"true" if closed else "false"},"q":"{candle.quote:.5f}",'
        f'"V":"{candle.taker_base:.{q}f}","Q":"{candle.taker_quote:.5f}","B":"0"}}}}'
    )


def mini_ticker(symbol: str, line: Line, now_ms: int, true_ms: int) -> str:
    day = line.day(true_ms // MINUTE_MS)
    d, q = line.price_digits, line.quantity_digits
    price = line.last_price
    return (
        f'{{"e":"24hrMiniTicker","E":{now_ms},"s":"{symbol}","c":"{price:.{d}f}","o":"{day.open:.{d}f}",'
        f'"h":"{max(day.high, price):.{d}f}","l":"{min(day.low, price):.{d}f}","v":"{day.volume:.{q}f}",'
        f'"q":"{day.quote:.2f}"}}'
    )
