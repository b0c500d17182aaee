"""A study as one HTML page: the verdict first, then what it rests on.

Entry point: `render`. It takes the plain values of `study.json` and adds no figure of its own.

Invariants are those of the run report: nothing is fetched, same values give the same bytes, text is escaped.
"""

# Markup and sentences stay whole on their line.
# ruff: noqa: E501

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dolphin.report.figures import Figure, Json
from dolphin.report.judged import document, top_bar, verdict_section
from dolphin.report.sections import _card, _copy, _figure, _pairs, _panel, _short, _tone
from dolphin.report.text import MINUS, count, esc, number, percent, plural

_NAV = (
    ("verdict", "Verdict"), ("tested", "Out of sample"), ("figures", "Figures"), ("search", "Search"),
    ("costs", "Costs"), ("timing", "Timing"), ("method", "Method"), ("glossary", "Glossary"),
)  # fmt: skip

#: Figure → its name on the page, and how its value is written.
_FIGURES: tuple[tuple[str, str, Any], ...] = (
    ("roi", "Result (ROI)", lambda x: percent(x, 2, signed=True)),
    ("mean_net", "Mean net per trade, USDT", lambda x: number(x, signed=True)),
    ("mean_return", "Mean net per trade, of its size", lambda x: percent(x, 3, signed=True)),
    ("profit_factor", "Profit factor", number),
    ("sharpe", "Sharpe, a year", number),
    ("max_drawdown", "Max drawdown", percent),
    ("win_rate", "Win rate", lambda x: percent(x, 1)),
)

_WORDS: tuple[tuple[str, str], ...] = (
    ("out of sample", "Judged on days that had no say in which setting was chosen."),
    ("interval", "Where the figure would have fallen in 95 of 100 cases, had the same kind of days come in another mix. Blocks of neighbouring days are drawn again, many times."),
    ("walk-forward", "Learn on some days, wait, trade the next ones, move on. The way a setting would really have been used."),
    ("embargo", "Days between learning and judging that neither sees, so that nothing leaks from one to the other."),
    ("cross-validation paths", "Every choice of test folds is judged once; joined together they give several histories of the whole period, each out of sample."),
    ("overfitting (PBO)", "How often the best setting on one half of the days is in the worse half of settings on the other. 50 % is pure luck."),
    ("deflated Sharpe", "How likely the best setting is truly better than the luckiest of as many settings that know nothing."),
    ("shifted signals", "The same signals moved against the prices by hours or days. They keep their rhythm and lose their knowledge."),
    ("p-value", "How often ignorance does as well as what was observed. Small is good; 0.05 is one time in twenty."),
    ("order-book edge", "A gain that the model credits for good order placement. Without real books it is imagined, so this page leaves it out."),
    ("profit factor", "Sum of the winning trades divided by the sum of the losing ones. Above 1 is a profit."),
    ("Sharpe", "Mean over spread of daily returns, scaled to a year (× √365)."),
    ("drawdown", "How far equity falls below its highest value so far."),
)  # fmt: skip


def render(study: Mapping[str, Any]) -> str:
    """The whole page as text.

    Parameters
    ----------
    study : mapping
        What `dolphin.research.study.study` returned, or `study.json` read back. Parts that could not be
        made are None and are told as such.

    Returns
    -------
    str
        HTML that opens offline, about 5 MB, most of it the drawing library.
    """
    drawn = _figures(study)
    labels = {figure.name: figure.label for figure in drawn}
    reasons = [f"<b>{esc(x['about'])}.</b> {esc(x['text'])}" for x in study["verdict"]["sentences"]]
    body = "".join(
        (
            top_bar("study", _NAV),
            '<main id="main">\n',
            _header(study),
            verdict_section(study["verdict"], reasons),
            _tested(study, labels),
            _ranges(study),
            _search(study, labels),
            _costs(study, labels),
            _timing(study, labels),
            _method(study),
            _glossary(),
            "</main>\n<footer><p>DOLPHIN study. Simulated fills: no order left the machine. Days are UTC. "
            "Past results say nothing certain about future ones.</p></footer>\n",
        )
    )
    return document(f"Study of {study['set']['name']}", body, drawn, ["study.css"])


