"""A seeded run that looks like a real one, for the report's tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dolphin.report import ReportData, TradeRow

START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
STEP_NS = 5_000_000_000
ASSETS = (
    "BTCUSDT",
    "ETHUSDT",
    "SOLUSDT",
    "XRPUSDT",
    "ADAUSDT",
    "DOGEUSDT",
    "LTCUSDT",
    "LINKUSDT",
    "PEPEUSDT",
)
PRICES = (91_250.5, 3_120.44, 187.31, 2.2134, 0.9871, 0.3142, 104.11, 22.871, 0.0000213)


def fake_vel_div(rng: np.random.Generator, n_scans: int) -> np.ndarray:
    """Smooth noise around zero with bursts below the threshold and two far spikes."""
    noise = rng.standard_normal(n_scans)
    values = np.zeros(n_scans)
    for i in range(1, n_scans):
        values[i] = 0.93 * values[i - 1] + 0.0026 * noise[i]
    for at in rng.integers(200, max(201, n_scans - 10), size=max(1, n_scans // 900)):
        values[at : at + 6] -= rng.uniform(0.015, 0.05)
    if n_scans > 1000:
        values[n_scans // 3] = 0.9
        values[2 * n_scans // 3] = -1.3
    return values


def fake_trade(
    rng: np.random.Generator, i: int, bar: int, vel_div: float, *, still_open: bool, n_scans: int
) -> TradeRow:
    """One trade whose legs add up."""
    k = int(rng.integers(len(ASSETS)))
    held = int(rng.integers(3, 121))
    base = float(0.5 + 4.5 * rng.random() ** 3)
    lanes = {
        "base": base,
        "dc": 1.0,
        "regime": float(rng.choice([1.0, 1.21, 1.36])),
        "ob": float(rng.uniform(0.9, 1.15)),
        "esof": float(rng.choice([1.0, 1.0, 0.85])),
    }
    raw = base * lanes["dc"] * lanes["regime"] * lanes["ob"] * lanes["esof"]
    cap = 6.0 if i % 7 else 2.0
    leverage = max(0.5, min(raw, cap))
    notional = 25_000 * 0.1 * leverage
    won = rng.random() < 0.52
    move = 0.0095 if won else float(rng.uniform(-0.012, 0.006))
    price_pnl = 0.0 if still_open else move * notional
    slippage = 0.0 if still_open else 0.0001 * notional
    fees = 0.000314 * notional + (0.0 if still_open else 0.00035 * notional)
    ob_edge = 0.0005 * notional if not still_open and rng.random() < 0.4 else 0.0
    last = min(bar + held, n_scans - 1)
    bucket = (
        "extreme"
        if vel_div <= -0.075
        else "strong"
        if vel_div <= -0.05
        else "moderate"
        if vel_div <= -0.035
        else "weak"
    )
    entry_price = PRICES[k]
    return TradeRow(
        trade_id=f"synthetic-20260101-{i + 1:05d}",
        asset=ASSETS[k],
        direction=-1,
        entry_ns=START_NS + bar * STEP_NS,
        exit_ns=None if still_open else START_NS + last * STEP_NS,
        entry_bar=bar,
        exit_bar=None if still_open else last,
        bars_held=last - bar,
        entry_price=entry_price,
        exit_scan_price=None if still_open else entry_price * (1 - move),
        exit_price=None if still_open else entry_price * (1 - move) * 1.0001,
        reason="OPEN"
        if still_open
        else "FIXED_TP"
        if won
        else str(rng.choice(["MAX_HOLD", "MAX_HOLD", "HIBERNATE_HALT"])),
        leverage=leverage,
        notional=notional,
        vel_div=vel_div,
        bucket=bucket,
        price_pnl=price_pnl,
        slippage=slippage,
        fees=fees,
        ob_edge=ob_edge,
        net=price_pnl - slippage - fees + ob_edge,
        lanes=lanes,
        raw=raw,
        cap=cap,
        bound="none" if raw <= cap else "posture" if cap == 2.0 else "absolute",
        fraction=0.1,
        stale_price=i % 23 == 5,
    )


def build_report(
    *, seed: int = 7, n_scans: int = 4_000, n_trades: int = 40, leave_open: bool = False, **changes: Any
) -> ReportData:
    """A run of `n_scans` scans with `n_trades` trades, the last one open when `leave_open`."""
    rng = np.random.default_rng(seed)
    timestamp_ns = START_NS + STEP_NS * np.arange(n_scans, dtype=np.int64)
    vel_div = fake_vel_div(rng, n_scans)
    bars = np.unique(np.linspace(110, n_scans - 130, n_trades).astype(int)) if n_trades else []
    trades = []
    for i, bar in enumerate(bars):
        vel_div[bar] = min(vel_div[bar], -0.02 - float(rng.exponential(0.012)))
        trades.append(
            fake_trade(
                rng,
                i,
                int(bar),
                float(vel_div[bar]),
                still_open=leave_open and i == len(bars) - 1,
                n_scans=n_scans,
            )
        )
    equity = np.full(n_scans, 25_000.0)
    prices = {}
    for t in trades:
        last = t.exit_bar if t.exit_bar is not None else n_scans - 1
        span = last - t.entry_bar
        path = np.linspace(0.0, t.net, span + 1) + rng.standard_normal(span + 1) * 0.12 * abs(t.net)
        equity[t.entry_bar : last + 1] += path
        equity[last + 1 :] += t.net
        end = t.exit_scan_price or t.entry_price * 1.001
        prices[t.trade_id] = np.linspace(t.entry_price, end, span + 1) * (
            1 + 0.0006 * rng.standard_normal(span + 1)
        )
    lambdas = {}
    for window in (50, 150, 300, 750):
        walk = np.cumsum(rng.standard_normal(n_scans)) * 6.0 / window
        lambdas[window] = 17.0 + 9.0 * np.tanh(walk / 8.0) + rng.standard_normal(n_scans) * 3.0 / window
    closed = [t for t in trades if not t.is_open]
    gains, losses = sum(t.net for t in closed if t.net > 0), -sum(t.net for t in closed if t.net < 0)
    net, edge = sum(t.net for t in trades), sum(t.ob_edge for t in trades)
    peak = np.maximum.accumulate(equity)
    summary: dict[str, Any] = {
        "feed": "synthetic",
        "set": "champion",
        "set_hash": "5f0c9a7b31d2e884",
        "bars": n_scans,
        "scans": n_scans,
        "certified_bits_min": 498,
        "trades": len(closed),
        "entries_short": len(trades),
        "entries_long": 0,
        "roi": net / 25_000,
        "roi_without_ob_edge": (net - edge) / 25_000,
        "gross": sum(t.price_pnl for t in trades),
        "fees": sum(t.fees for t in trades),
        "slippage": sum(t.slippage for t in trades),
        "ob_edge": edge,
        "profit_factor": gains / losses if losses else None,
        "sharpe": None,
        "max_drawdown": float(np.max(1 - equity / peak)) if n_scans else None,
        "win_rate": sum(t.net > 0 for t in closed) / len(closed) if closed else None,
        "capital": 25_000 + net,
        "ledger_balanced": True,
        "decisions_sha256": hashlib.sha256(str(seed).encode()).hexdigest(),
        "wall_s": 12.4,
    }
    data = ReportData(
        title="Synthetic market, champion set",
        feed="the synthetic market (seed 42)",
        set_name="champion",
        set_hash="5f0c9a7b31d2e884",
        summary=summary,
        parameters={
            "direction": -1,
            "vel_div_threshold": -0.02,
            "vel_div_extreme": -0.05,
            "min_leverage": 0.5,
            "max_leverage": 5.0,
            "abs_max_leverage": 6.0,
            "leverage_convexity": 3.0,
            "fraction": 0.2,
            "fixed_tp_pct": 0.0095,
            "max_hold_bars": 120,
            "use_direction_confirm": True,
            "min_irp_alignment": 0.45,
            "seed": 42,
            "initial_capital": 25_000,
        },
        provenance={
            "dolphin": "0.1.0",
            "python": "3.11.2",
            "numpy": "2.4.4",
            "source": hashlib.sha256(b"source").hexdigest(),
            "command": "dolphin run --feed synthetic --seed 42 --scans 40000",
        },
        timestamp_ns=timestamp_ns,
        equity=equity,
        vel_div=vel_div,
        lambdas=lambdas,
        threshold=-0.02,
        extreme=-0.05,
        direction=-1,
        trades=tuple(trades),
        prices_of_trades=prices,
        blocked={
            "NO_SIGNAL": max(0, n_scans - int(0.03 * n_scans) - 143 - n_trades),
            "VOL_GATE": int(0.03 * n_scans),
            "DC_REFUSED": 31,
            "NO_ASSET": 12,
            "WARMING_UP": 100,
        },
        notes=("The feed is synthetic: it shows that the machine works, not that the idea earns money.",),
        initial_capital=25_000.0,
    )
    return replace(data, **changes)


@pytest.fixture(name="make_report")
def make_report_fixture() -> Callable[..., ReportData]:
    """`build_report`, for tests that choose the run's shape."""
    return build_report
