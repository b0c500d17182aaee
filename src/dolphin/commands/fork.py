"""`dolphin fork`: a run's future from one bar on, as it was and with other parameters."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from dolphin.commands.shared import add_json, change, figure, money, price, print_json, share, tell
from dolphin.config import parameter_value
from dolphin.domain.errors import ConfigError, StoreError, UsageError

JSON_FILE = "fork.json"
HTML_FILE = "fork.html"

_EPILOG = """examples:
  dolphin fork runs/RUN --at 12000 --set fixed_tp_pct=0.012
  dolphin fork runs/RUN --at 12000 --set max_leverage=4 --set fraction=0.1

Both futures begin with the run's own state and open position at that bar.
--set takes the parameters of a set. Options of the engine (fee_scale,
slippage_scale, proxy_mode, ...) are not among them: they belong to sweeps,
under `options` of a plan.
Writes fork.json and fork.html (both equity curves) into --out, by default
RUN-fork-BAR.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("run", metavar="RUN", help="folder of a run or of a backtest")
    parser.add_argument("--at", required=True, type=_bar, metavar="BAR", help="bar of the fork, from 0")
    parser.add_argument(
        "--set",
        dest="values",
        action="append",
        required=True,
        metavar="NAME=VALUE",
        help="a parameter of the other future's set, no option of the engine; may be given again",
    )
    parser.add_argument("--out", metavar="DIR", help="folder for fork.json and fork.html")
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Fork; 0."""
    values = _values(args.values)
    folder = Path(args.out) if args.out else Path(f"{args.run.rstrip('/')}-fork-{args.at}")
    if (folder / JSON_FILE).exists():
        raise StoreError(f"{folder}: a fork is here already; choose another --out")

    from dolphin.backtest.folder import open_run
    from dolphin.backtest.fork import as_dict, changed, fork
    from dolphin.commands.telling import WorkDisplay
    from dolphin.host.finish import write_text
    from dolphin.journal.store import require_writable
    from dolphin.report.fork import render

    with open_run(args.run) as run, WorkDisplay(quiet=args.json) as display:
        changed(run, run.require_bar(args.at), values)
        found = fork(run, args.at, values, lambda done, total: display.progress("both futures", done, total))
        told = as_dict(found, run)
        require_writable(folder)
        write_text(
            folder / HTML_FILE, render(told, found.timestamp_ns, found.original.equity, found.changed.equity)
        )
        told["report"] = str(folder / HTML_FILE)
        write_text(folder / JSON_FILE, json.dumps(told, indent=1, allow_nan=False) + "\n")
    if args.json:
        print_json(told)
    else:
        for line in lines(told):
            tell(line)
    return 0


def _bar(text: str) -> int:
    """A bar's number from the command line."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no bar, expected a number from 0")
    return int(text)


def _values(pairs: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        name, found, text = pair.partition("=")
        if not found:
            raise UsageError(f"--set {pair!r}: expected NAME=VALUE, like max_leverage=7")
        if name in values:
            raise ConfigError(f"parameter {name} is set twice; leave one out")
        values[name] = parameter_value(name, text)
    return values


def lines(told: dict[str, Any]) -> list[str]:
    """A fork for people."""
    a, b = told["original"], told["changed"]
    changes = ", ".join(f"{name} {v['from']} -> {v['to']}" for name, v in told["changes"].items())
    out = [
        f"{told['run']} forked at bar {told['bar']:,} ({told['time'][:16].replace('T', ' ')}),"
        f" {told['bars']:,} bars on",
        f"  changed    {changes}",
        f"  {'':11}{'as it was':>14}{'changed':>14}{'difference':>14}",
    ]
    rows = (
        ("trades", str(a["trades"]), str(b["trades"]), f"{b['trades'] - a['trades']:+}"),
        ("net", money(a["net"]), money(b["net"]), money(b["net"] - a["net"])),
        ("fees", figure(a["fees"]), figure(b["fees"]), money(b["fees"] - a["fees"])),
        ("return", change(a["return"]), change(b["return"]), change(b["return"] - a["return"])),
        (
            "drawdown",
            share(a["max_drawdown"], 2),
            share(b["max_drawdown"], 2),
            change(b["max_drawdown"] - a["max_drawdown"]),
        ),
        ("win rate", share(a["win_rate"]), share(b["win_rate"]), ""),
        ("capital", figure(a["capital"]), figure(b["capital"]), money(b["capital"] - a["capital"])),
        ("equity", figure(a["equity"]), figure(b["equity"]), money(b["equity"] - a["equity"])),
        ("open", "yes" if a["open_position"] else "no", "yes" if b["open_position"] else "no", ""),
    )
    out += [f"  {name:11}{x:>14}{y:>14}{d:>14}" for name, x, y, d in rows]
    first = told["first_difference"]
    if first is None:
        out.append("  no decision differs")
    else:
        out.append(f"  first difference at bar {first['bar']:,} ({first['time'][:16].replace('T', ' ')}):")
        for name, side in (("as it was", first["original"]), ("changed", first["changed"])):
            what = f"{side['action']} {side['asset']}".strip()
            at = f" at {price(side['price'])}" if side["price"] else ""
            out.append(f"    {name:10} {what}{at}, {side['reason']}")
        for name in first["differ"]:
            if name not in ("action", "reason", "asset", "price"):
                out.append(f"    {name:10} {first['original'][name]:.8g} -> {first['changed'][name]:.8g}")
    out.append(f"  report     {told['report']}")
    return out
