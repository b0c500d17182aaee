"""One self-contained HTML page per run.

`ReportData` says what a run did, `render` turns it into a page, `write` puts the page on disk. The page opens
offline: it holds its data, its style and its drawing library, and its own policy forbids every request.
"""

from __future__ import annotations

from dolphin.report.data import ReportData, TradeRow
from dolphin.report.page import render, write

__all__ = ["ReportData", "TradeRow", "render", "write"]
