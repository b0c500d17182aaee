"""`dolphin data`: build a scan cache; check data; rebuild recorded books and markets; download klines."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dolphin.commands import data_books, data_download, data_market
from dolphin.commands.shared import (
    add_json,
    add_settings,
    load_config,
    open_feed,
    parameter_set,
    plural,
    print_json,
    say,
    stop_on_signal,
    tell,
    tell_feed,
    unused_options,
)
from dolphin.domain.errors import UsageError

DEFAULT_OUT = "cache"

_EPILOG = """examples:
  dolphin data check --feed recorded prices.parquet --universe symbols.csv
  dolphin data build --feed recorded prices.parquet --out CACHE
  dolphin data build --scans runs/RUN --out CACHE
  dolphin data books RAW.parquet --out ROWS.parquet
  dolphin data market RECORDING --out replay
  dolphin data download --symbols BTCUSDT --from 2026-11-01 --out K.parquet
"""

_BUILD_EPILOG = """examples:
  dolphin data build --feed recorded prices.parquet --out CACHE
  dolphin data build --scans runs/RUN --out CACHE

A build from prices works on all cores, day by day; the first line says how long
it will take. A build that was stopped or killed goes on with the days that are
not finished. --scans compacts
stored scans day by day and compares every value with what it was made from;
days that are whole already stay. A day without its end is kept, and refused by
backtests. The last day of a finished run is whole; of other stored scans say so
with --ended.
"""

_CHECK_EPILOG = """example:
  dolphin data check --feed recorded prices.parquet --universe symbols.csv

Exit 0 when the data are fit to trade, 1 when they are not. Signals are counted
with the thresholds and the holding time of the named set.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    parser.epilog = _EPILOG
    verbs = parser.add_subparsers(dest="verb", metavar="build|check|books|market|download", required=True)
    build = verbs.add_parser("build", help="make a daily scan cache from prices, or from stored scans",
                             description="Make a daily scan cache from prices, or from stored scans.",
                             epilog=_BUILD_EPILOG)  # fmt: skip
    build.add_argument("path", nargs="?", metavar="PATH", help="recording, for --feed recorded")
    build.add_argument(
        "--scans", metavar="RUN", help="folder with arrow_scans/ to compact instead of scanning prices"
    )
    build.add_argument(
        "--rebuild", action="store_true", help="keep the old cache as .STALE_YYYYMMDD and build anew"
    )
    build.add_argument(
        "--ended", action="store_true", help="with --scans: no scan follows, so the last day is whole"
    )
    build.add_argument(
        "--jobs", type=_job_count, metavar="N",
        help="processes that scan prices (default: one a core, and one where the work is short)",
    )  # fmt: skip
    add_settings(
        build, "feed", "universe", "assets", "seed", "days", "edge_bps", "out", "spectrum",
        out=f"folder that takes the cache (default {DEFAULT_OUT})",
    )  # fmt: skip
    check = verbs.add_parser("check", help="tell gaps, stale symbols, signals; fit to trade or why not",
                             description="Tell gaps, stale symbols, signals; fit to trade or why not.",
                             epilog=_CHECK_EPILOG)  # fmt: skip
    check.add_argument("path", nargs="?", metavar="PATH", help="recording, for --feed recorded")
    add_settings(check, "set", "feed", "universe", "assets", "seed", "days", "edge_bps", "vol_threshold")
    books = data_books.add_to(verbs)
    market = data_market.add_to(verbs)
    download = data_download.add_to(verbs)
    for sub in (build, check, books, market, download):
        sub.set_defaults(parser=sub)
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
        add_json(sub)


def _job_count(text: str) -> int:
    """A number of processes from the command line, 1 or more."""
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes, expected 1 or more")
    return count


def execute(args: argparse.Namespace) -> int:
    """Do the verb."""
    if args.verb == "books":
        return data_books.execute(args)
    if args.verb == "market":
        return data_market.execute(args)
    if args.verb == "download":
        return data_download.execute(args)
    return _check(args) if args.verb == "check" else _build(args)


