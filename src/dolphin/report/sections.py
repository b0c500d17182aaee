"""The page's markup, part by part, in reading order. Every word of the run passes through `esc`."""

# Markup and sentences stay whole on their line.
# ruff: noqa: E501

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dolphin.domain.clock import NS_PER_DAY
from dolphin.report.data import ReportData
from dolphin.report.figures import marked_trades, signal_range
from dolphin.report.glossary import GLOSSARY
from dolphin.report.groups import Group, by_asset, by_bucket, by_hour, by_reason, lane_stats, legs_of
from dolphin.report.senses import senses_section
from dolphin.report.series import POINTS_MAX
from dolphin.report.text import DASH, MINUS, count, duration, esc, number, number_of, percent, plural, utc

_NAV = (
    ("figures", "Figures"), ("equity", "Equity"), ("signal", "Signal"), ("senses", "Senses"), ("results", "Results"), ("costs", "Costs"),
    ("lanes", "Lanes"), ("trades", "Trades"), ("parameters", "Parameters"), ("glossary", "Glossary"),
)  # fmt: skip

#: Fewer closed trades than this prove nothing about the next ones.
_TRADES_FEW = 30

_LOGO = (
    '<svg class="logo" viewBox="0 0 32 32" aria-hidden="true"><path d="M3 21c5-11 13-15 21-11l4-3-1 6c2 3 2 6 1 9'
    '-2-4-6-6-10-6 0 3-2 6-5 7 1-2 1-4 0-6-4 0-7 1-10 4z" fill="currentColor"/></svg>'
)


def body(data: ReportData, labels: Mapping[str, str]) -> str:
    """Everything between `<body>` and the scripts. `labels` holds the drawings that exist, with their spoken text."""
    return "".join(
        (
            _top_bar(data),
            '<main id="main">\n',
            _header(data),
            _callouts(data),
            _headline(data),
            _equity(data, labels),
            _signal(data, labels),
            senses_section(data.senses, labels),
            _results(data, labels),
            _costs(data, labels),
            _lanes(data, labels),
            _trades(data),
            _parameters(data),
            _notes(data),
            _glossary(),
            "</main>\n",
            '<footer><p>DOLPHIN run report. All times UTC. Simulated fills: no order left the machine. '
            "Past results say nothing certain about future ones.</p></footer>\n",
        )
    )  # fmt: skip


def _top_bar(data: ReportData) -> str:
    links = "".join(
        f'<a href="#{name}">{label}</a>'
        for name, label in _NAV
        if name != "senses" or data.senses is not None
    )
    return (
        '<a class="skip" href="#main">Skip to the report</a>\n'
        f'<div class="bar"><div class="bar-in"><span class="brand">{_LOGO}DOLPHIN</span>'
        f'<nav aria-label="Sections">{links}</nav>'
        '<button type="button" id="theme" class="ghost" aria-label="Switch between light and dark">'
        '<span aria-hidden="true">◐</span><span class="wide"> Theme</span></button></div></div>\n'
        '<noscript><p class="callout warn">The drawings and the trades table need JavaScript. It runs offline.</p></noscript>\n'
    )


def _side(direction: int) -> str:
    return "SHORT" if direction < 0 else "LONG"


def _sentence(data: ReportData) -> str:
    s = data.summary
    n_scans = len(data.timestamp_ns)
    n_trades = int(number_of(s.get("trades")) or len(data.closed))
    parts = [
        f"A paper run of the <b>{esc(data.set_name)}</b> set ({_side(data.direction)}) on <b>{esc(data.feed)}</b>"
    ]
    if n_scans:
        first, last = int(data.timestamp_ns[0]), int(data.timestamp_ns[-1])
        parts.append(
            f" made <b>{count(n_scans)}</b> scans from {utc(first, seconds=False)} to {utc(last, seconds=False)} UTC "
            f"({duration(last - first)})"
        )
    capital = number_of(s.get("capital"))
    if n_trades:
        parts.append(f" and closed <b>{plural(n_trades, 'trade')}</b>")
    else:
        parts.append(" and closed <b>no trade</b>")
    if capital is not None:
        parts.append(f": {number(data.initial_capital)} became <b>{number(capital)} USDT</b>")
    return "".join(parts) + "."


def _chip(kind: str, icon: str, text: str) -> str:
    return (
        f'<li class="chip {kind}"><span class="icon" aria-hidden="true">{icon}</span><span>{text}</span></li>'
    )


