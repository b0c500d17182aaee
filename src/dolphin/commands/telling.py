"""How long work looks on a terminal: a progress bar, one line a trade, a summary."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from dolphin.commands.shared import change, figure, money, plural, say, share, tell
from dolphin.domain.scan import WARMUP_PRICES
from dolphin.host.telling import trade_line as trade_line

if TYPE_CHECKING:
    from dolphin.host.session import Step

#: Without a terminal, a line of progress at most this often.
PLAIN_EVERY_S: Final = 10.0
#: A terminal's bar is moved at most this often.
LIVE_EVERY_S: Final = 0.1

#: Lines of days, and assets named, in a summary for people.
DAYS_TOLD: Final = 12
ASSETS_TOLD: Final = 2

#: What is counted during a run, in words for one and for many.
_COUNTED: Final = {
    "bars_refused": ("bar refused: its time did not grow", "bars refused: their times did not grow"),
    "rejected": ("price held back: more than a factor e away", "prices held back: more than a factor e away"),
    "rebased": ("price taken as a new base after three", "prices taken as a new base after three"),
    "invalid": ("price not finite and positive", "prices not finite and positive"),
    "zero_variance": ("window of an asset that did not move", "windows of assets that did not move"),
    "scans_dropped": ("scan dropped as duplicate or late", "scans dropped as duplicate or late"),
    "scans_rejected": ("scan refused by the grid's schema", "scans refused by the grid's schema"),
    "scans_read_from_store": ("scan read from the store", "scans read from the store"),
    "scans_of_another_universe": ("scan of another universe", "scans of another universe"),
    "scans_quarantined": ("scan file put into quarantine", "scan files put into quarantine"),
    "publications_failed": ("grid write failed", "grid writes failed"),
    "invariants_violated": ("LEDGER INVARIANT VIOLATED", "LEDGER INVARIANTS VIOLATED"),
}

#: What a gate of the forewarner does to a day, where it does something.
_GATE_DOES: Final = {"ORANGE": ", half size", "RED": ", no entries"}

#: What is counted of one asset.
_OF_ASSET: Final = {
    "zero_variance_scans": "did not move in {} scans",
    "rejected": "{} prices held back",
    "rebased": "{} new bases",
}


class WorkDisplay:
    """Progress of long work on stderr: a live bar on a terminal, a line now and then elsewhere.

    `clock` gives seconds; tests bring their own.
    """

    def __init__(
        self, *, quiet: bool, direction: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._quiet = quiet
        self._direction = direction
        self._clock = clock
        self._live = not quiet and sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None
        self._told_at = clock()

    def __enter__(self) -> WorkDisplay:
        if self._live:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=16), TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(), console=Console(stderr=True), refresh_per_second=4, transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None, text="")
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
            self.line(line)

    def line(self, line: str) -> None:
        """A line of news, above a terminal's bar."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            say(line)

    def progress(self, phase: str, bars: int, total: int | None, *, unit: str = "bar", **counts: int) -> None:
        """Show how far the work is; `counts` are told by their names, given for one, as is `unit`."""
        if self._quiet:
            return
        now = self._clock()
        done = bars == total
        if now - self._told_at < (LIVE_EVERY_S if self._live else PLAIN_EVERY_S) and not (
            self._live and done
        ):
            return
        self._told_at = now
        told = "".join(f", {plural(n, name)}" for name, n in counts.items())
        of = f" of {total:,}" if total else ""
        if self._bar is not None:
            text = f"{bars:,}{'/' if total else ''}{f'{total:,}' if total else ''} {unit}s{told}"
            self._bar.update(self._task, completed=bars, total=total, description=phase, text=text)
        else:
            say(f"{phase}: {bars:,}{of} {unit}s{told}")


def counted(counts: Mapping[str, int], prices_rejected: Mapping[str, int]) -> list[str]:
    """What was refused or happened seldom, each in words."""
    told = []
    for name, n in counts.items():
        one, many = _COUNTED.get(name, (name.replace("_", " "),) * 2)
        told.append(f"{n:,} {one if n == 1 else many}")
    for name, n in prices_rejected.items():
        symbol, _, rule = name.partition(" ")
        told.append(f"{symbol}: {plural(n, 'value')} of the source refused ({rule})")
    return told


def rows(told: list[str]) -> list[str]:
    """Lines under the label `counted`; many of them are cut short, the whole list is in the JSON summary."""
    shown = told[:8]
    if len(told) > len(shown):
        shown.append(f"and {len(told) - len(shown)} more, see --json")
    return [f"  {'counted' if k == 0 else '':9}  {text}" for k, text in enumerate(shown)]


