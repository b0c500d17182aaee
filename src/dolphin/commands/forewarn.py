"""`dolphin forewarn`: train the forewarner on a scan cache; ask it about a parameter set."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dolphin.commands.shared import (
    add_json,
    add_settings,
    kernels_cached,
    load_config,
    parameter_set,
    plural,
    print_json,
    say,
    share,
    stop_on_signal,
    tell,
)
from dolphin.domain.errors import UsageError

if TYPE_CHECKING:
    from dolphin.research.forewarner.train import Progress

#: Seconds between two lines of progress.
TOLD_EVERY_S = 5.0

_EPILOG = """examples:
  dolphin forewarn train CACHE --out FOREWARNER
  dolphin forewarn assess --artefact FOREWARNER --set gold --boost 1.35
  dolphin run --forewarner FOREWARNER

Both verbs take --json.
"""

_TRAIN_EPILOG = """examples:
  dolphin forewarn train CACHE --out FOREWARNER
  dolphin forewarn train CACHE --out FOREWARNER --trials 16384 --seed 2

Configurations around the champion run on markets drawn from the cache's days. A
trial is a catastrophe with a drawdown above 40 % or an ROI below -30 %. Days
that teach and days that are held out are kept apart: the former choose the ranges,
the latter measure, and their good trials scale the envelope. Writes
forewarner.skops and manifest.json; the same cache, seed and versions give the
same answers.
"""

_ASSESS_EPILOG = """examples:
  dolphin forewarn assess --artefact FOREWARNER
  dolphin forewarn assess --artefact FOREWARNER --set champion --json

What a day would begin with: OK, ORANGE (half size) or RED (no entries). Without
--artefact no forewarner is wired, and the answer is ABSENT. Exit 1 when an
artefact cannot be used and the answer is its fallback.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    parser.epilog = _EPILOG
    verbs = parser.add_subparsers(dest="verb", metavar="train|assess", required=True)
    train = verbs.add_parser("train", help="learn from trials on a scan cache",
                             description="Learn from trials on a scan cache.",
                             epilog=_TRAIN_EPILOG)  # fmt: skip
    train.add_argument("cache", metavar="CACHE", help="folder made by `dolphin data build`")
    train.add_argument("--out", required=True, metavar="DIR", help="folder that takes the artefact")
    train.add_argument("--trials", type=int, default=8192, metavar="N",
                       help="configurations to try (default 8192)")  # fmt: skip
    train.add_argument("--days-per-trial", type=int, default=28, metavar="N",
                       help="days of each trial's market (default 28)")  # fmt: skip
    train.add_argument("--seed", type=int, default=1, metavar="N", help="of all that is drawn (default 1)")
    add_settings(train, "vol_threshold")
    assess = verbs.add_parser("assess", help="say what a parameter set would be let do",
                              description="Say what a parameter set would be let do.",
                              epilog=_ASSESS_EPILOG)  # fmt: skip
    assess.add_argument("--artefact", metavar="DIR", help="folder made by `dolphin forewarn train`")
    assess.add_argument("--boost", type=float, default=1.0, metavar="X",
                        help="the circuit breaker's boost (default 1)")  # fmt: skip
    add_settings(assess, "set")
    for sub in (train, assess):
        sub.set_defaults(parser=sub)
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
        add_json(sub)


def execute(args: argparse.Namespace) -> int:
    """Do the verb."""
    return _assess(args) if args.verb == "assess" else _train(args)


def _train(args: argparse.Namespace) -> int:
    config = load_config(args)

    from dolphin.market.scan_cache import CacheReader
    from dolphin.research.extra import library
    from dolphin.research.forewarner.artefact import require_free, save
    from dolphin.research.forewarner.markets import read_record
    from dolphin.research.forewarner.train import TrainSettings, train

    settings = TrainSettings(
        n_trials=args.trials,
        days_per_trial=args.days_per_trial,
        seed=args.seed,
        vol_threshold=config["vol_threshold"],
    )
    for name in ("sklearn", "skops", "scipy"):
        library(name)
    folder = Path(args.out)
    require_free(folder)
    started = time.monotonic()
    record = read_record(CacheReader(Path(args.cache)))
    record.groups()
    if not args.json:
        say(
            f"forewarner: {plural(settings.n_trials, 'trial')} of {plural(settings.days_per_trial, 'day')},"
            f" drawn from {plural(len(record.days), 'recorded day')} of {record.source}"
        )
        for text in record.left_out:
            say(f"note: left out: {text}")
        if not kernels_cached():
            say("compiling the kernels: about half a minute, once")
    told_at = started

    def on_progress(p: Progress) -> None:
        nonlocal told_at
        now = time.monotonic()
        if not args.json and now - told_at >= TOLD_EVERY_S:
            told_at = now
            caught = plural(p.catastrophes, "catastrophe")
            part = f"round {p.round}" if p.round else "held out"
            say(f"{part}: {p.done:,} of {plural(p.total, 'trial')}, {caught}")

    with stop_on_signal() as stop_requested:
        trained = train(record, settings, on_progress=on_progress, stop_requested=stop_requested)
    manifest = save(trained, folder)
    wall_s = round(time.monotonic() - started, 1)
    if args.json:
        print_json({**manifest, "folder": str(folder), "wall_s": wall_s})
        return 0
    tell("\n".join(_summary(manifest, folder, wall_s)))
    return 0


