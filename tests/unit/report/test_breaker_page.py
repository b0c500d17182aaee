"""The breaker's page in a real browser: every drawing is made and valid, nothing fails."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_study_page import CATCH, CHROMIUM, PROBE

from dolphin.domain.clock import day_from_ns, day_start_ns
from dolphin.report.breaker import episodes, render

DAY0, NS_PER_DAY = day_start_ns("2023-01-01"), 86_400 * 10**9
#: Signals of the made-up days, in turn.
LEVELS = (0.0, 0.0, 1.0, 1.5, 0.0, 0.5, 3.0, 3.0, 1.0, 0.0)
BOOSTS = {0.0: 1.0, 0.5: 1.0, 1.0: 1.347, 1.5: 1.458, 3.0: 1.693}
FOUND = {
    "factors": "<i>factors</i>", "first_day": "2023-01-01", "last_day": "2023-03-01",
    "faults": ["fng: <u>gone</u>"], "table_sha256": "ab" * 32,
    "prices": {"name": "p<b>.parquet", "n_assets": 50, "interval_s": 3600.0, "first_day": "2023-01-01",
               "last_day": "2023-03-01", "scanned": True, "source_id": "cd" * 32, "notes": ["1 gap <x>"]},
}  # fmt: skip


def made(n: int = 60, priced: bool = True, macro: bool = True) -> list[dict[str, Any]]:
    rows = []
    for k in range(n):
        signals = LEVELS[k % len(LEVELS)]
        known = macro and k > 5
        row = {
            "day": day_from_ns(DAY0 + k * NS_PER_DAY), "signals": signals, "boost": BOOSTS[signals],
            "funding_btc": 1e-4 if signals < 3 else -3e-4, "funding_btc_weight": 1.0 if signals == 3 else 0.0,
            "dvol_btc": 50.0 + 10 * signals, "dvol_btc_weight": min(1.0, signals), "fng": 30.0,
            "fng_weight": 0.5 if signals else 0.0, "taker": None, "taker_weight": 0.0,
            "w750": 1e-6 * (k % 7 - 3) if known else None, "threshold": 5e-7 if known else None,
            "threshold_days": k,
            "beta": (0.8 if k % 7 > 3 else 0.2) if known else None, "beta_high_frac": 0.25 if known else None,
            "n_scans": 24 if known else 0, "missing": "taker books" if known else "taker w750 books",
        }  # fmt: skip
        if priced:
            row["btc_close"] = 20_000.0 + 100.0 * k
        rows.append(row)
    return rows


def opened(page: str, folder: Path, width: int = 1400) -> dict[str, Any]:
    file = folder / "page.html"
    file.write_text(page.replace("<head>", "<head>" + CATCH, 1).replace("</body>", PROBE + "</body>", 1))
    assert CHROMIUM
    words = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},900", "--virtual-time-budget=20000", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=True)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
    assert found
    assert found[1], "the page's script did not end"
    return dict(json.loads(html.unescape(found[1])))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine to open the page with")
@pytest.mark.parametrize("width", [1400, 520])
def test_every_drawing_is_made_and_nothing_fails(tmp_path: Path, width: int) -> None:
    got = opened(render(FOUND, made()), tmp_path, width)
    assert (got["caught"], got["invalid"], got["missing"]) == ([], {}, [])
    assert got["plots"] >= 5
    assert not got["wide"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine to open the page with")
def test_without_prices_and_velocities_it_opens_too(tmp_path: Path) -> None:
    page = render({**FOUND, "prices": None}, made(priced=False, macro=False))
    got = opened(page, tmp_path)
    assert (got["caught"], got["missing"]) == ([], [])
    assert "beta is unknown on all of them" in page
    assert "BTC is not drawn" in page


def test_what_is_missing_on_every_day_is_named_on_top() -> None:
    assert "Missing on every day: taker ratio and order books." in render(FOUND, made())
    assert "Missing on every day: taker ratio, w750 velocity and order books." in render(
        FOUND, made(macro=False)
    )


def test_neighbouring_days_with_a_boost_are_one_episode() -> None:
    runs = episodes(made(20))
    assert [(run[0]["day"], len(run)) for run in runs] == [
        ("2023-01-03", 2), ("2023-01-07", 3), ("2023-01-13", 2), ("2023-01-17", 3),
    ]  # fmt: skip
    page = render(FOUND, made(20))
    # From the close of the 6th, 20,500, to that of the 9th, 20,800.
    assert "<td>2023-01-07 to 2023-01-09</td>" in page
    assert "+1.5 %" in page


def test_days_without_a_boost_say_so() -> None:
    page = render(FOUND, made(2))
    assert "On no day did the factors add up to one signal." in page
    assert "no day reached one signal" in page


def test_text_from_outside_is_escaped() -> None:
    page = render(FOUND, made())
    body = page[page.index("<body>") : page.index('<script type="application/json"')]
    for text in ("<i>factors</i>", "<u>gone</u>", "p<b>.parquet", "1 gap <x>"):
        assert text not in body
