"""A run's folder with the market that it decided on: what explaining, reproducing and forking begin with.

Entry point: `open_run`. A backtest's market is its scan cache, compared by hash; a run's are its stored scans
and what its journal says of the organs. Both give the same bars as the run, numbered from 0.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dolphin.backtest.market import Market, Walk, market_of_cache
from dolphin.domain.bar import IntArray
from dolphin.domain.codes import (
    BOOKS_ABSENT,
    LEDGER_HALT,
    MC_STATUSES,
    NO_BOOKS,
    REASON_NONE,
    STALE_SCAN,
    posture_code,
)
from dolphin.domain.decision import Decision
from dolphin.domain.errors import DataError, nearest, plural
from dolphin.domain.params import ParameterSet
from dolphin.domain.scan import row_from_scan
from dolphin.host.finish import SETTINGS_FILE, SUMMARY_FILE, scans_root
from dolphin.host.session import HOST_REFUSALS
from dolphin.host.stored_books import stored_books
from dolphin.journal.bar_columns import read_journal
from dolphin.journal.ledger import ClosedTrade
from dolphin.journal.store import Journal
from dolphin.market.scan_cache import CacheReader
from dolphin.market.scan_store import ScanStore


@dataclass(frozen=True, slots=True)
class Run:
    """A finished or stopped run; n_bars of its market were decided."""

    folder: Path
    journal: Journal
    meta: Mapping[str, str]
    params: ParameterSet
    vol_threshold: float
    market: Market

    @property
    def n_bars(self) -> int:
        """Bars decided."""
        return len(self.market)

    def walk(self, params: ParameterSet | None = None) -> Walk:
        """A walk from the run's first bar, with its own parameters or others."""
        return Walk(params or self.params, self.market, self.vol_threshold)

    def require_bar(self, bar: int) -> int:
        """The bar itself. Raises DataError with the range when it is outside."""
        if not 0 <= bar < self.n_bars:
            raise DataError(f"{self.folder}: no bar {bar}; the run has bars 0 to {self.n_bars - 1}")
        return bar

    def trade(self, trade_id: str) -> ClosedTrade:
        """The closed trade of an id. Raises DataError, naming the nearest id."""
        trades = {trade.trade_id: trade for trade in self.journal.trades()}
        if trade_id not in trades:
            hint = nearest(trade_id, trades)
            raise DataError(
                f"{self.folder}: no closed trade {trade_id}; it has {plural(len(trades), 'trade')}.{hint}"
            )
        return trades[trade_id]


def settings_of(folder: Path) -> dict[str, Any]:
    """What settings.json of a run's folder holds. Raises DataError."""
    return _json(folder / SETTINGS_FILE)


def summary_of(folder: Path) -> dict[str, Any]:
    """What summary.json of a run's folder holds. Raises DataError."""
    return _json(folder / SUMMARY_FILE)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected the folder of a run") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds no settings; expected the folder of a run")
    return found


@contextlib.contextmanager
def open_run(folder: Path | str) -> Iterator[Run]:
    """The run of a folder, its market loaded.

    Raises DataError when the folder holds none, when its scans are gone, or when its cache has changed.
    """
    where = Path(folder)
    journal = read_journal(where)
    try:
        meta = journal.meta()
        n_bars = journal.last_bar() + 1
        if not n_bars:
            raise DataError(f"{where}: the run has decided no bar")
        params = ParameterSet(**json.loads(meta["parameters"]))
        market = _cache_market(where, meta) if "cache" in meta else _stored_market(where, journal)
        if len(market) < n_bars:
            raise DataError(
                f"{where}: {n_bars} bars were decided, {len(market)} are there; its scans are gone"
            )
        yield Run(
            where,
            journal,
            meta,
            params,
            float(meta["vol_threshold"]),
            halted(market, journal).first(n_bars),
        )
    finally:
        journal.close()


def cache_days(cache: CacheReader, meta: Mapping[str, str]) -> tuple[str, ...]:
    """The days of a cache that a backtest was run on."""
    return tuple(day for day in cache.days() if meta["first_day"] <= day <= meta["last_day"])


def changed_days(cache: CacheReader, settings: Mapping[str, Any]) -> list[str]:
    """The days whose content is another than the backtest's, or that are gone."""
    now = cache.manifest.days
    return [
        day
        for day, entry in settings.get("days", {}).items()
        if day not in now or now[day].sha256 != entry["sha256"]
    ]


