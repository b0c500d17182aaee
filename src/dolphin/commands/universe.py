"""`dolphin universe`: health of all books as a service, and the picker of symbols that reads it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dolphin.commands import service
from dolphin.commands.shared import add_json, figure, plural, print_json, say, tell
from dolphin.domain.errors import DataError, StoreError, UsageError

if TYPE_CHECKING:
    from dolphin.orderbook.universe import Figures

MIN_DEPTH_USD = 10_000.0
MAX_SPREAD_BPS = 10.0
MINUTES = 10.0
#: In which part of the snapshots a symbol has to be.
MIN_PRESENT_FRAC = 0.5
SHOWN = 20

_EPILOG = """examples:
  dolphin universe --home DIR
  dolphin universe pick --out symbols.yml

Without a verb it is a service: every minute the health of the books of all
USDT perpetuals goes to the grid, every five minutes into a Parquet part under
DIR/ob_universe, kept for ever unless --max-file-age-days says otherwise.
It runs until SIGTERM or SIGINT. `pick` lists the symbols that are healthy
enough to trade.
"""

_PICK_EPILOG = """examples:
  dolphin universe pick --min-depth 50000 --top 50 --out symbols.yml
  dolphin run --universe symbols.yml --feed binance

Figures are medians over the last minutes; depth is what the five best levels
show within 1 % of mid. Deepest first. Stablecoins are left out, and so is a
symbol that is in fewer than half of the snapshots.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the service and the subcommand."""
    service.arguments(parser)
    parser.epilog = _EPILOG
    parser.add_argument(
        "--max-file-age-days", type=float, default=0.0, metavar="DAYS",
        help="remove parts of days that ended longer ago (default 0: keep for ever)",
    )  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", metavar="pick")
    pick = verbs.add_parser(
        "pick", help="list the symbols that are healthy enough, and write them to a universe file",
        description="List the symbols that are healthy enough to trade.", epilog=_PICK_EPILOG,
    )  # fmt: skip
    where = pick.add_mutually_exclusive_group()
    where.add_argument("--dir", metavar="DIR", help="folder with date=YYYY-MM-DD/ (default HOME/ob_universe)")
    where.add_argument("--grid", action="store_true", help="the newest snapshot on the grid instead")
    pick.add_argument(
        "--home", default=argparse.SUPPRESS, metavar="HOME",
        help="the system's folder (default dolphin-home)",
    )  # fmt: skip
    pick.add_argument(
        "--minutes", type=float, default=MINUTES, metavar="M",
        help=f"how far back from the newest snapshot (default {MINUTES:g})",
    )  # fmt: skip
    pick.add_argument(
        "--min-depth", type=float, default=MIN_DEPTH_USD, metavar="USD",
        help=f"least median depth (default {MIN_DEPTH_USD:g})",
    )  # fmt: skip
    pick.add_argument(
        "--max-spread", type=float, default=MAX_SPREAD_BPS, metavar="BPS",
        help=f"widest median spread (default {MAX_SPREAD_BPS:g})",
    )  # fmt: skip
    pick.add_argument("--top", type=int, metavar="N", help="the N deepest of them (default all)")
    pick.add_argument("--out", metavar="FILE", help="universe file to write: .yml, .yaml or .csv")
    pick.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    pick.set_defaults(parser=pick)
    add_json(pick)


def execute(args: argparse.Namespace) -> int:
    """Run the service, or pick; 0 when it was told to stop, or when symbols were found."""
    if args.verb == "pick":
        return _pick(args)
    if not 0.0 <= args.max_file_age_days < float("inf"):
        raise UsageError(f"--max-file-age-days {args.max_file_age_days:g}: expected days from 0")
    from dolphin.services.home import Home
    from dolphin.services.process import run_service
    from dolphin.services.table import BY_COMMAND

    return run_service(
        BY_COMMAND["universe"],
        Home(Path(args.home)),
        options={"log_as_json": args.json, "max_file_age_days": args.max_file_age_days},
        log_level=args.log_level,
    )


def _pick(args: argparse.Namespace) -> int:
    from dolphin.domain.symbols import BTC
    from dolphin.orderbook.universe import pick

    out = _checked(args)
    figures, told = _from_grid(args) if args.grid else _from_parts(args)
    taken, left_out = pick(
        figures,
        min_depth_usd=args.min_depth,
        max_spread_bps=args.max_spread,
        min_present_frac=MIN_PRESENT_FRAC,
        top=args.top,
    )
    why = ", ".join(f"{n} {rule}" for rule, n in left_out.items())
    if not taken:
        raise DataError(
            f"{told['source']}: none of {plural(len(figures), 'symbol')} is healthy enough ({why}); loosen "
            "--min-depth or --max-spread"
        )
    if out is not None:
        from dolphin.host.finish import write_text

        write_text(out, (_csv if out.suffix == ".csv" else _yaml)(taken, told))
    found: dict[str, Any] = {
        **told,
        "symbols_seen": len(figures),
        "left_out": left_out,
        "picked": [_row(one) for one in taken],
        "out": None if out is None else str(out),
    }
    if args.json:
        print_json(found)
        return 0
    for line in told["faults"][:5]:
        say(f"left out: {line}")
    tell(f"{len(taken)} of {plural(len(figures), 'symbol')} picked, {plural(told['snapshots'], 'snapshot')}"
         f" up to {told['newest']}")  # fmt: skip
    if why:
        tell(f"  left out   {why}")
    tell(f"  {'symbol':<16} {'spread bps':>10} {'depth USD':>14} {'quality':>8} {'imbalance':>9}")
    for one in taken[:SHOWN]:
        tell(
            f"  {one.symbol:<16} {figure(one.spread_bps):>10} {figure(one.depth_1pct_usd, 0):>14}"
            f" {figure(one.depth_quality):>8} {figure(one.imbalance):>9}"
        )
    if len(taken) > SHOWN:
        tell(f"  and {len(taken) - SHOWN} more")
    if BTC not in {one.symbol for one in taken}:
        tell(f"  note       {BTC} is not among them; the volatility gate of a run reads its prices")
    if out is not None:
        tell(f"  universe   {out}; dolphin run --universe {out} takes it")
    return 0


def _checked(args: argparse.Namespace) -> Path | None:
    """Where the file goes. Raises UsageError for options that cannot be meant."""
    for option, value in (("--min-depth", args.min_depth), ("--max-spread", args.max_spread)):
        if not 0.0 <= value < float("inf"):
            raise UsageError(f"{option} {value:g}: expected a number from 0")
    if not 0.0 < args.minutes <= 10 * 1_440:
        raise UsageError(f"--minutes {args.minutes:g}: expected above 0 and at most ten days")
    if args.top is not None and args.top < 1:
        raise UsageError(f"--top {args.top}: expected 1 or more")
    if args.out is None:
        return None
    out = Path(args.out)
    if out.suffix not in (".yml", ".yaml", ".csv"):
        raise UsageError(f"--out {args.out}: expected a name that ends with .yml, .yaml or .csv")
    return out


def _from_parts(args: argparse.Namespace) -> tuple[list[Figures], dict[str, Any]]:
    import pyarrow as pa

    from dolphin.domain.clock import iso_from_ns
    from dolphin.market.universe_files import UNIVERSE_FOLDER, read_last
    from dolphin.orderbook.universe import figures_of

    folder = Path(args.dir) if args.dir else Path(args.home) / UNIVERSE_FOLDER
    if folder.is_file():
        raise UsageError(f"--dir {folder}: is a file; give the folder that has date=YYYY-MM-DD/")
    if (folder / UNIVERSE_FOLDER).is_dir():
        folder /= UNIVERSE_FOLDER
    table, faults = read_last(folder, args.minutes)
    stamps = set(table["ts"].cast(pa.int64()).to_pylist())
    rows: dict[str, list[tuple[float, float, float, float]]] = {}
    names = ("spread_bps", "depth_1pct_usd", "depth_quality", "imbalance")
    columns = [table[name].to_pylist() for name in names]
    for symbol, *row in zip(table["symbol"].to_pylist(), *columns, strict=True):
        rows.setdefault(symbol, []).append((row[0], row[1], row[2], row[3]))
    told = {
        "source": str(folder),
        "newest": iso_from_ns(max(stamps)),
        "snapshots": len(stamps),
        "faults": faults,
    }
    return figures_of(rows, len(stamps)), told


def _from_grid(args: argparse.Namespace) -> tuple[list[Figures], dict[str, Any]]:
    from dolphin.grid.topics import OBF_UNIVERSE
    from dolphin.grid.typed import TypedGrid
    from dolphin.orderbook.universe import figures_of
    from dolphin.services.grid_client import open_grid
    from dolphin.services.home import Home

    grid = open_grid(Home(Path(args.home)).load())
    try:
        found = TypedGrid(grid).get(OBF_UNIVERSE)
    finally:
        grid.close()
    if found is None:
        raise StoreError(
            "the grid: no snapshot of the universe there; `dolphin universe` puts one each minute"
        )
    rows = {
        symbol: [(one.spread_bps, one.depth_1pct_usd, one.depth_quality, one.imbalance)]
        for symbol, one in found.assets.items()
    }
    told = {"source": "the grid", "newest": found.snapshot_utc, "snapshots": 1, "faults": []}
    return figures_of(rows, 1), told


def _row(one: Figures) -> dict[str, Any]:
    return {
        "symbol": one.symbol,
        "spread_bps": one.spread_bps,
        "depth_1pct_usd": one.depth_1pct_usd,
        "depth_quality": one.depth_quality,
        "imbalance": one.imbalance,
        "present_frac": one.present_frac,
    }


def _yaml(taken: list[Figures], told: dict[str, Any]) -> str:
    """A universe file whose comments have the figures."""
    lines = [f"# {plural(told['snapshots'], 'snapshot')} up to {told['newest']}; median spread and depth"]
    lines += ["symbols:"]
    for one in taken:
        spread, depth = figure(one.spread_bps), figure(one.depth_1pct_usd, 0)
        lines.append(f"  - {one.symbol:<24} # {spread} bps, {depth} USD")
    return "\n".join(lines) + "\n"


def _csv(taken: list[Figures], told: dict[str, Any]) -> str:
    """A universe file with the figures as columns."""
    rows = [_row(one) for one in taken]
    return "\n".join([",".join(rows[0]), *(",".join(str(v) for v in row.values()) for row in rows)]) + "\n"
