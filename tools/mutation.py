"""Do the alpha's tests notice when the alpha is wrong? Change one thing at a time and see.

    .venv/bin/python tools/mutation.py                                 every file of src/dolphin/alpha
    .venv/bin/python tools/mutation.py src/dolphin/alpha/exits.py      one file
    .venv/bin/python tools/mutation.py --list src/dolphin/alpha/exits.py

A mutant is a module with one operator, comparison, constant, condition, return or statement changed. The unit
tests of alpha and engine are collected once, in plain mode; each mutant is a forked copy of that process
whose functions have the changed code, so the working tree is never touched and nothing is imported twice. It
is killed when a test fails or a time limit passes. The exit status is 0 when the score reaches --least.

Why not a ready-made tool: the common ones either skip decorated functions, and every kernel is one, or
rewrite the sources in place and start one pytest a mutant: an hour here instead of minutes. The slow twin of
`tests/properties` would kill more still; the unit tests have to do it alone.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from _pytest.main import pytest_runtestloop

ROOT = Path(__file__).resolve().parents[1]
ALPHA = ROOT / "src/dolphin/alpha"

SIGN = "only the sign of a zero, which no comparison sees"
SAME = "both sides are the same value when equal"
RATIO = "from the extreme on the signal ratio is 1 by itself: rounding is monotone"
ONE = "there is one column, the first and the last"
FEW = "a missing price leaves no gain, so that the latency drops the asset"
A = "dolphin.alpha."

#: Mutants that no test can kill, by (module, source of the changed line, change), with the reason.
EQUIVALENT: dict[tuple[str, str, str], str] = {
    (A + "exits", "if shortest < new_hold:", "Lt -> LtE, operand 0"): SAME,
    (
        A + "exits",
        "size = spread_at_entry if spread_at_entry >= 0.0 else -spread_at_entry",
        "GtE -> Gt, operand 0",
    ): SIGN,
    (A + "exits", "now = spread if spread >= 0.0 else -spread", "GtE -> Gt, operand 0"): SIGN,
    (
        A + "exits",
        "towards = spread if spread_at_entry > 0.0 else -spread",
        "Gt -> GtE, operand 0",
    ): "a spread of zero at entry is treated by the next line",
    (A + "lanes", "if gain > 0.15:", "Gt -> GtE, operand 0"): SAME,
    (A + "lanes", "if factor < 0.85:", "Lt -> LtE, operand 0"): SAME,
    (A + "lanes", "return 1.20 if factor > 1.20 else factor", "Gt -> GtE, operand 0"): SAME,
    (A + "lanes", "return 0.85 if factor < 0.85 else factor", "Lt -> LtE, operand 0"): SAME,
    (A + "lanes", "if beta > 0.0:", "Gt -> GtE, operand 0"): "a beta of 0 multiplies by 1",
    (A + "selection", "best[a] = c if c > best[a] else best[a]", "Gt -> GtE, operand 0"): SAME,
    (A + "selection", "worst[a] = c if c < worst[a] else worst[a]", "Lt -> LtE, operand 0"): SAME,
    (A + "selection", "if ars < 0.0:", "Lt -> LtE, operand 0"): "zero stays zero either way",
    (A + "selection", "if running * sign >= level:", "Mult -> Div"): "a sign is -1 or +1",
    (A + "selection", "window[i, 0] = prices[start + i]", "0 -> -1"): ONE,
    (A + "selection", "work = np.empty((PROFILE_ROWS, 1))", "1 -> 2"): "a second column is not read",
    (A + "selection", "best = work[BEST, 0]", "0 -> -1"): ONE,
    (A + "selection", "mae = 0.0 - work[WORST, 0]", "0 -> -1"): ONE,
    (A + "selection", "steps = work[UPS, 0]", "0 -> -1"): ONE,
    (A + "selection", "steps = work[DOWNS, 0]", "0 -> -1"): ONE,
    (A + "selection", "noise = work[NOISE, 0]", "0 -> -1"): ONE,
    (A + "selection", "latency = impulse_latency(window, 0, sign, relative, best)", "0 -> -1"): ONE,
    (A + "selection", "if ends[asset] - first[asset] < IRP_PRICES:", "If dropped"): FEW,
    (A + "selection", "if ends[asset] - first[asset] < IRP_PRICES:", "Sub -> Add"): FEW,
    (A + "selection", "end = ends[0]", "0 -> -1"): "all ends are compared with it",
    (
        A + "selection",
        "window[i, a] = prices[start + i, a] if start >= first[a] else 1.0",
        "1.0 -> 1.01",
    ): "what stands for a missing price is not read",
    (
        A + "selection",
        "if alignment < ALIGNMENT_MIN or (min_alignment > 0.0 and alignment < min_alignment):",
        "Lt -> LtE, operand 0",
    ): "no share of 49 steps is 0.20",
    (
        A + "selection",
        "if alignment < ALIGNMENT_MIN or (min_alignment > 0.0 and alignment < min_alignment):",
        "Gt -> GtE, operand 0",
    ): "no alignment is below 0",
    (
        A + "selection",
        "if min_alignment > 0.0 and aligned[place] / STEPS < min_alignment:",
        "Gt -> GtE, operand 0",
    ): "no alignment is below 0",
    (
        A + "selection",
        "actions[place] = DIRECT if long == (direction > 0) else INVERSE",
        "Gt -> GtE, operand 0",
    ): "a direction is -1 or +1",
    (
        A + "selection",
        "actions[place] = DIRECT if long == (direction > 0) else INVERSE",
        "0 -> -1",
    ): "a direction is -1 or +1",
    (A + "volatility", "_DOUBTFUL = 1e-12", "1e-12 -> 1.01e-12"): "a margin, far above any error",
    (A + "volatility", "for t in range(prices.shape[0]):", "0 -> -1"): ONE,
    (
        A + "volatility",
        "n = count if count < PRICES_KEPT else PRICES_KEPT",
        "Lt -> LtE, operand 0",
    ): SAME,
    (
        A + "volatility",
        "returns[count % PRICES_KEPT] = (price - last) / last",
        "Sub -> Add",
    ): "two more on every return leaves its variance, and what rounding that costs is in doubt",
    (A + "volatility", "s1 = s1 + r", "Add -> Sub"): "only its square is used",
    (
        A + "volatility",
        "margin = _DOUBTFUL * (n * s2 + limit)",
        "Add -> Sub",
    ): "a margin of the same size wherever the answer is near",
    (
        A + "volatility",
        "verdict[t - kept] = moment > limit",
        "Gt -> GtE, operand 0",
    ): "equality is in doubt and decided by integers",
    (
        A + "volatility",
        "doubt[t - kept] = not (moment - limit > margin or limit - moment > margin)",
        "Gt -> GtE, operand 0",
    ): "a bar more or less that integers decide",
    (
        A + "volatility",
        "squares = squares + (r - mean) * (r - mean)",
        "Sub -> Add",
    ): "the same sum of squares in its other form",
}


def equivalent(mutant: Mutant) -> str | None:
    """Why no test can kill this mutant, or None."""
    if "direction < 0" in mutant.source and mutant.change in ("Lt -> LtE, operand 0", "0 -> 1"):
        return "a direction is -1 or +1"
    if mutant.source.startswith("if (direction < 0 and vel_div <= extreme) or (direction > 0"):
        return RATIO
    return EQUIVALENT.get(mutant.key)


COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
}


@dataclass(frozen=True)
class Mutant:
    """One change of one module."""

    module: str
    line: int
    source: str
    change: str
    tree: ast.Module

    @property
    def key(self) -> tuple[str, str, str]:
        return self.module, self.source, self.change

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.source}    [{self.change}]"


def _variants(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may stand in a node's place, with a word for the change."""
    match node:
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                for other in COMPARISONS.get(type(op), ()):
                    changed = copy.deepcopy(node)
                    changed.ops[i] = other()
                    yield f"{type(op).__name__} -> {other.__name__}, operand {i}", changed
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in ARITHMETIC:
            changed = copy.deepcopy(node)
            changed.op = ARITHMETIC[type(op)]()
            yield f"{type(op).__name__} -> {type(changed.op).__name__}", changed
        case ast.BoolOp(op=op):
            changed = copy.deepcopy(node)
            changed.op = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield f"{type(op).__name__} -> {type(changed.op).__name__}", changed
        case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
            yield f"drop {type(node.op).__name__}", copy.deepcopy(operand)
        case ast.Constant(value=bool() as value):
            yield f"{value} -> {not value}", ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield f"{value} -> {value + 1}", ast.Constant(value + 1)
            yield f"{value} -> {value - 1}", ast.Constant(value - 1)
        case ast.Constant(value=float() as value):
            yield f"{value} -> {value * 1.01 or 1.0}", ast.Constant(value * 1.01 or 1.0)
        case ast.If(test=test) | ast.IfExp(test=test):
            if not isinstance(test, ast.Compare):
                changed = copy.deepcopy(node)
                changed.test = ast.UnaryOp(ast.Not(), changed.test)
                yield "condition negated", changed
        case ast.Return(value=value) if value is not None and not isinstance(value, ast.Constant):
            yield "return None", ast.Return(ast.Constant(None))
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.If, ast.Continue)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield f"{type(node).__name__} dropped", ast.Pass()


