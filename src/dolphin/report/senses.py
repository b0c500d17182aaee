"""What a run's senses told: order books and the circuit breaker, as two drawings and a table.

Entry points: `Senses`, `senses_figures`, `senses_section`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.clock import iso_from_ns
from dolphin.report.figures import Figure
from dolphin.report.series import min_max_indices
from dolphin.report.text import count, esc, percent

#: Rows of the breaker's table; the newest are shown.
_ROWS_MAX = 60
_NS_PER_MS = 1_000_000
_BOOKS_CAPTION = (
    "Median imbalance below zero: more is offered than bid. Withdrawal below zero: resting orders were taken"
    " away within the last 60 scans. Gaps: silent books."
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BookSeries:
    """Order books on each of n scans.

    source names where they came from; present is false where they were silent. median_imbalance lies in
    [-1, 1], withdrawal is the median withdrawal velocity of the assets, a fraction, cascade the number of
    assets in a cascade.
    """

    source: str
    present: BoolArray
    median_imbalance: FloatArray
    withdrawal: FloatArray
    cascade: IntArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Senses:
    """What was sensed on each of n scans; books are None for a run without any.

    boost and beta are the breaker's, news (ns UTC, sentence) of what it judged anew.
    """

    timestamp_ns: IntArray
    boost: FloatArray
    beta: FloatArray
    books: BookSeries | None = None
    news: tuple[tuple[int, str], ...] = ()


def senses_figures(senses: Senses | None) -> list[Figure]:
    """The drawings that there is something to draw for."""
    if senses is None or not len(senses.timestamp_ns):
        return []
    drawn = []
    if senses.books is not None and senses.books.present.any():
        drawn.append(_books_figure(senses, senses.books))
    if senses.news or (senses.boost != 1.0).any() or (senses.beta != 0.0).any():
        drawn.append(_breaker_figure(senses))
    return drawn


def senses_section(senses: Senses | None, labels: Mapping[str, str]) -> str:
    """The section of the page; `labels` holds the spoken text of the drawings that exist."""
    if senses is None or not ({"books", "breaker"} & set(labels)):
        return ""
    parts = []
    if "books" in labels and senses.books is not None:
        share = float(senses.books.present.mean())
        silent = int((~senses.books.present).sum())
        lead = (
            f"Source: {esc(senses.books.source)}. There were books on {percent(share, 1)} of the scans; on"
            f" {count(silent)} they were silent and the engine went back to the legacy coin flip."
        )
        parts.append(_panel("Order books", "books", labels, lead, _BOOKS_CAPTION))
    if "breaker" in labels:
        lead = (
            "Factors from outside make the boost, the speed of the slow window the beta; both go into the"
            " regime lane."
        )
        caption = "Boost 1 and beta 0: the breaker says nothing."
        parts.append(_panel("Circuit breaker", "breaker", labels, lead, caption, _table(senses)))
    return f'<div class="pair" id="senses">{"".join(parts)}</div>\n'


def _panel(title: str, name: str, labels: Mapping[str, str], lead: str, caption: str, inner: str = "") -> str:
    return (
        f'<section class="panel"><h2>{title}</h2><p class="intro">{lead}</p>'
        f'<figure><div class="plot" id="plot-{name}" role="img" aria-label="{esc(labels[name])}"></div>'
        f"<figcaption>{caption}</figcaption></figure>{inner}</section>\n"
    )


def _table(senses: Senses) -> str:
    if not senses.news:
        return ""
    shown = senses.news[-_ROWS_MAX:]
    rows = "".join(
        f'<tr><th scope="row">{iso_from_ns(stamp)[:16].replace("T", " ")}</th><td>{esc(text)}</td></tr>'
        for stamp, text in shown
    )
    left = (
        f", the newest {count(len(shown))} of {count(len(senses.news))}"
        if len(shown) < len(senses.news)
        else ""
    )
    return (
        f'<details class="as-table"><summary>What it judged{left}</summary><div class="scroll" tabindex="0"'
        ' role="region" aria-label="Judgements of the circuit breaker"><table><thead><tr>'
        '<th scope="col">UTC</th>'
        f'<th scope="col">Judgement</th></tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def _line(
    senses: Senses, values: FloatArray, name: str, colour: str, hover: str, **more: Any
) -> dict[str, Any]:
    keep = min_max_indices(values)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": (senses.timestamp_ns[keep] // _NS_PER_MS).tolist(),
        "y": [round(v, 5) if v == v else None for v in values[keep].tolist()],
        "line": {"color": colour, "width": 1.2, **more.pop("line", {})},
        "hovertemplate": f"%{{y:{hover}}}<extra>{name}</extra>",
        "connectgaps": False,
        **more,
    }


def _span(senses: Senses) -> list[str]:
    return [iso_from_ns(int(senses.timestamp_ns[0])), iso_from_ns(int(senses.timestamp_ns[-1]))]


def _axis(senses: Senses) -> dict[str, Any]:
    return {"type": "date", "hoverformat": "%Y-%m-%d %H:%M:%S", "range": _span(senses)}


def _books_figure(senses: Senses, books: BookSeries) -> Figure:
    def known(values: FloatArray) -> FloatArray:
        return np.where(books.present, values, np.nan)

    imbalance, cascade = known(books.median_imbalance), known(books.cascade.astype(np.float64))
    dotted = {"dash": "dot"}
    return Figure(
        name="books",
        data=[
            _line(senses, imbalance, "median imbalance", "@@accent", ".3f"),
            _line(senses, known(books.withdrawal), "median withdrawal", "@@warn", ".3f", line=dotted),
            _line(senses, cascade, "assets in a cascade", "@@bad", ".0f", yaxis="y2"),
        ],
        layout={
            "height": 340,
            "showlegend": True,
            "hovermode": "x unified",
            "xaxis": {**_axis(senses), "anchor": "y2"},
            "yaxis": {"title": {"text": "fraction"}, "domain": [0.32, 1.0]},
            "yaxis2": {"title": {"text": "assets"}, "domain": [0.0, 0.24], "rangemode": "tozero"},
        },
        label=(
            f"Median order-book imbalance, from {np.nanmin(imbalance):.2f} to {np.nanmax(imbalance):.2f},"
            " median withdrawal velocity, and the number of assets in a cascade, at most"
            f" {int(np.nanmax(cascade))}, over time."
        ),
    )


def _breaker_figure(senses: Senses) -> Figure:
    step = {"shape": "hv"}
    return Figure(
        name="breaker",
        data=[
            _line(senses, senses.boost, "boost", "@@accent", ".3f", line={**step, "width": 1.8}),
            _line(senses, senses.beta, "beta", "@@warn", ".3f", line={**step, "dash": "dash"}),
        ],
        layout={
            "height": 340,
            "showlegend": True,
            "hovermode": "x unified",
            "xaxis": _axis(senses),
            "yaxis": {"title": {"text": "boost, beta"}, "rangemode": "tozero"},
        },
        label=(
            f"The circuit breaker's boost, from {senses.boost.min():.3f} to {senses.boost.max():.3f},"
            f" and beta, from {senses.beta.min():.2f} to {senses.beta.max():.2f}, over time."
        ),
    )
