"""The figures of order-book intelligence in one place (spec 04)."""

from __future__ import annotations

from typing import Final

from dolphin.domain.clock import NS_PER_S

#: Imbalances that persistence looks at, and that the moving average takes.
PERSISTENCE_BARS: Final = 10
MEAN_BARS: Final = 5
#: Depths kept of an asset; the newest is compared with one of these, so at most 59 bars back.
DEPTHS_KEPT: Final = 60
LOOKBACK: Final = 60
#: Weight of the old reference when a depth is folded in, live; a preloaded day keeps its own.
REFERENCE_KEEP: Final = 0.99
REFERENCE_FIXED: Final = 1.0
#: Withdrawal velocities: below these an asset is in a cascade, the market under stress; within, calm.
CASCADE_THRESHOLD: Final = -0.30
STRESS_THRESHOLD: Final = -0.10
CALM_THRESHOLD: Final = 0.02
CALM_AGREEMENT: Final = 0.60
#: Bars in a row without any snapshot from which on books are absent.
DEGRADED_BARS: Final = 3
#: A snapshot older than this counts as missing, and so does one that claims a later instant by as much.
STALE_AFTER_NS: Final = 5 * NS_PER_S
#: Bars whose features are kept.
BARS_KEPT: Final = 500
