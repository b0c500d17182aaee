"""A fork as one small HTML page: both equity curves and the figures side by side.

Entry point: `render`. Invariants are those of the run report: nothing is fetched, same values give the same
bytes, text is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.report.figures import Figure, Json, template
from dolphin.report.page import _POLICY, _asset, _drawing_library, json_for_script
from dolphin.report.sections import _LOGO, _figure, _pairs, _panel
from dolphin.report.series import min_max_indices
from dolphin.report.text import esc, number, percent

_ROWS: tuple[tuple[str, str, Any], ...] = (
    ("trades", "Trades", lambda x: number(x, 0)),
    ("win_rate", "Win rate", lambda x: percent(x, 1)),
    ("net", "Net of closed trades, USDT", lambda x: number(x, signed=True)),
    ("fees", "Fees, USDT", number),
    ("ob_edge", "Imagined order-book edge, USDT", lambda x: number(x, signed=True)),
    ("return", "Return on marked equity", lambda x: percent(x, signed=True)),
    ("max_drawdown", "Deepest fall, marked on every bar", percent),
    ("capital", "Capital at the end, USDT", number),
    ("equity", "Marked equity at the end, USDT", number),
)


def render(told: Mapping[str, Any], timestamp_ns: IntArray, original: FloatArray, changed: FloatArray) -> str:
    """The page as text.

    Parameters
    ----------
    told : mapping
        The fork's plain values: run, bar, time, bars, changes, original, changed, first_difference.
    timestamp_ns : int64 (n,), from the fork's bar on
    original, changed : float64 (n,), marked equity, USDT

    Returns
    -------
    str
        HTML that opens offline, most of it the drawing library.
    """
    drawn = _curves(timestamp_ns, original, changed)
    content = {
        "template": template(),
        "figures": {drawn.name: {"data": drawn.data, "layout": drawn.layout, "label": drawn.label}},
    }
    changes = {name: f"{v['from']} → {v['to']}" for name, v in told["changes"].items()}
    title = f"Fork of {told['run']} at bar {told['bar']:,}"
    body = "".join(
        (
            _top_bar(),
            f'<main id="main">\n<header><h1>{esc(title)}</h1>\n',
            f"<p class='lead'>{esc(told['time'][:16].replace('T', ' '))} UTC, {told['bars']:,} bars to the"
            " end. "
            "Both futures begin with the same state and the same open position.</p></header>\n",
            _panel("What was changed", _pairs(changes, "Changed parameters")),
            _panel(
                "Both futures", _figure(drawn.name, {drawn.name: drawn.label}, "Marked equity, USDT.", "")
            ),
            _panel("Side by side", _table(told["original"], told["changed"])),
            _panel("The first decision that differs", _first(told["first_difference"])),
            "</main>\n<footer><p>DOLPHIN fork. Simulated fills: no order left the machine.</p></footer>\n",
        )
    )
    return "".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            '<meta name="color-scheme" content="light dark">\n',
            f"<title>{esc(title)} · DOLPHIN</title>\n",
            f"<style>\n{_asset('page.css')}{_asset('study.css')}</style>\n",
            f"<script>{_asset('theme.js')}</script>\n</head>\n<body>\n",
            body,
            f'<script type="application/json" id="report-data">{json_for_script(content)}</script>\n',
            f"<script>{_drawing_library()}</script>\n",
            f"<script>\n{_asset('drawings.js')}</script>\n</body>\n</html>\n",
        )
    )


def _top_bar() -> str:
    return (
        '<a class="skip" href="#main">Skip to the fork</a>\n'
        f'<div class="bar"><div class="bar-in"><span class="brand">{_LOGO}DOLPHIN</span><nav></nav>'
        '<button type="button" id="theme" class="ghost" aria-label="Switch between light and dark">'
        '<span aria-hidden="true">◐</span><span class="wide"> Theme</span></button></div></div>\n'
        '<noscript><p class="callout warn">The drawings need JavaScript. It runs offline.</p></noscript>\n'
    )


def _curves(timestamp_ns: IntArray, original: FloatArray, changed: FloatArray) -> Figure:
    def line(values: FloatArray, name: str, colour: str, dash: str) -> Json:
        keep = min_max_indices(values)
        return {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": (timestamp_ns[keep] // 1_000_000).tolist(),
            "y": [float(f"{v:.8g}") for v in values[keep].tolist()],
            "line": {"color": colour, "width": 1.8, "dash": dash},
            "hovertemplate": "%{x}<br>%{y:,.2f} USDT<extra>" + name + "</extra>",
        }

    gap = np.abs(changed - original).max() if len(original) else 0.0
    return Figure(
        name="fork",
        data=[
            line(original, "as it was", "@@muted", "dot"),
            line(changed, "changed", "@@accent", "solid"),
        ],
        layout={
            "height": 400,
            "xaxis": {"type": "date"},
            "yaxis": {"title": {"text": "USDT"}, "tickformat": ",.0f"},
            "showlegend": True,
            "hovermode": "x",
        },
        label=f"Marked equity of both futures; they are at most {gap:,.2f} USDT apart",
    )


def _table(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{esc(name)}</th><td class='num'>{esc(form(a[key]))}</td>"
        f"<td class='num'>{esc(form(b[key]))}</td></tr>"
        for key, name, form in _ROWS
    )
    return (
        "<div class='scroll'><table><thead><tr><th></th><th class='num'>As it was</th>"
        f"<th class='num'>Changed</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _first(first: Mapping[str, Any] | None) -> str:
    if first is None:
        return "<p>No decision differs to the end.</p>"
    sides = [
        f"{name} {side['action']} {side['asset']}, {side['reason']}"
        for name, side in (("As it was:", first["original"]), ("changed:", first["changed"]))
    ]
    differ = {name: f"{first['original'][name]} → {first['changed'][name]}" for name in first["differ"]}
    when = f"Bar {first['bar']:,}, {first['time'][:16].replace('T', ' ')} UTC. "
    return f"<p>{esc(when)}{esc('; '.join(sides))}.</p>" + _pairs(differ, "Fields that differ")