def _copy(value: str, shown: str, what: str) -> str:
    return (
        f'<code title="{esc(value)}">{esc(shown)}</code><button type="button" class="copy" data-copy="{esc(value)}" '
        f'aria-label="Copy {esc(what)}">copy</button>'
    )


def _short(digest: str, keep: int = 12) -> str:
    return digest if len(digest) <= keep + 3 else digest[:keep] + "…"


def _header(data: ReportData) -> str:
    s = data.summary
    balanced = s.get("ledger_balanced")
    if balanced is None:
        ledger = _chip("neutral", "?", "ledger not audited")
    elif balanced:
        ledger = _chip("good", "✓", "ledger balanced")
    else:
        ledger = _chip("bad", "✕", "ledger does NOT balance")
    bits = number_of(s.get("certified_bits_min"))
    certified = (
        _chip("good", "✓", f"≥ {bits:.0f} certified bits on every scan")
        if bits is not None
        else _chip("neutral", "?", "bits not certified in this run")
    )
    digest = s.get("decisions_sha256")
    digest_chip = (
        _chip("neutral", "#", "decisions " + _copy(str(digest), _short(str(digest)), "decisions digest"))
        if digest
        else ""
    )
    set_chip = _chip(
        "neutral", "◆", f"{esc(data.set_name)} " + _copy(data.set_hash, _short(data.set_hash, 16), "set hash")
    )
    return (
        f"<header><h1>{esc(data.title)}</h1>\n<p class=\"lead\">{_sentence(data)}</p>\n"
        '<ul class="chips" aria-label="Verdicts">'
        + _chip("paper", "▤", "<b>paper</b>: simulated fills, no order left the machine")
        + ledger + certified + set_chip + digest_chip
        + "</ul></header>\n"
    )  # fmt: skip


def _callouts(data: ReportData) -> str:
    s = data.summary
    found: list[tuple[str, str]] = []
    if s.get("ledger_balanced") is False:
        found.append(
            (
                "bad",
                "<b>The ledger does not balance.</b> Do not rely on any figure below before an audit has found out why.",
            )
        )
    roi, real = number_of(s.get("roi")), number_of(s.get("roi_without_ob_edge"))
    if roi is not None and real is not None and roi > 0.0 >= real:
        found.append(
            (
                "warn",
                f"<b>The profit rests on the imagined order-book edge.</b> Without it this run ends at {percent(real, signed=True)}.",
            )
        )
    found += [
        (
            "info",
            f"<b>A position is still open:</b> {_side(trade.direction)} {esc(trade.asset)} since "
            f"{utc(trade.entry_ns)} UTC ({esc(trade.trade_id)}). It is marked in equity and left out of win rate "
            "and breakdowns.",
        )
        for trade in data.still_open
    ]
    if not data.trades:
        found.append(
            (
                "info",
                "<b>No trade in this run.</b> "
                + ("“Why scans did not trade” says which gate held them back." if data.blocked else ""),
            )
        )
    elif len(data.closed) < _TRADES_FEW:
        found.append(
            (
                "info",
                f"<b>{plural(len(data.closed), 'closed trade')}: a small sample.</b> Treat every rate below as an anecdote, not as evidence.",
            )
        )
    return "".join(f'<p class="callout {kind}" role="note">{text}</p>\n' for kind, text in found)


def _tone(value: float | None) -> str:
    if value is None or value == 0.0:
        return ""
    return "up" if value > 0.0 else "down"


def _card(label: str, value: str, note: str = "", tone: str = "", kind: str = "") -> str:
    return (
        f'<div class="card {kind}"><dt>{label}</dt><dd class="value {tone}">{value}</dd>'
        f'<dd class="note">{note}</dd></div>'
    )


