"""How a run looks on a terminal: a progress bar, one line a trade, a summary."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dolphin.commands.shared import figure, percent, say
from dolphin.domain.clock import iso_from_ns
from dolphin.domain.codes import ACTION_ENTER, ACTION_EXIT, BOUNDS, BUCKETS, REASONS

if TYPE_CHECKING:
    from dolphin.domain.decision import Decision
    from dolphin.host.session import Step

#: Without a terminal one line every so many bars is enough.
PLAIN_EVERY = 5_000


def trade_line(decision: Decision, direction: int) -> str | None:
    """One line of an entry or an exit, and why; None for other bars."""
    side = "SHORT" if direction < 0 else "LONG"
    when = iso_from_ns(decision.timestamp_ns)[:19].replace("T", " ")
    if decision.action == ACTION_ENTER:
        bound = BOUNDS[decision.bound]
        held_by = "" if bound == "RAW" else f", held by {bound}"
        return (
            f"{when}  ENTRY {side} {decision.asset} @ {decision.price:g} leverage={decision.leverage:.1f}x"
            f"  vel_div {decision.vel_div:+.4f} ({BUCKETS[decision.bucket]}), "
            f"{decision.dc_change_bps:+.1f} bps over the lookback, ARS {decision.ars:.2f} of {decision.ranked}{held_by}"
        )
    if decision.action == ACTION_EXIT:
        return (
            f"{when}  EXIT  {side} {decision.asset} @ {decision.price:g} {REASONS[decision.reason]}"
            f"  net {decision.net:+,.2f} USDT after {decision.bars_held} bars, capital {decision.capital:,.2f}"
        )
    return None


class RunDisplay:
    """Progress of a run on stderr: a live bar on a terminal, plain lines elsewhere, nothing when quiet."""

    def __init__(self, direction: int, *, quiet: bool, every: int = PLAIN_EVERY) -> None:
        self._direction = direction
        self._quiet = quiet
        self._every = every
        self._live = not quiet and sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> RunDisplay:
        if self._live:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"), TimeRemainingColumn(), console=Console(stderr=True),
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("warm-up", total=None, text="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, step: Step) -> None:
        """Tell a bar's trade, if it had one."""
        line = None if self._quiet else trade_line(step.decision, self._direction)
        if line is not None:
            self._print(line)

    def progress(self, bars: int, total: int | None, scans: int, trades: int, phase: str) -> None:
        """Show how far the run is."""
        if self._quiet:
            return
        if self._live:
            if bars % 20 == 0 or bars == total:
                self._bar.update(
                    self._task, completed=bars, total=total, description=phase, text=f"{scans} scans {trades} trades"
                )
        elif bars % self._every == 0 and bars:
            of = f" of {total}" if total else ""
            say(f"{phase}: {bars}{of} bars, {scans} scans, {trades} trades")

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            say(line)


def print_summary(s: dict[str, Any]) -> None:
    """The summary for people, on stdout."""
    balanced = "balances to 1e-8" if s["ledger_balanced"] else "DOES NOT BALANCE: run `dolphin audit`"
    bits = f"certified to {s['certified_bits_min']} bits" if s["certified_bits_min"] else "not certified"
    lines = [
        "",
        f"{s['set']} ({s['set_hash']}) on {s['feed']}: {s['bars']:,} bars, {s['scans']:,} scans, {bits}",
        f"  trades         {s['trades']}  ({s['entries_short']} short, {s['entries_long']} long entries)"
        + ("  one position is still open" if s["open_position"] else ""),
        f"  ROI            {percent(s['roi'])}   without the imagined order-book edge {percent(s['roi_without_ob_edge'])}",
        f"  capital        {figure(s['capital'])} USDT = start + gross {figure(s['gross'])} - fees {figure(s['fees'])} "
        f"- slippage {figure(s['slippage'])} + edge {figure(s['ob_edge'])}",
        f"  win rate       {percent(s['win_rate'], 1)}   profit factor {figure(s['profit_factor'], 3)}   "
        f"Sharpe {figure(s['sharpe'])}   max drawdown {percent(s['max_drawdown'])}",
        f"  ledger         {balanced}",
        f"  decisions      sha256 {s['decisions_sha256']}",
    ]
    counts = {**s.get("counts", {}), **{f"price {k}": n for k, n in s.get("prices_rejected", {}).items()}}
    if counts:
        lines.append("  counted        " + ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items()))
    if s["report"]:
        lines.append(f"  report         {s['report']}")
    lines.append(f"  took           {s['wall_s']:.1f} s")
    lines.append("  Paper: fills are modelled, no order left this machine.")
    print("\n".join(lines))
