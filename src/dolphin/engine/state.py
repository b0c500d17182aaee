"""The engine's state, parameters and inputs in the form that kernels take: named tuples.

Invariants: 1. the state is nothing but these arrays, so saving them is saving everything; 2. `bar_idx` is
never reset; 3. the random stream is an input, the state holds only the position in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from dolphin.alpha.selection import IRP_PRICES, PROFILE_ROWS
from dolphin.domain.bar import BoolArray, FloatArray, IntArray, SmallIntArray
from dolphin.domain.codes import APEX, MC_ABSENT
from dolphin.domain.errors import ConfigError
from dolphin.domain.params import ParameterSet
from dolphin.domain.symbols import BTC, STABLECOINS
from dolphin.risk.forewarner import MC_SCALES as MC_SCALES

HISTORY_MAX: Final = 500
HISTORY_KEPT: Final = 200
VEL_DIV_KEPT: Final = 200
PROXIES_KEPT: Final = 500

# Slots of State.floats.
FLOAT_NAMES: Final = (
    "capital",
    "boost",
    "beta",
    "mc_scale",
    "regime_size_mult",
    "proxy_scale",
    "day_start_capital",
    "entry_price",
    "notional",
    "leverage",
    "fraction",
    "lane_base",
    "lane_dc",
    "lane_regime",
    "lane_ob",
    "lane_esof",
    "raw",
    "cap",
    "entry_vel_div",
    "entry_spread",
)
(
    CAPITAL,
    BOOST,
    BETA,
    MC_SCALE,
    REGIME,
    PROXY_SCALE,
    DAY_START_CAPITAL,
    ENTRY_PRICE,
    NOTIONAL,
    LEVERAGE,
    FRACTION,
    LANE_BASE,
    LANE_DC,
    LANE_REGIME,
    LANE_OB,
    LANE_ESOF,
    RAW,
    CAP,
    ENTRY_VEL_DIV,
    ENTRY_SPREAD,
) = range(len(FLOAT_NAMES))

# Slots of State.ints.
INT_NAMES: Final = (
    "bar_count",
    "last_bar",
    "last_exit_bar",
    "position",
    "entry_bar",
    "bucket",
    "bound",
    "posture",
    "red_halt",
    "mc_status",
    "acb_flag",
    "adverse_run",
    "draw_position",
    "trades",
    "day_trades",
    "results",
    "proxy_count",
)
(
    BAR_COUNT,
    LAST_BAR,
    LAST_EXIT_BAR,
    POSITION,
    ENTRY_BAR,
    BUCKET,
    BOUND,
    POSTURE,
    RED_HALT,
    MC_STATUS,
    ACB_FLAG,
    ADVERSE_RUN,
    DRAW_POSITION,
    TRADES,
    DAY_TRADES,
    RESULTS,
    PROXY_COUNT,
) = range(len(INT_NAMES))

#: No position, no bar yet.
NONE: Final = -1


class State(NamedTuple):
    """Everything the engine remembers."""

    floats: FloatArray
    ints: IntArray
    prices: FloatArray  # (HISTORY_MAX + 1, n_assets), USDT, oldest first, each asset from row 0
    n_prices: IntArray  # (n_assets,)
    vel_divs: FloatArray  # ring of the last VEL_DIV_KEPT, indexed by bar count
    bucket_wins: IntArray  # (4,)
    bucket_trades: IntArray  # (4,)
    last_losses: IntArray  # (5,) ring, 1 for a loss, indexed by the count of results
    proxies: FloatArray  # ring of the last PROXIES_KEPT
    # work space of the ranking, not part of what is saved
    first: IntArray  # (n_assets,), always zero: a history begins at row 0
    window: FloatArray  # (50, n_assets)
    profiles: FloatArray  # (6, n_assets)
    order: SmallIntArray  # (n_assets,), as are the next three
    actions: SmallIntArray
    aligned: SmallIntArray
    ars: FloatArray


#: The arrays of State that are saved and restored, in order.
SAVED: Final = State._fields[:9]


class History(NamedTuple):
    """Where an asset's prices lie on one bar: rows first[i] to ends[i] - 1 of column i, oldest first."""

    prices: FloatArray  # (n_rows, n_assets), USDT
    ends: IntArray  # (n_assets,)
    first: IntArray  # (n_assets,)


