"""`dolphin esof --now`: what a person is told of an instant, from a home's or a run's journal alone."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from command_line import invoke, tree

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, iso_from_ns, ns_from_iso
from dolphin.factors.calendar import calendar_at
from dolphin.host.finish import JOURNAL_FILE
from dolphin.journal.ledger import LEGS, ClosedTrade
from dolphin.journal.store import Journal
from dolphin.services.home import Home, SystemSettings

#: A Saturday; the full moon of the table in tests/unit/factors/almanac.py is on the 26th at 04:12 UTC.
AT = "2026-10-24T07:00:00Z"
AT_NS = ns_from_iso(AT)
SATURDAY = 5


def write_trades(folder: Path, trades: Iterable[ClosedTrade]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal.create(folder / JOURNAL_FILE, {})
    with journal.transaction():
        for each in trades:
            journal.add_trade(each, dict.fromkeys(LEGS, 0))
    journal.close()


def planted(n: int, bps: float) -> list[ClosedTrade]:
    """n trades, five a day before the instant, that win some more on Saturdays."""
    found = []
    for k in range(n):
        entry_ns = AT_NS - (n - k) * NS_PER_DAY // 5
        effect = bps if calendar_at(entry_ns).weekday == SATURDAY else 0.0
        found.append(ClosedTrade(
            trade_id=f"BLUE-{k}", asset="BTCUSDT", direction=-1, entry_bar=3 * k, exit_bar=3 * k + 1,
            entry_ns=entry_ns, exit_ns=entry_ns + 60 * NS_PER_S, entry_price=100.0, exit_scan_price=100.0,
            exit_price=100.0, notional=10_000.0, leverage=1.0, reason="FIXED_TP", entry_fee=0.0, exit_fee=0.0,
            ob_edge=0.0, net=effect + 10.0 * (-1) ** k,
        ))  # fmt: skip
    return found


def test_a_home_without_trades_is_neutral(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.save(SystemSettings())
    before = tree(home.root)
    told = invoke("esof", "--at", AT, "--home", home.root)
    assert told.code == 0, told.err
    assert told.err == ""
    lines = told.out.splitlines()
    assert lines[0] == "ESOTERIC FACTORS  Saturday 2026-10-24 07:00 UTC"
    assert "  calendar   Asia and Europe open, hour 127 of the week, funding in 1 h 0 min" in lines
    assert "  moon       waxing gibbous, 95 % lit, 155° past new; counts as full" in lines
    # Stationary for half a day around its station, which is fifteen minutes later.
    assert "  mercury    stationary, +0.00° a day" in lines
    assert "  coming     full moon 2026-10-26 04:12, Mercury retrograde 2026-10-24 07:15" in lines
    assert f"  trades     none closed yet, by {home.trader}" in lines
    assert "  by bucket  nothing to judge by: every category is silent" in lines
    assert "  score      +0.000 of 0 trades, on a scale from -1 to +1" in lines
    assert "  lane       0.80: NEUTRAL, -0.05 to 0.05; no history" in lines
    assert tree(home.root) == before


def test_a_planted_weekday_shows_in_its_row_in_the_score_and_in_the_lane(tmp_path: Path) -> None:
    write_trades(tmp_path / "run", planted(600, bps=12.0))
    told = invoke("esof", "--at", AT, "--home", tmp_path / "run", "--all")
    assert told.code == 0, told.err
    lines = told.out.splitlines()
    row = next(line for line in lines if line.startswith("  weekday          Saturday"))
    own, shrunk, low, _, high, adds = row.split()[5:]
    assert float(own) == pytest.approx(12.0, abs=1.5)
    assert float(low) < float(shrunk) < float(high)
    assert 0.0 < float(shrunk) < float(own)
    assert float(adds) > 0.25
    assert any(line.startswith("  lane       1.00: favourable") for line in lines)
    sections = [line.strip() for line in lines if line.startswith("  ") and not line.startswith("   ")]
    assert {"weekday", "hour of week", "session", "moon", "mercury"} <= set(sections)
    (now,) = [line for line in lines if line.startswith("  now              Saturday")]
    assert now.split()[2:5] == row.split()[2:5]
    assert sum(line.split()[:1] == ["Tuesday"] for line in lines) == 1
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 88


def test_json_has_everything_and_no_trade_of_the_future(tmp_path: Path) -> None:
    write_trades(tmp_path, planted(600, bps=12.0))
    then = iso_from_ns(AT_NS - 60 * NS_PER_DAY)
    told = invoke("esof", "--at", then, "--home", tmp_path, "--json").json
    assert told["at"] == then
    assert told["n_trades"] == 300
    assert {part["category"] for part in told["categories"]} >= {"weekday", "moon", "mercury"}
    assert sum(part["contribution"] for part in told["categories"]) == pytest.approx(told["score"])
    assert [each["what"] for each in told["coming"]] == ["moon", "mercury"]
    assert "buckets" not in told
    every = invoke("esof", "--at", then, "--home", tmp_path, "--json", "--all").json["buckets"]
    assert len(every["weekday"]) == 7
    assert sum(part["n"] for part in every["moon"]) == 300


def test_now_is_the_machine_s_for_a_run_and_the_system_s_for_a_home(tmp_path: Path) -> None:
    write_trades(tmp_path / "run", [])
    of_run = invoke("esof", "--now", "--home", tmp_path / "run", "--json").json
    assert abs(ns_from_iso(of_run["at"]) - time.time_ns()) < 600 * NS_PER_S
    home = Home(tmp_path / "home")
    home.save(SystemSettings(speed=100.0, clock_origin_ns=time.time_ns() - 24 * 3600 * NS_PER_S))
    of_home = invoke("esof", "--now", "--home", home.root, "--json").json
    # A day of the machine's time at a hundred times its speed.
    assert ns_from_iso(of_home["at"]) - time.time_ns() > 98 * NS_PER_DAY


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--now",), "neither a system's folder (system.json) nor a run's (journal.db)"),
        (("--at", "tomorrow"), "--at tomorrow: expected an instant like 2026-12-09T00:00:00Z"),
        (("--all",), "--all is for --now or --at"),
        (("--now", "--at", AT), "not allowed with argument"),
    ],
)
def test_bad_words_are_refused_in_one_line(tmp_path: Path, words: tuple[str, ...], text: str) -> None:
    told = invoke("esof", *words, "--home", tmp_path)
    assert told.code == 2
    assert text in told.error


def test_a_damaged_journal_is_told(tmp_path: Path) -> None:
    (tmp_path / JOURNAL_FILE).write_bytes(b"no journal at all")
    told = invoke("esof", "--now", "--home", tmp_path)
    assert told.code == 1
    assert str(tmp_path) in told.error
