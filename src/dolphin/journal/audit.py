"""The audit: is the book true? Recomputed from fills and prices, never from the engine.

Entry point: `audit`. Each check is named; a finding says which trade or bar breaks which rule. Arithmetic is
decimal with 60 digits and shares no code with the engine or with the ledger.

What is proved: bars are contiguous and rows are the ones that were written; leverage and notional follow from
lanes, capital and fraction; exit fills from scan price and reason; the order-book edge from the seeded draws;
every trade is what its entry and exit decisions say, every leg follows from the fills; capital changes by
booked trades only, on every bar; marked equity follows from the held asset's price; days close with the
capital of their last bar; with `price_of`, entries and exits have the prices of their scans; with `rows`, the
bars are the market's, none left out and none missing at the end of a finished run. Not proved: that
the alpha had to decide so; a replay of the scans shows that (`dolphin reproduce`).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, localcontext
from typing import Any

from dolphin.domain.params import ParameterSet
from dolphin.journal.audit_bars import walk_bars
from dolphin.journal.audit_columns import PricesAt, walk_columns
from dolphin.journal.audit_market import ENDED, check_rows, check_summary
from dolphin.journal.audit_trades import check_days, check_edges, check_trades
from dolphin.journal.bar_columns import ColumnJournal
from dolphin.journal.fenced import terms_of
from dolphin.journal.findings import FINDINGS_SHOWN, AuditResult, MarketRows, PriceOf
from dolphin.journal.store import Journal

__all__ = ["FINDINGS_SHOWN", "AuditResult", "MarketRows", "PriceOf", "PricesAt", "audit"]


def audit(
    journal: Journal,
    params: ParameterSet,
    price_of: PriceOf | None = None,
    market: PricesAt | None = None,
    rows: MarketRows | None = None,
    told: Mapping[str, Any] | None = None,
) -> AuditResult:
    """Check the whole journal; `price_of` (the scan store) also proves the prices of entries and exits.

    With `price_of`, a trade whose scans are not there is a finding; without it, no price is proved. market
    (a scan cache) proves the price of a held asset on every bar of a journal of columns. rows are the scans
    of all days of the run; a bar that is another, or that a finished run lacks, is a finding. told is what
    the folder's summary.json holds. Raises DataError when the file itself cannot be read.
    """
    result = AuditResult()
    with localcontext(Context(prec=60)):
        if isinstance(journal, ColumnJournal):
            bars = walk_columns(journal, params, market, result)
        else:
            # The scanner of a system of services may have begun its numbers again: there time alone is in
            # order.
            in_order = price_of is not None and not terms_of(journal)
            bars = walk_bars(journal, params, in_order, result)
        check_edges(params, bars, result)
        check_trades(journal, params, price_of, bars, result)
        check_days(journal, bars, result)
        if rows is not None:
            check_rows(journal, rows, bars, result)
    result.decisions_sha256 = journal.decisions_sha256()
    meta = journal.meta()
    recorded = meta.get("decisions_sha256")
    if not recorded:
        if meta.get("status") in ENDED:
            result.find(f"the run is {meta['status']} and has no recorded digest of its decisions")
    elif recorded != result.decisions_sha256:
        result.find(f"digest {result.decisions_sha256[:16]}… differs from the recorded {recorded[:16]}…")
    if told is not None:
        check_summary(journal, told, result)
    return result
