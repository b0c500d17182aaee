"""Lines that people read while work goes on: trades, progress, counts, figures."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import Baseline, spawn

from dolphin.commands import shared, telling
from dolphin.domain import codes
from dolphin.domain.decision import Decision
from dolphin.host.summary import forewarner_told

NOON_NS = 1_617_451_200_000_000_000


def entry(**values: Any) -> Decision:
    return Decision(
        **{
            "bar_idx": 5,
            "timestamp_ns": NOON_NS,
            "action": codes.ACTION_ENTER,
            "reason": codes.SIGNAL,
            "asset": "BTCUSDT",
            "price": 84230.5,
            "leverage": 3.21,
            "bound": codes.BOUND_RAW,
            "vel_div": -0.0312,
            "bucket": 1,
            "dc_change_bps": -4.2,
            "ars": 0.71,
            "ranked": 38,
            **values,
        }
    )


def leave(**values: Any) -> Decision:
    return Decision(
        **{
            "bar_idx": 9,
            "timestamp_ns": NOON_NS,
            "action": codes.ACTION_EXIT,
            "reason": codes.FIXED_TP,
            "asset": "BTCUSDT",
            "price": 83430.25,
            "net": -1234.5,
            "bars_held": 1,
            "capital": 23765.5,
            **values,
        }
    )


def test_an_entry_says_what_and_why() -> None:
    assert telling.trade_line(entry(), -1) == (
        "2021-04-03 12:00:00  ENTRY SHORT BTCUSDT @ 84230.5 leverage=3.2x"
        "  vel_div -0.0312 (strong), -4.2 bps over the lookback, ARS 0.71 of 38"
    )
    bound = telling.trade_line(entry(bound=codes.BOUND_ABS_MAX), 1)
    assert bound is not None
    assert "ENTRY LONG BTCUSDT" in bound
    assert bound.endswith(", held by ABS_MAX_LEVERAGE")


def test_an_exit_says_what_it_brought() -> None:
    assert telling.trade_line(leave(), -1) == (
        "2021-04-03 12:00:00  EXIT  SHORT BTCUSDT @ 83430.25 net -1,234.50 USDT"
        "  FIXED_TP after 1 bar, capital 23,765.50"
    )


@pytest.mark.parametrize("action", [codes.ACTION_NONE, codes.ACTION_HOLD])
def test_other_bars_say_nothing(action: int) -> None:
    assert telling.trade_line(entry(action=action), -1) is None


def test_the_essence_stands_in_80_columns_even_for_long_names() -> None:
    line = telling.trade_line(entry(asset="1000000MOGUSDT", price=0.00072341), -1)
    assert line is not None
    assert "ENTRY SHORT 1000000MOGUSDT @ 0.00072341 leverage=3.2x" in line[:80]
    out = telling.trade_line(leave(asset="1000000MOGUSDT", price=0.00072341), -1)
    assert out is not None
    assert " net -1,234.50 USDT" in out[:80]


@pytest.mark.parametrize(
    ("value", "text"),
    [(84230.5, "84230.5"), (123456.789, "123456.789"), (0.00000123, "0.00000123"), (5.0, "5"), (100.0, "100"),
     (0.5, "0.5"), (98.78641778, "98.78641778"), (0.0, "0")],
)  # fmt: skip
def test_prices_have_no_exponent_and_no_idle_zeros(value: float, text: str) -> None:
    assert shared.price(value) == text


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: shared.change(0.1234), "+12.34 %"),
        (lambda: shared.change(-0.00001), "0.00 %"),
        (lambda: shared.change(None), "n/a"),
        (lambda: shared.share(0.4951), "49.5 %"),
        (lambda: shared.share(0.0), "0.0 %"),
        (lambda: shared.share(None), "n/a"),
        (lambda: shared.money(-0.001), "0.00"),
        (lambda: shared.money(1234.5), "+1,234.50"),
        (lambda: shared.figure(None), "n/a"),
        (lambda: shared.figure(25000.0), "25,000.00"),
        (lambda: shared.plural(1, "bar"), "1 bar"),
        (lambda: shared.plural(0, "bar"), "0 bars"),
        (lambda: shared.plural(17280, "bar"), "17,280 bars"),
    ],
)
def test_figures(call: Any, text: str) -> None:
    assert call() == text


def test_counts_in_words() -> None:
    assert telling.counted({"bars_refused": 1, "rebased": 2, "new_kind": 3}, {"XRPUSDT zero": 1}) == [
        "1 bar refused: its time did not grow",
        "2 prices taken as a new base after three",
        "3 new kind",
        "XRPUSDT: 1 value of the source refused (zero)",
    ]


def test_many_counts_are_cut_short() -> None:
    lines = telling.rows([str(k) for k in range(20)])
    assert len(lines) == 9
    assert lines[0] == "  counted    0"
    assert lines[-1] == "             and 12 more, see --json"
    assert telling.rows([]) == []


class Clock:
    """Seconds that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with telling.WorkDisplay(quiet=False, direction=-1, clock=clock) as display:
        for bar in range(1, 101):
            clock.now += 0.3
            display.progress("scan", bar, 100, scan=bar, trade=1)
    assert capsys.readouterr().err.splitlines() == [
        "scan: 34 of 100 bars, 34 scans, 1 trade",
        "scan: 68 of 100 bars, 68 scans, 1 trade",
    ]


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with telling.WorkDisplay(quiet=True, direction=-1, clock=clock) as display:
        clock.now += 100.0
        display.progress("scan", 5, 100, scan=1)
        display.step(SimpleNamespace(decision=entry()))  # type: ignore[arg-type]
    assert capsys.readouterr() == ("", "")