class Ranking(NamedTuple):
    """A ranking of the assets, best first, or the arrays to put one into; see `rank_assets`."""

    n_ranked: int  # NONE where that is still to be done
    order: SmallIntArray
    actions: SmallIntArray
    aligned: SmallIntArray
    ars: FloatArray


class StepParams(NamedTuple):
    """A parameter set as the step kernel takes it; see `ParameterSet` for the meaning of each."""

    direction: int
    threshold: float
    extreme: float
    min_leverage: float
    max_leverage: float
    abs_max_leverage: float
    convexity: float
    fraction: float
    tp: float
    sl: float
    max_hold: int
    use_dc: bool
    dc_lookback: int
    dc_min_bps: float
    dc_skip: bool
    dc_boost: float
    dc_reduce: float
    use_selection: bool
    min_alignment: float
    use_fees: bool
    use_slippage: bool
    maker_entry: float
    maker_exit: float
    use_ob_edge: bool
    ob_edge_bps: float
    ob_confirm_rate: float
    lookback: int
    trend_lookback: int
    use_layers: bool
    use_dynamic_leverage: bool
    liquidation_guard: bool
    btc: int
    relative_irp: bool
    vd_enabled: bool
    tf_enabled: bool
    tf_exhaust_ratio: float
    tf_flip_ratio: float
    proxy_mode: bool
    fee_scale: float
    slippage_scale: float


class Books(NamedTuple):
    """Order books as the alpha sees them on one bar. Absent books leave every other field unread."""

    present: bool
    median_imbalance: float
    agreement: float
    cascade_count: int
    regime_signal: int
    imbalance_ma5: FloatArray  # (n_assets,)
    persistence: FloatArray
    depth_quality: FloatArray
    fill_probability: FloatArray
    withdrawal_velocity: FloatArray


#: The arrays of Books, its last fields.
BOOK_ARRAYS: Final = Books._fields[-5:]


