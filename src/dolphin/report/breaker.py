"""The circuit breaker's recorded days as one HTML page: boost and beta against BTC's price, and from what.

Entry point: `render`. It takes the rows of the table and plain facts; figures that it adds are counts, shares
and means of those rows, nothing else.

Invariants are those of the run report: nothing is fetched, same values give the same bytes, text is escaped.
"""

# Markup and sentences stay whole on their line.
# ruff: noqa: E501

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dolphin.report.figures import Figure, Json
from dolphin.report.judged import document, top_bar
from dolphin.report.sections import _card, _copy, _figure, _pairs, _panel, _short, _tone
from dolphin.report.text import DASH, MINUS, count, esc, number, percent, plural

Row = Mapping[str, Any]

_NAV = (
    ("days", "Boost and beta"), ("episodes", "Episodes"), ("factors", "Factors"), ("macro", "Macro scale"),
    ("levels", "By level"), ("method", "Method"),
)  # fmt: skip

#: Factor → its name, its strong and its weak limit, on which side it signals, decimals, scale of the drawing.
_FACTORS: tuple[tuple[str, str, float, float, str, int, float], ...] = (
    ("funding_btc", "Funding rate, %", -0.01, 0.0, "below", 4, 100.0),
    ("dvol_btc", "DVOL, annualised %", 80.0, 55.0, "above", 1, 1.0),
    ("fng", "Fear and greed", 25.0, 40.0, "below", 0, 1.0),
    ("taker", "Taker buy/sell ratio", 0.80, 0.90, "below", 3, 1.0),
)
_WORDS = {
    "funding_btc": "funding",
    "dvol_btc": "DVOL",
    "fng": "fear and greed",
    "taker": "taker ratio",
    "w750": "w750 velocity",
    "books": "order books",
}
#: Episodes on the page; the table has every day.
EPISODES_MAX = 40


