"""`dolphin halt`, `flatten` and `resume`: the operator's kill switch, which needs no grid and no service."""

from __future__ import annotations

import argparse
import getpass
import time
from pathlib import Path

from dolphin.commands.shared import add_json, print_json, tell
from dolphin.domain.errors import UsageError

_EPILOGS = {
    "halt": """example:
  dolphin halt --home DIR --reason "exchange maintenance"

From the next scan on nothing is entered; an open position is managed as ever.
The switch is a local file: it works with the grid dead, it survives restarts,
and `dolphin resume` lifts it.
""",
    "flatten": """example:
  dolphin flatten --home DIR --reason "do not like it"

On the next scan the open position is closed at the market; nothing is entered
after it. `dolphin resume` lifts the switch.
""",
    "resume": """example:
  dolphin resume --home DIR

Entries are allowed again from the next scan on, as far as the posture allows.
""",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    command = parser.prog.split()[-1]
    parser.epilog = _EPILOGS[command]
    parser.add_argument(
        "--home", default="dolphin-home", metavar="DIR", help="the system's folder (default dolphin-home)"
    )
    if command != "resume":
        parser.add_argument("--reason", default="", metavar="TEXT", help="why, for whoever reads it later")
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Engage or lift the switch; 0 when it is as asked."""
    from dolphin.services.kill_switch import KillSwitch

    home = Path(args.home)
    if not home.is_dir():
        raise UsageError(f"{home}: no system here; give the folder of the system with --home")
    from dolphin.services.home import Home

    switch = KillSwitch(Home(home).kill_switch)
    if args.command == "resume":
        lifted = switch.lift()
        if args.json:
            print_json({"engaged": False, "was": None if lifted is None else lifted.state})
        elif lifted is None:
            tell("the kill switch was not on; nothing to lift")
        else:
            tell(f"lifted: it was {lifted.told()}")
            tell("entries are allowed from the next scan on, as far as the posture allows")
        return 0
    word = "HALT" if args.command == "halt" else "FLATTEN"
    state = switch.engage(
        "HALT" if word == "HALT" else "FLATTEN",
        by=_who(),
        reason=args.reason or "no reason given",
        now_ns=time.time_ns(),
    )
    if args.json:
        print_json({"engaged": True, "state": state.state, "by": state.by, "reason": state.reason})
        return 0
    if state.state != word:
        tell(f"already stronger: {state.told()}")
        tell(f"weaken it with: dolphin resume --home {home} && dolphin halt --home {home}")
        return 0
    tell(f"on: {state.told()}")
    if word == "HALT":
        tell("no entries from the next scan on; an open position is managed as ever")
    else:
        tell("the open position closes on the next scan; no entries after it")
    tell(f"lift it with: dolphin resume --home {home}")
    return 0


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "the operator"
