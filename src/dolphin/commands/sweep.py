"""`dolphin sweep`: many settings over one period, and what the best of them is worth."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dolphin.commands.shared import add_json, figure, plural, print_json, say, share, tell
from dolphin.commands.telling import WorkDisplay
from dolphin.domain.errors import DataError, UsageError

#: Seconds between two tellings of progress: on a terminal, and in a log.
LIVE_EVERY_S = 0.25
PLAIN_EVERY_S = 5.0

_EPILOG = """examples:
  dolphin sweep PLAN.yml --cache CACHE --out SWEEP
  dolphin sweep PLAN.yml --cache CACHE --out SWEEP     again: goes on, or tells
  dolphin sweep PLAN.yml --cache CACHE --check         only looks at the plan

PLAN.yml:
  base: gold                    # champion, gold or green
  first_day: 2021-04-02         # default: all days of the cache
  last_day: 2021-04-30
  without_ob_edge: true         # leave the imagined order-book edge out
  design: grid                  # or random, sobol (with n and seed)
  parameters:
    vel_div_threshold: [-0.015, -0.02, -0.03]
    vel_div_extreme: {ratio_of: vel_div_threshold, values: [2, 2.5, 3]}
    fixed_tp_pct: {low: 0.005, high: 0.015, step: 0.0025}
    max_hold_bars: {values: [60, 120, 240]}
    use_direction_confirm: [true, false]
  # random and sobol take: fixed_tp_pct: {low: 0.002, high: 0.02, scale: log}

