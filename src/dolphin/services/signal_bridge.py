"""The signal bridge: the trader's last decision that did something, for whoever listens on the grid.

It reads the journal, which is the truth, and is woken by the engine's snapshot. So a signal is told once it
is durable, in order, and told again to a grid that came back empty; the trader spends nothing on it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from dolphin.domain.clock import iso_from_ns
from dolphin.domain.decision import Decision
from dolphin.domain.errors import DataError, StoreError
from dolphin.grid.payloads import EngineSnapshot
from dolphin.grid.port import ConnectionEvent, ConnectionState, GridError, Subscription
from dolphin.grid.topics import ENGINE_SNAPSHOT, SIGNAL
from dolphin.host.finish import JOURNAL_FILE
from dolphin.journal.store import Journal
from dolphin.services.service import Context
from dolphin.services.trader import signal_of


class SignalBridgeService:
    """Publishes `DOLPHIN_SIGNALS[{deployment}_latest]` from the journal."""

    period_s = 5.0

    def __init__(self, context: Context) -> None:
        self.context = context
        self._published: tuple[int, int] | None = None
        self._subscriptions: list[Subscription] = []
        self._listening = False
        self._why = "no decision yet"

    @property
    def phase(self) -> str:
        """See `Service.phase`."""
        return "running"

    def health(self) -> tuple[bool, str]:
        """Waiting for a first decision is healthy."""
        return True, self._why

    def gauges(self) -> dict[str, float]:
        """See `Service.gauges`."""
        return {"last_bar": -1.0 if self._published is None else float(self._published[0])}

    def start(self) -> None:
        """Listen to the trader's snapshots."""
        self._subscriptions.append(self.context.grid.grid.on_connection(self._on_connection))
        with contextlib.suppress(GridError):
            self._listen()

    def _listen(self) -> None:
        def wake(payload: EngineSnapshot, event: object) -> None:
            self.context.wake.set()

        where = {"deployment": self.context.settings.deployment}
        self._subscriptions.append(self.context.grid.listen(ENGINE_SNAPSHOT, wake, initial=True, **where))
        self._listening = True

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event.state is ConnectionState.CONNECTED:
            # What was published may be gone, or may never have arrived.
            self._published = None
            self.context.wake.set()

    def tick(self) -> None:
        """Publish the last decision if it is news."""
        if not self._listening:
            self._listen()
        decision = self._last()
        if decision is None or (decision.bar_idx, decision.timestamp_ns) == self._published:
            return
        payload = signal_of(decision, iso_from_ns(decision.timestamp_ns))
        self.context.grid.put(SIGNAL, payload, deployment=self.context.settings.deployment)
        self._published = (decision.bar_idx, decision.timestamp_ns)
        self._why = f"told bar {decision.bar_idx}: {payload.action} {payload.asset or ''}".rstrip()
        self.context.counts["signals_published"] += 1

    def _last(self) -> Decision | None:
        path: Path = self.context.home.trader / JOURNAL_FILE
        if not path.exists():
            return None
        try:
            with contextlib.closing(Journal.read_only(path)) as journal:
                return journal.last_active()
        except (DataError, StoreError) as error:
            self._why = str(error)
            self.context.counts["journal_unreadable"] += 1
            return None

    def stop(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions.clear()
