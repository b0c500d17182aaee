"""A grid, a clock and a folder for the risk organs; services are processes that come and go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dolphin.domain.clock import NS_PER_S, day_start_ns, iso_from_ns
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.payloads import (
    AcbBoost,
    EngineSnapshot,
    ExfPayload,
    ForewarnerPayload,
    Heartbeat,
    SafetyPayload,
    ShardFeatures,
)
from dolphin.grid.shards import shard_index
from dolphin.grid.topics import (
    ACB_BOOST,
    ENGINE_SNAPSHOT,
    EXF,
    FOREWARNER,
    HEARTBEAT,
    SAFETY,
    SAFETY_POSTURE,
    SAFETY_REFERENCE,
    SHARD_FEATURES,
)
from dolphin.grid.typed import TypedGrid
from dolphin.services.clock import VirtualClock
from dolphin.services.home import Home, SystemSettings
from dolphin.services.service import Alert, Context, Hosted, Service

NOON = day_start_ns("2026-03-02") + 12 * 3600 * NS_PER_S
S = TypeVar("S", bound=Service)


class RiskSystem:
    """What the organs share, and short words for what others plant."""

    def __init__(self, root: Path, settings: SystemSettings | None = None, now_ns: int = NOON) -> None:
        self.home = Home(root)
        self.settings = settings or SystemSettings()
        self.memory = InProcessGrid("inline")
        self.clock = VirtualClock(now_ns)
        self.door = TypedGrid(self.memory.peer())
        self.alerts: list[Alert] = []
        self.peers: dict[int, InProcessGrid] = {}
        self.hosted: list[Hosted] = []

    def start(self, kind: Callable[[Context], S], name: str = "organ") -> S:
        """A new process; `pass_s` ticks it from now on."""
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

    def peer_of(self, service: Service) -> InProcessGrid:
        return self.peers[id(service)]

    def kill(self, service: Service) -> None:
        """As kill -9 does: nothing is closed by the process, its session runs out."""
        self.hosted = [h for h in self.hosted if h.service is not service]
        self.peers.pop(id(service)).vanish()

    def step(self) -> None:
        for hosted in self.hosted:
            hosted.step()

    def pass_s(self, seconds: float, every_s: float = 1.0, beat: bool = False) -> None:
        """Let time pass and everybody do what is due; with `beat` a scanner lives too."""
        end_ns = self.clock.now_ns() + round(seconds * NS_PER_S)
        while self.clock.now_ns() < end_ns:
            self.clock.move_to(min(end_ns, self.clock.now_ns() + round(every_s * NS_PER_S)))
            if beat:
                self.beat()
            self.step()

    def close(self) -> None:
        for peer in self.peers.values():
            peer.close()
        self.memory.close()

    # what others plant

    def beat(self, service: str = "scanner") -> None:
        self.door.put(HEARTBEAT, Heartbeat.at(service, "running", self.clock.now_ns()), service=service)

    def equity(self, usd: float) -> None:
        self.door.put(
            ENGINE_SNAPSHOT,
            EngineSnapshot(capital=1.0, scan_count=1, detail={"equity": usd}),
            deployment=self.settings.deployment,
        )

    def factors(
        self,
        funding: float | None = None,
        dvol: float | None = None,
        fng: float | None = None,
        taker: float | None = None,
    ) -> None:
        pushed_at = self.clock.now_ns() / NS_PER_S
        payload = ExfPayload(funding_btc=funding, dvol_btc=dvol, fng=fng, taker=taker, pushed_at=pushed_at)
        self.door.put(EXF, payload)

    def verdict(self, gate: str, source: str = "REAL_MODEL") -> None:
        payload = ForewarnerPayload(
            status="GREEN",
            gate=gate,  # type: ignore[arg-type]
            catastrophic_prob=0.05,
            envelope_score=0.5,
            source=source,  # type: ignore[arg-type]
            timestamp=iso_from_ns(self.clock.now_ns()),
        )
        self.door.put(FOREWARNER, payload)

    def book(
        self, symbol: str = "BTCUSDT", depth: float = 1.0, fill: float = 0.5, withdrawal: float = 0.0
    ) -> None:
        payload = ShardFeatures(
            imbalance=0.0,
            imbalance_ma5=0.0,
            imbalance_persistence=0.5,
            depth_1pct_usd=1e6,
            depth_quality=depth,
            fill_probability=fill,
            spread_proxy_bps=1.0,
            depth_asymmetry=0.0,
            withdrawal_velocity=withdrawal,
            regime_signal=0.0,
            timestamp=iso_from_ns(self.clock.now_ns()),
        )
        self.door.put(SHARD_FEATURES, payload, shard=f"{shard_index(symbol):02d}", symbol=symbol)

    # what they publish

    def safety(self) -> SafetyPayload:
        """What stands on the grid, which the map, the reference and the word agree on."""
        found = self.door.get(SAFETY)
        assert found is not None
        assert self.door.get_reference(SAFETY_REFERENCE, SAFETY) == found
        assert self.door.get(SAFETY_POSTURE) == found.posture
        return found

    def boost(self) -> AcbBoost:
        found = self.door.get(ACB_BOOST)
        assert found is not None
        return found

    def told(self, kind: str) -> list[str]:
        return [alert.text for alert in self.alerts if alert.kind == kind]
