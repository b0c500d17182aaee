"""A sweep as one HTML page: what the best setting is worth, then where good settings lie.

Entry point: `render`. It takes plain values and the columns of the results; figures that it adds are medians,
means and shares of those columns, nothing else.

Invariants are those of the run report: nothing is fetched, same values give the same bytes, text is escaped.
"""

# Markup and sentences stay whole on their line.
# ruff: noqa: E501

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.report.figures import Figure, Json
from dolphin.report.judged import document, top_bar, verdict_section
from dolphin.report.sections import _card, _copy, _figure, _pairs, _panel, _short, _tone
from dolphin.report.text import DASH, count, esc, number, number_of, percent, plural

_NAV = (
    ("verdict", "Verdict"), ("ranking", "Ranking"), ("spread", "All settings"), ("profiles", "Parameters"),
    ("maps", "Maps"), ("equity", "Equity"), ("method", "Method"), ("glossary", "Glossary"),
)  # fmt: skip
#: Values of a parameter that are drawn one by one; more are put into as many bins.
CATEGORIES_MAX = 14
BINS = 8
#: Maps on the page; the pairs that matter most come first.
MAPS_MAX = 10
_FAN = 10
#: Ends of a map's colours: amber and blue of the same weight, under dark and under light ink.
_LOW, _HIGH = "#d98a36", "#4394cc"

_WORDS: tuple[tuple[str, str], ...] = (
    ("result", "Change of marked equity over the period: an open position counts at its last price. Booked: closed trades only."),
    ("setting, binding", "One combination of parameter values, run over the whole period."),
    ("trial", "A setting that was run. The more trials, the better the luckiest one looks, whatever they know."),
    ("deflated Sharpe", "How likely the best setting is truly better than the luckiest of as many settings that know nothing."),
    ("overfitting (PBO)", "How often the best setting on one half of the days is in the worse half of settings on the other. 50 % is pure luck."),
    ("interval", "Where the figure would have fallen in 95 of 100 cases, had the same kind of days come in another mix."),
    ("neighbours", "Settings one step away in one parameter, or the nearest drawn ones. A top that stands alone is a fluke."),
    ("order-book edge", "A gain that the model credits for good order placement. Without real books it is imagined."),
    ("profit factor", "Sum of the winning trades divided by the sum of the losing ones. Above 1 is a profit."),
    ("Sharpe", "Mean over spread of daily returns, scaled to a year (× √365)."),
    ("drawdown", "How far equity falls below its highest value so far, marked on every bar."),
    ("Sobol design", "Points that fill the space of parameters evenly, unlike draws of chance, which leave holes."),
)  # fmt: skip

_OBJECTIVES: Mapping[str, tuple[str, float, int]] = {
    "sharpe": ("Sharpe", 1.0, 2),
    "roi_marked": ("result, %", 100.0, 2),
    "roi": ("booked result, %", 100.0, 2),
    "profit_factor": ("profit factor", 1.0, 2),
}


@dataclass(frozen=True, slots=True, eq=False)
class _Axis:
    """One parameter on the page: the place of every binding among its labels."""

    name: str
    labels: tuple[str, ...]
    place: IntArray
    base: int  # place of the base set, -1 where it is none of them
    binned: bool


