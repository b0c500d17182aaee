"""The factor daemon: every source on its own, all together on the grid about once a minute (05 §4).

Entry point: `ExfService`.

Until live feeds are wired the sources are recordings (`settings.factors` names their folder), whose calendar
is shifted onto the system's clock by whole days: an instant of the clock less the shift is an instant of the
recording. The shift is chosen when a folder is first used, so that the most sources speak, and kept. Without
a folder every factor is None with the status `no source`: nothing is made up.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import msgspec

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, iso_from_ns
from dolphin.domain.errors import StoreError
from dolphin.factors.keeper import NO_SOURCE, OK, RULES, Keeper, Sample
from dolphin.factors.recorded import RecordedSource, recorded_sources
from dolphin.factors.series import first_day
from dolphin.grid.payloads import ExfPayload
from dolphin.grid.port import ConnectionEvent, ConnectionState, Subscription
from dolphin.grid.topics import EXF
from dolphin.services.durable import DurableState
from dolphin.services.service import Context

FACTORS: Final = tuple(RULES)


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
        self._sources: dict[str, RecordedSource] = {}
        self._connection: Subscription | None = None
        self._pushed_ns: int | None = None
        self._trouble = ""

    # what the host asks

    @property
    def phase(self) -> str:
        """See `Service.phase`."""
        return "running"

    def health(self) -> tuple[bool, str]:
        """Healthy while it pushes, whatever the sources do: their statuses say that."""
        if self._trouble:
            return False, self._trouble
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
        """Restore the shift and the last good values, or choose the shift. Raises DataError, StoreError."""
        self._state = self._file.load() or ExfDurable()
        folder = self.context.settings.factors
        if folder is None:
            self._keepers = tuple(Keeper(name, None) for name in FACTORS)
        else:
            if self._state.folder != folder:
                self._state = ExfDurable()
            self._sources = recorded_sources(Path(folder))
            good = self._state.last_good
            self._keepers = tuple(
                Keeper(name, self._sources[name], Sample(*good[name]) if name in good else None)
                for name in FACTORS
            )
            self._choose_shift()
        self._connection = self.context.grid.grid.on_connection(self._on_connection)

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
        """Stop listening."""
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

    def calendar(self) -> str:
        """One line on which recorded day the clock's today is; empty without recordings."""
        if not self._state.folder or all(keeper.status == NO_SOURCE for keeper in self._keepers):
            return ""
        recorded = iso_from_ns(self.context.clock.now_ns() - self._state.shift_ns)[:10]
        return f"replays {recorded} of {self._state.folder}"