docs/sweeps.md has every key, the columns of the results and how trials are
counted. A killed sweep goes on where it was and gives the same result digest.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("plan", metavar="PLAN.yml", help="what to sweep")
    parser.add_argument("--cache", required=True, metavar="CACHE", help="folder made by `dolphin data build`")
    parser.add_argument("--out", metavar="DIR", help="folder that takes results, manifest and report")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all cores; same results")
    parser.add_argument(
        "--memory-gb", type=float, default=1.5, metavar="GB",
        help="what the period may take (default 1.5); a longer one is run in pieces, with the same results",
    )  # fmt: skip
    parser.add_argument(
        "--part-size", type=int, default=500, metavar="N", help="bindings of one part of the results (500)"
    )
    parser.add_argument("--other-code", action="store_true", help="go on with a sweep that other code began")
    parser.add_argument("--check", action="store_true", help="look at plan and days, run nothing")
    parser.add_argument("--no-report", action="store_true", help="write no HTML report")
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Sweep; 0 when every binding has its row."""
    if args.threads is not None and args.threads < 1:
        raise UsageError(f"--threads {args.threads}: expected 1 or more")
    if not args.memory_gb > 0.0:
        raise UsageError(f"--memory-gb {args.memory_gb:g}: expected a number above 0")
    if args.part_size < 1:
        raise UsageError(f"--part-size {args.part_size}: expected 1 or more")
    if args.out is None and not args.check:
        raise UsageError("--out is missing: name the folder that takes the results")

    from dolphin.backtest.sweep.plan import read_plan, told_design
    from dolphin.backtest.sweep.run import sweep
    from dolphin.backtest.sweep.trials import FELL_BACK, TrialLedger
    from dolphin.market.scan_cache import CacheReader, PartialDayError

    plan = read_plan(Path(args.plan))
    cache = CacheReader(Path(args.cache))
    memory = int(args.memory_gb * 1e9)
    if args.check:
        return check(plan, cache, memory, args.part_size, args.json)
    folder = Path(args.out)
    if not args.json:
        say(f"sweeping {told_design(plan)}, around {plan.base} on {args.cache} → {folder}")
    try:
        telling = Telling(quiet=args.json)
        with telling:
            done = sweep(
                plan,
                cache,
                folder,
                cache_root=Path(args.cache),
                threads=args.threads,
                other_code=args.other_code,
                memory=memory,
                progress=telling,
                bindings_per_part=args.part_size,
            )
    except PartialDayError as error:
        raise DataError(f"{error}, or allow_partial: true in the plan") from error
    from dolphin.research.sweep_worth import worth

    judged = worth(done)
    found = summary(done, folder, judged)
    found["ledger_fell_back"] = TrialLedger(Path(args.cache), folder).fell_back
    if not args.no_report:
        from dolphin.host.finish import write_text
        from dolphin.report.sweep import render

        write_text(folder / "sweep.html", render(page(done, judged)))
        found["report"] = str(folder / "sweep.html")
    if args.json:
        print_json(found)
    else:
        tell(told(found, [FELL_BACK] * found["ledger_fell_back"]))
    return 0


def check(plan: Any, cache: Any, memory: int, part_size: int, as_json: bool) -> int:
    """Tell what a plan would run, without running it."""
    from dolphin.backtest.sweep.design import enumerated
    from dolphin.backtest.sweep.pieces import Period, shared_by
    from dolphin.backtest.sweep.plan import told_design

    design = enumerated(plan)
    period = Period(plan, cache, memory, shared_by(plan, design), min(part_size, len(design.runs)))
    n_assets = len(period.symbols)
    found = {
        "design": plan.design,
        "bindings": len(design.runs),
        "refused": len(design.refused),
        "refused_by_rule": design.by_rule(),
        "days": len(period.days),
        "bars": period.n_bars,
        "assets": n_assets,
        "memory_gb": round(period.bytes_at_once / 1e9, 3),
        "pieces": len(period.pieces),
    }
    if as_json:
        print_json(found)
        return 0
    lines = [f"{told_design(plan)} around {plan.base}; {plural(len(design.runs), 'binding')} would run"]
    lines += [f"  {axis.column:<24} {axis.told()}" for axis in plan.axes]
    lines += _told_refused(found["refused_by_rule"])
    cut = f"about {found['memory_gb']:g} GB"
    if len(period.pieces) > 1:
        cut += f" at once, in {len(period.pieces)} pieces"
    lines.append(
        f"  over {plural(len(period.days), 'day')}, {period.days[0]} to {period.days[-1]},"
        f" {plural(period.n_bars, 'bar')} of {plural(n_assets, 'asset')}, {cut}"
    )
    tell("\n".join(lines))
    return 0


def summary(done: Any, folder: Path, judged: dict[str, Any]) -> dict[str, Any]:
    """What a sweep came to, as plain values."""
    manifest, columns = done.manifest, done.rows.columns
    best = judged["best"]
    return {
        "answer": judged["answer"],
        "headline": judged["headline"],
        "sentences": judged["sentences"],
        "best": {
            "binding": best,
            **{axis.name: columns[axis.name][best].item() for axis in done.plan.axes},
            **{
                name: _plain(columns[name][best])
                for name in ("set_hash", "trades", "roi", "roi_marked", "sharpe", "ob_edge")
            },
        },
        "overfitting": judged["overfitting"],
        "deflated": judged["deflated"],
        "interval": judged["interval"],
        "without_edge": judged["without_edge"],
        "folder": str(folder),
        "bindings": len(done.rows),
        "computed": done.computed,
        "ran": round(done.ran, 3),
        "pieces": len(done.period.pieces),
        "refused": manifest.refused,
        "refused_by_rule": manifest.refused_by_rule,
        "earning_frac": float((columns["roi_marked"] > 0.0).mean()),
        "trials_ledger": done.trials_ledger,
        "ledger": str(done.ledger_path),
        "seconds": round(done.seconds, 3),
        "bindings_per_s": round(done.ran / done.seconds, 1) if done.computed else None,
        "result_sha256": manifest.result_sha256,
        "report": None,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    number = value.item()
    return None if number != number else number


def page(done: Any, judged: dict[str, Any]) -> dict[str, Any]:
    """What the report is made of."""
    plan, manifest, base = done.plan, done.manifest, done.plan.base_set
    axes = []
    for axis in plan.axes:
        own = getattr(base, axis.name)
        value = own / getattr(base, axis.ratio_of) if axis.ratio_of else own
        axes.append(
            {
                "column": axis.column,
                "kind": "float" if axis.ratio_of else axis.kind.__name__,
                "log": axis.log,
                "base": round(float(value), 10),
                "told": axis.told(),
            }
        )
    facts = {
        "design": plan.design,
        **({"drawn": plan.n, "seed": plan.seed} if plan.design != "grid" else {}),
        "objective": plan.objective,
        "base set hash": base.hash(),
        **{f"fixed {name}": value for name, value in plan.fixed.items()},
        **{f"option {name}": value for name, value in manifest.plan["options"].items()},
        "without order-book edge": plan.without_ob_edge,
        "vol_threshold": plan.vol_threshold,
        "plan": manifest.plan_sha256,
        "data": manifest.data["sha256"],
        "code": manifest.code_sha256,
        **{f"went on with code {k + 2}": entry["sha256"] for k, entry in enumerate(manifest.other_code)},
        "version": manifest.version,
        "ledger of trials": str(done.ledger_path.name),
    }
    return {
        "plan": {"base": plan.base, "design": plan.design, "without_ob_edge": plan.without_ob_edge},
        "data": manifest.data,
        "axes": axes,
        "columns": done.rows.columns,
        "daily": done.rows.daily,
        "base": {"columns": done.base.columns, "daily": done.base.daily},
        "days": done.days,
        "worth": judged,
        "refused": manifest.refused,
        "refused_by_rule": manifest.refused_by_rule,
        "trials_ledger": done.trials_ledger,
        "facts": facts,
        "result_sha256": manifest.result_sha256,
    }


def told(found: dict[str, Any], of_ledger: Sequence[str] = ()) -> str:
    """The same for a terminal; `of_ledger` says what the ledger of trials cannot know."""
    rate = f" in {found['seconds']:.1f} s, {found['bindings_per_s']:,.0f}/s" if found["computed"] else ""
    cut = [f"  pieces     {found['pieces']} of the period, one after the other"] * (found["pieces"] > 1)
    lines = [found["headline"], ""]
    lines += [f"  {text}" for text in found["sentences"]]
    lines += [
        "",
        f"  bindings   {found['bindings']:,}, {found['computed']:,} of them run now{rate}",
        *cut,
        f"  earn money {share(found['earning_frac'])} of them",
    ]
    lines += _told_refused(found["refused_by_rule"])
    lines += [
        f"  trials     {found['trials_ledger']:,} on any of these days, by {found['ledger']}",
        *(f"             {text}" for text in of_ledger),
        f"  result     {found['result_sha256']}",
        f"  results    {Path(found['folder']) / 'results'}",
        *([f"  report     {found['report']}"] if found["report"] else []),
    ]
    return "\n".join(lines)


def _told_refused(rules: list[dict[str, Any]]) -> list[str]:
    return [
        f"  refused    {plural(rule['count'], 'combination')}: {rule['rule']} (like: {rule['example']})"
        for rule in rules
    ]


class Telling(WorkDisplay):
    """Progress of a sweep: the display of long work, with how fast it goes and how long it will take."""

    def __init__(self, *, quiet: bool, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(quiet=quiet, clock=clock)
        self._begun: tuple[str, int, float] | None = None

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Take note of how far a phase is; tell it when it is time."""
        now = self._clock()
        if self._begun is None or self._begun[0] != phase:
            self._begun = (phase, done, now)
        if self._quiet or now - self._told_at < (LIVE_EVERY_S if self._live else PLAIN_EVERY_S):
            return
        self._told_at = now
        _, first, since = self._begun
        rate = (done - first) / (now - since) if now > since else 0.0
        speed = f", {figure(rate, 0)}/s, {figure((total - done) / rate, 0)} s left" if rate > 0.0 else ""
        if self._bar is not None:
            text = f"{done:,}/{total:,}, {figure(rate, 0)}/s"
            self._bar.update(self._task, completed=done, total=total, description=phase, text=text)
        else:
            say(f"{phase}: {done:,} of {total:,}{speed}")
