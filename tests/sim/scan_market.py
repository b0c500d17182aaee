"""Seeded markets of finished scans: random walks that trade often, for tests of hosts in milliseconds."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dolphin.domain.clock import NS_PER_S, day_start_ns
from dolphin.domain.params import NAMED_SETS
from dolphin.domain.scan import Scan, ScanRow, regime_from_vel_div, row_from_scan
from dolphin.domain.symbols import universe_id
from dolphin.host.session import Session
from dolphin.journal.store import Journal
from dolphin.services.trader import Trader

SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "XRPUSDT")
INTERVAL_NS = 60 * NS_PER_S
START_NS = day_start_ns("2026-01-05") + 22 * 3600 * NS_PER_S


def scans(
    seed: int,
    n_bars: int,
    *,
    symbols: Sequence[str] = SYMBOLS,
    start_ns: int = START_NS,
    interval_ns: int = INTERVAL_NS,
    first_number: int = 1,
    step: float = 0.003,
    vel_div_sd: float = 0.03,
    calm: bool = False,
) -> list[Scan]:
    """Scans numbered from `first_number`; `calm` leaves BTC still now and then, so that the gate closes."""
    chance = random.Random(seed)
    prices = [100.0 * (1 + k) for k in range(len(symbols))]
    made = []
    for bar in range(n_bars):
        quiet = calm and (bar // 120) % 2 == 1
        prices = [
            p * (1.0 + (0.0 if quiet and k == 0 else chance.gauss(0.0, step))) for k, p in enumerate(prices)
        ]
        v50, v750 = chance.gauss(0.0, vel_div_sd), chance.gauss(0.0, 0.002)
        stale = (symbols[-1],) if chance.random() < 0.05 else ()
        made.append(
            Scan(
                scan_number=first_number + bar,
                timestamp_ns=start_ns + bar * interval_ns,
                **{
                    f"w{w}_{name}": value
                    for w, v in ((50, v50), (150, v50 / 3), (300, v50 / 6), (750, v750))
                    for name, value in (
                        ("lambda_max", 2.0 + chance.random()),
                        ("velocity", v),
                        ("rotation", 0.01),
                        ("instability", chance.random()),
                    )
                },
                vel_div=v50 - v750,
                regime_signal=regime_from_vel_div(v50 - v750),
                instability_composite=0.1,
                assets=tuple(symbols),
                asset_prices=tuple(prices),
                asset_loadings=None,
                stale_assets=stale,
                data_quality_score=1.0 - len(stale) / len(symbols),
                missing_asset_count=len(stale),
                universe_id=universe_id(symbols),
                certified_bits=(512,) * 4,
                outcome=("ok",) * 4,
            )
        )
    return made


def rows(seed: int, n_bars: int, **options: object) -> list[ScanRow]:
    """The same as the decision sees them."""
    return [row_from_scan(scan) for scan in scans(seed, n_bars, **options)]  # type: ignore[arg-type]


def meta_of(name: str) -> dict[str, str]:
    """Settings of a journal, enough for an audit."""
    params = NAMED_SETS[name]
    return {"set": name, "set_hash": params.hash(), "parameters": json.dumps(params.as_dict())}


def trader_of(path: Path, name: str = "gold", *, deployment: str = "", **options: Any) -> Trader:
    """A trader with a journal at `path`, new or the one that is there; not recovered yet."""
    deployment = deployment or ("BLUE" if NAMED_SETS[name].direction < 0 else "GREEN")
    journal = Journal.open(path) if path.exists() else Journal.create(path, meta_of(name))
    return Trader(Session(NAMED_SETS[name], SYMBOLS, deployment=deployment), journal, **options)


def traded(path: Path, market: Sequence[Scan], name: str = "gold") -> None:
    """Decide a market into a journal, and close it."""
    trader = trader_of(path, name)
    for scan in market:
        trader.on_scan(scan)
    trader.stop()
    trader.journal.close()
