"""The study's page in a real browser: every drawing is made and valid, nothing fails, nothing is fetched."""

# The script that drives the page stays readable as a script.
# ruff: noqa: E501

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dolphin.report.study import render

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
(function probe() {
  if (document.documentElement.dataset.ready !== "yes") { setTimeout(probe, 20); return; }
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const out = { plots: document.querySelectorAll(".js-plotly-plot .main-svg").length, invalid: {}, missing: [] };
  for (const name in report.figures) {
    const box = document.getElementById("plot-" + name);
    if (!box) { out.missing.push(name); continue; }
    const wrong = Plotly.validate(box.data, box.layout) || [];
    if (wrong.length) { out.invalid[name] = wrong.map((w) => w.msg); }
  }
  document.getElementById("theme").click();
  out.theme = document.documentElement.dataset.theme;
  out.caught = window.caught;
  out.wide = document.documentElement.scrollWidth > window.innerWidth;
  document.getElementById("probe").textContent = JSON.stringify(out);
})();
</script>"""


def judged(n_days: int) -> dict[str, Any]:
    names = ("roi", "profit_factor", "sharpe", "max_drawdown", "win_rate", "mean_net", "mean_return")
    figure = {"value": 0.1, "low": -0.2, "high": None, "unbounded": True, "below_zero": 0.2, "words": "few"}
    bare = {**figure, "low": None, "unbounded": False}
    figures = {name: bare if name == "sharpe" else figure for name in names}
    return {"n_days": n_days, "trades": 40.0, "figures": figures, "block_days": 2, "words": "few days"}


def fake(**without: None) -> dict[str, Any]:
    """A study as JSON gives it back."""
    rng = np.random.default_rng(1)
    days = [f"2026-01-{day:02d}" for day in range(1, 21)]
    grid = {"max_hold_bars": [120, 60], "use_direction_confirm": [True, False]}
    values = {"max_hold_bars": 60, "use_direction_confirm": False}
    walk = np.cumprod(1 + rng.normal(0, 0.01, 11)).tolist()
    window = {
        "train": days[:2],
        "test": days[2:4],
        "trial": 1,
        "values": values,
        "sharpe_day_train": 0.1,
        "roi_test": -0.01,
        "trades_test": 4.0,
    }
    settings = {
        "grid": grid, "grid_name": "small", "criterion": "Sharpe", "train_days": 8, "test_days": 2, "embargo_days": 1, "folds": 6,
        "shifts": 99, "reps": 2000, "level": 0.95, "trials_before": 0, "seed": 1, "vol_threshold": 1e-4,
    }  # fmt: skip
    rows = [
        {
            "fee_scale": float(f),
            "slippage_scale": float(s),
            "roi": 0.1 - 0.02 * f - 0.01 * s,
            "net": 1.0,
            "trades": 9,
            "profit_factor": None,
        }
        for f in range(4)
        for s in range(4)
    ]
    made: dict[str, Any] = {
        "set": {"name": "gold</script>", "hash": "ab" * 8, "parameters": {"seed": 1}}, "source": {"name": "<i>x</i>"},
        "days": days, "n_bars": 1000, "bar_seconds": 60.0, "settings": settings, "trials": [{}] * 4, "result_sha256": "cd" * 32,
        "as_named": {**judged(20), "equity": walk, "with_ob_edge": dict.fromkeys(("roi", "profit_factor", "sharpe", "max_drawdown", "win_rate", "mean_net", "mean_return"))},
        "walk_forward": {**judged(10), "windows": [window], "tested": days[10:], "equity": walk, "equity_unchanged": walk, "unchanged": judged(10)},
        "cross_validation": {"folds": 6, "n_splits": 15, "paths": [{"roi": 0.1, "sharpe": 1.0, "equity": walk}] * 5},
        "overfitting": {
            "pbo": 0.5, "loss": 0.4, "slope": None, "n_blocks": 4, "n_trials": 4, "n_halvings": 6, "logits": [-1.0, 0.0, 1.0],
            "logit_counts": [1, 2, 3], "sharpe_in": [0.1, 0.2], "sharpe_out": [0.0, -0.1], "chosen": [1, 2, 2, 1],
        },
        "deflated": {"probability": None, "n_trials": 4, "superiority_p": 0.2, "effective_trials": 2.2},
        "costs": {"rows": rows, "break_even": 1.2, "price_pnl": 50.0, "fees": 20.0, "slippage": 5.0, "net": 25.0, "trades": 9},
        "null": {
            "p_value": 0.3, "observed": 0.5, "null": rng.normal(0, 1, 99).tolist(), "mean_observed": 1e-4, "mean_null": None,
            "trades_observed": 9, "trades_null": 8.5, "n_shifts": 99, "distance_bars": 170, "spacing_bars": 200,
        },
        "verdict": {
            "answer": "not_shown", "headline": "Not <shown>", "sentences": [{"about": "Costs", "text": "a & b"}],
            "checks": [{"question": "Q?", "passed": passed, "value": "1 %", "rule": "r"} for passed in (True, False, None)], "cautions": ["<u>"],
        },
    }  # fmt: skip
    return {**made, **without}


def opened(study: dict[str, Any], folder: Path, width: int = 1400) -> dict[str, Any]:
    page = render(study).replace("<head>", "<head>" + CATCH, 1).replace("</body>", PROBE + "</body>", 1)
    file = folder / "page.html"
    file.write_text(page)
    assert CHROMIUM
    words = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},900",
        "--virtual-time-budget=20000",
        "--dump-dom",
        file.as_uri(),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=True)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
    assert found
    assert found[1], "the page's script did not end"
    return dict(json.loads(html.unescape(found[1])))


@pytest.mark.parametrize("width", [1400, 520])
def test_every_drawing_is_made_and_nothing_fails(tmp_path: Path, width: int) -> None:
    got = opened(fake(), tmp_path, width)
    assert got["caught"] == []
    assert got["invalid"] == {}
    assert got["missing"] == []
    assert got["plots"] >= 6
    assert got["theme"] in ("dark", "light")
    assert not got["wide"]


def test_a_study_that_lacks_most_parts_opens_too(tmp_path: Path) -> None:
    bare = fake(walk_forward=None, cross_validation=None, overfitting=None, deflated=None, null=None)
    got = opened(bare, tmp_path)
    assert got["caught"] == []
    assert got["missing"] == []


def test_text_of_the_study_is_escaped() -> None:
    page = render(fake())
    body = page[page.index("<body>") :]
    for text in ("<i>x</i>", "gold</script>", "Not <shown>", "<u>"):
        assert text not in body
