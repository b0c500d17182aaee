"""`dolphin halt`, `flatten` and `resume`: the operator's kill switch, which needs no grid and no service."""

from __future__ import annotations

import argparse
import getpass
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dolphin.commands.shared import add_json, print_json, tell
from dolphin.domain.errors import DolphinError

if TYPE_CHECKING:
    from dolphin.services.home import Home
    from dolphin.services.kill_switch import KillSwitch

_EPILOGS = {
    "halt": """examples:
  dolphin halt --home DIR --reason "exchange maintenance"
  dolphin halt --home runs/RUN             a run on live prices

From the next scan on nothing is entered; an open position is managed as ever.
The switch is a local file: it works with the grid dead, it survives restarts,
and `dolphin resume` lifts it.
""",
    "flatten": """examples:
  dolphin flatten --home DIR --reason "do not like it"
  dolphin flatten --home runs/RUN          a run on live prices

On the next scan the open position is closed at the market; nothing is entered
after it. `dolphin resume` lifts the switch.
""",
    "resume": """examples:
  dolphin resume --home DIR
  dolphin resume --home DIR --oracle

Lifts what the operator has engaged. Entries are allowed again from the next
scan on, as far as the posture allows.

The oracle engages the switch under its own name when a scan does not certify
again; that, and a damaged file, stay on until they are named: look into
`dolphin logs oracle` first. Exit 0 when the switch is off, 1 while something
still holds it on.
""",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    command = parser.prog.split()[-1]
    parser.epilog = _EPILOGS[command]
    parser.add_argument(
        "--home", default="dolphin-home", metavar="DIR",
        help="the folder of the system (default dolphin-home), or of a run on live prices",
    )  # fmt: skip
    if command == "resume":
        which = parser.add_mutually_exclusive_group()
        which.add_argument("--oracle", action="store_true", help="lift what the oracle has engaged")
        which.add_argument(
            "--all", action="store_true", help="lift everything, a damaged file too, whoever engaged it"
        )
    else:
        parser.add_argument("--reason", default="", metavar="TEXT", help="why, for whoever reads it later")
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Engage or lift the switch; 0 when it is as asked, 1 when something else holds it on after a resume."""
    from dolphin.services.home import Home
    from dolphin.services.kill_switch import KillSwitch
    from dolphin.services.switch_folder import switch_of

    home = Home(Path(args.home))
    found = switch_of(home.root)
    switch = KillSwitch(found.path)
    if args.command == "resume":
        return _resume(args, switch)
    word = "HALT" if args.command == "halt" else "FLATTEN"
    state = switch.engage(
        "HALT" if word == "HALT" else "FLATTEN",
        by=_who(),
        reason=args.reason or "no reason given",
        now_ns=_now_ns(home),
    )
    if args.json:
        print_json({
            "engaged": True, "state": state.state, "by": state.by, "reason": state.reason, "note": found.note
        })  # fmt: skip
        return 0
    at = f"--home {shlex.quote(args.home)}"
    if state.state != word:
        tell(f"already stronger: {state.told()}")
        tell(f"weaken it with: dolphin resume {at}; dolphin halt {at}")
        return 0
    tell(f"on: {state.told()}")
    if found.note:
        tell(found.note)
    elif word == "HALT":
        tell("no entries from the next scan on; an open position is managed as ever")
    else:
        tell("the open position closes on the next scan; no entries after it")
    tell(f"lift it with: dolphin resume {at}")
    return 0


def _resume(args: argparse.Namespace, switch: KillSwitch) -> int:
    """Lift what was named, and tell what still holds the switch on."""
    from dolphin.services.kill_switch import DAMAGED, OPERATOR, ORACLE

    lifted = switch.lift(*(() if args.all else (ORACLE,) if args.oracle else (OPERATOR,)))
    left = switch.read()
    engaged = {} if left is None else left.engaged
    if args.json:
        strongest = {each.state for each in lifted.values()}
        print_json({
            "engaged": left is not None,
            "was": "FLATTEN" if "FLATTEN" in strongest else "HALT" if strongest else None,
            "lifted": {name: each.told() for name, each in lifted.items()},
            "left": {name: each.told() for name, each in engaged.items()},
        })  # fmt: skip
        return 0 if left is None else 1
    for name, each in lifted.items():
        tell(f"lifted{f' (the {ORACLE})' if name == ORACLE else ''}: it was {each.told()}")
    at = f"--home {shlex.quote(args.home)}"
    ways = {
        OPERATOR: f"lift it with: dolphin resume {at}",
        ORACLE: "a scan did not certify again: look with `dolphin logs oracle`, then lift it with:"
        f" dolphin resume --oracle {at}",
        DAMAGED: "it may have held the oracle's word: look with `dolphin logs oracle`, then lift it with:"
        f" dolphin resume --all {at}",
    }
    for name, each in engaged.items():
        tell(f"still on: {each.told()}")
        tell(ways.get(name, ways[DAMAGED]))
    if engaged:
        return 1
    if lifted:
        tell("entries are allowed from the next scan on, as far as the posture allows")
    else:
        tell("the kill switch was not on; nothing to lift")
    return 0


def _now_ns(home: Home) -> int:
    """The system's clock; the machine's where there are no settings to tell of another."""
    from dolphin.services.clock import SystemClock

    try:
        settings = home.load()
        return SystemClock(settings.speed, settings.clock_origin_ns).now_ns()
    except DolphinError:
        return time.time_ns()


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "the operator"
