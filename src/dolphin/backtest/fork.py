"""Two futures of one run: from a bar on, as it was and with other parameters.

Entry points: `changed`, `fork`. State and open position at the bar are those of the run for both; what is
closed later is judged, and what is opened is sized, under each one's own parameters. What the host refused
then (late scans, everything after the ledger refused a trade) it refuses in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np

from dolphin.backtest.folder import Run
from dolphin.backtest.market import Walk
from dolphin.backtest.moment import Moment
from dolphin.domain.bar import FloatArray
from dolphin.domain.clock import iso_from_ns
from dolphin.domain.codes import ACTIONS, REASONS
from dolphin.domain.decision import Decision
from dolphin.domain.errors import ConfigError
from dolphin.domain.params import ParameterSet
from dolphin.engine import state as st
from dolphin.engine.engine import state_of
from dolphin.host.summary import max_drawdown

#: What the first bar decides for a whole run.
_OF_THE_FIRST_BAR: Final = ("initial_capital", "direction")
#: Fields of a decision that tell why two differ, beside the canonical ones.
_TOLD: Final = ("action", "reason", "asset", "leverage", "notional", "price", "net", "tp", "sl", "max_hold",
                "pnl_pct", "bars_held", "confidence", "fraction", "lane_base", "lane_dc", "lane_regime",
                "raw", "cap")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Future:
    """One future: marked equity on each bar from the fork on (n,), USDT, and its figures."""

    equity: FloatArray
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fork:
    """Both futures; first is the first decision that differs, None where none does."""

    bar: int
    first_ns: int
    timestamp_ns: Any
    changes: dict[str, tuple[Any, Any]]
    original: Future
    changed: Future
    first: dict[str, Any] | None


def changed(run: Run, bar: int, values: Mapping[str, Any]) -> ParameterSet:
    """The run's parameters with some replaced from a bar on.

    Raises ConfigError for an unknown name (naming the nearest), a value that breaks its rule, and for what
    only the first bar decides.
    """
    params = run.params.with_values(values)
    for name in _OF_THE_FIRST_BAR:
        if bar > 0 and getattr(params, name) != getattr(run.params, name):
            raise ConfigError(f"parameter {name} is decided by the first bar; fork at bar 0 to change it")
    return params


def fork(
    run: Run,
    bar: int,
    values: Mapping[str, Any],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fork:
    """Run both futures to the end of the run's bars.

    values are parameters by name. on_progress gets bars done and bars in all, both futures together. Raises
    what `changed` raises, DataError for a bar outside the run.
    """
    run.require_bar(bar)
    params = changed(run, bar, values)
    start = run.walk().to(bar)
    total = 2 * (run.n_bars - bar)
    begin_equity = _equity_before(start)
    first, both = run.n_bars, []
    ours, theirs = _walks(start, params)
    done = 0
    records: list[list[Any]] = [[], []]
    sums = [_Sums(), _Sums()]
    for begin, end in run.market.pieces(bar):
        canonical = []
        for walk, kept, sum_of in zip((ours, theirs), records, sums, strict=True):
            result = walk.look(end, "codes")
            canonical.append(result.canonical())
            kept.append(result.equity)
            sum_of.add(result.trades, result.totals.open_position)
            walk.go(end, result)
            done += end - begin
            on_progress(done, total)
        if first == run.n_bars:
            differ = np.flatnonzero(canonical[0] != canonical[1])
            first = begin + int(differ[0]) if len(differ) else first
    for walk, kept, sum_of in zip((ours, theirs), records, sums, strict=True):
        equity = np.concatenate(kept)
        both.append(Future(equity, sum_of.figures(equity, _capital(walk), begin_equity)))
    names = sorted(values)
    return Fork(
        bar=bar,
        first_ns=int(run.market.timestamp_ns[bar]),
        timestamp_ns=np.array(run.market.timestamp_ns[bar:]),
        changes={name: (getattr(run.params, name), getattr(params, name)) for name in names},
        original=both[0],
        changed=both[1],
        first=None if first == run.n_bars else _first(run, bar, first, params),
    )


def _walks(start: Walk, params: ParameterSet) -> tuple[Walk, Walk]:
    """Two walks from one place, the second with other parameters."""
    state = start.state
    if state is not None:
        state = msgspec.structs.replace(state, set_hash=params.hash())
    return replace(start), replace(start, params=params, state=state)


def _capital(walk: Walk) -> float:
    assert walk.state is not None, "a walk that went somewhere has a state"
    return float(state_of(walk.state).floats[st.CAPITAL])


def _equity_before(walk: Walk) -> float:
    """Marked equity before the fork's bar, USDT."""
    if walk.state is None:
        return walk.params.initial_capital
    s = state_of(walk.state)
    held = int(s.ints[st.POSITION])
    capital = float(s.floats[st.CAPITAL])
    if held == st.NONE:
        return capital
    entry = float(s.floats[st.ENTRY_PRICE])
    price = float(s.prices[s.n_prices[held] - 1, held])
    return capital + walk.params.direction * (price - entry) / entry * float(s.floats[st.NOTIONAL])


class _Sums:
    """What a future's trades come to."""

    def __init__(self) -> None:
        self._trades: list[Any] = []
        self._open = False

    def add(self, trades: Any, open_position: bool) -> None:
        self._trades.append(trades)
        self._open = open_position

    def figures(self, equity: FloatArray, capital: float, begin: float) -> dict[str, Any]:
        trades = np.concatenate(self._trades)
        n = len(trades)
        wins = int((trades["net"] > 0.0).sum())
        return {
            "trades": n,
            "win_rate": wins / n if n else None,
            "net": float(sum(trades["net"].tolist())),
            "fees": float(sum((trades["entry_fee"] + trades["exit_fee"]).tolist())),
            "ob_edge": float(sum((trades["ob_edge"] * trades["notional"]).tolist())),
            "max_drawdown": max_drawdown(equity, begin),
            "capital": capital,
            "equity": float(equity[-1]),
            "return": float(equity[-1]) / begin - 1.0,
            "open_position": self._open,
        }


def _first(run: Run, fork_bar: int, bar: int, params: ParameterSet) -> dict[str, Any]:
    """The first decision that differs, both ways, and why: the fields in which they do."""
    ours, theirs = _walks(run.walk().to(fork_bar), params)
    a, b = (Moment(walk.to(bar), bar).decide() for walk in (ours, theirs))
    return {
        "bar": bar,
        "time": iso_from_ns(a.timestamp_ns),
        "original": told(a),
        "changed": told(b),
        "differ": [name for name in _TOLD if getattr(a, name) != getattr(b, name)],
    }


def told(decision: Decision) -> dict[str, Any]:
    """The fields of a decision that tell why two differ, codes as words."""
    values = {name: getattr(decision, name) for name in _TOLD}
    values["action"], values["reason"] = ACTIONS[decision.action], REASONS[decision.reason]
    return values


def as_dict(found: Fork, run: Run) -> dict[str, Any]:
    """The fork as plain values, without the curves."""
    return {
        "run": str(run.folder),
        "bar": found.bar,
        "time": iso_from_ns(found.first_ns),
        "bars": len(found.timestamp_ns),
        "changes": {name: {"from": a, "to": b} for name, (a, b) in found.changes.items()},
        "original": found.original.figures,
        "changed": found.changed.figures,
        "first_difference": found.first,
    }