def render(found: Mapping[str, Any]) -> str:
    """The whole page as text.

    Parameters
    ----------
    found : mapping
        `plan`, `data`, `axes` (name, column, values or low, high, log, base), `columns` (arrays (n,)), `daily`
        (n, n_days) USDT, `base` (columns of one row, `daily`), `days`, `worth` (as `sweep_worth.worth` gives
        it), `refused_by_rule`, `facts` for the method's table, `result_sha256`.

    Returns
    -------
    str
        HTML that opens offline, about 5 MB, most of it the drawing library.
    """
    axes = [
        _axis_of(axis, np.asarray(found["columns"][axis["column"]], np.float64)) for axis in found["axes"]
    ]
    moving = [axis for axis in axes if len(axis.labels) > 1]
    maps = _maps(found, moving)
    drawn = [
        _spread_figure(found),
        _fan_figure(found),
        *(_profile_figure(found, axis) for axis in moving),
        *maps,
    ]
    labels = {figure.name: figure.label for figure in drawn}
    body = "".join(
        (
            top_bar("sweep", _NAV),
            '<main id="main">\n',
            _header(found),
            verdict_section(found["worth"], [esc(text) for text in found["worth"]["sentences"]]),
            _ranking(found),
            _spread(found, labels),
            _profiles(found, moving, labels),
            _map_panels(found, moving, maps, labels),
            _equity(found, labels),
            _method(found),
            _glossary(),
            "</main>\n<footer><p>DOLPHIN sweep. Simulated fills: no order left the machine. Days are UTC. "
            "Past results say nothing certain about future ones.</p></footer>\n",
        )
    )
    return document(f"Sweep around {found['plan']['base']}", body, drawn, ["study.css", "sweep.css"])


# ---- values ---------------------------------------------------------------------------------------------------


def _label(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


def _axis_of(axis: Mapping[str, Any], values: FloatArray) -> _Axis:
    """Values as they are where they are few, else bins of equal width on the axis's own scale, by their middles."""
    known = np.unique(values)
    base = number_of(axis["base"])
    if len(known) <= CATEGORIES_MAX:
        flags = axis["kind"] == "bool"
        labels = tuple(("no", "yes")[int(v)] if flags else _label(v) for v in known.tolist())
        at = np.flatnonzero(known == base)
        return _Axis(
            axis["column"], labels, np.searchsorted(known, values), int(at[0]) if len(at) else -1, False
        )
    low, high = float(known[0]), float(known[-1])
    if axis["log"]:
        side = -1.0 if low < 0.0 else 1.0
        edges = side * np.exp(np.linspace(math.log(side * low), math.log(side * high), BINS + 1))
    else:
        edges = np.linspace(low, high, BINS + 1)
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, BINS - 1)
    at_base = -1
    if base is not None and low <= base <= high:
        at_base = int(np.clip(np.searchsorted(edges, base, side="right") - 1, 0, BINS - 1))
    ends = itertools.pairwise(edges.tolist())
    labels = tuple(
        _cut(math.copysign(math.sqrt(a * b), a) if axis["log"] else (a + b) / 2.0) for a, b in ends
    )
    return _Axis(axis["column"], labels, place, at_base, True)