def render(found: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The whole page as text.

    Parameters
    ----------
    found : mapping
        `first_day`, `last_day`, `factors` (name of their source), `faults` (lines), `prices` (None, or name,
        n_assets, interval_s, first_day, last_day, scanned, source_id, notes), `table_sha256`.
    rows : one mapping a day with the columns of `dolphin.factors.breaker_history.table_of`, ascending, at
        least one. `btc_close` may be absent.

    Returns
    -------
    str
        HTML that opens offline, about 5 MB, most of it the drawing library.
    """
    drawn = [_main_figure(rows), *_factor_figures(rows), *_macro_figure(rows)]
    labels = {figure.name: figure.label for figure in drawn}
    body = "".join(
        (
            top_bar("breaker", _NAV),
            '<main id="main">\n',
            _header(found, rows),
            _cards(rows),
            _main(rows, labels),
            _episodes(rows),
            _factor_panel(rows, labels),
            _macro(found, rows, labels),
            _levels(rows),
            _method(found),
            "</main>\n<footer><p>DOLPHIN circuit breaker over recorded days. Each day from what was known on it; days are UTC.</p></footer>\n",
        )
    )
    return document("Circuit breaker, recorded days", body, drawn, ["study.css", "breaker.css"])


def _present(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows if row.get(name) is not None]


def _names(words: Sequence[str]) -> str:
    told = [_WORDS.get(word, word) for word in words]
    return told[0] if len(told) == 1 else ", ".join(told[:-1]) + " and " + told[-1]


def _never(rows: Sequence[Row]) -> list[str]:
    """What no day had, in the order of the first row."""
    missing = [set(row["missing"].split()) for row in rows]
    return [name for name in rows[0]["missing"].split() if all(name in each for each in missing)]


def _header(found: Mapping[str, Any], rows: Sequence[Row]) -> str:
    never = _never(rows)
    gone = (
        f'<p class="callout warn"><b>Missing on every day: {esc(_names(never))}.</b> A missing factor adds no signal, missing books no stress: '
        "boost and beta can only be higher with them.</p>\n" if never else ""
    )  # fmt: skip
    faults = "".join(f"<li>{esc(text)}</li>" for text in found["faults"][:10])
    wrong = (
        f'<div class="callout warn"><b>Sources that failed.</b><ul>{faults}</ul></div>\n' if faults else ""
    )
    return (
        "<header><h1>What the circuit breaker would have said</h1>\n"
        f'<p class="lead">{plural(len(rows), "day")}, {esc(found["first_day"])} to {esc(found["last_day"])}, from the factors in '
        f"<b>{esc(found['factors'])}</b>. Boost raises the size of a day's trades when fear is in the market; beta says how much a single bar's "
        f"signal may raise it further.</p></header>\n{gone}{wrong}"
    )


def _cards(rows: Sequence[Row]) -> str:
    boosted = [row for row in rows if row["boost"] > 1.0]
    highest = max(rows, key=lambda row: row["boost"])
    known = [row for row in rows if row["beta"] is not None]
    high = [row for row in known if row["w750"] >= row["threshold"]]
    cards = [
        _card("Days", count(len(rows)), f"{esc(rows[0]['day'])} to {esc(rows[-1]['day'])}"),
        _card("Boosted days", count(len(boosted)), f"{percent(len(boosted) / len(rows), 1)} of all"),
        _card("Highest boost", number(highest["boost"], 3), f"first on {esc(highest['day'])}" if boosted else "no day reached one signal"),
        _card(
            "Beta 0.8 at day's end", count(len(high)) if known else DASH,
            f"{percent(len(high) / len(known), 1)} of {plural(len(known), 'day')} with w750" if known else "no w750 velocities",
        ),
        _card("Beta unknown", count(len(rows) - len(known)), "days without w750; the breaker uses 0.2 then"),
    ]  # fmt: skip
    return f'<dl class="cards study-cards">{"".join(cards)}</dl>\n'


def _main(rows: Sequence[Row], labels: Mapping[str, str]) -> str:
    priced = bool(_present(rows, "btc_close"))
    caption = (
        ("Top: BTC at each day's end, logarithmic; dots are days with a boost. " if priced else "No prices were given, so BTC is not drawn. ")
        + "Middle: boost of the day, 1 is none. Bottom: beta at the day's end, a gap where it is unknown; grey: share of the day's scans with the high beta."
    )  # fmt: skip
    return _panel("Boost and beta against BTC", _figure("days", labels, caption, ""), "", "days")


def episodes(rows: Sequence[Row]) -> list[list[Row]]:
    """Runs of neighbouring days with a boost above 1, in order."""
    found: list[list[Row]] = []
    before = False
    for row in rows:
        boosted = row["boost"] > 1.0
        if boosted and before:
            found[-1].append(row)
        elif boosted:
            found.append([row])
        before = boosted
    return found


def _episodes(rows: Sequence[Row]) -> str:
    runs = episodes(rows)
    if not runs:
        return _panel(
            "Episodes",
            '<p class="empty">On no day did the factors add up to one signal.</p>',
            anchor="episodes",
        )
    close = {row["day"]: row.get("btc_close") for row in rows}
    order = [row["day"] for row in rows]
    shown = sorted(
        sorted(runs, key=lambda run: (-max(r["boost"] for r in run), -len(run)))[:EPISODES_MAX],
        key=lambda run: str(run[0]["day"]),
    )
    lines = []
    for run in shown:
        names = [name for name, *_ in _FACTORS if any(row[f"{name}_weight"] > 0.0 for row in run)]
        at = order.index(run[0]["day"])
        start, end = close[order[at - 1]] if at else None, close[run[-1]["day"]]
        change = None if start is None or end is None else end / start - 1.0
        until = "" if len(run) == 1 else f" to {esc(run[-1]['day'])}"
        lines.append(
            f'<tr><td>{esc(run[0]["day"])}{until}</td><td class="num">{len(run)}</td><td class="num">{number(max(r["signals"] for r in run), 1)}</td>'
            f'<td class="num">{number(max(r["boost"] for r in run), 3)}</td><td>{esc(_names(names))}</td><td class="num {_tone(change)}">{percent(change, 1, signed=True)}</td></tr>'
        )
    heads = '<th scope="col">Days</th><th scope="col" class="num">How many</th><th scope="col" class="num">Most signals</th><th scope="col" class="num">Highest boost</th><th scope="col">Who signalled</th><th scope="col" class="num">BTC over them</th>'
    rest = f" The {len(shown)} strongest of {len(runs)} are shown." if len(runs) > len(shown) else ""
    table = f'<div class="scroll tall" tabindex="0" role="region" aria-label="Episodes"><table class="windows"><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    return _panel(
        "Episodes",
        table,
        f"Runs of days with a boost.{rest} BTC from the close before the first day to the close of the last.",
        "episodes",
    )


def _factor_panel(rows: Sequence[Row], labels: Mapping[str, str]) -> str:
    heads = "".join(
        f'<th scope="col" class="num">{text}</th>'
        for text in ("Days with a value", "Lowest", "Median", "Highest", "Half signal", "Full signal")
    )
    lines = []
    for name, title, strong, weak, side, decimals, scale in _FACTORS:
        values = sorted(scale * value for value in _present(rows, name))
        halves = sum(1 for row in rows if row[f"{name}_weight"] == 0.5)
        fulls = sum(1 for row in rows if row[f"{name}_weight"] == 1.0)
        rule = f"{side} {number(weak, decimals)}, {number(strong, decimals)}" + (
            ", only with another" if name == "fng" else ""
        )
        cells = [
            count(len(values)),
            *(
                number(values[k], decimals) if values else DASH
                for k in ((0, len(values) // 2, -1) if values else (0, 0, 0))
            ),
        ]
        cells += [count(halves), count(fulls)] if values else ["none", "none"]
        missing = "" if values else ' class="gone"'
        lines.append(
            f'<tr{missing}><th scope="row">{esc(title)}<small>signals {rule}</small></th>'
            + "".join(f'<td class="num">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    table = f'<div class="scroll" tabindex="0" role="region" aria-label="Factors"><table class="windows"><thead><tr><th scope="col">Factor</th>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    drawings = "".join(
        _figure(f"factor_{name}", labels, "", "") for name, *_ in _FACTORS if f"factor_{name}" in labels
    )
    lead = "The day's value is the median of its first ten records (00:00 to 00:09 UTC), each a value that had been published by then. Lines: where a factor counts half, and where whole."
    return _panel("The factors", table + f'<div class="factor-grid">{drawings}</div>', lead, "factors")


def _macro(found: Mapping[str, Any], rows: Sequence[Row], labels: Mapping[str, str]) -> str:
    prices = found["prices"]
    if "macro" not in labels:
        return _panel(
            "Macro scale",
            '<p class="empty">No w750 velocity is known on these days, so beta is unknown on all of them.</p>',
            anchor="macro",
        )
    if prices is None:
        lead = "w750 velocities of the archive's own scans."
    else:
        made = "scanned from" if prices["scanned"] else "read from the scan cache of"
        lead = (
            f"w750 velocities {made} <b>{esc(prices['name'])}</b>: {plural(prices['n_assets'], 'asset')}, bars of {_span(prices['interval_s'])}. A live system scans every few seconds; "
            "a velocity belongs to its length of bars, so each is compared with the same recording's earlier days only."
        )
    caption = "Line: median of the day's w750 velocity. Dashed: the threshold, 60th percentile of the earlier days' medians (at most 400). Beta is high where the line is at or above it."
    return _panel(
        "Macro scale: w750 velocity and its threshold", _figure("macro", labels, caption, ""), lead, "macro"
    )


def _span(seconds: float) -> str:
    for size, word in ((3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:g} {word}"
    return f"{seconds:g} s"


def _levels(rows: Sequence[Row]) -> str:
    """How BTC moved on the days of each level: closes of the day before and of the day."""
    moves: dict[float, list[float]] = {}
    total: dict[float, int] = {}
    for before, row in zip((None, *rows), rows, strict=False):
        total[row["signals"]] = total.get(row["signals"], 0) + 1
        start, end = (before or {}).get("btc_close"), row.get("btc_close")
        if start is not None and end is not None:
            moves.setdefault(row["signals"], []).append(end / start - 1.0)
    lines = []
    for signals in sorted(total):
        found = moves.get(signals, [])
        boost = next(row["boost"] for row in rows if row["signals"] == signals)
        mean = math.fsum(found) / len(found) if found else None
        error = (
            math.sqrt(math.fsum((x - mean) ** 2 for x in found) / (len(found) - 1) / len(found))
            if mean is not None and len(found) > 1
            else None
        )
        fell = sum(1 for x in found if x < 0.0) / len(found) if found else None
        size = math.fsum(abs(x) for x in found) / len(found) if found else None
        lines.append(
            f'<tr><th scope="row">{number(signals, 1)}</th><td class="num">{number(boost, 3)}</td><td class="num">{count(total[signals])}</td>'
            f'<td class="num {_tone(mean)}">{percent(mean, signed=True)}{f" <small>± {percent(error)}</small>" if error is not None else ""}</td>'
            f'<td class="num">{percent(size)}</td><td class="num">{percent(fell, 0)}</td></tr>'
        )
    heads = '<th scope="col">Signals</th>' + "".join(
        f'<th scope="col" class="num">{text}</th>'
        for text in ("Boost", "Days", "BTC that day, mean", "Mean size of move", "Days that fell")
    )
    table = f'<div class="scroll" tabindex="0" role="region" aria-label="By level"><table class="windows"><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    return _panel(
        "BTC by level of signals",
        table,
        "Close to close. ± is one standard error of the mean. A description of these days, no promise: levels with few days say little.",
        "levels",
    )


def _method(found: Mapping[str, Any]) -> str:
    prices = found["prices"]
    facts: dict[str, Any] = {
        "factors": found["factors"],
        "first day": found["first_day"],
        "last day": found["last_day"],
    }
    if prices is not None:
        facts |= {
            "prices": prices["name"],
            "assets": prices["n_assets"],
            "prices from": prices["first_day"],
            "prices to": prices["last_day"],
            "source id": prices["source_id"],
        }
    notes = "".join(f"<li>{esc(note)}</li>" for note in (prices or {}).get("notes", ()))
    text = (
        f'<p class="intro">signals = the four weights added up; boost = 1 + 0.5 × log1p(signals) from one signal on, else 1. beta = 0.8 where the day\'s w750 velocity is at or above its threshold, else 0.2. '
        f"No look-ahead: a day's index and ratio count when the day is over, funding and fear and greed from their stamp; the threshold knows earlier days only. "
        f"A value that is too old no longer counts (funding 24 h, the others 72 h). The same code as the live processor; the table breaker.csv has every day. Table {_copy(found['table_sha256'], _short(found['table_sha256']), 'table digest')}.</p>"
    )
    return _panel(
        "Method and sources",
        _pairs(facts, "facts") + text + (f'<ul class="cautions">{notes}</ul>' if notes else ""),
        "",
        "method",
    )


# ---- drawings


def _days(rows: Sequence[Row]) -> list[str]:
    return [row["day"] for row in rows]


def _five(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else float(f"{value:.7g}") for value in values]


def _line(x: Sequence[str], y: Sequence[float | None], name: str, colour: str, **more: Any) -> Json:
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": _five(y), "connectgaps": False,
        "line": {"color": colour, "width": 1.5, **more.pop("line", {})}, **more,
    }  # fmt: skip


def _main_figure(rows: Sequence[Row]) -> Figure:
    x = _days(rows)
    boosted = [row for row in rows if row["boost"] > 1.0]
    data: list[Json] = []
    closes = [row.get("btc_close") for row in rows]
    priced = any(value is not None for value in closes)
    if priced:
        data.append(_line(x, closes, "BTC", "@@muted", hovertemplate="%{y:,.0f} USDT<extra>BTC</extra>"))
        marked = [row for row in boosted if row.get("btc_close") is not None]
        data.append({
            "type": "scatter", "mode": "markers", "name": "boosted day", "x": _days(marked), "y": _five([row["btc_close"] for row in marked]),
            "marker": {"size": [round(4.0 + 9.0 * (row["boost"] - 1.0), 2) for row in marked], "color": "@@bad", "opacity": 0.8}, "hoverinfo": "skip",
        })  # fmt: skip
    data.append(
        _line(
            x,
            [row["boost"] for row in rows],
            "boost",
            "@@bad",
            yaxis="y2",
            line={"shape": "hv"},
            fill="tozeroy",
            fillcolor="@@bad_soft",
            hovertemplate="%{y:.3f}<extra>boost</extra>",
        )
    )
    data.append(
        _line(
            x,
            [row["beta_high_frac"] for row in rows],
            "share of scans with the high beta",
            "@@trace",
            yaxis="y3",
            line={"width": 1.0, "shape": "hv"},
            hovertemplate="%{y:.2f}<extra>share high</extra>",
        )
    )
    data.append(
        _line(
            x,
            [row["beta"] for row in rows],
            "beta",
            "@@accent",
            yaxis="y3",
            line={"shape": "hv"},
            hovertemplate="%{y:.1f}<extra>beta</extra>",
        )
    )
    low, high = [min(v), max(v)] if (v := [c for c in closes if c is not None]) else [1.0, 10.0]
    layout: Json = {
        "height": 560 if priced else 380, "showlegend": True, "hovermode": "x unified",
        "legend": {"orientation": "h", "y": 1.06, "x": 0},
        "xaxis": {"type": "date", "anchor": "y3", "range": [x[0], x[-1]]},
        "yaxis2": {"domain": [0.27, 0.46] if priced else [0.55, 1.0], "title": {"text": "boost"}, "range": [0.98, max(1.1, max(row["boost"] for row in rows) + 0.04)]},
        "yaxis3": {"domain": [0.0, 0.2] if priced else [0.0, 0.42], "title": {"text": "beta"}, "range": [-0.04, 1.06], "tickvals": [0.0, 0.2, 0.8, 1.0]},
    }  # fmt: skip
    if priced:
        layout["yaxis"] = {
            "domain": [0.52, 1.0],
            "type": "log",
            "title": {"text": "BTC, USDT"},
            "tickformat": ",.0f",
            "range": [math.log10(low * 0.96), math.log10(high * 1.06)],
            "tickvals": _ticks(low, high),
        }
    label = (
        f"{plural(len(boosted), 'boosted day')} of {len(rows)}; boost between 1 and {max(row['boost'] for row in rows):.3f}"
        + (f"; BTC from {closes[0] or low:,.0f} to {closes[-1] or high:,.0f} USDT." if priced else ".")
    )
    return Figure(name="days", data=data, layout=layout, label=label)


def _ticks(low: float, high: float) -> list[float]:
    """Round prices for a logarithmic axis."""
    found = [
        m * 10.0**e
        for e in range(-2, 8)
        for m in (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
        if low * 0.96 <= m * 10.0**e <= high * 1.06
    ]
    return found or [low, high]


def _factor_figures(rows: Sequence[Row]) -> list[Figure]:
    x = _days(rows)
    found = []
    for name, title, strong, weak, side, decimals, scale in _FACTORS:
        values = [None if row[name] is None else scale * row[name] for row in rows]
        known = [value for value in values if value is not None]
        if not known:
            continue
        shapes = [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": at,
                "y1": at,
                "line": {"color": colour, "width": 1.2, "dash": dash},
            }
            for at, colour, dash in ((weak, "@@warn", "dot"), (strong, "@@bad", "dash"))
        ]
        found.append(Figure(
            name=f"factor_{name}",
            data=[_line(x, values, title, "@@series", hovertemplate="%{y:." + str(decimals) + "f}<extra></extra>")],
            layout={"height": 220, "showlegend": False, "shapes": shapes, "xaxis": {"type": "date", "nticks": 8}, "yaxis": {"title": {"text": title}}, "margin": {"l": 60, "r": 14, "t": 12, "b": 34}},
            label=f"{title} from {number(min(known), decimals).replace(MINUS, '-')} to {number(max(known), decimals)}; signals {side} {weak:g} half, {side} {strong:g} whole.",
        ))  # fmt: skip
    return found


def _macro_figure(rows: Sequence[Row]) -> list[Figure]:
    if not _present(rows, "w750"):
        return []
    x = _days(rows)
    scale = 1e6
    return [
        Figure(
            name="macro",
            data=[
                _line(x, [None if row["w750"] is None else scale * row["w750"] for row in rows], "w750 velocity", "@@series", hovertemplate="%{y:.3f}<extra>w750</extra>"),
                _line(x, [None if row["threshold"] is None else scale * row["threshold"] for row in rows], "threshold", "@@accent", line={"dash": "dash", "width": 1.8}, hovertemplate="%{y:.3f}<extra>threshold</extra>"),
            ],
            layout={"height": 300, "showlegend": True, "hovermode": "x unified", "xaxis": {"type": "date"}, "yaxis": {"title": {"text": "10⁻⁶ per second"}, "zeroline": True}},
            label=f"w750 velocity of {plural(len(_present(rows, 'w750')), 'day')} and its threshold.",
        )
    ]  # fmt: skip


__all__ = ["episodes", "render"]
