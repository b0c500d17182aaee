"""`dolphin explain`: why a bar was decided so, and what would have flipped it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dolphin.commands.shared import add_json, money, plural, print_json, share, tell
from dolphin.commands.shared import price as price_text
from dolphin.domain.errors import UsageError

if TYPE_CHECKING:
    from dolphin.backtest.folder import Run

_EPILOG = """examples:
  dolphin explain runs/RUN BLUE-2021-04-10-000012   a trade: entry and exit
  dolphin explain runs/RUN 31415                    a bar, by its number
  dolphin explain runs/RUN 31415 --json

Takes the folder of `run` or of `backtest`. The state just before the bar comes
from a replay of its scans, and the decision made again must be the one that was
made then. What would have flipped the bar is found by deciding it again, on a
copy of that state, with every number moved until the action is another.
"""

_WIDTH = 26
_NEEDS = 21


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("run", metavar="RUN", help="folder of a run or of a backtest")
    parser.add_argument("what", metavar="TRADE|BAR", help="id of a trade, or number of a bar from 0")
    parser.add_argument("--no-flips", action="store_true", help="leave out what would have flipped it")
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Explain; 0."""
    if not args.what.strip() or args.what.startswith("-"):
        raise UsageError(f"{args.what!r} is no bar and no trade; expected a number from 0 or a trade's id")

    from dolphin.backtest.explain import explain
    from dolphin.backtest.folder import open_run

    with open_run(args.run) as run:
        told = [explain(run, bar, with_flips=not args.no_flips) for bar in _bars(run, args.what)]
    if args.json:
        print_json({"run": args.run, "trade": None if len(told) == 1 else args.what, "bars": _plain(told)})
        return 0
    for k, bar in enumerate(told):
        if k:
            tell("")
        for line in lines(bar):
            tell(line)
    return 0


def _bars(run: Run, what: str) -> list[int]:
    """The bar itself, or entry and exit of a trade."""
    if what.isascii() and what.isdigit():
        return [run.require_bar(int(what))]
    trade = run.trade(what)
    return [trade.entry_bar, trade.exit_bar]


def _plain(value: Any) -> Any:
    """JSON has no word for what is no finite number."""
    if isinstance(value, float) and value - value != 0.0:
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def lines(told: Mapping[str, Any]) -> list[str]:
    """An explained bar for people."""
    what = f"{told['action']} {told['asset']}".strip()
    out = [
        f"bar {told['bar']:,}, {told['time'][:19].replace('T', ' ')}, scan {told['scan_number']:,}:"
        f" {what}, {told['reason']}",
        f"  vel_div {told['vel_div']:+.6f} = v50 {told['v50_velocity']:+.6f} - v750"
        f" {told['v750_velocity']:+.6f}, capital {told['capital']:,.2f} USDT",
    ]
    if "position" in told:
        out += _position(told)
    out += _gates(told["gates"], "position" in told)
    if "signal" in told:
        s = told["signal"]
        out.append(
            f"  signal     strength {s['strength']:.4f} between {s['threshold']:+g} and {s['extreme_at']:+g},"
            f" confidence {s['confidence']:.3f}{', extreme' if s['extreme'] else ''}"
        )
    if told.get("ranking"):
        out += _ranking(told)
    if "sizing" in told:
        out += _sizing(told)
    out += _haircut(told["esof"], "position" in told)
    if "result" in told:
        r = told["result"]
        out.append(
            f"  result     filled at {price_text(r['exit_price'])}, gross {money(r['gross'])}, fees"
            f" {money(-r['entry_fee'] - r['exit_fee'])}, edge {r['ob_edge'] * 1e4:g} bps,"
            f" net {money(r['net'])} USDT"
        )
    if "flips" in told:
        out += _flips(told)
    return out


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _gates(gates: Sequence[Mapping[str, Any]], in_position: bool) -> list[str]:
    """One line a gate; the first that is shut is the one that decided."""
    head = "held while" if in_position else "needed"
    out = [
        f"  {'tests' if in_position else 'gates':9}  {'':{_WIDTH}}{'value':>14}{head:>{_NEEDS}}{'margin':>12}"
    ]
    decided = False
    for gate in gates:
        mark = {True: "ok", False: "EXIT" if in_position else "SHUT", None: "-"}[gate["passed"]]
        note = ""
        if gate["passed"] is False and not decided:
            decided, note = True, "  <- this decided"
        needs = gate["needs"]
        if gate["threshold"] is not None:
            needs = f"{needs} {_value(gate['threshold'])}"
        margin = "" if gate["margin"] is None else f"{gate['margin']:+.4g}"
        line = f"    {mark:4}     {gate['gate']:{_WIDTH}}{_value(gate['value']):>14}{needs:>{_NEEDS}}"
        out.append(f"{line}{margin:>12}{note}".rstrip())
        out.append(f"             {gate['rule']}")
    return out