def _cut(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _objective(found: Mapping[str, Any]) -> tuple[str, FloatArray, int]:
    """(words, values (n,), decimals) of what is maximised."""
    words, scale, digits = _OBJECTIVES[found["worth"]["objective"]]
    return words, scale * np.asarray(found["columns"][found["worth"]["objective"]], np.float64), digits


def _groups(place: IntArray, n: int) -> list[IntArray]:
    order = np.argsort(place, kind="stable")
    return np.split(order, np.searchsorted(place[order], np.arange(1, n)))


def _quantile(values: FloatArray, q: float) -> float | None:
    there = values[np.isfinite(values)]
    return float(np.quantile(there, q)) if len(there) else None


# ---- markup ---------------------------------------------------------------------------------------------------


def _header(found: Mapping[str, Any]) -> str:
    data, plan = found["data"], found["plan"]
    design = {"grid": "a grid", "random": "a random design", "sobol": "a Sobol design"}[plan["design"]]
    edge = (
        "without the imagined order-book edge" if plan["without_ob_edge"]
        else "with the imagined order-book edge, which has its own column"
    )  # fmt: skip
    return (
        f"<header><h1>What is the best of {count(len(found['daily']))} settings worth?</h1>\n"
        f'<p class="lead">{design[:1].upper()}{design[1:]} over {plural(len(found["axes"]), "parameter")} around <b>{esc(plan["base"])}</b>, '
        f"{plural(data['days'], 'day')}, {esc(data['first_day'])} to {esc(data['last_day'])}, {count(data['bars'])} bars of "
        f"{plural(data['assets'], 'asset')} from <b>{esc(data['source'])}</b>. After fees and slippage, {edge}.</p></header>\n"
    )


_FIGURES: tuple[tuple[str, str, Any], ...] = (
    ("trades", "Trades", count),
    ("roi_marked", "Result", lambda x: percent(x, 2, signed=True)),
    ("sharpe", "Sharpe", number),
    ("profit_factor", "Profit factor", number),
    ("win_rate", "Win rate", lambda x: percent(x, 1)),
    ("max_drawdown", "Max drawdown", lambda x: percent(x, 1)),
    ("fees", "Fees", lambda x: number(x, 0)),
    ("slippage", "Slippage", lambda x: number(x, 0)),
    ("ob_edge", "OB edge", lambda x: number(x, 0)),
)


def _row(
    name: str,
    values: Mapping[str, Any],
    axes: Sequence[Mapping[str, Any]],
    shown: Sequence[Any],
    kind: str = "",
) -> str:
    def setting(axis: Mapping[str, Any]) -> str:
        value = number_of(values.get(axis["column"]))
        if value is None:
            return DASH
        return ("no", "yes")[int(value)] if axis["kind"] == "bool" else f"{value:.4g}".replace("-", "−")

    cells = "".join(f'<td class="num">{setting(axis)}</td>' for axis in axes)
    cells += "".join(
        f'<td class="num {_tone(number_of(values.get(key))) if key == "roi_marked" else ""}">{form(values.get(key))}</td>'
        for key, _, form in shown
    )
    return f'<tr class="{kind}"><th scope="row">{name}</th>{cells}</tr>'


def _ranking(found: Mapping[str, Any]) -> str:
    columns, w, axes = found["columns"], found["worth"], found["axes"]
    edge = bool(np.asarray(columns["ob_edge"]).any())
    shown = [figure for figure in _FIGURES if edge or figure[0] != "ob_edge"]

    def at(k: int) -> dict[str, Any]:
        return {name: values[k] for name, values in columns.items() if name != "set_hash"}

    near = np.array(w["neighbours"], np.int64)
    rows = [_row("best", at(w["best"]), axes, shown, "best")]
    if len(near):
        middle = {key: _quantile(np.asarray(columns[key], np.float64)[near], 0.5) for key, _, _ in shown}
        low = {
            key: _quantile(np.asarray(columns[key], np.float64)[near], 0.0)
            for key in ("roi_marked", "sharpe")
        }
        rows += [
            _row(f"its {plural(len(near), 'neighbour')}: median", middle, axes, shown),
            _row(
                "its neighbours: worst",
                low,
                axes,
                [(k, h, f if k in low else lambda _: "") for k, h, f in shown],
            ),
        ]
    rows += [_row(f"place {k + 2}", at(place), axes, shown) for k, place in enumerate(w["top"][1:5])]
    if w["median"] != w["best"]:
        rows.append(_row("place in the middle", at(w["median"]), axes, shown))
    base = {name: values[0] for name, values in found["base"]["columns"].items() if name != "set_hash"}
    base |= {axis["column"]: axis["base"] for axis in axes}
    rows.append(_row(f"base: {esc(found['plan']['base'])}", base, axes, shown))
    if w["worst"] != w["best"]:
        rows.append(_row("worst", at(w["worst"]), axes, shown))
    heads = "".join(
        f'<th scope="col" class="num">{esc(axis["column"]).replace("_", "_<wbr>")}</th>' for axis in axes
    )
    heads += "".join(f'<th scope="col" class="num">{head}</th>' for _, head, _ in shown)
    table = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Ranking"><table class="ranking"><thead>'
        f'<tr><th scope="col">Setting</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )
    words = _OBJECTIVES[w["objective"]][0].removesuffix(", %")
    return _panel(
        "Best, middle, worst",
        table,
        f"Ranked by {words}. Result: with an open position at its last price. Fees, slippage and edge in USDT. A good top has neighbours that are nearly as good.",
        "ranking",
    )


def _spread(found: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    roi = np.asarray(found["columns"]["roi_marked"], np.float64)
    w = found["worth"]
    cards = (
        _card(
            "Settings run",
            count(len(roi)),
            f"{count(found['refused'])} combinations break a rule"
            if found["refused"]
            else "all combinations of the plan",
        ),
        _card("Trials on these days", count(found["trials_ledger"]), "by sweeps and studies of this cache"),
        _card("Earn money", percent((roi > 0).mean(), 1), "of all settings"),
        _card("Best", percent(roi[w["best"]], signed=True), "result", _tone(float(roi[w["best"]]))),
        _card("Median", percent(float(np.median(roi)), signed=True), "result", _tone(float(np.median(roi)))),
        _card("Worst", percent(float(roi.min()), signed=True), "lowest result", _tone(float(roi.min()))),
    )
    drawing = _figure(
        "spread",
        labels,
        "How many settings came to which result; marked: the base set, the best and the median.",
        "",
    )
    return _panel(
        "All settings", f'<dl class="cards sweep-cards">{"".join(cards)}</dl>{drawing}', "", "spread"
    )


def _profiles(found: Mapping[str, Any], axes: Sequence[_Axis], labels: Mapping[str, str]) -> str:
    words = _OBJECTIVES[found["worth"]["objective"]][0]
    lead = (
        f"{words.removesuffix(', %')[:1].upper()}{words.removesuffix(', %')[1:]} over the values of one parameter, all others mixed: line the median, bands the middle half and the middle 80 % of settings, "
        "dots the best ones. Below, the share of settings that earn money. A flat line with a narrow band is a parameter that hardly matters; a lone peak is luck."
        + (
            f" Of {plural(sum(axis.binned for axis in axes), 'parameter')} with many values, bins are drawn, named by their middles."
            if any(axis.binned for axis in axes)
            else ""
        )
    )
    boxes = [
        f'<div class="panel"><h3>{esc(axis.name)}</h3>{_figure(f"profile-{k}", labels, "", "")}</div>'
        for k, axis in enumerate(axes)
    ]
    inner = f'<div class="maps">{"".join(boxes)}</div>' if boxes else ""
    return _panel(
        "One parameter at a time: how stable is the top?",
        inner or '<p class="empty">Only one value of each parameter.</p>',
        lead,
        "profiles",
    )


def _map_panels(
    found: Mapping[str, Any], axes: Sequence[_Axis], maps: Sequence[Figure], labels: Mapping[str, str]
) -> str:
    n_pairs = len(axes) * (len(axes) - 1) // 2
    words = _OBJECTIVES[found["worth"]["objective"]][0].removesuffix(", %")
    lead = (
        f"{words[:1].upper()}{words[1:]} over two parameters, the others mixed. Blue is good, amber bad, pale is nothing. ★ holds the best setting, ◆ the base set. "
        "The buttons change what a cell shows: the median or the mean of its settings, its best one, or how many earn money."
        + (f" The {len(maps)} pairs that matter most, of {n_pairs}." if len(maps) < n_pairs else "")
    )
    boxes = [f'<div class="panel">{_figure(f.name, labels, "", "")}</div>' for f in maps]
    inner = f'<div class="maps">{"".join(boxes)}</div>' if boxes else ""
    return _panel(
        "Two parameters at a time",
        inner or '<p class="empty">A map needs two parameters that move.</p>',
        lead,
        "maps",
    )


def _equity(found: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    lead = f"Marked at each day's last bar, from 1. The {min(_FAN, len(found['daily']))} best settings, the base set, and where all settings were."
    return _panel(
        "Equity of the best",
        _figure("fan", labels, "Bands: the middle half and the middle 80 % of all settings on each day.", ""),
        lead,
        "equity",
    )


def _method(found: Mapping[str, Any]) -> str:
    plan = found["plan"]
    swept = {axis["column"]: axis["told"] for axis in found["axes"]}
    sources = (
        "Probability of backtest overfitting: Bailey, Borwein, López de Prado and Zhu (2017). Deflated Sharpe ratio: Bailey and "
        "López de Prado (2014). Stationary bootstrap of whole days: Politis and Romano (1994), its block length: Politis and White "
        "(2004), with arch. Sobol numbers: Joe and Kuo (2008)."
    )
    digest = found["result_sha256"]
    refused = "".join(
        f"<li>{count(rule['count'])}: {esc(rule['rule'])} <small>like: {esc(rule['example'])}</small></li>"
        for rule in found["refused_by_rule"]
    )
    rules = (
        f'<h3>Combinations that break a rule</h3><ul>{refused}</ul><p class="intro">Each is listed in refused.jsonl. They were not run and are no trials.</p>'
        if refused
        else ""
    )
    left = _panel(
        "What was swept",
        _pairs(swept, "parameters") + rules,
        f"Around {esc(plan['base'])}; every other parameter as it stands there.",
    )
    right = _panel(
        "Method and sources",
        _pairs(found["facts"], "facts")
        + f'<p class="intro">{sources}</p><p class="intro">Result {_copy(digest, _short(digest), "result digest")}: the same plan, data and code give the same digest, on any number of threads, killed or not.</p>',
    )
    return f'<div class="pair" id="method">{left}{right}</div>\n'


def _glossary() -> str:
    items = "".join(f"<div><dt>{esc(word)}</dt><dd>{esc(meaning)}</dd></div>" for word, meaning in _WORDS)
    return _panel(
        "Glossary",
        f'<dl class="glossary">{items}</dl>',
        "The words of this page, in plain terms.",
        "glossary",
    )


# ---- drawings -------------------------------------------------------------------------------------------------


def _seven(values: Any) -> list[float | None]:
    return [float(f"{v:.7g}") if v is not None and math.isfinite(v) else None for v in values]


def _mark(x: float, text: str, colour: str, level: int, side: str) -> tuple[Json, Json]:
    line = {
        "type": "line",
        "xref": "x",
        "x0": x,
        "x1": x,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"color": colour, "width": 2},
    }
    note = {
        "xref": "x", "x": x, "yref": "paper", "y": 1 - 0.09 * level, "yanchor": "top", "xanchor": side, "showarrow": False,
        "text": text, "font": {"color": colour, "size": 11}, "bgcolor": "@@surface", "borderpad": 3,
    }  # fmt: skip
    return line, note


def _spread_figure(found: Mapping[str, Any]) -> Figure:
    roi = 100.0 * np.asarray(found["columns"]["roi_marked"], np.float64)
    counts, edges = np.histogram(roi, bins=min(60, max(10, int(math.sqrt(len(roi))))))
    middle = (edges[1:] + edges[:-1]) / 2.0
    best, base = float(roi[found["worth"]["best"]]), 100.0 * float(found["base"]["columns"]["roi_marked"][0])
    half = (edges[0] + edges[-1]) / 2.0
    marks = [
        _mark(x, f"{text} {number(x, 1, signed=True)} %", colour, level, "left" if x <= half else "right")
        for level, (x, text, colour) in enumerate(
            (
                (float(np.median(roi)), "median", "@@muted"),
                (base, f"base {found['plan']['base']}", "@@warn"),
                (best, "best", "@@accent"),
            )
        )
    ]
    return Figure(
        name="spread",
        data=[{
            "type": "bar", "x": _seven(middle), "y": counts.tolist(), "width": _seven(np.diff(edges) * 0.94),
            "marker": {"color": ["@@good" if x > 0.0 else "@@bad" for x in middle]},
            "hovertemplate": "around %{x:.1f} %: %{y:,} settings<extra></extra>",
        }],
        layout={
            "height": 320, "hovermode": "closest", "shapes": [line for line, _ in marks], "annotations": [note for _, note in marks],
            "xaxis": {"title": {"text": "result over the period, %"}, "ticksuffix": " %"}, "yaxis": {"title": {"text": "settings"}},
        },
        label=f"Results of {count(len(roi))} settings: median {number(float(np.median(roi)), 1)} %, base {number(base, 1)} %, best {number(best, 1)} %.",
    )  # fmt: skip


def _band(
    x: Sequence[Any], low: Sequence[float | None], high: Sequence[float | None], colour: str, name: str
) -> list[Json]:
    common: Json = {
        "type": "scatter",
        "mode": "lines",
        "x": list(x),
        "hoverinfo": "skip",
        "line": {"width": 0, "color": colour},
    }
    return [
        {**common, "y": list(low), "showlegend": False},
        {**common, "y": list(high), "fill": "tonexty", "fillcolor": colour, "name": name},
    ]


def _profile_figure(found: Mapping[str, Any], axis: _Axis) -> Figure:
    words, values, digits = _objective(found)
    earns = np.asarray(found["columns"]["roi_marked"], np.float64) > 0.0
    groups = _groups(axis.place, len(axis.labels))
    q = {
        level: _seven([_quantile(values[g], level) for g in groups])
        for level in (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    }
    share = [float(earns[g].mean()) if len(g) else None for g in groups]
    x = list(axis.labels)
    names = [a["column"] for a in found["axes"] if len(np.unique(found["columns"][a["column"]])) > 1]
    k = names.index(axis.name)
    data = [
        *_band(x, q[0.1], q[0.9], "@@grid", "middle 80 %"),
        *_band(x, q[0.25], q[0.75], "@@accent_soft", "middle half"),
        {
            "type": "scatter", "mode": "lines+markers", "name": "median", "x": x, "y": q[0.5], "line": {"color": "@@accent", "width": 2},
            "marker": {"size": 6}, "customdata": [len(g) for g in groups],
            "hovertemplate": "%{x}<br>median %{y:." + str(digits) + "f}, %{customdata:,} settings<extra></extra>",
        },
        {
            "type": "scatter", "mode": "markers", "name": "best", "x": x, "y": q[1.0], "marker": {"color": "@@muted", "size": 6, "symbol": "circle-open"},
            "hovertemplate": "%{x}<br>best %{y:." + str(digits) + "f}<extra></extra>",
        },
        {
            "type": "bar", "name": "earn money", "x": x, "y": _seven([None if v is None else 100.0 * v for v in share]), "yaxis": "y2", "showlegend": False,
            "marker": {"color": "@@series"}, "hovertemplate": "%{x}<br>%{y:.0f} % earn money<extra></extra>",
        },
    ]  # fmt: skip
    shapes = []
    if axis.base >= 0:
        shapes.append(
            {
                "type": "line",
                "xref": "x",
                "x0": axis.base,
                "x1": axis.base,
                "yref": "paper",
                "y0": 0.3,
                "y1": 1,
                "line": {"color": "@@warn", "width": 1.4, "dash": "dash"},
            }
        )
    layout = {
        "height": 360, "showlegend": True, "hovermode": "closest", "shapes": shapes, "bargap": 0.5,
        "annotations": [{"xref": "x", "x": axis.base, "yref": "paper", "y": 1, "yanchor": "top", "xanchor": "left" if axis.base < len(x) / 2 else "right", "showarrow": False, "text": "base", "font": {"color": "@@warn", "size": 11}}] if axis.base >= 0 else [],
        "xaxis": {"type": "category", "categoryorder": "array", "categoryarray": x, "anchor": "y2", "range": [-0.5, len(x) - 0.5]},
        "yaxis": {"domain": [0.3, 1], "title": {"text": words}, "zeroline": True, "zerolinewidth": 2},
        "yaxis2": {"domain": [0, 0.2], "title": {"text": "earn, %"}, "range": [0, 100], "tickvals": [0, 50, 100]},
    }  # fmt: skip
    told = "; ".join(f"{label}: {number(value, digits)}" for label, value in zip(x, q[0.5], strict=True))
    return Figure(
        name=f"profile-{k}", data=data, layout=layout, label=f"Median {words} by {axis.name}. {told}."
    )


def _maps(found: Mapping[str, Any], axes: Sequence[_Axis]) -> list[Figure]:
    """Maps of the pairs that matter most: widest spread of the cells' medians first."""
    pairs = [(b, a) if len(b.labels) > len(a.labels) else (a, b) for a, b in itertools.combinations(axes, 2)]
    made = [_map_figure(found, a, b) for a, b in pairs]
    order = sorted(range(len(made)), key=lambda k: (-made[k][0], k))[:MAPS_MAX]
    return [made[k][1] for k in order]


def _map_figure(found: Mapping[str, Any], a: _Axis, b: _Axis) -> tuple[float, Figure]:
    """(spread of the medians, drawing): a across, b upwards."""
    words, values, digits = _objective(found)
    earns = np.asarray(found["columns"]["roi_marked"], np.float64) > 0.0
    na, nb = len(a.labels), len(b.labels)
    groups = _groups(b.place * na + a.place, na * nb)
    sizes = np.array([len(g) for g in groups]).reshape(nb, na)

    def cells(of: Any) -> list[list[float | None]]:
        flat = _seven([of(g) if len(g) else None for g in groups])
        return [flat[row * na : (row + 1) * na] for row in range(nb)]

    def mean(g: IntArray) -> float | None:
        there = values[g][np.isfinite(values[g])]
        return float(there.mean()) if len(there) else None

    kinds = (
        ("median", cells(lambda g: _quantile(values[g], 0.5)), digits),
        ("mean", cells(mean), digits),
        ("best", cells(lambda g: _quantile(values[g], 1.0)), digits),
        ("earn, %", cells(lambda g: 100.0 * float(earns[g].mean())), 0),
    )
    neutral = 1.0 if found["worth"]["objective"] == "profit_factor" else 0.0
    few = na * nb <= 100
    data: list[Json] = []
    for k, (kind, z, d) in enumerate(kinds):
        known = [v for row in z for v in row if v is not None]
        middle = 50.0 if kind.startswith("earn") else neutral
        reach = 50.0 if kind.startswith("earn") else max([abs(v - middle) for v in known] or [1.0]) or 1.0
        data.append({
            "type": "heatmap", "x": list(a.labels), "y": list(b.labels), "z": z, "visible": k == 0, "xgap": 1, "ygap": 1,
            "zmin": middle - reach, "zmax": middle + reach, "colorscale": [[0, _LOW], [0.5, "@@surface"], [1, _HIGH]],
            "customdata": sizes.tolist(), "text": [[number(v, d) if v is not None else "" for v in row] for row in z],
            "texttemplate": "%{text}" if few else "", "textfont": {"size": 10, "color": "@@ink"},
            "hovertemplate": f"{esc(a.name)} %{{x}}<br>{esc(b.name)} %{{y}}<br>{kind} %{{text}}, %{{customdata:,}} settings<extra></extra>",
            "colorbar": {"thickness": 10, "outlinewidth": 0, "tickfont": {"color": "@@muted"}, "title": {"text": f"{kind}, {words}" if kind != "earn, %" else "earn money, %", "side": "right", "font": {"color": "@@muted"}}},
        })  # fmt: skip
    best = found["worth"]["best"]
    marks = [("★", "star", int(a.place[best]), int(b.place[best]))]
    if a.base >= 0 and b.base >= 0:
        marks.append(("◆", "base", a.base, b.base))
    notes = [
        {"x": x, "y": y, "xref": "x", "yref": "y", "text": sign, "showarrow": False, "xanchor": "center", "yanchor": "middle",
         "yshift": 11 if few else 0, "xshift": 0 if name == "star" else 12 if marks[0][2:] == (x, y) else 0, "font": {"size": 13, "color": "@@ink"}}
        for sign, name, x, y in marks
    ]  # fmt: skip
    buttons = [
        {"method": "restyle", "label": kind, "args": [{"visible": [j == k for j in range(len(kinds))]}]}
        for k, (kind, _, _) in enumerate(kinds)
    ]
    layout = {
        "height": max(300, 130 + 40 * nb), "margin": {"l": 56, "r": 20, "t": 44, "b": 40}, "hovermode": "closest", "annotations": notes,
        "xaxis": {"type": "category", "title": {"text": a.name}, "showgrid": False}, "yaxis": {"type": "category", "title": {"text": b.name}, "showgrid": False},
        "updatemenus": [{
            "type": "buttons", "direction": "right", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom", "pad": {"b": 8, "t": 0}, "showactive": False,
            "buttons": buttons, "bgcolor": "@@raised", "bordercolor": "@@line", "font": {"size": 11, "color": "@@ink"},
        }],
    }  # fmt: skip
    medians = np.array([v for row in kinds[0][1] for v in row if v is not None] or [0.0])
    label = f"Median {words} over {a.name} and {b.name}: {number(float(medians.min()), digits)} to {number(float(medians.max()), digits)}."
    return float(medians.std()), Figure(name=f"map-{a.name}-{b.name}", data=data, layout=layout, label=label)


def _fan_figure(found: Mapping[str, Any]) -> Figure:
    columns, daily = found["columns"], np.asarray(found["daily"], np.float64)
    initial = np.asarray(columns["capital"], np.float64) - np.asarray(columns["net"], np.float64)
    growth = daily / initial[:, None]
    x = ["start", *found["days"]]
    q = {level: _seven([1.0, *np.quantile(growth, level, axis=0)]) for level in (0.1, 0.25, 0.5, 0.75, 0.9)}

    def line(y: Any, name: str, colour: str, width: float, dash: str = "solid", legend: bool = True) -> Json:
        return {
            "type": "scatter", "mode": "lines", "name": name, "x": x, "y": _seven([1.0, *y]), "showlegend": legend,
            "line": {"color": colour, "width": width, "dash": dash}, "hovertemplate": "%{y:.3f}<extra>" + esc(name) + "</extra>",
        }  # fmt: skip

    top = found["worth"]["top"][:_FAN]
    base = found["base"]
    start = float(base["columns"]["capital"][0] - base["columns"]["net"][0])
    data = [
        *_band(x, q[0.1], q[0.9], "@@grid", "middle 80 % of all"),
        *_band(x, q[0.25], q[0.75], "@@accent_soft", "middle half of all"),
        line(np.quantile(growth, 0.5, axis=0), "median of all", "@@muted", 1.4),
        *(line(growth[k], f"place {n + 2}", "@@trace", 1.0, legend=False) for n, k in enumerate(top[1:])),
        line(np.asarray(base["daily"][0]) / start, f"base {found['plan']['base']}", "@@warn", 1.8, "dash"),
        line(growth[top[0]], "best", "@@accent", 2.4),
    ]
    return Figure(
        name="fan",
        data=data,
        layout={
            "height": 400, "showlegend": True, "hovermode": "closest",
            "xaxis": {"type": "category", "nticks": 12}, "yaxis": {"title": {"text": "growth of 1"}},
            "shapes": [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1, "line": {"color": "@@line", "width": 1.4, "dash": "dash"}}],
        },
        label=f"Equity from 1: the best ends at {number(float(growth[top[0], -1]), 3)}, the median setting at {number(float(np.median(growth[:, -1])), 3)}.",
    )  # fmt: skip


__all__ = ["render"]
