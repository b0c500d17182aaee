"""What the engine's getters give, and what they give where nothing is known."""

from __future__ import annotations

from typing import Final, NamedTuple

from dolphin.domain.bar import FloatArray
from dolphin.orderbook.snapshot import REACHES_BPS


class Placement(NamedTuple):
    """How well an order of this asset would lie.

    depth_1pct_usd is USD within 1 % of mid, or within reach_bps of it where a side does not cover 1 %;
    quality is that over its usual value for the reach, fill_probability a share, the spread proxy in bps.
    """

    depth_1pct_usd: float
    depth_quality: float
    fill_probability: float
    spread_proxy_bps: float
    reach_bps: float

    @property
    def visible(self) -> bool:
        """Whether the depth is only what is visible of a book that does not reach 1 % from mid."""
        return 0.0 < self.reach_bps < REACHES_BPS[-1]


class Signal(NamedTuple):
    """Which way an asset's book leans, imbalances in [-1, 1], and how fast its depth goes, as a fraction."""

    imbalance: float
    imbalance_ma5: float
    imbalance_persistence: float
    depth_asymmetry: float
    withdrawal_velocity: float


class MarketFigures(NamedTuple):
    """Across the n_assets that had a snapshot; degraded means books absent."""

    median_imbalance: float
    agreement_pct: float
    depth_pressure: float
    n_assets: int
    degraded: bool


class MacroFigures(NamedTuple):
    """The market's depth: relative change of the mean reference, its first difference, and alarms."""

    depth_velocity: float
    acceleration: float
    cascade_count: int
    regime_signal: int


class AlphaBooks(NamedTuple):
    """Books of one bar as the alpha takes them; field by field `dolphin.engine.state.Books`."""

    present: bool
    median_imbalance: float
    agreement: float
    cascade_count: int
    regime_signal: int
    imbalance_ma5: FloatArray  # (n_assets,), as are the rest
    persistence: FloatArray
    depth_quality: FloatArray
    fill_probability: FloatArray
    withdrawal_velocity: FloatArray


#: Of an asset or a bar that is not known.
NEUTRAL_PLACEMENT: Final = Placement(0.0, 1.0, 0.5, 0.0, 0.0)
NEUTRAL_SIGNAL: Final = Signal(0.0, 0.0, 0.0, 0.0, 0.0)
NEUTRAL_MARKET: Final = MarketFigures(0.0, 0.0, 0.0, 0, True)
NEUTRAL_MACRO: Final = MacroFigures(0.0, 0.0, 0, 0)
