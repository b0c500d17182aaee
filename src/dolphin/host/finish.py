"""What every host does when a run ends: audit, figures, report, all from the journal."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from dolphin import __version__
from dolphin.domain.bar import IntArray
from dolphin.domain.codes import (
    ACTION_ENTER,
    ACTION_NONE,
    BOUNDS,
    BUCKETS,
    REASONS,
)
from dolphin.domain.decision import Decision
from dolphin.domain.errors import StoreError
from dolphin.domain.params import ParameterSet
from dolphin.domain.scan import WINDOWS
from dolphin.host.identity import CODE_SHA256, COMMAND, code_sha256, command_line
from dolphin.host.session import OpenTrade
from dolphin.host.stored_books import stored_books
from dolphin.host.summary import summarise
from dolphin.journal.audit import AuditResult, PriceOf, PricesAt, audit
from dolphin.journal.ledger import ClosedTrade, usdt
from dolphin.journal.store import Journal
from dolphin.report.data import ReportData, TradeRow
from dolphin.report.senses import BookSeries, Senses

REPORT_FILE = "report.html"
SUMMARY_FILE = "summary.json"
JOURNAL_FILE = "journal.db"
SETTINGS_FILE = "settings.json"
TRADES_FILE = "trades.csv"
#: Kind of the journal's events that say what the circuit breaker judged anew.
BREAKER = "breaker"
#: Where settings.json says that the scans lie in another folder, relative to its own.
SCANS = "scans"


def versions() -> dict[str, str]:
    """Versions of what can move a bit, for provenance."""
    names = ("numpy", "numba", "llvmlite", "python-flint", "pyarrow", "msgspec")
    found = {name: metadata.version(name) for name in names}
    return {"dolphin": __version__, "python": platform.python_version(), **found}


def finish(
    journal: Journal,
    params: ParameterSet,
    folder: Path,
    facts: Mapping[str, Any],
    *,
    opened: OpenTrade | None,
    notes: tuple[str, ...] = (),
    price_of: PriceOf | None = None,
    market: PricesAt | None = None,
    report: bool = True,
    status: str = "finished",
    symbols: Sequence[str] = (),
) -> tuple[dict[str, Any], AuditResult]:
    """Audit the journal, write summary.json, trades.csv and the report into `folder`.

    symbols are the universe, for what the report shows of order books. Returns summary and audit. The status
    is set last: a run that died before is still `running`, and a resume writes everything again. Raises
    StoreError when a file cannot be written.
    """
    result = audit(journal, params, price_of, market)
    path = folder / REPORT_FILE
    told = {**facts, "notes": list(notes), "report": str(path) if report else None}
    summary = summarise(journal, params, result, told)
    journal.set_meta({"decisions_sha256": result.decisions_sha256})
    if report:
        from dolphin.report import write

        write(report_data(journal, params, summary, opened, notes, symbols), path)
    write_text(folder / SUMMARY_FILE, json.dumps(summary, indent=1) + "\n")
    write_text(folder / TRADES_FILE, _trades_csv(journal))
    journal.set_meta({"status": status})
    return summary, result


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none. Raises StoreError."""
    draft = path.with_name(path.name + ".new")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror}); free some space, then add --resume"
        ) from error


def write_settings(folder: Path, recorded: Mapping[str, str], symbols: Sequence[str], **more: Any) -> None:
    """Write settings.json: what the run was asked to do, and what it was done with. Raises StoreError.

    Code, versions, command line and environment are what `dolphin reproduce` compares and repeats.
    """
    environment = {k: v for k, v in sorted(os.environ.items()) if k.startswith("DOLPHIN_")}
    made_with = {
        CODE_SHA256: code_sha256(),
        "versions": versions(),
        COMMAND: command_line(),
        "environment": environment,
    }
    text = json.dumps({**recorded, "symbols": list(symbols), **more, **made_with}, indent=1) + "\n"
    write_text(folder / SETTINGS_FILE, text)


def scans_root(folder: Path) -> Path:
    """The folder whose `arrow_scans/` a run has decided: its own, or the one that its settings name."""
    try:
        named = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8")).get(SCANS)
    except (OSError, ValueError, AttributeError):
        return folder
    return folder / named if isinstance(named, str) else folder


def _trades_csv(journal: Journal) -> str:
    names = ClosedTrade.__struct_fields__
    lines = [",".join(names)]
    lines += [",".join(str(getattr(trade, name)) for name in names) for trade in journal.trades()]
    return "\n".join(lines) + "\n"


