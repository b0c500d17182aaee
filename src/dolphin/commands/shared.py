"""What several commands share: options, configuration, opening a feed, talking to a person."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from dolphin.config import SETTINGS, Config, resolve
from dolphin.domain.errors import UsageError

if TYPE_CHECKING:
    from dolphin.domain.params import ParameterSet
    from dolphin.market.feed import Feed


def add_settings(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add the options of the named settings, and --config, --param where a parameter set is among them."""
    group = parser.add_argument_group("settings (default < file < environment < command line)")
    for setting in SETTINGS:
        if setting.name in names:
            default = f" (default {setting.default})" if setting.default != "" else ""
            group.add_argument(
                f"--{setting.name.replace('_', '-')}",
                metavar="|".join(setting.choices) if setting.choices else setting.kind.__name__.upper(),
                help=setting.help + default,
            )
    group.add_argument("--config", metavar="FILE", help="YAML file with settings (or DOLPHIN_CONFIG)")
    if "set" in names:
        group.add_argument(
            "--param", metavar="NAME=VALUE", action="append", default=[], help="override one parameter of the set"
        )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")


def load_config(args: argparse.Namespace) -> Config:
    """The effective configuration of a command's options. Raises ConfigError."""
    params: dict[str, str] = {}
    for pair in getattr(args, "param", []):
        name, found, text = pair.partition("=")
        if not found:
            raise UsageError(f"--param {pair!r}: expected NAME=VALUE, like max_leverage=7")
        params[name] = text
    file = getattr(args, "config", None)
    return resolve(vars(args), params=params, file=Path(file) if file else None, environ=os.environ)


def parameter_set(config: Config) -> tuple[str, ParameterSet]:
    """(name, set): the named set after its drift check, with overrides under a name that says so."""
    from dolphin.domain.params import load_set

    name = config["set"]
    base = load_set(name)
    if not config.params:
        return name, base
    values = {key: value.value for key, value in config.params.items()}
    return f"{name}+{','.join(sorted(values))}", base.with_values(values)


def open_feed(config: Config, path: str | None) -> Feed:
    """The feed that the configuration names. Raises DolphinError."""
    universe = Path(config["universe"]) if config["universe"] else None
    if config["feed"] == "recorded":
        from dolphin.market.sources import open_recorded

        if not path:
            raise UsageError("--feed recorded needs the PATH of a Parquet panel or of a scan cache")
        return open_recorded(Path(path), universe=universe, assets=config["assets"])
    if path:
        raise UsageError(f"{path}: the {config['feed']} feed takes no PATH; did you mean --feed recorded?")
    if universe is not None:
        raise UsageError(f"{universe}: the synthetic market has its own universe; did you mean --feed recorded?")
    from dolphin.market.synthetic import SyntheticFeed

    return SyntheticFeed(seed=config["seed"], days=config["days"], assets=config["assets"])


def say(text: str) -> None:
    """A line for the person, on stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout; NaN has no place in it."""
    print(json.dumps(value, allow_nan=False, default=str))


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """SIGINT or SIGTERM ask for an orderly end; a second one ends at once. Yields what to ask after each bar."""
    asked: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        say("stopping after this bar; once more to stop at once")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction for people."""
    return "n/a" if value is None else f"{value * 100:+.{digits}f} %"


def figure(value: float | None, digits: int = 2) -> str:
    """A number for people."""
    return "n/a" if value is None else f"{value:,.{digits}f}"