def _headline(data: ReportData) -> str:
    s = data.summary
    roi, real, capital = (number_of(s.get(key)) for key in ("roi", "roi_without_ob_edge", "capital"))
    n_trades = int(number_of(s.get("trades")) or len(data.closed))
    change = None if capital is None else capital - data.initial_capital
    factor, sharpe = number_of(s.get("profit_factor")), number_of(s.get("sharpe"))
    wins, fall = number_of(s.get("win_rate")), number_of(s.get("max_drawdown"))
    long_run = (
        len(data.timestamp_ns) > 0 and int(data.timestamp_ns[-1] - data.timestamp_ns[0]) >= 3 * NS_PER_DAY
    )
    short, long = (number_of(s.get(key)) for key in ("entries_short", "entries_long"))
    sides = " · ".join(
        f"{count(n)} {name}" for n, name in ((short, "short"), (long, "long")) if n is not None
    )
    cards = (
        _card("ROI", percent(roi, signed=True), "booked, on initial capital", _tone(roi)),
        _card(
            "ROI without OB edge",
            percent(real, signed=True),
            "the imagined edge taken out",
            _tone(real),
            "imagined",
        ),
        _card(
            "Capital", number(capital), "USDT" if change is None else f"{number(change, signed=True)} USDT"
        ),
        _card("Trades", count(n_trades), f"entries: {sides}" if sides else "closed"),
        _card("Win rate", percent(wins, 1), "net above zero" if wins is not None else "no closed trade"),
        _card(
            "Profit factor",
            number(factor),
            "wins ÷ losses" if factor is not None else ("no losing trade" if n_trades else "no trade"),
        ),
        _card(
            "Sharpe",
            number(sharpe),
            "daily, × √365"
            if sharpe is not None
            else ("not defined" if long_run else "not stated under 3 days"),
        ),
        _card("Max drawdown", percent(fall if fall is None else abs(fall)), "marked on every bar"),
    )
    return f'<section id="figures" aria-label="Headline figures"><dl class="cards">{"".join(cards)}</dl></section>\n'


