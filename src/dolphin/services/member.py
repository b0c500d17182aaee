"""Members of the grid as processes of this machine: Hazelcast's own jar on the machine's Java.

Entry points: `Member`, `start_cluster`, `find_jar`, `find_java`.

Invariants
----------
1. A member listens on loopback only and tells nobody that it runs (phone home is off).
2. A member is the leader of its own session: `kill` ends it with everything it started, and a terminal's
   interrupt does not reach it.
3. Its folder holds its configuration, its log and its pid, and nothing of it lies elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from dolphin.domain.errors import StoreError, UsageError
from dolphin.grid.port import GridError
from dolphin.services.member_config import CP_MEMBERS, member_yaml

VERSION: Final = "5.3.8"
JAR_NAME: Final = f"hazelcast-{VERSION}.jar"
ARTIFACT: Final = f"com.hazelcast:hazelcast:{VERSION}"
JAR_VARIABLE: Final = "DOLPHIN_HAZELCAST_JAR"
START_TIMEOUT_S: Final = 90.0
STOP_TIMEOUT_S: Final = 20.0
#: Between two looks for what no event tells, seconds.
LOOK_S: Final = 0.05
HEAP_MB: Final = 256

#: What Java needs to be told so that the member may look at its own memory (Hazelcast's manual).
_OPENS: Final = (
    "--add-modules", "java.se",
    "--add-exports", "java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens", "java.base/java.lang=ALL-UNNAMED",
    "--add-opens", "java.base/java.nio=ALL-UNNAMED",
    "--add-opens", "java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens", "java.management/sun.management=ALL-UNNAMED",
    "--add-opens", "jdk.management/com.sun.management.internal=ALL-UNNAMED",
)  # fmt: skip


def find_java() -> str:
    """The `java` on PATH. Raises UsageError, with the way out, when there is none."""
    found = shutil.which("java")
    if found is None:
        raise UsageError(
            "a Hazelcast member needs Java 11 or 17 and there is no `java` on PATH; install a headless"
            " OpenJDK 17, or stay on the embedded grid (`dolphin run`), which needs none"
        )
    return found


def find_jar(*, fetch: bool = True) -> Path:
    """The member's jar: where DOLPHIN_HAZELCAST_JAR says, else in the local Maven repository, else fetched.

    Raises UsageError, with the way out, when it is nowhere.
    """
    named = os.environ.get(JAR_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise UsageError(f"{JAR_VARIABLE} names {named}, which is no file; name {JAR_NAME}")
        return Path(named)
    kept = Path.home() / ".m2" / "repository" / "com" / "hazelcast" / "hazelcast" / VERSION / JAR_NAME
    if kept.is_file():
        return kept
    maven = shutil.which("mvn")
    if maven is not None and fetch:
        told = subprocess.run(
            [maven, "-q", "dependency:get", f"-Dartifact={ARTIFACT}", "-Dtransitive=false"],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        if kept.is_file():
            return kept
        lines = (told.stdout + told.stderr).strip().splitlines()
        why = f"Maven could not fetch it ({lines[0] if lines else 'no word why'})"
    else:
        why = "it is not in the local Maven repository and there is no `mvn` on PATH to fetch it"
    raise UsageError(
        f"a Hazelcast member needs {JAR_NAME}: {why}; fetch {ARTIFACT} from Maven Central and name the file"
        f" in {JAR_VARIABLE}"
    )


def free_ports(n: int) -> tuple[int, ...]:
    """`n` ports of loopback that are free now."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)
    finally:
        for each in sockets:
            each.close()


def answers(address: str, timeout_s: float = 1.0) -> bool:
    """Whether something accepts connections at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout_s):
            return True
    except OSError:
        return False


def _command_of(pid: int) -> bytes:
    """The command line of a process. Raises OSError when there is none of that number.

    A process that is just being started shows none for a moment; so does one that is dead and not yet waited
    for, so a few looks are enough.
    """
    path = Path(f"/proc/{pid}/cmdline")
    for _ in range(5):
        command = path.read_bytes()
        if command:
            return command
        _wait_for_end(pid, 0.01)
    return b""


def _wait_for_end(pid: int, timeout_s: float) -> None:
    """Return when the process has ended, also when nobody has waited for it yet, or after `timeout_s`."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:
        # A kernel or a sandbox without them: the caller looks again soon.
        threading.Event().wait(min(timeout_s, LOOK_S))
        return
    try:
        ended = select.poll()
        ended.register(process, select.POLLIN)
        ended.poll(max(0.0, timeout_s) * 1000.0)
    finally:
        os.close(process)


