"""A supervised system with live senses and its exchange, as real processes, seen from outside.

Entry points: `senses_in` (a running system), `SensesSystem.hurt` (one fault to its `Row`).

The exchange is the loopback one in a process of its own; grid member, supervisord and services are real, the
clock is the machine's. So that a fault of half a minute meets an entry, the trader's thresholds are next to
nothing and a position is held for two bars; its market is the synthetic one.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dolphin.domain import codes
from dolphin.domain.clock import ns_from_iso
from dolphin.domain.codes import POSTURES
from dolphin.domain.decision import Decision
from dolphin.services.alert_journal import read_alerts
from dolphin.services.metrics import read_port
from dolphin.services.status_facts import Collector
from dolphin.services.supervision import Supervisor
from dolphin.services.system import addresses, establish

from .processes import System, dolphin, free_port

if TYPE_CHECKING:
    from .senses_faults import Fault

TESTS = Path(__file__).resolve().parents[1]
N_ASSETS = 8
NAMES = ("exf", "acb", "obf", "esof", "watchdog", "meta_health", "scanner", "scan_bridge", "trader")
UNIVERSE = "obf_universe"
#: Entries on most bars that have none: see the module.
EAGER = {
    "vel_div_threshold": -1e-9, "vel_div_extreme": -1e-8, "max_hold_bars": 2, "min_irp_alignment": 0.0,
    "use_direction_confirm": False, "lookback": 5, "vd_trend_lookback": 2,
}  # fmt: skip
LOOK_EVERY_S = 1.0
#: How long a system may take until its books are there, and until it is well again, seconds.
BEGIN_S = 180.0
APEX_RM = 0.90
AGAIN_S = 240.0
#: It is looked for so long at least from a fault's begin, seconds, and for so many good looks in a row.
LEAST_S = 12.0
WELL_LOOKS = 4


class Exchange:
    """The loopback exchange in its own process; ends by itself."""

    def __init__(self, names: Sequence[str], life_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(TESTS / "exchange"), "--life", str(life_s), "--names", *names],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.url = str(json.loads(self._process.stdout.readline())["url"])

    def fault(self, kind: str, **body: Any) -> None:
        self._ask("POST", {"kind": kind, **body})

    def clear(self) -> None:
        self._ask("DELETE", None)

    def _ask(self, method: str, body: Any) -> None:
        request = urllib.request.Request(
            f"{self.url}/_fault", method=method, data=None if body is None else json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=10):
            pass

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate()


@dataclass(frozen=True)
class Look:
    """The system at one instant; n_fresh and n_sources are None where the service did not answer."""

    posture: str
    rm: float
    target: float
    oks: dict[str, bool]
    n_fresh: int | None
    n_sources: int | None
    decision: Decision | None

    @property
    def well(self) -> bool:
        """Every sense is healthy and complete, and the trader decides with it."""
        last = self.decision
        return (
            all(self.oks.values()) and self.n_fresh == N_ASSETS and self.n_sources == 4
            and last is not None and last.books == "grid" and last.esof == codes.ESOF_OK
        )  # fmt: skip


@dataclass
class Row:
    """What a fault came to; seconds from its begin (noticed) and from its end (again)."""

    fault: str
    hold_s: float
    looks: list[Look]
    decisions: list[Decision]
    alerts: list[str]
    warnings: list[str]
    noticed_s: float | None
    again_s: float | None
    deaths: list[str] = field(default_factory=list)

    @property
    def posture(self) -> str:
        """The tightest that was published."""
        return max((look.posture for look in self.looks), key=POSTURES.index)

    def postures(self) -> str:
        """The tightest that was published, the least Rm, and how long the rule needs from there to APEX."""
        told = f"{self.posture}, Rm {min(look.rm for look in self.looks):.2f}"
        last = self.looks[-1]
        if last.rm < APEX_RM < last.target:
            # A rise is 2 % of the way a minute (spec 05, section 2).
            minutes = math.log((last.target - last.rm) / (last.target - APEX_RM)) / 0.02
            told += f", APEX {minutes:.0f} min later"
        return told

    @property
    def labels(self) -> list[str]:
        """What the trader's decisions said of books, in order, each once in a row."""
        words = [d.books for d in self.decisions]
        return [w for n, w in enumerate(words) if n == 0 or w != words[n - 1]]

    def lanes(self) -> str:
        """The lane of entries with books and without, and the other two."""
        parts = []
        for word in dict.fromkeys(d.books for d in self.decisions):
            entered = [
                d.lane_ob for d in self.decisions if d.books == word and d.action == codes.ACTION_ENTER
            ]
            parts.append(f"{word}: {_span(entered) if entered else 'no entry'}")
        return "; ".join(parts)

    def told(self) -> str:
        """The row as a line of a Markdown table."""
        esof = " ".join(dict.fromkeys(f"{d.esof} {d.esof_mult:g}" for d in self.decisions))
        cells = (
            f"{self.fault}, {self.hold_s:g} s", self.postures(), " → ".join(self.labels),
            self.lanes(), esof, _span([d.beta for d in self.decisions]), _listed(self.alerts),
            _listed(self.warnings),
            _seconds(self.noticed_s), _seconds(self.again_s),
        )  # fmt: skip
        return f"| {' | '.join(cells)} |"