def _slots(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Every place of the tree that holds a node and is no annotation, decorator or docstring."""
    for field, value in ast.iter_fields(tree):
        if (
            field in ("annotation", "returns", "decorator_list", "args", "type_params", "slice")
            and not (isinstance(tree, ast.Call) and field == "args")
            and not (isinstance(tree, ast.Subscript) and field == "slice" and not isinstance(value, ast.Name))
        ):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                yield tree, field, index
                yield from _slots(child)


def mutants(path: Path) -> list[Mutant]:
    """Every mutant of one source file."""
    text = path.read_text()
    lines = text.splitlines()
    module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
    found = []
    n_slots = sum(1 for _ in _slots(ast.parse(text)))
    for number in range(n_slots):
        owner, field, index = next(x for i, x in enumerate(_slots(ast.parse(text))) if i == number)
        value = getattr(owner, field)
        node = value if index is None else value[index]
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        for change, other in _variants(node):
            if isinstance(other, ast.Pass) and isinstance(owner, ast.Module):
                continue  # nothing would be left to import
            tree = ast.parse(text)
            owner, field, index = next(x for i, x in enumerate(_slots(tree)) if i == number)
            if index is None:
                setattr(owner, field, other)
            else:
                getattr(owner, field)[index] = other
            line = getattr(node, "lineno", 1)
            ast.fix_missing_locations(tree)
            found.append(Mutant(module, line, lines[line - 1].strip(), change, tree))
    return found


def _change_code(old: FunctionType, new: FunctionType) -> None:
    old.__code__ = new.__code__
    old.__defaults__ = new.__defaults__


def _apply(mutant: Mutant) -> None:
    """Give the imported module's functions, methods and constants the mutant's code and values."""
    module = sys.modules[mutant.module]
    fresh: dict[str, Any] = {"__name__": mutant.module}
    exec(compile(mutant.tree, f"<{mutant.module}>", "exec"), fresh)
    for name, new in fresh.items():
        old = vars(module).get(name)
        if isinstance(new, FunctionType) and new.__module__ == mutant.module:
            _change_code(old, new)
        elif isinstance(new, type) and new.__module__ == mutant.module:
            for attribute, method in vars(new).items():
                if isinstance(method, FunctionType):
                    _change_code(vars(old)[attribute], method)
                elif isinstance(method, property):
                    _change_code(vars(old)[attribute].fget, method.fget)
        elif isinstance(new, (bool, int, float)) and new != old:
            for other in [m for n, m in sys.modules.items() if n.startswith(("dolphin.", "test_"))]:
                if vars(other).get(name) == old:
                    setattr(other, name, new)


def _try_mutant(mutant: Mutant, session: pytest.Session, limit_s: int) -> None:
    """In the forked process: change the code, run the tests, leave with 0 if they all pass."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
    status = 1
    try:
        own = f"test_alpha_{mutant.module.rpartition('.')[2]}.py"
        session.items.sort(key=lambda item: item.path.name != own)
        _apply(mutant)
        pytest_runtestloop(session)
        status = 1 if session.testsfailed else 0
    finally:
        os._exit(status)


class Mutation:
    """The plug-in that runs every mutant where pytest would run the collected tests."""

    def __init__(self, by_file: dict[Path, list[Mutant]], jobs: int, limit_s: int) -> None:
        self.by_file, self.jobs, self.limit_s = by_file, jobs, limit_s
        self.killed = self.total = 0

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        pytest_runtestloop(session)
        print(flush=True)
        if session.testsfailed:
            print("the tests fail without any mutant; mend them first")
            return True
        for path, found in self.by_file.items():
            alive = self._survivors(found, session)
            unkillable = sum(equivalent(mutant) is not None for mutant in alive)
            n, k = len(found) - unkillable, len(found) - len(alive)
            self.killed, self.total = self.killed + k, self.total + n
            share = f"{k / n:.1%}" if n else "none"
            print(
                f"{path.relative_to(ROOT)}: {k} of {n} killed, {share}; {unkillable} equivalent", flush=True
            )
        return True

    def _survivors(self, found: list[Mutant], session: pytest.Session) -> list[Mutant]:
        waiting, running, alive = list(reversed(found)), {}, []
        while waiting or running:
            while waiting and len(running) < self.jobs:
                mutant = waiting.pop()
                pid = os.fork()
                if pid == 0:
                    _try_mutant(mutant, session, self.limit_s)
                running[pid] = mutant
            pid, status = os.wait()
            mutant = running.pop(pid)
            if status == 0:
                alive.append(mutant)
                reason = equivalent(mutant)
                word, why = ("equivalent", f"  ({reason})") if reason else ("SURVIVED", "")
                print(f"{word}  {mutant}{why}", flush=True)
        return alive


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, help="source files; without any, all of the alpha")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default 2)")
    parser.add_argument(
        "--limit", type=int, default=60, metavar="S", help="CPU seconds a mutant (default 60)"
    )
    parser.add_argument(
        "--least", type=float, default=0.90, help="score that exit status 0 needs (default 0.90)"
    )
    parser.add_argument("--list", action="store_true", help="print the mutants and run none")
    args = parser.parse_args()
    paths = [p.resolve() for p in args.paths] or sorted(p for p in ALPHA.glob("*.py") if p.stat().st_size)

    os.environ["DOLPHIN_KERNELS"] = "plain"
    os.chdir(ROOT)
    by_file = {path: mutants(path) for path in paths}
    if args.list:
        for found in by_file.values():
            print(*found, sep="\n")
        return 0

    tests = ["tests/unit/alpha", "tests/unit/engine"]
    options = ["-x", "-q", "-s", "--assert=plain", "-p", "no:randomly", "-m", "not long", "--no-header"]
    run = Mutation(by_file, args.jobs, args.limit)
    start = time.monotonic()
    if pytest.main([*options, *tests], plugins=[run]) != 0:
        return 2
    score = run.killed / run.total if run.total else 1.0
    print(f"score {score:.1%} ({run.killed} of {run.total}), {time.monotonic() - start:.0f} s")
    return 0 if score >= args.least else 1


if __name__ == "__main__":
    sys.exit(main())
