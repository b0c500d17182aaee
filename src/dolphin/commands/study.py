"""`dolphin study`: does the edge survive out of sample, after costs, and against the luck of the search?"""

from __future__ import annotations

import argparse
import dataclasses
import json
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dolphin.commands.shared import (
    add_json,
    add_settings,
    load_config,
    parameter_set,
    plural,
    print_json,
    say,
    tell,
)
from dolphin.domain.errors import ConfigError, DataError, StoreError

if TYPE_CHECKING:
    from dolphin.market.columns import Columns
    from dolphin.market.scan_cache import CacheReader

#: Seconds between two lines of progress.
TOLD_EVERY_S = 10.0

_EPILOG = """examples:
  dolphin study CACHE --set gold --out STUDY
  dolphin study CACHE --grid wide --train-days 20 --test-days 5
  dolphin study CACHE --grid settings.yml --trials-before 200

settings.yml holds names of parameters and the values to try:
  vel_div_threshold: [-0.015, -0.02, -0.03]
  max_hold_bars: [60, 120]

Writes study.json and study.html, with the verdict first. Every figure that it
rests on is after fees and slippage and without the imagined order-book edge.
Its settings enter the cache's sweep_trials.json. What sweeps and other studies
tried on any of these days counts as trials before it, by that ledger;
--trials-before says another number, 0 for none.
Exit 0 whatever the verdict is.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("cache", metavar="CACHE", help="folder made by `dolphin data build`")
    parser.add_argument(
        "--grid", default="small", metavar="small|wide|FILE", help="settings to try (default small)"
    )
    for name, text in (
        ("train-days", "days to learn on before each test (default: about a third of the period)"),
        ("test-days", "days to trade before learning again (default: about a tenth)"),
        ("embargo-days", "days between learning and trading that neither sees (default 1)"),
        ("folds", "folds of the cross-validation (default 6)"),
        ("shifts", "shifted runs of the signals, at most (default 499)"),
        ("reps", "bootstrap resamples (default 2000)"),
        ("trials-before", "settings tried before, counted as trials (default: the cache's ledger)"),
        ("study-seed", "seed of the resampling (default 1)"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text)
    parser.add_argument("--from", dest="first_day", metavar="YYYY-MM-DD", help="first day (default: all)")
    parser.add_argument("--to", dest="last_day", metavar="YYYY-MM-DD", help="last day (default: all)")
    parser.add_argument("--allow-partial", action="store_true", help="study incomplete days too, and say so")
    add_settings(parser, "set", "out", "vol_threshold", out="folder that takes study.json and study.html "
                 "(default: a new one under runs/)")  # fmt: skip
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Study; 0 when the two files are written."""
    config = load_config(args)
    name, params = parameter_set(config)

    from dolphin.backtest.sweep.trials import FELL_BACK, Entry, TrialLedger, data_sha256
    from dolphin.commands.run import default_folder
    from dolphin.host.finish import write_text
    from dolphin.journal.store import require_writable
    from dolphin.market.columns import period_inputs
    from dolphin.market.scan_cache import CacheReader
    from dolphin.report.study import render
    from dolphin.research.study import Study, named_grid, study, trials_digest, trials_of

    folder = Path(config["out"]) if config["out"] else default_folder(name, "study")
    given = {
        key: value
        for key in ("train_days", "test_days", "embargo_days", "folds", "shifts", "reps", "trials_before")
        if (value := getattr(args, key)) is not None
    }
    if args.study_seed is not None:
        given["seed"] = args.study_seed
    from_file = Path(args.grid).suffix in (".yml", ".yaml")
    asked = Study(
        set_name=name,
        params=params,
        grid=grid_file(Path(args.grid)) if from_file else named_grid(args.grid, params),
        grid_name=Path(args.grid).name if from_file else args.grid,
        vol_threshold=config["vol_threshold"],
        **given,
    )
    trials = trials_of(asked)
    if (folder / "study.json").exists():
        raise StoreError(f"{folder}: a study is here already; choose another --out")
    cache = CacheReader(Path(args.cache))
    columns = columns_of(cache, args)
    ledger = TrialLedger(Path(args.cache), folder)
    first_day, last_day, data = columns.days[0], columns.days[-1], data_sha256(cache, columns.days)
    key = f"study-{trials_digest(asked)[:16]}-{data[:16]}"
    if args.trials_before is None:
        before = ledger.total(first_day, last_day, but=key)
        asked = dataclasses.replace(asked, trials_before=before, trials_ledger=ledger.told)
    require_writable(folder)
    if not args.json:
        days = plural(len(columns.days), "day")
        say(f"studying {name} ({params.hash()}) over {days} of {args.cache} → {folder}")
    source = {
        "name": cache.manifest.source or Path(args.cache).name,
        "id": cache.manifest.source_id,
        "universe": cache.manifest.universe_id,
        "assets": len(cache.symbols),
        "notes": list(columns.notes),
    }
    told_at = time.monotonic()

    def on_progress(phase: str, done: int, total: int) -> None:
        nonlocal told_at
        if not args.json and total > 1 and time.monotonic() - told_at >= TOLD_EVERY_S:
            told_at = time.monotonic()
            say(f"{phase}: {done:,} of {total:,}")

    found = study(period_inputs(columns), asked, source, on_progress)
    # Before anybody can see a figure of it: what was seen is counted.
    entry = Entry(data=data, first_day=first_day, last_day=last_day, trials=len(trials), folder=folder.name)
    ledger.put(key, entry)
    write_text(folder / "study.json", json.dumps(found, indent=1, allow_nan=False) + "\n")
    write_text(folder / "study.html", render(found))
    if args.json:
        print_json(found)
    else:
        entered = [
            f"{plural(len(trials), 'setting')} entered in {ledger.path}",
            *[FELL_BACK] * ledger.fell_back,
        ]
        tell(told(found, folder, entered))
    return 0


