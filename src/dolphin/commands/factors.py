"""`dolphin factors`: what the circuit breaker would have said on recorded days."""

from __future__ import annotations

import argparse
import hashlib
import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dolphin.commands.shared import add_json, kernels_cached, plural, print_json, say, share, tell
from dolphin.domain.errors import DataError, StoreError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from dolphin.factors.breaker_history import Records, Velocities
    from dolphin.market.velocities import RecordedVelocities

#: Seconds between two lines of progress.
TOLD_EVERY_S = 5.0

_EPILOG = """examples:
  dolphin factors breaker --factors DIR --out BREAKER
  dolphin factors breaker --factors DIR --prices prices.parquet --out BREAKER

Its verb takes --json.
"""

_BREAKER_EPILOG = """examples:
  dolphin factors breaker --factors DIR --prices prices.parquet --out BREAKER
  dolphin factors breaker --factors ARCHIVE --out BREAKER

DIR holds recordings of factors, an archive with eigenvalues/YYYY-MM-DD/, or
the days exf/date=YYYY-MM-DD/ that a system has kept. --prices is a panel,
which is scanned for w750, or a scan cache; without it, and without the
scans of an archive, beta is unknown and says so. Writes breaker.csv,
breaker.parquet and breaker.html. A day counts what was known on it.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand."""
    parser.epilog = _EPILOG
    verbs = parser.add_subparsers(dest="verb", metavar="breaker", required=True)
    breaker = verbs.add_parser("breaker", help="boost and beta of recorded days: a table and a page",
                               description="Boost and beta of recorded days: a table and a page.",
                               epilog=_BREAKER_EPILOG)  # fmt: skip
    breaker.add_argument("--factors", required=True, metavar="DIR", help="recorded factors")
    breaker.add_argument("--prices", metavar="PATH", help="price panel or scan cache, for beta and BTC")
    breaker.add_argument("--assets", type=int, metavar="N", help="of a panel, from the front (default 50)")
    breaker.add_argument("--from", dest="first_day", metavar="YYYY-MM-DD", help="default: the first there is")
    breaker.add_argument("--to", dest="last_day", metavar="YYYY-MM-DD", help="default: the last there is")
    breaker.add_argument("--out", required=True, metavar="DIR", help="folder that takes table and page")
    breaker.set_defaults(parser=breaker)
    breaker.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    add_json(breaker)


