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

from dolphin.config import COMMAND_LINE, SETTINGS, Config, resolve
from dolphin.domain.errors import DataError, UsageError
from dolphin.domain.errors import plural as plural
from dolphin.host.telling import money as money
from dolphin.host.telling import price as price
from dolphin.host.telling import signed

if TYPE_CHECKING:
    from dolphin.domain.params import ParameterSet
    from dolphin.market.feed import Feed


def add_settings(parser: argparse.ArgumentParser, *names: str, out: str = "") -> None:
    """Add the options of the named settings, and --config, --param where a parameter set is among them.

    `out` is the help of --out for a command that writes elsewhere than a run does.
    """
    group = parser.add_argument_group("settings (default < file < environment < command line)")
    for setting in SETTINGS:
        if setting.name in names:
            default = f" (default {setting.default})" if setting.default != "" else ""
            group.add_argument(
                f"--{setting.name.replace('_', '-')}",
                metavar="|".join(setting.choices) or setting.metavar,
                help=out if out and setting.name == "out" else setting.help + default,
            )
    group.add_argument("--config", metavar="FILE", help="YAML file with settings (or DOLPHIN_CONFIG)")
    if "set" in names:
        group.add_argument(
            "--param",
            metavar="NAME=VALUE",
            action="append",
            default=[],
            help="override one parameter of the set",
        )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else on stdout"
    )


def bar_count(text: str) -> int:
    """A number of bars from the command line, 1 or more."""
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bars, expected 1 or more")
    return count


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


def deployment_of(config: Config, params: ParameterSet) -> str:
    """The deployment's name: as given, else BLUE for a SHORT set and GREEN for a LONG one."""
    if params.direction > 0 and not config.given("deployment"):
        return "GREEN"
    return str(config["deployment"])


def unused_options(config: Config, *names: str) -> str:
    """The first of these settings that stands on the command line, as its option; empty for none.

    A file or the environment may hold settings that this command does not use.
    """
    for name in names:
        if config.values[name].origin == COMMAND_LINE:
            return f"--{name.replace('_', '-')}"
    return ""


def universe_of(config: Config) -> tuple[str, ...]:
    """The symbols for live data: of the universe file, else the packaged universe. Raises DolphinError."""
    from dolphin.market.universe import default_universe, read_universe, take_assets

    file = config["universe"]
    found = read_universe(Path(file)) if file else default_universe()
    assets = config["assets"] if config.given("assets") else None
    return take_assets(found, assets, file or "the packaged universe")[0]


def open_live(config: Config, path: str | None, base_url: str | None, *, backfill: bool) -> Feed:
    """The exchange's live prices. Raises DolphinError, UsageError without the feeds extra."""
    if path:
        raise UsageError(f"{path}: the binance feed takes no PATH; did you mean --feed recorded?")
    if unused := unused_options(config, "seed", "days", "edge_bps"):
        raise UsageError(f"{unused} is for the synthetic market, live prices have none; leave it out")
    from dolphin.feeds.prices import BinancePrices

    return BinancePrices(universe_of(config), base_url=base_url, backfill=backfill)


def open_feed(config: Config, path: str | None) -> Feed:
    """The feed that the configuration names, with its past at hand. Raises DolphinError."""
    universe = Path(config["universe"]) if config["universe"] else None
    assets = config["assets"] if config.given("assets") else None
    if config["feed"] == "recorded":
        from dolphin.market.scan_cache import PartialDayError
        from dolphin.market.sources import open_recorded

        if not path:
            raise UsageError("--feed recorded needs the PATH of a Parquet panel or of a scan cache")
        if unused := unused_options(config, "seed", "days", "edge_bps"):
            raise UsageError(f"{unused} is for the synthetic market, a recording has none; leave it out")
        try:
            return open_recorded(Path(path), universe=universe, assets=assets)
        except PartialDayError as error:
            raise DataError(f"{error}, or give the PATH of a day's file that is whole") from error
    if config["feed"] == "binance":
        raise UsageError(
            "live prices have no past and no end; they are for `dolphin run`. Get a recording with "
            "`dolphin data download` and give --feed recorded PATH"
        )
    if path:
        raise UsageError(f"{path}: the {config['feed']} feed takes no PATH; did you mean --feed recorded?")
    if unused_options(config, "universe"):
        raise UsageError(
            f"{universe}: the synthetic market has its own universe; did you mean --feed recorded?"
        )
    from dolphin.market.synthetic import SyntheticFeed

    return SyntheticFeed(
        seed=config["seed"],
        days=config["days"],
        edge_bps=config["edge_bps"],
        assets=config["assets"],
    )


def tell_feed(feed: Feed) -> None:
    """What a person should know before a feed is worked through, on stderr."""
    say(f"{feed.name}: {plural(len(feed.symbols), 'asset')}, bars of {feed.interval_ns / 1e9:g} s")
    for note in feed.notes:
        say(f"note: {note}")
    if not kernels_cached():
        say("compiling the kernels: about half a minute, once")


def kernels_cached() -> bool:
    """False when the compiled kernels are not on disk yet, so that a run begins with a wait."""
    from dolphin import kernel

    if kernel.MODE != "compiled":
        return True
    import numba

    settings: Any = numba.config
    folder = settings.CACHE_DIR
    return bool(folder) and any(Path(folder).rglob("*.nbi"))


def say(text: str) -> None:
    """A line for the person, on stderr, at once."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def tell(text: str) -> None:
    """A line of the result, on stdout."""
    sys.stdout.write(text + "\n")


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout; NaN has no place in it."""
    tell(json.dumps(value, allow_nan=False, default=str))


@contextlib.contextmanager
def stop_on_signal(after: str = " after this bar") -> Iterator[Callable[[], bool]]:
    """SIGINT or SIGTERM ask for an orderly end; a second one ends at once.

    Yields what to ask after each bar; `after` is told as what is still finished.
    """
    told = f"\nstopping{after}; once more to stop at once\n".encode()
    asked: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        # Straight to the descriptor: the signal may have come in the middle of a print.
        with contextlib.suppress(OSError):
            os.write(2, told)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def change(value: float | None) -> str:
    """A fraction that may go either way, in percent with its sign."""
    return "n/a" if value is None else f"{signed(value * 100.0)} %"


def share(value: float | None, digits: int = 1) -> str:
    """A fraction of 0 to 1, in percent."""
    return "n/a" if value is None else f"{value * 100.0:.{digits}f} %"


def figure(value: float | None, digits: int = 2) -> str:
    """A number for people."""
    return "n/a" if value is None else f"{value:,.{digits}f}"