def _summary(manifest: dict[str, Any], folder: Path, wall_s: float) -> list[str]:
    m, days = manifest["metrics"], manifest["days"]
    rounds = manifest["rounds"]
    n_days = sum(len(group) for group in days["teaching"])
    gates = m["gates_held_out"]
    per_group = ", ".join(share(rate) for rate in m["rate_by_group"])
    told = "; ".join(f"{share(r['rate'])} at x{r['factor']:.2f}" for r in rounds)
    lines = [
        "",
        f"forewarner of {manifest['source']}",
        f"  days       {n_days} teach and calibrate in turn, {len(days['held_out'])} are held out",
        f"  trials     {manifest['trials']:,} on {plural(manifest['markets'], 'drawn market')} of"
        f" {plural(manifest['days_per_trial'], 'day')}",
        f"  ruin       {told} of the teaching trials (drawdown > 40 % or ROI < -30 %)",
        f"             by group of days {per_group}, the last held out",
        f"  held out   AUC {m['auc_held_out']:.3f}, Brier {m['brier_held_out']:.4f}; the taught base rate"
        f" alone {m['brier_of_the_teaching_rate']:.4f}",
        f"             base rate {share(m['base_rate_held_out'])}, said on average"
        f" {share(m['mean_probability_held_out'])}",
        f"  gates      of {m['trials_held_out']:,} held-out trials OK {gates['OK']:,}, ORANGE"
        f" {gates['ORANGE']:,}, RED {gates['RED']:,}",
        f"             of {plural(m['catastrophes_held_out'], 'catastrophe')}"
        f" {m['catastrophes_at_gate_ok']:,} stood at OK, {m['catastrophes_at_gate_red']:,} at RED",
        "             ORANGE and RED in part by a score whose -1 the good ones among these trials set",
    ]
    repairs = [f"{r['count']} x {r['rule']}" for r in manifest["repairs"].values() if r["count"]]
    lines += [f"  {'repaired' if k == 0 else '':9}  {text}" for k, text in enumerate(repairs)]
    idle = [f"{name}: {why}" for name, why in manifest["could_not_act"].items()]
    lines += [f"  {'not felt' if k == 0 else '':9}  {text}" for k, text in enumerate(idle)]
    lines += [
        f"  artefact   {folder}, SHA-256 {manifest['model_sha256'][:16]}",
        f"  took       {wall_s:.1f} s",
    ]
    return lines


def _assess(args: argparse.Namespace) -> int:
    config = load_config(args)
    name, params = parameter_set(config)
    if not 0.0 < args.boost < 1e6:
        raise UsageError(f"--boost {args.boost!r}: expected a number above 0, like 1.35")
    asked = {"set": name, "set_hash": params.hash(), "boost": args.boost}
    if not args.artefact:
        say("warning: no forewarner is wired, its lane stays 1.0; give --artefact DIR")
        if args.json:
            absent = {"status": "ABSENT", "gate": "ABSENT", "mc_scale": 1.0, "catastrophic_prob": None}
            print_json({**asked, **absent, "envelope_score": None, "source": None, "why": ""})
        else:
            tell(f"{name} ({params.hash()}) at boost {args.boost:g}: gate ABSENT, nothing is scaled")
        return 0

    from dolphin.research.forewarner.artefact import open_forewarner
    from dolphin.risk.forewarner import MC_SCALES, REAL_MODEL
    from dolphin.services.forewarner_gate import payload_of

    forewarner = open_forewarner(Path(args.artefact))
    said = forewarner.assess(params, args.boost, time.time_ns())
    if forewarner.why:
        say(f"warning: {forewarner.why}")
    if args.json:
        import msgspec

        payload = msgspec.to_builtins(payload_of(said))
        why = {"mc_scale": MC_SCALES[said.code], "artefact": forewarner.identity, "why": forewarner.why}
        print_json({**asked, **payload, **why})
    else:
        does = {"OK": "full size", "ORANGE": "half size", "RED": "no entries that day"}[said.gate]
        where = "inside" if said.envelope_score >= 0.0 else "outside"
        tell(
            f"{name} ({params.hash()}) at boost {args.boost:g}: gate {said.gate}, {does}\n"
            f"  probability {share(said.catastrophic_prob)} of a catastrophe, colour {said.status}\n"
            f"  envelope    {said.envelope_score:+.2f}, {where} that of good trials\n"
            f"  source      {said.source}, {forewarner.identity[:16]}"
        )
    return 0 if said.source == REAL_MODEL else 1
