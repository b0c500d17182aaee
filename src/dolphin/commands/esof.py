"""`dolphin esof`: the esoteric factors as a service, and with `--now` told once to a person."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dolphin.commands import service
from dolphin.commands.shared import plural, print_json, share, tell
from dolphin.domain.errors import DolphinError, UsageError

if TYPE_CHECKING:
    from dolphin.risk.advisor import Part
    from dolphin.services.esof_look import Look

_EPILOG = """examples:
  dolphin esof --now
  dolphin esof --now --home runs/RUN --all
  dolphin esof --at 2026-12-09T00:00:00Z --home DIR

Without --now or --at it is a service: once a minute the score of now goes to
the grid. It runs until SIGTERM or SIGINT, with its log on the terminal and in
DIR/logs; `dolphin up --with esof` runs it with the others.

With them it tells calendar, moon, Mercury and what the closed trades say of
them, once, from the journal in the folder. It needs no grid and starts nothing.
"""


_HALF_MINUTE_NS = 30_000_000_000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the service and of the look."""
    service.arguments(parser)
    parser.epilog = _EPILOG
    when = parser.add_mutually_exclusive_group()
    when.add_argument(
        "--now", action="store_true", help="tell the factors of now once; --home may be a run's folder too"
    )
    when.add_argument("--at", metavar="TIME", help="the same of another instant, ISO 8601 in UTC")
    parser.add_argument("--all", action="store_true", help="with them: every bucket that has trades")


def execute(args: argparse.Namespace) -> int:
    """Run the service, or tell once; 0."""
    if not args.now and args.at is None:
        if args.all:
            raise UsageError("--all is for --now or --at; add one of them, or leave it out")
        return service.execute(args)
    from dolphin.services.esof_look import look

    folder = Path(args.home)
    found = look(folder, _now_ns(folder) if args.at is None else _instant(args.at))
    if args.json:
        print_json(as_json(found, every=args.all))
    else:
        for line in lines(found, every=args.all):
            tell(line)
    return 0


def _now_ns(folder: Path) -> int:
    """A system's clock where there are settings, else the machine's."""
    from dolphin.services.clock import SystemClock
    from dolphin.services.home import Home

    try:
        settings = Home(folder).load()
    except DolphinError:
        return time.time_ns()
    return SystemClock(settings.speed, settings.clock_origin_ns).now_ns()


def _instant(text: str) -> int:
    from dolphin.domain.clock import ns_from_iso

    try:
        return ns_from_iso(text)
    except (DolphinError, ValueError) as error:
        raise UsageError(f"--at {text}: expected an instant like 2026-12-09T00:00:00Z") from error


def as_json(found: Look, *, every: bool) -> dict[str, Any]:
    """The look for machines; instants are ISO 8601, expectancies net results by notional."""
    import msgspec

    from dolphin.domain.clock import iso_from_ns
    from dolphin.services.esof_look import buckets_of

    def part_of(part: Part, own: float | None) -> dict[str, Any]:
        return {**msgspec.to_builtins(part), "own": own}

    told: dict[str, Any] = {
        "at": iso_from_ns(found.at_ns),
        "folder": str(found.folder),
        "n_trades": found.advice.n_trades,
        "calendar": {
            **msgspec.to_builtins(found.instant.calendar),
            "overlap": found.instant.calendar.overlap,
        },
        "sky": found.instant.sky,
        "missing": found.instant.missing,
        "coming": [
            {"what": each.what, "word": each.word, "at": iso_from_ns(each.at_ns)} for each in found.coming
        ],
        "categories": [part_of(part, found.own.get(part.category)) for part in found.advice.parts],
        "score": found.advice.score,
        "lane": found.lane,
        "why": found.why,
    }
    if every:
        told["buckets"] = {
            part.category: [part_of(each, own) for each, own in buckets_of(found, part.category)]
            for part in found.advice.parts
        }
    return told


def lines(found: Look, *, every: bool) -> Iterator[str]:
    """The look for people."""
    from dolphin.domain.clock import iso_from_ns
    from dolphin.factors.calendar import WEEKDAYS
    from dolphin.services.esof_told import band_of

    calendar = found.instant.calendar
    when = iso_from_ns(found.at_ns)[:16].replace("T", " ")
    yield f"ESOTERIC FACTORS  {WEEKDAYS[calendar.weekday]} {when} UTC"
    yield ""
    open_now = " and ".join(calendar.sessions) if calendar.sessions else "no session"
    yield (
        f"  calendar   {open_now} open, hour {calendar.hour_of_week} of the week,"
        f" funding in {_hours(calendar.hours_to_funding)}"
    )
    yield (
        f"             expiry in {_days(calendar.days_to_monthly_expiry)},"
        f" quarterly in {_days(calendar.days_to_quarterly_expiry)}"
    )
    yield from _sky(found)
    yield f"  trades     {_history(found)}"
    yield ""
    yield from _table(found, every=every)
    yield ""
    advice = found.advice
    trades = plural(advice.n_trades, "trade")
    yield f"  score      {round(advice.score, 3) + 0.0:+.3f} of {trades}, on a scale from -1 to +1"
    yield f"  lane       {found.lane:.2f}: {band_of(advice.score)}{'' if advice.n_trades else '; no history'}"
    yield "             every size is multiplied by it where the esof service runs; without"
    yield "             the service the lane is 1.00 and says `absent`"