HEAD = (
    "| fault, held for | posture, least Rm | books of the decisions | books lane of entries | esof lane"
    " | beta | alerts | warnings in logs | noticed after | well again after |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def _span(values: Sequence[float]) -> str:
    low, high = min(values, default=0.0), max(values, default=0.0)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _listed(lines: Sequence[str]) -> str:
    """The first of many, shortened."""
    shown = [line if len(line) <= 110 else f"{line[:109]}…" for line in lines[:4]]
    more = [f"and {len(lines) - 4} more"] if len(lines) > 4 else []
    return "<br>".join([*shown, *more]) or "none"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} s"


class SensesSystem(System):
    """A running system with books, live factors and esof.

    quick: no universe, and books show at once after a start, where the real delay is a minute.
    """

    def __init__(self, root: Path, exchange: Exchange, *, quick: bool) -> None:
        super().__init__(root)
        self.exchange = exchange
        self._quick = quick
        self.names = NAMES if quick else (*NAMES, UNIVERSE)
        self.senses = tuple(name for name in self.names if name in ("obf", "exf", "esof", UNIVERSE))
        self._collector = Collector(str(root))

    def up(self) -> None:
        establish(self.home, {
            "grid_members": addresses(1, free_port()), "metrics_port": 0, "assets": N_ASSETS,
            "senses": ("books", "esof") if self._quick else ("books", "esof", "universe"),
            "exchange": self.exchange.url, "factors": "live",
            "factor_addresses": dict.fromkeys(("binance", "deribit", "alternative"), self.exchange.url),
            "params": EAGER, "vol_threshold": 1e-12,
        })  # fmt: skip
        words = ("up", *self.names, "--home", str(self.home.root))
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("quick_services.py")), *words],
            capture_output=True, text=True, check=False, timeout=240,
        ) if self._quick else dolphin(*words)  # fmt: skip
        if done.returncode != 0:
            raise AssertionError(f"the system did not start: {done.stderr}{done.stdout}")
        # Its table of services is the one of the settings, which were not there when it was made.
        self.supervisor = Supervisor(self.home)
        self.wait(lambda: self.look().well, BEGIN_S, "every sense there")

    def look(self) -> Look:
        facts = self._collector.collect()
        told = {name: self._ask(name) for name in self.senses}
        safety = facts.safety
        return Look(
            posture="none" if safety is None else safety.posture,
            rm=1.0 if safety is None else safety.rm,
            target=1.0 if safety is None or safety.target is None else safety.target,
            oks={name: _gauge(text, "healthy") == 1.0 for name, text in told.items()},
            n_fresh=_whole(_gauge(told["obf"], "books_fresh")),
            n_sources=_whole(_gauge(told["exf"], "sources_ok")),
            decision=next(iter(self.decided(-1)), None),
        )

    def _ask(self, name: str) -> str:
        """The metrics of a service, empty when it does not answer."""
        port = read_port(self.home, name)
        if port is None:
            return ""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def decided(self, first: int) -> list[Decision]:
        """Decisions from bar `first` on, only the newest for -1."""
        journal = self.journal()
        if journal is None:
            return []
        with contextlib.closing(journal):
            return list(journal.decisions(journal.last_bar() if first < 0 else first))

    def forget(self) -> None:
        """The watchdog begins anew where Rm is low, and everything is well."""
        if self.look().rm < APEX_RM:
            self.supervisor.stop_service("watchdog")
            self.home.state("watchdog").unlink(missing_ok=True)
            self.supervisor.start_service("watchdog")

        def ready() -> bool:
            look = self.look()
            last = look.decision
            return look.well and look.rm >= APEX_RM and last is not None and last.posture == codes.APEX

        self.wait(ready, AGAIN_S, "a system that is well")

    def hurt(self, fault: Fault) -> Row:
        """Do it, hold it, end it, and see the system become well."""
        pids = {name: self.pid(name) for name in self.names}
        first_bar, began_ns, began = self.bars(), time.time_ns(), time.monotonic()
        looks: list[Look] = []
        times: list[float] = []
        pause = threading.Event()

        def take() -> None:
            pause.wait(LOOK_EVERY_S)
            looks.append(self.look())
            times.append(time.monotonic())

        fault.begin(self)
        while time.monotonic() - began < fault.hold_s:
            take()
        self.exchange.clear()
        fault.end(self)
        ended = time.monotonic()
        # A fault of an instant may show only at the next bar, and well for a moment is not well.
        while time.monotonic() - ended < AGAIN_S and not (
            time.monotonic() - began >= LEAST_S
            and all(look.well for look in looks[-WELL_LOOKS:])
            # The health service looks every ten seconds.
            and (not fault.alert or any(fault.alert in told for told in self.alerts(began_ns)))
        ):
            take()
        sick = [at for at, look in zip(times, looks, strict=True) if not look.well]
        noticed = sick[0] - began if sick else None
        again = None if sick and sick[-1] == times[-1] else max(0.0, sick[-1] - ended) if sick else 0.0
        died = [name for name, pid in pids.items() if self.pid(name) != pid and name not in fault.kills]
        return Row(
            fault.name, fault.hold_s, looks, self.decided(first_bar), self.alerts(began_ns),
            self.warnings(began_ns), noticed, again, died,
        )  # fmt: skip

    def alerts(self, since_ns: int) -> list[str]:
        """What people were told since then but for trades, each once."""
        found = [a for a in read_alerts(self.home, 1000) if a.at_ns >= since_ns and a.kind != "trade"]
        return list(dict.fromkeys(f"{a.service} {a.kind}: {a.text}" for a in found))

    def warnings(self, since_ns: int) -> list[str]:
        """What the senses' logs warn of that is no alert, each once."""
        found = []
        for name in self.senses:
            with contextlib.suppress(OSError):
                for line in (self.home.logs / f"{name}.jsonl").read_text().splitlines():
                    event = json.loads(line)
                    told = str(event.get("event", ""))
                    if (
                        event.get("level") == "warning" and not told.startswith("alert:")
                        and ns_from_iso(str(event["time"])) >= since_ns
                    ):  # fmt: skip
                        found.append(f"{name}: {told}")
        return list(dict.fromkeys(found))

    def close(self) -> None:
        self._collector.close()
        self.bury()


def _gauge(text: str, name: str) -> float | None:
    found = re.search(rf"^dolphin_{name}{{[^}}]*}} (\S+)$", text, re.M)
    return None if found is None else float(found[1])


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


@contextlib.contextmanager
def senses_in(root: Path, *, quick: bool, life_s: float) -> Iterator[SensesSystem]:
    """A running system and its exchange, both gone at the end."""
    from dolphin.market.universe import default_universe

    exchange = Exchange(default_universe()[:N_ASSETS], life_s)
    system = SensesSystem(root, exchange, quick=quick)
    try:
        system.up()
        yield system
    finally:
        system.close()
        exchange.close()
