"""One door for recordings: whatever lies at a path, as a feed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dolphin.market.feed import Feed
from dolphin.market.recorded import RecordedFeed
from dolphin.market.scan_cache import CacheFeed, is_cache


def open_recorded(
    path: Path | str, universe: Path | Sequence[str] | None = None, assets: int | None = None
) -> Feed:
    """Open the recording at `path`: a price panel, a scan cache (folder or storage root), or one day's cache
    file.

    assets : how many symbols, from the front; None: up to 50.
    Raises DataError or StoreError with one line, UsageError when `assets` is below one.
    """
    if is_cache(Path(path)):
        return CacheFeed(path, universe=universe, assets=assets)
    return RecordedFeed(path, universe=universe, assets=assets)
