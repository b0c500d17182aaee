"""House rules that are worth repeating in a review, as tests; each says why."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src" / "dolphin").rglob("*.py"))
PURE = ("domain", "numerics", "scan", "orderbook", "alpha", "risk", "engine")
PURE_SOURCES = [p for p in SOURCES if p.relative_to(ROOT / "src" / "dolphin").parts[0] in PURE]
#: Extras and anything that takes long to import; a plain `import dolphin` must load none of them.
HEAVY = (
    "numpy",
    "numba",
    "pyarrow",
    "flint",
    "plotly",
    "rich",
    "yaml",
    "pandas",
    "ccxt",
    "prefect",
    "nautilus_trader",
    "hazelcast",
    "supervisor",
    "prometheus_client",
    "apprise",
    "psutil",
)


def tracked() -> list[Path]:
    """Files that git knows, or all of them outside a checkout."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return [p for p in ROOT.rglob("*") if p.is_file() and not {".venv", ".git"} & set(p.parts)]
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


@pytest.mark.parametrize("path", PURE_SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_pure_code_calls_no_builtin_that_differs_between_machines(path: Path) -> None:
    """`sum` and `round` changed or differ; `**` goes through the C library's pow: see the kernel module."""
    if path.parent.name in ("alpha", "engine", "orderbook", "risk") or path.name == "portable.py":
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("sum", "round"), f"{path}:{node.lineno} calls {node.func.id}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                if isinstance(owner, ast.Name) and owner.id == "math":
                    assert node.func.attr in ("frexp", "ldexp", "sqrt"), (
                        f"{path}:{node.lineno} math.{node.func.attr}"
                    )
                if isinstance(owner, ast.Name) and owner.id == "np":
                    assert node.func.attr not in (
                        "sum", "mean", "var", "std", "dot", "exp", "log", "log1p",
                    ), f"{path}:{node.lineno} np.{node.func.attr}"  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_kernel_module_chooses_compiler_flags(path: Path) -> None:
    """Flags in two places drift apart, and a fast-math flag costs the bit identity."""
    if path.name == "kernel.py":
        return
    for word in ("njit", "jit(", "fastmath", "parallel=True", "prange"):
        assert word not in path.read_text(), f"{path} mentions {word}: use dolphin.kernel.kernel"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_opens_with_its_purpose(path: Path) -> None:
    """Somebody opens this file for the first time."""
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree), f"{path} has no docstring"


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md"])
def test_every_path_that_a_page_names_is_there(name: str) -> None:
    """A page that sends its reader nowhere was not read since."""
    text = (ROOT / name).read_text()
    told = [span.split()[0] for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)]
    told += re.findall(r"\]\(([^)#:]+)\)", text)
    top = {path.relative_to(ROOT).parts[0] for path in tracked()}
    #: Written by a run, not kept here.
    made = {"summary.json", "trades.csv", "report.html"}
    paths = {
        word for word in told
        if re.fullmatch(r"[\w./-]+", word) and word not in made
        and (word.split("/")[0] in top or re.search(r"\.(md|py|toml|yml|txt|png)$", word))
    }  # fmt: skip
    assert paths, f"{name} names no path: the pattern is wrong"
    for path in paths:
        assert (ROOT / path).exists(), f"{name} names {path}, which is not there"


def test_the_trades_that_the_readme_shows_are_written_as_a_run_writes_them() -> None:
    """The first thing a reader compares with the own screen."""
    from dolphin.commands.telling import trade_line
    from dolphin.domain import codes
    from dolphin.domain.clock import ns_from_iso

    shown = re.findall(r"^    (2026-.*(?:ENTRY|EXIT ) .*)$", (ROOT / "README.md").read_text(), re.M)
    assert len(shown) == 2
    entry, leave = shown
    opened = SimpleNamespace(
        timestamp_ns=ns_from_iso("2026-01-05T02:29:50Z"), action=codes.ACTION_ENTER, asset="COMPUSDT",
        price=29.866, leverage=0.7, vel_div=-0.0206, bucket=codes.BUCKETS.index("weak"), dc_change_bps=-27.0,
        ars=6.87, ranked=46, bound=codes.BOUNDS.index("RAW"),
    )  # fmt: skip
    closed = SimpleNamespace(
        timestamp_ns=ns_from_iso("2026-01-05T02:37:10Z"), action=codes.ACTION_EXIT, asset="COMPUSDT",
        price=29.5289526, net=3.97, reason=codes.REASONS.index("FIXED_TP"), bars_held=88,
        capital=25_016.72,
    )  # fmt: skip
    for line, decision in ((entry, opened), (leave, closed)):
        told = trade_line(cast(Any, decision), -1)
        assert told is not None
        assert told.startswith(line.removesuffix("…"))


def test_no_recording_is_committed() -> None:
    """Recordings belong to those who made them."""
    for path in tracked():
        assert path.suffix not in (".parquet", ".arrow", ".feather", ".db", ".npz"), f"{path} is data"
        assert path.stat().st_size < 2_000_000, f"{path} has {path.stat().st_size} bytes"


def test_no_machine_path_and_no_package_index() -> None:
    """A clone must work anywhere; pip's own configuration says where packages come from."""
    pattern = re.compile(
        r"/(?:home|root|work|Users)/[a-z]|--(?:extra-)?index" + "-url|--find-links|" + "pypi" + r"\.org"
    )
    for path in tracked():
        if path != Path(__file__).resolve():
            found = pattern.search(text_of(path))
            assert not found, f"{path} holds {found[0]!r}" if found else ""


def test_no_test_sleeps() -> None:
    """Time in tests is virtual: a sleep is slow when it works and flaky when it does not."""
    pattern = re.compile(r"\b(?:time|asyncio)\.sleep\(")
    for path in (ROOT / "tests").rglob("*.py"):
        if path != Path(__file__).resolve():
            assert not pattern.search(path.read_text()), f"{path} sleeps"


def test_requirements_are_pinned_with_hashes() -> None:
    """The predecessor's breakages came from the newest version of something transitive."""
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        for block in re.split(r"\n(?=[A-Za-z])", path.read_text()):
            if block and not block.startswith("#"):
                assert "==" in block, f"{path}: {block.splitlines()[0]} is not pinned"
                assert "--hash=sha256:" in block, f"{path}: {block.splitlines()[0]} has no hash"


def test_import_is_light() -> None:
    """`dolphin --help` must answer at once on a small machine."""
    code = "import sys, dolphin, dolphin.cli; print(sorted(set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in HEAVY:
        assert f"'{name}'" not in loaded, f"import dolphin loads {name}"
    helped = (
        "import sys, dolphin.cli\n"
        "try: dolphin.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", helped], capture_output=True, text=True, check=True).stdout
    for name in HEAVY:
        assert f"'{name}'" not in loaded, f"dolphin --help loads {name}"


def test_nothing_sleeps() -> None:
    """A sleep hears nothing: wait for an event, a process or a socket, with a bound."""
    for path in SOURCES:
        assert not re.search(r"\btime\.sleep\(", path.read_text()), f"{path} sleeps"
