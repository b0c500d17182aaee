"""The drawings of the page, as plain plotly figures (traces and layout) that need no library to build.

A colour is a token like `@@good`: the page replaces it by the colour of the theme in force, so one figure
serves light and dark. Text that comes from the run is escaped here, since plotly reads a little markup in its
labels. Every series is thinned by `min_max_indices`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.clock import iso_from_ns
from dolphin.report.data import ReportData, TradeRow
from dolphin.report.groups import Group, Legs
from dolphin.report.series import drawdown, min_max_indices, shown_range
from dolphin.report.text import number, percent, plural, price

Json: TypeAlias = dict[str, Any]

_NS_PER_MS = 1_000_000
#: More trades than this are drawn with smaller marks.
_TRADES_CROWDED = 200
#: Trades marked on the signal at most; a browser draws each mark as an element of its own.
MARKED_MAX = 1500
#: Colour and dash of each window, shortest first; dash and width tell them apart without colour.
_WINDOW_STYLE = (
    ("@@lambda1", "solid", 0.9),
    ("@@lambda2", "dot", 1.3),
    ("@@lambda3", "dash", 1.5),
    ("@@lambda4", "solid", 2.4),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One drawing: what plotly draws, and what a reader who does not see it is told."""

    name: str
    data: list[Json]
    layout: Json
    label: str


def template() -> Json:
    """Defaults shared by all figures: fonts, grid lines, hover box."""
    axis = {
        "gridcolor": "@@grid",
        "zerolinecolor": "@@line",
        "zerolinewidth": 1,
        "linecolor": "@@line",
        "tickcolor": "@@line",
        "ticks": "outside",
        "ticklen": 4,
        "automargin": True,
        "tickfont": {"color": "@@muted"},
        "title": {"font": {"color": "@@muted", "size": 12}, "standoff": 10},
    }
    return {
        "layout": {
            "font": {"family": "@@font", "size": 12, "color": "@@ink"},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 56, "r": 20, "t": 28, "b": 40},
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {
                "bgcolor": "@@raised",
                "bordercolor": "@@line",
                "align": "left",
                "font": {"family": "@@font", "size": 12, "color": "@@ink"},
            },
            "legend": {
                "orientation": "h",
                "x": 0,
                "y": 1.02,
                "yanchor": "bottom",
                "font": {"color": "@@muted"},
            },
            "bargap": 0.32,
            "showlegend": False,
        }
    }


def _safe(text: object) -> str:
    return html.escape(str(text), quote=False)


