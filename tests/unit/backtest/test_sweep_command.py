"""`dolphin sweep` as a person meets it: verdict, one line for what is refused, the page in a browser."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from sweep_market import PLAN, PLANTED, build_cache, planted_cache

from dolphin.backtest.sweep import trials
from dolphin.backtest.sweep.plan import plan_of
from dolphin.backtest.sweep.run import sweep
from dolphin.cli import main
from dolphin.commands.sweep import Telling, page
from dolphin.domain.errors import UsageError
from dolphin.host.summary import sharpe_ratio
from dolphin.market.scan_cache import CacheReader
from dolphin.report.sweep import CATEGORIES_MAX, render
from dolphin.research import bootstrap, overfitting, thresholds, verdict
from dolphin.research import sweep_worth as sw

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
SOBOL = {
    "design": "sobol", "n": 64, "seed": 3, "objective": "roi_marked",
    "parameters": {
        "fixed_tp_pct": {"low": 0.001, "high": 0.01, "scale": "log"},
        "vel_div_threshold": {"low": -0.06, "high": -0.01, "scale": "log"},
        "use_direction_confirm": [True, False],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("cache")
    build_cache(root / "cache")
    (root / "plan.yml").write_text(PLAN)
    return root


@pytest.fixture(scope="module")
def grid(root):
    return sweep(plan_of(yaml.safe_load(PLAN), "p"), CacheReader(root / "cache"), root / "g", cache_root=root)


@pytest.fixture(scope="module")
def drawn(root):
    plan = plan_of({**yaml.safe_load(PLAN), "without_ob_edge": False, **SOBOL}, "p")
    return sweep(plan, CacheReader(root / "cache"), root / "s", cache_root=root)


@pytest.fixture
def call(root, capsys):
    def call(*words):
        capsys.readouterr()
        try:
            code = main(["sweep", *map(str, words)])
        except SystemExit as end:
            code = int(end.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


# -- what the best is worth ------------------------------------------------------------------------------


def returns_of(done):
    initial = done.rows.columns["capital"] - done.rows.columns["net"]
    levels = np.concatenate([initial[:, None], done.rows.daily], axis=1)
    return (levels[:, 1:] / levels[:, :-1] - 1.0).T


def test_the_figures_are_those_of_the_research_functions(grid):
    found = sw.worth(grid)
    returns = returns_of(grid)
    best = found["best"]
    sharpes = [sharpe_ratio(row.tolist(), 25_000.0) for row in grid.rows.daily]
    assert best == int(np.argmax(sharpes))
    pbo = overfitting.backtest_overfitting(returns)
    assert found["overfitting"]["pbo"] == pbo.pbo
    assert found["overfitting"]["sharpe_out"] == pytest.approx(np.median(pbo.sharpe_out) * 365**0.5)
    deflated = overfitting.deflated_sharpe(
        returns[:, best].copy(), overfitting.sharpe(returns), grid.trials_ledger
    )
    assert found["deflated"]["probability"] == pytest.approx(deflated.probability, rel=1e-12)
    assert found["deflated"]["n_trials"] == grid.trials_ledger >= len(grid.rows)


def test_trials_of_other_sweeps_make_the_best_worth_less(grid):
    before = sw.worth(grid)["deflated"]
    object.__setattr__(grid, "trials_ledger", grid.trials_ledger * 1000)
    try:
        after = sw.worth(grid)
    finally:
        object.__setattr__(grid, "trials_ledger", grid.trials_ledger // 1000)
    assert after["deflated"]["probability"] < before["probability"]
    assert "of them in other sweeps" in after["sentences"][1]


def test_neighbours_of_a_grid_are_one_step_along_one_parameter(grid):
    names = ["vel_div_threshold", "vel_div_extreme_ratio", "fixed_tp_pct", "max_hold_bars"]
    rows = list(zip(*(grid.rows.columns[name].tolist() for name in names), strict=True))
    order = [sorted({row[k] for row in rows}) for k in range(4)]
    for k in (0, 7, 23):
        twin = [
            j for j, row in enumerate(rows)
            if sum(abs(order[i].index(row[i]) - order[i].index(rows[k][i])) for i in range(4)) == 1
        ]  # fmt: skip
        assert sw.neighbours(grid, k).tolist() == twin


def test_neighbours_of_a_drawn_design_are_the_nearest_dozen(drawn):
    near = sw.neighbours(drawn, 5)
    assert len(near) == 12
    assert 5 not in near
    confirm = drawn.rows.columns["use_direction_confirm"]
    assert (confirm[near] == confirm[5]).all()  # the other value is a whole range away


def test_fewer_blocks_where_the_work_would_not_fit():
    assert sw.blocks_for(28, 100) == overfitting.blocks_for(28) == 14
    assert sw.blocks_for(28, 10_000) == 10
    assert sw.blocks_for(28, 1_000_000) == 4
    assert sw.blocks_for(7, 100) == 0


def test_without_the_extra_one_line_says_how_to_get_it(grid, monkeypatch):
    def missing(*args, **named):
        raise UsageError("arch is missing: statistics need the research extra; install it with make research")

    monkeypatch.setattr(bootstrap, "intervals", missing)
    found = sw.worth(grid)
    assert found["interval"] is None
    assert found["overfitting"] is not None
    assert found["deflated"] is not None
    (line,) = [text for text in found["cautions"] if "make research" in text]
    assert line.startswith("No interval of the best: ")
    assert "Had other days" not in " ".join(found["sentences"])
    assert found["checks"][2]["passed"] is None


@pytest.mark.parametrize(
    ("changes", "answer", "words"),
    [
        ({"options": {"fee_scale": 30}}, "no", "earned nothing"),
        ({"last_day": "2026-01-09"}, "too_short", "5 days cannot tell"),
        ({}, "not_shown", "luck alone may explain it"),
    ],
)
def test_answers_in_words(root, tmp_path, changes, answer, words):
    plan = plan_of({**yaml.safe_load(PLAN), **changes}, "p")
    done = sweep(plan, CacheReader(root / "cache"), tmp_path / "out", cache_root=tmp_path)
    found = sw.worth(done)
    if changes.get("last_day") and not done.rows.columns["roi_marked"][found["best"]] > 0:
        pytest.fail("the market of this test should let somebody earn")
    assert (found["answer"], words in found["headline"]) == (answer, True), found["headline"]
    json.dumps(found)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Sixty days on which prices fall after every signal."""
    root = tmp_path_factory.mktemp("planted")
    planted_cache(root / "cache", thresholds.DAYS_ENOUGH)
    return root


