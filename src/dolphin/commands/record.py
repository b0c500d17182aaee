"""`dolphin record`: record the exchange's public messages."""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dolphin.commands.data_download import symbols_of
from dolphin.commands.shared import add_json, plural, print_json, say, stop_on_signal, tell
from dolphin.domain.errors import UsageError

if TYPE_CHECKING:
    from dolphin.feeds.record import Recorded

_EPILOG = """examples:
  dolphin record --out live --symbols BTCUSDT,ETHUSDT --minutes 60
  dolphin data books live --symbol BTCUSDT --out ROWS.parquet

Streams: book differences every 100 ms with snapshots, best bid and ask,
aggregate trades, mark price; texts as received. Parts are written once a
minute, by UTC day, and never removed. Ctrl-C ends in order.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("--out", metavar="DIR", required=True, help="folder that takes the recording")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--symbols", metavar="A,B", help="the exchange's names (default: the packaged universe)"
    )
    which.add_argument("--universe", metavar="FILE", help="file with the symbols: CSV or YAML")
    parser.add_argument("--minutes", metavar="M", help="how long (default: until Ctrl-C)")
    parser.add_argument("--base-url", metavar="URL", help="another address than the exchange's own")
    add_json(parser)


def _seconds(minutes: str | None) -> float | None:
    if minutes is None:
        return None
    try:
        seconds = float(minutes) * 60.0
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < 1e9:
        raise UsageError(f"--minutes {minutes!r}: expected a number above 0")
    return seconds


def _prepare(out: Path) -> list[Path]:
    """The folders that were made for the recording, innermost first. Raises what refuses it."""
    from dolphin.feeds.raw_recorder import RAW_FOLDER
    from dolphin.journal.store import require_writable

    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; give the folder that takes the recording")
    made = [folder for folder in (out / RAW_FOLDER, out) if not folder.exists()]
    require_writable(out / RAW_FOLDER)
    return made


def execute(args: argparse.Namespace) -> int:
    """Record; 0 when messages were recorded, 1 when none were."""
    from dolphin.services.runtime import settle

    settle()
    symbols, seconds = symbols_of(args.symbols, args.universe), _seconds(args.minutes)
    from dolphin.feeds.client import base_address
    from dolphin.feeds.record import record

    if args.base_url is not None:
        base_address(args.base_url)
    out = Path(args.out)
    prepared = _prepare(out)

    started = told_s = time.monotonic()
    if not args.json:
        say(f"recording {plural(len(symbols), 'symbol')} → {args.out}; Ctrl-C ends it")

    def on_progress(so_far: Recorded) -> None:
        nonlocal told_s
        if not args.json and time.monotonic() - told_s >= 60.0:
            told_s = time.monotonic()
            say(f"{plural(so_far.messages, 'message')} in {plural(so_far.parts, 'part')}")

    try:
        with stop_on_signal("") as stop_requested:
            result = record(
                symbols, out, base_url=args.base_url, seconds=seconds, stop_requested=stop_requested,
                on_progress=on_progress, news=say,
            )  # fmt: skip
    finally:
        for folder in prepared:
            with contextlib.suppress(OSError):
                folder.rmdir()
    counts = {name: result.counts[name] for name in ("errors", "silent", "renewals")}
    if args.json:
        print_json(
            {
                "folder": str(result.folder),
                "messages": result.messages,
                "parts": result.parts,
                "dropped": result.dropped,
                "absent": list(result.absent),
                **counts,
                "last_error": result.last_error,
                "wall_s": round(time.monotonic() - started, 3),
            }
        )
        return 0 if result.messages else 1
    tell(f"{plural(result.messages, 'message')} in {plural(result.parts, 'part')} → {result.folder}")
    if result.dropped:
        tell(f"  dropped    {plural(result.dropped, 'message')}: the disk was too slow")
    if result.absent:
        tell(f"  none       {', '.join(result.absent)}: not traded on the exchange")
    if counts["errors"]:
        tell(f"  anew       {plural(counts['errors'], 'time')}, last after {result.last_error}")
    return 0 if result.messages else 1