def _figure(name: str, labels: Mapping[str, str], caption: str, missing: str) -> str:
    """A drawing with its caption, or a sentence that says why there is none."""
    if name not in labels:
        return f'<p class="empty">{missing}</p>'
    return (
        f'<figure><div class="plot" id="plot-{name}" role="img" aria-label="{esc(labels[name])}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _panel(title: str, inner: str, lead: str = "", anchor: str = "") -> str:
    mark = f' id="{anchor}"' if anchor else ""
    intro = f'<p class="intro">{lead}</p>' if lead else ""
    return f'<section class="panel"{mark}><h2>{title}</h2>{intro}{inner}</section>\n'


def _thinning(data: ReportData) -> str:
    n = len(data.timestamp_ns)
    if n <= POINTS_MAX:
        return f"All {count(n)} scans are drawn."
    return f"{count(n)} scans, drawn as the lowest and highest value of each of about {POINTS_MAX // 2:,} stretches, so no spike is lost."


def _equity(data: ReportData, labels: Mapping[str, str]) -> str:
    dotted = (
        " Dotted: the same without the imagined order-book edge."
        if any(t.ob_edge for t in data.trades)
        else ""
    )
    caption = f"Equity marked at every scan, drawdown below it.{dotted} {_thinning(data)} Drag to zoom, double click to go back."
    return _panel(
        "Equity and drawdown",
        _figure("equity", labels, caption, "No scan was made, so there is no equity to draw."),
        anchor="equity",
    )


def _signal(data: ReportData, labels: Mapping[str, str]) -> str:
    outside = 0
    if len(data.vel_div):
        low, high = signal_range(data)
        outside = int(((data.vel_div < low) | (data.vel_div > high)).sum())
    hidden = (
        f" {plural(outside, 'scan')} lie outside the first view: double click for the full range."
        if outside
        else ""
    )
    beyond = "below" if data.direction < 0 else "above"
    n_marked = len(marked_trades(data))
    if n_marked < len(data.trades):
        hidden = f" Marked are the {count(n_marked)} trades that moved the most money.{hidden}"
    caption = (
        f"A {_side(data.direction)} is considered when vel_div is {beyond} {number(data.threshold, 3)}; {number(data.extreme, 3)} is the extreme level. "
        f"Triangle: entry. Disc: exit with a gain. Cross: exit with a loss. Click a mark to see the trade. {_thinning(data)}{hidden}"
    )
    lead = "How much faster the market's dominant eigenvalue moves over 50 bars than over 750. This one number drives every entry."
    first = _panel(
        "Velocity divergence and trades",
        _figure("signal", labels, caption, "No scan was made, so there is no signal to draw."),
        lead,
        "signal",
    )
    windows = (
        "Largest eigenvalue λ of the correlation matrix, per window; high means the market moves as one block. "
        + _thinning(data)
    )
    second = _panel(
        "λ of the windows", _figure("lambda", labels, windows, "The spectrum was not recorded with this run.")
    )
    return first + second


def _group_table(head: str, groups: Sequence[Group]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{esc(g.label)}</th><td>{count(g.n_trades)}</td><td>{percent(g.win_rate, 1)}</td>'
        f"<td>{number(g.net, signed=True)}</td><td>{number(g.net / g.n_trades, signed=True) if g.n_trades else DASH}</td></tr>"
        for g in groups
    )
    return (
        '<details class="as-table"><summary>Show as table</summary><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{head}"><table><thead><tr><th scope="col">{head}</th><th scope="col">Trades</th>'
        '<th scope="col">Win rate</th><th scope="col">Net, USDT</th><th scope="col">Mean, USDT</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _results(data: ReportData, labels: Mapping[str, str]) -> str:
    closed = data.closed
    nothing = "No closed trade to break down by reason, bucket, asset or hour."
    if not closed:
        return _panel("Results", f'<p class="empty">{nothing}</p>', anchor="results")
    parts = (
        (
            "Exits by reason",
            "reason",
            "Reason",
            by_reason(closed),
            "What ended the trades, and what those trades earned.",
        ),
        (
            "P&amp;L by vel_div bucket",
            "bucket",
            "Bucket",
            by_bucket(closed),
            "Strength of the signal at entry, strongest first.",
        ),
        ("P&amp;L by asset", "asset", "Asset", by_asset(closed), "Net of all legs, best first."),
        (
            "P&amp;L by hour of day",
            "hour",
            "Hour, UTC",
            by_hour(closed),
            "Hour of entry, UTC; the small number counts trades.",
        ),
    )
    inner = "".join(
        _panel(
            title,
            _figure(name, labels, caption, nothing) + _group_table(head, [g for g in groups if g.n_trades]),
        )
        for title, name, head, groups, caption in parts
    )
    return f'<div class="pair" id="results">{inner}</div>\n'


def _reconciled(data: ReportData) -> str:
    """Whether the trades explain the change of capital, in one sentence."""
    capital = number_of(data.summary.get("capital"))
    if capital is None:
        return ""
    booked = legs_of(data.trades).net
    rest = capital - data.initial_capital - booked
    if abs(rest) < 0.005 or math.isclose(capital - data.initial_capital, booked, rel_tol=1e-9):
        return f" The legs add up to the change of capital, {number(booked, signed=True)} USDT."
    why = "the open position accounts for it" if data.still_open else "the audit has to explain it"
    return f" Capital changed by {number(capital - data.initial_capital, signed=True)} USDT, {number(rest, signed=True)} more than the legs: {why}."


def _costs(data: ReportData, labels: Mapping[str, str]) -> str:
    legs = legs_of(data.trades)
    caption = (
        "Red: costs that a real account would pay. Hatched: contains the order-book edge, a gain the model imagines where "
        f"no real books were seen.{_reconciled(data)}"
    )
    steps = (
        ("Price P&amp;L at scan prices", legs.price_pnl), ("Slippage", -legs.slippage), ("Fees", -legs.fees),
        ("Net without OB edge", legs.real_net), ("OB edge, imagined", legs.ob_edge), ("Booked net", legs.net),
    )  # fmt: skip
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{number(value, signed=True)}</td></tr>' for name, value in steps
    )
    table = (
        '<details class="as-table"><summary>Show as table</summary><table><thead><tr><th scope="col">Leg</th>'
        f'<th scope="col">USDT</th></tr></thead><tbody>{rows}</tbody></table></details>'
    )
    waterfall = _panel(
        "From gross to net",
        _figure("waterfall", labels, caption, "No trade, so no money moved.")
        + (table if data.trades else ""),
    )
    return f'<div class="pair" id="costs">{waterfall}{_blocked(data)}</div>\n'


#: Why a scan opened nothing, by its exact reason (`dolphin.domain.codes.REASONS`).
GATES = {
    "NONE": "no reason was recorded",
    "HIBERNATE_HALT": "posture HIBERNATE closed the position",
    "SIGNAL": "vel_div reached the threshold and every gate was open",
    "NO_SIGNAL": "vel_div did not reach the threshold",
    "WARMING_UP": "a signal, but too few scans since the start",
    "VOL_GATE": "a signal, but the market was too quiet",
    "JUST_EXITED": "a signal on the scan that had just closed a position",
    "DAY_HALT": "a signal, but the forewarner stood at RED: no entry that day",
    "POSTURE_HALT": "a signal, but the posture allowed no entry",
    "NO_CAPITAL": "a signal, but no capital was left",
    "NO_ASSET": "a signal, but no asset passed the selection",
    "DC_REFUSED": "an asset was chosen, but its own momentum disagreed",
    "OB_REFUSED": "an asset was chosen, but its order book disagreed",
    "STALE_SCAN": "a signal, but the scan was too old",
    "LEDGER_HALT": "a signal, but the ledger did not balance: no entry until it does",
    "OPERATOR_HALT": "a signal, but the kill switch was on",
}


def _blocked(data: ReportData) -> str:
    total = sum(data.blocked.values())
    if not total:
        return _panel(
            "Why scans did not trade", '<p class="empty">No counts were recorded with this run.</p>'
        )
    n_scans = max(total, len(data.timestamp_ns))
    rows = "".join(
        f'<tr><th scope="row"><code>{esc(reason)}</code><small>{GATES.get(reason, "")}</small></th>'
        f'<td class="gauge"><span style="width:{max(0.4, 100.0 * n / total):.2f}%"></span></td>'
        f"<td>{count(n)}</td><td>{percent(n / total, 1 if n / total >= 0.001 else 3)}</td></tr>"
        for reason, n in sorted(data.blocked.items(), key=lambda item: (-item[1], item[0]))
    )
    lead = f"{count(total)} of {plural(n_scans, 'scan')} opened nothing. Each is counted once, under the first gate that closed."
    return _panel(
        "Why scans did not trade",
        '<div class="scroll" tabindex="0" role="region" aria-label="Why scans did not trade"><table class="blocked"><thead><tr>'
        '<th scope="col">Gate</th><th scope="col"><span class="sr">Share, drawn</span></th><th scope="col">Scans</th>'
        f'<th scope="col">Share</th></tr></thead><tbody>{rows}</tbody></table></div>',
        lead,
    )


#: Lanes in their order of multiplication, with the names they have on the page.
_LANE_NAMES = (("base", "Base leverage"), ("dc", "DC"), ("regime", "ACB"), ("ob", "OB"), ("esof", "EsoF"))


def _lane_table(data: ReportData) -> str:
    rows = []
    for lane, name in _LANE_NAMES:
        one = lane_stats(data.trades, lane)
        rows.append(
            f'<tr><th scope="row">{name}</th><td>{number(one.lowest, 3)}</td><td>{number(one.mean, 3)}</td>'
            f"<td>{number(one.highest, 3)}</td><td>{count(one.n_raised)}</td><td>{number(one.net_raised, signed=True)}</td>"
            f"<td>{count(one.n_cut)}</td><td>{number(one.net_cut, signed=True)}</td></tr>"
        )
    heads = "".join(
        f'<th scope="col">{head}</th>'
        for head in ("Lane", "Lowest", "Mean", "Highest", "Raised", "their net", "Cut", "their net")
    )
    return (
        '<details class="as-table"><summary>What each lane did</summary><div class="scroll" tabindex="0" role="region" '
        f'aria-label="What each lane did"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        "<p><small>Raised and cut count trades with a factor above and below 1; net in USDT.</small></p></details>"
    )


def _lanes(data: ReportData, labels: Mapping[str, str]) -> str:
    neutral = [
        name
        for lane, name in _LANE_NAMES[1:]
        if data.trades and all(t.lanes[lane] == 1.0 for t in data.trades)
    ]
    quiet = f" {', '.join(neutral)} stood at 1.0 (neutral) on every trade." if neutral else ""
    capped = sum(1 for t in data.trades if t.raw > t.cap)
    caption = (
        "Above: bars are the leverage traded, dashes the base lane, diamonds the product of all lanes where cap or floor changed it. "
        f"Below: what each other lane multiplied.{quiet} The cap cut {plural(capped, 'trade')}."
    )
    lead = "Leverage = base × DC × ACB × OB × EsoF, then capped. Each lane is recorded on its own, so every size can be traced back."
    drawing = _figure("lanes", labels, caption, "No trade, so no lanes to show.")
    return _panel(
        "The five lanes of each trade", drawing + (_lane_table(data) if data.trades else ""), lead, "lanes"
    )


#: Columns of the trades table: key, heading, sorts as a number, classes that leave it out on a narrower screen. What is
#: left out stands in the row's details; page.js gives the cells the same classes.
_COLUMNS = (
    ("trade_id", "Trade", False, ""), ("asset", "Asset", False, ""), ("direction", "Side", False, "opt below-1340"),
    ("net", "Net, USDT", True, ""), ("leverage", "Leverage", True, "opt below-960"), ("reason", "Exit reason", False, "opt"),
    ("entry_ns", "Entry, UTC", True, "opt"), ("exit_ns", "Exit", True, "opt below-960"), ("bars_held", "Bars", True, "opt below-1340"),
    ("entry_price", "Entry price", True, "opt below-1180"), ("exit_price", "Exit price", True, "opt below-1180"),
    ("vel_div", "vel_div", True, "opt below-1540"), ("bucket", "Bucket", False, "opt below-1540"),
)  # fmt: skip


def _trades(data: ReportData) -> str:
    if not data.trades:
        return _panel("Trades", '<p class="empty">This run opened no position.</p>', anchor="trades")
    heads = "".join(
        f'<th scope="col" aria-sort="none" class="{"num " if numeric else ""}{narrow}">'
        f'<button type="button" class="sort" data-key="{key}">{label}<span class="arrow" aria-hidden="true"></span></button></th>'
        for key, label, numeric, narrow in _COLUMNS
    )
    tools = (
        '<div class="tools"><label class="search"><span class="sr">Search trades</span>'
        '<input type="search" id="trade-search" placeholder="Search id, asset, reason, bucket, date" autocomplete="off" spellcheck="false"></label>'
        '<label class="only">Show <select id="trade-only"><option value="all">all</option><option value="win">gains</option>'
        '<option value="loss">losses</option><option value="open">open</option></select></label>'
        '<button type="button" id="trade-csv" class="ghost">Download CSV</button>'
        '<p id="trade-status" role="status" aria-live="polite"></p></div>'
    )
    table = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Trades"><table id="trade-table"><thead><tr>'
        f'<th scope="col"><span class="sr">Details</span></th>{heads}</tr></thead><tbody></tbody></table></div>'
        '<div class="pager"><button type="button" id="page-back" class="ghost">Previous</button><span id="page-now"></span>'
        '<button type="button" id="page-next" class="ghost">Next</button>'
        '<button type="button" id="page-all" class="ghost" aria-pressed="false">Show all</button></div>'
    )
    lead = "Open a row for its lanes, cap and costs. Click a heading to sort."
    return _panel("Trades", tools + table, lead, "trades")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return esc(repr(value).replace("-", MINUS))
    if isinstance(value, dict | list | tuple):
        return esc(
            ", ".join(f"{k}: {v}" for k, v in value.items())
            if isinstance(value, dict)
            else ", ".join(map(str, value))
        )
    return DASH if value is None else esc(value)