def _ms(timestamp_ns: IntArray) -> list[int]:
    return [int(v) for v in (timestamp_ns // _NS_PER_MS).tolist()]


def _rounded(values: FloatArray, digits: int = 7) -> list[float | None]:
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in values.tolist()]


def _thinned(data: ReportData, values: FloatArray, digits: int = 7) -> tuple[list[int], list[float | None]]:
    keep = min_max_indices(values)
    return _ms(data.timestamp_ns[keep]), _rounded(values[keep], digits)


def _time_axis(**more: Any) -> Json:
    return {"type": "date", "hoverformat": "%Y-%m-%d %H:%M:%S", **more}


def _span(data: ReportData) -> list[str]:
    """The run from its first to its last scan, with a little air, as the date axis writes it."""
    first, last = int(data.timestamp_ns[0]), int(data.timestamp_ns[-1])
    air = max(_NS_PER_MS, (last - first) // 100)
    return [iso_from_ns(ns)[:23].replace("T", " ") for ns in (first - air, last + air)]


def _level(y: float, text: str, colour: str) -> tuple[Json, Json]:
    """A dashed line across the drawing, and its label at the right end."""
    line = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "yref": "y",
        "y0": y,
        "y1": y,
        "layer": "above",
        "line": {"color": colour, "width": 1.4, "dash": "dash"},
    }
    label = {
        "xref": "paper",
        "x": 1,
        "xanchor": "right",
        "yref": "y",
        "y": y,
        "yanchor": "middle",
        "showarrow": False,
        "text": text,
        "font": {"color": colour, "size": 11},
        "bgcolor": "@@surface",
        "bordercolor": colour,
        "borderwidth": 1,
        "borderpad": 2,
    }
    return line, label


def equity_without_edge(data: ReportData) -> FloatArray:
    """Marked equity less the imagined order-book edge of every trade closed until then (USDT, one a scan).

    Sizes are left as they were traded: the edge is taken out of the money, not out of the compounding.
    """
    booked = sorted((t.exit_ns, t.ob_edge) for t in data.trades if t.exit_ns is not None)
    if not booked:
        return data.equity.copy()
    times = np.array([ns for ns, _ in booked], dtype=np.int64)
    edge = np.concatenate(([0.0], np.cumsum([amount for _, amount in booked])))
    return np.asarray(
        data.equity - edge[np.searchsorted(times, data.timestamp_ns, side="right")], dtype=np.float64
    )


def equity_figure(data: ReportData) -> Figure:
    """Equity above, drawdown below, on one time axis."""
    fall = drawdown(data.equity)
    x, y = _thinned(data, data.equity, 10)
    traces: list[Json] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "equity, marked",
            "x": x,
            "y": y,
            "line": {"color": "@@accent", "width": 1.8},
            "hovertemplate": "%{y:,.2f} USDT<extra>equity</extra>",
        }
    ]
    if any(t.ob_edge for t in data.trades):
        x, y = _thinned(data, equity_without_edge(data), 10)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "without the imagined OB edge",
                "x": x,
                "y": y,
                "line": {"color": "@@imagined", "width": 1.4, "dash": "dot"},
                "hovertemplate": "%{y:,.2f} USDT<extra>without OB edge</extra>",
            }
        )
    x, y = _thinned(data, 100.0 * fall, 6)
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "drawdown",
            "x": x,
            "y": y,
            "yaxis": "y2",
            "fill": "tozeroy",
            "showlegend": False,
            "line": {"color": "@@bad", "width": 1.1},
            "fillcolor": "@@bad_soft",
            "hovertemplate": "%{y:.3f} %<extra>drawdown</extra>",
        }
    )
    line, tag = _level(data.initial_capital, f"start {number(data.initial_capital)}", "@@muted")
    worst = float(np.nanmin(fall)) if np.isfinite(fall).any() else 0.0
    layout = {
        "height": 460,
        "showlegend": True,
        "hovermode": "x unified",
        "xaxis": _time_axis(anchor="y2", range=_span(data)),
        "yaxis": {"domain": [0.34, 1], "title": {"text": "USDT"}, "tickformat": ",.0f"},
        "yaxis2": {
            "domain": [0, 0.26],
            "title": {"text": "drawdown %"},
            "tickformat": ".2~f",
            "rangemode": "tozero",
        },
        "shapes": [line],
        "annotations": [tag],
    }
    label = f"Equity over time with the drawdown below it; the deepest drawdown is {percent(abs(worst))}."
    return Figure(name="equity", data=traces, layout=layout, label=label)


def _trade_hover(trade: TradeRow, head: str) -> str:
    lines = [
        f"<b>{_safe(trade.trade_id)}</b> {head}",
        f"{'SHORT' if trade.direction < 0 else 'LONG'} {_safe(trade.asset)} @ {price(trade.entry_price)}",
        f"leverage {number(trade.leverage)}×, bucket {_safe(trade.bucket)}",
    ]
    if not trade.is_open:
        lines += [
            f"{_safe(trade.reason)} after {plural(trade.bars_held, 'bar')}",
            f"net {number(trade.net, signed=True)} USDT",
        ]
    return "<br>".join(lines)


def _value_at(data: ReportData, timestamp_ns: int) -> float | None:
    """vel_div of the scan at or just before an instant."""
    i = int(np.searchsorted(data.timestamp_ns, timestamp_ns, side="right")) - 1
    value = float(data.vel_div[i]) if i >= 0 else math.nan
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class _Mark:
    """One entry or exit on the signal: which trade (its position), when, and at what vel_div."""

    trade_idx: int
    timestamp_ns: int
    vel_div: float | None
    head: str


