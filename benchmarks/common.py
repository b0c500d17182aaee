"""What the benchmarks share: the machine in words, clocks for interleaved rounds, rows of a table."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("numpy", "numba", "python-flint", "pyarrow", "msgspec")


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            x.split(":", 1)[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gib() -> float | None:
    """Main memory, or None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return None


def load() -> float:
    """Processes that wanted a core over the last minute, this one included; NaN where nobody counts."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def hardware() -> str:
    """Machine and versions in one line."""
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    memory = memory_gib()
    size = "" if memory is None else f", {memory:.0f} GiB"
    words = ", ".join([f"Python {platform.python_version()}", *found])
    return f"{processor()}, {cores()} cores{size}, {platform.system()}; {words}"


class Rounds:
    """Seconds by name, of this thread's processor (`cpu`) and of the wall, over interleaved rounds."""

    def __init__(self) -> None:
        self.cpu: dict[str, list[float]] = {}
        self.wall: dict[str, list[float]] = {}

    def note(self, name: str, cpu: float, wall: float) -> None:
        """Keep one measured piece of work."""
        self.cpu.setdefault(name, []).append(cpu)
        self.wall.setdefault(name, []).append(wall)

    def __call__(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do the work, note its time, return what it returned."""
        wall, cpu = time.perf_counter(), time.thread_time()
        result = work(*arguments)
        self.note(name, time.thread_time() - cpu, time.perf_counter() - wall)
        return result

    def interleave(self, n: int, works: dict[str, Callable[[], Any]]) -> None:
        """One round that does not count, then n rounds of all works, one after the other."""
        before = {name: len(times) for name, times in self.cpu.items()}
        for work in works.values():
            work()
        for measured in (self.cpu, self.wall):
            for name, times in measured.items():
                del times[before.get(name, 0) :]
        for _ in range(n):
            for name, work in works.items():
                self(name, work)

    def cpu_s(self, name: str) -> float:
        """Median processor seconds."""
        return statistics.median(self.cpu[name])

    def wall_s(self, name: str) -> float:
        """Median seconds on the wall."""
        return statistics.median(self.wall[name])


def row(
    what: str,
    value: float | None,
    unit: str,
    *,
    section: str = "",
    baseline: str = "",
    ratio: float | None = None,
    goal: str = "",
    met: bool | None = None,
    wall: float | None = None,
    note: str = "",
) -> dict[str, Any]:
    """One row of a table. value None: not measured, and note says why and how to.

    ratio is the figure over the baseline, or the baseline over the figure where that is the larger and the
    baseline's words say so; wall is the same figure on the wall where value is processor time.
    """
    return {
        "section": section,
        "what": what,
        "value": value,
        "unit": unit,
        "wall": wall,
        "baseline": baseline,
        "ratio": ratio,
        "goal": goal,
        "met": met,
        "note": note,
    }


def number(value: float | None) -> str:
    """A figure with three digits that count, grouped in thousands."""
    if value is None:
        return ""
    size = abs(value)
    if size >= 100.0:
        return f"{float(f'{value:.3g}'):,.0f}"
    if size >= 10.0:
        return f"{value:.1f}"
    if size >= 1.0:
        return f"{value:.2f}"
    return f"{value:.3g}"


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    section = None
    for line in rows:
        if line["section"] != section:
            section = line["section"]
            print(f"\n{section}")
            print(f"  {'':<58}{'figure':>14} {'':<11}{'wall':>10}{'ratio':>9}  baseline")
        figure = "-" if line["value"] is None else number(line["value"])
        told = f"  {line['what']:<58}{figure:>14} {line['unit']:<11}{number(line['wall']):>10}"
        print(f"{told}{number(line['ratio']):>9}  {line['baseline']}{goal_of(line)}")
        if line["note"]:
            print(f"    {line['note']}")
    sys.stdout.flush()


def goal_of(line: dict[str, Any]) -> str:
    """A row's goal and whether it was met, or nothing."""
    return f"  goal {line['goal']}: {'met' if line['met'] else 'MISSED'}" if line["goal"] else ""


#: Columns of the page's tables, and the entry of a row without which a column is left out.
COLUMNS = {
    "what": "what",
    "figure": "unit",
    "on the wall": "wall",
    "baseline": "ratio",
    "ratio": "ratio",
    "goal": "met",
}


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown tables, one a section, a section's name as its heading where it has one."""
    out: list[str] = []
    columns: list[str] = []
    section = None
    for line in rows:
        if line["section"] != section or not out:
            section = line["section"]
            out += ["", f"### {section}", ""] if section else [""]
            part = [other for other in rows if other["section"] == section]
            columns = [name for name in COLUMNS if any(other[COLUMNS[name]] is not None for other in part)]
            out += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
        figure = "not measured" if line["value"] is None else f"{number(line['value'])} {line['unit']}"
        what = line["what"] if not line["note"] else f"{line['what']} ({line['note']})"
        words = (
            what,
            figure,
            number(line["wall"]),
            line["baseline"],
            number(line["ratio"]),
            goal_words(line),
        )
        cells = dict(zip(COLUMNS, words, strict=True))
        out.append("| " + " | ".join(cells[name].strip().replace("|", r"\|") for name in columns) + " |")
    return "\n".join(out).strip("\n")


def goal_words(line: dict[str, Any]) -> str:
    """A row's goal and whether it was met."""
    return f"{line['goal']}: {'met' if line['met'] else '**missed**'}" if line["goal"] else ""
