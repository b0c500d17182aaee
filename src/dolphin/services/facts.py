"""What can be known of a system from outside, in one place: the input of the diagnosis and of the screen.

Entry point: `Facts`. None is "nobody could say". Ages are seconds on the system's clock, money is USDT.
"""

from __future__ import annotations

import shlex
from typing import Literal

import msgspec

from dolphin.services.senses_facts import SenseFact
from dolphin.services.table import SERVICES

#: Traders are started by hand: one that is stopped is an intention.
TRADERS = ("trader", "trader_standby")
#: A process whose heartbeat is older does not work, whatever the process manager says.
BEAT_AGE_MAX_S = 30.0


class ServiceFact(msgspec.Struct, frozen=True, kw_only=True):
    """One service: the manager's state of it, and its own heartbeat."""

    name: str
    state: str
    #: Since its start, on the system's clock as every age.
    uptime_s: float = 0.0
    #: Its process, by the manager's word or by its own lock; 0 without one.
    pid: int = 0
    exit_status: int = 0
    description: str = ""
    beat_age_s: float | None = None
    phase: str = ""
    #: Bars folded, and of how many, while it warms up.
    bars: int | None = None
    of: int | None = None
    restarts: int | None = None
    held_by: str = ""

    @property
    def up(self) -> bool:
        """The manager says that it runs, or is on its way."""
        return self.state in ("RUNNING", "STARTING")

    @property
    def there(self) -> bool:
        """It is up by the manager's word, or its process lives without any manager."""
        return self.up or self.pid != 0


class GridFact(msgspec.Struct, frozen=True, kw_only=True):
    """The grid: connected when a client got answers; port_open when anything listens."""

    connected: bool = False
    port_open: bool = False
    nodes: int = 0
    members: tuple[str, ...] = ()
    ours: int = 1
    trouble: str = ""


class PositionFact(msgspec.Struct, frozen=True, kw_only=True):
    """The open position; leverage is conviction, pnl a fraction of the entry price."""

    asset: str
    notional: float
    leverage: float
    pnl: float | None = None


class TraderFact(msgspec.Struct, frozen=True, kw_only=True):
    """What the trader's journal says (source "journal"), or the grid where there is none to read ("grid")."""

    source: Literal["journal", "grid"]
    position: PositionFact | None = None
    capital: float | None = None
    equity: float | None = None
    trades: int | None = None
    halted: str = ""
    fence: int = 0
    leader: str = ""
    scan_number: int | None = None
    bar_age_s: float | None = None


class SafetyFact(msgspec.Struct, frozen=True, kw_only=True):
    """The posture as last published, what Rm moves towards, and its weakest category."""

    posture: str
    rm: float
    age_s: float
    target: float | None = None
    weakest: str = ""
    weakest_value: float | None = None


class SwitchFact(msgspec.Struct, frozen=True, kw_only=True):
    """The kill switch, when it is on; oracle is the oracle's reason, damaged a file that nobody can read."""

    state: str
    by: str
    reason: str
    told: str
    oracle: str = ""
    damaged: bool = False


class HealthFact(msgspec.Struct, frozen=True, kw_only=True):
    """The health service's last word, from the grid or from its file."""

    rm_meta: float
    status: str
    age_s: float
    m1: float
    m2: float
    m3: float
    m4: float
    m5: float
    keys: dict[str, str] = {}


class AlertFact(msgspec.Struct, frozen=True, kw_only=True):
    """One alert."""

    age_s: float
    kind: str
    service: str
    text: str


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything. home is as the person wrote it, so that commands can be pasted."""

    home: str
    now_ns: int
    home_there: bool = True
    settings_trouble: str = ""
    manager: Literal["up", "down", "silent"] = "up"
    manager_trouble: str = ""
    services: tuple[ServiceFact, ...] = ()
    #: Names of the services of a whole system like this one.
    table: tuple[str, ...] = tuple(spec.name for spec in SERVICES)
    grid: GridFact = GridFact()
    safety: SafetyFact | None = None
    switch: SwitchFact | None = None
    trader: TraderFact | None = None
    trader_trouble: str = ""
    scan_age_s: float | None = None
    scan_number: int | None = None
    health: HealthFact | None = None
    #: Books, factors and esoteric score; empty while the grid is away.
    senses: tuple[SenseFact, ...] = ()
    alerts: tuple[AlertFact, ...] = ()
    disk_free_mb: float | None = None
    #: How many times as fast as the machine's the system's clock runs.
    speed: float = 1.0
    took_s: float = 0.0

    def command(self, words: str) -> str:
        """`dolphin WORDS --home HOME`, to be pasted."""
        return f"dolphin {words} --home {self.quoted_home}"

    @property
    def quoted_home(self) -> str:
        """The home as a shell takes it."""
        return shlex.quote(self.home)

    def service(self, name: str) -> ServiceFact | None:
        """One service, None when neither manager nor heartbeat tells of it."""
        return next((service for service in self.services if service.name == name), None)

    @property
    def trader_alive(self) -> bool:
        """Whether any trader can manage a position: the manager starts it, or its process is there."""
        return any(service.there for name in TRADERS if (service := self.service(name)) is not None)

    @property
    def anything_alive(self) -> bool:
        """Whether any service runs, whoever started it."""
        return any(service.there for service in self.services)

    def expected(self) -> tuple[str, ...]:
        """Services that run in a whole system: all of the table but the traders."""
        return tuple(name for name in self.table if name not in TRADERS)