def _pairs(rows: Mapping[str, Any], what: str) -> str:
    if not rows:
        return f'<p class="empty">No {what} recorded.</p>'
    lines = []
    for key, value in rows.items():
        text = str(value)
        hashed = len(text) >= 16 and all(c in "0123456789abcdef" for c in text)
        shown = _copy(text, text, key) if hashed else _value(value)
        lines.append(f'<tr><th scope="row">{esc(key)}</th><td>{shown}</td></tr>')
    return f'<table class="pairs"><tbody>{"".join(lines)}</tbody></table>'


def _parameters(data: ReportData) -> str:
    s = data.summary
    facts: dict[str, Any] = {
        "parameter set": data.set_name, "set hash": data.set_hash, "decisions sha256": s.get("decisions_sha256"),
        "feed": data.feed, "bars": count(s.get("bars")), "scans": count(s.get("scans")), "wall time, s": s.get("wall_s"),
    }  # fmt: skip
    facts.update(data.provenance)
    left = _panel(
        "Parameters", _pairs(data.parameters, "parameters"), "The frozen set this run used, value by value."
    )
    right = _panel(
        "Source and hashes", _pairs(facts, "sources"), "What to compare when two runs should agree."
    )
    return f'<div class="pair" id="parameters">{left}{right}</div>\n'


def _notes(data: ReportData) -> str:
    if not data.notes:
        return ""
    items = "".join(f"<li>{esc(note)}</li>" for note in data.notes)
    return _panel("Notes", f'<ul class="notes">{items}</ul>', anchor="notes")


def _glossary() -> str:
    items = "".join(f"<div><dt>{esc(word)}</dt><dd>{esc(meaning)}</dd></div>" for word, meaning in GLOSSARY)
    return _panel(
        "Glossary",
        f'<dl class="glossary">{items}</dl>',
        "The words of this page, in plain terms.",
        "glossary",
    )
