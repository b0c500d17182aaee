"""One service in one process: its loop on real time, its limits, its end.

Entry point: `run_service`.

1. The loop is `Hosted.step`, then a wait until the next step is due or a listener wakes it: what the
   simulation proves is what runs.
2. With the grid away the process lives, says so on `/healthz` and in its log, and comes back by itself.
3. SIGTERM and SIGINT end it in order: the service keeps what it has to keep, says `stopped`, lets the grid
   go. A second signal ends it at once, whatever hangs.
4. An exception that nobody expects ends the process with 1: the supervisor decides, never this loop.
5. Memory is limited by the kernel (RLIMIT_DATA, so an allocation beyond it fails). Threads and processor time
   are watched and told as alerts: the kernel's own limits of these count a whole user or a whole life.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import DolphinError
from dolphin.grid.payloads import Heartbeat
from dolphin.grid.port import Grid, GridError
from dolphin.grid.topics import HEARTBEAT
from dolphin.grid.typed import TypedGrid
from dolphin.services.claims import check_manager, hold
from dolphin.services.clock import SystemClock
from dolphin.services.home import Home, SystemSettings
from dolphin.services.logs import log_to
from dolphin.services.metrics import Monitor, port_file, port_of, serve_near
from dolphin.services.runtime import MIB, limit_memory
from dolphin.services.service import Alert, Context, Hosted
from dolphin.services.supervisor_conf import socket_path
from dolphin.services.table import ServiceSpec

if TYPE_CHECKING:
    from dolphin.services.alerts import Notifier
    from dolphin.services.metrics import Endpoint

#: Between two tries to reach the grid, seconds: first and longest wait.
BACK_OFF_S: Final = (0.5, 10.0)
#: How long one try takes at most, seconds: so long may a stop have to wait.
CONNECT_S: Final = 5.0
#: How often a process looks at its own threads, memory and processor time, seconds of the machine.
LIMITS_EVERY_S: Final = 10.0
#: How long letting the grid go may take, seconds.
CLOSE_S: Final = 5.0
#: From this part of the memory limit on a person is told.
MEMORY_ALERT: Final = 0.9

_log = logging.getLogger("dolphin.process")

OpenGrid: TypeAlias = Callable[[SystemSettings], Grid]
R = TypeVar("R")


def _open_grid(settings: SystemSettings) -> Grid:
    from dolphin.services.grid_client import open_grid

    return open_grid(settings, dispatcher="thread", connect_timeout_s=CONNECT_S)


def run_service(
    spec: ServiceSpec,
    home: Home,
    *,
    options: Mapping[str, object] | None = None,
    log_level: str = "info",
    open_grid: OpenGrid | None = None,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Run the service until it is told to stop: 0. An exception that nobody expects: 1.

    Parameters
    ----------
    spec : the row of the table. home : where the system lives; it must have settings.
    options : for the service, see `Context.options`; `dry_run` keeps the process apart from the real one.
    log_level : the least level that is logged.
    open_grid, environ : for tests; by default the settings' grid and the process's own environment.
    Raises DolphinError when there is no system here or the service may not run.
    """
    environ = os.environ if environ is None else environ
    options = dict(options or {})
    settings = home.load()
    dry_run = bool(options.get("dry_run"))
    instance = f"{spec.name}-dry-run" if dry_run else spec.name
    if not dry_run:
        check_manager(home, spec.name, socket_path(home), environ)
    held = hold(home, instance)
    try:
        supervised = "SUPERVISOR_ENABLED" in environ
        log_to(
            home.logs, spec.name, name=instance, level=log_level, tell=not supervised,
            as_json=bool(options.get("log_as_json")), environ=environ,
        )  # fmt: skip
        with contextlib.suppress(OSError):
            # What `ps` and `top` show: 15 letters.
            Path("/proc/self/comm").write_text(f"dolphin-{spec.name}"[:15])
        limit_memory(spec.memory_mb)
        with _Stopper() as stopper:
            process = _Process(
                spec, instance, home, settings, options, stopper, open_grid or _open_grid, environ
            )
            return process.run()
    finally:
        held.let_go()


