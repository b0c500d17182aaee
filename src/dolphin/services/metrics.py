"""What a process tells on loopback: `/metrics` for Prometheus, `/healthz` for whoever asks whether it works.

Entry points: `Monitor` (what the loop reports), `serve` (the endpoint), `port_file`, `read_port`.

1. The endpoint listens on 127.0.0.1 only, and answers from its own threads: a loop that hangs is told, not
   waited for.
2. The service itself is asked for its health and gauges by its own loop after each step, never by the
   endpoint: a service stays single-threaded.
3. Labels are few: `service`, and for counters `event`, at most EVENTS_MAX of them.
"""

from __future__ import annotations

import http.server
import json
import math
import re
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from dolphin.domain.errors import StoreError
from dolphin.services.durable import write_durably
from dolphin.services.home import Home
from dolphin.services.service import Hosted
from dolphin.services.table import ROWS

LOOPBACK: Final = "127.0.0.1"
EVENTS_MAX: Final = 100
#: Beyond its periods, how long a loop may take before it counts as hanging, seconds.
HUNG_GRACE_S: Final = 5.0
HUNG_PERIODS: Final = 3.0
_BUCKETS_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_MIB: Final = 1024 * 1024


def port_file(home: Home, instance: str) -> Path:
    """Where a process writes the port of its endpoint."""
    return home.root / "state" / f"{instance}.port"


def read_port(home: Home, instance: str) -> int | None:
    """The port of a service's endpoint as last written, None when there never was one."""
    try:
        return int(port_file(home, instance).read_text())
    except (OSError, ValueError):
        return None


def port_of(name: str, first: int) -> int:
    """The port that a service asks for: `first` plus its place in the table; 0 asks for any free one."""
    place = next((n for n, spec in enumerate(ROWS) if spec.name == name), None)
    return 0 if first == 0 or place is None else first + place


