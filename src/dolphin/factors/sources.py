"""A folder of factors of any kind as sources: recordings, a system's own days, the predecessor's archive.

Entry point: `open_sources`.
"""

from __future__ import annotations

from pathlib import Path

from dolphin.factors.archive import archive_sources, is_archive
from dolphin.factors.daily import daily_sources, is_daily
from dolphin.factors.recorded import recorded_sources
from dolphin.factors.series import SeriesSource


def open_sources(folder: Path) -> dict[str, SeriesSource]:
    """A source for each factor, by name. No file is read yet; a source tells its faults when asked."""
    if is_archive(folder):
        return archive_sources(folder)
    if is_daily(folder):
        return daily_sources(folder)
    return dict(recorded_sources(folder))
