"""Universe files: which symbols, in which order.

A universe is a CSV file with a `symbol` column, or a YAML list of symbols (or a YAML mapping whose key
`symbols` holds that list). The order of the file is the order of the universe.
"""

from __future__ import annotations

import csv
import io
from importlib import resources
from pathlib import Path

import yaml

from dolphin.domain.errors import DataError, StoreError, UsageError, nearest, plural
from dolphin.domain.symbols import check_universe

DEFAULT_ASSETS = 50
WAY_OUT = "expected a CSV with a 'symbol' column or a YAML list of symbols"


def default_universe() -> tuple[str, ...]:
    """The packaged universe: 50 USDT perpetuals, BTCUSDT first."""
    text = resources.files("dolphin.market").joinpath("universe.yml").read_text(encoding="utf-8")
    return _from_yaml(text, "universe.yml")


def read_universe(path: Path) -> tuple[str, ...]:
    """The symbols of a universe file, in its order.

    Raises StoreError when the file cannot be read, DataError when it is no universe file, and ConfigError
    when a symbol is malformed or stands twice.
    """
    if path.is_dir():
        raise StoreError(f"{path}: is a folder; {WAY_OUT}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text file; {WAY_OUT}") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); {WAY_OUT}") from error
    if path.suffix.lower() in (".yml", ".yaml"):
        return _from_yaml(text, str(path))
    return _from_csv(text, str(path))


def take_assets(
    symbols: tuple[str, ...], n_assets: int | None, source: str
) -> tuple[tuple[str, ...], str | None]:
    """The first `n_assets` symbols, and a note when the source has fewer. None asks for up to 50.

    Raises UsageError when n_assets < 1.
    """
    if n_assets is None:
        return symbols[:DEFAULT_ASSETS], None
    if n_assets < 1:
        raise UsageError(f"assets is {n_assets}; a universe needs at least one")
    taken = symbols[:n_assets]
    if len(taken) < n_assets:
        has = f"{source} has {plural(len(taken), 'symbol')}"
        return taken, f"{has}, fewer than the {n_assets} asked for: all are taken"
    return taken, None


def require_symbols(wanted: tuple[str, ...], present: tuple[str, ...], panel: str, universe: str) -> None:
    """Raise DataError naming the first wanted symbol that the panel lacks, its nearest column and the way
    out.
    """
    known = set(present)
    missing = [symbol for symbol in wanted if symbol not in known]
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(
            f"{panel}: no column {missing[0]}{others}, which {universe} asks for."
            f"{nearest(missing[0], present)} Take it out of the universe, or ask for fewer assets"
        )


def _from_csv(text: str, source: str) -> tuple[str, ...]:
    try:
        reader = csv.DictReader(io.StringIO(text), strict=True)
        columns = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        if "symbol" not in columns:
            raise DataError(f"{source}: columns are {', '.join(columns)[:120] or 'none'}; {WAY_OUT}")
        symbols = [(row["symbol"] or "").strip() for row in reader]
    except csv.Error as error:
        raise DataError(f"{source}: is no CSV file ({error}); {WAY_OUT}") from error
    return check_universe(symbols, source)


def _from_yaml(text: str, source: str) -> tuple[str, ...]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{source}: is no YAML file ({first}); {WAY_OUT}") from error
    if isinstance(content, dict):
        content = content.get("symbols")
    if not isinstance(content, list) or not all(isinstance(item, str) for item in content):
        raise DataError(f"{source}: holds no list of symbols; {WAY_OUT}")
    return check_universe(content, source)
