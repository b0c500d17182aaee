"""The four factors on the web: where each is asked, how often, and what an answer must look like.

Entry points: `FACTOR_PAGES`, `ADDRESSES`, `checked_addresses`.

Every answer carries its own time, and a value counts from it: funding from `time`, an index's or a ratio's
candle from its close, fear and greed from its day's stamp. A candle that has not closed yet is passed over,
for its value still moves. What is not as documented is refused in one line; numbers may be text or numbers.

Sources: Binance USD-M Futures API (`/fapi/v1/premiumIndex`, `/futures/data/takerlongshortRatio`), Deribit API
v2 (`public/get_volatility_index_data`), alternative.me (`/fng/`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import ConfigError, DataError, nearest
from dolphin.factors.keeper import Sample
from dolphin.feeds.addresses import base_parts, is_safe
from dolphin.feeds.polling import Pace

#: Host → base address. No key is sent to any of them.
ADDRESSES: Final[Mapping[str, str]] = {
    "binance": "https://fapi.binance.com",
    "deribit": "https://www.deribit.com",
    "alternative": "https://api.alternative.me",
}
SYMBOL: Final = "BTCUSDT"
#: A stamp may be so far ahead of our clock: clocks differ, and answers travel.
AHEAD_MAX_NS: Final = 60 * NS_PER_S
_NS_PER_MS: Final = 1_000_000
_MINUTE_MS: Final = 60_000


@dataclass(frozen=True, kw_only=True, slots=True)
class FactorPage:
    """One question: query is made of the instant (ns UTC), parse takes the decoded answer and the instant."""

    host: str
    path: str
    query: Callable[[int], dict[str, str]]
    parse: Callable[[Any, int], Sample]
    pace: Pace


def checked_addresses(given: Mapping[str, str]) -> dict[str, str]:
    """The base address of each host, the given ones in place of the usual.

    Raises ConfigError for an unknown host, and for an address that is neither https nor on loopback.
    """
    found = dict(ADDRESSES)
    for host, address in given.items():
        if host not in ADDRESSES:
            hint = f"{nearest(host, ADDRESSES)} There are: {', '.join(ADDRESSES)}"
            raise ConfigError(f"{host!r} is no source of factors.{hint}")
        parts = base_parts(address)
        if parts is None:
            raise ConfigError(
                f"{host}: expected a base address like {ADDRESSES[host]}, without user, path or query"
            )
        if not is_safe(parts):
            raise ConfigError(f"{host}: {address} is refused; expected https://, or http:// to this machine")
        found[host] = address.rstrip("/")
    return found


# ---- what is common to the answers


def _number(value: Any, name: str) -> float:
    """A finite number, given as one or as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise DataError(f"{name} is {_shown(value)}, expected a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{name} is {_shown(value)}, expected a number")
    return number


def _whole(value: Any, name: str) -> int:
    """A whole number of an instant, as one or as text."""
    text = str(value)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | str)
        or not text.isascii()
        or not text.isdigit()
        or len(text) > 16
    ):
        raise DataError(f"{name} is {_shown(value)}, expected a Unix time")
    return int(text)


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{name} is {_shown(value)}, expected an object")
    return value


def _list(value: Any, name: str) -> Sequence[Any]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{name} is {_shown(value)}, expected a list that is not empty")
    return value


