"""What the pages of a study and of a sweep share: the frame, the bar on top, and the verdict with its checks.

Entry points: `document`, `top_bar`, `verdict_section`.
"""

# Markup and sentences stay whole on their line.
# ruff: noqa: E501

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dolphin.report.figures import Figure, template
from dolphin.report.page import _POLICY, _asset, _drawing_library, json_for_script
from dolphin.report.sections import _LOGO
from dolphin.report.text import esc

_MARKS = {True: ("pass", "✓", "passed"), False: ("fail", "✕", "not passed"), None: ("open", "?", "open")}
_QUESTIONS = {1: "question", 3: "three questions", 4: "four questions", 5: "five questions"}


def document(title: str, body: str, drawn: Sequence[Figure], styles: Sequence[str]) -> str:
    """The whole page.

    Parameters
    ----------
    title, body : text of the title (escaped here), and markup
    drawn : the drawings, put into their places by a script
    styles : names of style sheets among the assets, after the page's own
    """
    content = {
        "template": template(),
        "figures": {f.name: {"data": f.data, "layout": f.layout, "label": f.label} for f in drawn},
    }
    return "".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            '<meta name="color-scheme" content="light dark">\n',
            f"<title>{esc(title)} · DOLPHIN</title>\n",
            f"<style>\n{''.join(map(_asset, ('page.css', *styles)))}</style>\n",
            f"<script>{_asset('theme.js')}</script>\n</head>\n<body>\n",
            body,
            f'<script type="application/json" id="report-data">{json_for_script(content)}</script>\n',
            f"<script>{_drawing_library()}</script>\n",
            f"<script>\n{_asset('drawings.js')}</script>\n</body>\n</html>\n",
        )
    )


def top_bar(what: str, sections: Sequence[tuple[str, str]]) -> str:
    """The bar on top of a page about `what`, with links to its sections (anchor, label)."""
    links = "".join(f'<a href="#{name}">{label}</a>' for name, label in sections)
    return (
        f'<a class="skip" href="#main">Skip to the {what}</a>\n'
        f'<div class="bar"><div class="bar-in"><span class="brand">{_LOGO}DOLPHIN</span>'
        f'<nav aria-label="Sections">{links}</nav>'
        '<button type="button" id="theme" class="ghost" aria-label="Switch between light and dark">'
        '<span aria-hidden="true">◐</span><span class="wide"> Theme</span></button></div></div>\n'
        '<noscript><p class="callout warn">The drawings need JavaScript. It runs offline.</p></noscript>\n'
    )


def verdict_section(verdict: Mapping[str, Any], reasons: Sequence[str]) -> str:
    """The verdict.

    Parameters
    ----------
    verdict : mapping
        `answer`, `headline`, `checks` (question, rule, value, passed) and `cautions`.
    reasons : sequence of markup
        One a sentence that says why.
    """
    rows = []
    for check in verdict["checks"]:
        kind, mark, spoken = _MARKS[check["passed"]]
        rows.append(
            f'<tr class="{kind}"><td class="mark"><span aria-hidden="true">{mark}</span><span class="sr">{spoken}</span></td>'
            f'<td>{esc(check["question"])}<small>{esc(check["rule"])}</small></td><td class="value">{esc(check["value"])}</td></tr>'
        )
    why = "".join(f"<li>{reason}</li>" for reason in reasons)
    cautions = "".join(f"<li>{esc(text)}</li>" for text in verdict["cautions"])
    return (
        f'<section class="verdict {esc(verdict["answer"])}" id="verdict" aria-label="Verdict"><p class="answer">{esc(verdict["headline"])}</p>'
        f"<ul>{why}</ul><h2>The {_QUESTIONS.get(len(rows), 'questions')}</h2>"
        f'<table class="checks"><tbody>{"".join(rows)}</tbody></table>'
        f'<h2>Before you rely on it</h2><ul class="cautions">{cautions}</ul></section>\n'
    )
