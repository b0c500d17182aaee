"""The page of figures: what the benchmarks told as JSON, put into `page.md` beside this file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from benchmarks.common import goal_words, markdown, number

TEMPLATE = Path(__file__).with_name("page.md")
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def origin(result: Mapping[str, Any]) -> str:
    """Script, seed and hash of a benchmark's result, in a line."""
    words = [f"`{result['script']}`"]
    if result["seed"] is not None:
        words.append(f"seed {result['seed']}")
    if result["result_sha256"]:
        words.append(f"result {result['result_sha256'][:16]}")
    return ", ".join(words)


def goals(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Every row that has a goal, from whichever benchmark."""
    lines = ["| what | figure | goal | script | seed | result |", "|---|---|---|---|---|---|"]
    for result in results.values():
        for line in result["table"]:
            if line["goal"]:
                cells = (
                    line["what"],
                    f"{number(line['value'])} {line['unit']}",
                    goal_words(line),
                    f"`{result['script']}`",
                    str(result["seed"]),
                    result["result_sha256"][:16],
                )
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def render(results: Mapping[str, Mapping[str, Any]], date: str) -> str:
    """The whole page from the results by name; date is the day of the run, ISO."""
    first = next(iter(results.values()))
    words = {
        "hardware": first["hardware"],
        "load": f"{first['load']:.1f}",
        "date": date,
        "goals": goals(results),
    }
    for name, result in results.items():
        words[name] = markdown(result["table"])
        words[f"{name}_about"] = f"{origin(result)}: {result['market']}."
    return Template(TEMPLATE.read_text()).substitute(words)