def _header(s: Mapping[str, Any]) -> str:
    days = s["days"]
    return (
        f"<header><h1>Does the edge of {esc(s['set']['name'])} survive?</h1>\n"
        f'<p class="lead">{plural(len(s["trials"]), "setting")} over <b>{plural(len(days), "day")}</b>, {esc(days[0])} to '
        f"{esc(days[-1])}, {count(s['n_bars'])} bars of {number(s['bar_seconds'], 0)} s from <b>{esc(s['source'].get('name', ''))}</b>. "
        "Everything is after fees and slippage and without the imagined order-book edge, unless it says otherwise.</p></header>\n"
    )


def _shown(value: Any) -> str:
    """A parameter's value: numbers short and with a true minus, switches as words."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return esc(str(value).lower() if isinstance(value, bool) else value)
    return f"{value:g}".replace("-", MINUS)


def _tested(s: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    w = s["walk_forward"]
    if w is None:
        return _panel(
            "Out of sample",
            '<p class="empty">The period is too short to learn on some days and to judge on others.</p>',
            anchor="tested",
        )
    settings = s["settings"]
    lead = (
        f"Learn on {plural(settings['train_days'], 'day')}, leave out {settings['embargo_days']}, trade the next "
        f"{plural(settings['test_days'], 'day')} with the setting that had the highest Sharpe ratio while learning, move on. "
        "Dashed: the set as it is named, on the same days."
    )
    keys = list(settings["grid"])
    heads = "".join(f'<th scope="col" class="num">{esc(key)}</th>' for key in keys)
    rows = "".join(
        f"<tr><td>{esc(x['train'][0])} to {esc(x['train'][1][5:])}</td><td>{esc(x['test'][0])} to {esc(x['test'][1][5:])}</td>"
        + "".join(f'<td class="num">{_shown(x["values"][key])}</td>' for key in keys)
        + f'<td class="num">{count(x["trades_test"])}</td><td class="num {_tone(x["roi_test"])}">{percent(x["roi_test"], signed=True)}</td></tr>'
        for x in w["windows"]
    )
    table = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Windows">'
        f'<table class="windows"><thead><tr><th scope="col">Learned on</th><th scope="col">Traded on</th>{heads}'
        f'<th scope="col" class="num">Trades</th><th scope="col" class="num">Result</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )
    drawing = _figure(
        "walk",
        labels,
        "Capital over the days out of sample, starting from 1, marked at each day's last bar.",
        "",
    )
    return _panel("Out of sample: walk-forward", drawing + table, lead, "tested")


def _range(figure: Mapping[str, Any], form: Any) -> str:
    value = form(figure["value"])
    if figure["low"] is None:
        return f"{value}<small>no interval</small>"
    high = "no upper bound" if figure["unbounded"] else form(figure["high"])
    return f"{value}<small>{form(figure['low'])} to {high}</small>"


def _ranges(s: Mapping[str, Any]) -> str:
    w, named = s["walk_forward"], s["as_named"]
    columns = [("The set, all days", named)]
    if w is not None:
        columns = [("Walk-forward, out of sample", w), ("The set on the same days", w["unchanged"]), *columns]
    heads = "".join(
        f'<th scope="col">{esc(name)}<br><small>{plural(int(part["n_days"]), "day")}, {plural(int(part["trades"]), "trade")}</small></th>'
        for name, part in columns
    )
    edge = named["with_ob_edge"]
    if edge is not None:
        heads += '<th scope="col">With the imagined edge<br><small>as a plain backtest shows it</small></th>'
    rows = []
    for key, name, form in _FIGURES:
        cells = "".join(f"<td>{_range(part['figures'][key], form)}</td>" for _, part in columns)
        if edge is not None:
            cells += f"<td>{form(edge[key])}</td>"
        rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    words = (w or named)["words"]
    lead = (
        f"Each figure with its {percent(s['settings']['level'], 0)} interval: {count(s['settings']['reps'])} resamples of whole days "
        f"(stationary bootstrap, percentile, mean block {plural(int(named['block_days']), 'day')} for the set)."
        + (f" {esc(words[:1].upper() + words[1:])}." if words else "")
        + " In the mean of its size, every trade counts once, however small it was."
    )
    table = f'<div class="scroll" tabindex="0" role="region" aria-label="Figures with intervals"><table class="ranges"><thead><tr><th scope="col">Figure</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    return _panel("Headline figures with intervals", table, lead, "figures")


def _search(s: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    o, d, c = s["overfitting"], s["deflated"], s["cross_validation"]
    if o is None and d is None:
        return _panel(
            "The search",
            '<p class="empty">Too few days, or only one setting: nothing to say about the search.</p>',
            anchor="search",
        )
    cards = []
    if o is not None:
        cards += [
            _card(
                "Probability of overfitting",
                percent(o["pbo"], 0),
                f"{count(o['n_halvings'])} ways to halve the days; luck: 50 %",
            ),
            _card("Chosen one loses later", percent(o["loss"], 0), "of those ways"),
        ]
    if d is not None:
        cards += [
            _card(
                "Deflated Sharpe",
                percent(d["probability"], 0),
                f"{plural(d['n_trials'], 'trial')} run; 95 % would convince",
            ),
            _card("Best of all beats nothing", number(d["superiority_p"], 3), "p-value, Hansen's SPA"),
            _card("Independent trials, about", number(d["effective_trials"], 1), "for information only"),
        ]
    left = _panel(
        "How the chosen setting ranks later",
        _figure(
            "ranks",
            labels,
            "Red, left of the line: the setting that was best on one half of the days is in the worse half on the other days.",
            "Too few days, or one setting.",
        ),
    )
    right = _panel(
        "Better inside, better outside?",
        _figure(
            "halves",
            labels,
            "Each dot is one way to halve the days: Sharpe of the chosen setting where it was chosen, and on the other half.",
            "Too few days, or one setting.",
        ),
    )
    paths = ""
    if c is not None:
        losing = sum(1 for path in c["paths"] if path["roi"] <= 0.0)
        lead = (
            f"{c['n_splits']} splits of {c['folds']} folds, each setting chosen on the train days only; their test folds join into "
            f"{plural(len(c['paths']), 'path')} of the whole period. {losing} of {len(c['paths'])} lose."
        )
        paths = _panel(
            "Cross-validation paths",
            _figure("paths", labels, "Every path is out of sample on every day.", ""),
            lead,
        )
    before, ledger = s["settings"]["trials_before"], s["settings"].get("trials_ledger", "")
    earlier = f" and {count(before)} before{f', by {esc(ledger)}' if ledger else ''}" if before else ""
    lead = f"{plural(len(s['trials']), 'setting')} were run on these days{earlier}. The more one tries, the better the luckiest one looks."
    return (
        _panel(
            "The search for a setting", f'<dl class="cards study-cards">{"".join(cards)}</dl>', lead, "search"
        )
        + f'<div class="pair">{left}{right}</div>\n'
        + paths
    )


def _costs(s: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    c = s["costs"]
    scales = sorted({row["fee_scale"] for row in c["rows"]})
    by = {(row["fee_scale"], row["slippage_scale"]): row for row in c["rows"]}
    heads = "".join(f'<th scope="col">slippage × {x:g}</th>' for x in scales)
    rows = "".join(
        f'<tr><th scope="row">fees × {fee:g}</th>'
        + "".join(
            f'<td class="{_tone(by[fee, slip]["roi"])}{" now" if fee == slip == 1.0 else ""}">{percent(by[fee, slip]["roi"], signed=True)}</td>'
            for slip in scales
        )
        + "</tr>"
        for fee in scales
    )
    table = f'<div class="scroll" tabindex="0" role="region" aria-label="Result by cost scale"><table class="heat"><thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    even = c["break_even"]
    told = (
        "It earns at every scale shown." if even is None
        else "It loses even without any cost." if even == 0.0
        else f"It breaks even at {number(even)} times today's fees and slippage."
    )  # fmt: skip
    return _panel(
        "Costs",
        _figure("costs", labels, "The set over all days, from the price profit to what is left.", "") + table,
        f"Result of the set over all days with fees and slippage scaled; framed: as charged. {told}",
        "costs",
    )


def _timing(s: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    n = s["null"]
    if n is None:
        return _panel(
            "Timing",
            '<p class="empty">The period is too short to shift the signals against the prices.</p>',
            anchor="timing",
        )
    lead = (
        f"The signals rolled against the prices by {count(n['n_shifts'])} evenly spaced shifts, {count(n['spacing_bars'])} bars apart "
        f"(nothing nearer than {count(n['distance_bars'])} bars counts as shifted), each traded by the same engine. p = {number(n['p_value'], 3)}; so many shifts can give {number(1.0 / (1.0 + n['n_shifts']), 3)} at best."
    )
    caption = (
        "Mean net per trade of its size, centred and divided by its standard error, so that wild hours do not pass for skill. "
        f"Observed: {percent(n['mean_observed'], 3, signed=True)} a trade over {plural(n['trades_observed'], 'trade')}; "
        f"shifted, on average: {percent(n['mean_null'], 3, signed=True)} over {count(n['trades_null'])}."
    )
    return _panel("Timing: signals at wrong times", _figure("null", labels, caption, ""), lead, "timing")


def _method(s: Mapping[str, Any]) -> str:
    settings = s["settings"]
    facts: dict[str, Any] = {
        "parameter set": s["set"]["name"],
        "set hash": s["set"]["hash"],
        **{f"source {key}": value for key, value in s["source"].items()},
        "chosen by": settings["criterion"],
        "grid": settings["grid_name"],
        **{f"grid {key}": ", ".join(map(_shown, values)) for key, values in settings["grid"].items()},
        **{
            key.replace("_", " "): settings.get(key, "")
            for key in (
                "train_days",
                "test_days",
                "embargo_days",
                "folds",
                "shifts",
                "reps",
                "level",
                "trials_before",
                "trials_ledger",
                "seed",
                "vol_threshold",
            )
            if settings.get(key, "") != ""
        },
    }
    sources = (
        "Walk-forward: Pardo (2008). Embargo and combinatorial purged cross-validation: López de Prado (2018), with skfolio. "
        "Probability of backtest overfitting: Bailey, Borwein, López de Prado and Zhu (2017). Deflated and probabilistic Sharpe "
        "ratio, track record: Bailey and López de Prado (2012, 2014). Stationary bootstrap: Politis and Romano (1994), its block "
        "length: Politis and White (2004), with arch. Superior predictive ability: Hansen (2005), with arch. Shifted signals: an exact "
        "randomisation test on a group of rotations (Hemerik and Goeman 2018), studentised (Chung and Romano 2013)."
    )
    left = _panel(
        "Parameters of the set",
        _pairs(s["set"]["parameters"], "parameters"),
        "The frozen set, value by value; the study runs it with use_ob_edge off.",
    )
    right = _panel(
        "Method and sources", _pairs(facts, "settings") + f'<p class="intro">{sources}</p>' + _digest(s)
    )
    return f'<div class="pair" id="method">{left}{right}</div>\n'


def _digest(s: Mapping[str, Any]) -> str:
    digest = s.get("result_sha256")
    return (
        ""
        if not digest
        else f'<p class="intro">Result {_copy(digest, _short(digest), "result digest")}: the same data, set and seed give the same digest.</p>'
    )


def _glossary() -> str:
    items = "".join(f"<div><dt>{esc(word)}</dt><dd>{esc(meaning)}</dd></div>" for word, meaning in _WORDS)
    return _panel(
        "Glossary",
        f'<dl class="glossary">{items}</dl>',
        "The words of this page, in plain terms.",
        "glossary",
    )


# ---- drawings


def _figures(s: Mapping[str, Any]) -> list[Figure]:
    drawn = [_cost_figure(s["costs"])]
    if s["walk_forward"] is not None:
        drawn.append(_walk_figure(s["walk_forward"]))
    if s["overfitting"] is not None:
        drawn += [_rank_figure(s["overfitting"]), _halves_figure(s["overfitting"])]
    if s["cross_validation"] is not None:
        drawn.append(_paths_figure(s["cross_validation"], s["days"]))
    if s["null"] is not None:
        drawn.append(_null_figure(s["null"]))
    return drawn


def _line(
    x: Sequence[Any], y: Sequence[float], name: str, colour: str, dash: str = "solid", width: float = 2.0
) -> Json:
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": [float(f"{v:.7g}") for v in y],
        "line": {"color": colour, "dash": dash, "width": width}, "hovertemplate": "%{y:.4f}<extra>" + name + "</extra>",
    }  # fmt: skip


def _at(x: float, colour: str, dash: str = "solid") -> Json:
    return {
        "type": "line",
        "xref": "x",
        "x0": x,
        "x1": x,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"color": colour, "width": 2, "dash": dash},
    }


def _note(x: float, text: str, colour: str, side: str) -> Json:
    return {
        "xref": "x",
        "x": x,
        "yref": "paper",
        "y": 1,
        "yanchor": "top",
        "xanchor": side,
        "showarrow": False,
        "text": text,
        "font": {"color": colour, "size": 11},
        "bgcolor": "@@surface",
        "borderpad": 3,
    }


def _walk_figure(w: Mapping[str, Any]) -> Figure:
    days = ["start", *w["tested"]]
    return Figure(
        name="walk",
        data=[
            _line(days, w["equity"], "walk-forward", "@@accent"),
            _line(days, w["equity_unchanged"], "set as named", "@@muted", "dash", 1.5),
        ],
        layout={
            "height": 340, "showlegend": True, "hovermode": "x unified",
            "xaxis": {"type": "category", "nticks": 12}, "yaxis": {"title": {"text": "growth of 1"}},
            "shapes": [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1, "line": {"color": "@@line", "width": 1.4, "dash": "dash"}}],
        },
        label=f"Capital out of sample: from 1 to {w['equity'][-1]:.3f}; the unchanged set ends at {w['equity_unchanged'][-1]:.3f}.",
    )  # fmt: skip


def _paths_figure(c: Mapping[str, Any], days: Sequence[str]) -> Figure:
    styles = (
        ("@@accent", "solid"),
        ("@@imagined", "dash"),
        ("@@warn", "dot"),
        ("@@series", "dashdot"),
        ("@@good", "longdash"),
    )
    x = ["start", *days]
    return Figure(
        name="paths",
        data=[_line(x, path["equity"], f"path {k + 1}", *styles[k % len(styles)], 1.6) for k, path in enumerate(c["paths"])],
        layout={
            "height": 320, "showlegend": True, "hovermode": "x unified",
            "xaxis": {"type": "category", "nticks": 12}, "yaxis": {"title": {"text": "growth of 1"}},
        },
        label=f"{len(c['paths'])} paths of the whole period, each out of sample.",
    )  # fmt: skip


def _rank_figure(o: Mapping[str, Any]) -> Figure:
    """The paper's logits, told as ranks: 1 is the worst setting of the other half, n the best."""
    n, total = o["n_trials"], sum(o["logit_counts"])
    ranks = [(n + 1) / (1.0 + math.exp(-x)) for x in o["logits"]]
    return Figure(
        name="ranks",
        data=[{
            "type": "bar", "x": [round(rank, 3) for rank in ranks], "y": [100.0 * k / total for k in o["logit_counts"]],
            "marker": {"color": ["@@bad" if x <= 0.0 else "@@good" for x in o["logits"]]}, "width": 0.8,
            "hovertemplate": "rank %{x:.0f}: %{y:.1f} % of halvings<extra></extra>",
        }],
        layout={
            "height": 300, "shapes": [_at((n + 1) / 2.0, "@@muted", "dash")],
            "xaxis": {"title": {"text": f"rank on the other half of the days, 1 (worst) to {n} (best)"}, "range": [0.3, n + 0.7]},
            "yaxis": {"title": {"text": "% of halvings"}},
        },
        label=f"Ranks of the chosen setting on the other half of the days; {percent(o['pbo'], 0)} are at or below the median.",
    )  # fmt: skip