def report_data(
    journal: Journal,
    params: ParameterSet,
    summary: dict[str, Any],
    opened: OpenTrade | None,
    notes: tuple[str, ...],
    symbols: Sequence[str] = (),
) -> ReportData:
    """The journal as the report wants it."""
    stamps, equity = journal.marks()
    meta = journal.meta()
    lambdas = np.array(journal.lambdas(), dtype=np.float64)
    legs: dict[str, dict[str, int]] = {}
    for trade_id, leg, amount in journal.cash_flows():
        legs.setdefault(trade_id, {})[leg] = amount
    entries: dict[int, Decision] = {}
    exits: dict[int, Decision] = {}
    for decision in journal.decisions(active=True):
        (entries if decision.action == ACTION_ENTER else exits)[decision.bar_idx] = decision
    seen = journal.series()
    trades = journal.trades()
    rows = [
        _closed_row(trade, entries[trade.entry_bar], exits[trade.exit_bar], legs[trade.trade_id])
        for trade in trades
    ]
    entry_bars = {trade.trade_id: trade.entry_bar for trade in trades}
    if opened is not None:
        entry_bars[opened.trade_id] = opened.entry.bar_idx
    if opened is not None and len(stamps):
        rows.append(_open_row(opened, params, journal.last_bar()))
        unrealised = float(equity[-1]) - opened.entry.capital
        notes = (
            *notes,
            f"One position is open: {opened.entry.asset}, marked at {unrealised:+,.2f} USDT"
            " before exit costs.",
        )
    return ReportData(
        title=f"{summary['set']} on {summary.get('source') or summary['feed']}",
        feed=str(summary["feed"]),
        set_name=str(summary["set"]),
        set_hash=params.hash(),
        summary=summary,
        parameters=params.as_dict(),
        provenance={**{k: v for k, v in meta.items() if k not in ("schema_version", "status")}, **versions()},
        timestamp_ns=stamps,
        equity=equity,
        vel_div=seen.vel_div,
        lambdas={w: lambdas[:, k] for k, w in enumerate(WINDOWS)} if lambdas.size else {},
        threshold=params.vel_div_threshold,
        extreme=params.vel_div_extreme,
        direction=params.direction,
        trades=tuple(rows),
        initial_capital=params.initial_capital,
        blocked={
            REASONS[r]: n for (action, r), n in sorted(journal.reasons().items()) if action == ACTION_NONE
        },
        notes=notes,
        prices_of_trades={
            trade_id: seen.held[bar] for trade_id, bar in entry_bars.items() if bar in seen.held
        },
        senses=_senses(journal, meta, stamps, symbols),
    )


def _senses(
    journal: Journal, meta: Mapping[str, str], stamps: IntArray, symbols: Sequence[str]
) -> Senses | None:
    """What order books and breaker said, scan by scan; None where neither was wired."""
    if not len(stamps) or not (meta.get("books") or meta.get("factors")):
        return None
    said = np.array([(d.boost, d.beta) for d in journal.decisions()], np.float64)
    bars = stored_books(journal, tuple(symbols), stamps) if symbols else None
    books = None
    if bars is not None:
        books = BookSeries(
            source=meta["books"].split(":")[0],
            present=bars.present,
            median_imbalance=bars.median_imbalance,
            withdrawal=np.median(bars.withdrawal_velocity, axis=1),
            cascade=bars.cascade_count,
        )
    return Senses(
        timestamp_ns=stamps,
        boost=said[:, 0],
        beta=said[:, 1],
        books=books,
        news=tuple((stamp, text) for stamp, kind, text in journal.events() if kind == BREAKER),
    )


def _lanes(entry: Decision) -> dict[str, float]:
    return {
        "base": entry.lane_base,
        "dc": entry.lane_dc,
        "regime": entry.lane_regime,
        "ob": entry.lane_ob,
        "esof": entry.lane_esof,
    }


def _closed_row(trade: ClosedTrade, entry: Decision, leave: Decision, legs: Mapping[str, int]) -> TradeRow:
    money = {name: float(usdt(amount)) for name, amount in legs.items()}
    return TradeRow(
        trade_id=trade.trade_id,
        asset=trade.asset,
        direction=trade.direction,
        entry_ns=trade.entry_ns,
        exit_ns=trade.exit_ns,
        entry_bar=trade.entry_bar,
        exit_bar=trade.exit_bar,
        bars_held=leave.bars_held,
        entry_price=trade.entry_price,
        exit_scan_price=trade.exit_scan_price,
        exit_price=trade.exit_price,
        reason=trade.reason,
        leverage=trade.leverage,
        notional=trade.notional,
        vel_div=entry.vel_div,
        bucket=BUCKETS[entry.bucket],
        price_pnl=money["price_pnl"],
        slippage=-money["exit_slippage"],
        fees=-(money["entry_fee"] + money["exit_fee"]),
        ob_edge=money["ob_edge"],
        net=float(usdt(sum(legs.values()))),
        lanes=_lanes(entry),
        raw=entry.raw,
        cap=entry.cap,
        bound=BOUNDS[entry.bound],
        fraction=entry.fraction,
        stale_price=trade.stale_price,
    )


def _open_row(opened: OpenTrade, params: ParameterSet, last_bar: int) -> TradeRow:
    """The open trade, without money: nothing of it is realised yet."""
    entry = opened.entry
    return TradeRow(
        trade_id=opened.trade_id,
        asset=entry.asset,
        direction=params.direction,
        entry_ns=entry.timestamp_ns,
        exit_ns=None,
        entry_bar=entry.bar_idx,
        exit_bar=None,
        bars_held=last_bar - entry.bar_idx,
        entry_price=entry.price,
        exit_scan_price=None,
        exit_price=None,
        reason="OPEN",
        leverage=entry.leverage,
        notional=entry.notional,
        vel_div=entry.vel_div,
        bucket=BUCKETS[entry.bucket],
        price_pnl=0.0,
        slippage=0.0,
        fees=0.0,
        ob_edge=0.0,
        net=0.0,
        lanes=_lanes(entry),
        raw=entry.raw,
        cap=entry.cap,
        bound=BOUNDS[entry.bound],
        fraction=entry.fraction,
        stale_price=False,
    )
