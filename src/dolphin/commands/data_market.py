"""`dolphin data market`: a recording of raw messages made into what a run reads."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dolphin.commands.shared import plural, print_json, share, tell
from dolphin.domain.errors import UsageError

if TYPE_CHECKING:
    from dolphin.market.recorded_market import RecordedMarket

_EPILOG = """examples:
  dolphin record --out live --minutes 120
  dolphin data market live --out replay
  dolphin run --feed recorded replay/prices.parquet --books replay/ob_snapshots

A bar closes at the newest trade that had arrived, as a live feed's would; one
older than --fresh is missing. Books are rebuilt symbol by symbol; where
messages are missing there is none until a later snapshot. A table of trades
(ts, symbol, price) gives prices alone.
"""


def add_to(verbs: Any) -> argparse.ArgumentParser:
    """Declare the subcommand among the verbs of `dolphin data`."""
    text = "make recorded messages into prices and books that a run reads"
    parser: argparse.ArgumentParser = verbs.add_parser(
        "market", help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=_EPILOG
    )
    parser.add_argument(
        "paths", nargs="+", metavar="RAW", help="recording of raw messages, or trades: files or a folder"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder that takes prices and books")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--symbols", metavar="A,B", help="these symbols (default: all that traded)")
    which.add_argument("--universe", metavar="FILE", help="file with the symbols: CSV or YAML")
    parser.add_argument("--interval", metavar="S", default="5", help="length of a bar, seconds (default 5)")
    parser.add_argument("--fresh", metavar="S", default="30", help="oldest trade of a bar (default 30)")
    parser.add_argument(
        "--books-every", metavar="S", default="1", help="distance of two books, 0 for none (default 1)"
    )
    return parser


def _ns(text: str, option: str, least_s: float) -> int:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not least_s <= seconds <= 86_400.0:
        raise UsageError(f"{option} {text!r}: expected seconds from {least_s:g} to 86400")
    return round(seconds * 1e9)


def execute(args: argparse.Namespace) -> int:
    """Build and tell; 0 when a market was made."""
    from dolphin.commands.data_download import symbols_of
    from dolphin.commands.telling import WorkDisplay
    from dolphin.market.book_messages import raw_files
    from dolphin.market.parquet_magic import require_parquet
    from dolphin.market.recorded_market import build_market

    symbols = symbols_of(args.symbols, args.universe) if args.symbols or args.universe else None
    interval_ns, fresh_ns = _ns(args.interval, "--interval", 0.1), _ns(args.fresh, "--fresh", 0.0)
    every_ns = _ns(args.books_every, "--books-every", 0.0)
    raw = raw_files([Path(path) for path in args.paths])
    for path in raw:
        require_parquet(path, "expected a recording of raw messages")
    started = time.monotonic()
    with WorkDisplay(quiet=args.json) as display:
        made = build_market(
            raw,
            Path(args.out),
            symbols=symbols,
            interval_ns=interval_ns,
            fresh_ns=fresh_ns,
            books_every_ns=every_ns or None,
            on_symbol=lambda done, total: display.progress("books", done, total, unit="symbol"),
        )
    result = _result(made, time.monotonic() - started)
    if args.json:
        print_json(result)
    else:
        _tell(made, result)
    return 0


def _result(made: RecordedMarket, wall_s: float) -> dict[str, Any]:
    import numpy as np

    from dolphin.domain.clock import iso_from_ns

    bars = made.bars
    missing = np.isnan(bars.closes).mean(axis=0)
    refused: dict[str, int] = {}
    for (_, rule), n in (made.refused + bars.rejections).items():
        refused[rule] = refused.get(rule, 0) + n
    return {
        "prices": str(made.panel),
        "books": None if made.books is None else str(made.books),
        "first": iso_from_ns(int(bars.close_ns[0])),
        "last": iso_from_ns(int(bars.close_ns[-1])),
        "bars": len(bars.close_ns),
        "trades": bars.n_trades,
        "missing": {s: round(float(m), 4) for s, m in zip(bars.symbols, missing, strict=True)},
        "refused": refused,
        "snapshots": made.snapshots,
        "resyncs": made.resyncs,
        "damage": {word: n for word, n in made.damage.items() if n},
        "bookless": made.bookless,
        "wall_s": round(wall_s, 3),
    }


def _tell(made: RecordedMarket, result: dict[str, Any]) -> None:
    bars = made.bars
    n = len(bars.symbols)
    tell(
        f"{plural(result['bars'], 'bar')} of {plural(n, 'symbol')} from {plural(bars.n_trades, 'trade')}"
        f" in {result['wall_s']:.1f} s → {made.panel}"
    )
    tell(f"  from       {result['first'][:19]}Z to {result['last'][:19]}Z")
    worst = sorted(result["missing"].items(), key=lambda item: (-item[1], item[0]))
    mean = sum(result["missing"].values()) / n
    some = ", ".join(f"{symbol} {share(frac)}" for symbol, frac in worst[:3] if frac > 0.0)
    most = f"; most of {some}" if some else ""
    tell(f"  missing    {share(mean)} of prices, no trade within the limit{most}")
    for rule, count in sorted(result["refused"].items()):
        tell(f"  refused    {count:,} {rule}")
    if made.books is None:
        tell("  books      none in this recording")
    else:
        tell(f"  books      {plural(sum(made.snapshots.values()), 'snapshot')} → {made.books}")
        tell(f"  resyncs    {sum(made.resyncs.values()):,}")
        for word, count in sorted(result["damage"].items()):
            tell(f"  damage     {count:,} {word}")
        for symbol, why in sorted(made.bookless.items()):
            tell(f"  no book    {symbol}: {why}")
    books = "" if made.books is None else f" --books {made.books}"
    tell(f"run it with: dolphin run --feed recorded {made.panel}{books}")
