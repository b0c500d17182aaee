"""Symbols and universes. The order of a universe is part of the schema."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from dolphin.domain.errors import ConfigError

SYMBOL_BYTES_MAX = 24
_SYMBOL = re.compile(rf"[A-Z0-9]{{2,{SYMBOL_BYTES_MAX}}}")

BTC = "BTCUSDT"

#: Pegged to a currency; never traded by a set with `exclude_stablecoins`.
STABLECOINS = frozenset(
    {
        "USDCUSDT", "FDUSDUSDT", "TUSDUSDT", "BUSDUSDT", "DAIUSDT",
        "USDPUSDT", "USDEUSDT", "PYUSDUSDT", "USTCUSDT", "EURUSDT",
    }
)  # fmt: skip


def check_universe(symbols: Sequence[str], source: str) -> tuple[str, ...]:
    """The symbols as a universe. Raises ConfigError when one is malformed or twice there, or none is."""
    if not symbols:
        raise ConfigError(f"{source}: no symbols; a universe needs at least one")
    seen: set[str] = set()
    for symbol in symbols:
        if not _SYMBOL.fullmatch(symbol):
            raise ConfigError(
                f"{source}: {symbol!r} is no symbol; expected 2 to {SYMBOL_BYTES_MAX} capitals and digits, "
                "like BTCUSDT"
            )
        if symbol in seen:
            raise ConfigError(f"{source}: {symbol} stands twice; remove one")
        seen.add(symbol)
    return tuple(symbols)


def universe_id(symbols: Sequence[str]) -> str:
    """Sixteen hex digits that change with any symbol or with their order."""
    return hashlib.sha256("\n".join(symbols).encode()).hexdigest()[:16]
