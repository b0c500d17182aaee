"""What a report is made of: one run as plain values, filled from the journal by the host.

Invariants, checked at birth: the per-scan arrays have one length; timestamps never fall; the direction is
-1 or +1; no trade ends before it began; every trade has its five lanes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.errors import DataError

if TYPE_CHECKING:
    from dolphin.report.senses import Senses

#: The five lanes in the order in which they are multiplied.
LANES = ("base", "dc", "regime", "ob", "esof")
#: Buckets of vel_div at entry, from the strongest signal to the weakest.
BUCKETS = ("extreme", "strong", "moderate", "weak")


@dataclass(frozen=True, kw_only=True, slots=True)
class TradeRow:
    """One trade as the ledger booked it.

    Prices and money are in USDT; `slippage` and `fees` are costs and positive; `net = price_pnl - slippage -
    fees + ob_edge`. `exit_*` are None while the position is open. `lanes` has the keys `base, dc, regime, ob,
    esof`; `bound` names the cap that bound the leverage; `fraction` is the share of capital in [0, 1] before
    leverage.
    """

    trade_id: str
    asset: str
    direction: int
    entry_ns: int
    exit_ns: int | None
    entry_bar: int
    exit_bar: int | None
    bars_held: int
    entry_price: float
    exit_scan_price: float | None
    exit_price: float | None
    reason: str
    leverage: float
    notional: float
    vel_div: float
    bucket: str
    price_pnl: float
    slippage: float
    fees: float
    ob_edge: float
    net: float
    lanes: dict[str, float]
    raw: float
    cap: float
    bound: str
    fraction: float
    stale_price: bool

    def __post_init__(self) -> None:
        if self.direction not in (-1, 1):
            raise DataError(f"trade {self.trade_id}: direction is {self.direction}, expected -1 or +1")
        if self.exit_ns is not None and self.exit_ns < self.entry_ns:
            raise DataError(
                f"trade {self.trade_id}: exit at {self.exit_ns} ns lies before entry at {self.entry_ns} ns"
            )
        missing = [lane for lane in LANES if lane not in self.lanes]
        if missing:
            raise DataError(f"trade {self.trade_id}: lanes lack {', '.join(missing)}")

    @property
    def is_open(self) -> bool:
        """True while the position is held."""
        return self.exit_ns is None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReportData:
    """One run.

    `timestamp_ns`, `equity` (USDT, marked) and `vel_div` (1/s) have one value a scan, so has every array of
    `lambdas` (largest eigenvalue by window length; may be empty). NaN is a gap in a drawing, never an error.
    `summary` values may be None where a figure does not exist for this run. `blocked` counts scans by the
    reason why they opened nothing. `prices_of_trades` may give the scan prices (USDT) of a trade's asset from
    entry to exit, by trade id. `senses` is what order books and breaker said, scan by scan.
    """

    title: str
    feed: str
    set_name: str
    set_hash: str
    summary: dict[str, Any]
    parameters: dict[str, Any]
    provenance: dict[str, str]
    timestamp_ns: IntArray
    equity: FloatArray
    vel_div: FloatArray
    threshold: float
    extreme: float
    direction: int
    trades: tuple[TradeRow, ...]
    initial_capital: float
    lambdas: dict[int, FloatArray] = field(default_factory=dict)
    blocked: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    prices_of_trades: Mapping[str, FloatArray] | None = None
    senses: Senses | None = None

    def __post_init__(self) -> None:
        n_scans = len(self.timestamp_ns)
        series: dict[str, FloatArray] = {"equity": self.equity, "vel_div": self.vel_div}
        series.update({f"lambdas[{window}]": values for window, values in self.lambdas.items()})
        for name, values in series.items():
            if len(values) != n_scans:
                raise DataError(
                    f"report: {name} has {len(values)} values for {n_scans} scans; expected one a scan"
                )
        if n_scans > 1 and bool(np.any(np.diff(self.timestamp_ns) < 0)):
            raise DataError("report: timestamps fall; expected scans in the order of time")
        if self.direction not in (-1, 1):
            raise DataError(f"report: direction is {self.direction}, expected -1 or +1")

    @property
    def closed(self) -> tuple[TradeRow, ...]:
        """Trades with an exit, in the order given."""
        return tuple(trade for trade in self.trades if not trade.is_open)

    @property
    def still_open(self) -> tuple[TradeRow, ...]:
        """Trades whose position is still held."""
        return tuple(trade for trade in self.trades if trade.is_open)