def swept(root, out, **changes):
    plan = plan_of({**yaml.safe_load(PLANTED), **changes}, "p")
    for ledger in (root / "cache").rglob("sweep_trials.json"):  # the trials of other tests are not this one's
        ledger.unlink()
    return sweep(plan, CacheReader(root / "cache"), out, cache_root=root / "cache")


def test_an_edge_over_enough_days_is_a_yes(planted, tmp_path):
    found = sw.worth(swept(planted, tmp_path / "out"))
    assert [check["passed"] for check in found["checks"]] == [True] * 5
    assert found["answer"] == "yes"
    assert "more than the luck of choosing explains" in found["headline"]


def test_one_day_less_is_not(planted, tmp_path):
    found = sw.worth(swept(planted, tmp_path / "out", last_day="2026-03-04"))
    assert found["n_days"] == thresholds.DAYS_ENOUGH - 1
    assert [check["passed"] for check in found["checks"]] == [*[True] * 4, False]
    assert found["answer"] == "not_shown"
    assert "59 days are too few" in found["headline"]


def test_a_search_with_the_imagined_edge_is_never_a_yes_and_its_best_runs_again_without(planted, tmp_path):
    done = swept(planted, tmp_path / "with", without_ob_edge=False)
    honest = swept(planted, tmp_path / "without")
    found = sw.worth(done)
    best = found["best"]
    assert done.rows.columns["ob_edge"][best] != 0.0
    plain = honest.rows.columns["roi_marked"][best]
    assert found["without_edge"] == pytest.approx(plain, rel=1e-9)
    assert done.rows.columns["roi_marked"][best] != pytest.approx(plain, rel=1e-3)
    assert found["interval"] == (twin := sw._interval(honest, best, 1, 2000))["interval"]
    assert twin["interval"]["low"] > 0.0
    assert [check["passed"] for check in found["checks"]] == [True, True, True, None, True]
    assert found["answer"] == "not_shown"
    assert "luck or the imagined order-book edge may explain it" in found["headline"]
    assert any("the answer cannot be yes" in text for text in found["sentences"])