def _sky(found: Look) -> Iterator[str]:
    from dolphin.domain.clock import iso_from_ns

    sky = found.instant.sky
    if sky is None:
        yield f"  sky        unknown: {found.instant.missing['moon']}"
        return
    phase = sky["moon_phase_deg"]
    yield (
        f"  moon       {_moon(phase)}, {share(sky['moon_illuminated'], 0)} lit, {phase:.0f}° past new;"
        f" counts as {sky['quarter']}"
    )
    yield f"  mercury    {sky['mercury_motion']}, {sky['mercury_speed_deg_per_day']:+.2f}° a day"
    # To the nearest minute, as almanacs have it.
    coming = (
        f"{_event(each.what, each.word)} {iso_from_ns(each.at_ns + _HALF_MINUTE_NS)[:16].replace('T', ' ')}"
        for each in found.coming
    )
    yield f"  coming     {', '.join(coming) or 'nothing known'}"


def _event(what: str, word: str) -> str:
    if what == "mercury":
        return f"Mercury {word}"
    return f"{word} moon" if word in ("new", "full") else word


def _moon(phase_deg: float) -> str:
    """The everyday word of a phase: within 6 degrees, half a day, of a quarter it is the quarter's."""
    from dolphin.factors.sky import QUARTERS

    nearest = round(phase_deg / 90.0)
    if abs(phase_deg - 90.0 * nearest) <= 6.0:
        return QUARTERS[nearest % 4]
    return ("waxing crescent", "waxing gibbous", "waning gibbous", "waning crescent")[int(phase_deg // 90.0)]


def _history(found: Look) -> str:
    from dolphin.domain.clock import iso_from_ns

    if found.first_ns is None or found.last_ns is None:
        return f"none closed yet, by {found.folder}"
    return (
        f"{found.advice.n_trades:,} closed, {iso_from_ns(found.first_ns)[:10]} to"
        f" {iso_from_ns(found.last_ns)[:10]}, by {found.folder}"
    )


def _table(found: Look, *, every: bool) -> Iterator[str]:
    from dolphin.services.esof_look import buckets_of

    if not found.outcomes:
        yield "  by bucket  nothing to judge by: every category is silent"
        return
    yield f"  {'':17}{'of now':<16}{'trades':>10}{'own':>8}{'shrunk':>8}{'95 % interval':>18}{'adds':>9}"
    for part in found.advice.parts:
        yield _row(part.category.replace("_", " "), part, found.own.get(part.category), part.contribution)
    yield ""
    yield "  own: the mean net result of the bucket's trades, basis points of notional."
    yield "  shrunk: what is left of it once chance is taken out (empirical Bayes). adds:"
    yield "  the category's share of the score; categories that tell more weigh more."
    if every:
        for part in found.advice.parts:
            yield ""
            yield f"  {part.category.replace('_', ' ')}"
            for each, own in buckets_of(found, part.category):
                mark = "now" if each.bucket == part.bucket else ""
                yield _row(mark, each, own, None)


def _row(head: str, part: Part, own: float | None, adds: float | None) -> str:
    row = f"  {head:<17}{part.bucket:<16}{f'{part.n} of {part.n_trades}':>10}{_bps(own):>8}"
    if part.why:
        return f"{row}   {part.why.partition(':')[0]}"
    interval = f"{_bps(part.low)} to {_bps(part.high)}"
    added = "" if adds is None else f"{round(adds, 3) + 0.0:+.3f}"
    return f"{row}{_bps(part.expectancy):>8}{interval:>18}{added:>9}".rstrip()


def _bps(value: float | None) -> str:
    # No minus before a zero.
    return "–" if value is None else f"{round(value * 1e4, 1) + 0.0:+.1f}"


def _hours(hours: float) -> str:
    minutes = round(hours * 60.0)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _days(days: float) -> str:
    return _hours(days * 24.0) if days < 2.0 else f"{days:.0f} days"
