"""Chaos from the command line: seeds of faults, and how many the system survived.

    python tools/chaos.py [--seeds 50] [--sim | --real] [--seed K] [--trace]

Nine of ten seeds are simulated on one virtual clock, the others kill real processes on a real grid; each is
judged by the same rules. Closes with `N passed, N failed`. `--seed K --trace` reruns one simulated seed and
tells what happened; `--real --seed K` one with real processes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


def simulated(seed: int, trace: bool) -> bool:
    """Run and judge one simulated seed; True when nothing is broken."""
    from chaos.sim_seeds import verdict
    from chaos.simulation import faults_of

    started = monotonic()
    found = verdict(seed)
    kind = "digest of the quiet run" if found.equal else "digest of its own inputs"
    state = "ok    " if not found.broken else "FAILED"
    print(
        f"sim  {seed:4d}  {state} {kind}, {found.trades} trades, {found.entries_refused} scans too late,"
        f" {monotonic() - started:.1f} s",
        flush=True,
    )
    if trace:
        print(*(fault.told() for fault in faults_of(seed)), "", *found.trace, sep="\n")
    for text in found.broken:
        print(f"      {text}")
    if found.broken and not trace:
        print(f"      rerun: python tools/chaos.py --seed {seed} --trace")
    return not found.broken


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
    results = [simulated(seed, args.trace) for seed in (seeds if seeds and not args.real else range(n_sim))]
    if seeds is None or args.real:
        results += [real(seed) for seed in (seeds or range(n_real))]
    passed = sum(results)
    print(f"{passed} passed, {len(results) - passed} failed")
    return 0 if passed == len(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
