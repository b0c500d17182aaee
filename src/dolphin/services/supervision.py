"""The process manager of a home, supervisord, through its own API.

Entry points: `Supervisor`, `ServiceState`, `SupervisionError`.

1. One manager a home: it holds a lock on `supervisor/claim` for its life, taken before it starts and handed
   to it as an open file. A second one is refused, however it is started.
2. Every call has a deadline, and whatever goes wrong with it is a SupervisionError of one line.
3. Starting what runs and stopping what is stopped are no errors.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dolphin.domain.errors import DolphinError, UsageError, nearest
from dolphin.services.claims import (
    ClaimError,
    claim_file,
    holder,
    is_held,
    manager_of,
    take_claim,
    unit_claims,
    unit_folders,
)
from dolphin.services.home import Home
from dolphin.services.supervisor_conf import (
    STOP_WAIT_S,
    launcher,
    socket_path,
    write_configuration,
)
from dolphin.services.table import ServiceSpec, table_in

#: Seconds for a call that only asks.
CALL_S: Final = 5.0
#: Seconds for supervisord to answer after its start.
START_S: Final = 15.0
_LOOK_S: Final = 0.05

RUNNING: Final = "RUNNING"
#: States in which a service has no process and none is on its way.
DOWN: Final = frozenset({"STOPPED", "EXITED", "FATAL"})

_ALREADY_STARTED: Final = 60
_NOT_RUNNING: Final = 70
_BAD_NAME: Final = 10
_SHUTTING_DOWN: Final = 6
_FAULTS: Final = {
    _SHUTTING_DOWN: "the manager is stopping",
    20: "its command cannot be found",
    40: "it ended before it was up",
    50: "its process cannot be started",
    30: "it failed",
}


class SupervisionError(DolphinError):
    """The process manager is not there, or refused."""


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What supervisord says of one service.

    state is STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL or UNKNOWN; pid is 0 and uptime_s
    0.0 without a process; exit_status is the last one (of a process that was killed: -1); description is
    supervisord's own line.
    """

    name: str
    group: str
    state: str
    pid: int
    uptime_s: float
    exit_status: int
    description: str

    @property
    def up(self) -> bool:
        """It runs, for longer than its start seconds."""
        return self.state == RUNNING

    @property
    def down(self) -> bool:
        """It has no process, and nobody is about to start one."""
        return self.state in DOWN


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(self.timeout)
            made.connect(str(self._path))
        except BaseException:
            made.close()
            raise
        self.sock = made


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_s = timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        # Kept where `close` looks for it: a call leaves no socket behind.
        made = _Connection(self._path, self._timeout_s)
        self._connection = host, made
        return made


