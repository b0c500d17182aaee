"""The factor daemon: every source on its own, all together on the grid about once a minute (05 §4).

Entry points: `ExfService`, `checked_factors`.

`settings.factors` says where the factors come from. `live`: from their publishers, each source on its own
schedule (`dolphin.feeds.factor_sources`). A folder: recordings, whose calendar is shifted onto the system's
clock by whole days: an instant of the clock less the shift is an instant of the recording. The shift is
chosen when a folder is first used, so that the most sources speak, and kept. Without either every factor is
None with the status `no source`: nothing is made up.

Each push is appended to the day's Parquet in `exf/` of the home (`dolphin.factors.daily`), on the system's
clock; a disk that is full costs the record, not the push.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, iso_from_ns
from dolphin.domain.errors import ConfigError, StoreError
from dolphin.factors.daily import FactorLog, Pushed
from dolphin.factors.keeper import LIVE_RULES, NO_SOURCE, OK, RULES, Keeper, Sample
from dolphin.factors.series import SeriesSource, first_day
from dolphin.factors.sources import open_sources
from dolphin.grid.payloads import ExfPayload
from dolphin.grid.port import ConnectionEvent, ConnectionState, Subscription
from dolphin.grid.topics import EXF
from dolphin.services.durable import DurableState, write_durably
from dolphin.services.home import SystemSettings
from dolphin.services.service import Context

if TYPE_CHECKING:
    from dolphin.feeds.factor_sources import LiveFactors

FACTORS: Final = tuple(RULES)
#: The word of `settings.factors` for the publishers themselves.
LIVE: Final = "live"


def checked_factors(settings: SystemSettings) -> None:
    """Raise ConfigError where the settings of factors contradict one another or name a wrong address."""
    if settings.factors != LIVE:
        if settings.factor_addresses:
            raise ConfigError("addresses of factors are for live ones; add factors live, or leave them out")
        return
    if settings.speed != 1.0:
        raise ConfigError(
            f"live factors come at the speed of the world, not {settings.speed:g} times; set speed 1"
        )
    from dolphin.feeds.factor_answers import checked_addresses

    checked_addresses(settings.factor_addresses)


class ExfDurable(msgspec.Struct, frozen=True, kw_only=True):
    """What outlives the process: the recording's shift, and each factor's last good (value, ns UTC)."""

    folder: str = ""
    shift_ns: int = 0
    last_good: dict[str, tuple[float, int]] = {}


class ExfService:
    """See the module."""

    period_s = 60.0

    def __init__(self, context: Context) -> None:
        self.context = context
        self._file = DurableState(context.home.state("exf"), ExfDurable)
        self._state = ExfDurable()
        self._keepers: tuple[Keeper, ...] = ()
        self._faults: dict[str, str] = {}
        self._sources: dict[str, SeriesSource] = {}
        self._live: LiveFactors | None = None
        self._log = FactorLog(context.home.exf, write_durably)
        self._connection: Subscription | None = None
        self._pushed_ns: int | None = None
        self._trouble = ""
        self._log_trouble = ""

    # what the host asks

    @property
    def phase(self) -> str:
        """See `Service.phase`."""
        return "running"

    def health(self) -> tuple[bool, str]:
        """Healthy while it pushes, whatever the sources do: their statuses say that."""
        if self._trouble or self._log_trouble:
            return False, self._trouble or self._log_trouble
        if self._pushed_ns is None:
            return True, "nothing pushed yet"
        now_ns = self.context.clock.now_ns()
        age_s = max(0, now_ns - self._pushed_ns) / NS_PER_S
        told = ", ".join(f"{keeper.name} {keeper.status}" for keeper in self._keepers)
        return age_s <= 3 * self.period_s, f"last pushed {age_s:.0f} s ago: {told}"

    def gauges(self) -> dict[str, float]:
        """See `Service.gauges`."""
        instant_ns = self.context.clock.now_ns() - self._state.shift_ns
        found = {"sources_ok": float(sum(1 for keeper in self._keepers if keeper.status == OK))}
        for keeper in self._keepers:
            value, age_s = keeper.value(instant_ns), keeper.age_s(instant_ns)
            if value is not None:
                found[keeper.name] = value
            if age_s is not None:
                found[f"{keeper.name}_age_s"] = age_s
        return found

    # life

    def start(self) -> None:
        """Restore the shift and the last good values, or choose the shift.

        Raises ConfigError, DataError, StoreError, and UsageError where live factors lack their extra.
        """
        checked_factors(self.context.settings)
        self._state = self._file.load() or ExfDurable()
        folder = self.context.settings.factors
        if folder is None:
            self._keepers = tuple(Keeper(name, None) for name in FACTORS)
        else:
            if self._state.folder != folder:
                self._state = ExfDurable(folder=LIVE if folder == LIVE else "")
            good = {name: Sample(*kept) for name, kept in self._state.last_good.items()}
            if folder == LIVE:
                self._live = self._start_live()
                self._keepers = tuple(
                    Keeper(name, self._live.sources[name], good.get(name), LIVE_RULES[name])
                    for name in FACTORS
                )
            else:
                self._sources = open_sources(Path(folder))
                self._keepers = tuple(Keeper(name, self._sources[name], good.get(name)) for name in FACTORS)
                self._choose_shift()
        self._connection = self.context.grid.grid.on_connection(self._on_connection)

    def _start_live(self) -> LiveFactors:
        from dolphin.feeds.factor_sources import LiveFactors

        settings = self.context.settings
        live = LiveFactors(
            settings.factor_addresses,
            seed=settings.seed,
            now_ns=self.context.clock.now_ns,
            # A source's first value is pushed at once.
            on_news=self.context.wake.set,
        )
        live.start()
        return live

    def _choose_shift(self) -> None:
        """Lay the recording's first day on the clock's today, once; later where nothing can be read yet."""
        folder = self.context.settings.factors
        if folder is None or self._state.folder == folder:
            return
        begin_ns = first_day(list(self._sources.values()), lambda name: RULES[name].age_max_ns)
        if begin_ns is not None:
            today_ns = self.context.clock.now_ns() // NS_PER_DAY * NS_PER_DAY
            state = ExfDurable(folder=folder, shift_ns=today_ns - begin_ns)
            self._file.save(state)
            self._state = state

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event.state is ConnectionState.CONNECTED:
            self.context.wake.set()

    def stop(self) -> None:
        """Stop asking and listening."""
        if self._live is not None:
            self._live.stop()
        if self._connection is not None:
            self._connection.close()

    # work

    def tick(self) -> None:
        """Ask every source, keep what is good, push all together."""
        now_ns = self.context.clock.now_ns()
        with contextlib.suppress(StoreError):
            self._choose_shift()
        instant_ns = now_ns - self._state.shift_ns
        for keeper in self._keepers:
            keeper.poll(instant_ns)
            self._tell(keeper)
        self._keep()
        self._record(now_ns, instant_ns)
        self.context.grid.put(
            EXF,
            ExfPayload(
                **{keeper.name: keeper.value(instant_ns) for keeper in self._keepers},  # type: ignore[arg-type]
                ages_s={keeper.name: keeper.age_s(instant_ns) for keeper in self._keepers},
                statuses={keeper.name: keeper.status for keeper in self._keepers},
                pushed_at=now_ns / NS_PER_S,
            ),
        )
        self._pushed_ns = now_ns
        self.context.counts["pushes"] += 1

    def _tell(self, keeper: Keeper) -> None:
        """One alert for a source that goes wrong, none while it stays so."""
        fault = keeper.fault or ("its last value is too old" if keeper.status == "stale" else "")
        was = self._faults.get(keeper.name, "")
        self._faults[keeper.name] = fault
        if fault:
            self.context.counts[f"{keeper.name}_failed"] += 1
            if not was:
                self.context.tell("stale_data", f"factor {keeper.name}: {fault}")

    def _keep(self) -> None:
        """Make the last good values durable; a disk that is full costs a restart's memory, not the push."""
        good = {k.name: (k.last_good.value, k.last_good.at_ns) for k in self._keepers if k.last_good}
        if good == self._state.last_good:
            self._trouble = ""
            return
        state = msgspec.structs.replace(self._state, last_good=good)
        try:
            self._file.save(state)
        except StoreError as error:
            self.context.counts["saves_failed"] += 1
            self._trouble = str(error)
        else:
            self._state, self._trouble = state, ""

    def _record(self, now_ns: int, instant_ns: int) -> None:
        """Append the push to its day; the values' times are on the system's clock."""
        if all(keeper.source is None for keeper in self._keepers):
            return
        pushed = {
            keeper.name: Pushed(
                keeper.value(instant_ns),
                None if keeper.last_good is None else keeper.last_good.at_ns + self._state.shift_ns,
                keeper.age_s(instant_ns),
                keeper.status,
            )
            for keeper in self._keepers
        }
        try:
            self._log.append(now_ns, pushed)
        except StoreError as error:
            self.context.counts["records_failed"] += 1
            self._log_trouble = str(error)
        else:
            self._log_trouble = ""

    def calendar(self) -> str:
        """One line on which recorded day the clock's today is; empty without recordings."""
        if self._state.folder in ("", LIVE) or all(keeper.status == NO_SOURCE for keeper in self._keepers):
            return ""
        recorded = iso_from_ns(self.context.clock.now_ns() - self._state.shift_ns)[:10]
        return f"replays {recorded} of {self._state.folder}"
