"""The scanner as a service: bars that are due become scans in the Arrow store, and nothing else.

Entry point: `ScannerService`. The bridge brings scans to the grid, so that a scanner needs no grid to go on
and a scan that is in the store is never lost to one. A restart takes the price ring up and goes on with the
next bar; the bars that came meanwhile are made up for, a bounded number a tick, so that heartbeats go on.
Ring or store may be lost: `ScanPipeline` with `live` goes on without them, with new stamps in any case.
"""

from __future__ import annotations

import logging
from typing import Final

from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.domain.errors import StoreError
from dolphin.domain.scan import WARMUP_PRICES
from dolphin.market.paced import PacedFeed
from dolphin.scan.warm import warm
from dolphin.services.feeds import open_market
from dolphin.services.live_bars import LiveBars
from dolphin.services.pipeline import ScanPipeline
from dolphin.services.service import Context

#: Bars a tick while catching up: about a quarter of a second of work.
BARS_A_TICK: Final = 200
#: Without a new scan for so long the scanner is not well, unless its feed has ended.
LATE_NS: Final = 30 * NS_PER_S

_log = logging.getLogger("dolphin.scanner")


class ScannerService:
    """See the module."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.period_s = 1.0
        self._pipeline: ScanPipeline | None = None
        self._feed: PacedFeed | LiveBars | None = None
        self._last_ns: int | None = None
        self._trouble = ""
        self._reopen = False

    @property
    def phase(self) -> str:
        """`warmup`, `running`, or `ended` once the feed has given its last bar."""
        if self._pipeline is None or self._pipeline.scanner.bars < WARMUP_PRICES:
            return "warmup"
        return "ended" if self._feed is not None and self._feed.ended else "running"

    @property
    def progress(self) -> tuple[int, int] | None:
        """Bars folded and bars needed while it warms up."""
        bars = 0 if self._pipeline is None else self._pipeline.scanner.bars
        return (bars, WARMUP_PRICES) if bars < WARMUP_PRICES else None

    def health(self) -> tuple[bool, str]:
        """Whether scans are made as bars fall due."""
        feed, pipeline = self._feed, self._pipeline
        if self._trouble:
            return False, self._trouble
        if feed is None or pipeline is None:
            return False, "not started"
        if feed.ended:
            return True, f"{feed.name} has ended: no further bars will come"
        trouble = feed.trouble if isinstance(feed, LiveBars) else ""
        if trouble:
            return False, f"no bars: {trouble}"
        if self._last_ns is None:
            return True, f"warm-up: {pipeline.scanner.bars} of {WARMUP_PRICES} bars"
        late_s = (self.context.clock.now_ns() - self._last_ns) / NS_PER_S
        told = f"scan {pipeline.next_number - 1} of {iso_from_ns(self._last_ns)[:19]}Z, {late_s:.0f} s ago"
        return late_s * NS_PER_S <= max(LATE_NS, 3 * feed.interval_ns), told

    def gauges(self) -> dict[str, float]:
        """See `Service.gauges`."""
        if self._pipeline is None or self._feed is None:
            return {}
        found = {"next_scan": float(self._pipeline.next_number), "feed_ended": float(self._feed.ended)}
        if self._last_ns is not None:
            found["scan_age_s"] = (self.context.clock.now_ns() - self._last_ns) / NS_PER_S
        return found

    def start(self) -> None:
        """Open the market and take the ring up. Raises DolphinError."""
        settings = self.context.settings
        feed: PacedFeed | LiveBars
        if settings.feed == "binance":
            feed = LiveBars(lambda: open_market(settings))
        else:
            feed = PacedFeed(open_market(settings), settings.market_origin_ns)
        warm()
        try:
            self._pipeline = ScanPipeline(feed, self.context.home.market, live=True)
        except BaseException:
            feed.close()
            raise
        self._feed = feed
        self.period_s = max(0.05, min(1.0, feed.interval_ns / NS_PER_S / 5.0))
        resumed_ns = self._pipeline.resumed_ns
        if resumed_ns >= 0:
            self._last_ns = resumed_ns if self._pipeline.scanner.bars >= WARMUP_PRICES else None
            feed.go_on_after(resumed_ns)

    def tick(self) -> None:
        """Make the scans of the bars that are due."""
        feed, pipeline = self._feed, self._pipeline
        if feed is None or pipeline is None:
            return
        if self._reopen:
            self._start_again()
            return
        done = 0
        try:
            for bar in feed.due(self.context.clock.now_ns(), BARS_A_TICK):
                done += 1
                scan = pipeline.on_bar(bar)
                self._trouble = ""
                if scan is not None:
                    self._last_ns = scan.timestamp_ns
                    self.context.counts["scans"] += 1
        except StoreError as error:
            # Memory may be ahead of the disk now: it is taken up from there again.
            self._reopen = True
            self._tell_trouble(str(error))
            return
        for event in pipeline.take_events():
            self.context.counts[f"bars_{event.kind}"] += 1
            _log.warning("%s: %s", event.kind, event.text)
        if done == BARS_A_TICK:
            self.context.wake.set()

    def _tell_trouble(self, trouble: str) -> None:
        """Told once, and in force until a bar was kept again."""
        if not self._trouble:
            self.context.tell("stale_scan", f"the scanner cannot write: {trouble}")
        self._trouble = trouble

    def _start_again(self) -> None:
        self.stop()
        try:
            self.start()
        except StoreError as error:
            self._tell_trouble(str(error))
        else:
            self._reopen = False

    def stop(self) -> None:
        """Release the store; what is written is whole."""
        pipeline = self._pipeline
        if pipeline is not None:
            pipeline.close()
