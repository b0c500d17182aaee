"""`dolphin reproduce`: run a run again from what its folder remembers, and compare every bit."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dolphin.commands.shared import add_json, open_feed, plural, print_json, say, tell
from dolphin.domain.errors import DataError

if TYPE_CHECKING:
    from dolphin.backtest.reproduce import Change

_EPILOG = """examples:
  dolphin reproduce runs/RUN
  dolphin reproduce runs/RUN --json

Takes the folder of `backtest` or of `run`. Says what is another than it was
then (code, versions, parameter set, data), repeats the run into a temporary
folder (a backtest from the days' own files, with their checksums), and compares
the digest of all decisions, trades, cash flows and capital. Exit 0 only when
the result is the same, bit for bit.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("run", metavar="RUN", help="folder of a run or of a backtest")
    parser.add_argument(
        "--forewarner", metavar="ARTEFACT", help="the forewarner's folder, for a run that had one"
    )
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Reproduce; 0 only when the result is the same."""
    from dolphin.backtest.folder import summary_of
    from dolphin.backtest.reproduce import again, changes, compare
    from dolphin.commands.telling import WorkDisplay
    from dolphin.journal.bar_columns import read_journal

    folder = Path(args.run)
    journal = read_journal(folder)
    meta = journal.meta()
    journal.close()
    summary_of(folder)
    differing = changes(folder, meta)
    if not args.json:
        for change in differing:
            say(f"changed since: {_line(change)}")
    with (
        tempfile.TemporaryDirectory(prefix="dolphin-reproduce-") as place,
        WorkDisplay(quiet=args.json) as display,
    ):
        out = Path(place) / "again"

        def on_progress(done: int, total: int) -> None:
            display.progress("again", done, total)

        if "cache" in meta:
            summary = again(
                folder,
                meta,
                out,
                on_progress,
                lambda done, total: display.progress("reading days", done, total, unit="day"),
            )
        else:
            summary = _run_again(folder, meta, out, args.forewarner, on_progress)
        other = compare(folder, summary, out)
    if args.json:
        print_json({
            "same": not other, "decisions_sha256": summary["decisions_sha256"],
            "trades": summary["trades"], "capital": summary["capital"], "scans": summary["scans"],
            "changed": [_plain(change) for change in differing],
            "differences": [_plain(change) for change in other],
        })  # fmt: skip
    elif other:
        for change in other:
            tell(f"differs: {_line(change)}")
        tell("NOT reproduced" + ("" if differing else ", though nothing of code, set and data has changed"))
    else:
        tell(
            f"reproduced: {plural(summary['scans'], 'decision')}, {plural(summary['trades'], 'trade')},"
            f" capital {summary['capital']:,.8f} USDT, bit for bit"
        )
        tell(f"decisions sha256 {summary['decisions_sha256']}")
    return 1 if other else 0


def _plain(change: Change) -> dict[str, Any]:
    return {"what": change.what, "then": change.then, "now": change.now}


def _line(change: Change) -> str:
    return f"{change.what}: then {_short(change.then)}, now {_short(change.now)}"


def _short(text: str | None) -> str:
    if text is None:
        return "nothing"
    return f"{text[:16]}…" if len(text) == 64 else text


def _run_again(
    folder: Path,
    meta: Mapping[str, str],
    out: Path,
    artefact: str | None,
    on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Repeat `dolphin run`: its feed from its own command line, checked by the recorded source's id."""
    from dolphin.backtest.folder import settings_of, summary_of
    from dolphin.backtest.reproduce import parameters_of
    from dolphin.commands.run import open_assessor
    from dolphin.domain.codes import posture_code
    from dolphin.services.book_senses import books_named
    from dolphin.services.embedded import Progress, RunSettings, run

    settings = settings_of(folder)
    forewarner = open_assessor(artefact)
    if meta.get("forewarner", "") != ("" if forewarner is None else forewarner.identity):
        raise DataError(
            f"{folder}: was run with the forewarner {meta.get('forewarner') or 'none'!r};"
            " give its folder with --forewarner"
            if forewarner is None
            else f"{folder}: was run with another forewarner than {artefact}"
        )
    config, path = _config_of(folder, settings)
    feed = open_feed(config, path)
    if feed.source_id != meta["source_id"]:
        raise DataError(
            f"{folder}: its market was {meta['source']} ({meta['source_id'][:16]}…), its command gives"
            f" {feed.name} ({feed.source_id[:16]}…); the recording or the settings around it have changed"
        )
    asked = RunSettings(
        feed_name=meta["feed"],
        set_name=meta["set"],
        params=parameters_of(meta),
        folder=out,
        deployment=meta["deployment"],
        vol_threshold=float(meta["vol_threshold"]),
        scan_path="float64" if meta.get("spectrum") == "float64" else "fast",
        books=books_named(meta.get("books", "")),
        factors=bool(meta.get("factors")),
        posture_when_unknown=posture_code(meta["posture_when_unknown"]),
        limit_bars=int(summary_of(folder)["bars"]),
        report=False,
        forewarner=forewarner,
    )

    def told(p: Progress) -> None:
        on_progress(p.bars, p.bars_total or p.bars)

    return run(feed, asked, told)


def _config_of(folder: Path, settings: Mapping[str, Any]) -> tuple[Any, str | None]:
    """(configuration, recording) of a run's own command line and environment."""
    from dolphin.commands.run import arguments as arguments_of_run
    from dolphin.config import resolve

    words = settings.get("command")
    if not isinstance(words, list) or "run" not in words:
        raise DataError(
            f"{folder}: its settings name no `dolphin run` command (they say {json.dumps(words)});"
            " without it the market cannot be made again"
        )
    parser = argparse.ArgumentParser(prog="dolphin run", allow_abbrev=False)
    arguments_of_run(parser)
    args, _ = parser.parse_known_args(words[words.index("run") + 1 :])  # --debug is of every command
    file = getattr(args, "config", None)
    environment = settings.get("environment", {})
    return resolve(vars(args), file=Path(file) if file else None, environ=environment), args.path