def test_a_log_gets_the_trades(capsys: pytest.CaptureFixture[str]) -> None:
    with telling.WorkDisplay(quiet=False, direction=-1) as display:
        display.step(SimpleNamespace(decision=entry()))  # type: ignore[arg-type]
        display.step(SimpleNamespace(decision=entry(action=codes.ACTION_HOLD)))  # type: ignore[arg-type]
    assert len(capsys.readouterr().err.splitlines()) == 1


class Terminal(io.StringIO):
    """A terminal as far as a program can tell."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_the_trades_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    clock = Clock()
    with telling.WorkDisplay(quiet=False, direction=-1, clock=clock) as display:
        for bar in range(0, 1_001, 10):
            clock.now += 0.05
            display.progress("trading", bar, 1_000, scan=bar, trade=0)
        display.step(SimpleNamespace(decision=entry()))  # type: ignore[arg-type]
    shown = terminal.getvalue()
    assert "ENTRY SHORT BTCUSDT @ 84230.5 leverage=3.2x" in shown
    assert "1,000/1,000 bars, 1,000 scans, 0 trades" in shown
    assert sys.stderr is terminal


def test_a_run_in_a_real_terminal_of_80_columns(baseline: Baseline, tmp_path: Path) -> None:
    """The bar never wraps, and goes away when the run is over."""
    master, slave = pty.openpty()
    settings = {**os.environ, "COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color"}
    words = ("run", "--feed", "recorded", baseline.panel, "--out", tmp_path / "out", "--no-report")
    process = spawn(*words, stdin=slave, stdout=slave, stderr=slave, env=settings)
    os.close(slave)
    content = b""
    while True:
        try:
            part = os.read(master, 65_536)
        except OSError:  # the other end is closed: the process has ended
            break
        if not part:
            break
        content += part
    os.close(master)
    assert process.wait(timeout=60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", content.decode())
    bars = [line for line in re.split(r"[\r\n]+", text) if "━" in line]
    assert bars
    assert max(map(len, bars)) <= 80
    assert text.count(" ENTRY SHORT ") == baseline.summary["entries_short"]
    assert baseline.digest in text


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"trades": 1, "open_position": True},
            "  trades     1 closed, and one position is open; entries: 3 short, 0 long",
        ),
        (
            {"win_rate": None, "profit_factor": None},
            "  quality    win rate n/a, profit factor n/a, Sharpe n/a",
        ),
        (
            {"win_rate": 0.495, "sharpe": 2.84, "profit_factor": 1.141},
            "  quality    win rate 49.5 %, profit factor 1.141, Sharpe 2.84",
        ),
        ({"bars_missing": 434, "gaps": 2}, "             434 bars missing in 2 gaps"),
        (
            {"sharpe": 2.84, "stub_days": {"2021-05-01": 1}},
            "             2021-05-01 has only 1 bar, and Sharpe counts it as a day",
        ),
        ({"max_drawdown": 0.158}, "  drawdown   15.80 % at most, marked on every bar"),
        ({"certified_bits_min": None}, "  scans      349 of 1,100 bars, not certified"),
        ({"ledger_balanced": False}, "  ledger     DOES NOT BALANCE; `dolphin audit out` names the rows"),
        ({"halted": True}, "  HALTED     an invariant was violated: no entries since; see the audit"),
        ({"report": "out/report.html"}, "  report     out/report.html"),
    ],
)
def test_summary_lines(
    baseline: Baseline, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], line: str
) -> None:
    telling.print_summary({**baseline.summary, "folder": "out", **changes})
    assert line in capsys.readouterr().out.splitlines()


def test_an_ordinary_summary_has_no_line_of_gaps_stubs_or_forewarner(
    baseline: Baseline, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"sharpe": None, "stub_days": {"2021-05-01": 1}, "gaps": 0, "bars_missing": 0}
    telling.print_summary({**baseline.summary, "folder": "out", **few})
    out = capsys.readouterr().out
    assert not re.search("missing|only 1 bar|forewarner", out)


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        (None, []),
        ({"gates": {}, "days": 0}, ["  forewarner asked on no day"]),
        ({"gates": {"OK": 1}, "days": 1}, ["  forewarner OK on 1 of 1 day"]),
        (
            forewarner_told({"RED": 1, "ORANGE": 2}, ["a", "c"], ["a", "b", "c"]),
            [
                "  forewarner ORANGE on 2 of 3 days, half size; RED on 1 of 3 days, no entries",
                "             trained on 2 days of a to c, all of them inside this period: it knew them",
            ],
        ),
        (
            forewarner_told({"OK": 1}, ["a", "c"], ["c"]),
            [
                "  forewarner OK on 1 of 1 day",
                "             trained on 2 days of a to c, 1 of them inside this period: it knew them",
            ],
        ),
        (
            forewarner_told({"OK": 1}, ["a", "c"], ["b"]),
            [
                "  forewarner OK on 1 of 1 day",
                "             trained on 2 days of a to c, none of them inside this period",
            ],
        ),
    ],
)
def test_what_the_forewarner_did(found: dict[str, Any] | None, lines: list[str]) -> None:
    assert telling.forewarner_lines(found) == lines


def test_the_message_about_compiling_comes_only_when_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, baseline: Baseline
) -> None:
    import numba

    from dolphin import kernel

    monkeypatch.setattr(kernel, "MODE", "compiled")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert not shared.kernels_cached()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/kernel.nbi").write_bytes(b"")
    assert shared.kernels_cached()
    monkeypatch.setattr(kernel, "MODE", "plain")
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    assert shared.kernels_cached()
