"""`dolphin diff`: the first differing decision of two runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dolphin.commands.shared import add_json, print_json

if TYPE_CHECKING:
    from dolphin.domain.decision import Decision

_EPILOG = """example:
  dolphin diff runs/A runs/B

Compares the canonical decision records bar by bar; shows both sides' inputs and lanes at the first difference, and
how far the settings of the two runs differ. Exit 0 when all decisions are equal, 1 when not.
"""

_LANES = ("lane_base", "lane_dc", "lane_regime", "lane_ob", "lane_esof", "raw", "cap", "bound", "leverage", "notional")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("a", metavar="A", help="folder of a run")
    parser.add_argument("b", metavar="B", help="folder of another run")
    add_json(parser)


def _readable(decision: Decision) -> dict[str, Any]:
    import msgspec

    from dolphin.domain import codes
    from dolphin.domain.clock import iso_from_ns

    names = {f: getattr(decision, f) for f in msgspec.structs.asdict(decision)}
    names["action"] = codes.ACTIONS[decision.action]
    names["reason"] = codes.REASONS[decision.reason]
    names["bound"] = codes.BOUNDS[decision.bound]
    names["posture"] = codes.POSTURES[decision.posture]
    names["dc_status"] = codes.DC_NAMES[decision.dc_status]
    names["bucket"] = codes.BUCKETS[decision.bucket]
    names["time"] = iso_from_ns(decision.timestamp_ns)
    return names


def execute(args: argparse.Namespace) -> int:
    """Compare; 0 when every decision is equal."""
    from itertools import zip_longest

    from dolphin.host.finish import JOURNAL_FILE
    from dolphin.journal.store import Journal

    first, second = (Journal.read_only(Path(folder) / JOURNAL_FILE) for folder in (args.a, args.b))
    try:
        meta = {key: (first.meta().get(key), second.meta().get(key)) for key in ("set", "set_hash", "source_id",
                "universe_id", "vol_threshold", "parameters")}  # fmt: skip
        settings = {key: pair for key, pair in meta.items() if pair[0] != pair[1]}
        bar = next(
            (index for index, (x, y) in enumerate(zip_longest(first.canonicals(), second.canonicals()))
             if x is None or y is None or x[2] != y[2]),
            None,
        )  # fmt: skip
        bars = (first.last_bar() + 1, second.last_bar() + 1)
        sides = [None, None] if bar is None else [
            next((_readable(d) for d in journal.decisions(bar, bar)), None) for journal in (first, second)
        ]  # fmt: skip
    finally:
        first.close()
        second.close()
    if args.json:
        print_json({"equal": bar is None, "bar": bar, "bars": bars, "a": sides[0], "b": sides[1], "settings": settings})
        return 0 if bar is None else 1
    if bar is None:
        print(f"equal: {bars[0]:,} decisions, byte for byte")
        return 0
    for key, (x, y) in settings.items():
        if key != "parameters":
            print(f"setting {key}: A {x}, B {y}")
    if sides[0] is None or sides[1] is None:
        print(f"equal over {bar:,} bars; then only {'A' if sides[1] is None else 'B'} goes on ({bars[0]:,} and {bars[1]:,})")
        return 1
    a, b = sides
    print(f"first difference at bar {bar:,}, {a['time'][:19]}Z")
    width = max(len(name) for name in a)
    order = ["action", "reason", "asset", "price", "net", *_LANES]
    for name in [*order, *(n for n in a if n not in order)]:
        mark = "≠" if a[name] != b[name] else " "
        print(f"{mark} {name:{width}}  {a[name]!s:>28}  {b[name]!s:>28}")
    return 1