def _markers(name: str, trades: Sequence[TradeRow], marks: Sequence[_Mark], marker: Json) -> Json:
    drawn = [m for m in marks if m.vel_div is not None and math.isfinite(m.vel_div)]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "marker": marker,
        "x": [m.timestamp_ns // _NS_PER_MS for m in drawn],
        "y": [m.vel_div for m in drawn],
        "hovertext": [_trade_hover(trades[m.trade_idx], m.head) for m in drawn],
        "customdata": [m.trade_idx for m in drawn],
        "hovertemplate": "%{hovertext}<br>vel_div %{y:.5f}<extra></extra>",
    }


def marked_trades(data: ReportData) -> list[int]:
    """Positions of the trades that the signal's drawing marks: all, or those that moved the most money.

    Open ones are always marked.
    """
    every = range(len(data.trades))
    if len(every) <= MARKED_MAX:
        return list(every)
    largest = sorted(every, key=lambda i: (not data.trades[i].is_open, -abs(data.trades[i].net), i))
    return sorted(largest[:MARKED_MAX])


def signal_figure(data: ReportData) -> Figure:
    """vel_div with its thresholds, entries and exits; the first view leaves rare spikes outside."""
    x, y = _thinned(data, data.vel_div, 6)
    traces: list[Json] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "vel_div",
            "x": x,
            "y": y,
            "line": {"color": "@@trace", "width": 0.9},
            "hovertemplate": "%{y:.5f}<extra>vel_div</extra>",
        }
    ]
    arrow = "triangle-down" if data.direction < 0 else "triangle-up"
    shown = [(i, data.trades[i]) for i in marked_trades(data)]
    entries = [_Mark(i, t.entry_ns, t.vel_div, "entry") for i, t in shown]
    gains, losses = (
        [
            _Mark(i, t.exit_ns, _value_at(data, t.exit_ns), "exit")
            for i, t in shown
            if t.exit_ns is not None and (t.net > 0.0) is won
        ]
        for won in (True, False)
    )
    crowded = len(data.trades) > _TRADES_CROWDED
    edge = {"color": "@@surface", "width": 0.5 if crowded else 1}
    size = 6 if crowded else 9
    traces += [
        _markers(
            "entry",
            data.trades,
            entries,
            {"symbol": arrow, "size": size + 2, "color": "@@accent", "line": edge},
        ),
        _markers(
            "exit, net > 0",
            data.trades,
            gains,
            {"symbol": "circle", "size": size - 1, "color": "@@good", "line": edge},
        ),
        _markers(
            "exit, net ≤ 0",
            data.trades,
            losses,
            {"symbol": "x", "size": size - 1, "color": "@@bad", "line": edge},
        ),
    ]
    traces = [trace for trace in traces if trace["x"]]
    low, high = signal_range(data)
    levels = (
        _level(data.threshold, f"threshold {number(data.threshold, 3)}", "@@warn"),
        _level(data.extreme, f"extreme {number(data.extreme, 3)}", "@@bad"),
    )
    layout = {
        "height": 420,
        "showlegend": True,
        "hovermode": "closest",
        "xaxis": _time_axis(range=_span(data)),
        "yaxis": {"title": {"text": "vel_div (1/s)"}, "range": [low, high], "tickformat": ".3~f"},
        "shapes": [line for line, _ in levels],
        "annotations": [tag for _, tag in levels],
    }
    label = (
        f"Velocity divergence over time with the threshold {number(data.threshold, 3)} and the extreme level "
        f"{number(data.extreme, 3)}; {len(entries):,} entries and "
        f"{len(gains) + len(losses):,} exits are marked."
    )
    return Figure(name="signal", data=traces, layout=layout, label=label)


def signal_range(data: ReportData) -> tuple[float, float]:
    """The first view of the vel_div axis."""
    return shown_range(data.vel_div, (data.threshold, data.extreme, 0.0))


