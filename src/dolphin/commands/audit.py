"""`dolphin audit`: prove a run's ledger from its fills and prices."""

from __future__ import annotations

import argparse
from pathlib import Path

from dolphin.commands.shared import add_json, plural, print_json, tell

_EPILOG = """example:
  dolphin audit runs/20260105T000000-gold-synthetic-1

Recomputes leverage, notional, exit fill, order-book edge and every cash flow in
decimal arithmetic, compares entry and exit prices with the stored scans, and
checks that bars, positions, trades and legs fit together, and that summary.json
tells what the journal holds. A backtest's bars and prices are compared one by
one with its scan cache, read again with its checksums, where that is still
there and the same; else they are not proved, and the last line says so.
Exit 0 only if nothing is found.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("run", metavar="RUN", help="folder of a run")
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Audit; 0 only if the ledger balances and nothing is found."""
    import json

    from dolphin.backtest.folder import summary_of
    from dolphin.backtest.prices import prices_of_run
    from dolphin.commands.telling import WorkDisplay
    from dolphin.domain.params import ParameterSet
    from dolphin.host.finish import SUMMARY_FILE, scans_root
    from dolphin.journal.audit import audit
    from dolphin.journal.bar_columns import read_journal
    from dolphin.market.scan_store import ScanStore
    from dolphin.services.embedded import prices_from_store

    folder = Path(args.run)
    journal = read_journal(folder)
    try:
        meta = journal.meta()
        params = ParameterSet(**json.loads(meta["parameters"]))
        scans = scans_root(folder)
        has_scans = (scans / "arrow_scans").is_dir()
        price_of = prices_from_store(ScanStore(scans)) if has_scans else None
        told = summary_of(folder) if (folder / SUMMARY_FILE).exists() else None
        if has_scans:
            result = audit(journal, params, price_of, told=told)
        else:
            with WorkDisplay(quiet=args.json) as display:
                market = prices_of_run(
                    meta, lambda done, total: display.progress("reading days", done, total, unit="day")
                )
            has_scans = market is not None
            result = (
                audit(journal, params, told=told)
                if market is None
                else audit(journal, params, market.price_of, market.prices_at, market.rows, told)
            )
        events = [event for event in journal.events() if event[1] == "invariant"]
    finally:
        journal.close()
    for event in events:
        result.find(f"violated during the run: {event[2]}")
    if args.json:
        print_json({
            "balanced": result.balanced, "bars": result.bars, "trades": result.trades,
            "cash_flows": result.cash_flows, "prices_checked": result.prices_checked,
            "prices_proved": has_scans and result.balanced,
            "initial": str(result.initial), "balance": str(result.balance),
            "decisions_sha256": result.decisions_sha256, "findings": result.findings,
            "findings_total": result.findings_total,
        })  # fmt: skip
        return 0 if result.balanced else 1
    for text in result.findings:
        tell(f"finding: {text}")
    if result.findings_total > len(result.findings):
        tell(f"and {result.findings_total - len(result.findings)} more")
    checked = (
        f"{plural(result.prices_checked, 'price')} found in the scans"
        if has_scans
        else "no scans to check prices"
    )
    trades = f"{plural(result.trades, 'trade')}, {plural(result.cash_flows, 'cash flow')}"
    tell(f"{plural(result.bars, 'bar')}, {trades}, {checked}")
    tell(f"{result.initial:,.8f} + cash flows = {result.balance:,.8f} USDT")
    tell(f"decisions sha256 {result.decisions_sha256}")
    if not result.balanced:
        tell(f"NOT balanced: {plural(result.findings_total, 'finding')}")
    elif has_scans:
        tell("balanced: every cash flow is proved")
    else:
        tell("balanced: cash flows follow from the booked fills; prices not proved (no scans)")
    return 0 if result.balanced else 1