class Supervisor:
    """The manager of one home.

    Parameters
    ----------
    home : where it lives.
    services, launch : the table and what starts a service, for tests; by default the rows of its settings.
    units : folders of systemd units that may claim our services.
    """

    def __init__(
        self,
        home: Home,
        *,
        services: Sequence[ServiceSpec] | None = None,
        launch: Sequence[str] = (),
        units: Sequence[Path] | None = None,
    ) -> None:
        self.home = Home(home.root.absolute())
        self.socket = socket_path(self.home)
        self._table = table_in(self.home) if services is None else tuple(services)
        self._groups = {spec.name: spec.group for spec in self._table}
        self._launch = tuple(launch) or launcher()
        self._units = units
        self._process: subprocess.Popen[bytes] | None = None

    # --- the manager itself

    def running(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self._call("getState")["statename"] in ("RUNNING", "RESTARTING"))
        except SupervisionError:
            return False

    @property
    def pid(self) -> int | None:
        """Its process as its claim tells, None when there is none."""
        if not is_held(claim_file(self.home)):
            return None
        pid = holder(claim_file(self.home)).get("pid")
        return pid if isinstance(pid, int) else None

    def check_claims(self, environ: Mapping[str, str] | None = None) -> None:
        """Refuse when another manager claims our services. Raises ClaimError naming it."""
        folders = unit_folders() if self._units is None else self._units
        for claim in unit_claims(self.home, folders):
            raise ClaimError(
                f"{claim}; only supervisord may run services: disable that unit, `dolphin up` starts what it"
                " started"
            )
        kind, who = manager_of(os.environ if environ is None else environ)
        if kind == "supervisord":
            raise ClaimError(
                f"this command was started by another process manager, the supervisord at {who}; one manager"
                " is enough: take it out of the other's configuration"
            )

    def start(self, timeout_s: float = START_S) -> bool:
        """Start it unless it runs; True when it was started here.

        What autostarts begins to start. Raises SupervisionError, ClaimError, UsageError, StoreError.
        """
        self.check_claims()
        if self.running():
            return False
        if importlib.util.find_spec("supervisor") is None:
            raise UsageError(
                "supervisord is not installed: services need the services extra; `make services` installs it"
            )
        claim = take_claim(self.home)
        try:
            configuration = write_configuration(self.home, self._table, launch=self._launch)
            self.socket.unlink(missing_ok=True)
            told = (self.home.logs / "supervisord.out").open("wb")
            with told:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(configuration)],
                    stdin=subprocess.DEVNULL,
                    stdout=told,
                    stderr=told,
                    # The lock lives as long as an open file of it: supervisord has the only one from now on.
                    pass_fds=(claim.descriptor,),
                    start_new_session=True,
                    cwd=self.home.root,
                )
            claim.tell(
                pid=self._process.pid,
                manager="supervisord",
                socket=str(self.socket),
                home=str(self.home.root),
            )
        except OSError as error:
            raise SupervisionError(
                f"{self.home.supervisor}: supervisord cannot be started ({error.strerror}); check disk and"
                " permissions"
            ) from error
        finally:
            claim.let_go()
        if not self._until(self.running, timeout_s, lambda: self._process_ended()):
            raise SupervisionError(
                f"supervisord does not answer on {self.socket}: {self._last_words()}; read"
                f" {self.home.logs / 'supervisord.log'}"
            )
        return True

    def _process_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self.home.logs / "supervisord.out").read_text(errors="replace").strip().splitlines()
            if lines:
                return lines[-1][:200]
        return "it said nothing"

    def shutdown(self, timeout_s: float = 2 * STOP_WAIT_S + 10.0) -> bool:
        """Stop every service and then the manager; True when it ran.

        Raises SupervisionError when it does not end in time.
        """
        if not self.running():
            return False
        self._call("shutdown")
        if not self._until(lambda: not is_held(claim_file(self.home)), timeout_s):
            raise SupervisionError(
                f"supervisord (pid {self.pid}) did not end within {timeout_s:g} s; read"
                f" {self.home.logs / 'supervisord.log'}"
            )
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CALL_S)
        return True

    # --- its services

    def services(self) -> list[ServiceState]:
        """All services, in the order of the table. Raises SupervisionError."""
        found = {info["name"]: info for info in self._call("getAllProcessInfo")}
        order = [name for name in self._groups if name in found]
        return [_state(found[name]) for name in (*order, *sorted(found.keys() - order))]

    def service(self, name: str) -> ServiceState:
        """One service. Raises SupervisionError."""
        return _state(self._call("getProcessInfo", self._qualified(name)))

    def start_service(self, name: str, timeout_s: float = CALL_S) -> bool:
        """Ask for its start without waiting for it; True when it was not on its way already.

        Raises SupervisionError when the manager cannot start a process for it.
        """
        return self._changed("startProcess", _ALREADY_STARTED, name, timeout_s)

    def stop_service(self, name: str, timeout_s: float = STOP_WAIT_S + 10.0, *, wait: bool = True) -> bool:
        """Stop it with its whole process group, killed after 30 s; True when it was not stopped already.

        Returns when it is down, unless `wait` is False. Raises SupervisionError.
        """
        changed = self._changed("stopProcess", _NOT_RUNNING, name, CALL_S)
        if wait and not self._until(lambda: self.service(name).down, timeout_s):
            raise SupervisionError(f"{name} is not down after {timeout_s:g} s; `dolphin logs {name}`")
        return changed

    def signal_service(self, name: str, signal_name: str) -> None:
        """Send a signal (`USR1`, `STOP`, ...) to its process. Raises SupervisionError."""
        self._call("signalProcess", self._qualified(name), signal_name)

    def wait_for(
        self,
        names: Collection[str],
        timeout_s: float,
        *,
        on_change: Callable[[ServiceState], None] = lambda state: None,
    ) -> list[ServiceState]:
        """Wait until each of `names` runs or is given up; their states then. Raises SupervisionError."""
        seen: dict[str, str] = {}
        states: list[ServiceState] = []

        def settled() -> bool:
            states[:] = [state for state in self.services() if state.name in names]
            for state in states:
                if seen.get(state.name) != state.state:
                    seen[state.name] = state.state
                    on_change(state)
            return all(state.up or state.state in ("FATAL", "EXITED") for state in states)

        self._until(settled, timeout_s)
        return states

    # --- calls

    def _qualified(self, name: str) -> str:
        if name not in self._groups:
            raise SupervisionError(f"{name!r} is no service.{nearest(name, self._groups)}")
        return f"{self._groups[name]}:{name}"

    def _changed(self, method: str, no_change: int, name: str, timeout_s: float) -> bool:
        try:
            self._call(method, self._qualified(name), False, timeout_s=timeout_s)
        except _Fault as fault:
            if fault.code == no_change:
                return False
            raise
        return True

    def _call(self, method: str, *arguments: Any, timeout_s: float = CALL_S) -> Any:
        transport = _Transport(self.socket, timeout_s)
        try:
            with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            subject = f"{arguments[0]}: " if arguments else ""
            if fault.faultCode == _BAD_NAME:
                why = "the manager does not know it; `dolphin down` and `dolphin up` make it read the table"
            else:
                why = _FAULTS.get(fault.faultCode, fault.faultString)
            kind = StoppingError if fault.faultCode == _SHUTTING_DOWN else _Fault
            raise kind(fault.faultCode, f"supervisord refused {method}: {subject}{why}") from fault
        except TimeoutError as error:
            raise SupervisionError(f"supervisord did not answer {method} within {timeout_s:g} s") from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise SupervisionError(
                f"no process manager answers on {self.socket}; `dolphin up --home {self.home.root}` starts it"
            ) from error
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, ValueError) as error:
            raise SupervisionError(
                f"supervisord on {self.socket}: {type(error).__name__}: {error}"
            ) from error

    def _until(
        self, reached: Callable[[], bool], timeout_s: float, hopeless: Callable[[], bool] = lambda: False
    ) -> bool:
        give_up = time.monotonic() + timeout_s
        pause = threading.Event()
        while not reached():
            if time.monotonic() >= give_up or hopeless():
                return reached()
            pause.wait(_LOOK_S)
        return True


class _Fault(SupervisionError):  # noqa: N818 - supervisord's own word
    """A refusal with supervisord's own number."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class StoppingError(_Fault):
    """The manager is asked to end, and ends every service: an order, and no failure."""


def _state(info: Mapping[str, Any]) -> ServiceState:
    alive = int(info["pid"]) != 0
    return ServiceState(
        name=str(info["name"]),
        group=str(info["group"]),
        state=str(info["statename"]),
        pid=int(info["pid"]),
        uptime_s=float(max(0, info["now"] - info["start"])) if alive else 0.0,
        exit_status=int(info["exitstatus"]),
        description=str(info["description"]),
    )
