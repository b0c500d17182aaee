"""Numbers, times and untrusted words as people read them.

A minus is U+2212, so that it lines up with a plus; a value that does not exist is a dash.
"""

from __future__ import annotations

import html
import math
from typing import Any

from dolphin.domain.clock import NS_PER_S, iso_from_ns

DASH = "–"
MINUS = "−"


def esc(value: object) -> str:
    """Text that is safe inside an element and inside a quoted attribute."""
    return html.escape(str(value), quote=True)


def number_of(value: Any) -> float | None:
    """The value as a finite float, or None."""
    if value is None or isinstance(value, str | bytes):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def number(value: Any, decimals: int = 2, *, signed: bool = False) -> str:
    """`1,234.50`; with `signed` also `+1,234.50`. A dash when there is no number."""
    x = number_of(value)
    if x is None:
        return DASH
    x = round(x, decimals) + 0.0
    return f"{x:{'+' if signed and x else ''},.{decimals}f}".replace("-", MINUS)


def percent(fraction: Any, decimals: int = 2, *, signed: bool = False) -> str:
    """`1.25 %` from 0.0125. A dash when there is no number."""
    x = number_of(fraction)
    return DASH if x is None else number(100.0 * x, decimals, signed=signed) + " %"


def price(value: Any) -> str:
    """A price with about six digits that matter."""
    x = number_of(value)
    if x is None:
        return DASH
    if x == 0.0:
        return "0"
    digits = min(10, max(2, 5 - math.floor(math.log10(abs(x)))))
    return number(x, digits)


def count(value: Any) -> str:
    """`40,000`. A dash when there is no number."""
    return number(value, 0)


def utc(timestamp_ns: int | None, *, seconds: bool = True) -> str:
    """`2026-01-02 03:04:05`, UTC; a dash for None."""
    if timestamp_ns is None:
        return DASH
    return iso_from_ns(timestamp_ns)[: 19 if seconds else 16].replace("T", " ")


def duration(span_ns: int) -> str:
    """`2 d 7 h`, `3 h 20 min`, `45 s`."""
    seconds = max(0, span_ns // NS_PER_S)
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, seconds = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def plural(n: int, word: str) -> str:
    """`1 trade`, `2 trades`."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"
