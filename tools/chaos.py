"""Chaos from the command line: seeds of faults, and how many the system survived.

    python tools/chaos.py [--seeds 50] [--sim | --real] [--seed K] [--trace]

Nine of ten seeds are simulated on one virtual clock, the others kill real processes on a real grid; each is
judged by the same rules. Closes with `N passed, N failed`. `--seed K --trace` reruns one simulated seed and
tells what happened; `--real --seed K` one with real processes.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from statistics import median
from time import monotonic
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

if TYPE_CHECKING:
    from chaos.runs import Verdict


def simulated(seed: int, trace: bool) -> Verdict:
    """Run and judge one simulated seed."""
    from chaos.runs import verdict

    found = verdict(seed)
    if trace:
        print(*found.trace, sep="\n")
    print(f"sim  {found.line()}", flush=True)
    for text in found.broken:
        print(f"      {text}")
    if found.broken and not trace:
        print(f"      rerun: python tools/chaos.py --seed {seed} --trace")
    return found


def _tell_simulated(verdicts: list[Verdict]) -> None:
    """Both classes of digests, and how long services were away."""
    if len(verdicts) < 2:
        return
    kinds = Counter(found.kind for found in verdicts)
    print("simulated: " + ", ".join(f"{n} with {kind}" for kind, n in sorted(kinds.items())))
    away: dict[str, list[float]] = {}
    for found in verdicts:
        for name, seconds in found.recovered_s.items():
            away.setdefault(name, []).extend(seconds)
    for name, seconds in sorted(away.items()):
        print(
            f"  {name} died {len(seconds)} times, ran again after {median(seconds):.1f} s (median),"
            f" {max(seconds):.1f} s (longest) of its own clock"
        )


def real(seed: int) -> bool:
    """Run and judge one seed with real processes; True when nothing is broken."""
    from chaos.processes import SCENARIOS, run_scenario

    name = list(SCENARIOS)[seed % len(SCENARIOS)]
    started = monotonic()
    result = run_scenario(name, seed)
    state = "ok    " if not result.broken else "FAILED"
    print(f"real {seed:4d}  {state} {name}: {result.told}, {monotonic() - started:.0f} s", flush=True)
    for text in result.broken:
        print(f"      {text}")
    if result.broken:
        print(f"      rerun: python tools/chaos.py --real --seed {seed}")
    return not result.broken


def main() -> int:
    """Run the seeds; 0 when all of them passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=50, help="how many (default 50)")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--sim", action="store_true", help="only simulated seeds")
    parser.add_argument("--real", action="store_true", help="only seeds with real processes")
    parser.add_argument("--trace", action="store_true", help="tell what happened")
    args = parser.parse_args()
    n_real = args.seeds if args.real else 0 if args.sim else max(1, args.seeds // 10)
    n_sim = 0 if args.real else args.seeds - n_real
    seeds = [args.seed] if args.seed is not None else None
    verdicts = [simulated(seed, args.trace) for seed in (seeds if seeds and not args.real else range(n_sim))]
    _tell_simulated(verdicts)
    results = [found.passed for found in verdicts]
    if seeds is None or args.real:
        results += [real(seed) for seed in (seeds or range(n_real))]
    passed = sum(results)
    print(f"{passed} passed, {len(results) - passed} failed")
    return 0 if passed == len(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