def test_a_best_that_lives_on_the_imagined_edge_is_a_no(drawn, monkeypatch):
    """Whatever the checks of its search say."""
    real = sw._interval
    monkeypatch.setattr(sw, "_interval", lambda *args: {**real(*args), "without_edge": -0.01})
    assert drawn.rows.columns["ob_edge"].any()
    found = sw.worth(drawn)
    if not drawn.rows.columns["roi_marked"][found["best"]] > 0:
        pytest.fail("the market of this test should let somebody earn")
    assert found["answer"] == "no"
    assert found["headline"].startswith("Without the imagined order-book edge even the best of ")
    assert found["checks"][3]["passed"] is False


PASSING = {
    "deflated": {"probability": thresholds.DEFLATED_MIN, "own": True},
    "overfitting": {"pbo": thresholds.PBO_MAX, "loss": 0.499},
    "interval": {"low": 1e-9, "high": 0.1},
    "with_edge": False,
    "without_edge": 1e-9,
    "n_days": thresholds.DAYS_ENOUGH,
    "trades": thresholds.TRADES_MIN,
}


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({}, "yes"),
        ({"deflated": {"probability": 0.949, "own": True}}, "not_shown"),
        ({"deflated": {"probability": 1.0, "own": False}}, "not_shown"),
        ({"deflated": None}, "not_shown"),
        ({"overfitting": {"pbo": 0.201, "loss": 0.0}}, "not_shown"),
        ({"overfitting": {"pbo": 0.0, "loss": 0.5}}, "not_shown"),
        ({"overfitting": None}, "not_shown"),
        ({"interval": {"low": 0.0, "high": 0.1}}, "not_shown"),
        ({"interval": None}, "not_shown"),
        ({"without_edge": None}, "not_shown"),
        ({"with_edge": True}, "not_shown"),
        ({"without_edge": 0.0}, "no"),
        ({"n_days": 59}, "not_shown"),
        ({"n_days": 8}, "not_shown"),
        ({"n_days": 7}, "too_short"),
        ({"trades": 29}, "too_short"),
        ({"result": 0.0}, "no"),
        ({"result": float("nan")}, "no"),
    ],
)
def test_yes_lies_at_the_edge_of_every_measure_and_nothing_missing_passes(change, answer):
    found = {**PASSING, **{name: value for name, value in change.items() if name != "result"}}
    found["checks"] = sw._checks(found)
    assert sw._answer(change.get("result", 0.01), found) == answer


def test_a_sweep_and_a_study_judge_by_the_same_measures():
    rules = " ".join(check["rule"] for check in sw._checks(PASSING))
    for module in (sw, verdict):
        assert (module.DAYS_ENOUGH, module.DEFLATED_MIN, module.PBO_MAX) == (60, 0.95, 0.20)
    for words in ("60 days", "30 trades", "95 %", "20 %"):
        assert words in rules


# -- the command -----------------------------------------------------------------------------------------