class Member:
    """One member of a cluster on loopback.

    Parameters
    ----------
    folder : Path
        Its configuration, log and pid; made when it starts.
    port : int
        Where it listens.
    members : sequence of "host:port"
        All members of its cluster, itself included. Three or more elect the CP group; fewer run CP unsafe.
    cluster_name : str
        Clients must give the same.
    heap_mb : int
        Java's heap, megabytes, minimum and maximum alike.
    logs : mapping of name (or pattern with *) to capacity
        Bounded logs with another capacity than 1,000 entries.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        members: Sequence[str],
        cluster_name: str = "dolphin",
        heap_mb: int = HEAP_MB,
        logs: Mapping[str, int] | None = None,
    ) -> None:
        self.folder = folder
        self.port = port
        self.members = tuple(members)
        self.cluster_name = cluster_name
        self.heap_mb = heap_mb
        self.logs = dict(logs or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._said_before = 0

    @property
    def address(self) -> str:
        """`host:port` for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def log_file(self) -> Path:
        """What the member says."""
        return self.folder / f"member-{self.port}.log"

    @property
    def pid_file(self) -> Path:
        """The member's process, while it runs."""
        return self.folder / f"member-{self.port}.pid"

    @property
    def config_file(self) -> Path:
        """The member's configuration, as written at its last start."""
        return self.folder / f"member-{self.port}.yaml"

    def command(self) -> list[str]:
        """What starts it. Raises UsageError when Java or the jar is missing."""
        flags = ["-Dhazelcast.initial.min.cluster.size=3"] if len(self.members) >= CP_MEMBERS else []
        return [
            find_java(), f"-Xms{self.heap_mb}m", f"-Xmx{self.heap_mb}m", "-XX:+UseG1GC", *_OPENS,
            f"-Dhazelcast.config={self.config_file}",
            "-Dhazelcast.socket.bind.any=false",
            "-Dhazelcast.phone.home.enabled=false",
            "-Dhazelcast.logging.type=jdk",
            "-Dhazelcast.max.no.heartbeat.seconds=15",
            "-Dhazelcast.heartbeat.interval.seconds=2",
            *flags,
            "-cp", str(find_jar()), "com.hazelcast.core.server.HazelcastMemberStarter",
        ]  # fmt: skip

    def start(self) -> None:
        """Start it and return at once.

        Raises UsageError, StoreError, and GridError when the port is taken.
        """
        if self.running:
            return
        if answers(self.address):
            raise GridError(
                f"{self.address} answers already: another member or program has the port; stop it or name"
                " another port"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.config_file.write_text(
                member_yaml(self.port, self.members, cluster_name=self.cluster_name, logs=self.logs)
            )
            with self.log_file.open("ab") as log:
                self._said_before = log.tell()
                self._process = subprocess.Popen(
                    self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            self.pid_file.write_text(f"{self._process.pid}\n")
        except OSError as error:
            raise StoreError(f"{self.folder}: a member cannot be started there ({error.strerror})") from error

    @property
    def pid(self) -> int | None:
        """The process of the member, also of one that another process of ours has started; None without."""
        if self._process is not None:
            return self._process.pid if self._process.poll() is None else None
        try:
            pid = int(self.pid_file.read_text())
            command = _command_of(pid)
        except (OSError, ValueError):
            return None
        # A number is given again: it is ours only if it was started with our configuration.
        return pid if os.fsencode(self.config_file) in command else None

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.pid is not None

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S, *, cp: bool = False) -> None:
        """Return when it is a member of the cluster and takes clients. Raises GridError when it does not.

        With `cp` also when the CP group has formed, which it does once in a cluster's life, from the members
        that start together; a member that comes back does not become part of it by itself.
        """
        give_up = time.monotonic() + timeout_s
        while time.monotonic() < give_up:
            pid = self.pid
            if pid is None:
                raise GridError(f"the member at {self.address} ended at its start; read {self.log_file}")
            if self._says_started(cp) and answers(self.address, 0.2):
                return
            # Its end is told at once; what it says must be looked for.
            _wait_for_end(pid, LOOK_S)
        raise GridError(f"the member at {self.address} is not ready after {timeout_s:g} s; {self.log_file}")

    def _says_started(self, cp: bool) -> bool:
        try:
            # Only what this process said: the log goes on over restarts.
            text = self.log_file.read_bytes()[self._said_before :]
        except OSError:
            return False
        return b"is STARTED" in text and (not cp or b"CP Subsystem is initialized" in text)

    @property
    def safe(self) -> bool:
        """Whether the cluster says that every entry has its backup: a member may be stopped then."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2.0) as asking:
                asking.settimeout(2.0)
                # Plain sockets: the member closes the connection after its answer.
                asking.sendall(b"GET /hazelcast/health/cluster-safe HTTP/1.1\r\nConnection: close\r\n\r\n")
                return b" 200 " in asking.recv(64)
        except OSError:
            return False

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End it: asked first, killed when it does not within `timeout_s`. Idempotent."""
        self._end(signal.SIGTERM, timeout_s)
        self.kill()

    def kill(self) -> None:
        """kill -9, the whole session. Idempotent; returns when it is gone."""
        self._end(signal.SIGKILL, STOP_TIMEOUT_S)

    def _end(self, number: signal.Signals, timeout_s: float) -> None:
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)
            give_up = time.monotonic() + timeout_s
            while self.running and (left_s := give_up - time.monotonic()) > 0.0:
                _wait_for_end(pid, left_s)
        if not self.running:
            self._process = None
            self.pid_file.unlink(missing_ok=True)


def start_cluster(
    folder: Path,
    n: int,
    *,
    ports: Sequence[int] = (),
    cluster_name: str = "dolphin",
    heap_mb: int = HEAP_MB,
    logs: Mapping[str, int] | None = None,
) -> tuple[Member, ...]:
    """`n` members on loopback, started together and ready; on `ports`, or on free ones.

    Started together because the CP group forms only from members that all come. On an error those that
    started are killed. Raises UsageError, StoreError, GridError.
    """
    chosen = tuple(ports) or free_ports(n)
    if len(chosen) != n:
        raise UsageError(f"{n} members need {n} ports, {len(chosen)} were given")
    addresses = [f"127.0.0.1:{port}" for port in chosen]
    members = tuple(Member(folder, port, addresses, cluster_name, heap_mb, logs) for port in chosen)
    try:
        for member in members:
            member.start()
        for member in members:
            member.wait_until_ready(cp=n >= CP_MEMBERS)
    except BaseException:
        for member in members:
            member.kill()
        raise
    return members
