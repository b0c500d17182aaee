"""The page holds everything, fetches nothing, and survives every odd run."""

from __future__ import annotations

import html
import json
import math
import re
import stat
import time
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from dolphin.domain.codes import MAX_HOLD, REASON_NONE, REASONS
from dolphin.domain.errors import DataError, StoreError
from dolphin.report import TradeRow, render, write
from dolphin.report.data import LANES
from dolphin.report.page import json_for_script, plain
from dolphin.report.sections import GATES

VOID = {"meta", "input", "br", "img", "link", "hr"}
EVIL = "</script><script>window.evil=1</script><img src=x onerror=window.evil=1>\"'&"


class Outline(HTMLParser):
    """Collects tags, attributes, ids and unbalanced elements."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.ids, self.stack, self.wrong, self.scripts = [], [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if self.stack and self.stack[-1] == "script":
            self.scripts[-1] += data


def outline(page):
    parsed = Outline()
    parsed.feed(page)
    parsed.close()
    assert parsed.stack == []
    assert parsed.wrong == []
    assert len(set(parsed.ids)) == len(parsed.ids)
    return parsed


def embedded(page):
    return json.loads(
        re.search(r'<script type="application/json" id="report-data">(.*?)</script>', page, re.S)[1]
    )


def visible(page):
    body = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.S)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", body)))


def test_many_trades_are_all_there(make_report):
    data = make_report(n_scans=9_000, n_trades=60)
    page = render(data)
    outline(page)
    content = embedded(page)
    assert [t["trade_id"] for t in content["trades"]] == [t.trade_id for t in data.trades]
    for row, trade in zip(content["trades"], data.trades, strict=True):
        assert row["net"] == trade.net
        assert set(row["lanes"]) == set(LANES)
        assert (row["raw"], row["cap"], row["bound"]) == (trade.raw, trade.cap, trade.bound)
    assert set(content["figures"]) == {
        "equity",
        "signal",
        "lambda",
        "waterfall",
        "lanes",
        "reason",
        "asset",
        "hour",
        "bucket",
    }
    assert content["parameters"]["vel_div_threshold"] == -0.02
    assert content["provenance"]["command"] in page
    assert content["summary"]["decisions_sha256"] == data.summary["decisions_sha256"]
    assert content["blocked"] == data.blocked
    assert set(content["prices"]) == {t.trade_id for t in data.trades}
    words = visible(page)
    for word in (
        "ledger balanced",
        "≥ 498 certified bits",
        "no order left the machine",
        "drawn as the lowest and highest value",
    ):
        assert word in words


def test_series_are_thinned_but_keep_the_spikes(make_report):
    data = make_report(n_scans=20_000, n_trades=5)
    drawn = embedded(render(data))["figures"]["signal"]["data"][0]
    assert len(drawn["x"]) == len(drawn["y"]) <= 4000
    assert min(drawn["y"]) == -1.3
    assert max(drawn["y"]) == 0.9
    low, high = embedded(render(data))["figures"]["signal"]["layout"]["yaxis"]["range"]
    assert -0.2 < low < -0.05 < 0.0 < high < 0.2


def test_nothing_is_fetched(make_report):
    parsed = outline(render(make_report()))
    fetching = {"src", "srcset", "action", "data", "poster", "background", "formaction"}
    assert [a for a in parsed.attributes if a[1] in fetching] == []
    assert all(value.startswith("#") for _, name, value in parsed.attributes if name == "href")
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(parsed.tags)
    policy = next(value for tag, name, value in parsed.attributes if tag == "meta" and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "http" not in policy
    style = re.search(r"<style>(.*?)</style>", render(make_report()), re.S)[1]
    assert "url(" not in style
    assert "@import" not in style
    own = [parsed.scripts[0], parsed.scripts[1], parsed.scripts[3]]
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", "".join(own))


def test_zero_trades(make_report):
    page = render(make_report(n_trades=0))
    parsed = outline(page)
    assert "trade-table" not in parsed.ids
    assert set(embedded(page)["figures"]) == {"equity", "signal", "lambda"}
    words = visible(page)
    assert "No trade in this run." in words
    assert "no trade" in words


def test_no_scan_no_spectrum_no_counts(make_report):
    none = np.zeros(0)
    data = make_report(n_trades=0)
    data = replace(
        data,
        timestamp_ns=none.astype(np.int64),
        equity=none,
        vel_div=none,
        lambdas={},
        blocked={},
        notes=(),
        parameters={},
        provenance={},
        prices_of_trades=None,
    )
    page = render(data)
    outline(page)
    assert embedded(page)["figures"] == {}
    assert "No scan was made" in visible(page)


def test_every_reason_that_is_no_exit_has_its_own_sentence(make_report):
    """Exits stand first among the codes, from 1 to `MAX_HOLD`; HIBERNATE_HALT has a sentence too."""
    for reason in (REASONS[REASON_NONE], *REASONS[MAX_HOLD + 1 :]):
        assert GATES[reason]
    assert set(GATES) <= set(REASONS)
    assert len(set(GATES.values())) == len(GATES)
    data = make_report(blocked={**dict.fromkeys(GATES, 1), "of another version": 1})
    words = visible(render(data))
    for sentence in GATES.values():
        assert sentence in words


def test_what_opened_nothing_is_counted_in_scans_not_in_bars_of_the_warm_up(make_report):
    data = make_report(n_scans=2_000, blocked={"NO_SIGNAL": 1_800, "WARMING_UP": 100})
    data = replace(data, summary={**data.summary, "bars": 2_751})
    words = visible(render(data))
    assert "1,900 of 2,000 scans opened nothing." in words
    assert "2,751 scans" not in words


def test_open_position(make_report):
    data = make_report(leave_open=True)
    page = render(data)
    outline(page)
    assert "A position is still open:" in visible(page)
    row = embedded(page)["trades"][-1]
    assert (row["exit_ns"], row["exit_price"], row["reason"]) == (None, None, "OPEN")
    only_open = replace(data, trades=data.trades[-1:])
    assert set(embedded(render(only_open))["figures"]) == {"equity", "signal", "lambda", "waterfall", "lanes"}


def test_figures_that_do_not_exist(make_report):
    data = make_report()
    page = render(replace(data, summary=dict.fromkeys(data.summary)))
    outline(page)
    words = visible(page)
    for word in ("not stated under 3 days", "no losing trade", "ledger not audited", "bits not certified"):
        assert word in words
    assert "None" not in words
    outline(render(replace(data, summary={})))


def test_the_page_says_what_a_customer_must_not_miss(make_report):
    data = make_report()
    summary = {**data.summary, "roi": 0.01, "roi_without_ob_edge": -0.004, "ledger_balanced": False}
    words = visible(render(replace(data, summary=summary)))
    assert "The profit rests on the imagined order-book edge." in words
    assert "ends at −0.40 %" in words
    assert "The ledger does not balance." in words
    assert "5 closed trades: a small sample." in visible(render(make_report(n_trades=5)))
    off = {**data.summary, "capital": data.summary["capital"] + 5.0}
    assert "+5.00 more than the legs: the audit has to explain it" in visible(
        render(replace(data, summary=off))
    )
    assert "The legs add up to the change of capital" in visible(render(data))


def test_numbers_that_are_not_finite_become_gaps(make_report):
    data = make_report()
    vel_div, equity = data.vel_div.copy(), data.equity.copy()
    vel_div[:300], equity[:5] = np.nan, np.nan
    vel_div[-1] = np.inf
    page = render(replace(data, vel_div=vel_div, equity=equity, summary={**data.summary, "sharpe": math.nan}))
    content = embedded(page)
    assert content["figures"]["signal"]["data"][0]["y"][0] is None
    assert content["summary"]["sharpe"] is None
    assert "NaN" not in json.dumps(content)


def test_hostile_text_stays_text(make_report):
    data = make_report(n_trades=3)
    trades = tuple(
        replace(t, trade_id=EVIL + str(i), asset=EVIL, reason=EVIL, bucket=EVIL, bound=EVIL)
        for i, t in enumerate(data.trades)
    )
    data = replace(
        data,
        title=EVIL,
        feed=EVIL,
        set_name=EVIL,
        set_hash=EVIL,
        trades=trades,
        notes=(EVIL,),
        blocked={EVIL: 3},
        parameters={EVIL: EVIL},
        provenance={EVIL: EVIL},
        summary={**data.summary, "decisions_sha256": EVIL},
    )
    page = render(data)
    parsed = outline(page)
    assert len(parsed.scripts) == 4
    assert "img" not in parsed.tags
    assert "onerror" not in {name for _, name, _ in parsed.attributes}
    content = embedded(page)
    assert content["title"] == EVIL
    drawn = json.dumps([content["figures"][name] | {"label": ""} for name in content["figures"]])
    assert "<img" not in drawn
    assert "<script" not in drawn


def test_json_for_script():
    text = json_for_script(
        {"a": "</script><!--&", "b": np.float64(1.5), "c": np.array([1, 2]), "d": {3}, "e": math.inf}
    )
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": "</script><!--&", "b": 1.5, "c": [1, 2], "d": ["3"], "e": None}
    assert plain(np.bool_(True)) is True


def test_same_data_same_bytes(make_report):
    assert render(make_report(seed=11)) == render(make_report(seed=11))


def test_large_run_is_quick_and_small(make_report):
    data = make_report(n_scans=40_000, n_trades=2_000)
    start = time.perf_counter()
    page = render(data)
    assert time.perf_counter() - start < 3.0
    assert len(page.encode()) < 12e6
    assert len(embedded(page)["trades"]) == len(data.trades)


def test_long_side(make_report):
    data = make_report()
    trades = tuple(replace(t, direction=1) for t in data.trades)
    page = render(replace(data, direction=1, threshold=0.01, extreme=0.04, trades=trades))
    assert "A LONG is considered when vel_div is above 0.010" in visible(page)
    assert embedded(page)["figures"]["signal"]["data"][1]["marker"]["symbol"] == "triangle-up"


def test_equity_without_the_edge_ends_lower_by_the_edge(make_report):
    data = make_report()
    drawn = embedded(render(data))["figures"]["equity"]["data"]
    edge = math.fsum(t.ob_edge for t in data.trades)
    assert edge > 0
    assert drawn[0]["y"][-1] - drawn[1]["y"][-1] == pytest.approx(edge, abs=1e-3)


def test_write_is_whole_or_nothing(make_report, tmp_path, monkeypatch):
    data = make_report(n_trades=2)
    path = write(data, tmp_path / "new" / "run.html")
    assert path.read_text(encoding="utf-8") == render(data)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["run.html"]

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dolphin.report.page.os.replace", refuse)
    with pytest.raises(
        StoreError, match=r"run\.html: the report cannot be written \(Permission denied\)"
    ) as caught:
        write(data, path)
    assert "\n" not in str(caught.value)
    assert [p.name for p in path.parent.iterdir()] == ["run.html"]


def test_write_into_a_file_as_folder(make_report, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be written"):
        write(make_report(n_trades=0), tmp_path / "file" / "run.html")


def test_data_is_checked_at_birth(make_report):
    data = make_report(n_trades=2)
    with pytest.raises(DataError, match="equity has 3 values"):
        replace(data, equity=np.zeros(3))
    with pytest.raises(DataError, match=r"lambdas\[50\] has 3 values"):
        replace(data, lambdas={50: np.zeros(3)})
    with pytest.raises(DataError, match="timestamps fall"):
        replace(data, timestamp_ns=data.timestamp_ns[::-1])
    with pytest.raises(DataError, match="direction is 0"):
        replace(data, direction=0)
    trade: TradeRow = data.trades[0]
    with pytest.raises(DataError, match="lanes lack esof"):
        replace(trade, lanes={k: 1.0 for k in LANES if k != "esof"})
    with pytest.raises(DataError, match="before entry"):
        replace(trade, exit_ns=trade.entry_ns - 1)
    with pytest.raises(DataError, match="direction is 2"):
        replace(trade, direction=2)


def test_a_year_of_trades_is_marked_where_the_money_moved(make_report, monkeypatch):
    """Ten thousand marks would freeze a browser; the caption says what is left out, the table has all."""
    from dolphin.report import figures

    data = make_report()
    assert figures.marked_trades(data) == list(range(len(data.trades)))
    assert "Marked are the" not in render(data)
    monkeypatch.setattr(figures, "MARKED_MAX", 5)
    shown = figures.marked_trades(data)
    assert len(shown) == 5 < len(data.trades)
    assert shown == sorted(shown)
    left = [t for i, t in enumerate(data.trades) if i not in shown]
    closed = [data.trades[i] for i in shown if not data.trades[i].is_open]
    assert not any(t.is_open for t in left)
    assert min(abs(t.net) for t in closed) >= max(abs(t.net) for t in left)
    entry = next(t for t in figures.signal_figure(data).data if t["name"] == "entry")
    assert len(entry["x"]) == 5
    assert "Marked are the 5 trades that moved the most money." in render(data)
