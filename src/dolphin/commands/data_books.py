"""`dolphin data books`: rebuild a book from recorded raw messages, and hold it against what is known."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dolphin.commands.shared import plural, print_json, share, tell
from dolphin.domain.errors import DataError, UsageError

if TYPE_CHECKING:
    from dolphin.market.book_recording import BookReplay, TopRow
    from dolphin.market.book_rows import Comparison

_EPILOG = """examples:
  dolphin data books RAW.parquet --out ROWS.parquet
  dolphin data books RAW.parquet --out ROWS.parquet --compare TOP20.parquet

RAW has the columns recv_ts, kind, raw and, for several symbols, symbol. Files of
a folder follow one another by name. A row is the best 20 levels at a multiple of
100 ms of exchange time. Where messages are missing, rows stop until a later
snapshot, or until the missing message comes late: what is not known is not
written. Exit 0; 1 where --compare finds a row that is not equal in all columns.
"""

#: What is counted of a recording, as `book_recording.DAMAGE` names it, in words for one and for many.
_DAMAGE_WORDS: Final = {
    "gap": ("gap", "gaps"),
    "duplicate": ("duplicate", "duplicates"),
    "reordered": ("reordered", "reordered"),
    "crossed": ("crossed", "crossed"),
    "snapshot_old": ("snapshot too old", "snapshots too old"),
    "malformed": ("malformed", "malformed"),
    "other_symbol": ("of another symbol", "of another symbol"),
}
_ALWAYS_TOLD: Final = ("gap", "duplicate", "reordered", "crossed")


def add_to(verbs: Any) -> argparse.ArgumentParser:
    """Declare the subcommand among the verbs of `dolphin data`."""
    text = "rebuild an order book from recorded raw messages"
    parser: argparse.ArgumentParser = verbs.add_parser(
        "books", help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=_EPILOG
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="RAW",
        help="recording of raw messages: a file, several in order, or a folder",
    )
    parser.add_argument("--out", metavar="FILE", required=True, help="file that takes the rows (Parquet)")
    parser.add_argument("--symbol", metavar="SYMBOL", help="which symbol of a recording of several")
    parser.add_argument("--compare", metavar="FILE", help="rows to compare with, in all columns")
    return parser


def execute(args: argparse.Namespace) -> int:
    """Build, write, compare."""
    from dolphin.commands.telling import WorkDisplay
    from dolphin.market.book_messages import count_messages, raw_files
    from dolphin.market.book_recording import BookReplay
    from dolphin.market.book_rows import compare_rows, read_rows, write_rows
    from dolphin.market.parquet_magic import require_parquet

    raw, out = raw_files([Path(path) for path in args.paths]), Path(args.out)
    sources = [("the recording", path) for path in raw]
    for name, source in [*sources, *([("--compare", Path(args.compare))] if args.compare else [])]:
        if source.resolve() == out.resolve():
            raise UsageError(f"--out is {name} itself, {source}; give another file")
    for path in raw:
        require_parquet(path, "expected a recording of raw messages")
    total = count_messages(raw)
    theirs = read_rows(Path(args.compare)) if args.compare else None
    started = time.monotonic()
    replay = BookReplay(raw, args.symbol)
    with WorkDisplay(quiet=args.json) as display:

        def watched() -> Iterator[TopRow]:
            for row in replay.rows():
                display.progress("books", replay.n_file_rows, total, unit="message", row=replay.n_rows)
                yield row
            if not replay.n_rows:
                raise DataError(f"{raw[0]}: {_why_nothing(replay)}; nothing written")

        try:
            write_rows(out, watched())
        except DataError as error:
            held = _held(raw, replay)
            if args.symbol is None or not held or args.symbol in held:
                raise
            raise DataError(
                f"{raw[0]}: holds {', '.join(held)}, not {args.symbol}; nothing written"
            ) from error
    compared = None if theirs is None else compare_rows(read_rows(out), theirs)
    result = _result(replay, compared, out, time.monotonic() - started)
    if args.json:
        print_json(result)
    else:
        _tell(replay, compared, result)
    return 0 if compared is None or compared.equal_frac == 1.0 else 1


def _held(raw: list[Path], replay: BookReplay) -> tuple[str, ...]:
    """The symbols that a recording names: in its column, or else the one that its messages are of."""
    from dolphin.market.book_messages import symbols_in

    other = replay.first_damage.get("other_symbol")
    named = re.search(r"is of (\w+),", other[1]) if other else None
    return symbols_in(raw) or ((named[1],) if named else ())


def _why_nothing(replay: BookReplay) -> str:
    """Why a recording gave no row."""
    if not replay.n_messages:
        return "holds no message"
    if not replay.n_snapshots:
        return "holds no depth snapshot, so no book can be founded; record one with the stream"
    if not replay.book.n_syncs:
        damage = next(iter(replay.first_damage.items()), None)
        first = f" (first damage: {damage[0]} in row {damage[1][0]}, {damage[1][1]})" if damage else ""
        return f"no snapshot meets the stream of differences{first}; record one while the stream runs"
    return "the book was never known over a whole boundary of 100 ms"


def _result(replay: BookReplay, compared: Comparison | None, out: Path, wall_s: float) -> dict[str, Any]:
    from dolphin.domain.clock import iso_from_ns

    touch = replay.agreement
    result: dict[str, Any] = {
        "symbol": replay.symbol,
        "messages": replay.n_messages,
        "depth_messages": replay.n_depth,
        "snapshots": replay.n_snapshots,
        "rows": replay.n_rows,
        "rows_missing": replay.n_boundaries_missing,
        "resyncs": replay.n_resyncs,
        "damage": dict(replay.damage),
        "first_damage": {
            word: {"row": row, "text": text} for word, (row, text) in replay.first_damage.items()
        },
        "known_at_end": replay.known_at_end,
        "lost": None if replay.lost_ns is None else iso_from_ns(replay.lost_ns),
        "book_ticker": {
            "compared": touch.n_compared,
            "equal": touch.n_equal,
            "same_id": touch.n_same_id,
            "same_id_equal": touch.n_same_id_equal,
            "first_unequal_id": touch.first_unequal_id,
        },
        "file": str(out),
        "wall_s": round(wall_s, 3),
    }
    if compared is not None:
        first = compared.first_difference
        result["compare"] = {
            "ours": compared.n_ours,
            "theirs": compared.n_theirs,
            "both": compared.n_both,
            "equal": compared.n_equal,
            "equal_frac": compared.equal_frac,
            "first_difference": None
            if first is None
            else dict(
                zip(("ts", "column", "ours", "theirs"), (iso_from_ns(first[0]), *first[1:]), strict=True)
            ),
        }
    return result


def _tell(replay: BookReplay, compared: Comparison | None, result: dict[str, Any]) -> None:
    tell(f"{plural(replay.n_rows, 'row')} of {replay.symbol} in {result['wall_s']:.1f} s → {result['file']}")
    depth, snapshots = f"{replay.n_depth:,} of depth", plural(replay.n_snapshots, "snapshot")
    tell(f"  messages   {replay.n_messages:,}: {depth}, {snapshots}")
    for k, word in enumerate(replay.damage):
        if (n := replay.damage[word]) or word in _ALWAYS_TOLD:
            row, text = replay.first_damage.get(word, (0, ""))
            where = f", first in row {row:,}: {text}" if n else ""
            tell(f"  {'' if k else 'damage':9}  {n:,} {_DAMAGE_WORDS[word][n != 1]}{where}")
    tell(f"  resyncs    {replay.n_resyncs:,}")
    if replay.n_boundaries_missing:
        tell(f"  missing    {plural(replay.n_boundaries_missing, 'row')}: the book was not known there")
    if result["lost"]:
        tell(f"  lost       since {result['lost']}: no later snapshot brings the book back")
    touch = result["book_ticker"]
    if touch["compared"]:
        equal = share(touch["equal"] / touch["compared"], 3)
        tell(f"  bookTicker {equal} of {touch['compared']:,} states have its best bid and ask")
        tell(f"             {touch['same_id_equal']:,} of {touch['same_id']:,} at the same update id")
        if touch["first_unequal_id"] is not None:
            tell(f"             first that has not: update id {touch['first_unequal_id']}")
    else:
        tell("  bookTicker nothing to compare with in this recording")
    if compared is None:
        return
    n_all = compared.n_ours + compared.n_theirs - compared.n_both
    tell(f"  compare    {share(compared.equal_frac, 3)} of {plural(n_all, 'row')} equal in all columns")
    if compared.first_difference is not None:
        first = result["compare"]["first_difference"]
        tell(f"             first difference at {first['ts']}, {first['column']}:")
        ours, theirs = ("nothing" if first[k] is None else first[k] for k in ("ours", "theirs"))
        tell(f"             {ours} here, {theirs} there")