def _build(args: argparse.Namespace) -> int:
    config = load_config(args)
    folder = Path(config["out"] or DEFAULT_OUT)
    if args.scans:
        unused = unused_options(config, "feed", "universe", "assets", "seed", "days", "edge_bps", "spectrum")
        unused = unused or ("--jobs" if args.jobs is not None else "")
        if unused or args.path:
            raise UsageError(
                f"--scans compacts stored scans, it takes no {unused or args.path}; leave it out"
            )
        return _compact(args, Path(args.scans), folder)
    if args.ended:
        raise UsageError("--ended is for stored scans: give their folder with --scans")
    if not args.json:
        say(f"building a scan cache from {config['feed']} → {folder}")
    feed = open_feed(config, args.path)
    if not args.json:
        tell_feed(feed)

    from dolphin.commands.telling import WorkDisplay
    from dolphin.services.cache_build import Plan, Progress, build, duration

    stamp = datetime.now(UTC).strftime("%Y%m%d") if args.rebuild else None
    started = time.monotonic()
    with WorkDisplay(quiet=args.json) as display, stop_on_signal() as stop_requested:

        def on_plan(plan: Plan) -> None:
            if not args.json:
                say(plan.text())

        def on_progress(p: Progress) -> None:
            left = "" if p.remaining_s is None else f", {duration(p.remaining_s)} left"
            display.progress(f"build, {p.scans_per_s:,.0f} scans/s{left}", p.bars, feed.n_bars, scan=p.scans)

        built = build(
            feed, folder, path=config["spectrum"], jobs=args.jobs, stale_stamp=stamp,
            on_plan=on_plan, on_progress=on_progress, stop_requested=stop_requested,
        )  # fmt: skip
    manifest, plan, interrupted = built.manifest, built.plan, built.interrupted
    feed.close()
    result: dict[str, Any] = {
        "source": feed.name,
        "source_id": feed.source_id,
        "bars": built.bars,
        "scans": built.scans,
        "scans_there": built.scans_there,
        "bars_refused": built.bars_refused,
        "days": {
            day: {"rows": entry.rows, "complete": entry.complete}
            for day, entry in sorted(manifest.days.items())
        },
        "certified_bits_min": min((e.min_certified_bits or 0 for e in manifest.days.values()), default=None),
        "gaps": len(manifest.gaps),
        "prices_rejected": {f"{s} {rule}": n for (s, rule), n in sorted(feed.rejections.items())},
        "folder": str(folder),
        "interrupted": interrupted,
        "jobs": plan.jobs,
        "scans_per_s": None if built.scans_per_s is None else round(built.scans_per_s, 1),
        "expected_s": None if plan.expected_s is None else round(plan.expected_s, 1),
        "expected_most_s": None if plan.expected_most_s is None else round(plan.expected_most_s, 1),
        "wall_s": round(time.monotonic() - started, 3),
    }
    _tell_build(args.json, result)
    if interrupted and not args.json:
        say("interrupted: whole days are kept; go on with the same command")
    return 130 if interrupted else 0