class Histogram:
    """Seconds, counted into fixed buckets. One writer; a reader may see the last one half counted."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS_S) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration, >= 0 s."""
        place = next((n for n, upper in enumerate(_BUCKETS_S) if seconds <= upper), len(_BUCKETS_S))
        self.counts[place] += 1
        self.total_s += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, how many up to it), as Prometheus wants them."""
        so_far, rows = 0, []
        for upper, count in zip((*map(str, _BUCKETS_S), "+Inf"), self.counts, strict=True):
            so_far += count
            rows.append((upper, float(so_far)))
        return rows


class Monitor:
    """What the loop last reported. Written by the loop's thread, read by the endpoint's."""

    def __init__(self, service: str, *, speed: float = 1.0) -> None:
        self.service = service
        self.speed = speed
        self.duration = Histogram()
        self.lateness = Histogram()
        self.n_ticks = 0
        self._began = time.monotonic()
        self._ticked: float | None = None
        self._period_s = 0.0
        self._phase = "starting"
        self._health: tuple[bool, str] = (False, "starting")
        self._gauges: dict[str, float] = {}
        self._hosted: Hosted | None = None

    def waits(self, why: str) -> None:
        """The loop has not begun, and why."""
        self._health = (False, why)

    def starts(self, hosted: Hosted) -> None:
        """The service is there; its loop begins."""
        self._hosted = hosted
        self._period_s = hosted.service.period_s

    def ticked(self, duration_s: float, lateness_s: float | None) -> None:
        """One tick took so long, and came so late; None for one that was woken early."""
        self._ticked = time.monotonic()
        self.n_ticks += 1
        self.duration.add(duration_s)
        if lateness_s is not None:
            self.lateness.add(lateness_s)

    def looks(self) -> None:
        """Ask the service how it is. In the loop's thread."""
        assert self._hosted is not None
        service = self._hosted.service
        self._phase, self._health = service.phase, service.health()
        self._gauges = {
            name: float(value) for name, value in service.gauges().items() if math.isfinite(value)
        }

    def ends(self, phase: str) -> None:
        """The loop has ended."""
        self._phase, self._health = phase, (False, phase)

    def tick_age_s(self) -> float:
        """Seconds of the machine since the last tick ended, or since the process began."""
        return time.monotonic() - (self._began if self._ticked is None else self._ticked)

    def healthz(self) -> dict[str, Any]:
        """The answer of `/healthz`: {service, ok, why, phase, last_tick_age_s, ticks}."""
        age_s = self.tick_age_s()
        ok, why = self._health
        allowed_s = HUNG_PERIODS * self._period_s / self.speed + HUNG_GRACE_S
        if self._ticked is not None and self._phase != "stopped" and age_s > allowed_s:
            ok, why = False, f"hung: the last tick ended {age_s:.1f} s ago, {allowed_s:.1f} s are allowed"
        return {
            "service": self.service,
            "ok": ok,
            "why": why,
            "phase": self._phase,
            "last_tick_age_s": round(age_s, 3),
            "ticks": self.n_ticks,
        }

    def collect(self) -> Iterable[Any]:
        """All metrics, for prometheus_client's registry."""
        import psutil
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        labels = [self.service]

        def gauge(name: str, text: str, value: float) -> Any:
            family = GaugeMetricFamily(f"dolphin_{name}", text, labels=["service"])
            family.add_metric(labels, value)
            return family

        yield gauge("healthy", "1 when /healthz says 200", float(self.healthz()["ok"]))
        yield gauge("last_tick_age_seconds", "seconds since the last tick ended", self.tick_age_s())
        for name, text, histogram in (
            ("tick_duration_seconds", "how long a tick takes, with its heartbeat", self.duration),
            ("tick_lateness_seconds", "how late a tick begins after it was due", self.lateness),
        ):
            family = HistogramMetricFamily(f"dolphin_{name}", text, labels=["service"])
            family.add_metric(labels, histogram.cumulative(), histogram.total_s)
            yield family
        process = psutil.Process()
        with process.oneshot():
            yield gauge("rss_bytes", "resident memory", float(process.memory_info().rss))
            yield gauge("threads", "threads of the process", float(process.num_threads()))
            times = process.cpu_times()
        used = CounterMetricFamily("dolphin_cpu_seconds", "processor time used", labels=["service"])
        used.add_metric(labels, times.user + times.system)
        yield used
        hosted = self._hosted
        events = CounterMetricFamily("dolphin_events", "what was counted", labels=["service", "event"])
        counts = {} if hosted is None else dict(hosted.context.counts)
        if hosted is not None:
            grid = hosted.context.grid.grid
            yield gauge("grid_connected", "1 while the grid answers", float(grid.connected))
            yield gauge("grid_backlog", "deliveries accepted and not yet made", float(grid.backlog))
            counts.setdefault("grid_errors", 0)
            counts["listener_failures"] = grid.n_failures
            counts["payloads_rejected"] = hosted.context.grid.rejections.total
        for n, event in enumerate(sorted(counts)):
            if n < EVENTS_MAX:
                events.add_metric([self.service, event], float(counts[event]))
        yield events
        for name, value in sorted(self._gauges.items()):
            yield gauge(re.sub(r"\W", "_", name), f"{name} of {self.service}", value)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    monitor: Monitor
    registry: Any

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that goes away in the middle is no event."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    #: A reader that says nothing does not keep a thread.
    timeout = 5

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/healthz":
            told = self.server.monitor.healthz()
            self._answer(200 if told["ok"] else 503, "application/json", json.dumps(told).encode())
        elif path == "/metrics":
            from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

            self._answer(200, CONTENT_TYPE_LATEST, generate_latest(self.server.registry))
        else:
            self._answer(404, "text/plain", b"/metrics and /healthz are here\n")

    def _answer(self, code: int, kind: str, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Being asked is no event."""


class Endpoint:
    """A running endpoint."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self.port = int(server.server_address[1])
        self._thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)


def serve(monitor: Monitor, port: int) -> Endpoint:
    """Answer for `monitor` on 127.0.0.1:`port`, 0 for any free one. Raises OSError when it is taken."""
    try:
        from prometheus_client import CollectorRegistry
    except ImportError as error:
        raise StoreError(
            "metrics: prometheus_client is missing: a service needs the services extra;"
            " `make services` installs it"
        ) from error
    server = _Server((LOOPBACK, port), _Handler)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(monitor)
    server.monitor, server.registry = monitor, registry
    return Endpoint(server)


def serve_near(monitor: Monitor, port: int, file: Path) -> tuple[Endpoint, bool]:
    """The endpoint on `port`, or on a free one when that is taken (then False); `file` gets its port."""
    try:
        endpoint, as_asked = serve(monitor, port), True
    except OSError:
        endpoint, as_asked = serve(monitor, 0), False
    write_durably(file, f"{endpoint.port}\n".encode())
    return endpoint, as_asked