def told(found: dict[str, Any], folder: Path, entered: Sequence[str] = ()) -> str:
    """The verdict as a terminal shows it; `entered` says what the ledger of trials was given."""
    verdict = found["verdict"]
    marks = {True: "passed", False: "not passed", None: "open"}
    lines = [verdict["headline"], ""]
    lines += [_wrapped(f"{x['about']}: {x['text']}") for x in verdict["sentences"]]
    lines += [
        "",
        *(f"  {marks[c['passed']]:<10} {c['question']} {c['value']}" for c in verdict["checks"]),
        "",
    ]
    lines += [_wrapped(f"note: {text}") for text in verdict["cautions"]]
    lines += [
        "",
        f"  result     {found['result_sha256']}",
        *(f"  {'' if k else 'trials':9}  {text}" for k, text in enumerate(entered)),
        f"  report     {folder / 'study.html'}",
    ]
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def grid_file(path: Path) -> dict[str, list[Any]]:
    """Names of parameters and the values to try, from a YAML file. Raises StoreError, ConfigError."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; name a file that can be read") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no YAML; expected lines like `max_hold_bars: [60, 120]`") from error
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(values, list) for key, values in content.items()
    ):
        raise ConfigError(f"{path}: expected names of parameters, each with a list, like max_hold_bars: [60]")
    return content


def columns_of(cache: CacheReader, args: argparse.Namespace) -> Columns:
    """The wanted days of a cache. Raises DataError for none, and for a day that is refused."""
    from dolphin.market.columns import Columns
    from dolphin.market.scan_cache import PartialDayError

    first, last = args.first_day or "", args.last_day or "9999-12-31"
    days = [day for day in cache.days() if first <= day <= last]
    if not days:
        raise DataError(f"{cache.folder}: no day between {args.first_day} and {args.last_day}")
    try:
        cache.check_end(args.last_day, args.allow_partial)
        return Columns.open(cache, days, args.allow_partial)
    except PartialDayError as error:
        raise DataError(f"{error}, or add --allow-partial") from error