def test_the_verdict_first_then_where_everything_is(call, root, tmp_path):
    code, out, err = call(root / "plan.yml", "--cache", root / "cache", "--out", tmp_path / "out")
    assert code == 0, err
    assert err.startswith("sweeping a grid of 24 bindings, around champion on ")
    assert out.splitlines()[0].startswith(("The best of 24 settings", "Even the best of 24 settings"))
    for word in ("trials", "result", "results", "report", "bindings   24, 24 of them run now"):
        assert word in out
    assert (tmp_path / "out" / "sweep.html").stat().st_size > 1_000_000
    code, again, _ = call(root / "plan.yml", "--cache", root / "cache", "--out", tmp_path / "out", "--json")
    found = json.loads(again)
    assert (code, found["computed"], found["bindings"]) == (0, 0, 24)
    assert found["result_sha256"] in out
    assert found["report"].endswith("sweep.html")


def test_a_cache_that_takes_no_file_has_its_ledger_elsewhere_and_that_is_said(
    call, root, tmp_path, monkeypatch
):
    locked = root / "cache" / "scan_cache"
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and real(path, mode))
    words = (root / "plan.yml", "--cache", root / "cache", "--out", tmp_path / "out", "--no-report")
    code, out, err = call(*words)
    assert code == 0, err
    assert str(tmp_path / "sweep_trials.json") in out
    assert trials.FELL_BACK in out
    assert json.loads(call(*words, "--json")[1])["ledger_fell_back"] is True
    monkeypatch.undo()
    assert trials.FELL_BACK not in call(*words)[1]


def test_a_check_runs_nothing(call, root, tmp_path):
    code, out, _ = call(root / "plan.yml", "--cache", root / "cache", "--check")
    assert code == 0
    assert "a grid of 24 bindings around champion; 24 bindings would run" in out
    assert "vel_div_extreme_ratio    1.5, 2.5 × vel_div_threshold" in out
    assert "over 10 days, 2026-01-05 to 2026-01-14, 2,880 bars of 5 assets" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "plan", "told"),
    [
        ((), "", "--out is missing"),
        (("--out", "o", "--threads", "0"), "", "--threads 0: expected 1 or more"),
        (("--out", "o", "--part-size", "0"), "", "--part-size 0: expected 1 or more"),
        (("--out", "o", "--memory-gb", "0"), "", "--memory-gb 0: expected a number above 0"),
        (("--out", "o", "--memory-gb", "0.0001"), PLAN, "2026-01-05 alone, 5 assets, takes"),
        (("--out", "o"), "parameters: {max_hold_bar: [1]}", "Did you mean 'max_hold_bars'?"),
        (("--out", "o"), PLAN + "first_day: 2027-01-01", "no day from 2027-01-01"),
        (("--out", "bad.yml"), PLAN, "choose another --out"),
    ],
)
def test_refusals_are_one_line(call, root, tmp_path, monkeypatch, words, plan, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yml").write_text(plan)
    code, out, err = call("bad.yml", "--cache", root / "cache", "--json", *words)
    assert code in (1, 2)
    assert out == ""
    assert told in err
    assert len(err.splitlines()) == 1


def test_progress_is_told_now_and_then(capsys):
    now = [0.0]
    with Telling(quiet=False, clock=lambda: now[0]) as telling:
        for done in range(0, 1001, 100):
            now[0] += 1.0
            telling("bindings", done, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["bindings: 400 of 1,000, 100/s, 6 s left", "bindings: 900 of 1,000, 100/s, 1 s left"]


# -- the page --------------------------------------------------------------------------------------------

PROBE = """<pre id="probe"></pre><script>
addEventListener("load", function probe() {
  if (document.documentElement.dataset.ready !== "yes") { setTimeout(probe, 20); return; }
  const out = { plots: [], invalid: {}, buttons: 0 };
  const report = JSON.parse(document.getElementById("report-data").textContent);
  for (const name in report.figures) {
    const box = document.getElementById("plot-" + name);
    if (box && box.querySelector(".main-svg")) { out.plots.push(name); }
    // What is not visible is not looked at, so everything is.
    const wrong = Plotly.validate(box.data.map((trace) => ({ ...trace, visible: true })), box.layout) || [];
    // An object as a button's argument is never equal to its copy.
    const real = wrong.filter((w) => !/buttons\\[\\d\\]\\.args/.test(w.msg)).map((w) => w.msg);
    if (real.length) { out.invalid[name] = real; }
  }
  const map = [...document.querySelectorAll(".maps .plot")].find((box) => box.layout.updatemenus);
  const shown = () => map.data.map((trace) => trace.visible);
  out.before = shown();
  map.querySelectorAll(".updatemenu-button")[2].dispatchEvent(new MouseEvent("click"));
  setTimeout(function () {
    out.after = shown();
    out.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    out.caught = window.caught;
    out.fetched = performance.getEntriesByType("resource").map((e) => e.name);
    document.getElementById("probe").textContent = JSON.stringify(out);
  }, 300);
});
</script>"""
CATCH = """<script>window.caught = [];
addEventListener("error", (e) => caught.push("error: " + e.message));
addEventListener("securitypolicyviolation", (e) => caught.push("policy: " + e.violatedDirective));
for (const kind of ["error", "warn"]) { console[kind] = (...a) => caught.push(kind + ": " + a.join(" ")); }
</script>"""


def figures(text):
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, re.S)
    return json.loads(found[1])["figures"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine to open the page with")
@pytest.mark.parametrize(("which", "width"), [("grid", 1300), ("drawn", 1300), ("drawn", 500)])
def test_every_drawing_is_made_in_a_browser(request, tmp_path, which, width):
    done = request.getfixturevalue(which)
    text = render(page(done, sw.worth(done)))
    path = tmp_path / "page.html"
    path.write_text(text.replace("<head>", "<head>" + CATCH, 1).replace("</body>", PROBE + "</body>", 1))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},1000",
               "--virtual-time-budget=20000", "--dump-dom", f"--user-data-dir={tmp_path / 'profile'}",
               f"file://{path}"]  # fmt: skip
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout
    out = json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', dumped, re.S)[1]))
    assert sorted(out["plots"]) == sorted(figures(text))
    n = len(done.plan.axes)
    assert len(out["plots"]) == 2 + n + n * (n - 1) // 2
    assert out["invalid"] == {}
    assert out["caught"] == []
    assert out["fetched"] == []
    assert out["before"] == [True, False, False, False]
    assert out["after"] == [False, False, True, False]
    assert out["wide"] <= 0


