"""`dolphin backtest`: the same alpha over a scan cache, a day or years."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dolphin import __version__
from dolphin.commands.run import default_folder, open_assessor
from dolphin.commands.shared import (
    add_json,
    add_settings,
    deployment_of,
    load_config,
    parameter_set,
    plural,
    print_json,
    say,
    stop_on_signal,
    tell,
)
from dolphin.domain.errors import DataError, UsageError

if TYPE_CHECKING:
    from dolphin.backtest.settings import BacktestSettings
    from dolphin.commands.telling import WorkDisplay
    from dolphin.market.scan_cache import CacheReader

_EPILOG = """examples:
  dolphin data build --feed recorded prices.parquet --out CACHE
  dolphin backtest --cache CACHE --set gold
  dolphin backtest --cache CACHE --from 2021-04-10 --to 2021-04-12 --json
  dolphin backtest --cache CACHE --verify

A day that is half built or has holes, and a cache whose build has not reached
its end, are refused unless --allow-partial; such a cache is also taken up to a
day that --to names. A file that is not what the manifest says is refused in any
case. The whole period is decided in one kernel; --verify
decides some days again bar by bar and compares every bit. --engine step goes
bar by bar throughout and journals every bar in full. `dolphin explain`,
`reproduce` and `fork` take the folder from there.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("--cache", required=True, metavar="CACHE", help="folder made by `dolphin data build`")
    parser.add_argument("--from", dest="first_day", metavar="YYYY-MM-DD", help="first day (default: all)")
    parser.add_argument("--to", dest="last_day", metavar="YYYY-MM-DD", help="last day (default: all)")
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="run unfinished days and builds too, and say so",
    )
    parser.add_argument("--no-report", action="store_true", help="write no HTML report")
    parser.add_argument(
        "--engine",
        choices=("period", "step"),
        default="period",
        help="the whole period at once, or bar by bar with a journal of every bar (default period)",
    )
    parser.add_argument(
        "--verify",
        type=_days,
        nargs="?",
        const=3,
        metavar="N",
        help="decide N days again bar by bar and compare every bit (default 3: first, last, one drawn)",
    )
    parser.add_argument(
        "--forewarner", metavar="ARTEFACT", help="folder made by `dolphin forewarn train`, for the days' gate"
    )
    add_settings(parser, "set", "out", "deployment", "vol_threshold", "posture_when_unknown")
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Run; 0 when the ledger balances, 1 when not, 130 when interrupted."""
    config = load_config(args)
    name, params = parameter_set(config)
    for option in ("first_day", "last_day"):
        _check_day(getattr(args, option))
    if args.verify and args.engine == "step":
        raise UsageError("--verify compares the period engine with single steps; leave out --engine step")
    folder = Path(config["out"]) if config["out"] else default_folder(name, "cache")
    assessor = open_assessor(args.forewarner)

    from dolphin.backtest.settings import BacktestSettings
    from dolphin.commands.telling import WorkDisplay, print_summary
    from dolphin.domain.codes import posture_code
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
        assessor=assessor,
    )
    cache = CacheReader(Path(args.cache))
    opening = f"DOLPHIN {__version__}: backtest of {name} ({params.hash()}) on {args.cache} → {folder}"
    with WorkDisplay(quiet=args.json, direction=params.direction) as display:
        try:
            run = _step if args.engine == "step" else _period
            summary = run(cache, settings, display, None if args.json else opening, args.verify)
        except PartialDayError as error:
            raise DataError(f"{error}, or add --allow-partial") from error
    if args.json:
        print_json(summary)
    else:
        print_summary(summary)
        _tell_verified(summary.get("verified"))
    if summary["interrupted"]:
        return 130
    return 0 if summary["ledger_balanced"] and not summary["halted"] else 1


def _period(
    cache: CacheReader,
    settings: BacktestSettings,
    display: WorkDisplay,
    opening: str | None,
    verify_days: int | None,
) -> dict[str, Any]:
    from dolphin.backtest import verify, whole

    def on_progress(p: whole.Progress) -> None:
        if p.phase == "reading":
            display.progress("reading days", p.done, p.total, unit="day")
        else:
            display.progress(p.phase, p.done, p.total, trade=p.trades)

    ready = whole.prepare(cache, settings, on_progress)
    if opening:
        say(opening)
    with stop_on_signal() as stop_requested:
        summary = whole.backtest(cache, settings, on_progress, stop_requested, ready)
    if verify_days:
        found = verify.verify(
            ready.market,
            settings,
            verify_days,
            lambda done, total: display.progress("verifying", done, total, unit="day"),
        )
        summary["verified"] = {"days": list(found.days), "bars": found.bars, "trades": found.trades}
    return summary


def _step(
    cache: CacheReader,
    settings: BacktestSettings,
    display: WorkDisplay,
    opening: str | None,
    verify_days: int | None,
) -> dict[str, Any]:
    from dolphin.backtest.replay import check, replay
    from dolphin.host.session import Step

    checked = check(cache, settings)
    if opening:
        say(opening)
    trades = 0

    def on_step(step: Step, done: int, total: int) -> None:
        nonlocal trades
        trades += step.closed is not None
        display.step(step)
        display.progress("backtest", done, total, trade=trades)

    with stop_on_signal() as stop_requested:
        return replay(cache, settings, on_step, stop_requested, checked)


def _tell_verified(found: dict[str, Any] | None) -> None:
    if found is None:
        return
    days = ", ".join(found["days"]) if len(found["days"]) < 6 else plural(len(found["days"]), "day")
    tell(
        f"  verified   {plural(found['bars'], 'bar')} and {plural(found['trades'], 'trade')} bar by bar"
        f" ({days}): every bit is the same"
    )


def _days(text: str) -> int:
    """A number of days from the command line, 1 or more."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days, expected 1 or more")
    return int(text)


def _check_day(text: str | None) -> None:
    if text is None:
        return
    from dolphin.domain.clock import day_start_ns

    try:
        day_start_ns(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no day; expected YYYY-MM-DD, like 2021-04-10") from error
