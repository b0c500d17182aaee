"""The page in a real browser: every drawing is made, search and sort answer, nothing fails, nothing is fetched."""

# The script that drives the page stays readable as a script.
# ruff: noqa: E501

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from dolphin.report import render

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine to open the page with")

CATCH = """<script>
window.caught = [];
addEventListener("error", (e) => caught.push("error: " + e.message));
addEventListener("unhandledrejection", (e) => caught.push("rejected: " + e.reason));
addEventListener("securitypolicyviolation", (e) => caught.push("policy: " + e.violatedDirective + " " + e.blockedURI));
for (const kind of ["error", "warn"]) { console[kind] = (...a) => caught.push(kind + ": " + a.join(" ")); }
</script>"""

PROBE = """<pre id="probe"></pre><script>
(function () {
  const ids = () => [...document.querySelectorAll("#trade-table tbody tr.row th")].map((n) => n.textContent);
  const nets = () => [...document.querySelectorAll("#trade-table tbody td.net")].map((n) => Number(n.textContent.replace("\\u2212", "-").replaceAll(",", "")));
  const sort = (key) => document.querySelector('button.sort[data-key="' + key + '"]').click();
  const sorted = () => document.querySelector('th[aria-sort]:not([aria-sort="none"])').getAttribute("aria-sort");
  const find = (text) => { const box = document.getElementById("trade-search"); box.value = text; box.dispatchEvent(new Event("input")); };
  function probe() {
    if (document.documentElement.dataset.ready !== "yes") { setTimeout(probe, 20); return; }
    const out = { plots: document.querySelectorAll(".js-plotly-plot .main-svg").length };
    out.buttons = [...new Set([...document.querySelectorAll(".modebar-btn")].map((b) => b.dataset.title))];
    out.invalid = {};
    const report = JSON.parse(document.getElementById("report-data").textContent);
    for (const name in report.figures) {
      const box = document.getElementById("plot-" + name);
      const wrong = Plotly.validate(box.data, box.layout) || [];
      if (wrong.length) { out.invalid[name] = wrong.map((w) => w.msg); }
    }
    if (document.getElementById("trade-table")) {
      out.first = ids();
      sort("net");
      out.down = nets();
      out.sorted_down = sorted();
      sort("net");
      out.up = nets();
      out.sorted_up = sorted();
      sort("asset");
      out.assets = [...document.querySelectorAll("#trade-table tbody tr.row td:nth-child(3)")].map((n) => n.textContent);
      find("btcusdt");
      out.found = [...document.querySelectorAll("#trade-table tbody tr.row td:nth-child(3)")].map((n) => n.textContent);
      out.status = document.getElementById("trade-status").textContent;
      find("nothing like this");
      out.none = document.querySelector("#trade-table tbody").textContent;
      find("");
      document.getElementById("page-all").click();
      out.all = ids().length;
      const toggle = document.querySelector("button.toggle");
      toggle.click();
      out.expanded = toggle.getAttribute("aria-expanded");
      out.detail = document.querySelector("tr.detail").textContent;
      toggle.click();
      out.collapsed = document.querySelectorAll("tr.detail").length;
    }
    const scroll = document.querySelector("#trades .scroll");
    out.cut = scroll ? scroll.scrollWidth - scroll.clientWidth : 0;
    const background = () => getComputedStyle(document.body).backgroundColor;
    const before = background();
    document.getElementById("theme").click();
    out.theme_changes = before !== background();
    document.getElementById("theme").click();
    out.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    out.caught = window.caught;
    out.evil = window.evil === undefined ? "no" : "yes";
    out.fetched = performance.getEntriesByType("resource").map((e) => e.name);
    document.getElementById("probe").textContent = JSON.stringify(out);
  }
  probe();
})();
</script>"""


def opened(page, tmp_path, width=1400):
    path = tmp_path / "page.html"
    path.write_text(
        page.replace("<head>", "<head>" + CATCH, 1).replace("</body>", PROBE + "</body>"), encoding="utf-8"
    )
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1000",
            "--virtual-time-budget=60000", "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="probe">(.+?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


def test_page_works(make_report, tmp_path):
    data = make_report(n_scans=9_000, n_trades=60, leave_open=True)
    seen = opened(render(data), tmp_path)
    assert seen["caught"] == []
    assert seen["fetched"] == []
    assert seen["invalid"] == {}
    assert seen["plots"] >= 9
    assert len(seen["buttons"]) == 4
    assert not any("hare" in title or "loud" in title for title in seen["buttons"])
    assert seen["first"] == [t.trade_id for t in data.trades[:50]]
    nets = sorted(round(t.net, 2) for t in data.trades)
    assert seen["up"] == nets[:50]
    assert seen["down"] == nets[::-1][:50]
    assert (seen["sorted_down"], seen["sorted_up"]) == ("descending", "ascending")
    assert seen["assets"] == sorted(t.asset for t in data.trades)[:50]
    n_btc = sum(t.asset == "BTCUSDT" for t in data.trades)
    assert seen["found"] == ["BTCUSDT"] * n_btc
    assert seen["status"].startswith(f"{n_btc} of {len(data.trades)} trades")
    assert seen["none"] == "No trade matches."
    assert seen["all"] == len(data.trades)
    assert seen["expanded"] == "true"
    for word in ("EsoF", "raw", "bound", "slippage", "fees", "OB edge, imagined"):
        assert word in seen["detail"]
    assert seen["collapsed"] == 0
    assert seen["theme_changes"]
    assert seen["wide"] <= 0


def test_page_without_trades_on_a_narrow_screen(make_report, tmp_path):
    seen = opened(render(make_report(n_scans=900, n_trades=0)), tmp_path, width=500)
    assert seen["caught"] == []
    assert seen["invalid"] == {}
    assert seen["wide"] <= 0


def test_hostile_text_runs_nothing(make_report, tmp_path):
    evil = "</script><script>window.evil=1</script><img src=x onerror=window.evil=1><a href='javascript:evil=1'>x</a>"
    data = make_report(n_trades=4, leave_open=True)
    trades = tuple(
        replace(t, trade_id=f"{evil}{i}", asset=evil, reason=evil, bucket=evil, bound=evil)
        for i, t in enumerate(data.trades)
    )
    data = replace(
        data,
        title=evil,
        set_name=evil,
        trades=trades,
        notes=(evil,),
        blocked={evil: 2},
        parameters={evil: evil},
    )
    seen = opened(render(data), tmp_path)
    assert seen["evil"] == "no"
    assert seen["caught"] == []
    assert seen["fetched"] == []


@pytest.mark.parametrize("width", [1400, 1280, 1024])
def test_the_last_column_of_the_trades_is_not_cut(make_report, tmp_path, width):
    data = make_report(n_scans=2_000, n_trades=8)
    trades = tuple(
        replace(t, trade_id=f"BLUE-20260102-{i:06d}", asset="1000SHIBUSDT", reason="SUBDAY_ACB_NORMALIZATION")
        for i, t in enumerate(data.trades)
    )
    seen = opened(render(replace(data, trades=trades, prices_of_trades=None)), tmp_path, width)
    assert seen["cut"] <= 0
    assert seen["wide"] <= 0