def execute(args: argparse.Namespace) -> int:
    """Write table and page; 0 when they are written."""
    from dolphin.domain.clock import NS_PER_S
    from dolphin.factors.archive import Archive, is_archive
    from dolphin.factors.breaker_history import Fault, breaker_days, table_of
    from dolphin.host.finish import write_text
    from dolphin.journal.store import require_writable
    from dolphin.report.breaker import render

    _check_dates(args)
    if args.assets is not None and args.prices is None:
        raise UsageError(
            "--assets says how many of a panel's are scanned: give --prices too, or leave it out"
        )
    folder, out = Path(args.factors), Path(args.out)
    if folder.is_file():
        raise UsageError(f"--factors {folder}: is a file; give the folder with the recorded factors")
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such folder; name the one with the recorded factors")
    require_writable(out)
    prices = _velocities(args)
    faults: list[Fault] = []
    archive = Archive(folder) if is_archive(folder) else None
    days, records, velocities = _inputs(args, folder, archive, prices, faults)
    if not args.json:
        say(f"breaker: {plural(len(days), 'day')}, {days[0]} to {days[-1]}")
    history = list(breaker_days(days, records, velocities))
    table = table_of(history, prices.btc_close if prices is not None else None)
    text = _csv(table)
    found: dict[str, Any] = {
        "factors": folder.resolve().name,
        "first_day": days[0],
        "last_day": days[-1],
        "faults": [f"{fault.day}: {fault.text}" for fault in faults],
        "prices": None
        if prices is None
        else {
            "name": prices.name,
            "n_assets": prices.n_assets,
            "interval_s": prices.interval_ns / NS_PER_S,
            "first_day": prices.first_day,
            "last_day": prices.last_day,
            "scanned": prices.scanned,
            "source_id": prices.source_id,
            "notes": list(prices.notes),
        },
        "table_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    if archive is not None:
        found["faults"] += archive.refused
    write_text(out / "breaker.csv", text)
    _write_parquet(out / "breaker.parquet", table)
    write_text(out / "breaker.html", render(found, table.to_pylist()))
    found |= _figures(table) | {"folder": str(out)}
    if args.json:
        print_json(found)
    else:
        _tell(found, out)
    return 0


def _check_dates(args: argparse.Namespace) -> None:
    import re
    from datetime import date

    for option, text in (("--from", args.first_day), ("--to", args.last_day)):
        if text is None:
            continue
        try:
            if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
                raise ValueError
            date.fromisoformat(text)
        except ValueError:
            raise UsageError(f"{option} {text!r}: expected a date like 2022-11-06") from None
    if args.first_day and args.last_day and args.first_day > args.last_day:
        raise UsageError(f"--from {args.first_day} is after --to {args.last_day}; swap them")


def _velocities(args: argparse.Namespace) -> RecordedVelocities | None:
    if args.prices is None:
        return None
    from dolphin.market.velocities import read_velocities

    told_at = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal told_at
        if not args.json and time.monotonic() - told_at >= TOLD_EVERY_S:
            told_at = time.monotonic()
            say(f"scan: bar {done:,} of {total:,}")

    if not args.json:
        say(f"w750 velocities from {args.prices}")
        if not kernels_cached():
            say("compiling the kernels: about half a minute, once")
    found = read_velocities(Path(args.prices), args.assets, on_progress)
    if not args.json:
        for note in found.notes:
            say(f"note: {note}")
    return found


def _inputs(
    args: argparse.Namespace, folder: Path, archive: Any, prices: RecordedVelocities | None, faults: list[Any]
) -> tuple[list[str], Records, Velocities]:
    """The days, and what gives a day's records and velocities. Raises DataError, StoreError."""
    from dolphin.domain.clock import day_from_ns
    from dolphin.factors.breaker_history import DayVelocities, days_between, polled_records
    from dolphin.factors.sources import open_sources
    from dolphin.risk.breaker_day import RECORDS_MAX

    velocities: Velocities = lambda day: ()  # noqa: E731
    if archive is not None:
        there = archive.days()
        span = (there[0], there[-1]) if there else None
        records: Records = lambda day: archive.records(day, RECORDS_MAX) if day in set(there) else ()  # noqa: E731
        if prices is None:
            velocities = lambda day: archive.velocities(day) if day in set(there) else ()  # noqa: E731
    else:
        sources = open_sources(folder)
        ends = []
        for source in sources.values():
            try:
                known_ns = source.series().known_ns
            except (DataError, StoreError):
                continue  # told by the records as a fault of this source
            if len(known_ns):
                ends.append((day_from_ns(int(known_ns[0])), day_from_ns(int(known_ns[-1]))))
        span = (min(first for first, _ in ends), max(last for _, last in ends)) if ends else None
        records = polled_records(sources, faults)
    if span is None:
        raise DataError(f"{folder}: no factor can be read there; name a folder with recorded factors")
    covered = f"{folder}: has factors from {span[0]} to {span[1]}"
    first, last = args.first_day or span[0], args.last_day or span[1]
    if max(first, span[0]) > last or first > span[1]:
        raise DataError(f"{covered}; nothing between {first} and {last}")
    if first < span[0]:
        say(f"note: {covered}, nothing before; it begins there")
        first = span[0]
    if prices is not None:
        velocities = DayVelocities(prices.stamps_ns, prices.w750)
        if not args.first_day and not args.last_day:
            first, last = max(first, prices.first_day), min(last, prices.last_day)
        if first > last:
            raise DataError(
                f"{covered}, {args.prices} has prices from {prices.first_day} to {prices.last_day};"
                " no day has both"
            )
    return days_between(first, last), records, velocities


def _csv(table: pa.Table) -> str:
    """The table as text: shortest numbers that read back equal, nothing for what is not known."""
    lines = io.StringIO()
    lines.write(",".join(table.column_names) + "\n")
    for row in table.to_pylist():
        lines.write(",".join("" if value is None else str(value) for value in row.values()) + "\n")
    return lines.getvalue()


def _write_parquet(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    draft = path.with_name(f".{path.name}.new")
    try:
        pq.write_table(table, draft, compression="zstd")
        draft.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror}); free some space") from error


def _figures(table: pa.Table) -> dict[str, Any]:
    from dolphin.risk.breaker_day import FACTORS

    boosts, betas = table["boost"].to_pylist(), table["beta"].to_pylist()
    missing = [set(text.split()) for text in table["missing"].to_pylist()]
    names = (*FACTORS, "w750", "books")
    known = [beta for beta in betas if beta is not None]
    return {
        "days": len(boosts),
        "days_boosted": sum(1 for boost in boosts if boost > 1.0),
        "boost_max": max(boosts),
        "days_beta_known": len(known),
        "days_beta_high": sum(1 for beta in known if beta >= 0.8),
        "days_missing": {name: n for name in names if (n := sum(1 for each in missing if name in each))},
    }


def _tell(found: dict[str, Any], out: Path) -> None:
    n, known = found["days"], found["days_beta_known"]
    tell(f"{plural(n, 'day')}, {found['first_day']} to {found['last_day']}")
    boosted, most = found["days_boosted"], found["boost_max"]
    tell(f"  boost      above 1 on {boosted:,} ({share(boosted / n)}), at most {most:.3f}")
    if known:
        high = found["days_beta_high"]
        days = f"{plural(known, 'day')} with w750 ({share(high / known)})"
        tell(f"  beta       0.8 on {high:,} of {days}, unknown on {n - known:,}")
    else:
        prices = found["prices"]
        why = (
            "give --prices"
            if prices is None
            else f"the prices reach from {prices['first_day']} to {prices['last_day']}"
        )
        tell(f"  beta       unknown: no w750 velocities; {why}")
    for name, days in found["days_missing"].items():
        tell(f"  missing    {name} on {'all days' if days == n else plural(days, 'day')}")
    for line in found["faults"][:5]:
        tell(f"  fault      {line}")
    tell(f"  table      {out / 'breaker.csv'}")
    tell(f"  page       {out / 'breaker.html'}")
