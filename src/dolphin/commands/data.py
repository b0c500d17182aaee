"""`dolphin data`: build a scan cache; check whether data are fit to trade."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dolphin.commands.shared import (
    add_json,
    add_settings,
    load_config,
    open_feed,
    print_json,
    say,
    stop_on_signal,
)

_EPILOG = """examples:
  dolphin data check --feed recorded prices.parquet --universe universe.csv
  dolphin data build --feed recorded prices.parquet --universe universe.csv --out CACHE
  dolphin data build --scans runs/RUN --out CACHE        compact stored scans, compared value by value
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    parser.epilog = _EPILOG
    verbs = parser.add_subparsers(dest="verb", metavar="build|check", required=True)
    build = verbs.add_parser("build", help="make a daily scan cache from prices, or from stored scans")
    build.add_argument("path", nargs="?", metavar="PATH", help="recording, for --feed recorded")
    build.add_argument("--scans", metavar="RUN", help="folder with arrow_scans/ to compact instead of scanning prices")
    build.add_argument("--rebuild", action="store_true", help="keep the old cache as .STALE_YYYYMMDD and build anew")
    add_settings(build, "feed", "universe", "assets", "seed", "days", "out", "spectrum")
    check = verbs.add_parser("check", help="a passport of the data: gaps, stale symbols, signals, fit to trade or why not")
    check.add_argument("path", nargs="?", metavar="PATH", help="recording, for --feed recorded")
    add_settings(check, "feed", "universe", "assets", "seed", "days", "vol_threshold")
    for sub in (build, check):
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error")
        add_json(sub)


def execute(args: argparse.Namespace) -> int:
    """Do the verb."""
    return _check(args) if args.verb == "check" else _build(args)


def _build(args: argparse.Namespace) -> int:
    config = load_config(args)
    folder = Path(config["out"] or "cache")
    if args.scans:
        return _compact(args, Path(args.scans), folder)
    if not args.json:
        say(f"building a scan cache from {config['feed']} → {folder}")
    feed = open_feed(config, args.path)

    from dolphin.market.scan_cache import CacheWriter
    from dolphin.scan.scanner import Scanner

    stamp = datetime.now(UTC).strftime("%Y%m%d") if args.rebuild else None
    writer = CacheWriter(folder, feed.symbols, feed.interval_ns, feed.source_id, feed.name, stale_stamp=stamp)
    scanner = Scanner(feed.symbols, path=config["spectrum"])
    bars = scans = refused = 0
    interrupted = False
    started = time.monotonic()
    with stop_on_signal() as stop_requested:
        for bar in feed.bars():
            bars += 1
            step = scanner.update(bar, scans + 1)
            refused += step.refused is not None
            if step.scan is not None:
                scans += 1
                writer.add(step.scan)
            if not args.json and bars % 5000 == 0:
                rate = bars / (time.monotonic() - started)
                left = f", {(feed.n_bars - bars) / rate:.0f} s to go" if feed.n_bars else ""
                say(f"{bars:,} bars, {scans:,} scans, {rate:,.0f} bars/s{left}")
            if stop_requested():
                interrupted = True
                break
    manifest = writer.finish(complete=not interrupted)
    feed.close()
    result: dict[str, Any] = {
        "source": feed.name,
        "source_id": feed.source_id,
        "bars": bars,
        "scans": scans,
        "bars_refused": refused,
        "days": {day: {"rows": entry.rows, "complete": entry.complete} for day, entry in sorted(manifest.days.items())},
        "certified_bits_min": min((e.min_certified_bits or 0 for e in manifest.days.values()), default=None),
        "gaps": len(manifest.gaps),
        "prices_rejected": {f"{s} {rule}": n for (s, rule), n in sorted(feed.rejections.items())},
        "folder": str(folder),
        "interrupted": interrupted,
        "wall_s": round(time.monotonic() - started, 3),
    }
    _tell_build(args.json, result)
    return 130 if interrupted else 0


def _compact(args: argparse.Namespace, source: Path, folder: Path) -> int:
    from dolphin.domain.errors import DataError
    from dolphin.market.feed import digest, modal_interval_ns
    from dolphin.market.scan_cache import compact_day
    from dolphin.market.scan_store import ScanStore

    import numpy as np

    started = time.monotonic()
    store = ScanStore(source)
    stamps = np.array([scan.timestamp_ns for scan in store.scans()], dtype=np.int64)
    interval = modal_interval_ns(stamps) if len(stamps) > 1 else None
    if interval is None:
        raise DataError(f"{source}: fewer than two scans in arrow_scans/; nothing to compact")
    identity = digest({"kind": "arrow_scans", "first_ns": int(stamps[0]), "last_ns": int(stamps[-1]), "n": len(stamps)})
    stamp = datetime.now(UTC).strftime("%Y%m%d") if args.rebuild else None
    entries = {}
    for day in store.days():
        entries[day] = compact_day(store, folder, day, interval, identity, str(source), stale_stamp=stamp)
        if not args.json:
            say(f"{day}: {entries[day].rows:,} scans compared, difference 0")
    result = {
        "source": str(source),
        "scans": sum(entry.rows for entry in entries.values()),
        "days": {day: {"rows": entry.rows, "complete": entry.complete} for day, entry in entries.items()},
        "folder": str(folder),
        "wall_s": round(time.monotonic() - started, 3),
    }
    _tell_build(args.json, result)
    return 0


def _tell_build(as_json: bool, result: dict[str, Any]) -> None:
    if as_json:
        print_json(result)
        return
    incomplete = [day for day, entry in result["days"].items() if not entry["complete"]]
    print(f"{result['scans']:,} scans of {len(result['days'])} days in {result['wall_s']:.1f} s → {result['folder']}")
    if incomplete:
        print(f"incomplete, refused by backtests: {', '.join(incomplete)}")


def _check(args: argparse.Namespace) -> int:
    config = load_config(args)
    feed = open_feed(config, args.path)

    from dolphin.market.passport import passport

    result = passport(feed, vol_threshold=config["vol_threshold"])
    feed.close()
    if args.json:
        print_json(result.as_dict())
        return 0
    print(result.text())
    return 0