def _cache_market(folder: Path, meta: Mapping[str, str]) -> Market:
    cache = CacheReader(meta["cache"])
    settings = settings_of(folder)
    other = changed_days(cache, settings)
    if other:
        raise DataError(
            f"{cache.folder}: {other[0]} is another day than the one of {folder}; build the cache again"
        )
    words = {day: entry["mc_status"] for day, entry in settings["days"].items() if "mc_status" in entry}
    return market_of_cache(
        cache,
        cache_days(cache, meta),
        allow_partial=meta["allow_partial"] == "true",
        posture=posture_code(meta["posture_when_unknown"]),
        mc_status={day: MC_STATUSES.index(word) for day, word in words.items()},
    )


def _stored_market(folder: Path, journal: Journal) -> Market:
    """The stored scans of a run, and what its journal says of the organs on each bar."""
    decisions = list(journal.decisions())
    wanted = {decision.timestamp_ns: k for k, decision in enumerate(decisions)}
    found: list[Any] = [None] * len(decisions)
    symbols: tuple[str, ...] = ()
    for scan in ScanStore(scans_root(folder)).scans():
        if scan.timestamp_ns in wanted:
            found[wanted[scan.timestamp_ns]] = row_from_scan(scan)
            symbols = scan.assets
    gone = next((k for k, row in enumerate(found) if row is None), None)
    if gone is not None:
        raise DataError(
            f"{folder}: the scan of bar {gone} is not in arrow_scans/; without it the run cannot be replayed"
        )
    stamps = np.array([decision.timestamp_ns for decision in decisions], np.int64)
    books = stored_books(journal, symbols, stamps)
    labels = [decision for decision in decisions if decision.books not in NO_BOOKS]
    if labels and books is None:
        raise DataError(
            f"{folder}: bar {labels[0].bar_idx} was decided with order books ({labels[0].books}),"
            " which are not kept"
        )

    def column(name: str, kind: Any = np.float64) -> Any:
        return np.array([getattr(row, name) for row in found], kind)

    def said(name: str, kind: Any = np.float64) -> Any:
        return np.array([getattr(decision, name) for decision in decisions], kind)

    stale = np.zeros((len(found), len(symbols)), np.bool_)
    for k, row in enumerate(found):
        for name in row.stale:
            if name in symbols:
                stale[k, symbols.index(name)] = True
    return Market(
        symbols=symbols,
        timestamp_ns=column("timestamp_ns", np.int64),
        scan_number=column("scan_number", np.int64),
        vel_div=column("vel_div"),
        v50=column("v50_velocity"),
        v750=column("v750_velocity"),
        instability_50=column("instability_50"),
        prices=np.array([row.prices for row in found]),
        stale=stale,
        posture=said("posture", np.int64),
        boost=said("boost"),
        beta=said("beta"),
        mc_status=said("mc_status", np.int64),
        esof_mult=said("esof_mult"),
        refusal=_refusals(decisions, journal),
        books=books,
        books_label=labels[0].books if labels else BOOKS_ABSENT,
    )


def _refusals(decisions: list[Decision], journal: Journal) -> IntArray:
    """The host's own reason against an entry on each bar, (n,); `halted` adds that of the ledger.

    A decision tells it only where it decided; that a scan came too late stands in the events in any case.
    """
    late = {stamp for stamp, kind, _ in journal.events() if kind == "stale_scan"}
    said = [d.reason if d.reason in HOST_REFUSALS else REASON_NONE for d in decisions]
    refusals: IntArray = np.array(
        [STALE_SCAN if d.timestamp_ns in late else code for d, code in zip(decisions, said, strict=True)],
        np.int64,
    )
    return refusals


def halted(market: Market, journal: Journal) -> Market:
    """The market with no entry after the bar on which the ledger refused a trade, for LEDGER_HALT.

    The decisions alone do not tell it: a bar without a signal has another reason.
    """
    stamps = [stamp for stamp, kind, _ in journal.events() if kind == "invariant"]
    if not stamps:
        return market
    refusal = np.full(len(market), REASON_NONE, np.int64) if market.refusal is None else market.refusal.copy()
    refusal[int(np.searchsorted(market.timestamp_ns, min(stamps))) + 1 :] = LEDGER_HALT
    return replace(market, refusal=refusal)
