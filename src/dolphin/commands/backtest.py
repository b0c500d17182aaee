"""`dolphin backtest`: the same alpha over a scan cache."""

from __future__ import annotations

import argparse
from pathlib import Path

from dolphin import __version__
from dolphin.commands.run import default_folder
from dolphin.commands.shared import (
    add_json,
    add_settings,
    deployment_of,
    load_config,
    parameter_set,
    print_json,
    say,
    stop_on_signal,
)
from dolphin.domain.errors import DataError, UsageError

_EPILOG = """examples:
  dolphin data build --feed recorded prices.parquet --out CACHE
  dolphin backtest --cache CACHE --set gold
  dolphin backtest --cache CACHE --from 2021-04-10 --to 2021-04-12 --json

A day that is half built, has holes or is not what its manifest says is refused
unless --allow-partial.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("--cache", required=True, metavar="CACHE", help="folder made by `dolphin data build`")
    parser.add_argument("--from", dest="first_day", metavar="YYYY-MM-DD", help="first day (default: all)")
    parser.add_argument("--to", dest="last_day", metavar="YYYY-MM-DD", help="last day (default: all)")
    parser.add_argument("--allow-partial", action="store_true", help="run incomplete days too, and say so")
    parser.add_argument("--no-report", action="store_true", help="write no HTML report")
    add_settings(parser, "set", "out", "deployment", "vol_threshold", "posture_when_unknown")
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Run; 0 when the ledger balances, 1 when not, 130 when interrupted."""
    config = load_config(args)
    name, params = parameter_set(config)
    for option in ("first_day", "last_day"):
        _check_day(getattr(args, option))
    folder = Path(config["out"]) if config["out"] else default_folder(name, "cache")

    from dolphin.backtest.replay import BacktestSettings, check, replay
    from dolphin.commands.telling import WorkDisplay, print_summary
    from dolphin.domain.codes import posture_code
    from dolphin.host.session import Step
    from dolphin.market.scan_cache import CacheReader, PartialDayError

    settings = BacktestSettings(
        set_name=name,
        params=params,
        folder=folder,
        deployment=deployment_of(config, params),
        vol_threshold=config["vol_threshold"],
        posture_when_unknown=posture_code(config["posture_when_unknown"]),
        allow_partial=args.allow_partial,
        first_day=args.first_day,
        last_day=args.last_day,
        report=not args.no_report,
    )
    cache = CacheReader(Path(args.cache))
    try:
        checked = check(cache, settings)
    except PartialDayError as error:
        raise DataError(f"{error}, or add --allow-partial") from error
    if not args.json:
        say(f"DOLPHIN {__version__}: backtest of {name} ({params.hash()}) on {args.cache} → {folder}")
    with (
        WorkDisplay(quiet=args.json, direction=params.direction) as display,
        stop_on_signal() as stop_requested,
    ):
        trades = 0

        def on_step(step: Step, done: int, total: int) -> None:
            nonlocal trades
            trades += step.closed is not None
            display.step(step)
            display.progress("backtest", done, total, trade=trades)

        summary = replay(cache, settings, on_step, stop_requested, checked)
    if args.json:
        print_json(summary)
    else:
        print_summary(summary)
    if summary["interrupted"]:
        return 130
    return 0 if summary["ledger_balanced"] and not summary["halted"] else 1


def _check_day(text: str | None) -> None:
    if text is None:
        return
    from dolphin.domain.clock import day_start_ns

    try:
        day_start_ns(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no day; expected YYYY-MM-DD, like 2021-04-10") from error
