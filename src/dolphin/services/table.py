"""The one table of services: what runs, under which group, and who restarts it (spec 07).

The supervisor's configuration, the health service's duties and `dolphin up` are all made from it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Final, Literal

from dolphin.services.service import Context, Service

DATA: Final = "dolphin_data"
TRADING: Final = "dolphin"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceSpec:
    """One row.

    factory is `module:Class`, called with the Context. command is the command of the command line that runs
    it. critical: the health service restarts it when it is stopped or given up. autorestart: the process
    manager restarts it after a crash. start_seconds: how long it has to live to count as started.
    """

    name: str
    command: str
    factory: str
    group: Literal["dolphin_data", "dolphin"]
    critical: bool = False
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

#: Run by hand with their commands: `esof` cuts sizes and `books` asks the exchange, so that nobody has them
#: who did not ask for it.
ON_REQUEST: Final = (
    ServiceSpec(name="obf", command="books", factory=_S + "obf:ObfService", group=DATA),
    ServiceSpec(name="esof", command="esof", factory=_S + "esof:EsofService", group=DATA),
)  # fmt: skip

BY_NAME: Final = {spec.name: spec for spec in SERVICES}
BY_COMMAND: Final = {spec.command: spec for spec in (*SERVICES, *ON_REQUEST)}
CRITICAL: Final = tuple(spec.name for spec in SERVICES if spec.critical)
