"""A home, a grid and a clock for the scan path; services are processes that come and go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dolphin.domain.clock import NS_PER_S, day_start_ns
from dolphin.domain.scan import Scan
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.payloads import ScanPayload
from dolphin.grid.topics import SCAN, SCAN_LOG, SCAN_LOG_CAPACITY
from dolphin.grid.typed import TypedGrid
from dolphin.market.scan_store import ScanStore
from dolphin.services.clock import VirtualClock
from dolphin.services.home import Home, SystemSettings
from dolphin.services.scan_bridge import ScanBridgeService
from dolphin.services.scanner import ScannerService
from dolphin.services.service import Alert, Context, Hosted, Service

T0 = day_start_ns("2026-01-05") + 12 * 3600 * NS_PER_S
STEP_NS = 5 * NS_PER_S
S = TypeVar("S", bound=Service)


def unwatched(context: Context) -> ScanBridgeService:
    """A bridge that hears of no file: its sweep alone finds them."""
    return ScanBridgeService(context, watch=lambda folder, on_file: lambda: None)


class ScanSystem:
    """What scanner, bridge, oracle and `verify` share."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.home = Home(root)
        self.settings = SystemSettings(**{"assets": 4, "market_origin_ns": T0, **settings})
        self.memory = InProcessGrid("inline")
        self.clock = VirtualClock(T0)
        self.door = TypedGrid(self.memory.peer())
        self.alerts: list[Alert] = []
        self.peers: dict[int, InProcessGrid] = {}
        self.hosted: list[Hosted] = []

    @property
    def store(self) -> ScanStore:
        return ScanStore(self.home.market)

    def start(self, kind: Callable[[Context], S], name: str) -> S:
        peer = self.memory.peer()
        context = Context(
            name, self.home, self.settings, self.clock, TypedGrid(peer), alert=self.alerts.append
        )
        service = kind(context)
        hosted = Hosted(service, context)
        hosted.start()
        self.hosted.append(hosted)
        self.peers[id(service)] = peer
        return service

    def scanner(self) -> ScannerService:
        return self.start(ScannerService, "scanner")

    def bridge(self) -> ScanBridgeService:
        return self.start(unwatched, "scan_bridge")

    def hosted_of(self, service: Service) -> Hosted:
        return next(h for h in self.hosted if h.service is service)

    def peer_of(self, service: Service) -> InProcessGrid:
        return self.peers[id(service)]

    def kill(self, service: Service) -> None:
        """As kill -9 does: nothing is closed by the process, the kernel lets its file locks go."""
        self.hosted = [h for h in self.hosted if h.service is not service]
        self.peers.pop(id(service)).vanish()
        pipeline = getattr(service, "_pipeline", None)
        if pipeline is not None:
            pipeline.close()

    def step(self) -> None:
        for hosted in self.hosted:
            while True:
                hosted.step()
                if not hosted.context.wake.is_set():
                    break

    def pass_s(self, seconds: float, every_s: float = 1.0) -> None:
        """Let time pass and everybody do what is due."""
        end_ns = self.clock.now_ns() + round(seconds * NS_PER_S)
        while self.clock.now_ns() < end_ns:
            self.clock.move_to(min(end_ns, self.clock.now_ns() + round(every_s * NS_PER_S)))
            self.step()

    def close(self) -> None:
        for hosted in self.hosted:
            hosted.service.stop()
        for peer in self.peers.values():
            peer.close()
        self.memory.close()

    # what they publish

    def stored(self) -> list[Scan]:
        return list(self.store.scans())

    def log(self) -> list[ScanPayload]:
        tail = self.memory.log(SCAN_LOG, SCAN_LOG_CAPACITY).head()
        return [payload for _, payload in self.door.read_scans(tail, SCAN_LOG_CAPACITY).scans]

    def numbers(self) -> list[int]:
        return [payload.scan_number for payload in self.log()]

    def latest(self) -> ScanPayload:
        found = self.door.get(SCAN)
        assert found is not None
        return found

    def told(self, kind: str) -> list[str]:
        return [alert.text for alert in self.alerts if alert.kind == kind]


class SteppingClock:
    """The system's clock for whoever waits on it: waiting lets the whole system go on."""

    def __init__(self, system: ScanSystem) -> None:
        self._system = system

    def now_ns(self) -> int:
        return self._system.clock.now_ns()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self._system.pass_s(seconds, every_s=seconds)
        return event.is_set()