def lambda_figure(data: ReportData) -> Figure:
    """Largest eigenvalue of each window."""
    traces: list[Json] = []
    for (window, values), (colour, dash, width) in zip(
        sorted(data.lambdas.items()), _WINDOW_STYLE, strict=False
    ):
        x, y = _thinned(data, values, 7)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"{window} bars",
                "x": x,
                "y": y,
                "line": {"color": colour, "dash": dash, "width": width},
                "hovertemplate": f"%{{y:.4f}}<extra>λ({window})</extra>",
            }
        )
    layout = {
        "height": 340,
        "showlegend": True,
        "hovermode": "x unified",
        "xaxis": _time_axis(range=_span(data)),
        "yaxis": {"title": {"text": "λ max"}},
    }
    windows = ", ".join(str(window) for window in sorted(data.lambdas))
    return Figure(
        name="lambda",
        data=traces,
        layout=layout,
        label=f"Largest eigenvalue of the windows {windows} over time.",
    )


def _bar_text(group: Group) -> str:
    if not group.n_trades:
        return ""
    return f"{number(group.net, signed=True)}  ({plural(group.n_trades, 'trade')})"


def _group_hover(group: Group) -> str:
    if not group.n_trades:
        return f"<b>{_safe(group.label)}</b><br>no trade"
    return (
        f"<b>{_safe(group.label)}</b><br>net {number(group.net, signed=True)} USDT<br>"
        f"{plural(group.n_trades, 'trade')}, win rate {percent(group.win_rate, 1)}"
    )


def _sign_colour(value: float) -> str:
    return "@@good" if value > 0.0 else "@@bad"


def _wide_range(values: Sequence[float], share: float) -> list[float] | None:
    """Axis range with room for a label outside the longest bar."""
    low, high = min([0.0, *values]), max([0.0, *values])
    span = high - low
    if not span:
        return None
    return [
        low - (share * span if low < 0.0 else 0.02 * span),
        high + (share * span if high > 0.0 else 0.02 * span),
    ]


def _rows_figure(name: str, groups: Sequence[Group], label: str) -> Figure:
    """Horizontal bars of net P&L, first group on top, each with its figures written on it."""
    rows = list(reversed(groups))
    layout = {
        "height": 90 + 34 * max(len(rows), 2),
        "hovermode": "closest",
        "xaxis": {
            "title": {"text": "net, USDT"},
            "tickformat": ",~f",
            "range": _wide_range([g.net for g in rows], 0.65),
        },
        "yaxis": {"type": "category", "ticks": "", "tickfont": {"color": "@@ink"}},
    }
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [g.net for g in rows],
        "y": [_safe(g.label) for g in rows],
        "marker": {"color": [_sign_colour(g.net) for g in rows]},
        "text": [_bar_text(g) for g in rows],
        "meta": {"short_text": [number(g.net, signed=True) if g.n_trades else "" for g in rows]},
        "textposition": "outside",
        "cliponaxis": False,
        "hovertext": [_group_hover(g) for g in rows],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "textfont": {"color": "@@ink", "size": 11},
    }
    return Figure(name=name, data=[trace], layout=layout, label=label)


def _spoken(groups: Sequence[Group]) -> str:
    return "; ".join(
        f"{g.label}: {number(g.net, signed=True)} USDT, {plural(g.n_trades, 'trade')}"
        for g in groups
        if g.n_trades
    )


def reason_figure(groups: Sequence[Group]) -> Figure:
    """Net P&L and number of trades by exit reason."""
    return _rows_figure("reason", groups, f"Exits by reason. {_spoken(groups)}.")


def asset_figure(groups: Sequence[Group]) -> Figure:
    """Net P&L and number of trades by asset."""
    return _rows_figure("asset", groups, f"Net by asset. {_spoken(groups)}.")


def bucket_figure(groups: Sequence[Group]) -> Figure:
    """Net P&L and number of trades by vel_div bucket at entry."""
    return _rows_figure(
        "bucket", groups, f"Net by bucket of velocity divergence at entry. {_spoken(groups)}."
    )


