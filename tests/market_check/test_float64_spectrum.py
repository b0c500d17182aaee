"""The alpha alone against the independent engine: the same trades from a plain float64 spectrum.

The certified scanner is not used here, so a difference from the other market check is the scanner's.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dolphin.domain.codes import ACTION_ENTER, ACTION_EXIT, REASONS
from dolphin.domain.params import load_set
from dolphin.domain.scan import WARMUP_PRICES, ScanRow
from dolphin.host.session import Session
from dolphin.market.quick_scan import log_returns, rolling_lambda_max
from dolphin.market.recorded import RecordedFeed

HERE = Path(__file__).resolve().parent
PANEL = "klines/binance_spot_1m_close_wide_86sym_20210402_20210430.parquet"
UNIVERSE = "klines/binance_spot_1m_202104_universe.csv"

pytestmark = pytest.mark.recordings


@pytest.mark.parametrize("name", ["gold", "champion"])
def test_trades_from_a_float64_spectrum(recordings: Path, name: str) -> None:
    reference = json.loads((HERE / f"{name}_86sym_top50.json").read_text())
    feed = RecordedFeed(recordings / PANEL, universe=recordings / UNIVERSE)
    stamps, prices = feed.matrix()
    returns = log_returns(prices)
    lam50, lam750 = (rolling_lambda_max(returns, window) for window in (50, 750))
    # A spectrum by price: the last values of both belong to the last price.
    offset50, offset750 = len(prices) - len(lam50), len(prices) - len(lam750)
    session = Session(load_set(name), feed.symbols)
    trades = []
    entry = None
    for bar in range(WARMUP_PRICES - 1, len(prices)):
        dt = (stamps[bar] - stamps[bar - 1]) / 1e9
        v50 = (lam50[bar - offset50] - lam50[bar - offset50 - 1]) / dt
        v750 = (lam750[bar - offset750] - lam750[bar - offset750 - 1]) / dt
        row = ScanRow(bar, int(stamps[bar]), v50 - v750, v50, v750, np.nan, prices[bar])
        step = session.on_scan(row)
        assert step is not None
        if step.decision.action == ACTION_ENTER:
            entry = step.decision
        elif step.decision.action == ACTION_EXIT:
            trades.append((entry, step.decision))
    assert len(trades) == len(reference["trades"])
    for number, ((opened, closed), other) in enumerate(zip(trades, reference["trades"], strict=True)):
        got = (opened.asset, opened.bar_idx, closed.bar_idx, REASONS[closed.reason])
        assert got == (other["asset"], other["entry_bar"], other["exit_bar"], other["reason"]), (
            f"trade {number}"
        )
        for mine, key in (
            (opened.price, "entry"), (closed.price, "exit"), (opened.leverage, "lev"),
            (opened.notional, "notional"), (closed.net, "net"),
        ):  # fmt: skip
            assert mine == pytest.approx(other[key], rel=1e-9), f"trade {number}, {key}"
    assert session.engine.capital == pytest.approx(reference["capital"], rel=1e-9)
