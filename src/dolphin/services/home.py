"""The folder of a system of services, and the settings that all of its processes share.

Entry points: `Home` (where everything lies), `SystemSettings` (`system.json`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from dolphin.alpha.volatility import VOL_THRESHOLD
from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import DataError
from dolphin.services.durable import DurableState

CLUSTER_NAME = "dolphin"
GRID_PORT = 5701
METRICS_PORT = 9400


class SystemSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a system is asked to do. Written once by `dolphin up`; no secret stands here.

    speed multiplies the clock of the whole system from clock_origin_ns on. market_origin_ns is when the
    market's bar number 0 (after its warm-up) is due; a restart gives the same bars the same stamps.
    alert targets are never here but in the environment: their addresses hold secrets.
    """

    feed: Literal["synthetic", "recorded", "binance"] = "synthetic"
    path: str | None = None
    universe: str | None = None
    assets: int | None = None
    seed: int = 4
    edge_bps: float = 12.0
    set_name: str = "gold"
    params: dict[str, float | bool | int] = {}
    deployment: str = "BLUE"
    vol_threshold: float = VOL_THRESHOLD
    posture_when_unknown: str = "APEX"
    #: Folder of recorded factors, or `live`; addresses replace the publishers' own, by host.
    factors: str | None = None
    factor_addresses: dict[str, str] = {}
    #: Base address of the exchange, None for its own; whether every message of its books is recorded.
    exchange: str | None = None
    record_raw: bool = False
    #: Which services on request run, by their commands, in the table's order.
    senses: tuple[str, ...] = ()
    speed: float = 1.0
    clock_origin_ns: int = 0
    market_origin_ns: int = 0
    cluster_name: str = CLUSTER_NAME
    grid_members: tuple[str, ...] = (f"127.0.0.1:{GRID_PORT}",)
    members: int = 1
    metrics_port: int = METRICS_PORT
    oracle_every: int = 100


@dataclass(frozen=True, slots=True)
class Home:
    """Where the files of one system lie; nothing is made until something is written."""

    root: Path

    @property
    def settings_file(self) -> Path:
        """The settings that all processes share."""
        return self.root / "system.json"

    @property
    def market(self) -> Path:
        """The scanner's root: `arrow_scans/`, `price_ring.bin`, `quarantine/`."""
        return self.root / "market"

    @property
    def exf(self) -> Path:
        """What the factor service pushed, `date=YYYY-MM-DD/`."""
        return self.root / "exf"

    @property
    def ob_cache(self) -> Path:
        """Newest books and features for when the grid is away, described by its `SCHEMA.md`."""
        return self.root / "ob_cache"

    @property
    def trader(self) -> Path:
        """The trader's run folder with its journal."""
        return self.root / "trader"

    @property
    def kill_switch(self) -> Path:
        """The operator's local kill switch, which works with the grid dead."""
        return self.root / "kill_switch.json"

    @property
    def run_logs(self) -> Path:
        """What is written for people and tests: meta_health.json and the like."""
        return self.root / "run_logs"

    @property
    def logs(self) -> Path:
        """One structured log a service."""
        return self.root / "logs"

    @property
    def supervisor(self) -> Path:
        """The process manager's configuration, socket and pid."""
        return self.root / "supervisor"

    @property
    def grid(self) -> Path:
        """The grid members' configuration, logs and pids, where `dolphin up` starts them."""
        return self.root / "grid"

    def state(self, service: str) -> Path:
        """The durable state of a service."""
        return self.root / "state" / f"{service}.json"

    def load(self) -> SystemSettings:
        """The settings. Raises DataError when there is no system here or its settings are damaged."""
        settings = DurableState(self.settings_file, SystemSettings).load()
        if settings is None:
            raise DataError(f"{self.root}: no system here; `dolphin up --home {self.root}` makes one")
        return settings

    def save(self, settings: SystemSettings) -> None:
        """Keep the settings. Raises StoreError."""
        DurableState(self.settings_file, SystemSettings).save(settings)


#: Age beyond which a value of the grid no longer counts as fresh for a decision.
FRESH_MAX_NS = 30 * NS_PER_S