def _position(told: Mapping[str, Any]) -> list[str]:
    p, lev = told["position"], told["leverage"]
    return [
        f"  position   {p['asset']} since bar {p['entry_bar']:,}, {plural(p['bars_held'], 'bar')} held,"
        f" entered at {price_text(p['entry_price'])}, now {price_text(p['price'])}"
        f"{' (no fresh price)' if p['stale_price'] else ''}",
        f"             {p['pnl_pct'] * 100.0:+.4f} % of {p['notional']:,.2f} USDT:"
        f" {money(p['unrealised'])} USDT, leverage {lev['leverage']:.4f} ({lev['bound']})",
    ]


def _ranking(told: Mapping[str, Any]) -> list[str]:
    out = [f"  ranking    {'':14}{'ARS':>10}{'':10}{'aligned':>8}{'noise':>11}{'latency':>8}"]
    out += [
        f"    {row['place']:>4}     {row['asset']:14}{row['ars']:>10.4f}  {row['direction']:8}"
        f"{share(row['alignment'], 0):>8}{row['noise']:>11.3g}{row['latency']:>8}  {row['why']}"
        for row in told["ranking"]
    ]
    out.append(f"             {plural(told['ranked'], 'asset')} aligned enough")
    return out


def _sizing(told: Mapping[str, Any]) -> list[str]:
    s, lanes, lev, c = told["sizing"], told["lanes"], told["leverage"], told["confirmation"]
    caps = ", ".join(f"{name} {value:.4g}" for name, value in lev["caps"].items() if value is not None)
    would = "" if told["entered"] else " (as it would be)"
    change = "too few prices" if c["change_bps"] is None else f"{c['change_bps']:+.2f} bps"
    return [
        f"  confirms   {c['status']}: {change} in {plural(c['lookback_bars'], 'bar')}, limit"
        f" {c['limit_bps']:g} bps{'' if c['used'] else ' (off in this set)'}",
        f"  sizing     strength {s['strength']:.4f}, bucket {s['bucket']} ({s['bucket_wins']} of"
        f" {plural(s['bucket_trades'], 'trade')} won) x {s['bucket_boost']:g},{would}",
        f"             streak {s['recent_losses']} lost of {s['recent_trades']} x {s['streak']:g}, trend"
        f" {s['vel_div_trend']:+.4f} x {s['trend']:g}, fraction {s['fraction']:.4f} of at most"
        f" {s['fraction_max']:g}",
        "  lanes      "
        + " x ".join(f"{name} {value:.4g}" for name, value in lanes.items())
        + f" = raw {lev['raw']:.4f}",
        f"  leverage   {lev['leverage']:.4f}, decided by {lev['bound']}: cap {lev['cap']:.4f} of {caps};"
        f" at least {lev['min']:g}",
        f"  notional   {told['capital_before']:,.2f} x {s['fraction']:.4f} x {lev['leverage']:.4f} ="
        f" {told['notional']:,.2f} USDT",
    ]


def _haircut(esof: Mapping[str, Any], in_position: bool) -> list[str]:
    """The esoteric lane and why; in a position it is what an entry on this bar would have got."""
    would = ", for an entry on this bar" if in_position else ""
    out = [f"  esof       lane {esof['lane']:.4g}{would}; {esof['why']}"]
    if esof.get("parts"):
        moved = ", ".join(
            f"{part['category']} {part['bucket']} {part['contribution']:+.3f} ({plural(part['n'], 'trade')})"
            for part in esof["parts"]
        )
        out.append(f"             since {esof['since'][:16].replace('T', ' ')}, most by {moved}")
    return out


def _flips(told: Mapping[str, Any]) -> list[str]:
    if not told["flips"]:
        return ["  flips      no single number would have changed what this bar did"]
    out = ["  flips      the nearest value found of each that changes what this bar did"]
    for flip in told["flips"]:
        then = f"{flip['action']} {flip['asset']}".strip()
        out.append(
            f"             {flip['name']:{_WIDTH}} {_short(flip['value']):>14} -> {_short(flip['at']):<20}"
            f" {then}, {flip['reason']}"
        )
    return out


def _short(value: Any) -> str:
    """Enough digits to see that it is another number."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)