def hour_figure(groups: Sequence[Group]) -> Figure:
    """Net P&L by UTC hour of entry, number of trades written at the bars."""
    layout = {
        "height": 300,
        "xaxis": {
            "title": {"text": "hour of entry, UTC"},
            "type": "category",
            "dtick": 3,
            "tick0": 0,
            "tickangle": 0,
        },
        "yaxis": {
            "title": {"text": "net, USDT"},
            "tickformat": ",~f",
            "range": _wide_range([g.net for g in groups], 0.12),
        },
    }
    trace = {
        "type": "bar",
        "x": [g.label for g in groups],
        "y": [g.net for g in groups],
        "marker": {"color": [_sign_colour(g.net) for g in groups]},
        "text": [str(g.n_trades) if g.n_trades else "" for g in groups],
        "textposition": "outside",
        "cliponaxis": False,
        "textfont": {"color": "@@muted", "size": 10},
        "hovertext": [_group_hover(g) for g in groups],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    return Figure(
        name="hour", data=[trace], layout=layout, label=f"Net by hour of entry, UTC. {_spoken(groups)}."
    )


def waterfall_figure(legs: Legs) -> Figure:
    """From the P&L at scan prices to the booked net: real costs first, the imagined edge last and hatched."""
    steps: tuple[tuple[str, float, float, str, bool], ...] = (
        ("price P&L", 0.0, legs.price_pnl, "@@series", False),
        ("slippage", legs.price_pnl, -legs.slippage, "@@bad", False),
        ("fees", legs.price_pnl - legs.slippage, -legs.fees, "@@bad", False),
        ("<b>net without edge</b>", 0.0, legs.real_net, "@@accent", False),
        ("<i>OB edge, imagined</i>", legs.real_net, legs.ob_edge, "@@imagined", True),
        ("<b>booked net</b>", 0.0, legs.net, "@@accent", True),
    )
    names = [name.replace("P&L", "P&amp;L") for name, *_ in steps]
    ends = [base + value for _, base, value, _, _ in steps]
    wire_x: list[float | None] = []
    wire_y: list[str | None] = []
    for i in range(len(steps) - 1):
        wire_x += [ends[i], ends[i], None]
        wire_y += [names[i], names[i + 1], None]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": names,
        "base": [base for _, base, *_ in steps],
        "x": [value for _, _, value, *_ in steps],
        "marker": {
            "color": [colour for *_, colour, _ in steps],
            "line": {"color": [colour for *_, colour, _ in steps], "width": 1.2},
            "pattern": {
                "shape": ["/" if hatched else "" for *_, hatched in steps],
                "size": 7,
                "solidity": 0.35,
                "fillmode": "overlay",
                "fgcolor": "@@surface",
            },
        },
        "text": [number(value, signed=True) for _, _, value, *_ in steps],
        "textposition": "outside",
        "cliponaxis": False,
        "textfont": {"color": "@@ink", "size": 12},
        "hovertemplate": "%{y}: %{text} USDT<extra></extra>",
    }
    wires = {
        "type": "scatter",
        "mode": "lines",
        "x": wire_x,
        "y": wire_y,
        "hoverinfo": "skip",
        "line": {"color": "@@muted", "width": 1, "dash": "dot"},
    }
    layout = {
        "height": 350,
        "bargap": 0.42,
        "hovermode": "closest",
        "yaxis": {
            "type": "category",
            "ticks": "",
            "tickfont": {"color": "@@ink"},
            "categoryorder": "array",
            "categoryarray": names[::-1],
        },
        "xaxis": {"title": {"text": "USDT"}, "tickformat": ",~f", "range": _wide_range([0.0, *ends], 0.42)},
    }
    label = (
        f"From gross to net in USDT: price P&L {number(legs.price_pnl, signed=True)}, "
        f"slippage {number(-legs.slippage)}, fees {number(-legs.fees)}, "
        f"net without the order-book edge {number(legs.real_net, signed=True)}, "
        f"imagined order-book edge {number(legs.ob_edge, signed=True)}, "
        f"booked net {number(legs.net, signed=True)}."
    )
    return Figure(name="waterfall", data=[wires, bars], layout=layout, label=label)


#: Lanes that multiply the base leverage, with the names they have on the page.
_FACTOR_LANES = (("esof", "EsoF"), ("ob", "OB"), ("regime", "ACB"), ("dc", "DC"))


#: A lane at this factor, or at its inverse, has the full colour; 1.0 has none.
_HEAT_TOP = 1.5625