class BarInput(NamedTuple):
    """One bar as the alpha sees it."""

    vel_div: float
    v50_velocity: float
    v750_velocity: float
    vol_ok: bool
    refusal: int  # a reason code of the host's own (stale scan, ledger halt), or REASON_NONE
    esof_mult: float
    prices: FloatArray  # (n_assets,) USDT, NaN where there never was one
    stale: BoolArray  # (n_assets,) no fresh price on this bar


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """Switches that are off in every named set and no part of its hash."""

    irp_steps: str = "absolute"
    vd_enabled: bool = False
    tf_enabled: bool = False
    tf_exhaust_ratio: float = 0.25
    tf_flip_ratio: float = 0.25
    proxy_mode: str = "none"
    fee_scale: float = 1.0
    slippage_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.irp_steps not in ("absolute", "relative"):
            raise ConfigError(f"irp_steps is {self.irp_steps!r}, expected absolute or relative")
        if self.proxy_mode not in ("none", "proxy"):
            raise ConfigError(f"proxy_mode is {self.proxy_mode!r}, expected none or proxy")
        for name in ("tf_exhaust_ratio", "tf_flip_ratio"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected 0 to 1")
        for name in ("fee_scale", "slippage_scale"):
            if not 0.0 <= getattr(self, name) <= 100.0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected 0 to 100")


def absent_books(n_assets: int) -> Books:
    """The neutral input when no order books are wired."""
    empty = np.zeros(n_assets)
    return Books(False, 0.0, 0.0, 0, 0, empty, empty, empty, empty, empty)


def step_params(params: ParameterSet, symbols: Sequence[str], options: EngineOptions) -> StepParams:
    """The kernel's form of a parameter set over a universe."""
    return StepParams(
        direction=params.direction,
        threshold=params.vel_div_threshold,
        extreme=params.vel_div_extreme,
        min_leverage=params.min_leverage,
        max_leverage=params.max_leverage,
        abs_max_leverage=params.abs_max_leverage,
        convexity=params.leverage_convexity,
        fraction=params.fraction,
        tp=params.fixed_tp_pct,
        sl=params.stop_pct,
        max_hold=params.max_hold_bars,
        use_dc=params.use_direction_confirm,
        dc_lookback=params.dc_lookback_bars,
        dc_min_bps=params.dc_min_magnitude_bps,
        dc_skip=params.dc_skip_contradicts,
        dc_boost=params.dc_leverage_boost,
        dc_reduce=params.dc_leverage_reduce,
        use_selection=params.use_asset_selection,
        min_alignment=params.min_irp_alignment,
        use_fees=params.use_sp_fees,
        use_slippage=params.use_sp_slippage,
        maker_entry=params.sp_maker_entry_rate,
        maker_exit=params.sp_maker_exit_rate,
        use_ob_edge=params.use_ob_edge,
        ob_edge_bps=params.ob_edge_bps,
        ob_confirm_rate=params.ob_confirm_rate,
        lookback=params.lookback,
        trend_lookback=params.vd_trend_lookback,
        use_layers=params.use_alpha_layers,
        use_dynamic_leverage=params.use_dynamic_leverage,
        liquidation_guard=params.liquidation_guard,
        btc=list(symbols).index(BTC) if BTC in symbols else NONE,
        relative_irp=options.irp_steps == "relative",
        vd_enabled=options.vd_enabled,
        tf_enabled=options.tf_enabled,
        tf_exhaust_ratio=options.tf_exhaust_ratio,
        tf_flip_ratio=options.tf_flip_ratio,
        proxy_mode=options.proxy_mode == "proxy",
        fee_scale=options.fee_scale,
        slippage_scale=options.slippage_scale,
    )


def excluded_assets(params: ParameterSet, symbols: Sequence[str]) -> BoolArray:
    """Which symbols of a universe the set never enters, bool (n_assets,)."""
    return np.array([params.exclude_stablecoins and s in STABLECOINS for s in symbols], dtype=np.bool_)


def new_state(n_assets: int, initial_capital: float) -> State:
    """A state before the first bar, every organ neutral: boost 1, beta 0, APEX, no forewarner."""
    state = State(
        floats=np.zeros(len(FLOAT_NAMES)),
        ints=np.zeros(len(INT_NAMES), np.int64),
        prices=np.zeros((HISTORY_MAX + 1, n_assets)),
        n_prices=np.zeros(n_assets, np.int64),
        vel_divs=np.zeros(VEL_DIV_KEPT),
        bucket_wins=np.zeros(4, np.int64),
        bucket_trades=np.zeros(4, np.int64),
        last_losses=np.zeros(5, np.int64),
        proxies=np.zeros(PROXIES_KEPT),
        first=np.zeros(n_assets, np.int64),
        window=np.zeros((IRP_PRICES, n_assets)),
        profiles=np.zeros((PROFILE_ROWS, n_assets)),
        order=np.zeros(n_assets, np.int16),
        actions=np.zeros(n_assets, np.int16),
        aligned=np.zeros(n_assets, np.int16),
        ars=np.zeros(n_assets),
    )
    for slot, value in ((CAPITAL, initial_capital), (DAY_START_CAPITAL, initial_capital)):
        state.floats[slot] = value
    for slot in (BOOST, MC_SCALE, REGIME, PROXY_SCALE):
        state.floats[slot] = 1.0
    for slot in (LAST_BAR, LAST_EXIT_BAR, POSITION, ENTRY_BAR):
        state.ints[slot] = NONE
    state.ints[POSTURE] = APEX
    state.ints[MC_STATUS] = MC_ABSENT
    return state
