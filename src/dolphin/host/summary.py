"""A run's figures, computed from its journal alone, so that every host prints the same keys.

roi × initial capital = gross - fees - slippage + ob_edge, with gross the price profit at scan prices. The
imagined order-book edge stands apart everywhere: `roi_without_ob_edge` leaves it out.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY, day_from_ns
from dolphin.domain.codes import ACTION_ENTER, ACTION_EXIT, MC_STATUSES
from dolphin.domain.params import ParameterSet
from dolphin.journal.audit import AuditResult
from dolphin.journal.ledger import ClosedTrade, usdt
from dolphin.journal.store import Journal

DAYS_A_YEAR: Final = 365
SHARPE_DAYS_MIN: Final = 3
#: A day at either end with less than this share of an ordinary day's bars is hardly one, as studies have it.
STUB_FRAC: Final = 0.01


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


def stub_days(timestamp_ns: IntArray) -> dict[str, int]:
    """The first and the last UTC day where they have under 1 % of the median day's bars, with their bars.

    timestamp_ns (n_bars,), growing. The close of the last minute before midnight is such a day.
    """
    if not len(timestamp_ns):
        return {}
    days, bars = np.unique(timestamp_ns // NS_PER_DAY, return_counts=True)
    few = STUB_FRAC * float(np.median(bars))
    ends = dict.fromkeys((0, len(days) - 1))
    return {day_from_ns(int(days[k]) * NS_PER_DAY): int(bars[k]) for k in ends if bars[k] < few}


def training_days(assessor: object) -> tuple[str, ...]:
    """The days (`YYYY-MM-DD`) that a forewarner learned from or was measured on; none where unknown.

    assessor is what hosts ask; of those known only an artefact's says its days.
    """
    artefact = getattr(assessor, "artefact", None)
    days = getattr(artefact, "manifest", {}).get("days", {})
    teaching, held_out = days.get("teaching", ()), days.get("held_out", ())
    return tuple(sorted({*itertools.chain.from_iterable(teaching), *held_out}))


def forewarner_told(
    gates: Mapping[str, int], trained_on: Sequence[str] = (), days: Sequence[str] = ()
) -> dict[str, Any]:
    """What a summary says of the forewarner.

    gates is the number of days by gate, trained_on the days of its training, days those of the period.
    """
    found: dict[str, Any] = {"gates": dict(sorted(gates.items())), "days": sum(gates.values())}
    if trained_on:
        found["trained_first_day"], found["trained_last_day"] = trained_on[0], trained_on[-1]
        found["trained_days"] = len(trained_on)
        found["trained_days_inside"] = len(set(trained_on) & set(days))
    return found


def gates_of(journal: Journal, timestamp_ns: IntArray) -> dict[str, int]:
    """Days by the forewarner's gate that each began with; timestamp_ns (n_bars,) of the journal's bars."""
    turns = np.append(True, np.diff(timestamp_ns // NS_PER_DAY) != 0)[: len(timestamp_ns)]
    firsts = [int(bar) for bar in np.flatnonzero(turns)]
    found = Counter(
        MC_STATUSES[decision.mc_status] for bar in firsts for decision in journal.decisions(bar, bar)
    )
    return dict(found)


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
    facts = dict(facts)
    if journal.meta().get("forewarner") and "forewarner" not in facts:
        facts["forewarner"] = forewarner_told(gates_of(journal, stamps))
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
        "stub_days": stub_days(stamps),
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
