"""Do the alpha's tests notice when the alpha is wrong? Change one thing at a time and see.

    .venv/bin/python tools/mutation.py                                 every file of src/dolphin/alpha
    .venv/bin/python tools/mutation.py src/dolphin/alpha/exits.py      one file
    .venv/bin/python tools/mutation.py --list src/dolphin/alpha/exits.py

A mutant is a module with one operator, comparison, constant, condition, return or statement changed. It lives
in the memory of a forked process only (the working tree is never touched), runs in plain mode, and is killed
when a test fails or a time limit passes. The exit status is 0 when the score reaches --least.

Why not a ready-made tool: the common ones either skip decorated functions, and every kernel is one, or
rewrite the sources in place and start one pytest a mutant: an hour here instead of minutes.
"""

# ruff: noqa: T201  # a command line prints

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

ROOT = Path(__file__).resolve().parents[1]
ALPHA = ROOT / "src/dolphin/alpha"

#: Mutants that no test can kill, by (module, source of the changed line, change), with the reason.
EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "dolphin.alpha.exits",
        "if shortest < new_hold:",
        "Lt -> LtE, operand 0",
    ): "gives the same hold when equal",
    (
        "dolphin.alpha.exits",
        "size = spread_at_entry if spread_at_entry >= 0.0 else -spread_at_entry",
        "GtE -> Gt, operand 0",
    ): "only the sign of a zero, which no comparison sees",
    (
        "dolphin.alpha.exits",
        "now = spread if spread >= 0.0 else -spread",
        "GtE -> Gt, operand 0",
    ): "only the sign of a zero, which no comparison sees",
    (
        "dolphin.alpha.exits",
        "towards = spread if spread_at_entry > 0.0 else -spread",
        "Gt -> GtE, operand 0",
    ): "a spread of zero at entry is treated by the next line",
}

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


class _Served(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a compiled tree."""

    def __init__(self, module: str, code: CodeType) -> None:
        self.module, self.code = module, code

    def find_spec(
        self, name: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name == self.module else None

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code, module.__dict__)  # noqa: S102


def tests_for(path: Path) -> list[list[str]]:
    """The file's own tests, and everything else that runs the alpha for what they let live."""
    own = ROOT / f"tests/unit/alpha/test_alpha_{path.stem}.py"
    rest = [*sorted(own.parent.glob("test_*.py")), *sorted(ROOT.glob("tests/unit/engine/test_*.py"))]
    rest.append(ROOT / "tests/properties/test_engine_twin.py")
    stages = [[own] if own.exists() else [], [other for other in rest if other != own]]
    return [[str(test) for test in stage] for stage in stages if stage]


def _run_child(mutant: Mutant | None, stages: list[list[str]], limit_s: int) -> None:
    """In the forked process: serve the mutant, run the tests, leave with pytest's status."""
    null = os.open(os.devnull, os.O_WRONLY)
    if mutant is not None:
        os.dup2(null, 1)
        os.dup2(null, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
    status = 1
    try:
        import pytest

        if mutant is not None:
            code = compile(mutant.tree, f"<{mutant.module}>", "exec")
            sys.meta_path.insert(0, _Served(mutant.module, code))
        options = ["-x", "-q", "--assert=plain", "-p", "no:randomly", "-m", "not long", "--no-header"]
        for stage in stages:
            status = int(pytest.main([*options, *stage]))
            if status != 0:
                break
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def survivors_of(
    found: list[Mutant], tests: dict[str, list[list[str]]], jobs: int, limit_s: int
) -> list[Mutant]:
    """Run every mutant, `jobs` at a time; those that no test noticed."""
    waiting, running, alive = list(reversed(found)), {}, []
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            pid = os.fork()
            if pid == 0:
                _run_child(mutant, tests[mutant.module], limit_s)
            running[pid] = mutant
        pid, status = os.wait()
        mutant = running.pop(pid)
        if status == 0:
            alive.append(mutant)
            reason = EQUIVALENT.get(mutant.key)
            print(
                f"{'equivalent' if reason else 'SURVIVED'}  {mutant}{f'  ({reason})' if reason else ''}",
                flush=True,
            )
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

    import hypothesis  # noqa: F401  # imported once, before the forks
    import msgspec  # noqa: F401
    import numpy  # noqa: F401
    import pytest  # noqa: F401

    tests = {found[0].module: tests_for(path) for path, found in by_file.items() if found}
    pid = os.fork()
    if pid == 0:
        _run_child(None, next(iter(tests.values())), 600)
    if os.waitpid(pid, 0)[1] != 0:
        print("the tests fail without any mutant; mend them first")
        return 2

    start = time.monotonic()
    killed = total = 0
    for path, found in by_file.items():
        alive = survivors_of(found, tests, args.jobs, args.limit)
        equivalent = sum(mutant.key in EQUIVALENT for mutant in alive)
        n, k = len(found) - equivalent, len(found) - len(alive)
        killed, total = killed + k, total + n
        share = f"{k / n:6.1%}" if n else "  none"
        print(f"{path.relative_to(ROOT)}: {k} of {n} killed {share}, {equivalent} equivalent", flush=True)
    score = killed / total if total else 1.0
    print(f"score {score:.1%} ({killed} of {total}), {time.monotonic() - start:.0f} s")
    return 0 if score >= args.least else 1


if __name__ == "__main__":
    sys.exit(main())
