"""`dolphin scan`: scan a feed into the Arrow store, without trading."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from dolphin.commands.shared import add_json, add_settings, load_config, open_feed, print_json, say, stop_on_signal

_EPILOG = """example:
  dolphin scan --feed recorded prices.parquet --out scans

Goes on where an earlier scan into the same folder stopped.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("path", nargs="?", metavar="PATH", help="recording, for --feed recorded")
    add_settings(parser, "feed", "universe", "assets", "seed", "days", "out", "spectrum")
    parser.add_argument("--bars", type=int, metavar="N", help="stop after N bars of the feed")
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Scan; 0 at the end of the feed, 130 when interrupted."""
    config = load_config(args)
    folder = Path(config["out"] or "scans")
    if not args.json:
        say(f"scanning {config['feed']} → {folder}")
    feed = open_feed(config, args.path)

    from dolphin.domain.scan import WARMUP_PRICES
    from dolphin.journal.store import require_writable
    from dolphin.services.pipeline import ScanPipeline

    require_writable(folder)
    pipeline = ScanPipeline(feed, folder, config["spectrum"])
    scans = 0
    bits = None
    outcomes: dict[str, int] = {}
    beyond = {-0.02: 0, -0.05: 0}
    interrupted = False
    started = time.monotonic()
    try:
        with stop_on_signal() as stop_requested:
            for scan in pipeline.scans():
                if scan is not None:
                    scans += 1
                    bits = min(scan.certified_bits) if bits is None else min(bits, *scan.certified_bits)
                    for outcome in scan.outcome:
                        outcomes[outcome] = outcomes.get(outcome, 0) + 1
                    for level in beyond:
                        beyond[level] += scan.vel_div < level
                if not args.json and pipeline.bars % 2000 == 0:
                    of = f" of {feed.n_bars:,}" if feed.n_bars else ""
                    say(f"{pipeline.bars:,}{of} bars, {scans:,} scans")
                if args.bars is not None and pipeline.bars >= args.bars:
                    break
                if stop_requested():
                    interrupted = True
                    break
    finally:
        pipeline.close()
    wall_s = time.monotonic() - started
    result = {
        "feed": config["feed"],
        "bars": pipeline.bars,
        "scans": scans,
        "certified_bits_min": bits,
        "window_outcomes": outcomes,
        "vel_div_beyond": {str(level): n for level, n in beyond.items()},
        "counts": dict(pipeline.counts),
        "prices_rejected": {f"{s} {rule}": n for (s, rule), n in sorted(feed.rejections.items())},
        "folder": str(folder),
        "interrupted": interrupted,
        "wall_s": round(wall_s, 3),
    }
    if args.json:
        print_json(result)
    else:
        certified = f"certified to {bits} bits" if bits else "not certified"
        print(f"{pipeline.bars:,} bars, {scans:,} new scans, {certified}, in {wall_s:.1f} s → {folder}")
        for level, n in beyond.items():
            share = n / scans if scans else 0.0
            print(f"  vel_div below {level}: {n:,} scans ({share:.2%})")
        for outcome, n in sorted(outcomes.items()):
            print(f"  windows {outcome}: {n:,}")
        for name, n in result["counts"].items():  # type: ignore[attr-defined]
            print(f"  {name.replace('_', ' ')}: {n:,}")
        if pipeline.bars < WARMUP_PRICES:
            print(f"  the first scan needs {WARMUP_PRICES} prices")
    return 130 if interrupted else 0