def assets_line(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The assets of which something was counted, the most frequent first, in one line."""
    told = []
    for symbol, found in sorted(counts.items(), key=lambda item: (-sum(item[1].values()), item[0])):
        what = ", ".join(_OF_ASSET.get(name, f"{{}} {name}").format(f"{n:,}") for name, n in found.items())
        told.append(f"{symbol} {what}")
    if not told:
        return []
    more = f"; and {len(told) - ASSETS_TOLD} more, see --json" if len(told) > ASSETS_TOLD else ""
    return [f"  assets     {'; '.join(told[:ASSETS_TOLD])}{more}"]


def days_lines(days: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a day; of many days the first, the last, the best and the worst. Nothing for a single one."""
    if len(days) < 2:
        return []
    shown = list(days)
    label = dict.fromkeys((day["date"] for day in days), "")
    if len(days) > DAYS_TOLD:
        over = [day for day in days if not day.get("open")]
        picked = {
            "worst": min(over, key=lambda day: day["pnl"]),
            "best": max(over, key=lambda day: day["pnl"]),
            "last": days[-1],
            "first": days[0],
        }
        for word, day in picked.items():
            label[day["date"]] = f"{word}, {label[day['date']]}".rstrip(", ")
        shown = [day for day in days if label[day["date"]]]
    lines = []
    for k, day in enumerate(shown):
        words = [label[day["date"]], "open" if day.get("open") else ""]
        lines.append(
            f"  {'days' if k == 0 else '':9}  {day['date']}  {money(day['pnl']):>11}"
            f"  {plural(day['trades'], 'trade'):>10}  {figure(day['capital']):>12} USDT"
            + "".join(f", {word}" for word in words if word)
        )
    if len(shown) < len(days):
        lines.append(f"  {'':9}  {len(days):,} days in all, see --json")
    return lines


def forewarner_lines(found: Mapping[str, Any] | None) -> list[str]:
    """What the forewarner did to the days, and which days it knew before; nothing without one."""
    if not found:
        return []
    days = plural(found["days"], "day")
    told = [f"{gate} on {n:,} of {days}{_GATE_DOES.get(gate, '')}" for gate, n in found["gates"].items()]
    lines = [f"  forewarner {'; '.join(told) or 'asked on no day'}"]
    if "trained_days" in found:
        inside, every = found["trained_days_inside"], found["trained_days"]
        span = f"{found['trained_first_day']} to {found['trained_last_day']}"
        where = (
            f"{'all' if inside == every else f'{inside:,}'} of them inside this period: it knew them"
            if inside
            else "none of them inside this period"
        )
        lines.append(f"  {'':9}  trained on {plural(every, 'day')} of {span}, {where}")
    return lines


def _missing_line(s: Mapping[str, Any]) -> list[str]:
    missing = s.get("bars_missing", 0)
    if not missing:
        return []
    return [f"  {'':9}  {plural(missing, 'bar')} missing in {plural(s['gaps'], 'gap')}"]


def _stub_lines(s: Mapping[str, Any]) -> list[str]:
    """Days at the ends that are hardly days, where the Sharpe ratio counts them."""
    if s["sharpe"] is None:
        return []
    return [
        f"  {'':9}  {day} has only {plural(bars, 'bar')}, and Sharpe counts it as a day"
        for day, bars in s.get("stub_days", {}).items()
    ]


def print_summary(s: dict[str, Any]) -> None:
    """The summary for people, on stdout."""
    bits = f"certified to {s['certified_bits_min']} bits" if s["certified_bits_min"] else "not certified"
    source = s.get("source") or s["feed"]
    start = s["capital"] - s["gross"] + s["fees"] + s["slippage"] - s["ob_edge"]
    entries = f"{s['entries_short']:,} short, {s['entries_long']:,} long"
    without = f"without the imagined order-book edge {change(s['roi_without_ob_edge'])}"
    costs = f"fees {money(-s['fees'])}, slippage {money(-s['slippage'])}"
    opened = ", and one position is open" if s["open_position"] else ""
    lines = [
        "",
        f"{s['set']} ({s['set_hash']}) on {source}",
        f"  scans      {s['scans']:,} of {plural(s['bars'], 'bar')}, {bits}",
        *_missing_line(s),
        *([] if s["scans"] else [f"  warm-up    the first scan needs {WARMUP_PRICES} prices"]),
        f"  trades     {s['trades']:,} closed{opened}; entries: {entries}",
        f"  ROI        {change(s['roi'])}; {without}",
        f"  capital    {figure(s['capital'])} USDT, from {figure(start)}: price {money(s['gross'])},",
        f"             {costs}, order-book edge {money(s['ob_edge'])}",
        f"  quality    win rate {share(s['win_rate'])}, profit factor {figure(s['profit_factor'], 3)}, "
        f"Sharpe {figure(s['sharpe'])}",
        *_stub_lines(s),
        f"  drawdown   {share(s['max_drawdown'], 2)} at most, marked on every bar",
        *rows(counted(s.get("counts", {}), s.get("prices_rejected", {}))),
        *assets_line(s.get("counts_of_assets", {})),
        *days_lines(s.get("days_results", ())),
        *forewarner_lines(s.get("forewarner")),
        *(f"  partial    {fault}" for fault in s.get("partial", ())),
        *(f"  note       {text}" for text in s.get("warnings", ())),
        f"  decisions  {s['decisions_sha256']}",
    ]
    if s["report"]:
        lines.append(f"  report     {s['report']}")
    balance = "balances to 1e-8 USDT" if s["ledger_balanced"] else "DOES NOT BALANCE"
    verb = "checks it again" if s["ledger_balanced"] else "names the rows"
    lines.append(f"  ledger     {balance}; `dolphin audit {s['folder']}` {verb}")
    if s["halted"]:
        lines.append("  HALTED     an invariant was violated: no entries since; see the audit")
    lines += [f"  took       {s['wall_s']:.1f} s", "  Paper: fills are modelled, no order left this machine."]
    tell("\n".join(lines))
