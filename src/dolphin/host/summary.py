"""A run's figures, computed from its journal alone, so that every host prints the same keys.

roi × initial capital = gross - fees - slippage + ob_edge, with gross the price profit at scan prices. The
imagined order-book edge stands apart everywhere: `roi_without_ob_edge` leaves it out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY, day_from_ns
from dolphin.domain.codes import ACTION_ENTER, ACTION_EXIT
from dolphin.domain.params import ParameterSet
from dolphin.journal.audit import AuditResult
from dolphin.journal.ledger import ClosedTrade, usdt
from dolphin.journal.store import Journal

DAYS_A_YEAR: Final = 365
SHARPE_DAYS_MIN: Final = 3


def sharpe_ratio(daily_closes: Sequence[float], initial: float) -> float | None:
    """Mean over sample standard deviation of daily returns of marked equity, times sqrt(365).

    daily_closes in USDT, one a UTC day; None under three days or without any variation.
    """
    if len(daily_closes) < SHARPE_DAYS_MIN:
        return None
    levels = [initial, *daily_closes]
    if any(level <= 0.0 for level in levels):
        return None
    returns = [levels[k + 1] / levels[k] - 1.0 for k in range(len(levels) - 1)]
    mean = math.fsum(returns) / len(returns)
    variance = math.fsum((r - mean) ** 2 for r in returns) / (len(returns) - 1)
    if variance == 0.0:
        return None
    return mean / math.sqrt(variance) * math.sqrt(DAYS_A_YEAR)


def max_drawdown(equity: FloatArray, initial: float) -> float:
    """Largest fall of marked equity (n_bars,) below its running peak, as a fraction of the peak, per bar."""
    if not len(equity):
        return 0.0
    peak = np.maximum(np.maximum.accumulate(equity), initial)
    return float(((peak - equity) / peak).max())


def daily_closes(timestamp_ns: IntArray, equity: FloatArray) -> list[float]:
    """Last marked equity of each UTC day, in order; both (n_bars,), times growing."""
    if not len(equity):
        return []
    last = np.append(np.diff(timestamp_ns // NS_PER_DAY) != 0, True)
    found: list[float] = equity[last].tolist()
    return found


def days_results(
    ended: Sequence[Mapping[str, Any]],
    trades: Sequence[ClosedTrade],
    last_ns: int | None,
    initial: float,
    capital: float,
) -> list[dict[str, Any]]:
    """Date, pnl, trades and capital of each day, of closed trades, in USDT; the last day is still `open`.

    last_ns is the last bar's stamp, None where there was none.
    """
    found: list[dict[str, Any]] = [
        {key: day[key] for key in ("date", "pnl", "trades", "capital")} for day in ended
    ]
    if last_ns is None:
        return found
    last = day_from_ns(last_ns)
    if not found or found[-1]["date"] < last:
        before = found[-1]["capital"] if found else initial
        closed = sum(1 for trade in trades if day_from_ns(trade.exit_ns) == last)
        found.append(
            {"date": last, "pnl": capital - before, "trades": closed, "capital": capital, "open": True}
        )
    return found


def summarise(
    journal: Journal, params: ParameterSet, audit: AuditResult, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON summary of a run; `facts` adds what the journal cannot know (feed, bars, wall_s, report)."""
    trades = journal.trades()
    legs: dict[str, int] = {}
    totals: dict[str, int] = {}
    for trade_id, leg, amount in journal.cash_flows():
        legs[leg] = legs.get(leg, 0) + amount
        totals[trade_id] = totals.get(trade_id, 0) + amount
    wins = sum(t for t in totals.values() if t > 0)
    losses = -sum(t for t in totals.values() if t < 0)
    initial = Decimal(repr(params.initial_capital))
    net = usdt(sum(totals.values()))
    edge = usdt(legs.get("ob_edge", 0))
    stamps, equity = journal.marks()
    any_bar = len(stamps) > 0
    actions: dict[int, int] = {}
    for (action, _), n in journal.reasons().items():
        actions[action] = actions.get(action, 0) + n
    entered = actions.get(ACTION_ENTER, 0)
    short = params.direction < 0
    return {
        "feed": facts.get("feed"),
        "set": facts.get("set"),
        "set_hash": params.hash(),
        "bars": facts.get("bars"),
        "scans": len(stamps),
        "certified_bits_min": journal.certified_bits_min(),
        "trades": len(trades),
        "entries_short": entered if short else 0,
        "entries_long": 0 if short else entered,
        "roi": float(net / initial),
        "roi_without_ob_edge": float((net - edge) / initial),
        "gross": float(usdt(legs.get("price_pnl", 0))),
        "fees": float(usdt(-legs.get("entry_fee", 0) - legs.get("exit_fee", 0))),
        "slippage": float(usdt(-legs.get("exit_slippage", 0))),
        "ob_edge": float(edge),
        "profit_factor": wins / losses if losses else None,
        "sharpe": sharpe_ratio(daily_closes(stamps, equity), params.initial_capital),
        "max_drawdown": max_drawdown(equity, params.initial_capital),
        "win_rate": sum(1 for t in totals.values() if t > 0) / len(trades) if trades else None,
        "capital": float(initial + net),
        "equity": float(equity[-1]) if any_bar else float(initial),
        "open_position": entered > actions.get(ACTION_EXIT, 0),
        "ledger_balanced": audit.balanced,
        "decisions_sha256": audit.decisions_sha256,
        "wall_s": facts.get("wall_s"),
        "report": facts.get("report"),
        "days_results": days_results(
            journal.days(),
            trades,
            int(stamps[-1]) if any_bar else None,
            params.initial_capital,
            float(initial + net),
        ),
        **{key: value for key, value in facts.items() if key not in _STANDARD},
    }


_STANDARD: Final = frozenset({"feed", "set", "bars", "wall_s", "report"})
