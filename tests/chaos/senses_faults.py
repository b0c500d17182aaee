"""What is done to a supervised system with live senses, and what has to come of it.

`cd tests && python -m chaos.senses_faults [FAULT ...]` does one fault after the other to one system and
prints a row for each; without names all of them, in some half an hour of real time. The tests do some of
them. Before each fault the watchdog forgets a low Rm: it rises so slowly that the fault before would be seen
in the next one's row.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dolphin.domain import codes
from dolphin.domain.codes import POSTURES

from .senses import AGAIN_S, HEAD, N_ASSETS, UNIVERSE, Row, SensesSystem, senses_in

#: Fear and greed is left alone: it is asked every ten minutes, and a turn that failed shows as long.
REST = ("/fapi/*", "/futures/*", "/api/*")
DEPTH = "*@depth*"


@dataclass(frozen=True)
class Fault:
    """One fault: what begins it and what ends it beside the exchange's own faults; kills: who may die."""

    name: str
    begin: Callable[[SensesSystem], object]
    hold_s: float = 0.0
    end: Callable[[SensesSystem], object] = lambda system: None
    kills: tuple[str, ...] = ()
    #: Whether the trader has to decide without books, whether the posture has to shut; None: either.
    degrades: bool | None = None
    shuts: bool | None = False
    #: A part of an alert that has to come.
    alert: str = ""

    def broken(self, row: Row) -> list[str]:
        """What of a row is not as it has to be, in sentences."""
        found = [f"{name} died" for name in row.deaths]
        if row.again_s is None:
            found.append(f"not well again within {AGAIN_S:g} s")
        if not row.decisions:
            return [*found, "no bar was decided"]
        blind = codes.BOOKS_DEGRADED in row.labels
        if self.degrades is not None and blind != self.degrades:
            found.append(f"books of the decisions were {row.labels}")
        if self.shuts is not None and (row.posture != POSTURES[codes.APEX]) != self.shuts:
            found.append(f"the posture was {row.posture}")
        if self.alert and not any(self.alert in told for told in row.alerts):
            found.append(f"no alert says {self.alert!r}: {row.alerts}")
        for d in row.decisions:
            if d.action == codes.ACTION_ENTER and d.books != "grid" and d.lane_ob != 1.0:
                found.append(f"bar {d.bar_idx}: a lane of {d.lane_ob} with {d.books} books")
            if d.esof != codes.ESOF_OK or not 0.3 <= d.esof_mult <= 1.0 or d.books == codes.BOOKS_ABSENT:
                found.append(f"bar {d.bar_idx}: esof {d.esof} {d.esof_mult}, books {d.books}")
        return [f"{self.name}: {each}" for each in found]


def _stream(kind: str, **body: Any) -> Callable[[SensesSystem], object]:
    return lambda system: system.exchange.fault(kind, **{"stream": DEPTH, **body})


def _cut(system: SensesSystem) -> None:
    system.exchange.fault("disconnect", stream="*", abort=True)


def _rest(kind: str, **body: Any) -> Callable[[SensesSystem], object]:
    """All of REST, and the streams cut, so that snapshots have to be asked for."""

    def begin(system: SensesSystem) -> None:
        for path in REST:
            system.exchange.fault(kind, path=path, **body)
        _cut(system)

    return begin


def _away(system: SensesSystem) -> None:
    system.exchange.fault("silence", stream="*", value="no-pong")
    for path in REST:
        system.exchange.fault("status", path=path, value=503)


def _signal(name: str, number: signal.Signals) -> Callable[[SensesSystem], object]:
    return lambda system: os.kill(system.pid(name), number)


def _killed(name: str, *, degrades: bool | None = False) -> Fault:
    """kill -9 of a service, which the process manager starts again and the health service tells."""
    return Fault(
        f"kill -9 of {name}", _signal(name, signal.SIGKILL), kills=(name,), degrades=degrades,
        alert=f"{name} ended and was started again",
    )  # fmt: skip


FAULTS = (
    Fault("disconnect", _cut),
    Fault("gap", _stream("gap", count=N_ASSETS), 5.0),
    Fault("crossed book", _stream("crossed"), 20.0),
    Fault("garbage, broken JSON", _stream("garbage", value="broken"), 20.0),
    Fault("garbage, no numbers", _stream("garbage", value="nan"), 20.0),
    Fault("silence of depth streams", _stream("silence"), 45.0, degrades=True, shuts=None, alert="no update"),
    Fault("silence of whole sockets", _stream("silence", stream="*", value="no-pong"), 45.0, degrades=True,
          shuts=None, alert="no update"),
    Fault("429 on REST, streams cut", _rest("status", value=429, retry_after_s=10), 40.0, degrades=True,
          shuts=None, alert="without questions"),
    Fault("418 on REST, streams cut", _rest("status", value=418, retry_after_s=30), 20.0, degrades=True,
          shuts=None, alert="without questions"),
    Fault("503 on REST, streams cut", _rest("status", value=503), 45.0, degrades=True, shuts=None),
    Fault("slow reads on REST, streams cut", _rest("trickle", value=30.0), 45.0, degrades=True, shuts=None),
    Fault("exchange's clock 30 s behind", lambda s: s.exchange.fault("skew", value=-30.0), 30.0,
          degrades=True),
    Fault("exchange's clock 30 s ahead", lambda s: s.exchange.fault("skew", value=30.0), 30.0),
    _killed("obf", degrades=None),
    _killed("exf"),
    _killed("esof"),
    _killed(UNIVERSE),
    Fault("SIGSTOP of obf", _signal("obf", signal.SIGSTOP), 40.0, _signal("obf", signal.SIGCONT),
          degrades=True, shuts=None),
    # Each reconnect brings a snapshot by REST, which is fresh for five seconds: the posture may hold.
    Fault("silence of depth streams", _stream("silence"), 100.0, degrades=True, shuts=None,
          alert="no update"),
    Fault("exchange away, silent streams and 503 on REST", _away, 100.0, degrades=True, shuts=True,
          alert="APEX -> HIBERNATE"),
)  # fmt: skip


def _much(system: SensesSystem) -> None:
    """Snapshots are answered by 503, the streams cut, factors and esoteric factors killed."""
    system.exchange.fault("status", path="/fapi/v1/depth", value=503)
    _cut(system)
    for name in ("exf", "esof"):
        os.kill(system.pid(name), signal.SIGKILL)


#: Those that a test has time for: several things at once, and the one that once shut the posture.
QUICK = (
    Fault("503 on snapshots, streams cut, kill -9 of exf and esof", _much, 22.0, kills=("exf", "esof"),
          degrades=True, shuts=None),
    _killed("obf", degrades=None),
)  # fmt: skip


def main(words: Sequence[str]) -> int:
    """Run faults whose names hold one of `words`, all of them without, and print the table."""
    faults = [f for f in FAULTS if not words or any(word in f.name for word in words)]
    print(HEAD, flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="dolphin-senses-") as folder,
        senses_in(Path(folder) / "home", quick=False, life_s=3600.0) as system,
    ):
        for fault in faults:
            system.forget()
            row = system.hurt(fault)
            print(row.told(), flush=True)
            system.broken += fault.broken(row)
        print(*system.broken, sep="\n", flush=True)
        return len(system.broken)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
