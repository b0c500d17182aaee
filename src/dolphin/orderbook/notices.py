"""What a bar's snapshots are worth telling, as lines for whoever logs; each once, when it begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dolphin.domain.bar import SmallIntArray
from dolphin.domain.errors import plural
from dolphin.orderbook.constants import STALE_AFTER_NS
from dolphin.orderbook.fold import HIDDEN, REFUSED, STALE

_NAMED: Final = 5
_TOLD: Final = {
    STALE: f"the newest snapshot is not within {STALE_AFTER_NS // 1_000_000_000} s of the bar",
    REFUSED: "the snapshot holds an amount that is no finite number from 0, or an unknown reach",
    HIDDEN: "the snapshot shows nothing on both sides of mid",
}


def notices_of(
    symbols: Sequence[str],
    before: SmallIntArray,
    now: SmallIntArray,
    silent_before: int,
    silent: int,
    degraded_bars: int,
) -> tuple[str, ...]:
    """Lines for what began on this bar: assets that count as missing, books absent, books back.

    before and now are the assets' status (n,) on the last bar and on this one; silent_before and silent count
    the bars in a row without any snapshot.
    """
    lines: list[str] = []
    if (now != before).any():
        for status, told in _TOLD.items():
            new = [symbols[i] for i in ((now == status) & (before != status)).nonzero()[0].tolist()]
            if new:
                more = f" and {len(new) - _NAMED} more" if len(new) > _NAMED else ""
                lines.append(f"books of {', '.join(new[:_NAMED])}{more}: {told}; counts as missing")
    if silent == degraded_bars:
        lines.append(
            f"books: no snapshot of any asset for {plural(silent, 'bar')}; "
            "they count as absent until one comes"
        )
    if silent == 0 and silent_before >= degraded_bars:
        lines.append(f"books: back after {plural(silent_before, 'bar')} without any snapshot")
    return tuple(lines)
