"""Numbers and times as people read them."""

from __future__ import annotations

import numpy as np
import pytest

from dolphin.report import text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1234.5, "1,234.50"),
        (-0.001, "0.00"),
        (-1.0, "−1.00"),
        (None, "–"),
        (float("nan"), "–"),
        ("x", "–"),
        (np.float64(2), "2.00"),
    ],
)
def test_number(value, expected):
    assert text.number(value) == expected


def test_signs():
    assert text.number(1.0, signed=True) == "+1.00"
    assert text.number(0.0, signed=True) == "0.00"
    assert text.percent(-0.0125, signed=True) == "−1.25 %"
    assert text.percent(None) == "–"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (91_250.5, "91,250.50"),
        (2.2134, "2.21340"),
        (0.0000213, "0.0000213000"),
        (0, "0"),
        (None, "–"),
        (1e-12, "0.0000000000"),
    ],
)
def test_price(value, expected):
    assert text.price(value) == expected


def test_times():
    assert text.utc(1_767_225_600_000_000_000) == "2026-01-01 00:00:00"
    assert text.utc(None) == "–"
    assert text.duration(200_000 * 10**9) == "2 d 7 h"
    assert text.duration(12_000 * 10**9) == "3 h 20 min"
    assert text.duration(65 * 10**9) == "1 min 5 s"
    assert text.duration(-5) == "0 s"


def test_escape_and_plural():
    assert text.esc('<a href="x">\'&') == "&lt;a href=&quot;x&quot;&gt;&#x27;&amp;"
    assert (text.plural(1, "trade"), text.plural(2000, "trade")) == ("1 trade", "2,000 trades")
