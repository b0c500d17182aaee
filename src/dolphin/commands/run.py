"""`dolphin run`: the whole system in one process."""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dolphin import __version__
from dolphin.commands.shared import (
    add_json,
    add_settings,
    bar_count,
    deployment_of,
    load_config,
    open_feed,
    open_live,
    parameter_set,
    print_json,
    say,
    stop_on_signal,
    tell_feed,
)
from dolphin.config import SETTINGS, Config
from dolphin.domain.errors import UsageError

if TYPE_CHECKING:
    from dolphin.host.session import Step
    from dolphin.market.feed import Feed
    from dolphin.services.forewarner_gate import Assessor

_EPILOG = """examples:
  dolphin run                              a synthetic day
  dolphin run --set champion --seed 3 --days 2 --out two-days
  dolphin run --feed recorded prices.parquet --universe symbols.csv --assets 50
  dolphin run --feed recorded prices.parquet --out DIR --resume
  dolphin run --feed binance --assets 50 --out DIR

A recording is a Parquet file, wide (ts and one close column per symbol) or long
(ts, symbol, close), or a scan cache. --resume goes on after a stop or a crash.
binance trades on paper on live public prices, a bar every 5 s. Its warm-up of
751 bars comes from one-minute klines; --bars counts them too. No entry is
decided until most of the longest window is live: 376 bars, 31 minutes.
The circuit breaker hears funding, DVOL, fear and greed and the taker ratio
from their publishers; with --base-url only where --factors live says so.
`dolphin halt --home DIR` stops its entries.
Fills are modelled: no order leaves this machine.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("path", nargs="?", metavar="PATH", help="recording, for --feed recorded")
    add_settings(parser, *(setting.name for setting in SETTINGS))
    parser.add_argument("--bars", type=bar_count, metavar="N", help="stop after N bars of the feed")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--no-report", action="store_true", help="write no HTML report")
    parser.add_argument(
        "--forewarner", metavar="ARTEFACT", help="folder made by `dolphin forewarn train`, for the days' gate"
    )
    live = parser.add_argument_group("live prices (--feed binance)")
    live.add_argument("--base-url", metavar="URL", help="another address than the exchange's own")
    live.add_argument(
        "--no-backfill", action="store_true", help="warm up with an hour of live bars instead of klines"
    )
    live.add_argument(
        "--trade-backfilled", action="store_true", help="decide entries from mostly back-filled windows too"
    )
    live.add_argument(
        "--factor-address", metavar="HOST=URL", action="append", default=[],
        help="another address of binance, deribit or alternative, for --factors live",
    )  # fmt: skip
    add_json(parser)


def default_folder(set_name: str, feed: str) -> Path:
    """A new folder under runs/, named by the time it starts."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    return Path("runs") / f"{stamp}-{set_name.split('+')[0]}-{feed}-{os.getpid()}"


def books_of(config: Config) -> str:
    """Where a run's order books come from; empty for none."""
    if config["books"] == "auto":
        return str(config["feed"]) if config["feed"] in ("synthetic", "binance") else ""
    return "" if config["books"] == "off" else str(config["books"])


def live_factors_of(config: Config, base_url: str | None) -> bool:
    """Whether a run asks the factors' publishers: for `live`, for `auto` on the exchange's own prices.

    Who gave another address for the exchange has not asked for the other publishers. Raises UsageError.
    """
    if config["factors"] == "live" and config["feed"] != "binance":
        raise UsageError("--factors live is for live prices; add --feed binance, or leave it out")
    return config["factors"] == "live" or (
        config["factors"] == "auto" and config["feed"] == "binance" and base_url is None
    )


def factor_addresses(words: list[str]) -> dict[str, str]:
    """Addresses by host from HOST=URL. Raises UsageError, and ConfigError for a host or an address."""
    found = {}
    for word in words:
        host, separator, address = word.partition("=")
        if not separator:
            raise UsageError(
                f"--factor-address {word!r}: expected HOST=URL, like binance=http://127.0.0.1:8080"
            )
        found[host] = address
    if found:
        from dolphin.feeds.factor_answers import checked_addresses

        checked_addresses(found)
    return found