def _halves_figure(o: Mapping[str, Any]) -> Figure:
    return Figure(
        name="halves",
        data=[{
            "type": "scatter", "mode": "markers", "x": o["sharpe_in"], "y": o["sharpe_out"],
            "marker": {"size": 5, "color": "@@accent", "opacity": 0.45}, "hovertemplate": "chosen at %{x:.2f}, later %{y:.2f}<extra></extra>",
        }],
        layout={
            "height": 300, "xaxis": {"title": {"text": "Sharpe a day where it was chosen"}}, "yaxis": {"title": {"text": "Sharpe a day elsewhere"}, "zeroline": True},
        },
        label=f"Sharpe of the chosen setting inside against outside; slope {number(o['slope'])}.",
    )  # fmt: skip


def _cost_figure(c: Mapping[str, Any]) -> Figure:
    values = [c["price_pnl"], -c["fees"], -c["slippage"], c["net"]]
    names = ["price profit", "fees", "slippage", "what is left"]
    return Figure(
        name="costs",
        data=[{
            "type": "waterfall", "x": names, "y": values, "measure": ["relative", "relative", "relative", "total"],
            "text": [number(v, signed=True) for v in values], "textposition": "outside", "cliponaxis": False,
            "connector": {"line": {"color": "@@line", "width": 1}},
            "increasing": {"marker": {"color": "@@good"}}, "decreasing": {"marker": {"color": "@@bad"}}, "totals": {"marker": {"color": "@@accent"}},
            "hovertemplate": "%{x}: %{text} USDT<extra></extra>",
        }],
        layout={"height": 300, "yaxis": {"title": {"text": "USDT"}, "tickformat": ",.0f"}, "xaxis": {"type": "category"}},
        label=f"Price profit {number(c['price_pnl'], signed=True)} USDT, less fees {number(c['fees'])} and slippage {number(c['slippage'])}, leaves {number(c['net'], signed=True)}.",
    )  # fmt: skip


def _null_figure(n: Mapping[str, Any]) -> Figure:
    observed = n["observed"]
    centre = sorted(n["null"])[len(n["null"]) // 2]
    return Figure(
        name="null",
        data=[{
            "type": "histogram", "x": [float(f"{v:.5g}") for v in n["null"]], "nbinsx": 40, "marker": {"color": "@@series"},
            "hovertemplate": "%{x}: %{y} shifts<extra></extra>",
        }],
        layout={
            "height": 300, "bargap": 0.04, "shapes": [_at(observed, "@@accent")],
            "annotations": [_note(observed, "observed", "@@accent", "left" if observed <= centre else "right")],
            "xaxis": {"title": {"text": "mean net per trade, centred, in standard errors"}}, "yaxis": {"title": {"text": "shifts"}},
        },
        label=f"{count(n['n_shifts'])} shifted runs; the observed statistic is {number(observed)}, p {number(n['p_value'], 3)}.",
    )  # fmt: skip


__all__ = ["render"]