def test_a_map_is_the_median_over_the_others(grid):
    drawn = figures(render(page(grid, sw.worth(grid))))
    columns = grid.rows.columns
    figure = next(f for name, f in drawn.items() if "fixed_tp_pct" in name and "max_hold_bars" in name)
    median = figure["data"][0]
    hold, tp = columns["max_hold_bars"], columns["fixed_tp_pct"]
    assert figure["layout"]["xaxis"]["title"]["text"] == "fixed_tp_pct"
    for i, h in enumerate(sorted(set(hold))):
        for j, t in enumerate(sorted(set(tp))):
            here = (hold == h) & (tp == t)
            assert median["z"][i][j] == pytest.approx(np.median(columns["sharpe"][here]), rel=1e-6)
            assert median["customdata"][i][j] == here.sum() == 4
            share = 100 * (columns["roi_marked"][here] > 0).mean()
            assert figure["data"][3]["z"][i][j] == pytest.approx(share)


def test_a_drawn_design_is_binned_and_every_setting_is_in_a_bin(drawn):
    made = figures(render(page(drawn, sw.worth(drawn))))
    profile = made["profile-0"]
    (median,) = [trace for trace in profile["data"] if trace.get("name") == "median"]
    assert len(median["x"]) == 8 < CATEGORIES_MAX
    assert sum(median["customdata"]) == len(drawn.rows)
    assert profile["layout"]["shapes"]  # the base's take-profit lies inside


def test_the_same_sweep_gives_the_same_page_and_words_are_escaped(grid):
    content = page(grid, sw.worth(grid))
    assert render(content) == render(page(grid, sw.worth(grid)))
    content["data"] = {**content["data"], "source": "<script>alert(1)</script>"}
    assert "<script>alert(1)" not in render(content)
    assert "&lt;script&gt;alert(1)" in render(content)
