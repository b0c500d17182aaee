"""The one table of services: what runs, under which group, and who restarts it (spec 07).

Entry points: `SERVICES`, `ON_REQUEST`, `table_of` (the rows of one system), `table_in` (of one home).
The supervisor's configuration, the health service's duties and `dolphin up` are all made from it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from dolphin.domain.errors import DolphinError, UsageError, nearest
from dolphin.services.home import Home, SystemSettings
from dolphin.services.service import Context, Service

DATA: Final = "dolphin_data"
TRADING: Final = "dolphin"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceSpec:
    """One row.

    factory is `module:Class`, called with the Context. command is the command of the command line that runs
    it. critical: it counts in the health's score, and the health service restarts it when it is stopped or
    given up; healed: that alone, for what trading goes on without. autorestart: the process manager restarts
    it after a crash. start_seconds: how long it has to live to count as started.
    """

    name: str
    command: str
    factory: str
    group: Literal["dolphin_data", "dolphin"]
    critical: bool = False
    healed: bool = False
    autostart: bool = False
    autorestart: bool = True
    start_seconds: int = 5
    memory_mb: int = 2048
    cpu_pct: int = 200
    tasks: int = 50

    def make(self, context: Context) -> Service:
        """A fresh service in this process."""
        module, _, name = self.factory.partition(":")
        made: Service = getattr(importlib.import_module(module), name)(context)
        return made


_S = "dolphin.services."

SERVICES: Final = (
    ServiceSpec(name="exf", command="exf", factory=_S + "exf:ExfService", group=DATA, critical=True,
                autostart=True, start_seconds=10),
    ServiceSpec(name="acb", command="acb", factory=_S + "acb:AcbService", group=DATA, critical=True,
                autostart=True, start_seconds=10),
    ServiceSpec(name="watchdog", command="watchdog", factory=_S + "watchdog:WatchdogService", group=DATA,
                autostart=True, start_seconds=5),
    ServiceSpec(name="meta_health", command="health", factory=_S + "meta_health:MetaHealthService",
                group=DATA, autostart=True, start_seconds=5),
    ServiceSpec(name="scanner", command="scanner", factory=_S + "scanner:ScannerService", group=TRADING,
                start_seconds=15),
    ServiceSpec(name="scan_bridge", command="bridge", factory=_S + "scan_bridge:ScanBridgeService",
                group=TRADING, start_seconds=5),
    ServiceSpec(name="oracle", command="oracle", factory=_S + "oracle:OracleService", group=TRADING,
                start_seconds=5),
    ServiceSpec(name="signal_bridge", command="signals", factory=_S + "signal_bridge:SignalBridgeService",
                group=TRADING, start_seconds=5),
    ServiceSpec(name="trader", command="trade", factory=_S + "trader_service:TraderService", group=TRADING,
                autorestart=False, start_seconds=20),
    ServiceSpec(name="trader_standby", command="standby", factory=_S + "trader_service:TraderService",
                group=TRADING, autorestart=False, start_seconds=20),
)  # fmt: skip

#: In a system that was asked for them (`dolphin up --with`), else run by hand with their commands: `esof`
#: cuts sizes, the others ask the exchange, so that nobody has them who did not ask for it.
ON_REQUEST: Final = (
    ServiceSpec(name="obf", command="books", factory=_S + "obf:ObfService", group=DATA, healed=True,
                autostart=True, start_seconds=10),
    ServiceSpec(name="esof", command="esof", factory=_S + "esof:EsofService", group=DATA, autostart=True,
                start_seconds=5),
    ServiceSpec(name="obf_universe", command="universe", factory=_S + "universe:UniverseService", group=DATA,
                critical=True, autostart=True, start_seconds=10),
)  # fmt: skip

#: Every row there is; a row's place is its port's, whoever else runs.
ROWS: Final = (*SERVICES, *ON_REQUEST)
BY_NAME: Final = {spec.name: spec for spec in ROWS}
BY_COMMAND: Final = {spec.command: spec for spec in ROWS}
#: The words of `dolphin up --with`, in the table's order.
SENSES: Final = tuple(spec.command for spec in ON_REQUEST)


def checked_senses(words: Iterable[str]) -> tuple[str, ...]:
    """These words of `SENSES` in the table's order, each once. Raises UsageError for any other."""
    asked = tuple(words)
    for word in asked:
        if word not in SENSES:
            raise UsageError(
                f"{word!r} is nothing to run with.{nearest(word, SENSES)} There are: {', '.join(SENSES)}"
            )
    return tuple(word for word in SENSES if word in asked)


def table_of(settings: SystemSettings) -> tuple[ServiceSpec, ...]:
    """The rows of a system: `SERVICES`, behind its data services those that it was asked to run with."""
    asked = tuple(spec for spec in ON_REQUEST if spec.command in settings.senses)
    return (
        *(spec for spec in SERVICES if spec.group == DATA),
        *asked,
        *(spec for spec in SERVICES if spec.group != DATA),
    )


def table_in(home: Home) -> tuple[ServiceSpec, ...]:
    """The rows of the system that lives there; those of any system where its settings cannot be read."""
    try:
        return table_of(home.load())
    except DolphinError:
        return SERVICES


def critical(table: Iterable[ServiceSpec]) -> tuple[str, ...]:
    """Names that count in the health's score."""
    return tuple(spec.name for spec in table if spec.critical)


def healed(table: Iterable[ServiceSpec]) -> tuple[str, ...]:
    """Names that the health service starts when they are stopped or given up."""
    return tuple(spec.name for spec in table if spec.critical or spec.healed)


CRITICAL: Final = critical(SERVICES)