def _compact(args: argparse.Namespace, source: Path, folder: Path) -> int:
    import numpy as np

    from dolphin.domain.clock import day_from_ns
    from dolphin.domain.errors import DataError
    from dolphin.market.feed import digest, modal_interval_ns
    from dolphin.market.scan_cache import cache_folder, compact_day, is_cache, read_manifest
    from dolphin.market.scan_store import ScanStore

    started = time.monotonic()
    store = ScanStore(source)
    stamps: list[int] = []
    # Per day the first and the last scan: (number, stamp).
    first: dict[str, tuple[int, int]] = {}
    last: dict[str, tuple[int, int]] = {}
    universe = ""
    for scan in store.scans():
        stamps.append(scan.timestamp_ns)
        universe = universe or scan.universe_id
        here = scan.scan_number, scan.timestamp_ns
        first.setdefault(day_from_ns(scan.timestamp_ns), here)
        last[day_from_ns(scan.timestamp_ns)] = here
    interval = modal_interval_ns(np.array(stamps, dtype=np.int64)) if len(stamps) > 1 else None
    if interval is None:
        raise DataError(f"{source}: fewer than two scans in arrow_scans/; nothing to compact")
    # The first scan names the store: the identity stays while the store grows.
    identity = digest({"kind": "arrow_scans", "universe": universe, "first_ns": stamps[0]})
    today = datetime.now(UTC).strftime("%Y%m%d")
    there = read_manifest(cache_folder(folder)).days if is_cache(folder) and not args.rebuild else {}
    entries = {}
    kept = 0
    ended = args.ended or _run_ended(source, max(number for number, _ in last.values()))
    days = sorted(last)
    for day, following in zip(days, [*days[1:], None], strict=True):
        old = there.get(day)
        if old is not None and old.complete and old.last_timestamp_ns >= last[day][1]:
            entries[day] = old
            kept += old.rows
            continue
        # A day that was whole when its run had ended, and has grown since, is set aside and built again.
        grown = old is not None and old.complete
        entries[day] = compact_day(
            store, folder, day, interval, identity, str(source),
            stale_stamp=today if grown or args.rebuild else None,
            ended=ended if following is None else first[following][0] == last[day][0] + 1,
        )  # fmt: skip
        if not args.json:
            say(f"{day}: {plural(entries[day].rows, 'scan')} compared value by value, difference 0")
    result = {
        "source": str(source),
        "scans": sum(entry.rows for entry in entries.values()),
        "scans_there": kept,
        "scans_quarantined": store.n_quarantined,
        "days": {day: {"rows": entry.rows, "complete": entry.complete} for day, entry in entries.items()},
        "folder": str(folder),
        "wall_s": round(time.monotonic() - started, 3),
    }
    _tell_build(args.json, result)
    return 0


def _run_ended(folder: Path, last_scan_number: int) -> bool:
    """Whether the scans are those of a run that has finished, up to the last one that it decided on."""
    from dolphin.domain.errors import DolphinError
    from dolphin.host.finish import JOURNAL_FILE
    from dolphin.journal.store import Journal

    try:
        journal = Journal.read_only(folder / JOURNAL_FILE)
    except DolphinError:
        return False
    try:
        return journal.meta().get("status") == "finished" and journal.last_scan_number() <= last_scan_number
    finally:
        journal.close()


def _tell_build(as_json: bool, result: dict[str, Any]) -> None:
    from dolphin.commands.telling import counted, rows

    if as_json:
        print_json(result)
        return
    incomplete = [day for day, entry in result["days"].items() if not entry["complete"]]
    there = f", {result['scans_there']:,} of them there already" if result["scans_there"] else ""
    days = plural(len(result["days"]), "day")
    scans = plural(result["scans"], "scan")
    tell(f"{scans} of {days}{there}, in {result['wall_s']:.1f} s → {result['folder']}")
    counts = {name: result.get(name, 0) for name in ("bars_refused", "scans_quarantined")}
    for line in rows(
        counted({name: n for name, n in counts.items() if n}, result.get("prices_rejected", {}))
    ):
        tell(line)
    if incomplete:
        tell(f"  partial    {', '.join(incomplete)}: not whole, refused by backtests without --allow-partial")
        if "bars" not in result and incomplete[-1] == max(result["days"]):
            tell("             where no scan follows, say so with --ended, and the last day is whole")


def _check(args: argparse.Namespace) -> int:
    config = load_config(args)
    _, params = parameter_set(config)
    feed = open_feed(config, args.path)

    from dolphin.market.passport import passport

    result = passport(feed, params=params, vol_threshold=config["vol_threshold"])
    feed.close()
    if args.json:
        print_json(result.as_dict())
    else:
        tell(result.text())
    return 0 if result.fit else 1
