"""`dolphin config`: effective values and where each came from."""

from __future__ import annotations

import argparse

from dolphin.commands.shared import add_json, add_settings, load_config, parameter_set, print_json, tell
from dolphin.config import SETTINGS, Config

_EPILOG = """example:
  dolphin config --config my.yml --set champion --param max_leverage=4

Order of strength: default < file < environment (DOLPHIN_SET, DOLPHIN_ASSETS and
so on) < command line.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    add_settings(
        parser,
        *(setting.name for setting in SETTINGS),
        out="folder that takes what a command writes; empty: the command's own default",
    )
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Print the configuration; an invalid one is an error, as it would be for a run."""
    config = load_config(args)
    name, params = parameter_set(config)
    if args.json:
        values = {
            key: {"value": value, "origin": _origin(config, key)} for key, value in params.as_dict().items()
        }
        print_json({**config.as_dict(), "params": values, "set_name": name, "set_hash": params.hash()})
        return 0
    width = max(len(setting.name) for setting in SETTINGS) + 2
    for key, value in config.values.items():
        shown = "-" if value.value == "" else str(value.value)
        tell(f"{key:{width}}{shown:<16} {value.origin}")
    tell(f"\nparameters of {name}, hash {params.hash()}")
    width = max(len(key) for key in params.as_dict()) + 2
    for key, value in params.as_dict().items():
        tell(f"  {key:{width}}{value!s:<16} {_origin(config, key)}")
    return 0


def _origin(config: Config, parameter: str) -> str:
    """Where a parameter's value came from."""
    return config.params[parameter].origin if parameter in config.params else f"set {config['set']}"
