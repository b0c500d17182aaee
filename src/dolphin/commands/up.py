"""`dolphin up`: the grid, the process manager, and the services under it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dolphin.commands.shared import add_json, print_json, say, tell
from dolphin.config import resolve
from dolphin.domain.errors import ConfigError, UsageError

#: The grid whose members `dolphin up` starts itself.
OWN_GRID = "hazelcast"
#: With nothing on request.
NO_SENSES = "none"

_EPILOG = """examples:
  dolphin up                               everything but the trader
  dolphin up trader                        the trader is started by hand
  dolphin up --all --speed 10 --home fast  all of it, ten times as fast
  dolphin up --grid hazelcast --members 3  three members of its own
  dolphin up --feed recorded --path prices.parquet --home replay
  dolphin up --factors live                external factors as they are now
  dolphin up --with books,esof             order books and esoteric factors too

The folder remembers its settings; another `up` only starts what is down.
Settings that differ from the folder's are refused, but --with may differ
after `dolphin down`; --with none takes all of them out. Fills are modelled: no
order leaves this machine. Needs Java 11 or 17 and `make services`.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("services", nargs="*", metavar="SERVICE", help="only these services")
    parser.add_argument(
        "--home", default="dolphin-home", metavar="DIR", help="the system's folder (default dolphin-home)"
    )
    parser.add_argument("--all", action="store_true", help="the trader and its standby too")
    group = parser.add_argument_group("settings of a new home")
    group.add_argument(
        "--feed",
        choices=("synthetic", "recorded", "binance"),
        help="the market (default synthetic; binance: live, the first scan comes after 63 minutes)",
    )
    group.add_argument("--path", metavar="FILE", help="recording, for --feed recorded")
    group.add_argument("--universe", metavar="FILE", help="symbols, of a recording or of the exchange")
    group.add_argument("--assets", type=int, metavar="N", help="how many assets")
    group.add_argument("--seed", type=int, metavar="N", help="of the synthetic market (default 4)")
    group.add_argument("--set", dest="set_name", metavar="NAME", help="parameter set (default gold)")
    group.add_argument("--deployment", metavar="NAME", help="prefix of trade ids and maps (default BLUE)")
    group.add_argument(
        "--factors", metavar="live|DIR", help="external factors: from their publishers, or recorded ones"
    )
    group.add_argument(
        "--factor-address", metavar="HOST=URL", action="append", default=[],
        help="base address in place of a publisher's own: binance, deribit, alternative",
    )  # fmt: skip
    group.add_argument(
        "--with", dest="senses", metavar="NAME,...",
        help="services that nobody has unasked: books and universe ask the exchange, esof cuts sizes",
    )  # fmt: skip
    group.add_argument("--exchange", metavar="URL", help="base address of the exchange in place of its own")
    group.add_argument(
        "--record-raw", action="store_true", default=None, help="keep every message of the books, for ever"
    )
    group.add_argument(
        "--speed", type=float, metavar="X", help="how fast the system's clock runs (default 1)"
    )
    group.add_argument("--members", type=int, choices=(1, 3), help="grid members to start (default 1)")
    group.add_argument("--grid-port", type=int, metavar="PORT", help="of the first member (default 5701)")
    group.add_argument(
        "--grid", metavar="hazelcast|HOST:PORT,...",
        help="hazelcast: members of our own, started where none is there (default);"
        " or the addresses of members that somebody else runs",
    )  # fmt: skip
    group.add_argument(
        "--metrics-port", type=int, metavar="PORT", help="first of the services' (default 9400)"
    )
    add_json(parser)


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given. Raises UsageError."""
    from dolphin.services.exf import LIVE, checked_factors
    from dolphin.services.home import GRID_PORT, SystemSettings
    from dolphin.services.system import addresses
    from dolphin.services.table import SENSES, checked_senses

    # The rules of these are those of `dolphin run`.
    resolve({name: getattr(args, name) for name in ("feed", "assets", "seed", "deployment")}
            | {"set": args.set_name})  # fmt: skip
    names = ("feed", "path", "universe", "assets", "seed", "set_name", "deployment", "factors", "speed",
             "members", "metrics_port", "exchange", "record_raw")  # fmt: skip
    found = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    for name in ("path", "universe", "factors"):
        if name in found and (name, found[name]) != ("factors", LIVE):
            found[name] = str(Path(found[name]).absolute())
    if args.senses is not None:
        if not _words(args.senses):
            raise UsageError(f"--with {args.senses!r}: expected {', '.join(SENSES)}, or {NO_SENSES}")
        found["senses"] = () if args.senses == NO_SENSES else checked_senses(_words(args.senses))
    if args.factor_address:
        found["factor_addresses"] = dict(_host_address(word) for word in args.factor_address)
    checked_factors(SystemSettings(**{
        name: found[name] for name in ("factors", "factor_addresses", "speed") if name in found
    }))  # fmt: skip
    if args.grid not in (None, OWN_GRID):
        if args.members or args.grid_port:
            raise UsageError(
                "--grid names members that somebody else runs; leave --members and --grid-port out"
            )
        found["grid_members"] = _addresses(args.grid)
        found["members"] = 0
    elif args.grid_port:
        found["grid_members"] = addresses(args.members or 1, args.grid_port)
    elif args.members:
        found["grid_members"] = addresses(args.members, GRID_PORT)
    return found


def _host_address(text: str) -> tuple[str, str]:
    """HOST=URL as a pair. Raises UsageError."""
    host, found, address = text.partition("=")
    if not found:
        raise UsageError(f"--factor-address {text!r}: expected HOST=URL, like binance=http://127.0.0.1:8080")
    return host, address


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _addresses(text: str) -> tuple[str, ...]:
    """HOST:PORT,... as a tuple. Raises UsageError."""
    words = _words(text)
    for word in words or (text,):
        host, _, port = word.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageError(f"--grid {word!r}: expected {OWN_GRID}, or HOST:PORT like 127.0.0.1:5701")
    return words


def execute(args: argparse.Namespace) -> int:
    """Start what is down; 0 when everything asked for runs."""
    from dolphin.services.home import Home
    from dolphin.services.system import (
        BY_HAND,
        by_default,
        check_names,
        establish,
        start_grid,
        start_services,
    )

    check_names(args.services)
    home = Home(Path(args.home).absolute())
    settings = establish(home, asked(args))
    check_names(args.services, settings)
    if args.grid == OWN_GRID and not settings.members:
        raise ConfigError(
            f"{home.root}: was made for the members {', '.join(settings.grid_members)}, now it is --grid"
            f" {OWN_GRID}; leave it out, or choose another --home"
        )
    told = (lambda text: None) if args.json else say
    start_grid(home, settings, told)
    names = tuple(args.services) or (*by_default(settings), *(BY_HAND if args.all else ()))
    states = start_services(home, names, told)
    failed = [state for state in states if not state.up]
    if args.json:
        print_json({
            "home": str(home.root), "grid": list(settings.grid_members),
            "services": {state.name: state.state for state in states}, "ok": not failed,
        })  # fmt: skip
        return 1 if failed else 0
    tell(f"{len(states) - len(failed)} of {len(states)} services run; logs are in {home.logs}")
    for state in failed:
        tell(f"{state.name} is {state.state}: {state.description}")
        tell(f"see why with: dolphin logs {state.name} --home {args.home}")
    if not failed and not set(names) & set(BY_HAND):
        tell(f"start trading on paper with: dolphin up trader --home {args.home}")
    tell(f"look with: dolphin status --home {args.home}")
    return 1 if failed else 0
