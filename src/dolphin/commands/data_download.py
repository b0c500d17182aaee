"""`dolphin data download`: public klines of the exchange into one Parquet file."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dolphin.commands.shared import plural, print_json, say, stop_on_signal, tell
from dolphin.domain.errors import UsageError

_EPILOG = """examples:
  dolphin data download --symbols BTCUSDT --from 2026-11-01 --out K.parquet
  dolphin data download --universe U.csv --from 2026-11-01T12:00 --out K.parquet

Columns: ts (opening time), symbol, open, high, low, close, volume. Nothing is
filled: a kline that the exchange does not have is a missing row, and named. The
running kline is left out. What was stopped goes on with the same command; the
file appears when all is there.
Use the file with `dolphin run --feed recorded` and `dolphin data check`.
"""


def add_to(verbs: Any) -> argparse.ArgumentParser:
    """Declare the subcommand among the verbs of `dolphin data`."""
    text = "download public klines from the exchange"
    parser: argparse.ArgumentParser = verbs.add_parser(
        "download", help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=_EPILOG
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--symbols", metavar="A,B", help="the exchange's names, with commas between")
    which.add_argument("--universe", metavar="FILE", help="file with the symbols: CSV or YAML")
    parser.add_argument(
        "--interval", default="1m", metavar="1m|5m|1h|...", help="length of a kline (default 1m)"
    )
    parser.add_argument(
        "--from",
        dest="begin",
        required=True,
        metavar="TIME",
        help="first opening time, UTC: a day or ISO time",
    )
    parser.add_argument("--to", dest="end", metavar="TIME", help="end, not included (default: now)")
    parser.add_argument("--out", metavar="FILE", required=True, help="file that takes the klines (Parquet)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file that is there")
    parser.add_argument("--base-url", metavar="URL", help="another address than the exchange's own")
    return parser


def symbols_of(text: str | None, universe: str | None) -> tuple[str, ...]:
    """Symbols from `A,B` or from a universe file, the packaged universe for neither. Raises DolphinError."""
    from dolphin.domain.symbols import check_universe
    from dolphin.market.universe import default_universe, read_universe

    if text is not None:
        return check_universe([part.strip() for part in text.split(",") if part.strip()], "--symbols")
    return read_universe(Path(universe)) if universe else default_universe()


def time_ms(text: str, option: str) -> int:
    """ms UTC of a day or an ISO time; without an offset it is UTC. Raises UsageError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{option} {text!r}: expected a day or a time, like 2026-11-01 or 2026-11-01T12:00"
        ) from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000)


def _checked_out(text: str, universe: str | None, *, overwrite: bool) -> Path:
    """The file that takes the klines. Raises UsageError for one that is something else already."""
    out = Path(text)
    if out.is_dir():
        raise UsageError(f"--out {text}: is a folder; give the file that takes the klines")
    if not out.exists():
        return out
    if universe is not None and Path(universe).exists() and out.samefile(universe):
        raise UsageError(f"--out {text}: is the universe file itself; give another file")
    if not overwrite:
        raise UsageError(
            f"--out {text}: is there already; add --overwrite to replace it, or give another file"
        )
    return out


def execute(args: argparse.Namespace) -> int:
    """Download; 0 when whole, 130 when interrupted."""
    symbols = symbols_of(args.symbols, args.universe)
    begin_ms = time_ms(args.begin, "--from")
    end_ms = time_ms(args.end, "--to") if args.end else int(time.time() * 1_000)
    out = _checked_out(args.out, args.universe, overwrite=args.overwrite)

    from dolphin.commands.telling import WorkDisplay
    from dolphin.feeds.klines import download
    from dolphin.market.feed import note_of_gaps

    started = time.monotonic()
    with WorkDisplay(quiet=args.json) as display, stop_on_signal(" after this page") as stop_requested:
        result = download(
            symbols, args.interval, begin_ms, end_ms, out, base_url=args.base_url,
            on_page=lambda done, total: display.progress("klines", done, total, unit="page"),
            stop_requested=stop_requested, news=display.line,
        )  # fmt: skip
    told = {
        "file": str(out),
        "rows": result.rows,
        "pages_asked": result.pages_asked,
        "pages_there": result.pages_there,
        "tries_again": result.tries_again,
        "gaps": {symbol: note_of_gaps(gaps) for symbol, gaps in result.gaps.items()},
        "absent": list(result.absent),
        "interrupted": result.interrupted,
        "wall_s": round(time.monotonic() - started, 3),
    }
    if args.json:
        print_json(told)
    elif result.interrupted:
        say("interrupted: whole pages are kept; go on with the same command")
    else:
        tell(f"{plural(result.rows, 'kline')} of {plural(len(symbols), 'symbol')} → {out}")
        for symbol, note in sorted(told["gaps"].items()):  # type: ignore[attr-defined]
            tell(f"  gap        {symbol}: {note}")
        if result.absent:
            tell(f"  none       {', '.join(result.absent)}: no kline in that time")
    return 130 if result.interrupted else 0
