"""Texts of the exchange that the universe service reads: five levels, answers, the list of symbols.

Entry points: `message_of`, `active_perpetuals`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from dolphin.domain.errors import ConfigError, DataError
from dolphin.domain.symbols import check_universe


class FiveLevels(msgspec.Struct, gc=False):
    """A message of `{symbol}@depth5@500ms`: event, symbol, (price, quantity) of bids and asks."""

    e: str
    s: str
    b: list[tuple[float, float]]
    a: list[tuple[float, float]]


class Answer(msgspec.Struct):
    """What the exchange says to SUBSCRIBE and UNSUBSCRIBE; `error` is None where it took it."""

    id: int | None
    error: Any = None


# The exchange gives numbers as text.
_LEVELS: Final = msgspec.json.Decoder(FiveLevels, strict=False)
_ANSWER: Final = msgspec.json.Decoder(Answer)


def message_of(text: str) -> FiveLevels | Answer | None:
    """A frame's message, None where it is no message known here. Never raises."""
    try:
        return _LEVELS.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        pass
    try:
        return _ANSWER.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return None


def active_perpetuals(info: Any) -> tuple[list[str], list[str]]:
    """(USDT perpetuals that are traded, those whose name no universe takes) of an exchangeInfo answer.

    Raises DataError for an answer that is none, or that has no such symbol.
    """
    found: list[str] = []
    unnamed: list[str] = []
    try:
        for row in info["symbols"]:
            if (row["contractType"], row["quoteAsset"], row["status"]) != ("PERPETUAL", "USDT", "TRADING"):
                continue
            try:
                found += check_universe([str(row["symbol"])], "exchangeInfo")
            except ConfigError:
                unnamed.append(str(row["symbol"]))
    except (TypeError, KeyError) as error:
        raise DataError(
            f"exchangeInfo refused: no list of symbols ({type(error).__name__}: {error})"
        ) from error
    if not found:
        raise DataError("exchangeInfo refused: it names no USDT perpetual that is traded")
    return list(dict.fromkeys(found)), unnamed
