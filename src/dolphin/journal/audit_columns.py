"""The walk over a journal of columns: the same proofs as bar by bar, on arrays.

Entries and exits are decisions in full and are checked one by one, as in a journal of every bar. Between
them nothing may happen, and that is checked on whole columns: who is held, what it costs, what the equity is.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY, day_from_ns
from dolphin.domain.codes import ACTION_ENTER, ACTION_EXIT, ACTION_HOLD, ACTION_NONE
from dolphin.domain.decision import Decision
from dolphin.domain.errors import DataError
from dolphin.domain.params import ParameterSet
from dolphin.journal.audit_bars import check_size
from dolphin.journal.bar_columns import BARS_ROWS, BARS_SHA256, BarCodes, ColumnJournal
from dolphin.journal.findings import UNIT, AuditResult, BarsSeen, no_money

#: (scan numbers (n,), asset codes (n,)) → prices (n,) in USDT, NaN where the market has none.
PricesAt = Callable[[IntArray, IntArray], FloatArray]

#: Relative slack of float64 sums; the absolute one is a unit of the ledger.
_SLACK = 1e-12
_NONE = -1


@dataclass(slots=True)
class _Held:
    """What is open at the end of the bars seen so far."""

    asset: int = _NONE
    price: float = 0.0
    notional: float = 0.0
    last_ns: int = -1
    last_scan: int = -1


def walk_columns(
    journal: ColumnJournal, params: ParameterSet, market: PricesAt | None, result: AuditResult
) -> BarsSeen:
    """Check entries and exits one by one and all bars by columns. Raises DataError for an unreadable file."""
    meta = journal.meta()
    if journal.bars_sha256() != meta.get(BARS_SHA256):
        result.find(f"{journal.bars_path.name}: is not the file that was written (its SHA-256 differs)")
    seen = BarsSeen(capital=params.initial_capital)
    decided = _read_events(journal, result)
    codes = {symbol: k for k, symbol in enumerate(journal.symbols())}
    held = _Held()
    told: set[int] = set()
    for first, bars in journal.chunks():
        n = len(bars.action)
        if not n:
            result.find(f"{journal.bars_path.name}: a chunk without a bar lies before bar {first}")
            continue
        result.bars += n
        _check_times(first, bars, held, result)
        event = np.flatnonzero((bars.action == ACTION_ENTER) | (bars.action == ACTION_EXIT))
        told.update((first + event).tolist())
        expected = _Expected(n, held, seen.capital)
        for k in event.tolist():
            decision = decided.get(first + k)
            if decision is None:
                result.find(f"bar {first + k}: an entry or exit without its decision")
                continue
            _check_event(decision, bars, k, codes, params, seen, held, result)
            expected.after(k, decision, held, seen.capital)
        expected.check(first, bars, params.direction, result)
        if market is not None:
            _check_market(first, bars, market, result)
        _note_closes(bars, expected.capital, seen)
    for bar in sorted(decided.keys() - told):
        result.find(f"bar {bar}: a decision to enter or leave, of which the bars know nothing")
    if meta.get(BARS_ROWS) != str(result.bars):
        result.find(f"{result.bars} bars, {meta.get(BARS_ROWS)} were written")
    return seen


def _read_events(journal: ColumnJournal, result: AuditResult) -> dict[int, Decision]:
    """Entries and exits by bar, those whose row is the one that was written."""
    found: dict[int, Decision] = {}
    for record in journal.event_records():
        bar = record.bar_idx
        try:
            decision = record.decision()
            canonical = decision.canonical()
            whole = record.whole()
        except (TypeError, ValueError, struct.error, msgspec.DecodeError) as error:
            result.find(f"bar {bar}: the record cannot be read ({error})")
            continue
        if not whole:
            result.find(f"bar {bar}: the row is not the one that was written (its checksum differs)")
        if (
            canonical != record.canonical
            or (decision.bar_idx, decision.timestamp_ns, decision.scan_number) != record[:3]
            or (decision.action, decision.reason, decision.asset) != record[3:6]
            or decision.action not in (ACTION_ENTER, ACTION_EXIT)
        ):
            result.find(f"bar {bar}: the decision inside is not the one that the row and the digest tell")
        found[bar] = decision
    return found


def _check_times(first: int, bars: BarCodes, held: _Held, result: AuditResult) -> None:
    """Times and scan numbers grow from bar to bar."""
    for values, before, what in (
        (bars.timestamp_ns, held.last_ns, "its time does not come after the last bar's"),
        (bars.scan_number, held.last_scan, "its scan does not come after the last bar's"),
    ):
        for k in np.flatnonzero(np.diff(values, prepend=before) <= 0).tolist():
            result.find(f"bar {first + k}: {what}")
    held.last_ns, held.last_scan = int(bars.timestamp_ns[-1]), int(bars.scan_number[-1])


def _check_event(
    decision: Decision,
    bars: BarCodes,
    k: int,
    codes: dict[str, int],
    params: ParameterSet,
    seen: BarsSeen,
    held: _Held,
    result: AuditResult,
) -> None:
    """An entry or an exit: the bar's code is its own, no overlap, its size and its money explained."""
    bar = decision.bar_idx
    asset = codes.get(decision.asset, _NONE)
    scan_price = decision.price if decision.action == ACTION_ENTER else decision.scan_price
    if (
        decision.timestamp_ns,
        decision.scan_number,
        decision.action,
        decision.reason,
        asset,
        decision.vel_div,
        scan_price,
    ) != tuple(
        column[k].item()
        for column in (
            bars.timestamp_ns,
            bars.scan_number,
            bars.action,
            bars.reason,
            bars.asset,
            bars.vel_div,
            bars.price,
        )
    ):
        result.find(f"bar {bar}: its code is not the one of its decision")
    if decision.bars_held < 0:
        result.find(f"bar {bar}: bars_held is {decision.bars_held}")
    wrong = no_money(decision)
    if wrong:
        result.find(f"bar {bar}: {wrong} is {getattr(decision, wrong)!r}")
    opened = "" if seen.held is None else seen.held.asset
    if decision.action == ACTION_ENTER:
        if opened:
            result.find(f"bar {bar}: enters {decision.asset} while {opened} is open")
        if decision.capital != seen.capital:
            result.find(
                f"bar {bar}: capital is {decision.capital!r}, without an exit it stays {seen.capital!r}"
            )
        if not wrong:
            check_size(decision, params, seen.capital, result)
        seen.entries[bar] = seen.held = decision
        held.asset, held.price, held.notional = asset, decision.price, decision.notional
    else:
        if opened != decision.asset:
            result.find(f"bar {bar}: judges {decision.asset}, open is {opened or 'nothing'}")
        seen.exits[bar] = decision
        seen.held = None
        held.asset, held.price, held.notional = _NONE, 0.0, 0.0
    if math.isfinite(decision.capital):
        seen.capital = decision.capital


