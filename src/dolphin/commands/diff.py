"""`dolphin diff`: the first differing decision of two runs."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from collections.abc import Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from dolphin.commands.shared import add_json, plural, print_json, tell

if TYPE_CHECKING:
    from dolphin.domain.decision import Decision

_EPILOG = """example:
  dolphin diff runs/A runs/B

Compares the canonical decision records bar by bar. At the first difference it
shows what both sides decided, their inputs and lanes, and how the settings of
the two runs differ. Exit 0 when all decisions are equal, 1 when not.
"""

_SETTINGS = (
    "set",
    "set_hash",
    "source_id",
    "universe_id",
    "spectrum",
    "vol_threshold",
    "posture_when_unknown",
    "books",
    "factors",
    "forewarner",
)
_DECIDED = ("time", "action", "reason", "asset", "price", "net")
_NOTHING = (0, "", None, False)
_LANES = (
    "lane_base",
    "lane_dc",
    "lane_regime",
    "lane_ob",
    "lane_esof",
    "raw",
    "cap",
    "bound",
    "leverage",
    "notional",
)


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

    values = msgspec.structs.asdict(decision)
    for name, words in (
        ("action", codes.ACTIONS),
        ("reason", codes.REASONS),
        ("bound", codes.BOUNDS),
        ("posture", codes.POSTURES),
        ("dc_status", codes.DC_NAMES),
        ("bucket", codes.BUCKETS),
    ):
        values[name] = words[values[name]]
    # JSON has no word for what is no finite number.
    values = {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return {**values, "time": iso_from_ns(decision.timestamp_ns)}


def execute(args: argparse.Namespace) -> int:
    """Compare; 0 when every decision is equal."""
    from dolphin.journal.bar_columns import read_journal

    with contextlib.ExitStack() as stack:
        journals = []
        for folder in (args.a, args.b):
            journals.append(read_journal(folder))
            stack.callback(journals[-1].close)
        first, second = journals
        settings = _settings(first.meta(), second.meta())
        bar = next(
            (index for index, (x, y) in enumerate(zip_longest(first.canonicals(), second.canonicals()))
             if x is None or y is None or x[2] != y[2]),
            None,
        )  # fmt: skip
        bars = (first.last_bar() + 1, second.last_bar() + 1)
        a, b = (None if bar is None else next(map(_readable, j.decisions(bar, bar)), None) for j in journals)
    if args.json:
        print_json({"equal": bar is None, "bar": bar, "bars": bars, "a": a, "b": b, "settings": settings})
        return 0 if bar is None else 1
    if bar is None:
        tell(f"equal: {plural(bars[0], 'decision')}, byte for byte")
        return 0
    for key, (x, y) in settings.items():
        tell(f"setting {key}: A {_short(x)}, B {_short(y)}")
    if a is None or b is None:
        longer, shorter = ("A", "B") if b is None else ("B", "A")
        has = f"A has {bars[0]:,}, B {bars[1]:,}"
        tell(f"equal over the first {plural(bar, 'bar')}, then only {longer} goes on: {has}")
        tell(f"what {longer} decided next, where {shorter} ends:")
    else:
        tell(f"first difference at bar {bar:,} of {bars[0]:,} and {bars[1]:,}")
    _table(a or {}, b or {})
    return 1


def _settings(a: Mapping[str, str], b: Mapping[str, str]) -> dict[str, tuple[Any, Any]]:
    """Recorded settings in which the two runs differ; parameters one by one."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in _SETTINGS:
        # A scan cache does not know how its scans were computed, so a backtest records no spectrum.
        if key in a and key in b and a[key] != b[key]:
            found[key] = (a[key], b[key])
    x, y = (json.loads(meta.get("parameters", "{}")) for meta in (a, b))
    for key in sorted(x.keys() | y.keys()):
        if x.get(key) != y.get(key):
            found[f"parameters.{key}"] = (x.get(key), y.get(key))
    return found


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:16]}…" if len(text) == 64 else text


def _table(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Both sides, what was decided first; attributes that are zero on both sides are left out.

    Where only one side has decided, there is nothing to mark as different.
    """
    names = list(a or b)
    width = max(len(name) for name in names)
    tell(f"  {'':{width}}  {'A':>27}  {'B':>27}")
    order = [*_DECIDED, *_LANES]
    for name in [*order, *(n for n in names if n not in order)]:
        x, y = a.get(name, ""), b.get(name, "")
        differ = bool(a and b) and x != y
        if name in order or differ or (x or y) not in _NOTHING:
            # The time's nanoseconds stand in timestamp_ns.
            shown = [str(v)[:19] + "Z" if name == "time" and v else str(v) for v in (x, y)]
            tell(f"{'≠' if differ else ' '} {name:{width}}  {shown[0]:>27}  {shown[1]:>27}")