class _Stopper:
    """SIGTERM and SIGINT, answered by a thread of their own: no handler interrupts a loop that holds a lock,
    and a second signal ends a process whose loop hangs.

    The interpreter's C handler writes the signal into a pipe, whichever thread the kernel gives it to: a
    library may have started threads before us that would take a blocked one.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.wake: threading.Event | None = None

    def __enter__(self) -> _Stopper:
        self._pipe, written = os.pipe()
        os.set_blocking(written, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        for number in self._SIGNALS:
            signal.signal(number, lambda number, frame: None)
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """The signals stay with the thread: what is left of the process is its end."""

    def _listen(self) -> None:
        while True:
            number = os.read(self._pipe, 1)[0]
            if number not in self._SIGNALS:
                continue
            if self.asked.is_set():
                _log.warning("a second signal: ends at once")
                os._exit(128 + number)
            _log.info("asked to stop", extra={"signal": signal.Signals(number).name})
            self.asked.set()
            if self.wake is not None:
                self.wake.set()


class _Process:
    """The life of one process, from its settings to its end."""

    def __init__(
        self,
        spec: ServiceSpec,
        instance: str,
        home: Home,
        settings: SystemSettings,
        options: Mapping[str, object],
        stopper: _Stopper,
        open_grid: OpenGrid,
        environ: Mapping[str, str],
    ) -> None:
        self.spec = spec
        self.instance = instance
        self.home = home
        self.settings = settings
        self.options = options
        self.stopper = stopper
        self.open_grid = open_grid
        self.clock = SystemClock(settings.speed, settings.clock_origin_ns)
        self.monitor = Monitor(spec.name, speed=settings.speed)
        self.notifier = _notifier(home, environ, self.clock)
        self.limits = _Limits(spec)

    def run(self) -> int:
        """See `run_service`."""
        _log.info("starts", extra={"pid": os.getpid(), "memory_mb": self.spec.memory_mb})
        asked = port_of(self.spec.name, self.settings.metrics_port) if self.instance == self.spec.name else 0
        endpoint, as_asked = serve_near(self.monitor, asked, port_file(self.home, self.instance))
        if not as_asked:
            _log.warning(f"port {asked} is taken: metrics are on 127.0.0.1:{endpoint.port}")
        grid: Grid | None = None
        try:
            grid = self._reach_grid()
            hosted = None if grid is None else self._begin(grid)
            if hosted is None:
                _log.info("stopped before it began")
                return 0
            self._loop(hosted)
            self._end(hosted)
            return 0
        except DolphinError as error:
            _log.error(str(error), extra={"error": type(error).__name__}, exc_info=True)
            return 1
        except Exception as error:
            _log.error(
                f"internal error, {type(error).__name__}: {error}", exc_info=True,
                extra={"error": type(error).__name__},
            )  # fmt: skip
            return 1
        finally:
            self.notifier.close()
            _close(grid, endpoint)

    def _alert(self, alert: Alert) -> None:
        _log.warning(f"alert: {alert.text}", extra={"kind": alert.kind, "system_time_ns": alert.timestamp_ns})
        with contextlib.suppress(DolphinError, OSError):
            self.notifier.alert(alert)

    def _reach_grid(self) -> Grid | None:
        """The grid, waited for; None when asked to stop before."""
        self.monitor.waits("reaching for the grid")
        return self._patiently("the grid is away", lambda: self.open_grid(self.settings))

    def _begin(self, grid: Grid) -> Hosted | None:
        """The started service; None when asked to stop before."""

        def begin() -> Hosted:
            context = Context(
                name=self.spec.name,
                home=self.home,
                settings=self.settings,
                clock=self.clock,
                grid=TypedGrid(grid),
                alert=self._alert,
                options=self.options,
            )
            self.stopper.wake = context.wake
            hosted = Hosted(self.spec.make(context), context)
            try:
                hosted.start()
            except GridError:
                # The next try is a fresh service: what this one has subscribed to is let go of.
                try:
                    hosted.service.stop()
                except Exception as error:
                    _log.debug(f"half a start could not be stopped: {error}")
                raise
            return hosted

        hosted = self._patiently("the grid is away, so the service cannot start", begin)
        if hosted is not None:
            self.monitor.starts(hosted)
            _log.info("runs", extra={"phase": hosted.service.phase, "period_s": hosted.service.period_s})
        return hosted

    def _patiently(self, what: str, work: Callable[[], R]) -> R | None:
        """What `work` returns, tried until the grid lets it; None when asked to stop before."""
        wait_s, longest_s = BACK_OFF_S
        told = ""
        while not self.stopper.asked.is_set():
            try:
                result = work()
            except GridError as error:
                self.monitor.waits(f"{what}: {error}")
                if str(error) != told:
                    told = str(error)
                    _log.warning(f"{what}: {error}; waits for it")
                self.stopper.asked.wait(wait_s)
                wait_s = min(2.0 * wait_s, longest_s)
            else:
                if told:
                    _log.info("the grid answers")
                return result
        return None

    def _loop(self, hosted: Hosted) -> None:
        context, monitor, stop = hosted.context, self.monitor, self.stopper.asked
        away = ""
        while not stop.is_set():
            due_ns, before, woken = hosted.due_ns, hosted.last_tick_ns, context.wake.is_set()
            began, now_ns = time.perf_counter(), self.clock.now_ns()
            hosted.step()
            if hosted.last_tick_ns is not before:
                late_s = None if woken or now_ns < due_ns else (now_ns - due_ns) / NS_PER_S
                monitor.ticked(time.perf_counter() - began, late_s)
            if hosted.grid_error != away:
                self._tell_grid(hosted.grid_error, away)
                away = hosted.grid_error
            monitor.looks()
            self.limits.look(context)
            self.clock.wait(context.wake, hosted.wait_s())

    def _tell_grid(self, error: str, before: str) -> None:
        if error and not before:
            _log.warning(f"the grid is away: {error}")
        elif not error:
            _log.info("the grid answers again")

    def _end(self, hosted: Hosted) -> None:
        context = hosted.context
        hosted.service.stop()
        self.monitor.ends("stopped")
        if not hosted.silent:
            with contextlib.suppress(GridError):
                beat = Heartbeat.at(context.name, "stopped", self.clock.now_ns())
                context.grid.put(HEARTBEAT, beat, service=context.name)
        _log.info("stopped", extra={"ticks": self.monitor.n_ticks})


class _Limits:
    """What the kernel does not limit a process in: watched, and told once while it lasts."""

    def __init__(self, spec: ServiceSpec) -> None:
        self.spec = spec
        self._looked = time.monotonic()
        self._cpu_s = time.process_time()
        self._told: set[str] = set()

    def look(self, context: Context) -> None:
        """Compare with the table, every LIMITS_EVERY_S seconds of the machine."""
        now = time.monotonic()
        passed_s = now - self._looked
        if passed_s < LIMITS_EVERY_S:
            return
        import psutil

        cpu_s = time.process_time()
        cpu_pct = 100.0 * (cpu_s - self._cpu_s) / passed_s
        self._looked, self._cpu_s = now, cpu_s
        process = psutil.Process()
        threads = process.num_threads()
        rss_mb = process.memory_info().rss / MIB
        spec = self.spec
        self._tell(context, "threads", threads > spec.tasks, f"{threads} threads, {spec.tasks} are allowed")
        self._tell(
            context, "processor", cpu_pct > spec.cpu_pct,
            f"{cpu_pct:.0f} % processor time over {passed_s:.0f} s, {spec.cpu_pct} % are allowed",
        )  # fmt: skip
        self._tell(
            context, "memory", rss_mb > MEMORY_ALERT * spec.memory_mb,
            f"{rss_mb:.0f} MB of memory, {spec.memory_mb} MB are allowed",
        )  # fmt: skip

    def _tell(self, context: Context, what: str, beyond: bool, text: str) -> None:
        if beyond and what not in self._told:
            self._told.add(what)
            context.tell("resources", f"{context.name}: {text}")
        elif not beyond:
            self._told.discard(what)


def _notifier(home: Home, environ: Mapping[str, str], clock: SystemClock) -> Notifier:
    """Where alerts go besides the log."""
    from dolphin.services.alerts import Notifier

    return Notifier(home, environ, clock)


def _close(grid: Grid | None, endpoint: Endpoint) -> None:
    """Let go of both; a grid that does not answer is not waited for."""
    if grid is not None:
        closer = threading.Thread(target=grid.close, name="grid-close", daemon=True)
        closer.start()
        closer.join(CLOSE_S)
        if closer.is_alive():
            _log.warning(f"the grid was not closed after {CLOSE_S:g} s: left as it is")
    endpoint.close()
    logging.shutdown()
