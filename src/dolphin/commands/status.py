"""`dolphin status`: how is the system, for a tired person: one verdict, one cause, one next action."""

from __future__ import annotations

import argparse
import sys
import textwrap
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dolphin.commands.shared import add_json, print_json, tell

if TYPE_CHECKING:
    from dolphin.services.diagnosis import Verdict
    from dolphin.services.facts import Facts, ServiceFact

_EPILOG = """examples:
  dolphin status
  dolphin status --home DIR --watch
  dolphin status --json           for machines

The first line is the verdict, then the one cause that stops trading now and one
next action, a command to paste; `also` is what else is broken. It reads only,
starts nothing, and answers within about three seconds whatever is broken.
Exit 0 when the verdict is OK, else 1.

verdicts: OK; DEGRADED (trading goes on); NOT TRADING (no trader is started);
TRADING HALTED (no new entries); DOWN (nothing runs); MONEY AT RISK (a position
is open and nobody manages it).
"""

WIDTH = 80
WATCH_S = 2.0
_COLOURS = {"OK": "32", "DEGRADED": "33", "NOT TRADING": "33"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--home", default="dolphin-home", metavar="DIR", help="the system's folder (default dolphin-home)"
    )
    parser.add_argument("--watch", action="store_true", help="look again every 2 s until Ctrl-C")
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Show it; 0 when the verdict is OK."""
    from dolphin.services.diagnosis import OK, diagnose
    from dolphin.services.status_facts import Collector

    collector = Collector(args.home)
    try:
        while True:
            facts = collector.collect()
            verdict = diagnose(facts)
            if args.json:
                print_json(as_json(facts, verdict))
            else:
                colour = sys.stdout.isatty()
                if args.watch and colour:
                    sys.stdout.write("\x1b[H\x1b[2J")
                tell("\n".join(lines(facts, verdict, colour=colour)))
            if not args.watch:
                return 0 if verdict.verdict == OK else 1
            sys.stdout.flush()
            _pause()
            if not args.json and not sys.stdout.isatty():
                tell("")
    except KeyboardInterrupt:
        if not args.watch:
            raise
        return 0
    finally:
        collector.close()


def _pause() -> None:
    threading.Event().wait(WATCH_S)


def as_json(facts: Facts, verdict: Verdict) -> dict[str, Any]:
    """Verdict first, then every fact."""
    import msgspec

    return {**verdict._asdict(), "facts": msgspec.to_builtins(facts)}


def lines(facts: Facts, verdict: Verdict, *, colour: bool = False) -> Iterator[str]:
    """The screen, at most 80 columns but for a command that must be pasted whole."""
    word = verdict.verdict
    if colour:
        word = f"\x1b[1;{_COLOURS.get(word, '31')}m{word}\x1b[0m"
    yield f"DOLPHIN  {word}"
    yield from _wrapped("why      ", verdict.cause)
    yield f"do       {verdict.action}"
    for cause in verdict.also:
        yield from _wrapped("also     ", cause)
    if not facts.home_there or facts.settings_trouble:
        return
    yield ""
    yield from _summary(facts)
    yield ""
    yield from _services(facts)
    if facts.alerts:
        yield ""
        yield "last alerts"
        for alert in facts.alerts:
            yield _cut(f"  {_age(alert.age_s):>10} ago  {alert.kind:<12} {alert.text}")


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    )


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def _age(seconds: float | None) -> str:
    from dolphin.services.diagnosis import age

    return "–" if seconds is None else age(seconds)


def _summary(facts: Facts) -> Iterator[str]:
    from dolphin.services.diagnosis import WELL

    grid, safety, switch, trader, health = facts.grid, facts.safety, facts.switch, facts.trader, facts.health
    state = (
        f"connected, {grid.nodes} of {len(grid.members)} members"
        if grid.connected
        else "takes connections, does not answer"
        if grid.port_open
        else "down"
    )
    yield _cut(f"grid       {state}  ({', '.join(grid.members)})")
    if safety is None:
        yield f"posture    {'none yet' if grid.connected else 'unknown: the grid is away'}"
    else:
        least = safety.weakest_value
        value = "" if least is None or least >= WELL else f", weakest {safety.weakest} {least:.2f}"
        yield _cut(f"posture    {safety.posture}, Rm {safety.rm:.2f}{value}  ({_age(safety.age_s)} old)")
    yield _cut(f"switch     {'off' if switch is None else switch.told}")
    if trader is None:
        yield f"trader     {'nothing decided yet' if not facts.trader_trouble else 'journal not readable'}"
    else:
        yield from _trader(facts)
    scan = "none yet" if grid.connected else "unknown: the grid is away"
    scanner = facts.service("scanner")
    if scanner is not None and scanner.bars is not None:
        scan += f"; the scanner warms up, bar {scanner.bars} of {scanner.of}"
    if facts.scan_age_s is not None:
        scan = f"number {facts.scan_number}, {_age(facts.scan_age_s)} old"
    yield f"last scan  {scan}"
    yield from _wrapped("senses     ", _senses(facts))
    if health is None:
        yield "health     unknown"
    else:
        notable = ", ".join(f"{key} {word}" for key, word in health.keys.items() if word != "fresh")
        told = f": {notable}" if notable else ""
        yield _cut(f"health     {health.status} {health.rm_meta:.2f}  ({_age(health.age_s)} old){told}")
        yield (
            f"           control {health.m4:.1f}, services {health.m1:.2f}, data {health.m3:.2f},"
            f" coherence {health.m5:.1f}, hearts {health.m2:.2f}"
        )
    if facts.disk_free_mb is not None:
        yield f"disk       {facts.disk_free_mb / 1000:,.1f} GB free"
    if facts.speed != 1.0:
        yield f"clock      the system's: {facts.speed:g} times the machine's, and every time here is its time"


def _senses(facts: Facts) -> str:
    from dolphin.services.senses_facts import told

    return told(facts.senses, _age) or "unknown: the grid is away"


def _trader(facts: Facts) -> Iterator[str]:
    trader = facts.trader
    if trader is None:
        return
    who = trader.leader.partition(":")[0]
    leads = (
        f"{who} leads, fence {trader.fence}"
        if who
        else f"fence {trader.fence}"
        if trader.fence
        else "no term"
    )
    if who and not facts.trader_alive:
        leads = f"nobody leads; the last was {who}, fence {trader.fence}"
    source = "" if trader.source == "journal" else "  (as the grid shows it)"
    yield f"trader     {leads}, last decision {_age(trader.bar_age_s)} ago{source}"
    money = "unknown" if trader.capital is None else f"{trader.capital:,.2f} USDT"
    if trader.equity is not None and trader.capital is not None:
        money += f", equity {trader.equity:,.2f}"
    yield f"capital    {money}, {trader.trades or 0:,} trades"
    position = trader.position
    if position is None:
        yield "position   none"
    else:
        pnl = "" if position.pnl is None else f", {position.pnl * 100.0:+.2f} %"
        yield (
            f"position   {position.asset}, {position.notional:,.0f} USDT,"
            f" conviction {position.leverage:.1f}{pnl}"
        )


def _services(facts: Facts) -> Iterator[str]:
    told = {"up": "", "down": "  (the process manager is not running)",
            "silent": "  (the process manager does not answer)"}[facts.manager]  # fmt: skip
    if not facts.services:
        yield f"services   none{told}"
        return
    yield "services        state     up          heartbeat  phase    restarts"
    if facts.manager != "up":
        yield f"                {told.strip()}"
    for service in facts.services:
        yield _cut(_service(service).rstrip())


def _service(service: ServiceFact) -> str:
    gone = service.state not in ("", "RUNNING", "STARTING", "STOPPING")
    up = _age(service.uptime_s) if service.pid and service.state else "–"
    phase = "–" if gone else service.phase or "–"
    restarts = "–" if service.restarts is None else str(service.restarts)
    state = service.state or ("alive" if service.pid else "gone")
    held = f"held by {service.held_by}" if service.held_by else ""
    return (
        f"{service.name:<15} {state:<9} {up:<11} {_age(service.beat_age_s):<10}"
        f" {phase:<8} {restarts:<9}{held}"
    )