class _Expected:
    """What the columns of a chunk of n bars must hold, from its entries and exits."""

    def __init__(self, n: int, held: _Held, capital: float) -> None:
        self._n = n
        self._positions = [(0, held.asset, held.price, held.notional)]
        self._capitals = [(0, capital)]
        self._events: list[int] = []

    def after(self, k: int, decision: Decision, held: _Held, capital: float) -> None:
        """An entry or exit on bar k; its own bar still shows the asset, and an exit's its booked result."""
        self._events.append(k)
        if decision.action == ACTION_EXIT:
            self._positions.append((k, self._positions[-1][1], 0.0, 0.0))
            k += 1
        self._positions.append((k, held.asset, held.price, held.notional))
        self._capitals.append((self._events[-1], capital))

    def _spread(self, changes: list[tuple[Any, ...]], column: int) -> np.ndarray[Any, Any]:
        """A value from each change on, one a bar (n,)."""
        starts = [min(change[0], self._n) for change in changes]
        return np.repeat([change[column] for change in changes], np.diff([*starts, self._n]))

    @property
    def capital(self) -> FloatArray:
        """Capital after each bar."""
        return self._spread(list(self._capitals), 1)

    def check(self, first: int, bars: BarCodes, direction: int, result: AuditResult) -> None:
        """Positions are judged on every bar until their exit; equity follows from capital and price."""
        asset, bought, notional = (self._spread(list(self._positions), k) for k in (1, 2, 3))
        capital = self.capital
        action = np.where(asset == _NONE, ACTION_NONE, ACTION_HOLD)
        event = np.zeros(self._n, np.bool_)
        event[self._events] = True
        self._tell(
            first,
            (bars.action != action) & ~event,
            result,
            lambda k: "an open position was not judged" if action[k] else "judged, and nothing is open",
        )
        self._tell(
            first,
            (bars.asset != asset) & (bars.action != ACTION_NONE),
            result,
            lambda k: "another asset is judged than the one that is open",
        )
        open_here = notional != 0.0
        entry = np.where(open_here, bought, 1.0)
        with np.errstate(all="ignore"):
            marked = capital + np.where(open_here, direction * (bars.price - entry) / entry * notional, 0.0)
            slack = float(UNIT) + _SLACK * np.abs(notional) + 1e-15 * np.abs(capital)
            wrong = ~(np.abs(bars.equity - marked) <= slack)
        self._tell(
            first,
            wrong,
            result,
            lambda k: f"equity is {bars.equity[k].item()!r}, price and capital give {marked[k]:.8f}",
        )

    @staticmethod
    def _tell(first: int, wrong: BoolArray, result: AuditResult, text: Callable[[int], Any]) -> None:
        for k in np.flatnonzero(wrong).tolist():
            result.find(f"bar {first + k}: {text(k)}")


def _check_market(first: int, bars: BarCodes, market: PricesAt, result: AuditResult) -> None:
    """The held asset's price on every bar is the market's."""
    held = np.flatnonzero(bars.action != ACTION_NONE)
    try:
        prices = market(bars.scan_number[held], bars.asset[held].astype(np.int64))
    except DataError as error:
        result.find(f"bars {first} to {first + len(bars.action) - 1}: prices cannot be read ({error})")
        return
    result.prices_checked += int(np.isfinite(prices).sum())
    for k, price in zip(held.tolist(), prices.tolist(), strict=True):
        if price != bars.price[k]:
            scan = int(bars.scan_number[k])
            result.find(f"bar {first + k}: books {bars.price[k].item()!r}, scan {scan} says {price!r}")


def _note_closes(bars: BarCodes, capital: FloatArray, seen: BarsSeen) -> None:
    """Capital after each day's last bar."""
    ends = np.append(np.flatnonzero(np.diff(bars.timestamp_ns // NS_PER_DAY)), len(bars.action) - 1)
    for k in ends.tolist():
        seen.closes[day_from_ns(int(bars.timestamp_ns[k]))] = float(capital[k])
