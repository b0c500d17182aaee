"""A system of services as a whole: its settings, its grid members, its order of starting and stopping.

Entry points: `establish`, `checked_exchange`, `start_grid`, `stop_grid`, `start_services`, `stop_services`.

Start: the grid, the process manager with its data group, then the others; the trader by hand. Stop: the
traders first, so that a last snapshot is kept while the grid is there, then all else, the manager, and the
members that are ours.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from dolphin.domain.errors import ConfigError, UsageError, nearest
from dolphin.services.clock import SystemClock
from dolphin.services.feeds import identity_of, open_market
from dolphin.services.held import HeldServices
from dolphin.services.home import GRID_PORT, Home, SystemSettings
from dolphin.services.member import Member, answers, start_cluster
from dolphin.services.orphans import living, stop_orphans
from dolphin.services.supervision import ServiceState, SupervisionError, Supervisor
from dolphin.services.table import BY_NAME, ROWS, checked_senses, table_of

#: Traders are started by hand.
BY_HAND: Final = ("trader", "trader_standby")
#: A first start compiles kernels; supervisord itself waits for each one's start seconds.
START_S: Final = 180.0
#: The services' ports follow one another.
METRICS_PORT_MAX: Final = 65535 - len(ROWS)
#: Settings that `up` decides itself at the first start.
_ORIGINS: Final = ("clock_origin_ns", "market_origin_ns")

Tell = Callable[[str], None]


def establish(home: Home, asked: dict[str, Any]) -> SystemSettings:
    """The settings of a home: made from what is asked at the first start, afterwards only compared with it.

    Which services on request run with the others may change while no process manager has them.
    Raises ConfigError naming the first setting that differs, DolphinError for a market that cannot be opened,
    for what contradicts, and UsageError where an extra is missing.
    """
    if home.settings_file.exists():
        settings = home.load()
        asked = dict(asked)
        senses = asked.pop("senses", settings.senses)
        for name, value in asked.items():
            found = getattr(settings, name)
            if found != value:
                raise ConfigError(
                    f"{home.root}: was made with {name} {_listed(found)}, now it is {_listed(value)};"
                    " leave it out, or choose another --home"
                )
        if senses != settings.senses:
            if Supervisor(home).pid is not None:
                raise ConfigError(
                    f"{home.root}: runs with {_listed(settings.senses) or 'none'}, now it is"
                    f" {_listed(senses) or 'none'}; leave --with out, or `dolphin down --home {home.root}`"
                    " first"
                )
            settings = msgspec.structs.replace(settings, senses=senses)
            checked_exchange(settings)
            home.save(settings)
        return settings
    members = asked.get("members", 1)
    given = {"grid_members": addresses(members), **asked}
    settings = SystemSettings(**given)
    SystemClock(settings.speed)
    checked_exchange(settings)
    if not 0 <= settings.metrics_port <= METRICS_PORT_MAX:
        raise UsageError(
            f"metrics port is {settings.metrics_port}, expected 0 (any free ones) to {METRICS_PORT_MAX}"
        )
    feed = open_market(settings)
    try:
        # What the trader would refuse is refused before anything is started.
        identity_of(settings, feed).session(feed.symbols)
        interval_ns = feed.interval_ns
    finally:
        feed.close()
    now_ns = time.time_ns()
    settings = msgspec.structs.replace(
        settings, clock_origin_ns=now_ns, market_origin_ns=-(-now_ns // interval_ns) * interval_ns
    )
    home.save(settings)
    return settings


def checked_exchange(settings: SystemSettings) -> None:
    """What asks the exchange can do so.

    Raises UsageError for an unknown service on request and without the feeds extra, ConfigError for a wrong
    address or speed.
    """
    asking = [word for word in checked_senses(settings.senses) if word != "esof"]
    live = settings.feed == "binance"
    if not asking and not live and settings.exchange is None:
        return
    if importlib.util.find_spec("ccxt") is None:
        what = "--feed binance" if live else f"--with {','.join(asking)}" if asking else "--exchange"
        raise UsageError(f"{what} needs the feeds extra; `make feeds` installs it")
    if live and settings.speed != 1.0:
        raise ConfigError(
            f"a live market runs at the speed of the world, not {settings.speed:g} times; set speed 1"
        )
    if asking and settings.speed != 1.0:
        raise ConfigError(
            f"{' and '.join(asking)}: books come at the speed of the world, not {settings.speed:g} times;"
            " set speed 1"
        )
    if settings.exchange is not None:
        from dolphin.feeds.client import base_address

        base_address(settings.exchange)


def _listed(value: Any) -> str:
    """A setting for a sentence: several values as a plain list."""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else repr(value)


def addresses(members: int, port: int = GRID_PORT) -> tuple[str, ...]:
    """Where our own members listen."""
    return tuple(f"127.0.0.1:{port + k}" for k in range(members))


def members_of(home: Home, settings: SystemSettings) -> tuple[Member, ...]:
    """The members that are ours, running or not; none where somebody else runs the grid."""
    if not settings.members:
        return ()
    return tuple(
        Member(home.grid, int(address.rpartition(":")[2]), settings.grid_members, settings.cluster_name)
        for address in settings.grid_members
    )


def start_grid(home: Home, settings: SystemSettings, tell: Tell) -> None:
    """Start our members that do not answer. Raises GridError, UsageError, StoreError."""
    ours = members_of(home, settings)
    away = [member for member in ours if not answers(member.address)]
    if not ours:
        if not any(answers(address) for address in settings.grid_members):
            raise UsageError(
                f"no member answers at {', '.join(settings.grid_members)}; start it, or leave --grid out"
            )
        return
    for member in ours:
        if member not in away and not member.running:
            raise UsageError(
                f"{member.address} is answered by something that this home has not started, perhaps another"
                " system's grid: two systems on one grid would trade each other's scans; give a new home"
                " another --grid-port, or name a grid to share with --grid"
            )
    if not away:
        tell(f"grid: {', '.join(settings.grid_members)} answer already")
        return
    if len(away) == len(ours):
        tell(f"grid: starting {len(ours)} Hazelcast member{'s' if len(ours) > 1 else ''}")
        start_cluster(home.grid, len(ours), ports=[m.port for m in ours], cluster_name=settings.cluster_name)
    else:
        for member in away:
            tell(f"grid: starting the member at {member.address} again")
            member.start()
            member.wait_until_ready()
    tell(f"grid: {', '.join(settings.grid_members)}")


def stop_grid(home: Home, settings: SystemSettings, tell: Tell) -> None:
    """Stop the members that are ours."""
    for member in members_of(home, settings):
        if member.running:
            member.stop()
            tell(f"grid: the member at {member.address} is down")


def by_default(settings: SystemSettings) -> tuple[str, ...]:
    """What `up` starts when nothing is named."""
    return tuple(spec.name for spec in table_of(settings) if spec.name not in BY_HAND)


def check_names(names: Sequence[str], settings: SystemSettings | None = None) -> None:
    """Raise UsageError for a name that is no service, of this system where its settings are given."""
    known = BY_NAME if settings is None else {spec.name: spec for spec in table_of(settings)}
    for name in names:
        if name in known:
            continue
        if name in BY_NAME:
            raise UsageError(
                f"{name} is not part of this system; `dolphin down`, then `dolphin up --with"
                f" {BY_NAME[name].command}`"
            )
        raise UsageError(f"{name!r} is no service.{nearest(name, known)} There are: {', '.join(known)}")


def start_services(home: Home, names: Sequence[str], tell: Tell) -> list[ServiceState]:
    """Start the manager and these services, and wait until each runs or is given up; their states.

    Raises SupervisionError, ClaimError, UsageError.
    """
    HeldServices(home).release(*names)
    supervisor = Supervisor(home)
    if not supervisor.running() and supervisor.pid is None:
        # A trader among them may hold a position: whatever lived is started again.
        orphans = stop_orphans(home, tell)
        names = (*names, *(name for name in orphans if name not in names))
    if supervisor.start():
        tell("supervisord: started")
    for name in names:
        supervisor.start_service(name)

    def changed(state: ServiceState) -> None:
        if state.up or state.state in ("FATAL", "EXITED", "BACKOFF"):
            tell(f"{state.name}: {state.state}")

    return supervisor.wait_for(tuple(names), START_S, on_change=changed)


def stop_services(home: Home, names: Sequence[str], tell: Tell, *, by: str = "") -> None:
    """Stop these services, the traders first; by: who wants them to stay down. Raises SupervisionError."""
    supervisor = Supervisor(home)
    ordered = sorted(names, key=lambda name: (name not in BY_HAND, list(BY_NAME).index(name)))
    if by:
        HeldServices(home).hold(*ordered, by=by, now_ns=time.time_ns())
    if not supervisor.running() and supervisor.pid is None:
        left = [f"{name} (pid {pid})" for name, pid in living(home).items() if name in ordered]
        if left:
            raise SupervisionError(
                f"{', '.join(left)} without a process manager; `dolphin down --home {home.root}` stops"
                " everything"
            )
        return
    for name in ordered:
        if supervisor.stop_service(name):
            tell(f"{name}: stopped")


def stop_all(home: Home, settings: SystemSettings, tell: Tell, *, keep_grid: bool) -> None:
    """Traders, everything else, the manager, our members; nothing of it has to run."""
    supervisor = Supervisor(home)
    if supervisor.running():
        stop_services(home, BY_HAND, tell)
        if supervisor.shutdown():
            tell("supervisord: stopped, and every service with it")
    elif supervisor.pid is not None:
        raise SupervisionError(
            f"supervisord (pid {supervisor.pid}) holds {home.root} and does not answer; end it by hand"
        )
    stop_orphans(home, tell)
    if not keep_grid:
        stop_grid(home, settings, tell)