def _shown(value: Any) -> str:
    text = "missing" if value is None else " ".join(repr(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


def _timely(at_ns: int, now_ns: int, name: str) -> int:
    if at_ns > now_ns + AHEAD_MAX_NS:
        ahead_s = (at_ns - now_ns) // NS_PER_S
        raise DataError(f"{name} lies {ahead_s:,} s ahead of this machine's clock; set the clock")
    return at_ns


def _closed(candles: Sequence[tuple[int, float]], period_ms: int, now_ns: int, name: str) -> Sample:
    """The newest of (opened, ms; value) that has closed. Raises DataError when none has."""
    ended = [(at_ms, value) for at_ms, value in candles if (at_ms + period_ms) * _NS_PER_MS <= now_ns]
    if not ended:
        _timely(min(at_ms for at_ms, _ in candles) * _NS_PER_MS, now_ns, f"{name}'s oldest candle")
        raise DataError(f"{name}: no candle has closed yet, of {len(candles)}")
    at_ms, value = max(ended)
    return Sample(value, (at_ms + period_ms) * _NS_PER_MS)


# ---- the four


def _funding(answer: Any, now_ns: int) -> Sample:
    found = _mapping(answer, "the answer")
    if found.get("symbol") != SYMBOL:
        raise DataError(f"symbol is {_shown(found.get('symbol'))}, expected {SYMBOL}")
    rate = _number(found.get("lastFundingRate"), "lastFundingRate")
    at_ns = _whole(found.get("time"), "time") * _NS_PER_MS
    return Sample(rate, _timely(at_ns, now_ns, "time"))


_TAKER_MS: Final = 5 * _MINUTE_MS


def _taker(answer: Any, now_ns: int) -> Sample:
    rows = []
    for row in _list(answer, "the answer"):
        found = _mapping(row, "a row")
        ratio = _number(found.get("buySellRatio"), "buySellRatio")
        rows.append((_whole(found.get("timestamp"), "timestamp"), ratio))
    return _closed(rows, _TAKER_MS, now_ns, "takerlongshortRatio")


_DVOL_BACK_MS: Final = 15 * _MINUTE_MS


def _dvol_query(now_ns: int) -> dict[str, str]:
    now_ms = now_ns // _NS_PER_MS
    return {
        "currency": "BTC",
        "resolution": "60",
        "start_timestamp": str(now_ms - _DVOL_BACK_MS),
        "end_timestamp": str(now_ms),
    }


def _dvol(answer: Any, now_ns: int) -> Sample:
    found = _mapping(answer, "the answer")
    if "error" in found:
        raise DataError(f"error {_shown(found['error'])}")
    candles = []
    for row in _list(_mapping(found.get("result"), "result").get("data"), "result.data"):
        if not isinstance(row, list) or len(row) != 5:
            raise DataError(f"a candle is {_shown(row)}, expected [ms, open, high, low, close]")
        candles.append((_whole(row[0], "a candle's time"), _number(row[4], "a candle's close")))
    return _closed(candles, _MINUTE_MS, now_ns, "get_volatility_index_data")


def _fng(answer: Any, now_ns: int) -> Sample:
    found = _mapping(answer, "the answer")
    metadata = found.get("metadata")
    error = metadata.get("error") if isinstance(metadata, dict) else None
    if error:
        raise DataError(f"error {_shown(error)}")
    days = [_mapping(day, "a day") for day in _list(found.get("data"), "data")]
    stamps = [_whole(day.get("timestamp"), "timestamp") for day in days]
    newest = max(range(len(days)), key=lambda k: stamps[k])
    value = _number(days[newest].get("value"), "value")
    return Sample(value, _timely(stamps[newest] * NS_PER_S, now_ns, "timestamp"))


#: Factor → its page. Fear and greed changes once a day, and its publisher asks for few questions.
FACTOR_PAGES: Final[Mapping[str, FactorPage]] = {
    "funding_btc": FactorPage(
        host="binance", path="/fapi/v1/premiumIndex", query=lambda now_ns: {"symbol": SYMBOL},
        parse=_funding, pace=Pace(period_s=30.0),
    ),
    "dvol_btc": FactorPage(
        host="deribit", path="/api/v2/public/get_volatility_index_data", query=_dvol_query,
        parse=_dvol, pace=Pace(period_s=30.0),
    ),
    "fng": FactorPage(
        host="alternative", path="/fng/", query=lambda now_ns: {"limit": "2"},
        parse=_fng, pace=Pace(period_s=600.0, timeout_s=20.0),
    ),
    "taker": FactorPage(
        host="binance", path="/futures/data/takerlongshortRatio",
        query=lambda now_ns: {"symbol": SYMBOL, "period": "5m", "limit": "3"},
        parse=_taker, pace=Pace(period_s=60.0),
    ),
}  # fmt: skip
