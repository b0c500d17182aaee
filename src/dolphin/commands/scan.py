"""`dolphin scan`: scan a feed into the Arrow store, without trading."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from dolphin.commands.shared import (
    add_json,
    add_settings,
    bar_count,
    load_config,
    open_feed,
    plural,
    print_json,
    say,
    share,
    stop_on_signal,
    tell,
    tell_feed,
)

DEFAULT_OUT = "scans"

_EPILOG = """example:
  dolphin scan --feed recorded prices.parquet --out scans

Goes on where an earlier scan into the same folder stopped.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("path", nargs="?", metavar="PATH", help="recording, for --feed recorded")
    add_settings(
        parser, "feed", "universe", "assets", "seed", "days", "edge_bps", "out", "spectrum",
        out=f"folder that takes the scans (default {DEFAULT_OUT})",
    )  # fmt: skip
    parser.add_argument("--bars", type=bar_count, metavar="N", help="stop after N bars of the feed")
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Scan; 0 at the end of the feed, 130 when interrupted."""
    config = load_config(args)
    folder = Path(config["out"] or DEFAULT_OUT)
    if not args.json:
        say(f"scanning {config['feed']} → {folder}")
    feed = open_feed(config, args.path)
    if not args.json:
        tell_feed(feed)

    from dolphin.commands.telling import WorkDisplay, counted, rows
    from dolphin.domain.scan import WARMUP_PRICES
    from dolphin.journal.store import require_writable
    from dolphin.services.pipeline import ScanPipeline

    require_writable(folder)
    pipeline = ScanPipeline(feed, folder, config["spectrum"])
    first_number = pipeline.next_number
    bits = None
    outcomes: dict[str, int] = {}
    beyond = {-0.02: 0, -0.05: 0}
    interrupted = False
    started = time.monotonic()
    try:
        with WorkDisplay(quiet=args.json) as display, stop_on_signal() as stop_requested:
            for scan in pipeline.scans(args.bars):
                if scan is not None:
                    bits = min(scan.certified_bits) if bits is None else min(bits, *scan.certified_bits)
                    for outcome in scan.outcome:
                        outcomes[outcome] = outcomes.get(outcome, 0) + 1
                    for level in beyond:
                        beyond[level] += scan.vel_div < level
                display.progress("scan", pipeline.bars, feed.n_bars, scan=pipeline.next_number - 1)
                if stop_requested():
                    interrupted = True
                    break
    finally:
        pipeline.close()
    counts = {**pipeline.counts, **({"scans_quarantined": n} if (n := pipeline.store.n_quarantined) else {})}
    rejected = {f"{s} {rule}": n for (s, rule), n in sorted(feed.rejections.items())}
    scans = pipeline.next_number - first_number
    result = {
        "feed": config["feed"],
        "bars": pipeline.bars,
        "scans": scans,
        "scans_before": first_number - 1,
        "certified_bits_min": bits or None,
        "window_outcomes": outcomes,
        "vel_div_beyond": {str(level): n for level, n in beyond.items()},
        "counts": counts,
        "prices_rejected": rejected,
        "folder": str(folder),
        "interrupted": interrupted,
        "wall_s": round(time.monotonic() - started, 3),
    }
    if args.json:
        print_json(result)
        return 130 if interrupted else 0
    before = f" after {first_number - 1:,} that were there" if first_number > 1 else ""
    took = f"{plural(pipeline.bars, 'bar')}, in {result['wall_s']:.1f} s"
    tell(f"{plural(scans, 'scan')}{before}, {took} → {folder}")
    if scans:
        tell(f"  certified  {f'to {bits} bits' if bits else 'no: the float64 path has no certificate'}")
        told = ", ".join(f"{level:+g} on {n:,} ({share(n / scans, 2)})" for level, n in beyond.items())
        tell(f"  vel_div    below {told}")
        tell(f"  windows    {', '.join(f'{n:,} {outcome}' for outcome, n in sorted(outcomes.items()))}")
    elif pipeline.bars < WARMUP_PRICES:
        tell(f"  warm-up    the first scan needs {WARMUP_PRICES} prices")
    for line in rows(counted(counts, rejected)):
        tell(line)
    if interrupted:
        say("interrupted: what was scanned is kept; go on with the same command")
    return 130 if interrupted else 0