def lanes_figure(trades: Sequence[TradeRow]) -> Figure:
    """Above: base, raw and final leverage of each trade. Below: what each other lane multiplied."""
    x = list(range(1, len(trades) + 1))
    ids = [_safe(t.trade_id) for t in trades]
    top = math.log2(_HEAT_TOP)
    heat = [
        [round(max(-top, min(top, math.log2(max(t.lanes[lane], 1e-9)))), 4) for t in trades]
        for lane, _ in _FACTOR_LANES
    ]
    text = [[number(t.lanes[lane], 3) for t in trades] for lane, _ in _FACTOR_LANES]

    crowded = len(trades) > _TRADES_CROWDED
    changed = [i for i, t in enumerate(trades) if t.raw != t.leverage]

    def marks(name: str, symbol: str, colour: str, values: dict[int, float]) -> Json:
        return {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [i + 1 for i in values],
            "y": list(values.values()),
            "marker": {
                "symbol": symbol,
                "size": 5 if crowded else 9,
                "color": colour,
                "line": {"width": 1 if crowded else 1.6, "color": colour},
            },
            "customdata": list(values),
            "hovertemplate": f"trade %{{x}}<br>{name} %{{y:.3f}}×<extra></extra>",
        }

    traces: list[Json] = [
        {
            "type": "bar",
            "name": "leverage traded",
            "x": x,
            "y": [t.leverage for t in trades],
            "marker": {
                "color": "@@accent_soft",
                "line": {"color": "@@accent", "width": 0 if crowded else 1},
            },
            "customdata": list(range(len(trades))),
            "hovertext": [
                f"<b>{ids[i]}</b><br>leverage {number(t.leverage, 3)}×<br>"
                f"cap {number(t.cap, 3)}, bound: {_safe(t.bound)}"
                for i, t in enumerate(trades)
            ],
            "hovertemplate": "%{hovertext}<extra></extra>",
        },
        marks("base lane", "line-ew-open", "@@ink", {i: t.lanes["base"] for i, t in enumerate(trades)}),
        *(
            [
                marks(
                    "raw, where a limit changed it",
                    "diamond-open",
                    "@@warn",
                    {i: trades[i].raw for i in changed},
                )
            ]
            if changed
            else []
        ),
        {
            "type": "heatmap",
            "x": x,
            "y": [name for _, name in _FACTOR_LANES],
            "z": heat,
            "yaxis": "y2",
            "xgap": 1 if len(trades) <= 200 else 0,
            "ygap": 2,
            "zmin": -top,
            "zmax": top,
            "text": text,
            "texttemplate": "%{text}" if len(trades) <= 24 else "",
            "hovertemplate": "trade %{x}<br>%{y} lane × %{text}<extra></extra>",
            "textfont": {"size": 10, "color": "@@ink"},
            "colorscale": [[0, "@@heat_low"], [0.5, "@@heat_mid"], [1, "@@heat_high"]],
            "colorbar": {
                "title": {"text": "×", "font": {"color": "@@muted"}},
                "thickness": 10,
                "len": 0.42,
                "y": 0.2,
                "outlinewidth": 0,
                "tickvals": [-top, -top / 2, 0, top / 2, top],
                "ticktext": ["≤0.64", "0.80", "1", "1.25", "≥1.56"],
                "tickfont": {"color": "@@muted"},
            },
        },
    ]
    layout = {
        "height": 440,
        "showlegend": True,
        "hovermode": "closest",
        "bargap": 0.25,
        "xaxis": {
            "title": {"text": "trade, in order of entry"},
            "anchor": "y2",
            "range": [0.5, len(trades) + 0.5],
            "tickformat": ",d",
            **({"dtick": 1} if len(trades) <= 24 else {}),
        },
        "yaxis": {"domain": [0.5, 1], "title": {"text": "leverage ×"}, "rangemode": "tozero"},
        "yaxis2": {
            "domain": [0, 0.42],
            "type": "category",
            "tickcolor": "rgba(0,0,0,0)",
            "ticklen": 6,
            "showgrid": False,
            "tickfont": {"color": "@@ink"},
        },
    }
    label = (
        f"Leverage of {plural(len(trades), 'trade')} and the factors of the DC, ACB, OB and EsoF lanes; "
        "the trades table lists every value."
    )
    return Figure(name="lanes", data=traces, layout=layout, label=label)