def open_assessor(artefact: str | None) -> Assessor | None:
    """The forewarner of an artefact's folder, None without one; what makes it fall back is told at once.

    Raises UsageError for a file, and when the research extra is not installed.
    """
    if artefact is None:
        return None
    from dolphin.research.forewarner.artefact import open_forewarner

    if Path(artefact).is_file():
        raise UsageError(f"--forewarner {artefact}: is a file; give the folder that holds it")
    forewarner = open_forewarner(Path(artefact))
    if forewarner.why:
        say(f"warning: the forewarner answers with its fallback, ORANGE: {forewarner.why}")
    return forewarner


def _open(config: Config, args: argparse.Namespace) -> Feed:
    if config["feed"] == "binance":
        from dolphin.services.runtime import settle

        settle()
        return open_live(config, args.path, args.base_url, backfill=not args.no_backfill)
    for given, option in (
        (args.base_url, "--base-url"),
        (args.no_backfill, "--no-backfill"),
        (args.trade_backfilled, "--trade-backfilled"),
    ):
        if given:
            raise UsageError(f"{option} is for live prices; add --feed binance or leave it out")
    return open_feed(config, args.path)


def execute(args: argparse.Namespace) -> int:
    """Run; 0 when the ledger balances, 1 when not, 130 when interrupted."""
    config = load_config(args)
    name, params = parameter_set(config)
    folder = Path(config["out"]) if config["out"] else default_folder(name, config["feed"])
    live_factors = live_factors_of(config, args.base_url)
    if args.factor_address and not live_factors:
        raise UsageError("--factor-address is for live factors; add --factors live, or leave it out")
    addresses = factor_addresses(args.factor_address)
    if live_factors and args.base_url is not None:
        addresses = {"binance": args.base_url, **addresses}
    forewarner = open_assessor(args.forewarner)
    feed = _open(config, args)

    from dolphin.commands.live_news import LiveNews
    from dolphin.commands.telling import WorkDisplay, print_summary
    from dolphin.domain.codes import posture_code
    from dolphin.host.summary import forewarner_told, training_days
    from dolphin.services.embedded import Progress, RunSettings, check, run

    settings = RunSettings(
        feed_name=config["feed"],
        set_name=name,
        params=params,
        folder=folder,
        deployment=deployment_of(config, params),
        vol_threshold=config["vol_threshold"],
        scan_path=config["spectrum"],
        posture_when_unknown=posture_code(config["posture_when_unknown"]),
        limit_bars=args.bars,
        report=not args.no_report,
        resume=args.resume,
        forewarner=forewarner,
        books=books_of(config),
        factors=config["factors"] == "auto" and config["feed"] == "synthetic",
        live_factors=live_factors,
        factor_addresses=addresses,
        live=config["feed"] == "binance",
        trade_backfilled=args.trade_backfilled or args.no_backfill,
        base_url=args.base_url,
    )
    check(feed, settings)
    if not args.json:
        say(f"DOLPHIN {__version__}: {name} ({params.hash()}) on {config['feed']} → {folder}")
        say("paper: fills are modelled, no order leaves this machine")
        tell_feed(feed)
    with (
        WorkDisplay(quiet=args.json, direction=params.direction) as display,
        stop_on_signal() as stop_requested,
    ):
        news = LiveNews(feed, display.line, stop_requested, books=bool(settings.books))

        def on_progress(p: Progress) -> None:
            display.progress(p.phase, p.bars, p.bars_total, scan=p.scans, trade=p.trades)

        def on_step(step: Step) -> None:
            display.step(step)
            news.step(step)

        summary = run(feed, settings, on_progress, stop_requested, on_step)
    if forewarner is not None and summary.get("forewarner"):
        told, days = summary["forewarner"], [day["date"] for day in summary["days_results"]]
        summary["forewarner"] = forewarner_told(told["gates"], training_days(forewarner), days)
    if args.json:
        print_json(summary)
    else:
        print_summary(summary)
        news.tell_notes()
        if summary["interrupted"]:
            say("interrupted: day and position are kept")
            say(f"go on with the same command and --out {folder} --resume")
    if summary["interrupted"]:
        return 130
    return 0 if summary["ledger_balanced"] and not summary["halted"] else 1
